"""SQLite's errors as errors of this package, with advice for the owner of the app."""

from __future__ import annotations

import sqlite3

from hubhooks.errors import BusyError, ConfigError, StoreError

__all__ = [
    "damaged_message",
    "is_busy",
    "is_damage",
    "not_started_message",
    "opening_error",
    "replaced_message",
    "store_error",
]

# SQLite's message, and the advice.
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


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether another connection holds a lock."""
    # By its words, as Python 3.10 does not tell the code.
    return "locked" in str(error) or "locking protocol" in str(error)


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether changed files can be the cause of an error."""
    return isinstance(error, sqlite3.DatabaseError) and str(error) in _DAMAGE


def store_error(path: str, error: sqlite3.Error) -> StoreError:
    """Return the error of this package for an error of SQLite."""
    advice = _ADVICE.get(str(error), f"failed: {error}")
    return (BusyError if is_busy(error) else StoreError)(f"the delivery store `{path}` {advice}")


def opening_error(path: str, error: sqlite3.Error) -> ConfigError | StoreError:
    """Return the same for an error at opening; a path that cannot be used is a `ConfigError`."""
    at_opening = store_error(path, error)
    is_mistake = str(error).startswith(_OWNERS_MISTAKES)
    return ConfigError(str(at_opening)) if is_mistake else at_opening


def replaced_message(path: str) -> str:
    """Return the message about a file that was removed or replaced while the app used it."""
    return (
        f"a file of the delivery store `{path}` was removed or replaced while the app used it. The "
        "app continues with the current files. Do not touch them while it runs"
    )


def damaged_message(path: str) -> str:
    """Return the message about a damaged file."""
    return f"the delivery store `{path}` {_ADVICE['database disk image is malformed']}"


def not_started_message(path: str) -> str:
    """Return the message about a file that no app has created."""
    return (
        f"the delivery store `{path}` cannot be opened: the app creates the file at its first "
        "start, or its delivery store has another path"
    )
