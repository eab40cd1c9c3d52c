"""A newcomer's first steps: an own machine, the demo, the documented commands."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pythons import find_python
from servers import PATIENCE, ROOT, SECRET, started

from hubhooks import Webhooks
from hubhooks._samples import compact, sample_json, sample_names
from hubhooks._worker.pools import SWITCH_SECONDS
from hubhooks.dev.folder import keep_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


# ---- other Pythons -----------------------------------------------------------------------------


def put_command(path: Path, *lines: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")), "utf-8")
    path.chmod(0o755)
    return path


def put_python(path: Path) -> Path:
    return put_command(path, f'exec "{sys.executable}" "$@"')


def put_shim_of_an_unselected_version(folder: Path) -> None:
    name = f"python{VERSION}"
    put_command(folder / name, f'echo "pyenv: {name}: command not found" >&2', "exit 127")


def test_python_is_found_in_another_pyenv_root(tmp_path: Path) -> None:
    put_python(tmp_path / "pyenv" / "versions" / f"{VERSION}.0" / "bin" / "python")
    environ = {"HOME": str(tmp_path / "home"), "PYENV_ROOT": str(tmp_path / "pyenv"), "PATH": ""}
    assert find_python(VERSION, environ) is not None


def test_python_is_found_without_pyenv_root(tmp_path: Path) -> None:
    put_python(tmp_path / ".pyenv" / "versions" / f"{VERSION}.0" / "bin" / "python")
    assert find_python(VERSION, {"HOME": str(tmp_path), "PATH": ""}) is not None


def test_shim_of_an_unselected_version_is_skipped(tmp_path: Path) -> None:
    put_shim_of_an_unselected_version(tmp_path / "shims")
    environ = {"HOME": str(tmp_path), "PATH": str(tmp_path / "shims")}
    assert find_python(VERSION, environ) is None


def test_python_behind_a_failing_shim_is_found(tmp_path: Path) -> None:
    put_shim_of_an_unselected_version(tmp_path / "shims")
    put_python(tmp_path / "bin" / f"python{VERSION}")
    environ = {"HOME": str(tmp_path), "PATH": f"{tmp_path / 'shims'}:{tmp_path / 'bin'}"}
    assert find_python(VERSION, environ) is not None


@pytest.mark.parametrize(
    "lines",
    [
        ["exit 0"],
        ["echo 3.10"],
        [f'exec "{sys.executable}" -c "raise ImportError"'],
        ["printf '/python\\n2\\n7\\n18\\n'"],
    ],
)
def test_python_that_does_not_report_the_version_is_skipped(
    tmp_path: Path, lines: list[str]
) -> None:
    put_command(tmp_path / f"python{VERSION}", *lines)
    assert find_python(VERSION, {"HOME": str(tmp_path), "PATH": str(tmp_path)}) is None


def test_file_that_is_no_program_is_skipped(tmp_path: Path) -> None:
    broken = tmp_path / "versions" / f"{VERSION}.0" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("not a program", "utf-8")
    environ = {"HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path), "PATH": ""}
    assert find_python(VERSION, environ) is None


# ---- make run and make demo --------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Run the demo in an empty folder, and return its output and that folder."""
    folder = tmp_path_factory.mktemp("demo")
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    environ.pop("HUBHOOKS_DELIVERIES", None)
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "demo.py")],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout, folder


def test_demo_shows_what_ran_and_counts_the_rest(demo: tuple[str, Path]) -> None:
    printed, _ = demo
    rows = re.findall(r"^  (\S+) +202  ran (\w+)$", printed, re.MULTILINE)
    assert len(rows) >= 10
    assert f"{len(rows)} of the {len(sample_names())} samples are shown." in printed
    assert f"The other {len(sample_names()) - len(rows)} match no handler" in printed
    assert printed.count("unhandled") == 1
    # The paths of commands are as long as the folder of the clone.
    lines = [line for line in printed.splitlines() if not line.startswith(("  cd ", "  ../"))]
    assert max(map(len, lines)) <= 100


def test_demo_announces_start_and_next_steps(demo: tuple[str, Path]) -> None:
    printed, _ = demo
    assert printed.startswith("Starting examples/quickstart.py")
    end = printed[printed.index("Try next:") :]
    for word in (
        "make demo",
        "hubhooks dev quickstart.py",
        "hubhooks send",
        "docs/quickstart.md",
    ):
        assert word in end


def test_demo_prints_commands_for_the_current_folder(demo: tuple[str, Path]) -> None:
    printed, folder = demo
    commands = re.search(r"^  cd (\S+)\n  (\S+) dev \S+\n  \2 send ", printed, re.MULTILINE)
    assert commands is not None
    examples = folder / commands[1]
    assert examples.samefile(ROOT / "examples")
    assert (examples / commands[2]).parent.samefile(Path(sys.executable).parent)


def test_demo_leaves_no_store(demo: tuple[str, Path]) -> None:
    _, folder = demo
    assert list(folder.iterdir()) == []


def test_demo_stays_open_with_its_page_until_ctrl_c(tmp_path: Path) -> None:
    command = (str(ROOT / "scripts" / "demo.py"), "--stay", "--port", "{port}")
    environ: dict[str, str | None] = {"WEBHOOK_SECRET": None, "HUBHOOKS_ADMIN_TOKEN": None}
    with started(tmp_path, *command, prints="Ctrl-C ends the app", environ=environ) as server:
        found = re.search(
            r"^  http://127\.0\.0\.1:\d+(/_hubhooks/)#(\S+)$", server.output(), re.MULTILINE
        )
        assert found is not None
        page, token = found.groups()
        assert "<html" in server.request(page).text
        headers = {"Authorization": f"Bearer {token}"}
        listed = server.request(f"{page}api/deliveries", headers=headers).json()
        assert listed["total"] == len(sample_names())
        os.kill(server.pid, signal.SIGINT)
        assert server.wait() == 0
        server.wait_until_closed()
    assert "Traceback" not in server.output()


def recipes() -> list[list[str]]:
    """Return the commands of each rule of the Makefile."""
    rules = re.split(r"\n(?=\S)", (ROOT / "Makefile").read_text("utf-8"))
    return [[line for line in rule.splitlines() if line.startswith("\t")] for rule in rules]


def test_make_announces_each_quiet_step() -> None:
    quiet = [
        lines
        for lines in recipes()
        if any("--quiet" in line and "zizmor" not in line for line in lines)
    ]
    assert len(quiet) >= 5
    for lines in quiet:
        first = next(at for at, line in enumerate(lines) if "--quiet" in line)
        assert any(line.startswith("\t@echo") for line in lines[:first]), lines


# ---- the docs ----------------------------------------------------------------------------------

PAGES = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for folder in ("", "docs", "examples")
    for path in sorted((ROOT / folder).glob("*.md" if folder != "examples" else "*/*.md"))
}


def commands(start: str) -> list[tuple[str, str]]:
    """Return the lines of code blocks that begin so, each with its page."""
    lines = re.compile(rf"^ *({re.escape(start)}\b.*)$", re.MULTILINE)
    return [(page, line) for page, text in PAGES.items() for line in lines.findall(text)]


def test_job_scripts_are_run_by_url() -> None:
    found = commands("hf jobs uv run")
    assert {page for page, _ in found} >= {"docs/jobs.md", "examples/job/README.md"}
    for page, line in found:
        assert line.split()[4].startswith("https://"), f"{page}: {line}"


def test_docs_list_reachable_spaces_and_their_cost() -> None:
    for page, text in PAGES.items():
        assert not re.search(r"must be (a )?public(?! or protected)", text), page
    for page in ("README.md", "docs/tutorial.md", "docs/gradio.md", "docs/deploying.md"):
        assert "public or protected" in PAGES[page], page
        assert "paid plan" in PAGES[page], page


# ---- the store's files -------------------------------------------------------------------------

EXAMPLES = [ROOT / "examples", *sorted(path.parent for path in ROOT.glob("examples/*/README.md"))]
BESIDE = ("-journal", "-wal.moved-1", "-new", ".leader-new")


@pytest.fixture
def store_folder(
    tmp_path: Path, serve: Callable[..., Any], post: Callable[..., Any]
) -> Iterator[Path]:
    """Return a folder with the files of a store in use, and those that exist at times only."""
    for suffix in BESIDE:
        (tmp_path / f"hubhooks.db{suffix}").touch()
    hooks = Webhooks(SECRET, deliveries=str(tmp_path / "hubhooks.db"))
    hooks.add(lambda event: None, "repo.content", name="pushed")
    with serve(hooks) as port:
        assert post(port, compact(sample_json("repo.content.update")))[0] == 202
        names = {path.name for path in tmp_path.iterdir()}
        assert names > {"hubhooks.db", "hubhooks.db-wal", "hubhooks.db.runner"}
        assert all(name.startswith("hubhooks.db") for name in names)
        yield tmp_path


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_git_ignores_the_store_in_a_copied_example(store_folder: Path, example: Path) -> None:
    shutil.copy(example / ".gitignore", store_folder)
    keep_secrets(store_folder)
    (store_folder / ".hubhooks" / ".gitignore").unlink()  # the example's file is enough
    git(store_folder, "init", "--quiet")
    status = git(store_folder, "status", "--porcelain", "--untracked-files=all")
    assert status.split() == ["??", ".gitignore"]


def test_documented_patterns_exclude_store_and_secrets_from_upload_folder(
    store_folder: Path,
) -> None:
    hub = pytest.importorskip("huggingface_hub.utils")
    page = PAGES["docs/deploying.md"]
    shown = re.search(r"upload_folder\(.*?ignore_patterns=\[(.*?)\]\s*\)", page, re.DOTALL)
    assert shown is not None
    patterns = re.findall(r'"([^"]*)"', shown[1])
    assert " ".join(f'--exclude "{pattern}"' for pattern in patterns) in page
    keep_secrets(store_folder)
    files = [path for path in store_folder.rglob("*") if path.is_file()]
    names = [path.relative_to(store_folder).as_posix() for path in files]
    assert ".hubhooks/webhook_secret" in names
    kept = hub.filter_repo_objects([*names, "app.py", "README.md"], ignore_patterns=patterns)
    assert list(kept) == ["app.py", "README.md"]


# ---- how to install it -------------------------------------------------------------------------


def test_install_pages_explain_the_missing_pypi_release() -> None:
    pages = {page for page, _ in commands("pip install")}
    assert pages >= {"README.md", "docs/index.md", "docs/tutorial.md", "docs/fastapi.md"}
    for page in pages - {"README.md", "docs/deploying.md"}:
        assert re.search(r"[Uu]ntil\s(its|the)\sfirst\srelease", PAGES[page]), page
        assert "README.md#install" in PAGES[page], page


def test_first_command_of_the_readme_builds_the_wheel() -> None:
    first = re.search(r"^```sh\n(.*?)$", PAGES["README.md"], re.MULTILINE)
    assert first is not None
    assert first[1].startswith("pip wheel ")


def test_documented_extras_exist() -> None:
    text = "".join(PAGES.values())
    named = {
        extra
        for listed in re.findall(r'(?:hubhooks|"\.|\.whl\)"?)\[([a-z,]+)\]', text)
        for extra in listed.split(",")
    }
    assert {"cli", "fastapi", "gradio"} <= named
    extras = importlib.metadata.metadata("hubhooks").get_all("Provides-Extra") or []
    assert named <= set(extras)


def test_uvicorn_is_installed_with_its_fast_extras() -> None:
    for page, line in commands("pip install"):
        assert not re.search(r"\buvicorn\b(?!\[standard\]|-worker)", line), f"{page}: {line}"
    for path in ROOT.glob("examples/*/requirements.txt"):
        lines = path.read_text("utf-8").split()
        assert ("uvicorn[standard]" in lines) == (path.parent.name != "job"), path


def test_limits_name_the_switch_interval_and_plain_uvicorn() -> None:
    text = " ".join(PAGES["docs/limits.md"].split())
    assert f"`sys.setswitchinterval` to {SWITCH_SECONDS * 1000:g} ms" in text
    assert "uvicorn[standard]" in text
