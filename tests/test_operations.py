"""Operations: readiness, metrics, copies of a live store, and stores that do not survive."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, Server, started
from test_cli import ENVIRONMENT

from hubhooks._samples import compact, sample_json
from hubhooks.errors import ConfigError, StoreError
from hubhooks.sqlite import SqliteLog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "a long word of the admin"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
BODY = compact(sample_json("repo.content.update"))
ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": None, "HUBHOOKS_ADMIN_TOKEN": TOKEN}
# A run goes on as long as its file is there.
APP = """
import os, time
from hubhooks import Webhooks

app = Webhooks()

@app.on("repo.content")
def handle(event, delivery):
    while os.path.exists(f"hold-{delivery.id}"):
        time.sleep(0.01)
"""


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[SqliteLog]:
    store = SqliteLog(path, **options)
    store.open()
    try:
        store.recover()
        yield store
    finally:
        store.close()


def deliver(server: Server, *delivery_ids: str, path: str = "/") -> None:
    for delivery_id in delivery_ids:
        answer = server.post(path, BODY, headers={"Webhook-Id": delivery_id})
        assert answer.status_code == 202, answer.text


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `hubhooks deliveries` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "hubhooks.cli", "deliveries", *words],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def is_ended(store: SqliteLog, delivery_id: str) -> bool:
    record = store.get(delivery_id)
    return record is not None and not record.is_open


# ---- copies of a live store ----------------------------------------------------------------------


def test_backup_copies_the_store_of_a_running_app(tmp_path: Path) -> None:
    (tmp_path / "hold-d2").touch()
    with started(tmp_path, script=APP, environ=ON_DISK) as server:
        deliver(server, "d1", "d2")
        store = SqliteLog(tmp_path / "hubhooks.db")
        server.wait_until(lambda: is_ended(store, "d1"), "does not run it")
        done = command(tmp_path, "backup", "copy.db")
        assert (done.returncode, done.stdout, done.stderr) == (0, "copy.db\n", "")
        copy = tmp_path / "copy.db"
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.glob("copy.db*")] == ["copy.db"]
        listed = command(tmp_path, "list", "--json", "--file", "copy.db").stdout.splitlines()
        states = {row["id"]: row["state"] for row in map(json.loads, listed)}
        assert states == {"d1": "done", "d2": "running"}
        # The process that the copy was made from is alive, and has nothing to do with the copy.
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        copy.rename(elsewhere / "hubhooks.db")
        with started(elsewhere, script=APP, environ=ON_DISK) as other:
            copied = SqliteLog(elsewhere / "hubhooks.db")

            def leads() -> bool:
                leader = copied.leader()
                return leader is not None and leader.process.pid == other.pid

            other.wait_until(leads, "does not lead the copy")
        (tmp_path / "hold-d2").unlink()


def test_backup_never_writes_over_a_file(tmp_path: Path) -> None:
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, ("handle",))
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("mine", "link", "folder", "hubhooks.db", "hubhooks.db-wal", "hubhooks.db.runner"):
        there = sorted(path.name for path in tmp_path.iterdir())
        done = command(tmp_path, "backup", name)
        assert (done.returncode, done.stdout) == (2, ""), name
        assert f"`{name}` exists already" in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == there
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "no/such/folder/copy.db", "a\0b"])
def test_backup_to_a_path_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, ("handle",))
        with pytest.raises(ConfigError):
            store.backup(name and str(tmp_path / name))


def test_backup_to_a_name_that_sqlite_reads_in_its_own_way_is_a_file(tmp_path: Path) -> None:
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, ("handle",))
    assert command(tmp_path, "backup", ":memory:").returncode == 0
    with closing(sqlite3.connect(tmp_path / "./:memory:")) as copy:
        assert copy.execute("SELECT id FROM deliveries").fetchall() == [("d1",)]


def test_backup_of_no_store_makes_no_file(tmp_path: Path) -> None:
    assert command(tmp_path, "backup", "copy.db").returncode == 2
    (tmp_path / "hubhooks.db").write_bytes(b"no database, and long enough to be one " * 100)
    assert command(tmp_path, "backup", "copy.db").returncode != 0
    assert not list(tmp_path.glob("copy*"))


def test_backup_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, ("handle",))
        monkeypatch.setattr("hubhooks._database.is_sound", lambda _: False)
        with pytest.raises(StoreError, match="is damaged"):
            store.backup(str(tmp_path / "copy.db"))
    assert not list(tmp_path.glob("copy*"))


def test_backup_ends_while_the_app_writes_all_the_time(tmp_path: Path) -> None:
    path = tmp_path / "hubhooks.db"
    with opened(path) as store:
        for number in range(300):
            store.accept(f"d{number}", BODY + b" " * 20_000, ("handle",))
        is_over = threading.Event()
        failures: list[BaseException] = []

        def copy() -> None:
            try:
                store.backup(str(tmp_path / "copy.db"))
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)
            finally:
                is_over.set()

        thread = threading.Thread(target=copy)
        thread.start()
        written = 0
        while not is_over.is_set():
            store.accept(f"more-{written}", BODY, ("handle",))
            written += 1
        thread.join(PATIENCE)
        assert failures == []
        assert written > 0
    with opened(tmp_path / "copy.db") as copied:
        found = [record.id for record in copied.list(limit=100_000)]
    # All deliveries up to one moment, and none of after it.
    order = [*(f"d{n}" for n in range(300)), *(f"more-{n}" for n in range(written))]
    assert found[::-1] == order[: len(found)]
    assert len(found) >= 300
