"""An ASGI app, asked in the running loop, without a server."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple


class Connection:
    """The object to which the `receive` of a server belongs."""

    __module__ = "uvicorn.protocols.http.test"

    def __init__(self, receive: Any) -> None:
        self._receive = receive

    async def receive(self) -> Any:
        return await self._receive()


class Reply(NamedTuple):
    """The response of an app."""

    status: int
    headers: dict[bytes, bytes]
    data: dict[str, Any]


async def ask(
    app: Any,
    *chunks: bytes,
    headers: dict[str, str] | None = None,
    stays: bool = True,
    ends: bool = True,
    **scope: Any,
) -> Reply:
    """Send one request to an ASGI app in the running loop.

    Args:
        chunks: the body.
        stays: whether the client waits for the response; else it disconnects after the chunks.
        ends: whether the last chunk is marked as the last.
    """
    last = len(chunks) - 1 if ends else None
    messages = [
        {"type": "http.request", "body": chunk, "more_body": at != last}
        for at, chunk in enumerate(chunks)
    ]
    sent: list[dict[str, Any]] = []
    responded = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        if stays:
            await responded.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            responded.set()

    pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    request = {"type": "http", "method": "POST", "query_string": b"", "headers": pairs, **scope}
    await app(request, Connection(receive).receive, send)
    start, end = sent
    return Reply(start["status"], dict(start["headers"]), json.loads(end["body"]))
