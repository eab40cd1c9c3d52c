"""Schedule the ticks of a worker on the loop of the server, from any thread."""

from __future__ import annotations

import contextvars
import math
from typing import TYPE_CHECKING

from hubhooks._worker.pools import running_loop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Ticker"]


class Ticker:
    """Schedules the ticks of a worker. Without a loop, it schedules none.

    Args:
        tick: the function to call.
        clock: returns seconds of a monotonic clock.
    """

    def __init__(self, tick: Callable[[], None], clock: Callable[[], float]) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        """The loop of the server."""
        self._tick = tick
        self._clock = clock
        self._is_notified = False
        self._is_planned = False
        self._timer: asyncio.TimerHandle | None = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Use this loop, unless the current loop is still open; True if it is used."""
        if self.loop is not None and not self.loop.is_closed():
            return False
        self.loop = loop
        self.begin()
        return True

    def begin(self) -> None:
        """Record that a tick begins: later notifications need a new one."""
        self._is_notified = self._is_planned = False

    def notify(self) -> None:
        """Tick soon; from any thread."""
        if not self._is_notified:
            # Set first: on another thread the tick, which resets it, may begin at once.
            self._is_notified = True
            if not self.call_soon(self._tick):
                self._is_notified = False

    def plan(self, seconds: float) -> None:
        """Tick after some seconds, unless a tick comes before; from any thread."""
        if not (self._is_planned or self._is_notified):
            self._is_planned = True
            if not self.call_soon(lambda: self._call_later(seconds)):
                self._is_planned = False

    def set_timer(self, at: float) -> None:
        """Tick at a time of the clock. This replaces the time that was set before."""
        if self._timer is not None:
            self._timer.cancel()
        if at < math.inf:
            self._timer = self._call_later(max(at - self._clock(), 0.001))

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def call_soon(self, function: Callable[[], object]) -> bool:
        """Call a function on the loop; False if there is no open loop."""
        loop = self.loop
        try:
            if loop is None:
                return False
            # In an empty context: later ticks would keep the context of a request or a run alive.
            is_current = running_loop() is loop
            call = loop.call_soon if is_current else loop.call_soon_threadsafe
            contextvars.Context().run(call, function)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _call_later(self, seconds: float) -> asyncio.TimerHandle | None:
        if self.loop is None:
            return None
        return self.loop.call_later(seconds, self._tick, context=contextvars.Context())
