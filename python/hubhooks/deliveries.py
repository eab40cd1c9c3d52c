"""What became of each delivery: what a handler is told of it, and the log that keeps it."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import Counter, deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from hubhooks.errors import ConfigError, StoreError

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Container, Iterable, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from typing import TypeAlias

    from hubhooks._core import HubEvent
    from hubhooks.sqlite import Leader

    Aside: TypeAlias = Literal["unhandled", "ignored", "unreadable"]
    Ending: TypeAlias = Literal["done", "failed", "ignored"]
    RunState: TypeAlias = Literal["queued", "running", "waiting", "overdue"] | Ending
    State: TypeAlias = RunState | Aside
    Status: TypeAlias = Literal["accepted", "in_progress", "duplicate"] | Aside
    Replays: TypeAlias = Literal["run", "skip"]
    # Few ever read why nobody listened, and to say it takes longer than to find it out.
    Reason: TypeAlias = str | Callable[[], str]
    # The delivery and the handler of a run that can start.
    Due: TypeAlias = tuple[str, str]
    # The same of a run during which the process died, and whether that was once too often, so that
    # it is not tried again.
    Interrupted: TypeAlias = tuple[str, str, bool]

__all__ = [
    "BUSY_PAUSE", "BUSY_SECONDS", "LONGEST_ERROR", "LONGEST_TRACEBACK", "STARTED", "Attempt",
    "Backlog", "Delivery", "Ignore", "Log", "MemoryLog", "Record", "Retry", "Run", "Stats",
    "Verdict", "handler_names", "judge", "log_fields", "most_urgent", "queue_runs", "shortened",
    "spoken",
]  # fmt: skip

# How long who may wait tries again while another process writes, or this one tidies up, and how
# often.
BUSY_SECONDS = 5.0
BUSY_PAUSE = 0.02


# The longest texts that are kept beside a body, in characters. The Hub's own scopes, actions and
# names are shorter. A delivery can have one as long as its body, which is copied often.
_LONGEST_NAME = 256
LONGEST_ERROR = 4096
LONGEST_TRACEBACK = 64 * 1024


def shortened(text: str, longest: int = _LONGEST_NAME) -> str:
    """Cut a text that is too long, and mark the cut with an ellipsis."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


# What `import hubhooks` needs is mostly written out: a generated data class would cost it a
# millisecond, a named tuple a quarter of one.
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
    failures: int = 0
    """How many attempts failed since the delivery last came: what `retries` is compared with."""


def log_fields(delivery_id: str | None, event: HubEvent | None) -> dict[str, object]:
    """Give what log records of a delivery bear beside their message, as `extra=`."""
    repo = None if event is None else event.repo
    return {
        "delivery_id": delivery_id,
        "scope": None if event is None else shortened(event.scope),
        "action": None if event is None else shortened(event.action),
        "repo": None if repo is None else shortened(repo.name),
    }


class Ignore(Exception):  # noqa: N818 - not an error: how a handler says "not for me"
    """Raised by a handler that wants nothing to do with an event; recorded as `ignored`.

    What it is given is the reason that the log shows: `raise Ignore("not one of mine")`.
    """


class Retry(Exception):  # noqa: N818 - not an error: how a handler says "not now"
    """Raised by a handler that is to be tried again, if its `retries` are not spent.

    Args:
        reason: what the log says about it.
        after: in how many seconds, a year at most; by default as its `backoff` has it.

    Raises:
        ConfigError: there is no such time.
    """

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        # As in `Retry(60)`, which means the time. Not every user has a type checker.
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"`Retry({reason!r})` has no reason in words; for a time write `after={reason!r}`"
            raise ConfigError(msg)
        seconds = _seconds_of(after)
        if seconds is not None and not 0 <= seconds < float("inf"):
            msg = f"`Retry(after={after!r})` is no time from now; write seconds, such as 60"
            raise ConfigError(msg)
        super().__init__(reason)
        self.after = seconds


def _seconds_of(given: object) -> float | None:
    """Read a number of any kind, as libraries have kinds of their own; NaN if it is none."""
    if given is None:
        return None
    try:
        # A text may be a number to Python, and is a header that was not read to us.
        return float("nan") if isinstance(given, str | bytes) else float(given)  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError):
        return float("nan")


class Attempt(NamedTuple):
    """One start of a handler."""

    number: int
    """Which one it is, from 1."""
    started_at: datetime
    process: int | None = None
    """The key of its process in the store."""
    pid: int | None = None
    """The number of that process, as far as the store still knows it."""
    code: str | None = None
    """The version of the code that it ran."""


class Run:
    """What became of a delivery in one handler."""

    __slots__ = (
        "attempts", "due_at", "error", "failures", "finished_at", "handler", "history",
        "interruptions", "started_at", "state", "traceback",
    )  # fmt: skip

    def __init__(self, handler: str, *, attempts: int = 0) -> None:
        self.handler = handler
        self.state: RunState = "queued"
        self.attempts = attempts
        self.failures = 0
        """As `Delivery` has it."""
        self.interruptions = 0
        """How often the process died during this handler."""
        self.due_at: datetime | None = None
        """When it is tried again, if it waits for that."""
        self.started_at: datetime | None = None
        self.finished_at: datetime | None = None
        self.error = ""
        self.traceback = ""
        self.history: list[Attempt] = []
        """Its attempts, where a single delivery was asked for and the store is on disk."""

    def __repr__(self) -> str:
        return f"Run({self.handler!r}, state={self.state!r}, attempts={self.attempts})"

    @property
    def is_open(self) -> bool:
        """Whether it has yet to end."""
        return self.state in _UNFINISHED


class Record:
    """What became of a delivery, so far: a copy, which does not change with it."""

    __slots__ = (
        "_reason", "action", "aside", "body", "duplicates", "headers", "id", "is_delivered",
        "is_replay", "received_at", "repo", "runs", "scope", "size",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - what is known of a delivery
        self,
        delivery_id: str,
        received_at: datetime,
        body: bytes | None,
        aside: Aside | None,
        reason: Reason,
        *,
        scope: str = "",
        action: str = "",
        repo: str | None = None,
    ) -> None:
        self.id = delivery_id
        self.received_at = received_at
        self.body = body
        """The body as it came; None in a list, and once it had to make room for newer ones."""
        self.size = 0 if body is None else len(body)
        """The length of the body, also of one that is not here."""
        self.scope = shortened(scope)
        """That of the event, as the action and the repository's name: cut to 256 characters."""
        self.action = shortened(action)
        self.repo = None if repo is None else shortened(repo)
        self.headers: Sequence[tuple[str, str]] = ()
        """Those of the request, without what is secret in them; only a log on disk keeps them."""
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
        """The state of its runs in one word: an unfinished one, else the worst ending."""
        return most_urgent([*(run.state for run in self.runs), self.aside])

    @property
    def is_open(self) -> bool:
        """Whether a handler has yet to end."""
        return any(run.is_open for run in self.runs)

    def run_of(self, handler: str) -> Run:
        """Look up what one handler made of it."""
        return next(run for run in self.runs if run.handler == handler)


_URGENCY: tuple[State, ...] = (
    "running", "overdue", "queued", "waiting", "failed", "done", "unreadable", "ignored",
    "unhandled",
)  # fmt: skip
_UNFINISHED = frozenset({"queued", "running", "waiting", "overdue"})
STARTED = frozenset({"running", "overdue"})


def most_urgent(states: Sequence[str | None]) -> State:
    """Pick the state that stands for all: an unfinished one, else the worst ending."""
    return next(state for state in _URGENCY if state in states)


def spoken(reason: Reason) -> str:
    """Give a reason in words."""
    return reason if isinstance(reason, str) else reason()


class Verdict(NamedTuple):
    """What is to be done about a delivery that came."""

    status: Status
    id: str
    handlers: tuple[str, ...] = ()


class Stats(NamedTuple):
    """A log in figures."""

    states: dict[str, int]
    """How many deliveries are in each state."""
    body_bytes: int
    unfinished_since: datetime | None
    """When the oldest unfinished delivery came."""
    refusals: dict[str, int]
    """How often requests were refused, by reason, as far back as the log goes."""


class Backlog(NamedTuple):
    """The runs that wait to start."""

    runs: dict[str, int]
    """How many there are of each handler, retries included."""
    startable_since: datetime | None
    """Since when the oldest of them could start; None if no run can start yet."""


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
    """What the door, the runner and those who look on need of a log.

    `get`, `list`, `stats`, `checkpoint` and `prune` may be called from any thread, and so may
    `answered`, `overdue` and `finished`; all else belongs to the thread of the server's loop.
    """

    @property
    def is_durable(self) -> bool:
        """Whether it outlives the process."""
        ...

    @property
    def path(self) -> str:
        """Where it is; empty if that is in memory alone."""
        ...

    @property
    def is_late(self) -> bool:
        """Whether there is something for `flush` to write."""
        ...

    @property
    def is_led(self) -> bool:
        """Whether what `recover` began still holds: nobody else took over since."""
        ...

    def open(self) -> None:
        """Get ready.

        Raises:
            ConfigError: it cannot be used.
            StoreError: it cannot be used just now.
        """

    def close(self) -> None:
        """Write what is late, and let go."""

    def batch(self) -> AbstractContextManager[None]:
        """Keep all of what is done inside, or nothing.

        Raises:
            BusyError: another process is writing; nothing was done, and soon it may work.
            StoreError: it cannot be kept.
        """
        ...

    def flush(self) -> None:
        """Write what is late.

        Raises:
            StoreError: it cannot be written just now; it stays late.
        """
        ...

    def changed(self) -> bool:
        """Whether somebody else wrote since the last call."""
        ...

    def accept(  # noqa: PLR0913 - what is known of a delivery
        self,
        delivery_id: str | None,
        body: bytes,
        handlers: Sequence[str] = (),
        aside: Aside | None = None,
        reason: Reason = "",
        *,
        scope: str = "",
        action: str = "",
        repo: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> Verdict:
        """Record that a delivery came, and decide what is to run.

        Args:
            delivery_id: the Hub's; None for a fresh one of our own.
            body: the body as it came.
            handlers: the names of those that hear it.
            aside: why none does.
            reason: what explains `aside`, or a function that does when it is asked.
            scope: that of the event.
            action: that of the event.
            repo: the name of the event's repository.
            headers: those of the request; what may be secret in them is not kept.

        Raises:
            StoreError: it cannot be kept, so the Hub must send it again.
        """
        ...

    def answered(self, delivery_id: str, *, delivered: bool) -> None:
        """Record, late, whether the answer is known to have reached the Hub."""

    def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> tuple[str, ...]:
        """Queue handlers of a finished delivery again.

        Args:
            delivery_id: the delivery.
            handlers: their names, also of some that did not hear it; none for those that did. A
                name given twice counts once.

        Returns:
            the names of those queued. None is if the delivery is unknown or unfinished, if its
            body was dropped, or if no handler heard it and none is named.

        Raises:
            ConfigError: one of the names cannot be the name of a handler.
        """
        ...

    def refused(self, minute: int, reason: str, count: int) -> None:
        """Add to how often requests were refused in a minute, counted from 1970."""

    def recover(self) -> builtins.list[Interrupted]:
        """Become the process that runs what is in the log; not in a batch.

        Returns:
            what ran in the last one when that died.
        """
        ...

    def register(self, code: str, loaded_at: float, handlers: Iterable[str]) -> None:
        """Record, late, what this process runs; again, if that changed.

        Args:
            code: the version of the app's code.
            loaded_at: when the code was executed: larger for newer code.
            handlers: the names of the handlers.
        """

    def resign(self, *, is_end: bool) -> None:
        """Record, late, that this process does not lead any more.

        Args:
            is_end: whether it does not use the store any more either.
        """

    def leader(self) -> Leader | None:
        """Look up the process that leads the store, in any thread; None if none does."""
        ...

    def successor(self) -> Leader | None:
        """Look up a living process with newer code than this one, which should lead."""
        ...

    def keep_noted(self) -> None:
        """Write down again what belongs to the store, if somebody removed that."""

    def note_lock(self) -> None:
        """Record, late, that this process locked another file to lead the store."""

    def waiting_handlers(self) -> dict[str, int]:
        """Count the runs that wait to start, by handler, in any thread."""
        ...

    def unknown_handlers(self, known: Container[str]) -> dict[str, int]:
        """Count the runs that wait for handlers which the leader does not have, in any thread.

        Args:
            known: the handlers of this process, in case that no process leads.
        """
        ...

    def recover_crashed(self) -> builtins.list[Interrupted]:
        """Let runs be tried again whose process died, as the leader; not in a batch.

        Returns:
            these runs.
        """
        ...

    def backlog(self) -> Backlog:
        """Describe the runs that wait to start, in any thread."""
        ...

    def is_leader_alive(self, leader: Leader) -> bool:
        """Return whether the process that leads the store is alive, in any thread."""
        ...

    def check_writable(self) -> None:
        """Check that a delivery could be stored now.

        Raises:
            StoreError: it could not.
        """

    def due(
        self,
        limit: int,
        without: Sequence[str] = (),
        *,
        among: Container[str] | None = None,
        interrupted: bool = False,
    ) -> builtins.list[Due]:
        """List runs that can start, the oldest first.

        Args:
            limit: how many at most.
            without: the handlers that are busy.
            among: the handlers that there are; None for any.
            interrupted: those during which the process died before, and not the others.
        """
        ...

    def next_due(self) -> float | None:
        """Tell in how many seconds another waiting run is due; None if none waits."""
        ...

    def body(self, delivery_id: str) -> bytes | None:
        """Look up the body of a delivery that is about to run."""
        ...

    def claim(self, delivery_id: str, handler: str) -> Delivery | None:
        """Record that a handler is about to run, and give what it is told.

        Returns:
            None if it must not: it is not queued or waiting, or another process took over.
        """
        ...

    def unclaim(self, delivery: Delivery) -> None:
        """Record, late, that a handler did not start; nothing if `claim` was undone."""

    def overdue(self, delivery: Delivery) -> None:
        """Record, late, that a handler is out of time, and cannot be ended."""

    def finished(
        self,
        delivery: Delivery,
        ending: Ending,
        error: str = "",
        traceback: str = "",
        *,
        retry_after: float | None = None,
    ) -> None:
        """Record, late, how a handler ended; nothing of a start that was given up meanwhile.

        Args:
            delivery: what `claim` gave.
            ending: how it ended.
            error: why.
            traceback: where.
            retry_after: in how many seconds it is tried again; None for never.
        """

    def get(self, delivery_id: str) -> Record | None:
        """Look up a delivery."""
        ...

    def list(  # noqa: PLR0913 - criteria, each optional
        self,
        *,
        state: str | None = None,
        scope: str | None = None,
        repo: str | None = None,
        since: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> builtins.list[Record]:
        """List deliveries, the newest first, without their bodies.

        Args:
            state: only those in this state.
            scope: only those of this scope.
            repo: only those of this repository.
            since: only those received then or later.
            before: only those older than the one with this id: the next page.
            limit: how many at most.
        """
        ...

    def stats(self) -> Stats:
        """Give the log in figures."""
        ...

    def checkpoint(self) -> None:
        """Tidy up what was written, waiting for the disk."""

    def prune(self) -> int:
        """Drop what is too old or too much; give how many bodies and deliveries that was."""
        ...


class MemoryLog:
    """A log that ends with the process.

    What it does it does at once, so nothing is ever late; and it may be called from any thread.

    Args:
        replays: whether a Replay of a delivery that succeeded runs its handlers again.
        keep: how many finished deliveries are kept.
        keep_bytes: how much of their bodies is kept; the records stay.
        hold_bytes: how much of the bodies of unfinished deliveries is held at once. What comes
            beyond is not taken, so that the Hub sends it again.
    """

    is_durable = False
    path = ""
    is_late = False
    is_led = True

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
        # The size of the last body without room.
        self._refused_size = 0
        # The runs that can start, the oldest first, and since when; when those that wait can, by a
        # clock that nobody sets.
        self._queued: dict[tuple[str, str], datetime] = {}
        self._waiting: dict[tuple[str, str], float] = {}
        self._refusals: dict[str, int] = {}
        self._lock = threading.Lock()
        self._batch = nullcontext()

    def open(self) -> None:
        """Get ready."""

    def close(self) -> None:
        """Let go; what is in the log stays."""

    def batch(self) -> AbstractContextManager[None]:
        """Do what is done inside one by one."""
        return self._batch

    def flush(self) -> None:
        """Do nothing, as nothing is late."""

    def changed(self) -> bool:
        """Nobody else writes."""
        return False

    # ---- what comes in -------------------------------------------------------------------------

    def accept(  # noqa: PLR0913 - what is known of a delivery
        self,
        delivery_id: str | None,
        body: bytes,
        handlers: Sequence[str] = (),
        aside: Aside | None = None,
        reason: Reason = "",
        *,
        scope: str = "",
        action: str = "",
        repo: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),  # noqa: ARG002 - not kept
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
            record = Record(
                delivery_id,
                self._now(),
                body,
                aside,
                reason,
                scope=scope,
                action=action,
                repo=repo,
            )
            if known is not None:
                record.is_replay = known.is_delivered
            names = tuple(dict.fromkeys(handlers))
            self._add(record, known, names)
        return Verdict(aside or "accepted", delivery_id, names)

    def answered(self, delivery_id: str, *, delivered: bool) -> None:
        """Record whether the answer is known to have reached the Hub."""
        # One answer that arrived is enough for the Hub, so a later "no" does not undo it. And so
        # this needs no lock: the flag is only ever set.
        if delivered and (record := self._records.get(delivery_id)) is not None:
            record.is_delivered = True

    def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> tuple[str, ...]:
        """Queue handlers of a finished delivery again; give the names of those queued."""
        chosen = handler_names(handlers)
        with self._lock:
            known = self._records.get(delivery_id)
            if known is None or known.body is None or known.is_open:
                return ()
            names = chosen or tuple(run.handler for run in known.runs)
            if names:
                record = Record(
                    delivery_id,
                    known.received_at,
                    known.body,
                    None,
                    "",
                    scope=known.scope,
                    action=known.action,
                    repo=known.repo,
                )
                record.is_replay, record.is_delivered = True, known.is_delivered
                self._add(record, known, names)
        return names

    def refused(self, minute: int, reason: str, count: int) -> None:  # noqa: ARG002 - the minute is not kept
        """Add to how often requests were refused."""
        self._refusals[reason] = self._refusals.get(reason, 0) + count

    # ---- what runs -----------------------------------------------------------------------------

    def recover(self) -> builtins.list[Interrupted]:
        """Nothing runs from before the process."""
        return []

    def recover_crashed(self) -> builtins.list[Interrupted]:
        """No other process runs anything."""
        return []

    def register(self, code: str, loaded_at: float, handlers: Iterable[str]) -> None:
        """Do nothing, as there is no other process."""

    def resign(self, *, is_end: bool) -> None:
        """Do nothing, as there is no other process."""

    def leader(self) -> None:
        """Nobody leads a store that has one process."""

    def successor(self) -> None:
        """No other process can lead."""

    def keep_noted(self) -> None:
        """Do nothing, as there are no files."""

    def note_lock(self) -> None:
        """Do nothing, as there is no lock."""

    def waiting_handlers(self) -> dict[str, int]:
        """Count the runs that wait to start, by handler."""
        with self._lock:
            return dict(Counter(name for _, name in (*self._waiting, *self._queued)))

    def unknown_handlers(self, known: Container[str]) -> dict[str, int]:
        """Count the runs that wait for handlers which this process does not have."""
        return {n: count for n, count in self.waiting_handlers().items() if n not in known}

    def backlog(self) -> Backlog:
        """Describe the runs that wait to start."""
        with self._lock:
            times = list(self._queued.values())
            waits = (self._records[key].run_of(name).due_at for key, name in self._waiting)
            times += [due_at for due_at in waits if due_at is not None]
        since = min(times, default=None)
        is_due = since is not None and since <= self._now()
        return Backlog(self.waiting_handlers(), since if is_due else None)

    def is_leader_alive(self, leader: Leader) -> bool:  # noqa: ARG002 - there is no other process
        """Return true: this process leads."""
        return True

    def check_writable(self) -> None:
        """Check that the last delivery without room would have room now.

        Raises:
            StoreError: it would not.
        """
        with self._lock:
            self._check_room(self._refused_size)
            self._refused_size = 0

    def due(
        self,
        limit: int,
        without: Sequence[str] = (),
        *,
        among: Container[str] | None = None,
        interrupted: bool = False,
    ) -> builtins.list[Due]:
        """List runs that can start, those that waited first; none was ever interrupted."""
        if interrupted:
            return []
        now = time.monotonic()
        found: builtins.list[Due] = []
        with self._lock:
            waited = [run for run, due_at in self._waiting.items() if due_at <= now]
            for delivery_id, handler in (*waited, *self._queued) if waited else self._queued:
                if len(found) >= limit:
                    break
                if handler not in without and (among is None or handler in among):
                    found.append((delivery_id, handler))
        return found

    def next_due(self) -> float | None:
        """Tell in how many seconds another waiting run is due; None if none waits."""
        now = time.monotonic()
        with self._lock:
            waits = [due_at - now for due_at in self._waiting.values() if due_at > now]
        return min(waits, default=None)

    def body(self, delivery_id: str) -> bytes | None:
        """Look up the body of a delivery that is about to run."""
        record = self._records.get(delivery_id)
        return None if record is None else record.body

    def claim(self, delivery_id: str, handler: str) -> Delivery | None:
        """Record that a handler is about to run, and give what it is told."""
        key = (delivery_id, handler)
        with self._lock:
            if key in self._queued:
                del self._queued[key]
            elif self._waiting.pop(key, None) is None:
                return None
            record = self._records[delivery_id]
            run = record.run_of(handler)
            run.state = "running"
            run.attempts += 1
            run.started_at = self._now()
            run.due_at = None
            return Delivery(
                delivery_id,
                run.attempts,
                record.is_replay,
                record.received_at,
                handler,
                run.failures,
            )

    def unclaim(self, delivery: Delivery) -> None:
        """Record that a handler did not start."""
        self.finished(delivery, "failed", retry_after=0)

    def overdue(self, delivery: Delivery) -> None:
        """Record that a handler is out of time, and cannot be ended."""
        with self._lock:
            run = self._started(delivery)
            if run is not None:
                run.state = "overdue"

    def finished(
        self,
        delivery: Delivery,
        ending: Ending,
        error: str = "",
        traceback: str = "",
        *,
        retry_after: float | None = None,
    ) -> None:
        """Record how a handler ended; nothing of a start that was given up meanwhile."""
        with self._lock:
            run = self._started(delivery)
            if run is None:
                return
            run.error = shortened(error, LONGEST_ERROR)
            # The end of a traceback has the error.
            run.traceback = traceback[-LONGEST_TRACEBACK:]
            if retry_after is not None:
                from datetime import timedelta  # noqa: PLC0415 - see `__init__`

                run.state = "waiting"
                run.failures += 1
                run.due_at = self._now() + timedelta(seconds=retry_after)
                key = (delivery.id, delivery.handler)
                self._waiting[key] = time.monotonic() + retry_after
                return
            run.state = ending
            run.finished_at = self._now()
            record = self._records[delivery.id]
            if not record.is_open:
                self._held -= _size(record)
                self._finish(record)

    def _started(self, delivery: Delivery) -> Run | None:
        record = self._records.get(delivery.id)
        for run in () if record is None else record.runs:
            if run.handler == delivery.handler:
                is_it = run.attempts == delivery.attempt and run.state in STARTED
                return run if is_it else None
        return None

    # ---- what is asked -------------------------------------------------------------------------

    def get(self, delivery_id: str) -> Record | None:
        """Look up a delivery."""
        with self._lock:
            record = self._records.get(delivery_id)
            return None if record is None else _copy(record)

    def list(  # noqa: PLR0913 - criteria, each optional
        self,
        *,
        state: str | None = None,
        scope: str | None = None,
        repo: str | None = None,
        since: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> builtins.list[Record]:
        """List deliveries, the newest first, without their bodies."""
        found: builtins.list[Record] = []
        is_reached = before is None
        with self._lock:
            for record in reversed(self._records.values()):
                if len(found) >= limit:
                    break
                if (
                    is_reached
                    and (state is None or record.state == state)
                    and (scope is None or record.scope == scope)
                    and (repo is None or record.repo == repo)
                    and (since is None or record.received_at >= since)
                ):
                    found.append(_copy(record))
                    found[-1].body = None
                is_reached = is_reached or record.id == before
        return found

    def stats(self) -> Stats:
        """Give the log in figures."""
        states: dict[str, int] = {}
        unfinished_since = None
        with self._lock:
            for record in self._records.values():
                states[record.state] = states.get(record.state, 0) + 1
                if unfinished_since is None and record.is_open:
                    unfinished_since = record.received_at
            body_bytes = self._kept + self._held
        return Stats(states, body_bytes, unfinished_since, dict(self._refusals))

    # ---- upkeep --------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Do nothing, as there is no disk."""

    def prune(self) -> int:
        """Do nothing, as room is made at once."""
        return 0

    def _add(self, record: Record, known: Record | None, handlers: Sequence[str]) -> None:
        """Keep a delivery as the newest, with what is known of it from before."""
        if handlers:
            self._hold(record)
        if known is not None:
            self._forget(known)
            record.runs = known.runs
            record.duplicates = known.duplicates
        self._records[record.id] = record
        if handlers:
            queue_runs(record, handlers)
            for name in handlers:
                self._queued[record.id, name] = self._now()
        else:
            self._finish(record)

    def _hold(self, record: Record) -> None:
        """Count a body among those of the unfinished."""
        self._check_room(record.size)
        self._held += record.size

    def _check_room(self, size: int) -> None:
        if self._held + size > self._hold_bytes:
            if size <= self._hold_bytes:
                self._refused_size = size
            msg = (
                f"the bodies of deliveries that wait for their handlers take {self._held} bytes, "
                f"and {size} more would be over the limit of {self._hold_bytes}"
            )
            raise StoreError(msg)

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


def handler_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return each name once, in order; a single string is one name.

    Raises:
        ConfigError: one of them cannot be the name of a handler.
    """
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        # Not every user has a type checker.
        if not (isinstance(name, str) and name and name.isprintable()):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"`{name!r}` is no name of a handler; write a string that can be printed"
            raise ConfigError(msg)
    return tuple(dict.fromkeys(names))


def queue_runs(record: Record, handlers: Sequence[str]) -> None:
    """Queue handlers, each named once, counting on; what others did before stays on record."""
    before = {run.handler: run for run in record.runs}
    chosen = frozenset(handlers)
    record.runs = [run for run in record.runs if run.handler not in chosen]
    for name in handlers:
        run = Run(name)
        if name in before:
            run.attempts, run.history = before[name].attempts, before[name].history
        record.runs.append(run)


def _size(record: Record) -> int:
    return 0 if record.body is None else len(record.body)


def _copy(record: Record) -> Record:
    import copy  # noqa: PLC0415 - `import hubhooks` can do without

    made = copy.copy(record)
    made.runs = [copy.copy(run) for run in record.runs]
    return made
