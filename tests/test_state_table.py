"""A test for each row of the state table in `_worker/worker.py`.

The docstring of a test is its row. Where another process may share the store, the tests also check
when a state is written, by reading the file through another object.
"""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE

from hubhooks._store import clock as store_clock
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks._worker import worker
from hubhooks._worker.service import WorkerService
from hubhooks._worker.timeouts import Timeouts
from hubhooks.models import AcceptedRuns, Ignore, Retry, Run, RunContext
from hubhooks.routing import Router

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from pathlib import Path

    from hubhooks._core import HubEvent
    from hubhooks._worker.execution import RunExecution


async def until(is_so: Callable[[], object]) -> None:
    give_up = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.002)


class Machine:
    """A worker with a store, and a clock that only the test moves."""

    def __init__(self, path: str, event: HubEvent) -> None:
        self.path = path
        self.event = event
        self.now = 1000.0
        self.router = Router()
        self.hooks: list[tuple[str, str]] = []
        self.contexts: list[RunContext] = []
        self.restart()

        @self.router.on_error
        def on_error(event: HubEvent, context: RunContext, error: Exception) -> None:
            self.hooks.append(("on_error", repr(error)))

        @self.router.on_failure
        def on_failure(event: HubEvent, context: RunContext, error: Exception) -> None:
            self.hooks.append(("on_failure", repr(error)))

    @property
    def is_on_disk(self) -> bool:
        return self.path != ":memory:"

    def restart(self, **options: Any) -> None:
        """Take a new store and a new worker for the same file."""
        lock = LeaderLock(self.path) if self.is_on_disk else None
        self.store = SqliteStore(self.path, lock=lock)
        options = {"timeouts": Timeouts(poll=0.01, busy=0.01), **options}
        self.service = WorkerService(
            self.router, self.store, lock=lock, clock=lambda: self.now, **options
        )

    @asynccontextmanager
    async def serve(self, drain: float = PATIENCE) -> AsyncGenerator[None]:
        self.service.start()
        try:
            yield
        finally:
            await self.service.stop(drain)

    def deliver(self, *names: str, delivery_id: str = "d1") -> list[RunExecution]:
        """Store a delivery as a request does, and start its runs."""
        with self.store.transaction():
            result = self.store.accept(delivery_id, self.event.raw, names)
            accepted = AcceptedRuns(result.id, result.handlers, self.event)
            claimed = self.service.claim(accepted)
        self.service.start_runs(accepted, claimed)
        return claimed

    def run(self, delivery_id: str = "d1") -> Run:
        """Read the run, from the file if there is one."""
        store = SqliteStore(self.path) if self.is_on_disk else self.store
        delivery = store.get(delivery_id)
        assert delivery is not None
        (run,) = delivery.runs
        return run

    def state(self, delivery_id: str = "d1") -> str:
        return str(self.run(delivery_id).state)

    async def until_state(self, state: str, delivery_id: str = "d1") -> None:
        await until(lambda: self.state(delivery_id) == state)

    def move_clock(self, seconds: float) -> None:
        self.now += seconds
        self.service.notify()

    def crash(self, *names: str, accept: bool = True) -> None:
        """Leave a run in the store as a process that died during it does."""
        store = SqliteStore(self.path)
        store.open()
        store.recover()
        if accept:
            store.accept("d1", self.event.raw, names)
        assert store.claim("d1", *names) is not None
        store.close()

    @contextmanager
    def writes_are_locked(self) -> Generator[None]:
        """Hold the write lock of the file, so that deferred writes stay deferred."""
        if not self.is_on_disk:
            yield
            return
        connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")
        finally:
            connection.close()

    async def check_deferred(self, cause: Callable[[], object], state: str) -> None:
        """Check that a change is first deferred, and then written."""
        before = self.state()
        with self.writes_are_locked():
            cause()
            if self.is_on_disk:
                await until(lambda: self.store.has_deferred)
                assert self.state() == before
        self.move_clock(1)
        await self.until_state(state)

    def add_blocking(self, *, error: Exception | None = None, **options: Any) -> threading.Event:
        """Add a sync handler `h` that runs until the event is set."""
        release = threading.Event()

        @self.router.on(name="h", **options)
        def blocking(event: HubEvent, context: RunContext) -> None:
            self.contexts.append(context)
            assert release.wait(PATIENCE)
            if error is not None:
                raise error

        return release


@pytest.fixture(params=[":memory:", "file"])
def machine(request: Any, tmp_path: Path, event: Callable[..., HubEvent]) -> Machine:
    path = request.param if request.param == ":memory:" else str(tmp_path / "x.db")
    return Machine(path, event("repo.content.update"))


@pytest.fixture
def on_disk(tmp_path: Path, event: Callable[..., HubEvent]) -> Machine:
    return Machine(str(tmp_path / "x.db"), event("repo.content.update"))


# ---- start ---------------------------------------------------------------------------------------


def test_delivery_is_stored_with_its_started_run(machine: Machine) -> None:
    """
    | - | delivery stored, handler matches, slot free, leader | running, attempt 1
    | with the delivery |
    """

    async def check() -> None:
        release = machine.add_blocking()
        async with machine.serve():
            claimed = machine.deliver("h")
            run = machine.run()
            assert (run.state, run.attempts) == ("running", 1)
            assert [each.run_context.attempt for each in claimed] == [1]
            release.set()

    asyncio.run(check())


def test_run_without_free_slot_is_queued(machine: Machine) -> None:
    """| - | the same without a free slot, or not the leader | queued | with the delivery |"""

    async def check() -> None:
        machine.restart(slots=1)
        release = machine.add_blocking()
        async with machine.serve():
            machine.deliver("h")
            assert machine.deliver("h", delivery_id="d2") == []
            run = machine.run("d2")
            assert (run.state, run.attempts) == ("queued", 0)
            release.set()

    asyncio.run(check())


def test_run_of_another_leader_is_queued(on_disk: Machine) -> None:
    """| - | the same without a free slot, or not the leader | queued | with the delivery |"""

    async def check() -> None:
        leader = LeaderLock(on_disk.path)
        assert leader.try_acquire()
        on_disk.add_blocking()
        async with on_disk.serve():
            assert on_disk.deliver("h") == []
            assert on_disk.state() == "queued"
        leader.release()

    asyncio.run(check())


def test_waiting_run_is_written_as_running_before_its_handler_is_called(machine: Machine) -> None:
    """
    | queued, retrying when due | slot free | running, attempt + 1 | before the handler is called |
    """
    seen: list[tuple[str, int]] = []

    @machine.router.on(name="h", retries=1, backoff=0)
    def handler(event: HubEvent, context: RunContext) -> None:
        run = machine.run("d2")
        seen.append((str(run.state), run.attempts))
        if len(seen) == 1:
            raise ValueError

    async def check() -> None:
        machine.restart(slots=1)
        release = threading.Event()
        machine.router.add(lambda event: release.wait(PATIENCE) and None, name="first")
        async with machine.serve():
            machine.deliver("first")
            machine.deliver("h", delivery_id="d2")
            assert machine.state("d2") == "queued"
            release.set()
            await machine.until_state("succeeded", "d2")

    asyncio.run(check())
    assert seen == [("running", 1), ("running", 2)]


def test_retry_that_is_not_due_waits(machine: Machine) -> None:
    """
    | queued, retrying when due | slot free | running, attempt + 1 | before the handler is called |
    """

    async def check() -> None:
        machine.add_blocking(error=Retry(after=3600), retries=1).set()
        async with machine.serve():
            machine.deliver("h")
            await machine.until_state("retrying")
            machine.move_clock(3000)
            await asyncio.sleep(0.02)
            assert machine.run().attempts == 1

    asyncio.run(check())


# ---- end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "state"), [(None, "succeeded"), (Ignore("no"), "ignored")])
def test_return_or_ignore_ends_the_run(
    machine: Machine, error: Exception | None, state: str
) -> None:
    """| running | returns / raises `Ignore` | succeeded / ignored | deferred |"""

    async def check() -> None:
        release = machine.add_blocking(error=error)
        async with machine.serve():
            machine.deliver("h")
            await machine.check_deferred(release.set, state)

    asyncio.run(check())
    assert machine.hooks == []


@pytest.mark.parametrize("error", [ValueError(), Retry("later", after=3600)], ids=repr)
def test_error_with_retries_left_is_retried(machine: Machine, error: Exception) -> None:
    """| running | raises, also `Retry`; retries left | retrying, failures + 1 | deferred; `on_error` |"""  # noqa: E501 - one row

    async def check() -> None:
        release = machine.add_blocking(error=error, retries=1, backoff=3600)
        async with machine.serve():
            machine.deliver("h")
            await machine.check_deferred(release.set, "retrying")

    asyncio.run(check())
    assert machine.hooks == [("on_error", repr(error))]
    assert [context.failures for context in machine.contexts] == [0]


def test_each_error_counts_as_failure(machine: Machine) -> None:
    """| running | raises, also `Retry`; retries left | retrying, failures + 1 | deferred; `on_error` |"""  # noqa: E501 - one row

    async def check() -> None:
        machine.add_blocking(error=Retry(after=0), retries=2).set()
        async with machine.serve():
            machine.deliver("h")
            await machine.until_state("failed")

    asyncio.run(check())
    assert [context.failures for context in machine.contexts] == [0, 1, 2]


def test_error_without_retries_left_fails(machine: Machine) -> None:
    """| running | raises, no retries left | failed | deferred; `on_error`, `on_failure` |"""
    error = ValueError("broken")

    async def check() -> None:
        release = machine.add_blocking(error=error)
        async with machine.serve():
            machine.deliver("h")
            await machine.check_deferred(release.set, "failed")

    asyncio.run(check())
    assert sorted(machine.hooks) == [("on_error", repr(error)), ("on_failure", repr(error))]


# ---- timeout -------------------------------------------------------------------------------------


def test_async_run_out_of_time_is_cancelled_and_fails(machine: Machine) -> None:
    """
    | running, async | timeout | cancelled, then as raised `TimeoutError` | deferred |
    """
    cancelled: list[bool] = []

    @machine.router.on(name="h", timeout=0.02)
    async def handler(event: HubEvent) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def check() -> None:
        async with machine.serve():
            machine.deliver("h")
            await machine.check_deferred(lambda: None, "failed")

    asyncio.run(check())
    error = repr(TimeoutError("it took more than 0.02 s"))
    assert cancelled == [True]
    assert sorted(machine.hooks) == [("on_error", error), ("on_failure", error)]


def test_sync_run_out_of_time_is_stuck_and_keeps_its_slot(machine: Machine) -> None:
    """
    | running | timeout (sync); no end 5 s after the cancellation | stuck, keeps its slot
    | deferred |
    """

    async def check() -> None:
        machine.restart(slots=1)
        release = machine.add_blocking(timeout=10)
        async with machine.serve():
            machine.deliver("h")
            await until(lambda: machine.contexts)
            machine.move_clock(9.9)
            await asyncio.sleep(0.02)
            assert machine.state() == "running"
            await machine.check_deferred(lambda: machine.move_clock(0.2), "stuck")
            machine.deliver("h", delivery_id="d2")
            await asyncio.sleep(0.02)
            assert machine.state("d2") == "queued"
            release.set()

    asyncio.run(check())


def test_async_run_that_goes_on_after_its_cancellation_is_stuck(machine: Machine) -> None:
    """
    | running | timeout (sync); no end 5 s after the cancellation | stuck, keeps its slot
    | deferred |
    """
    cancelled: list[bool] = []

    async def check() -> None:
        release = asyncio.Event()

        @machine.router.on(name="h", timeout=0.02)
        async def handler(event: HubEvent) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:  # noqa: PERF203 - it goes on after each cancellation
                    cancelled.append(True)

        async with machine.serve():
            machine.deliver("h")
            await until(lambda: cancelled)
            machine.move_clock(4.9)
            await asyncio.sleep(0.02)
            assert machine.state() == "running"
            machine.move_clock(0.2)
            await machine.until_state("stuck")
            release.set()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("error", "retries", "state"),
    [
        (None, 0, "succeeded"),
        (Ignore(), 0, "ignored"),
        (ValueError(), 1, "retrying"),
        (ValueError(), 0, "failed"),
    ],
)
def test_stuck_run_ends_like_a_running_one(
    machine: Machine, error: Exception | None, retries: int, state: str
) -> None:
    """| stuck | returns or raises | as from running | deferred |"""

    async def check() -> None:
        release = machine.add_blocking(timeout=10, error=error, retries=retries, backoff=3600)
        async with machine.serve():
            machine.deliver("h")
            await until(lambda: machine.contexts)
            machine.move_clock(11)
            await machine.until_state("stuck")
            await machine.check_deferred(release.set, state)

    asyncio.run(check())


# ---- stop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_stuck", [False, True])
def test_run_that_outlives_the_drain_is_retried_at_the_next_start(
    on_disk: Machine, *, is_stuck: bool
) -> None:
    """| running, stuck | stop, drain over | retrying now, failures + 1; result ignored | by the stop |"""  # noqa: E501 - one row
    release = on_disk.add_blocking(timeout=10)

    async def stop() -> None:
        async with on_disk.serve(drain=0):
            on_disk.deliver("h")
            await until(lambda: on_disk.contexts)
            if is_stuck:
                on_disk.move_clock(11)
                await on_disk.until_state("stuck")
        assert on_disk.state() == "retrying"
        release.set()
        await asyncio.sleep(0.05)
        assert on_disk.state() == "retrying"

    async def start_again() -> None:
        async with on_disk.serve():
            await on_disk.until_state("succeeded")

    asyncio.run(stop())
    on_disk.restart()
    asyncio.run(start_again())
    assert [(c.attempt, c.failures) for c in on_disk.contexts] == [(1, 0), (2, 1)]


# ---- crash ---------------------------------------------------------------------------------------


def test_crashed_run_is_retried_later_each_time(on_disk: Machine) -> None:
    """| running, stuck | process died | retrying in 10 s x 2^n, quarantined | with `recover` |"""
    waits: list[float] = []
    for number in range(3):
        on_disk.crash("h", accept=not number)
        store = SqliteStore(on_disk.path)
        store.open()
        assert store.recover() == [("d1", "h", False)]
        assert on_disk.state() == "retrying"
        waits.append(store.seconds_to_next() or 0)
        store.close()
    assert waits == pytest.approx([10, 20, 40], abs=1)


def test_crashed_run_runs_alone(on_disk: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """| running, stuck | process died | retrying in 10 s x 2^n, quarantined | with `recover` |"""
    on_disk.crash("h")
    release = on_disk.add_blocking()

    async def check() -> None:
        async with on_disk.serve():
            assert on_disk.state() == "retrying"
            with monkeypatch.context() as patch:
                patch.setattr(store_clock, "now", lambda: time.time() + 11)
                on_disk.move_clock(61)
                await on_disk.until_state("running")
            on_disk.deliver("h", delivery_id="d2")
            await asyncio.sleep(0.05)
            assert on_disk.state("d2") == "queued"
            release.set()
            await on_disk.until_state("succeeded", "d2")

    asyncio.run(check())


def test_run_that_crashes_a_fourth_time_fails(on_disk: Machine) -> None:
    """| running, stuck | the same, more than 3 times | failed | with `recover`; `on_failure` |"""
    for number in range(4):
        on_disk.crash("h", accept=not number)
    on_disk.add_blocking()

    async def check() -> None:
        async with on_disk.serve():
            assert on_disk.state() == "failed"

    asyncio.run(check())
    error = RuntimeError("the process died during this handler")
    assert on_disk.hooks == [("on_failure", repr(error))]
    assert on_disk.contexts == []


# ---- unknown handlers, and new runs --------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "retrying"])
def test_run_of_unknown_handler_is_unchanged_and_logged_once(
    on_disk: Machine, logged: Callable[[], list[str]], state: str
) -> None:
    """| queued, retrying | no live process has the handler | unchanged; logged once | - |"""
    on_disk.store.open()
    on_disk.store.recover()
    on_disk.store.accept("d1", on_disk.event.raw, ["gone"])
    if state == "retrying":
        context = on_disk.store.claim("d1", "gone")
        assert context is not None
        on_disk.store.finish_run(context, "failed", retry_after=0)  # type: ignore[arg-type] # as str
    on_disk.store.close()
    on_disk.restart()

    async def check() -> None:
        async with on_disk.serve():
            for _ in range(3):
                on_disk.move_clock(61)
                await asyncio.sleep(0.01)
            assert on_disk.state() == state

    asyncio.run(check())
    what = "1 run cannot start: this process has no handler `gone`"
    assert len([line for line in logged() if line.startswith(what)]) == 1


@pytest.mark.parametrize("state", ["succeeded", "failed", "ignored"])
@pytest.mark.parametrize("cause", ["replay", "the id arrives again"])
def test_ended_run_is_queued_again(machine: Machine, state: str, cause: str) -> None:
    """| ended | replay, or the id arrives again | queued | with that delivery |"""
    errors = {"failed": ValueError(), "ignored": Ignore()}

    async def check() -> None:
        machine.add_blocking(error=errors.get(state)).set()
        async with machine.serve():
            machine.deliver("h")
            machine.store.mark_acknowledged("d1", delivered=True)
            await machine.until_state(state)
            if cause == "replay":
                assert machine.service.replay("d1", ()) == ("h",)
            else:
                assert machine.store.accept("d1", machine.event.raw, ["h"]).handlers == ("h",)
            assert machine.state() == "queued"
            machine.service.notify()
            await until(lambda: machine.run().attempts == 2)
            await machine.until_state(state)

    asyncio.run(check())


# ---- the table -----------------------------------------------------------------------------------


def normalized(text: str) -> str:
    return " ".join(text.split())


def test_each_row_has_a_test() -> None:
    lines = (worker.__doc__ or "").splitlines()
    rows = {normalized(line) for line in lines if line.startswith("| ")} - {
        "| from | event | to | written |"
    }
    assert len(rows) == 14
    tests = inspect.getmembers(sys.modules[__name__], inspect.isfunction)
    tested = {normalized(test.__doc__ or "") for name, test in tests if name.startswith("test_")}
    assert tested - {""} == rows
