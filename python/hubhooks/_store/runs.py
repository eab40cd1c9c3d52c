"""Starts and ends of runs in a store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hubhooks._store import clock, schema
from hubhooks._store.base import LONGEST_ERROR
from hubhooks._store.groups import (
    list_ready_in_groups,
    read_superseded,
    seconds_to_next_group,
)
from hubhooks._store.rows import read_body, truncate
from hubhooks.models import STARTED, State, aggregate_state, shorten

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from hubhooks._store.base import Due
    from hubhooks._store.connection import Database
    from hubhooks._store.rows import Execute
    from hubhooks.models import Delivery, RunContext

__all__ = ["RunTable", "fail_waiting_runs", "replace_runs"]

# If the clock was set back by more than this, a waiting run starts at once.
_CLOCK_SLACK = 60.0


class _PendingAck:
    """A deferred acknowledgement of a delivery."""

    __slots__ = ("delivery_id", "is_merged")

    def __init__(self, delivery_id: str) -> None:
        self.delivery_id = delivery_id
        self.is_merged = False
        """Whether it is written with the end of a run."""


class RunTable:
    """Finds the runs that can start, and records their ends.

    The ends are deferred writes: if they are lost with the process, a run starts once more.

    Args:
        database: the store.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._pending_acks: dict[str, _PendingAck] = {}

    def list_ready(
        self,
        limit: int,
        without: Sequence[str] = (),
        *,
        among: Container[str] | None = None,
        interrupted: bool = False,
        grouped: Container[str] = (),
    ) -> list[Due]:
        """List runs that can start, the oldest first.

        Args:
            limit: how many at most.
            without: the busy handlers.
            among: the known handlers; None for any.
            interrupted: only runs during which the process died before; else only the others.
            grouped: the handlers with `serial=` or `debounce=`.
        """
        now = clock.now()
        times = (now, now + _CLOCK_SLACK)
        execute = self._db.execute
        found: list[tuple[int, int, str, str]] = []
        # A crashed run is in backoff, never queued.
        for state in (State.RETRYING,) if interrupted else (State.QUEUED, State.RETRYING):
            for (handler,) in execute(schema.SELECT_HANDLERS, (state, state)).fetchall():
                if handler in without or not (among is None or handler in among):
                    continue
                if handler in grouped:
                    found += list_ready_in_groups(
                        execute, state, handler, times, limit, crashed=interrupted
                    )
                else:
                    values = (state, handler, interrupted, *times, limit)
                    found += execute(schema.SELECT_READY, values)
        return [(delivery_id, handler) for _, _, delivery_id, handler in sorted(found)[:limit]]

    def seconds_to_next(self, grouped: Iterable[str] = ()) -> float | None:
        """Return the seconds to the next retry, or to the end of a wait; None if none waits.

        Args:
            grouped: the handlers with `serial=` or `debounce=`.
        """
        now = clock.now()
        (due_at,) = self._db.execute(schema.SELECT_NEXT_DUE, (now,)).fetchone()
        seconds = None if due_at is None else float(due_at - now)
        wait = seconds_to_next_group(self._db.execute, grouped, now)
        return min((each for each in (seconds, wait) if each is not None), default=None)

    def body(self, delivery_id: str) -> bytes | None:
        """Return the body of a delivery that is about to run."""
        return read_body(self._db.execute, delivery_id)

    def read_superseded(
        self, delivery_id: str, handler: str
    ) -> tuple[tuple[str, ...], bytes | None]:
        """Read the ids of the deliveries that a run replaced, and the body of the oldest one."""
        return read_superseded(self._db.execute, delivery_id, handler)

    def unclaim(self, run_context: RunContext) -> None:
        """Record, deferred, that a handler did not start; nothing if `claim` was rolled back."""
        start = (run_context.id, run_context.handler, run_context.attempt)
        self._db.defer(partial(self._end_run, *start, State.RETRYING, clock.now()))

    def mark_stuck(self, run_context: RunContext) -> None:
        """Record, deferred, that a handler is over its timeout and cannot be cancelled."""
        start = (run_context.id, run_context.handler, run_context.attempt)
        self._db.defer(partial(self._end_run, *start, State.STUCK))

    def finish_run(
        self,
        run_context: RunContext,
        ending: State,
        error: str = "",
        traceback: str = "",
        *,
        retry_after: float | None = None,
    ) -> None:
        """Record, deferred, the end of an attempt; ignored if the attempt was given up meanwhile.

        Args:
            run_context: the attempt, from `claim`.
            ending: its outcome.
            error: the reason.
            traceback: the place in the code.
            retry_after: the seconds to the next attempt; None for no retry.
        """
        start = (run_context.id, run_context.handler, run_context.attempt)
        is_retry = retry_after is not None
        state, due_at = (ending, None) if retry_after is None else (
            State.RETRYING, clock.now() + retry_after
        )  # fmt: skip
        how = (truncate(shorten(error, LONGEST_ERROR)), truncate(traceback), int(is_retry))
        is_acknowledged = self._merge_ack(run_context.id)
        self._db.defer(
            partial(self._end_run, *start, state, due_at, *how, is_acknowledged=is_acknowledged)
        )

    def _end_run(  # noqa: PLR0913, PLR0917 - the attempt, and its end
        self,
        delivery_id: str,
        handler: str,
        attempt: int,
        state: str,
        due_at: float | None = None,
        error: str = "",
        traceback: str = "",
        failures: int = 0,
        crashes: int = 0,
        *,
        is_acknowledged: bool = False,
    ) -> None:
        execute = self._db.execute
        seq, states = None, list[str]()
        for run_seq, name, run_attempt, run_state in execute(schema.SELECT_STATES, (delivery_id,)):
            # A later attempt of the same run is not meant.
            matches = name == handler and run_attempt == attempt
            if matches and run_state in STARTED:
                seq = run_seq
            states.append(state if matches else run_state)
        if seq is None:
            if is_acknowledged:
                execute(schema.SET_ACKNOWLEDGED, (delivery_id,))
            return
        if state == State.STUCK:
            execute(schema.SET_STUCK, (seq, handler))
        else:
            finished_at = None if state == State.RETRYING else clock.now()
            counts = (failures, crashes)
            values = (state, due_at, finished_at, error, traceback, *counts, seq, handler)
            execute(schema.END_RUN, values)
        execute(schema.SET_STATE, (aggregate_state(states), is_acknowledged, seq))

    def mark_acknowledged(self, delivery_id: str, *, delivered: bool) -> None:
        """Record, deferred, whether the Hub is known to have received the response."""
        # Once acknowledged, a delivery stays acknowledged.
        if delivered:
            self._pending_acks[delivery_id] = ack = _PendingAck(delivery_id)
            self._db.defer(partial(self._write_ack, ack))

    def _write_ack(self, ack: _PendingAck) -> None:
        self._pending_acks.pop(ack.delivery_id, None)
        if not ack.is_merged:
            self._db.execute(schema.SET_ACKNOWLEDGED, (ack.delivery_id,))

    def _merge_ack(self, delivery_id: str) -> bool:
        """Write the deferred acknowledgement of a delivery, if any, with another update."""
        ack = self._pending_acks.pop(delivery_id, None)
        if ack is not None:
            ack.is_merged = True
        return ack is not None


def replace_runs(execute: Execute, known: Delivery, handlers: Sequence[str], new: str) -> bool:
    """Queue another handler in place of some, in a transaction; see `SqliteStore.replay_as`."""
    now = clock.now()
    runs = {run.handler: run for run in known.runs if run.state not in STARTED}
    replaced = [runs[name] for name in handlers if name in runs and name != new]
    is_running = new not in runs and any(run.handler == new for run in known.runs)
    if not replaced or is_running:
        return False
    (seq,) = execute(schema.SELECT_SEQ, (known.id,)).fetchone()
    for run in replaced:
        error = f"replayed as `{new}`{run.error and ': '}{run.error}"
        values = (State.IGNORED, None, now, error, run.traceback, 0, 0, seq, run.handler)
        execute(schema.END_RUN, values)
        run.state = State.IGNORED
    if new in runs:
        execute(schema.REQUEUE_RUN, (now, seq, new))
        runs[new].state = State.QUEUED
    else:
        execute(schema.INSERT_QUEUED_RUN, (seq, new, len(known.runs), now))
    states = [*(run.state for run in known.runs), State.QUEUED]
    execute(schema.SET_STATE, (aggregate_state(states), False, seq))
    execute(schema.CLEAR_SKIPPED, (seq,))
    return True


def fail_waiting_runs(execute: Execute, handler: str, error: str, limit: int) -> int:
    """Fail waiting runs of a handler, in a transaction; return how many."""
    found = execute(schema.SELECT_WAITING_RUNS, (handler, limit)).fetchall()
    for (seq,) in found:
        values = (State.FAILED, None, clock.now(), error, "", 0, 0, seq, handler)
        execute(schema.END_RUN, values)
        states = [row[0] for row in execute(schema.SELECT_RUN_STATES, (seq,))]
        execute(schema.SET_STATE, (aggregate_state(states), False, seq))
    return len(found)
