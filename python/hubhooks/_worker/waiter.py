"""Wait until the handlers of a delivery ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hubhooks.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hubhooks._store.base import DeliveryStore
    from hubhooks._worker.ticker import Ticker
    from hubhooks.models import Delivery

__all__ = ["EndWaiter"]


class EndWaiter:
    """Lets requests wait for the end of their delivery, in this process or another.

    Args:
        store: has the deliveries.
        ticker: calls functions on the server's loop.
        clock: returns seconds of a monotonic clock.
        poll_seconds: the interval of looks at a store that other processes write to.
    """

    def __init__(
        self,
        store: DeliveryStore,
        ticker: Ticker,
        clock: Callable[[], float],
        poll_seconds: float,
    ) -> None:
        self._store = store
        self._ticker = ticker
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._waiting: dict[str, list[asyncio.Event]] = {}

    def notify(self, delivery_id: str) -> None:
        """Let requests look at a delivery; from any thread."""
        for ended in tuple(self._waiting.get(delivery_id, ())):
            self._ticker.call_soon(ended.set)

    async def wait(
        self, delivery_id: str, seconds: float, flush: Callable[[], None]
    ) -> Delivery | None:
        """Wait until no run of a delivery is open; None if one still is after the time.

        Args:
            delivery_id: the delivery.
            seconds: the time.
            flush: writes deferred writes, called before each look.
        """
        give_up = self._clock() + seconds
        ended = asyncio.Event()
        self._waiting.setdefault(delivery_id, []).append(ended)
        try:
            while True:
                ended.clear()
                flush()
                delivery = self._get(delivery_id)
                if delivery is not None and not delivery.is_open:
                    return delivery
                left = give_up - self._clock()
                if left <= 0:
                    return None
                # Another process that runs the handlers sets no event.
                if self._store.is_durable:
                    left = min(left, self._poll_seconds)
                # Not `asyncio.wait_for`, which makes a task.
                timer = asyncio.get_running_loop().call_later(left, ended.set)
                try:
                    await ended.wait()
                finally:
                    timer.cancel()
        finally:
            self._waiting[delivery_id].remove(ended)
            if not self._waiting[delivery_id]:
                del self._waiting[delivery_id]

    def _get(self, delivery_id: str) -> Delivery | None:
        try:
            return self._store.get(delivery_id)
        except StoreError:
            return None
