"""Console output: the log of a server, the tables of the command line, short errors."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, ROOT, SECRET, started

from hubhooks import Webhooks, testing
from hubhooks._logging import traceback_of
from hubhooks._samples import compact, sample_json
from hubhooks._store.sqlite import SqliteStore
from hubhooks.admin.queries import Activity
from hubhooks.admin.tab_html import details_html
from hubhooks.errors import ConfigError, StoreError

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
def test_server_logs_start_and_deliveries_in_its_style(name: str, tmp_path: Path) -> None:
    if name != "uvicorn":
        pytest.importorskip(name)
    command, style = SERVERS[name]
    with started(tmp_path, *command, script=APP.format(head=""), environ=ON_DISK) as server:
        server.post("/", CONTENT, headers={"Webhook-Id": "d1"})
        server.post("/", DELETE, headers={"Webhook-Id": "d2"})
        server.post("/", MOVE, headers={"Webhook-Id": "d3"})
        server.wait_for("`retrain`: succeeded")
        server.wait_for("ValueError: no disk")
        output = server.wait_for("delivery `d3`")
    lines = output.splitlines()
    started_line = (
        r"hubhooks started with 2 handlers: `retrain` \(.*repo.content.*dataset.*\), `clean` "
        r"\(.*delete.*\); store: `.*hubhooks.db`; this process runs the handlers"
    )
    for line in (
        started_line,
        r"delivery `d1`, <ContentEvent .*>: response 202, handlers: retrain",
        r"delivery `d1`: handler `retrain`: succeeded after \d+ ms",
        r"delivery `d2`, .*: response 202, handlers: clean",
        r"delivery `d3`, .*: response 200, unhandled: no matching handler; `retrain` does not .*",
    ):
        found = [one for one in lines if re.fullmatch(style.format(line=line), one)]
        assert len(found) == 1, output
    assert output.count("handler `clean` failed on delivery `d2`") == 1


def test_gradio_app_logs_start_and_deliveries(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    script = APP.format(head="import gradio as gr") + (
        "\nwith gr.Blocks() as demo:\n    app.activity()\napp.launch(demo)\n"
    )
    environ = {"GRADIO_SERVER_PORT": "{port}", "GRADIO_ANALYTICS_ENABLED": "False"}
    with started(tmp_path, "app.py", script=script, prints="Webhook URL", environ=environ) as one:
        one.post("/gradio_api/webhooks", CONTENT, headers={"Webhook-Id": "d1"})
        output = one.wait_for("`retrain`: succeeded")
    assert len(re.findall("(?m)^INFO:     hubhooks started with 2 handlers", output)) == 1, output
    assert len(re.findall("(?m)^INFO:     delivery `d1`, .* response 202", output)) == 1, output


@pytest.mark.parametrize(
    "head",
    [
        'import logging; logging.getLogger("hubhooks").setLevel("WARNING")',
        'import logging; logging.getLogger("hubhooks").addHandler(logging.NullHandler())',
        'import logging; logging.basicConfig(level="WARNING")',
        'import logging; logging.getLogger().setLevel("ERROR")',
    ],
)
def test_logging_of_the_user_is_unchanged(head: str, tmp_path: Path) -> None:
    with started(tmp_path, script=APP.format(head=head)) as server:
        server.post("/", DELETE, headers={"Webhook-Id": "d2"})
        server.post("/", CONTENT, headers={"Webhook-Id": "d1"})
        server.stop()
        output = server.output()
    assert "POST / HTTP" in output
    assert "hubhooks started" not in output
    assert "answered" not in output


def test_quiet_server_shows_only_warnings(tmp_path: Path) -> None:
    command = (*SERVERS["uvicorn"][0], "--log-level", "warning")
    with started(tmp_path, *command, script=APP.format(head="")) as server:
        server.post("/", DELETE, headers={"Webhook-Id": "d2"})
        output = server.wait_for("ValueError: no disk")
    assert "ERROR:    handler `clean` failed" in output
    assert "INFO" not in output


def test_logging_configured_after_start_shows_lines_once(tmp_path: Path) -> None:
    script = APP.format(head="import logging") + (
        "\n@app.on('repo.content')\ndef late(event):\n"
        "    logging.basicConfig(level='INFO', format='mine %(message)s')\n"
    )
    with started(tmp_path, script=script) as server:
        server.post("/", CONTENT, headers={"Webhook-Id": "d1"})
        server.wait_for("`late`: succeeded")
        server.post("/", MOVE, headers={"Webhook-Id": "d3"})
        output = server.wait_for("d3")
    (line,) = [line for line in output.splitlines() if "d3" in line]
    assert line.startswith("mine delivery `d3`"), output


def test_start_line_names_the_leader(tmp_path: Path) -> None:
    with (
        started(tmp_path, script=APP.format(head=""), environ=ON_DISK) as first,
        started(tmp_path, environ=ON_DISK) as second,
    ):
        output = second.output()
        assert f"process {first.pid} is the leader of the delivery store `" in output
        assert "WARNING" not in output
        first.kill()
        second.wait_for("this process runs the handlers now")


def test_the_test_client_logs_deliveries_but_no_start(logged: Any) -> None:
    hooks = Webhooks()
    hooks.add(print, "repo.content", name="retrain")
    testing.TestClient(hooks).send(testing.content(repo="me/tides"), id="d1")
    assert [line.split()[0] for line in logged()] == ["delivery", "delivery"]


def test_importing_the_package_configures_no_logging() -> None:
    code = "import logging, hubhooks; log = logging.getLogger('hubhooks'); print(log.handlers)"
    done = run_python(code)
    assert done.stdout == "[]\n"
    assert logging.getLogger("hubhooks").handlers == []


# ---- unhandled deliveries in the Gradio tab ------------------------------------------------------


def test_tab_shows_why_a_delivery_is_unhandled() -> None:
    hooks = Webhooks("moon", deliveries=":memory:")
    hooks.add(print, "repo.content", name="retrain")
    client = testing.TestClient(hooks)
    client.send(testing.content(repo="me/tides"), id="matched")
    client.send(sample_json("repo.move"), id="missed")
    activity = Activity(client.deliveries, hooks, lambda: None, lambda: None)
    missed, matched = activity.details("missed"), activity.details("matched")
    assert missed is not None
    assert matched is not None
    shown = details_html(missed)
    assert '<details class="hubhooks-run" open><summary>Why' in shown
    assert "retrain&#96; does not match: the scope is" in shown
    assert " open>" not in details_html(matched)


# ---- tracebacks ----------------------------------------------------------------------------------


def test_traceback_begins_in_user_code(tmp_path: Path) -> None:
    script = (
        APP.format(head="")
        + """
@app.on("repo", name="clean_later")
async def clean_later(event):
    raise ValueError("no disk later")

@app.on("repo", name="hidden", when=lambda event: event.missing)
def hidden(event): ...

@app.on_failure
def tell(event, context, error):
    raise KeyError("no hook")
"""
    )
    with started(tmp_path, script=script, environ=ON_DISK) as server:
        server.post("/", DELETE, headers={"Webhook-Id": "d2"})
        for text in ("no disk\n", "no disk later\n", "'no hook'\n", "`when` of handler"):
            server.wait_for(text)
        server.stop()
        output = server.output()
    assert output.count("Traceback") >= 4
    assert str(ROOT / "python" / "hubhooks") not in output
    delivery = SqliteStore(tmp_path / "hubhooks.db").get("d2")
    assert delivery is not None
    for run in delivery.runs:
        assert run.state == "failed"
        first = run.traceback.splitlines()[1]
        assert "app.py" in first, run.traceback


def test_traceback_of_internal_frames_alone_stays_whole() -> None:
    with pytest.raises(ConfigError) as raised:
        sample_json("no-such")
    error = raised.value
    # Without the frame of this test.
    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
    assert "in sample_json" in traceback_of(error)


# ---- tables at 80 columns ------------------------------------------------------------------------


def at_terminal(folder: Path, *words: str, columns: int = 80, **environ: str) -> list[str]:
    """Run `hubhooks` at a terminal of that width, and return the lines that it shows."""
    pty, fcntl, termios, struct = map(pytest.importorskip, ("pty", "fcntl", "termios", "struct"))
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "TERM": "xterm"}
    variables.pop("COLUMNS", None)
    variables.update({"HUBHOOKS_DELIVERIES": "hubhooks.db", "WEBHOOK_SECRET": SECRET, **environ})
    process = subprocess.Popen(
        [sys.executable, "-m", "hubhooks.cli", *words],
        stdin=inner, stdout=inner, stderr=inner, env=variables, cwd=folder,
    )  # fmt: skip
    os.close(inner)
    shown = b""
    # Linux reports the end of the terminal as an error.
    with os.fdopen(outer, "rb", buffering=0) as terminal, suppress(OSError):
        while chunk := terminal.read(65536):
            shown += chunk
    process.wait(PATIENCE)
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    return [line.rstrip() for line in text.splitlines()]


def test_send_shows_responses_and_unhandled_reasons(tmp_path: Path) -> None:
    samples = ("repo.content.update.parquet", "repo.move", "discussion.comment.create.pull-request")
    options = [word for sample in samples for word in ("--sample", sample)]
    with started(tmp_path, script=APP.format(head="")) as server:
        lines = at_terminal(tmp_path, "send", server.url, *options)
        wide = at_terminal(tmp_path, "send", server.url, *options, columns=140)
    text = "\n".join(lines)
    table = lines[: lines.index("repo.move is unhandled:")]
    assert max(map(len, table)) <= 80
    assert re.search(r"202 .* accepted: retrain +[0-9a-f]{8}$", text, re.MULTILINE)
    assert re.search(r"200 .* repo.move +unhandled: no matching +[0-9a-f]{8}$", text, re.MULTILINE)
    why = "`clean` does not match: the action is `move`, not `delete`"
    assert f"  {why}" in lines
    assert f"{samples[-1]} is unhandled:" in lines
    assert any(re.search("unhandled: no matching handler +[0-9a-f]", x) for x in wide)


def test_send_explains_few_of_many_unhandled_samples(tmp_path: Path) -> None:
    with started(tmp_path, script="from hubhooks import Webhooks\napp = Webhooks()\n") as server:
        lines = at_terminal(tmp_path, "send", server.url, "--all")
        script = APP.format(head="")
    with started(tmp_path, script=script) as server:
        more = at_terminal(tmp_path, "send", server.url, "--all")
    assert "discussion.comment.create and 34 more are unhandled:" in lines
    assert lines.count("  no handler is registered") == 1
    assert sum(line.endswith("unhandled:") for line in more) == 3
    assert any(line.endswith("hubhooks deliveries show ID") for line in more)


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the store of an app with long names."""
    folder = tmp_path_factory.mktemp("used")
    script = (
        APP.format(head="")
        + """
@app.on("discussion.comment", name="answer_each_comment_that_mentions_the_bot", retries=1)
async def answer(event):
    raise OSError("the model is not loaded yet: " + "wait for it " * 20)

@app.on("discussion.comment", name="count")
async def count(event): ...
"""
    )
    with started(folder, script=script, environ=ON_DISK) as server:
        for number, sample in enumerate(("repo.move", "repo.delete", "discussion.comment.create")):
            headers = {"Webhook-Id": f"{number}" * 32}
            server.post("/", compact(sample_json(sample)), headers=headers)
        server.wait_for("retry in")
        server.wait_for("no disk")
        server.wait_for("`count`: succeeded")
    return folder


def test_list_at_80_columns_shows_handlers(used: Path) -> None:
    lines = at_terminal(used, "deliveries", "list")
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "handlers" in text
    (row,) = [number for number, line in enumerate(lines) if "2222" in line]
    assert re.fullmatch(
        r" 2{8} +\d+\w +retrying +discussion.comment create +ada-labs/tide-gauges", lines[row]
    )
    handlers = "".join(line.strip() for line in lines[row + 1 : row + 4])
    assert "answer_each_comment_that_mentions_the_bot" in handlers
    assert "count: succeeded" in handlers
    (row,) = [number for number, line in enumerate(lines) if "1111" in line]
    assert lines[row + 1].split() == ["clean"]


@pytest.mark.parametrize(
    "words",
    [("list",), ("show", "2222"), ("stats",), ("replay", "1111", "--dry-run")],
    ids=lambda words: words[0],
)
def test_tables_fit_80_columns(words: tuple[str, ...], used: Path) -> None:
    lines = at_terminal(used, "deliveries", *words)
    # A body stays whole, to be copied.
    end = lines.index("{") if "{" in lines else len(lines)
    assert max(map(len, lines[:end])) <= 80
    assert not any("\u2026" in line for line in lines)


@pytest.mark.parametrize(("zone", "offset"), [("UTC", "+00:00"), ("Asia/Kolkata", "+05:30")])
def test_times_have_a_zone_and_are_accepted_as_input(zone: str, offset: str, used: Path) -> None:
    pattern = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d{re.escape(offset)}"
    for words in (("show", "1111"), ("stats",), ("list",), ("replay", "1111", "--dry-run")):
        text = "\n".join(at_terminal(used, "deliveries", *words, columns=140, TZ=zone))
        times = re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*", text)
        assert times or words == ("stats",)
        assert all(re.fullmatch(pattern, time) for time in times), text
    text = "\n".join(at_terminal(used, "deliveries", "show", "1111", TZ=zone))
    (since,) = re.findall(rf"(?m)^received +({pattern})", text)
    lines = at_terminal(used, "deliveries", "list", "--since", since, TZ=zone)
    assert any("2222" in line for line in lines)


# ---- mistakes at the start -----------------------------------------------------------------------


def test_reading_before_the_first_start_is_reported(tmp_path: Path) -> None:
    for deliveries in (
        Webhooks("moon", deliveries=tmp_path / "hubhooks.db").deliveries,
        SqliteStore(tmp_path / "hubhooks.db"),
    ):
        for read in (deliveries.list, lambda store=deliveries: store.get("d1")):
            with pytest.raises(StoreError, match="the app creates the file at its first start"):
                read()
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match="the app creates the file at its first start"):
        SqliteStore(tmp_path / "empty.db").list()
    assert not (tmp_path / "hubhooks.db").exists()
    with pytest.raises(StoreError, match="check the path"):
        SqliteStore(tmp_path / "no-folder" / "hubhooks.db").list()


GRADIO_APP = """
import gradio as gr
from hubhooks import Webhooks

hooks = Webhooks()
with gr.Blocks() as demo:
    hooks.activity()
hooks.launch(demo, prevent_thread_lock=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "environ", "message"),
    [
        (GRADIO_APP, {}, "no webhook secret is configured"),
        (GRADIO_APP, {"HUBHOOKS_ADMIN_TOKEN": "short"}, "HUBHOOKS_ADMIN_TOKEN must be"),
        (GRADIO_APP, {"WEBHOOK_SECRET": ""}, "is empty"),
        (
            GRADIO_APP,
            {"WEBHOOK_SECRET": "moon", "HUBHOOKS_DELIVERIES": "no/such/file.db"},
            "cannot be created",
        ),
    ],
)
def test_launch_error_has_a_short_traceback(
    script: str, environ: dict[str, str], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("gradio")
    environ = {"GRADIO_ANALYTICS_ENABLED": "False", "HOME": str(tmp_path), **environ}
    done = run_python(script, environ=environ, cwd=tmp_path, timeout=PATIENCE)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.count(str(ROOT / "python" / "hubhooks")) == 1
    assert "During handling" not in done.stderr


def test_startup_error_has_few_internal_frames(tmp_path: Path) -> None:
    script = (
        "from fastapi import FastAPI\nfrom hubhooks import Webhooks\n"
        "app = FastAPI()\napp.include_router(Webhooks().router())\n"
    )
    message = "no webhook secret is configured"
    environ = {"WEBHOOK_SECRET": None}
    with started(tmp_path, script=script, prints="Exiting", environ=environ) as server:
        output = server.output()
    assert message in output
    assert output.count(str(ROOT / "python" / "hubhooks")) <= 2


@pytest.mark.slow
def test_empty_admin_token_is_ignored_with_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    script = GRADIO_APP + "print(gr.Blocks.__name__); demo.close()\n"
    for value in ("", " "):
        environ = {
            "GRADIO_ANALYTICS_ENABLED": "False", "HOME": str(tmp_path), "WEBHOOK_SECRET": "moon",
            "HUBHOOKS_ADMIN_TOKEN": value,
        }  # fmt: skip
        done = run_python(script, environ=environ, cwd=tmp_path, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("HUBHOOKS_ADMIN_TOKEN is empty") == 1, done.stderr


def run_python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "", "PYTHONPATH": str(ROOT / "python"), **options.pop("environ", {})}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environ, capture_output=True, text=True, check=False, **options,
    )  # fmt: skip
