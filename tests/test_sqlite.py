"""The store on disk: durability, errors, and features that the memory store lacks."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, patiently

from hubhooks._store import clock as clock_module
from hubhooks._store import connection, file_systems, inserts, prune, schema
from hubhooks._store.base import AcceptResult
from hubhooks._store.connection import Database
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import BusyError, ConfigError, StoreError
from hubhooks.models import RunContext

if TYPE_CHECKING:
    from collections.abc import Generator

DAY = 24 * 60 * 60


def crashed(store: SqliteStore) -> list[tuple[str, str, bool]]:
    """Become leader as after a crash, and return the crashed runs."""
    store.close()
    store.open()
    return store.recover()


@contextmanager
def opened(path: Path, *, runs: bool = True, **options: Any) -> Generator[SqliteStore]:
    store = SqliteStore(path, **options)
    store.open()
    try:
        if runs:
            store.recover()
        yield store
    finally:
        store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hubhooks.db"


@pytest.fixture
def store(path: Path) -> Generator[SqliteStore]:
    with opened(path) as store:
        yield store


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, which the test may change."""
    time = [1_800_000_000.0]
    monkeypatch.setattr(clock_module, "now", lambda: time[0])
    return time


def start(store: SqliteStore, delivery_id: str, handler: str = "a") -> RunContext:
    delivery = store.claim(delivery_id, handler)
    assert delivery is not None
    return delivery


def run(
    store: SqliteStore, delivery_id: str, handler: str = "a", ending: Any = "succeeded"
) -> None:
    store.finish_run(start(store, delivery_id, handler), ending)
    store.flush()


def stored(store: SqliteStore, delivery_id: str) -> Any:
    return store.get(delivery_id)


def state(store: SqliteStore, delivery_id: str) -> Any:
    return stored(store, delivery_id).state


def query(path: Path, sql: str, *values: object) -> list[Any]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


@contextmanager
def child(code: str, *arguments: object) -> Generator[subprocess.Popen[str]]:
    """Run code in another process, which is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


# ---- runs ---------------------------------------------------------------------------------------


def test_start_is_stored_before_the_handler_is_called(store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    assert start(store, "d1")[:3] == ("d1", 1, False)
    assert state(store, "d1") == "running"


def test_batch_stores_accepted_deliveries_and_starts(
    store: SqliteStore,
) -> None:
    with store.transaction():
        result = store.accept("d1", b"{}", ["a", "b"])
        delivery = start(store, "d1", "b")
        assert store.claim("d1", "b") is None
        assert store.get("d1") is None
    assert result == AcceptResult("accepted", "d1", ("a", "b"))
    kept = stored(store, "d1")
    assert [(r.handler, r.state, r.attempts) for r in kept.runs] == [
        ("a", "queued", 0),
        ("b", "running", 1),
    ]
    assert delivery.received_at == kept.received_at


def test_delivery_repeated_in_one_batch_is_one(store: SqliteStore) -> None:
    with store.transaction():
        store.accept("d1", b"{}", ["a"])
        assert store.accept("d1", b"{}", ["a"]) == AcceptResult("in_progress", "d1")
        store.accept("d2", b"{}", (), "unhandled")
        store.accept("d2", b"{}{}", ["a"])
    assert stored(store, "d1").duplicates == 1
    assert [(r.id, r.state, r.size) for r in store.list()] == [
        ("d2", "queued", 4),
        ("d1", "queued", 2),
    ]
    assert store.stats().body_bytes == 6


def test_start_and_end_in_one_batch_are_stored(store: SqliteStore) -> None:
    with store.transaction():
        store.accept("d1", b"{}", ["a"])
        store.finish_run(start(store, "d1"), "failed", "no handler a")
        store.accept("d2", b"{}", ["a"])
    assert (state(store, "d1"), state(store, "d2")) == ("failed", "queued")


@pytest.mark.parametrize("how", ["running", "finished", "no such handler", "no such delivery"])
def test_ineligible_run_is_not_claimed(store: SqliteStore, how: str) -> None:
    store.accept("d1", b"{}", ["a"])
    if how == "running":
        start(store, "d1")
    if how == "finished":
        run(store, "d1")
    asked = {"no such handler": ("d1", "b"), "no such delivery": ("d2", "a")}.get(how, ("d1", "a"))
    assert store.claim(*asked) is None


def test_only_the_leader_claims_runs(path: Path, store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    with opened(path, runs=False) as other:
        assert other.claim("d1", "a") is None
        other.recover()
        assert store.claim("d1", "a") is None
        assert other.claim("d1", "a") is not None


def test_end_of_an_abandoned_attempt_changes_nothing(path: Path, store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    abandoned = start(store, "d1")
    with opened(path, runs=False) as other:
        assert other.recover() == [("d1", "a", False)]
        store.finish_run(abandoned, "succeeded")
        store.flush()
        assert state(store, "d1") == "retrying"
        again = start(other, "d1")
        assert again.attempt == 2
        store.finish_run(abandoned, "succeeded")
        store.mark_stuck(abandoned)
        store.flush()
        assert state(store, "d1") == "running"
        other.finish_run(again, "failed", "why")
    assert [(r.state, r.error) for r in stored(store, "d1").runs] == [("failed", "why")]


def test_crashed_run_is_retried_three_times(path: Path, clock: list[float]) -> None:
    code = """
        import sys
        from hubhooks._store import clock, sqlite
        clock.now = lambda: float(sys.argv[2])
        store = sqlite.SqliteStore(sys.argv[1])
        store.open()
        store.recover()
        is_again = len(store.list_ready(8)) == 0
        assert len(store.list_ready(8, crashed=is_again)) == 1
        print(is_again, store.claim("d1", "a").attempt, flush=True)
        sys.stdin.read()
    """
    with opened(path, runs=False) as store:
        store.accept("d1", b"{}", ["a"])
        waits = []
        for attempt in range(1, 5):
            with child(code, path, clock[0]) as process:
                assert read_line(process) == f"{attempt > 1} {attempt}"
                process.send_signal(signal.SIGKILL)
                assert process.wait(PATIENCE) == -signal.SIGKILL
            assert crashed(store) == [("d1", "a", attempt == 4)]
            assert store.list_ready(8) == store.list_ready(8, crashed=True) == []
            waits.append(store.seconds_to_next())
            clock[0] += waits[-1] or 0
        (ended,) = stored(store, "d1").runs
    assert waits == [10, 20, 40, None]
    assert (ended.state, ended.attempts, ended.crashes) == ("failed", 4, 4)
    assert ended.error == "the process died during this handler"


def test_run_failed_after_crashes_can_be_replayed(path: Path) -> None:
    with opened(path, max_crashes=0) as store:
        store.accept("d1", b"{}", ["a"])
        start(store, "d1")
        assert crashed(store) == [("d1", "a", True)]
        assert store.accept("d1", b"{}", ["a"]).handlers == ("a",)
        assert store.list_ready(8) == [("d1", "a")]


def test_ready_runs_are_in_order_of_arrival_and_registration(store: SqliteStore) -> None:
    for number in range(3):
        store.accept(f"d{number}", b"{}", ["b", "a"])
    order = [(f"d{number}", handler) for number in range(3) for handler in "ba"]
    assert store.list_ready(100) == order
    assert store.list_ready(3) == order[:3]
    assert store.list_ready(2, without=["b"]) == [("d0", "a"), ("d1", "a")]
    assert store.list_ready(8, without=["b", "a", "c"]) == []
    assert store.list_ready(0) == []


def test_runs_of_a_busy_handler_are_not_read_repeatedly(store: SqliteStore) -> None:
    def steps() -> int:
        counted: list[int] = []
        connection: Any = store._db._connection  # noqa: SLF001 - the handler needs SQLite's connection
        connection.set_progress_handler(lambda: counted.append(1), 10)
        assert store.list_ready(32, ["busy"]) == [("d0", "free")]
        connection.set_progress_handler(None, 10)
        return len(counted)

    store.accept("d0", b"{}", ["busy", "free"])
    before = steps()
    with store.transaction():
        for number in range(1, 2000):
            store.accept(f"d{number}", b"{}", ["busy"])
    # Only the index is deeper.
    assert steps() < 2 * before


def test_retrying_run_is_ready_at_its_time(store: SqliteStore, clock: list[float]) -> None:
    store.accept("d1", b"{}", ["a"])
    store.accept("d2", b"{}", ["a"])
    store.finish_run(start(store, "d1"), "failed", "why", "where", retry_after=30)
    store.flush()
    kept = stored(store, "d1").runs[0]
    assert (kept.state, kept.error, kept.finished_at) == ("retrying", "why", None)
    assert kept.due_at - kept.started_at == timedelta(seconds=30)
    assert store.accept("d1", b"{}", ["a"]) == AcceptResult("in_progress", "d1")
    assert [due[0] for due in store.list_ready(8)] == ["d2"]
    assert store.seconds_to_next() == 30
    clock[0] += 30
    assert [due[0] for due in store.list_ready(8)] == ["d1", "d2"]
    assert store.seconds_to_next() is None
    assert start(store, "d1").attempt == 2


def test_clock_set_back_delays_no_run(store: SqliteStore, clock: list[float]) -> None:
    store.accept("d1", b"{}", ["a"])
    store.finish_run(start(store, "d1"), "failed", retry_after=3600)
    store.flush()
    clock[0] -= 30
    assert store.list_ready(8) == []
    clock[0] -= DAY
    assert [due[0] for due in store.list_ready(8)] == ["d1"]
    store.accept("d2", b"{}", ["a"])
    assert [r.id for r in store.list()] == ["d2", "d1"]


@pytest.mark.parametrize("seconds", [1e12, 1e300, -1e12, float("inf")])
def test_invalid_time_in_the_file_is_readable(
    store: SqliteStore, path: Path, seconds: float
) -> None:
    store.accept("d1", b"{}", ["a"])
    store.finish_run(start(store, "d1"), "failed", retry_after=5)
    store.flush()
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("UPDATE open_runs SET due_at = ?", (seconds,))
    (listed,) = store.list()
    year = 9999 if seconds > 0 else 1970
    assert listed.runs[0].due_at.astimezone(timezone(timedelta(hours=23))).year == year
    assert store.accept("d1", b"{}", ["a"]) == AcceptResult("in_progress", "d1")


def test_crashed_runs_are_listed_separately(store: SqliteStore, clock: list[float]) -> None:
    for number in range(4):
        store.accept(f"d{number}", b"{}", ["b", "a"])
    start(store, "d0")
    start(store, "d1")
    start(store, "d1", "b")
    crashed(store)
    others = [("d0", "b"), ("d2", "b"), ("d2", "a"), ("d3", "b"), ("d3", "a")]
    assert store.list_ready(8, crashed=True) == []
    clock[0] += 10
    assert store.list_ready(8) == others
    assert store.list_ready(8, crashed=True) == [("d0", "a"), ("d1", "b"), ("d1", "a")]
    assert store.list_ready(1, crashed=True) == [("d0", "a")]
    assert store.list_ready(8, ["a"], crashed=True) == [("d1", "b")]
    # A later failure does not change this.
    store.finish_run(start(store, "d0"), "failed", retry_after=0)
    store.flush()
    assert store.list_ready(1, crashed=True) == [("d0", "a")]


def test_stuck_run_may_still_finish(store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    delivery = start(store, "d1")
    store.mark_stuck(delivery)
    store.flush()
    assert state(store, "d1") == "stuck"
    assert stored(store, "d1").runs[0].finished_at is None
    assert store.claim("d1", "a") is None
    store.finish_run(delivery, "succeeded")
    store.flush()
    assert state(store, "d1") == "succeeded"


def test_stuck_run_of_a_dead_process_is_crashed(store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    store.mark_stuck(start(store, "d1"))
    store.flush()
    assert crashed(store) == [("d1", "a", False)]


def test_responses_and_ends_are_deferred_to_the_next_batch(store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    store.mark_acknowledged("d1", delivered=True)
    store.finish_run(start(store, "d1"), "succeeded")
    assert (state(store, "d1"), stored(store, "d1").is_acknowledged) == ("running", True)
    store.flush()
    assert state(store, "d1") == "succeeded"


def test_close_writes_deferred_responses_and_ends(path: Path) -> None:
    with opened(path) as store:
        store.accept("d1", b"{}", ["a"])
        store.finish_run(start(store, "d1"), "succeeded")
    assert state(store, "d1") == "succeeded"


def test_failed_deferred_writes_are_kept(path: Path, store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    store.finish_run(start(store, "d1"), "succeeded")
    with locked(path), pytest.raises(BusyError):
        store.flush()
    assert state(store, "d1") == "running"
    with pytest.raises(ZeroDivisionError), store.transaction():
        _ = 1 / 0
    assert state(store, "d1") == "running"
    store.flush()
    assert state(store, "d1") == "succeeded"


def test_delivery_state_follows_its_runs(path: Path) -> None:
    dice = random.Random(7)
    with opened(path) as store:
        starts: list[RunContext] = []
        for number in range(400):
            delivery_id = f"d{dice.randrange(40)}"
            handlers = dice.sample(["a", "b", "c"], dice.randrange(4))
            skipped = None if handlers else dice.choice(["unhandled", "ignored", "malformed"])
            operation = dice.randrange(6)
            if operation == 0:
                store.accept(delivery_id, b"x" * dice.randrange(999), handlers, skipped)
            elif operation in (1, 2):
                claimed = store.claim(delivery_id, dice.choice("abc"))
                starts += [claimed] if claimed is not None else []
            elif operation == 3 and starts:
                store.mark_stuck(dice.choice(starts))
            elif operation == 4 and starts:
                retry_after = dice.choice([None, None, 0.0])
                ending = dice.choice(["succeeded", "failed", "ignored"])
                store.finish_run(dice.choice(starts), ending, retry_after=retry_after)
            elif operation == 5:
                store.replay(delivery_id)
            if number % 100 == 99:
                store.recover()
            store.flush()
        kept = store.list(limit=100)
        assert dict(query(path, "SELECT id, state FROM deliveries")) == {
            r.id: r.state for r in kept
        }
        assert len({r.state for r in kept}) > 4
        assert store.stats().body_bytes == sum(r.size for r in kept)
        assert query(path, "SELECT sum(length(body)), count(*) FROM bodies") == [
            (store.stats().body_bytes, len(kept))
        ]
        assert sum(store.stats().states.values()) == len(kept)


# ---- replaying ----------------------------------------------------------------------------------


def test_stored_delivery_can_be_replayed(store: SqliteStore) -> None:
    headers = [(b"user-agent", b"hub")]
    store.accept(
        "d1", b"body", ["a", "b"], scope="repo", action="update", repo="me/x", headers=headers
    )
    store.accept("d2", b"{}", ["a"])
    run(store, "d1", "a")
    run(store, "d1", "b", "failed")
    before = stored(store, "d1")
    assert store.replay("d1", ["a"]) == ("a",)
    kept = stored(store, "d1")
    assert [(r.handler, r.state, r.attempts) for r in kept.runs] == [
        ("b", "failed", 1),
        ("a", "queued", 1),
    ]
    assert (kept.body, kept.scope, kept.action, kept.repo) == (b"body", "repo", "update", "me/x")
    assert (kept.headers, kept.received_at) == (before.headers, before.received_at)
    assert store.body("d1") == b"body"
    reported = start(store, "d1", "a")
    assert (reported.attempt, reported.is_replay) == (2, True)
    store.finish_run(reported, "succeeded")
    store.flush()
    assert store.replay("d1") == ("b", "a")


def test_unhandled_delivery_can_be_replayed_with_a_handler(store: SqliteStore) -> None:
    store.accept("d1", b"{}", (), "unhandled", "why")
    assert store.replay("d1") == ()
    assert state(store, "d1") == "unhandled"
    assert store.replay("d1", ["a"]) == ("a",)
    assert (state(store, "d1"), stored(store, "d1").reason) == ("queued", "")


def test_unknown_unfinished_or_bodiless_delivery_is_not_replayed(
    path: Path, clock: list[float]
) -> None:
    with opened(path) as store:
        store.accept("old", b"{}", ["a"])
        run(store, "old")
        clock[0] += 31 * DAY
        store.prune()
        store.accept("d1", b"{}", ["a"])
        assert [store.replay(name) for name in ("nobody", "d1", "old")] == [(), (), ()]
        start(store, "d1")
        assert store.replay("d1", ["b"]) == ()


# ---- batches and processes ----------------------------------------------------------------------


def test_failed_batch_leaves_nothing(store: SqliteStore) -> None:
    store.accept("d0", b"{}", ["a"])

    def fail() -> None:
        with store.transaction():
            store.accept("d1", b"{}", ["a"])
            store.claim("d0", "a")
            store.count_rejections(1, "secret wrong", 1)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [(r.id, r.state) for r in store.list()] == [("d0", "queued")]
    assert store.stats().rejections == {}
    assert store.accept("d1", b"{}", ["a"]).status == "accepted"


def test_batch_with_a_failed_statement_is_rolled_back(path: Path) -> None:
    database = Database(path, [["CREATE TABLE t (a UNIQUE)"]])
    database.open()

    def go_on() -> None:
        with database.transaction():
            database.execute("INSERT INTO t VALUES (1)")
            # As the receiver does, which responds with 503 to this one delivery.
            for number in (1, 2):
                with pytest.raises(StoreError):
                    database.execute("INSERT INTO t VALUES (?)", (number,))

    try:
        with pytest.raises(StoreError, match="UNIQUE"):
            go_on()
        assert query(path, "SELECT * FROM t") == []
        with database.transaction():
            database.execute("INSERT INTO t VALUES (3)")
        assert query(path, "SELECT * FROM t") == [(3,)]
    finally:
        database.close()


@pytest.mark.slow
def test_kill_loses_no_acknowledged_or_partial_delivery(
    path: Path,
) -> None:
    code = """
        import random, sys
        from hubhooks._store.sqlite import SqliteStore
        path, turn = sys.argv[1:]
        store = SqliteStore(path)
        store.open()
        store.recover()
        for number in range(10_000):
            size = random.choice([1, 4, 16])
            names = [f"{turn}-{number}-{size}-{at}" for at in range(size)]
            with store.transaction():
                for name in names:
                    store.accept(name, name.encode() * random.choice([1, 100, 5_000]), ["a", "b"])
                started = store.claim(names[0], "a")
            print("stored", *names, flush=True)
            store.finish_run(started, "succeeded")
            store.flush()
            print("succeeded", names[0], flush=True)
    """
    reported: dict[str, set[str]] = {"stored": set(), "succeeded": set()}
    for turn in range(20):
        with child(code, path, turn) as process:
            lines = [read_line(process) for _ in range(random.randrange(1, 40))]
            process.send_signal(signal.SIGKILL)
            # Not `communicate`: it does not see what `stdout` has buffered.
            assert process.stdout is not None
            for line in [*lines, *process.stdout.read().splitlines()]:
                word, *names = line.split()
                reported[word].update(names)
            process.wait(PATIENCE)
        assert process.returncode == -signal.SIGKILL
    bodies = dict(query(path, "SELECT id, body FROM bodies JOIN deliveries USING (seq)"))
    runs: dict[str, dict[str, str]] = {name: {} for name in bodies}
    for name, handler, word in query(
        path, "SELECT id, handler, runs.state FROM runs JOIN deliveries USING (seq)"
    ):
        runs[name][handler] = word
    assert reported["stored"] <= set(bodies)
    assert len(reported["stored"]) > 20
    for name, body in bodies.items():
        turn_and_number, size, _ = name.rsplit("-", 2)
        together = {f"{turn_and_number}-{size}-{at}" for at in range(int(size))}
        assert together <= set(bodies)
        assert body == name.encode() * (len(body) // len(name))
        assert runs[name].keys() == {"a", "b"}
        assert name not in reported["succeeded"] or runs[name]["a"] == "succeeded"
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    with opened(path) as store:
        assert store.stats().body_bytes == sum(map(len, bodies.values()))
        assert store.list_ready(1)
        assert store.accept("next", b"{}", ["a"]).status == "accepted"


ACCEPT_ALL = """
    import sys, time
    from hubhooks.errors import BusyError
    from hubhooks._store.sqlite import SqliteStore
    store = SqliteStore(sys.argv[1])
    store.open()
    statuses = []
    for number in range(200):
        while True:
            try:
                statuses.append(store.accept(f"d{number}", b"{}", ["a"]).status)
                break
            except BusyError:
                time.sleep(0.001)
    store.close()
    print(statuses.count("accepted"), statuses.count("in_progress"), flush=True)
"""


def test_one_of_many_processes_runs_each_delivery(path: Path) -> None:
    with (
        child(ACCEPT_ALL, path) as one,
        child(ACCEPT_ALL, path) as two,
        child(ACCEPT_ALL, path) as three,
    ):
        counts = [tuple(map(int, read_line(process).split())) for process in (one, two, three)]
    assert (sum(a for a, _ in counts), sum(b for _, b in counts)) == (200, 400)
    assert SqliteStore(path).stats().states == {"queued": 200}


def test_write_of_another_process_is_noticed(path: Path, store: SqliteStore) -> None:
    store.changed()
    store.accept("d1", b"{}", ["a"])
    assert not store.changed()
    with child(ACCEPT_ALL, path) as process:
        read_line(process)
    assert store.changed()
    assert not store.changed()


def test_slow_reader_does_not_block_writers(path: Path, store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    reader = Database(path, [[]] * len(schema.MIGRATIONS))
    with reader.open_connection() as connection:
        before = connection.execute("SELECT count(*) FROM deliveries").fetchone()
        store.accept("d2", b"{}", ["a"])
        assert connection.execute("SELECT count(*) FROM deliveries").fetchone() == before == (1,)
    assert len(store.list()) == 2


@contextmanager
def locked(path: Path, how: str = "IMMEDIATE") -> Generator[None]:
    """Let another process hold the file locked."""
    code = """
        import sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("BEGIN " + sys.argv[2])
        print("locked", flush=True)
        sys.stdin.read()
    """
    with child(code, path, how) as process:
        assert read_line(process) == "locked"
        yield


def test_busy_store_is_an_error_and_works_afterwards(path: Path, store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    with locked(path):
        for operation in (
            lambda: store.accept("d2", b"{}", ["a"]),
            lambda: store.claim("d1", "a"),
            store.prune,
        ):
            with pytest.raises(BusyError, match=f"`{path}` is locked by another program"):
                operation()
        assert [r.id for r in store.list()] == ["d1"]
        with opened(path, runs=False) as other:
            assert other.list_ready(8)
    assert store.accept("d2", b"{}", ["a"]).status == "accepted"
    assert isinstance(BusyError(), StoreError)


# ---- files that cannot be used ------------------------------------------------------------------


def open_error(path: Path, kind: type[Exception] = ConfigError, **options: Any) -> str:
    """Return the error of opening an unusable file, which names the file."""
    with pytest.raises(kind) as caught, opened(path, **options):
        pass
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    error = open_error(tmp_path / "no" / "x.db")
    assert f"there is no folder `{tmp_path / 'no'}`; create it first" in error


def test_folder_in_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    assert "is a folder: give the path of a file" in open_error(tmp_path)


@contextmanager
def mounted(where: Path, options: str) -> Generator[None]:
    """Mount a small disk, where that is permitted."""
    where.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", where], check=False, capture_output=True
    )
    if mount.returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", where], check=True)


needs_mount = pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")


@needs_mount
def test_read_only_disk_is_an_error(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=4m"):
        with opened(disk / "x.db") as store:
            store.accept("d1", b"{}", ["a"])
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert "cannot be created (read-only file system)" in open_error(disk / "new.db")
        assert "cannot be opened: check the path and its permissions" in open_error(disk / "x.db")
        with pytest.raises(ConfigError, match=r"x\.db\.runner"):
            LeaderLock(disk / "x.db").try_acquire()


@needs_mount
def test_full_disk_loses_no_accepted_delivery(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=2m"):
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 1024 * 1024)
        with opened(disk / "x.db") as store:
            store.accept("d0", b"{}", ["a"])
            store.finish_run(start(store, "d0"), "succeeded")
            accepted = fill(store)
            with pytest.raises(StoreError, match="free some space"):
                accept_together(store, [f"late{number}" for number in range(16)])
            assert {r.id for r in store.list(limit=1_000)} == accepted | {"d0"}
            ballast.unlink()
            assert store.accept("more", b"x" * 10_000, ["a"]).status == "accepted"
        with opened(disk / "x.db") as store:
            assert {r.id for r in store.list(limit=1_000)} == accepted | {"d0", "more"}
            assert state(store, "d0") == "succeeded"
            assert all(store.body(name) == b"x" * 10_000 for name in accepted)


def accept_together(store: SqliteStore, names: list[str]) -> None:
    with store.transaction():
        for name in names:
            store.accept(name, b"x" * 100_000, ["a"])


def fill(store: SqliteStore) -> set[str]:
    """Accept until the store is full, and return the accepted ids."""
    accepted: set[str] = set()

    def accept() -> None:
        for number in range(1, 1_000):
            store.accept(f"d{number}", b"x" * 10_000, ["a"])
            accepted.add(f"d{number}")

    with pytest.raises(StoreError, match="its disk is full: free some space"):
        accept()
    assert len(accepted) > 10
    return accepted


def ask(store: SqliteStore, sql: str, *values: object) -> list[Any]:
    """Run a statement on the connection of the store itself."""
    return store._db.execute(sql, values).fetchall()  # noqa: SLF001 - see above


def test_file_size_limit_loses_no_accepted_delivery(path: Path) -> None:
    with opened(path) as store:
        ask(store, "PRAGMA max_page_count = 100")
        accepted = fill(store)
        ask(store, "PRAGMA max_page_count = 10000")
        assert store.accept("more", b"{}", ["a"]).status == "accepted"
    assert {r.id for r in SqliteStore(path).list(limit=1_000)} == accepted | {"more"}


@pytest.mark.parametrize("content", [b"Dear diary\n" * 1_000, os.urandom(100_000), b"Dear diary\n"])
def test_file_that_is_no_database_is_an_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "is not an SQLite file: give another path, or move the file away" in open_error(path)
    assert path.read_bytes() == content


def test_an_empty_file_is_used(path: Path) -> None:
    path.touch()
    with opened(path) as store:
        assert store.list() == []


def test_database_of_another_program_is_an_error(path: Path) -> None:
    query(path, "CREATE TABLE bookmarks (url)")
    content = path.read_bytes()
    assert "belongs to another program: give another path" in open_error(path)
    with pytest.raises(ConfigError, match="belongs to another program"):
        SqliteStore(path).list()
    assert path.read_bytes() == content


def test_file_of_a_newer_version_is_an_error(path: Path) -> None:
    with opened(path):
        pass
    query(path, "PRAGMA user_version = 99")
    message = open_error(path)
    assert "was written by a newer hubhooks (format 99; this version reads 5)" in message
    assert "upgrade hubhooks, or give another path" in message
    with pytest.raises(ConfigError, match="newer hubhooks"):
        SqliteStore(path).get("d1")


@pytest.mark.parametrize("damage", ["garbage", "cut off"])
def test_damaged_file_is_an_error(path: Path, damage: str) -> None:
    with opened(path) as store:
        for number in range(200):
            store.accept(f"d{number}", b"x" * 1_000, ["a"])
    content = path.read_bytes()
    half = len(content) // 2
    garbage = b"" if damage == "cut off" else b"\xa5" * (len(content) - half)
    path.write_bytes(content[:half] + garbage)

    def use() -> None:
        with opened(path) as store:
            for number in range(200):
                store.get(f"d{number}")
                store.accept(f"new{number}", b"{}", ["a"])
                store.claim(f"d{number}", "a")

    with pytest.raises(StoreError, match=f"`{path}` is damaged: move it and its"):
        use()


def test_missing_file_is_an_error_for_reading(path: Path) -> None:
    for operation in (SqliteStore(path).list, SqliteStore(path).prune, SqliteStore(path).stats):
        with pytest.raises(StoreError, match=re.escape(f"`{path}` cannot be opened")):
            operation()
    SqliteStore(path).checkpoint()
    assert not path.exists()


def test_exclusively_locked_file_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query(path, "PRAGMA user_version = 0")
    monkeypatch.setattr(connection, "_OPEN_SECONDS", 0.2)
    with locked(path, "EXCLUSIVE"):
        assert "is locked by another program: close that program" in open_error(path, BusyError)
    with opened(path):
        pass


def test_unopened_store_is_an_error(path: Path) -> None:
    with opened(path) as store:
        store.accept("d1", b"{}", ["a"])
    store.close()
    for operation in (
        lambda: store.accept("d2", b"{}"),
        store.recover,
        lambda: store.list_ready(1),
        store.changed,
    ):
        with pytest.raises(StoreError, match=re.escape(f"`{path}` is not open")):
            operation()
    store.finish_run(RunContext("d1", 1, False, datetime.now(timezone.utc), "a"), "succeeded")
    with pytest.raises(StoreError, match="is not open"):
        store.flush()
    store.open()
    assert store.claim("d1", "a") is None
    store.close()


MOUNTS = """\
22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:22 / /data rw,relatime shared:2 master:1 - {kind} source rw
24 22 0:23 / /data/my\\040disk rw - ext4 /dev/vdb rw
25 22 0:24 / /data/over rw - nfs4 server:/ rw
26 22 0:25 / /data/over rw - ext4 /dev/vdc rw
"""


@needs_mount
@pytest.mark.parametrize(
    ("path", "kind", "is_rejected"),
    [
        ("/data/x.db", "fuse.hf-mount", True),
        ("/data/x.db", "fuse", True),
        ("/data/x.db", "nfs", True),
        ("/data/x.db", "cifs", True),
        ("/data/x.db", "smb3", True),
        ("/data/x.db", "9p", True),
        ("/data/x.db", "ceph", True),
        ("/data/x.db", "xfs", False),
        ("/data/x.db", "overlay", False),
        ("/data/my disk/x.db", "nfs", False),
        ("/data/over/x.db", "ext4", False),
        ("/database/x.db", "nfs", False),
    ],
)
def test_network_file_system_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, kind: str, is_rejected: bool
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(kind=kind), "utf-8")
    monkeypatch.setattr(file_systems, "_MOUNTS", mounts)
    message = open_error(Path(path))
    if is_rejected:
        assert f"is on a network file system ({kind})" in message
        assert "give a path on a local disk" in message
        assert "set `allow_network=True` or HUBHOOKS_ALLOW_NETWORK=1" in message
        message = open_error(Path(path), allow_network=True)
    assert "cannot be created" in message


def test_unreadable_mounts_allow_every_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_systems, "_MOUNTS", path.parent / "none")
    with opened(path) as store:
        assert store.list() == []


# ---- files that are taken away ------------------------------------------------------------------

WRITE_ELSEWHERE = """
    import sys
    from hubhooks._store.sqlite import SqliteStore

    store = SqliteStore(sys.argv[1])
    store.open()
    store.accept("elsewhere", b"{}", ["a"])
    store.close()
"""


def write_elsewhere(path: Path) -> None:
    """Write to the store in another process, which then ends."""
    with child(WRITE_ELSEWHERE, path) as process:
        assert process.wait(PATIENCE) == 0


def ids_seen_elsewhere(path: Path) -> set[str]:
    """List the ids that another process sees: removed files are invisible to it."""
    read = """
        import json, sqlite3, sys
        print(json.dumps([row[0] for row in sqlite3.connect(sys.argv[1]).execute(
            "SELECT id FROM deliveries")]))
    """
    with child(read, path) as process:
        return set(json.loads(read_line(process)))


def test_reading_the_files_loses_no_delivery(
    path: Path, store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.accept("before", b"{}", ["a"])
    # As an upload of the folder does: it takes SQLite's locks from this process.
    for file in path.parent.glob(f"{path.name}*"):
        file.read_bytes()
    write_elsewhere(path)
    assert not Path(f"{path}-wal").exists()
    for name in ("after", "later"):
        assert store.accept(name, b"{}", ["a"]).status == "accepted"
    assert ids_seen_elsewhere(path) == {"before", "elsewhere", "after", "later"}
    assert query(path, "PRAGMA integrity_check") == [("ok",)]
    # The same file, so this process is still its leader.
    assert store.is_leader
    assert store.claim("elsewhere", "a") is not None
    assert caplog.text.count("was removed or replaced while the app used it") == 1


def test_removed_file_is_recreated_with_a_new_leader(path: Path, store: SqliteStore) -> None:
    store.accept("before", b"{}", ["a"])
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    assert patiently(store.changed)
    assert not store.is_leader
    store.accept("after", b"{}", ["a"])
    assert store.claim("after", "a") is None
    assert ids_seen_elsewhere(path) == {"after"}
    assert path.stat().st_mode & 0o777 == 0o600
    store.recover()
    assert store.is_leader
    assert store.claim("after", "a") is not None


def test_write_to_a_removed_file_is_an_error(path: Path, store: SqliteStore) -> None:
    def write() -> None:
        with store.transaction():
            store.accept("during", b"{}", ["a"])
            Path(f"{path}-wal").unlink()

    with pytest.raises(BusyError, match="was removed or replaced"):
        write()
    store.accept("after", b"{}", ["a"])
    assert "after" in ids_seen_elsewhere(path)


def test_file_is_not_reopened_while_the_old_one_is_read(path: Path, store: SqliteStore) -> None:
    with store._db.open_connection():  # noqa: SLF001 - what `get` and `list` do
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        with pytest.raises(BusyError, match="was removed or replaced"):
            store.accept("d1", b"{}", ["a"])
    assert patiently(lambda: store.accept("d1", b"{}", ["a"])).status == "accepted"


def test_restored_folder_is_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    with opened(folder / "hubhooks.db") as store:
        folder.rename(tmp_path / "away")
        for _ in range(2):
            with pytest.raises(StoreError, match="cannot be created"):
                store.accept("d1", b"{}", ["a"])
        (tmp_path / "away").rename(folder)
        assert store.accept("d1", b"{}", ["a"]).status == "accepted"
        store.recover()
        assert store.claim("d1", "a") is not None


# ---- the file -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes there")
def test_only_the_owner_can_read_the_files(path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(path) as store:
            store.accept("d1", b"{}", ["a"])
            lock = LeaderLock(path)
            assert lock.try_acquire()
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
            lock.release()
    finally:
        os.umask(before)
    names = [path.name + end for end in ("", "-wal", "-shm", ".runner")]
    assert modes == dict.fromkeys(names, 0o600)


@pytest.mark.skipif(sys.platform == "win32", reason="no such modes there")
def test_link_to_a_missing_file_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "real.db")
    with opened(link):
        lock = LeaderLock(link)
        assert lock.try_acquire()
        assert not LeaderLock(tmp_path / "real.db").try_acquire()
        lock.release()
        assert {file.name for file in tmp_path.iterdir()} == {
            "link.db", "real.db", "real.db-shm", "real.db-wal", "real.db.runner",
        }  # fmt: skip
    assert (tmp_path / "real.db").stat().st_mode & 0o777 == 0o600


def test_file_is_independent_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(Path("hubhooks.db")) as store:
        store.accept("d1", b"{}", ["a"])
        monkeypatch.chdir("/")
        assert state(store, "d1") == "queued"


def test_secrets_are_never_in_the_file(path: Path) -> None:
    secret = b"moonlight"
    with opened(path) as store:
        headers = [
            (b"user-agent", b"hub"),
            (b"x-webhook-secret", secret),
            (b"X-Webhook-Secret", secret),
            (b"authorization", b"Bearer " + secret),
            (b"proxy-authorization", secret),
            (b"cookie", b"session=" + secret),
            (b"x-ip-token", secret),
            (b"x-original-url", b"/webhooks?secret=" + secret),
            (b"webhook-id", b"d1"),
            (b"via", b"\xe9"),
        ]
        store.accept("d1", b"{}", ["a"], headers=headers)
        store.replay("d1")
        kept = stored(store, "d1").headers
        files = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert b"webhook-id" in files
    assert secret not in files
    assert kept[0] == ("user-agent", "hub")
    assert [name for name, value in kept if value == "(redacted)"] == [
        name.decode() for name, _ in headers[1:8]
    ]
    assert kept[8:] == [("webhook-id", "d1"), ("via", "\xe9")]


def test_invalid_texts_are_repaired_and_long_ones_cut(store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    store.accept("d2", b"{}", (), "ignored", "half of \ud83d")
    store.finish_run(
        start(store, "d1"), "failed", "bad \udcff", "x" * 1_000_000 + "ValueError: last"
    )
    store.flush()
    (ended,) = stored(store, "d1").runs
    assert ended.error == "bad \\udcff"
    assert ended.traceback.endswith("xxValueError: last")
    assert len(ended.traceback) == 64 * 1024
    assert stored(store, "d2").reason == "half of \\ud83d"


STEPS = [["CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"]]


def opened_database(path: Path, steps: Any) -> Database:
    database = Database(path, steps)
    database.open()
    return database


def test_older_file_is_migrated_step_by_step(path: Path) -> None:
    opened_database(path, STEPS).close()
    added = [*STEPS, ["ALTER TABLE t ADD COLUMN b DEFAULT 2"], ["UPDATE t SET a = a + b"]]
    older = "has an older format: start the app with this version of hubhooks first"
    with pytest.raises(StoreError, match=older), Database(path, added).open_connection():
        pass
    for _ in range(2):
        opened_database(path, added).close()
    assert query(path, "SELECT * FROM t") == [(3, 2)]
    assert query(path, "PRAGMA user_version") == [(3,)]
    assert query(path, "PRAGMA application_id") == [(0x48754832,)]
    with pytest.raises(ConfigError, match="newer hubhooks"):
        opened_database(path, STEPS)


def test_failed_migration_step_is_rolled_back(path: Path) -> None:
    opened_database(path, STEPS).close()
    broken = [*STEPS, ["ALTER TABLE t ADD COLUMN b DEFAULT 2", "INSERT INTO nowhere VALUES (1)"]]
    with pytest.raises(StoreError, match="nowhere"):
        opened_database(path, broken)
    assert query(path, "SELECT * FROM t") == [(1,)]
    assert query(path, "PRAGMA user_version") == [(1,)]
    opened_database(path, STEPS).close()


def test_new_file_opened_by_many_processes_is_complete(tmp_path: Path) -> None:
    code = """
        import sys
        from hubhooks._store.sqlite import SqliteStore
        for path in sys.stdin:
            store = SqliteStore(path.strip())
            store.open()
            print(len(store.list()), flush=True)
            store.close()
    """
    with child(code) as one, child(code) as two, child(code) as three, child(code) as four:
        together = (one, two, three, four)
        for turn in range(20):
            path = tmp_path / f"{turn}.db"
            for process in together:
                assert process.stdin is not None
                process.stdin.write(f"{path}\n")
                process.stdin.flush()
            assert [read_line(process) for process in together] == ["0"] * 4
            assert query(path, "SELECT generation, body_bytes FROM log") == [(0, 0)]


def test_only_a_checkpoint_writes_to_the_main_file(path: Path, store: SqliteStore) -> None:
    wal = Path(f"{path}-wal")
    before = path.stat().st_size
    for number in range(5):
        store.accept(f"d{number}", b"x" * 1_000_000, ["a"])
    assert (path.stat().st_size, wal.stat().st_size > 5_000_000) == (before, True)
    store.checkpoint()
    grown = path.stat().st_size
    assert grown > 5_000_000
    store.accept("d5", b"{}", ["a"])
    assert wal.stat().st_size < 5_000_000
    store.checkpoint()
    assert path.stat().st_size == grown
    for number in range(6, 26):
        store.accept(f"d{number}", b"x" * 1_000_000, ["a"])
    store.checkpoint()
    assert wal.stat().st_size == 0
    assert len(store.list()) == 26


def test_unknown_synchronous_value_is_rejected(path: Path) -> None:
    synchronous: Any = "off"
    with pytest.raises(
        ConfigError, match=r"`synchronous='off'` is not a choice.* \"normal\" or \"full\""
    ):
        SqliteStore(path, synchronous=synchronous)


@pytest.mark.parametrize(("synchronous", "expected"), [("normal", 1), ("full", 2)])
def test_synchronous_sets_the_pragma(path: Path, synchronous: Any, expected: int) -> None:
    with opened(path, synchronous=synchronous) as store:
        assert ask(store, "PRAGMA synchronous") == [(expected,)]


@pytest.mark.parametrize("attempt", [1, 9], ids=["ended", "given up"])
def test_acknowledgement_is_stored_with_or_without_an_end(path: Path, attempt: int) -> None:
    with opened(path) as store:
        store.accept("d1", b"{}", ["a"])
        delivery = store.claim("d1", "a")
        assert delivery is not None
        store.mark_acknowledged("d1", delivered=True)
        store.finish_run(delivery._replace(attempt=attempt), "succeeded")
        store.flush()
        stored = store.get("d1")
        assert stored is not None
        assert stored.is_acknowledged
        assert stored.state == ("succeeded" if attempt == 1 else "running")


# ---- limits -------------------------------------------------------------------------------------


def kept_bodies(path: Path) -> list[str]:
    sql = "SELECT id FROM bodies JOIN deliveries USING (seq) ORDER BY seq"
    return [name for (name,) in query(path, sql)]


def test_old_bodies_then_ids_are_dropped(path: Path, clock: list[float]) -> None:
    with opened(path, keep_days=30) as store:
        for name in ("succeeded", "queued", "running", "retrying", "stuck"):
            store.accept(name, b"{}", ["a"])
        store.accept("unhandled", b"{}", (), "unhandled")
        run(store, "succeeded")
        store.finish_run(start(store, "retrying"), "failed", retry_after=1)
        store.mark_stuck(start(store, "stuck"))
        start(store, "running")
        store.count_rejections(int(clock[0]) // 60, "secret wrong", 3)
        clock[0] += 29 * DAY
        store.accept("young", b"{}", (), "ignored")
        assert store.prune() == 0
        clock[0] += 2 * DAY
        assert store.prune() == 2
        unfinished = ["queued", "running", "retrying", "stuck"]
        assert kept_bodies(path) == [*unfinished, "young"]
        assert (stored(store, "succeeded").body, stored(store, "succeeded").size) == (None, 2)
        assert store.stats().rejections == {}
        assert store.stats().body_bytes == 10
        clock[0] += 5.5 * DAY
        assert store.prune() == 0
        assert store.accept("succeeded", b"{}", ["a"]).status == "duplicate"
        clock[0] += 1 * DAY
        assert store.prune() == 2
        assert [r.id for r in store.list()] == ["young", *reversed(unfinished)]
        assert query(path, "SELECT count(*) FROM runs") == [(4,)]
        clock[0] += 400 * DAY
        store.prune()
        assert [r.id for r in store.list()] == list(reversed(unfinished))
        assert kept_bodies(path) == unfinished


def test_clock_set_back_drops_nothing(store: SqliteStore, clock: list[float]) -> None:
    store.accept("d1", b"{}", (), "ignored")
    clock[0] -= 400 * DAY
    assert store.prune() == 0
    store.accept("d2", b"{}", (), "ignored")
    clock[0] += 31 * DAY
    assert store.prune() == 1
    assert (stored(store, "d1").body, stored(store, "d2").body) == (b"{}", None)


def test_deliveries_from_the_future_displace_no_others(
    store: SqliteStore, clock: list[float]
) -> None:
    clock[0] += 400 * DAY
    with store.transaction():
        for number in range(600):
            store.accept(f"ahead-{number}", b"{}", (), "ignored")
    clock[0] -= 400 * DAY
    store.accept("old", b"{}", (), "ignored")
    clock[0] += 38 * DAY
    assert store.prune() == 2
    assert len(store.list(limit=1000)) == 600
    assert store.get("old") is None


def test_oldest_finished_bodies_are_dropped_first(path: Path) -> None:
    with opened(path, max_bytes=100) as store:
        store.accept("queued", b"x" * 10, ["a"])
        for number in range(20):
            store.accept(f"d{number}", b"x" * 10, (), "unhandled")
            assert store.stats().body_bytes <= 100
        assert kept_bodies(path) == ["queued", *(f"d{number}" for number in range(11, 20))]
        assert store.prune() == 1
        assert kept_bodies(path)[:2] == ["queued", "d12"]
        assert len(store.list()) == 21
        # It counts once, though it has had a body before.
        store.accept("d19", b"x" * 15, (), "ignored")
        store.accept("d0", b"x" * 15, (), "ignored")
        assert (
            store.stats().body_bytes
            == 100
            == sum(size for (size,) in query(path, "SELECT length(body) FROM bodies"))
        )


def test_store_full_of_unfinished_runs_rejects_deliveries(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inserts, "_FULL_SECONDS", 0.0)
    with opened(path, max_bytes=100) as store:
        store.accept("finished", b"x" * 10, (), "unhandled")
        for number in range(10):
            store.accept(f"d{number}", b"x" * 10, ["a"])
        with store.transaction():
            store.accept("small", b"", ["a"])
            for body in (b"x", b"x" * 101):
                with pytest.raises(StoreError, match=f"`{path}` is full of unfinished deliveries"):
                    store.accept("more", body, ["a"])
        assert kept_bodies(path) == [*(f"d{number}" for number in range(10)), "small"]
        assert store.prune() == 0
        run(store, "d3")
        assert store.accept("more", b"x" * 10, ["a"]).status == "accepted"
        assert [r.id for r in store.list() if r.id not in kept_bodies(path)] == ["d3", "finished"]


def test_delivery_requeued_during_pruning_is_not_dropped(
    store: SqliteStore, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.accept("d1", b"{}", ["a"])
    run(store, "d1")
    clock[0] += 100 * DAY
    drop = prune._drop  # noqa: SLF001 - to do something just before it

    def revive_and_drop(*arguments: Any, **options: Any) -> int:
        store.recover()
        with store.transaction():
            for statement in (schema.REOPEN_RUN, schema.CLEAR_LAST_ATTEMPT):
                values = (clock[0], 1, "a")[-statement.count("?") :]
                ask(store, statement, *values)
        drop(*arguments, **options)
        return 0

    monkeypatch.setattr(prune, "_drop", revive_and_drop)
    store.prune()
    assert store.body("d1") == b"{}"
    assert store.stats().body_bytes == 2
    assert start(store, "d1").attempt == 2


def test_pruning_uses_several_transactions(path: Path, clock: list[float]) -> None:
    with opened(path) as store:
        with store.transaction():
            for number in range(1_200):
                store.accept(f"d{number}", b"{}", (), "ignored")
        clock[0] += 100 * DAY
        assert store.prune() == 2_400
        assert (store.list(), store.stats().body_bytes) == ([], 0)


# ---- asking -------------------------------------------------------------------------------------


def test_list_has_filters_and_pages(store: SqliteStore, clock: list[float]) -> None:
    for number in range(9):
        clock[0] += 60
        scope, repo = ("repo.content", "me/a") if number % 3 else ("discussion", None)
        store.accept(f"d{number}", b"{}", ["a"], scope=scope, action="update", repo=repo)
    run(store, "d4", ending="failed")

    def names(**criteria: Any) -> str:
        return "".join(r.id[1:] for r in store.list(**criteria))

    assert names() == "876543210"
    assert names(limit=3) == "876"
    assert names(limit=3, before="d6") == "543"
    assert names(before="d0") == names(before="nobody") == ""
    assert names(scope="discussion") == "630"
    assert names(repo="me/a") == "875421"
    assert names(repo="me/a", state="failed") == "4"
    assert names(state="queued", before="d5") == "3210"
    assert names(since=stored(store, "d6").received_at) == "876"
    assert names(state="retrying") == ""
    first = store.list(limit=1)[0]
    assert (first.scope, first.action, first.repo, first.size) == (
        "repo.content",
        "update",
        "me/a",
        2,
    )
    assert (first.body, [r.handler for r in first.runs]) == (None, ["a"])


def test_stats_count_the_store(store: SqliteStore) -> None:
    assert store.stats() == ({}, 0, None, {})
    store.accept("d1", b"12345", (), "unhandled")
    store.accept("d2", b"123", ["a", "b"])
    store.accept("d3", b"1", ["a"])
    run(store, "d3")
    store.count_rejections(1, "secret wrong", 2)
    store.count_rejections(1, "secret wrong", 3)
    store.count_rejections(2, "secret wrong", 1)
    store.count_rejections(2, "too large", 1)
    assert store.stats() == (
        {"unhandled": 1, "queued": 1, "succeeded": 1},
        9,
        stored(store, "d2").received_at,
        {"secret wrong": 6, "too large": 1},
    )


@pytest.mark.parametrize(
    "name",
    ["SELECT_SEQ", "COUNT_DUPLICATE", "SET_ACKNOWLEDGED", "SET_STATE", "SELECT_STARTABLE",
     "START_RUN", "SELECT_STATES", "END_RUN", "SET_STUCK", "SELECT_HANDLERS",
     "SELECT_READY", "SELECT_NEXT_DUE", "SELECT_BODY", "SELECT_OLDEST_UNFINISHED", "DROP_BODY",
     "DROP_DELIVERY", "DELETE_OPEN_RUNS", "DELETE_ATTEMPTS", "SELECT_ATTEMPTS", "SELECT_RUNS",
     "END_ATTEMPT", "RETRY_RUN", "SET_STATE_OF_SINGLE", "MOVE_ATTEMPTS", "CLEAR_LAST_ATTEMPT",
     "DELETE_GROUPS", "DELETE_DELIVERY"],
)  # fmt: skip
def test_frequent_statements_scan_no_whole_table(store: SqliteStore, name: str) -> None:
    sql = getattr(schema, name)
    count = 1 if "?1" in sql else sql.count("?")
    steps = [row[3] for row in ask(store, f"EXPLAIN QUERY PLAN {sql}", *"1" * count)]
    assert any("SEARCH" in step for step in steps)
    assert not [
        step for step in steps if re.search("SCAN (deliveries|open_runs|attempts|bodies)$", step)
    ]


# ---- leadership ---------------------------------------------------------------------------------

HOLD = """
    import sys
    from hubhooks._store.leader import LeaderLock
    lock = LeaderLock(sys.argv[1])
    print(lock.try_acquire(), flush=True)
    sys.stdin.read()
"""


def test_one_of_many_processes_holds_the_lock(path: Path) -> None:
    lock, other = LeaderLock(path), LeaderLock(path)
    assert (lock.is_held, lock.try_acquire(), lock.is_held) == (False, True, True)
    assert (lock.try_acquire(), other.try_acquire(), other.is_held) == (True, False, False)
    with child(HOLD, path) as process:
        assert read_line(process) == "False"
    lock.release()
    lock.release()
    assert (lock.is_held, other.try_acquire()) == (False, True)
    other.release()


def test_reopening_the_files_releases_no_lock(path: Path) -> None:
    with opened(path) as store:
        lock = LeaderLock(path)
        assert lock.try_acquire()
        assert not LeaderLock(path).try_acquire()
        with opened(path, runs=False):
            pass
        with store.transaction():
            store.accept("d1", b"{}", ["a"])
            with child(HOLD, path) as process:
                assert read_line(process) == "False"
            code = """
                import sys
                from hubhooks.errors import BusyError
                from hubhooks._store.sqlite import SqliteStore
                store = SqliteStore(sys.argv[1])
                store.open()
                try:
                    store.recover()
                except BusyError:
                    print("busy", flush=True)
            """
            with child(code, path) as process:
                assert read_line(process) == "busy"
        lock.release()
    assert state(store, "d1") == "queued"


def test_lock_of_a_killed_process_is_free(path: Path) -> None:
    lock = LeaderLock(path)
    for _ in range(3):
        with child(HOLD, path) as process:
            assert read_line(process) == "True"
            assert not lock.try_acquire()
            process.send_signal(signal.SIGKILL)
            assert process.wait(PATIENCE) == -signal.SIGKILL
        assert lock.try_acquire()
        lock.release()


def test_unusable_lock_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.db\.runner` cannot be created"):
        LeaderLock(tmp_path / "no" / "x.db").try_acquire()
    (tmp_path / "y.db.runner").write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match=r"y\.db\.runner` is not an SQLite file"):
        LeaderLock(tmp_path / "y.db").try_acquire()


def test_success_keeps_the_error_of_an_earlier_attempt(store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    store.finish_run(start(store, "d1"), "failed", "no token", "line 1", retry_after=0)
    store.flush()
    store.finish_run(start(store, "d1"), "succeeded")
    store.flush()
    (kept,) = stored(store, "d1").runs
    assert (kept.state, kept.error) == ("succeeded", "")
    assert [(each.number, each.state, each.error, each.traceback) for each in kept.history] == [
        (1, "failed", "no token", "line 1"),
        (2, "succeeded", "", ""),
    ]
    assert all(each.finished_at >= each.started_at for each in kept.history)


def test_replay_keeps_attempts(store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a", "b"])
    for handler in ("a", "b"):
        store.finish_run(start(store, "d1", handler), "failed", f"error of {handler}")
    store.flush()
    assert store.replay("d1", ["a"]) == ("a",)
    running = start(store, "d1")
    kept = {each.handler: each for each in stored(store, "d1").runs}
    assert [(each.state, each.error) for each in kept["b"].history] == [("failed", "error of b")]
    assert [each.state for each in kept["a"].history] == ["failed", "running"]
    store.finish_run(running, "succeeded")
    store.flush()
    kept = {each.handler: each for each in stored(store, "d1").runs}
    assert {name: each.state for name, each in kept.items()} == {"a": "succeeded", "b": "failed"}
    assert [each.error for each in kept["a"].history] == ["error of a", ""]


def test_acknowledgement_stays_if_the_attempt_was_given_up(store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    with store.transaction():
        store.accept("d2", b"{}", ["a"])
        attempt = store.claim("d2", "a")
        assert attempt is not None
    # Another process took over the run.
    with store.transaction():
        ask(store, "UPDATE open_runs SET attempts = 2 WHERE seq = 2")
    store.mark_acknowledged("d2", delivered=True)
    store.finish_run(attempt, "succeeded")
    store.flush()
    kept = stored(store, "d2")
    assert (kept.state, kept.is_acknowledged) == ("running", True)


@pytest.mark.parametrize("first", ["d1", "d2"])
def test_delivery_twice_in_a_batch_is_stored_once(store: SqliteStore, first: str) -> None:
    store.accept("d1", b"{}", (), "unhandled")
    with store.transaction():
        store.expect({"d1", "d2", None})
        for body in (b"1", b"22"):
            assert store.accept(first, body, (), "unhandled").status == "unhandled"
    assert [each.id for each in store.list()] == [first, *({"d1"} - {first})]
    assert store.body(first) == b"22"
    assert store.stats().body_bytes == (2 if first == "d1" else 4)


def test_attempts_stay_if_a_delivery_is_twice_in_a_batch(store: SqliteStore) -> None:
    store.accept("d1", b"{}", ["a"])
    run(store, "d1", ending="failed")
    with store.transaction():
        for body in (b"1", b"22"):
            assert store.accept("d1", body, (), "malformed").status == "malformed"
    kept = stored(store, "d1")
    assert [(each.handler, each.state) for each in kept.runs] == [("a", "failed")]
    assert len(kept.runs[0].history) == 1


def test_run_of_a_replaced_file_ends_in_its_own_delivery(
    store: SqliteStore, path: Path, tmp_path: Path
) -> None:
    store.accept("d0", b"{}", ["a"])
    store.backup(str(tmp_path / "copy.db"))
    store.accept("d1", b"{}", ["a"])
    old = start(store, "d1")
    store.flush()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    (tmp_path / "copy.db").replace(path)
    store.accept("d2", b"{}", ["a"])
    store.recover()
    assert start(store, "d2") is not None
    store.finish_run(old, "succeeded")
    store.flush()
    assert stored(store, "d2").runs[0].state == "running"
