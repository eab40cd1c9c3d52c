"""Run the handlers of one start/stop cycle, and drain at shutdown.

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
import math
from typing import TYPE_CHECKING

from hubhooks._fork import register
from hubhooks._logging import get_logger
from hubhooks._worker.claims import Claims
from hubhooks._worker.execution import HookExecution, RunExecution
from hubhooks._worker.executor import Executor
from hubhooks._worker.leadership import Leadership
from hubhooks._worker.maintenance import Maintenance
from hubhooks._worker.polls import PollSchedule
from hubhooks._worker.pools import CLEAN_UP_SECONDS
from hubhooks._worker.ready_runs import ReadyRuns
from hubhooks._worker.recovery import CrashRecovery
from hubhooks._worker.scheduler import CrashQuarantine
from hubhooks._worker.ticker import Ticker
from hubhooks._worker.waiter import EndWaiter
from hubhooks.errors import BusyError, ConfigError, StoreError

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from hubhooks._app_code import AppCode
    from hubhooks._store.base import DeliveryStore
    from hubhooks._worker.execution import Execution
    from hubhooks._worker.leadership import Lock
    from hubhooks._worker.timeouts import Timeouts
    from hubhooks.handlers import HookName
    from hubhooks.models import Delivery, State
    from hubhooks.routing import Router

__all__ = ["SLOTS", "Worker"]

_log = get_logger()

# The default number of runs at the same time.
SLOTS = 32


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
        """The role of this process in a shared store."""
        self._router = router
        self._slots = slots
        self._timeouts = timeouts
        self._clock = clock
        self._is_inline = inline
        self._is_closed = False
        self._maintenance = Maintenance(store, self.leadership, timeouts)
        self._ticker = Ticker(self.tick, clock)
        self._waiter = EndWaiter(store, self._ticker, clock, timeouts.poll)
        self._executor = Executor(slots, inline=inline)
        self._polls = PollSchedule(timeouts, clock, is_shared=bool(store.path))
        quarantine = CrashQuarantine[RunExecution](timeouts.quarantine)
        shared = (router, store, self.leadership, quarantine, self._polls)
        self.claims = Claims(*shared, reporter=self, slots=slots, timeouts=timeouts, clock=clock)
        """The claimed runs."""
        self._ready_runs = ReadyRuns(
            *shared,
            claims=self.claims,
            start=self.start,
            find_loop=lambda: self.loop if on_server else None,
            timeouts=timeouts,
            clock=clock,
        )
        self._recovery = CrashRecovery(store, quarantine, self._polls, self.start_hooks)

    # ---- start and stop ------------------------------------------------------------------------

    def open(self) -> None:
        """Open the store, and become the leader if there is none.

        Raises:
            ConfigError: another router of this process uses the store, or it cannot be used.
            StoreError: it cannot be used now.
        """
        crashed = self.leadership.open()
        try:
            self._recovery.take_over(crashed)
        except BaseException:
            self.store.close()
            self.leadership.release()
            raise
        register(self)
        if self.store.path:
            self._maintenance.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The server's loop, on which `tick` is called; None without a server."""
        return self._ticker.loop

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Use this loop for `tick`, unless the current loop is still open."""
        if self._ticker.bind(loop):
            self._executor.server_loop = loop
            self.notify()

    async def drain(self, seconds: float | None) -> None:
        """Wait for the running executions, then cancel the tasks that still run.

        A store in memory also runs its queue. A store on disk queues unfinished runs again.

        Args:
            seconds: how long to wait; None for no limit.
        """
        self.claims.is_draining = True
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
            # A run of this poll may have failed already, and may be due again. The order matters.
            is_over = unfinished.is_zero and (
                bool(self.store.path) or left == 0 or not self._ready_runs.has_ready()
            )
        await self._executor.cancel_tasks()
        if self.store.path:
            for run in self.claims.running:
                run.requeue()

    async def close(self) -> None:
        """End the threads, and close the store."""
        self._maintenance.stop()
        self._executor.close_threads()
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
        self.is_of_parent = self._is_closed = True
        self.claims.switch_off()
        self._ticker = Ticker(self.tick, self._clock)
        self._executor = Executor(self._slots, inline=self._is_inline)
        self._executor.close_threads()

    # ---- tick ----------------------------------------------------------------------------------

    def notify(self) -> None:
        """Call `tick` soon; from any thread."""
        self._ticker.notify()

    def notify_if_needed(self) -> None:
        """Tick now if runs may be ready, and in 5 ms for deferred writes only."""
        if self._polls.is_needed:
            self._ticker.notify()
        elif self.store.has_deferred:
            # If more deliveries arrive, their transaction includes the deferred writes.
            self._ticker.plan(self._timeouts.deferred)

    def notify_changed(self) -> None:
        """Look for runs that were queued in the store; from any thread."""
        self._polls.is_needed = True
        self.notify()

    def poll_now(self) -> None:
        """Look for ready runs, in this thread."""
        self._polls.is_needed = True
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
            if self._polls.may_write(now):
                self.store.flush()
                self._poll(now)
        except (ConfigError, StoreError) as error:
            self._polls.is_needed = True
            self._polls.pause(now, error)
        finally:
            self._ticker.set_timer(self._polls.next_at(self.claims.next_deadline))

    def _poll(self, now: float) -> None:
        if self._polls.take_processes(now):
            self._poll_processes(now)
        self._polls.update(now)
        self.claims.mark_stuck(now)
        self._ready_runs.start_needed(now)

    def _poll_processes(self, now: float) -> None:
        """Check for writes of other processes, and become the leader if there is none."""
        is_changed = self.store.changed()
        leadership = self.leadership
        if not leadership.is_leader:
            if leadership.may_acquire(now):
                self._recovery.take_over(leadership.acquire())
                if leadership.is_leader:
                    _log.info("this process runs the handlers now: there is no other leader")
            return
        leadership.keep()
        if is_changed:
            self._polls.is_needed = self._polls.may_be_unknown = True
            if not self.store.is_leader:
                self._recovery.take_over(leadership.reacquire())
        if (is_changed or leadership.successor is not None) and leadership.hand_over(
            now, is_idle=self.claims.is_idle
        ):
            self._polls.is_needed = True
        if leadership.is_leader and self._polls.take_crashed(now):
            self._recovery.report(self.store.recover_crashed())

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
            if self._polls.may_write(now):
                self.store.flush()
        except StoreError as error:
            self._polls.pause(now, error)

    # ---- reports of runs -----------------------------------------------------------------------

    @property
    def is_cancelling(self) -> bool:
        """True once a shutdown cancels the tasks that still run."""
        return self._executor.is_cancelling

    @property
    def keeps_unfinished(self) -> bool:
        """True if unfinished runs continue after the next start."""
        return bool(self.store.path)

    def begun(self, run: RunExecution) -> None:  # noqa: ARG002 - of the protocol `Reporter`
        """Set the timer for the deadline of a run."""
        self.notify()

    def finished(
        self, run: RunExecution, state: State, error: str, traceback: str, retry_after: float | None
    ) -> None:
        """Record the end of an attempt, from any thread, and free its slot."""
        recording = run.recording
        self.store.finish_run(
            run.run_context,
            state,
            error,
            traceback,
            retry_after=retry_after,
            recorded=None if recording is None else (recording.close(), recording.result),
        )
        if retry_after is not None:
            self._polls.is_needed = True
        self.claims.free(run)
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
