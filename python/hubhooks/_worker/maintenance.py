"""Checkpoint and prune the store on a thread: both wait for the disk."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from hubhooks._logging import get_logger, text_of
from hubhooks.errors import BusyError

if TYPE_CHECKING:
    from hubhooks._store.base import DeliveryStore
    from hubhooks._worker.leadership import Leadership
    from hubhooks._worker.timeouts import Timeouts

__all__ = ["Maintenance"]

_log = get_logger()


class Maintenance:
    """The thread that keeps the file of a store small. Without it, the file would grow for ever.

    Args:
        store: the store on disk.
        leadership: only the leader prunes.
        timeouts: the times of the worker.
    """

    def __init__(self, store: DeliveryStore, leadership: Leadership, timeouts: Timeouts) -> None:
        self._store = store
        self._leadership = leadership
        self._timeouts = timeouts
        self._is_over = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="hubhooks maintenance", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end."""
        self._is_over.set()

    def _run(self) -> None:
        prune_at = 0.0
        while not self._is_over.wait(self._timeouts.checkpoint):
            try:
                self._store.checkpoint()
                if self._leadership.is_leader and time.monotonic() >= prune_at:
                    prune_at = time.monotonic() + self._timeouts.prune
                    self._store.prune()
            except Exception as error:  # noqa: PERF203, BLE001 - rare, and the thread must go on
                # If another process writes, try again at the next interval.
                if not isinstance(error, BusyError):
                    _log.warning("cleaning up the delivery store failed: %s", text_of(error))
                    self._is_over.wait(self._timeouts.prune)
