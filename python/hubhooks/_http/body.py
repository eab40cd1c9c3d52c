"""Read the body of a request, with bounds on its length and on the wait for it."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Literal

from hubhooks._worker.pools import running_loop

if TYPE_CHECKING:
    from hubhooks._http.types import Headers, Message, Receive

__all__ = [
    "ALREADY_READ", "CUT_OFF", "KEEP_A_COPY", "STALLED", "TOO_LARGE", "UNDECODED",
    "BodyError", "BoundedReceive", "is_part", "read_body", "read_parts",
]  # fmt: skip

# The wait for the first part. If middleware has already read the body, most servers let a second
# reader wait for ever. A sender writes the headers and the first part together, so a longer wait
# means that several packets were lost.
_FIRST_SECONDS = 3.0
# The wait for later parts, and for a body that is known to be unread. The Hub waits 30 s for a
# response.
_NEXT_SECONDS = 10.0
# After a blocked loop, the wait ends and the body arrives at the same moment. This extra wait lets
# the body be read first.
_GRACE_SECONDS = 0.1

# How an event begins, with a byte order mark or without.
_BEGINNINGS = (b"{", b"\xef\xbb\xbf")
# No real length has more digits. Converting many digits is slow.
_MOST_DIGITS = 18

# Cases of `receiver.find_spec`.
ALREADY_READ = "already read"
CUT_OFF = "cut off"
STALLED = "stalled"
TOO_LARGE = "too large"
UNDECODED = "undecoded"

KEEP_A_COPY = (
    "middleware, a dependency or a monitoring tool read it and kept no copy: read it there with "
    "`await request.body()` of the same request, which keeps a copy"
)
"""What to do about a body that was read before."""
_NOTHING_CAME = (
    "no part of it arrived for {seconds:g} s: the sender is slow, or ASGI middleware read it and "
    "passed `receive` on unchanged; such middleware must pass on the bytes"
)
_NOTHING_MORE_CAME = "the next part of it did not arrive within {seconds:g} s"


class BodyError(Exception):
    """The body cannot be used.

    Args:
        case: what is wrong, as `receiver.find_spec` knows it.
        detail: details for the log only.
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
            BodyError: the body is too large, was read before, or did not arrive in time.
        """
        progress = _progress_of(self._receive)
        if progress == "read":
            raise BodyError(ALREADY_READ, KEEP_A_COPY)
        if progress == "arrived":
            # It returns at once. A timer would cost more.
            message = await self._receive()
        else:
            message = await self._wait(is_expected=self._has_begun or progress == "arriving")
        self._has_begun = True
        self._rest -= len(message.get("body", b""))
        if self._rest < 0:
            raise BodyError(TOO_LARGE)
        return message

    async def _wait(self, *, is_expected: bool) -> Message:
        seconds = _NEXT_SECONDS if is_expected else _FIRST_SECONDS
        try:
            return await _receive_within(seconds, self._receive)
        except TimeoutError:
            detail = _NOTHING_MORE_CAME if is_expected else _NOTHING_CAME
            raise BodyError(STALLED, detail.format(seconds=seconds)) from None


async def read_parts(receive: Receive, limit: int) -> bytes:
    """Read all that `receive` gives of a body.

    Raises:
        BodyError: the body is too large, was cut off, or did not arrive in time.
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
        headers: the headers of the request.

    Raises:
        BodyError: the body is too large, was cut off or read before, or did not arrive in time.
    """
    read = getattr(receive, "read_body", None)
    body: bytes = await (read_parts(receive, limit) if read is None else read(limit))
    # Starlette's middleware gives an empty body where the body was read before.
    if not body and is_part(headers, body):
        raise BodyError(ALREADY_READ, KEEP_A_COPY)
    return body


def is_part(headers: Headers, body: bytes, *, is_direct: bool = True) -> bool:
    """Return whether an invalid body may be only a part of the sent body.

    Servers report a body that was cut off, so something in the app read the rest.

    Args:
        headers: the headers of the request.
        body: the body as it was read.
        is_direct: whether it came from the server, with no middleware in between.
    """
    length, is_encoded, is_chunked = None, False, False
    for name, value in headers:
        if name == b"content-encoding":
            is_encoded = True
        elif name == b"transfer-encoding":
            is_chunked = True
        elif name == b"content-length" and value.isdigit() and len(value) <= _MOST_DIGITS:
            length = int(value)
    if not body:
        return is_chunked if length is None else length > 0
    if length is not None and not is_encoded:
        return len(body) < length
    if len(body) == length:
        return False  # complete, and no middleware decoded it
    # The length of the sent body is unknown. Middleware may have dropped a part.
    if not is_direct:
        return True
    # A body without its first part does not begin like an event. But an encoded body does not
    # either.
    return not is_encoded and not body.lstrip().startswith(_BEGINNINGS)


def _progress_of(receive: Receive) -> Literal["arriving", "arrived", "read"] | None:
    """Return how much of the body the server has; None if it does not show that.

    Another reader of a body that was already read to its end would wait for ever.
    """
    # `receive` is a method of this object. Neither server documents it.
    owner: Any = getattr(receive, "__self__", None)
    server = type(owner).__module__.partition(".")[0]
    try:
        if server == "uvicorn":
            if owner.message_event.is_set():
                return "arriving" if owner.more_body else "arrived"
            is_over = owner.disconnected or owner.response_complete
            return "arriving" if is_over or owner.more_body or owner.body else "read"
        if server == "gunicorn":
            return "read" if owner._body_finished and not owner._disconnected else "arriving"  # noqa: SLF001 - see above
    except AttributeError:
        pass
    return None


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
