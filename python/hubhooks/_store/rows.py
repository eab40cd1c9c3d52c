"""Rows of the store as models."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from hubhooks._store import clock, schema
from hubhooks._store.base import LONGEST_TRACEBACK
from hubhooks.models import UNFINISHED, Attempt, Delivery, Run, State, aggregate_state

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    Execute: TypeAlias = Callable[[str, Sequence[object]], sqlite3.Cursor]

__all__ = [
    "OLDER_THAN", "SINCE", "end_waiting_run", "find_delivery", "read_body", "read_by_seq",
    "read_page", "read_where", "to_datetime", "to_timestamp", "truncate", "write_state",
]  # fmt: skip

# Two criteria of `read_page`.
SINCE = "received_at >= ?"
OLDER_THAN = f"seq < ({schema.SELECT_SEQ})"

# So many deliveries are sorted quickly.
_FEW = 1000
# The last second that `datetime` can convert to every time zone, in the year 9999.
_LAST_SECOND = 253402128000.0


def read_page(execute: Execute, criteria: Mapping[str, object], limit: int) -> list[Delivery]:
    """Read deliveries without their bodies and attempts, the newest first.

    Args:
        execute: executes a statement.
        criteria: SQL with one parameter each, and its value; None for no criterion.
        limit: how many at most.
    """
    given = [(sql, (value,)) for sql, value in criteria.items() if value is not None]
    return read_where(execute, given, limit)


def read_where(
    execute: Execute, conditions: Sequence[tuple[str, Sequence[object]]], limit: int
) -> list[Delivery]:
    """Read deliveries without their bodies and attempts, the newest first.

    Args:
        execute: executes a statement.
        conditions: SQL with its parameters. All of them hold for each delivery.
        limit: how many at most.
    """
    since = next((values for sql, values in conditions if sql == SINCE), None)
    # If few are that recent, sorting them is faster than walking by `seq` to a full page.
    is_few = since is not None and execute(schema.COUNT_RECENT, (*since, _FEW)).fetchone() < (_FEW,)
    order = "+seq" if is_few else "seq"
    where = " AND ".join(sql for sql, _ in conditions) or "true"
    values = [value for _, values in conditions for value in values]
    return _read_deliveries(
        execute, f"WHERE {where} ORDER BY {order} DESC LIMIT ?", (*values, limit)
    )


def read_by_seq(execute: Execute, seqs: Sequence[int]) -> list[Delivery]:
    """Read deliveries without their bodies and attempts, the oldest first."""
    end = f"WHERE seq IN ({', '.join('?' * len(seqs))}) ORDER BY seq"
    return _read_deliveries(execute, end, seqs)


def find_delivery(execute: Execute, delivery_id: str) -> Delivery | None:
    """Read a delivery with the attempts of its runs, without its body."""
    found = _read_deliveries(execute, "WHERE id = ?", (delivery_id,))
    if not found:
        return None
    runs = {run.handler: run for run in found[0].runs}
    (seq,) = execute(schema.SELECT_SEQ, (delivery_id,)).fetchone()
    for handler, *row in execute(schema.SELECT_ATTEMPTS, (seq,)):
        if handler in runs:
            runs[handler].history.append(_read_attempt(row))
    return found[0]


def _read_attempt(row: Sequence[Any]) -> Attempt:
    number, started_at, finished_at, state, *others = row
    ended_at = None if finished_at is None else to_datetime(finished_at)
    # An older version stored no state.
    return Attempt(
        number, to_datetime(started_at), ended_at, State(state) if state else None, *others
    )


def read_body(execute: Execute, delivery_id: str) -> bytes | None:
    """Read the body of a delivery; None if it was dropped."""
    found = execute(schema.SELECT_BODY, (delivery_id,)).fetchone()
    return None if found is None else found[0]


def _read_deliveries(execute: Execute, end: str, values: Sequence[object]) -> list[Delivery]:
    deliveries: list[Delivery] = []
    for row in execute(schema.SELECT_DELIVERIES + end, values).fetchall():
        seq, delivery_id, received_at, scope, action, repo, skipped, reason, *more = row
        delivery = Delivery(
            delivery_id,
            to_datetime(received_at),
            None,
            skipped,
            reason,
            scope=scope,
            action=action,
            repo=repo,
        )
        is_replay, is_acknowledged, delivery.duplicates, headers, delivery.size = more
        delivery.is_replay, delivery.is_acknowledged = bool(is_replay), bool(is_acknowledged)
        delivery.headers = [(name, value) for name, value in json.loads(headers)]
        delivery.runs = [_read_run(row) for row in execute(schema.SELECT_RUNS, (seq,))]
        deliveries.append(delivery)
    return deliveries


def _read_run(row: Sequence[Any]) -> Run:
    run = Run(row[0], attempts=row[2])
    run.state, run.failures, run.crashes = State(row[1]), row[3], row[4]
    times = [None if seconds is None else to_datetime(seconds) for seconds in row[5:8]]
    run.due_at, run.started_at, run.finished_at = times
    if run.state == State.QUEUED:
        run.due_at = None
    run.error, run.traceback = row[8:]
    return run


def to_datetime(seconds: float) -> datetime:
    """Convert a time of the store."""
    # Another program can write any number. It must not make the delivery unreadable.
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_SECOND), timezone.utc)


def to_timestamp(when: datetime | None) -> float | None:
    """Convert a time for the store."""
    return None if when is None else when.timestamp()


def truncate(text: str) -> str:
    """Cut a text to the longest that is kept: its end, where a traceback has the error."""
    return text[-LONGEST_TRACEBACK:].encode("utf-8", "backslashreplace").decode()


def end_waiting_run(execute: Execute, seq: int, handler: str, state: State, error: str) -> None:
    """End a run that waits, without an attempt."""
    execute(schema.END_WAITING_RUN, (clock.now(), state, error, seq, handler))
    execute(schema.DELETE_OPEN_RUN, (seq, handler))


def write_state(execute: Execute, seq: int, *, is_acknowledged: bool = False) -> bool:
    """Derive the state of a delivery from its runs; return whether it has unfinished runs.

    Args:
        execute: executes a statement in a transaction.
        seq: the number of the delivery.
        is_acknowledged: whether its response is known to have arrived.
    """
    states = [State(state) for (state,) in execute(schema.SELECT_STATES, (seq,))]
    execute(schema.SET_STATE, (aggregate_state(states), is_acknowledged, seq))
    return not UNFINISHED.isdisjoint(states)
