"""User code that raises, forks or sets context variables cannot stop a delivery or its record."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import os
import socket
import sqlite3
import threading
import weakref
from contextlib import closing, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, UVICORN, started, wait_until

from hubhooks import HubEvent, Ignore, Retry, Webhooks
from hubhooks._logging import SafeLogger, text_of
from hubhooks._samples import compact, sample_json
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks._worker import service
from hubhooks._worker.service import WorkerService
from hubhooks._worker.timeouts import Timeouts
from hubhooks.errors import PayloadError, StoreError
from hubhooks.models import AcceptedRuns
from hubhooks.routing import Router

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from hubhooks.models import Delivery, RunContext

BODY = compact(sample_json("repo.content.update"))
ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": None}


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(params=["memory", "disk"])
def hooks(request: Any, tmp_path: Path) -> Webhooks:
    path = ":memory:" if request.param == "memory" else tmp_path / "hubhooks.db"
    return Webhooks("moon", deliveries=path)


def ended(hooks: Webhooks, delivery_id: str = "d1") -> Delivery:
    """Wait until a delivery is finished, or waits for a retry."""

    def is_over() -> bool:
        delivery = hooks.deliveries.get(delivery_id)
        return delivery is not None and all(
            run.state not in ("queued", "running") for run in delivery.runs
        )

    wait_until(is_over, "the delivery stays open")
    delivery = hooks.deliveries.get(delivery_id)
    assert delivery is not None
    return delivery


# ---- logging that raises ------------------------------------------------------------------------


class RaisingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit


class RaisingFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise ValueError


class RaisingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        raise ValueError


class FormattingHandler(logging.Handler):
    """Like handlers that do not call `handleError`."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def raising_factory(*arguments: Any, **options: Any) -> logging.LogRecord:
    raise RuntimeError


@contextmanager
def broken_logging(kind: str, level: int) -> Generator[None]:
    logger = logging.getLogger("hubhooks")
    before = logger.level
    factory = logging.getLogRecordFactory()
    handler: logging.Handler = logging.NullHandler()
    raising = RaisingFilter()
    if kind == "handler":
        handler = RaisingHandler()
    elif kind == "formatter":
        handler = FormattingHandler()
        handler.setFormatter(RaisingFormatter())
    elif kind == "filter":
        logger.addFilter(raising)
    elif kind == "factory":
        logging.setLogRecordFactory(raising_factory)
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        logger.removeHandler(handler)
        logger.removeFilter(raising)
        logger.setLevel(before)


every_break = pytest.mark.parametrize("kind", ["handler", "formatter", "filter", "factory"])


@pytest.mark.slow
@every_break
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_logging_error_does_not_keep_a_run_unfinished(
    hooks: Webhooks, serve: Any, post: Any, kind: str, level: int
) -> None:
    called: list[str] = []

    @hooks.on(name="works")
    def works(event: HubEvent) -> None: ...

    @hooks.on(name="works_async")
    async def works_async(event: HubEvent) -> None: ...

    @hooks.on(name="fails")
    def fails(event: HubEvent) -> None:
        raise ValueError

    @hooks.on(name="fails_async", retries=1, backoff=0)
    async def fails_async(event: HubEvent) -> None:
        raise ValueError

    @hooks.on_failure
    def record_hook(event: HubEvent, context: RunContext, error: BaseException) -> None:
        called.append(f"{context.id} {context.handler}")
        raise ValueError

    ids = [f"d{number}" for number in range(20)]
    with broken_logging(kind, level), serve(hooks, access_log=False) as port:
        # More than there are slots.
        assert {post(port, BODY, delivery_id)[0] for delivery_id in ids} == {202}
        for delivery_id in ids:
            wait_until(lambda one=delivery_id: not _is_open(hooks, one), "a delivery stays open")
            assert {run.handler: run.state for run in ended(hooks, delivery_id).runs} == {
                "works": "succeeded",
                "works_async": "succeeded",
                "fails": "failed",
                "fails_async": "failed",
            }
        wait_until(lambda: len(called) == 2 * len(ids), "hooks are not called")


def _is_open(hooks: Webhooks, delivery_id: str) -> bool:
    delivery = hooks.deliveries.get(delivery_id)
    return delivery is None or delivery.is_open


def test_logging_error_does_not_prevent_a_response(hooks: Webhooks, serve: Any, post: Any) -> None:
    with broken_logging("handler", logging.INFO), serve(hooks, access_log=False) as port:
        assert post(port, BODY, secret="sun")[0] == 403
        assert post(port, b"[", "d1")[0] == 202
        assert post(port, b"", "d2")[0] == 400
        assert post(port, BODY, "d3")[0] == 200
    record = hooks.deliveries.get("d1")
    assert record is not None
    assert record.state == "malformed"


@pytest.mark.parametrize("kind", ["handler", "filter"])
def test_raising_when_with_logging_error_is_no_match(
    hooks: Webhooks, serve: Any, post: Any, kind: str
) -> None:
    def fails(event: HubEvent) -> bool:
        raise ValueError

    hooks.add(lambda event: None, name="matching", when=fails)
    hooks.add(lambda event: None, name="works")
    with broken_logging(kind, logging.INFO), serve(hooks, access_log=False) as port:
        assert post(port, BODY)[1]["handlers"] == ["works"]
        assert ended(hooks).state == "succeeded"


def test_upkeep_continues_after_an_unloggable_failure(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DEFAULT_TIMEOUTS", Timeouts(checkpoint=0.01, prune=0.01))
    calls: list[int] = []
    errors: list[Exception] = [StoreError("full"), OSError("the disk")]

    def checkpoint(_: object) -> None:
        calls.append(1)
        if errors:
            raise errors.pop()

    monkeypatch.setattr(SqliteStore, "checkpoint", checkpoint)
    with (
        broken_logging("handler", logging.INFO),
        serve(Webhooks("moon", deliveries=tmp_path / "hubhooks.db")),
    ):
        wait_until(lambda: len(calls) > 5, "upkeep stopped")


def test_dedicated_loop_continues_after_an_unloggable_stop(serve: Any, post: Any) -> None:
    hooks = Webhooks("moon", handler_loop="dedicated", deliveries=":memory:")

    @hooks.on(name="stops")
    async def stops(event: HubEvent) -> None:
        asyncio.get_running_loop().stop()

    with broken_logging("handler", logging.INFO), serve(hooks, access_log=False) as port:
        for delivery_id in ("d1", "d2"):
            post(port, BODY, delivery_id)
            assert ended(hooks, delivery_id).state == "succeeded"


def test_store_error_with_logging_error_loses_nothing(
    tmp_path: Path, serve: Any, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DEFAULT_TIMEOUTS", Timeouts(store_failure=0.05))
    path = tmp_path / "hubhooks.db"
    hooks = Webhooks("moon", deliveries=path)
    release = threading.Event()
    hooks.add(lambda event: release.wait(PATIENCE) and None, name="waits", retries=0)
    with (
        broken_logging("filter", logging.INFO),
        serve(hooks, access_log=False) as port,
        closing(sqlite3.connect(path, isolation_level=None)) as file,
    ):
        assert post(port, BODY)[0] == 202
        file.execute(
            "CREATE TRIGGER full BEFORE INSERT ON attempts "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
        release.set()
        assert post(port, BODY, "d2")[0] in (202, 503)
        file.execute("DROP TRIGGER full")
        assert ended(hooks).state in ("succeeded", "failed")


def test_crashed_run_is_recovered_despite_a_logging_error(tmp_path: Path, serve: Any) -> None:
    path = tmp_path / "hubhooks.db"
    store = SqliteStore(path, max_crashes=0)
    store.open()
    store.recover()
    for delivery_id in ("d1", "d2"):
        store.accept(delivery_id, BODY, ["matching"])
        assert store.claim(delivery_id, "matching")
    store.close()
    hooks = Webhooks("moon", deliveries=path)
    hooks.store._max_crashes = 0  # type: ignore[attr-defined] # noqa: SLF001 - see there
    called: list[str] = []
    hooks.add(lambda event: None, name="matching")
    hooks.on_failure(lambda event, context, error: called.append(context.id))
    with broken_logging("handler", logging.INFO), serve(hooks, access_log=False):
        wait_until(lambda: len(called) == 2, "hooks are not called")
    assert {record.state for record in store.list()} == {"failed"}


def test_log_record_names_the_logging_line(caplog: pytest.LogCaptureFixture) -> None:
    logger = SafeLogger("hubhooks")
    logger.warning("first %d", 1)
    try:
        raise ValueError  # noqa: TRY301 - there has to be one
    except ValueError:
        logger.exception("second")
    assert {record.funcName for record in caplog.records} == {
        "test_log_record_names_the_logging_line"
    }
    assert caplog.records[1].exc_info is not None


def test_unloggable_record_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with broken_logging("filter", logging.INFO):
        SafeLogger("hubhooks").warning("handler `%s` took %g s", "matching", 1.5)
    assert capsys.readouterr().err == (
        "hubhooks: logging failed with ValueError; the record was: handler `matching` took 1.5 s\n"
    )


def test_logger_passes_ctrl_c_on() -> None:
    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise KeyboardInterrupt

    handler = Interrupted()
    logging.getLogger("hubhooks").addHandler(handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            SafeLogger("hubhooks").warning("first")
    finally:
        logging.getLogger("hubhooks").removeHandler(handler)


# ---- exceptions that raise ----------------------------------------------------------------------


class Unreadable(Exception):  # noqa: N818 - named for what it is
    def __str__(self) -> str:
        raise SystemExit

    __repr__ = __str__


class WithoutClass(Exception):  # noqa: N818 - named for what it is
    @property
    def __class__(self) -> Any:
        raise ValueError


class UnreadableIgnore(Ignore):
    def __str__(self) -> str:
        raise ValueError


class UnreadableRetry(Retry):
    def __str__(self) -> str:
        raise ValueError


class RetryWithoutAfter(Retry):
    def __init__(self) -> None: ...

    @property
    def after(self) -> float:  # type: ignore[override]
        raise ValueError


class RetryAtOddTime(Retry):
    def __init__(self) -> None:
        self.after: Any = "soon"


class OddText(str):
    __slots__ = ()

    def __getitem__(self, key: object) -> str:  # type: ignore[override]
        raise ValueError

    def encode(self, *_: object) -> bytes:  # type: ignore[override]
        raise ValueError


class WithOddText(Exception):  # noqa: N818 - named for what it is
    def __str__(self) -> str:
        return OddText("odd")


class OddIgnore(Ignore):
    def __str__(self) -> str:
        return OddText("odd")


odd_errors = pytest.mark.parametrize(
    ("error", "state"),
    [
        (Unreadable, "failed"),
        (WithoutClass, "failed"),
        (WithOddText, "failed"),
        (UnreadableIgnore, "ignored"),
        (OddIgnore, "ignored"),
        (UnreadableRetry, "retrying"),
        (RetryWithoutAfter, "retrying"),
        (RetryAtOddTime, "retrying"),
    ],
)


@pytest.mark.slow
@odd_errors
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("level", [logging.INFO, logging.CRITICAL])
def test_misbehaving_exception_still_ends_the_run(
    hooks: Webhooks,
    serve: Any,
    post: Any,
    error: Any,
    state: str,
    is_async: bool,
    level: int,
) -> None:
    retries = int(state == "retrying")

    def fails(event: HubEvent) -> None:
        raise error

    async def fails_async(event: HubEvent) -> None:
        raise error

    hooks.add(fails_async if is_async else fails, name="fails", retries=retries, backoff=3000)
    called: list[str] = []
    hooks.on_error(lambda event, context, raised: called.append(context.id))
    with broken_logging("none", level), serve(hooks, access_log=False) as port:
        assert post(port, BODY)[0] == 202
        (run,) = ended(hooks).runs
        assert run.state == state
        assert run.error or state == "ignored"
        wait_until(lambda: called == ([] if state == "ignored" else ["d1"]), "hooks are not called")


@pytest.mark.parametrize("raised", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
def test_a_backoff_that_raises_ends_the_run(
    hooks: Webhooks, serve: Any, post: Any, raised: BaseException
) -> None:
    def backoff(failures: int) -> float:
        raise raised

    def fails(event: HubEvent) -> None:
        raise ValueError

    hooks.add(fails, name="fails", retries=1, backoff=backoff)
    with broken_logging("handler", logging.INFO), serve(hooks, access_log=False) as port:
        assert post(port, BODY)[0] == 202
        assert ended(hooks).state == "retrying"


def test_ctrl_c_while_reading_an_exception_loses_no_run(
    event: Callable[..., HubEvent],
) -> None:
    class Interrupting(Ignore):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    router, store = Router(), SqliteStore(":memory:")
    sample = event("repo.create")

    @router.on(name="ignores")
    def ignores(event: HubEvent) -> None:
        raise Interrupting

    worker = WorkerService(router, store, inline=True)
    worker.start()
    result = store.accept("d1", sample.raw, ("ignores",))
    with pytest.raises(KeyboardInterrupt):
        worker.submit(AcceptedRuns(result.id, result.handlers, sample))
    asyncio.run(worker.stop())
    assert store.list()[0].state == "ignored"


def test_exit_in_when_still_gets_a_response(hooks: Webhooks, serve: Any, post: Any) -> None:
    def exits(event: HubEvent) -> bool:
        raise SystemExit

    hooks.add(lambda event: None, name="matching", when=exits)
    with serve(hooks, access_log=False) as port:
        assert post(port, BODY)[0] in (200, 503)
        assert post(port, BODY, "d2")[0] in (200, 503)


def test_text_of_an_object_is_exact_and_never_raises() -> None:
    class Odd(type):
        @property
        def __name__(cls) -> str:
            raise ValueError

    class Object(metaclass=Odd):
        def __str__(self) -> str:
            raise ValueError

    assert type(text_of(OddText("odd"))) is str
    assert text_of(Object()) == "<Object without a readable text>"
    assert text_of(PayloadError("no", 1, 2, "a")) == "no"


# ---- tasks that stay behind ---------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "disk"])
def test_waiting_request_creates_no_task(
    tmp_path: Path, serve: Any, post: Any, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.setattr(service, "DEFAULT_TIMEOUTS", Timeouts(poll=0.001))
    path = ":memory:" if store == "memory" else tmp_path / "hubhooks.db"
    hooks = Webhooks("moon", deliveries=path, acknowledge="on_completion")
    release = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    looks: list[int] = []
    get = type(hooks.store).get

    def count(instance: Any, delivery_id: str) -> Any:
        looks.append(1)
        return get(instance, delivery_id)

    monkeypatch.setattr(type(hooks.store), "get", count)
    hooks.add(lambda event: release.wait(PATIENCE) and None, name="waits")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        loops.append(asyncio.get_running_loop())
        await hooks(scope, receive, send)

    statuses: list[int] = []
    with serve(app) as port:
        client = threading.Thread(target=lambda: statuses.append(post(port, BODY)[0]))
        client.start()
        # A store on disk is polled, a store in memory is read once.
        wait_until(lambda: len(looks) > (0 if store == "memory" else 50), "nobody waits")
        assert len(asyncio.all_tasks(loops[0])) < 10
        release.set()
        client.join(PATIENCE)
    assert statuses == [200]


def test_cancelled_waiting_request_leaves_nothing(
    hooks: Webhooks, event: Callable[..., HubEvent]
) -> None:
    release = threading.Event()
    hooks.add(lambda event: release.wait(PATIENCE) and None, name="waits")

    async def serve() -> None:
        async with hooks.lifespan(None):
            worker = hooks._worker  # noqa: SLF001 - there is no other way to wait for one
            store = worker.store
            store.accept("d1", BODY, ["waits"])
            waiting = asyncio.ensure_future(worker.wait_for("d1", PATIENCE))
            await asyncio.sleep(0)
            waiting.cancel()
            assert await asyncio.gather(waiting, return_exceptions=True)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            release.set()

    asyncio.run(serve())


# ---- context variables --------------------------------------------------------------------------

seen_by: contextvars.ContextVar[str] = contextvars.ContextVar("seen_by", default="nobody")


class Contexts:
    """An app that sets a context variable per request, and its values in user code."""

    def __init__(self, hooks: Webhooks) -> None:
        self.hooks = hooks
        self.found: list[tuple[str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen_by.set(dict(scope["headers"])[b"webhook-id"].decode())
        await self.hooks(scope, receive, send)

    def note(self, what: str) -> None:
        self.found.append((what, seen_by.get()))

    def of(self, what: str) -> list[str]:
        return sorted(value for name, value in self.found if name == what)


@pytest.fixture(params=["server", "dedicated"])
def contexts(request: Any, hooks: Webhooks, tmp_path: Path) -> Contexts:
    hooks._handler_loop = request.param  # noqa: SLF001 - as `Webhooks(handler_loop=...)` does
    return Contexts(hooks)


@pytest.mark.parametrize("is_async", [False, True])
def test_run_has_a_copy_of_its_request_context(
    contexts: Contexts, serve: Any, post: Any, is_async: bool
) -> None:
    # One slot, so that all sync runs have the same thread.
    contexts.hooks._worker.slots = 1  # noqa: SLF001 - there is no option

    def matching(event: HubEvent) -> None:
        contexts.note("run")
        seen_by.set("the run")

    async def matching_async(event: HubEvent) -> None:
        contexts.note("run")
        seen_by.set("the run")
        await asyncio.sleep(0)
        assert seen_by.get() == "the run"

    contexts.hooks.add(matching_async if is_async else matching, name="matching")
    ids = ["d1", "d2", "d3"]
    with serve(contexts) as port:
        for delivery_id in ids:
            post(port, BODY, delivery_id)
            assert ended(contexts.hooks, delivery_id).state == "succeeded"
    assert contexts.of("run") == ids


@pytest.mark.parametrize("is_async", [False, True])
def test_hooks_have_a_copy_of_their_run_context(
    contexts: Contexts, serve: Any, post: Any, is_async: bool
) -> None:
    def fails(event: HubEvent) -> None:
        seen_by.set(f"run of {seen_by.get()}")
        raise ValueError

    async def fails_async(event: HubEvent) -> None:
        fails(event)

    def record_hook(what: str, *_: object) -> None:
        contexts.note(what)
        seen_by.set(what)

    async def tell_async(what: str, *_: object) -> None:
        record_hook(what)

    called = tell_async if is_async else record_hook
    hooks = contexts.hooks
    hooks.add(fails_async if is_async else fails, "repo.content", name="fails")
    hooks.on_error(functools.partial(called, "error"))
    hooks.on_failure(functools.partial(called, "failure"))
    hooks.on_unhandled(functools.partial(called, "unhandled"))
    with serve(contexts) as port:
        for delivery_id in ("d1", "d2"):
            post(port, BODY, delivery_id)
        post(port, compact(sample_json("repo.create")), "d3")
        wait_until(lambda: len(contexts.found) == 5, "hooks are not called")
    assert contexts.of("error") == contexts.of("failure") == ["run of d1", "run of d2"]
    assert contexts.of("unhandled") == ["d3"]


def test_only_retries_have_a_fresh_context(contexts: Contexts, serve: Any, post: Any) -> None:
    hooks = contexts.hooks
    release = threading.Event()

    @hooks.on(name="queued", concurrency=1)
    def queued(event: HubEvent, context: RunContext) -> None:
        contexts.note("queued")
        assert release.wait(PATIENCE)

    @hooks.on(name="retried", retries=1, backoff=0)
    async def retried(event: HubEvent, context: RunContext) -> None:
        contexts.note(f"retried {context.attempt}")
        if context.attempt == 1:
            seen_by.set("the first attempt")
            raise Retry

    with serve(contexts) as port:
        for delivery_id in ("d1", "d2", "d3"):
            post(port, BODY, delivery_id)
        release.set()
        for delivery_id in ("d1", "d2", "d3"):
            wait_until(lambda one=delivery_id: not _is_open(hooks, one), "it stays open")
    assert contexts.of("queued") == ["d1", "d2", "d3"]
    assert contexts.of("retried 1") == ["d1", "d2", "d3"]
    assert contexts.of("retried 2") == ["nobody"] * 3


def test_when_and_backoff_see_their_request_context(
    contexts: Contexts, serve: Any, post: Any
) -> None:
    hooks = contexts.hooks

    def when(event: HubEvent) -> bool:
        contexts.note("when")
        seen_by.set(f"when of {seen_by.get()}")
        return True

    def backoff(failures: int) -> float:
        contexts.note("backoff")
        return 3000

    def fails(event: HubEvent) -> None:
        raise ValueError

    hooks.add(fails, name="fails", when=when, retries=1, backoff=backoff)
    ids = [f"d{number}" for number in range(8)]
    with serve(contexts) as port:
        clients = [threading.Thread(target=post, args=(port, BODY, one)) for one in ids]
        for client in clients:
            client.start()
        for client in clients:
            client.join(PATIENCE)
        wait_until(lambda: len(contexts.of("backoff")) == len(ids), "it does not fail")
    assert contexts.of("when") == ids
    assert contexts.of("backoff") == ids


def test_runs_of_an_earlier_process_have_a_fresh_context(
    tmp_path: Path, serve: Any, post: Any
) -> None:
    path = tmp_path / "hubhooks.db"
    store = SqliteStore(path)
    store.open()
    store.accept("d1", BODY, ["matching"])
    store.close()
    contexts = Contexts(Webhooks("moon", deliveries=path))
    contexts.hooks.add(lambda event: contexts.note("run"), name="matching")
    seen_by.set("the test")
    with serve(contexts):
        assert ended(contexts.hooks).state == "succeeded"
    assert contexts.of("run") == ["nobody"]


def test_context_is_freed_after_its_delivery(hooks: Webhooks, serve: Any, post: Any) -> None:
    class Value: ...

    kept: contextvars.ContextVar[Value] = contextvars.ContextVar("kept")
    values: list[weakref.ref[Value]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            value = Value()
            values.append(weakref.ref(value))
            kept.set(value)
        await hooks(scope, receive, send)

    hooks.add(lambda event: None, name="matching")

    def is_let_go() -> bool:
        gc.collect()
        return values[0]() is None

    with serve(app) as port:
        for delivery_id in ("d1", "d2"):
            post(port, BODY, delivery_id)
            assert ended(hooks, delivery_id).state == "succeeded"
        wait_until(is_let_go, "something keeps the context of the first request")


# ---- children that a handler forks --------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

FORKS = """
import asyncio, os, sys, time, warnings
from hubhooks import Webhooks

warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
app = Webhooks(handler_loop=os.environ["LOOP"])

def note(text):
    with open("ran", "a") as file:
        file.write(text + "\\n")

def fork():
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        note(f"child ended with {os.waitstatus_to_exitcode(status)}")
    return not child

def goes_on():
    if fork():
        note("in the child")
        HOW

@app.on("repo.content", name="sync")
def sync(event):
    goes_on()

@app.on("repo.config", name="async")
async def coroutine(event):
    goes_on()

@app.on("repo", name="fails")
def fails(event):
    raise ValueError

@app.on_failure
def tell(event, context, error):
    goes_on()
"""


@needs_fork
@pytest.mark.parametrize(("how", "code"), [("return", 0), ("raise ValueError", 1), ("exit(3)", 3)])
@pytest.mark.parametrize("loop", ["server", "dedicated"])
@pytest.mark.parametrize("kind", ["repo.content.update", "repo.config.update", "repo.create"])
def test_handler_returning_in_a_forked_child_ends_once(
    tmp_path: Path, how: str, code: int, loop: str, kind: str
) -> None:
    store = SqliteStore(tmp_path / "hubhooks.db")
    script = FORKS.replace("HOW", how)
    with started(tmp_path, script=script, environ={**ON_DISK, "LOOP": loop}) as server:
        for number in range(2):
            body = compact(sample_json(kind))
            headers = {"Webhook-Id": f"d{number}"}
            assert server.post("/", body, headers=headers).status_code == 202
            server.wait_until(
                lambda number=number: len(lines(tmp_path / "ran")) == 2 * number + 2, "is stuck"
            )
        state = "failed" if kind == "repo.create" else "succeeded"
        server.wait_until(lambda: store.stats().states == {state: 2}, "does not record the runs")
    assert lines(tmp_path / "ran") == ["in the child", f"child ended with {code}"] * 2
    assert [run.attempts for delivery in store.list() for run in delivery.runs] == [1, 1]


OUTLIVES = """
import os, time, warnings
from hubhooks import Webhooks

warnings.simplefilter("ignore", DeprecationWarning)
app = Webhooks()

@app.on(name="forks")
def forks(event):
    child = os.fork()
    if not child:
        with open("child", "w") as file:
            file.write(str(os.getpid()))
        while True:
            time.sleep(0.05)
"""


@needs_fork
@pytest.mark.parametrize("store", [":memory:", None])
def test_forked_child_keeps_no_port_or_connections(tmp_path: Path, store: str | None) -> None:
    environ = {"HUBHOOKS_DELIVERIES": store}
    with started(tmp_path, script=OUTLIVES, environ=environ) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            head = b"POST / HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: moon\r\nContent-Length: %d\r\n"
            client.sendall(head % len(BODY) + b"\r\n" + BODY)
            assert client.recv(100).startswith(b"HTTP/1.1 202")
            server.wait_until((tmp_path / "child").exists, "does not fork")
            server.terminate()
            server.wait()
            while client.recv(10_000):
                pass
        server.wait_until_closed()
        # The child is still alive.
        wait_until((tmp_path / "child").read_text)
        os.kill(int((tmp_path / "child").read_text()), 0)


BESIDE_THREADS = """
import asyncio, atexit, os, subprocess, sys, threading, time, warnings
import uvicorn
from hubhooks import Webhooks

warnings.simplefilter("ignore", DeprecationWarning)
hooks = Webhooks()

@hooks.on(name="works")
def works(event): ...

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        is_up.set()

is_up = threading.Event()
# uvloop itself crashes where a child drops its loop.
server = Server(uvicorn.Config(hooks, port=int(sys.argv[1]), loop="asyncio", log_level="critical"))
thread = threading.Thread(target=server.run, daemon=True)
thread.start()
assert is_up.wait(30)

def fork(what):
    child = os.fork()
    if not child:
        what()
        sys.exit()  # ends like a script: with `atexit`, and all objects are dropped
    assert os.waitpid(child, 0)[1] == 0

def uses_everything():
    from hubhooks.errors import StoreError
    for use in (lambda: hooks.deliveries.list(), lambda: hooks.deliveries.replay("d1"),
                lambda: asyncio.run(serve())):
        try:
            use()
        except StoreError as error:
            print(error, flush=True)
    hooks._worker.notify()
    asyncio.run(hooks._webhook_app.stop())
    asyncio.run(hooks._webhook_app.drain(60))
    hooks.store.close()
    hooks._worker._lock.release()

async def serve():
    async with hooks.lifespan(None):
        print("it serves in the child", flush=True)

fork(lambda: None)
fork(uses_everything)
own = Webhooks(deliveries=":memory:")

def serves_its_own():
    async def serve():
        async with own.lifespan(None):
            print("its own works", flush=True)
    asyncio.run(serve())

fork(serves_its_own)
print("all children ended", flush=True)
thread.join()
"""


@needs_fork
def test_forked_child_does_not_use_store_or_lock(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "hubhooks.db")
    command = ("app.py", "{port}")
    with started(
        tmp_path, *command, script=BESIDE_THREADS, prints="all children ended", environ=ON_DISK
    ) as server:
        output = server.output()
        assert output.count("was open when this process was forked") == 2
        assert "forked from a serving process: only the parent can use it" in output
        assert "in the child" not in output
        assert LeaderLock(tmp_path / "hubhooks.db").is_taken()
        for number in range(3):
            headers = {"Webhook-Id": f"d{number}"}
            assert server.post("/", BODY, headers=headers).status_code == 202
        server.wait_until(lambda: store.stats().states == {"succeeded": 3}, "does not run them")
        assert "removed or replaced" not in server.output()


POOL = """
import multiprocessing, os, signal, time, warnings

import gradio as gr
from hubhooks import Webhooks

warnings.simplefilter("ignore", DeprecationWarning)
hooks = Webhooks()

def double(number):
    return 2 * number

def goes_on():
    while True:
        time.sleep(0.01)

@hooks.on(name="pools")
def pools(event):
    fork = multiprocessing.get_context("fork")
    # With a handler in Python, `Pool` may miss the signal by itself.
    for _ in range(0 if IS_WRAPPED else 5):
        began = time.monotonic()
        with fork.Pool(2) as pool:
            assert pool.map(double, [1, 2]) == [2, 4]
        pool.join()
        print("pool took", time.monotonic() - began, flush=True)
    for _ in range(20):
        child = fork.Process(target=goes_on)
        child.start()
        child.terminate()
        child.join()
        assert child.exitcode == -signal.SIGTERM
    print("all children were terminated", flush=True)

with gr.Blocks() as demo:
    pass
LAUNCH
"""

LAUNCH = "hooks.launch(demo)"
WRAPPED = """
hooks.launch(demo, prevent_thread_lock=True)
ours = signal.getsignal(signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
demo.block_thread()
"""


@needs_fork
@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
@pytest.mark.parametrize("launch", [LAUNCH, WRAPPED])
def test_forked_children_of_a_gradio_app_end_at_once(tmp_path: Path, launch: str) -> None:
    environ: dict[str, str | None] = {
        **ON_DISK,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": "{port}",
        "GRADIO_SSR_MODE": "False",
        "HF_HUB_OFFLINE": "1",
        "SPACE_HOST": None,
        "SYSTEM": None,
    }
    is_wrapped = launch == WRAPPED
    script = POOL.replace("LAUNCH", launch).replace("IS_WRAPPED", str(is_wrapped))
    with started(
        tmp_path, "app.py", script=script, prints="Deliveries are stored", environ=environ
    ) as server:
        assert server.post("/gradio_api/webhooks", BODY).status_code == 202
        output = server.wait_for("all children were terminated")
    took = [float(line.split()[-1]) for line in output.splitlines() if line.startswith("pool took")]
    assert len(took) == (0 if is_wrapped else 5)
    # 0.03 s on an idle machine; it took 11 s.
    assert min(took, default=0) < 5 * 0.03


PRELOADED = """
import os
from hubhooks import Webhooks

app = Webhooks()
print("imported by", os.getpid(), flush=True)

@app.on(name="works")
def works(event, context):
    with open("ran", "a") as file:
        file.write(f"{context.id} {os.getpid()}\\n")
"""


@needs_fork
@pytest.mark.skipif(
    find_spec("gunicorn") is None or find_spec("uvicorn_worker") is None,
    reason="gunicorn is not installed",
)
def test_forked_workers_serve_a_preloaded_app(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "hubhooks.db")
    command = "-m gunicorn --preload -w 2 -k uvicorn_worker.UvicornWorker -b 127.0.0.1:{port}"
    with started(
        tmp_path, *command.split(), "app:app", script=PRELOADED, environ=ON_DISK
    ) as server:
        assert f"imported by {server.pid}" in server.output()
        for number in range(20):
            headers = {"Webhook-Id": f"d{number}"}
            assert server.post("/", BODY, headers=headers).status_code == 202
        server.wait_until(lambda: store.stats().states == {"succeeded": 20}, "does not run them")
        ran = [line.split() for line in lines(tmp_path / "ran")]
        assert len(ran) == 20
        assert {int(pid) for _, pid in ran}.isdisjoint({server.pid})


def test_runs_wait_when_threads_are_exhausted(
    hooks: Webhooks, serve: Any, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    start = threading.Thread.start
    begun: list[str] = []
    is_full = True

    def limited(thread: threading.Thread) -> None:
        if thread.name in ("hubhooks", "hubhooks watchdog") and begun and is_full:
            msg = "can't start new thread"
            raise RuntimeError(msg)
        start(thread)

    def waits(event: HubEvent, context: RunContext) -> None:
        begun.append(context.id)
        assert release.wait(PATIENCE)

    async def works(event: HubEvent) -> None: ...

    hooks.add(waits, name="waits")
    hooks.add(works, name="works")
    monkeypatch.setattr(threading.Thread, "start", limited)
    with serve(hooks) as port:
        post(port, BODY, "d1")
        wait_until(lambda: begun, "it does not begin")
        for delivery_id in ("d2", "d3"):
            assert post(port, BODY, delivery_id)[0] == 202
        release.set()
        for delivery_id in ("d1", "d2", "d3"):
            wait_until(lambda one=delivery_id: not _is_open(hooks, one), "it stays open")
            assert ended(hooks, delivery_id).state == "succeeded"


FORKS_LATE = """
import os
from hubhooks import Webhooks

app = Webhooks()

def fork():
    child = os.fork()
    if child:
        os.waitpid(child, 0)

class Evil(Exception):
    def __str__(self):
        fork()
        return "evil"

def backoff(failures):
    fork()
    return 0.01

def when(event):
    fork()
    return True

@app.on("repo.content", when=when, retries=1, backoff=backoff)
def handle(event, context):
    with open("ran", "a") as file:
        file.write(f"{context.attempt} {os.getpid()}\\n")
    raise Evil
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")
def test_child_that_other_user_code_forks_ends_there(tmp_path: Path) -> None:
    environ = {"HUBHOOKS_DELIVERIES": None}
    command = (*UVICORN, "--loop", "asyncio")
    with started(tmp_path, *command, script=FORKS_LATE, environ=environ) as server:
        body = compact(sample_json("repo.content.update"))
        assert server.post("/", body, headers={"Webhook-Id": "d1"}).status_code == 202
        store = SqliteStore(tmp_path / "hubhooks.db")
        server.wait_until(lambda: store.stats().states == {"failed": 1}, "does not end it")
        lines = (tmp_path / "ran").read_text().splitlines()
    assert lines == [f"1 {server.pid}", f"2 {server.pid}"]
