"""User code that raises, forks or sets context variables cannot stop a delivery or its record."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, wait_until

from hubhooks import HubEvent, Ignore, Retry, Webhooks, _session
from hubhooks._logging import SafeLogger, text_of
from hubhooks._samples import compact, sample_json
from hubhooks.deliveries import MemoryLog
from hubhooks.errors import PayloadError, StoreError
from hubhooks.receiver import Work
from hubhooks.routing import Router
from hubhooks.runner import Runner
from hubhooks.sqlite import SqliteLog

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from hubhooks.deliveries import Delivery, Record

BODY = compact(sample_json("repo.content.update"))
ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": None}


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(params=["memory", "disk"])
def hooks(request: Any, tmp_path: Path) -> Webhooks:
    path = ":memory:" if request.param == "memory" else tmp_path / "hubhooks.db"
    return Webhooks("moon", deliveries=path)


def ended(hooks: Webhooks, delivery_id: str = "d1") -> Record:
    """Wait until a delivery is finished, or waits for a retry."""

    def is_over() -> bool:
        record = hooks.deliveries.get(delivery_id)
        return record is not None and all(
            run.state not in ("queued", "running") for run in record.runs
        )

    wait_until(is_over, "the delivery stays open")
    record = hooks.deliveries.get(delivery_id)
    assert record is not None
    return record


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


@every_break
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_raising_logging_keeps_no_delivery_from_its_end(
    hooks: Webhooks, serve: Any, post: Any, kind: str, level: int
) -> None:
    told: list[str] = []

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
    def tell(event: HubEvent, delivery: Delivery, error: BaseException) -> None:
        told.append(f"{delivery.id} {delivery.handler}")
        raise ValueError

    ids = [f"d{number}" for number in range(20)]
    with broken_logging(kind, level), serve(hooks, access_log=False) as port:
        # More than there are slots.
        assert {post(port, BODY, delivery_id)[0] for delivery_id in ids} == {202}
        for delivery_id in ids:
            wait_until(lambda one=delivery_id: not _is_open(hooks, one), "a delivery stays open")
            assert {run.handler: run.state for run in ended(hooks, delivery_id).runs} == {
                "works": "done",
                "works_async": "done",
                "fails": "failed",
                "fails_async": "failed",
            }
        wait_until(lambda: len(told) == 2 * len(ids), "hooks are not told")


def _is_open(hooks: Webhooks, delivery_id: str) -> bool:
    record = hooks.deliveries.get(delivery_id)
    return record is None or record.is_open


def test_raising_logging_keeps_no_request_from_its_response(
    hooks: Webhooks, serve: Any, post: Any
) -> None:
    with broken_logging("handler", logging.INFO), serve(hooks, access_log=False) as port:
        assert post(port, BODY, secret="sun")[0] == 403
        assert post(port, b"[", "d1")[0] == 202
        assert post(port, b"", "d2")[0] == 400
        assert post(port, BODY, "d3")[0] == 200
    record = hooks.deliveries.get("d1")
    assert record is not None
    assert record.state == "unreadable"


@pytest.mark.parametrize("kind", ["handler", "filter"])
def test_a_raising_when_under_raising_logging_is_no_match(
    hooks: Webhooks, serve: Any, post: Any, kind: str
) -> None:
    def fails(event: HubEvent) -> bool:
        raise ValueError

    hooks.add(lambda event: None, name="hears", when=fails)
    hooks.add(lambda event: None, name="works")
    with broken_logging(kind, logging.INFO), serve(hooks, access_log=False) as port:
        assert post(port, BODY)[1]["handlers"] == ["works"]
        assert ended(hooks).state == "done"


def test_upkeep_goes_on_after_a_failure_that_cannot_be_logged(
    tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "_CHECKPOINT_SECONDS", 0.01)
    monkeypatch.setattr(_session, "_PRUNE_SECONDS", 0.01)
    calls: list[int] = []
    errors: list[Exception] = [StoreError("full"), OSError("the disk")]

    def checkpoint(_: object) -> None:
        calls.append(1)
        if errors:
            raise errors.pop()

    monkeypatch.setattr(SqliteLog, "checkpoint", checkpoint)
    with (
        broken_logging("handler", logging.INFO),
        serve(Webhooks("moon", deliveries=tmp_path / "hubhooks.db")),
    ):
        wait_until(lambda: len(calls) > 5, "upkeep stopped")


def test_the_dedicated_loop_goes_on_after_a_stop_that_cannot_be_logged(
    serve: Any, post: Any
) -> None:
    hooks = Webhooks("moon", loop="own", deliveries=":memory:")

    @hooks.on(name="stops")
    async def stops(event: HubEvent) -> None:
        asyncio.get_running_loop().stop()

    with broken_logging("handler", logging.INFO), serve(hooks, access_log=False) as port:
        for delivery_id in ("d1", "d2"):
            post(port, BODY, delivery_id)
            assert ended(hooks, delivery_id).state == "done"


def test_a_store_that_cannot_be_written_and_logging_that_raises_lose_nothing(
    tmp_path: Path, serve: Any, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_session, "_BROKEN_SECONDS", 0.05)
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
            "CREATE TRIGGER full BEFORE UPDATE ON runs "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
        release.set()
        assert post(port, BODY, "d2")[0] in (202, 503)
        file.execute("DROP TRIGGER full")
        assert ended(hooks).state in ("done", "failed")


def test_a_crashed_run_is_recovered_although_logging_raises(tmp_path: Path, serve: Any) -> None:
    path = tmp_path / "hubhooks.db"
    log = SqliteLog(path, max_interruptions=0)
    log.open()
    log.recover()
    for delivery_id in ("d1", "d2"):
        log.accept(delivery_id, BODY, ["hears"])
        assert log.claim(delivery_id, "hears")
    log.close()
    hooks = Webhooks("moon", deliveries=path)
    hooks.deliveries._max_interruptions = 0  # type: ignore[attr-defined] # noqa: SLF001 - see there
    told: list[str] = []
    hooks.add(lambda event: None, name="hears")
    hooks.on_failure(lambda event, delivery, error: told.append(delivery.id))
    with broken_logging("handler", logging.INFO), serve(hooks, access_log=False):
        wait_until(lambda: len(told) == 2, "hooks are not told")
    assert {record.state for record in log.list()} == {"failed"}


def test_a_record_names_the_line_that_logged_it(caplog: pytest.LogCaptureFixture) -> None:
    log = SafeLogger("hubhooks")
    log.warning("first %d", 1)
    try:
        raise ValueError  # noqa: TRY301 - there has to be one
    except ValueError:
        log.exception("second")
    assert {record.funcName for record in caplog.records} == {
        "test_a_record_names_the_line_that_logged_it"
    }
    assert caplog.records[1].exc_info is not None


def test_a_record_that_cannot_be_logged_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with broken_logging("filter", logging.INFO):
        SafeLogger("hubhooks").warning("handler `%s` took %g s", "hears", 1.5)
    assert capsys.readouterr().err == (
        "hubhooks: logging failed with ValueError; the record was: handler `hears` took 1.5 s\n"
    )


def test_ctrl_c_in_the_main_thread_passes_through_the_logger() -> None:
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
        (UnreadableRetry, "waiting"),
        (RetryWithoutAfter, "waiting"),
        (RetryAtOddTime, "waiting"),
    ],
)


@odd_errors
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("level", [logging.INFO, logging.CRITICAL])
def test_a_run_ends_whatever_its_exception_does(
    hooks: Webhooks,
    serve: Any,
    post: Any,
    error: Any,
    state: str,
    is_async: bool,
    level: int,
) -> None:
    retries = int(state == "waiting")

    def fails(event: HubEvent) -> None:
        raise error

    async def fails_async(event: HubEvent) -> None:
        raise error

    hooks.add(fails_async if is_async else fails, name="fails", retries=retries, backoff=3000)
    told: list[str] = []
    hooks.on_error(lambda event, delivery, raised: told.append(delivery.id))
    with broken_logging("none", level), serve(hooks, access_log=False) as port:
        assert post(port, BODY)[0] == 202
        (run,) = ended(hooks).runs
        assert run.state == state
        assert run.error or state == "ignored"
        wait_until(lambda: told == ([] if state == "ignored" else ["d1"]), "hooks are not told")


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
        assert ended(hooks).state == "waiting"


def test_a_run_is_recorded_although_ctrl_c_comes_while_its_exception_is_read(
    event: Callable[..., HubEvent],
) -> None:
    class Interrupting(Ignore):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    router, log = Router(), MemoryLog()
    sample = event("repo.create")

    @router.on(name="ignores")
    def ignores(event: HubEvent) -> None:
        raise Interrupting

    runner = Runner(router, log, inline=True)
    runner.start()
    verdict = log.accept("d1", sample.raw, ("ignores",))
    with pytest.raises(KeyboardInterrupt):
        runner.submit(Work(verdict.id, verdict.handlers, sample))
    asyncio.run(runner.stop())
    assert log.list()[0].state == "ignored"


def test_a_when_that_exits_is_answered(hooks: Webhooks, serve: Any, post: Any) -> None:
    def exits(event: HubEvent) -> bool:
        raise SystemExit

    hooks.add(lambda event: None, name="hears", when=exits)
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
