"""The ASGI app that receives deliveries."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

from hubhooks._fork import end_forked_child, release_in_children
from hubhooks._http.body import BodyError, read_body
from hubhooks._http.lag import LoopLagMonitor
from hubhooks._http.receiver import Prepared
from hubhooks._logging import get_logger, is_interrupt, show_log_by_default, text_of
from hubhooks._store.busy import BUSY_PAUSE, BUSY_SECONDS
from hubhooks._store.private_files import guard_gradio
from hubhooks._worker.pools import running_loop
from hubhooks.errors import BusyError, ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from hubhooks._http.receiver import Receiver, Response
    from hubhooks._http.types import Admin, Headers, Receive, Scope, Send
    from hubhooks._worker.execution import RunExecution
    from hubhooks._worker.service import WorkerService

    Acknowledge: TypeAlias = Literal["on_receipt", "on_completion"]
    # A response, and the runs that were claimed for its delivery.
    _Accepted: TypeAlias = tuple[Response, list[RunExecution]]

__all__ = ["WebhookApp", "check_event_loop", "is_server_receive"]

logger = get_logger()

# A response after more seconds may be too late: the Hub may have sent the delivery again. The Hub
# documents no limit. It seems to wait 30 s.
_ACKNOWLEDGE_SECONDS = 10
# If a connection broke while the loop was blocked, the app sees it some turns of the loop later.
# One turn reads the end of the stream, and one notifies the server's protocol.
_POLL_TURNS = 3
_ASYNCIO_NEEDED = (
    "hubhooks needs asyncio, and this server runs another event loop, such as trio: start it "
    "without `-k trio`, for example `hypercorn app:app`"
)
# Servers whose `receive` is a method of one of their own objects.
_SERVERS = frozenset({"granian", "gunicorn", "uvicorn"})
_FIRST_NON_SUCCESS = 300  # the first HTTP status that is not a success
# How long a response waits for the handlers, with `acknowledge="on_completion"`. The Hub seems to
# wait 30 s.
_COMPLETION_SECONDS = 20
# The interval of writes of the rejection counts: requests without the secret cause few writes.
_REJECTIONS_SECONDS = 60.0


class WebhookApp:
    """An ASGI app that receives deliveries at every path, with or without a slash at its end.

    It never redirects: the app in which it is mounted chooses the path. Its response to other
    methods than POST is 405. If the server announces no start, the first delivery starts the
    worker.

    Args:
        receiver: checks and stores the requests.
        worker: runs the handlers.
        acknowledge: when the response is sent: `on_receipt`, once the delivery is stored, or
            `on_completion`, once its handlers ended.
        admin: serves requests below `/deliveries`. It returns False for a request of another path.
        on_start: called each time after the worker started.
    """

    def __init__(
        self,
        receiver: Receiver,
        worker: WorkerService,
        *,
        acknowledge: Acknowledge = "on_receipt",
        admin: Admin | None = None,
        on_start: Callable[[], object] | None = None,
    ) -> None:
        self._receiver = receiver
        self._worker = worker
        self._ack_on_completion = acknowledge == "on_completion"
        self._admin = admin
        self._on_start = on_start
        self._batch: _WriteBatch | None = None
        self._rejections_timer: asyncio.TimerHandle | None = None
        self._lag_monitor: LoopLagMonitor | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind == "http":
            admin = self._admin if "/deliveries" in scope.get("path", "") else None
            if admin is None or not await admin(scope, receive, send):
                await self._serve(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            # Servers log these too.
            scope["query_string"] = b""
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            msg = f"hubhooks does not serve ASGI scopes of type `{kind}`, only `http`"
            raise ValueError(msg)

    def check(self) -> None:
        """Check that the app could start to receive.

        Raises:
            ConfigError: no secret is configured, and unsigned requests are not allowed; or the
                store cannot be used.
            StoreError: the store cannot be used now.
        """
        self._receiver.check_ready()
        if not self._worker.is_started:
            self._worker.store.open()
            self._worker.store.close()

    async def not_ready_reason(self) -> str:
        """Return why a delivery would not be stored now; empty if it would.

        If the server announced no start, this starts the worker, like the first delivery.
        """
        if self._receiver.is_stopping:
            return "the app is shutting down"
        try:
            self._receiver.check_ready()
            self._start_worker()
            await self._check_writable()
        except (ConfigError, StoreError) as error:
            return str(error)
        return ""

    def start_if_new(self) -> None:
        """Start the worker if nothing started it before: Starlette does not start a mounted app.

        If it cannot start, nothing happens. Then the next delivery is rejected with the reason.
        """
        if not self._worker.was_started and not self._receiver.is_stopping:
            with suppress(ConfigError, StoreError):
                self._receiver.check_ready()
                self._start_worker()

    async def _check_writable(self) -> None:
        retry_until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._worker.store.check_writable()
            except BusyError:
                if time.monotonic() >= retry_until:
                    raise
            else:
                return
            await asyncio.sleep(BUSY_PAUSE)

    def start(self) -> None:
        """Start to receive.

        Raises:
            ConfigError: no secret is configured, and unsigned requests are not allowed; or the
                store cannot be used.
            StoreError: the store cannot be used now.
        """
        self._receiver.check_ready()
        self._receiver.is_stopping = False
        self._start_worker()

    def _start_worker(self) -> None:
        """Start the worker, and log one line about handlers, store and leader."""
        is_started = self._worker.is_started
        show_log_by_default()
        # Not only at the first call: in a forked child this raises.
        self._worker.start()
        if not is_started:
            log = logger.info if self._worker.has_handlers else logger.warning
            log("hubhooks %s", self._worker.summary())
            if self._on_start is not None:
                self._on_start()

    def release_store(self) -> None:
        """Release the store for another app in this process, just before this one stops."""
        self._worker.release_store()

    async def stop(self) -> None:
        """Reject new deliveries, and wait for running handlers."""
        self._receiver.is_stopping = True
        try:
            self._store_rejections()
            await self._worker.stop()
        finally:
            self._receiver.is_stopping = False

    async def drain(self, seconds: float) -> None:
        """Reject new deliveries until the next start, and wait: the process is about to end.

        Args:
            seconds: how long to wait for running handlers.
        """
        self._receiver.is_stopping = True
        self._store_rejections()
        await self._worker.stop(seconds)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
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
        received_at = time.monotonic()
        release_in_children(scope.get("server"))
        # Gradio may have been imported after the store was opened.
        guard_gradio()
        headers = scope["headers"]
        query = scope["query_string"]
        if query:
            # Servers write their access log from this scope once the response starts. The query may
            # have a secret, even under a misspelt name.
            scope["query_string"] = b""
        response = (
            self._receiver.precheck(scope["method"], headers, query) or self._ensure_started()
        )
        claimed: list[RunExecution] = []
        if response is None:
            response, claimed = await self._read(headers, receive)
        if response.delivery_id is None:
            self._store_rejections_soon()
            http_version = scope.get("http_version", "1.1")
            closing = self._receiver.should_close(http_version, headers)
            await _send(response, send, closing=closing)
            return
        delivery_id, accepted, delivered = response.delivery_id, response.accepted, False
        try:
            if self._ack_on_completion and response.is_open:
                if accepted is not None:
                    self._worker.start_runs(accepted, claimed)
                    accepted = None
                delivery = await self._worker.wait_for(delivery_id, _COMPLETION_SECONDS)
                response = self._receiver.completion_response(delivery, response)
            # The Hub may close the connection during a long wait.
            has_unfinished_runs = (
                self._ack_on_completion or response.is_open or response.accepted is not None
            )
            should_poll = (
                has_unfinished_runs and not self._was_responsive() and is_server_receive(receive)
            )
            is_disconnected = should_poll and await _client_disconnected(receive)
            is_sent = await _send(response, send)
            limit = _COMPLETION_SECONDS + 1 if self._ack_on_completion else _ACKNOWLEDGE_SECONDS
            is_in_time = time.monotonic() - received_at < limit
            delivered = (
                is_sent
                and is_in_time
                and not is_disconnected
                and response.status < _FIRST_NON_SUCCESS
            )
        finally:
            self._receiver.mark_acknowledged(delivery_id, delivered=delivered)
            try:
                self._receiver.log_response(response)
            finally:
                if accepted is not None:
                    self._worker.start_runs(accepted, claimed)
                self._worker.flush_soon()

    def _was_responsive(self) -> bool:
        """True if the loop was not blocked lately: no client timed out unnoticed.

        Polling the connection takes a task and some turns of the loop. Each turn can wait for
        handlers that compute.
        """
        loop = asyncio.get_running_loop()
        monitor = self._lag_monitor
        if monitor is None or monitor.loop is not loop:
            self._lag_monitor = monitor = LoopLagMonitor(loop)
        # While a response waits for the handlers, the client can disconnect.
        return monitor.was_responsive() and not self._ack_on_completion

    def _ensure_started(self) -> Response | None:
        """Start the worker if the server announced no start; a rejection if it cannot start."""
        if self._worker.is_started and running_loop() is not None:
            return None
        try:
            check_event_loop()
            self._start_worker()
        except (ConfigError, StoreError) as error:
            return self._receiver.reject("not stored", str(error))
        return None

    async def _store_batched(self, prepared: Prepared) -> _Accepted:
        """Store a delivery in one batch with the others of this loop iteration."""
        loop = asyncio.get_running_loop()
        batch = self._batch
        if batch is None or batch.loop is not loop:
            self._batch = batch = _WriteBatch(loop)
            loop.call_soon(self._commit_batch, batch, context=contextvars.Context())
        retry_until = time.monotonic() + BUSY_SECONDS
        result: asyncio.Future[_Accepted | BaseException] = loop.create_future()
        context = contextvars.copy_context()
        batch.requests.append(_PendingRequest(prepared, result, retry_until, context))
        try:
            return self._reject_unstored(await result)
        except asyncio.CancelledError:
            # The delivery is stored anyway, so it runs: started here, or by `_commit_batch`.
            if not result.cancelled():
                self._start_unanswered(result.result())
            raise

    def _commit_batch(self, batch: _WriteBatch) -> None:
        """Commit all requests of this loop iteration in one transaction.

        While another process writes, requests that arrive join the batch. Each try blocks the loop
        for a moment, so all share one.
        """
        requests = [*batch.requests]
        results: list[_Accepted | BaseException] = []
        try:
            # No user code runs inside, and nothing is logged: both can block or raise.
            store = self._worker.store
            with store.transaction():
                store.expect({each.prepared.delivery_id for each in requests} - {None})
                for request in requests:
                    results.append(self._store(request.prepared, request.context))  # noqa: PERF401 - `_fail_batch` needs the results so far
        except BaseException as error:
            self._fail_batch(batch, requests, results, error)
            _log_store_failure(error)
            if is_interrupt(error):
                raise
        else:
            self._close_batch(batch)
            for request, result in zip(requests, results, strict=True):
                if request.result.cancelled():
                    # In a call of its own: if it raises, the other requests still get responses.
                    batch.loop.call_soon(self._start_unanswered, result, context=request.context)
                else:
                    request.result.set_result(result)

    def _fail_batch(
        self,
        batch: _WriteBatch,
        requests: list[_PendingRequest],
        results: list[_Accepted | BaseException],
        error: BaseException,
    ) -> None:
        """Retry a failed batch while another process writes; else respond to its requests."""
        now = time.monotonic() if isinstance(error, BusyError) else math.inf
        batch.requests[:] = [request for request in requests if now < request.retry_until]
        if batch.requests:
            context = contextvars.Context()
            batch.loop.call_later(BUSY_PAUSE, self._commit_batch, batch, context=context)
        else:
            self._close_batch(batch)
        for request in requests:
            if now >= request.retry_until and not request.result.cancelled():
                request.result.set_result(error)
        # Skip if nothing was claimed: a call after `stop()` would restart the worker.
        stored = [result for result in results if not isinstance(result, BaseException)]
        if claimed := [run for _, runs in stored for run in runs]:
            self._worker.release_claims(claimed)

    def _close_batch(self, batch: _WriteBatch) -> None:
        if self._batch is batch:
            self._batch = None

    def _start_unanswered(self, result: _Accepted | BaseException) -> None:
        """Start the runs of a stored delivery whose request was cancelled."""
        response, claimed = self._reject_unstored(result)
        self._receiver.log_malformed(response)
        if response.accepted is not None:
            self._worker.start_runs(response.accepted, claimed)

    def _store(self, prepared: Prepared, context: contextvars.Context) -> _Accepted | Exception:
        """Store a delivery, and claim its runs that can start now.

        If it is not stored, this returns the `StoreError`. Other exceptions fail the whole batch.
        """
        try:
            response = self._receiver.store(prepared)
        except StoreError as error:
            return error
        if response.accepted is None:
            return response, []
        return response, self._worker.claim(response.accepted, context)

    def _reject_unstored(self, result: _Accepted | BaseException) -> _Accepted:
        if isinstance(result, BaseException):
            return self._receiver.reject("not stored", text_of(result)), []
        return result

    def _store_rejections_soon(self) -> None:
        if self._rejections_timer is None and self._worker.is_started:
            loop = running_loop()
            if loop is not None:
                context = contextvars.Context()
                self._rejections_timer = loop.call_later(
                    _REJECTIONS_SECONDS, self._store_rejections, context=context
                )

    def _store_rejections(self) -> None:
        if self._rejections_timer is not None:
            self._rejections_timer.cancel()
            self._rejections_timer = None
        if self._worker.is_started:
            try:
                self._receiver.store_rejections()
            except StoreError as error:
                # The counts stay in memory until the next try.
                logger.warning("cannot store the number of rejected requests now: %s", error)

    async def _read(self, headers: Headers, receive: Receive) -> _Accepted:
        """Read the body up to the limit, match its event, and store the delivery."""
        try:
            body = await read_body(receive, self._receiver.max_body_size, headers)
        except BodyError as error:
            return self._receiver.reject(error.case, error.detail), []
        context = contextvars.copy_context()
        try:
            # `when=` is user code. Like each run, it gets a copy of the request's context.
            process = os.getpid()
            is_direct = is_server_receive(receive)
            prepare = functools.partial(self._receiver.prepare, headers, body, is_direct=is_direct)
            prepared = context.copy().run(prepare)
            end_forked_child(process)
            if not isinstance(prepared, Prepared):
                return prepared, []
        # The response is 503, as for a failed batch: the Hub retries the delivery.
        except BaseException as error:
            if is_interrupt(error):
                raise
            _log_store_failure(error)
            return self._reject_unstored(error)
        return await self._store_batched(prepared)


class _PendingRequest:
    """A request whose delivery is not stored yet."""

    __slots__ = ("context", "prepared", "result", "retry_until")

    def __init__(
        self,
        prepared: Prepared,
        result: asyncio.Future[_Accepted | BaseException],
        retry_until: float,
        context: contextvars.Context,
    ) -> None:
        self.prepared = prepared
        self.result = result
        self.retry_until = retry_until
        """The monotonic time until which a busy store is retried."""
        self.context = context
        """The `contextvars` context of the request."""


class _WriteBatch:
    """The pending requests of one loop iteration, stored in one transaction."""

    __slots__ = ("loop", "requests")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.requests: list[_PendingRequest] = []


def check_event_loop() -> None:
    """Raise `ConfigError` if the running event loop is not asyncio's."""
    if running_loop() is None:
        raise ConfigError(_ASYNCIO_NEEDED)


def _log_store_failure(error: BaseException) -> None:
    """Log an unexpected error with its traceback. The rejection logs a `StoreError`."""
    if not isinstance(error, StoreError):
        logger.error("cannot store deliveries", exc_info=error)


async def _send(response: Response, send: Send, *, closing: bool = False) -> bool:
    """Send a response; False if the server reports that the client disconnected."""
    # A copy: middleware adds headers to it, and some responses are shared.
    headers = [*response.headers]
    if closing:
        headers.append((b"connection", b"close"))
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
    except OSError:
        return False
    return True


def is_server_receive(receive: Receive) -> bool:
    """Return whether a `receive` is the server's own: `http.disconnect` is then a disconnection.

    Middleware that has read the body may send `http.disconnect` while the client is connected.
    """
    receive = getattr(receive, "asgi_receive", receive)
    owner = getattr(receive, "__self__", None)
    if isinstance(owner, asyncio.Queue):
        return _is_hypercorn_queue(receive)
    return type(owner).__module__.partition(".")[0] in _SERVERS


def _is_hypercorn_queue(receive: Receive) -> bool:
    """Return whether hypercorn itself passed this `receive` to the app.

    Hypercorn passes the `get` method of a queue. Some middleware also passes such a method.
    """
    task = asyncio.current_task()
    frame = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
    return (
        frame is not None
        and frame.f_globals.get("__name__", "").startswith("hypercorn.")
        and frame.f_locals.get("receive") == receive
    )


async def _client_disconnected(receive: Receive) -> bool:
    """Return whether the client disconnected while the body waited to be read."""
    receiving = asyncio.ensure_future(receive())
    try:
        for _ in range(_POLL_TURNS):
            await asyncio.sleep(0)
        if not receiving.done():
            return False
        return receiving.exception() is not None or receiving.result()["type"] == "http.disconnect"
    finally:
        receiving.cancel()
