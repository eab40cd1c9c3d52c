"""A handler is awaited if it is async in any form, and never succeeds if its body never ran."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import sys
import threading
import types
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest
from servers import PATIENCE, wait_until

from hubhooks import HubEvent, Router, RunContext, Webhooks, testing
from hubhooks._store.sqlite import SqliteStore
from hubhooks._worker.service import WorkerService
from hubhooks.errors import ConfigError
from hubhooks.models import AcceptedRuns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator

    from hubhooks.models import Run

    Event = Callable[..., HubEvent]
    Body = Callable[..., bytes]

bodies: list[Any] = []
"""The arguments of each body that ran."""


@pytest.fixture(autouse=True)
def _no_bodies() -> None:
    bodies.clear()


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Find a coroutine that was never awaited in the test that made it."""
    yield
    gc.collect()


# ---- functions and decorators ------------------------------------------------------------------


def sync(event: HubEvent) -> None:
    bodies.append(event)


async def coroutine(event: HubEvent) -> None:
    await asyncio.sleep(0)
    bodies.append(event)


async def coroutine_with_delivery(event: HubEvent, context: RunContext) -> None:
    await asyncio.sleep(0)
    bodies.append((event, context.id))


def generator(event: HubEvent) -> Iterator[None]:
    bodies.append(event)
    yield


async def async_generator(event: HubEvent) -> AsyncIterator[None]:
    bodies.append(event)
    yield


@contextlib.contextmanager
def context_manager(event: HubEvent) -> Iterator[None]:
    bodies.append(event)
    yield


@contextlib.asynccontextmanager
async def async_context_manager(event: HubEvent) -> AsyncIterator[None]:
    bodies.append(event)
    yield


@types.coroutine
def generator_based(event: HubEvent) -> Generator[None, None, None]:
    bodies.append(event)
    yield


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate as most decorators do."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def wrapped_async(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate with an `async def` that does not await."""

    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def run_to_the_end(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a sync function of an async one."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return asyncio.run(function(*args))

    return wrapper


def exhausted(function: Callable[..., Iterator[object]]) -> Callable[..., Any]:
    """Make a plain function of a generator function."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return len(list(function(*args)))

    return wrapper


def retry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Act as a decorator with options that was written without its parentheses."""

    def decorate(event: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return event(*args)

        return wrapper

    return decorate


def undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate without `functools.wraps`."""

    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Decorator:
    """A decorator that is a class."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class Lazy:
    """An awaitable that does nothing before it is awaited."""

    def __init__(self, event: HubEvent) -> None:
        self._event = event

    def __await__(self) -> Generator[None, None, None]:
        bodies.append(self._event)
        yield


class Bot:
    async def method(self, event: HubEvent) -> None:
        await coroutine(event)

    @classmethod
    async def of_class(cls, event: HubEvent) -> None:
        await coroutine(event)

    @staticmethod
    async def of_none(event: HubEvent) -> None:
        await coroutine(event)

    wrapped = wrapped(method)
    partial = functools.partialmethod(method)

    async def __call__(self, event: HubEvent) -> None:
        await coroutine(event)


def handle(function: Any, event: HubEvent, **options: Any) -> Run:
    """Run a handler on an event as a server does, to its end."""
    router, store = Router(), SqliteStore(":memory:")
    router.add(function, name="handler", **options)
    worker = WorkerService(router, store)

    async def serve() -> None:
        worker.start()
        accepted = AcceptedRuns("d1", ("handler",), event)
        store.accept("d1", event.raw, ("handler",))
        worker.submit(accepted)
        await worker.stop(PATIENCE)

    asyncio.run(serve())
    delivery = store.get("d1")
    assert delivery is not None
    return delivery.run("handler")


# ---- async functions in any form ---------------------------------------------------------------

ASYNC_FUNCTIONS = {
    "wraps": wrapped(coroutine),
    "wraps twice": wrapped(wrapped(coroutine)),
    "wraps a partial": functools.partial(wrapped(coroutine)),
    "async wraps": wrapped_async(coroutine),
    "async wraps around wraps": wrapped_async(wrapped(coroutine)),
    "class": Decorator(coroutine),
    "no wraps": undecorated(coroutine),
    "partial": functools.partial(coroutine),
    "method": Bot().method,
    "classmethod": Bot.of_class,
    "staticmethod": staticmethod(coroutine),
    "static method": Bot().of_none,
    "wrapped method": Bot().wrapped,
    "partialmethod": Bot().partial,
    "object": Bot(),
    "wraps an object": wrapped(Bot()),
    "singledispatch": functools.singledispatch(coroutine),
    "cache": functools.lru_cache(coroutine),
    "awaitable": Lazy,
    "returns an awaitable": undecorated(Lazy),
    "wraps an awaitable": wrapped(Lazy),
    "generator based": generator_based,
    "wraps generator based": wrapped(generator_based),
    "spec": create_autospec(coroutine, side_effect=coroutine),
    "mock": AsyncMock(side_effect=coroutine),
    "mock with spec": Mock(spec=coroutine, side_effect=coroutine),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ASYNC_FUNCTIONS)
def test_async_function_in_any_form_is_awaited(name: str, event: Event) -> None:
    run = handle(ASYNC_FUNCTIONS[name], event("repo.create"))
    assert (run.state, run.error) == ("succeeded", "")
    assert bodies == [event("repo.create")]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there is no such mark")
def test_function_marked_as_a_coroutine_function_is_awaited(event: Event) -> None:
    mark: Any = vars(inspect).get("markcoroutinefunction")
    marked = mark(undecorated(coroutine))
    assert handle(marked, event("repo.create")).state == "succeeded"
    assert bodies == [event("repo.create")]
    with pytest.raises(ConfigError, match="not async"):
        Router().add(sync, name="x", when=marked)


def test_function_marked_for_asyncio_is_async(event: Event) -> None:
    marked: Any = undecorated(coroutine)
    vars(marked).update(_is_coroutine=vars(asyncio.coroutines)["_is_coroutine"])
    with pytest.raises(ConfigError, match="not async"):
        Router().add(sync, name="x", when=marked)
    assert handle(marked, event("repo.create")).state == "succeeded"
    assert bodies == [event("repo.create")]


def test_wrapped_async_function_gets_the_context(event: Event) -> None:
    assert handle(wrapped(coroutine_with_delivery), event("repo.create")).state == "succeeded"
    assert bodies == [(event("repo.create"), "d1")]


def test_wrapped_async_function_runs_on_the_servers_loop(event: Event) -> None:
    loops: list[object] = []

    async def note() -> None:
        loops.append(asyncio.get_running_loop())

    class Server:
        @wrapped
        async def handler(self, event: HubEvent) -> None:
            await note()

    router, store = Router(), SqliteStore(":memory:")
    router.add(Server().handler)
    worker = WorkerService(router, store)

    async def serve() -> None:
        worker.start()
        (handler,) = router.match(event("repo.create"))
        store.accept("d1", event("repo.create").raw, (handler.name,))
        worker.submit(AcceptedRuns("d1", (handler.name,), event("repo.create")))
        await worker.stop(PATIENCE)
        loops.append(asyncio.get_running_loop())

    asyncio.run(serve())
    assert loops[0] is loops[1]


def test_wrapper_that_runs_the_coroutine_works(event: Event) -> None:
    assert handle(run_to_the_end(coroutine), event("repo.create")).state == "succeeded"
    assert bodies == [event("repo.create")]


def test_wrapper_that_exhausts_the_generator_works(event: Event) -> None:
    assert handle(exhausted(generator), event("repo.create")).state == "succeeded"
    assert bodies == [event("repo.create")]


def test_wrapped_async_error_is_recorded_and_retried(event: Event) -> None:
    async def fails(event: HubEvent) -> None:
        bodies.append(event)
        raise LookupError

    run = handle(wrapped(fails), event("repo.create"), retries=1, backoff=0)
    assert (run.state, run.error, run.attempts, len(bodies)) == ("failed", "LookupError", 2, 2)


def test_timeout_cancels_a_wrapped_async_function(event: Event) -> None:
    async def waits(event: HubEvent) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            bodies.append("cancelled")
            raise

    run = handle(wrapped(waits), event("repo.create"), timeout=0.05)
    assert (run.state, bodies) == ("failed", ["cancelled"])
    assert run.error == "TimeoutError: it took more than 0.05 s"


def test_wrapped_async_function_is_cancelled_when_the_server_stops(event: Event) -> None:
    is_waiting = threading.Event()

    async def waits(event: HubEvent) -> None:
        is_waiting.set()
        await asyncio.Event().wait()

    router, store = Router(), SqliteStore(":memory:")
    router.add(wrapped(waits), name="handler")
    worker = WorkerService(router, store)

    async def serve() -> None:
        worker.start()
        store.accept("d1", event("repo.create").raw, ("handler",))
        worker.submit(AcceptedRuns("d1", ("handler",), event("repo.create")))
        await asyncio.to_thread(is_waiting.wait, PATIENCE)
        await worker.stop(0)

    asyncio.run(serve())
    delivery = store.get("d1")
    assert delivery is not None
    assert delivery.run("handler").state == "failed"
    assert "CancelledError" in delivery.run("handler").error


def test_coroutine_returned_after_the_stop_is_closed_and_recorded(event: Event) -> None:
    is_called, may_return = threading.Event(), threading.Event()

    def returns_late(event: HubEvent) -> Awaitable[None]:
        is_called.set()
        may_return.wait(PATIENCE)
        return coroutine(event)

    router, store = Router(), SqliteStore(":memory:")
    router.add(returns_late, name="handler")
    worker = WorkerService(router, store)

    async def serve() -> None:
        worker.start()
        store.accept("d1", event("repo.create").raw, ("handler",))
        worker.submit(AcceptedRuns("d1", ("handler",), event("repo.create")))
        await asyncio.to_thread(is_called.wait, PATIENCE)
        await worker.stop(0)

    asyncio.run(serve())
    may_return.set()

    def ended() -> bool:
        delivery = store.get("d1")
        return delivery is not None and delivery.run("handler").state == "failed"

    wait_until(ended)
    assert bodies == []


def test_wrapped_async_function_sees_the_context_of_its_wrapper(event: Event) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def reads(event: HubEvent) -> None:
        bodies.append(variable.get())

    @functools.wraps(reads)
    def wrapper(event: HubEvent) -> Awaitable[None]:
        variable.set("set by the wrapper")
        return reads(event)

    assert handle(wrapper, event("repo.create")).state == "succeeded"
    assert bodies == ["set by the wrapper"]


def test_wrapped_async_function_runs_in_a_job(
    body: Body, capsys: pytest.CaptureFixture[str]
) -> None:
    hooks = Webhooks(allow_unsigned=True)
    hooks.add(wrapped(coroutine), name="handler")
    environ = {"WEBHOOK_PAYLOAD": body("repo.create").decode()}
    with pytest.raises(SystemExit) as ended:
        hooks.run_job(environ)
    assert ended.value.code == 0, capsys.readouterr().out
    assert len(bodies) == 1


def test_wrapped_async_function_runs_on_a_real_server(
    body: Body, serve: Callable[..., Any], post: Callable[..., Any]
) -> None:
    hooks = Webhooks("moon")
    hooks.add(wrapped(coroutine), name="handler")
    with serve(hooks) as port:
        status, data = post(port, body("repo.create"))
        assert (status, data["handlers"]) == (202, ["handler"])
        wait_until(lambda: bodies)


def test_decorator_that_adds_a_parameter_gets_its_argument(event: Event) -> None:
    """The wrapped function takes a second argument that is no delivery."""

    async def stores(event: HubEvent, client: str) -> None:
        bodies.append((event, client))

    @functools.wraps(stores)
    def wrapper(event: HubEvent) -> Awaitable[None]:
        return stores(event, "client")

    @functools.wraps(stores)
    def with_delivery(event: HubEvent, context: RunContext) -> Awaitable[None]:
        return stores(event, context.id)

    class Method:
        @functools.wraps(stores)
        def method(self, event: HubEvent) -> Awaitable[None]:
            return stores(event, "self")

    assert handle(wrapper, event("repo.create")).error == ""
    assert handle(Method().method, event("repo.create")).error == ""
    assert handle(with_delivery, event("repo.create")).error == ""
    assert [client for _, client in bodies] == ["client", "self", "d1"]


# ---- a body that never ran -----------------------------------------------------------------------

NEVER_RUN = {
    "generator": (wrapped(generator), "a generator"),
    "async generator": (wrapped(async_generator), "a generator"),
    "context manager": (wrapped(context_manager), "a context manager"),
    "async context manager": (wrapped(async_context_manager), "a context manager"),
    "generator without wraps": (undecorated(generator), "a generator"),
    "generator of a class": (Decorator(generator), "a generator"),
    "generator of an async wrapper": (wrapped_async(generator), "a generator"),
    "async generator of an async wrapper": (wrapped_async(async_generator), "a generator"),
    "context manager of an async wrapper": (
        wrapped_async(async_context_manager), "a context manager"
    ),
    "decorator without parentheses": (retry(sync), "another function"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", NEVER_RUN)
def test_run_fails_if_the_body_never_ran(name: str, event: Event) -> None:
    function, what = NEVER_RUN[name]
    run = handle(function, event("repo.create"))
    assert run.state == "failed"
    assert run.error.startswith(f"TypeError: the function returned {what}, so its body never ran; ")
    assert bodies == []


REJECTED = {
    "generator": generator,
    "async generator": async_generator,
    "context manager": context_manager,
    "async context manager": async_context_manager,
    "partial": functools.partial(async_context_manager),
}


class Guard(contextlib.ContextDecorator):
    """A context manager that is a decorator too."""

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize("function", [*REJECTED.values(), Guard()(generator)])
def test_function_that_yields_is_rejected(function: Any) -> None:
    router = Router()
    with pytest.raises(ConfigError, match=r"because it contains `yield`; write .* without"):
        router.add(function, name="handler")
    with pytest.raises(ConfigError, match="must be a plain function"):
        router.add(sync, name="handler", when=function)
    with pytest.raises(ConfigError, match="a plain function"):
        router.add(sync, name="handler", backoff=function)
    with pytest.raises(ConfigError, match="would never run, because it contains `yield`"):
        router.on_unhandled(function)
    assert router.handler("handler") is None


def test_standard_context_decorators_are_accepted(event: Event) -> None:
    assert handle(Guard()(sync), event("repo.create")).state == "succeeded"
    assert (
        handle(context_manager(event("repo.create"))(sync), event("repo.create")).state
        == "succeeded"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "function", [coroutine, wrapped(coroutine), Decorator(coroutine), AsyncMock(), Bot().wrapped]
)
def test_async_function_is_no_predicate_and_no_backoff(function: Any) -> None:
    router = Router()
    with pytest.raises(ConfigError, match="`when` of handler `x` must be a plain function"):
        router.add(sync, name="x", when=function)
    with pytest.raises(ConfigError, match="a plain function"):
        router.add(sync, name="x", backoff=function)


@pytest.mark.parametrize("when", [undecorated(coroutine), wrapped(generator), retry(sync)])
def test_predicate_that_never_ran_does_not_match(
    when: Any, event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router()
    router.add(sync, name="x", when=when)
    assert router.match(event("repo.create")) == []
    assert "`when` of handler `x` failed" in caplog.text
    assert "so its body never ran" in caplog.text
    assert router.explain(event("repo.create")) == [
        "`x` does not match: its `when` raised TypeError"
    ]


def test_backoff_that_never_ran_is_reported(
    event: Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubhooks._worker.backoff.DEFAULT_DELAY", 0)

    def fails(event: HubEvent) -> None:
        raise LookupError

    handle(fails, event("repo.create"), retries=1, backoff=undecorated(coroutine))
    assert "the function returned a coroutine, so its body never ran" in caplog.text


# ---- hooks -----------------------------------------------------------------------------------


def fail(event: HubEvent) -> None:
    raise LookupError


@pytest.mark.parametrize("occasion", ["unhandled", "error", "failure"])
def test_hook_behind_a_decorator_is_awaited(occasion: str, event: Event) -> None:
    async def hook(event: HubEvent, *others: object) -> None:
        await asyncio.sleep(0)
        bodies.append(event)

    router = Router()
    getattr(router, f"on_{occasion}")(wrapped(hook))
    if occasion != "unhandled":
        router.add(fail)
    testing.TestClient(router, raise_errors=False).send(event("repo.create"))
    assert bodies == [event("repo.create")]


def test_hook_whose_body_never_ran_fails(event: Event, caplog: pytest.LogCaptureFixture) -> None:
    router = Router()
    router.on_unhandled(wrapped(generator))
    with pytest.raises(TypeError, match="its body never ran"):
        testing.TestClient(router).send(event("repo.create"))
    assert "`on_unhandled` hook `generator` failed" in caplog.text


# ---- mocks -------------------------------------------------------------------------------------


def takes_both(event: HubEvent, context: RunContext) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mock", "count"),
    [
        (Mock(), 1),
        (MagicMock(), 1),
        (AsyncMock(), 1),
        (Mock(spec=sync), 1),
        (MagicMock(spec=sync), 1),
        (AsyncMock(spec=sync), 1),
        (Mock(spec=takes_both), 2),
        (MagicMock(spec=takes_both), 2),
        (AsyncMock(spec=takes_both), 2),
        (Mock(spec=coroutine_with_delivery), 2),
        (create_autospec(sync), 1),
        (create_autospec(takes_both), 2),
        (create_autospec(coroutine), 1),
        (create_autospec(coroutine_with_delivery), 2),
        (create_autospec(Bot)().method, 1),
    ],
)
def test_mock_is_a_handler(mock: Any, count: int, event: Event) -> None:
    mock.reset_mock()
    run = handle(mock, event("repo.create"))
    assert (run.state, run.error) == ("succeeded", "")
    ((arguments, keywords),) = mock.call_args_list
    assert (len(arguments), arguments[0], keywords) == (count, event("repo.create"), {})


@pytest.mark.slow
@pytest.mark.parametrize("mock", [Mock(), MagicMock(), AsyncMock(), Mock(spec=sync)])
def test_mock_requires_a_name(mock: Any) -> None:
    with pytest.raises(ConfigError, match="has no name: give it one with `name=`"):
        Router().add(mock)


@pytest.mark.slow
@pytest.mark.parametrize("make", [Mock, MagicMock, AsyncMock])
def test_mock_is_a_hook(make: Any, event: Event) -> None:
    router, hook = Router(), make()
    router.on_unhandled(hook)
    testing.TestClient(router).send(event("repo.create"))
    hook.assert_called_once_with(event("repo.create"))


# ---- annotations -------------------------------------------------------------------------------


def test_annotations_are_not_evaluated_on_python_3_14(monkeypatch: pytest.MonkeyPatch) -> None:
    """There `inspect.signature` evaluates them by default.

    Stands for that Python: its version, its module `annotationlib`, and its `inspect.signature`.
    """
    real = inspect.signature
    reference = object()
    read: list[object] = []

    def signature(
        function: Any, *, follow_wrapped: bool = True, annotation_format: object = None
    ) -> inspect.Signature:
        if annotation_format is not reference:
            name = "Missing"
            msg = f"name '{name}' is not defined"
            raise NameError(msg)
        read.append(function)
        return real(function, follow_wrapped=follow_wrapped)

    library = SimpleNamespace(Format=SimpleNamespace(FORWARDREF=reference))
    monkeypatch.setattr(inspect, "signature", signature)
    monkeypatch.setattr(sys, "version_info", (3, 14, 0, "final", 0))
    monkeypatch.setitem(sys.modules, "annotationlib", library)  # type: ignore[arg-type]
    router = Router()
    router.add(takes_both)
    router.on_error(lambda event, context, error: None)
    handler = router.handler("takes_both")
    assert handler is not None
    assert handler.takes_context
    assert len(read) == 2


@pytest.mark.slow
@pytest.mark.parametrize("error", [NameError, AttributeError, RuntimeError])
def test_raising_signature_is_rejected(error: type[Exception]) -> None:
    class Odd:
        @property
        def __signature__(self) -> inspect.Signature:
            raise error

        def __call__(self, event: HubEvent) -> None: ...

    router = Router()
    if error is AttributeError:  # as if there were none
        router.add(Odd(), name="odd")
        return
    with pytest.raises(ConfigError, match="the parameters of handler `odd` cannot be read"):
        router.add(Odd(), name="odd")


def test_type_checking_names_are_no_error() -> None:
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from nowhere import Missing\n"
        "def handler(event: 'Missing', delivery: 'Missing') -> 'Missing': ...\n"
    )
    namespace: dict[str, Any] = {}
    exec(compile(source, "app.py", "exec", dont_inherit=True), namespace)
    router = Router()
    router.add(namespace["handler"], "repo", when=namespace["handler"])
    assert router.handler("handler") is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gather", "task", "awaitable"])
def test_awaitable_that_an_async_handler_returns_is_awaited(kind: str) -> None:
    hooks = Webhooks()

    class Late:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            raise LookupError(kind)

    async def fail() -> None:
        await Late()

    @hooks.on("repo.content", name="handle")
    async def handle(event: HubEvent) -> object:
        if kind == "gather":
            return asyncio.gather(fail(), asyncio.sleep(0))
        return asyncio.ensure_future(fail()) if kind == "task" else Late()

    client = testing.TestClient(hooks, raise_errors=False)
    run = client.send("repo.content.update")["handle"]
    assert (run.state, str(run.error)) == ("failed", kind)
