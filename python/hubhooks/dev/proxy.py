"""Forwards requests and websockets to the app on its private port."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from hubhooks.admin.app import security_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hubhooks._http.types import Receive, Scope, Send

__all__ = ["Proxy", "send_json"]

HOLD_SECONDS = 10.0
"""A request waits so long for an app that restarts."""

_RETRY_SECONDS = 0.05
_HOST = "127.0.0.1"
# They belong to one connection (RFC 9110, 7.6.1). uvicorn answers `Expect` itself.
_HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
    b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect",
})  # fmt: skip
_PAGE = b"/_hubhooks/"
# Close codes of websockets (RFC 6455, 7.4.1). No endpoint sends `_ABNORMAL`.
_NORMAL, _ABNORMAL, _ERROR, _TRY_LATER = 1000, 1006, 1011, 1013
_NOT_RUNNING = "the app is not running: look at the terminal or the page of `hubhooks dev`"
_BROKE_OFF = "the app closed the connection before its response: it ended, or the body is too large"


class _Apps(Protocol):
    """What the proxy asks the supervisor."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the webhooks."""
        ...

    async def wait_for_port(self, seconds: float) -> int | None:
        """Wait for a running app, and return its port; None if there is none in time."""
        ...


class Proxy:
    """An ASGI app that forwards everything to the running app.

    Args:
        apps: knows the running app.
    """

    def __init__(self, apps: _Apps) -> None:
        self._apps = apps
        # A new connection for each request: a kept one may be closed just now, and then nobody
        # knows if the app received the request.
        self._client = httpx.AsyncClient(
            trust_env=False,
            timeout=None,  # noqa: S113 - the client decides how long it waits
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one connection."""
        if scope["type"] == "websocket":
            await self._forward_websocket(scope, receive, send)
        elif self._is_from_browser(scope):
            # Without the token: everyone can send this request.
            headers = [(b"location", _PAGE), (b"content-length", b"0"), *security_headers()]
            await send({"type": "http.response.start", "status": 307, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._forward(scope, receive, send)

    def _is_from_browser(self, scope: Scope) -> bool:
        """Return whether somebody opened the webhook's URL in a browser."""
        return scope["method"] == "GET" and self._is_webhook(scope) and _accepts_html(scope)

    def _is_webhook(self, scope: Scope) -> bool:
        path = scope["path"].rstrip("/") or "/"
        return path in {each.rstrip("/") or "/" for each in self._apps.paths}

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(receive, is_kept=self._is_webhook(scope) and _has_id(scope))
        loop = asyncio.get_running_loop()
        give_up = loop.time() + HOLD_SECONDS
        response: httpx.Response | None = None
        while response is None:
            port = await self._apps.wait_for_port(give_up - loop.time())
            if port is None:
                await send_json(send, 503, {"reason": _NOT_RUNNING}, retry_after=True)
                return
            try:
                response = await self._client.send(_request(scope, port, body), stream=True)
            except httpx.InvalidURL:
                # For example, the `*` of OPTIONS.
                await send_json(send, 400, {"reason": "the app cannot get this URL"})
                return
            except httpx.ConnectError:
                # Nothing was sent. The app ends, or ended: wait for the next one.
                if loop.time() > give_up:
                    await send_json(send, 503, {"reason": _NOT_RUNNING}, retry_after=True)
                    return
                await asyncio.sleep(_RETRY_SECONDS)
            except _ClientGoneError:
                return
            except httpx.HTTPError:
                if not body.is_kept or loop.time() > give_up:
                    await send_json(send, 503, {"reason": _BROKE_OFF}, retry_after=True)
                    return
                # Like a retry of the Hub: a stored delivery is not run a second time.
                await asyncio.sleep(_RETRY_SECONDS)
        copying = asyncio.ensure_future(_copy_response(response, send))
        leaving = asyncio.ensure_future(body.wait_for_disconnect())
        try:
            await asyncio.wait({copying, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not copying.done():
                copying.cancel()
            with suppress(httpx.HTTPError, asyncio.CancelledError):
                await copying
            await response.aclose()

    async def _forward_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        port = await self._apps.wait_for_port(HOLD_SECONDS)
        if port is None:
            await send({"type": "websocket.close", "code": _TRY_LATER})
            return
        skipped = {b"host", b"sec-websocket-key", b"sec-websocket-version",
                   b"sec-websocket-extensions", b"sec-websocket-protocol"}  # fmt: skip
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in scope["headers"]
            if name not in skipped | _HOP_BY_HOP
        ]
        uri = f"ws://{_HOST}:{port}{_raw_path(scope).decode('latin-1')}"
        try:
            async with connect(
                uri,
                additional_headers=headers,
                subprotocols=scope.get("subprotocols") or None,
                proxy=None,
                user_agent_header=None,
                max_size=None,
                open_timeout=HOLD_SECONDS,
            ) as upstream:
                accepted = {"type": "websocket.accept", "subprotocol": upstream.subprotocol}
                await send(accepted)
                up = asyncio.ensure_future(_copy_up(receive, upstream))
                down = asyncio.ensure_future(_copy_down(upstream, send))
                _, pending = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
                for task in pending:
                    task.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        except (OSError, WebSocketException):
            await send({"type": "websocket.close", "code": _ERROR})


def _has_id(scope: Scope) -> bool:
    return any(name == b"webhook-id" for name, _ in scope["headers"])


def _accepts_html(scope: Scope) -> bool:
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


class _ClientGoneError(Exception):
    """The client closed its connection before the end of its request."""


class _Body:
    """The body of a request, as it arrives.

    Args:
        receive: ASGI's function that returns the body.
        is_kept: keep it, so that the request can be sent again to the next process of the app.
    """

    def __init__(self, receive: Receive, *, is_kept: bool) -> None:
        self.is_kept = is_kept
        self._receive = receive
        self._kept: list[bytes] = []
        self._is_over = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in list(self._kept):
            yield chunk
        while not self._is_over:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientGoneError
            self._is_over = not message.get("more_body", False)
            if chunk := message.get("body", b""):
                if self.is_kept:
                    self._kept.append(chunk)
                yield chunk

    async def wait_for_disconnect(self) -> None:
        """Return once the client closed its connection."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return


def _request(scope: Scope, port: int, body: _Body) -> httpx.Request:
    headers = [(name, value) for name, value in scope["headers"] if name not in _HOP_BY_HOP]
    url = httpx.URL(scheme="http", host=_HOST, port=port, raw_path=_raw_path(scope))
    names = {name for name, _ in scope["headers"]}
    has_body = not names.isdisjoint((b"content-length", b"transfer-encoding"))
    return httpx.Request(scope["method"], url, headers=headers, content=body if has_body else None)


def _raw_path(scope: Scope) -> bytes:
    query = scope["query_string"]
    path: bytes = scope["raw_path"].partition(b"?")[0]
    return path + (b"?" + query if query else b"")


async def _copy_response(response: httpx.Response, send: Send) -> None:
    headers = [
        (name.lower(), value)
        for name, value in response.headers.raw
        if name.lower() not in _HOP_BY_HOP
    ]
    start = {"type": "http.response.start", "status": response.status_code, "headers": headers}
    await send(start)
    async for chunk in response.aiter_raw():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _copy_up(receive: Receive, upstream: Any) -> None:  # noqa: ANN401 - of websockets
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        await upstream.send(message["bytes"] if text is None else text)


async def _copy_down(upstream: Any, send: Send) -> None:  # noqa: ANN401 - of websockets
    # A close with another code than 1000 raises.
    with suppress(ConnectionClosed):
        await _copy_messages(upstream, send)
    code = upstream.close_code or _NORMAL
    with suppress(RuntimeError):  # the client closed it too
        await send({"type": "websocket.close", "code": _ERROR if code == _ABNORMAL else code})


async def _copy_messages(upstream: Any, send: Send) -> None:  # noqa: ANN401 - of websockets
    async for message in upstream:
        kind = "text" if isinstance(message, str) else "bytes"
        await send({"type": "websocket.send", kind: message})


async def send_json(send: Send, status: int, value: object, *, retry_after: bool = False) -> None:
    """Send a response of the supervisor itself."""
    body = json.dumps(value).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *security_headers(),
    ]
    if retry_after:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
