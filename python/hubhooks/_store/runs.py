"""Starts and ends of runs in a store."""

from __future__ import annotations

import math
import threading
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from hubhooks._store import clock, schema
from hubhooks._store.base import LONGEST_ERROR
from hubhooks._store.groups import (
    list_ready_in_groups,
    read_superseded,
    seconds_to_next_group,
)
from hubhooks._store.rows import end_waiting_run, read_body, truncate, write_state
from hubhooks.models import STARTED, State, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from hubhooks._store.base import Due, Recorded
    from hubhooks._store.connection import Database
    from hubhooks._store.inserts import ClaimedRun, NewDeliveries
    from hubhooks._store.rows import Execute
    from hubhooks.models import Delivery, RunContext

__all__ = ["EndedAttempt", "RunTable", "fail_waiting_runs", "replace_runs"]

# If the clock was set back by more seconds, a waiting run starts at once.
_CLOCK_SLACK = 60.0


class EndedAttempt(NamedTuple):
    """The end of an attempt, to be written."""

    seq: int
    handler: str
    attempt: int
    state: State
    """The state of its run; `retrying` if another attempt follows."""
    outcome: State
    due_at: float | None = None
    error: str = ""
    traceback: str = ""
    failures: int = 0
    is_single: bool = False
    """Whether its delivery has no other run."""
    is_acknowledged: bool = False
    """Whether the response is known to have arrived since."""
    crashes: int = 0
    recorded: Recorded | None = None


class _PendingEnds:
    """Deferred ends and acknowledgements, which one group of statements writes."""

    __slots__ = ("acks", "ends")

    def __init__(self) -> None:
        self.ends: list[EndedAttempt] = []
        self.acks: dict[str, None] = {}


class RunTable:
    """Finds the runs that can start, and records their ends.

    The ends are deferred writes: if they are lost with the process, a run starts once more.

    Args:
        database: the store.
        new: the new deliveries of a transaction.
        timer: the clock for retries and waits.
        is_shared: whether other processes can use the store.
    """

    def __init__(
        self,
        database: Database,
        new: NewDeliveries,
        timer: Callable[[], float],
        *,
        is_shared: bool,
    ) -> None:
        self._db = database
        self._new = new
        self._timer = timer
        self._is_shared = is_shared
        # Nobody sets the clock of a store that is not shared.
        self._clock_slack = _CLOCK_SLACK if is_shared else math.inf
        # Runs end in any thread.
        self._ends_lock = threading.Lock()
        self._pending_ends: _PendingEnds | None = None
        self._claimed: dict[tuple[str, str, int], ClaimedRun] = {}

    def list_ready(
        self,
        limit: int,
        without: Sequence[str] = (),
        *,
        among: Container[str] | None = None,
        crashed: bool = False,
        grouped: Container[str] = (),
    ) -> list[Due]:
        """List runs that can start, the oldest first.

        Args:
            limit: how many at most.
            without: the busy handlers.
            among: the known handlers; None for any.
            crashed: only runs during which the process died before; else only the others.
            grouped: the handlers with `serial=` or `debounce=`.
        """
        now = self._timer()
        times = (now, now + self._clock_slack)
        execute = self._db.execute
        found: list[tuple[int, int, str, str]] = []
        # A crashed run is in backoff, never queued.
        for state in (State.RETRYING,) if crashed else (State.QUEUED, State.RETRYING):
            for (handler,) in execute(schema.SELECT_HANDLERS, (state, state)).fetchall():
                if handler in without or not (among is None or handler in among):
                    continue
                if handler in grouped:
                    found += list_ready_in_groups(
                        execute, state, handler, times, limit, crashed=crashed
                    )
                else:
                    values = (state, handler, crashed, *times, limit)
                    found += execute(schema.SELECT_READY, values)
        return [(delivery_id, handler) for _, _, delivery_id, handler in sorted(found)[:limit]]

    def seconds_to_next(self, grouped: Iterable[str] = ()) -> float | None:
        """Return the seconds until the next retry is due or the next wait ends; None if none.

        Args:
            grouped: the handlers with `serial=` or `debounce=`.
        """
        now = self._timer()
        (due_at,) = self._db.execute(schema.SELECT_NEXT_DUE, (now,)).fetchone()
        seconds = None if due_at is None else float(due_at - now)
        wait = seconds_to_next_group(self._db.execute, grouped, now)
        return min((each for each in (seconds, wait) if each is not None), default=None)

    def body(self, delivery_id: str) -> bytes | None:
        """Return the body of a delivery; None if it is unknown or its body was dropped."""
        return read_body(self._db.execute, delivery_id)

    def read_superseded(
        self, delivery_id: str, handler: str
    ) -> tuple[tuple[str, ...], bytes | None]:
        """Read the ids of the deliveries that a run replaced, and the body of the oldest one."""
        return read_superseded(self._db.execute, delivery_id, handler)

    def unclaim(self, run_context: RunContext) -> None:
        """Record, deferred, that a handler did not start; nothing if `claim` was rolled back."""
        self._end(run_context, State.RETRYING, State.RETRYING, self._timer())

    def mark_stuck(self, run_context: RunContext) -> None:
        """Record, deferred, that a handler is over its timeout and cannot be cancelled."""
        self._db.defer(partial(self._write_stuck, run_context))

    def finish_run(  # noqa: PLR0913 - the facts of an end
        self,
        run_context: RunContext,
        ending: State,
        error: str = "",
        traceback: str = "",
        *,
        retry_after: float | None = None,
        recorded: Recorded | None = None,
    ) -> None:
        """Record, deferred, the end of an attempt; ignored if the attempt was given up meanwhile.

        Args:
            run_context: the attempt, from `claim`.
            ending: its outcome.
            error: the reason.
            traceback: the place in the code.
            retry_after: the seconds to the next attempt; None for no retry.
            recorded: what the handler printed and returned; None if it was not recorded.
        """
        state, due_at = State(ending), None
        if retry_after is not None:
            state, due_at = State.RETRYING, self._timer() + retry_after
        texts = truncate(shorten(error, LONGEST_ERROR)), truncate(traceback)
        failures = int(retry_after is not None)
        self._end(
            run_context, state, State(ending), due_at, *texts, failures=failures, recorded=recorded
        )

    def _end(  # noqa: PLR0913, PLR0917 - the facts of an end
        self,
        run_context: RunContext,
        state: State,
        outcome: State,
        due_at: float | None,
        error: str = "",
        traceback: str = "",
        *,
        failures: int = 0,
        recorded: Recorded | None = None,
    ) -> None:
        delivery_id, handler, attempt = run_context.id, run_context.handler, run_context.attempt
        claimed = self._claimed.pop((delivery_id, handler, attempt), None)
        how = (handler, attempt, state, outcome, due_at, error, traceback, failures)
        if claimed is None:
            # The file at the path was replaced since, and has other numbers.
            lost = EndedAttempt(0, *how, recorded=recorded)
            self._db.defer(lambda: self._end_by_id(delivery_id, lost))
            return
        with self._ends_lock:
            pending, is_new = self._open_pending()
            # One statement writes both.
            is_acknowledged = pending.acks.pop(delivery_id, self) is None
            # In memory, `_write_state` counts the ended deliveries, so each end must call it.
            is_single = claimed.is_single and self._is_shared
            end = EndedAttempt(claimed.seq, *how, is_single, is_acknowledged, recorded=recorded)
            pending.ends.append(end)
        if is_new:
            self._db.defer(partial(self._write_pending, pending))

    def _end_by_id(self, delivery_id: str, end: EndedAttempt) -> None:
        seq = self._new.seq(delivery_id)
        if seq is not None:
            self._write_ends([end._replace(seq=seq)])

    def mark_acknowledged(self, delivery_id: str, *, delivered: bool) -> None:
        """Record, deferred, whether the Hub is known to have received the response."""
        # Once acknowledged, a delivery stays acknowledged.
        if not delivered:
            return
        with self._ends_lock:
            pending, is_new = self._open_pending()
            pending.acks[delivery_id] = None
        if is_new:
            self._db.defer(partial(self._write_pending, pending))

    def _open_pending(self) -> tuple[_PendingEnds, bool]:
        """Return what the next transaction writes, and whether it is new."""
        is_new = self._pending_ends is None
        self._pending_ends = pending = self._pending_ends or _PendingEnds()
        return pending, is_new

    def _write_pending(self, pending: _PendingEnds) -> None:
        with self._ends_lock:
            # From now on nothing is added. If the transaction fails, the next one writes the same.
            if self._pending_ends is pending:
                self._pending_ends = None
        if pending.ends:
            self._write_ends(pending.ends)
        if pending.acks:
            self._db.executemany(schema.SET_ACKNOWLEDGED, [(each,) for each in pending.acks])

    def _write_ends(self, ends: Sequence[EndedAttempt]) -> None:
        """Write the ends of attempts, in a transaction. An attempt that was given up has none."""
        write = self._db.executemany
        now = clock.now()
        singles = [end for end in ends if end.is_single]
        others = [end for end in ends if not end.is_single and self._is_started(end)]
        written = 0
        if singles:
            states = [
                (end.state, end.is_acknowledged, end.seq, end.seq, end.handler, end.attempt)
                for end in singles
            ]
            written = write(schema.SET_STATE_OF_SINGLE, states).rowcount
        if written + len(others) < len(ends):
            # An attempt that was given up does not end here, but its acknowledgement is still true.
            acks = [(end.seq,) for end in ends if end.is_acknowledged]
            write(schema.SET_ACKNOWLEDGED_BY_SEQ, acks)
        ends = [*singles, *others]
        write(
            schema.END_ATTEMPT,
            [
                (
                    now, end.outcome, end.error, end.traceback, end.state != State.RETRYING,
                    end.failures, end.crashes, end.seq, end.handler, end.attempt,
                )
                for end in ends
            ],
        )  # fmt: skip
        if recorded := [end for end in ends if end.recorded is not None]:
            write(
                schema.SET_RECORDED,
                [
                    (*(end.recorded or ()), end.seq, end.handler, end.attempt, now)
                    for end in recorded
                ],
            )
        if last := [end for end in ends if end.state != State.RETRYING]:
            write(schema.END_RUN, [(end.seq, end.handler, end.attempt) for end in last])
        if retried := [end for end in ends if end.state == State.RETRYING]:
            write(
                schema.RETRY_RUN,
                [
                    (
                        end.due_at, end.error, end.traceback, end.failures, end.crashes, end.seq,
                        end.handler, end.attempt,
                    )
                    for end in retried
                ],
            )  # fmt: skip
        # Whether the response is known to have arrived, by delivery.
        deliveries: dict[int, bool] = {}
        for end in others:
            deliveries[end.seq] = deliveries.get(end.seq, False) or end.is_acknowledged
        for seq, is_acknowledged in deliveries.items():
            self._write_state(seq, is_acknowledged=is_acknowledged)

    def _is_started(self, end: EndedAttempt) -> bool:
        values = (end.seq, end.handler, end.attempt)
        return self._db.execute(schema.IS_STARTED, values).fetchone() is not None

    def _write_state(self, seq: int, *, is_acknowledged: bool = False) -> None:
        """Derive the state of a delivery from its runs, and count it if it has ended."""
        if not write_state(self._db.execute, seq, is_acknowledged=is_acknowledged):
            self._new.settle(seq)

    def _write_stuck(self, run_context: RunContext) -> None:
        seq = self._new.seq(run_context.id)
        if seq is not None:
            values = (seq, run_context.handler, run_context.attempt)
            if self._db.execute(schema.SET_STUCK, values).rowcount:
                self._write_state(seq)


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
        note = f"replayed as `{new}`"
        error = (
            run.error if run.error.startswith(note) else f"{note}{run.error and ': '}{run.error}"
        )
        if run.is_open:
            end_waiting_run(execute, seq, run.handler, State.IGNORED, error)
        else:
            execute(schema.SET_OUTCOME, (State.IGNORED, error, seq, run.handler))
    if new in runs and runs[new].is_open:
        execute(schema.REQUEUE_RUN, (now, seq, new))
    elif new in runs:
        execute(schema.REOPEN_RUN, (now, seq, new))
        execute(schema.CLEAR_LAST_ATTEMPT, (seq, new))
    else:
        execute(schema.INSERT_QUEUED_RUN, (seq, new, len(known.runs), now))
    write_state(execute, seq)
    execute(schema.CLEAR_SKIPPED, (seq,))
    return True


def fail_waiting_runs(execute: Execute, handler: str, error: str, limit: int) -> int:
    """Fail waiting runs of a handler, in a transaction; return how many."""
    found = execute(schema.SELECT_WAITING_RUNS, (handler, limit)).fetchall()
    for (seq,) in found:
        end_waiting_run(execute, seq, handler, State.FAILED, error)
        write_state(execute, seq)
    return len(found)
