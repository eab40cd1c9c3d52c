"""The deliveries as plain data, for the activity tab and the HTTP API.

An anonymous visitor sees the time and the state of each delivery, and the event and the repository
if the repository is public. Everything else, and Replay, needs access.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from hubhooks._process import current_process
from hubhooks._store.busy import busy_pauses
from hubhooks.admin.access import AdminSessions, AdminTokenGuard
from hubhooks.admin.delivery_json import (
    LONGEST_BODY,
    body_of,
    event_of,
    json_safe,
    row_json,
    shown_at,
)
from hubhooks.errors import BusyError, StoreError
from hubhooks.models import State, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from hubhooks._core import HubEvent, Verifier
    from hubhooks._store.base import Backlog, DeliveryStore, RunCount
    from hubhooks.models import Delivery, Stats
    from hubhooks.routing import Router

__all__ = [
    "NOT_FINISHED", "STATES", "Activity", "Details", "LeaderState", "Links", "Overview", "Page",
    "Replayed", "Row", "choose_replay", "make_details",
]  # fmt: skip

# The states that need attention come first.
STATES: tuple[State, ...] = (
    State.FAILED, State.STUCK, State.RUNNING, State.RETRYING, State.QUEUED, State.MALFORMED,
    State.SUCCEEDED, State.IGNORED, State.UNHANDLED,
)  # fmt: skip

_ROWS = 12
_LAST_PAGE = 99
# Anonymous visitors can send any number of requests. All get the same cached values.
_FRESH_SECONDS = 1.0
_MAX_CACHED = 256
_MAX_FACTS = 4096

_LONGEST_SHOWN = 256 * 1024
_HUB = "https://huggingface.co/"
# In characters. The Hub allows 96 after the owner.
_LONGEST_NAME = 256
# The paths of repositories on the Hub, by type.
_FOLDERS = {"model": "", "dataset": "datasets/", "space": "spaces/", "bucket": "buckets/"}
_NAME_PART = re.compile(r"[A-Za-z0-9_.-]{1,96}")
_MAX_NAME_PARTS = 2

NOT_FINISHED = "its handlers have not finished yet"
"""Why a Replay is blocked."""

T = TypeVar("T")


class Overview(NamedTuple):
    """The numbers above the list."""

    states: dict[str, int]
    """The number of deliveries per state. The states that need attention come first."""
    rejections: dict[str, int]
    """The number of rejected requests per reason; empty for anonymous visitors."""
    unknown_handlers: dict[str, int]
    """The number of runs per handler that no running app has; empty for anonymous visitors."""


class Links(NamedTuple):
    """Pages on the Hub that an event names. A URL is empty if it cannot be built safely."""

    repo: str = ""
    discussion: str = ""
    number: int = 0
    """The number of the discussion."""


class Row(NamedTuple):
    """A delivery in a list. Fields that the caller may not see are empty."""

    at: datetime
    """When it was received, or replayed."""
    state: str
    event: str = ""
    repo: str = ""
    handlers: str = ""
    id: str = ""
    reason: str = ""
    """Why no handler ran."""
    links: Links = Links()
    is_private: bool = False
    """True if the event and the repository are hidden from the caller."""
    is_replay: bool = False
    """True if the delivery was replayed. Then it is listed before newer ones."""


class Page(NamedTuple):
    """Deliveries, the newest first."""

    rows: tuple[Row, ...]
    number: int
    """The number of the page, from 0."""
    is_last: bool


class Details(NamedTuple):
    """One delivery with its payload and explanations."""

    delivery: Delivery
    links: Links
    payload: Any
    """The body, in the form in which a browser can show it."""
    explanations: tuple[str, ...]
    """One sentence per handler: why it matches, or why not."""
    handlers: tuple[str, ...]
    """The handlers that Replay can run: they matched, or match now."""
    replay_blocked_reason: str
    """Why Replay is not possible; empty if it is."""


class Replayed(NamedTuple):
    """The outcome of a Replay."""

    handlers: tuple[str, ...]
    """The handlers that run again."""
    blocked_reason: str = ""
    """Why no handler runs again."""


class LeaderState(NamedTuple):
    """The process that runs the handlers."""

    is_alive: bool
    pid: int
    since: datetime | None
    """The start of its leadership; None in memory, where only one process exists."""
    code: str | None
    """The version of its code; None in memory."""
    is_this_process: bool


class Activity:
    """The deliveries as plain data, for callers with and without access.

    All methods except `replay` may be called from any thread. No method checks its caller.

    Args:
        store: the store of the deliveries.
        router: the registered handlers.
        webhook_secret: returns the verifier of the webhook's secret.
        wake: notifies the runner that runs are ready.
        guard: checks the admin token; by default that of the environment.
    """

    def __init__(
        self,
        store: DeliveryStore,
        router: Router,
        webhook_secret: Callable[[], Verifier | None],
        wake: Callable[[], object],
        guard: AdminTokenGuard | None = None,
    ) -> None:
        self.guard = guard or AdminTokenGuard(webhook_secret)
        self.sessions = AdminSessions()
        self._store = store
        self._router = router
        self._wake = wake
        self._cache: OrderedDict[object, tuple[float, Any]] = OrderedDict()
        self._facts_cache: OrderedDict[tuple[str, datetime], _Facts] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def store(self) -> DeliveryStore:
        """The store of the deliveries."""
        return self._store

    def overview(self, *, trusted: bool) -> Overview:
        """Count the deliveries.

        Raises:
            StoreError: the store cannot be read now.
        """
        stats = self.stats()
        states: dict[str, int] = {
            state: stats.states[state] for state in STATES if stats.states.get(state)
        }
        if not trusted:
            return Overview(states, {}, {})
        return Overview(states, self.rejections(), self.unknown_handlers())

    def stats(self) -> Stats:
        """Return the numbers of the store.

        Raises:
            StoreError: the store cannot be read now.
        """
        return self._cached("stats", self._store.stats)

    def rejections(self, stats: Stats | None = None) -> dict[str, int]:
        """Count the rejected requests, by reason.

        Args:
            stats: the numbers of the store; by default those of `stats()`.

        Raises:
            StoreError: the store cannot be read now.
        """
        stats = stats or self.stats()
        rejections = {reason: count for reason, count in stats.rejections.items() if count}
        if wrong := sum(self.guard.wrong.values()):
            rejections["admin token wrong"] = wrong
        return rejections

    @property
    def handler_names(self) -> Collection[str]:
        """The names of the handlers of this process."""
        return self._router.handler_names

    def backlog(self) -> Backlog:
        """Describe the runs that wait to start.

        Raises:
            StoreError: the store cannot be read now.
        """
        return self._cached("backlog", self._store.backlog)

    def leader(self) -> LeaderState | None:
        """Look up the process that runs the handlers; None if none does.

        Raises:
            StoreError: the store cannot be read now.
        """
        return self._cached("leader", self._look_up_leader)

    def _look_up_leader(self) -> LeaderState | None:
        own = current_process()
        if not self._store.path:
            return LeaderState(True, own.pid, None, None, True)  # noqa: FBT003 - a named tuple
        leader = self._store.leader()
        if leader is None:
            return None
        is_alive = self._store.is_leader_alive(leader)
        is_own = leader.process == own
        return LeaderState(is_alive, leader.process.pid, leader.since, leader.code, is_own)

    def unknown_handlers(self) -> dict[str, int]:
        """Count the queued runs of handlers that no running app has.

        Raises:
            StoreError: the store cannot be read now.
        """
        return self._cached(
            "unknown handlers", lambda: self._store.unknown_handlers(self._router.handler_names)
        )

    def run_counts(self) -> list[RunCount]:
        """Count the runs by handler and state.

        Raises:
            StoreError: the store cannot be read now.
        """
        return self._cached("run counts", self._store.count_runs)

    def page(
        self,
        state: str | None = None,
        number: int = 0,
        *,
        trusted: bool,
        hide_unhandled: bool = False,
    ) -> Page:
        """List deliveries.

        Args:
            state: list only deliveries in this state.
            number: the number of the page, from 0; limited to the last possible page.
            trusted: True if the caller may see private deliveries.
            hide_unhandled: without `state`, leave out unhandled deliveries.

        Raises:
            StoreError: the store cannot be read now.
        """
        number = min(max(number, 0), _LAST_PAGE)
        states: tuple[str | None, ...] = (state,)
        if state is None and hide_unhandled:
            # One query per state: a filter over all rows could read a million unhandled ones.
            states = tuple(known for known in STATES if known != State.UNHANDLED)
        if trusted:
            return self._page(states, number, self._row)
        return self._cached((states, number), lambda: self._page(states, number, self._public_row))

    def details(self, delivery_id: str) -> Details | None:
        """Look up a delivery; None if the store does not have it.

        Raises:
            StoreError: the store cannot be read now.
        """
        delivery = self._store.get(delivery_id)
        if delivery is None:
            return None
        event = event_of(delivery)
        if event is None:
            return make_details(delivery, None)
        match = self._router.find_match(event)
        names = [handler.name for handler in match.handlers]
        return make_details(delivery, event, match.explain(event), names)

    async def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> Replayed:
        """Run handlers again. Call it on the server's loop: only that loop writes to the store.

        Args:
            delivery_id: the delivery.
            handlers: the names of the handlers; by default all that Replay can run.

        Raises:
            StoreError: the store cannot be read or written now.
        """
        pauses = busy_pauses()
        while True:
            try:
                return self._replay(delivery_id, handlers)
            except BusyError:
                if (pause := next(pauses, None)) is None:
                    raise
            await asyncio.sleep(pause)

    def _replay(self, delivery_id: str, handlers: Sequence[str]) -> Replayed:
        chosen = choose_replay(self.details(delivery_id), handlers)
        if chosen.blocked_reason:
            return chosen
        names = self._store.replay(delivery_id, chosen.handlers)
        if not names:
            return Replayed((), NOT_FINISHED)
        self._wake()
        return Replayed(names)

    def _page(
        self, states: Sequence[str | None], number: int, make: Callable[[Delivery], Row]
    ) -> Page:
        # Pages have numbers, not ids: anonymous visitors see no ids. One row more than a page
        # holds shows if there is a next page.
        most = (number + 1) * _ROWS
        found: dict[str, Delivery] = {}
        for state in states:
            for delivery in self._store.list(state=state, limit=most + 1):
                # A delivery can change its state between two queries. The later one counts.
                found[delivery.id] = delivery
        deliveries = [*found.values()]
        if len(states) > 1:
            deliveries.sort(key=lambda delivery: delivery.received_at, reverse=True)
        rows = tuple(make(delivery) for delivery in deliveries[most - _ROWS : most])
        return Page(rows, number, len(deliveries) <= most or number == _LAST_PAGE)

    def _row(self, delivery: Delivery) -> Row:
        # The state of a single run is the state of the delivery.
        is_single = len(delivery.runs) == 1
        handlers = ", ".join(
            run.handler
            if is_single or run.state == State.SUCCEEDED
            else f"{run.handler}: {run.state}"
            for run in delivery.runs
        )
        return Row(
            shown_at(delivery),
            delivery.state,
            _event_name(delivery),
            delivery.repo or "",
            handlers,
            delivery.id,
            delivery.reason,
            self._facts(delivery).links,
            is_replay=delivery.is_replay,
        )

    def _public_row(self, delivery: Delivery) -> Row:
        hidden = Row(
            shown_at(delivery),
            delivery.state,
            is_private=delivery.state != State.MALFORMED,
            is_replay=delivery.is_replay,
        )
        facts = self._facts(delivery)
        if delivery.repo is None or not facts.is_public:
            return hidden
        # A repository may have become private since.
        newest = self._cached(
            ("newest", delivery.repo), lambda: self._store.list(repo=delivery.repo, limit=1)
        )
        if not newest or not self._facts(newest[0]).is_public:
            return hidden
        return Row(
            shown_at(delivery),
            delivery.state,
            _event_name(delivery),
            delivery.repo,
            links=facts.links,
            is_replay=delivery.is_replay,
        )

    def row_json(self, delivery: Delivery) -> dict[str, Any]:
        """Give a delivery as JSON for a list, with its discussion."""
        # Other events have none, and a long body takes long to read.
        has_one = delivery.scope.startswith("discussion") and delivery.size <= LONGEST_BODY
        discussion = None
        if has_one:
            # The store may be unreadable for a moment. A stream goes on then.
            with suppress(StoreError):
                discussion = self._facts(delivery).discussion
        return {**row_json(delivery), "discussion": discussion}

    def _facts(self, delivery: Delivery) -> _Facts:
        """Read from the body what a list does not have. Without a body nothing is public."""
        key = (delivery.id, delivery.received_at)
        facts = self._facts_cache.get(key)
        if facts is None:
            whole = self._store.get(delivery.id)
            facts = _Facts(False, Links())  # noqa: FBT003 - a named tuple
            # The stored body is another one if the id was received again in between.
            if whole is not None and whole.received_at == delivery.received_at:
                event = event_of(whole)
                repo = event.repo if event is not None else None
                # A repository counts as public only if the body says so.
                is_public = (
                    repo is not None and repo.private is False and repo.name == delivery.repo
                )
                facts = _Facts(is_public, _links_of(event), _discussion_json(event))
            _cache_put(self._facts_cache, self._lock, key, facts, _MAX_FACTS)
        return facts

    def _cached(self, key: object, make: Callable[[], T]) -> T:
        """Compute a value, or return it from the cache if it is fresh."""
        until, value = self._cache.get(key, (0.0, None))
        began = time.monotonic()
        if began >= until:
            value = computed = make()
            ended = time.monotonic()
            # A slow value stays in the cache for longer.
            until = ended + max(_FRESH_SECONDS, 10 * (ended - began))
            _cache_put(self._cache, self._lock, key, (until, value), _MAX_CACHED)
            return computed
        return cast("T", value)


def choose_replay(details: Details | None, handlers: Sequence[str]) -> Replayed:
    """Decide which handlers a Replay runs again.

    Args:
        details: the delivery; None if there is none.
        handlers: the names of the handlers; by default all that Replay can run.
    """
    if details is None:
        return Replayed((), "there is no such delivery")
    if details.replay_blocked_reason:
        return Replayed((), details.replay_blocked_reason)
    for name in handlers:
        if name not in details.handlers:
            return Replayed((), f"`{name}` does not match this delivery")
    matched = tuple(run.handler for run in details.delivery.runs)
    return Replayed(tuple(handlers) or matched or details.handlers)


def make_details(
    delivery: Delivery,
    event: HubEvent | None,
    explanations: Sequence[str] = (),
    matching: Sequence[str] = (),
) -> Details:
    """Describe a delivery.

    Args:
        delivery: the delivery.
        event: its event; None if its body is malformed or dropped.
        explanations: why each handler matches, or why not.
        matching: the names of the handlers that match now.
    """
    names = tuple(dict.fromkeys([*(run.handler for run in delivery.runs), *matching]))
    return Details(
        delivery,
        _links_of(event),
        _payload_of(delivery),
        tuple(explanations),
        names,
        _replay_blocked_reason(delivery, names),
    )


class _Facts(NamedTuple):
    """Facts about the repository of a delivery, read from its body."""

    is_public: bool
    links: Links
    discussion: dict[str, Any] | None = None
    """The number and the title of its discussion, as JSON."""


def _discussion_json(event: HubEvent | None) -> dict[str, Any] | None:
    discussion = event.discussion if event is not None else None
    if discussion is None:
        return None
    return {"num": discussion.num, "title": shorten(discussion.title or "")}


def _event_name(delivery: Delivery) -> str:
    return f"{delivery.scope} {delivery.action}".strip()


def _links_of(event: HubEvent | None) -> Links:
    """Build links to the Hub from validated names. Text of a body never becomes a link as it is."""
    repo = event.repo if event is not None else None
    if repo is None or not repo.name or not _is_repo_name(repo.name):
        return Links()
    web = None if repo.url is None else repo.url.web
    if web is None:
        # Version 2 bodies have no URL.
        folder = _FOLDERS.get(repo.type or "")
        if folder is None:
            return Links()
        web = f"{_HUB}{folder}{repo.name}"
    elif not re.fullmatch(rf"{re.escape(_HUB)}([a-z]+/)?{re.escape(repo.name)}", web):
        return Links()
    discussion = event.discussion if event is not None else None
    number = discussion.num if discussion is not None else None
    if number is None or number < 1:
        return Links(web)
    return Links(web, f"{web}/discussions/{number}", number)


def _is_repo_name(name: str) -> bool:
    # A body of 32 MB can be one name. Matching it would keep the interpreter busy for 40 ms.
    if len(name) > _LONGEST_NAME:
        return False
    parts = name.split("/")
    return len(parts) <= _MAX_NAME_PARTS and all(
        _NAME_PART.fullmatch(part) and part.strip(".") for part in parts
    )


def _replay_blocked_reason(delivery: Delivery, names: Sequence[str]) -> str:
    if delivery.is_open:
        return NOT_FINISHED
    if delivery.body is None:
        return "its body was deleted to free space"
    return "" if names else "no handler matches it"


def _payload_of(delivery: Delivery) -> Any:  # noqa: ANN401 - any JSON
    if delivery.size > _LONGEST_SHOWN:
        return {"(too long to show here)": f"{delivery.size} bytes"}
    return json_safe(body_of(delivery))


def _cache_put(
    cache: OrderedDict[Any, T], lock: threading.Lock, key: object, value: T, most: int
) -> None:
    with lock:
        cache[key] = value
        cache.move_to_end(key)
        while len(cache) > most:
            cache.popitem(last=False)
