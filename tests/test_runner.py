"""Handlers run after the response, independently, on threads or on the loop."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE

from hubhooks._store.sqlite import SqliteStore
from hubhooks._worker.service import WorkerService
from hubhooks.errors import ConfigError
from hubhooks.models import AcceptedRuns, Delivery, Ignore, RunContext
from hubhooks.routing import Router

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hubhooks._core import HubEvent


class Bench:
    """A worker with its router and store, and methods to submit deliveries."""

    def __init__(self, event: HubEvent, **options: Any) -> None:
        self.event = event
        self.router = Router()
        self.store = SqliteStore(":memory:")
        self.worker = WorkerService(self.router, self.store, **options)
        self.on = self.router.on

    def submit(self, delivery_id: str = "d1", *handlers: str) -> None:
        self.worker.start()
        names = handlers or tuple(h.name for h in self.router.match(self.event))
        result = self.store.accept(delivery_id, self.event.raw, names)
        self.worker.submit(AcceptedRuns(result.id, result.handlers, self.event))

    def run(self, *delivery_ids: str, drain: float = PATIENCE) -> Delivery:
        """Run deliveries to their end, on a new loop."""

        async def serve() -> None:
            for delivery_id in delivery_ids or ("d1",):
                self.submit(delivery_id)
            await self.worker.stop(drain)

        asyncio.run(serve())
        return self.delivery()

    def delivery(self, delivery_id: str = "d1") -> Delivery:
        delivery = self.store.get(delivery_id)
        assert delivery is not None
        return delivery

    def states(self, delivery_id: str = "d1") -> dict[str, str]:
        return {run.handler: run.state for run in self.delivery(delivery_id).runs}


@pytest.fixture
def bench(event: Callable[..., HubEvent]) -> Bench:
    return Bench(event("repo.content.update"))


@pytest.fixture
def one_thread(event: Callable[..., HubEvent]) -> Bench:
    return Bench(event("repo.content.update"), slots=1)


@pytest.fixture
def wait_for_threads() -> Callable[[], list[threading.Thread]]:
    """Wait for the threads that a test started, and return those that do not end."""
    before = set(threading.enumerate())

    def wait() -> list[threading.Thread]:
        ours = set(threading.enumerate()) - before
        for thread in ours:
            thread.join(PATIENCE)
        return [thread for thread in ours if thread.is_alive()]

    return wait


# ---- running ----------------------------------------------------------------------------------


def test_a_sync_handler_runs_on_a_daemon_thread(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.on(name="sync")
    def matching(event: HubEvent, context: RunContext) -> None:
        seen.extend([event, context, threading.current_thread()])

    assert bench.run().state == "succeeded"
    event, context, thread = seen
    assert event is bench.event
    assert (context.id, context.attempt, context.is_replay) == ("d1", 1, False)
    assert context.handler == "sync"
    assert thread is not threading.main_thread()
    assert thread.daemon


def test_logged_time_begins_with_the_attempt(
    event: Callable[..., HubEvent], caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    bench = Bench(event("repo.content.update"), clock=lambda: now[0])

    @bench.on(name="h")
    async def matching(event: HubEvent) -> None:
        now[0] += 2

    async def serve() -> None:
        bench.submit()
        now[0] += 5  # the attempt waits for a turn of the loop
        await bench.worker.stop(PATIENCE)

    with caplog.at_level(logging.INFO, "hubhooks"):
        asyncio.run(serve())
    assert "handler `h`: succeeded after 7.0 s" in caplog.text


def test_an_async_handler_runs_on_the_servers_loop(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.on(name="async")
    async def matching(event: HubEvent, context: RunContext) -> None:
        await asyncio.sleep(0)
        seen.extend([event, context.id, threading.current_thread()])

    assert bench.run().state == "succeeded"
    assert seen == [bench.event, "d1", threading.main_thread()]


@pytest.mark.parametrize("is_async", [False, True])
def test_handler_without_context_gets_only_the_event(bench: Bench, is_async: bool) -> None:
    seen: list[tuple[object, ...]] = []

    def matching(*events: HubEvent) -> None:
        seen.append(events)

    async def matching_too(*events: HubEvent) -> None:
        seen.append(events)

    bench.router.add(matching_too if is_async else matching)
    bench.run()
    assert seen == [(bench.event,)]


def test_partials_and_callable_objects_run(bench: Bench) -> None:
    seen: list[str] = []

    async def coroutine(word: str, event: HubEvent) -> None:
        seen.append(word)

    class Callable_:  # noqa: N801
        async def __call__(self, event: HubEvent) -> None:
            seen.append("object")

    bench.router.add(functools.partial(coroutine, "partial"), name="a")
    bench.router.add(Callable_(), name="b")
    assert bench.run().state == "succeeded"
    assert sorted(seen) == ["object", "partial"]


def test_handler_is_looked_up_by_name_at_the_run(bench: Bench) -> None:
    seen: list[str] = []
    script = "@on()\ndef matching(event): seen.append('{}')"
    for version in ("old", "new"):
        namespace = {"on": bench.on, "seen": seen, "__name__": "app"}
        exec(script.format(version), namespace)
    bench.run()
    assert seen == ["new"]


def test_run_of_an_unknown_handler_stays_queued(
    bench: Bench, logged: Callable[[], list[str]]
) -> None:
    bench.submit("d1", "gone")
    asyncio.run(bench.worker.stop(PATIENCE))
    (run,) = bench.delivery().runs
    assert (run.state, run.attempts) == ("queued", 0)
    (line,) = logged()
    assert line.startswith("1 run cannot start: this process has no handler `gone`. ")


# ---- failing ----------------------------------------------------------------------------------


class Broken(BaseException):
    """Not even an Exception."""


@pytest.mark.parametrize("kind", [ValueError, SystemExit, GeneratorExit, Broken])
@pytest.mark.parametrize("is_async", [False, True])
def test_failure_affects_only_its_handler(
    bench: Bench, kind: type[BaseException], is_async: bool
) -> None:
    error = kind("too low")

    def fails(event: HubEvent) -> None:
        raise error

    async def fails_too(event: HubEvent) -> None:
        raise error

    def works(event: HubEvent) -> None: ...

    async def works_too(event: HubEvent) -> None: ...

    bench.router.add(fails_too if is_async else fails, name="fails")
    bench.router.add(works, name="works")
    bench.router.add(works_too, name="works too")
    bench.run("d1", "d2")
    for delivery_id in ("d1", "d2"):
        assert bench.states(delivery_id) == {
            "fails": "failed",
            "works": "succeeded",
            "works too": "succeeded",
        }
    failed = bench.delivery().runs[0]
    assert failed.error.endswith(f"{kind.__name__}: too low")
    assert failed.traceback.startswith("Traceback (most recent call last):")
    assert "raise error" in failed.traceback


def test_thread_survives_any_exception_of_a_handler(
    one_thread: Bench, logged: Callable[[], list[str]]
) -> None:
    @one_thread.on(name="matching")
    def matching(event: HubEvent, context: RunContext) -> None:
        if context.id == "d1":
            raise KeyboardInterrupt

    one_thread.run("d1", "d2")
    assert (one_thread.delivery("d1").state, one_thread.delivery("d2").state) == (
        "failed",
        "succeeded",
    )
    assert logged()[0] == "handler `matching` failed on delivery `d1`"


@pytest.mark.parametrize("is_async", [False, True])
def test_failure_is_logged_once_with_traceback(
    bench: Bench, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    error = ValueError("too low")

    def fails(event: HubEvent) -> None:
        raise error

    async def fails_too(event: HubEvent) -> None:
        raise error

    bench.router.add(fails_too if is_async else fails, name="fails")
    bench.run()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubhooks", logging.ERROR)
    assert record.getMessage() == "handler `fails` failed on delivery `d1`"
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    fields = {
        name: getattr(record, name) for name in ("delivery_id", "handler", "attempt", "scope")
    }
    assert fields == {
        "delivery_id": "d1",
        "handler": "fails",
        "attempt": 1,
        "scope": "repo.content",
    }


@pytest.mark.parametrize("is_async", [False, True])
def test_ignored_run_is_recorded_and_logged_briefly(
    bench: Bench, is_async: bool, logged: Callable[[], list[str]]
) -> None:
    def ignores(event: HubEvent) -> None:
        raise Ignore("not on Sundays")  # noqa: EM101, TRY003

    async def ignores_too(event: HubEvent) -> None:
        raise Ignore("not on Sundays")  # noqa: EM101, TRY003

    bench.router.add(ignores_too if is_async else ignores)
    (run,) = bench.run().runs
    assert (run.state, run.error, run.traceback) == ("ignored", "not on Sundays", "")
    (line,) = logged()
    assert line.endswith(": 'not on Sundays'")


# ---- side by side -----------------------------------------------------------------------------


def test_a_blocking_sync_handler_delays_no_other(bench: Bench) -> None:
    release = threading.Event()
    ran: list[str] = []

    @bench.on(name="blocks")
    def blocks(event: HubEvent, context: RunContext) -> None:
        if context.id != "last":
            release.wait(PATIENCE)

    @bench.on(name="sync")
    def runs(event: HubEvent, context: RunContext) -> None:
        ran.append(context.id)

    @bench.on(name="async")
    async def releases(event: HubEvent, context: RunContext) -> None:
        if context.id == "last":
            while len(ran) < 21 or bench.states("last")["blocks"] != "succeeded":
                await asyncio.sleep(0)
            assert not release.is_set()
            release.set()

    bench.run(*(f"d{number}" for number in range(20)), "last")
    assert bench.states("last") == dict.fromkeys(["blocks", "sync", "async"], "succeeded")
    assert bench.states("d0") == dict.fromkeys(["blocks", "sync", "async"], "succeeded")


def test_wake_during_a_tick_is_not_lost(bench: Bench) -> None:
    ran: list[str] = []

    @bench.on(name="runs")
    def runs(event: HubEvent, context: RunContext) -> None:
        ran.append(context.id)

    async def wake() -> None:
        thread = threading.Thread(target=bench.worker.notify)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        bench.worker.start()
        await asyncio.sleep(0)
        call_soon = loop.call_soon_threadsafe

        def overtaken(function: Callable[..., object], *arguments: Any) -> None:
            is_done = threading.Event()
            call_soon(function, *arguments)
            call_soon(is_done.set)
            assert is_done.wait(PATIENCE)

        loop.call_soon_threadsafe = overtaken  # type: ignore[method-assign, assignment]
        await wake()
        loop.call_soon_threadsafe = call_soon  # type: ignore[method-assign]
        bench.store.accept("d1", bench.event.raw, ("runs",))
        await wake()
        while not ran:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(serve(), PATIENCE))
    assert ran == ["d1"]


def test_number_of_parallel_sync_handlers_is_limited(one_thread: Bench) -> None:
    seen: list[threading.Thread] = []
    all_started = threading.Event()

    @one_thread.on(name="matching")
    def matching(event: HubEvent) -> None:
        assert all_started.wait(PATIENCE)
        seen.append(threading.current_thread())

    async def serve() -> None:
        for delivery_id in ("d1", "d2", "d3"):
            one_thread.submit(delivery_id)
        all_started.set()
        await one_thread.worker.stop(PATIENCE)

    asyncio.run(serve())
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_thread_is_reused_and_ends_with_the_worker(bench: Bench) -> None:
    seen: list[threading.Thread] = []

    @bench.on(name="matching")
    def matching(event: HubEvent) -> None:
        seen.append(threading.current_thread())

    async def serve() -> None:
        for number in range(10):
            bench.submit(f"d{number}")
            while bench.delivery(f"d{number}").state != "succeeded":
                await asyncio.sleep(0)
        await bench.worker.stop()

    asyncio.run(serve())
    # The second run may start before the thread of the first one is free again.
    assert len(set(seen)) <= 2
    for thread in seen:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# ---- hooks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_error_hooks_are_called_after_a_failure(bench: Bench, is_async: bool) -> None:
    error = ValueError("too low")
    called: list[tuple[str, tuple[Any, ...], bool]] = []

    def fails(event: HubEvent) -> None:
        raise error

    async def fails_too(event: HubEvent) -> None:
        raise error

    @bench.router.on_error
    def on_error(*arguments: Any) -> None:
        called.append(("error", arguments, threading.current_thread() is threading.main_thread()))

    @bench.router.on_failure
    async def on_failure(*arguments: Any) -> None:
        called.append(("failure", arguments, threading.current_thread() is threading.main_thread()))

    bench.router.add(fails_too if is_async else fails, name="fails")
    assert bench.run().state == "failed"
    assert sorted((occasion, on_loop) for occasion, _, on_loop in called) == [
        ("error", False),
        ("failure", True),
    ]
    for _, (event, context, raised), _ in called:
        assert event is bench.event
        assert (context.id, context.handler, context.attempt) == ("d1", "fails", 1)
        assert raised is error


@pytest.mark.parametrize("is_async", [False, True])
def test_error_hooks_are_not_called_without_a_failure(bench: Bench, is_async: bool) -> None:
    def works(event: HubEvent) -> None: ...

    async def works_too(event: HubEvent) -> None: ...

    def ignores(event: HubEvent) -> None:
        raise Ignore

    async def ignores_too(event: HubEvent) -> None:
        raise Ignore

    called: list[object] = []
    bench.router.on_error(lambda *arguments: called.append(arguments))
    bench.router.on_failure(lambda *arguments: called.append(arguments))
    bench.router.on_unhandled(called.append)
    bench.router.add(works_too if is_async else works)
    bench.router.add(ignores_too if is_async else ignores)
    bench.run()
    assert sorted(bench.states().values()) == ["ignored", "succeeded"]
    assert called == []


def test_failure_is_stored_before_a_hook_is_called(bench: Bench) -> None:
    seen: list[str] = []

    @bench.router.on_failure
    def reports(event: HubEvent, context: RunContext, error: BaseException) -> None:
        seen.append(bench.delivery(context.id).run(context.handler).error)

    @bench.on(name="fails")
    def fails(event: HubEvent) -> None:
        msg = "too low"
        raise ValueError(msg)

    bench.run()
    assert seen == ["ValueError: too low"]


def test_failing_hook_affects_no_other_hook(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []

    @bench.on(name="fails")
    def fails(event: HubEvent) -> None:
        raise ValueError

    @bench.router.on_error
    def broken(*arguments: object) -> None:
        raise SystemExit

    @bench.router.on_error
    async def broken_too(*arguments: object) -> None:
        raise LookupError

    @bench.router.on_error
    def returns_a_coroutine(event: HubEvent, context: RunContext, error: BaseException) -> object:
        return broken_too()

    @bench.router.on_error
    def whole(event: HubEvent, context: RunContext, error: BaseException) -> None:
        called.append(context.id)

    bench.run("d1", "d2")
    assert sorted(called) == ["d1", "d2"]
    complaints = {r.getMessage(): r.exc_info and r.exc_info[0] for r in caplog.records}
    here = "test_failing_hook_affects_no_other_hook.<locals>."
    assert complaints == {
        **{
            f"`on_error` hook `{here}{name}` failed on delivery `{delivery_id}`": kind
            for delivery_id in ("d1", "d2")
            for name, kind in {
                "broken": SystemExit,
                "broken_too": LookupError,
                "returns_a_coroutine": LookupError,
            }.items()
        },
        "handler `fails` failed on delivery `d1`": ValueError,
        "handler `fails` failed on delivery `d2`": ValueError,
    }


def test_a_blocking_hook_delays_no_other(bench: Bench) -> None:
    release = threading.Event()

    @bench.router.on_error
    def blocks(*arguments: object) -> None:
        assert release.wait(PATIENCE)

    @bench.router.on_error
    def releases(*arguments: object) -> None:
        release.set()

    @bench.on(name="fails")
    def fails(event: HubEvent) -> None:
        raise ValueError

    bench.run()
    assert release.is_set()


def test_unhandled_hooks_are_called_without_handlers(bench: Bench) -> None:
    called: list[tuple[object, bool]] = []

    @bench.router.on_unhandled
    def tells(event: HubEvent) -> None:
        called.append((event, threading.current_thread() is threading.main_thread()))

    @bench.router.on_unhandled
    async def tells_too(event: HubEvent) -> None:
        called.append((event, threading.current_thread() is threading.main_thread()))

    bench.router.on_error(lambda *_: pytest.fail("nothing failed"))

    async def serve() -> None:
        bench.worker.submit(AcceptedRuns("d1", (), bench.event))
        await bench.worker.stop(PATIENCE)

    asyncio.run(serve())
    assert sorted(called, key=str) == sorted([(bench.event, False), (bench.event, True)], key=str)


def test_shutdown_waits_for_hooks_then_cancels_them(
    bench: Bench, logged: Callable[[], list[str]]
) -> None:
    ended: list[str] = []

    @bench.on(name="sleeps")
    async def sleeps(event: HubEvent) -> None:
        await asyncio.Event().wait()

    @bench.router.on_failure
    async def reports(event: HubEvent, context: RunContext, error: BaseException) -> None:
        assert isinstance(error, asyncio.CancelledError)
        await asyncio.sleep(0)
        ended.append("reported")

    @bench.router.on_failure
    async def stays_too(event: HubEvent, context: RunContext, error: BaseException) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled, too")

    @bench.router.on_unhandled
    async def stays(event: HubEvent) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def serve() -> None:
        bench.submit()
        bench.worker.submit(AcceptedRuns("d2", (), bench.event))
        await bench.worker.stop(0.01)
        assert sorted(ended) == ["cancelled", "cancelled, too", "reported"]

    asyncio.run(serve())
    assert [line for line in logged() if "`on_unhandled` hook" in line]


def test_hook_is_called_for_a_handler_that_outlives_shutdown(
    bench: Bench,
    logged: Callable[[], list[str]],
    wait_for_threads: Callable[[], list[threading.Thread]],
) -> None:
    begun, release, called = threading.Event(), threading.Event(), threading.Event()

    @bench.on(name="stuck")
    def stuck(event: HubEvent) -> None:
        begun.set()
        assert release.wait(PATIENCE)
        raise ValueError

    @bench.router.on_failure
    async def has_no_loop_any_more(*arguments: object) -> None:
        pytest.fail("it ran")

    @bench.router.on_failure
    def reports(*arguments: object) -> None:
        called.set()

    async def serve() -> None:
        bench.submit()
        assert begun.wait(PATIENCE)
        await bench.worker.stop(0.01)

    asyncio.run(serve())
    release.set()
    assert called.wait(PATIENCE)
    assert bench.states() == {"stuck": "failed"}
    assert wait_for_threads() == []
    (line,) = [line for line in logged() if "has_no_loop_any_more" in line]
    assert line.endswith(": the server stopped before the handler finished")


# ---- dedicated loop ---------------------------------------------------------------------------


@pytest.fixture
def dedicated(event: Callable[..., HubEvent]) -> Bench:
    return Bench(event("repo.content.update"), handler_loop="dedicated")


def test_async_handlers_and_hooks_can_use_a_dedicated_loop(dedicated: Bench) -> None:
    seen: dict[str, tuple[object, threading.Thread]] = {}

    def note(name: str) -> None:
        seen[name] = (asyncio.get_running_loop(), threading.current_thread())

    @dedicated.on(name="handler")
    async def fails(event: HubEvent) -> None:
        note("handler")
        raise ValueError

    @dedicated.on(name="sync")
    def fails_too(event: HubEvent) -> None:
        raise ValueError

    @dedicated.router.on_error
    async def on_error(event: HubEvent, context: RunContext, error: BaseException) -> None:
        note(f"after {context.handler}")

    async def serve() -> None:
        dedicated.submit()
        await dedicated.worker.stop(PATIENCE)
        note("server")

    asyncio.run(serve())
    assert set(seen) == {"handler", "after handler", "after sync", "server"}
    server = seen.pop("server")
    ((loop, thread),) = set(seen.values())
    assert loop is not server[0]
    assert thread is not server[1]
    assert thread.daemon


def test_blocking_handler_on_dedicated_loop_leaves_the_server_free(dedicated: Bench) -> None:
    release = threading.Event()

    @dedicated.on(name="blocks")
    async def blocks(event: HubEvent) -> None:
        assert release.wait(PATIENCE)

    async def serve() -> None:
        dedicated.submit()
        while dedicated.states() != {"blocks": "running"}:
            await asyncio.sleep(0)
        release.set()
        await dedicated.worker.stop(PATIENCE)

    asyncio.run(serve())
    assert dedicated.states() == {"blocks": "succeeded"}


def test_tasks_on_the_dedicated_loop_are_cancelled_at_shutdown(
    dedicated: Bench, wait_for_threads: Callable[[], list[threading.Thread]]
) -> None:
    cleaned_up: list[str] = []

    @dedicated.on(name="sleeps")
    async def sleeps(event: HubEvent) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.append("handler")

    @dedicated.on(name="leaves a task")
    async def leaves(event: HubEvent) -> None:
        async def left_behind() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned_up.append("task")

        left.append(asyncio.create_task(left_behind()))
        await asyncio.sleep(0)

    left: list[asyncio.Task[None]] = []
    dedicated.run(drain=0.01)
    assert dedicated.states() == {"sleeps": "failed", "leaves a task": "succeeded"}
    assert cleaned_up == ["handler", "task"]
    assert wait_for_threads() == []


@pytest.mark.slow
def test_blocked_dedicated_loop_does_not_block_shutdown(
    dedicated: Bench, wait_for_threads: Callable[[], list[threading.Thread]]
) -> None:
    begun, release = threading.Event(), threading.Event()

    @dedicated.on(name="blocks")
    async def blocks(event: HubEvent) -> None:
        begun.set()
        assert release.wait(PATIENCE)

    async def serve() -> None:
        dedicated.submit()
        assert begun.wait(PATIENCE)
        await dedicated.worker.stop(0.01)
        assert dedicated.states() == {"blocks": "running"}

    asyncio.run(serve())
    dedicated.router.add(lambda _: None, name="later")
    # It does not delay a later run, and ends as soon as it can.
    dedicated.submit("d2", "later")
    asyncio.run(dedicated.worker.stop(PATIENCE))
    assert dedicated.states("d2") == {"later": "succeeded"}
    assert dedicated.states() == {"blocks": "running"}
    release.set()
    assert wait_for_threads() == []


def test_dedicated_loop_survives_any_exception_of_a_handler(dedicated: Bench) -> None:
    @dedicated.on(name="matching")
    async def matching(event: HubEvent, context: RunContext) -> None:
        if context.id == "d1":
            raise KeyboardInterrupt

    dedicated.run("d1", "d2")
    assert (dedicated.delivery("d1").state, dedicated.delivery("d2").state) == (
        "failed",
        "succeeded",
    )


async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()


async def exit_in_a_task() -> None:
    async def leaves() -> None:
        sys.exit()

    task = asyncio.create_task(leaves())
    await asyncio.wait([task])
    assert isinstance(task.exception(), SystemExit)


async def cancel_all_others() -> None:
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()


@pytest.mark.parametrize(
    ("stop", "other"),
    [(stop_the_loop, "succeeded"), (exit_in_a_task, "succeeded"), (cancel_all_others, "failed")],
)
def test_dedicated_loop_survives_a_handler_that_stops_it(
    dedicated: Bench,
    stop: Callable[[], Awaitable[None]],
    other: str,
    wait_for_threads: Callable[[], list[threading.Thread]],
    logged: Callable[[], list[str]],
) -> None:
    loops: list[object] = []
    stopped = threading.Event()

    @dedicated.on(name="waits")
    async def waits(event: HubEvent) -> None:
        while not stopped.is_set():
            await asyncio.sleep(0)

    @dedicated.on(name="stops")
    async def stops(event: HubEvent) -> None:
        loops.append(asyncio.get_running_loop())
        if not stopped.is_set():
            await stop()
            await asyncio.sleep(0)
            stopped.set()

    async def serve() -> None:
        for delivery_id in ("d1", "d2"):
            dedicated.submit(delivery_id)
            while dedicated.delivery(delivery_id).is_open:
                await asyncio.sleep(0)
        await dedicated.worker.stop(PATIENCE)

    asyncio.run(serve())
    assert dedicated.states("d1") == {"waits": other, "stops": "succeeded"}
    assert dedicated.states("d2") == {"waits": "succeeded", "stops": "succeeded"}
    assert [run.attempts for run in dedicated.delivery().runs] == [1, 1]
    assert loops[0] is loops[1]
    called = [line for line in logged() if line.startswith("a handler stopped the event loop")]
    assert len(called) == (other == "succeeded")
    assert wait_for_threads() == []


def test_preferred_loop_applies_only_without_a_choice(event: Callable[..., HubEvent]) -> None:
    seen: dict[object, bool] = {}
    for chosen in (None, "server", "dedicated"):
        bench = Bench(event("repo.create"), handler_loop=chosen)

        @bench.on(name="matching")
        async def matching(event: HubEvent, chosen: object = chosen) -> None:
            seen[chosen] = threading.current_thread() is threading.main_thread()

        bench.worker.prefer_loop("dedicated")
        bench.run()
    assert seen == {None: False, "server": True, "dedicated": False}


def test_unknown_loop_is_rejected(event: Callable[..., HubEvent]) -> None:
    with pytest.raises(ConfigError) as caught:
        Bench(event("repo.create"), handler_loop="main")
    expected = '`handler_loop=\'main\'` is not a choice; write "server" or "dedicated"'
    assert str(caught.value) == expected


def test_without_a_server_loop_async_handlers_use_a_dedicated_one(bench: Bench) -> None:
    @bench.on(name="matching")
    async def matching(event: HubEvent) -> None: ...

    bench.submit()
    asyncio.run(bench.worker.stop(PATIENCE))
    assert bench.states() == {"matching": "succeeded"}


def test_inline_sync_handlers_run_on_the_submitting_thread(
    event: Callable[..., HubEvent],
) -> None:
    bench = Bench(event("repo.create"), inline=True)
    seen: list[object] = []

    @bench.on(name="matching")
    def matching(event: HubEvent) -> None:
        seen.append(threading.current_thread())
        raise ValueError

    bench.router.on_error(lambda *_: seen.append(threading.current_thread()))
    bench.submit()
    assert seen == [threading.main_thread()] * 2
    assert bench.states() == {"matching": "failed"}


# ---- stopping and starting ----------------------------------------------------------------------


def test_shutdown_waits_for_running_handlers(bench: Bench) -> None:
    stopping = threading.Event()

    @bench.on(name="sync")
    def waits(event: HubEvent) -> None:
        stopping.wait(PATIENCE)

    @bench.on(name="async")
    async def waits_too(event: HubEvent) -> None:
        while not stopping.is_set():
            await asyncio.sleep(0)

    async def serve() -> None:
        bench.submit()
        asyncio.get_running_loop().call_soon(stopping.set)
        await bench.worker.stop(PATIENCE)
        assert bench.states() == {"sync": "succeeded", "async": "succeeded"}

    asyncio.run(serve())


def test_slow_handlers_are_abandoned_or_cancelled_at_shutdown(
    bench: Bench, logged: Callable[[], list[str]]
) -> None:
    release = threading.Event()
    cleaned_up: list[bool] = []

    @bench.on(name="sync")
    def blocks(event: HubEvent) -> None:
        release.wait(PATIENCE)

    @bench.on(name="async")
    async def sleeps(event: HubEvent) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned_up.append(True)

    bench.run(drain=0.01)
    assert cleaned_up == [True]
    assert bench.states() == {"sync": "running", "async": "failed"}
    assert "the server stopped before the handler finished" in bench.delivery().runs[1].error
    assert logged()[0] == "stopped with handlers still running after 0.01 s"
    release.set()


def test_handler_cancelled_before_its_start_fails(bench: Bench) -> None:
    @bench.on(name="async")
    async def matching(event: HubEvent) -> None:
        pytest.fail("it never ran")

    async def serve() -> None:
        bench.submit()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(serve())
    (run,) = bench.delivery().runs
    assert run.state == "failed"
    assert run.error == "the server stopped before the handler finished"
    # A later stop does not wait for it either.
    asyncio.run(bench.worker.stop(PATIENCE))


def test_ended_task_is_freed(bench: Bench) -> None:
    tasks: list[weakref.ref[object]] = []

    @bench.on(name="async")
    async def matching(event: HubEvent) -> None:
        tasks.append(weakref.ref(asyncio.current_task()))

    bench.run()
    gc.collect()
    assert [task() for task in tasks] == [None]


def test_tasks_of_a_closed_loop_are_not_touched(
    bench: Bench, logged: Callable[[], list[str]]
) -> None:
    @bench.on(name="async")
    async def sleeps(event: HubEvent) -> None:
        await asyncio.Event().wait()

    async def serve() -> None:
        bench.submit("d1")
        await asyncio.sleep(0)

    closed = asyncio.new_event_loop()
    closed.run_until_complete(serve())
    closed.close()
    asyncio.run(bench.worker.stop(0.01))
    assert bench.delivery().state == "running"
    # The garbage collector ends it. To take a lock or to log there could stop the process.
    lines = logged()
    del bench.worker
    gc.collect()
    assert bench.delivery().state == "running"
    assert logged() == lines


def test_stopped_worker_can_start_on_another_loop(bench: Bench) -> None:
    loops: list[object] = []

    @bench.on(name="async")
    async def matching(event: HubEvent) -> None:
        loops.append(asyncio.get_running_loop())

    @bench.on(name="sync")
    def matching_too(event: HubEvent) -> None: ...

    for delivery_id in ("d1", "d2"):
        bench.run(delivery_id)
        assert bench.states(delivery_id) == {"async": "succeeded", "sync": "succeeded"}
    assert loops[0] is not loops[1]


@pytest.mark.parametrize("loop", ["server", "dedicated"])
def test_concurrent_stops_are_allowed(
    event: Callable[..., HubEvent],
    loop: str,
    wait_for_threads: Callable[[], list[threading.Thread]],
) -> None:
    bench = Bench(event("repo.create"), handler_loop=loop)

    @bench.on(name="async")
    async def matching(event: HubEvent) -> None: ...

    @bench.on(name="sync")
    def matching_too(event: HubEvent) -> None: ...

    async def serve() -> None:
        bench.submit()
        await asyncio.gather(bench.worker.stop(PATIENCE), bench.worker.stop(PATIENCE))

    asyncio.run(serve())
    assert bench.states() == {"async": "succeeded", "sync": "succeeded"}
    assert wait_for_threads() == []


def test_stop_without_a_start_is_allowed(bench: Bench) -> None:
    asyncio.run(bench.worker.stop())


def test_stuck_sync_handler_does_not_delay_process_exit() -> None:
    script = """
import asyncio, threading
from hubhooks._core import HubEvent
from hubhooks._samples import compact, sample_json
from hubhooks._store.sqlite import SqliteStore
from hubhooks.models import AcceptedRuns
from hubhooks.routing import Router
from hubhooks._worker.service import WorkerService

router, store, begun = Router(), SqliteStore(":memory:"), threading.Event()

@router.on()
def stuck(event):
    begun.set()
    threading.Event().wait()

async def serve():
    worker = WorkerService(router, store)
    worker.start()
    event = HubEvent.from_json(compact(sample_json("repo.create")))
    worker.submit(AcceptedRuns(store.accept("d1", event.raw, ["stuck"]).id, ("stuck",), event))
    assert begun.wait(30)
    await worker.stop(0.01)

asyncio.run(serve())
print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr
