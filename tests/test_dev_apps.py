"""`hubhooks dev` with apps as people write them: real processes in an empty folder."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from dev_command import NOTHING_SET, dev
from servers import is_running, started, wait_until

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from servers import Server

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


def console_dev(folder: Path, target: str) -> AbstractContextManager[Server]:
    """Run `hubhooks dev` as the console script does: the folder is not on `sys.path`."""
    run = "import sys; sys.path.pop(0); from hubhooks.cli import main; main()"
    command = ("-c", run, "dev", target, "--port", "{port}")
    return started(folder, *command, prints="page ", environ=dict(NOTHING_SET))


# ---- the process -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hubhooks", "token"])
def test_file_of_the_app_hides_no_module_of_hubhooks(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("VALUE = 1\n", "utf-8")
    (tmp_path / "app.py").write_text(bot(), "utf-8")
    with console_dev(tmp_path, "app.py") as server:
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
        (attempt,) = running.attempts("d1", 1)
        assert attempt.output == "done\n"


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


# ---- messages ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("import ast\n\nast.literal_eval('1 +')\n", "app.py:3"),
        ("import ast\n\nexec('1/0')\n", "app.py:3"),
        ("import sys\n\nsys.exit('set HF_TOKEN')\n", "app.py:3"),
        ("# -*- coding: latin-99 -*-\n", "app.py:1"),
    ],
)
def test_place_of_an_error_is_in_the_app(tmp_path: Path, text: str, place: str) -> None:
    with dev(tmp_path, text) as running:
        assert f"app:hooks, broken: {place}; save" in running.server.output()


def test_error_in_an_installed_package_has_the_place_in_the_app(tmp_path: Path) -> None:
    packages = tmp_path / "env" / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "tides.py").write_text("1 / 0\n", "utf-8")
    text = f"import sys\nsys.path.append({str(packages)!r})\nimport tides\n"
    with dev(tmp_path, text) as running:
        assert "broken: app.py:3; save" in running.server.output()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os._exit(7)", "the app ended with exit code 7"),
        ("os.kill(os.getpid(), 9)", "the app was ended by SIGKILL"),
    ],
)
def test_end_of_the_app_is_printed(tmp_path: Path, body: str, reason: str) -> None:
    with dev(tmp_path, bot(body)) as running:
        running.deliver("d1")
        running.server.wait_for(f"broken: {reason}; save a file")
        assert running.app()["traceback"] == reason


def test_end_of_a_script_is_printed(tmp_path: Path) -> None:
    # `launch` need not be a method of Gradio.
    text = bot(first="def browse(browser):\n    browser.launch()\n")
    with dev(tmp_path, text, "app.py") as running:
        printed = running.server.output()
        assert "the script ended, so nothing is served" in printed
        assert "such as app:hooks" in printed


def test_slow_start_is_printed_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import time\n\ntime.sleep(600)\n", "utf-8")
    with dev(tmp_path, "import model\n") as running:
        # The URL of the page is printed too: `dev` waits for it.
        assert "still starting after 10 s, at model.py:3; " in running.server.output()


def test_changed_file_is_printed(tmp_path: Path) -> None:
    with dev(tmp_path, bot()) as running:
        running.write(bot("return 2"))
        printed = running.server.wait_for("restarted")
        assert " s (app.py changed), 1 handler (retrain)\n" in printed


def test_app_that_changes_its_own_files_is_named(tmp_path: Path) -> None:
    # Each start writes the file, which starts the app again.
    first = "open('made.py', 'w').write(str(time.time_ns())); time.sleep(1)"
    with dev(tmp_path, bot(first=first)) as running:
        printed = running.server.output()
        assert "made.py changed during each of the last 3 starts; " in printed


# ---- folders -----------------------------------------------------------------------------------


def test_app_outside_of_the_folder_is_watched(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "bot.py").write_text(bot(), "utf-8")
    with dev(folder, "", "../bot.py") as running:
        (tmp_path / "bot.py").write_text(bot("return 2"), "utf-8")
        running.server.wait_for("restarted")


@pytest.mark.skipif(sys.platform == "win32", reason="the folder is in use there")
def test_removed_folder_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "bot"
    folder.mkdir()
    (folder / "app.py").write_text(bot(), "utf-8")
    run = "import os; os.chdir('bot'); from hubhooks.cli import main; main()"
    command = ("-c", run, "dev", "app.py", "--port", "{port}")
    with started(tmp_path, *command, prints="page ", environ=dict(NOTHING_SET)) as server:
        shutil.rmtree(folder)
        assert server.wait() == 2
        assert "cannot start the app in" in server.output()
        assert "Traceback" not in server.output()


# ---- finding the webhooks ----------------------------------------------------------------------

MIDDLEWARE = """
class Middleware:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)
"""


@pytest.mark.parametrize(
    ("app", "path"),
    [
        ("app = Middleware(hooks)", "/"),
        (
            "from starlette.applications import Starlette as App\n{mount}",
            "/in/",
        ),
        (
            "from fastapi import FastAPI as App\n{mount}",
            "/in/",
        ),
    ],
)
def test_webhook_in_middleware_is_found(tmp_path: Path, app: str, path: str) -> None:
    pytest.importorskip("fastapi")
    mount = "app = Middleware(App())\napp.app.mount('/in', Middleware(hooks))"
    text = f"{bot()}{MIDDLEWARE}\n{app}\n".replace("{mount}", mount)
    with dev(tmp_path, text, "app:app") as running:
        assert f"webhook  {running.server.url}{path}\n" in running.server.output()


def test_webhook_of_another_asgi_app_is_not_denied(tmp_path: Path) -> None:
    app = "async def app(scope, receive, send):\n    await hooks(scope, receive, send)\n"
    with dev(tmp_path, f"{bot()}\n{app}", "app:app") as running:
        assert running.deliver("d1").status_code == 202
        assert "the paths of the handlers were not found" in running.server.output()


def test_file_with_the_name_of_another_module_is_named(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(bot(), "utf-8")
    with console_dev(tmp_path, "json.py") as server:
        printed = server.output()
        assert "hubhooks dev: the name `json` is taken by " in printed
        assert "rename `json.py`" in printed


PACKAGE = "from hubhooks import Webhooks\nhooks = Webhooks()\nfrom . import handlers\n"
HANDLERS = "from bot import hooks\n\n@hooks.on('repo')\ndef reply(event): pass\n"


def test_package_is_imported_once(tmp_path: Path) -> None:
    (tmp_path / "bot").mkdir()
    (tmp_path / "bot" / "__init__.py").write_text(PACKAGE, "utf-8")
    (tmp_path / "bot" / "handlers.py").write_text(HANDLERS, "utf-8")
    with dev(tmp_path, "", "bot/__init__.py") as running:
        assert "1 handler (reply)" in running.server.output()
