"""Run executions on threads and loops, and wait for them at shutdown."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from hubhooks._logging import get_logger
from hubhooks._worker.pools import (
    CLEAN_UP_SECONDS,
    DaemonThreadPool,
    LoopThread,
    WaitGroup,
    Watchdog,
    cancel_task,
    running_loop,
)

if TYPE_CHECKING:
    import asyncio

    from hubhooks._worker.execution import Execution

__all__ = ["Executor"]

_log = get_logger()


class Executor:
    """The threads, tasks and loop of one start/stop cycle of a worker.

    A thread that outlives the stop keeps its executor, and does not affect the next one.

    Args:
        slots: the number of threads.
        inline: run sync functions in the thread that starts them.
    """

    def __init__(self, slots: int, *, inline: bool = False) -> None:
        self.unfinished = WaitGroup()
        """The executions that have not ended."""
        self.is_cancelling = False
        """True once tasks that still run are cancelled."""
        self.server_loop: asyncio.AbstractEventLoop | None = None
        """The loop of the server. An async handler that blocks it is logged."""
        self._is_inline = inline
        self._threads = DaemonThreadPool(self._run, slots)
        self._tasks: dict[asyncio.Task[None], Execution] = {}
        self._loop_thread: LoopThread | None = None
        self._watchdog: Watchdog | None = None
        self._is_closed = False
        self._lock = threading.Lock()

    def start(
        self, execution: Execution, current_loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Start an execution, from any thread.

        Args:
            execution: the call of a handler or hook.
            current_loop: the loop that runs in this thread, if the caller knows it.
        """
        self.unfinished.add()
        if not execution.is_async:
            if self._is_inline:
                self._run(execution)
            else:
                self._threads.submit(execution)
        elif execution.loop is not None and execution.loop is (current_loop or running_loop()):
            self._start_task(execution, execution.loop)
        else:
            try:
                loop = execution.loop or self._ensure_loop_thread()
                loop.call_soon_threadsafe(self._start_task, execution, loop)
            except RuntimeError:  # the loop is closed
                try:
                    execution.cancel()
                finally:
                    self.unfinished.remove()

    async def cancel_tasks(self) -> None:
        """Cancel the tasks that still run, and give them time to clean up."""
        self.is_cancelling = True
        # The second time for hooks about a run that was cancelled.
        for _ in range(2):
            if [task for task in tuple(self._tasks) if cancel_task(task)]:
                await self.unfinished.wait_for_zero(CLEAN_UP_SECONDS)

    def close_threads(self) -> None:
        """End each thread after its call. Later executions start no loop."""
        self._threads.close()
        with self._lock:
            self._is_closed = True
        if self._watchdog is not None:
            self._watchdog.close()

    async def close_loop(self) -> None:
        """End the loop of the async handlers."""
        if self._loop_thread is not None:
            await self._loop_thread.close()

    def _run(self, execution: Execution) -> None:
        try:
            execution.run()
            if execution.rest is not None:
                self._start_rest(execution)
        finally:
            self.unfinished.remove()

    def _start_rest(self, execution: Execution) -> None:
        """Await the awaitable that a sync function returned, on the loop of async functions."""
        if self.is_cancelling:
            execution.cancel()
        else:
            self.start(execution)

    def _start_task(self, execution: Execution, loop: asyncio.AbstractEventLoop) -> None:
        task = execution.create_task(loop)
        # The loop keeps only weak references to its tasks.
        self._tasks[task] = execution
        task.add_done_callback(self._end_task)
        if loop is self.server_loop:
            if self._watchdog is None or self._watchdog.loop is not loop:
                self._watchdog = Watchdog(loop, self._tasks)
            self._watchdog.watch()

    def _end_task(self, task: asyncio.Task[None]) -> None:
        execution = self._tasks.pop(task)
        execution.task = None
        try:
            if task.cancelled():
                if not execution.is_begun:
                    execution.cancel()
            elif (error := task.exception()) is not None:
                _log.error("a handler's task failed outside the handler", exc_info=error)
        finally:
            self.unfinished.remove()

    def _ensure_loop_thread(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_closed:
                msg = "the worker has stopped"
                raise RuntimeError(msg)
            self._loop_thread = self._loop_thread or LoopThread()
            return self._loop_thread.loop
