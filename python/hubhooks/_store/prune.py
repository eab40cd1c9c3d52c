"""Drops old deliveries and their bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubhooks._store import clock, schema
from hubhooks._store.base import Prunable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from hubhooks._store.connection import Database
    from hubhooks._store.rows import Execute

__all__ = ["CHUNK_ROWS", "Pruner", "drop_body"]

_DAY = 24 * 60 * 60
_IDS_OUTLIVE_BODIES = 7 * _DAY
# The write lock is held for so many deliveries, or about so many bytes, at a time.
CHUNK_ROWS = 500
_CHUNK_BYTES = 8 * 1024 * 1024
# Prune down to 90 % of `max_bytes`, so that there is room until the next time.
_KEPT_SHARE = 0.9


class Pruner:
    """Drops finished deliveries that are too old, and bodies beyond a limit.

    Args:
        database: the store.
        keep_days: how long bodies are kept; ids are kept for a week more.
        max_bytes: the limit for all bodies.
    """

    def __init__(self, database: Database, keep_days: float, max_bytes: int) -> None:
        self._db = database
        self._keep_seconds = keep_days * _DAY
        self._max_bytes = max_bytes

    def count(self) -> Prunable:
        """Count the bodies and deliveries that are old enough to be dropped."""
        old = clock.now() - self._keep_seconds
        with self._db.open_connection() as connection:
            bodies = connection.execute(schema.SUM_OLD_BODIES, (old,)).fetchone()
            very_old = old - _IDS_OUTLIVE_BODIES
            rows = connection.execute(schema.COUNT_OLD_DELIVERIES, (very_old,)).fetchone()
        return Prunable(*bodies, *rows)

    def prune(self) -> int:
        """Drop old deliveries, and old or excess bodies; return how many were dropped.

        It uses several short transactions.
        """
        old = clock.now() - self._keep_seconds
        very_old = old - _IDS_OUTLIVE_BODIES
        dropped = 0
        with self._db.open_connection("rw") as connection:
            while count := self._prune_bodies(connection, old):
                dropped += count
            while count := self._prune_deliveries(connection, very_old):
                dropped += count
            connection.execute(schema.DROP_REJECTIONS, (old,))
            connection.execute(schema.DROP_PROCESSES, (very_old,))
        return dropped

    def _prune_bodies(self, connection: sqlite3.Connection, old: float) -> int:
        (body_bytes,) = connection.execute(schema.SELECT_BODY_BYTES).fetchone()
        excess = body_bytes - self._max_bytes * _KEPT_SHARE
        if excess > 0:
            found = connection.execute(schema.SELECT_OLDEST_BODIES, (CHUNK_ROWS,))
        else:
            found = connection.execute(schema.SELECT_OLD_BODIES, (old, CHUNK_ROWS))
        chosen: list[tuple[int, int]] = []
        chunk = 0
        for seq, size in found:
            if chunk < _CHUNK_BYTES and (chunk < excess or excess <= 0):
                chosen.append((seq, size))
                chunk += size
        return _drop(connection, chosen, rows=False)

    def _prune_deliveries(self, connection: sqlite3.Connection, old: float) -> int:
        chosen = connection.execute(schema.SELECT_OLD_DELIVERIES, (old, CHUNK_ROWS)).fetchall()
        return _drop(connection, chosen, rows=True)


def drop_body(execute: Execute, seq: int, size: int) -> int:
    """Drop a body if its delivery is finished; return how many bytes that frees."""
    return size if execute(schema.DROP_BODY, (seq, seq)).rowcount else 0


def _drop(connection: sqlite3.Connection, chosen: Sequence[tuple[int, int]], *, rows: bool) -> int:
    """Drop bodies, or whole deliveries, in one transaction; return how many."""
    execute = connection.execute
    execute("BEGIN IMMEDIATE")
    freed = sum(drop_body(execute, seq, size) for seq, size in chosen)
    execute(schema.SUBTRACT_BODY_BYTES, (freed,))
    for seq, _ in chosen if rows else ():
        if execute(schema.DROP_DELIVERY, (seq, seq)).rowcount:
            execute(schema.DELETE_OPEN_RUNS, (seq,))
            execute(schema.DELETE_ATTEMPTS, (seq,))
            execute(schema.DELETE_GROUPS, (seq,))
    execute("COMMIT")
    return len(chosen)
