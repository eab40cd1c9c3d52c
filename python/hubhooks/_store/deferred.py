"""Writes that wait for the next transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DeferredWrites"]


class DeferredWrites:
    """Deferred writes in their order. Those of a failed transaction stay for the next one."""

    def __init__(self) -> None:
        self._writes: list[Callable[[], object]] = []
        self._written_count = 0

    def __bool__(self) -> bool:
        return bool(self._writes)

    def add(self, write: Callable[[], object]) -> None:
        """Defer a write, from any thread."""
        self._writes.append(write)

    def write(self) -> None:
        """Write those that this transaction has not written."""
        while self._written_count < len(self._writes):
            self._writes[self._written_count]()
            self._written_count += 1

    def commit(self) -> None:
        """Forget the written ones: the transaction is committed."""
        del self._writes[: self._written_count]

    def end(self) -> None:
        """Record that the transaction ended, with or without a commit."""
        self._written_count = 0

    def clear(self) -> None:
        """Forget all."""
        self._writes.clear()
