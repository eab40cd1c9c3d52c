"""`hubhooks handlers` and `hubhooks explain` on apps in files, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from test_cli import ENVIRONMENT

import hubhooks
from hubhooks import _load_app
from hubhooks._load_app import AppImportError, load_webhooks, parse_target
from hubhooks._samples import compact, sample_json
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(hubhooks.__file__).parents[2]
APP = """
from pathlib import Path
from hubhooks import Webhooks

hooks = Webhooks(ignore_authors=["6a00000000000000000000b0"])
print("imported")


@hooks.on("repo.content", repo="ada-labs/*", repo_type=["dataset", "model"], retries=3)
@hooks.on("repo", action="create")
def retrain(event):
    Path("ran").touch()


def is_long(event):
    return len(event.comment.content) > 1000


@hooks.on_comment(mention="my-bot", when=is_long, timeout=60, concurrency=2, debounce=2.5)
async def reply(event):
    Path("ran").touch()
"""
FASTAPI = """
from fastapi import FastAPI
from bot import hooks as the_hooks

def make():
    app = FastAPI()
    app.include_router(the_hooks.router("/in"))
    return app

app = make()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    return tmp_path


def run(
    folder: Path, *words: str, code: int = 0, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "hubhooks.cli", *words],
        cwd=folder,
        env=ENVIRONMENT,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    result = subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result


def run_json(folder: Path, *words: str, code: int = 0) -> Any:
    return json.loads(run(folder, *words, "--json", code=code).stdout)


# ---- handlers ----------------------------------------------------------------------------------


def test_handlers_are_listed_in_the_order_of_registration(folder: Path) -> None:
    done = run(folder, "handlers", "app:hooks")
    header, _, first, second = [line for line in done.stdout.splitlines() if line]
    assert header.split() == ["handler", "filters", "options", "source"]
    assert first.split(None, 1)[0] == "retrain"
    assert "repo, action create or repo.content" in first
    assert "repo_type dataset or model, repo ada-labs/*" in first
    assert "retries 3, backoff 10 s" in first
    assert first.rstrip().endswith("app.py:9")
    assert "new comment, mention my-bot, when is_long" in second
    assert "timeout 60 s, concurrency 2, debounce 2.5 s" in second
    # What the app prints is no data.
    assert "imported" in done.stderr


def test_handlers_as_json(folder: Path) -> None:
    retrain, reply = run_json(folder, "handlers", "app:hooks")["handlers"]
    assert (retrain["name"], retrain["line"], retrain["is_async"]) == ("retrain", 9, False)
    assert Path(retrain["file"]) == folder / "app.py"
    assert len(retrain["filters"]) == len(retrain["criteria"]) == 2
    assert retrain["criteria"][1]["repo_type"] == ["dataset", "model"]
    assert reply["criteria"] == [
        {
            "scopes": ["CommentEvent"],
            "action": ["create"],
            "mention": ["my-bot"],
            "when": "is_long",
        }
    ]
    assert reply["policy"] == {
        "retries": 0,
        "backoff": 10.0,
        "timeout": 60,
        "concurrency": 2,
        "serial": None,
        "debounce": 2.5,
    }


def test_listing_handlers_starts_nothing(folder: Path) -> None:
    run(folder, "handlers", "app:hooks")
    names = {path.name for path in folder.iterdir()}
    assert names <= {"app.py", "__pycache__"}


def test_app_without_handlers_has_a_note(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("from hubhooks import Webhooks\nhooks = Webhooks()\n")
    done = run(tmp_path, "handlers", "empty:hooks")
    assert (done.stdout, done.stderr) == ("", "no handler is registered\n")
    run(tmp_path, "explain", "empty:hooks", "--sample", "repo.create", code=1)


# ---- explain -----------------------------------------------------------------------------------


def test_explain_says_why_each_handler_matches_or_not(folder: Path) -> None:
    done = run(folder, "explain", "app:hooks", "--sample", "repo.content.update")
    event, _, _, first, second = [line for line in done.stdout.splitlines() if line]
    assert event == "repo.content update, dataset ada-labs/tide-gauges"
    assert first.split()[:2] == ["retrain", "yes"]
    assert second.split()[:2] == ["reply", "no"]
    assert "the event is a `ContentEvent`, not a `CommentEvent`" in second
    assert "1 handler of 2 would run" in done.stderr
    assert not (folder / "ran").exists()


def test_explain_exits_with_1_if_no_handler_matches(folder: Path) -> None:
    words = ("--sample", "repo.content.update", "--set", "repo.name=me/x")
    explained = run_json(folder, "explain", "app:hooks", *words, code=1)
    assert explained["event"] == "repo.content update"
    assert [handler["matches"] for handler in explained["handlers"]] == [False, False]
    assert "the repo is `me/x`, not `ada-labs/*`" in explained["handlers"][0]["text"]
    assert explained["ignored"] == ""


def test_explain_calls_when(folder: Path) -> None:
    words = ("explain", "app:hooks", "--sample", "discussion.comment.create")
    _, reply = run_json(folder, *words, code=1)["handlers"]
    assert reply["text"] == "`reply` does not match: its `when` returned false"
    text = "comment.content=@my-bot " + "x" * 1000
    _, reply = run_json(folder, *words, "--set", text)["handlers"]
    assert reply["matches"]


def test_explain_names_an_ignored_author(folder: Path) -> None:
    words = ("--sample", "discussion.comment.create")
    own = "comment.author.id=6a00000000000000000000b0"
    explained = run_json(folder, "explain", "app:hooks", *words, "--set", own, code=1)
    assert "`ignore_authors`" in explained["ignored"]
    assert [handler["text"] for handler in explained["handlers"]] == [
        f"`{name}` does not match: {explained['ignored']}" for name in ("retrain", "reply")
    ]


def test_explain_reads_a_file_and_standard_input(folder: Path) -> None:
    body = compact(sample_json("repo.create"))
    (folder / "body.json").write_bytes(body)
    run(folder, "explain", "app:hooks", "--file", "body.json")
    run(folder, "explain", "app:hooks", "--file", "-", stdin=body)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either --sample NAME or --file PATH"),
        (("--sample", "repo.creat"), "there is no sample `repo.creat`"),
        (("--file", "missing.json"), "cannot read missing.json"),
        (("--file", "app.py"), "app.py is not an event of the Hub"),
    ],
)
def test_wrong_body_is_a_usage_error(folder: Path, words: tuple[str, ...], message: str) -> None:
    done = run(folder, "explain", "app:hooks", *words, code=2)
    assert message in " ".join(done.stderr.replace("│", "").split())


# ---- finding the app ---------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Load an app from files of a new folder, and forget its modules afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(target: str, **files: str) -> Any:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text, "utf-8")
        return load_webhooks(target)

    yield load
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]


BOT = "from hubhooks import Webhooks\nhooks = Webhooks()\n"


def names(hooks: Any) -> list[str]:
    return [handler.name for handler in hooks.handlers]


@pytest.mark.parametrize("target", ["app1:hooks", "app1", "app1.py", "app1.py:hooks"])
def test_app_is_found_by_module_and_by_file(load: Callable[..., Any], target: str) -> None:
    assert names(load(target, app1=APP)) == ["retrain", "reply"]


@pytest.mark.parametrize("target", ["app2:app", "app2.py"])
def test_webhooks_of_a_fastapi_app_are_found(load: Callable[..., Any], target: str) -> None:
    pytest.importorskip("fastapi")
    assert names(load(target, app2=FASTAPI, bot=APP)) == ["retrain", "reply"]


def test_webhooks_of_a_mounted_app_are_found(load: Callable[..., Any]) -> None:
    pytest.importorskip("fastapi")
    text = BOT.replace("hooks =", "mounted =")
    app = "import fastapi, bot3\napp = fastapi.FastAPI()\napp.mount('/in', bot3.mounted)\n"
    assert names(load("app3:app", app3=app, bot3=text)) == []


@pytest.mark.parametrize("call", ["hooks.run_job()", "hooks.launch(None)"])
def test_blocking_call_ends_the_import(load: Callable[..., Any], call: str) -> None:
    methods = hubhooks.Webhooks.launch, hubhooks.Webhooks.run_job
    assert names(load("app4.py", app4=f"{APP}\n{call}\nraise SystemExit(1)\n")) == [
        "retrain",
        "reply",
    ]
    assert (hubhooks.Webhooks.launch, hubhooks.Webhooks.run_job) == methods


def test_factory_is_called(load: Callable[..., Any]) -> None:
    pytest.importorskip("fastapi")
    made = FASTAPI.replace("from bot", "from bot8").partition("\napp = make()")[0]
    made = made.replace("from bot8 import hooks as the_hooks", "import bot8").replace(
        "the_hooks", "bot8.hooks"
    )
    assert names(load("app8:make", app8=made, bot8=APP)) == ["retrain", "reply"]


def test_webhooks_in_middleware_are_found(load: Callable[..., Any]) -> None:
    middleware = "class Middleware:\n    def __init__(self, app): self.app = app\n"
    text = f"import bot9\n{middleware}app = Middleware(bot9.hooks)\n"
    assert names(load("app9:app", app9=text, bot9=APP)) == ["retrain", "reply"]


def test_launch_of_gradio_ends_the_import(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    text = f"import gradio\n{APP}\ngradio.Blocks().launch()\nraise SystemExit(1)\n"
    (tmp_path / "app.py").write_text(text, "utf-8")
    assert "retrain" in run(tmp_path, "handlers", "app.py").stdout


def test_package_is_imported_once(load: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bot11").mkdir()
    (tmp_path / "bot11" / "__init__.py").write_text(f"{BOT}from . import more\n", "utf-8")
    more = "from bot11 import hooks\n\n@hooks.on('repo')\ndef reply(event): pass\n"
    (tmp_path / "bot11" / "more.py").write_text(more, "utf-8")
    assert names(load("bot11/__init__.py")) == ["reply"]


def test_module_in_src_is_suggested(load: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "src" / "bot12").mkdir(parents=True)
    (tmp_path / "src" / "bot12" / "app.py").write_text(APP, "utf-8")
    with pytest.raises(ConfigError, match=r"did you mean `src/bot12/app\.py`\?"):
        load("bot12.app")


def test_thread_of_the_app_does_not_keep_the_command(tmp_path: Path) -> None:
    first = "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start()"
    (tmp_path / "app.py").write_text(f"{first}\n{APP}", "utf-8")
    assert "retrain" in run(tmp_path, "handlers", "app.py").stdout
    run(tmp_path, "explain", "app.py", "--sample", "repo.move", code=1)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("app5:hook", "the module `app5` has no attribute `hook`; did you mean `app5:hooks`?"),
        ("app5:hooks.nothing", "`app5:hooks` has no attribute `nothing`"),
        ("app55:hooks", "there is no module `app55` in {folder}; did you mean `app5`?"),
        ("zzz:hooks", "there is no module `zzz` in {folder}; run this command in the folder"),
        ("zzz.py", "there is no file `zzz.py` in {folder}"),
        ("a b", "`a b` does not name an app; write MODULE:ATTRIBUTE"),
        ("", "`` does not name an app; write MODULE:ATTRIBUTE"),
        ("app5:number", "`app5:number` is a int, and the module has 2 `Webhooks`"),
        ("app5", "the module `app5` has 2 `Webhooks`; name one: app5:hooks or app5:others"),
        ("plain5", "the module `plain5` has no `Webhooks`"),
        ("token.py", "the name `token` is taken by "),
        ("my.bot.py", "`my.bot.py` cannot be imported: rename it to a name without dots"),
    ],
)
def test_error_names_the_missing_part(
    load: Callable[..., Any], tmp_path: Path, target: str, message: str
) -> None:
    files = {"app5": f"{BOT}again = hooks\nothers = Webhooks()\nnumber = 1\n", "plain5": "a = 1\n"}
    files |= {"token": BOT, "my.bot": BOT}
    with pytest.raises(ConfigError) as caught:
        load(target, **files)
    assert str(caught.value).startswith(message.format(folder=tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import missing_package\n", "ModuleNotFoundError: No module named 'missing_package'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError"),
        ("raise SystemExit('set HF_TOKEN')\n", "it exits with 'set HF_TOKEN'"),
    ],
)
def test_failing_import_has_the_traceback_of_the_app(
    load: Callable[..., Any], text: str, message: str
) -> None:
    with pytest.raises(AppImportError, match="cannot import `app6`") as caught:
        load("app6:hooks", app6=text)
    assert message in str(caught.value)
    assert "app6.py" in caught.value.traceback
    assert Path(_load_app.__file__).name not in caught.value.traceback
    assert "importlib" not in caught.value.traceback


def test_failing_import_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("print('hello')\nraise ValueError('no \\x1b[31mtide')\n")
    done = run(tmp_path, "handlers", "app:hooks", code=2)
    assert done.stdout == ""
    assert 'app.py", line 2' in done.stderr
    assert "hubhooks: cannot import `app`: ValueError: no" in done.stderr
    assert "\x1b" not in done.stderr


def test_colon_of_a_windows_drive_is_no_attribute(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text(APP)
    assert parse_target(str(path)).attribute == ""
    assert parse_target(f"{path}:hooks").attribute == "hooks"
    with pytest.raises(ConfigError, match="there is no file"):
        parse_target(r"C:\bots\app.py")
