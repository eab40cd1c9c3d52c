"""Stores that an older hubhooks wrote: one of each older schema."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, ROOT

from hubhooks._store import schema
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks.admin.delivery_json import delivery_json

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURES = Path(__file__).parent / "fixtures"
# The states and keys of these files, and their present names.
NEW_STATES = {
    "waiting": "retrying", "overdue": "stuck", "done": "succeeded", "unreadable": "malformed",
}  # fmt: skip
NEW_KEYS = {"is_delivered": "is_acknowledged", "interruptions": "crashes"}


def with_new_names(value: Any, key: str = "") -> Any:
    """Translate the content of a delivery, but not its body."""
    if isinstance(value, dict):
        return {
            NEW_KEYS.get(name, name): item if name == "body" else with_new_names(item, name)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [with_new_names(item) for item in value]
    return NEW_STATES.get(value, value) if key == "state" else value


# The content of each file after the migration. The files themselves are never changed.
OLD: dict[str, Any] = json.loads((FIXTURES / "store-1.json").read_text("utf-8"))
EXPECTED: dict[str, Any] = {
    **OLD,
    "deliveries": {name: with_new_names(one) for name, one in OLD["deliveries"].items()},
    "states": {NEW_STATES.get(state, state): count for state, count in OLD["states"].items()},
}
KEEP_DAYS = 100_000


@pytest.fixture(params=["store-1.db", "store-2.db"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "hubhooks.db"
    shutil.copyfile(FIXTURES / request.param, path)
    yield path
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def check_content(store: SqliteStore) -> None:
    found = {delivery.id: store.get(delivery.id) for delivery in store.list(limit=100)}
    for delivery_id, expected in EXPECTED["deliveries"].items():
        delivery = found.pop(delivery_id)
        assert delivery is not None
        made = json.loads(json.dumps(delivery_json(delivery, is_whole=True)))
        for run in made["runs"]:
            # The last attempt of a run that was started.
            assert len(run.pop("history")) == min(run["attempts"], 1)
        assert {key: made[key] for key in expected} == expected, delivery_id
    assert not found
    stats = store.stats()
    assert stats.states == EXPECTED["states"]
    assert stats.rejections == EXPECTED["refusals"]
    assert stats.body_bytes == EXPECTED["body_bytes"]


def open_store(path: Path) -> SqliteStore:
    store = SqliteStore(path, keep_days=KEEP_DAYS)
    store.open()
    return store


def test_old_store_keeps_every_delivery(path: Path) -> None:
    store = open_store(path)
    check_content(store)
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    assert version == len(schema.MIGRATIONS)


def test_old_store_can_be_used(path: Path) -> None:
    lock = LeaderLock(path)
    assert lock.try_acquire()
    store = SqliteStore(path, keep_days=KEEP_DAYS, lock=lock)
    store.open()
    interrupted = {(delivery_id, handler) for delivery_id, handler, _ in store.recover()}
    assert interrupted == {("running", "review"), ("overdue", "reply")}
    # Queued runs start, and acknowledged deliveries stay acknowledged.
    run = store.claim("queued", "audit")
    assert run is not None
    store.finish_run(run, "succeeded")
    store.flush()
    assert store.accept("done", b"{}", ["retrain"]).status == "accepted"
    assert store.accept("duplicate", b"{}", ["retrain"]).status == "duplicate"
    assert store.accept("failed", b"{}", ["retrain"]).handlers == ("retrain",)
    delivery = store.get("queued")
    assert delivery is not None
    assert [len(run.history) for run in delivery.runs] == [0, 1]
    store.close()
    lock.release()


MIGRATES = """
import sys
from hubhooks._store import schema, sqlite

# The step stops at this statement.
*steps, last = schema.MIGRATIONS
at = int(sys.argv[2])
wait = "SELECT pause()"
schema.MIGRATIONS = (*steps, (*last[:at], wait, *last[at:]))
connect = sqlite.Database._connect.__globals__["sqlite3"].connect

def connect_with_pause(*arguments, **options):
    connection = connect(*arguments, **options)

    def pause():
        print("paused", flush=True)
        sys.stdin.read()

    connection.create_function("pause", 0, pause)
    return connection

sqlite.Database._connect.__globals__["sqlite3"].connect = connect_with_pause
store = sqlite.SqliteStore(sys.argv[1])
store.open()
"""


@pytest.mark.parametrize("at", range(len(schema.MIGRATIONS[-1]) + 1))
def test_killed_migration_is_resumed(path: Path, at: int) -> None:
    environ = {"PYTHONPATH": str(ROOT / "python")}
    process = subprocess.Popen(
        [sys.executable, "-c", MIGRATES, str(path), str(at)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"paused\n"
    process.kill()
    process.wait(PATIENCE)
    process.stdin.close()
    process.stdout.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS) - 1,)
    store = open_store(path)
    check_content(store)
    store.close()
