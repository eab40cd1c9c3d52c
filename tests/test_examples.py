"""The examples, started as a reader starts them and sent samples over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from servers import ROOT, started

from hubhooks._samples import compact, sample_json, with_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from servers import Server

SECRET = "moon"


class App:
    """A served example."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def send(self, body: bytes, path: str = "/", **options: Any) -> tuple[int, dict[str, Any]]:
        response = self._server.post(path, body, **options)
        return response.status_code, response.json()

    def printed(self, lines: int) -> list[str]:
        """Return the output of the app when it has this many lines."""
        self._server.wait_until(
            lambda: len(self._server.output().splitlines()) >= lines,
            f"did not print {lines} lines",
        )
        return self._server.output().splitlines()


def served(target: str, folder: Path) -> AbstractContextManager[Server]:
    """Run an example under uvicorn until the block ends."""
    serve = ["-W", "error", "-m", "uvicorn", target, "--app-dir", str(ROOT / "examples")]
    quiet = ["--no-access-log", "--log-level", "warning"]
    # Without a buffer two threads mix their lines, and each of the examples flushes its own.
    environ: dict[str, str | None] = {"PYTHONUNBUFFERED": None}
    return started(folder, *serve, "--port", "{port}", *quiet, environ=environ)


@pytest.fixture
def quickstart(tmp_path: Path) -> Iterator[App]:
    with served("quickstart:hooks", tmp_path) as server:
        yield App(server)


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[App]:
    with served("fastapi_by_hand:app", tmp_path) as server:
        yield App(server)


def sample(name: str, changes: Mapping[str, Any] | None = None) -> bytes:
    return compact(with_overrides(sample_json(name), changes or {}))


def test_quickstart_logs_the_event(quickstart: App) -> None:
    head = sample_json("repo.content.update")["repo"]["headSha"][:8]
    cases = {
        "repo.content.update": ("dataset_pushed", f"ada-labs/tide-gauges is now at {head}"),
        "discussion.comment.create": (
            "mentioned",
            "comment in ada-labs/tide-gauges#7 mentions the bot (attempt 1)",
        ),
        "repo.config.update": ("settings_changed", "ada-labs/tide-forecast has private=True"),
        "repo.config.update.empty": ("settings_changed", "ada-labs/tide-map has other settings"),
        "repo.create": ("repo_created_or_gone", "create model ada-labs/tide-forecast"),
        "repo.move": (
            "repo_created_or_gone",
            "move model ada-labs/surge-alarm to sea-archive/surge-alarm",
        ),
    }
    for name, (handler, _) in cases.items():
        status, data = quickstart.send(sample(name))
        assert (status, data["status"], data["handlers"]) == (202, "accepted", [handler]), name
    expected = {f"{handler}: {text}" for handler, text in cases.values()}
    # Sync handlers run beside each other, so the order is not fixed.
    assert set(quickstart.printed(len(cases))) == expected


def test_the_quickstart_reads_opening_posts_as_comments(quickstart: App) -> None:
    called = {"comment.content": "Is this right, @My-Bot?"}
    not_called = {"comment.content": "Is this right?"}
    assert quickstart.send(sample("discussion.create", not_called))[0] == 200
    assert quickstart.send(sample("discussion.create", called))[0] == 202
    assert quickstart.printed(1) == [
        "mentioned: opening post in ada-labs/tide-gauges#7 mentions the bot (attempt 1)"
    ]


def test_quickstart_responds_to_unhandled_events(quickstart: App) -> None:
    body = sample("discussion.delete")
    assert quickstart.send(body)[0] == 200
    assert quickstart.send(body)[1]["status"] == "unhandled"
    assert quickstart.send(b"no JSON")[1]["status"] == "malformed"
    assert quickstart.send(body, secret=None)[0] == 401
    assert quickstart.send(body, secret="sun")[0] == 403
    # One line each from the library, and none from a handler.
    malformed, missing, wrong = quickstart.printed(3)
    assert "is malformed" in malformed
    assert missing.endswith("the webhook secret is missing")
    assert wrong.endswith("the webhook secret is wrong")


def test_without_a_secret_the_quickstart_does_not_start(tmp_path: Path) -> None:
    serve = ["-m", "uvicorn", "quickstart:hooks", "--app-dir", str(ROOT / "examples")]
    environ = {"WEBHOOK_SECRET": None}
    with started(
        tmp_path, *serve, "--port", "{port}", prints="set WEBHOOK_SECRET", environ=environ
    ) as server:
        assert server.wait() != 0


def test_manual_endpoint_accepts_deliveries(by_hand: App) -> None:
    cases = {
        "repo.content.update": "dataset ada-labs/tide-gauges has new content",
        "discussion.update.closed": "#7 is closed",
        "discussion.comment.update.hidden": "#7 is open",
        "repo.delete": "delete on repo",
    }
    for name, text in cases.items():
        status, data = by_hand.send(sample(name), "/webhooks/hub")
        assert (status, data["status"]) == (202, "accepted"), name
        assert f"react: {text}" in by_hand.printed(1 + list(cases).index(name))


def test_manual_endpoint_checks_secret_and_body(by_hand: App) -> None:
    body = sample("repo.content.update")
    path = "/webhooks/hub"
    assert by_hand.send(body, path, secret=None)[0] == 401
    assert by_hand.send(body, path, secret="sun")[0] == 403
    assert by_hand.send(body, path, secret=None, params={"secret": SECRET})[0] == 202
    assert by_hand.send(b"[]", path)[1]["status"] == "malformed"
    assert by_hand.send(bytes(32 * 1024 * 1024 + 1), path)[0] == 413
    assert by_hand.printed(1) == ["react: dataset ada-labs/tide-gauges has new content"]
