"""Call the user's code: handlers and hooks. The failure of one call does not reach another."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

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
from hubhooks._worker import recording
from hubhooks._worker.backoff import DEFAULT_DELAY, retry_delay
from hubhooks._worker.pools import SHUTDOWN_MESSAGE
from hubhooks.models import Ignore, Retry, State, shorten

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hubhooks._core import HubEvent
    from hubhooks._worker.recording import Recording
    from hubhooks.handlers import Handler, Hook, HookName
    from hubhooks.models import RunContext

__all__ = ["Execution", "HookExecution", "Reporter", "RunExecution"]

_log = get_logger()

# A longer reason of a handler is cut in the log, in characters.
_LONGEST_LOGGED = 200


class Reporter(Protocol):
    """What a run reports to: the worker."""

    @property
    def is_cancelling(self) -> bool:
        """True once a shutdown cancels the tasks that still run."""
        ...

    @property
    def keeps_unfinished(self) -> bool:
        """True if unfinished runs continue after the next start: the store is on disk."""
        ...

    def begun(self, run: RunExecution) -> None:
        """Record that a run with a deadline began."""
        ...

    def finished(
        self, run: RunExecution, state: State, error: str, traceback: str, retry_after: float | None
    ) -> None:
        """Record the end of an attempt, and the seconds to the next one if there is one."""
        ...

    def stuck(self, run: RunExecution) -> None:
        """Record that a run passed its deadline and cannot be cancelled."""
        ...

    def run_hooks(self, hook_name: HookName, run: RunExecution, error: BaseException) -> None:
        """Call the hooks about an error of a run."""
        ...


class Execution(ABC):
    """One call of the user's code. What it raises ends here."""

    is_begun = False
    is_out_of_time = False
    task: asyncio.Task[None] | None = None
    """The task of an async call, until it ends."""
    rest: Awaitable[object] | None = None
    """An awaitable that a sync function returned, for example because a sync decorator wraps an
    async function."""

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
        """The name of the call in the log."""
        self.is_async = is_async
        self.loop = loop
        """The loop of an async call; None for the loop of the handlers."""
        self.timeout = timeout
        """An async call is cancelled after these seconds."""
        self.context = contextvars.Context()
        """The function runs in it, and so do the hooks about its end."""

    @abstractmethod
    def begin(self) -> tuple[object, ...]:
        """Return the arguments of the call."""

    @abstractmethod
    def done(self, result: object) -> None:
        """Record what the function returned."""

    @abstractmethod
    def failed(self, error: BaseException) -> None:
        """Record that the function raised."""

    @abstractmethod
    def cancel(self) -> None:
        """Record that the call never began."""

    def run(self) -> None:
        """Call a sync function in this thread.

        If it returns an awaitable, `rest` is set, and `create_task` awaits it.
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
            self.done(result)

    def drop_rest(self) -> None:
        """Close a coroutine that will not be awaited. Python would warn about it."""
        if inspect.iscoroutine(self.rest):
            self.rest.close()

    def create_task(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """Start an async call, in the thread of its loop."""
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
                # The loop is closed, and the GC ends the coroutine: do not lock or log.
                raise
            end_forked_child(process, error)
            # It has the context variables that the function set.
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
            self.done(result)
        finally:
            if timer is not None:
                timer.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        self.is_out_of_time = True
        task.cancel()

    def _timed_out(self) -> TimeoutError:
        return TimeoutError(f"it took more than {self.timeout:g} s")


class RunExecution(Execution):
    """One attempt of a run: a handler on a delivery."""

    event: HubEvent
    has_crashed = False
    """True if the process died during an earlier attempt."""
    is_stuck = False
    """True once the timeout passed and the run could not be cancelled."""
    deadline: float | None = None
    """The end of the timeout and of the grace after a cancellation, by the clock."""
    recording: Recording | None = None
    """What the attempt prints and returns; None unless `hubhooks dev` records it."""

    def __init__(
        self,
        reporter: Reporter,
        handler: Handler,
        run_context: RunContext,
        clock: Callable[[], float],
        cancel_grace: float,
    ) -> None:
        super().__init__(
            handler.function,
            f"handler `{run_context.handler}`",
            is_async=handler.is_async,
            loop=None,
            timeout=handler.policy.timeout,
        )
        self.run_context = run_context
        self.name = run_context.handler
        self.is_grouped = handler.policy.is_grouped
        self._reporter = reporter
        self._handler = handler
        self._clock = clock
        self._cancel_grace = cancel_grace
        self._is_requeued = False
        # As in the store, the attempt starts before its thread or its loop is free.
        self._started_at = clock()

    def begin(self) -> tuple[object, ...]:
        if recording.is_on() and self.recording is None:
            self.recording = recording.start()
        if self.timeout is not None:
            grace = self._cancel_grace if self.is_async else 0
            self.deadline = self._clock() + self.timeout + grace
            self._reporter.begun(self)
        return (self.event, self.run_context) if self._handler.takes_context else (self.event,)

    def done(self, result: object) -> None:
        if self.recording is not None:
            self.recording.set_result(result)
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
        is_stopped = issubclass(kind, asyncio.CancelledError) and self._reporter.is_cancelling
        if is_stopped and self._reporter.keeps_unfinished:
            self.requeue()
            return
        delay = None if is_stopped or not self._has_tries_left() else DEFAULT_DELAY
        # Store the result before logging and hooks, and before Ctrl-C goes on.
        try:
            summary, trace = summary_of(error), traceback_of(error)
            if delay is not None:
                failures = self.run_context.failures + 1
                delay = retry_delay(self.name, self._handler.policy, failures, error)
        finally:
            self._finish(State.FAILED, summary, trace, retry_after=delay)
        try:
            self._log_failure(error, delay)
        finally:
            self._reporter.run_hooks("error", self, error)
            if delay is None:
                self._reporter.run_hooks("failure", self, error)

    def _log_end(self, state: str, reason: str = "") -> None:
        """Log in one line how the run ended; a failure has a line with its traceback."""
        if self._is_requeued or not _log.is_enabled_for(logging.INFO):
            return
        seconds = self._clock() - self._started_at
        _log.info(
            "delivery `%s`: handler `%s`: %s after %s%s",
            self.run_context.id,
            self.name,
            state,
            f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s",
            reason and f": {shorten(reason, _LONGEST_LOGGED)!r}",
            extra={**self._log_fields(), "state": state},
        )

    def _log_failure(self, error: BaseException, delay: float | None) -> None:
        name, delivery_id = self.name, self.run_context.id
        if delay is None:
            what = "handler `%s` failed on delivery `%s`"
            shown = without_own_frames(error)
            _log.error(what, name, delivery_id, exc_info=shown, extra=self._log_fields())
        elif issubclass(type(error), Retry):
            what = "handler `%s` asks for a retry of delivery `%s` in %.3g s: %s"
            reason = text_of(error)
            _log.info(what, name, delivery_id, delay, reason, extra=self._log_fields())
        else:
            what = "handler `%s` failed on delivery `%s`; retry in %.3g s"
            fields = self._log_fields()
            shown = without_own_frames(error)
            _log.error(what, name, delivery_id, delay, exc_info=shown, extra=fields)

    def cancel(self) -> None:
        self.drop_rest()
        if self._reporter.keeps_unfinished:
            self.requeue()
        else:
            self.fail_unstarted(asyncio.CancelledError(SHUTDOWN_MESSAGE))

    def fail_unstarted(self, error: BaseException) -> None:
        """Record that the run failed before its handler was called."""
        name, delivery_id, why = self.name, self.run_context.id, text_of(error)
        self._finish(State.FAILED, why)
        what = "handler `%s` did not run on delivery `%s`: %s"
        try:
            _log.error(what, name, delivery_id, why, extra=self._log_fields())
        finally:
            if hasattr(self, "event"):
                self._reporter.run_hooks("failure", self, error)

    def requeue(self, why: str = SHUTDOWN_MESSAGE, retry_after: float = 0) -> None:
        """Queue the run again, and ignore its later result."""
        if not self._is_requeued:
            self._finish(State.FAILED, why, retry_after=retry_after)
            self._is_requeued = True

    def mark_stuck(self) -> None:
        """Record that the timeout passed and the run could not be cancelled."""
        self.deadline = None
        self.is_stuck = True
        what = "%s on delivery `%s` is stuck: it took more than %g s; a thread cannot be stopped"
        if self.is_async:
            what = (
                "%s on delivery `%s` is stuck: it took more than %g s, and did not end when it was "
                "cancelled"
            )
        self._reporter.stuck(self)
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
        if not self._is_requeued:
            self._reporter.finished(self, ending, error, traceback, retry_after)

    def _has_tries_left(self) -> bool:
        return self.run_context.failures < self._handler.policy.retries


class HookExecution(Execution):
    """One call of a hook. Its exceptions are logged, and start no other hook."""

    def __init__(  # noqa: PLR0913, PLR0917 - the call and its arguments
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
        self._failure_message = f"{what} failed on delivery `{delivery_id}`"
        self._arguments = arguments

    def begin(self) -> tuple[object, ...]:
        return self._arguments

    def done(self, result: object) -> None: ...

    def failed(self, error: BaseException) -> None:
        _log.error(self._failure_message, exc_info=without_own_frames(error))

    def cancel(self) -> None:
        self.drop_rest()
        _log.error("%s: %s", self._failure_message, SHUTDOWN_MESSAGE)


def _is_current(task: asyncio.Task[None] | None) -> bool:
    return task is not None and asyncio.current_task(task.get_loop()) is task
