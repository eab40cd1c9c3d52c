"""Runs handlers once the Hub has its answer, each on its own, and hooks after them."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Literal

from hubhooks._store.space import log_survival
from hubhooks._worker.execution import running_loop
from hubhooks._worker.session import SLOTS, Session
from hubhooks.errors import ConfigError, StoreError
from hubhooks.models import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from hubhooks._app_code import AppCode
    from hubhooks._http.receiver import AcceptedRuns
    from hubhooks._store.base import DeliveryStore
    from hubhooks._worker.execution import RunExecution
    from hubhooks._worker.session import Lock
    from hubhooks.models import Delivery
    from hubhooks.routing import Router

    HandlerLoop: TypeAlias = Literal["server", "dedicated"]

__all__ = ["Runner", "check_handler_loop"]

# How many handlers are named when serving starts, and how long the description of each may be.
_MOST_DESCRIBED = 20
_LONGEST_DESCRIPTION = 200


def check_handler_loop(handler_loop: object) -> None:
    """Raise `ConfigError` if there is no such loop."""
    if handler_loop not in ("server", "dedicated", None):
        msg = f'`handler_loop={handler_loop!r}` is not a choice; write "server" or "dedicated"'
        raise ConfigError(msg)


def _describe_handlers(router: Router) -> str:
    """Name the handlers and their filters, on one line."""
    names = tuple(router.handler_names)
    if not names:
        return (
            "no handlers, so every delivery will be unhandled: register them with `@hooks.on(...)` "
            "before the server starts"
        )
    described: list[str] = []
    for name in names[:_MOST_DESCRIBED]:
        handler = router.handler(name)
        rules = () if handler is None else handler.rules
        texts = [
            repr(rule.filter).removeprefix("Filter") + " and `when=`" * (rule.when is not None)
            for rule in rules
        ]
        described.append(f"`{name}` {shorten(' or '.join(texts), _LONGEST_DESCRIPTION)}")
    if len(names) > _MOST_DESCRIBED:
        described.append(f"{len(names) - _MOST_DESCRIBED} more")
    count = f"{len(names)} handler{'s' * (len(names) != 1)}"
    return f"{count}: {', '.join(described)}"


class Runner:
    """Runs sync handlers on daemon threads, and async ones as tasks of a loop.

    What the log has queued is claimed as there is room for it, at once when a delivery comes,
    else by a step that is taken on the loop whenever there may be something to do.

    Args:
        router: finds handlers by their names, at each run, as a reloaded script has new ones; and
            the hooks.
        log: keeps what became of each run.
        slots: how many handlers run at once.
        inline: run sync handlers where they are submitted, not on threads.
        handler_loop: the loop of async handlers: the `server`'s, or a `dedicated` one, where a
            blocking handler delays no response; None for the server's, unless an adapter prefers
            the other.
        lock: which of several processes with the same log runs it; None if there is but one.
        code: the code that this process runs.

    Raises:
        ConfigError: there is no such loop.
    """

    def __init__(  # noqa: PLR0913 - what runs is one thing, and how is several
        self,
        router: Router,
        log: DeliveryStore,
        *,
        slots: int = SLOTS,
        inline: bool = False,
        handler_loop: HandlerLoop | None = None,
        lock: Lock | None = None,
        code: AppCode | None = None,
    ) -> None:
        check_handler_loop(handler_loop)
        self.log = log
        self.logs_survival = False
        """Whether a start in a Space logs whether the store survives its restart."""
        self._router = router
        self._slots = slots
        self._is_inline = inline
        self._leader_lock = lock
        self._code = code
        self._is_loop_chosen = handler_loop is not None
        self._where: HandlerLoop = handler_loop or "server"
        self._session: Session | None = None
        self._lock = threading.Lock()
        self.was_started = False
        """Whether the log was ever opened to run what is in it."""

    def prefer_loop(self, loop: HandlerLoop) -> None:
        """Let async handlers run there, unless the user chose."""
        if not self._is_loop_chosen:
            self._where = loop

    @property
    def is_started(self) -> bool:
        """Whether the log is open and what is in it runs."""
        return self._session is not None

    def release_store(self) -> None:
        """Let another runner use the log, as this one is about to stop."""
        if self._session is not None:
            self._session.release_store()

    def start(self) -> None:
        """Open the log, and run what is in it.

        Raises:
            ConfigError: the log cannot be used.
            StoreError: the log cannot be used just now.
        """
        self._ensure_worker()

    @property
    def has_handlers(self) -> bool:
        """Whether some function will be called for deliveries."""
        return bool(self._router.handler_names) or self._router.has_unhandled_hook

    def summary(self) -> str:
        """Describe in one line the handlers, the store, and the process that runs handlers."""
        log = self.log
        where = f"`{log.path}`" if log.is_durable else "in memory until this process ends"
        handlers = _describe_handlers(self._router)
        leader = self._ensure_worker().describe_leader()
        return f"started with {handlers}; store: {where}; {leader}"

    def claim(
        self, work: AcceptedRuns, context: contextvars.Context | None = None
    ) -> list[RunExecution]:
        """Reserve what can run at once of a delivery that was accepted; in the same batch.

        What is not reserved runs later. What is must be given to `begin` or `give_back`. Each runs
        in a copy of the request's context, by default that which this is called in.
        """
        if not work.handlers:
            return []
        return self._ensure_worker().claim(work, context or contextvars.copy_context())

    def begin(self, work: AcceptedRuns, runs: Sequence[RunExecution]) -> None:
        """Run what `claim` gave; of work without handlers, the hooks for the unhandled."""
        here = running_loop()
        session = self._ensure_worker(here)
        # The server's loop is the one that runs here.
        loop = here if self._where == "server" else None
        if not work.handlers:
            context = contextvars.copy_context()
            session.tell("unhandled", work.delivery_id, loop, work.event, context=context)
        for run in runs:
            run.loop = loop
            session.start(run, here)
        session.wake_if_needed()

    def give_back(self, runs: Sequence[RunExecution]) -> None:
        """Forget what `claim` gave, as the batch failed."""
        self._ensure_worker().give_back(runs)

    def submit(self, work: AcceptedRuns) -> None:
        """Run the handlers of a delivery soon; without any, the hooks for the unhandled."""
        self.begin(work, self.claim(work))

    def wake(self) -> None:
        """Look for what somebody else queued in the log; from any thread."""
        session = self._session
        if session is not None:
            session.needs_poll = True
            session.wake()

    def replay(self, delivery_id: str, handlers: Sequence[str]) -> tuple[str, ...]:
        """Queue handlers of a finished delivery again, from any thread.

        A store on disk is written through a connection of its own, as the open one belongs to the
        server's loop.

        Raises:
            ConfigError: a name cannot be the name of a handler.
            StoreError: the store cannot be written now.
        """
        if self.log.is_durable:
            from hubhooks._store.sqlite import replay_in  # noqa: PLC0415 - not every store is on disk

            names = replay_in(self.log.path, delivery_id, handlers)
        else:
            names = self.log.replay(delivery_id, handlers)
        if names:
            self.wake()
        return names

    def flush_soon(self) -> None:
        """Write what is late before long."""
        if self._session is not None:
            self._session.wake_if_needed()

    async def wait_for(self, delivery_id: str, seconds: float) -> Delivery | None:
        """Wait until the handlers of a delivery ended, wherever they run.

        Returns:
            what became of it; None if they have not ended by then.
        """
        return await self._ensure_worker().wait_for(delivery_id, seconds)

    def run_to_the_end(self) -> None:
        """Run all there is, retries too, where no loop runs; sync handlers in this thread."""
        session = self._ensure_worker()
        while True:
            session.needs_poll = True
            session.tick()
            asyncio.run(session.unfinished.wait_for_none(None))
            if not self.log.list_ready(1, among=self._router.handler_names):
                pause = self.log.seconds_to_next()
                if pause is None:
                    return
                time.sleep(pause)

    async def stop(self, drain: float | None = 10) -> None:
        """Wait for what runs, then end what still does.

        A sync handler cannot be ended: it goes on as long as the process does. With a log on disk
        what did not end runs again after the next start.

        Args:
            drain: how many seconds to wait; None for as long as it takes.
        """
        session = self._session
        if session is None or session.is_of_parent:
            return
        home = session.loop
        if home is None or home is asyncio.get_running_loop() or not home.is_running():
            await self._end(session, drain)
        else:
            # The log belongs to the server's loop.
            await asyncio.wrap_future(
                asyncio.run_coroutine_threadsafe(self._end(session, drain), home)
            )

    async def _end(self, session: Session, drain: float | None) -> None:
        session.bind(asyncio.get_running_loop())
        await session.drain(drain)
        # What is submitted from here on begins anew. Of two that stop, one closes.
        if self._session is session:
            self._session = None
            await session.close()

    def _ensure_worker(self, here: asyncio.AbstractEventLoop | None = None) -> Session:
        session = self._session
        if session is None:
            with self._lock:
                session = self._session
                if session is None:
                    session = Session(
                        self._router, self.log, self._leader_lock, self._slots, self._code
                    )
                    session.is_inline = self._is_inline
                    session.is_on_server = self._where == "server"
                    session.open()
                    if self.logs_survival:
                        log_survival(self.log)
                    self._session = session
                    self.was_started = True
        if session.is_of_parent:
            msg = (
                "this process was forked from a serving process, and only the parent runs "
                "handlers: start serving after the fork"
            )
            raise StoreError(msg)
        here = here or running_loop()
        if here is not None and here is not session.loop:
            session.bind(here)
        return session
