"""An SQLite file that several processes write to, each through one connection.

This module knows no table.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hubhooks import _fork
from hubhooks._store.busy import retry_while_busy
from hubhooks._store.deferred import DeferredWrites
from hubhooks._store.file_systems import create_file, refuse_network, resolve_path
from hubhooks._store.files import has_wal_header, is_sound
from hubhooks._store.forked import leave_to_parent, refuse_after_fork
from hubhooks._store.repair import FileGuard
from hubhooks._store.sqlite_errors import (
    damaged_message,
    not_started_message,
    opening_error,
    store_error,
)
from hubhooks.errors import BusyError, ConfigError, StoreError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Sequence
    from typing import TypeAlias

    from hubhooks._store.leader import LeaderLock

    Synchronous: TypeAlias = Literal["normal", "full"]

__all__ = ["Database"]

# Marks the file as ours. Never to be changed.
_APPLICATION_ID = 0x48754832

# How long SQLite waits for a lock. The first blocks the server's loop, which retries by itself.
_LOOP_BUSY_SECONDS = 0.005
_BUSY_SECONDS = 0.1
# How long opening is retried while other processes set the file up, and how often.
_OPEN_SECONDS = 5.0
_OPEN_PAUSE = 0.01
# The sizes of the `-wal` file at which a checkpoint is worth it, and at which it is shortened.
_CHECKPOINT_BYTES = 4 * 1024 * 1024
_TRUNCATE_BYTES = 16 * 1024 * 1024
# So many pages are copied before Ctrl-C is noticed.
_BACKUP_PAGES = 1000

_SYNCHRONOUS = {"normal": "NORMAL", "full": "FULL"}

# In one statement, as another process may be setting the file up.
_READ_FORMAT = """
    SELECT user_version, application_id, EXISTS (SELECT 1 FROM sqlite_master)
    FROM pragma_user_version, pragma_application_id
"""


class Database:
    """A file with one connection for writing, and short-lived ones to read or tidy up.

    Args:
        path: the file; created if it does not exist, but not its folder.
        migrations: the statements that make a file of the newest format from an empty one. Each
            entry is one transaction. A released entry is never changed.
        synchronous: `normal` keeps all that is written if the process dies, `full` also at a loss
            of power.
        allow_network: use the file even on a network file system.
        lock: the leader lock, without which no file is renamed; None if no other process uses it.
        progress: a query for a number that only grows.

    Raises:
        ConfigError: `synchronous` has another value.
    """

    def __init__(  # noqa: PLR0913 - options, each with a default
        self,
        path: str | os.PathLike[str],
        migrations: Sequence[Sequence[str]],
        *,
        synchronous: Synchronous = "normal",
        allow_network: bool = False,
        lock: LeaderLock | None = None,
        progress: str = "SELECT 0",
    ) -> None:
        if synchronous not in _SYNCHRONOUS:
            msg = f'`synchronous={synchronous!r}` is not a choice; write "normal" or "full"'
            raise ConfigError(msg)
        self.path = resolve_path(path)
        """The absolute path of the file."""
        self.times_opened = 0
        """How often it was opened. It is opened again if the file at the path changed."""
        self.has_failed = False
        """Whether a write failed since this was reset, apart from busy ones."""
        self._migrations = migrations
        self._synchronous = _SYNCHRONOUS[synchronous]
        self._allow_network = allow_network
        self._guard = FileGuard(self.path, lock, progress)
        self._connection: sqlite3.Connection | None = None
        self._is_open = False
        self._reader_count = 0
        self._lock = threading.RLock()
        # The thread with an open transaction, and the first error in it.
        self._writer: int | None = None
        self._failure: StoreError | None = None
        # The deferred writes, and how many of them the open transaction has.
        self._deferred = DeferredWrites()

    # ---- opening and closing -------------------------------------------------------------------

    def open(self) -> None:
        """Open the file for writing, and migrate it to the newest format.

        Raises:
            ConfigError: the path cannot be used.
            StoreError: the file cannot be used now.
        """
        if not self._allow_network:
            refuse_network(self.path)
        self._open()
        self._is_open = True

    def _open(self) -> None:
        refuse_after_fork(self.path)
        if self._connection is None:
            # SQLite itself does not wait for another process that sets up a new file.
            self._connection = retry_while_busy(self._try_open, _OPEN_SECONDS, _OPEN_PAUSE)
        self.times_opened += 1
        self._guard.after_open()
        _fork.register(self)

    def _try_open(self) -> sqlite3.Connection:
        try:
            self._guard.before_open()
            create_file(self.path)
            return self._connect()
        except sqlite3.Error as error:
            raise opening_error(self.path, error) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_LOOP_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._check_format(connection)
            if self._guard.is_unchecked:
                self._check_content(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            # `checkpoint` runs on a thread of its own, so no commit has to wait for it.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_BYTES}")
            while self._check_format(connection) < len(self._migrations):
                self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_content(self, connection: sqlite3.Connection) -> None:
        if not is_sound(connection):
            raise StoreError(damaged_message(self.path))

    def _check_format(self, connection: sqlite3.Connection) -> int:
        """Check that the file is ours, and return how many migrations it has."""
        version, application, has_tables = connection.execute(_READ_FORMAT).fetchone()
        if application != _APPLICATION_ID and has_tables:
            msg = f"`{self.path}` belongs to another program: give another path"
            raise ConfigError(msg)
        if version > len(self._migrations):
            msg = (
                f"the delivery store `{self.path}` was written by a newer hubhooks (format "
                f"{version}; this version reads {len(self._migrations)}): upgrade hubhooks, or "
                "give another path"
            )
            raise ConfigError(msg)
        return int(version)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Run the next migration in one transaction. A failure closes the connection."""
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have run it meanwhile.
        version = self._check_format(connection)
        if version < len(self._migrations):
            for statement in self._migrations[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute("COMMIT")

    def close(self) -> None:
        """Write the deferred writes, and close the file."""
        with self._lock:
            try:
                if self._is_open:
                    self.flush()
            finally:
                self._is_open = False
                self._close_connection()

    def _close_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._guard.after_close()

    def switch_off(self) -> None:
        """In a forked child, leave the file to the parent."""
        self._lock = threading.RLock()
        self._writer = None
        self._deferred.clear()
        self._is_open = False
        if self._connection is not None:
            leave_to_parent(self.path, self._connection)
            self._connection = None
        self._close_connection()

    # ---- files that were changed ---------------------------------------------------------------

    @property
    def file(self) -> tuple[int, int] | None:
        """The identity of the open file; None if none is open."""
        return self._guard.files.identity if self._connection is not None else None

    @property
    def is_copy(self) -> bool:
        """Whether the last repair put a copy with the same content at the path."""
        return self._guard.is_copy

    def reopen_if_replaced(self) -> None:
        """Open the file at the path again if it is not the one that was opened.

        Raises:
            BusyError: another process has to repair the files.
            StoreError: it cannot be opened now.
        """
        with self._lock:
            if not self._is_open or self.in_transaction:
                return
            if self._connection is not None:
                has_readers = self._reader_count > 0
                if self._guard.check_files(self._connection, has_readers=has_readers):
                    return
                self._close_connection()
            try:
                self._open()
            except ConfigError as error:
                raise StoreError(str(error)) from error

    def note_files(self) -> None:
        """Write down which files belong together, as the leader."""
        self._guard.note_files()

    def keep_noted(self) -> None:
        """Write the leader's file again if somebody removed it."""
        self._guard.keep_noted()

    def note_end(self) -> None:
        """Write down that this process is no longer the leader."""
        self._guard.note_end()

    # ---- writing -------------------------------------------------------------------------------

    def execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute a statement; one that writes needs a transaction.

        Raises:
            StoreError: it failed, or an earlier one in the same transaction did.
        """
        if self._connection is None:
            refuse_after_fork(self.path)
            msg = f"the delivery store `{self.path}` is not open"
            raise StoreError(msg)
        if self._failure is not None:
            # SQLite may have rolled back: the statement would be committed on its own.
            raise self._failure
        try:
            return self._connection.execute(sql, values)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def executemany(self, sql: str, rows: Sequence[Sequence[object]]) -> sqlite3.Cursor:
        """Execute a statement that writes for each of these rows, in a transaction.

        Raises:
            StoreError: it failed, or an earlier one in the same transaction did.
        """
        if self._connection is None or self._failure is not None:
            # This raises the right error.
            return self.execute(sql)
        try:
            return self._connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> StoreError:
        failure = store_error(self.path, error)
        if self.in_transaction:
            self._failure = failure
        if not isinstance(failure, BusyError):
            self._guard.note_error(error)
        return failure

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has a transaction open."""
        return self._writer == threading.get_ident()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Write everything inside in one transaction; not to be nested.

        Raises:
            BusyError: another process is writing, and nothing was written; or a file was changed
                meanwhile, and the store may have it or not.
            StoreError: it cannot be written.
        """
        with self._lock:
            self.reopen_if_replaced()
            self._writer = threading.get_ident()
            try:
                # SQLite does not let a transaction that begins with a read wait for the write lock.
                self.execute("BEGIN IMMEDIATE")
                self._deferred.write()
                yield
                self._deferred.write()
                self.execute("COMMIT")
                self._guard.check_written()
                self._deferred.commit()
            except StoreError as error:
                self.has_failed = self.has_failed or not isinstance(error, BusyError)
                raise
            finally:
                self._writer = None
                self._failure = None
                self._deferred.end()
                if self._connection is not None and self._connection.in_transaction:
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")

    def write_header(self) -> None:
        """Write one unchanged page, in a transaction. Only a write shows that the disk is full."""
        self.execute(f"PRAGMA application_id = {_APPLICATION_ID}")

    def defer(self, write: Callable[[], object]) -> None:
        """Write with the next transaction, or `flush`; from any thread."""
        self._deferred.add(write)

    @property
    def has_deferred(self) -> bool:
        """Whether there are deferred writes."""
        return bool(self._deferred)

    def flush(self) -> None:
        """Write the deferred writes.

        Raises:
            StoreError: they cannot be written; they stay deferred.
        """
        # An open transaction writes them anyway.
        if self._deferred and not self.in_transaction:
            with self.transaction():
                pass

    def write_deferred(self) -> None:
        """Do nothing: `transaction` has written the deferred writes."""

    # ---- other connections ---------------------------------------------------------------------

    @contextmanager
    def open_connection(self, mode: Literal["ro", "rw"] = "ro") -> Generator[sqlite3.Connection]:
        """Open another connection for a short time, in any thread.

        With `ro`, all reads see the same snapshot.
        """
        refuse_after_fork(self.path)
        uri = f"{Path(self.path).absolute().as_uri()}?mode={mode}"
        self._guard.refuse_foreign_files(is_open=self._connection is not None)
        with self._lock:
            self._reader_count += 1
        try:
            connection = sqlite3.connect(uri, timeout=_BUSY_SECONDS, isolation_level=None, uri=True)
            try:
                if (version := self._check_format(connection)) < len(self._migrations):
                    msg = (
                        f"the delivery store `{self.path}` has an older format: start the app with "
                        "this version of hubhooks first"
                    )
                    raise StoreError(msg if version else not_started_message(self.path))
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                connection.execute("PRAGMA synchronous = NORMAL")
                if mode == "ro":
                    connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            path = Path(self.path)
            if not self._is_open and path.parent.is_dir() and not path.exists():
                raise StoreError(not_started_message(self.path)) from None
            raise store_error(self.path, error) from error
        finally:
            with self._lock:
                self._reader_count -= 1

    def backup(self, path: str, statements: Sequence[tuple[str, Sequence[object]]]) -> None:
        """Copy the database as it is now, page by page, in any thread.

        Writers do not wait for it. Until the copy is complete, its file is an empty database.

        Args:
            path: the file of the copy; it must exist and be empty.
            statements: these are executed in the copy.

        Raises:
            StoreError: the database cannot be read, the copy cannot be written, or it is damaged.
        """
        with self.open_connection() as connection:
            # This starts a snapshot. Without it, each write would restart the copy.
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
            try:
                with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                    connection.backup(copy, pages=_BACKUP_PAGES)
                    for sql, values in statements:
                        copy.execute(sql, values)
                    if not is_sound(copy):
                        raise StoreError(damaged_message(self.path))
            except sqlite3.Error as error:
                msg = f"the copy `{path}` cannot be made: {error}"
                raise StoreError(msg) from error

    def checkpoint(self) -> None:
        """Copy the `-wal` file into the database, if it is large enough.

        It waits for the disk, so it belongs on a thread of its own.
        """
        try:
            size = Path(f"{self.path}-wal").stat().st_size
        except FileNotFoundError:
            return
        # A file without its header does not have the commits.
        is_needed = size > _CHECKPOINT_BYTES and has_wal_header(self.path)
        if is_needed and self._guard.may_checkpoint():
            self._guard.is_checkpointing = True
            try:
                with self.open_connection("rw") as connection:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    if size > _TRUNCATE_BYTES:
                        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                with self._lock:
                    if self._connection is not None:
                        self._guard.note_checkpoint()
            finally:
                self._guard.is_checkpointing = False
