"""What became of each delivery: what a handler is told of it, and the log that keeps it."""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from hubhooks.errors import StoreError

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from typing import TypeAlias

    Aside: TypeAlias = Literal["unhandled", "ignored", "unreadable"]
    Ending: TypeAlias = Literal["done", "failed", "ignored"]
    RunState: TypeAlias = Literal["queued", "running"] | Ending
    State: TypeAlias = RunState | Aside
    Status: TypeAlias = Literal["accepted", "in_progress", "duplicate"] | Aside
    Replays: TypeAlias = Literal["run", "skip"]
    # Few ever read why nobody listened, and to say it takes longer than to find it out.
    Reason: TypeAlias = str | Callable[[], str]

__all__ = ["Delivery", "Log", "MemoryLog", "Record", "Run", "Verdict", "judge", "spoken"]


# Data classes are written out here: each that is generated costs `import hubhooks` a millisecond.
class Delivery(NamedTuple):
    """One run of a handler: what helps it to be idempotent."""

    id: str
    """The same on the Hub's retries and on Replay (https://huggingface.co/docs/hub/webhooks)."""
    attempt: int
    """How often this handler was started for this delivery, this time included."""
    is_replay: bool
    """Whether the Hub knew the delivery as answered and sent it again: someone pressed Replay."""
    received_at: datetime
    """When the delivery came, or came again; in UTC."""
    handler: str
    """The handler's name, which stored work knows it by."""


class Run:
    """What became of a delivery in one handler."""

    __slots__ = ("attempts", "error", "finished_at", "handler", "started_at", "state", "traceback")

    def __init__(self, handler: str, *, attempts: int = 0) -> None:
        self.handler = handler
        self.state: RunState = "queued"
        self.attempts = attempts
        self.started_at: datetime | None = None
        self.finished_at: datetime | None = None
        self.error = ""
        self.traceback = ""

    def __repr__(self) -> str:
        return f"Run({self.handler!r}, state={self.state!r}, attempts={self.attempts})"


class Record:
    """What became of a delivery, so far: a copy, which does not change with it."""

    __slots__ = (
        "_reason",
        "aside",
        "body",
        "duplicates",
        "id",
        "is_delivered",
        "is_replay",
        "received_at",
        "runs",
    )

    def __init__(
        self,
        delivery_id: str,
        received_at: datetime,
        body: bytes | None,
        aside: Aside | None,
        reason: Reason,
    ) -> None:
        self.id = delivery_id
        self.received_at = received_at
        self.body = body
        """The body as it came; None once it had to make room for newer ones."""
        self.aside: Aside | None = aside
        """Why no handler was to run when it last came; None when some were."""
        self._reason = reason
        self.runs: list[Run] = []
        self.is_replay = False
        """As `Delivery` has it."""
        self.is_delivered = False
        """Whether the Hub is known to have our answer."""
        self.duplicates = 0
        """How often it came again without being run again."""

    def __repr__(self) -> str:
        # The body is nobody's business in a log or a traceback.
        return f"Record({self.id!r}, state={self.state!r}, runs={self.runs!r})"

    @property
    def reason(self) -> str:
        """What explains `aside`."""
        self._reason = spoken(self._reason)
        return self._reason

    @property
    def state(self) -> State:
        """The state of its runs in one word: the one that asks for attention first."""
        states: set[State] = {run.state for run in self.runs}
        if self.aside is not None:
            states.add(self.aside)
        return next(state for state in _URGENCY if state in states)

    @property
    def is_open(self) -> bool:
        """Whether a handler has yet to end."""
        return any(run.state in _UNFINISHED for run in self.runs)

    def run_of(self, handler: str) -> Run:
        """Look up what one handler made of it."""
        return next(run for run in self.runs if run.handler == handler)


_URGENCY: tuple[State, ...] = (
    "running",
    "queued",
    "failed",
    "done",
    "unreadable",
    "ignored",
    "unhandled",
)
_UNFINISHED = frozenset({"queued", "running"})


def spoken(reason: Reason) -> str:
    """Give a reason in words."""
    return reason if isinstance(reason, str) else reason()


class Verdict(NamedTuple):
    """What is to be done about a delivery that came."""

    status: Status
    id: str
    handlers: tuple[str, ...] = ()


def judge(known: Record, replays: Replays) -> tuple[str, ...] | Literal["in_progress", "duplicate"]:
    """Decide about a delivery whose id came before.

    The Hub keeps the id on its own retries and when its owner presses Replay
    (https://huggingface.co/docs/hub/webhooks). It retries what it has no 2xx answer for, so a
    delivery that comes again although it had its answer is a Replay.

    Returns:
        the handlers to run again, none meaning that it is judged like a new one; or why nothing
        is run.
    """
    states = {run.state for run in known.runs}
    if not _UNFINISHED.isdisjoint(states):
        return "in_progress"
    if "failed" in states:
        return tuple(run.handler for run in known.runs if run.state == "failed")
    if "done" in states and not (known.is_delivered and replays == "run"):
        return "duplicate"
    return ()


class Log(Protocol):
    """What the door and the runner need of a log. May be called from any thread."""

    def accept(
        self,
        delivery_id: str | None,
        body: bytes,
        handlers: Sequence[str] = (),
        aside: Aside | None = None,
        reason: Reason = "",
    ) -> Verdict:
        """Record that a delivery came, and decide what is to run.

        Args:
            delivery_id: the Hub's; None for a fresh one of our own.
            body: the body as it came.
            handlers: the names of those that hear it.
            aside: why none does.
            reason: what explains `aside`, or a function that does when it is asked.

        Raises:
            StoreError: it cannot be kept, so the Hub must send it again.
        """
        ...

    def answered(self, delivery_id: str, *, delivered: bool) -> None:
        """Record whether the answer is known to have reached the Hub."""

    def started(self, delivery_id: str, handler: str) -> Delivery:
        """Record that a handler is about to run, and give what it is told."""
        ...

    def finished(
        self, delivery_id: str, handler: str, ending: Ending, error: str = "", traceback: str = ""
    ) -> None:
        """Record how a handler ended."""

    def get(self, delivery_id: str) -> Record | None:
        """Look up a delivery."""
        ...

    def list(self) -> list[Record]:
        """List the deliveries, the newest first."""
        ...


class MemoryLog:
    """A log that ends with the process.

    Args:
        replays: whether a Replay of a delivery that succeeded runs its handlers again.
        keep: how many finished deliveries are kept.
        keep_bytes: how much of their bodies is kept; the records stay.
        hold_bytes: how much of the bodies of unfinished deliveries is held at once. What comes
            beyond is not taken, so that the Hub sends it again.
    """

    def __init__(
        self,
        *,
        replays: Replays = "run",
        keep: int = 1_000,
        keep_bytes: int = 64 * 1024 * 1024,
        hold_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        from datetime import datetime, timezone  # noqa: PLC0415 - `import hubhooks` needs none

        self._now = functools.partial(datetime.now, timezone.utc)
        self._replays: Replays = replays
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._hold_bytes = hold_bytes
        # A body of less than its share never has to make room: what explains later may hold it.
        self._share = keep_bytes // max(keep, 1)
        self._records: dict[str, Record] = {}
        # The finished ones, oldest first; the sizes of their bodies and of the others'.
        self._finished: deque[Record] = deque()
        self._kept = 0
        self._held = 0
        self._lock = threading.Lock()

    def accept(
        self,
        delivery_id: str | None,
        body: bytes,
        handlers: Sequence[str] = (),
        aside: Aside | None = None,
        reason: Reason = "",
    ) -> Verdict:
        """Record that a delivery came, and decide what is to run.

        Raises:
            StoreError: too much waits for its handlers already.
        """
        if delivery_id is None:
            delivery_id = os.urandom(16).hex()
        if len(body) > self._share:
            reason = spoken(reason)
        with self._lock:
            known = self._records.get(delivery_id)
            if known is not None:
                again = judge(known, self._replays)
                if isinstance(again, str):
                    known.duplicates += 1
                    return Verdict(again, delivery_id)
                # What failed on a body that we could read stays failed on one that we cannot.
                if again and aside != "unreadable":
                    handlers, aside, reason = again, None, ""
            if handlers:
                self._hold(body)
            record = Record(delivery_id, self._now(), body, aside, reason)
            if known is not None:
                self._forget(known)
                record.runs = known.runs
                record.is_replay = known.is_delivered
                record.duplicates = known.duplicates
            self._records[delivery_id] = record
            if handlers:
                _queue(record, handlers)
            else:
                self._finish(record)
        return Verdict(aside or "accepted", delivery_id, tuple(handlers))

    def answered(self, delivery_id: str, *, delivered: bool) -> None:
        """Record whether the answer is known to have reached the Hub."""
        # One answer that arrived is enough for the Hub, so a later "no" does not undo it. And so
        # this needs no lock: the flag is only ever set.
        if delivered and (record := self._records.get(delivery_id)) is not None:
            record.is_delivered = True

    def started(self, delivery_id: str, handler: str) -> Delivery:
        """Record that a handler is about to run, and give what it is told."""
        with self._lock:
            record = self._records[delivery_id]
            run = record.run_of(handler)
            run.state = "running"
            run.attempts += 1
            run.started_at = self._now()
            return Delivery(
                delivery_id, run.attempts, record.is_replay, record.received_at, handler
            )

    def finished(
        self, delivery_id: str, handler: str, ending: Ending, error: str = "", traceback: str = ""
    ) -> None:
        """Record how a handler ended."""
        with self._lock:
            record = self._records[delivery_id]
            run = record.run_of(handler)
            was_open = run.state in _UNFINISHED
            run.state = ending
            run.finished_at = self._now()
            run.error = error
            run.traceback = traceback
            if was_open and not record.is_open:
                self._held -= _size(record)
                self._finish(record)

    def get(self, delivery_id: str) -> Record | None:
        """Look up a delivery."""
        with self._lock:
            record = self._records.get(delivery_id)
            return None if record is None else _copy(record)

    def list(self) -> builtins.list[Record]:
        """List the deliveries, the newest first."""
        with self._lock:
            return [_copy(record) for record in reversed(self._records.values())]

    def _hold(self, body: bytes) -> None:
        """Count a body among those of the unfinished."""
        held = self._held + len(body)
        if held > self._hold_bytes:
            msg = (
                f"the bodies of deliveries that wait for their handlers take {self._held} bytes, "
                f"and {len(body)} more would be over the limit of {self._hold_bytes}"
            )
            raise StoreError(msg)
        self._held = held

    def _finish(self, record: Record) -> None:
        """Count a record among the finished ones, and drop older ones for it."""
        self._finished.append(record)
        self._kept += _size(record)
        if len(self._finished) > self._keep:
            oldest = self._finished.popleft()
            del self._records[oldest.id]
            self._kept -= _size(oldest)
        if self._kept > self._keep_bytes:
            self._drop_bodies()

    def _forget(self, record: Record) -> None:
        """Drop a finished record."""
        del self._records[record.id]
        self._finished.remove(record)
        self._kept -= _size(record)

    def _drop_bodies(self) -> None:
        for record in self._finished:
            if self._kept <= self._keep_bytes:
                break
            if _size(record) > self._share:
                self._kept -= _size(record)
                record.body = None


def _queue(record: Record, handlers: Sequence[str]) -> None:
    """Queue handlers, counting on; what others did before stays on record."""
    before = {run.handler: run.attempts for run in record.runs}
    others = [run for run in record.runs if run.handler not in handlers]
    record.runs = others + [Run(name, attempts=before.get(name, 0)) for name in handlers]


def _size(record: Record) -> int:
    return 0 if record.body is None else len(record.body)


def _copy(record: Record) -> Record:
    made = copy.copy(record)
    made.runs = [copy.copy(run) for run in record.runs]
    return made
