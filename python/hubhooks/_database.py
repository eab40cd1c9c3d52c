"""A SQLite file that several processes write to, each with one connection; it knows no table."""

from __future__ import annotations

import atexit
import os
import re
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hubhooks import _fork
from hubhooks._logging import get_logger
from hubhooks.errors import BusyError, ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from typing import TypeAlias

    Durability: TypeAlias = Literal["process", "full"]
    _Files: TypeAlias = tuple[int, int, int]

__all__ = ["Database", "RunnerLock"]

_log = get_logger()

# Written into the file, so that another program's is not taken for ours. Never to be changed.
_APPLICATION_ID = 0x48754832

# Who waits holds up the server's loop, and tries again by itself.
_LOOP_BUSY_SECONDS = 0.005
_BUSY_SECONDS = 0.1
_OPEN_SECONDS = 5.0
# How much is written aside before it is worth a checkpoint, and before the file is made short.
_CHECKPOINT_BYTES = 4 * 1024 * 1024
_TRUNCATE_BYTES = 16 * 1024 * 1024

# What SQLite calls each durability, where it writes a log ahead.
_SYNCHRONOUS = {"process": "NORMAL", "full": "FULL"}

# In one statement, as another process may be setting the file up.
_WHAT_IT_IS = """
    SELECT user_version, application_id, EXISTS (SELECT 1 FROM sqlite_master)
    FROM pragma_user_version, pragma_application_id
"""

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(r"fuse|nfs|cifs|smb|9p$|ceph|glusterfs|afs$|lustre|beegfs|gpfs|davfs")

# What SQLite says, and what it means to the owner of the app.
_ADVICE = {
    "database is locked": "is locked by another program: close what has it open",
    "database or disk is full": "cannot grow, its disk is full: free some space",
    "disk I/O error": "cannot be read or written: check its disk",
    "database disk image is malformed": (
        "is damaged: move it away with its `-wal` and `-shm` files, and start with a new one"
    ),
    "file is not a database": "is no SQLite file: give another path, or move the file away",
    "attempt to write a readonly database": "is read-only: make it and its folder writable",
    "unable to open database file": "cannot be opened: check the path, and who may write there",
}
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

    Raises:
        ConfigError: there is no such durability.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        steps: Sequence[Sequence[str]],
        *,
        durability: Durability = "process",
        allow_network: bool = False,
    ) -> None:
        if durability not in _SYNCHRONOUS:
            msg = f'`durability={durability!r}` is none that there is; write "process" or "full"'
            raise ConfigError(msg)
        self.path = _resolved(path)
        """The file, wherever the working directory is."""
        self._steps = steps
        self._synchronous = _SYNCHRONOUS[durability]
        self._allow_network = allow_network
        self._connection: sqlite3.Connection | None = None
        self._is_open = False
        self.opened = 0
        """How often it was opened: anew, where what was at the path had changed."""
        # What was at the path when it was opened, and how many connections for a moment there are.
        self._files: _Files | None = None
        self._elsewhere = 0
        self._lock = threading.RLock()
        # The thread whose batch is open.
        self._writer: int | None = None
        self._failure: StoreError | None = None
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
        _create(self.path)
        give_up = time.monotonic() + _OPEN_SECONDS
        while self._connection is None:
            try:
                self._connection = self._connect()
            except sqlite3.Error as error:  # noqa: PERF203 - it loops only where it failed
                # To set up a new file does not wait by itself for others who do the same.
                if not _is_busy(error) or time.monotonic() > give_up:
                    raise _at_opening(self.path, error) from error
                time.sleep(0.01)
        self._files = _files_at(self.path)
        self.opened += 1
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

    def close(self) -> None:
        """Write what is late, and close the file."""
        with self._lock:
            try:
                if self._is_open:
                    self.flush()
            finally:
                self._is_open = False
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None

    @property
    def file(self) -> tuple[int, int] | None:
        """Which file is written to: another one if that at the path was replaced."""
        return None if self._files is None else self._files[:2]

    def follow(self) -> None:
        """Open anew what is at the path, if it is no longer what was opened.

        Somebody may have removed or replaced the file. And whoever opens and closes it in this
        process, say to upload the folder it is in, takes all of SQLite's locks on it from the
        process: so POSIX has it. Another process then takes itself for the last one and removes
        the `-wal` file. What is written to a file without a name is lost.

        Raises:
            StoreError: it cannot be opened just now.
        """
        with self._lock:
            if not self._is_open or self.is_in_batch:
                return
            if self._connection is not None:
                if self._files == _files_at(self.path):
                    return
                if self._elsewhere:
                    # A new connection would share with these what belongs to the old file.
                    raise BusyError(_told_of_loss(self.path))
                _log.error("%s", _told_of_loss(self.path))
                self._connection.close()
                self._connection = None
            try:
                self._open()
            except ConfigError as error:
                raise StoreError(str(error)) from error

    def execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute a statement, in a `batch` if it writes.

        Raises:
            StoreError: it failed, or one before it in the same batch did.
        """
        if self._connection is None:
            _refuse_after_fork(self.path)
            msg = f"the delivery log `{self.path}` is not open"
            raise StoreError(msg)
        if self._failure is not None:
            # SQLite may have undone the transaction: what followed would be kept on its own.
            raise self._failure
        try:
            return self._connection.execute(sql, values)
        except sqlite3.Error as error:
            told = _told(self.path, error)
            if self.is_in_batch:
                self._failure = told
            raise told from error

    @property
    def is_in_batch(self) -> bool:
        """Whether this thread has a batch open."""
        return self._writer == threading.get_ident()

    @contextmanager
    def batch(self) -> Generator[None]:
        """Make one transaction of what is done inside: all of it is in the file, or nothing.

        It is not to be called in a batch.

        Raises:
            BusyError: another process is writing; nothing was done.
            StoreError: it cannot be written.
        """
        with self._lock:
            self.follow()
            self._writer = threading.get_ident()
            try:
                # A transaction that starts by reading could not wait for its turn to write.
                self.execute("BEGIN IMMEDIATE")
                self._write_late()
                yield
                self._write_late()
                self.execute("COMMIT")
                if self._files != _files_at(self.path):
                    raise BusyError(_told_of_loss(self.path))
                del self._late[: self._late_written]
            finally:
                self._writer = None
                self._failure = None
                self._late_written = 0
                if self._connection is not None and self._connection.in_transaction:
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")

    def later(self, write: Callable[[], object]) -> None:
        """Write with the next batch, or `flush`; from any thread."""
        self._late.append(write)

    @property
    def is_late(self) -> bool:
        """Whether there is something for `flush` to write."""
        return bool(self._late)

    def flush(self) -> None:
        """Write what is late.

        Raises:
            StoreError: it cannot be written; it stays late.
        """
        # A batch that is open writes it anyway.
        if self._late and not self.is_in_batch:
            with self.batch():
                pass

    @contextmanager
    def elsewhere(self, mode: Literal["ro", "rw"] = "ro") -> Generator[sqlite3.Connection]:
        """Open a connection for a moment, in any thread, beside the one that writes.

        With `ro` all that is read is of one moment.
        """
        _refuse_after_fork(self.path)
        uri = f"{Path(self.path).absolute().as_uri()}?mode={mode}"
        with self._lock:
            self._elsewhere += 1
        try:
            connection = sqlite3.connect(uri, timeout=_BUSY_SECONDS, isolation_level=None, uri=True)
            try:
                if self._check(connection) < len(self._steps):
                    msg = (
                        f"the delivery log `{self.path}` is of an older version: start the app "
                        "with this version of hubhooks first"
                    )
                    raise StoreError(msg)
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                connection.execute("PRAGMA synchronous = NORMAL")
                if mode == "ro":
                    connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise _told(self.path, error) from error
        finally:
            with self._lock:
                self._elsewhere -= 1

    def checkpoint(self) -> None:
        """Move what was written to its place in the file, if it is enough to be worth it.

        It waits for the disk, so it is for a thread that nobody waits for.
        """
        try:
            size = Path(f"{self.path}-wal").stat().st_size
        except FileNotFoundError:
            return
        if size > _CHECKPOINT_BYTES:
            with self.elsewhere("rw") as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                if size > _TRUNCATE_BYTES:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_LOOP_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._check(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            # Not by whoever happens to commit: see `checkpoint`.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_BYTES}")
            while self._check(connection) < len(self._steps):
                self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> int:
        """Check that the file is ours, and give its version: how many steps it has seen."""
        version, application, has_tables = connection.execute(_WHAT_IT_IS).fetchone()
        if application != _APPLICATION_ID and has_tables:
            msg = f"`{self.path}` belongs to another program: give another path for the log"
            raise ConfigError(msg)
        if version > len(self._steps):
            msg = (
                f"the delivery log `{self.path}` was written by a newer hubhooks (its version is "
                f"{version}, here {len(self._steps)} is known): upgrade hubhooks, or give another "
                "path"
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


class RunnerLock:
    """Says which of several processes runs what is in a log: the one that holds it.

    The lock is an exclusive transaction on a file beside the log. The kernel ends it with the
    process, however that dies.

    Args:
        path: the file of the log.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = f"{_resolved(path)}.runner"
        self._connection: sqlite3.Connection | None = None

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
            raise _told(self._path, error) from error
        return False

    def try_acquire(self) -> bool:
        """Take the lock if nobody else has it, without waiting; whether it is held now.

        Raises:
            ConfigError: the file beside the log cannot be used.
            StoreError: the file cannot be used just now.
        """
        if self._connection is not None:
            return True
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
                return False
            raise _at_opening(self._path, error) from error
        self._connection = connection
        _fork.register(self)
        return True

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
            f"the delivery log `{path}` was open when this process was forked from the one that "
            "serves: only that one can use it. Start serving after the fork, or give this process "
            "a file of its own"
        )
        raise StoreError(msg)


def _files_at(path: str) -> _Files | None:
    """Tell which file is at the path, and which one beside it takes what is written."""
    # At each batch: `Path` would take several times as long.
    try:
        file, aside = os.stat(path), os.stat(f"{path}-wal")  # noqa: PTH116 - see above
    except OSError:
        return None
    return file.st_dev, file.st_ino, aside.st_ino


def _told_of_loss(path: str) -> str:
    return (
        f"the delivery log `{path}`, or the `-wal` file beside it, was removed or replaced while "
        "it was in use; from here on it is what is there now. Leave these files alone while the "
        "app runs, and do not open them in it"
    )


def _resolved(path: str | os.PathLike[str]) -> str:
    # Also where the working directory changes, or a link leads to a file that is yet to be made.
    return str(Path(path).resolve())


def _is_busy(error: sqlite3.Error) -> bool:
    # By its words, as Python 3.10 does not tell the code.
    return "locked" in str(error) or "locking protocol" in str(error)


def _told(path: str, error: sqlite3.Error) -> StoreError:
    advice = _ADVICE.get(str(error), f"failed: {error}")
    return (BusyError if _is_busy(error) else StoreError)(f"the delivery log `{path}` {advice}")


def _at_opening(path: str, error: sqlite3.Error) -> ConfigError | StoreError:
    told = _told(path, error)
    return ConfigError(str(told)) if str(error).startswith(_OWNERS_MISTAKES) else told


def _create(path: str) -> None:
    """Create a file that only its owner reads; SQLite gives the files beside it the same mode."""
    # Not opened if it exists: POSIX has it that to close it again would take all of SQLite's
    # locks on it from this process.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if Path(path).is_dir():
            msg = f"the delivery log `{path}` is a folder: give the path of a file"
            raise ConfigError(msg) from None
    except OSError as error:
        why = (error.strerror or "").lower()
        msg = f"the delivery log `{path}` cannot be created ({why}): give a path that can be"
        raise ConfigError(msg) from error


def _refuse_network(path: str) -> None:
    """Raise `ConfigError` for a file system on which SQLite's locks cannot be relied on."""
    try:
        mounts = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    folder = Path(path).parent
    deepest, kind = 0, ""
    for mount in mounts:
        where, _, what = mount.partition(" - ")
        # A space in the path is written `\040`.
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), where.split()[4])
        if len(point) >= deepest and folder.is_relative_to(point):
            deepest, kind = len(point), what.split()[0]
    if _NETWORK.match(kind):
        msg = (
            f"the delivery log `{path}` is on a network file system ({kind}), where it would lose "
            "deliveries: give a path on a local disk, or `allow_network=True`"
        )
        raise ConfigError(msg)
