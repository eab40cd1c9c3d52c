"""Claim runs for this process, and keep the claimed ones until they end."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from hubhooks._worker.execution import RunExecution
from hubhooks._worker.scheduler import Scheduler
from hubhooks.ordering import superseded_of

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Sequence

    from hubhooks._store.base import DeliveryStore, Due
    from hubhooks._worker.execution import Reporter
    from hubhooks._worker.leadership import Leadership
    from hubhooks._worker.polls import PollSchedule
    from hubhooks._worker.scheduler import CrashQuarantine
    from hubhooks._worker.timeouts import Timeouts
    from hubhooks.models import AcceptedRuns
    from hubhooks.routing import Router

__all__ = ["Claims"]

# A context may keep a whole request alive.
_MAX_CONTEXTS = 1000


class Claims:
    """The claimed runs of a worker, each with its slot.

    Args:
        router: finds handlers by name, at each run: a reloaded script has new ones.
        store: has the deliveries and their runs.
        leadership: only the leader claims runs.
        quarantine: no run is claimed beside a crashed run that runs alone.
        polls: the schedule of the looks at the store.
        reporter: what the runs report to.
        slots: how many runs may run at the same time.
        timeouts: the times of the worker.
        clock: returns seconds of a monotonic clock.
    """

    def __init__(  # noqa: PLR0913 - all of them are needed
        self,
        router: Router,
        store: DeliveryStore,
        leadership: Leadership,
        quarantine: CrashQuarantine[RunExecution],
        polls: PollSchedule,
        *,
        reporter: Reporter,
        slots: int,
        timeouts: Timeouts,
        clock: Callable[[], float],
    ) -> None:
        self.scheduler = Scheduler(slots, self._limit_of)
        """Decides which runs may start."""
        self.is_draining = False
        """True once the worker is stopping."""
        self._router = router
        self._store = store
        self._leadership = leadership
        self._quarantine = quarantine
        self._polls = polls
        self._reporter = reporter
        self._timeouts = timeouts
        self._clock = clock
        self._running: dict[RunExecution, None] = {}
        self._lock = threading.Lock()
        # Of requests of this process whose runs have not started. A retry has none.
        self._contexts: dict[tuple[str, str], contextvars.Context] = {}

    # ---- the claimed runs ----------------------------------------------------------------------

    @property
    def running(self) -> tuple[RunExecution, ...]:
        """The claimed runs that have not ended."""
        return tuple(self._running)

    @property
    def is_idle(self) -> bool:
        """True if nothing runs, except stuck runs, which may never end."""
        return all(run.is_stuck for run in self.running)

    @property
    def next_deadline(self) -> float:
        """The first deadline of a run, by the clock; infinite if there is none."""
        deadlines = [run.deadline for run in self.running if run.deadline is not None]
        return min(deadlines, default=math.inf)

    def mark_stuck(self, now: float) -> None:
        """Mark the runs as stuck whose deadline passed."""
        for run in self.running:
            if run.deadline is not None and now >= run.deadline:
                run.mark_stuck()

    def free(self, run: RunExecution) -> None:
        """Free the slot of a run that ended, from any thread."""
        with self._lock:
            if self._running.pop(run, self) is self:
                return
            has_limit = self.scheduler.remove(run.name) or run.is_grouped
            was_alone = self._quarantine.end(run)
        if has_limit or was_alone:
            self._polls.is_needed = True

    def switch_off(self) -> None:
        """In a forked child, leave the runs to the parent."""
        self.is_draining = True
        # A thread of the parent may have held it.
        self._lock = threading.Lock()
        self._running = {}

    # ---- claim ---------------------------------------------------------------------------------

    def may_start(self) -> bool:
        """Return whether this process may start runs now."""
        # At a stop, the queue of a store on disk waits for the next start.
        return (
            self._leadership.is_leader
            and self._leadership.successor is None
            and not (self.is_draining and self._store.path)
        )

    def claim_accepted(
        self, accepted: AcceptedRuns, context: contextvars.Context
    ) -> list[RunExecution]:
        """Claim the runs of a delivery that may start now, in the transaction that stores it.

        Args:
            accepted: the delivery and its matching handlers.
            context: the context of the request, also for runs that start later.
        """
        polls = self._polls
        if self._leadership.is_leader:
            for name in accepted.handlers:
                self._contexts[accepted.delivery_id, name] = context
            while len(self._contexts) > _MAX_CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
        if polls.is_needed or self._quarantine.alone is not None or not self.may_start():
            # Older runs, or a crashed one, come first.
            polls.is_needed = True
            return []
        claimed: list[RunExecution] = []
        try:
            for name in accepted.handlers:
                if self.scheduler.may_start(name):
                    run = self._claim(accepted.delivery_id, name)
                    if run is not None:
                        run.event = accepted.event
                        claimed.append(run)
                elif self.scheduler.free <= 0:
                    polls.is_needed = True
                # The end of a run of a handler at its limit requires a look.
        except BaseException:
            self.release(claimed)
            raise
        return claimed

    def claim_ready(self, chosen: Sequence[Due]) -> list[RunExecution]:
        """Claim ready runs, all in one transaction."""
        claimed: list[RunExecution] = []
        if chosen:
            try:
                with self._store.transaction():
                    for delivery_id, name in chosen:
                        if run := self._claim(delivery_id, name):
                            claimed.append(run)
            except BaseException:
                self.release(claimed)
                raise
        return claimed

    def release(self, runs: Sequence[RunExecution]) -> None:
        """Undo claims whose transaction failed."""
        for run in runs:
            # The transaction may be in the file although it failed: see `Database.transaction`.
            self._store.unclaim(run.run_context)
            self.free(run)
        self._polls.is_needed = True

    def _claim(self, delivery_id: str, name: str) -> RunExecution | None:
        handler = self._router.handler(name)
        if handler is None:
            # The run stays queued until a process has the handler or a user ends it.
            self._polls.may_be_unknown = self._polls.is_needed = True
            return None
        is_grouped = handler.policy.is_grouped
        run_context = self._store.claim(delivery_id, name, is_grouped=is_grouped)
        if run_context is None:
            if is_grouped:
                # The run may wait for a newer delivery: the next look finds out how long.
                self._polls.add_ready_now()
            return None
        if handler.policy.debounce is not None:
            superseded = superseded_of(*self._store.read_superseded(delivery_id, name))
            run_context = run_context._replace(superseded=superseded)
        run = RunExecution(
            self._reporter, handler, run_context, self._clock, self._timeouts.cancel_grace
        )
        context = self._contexts.pop((delivery_id, name), None)
        if context is not None:
            run.context = context.copy()
        with self._lock:
            self._running[run] = None
            self.scheduler.add(name)
        return run

    def _limit_of(self, name: str) -> int | None:
        handler = self._router.handler(name)
        return None if handler is None else handler.policy.concurrency
