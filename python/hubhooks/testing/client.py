"""Deliver events to handlers without a server: `TestClient` and its results."""

from __future__ import annotations

import asyncio
import difflib
import functools
import inspect
import itertools
import json
import re
import sys
import weakref
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from hubhooks._core import HubEvent, Verifier
from hubhooks._functions import check_ran, settle
from hubhooks._http.app import WebhookApp
from hubhooks._http.receiver import Receiver
from hubhooks._samples import compact, sample_json
from hubhooks._store import schema
from hubhooks._store.sqlite import IN_MEMORY, SqliteStore
from hubhooks._worker.pools import running_loop
from hubhooks._worker.service import WorkerService
from hubhooks.errors import ConfigError, PayloadError
from hubhooks.models import Deliveries, State
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import (
        Awaitable,
        Callable,
        Container,
        Coroutine,
        KeysView,
        Mapping,
        Sequence,
    )
    from typing import TypeAlias, TypedDict

    from typing_extensions import Unpack

    from hubhooks._http.types import Message
    from hubhooks._store.base import AcceptResult, DeliveryStore, Due, Recorded, Status
    from hubhooks.handlers import Handler, Hook, HookName
    from hubhooks.models import RunContext

    Sendable: TypeAlias = HubEvent | bytes | Mapping[str, Any] | str
    ResultStatus: TypeAlias = Status | Literal["rejected"]

    class Options(TypedDict, total=False):
        """The options of each call of a client."""

        secret: str | None
        raise_errors: bool
        timeout: float


__all__ = ["HandlerRun", "Result", "TestClient"]

# A secret of its own: a test must not depend on WEBHOOK_SECRET.
_SECRET = "hubhooks.testing"  # noqa: S105 - not a real secret
_CLEAN_UP_SECONDS = 1.0
_NAMED = re.compile("`(.+?)` ")


class HandlerRun(NamedTuple):
    """The run of a handler on a delivery."""

    name: str
    state: State
    """`succeeded`, `failed`, or `ignored` after `Ignore`."""
    value: Any = None
    """The return value."""
    error: BaseException | None = None
    """The exception; None if it raised none."""
    attempt: int = 1
    """The number of the attempt, from 1."""

    def __repr__(self) -> str:
        ended = f", raised {self.error!r}" if self.error else f", returned {self.value!r}"
        return f"<`{self.name}` {self.state}{ended}>"


class Result:
    """The response to a delivery, and the runs of the handlers."""

    def __init__(  # noqa: PLR0913 - a plain record
        self,
        http_status: int,
        body: dict[str, Any],
        *,
        delivery_id: str,
        event: HubEvent | None,
        runs: list[HandlerRun],
        errors: list[BaseException],
        router: Router,
    ) -> None:
        self.http_status = http_status
        """The HTTP status of the response."""
        self.body = body
        """The JSON of the response."""
        self.delivery_id = delivery_id
        """The `Webhook-Id`."""
        self.event = event
        """The event; None if the body is malformed."""
        self.runs = runs
        """The runs of the handlers, in the order of registration."""
        self.errors = errors
        """The exceptions of handlers and hooks, without `Ignore`."""
        self._router = router

    @property
    def status(self) -> ResultStatus:
        """The status in the JSON, such as `accepted`, `duplicate` or `rejected`."""
        status: ResultStatus = self.body["status"]
        return status

    @property
    def handlers(self) -> list[str]:
        """The names of the handlers that ran."""
        return [run.name for run in self.runs]

    def __getitem__(self, name: str) -> HandlerRun:
        """Return the run of one handler.

        Raises:
            LookupError: the handler did not run; the message says why.
        """
        for run in self.runs:
            if run.name == name:
                return run
        raise LookupError(self._why_not(name))

    def explain(self) -> list[str]:
        """Explain for each handler why it matches the event, or why not."""
        if self.event is None:
            return ["the body is malformed"]
        return self._router.explain(self.event)

    def __repr__(self) -> str:
        if self.runs:
            detail = ", ".join(map(repr, self.runs))
        elif self.status == "unhandled":
            detail = "; ".join(self.explain())
        else:
            detail = self.body.get("reason", "")
        return f"<Result {self.http_status} {self.status}: {detail}>"

    def _why_not(self, name: str) -> str:
        lines = self.explain()
        if self._router.handler(name) is None:
            first_words = (named[1] for line in lines if (named := _NAMED.match(line)))
            names = [word for word in first_words if self._router.handler(word)]
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(names)}"
            return f"there is no handler `{name}`; {hint if names else lines[0]}"
        if self.status not in ("unhandled", "accepted"):
            return f"`{name}` did not run: {self.status}, {self.body.get('reason', '')}"
        mine = [line for line in lines if line.startswith(f"`{name}` ")]
        return mine[0] if mine else f"`{name}` did not run; {lines[0]}"


class TestClient:
    """Delivers events to handlers, in this process.

    It checks the secret, stores the delivery and runs the handlers: sync ones in threads, async
    ones on an event loop. Each call returns after all handlers and hooks ended. The settings are
    those of `hooks`. The secret and the store are the client's own, so tests need no
    WEBHOOK_SECRET, and do not affect each other.

    Args:
        hooks: a `Webhooks`, or any `Router`.
        raise_errors: raise the first exception of a handler or a hook, so that the test fails.
            With False, the exceptions are only in the result.
        timeout: the seconds that a delivery may take.

    Raises:
        ConfigError: `hooks` is neither.
    """

    # Keeps pytest from collecting the class where a test module imports it.
    __test__ = False

    def __init__(self, hooks: Router, *, raise_errors: bool = True, timeout: float = 10) -> None:
        _check_hooks(hooks)
        settings = (hooks if isinstance(hooks, Webhooks) else Webhooks()).settings
        verifier = None if settings.allow_unsigned else Verifier(_SECRET)
        self._hooks = hooks
        self._store = _ImmediateRetryStore(IN_MEMORY, on_replay=settings.on_replay)
        self._receiver = Receiver(
            hooks,
            self._store,
            lambda: verifier,
            allow_unsigned=settings.allow_unsigned,
            max_body_size=settings.max_body_size,
        )
        self._raise_errors = raise_errors
        self._timeout = timeout
        self._bodies: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def deliveries(self) -> Deliveries:
        """The deliveries sent so far, as `Webhooks.deliveries` shows them."""
        return Deliveries(lambda: self._store, self._replay_stored)

    def _replay_stored(self, delivery_id: str, handlers: Sequence[str]) -> tuple[str, ...]:
        if handlers:
            msg = "a test client replays all handlers of a delivery: `client.replay(id)`"
            raise ConfigError(msg)
        return tuple(self.replay(delivery_id).handlers)

    def send(
        self,
        event: Sendable,
        *,
        id: str | None = None,  # noqa: A002 - the name of the field in `RunContext`
        **options: Unpack[Options],
    ) -> Result:
        """Deliver an event for the first time.

        Args:
            event: an event, the name of a sample, or a body as bytes or as a dict.
            id: the `Webhook-Id`; by default a new one.
            options: `secret`, to send a wrong one, or None to send none; `raise_errors` and
                `timeout`, as for the client.

        Raises:
            TimeoutError: a handler still runs.
            ConfigError: the id was sent before, or there is no such sample or option.
            RuntimeError: an event loop runs in this thread; use `await client.asend(...)` there.
        """
        __tracebackhide__ = True
        return self._checked(self._wait("send", self._first(event, id, options)), options)

    def replay(self, id: str, **options: Unpack[Options]) -> Result:  # noqa: A002 - as in `send`
        """Deliver a delivery again, like the Replay button on the Hub.

        Args:
            id: the `Webhook-Id` of the delivery.
            options: as for `send`.

        Raises:
            ConfigError: no such delivery was sent, or there is no such option.
        """
        __tracebackhide__ = True
        return self._checked(self._wait("replay", self._deliver(id, options)), options)

    def retry(self, id: str, **options: Unpack[Options]) -> Result:  # noqa: A002 - as in `send`
        """Deliver a delivery again, like the Hub after a lost response.

        Args:
            id: the `Webhook-Id` of the delivery.
            options: as for `send`.

        Raises:
            ConfigError: no such delivery was sent, or there is no such option.
        """
        __tracebackhide__ = True
        return self._checked(self._wait("retry", self._retry_unacknowledged(id, options)), options)

    async def asend(
        self,
        event: Sendable,
        *,
        id: str | None = None,  # noqa: A002 - as in `send`
        **options: Unpack[Options],
    ) -> Result:
        """Do the same as `send`, in the running event loop."""
        __tracebackhide__ = True
        return self._checked(await self._first(event, id, options), options)

    async def areplay(self, id: str, **options: Unpack[Options]) -> Result:  # noqa: A002 - as in `send`
        """Do the same as `replay`, in the running event loop."""
        __tracebackhide__ = True
        return self._checked(await self._deliver(id, options), options)

    async def aretry(self, id: str, **options: Unpack[Options]) -> Result:  # noqa: A002 - as in `send`
        """Do the same as `retry`, in the running event loop."""
        __tracebackhide__ = True
        return self._checked(await self._retry_unacknowledged(id, options), options)

    def close(self) -> None:
        """Cancel tasks that handlers left behind. It also happens when the client is deleted."""
        if self._loop is not None:
            self._end_loop()
            self._loop = None

    async def _first(self, event: Sendable, delivery_id: str | None, options: Options) -> Result:
        _check_options(options, "id")
        body = _body(event)
        if delivery_id is None:
            names = (f"delivery-{number}" for number in self._numbers)
            delivery_id = next(new for new in names if new not in self._bodies)
        elif delivery_id in self._bodies:
            msg = (
                f"delivery `{delivery_id}` was sent before; send it again with `retry`, as the Hub "
                "does, or with `replay`"
            )
            raise ConfigError(msg)
        self._bodies[delivery_id] = body
        return await self._deliver(delivery_id, options)

    async def _retry_unacknowledged(self, delivery_id: str, options: Options) -> Result:
        _check_options(options)
        self._store.mark_unacknowledged(delivery_id)
        return await self._deliver(delivery_id, options)

    async def _deliver(self, delivery_id: str, options: Options) -> Result:
        _check_options(options)
        if delivery_id not in self._bodies:
            known = ", ".join(f"`{known}`" for known in self._bodies) or "none"
            msg = f"no delivery `{delivery_id}` was sent; sent so far: {known}"
            raise ConfigError(msg)
        body = self._bodies[delivery_id]
        recording = _RecordingRouter(self._hooks)
        # One worker for each delivery: it stops after the handlers and hooks of this delivery.
        worker = WorkerService(
            recording, cast("DeliveryStore", _SingleDeliveryStore(self._store, delivery_id))
        )
        secret = options.get("secret", _SECRET)
        # Started here, because the ASGI app would log the start.
        worker.start()
        status, response_body = await _post(
            WebhookApp(self._receiver, worker), body, delivery_id, secret
        )
        await self._finish(worker, delivery_id, options.get("timeout", self._timeout))
        runs = [
            self._run_of(delivery_id, name, recording) for name in response_body.get("handlers", ())
        ]
        failures = [run.error for run in runs if run.state == State.FAILED and run.error]
        return Result(
            status,
            response_body,
            delivery_id=delivery_id,
            event=_event(body),
            runs=runs,
            errors=[*failures, *recording.hook_errors],
            router=self._hooks,
        )

    def _checked(self, result: Result, options: Options) -> Result:
        __tracebackhide__ = True
        if not result.errors or not options.get("raise_errors", self._raise_errors):
            return result
        error = result.errors[0]
        if isinstance(error, asyncio.CancelledError):
            # Raised directly, it would look like a cancellation of the test.
            msg = "a handler was cancelled"
            raise RuntimeError(msg) from error  # noqa: TRY004 - no type is wrong
        # The traceback shows the line of the test and the handler, without the frames between.
        traceback = error.__traceback__
        while traceback and traceback.tb_frame.f_globals["__name__"].startswith("hubhooks."):
            traceback = traceback.tb_next
        raise error.with_traceback(traceback)

    async def _finish(self, worker: WorkerService, delivery_id: str, timeout: float) -> None:
        unfinished: list[str] = []

        def look() -> None:
            delivery = self._store.get(delivery_id)
            runs = delivery.runs if delivery else ()
            busy = [run.handler for run in runs if run.is_open]
            unfinished.extend(busy or ["a hook"])

        # Just before the worker cancels unfinished runs.
        timer = asyncio.get_running_loop().call_later(timeout, look)
        await worker.stop(timeout)
        timer.cancel()
        if unfinished:
            what = " and ".join(name if name == "a hook" else f"`{name}`" for name in unfinished)
            msg = f"after {timeout:g} s, delivery `{delivery_id}` still runs {what}"
            raise TimeoutError(msg)

    def _run_of(self, delivery_id: str, name: str, recording: _RecordingRouter) -> HandlerRun:
        delivery = self._store.get(delivery_id)
        assert delivery is not None  # noqa: S101 - the delivery was accepted, so it is stored
        run = delivery.run(name)
        # A run that succeeded after a retry has no error.
        error = None if run.state == State.SUCCEEDED else recording.errors.get(name)
        if run.state == State.FAILED and error is None:
            error = RuntimeError(run.error)
        value = recording.values.get(name) if run.state == State.SUCCEEDED else None
        return HandlerRun(name, run.state, value, error, run.attempts)

    def _wait(self, method: str, result: Coroutine[Any, Any, Result]) -> Result:
        if running_loop() is not None:
            result.close()
            msg = f"`{method}` cannot run inside an event loop; write `await client.a{method}(...)`"
            raise RuntimeError(msg)
        # One loop for all calls, as in a server: objects that handlers keep belong to it.
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._end_loop = weakref.finalize(self, _close, self._loop)
        return self._loop.run_until_complete(result)


class _ImmediateRetryStore(SqliteStore):
    """A store in which retries have no delay, and runs do not wait for others."""

    def finish_run(  # noqa: PLR0913 - the facts of an end
        self,
        run_context: RunContext,
        ending: State,
        error: str = "",
        traceback: str = "",
        *,
        retry_after: float | None = None,
        recorded: Recorded | None = None,
    ) -> None:
        """Record the end of a run. A retry starts at once."""
        again = None if retry_after is None else 0.0
        super().finish_run(
            run_context, ending, error, traceback, retry_after=again, recorded=recorded
        )

    def accept(self, *arguments: Any, **options: Any) -> AcceptResult:  # noqa: ANN401 - passed on
        """Store a delivery. Its runs do not wait for others: it has the worker alone."""
        options.pop("groups", None)
        return super().accept(*arguments, **options)

    def mark_unacknowledged(self, delivery_id: str) -> None:
        """Record that the response was lost."""
        with self.transaction():
            self._db.execute(schema.CLEAR_ACKNOWLEDGED, (delivery_id,))


class _SingleDeliveryStore:
    """A view of the store with one delivery, for the worker of that delivery."""

    def __init__(self, store: SqliteStore, delivery_id: str) -> None:
        self._store = store
        self._delivery_id = delivery_id

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any other method of the store
        return getattr(self._store, name)

    def list_ready(
        self,
        limit: int,
        without: Sequence[str] = (),
        *,
        among: Container[str] | None = None,
        crashed: bool = False,
        grouped: Container[str] = (),  # noqa: ARG002 - runs start at once
    ) -> list[Due]:
        everything = self._store.list_ready(sys.maxsize, without, among=among, crashed=crashed)
        return [due for due in everything if due[0] == self._delivery_id][:limit]


class _RecordingRouter(Router):
    """A router that records the results and exceptions of its handlers and hooks."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self._router = router
        self.values: dict[str, Any] = {}
        self.errors: dict[str, BaseException] = {}
        self.hook_errors: list[BaseException] = []

    def handler(self, name: str) -> Handler | None:
        known = self._router.handler(name)
        if known is None:
            return None
        function = _recorded(
            known.function,
            functools.partial(self.values.__setitem__, name),
            functools.partial(self.errors.__setitem__, name),
        )
        recorded = copy(known)
        recorded.function = function
        return recorded

    @property
    def handler_names(self) -> KeysView[str]:
        return self._router.handler_names

    def hooks_for(self, hook_name: HookName) -> tuple[Hook, ...]:
        return tuple(self._recorded_hook(hook) for hook in self._router.hooks_for(hook_name))

    def _recorded_hook(self, hook: Hook) -> Hook:
        fail = self.hook_errors.append
        recorded = copy(hook)
        recorded.function = _recorded(hook.function, lambda _: None, fail)
        return recorded


def _recorded(
    function: Callable[..., Any],
    returned: Callable[[Any], None],
    raised: Callable[[BaseException], None],
) -> Callable[..., Any]:
    def call(*arguments: object) -> object:
        try:
            value = function(*arguments)
            if inspect.isawaitable(value):
                return rest(value)
            check_ran(value)
        except BaseException as error:
            raised(error)
            raise
        returned(value)
        return value

    async def rest(awaitable: Awaitable[object]) -> object:
        try:
            value = await settle(await awaitable)
        except BaseException as error:
            raised(error)
            raise
        returned(value)
        return value

    return call


def _check_hooks(hooks: object) -> None:
    if not isinstance(hooks, Router):
        what = f"a `{type(hooks).__name__}`"
        if isinstance(hooks, type):
            what = f"the class `{hooks.__name__}`"
        msg = f"write `TestClient(hooks)` with a `Webhooks` or a `Router`, not {what}"
        raise ConfigError(msg)


def _check_options(options: Mapping[str, object], *more: str) -> None:
    names = (*more, "secret", "raise_errors", "timeout")
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(names)}"
            msg = f"`{name}` is not an option of a delivery; {hint}"
            raise ConfigError(msg)


def _body(event: Sendable) -> bytes:
    if isinstance(event, HubEvent):
        return event.raw
    if isinstance(event, bytes):
        return event
    return compact(sample_json(event) if isinstance(event, str) else event)


def _event(body: bytes) -> HubEvent | None:
    try:
        return HubEvent.from_json(body)
    except PayloadError:
        return None


async def _post(
    app: WebhookApp, body: bytes, delivery_id: str, secret: str | None
) -> tuple[int, dict[str, Any]]:
    """Send one request to the ASGI app, and return the response."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"webhook-id", delivery_id.encode("latin-1")),
    ]
    if secret is not None:
        headers.append((b"x-webhook-secret", secret.encode()))
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        # After the body, the client sends nothing and stays connected.
        return unread.pop() if unread else await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    start, end = sent
    return start["status"], json.loads(end["body"])


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close a client's event loop, and cancel the tasks that handlers left on it."""
    tasks = [task for task in asyncio.all_tasks(loop) if task.cancel()]
    if tasks and running_loop() is None:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_CLEAN_UP_SECONDS))
    loop.close()
