"""Queries of a store, each through a short-lived connection."""

from __future__ import annotations

import math
import sqlite3
import time
from typing import TYPE_CHECKING

from hubhooks._store import clock, schema
from hubhooks._store.base import Backlog, Found, RunCount
from hubhooks._store.processes import read_leader
from hubhooks._store.rows import (
    OLDER_THAN,
    SINCE,
    find_delivery,
    read_body,
    read_page,
    read_where,
    to_datetime,
    to_timestamp,
)
from hubhooks._store.watch import StoreWatch
from hubhooks.models import State, Stats

if TYPE_CHECKING:
    import builtins
    from collections.abc import Container, Iterable, Iterator, Sequence
    from datetime import datetime

    from hubhooks._store.base import Leader
    from hubhooks._store.connection import Database
    from hubhooks.models import Delivery

__all__ = ["StoreReader"]

# `every` reads so many deliveries at a time.
_PAGE_ROWS = 500
_LAST_CHARACTER = chr(0x10FFFF)
# A count that takes longer is given up. It is measured after so many steps of SQLite.
_COUNT_SECONDS = 1.0
_COUNT_STEPS = 100_000
# `%` and `_` are wildcards of LIKE.
_LIKE_ESCAPES = str.maketrans({character: f"\\{character}" for character in "\\%_"})


class StoreReader:
    """The queries of a store. They work in any thread, and before `open`."""

    _db: Database

    def get(self, delivery_id: str) -> Delivery | None:
        """Return a delivery."""
        with self._db.open_connection() as connection:
            delivery = find_delivery(connection.execute, delivery_id)
            if delivery is not None:
                delivery.body = read_body(connection.execute, delivery_id)
        return delivery

    def deliveries(self, delivery_ids: Iterable[str]) -> builtins.list[Delivery]:
        """Return the known ones of these deliveries, all of one moment, without their bodies."""
        with self._db.open_connection() as connection:
            found = [find_delivery(connection.execute, key) for key in delivery_ids]
        return [delivery for delivery in found if delivery is not None]

    def with_bodies(self, delivery_ids: Iterable[str]) -> set[str]:
        """Return the ids of deliveries whose bodies are still stored."""
        with self._db.open_connection() as connection:
            execute = connection.execute
            return {key for key in delivery_ids if execute(schema.HAS_BODY, (key,)).fetchone()}

    def ids(self, prefix: str, limit: int = 10) -> builtins.list[str]:
        """List ids that begin with a prefix."""
        values = (prefix, prefix + _LAST_CHARACTER, limit)
        with self._db.open_connection() as connection:
            return [row[0] for row in connection.execute(schema.SELECT_IDS, values)]

    def list(  # noqa: PLR0913 - criteria, each optional
        self,
        *,
        state: str | None = None,
        scope: str | None = None,
        repo: str | None = None,
        since: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> builtins.list[Delivery]:
        """List deliveries, the newest first, without their bodies.

        Args:
            state: only those in this state.
            scope: only those of this scope.
            repo: only those of this repository.
            since: only those received then or later.
            before: only those older than the one with this id: the next page.
            limit: how many at most.
        """
        criteria: dict[str, object] = {
            "state = ?": state,
            "scope = ?": scope,
            "repo = ?": repo,
            SINCE: to_timestamp(since),
            OLDER_THAN: before,
        }
        with self._db.open_connection() as connection:
            return read_page(connection.execute, criteria, limit)

    def search(  # noqa: PLR0913 - criteria, each optional
        self,
        *,
        words: Sequence[str] = (),
        state: str | None = None,
        scope: str | None = None,
        repo: str | None = None,
        handler: str | None = None,
        event: str | None = None,
        since: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Found:
        """List deliveries with some words, the newest first, without their bodies.

        Args:
            words: texts without spaces. Each must be in the id, the state, the event, the
                repository, the reason, or a run's handler or error. Case is ignored.
            state: only those in this state.
            scope: only those of this scope.
            repo: only those of this repository.
            handler: only those with a run of this handler.
            event: only those of this scope, or of this `scope.action`.
            since: only those received then or later.
            before: only those older than the one with this id: the next page.
            limit: how many at most.
        """
        patterns = [f"%{word.translate(_LIKE_ESCAPES)}%" for word in words]
        conditions: list[tuple[str, Sequence[object]]] = [
            (sql, (value,))
            for sql, value in (
                ("state = ?", state),
                ("scope = ?", scope),
                ("repo = ?", repo),
                (SINCE, to_timestamp(since)),
                (schema.HAS_HANDLER, handler),
                *((schema.HAS_TEXT, pattern) for pattern in patterns),
            )
            if value is not None
        ]
        if event is not None:
            parent, _, action = event.rpartition(".")
            conditions.append((schema.HAS_EVENT, (event, parent, action)))
        page = [*conditions, (OLDER_THAN, (before,))] if before is not None else conditions
        with self._db.open_connection() as connection:
            deliveries = read_where(connection.execute, page, limit)
            return Found(deliveries, _count_where(connection, conditions))

    def count_runs(self) -> builtins.list[RunCount]:
        """Count the runs by handler and state."""
        with self._db.open_connection() as connection:
            rows = connection.execute(schema.COUNT_RUNS).fetchall()
        return [
            RunCount(handler, State(state), count, last, None if at is None else to_datetime(at))
            for handler, state, count, at, last in rows
        ]

    def watch(self) -> StoreWatch:
        """Return an object that finds changed deliveries."""
        return StoreWatch(self._db)

    def every(
        self, *, state: str | None = None, since: datetime | None = None
    ) -> Iterator[Delivery]:
        """Yield all deliveries of one moment, the newest first, without their bodies.

        Args:
            state: only those in this state.
            since: only those received then or later.
        """
        criteria: dict[str, object] = {"state = ?": state, SINCE: to_timestamp(since)}
        with self._db.open_connection() as connection:
            while page := read_page(connection.execute, criteria, _PAGE_ROWS):
                yield from page
                criteria[OLDER_THAN] = page[-1].id

    def stats(self) -> Stats:
        """Count the deliveries by state, and the rejections."""
        with self._db.open_connection() as connection:
            counts = connection.execute(schema.COUNT_STATES).fetchall()
            (body_bytes,) = connection.execute(schema.SELECT_BODY_BYTES).fetchone()
            oldest = connection.execute(schema.SELECT_OLDEST_UNFINISHED).fetchone()
            rejections = dict(connection.execute(schema.SUM_REJECTIONS).fetchall())
        states = {State(state): count for state, count in counts}
        unfinished_since = None if oldest is None else to_datetime(oldest[0])
        return Stats(states, body_bytes, unfinished_since, rejections)

    def waiting_handlers(self) -> dict[str, int]:
        """Count the waiting runs by handler."""
        with self._db.open_connection() as connection:
            return dict(connection.execute(schema.COUNT_WAITING_RUNS).fetchall())

    def backlog(self) -> Backlog:
        """Describe the waiting runs."""
        with self._db.open_connection() as connection:
            rows = connection.execute(schema.SELECT_BACKLOG).fetchall()
        since = min((row[2] for row in rows), default=math.inf)
        runs = {handler: count for handler, count, _ in rows}
        return Backlog(runs, to_datetime(since) if since <= clock.now() else None)

    def leader(self) -> Leader | None:
        """Return the leader of the store; None if no process is."""
        with self._db.open_connection() as connection:
            row = connection.execute(schema.SELECT_LEADER).fetchone()
        return None if row is None else read_leader(row)

    def unknown_handlers(self, known: Container[str] | None = None) -> dict[str, int]:
        """Count the waiting runs of handlers that the leader does not have.

        Args:
            known: the handlers of this process, used if no process is the leader; None to count
                nothing then.
        """
        waiting = self.waiting_handlers()
        leader = self.leader() if waiting else None
        if leader is not None and leader.handlers is not None:
            known = leader.handlers
        if known is None:
            return {}
        return {name: count for name, count in waiting.items() if name not in known}


def _count_where(
    connection: sqlite3.Connection, conditions: Sequence[tuple[str, Sequence[object]]]
) -> int | None:
    """Count the deliveries for which all conditions hold; None if that takes too long."""
    where = " AND ".join(sql for sql, _ in conditions) or "true"
    values = [value for _, values in conditions for value in values]
    deadline = time.monotonic() + _COUNT_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _COUNT_STEPS)
    try:
        row = connection.execute(f"{schema.COUNT_DELIVERIES} WHERE {where}", values).fetchone()
    except sqlite3.OperationalError:
        if time.monotonic() > deadline:
            return None
        raise
    finally:
        connection.set_progress_handler(None, 0)
    return int(row[0])
