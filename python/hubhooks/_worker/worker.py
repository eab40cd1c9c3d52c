"""Claim runs, start them, and drain at shutdown.

The states of a run, from its delivery to its end. Nothing else changes the state of a run.

| from | event | to | written |
|---|---|---|---|
| - | delivery stored, handler matches, slot free, leader | running, attempt 1 | with the delivery |
| - | the same without a free slot, or not the leader | queued | with the delivery |
| queued, retrying when due | slot free | running, attempt + 1 | before the handler is called |
| running | returns / raises `Ignore` | succeeded / ignored | deferred |
| running | raises, also `Retry`; retries left | retrying, failures + 1 | deferred; `on_error` |
| running | raises, no retries left | failed | deferred; `on_error`, `on_failure` |
| running, async | timeout | cancelled, then as raised `TimeoutError` | deferred |
| running | timeout (sync); no end 5 s after the cancellation | stuck, keeps its slot | deferred |
| stuck | returns or raises | as from running | deferred |
| running, stuck | stop, drain over | retrying now, failures + 1; result ignored | by the stop |
| running, stuck | process died | retrying in 10 s x 2^n, quarantined | with `recover` |
| running, stuck | the same, more than 3 times | failed | with `recover`; `on_failure` |
| queued, retrying | no live process has the handler | unchanged; logged once | - |
| ended | replay, or the id arrives again | queued | with that delivery |
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
from typing import TYPE_CHECKING

from hubhooks._core import HubEvent
from hubhooks._fork import register
from hubhooks._logging import get_logger
from hubhooks._worker.execution import HookExecution, RunExecution
from hubhooks._worker.executor import Executor
from hubhooks._worker.leadership import Leadership
from hubhooks._worker.maintenance import Maintenance
from hubhooks._worker.pools import CLEAN_UP_SECONDS
from hubhooks._worker.scheduler import CrashQuarantine, Scheduler
from hubhooks._worker.ticker import Ticker
from hubhooks._worker.waiter import EndWaiter
from hubhooks.errors import BusyError, ConfigError, PayloadError, StoreError
from hubhooks.models import RunContext
from hubhooks.ordering import superseded_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hubhooks._app_code import AppCode
    from hubhooks._store.base import DeliveryStore, Due, Interrupted
    from hubhooks._worker.execution import Execution
    from hubhooks._worker.leadership import Lock
    from hubhooks._worker.timeouts import Timeouts
    from hubhooks.models import AcceptedRuns, Delivery, State
    from hubhooks.routing import HookName, Router

__all__ = ["SLOTS", "Worker"]

_log = get_logger()

# The default number of runs at the same time.
SLOTS = 32
# A context may keep a whole request alive.
_MAX_CONTEXTS = 1000


class Worker:
    """Runs the handlers of one start/stop cycle. A thread that outlives it affects no later one.

    Args:
        router: finds handlers by name, at each run: a reloaded script has new ones.
        store: has the deliveries and their runs.
        lock: the lock of the leader; None if no other process uses the store.
        slots: how many runs may run at the same time.
        code: the code of the app in this process.
        timeouts: the times of the worker.
        clock: returns seconds of a monotonic clock.
        inline: run sync handlers in the thread that starts them.
        on_server: run async handlers on the server's loop, not on a loop of their own.
    """

    def __init__(  # noqa: PLR0913 - all of them are needed
        self,
        router: Router,
        store: DeliveryStore,
        lock: Lock | None,
        *,
        slots: int,
        code: AppCode | None,
        timeouts: Timeouts,
        clock: Callable[[], float],
        inline: bool = False,
        on_server: bool = True,
    ) -> None:
        self.store = store
        self.is_of_parent = False
        """True in a child that was forked while this worker was running."""
        self.leadership = Leadership(router, store, lock, code, timeouts)
        self._router = router
        self._slots = slots
        self._timeouts = timeouts
        self._clock = clock
        self._is_on_server = on_server
        self._is_inline = inline
        self._maintenance = Maintenance(store, self.leadership, timeouts)
        self._ticker = Ticker(self.tick, clock)
        self._waiter = EndWaiter(store, self._ticker, clock, timeouts.poll)
        self._executor = Executor(slots, inline=inline)
        self._scheduler = Scheduler(slots, self._limit_of)
        self._quarantine = CrashQuarantine[RunExecution](timeouts.quarantine)
        self._running: dict[RunExecution, None] = {}
        self._lock = threading.Lock()
        # Of requests of this process whose runs have not started. A retry has none.
        self._contexts: dict[tuple[str, str], contextvars.Context] = {}
        # True if the store may have ready runs that are not claimed.
        self._needs_poll = True
        self._may_be_unknown = True
        self._logged_unknown: set[str] = set()
        self._is_closed = False
        self._is_draining = False
        # Times of the next looks and writes, by the clock.
        self._poll_at = 0.0
        self._full_poll_at = clock() + timeouts.full_poll
        self._crashed_poll_at = 0.0
        self._ready_at = math.inf
        self._not_before = 0.0

    # ---- start and stop ------------------------------------------------------------------------

    def open(self) -> None:
        """Open the store, and become the leader if there is none.

        Raises:
            ConfigError: another router of this process uses the store, or it cannot be used.
            StoreError: it cannot be used now.
        """
        crashed = self.leadership.open()
        try:
            self._recovered(crashed)
        except BaseException:
            self.store.close()
            self.leadership.release()
            raise
        register(self)
        if self.store.is_durable:
            self._maintenance.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The server's loop, on which `tick` is called; None without a server."""
        return self._ticker.loop

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call `tick` on this loop, unless the present one is still open."""
        if self._ticker.bind(loop):
            self._executor.server_loop = loop
            self.notify()

    async def drain(self, seconds: float | None) -> None:
        """Wait for the running executions, then cancel the tasks that still run."""
        self._is_draining = True
        unfinished = self._executor.unfinished
        give_up = math.inf if seconds is None else self._clock() + seconds
        is_over = False
        while not is_over:
            left = None if seconds is None else max(give_up - self._clock(), 0)
            if not await unfinished.wait_for_zero(left):
                _log.warning("stopped with handlers still running after %g s", seconds)
                break
            # The queue of a store in memory is lost if it does not run now.
            self.poll_now()
            is_over = unfinished.is_zero
        await self._executor.cancel_tasks()
        if self.store.is_durable:
            for run in tuple(self._running):
                run.requeue()

    async def close(self) -> None:
        """End the threads, and close the store."""
        self._maintenance.stop()
        self._executor.close_threads()
        with self._lock:
            self._is_closed = True
        self._ticker.close()
        await self._executor.close_loop()
        try:
            await self._close_store()
        except StoreError as error:
            what = "finished handlers will run again: their results could not be stored: %s"
            _log.error(what, error)
        finally:
            self.leadership.release()

    async def _close_store(self) -> None:
        give_up = self._clock() + CLEAN_UP_SECONDS
        self.store.resign(is_end=True)
        while self._clock() < give_up:
            try:
                self.store.flush()
                break
            except BusyError:
                await asyncio.sleep(self._timeouts.busy)
        self.store.close()

    def switch_off(self) -> None:
        """In a forked child, leave everything to the parent."""
        self.leadership.switch_off()
        self.is_of_parent = self._is_closed = self._is_draining = True
        self._ticker = Ticker(self.tick, self._clock)
        self._lock = threading.Lock()
        self._executor = Executor(self._slots, inline=self._is_inline)
        self._executor.close_threads()
        self._running = {}

    # ---- claim ---------------------------------------------------------------------------------

    def claim(self, accepted: AcceptedRuns, context: contextvars.Context) -> list[RunExecution]:
        """Claim the runs of a delivery that may start now, in the transaction that stores it.

        Args:
            accepted: the delivery and its matching handlers.
            context: the context of the request, also for runs that start later.
        """
        if self.leadership.is_leader:
            for name in accepted.handlers:
                self._contexts[accepted.delivery_id, name] = context
            while len(self._contexts) > _MAX_CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
        if self._needs_poll or self._quarantine.alone is not None or not self._may_start():
            # Older runs, or a crashed one, come first.
            self._needs_poll = True
            return []
        claimed: list[RunExecution] = []
        try:
            for name in accepted.handlers:
                if self._scheduler.may_start(name):
                    run = self._claim(accepted.delivery_id, name)
                    if run is not None:
                        run.event = accepted.event
                        claimed.append(run)
                elif self._scheduler.free <= 0:
                    self._needs_poll = True
                # The end of a run of a handler at its limit sets `_needs_poll`.
        except BaseException:
            self.release_claims(claimed)
            raise
        return claimed

    def release_claims(self, runs: Sequence[RunExecution]) -> None:
        """Undo claims whose transaction failed."""
        for run in runs:
            # The transaction may be in the file although it failed: see `Database.transaction`.
            self.store.unclaim(run.run_context)
            self._free(run)
        self._needs_poll = True

    def _claim(self, delivery_id: str, name: str) -> RunExecution | None:
        handler = self._router.handler(name)
        if handler is None:
            # The run stays queued until a process has the handler or a user ends it.
            self._may_be_unknown = self._needs_poll = True
            return None
        is_grouped = handler.policy.is_grouped
        run_context = self.store.claim(delivery_id, name, is_grouped=is_grouped)
        if run_context is None:
            # A run that waits for a newer delivery has a time.
            self._ready_at = min(self._ready_at, self._clock()) if is_grouped else self._ready_at
            return None
        if handler.policy.debounce is not None:
            superseded = superseded_of(*self.store.read_superseded(delivery_id, name))
            run_context = run_context._replace(superseded=superseded)
        run = RunExecution(self, handler, run_context, self._clock, self._timeouts.cancel_grace)
        context = self._contexts.pop((delivery_id, name), None)
        if context is not None:
            run.context = context.copy()
        with self._lock:
            self._running[run] = None
            self._scheduler.add(name)
        return run

    def _free(self, run: RunExecution) -> None:
        with self._lock:
            if self._running.pop(run, self) is self:
                return
            has_limit = self._scheduler.remove(run.name) or run.is_grouped
            was_alone = self._quarantine.end(run)
        if has_limit or was_alone:
            self._needs_poll = True

    def _limit_of(self, name: str) -> int | None:
        handler = self._router.handler(name)
        return None if handler is None else handler.policy.concurrency

    def _may_start(self) -> bool:
        # At a stop, the queue of a store on disk waits for the next start.
        return (
            self.leadership.is_leader
            and self.leadership.successor is None
            and not (self._is_draining and self.store.is_durable)
        )

    # ---- tick ----------------------------------------------------------------------------------

    def notify(self) -> None:
        """Call `tick` soon; from any thread."""
        self._ticker.notify()

    def notify_if_needed(self) -> None:
        """Tick now if runs may be ready, and in 5 ms for deferred writes only."""
        if self._needs_poll:
            self._ticker.notify()
        elif self.store.has_deferred:
            # If more deliveries arrive, their transaction writes what is deferred.
            self._ticker.plan(self._timeouts.deferred)

    def notify_changed(self) -> None:
        """Look for runs that were queued in the store; from any thread."""
        self._needs_poll = True
        self.notify()

    def poll_now(self) -> None:
        """Look for ready runs, in this thread."""
        self._needs_poll = True
        self.tick()

    def wait_for_executions(self) -> None:
        """Wait until no execution is running, in a thread without a loop."""
        asyncio.run(self._executor.unfinished.wait_for_zero(None))

    def tick(self) -> None:
        """Flush deferred writes, and start ready runs."""
        self._ticker.begin()
        if self._is_closed:
            return
        now = self._clock()
        try:
            if now >= self._not_before:
                self.store.flush()
                self._poll(now)
        except (ConfigError, StoreError) as error:
            self._needs_poll = True
            self._pause_store(now, error)
        finally:
            self._set_timer()

    def _pause_store(self, now: float, error: Exception) -> None:
        """Do not write to the store for a moment after a write failed."""
        if isinstance(error, BusyError):
            self._not_before = now + self._timeouts.busy
        else:
            self._not_before = now + self._timeouts.store_failure
            _log.error("handlers cannot start now: %s", error)

    def _set_timer(self) -> None:
        deadlines = [run.deadline for run in tuple(self._running) if run.deadline is not None]
        at = min([self._ready_at, *deadlines])
        if self.store.is_durable:
            at = min(at, self._poll_at)
        self._ticker.set_timer(max(at, self._not_before))

    def _poll(self, now: float) -> None:
        if self.store.is_durable and now >= self._poll_at:
            self._poll_at = now + self._timeouts.poll
            self._poll_processes(now)
        if now >= self._full_poll_at or now >= self._ready_at:
            self._full_poll_at = now + self._timeouts.full_poll
            self._may_be_unknown = True
            # If no slot is free now, the run that frees one calls `notify`.
            self._ready_at = math.inf
            self._needs_poll = True
        for run in tuple(self._running):
            if run.deadline is not None and now >= run.deadline:
                run.mark_stuck()
        alone = self._quarantine.alone
        if alone is not None and self._quarantine.expire(now, is_stuck=alone.is_stuck):
            self._needs_poll = True
            what = (
                "handler `%s` on delivery `%s`, during which the process died before, has not "
                "finished alone: other handlers now run at the same time"
            )
            _log.warning(what, alone.name, alone.run_context.id)
        if self._needs_poll and self._may_start():
            self._start_ready()

    def _poll_processes(self, now: float) -> None:
        """Look at what other processes wrote, and become the leader if there is none."""
        is_changed = self.store.changed()
        leadership = self.leadership
        if not leadership.is_leader:
            if leadership.may_acquire(now):
                self._recovered(leadership.acquire())
                if leadership.is_leader:
                    _log.info("this process runs the handlers now: there is no other leader")
            return
        leadership.keep()
        if is_changed:
            self._needs_poll = self._may_be_unknown = True
            if not self.store.is_led:
                self._recovered(leadership.reacquire())
        if (is_changed or leadership.successor is not None) and leadership.hand_over(
            now, is_idle=self._is_idle()
        ):
            self._needs_poll = True
        if leadership.is_leader and now >= self._crashed_poll_at:
            self._crashed_poll_at = now + self._timeouts.crashed_poll
            self._report_crashed(self.store.recover_crashed())

    def _is_idle(self) -> bool:
        """Return whether nothing runs, except stuck runs, which may never end."""
        return all(run.is_stuck for run in tuple(self._running))

    # ---- ready runs ----------------------------------------------------------------------------

    def _start_ready(self) -> None:
        # First, so that it stays set if another thread sets it meanwhile.
        self._needs_poll = False
        if self._may_be_unknown:
            self.leadership.register()
            self._log_unknown_handlers()
        quarantine = self._quarantine
        if quarantine.alone is not None or (quarantine.may_have_crashed and self._start_crashed()):
            self._needs_poll = True
        else:
            self._start_others()

    def _log_unknown_handlers(self) -> None:
        """Log once for each handler that this process does not have, and for which runs wait."""
        self._may_be_unknown = False
        known = self._router.handler_names
        for name, count in self.store.waiting_handlers().items():
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
        quarantine = self._quarantine
        if quarantine.take_turn_of_others():
            self._start_others()
        busy = self._scheduler.busy()
        known, grouped = self._router.handler_names, self._grouped()
        ready = self.store.list_ready(1, busy, among=known, interrupted=True, grouped=grouped)
        if not ready:
            # Runs of this process cannot become crashed ones while it lives.
            may_come = (
                bool(busy)
                or self.store.seconds_to_next(grouped) is not None
                or any(run.has_crashed for run in tuple(self._running))
            )
            quarantine.none_ready(may_come=may_come)
            return False
        now = self._clock()
        has_slot = self._scheduler.free > 0
        decision = quarantine.decide(now, is_idle=self._is_idle(), has_slot=has_slot)
        if decision == "wait":
            return True
        claimed = self._claim_all(self._scheduler.choose(ready))
        quarantine.started()
        for run in claimed:
            run.has_crashed = True
            if decision == "alone":
                quarantine.isolate(run, now)
            self._read_and_start(run, {})
        return decision == "alone" and bool(claimed)

    def _grouped(self) -> list[str]:
        """Return the handlers with `serial=` or `debounce=`."""
        return [each.name for each in self._router.handlers if each.policy.is_grouped]

    def _start_others(self) -> None:
        is_everything = False
        grouped = self._grouped()
        while not is_everything:
            free = self._scheduler.free
            if free <= 0:
                self._needs_poll = True
                # A run may have ended in between without seeing `_needs_poll`.
                if self._scheduler.free <= 0:
                    return
                continue
            busy = self._scheduler.busy()
            known = self._router.handler_names
            ready = self.store.list_ready(free, busy, among=known, grouped=grouped)
            chosen = self._scheduler.choose(ready)
            claimed = self._claim_all(chosen)
            events: dict[str, HubEvent] = {}
            for run in claimed:
                self._read_and_start(run, events)
            is_everything = len(chosen) == len(ready) and (len(ready) < free or not claimed)
        seconds = self.store.seconds_to_next(grouped)
        self._ready_at = math.inf if seconds is None else self._clock() + seconds

    def _claim_all(self, chosen: Sequence[Due]) -> list[RunExecution]:
        claimed: list[RunExecution] = []
        if chosen:
            try:
                with self.store.transaction():
                    for delivery_id, name in chosen:
                        if run := self._claim(delivery_id, name):
                            claimed.append(run)
            except BaseException:
                self.release_claims(claimed)
                raise
        return claimed

    def _read_and_start(self, run: RunExecution, events: dict[str, HubEvent]) -> None:
        """Start a run. `events` has the parsed bodies, so that handlers share a long one."""
        run.loop = self.loop if self._is_on_server else None
        delivery_id = run.run_context.id
        try:
            if delivery_id not in events:
                events[delivery_id] = HubEvent.from_json(self.store.body(delivery_id) or b"")
            run.event = events[delivery_id]
        except PayloadError as error:
            run.fail_unstarted(error)
        except StoreError as error:
            run.requeue(str(error), self._timeouts.store_failure)
            _log.error("handler `%s` cannot start now: %s", run.name, error)
        else:
            self.start(run)

    # ---- crashed runs --------------------------------------------------------------------------

    def _recovered(self, crashed: Sequence[Interrupted] | None) -> None:
        """Take over the runs of the store, after this process became the leader."""
        if crashed is None:
            return
        self._quarantine.may_have_crashed = self.store.is_durable
        self._may_be_unknown = True
        ready = self.store.list_ready(1) or self.store.list_ready(1, interrupted=True)
        self._needs_poll = bool(ready) or self.store.seconds_to_next() is not None
        self._report_crashed(crashed)

    def _report_crashed(self, crashed: Sequence[Interrupted]) -> None:
        """Log crashed runs, and run the hooks of those that are not retried."""
        for delivery_id, name, is_failed in crashed:
            self._quarantine.may_have_crashed = self._needs_poll = True
            if is_failed:
                try:
                    self._fail_crashed_run(delivery_id, name)
                except StoreError as failure:
                    # The other runs are still to be reported.
                    what = "cannot call the hooks for handler `%s` on delivery `%s`: %s"
                    _log.error(what, name, delivery_id, failure)
            else:
                what = "the process died during handler `%s` on delivery `%s`: retrying it alone"
                _log.warning(what, name, delivery_id)

    def _fail_crashed_run(self, delivery_id: str, name: str) -> None:
        """Run the `on_failure` hooks of a run that crashed more often than allowed."""
        error = RuntimeError("the process died during this handler")
        _log.error("handler `%s` failed on delivery `%s`: %s", name, delivery_id, error)
        delivery = self.store.get(delivery_id)
        body = self.store.body(delivery_id)
        if delivery is None or body is None:
            return
        attempt = delivery.run(name).attempts
        run_context = RunContext(
            delivery_id, attempt, delivery.is_replay, delivery.received_at, name
        )
        try:
            event = HubEvent.from_json(body)
        except PayloadError:
            return
        context = contextvars.Context()
        arguments = (event, run_context, error)
        self.start_hooks("failure", delivery_id, None, *arguments, context=context)

    # ---- executions ----------------------------------------------------------------------------

    def start(
        self, execution: Execution, current_loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Start an execution, from any thread: see `Executor.start`."""
        self._executor.start(execution, current_loop)

    def start_hooks(
        self,
        hook_name: HookName,
        delivery_id: str,
        loop: asyncio.AbstractEventLoop | None,
        *arguments: object,
        context: contextvars.Context,
    ) -> None:
        """Start the hooks of this name, each in a copy of the context."""
        for hook in self._router.hooks_for(hook_name):
            what = f"`on_{hook_name}` hook `{hook.name}`"
            self.start(HookExecution(hook, what, delivery_id, loop, arguments, context.copy()))

    async def wait_for(self, delivery_id: str, seconds: float) -> Delivery | None:
        """Wait until the handlers of a delivery ended; None if they did not within the time."""
        return await self._waiter.wait(delivery_id, seconds, self._flush)

    def _flush(self) -> None:
        now = self._clock()
        try:
            # Each attempt blocks the loop while another process writes.
            if now >= self._not_before:
                self.store.flush()
        except StoreError as error:
            self._pause_store(now, error)

    # ---- reports of runs -----------------------------------------------------------------------

    @property
    def is_cancelling(self) -> bool:
        """True once a shutdown cancels the tasks that still run."""
        return self._executor.is_cancelling

    @property
    def keeps_unfinished(self) -> bool:
        """True if unfinished runs continue after the next start."""
        return self.store.is_durable

    def begun(self, run: RunExecution) -> None:  # noqa: ARG002 - of the protocol `Reporter`
        """Set the timer for the deadline of a run."""
        self.notify()

    def finished(
        self, run: RunExecution, state: State, error: str, traceback: str, retry_after: float | None
    ) -> None:
        """Record the end of an attempt, from any thread, and free its slot."""
        self.store.finish_run(run.run_context, state, error, traceback, retry_after=retry_after)
        if retry_after is not None:
            self._needs_poll = True
        self._free(run)
        self._waiter.notify(run.run_context.id)
        self.notify_if_needed()

    def stuck(self, run: RunExecution) -> None:
        """Record that a run is stuck. It keeps its slot."""
        self.store.mark_stuck(run.run_context)
        self.notify()

    def run_hooks(self, hook_name: HookName, run: RunExecution, error: BaseException) -> None:
        """Start the hooks about an error of a run, in its context."""
        run_context = run.run_context
        arguments = (run.event, run_context, error)
        self.start_hooks(hook_name, run_context.id, run.loop, *arguments, context=run.context)
