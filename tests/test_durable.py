"""Durability over real sockets: crashed processes and repeated deliveries."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import struct
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, UVICORN, started, wait_until
from soaking import soak

from hubhooks import HubEvent, Ignore, Retry, RunContext, Webhooks
from hubhooks._http import app as app_module
from hubhooks._samples import compact, sample_json
from hubhooks._store import leadership
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks._worker import service
from hubhooks._worker.service import WorkerService
from hubhooks._worker.timeouts import Timeouts
from hubhooks.errors import ConfigError, StoreError
from hubhooks.models import AcceptedRuns
from hubhooks.routing import Router

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from servers import Server

BODY = compact(sample_json("repo.content.update"))
ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": None}


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# ---- crashed processes --------------------------------------------------------------------------


def test_killed_server_loses_no_acknowledged_delivery(
    tmp_path: Path,
) -> None:
    report = soak(tmp_path, rounds=6)
    assert report.acknowledged > 20


ABORTS = """
import os
from hubhooks import Webhooks
from hubhooks._store import leadership

leadership._CRASH_BACKOFF_SECONDS = 0.5
app = Webhooks()

@app.on("repo.content", name="aborts")
def aborts(event):
    os.abort()

@app.on("repo", name="works")
def works(event): ...

@app.on_failure
def tell(event, context, error):
    with open("called", "a") as file:
        file.write(f"{context.handler} {context.attempt} {error}\\n")
"""


def test_handler_that_kills_the_process_finally_fails(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "hubhooks.db")
    crashes = 0
    with started(tmp_path, script=ABORTS, environ=ON_DISK) as server:
        assert server.post("/", BODY, headers={"Webhook-Id": "d1"}).status_code == 202
        server.wait()
        crashes += 1
    while not lines(tmp_path / "called"):
        with started(tmp_path, *UVICORN, script=ABORTS, prints="running on", environ=ON_DISK) as s:
            s.wait_until(lambda s=s: s.is_over or bool(lines(tmp_path / "called")), "is stuck")
            if s.is_over:
                crashes += 1
                continue
            other = compact(sample_json("repo.create"))
            assert s.post("/", other, headers={"Webhook-Id": "d2"}).status_code == 202
            s.wait_until(
                lambda: store.stats().states == {"failed": 1, "succeeded": 1}, "does not run it"
            )
    assert crashes == 4
    assert lines(tmp_path / "called") == ["aborts 4 the process died during this handler"]
    delivery = store.get("d1")
    assert delivery is not None
    assert (delivery.runs[0].attempts, delivery.runs[0].crashes) == (4, 4)


TELLS_PID = """
import os, time
from hubhooks import Webhooks
from hubhooks._store import clock, leadership

leadership._CRASH_BACKOFF_SECONDS = 0.5
clock.now = lambda: time.time() - 3600 * os.path.exists("set-back")
app = Webhooks()

@app.on(name="tells")
def tells(event, context):
    with open("ran", "a") as file:
        file.write(f"{context.id} {context.attempt} {os.getpid()}\\n")
    while context.id == "stuck" and context.attempt == 1:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("clock", ["goes on", "is set back"])
def test_second_process_takes_over_from_a_killed_leader(tmp_path: Path, clock: str) -> None:
    store = SqliteStore(tmp_path / "hubhooks.db")
    with ExitStack() as stack:
        servers = [
            stack.enter_context(started(tmp_path, script=TELLS_PID, environ=ON_DISK))
            for _ in range(2)
        ]
        for number in range(40):
            headers = {"Webhook-Id": f"d{number}"}
            assert servers[number % 2].post("/", BODY, headers=headers).status_code == 202
        servers[0].wait_until(
            lambda: store.stats().states == {"succeeded": 40}, "does not run them"
        )
        ran = [line.split() for line in lines(tmp_path / "ran")]
        assert Counter(name for name, _, _ in ran) == {f"d{number}": 1 for number in range(40)}
        (pid,) = {int(pid) for _, _, pid in ran}
        leader, other = sorted(servers, key=lambda server: server.pid != pid)
        assert leader.pid == pid
        other.post("/", BODY, headers={"Webhook-Id": "stuck"})
        leader.wait_until(lambda: "stuck" in lines(tmp_path / "ran")[-1], "does not start it")
        assert not LeaderLock(tmp_path / "hubhooks.db").try_acquire()
        if clock == "is set back":
            (tmp_path / "set-back").touch()
        leader.kill()
        other.wait_until(lambda: store.stats().states == {"succeeded": 41}, "does not take over")
        other.post("/", BODY, headers={"Webhook-Id": "last"})
        other.wait_until(lambda: store.stats().states == {"succeeded": 42}, "does not go on")
    names = [line.split()[:2] for line in lines(tmp_path / "ran")]
    assert names[40:] == [["stuck", "1"], ["stuck", "2"], ["last", "1"]]
    assert {int(line.split()[2]) for line in lines(tmp_path / "ran")[41:]} == {other.pid}


def test_failed_takeover_is_retried(
    tmp_path: Path,
    serve: Any,
    post: Any,
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[], list[str]],
) -> None:
    monkeypatch.setattr(service, "DEFAULT_TIMEOUTS", Timeouts(store_failure=0.05))
    path = tmp_path / "hubhooks.db"
    hooks = Webhooks("moon", deliveries=path)
    ran: list[str] = []
    hooks.add(lambda event, context: ran.append(context.id), name="matching")
    first = LeaderLock(path)
    assert first.try_acquire()
    with serve(hooks) as port, closing(sqlite3.connect(path, isolation_level=None)) as file:
        assert post(port, BODY)[0] == 202
        file.execute(
            "CREATE TRIGGER full BEFORE UPDATE OF generation ON log "
            "BEGIN SELECT RAISE(ABORT, 'it is full'); END"
        )
        first.release()
        wait_until(lambda: any("failed: it is full" in line for line in logged()))
        assert ran == []
        file.execute("DROP TRIGGER full")
        wait_until(lambda: ran == ["d1"])


STOPS = """
import asyncio, time
from hubhooks import Webhooks

app = Webhooks()

@app.on(name="async")
async def waits(event, context):
    with open("ran", "a") as file:
        file.write(f"async {context.attempt}\\n")
    if context.attempt == 1:
        await asyncio.Event().wait()

@app.on(name="sync")
def waits_too(event, context):
    with open("ran", "a") as file:
        file.write(f"sync {context.attempt}\\n")
    while context.attempt == 1:
        time.sleep(0.01)
"""


def test_unfinished_run_runs_after_the_next_start(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "hubhooks.db")
    with started(tmp_path, script=STOPS, environ=ON_DISK) as server:
        server.post("/", BODY, headers={"Webhook-Id": "d1"})
        server.wait_until(lambda: len(lines(tmp_path / "ran")) == 2, "does not start them")
        # After ten seconds it stops waiting.
        server.stop()
        delivery = store.get("d1")
        assert delivery is not None
        assert {run.state for run in delivery.runs} == {"retrying"}
    with started(tmp_path, script=STOPS, environ=ON_DISK) as server:
        server.wait_until(
            lambda: store.stats().states == {"succeeded": 1}, "does not run them again"
        )
    assert sorted(lines(tmp_path / "ran")) == ["async 1", "async 2", "sync 1", "sync 2"]


UPLOADS = """
import pathlib
from hubhooks import Webhooks

app = Webhooks()


@app.on(name="matching")
def matching(event, context):
    if context.id == "upload":
        for file in pathlib.Path().glob("hubhooks.db*"):
            file.read_bytes()
    with open("ran", "a") as ran:
        ran.write(context.id + "\\n")
"""


def deliver(server: Server, delivery_id: str) -> None:
    response = server.post("/", BODY, headers={"Webhook-Id": delivery_id})
    assert response.status_code == 202, response.text


def test_lost_sqlite_locks_do_not_stop_the_handlers(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with started(tmp_path, script=UPLOADS, environ=ON_DISK) as first:
        deliver(first, "upload")
        wait_until(lambda: lines(ran) == ["upload"])
        # The second process finds the lock free.
        with started(tmp_path, environ=ON_DISK) as second:
            deliver(second, "to-the-second")
            wait_until(lambda: lines(ran)[1:] == ["to-the-second"])
            deliver(first, "to-the-first")
            wait_until(lambda: lines(ran)[2:] == ["to-the-first"])
            second.kill()
        deliver(first, "afterwards")
        wait_until(lambda: lines(ran)[3:] == ["afterwards"])
    assert len(SqliteStore(tmp_path / "hubhooks.db").list()) == 4


def test_app_recreates_a_removed_store(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with started(tmp_path, script=UPLOADS, environ=ON_DISK) as server:
        deliver(server, "before")
        wait_until(lambda: lines(ran) == ["before"])
        # The database first, as a shell does it: its deliveries must not come back.
        for file in sorted(tmp_path.glob("hubhooks.db*")):
            file.unlink(missing_ok=True)
        deliver(server, "after")
        wait_until(lambda: lines(ran)[1:] == ["after"])
        server.kill()
    assert [delivery.id for delivery in SqliteStore(tmp_path / "hubhooks.db").list()] == ["after"]


# ---- repeated deliveries ------------------------------------------------------------------------


class Served:
    """A `Webhooks` behind a real socket."""

    def __init__(self, hooks: Webhooks, port: int, post: Any) -> None:
        self.hooks = hooks
        self.port = port
        self.seen: list[RunContext] = []
        self._post = post

    def send(self, delivery_id: str = "d1", content: bytes = BODY) -> tuple[int, str]:
        status, data = self._post(self.port, content, delivery_id)
        return status, data["status"]

    def delivery(self, delivery_id: str = "d1") -> Any:
        return self.hooks.deliveries.get(delivery_id)

    def wait_for(self, state: str, delivery_id: str = "d1", *, delivered: bool = True) -> None:
        def is_so() -> bool:
            delivery = self.delivery(delivery_id)
            return (
                delivery is not None
                and delivery.state == state
                and (delivery.is_acknowledged or not delivered)
            )

        wait_until(is_so)


@pytest.fixture(params=["memory", "disk"])
def deliveries(request: Any, tmp_path: Path) -> str:
    return ":memory:" if request.param == "memory" else str(tmp_path / "hubhooks.db")


@pytest.fixture
def serving(serve: Any, post: Any, deliveries: str) -> Any:
    @contextmanager
    def serving(**options: Any) -> Generator[Served]:
        hooks = Webhooks("moon", deliveries=deliveries, **options)
        with serve(hooks) as port:
            yield Served(hooks, port, post)

    return serving


def test_delivery_repeated_after_a_timely_response_is_a_replay(serving: Any) -> None:
    seen: list[RunContext] = []
    with serving() as served:
        served.hooks.add(lambda event, context: seen.append(context), name="matching")
        assert served.send() == (202, "accepted")
        served.wait_for("succeeded")
        assert served.send() == (202, "accepted")
        served.wait_for("succeeded")
    assert [(d.attempt, d.is_replay) for d in seen] == [(1, False), (2, True)]


def test_delivery_repeated_after_a_late_response_is_a_retry(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "_ACKNOWLEDGE_SECONDS", 0)
    with serving() as served:
        served.hooks.add(lambda event: None, name="matching")
        assert served.send() == (202, "accepted")
        served.wait_for("succeeded", delivered=False)
        assert served.send() == (200, "duplicate")
        assert served.delivery().duplicates == 1


def test_response_on_completion_is_in_time(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "_ACKNOWLEDGE_SECONDS", 0)
    with serving(acknowledge="on_completion") as served:
        served.hooks.add(lambda event: None, name="matching")
        assert served.send() == (200, "succeeded")
        # Replay.
        assert served.send() == (200, "succeeded")
        assert served.delivery().runs[0].attempts == 2


def test_delivery_repeated_after_a_disconnect_is_a_retry(serving: Any) -> None:
    stalls, release = threading.Event(), threading.Event()
    with serving() as served:

        @served.hooks.on(name="matching")
        async def matching(event: HubEvent, context: RunContext) -> None:
            if context.id == "stall":
                stalls.set()
                assert release.wait(PATIENCE)

        served.send("stall")
        assert stalls.wait(PATIENCE)
        # The loop is busy, so the request and the end of its connection arrive together.
        request = (
            b"POST / HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: moon\r\nWebhook-Id: d1\r\n"
            b"Content-Length: %d\r\n\r\n" % len(BODY)
        )
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(request + BODY)
            release_later = threading.Timer(0.2, release.set)
        release_later.start()
        try:
            wait_until(
                lambda: served.delivery() is not None and served.delivery().state == "succeeded"
            )
        except AssertionError:
            pytest.skip("the server saw the end of the connection before the request")
        assert not served.delivery().is_acknowledged
        assert served.send() == (200, "duplicate")


def test_disconnect_before_completion_makes_the_next_a_retry(serving: Any) -> None:
    begun, release = threading.Event(), threading.Event()
    with serving(acknowledge="on_completion") as served:

        @served.hooks.on(name="matching")
        def matching(event: HubEvent) -> None:
            begun.set()
            assert release.wait(PATIENCE)

        request = (
            b"POST / HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: moon\r\nWebhook-Id: d1\r\n"
            b"Content-Length: %d\r\n\r\n" % len(BODY)
        )
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(request + BODY)
            assert begun.wait(PATIENCE)
        release.set()
        served.wait_for("succeeded", delivered=False)
        assert served.send() == (200, "duplicate")
        assert served.delivery().runs[0].attempts == 1


def test_only_failed_handlers_run_again(serving: Any) -> None:
    ran: list[str] = []
    with serving() as served:

        @served.hooks.on(name="fails once")
        def fails_once(event: HubEvent, context: RunContext) -> None:
            ran.append("fails once")
            if context.attempt == 1:
                raise ValueError

        served.hooks.add(lambda event: ran.append("works"), name="works")
        served.send()
        served.wait_for("failed")
        assert served.send() == (202, "accepted")
        served.wait_for("succeeded")
    assert sorted(ran) == ["fails once", "fails once", "works"]


def test_running_or_retrying_delivery_is_in_progress(serving: Any) -> None:
    release = threading.Event()
    with serving() as served:

        @served.hooks.on(name="matching", retries=1, backoff=3600)
        def matching(event: HubEvent) -> None:
            assert release.wait(PATIENCE)
            raise ValueError

        try:
            served.send()
            served.wait_for("running")
            assert served.send() == (200, "in_progress")
        finally:
            release.set()
        served.wait_for("retrying")
        assert served.send() == (200, "in_progress")
        assert served.delivery().duplicates == 2


def test_delivery_without_runs_is_matched_again(serving: Any) -> None:
    with serving() as served:
        assert served.send("unheard") == (200, "unhandled")
        assert served.send("malformed", b"{") == (202, "malformed")
        served.wait_for("unhandled", "unheard")

        @served.hooks.on(name="ignores")
        def ignores(event: HubEvent) -> None:
            raise Ignore

        assert served.send("malformed", b"{") == (202, "malformed")
        assert served.send("unheard") == (202, "accepted")
        served.wait_for("ignored", "unheard")
        assert served.send("unheard") == (202, "accepted")


def test_deliveries_without_id_are_all_different(serving: Any, post: Any) -> None:
    ran: list[str] = []
    with serving() as served:
        served.hooks.add(lambda event, context: ran.append(context.id), name="matching")
        responses = [post(served.port, BODY, "") for _ in range(2)]
        assert [status for status, _ in responses] == [202, 202]
        wait_until(lambda: len(ran) == 2)
    assert sorted(ran) == sorted(data["delivery"] for _, data in responses)
    assert len(set(ran)) == 2


# ---- crashed runs -------------------------------------------------------------------------------


@pytest.fixture
def serve_after_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any, post: Any
) -> Any:
    """Serve a store with crashed and queued runs of `matching`."""

    @contextmanager
    def serve_after_crash(
        hooks: Webhooks,
        *interrupted: str,
        queued: Sequence[str] = (),
        due_after: float = 0,
        quarantine: float = 3600,
    ) -> Generator[Served]:
        monkeypatch.setattr(leadership, "_CRASH_BACKOFF_SECONDS", due_after)
        monkeypatch.setattr(service, "DEFAULT_TIMEOUTS", Timeouts(quarantine=quarantine))
        store = SqliteStore(tmp_path / "hubhooks.db")
        store.open()
        store.recover()
        for delivery_id in (*interrupted, *queued):
            store.accept(delivery_id, BODY, ["matching"])
            assert delivery_id in queued or store.claim(delivery_id, "matching") is not None
        store.close()
        with serve(hooks) as port:
            yield Served(hooks, port, post)

    return serve_after_crash


@pytest.fixture
def on_disk(tmp_path: Path) -> Webhooks:
    return Webhooks("moon", deliveries=tmp_path / "hubhooks.db")


def test_crashed_runs_are_isolated_with_others_between_them(
    serve_after_crash: Any, on_disk: Webhooks
) -> None:
    release = threading.Event()
    ran: list[str] = []

    @on_disk.on(name="matching")
    def matching(event: HubEvent, context: RunContext) -> None:
        ran.append(context.id)
        assert release.wait(PATIENCE)

    with serve_after_crash(on_disk, "i1", "i2", "i3", queued=["n1"]) as served:
        try:
            wait_until(lambda: ran == ["i1"])
            served.send("n2")
            assert [served.delivery(name).state for name in ("n1", "n2")] == ["queued", "queued"]
        finally:
            release.set()
        wait_until(lambda: served.hooks.deliveries.stats().states == {"succeeded": 5})
    assert [ran[0], *sorted(ran[1:3]), *ran[3:]] == ["i1", "n1", "n2", "i2", "i3"]


@pytest.mark.parametrize(("quarantine", "timeout"), [(0.05, None), (3600, 0.05)])
def test_isolation_of_a_hanging_crashed_run_ends(
    serve_after_crash: Any,
    on_disk: Webhooks,
    logged: Callable[[], list[str]],
    quarantine: float,
    timeout: float | None,
) -> None:
    release = threading.Event()

    @on_disk.on(name="matching", timeout=timeout)
    def matching(event: HubEvent, context: RunContext) -> None:
        assert context.id != "i1" or release.wait(PATIENCE)

    with serve_after_crash(on_disk, "i1", quarantine=quarantine) as served:
        try:
            served.send("n1")
            served.wait_for("succeeded", "n1")
            served.send("n2")
            served.wait_for("succeeded", "n2")
            assert served.delivery("i1").state == ("stuck" if timeout else "running")
        finally:
            release.set()
        served.wait_for("succeeded", "i1", delivered=False)
    what = (
        "handler `matching` on delivery `i1`, during which the process died before, has not "
        "finished alone: other handlers now run at the same time"
    )
    assert logged().count(what) == 1


def test_crashed_run_starts_under_constant_load(serve_after_crash: Any, on_disk: Webhooks) -> None:
    ran = threading.Event()
    # Each run ends after the next one has arrived, so some run is always active.
    arrivals = [threading.Event()]

    @on_disk.on(name="matching")
    def matching(event: HubEvent, context: RunContext) -> None:
        if context.id == "i1":
            ran.set()
        else:
            assert arrivals[int(context.id) + 1].wait(PATIENCE)

    with serve_after_crash(on_disk, "i1", due_after=0.2) as served:
        deadline = time.monotonic() + PATIENCE
        try:
            while not ran.is_set():
                assert time.monotonic() < deadline
                arrivals.append(threading.Event())
                served.send(str(len(arrivals) - 2))
                arrivals[-2].set()
        finally:
            arrivals[-1].set()
        wait_until(lambda: set(served.hooks.deliveries.stats().states) == {"succeeded"})


def test_crashed_run_waits_a_limited_time_for_others(
    serve_after_crash: Any, on_disk: Webhooks
) -> None:
    release, begun = threading.Event(), threading.Event()

    @on_disk.on(name="matching")
    def matching(event: HubEvent, context: RunContext) -> None:
        if context.id == "n1":
            begun.set()
            assert release.wait(PATIENCE)

    with serve_after_crash(on_disk, "i1", due_after=0.2, quarantine=0.05) as served:
        try:
            served.send("n1")
            assert begun.wait(PATIENCE)
            served.wait_for("succeeded", "i1", delivered=False)
            served.send("n2")
            served.wait_for("succeeded", "n2")
            assert served.delivery("n1").state == "running"
        finally:
            release.set()


# ---- how a handler runs -------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_failing_handler_is_retried_up_to_its_limit(serving: Any, is_async: bool) -> None:
    called: list[tuple[str, int, str]] = []
    waits: list[int] = []

    def backoff(failures: int) -> float:
        waits.append(failures)
        return 0.01

    def fails(event: HubEvent, context: RunContext) -> None:
        msg = f"no {context.attempt}"
        raise ValueError(msg)

    async def fails_too(event: HubEvent, context: RunContext) -> None:
        fails(event, context)

    with serving() as served:
        hooks = served.hooks
        hooks.add(fails_too if is_async else fails, name="fails", retries=2, backoff=backoff)
        hooks.on_error(
            lambda _, context, error: called.append(("error", context.attempt, f"{error}"))
        )
        hooks.on_failure(
            lambda _, context, error: called.append(("failure", context.attempt, f"{error}"))
        )
        served.send()
        served.wait_for("failed")
        wait_until(lambda: len(called) == 4)
        (run,) = served.delivery().runs
        assert (run.attempts, run.error) == (3, "ValueError: no 3")
        served.send()
        wait_until(lambda: len(called) == 8)
    assert waits == [1, 2, 1, 2]
    assert sorted(called) == sorted(
        [("error", attempt, f"no {attempt}") for attempt in range(1, 7)]
        + [("failure", 3, "no 3"), ("failure", 6, "no 6")]
    )


def test_handler_chooses_the_time_of_its_retry(
    serving: Any, logged: Callable[[], list[str]]
) -> None:
    with serving() as served:

        @served.hooks.on(name="busy", retries=1, backoff=3600)
        def busy(event: HubEvent, context: RunContext) -> None:
            if context.attempt == 1:
                raise Retry("too many requests", after=0.01)  # noqa: EM101, TRY003

        served.send()
        served.wait_for("succeeded")
        assert served.delivery().runs[0].attempts == 2
    expected = "handler `busy` asks for a retry of delivery `d1` in 0.01 s: too many requests"
    assert expected in logged()


@pytest.mark.parametrize("after", [60, 60.0, Decimal(60), Fraction(60)])
def test_retry_accepts_any_number_of_seconds(after: Any) -> None:
    assert Retry(after=after).after == 60


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), "60", [60]])
def test_retry_without_a_time_is_rejected(after: Any) -> None:
    with pytest.raises(ConfigError, match=r"for a time, write `after=60`"):
        Retry(60)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="is not a number of seconds; write for example"):
        Retry(after=after)


def exits(_: int) -> float:
    raise SystemExit


@pytest.mark.parametrize(
    "backoff", [exits, lambda _: float("nan"), lambda _: float("inf"), lambda _: 10**400]
)
def test_invalid_backoff_waits_a_minute(
    serving: Any, logged: Callable[[], list[str]], backoff: Callable[[int], float]
) -> None:
    def waits_a_minute(delivery_id: str) -> bool:
        served.wait_for("retrying", delivery_id)
        (run,) = served.delivery(delivery_id).runs
        minute = timedelta(seconds=60)
        return bool(run.started_at + minute <= run.due_at <= datetime.now(timezone.utc) + minute)

    with serving() as served:

        @served.hooks.on(name="fails", retries=1, backoff=backoff, concurrency=1)
        def fails(event: HubEvent) -> None:
            raise ValueError

        # The second run needs the slot of the first.
        for delivery_id in ("d1", "d2"):
            served.send(delivery_id)
            assert waits_a_minute(delivery_id)
    assert logged().count("`backoff` of handler `fails` failed; retry in a minute") == 2


@pytest.mark.parametrize("after", [1e9, 1e12, 1e300])
def test_retry_waits_a_year_at_most(serving: Any, after: float) -> None:
    class Later(Retry):
        """A user's exception that does not call the inherited constructor."""

        def __init__(self) -> None:
            Exception.__init__(self, "later")

    with serving() as served:

        @served.hooks.on(name="later", retries=2, backoff=0)
        def defer(event: HubEvent, context: RunContext) -> None:
            if context.attempt == 1:
                raise Later
            raise Retry(after=after)

        served.send()
        wait_until(lambda: served.delivery().runs[0].failures == 2)
        assert served.send() == (200, "in_progress")
        (listed,) = served.hooks.deliveries.list()
        in_a_year = datetime.now(timezone.utc) + timedelta(days=365)
        assert in_a_year - timedelta(days=1) < listed.runs[0].due_at <= in_a_year


def test_timeout_cancels_an_async_handler(serving: Any) -> None:
    cleaned_up: list[bool] = []
    with serving() as served:

        @served.hooks.on(name="slow", timeout=0.05, retries=1, backoff=0)
        async def slow(event: HubEvent) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned_up.append(True)

        served.send()
        served.wait_for("failed")
        (run,) = served.delivery().runs
    assert (run.attempts, run.error) == (2, "TimeoutError: it took more than 0.05 s")
    assert cleaned_up == [True, True]


def test_timed_out_sync_handler_is_stuck_until_it_returns(
    serving: Any, logged: Callable[[], list[str]]
) -> None:
    release = threading.Event()
    with serving() as served:

        @served.hooks.on(name="stuck", timeout=0.05, retries=5, backoff=0, concurrency=1)
        def stuck(event: HubEvent, context: RunContext) -> None:
            assert release.wait(PATIENCE)

        try:
            served.send()
            served.wait_for("stuck")
            served.send("d2")
            assert served.delivery("d2").state == "queued"
            assert served.send() == (200, "in_progress")
        finally:
            release.set()
        served.wait_for("succeeded")
        served.wait_for("succeeded", "d2")
        assert served.delivery().runs[0].attempts == 1
    what = "handler `stuck` on delivery `d1` is stuck: it took more than 0.05 s; a thread cannot"
    assert f"{what} be stopped" in logged()


def test_handler_that_swallows_its_cancellation_is_stuck(
    serving: Any, logged: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DEFAULT_TIMEOUTS", Timeouts(cancel_grace=0.05))
    release = threading.Event()
    with serving() as served:

        @served.hooks.on(name="stubborn", timeout=0.05, retries=5, backoff=0, concurrency=1)
        async def stubborn(event: HubEvent, context: RunContext) -> None:
            while not release.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

        try:
            served.send()
            served.wait_for("stuck")
            served.send("d2")
            assert served.delivery("d2").state == "queued"
        finally:
            release.set()
        served.wait_for("succeeded")
        served.wait_for("succeeded", "d2")
        assert served.delivery().runs[0].attempts == 1
    what = "handler `stubborn` on delivery `d1` is stuck: it took more than 0.05 s, and did not end"
    (line,) = [line for line in logged() if line.startswith(what)]
    assert line == f"{what} when it was cancelled"


def test_concurrency_limit_delays_no_other_handler(serving: Any) -> None:
    release = threading.Event()
    now, most, lock = [0], [0], threading.Lock()
    passed: list[str] = []
    with serving() as served:

        @served.hooks.on(name="narrow", concurrency=2)
        def narrow(event: HubEvent) -> None:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            assert release.wait(PATIENCE)
            with lock:
                now[0] -= 1

        served.hooks.add(lambda event, context: passed.append(context.id), name="wide")
        try:
            for number in range(50):
                served.send(f"d{number}")
            wait_until(lambda: len(passed) == 50)
            assert now == [2]
        finally:
            release.set()
        wait_until(lambda: served.hooks.deliveries.stats().states == {"succeeded": 50})
    assert most == [2]


def test_runs_beyond_the_slots_run_later(serving: Any) -> None:
    release = threading.Event()
    ran: list[str] = []
    with serving() as served:

        @served.hooks.on(name="waits")
        async def waits(event: HubEvent, context: RunContext) -> None:
            while not release.is_set():
                await asyncio.sleep(0.001)
            ran.append(context.id)

        for number in range(40):
            served.send(f"d{number}")
        wait_until(lambda: served.hooks.deliveries.stats().states == {"running": 32, "queued": 8})
        release.set()
        wait_until(lambda: served.hooks.deliveries.stats().states == {"succeeded": 40})
    assert sorted(ran) == sorted(f"d{number}" for number in range(40))


def test_app_runs_deliveries_queued_by_another_process(serving: Any, deliveries: str) -> None:
    if deliveries == ":memory:":
        pytest.skip("no other process sees it")
    ran: list[bool] = []
    with serving() as served:
        served.hooks.add(lambda event, context: ran.append(context.is_replay), name="matching")
        served.send()
        served.wait_for("succeeded")
        other = SqliteStore(deliveries)
        other.open()
        assert other.replay("d1") == ("matching",)
        other.close()
        wait_until(lambda: len(ran) == 2)
    assert ran == [False, True]


@pytest.mark.slow
def test_handler_that_blocks_the_loop_is_named(
    serving: Any, logged: Callable[[], list[str]]
) -> None:
    def names_it() -> bool:
        return any(
            line.startswith("handler `blocks` has blocked the event loop") for line in logged()
        )

    with serving() as served:

        @served.hooks.on(name="blocks")
        async def blocks(event: HubEvent) -> None:
            wait_until(names_it)

        served.send()
        served.wait_for("succeeded")


# ---- response on completion ---------------------------------------------------------------------


def test_response_on_completion_waits_for_handlers(serving: Any) -> None:
    with serving(acknowledge="on_completion") as served:

        @served.hooks.on(name="matching")
        def matching(event: HubEvent, context: RunContext) -> None:
            if context.id == "fails" and context.attempt == 1:
                raise ValueError

        assert served.send("works") == (200, "succeeded")
        assert served.delivery("works").state == "succeeded"
        assert served.send("fails") == (503, "failed")
        assert not served.delivery("fails").is_acknowledged
        # The Hub sends them again.
        assert served.send("fails") == (200, "succeeded")
        assert served.send("works") == (200, "succeeded")
        assert [served.delivery(name).runs[0].attempts for name in ("works", "fails")] == [2, 2]


def test_response_on_completion_waits_a_limited_time(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "_COMPLETION_SECONDS", 0.05)
    release = threading.Event()
    with serving(acknowledge="on_completion") as served:

        @served.hooks.on(name="matching")
        def matching(event: HubEvent) -> None:
            assert release.wait(PATIENCE)

        try:
            assert served.send() == (202, "accepted")
            assert served.send() == (200, "in_progress")
        finally:
            release.set()


def test_waiting_responses_do_not_poll_a_busy_store(
    tmp_path: Path, event: Callable[..., HubEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(SqliteStore):
        looks = tries = 0

        def get(self, delivery_id: str) -> Any:
            self.looks += 1
            return super().get(delivery_id)

        def flush(self) -> None:
            self.tries += self.has_deferred
            super().flush()

    async def until(is_so: Callable[[], bool]) -> None:
        while not is_so():
            await asyncio.sleep(0.001)

    async def serve() -> list[Any]:
        release = asyncio.Event()

        @router.on(name="matching")
        async def matching(event: HubEvent) -> None:
            await release.wait()

        worker.start()
        worker.submit(
            AcceptedRuns(store.accept("d1", BODY, ["matching"]).id, ("matching",), change)
        )
        responses = [asyncio.ensure_future(worker.wait_for("d1", PATIENCE)) for _ in range(20)]
        await until(lambda: store.looks >= 20)
        with other.transaction():
            store.tries = 0
            release.set()
            await until(lambda: store.looks >= 40)
            assert store.tries == 1
        clock[0] += 1
        records = await asyncio.gather(*responses)
        await worker.stop()
        return records

    # The clock stands still, so no write is retried.
    clock = [0.0]
    change = event("repo.content.update")
    store, other, router = Counting(tmp_path / "x.db"), SqliteStore(tmp_path / "x.db"), Router()
    worker = WorkerService(router, store, clock=lambda: clock[0])
    store.open()
    other.open()
    records = asyncio.run(asyncio.wait_for(serve(), PATIENCE))
    other.close()
    assert [record.state for record in records] == ["succeeded"] * 20


# ---- the file -----------------------------------------------------------------------------------


def test_argument_or_environment_sets_the_store_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Any, post: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUBHOOKS_DELIVERIES", str(tmp_path / "environment.db"))
    hooks = [Webhooks("moon"), Webhooks("moon", deliveries=tmp_path / "argument.db")]
    assert not list(tmp_path.iterdir())
    for each in hooks:
        with serve(each) as port:
            assert post(port, BODY)[0] == 200
    monkeypatch.delenv("HUBHOOKS_DELIVERIES")
    with serve(Webhooks("moon")) as port:
        assert post(port, BODY)[0] == 200
    assert {file.name for file in tmp_path.iterdir() if file.suffix == ".db"} == {
        "environment.db",
        "argument.db",
        "hubhooks.db",
    }


@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_unusable_store_is_a_startup_error_or_503(
    tmp_path: Path, serve: Any, post: Any, lifespan: str, logged: Callable[[], list[str]]
) -> None:
    hooks = Webhooks("moon", deliveries=tmp_path / "no" / "hubhooks.db")
    if lifespan == "on":

        async def live() -> None:
            async with hooks.lifespan(None):
                pytest.fail("it started")

        with pytest.raises(ConfigError, match="cannot be created"):
            asyncio.run(live())
        return
    with serve(hooks, lifespan="off") as port:
        status, data = post(port, BODY)
        assert (status, data["reason"]) == (503, "the delivery could not be stored")
        (line,) = logged()
        assert f"there is no folder `{tmp_path / 'no'}`; create it first" in line
        (tmp_path / "no").mkdir()
        assert post(port, BODY)[0] == 200


def test_delivery_waits_for_a_busy_store_then_is_rejected(
    tmp_path: Path, serve: Any, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hubhooks.db"
    hooks = Webhooks("moon", deliveries=path)
    responses: list[int] = []
    other = SqliteStore(path)
    other.open()
    with serve(hooks) as port:
        with other.transaction():
            sender = threading.Thread(target=lambda: responses.append(post(port, BODY)[0]))
            sender.start()
            sender.join(0.3)
            assert responses == []
        sender.join(PATIENCE)
        assert responses == [200]
        monkeypatch.setattr(app_module, "BUSY_SECONDS", 0.0)
        with other.transaction():
            assert post(port, BODY, "d2") == (
                503,
                {"status": "rejected", "reason": "the delivery could not be stored"},
            )
    other.close()


def test_rejections_are_counted_in_the_store(serve: Any, post: Any, tmp_path: Path) -> None:
    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    with serve(hooks) as port:
        for secret in ("sun", "sun", ""):
            post(port, BODY, secret=secret)
        post(port, BODY)
    assert hooks.deliveries.stats().rejections == {"secret wrong": 2, "secret missing": 1}


def test_two_webhooks_do_not_share_a_store(tmp_path: Path) -> None:
    path = tmp_path / "hubhooks.db"
    first, second = Webhooks("sun", deliveries=path), Webhooks("moon", deliveries=path)
    elsewhere = Webhooks("moon", deliveries=tmp_path / "other.db")

    async def live() -> None:
        async with first.lifespan(None):
            with pytest.raises(ConfigError, match="is in use by another `Webhooks`"):
                await second.lifespan(None).__aenter__()
            async with elsewhere.lifespan(None):
                pass
        async with second.lifespan(None):
            pass
        async with first.lifespan(None):
            pass

    asyncio.run(live())


def test_waiting_requests_are_stored_in_one_batch(serve: Any, post: Any, tmp_path: Path) -> None:
    arrivals: list[int] = []
    sizes: list[int] = []

    class Counting(SqliteStore):
        @contextmanager
        def transaction(self) -> Generator[None]:
            is_outermost = not self._db.in_transaction
            with super().transaction():
                if is_outermost:
                    sizes.append(0)
                yield

        def accept(self, *args: Any, **more: Any) -> Any:
            sizes[-1] += 1
            return super().accept(*args, **more)

    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    hooks.store.__class__ = Counting
    other = SqliteStore(tmp_path / "hubhooks.db")
    other.open()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def receive_and_count() -> Any:
            message = await receive()
            arrivals.append(1)
            return message

        await hooks(scope, receive_and_count if scope["type"] == "http" else receive, send)

    responses: list[int] = []
    with serve(app) as port:
        with other.transaction():
            senders = [
                threading.Thread(target=lambda: responses.append(post(port, BODY)[0]))
                for _ in range(20)
            ]
            for sender in senders:
                sender.start()
            wait_until(lambda: len(arrivals) == 20)
            assert responses == []
        for sender in senders:
            sender.join(PATIENCE)
    other.close()
    assert responses == [200] * 20
    assert max(sizes) == 20


@pytest.mark.parametrize("turns", [1, 2])
def test_delivery_of_a_cancelled_request_still_runs(tmp_path: Path, turns: int) -> None:
    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    hooks.add(lambda event: None, name="matching")
    headers = [(b"x-webhook-secret", b"moon"), (b"webhook-id", b"d1")]
    scope = {"type": "http", "method": "POST", "query_string": b"", "headers": headers}

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY}

    async def send(message: Any) -> None:
        pytest.fail("whoever waited is gone")

    async def come_and_go() -> None:
        async with hooks.lifespan(None):
            request = asyncio.ensure_future(hooks(scope, receive, send))
            # Before its batch is stored, or just after.
            for _ in range(turns):
                await asyncio.sleep(0)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request

    asyncio.run(come_and_go())
    delivery = hooks.deliveries.get("d1")
    assert delivery is not None
    assert [run.state for run in delivery.runs] == ["succeeded"]
    assert not delivery.is_acknowledged


def test_failed_start_in_a_batch_delays_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    hooks.add(lambda event: None, name="matching")
    begin = hooks._worker.start_runs  # noqa: SLF001 - where a system that has no thread left shows
    statuses: list[int] = []

    def fail_once(work: Any, runs: Any) -> None:
        if work.delivery_id == "d0":
            msg = "can't start new thread"
            raise RuntimeError(msg)
        begin(work, runs)

    monkeypatch.setattr(hooks._worker, "start_runs", fail_once)  # noqa: SLF001 - see above

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY}

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    async def come() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with hooks.lifespan(None):
            requests: list[asyncio.Future[None]] = []
            for number in range(3):
                headers = [(b"x-webhook-secret", b"moon"), (b"webhook-id", b"d%d" % number)]
                scope = {"type": "http", "method": "POST", "query_string": b"", "headers": headers}
                requests.append(asyncio.ensure_future(hooks(scope, receive, send)))
            await asyncio.sleep(0)
            requests[0].cancel()
            await asyncio.wait_for(asyncio.gather(*requests[1:]), PATIENCE)

    asyncio.run(come())
    assert statuses == [202, 202]


def test_unstored_start_frees_its_slot(serve: Any, post: Any, tmp_path: Path) -> None:
    errors = [StoreError("its disk is full")]

    class Failing(SqliteStore):
        def claim(self, delivery_id: str, handler: str, **more: Any) -> RunContext | None:
            if handler == "second" and errors:
                raise errors.pop()
            return super().claim(delivery_id, handler, **more)

    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    hooks.store.__class__ = Failing
    hooks.on(name="first", concurrency=1)(lambda event: None)
    hooks.on(name="second")(lambda event: None)
    with serve(hooks) as port:
        assert [post(port, BODY, "d1")[0] for _ in range(2)] == [503, 202]
        wait_until(lambda: hooks.deliveries.stats().states == {"succeeded": 1})


def test_any_storing_error_is_503(
    serve: Any, post: Any, tmp_path: Path, logged: Callable[[], list[str]]
) -> None:
    errors: list[Exception] = [StoreError("its disk is full"), RuntimeError("a mistake of ours")]

    class Failing(SqliteStore):
        def accept(self, *args: Any, **more: Any) -> Any:
            if errors:
                raise errors.pop(0)
            return super().accept(*args, **more)

    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    hooks.store.__class__ = Failing
    with serve(hooks) as port:
        assert [post(port, BODY)[0] for _ in range(3)] == [503, 503, 200]
    assert [line for line in logged() if "cannot store deliveries" in line]


def test_waiting_request_at_shutdown_is_rejected_without_a_run(ask: Any, tmp_path: Path) -> None:
    path = tmp_path / "hubhooks.db"
    hooks = Webhooks("moon", deliveries=path)
    hooks.on("repo.content", name="matching")(lambda event: None)
    tried = asyncio.Event()

    class HookExecution(SqliteStore):
        @contextmanager
        def transaction(self) -> Generator[None]:
            tried.set()
            with super().transaction():
                yield

    hooks.store.__class__ = HookExecution
    other = SqliteStore(path)

    async def stop_meanwhile() -> Any:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(hooks.lifespan(None))
            other.open()
            with other.transaction():
                tried.clear()
                headers = {"x-webhook-secret": "moon"}
                asking = asyncio.ensure_future(ask(hooks, BODY, headers=headers))
                await asyncio.wait_for(tried.wait(), PATIENCE)
                await stack.aclose()
        return await asyncio.wait_for(asking, PATIENCE)

    assert asyncio.run(stop_meanwhile()).status == 503
    assert not LeaderLock(path).is_taken()
    assert other.stats().states == {}
    other.close()


def test_invalid_options_are_errors() -> None:
    wrong: Any = "often"
    with pytest.raises(ConfigError, match='write "normal" or "full"'):
        Webhooks(synchronous=wrong)
    with pytest.raises(ConfigError, match='write "on_receipt" or "on_completion"'):
        Webhooks(acknowledge=wrong)
    with pytest.raises(ConfigError, match='write "run" or "skip"'):
        Webhooks(on_replay=wrong)
    for size in (0, -1, None, "1MB", True, 1.5):
        with pytest.raises(ConfigError, match=r"is not a size; write a number of bytes"):
            Webhooks(max_body_size=size)
