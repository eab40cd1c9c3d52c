"""The files of a store: which ones belong together, and which ones somebody changed.

SQLite trusts that nobody changes its three files. It applies a `-wal` file to any database beside
it. If a `-shm` file is truncated, the process ends with SIGBUS. So the files are compared before
and after each transaction, and the leader writes down which ones it uses.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from hubhooks._process import Process, current_process, is_alive
from hubhooks.errors import StoreError

__all__ = [
    "LeaderFile",
    "StoreFiles",
    "has_wal_header",
    "is_sound",
    "is_sound_with_wal",
    "is_wal_header",
    "move_aside",
    "replace_file",
]

# The first four bytes of a `-wal` file, in either byte order of its checksums.
_WAL_MAGIC = frozenset({b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"})
_MODE = 0o600


class StoreFiles(NamedTuple):
    """The files of a store at one moment; all zero for a missing file."""

    device: int
    db: int
    """The inode of the database."""
    db_size: int
    db_time: int
    """The time of the last write to the database, in nanoseconds; mostly of a checkpoint."""
    wal: int
    wal_size: int
    shm: int
    shm_size: int

    @classmethod
    def at(cls, path: str) -> StoreFiles:
        """Look at the files at a path, without opening them.

        Opening and closing one drops the locks that SQLite holds on it for this process
        (https://www.sqlite.org/howtocorrupt.html).
        """
        db, wal, shm = _stat(path), _stat(f"{path}-wal"), _stat(f"{path}-shm")
        return cls(
            0 if db is None else db.st_dev,
            *(0, 0, 0) if db is None else (db.st_ino, db.st_size, db.st_mtime_ns),
            *(0, 0) if wal is None else (wal.st_ino, wal.st_size),
            *(0, 0) if shm is None else (shm.st_ino, shm.st_size),
        )

    @property
    def identity(self) -> tuple[int, int]:
        """The device and inode of the database."""
        return self.device, self.db

    def are_same_files(self, now: StoreFiles) -> bool:
        """Return whether no file was replaced or removed since."""
        return (
            self.db == now.db
            and self.wal == now.wal
            and self.shm == now.shm
            and self.device == now.device
        )

    def are_same(self, now: StoreFiles) -> bool:
        """Return whether no file was replaced, removed or made shorter since.

        SQLite itself shortens only the `-wal` file, and the database after a VACUUM.
        """
        return (
            self.db_size <= now.db_size
            and self.shm_size <= now.shm_size
            and self.are_same_files(now)
        )

    def is_wal_foreign(self, now: StoreFiles) -> bool:
        """Return whether the `-wal` file there now was written for another database.

        A mount can change the device number, so another device number alone proves nothing.
        """
        is_another = now.device == self.device and now.db != self.db
        is_emptied = now.db_size == 0 < self.db_size
        return (is_another or is_emptied) and now.wal == self.wal != 0 and now.wal_size > 0


def _stat(path: str) -> os.stat_result | None:
    # Several times for each write batch: `Path` would take several times as long.
    try:
        return os.stat(path)  # noqa: PTH116 - see above
    except OSError:
        return None


class LeaderFile(NamedTuple):
    """The leader's file beside a store: the process, and the files that it uses."""

    process: Process
    since: float
    files: StoreFiles
    progress: int
    """The progress of the database without its `-wal` file: a number that only grows."""
    is_closed: bool
    """Whether the process resigned as the leader."""

    @staticmethod
    def path_of(store: str) -> str:
        """Return the path of the file beside a store."""
        return f"{store}.leader"

    @classmethod
    def read(cls, store: str) -> LeaderFile | None:
        """Read the file beside a store; None if there is none, or none that can be read."""
        try:
            made: Any = json.loads(Path(cls.path_of(store)).read_bytes())
            files = StoreFiles(**{name: int(made["files"][name]) for name in StoreFiles._fields})
            process = Process(int(made["pid"]), str(made["host"]), str(made["start_time"]))
            since, progress = float(made["since"]), int(made["progress"])
            return cls(process, since, files, progress, bool(made["is_closed"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, store: str) -> None:
        """Write the file as a whole. It only explains what happened, so a failure is ignored."""
        made = {
            **self.process._asdict(),
            "since": self.since,
            "progress": self.progress,
            "is_closed": self.is_closed,
            "files": self.files._asdict(),
        }
        path = self.path_of(store)
        new = f"{path}-new"
        with suppress(OSError):
            # Readable for its owner only, like the store.
            with suppress(FileNotFoundError):
                os.unlink(new)  # noqa: PTH108 - as below
            descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(made).encode())
            os.replace(new, path)  # noqa: PTH105 - these are paths as SQLite has them

    @classmethod
    def of_this_process(cls, store: str, files: StoreFiles, progress: int) -> LeaderFile:
        """Describe this process, which leads a store with these files."""
        process = current_process()
        known = cls.read(store)
        is_known = known is not None and known.process == process and not known.is_closed
        since = known.since if known is not None and is_known else time.time()
        return cls(process, since, files, progress, is_closed=False)

    def is_of_living_process(self) -> bool:
        """Return whether another process that is alive leads the store."""
        return (
            not self.is_closed
            and self.process != current_process()
            and is_alive(self.process) is True
        )

    def explain_end(self, now: StoreFiles) -> str:
        """Explain why the leader ended without closing the store; empty if it closed it."""
        if self.is_closed or self.process == current_process() or is_alive(self.process):
            return ""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        changes = self._changes(now)
        why = ", and ".join(changes) or "a possible cause is SIGKILL or too little memory"
        return (
            f"process {self.process.pid}, the leader of the delivery store since {since}, ended "
            f"without closing it: {why}"
        )

    def _changes(self, now: StoreFiles) -> list[str]:
        """List the changes of the files that explain a crash.

        SQLite shortens the `-wal` file itself, and removes it and the `-shm` file when the last
        process closes the store.
        """
        files = self.files
        changes: list[str] = []
        if now.db != files.db:
            changes.append("the file was replaced" if now.db else "the file was removed")
        elif now.db_size < files.db_size:
            changes.append(f"the file was truncated from {files.db_size} to {now.db_size} bytes")
        if now.wal and now.wal != files.wal:
            changes.append("its `-wal` file was replaced")
        if now.shm and now.shm != files.shm:
            changes.append("its `-shm` file was replaced")
        elif now.shm and now.shm_size < files.shm_size:
            changes.append(
                f"its `-shm` file was truncated from {files.shm_size} to {now.shm_size} bytes, "
                "which ends a process with SIGBUS"
            )
        return changes


def is_wal_header(first: bytes) -> bool:
    """Return whether a file that begins with these four bytes is a `-wal` file."""
    return first in _WAL_MAGIC


def has_wal_header(path: str) -> bool:
    """Return whether the `-wal` file beside a database begins with a valid header."""
    try:
        # SQLite holds no locks on the `-wal` file, so closing a descriptor of it drops none.
        with Path(f"{path}-wal").open("rb", buffering=0) as file:
            return is_wal_header(file.read(4))
    except OSError:
        return False


def is_sound(connection: sqlite3.Connection) -> bool:
    """Return whether SQLite finds no damage, in the indexes too."""
    try:
        return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
    except sqlite3.DatabaseError:
        return False


def is_sound_with_wal(path: str) -> bool:
    """Return whether a database and the `-wal` file beside it belong together, trying copies.

    Call this only while the process has no connection to it: see `StoreFiles.at`.
    """
    copy = f"{path}-copy"
    try:
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            os.chmod(f"{copy}{suffix}", _MODE)  # noqa: PTH101 - as above
        with closing(sqlite3.connect(copy)) as connection:
            return is_sound(connection)
    finally:
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{copy}{suffix}")  # noqa: PTH108 - as above


def _check_sound(connection: sqlite3.Connection, path: str) -> None:
    if not is_sound(connection):
        msg = f"the delivery store `{path}` is damaged"
        raise StoreError(msg)


def move_aside(path: str, *suffixes: str) -> list[str]:
    """Rename files of a store, so that SQLite does not use them.

    Returns:
        their new names.
    """
    moved: list[str] = []
    for suffix in suffixes:
        number = 1
        while _stat(new := f"{path}{suffix}.moved-{number}") is not None:
            number += 1
        try:
            os.rename(f"{path}{suffix}", new)  # noqa: PTH104 - these are paths as SQLite has them
        except FileNotFoundError:
            continue
        moved.append(new)
    return moved


def replace_file(path: str, source: sqlite3.Connection) -> None:
    """Put a copy of a database, page by page, in its place.

    If a database is no longer at its path, a connection to it neither writes the `-wal` file back
    nor removes it at its close. So connections of other processes do not touch the copy.

    Args:
        path: the database.
        source: the connection to copy from. It must stay open until the copy is in place.

    Raises:
        StoreError: the copy is damaged.
        sqlite3.Error: the database cannot be copied.
        OSError: the copy cannot be put in its place.
    """
    new = f"{path}-new"
    with suppress(FileNotFoundError):
        os.unlink(new)  # noqa: PTH108 - these are paths as SQLite has them
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, _MODE))
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as copy:
            source.backup(copy)
            _check_sound(copy, path)
        os.replace(new, path)  # noqa: PTH105 - as above
    except BaseException:
        with suppress(OSError):
            os.unlink(new)  # noqa: PTH108 - as above
        raise
