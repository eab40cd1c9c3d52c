"""Runs that wait for a handler which no process has: they stay, are shown, and can be moved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, ROOT, Server, started

from hubhooks._samples import compact, sample_json
from hubhooks._store.sqlite import SqliteStore
from hubhooks.admin.queries import Activity
from hubhooks.admin.tab_html import overview_html
from hubhooks.routing import Router

if TYPE_CHECKING:
    from pathlib import Path

BODY = compact(sample_json("repo.content.update"))
COUNT = 50
TOKEN = "a-long-admin-token"
ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": None, "HUBHOOKS_ADMIN_TOKEN": TOKEN}
APP = """
import os, time
from hubhooks import Webhooks

app = Webhooks()

@app.on("repo.content", concurrency=1)
def NAME(event, context):
    with open("ran", "a") as file:
        file.write(f"{context.id} {context.handler}\\n")
    while os.path.exists("hold"):
        time.sleep(0.01)
"""


def ran(folder: Path) -> list[str]:
    path = folder / "ran"
    return path.read_text().splitlines() if path.exists() else []


def run_command(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run `hubhooks deliveries` as a user does; return the exit code and the output."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "COLUMNS": "80"}
    environ["HUBHOOKS_DELIVERIES"] = str(folder / "hubhooks.db")
    code = "from hubhooks.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "deliveries", *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def stats(folder: Path) -> dict[str, Any]:
    code, text = run_command(folder, "stats", "--json")
    assert code == 0, text
    made: dict[str, Any] = json.loads(text)
    return made


@pytest.fixture
def renamed(tmp_path: Path) -> Any:
    """Run an app whose handler was renamed while many deliveries waited for it."""
    hold = tmp_path / "hold"
    hold.touch()
    store = SqliteStore(tmp_path / "hubhooks.db")
    with started(tmp_path, script=APP.replace("NAME", "old"), environ=ON_DISK) as server:
        for number in range(COUNT + 1):
            response = server.post("/", BODY, headers={"Webhook-Id": f"d{number}"})
            assert response.status_code == 202
        server.wait_until(lambda: ran(tmp_path) == ["d0 old"], "does not run the first")
        hold.unlink()
        hold.touch()
        server.kill()
    hold.unlink()
    # The first run crashed, so it is retrying instead of queued.
    store.open()
    store.recover()
    (run,) = store.get("d0").runs  # type: ignore[union-attr]  # it is there
    assert run.state == "retrying"
    store.resign(is_end=True)
    store.close()
    with started(tmp_path, script=APP.replace("NAME", "new"), environ=ON_DISK) as server:
        server.wait_for("runs cannot start: this process has no handler `old`")
        yield server


def wait_until_states_are(server: Server, **expected: int) -> None:
    store = SqliteStore(server.folder / "hubhooks.db")
    server.wait_until(lambda: store.stats().states == expected, "does not end them")


def test_runs_of_an_unknown_handler_stay_and_are_shown(renamed: Server) -> None:
    folder = renamed.folder
    # New deliveries run while they wait.
    assert renamed.post("/", BODY, headers={"Webhook-Id": "later"}).json()["handlers"] == ["new"]
    wait_until_states_are(renamed, queued=COUNT, retrying=1, succeeded=1)
    made = stats(folder)
    assert made["unknown_handlers"] == {"old": COUNT + 1}
    assert made["leader"]["pid"] == renamed.pid
    note = f"{COUNT + 1} runs cannot start: the running app has no handler `old`"
    for command in ("list", "stats"):
        code, text = run_command(folder, command)
        assert (code, note in text) == (0, True), text
    response = renamed.request("/deliveries", headers={"Authorization": f"Bearer {TOKEN}"})
    assert response.json()["unknown_handlers"] == {"old": COUNT + 1}
    assert renamed.output().count("this process has no handler `old`") == 1
    assert ran(folder)[1:] == ["later new"]


def test_replay_as_runs_another_handler(renamed: Server) -> None:
    folder = renamed.folder
    code, text = run_command(folder, "replay", "--as", "unknown")
    assert (code, "the running app has no handler `unknown`; it has new" in text) == (2, True)
    code, text = run_command(folder, "replay", "--as", "new")
    assert code == 0, text
    wait_until_states_are(renamed, succeeded=COUNT + 1)
    assert sorted(ran(folder)[1:]) == sorted(f"d{number} new" for number in range(COUNT + 1))
    delivery = SqliteStore(folder / "hubhooks.db").get("d7")
    assert delivery is not None
    assert [(run.handler, run.state, run.error) for run in delivery.runs] == [
        ("old", "ignored", "replayed as `new`"),
        ("new", "succeeded", ""),
    ]
    assert stats(folder)["unknown_handlers"] == {}


def test_fail_ends_runs_of_an_unknown_handler(renamed: Server) -> None:
    folder = renamed.folder
    code, text = run_command(folder, "fail", "--handler", "old", "--dry-run")
    assert (code, text) == (0, f"would mark {COUNT + 1} runs of `old` as failed\n")
    code, text = run_command(folder, "fail", "--handler", "old")
    assert (code, text) == (0, f"marked {COUNT + 1} runs of `old` as failed\n")
    wait_until_states_are(renamed, failed=COUNT + 1)
    code, text = run_command(folder, "replay", "--failed")
    assert "use --as" in text
    code, text = run_command(folder, "replay", "d3", "--only", "old", "--as", "new")
    assert code == 0, text
    wait_until_states_are(renamed, failed=COUNT, succeeded=1)
    code, text = run_command(folder, "replay", "d4", "--as", "new")
    assert code == 0, text
    wait_until_states_are(renamed, failed=COUNT - 1, succeeded=2)
    # Failed runs do not wait.
    code, text = run_command(folder, "replay", "--as", "new")
    assert (code, "nothing to replay" in text) == (0, True), text
    code, text = run_command(folder, "replay", "--failed", "--as", "new")
    assert code == 0, text
    wait_until_states_are(renamed, succeeded=COUNT + 1)


def test_restored_handler_runs_its_old_runs(renamed: Server) -> None:
    folder = renamed.folder
    renamed.stop()
    with started(folder, script=APP.replace("NAME", "old"), environ=ON_DISK) as server:
        wait_until_states_are(server, succeeded=COUNT + 1)


def test_runs_in_memory_wait_for_an_unknown_handler_too() -> None:
    store = SqliteStore(":memory:")
    store.accept("d1", b"{}", ["gone", "there"])
    assert store.list_ready(9, among={"there"}) == [("d1", "there")]
    assert store.waiting_handlers() == {"gone": 1, "there": 1}


def test_replay_as_without_an_app_takes_any_name(tmp_path: Path) -> None:
    path = tmp_path / "hubhooks.db"
    store = SqliteStore(path)
    store.open()
    store.accept("d1", BODY, ["old"])
    store.close()
    code, text = run_command(tmp_path, "replay", "--as", "new")
    assert (code, "no app runs: start it" in " ".join(text.split())) == (2, True), text
    # Without a running app the handlers are unknown, so any name is accepted.
    code, text = run_command(tmp_path, "replay", "--only", "old", "--as", "new")
    assert code == 0, text
    delivery = store.get("d1")
    assert delivery is not None
    assert [(run.handler, run.state) for run in delivery.runs] == [
        ("old", "ignored"),
        ("new", "queued"),
    ]


def test_tab_shows_unknown_handlers_to_the_owner_only() -> None:
    store = SqliteStore(":memory:")
    store.accept("d1", b"{}", ["<gone>"])
    activity = Activity(store, Router(), lambda: None, lambda: None)
    shown = activity.overview(trusted=True)
    assert shown.unknown_handlers == {"<gone>": 1}
    assert "1 run of <b>&lt;gone&gt;</b>: no app has this handler" in overview_html(shown)
    assert activity.overview(trusted=False).unknown_handlers == {}
