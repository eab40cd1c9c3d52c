"""`hubhooks init`: the made projects pass their tests, and their apps start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from servers import SECRET, started
from test_cli import ENVIRONMENT, hubhooks

from hubhooks._samples import compact, sample_json

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("space", "fastapi", "job")
COMMON = {".gitignore", "README.md", "requirements.txt"}
FILES = {
    "space": COMMON | {"app.py", "bot.py", "test_bot.py"},
    "fastapi": COMMON | {"app.py", "bot.py", "test_bot.py"},
    "job": COMMON | {"job.py", "test_job.py"},
}
COMMENT = compact(sample_json("discussion.comment.create"))


def made(kind: str, folder: Path) -> Path:
    done = hubhooks("init", kind, str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == sorted(str(folder / name) for name in FILES[kind])
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_project_has_its_files(tmp_path: Path, kind: str) -> None:
    folder = made(kind, tmp_path / "tide-bot")
    assert {path.name for path in folder.iterdir()} == FILES[kind]
    readme = (folder / "README.md").read_text("utf-8")
    assert "# Tide bot\n" in readme
    assert "HF_TOKEN" in readme
    assert "WEBHOOK_SECRET" in readme
    assert "$$" not in readme
    assert ".hubhooks/" in (folder / ".gitignore").read_text("utf-8")


def test_space_has_front_matter(tmp_path: Path) -> None:
    readme = (made("space", tmp_path / "null") / "README.md").read_text("utf-8")
    front = re.match(r"---\n(.+?)\n---\n", readme, re.DOTALL)
    assert front is not None
    entries = dict(line.split(": ", 1) for line in front[1].splitlines())
    assert entries["title"] == '"Null"'
    assert (entries["sdk"], entries["app_file"]) == ("gradio", "app.py")
    assert re.fullmatch(r"\d+\.\d+\.\d+", entries["sdk_version"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tests_of_the_project_pass(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("huggingface_hub")
    folder = made(kind, tmp_path / "bot")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=folder,
        env={**ENVIRONMENT, "HF_TOKEN": "hf_not_used"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_fastapi_app_starts_and_replies(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    folder = made("fastapi", tmp_path / "bot")
    with started(folder, environ={"HF_TOKEN": None}) as server:
        done = server.post("/webhooks/hub", COMMENT)
        assert (done.status_code, done.json()["handlers"]) == (202, ["reply"])
        server.wait_for("reply in ada-labs/tide-gauges #7: Hello from ada-labs/tide-gauges!")


def test_space_starts_and_replies(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    folder = made("space", tmp_path / "bot")
    environ: dict[str, str | None] = {
        "GRADIO_SERVER_PORT": "{port}",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_TOKEN": None,
    }
    with started(folder, "app.py", environ=environ) as server:
        done = server.post("/gradio_api/webhooks", COMMENT)
        assert (done.status_code, done.json()["handlers"]) == (202, ["reply"])
        server.wait_for("Hello from ada-labs/tide-gauges!")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "library"), [("space", "gradio"), ("fastapi", "fastapi")])
def test_commands_of_the_readme_run_and_send(tmp_path: Path, kind: str, library: str) -> None:
    pytest.importorskip(library)
    folder = made(kind, tmp_path / "bot")
    readme = (folder / "README.md").read_text("utf-8")
    (dev,) = re.findall(r"^hubhooks (dev .+)$", readme, re.MULTILINE)
    (send,) = re.findall(r"^hubhooks (send .+)$", readme, re.MULTILINE)
    environ = dict.fromkeys(("HF_TOKEN", "WEBHOOK_SECRET", "HUBHOOKS_DELIVERIES"))
    command = ("-m", "hubhooks.cli", *dev.split(), "--port", "{port}")
    with started(folder, *command, prints="page ", environ=environ) as server:
        done = subprocess.run(
            [sys.executable, "-m", "hubhooks.cli", *send.replace("8000", str(server.port)).split()],
            cwd=folder,
            env={name: ENVIRONMENT[name] for name in ENVIRONMENT if name not in environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        server.wait_for("Hello from ada-labs/tide-gauges!")


def test_job_runs(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    folder = made("job", tmp_path / "bot")
    environment = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    body = compact(sample_json("repo.content.update")).decode()
    done = subprocess.run(
        [sys.executable, "job.py"],
        cwd=folder,
        env={**environment, **ENVIRONMENT, "WEBHOOK_PAYLOAD": body, "WEBHOOK_SECRET": SECRET},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ada-labs/tide-gauges at" in done.stdout


@pytest.mark.parametrize("name", ["bot.py", ".gitignore"])
def test_existing_file_is_kept_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    done = hubhooks("init", "fastapi", str(tmp_path))
    assert done.returncode == 2
    assert f"already has {name}" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert hubhooks("init", "job", str(tmp_path)).returncode == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_link_to_no_file_is_kept_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "bot.py").symlink_to(tmp_path / "nowhere")
    done = hubhooks("init", "fastapi", str(tmp_path))
    assert "already has bot.py" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bot.py"]


def test_printed_command_quotes_the_folder(tmp_path: Path) -> None:
    folder = str(tmp_path / "my bot")
    assert f"test it: cd '{folder}' && pytest" in hubhooks("init", "job", folder).stderr


def test_unknown_kind_is_a_usage_error(tmp_path: Path) -> None:
    done = hubhooks("init", "flask", str(tmp_path / "bot"))
    assert done.returncode == 2
    assert "'space', 'fastapi', 'job'" in done.stderr
    assert not (tmp_path / "bot").exists()


def test_folder_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = hubhooks("init", "job", str(tmp_path / "file" / "bot"))
    assert done.returncode == 2
    assert "cannot write to" in done.stderr
