"""Access to the payloads and to Replay: the admin token, sessions, and the owner of a Space."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import threading
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Literal

from hubhooks import _environment
from hubhooks._core import Verifier
from hubhooks._logging import get_logger
from hubhooks.errors import ConfigError, SecretMismatchError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import TypeAlias

    TokenCheck: TypeAlias = Literal["right", "wrong", "busy", "off"]

__all__ = [
    "TOKEN_VARIABLE", "AdminSessions", "AdminTokenGuard", "is_cross_site", "is_from_other_origin",
    "is_space_owner",
]  # fmt: skip

_logger = get_logger()

TOKEN_VARIABLE = _environment.ADMIN_TOKEN
_SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 1024
# After `_WRONG_PER_MINUTE` wrong tokens in a minute, responses to further ones are delayed. The
# delay grows by one second for each `_WRONG_PER_SECOND` wrong tokens. It bounds the guesses of one
# connection. `_MAX_WAITING` bounds the memory: most servers open fewer connections than that.
_WRONG_PER_MINUTE = 5
_WRONG_PER_SECOND = 60
_SHORTEST_DELAY = 1.0
_LONGEST_DELAY = 20.0
_MAX_WAITING = 4000

_SESSION_SECONDS = 8 * 60 * 60
_MAX_SESSIONS = 1000

# Headers about the page that made a request. Only the browser sets them.
_ORIGIN_HEADERS = ("sec-fetch-site", "origin", "referer", "host")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class AdminTokenGuard:
    """Checks the admin token. Responses to wrong tokens are delayed; the right one never waits.

    Args:
        webhook_secret: returns the verifier of the webhook's secret. The token must differ from it.
        clock: returns seconds.
        sleep: waits for a number of seconds.
        token: the admin token; by default the environment variable HUBHOOKS_ADMIN_TOKEN.
    """

    def __init__(
        self,
        webhook_secret: Callable[[], Verifier | None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        token: str | None = None,
    ) -> None:
        self.wrong: Counter[int] = Counter()
        """The number of wrong tokens in each of the last minutes."""
        self._webhook_secret = webhook_secret
        self._clock = clock
        self._sleep = sleep
        self._waiting = 0
        self._verifier = None if token is None else _verifier_of(token, webhook_secret())
        self._has_warned = False
        # Several event loops may check tokens at once.
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        """True if an admin token is set.

        Raises:
            ConfigError: HUBHOOKS_ADMIN_TOKEN cannot be used.
        """
        if self._verifier is None and (token := _environment.read(TOKEN_VARIABLE)) is not None:
            if token.strip():
                self._verifier = _verifier_of(token.strip(), self._webhook_secret())
            elif not self._has_warned:
                self._has_warned = True
                what = "%s is empty: no token gives access to payloads and Replay"
                _logger.warning(what, TOKEN_VARIABLE)
        return self._verifier is not None

    def check(self, token: str) -> TokenCheck:
        """Compare a token with the admin token, and count a wrong one.

        Raises:
            ConfigError: HUBHOOKS_ADMIN_TOKEN cannot be used.
        """
        return self._check(token)[0]

    async def check_delayed(self, token: str) -> TokenCheck:
        """Check a token. After many wrong ones, return for a wrong one only after a delay.

        Returns:
            `busy` for a wrong one, without a delay, if too many responses are delayed already.

        Raises:
            ConfigError: HUBHOOKS_ADMIN_TOKEN cannot be used.
        """
        result, delay = self._check(token)
        if not delay:
            return result
        with self._lock:
            if self._waiting >= _MAX_WAITING:
                return "busy"
            self._waiting += 1
        try:
            await self._sleep(delay)
        finally:
            with self._lock:
                self._waiting -= 1
        return result

    def _check(self, token: str) -> tuple[TokenCheck, float]:
        """Check a token, and return the delay of the response in seconds."""
        if not self.is_on:
            return "off", 0
        if self._is_right(token):
            return "right", 0
        minute = int(self._clock() // 60)
        with self._lock:
            self.wrong[minute] += 1
            count = self.wrong[minute]
            # The minute before counts too: the delay must not end with the minute.
            recent = count + self.wrong.get(minute - 1, 0)
            for old in [old for old in self.wrong if old <= minute - 60]:
                del self.wrong[old]
        # At most two lines per minute: wrong tokens must not fill the log.
        if count == 1:
            _logger.warning("rejected an admin token: it is wrong")
        elif count == _WRONG_PER_MINUTE + 1:
            _logger.warning(
                "more than %d wrong admin tokens in a minute: responses to further wrong tokens "
                "are delayed",
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
            "characters that nobody can guess, such as the output of `openssl rand -hex 32`"
        )
        raise ConfigError(msg)
    if webhook_secret is not None:
        try:
            webhook_secret.verify(token)
        except SecretMismatchError:
            pass
        else:
            # A sender of deliveries must not be able to read all others.
            msg = f"{TOKEN_VARIABLE} is the webhook secret: use a different token"
            raise ConfigError(msg)
    return Verifier(token)


class AdminSessions:
    """Sessions of visitors who entered the admin token.

    A key is valid only together with the session it was issued to. Only the browser of that page
    knows the key; other visitors may know the name of the session.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The keys of the dictionary are digests, so that the time of a lookup reveals no key.
        self._sessions: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._lock = threading.Lock()

    def issue(self, session: str) -> str:
        """Make a key for a session."""
        key = secrets.token_urlsafe(32)
        with self._lock:
            self._sessions[_digest(key)] = (_digest(session), self._clock() + _SESSION_SECONDS)
            while len(self._sessions) > _MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return key

    def is_valid(self, key: str, session: str) -> bool:
        """Check that the key was issued to the session, at most eight hours ago."""
        owner, until = self._sessions.get(_digest(key), (b"", 0.0))
        return hmac.compare_digest(owner, _digest(session)) and self._clock() < until

    def revoke(self, key: str) -> None:
        """Make a key invalid."""
        with self._lock:
            self._sessions.pop(_digest(key), None)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def is_space_owner(
    session: Mapping[str, Any] | None,
    space_id: str | None,
    *,
    is_signed: bool,
    now: float | None = None,
) -> bool:
    """True if a Gradio session belongs to the owner of the Space, logged in with the Hub.

    Args:
        session: the contents of the session cookie.
        space_id: the Space of the app. Outside a Space, Gradio only simulates the login.
        is_signed: True if the cookie is signed with the secret of the Space's OAuth app. Without
            that secret, Gradio signs with a key that is public.
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
    """True if a page of another origin made the request, with the user's cookies.

    Browsers send Gradio's cookies from other ports and sibling domains too, and its CORS headers
    let such a page read the response. A page can set `X-Forwarded-Host`, so only headers that the
    browser sets count. Browsers send `Sec-Fetch-Site` to https and localhost only.

    Args:
        headers: the headers of the request; a repeated header is an item of its own.
    """
    return is_from_other_origin(headers.items())


def is_from_other_origin(headers: Iterable[tuple[str, str]]) -> bool:
    """True if a page of another origin made the request; see `is_cross_site`.

    Args:
        headers: the names and values of the headers.
    """
    values: dict[str, str] = {}
    for name, value in headers:
        # No browser repeats these headers.
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
    """True if an origin is that of a `Host` header. Both may omit the default port."""
    scheme, _, authority = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port is None or not host:
        return False
    return authority.removesuffix(port) == host.lower().removesuffix(port)
