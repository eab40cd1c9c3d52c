"""Copies of a store."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from hubhooks._store import clock, schema
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from hubhooks._store.connection import Database

__all__ = ["back_up"]

# The files of a store, by the ends of their names.
_SUFFIXES = ("", "-wal", "-shm", "-journal", "-new", ".runner", ".leader", ".leader-new")


def back_up(database: Database, path: str) -> None:
    """Copy a store into a new file that only its owner can read, in any thread.

    No process uses the copy, so the copy has no leader.

    Raises:
        ConfigError: the file exists, or cannot be created.
        StoreError: the store cannot be read now, or the copy cannot be written.
    """
    # Absolute, as SQLite gives names such as `:memory:` another meaning.
    target = os.path.abspath(path)  # noqa: PTH100 - resolves no links, which are refused
    _create_copy(database.path, path, target)
    try:
        statements = ((schema.FORGET_LEADER, ()), (schema.END_ALL_PROCESSES, (clock.now(),)))
        database.backup(target, statements)
    except BaseException:
        for suffix in ("", "-journal", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{target}{suffix}")  # noqa: PTH108 - a path as SQLite has it
        raise


def _create_copy(store: str, path: str, target: str) -> None:
    """Create the empty file of a copy."""
    files = {f"{store}{suffix}" for suffix in _SUFFIXES}
    try:
        is_taken = os.path.realpath(target) in files
        if not is_taken:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        is_taken = True
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        msg = f"cannot create `{path}`: {why}"
        raise ConfigError(msg) from error
    if is_taken:
        msg = f"`{path}` already exists, or belongs to the delivery store: give a new path"
        raise ConfigError(msg)
