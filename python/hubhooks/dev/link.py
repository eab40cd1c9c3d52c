"""The private connection between the supervisor and the app: lines of JSON over loopback.

The app connects, and its first line is the token of its process. Both ends see at once if the
other process dies. It is not HTTP, so nothing that reaches the app's port can use it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AppLink", "LinkClosedError", "LinkServer", "SupervisorLink"]

_HOST = "127.0.0.1"
# A line may have the body of a delivery.
_LONGEST_LINE = 64 * 1024 * 1024
_TOKEN_SECONDS = 10.0
_ENDED = "the app ended"


class LinkClosedError(Exception):
    """The other process ended, or did not answer in time."""


class SupervisorLink:
    """The supervisor's end.

    Args:
        writer: sends to the app.
        on_event: gets each message that answers no question.
    """

    def __init__(
        self, writer: asyncio.StreamWriter, on_event: Callable[[dict[str, Any]], None]
    ) -> None:
        self._writer = writer
        self._on_event = on_event
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._is_closed = False

    async def ask(self, what: str, seconds: float, **details: object) -> Any:  # noqa: ANN401 - any JSON
        """Ask the app, and return its answer.

        Raises:
            LinkClosedError: it ended, or did not answer in time.
        """
        if self._is_closed:
            raise LinkClosedError(_ENDED)
        self._count += 1
        number = self._count
        self._asked[number] = answer = asyncio.get_running_loop().create_future()
        try:
            self.send({"id": number, "do": what, **details})
            return await asyncio.wait_for(answer, seconds)
        except (asyncio.TimeoutError, OSError) as error:
            msg = f"the app did not answer within {seconds:g} s"
            raise LinkClosedError(msg) from error
        finally:
            del self._asked[number]

    def send(self, message: dict[str, object]) -> None:
        """Send a message without an answer."""
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def read(self, reader: asyncio.StreamReader) -> None:
        """Read messages until the app closes its end."""
        try:
            while line := await reader.readline():
                message = json.loads(line)
                answer = self._asked.get(message.get("id", 0))
                if answer is None:
                    self._on_event(message)
                elif not answer.done():
                    answer.set_result(message.get("result"))
        finally:
            self._is_closed = True
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(LinkClosedError(_ENDED))
            self._writer.close()


class LinkServer:
    """Accepts the connection of each app process.

    Args:
        accept: gets the link of a process, by its token; returns the function for its events, or
            None to reject it.
    """

    def __init__(
        self,
        accept: Callable[[str], Callable[[dict[str, Any]], None] | None],
        connected: Callable[[str, SupervisorLink], None],
    ) -> None:
        self._accept = accept
        self._connected = connected
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.StreamWriter] = set()

    async def start(self) -> int:
        """Listen on a free port of this machine, and return it."""
        self._server = await asyncio.start_server(self._serve, _HOST, 0, limit=_LONGEST_LINE)
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Accept no more, and close all connections."""
        if self._server is not None:
            self._server.close()
        for writer in self._links:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links.add(writer)
        try:
            line = await asyncio.wait_for(reader.readline(), _TOKEN_SECONDS)
            token = line.decode("ascii", "replace").strip()
            on_event = self._accept(token)
            if on_event is not None:
                link = SupervisorLink(writer, on_event)
                self._connected(token, link)
                await link.read(reader)
        except (OSError, ValueError, asyncio.TimeoutError):
            pass  # the process died, or it is not ours
        finally:
            self._links.discard(writer)
            writer.close()


class AppLink:
    """The app's end, used by its threads.

    Args:
        port: where the supervisor listens.
        token: of this process.
    """

    def __init__(self, port: int, token: str) -> None:
        self._socket = socket.create_connection((_HOST, port))
        self._lock = threading.Lock()
        self._write(token.encode())

    def send(self, message: dict[str, object]) -> None:
        """Send a message; nothing happens if the supervisor ended."""
        with suppress(OSError):
            self._write(json.dumps(message, default=str).encode())

    def _write(self, line: bytes) -> None:
        with self._lock:
            self._socket.sendall(line + b"\n")

    def read(
        self, on_message: Callable[[dict[str, Any]], None], on_end: Callable[[], None]
    ) -> None:
        """Read messages in a thread of their own, until the supervisor closes its end."""

        def run() -> None:
            with suppress(OSError, ValueError), self._socket.makefile("rb") as lines:
                for line in lines:
                    on_message(json.loads(line))
            on_end()

        threading.Thread(target=run, name="hubhooks-dev-link", daemon=True).start()


def is_token(given: str, right: str) -> bool:
    """Return whether a token is the right one, in constant time."""
    return hmac.compare_digest(given.encode(), right.encode())
