"""Deliveries, the runs of handlers on them, and their states.

A *delivery* is one HTTP delivery of the Hub, known by its `Webhook-Id`. A *run* is one handler on
one delivery. An *attempt* is one start of that handler.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from typing import TypeAlias

    from hubhooks._core import HubEvent

    # Explanations are lazy: they cost more than matching, and are rarely read.
    Reason: TypeAlias = str | Callable[[], str]


__all__ = [
    "Attempt", "Deliveries", "Delivery", "Ignore", "Retry", "Run", "RunContext", "State", "Stats",
    "Superseded",
]  # fmt: skip

# The Hub's own scopes, actions and names are shorter. A hostile one can be as long as the body.
_MAX_NAME_LENGTH = 256


class State(str, Enum):
    """The state of a run, and of a delivery.

    Each member is a string too: `delivery.state == "failed"` works like `State.FAILED`.
    """

    QUEUED = "queued"
    """A handler matches, and waits for a free slot."""
    RUNNING = "running"
    """A handler runs now."""
    RETRYING = "retrying"
    """An attempt failed. The next one starts later."""
    SUCCEEDED = "succeeded"
    """The handler returned."""
    FAILED = "failed"
    """The handler raised, and no retry is left."""
    IGNORED = "ignored"
    """The handler raised `Ignore`, or `ignore_authors` names the author."""
    UNHANDLED = "unhandled"
    """No handler matches."""
    MALFORMED = "malformed"
    """The body is not a valid event. It is stored, and can be replayed after an upgrade."""
    STUCK = "stuck"
    """The handler exceeded its timeout, and cannot be cancelled. It still holds its slot."""

    # Without these, `str` and `format` return other texts, depending on the version of Python.
    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)


UNFINISHED = frozenset({State.QUEUED, State.RUNNING, State.RETRYING, State.STUCK})
STARTED = frozenset({State.RUNNING, State.STUCK})
# The state of a delivery is the first of these that one of its runs is in.
STATE_PRIORITY = (
    State.RUNNING, State.STUCK, State.QUEUED, State.RETRYING, State.FAILED, State.SUCCEEDED,
    State.MALFORMED, State.IGNORED, State.UNHANDLED,
)  # fmt: skip


def aggregate_state(states: Sequence[str | None]) -> State:
    """Return the state that stands for all: an unfinished one, else the worst result."""
    return next(state for state in STATE_PRIORITY if state in states)


def resolve_reason(reason: Reason) -> str:
    """Return a reason as text; a lazy one is computed now."""
    return reason if isinstance(reason, str) else reason()


def shorten(text: str, length: int = _MAX_NAME_LENGTH) -> str:
    """Cut a text to a length, and mark the cut with an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


# A generated data class would cost `import hubhooks` a millisecond, a named tuple a quarter of one.
class Superseded(NamedTuple):
    """The deliveries that a run with `debounce=` replaced."""

    ids: tuple[str, ...] = ()
    """Their ids, the oldest first."""
    old_sha: str | None = None
    """The `old_sha` of the oldest one, so that a handler misses no commit between. None if the
    event is no push, or created the ref."""


class RunContext(NamedTuple):
    """What a handler can know about its run: `def handler(event, context)`."""

    id: str
    """The `Webhook-Id` of the delivery. The Hub keeps it on retries and on Replay.

    Source: https://huggingface.co/docs/hub/webhooks
    """
    attempt: int
    """The number of this attempt, from 1. It counts the attempts before a Replay too."""
    is_replay: bool
    """True if someone pressed Replay: the Hub sent the delivery again although it succeeded."""
    received_at: datetime
    """When the delivery was received, or received again; in UTC."""
    handler: str
    """The handler's name, as the store knows it."""
    failures: int = 0
    """Failed attempts since the delivery was last received; `retries=` limits them."""
    superseded: Superseded = Superseded()
    """The deliveries that this run replaced: see `debounce=`."""


class Ignore(Exception):  # noqa: N818 - it reports no error
    """Raise it in a handler to skip the event. The run ends as `ignored`, not as `failed`.

    The argument is the reason that `deliveries show` prints: `raise Ignore("not my repo")`.
    """


class Retry(Exception):  # noqa: N818 - it reports no error
    """Raise it in a handler to be called again later, if `retries=` allows it.

    Args:
        reason: what the log prints.
        after: seconds until the next attempt, a year at most; by default `backoff=` decides.

    Raises:
        ConfigError: `after` is not a number of seconds, or `reason` is not a string.
    """

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        # `Retry(60)` means the time. Not every user has a type checker.
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = (
                f"the reason of `Retry({reason!r})` is not text; for a time, write "
                f"`after={reason!r}`"
            )
            raise ConfigError(msg)
        seconds = _to_seconds(after)
        if seconds is not None and not 0 <= seconds < float("inf"):
            msg = f"`Retry(after={after!r})` is not a number of seconds; write for example 60"
            raise ConfigError(msg)
        super().__init__(reason)
        self.after = seconds


def _to_seconds(value: object) -> float | None:
    """Convert a number of any library's type; NaN if it is not a number."""
    if value is None:
        return None
    try:
        # `float("60")` works, but a string is an unread `Retry-After` header.
        return float("nan") if isinstance(value, str | bytes) else float(value)  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError):
        return float("nan")


class Attempt(NamedTuple):
    """One start of a handler."""

    number: int
    """Its number, from 1."""
    started_at: datetime
    finished_at: datetime | None = None
    """When it ended; None while it runs, and if an older version stored it."""
    state: State | None = None
    """Its outcome: `succeeded`, `failed` or `ignored`; `retrying` if it was given up before its
    end; `running` or `stuck` while it runs. None if an older version stored it."""
    error: str = ""
    """Its error in one line. A later attempt does not change it."""
    traceback: str = ""
    """The traceback of its error."""
    process: int | None = None
    """The key of its process in the store."""
    pid: int | None = None
    """The process id; None if the store does not know it any more."""
    code: str | None = None
    """The version of the code that it ran."""
    output: str | None = None
    """The text that it printed; None if it was not recorded."""
    result: str | None = None
    """The `repr` of the returned value; None if it was not recorded."""


class Run:
    """One handler on one delivery."""

    __slots__ = (
        "attempts", "crashes", "due_at", "error", "failures", "finished_at", "handler", "history",
        "started_at", "state", "traceback",
    )  # fmt: skip

    def __init__(self, handler: str, *, attempts: int = 0) -> None:
        self.handler = handler
        """The handler's name."""
        self.state = State.QUEUED
        self.attempts = attempts
        """How often the handler was started."""
        self.failures = 0
        """Failed attempts since the delivery was last received."""
        self.crashes = 0
        """How often the process died during this run."""
        self.due_at: datetime | None = None
        """When the next attempt starts; None unless the state is `retrying`."""
        self.started_at: datetime | None = None
        """When the last attempt started."""
        self.finished_at: datetime | None = None
        """When the run ended; None while it is open."""
        self.error = ""
        """The last error in one line."""
        self.traceback = ""
        """The traceback of the last error."""
        self.history: list[Attempt] = []
        """Its attempts. Only `get()` of a store on disk fills it."""

    def __repr__(self) -> str:
        return f"Run({self.handler!r}, state={str(self.state)!r}, attempts={self.attempts})"

    @property
    def is_open(self) -> bool:
        """True until the run ended."""
        return self.state in UNFINISHED


class Delivery:
    """A stored delivery with its runs: a copy, which does not change later."""

    __slots__ = (
        "_reason", "action", "body", "duplicates", "headers", "id", "is_acknowledged", "is_replay",
        "received_at", "repo", "runs", "scope", "size", "skipped",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - the fields of a delivery
        self,
        delivery_id: str,
        received_at: datetime,
        body: bytes | None,
        skipped: State | None,
        reason: Reason,
        *,
        scope: str = "",
        action: str = "",
        repo: str | None = None,
    ) -> None:
        self.id = delivery_id
        """The `Webhook-Id`."""
        self.received_at = received_at
        """When it was last received; in UTC."""
        self.body = body
        """The body as it was received; None in a list, and after pruning dropped it."""
        self.size = 0 if body is None else len(body)
        """The length of the body in bytes, also of a dropped one."""
        self.scope = shorten(scope)
        """The scope of the event, cut to 256 characters like the action and the repository."""
        self.action = shorten(action)
        """The action of the event."""
        self.repo = None if repo is None else shorten(repo)
        """The full name of the repository; None if the event has none."""
        self.headers: Sequence[tuple[str, str]] = ()
        """The headers of the request, without secrets; a store in memory keeps none."""
        self.skipped = skipped
        """Why no handler ran: `unhandled`, `ignored` or `malformed`; None if there are runs."""
        self._reason = reason
        self.runs: list[Run] = []
        """One for each handler that matched."""
        self.is_replay = False
        """True if someone pressed Replay after it succeeded."""
        self.is_acknowledged = False
        """True if the response is known to have reached the Hub."""
        self.duplicates = 0
        """How often it was received again without a new run."""

    def __repr__(self) -> str:
        # The body must not show up in a log or a traceback.
        return f"Delivery({self.id!r}, state={str(self.state)!r}, runs={self.runs!r})"

    @property
    def reason(self) -> str:
        """Why it was skipped, in words."""
        self._reason = resolve_reason(self._reason)
        return self._reason

    @property
    def state(self) -> State:
        """The state of all its runs together: an unfinished one, else the worst result."""
        return aggregate_state([*(run.state for run in self.runs), self.skipped])

    @property
    def is_open(self) -> bool:
        """True until all its runs ended."""
        return any(run.is_open for run in self.runs)

    def run(self, handler: str) -> Run:
        """Return the run of one handler.

        Raises:
            KeyError: that handler has no run on this delivery.
        """
        for run in self.runs:
            if run.handler == handler:
                return run
        raise KeyError(handler)


class Stats(NamedTuple):
    """The numbers of a store."""

    states: dict[State, int]
    """The number of deliveries in each state."""
    body_bytes: int
    """The size of all stored bodies together."""
    unfinished_since: datetime | None
    """When the oldest unfinished delivery was received."""
    rejections: dict[str, int]
    """The number of rejected requests by reason, as far back as the store goes."""


class RunGroup(NamedTuple):
    """The runs of a handler that wait for each other, or replace each other."""

    serial: str
    """Runs with this key start one after the other; empty for no order."""
    subject: str
    """A queued run with this key is replaced by a newer one; empty for never."""
    debounce: float
    """A run waits for a newer one for these seconds."""


class AcceptedRuns:
    """The runs of an accepted delivery; without handlers, its `on_unhandled` hooks."""

    __slots__ = ("delivery_id", "event", "handlers")

    def __init__(self, delivery_id: str, handlers: tuple[str, ...], event: HubEvent) -> None:
        self.delivery_id = delivery_id
        self.handlers = handlers
        self.event = event


class _Readable(Protocol):
    """The methods of a store that `Deliveries` calls."""

    def list(self, *args: Any, **criteria: Any) -> builtins.list[Delivery]: ...  # noqa: ANN401 - stores declare them

    def get(self, delivery_id: str) -> Delivery | None: ...

    def stats(self) -> Stats: ...


class Deliveries:
    """The stored deliveries of a `Webhooks`: `hooks.deliveries`.

    All methods may be called from any thread, also while the app serves.
    """

    def __init__(
        self,
        get_store: Callable[[], _Readable],
        replay: Callable[[str, Sequence[str]], tuple[str, ...]],
    ) -> None:
        self._get_store = get_store
        self._replay = replay

    def list(  # noqa: PLR0913 - filters, each optional
        self,
        *,
        state: State | str | None = None,
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
            since: only those received at this time or later.
            before: only those older than the delivery with this id, for the next page.
            limit: the number of deliveries at most.

        Raises:
            ConfigError: there is no such state.
            StoreError: the store cannot be read now.
        """
        if state is not None and state not in set(State):
            words = ", ".join(State)
            msg = f"there is no state `{state}`; the states are: {words}"
            raise ConfigError(msg)
        return self._get_store().list(
            state=state, scope=scope, repo=repo, since=since, before=before, limit=limit
        )

    def get(self, delivery_id: str) -> Delivery | None:
        """Return a delivery with its body and headers; None if the store does not have it.

        Raises:
            StoreError: the store cannot be read now.
        """
        return self._get_store().get(delivery_id)

    def stats(self) -> Stats:
        """Return the numbers of the store.

        Raises:
            StoreError: the store cannot be read now.
        """
        return self._get_store().stats()

    def replay(self, delivery_id: str, handlers: str | Sequence[str] = ()) -> tuple[str, ...]:
        """Run handlers of a finished delivery again.

        Args:
            delivery_id: the delivery.
            handlers: the names of the handlers; by default those that ran before.

        Returns:
            The names of the queued handlers. It is empty if the delivery is unknown, still open or
            without its body, or if no handler matched and none is named.

        Raises:
            ConfigError: a name cannot be the name of a handler.
            StoreError: the store cannot be written now.
        """
        return self._replay(delivery_id, (handlers,) if isinstance(handlers, str) else handlers)
