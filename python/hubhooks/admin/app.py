"""The admin page and its API as an ASGI app, for `hooks.admin` and for `hubhooks dev`."""

from __future__ import annotations

import asyncio
import re
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from hubhooks._logging import get_logger
from hubhooks.admin.access import TOKEN_VARIABLE, is_from_other_origin
from hubhooks.admin.api import AdminApi
from hubhooks.admin.handlers_json import explain_json, handlers_json
from hubhooks.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hubhooks._http.app import WebhookApp
    from hubhooks._http.types import Receive, Scope, Send
    from hubhooks.admin.api import SendRequest, Source
    from hubhooks.admin.queries import Activity, Details, Replayed
    from hubhooks.routing import Router

__all__ = ["AdminApp", "AppSource", "check_origin", "security_headers"]

_logger = get_logger()

_PAGE = resources.files("hubhooks") / "page"
_INDEX = "index.html"
_API = "api/"
# No name of a page file begins with a dot.
_is_name = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*").fullmatch
_TYPES = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_WRONG_HOST = 421
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types lit-html"
)
_HEADERS = (
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
_NO_TOKEN = (
    f"the admin page is closed: set {TOKEN_VARIABLE} to a random word of at least 16 characters"
)


def security_headers() -> list[tuple[bytes, bytes]]:
    """Return the headers of each response of the page and of its API."""
    return [*_HEADERS]


def check_origin(scope: Scope, *, local_only: bool) -> int:
    """Check that no page of another origin made a request to the API.

    `X-Forwarded-Host` does not count: a page of another origin can set it.

    Args:
        scope: the scope of the request.
        local_only: require a `Host` that names this machine. A hostile name server can let any
            other name point to it.

    Returns:
        0, or the status of the rejection: 421 for a `Host` of another machine, 403 for a page of
        another origin.
    """
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
    ]
    if local_only and not _is_local([value for name, value in headers if name == "host"]):
        return _WRONG_HOST
    return 403 if is_from_other_origin(headers) else 0


def _is_local(hosts: Sequence[str]) -> bool:
    if len(hosts) != 1:
        return False
    host, colon, port = hosts[0].lower().rpartition(":")
    if not colon or not port.isdecimal():
        host = hosts[0].lower()
    return host in _LOCAL_HOSTS


class AdminApp:
    """An ASGI app with the page at its root and the API below `api/`.

    Args:
        source: the app or the store.
        local_only: serve only requests whose `Host` names this machine.
    """

    def __init__(self, source: Source, *, local_only: bool = False) -> None:
        self.api = AdminApi(source)
        self._source = source
        self._local_only = local_only
        # The last logged reason why the page is closed.
        self._logged_reason = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind == "http":
            await self._serve(scope, receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        elif kind == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            msg = f"hubhooks does not serve ASGI scopes of type `{kind}`, only `http`"
            raise ValueError(msg)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (status := self._closed_status()) is not None:
            await _send(send, status)
            return
        path, is_root = _relative_path(scope)
        rejected = check_origin(scope, local_only=self._local_only)
        if rejected == _WRONG_HOST:
            await _send(send, rejected)
            return
        if is_root:
            # Without the slash, the relative URLs of the page would lead elsewhere.
            name = scope["path"].rpartition("/")[2]
            location = quote(name).encode() + b"/"
            await _send(send, 308, headers=[(b"location", location)])
            return
        if path.startswith(_API):
            if rejected:
                await _send(send, rejected)
                return
            api_path = path.removeprefix(_API)
            await self.api.serve(api_path, scope, receive, send, security_headers())
            return
        if scope["method"] not in {"GET", "HEAD"}:
            await _send(send, 405, headers=[(b"allow", b"GET, HEAD")])
        elif (found := await asyncio.to_thread(_read_page_file, path or _INDEX)) is None:
            await _send(send, 404)
        else:
            content, content_type = found
            is_head = scope["method"] == "HEAD"
            await _send(send, 200, content, [(b"content-type", content_type)], is_head=is_head)

    def _closed_status(self) -> int | None:
        """Return the status of each response if no admin token can be used."""
        try:
            if self._source.activity.guard.is_on:
                return None
            status, reason = 404, _NO_TOKEN
        except ConfigError as error:
            status, reason = 503, f"the admin page is closed: {error}"
        if reason != self._logged_reason:
            self._logged_reason = reason
            _logger.warning("%s", reason)
        return status


def _relative_path(scope: Scope) -> tuple[str, bool]:
    """Return the percent-encoded path below the mount, and whether its first slash is missing."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    # A proxy may remove its prefix from the path, while the app has it in `root_path`.
    prefix = scope.get("app_root_path", "").rstrip("/")
    for mount in (root, root.removeprefix(prefix)):
        if mount and path == mount:
            return "", True
        if mount and path.startswith(f"{mount}/"):
            path = path.removeprefix(mount)
            break
    path = path.removeprefix("/")
    # The raw path, if the server has it: an id may contain a slash. It may have the mount or not.
    raw = (scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1").split("/")
    for start in range(len(raw)):
        tail = "/".join(raw[start:])
        if unquote(tail) == path:
            return tail, False
    return quote(path), False


def _read_page_file(path: str) -> tuple[bytes, bytes] | None:
    """Return the content and the type of a file of the page; None if there is none."""
    parts = path.split("/")
    content_type = _TYPES.get(parts[-1].rpartition(".")[2])
    if content_type is None or not all(map(_is_name, parts)):
        return None
    file = _PAGE
    for part in parts:
        file /= part
    try:
        return file.read_bytes(), content_type
    except OSError:
        return None


async def _send(
    send: Send,
    status: int,
    body: bytes = b"",
    headers: Sequence[tuple[bytes, bytes]] = (),
    *,
    is_head: bool = False,
) -> None:
    length = (b"content-length", b"%d" % len(body))
    start = [length, *headers, *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": b"" if is_head else body})


class AppSource:
    """The `Source` of an app in this process.

    Args:
        router: the handlers of the app.
        get_activity: returns the deliveries.
        get_app: returns the app that receives the deliveries. The environment is read then.
    """

    is_dev = False

    def __init__(
        self,
        router: Router,
        get_activity: Callable[[], Activity],
        get_app: Callable[[], WebhookApp],
    ) -> None:
        self._router = router
        self._get_activity = get_activity
        self._get_app = get_app

    @property
    def activity(self) -> Activity:
        """Reads the store, and checks the admin token."""
        return self._get_activity()

    def start(self) -> None:
        """Start the app if nothing started it before: Starlette does not start a mounted app."""
        self._get_app().start_if_new()

    def app(self) -> dict[str, Any]:
        """Return the state of the app as JSON."""
        return {"mode": "admin"}

    async def handlers(self) -> list[dict[str, Any]]:
        """Return the handlers as JSON."""
        return handlers_json(self._router)

    async def explain(self, body: bytes) -> dict[str, Any]:
        """Explain which handlers match a body."""
        return await asyncio.to_thread(explain_json, self._router, body)

    async def details(self, delivery_id: str) -> Details | None:
        """Look up a delivery."""
        return await asyncio.to_thread(self.activity.details, delivery_id)

    async def replay(self, delivery_id: str, handlers: Sequence[str]) -> Replayed:
        """Run handlers of a delivery again."""
        if reason := await self.not_ready_reason():
            raise StoreError(reason)
        return await self.activity.replay(delivery_id, handlers)

    async def not_ready_reason(self) -> str:
        """Return why a delivery would not be stored now; empty if it would."""
        return await self._get_app().not_ready_reason()

    async def send(self, request: SendRequest) -> list[dict[str, Any]]:  # noqa: ARG002 - of `Source`
        """Send nothing: an app in production receives deliveries of the Hub only."""
        return []
