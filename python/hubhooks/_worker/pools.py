"""Threads and loops that run the user's code without keeping the process alive.

Python's own pools wait at the exit of the process until each handler returned. These do not.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from hubhooks._logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "CLEAN_UP_SECONDS", "SHUTDOWN_MESSAGE", "DaemonThreadPool", "LoopThread", "WaitGroup",
    "Watchdog", "cancel_task", "running_loop",
]  # fmt: skip

_log = get_logger()

# A cancelled task gets this time to clean up. It must not keep the server from stopping.
CLEAN_UP_SECONDS = 1.0
SHUTDOWN_MESSAGE = "the server stopped before the handler finished"
_BLOCKED_SECONDS = 1.0
# How long a computing thread may keep the interpreter from other threads. Python's default of 5 ms
# adds up: beside eight computing handlers, each step of a response would wait for 40 ms.
SWITCH_SECONDS = 0.0005


T = TypeVar("T")


class Named(Protocol):
    """A call with a name for the log."""

    what: str


class WaitGroup:
    """A counter for all threads. Coroutines can wait until it is zero."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def is_zero(self) -> bool:
        return self._count == 0

    def add(self) -> None:
        with self._lock:
            self._count += 1

    def remove(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0:
                for loop, is_zero_again in self._waiting:
                    loop.call_soon_threadsafe(is_zero_again.set)

    async def wait_for_zero(self, seconds: float | None) -> bool:
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


class LoopThread:
    """An event loop on a daemon thread, for async handlers that may block.

    It continues if a handler stops it, or if a task raises `SystemExit`.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._is_ending = False
        self._alive = WaitGroup()
        self._alive.add()
        threading.Thread(target=self._run, name="hubhooks loop", daemon=True).start()

    async def close(self) -> None:
        """End the loop and its thread, at the latest when the blocking handler returns."""
        with suppress(RuntimeError):  # closed
            self.loop.call_soon_threadsafe(self._end)
        await self._alive.wait_for_zero(CLEAN_UP_SECONDS)

    def _end(self) -> None:
        self._is_ending = True
        self.loop.stop()

    def _run(self) -> None:
        try:
            while not self._is_ending:
                self._run_until_it_stops()
            self.loop.run_until_complete(self._clean_up())
        finally:
            self.loop.close()
            self._alive.remove()

    def _run_until_it_stops(self) -> None:
        error = None
        try:
            self.loop.run_forever()
        except BaseException as raised:  # noqa: BLE001 - the loop continues after any exception
            error = raised
        if not self._is_ending:
            what = (
                "a handler stopped the event loop of the async handlers, which continues: end a "
                "handler with `return` or `raise`"
            )
            _log.error(what, exc_info=error)

    async def _clean_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()


class DaemonThreadPool(Generic[T]):
    """A pool of daemon threads. A `ThreadPoolExecutor` would keep the process alive.

    One idle thread is woken at a time. It wakes the next one before its call. So no call waits
    behind a blocked one, and many short calls do not wake a thread each.
    """

    def __init__(self, run: Callable[[T], None], limit: int) -> None:
        self._run = run
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[T] = deque()
        self._idle: list[threading.Lock] = []
        """The lock that each idle thread waits for."""
        self._running = 0
        self._is_waking = False
        self._is_closed = False

    def submit(self, call: T) -> None:
        with self._lock:
            if self._is_closed:
                # A hook about a handler that ended after the stop.
                threading.Thread(target=self._run, args=(call,), daemon=True).start()
                return
            self._waiting.append(call)
            self._wake_one()

    def close(self) -> None:
        """End each thread after its call and after the waiting calls."""
        with self._lock:
            self._is_closed = True
            while self._idle:
                self._idle.pop().release()

    def _wake_one(self) -> None:
        """Wake or start a thread for a waiting call; a busy one takes it later."""
        if self._is_waking:
            return
        if self._idle:
            self._idle.pop().release()
        elif self._running < self._limit:
            sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_SECONDS))
            try:
                threading.Thread(target=self._work, name="hubhooks", daemon=True).start()
            except RuntimeError as error:
                # The next free thread takes the call.
                _log.error("cannot start a thread for a handler now: %s", error)
                return
            self._running += 1
        else:
            return
        self._is_waking = True

    def _work(self) -> None:
        wake = threading.Lock()
        wake.acquire()
        is_woken = True
        while (call := self._next(wake, is_woken=is_woken)) is not None:
            is_woken = False
            try:
                self._run(call)
            except BaseException as error:  # noqa: BLE001 - the thread must survive
                _log.error("a handler's thread failed outside the handler", exc_info=error)
            # Do not keep the call alive while the thread is idle.
            del call

    def _next(self, wake: threading.Lock, *, is_woken: bool) -> T | None:
        """Wait for the next call; None at the end."""
        while True:
            with self._lock:
                if is_woken:
                    self._is_waking = False
                if self._waiting:
                    call = self._waiting.popleft()
                    if self._waiting:
                        self._wake_one()
                    return call
                if self._is_closed:
                    return None
                self._idle.append(wake)
            wake.acquire()
            is_woken = True


class Watchdog:
    """Logs the name of an async handler that blocks the server's loop.

    Args:
        loop: the server's loop.
        tasks: the calls that run on it.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tasks: Mapping[asyncio.Task[None], Named]
    ) -> None:
        self.loop = loop
        self._tasks = tasks
        self._is_needed = threading.Event()
        self._is_over = False
        self._is_started = False

    def watch(self) -> None:
        """Watch while there are tasks."""
        if not self._is_needed.is_set():
            self._is_needed.set()
            if not self._is_started:
                # If no thread can start, calls run without the watchdog.
                with suppress(RuntimeError):
                    name = "hubhooks watchdog"
                    threading.Thread(target=self._run, name=name, daemon=True).start()
                    self._is_started = True

    def close(self) -> None:
        """Let the thread end."""
        self._is_over = True
        self._is_needed.set()

    def _run(self) -> None:
        while not self._is_over:
            self._is_needed.wait()
            if not self._tasks:
                self._is_needed.clear()
                continue
            is_alive = threading.Event()
            try:
                self.loop.call_soon_threadsafe(is_alive.set)
            except RuntimeError:  # closed
                return
            if not is_alive.wait(_BLOCKED_SECONDS):
                self._log_current()
            # Log a blocked loop once.
            while not (self._is_over or self.loop.is_closed() or is_alive.wait(_BLOCKED_SECONDS)):
                pass
            time.sleep(_BLOCKED_SECONDS / 4)

    def _log_current(self) -> None:
        task = asyncio.current_task(self.loop)
        call = None if task is None else self._tasks.get(task)
        if call is not None:
            _log.warning(
                "%s has blocked the event loop of the server for more than %g s, and all responses "
                'wait: write it as `def`, or use `Webhooks(handler_loop="dedicated")`',
                call.what,
                _BLOCKED_SECONDS,
            )


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs in this thread; None if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def cancel_task(task: asyncio.Task[None]) -> bool:
    """Cancel a task from any thread; False if its loop does not run."""
    loop = task.get_loop()
    if not loop.is_running():
        return False
    loop.call_soon_threadsafe(task.cancel, SHUTDOWN_MESSAGE)
    return True
