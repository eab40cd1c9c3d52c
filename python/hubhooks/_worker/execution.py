"""Calls of the user's code: on threads, as tasks, each kept from the others' failures."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import math
import os
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hubhooks._fork import end_forked_child
from hubhooks._functions import check_ran, settle
from hubhooks._logging import (
    get_logger,
    is_interrupt,
    summary_of,
    text_of,
    traceback_of,
    without_own_frames,
)
from hubhooks._store.base import log_fields
from hubhooks.models import Ignore, Retry, State, shorten

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from hubhooks._core import HubEvent
    from hubhooks._worker.session import Session
    from hubhooks.models import RunContext
    from hubhooks.routing import Handler, Hook, HookName

__all__ = [
    "CLEAN_UP_SECONDS",
    "SHUTDOWN_MESSAGE",
    "DaemonThreadPool",
    "Execution",
    "HookExecution",
    "LoopThread",
    "RunExecution",
    "WaitGroup",
    "Watchdog",
    "cancel",
    "running_loop",
]  # fmt: skip

_log = get_logger()

# What is cancelled may clean up, but cannot keep the server from stopping.
CLEAN_UP_SECONDS = 1.0
SHUTDOWN_MESSAGE = "the server stopped before the handler finished"
_BLOCKED_SECONDS = 1.0
# What is cancelled at its time limit should have ended after this.
_CANCEL_GRACE_SECONDS = 5.0
# How long a thread that computes may keep the interpreter from others. Python's 5 ms add up: beside
# eight handlers that compute, each step of an answer would wait for 40 ms.
_SWITCH_SECONDS = 0.0005
# How long a `backoff` may have a handler wait, and how long a `Retry` may.
_LONGEST_PAUSE = 3600.0
_LONGEST_AFTER = 365 * 24 * 3600.0
# Where the user's code gives no time.
_USUAL_PAUSE = 60.0
_JITTER = 0.2
# So many characters of a handler's reason are logged.
_LONGEST_LOGGED = 200


class Execution(ABC):
    """A call of the user's code, whose failure is kept from everybody else."""

    is_begun = False
    is_out_of_time = False
    task: asyncio.Task[None] | None = None
    """The task of what is async, as long as it lives."""
    rest: Awaitable[object] | None = None
    """What a sync function returned and is still to be awaited, such as the coroutine of an async
    function behind a sync decorator."""

    def __init__(
        self,
        function: Callable[..., Any],
        what: str,
        *,
        is_async: bool,
        loop: asyncio.AbstractEventLoop | None,
        timeout: float | None = None,
    ) -> None:
        self.function = function
        self.what = what
        """What the log calls it."""
        self.is_async = is_async
        self.loop = loop
        """Where what is async runs; None for the session's own loop."""
        self.timeout = timeout
        """After how many seconds what is async is cancelled."""
        self.context = contextvars.Context()
        """What the function and all that follows its end runs in."""

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
    def cancel(self) -> None:
        """Take note that it never began."""

    def run(self) -> None:
        """Call a sync function in this thread.

        Where that returns an awaitable, `rest` is left for `create_task`.
        """
        self.context.run(self._run)

    def _run(self) -> None:
        self.is_begun = True
        process = os.getpid()
        arguments = self.begin()
        try:
            result = self.function(*arguments)
            if result is not None:
                if inspect.isawaitable(result):
                    end_forked_child(process)
                    self.rest = result
                    self.is_async, self.is_begun = True, False
                    return
                check_ran(result)
        except BaseException as error:
            end_forked_child(process, error)
            self.failed(error)
            # The text of an exception, or `backoff=`, may fork too.
            end_forked_child(process)
            if is_interrupt(error):
                raise
        else:
            end_forked_child(process)
            self.done()

    def drop_rest(self) -> None:
        """Close a coroutine that nobody will await, or Python warns of it."""
        if inspect.iscoroutine(self.rest):
            self.rest.close()

    def create_task(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Begin a call of an async function in the thread of its loop."""
        # The task runs in a copy. Python 3.10 has no `create_task(..., context=)`.
        self.task = self.context.run(loop.create_task, self._run_async())
        return self.task

    async def _run_async(self) -> None:
        self.is_begun = True
        process = os.getpid()
        arguments = self.begin()
        timer, task = None, self.task
        if self.timeout is not None and task is not None:
            timer = task.get_loop().call_later(self.timeout, self._end, task)
        try:
            result = self.function(*arguments) if self.rest is None else self.rest
            if inspect.isawaitable(result):
                result = await result
            if result is not None:
                await settle(result)
        except BaseException as error:
            # Not `isinstance`: it reads `__class__`, which an exception of the user may define.
            kind = type(error)
            if issubclass(kind, GeneratorExit) and not _is_current(task):
                # Its loop was closed under it, and it is collected as garbage in the middle of
                # anything: no place to take a lock or to write a log.
                raise
            end_forked_child(process, error)
            # With what the function set.
            self.context = contextvars.copy_context()
            is_cancelled = issubclass(kind, asyncio.CancelledError)
            if is_cancelled and self.is_out_of_time:
                self.failed(self._timed_out().with_traceback(error.__traceback__))
                return
            self.failed(error)
            end_forked_child(process)
            # A cancelled task must end as one.
            if is_cancelled or is_interrupt(error):
                raise
        else:
            end_forked_child(process)
            self.done()
        finally:
            if timer is not None:
                timer.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        self.is_out_of_time = True
        task.cancel()

    def _timed_out(self) -> TimeoutError:
        return TimeoutError(f"it took more than {self.timeout:g} s")


class RunExecution(Execution):
    """One run of a handler."""

    event: HubEvent
    is_interrupted = False
    """Whether the process died during it before."""
    is_stuck = False
    """Whether it should have ended, and cannot be."""
    deadline: float | None = None
    """When it should have ended, also when it is cancelled before; by the monotonic clock."""

    def __init__(self, session: Session, handler: Handler, run_context: RunContext) -> None:
        super().__init__(
            handler.function,
            f"handler `{run_context.handler}`",
            is_async=handler.is_async,
            loop=None,
            timeout=handler.policy.timeout,
        )
        self.run_context = run_context
        self.name = run_context.handler
        self.is_counted = handler.policy.concurrency is not None
        self._session = session
        self._handler = handler
        self._is_left = False
        self._began_at = 0.0

    def begin(self) -> tuple[object, ...]:
        self._began_at = time.monotonic()
        if self.timeout is not None:
            grace = _CANCEL_GRACE_SECONDS if self.is_async else 0
            self.deadline = self._began_at + self.timeout + grace
            self._session.wake()
        return (self.event, self.run_context) if self._handler.takes_context else (self.event,)

    def done(self) -> None:
        self._finish(State.SUCCEEDED)
        self._log_end(State.SUCCEEDED)

    def failed(self, error: BaseException) -> None:
        kind = type(error)
        reason = summary = trace = ""
        if issubclass(kind, Ignore):
            try:
                reason = text_of(error)
            finally:
                self._finish(State.IGNORED, reason)
            self._log_end(State.IGNORED, reason)
            return
        is_stopped = issubclass(kind, asyncio.CancelledError) and self._session.is_cancelling
        if is_stopped and self._session.log.is_durable:
            self.requeue()
            return
        pause = None if is_stopped or not self._has_tries_left() else _USUAL_PAUSE
        # The record comes before the log, hooks and even Ctrl-C.
        try:
            summary, trace = summary_of(error), traceback_of(error)
            if pause is not None:
                pause = self._pause(error)
        finally:
            self._finish(State.FAILED, summary, trace, retry_after=pause)
        try:
            self._log_failure(error, pause)
        finally:
            self._tell("error", error)
            if pause is None:
                self._tell("failure", error)

    def _log_end(self, state: str, reason: str = "") -> None:
        """Log in one line how the run ended; a failure has a line with its traceback."""
        if self._is_left or not _log.is_enabled_for(logging.INFO):
            return
        seconds = time.monotonic() - self._began_at
        _log.info(
            "delivery `%s`: handler `%s`: %s after %s%s",
            self.run_context.id,
            self.name,
            state,
            f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s",
            reason and f": {shorten(reason, _LONGEST_LOGGED)!r}",
            extra={**self._log_fields(), "state": state},
        )

    def _log_failure(self, error: BaseException, pause: float | None) -> None:
        name, delivery_id = self.name, self.run_context.id
        if pause is None:
            what = "handler `%s` failed on delivery `%s`"
            shown = without_own_frames(error)
            _log.error(what, name, delivery_id, exc_info=shown, extra=self._log_fields())
        elif issubclass(type(error), Retry):
            what = "handler `%s` asks for a retry of delivery `%s` in %.3g s: %s"
            reason = text_of(error)
            _log.info(what, name, delivery_id, pause, reason, extra=self._log_fields())
        else:
            what = "handler `%s` failed on delivery `%s`; retry in %.3g s"
            fields = self._log_fields()
            shown = without_own_frames(error)
            _log.error(what, name, delivery_id, pause, exc_info=shown, extra=fields)

    def cancel(self) -> None:
        self.drop_rest()
        if self._session.log.is_durable:
            self.requeue()
        else:
            self.fail_unstarted(asyncio.CancelledError(SHUTDOWN_MESSAGE))

    def fail_unstarted(self, error: BaseException) -> None:
        """Record that the handler failed without having been called."""
        name, delivery_id, why = self.name, self.run_context.id, text_of(error)
        self._finish(State.FAILED, why)
        what = "handler `%s` did not run on delivery `%s`: %s"
        try:
            _log.error(what, name, delivery_id, why, extra=self._log_fields())
        finally:
            if hasattr(self, "event"):
                self._tell("failure", error)

    def requeue(self, why: str = SHUTDOWN_MESSAGE, retry_after: float = 0) -> None:
        """Let it run again, mostly after the next start, and take no notice of what it does now."""
        if not self._is_left:
            self._finish(State.FAILED, why, retry_after=retry_after)
            self._is_left = True

    def mark_stuck(self) -> None:
        """Record that it should have ended, and cannot be."""
        self.deadline = None
        self.is_stuck = True
        what = "%s on delivery `%s` is stuck: it took more than %g s; a thread cannot be stopped"
        if self.is_async:
            what = (
                "%s on delivery `%s` is stuck: it took more than %g s, and did not end when it was "
                "cancelled"
            )
        self._session.log.mark_stuck(self.run_context)
        self._session.wake()
        fields = self._log_fields()
        _log.warning(what, self.what, self.run_context.id, self.timeout, extra=fields)

    def _log_fields(self) -> dict[str, object]:
        fields = log_fields(self.run_context.id, getattr(self, "event", None))
        return {**fields, "handler": self.name, "attempt": self.run_context.attempt}

    def _finish(
        self,
        ending: State,
        error: str = "",
        traceback: str = "",
        *,
        retry_after: float | None = None,
    ) -> None:
        self.deadline = None
        if not self._is_left:
            log = self._session.log
            log.finish_run(self.run_context, ending, error, traceback, retry_after=retry_after)
            if retry_after is not None:
                self._session.needs_poll = True
            self._session.ended(self)

    def _has_tries_left(self) -> bool:
        return self.run_context.failures < self._handler.policy.retries

    def _pause(self, error: BaseException) -> float:
        """Return how many seconds to wait before the next try."""
        policy = self._handler.policy
        failures = self.run_context.failures + 1
        after = self._after(error) if issubclass(type(error), Retry) else None
        if after is not None:
            return after
        if callable(policy.backoff):
            try:
                given = policy.backoff(failures)
                check_ran(given)
                return _pause_of(given)
            # The function is the user's code, and whatever it raises, the run has to end.
            except BaseException as failure:
                if is_interrupt(failure):
                    raise
                _log.exception("`backoff` of handler `%s` failed; retry in a minute", self.name)
                return _USUAL_PAUSE
        import random  # noqa: PLC0415 - slow to import, and not everybody has retries

        # So that what failed together is not tried again together.
        jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - nothing to guess
        return min(policy.backoff * 2.0 ** min(failures - 1, 30), _LONGEST_PAUSE) * jitter

    def _after(self, error: BaseException) -> float | None:
        """Return the seconds that a `Retry` asks for; None if it asks for none."""
        # A subclass of the user's may not have called what it inherits, or have its own `after`.
        try:
            after = getattr(error, "after", None)
            return None if after is None else _limited(float(after), _LONGEST_AFTER)
        except BaseException as failure:
            if is_interrupt(failure):
                raise
            what = "`after` of the error of handler `%s` failed; using its `backoff`"
            _log.exception(what, self.name)
            return None

    def _tell(self, hook_name: HookName, error: BaseException) -> None:
        event, run_context = self.event, self.run_context
        arguments = (event, run_context, error)
        self._session.tell(hook_name, run_context.id, self.loop, *arguments, context=self.context)


class HookExecution(Execution):
    """One call of a hook. What it raises is logged, and nobody is told."""

    def __init__(  # noqa: PLR0913, PLR0917 - what is called, and with what
        self,
        hook: Hook,
        what: str,
        delivery_id: str,
        loop: asyncio.AbstractEventLoop | None,
        arguments: tuple[object, ...],
        context: contextvars.Context,
    ) -> None:
        super().__init__(hook.function, what, is_async=hook.is_async, loop=loop)
        self.context = context
        self._complaint = f"{what} failed on delivery `{delivery_id}`"
        self._arguments = arguments

    def begin(self) -> tuple[object, ...]:
        return self._arguments

    def done(self) -> None: ...

    def failed(self, error: BaseException) -> None:
        _log.error(self._complaint, exc_info=without_own_frames(error))

    def cancel(self) -> None:
        self.drop_rest()
        _log.error("%s: %s", self._complaint, SHUTDOWN_MESSAGE)


class WaitGroup:
    """Counts on any thread, and lets coroutines wait until there is none."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def is_none(self) -> bool:
        return self._count == 0

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


class LoopThread:
    """A loop on a daemon thread of its own: what blocks it blocks nothing else.

    It goes on when a handler stops it, or a task that one began raises `SystemExit` through it:
    what else runs on it has nothing to do with that.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._is_ending = False
        self._alive = WaitGroup()
        self._alive.add()
        threading.Thread(target=self._run, name="hubhooks loop", daemon=True).start()

    async def close(self) -> None:
        """End the loop and its thread, or leave that to whatever blocks it."""
        with suppress(RuntimeError):  # closed
            self.loop.call_soon_threadsafe(self._end)
        await self._alive.wait_for_none(CLEAN_UP_SECONDS)

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
        except BaseException as raised:  # noqa: BLE001 - whatever it is, the loop goes on
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


class DaemonThreadPool:
    """A pool of daemon threads.

    Not a ThreadPoolExecutor: that one keeps the process from ending until every handler returned.

    One thread at a time is sent for what waits, and sends the next before it begins its call. So
    no call waits behind one that blocks, and many short ones do not wake a thread each.
    """

    def __init__(self, run: Callable[[Execution], None], limit: int) -> None:
        self._run = run
        self._limit = limit
        self._lock = threading.Lock()
        self._waiting: deque[Execution] = deque()
        self._idle: list[threading.Lock] = []
        """What each idle thread waits to be released."""
        self._running = 0
        self._is_one_sent = False
        self._is_closed = False

    def submit(self, call: Execution) -> None:
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
            sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
            try:
                threading.Thread(target=self._work, name="hubhooks", daemon=True).start()
            except RuntimeError as error:
                # The next free thread, or the next call, takes it.
                _log.error("cannot start a thread for a handler now: %s", error)
                return
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
            except BaseException as error:  # noqa: BLE001 - see below
                # Whatever a handler raises, `SystemExit` too, the thread is there for the next.
                _log.error("a handler's thread failed outside the handler", exc_info=error)
            # Waiting for the next call, hold nothing of the last one.
            del call

    def _next(self, wake: threading.Lock, *, is_sent: bool) -> Execution | None:
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


class Watchdog:
    """Names the async handler that keeps the server's loop from everything else.

    Args:
        loop: the server's.
        tasks: the calls that run on it now.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tasks: Mapping[asyncio.Task[None], Execution]
    ) -> None:
        self.loop = loop
        self._tasks = tasks
        self._is_needed = threading.Event()
        self._is_over = False
        self._is_started = False

    def watch(self) -> None:
        """Watch as long as there are tasks."""
        if not self._is_needed.is_set():
            self._is_needed.set()
            if not self._is_started:
                # Without a thread to spare, calls run unwatched.
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
            beat = threading.Event()
            try:
                self.loop.call_soon_threadsafe(beat.set)
            except RuntimeError:  # closed
                return
            if not beat.wait(_BLOCKED_SECONDS):
                self._name()
            # Whatever it was, it is told once.
            while not (self._is_over or self.loop.is_closed() or beat.wait(_BLOCKED_SECONDS)):
                pass
            time.sleep(_BLOCKED_SECONDS / 4)

    def _name(self) -> None:
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
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _is_current(task: asyncio.Task[None] | None) -> bool:
    return task is not None and asyncio.current_task(task.get_loop()) is task


def cancel(task: asyncio.Task[None]) -> bool:
    loop = task.get_loop()
    # Tasks of an earlier loop are its own to end.
    if not loop.is_running():
        return False
    loop.call_soon_threadsafe(task.cancel, SHUTDOWN_MESSAGE)
    return True


def _pause_of(given: float) -> float:
    return _limited(float(given), _LONGEST_PAUSE)


def _limited(seconds: float, longest: float) -> float:
    if not math.isfinite(seconds):
        msg = f"it returned {seconds}: return seconds, such as 60"
        raise ValueError(msg)
    return min(max(seconds, 0.0), longest)
