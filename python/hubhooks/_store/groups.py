"""Order runs by repository (`serial=`), and replace queued runs by newer ones (`debounce=`).

Only runs of handlers with these options have a row in `run_groups`. So other handlers pay nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hubhooks._store import schema
from hubhooks._store.rows import end_waiting_run, write_state
from hubhooks.models import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from hubhooks.models import RunGroup

    Execute = Callable[..., Any]

__all__ = [
    "StoredGroup", "is_blocked", "list_ready_in_groups",
    "read_groups", "read_superseded", "seconds_to_next_group", "write_group",
]  # fmt: skip

# A run waits at most so many times its `debounce=` for newer deliveries.
_MAX_WAITS = 10

# An earlier run of the group comes first, in any state, unless it has ended.
_EARLIER = """
    EXISTS (SELECT 1 FROM run_groups AS earlier JOIN open_runs AS other USING (seq, handler)
        WHERE earlier.handler = mine.handler AND earlier.serial = mine.serial
            AND earlier.serial <> '' AND earlier.seq < mine.seq)
"""
_BLOCKED = f"""
    SELECT 1 FROM run_groups AS mine JOIN deliveries USING (seq)
    WHERE id = ? AND mine.handler = ? AND (ready_at > ? OR {_EARLIER})
"""  # noqa: S608 - constants
# `CROSS JOIN` keeps the order: unfinished runs first, which have an index of their own.
_READY = f"""
    SELECT open_runs.seq, position, id, open_runs.handler FROM open_runs
    JOIN deliveries USING (seq)
    LEFT JOIN run_groups AS mine ON mine.seq = open_runs.seq AND mine.handler = open_runs.handler
    WHERE {schema.IS_WAITING} AND open_runs.state = ? AND open_runs.handler = ?
        AND (crashes > 0) = ?
        AND (due_at IS NULL OR due_at <= ? OR started_at > ? OR open_runs.state = 'queued')
        AND (mine.seq IS NULL OR (ready_at <= ? AND NOT {_EARLIER}))
    ORDER BY open_runs.seq, position LIMIT ?
"""  # noqa: S608 - constants
_NEXT = """
    SELECT min(ready_at) FROM run_groups JOIN open_runs USING (seq, handler)
    WHERE run_groups.handler = ? AND state = 'queued' AND ready_at > ?
"""
_QUEUED = """
    SELECT run_groups.seq, first_at FROM run_groups JOIN open_runs USING (seq, handler)
    WHERE run_groups.handler = ? AND subject = ? AND run_groups.seq < ?
        AND state = 'queued' AND attempts = 0
"""
_SUPERSEDE = """
    UPDATE run_groups SET superseded_by = ? WHERE handler = ? AND (seq = ? OR superseded_by = ?)
"""
_SUPERSEDED = """
    SELECT old.id, body FROM deliveries AS new
    JOIN run_groups ON superseded_by = new.seq
    JOIN deliveries AS old ON old.seq = run_groups.seq
    LEFT JOIN bodies ON bodies.seq = old.seq
    WHERE new.id = ? AND handler = ? ORDER BY old.seq
"""


class StoredGroup(NamedTuple):
    """The group of a stored run."""

    handler: str
    serial: str
    subject: str


def write_group(  # noqa: PLR0913, PLR0917 - the columns of a row
    execute: Execute, seq: int, delivery_id: str, handler: str, group: RunGroup, now: float
) -> None:
    """Store the group of a queued run, and replace older queued runs about the same subject."""
    ready_at = first_at = now
    if group.debounce:
        replaced = execute(_QUEUED, (handler, group.subject, seq)).fetchall()
        first_at = min([first for _, first in replaced], default=now)
        ready_at = min(now + group.debounce, first_at + _MAX_WAITS * group.debounce)
        for old, _ in replaced:
            end_waiting_run(execute, old, handler, State.IGNORED, f"replaced by `{delivery_id}`")
            execute(_SUPERSEDE, (seq, handler, old, old))
            write_state(execute, old)
        if ready_at > now:
            due = "UPDATE open_runs SET due_at = ? WHERE seq = ? AND handler = ?"
            execute(due, (ready_at, seq, handler))
    values = (seq, handler, group.serial, group.subject, ready_at, first_at)
    execute("INSERT OR REPLACE INTO run_groups VALUES (?, ?, ?, ?, ?, ?, NULL)", values)


def read_groups(execute: Execute, seq: int) -> list[StoredGroup]:
    """Read the groups of the runs of a delivery."""
    rows = execute("SELECT handler, serial, subject FROM run_groups WHERE seq = ?", (seq,))
    return [StoredGroup(*row) for row in rows]


def is_blocked(execute: Execute, delivery_id: str, handler: str, now: float) -> bool:
    """Return whether a run waits: for a newer delivery, or for an earlier run of its group."""
    return execute(_BLOCKED, (delivery_id, handler, now)).fetchone() is not None


def list_ready_in_groups(  # noqa: PLR0913 - the criteria of the query
    execute: Execute,
    state: State,
    handler: str,
    times: tuple[float, float],
    limit: int,
    *,
    crashed: bool,
) -> list[tuple[int, int, str, str]]:
    """List runs of a handler with groups that can start, the oldest first."""
    now, slack = times
    rows: list[tuple[int, int, str, str]]
    rows = execute(_READY, (state, handler, crashed, now, slack, now, limit)).fetchall()
    return rows


def seconds_to_next_group(execute: Execute, handlers: Iterable[str], now: float) -> float | None:
    """Return the seconds to the end of the next wait for a newer delivery; None if none waits."""
    found = [execute(_NEXT, (handler, now)).fetchone()[0] for handler in handlers]
    return min((at - now for at in found if at is not None), default=None)


def read_superseded(
    execute: Execute, delivery_id: str, handler: str
) -> tuple[tuple[str, ...], bytes | None]:
    """Read the ids of the deliveries that a run replaced, and the body of the oldest one."""
    rows = execute(_SUPERSEDED, (delivery_id, handler)).fetchall()
    return tuple(old for old, _ in rows), (rows[0][1] if rows else None)
