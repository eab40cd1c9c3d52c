"""The door as an ASGI application."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import os
import time
from typing import TYPE_CHECKING, Any, Literal

from hubhooks._body import BodyError, read_body
from hubhooks._calls import running_loop
from hubhooks._fork import end_forked_child, release_in_children
from hubhooks._logging import get_logger, is_interrupt, show_log_by_default, text_of
from hubhooks._private_files import guard_gradio
from hubhooks.deliveries import BUSY_PAUSE, BUSY_SECONDS
from hubhooks.errors import BusyError, ConfigError, StoreError
from hubhooks.receiver import Prepared

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import TypeAlias

    from hubhooks._calls import HandlerCall
    from hubhooks.receiver import Answer, Headers, Receiver
    from hubhooks.runner import Runner

    Message: TypeAlias = MutableMapping[str, Any]
    Scope: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[Message]]
    Send: TypeAlias = Callable[[Message], Awaitable[None]]
    Beside: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[bool]]
    Acknowledge: TypeAlias = Literal["on_receipt", "on_completion"]
    # An answer, and what it promises to run at once.
    Taken: TypeAlias = tuple[Answer, list[HandlerCall]]

__all__ = ["Door", "check_event_loop", "is_of_server"]

_log = get_logger()

# An answer that took longer is not known to have found the Hub still listening, and the Hub may
# have sent the delivery again. It documents no limit; 30 s is what it is said to wait.
_DELIVERED_SECONDS = 10
# A connection that broke while the loop was held up is reported some turns after the request that
# came over it: one to read the end of the stream, one to tell the server's protocol.
_TURNS_TO_NOTICE = 3
_ASYNCIO_NEEDED = (
    "hubhooks needs asyncio, and this server runs another event loop, such as trio: start it "
    "without `-k trio`, for example `hypercorn app:app`"
)
# Their `receive` is a method of an object of theirs.
_SERVERS = frozenset({"granian", "gunicorn", "uvicorn"})
# How often a loop is seen to turn, how late that is when it was held up, and for how long after
# that, or after the last request, it is watched. The Hub waits for longer than it may be late.
_BEAT_SECONDS = 0.2
_LATE_SECONDS = 0.3
_WATCHED_SECONDS = 5.0
_NOT_SUCCESS = 300
# Where the answer waits for the handlers: less than the Hub is said to wait.
_FINISHED_SECONDS = 20
# How often refusals are written down: nobody without the secret can make us write much.
_REFUSALS_SECONDS = 60.0


class Door:
    """An ASGI application that answers every path it is given, with or without a slash.

    Where it is mounted decides the path, so there is nothing to redirect to. What is not a POST
    is answered 405. Where the server announces no start, the first delivery starts the runner.

    Args:
        receiver: judges the requests.
        runner: runs the handlers.
        acknowledge: whether the Hub is answered once a delivery is `stored`, or when its handlers
            `finished`.
        beside: answers what is asked about deliveries, and says whether it did.
    """

    def __init__(
        self,
        receiver: Receiver,
        runner: Runner,
        *,
        acknowledge: Acknowledge = "on_receipt",
        beside: Beside | None = None,
    ) -> None:
        self._receiver = receiver
        self._runner = runner
        self._waits = acknowledge == "on_completion"
        self._beside = beside
        self._group: _Group | None = None
        self._refusals_timer: asyncio.TimerHandle | None = None
        self._pulse: _Pulse | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind == "http":
            beside = self._beside if "/deliveries" in scope.get("path", "") else None
            if beside is None or not await beside(scope, receive, send):
                await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await self._live(receive, send)
        elif kind == "websocket":
            # Servers log these too.
            scope["query_string"] = b""
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            msg = f"hubhooks does not serve ASGI scopes of type `{kind}`, only `http`"
            raise ValueError(msg)

    def check(self) -> None:
        """Check that deliveries could be let in.

        Raises:
            ConfigError: there is no secret, and unsigned requests are not allowed; or the log
                cannot be used.
            StoreError: the log cannot be used just now.
        """
        self._receiver.ready()
        if not self._runner.is_started:
            self._runner.log.open()
            self._runner.log.close()

    async def objection(self) -> str:
        """Return why a delivery would not be stored now; empty if it would.

        It starts the runner where nothing announces the start, as the first delivery would.
        """
        if self._receiver.is_stopping:
            return "the app is shutting down"
        try:
            self._receiver.ready()
            self._runner.start()
            await self._check_writable()
        except (ConfigError, StoreError) as error:
            return str(error)
        return ""

    async def _check_writable(self) -> None:
        give_up = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._runner.log.check_writable()
            except BusyError:
                if time.monotonic() >= give_up:
                    raise
            else:
                return
            await asyncio.sleep(BUSY_PAUSE)

    def start(self) -> None:
        """Let deliveries in.

        Raises:
            ConfigError: there is no secret, and unsigned requests are not allowed; or the log
                cannot be used.
            StoreError: the log cannot be used just now.
        """
        self._receiver.ready()
        self._receiver.is_stopping = False
        self._start_runner()

    def _start_runner(self) -> None:
        """Start the runner, and log in one line what is served."""
        is_started = self._runner.is_started
        show_log_by_default()
        # Also if it is started: in a forked child this raises.
        self._runner.start()
        if not is_started:
            log = _log.info if self._runner.has_handlers else _log.warning
            log("hubhooks %s", self._runner.summary())

    def retire(self) -> None:
        """Let another door to the same log be opened, as this one is about to stop."""
        self._runner.retire()

    async def stop(self) -> None:
        """Refuse new deliveries, and wait for the handlers that run."""
        self._receiver.is_stopping = True
        try:
            self._store_refusals()
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
            check_event_loop()
            self.start()
        except (ConfigError, StoreError) as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        came = time.monotonic()
        release_in_children(scope.get("server"))
        # Gradio may have been imported after the store was opened.
        guard_gradio()
        headers = scope["headers"]
        query = scope["query_string"]
        if query:
            # Servers write their access log from this scope once the answer starts, and a secret
            # may be in it, even under a misspelt name.
            scope["query_string"] = b""
        answer = self._receiver.refuse(scope["method"], headers, query) or self._open()
        runs: list[HandlerCall] = []
        if answer is None:
            answer, runs = await self._read(headers, receive)
        if answer.delivery_id is None:
            self._store_refusals_soon()
            http_version = scope.get("http_version", "1.1")
            closing = self._receiver.is_to_close(http_version, headers)
            await _send(answer, send, closing=closing)
            return
        delivery_id, work, delivered = answer.delivery_id, answer.work, False
        try:
            if self._waits and answer.is_open:
                if work is not None:
                    self._runner.begin(work, runs)
                    work = None
                delivery = await self._runner.wait_for(delivery_id, _FINISHED_SECONDS)
                answer = self._receiver.outcome(delivery, answer)
            # Whoever waits for the handlers may give up meanwhile.
            has_more_to_do = self._waits or answer.is_open or answer.work is not None
            is_to_look = has_more_to_do and not self._is_prompt() and is_of_server(receive)
            is_gone = is_to_look and await _is_gone(receive)
            is_sent = await _send(answer, send)
            patience = _FINISHED_SECONDS + 1 if self._waits else _DELIVERED_SECONDS
            is_in_time = time.monotonic() - came < patience
            delivered = is_sent and is_in_time and not is_gone and answer.status < _NOT_SUCCESS
        finally:
            self._receiver.answered(delivery_id, delivered=delivered)
            try:
                self._receiver.tell(answer)
            finally:
                if work is not None:
                    self._runner.begin(work, runs)
                self._runner.flush_soon()

    def _is_prompt(self) -> bool:
        """Whether nothing has kept the loop from requests lately, so that nobody gave up waiting.

        To look at the connection takes a task and some turns, each of which waits for handlers
        that compute.
        """
        loop = asyncio.get_running_loop()
        pulse = self._pulse
        if pulse is None or pulse.loop is not loop:
            self._pulse = pulse = _Pulse(loop)
        # An answer that waits for the handlers gives the other side time to go away.
        return pulse.is_regular() and not self._waits

    def _open(self) -> Answer | None:
        """Start the runner where nothing announced the start; a refusal if it cannot."""
        if self._runner.is_started and running_loop() is not None:
            return None
        try:
            check_event_loop()
            self._start_runner()
        except (ConfigError, StoreError) as error:
            return self._receiver.refusal("not stored", str(error))
        return None

    async def _take(self, prepared: Prepared) -> Taken:
        """Store a delivery with others that came at the same time."""
        loop = asyncio.get_running_loop()
        group = self._group
        if group is None or group.loop is not loop:
            self._group = group = _Group(loop)
            loop.call_soon(self._take_group, group, context=contextvars.Context())
        give_up = time.monotonic() + BUSY_SECONDS
        came = _Came(prepared, loop.create_future(), give_up, contextvars.copy_context())
        group.requests.append(came)
        try:
            return self._refuse_unstored(await came.taken)
        except asyncio.CancelledError:
            # It is kept all the same, and so it runs: from here, or once the group is kept.
            if not came.taken.cancelled():
                self._begin_without_answer(came.taken.result())
            raise

    def _take_group(self, group: _Group) -> None:
        """Keep all deliveries that came in one turn of the loop in one batch.

        While another process writes, they wait, and who comes meanwhile waits with them: each try
        holds up the loop for a moment, so there is one for all.
        """
        requests = [*group.requests]
        taken: list[Taken | BaseException] = []
        try:
            # No code of the user runs inside, and nothing is logged: both may block, or raise.
            with self._runner.log.batch():
                for request in requests:
                    taken.append(self._store(request.prepared, request.context))  # noqa: PERF401 - what was stored is to be known when a later one fails
        except BaseException as error:
            self._fail_group(group, requests, taken, error)
            _tell_mistake(error)
            if is_interrupt(error):
                raise
        else:
            self._end_group(group)
            for came, what in zip(requests, taken, strict=True):
                if came.taken.cancelled():
                    # By itself: if it fails, the others have their answers all the same.
                    group.loop.call_soon(self._begin_without_answer, what, context=came.context)
                else:
                    came.taken.set_result(what)

    def _fail_group(
        self,
        group: _Group,
        requests: list[_Came],
        taken: list[Taken | BaseException],
        error: BaseException,
    ) -> None:
        """Answer all requests of a batch that failed, or try again if another process writes."""
        now = time.monotonic() if isinstance(error, BusyError) else math.inf
        group.requests[:] = [came for came in requests if now < came.give_up]
        if group.requests:
            context = contextvars.Context()
            group.loop.call_later(BUSY_PAUSE, self._take_group, group, context=context)
        else:
            self._end_group(group)
        for came in requests:
            if now >= came.give_up and not came.taken.cancelled():
                came.taken.set_result(error)
        # With nothing to give back the runner may have stopped, and would begin anew.
        stored = [one for one in taken if not isinstance(one, BaseException)]
        if claimed := [run for _, runs in stored for run in runs]:
            self._runner.give_back(claimed)

    def _end_group(self, group: _Group) -> None:
        if self._group is group:
            self._group = None

    def _begin_without_answer(self, taken: Taken | BaseException) -> None:
        answer, runs = self._refuse_unstored(taken)
        self._receiver.log_unreadable(answer)
        if answer.work is not None:
            self._runner.begin(answer.work, runs)

    def _store(self, prepared: Prepared, context: contextvars.Context) -> Taken | Exception:
        """Store a delivery, and claim what can run of it at once; the error if it cannot be kept.

        What else fails, fails for the whole batch.
        """
        try:
            answer = self._receiver.store(prepared)
        except StoreError as error:
            return error
        return answer, [] if answer.work is None else self._runner.claim(answer.work, context)

    def _refuse_unstored(self, taken: Taken | BaseException) -> Taken:
        if isinstance(taken, BaseException):
            return self._receiver.refusal("not stored", text_of(taken)), []
        return taken

    def _store_refusals_soon(self) -> None:
        if self._refusals_timer is None and self._runner.is_started:
            loop = running_loop()
            if loop is not None:
                context = contextvars.Context()
                self._refusals_timer = loop.call_later(
                    _REFUSALS_SECONDS, self._store_refusals, context=context
                )

    def _store_refusals(self) -> None:
        if self._refusals_timer is not None:
            self._refusals_timer.cancel()
            self._refusals_timer = None
        if self._runner.is_started:
            try:
                self._receiver.store_refusals()
            except StoreError as error:
                # They are kept with those of the next time.
                _log.warning("cannot store the number of rejected requests now: %s", error)

    async def _read(self, headers: Headers, receive: Receive) -> Taken:
        """Read the body as far as it is allowed to go, and judge it."""
        try:
            body = await read_body(receive, self._receiver.max_body_size, headers)
        except BodyError as error:
            return self._receiver.refusal(error.case, error.detail), []
        context = contextvars.copy_context()
        try:
            # `when=` is the user's code: it has a copy of the request's context, as each run has.
            process = os.getpid()
            is_direct = is_of_server(receive)
            prepare = functools.partial(self._receiver.prepare, headers, body, is_direct=is_direct)
            prepared = context.copy().run(prepare)
            end_forked_child(process)
            if not isinstance(prepared, Prepared):
                return prepared, []
            if not self._runner.log.is_durable:
                return self._refuse_unstored(self._store(prepared, context))
        # As in a batch, so that the Hub sends it again.
        except BaseException as error:
            if is_interrupt(error):
                raise
            _tell_mistake(error)
            return self._refuse_unstored(error)
        return await self._take(prepared)


class _Came:
    """A delivery that is yet to be stored."""

    __slots__ = ("context", "give_up", "prepared", "taken")

    def __init__(
        self,
        prepared: Prepared,
        taken: asyncio.Future[Taken | BaseException],
        give_up: float,
        context: contextvars.Context,
    ) -> None:
        self.prepared = prepared
        self.taken = taken
        self.give_up = give_up
        self.context = context
        """That of the request."""


class _Group:
    """Deliveries that were ready to be stored in the same turn of a loop."""

    __slots__ = ("loop", "requests")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.requests: list[_Came] = []


class _Pulse:
    """Notices when a loop is held up, as long as somebody asks now and then."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._is_beating = False
        self._beat_at = 0.0
        self._is_regular_since = 0.0
        self._watch_until = 0.0

    def is_regular(self) -> bool:
        """Whether the loop is known to have turned all the time for some seconds."""
        now = time.monotonic()
        self._watch_until = now + _WATCHED_SECONDS
        if not self._is_beating:
            self._is_beating = True
            self._beat_at = self._is_regular_since = now
            self._plan_beat()
        return not self._is_late(now) and now - self._is_regular_since > _WATCHED_SECONDS

    def _plan_beat(self) -> None:
        # Not in the context of the request, which would be kept.
        self.loop.call_later(_BEAT_SECONDS, self._beat, context=contextvars.Context())

    def _is_late(self, now: float) -> bool:
        return now - self._beat_at > _BEAT_SECONDS + _LATE_SECONDS

    def _beat(self) -> None:
        now = time.monotonic()
        if self._is_late(now):
            self._is_regular_since = now
        self._beat_at = now
        self._is_beating = now < self._watch_until
        if self._is_beating:
            self._plan_beat()


def check_event_loop() -> None:
    """Raise `ConfigError` where another event loop than asyncio's runs."""
    if running_loop() is None:
        raise ConfigError(_ASYNCIO_NEEDED)


def _tell_mistake(error: BaseException) -> None:
    """Log an error of ours with its traceback; what a log says of itself the refusal tells."""
    if not isinstance(error, StoreError):
        _log.error("cannot store deliveries", exc_info=error)


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


def is_of_server(receive: Receive) -> bool:
    """Whether a `receive` is the server's own, so that its `http.disconnect` is a lost connection.

    Middleware that read the body may give `http.disconnect` where nothing more is to be read.
    """
    receive = getattr(receive, "asgi_receive", receive)
    owner = getattr(receive, "__self__", None)
    if isinstance(owner, asyncio.Queue):
        return _is_queue_of_hypercorn(receive)
    return type(owner).__module__.partition(".")[0] in _SERVERS


def _is_queue_of_hypercorn(receive: Receive) -> bool:
    """Whether a `receive` is the one that hypercorn called the app with.

    It is the `get` of a queue, as that of some middleware is.
    """
    task = asyncio.current_task()
    frame = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
    return (
        frame is not None
        and frame.f_globals.get("__name__", "").startswith("hypercorn.")
        and frame.f_locals.get("receive") == receive
    )


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
