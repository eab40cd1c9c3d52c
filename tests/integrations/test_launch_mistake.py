"""A Gradio app that starts its page without its webhooks warns."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("gradio")

from pages import chromium
from servers import PATIENCE, ROOT, SECRET, Server, started
from test_gradio import OFFLINE

from hubhooks._samples import compact, sample_json

if TYPE_CHECKING:
    from pathlib import Path

PAGE = """
import gradio as gr
from hubhooks import Webhooks

hooks = Webhooks()


@hooks.on()
def pushed(event):
    print("ran pushed", flush=True)


with gr.Blocks() as demo:
    hooks.activity()
"""
MOUNT = """
from fastapi import FastAPI
app = FastAPI()
{include}
app = gr.mount_gradio_app(app, demo, path="/ui", ssr_mode=False)
"""
READY = "Running on local URL"
ADVICE = "call `hooks.launch(demo)` instead of `demo.launch()`"
PUSH = compact(sample_json("repo.content.update"))


def look(server: Server, below: str = "", seen: str = "") -> dict[str, Any]:
    """Request the content of the tab, as the page does when it loads."""
    from hubhooks.admin import gradio_tab as _activity_tab  # noqa: PLC0415 - it needs Gradio

    body = {"data": ["all states", 0, "", "", seen], "session_hash": "visitor"}
    response = server.request(f"{below}/gradio_api/run/hubhooks_look", "POST", json=body)
    assert response.status_code == 200, response.text
    names = _activity_tab._Parts._fields  # noqa: SLF001 - the order of the outputs
    return dict(zip(names, response.json()["data"], strict=True))


def overview(server: Server, below: str = "") -> str:
    """Return the text above the table."""
    shown = re.sub(
        r"<style>.*?</style>|<[^>]*>", "", str(look(server, below)["overview"]), flags=re.DOTALL
    )
    return shown.replace("&#96;", "`").strip()


@pytest.mark.parametrize(
    "launch",
    [
        "demo.launch()",
        'demo.launch(app_kwargs={"title": "Tide"})',
        "demo.queue().launch(quiet=False)",
        "kwargs = hooks.app_kwargs()\ndemo.launch()",
    ],
)
def test_plain_launch_warns_and_the_tab_shows_the_fix(tmp_path: Path, launch: str) -> None:
    script = PAGE + launch
    with started(tmp_path, "app.py", script=script, prints=READY, environ=OFFLINE) as server:
        warned = server.wait_for(ADVICE)
        # The warning names the user's own line.
        assert re.search(r"app\.py:\d+: UserWarning: no delivery reaches this app", warned)
        assert server.post("/gradio_api/webhooks", PUSH).status_code == 404
        assert ADVICE in overview(server)
        # The page asks every two seconds: nothing is sent again.
        seen = look(server)["seen"]
        assert "__type__" in str(look(server, seen=seen)["overview"])
        logged = server.output().count("no delivery reaches this app")
        look(server)
        assert server.output().count("no delivery reaches this app") == logged


@pytest.mark.parametrize(
    "launch",
    ["hooks.launch(demo)", "demo.launch(app_kwargs=hooks.app_kwargs())"],
)
def test_launch_with_webhooks_does_not_warn(tmp_path: Path, launch: str) -> None:
    script = PAGE + launch
    with started(
        tmp_path, "-W", "error::UserWarning:__main__", "app.py", script=script, prints=READY,
        environ=OFFLINE,
    ) as server:  # fmt: skip
        assert "No deliveries yet" in overview(server)
        assert server.post("/gradio_api/webhooks", PUSH).status_code == 202
        assert ADVICE not in server.output()


def test_nested_page_shows_the_fix(tmp_path: Path) -> None:
    script = PAGE + "with gr.Blocks() as outer:\n    demo.render()\nouter.launch()"
    with started(tmp_path, "app.py", script=script, prints=READY, environ=OFFLINE) as server:
        assert ADVICE in overview(server)
        server.wait_for("no delivery reaches this app")


def test_mounted_page_without_a_router_shows_the_fix(tmp_path: Path) -> None:
    script = PAGE + MOUNT.format(include="")
    with started(tmp_path, script=script, environ=OFFLINE) as server:
        assert "app.include_router(hooks.router())" in overview(server, "/ui")
        server.wait_for("the webhooks of this app have not started")


def test_mounted_page_with_a_router_does_not_warn(tmp_path: Path) -> None:
    script = PAGE + MOUNT.format(include="app.include_router(hooks.router())")
    with started(tmp_path, script=script, environ=OFFLINE) as server:
        assert "No deliveries yet" in overview(server, "/ui")
        assert "have not started" not in server.output()


@pytest.mark.parametrize("width", [1280, 390])
def test_tab_shows_the_warning_on_any_screen(tmp_path: Path, width: int) -> None:
    script = PAGE + "demo.launch()"
    with (
        chromium() as browser,
        started(tmp_path, "app.py", script=script, prints=READY, environ=OFFLINE) as server,
    ):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(server.url)
        advice = page.get_by_text("hooks.launch(demo)").first
        advice.wait_for(timeout=PATIENCE * 1000)
        box = advice.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


# ---- the hints of `hubhooks send` --------------------------------------------------------------

ROUTER = """
from fastapi import FastAPI
from hubhooks import Webhooks

hooks = Webhooks()
app = FastAPI()


@app.get("/page")
def page(): ...


"""


def hint(url: str) -> str:
    """Return what `hubhooks send` advises after a delivery that fails."""
    command = [sys.executable, "-m", "hubhooks.cli", "send", url, "--sample", "repo.create"]
    run = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "WEBHOOK_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert SECRET not in run.stderr
    (line,) = run.stderr.splitlines()
    return line


def test_hint_for_a_gradio_app_depends_on_the_path(tmp_path: Path) -> None:
    script = PAGE + 'demo.launch(auth=("ada", "tide"))'
    with started(tmp_path, "app.py", script=script, prints=READY, environ=OFFLINE) as server:
        for slash in ("", "/"):
            hint_text = hint(f"{server.url}/gradio_api/webhooks{slash}")
            assert "start it with `hooks.launch(demo)` instead of `demo.launch()`" in hint_text
        for path in ("/webhooks/hub", "/", "/webhooks"):
            url = f"{server.url}/gradio_api/webhooks"
            assert f"its webhook URL is {url}." in hint(server.url + path)


@pytest.mark.parametrize("include", ["", "app.include_router(hooks.router(), prefix='/api')\n"])
@pytest.mark.parametrize("path", ["/webhooks/hub", "/hooks", "/", "/page", "/gradio_api/webhooks"])
def test_hint_for_a_fastapi_app_does_not_mention_gradio(
    tmp_path: Path, include: str, path: str
) -> None:
    with started(tmp_path, script=ROUTER + include) as server:
        hint_text = hint(server.url + path)
        assert f"the app has no webhook at {path}:" in hint_text
        assert "hooks.router(" in hint_text
        assert "radio" not in hint_text.replace(path, "")


def test_hint_for_a_mounted_page_names_the_router(tmp_path: Path) -> None:
    script = PAGE + MOUNT.format(include="")
    with started(tmp_path, script=script, environ=OFFLINE) as server:
        assert "app.include_router(hooks.router())" in hint(f"{server.url}/ui/gradio_api/webhooks")
        assert "radio" not in hint(f"{server.url}/webhooks/hub")
