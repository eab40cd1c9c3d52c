"""Start the ready runs of the store: queued runs, and retries that are due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubhooks._core import HubEvent
from hubhooks._logging import get_logger
from hubhooks.errors import PayloadError, StoreError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from hubhooks._store.base import DeliveryStore
    from hubhooks._worker.claims import Claims
    from hubhooks._worker.execution import RunExecution
    from hubhooks._worker.leadership import Leadership
    from hubhooks._worker.polls import PollSchedule
    from hubhooks._worker.scheduler import CrashQuarantine
    from hubhooks._worker.timeouts import Timeouts
    from hubhooks.routing import Router

__all__ = ["ReadyRuns"]

_log = get_logger()


class ReadyRuns:
    """Finds ready runs in the store, and starts them. Crashed runs start in quarantine.

    Args:
        router: has the handlers of this process.
        store: has the deliveries and their runs.
        leadership: records the handlers of this process.
        quarantine: decides when a crashed run may start.
        polls: the schedule of the looks at the store.
        claims: the claimed runs.
        start: starts a claimed run.
        find_loop: returns the loop of async handlers; None for a loop of their own.
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
        claims: Claims,
        start: Callable[[RunExecution], None],
        find_loop: Callable[[], asyncio.AbstractEventLoop | None],
        timeouts: Timeouts,
        clock: Callable[[], float],
    ) -> None:
        self._router = router
        self._store = store
        self._leadership = leadership
        self._quarantine = quarantine
        self._polls = polls
        self._claims = claims
        self._start = start
        self._find_loop = find_loop
        self._timeouts = timeouts
        self._clock = clock
        self._logged_unknown: set[str] = set()

    def start_needed(self, now: float) -> None:
        """Start the ready runs if a look at the store is needed and runs may start."""
        self._end_isolation(now)
        if self._polls.is_needed and self._claims.may_start():
            self._start_ready()

    def has_ready(self) -> bool:
        """Return whether the store has runs of this process's handlers that can start."""
        known, grouped = self._router.handler_names, self._grouped()
        return bool(self._store.list_ready(1, among=known, grouped=grouped))

    def _end_isolation(self, now: float) -> None:
        """Let other runs start beside a crashed run that was alone for too long."""
        alone = self._quarantine.alone
        if alone is not None and self._quarantine.expire(now, is_stuck=alone.is_stuck):
            self._polls.is_needed = True
            what = (
                "handler `%s` on delivery `%s`, during which the process died before, has not "
                "finished alone: other handlers now run at the same time"
            )
            _log.warning(what, alone.name, alone.run_context.id)

    def _start_ready(self) -> None:
        # Reset it first: another thread may set it during the look.
        self._polls.is_needed = False
        if self._polls.may_be_unknown:
            self._leadership.register()
            self._log_unknown_handlers()
        quarantine = self._quarantine
        if quarantine.alone is not None or (quarantine.may_have_crashed and self._start_crashed()):
            self._polls.is_needed = True
        else:
            self._start_others()

    def _log_unknown_handlers(self) -> None:
        """Log once each handler that has waiting runs but is missing in this process."""
        self._polls.may_be_unknown = False
        known = self._router.handler_names
        for name, count in self._store.waiting_handlers().items():
            if name not in known and name not in self._logged_unknown:
                self._logged_unknown.add(name)
                what = (
                    "%d %s cannot start: this process has no handler `%s`. Run another handler, "
                    "`hubhooks deliveries replay --only %s --as NEW`, or mark them as failed, "
                    "`hubhooks deliveries fail --handler %s`"
                )
                runs = "run" if count == 1 else "runs"
                _log.warning(what, count, runs, name, name, name)

    def _start_crashed(self) -> bool:
        """Start a crashed run if it is its turn; True if no other run may start now."""
        quarantine, claims = self._quarantine, self._claims
        if quarantine.take_turn_of_others():
            self._start_others()
        busy = claims.scheduler.busy()
        known, grouped = self._router.handler_names, self._grouped()
        ready = self._store.list_ready(1, busy, among=known, crashed=True, grouped=grouped)
        if not ready:
            # Runs of this process cannot become crashed ones while it lives.
            may_come = (
                bool(busy)
                or self._store.seconds_to_next(grouped) is not None
                or any(run.has_crashed for run in claims.running)
            )
            quarantine.none_ready(may_come=may_come)
            return False
        now = self._clock()
        has_slot = claims.scheduler.free > 0
        decision = quarantine.decide(now, is_idle=claims.is_idle, has_slot=has_slot)
        if decision == "wait":
            return True
        claimed = claims.claim_ready(claims.scheduler.choose(ready))
        quarantine.started()
        for run in claimed:
            run.has_crashed = True
            if decision == "alone":
                quarantine.isolate(run, now)
            self._read_and_start(run, {})
        return decision == "alone" and bool(claimed)

    def _start_others(self) -> None:
        """Start the ready runs that have not crashed, as long as slots are free."""
        is_everything = False
        scheduler = self._claims.scheduler
        grouped = self._grouped()
        while not is_everything:
            free = scheduler.free
            if free <= 0:
                self._polls.is_needed = True
                # A run may have ended in between without seeing `is_needed`.
                if scheduler.free <= 0:
                    return
                continue
            busy = scheduler.busy()
            known = self._router.handler_names
            ready = self._store.list_ready(free, busy, among=known, grouped=grouped)
            chosen = scheduler.choose(ready)
            claimed = self._claims.claim_ready(chosen)
            events: dict[str, HubEvent] = {}
            for run in claimed:
                self._read_and_start(run, events)
            is_everything = len(chosen) == len(ready) and (len(ready) < free or not claimed)
        self._polls.set_ready_in(self._store.seconds_to_next(grouped))

    def _grouped(self) -> list[str]:
        """Return the names of the handlers with `serial=` or `debounce=`."""
        return [each.name for each in self._router.handlers if each.policy.is_grouped]

    def _read_and_start(self, run: RunExecution, events: dict[str, HubEvent]) -> None:
        """Start a claimed run. `events` caches the parsed bodies by delivery id."""
        # Set first: if the run cannot start, its hooks need the loop too.
        run.loop = self._find_loop()
        delivery_id = run.run_context.id
        try:
            if delivery_id not in events:
                events[delivery_id] = HubEvent.from_json(self._store.body(delivery_id) or b"")
            run.event = events[delivery_id]
        except PayloadError as error:
            run.fail_unstarted(error)
        except StoreError as error:
            run.requeue(str(error), self._timeouts.store_failure)
            _log.error("handler `%s` cannot start now: %s", run.name, error)
        else:
            self._start(run)
