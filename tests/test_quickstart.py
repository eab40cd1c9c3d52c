"""Quickstart and tutorial show the output of their commands, and their steps work in the page."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
from pages import chromium
from servers import PATIENCE, ROOT, started
from test_cli import ENVIRONMENT, hubhooks
from test_console import at_terminal

from hubhooks._load_app import load_webhooks
from hubhooks.testing import TestClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Server

PAGE = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
URL = "http://127.0.0.1:8000"
UNSET = ("WEBHOOK_SECRET", "HUBHOOKS_ADMIN_TOKEN", "HUBHOOKS_DELIVERIES", "HF_TOKEN")


def blocks(language: str, page: str = PAGE) -> list[str]:
    return [code for name, code in BLOCK.findall(page) if name == language]


def without_token(text: str) -> str:
    return re.sub(r"/#\S+", "/#5f0c...", text)


def without_values(text: str) -> str:
    """Return the text without colours, rules, ids and times, which differ in each run."""
    text = re.sub(r"\x1b\[[\d;]*m|─", "", text)
    text = re.sub(r"\b[0-9a-f]{8}\b", "ID", text)
    return " ".join(re.sub(r"\b\d+(\.\d|s)(?=\s)", "N", text).split())


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Run the first two steps of the page."""
    pytest.importorskip("huggingface_hub")
    code, _ = blocks("python")
    install, dev = blocks("sh")[0].splitlines()
    assert install.startswith("pip install ")
    command = ("-m", *shlex.split(dev.replace("hubhooks", "hubhooks.cli", 1)), "--port", "{port}")
    environ = dict.fromkeys(UNSET)
    with started(folder, *command, script=code, prints="secrets ", environ=environ) as server:
        yield server


@pytest.mark.parametrize("columns", [80, 100])
def test_quickstart_shows_output_of_its_commands(tmp_path: Path, columns: int) -> None:
    _, send, *_ = blocks("sh")
    started_lines, sent = blocks("console")
    (reply,) = blocks("text")
    with running(tmp_path) as server:
        assert started_lines.replace(URL, server.url) in without_token(server.output())
        words = shlex.split(send.replace(URL, server.url))
        assert words[0] == "hubhooks"
        # An empty variable counts as not set.
        lines = at_terminal(tmp_path, *words[1:], columns=columns, WEBHOOK_SECRET="")
        assert without_values("\n".join(lines)) == without_values(sent)
        server.wait_for(reply.strip())


def test_quickstart_serves_the_same_app_with_uvicorn(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    code, _ = blocks("python")
    variable, *words = shlex.split(blocks("sh")[-1])
    name, _, secret = variable.partition("=")
    environ: dict[str, str | None] = {"HF_TOKEN": None, name: secret}
    command = ("-m", *words, "--port", "{port}")
    with started(tmp_path, *command, script=code, environ=environ) as server:
        body = (ROOT / "python/hubhooks/samples/discussion.comment.create.json").read_bytes()
        assert server.post("/", body, secret=secret).status_code == 202
        server.wait_for(blocks("text")[0].strip())


def test_tutorial_shows_output_of_hubhooks_dev(tmp_path: Path) -> None:
    if find_spec("gradio") is None:
        pytest.skip("gradio is not installed")
    code, urls = blocks("python", TUTORIAL)[0], blocks("text", TUTORIAL)[0]
    _, dev, send, *_ = blocks("sh", TUTORIAL)
    command = ("-m", "hubhooks.cli", *shlex.split(dev)[1:], "--port", "{port}")
    environ = {**dict.fromkeys(UNSET), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    reply = re.search(r"The terminal prints `(.*?)`", TUTORIAL)
    assert reply is not None
    with started(tmp_path, *command, script=code, prints="secrets ", environ=environ) as server:
        assert urls.replace(URL, server.url) in without_token(server.output())
        words = shlex.split(send.replace(URL, server.url))
        at_terminal(tmp_path, *words[1:], WEBHOOK_SECRET="")
        server.wait_for(reply[1])


def test_quickstart_repairs_a_handler_in_the_page(tmp_path: Path) -> None:
    for label in ("New", "Send", "Open", "Replay", "pytest"):
        assert f"**{label}**" in PAGE
    code, _ = blocks("python")
    assert "`repo.nam` in place of `repo.name`" in PAGE
    line = next(each for each in code.splitlines() if each.lstrip().startswith("text ="))
    broken = code.replace(line, line.replace("repo.name", "repo.nam"))
    with chromium() as browser, running(tmp_path) as server:
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)

        def click(name: str) -> None:
            page.get_by_role("button", name=name, exact=True).click()

        def send() -> None:
            click("New (n)")
            click("Send")
            page.locator(".responses").get_by_text("accepted").wait_for()
            page.get_by_role("button", name="Open delivery").click()

        address = re.search(r"^page +(\S+)$", server.output(), re.MULTILINE)
        assert address is not None
        page.goto(address[1])
        send()
        page.locator(".detail").get_by_text(blocks("text")[0].strip()).wait_for()

        def save(text: str, times: int) -> None:
            (tmp_path / "app.py").write_text(text, "utf-8")
            server.wait_until(
                lambda: server.output().count("restarted in") == times, "did not restart"
            )

        save(broken, 1)
        send()
        page.locator(".run-head").get_by_text("failed").wait_for()
        page.locator(".detail").get_by_text("object has no attribute 'nam'").first.wait_for()
        save(code, 2)
        click("Replay")
        page.locator(".run-head").get_by_text("succeeded").wait_for()
        attempts = page.locator(".attempt h5")
        attempts.nth(1).wait_for()
        shown = " ".join(sorted(attempts.all_inner_texts()))
        assert re.findall(r"failed|succeeded", shown) == ["failed", "succeeded"]
        click("pytest")
        server.wait_until(
            lambda: "def test_" in page.evaluate("navigator.clipboard.readText()"), "copied no test"
        )
        copied = page.evaluate("navigator.clipboard.readText()")
    (tmp_path / "test_app.py").write_text(copied, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={name: ENVIRONMENT[name] for name in ENVIRONMENT if name not in UNSET},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_handler_of_the_quickstart_labels_a_discussion(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("\n\n".join(blocks("python")), "utf-8")
    events = json.loads(hubhooks("samples", "discussion.create").stdout)
    events["discussion"]["title"] = "an error"
    result = TestClient(load_webhooks(str(tmp_path / "app.py"))).send(events)
    assert result["label"].value == "bug"
