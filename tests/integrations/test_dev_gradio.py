"""`hubhooks dev` with a Gradio script."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from servers import free_port

from hubhooks._samples import compact, sample_json
from hubhooks._store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers import Server

BODY = compact(sample_json("repo.content.update"))
SCRIPT = """
import gradio as gr
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content")
def retrain(event):
    print("version 1")

with gr.Blocks() as demo:
    gr.Markdown("tides")

if __name__ == "__main__":
    hooks.launch(demo)
"""
ENVIRONMENT = {
    "WEBHOOK_SECRET": None,
    "HUBHOOKS_ADMIN_TOKEN": None,
    "HUBHOOKS_DELIVERIES": None,
    "GRADIO_ANALYTICS_ENABLED": "False",
}


def test_gradio_script(start: Callable[..., Server], tmp_path: Path) -> None:
    command = ("-m", "hubhooks.cli", "dev", "app.py", "--port", "{port}")
    server = start(*command, script=SCRIPT, prints="page ", environ=ENVIRONMENT)
    output = server.wait_for("Webhook URL:")
    assert f"webhook  {server.url}/gradio_api/webhooks\n" in output
    assert f"webhook  {server.url}/webhooks (the same as /gradio_api/webhooks)\n" in output
    # Only the public port is printed.
    assert f"Running on local URL:  {server.url}\n" in output
    assert f"Webhook URL:  {server.url}/gradio_api/webhooks\n" in output
    secret = (tmp_path / ".hubhooks" / "webhook_secret").read_text("ascii")
    token = (tmp_path / ".hubhooks" / "admin_token").read_text("ascii")
    headers = {"Webhook-Id": "d1"}
    response = server.post("/gradio_api/webhooks", BODY, secret=secret, headers=headers)
    assert response.status_code == 202
    server.wait_for("version 1")
    assert "tides" in server.request("/config").text

    (tmp_path / "app.py").write_text(SCRIPT.replace("version 1", "version 2"), "utf-8")
    authorization = {"Authorization": f"Bearer {token}"}
    replay = "/_hubhooks/api/deliveries/d1/replay"
    assert server.request(replay, "POST", headers=authorization).status_code == 202
    server.wait_for("version 2")

    os.kill(server.pid, signal.SIGINT)
    assert server.wait() == 0
    delivery = SqliteStore(tmp_path / "hubhooks.db").get("d1")
    assert delivery is not None
    (run,) = delivery.runs
    assert [attempt.output for attempt in run.history] == ["version 1\n", "version 2\n"]


def test_gradio_script_with_a_port_of_its_own(start: Callable[..., Server]) -> None:
    port = free_port()
    script = SCRIPT.replace("launch(demo)", f"launch(demo, server_port={port})")
    command = ("-m", "hubhooks.cli", "dev", "app.py", "--port", "{port}")
    server = start(*command, script=script, prints="webhook ", environ=ENVIRONMENT)
    assert "tides" in server.request("/config").text


def test_gradio_app_without_launch_gets_a_warning(start: Callable[..., Server]) -> None:
    script = SCRIPT.partition("if __name__")[0]
    command = ("-m", "hubhooks.cli", "dev", "app.py", "--port", "{port}")
    server = start(*command, script=script, prints="page ", environ=ENVIRONMENT)
    server.wait_for("has a Gradio app and does not call `launch`")


def test_mounted_gradio_app_gets_no_warning(start: Callable[..., Server]) -> None:
    mount = (
        "from fastapi import FastAPI\n"
        "app = FastAPI()\n"
        "app.include_router(hooks.router('/in'))\n"
        "app = gr.mount_gradio_app(app, demo, path='/')\n"
    )
    script = SCRIPT.partition("if __name__")[0] + mount
    command = ("-m", "hubhooks.cli", "dev", "app:app", "--port", "{port}")
    server = start(*command, script=script, prints="page ", environ=ENVIRONMENT)
    assert f"webhook  {server.url}/in\n" in server.output()
    assert "does not call `launch`" not in server.output()
