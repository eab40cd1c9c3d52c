"""Operations: readiness, metrics, copies of a live store, and stores that do not survive."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, Server, started, wait_until
from test_cli import ENVIRONMENT

from hubhooks._samples import compact, sample_json
from hubhooks._store import clock, file_systems
from hubhooks._store import space as _space
from hubhooks._store.leader import LeaderLock
from hubhooks._store.memory import MemoryLimits
from hubhooks._store.sqlite import SqliteStore
from hubhooks.admin import operations as _operations
from hubhooks.admin.queries import Activity
from hubhooks.errors import ConfigError, StoreError
from hubhooks.routing import Router

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hubhooks._store.base import DeliveryStore

TOKEN = "a long word of the admin"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
BODY = compact(sample_json("repo.content.update"))
ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": None, "HUBHOOKS_ADMIN_TOKEN": TOKEN}
# A run goes on as long as its file is there.
APP = """
import os, time
from hubhooks import Webhooks

app = hooks = Webhooks()

@hooks.on("repo.content", concurrency=1)
def handle(event, context):
    while os.path.exists(f"hold-{context.id}"):
        time.sleep(0.01)
"""
FASTAPI = f"""{APP}
from fastapi import FastAPI

app = FastAPI()
app.include_router(hooks.router("/webhooks/hub"))
"""
# Starlette does not start or stop an app that is mounted.
MOUNTED = f"""{APP}
from starlette.applications import Starlette
from starlette.routing import Mount

app = Starlette(routes=[Mount("/mounted", hooks)])
"""
READY, METRICS = "/deliveries/-/ready", "/deliveries/-/metrics"


@contextmanager
def opened(path: Path, **options: Any) -> Iterator[SqliteStore]:
    store = SqliteStore(path, **options)
    store.open()
    try:
        store.recover()
        yield store
    finally:
        store.close()


def deliver(server: Server, *delivery_ids: str, path: str = "/") -> None:
    for delivery_id in delivery_ids:
        response = server.post(path, BODY, headers={"Webhook-Id": delivery_id})
        assert response.status_code == 202, response.text


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `hubhooks deliveries` in a separate process."""
    return subprocess.run(
        [sys.executable, "-m", "hubhooks.cli", "deliveries", *words],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def is_ended(store: SqliteStore, delivery_id: str) -> bool:
    stored = store.get(delivery_id)
    return stored is not None and not stored.is_open


# ---- copies of a live store ----------------------------------------------------------------------


def test_backup_copies_the_store_of_a_running_app(tmp_path: Path) -> None:
    (tmp_path / "hold-d2").touch()
    with started(tmp_path, script=APP, environ=ON_DISK) as server:
        deliver(server, "d1", "d2")
        store = SqliteStore(tmp_path / "hubhooks.db")
        server.wait_until(lambda: is_ended(store, "d1"), "does not run it")
        done = command(tmp_path, "backup", "copy.db")
        assert (done.returncode, done.stdout, done.stderr) == (0, "copy.db\n", "")
        copy = tmp_path / "copy.db"
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.glob("copy.db*")] == ["copy.db"]
        listed = command(tmp_path, "list", "--json", "--file", "copy.db").stdout.splitlines()
        states = {row["id"]: row["state"] for row in map(json.loads, listed)}
        assert states == {"d1": "succeeded", "d2": "running"}
        # The process of the original store is alive, and does not use the copy.
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        copy.rename(elsewhere / "hubhooks.db")
        with started(elsewhere, script=APP, environ=ON_DISK) as other:
            copied = SqliteStore(elsewhere / "hubhooks.db")

            def leads() -> bool:
                leader = copied.leader()
                return leader is not None and leader.process.pid == other.pid

            other.wait_until(leads, "does not lead the copy")
        (tmp_path / "hold-d2").unlink()


@pytest.mark.slow
def test_backup_overwrites_no_file(tmp_path: Path) -> None:
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, ("handle",))
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("mine", "link", "folder", "hubhooks.db", "hubhooks.db-wal", "hubhooks.db.runner"):
        there = sorted(path.name for path in tmp_path.iterdir())
        done = command(tmp_path, "backup", name)
        assert (done.returncode, done.stdout) == (2, ""), name
        assert f"`{name}` already exists" in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == there
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "no/such/folder/copy.db", "a\0b"])
def test_backup_to_an_invalid_path_is_an_error(tmp_path: Path, name: str) -> None:
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, ("handle",))
        with pytest.raises(ConfigError):
            store.backup(name and str(tmp_path / name))


def test_backup_to_a_special_sqlite_name_is_a_file(tmp_path: Path) -> None:
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, ("handle",))
    assert command(tmp_path, "backup", ":memory:").returncode == 0
    with closing(sqlite3.connect(tmp_path / "./:memory:")) as copy:
        assert copy.execute("SELECT id FROM deliveries").fetchall() == [("d1",)]


def test_backup_without_a_store_creates_no_file(tmp_path: Path) -> None:
    assert command(tmp_path, "backup", "copy.db").returncode == 2
    (tmp_path / "hubhooks.db").write_bytes(b"no database, and long enough to be one " * 100)
    assert command(tmp_path, "backup", "copy.db").returncode != 0
    assert not list(tmp_path.glob("copy*"))


def test_failed_backup_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, ("handle",))
        monkeypatch.setattr("hubhooks._store.connection.is_sound", lambda _: False)
        with pytest.raises(StoreError, match="is damaged"):
            store.backup(str(tmp_path / "copy.db"))
    assert not list(tmp_path.glob("copy*"))


def test_backup_ends_under_constant_writes(tmp_path: Path) -> None:
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
        found = [stored.id for stored in copied.list(limit=100_000)]
    # All deliveries up to one moment, and no later one.
    order = [*(f"d{n}" for n in range(300)), *(f"more-{n}" for n in range(written))]
    assert found[::-1] == order[: len(found)]
    assert len(found) >= 300


# ---- readiness -----------------------------------------------------------------------------------


def readiness(server: Server, path: str = "") -> tuple[int, dict[str, Any]]:
    response = server.request(f"{path}{READY}", headers=ADMIN)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    return response.status_code, response.json()


@pytest.mark.parametrize(
    ("script", "path", "is_durable"),
    [
        (APP, "", True),
        (APP, "", False),
        (FASTAPI, "/webhooks/hub", True),
        (MOUNTED, "/mounted", True),
        (MOUNTED, "/mounted", False),
    ],
    ids=["bare", "bare in memory", "fastapi", "mounted", "mounted in memory"],
)
def test_app_that_stores_and_runs_is_ready(
    tmp_path: Path, script: str, path: str, is_durable: bool
) -> None:
    environ = {**ON_DISK, "HUBHOOKS_DELIVERIES": None if is_durable else ":memory:"}
    with started(tmp_path, script=script, environ=environ) as server:
        status, data = readiness(server, path)
        assert (status, data["is_ready"], data["reason"]) == (200, True, None)
        assert (data["is_store_writable"], data["is_durable"]) == (True, is_durable)
        leader = data["leader"]
        assert (leader["is_alive"], leader["pid"], leader["is_this_process"]) == (
            True, server.pid, True,
        )  # fmt: skip
        assert (leader["since"] is not None, leader["code"] is not None) == (is_durable,) * 2
        assert (data["waiting_runs"], data["oldest_queued_run_seconds"]) == (0, None)
        (tmp_path / "hold-d1").touch()
        deliver(server, "d1", "d2", "d3", path=f"{path}/")

        def waits() -> bool:
            data = readiness(server, path)[1]
            return data["waiting_runs"] == 2 and data["oldest_queued_run_seconds"] > 0

        server.wait_until(waits, "does not show the runs that wait")
        (tmp_path / "hold-d1").unlink()


@pytest.mark.parametrize("path", [READY, METRICS])
def test_readiness_and_metrics_are_closed_by_default(tmp_path: Path, path: str) -> None:
    for token in (TOKEN, None):
        environ = {"HUBHOOKS_ADMIN_TOKEN": token}
        with started(tmp_path, script=FASTAPI, environ=environ) as server:
            url = f"/webhooks/hub{path}"
            if token is None:
                assert server.request(url, headers=ADMIN).status_code == 404
                continue
            assert server.request(url).status_code == 401
            assert server.request(f"{url}?token={TOKEN}").status_code == 401
            wrong = {"Authorization": "Bearer a wrong word of the admin"}
            assert server.request(url, headers=wrong).status_code == 403
            assert server.request(url, headers=ADMIN).status_code == 200
            assert server.request(url, "POST", headers=ADMIN).status_code != 200


def test_readiness_hides_no_delivery(tmp_path: Path) -> None:
    with started(tmp_path, script=APP, environ=ON_DISK) as server:
        ids = ("-", "-/ready", "ready", "-/metrics")
        deliver(server, *ids)
        for delivery_id in ids:
            name = delivery_id.replace("/", "%2F")
            assert server.request(f"/deliveries/{name}", headers=ADMIN).json()["id"] == delivery_id


def test_readiness_writes_nothing(tmp_path: Path) -> None:
    with started(tmp_path, script=APP, environ=ON_DISK) as server:
        readiness(server)
        with closing(sqlite3.connect(tmp_path / "hubhooks.db")) as connection:
            (before,) = connection.execute("PRAGMA data_version").fetchone()
            for _ in range(20):
                assert readiness(server)[0] == 200
            assert connection.execute("PRAGMA data_version").fetchone() == (before,)


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit as Linux has it")
def test_app_with_a_full_disk_is_not_ready(tmp_path: Path) -> None:
    script = (
        APP
        + """
import resource, threading

def limit():
    while True:
        size = int(open("limit").read() or -1) if os.path.exists("limit") else -1
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))
        time.sleep(0.005)

threading.Thread(target=limit, daemon=True).start()
"""
    )
    with started(tmp_path, script=script, environ=ON_DISK) as server:
        deliver(server, "d1")
        store = SqliteStore(tmp_path / "hubhooks.db")
        server.wait_until(lambda: is_ended(store, "d1"), "does not run it")
        new = tmp_path / "new"
        new.write_text("1000")
        new.rename(tmp_path / "limit")

        def is_rejected() -> bool:
            return server.post("/", BODY + b" " * 50_000).status_code == 503

        server.wait_until(is_rejected, "stores it")
        status, data = readiness(server)
        assert (status, data["is_ready"], data["is_store_writable"]) == (503, False, False)
        assert "hubhooks.db" in data["reason"]
        assert "hubhooks_ready 0" in server.request(METRICS, headers=ADMIN).text.splitlines()
        # Readiness recovers without a delivery: a server that is not ready may get none.
        (tmp_path / "limit").unlink()
        server.wait_until(lambda: readiness(server)[0] == 200, "is never ready again")
        deliver(server, "d2")


def test_app_with_a_replaced_store_is_not_ready(tmp_path: Path) -> None:
    with started(tmp_path, script=APP, environ=ON_DISK) as server:
        deliver(server, "d1")
        other = tmp_path / "other"
        other.mkdir()
        named = {**ON_DISK, "HUBHOOKS_APP_NAME": "another"}
        with started(other, script=APP, environ=named) as second:
            deliver(second, "x1")
        for suffix in ("-wal", "-shm"):
            (tmp_path / f"hubhooks.db{suffix}").unlink(missing_ok=True)
        (other / "hubhooks.db").replace(tmp_path / "hubhooks.db")
        server.wait_until(lambda: readiness(server)[0] == 503, "is ready all the same")
        assert "another" in readiness(server)[1]["reason"]


def test_app_with_a_locked_store_is_not_ready(tmp_path: Path) -> None:
    with started(tmp_path, script=APP, environ=ON_DISK) as server:
        readiness(server)
        with closing(sqlite3.connect(tmp_path / "hubhooks.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            status, data = readiness(server)
            assert (status, data["is_store_writable"]) == (503, False)
            assert "locked by another program" in data["reason"]
            other.execute("ROLLBACK")
        assert readiness(server)[0] == 200


def test_app_without_a_secret_is_not_ready(tmp_path: Path) -> None:
    environ = {**ON_DISK, "WEBHOOK_SECRET": None}
    with started(tmp_path, script=MOUNTED, environ=environ) as server:
        status, data = readiness(server, "/mounted")
        assert status == 503
        assert "WEBHOOK_SECRET" in data["reason"]


def test_app_full_of_unfinished_runs_is_not_ready() -> None:
    store = SqliteStore(":memory:", limits=MemoryLimits(hold_bytes=3000))
    store.accept("d1", b" " * 2000, ("handle",))
    store.check_writable()
    with pytest.raises(StoreError):
        store.accept("d2", b" " * 2000, ("handle",))
    with pytest.raises(StoreError):
        store.check_writable()
    delivery = store.claim("d1", "handle")
    assert delivery is not None
    store.finish_run(delivery, "succeeded")
    store.check_writable()
    store.accept("d2", b" " * 2000, ("handle",))


def test_store_full_of_unfinished_runs_is_not_writable(tmp_path: Path) -> None:
    with opened(tmp_path / "hubhooks.db", max_bytes=3000) as store:
        store.accept("d1", b" " * 2000, ("handle",))
        store.check_writable()
        with pytest.raises(StoreError):
            store.accept("d2", b" " * 2000, ("handle",))
        with pytest.raises(StoreError, match="full of unfinished deliveries"):
            store.check_writable()
        delivery = store.claim("d1", "handle")
        assert delivery is not None
        store.finish_run(delivery, "succeeded")
        store.flush()

        def is_writable() -> bool:
            try:
                store.check_writable()
            except StoreError:
                return False
            return True

        wait_until(is_writable)
        store.accept("d2", b" " * 2000, ("handle",))


def test_other_process_shows_the_leader(tmp_path: Path) -> None:
    with (
        started(tmp_path, script=APP, environ=ON_DISK) as first,
        started(tmp_path, script=APP, environ=ON_DISK) as second,
    ):
        status, data = readiness(second)
        leader = data["leader"]
        assert (status, leader["is_alive"]) == (200, True)
        assert (leader["pid"], leader["is_this_process"]) == (first.pid, False)
        first.kill()
        second.wait_until(
            lambda: (readiness(second)[1]["leader"] or {}).get("pid") == second.pid,
            "does not lead",
        )
        assert readiness(second)[0] == 200


def test_store_without_a_living_leader_has_none(tmp_path: Path) -> None:
    with started(tmp_path, script=APP, environ=ON_DISK) as server:
        server.kill()
    store = SqliteStore(tmp_path / "hubhooks.db", lock=LeaderLock(tmp_path / "hubhooks.db"))
    leader = store.leader()
    assert leader is not None
    assert not store.is_leader_alive(leader)
    activity = Activity(store, Router(), lambda: None, lambda: None)

    async def not_ready_reason() -> str:
        return ""

    data = _operations.readiness(asyncio.run(_operations.check(activity, not_ready_reason)))
    assert (data["is_ready"], data["leader"]["is_alive"]) == (False, False)
    assert "has no living leader" in data["reason"]


# ---- the age of the oldest run -------------------------------------------------------------------


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeliveryStore]:
    if request.param == "memory":
        yield SqliteStore(":memory:")
    else:
        with opened(tmp_path / "hubhooks.db") as made:
            yield made


def age(store: DeliveryStore) -> float | None:
    since = store.backlog().startable_since
    return None if since is None else (datetime.now(timezone.utc) - since).total_seconds()


def make_old(store: DeliveryStore, delivery_id: str) -> None:
    """Make a delivery one day older."""
    database: Any = store._db  # noqa: SLF001 - in memory there is no other way
    with database.transaction():
        database.execute("UPDATE deliveries SET received_at = received_at - 86400")


def test_age_of_a_replayed_run_starts_at_its_replay(store: DeliveryStore) -> None:
    store.accept("d1", BODY, ("handle",))
    delivery = store.claim("d1", "handle")
    assert delivery is not None
    store.finish_run(delivery, "failed")
    store.flush()
    make_old(store, "d1")
    assert store.backlog() == ({}, None)
    assert store.replay("d1") == ("handle",)
    assert store.backlog().runs == {"handle": 1}
    waited = age(store)
    assert waited is not None
    assert waited < PATIENCE
    stored = store.get("d1")
    assert stored is not None
    assert stored.runs[0].due_at is None
    assert store.list_ready(1) == [("d1", "handle")]


def test_age_of_a_reassigned_run_starts_at_its_replay(tmp_path: Path) -> None:
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, ("old",))
        make_old(store, "d1")
        waited = age(store)
        assert waited is not None
        assert waited > 80_000
        assert store.replay_as("d1", ["old"], "new")
        waited = age(store)
        assert waited is not None
        assert waited < PATIENCE
        assert store.list_ready(1) == [("d1", "new")]


def test_retry_that_is_not_due_yet_has_no_age(store: DeliveryStore) -> None:
    store.accept("d1", BODY, ("handle",))
    delivery = store.claim("d1", "handle")
    assert delivery is not None
    store.finish_run(delivery, "failed", retry_after=1000)
    store.flush()
    assert store.backlog() == ({"handle": 1}, None)
    store.accept("d2", BODY, ("handle",))
    assert store.backlog().runs == {"handle": 2}
    assert age(store) is not None


def test_replayed_run_starts_after_the_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, (), "unhandled")
        assert store.replay("d1", ["handle"]) == ("handle",)
        monkeypatch.setattr(clock, "now", lambda: 1e9)
        assert store.list_ready(1) == [("d1", "handle")]


# ---- metrics -------------------------------------------------------------------------------------


def samples(text: str) -> dict[tuple[str, str], float]:
    """Read metrics as Prometheus does, by name and the values of their labels."""
    parser = pytest.importorskip("prometheus_client.parser")
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("is_durable", [True, False])
def test_metrics_have_the_prometheus_format(tmp_path: Path, is_durable: bool) -> None:
    environ = {**ON_DISK, "HUBHOOKS_DELIVERIES": None if is_durable else ":memory:"}
    (tmp_path / "hold-d1").touch()
    with started(tmp_path, script=FASTAPI, environ=environ) as server:
        deliver(server, "d1", "d2", "d3", path="/webhooks/hub")
        wrong = {"Authorization": "Bearer a wrong word of the admin"}
        assert server.request(f"/webhooks/hub{METRICS}", headers=wrong).status_code == 403

        def text() -> str:
            response = server.request(f"/webhooks/hub{METRICS}", headers=ADMIN)
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            return response.text

        waiting = ("hubhooks_waiting_runs", "handle")
        server.wait_until(lambda: samples(text())[waiting] == 2, "does not show what waits")
        found = samples(text())
        assert found["hubhooks_deliveries", "running"] == 1
        assert found["hubhooks_deliveries", "queued"] == 2
        # An alert needs the states without a delivery too.
        assert found["hubhooks_deliveries", "failed"] == 0
        assert found["hubhooks_rejected_requests", "admin token wrong"] == 1
        assert found["hubhooks_body_bytes", ""] == 3 * len(BODY)
        assert 0 < found["hubhooks_oldest_queued_run_age_seconds", ""] < PATIENCE
        for name in ("hubhooks_ready", "hubhooks_store_writable", "hubhooks_leader_alive"):
            assert found[name, ""] == 1
        assert [key for key in found if key[0] == "hubhooks_leader_info"]
        (tmp_path / "hold-d1").unlink()


def test_metrics_show_rejected_requests_and_runs_of_unknown_handlers(tmp_path: Path) -> None:
    odd = 'a "quoted" \\ name, é'
    with opened(tmp_path / "hubhooks.db") as store:
        store.count_rejections(1, "secret wrong", 2)
        store.accept("d1", BODY, (odd, "handle"))
        activity = Activity(store, Router(), lambda: None, lambda: None)
        health = _operations.Health((), True, True, None, store.backlog())
        found = samples(_operations.metrics(activity, health))
    assert found["hubhooks_rejected_requests", "secret wrong"] == 2
    assert found["hubhooks_waiting_runs", odd] == 1
    assert found["hubhooks_leader_alive", ""] == 0


# ---- alerts --------------------------------------------------------------------------------------


def test_cron_list_prints_only_failed_deliveries(tmp_path: Path) -> None:
    words = ("list", "--state", "failed", "--since", "1h", "--json")
    with opened(tmp_path / "hubhooks.db") as store:
        store.accept("d1", BODY, ("handle",))
        quiet = command(tmp_path, *words)
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
        delivery = store.claim("d1", "handle")
        assert delivery is not None
        store.finish_run(delivery, "failed")
        store.flush()
        assert json.loads(command(tmp_path, *words).stdout)["id"] == "d1"


# ---- a Space -------------------------------------------------------------------------------------

SPACE = {**ON_DISK, "SPACE_ID": "ada/tide"}
LOST = "hubhooks.db, which is lost when the Space restarts or sleeps: to keep"


@pytest.mark.parametrize("script", [APP, FASTAPI], ids=["bare", "fastapi"])
def test_start_in_a_space_warns_of_a_temporary_store(tmp_path: Path, script: str) -> None:
    with started(tmp_path, script=script, environ=SPACE) as server:
        output = server.wait_for(LOST)
        assert output.count("deliveries are stored in") == 1
        assert "set HUBHOOKS_DELIVERIES to a file on a persistent disk" in output


def test_first_delivery_in_a_space_warns_of_a_temporary_store(tmp_path: Path) -> None:
    with started(tmp_path, script=MOUNTED, environ=SPACE) as server:
        assert "deliveries are stored in" not in server.output()
        deliver(server, "d1", path="/mounted/")
        server.wait_for(LOST)


def test_start_in_a_space_warns_of_a_memory_store(tmp_path: Path) -> None:
    environ = {**SPACE, "HUBHOOKS_DELIVERIES": ":memory:"}
    with started(tmp_path, script=APP, environ=environ) as server:
        server.wait_for("deliveries are stored in memory: a restart loses unfinished deliveries")


def test_start_outside_a_space_does_not_warn(tmp_path: Path) -> None:
    with started(tmp_path, script=APP, environ={**ON_DISK, "SPACE_ID": None}) as server:
        deliver(server, "d1")
        assert "deliveries are stored in" not in server.output()


BLOCKS = """
import gradio as gr
from hubhooks import Webhooks

hooks = Webhooks()
with gr.Blocks() as demo:
    gr.Markdown("tide")
"""


@pytest.mark.parametrize(
    "launch",
    [
        "hooks.launch(demo, server_port={port})",
        "hooks.launch(demo, server_port={port}, quiet=True)",
        "demo.launch(server_port={port}, app_kwargs=hooks.app_kwargs())",
    ],
)
def test_launch_in_a_space_warns_once(tmp_path: Path, launch: str) -> None:
    pytest.importorskip("gradio")
    call = launch.replace("{port}", 'int(os.environ["PORT"])')
    script = f"import os{BLOCKS}{call}"
    environ = {**SPACE, "PORT": "{port}", "GRADIO_ANALYTICS_ENABLED": "False"}
    with started(tmp_path, "app.py", script=script, environ=environ) as server:
        output = server.wait_for(LOST)
        deliver_to = "/gradio_api/webhooks"
        assert server.post(deliver_to, BODY).status_code == 200
        assert readiness(server, deliver_to)[0] == 200
        output = server.output()
        assert output.lower().count("deliveries are stored in") == 1


@pytest.fixture
def in_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Pretend to be in a Space whose disk would be at a folder, and return that."""
    monkeypatch.setenv("SPACE_ID", "ada/tide")
    monkeypatch.setattr(_space, "_DISK", f"{tmp_path}/")
    return tmp_path


def describe(path: Path | str) -> str:
    return _space.describe_survival(SqliteStore(path))


@pytest.mark.skipif(sys.platform != "linux", reason="Spaces run on Linux")
def test_folder_of_a_space_without_a_disk_is_temporary(
    in_space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = Path("/dev/shm")
    if in_space.stat().st_dev != Path("/").stat().st_dev or not shared.is_dir():
        pytest.skip("the folder is on a disk of its own")
    output = describe(in_space / "hubhooks.db")
    assert (
        f"lost when the Space restarts or sleeps, because no disk is attached at {in_space}:"
        in output
    )
    # A folder on another device is a disk.
    monkeypatch.setattr(_space, "_DISK", "/dev/shm/")
    assert "continue after a restart" in describe("/dev/shm/hubhooks.db")


@pytest.mark.skipif(sys.platform != "linux", reason="Spaces run on Linux")
def test_bucket_of_a_space_survives_and_may_lose_deliveries(
    in_space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = in_space / "mountinfo"
    bucket = in_space / "bucket"
    mounts.write_text(f"22 1 0:21 / {bucket} rw,relatime shared:1 - fuse source rw\n")
    monkeypatch.setattr(file_systems, "_MOUNTS", mounts)
    output = describe(bucket / "hubhooks.db")
    assert "on a network file system (fuse): they survive a restart" in output


def test_hub_replay_after_a_lost_disk_runs_again(tmp_path: Path) -> None:
    with started(tmp_path, script=APP, environ=SPACE) as server:
        deliver(server, "d1")
    for path in tmp_path.glob("hubhooks.db*"):
        path.unlink()
    with started(tmp_path, script=APP, environ=SPACE) as server:
        deliver(server, "d1")
        store = SqliteStore(tmp_path / "hubhooks.db")
        server.wait_until(lambda: is_ended(store, "d1"), "does not run it")
