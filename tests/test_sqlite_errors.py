"""Errors of SQLite are recognised by their codes, and by their messages on Python 3.10."""

from __future__ import annotations

import resource
import signal
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from hubhooks._store.sqlite_errors import (
    code_of_message,
    error_code,
    is_busy,
    is_damage,
    opening_error,
    store_error,
)
from hubhooks.errors import BusyError, ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def make(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    connection.execute("CREATE TABLE t (x UNIQUE)")
    connection.execute("INSERT INTO t VALUES (randomblob(20000))")
    return connection


def busy(path: Path) -> None:
    with closing(make(path)) as writer, closing(sqlite3.connect(path, timeout=0)) as other:
        writer.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO t VALUES (1)")


def locked(path: Path) -> None:
    with closing(make(path)) as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        reader = connection.execute("SELECT * FROM t")
        reader.fetchone()
        connection.execute("DROP TABLE t")


def read_only(path: Path) -> None:
    make(path).close()
    uri = f"{path.as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.execute("DELETE FROM t")


def io_error(path: Path) -> None:
    connection = make(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limits[1]))
    try:
        with closing(connection):
            connection.execute("INSERT INTO t VALUES (randomblob(100000))")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def corrupt(path: Path) -> None:
    make(path).close()
    content = bytearray(path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    path.write_bytes(content)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM t ORDER BY x").fetchall()


def corrupt_schema(path: Path) -> None:
    with closing(make(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = 'CREATE TABLE' WHERE name = 't'")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM t")


def full(path: Path) -> None:
    with closing(make(path)) as connection:
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute("INSERT INTO t VALUES (randomblob(1000000))")


def cannot_open(path: Path) -> None:
    sqlite3.connect(path / "missing" / "file")


def not_a_database(path: Path) -> None:
    path.write_bytes(b"not a database, but longer than a header of SQLite" * 100)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM sqlite_master")


def other(path: Path) -> None:
    with closing(make(path)) as connection:
        connection.execute("INSERT INTO t SELECT x FROM t")


def closed(path: Path) -> None:
    connection = make(path)
    connection.close()
    connection.execute("SELECT 1")


def raised_by(cause: Callable[[Path], None], path: Path) -> sqlite3.Error:
    with pytest.raises(sqlite3.Error) as caught:
        cause(path)
    return caught.value


CODES = {
    busy: 5, locked: 6, read_only: 8, io_error: 10, corrupt: 11, corrupt_schema: 11, full: 13,
    cannot_open: 14, not_a_database: 26, other: 19, closed: 0,
}  # fmt: skip
# On Python 3.10 these two are the same, and an error without advice needs no code.
BY_MESSAGE = {6: 5, 19: 0}


@pytest.mark.parametrize("cause", CODES)
def test_error_has_its_code(tmp_path: Path, cause: Callable[[Path], None]) -> None:
    error = raised_by(cause, tmp_path / "file")
    code = CODES[cause]
    by_message = BY_MESSAGE.get(code, code)
    assert code_of_message(str(error)) == by_message
    assert error_code(error) == (code if sys.version_info >= (3, 11) else by_message)
    assert is_busy(error) == (code in {5, 6})
    assert is_damage(error) == (code in {10, 11, 26})


def test_locking_protocol_is_busy() -> None:
    # SQLite gives up after many tries to lock the `-shm` file. No test can make it do so.
    assert code_of_message("locking protocol") == 15
    error = sqlite3.OperationalError("locking protocol")
    error.sqlite_errorcode = 15  # type: ignore[attr-defined,unused-ignore]
    assert is_busy(error)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no error codes")
def test_error_code_has_priority_over_the_message() -> None:
    assert not is_busy(sqlite3.OperationalError("database is locked"))


@pytest.mark.parametrize(
    ("cause", "at_work", "at_opening"),
    [
        (busy, BusyError, BusyError),
        (io_error, StoreError, StoreError),
        (full, StoreError, StoreError),
        (corrupt, StoreError, StoreError),
        (cannot_open, StoreError, ConfigError),
        (not_a_database, StoreError, ConfigError),
        (read_only, StoreError, ConfigError),
        (other, StoreError, StoreError),
    ],
)
def test_sqlite_error_becomes_a_package_error(
    tmp_path: Path,
    cause: Callable[[Path], None],
    at_work: type[Exception],
    at_opening: type[Exception],
) -> None:
    error = raised_by(cause, tmp_path / "file")
    assert type(store_error("hubhooks.db", error)) is at_work
    assert type(opening_error("hubhooks.db", error)) is at_opening
    assert str(store_error("hubhooks.db", error)) == str(opening_error("hubhooks.db", error))
