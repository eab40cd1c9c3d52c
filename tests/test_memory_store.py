"""A store in memory: one connection for all threads, and its limits."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from servers import PATIENCE, ROOT, wait_until

from hubhooks import Webhooks, testing
from hubhooks._store.memory import MemoryLimits
from hubhooks._store.sqlite import SqliteStore
from hubhooks._worker.worker import Worker
from hubhooks.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path


def bodies(store: SqliteStore) -> dict[str, int]:
    return {delivery.id: len(store.body(delivery.id) or b"") for delivery in store.list()}


def test_store_works_before_open_and_after_close() -> None:
    store = SqliteStore(":memory:")
    assert store.list() == []
    store.accept("d1", b"{}", (), "unhandled")
    store.close()
    store.open()
    assert [delivery.id for delivery in store.list()] == ["d1"]
    assert (store.path, store.is_leader, store.has_deferred) == ("", True, False)


def test_store_creates_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SqliteStore(":memory:")
    store.open()
    store.accept("d1", b"{}", ["a"])
    store.close()
    assert list(tmp_path.iterdir()) == []


def test_two_stores_are_independent() -> None:
    first, second = SqliteStore(":memory:"), SqliteStore(":memory:")
    first.accept("d1", b"{}", ["a"])
    assert second.list() == []


def test_thread_reads_after_the_open_transaction() -> None:
    store = SqliteStore(":memory:")
    begun, found = threading.Event(), []

    def read() -> None:
        begun.set()
        found.append([delivery.id for delivery in store.list()])

    reader = threading.Thread(target=read)
    with store.transaction():
        store.accept("d1", b"{}", ["a"])
        reader.start()
        assert begun.wait(PATIENCE)
        store.accept("d2", b"{}", ["a"])
        assert found == []
    reader.join(PATIENCE)
    assert found == [["d2", "d1"]]


def test_many_threads_end_runs() -> None:
    store = SqliteStore(":memory:")
    names = [f"h{number}" for number in range(20)]
    ids = [f"d{number}" for number in range(20)]
    for delivery_id in ids:
        store.accept(delivery_id, b"{}", names)
    runs = [store.claim(delivery_id, name) for delivery_id in ids for name in names]

    def end(part: int) -> None:
        for run in runs[part::4]:
            assert run is not None
            store.finish_run(run, "succeeded")  # type: ignore[arg-type]

    threads = [threading.Thread(target=end, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        store.list_ready(10)
        store.stats()
    assert store.stats().states == {"succeeded": 20}


def test_failed_transaction_is_rolled_back() -> None:
    store = SqliteStore(":memory:", limits=MemoryLimits(keep=2, keep_bytes=100, hold_bytes=10))
    store.accept("d1", b"1", (), "unhandled")
    store.accept("d2", b"22", (), "unhandled")

    def fail() -> None:
        with store.transaction():
            store.accept("d3", b"333", (), "unhandled")
            store.accept("d4", b"4444444", ["a"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert bodies(store) == {"d2": 2, "d1": 1}
    assert store.stats().body_bytes == 3
    store.accept("d5", b"5555555555", ["a"])
    with pytest.raises(StoreError, match="unfinished deliveries take 10 bytes of memory"):
        store.accept("d6", b"6", ["a"])
    store.accept("d7", b"7", (), "unhandled")
    assert bodies(store) == {"d7": 1, "d5": 10, "d2": 2}


def test_unused_store_loads_no_sqlite() -> None:
    code = """
import sys
from hubhooks import Webhooks
hooks = Webhooks("moon", deliveries=":memory:")
assert "sqlite3" not in sys.modules
hooks.deliveries.list()
assert "sqlite3" in sys.modules
"""
    environ = {"PYTHONPATH": str(ROOT / "python")}
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environ, check=True)


def test_drain_starts_a_retry_that_became_due_during_a_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    poll = Worker.poll_now

    def poll_and_wait(worker: Worker) -> None:
        poll(worker)
        # The started run has failed before the worker looks again.
        wait_until(lambda: worker._executor.unfinished.is_zero)  # noqa: SLF001 - nothing else shows it

    monkeypatch.setattr(Worker, "poll_now", poll_and_wait)
    hooks = Webhooks()
    calls: list[object] = []

    @hooks.on("repo", name="handle", retries=3)
    def handle(event: object) -> None:
        calls.append(event)
        if len(calls) <= 3:
            raise ValueError

    run = testing.TestClient(hooks).send("repo.create")["handle"]
    assert (run.state, run.attempt) == ("succeeded", 4)
