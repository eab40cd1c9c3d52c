"""Find the deliveries of a store that changed since the last look."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from hubhooks._store import schema
from hubhooks._store.base import Changes
from hubhooks._store.rows import read_by_seq

if TYPE_CHECKING:
    import sqlite3
    from typing import TypeAlias

    from hubhooks._store.connection import Database

    # The rows of some tables, by the number of a delivery.
    _Rows: TypeAlias = dict[int, list[tuple[object, ...]]]

__all__ = ["StoreWatch"]

# So many of the newest deliveries are compared, and so many unfinished runs at each end.
_RECENT = 500
_OPEN_RUNS = 1000
# So many changed deliveries are listed at most.
_MOST_CHANGES = 500
# Two writes within this time may leave the same time on a file.
_TIME_STEP_NS = 100_000_000

_NOTHING = Changes([], has_new_counts=False)


class StoreWatch:
    """Looks at a store again and again, in any thread; not in two threads at once.

    A look at an unchanged file reads only the times of its files. Other looks read the newest
    deliveries and the unfinished runs, never the whole list. A change of an older finished delivery
    is not seen, such as a dropped body.

    Args:
        database: the store. Each look opens a connection of its own, so a replaced file is
            followed.
    """

    def __init__(self, database: Database) -> None:
        self.last_seq = 0
        """The number of the newest delivery at the last look. A Replay is a new delivery."""
        self._db = database
        self._version: object = None
        self._counts_version: object = None
        self._recent: _Rows = {}
        self._open: _Rows = {}

    def start(self, after: int | None = None, again: int = 100) -> Changes:
        """Look for the first time.

        Args:
            after: the `last_seq` of an earlier watch, or None to list nothing.
            again: the number of newest deliveries that are listed again. They may have changed
                since the earlier watch.

        Returns:
            the deliveries since then.
        """
        self._version = None
        with self._db.open_connection() as connection:
            self._read(connection)
            if after is None:
                return _NOTHING
            if after > self.last_seq:
                return Changes([], has_new_counts=True, is_complete=False)
            missed = sum(seq > after for seq in self._recent)
            if missed == _RECENT:
                return Changes([], has_new_counts=True, is_complete=False)
            # The newest are first.
            chosen = [*self._recent][: max(again, missed)]
            return Changes(read_by_seq(connection.execute, chosen), has_new_counts=True)

    def look(self) -> Changes:
        """Return what changed since the last look.

        Raises:
            StoreError: the store cannot be read now.
        """
        began = time.time_ns()
        version = self._find_version()
        if version == self._version:
            return _NOTHING
        with self._db.open_connection() as connection:
            last_seq, counts = self.last_seq, self._counts_version
            recent, unfinished = self._recent, self._open
            self._read(connection)
            changed = {seq for seq in self._recent if seq > last_seq}
            # A vanished row of an unfinished run means that the run ended.
            changed.update(
                seq
                for seq in unfinished.keys() | self._open.keys()
                if unfinished.get(seq) != self._open.get(seq)
            )
            changed.update(
                seq for seq, rows in self._recent.items() if recent.get(seq, rows) != rows
            )
            is_new = self.last_seq < last_seq or self.last_seq - last_seq > _RECENT
            if is_new or len(changed) > _MOST_CHANGES:
                result = Changes([], has_new_counts=True, is_complete=False)
            else:
                found = read_by_seq(connection.execute, sorted(changed)) if changed else []
                result = Changes(found, bool(found) or counts != self._counts_version)
        # A later write can leave the same time as a write just before this look.
        is_settled = isinstance(version, int) or all(
            times is None or times[2] < began - _TIME_STEP_NS for times in version
        )
        self._version = version if is_settled else None
        return result

    def _find_version(self) -> int | tuple[tuple[int, int, int] | None, ...]:
        """Return a value that differs after each write."""
        if not self._db.path:
            with self._db.open_connection() as connection:
                return connection.total_changes
        return tuple(_file_times(f"{self._db.path}{suffix}") for suffix in ("", "-wal"))

    def _read(self, connection: sqlite3.Connection) -> None:
        execute = connection.execute
        self._counts_version = counts = execute(schema.SELECT_COUNTS_VERSION).fetchone()
        self.last_seq = counts[0]
        self._recent = {
            seq: [tuple(row)] for seq, *row in execute(schema.SELECT_RECENT_STATES, (_RECENT,))
        }
        self._open = {}
        for seq, *row in execute(schema.SELECT_OPEN_RUNS, (_OPEN_RUNS,)):
            self._open.setdefault(seq, []).append(tuple(row))


def _file_times(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - as fast as possible
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
