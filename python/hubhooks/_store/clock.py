"""The clock of the store."""

from __future__ import annotations

import time

__all__ = ["SteadyClock", "now"]


def now() -> float:
    """Return the seconds since 1970. The clock can be set back."""
    return time.time()


class SteadyClock:
    """Seconds since 1970 by a clock that nobody sets, for times that need not outlive a process."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Return the seconds since 1970, as of the creation of this clock."""
        return time.monotonic() + self._offset
