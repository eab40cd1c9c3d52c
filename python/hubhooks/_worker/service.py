"""Start a worker when it is needed, and stop it with the app."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Literal

from hubhooks._store.space import log_survival
from hubhooks._worker.pools import running_loop
from hubhooks._worker.timeouts import DEFAULT_TIMEOUTS
from hubhooks._worker.worker import SLOTS, Worker
from hubhooks.errors import ConfigError, StoreError
from hubhooks.models import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from hubhooks._app_code import AppCode
    from hubhooks._store.base import DeliveryStore
    from hubhooks._worker.execution import RunExecution
    from hubhooks._worker.leadership import Lock
    from hubhooks._worker.timeouts import Timeouts
    from hubhooks.models import AcceptedRuns, Delivery
    from hubhooks.routing import Router

    HandlerLoop: TypeAlias = Literal["server", "dedicated"]

__all__ = ["WorkerService", "check_handler_loop"]

# The handlers named in the log at the start, and the characters of the filters of each.
_MAX_DESCRIBED = 20
_LONGEST_DESCRIPTION = 200


def check_handler_loop(handler_loop: object) -> None:
    """Raise `ConfigError` if there is no such loop."""
    if handler_loop not in ("server", "dedicated", None):
        msg = f'`handler_loop={handler_loop!r}` is not a choice; write "server" or "dedicated"'
        raise ConfigError(msg)


class WorkerService:
    """Has at most one worker: from a start, or the first delivery, to the stop.

    Args:
        router: has the handlers and hooks.
        store: has the deliveries and their runs.
        slots: how many runs may run at the same time.
        inline: run sync handlers in the thread that starts them.
        handler_loop: the loop of async handlers: the server's, or a dedicated one, which a
            blocking handler may block. None: the server's, unless an adapter prefers the other.
        lock: the lock of the leader; None if no other process uses the store.
        code: the code of the app in this process.
        timeouts: the times of the worker.
        clock: returns seconds of a monotonic clock.

    Raises:
        ConfigError: there is no such loop.
    """

    def __init__(  # noqa: PLR0913 - the options of a worker
        self,
        router: Router,
        store: DeliveryStore,
        *,
        slots: int = SLOTS,
        inline: bool = False,
        handler_loop: HandlerLoop | None = None,
        lock: Lock | None = None,
        code: AppCode | None = None,
        timeouts: Timeouts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_handler_loop(handler_loop)
        self.store = store
        self.logs_survival = False
        """True if a start in a Space logs whether the store survives its restart."""
        self.was_started = False
        """True once a worker was started."""
        self.timeouts = timeouts or DEFAULT_TIMEOUTS
        """The times of the next worker."""
        self.slots = slots
        """The slots of the next worker."""
        self._router = router
        self._is_inline = inline
        self._lock = lock
        self._code = code
        self._clock = clock
        self._is_loop_chosen = handler_loop is not None
        self._handler_loop: HandlerLoop = handler_loop or "server"
        self._worker: Worker | None = None
        self._starting = threading.Lock()

    @property
    def handler_loop(self) -> HandlerLoop:
        """The loop of async handlers."""
        return self._handler_loop

    def prefer_loop(self, loop: HandlerLoop) -> None:
        """Choose the loop of async handlers, unless the user chose it."""
        if not self._is_loop_chosen:
            self._handler_loop = loop

    @property
    def is_started(self) -> bool:
        """True while a worker runs."""
        return self._worker is not None

    @property
    def has_handlers(self) -> bool:
        """True if a delivery may call a handler or an `on_unhandled` hook."""
        return bool(self._router.handler_names) or self._router.has_unhandled_hook

    def start(self) -> None:
        """Open the store, and start the worker.

        Raises:
            ConfigError: the store cannot be used.
            StoreError: the store cannot be used now.
        """
        self._ensure_worker()

    def summary(self) -> str:
        """Describe in one line the handlers, the store, and the process that runs handlers."""
        store = self.store
        where = f"`{store.path}`" if store.path else "in memory until this process ends"
        handlers = _describe_handlers(self._router)
        leader = self._ensure_worker().leadership.describe()
        return f"started with {handlers}; store: {where}; {leader}"

    # ---- deliveries ----------------------------------------------------------------------------

    def claim(
        self, accepted: AcceptedRuns, context: contextvars.Context | None = None
    ) -> list[RunExecution]:
        """Claim the runs of a delivery that may start now, in the transaction that stores it.

        Pass the result to `start_runs`, or to `release_claims` if the transaction fails. Other
        runs start later.

        Args:
            accepted: the delivery and its matching handlers.
            context: the context of the request. Each run gets a copy. By default, the present one.
        """
        if not accepted.handlers:
            return []
        context = context or contextvars.copy_context()
        return self._ensure_worker().claims.claim_accepted(accepted, context)

    def start_runs(self, accepted: AcceptedRuns, runs: Sequence[RunExecution]) -> None:
        """Start the runs of `claim`; without a matching handler, the `on_unhandled` hooks."""
        current_loop = running_loop()
        worker = self._ensure_worker(current_loop)
        # Deliveries are accepted on the server's loop.
        loop = current_loop if self._handler_loop == "server" else None
        if not accepted.handlers:
            context = contextvars.copy_context()
            worker.start_hooks(
                "unhandled", accepted.delivery_id, loop, accepted.event, context=context
            )
        for run in runs:
            run.loop = loop
            worker.start(run, current_loop)
        worker.notify_if_needed()

    def release_claims(self, runs: Sequence[RunExecution]) -> None:
        """Undo claims whose transaction failed."""
        self._ensure_worker().claims.release(runs)

    def submit(self, accepted: AcceptedRuns) -> None:
        """Start the handlers of a stored delivery, or the `on_unhandled` hooks."""
        self.start_runs(accepted, self.claim(accepted))

    def replay(self, delivery_id: str, handlers: Sequence[str]) -> tuple[str, ...]:
        """Queue handlers of a finished delivery again, from any thread.

        A store on disk is written through a new connection: the open one belongs to the server's
        loop.

        Raises:
            ConfigError: a name cannot be the name of a handler.
            StoreError: the store cannot be written now.
        """
        if self.store.path:
            from hubhooks._store.sqlite import replay_in  # noqa: PLC0415 - only for stores on disk

            names = replay_in(self.store.path, delivery_id, handlers)
        else:
            names = self.store.replay(delivery_id, handlers)
        if names:
            self.notify()
        return names

    def notify(self) -> None:
        """Look for runs that were queued in the store; from any thread."""
        if self._worker is not None:
            self._worker.notify_changed()

    def flush_soon(self) -> None:
        """Write deferred writes soon."""
        if self._worker is not None:
            self._worker.notify_if_needed()

    async def wait_for(self, delivery_id: str, seconds: float) -> Delivery | None:
        """Wait until the handlers of a delivery ended, in any process.

        Returns:
            The delivery; None if they have not ended within the time.
        """
        return await self._ensure_worker().wait_for(delivery_id, seconds)

    # ---- the end -------------------------------------------------------------------------------

    def run_to_the_end(self) -> None:
        """Run all queued runs and their retries, without a server; sync ones in this thread."""
        worker = self._ensure_worker()
        while True:
            worker.poll_now()
            worker.wait_for_executions()
            # In this order: a retry that becomes due in between is found by the second query.
            pause = self.store.seconds_to_next()
            if not self.store.list_ready(1, among=self._router.handler_names):
                if pause is None:
                    return
                time.sleep(pause)

    def release_store(self) -> None:
        """Let another service of this process use the store: this one is about to stop."""
        if self._worker is not None:
            self._worker.leadership.release_store()

    async def stop(self, drain: float | None = 10) -> None:
        """Wait for running handlers, then cancel the async ones.

        A sync handler cannot be cancelled: it runs as long as the process. With a store on disk,
        unfinished runs continue after the next start.

        Args:
            drain: the seconds to wait; None for no limit.
        """
        worker = self._worker
        if worker is None or worker.is_of_parent:
            return
        loop = worker.loop
        if loop is None or loop is asyncio.get_running_loop() or not loop.is_running():
            await self._stop(worker, drain)
        else:
            # The store belongs to the server's loop.
            await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(self._stop(worker, drain), loop)
            )

    async def _stop(self, worker: Worker, drain: float | None) -> None:
        worker.bind(asyncio.get_running_loop())
        await worker.drain(drain)
        # Later deliveries start a new worker. Of two calls of `stop`, one closes.
        if self._worker is worker:
            self._worker = None
            await worker.close()

    def _ensure_worker(self, current_loop: asyncio.AbstractEventLoop | None = None) -> Worker:
        worker = self._worker
        if worker is None:
            with self._starting:
                worker = self._worker
                if worker is None:
                    worker = Worker(
                        self._router,
                        self.store,
                        self._lock,
                        slots=self.slots,
                        code=self._code,
                        timeouts=self.timeouts,
                        clock=self._clock,
                        inline=self._is_inline,
                        on_server=self._handler_loop == "server",
                    )
                    worker.open()
                    if self.logs_survival:
                        log_survival(self.store)
                    self._worker = worker
                    self.was_started = True
        if worker.is_of_parent:
            msg = (
                "this process was forked from a serving process, and only the parent runs "
                "handlers: start serving after the fork"
            )
            raise StoreError(msg)
        current_loop = current_loop or running_loop()
        if current_loop is not None and current_loop is not worker.loop:
            worker.bind(current_loop)
        return worker


def _describe_handlers(router: Router) -> str:
    """Name the handlers and their filters, on one line."""
    names = tuple(router.handler_names)
    if not names:
        return (
            "no handlers, so every delivery will be unhandled: register them with `@hooks.on(...)` "
            "before the server starts"
        )
    described: list[str] = []
    for name in names[:_MAX_DESCRIBED]:
        handler = router.handler(name)
        rules = () if handler is None else handler.rules
        texts = [
            repr(rule.filter).removeprefix("Filter") + " and `when=`" * (rule.when is not None)
            for rule in rules
        ]
        described.append(f"`{name}` {shorten(' or '.join(texts), _LONGEST_DESCRIPTION)}")
    if len(names) > _MAX_DESCRIBED:
        described.append(f"{len(names) - _MAX_DESCRIBED} more")
    count = f"{len(names)} handler{'s' * (len(names) != 1)}"
    return f"{count}: {', '.join(described)}"
