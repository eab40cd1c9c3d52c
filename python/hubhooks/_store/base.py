"""The interface of a delivery store, and the rules that every store follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast

from hubhooks.errors import ConfigError
from hubhooks.models import (
    UNFINISHED,
    Delivery,
    Run,
    RunContext,
    State,
    Stats,
    shorten,
)

if TYPE_CHECKING:
    import builtins
    from collections.abc import Collection, Container, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from typing import TypeAlias

    from hubhooks._core import HubEvent, Verifier
    from hubhooks._process import Process
    from hubhooks.models import Reason, RunGroup

    # The status in the JSON of a response.
    Status: TypeAlias = Literal[
        "accepted", "in_progress", "duplicate", "unhandled", "ignored", "malformed"
    ]
    OnReplay: TypeAlias = Literal["run", "skip"]
    # The delivery and the handler of a run that can start.
    Due: TypeAlias = tuple[str, str]
    # The delivery and the handler of a crashed run, and whether it is not tried again.
    RecoveredRun: TypeAlias = tuple[str, str, bool]
    # What a handler printed, and the `repr` of its result.
    Recorded: TypeAlias = tuple[str | None, str | None]

__all__ = [
    "LONGEST_ERROR",
    "LONGEST_TRACEBACK",
    "NO_GROUPS",
    "AcceptResult",
    "Backlog",
    "ChangeWatch",
    "Changes",
    "DeliveryStore",
    "Found",
    "Leader",
    "Prunable",
    "RunCount",
    "decide_redelivery",
    "handler_names",
    "log_fields",
    "queue_runs",
    "status_of",
]  # fmt: skip

# The longest error and traceback that a store keeps, in characters.
LONGEST_ERROR = 4096
LONGEST_TRACEBACK = 64 * 1024
# The groups of a delivery whose handlers have neither `serial=` nor `debounce=`.
NO_GROUPS: Mapping[str, RunGroup] = {}


def log_fields(delivery_id: str | None, event: HubEvent | None) -> dict[str, object]:
    """Return the fields of a delivery for a log record, as `extra=`."""
    repo = None if event is None else event.repo
    return {
        "delivery_id": delivery_id,
        "scope": None if event is None else shorten(event.scope),
        "action": None if event is None else shorten(event.action),
        "repo": None if repo is None else shorten(repo.name),
    }


class AcceptResult(NamedTuple):
    """The response to a delivery, and the handlers that run."""

    status: Status
    id: str
    handlers: tuple[str, ...] = ()


def status_of(skipped: State | None) -> Status:
    """Return the status of the response to a stored delivery."""
    return "accepted" if skipped is None else cast("Status", str(skipped))


class Backlog(NamedTuple):
    """The waiting runs."""

    runs: dict[str, int]
    """Their number by handler, retries included."""
    startable_since: datetime | None
    """Since when the oldest of them can start; None if none can yet."""


class Found(NamedTuple):
    """The result of a search."""

    deliveries: list[Delivery]
    """One page, the newest first."""
    total: int | None
    """The number of deliveries on all pages; None if counting takes too long."""


class RunCount(NamedTuple):
    """The runs of a handler in one state."""

    handler: str
    state: State
    number: int
    last_id: str | None
    """The delivery of the last ended run; None if these runs have not ended."""
    last_at: datetime | None
    """When it ended."""


class Changes(NamedTuple):
    """The differences between two looks at a store."""

    deliveries: list[Delivery]
    """New and changed deliveries, the oldest first, without their bodies."""
    has_new_counts: bool
    """True if the numbers of the store may be others."""
    is_complete: bool = True
    """False if too many deliveries changed, or another store is at the path."""


class ChangeWatch(Protocol):
    """Looks at a store again and again; see `StoreWatch`."""

    last_seq: int
    """The number of the newest delivery at the last look."""

    def start(self, after: int | None = None) -> Changes:
        """Look for the first time; return the deliveries after an earlier `last_seq`."""
        ...

    def look(self) -> Changes:
        """Return what changed since the last look."""
        ...


class Prunable(NamedTuple):
    """Data that is old enough to be dropped."""

    bodies: int
    body_bytes: int
    deliveries: int
    """The number of deliveries that are deleted with their ids."""


class Leader(NamedTuple):
    """A process that is the leader of a store, or should be."""

    process: Process
    code: str
    """The version of its code."""
    since: datetime | None
    """When it became the leader; None if it did not."""
    handlers: frozenset[str] | None
    """The names of its handlers; None if they are unknown."""
    key: int
    """Its row in the store."""


def decide_redelivery(
    known: Delivery, on_replay: OnReplay
) -> tuple[str, ...] | Literal["in_progress", "duplicate"]:
    """Decide about a delivery with a known id.

    The Hub keeps the id on its own retries, and when the webhook's owner presses Replay
    (https://huggingface.co/docs/hub/webhooks). It retries a delivery without a 2xx response. So an
    acknowledged delivery that is received again is a Replay.

    Returns:
        the handlers to run again; empty to match it like a new delivery. Or the status, if no
        handler runs.
    """
    states = {run.state for run in known.runs}
    if not UNFINISHED.isdisjoint(states):
        return "in_progress"
    if State.FAILED in states:
        return tuple(run.handler for run in known.runs if run.state == State.FAILED)
    if State.SUCCEEDED in states and not (known.is_acknowledged and on_replay == "run"):
        return "duplicate"
    return ()


class DeliveryStore(Protocol):
    """A store of deliveries and their runs.

    `get`, `list`, `stats`, `checkpoint` and `prune` work in any thread, and so do
    `mark_acknowledged`, `mark_stuck` and `finish_run`. All else belongs to the thread of the
    server's loop, unless its docstring names any thread.
    """

    @property
    def path(self) -> str:
        """The file; empty for a store in memory."""
        ...

    @property
    def has_deferred(self) -> bool:
        """Whether there are deferred writes."""
        ...

    @property
    def is_leader(self) -> bool:
        """Whether this process is still the leader since `recover`."""
        ...

    def open(self) -> None:
        """Open the store for writing.

        Raises:
            ConfigError: it cannot be used.
            StoreError: it cannot be used now.
        """

    def close(self) -> None:
        """Write the deferred writes, and close the store."""

    def transaction(self) -> AbstractContextManager[None]:
        """Write everything inside, or nothing.

        Raises:
            BusyError: another process is writing; nothing was written, and a retry may succeed.
            StoreError: it cannot be written.
        """
        ...

    def flush(self) -> None:
        """Write the deferred writes.

        Raises:
            StoreError: they cannot be written now; they stay deferred.
        """
        ...

    def changed(self) -> bool:
        """Return whether another process wrote since the last call."""
        ...

    def expect(self, delivery_ids: Collection[str | None]) -> None:
        """Look up the ids of the deliveries that this transaction accepts, with one query."""

    def accept(  # noqa: PLR0913 - the facts of a delivery
        self,
        delivery_id: str | None,
        body: bytes,
        handlers: Sequence[str] = (),
        skipped: State | None = None,
        reason: Reason = "",
        *,
        scope: str = "",
        action: str = "",
        repo: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        verifier: Verifier | None = None,
        groups: Mapping[str, RunGroup] = NO_GROUPS,
    ) -> AcceptResult:
        """Store a delivery, and decide which handlers run.

        Args:
            delivery_id: the id that the Hub sent; None to generate one.
            body: the body of the request.
            handlers: the names of the matching handlers.
            skipped: the state of a delivery without a handler.
            reason: the explanation of `skipped`, or a function that returns it.
            scope: the event's scope.
            action: the event's action.
            repo: the name of the event's repository.
            headers: the headers of the request. Values that may be secret are not stored.
            verifier: finds the webhook secret in them.
            groups: the groups of runs, for `serial=` and `debounce=`.

        Raises:
            StoreError: it cannot be stored, so the Hub must send it again.
        """
        ...

    def mark_acknowledged(self, delivery_id: str, *, delivered: bool) -> None:
        """Record, deferred, whether the Hub is known to have received the response."""

    def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> tuple[str, ...]:
        """Queue handlers of a finished delivery again.

        Args:
            delivery_id: the delivery.
            handlers: their names, also of handlers that did not match; by default all that
                matched. A name given twice counts once.

        Returns:
            the names of the queued handlers. There are none if the delivery is unknown or
            unfinished, if its body was dropped, or if none matched and none is given.

        Raises:
            ConfigError: one of the names cannot be the name of a handler.
        """
        ...

    def count_rejections(self, minute: int, reason: str, count: int) -> None:
        """Add to the number of rejected requests of a minute. Minutes count from 1970."""

    def recover(self) -> builtins.list[RecoveredRun]:
        """Become the leader. The caller must not be in a transaction.

        Returns:
            the runs that crashed with an earlier process.
        """
        ...

    def register(self, code: str, loaded_at: float, handlers: Iterable[str]) -> None:
        """Record the code of this process; deferred, and only if it changed.

        Args:
            code: the version of the app's code.
            loaded_at: when the code was executed: larger for newer code.
            handlers: the names of the handlers.
        """

    def resign(self, *, is_end: bool) -> None:
        """Record, deferred, that this process is no longer the leader.

        Args:
            is_end: whether it no longer uses the store either.
        """

    def leader(self) -> Leader | None:
        """Return the leader of the store, in any thread; None if no process is."""
        ...

    def successor(self) -> Leader | None:
        """Return the process with newer code that should become the leader; None if none should."""
        ...

    def keep_noted(self) -> None:
        """Write the leader's file again if somebody removed it."""

    def note_lock(self) -> None:
        """Record, deferred, that the leader lock of this process is on a new file."""

    def waiting_handlers(self) -> dict[str, int]:
        """Count the waiting runs by handler, in any thread."""
        ...

    def unknown_handlers(self, known: Container[str]) -> dict[str, int]:
        """Count the waiting runs of handlers that the leader does not have, in any thread.

        Args:
            known: the handlers of this process, used if no process is the leader.
        """
        ...

    def recover_crashed(self) -> builtins.list[RecoveredRun]:
        """Retry or fail the runs whose process died.

        This process must be the leader. The caller must not be in a transaction.

        Returns:
            these runs.
        """
        ...

    def backlog(self) -> Backlog:
        """Describe the waiting runs, in any thread."""
        ...

    def is_leader_alive(self, leader: Leader) -> bool:
        """Return whether the leader is alive, in any thread."""
        ...

    def check_writable(self) -> None:
        """Check that a delivery could be stored now.

        Raises:
            StoreError: a delivery could not be stored.
        """

    def list_ready(
        self,
        limit: int,
        without: Sequence[str] = (),
        *,
        among: Container[str] | None = None,
        crashed: bool = False,
        grouped: Container[str] = (),
    ) -> builtins.list[Due]:
        """List runs that can start, the oldest first.

        Args:
            limit: how many at most.
            without: the busy handlers.
            among: the known handlers; None for any.
            crashed: only runs during which the process died before; else only the others.
            grouped: the handlers with `serial=` or `debounce=`.
        """
        ...

    def seconds_to_next(self, grouped: Iterable[str] = ()) -> float | None:
        """Return the seconds until the next retry is due or the next wait ends; None if none.

        Args:
            grouped: the handlers with `serial=` or `debounce=`.
        """
        ...

    def body(self, delivery_id: str) -> bytes | None:
        """Return the body of a delivery; None if it is unknown or its body was dropped."""
        ...

    def read_superseded(
        self, delivery_id: str, handler: str
    ) -> tuple[tuple[str, ...], bytes | None]:
        """Read the ids of the deliveries that a run replaced, and the body of the oldest one."""
        ...

    def claim(
        self, delivery_id: str, handler: str, *, is_grouped: bool = False
    ) -> RunContext | None:
        """Record the start of a run, and return its context.

        Returns:
            None if it must not start: it does not wait, or another process is the leader.
        """
        ...

    def unclaim(self, run_context: RunContext) -> None:
        """Record, deferred, that a handler did not start; nothing if `claim` was rolled back."""

    def mark_stuck(self, run_context: RunContext) -> None:
        """Record, deferred, that a handler is over its timeout and cannot be cancelled."""

    def finish_run(  # noqa: PLR0913 - the facts of an end
        self,
        run_context: RunContext,
        ending: State,
        error: str = "",
        traceback: str = "",
        *,
        retry_after: float | None = None,
        recorded: Recorded | None = None,
    ) -> None:
        """Record, deferred, the end of an attempt; ignored if the attempt was given up meanwhile.

        Args:
            run_context: the attempt, from `claim`.
            ending: its outcome.
            error: the reason.
            traceback: the place in the code.
            retry_after: the seconds to the next attempt; None for no retry.
            recorded: what the handler printed and returned; None if it was not recorded.
        """

    def get(self, delivery_id: str) -> Delivery | None:
        """Return a delivery."""
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
    ) -> builtins.list[Delivery]:
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

    def deliveries(self, delivery_ids: Iterable[str]) -> builtins.list[Delivery]:
        """Return the known ones of these deliveries, all of one moment, without their bodies."""
        ...

    def search(  # noqa: PLR0913 - criteria, each optional
        self,
        *,
        words: Sequence[str] = (),
        state: str | None = None,
        scope: str | None = None,
        repo: str | None = None,
        handler: str | None = None,
        event: str | None = None,
        since: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Found:
        """List deliveries with some words, the newest first; see `StoreReader`."""
        ...

    def count_runs(self) -> builtins.list[RunCount]:
        """Count the runs by handler and state."""
        ...

    def watch(self) -> ChangeWatch:
        """Return an object that finds changed deliveries, in any thread."""
        ...

    def stats(self) -> Stats:
        """Count the deliveries by state, and the rejections."""
        ...

    def checkpoint(self) -> None:
        """Move recent writes to their final place, waiting for the disk."""

    def prune(self) -> int:
        """Drop old deliveries, and old or excess bodies; return how many were dropped."""
        ...


def handler_names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return each name once, in order; a single string is one name.

    Raises:
        ConfigError: one of them cannot be the name of a handler.
    """
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        # Not every user has a type checker.
        if not (isinstance(name, str) and name and name.isprintable()):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"`{name!r}` is not a name of a handler; write a printable string"
            raise ConfigError(msg)
    return tuple(dict.fromkeys(names))


def queue_runs(delivery: Delivery, handlers: Sequence[str]) -> None:
    """Add queued runs to a delivery. They keep their attempts, and other runs stay as they are."""
    before = {run.handler: run for run in delivery.runs}
    chosen = frozenset(handlers)
    delivery.runs = [run for run in delivery.runs if run.handler not in chosen]
    for name in handlers:
        run = Run(name)
        if name in before:
            run.attempts, run.history = before[name].attempts, before[name].history
        delivery.runs.append(run)
