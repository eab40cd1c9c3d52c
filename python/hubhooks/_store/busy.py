"""Retries of writes while another connection holds the write lock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hubhooks.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["BUSY_PAUSE", "BUSY_SECONDS", "busy_pauses", "retry_while_busy"]

# Retry a write for up to `BUSY_SECONDS`, every `BUSY_PAUSE` seconds.
BUSY_SECONDS = 5.0
BUSY_PAUSE = 0.02


def busy_pauses(seconds: float = BUSY_SECONDS, pause: float = BUSY_PAUSE) -> Iterator[float]:
    """Return the pauses between the tries of a write; they end after so many seconds from now.

    The caller sleeps, so it can do so in a thread or on an event loop.
    """
    deadline = time.monotonic() + seconds

    def pauses() -> Iterator[float]:
        while time.monotonic() <= deadline:
            yield pause

    return pauses()


def retry_while_busy(
    write: Callable[[], T], seconds: float = BUSY_SECONDS, pause: float = BUSY_PAUSE
) -> T:
    """Retry a write while another connection holds the write lock, blocking this thread.

    Raises:
        BusyError: it still does after so many seconds.
    """
    pauses = busy_pauses(seconds, pause)
    while True:
        try:
            return write()
        except BusyError:
            if (left := next(pauses, None)) is None:
                raise
        time.sleep(left)
