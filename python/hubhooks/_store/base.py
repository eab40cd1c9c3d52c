"""The interface of a delivery store, and the rules that every store follows."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import Counter, deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast

from hubhooks.errors import ConfigError, StoreError
from hubhooks.models import (
    STARTED,
    UNFINISHED,
    Delivery,
    Run,
    RunContext,
    State,
    Stats,
    resolve_reason,
    shorten,
)

if TYPE_CHECKING:
    import builtins
    from collections.abc import Container, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from typing import TypeAlias

    from hubhooks._core import HubEvent
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
    Interrupted: TypeAlias = tuple[str, str, bool]

__all__ = [
    "LONGEST_ERROR",
    "LONGEST_TRACEBACK",
    "NO_GROUPS",
    "AcceptResult",
    "Backlog",
    "DeliveryStore",
    "Leader",
    "MemoryStore",
    "Prunable",
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
    def is_durable(self) -> bool:
        """Whether it outlives the process."""
        ...

    @property
    def path(self) -> str:
        """The file; empty for a store in memory."""
        ...

    @property
    def has_deferred(self) -> bool:
        """Whether there are deferred writes."""
        ...

    @property
    def is_led(self) -> bool:
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
            headers: the headers of the request; secrets in them are not stored.
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
        """Add to the rejected requests of a minute, counted from 1970."""

    def recover(self) -> builtins.list[Interrupted]:
        """Become the leader; not in a transaction.

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
        """Find a living process with newer code than this one, which should be the leader."""
        ...

    def keep_noted(self) -> None:
        """Write down the files of the store again if somebody removed the leader's file."""

    def note_lock(self) -> None:
        """Record, deferred, that this process locked another file as the leader."""

    def waiting_handlers(self) -> dict[str, int]:
        """Count the waiting runs by handler, in any thread."""
        ...

    def unknown_handlers(self, known: Container[str]) -> dict[str, int]:
        """Count the waiting runs of handlers that the leader does not have, in any thread.

        Args:
            known: the handlers of this process, used if no process is the leader.
        """
        ...

    def recover_crashed(self) -> builtins.list[Interrupted]:
        """Retry or fail the runs whose process died, as the leader; not in a transaction.

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
        interrupted: bool = False,
        grouped: Container[str] = (),
    ) -> builtins.list[Due]:
        """List runs that can start, the oldest first.

        Args:
            limit: how many at most.
            without: the busy handlers.
            among: the known handlers; None for any.
            interrupted: only runs during which the process died before; else only the others.
            grouped: the handlers with `serial=` or `debounce=`.
        """
        ...

    def seconds_to_next(self, grouped: Iterable[str] = ()) -> float | None:
        """Return the seconds to the next retry, or to the end of a wait; None if none waits.

        Args:
            grouped: the handlers with `serial=` or `debounce=`.
        """
        ...

    def body(self, delivery_id: str) -> bytes | None:
        """Return the body of a delivery that is about to run."""
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

    def finish_run(
        self,
        run_context: RunContext,
        ending: State,
        error: str = "",
        traceback: str = "",
        *,
        retry_after: float | None = None,
    ) -> None:
        """Record, deferred, the end of an attempt; ignored if the attempt was given up meanwhile.

        Args:
            run_context: the attempt, from `claim`.
            ending: its outcome.
            error: the reason.
            traceback: the place in the code.
            retry_after: the seconds to the next attempt; None for no retry.
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

    def stats(self) -> Stats:
        """Count the deliveries by state, and the rejections."""
        ...

    def checkpoint(self) -> None:
        """Move recent writes to their final place, waiting for the disk."""

    def prune(self) -> int:
        """Drop what is too old or too much; return how many bodies and deliveries."""
        ...


class MemoryStore:
    """A log that ends with the process.

    What it does it does at once, so nothing is ever late; and it may be called from any thread.

    Args:
        replays: whether a Replay of a delivery that succeeded runs its handlers again.
        keep: how many finished deliveries are kept.
        keep_bytes: how much of their bodies is kept; the records stay.
        hold_bytes: how much of the bodies of unfinished deliveries is held at once. More is
            rejected, so that the Hub sends it again.
    """

    is_durable = False
    path = ""
    has_deferred = False
    is_led = True

    def __init__(
        self,
        *,
        on_replay: OnReplay = "run",
        keep: int = 1_000,
        keep_bytes: int = 64 * 1024 * 1024,
        hold_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        from datetime import datetime, timezone  # noqa: PLC0415 - `import hubhooks` needs none

        self._now = functools.partial(datetime.now, timezone.utc)
        self._on_replay: OnReplay = on_replay
        self._keep = keep
        self._keep_bytes = keep_bytes
        self._hold_bytes = hold_bytes
        # A body of less than its share never has to make room: what explains later may hold it.
        self._share = keep_bytes // max(keep, 1)
        self._records: dict[str, Delivery] = {}
        # The finished ones, oldest first; the sizes of their bodies and of the others'.
        self._finished: deque[Delivery] = deque()
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

    def transaction(self) -> AbstractContextManager[None]:
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
        skipped: State | None = None,
        reason: Reason = "",
        *,
        scope: str = "",
        action: str = "",
        repo: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),  # noqa: ARG002 - not kept
        groups: Mapping[str, RunGroup] = NO_GROUPS,  # noqa: ARG002 - runs start at once
    ) -> AcceptResult:
        """Record that a delivery came, and decide what is to run.

        Raises:
            StoreError: too much waits for its handlers already.
        """
        if delivery_id is None:
            delivery_id = os.urandom(16).hex()
        if len(body) > self._share:
            reason = resolve_reason(reason)
        with self._lock:
            known = self._records.get(delivery_id)
            if known is not None:
                again = decide_redelivery(known, self._on_replay)
                if isinstance(again, str):
                    known.duplicates += 1
                    return AcceptResult(again, delivery_id)
                # Failed runs stay failed if the body cannot be parsed this time.
                if again and skipped != State.MALFORMED:
                    handlers, skipped, reason = again, None, ""
            delivery = Delivery(
                delivery_id,
                self._now(),
                body,
                skipped,
                reason,
                scope=scope,
                action=action,
                repo=repo,
            )
            if known is not None:
                delivery.is_replay = known.is_acknowledged
            names = tuple(dict.fromkeys(handlers))
            self._add(delivery, known, names)
        return AcceptResult(status_of(skipped), delivery_id, names)

    def read_superseded(
        self,
        delivery_id: str,  # noqa: ARG002 - see `accept`
        handler: str,  # noqa: ARG002 - see `accept`
    ) -> tuple[tuple[str, ...], bytes | None]:
        """Return no delivery: none is replaced in memory."""
        return (), None

    def mark_acknowledged(self, delivery_id: str, *, delivered: bool) -> None:
        """Record whether the answer is known to have reached the Hub."""
        # One answer that arrived is enough for the Hub, so a later "no" does not undo it. And so
        # this needs no lock: the flag is only ever set.
        if delivered and (delivery := self._records.get(delivery_id)) is not None:
            delivery.is_acknowledged = True

    def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> tuple[str, ...]:
        """Queue handlers of a finished delivery again; give the names of those queued."""
        chosen = handler_names(handlers)
        with self._lock:
            known = self._records.get(delivery_id)
            if known is None or known.body is None or known.is_open:
                return ()
            names = chosen or tuple(run.handler for run in known.runs)
            if names:
                delivery = Delivery(
                    delivery_id,
                    known.received_at,
                    known.body,
                    None,
                    "",
                    scope=known.scope,
                    action=known.action,
                    repo=known.repo,
                )
                delivery.is_replay, delivery.is_acknowledged = True, known.is_acknowledged
                self._add(delivery, known, names)
        return names

    def count_rejections(self, minute: int, reason: str, count: int) -> None:  # noqa: ARG002 - the minute is not kept
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
            waits = (self._records[key].run(name).due_at for key, name in self._waiting)
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

    def list_ready(
        self,
        limit: int,
        without: Sequence[str] = (),
        *,
        among: Container[str] | None = None,
        interrupted: bool = False,
        grouped: Container[str] = (),  # noqa: ARG002 - see `accept`
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

    def seconds_to_next(
        self,
        grouped: Iterable[str] = (),  # noqa: ARG002 - see `accept`
    ) -> float | None:
        """Tell in how many seconds another waiting run is due; None if none waits."""
        now = time.monotonic()
        with self._lock:
            waits = [due_at - now for due_at in self._waiting.values() if due_at > now]
        return min(waits, default=None)

    def body(self, delivery_id: str) -> bytes | None:
        """Look up the body of a delivery that is about to run."""
        delivery = self._records.get(delivery_id)
        return None if delivery is None else delivery.body

    def claim(
        self,
        delivery_id: str,
        handler: str,
        *,
        is_grouped: bool = False,  # noqa: ARG002 - see `accept`
    ) -> RunContext | None:
        """Record that a handler is about to run, and give what it is told."""
        key = (delivery_id, handler)
        with self._lock:
            if key in self._queued:
                del self._queued[key]
            elif self._waiting.pop(key, None) is None:
                return None
            delivery = self._records[delivery_id]
            run = delivery.run(handler)
            run.state = State.RUNNING
            run.attempts += 1
            run.started_at = self._now()
            run.due_at = None
            return RunContext(
                delivery_id,
                run.attempts,
                delivery.is_replay,
                delivery.received_at,
                handler,
                run.failures,
            )

    def unclaim(self, run_context: RunContext) -> None:
        """Record that a handler did not start."""
        self.finish_run(run_context, State.FAILED, retry_after=0)

    def mark_stuck(self, run_context: RunContext) -> None:
        """Record that a handler is out of time, and cannot be ended."""
        with self._lock:
            run = self._started(run_context)
            if run is not None:
                run.state = State.STUCK

    def finish_run(
        self,
        run_context: RunContext,
        ending: State,
        error: str = "",
        traceback: str = "",
        *,
        retry_after: float | None = None,
    ) -> None:
        """Record how a handler ended; nothing of a start that was given up meanwhile."""
        with self._lock:
            run = self._started(run_context)
            if run is None:
                return
            run.error = shorten(error, LONGEST_ERROR)
            # The end of a traceback has the error.
            run.traceback = traceback[-LONGEST_TRACEBACK:]
            if retry_after is not None:
                from datetime import timedelta  # noqa: PLC0415 - see `__init__`

                run.state = State.RETRYING
                run.failures += 1
                run.due_at = self._now() + timedelta(seconds=retry_after)
                key = (run_context.id, run_context.handler)
                self._waiting[key] = time.monotonic() + retry_after
                return
            run.state = ending
            run.finished_at = self._now()
            delivery = self._records[run_context.id]
            if not delivery.is_open:
                self._held -= _size(delivery)
                self._finish(delivery)

    def _started(self, run_context: RunContext) -> Run | None:
        delivery = self._records.get(run_context.id)
        for run in () if delivery is None else delivery.runs:
            if run.handler == run_context.handler:
                is_it = run.attempts == run_context.attempt and run.state in STARTED
                return run if is_it else None
        return None

    # ---- what is asked -------------------------------------------------------------------------

    def get(self, delivery_id: str) -> Delivery | None:
        """Look up a delivery."""
        with self._lock:
            delivery = self._records.get(delivery_id)
            return None if delivery is None else _copy(delivery)

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
        """List deliveries, the newest first, without their bodies."""
        found: builtins.list[Delivery] = []
        is_reached = before is None
        with self._lock:
            for delivery in reversed(self._records.values()):
                if len(found) >= limit:
                    break
                if (
                    is_reached
                    and (state is None or delivery.state == state)
                    and (scope is None or delivery.scope == scope)
                    and (repo is None or delivery.repo == repo)
                    and (since is None or delivery.received_at >= since)
                ):
                    found.append(_copy(delivery))
                    found[-1].body = None
                is_reached = is_reached or delivery.id == before
        return found

    def stats(self) -> Stats:
        """Give the log in figures."""
        states: dict[State, int] = {}
        unfinished_since = None
        with self._lock:
            for delivery in self._records.values():
                states[delivery.state] = states.get(delivery.state, 0) + 1
                if unfinished_since is None and delivery.is_open:
                    unfinished_since = delivery.received_at
            body_bytes = self._kept + self._held
        return Stats(states, body_bytes, unfinished_since, dict(self._refusals))

    # ---- upkeep --------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Do nothing, as there is no disk."""

    def prune(self) -> int:
        """Do nothing, as room is made at once."""
        return 0

    def _add(self, delivery: Delivery, known: Delivery | None, handlers: Sequence[str]) -> None:
        """Keep a delivery as the newest, in place of an earlier one with the same id."""
        if handlers:
            self._hold(delivery)
        if known is not None:
            self._forget(known)
            delivery.runs = known.runs
            delivery.duplicates = known.duplicates
        self._records[delivery.id] = delivery
        if handlers:
            queue_runs(delivery, handlers)
            for name in handlers:
                self._queued[delivery.id, name] = self._now()
        else:
            self._finish(delivery)

    def _hold(self, delivery: Delivery) -> None:
        """Count a body among those of the unfinished."""
        self._check_room(delivery.size)
        self._held += delivery.size

    def _check_room(self, size: int) -> None:
        if self._held + size > self._hold_bytes:
            if size <= self._hold_bytes:
                self._refused_size = size
            msg = (
                f"the bodies of unfinished deliveries take {self._held} bytes of memory, and "
                f"{size} more would exceed the limit of {self._hold_bytes}"
            )
            raise StoreError(msg)

    def _finish(self, delivery: Delivery) -> None:
        """Count a record among the finished ones, and drop older ones for it."""
        self._finished.append(delivery)
        self._kept += _size(delivery)
        if len(self._finished) > self._keep:
            oldest = self._finished.popleft()
            del self._records[oldest.id]
            self._kept -= _size(oldest)
        if self._kept > self._keep_bytes:
            self._drop_bodies()

    def _forget(self, delivery: Delivery) -> None:
        """Drop a finished record."""
        del self._records[delivery.id]
        self._finished.remove(delivery)
        self._kept -= _size(delivery)

    def _drop_bodies(self) -> None:
        for delivery in self._finished:
            if self._kept <= self._keep_bytes:
                break
            if _size(delivery) > self._share:
                self._kept -= _size(delivery)
                delivery.body = None


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


def _size(delivery: Delivery) -> int:
    return 0 if delivery.body is None else len(delivery.body)


def _copy(delivery: Delivery) -> Delivery:
    import copy  # noqa: PLC0415 - `import hubhooks` can do without

    made = copy.copy(delivery)
    made.runs = [copy.copy(run) for run in delivery.runs]
    return made
