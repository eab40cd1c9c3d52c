"""Output of the commands to other encodings, full disks and closed streams."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, started
from test_cli import ENVIRONMENT

from hubhooks import cli
from hubhooks._samples import sample_json
from hubhooks._store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

# A Western European character, a Chinese one, and an emoji.
TEXT = "é 漢 🌊"
ESCAPED = {
    "ascii": "\\xe9 \\u6f22 \\U0001f30a",
    "cp1252": "é \\u6f22 \\U0001f30a",
    "cp936": "é 漢 \\U0001f30a",
    "utf-8": TEXT,
}
# Encodings of locales without UTF-8, except those of Windows.
LEGACY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
needs_posix = pytest.mark.skipif(
    os.name != "posix", reason="pipes and descriptors as POSIX has them"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make a store with three deliveries that have this text, each named by its state."""
    folder = tmp_path / TEXT
    folder.mkdir()
    store = SqliteStore(folder / "hubhooks.db")
    store.open()
    store.recover()
    payload = sample_json("discussion.comment.create")
    payload["comment"]["content"] = TEXT
    for name, ending in (("succeeded", "succeeded"), ("failed", "failed"), ("unhandled", None)):
        store.accept(
            name,
            json.dumps(payload, ensure_ascii=False).encode(),
            [TEXT] if ending else [],
            None if ending else "unhandled",
            f"`{TEXT}` does not match",
            scope="discussion.comment",
            action="create",
            repo=f"me/{TEXT}",
            headers=[(b"user-agent", b"caf\xe9")],
        )
        if ending and (run := store.claim(name, TEXT)):
            store.finish_run(run, ending, TEXT, f"Traceback\n  {TEXT}\n")  # type: ignore[arg-type]
    store.count_rejections(0, "secret wrong", 3)
    store.close()
    return folder / "hubhooks.db"


def hubhooks(
    *words: str | Path, options: tuple[str, ...] = (), environ: dict[str, str] | None = None,
    **streams: Any,
) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
    """Run the command in a separate process, with the given streams."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    done = subprocess.run(
        [sys.executable, *options, "-m", "hubhooks.cli", *words],
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        env={**ENVIRONMENT, **(environ or {})},
        **streams,
    )
    assert b"Traceback (most" not in (done.stderr or b""), done.stderr.decode()
    assert b"Exception ignored" not in (done.stderr or b""), done.stderr.decode()
    return done


def deliveries(path: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command, *more = words
    return hubhooks("deliveries", command, "--file", path, *more, **options)


# Each command with its exit code, and whether it prints the text.
COMMANDS = [
    (("list",), 0, True),
    (("list", "--json"), 0, False),
    (("show", "failed"), 0, True),
    (("show", "succeeded"), 0, True),
    (("show", "unhandled"), 0, True),
    (("show", "failed", "--json"), 0, False),
    (("stats",), 0, True),
    (("stats", "--json"), 0, False),
    (("replay", "--failed", "--dry-run"), 0, True),
    (("replay", "succeeded", "--json"), 0, False),
    (("replay", "succeeded"), 0, True),
    (("prune", "--older-than", "1d"), 0, False),
]
# Another code, or another place.
FAILING = [
    (("replay", "unhandled"), 1),
    (("show", "unknown"), 2),
    (("list", "--state", "unknown"), 2),
    (("list", "--scope", TEXT + "\x1b"), 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoding", "words", "code", "is_text_shown"),
    [
        *(("ascii", *command) for command in COMMANDS),
        *((encoding, *command) for encoding in ESCAPED for command in COMMANDS[:3]),
    ],
)
def test_unencodable_character_is_escaped(
    path: Path, encoding: str, words: tuple[str, ...], code: int, *, is_text_shown: bool
) -> None:
    done = deliveries(path, *words, environ={"PYTHONIOENCODING": encoding})
    assert done.returncode == code, done.stderr
    shown = done.stdout.decode(encoding)
    if is_text_shown:
        assert ESCAPED[encoding] in shown
    if "--json" in words:
        assert done.stdout.isascii()
        for line in done.stdout.splitlines():
            json.loads(line)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp936"])
@pytest.mark.parametrize(("words", "code"), FAILING)
def test_error_in_another_encoding_keeps_its_exit_code(
    path: Path, words: tuple[str, ...], code: int, encoding: str
) -> None:
    done = deliveries(path, *words, environ={"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.decode(encoding)


def test_json_is_the_same_in_every_encoding(path: Path) -> None:
    printed = {
        deliveries(path, "list", "--json", environ={"PYTHONIOENCODING": encoding}).stdout
        for encoding in ESCAPED
    }
    assert len(printed) == 1


@needs_posix
@pytest.mark.parametrize("words", [("list",), ("show", "failed")])
def test_locale_without_utf_8(path: Path, words: tuple[str, ...]) -> None:
    done = deliveries(path, *words, environ=LEGACY)
    assert done.returncode == 0
    assert ESCAPED["ascii"].encode() in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_name_of_an_exported_file_is_escaped(path: Path, encoding: str) -> None:
    output = path.parent / "body.json"
    done = deliveries(
        path, "export", "succeeded", "--output", str(output), environ={"PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 0
    assert ESCAPED[encoding] in done.stdout.decode(encoding)
    assert json.loads(output.read_bytes())["comment"]["content"] == TEXT


def test_exported_body_stays_utf_8(path: Path) -> None:
    done = deliveries(
        path, "export", "succeeded", "--output", "-", environ={"PYTHONIOENCODING": "ascii"}
    )
    assert json.loads(done.stdout)["comment"]["content"] == TEXT


# ---- a disk that is full, and a pipe that is closed --------------------------------------------

PRINTING = [
    ("list",), ("list", "--json"), ("show", "failed"), ("stats",),
    ("replay", "--failed", "--dry-run"), ("export", "succeeded", "--output", "-"),
]  # fmt: skip
WITHOUT_A_STORE = [
    ("--help",), ("--version",), ("samples",), ("samples", "repo.create"), ("send", "--help"),
    ("deliveries", "--help"), ("deliveries", "list", "--help"),
]  # fmt: skip
FULL = b"hubhooks: cannot write to standard output: No space left on device"


@pytest.mark.slow
@needs_full
@pytest.mark.parametrize(
    ("words", "options"), [*((words, ()) for words in PRINTING), (("list",), ("-u",))]
)
def test_full_disk_is_one_line_of_error(
    path: Path, words: tuple[str, ...], options: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = deliveries(path, *words, stdout=full, options=options)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith(b"dry run")]
    assert lines == [FULL]


@pytest.mark.slow
@needs_full
@pytest.mark.parametrize("words", WITHOUT_A_STORE)
def test_full_disk_without_a_store_is_one_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = hubhooks(*words, stdout=full)
    assert (done.returncode, done.stderr.splitlines()) == (1, [FULL])


@needs_full
def test_replay_to_a_full_disk_is_queued(path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = deliveries(path, "replay", "succeeded", stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == FULL
    delivery = SqliteStore(path).get("succeeded")
    assert delivery is not None
    assert delivery.state == "queued"


@pytest.mark.slow
@needs_full
@pytest.mark.parametrize(("words", "code"), FAILING)
def test_full_disk_of_stderr_keeps_the_exit_code(
    path: Path, words: tuple[str, ...], code: int
) -> None:
    with Path("/dev/full").open("wb") as full:
        assert deliveries(path, *words, stderr=full).returncode == code
        # The exit code shows the error even if printing is impossible.
        assert deliveries(path, *words, stdout=full, stderr=full).returncode == code


@contextmanager
def closed_pipe() -> Iterator[int]:
    """Return the writing end of a pipe without a reader."""
    outer, inner = os.pipe()
    os.close(outer)
    try:
        yield inner
    finally:
        os.close(inner)


@pytest.mark.slow
@needs_posix
@pytest.mark.parametrize(
    ("words", "options"), [*((words, ()) for words in PRINTING), (("list",), ("-u",))]
)
def test_closed_pipe_is_no_error(
    path: Path, words: tuple[str, ...], options: tuple[str, ...]
) -> None:
    with closed_pipe() as pipe:
        done = deliveries(path, *words, stdout=pipe, options=options)
    lines = [line for line in done.stderr.splitlines() if not line.startswith(b"dry run")]
    assert (done.returncode, lines) == (0, [])


@pytest.mark.slow
@needs_posix
@pytest.mark.parametrize("words", WITHOUT_A_STORE)
def test_closed_pipe_without_a_store_is_no_error(words: tuple[str, ...]) -> None:
    with closed_pipe() as pipe:
        done = hubhooks(*words, stdout=pipe)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.slow
@needs_posix
@pytest.mark.parametrize(("words", "code"), FAILING)
def test_closed_pipe_keeps_the_exit_code(path: Path, words: tuple[str, ...], code: int) -> None:
    with closed_pipe() as pipe:
        assert deliveries(path, *words, stdout=pipe).returncode == code
        assert deliveries(path, *words, stdout=pipe, stderr=pipe).returncode == code


@needs_posix
def test_head_ends_a_long_list(tmp_path: Path) -> None:
    """The list is longer than a pipe holds, so it is cut off in the middle of a write."""
    store = SqliteStore(tmp_path / "hubhooks.db")
    store.open()
    with store.transaction():
        for number in range(2_000):
            store.accept(f"delivery-{number}", b"{}", ["a"], scope="repo" * 20)
    store.close()
    words = ("deliveries", "list", "--limit", "2000", "--json", "--file", tmp_path / "hubhooks.db")
    process = subprocess.Popen(
        [sys.executable, "-m", "hubhooks.cli", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["id"] == "delivery-1999"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(PATIENCE) == 0
    process.stderr.close()


@pytest.mark.slow
@needs_posix
@pytest.mark.parametrize("words", [("list",), ("show", "failed", "--json")])
@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams_are_no_error(
    path: Path, words: tuple[str, ...], closed: tuple[int, ...]
) -> None:
    code = (
        f"import os, sys; [os.close(n) for n in {closed}]; os.execv(sys.executable, sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, "-m", "hubhooks.cli", "deliveries", words[0],
         "--file", path, *words[1:]],
        check=False, capture_output=True, timeout=PATIENCE, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0
    assert b"Traceback (most" not in done.stderr
    delivery = SqliteStore(path).get("succeeded")
    assert delivery is not None


@needs_posix
def test_closed_standard_input_is_reported() -> None:
    code = "import os, sys; os.close(0); os.execv(sys.executable, sys.argv[1:])"
    words = ("send", "http://127.0.0.1:1/", "--file", "-")
    done = subprocess.run(
        [sys.executable, "-c", code, sys.executable, "-m", "hubhooks.cli", *words],
        check=False, capture_output=True, timeout=PATIENCE, env=ENVIRONMENT,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"cannot read standard input: it is closed" in done.stderr


@needs_posix
def test_non_blocking_output_is_awaited(path: Path) -> None:
    """A program that shares the output, such as Node, may make it non-blocking."""
    store = SqliteStore(path)
    store.open()
    with store.transaction():
        for number in range(2_000):
            store.accept(f"delivery-{number}", b"{}", ["a"], scope="repo" * 20)
    store.close()
    outer, inner = os.pipe()
    os.set_blocking(inner, False)
    process = subprocess.Popen(
        [sys.executable, "-m", "hubhooks.cli", "deliveries", "list", "--limit", "2000", "--json",
         "--file", path],
        stdout=inner, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    os.close(inner)
    with os.fdopen(outer, "rb") as pipe:
        lines = pipe.read().splitlines()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(PATIENCE) == 0
    process.stderr.close()
    assert len(lines) == 2_000


def test_main_prints_to_a_string_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    monkeypatch.setattr(sys, "argv", ["hubhooks", "--version"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert text.getvalue().startswith("hubhooks ")
    assert sys.stdout is text


# ---- send --------------------------------------------------------------------------------------

APP = f"""
from hubhooks import Webhooks

hooks = Webhooks()


@hooks.on("repo", name="{TEXT}")
def handle(event):
    pass
"""


def test_send_prints_responses_in_every_encoding(tmp_path: Path) -> None:
    serving = ("-m", "uvicorn", "app:hooks", "--port", "{port}")
    with started(tmp_path, *serving, script=APP) as server:
        words = ("send", server.url, "--sample", "repo.create")
        secret = {"WEBHOOK_SECRET": "moon"}
        for encoding in ("ascii", "cp1252", "cp936"):
            done = hubhooks(*words, environ={**secret, "PYTHONIOENCODING": encoding})
            assert (done.returncode, done.stderr) == (0, b"")
            assert f"accepted: {ESCAPED[encoding]}" in done.stdout.decode(encoding)
        for more in ((), ("--json",)):
            with closed_pipe() as pipe:
                done = hubhooks(*words, *more, environ=secret, stdout=pipe)
                assert (done.returncode, done.stderr) == (0, b"")
                # The exit code of a response that is not 2xx is still 1.
                done = hubhooks(*words, *more, environ={"WEBHOOK_SECRET": "sun"}, stdout=pipe)
                assert done.returncode == 1
                assert done.stderr.startswith(b"hint: ")


@needs_full
def test_send_to_a_full_disk_is_one_line_of_error(tmp_path: Path) -> None:
    serving = ("-m", "uvicorn", "app:hooks", "--port", "{port}")
    with (
        started(tmp_path, *serving, script=APP) as server,
        Path("/dev/full").open("wb") as full,
    ):
        words = ("send", server.url, "--sample", "repo.create")
        done = hubhooks(*words, environ={"WEBHOOK_SECRET": "moon"}, stdout=full)
    assert (done.returncode, done.stderr.splitlines()) == (1, [FULL])


# ---- python -OO --------------------------------------------------------------------------------

HELPED = [
    ((), "Make and test webhook apps"),
    (("send",), "Send deliveries as the Hub does"),
    (("samples",), "List the sample deliveries"),
    (("deliveries",), "List, show and replay the stored deliveries"),
    (("deliveries", "list"), "List deliveries, newest first"),
    (("deliveries", "show"), "Show one delivery"),
    (("deliveries", "replay"), "Queue the handlers of deliveries again"),
    (("deliveries", "export"), "Write the body of a delivery"),
    (("deliveries", "stats"), "Show the delivery store"),
    (("deliveries", "prune"), "Delete the bodies of old finished deliveries"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "text"), HELPED)
def test_help_is_the_same_without_docstrings(words: tuple[str, ...], text: str) -> None:
    whole = hubhooks(*words, "--help")
    assert text in whole.stdout.decode()
    assert hubhooks(*words, "--help", options=("-OO",)).stdout == whole.stdout


# ---- output of an app --------------------------------------------------------------------------

JOB = f"""
from hubhooks import Webhooks

hooks = Webhooks()


@hooks.on("repo", name="{TEXT}")
def handle(event):
    if event.repo.private:
        raise ValueError("{TEXT} \\udcff")


hooks.run_job()
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize(("private", "code"), [(False, 0), (True, 1)])
def test_job_prints_the_outcome_in_every_encoding(
    tmp_path: Path, encoding: str, code: int, *, private: bool
) -> None:
    (tmp_path / "train.py").write_text(JOB, "utf-8")
    payload = sample_json("repo.create")
    payload["repo"]["private"] = private
    environ = {"PYTHONIOENCODING": encoding, "WEBHOOK_PAYLOAD": json.dumps(payload)}
    done = subprocess.run(
        [sys.executable, tmp_path / "train.py"],
        check=False, capture_output=True, timeout=PATIENCE, env={**ENVIRONMENT, **environ},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stdout.decode(encoding).splitlines() if "hubhooks: " in line]
    state = f"failed: ValueError: {ESCAPED[encoding]} \\udcff" if private else "succeeded"
    assert lines == [f"hubhooks: `{ESCAPED[encoding]}`: {state}"]


GRADIO = """
import gradio as gr
from hubhooks import Webhooks

hooks = Webhooks()
with gr.Blocks() as demo:
    gr.Markdown("x")
hooks.launch(demo)
"""


def test_gradio_app_starts_in_an_unencodable_folder(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    folder = tmp_path / TEXT
    folder.mkdir()
    environ = {
        "PYTHONIOENCODING": "ascii", "HUBHOOKS_DELIVERIES": None,
        "GRADIO_SERVER_PORT": "{port}", "GRADIO_ANALYTICS_ENABLED": "False",
    }  # fmt: skip
    with started(folder, "app.py", script=GRADIO, environ=environ) as server:
        output = server.wait_for("Deliveries are stored in ")
        server.wait_for("hubhooks.db")
        assert ESCAPED["ascii"] in output
        assert "Traceback" not in server.output()
