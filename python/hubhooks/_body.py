"""Read the body of a request, with bounds on its length and on the wait for it."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from hubhooks._calls import running_loop

if TYPE_CHECKING:
    from hubhooks.asgi import Message, Receive
    from hubhooks.receiver import Headers

__all__ = [
    "ALREADY_READ", "CUT_OFF", "KEEP_A_COPY", "STALLED", "TOO_LARGE", "UNDECODED",
    "BodyError", "BoundedReceive", "is_part", "read_body", "read_parts",
]  # fmt: skip

# A body that another reader took never comes, and the server does not say so. Senders write the
# head and the body together, so the first part is late only after several lost packets.
_FIRST_SECONDS = 3.0
# Later parts prove that the body does come. The Hub waits 30 s for a response.
_NEXT_SECONDS = 10.0
# After a blocked loop the time is over and the body is there at once: the body is read first.
_GRACE_SECONDS = 0.1

# No server can hold a body whose length needs more digits.
_MOST_DIGITS = 18

# Cases of `receiver.words_of`.
ALREADY_READ = "already read"
CUT_OFF = "cut off"
STALLED = "stalled"
TOO_LARGE = "too large"
UNDECODED = "undecoded"

KEEP_A_COPY = (
    "middleware, a dependency or a monitoring tool kept no copy of it: use "
    "`await request.body()` there, which keeps it, or pass on what was read"
)
"""What to do about a body that was read before."""
_NOTHING_CAME = (
    "no part of it came for {seconds:g} s: the sender is slow, or ASGI middleware read it and "
    "passed `receive` on unchanged; such middleware must pass on what it read"
)
_NOTHING_MORE_CAME = "no further part of it came for {seconds:g} s"


class BodyError(Exception):
    """The body cannot be used.

    Args:
        case: what is wrong, as `receiver.words_of` knows it.
        detail: more about it, for the log alone.
    """

    def __init__(self, case: str, detail: str = "") -> None:
        super().__init__(case)
        self.case = case
        self.detail = detail


class BoundedReceive:
    """Receives the parts of a body, with bounds on its length and on the wait for each part.

    Args:
        receive: the ASGI callable that gives the parts.
        limit: the longest body that is read, in bytes.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._rest = limit
        self._has_begun = False

    async def __call__(self) -> Message:
        """Receive one message.

        Raises:
            BodyError: the body is too large, or does not come.
        """
        seconds = _NEXT_SECONDS if self._has_begun else _FIRST_SECONDS
        try:
            message = await _receive_within(seconds, self._receive)
        except TimeoutError:
            detail = (_NOTHING_MORE_CAME if self._has_begun else _NOTHING_CAME).format(
                seconds=seconds
            )
            raise BodyError(STALLED, detail) from None
        self._has_begun = True
        self._rest -= len(message.get("body", b""))
        if self._rest < 0:
            raise BodyError(TOO_LARGE)
        return message


async def read_parts(receive: Receive, limit: int) -> bytes:
    """Read all that `receive` gives of a body.

    Raises:
        BodyError: the body is too large, was cut off, or does not come.
    """
    receive = BoundedReceive(receive, limit)
    chunks: list[bytes] = []
    is_complete = False
    while not is_complete:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BodyError(CUT_OFF)
        chunks.append(message.get("body", b""))
        is_complete = not message.get("more_body", False)
    return b"".join(chunks)


async def read_body(receive: Receive, limit: int, headers: Headers) -> bytes:
    """Read the body of a request.

    Args:
        receive: the ASGI callable that gives the parts. An adapter whose `receive` has a method
            `read_body(limit)` reads the body by itself.
        limit: the longest body that is read, in bytes.
        headers: those of the request.

    Raises:
        BodyError: the body is too large, was cut off or read before, or does not come.
    """
    read = getattr(receive, "read_body", None)
    body: bytes = await (read_parts(receive, limit) if read is None else read(limit))
    # Starlette's middleware gives an empty body where the body was read before.
    if not body and is_part(headers, body):
        raise BodyError(ALREADY_READ, KEEP_A_COPY)
    return body


def is_part(headers: Headers, body: bytes) -> bool:
    """Whether a body is shorter than its sender declared.

    Servers report a body that was cut off, so something in the app read the rest. A body that the
    app decoded may be shorter too.
    """
    declared = b""
    for name, value in headers:
        if name == b"content-encoding":
            return False
        if name == b"content-length":
            declared = value
    return declared.isdigit() and len(declared) <= _MOST_DIGITS and len(body) < int(declared)


async def _receive_within(seconds: float, receive: Receive) -> Message:
    """Receive one message, or raise `TimeoutError`.

    `asyncio.timeout` is not in Python 3.10, and costs three times as much.
    """
    if running_loop() is None:
        return await _receive_with_anyio(seconds, receive)
    task = asyncio.current_task()
    if type(task) is not asyncio.Task:
        # Tasks of another kind, such as granian's, may ignore a cancellation.
        return await _receive_in_task(seconds, receive)
    timer = _Timer(seconds, task)
    try:
        return await receive()
    except asyncio.CancelledError:
        if not timer.has_expired or _is_cancelled_by_others(task):
            raise
        raise TimeoutError from None
    finally:
        timer.stop()


class _Timer:
    """Cancels a task after some seconds, unless it is stopped before."""

    __slots__ = ("_handle", "_loop", "_task", "has_expired")

    def __init__(self, seconds: float, task: asyncio.Task[object]) -> None:
        self.has_expired = False
        self._task = task
        self._loop = task.get_loop()
        self._handle = self._loop.call_later(seconds, self._warn)

    def stop(self) -> None:
        self._handle.cancel()

    def _warn(self) -> None:
        self._handle = self._loop.call_later(_GRACE_SECONDS, self._expire)

    def _expire(self) -> None:
        self.has_expired = True
        self._task.cancel()


def _is_cancelled_by_others(task: asyncio.Task[object]) -> bool:
    """Take back our own cancellation; True if there is another one."""
    # Python 3.10 cannot tell.
    return sys.version_info >= (3, 11) and task.uncancel() > 0


async def _receive_in_task(seconds: float, receive: Receive) -> Message:
    receiving = asyncio.ensure_future(receive())
    try:
        for wait in (seconds, _GRACE_SECONDS):
            await asyncio.wait({receiving}, timeout=wait)
        if not receiving.done():
            raise TimeoutError
        return receiving.result()
    finally:
        receiving.cancel()


async def _receive_with_anyio(seconds: float, receive: Receive) -> Message:
    # Only `VerifiedEvent` works without asyncio, and FastAPI brings anyio along.
    import anyio  # noqa: PLC0415 - see above

    with anyio.fail_after(seconds):
        return await receive()
