"""`hubhooks dev` with apps as people write them: real processes in an empty folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dev_command import NOTHING_SET, dev
from servers import started, wait_until

BOT = """
import os, subprocess, sys, threading, time
from hubhooks import Webhooks

{first}
hooks = Webhooks()

@hooks.on("repo.content")
{kind}def retrain(event):
    {body}
"""
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


def bot(body: str = "pass", first: str = "", kind: str = "") -> str:
    """Return an app with a handler."""
    return BOT.replace("{body}", body).replace("{first}", first).replace("{kind}", kind)


def is_running(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


# ---- the process -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hubhooks", "token"])
def test_file_of_the_app_hides_no_module_of_hubhooks(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("VALUE = 1\n", "utf-8")
    # As the console script starts: the folder is not on `sys.path`.
    run = "import sys; sys.path.pop(0); from hubhooks.cli import main; main()"
    command = ("-c", run, "dev", "app.py", "--port", "{port}")
    with started(
        tmp_path, *command, script=bot(), prints="page ", environ=dict(NOTHING_SET)
    ) as server:
        assert "1 handler (retrain)" in server.output()


@needs_proc
def test_blocked_app_ends_if_the_supervisor_is_killed(tmp_path: Path) -> None:
    with dev(tmp_path, bot('print("begun"); time.sleep(600)', kind="async ")) as running:
        running.deliver("d1")
        running.server.wait_for("begun")
        (child,) = running.children()
        running.server.kill()
        wait_until(lambda: not is_running(child), "the app still runs")


@needs_proc
def test_process_of_a_handler_ends_if_the_supervisor_is_killed(tmp_path: Path) -> None:
    body = 'print("sleeper", subprocess.Popen(["sleep", "600"]).pid, "end")'
    with dev(tmp_path, bot(body)) as running:
        running.deliver("d1")
        text = running.server.wait_for(" end\n")
        running.server.kill()
        pid = int(text.partition("sleeper ")[2].split()[0])
        wait_until(lambda: not is_running(pid), "the process still runs")


def test_functions_of_atexit_run_at_a_restart(tmp_path: Path) -> None:
    first = "import atexit; atexit.register(lambda: open('ended.txt', 'w').close())"
    with dev(tmp_path, bot(first=first)) as running:
        running.write(bot("return 2"))
        running.server.wait_for("restarted")
        assert (tmp_path / "ended.txt").exists()


def test_function_of_atexit_that_hangs_does_not_stop_the_restart(tmp_path: Path) -> None:
    first = "import atexit; atexit.register(time.sleep, 600)"
    with dev(tmp_path, bot(first=first)) as running:
        running.write(bot("return 2"))
        running.server.wait_for("restarted")


# ---- output ------------------------------------------------------------------------------------


def test_output_is_utf_8_with_any_locale(tmp_path: Path) -> None:
    app = bot('print("caf\\u00e9 \\u2713")')
    with dev(tmp_path, app, PYTHONIOENCODING="latin-1") as running:
        running.deliver("d1")
        (attempt,) = running.attempts("d1", 1)
        assert (attempt.state, attempt.output) == ("succeeded", "café ✓\n")
        running.server.wait_for("`retrain`: succeeded")
        assert "café ✓" in [line["text"] for line in running.app()["output"]]


def test_progress_without_newline_is_shown_at_once(tmp_path: Path) -> None:
    body = (
        'print("10%", end="\\r"); print("20%", end="\\r")\n'
        '    while not os.path.exists("go"): time.sleep(0.01)\n'
        '    print("done")'
    )
    with dev(tmp_path, bot(body)) as running:
        running.deliver("d1")
        running.server.wait_for("20%")
        (tmp_path / "go").touch()
        running.server.wait_for("done\n")
        lines = [line["text"] for line in running.app()["output"]]
        assert "done" in lines
        assert not any("%" in line for line in lines)


LOGGING = """
import logging
logging.basicConfig(level="INFO", handlers=[logging.FileHandler("bot.log", "w")])
"""


def test_log_file_of_the_app_stays_open(tmp_path: Path) -> None:
    app = bot('logging.info("tide is high")', first=LOGGING)
    with dev(tmp_path, app) as running:
        running.deliver("d1")
        running.attempts("d1", 1)
        assert "tide is high" in (tmp_path / "bot.log").read_text("utf-8")


def test_failed_start_is_printed_if_the_app_disables_all_loggers(tmp_path: Path) -> None:
    first = "import logging.config; logging.config.dictConfig({'version': 1})"
    with dev(tmp_path, bot(first=first), WEBHOOK_SECRET="") as running:
        running.wait_for_state("broken")
        assert "webhook secret 1 is empty" in running.server.output()
