"""Runs handlers once the Hub has its answer, each on its own, and hooks after them."""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from traceback import format_exception, format_exception_only
from typing import TYPE_CHECKING, Any, Literal

from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from hubhooks.deliveries import Ending, Log
    from hubhooks.receiver import Work
    from hubhooks.routing import Handler, Hook, Occasion, Router

    Where: TypeAlias = Literal["server", "own"]

__all__ = ["Ignore", "Runner"]

_log = logging.getLogger("hubhooks")

# A cancelled handler may clean up, but cannot keep the server from stopping.
_CLEAN_UP_SECONDS = 1.0
_TOO_LATE = "the server stopped before the handler was done"


class Ignore(Exception):  # noqa: N818 - not an error: how a handler says "not for me"
    """Raised by a handler that wants nothing to do with an event; recorded as `ignored`.

    Args:
        reason: what the log says about it.
    """


class Runner:
    """Runs sync handlers on daemon threads, and async ones as tasks of a loop.

    Args:
        router: finds handlers by their names, at each run, as a reloaded script has new ones; and
            the hooks.
        log: keeps what became of each run.
        threads: how many sync handlers run at once; with 0 they run where they are submitted.
        loop: where async handlers run: on the `server`'s loop, or on the runner's `own`, where one
            that blocks delays no answer; None for the server's, unless somebody prefers the other.

    Raises:
        ConfigError: there is no such loop.
    """

    def __init__(
        self, router: Router, log: Log, *, threads: int = 32, loop: Where | None = None
    ) -> None:
        if loop not in ("server", "own", None):
            msg = f'`loop={loop!r}` is no loop that handlers run on; write "server" or "own"'
            raise ConfigError(msg)
        self._router = router
        self._log = log
        self._limit = threads
        self._is_loop_chosen = loop is not None
        self._loop: Where = loop or "server"
        self._session: _Session | None = None
        self._lock = threading.Lock()

    def prefer_loop(self, loop: Where) -> None:
        """Let async handlers run there, unless the user chose."""
        if not self._is_loop_chosen:
            self._loop = loop

    def start(self) -> None:
        """Get ready to run. The first delivery does it too, where nothing announces the start."""
        self._begun()

    def submit(self, work: Work) -> None:
        """Run the handlers of a delivery soon; without any, the hooks for the unhandled."""
        session = self._session or self._begun()
        # The server's loop is the one that runs here.
        loop = _running_loop() if self._loop == "server" else None
        if not work.handlers:
            session.tell("unhandled", work, loop, work.event)
        for name in work.handlers:
            handler = self._router.handler(name)
            if handler is None:
                session.lose(work, name, loop, LookupError(f"no handler {name}"))
            else:
                session.start(_Run(session, handler, work, loop))

    async def stop(self, drain: float | None = 10) -> None:
        """Wait for what runs, then end what still does.

        A sync handler cannot be ended: it goes on as long as the process does.

        Args:
            drain: how many seconds to wait; None for as long as it takes.
        """
        session = self._session
        if session is None:
            return
        await session.drain(drain)
        # What is submitted from here on begins anew. Of two that stop, one closes.
        if self._session is session:
            self._session = None
            await session.close()

    def _begun(self) -> _Session:
        with self._lock:
            self._session = self._session or _Session(self._router, self._log, self._limit)
            return self._session


class _Session:
    """All that runs between a start and a stop. What outlives the stop bothers no later one."""

    def __init__(self, router: Router, log: Log, threads: int) -> None:
        self.log = log
        self._router = router
        self._threads = _Threads(self._run, threads)
        self._tasks: dict[asyncio.Task[None], _Call] = {}
        self._own_loop: _OwnLoop | None = None
        self._unfinished = _Count()
        self._is_closed = False
        self._lock = threading.Lock()

    def start(self, call: _Call) -> None:
        """Begin a call, from any thread."""
        self._unfinished.add()
        if not call.is_async:
            self._threads.submit(call)
        elif call.loop is not None and call.loop is _running_loop():
            self._start_task(call, call.loop)
        else:
            try:
                loop = call.loop or self._begun_own_loop()
                loop.call_soon_threadsafe(self._start_task, call, loop)
            except RuntimeError:
                call.drop()
                self._unfinished.remove()

    def tell(
        self,
        occasion: Occasion,
        work: Work,
        loop: asyncio.AbstractEventLoop | None,
        *arguments: object,
    ) -> None:
        """Call the hooks for an occasion."""
        for hook in self._router.hooks_on(occasion):
            what = f"`on_{occasion}` hook `{hook.name}`"
            self.start(
                _Telling(hook, f"{what} failed on delivery `{work.delivery_id}`", loop, arguments)
            )

    def lose(
        self,
        work: Work,
        name: str,
        loop: asyncio.AbstractEventLoop | None,
        error: BaseException,
    ) -> None:
        """Record that a handler failed without having been started."""
        _log.error("handler `%s` did not run on delivery `%s`: %s", name, work.delivery_id, error)
        told = self.log.claim(work.delivery_id, name)
        if told is not None:
            self.log.finished(told, "failed", str(error))
            self.tell("failure", work, loop, work.event, told, error)

    async def drain(self, seconds: float | None) -> None:
        """Wait for what runs, then cancel the tasks that still do."""
        if not await self._unfinished.wait_for_none(seconds):
            _log.warning("stopped with handlers still running after %g s", seconds)
        # The second time for the hooks that are told of the first.
        for _ in range(2):
            if [task for task in tuple(self._tasks) if _cancel(task)]:
                await self._unfinished.wait_for_none(_CLEAN_UP_SECONDS)

    async def close(self) -> None:
        """Let the threads end."""
        self._threads.close()
        with self._lock:
            self._is_closed = True
        if self._own_loop is not None:
            await self._own_loop.close()

    def _run(self, call: _Call) -> None:
        try:
            call.run()
        finally:
            self._unfinished.remove()

    def _start_task(self, call: _Call, loop: asyncio.AbstractEventLoop) -> None:
        task = loop.create_task(call.run_async())
        # The loop itself keeps only weak references to its tasks.
        self._tasks[task] = call
        task.add_done_callback(self._end_task)

    def _end_task(self, task: asyncio.Task[None]) -> None:
        call = self._tasks.pop(task)
        if task.cancelled():
            if not call.is_begun:
                call.drop()
        elif (error := task.exception()) is not None:
            _log.error("a handler's task failed outside the handler", exc_info=error)
        self._unfinished.remove()

    def _begun_own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_closed:
                msg = "the runner has stopped"
                raise RuntimeError(msg)
            self._own_loop = self._own_loop or _OwnLoop()
            return self._own_loop.loop


class _Call(ABC):
    """A call of the user's code, whose failure is kept from everybody else."""

    is_begun = False

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        is_async: bool,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.function = function
        self.is_async = is_async
        self.loop = loop
        """Where what is async runs; None for the session's own loop."""

    @abstractmethod
    def begin(self) -> tuple[object, ...]:
        """Give the arguments."""

    @abstractmethod
    def done(self) -> None:
        """Take note that it returned."""

    @abstractmethod
    def failed(self, error: BaseException) -> None:
        """Take note that it raised."""

    @abstractmethod
    def drop(self) -> None:
        """Take note that it never began."""

    def run(self) -> None:
        self.is_begun = True
        arguments = self.begin()
        try:
            result = self.function(*arguments)
            if result is not None:
                _refuse_coroutine(result)
        except BaseException as error:
            self.failed(error)
            if _is_interrupt(error):
                raise
        else:
            self.done()

    async def run_async(self) -> None:
        self.is_begun = True
        arguments = self.begin()
        try:
            await self.function(*arguments)
        except GeneratorExit:
            # Its loop was closed under it, and it is collected as garbage in the middle of
            # anything: no place to take a lock or to write a log.
            raise
        except BaseException as error:
            self.failed(error)
            # A cancelled task must end as one.
            if isinstance(error, asyncio.CancelledError) or _is_interrupt(error):
                raise
        else:
            self.done()


class _Run(_Call):
    """One run of a handler."""

    def __init__(
        self,
        session: _Session,
        handler: Handler,
        work: Work,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(handler.function, is_async=handler.is_async, loop=loop)
        self._session = session
        self._handler = handler
        self._work = work

    def begin(self) -> tuple[object, ...]:
        delivery = self._session.log.claim(self._work.delivery_id, self._handler.name)
        assert delivery is not None  # noqa: S101 - it was just accepted
        self._delivery = delivery
        event = self._work.event
        return (event, delivery) if self._handler.takes_delivery else (event,)

    def done(self) -> None:
        self._finish("done")

    def failed(self, error: BaseException) -> None:
        if isinstance(error, Ignore):
            self._finish("ignored", str(error))
            return
        name, delivery_id = self._handler.name, self._work.delivery_id
        _log.error("handler `%s` failed on delivery `%s`", name, delivery_id, exc_info=error)
        summary = format_exception_only(error)[0].strip()
        self._finish("failed", summary, "".join(format_exception(error)))
        self._tell("error", error)
        self._tell("failure", error)

    def drop(self) -> None:
        error = asyncio.CancelledError(_TOO_LATE)
        self._session.lose(self._work, self._handler.name, self.loop, error)

    def _finish(self, ending: Ending, error: str = "", traceback: str = "") -> None:
        self._session.log.finished(self._delivery, ending, error, traceback)

    def _tell(self, occasion: Occasion, error: BaseException) -> None:
        event, delivery = self._work.event, self._delivery
        self._session.tell(occasion, self._work, self.loop, event, delivery, error)


class _Telling(_Call):
    """One call of a hook. What it raises is logged, and nobody is told."""

    def __init__(
        self,
        hook: Hook,
        complaint: str,
        loop: asyncio.AbstractEventLoop | None,
        arguments: tuple[object, ...],
    ) -> None:
        super().__init__(hook.function, is_async=hook.is_async, loop=loop)
        self._complaint = complaint
        self._arguments = arguments

    def begin(self) -> tuple[object, ...]:
        return self._arguments

    def done(self) -> None: ...

    def failed(self, error: BaseException) -> None:
        _log.error(self._complaint, exc_info=error)

    def drop(self) -> None:
        _log.error("%s: %s", self._complaint, _TOO_LATE)


class _Count:
    """Counts on any thread, and lets coroutines wait until there is none."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def add(self) -> None:
        with self._lock:
            self._count += 1

    def remove(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                for loop, none_left in self._waiting:
                    loop.call_soon_threadsafe(none_left.set)

    async def wait_for_none(self, seconds: float | None) -> bool:
        waiting = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self._count == 0:
                return True
            self._waiting.append(waiting)
        try:
            await asyncio.wait_for(waiting[1].wait(), seconds)
        except asyncio.TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiting.remove(waiting)
        return True


class _OwnLoop:
    """A loop on a daemon thread of its own: what blocks it blocks nothing else."""

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._is_up = threading.Event()
        self._alive = _Count()
        self._alive.add()
        threading.Thread(target=self._run, name="hubhooks loop", daemon=True).start()
        self._is_up.wait()

    async def close(self) -> None:
        """End the loop and its thread, or leave that to whatever blocks it."""
        self.loop.call_soon_threadsafe(self._ending.set)
        await self._alive.wait_for_none(_CLEAN_UP_SECONDS)

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        finally:
            self._is_up.set()
            self._alive.remove()

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._is_up.set()
        await self._ending.wait()


class _Threads:
    """A pool of daemon threads.

    Not a ThreadPoolExecutor: that one keeps the process from ending until every handler returned.

    One thread at a time is sent for what waits, and sends the next before it begins its call. So
    no call waits behind one that blocks, and many short ones do not wake a thread each.
    """

    def __init__(self, run: Callable[[_Call], None], limit: int) -> None:
        self._run = run
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[_Call] = deque()
        self._idle: list[threading.Lock] = []
        """What each idle thread waits to be released."""
        self._running = 0
        self._is_one_sent = False
        self._is_closed = False

    def submit(self, call: _Call) -> None:
        if self._limit == 0:
            self._run(call)
            return
        with self._lock:
            if self._is_closed:
                # A hook that is told of a handler which outlived the stop.
                threading.Thread(target=self._run, args=(call,), daemon=True).start()
                return
            self._waiting.append(call)
            self._send_one()

    def close(self) -> None:
        """Let each thread end after what it does now, and after what waits already."""
        with self._lock:
            self._is_closed = True
            while self._idle:
                self._idle.pop().release()

    def _send_one(self) -> None:
        """Send a thread for what waits. If all are at work, the first that is done looks itself."""
        if self._is_one_sent:
            return
        if self._idle:
            self._idle.pop().release()
        elif self._running < self._limit:
            threading.Thread(target=self._work, name="hubhooks", daemon=True).start()
            self._running += 1
        else:
            return
        self._is_one_sent = True

    def _work(self) -> None:
        wake = threading.Lock()
        wake.acquire()
        is_sent = True
        while (call := self._next(wake, is_sent=is_sent)) is not None:
            is_sent = False
            try:
                self._run(call)
            except BaseException:  # noqa: BLE001 - see below
                # Whatever a handler raises, `SystemExit` too, the thread is there for the next.
                _log.exception("a handler's thread failed outside the handler")
            # Waiting for the next call, hold nothing of the last one.
            del call

    def _next(self, wake: threading.Lock, *, is_sent: bool) -> _Call | None:
        """Wait for the next call; None at the end."""
        while True:
            with self._lock:
                if is_sent:
                    self._is_one_sent = False
                if self._waiting:
                    call = self._waiting.popleft()
                    if self._waiting:
                        self._send_one()
                    return call
                if self._is_closed:
                    return None
                self._idle.append(wake)
            wake.acquire()
            is_sent = True


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _cancel(task: asyncio.Task[None]) -> bool:
    loop = task.get_loop()
    # Tasks of an earlier loop are its own to end.
    if not loop.is_running():
        return False
    loop.call_soon_threadsafe(task.cancel, _TOO_LATE)
    return True


def _is_interrupt(error: BaseException) -> bool:
    """Whether it is a real Ctrl-C, which Python raises in the main thread only.

    That one belongs to the server. All else stays with the handler, also the `SystemExit` of one
    that calls `exit()`: it means itself.
    """
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and isinstance(error, KeyboardInterrupt)


def _refuse_coroutine(result: object) -> None:
    if asyncio.iscoroutine(result):
        result.close()
        msg = "the function gave back a coroutine: write it as `async def`"
        raise TypeError(msg)
