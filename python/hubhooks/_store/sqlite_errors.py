"""SQLite's errors as errors of this package, with advice for the owner of the app."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hubhooks.errors import BusyError, ConfigError, StoreError

if TYPE_CHECKING:
    import sqlite3

__all__ = [
    "code_of_message",
    "damaged_message",
    "error_code",
    "is_busy",
    "is_damage",
    "not_started_message",
    "opening_error",
    "replaced_message",
    "store_error",
]

# Primary result codes: https://www.sqlite.org/rescode.html. Python 3.10 does not have their names.
_BUSY = 5
_LOCKED = 6
_READONLY = 8
_IOERR = 10
_CORRUPT = 11
_FULL = 13
_CANTOPEN = 14
_PROTOCOL = 15
_NOTADB = 26
_PRIMARY_CODE = 0xFF

_ADVICE = {
    _BUSY: "is locked by another program: close that program",
    _LOCKED: "is locked by another program: close that program",
    _PROTOCOL: "is locked by another program: close that program",
    _FULL: "cannot grow, its disk is full: free some space",
    _IOERR: "cannot be read or written: check its disk",
    _CORRUPT: "is damaged: move it and its `-wal` and `-shm` files away, and start with a new file",
    _NOTADB: "is not an SQLite file: give another path, or move the file away",
    _READONLY: "is read-only: make it and its folder writable",
    _CANTOPEN: "cannot be opened: check the path and its permissions",
}
# Parts of SQLite's messages, for `code_of_message`.
_MESSAGES = {
    "is locked": _BUSY,
    "locking protocol": _PROTOCOL,
    "readonly database": _READONLY,
    "disk I/O error": _IOERR,
    "malformed": _CORRUPT,
    "is full": _FULL,
    "unable to open database": _CANTOPEN,
    "is not a database": _NOTADB,
}
_BUSY_CODES = frozenset({_BUSY, _LOCKED, _PROTOCOL})
_DAMAGE_CODES = frozenset({_IOERR, _CORRUPT, _NOTADB})
_MISTAKE_CODES = frozenset({_NOTADB, _READONLY, _CANTOPEN})


def error_code(error: sqlite3.Error) -> int:
    """Return the primary result code of an error; 0 if SQLite did not raise it."""
    if sys.version_info >= (3, 11):
        return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    return code_of_message(str(error))


def code_of_message(message: str) -> int:
    """Return the code for a message; 0 if unknown. On Python 3.10, an error has only a message."""
    return next((code for part, code in _MESSAGES.items() if part in message), 0)


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether another connection holds a lock."""
    return error_code(error) in _BUSY_CODES


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether changed files can be the cause of an error."""
    return error_code(error) in _DAMAGE_CODES


def store_error(path: str, error: sqlite3.Error) -> StoreError:
    """Convert an SQLite error into an error of this package."""
    advice = _ADVICE.get(error_code(error), f"failed: {error}")
    return (BusyError if is_busy(error) else StoreError)(f"the delivery store `{path}` {advice}")


def opening_error(path: str, error: sqlite3.Error) -> ConfigError | StoreError:
    """Convert an SQLite error at opening; a path that cannot be used is a `ConfigError`."""
    at_opening = store_error(path, error)
    is_mistake = error_code(error) in _MISTAKE_CODES
    return ConfigError(str(at_opening)) if is_mistake else at_opening


def replaced_message(path: str) -> str:
    """Return the message about a file that was removed or replaced while the app used it."""
    return (
        f"a file of the delivery store `{path}` was removed or replaced while the app used it. The "
        "app continues with the current files. Do not touch them while it runs"
    )


def damaged_message(path: str) -> str:
    """Return the message about a damaged file."""
    return f"the delivery store `{path}` {_ADVICE[_CORRUPT]}"


def not_started_message(path: str) -> str:
    """Return the message about a file that no app has created."""
    return (
        f"the delivery store `{path}` cannot be opened: the app creates the file at its first "
        "start, or its delivery store has another path"
    )
