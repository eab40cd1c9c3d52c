"""A SQLite file that several processes write to, each with one connection; it knows no table."""

from __future__ import annotations

import atexit
import os
import re
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hubhooks import _fork
from hubhooks._logging import get_logger
from hubhooks._process import current_process
from hubhooks._store.files import (
    LeaderFile,
    StoreFiles,
    has_wal_header,
    is_sound,
    is_sound_with_wal,
    is_wal_header,
    move_aside,
    replace_file,
)
from hubhooks.errors import BusyError, ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import TypeAlias

    Synchronous: TypeAlias = Literal["normal", "full"]

__all__ = ["Database", "LeaderLock", "find_network", "require_file"]

_log = get_logger()

# Written into the file, so that another program's is not taken for ours. Never to be changed.
_APPLICATION_ID = 0x48754832

# Who waits holds up the server's loop, and tries again by itself.
_LOOP_BUSY_SECONDS = 0.005
_BUSY_SECONDS = 0.1
_OPEN_SECONDS = 5.0
# A program that overwrites the file makes it empty first, or renames it for a moment.
_EMPTY_SECONDS = 1.0
# A file that was not written for so long is whole.
_SETTLED_SECONDS = 0.5
# How much is written aside before it is worth a checkpoint, and before the file is made short.
_CHECKPOINT_BYTES = 4 * 1024 * 1024
_TRUNCATE_BYTES = 16 * 1024 * 1024
# How many pages are copied before Ctrl-C is noticed.
_BACKUP_PAGES = 1000

# What SQLite calls each durability, where it writes a log ahead.
_SYNCHRONOUS = {"normal": "NORMAL", "full": "FULL"}

# In one statement, as another process may be setting the file up.
_WHAT_IT_IS = """
    SELECT user_version, application_id, EXISTS (SELECT 1 FROM sqlite_master)
    FROM pragma_user_version, pragma_application_id
"""

_MOUNTS = Path("/proc/self/mountinfo")
# Before the separator: ids, device, root, mount point, options. There may be more.
_MOUNT_FIELDS = 6
# A space in a mount point is written `\040`.
_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")
_NETWORK = re.compile(
    r"fuse|nfs|cifs|smb|9p$|ceph|glusterfs|afs$|lustre|beegfs|gpfs|davfs|coda$|ncpfs|orangefs|"
    r"pvfs2|panfs|wekafs|vboxsf|vmhgfs|prl_fs"
)
# `fuse` says that a program makes the file system, and what follows is often its name. These use a
# local disk or folder. Any other one may be remote, as buckets are (`fuse`, `fuse.s3fs`).
_LOCAL_FUSE = re.compile(
    r"fuseblk|fuse\.(fuse-overlayfs|(unionfs|mergerfs|mhddfs|bindfs|gocryptfs|encfs|cryfs|"
    r"securefs|ntfs|ntfs-3g|lowntfs-3g|exfat|fuse2fs|fuse-?ext2|ext[234]|lklfuse|apfs|zfs|lxcfs)"
    r"(-fuse)?$)"
)

# What SQLite says, and what it means to the owner of the app.
_ADVICE = {
    "database is locked": "is locked by another program: close that program",
    "database or disk is full": "cannot grow, its disk is full: free some space",
    "disk I/O error": "cannot be read or written: check its disk",
    "database disk image is malformed": (
        "is damaged: move it and its `-wal` and `-shm` files away, and start with a new file"
    ),
    "file is not a database": "is not an SQLite file: give another path, or move the file away",
    "attempt to write a readonly database": "is read-only: make it and its folder writable",
    "unable to open database file": "cannot be opened: check the path and its permissions",
}
_DAMAGE = frozenset(
    {"disk I/O error", "database disk image is malformed", "file is not a database"}
)
_OWNERS_MISTAKES = ("file is", "attempt to", "unable to")

# In a forked child: the parent's files, and its connections to them. SQLite keeps its locks per
# process and does not know that this is another one, so the child neither uses nor closes them:
# https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
_of_parent: set[str] = set()
_never_closed: list[sqlite3.Connection] = []


class Database:
    """A file with one connection for writing, and others for a moment to read or tidy up.

    Args:
        path: the file; made if it is not there, but not its folder.
        steps: what makes a file of the newest version from an empty one: statements, each step
            in a transaction of its own. A released step is never changed.
        durability: what all that is written survives: the death of the `process`, or with `full`
            a loss of power too.
        allow_network: use the file even on a network file system.
        lock: the leader lock, without which no file is moved aside; None if nobody else uses them.
        progress: a query for a number that only grows.

    Raises:
        ConfigError: there is no such durability.
    """

    def __init__(  # noqa: PLR0913 - options, each with a default
        self,
        path: str | os.PathLike[str],
        steps: Sequence[Sequence[str]],
        *,
        synchronous: Synchronous = "normal",
        allow_network: bool = False,
        lock: LeaderLock | None = None,
        progress: str = "SELECT 0",
    ) -> None:
        if synchronous not in _SYNCHRONOUS:
            msg = f'`synchronous={synchronous!r}` is not a choice; write "normal" or "full"'
            raise ConfigError(msg)
        self.path = _resolved(path)
        """The file, wherever the working directory is."""
        self._steps = steps
        self._pragma = _SYNCHRONOUS[synchronous]
        self._allow_network = allow_network
        self._connection: sqlite3.Connection | None = None
        self._is_open = False
        self.opened = 0
        """How often it was opened: anew, where what was at the path had changed."""
        self.is_copy = False
        """Whether it was opened anew with the same content, in a file that we put there."""
        self._leader_lock = lock
        # What the query found in the database alone, and whether this process writes there.
        self._progress_query = progress
        self._progress = 0
        self._is_checkpointing = False
        # What was at the path when it was compared last, and how many connections for a moment
        # there are.
        self._files = StoreFiles.at(self.path)
        self._wal: int | None = None
        # Whether SQLite found damage, whether the `-wal` file lost what was written to it, since
        # when the database is empty, and what cannot be repaired.
        self._is_suspect = False
        self._is_wal_lost = False
        # Whether the file may not be what it was, so that it has to be checked.
        self._is_unchecked = False
        self._empty_since = 0.0
        self._damaged: StoreFiles | None = None
        # How the leader before this process ended, if not by itself.
        self._explanation = ""
        self._elsewhere = 0
        self._lock = threading.RLock()
        # The thread whose batch is open.
        self._writer: int | None = None
        self._failure: StoreError | None = None
        self.has_failed = False
        """Whether a write failed since this was reset, if not because another process wrote."""
        self._late: list[Callable[[], object]] = []
        self._late_written = 0

    def open(self) -> None:
        """Open the file for writing, and bring an older one up to date.

        Raises:
            ConfigError: the path cannot be used.
            StoreError: the file cannot be used just now.
        """
        if not self._allow_network:
            _refuse_network(self.path)
        self._open()
        self._is_open = True

    def _open(self) -> None:
        _refuse_after_fork(self.path)
        give_up = time.monotonic() + _OPEN_SECONDS
        while self._connection is None:
            try:
                self._settle_files()
                _create(self.path)
                self._connection = self._connect()
            except (sqlite3.Error, BusyError) as error:  # noqa: PERF203 - it loops only where it failed
                # To set up a new file does not wait by itself for others who do the same.
                is_busy = isinstance(error, BusyError) or _is_busy(error)
                if is_busy and time.monotonic() <= give_up:
                    time.sleep(0.01)
                elif isinstance(error, BusyError):
                    raise
                else:
                    raise _at_opening(self.path, error) from error
        self._files = StoreFiles.at(self.path)
        self._progress = 0
        with suppress(sqlite3.Error):  # it may be new, with all of it in the `-wal` file
            self._progress = self._progress_in_file()
        self._open_wal()
        self._is_suspect = self._is_wal_lost = self._is_unchecked = False
        self.opened += 1
        self.note_files()
        _fork.register(self)

    def switch_off(self) -> None:
        """In a forked child, leave the file to the parent."""
        self._lock = threading.RLock()
        self._writer = None
        self._late.clear()
        self._is_open = False
        if self._connection is not None:
            _leave_to_parent(self.path, self._connection)
            self._connection = None
        self._close_connection()

    def _settle_files(self) -> None:
        """Leave SQLite no `-wal` file that was written for another database.

        The leader wrote down which files belong together.

        Raises:
            BusyError: the leader, another process, has yet to set it right.
        """
        known = LeaderFile.read(self.path)
        if known is None:
            return
        now = StoreFiles.at(self.path)
        if known.is_of_living_process():
            if not known.files.are_same_files(now):
                raise BusyError(_replaced_message(self.path))
            return
        self._explanation = self._explanation or known.explain_end(now)
        files = known.files
        # A process that closes the store writes to the database last of all.
        is_written = now.db != files.db or (not known.is_closed and now.db_time != files.db_time)
        if files.is_wal_foreign(now) or (is_written and not self._fits_wal(known, now)):
            with self._only_repairer():
                self._move_aside("-wal", "-shm")
        if is_written or files.db_size > now.db_size:
            self._is_unchecked = True

    def _fits_wal(self, known: LeaderFile, now: StoreFiles) -> bool:
        """Return whether the `-wal` file may be applied to what lies where the leader's file was.

        SQLite writes into the database when it closes it, so copies are tried.
        """
        if now.wal_size == 0:
            return True
        try:
            if self._progress_in_file() < known.progress:
                return False
        except sqlite3.Error:
            return True  # the check of its content tells
        return is_sound_with_wal(self.path)

    def note_files(self) -> None:
        """Write down which files belong together, as the leader."""
        lock = self._leader_lock
        if lock is not None and lock.is_held:
            if self._explanation:
                _log.warning("%s", self._explanation)
                self._explanation = ""
            known = LeaderFile.of_this_process(self.path, self._files, self._progress)
            known.write(self.path)

    def keep_noted(self) -> None:
        """Write down again which files belong together, if somebody removed that."""
        if not Path(LeaderFile.path_of(self.path)).exists():
            self.note_files()

    def note_end(self) -> None:
        """Write down that this process leads no more."""
        known = LeaderFile.read(self.path)
        if known is not None and known.process == current_process():
            known._replace(is_closed=True).write(self.path)

    def close(self) -> None:
        """Write what is late, and close the file."""
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
        if self._wal is not None:
            os.close(self._wal)
            self._wal = None

    def _open_wal(self) -> None:
        # SQLite holds no lock on this file that closing it here could drop.
        if hasattr(os, "pread"):
            with suppress(OSError):
                self._wal = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def file(self) -> tuple[int, int] | None:
        """Which file is written to: another one if that at the path was replaced."""
        return self._files.identity if self._connection is not None else None

    # ---- files that were changed ---------------------------------------------------------------

    def reopen_if_replaced(self) -> None:
        """Open anew what is at the path, if it is no longer what was opened.

        Somebody may have removed, replaced or shortened a file. And a program that opens and
        closes the file in this process, to upload its folder for instance, drops all locks that
        SQLite holds on it for this process: POSIX says so. Another process that ends is then the
        last one for SQLite, and removes the `-wal` file.

        Raises:
            BusyError: another process has to set it right.
            StoreError: it cannot be opened just now.
        """
        with self._lock:
            if not self._is_open or self.is_in_batch:
                return
            if self._connection is not None:
                now = StoreFiles.at(self.path)
                self._look_for_older_copy(now)
                if self._files.are_same(now) and not (self._is_suspect or self._is_wal_lost):
                    self._files = now
                    return
                try:
                    if self._is_healed(now):
                        return
                    self.is_copy = False
                    self._repair(now)
                    self._is_unchecked = not self.is_copy
                except (OSError, sqlite3.Error) as error:
                    msg = f"the delivery store `{self.path}` cannot be repaired: {error}"
                    raise StoreError(msg) from error
                self._close_connection()
            try:
                self._open()
            except ConfigError as error:
                raise StoreError(str(error)) from error

    def _look_for_older_copy(self, now: StoreFiles) -> None:
        """Note that an older copy was written over the database, as the leader.

        To apply the `-wal` file to it would damage it.
        """
        lock = self._leader_lock
        is_leader = lock is None or lock.is_held
        if not is_leader or self._is_checkpointing or not self._files.are_same_files(now):
            return
        if now.db_time == self._files.db_time or now.db_size == 0:
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
        with closing(self._open_database_alone()) as connection:
            return int(connection.execute(self._progress_query).fetchone()[0])

    def _open_database_alone(self) -> sqlite3.Connection:
        uri = f"{Path(self.path).absolute().as_uri()}?immutable=1"
        return sqlite3.connect(uri, uri=True)

    def _is_healed(self, now: StoreFiles) -> bool:
        """Set right what needs no other files; whether that is all."""
        assert self._connection is not None  # noqa: S101 - for type checkers
        if self._is_wal_lost or not self._files.are_same_files(now):
            return False
        if now.shm_size < self._files.shm_size:
            # A process that uses it dies of SIGBUS. Full of zeros, SQLite makes it anew.
            os.truncate(f"{self.path}-shm", self._files.shm_size)
            _log.error(
                "the `-shm` file of the delivery store `%s` was truncated while it was in use; it "
                "is created again",
                self.path,
            )
            now = StoreFiles.at(self.path)
        if self._files.db_size <= now.db_size and not self._is_suspect:
            self._files = now
            return True
        if now.db_size == 0:
            self._wait_while_empty()
            return False
        self._wait_until_written(now)
        if is_sound(self._connection):
            # A VACUUM shortens it too.
            self._files, self._is_suspect = now, False
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

    def _repair(self, now: StoreFiles) -> None:
        """Make the files at the path ones that belong together, so that they can be opened."""
        known = LeaderFile.read(self.path)
        is_another = now.identity != self._files.identity
        if is_another and known is not None and known.files.are_same_files(now):
            return  # the leader did so already
        if self._elsewhere:
            # A new connection would share with these what belongs to the old file.
            raise BusyError(_replaced_message(self.path))
        if now == self._damaged:
            raise StoreError(_damaged_message(self.path))
        if now.db == 0 and Path(self.path).parent.exists():
            self._wait_while_empty()
        elif self._is_wal_lost:
            self._wait_until_written(now)
        with self._only_repairer():
            _log.error("%s", _replaced_message(self.path))
            if is_another:
                names = (("-wal", self._files.wal, now.wal), ("-shm", self._files.shm, now.shm))
                self._move_aside(*(name for name, mine, its in names if mine == its))
            elif now.db_size == 0:
                self._move_aside("", "-wal", "-shm")
            else:
                self._put_copy_in_place(now)

    def _put_copy_in_place(self, now: StoreFiles) -> None:
        """Go on with a copy of the database, as its `-wal` or `-shm` file was taken away.

        What was written last lies in the `-wal` file, which this process may still have open.
        """
        assert self._connection is not None  # noqa: S101 - for type checkers
        is_new_wal = now.wal not in (0, self._files.wal) and now.wal_size > 0
        if is_new_wal or self._is_suspect or self._is_wal_lost:
            source = self._open_database_alone()
        else:
            source = self._connection
        try:
            replace_file(self.path, source)
        except (sqlite3.Error, StoreError) as error:
            self._damaged = now
            raise StoreError(_damaged_message(self.path)) from error
        finally:
            if source is not self._connection:
                source.close()
        # Without what lay in the `-wal` file it is an older store.
        self.is_copy = source is self._connection
        if not is_new_wal:
            self._move_aside("-wal", "-shm")

    def _move_aside(self, *suffixes: str) -> None:
        for name in move_aside(self.path, *suffixes):
            _log.error("a file belongs to another delivery store; renamed it to `%s`", name)

    @contextmanager
    def _only_repairer(self) -> Generator[None]:
        """Hold the leader lock.

        Raises:
            BusyError: another process holds it.
        """
        lock = self._leader_lock
        if lock is None or lock.is_held:
            yield
        elif lock.try_acquire():
            try:
                yield
            finally:
                lock.release()
        else:
            raise BusyError(_replaced_message(self.path))

    def execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute a statement, in a `batch` if it writes.

        Raises:
            StoreError: it failed, or one before it in the same batch did.
        """
        if self._connection is None:
            _refuse_after_fork(self.path)
            msg = f"the delivery store `{self.path}` is not open"
            raise StoreError(msg)
        if self._failure is not None:
            # SQLite may have undone the transaction: what followed would be kept on its own.
            raise self._failure
        try:
            return self._connection.execute(sql, values)
        except sqlite3.Error as error:
            told = _store_error(self.path, error)
            if self.is_in_batch:
                self._failure = told
            if not isinstance(told, BusyError) and isinstance(error, sqlite3.DatabaseError):
                # The files are looked at before they are used again.
                self._is_suspect = self._is_suspect or _is_damage(error)
            raise told from error

    @property
    def is_in_batch(self) -> bool:
        """Whether this thread has a batch open."""
        return self._writer == threading.get_ident()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Make one transaction of what is done inside: all of it is in the file, or nothing.

        It is not to be called in a batch.

        Raises:
            BusyError: another process is writing, and nothing was done; or a file was changed
                meanwhile, and what was written may be in the store or not.
            StoreError: it cannot be written.
        """
        with self._lock:
            self.reopen_if_replaced()
            self._writer = threading.get_ident()
            try:
                # A transaction that starts by reading could not wait for its turn to write.
                self.execute("BEGIN IMMEDIATE")
                self._write_late()
                yield
                self._write_late()
                self.execute("COMMIT")
                self._check_written()
                del self._late[: self._late_written]
            except StoreError as error:
                self.has_failed = self.has_failed or not isinstance(error, BusyError)
                raise
            finally:
                self._writer = None
                self._failure = None
                self._late_written = 0
                if self._connection is not None and self._connection.in_transaction:
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")

    def write_header(self) -> None:
        """Write one page as it is, in a batch. Only a real write shows that the disk takes one."""
        self.execute(f"PRAGMA application_id = {_APPLICATION_ID}")

    def _check_written(self) -> None:
        """Check that what was committed lies in the files at the path.

        Raises:
            BusyError: it may not.
        """
        now = StoreFiles.at(self.path)
        if not self._files.are_same(now):
            raise BusyError(_replaced_message(self.path))
        if now.wal_size and self._wal is not None and not is_wal_header(os.pread(self._wal, 4, 0)):
            # What SQLite appends to a file that was emptied cannot be read back.
            self._is_wal_lost = True
            raise BusyError(_replaced_message(self.path))
        # With the old time, the next look still notices that another program wrote the database.
        self._files = now._replace(db_time=self._files.db_time)

    def defer(self, write: Callable[[], object]) -> None:
        """Write with the next batch, or `flush`; from any thread."""
        self._late.append(write)

    @property
    def has_deferred(self) -> bool:
        """Whether there is something for `flush` to write."""
        return bool(self._late)

    def flush(self) -> None:
        """Write what is late.

        Raises:
            StoreError: it cannot be written; it stays late.
        """
        # A batch that is open writes it anyway.
        if self._late and not self.is_in_batch:
            with self.transaction():
                pass

    @contextmanager
    def open_connection(self, mode: Literal["ro", "rw"] = "ro") -> Generator[sqlite3.Connection]:
        """Open a connection for a moment, in any thread, beside the one that writes.

        With `ro` all that is read is of one moment.
        """
        _refuse_after_fork(self.path)
        uri = f"{Path(self.path).absolute().as_uri()}?mode={mode}"
        self._refuse_foreign_files()
        with self._lock:
            self._elsewhere += 1
        try:
            connection = sqlite3.connect(uri, timeout=_BUSY_SECONDS, isolation_level=None, uri=True)
            try:
                if (version := self._check(connection)) < len(self._steps):
                    msg = (
                        f"the delivery store `{self.path}` has an older format: start the app with "
                        "this version of hubhooks first"
                    )
                    raise StoreError(msg if version else _not_started(self.path))
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
                raise StoreError(_not_started(self.path)) from None
            raise _store_error(self.path, error) from error
        finally:
            with self._lock:
                self._elsewhere -= 1

    def backup(self, path: str, statements: Sequence[tuple[str, Sequence[object]]]) -> None:
        """Copy the database as it is now, page by page, in any thread.

        Writers do not wait for it. Until the copy is complete, its file is an empty database.

        Args:
            path: the file of the copy; it must exist and be empty.
            statements: what is executed in the copy.

        Raises:
            StoreError: the database cannot be read, the copy cannot be written, or it is damaged.
        """
        with self.open_connection() as connection:
            # All pages are of this moment: without it each write would begin the copy anew.
            connection.execute("SELECT 1 FROM sqlite_master").fetchone()
            try:
                with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                    connection.backup(copy, pages=_BACKUP_PAGES)
                    for sql, values in statements:
                        copy.execute(sql, values)
                    if not is_sound(copy):
                        raise StoreError(_damaged_message(self.path))
            except sqlite3.Error as error:
                msg = f"the copy `{path}` cannot be made: {error}"
                raise StoreError(msg) from error

    def _refuse_foreign_files(self) -> None:
        """Raise `BusyError` if SQLite would mix files that do not belong together."""
        now = StoreFiles.at(self.path)
        if self._connection is not None:
            is_foreign = not self._files.are_same_files(now)
        else:
            known = LeaderFile.read(self.path)
            is_foreign = known is not None and known.files.is_wal_foreign(now)
        if is_foreign:
            raise BusyError(_replaced_message(self.path))

    def checkpoint(self) -> None:
        """Move what was written to its place in the file, if it is enough to be worth it.

        It waits for the disk, so it is for a thread that nobody waits for.
        """
        try:
            size = Path(f"{self.path}-wal").stat().st_size
        except FileNotFoundError:
            return
        # Without its header, what is in the file is not what was written.
        if size > _CHECKPOINT_BYTES and has_wal_header(self.path):
            self._is_checkpointing = True
            try:
                with self.open_connection("rw") as connection:
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    if size > _TRUNCATE_BYTES:
                        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._note_checkpoint()
            finally:
                self._is_checkpointing = False

    def _note_checkpoint(self) -> None:
        with self._lock:
            if self._connection is not None:
                now = StoreFiles.at(self.path)
                if self._files.are_same(now):
                    self._progress = max(self._progress, self._progress_in_file())
                    self._files = now
                    self.note_files()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_LOOP_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._check(connection)
            if self._is_unchecked:
                self._check_content(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._pragma}")
            # Not by whoever happens to commit: see `checkpoint`.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_BYTES}")
            while self._check(connection) < len(self._steps):
                self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_content(self, connection: sqlite3.Connection) -> None:
        if not is_sound(connection):
            raise StoreError(_damaged_message(self.path))

    def _check(self, connection: sqlite3.Connection) -> int:
        """Check that the file is ours, and give its version: how many steps it has seen."""
        version, application, has_tables = connection.execute(_WHAT_IT_IS).fetchone()
        if application != _APPLICATION_ID and has_tables:
            msg = f"`{self.path}` belongs to another program: give another path"
            raise ConfigError(msg)
        if version > len(self._steps):
            msg = (
                f"the delivery store `{self.path}` was written by a newer hubhooks (format "
                f"{version}; this version reads {len(self._steps)}): upgrade hubhooks, or give "
                "another path"
            )
            raise ConfigError(msg)
        return int(version)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Take the next step, whole or, as what fails closes the connection, not at all."""
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have taken it meanwhile.
        version = self._check(connection)
        if version < len(self._steps):
            for statement in self._steps[version]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute("COMMIT")

    def _write_late(self) -> None:
        while self._late_written < len(self._late):
            self._late[self._late_written]()
            self._late_written += 1


class LeaderLock:
    """Says which of several processes runs what is in a log: the one that holds it.

    The lock is an exclusive transaction on a file beside the log. The kernel ends it with the
    process, however that dies.

    Args:
        path: the file of the log.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = f"{_resolved(path)}.runner"
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
        """Whether somebody holds the lock; it makes no file and takes nothing.

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
            if _is_busy(error):
                return True
            raise _store_error(self._path, error) from error
        return False

    def try_acquire(self) -> bool:
        """Take the lock if nobody else has it, without waiting; whether it is held now.

        Raises:
            ConfigError: the file beside the log cannot be used.
            StoreError: the file cannot be used just now.
        """
        if self._connection is not None:
            return True
        connection = self._connect()
        if connection is not None:
            self._connection, self._file = connection, self._file_now()
            _fork.register(self)
        return connection is not None

    def keep(self) -> bool:
        """Lock the file at the path too, if somebody removed or replaced the one that is locked.

        Another process would get that lock.

        Returns:
            whether the file is another one now.
        """
        if self._connection is None or self._file == self._file_now():
            return False
        with suppress(ConfigError, StoreError):
            # While another process has it for a moment, the next call tries again.
            if (connection := self._connect()) is not None:
                self._connection.close()
                self._connection, self._file = connection, self._file_now()
                _log.error("`%s` was removed or replaced; locked it again", self._path)
                return True
        return False

    def _file_now(self) -> str:
        try:
            found = os.stat(self._path)  # noqa: PTH116 - several times a second
        except OSError:
            return ""
        return f"{found.st_dev}:{found.st_ino}"

    def _connect(self) -> sqlite3.Connection | None:
        """Lock the file at the path; None if another process holds the lock."""
        _refuse_after_fork(self._path)
        _create(self._path)
        connection = None
        try:
            connection = sqlite3.connect(
                self._path, timeout=0, isolation_level=None, check_same_thread=False
            )
            # Nothing is ever written, so there is no need for another file beside this one.
            connection.execute("PRAGMA journal_mode = MEMORY")
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            if _is_busy(error):
                return None
            raise _at_opening(self._path, error) from error
        return connection

    def switch_off(self) -> None:
        """In a forked child, leave the lock to the parent."""
        if self._connection is not None:
            _leave_to_parent(self._path, self._connection)
            self._connection = None

    def release(self) -> None:
        """Let another process take over."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _leave_to_parent(path: str, connection: sqlite3.Connection) -> None:
    if not _never_closed:
        atexit.register(_keep_until_the_end)
    _of_parent.add(path)
    _never_closed.append(connection)


def _keep_until_the_end() -> None:
    """Keep the parent's connections from being closed when the interpreter drops all objects."""
    import ctypes  # noqa: PLC0415 - only in a forked child that ends like a script

    for connection in _never_closed:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _refuse_after_fork(path: str) -> None:
    if path in _of_parent:
        msg = (
            f"the delivery store `{path}` was open when this process was forked from a serving "
            "process: only the parent can use it. Start serving after the fork, or give this "
            "process its own file"
        )
        raise StoreError(msg)


def _replaced_message(path: str) -> str:
    return (
        f"a file of the delivery store `{path}` was removed or replaced while the app used it. The "
        "app continues with the current files. Do not touch them while it runs"
    )


def _damaged_message(path: str) -> str:
    return f"the delivery store `{path}` {_ADVICE['database disk image is malformed']}"


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error may come from files that were changed."""
    return str(error) in _DAMAGE


def _resolved(path: str | os.PathLike[str]) -> str:
    # Also where the working directory changes, or a link leads to a file that is yet to be made.
    given = Path(path)
    if "\0" in str(given):
        msg = f"the delivery store {str(given)!r} has a zero byte in its path: give another path"
        raise ConfigError(msg)
    try:
        return str(given.resolve())
    except FileNotFoundError as error:
        msg = (
            f"the delivery store `{path}` has a path relative to the working directory, which was "
            "removed: start in a folder that exists, or give an absolute path"
        )
        raise ConfigError(msg) from error
    # The latter where links lead to each other, before Python 3.13.
    except (OSError, RuntimeError) as error:
        msg = f"the path of the delivery store `{path}` cannot be used: {error}"
        raise ConfigError(msg) from error


def _is_busy(error: sqlite3.Error) -> bool:
    # By its words, as Python 3.10 does not tell the code.
    return "locked" in str(error) or "locking protocol" in str(error)


def _store_error(path: str, error: sqlite3.Error) -> StoreError:
    advice = _ADVICE.get(str(error), f"failed: {error}")
    return (BusyError if _is_busy(error) else StoreError)(f"the delivery store `{path}` {advice}")


def _not_started(path: str) -> str:
    return (
        f"the delivery store `{path}` cannot be opened: the app creates the file at its first "
        "start, or its delivery store has another path"
    )


def _at_opening(path: str, error: sqlite3.Error) -> ConfigError | StoreError:
    told = _store_error(path, error)
    return ConfigError(str(told)) if str(error).startswith(_OWNERS_MISTAKES) else told


def _create(path: str) -> None:
    """Create a file that only its owner reads; SQLite gives the files beside it the same mode."""
    # Not opened if it exists: POSIX has it that to close it again would take all of SQLite's
    # locks on it from this process.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        require_file(path)
    except OSError as error:
        why = (error.strerror or "").lower()
        msg = f"the delivery store `{path}` cannot be created ({why}): give another path"
        raise ConfigError(msg) from error


def require_file(path: str) -> None:
    """Raise `ConfigError` if something else than a file is at a path."""
    there = Path(path)
    if there.is_dir():
        msg = f"the delivery store `{path}` is a folder: give the path of a file"
        raise ConfigError(msg)
    # SQLite would read from a pipe or a device, or make files beside it.
    if there.exists() and not there.is_file():
        msg = f"the delivery store `{path}` is not a regular file: give the path of a file"
        raise ConfigError(msg)


def _refuse_network(path: str) -> None:
    """Raise `ConfigError` for a file system on which SQLite's locks cannot be relied on."""
    if kind := find_network(path):
        msg = (
            f"the delivery store `{path}` is on a network file system ({kind}), where it can lose "
            "deliveries: give a path on a local disk. To use it anyway, set `allow_network=True` "
            "or HUBHOOKS_ALLOW_NETWORK=1"
        )
        raise ConfigError(msg)


def find_network(path: str) -> str:
    """Return the kind of the network file system that a path is on; empty if it is on none."""
    # The files beside it are in the folder, also where another file system has the file itself.
    for place in (Path(path), Path(path).parent):
        kind = _file_system_at(place)
        if _NETWORK.match(kind) and not _LOCAL_FUSE.match(kind):
            return kind
    return ""


def _file_system_at(place: Path) -> str:
    """Return the kind of file system that a place is on; empty if the mounts do not tell."""
    try:
        mounts = _MOUNTS.read_bytes()
    except OSError:
        return ""
    deepest, kind = 0, ""
    for mount in mounts.split(b"\n"):
        where, _, what = mount.partition(b" - ")
        fields = where.split(b" ")
        # A line of an unknown form tells nothing.
        if len(fields) < _MOUNT_FIELDS or not what:
            continue
        point = os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), fields[4]))
        # Of two mounts at the same point, the later one hides the earlier one.
        if len(point) >= deepest and place.is_relative_to(point):
            deepest, kind = len(point), os.fsdecode(what.split(b" ")[0])
    return kind
