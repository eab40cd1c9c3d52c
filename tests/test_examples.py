"""The examples, started as a reader starts them and sent samples over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hubhooks._samples import compact, sample_json, with_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[1]
PATIENCE = 30
SECRET = "moon"


class App:
    """A served example."""

    def __init__(self, url: str, printed: Path) -> None:
        self.url = url
        self._printed = printed

    def send(self, body: bytes, path: str = "/", **options: Any) -> tuple[int, dict[str, Any]]:
        options.setdefault("headers", {"X-Webhook-Secret": SECRET})
        answer = httpx.post(
            f"{self.url}{path}", content=body, timeout=PATIENCE, trust_env=False, **options
        )
        return answer.status_code, answer.json()

    def printed(self, lines: int) -> list[str]:
        """Give what the app printed, once it is so many lines or the wait is over."""
        deadline = time.monotonic() + PATIENCE
        while True:
            printed = self._printed.read_text().splitlines()
            if len(printed) >= lines or time.monotonic() > deadline:
                return printed
            time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    pytest.fail(f"the example did not start:\n{log.read_text()}")


@contextmanager
def served(target: str, folder: Path) -> Iterator[App]:
    """Run an example under uvicorn until the block ends."""
    port = free_port()
    serve = ["-m", "uvicorn", target, "--app-dir", "examples", "--port", str(port)]
    printed, log = folder / "printed", folder / "log"
    with printed.open("wb") as stdout, log.open("wb") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-W", "error", *serve, "--no-access-log"],
            cwd=ROOT,
            env={**os.environ, "WEBHOOK_SECRET": SECRET},
            stdout=stdout,
            stderr=stderr,
        )
        try:
            wait_for(port, server, log)
            yield App(f"http://127.0.0.1:{port}", printed)
        finally:
            server.terminate()
            try:
                server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait(PATIENCE)


@pytest.fixture
def quickstart(tmp_path: Path) -> Iterator[App]:
    with served("quickstart:hooks", tmp_path) as app:
        yield app


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[App]:
    with served("fastapi_by_hand:app", tmp_path) as app:
        yield app


def sample(name: str, changes: Mapping[str, Any] | None = None) -> bytes:
    return compact(with_overrides(sample_json(name), changes or {}))


def test_the_quickstart_says_what_happened(quickstart: App) -> None:
    head = sample_json("repo.content.update")["repo"]["headSha"][:8]
    cases = {
        "repo.content.update": ("dataset_pushed", f"ada-labs/tide-gauges is now at {head}"),
        "discussion.comment.create": (
            "mentioned",
            "comment in ada-labs/tide-gauges#7 calls for the bot (attempt 1)",
        ),
        "repo.config.update": ("settings_changed", "ada-labs/tide-forecast has private=True"),
        "repo.config.update.empty": ("settings_changed", "ada-labs/tide-map has other settings"),
        "repo.create": ("repo_came_or_went", "create model ada-labs/tide-forecast"),
        "repo.move": (
            "repo_came_or_went",
            "move model ada-labs/surge-alarm to sea-archive/surge-alarm",
        ),
    }
    for name, (handler, _) in cases.items():
        status, said = quickstart.send(sample(name))
        assert (status, said["status"], said["handlers"]) == (202, "accepted", [handler]), name
    expected = {f"{handler}: {text}" for handler, text in cases.values()}
    # Sync handlers run beside each other, so the order is not fixed.
    assert set(quickstart.printed(len(cases))) == expected


def test_the_quickstart_reads_opening_posts_as_comments(quickstart: App) -> None:
    called = {"comment.content": "Is this right, @My-Bot?"}
    not_called = {"comment.content": "Is this right?"}
    assert quickstart.send(sample("discussion.create", not_called))[0] == 200
    assert quickstart.send(sample("discussion.create", called))[0] == 202
    assert quickstart.printed(1) == [
        "mentioned: opening post in ada-labs/tide-gauges#7 calls for the bot (attempt 1)"
    ]


def test_the_quickstart_answers_what_it_does_not_run(quickstart: App) -> None:
    body = sample("discussion.delete")
    assert quickstart.send(body)[0] == 200
    assert quickstart.send(body)[1]["status"] == "unhandled"
    assert quickstart.send(b"no JSON")[1]["status"] == "unreadable"
    assert quickstart.send(body, headers={})[0] == 401
    assert quickstart.send(body, headers={"X-Webhook-Secret": "sun"})[0] == 403
    assert quickstart.printed(0) == []


def test_without_a_secret_the_quickstart_does_not_start() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "WEBHOOK_SECRET"}
    serve = ["-m", "uvicorn", "quickstart:hooks", "--app-dir", "examples"]
    ended = subprocess.run(
        [sys.executable, *serve, "--port", str(free_port())],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert ended.returncode != 0
    assert "set WEBHOOK_SECRET" in ended.stderr


def test_the_endpoint_by_hand_takes_deliveries(by_hand: App) -> None:
    cases = {
        "repo.content.update": "dataset ada-labs/tide-gauges has new content",
        "discussion.update.closed": "#7 is closed",
        "discussion.comment.update.hidden": "#7 is open",
        "repo.delete": "delete on repo",
    }
    for name, text in cases.items():
        status, said = by_hand.send(sample(name), "/webhooks/hub")
        assert (status, said["status"]) == (202, "accepted"), name
        assert f"react: {text}" in by_hand.printed(1 + list(cases).index(name))


def test_the_endpoint_by_hand_judges_the_secret_and_the_body(by_hand: App) -> None:
    body = sample("repo.content.update")
    path = "/webhooks/hub"
    assert by_hand.send(body, path, headers={})[0] == 401
    assert by_hand.send(body, path, headers={"X-Webhook-Secret": "sun"})[0] == 403
    assert by_hand.send(body, path, headers={}, params={"secret": SECRET})[0] == 202
    assert by_hand.send(b"[]", path)[1]["status"] == "unreadable"
    assert by_hand.send(bytes(32 * 1024 * 1024 + 1), path)[0] == 413
    assert by_hand.printed(1) == ["react: dataset ada-labs/tide-gauges has new content"]
