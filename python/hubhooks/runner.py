"""Runs handlers once the Hub has its answer, each on its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from queue import SimpleQueue
from traceback import format_exception, format_exception_only
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from hubhooks.deliveries import Ending, Log
    from hubhooks.receiver import Work
    from hubhooks.routing import Handler

__all__ = ["Ignore", "Runner"]

_log = logging.getLogger("hubhooks")

# A cancelled handler may clean up, but cannot keep the server from stopping.
_CLEAN_UP_SECONDS = 1.0
_NOT_OURS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)
_TOO_LATE = "the server stopped before the handler was done"


class Ignore(Exception):  # noqa: N818 - not an error: how a handler says "not for me"
    """Raised by a handler that wants nothing to do with an event; recorded as `ignored`.

    Args:
        reason: what the log says about it.
    """


class Runner:
    """Runs sync handlers on daemon threads, and async ones as tasks of the server's loop.

    Args:
        find: looks a handler up by its name, at each run: a reloaded script has new ones.
        log: keeps what became of each run.
        threads: how many sync handlers run at once.
    """

    def __init__(
        self, find: Callable[[str], Handler | None], log: Log, *, threads: int = 32
    ) -> None:
        self._find = find
        self._log = log
        self._limit = threads
        self._threads: _Threads | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._unfinished = _Count()

    def start(self) -> None:
        """Get ready to run. The first delivery does it too, where nothing announces the start."""
        self._threads = self._threads or _Threads(self._limit)

    def submit(self, work: Work) -> None:
        """Run the handlers of a delivery soon, async ones as tasks of the running loop."""
        threads = self._threads = self._threads or _Threads(self._limit)
        for name in work.handlers:
            handler = self._find(name)
            if handler is None:
                _log.error("delivery `%s` has no handler `%s`", work.delivery_id, name)
                self._log.finished(work.delivery_id, name, "failed", f"no handler {name}")
            else:
                self._unfinished.add()
                run = _Run(self._log, handler, work)
                if handler.is_async:
                    self._start_task(run)
                else:
                    threads.submit(self._run_in_thread, run)

    async def stop(self, drain: float = 10) -> None:
        """Wait for what runs, then end what still does.

        A sync handler cannot be ended: it goes on as long as the process does.

        Args:
            drain: how many seconds to wait.
        """
        if not await self._unfinished.wait_for_none(drain):
            _log.warning("stopped with handlers still running after %g s", drain)
        # Tasks of an earlier loop are its own to end.
        loop = asyncio.get_running_loop()
        tasks = {task for task in self._tasks if task.get_loop() is loop and task.cancel(_TOO_LATE)}
        if tasks:
            await asyncio.wait(tasks, timeout=_CLEAN_UP_SECONDS)
        if self._threads is not None:
            self._threads.close()
            self._threads = None

    def _run_in_thread(self, run: _Run) -> None:
        try:
            run.call()
        finally:
            self._unfinished.remove()

    def _start_task(self, run: _Run) -> None:
        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._unfinished.remove()
            if task.cancelled():
                run.drop()

        task = asyncio.ensure_future(run.call_async())
        # The loop itself keeps only weak references to its tasks.
        self._tasks.add(task)
        task.add_done_callback(end)


class _Run:
    """One run of a handler: recorded, and its failure kept from everybody else."""

    def __init__(self, log: Log, handler: Handler, work: Work) -> None:
        self._log = log
        self._handler = handler
        self._work = work
        self._is_started = False

    def call(self) -> None:
        with self as arguments:
            result = self._handler.function(*arguments)
            if asyncio.iscoroutine(result):
                result.close()
                msg = "the handler gave back a coroutine: write it as `async def`"
                raise TypeError(msg)

    async def call_async(self) -> None:
        with self as arguments:
            await self._handler.function(*arguments)

    def drop(self) -> None:
        """Record that it was cancelled, if that came before it could start."""
        if not self._is_started:
            self._end("failed", _TOO_LATE)

    def __enter__(self) -> tuple[object, ...]:
        self._is_started = True
        delivery = self._log.started(self._work.delivery_id, self._handler.name)
        event = self._work.event
        return (event, delivery) if self._handler.takes_delivery else (event,)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if isinstance(error, GeneratorExit):
            # Its loop was closed under it, and it is collected as garbage in the middle of
            # anything: no place to take a lock or to write a log.
            pass
        elif error is None:
            self._end("done")
        elif isinstance(error, Ignore):
            self._end("ignored", str(error))
        else:
            name, delivery_id = self._handler.name, self._work.delivery_id
            _log.error("handler `%s` failed on delivery `%s`", name, delivery_id, exc_info=error)
            summary = format_exception_only(error)[0].strip()
            self._end("failed", summary, "".join(format_exception(error)))
        # A cancelled task must end as one, and Ctrl-C belongs to the server. All else stays here,
        # also the `SystemExit` of a handler that calls `exit()`: it means itself.
        return not isinstance(error, _NOT_OURS)

    def _end(self, ending: Ending, error: str = "", traceback: str = "") -> None:
        name, delivery_id = self._handler.name, self._work.delivery_id
        self._log.finished(delivery_id, name, ending, error, traceback)


class _Count:
    """Counts runs on any thread, and lets a coroutine wait until there is none."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def add(self) -> None:
        with self._lock:
            self._count += 1

    def remove(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0 and self._waiting is not None:
                loop, none_left = self._waiting
                loop.call_soon_threadsafe(none_left.set)

    async def wait_for_none(self, seconds: float) -> bool:
        none_left = asyncio.Event()
        with self._lock:
            if self._count == 0:
                return True
            self._waiting = (asyncio.get_running_loop(), none_left)
        try:
            await asyncio.wait_for(none_left.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiting = None
        return True


class _Threads:
    """A pool of daemon threads.

    Not a ThreadPoolExecutor: that one keeps the process from ending until every handler returned.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]] | None] = SimpleQueue()
        self._running = 0
        self._pending = 0

    def submit(self, function: Callable[..., None], *arguments: object) -> None:
        with self._lock:
            self._pending += 1
            # One thread for each job that waits or runs, so that none waits behind another.
            is_short = self._pending > self._running and self._running < self._limit
            self._running += is_short
        if is_short:
            threading.Thread(target=self._work, name="hubhooks", daemon=True).start()
        self._jobs.put((function, arguments))

    def close(self) -> None:
        """Let each thread end after what it does now, and after what is queued already."""
        for _ in range(self._running):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, arguments = job
            try:
                function(*arguments)
            except BaseException:  # noqa: BLE001 - see below
                # Whatever a handler raises, `SystemExit` too, the thread is there for the next.
                _log.exception("a handler's thread failed outside the handler")
            # Waiting for the next job, hold nothing of the last one.
            del job, function, arguments
            with self._lock:
                self._pending -= 1
