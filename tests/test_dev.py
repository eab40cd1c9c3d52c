"""`hubhooks dev` as a user runs it: real processes, an empty folder, nothing exported."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dev_command import BODY, NOTHING_SET, TWO_WEBHOOKS, dev
from servers import PATIENCE, ROOT, is_running, wait_until

from hubhooks._load_app import launches
from hubhooks._samples import compact, sample_json, with_overrides
from hubhooks.dev.folder import keep_secrets, read_kept
from hubhooks.dev.watch import take_snapshot
from hubhooks.errors import ConfigError

APP = """
import sys
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content")
def retrain(event):
    print("version {version}")
    print("on stderr", file=sys.stderr)
    return [event.repo.name, {version}]
"""
BROKEN = "from hubhooks import Webhooks\n\nimport no_such_module\n"

STARTING = """
import os, subprocess
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content")
def start(event):
    process = subprocess.Popen(["sleep", "600"])
    print("sleeper", process.pid, "end")

@hooks.on("repo")
def crash(event):
    os._exit(7)
"""


def app(version: int) -> str:
    return APP.replace("{version}", str(version))


# ---- start ---------------------------------------------------------------------------------------


def test_start_in_a_folder_without_variables(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        port, output = running.server.port, running.server.output()
        assert "hubhooks dev: app:hooks, 1 handler (retrain), store ./hubhooks.db" in output
        assert f"page     http://127.0.0.1:{port}/_hubhooks/#{running.token}\n" in output
        assert f"webhook  http://127.0.0.1:{port}/\n" in output
        assert running.secret not in output
        # `hubhooks send` finds the secret in the folder.
        command = [sys.executable, "-m", "hubhooks.cli", "send", running.server.url, "--json"]
        variables = {key: os.environ[key] for key in os.environ if key not in NOTHING_SET}
        sent = subprocess.run(
            [*command, "--sample", "repo.content.update", "--id", "sent"],
            cwd=tmp_path,
            env={**variables, "PYTHONPATH": str(ROOT / "python")},
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (sent.returncode, json.loads(sent.stdout)["status"]) == (0, 202), sent
        (attempt,) = running.attempts("sent", 1)
        assert attempt.output == "version 1\non stderr\n"
        assert attempt.result == "['ada-labs/tide-gauges', 1]"
        shown = running.wait_for_state("running")
        assert (shown["mode"], shown["target"], shown["handlers"]) == ("dev", "app:hooks", 1)
        assert shown["webhook_urls"] == [f"http://127.0.0.1:{port}/"]
        lines = {(line["stream"], line["text"]) for line in shown["output"]}
        assert {("stdout", "version 1"), ("stderr", "on stderr")} <= lines


PARTS = """
import sys, threading
from hubhooks import Webhooks

hooks = Webhooks()
barrier = threading.Barrier(2)

@hooks.on("repo.content")
def talk(event):
    print("first", end=" ")
    barrier.wait(timeout=20)
    print("second", file=sys.stdout)
    print("begun", end="", flush=True)
    barrier.wait(timeout=20)
    print(" ended, ", "not the line", sep="", end="")
"""


def test_lines_of_two_handlers_do_not_mix(tmp_path: Path) -> None:
    with dev(tmp_path, PARTS) as running:
        for name in ("d1", "d2"):
            running.deliver(name)
        for name in ("d1", "d2"):
            (attempt,) = running.attempts(name, 1)
            assert attempt.output == "first second\nbegun ended, not the line"
        running.server.wait_until(
            lambda: running.server.output().count("first second\n") == 2, "the lines are mixed"
        )
        os.kill(running.server.pid, signal.SIGINT)
        assert running.server.wait() == 0
        assert running.server.output().count(" ended, not the line") == 2


def test_secrets_stay_the_same_and_private(tmp_path: Path) -> None:
    first = keep_secrets(tmp_path)
    folder = tmp_path / ".hubhooks"
    assert keep_secrets(tmp_path) == first
    assert (folder / ".gitignore").read_text("utf-8") == "*\n"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_first_starts_at_once_keep_the_same_secrets(tmp_path: Path) -> None:
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        with ThreadPoolExecutor(6) as threads:
            kept = [*threads.map(lambda _, folder=folder: keep_secrets(folder), range(6))]
        assert kept == [kept[0]] * 6


def test_empty_secret_is_rejected(tmp_path: Path) -> None:
    keep_secrets(tmp_path)
    (tmp_path / ".hubhooks" / "webhook_secret").write_text("")
    with pytest.raises(ConfigError, match="has no secret: delete it"):
        keep_secrets(tmp_path)


@pytest.mark.parametrize("text", ["tide", "t" * 1025])
def test_file_of_a_wrong_token_is_named(tmp_path: Path, text: str) -> None:
    keep_secrets(tmp_path)
    (tmp_path / ".hubhooks" / "admin_token").write_text(text)
    with pytest.raises(ConfigError, match="admin_token` has no secret of 16 to 1024 characters"):
        keep_secrets(tmp_path)


def test_given_secret_is_not_kept_for_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = keep_secrets(tmp_path)
    monkeypatch.setenv("WEBHOOK_SECRET", "moon")
    kept = keep_secrets(tmp_path)
    assert kept.webhook_secret == made.webhook_secret != "moon"
    assert set(kept.variables()) == {"HUBHOOKS_ADMIN_TOKEN"}


ENDPOINT = """
from typing import Annotated
from fastapi import Depends, FastAPI
from hubhooks import HubEvent
from hubhooks.fastapi import verified_event

app = FastAPI()

@app.post("/")
async def endpoint(event: Annotated[HubEvent, Depends(verified_event(secret="moon"))]) -> str:
    return event.repo.name
"""


@pytest.mark.parametrize(
    ("script", "target", "given"),
    [
        (app(1), "app:hooks", "moon"),
        (app(1).replace("Webhooks()", "Webhooks('moon')"), "app:hooks", None),
        (app(1).replace("Webhooks()", "Webhooks(['sun', 'moon'])"), "app:hooks", "stars"),
        (ENDPOINT, "app:app", None),
    ],
    ids=["variable", "code", "both", "endpoint"],
)
def test_secret_of_the_folder_opens_each_app(
    tmp_path: Path, script: str, target: str, given: str | None
) -> None:
    with dev(tmp_path, script, target, WEBHOOK_SECRET=given) as running:
        assert "secrets  kept in .hubhooks/" in running.server.output()

        def status(secret: str | None) -> int:
            return running.server.post("/", BODY, secret=secret).status_code

        statuses = [status(secret) for secret in (running.secret, "moon", "wrong", None)]
        assert [code // 100 for code in statuses[:2]] == [2, 2]
        assert statuses[2:] == [403, 401]
        if target == "app:hooks":
            body = {"body": sample_json("repo.move"), "secret": "right"}
            (sent,) = running.api("send", "POST", json=body).json()["responses"]
            assert sent["status"] == 200
        assert running.secret not in running.server.output()


def test_app_without_any_secret_is_broken(tmp_path: Path) -> None:
    with dev(tmp_path, app(1).replace("Webhooks()", "Webhooks([])")) as running:
        assert "no webhook secret is given" in running.wait_for_state("broken")["traceback"]


def test_linked_folder_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_secrets(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / ".hubhooks").symlink_to(tmp_path / ".hubhooks")
    with pytest.raises(ConfigError, match="no link"):
        keep_secrets(other)
    monkeypatch.chdir(other)
    assert read_kept("WEBHOOK_SECRET") is None
    monkeypatch.chdir(tmp_path)
    assert read_kept("WEBHOOK_SECRET") == keep_secrets(tmp_path).webhook_secret


def test_used_port_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        result = _run(tmp_path, "app:hooks", "--port", port)
    assert result.returncode == 1
    assert b"cannot listen on port" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["app()"], "does not name an app"),
        (["missing.py"], "there is no file"),
        (["app:hooks", "--host", "0.0.0.0"], "is not a loopback address"),
    ],
)
def test_wrong_argument_is_a_usage_error(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = _run(tmp_path, *arguments)
    assert result.returncode == 2
    assert message in " ".join(result.stderr.decode().replace("│", " ").split())


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "hubhooks.cli", "dev", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "COLUMNS": "200"},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


# ---- restarts ------------------------------------------------------------------------------------


def test_next_delivery_after_a_save_runs_the_new_code(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        assert running.deliver("d1").status_code == 202
        running.attempts("d1", 1)
        running.write(app(2))
        running.server.wait_for("restarted in")
        assert running.deliver("d2").status_code == 202
        (attempt,) = running.attempts("d2", 1)
        assert attempt.output == "version 2\non stderr\n"


def test_replay_at_once_after_a_save_runs_the_new_code(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        running.deliver("d1")
        running.attempts("d1", 1)
        for version in range(2, 7):
            running.write(app(version))
            replayed = running.api("deliveries/d1/replay", "POST")
            assert replayed.status_code == 202
            assert replayed.json() == {"delivery": "d1", "handlers": ["retrain"]}
            *_, last = running.attempts("d1", version)
            assert last.output == f"version {version}\non stderr\n"
        outputs = [attempt.output for attempt in running.delivery("d1").runs[0].history]
        assert len(set(outputs)) == 6


def test_replay_of_a_renamed_handler_runs_the_new_one(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        running.deliver("d1")
        running.attempts("d1", 1)
        running.write(app(2).replace("def retrain", "def train"))
        replay = "deliveries/d1/replay"
        old = running.api(replay, "POST", json={"handlers": ["retrain"]})
        assert (old.status_code, old.json()) == (
            409, {"reason": "the app has no handler `retrain`"},
        )  # fmt: skip
        assert running.api(replay, "POST").json()["handlers"] == ["train"]
        running.server.wait_until(
            lambda: (
                {run.handler: run.state for run in running.delivery("d1").runs}
                == {"retrain": "succeeded", "train": "succeeded"}
            ),
            "did not run the new handler",
        )


def test_page_of_an_app_that_never_ran_is_empty(tmp_path: Path) -> None:
    with dev(tmp_path, BROKEN) as running:
        for path in ("deliveries", "stats", "handlers"):
            assert running.api(path).status_code == 200, path
        assert running.api("deliveries").json()["deliveries"] == []
        running.write(app(1))
        running.wait_for_state("running")
        running.deliver("d1")
        running.attempts("d1", 1)
        (row,) = running.api("deliveries").json()["deliveries"]
        assert row["id"] == "d1"


def test_broken_import_holds_deliveries_until_the_mend(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        running.write(BROKEN)
        broken = running.wait_for_state("broken")
        assert (broken["file"], broken["line"]) == ("app.py", 3)
        assert "No module named 'no_such_module'" in broken["traceback"]
        assert "importlib" not in broken["traceback"]
        held: list[int] = []
        thread = threading.Thread(target=lambda: held.append(running.deliver("d1").status_code))
        thread.start()
        time.sleep(0.5)
        assert held == []
        running.write(app(2))
        thread.join(PATIENCE)
        assert held == [202]
        (attempt,) = running.attempts("d1", 1)
        assert attempt.output == "version 2\non stderr\n"
        assert running.wait_for_state("running")["traceback"] == ""


def test_delivery_is_shown_at_once_after_a_crash(tmp_path: Path) -> None:
    with dev(tmp_path, STARTING) as running:
        running.deliver("d1", body=compact(sample_json("repo.move")))
        running.wait_for_state("broken")
        begun = time.monotonic()
        assert running.api("deliveries/d1").json()["explanations"] == []
        explained = running.api("explain", "POST", content=BODY)
        assert (explained.status_code, explained.json()) == (503, {"reason": "the app ended"})
        # Not the 10 s that a running app has to answer.
        assert time.monotonic() - begun < 5
        ready = running.api("ready").json()
        assert (ready["is_ready"], ready["is_store_writable"]) == (False, False)


def test_delivery_is_shown_while_the_app_starts(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        running.deliver("d1")
        running.attempts("d1", 1)
        running.write("import time\ntime.sleep(60)\n")
        running.wait_for_state("restarting")
        begun = time.monotonic()
        shown = running.api("deliveries/d1").json()
        assert (shown["id"], shown["explanations"]) == ("d1", [])
        # It waits 1 s for the explanations.
        assert time.monotonic() - begun < 5


def test_app_that_is_broken_from_the_start(tmp_path: Path) -> None:
    with dev(tmp_path, "from hubhooks import (\n") as running:
        assert running.wait_for_state("broken")["file"] == "app.py"
        begun = time.monotonic()
        response = running.deliver("d1")
        assert (response.status_code, set(response.json())) == (503, {"reason"})
        assert 5 < time.monotonic() - begun < 12
        # The app made no store yet.
        assert running.api("deliveries").json()["deliveries"] == []
        assert running.api("deliveries/d1/replay", "POST").status_code == 404
        running.write(app(1))
        running.wait_for_state("running")
        assert running.deliver("d1").status_code == 202


LATE = """
from hubhooks import Webhooks
from hubhooks.webhooks import parts_of

hooks = Webhooks()

@hooks.on("repo.content")
def retrain(event):
    print("version 1")

class Script:
    def launch(self):
        parts_of(hooks)[0].start()

Script().launch()
"""


@pytest.mark.parametrize("end", ["", "raise ValueError('late')", "raise SystemExit(3)"])
def test_script_that_ends_late_closes_its_store(tmp_path: Path, end: str) -> None:
    with dev(tmp_path, LATE + end, "app.py") as running:
        running.wait_for_state("broken")
        running.write(app(2))
        running.wait_for_state("running")
        assert "ended without closing it" not in running.server.output()


def test_webhooks_and_store_are_printed_once_the_app_is_mended(tmp_path: Path) -> None:
    with dev(tmp_path, BROKEN) as running:
        webhook = f"\nwebhook  {running.server.url}/\n"
        assert webhook not in running.server.output()
        running.write(app(1))
        printed = running.server.wait_for(webhook)
        assert "1 handler (retrain), store ./hubhooks.db\n" in printed
        running.write(app(2) + "\nhooks.on('repo')(print)\n")
        running.server.wait_for("2 handlers (retrain, print)\n")
        assert running.server.output().count("webhook  ") == 1


def test_store_in_memory_is_named(tmp_path: Path) -> None:
    with dev(tmp_path, app(1), HUBHOOKS_DELIVERIES=":memory:") as running:
        assert "1 handler (retrain), store in memory\n" in running.server.output()


def test_failed_start_is_reported(tmp_path: Path) -> None:
    with dev(tmp_path, app(1), WEBHOOK_SECRET="") as running:
        broken = running.wait_for_state("broken")
        assert "webhook secret 1 is empty" in broken["traceback"]
        assert "webhook secret 1 is empty" in running.server.output()
        assert "while it was imported" not in running.server.output()


SLOW = """
import time
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content")
def retrain(event):
    print("begun {version}")
    time.sleep({seconds})
"""


def test_running_handler_is_queued_again_by_a_restart(tmp_path: Path) -> None:
    slow = SLOW.replace("{version}", "1").replace("{seconds}", "60")
    with dev(tmp_path, slow) as running:
        running.deliver("d1")
        running.server.wait_for("begun 1")
        running.write(SLOW.replace("{version}", "2").replace("{seconds}", "0"))
        first, second = running.attempts("d1", 2)
        assert (first.state, first.output) == ("failed", "begun 1\n")
        assert (second.state, second.output) == ("succeeded", "begun 2\n")


def test_restart_keeps_the_counts_of_rejections(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        assert running.server.post("/", BODY, secret="wrong").status_code == 403
        before = running.app()["started_at"]
        running.write(app(2))
        running.server.wait_until(
            lambda: running.app()["started_at"] != before, "did not start again"
        )
        running.wait_for_state("running")
        assert running.api("stats").json()["rejections"] == {"secret wrong": 1}


def test_no_delivery_is_lost_over_restarts(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        statuses: dict[str, int] = {}
        is_over = threading.Event()

        def send(sender: int) -> None:
            number = 0
            while not is_over.is_set():
                number += 1
                name = f"d{sender}-{number}"
                statuses[name] = running.deliver(name).status_code

        with ThreadPoolExecutor(4) as threads:
            for sender in range(4):
                threads.submit(send, sender)
            for version in (2, 3, 4):
                time.sleep(0.5)
                running.write(app(version))
            time.sleep(0.5)
            is_over.set()
        assert set(statuses.values()) == {202}

        def have_all_succeeded() -> bool:
            # A run that the restart interrupted has two attempts.
            return all(running.delivery(name).state == "succeeded" for name in statuses)

        running.server.wait_until(have_all_succeeded, "did not run all deliveries")


# ---- the end -------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_all_processes(tmp_path: Path, number: signal.Signals) -> None:
    slow = SLOW.replace("{version}", "1").replace("{seconds}", "60")
    with dev(tmp_path, slow) as running:
        running.deliver("d1")
        running.server.wait_for("begun 1")
        children = running.children()
        assert len(children) == 1
        begun = time.monotonic()
        os.kill(running.server.pid, number)
        assert running.server.wait() == 0
        assert time.monotonic() - begun < 5
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_app_ends_if_the_supervisor_is_killed(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        (child,) = running.children()
        running.server.kill()
        wait_until(lambda: not is_running(child), "the app still runs")


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("cause", ["save", "crash"])
def test_process_of_a_handler_ends_with_the_app(tmp_path: Path, cause: str) -> None:
    # It inherits standard output, which so stays open when the app ends.
    with dev(tmp_path, STARTING) as running:
        running.deliver("d1")
        text = running.server.wait_for(" end\n")
        pid = int(text.partition("sleeper ")[2].split()[0])
        begun = time.monotonic()
        if cause == "save":
            running.write(app(2))
            running.server.wait_for("restarted")
        else:
            running.deliver("d2", body=compact(sample_json("repo.move")))
            shown = running.wait_for_state("broken")
            assert shown["traceback"] == "the app ended with exit code 7"
        # The limit of a restart's wait for the old process is 3.5 s.
        assert time.monotonic() - begun < 5
        wait_until(lambda: not is_running(pid), "the process still runs")


def test_note_on_authors_comes_after_the_handlers(tmp_path: Path) -> None:
    script = app(1).replace("Webhooks()", "Webhooks(ignore_authors='61d2000000000000000000ff')")
    with dev(tmp_path, script) as running:
        body = compact(sample_json("repo.create"))
        response = running.deliver("d1", body=body).json()
        details = running.api("deliveries/d1").json()
        for lines in (response["explanations"], details["explanations"]):
            assert lines[0].startswith("`retrain` does not match: ")
            assert lines[1].startswith("`ignore_authors` has no effect: ")


# ---- several webhooks ----------------------------------------------------------------------------


def test_each_webhook_has_a_page_with_its_deliveries(tmp_path: Path) -> None:
    second = "/_hubhooks/2/"
    with dev(tmp_path, TWO_WEBHOOKS, "app:app") as running:
        url, output = running.server.url, running.server.output()
        assert "2 handlers (note_model, note_dataset), stores ./models.db, ./datasets.db" in output
        assert f"webhook  {url}/webhooks/models\nwebhook  {url}/webhooks/datasets\n" in output
        for kind, repo_type in (("models", "model"), ("datasets", "dataset")):
            overrides = {"repo.type": repo_type}
            body = compact(with_overrides(sample_json("repo.create"), overrides))
            assert running.deliver(kind, f"/webhooks/{kind}", body).status_code == 202
        pages = {"/_hubhooks/": "models", second: "datasets"}
        for page, kind in pages.items():
            listed = running.api("deliveries", page=page).json()["deliveries"]
            assert [row["id"] for row in listed] == [kind]
            shown = running.api("app", page=page).json()
            assert shown["webhook_urls"] == [f"{url}/webhooks/{kind}"]
            assert shown["webhooks"] == [
                {"path": f"/webhooks/{name}", "page": path} for path, name in pages.items()
            ]
            (handler,) = running.api("handlers", page=page).json()["handlers"]
            assert handler["name"] == f"note_{kind[:-1]}"
            details = running.api(f"deliveries/{kind}", page=page).json()
            assert details["explanations"] == [f"`{handler['name']}` matches"]
            replayed = running.api(f"deliveries/{kind}/replay", "POST", page=page)
            assert replayed.json()["handlers"] == [handler["name"]]
            order = {"body": sample_json("repo.move"), "id": f"sent to {kind}"}
            (sent,) = running.api("send", "POST", page=page, json=order).json()["responses"]
            assert sent["status"] in {200, 202}
            assert running.api(f"deliveries/{sent['id']}", page=page).status_code == 200
        assert running.server.request("/_hubhooks/3/").status_code == 404

        running.write(app(2).replace("hooks =", "app = hooks ="))
        running.server.wait_for("1 handler (retrain), store ./hubhooks.db")
        assert running.api("deliveries", page=second).json()["deliveries"] == []
        assert running.api("app", page=second).json()["webhook_urls"] == []


# ---- the API and the proxy -----------------------------------------------------------------------


def test_api_needs_the_token_and_a_local_host(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        ask = running.server.request
        token = {"Authorization": f"Bearer {running.token}"}
        cases: list[tuple[dict[str, str], int]] = [
            (token, 200),
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 403),
            ({**token, "Host": "example.com"}, 421),
            ({**token, "Host": "example.com", "X-Forwarded-Host": "localhost"}, 421),
            ({**token, "Sec-Fetch-Site": "cross-site"}, 403),
            ({**token, "Origin": "http://example.com"}, 403),
            ({**token, "Origin": running.server.url}, 200),
        ]
        for headers, status in cases:
            response = ask("/_hubhooks/api/app", headers=headers)
            assert response.status_code == status, headers
            assert response.headers["content-security-policy"].startswith("default-src 'none'")
            assert response.headers["cache-control"] == "no-store"


def test_request_without_a_path_is_400(tmp_path: Path) -> None:
    with (
        dev(tmp_path, app(1)) as running,
        socket.create_connection(
            ("127.0.0.1", running.server.port), timeout=PATIENCE
        ) as connection,
    ):
        connection.sendall(b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 400"


def test_send_from_the_page(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        body = sample_json("repo.content.update")
        cases = {"right": 202, "url": 202, "wrong": 403, "none": 401}
        for place, status in cases.items():
            request = {"body": body, "id": place, "secret": place}
            (response,) = running.api("send", "POST", json=request).json()["responses"]
            assert (response["status"], response["id"]) == (status, place)
            assert response["milliseconds"] > 0
        twice = running.api("send", "POST", json={"body": body, "times": 2}).json()["responses"]
        assert [each["status"] for each in twice] == [202, 202]
        wrong: list[dict[str, Any]] = [{}, {"body": body, "times": 0}, {"body": 1}]
        for request in wrong:
            assert running.api("send", "POST", json=request).status_code == 400


def test_replay_that_is_not_possible(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        assert running.api("deliveries/none/replay", "POST").status_code == 404
        other = compact(sample_json("repo.create"))
        headers = {"Webhook-Id": "d1"}
        running.server.post("/", other, secret=running.secret, headers=headers)
        assert running.api("deliveries/d1/replay", "POST").status_code == 409
        chosen = running.api("deliveries/d1/replay", "POST", json={"handlers": ["retrain"]})
        assert chosen.status_code == 409


def test_handlers_and_explain(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        (handler,) = running.api("handlers").json()["handlers"]
        assert (handler["name"], handler["file"], handler["line"]) == ("retrain", "app.py", 7)
        explained = running.api("explain", "POST", content=BODY).json()
        assert explained["event"] == "repo.content update"
        assert explained["handlers"][0]["matches"]
        malformed = running.api("explain", "POST", content=b"{")
        assert malformed.status_code == 422
        assert {"reason", "path"} <= set(malformed.json())


def test_attempts_name_the_lines_that_an_edit_changed(tmp_path: Path) -> None:
    failing = app(1).replace("    return", '    assert not "lit"\n    return')
    with dev(tmp_path, failing) as running:
        running.deliver("d1")
        running.attempts("d1", 1)
        data = running.api("deliveries/d1/attempts").json()
        (attempt,) = data["attempts"]
        assert attempt["code"] == data["code"] is not None
        assert attempt["changed_lines"] == []
        running.write(app(2))
        running.api("deliveries/d1/replay", "POST")
        running.attempts("d1", 2)
        data = running.api("deliveries/d1/attempts").json()
        first, second = data["attempts"]
        line = failing.splitlines().index('    assert not "lit"') + 1
        now = "return [event.repo.name, 2]"
        assert first["changed_lines"] == [
            {"file": "app.py", "line": line, "then": 'assert not "lit"', "now": now}
        ]
        assert first["code"] != second["code"] == data["code"]
        assert second["changed_lines"] == []


def test_browser_is_sent_to_the_page(tmp_path: Path) -> None:
    with dev(tmp_path, app(1)) as running:
        ask = running.server.request
        response = ask("/", headers={"Accept": "text/html,*/*"})
        assert (response.status_code, response.headers["location"]) == (307, "/_hubhooks/")
        assert ask("/").status_code == 405


FASTAPI = """
import asyncio
import json
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from hubhooks import Webhooks

hooks = Webhooks()
app = FastAPI()
app.include_router(hooks.router("/hub"), prefix="/api")

@hooks.on("repo.content")
async def retrain(event):
    print("async")
    await asyncio.sleep(0)
    return event.scope

@app.get("/stream")
async def stream():
    async def parts():
        for number in range(3):
            yield f"{number}\\n"
            await asyncio.sleep(0.2)
    return StreamingResponse(parts())

@app.post("/echo/{rest:path}")
async def echo(request: Request):
    body = await request.body()
    return {"path": request.scope["raw_path"].decode(), "query": request.url.query,
            "length": len(body), "host": request.headers["host"]}

@app.websocket("/socket")
async def socket(websocket: WebSocket):
    await websocket.accept()
    await websocket.send_text((await websocket.receive_text()).upper())
    await websocket.close(4000)
"""


def test_fastapi_behind_the_proxy(tmp_path: Path) -> None:
    with dev(tmp_path, FASTAPI, "app.py") as running:
        server = running.server
        assert running.app()["webhook_urls"] == [f"{server.url}/api/hub"]
        assert running.deliver("d1", "/api/hub").status_code == 202
        (attempt,) = running.attempts("d1", 1)
        assert (attempt.output, attempt.result) == ("async\n", "'repo.content'")
        assert server.request("/stream").text == "0\n1\n2\n"
        large = b"x" * 3_000_000
        echoed = server.post("/echo/a%2Fb", large, params={"q": "1 2"}).json()
        assert echoed == {
            "path": "/echo/a%2Fb",
            "query": "q=1+2",
            "length": len(large),
            "host": f"127.0.0.1:{server.port}",
        }
        chunked = server.post("/echo/c", iter([b"ab", b"c"])).json()
        assert chunked["length"] == 3


MOUNTED = """
{imports}
from hubhooks import Webhooks

hooks = Webhooks()
hooks.on("repo.content")(print)
app = {app}
"""


@pytest.mark.parametrize(
    ("imports", "app", "path"),
    [
        ("from fastapi import FastAPI", "FastAPI(); app.mount('/hub', hooks)", "/hub/"),
        (
            "from fastapi import FastAPI",
            "FastAPI(); app.mount('/in', i := FastAPI()); i.include_router(hooks.router('/hub'))",
            "/in/hub",
        ),
        (
            "from starlette.applications import Starlette\nfrom starlette.routing import Mount",
            "Starlette(routes=[Mount('/a', routes=[Mount('/hub', app=hooks)])])",
            "/a/hub/",
        ),
        (
            "from starlette.applications import Starlette\nfrom starlette.routing import Route",
            "Starlette(routes=[Route('/hub', hooks)])",
            "/hub",
        ),
    ],
    ids=["FastAPI, mount", "FastAPI, inner app", "Starlette, mount", "Starlette, route"],
)
def test_mounted_webhook_is_found(tmp_path: Path, imports: str, app: str, path: str) -> None:
    script = MOUNTED.replace("{imports}", imports).replace("{app}", app)
    with dev(tmp_path, script, "app:app") as running:
        assert f"webhook  {running.server.url}{path}\n" in running.server.output()
        body = sample_json("repo.content.update")
        (response,) = running.api("send", "POST", json={"body": body}).json()["responses"]
        assert response["status"] == 202


def test_factory_of_an_app_is_called(tmp_path: Path) -> None:
    factory = "\ndef make():\n    return hooks\n"
    script = f"{app(1)}{factory}\nasync def asgi(*args):\n    await hooks(*args)\n"
    for target in ("app:make", "app:asgi"):
        with dev(tmp_path, script, target) as running:
            assert running.deliver(f"to {target}").status_code == 202


def test_other_function_is_no_app(tmp_path: Path) -> None:
    with dev(tmp_path, app(1), "app:retrain") as running:
        assert running.app()["state"] == "broken"
        running.server.wait_for("`app:retrain` is a function, not an ASGI app")


def test_file_in_a_package_can_import_relatively(tmp_path: Path) -> None:
    package = tmp_path / "bots" / "tide"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "gauges.py").write_text(app(1), "utf-8")
    (package / "app.py").write_text("from .gauges import hooks\n", "utf-8")
    with dev(tmp_path, "", "bots/tide/app.py") as running:
        assert running.deliver("d1").status_code == 202


def test_websocket_through_the_proxy(tmp_path: Path) -> None:
    from websockets.exceptions import ConnectionClosed  # noqa: PLC0415 - of the extra `dev`
    from websockets.sync.client import connect  # noqa: PLC0415 - as above

    with dev(tmp_path, FASTAPI, "app:app") as running:
        address = f"ws://127.0.0.1:{running.server.port}/socket"
        with connect(address, proxy=None) as connection:
            connection.send("tide")
            assert connection.recv(PATIENCE) == "TIDE"
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4000


def test_output_for_the_page_is_bounded(tmp_path: Path) -> None:
    script = app(1).replace("return [", 'print(("x" * 9000 + "\\n") * 400 + "last")\n    return [')
    with dev(tmp_path, script) as running:
        running.deliver("d1")
        running.attempts("d1", 1)
        texts: list[str] = []

        def has_last_line() -> bool:
            texts[:] = [line["text"] for line in running.app()["output"]]
            return "last" in texts

        wait_until(has_last_line, "the last line is missing")
        assert 10 < len(texts) < 20
        assert max(map(len, texts)) == 8 * 1024


def test_no_reload(tmp_path: Path) -> None:
    with dev(tmp_path, app(1), "app:hooks", "--no-reload") as running:
        running.deliver("d1")
        running.attempts("d1", 1)
        running.write(app(2))
        assert running.api("deliveries/d1/replay", "POST").status_code == 202
        *_, last = running.attempts("d1", 2)
        assert last.output == "version 1\non stderr\n"


def test_traceback_without_reload_has_the_lines_that_ran(tmp_path: Path) -> None:
    script = app(1).replace("return [", "raise ValueError  # version 1\n    return [")
    with dev(tmp_path, script, "app.py", "--no-reload") as running:
        running.write("# another line\n" + app(2))
        running.deliver("d1")
        (attempt,) = running.attempts("d1", 1)
        assert "raise ValueError  # version 1" in attempt.traceback


# ---- parts ---------------------------------------------------------------------------------------


def test_snapshot_leaves_out_installed_and_hidden_files(tmp_path: Path) -> None:
    for name in ("app.py", "lib/a.py", ".venv/b.py", "node_modules/c.py", "x/__pycache__/d.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "env" / "e.py").touch()
    (tmp_path / "notes.txt").touch()
    found = {Path(path).relative_to(tmp_path).as_posix() for path in take_snapshot(tmp_path)}
    assert found == {"app.py", "lib/a.py"}


def test_scripts_that_launch_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    cases = {"hooks.launch(demo)": True, "app = 1": False, "launch()": False, "def (": False}
    for text, is_script in cases.items():
        path.write_text(text, "utf-8")
        assert launches(path) == is_script, text
