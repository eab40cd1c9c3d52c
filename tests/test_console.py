"""What a newcomer reads: the log of a server, the tables of the command line, short errors."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from servers import ROOT, started

from hubhooks._samples import compact, sample_json

if TYPE_CHECKING:
    from pathlib import Path

APP = """
from hubhooks import Webhooks
{head}
app = Webhooks()

@app.on("repo.content", repo_type="dataset", name="retrain")
async def retrain(event):
    pass

@app.on("repo", action="delete", name="clean")
def clean(event):
    raise ValueError("no disk")
"""
ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": "hubhooks.db"}
CONTENT = compact(sample_json("repo.content.update.parquet"))
DELETE = compact(sample_json("repo.delete"))
MOVE = compact(sample_json("repo.move"))
SERVERS = {
    "uvicorn": (
        ("-m", "uvicorn", "app:app", "--port", "{port}"),
        r"INFO:     {line}",
    ),
    "hypercorn": (
        ("-m", "hypercorn", "app:app", "--bind", "127.0.0.1:{port}"),
        r"\[[^\]]+\] \[\d+\] \[INFO\] {line}",
    ),
    "granian": (
        ("-m", "granian", "--interface", "asgi", "app:app", "--port", "{port}"),
        r"\[INFO\] {line}",
    ),
    "gunicorn": (
        ("-m", "gunicorn", "-k", "uvicorn_worker.UvicornWorker", "app:app", "-b", ":{port}"),
        r"\[[^\]]+\] \[\d+\] \[INFO\] {line}",
    ),
}


# ---- the log of a server -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_logs_its_start_and_each_delivery_in_its_own_style(
    name: str, tmp_path: Path
) -> None:
    if name != "uvicorn":
        pytest.importorskip(name)
    command, style = SERVERS[name]
    with started(tmp_path, *command, script=APP.format(head=""), environ=ON_DISK) as server:
        server.post("/", CONTENT, headers={"Webhook-Id": "d1"})
        server.post("/", DELETE, headers={"Webhook-Id": "d2"})
        server.post("/", MOVE, headers={"Webhook-Id": "d3"})
        server.wait_for("`retrain` is done")
        server.wait_for("ValueError: no disk")
        said = server.wait_for("delivery `d3`")
    lines = said.splitlines()
    started_line = (
        r"hubhooks started with 2 handlers: `retrain` \(.*repo.content.*dataset.*\), `clean` "
        r"\(.*delete.*\); deliveries are kept in `.*hubhooks.db`; this process runs the handlers"
    )
    for line in (
        started_line,
        r"delivery `d1`, <ContentEvent .*>: answered 202, to be handled by retrain",
        r"delivery `d1`: handler `retrain` is done after \d+ ms",
        r"delivery `d2`, .*: answered 202, to be handled by clean",
        r"delivery `d3`, .*: answered 200, unhandled: no handler .*`retrain` does not hear it: .*",
    ):
        found = [one for one in lines if re.fullmatch(style.format(line=line), one)]
        assert len(found) == 1, said
    assert said.count("handler `clean` failed on delivery `d2`") == 1


def test_a_gradio_app_logs_its_start_and_each_delivery(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    script = APP.format(head="import gradio as gr") + (
        "\nwith gr.Blocks() as demo:\n    app.activity()\napp.launch(demo)\n"
    )
    environ = {"GRADIO_SERVER_PORT": "{port}", "GRADIO_ANALYTICS_ENABLED": "False"}
    with started(tmp_path, "app.py", script=script, prints="Webhook URL", environ=environ) as one:
        one.post("/gradio_api/webhooks", CONTENT, headers={"Webhook-Id": "d1"})
        said = one.wait_for("`retrain` is done")
    assert len(re.findall("(?m)^INFO:     hubhooks started with 2 handlers", said)) == 1, said
    assert len(re.findall("(?m)^INFO:     delivery `d1`, .* answered 202", said)) == 1, said


@pytest.mark.parametrize(
    "head",
    [
        'import logging; logging.getLogger("hubhooks").setLevel("WARNING")',
        'import logging; logging.getLogger("hubhooks").addHandler(logging.NullHandler())',
        'import logging; logging.basicConfig(level="WARNING")',
        'import logging; logging.getLogger().setLevel("ERROR")',
    ],
)
def test_logging_that_the_user_configured_is_left_alone(head: str, tmp_path: Path) -> None:
    with started(tmp_path, script=APP.format(head=head)) as server:
        server.post("/", DELETE, headers={"Webhook-Id": "d2"})
        server.post("/", CONTENT, headers={"Webhook-Id": "d1"})
        server.stop()
        said = server.output()
    assert "POST / HTTP" in said
    assert "hubhooks started" not in said
    assert "answered" not in said


def test_a_quiet_server_shows_only_warnings(tmp_path: Path) -> None:
    command = (*SERVERS["uvicorn"][0], "--log-level", "warning")
    with started(tmp_path, *command, script=APP.format(head="")) as server:
        server.post("/", DELETE, headers={"Webhook-Id": "d2"})
        said = server.wait_for("ValueError: no disk")
    assert "ERROR:    handler `clean` failed" in said
    assert "INFO" not in said


def test_a_line_is_shown_once_where_logging_is_configured_after_the_start(tmp_path: Path) -> None:
    script = APP.format(head="import logging") + (
        "\n@app.on('repo.content')\ndef late(event):\n"
        "    logging.basicConfig(level='INFO', format='mine %(message)s')\n"
    )
    with started(tmp_path, script=script) as server:
        server.post("/", CONTENT, headers={"Webhook-Id": "d1"})
        server.wait_for("`late` is done")
        server.post("/", MOVE, headers={"Webhook-Id": "d3"})
        said = server.wait_for("d3")
    (line,) = [line for line in said.splitlines() if "d3" in line]
    assert line.startswith("mine delivery `d3`"), said


def test_each_further_process_says_in_its_start_line_which_one_leads(tmp_path: Path) -> None:
    with (
        started(tmp_path, script=APP.format(head=""), environ=ON_DISK) as first,
        started(tmp_path, environ=ON_DISK) as second,
    ):
        said = second.output()
        assert f"process {first.pid} leads the delivery log `" in said
        assert "WARNING" not in said
        first.kill()
        second.wait_for("this process runs the handlers now")


def test_importing_the_package_configures_no_logging() -> None:
    code = "import logging, hubhooks; log = logging.getLogger('hubhooks'); print(log.handlers)"
    done = run_python(code)
    assert done.stdout == "[]\n"
    assert logging.getLogger("hubhooks").handlers == []


def run_python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "", "PYTHONPATH": str(ROOT / "python"), **options.pop("environ", {})}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environ, capture_output=True, text=True, check=False, **options,
    )  # fmt: skip
