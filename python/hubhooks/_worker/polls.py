"""Plan the looks at the store: why the next one is needed, and when it is due."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hubhooks._logging import get_logger
from hubhooks.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hubhooks._worker.timeouts import Timeouts

__all__ = ["PollSchedule"]

_log = get_logger()


class PollSchedule:
    """The times of the next looks at the store, and the reasons for them.

    Args:
        timeouts: the times of the worker.
        clock: returns seconds of a monotonic clock.
        is_shared: whether other processes may use the store.
    """

    def __init__(self, timeouts: Timeouts, clock: Callable[[], float], *, is_shared: bool) -> None:
        self.is_needed = True
        """True if the store may have ready runs that are not claimed."""
        self.may_be_unknown = True
        """True if runs may wait for a handler that this process does not have."""
        self.ready_at = math.inf
        """When the next run becomes ready, by the clock."""
        self._timeouts = timeouts
        self._clock = clock
        self._is_shared = is_shared
        self._processes_at = 0.0
        self._full_at = clock() + timeouts.full_poll
        self._crashed_at = 0.0
        self._not_before = 0.0

    def take_processes(self, now: float) -> bool:
        """Return whether to check for writes of other processes, and plan the next check."""
        if not self._is_shared or now < self._processes_at:
            return False
        self._processes_at = now + self._timeouts.poll
        return True

    def take_crashed(self, now: float) -> bool:
        """Return whether to check for crashed runs, and plan the next check."""
        if now < self._crashed_at:
            return False
        self._crashed_at = now + self._timeouts.crashed_poll
        return True

    def update(self, now: float) -> None:
        """Require a look if a run became ready, or if the last full look is long ago."""
        if now >= self._full_at or now >= self.ready_at:
            self._full_at = now + self._timeouts.full_poll
            self.may_be_unknown = True
            # If no slot is free now, the run that frees one notifies the worker.
            self.ready_at = math.inf
            self.is_needed = True

    def set_ready_in(self, seconds: float | None) -> None:
        """Record in how many seconds the next run becomes ready; None if none does."""
        self.ready_at = math.inf if seconds is None else self._clock() + seconds

    def add_ready_now(self) -> None:
        """Require a look at the next tick: a waiting run may become ready before `ready_at`."""
        self.ready_at = min(self.ready_at, self._clock())

    def may_write(self, now: float) -> bool:
        """Return whether the pause after a failed write is over."""
        return now >= self._not_before

    def pause(self, now: float, error: Exception) -> None:
        """Do not write to the store for a moment after a write failed."""
        if isinstance(error, BusyError):
            self._not_before = now + self._timeouts.busy
        else:
            self._not_before = now + self._timeouts.store_failure
            _log.error("handlers cannot start now: %s", error)

    def next_at(self, deadline: float) -> float:
        """Return the time of the next tick; infinite if none is needed.

        Args:
            deadline: the first deadline of a run.
        """
        at = min(self.ready_at, deadline)
        if self._is_shared:
            at = min(at, self._processes_at)
        return max(at, self._not_before)
