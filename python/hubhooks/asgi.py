"""The door as an ASGI application."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import TypeAlias

    from hubhooks.receiver import Answer, Headers, Receiver
    from hubhooks.runner import Runner

    Message: TypeAlias = MutableMapping[str, Any]
    Scope: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]

__all__ = ["Door"]

# An answer that took longer is not known to have found the Hub still listening, and the Hub may
# have sent the delivery again. It documents no limit; 30 s is what it is said to wait.
_DELIVERED_SECONDS = 10
# A connection that broke while the loop was busy is reported some turns after the request that
# came over it: one to read the end of the stream, one to tell the server's protocol.
_TURNS_TO_NOTICE = 3
# How long a thread that computes may keep the interpreter from others. Python's 5 ms add up: beside
# eight handlers that compute, each step of an answer would wait for 40 ms.
_SWITCH_SECONDS = 0.0005


class Door:
    """An ASGI application that answers every path it is given, with or without a slash.

    Where it is mounted decides the path, so there is nothing to redirect to. What is not a POST
    is answered 405. Where the server announces no start, the first delivery starts the runner.
    """

    def __init__(self, receiver: Receiver, runner: Runner) -> None:
        self._receiver = receiver
        self._runner = runner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind == "http":
            await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await self._live(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            msg = f"an ASGI scope of type `{kind}` is not served here; `http` would be"
            raise ValueError(msg)

    def check(self) -> None:
        """Check that deliveries could be let in.

        Raises:
            ConfigError: there is no secret, and unsigned requests are not allowed.
        """
        self._receiver.ready()

    def start(self) -> None:
        """Let deliveries in.

        Raises:
            ConfigError: there is no secret, and unsigned requests are not allowed.
        """
        self._receiver.ready()
        self._receiver.is_stopping = False
        self._runner.start()

    async def stop(self) -> None:
        """Refuse new deliveries, and wait for the handlers that run."""
        self._receiver.is_stopping = True
        try:
            await self._runner.stop()
        finally:
            self._receiver.is_stopping = False

    async def drain(self, seconds: float) -> None:
        """Refuse new deliveries until the next start, and wait: the process is about to end.

        Args:
            seconds: how long to wait for the handlers that run.
        """
        self._receiver.is_stopping = True
        await self._runner.stop(seconds)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self.start()
        except ConfigError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        came = time.monotonic()
        headers = scope["headers"]
        query = scope["query_string"]
        if query:
            # Servers write their access log from this scope once the answer starts, and a secret
            # may be in it, even under a misspelt name.
            scope["query_string"] = b""
        answer = self._receiver.refuse(scope["method"], headers, query)
        if answer is None:
            answer = await self._read(headers, receive)
        if answer.delivery_id is None:
            # What is short is left for the server to throw away: a client that is still sending
            # when the connection ends often never sees the answer. HTTP/2 forbids the header.
            is_http_1 = scope.get("http_version", "1.1") < "2"
            closing = is_http_1 and self._receiver.may_be_too_large(headers)
            await _send(answer, send, closing=closing)
            return
        delivered = False
        try:
            is_gone = answer.work is not None and await _is_gone(receive)
            is_sent = await _send(answer, send)
            is_in_time = time.monotonic() - came < _DELIVERED_SECONDS
            delivered = is_sent and is_in_time and not is_gone
        finally:
            self._receiver.answered(answer.delivery_id, delivered=delivered)
            if answer.work is not None:
                sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
                self._runner.submit(answer.work)

    async def _read(self, headers: Headers, receive: Receive) -> Answer:
        """Read the body as far as it is allowed to go, and judge it."""
        chunks: list[bytes] = []
        room = self._receiver.max_body_size
        is_complete = False
        while not is_complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            chunk = message.get("body", b"")
            room -= len(chunk)
            if room < 0:
                return self._receiver.refusal("too large")
            chunks.append(chunk)
            is_complete = not message.get("more_body", False)
        return self._receiver.receive(headers, b"".join(chunks), complete=is_complete)


async def _send(answer: Answer, send: Send, *, closing: bool = False) -> bool:
    """Send an answer; False if the server says that the other side is gone."""
    # A list of its own: middleware adds to it, and some answers are shared.
    headers = [*answer.headers]
    if closing:
        headers.append((b"connection", b"close"))
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
    except OSError:
        return False
    return True


async def _is_gone(receive: Receive) -> bool:
    """Whether the other side went away while the body waited to be read."""
    listening = asyncio.ensure_future(receive())
    try:
        for _ in range(_TURNS_TO_NOTICE):
            await asyncio.sleep(0)
        if not listening.done():
            return False
        return listening.exception() is not None or listening.result()["type"] == "http.disconnect"
    finally:
        listening.cancel()
