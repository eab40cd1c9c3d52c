"""The lock that decides which process is the leader of a store."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from hubhooks import _fork
from hubhooks._logging import get_logger
from hubhooks._store.file_systems import create_file, resolve_path
from hubhooks._store.forked import leave_to_parent, refuse_after_fork
from hubhooks._store.sqlite_errors import is_busy, opening_error, store_error
from hubhooks.errors import ConfigError, StoreError

__all__ = ["LeaderLock"]

logger = get_logger()


class LeaderLock:
    """The leader lock of a store. The process that holds it runs the handlers.

    The lock is an exclusive transaction on a file beside the store. The kernel releases it when the
    process ends, also after a crash.

    Args:
        path: the file of the store.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = f"{resolve_path(path)}.runner"
        self._connection: sqlite3.Connection | None = None
        self._file = ""

    @property
    def file(self) -> str:
        """The device and inode of the file that is locked."""
        return self._file

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._connection is not None

    def is_taken(self) -> bool:
        """Return whether any process holds the lock. It creates no file and locks nothing.

        Raises:
            StoreError: the file cannot be read.
        """
        if not Path(self._path).exists():
            return False
        uri = f"{Path(self._path).as_uri()}?mode=ro"
        try:
            connection = sqlite3.connect(uri, timeout=0, uri=True)
            try:
                connection.execute("SELECT 1 FROM sqlite_master")
            finally:
                connection.close()
        except sqlite3.Error as error:
            if is_busy(error):
                return True
            raise store_error(self._path, error) from error
        return False

    def try_acquire(self) -> bool:
        """Acquire the lock if it is free, without waiting; return whether it is held now.

        Raises:
            ConfigError: the file beside the store cannot be used.
            StoreError: the file cannot be used now.
        """
        if self._connection is not None:
            return True
        connection = self._connect()
        if connection is not None:
            self._connection, self._file = connection, self._current_file()
            _fork.register(self)
        return connection is not None

    def keep(self) -> bool:
        """Lock the new file at the path if the locked file was removed or replaced.

        Otherwise another process could lock the new file.

        Returns:
            True if the lock is now on a new file.
        """
        if self._connection is None or self._file == self._current_file():
            return False
        with suppress(ConfigError, StoreError):
            # If another process holds the new file just now, the next call tries again.
            if (connection := self._connect()) is not None:
                self._connection.close()
                self._connection, self._file = connection, self._current_file()
                logger.error("`%s` was removed or replaced; locked it again", self._path)
                return True
        return False

    def _current_file(self) -> str:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - called several times a second
        except OSError:
            return ""
        return f"{found.st_dev}:{found.st_ino}"

    def _connect(self) -> sqlite3.Connection | None:
        """Lock the file at the path; None if another process holds the lock."""
        refuse_after_fork(self._path)
        create_file(self._path)
        connection = None
        try:
            connection = sqlite3.connect(
                self._path, timeout=0, isolation_level=None, check_same_thread=False
            )
            # Nothing is ever written, so no journal file is needed.
            connection.execute("PRAGMA journal_mode = MEMORY")
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            if is_busy(error):
                return None
            raise opening_error(self._path, error) from error
        return connection

    def switch_off(self) -> None:
        """In a forked child, leave the lock to the parent."""
        if self._connection is not None:
            leave_to_parent(self._path, self._connection)
            self._connection = None

    def release(self) -> None:
        """Let another process become the leader."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
