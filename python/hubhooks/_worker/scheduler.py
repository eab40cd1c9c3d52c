"""Decide which runs may start.

Everything here is pure: no clock, thread, loop or store. The worker passes what it knows, and acts
on the decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hubhooks._store.base import Due

__all__ = ["CrashQuarantine", "Scheduler"]

R = TypeVar("R")


class Scheduler:
    """Counts the running runs, and decides which others may start beside them.

    Args:
        slots: how many runs may run at the same time.
        limit_of: returns the `concurrency=` of a handler; None if it has none.
    """

    def __init__(self, slots: int, limit_of: Callable[[str], int | None]) -> None:
        self._slots = slots
        self._limit_of = limit_of
        self._count = 0
        # Of handlers with a limit only.
        self._counts: dict[str, int] = {}

    @property
    def free(self) -> int:
        """The number of free slots."""
        return self._slots - self._count

    def add(self, name: str) -> None:
        """Count a run of a handler that starts."""
        self._count += 1
        if self._limit_of(name) is not None:
            self._counts[name] = self._counts.get(name, 0) + 1

    def remove(self, name: str) -> bool:
        """Uncount a run that ended; True if its handler has a limit and may run again."""
        self._count -= 1
        if name not in self._counts:
            return False
        self._counts[name] -= 1
        if not self._counts[name]:
            del self._counts[name]
        return True

    def may_start(self, name: str) -> bool:
        """Return whether a run of this handler may start now."""
        return self._count < self._slots and not (name in self._counts and self._is_at_limit(name))

    def busy(self) -> list[str]:
        """Return the handlers that have as many runs as they may have."""
        return [name for name in tuple(self._counts) if self._is_at_limit(name)]

    def choose(self, ready: Sequence[Due]) -> list[Due]:
        """Choose from ready runs those that may all start now, in order."""
        chosen: list[Due] = []
        added: dict[str, int] = {}
        for delivery_id, name in ready:
            limit = self._limit_of(name)
            count = self._counts.get(name, 0) + added.get(name, 0)
            if len(chosen) < self.free and (limit is None or count < limit):
                chosen.append((delivery_id, name))
                added[name] = added.get(name, 0) + 1
        return chosen

    def _is_at_limit(self, name: str) -> bool:
        limit = self._limit_of(name)
        return limit is not None and self._counts.get(name, 0) >= limit


class CrashQuarantine(Generic[R]):
    """Decides when a crashed run may start: its handler may end the process again.

    A crashed run waits for the other runs to end, at most `seconds`. Then it runs alone, at most
    `seconds`. Between two crashed runs, the other ready runs get a turn.

    Args:
        seconds: the limit of both waits.
    """

    def __init__(self, seconds: float) -> None:
        self.may_have_crashed = False
        """Whether the store may contain crashed runs."""
        self.alone: R | None = None
        """The crashed run beside which no other run starts."""
        self._seconds = seconds
        self._alone_until = 0.0
        self._wait_until: float | None = None
        self._is_turn_of_others = False

    def take_turn_of_others(self) -> bool:
        """Return whether the other runs start first, once after each crashed run."""
        is_turn, self._is_turn_of_others = self._is_turn_of_others, False
        return is_turn

    def none_ready(self, *, may_come: bool) -> None:
        """Record that no crashed run is ready, and whether one may become ready later."""
        self._wait_until = None
        self.may_have_crashed = may_come

    def decide(
        self, now: float, *, is_idle: bool, has_slot: bool
    ) -> Literal["wait", "alone", "beside"]:
        """Decide about a ready crashed run: it waits, starts alone, or starts beside others.

        Args:
            now: seconds of a monotonic clock.
            is_idle: True if only stuck runs, or none, are running.
            has_slot: True if a slot is free.
        """
        if self._wait_until is None:
            self._wait_until = now + self._seconds
        if not has_slot or not (is_idle or now >= self._wait_until):
            return "wait"
        return "alone" if is_idle else "beside"

    def started(self) -> None:
        """Record that a crashed run starts, or was claimed by another process."""
        self._wait_until = None
        self._is_turn_of_others = True

    def isolate(self, run: R, now: float) -> None:
        """Let no other run start beside this one."""
        self.alone, self._alone_until = run, now + self._seconds

    def end(self, run: R) -> bool:
        """Record that a run ended; True if it was alone."""
        if run is not self.alone:
            return False
        self.alone = None
        return True

    def expire(self, now: float, *, is_stuck: bool) -> R | None:
        """Return the run that was alone for too long, and end its isolation; None if none was."""
        run = self.alone
        if run is None or not (is_stuck or now >= self._alone_until):
            return None
        self.alone = None
        return run
