"""The deliveries as plain data, for the activity page and the HTTP API, and access to them.

An anonymous visitor sees the time and the state of each delivery, and the event and the repository
if the repository is public. Everything else, and Replay, needs access.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from hubhooks._core import Verifier
from hubhooks._delivery_json import body_of, event_of, showable
from hubhooks._logging import get_logger
from hubhooks._process import current_process
from hubhooks.deliveries import BUSY_PAUSE, BUSY_SECONDS
from hubhooks.errors import BusyError, ConfigError, SecretMismatchError
from hubhooks.models import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from datetime import datetime
    from typing import TypeAlias

    from hubhooks._core import HubEvent
    from hubhooks.deliveries import Backlog, Log
    from hubhooks.models import Delivery, Stats
    from hubhooks.routing import Router

    Judgement: TypeAlias = Literal["right", "wrong", "busy", "off"]

__all__ = [
    "STATES", "TOKEN_VARIABLE", "Activity", "Details", "Gate", "LeaderState", "Overview", "Page",
    "Replayed", "Row", "Tickets", "is_cross_site", "is_space_owner",
]  # fmt: skip

_log = get_logger()

# The one that asks for attention first comes first.
STATES: tuple[State, ...] = (
    State.FAILED, State.STUCK, State.RUNNING, State.RETRYING, State.QUEUED, State.MALFORMED,
    State.SUCCEEDED, State.IGNORED, State.UNHANDLED,
)  # fmt: skip

TOKEN_VARIABLE = "HUBHOOKS_ADMIN_TOKEN"  # noqa: S105 - its name, not itself
_SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 1024
# Responses to wrong tokens are delayed after some in a minute. The delay grows with their number,
# by one second for each `_WRONG_PER_SECOND` tokens. It bounds the guesses of one connection, and
# `_MOST_WAITING` bounds the memory. Most servers open fewer connections than that.
_WRONG_PER_MINUTE = 5
_WRONG_PER_SECOND = 60
_SHORTEST_DELAY = 1.0
_LONGEST_DELAY = 20.0
_MOST_WAITING = 4000

_TICKET_SECONDS = 8 * 60 * 60
_MOST_TICKETS = 1000

# Headers about the page that made a request. Only the browser sets them.
_ORIGIN_HEADERS = ("sec-fetch-site", "origin", "referer", "host")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

_ROWS = 12
_LAST_PAGE = 99
# Anonymous visitors may ask as often as they like, and all get the same response.
_FRESH_SECONDS = 1.0
_MOST_RECENT = 256
_MOST_JUDGED = 4096

_LONGEST_SHOWN = 256 * 1024
_LONGEST_URL = 2048

T = TypeVar("T")


# ---- access ------------------------------------------------------------------------------------


class Gate:
    """Judges the admin token. Wrong tokens are slowed down; the right one never waits.

    Args:
        webhook_secret: gives what judges the webhook's secret, which is not to be the same.
        clock: gives seconds.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        webhook_secret: Callable[[], Verifier | None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.wrong: Counter[int] = Counter()
        """How many were wrong in each of the last minutes."""
        self._webhook_secret = webhook_secret
        self._clock = clock
        self._sleep = sleep
        self._waiting = 0
        self._verifier: Verifier | None = None
        self._has_warned = False
        # Several event loops may ask at once.
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        """Whether there is a token that opens it.

        Raises:
            ConfigError: HUBHOOKS_ADMIN_TOKEN cannot be used.
        """
        if self._verifier is None and (token := os.environ.get(TOKEN_VARIABLE)) is not None:
            if token.strip():
                self._verifier = _verifier_of(token.strip(), self._webhook_secret())
            elif not self._has_warned:
                self._has_warned = True
                what = "%s is set, but empty, so no token opens payloads and Replay"
                _log.warning(what, TOKEN_VARIABLE)
        return self._verifier is not None

    def judge(self, token: str) -> Judgement:
        """Compare a token with the right one, and count a wrong one.

        Raises:
            ConfigError: HUBHOOKS_ADMIN_TOKEN cannot be used.
        """
        return self._judge(token)[0]

    async def judge_slowly(self, token: str) -> Judgement:
        """Judge a token, and wait before a wrong one is answered if many were wrong lately.

        Returns:
            `busy` for a wrong one, at once, if too many answers wait already.

        Raises:
            ConfigError: HUBHOOKS_ADMIN_TOKEN cannot be used.
        """
        judgement, delay = self._judge(token)
        if not delay:
            return judgement
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                return "busy"
            self._waiting += 1
        try:
            await self._sleep(delay)
        finally:
            with self._lock:
                self._waiting -= 1
        return judgement

    def _judge(self, token: str) -> tuple[Judgement, float]:
        """Judge a token, and give the seconds by which the response is delayed."""
        if not self.is_on:
            return "off", 0
        if self._is_right(token):
            return "right", 0
        minute = int(self._clock() // 60)
        with self._lock:
            self.wrong[minute] += 1
            count = self.wrong[minute]
            # Also those of the minute before, so that the delay does not end with the minute.
            recent = count + self.wrong.get(minute - 1, 0)
            for old in [old for old in self.wrong if old <= minute - 60]:
                del self.wrong[old]
        # One line each a minute, so that nobody can fill the log.
        if count == 1:
            _log.warning("refused an admin token: it is wrong")
        elif count == _WRONG_PER_MINUTE + 1:
            _log.warning(
                "more than %d admin tokens were wrong in a minute: further wrong ones are answered "
                "late",
                _WRONG_PER_MINUTE,
            )
        if recent <= _WRONG_PER_MINUTE:
            return "wrong", 0
        delay = recent / _WRONG_PER_SECOND
        return "wrong", min(max(delay, _SHORTEST_DELAY), _LONGEST_DELAY)

    def _is_right(self, token: str) -> bool:
        if self._verifier is None or len(token) > _LONGEST_TOKEN:
            return False
        try:
            self._verifier.verify(token.strip().encode("utf-8", "replace"))
        except SecretMismatchError:
            return False
        return True


def _verifier_of(token: str, webhook_secret: Verifier | None) -> Verifier:
    is_printable = token.isascii() and token.isprintable()
    if not is_printable or not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN:
        msg = (
            f"{TOKEN_VARIABLE} must be {_SHORTEST_TOKEN} to {_LONGEST_TOKEN} printable ASCII "
            "characters that nobody can guess, such as what `openssl rand -hex 32` prints"
        )
        raise ConfigError(msg)
    if webhook_secret is not None:
        try:
            webhook_secret.verify(token)
        except SecretMismatchError:
            pass
        else:
            # Whoever may send deliveries should not be able to read all others.
            msg = f"{TOKEN_VARIABLE} is the webhook's secret: it must be another word"
            raise ConfigError(msg)
    return Verifier(token)


class Tickets:
    """Remembers who proved to know the admin token.

    A ticket is worth something only in the session it was issued to, and a session nothing
    without its ticket: the one is known to a page's browser, the other is asked for by anybody.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By digest, so that looking one up tells nothing by the time it takes.
        self._sessions: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._lock = threading.Lock()

    def issue(self, session: str) -> str:
        """Make a ticket for a session."""
        ticket = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[_digest(ticket)] = (_digest(session), self._clock() + _TICKET_SECONDS)
            while len(self._sessions) > _MOST_TICKETS:
                self._sessions.popitem(last=False)
        return ticket

    def admits(self, ticket: str, session: str) -> bool:
        """Whether the ticket was issued to the session, not too long ago."""
        owner, until = self._sessions.get(_digest(ticket), (b"", 0.0))
        return hmac.compare_digest(owner, _digest(session)) and self._clock() < until

    def take_back(self, ticket: str) -> None:
        """Make a ticket worthless."""
        with self._lock:
            self._sessions.pop(_digest(ticket), None)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def is_space_owner(
    session: Mapping[str, Any] | None,
    space_id: str | None,
    *,
    is_signed: bool,
    now: float | None = None,
) -> bool:
    """Whether a Gradio session belongs to the owner of the Space, logged in with the Hub.

    Args:
        session: what the session cookie says.
        space_id: the Space, where the app runs in one: elsewhere Gradio only pretends a login.
        is_signed: whether the cookie is signed with the secret of the Space's OAuth app: without
            one Gradio signs with a key that everybody knows.
        now: seconds since 1970.
    """
    info = (session or {}).get("oauth_info")
    if not space_id or not is_signed or not isinstance(info, dict):
        return False
    ends_at = info.get("expires_at")
    user = info.get("userinfo")
    if not isinstance(ends_at, int | float) or ends_at < (time.time() if now is None else now):
        return False
    name = user.get("preferred_username") if isinstance(user, dict) else None
    owner, slash, _ = space_id.partition("/")
    return bool(owner and slash) and name == owner


def is_cross_site(headers: Mapping[str, str]) -> bool:
    """Whether a page of another origin made the request, with the user's cookies.

    Browsers send Gradio's cookies from other ports and sibling domains too, and its CORS headers
    let such a page read the response. A page can set `X-Forwarded-Host`, so only headers that the
    browser sets count. Browsers send `Sec-Fetch-Site` to https and localhost only.

    Args:
        headers: those of the request; a repeated one is an item of its own.
    """
    values: dict[str, str] = {}
    for name, value in headers.items():
        # No browser repeats these.
        if (key := name.lower()) in _ORIGIN_HEADERS and values.setdefault(key, value) != value:
            return True
    site, origin, referer, host = (values.get(name, "") for name in _ORIGIN_HEADERS)
    if site:
        return site not in {"same-origin", "none"}
    if origin:
        return not _is_origin_of(origin, host)
    # Programs send neither header; a cross-origin POST of a browser has `Origin`.
    return bool(referer) and not _is_origin_of("/".join(referer.split("/", 3)[:3]), host)


def _is_origin_of(origin: str, host: str) -> bool:
    """Whether an origin is that of a `Host` header; the default port may be left out in both."""
    scheme, _, authority = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port is None or not host:
        return False
    return authority.removesuffix(port) == host.lower().removesuffix(port)


# ---- contents ----------------------------------------------------------------------------------


class Overview(NamedTuple):
    """The deliveries in figures."""

    states: dict[str, int]
    """How many are in each state; the one that asks for attention first comes first."""
    rejections: dict[str, int]
    """How often requests were refused, by reason; empty for anonymous visitors."""
    unknown_handlers: dict[str, int]
    """How many runs wait for handlers that no running app has; empty for anonymous visitors."""


class Row(NamedTuple):
    """A delivery in a list. Fields that the caller may not see are empty."""

    received_at: datetime
    state: str
    event: str = ""
    repo: str = ""
    handlers: str = ""
    id: str = ""


class Page(NamedTuple):
    """Some deliveries, the newest first."""

    rows: tuple[Row, ...]
    number: int
    """Which page it is, from 0."""
    is_last: bool


class Details(NamedTuple):
    """All that is known of a delivery."""

    delivery: Delivery
    url: str
    """Of the repository on the Hub."""
    payload: Any
    """What the body says, as far as a browser can show it."""
    explanations: tuple[str, ...]
    """Why each handler hears it, or why not."""
    handlers: tuple[str, ...]
    """Those it can be replayed to: they heard it, or would now."""
    objection: str
    """Why it cannot be replayed; empty if it can."""


class Replayed(NamedTuple):
    """What came of a Replay."""

    handlers: tuple[str, ...]
    """Those that run again."""
    objection: str = ""
    """Why none does."""


class LeaderState(NamedTuple):
    """The process that runs the handlers."""

    is_alive: bool
    pid: int
    since: datetime | None
    """When it took the lead; None in memory, where no other process can."""
    code: str | None
    """The version of its code; None in memory."""
    is_this_process: bool


class Activity:
    """The deliveries, as they may be shown.

    Everything but `replay` may be called from any thread; nothing asks who calls.

    Args:
        log: where they are kept.
        router: knows the handlers.
        webhook_secret: gives what judges the webhook's secret.
        wake: lets the runner know that there is something to run.
    """

    def __init__(
        self,
        log: Log,
        router: Router,
        webhook_secret: Callable[[], Verifier | None],
        wake: Callable[[], object],
    ) -> None:
        self.gate = Gate(webhook_secret)
        self.tickets = Tickets()
        self._log = log
        self._router = router
        self._wake = wake
        self._recent: OrderedDict[object, tuple[float, Any]] = OrderedDict()
        self._judged: OrderedDict[tuple[str, datetime], bool] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def log(self) -> Log:
        """Where they are kept."""
        return self._log

    def overview(self, *, trusted: bool) -> Overview:
        """Count the deliveries.

        Raises:
            StoreError: the log cannot be read just now.
        """
        stats = self.stats()
        states: dict[str, int] = {
            state: stats.states[state] for state in STATES if stats.states.get(state)
        }
        if not trusted:
            return Overview(states, {}, {})
        return Overview(states, self.rejections(), self.unknown_handlers())

    def stats(self) -> Stats:
        """Give the log in figures.

        Raises:
            StoreError: the log cannot be read just now.
        """
        return self._recently("stats", self._log.stats)

    def rejections(self) -> dict[str, int]:
        """Count the refused requests, by reason.

        Raises:
            StoreError: the log cannot be read just now.
        """
        rejections = {reason: count for reason, count in self.stats().rejections.items() if count}
        if wrong := sum(self.gate.wrong.values()):
            rejections["admin token wrong"] = wrong
        return rejections

    @property
    def handler_names(self) -> Collection[str]:
        """The names of the handlers of this process."""
        return self._router.handler_names

    def backlog(self) -> Backlog:
        """Describe the runs that wait to start.

        Raises:
            StoreError: the log cannot be read just now.
        """
        return self._recently("backlog", self._log.backlog)

    def leader(self) -> LeaderState | None:
        """Look up the process that runs the handlers; None if none does.

        Raises:
            StoreError: the log cannot be read just now.
        """
        return self._recently("leader", self._look_up_leader)

    def _look_up_leader(self) -> LeaderState | None:
        own = current_process()
        if not self._log.is_durable:
            return LeaderState(True, own.pid, None, None, True)  # noqa: FBT003 - a named tuple
        leader = self._log.leader()
        if leader is None:
            return None
        is_alive = self._log.is_leader_alive(leader)
        is_own = leader.process == own
        return LeaderState(is_alive, leader.process.pid, leader.since, leader.code, is_own)

    def unknown_handlers(self) -> dict[str, int]:
        """Count the runs that wait for handlers which no running app has.

        Raises:
            StoreError: the log cannot be read just now.
        """
        return self._recently(
            "unknown handlers", lambda: self._log.unknown_handlers(self._router.handler_names)
        )

    def page(self, state: str | None = None, number: int = 0, *, trusted: bool) -> Page:
        """List deliveries.

        Args:
            state: only those in this state.
            number: which page, from 0; beyond the last one that there may be, that one.
            trusted: whether all of them may be seen.

        Raises:
            StoreError: the log cannot be read just now.
        """
        number = min(max(number, 0), _LAST_PAGE)
        if trusted:
            return self._page(state, number, _row)
        return self._recently((state, number), lambda: self._page(state, number, self._public_row))

    def details(self, delivery_id: str) -> Details | None:
        """Look up all that is known of a delivery; None if there is no such one.

        Raises:
            StoreError: the log cannot be read just now.
        """
        delivery = self._log.get(delivery_id)
        if delivery is None:
            return None
        event = event_of(delivery)
        heard = [run.handler for run in delivery.runs]
        explanations: tuple[str, ...] = ()
        if event is not None:
            match = self._router.find_match(event)
            explanations = tuple(match.explain(event))
            heard += [handler.name for handler in match.handlers]
        names = tuple(dict.fromkeys(heard))
        return Details(
            delivery,
            _hub_url(event),
            _payload_of(delivery),
            explanations,
            names,
            _objection(delivery, names),
        )

    async def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> Replayed:
        """Run handlers again; to be called on the server's loop, which the log is written from.

        Args:
            delivery_id: the delivery.
            handlers: their names; none for all that it can be replayed to.

        Raises:
            StoreError: the log cannot be read or written just now.
        """
        give_up = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._replay(delivery_id, handlers)
            except BusyError:
                if time.monotonic() >= give_up:
                    raise
            await asyncio.sleep(BUSY_PAUSE)

    def _replay(self, delivery_id: str, handlers: Sequence[str]) -> Replayed:
        details = self.details(delivery_id)
        if details is None:
            return Replayed((), "there is no such delivery")
        if details.objection:
            return Replayed((), details.objection)
        for name in handlers:
            if name not in details.handlers:
                return Replayed((), f"`{name}` does not match this delivery")
        heard = tuple(run.handler for run in details.delivery.runs)
        names = self._log.replay(delivery_id, tuple(handlers) or heard or details.handlers)
        if not names:
            return Replayed((), "it is being handled already")
        self._wake()
        return Replayed(names)

    def _page(self, state: str | None, number: int, make: Callable[[Delivery], Row]) -> Page:
        # By number, so that who looks needs no ids. One more than is shown tells whether there is
        # a next page.
        most = (number + 1) * _ROWS
        deliveries = self._log.list(state=state, limit=most + 1)
        rows = tuple(make(delivery) for delivery in deliveries[most - _ROWS : most])
        return Page(rows, number, len(deliveries) <= most or number == _LAST_PAGE)

    def _public_row(self, delivery: Delivery) -> Row:
        bare = Row(delivery.received_at, delivery.state)
        if delivery.repo is None or not self._is_public(delivery):
            return bare
        # A repository may have become private since.
        newest = self._recently(
            ("newest", delivery.repo), lambda: self._log.list(repo=delivery.repo, limit=1)
        )
        if not newest or not self._is_public(newest[0]):
            return bare
        return bare._replace(event=_event_name(delivery), repo=delivery.repo)

    def _is_public(self, delivery: Delivery) -> bool:
        """Whether the body says that the repository is public; what it does not say is not."""
        key = (delivery.id, delivery.received_at)
        found = self._judged.get(key)
        if found is None:
            whole = self._log.get(delivery.id)
            repo = None
            # Another one by now, if it came again.
            if whole is not None and whole.received_at == delivery.received_at:
                event = event_of(whole)
                repo = event.repo if event is not None else None
            found = repo is not None and repo.private is False and repo.name == delivery.repo
            _put(self._judged, self._lock, key, found, _MOST_JUDGED)
        return found

    def _recently(self, key: object, make: Callable[[], T]) -> T:
        """Make something, unless it was made a moment ago."""
        until, value = self._recent.get(key, (0.0, None))
        began = time.monotonic()
        if began >= until:
            value = made = make()
            ended = time.monotonic()
            # What takes long is made seldom.
            until = ended + max(_FRESH_SECONDS, 10 * (ended - began))
            _put(self._recent, self._lock, key, (until, value), _MOST_RECENT)
            return made
        return cast("T", value)


def _row(delivery: Delivery) -> Row:
    # One handler's state is the delivery's.
    is_plain = len(delivery.runs) == 1
    handlers = ", ".join(
        run.handler if is_plain or run.state == State.SUCCEEDED else f"{run.handler}: {run.state}"
        for run in delivery.runs
    )
    event = _event_name(delivery)
    return Row(
        delivery.received_at, delivery.state, event, delivery.repo or "", handlers, delivery.id
    )


def _event_name(delivery: Delivery) -> str:
    return f"{delivery.scope} {delivery.action}".strip()


def _hub_url(event: HubEvent | None) -> str:
    url = event.repo.url if event is not None and event.repo is not None else None
    web = "" if url is None else url.web
    is_of_hub = web.startswith("https://huggingface.co/") and len(web) <= _LONGEST_URL
    return web if is_of_hub else ""


def _objection(delivery: Delivery, names: Sequence[str]) -> str:
    if delivery.is_open:
        return "it is being handled already"
    if delivery.body is None:
        return "its body was dropped to make room for newer ones"
    return "" if names else "no handler heard it, or would now"


def _payload_of(delivery: Delivery) -> Any:  # noqa: ANN401 - any JSON
    if delivery.size > _LONGEST_SHOWN:
        return {"(too long to be shown here)": f"{delivery.size} bytes"}
    return showable(body_of(delivery))


def _put(  # a cache of ours is small, and an entry more or less harms nobody
    cache: OrderedDict[Any, T], lock: threading.Lock, key: object, value: T, most: int
) -> None:
    with lock:
        cache[key] = value
        cache.move_to_end(key)
        while len(cache) > most:
            cache.popitem(last=False)
