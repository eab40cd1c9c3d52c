"""Connections that a forked child inherits from its parent.

SQLite keeps its locks per process and does not know that the child is another process. So the child
neither uses nor closes the parent's connections:
https://sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
"""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING

from hubhooks.errors import StoreError

if TYPE_CHECKING:
    import sqlite3

__all__ = ["leave_to_parent", "refuse_after_fork"]

# In a forked child: the parent's files, and its connections to them.
_parent_files: set[str] = set()
_parent_connections: list[sqlite3.Connection] = []


def leave_to_parent(path: str, connection: sqlite3.Connection) -> None:
    """In a forked child, never use or close a connection of the parent again."""
    if not _parent_connections:
        atexit.register(_keep_connections_open)
    _parent_files.add(path)
    _parent_connections.append(connection)


def _keep_connections_open() -> None:
    """Prevent the interpreter from closing the parent's connections when it drops all objects."""
    import ctypes  # noqa: PLC0415 - only in a forked child that ends like a script

    for connection in _parent_connections:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def refuse_after_fork(path: str) -> None:
    """Raise `StoreError` if the parent of this forked child has a file open."""
    if path in _parent_files:
        msg = (
            f"the delivery store `{path}` was open when this process was forked from a serving "
            "process: only the parent can use it. Start serving after the fork, or give this "
            "process its own file"
        )
        raise StoreError(msg)
