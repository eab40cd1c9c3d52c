"""Notice writes of other processes to a store, without opening it for writing."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["StoreWatcher"]


class StoreWatcher:
    """Compares SQLite's `data_version` of a file, which every commit of another process changes.

    A missing or replaced file is no error: it counts as a change once it can be read.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        # The identity of the open file: SQLite keeps reading a file that was replaced.
        self._file: tuple[int, int] | None = None
        self._seen: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def changed(self) -> bool:
        """Return whether the file changed since the last call. The first call returns True."""
        version = self._version()
        if version is None:
            # What happens meanwhile must count as a change.
            self._seen = None
            return False
        seen = (self._file, version)
        is_changed = seen != self._seen
        self._seen = seen
        return is_changed

    def _version(self) -> int | None:
        """Return the version of the file; None if it cannot be read now."""
        try:
            info = Path(self._path).stat()
            file = (info.st_dev, info.st_ino)
            if self._connection is None or file != self._file:
                self.close()
                uri = f"{Path(self._path).absolute().as_uri()}?mode=ro"
                self._connection = sqlite3.connect(uri, isolation_level=None, uri=True)
                self._file = file
                # `data_version` counts per connection.
                self._seen = None
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except (OSError, sqlite3.Error):
            self.close()
            return None

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
