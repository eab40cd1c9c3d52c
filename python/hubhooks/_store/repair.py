"""Detects files of a store that were removed, replaced or damaged, and repairs the store."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hubhooks._logging import get_logger
from hubhooks._process import current_process
from hubhooks._store.files import (
    LeaderFile,
    StoreFiles,
    is_sound,
    is_sound_with_wal,
    is_wal_header,
    move_aside,
    replace_file,
)
from hubhooks._store.sqlite_errors import damaged_message, is_damage, replaced_message
from hubhooks.errors import BusyError, StoreError

if TYPE_CHECKING:
    from collections.abc import Generator

    from hubhooks._store.leader import LeaderLock

__all__ = ["FileGuard"]

logger = get_logger()

# A program that overwrites the file empties it first, or renames it for a moment.
_EMPTY_SECONDS = 1.0
# A file that was not written for so long is complete.
_SETTLED_SECONDS = 0.5


class FileGuard:
    """Compares the files at a path with those that a connection has open, and repairs them.

    Somebody may remove, replace or shorten a file. A program that opens and closes the file in this
    process, for example to upload its folder, drops all locks that SQLite holds on it for this
    process: POSIX says so. Another process that ends is then the last one for SQLite, and removes
    the `-wal` file.

    Its methods need the lock of the database around them, except for `refuse_foreign_files`.

    Args:
        path: the database.
        lock: the leader lock, without which no file is renamed; None if no other process uses them.
        progress: a query for a number that only grows.
    """

    def __init__(self, path: str, lock: LeaderLock | None, progress: str) -> None:
        self.path = path
        self.files = StoreFiles.at(path)
        """The files at the last comparison."""
        self.is_copy = False
        """Whether the last repair put a copy with the same content at the path."""
        self.is_unchecked = False
        """Whether the content must be checked at the next opening."""
        self.is_checkpointing = False
        """Whether this process writes into the database itself now."""
        self._lock = lock
        # The query, and its result in the database without its `-wal` file.
        self._progress_query = progress
        self._progress = 0
        # A descriptor of the `-wal` file.
        self._wal: int | None = None
        # Whether SQLite found damage, and whether the `-wal` file lost content.
        self._is_suspect = False
        self._is_wal_lost = False
        # When the database became empty, and the files that cannot be repaired.
        self._empty_since = 0.0
        self._damaged: StoreFiles | None = None
        # Why the earlier leader ended, if it did not close the store.
        self._explanation = ""

    # ---- opening and closing -------------------------------------------------------------------

    def before_open(self) -> None:
        """Rename a `-wal` file that was written for another database.

        The leader wrote down which files belong together.

        Raises:
            BusyError: another process is the leader, and has not repaired the files yet.
        """
        known = LeaderFile.read(self.path)
        if known is None:
            return
        now = StoreFiles.at(self.path)
        if known.is_of_living_process():
            if not known.files.are_same_files(now):
                raise BusyError(replaced_message(self.path))
            return
        self._explanation = self._explanation or known.explain_end(now)
        files = known.files
        # A process that closes the store writes to the database last.
        is_written = now.db != files.db or (not known.is_closed and now.db_time != files.db_time)
        if files.is_wal_foreign(now) or (is_written and not self._fits_wal(known, now)):
            with self._repair_lock():
                self._move_aside("-wal", "-shm")
        if is_written or files.db_size > now.db_size:
            self.is_unchecked = True

    def _fits_wal(self, known: LeaderFile, now: StoreFiles) -> bool:
        """Return whether the `-wal` file may be applied to the database at the path.

        SQLite writes into the database when it closes it, so this tries copies.
        """
        if now.wal_size == 0:
            return True
        try:
            if self._progress_in_file() < known.progress:
                return False
        except sqlite3.Error:
            return True  # the check of its content decides
        return is_sound_with_wal(self.path)

    def after_open(self) -> None:
        """Remember the files of a new connection."""
        self.files = StoreFiles.at(self.path)
        self._progress = 0
        with suppress(sqlite3.Error):  # all of a new store may be in the `-wal` file
            self._progress = self._progress_in_file()
        # SQLite holds no locks on the `-wal` file, so closing a descriptor of it drops none.
        if hasattr(os, "pread"):
            with suppress(OSError):
                self._wal = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        self._is_suspect = self._is_wal_lost = self.is_unchecked = False
        self.note_files()

    def after_close(self) -> None:
        """Close the descriptor of the `-wal` file."""
        if self._wal is not None:
            os.close(self._wal)
            self._wal = None

    # ---- the leader's file ---------------------------------------------------------------------

    def note_files(self) -> None:
        """Write down which files belong together, as the leader."""
        if self._lock is not None and self._lock.is_held:
            if self._explanation:
                logger.warning("%s", self._explanation)
                self._explanation = ""
            known = LeaderFile.of_this_process(self.path, self.files, self._progress)
            known.write(self.path)

    def keep_noted(self) -> None:
        """Write the leader's file again if somebody removed it."""
        if not Path(LeaderFile.path_of(self.path)).exists():
            self.note_files()

    def note_end(self) -> None:
        """Write down that this process is no longer the leader."""
        known = LeaderFile.read(self.path)
        if known is not None and known.process == current_process():
            known._replace(is_closed=True).write(self.path)

    # ---- comparing -----------------------------------------------------------------------------

    def check_files(self, connection: sqlite3.Connection, *, has_readers: bool) -> bool:
        """Compare the files, and repair the store if they changed.

        Args:
            connection: the one that has the files open.
            has_readers: whether this process has other connections to them.

        Returns:
            whether the connection can stay open. If not, the files at the path can be opened.

        Raises:
            BusyError: another process has to repair them.
            StoreError: they cannot be repaired now.
        """
        now = StoreFiles.at(self.path)
        self._look_for_older_copy(now)
        if self.files.are_same(now) and not (self._is_suspect or self._is_wal_lost):
            self.files = now
            return True
        try:
            if self._is_healed(connection, now):
                return True
            self.is_copy = False
            self._repair(connection, now, has_readers=has_readers)
            self.is_unchecked = not self.is_copy
        except (OSError, sqlite3.Error) as error:
            msg = f"the delivery store `{self.path}` cannot be repaired: {error}"
            raise StoreError(msg) from error
        return False

    def check_written(self) -> None:
        """Check that the last commit is in the files at the path.

        Raises:
            BusyError: the last commit may be missing there.
        """
        now = StoreFiles.at(self.path)
        if not self.files.are_same(now):
            raise BusyError(replaced_message(self.path))
        if now.wal_size and self._wal is not None and not is_wal_header(os.pread(self._wal, 4, 0)):
            # SQLite appends to the emptied file, and cannot read it back.
            self._is_wal_lost = True
            raise BusyError(replaced_message(self.path))
        # Keep the old time: the next comparison must notice a write of another program.
        self.files = now._replace(db_time=self.files.db_time)

    def refuse_foreign_files(self, *, is_open: bool) -> None:
        """Raise `BusyError` if SQLite would mix files that do not belong together."""
        now = StoreFiles.at(self.path)
        if is_open:
            is_foreign = not self.files.are_same_files(now)
        else:
            known = LeaderFile.read(self.path)
            is_foreign = known is not None and known.files.is_wal_foreign(now)
        if is_foreign:
            raise BusyError(replaced_message(self.path))

    def note_error(self, error: sqlite3.Error) -> None:
        """Check the files before the next use if SQLite found damage."""
        self._is_suspect = self._is_suspect or is_damage(error)

    def may_checkpoint(self) -> bool:
        """Return whether a checkpoint is safe; from any thread.

        It would mix the `-wal` file into an older copy that was just written over the database. The
        next write detects that copy. Only the leader looks for one, so only the leader checkpoints.
        """
        now = StoreFiles.at(self.path)
        is_leader = self._lock is None or self._lock.is_held
        is_unchanged = now.db_time == self.files.db_time and self.files.are_same(now)
        return is_leader and is_unchanged and not (self._is_suspect or self._is_wal_lost)

    def note_checkpoint(self) -> None:
        """Remember that this process wrote into the database itself."""
        now = StoreFiles.at(self.path)
        if self.files.are_same(now):
            self._progress = max(self._progress, self._progress_in_file())
            self.files = now
            self.note_files()

    def _look_for_older_copy(self, now: StoreFiles) -> None:
        """As the leader, detect that an older copy was written over the database.

        Applying the `-wal` file would damage the copy.
        """
        is_leader = self._lock is None or self._lock.is_held
        if not is_leader or self.is_checkpointing or not self.files.are_same_files(now):
            return
        if now.db_time == self.files.db_time or now.db_size == 0:
            return
        try:
            progress = self._progress_in_file()
        except sqlite3.Error:
            self._is_suspect = True
            return
        self._is_wal_lost = self._is_wal_lost or progress < self._progress
        self._progress = progress

    def _progress_in_file(self) -> int:
        """Query the database without its `-wal` file."""
        with closing(self._open_without_wal()) as connection:
            return int(connection.execute(self._progress_query).fetchone()[0])

    def _open_without_wal(self) -> sqlite3.Connection:
        uri = f"{Path(self.path).absolute().as_uri()}?immutable=1"
        return sqlite3.connect(uri, uri=True)

    # ---- repairing -----------------------------------------------------------------------------

    def _is_healed(self, connection: sqlite3.Connection, now: StoreFiles) -> bool:
        """Repair the open files if possible; return whether the connection can stay open."""
        if self._is_wal_lost or not self.files.are_same_files(now):
            return False
        if now.shm_size < self.files.shm_size:
            # A process that uses it dies of SIGBUS. SQLite creates it again from zeros.
            os.truncate(f"{self.path}-shm", self.files.shm_size)
            logger.error(
                "the `-shm` file of the delivery store `%s` was truncated while it was in use; it "
                "is created again",
                self.path,
            )
            now = StoreFiles.at(self.path)
        if self.files.db_size <= now.db_size and not self._is_suspect:
            self.files = now
            return True
        if now.db_size == 0:
            self._wait_while_empty()
            return False
        self._wait_until_written(now)
        if is_sound(connection):
            # A VACUUM shortens the file too.
            self.files, self._is_suspect = now, False
            return True
        return False

    def _wait_until_written(self, now: StoreFiles) -> None:
        if time.time() < now.db_time / 1e9 + _SETTLED_SECONDS:
            msg = f"another program writes to the delivery store `{self.path}`"
            raise BusyError(msg)

    def _wait_while_empty(self) -> None:
        now = time.monotonic()
        self._empty_since = self._empty_since or now
        if now < self._empty_since + _EMPTY_SECONDS:
            msg = f"the delivery store `{self.path}` was emptied or removed while it was in use"
            raise BusyError(msg)
        self._empty_since = 0.0

    def _repair(
        self, connection: sqlite3.Connection, now: StoreFiles, *, has_readers: bool
    ) -> None:
        """Make the files at the path belong together, so that they can be opened."""
        known = LeaderFile.read(self.path)
        is_another = now.identity != self.files.identity
        if is_another and known is not None and known.files.are_same_files(now):
            return  # the leader repaired them
        if has_readers:
            # In this process, SQLite shares the state of the old file with a new connection.
            raise BusyError(replaced_message(self.path))
        if now == self._damaged:
            raise StoreError(damaged_message(self.path))
        if now.db == 0 and Path(self.path).parent.exists():
            self._wait_while_empty()
        elif self._is_wal_lost:
            self._wait_until_written(now)
        with self._repair_lock():
            logger.error("%s", replaced_message(self.path))
            if is_another:
                names = (("-wal", self.files.wal, now.wal), ("-shm", self.files.shm, now.shm))
                self._move_aside(*(name for name, mine, its in names if mine == its))
            elif now.db_size == 0:
                self._move_aside("", "-wal", "-shm")
            else:
                self._replace_by_copy(connection, now)

    def _replace_by_copy(self, connection: sqlite3.Connection, now: StoreFiles) -> None:
        """Replace the database by a copy of it, because its `-wal` or `-shm` file was removed.

        The last commits are in the `-wal` file, which this process may still have open.
        """
        is_new_wal = now.wal not in (0, self.files.wal) and now.wal_size > 0
        if is_new_wal or self._is_suspect or self._is_wal_lost:
            source = self._open_without_wal()
        else:
            source = connection
        try:
            replace_file(self.path, source)
        except (sqlite3.Error, StoreError) as error:
            self._damaged = now
            raise StoreError(damaged_message(self.path)) from error
        finally:
            if source is not connection:
                source.close()
        # Without the content of the `-wal` file, the copy is an older state of the store.
        self.is_copy = source is connection
        if not is_new_wal:
            self._move_aside("-wal", "-shm")

    def _move_aside(self, *suffixes: str) -> None:
        for name in move_aside(self.path, *suffixes):
            logger.error("a file belongs to another delivery store; renamed it to `%s`", name)

    @contextmanager
    def _repair_lock(self) -> Generator[None]:
        """Hold the leader lock.

        Raises:
            BusyError: another process holds it.
        """
        lock = self._lock
        if lock is None or lock.is_held:
            yield
        elif lock.try_acquire():
            try:
                yield
            finally:
                lock.release()
        else:
            raise BusyError(replaced_message(self.path))
