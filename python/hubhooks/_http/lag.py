"""Detect a blocked event loop."""

from __future__ import annotations

import contextvars
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

__all__ = ["LoopLagMonitor"]

# The interval of the samples, and the lag that counts as a blocked loop. It is far below the time
# that the Hub waits.
_SAMPLE_SECONDS = 0.2
_LAG_SECONDS = 0.3
# How long sampling goes on after a request, and how long a loop counts as blocked after a lag.
_MONITOR_SECONDS = 5.0


class LoopLagMonitor:
    """Detects event-loop lag; it samples only while requests arrive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._is_sampling = False
        self._sampled_at = 0.0
        self._responsive_since = 0.0
        self._monitor_until = 0.0

    def was_responsive(self) -> bool:
        """Return whether no lag was seen in the last `_MONITOR_SECONDS`; False until then."""
        now = time.monotonic()
        self._monitor_until = now + _MONITOR_SECONDS
        if not self._is_sampling:
            self._is_sampling = True
            self._sampled_at = self._responsive_since = now
            self._plan_sample()
        return not self._is_lagging(now) and now - self._responsive_since > _MONITOR_SECONDS

    def _plan_sample(self) -> None:
        # In an empty context: the timer would keep the request's context alive.
        self.loop.call_later(_SAMPLE_SECONDS, self._sample, context=contextvars.Context())

    def _is_lagging(self, now: float) -> bool:
        return now - self._sampled_at > _SAMPLE_SECONDS + _LAG_SECONDS

    def _sample(self) -> None:
        now = time.monotonic()
        if self._is_lagging(now):
            self._responsive_since = now
        self._sampled_at = now
        self._is_sampling = now < self._monitor_until
        if self._is_sampling:
            self._plan_sample()
