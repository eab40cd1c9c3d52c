"""README and docs are correct: their examples run, and they cover all public names."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers import PATIENCE, started
from typer.main import get_group

import hubhooks
from hubhooks import testing
from hubhooks.cli import make_app

ROOT = Path(__file__).parents[1]
SKILL = ROOT / "python" / "hubhooks" / "SKILL.md"
DOCS = [ROOT / "README.md", SKILL, *sorted((ROOT / "docs").glob("*.md"))]
# Generated pages name everything, so they do not count.
WRITTEN = [path for path in DOCS if path.name not in {"cli.md", "payloads.md"}]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
# As a module: code under `if __name__ == "__main__"` does not start.
RUN = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='example')"


# A block that begins like this is a file of that name for the later blocks.
FILE_NAME = re.compile(r"\A# (\w+\.py)\n")
# A block that begins like this continues that file.
CONTINUES = re.compile(r"\A# at the end of (\w+\.py)\n")
# These blocks are run by pytest.
DEFINES_TESTS = re.compile(r"^ *(async )?def test_", re.MULTILINE)


class Example(NamedTuple):
    """A block of Python, and its output in the block of text after it."""

    place: str
    code: str
    printed: str | None
    files: dict[str, str]


def examples() -> list[Example]:
    found = []
    for path in DOCS:
        text = path.read_text("utf-8")
        fences = list(FENCE.finditer(text))
        files: dict[str, str] = {}
        for fence, following in zip(fences, [*fences, None][1:], strict=True):
            if fence[1] != "python":
                continue
            shows = following is not None and following[1] == "text"
            is_next = following is not None and not text[fence.end() : following.start()].strip()
            line = text.count("\n", 0, fence.start()) + 1
            printed = following[2] if following is not None and shows and is_next else None
            continues = CONTINUES.match(fence[2])
            before = f"{files[continues[1]]}\n\n" if continues else ""
            found.append(Example(f"{path.name}:{line}", before + fence[2], printed, dict(files)))
            if name := FILE_NAME.match(fence[2]):
                files[name[1]] = fence[2]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("example", examples(), ids=lambda example: example.place)
def test_an_example_runs(example: Example, tmp_path: Path) -> None:
    uses_gradio = any("import gradio" in code for code in (example.code, *example.files.values()))
    if uses_gradio and find_spec("gradio") is None:
        pytest.skip("gradio is not installed")
    for name, code in example.files.items():
        (tmp_path / name).write_text(code, "utf-8")
    file = tmp_path / "example.py"
    file.write_text(example.code, "utf-8")
    if DEFINES_TESTS.search(example.code):
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)]
        (tmp_path / "tests").mkdir()
        (tmp_path / "tests" / "opening_post.json").write_bytes(
            testing.comment("And what do you say, @my-bot?").raw
        )
    else:
        command = ["-c", RUN, str(file)]
    # Warnings of Gradio itself are not checked.
    strict = [] if uses_gradio else ["-W", "error"]
    ended = subprocess.run(
        [sys.executable, *strict, *command],
        cwd=tmp_path,
        env={**os.environ, "WEBHOOK_SECRET": "moon"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    if example.printed is not None:
        assert ended.stdout == example.printed


def command_names(group: Any, above: str) -> list[str]:
    names = []
    for name, command in group.commands.items():
        whole = f"{above} {name}"
        names += command_names(command, whole) if hasattr(command, "commands") else [whole]
    return names


def test_every_command_is_shown() -> None:
    text = "".join(path.read_text("utf-8") for path in WRITTEN)
    commands = command_names(get_group(make_app()), "hubhooks")
    assert "hubhooks deliveries list" in commands
    assert [name for name in commands if f"{name} " not in text] == []


def test_every_public_class_is_named() -> None:
    text = "".join(path.read_text("utf-8") for path in WRITTEN)
    classes = [name for name in hubhooks.__all__ if isinstance(getattr(hubhooks, name), type)]
    assert classes
    assert [name for name in classes if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + DOCS[1:], ids=lambda path: path.name)
def test_links_within_the_repository_exist(path: Path) -> None:
    targets = [path.parent / link for link in LINK.findall(path.read_text("utf-8"))]
    assert [str(target) for target in targets if not target.exists()] == []


def test_changelog_begins_with_the_current_version() -> None:
    headings = re.findall(r"^## \[?(\d[^\] ]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == hubhooks.__version__


# ---- the README --------------------------------------------------------------------------------


README = ROOT / "README.md"
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d[\d,]*(?: ms| MB)?")


def section(heading: str) -> str:
    text = README.read_text("utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def commands(text: str) -> list[list[str]]:
    lines = "".join(COMMANDS.findall(text)).splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def test_readme_is_short() -> None:
    text = README.read_text("utf-8")
    lines = text.splitlines()
    words = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).split()
    assert len(lines) <= 130
    assert [line for line in lines if len(line) > 110] == []
    assert len(words) <= 900


def test_readme_needs_five_commands_to_a_reply(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    build, find, install, serve, send = commands(section("Install")) + commands(section("Run"))
    assert build == ["pip", "wheel", "--no-deps", "--wheel-dir", "dist", "."]
    assert find == ["export", "PIP_FIND_LINKS=$PWD/dist"]
    assert install[:2] == ["pip", "install"]
    assert serve == ["hubhooks", "dev", "app.py"]
    assert send[:2] == ["hubhooks", "send"]
    code = dict(FENCE.findall(section("Example")))["python"]
    reply = dict(FENCE.findall(section("Run")))["text"]
    command = ["-m", "hubhooks.cli", *serve[1:], "--port", "{port}"]
    unset = ("WEBHOOK_SECRET", "HUBHOOKS_ADMIN_TOKEN", "HUBHOOKS_DELIVERIES", "HF_TOKEN")
    environ = dict.fromkeys(unset)
    with started(tmp_path, *command, script=code, prints="page ", environ=environ) as server:
        sent = subprocess.run(
            [sys.executable, "-m", "hubhooks.cli", "send", server.url, *send[3:]],
            cwd=tmp_path,
            env={
                **{name: value for name, value in os.environ.items() if name not in environ},
                "PYTHONPATH": str(ROOT / "python"),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        assert sent.returncode == 0, sent.stdout + sent.stderr
        server.wait_for(reply)


def test_readme_and_quickstart_have_the_same_bot() -> None:
    bot = dict(FENCE.findall(section("Example")))["python"]
    assert f"```python\n{bot}```" in (ROOT / "docs" / "quickstart.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["README.md", "docs/index.md"])
def test_figures_match_the_comparison(name: str) -> None:
    rows = re.findall(r"^\| [a-z].*\d.* \|$", (ROOT / name).read_text("utf-8"), re.MULTILINE)
    comparison = (ROOT / "docs" / "peers.md").read_text("utf-8")
    assert len(rows) == 4
    for row in rows:
        figures = NUMBER.findall(row.partition(" | ")[2])
        assert [figure for figure in figures if figure not in comparison] == []


@pytest.mark.parametrize("name", ["pyproject.toml", "Cargo.toml", "mkdocs.yml"])
def test_description_is_the_same_everywhere(name: str) -> None:
    sentence = re.search(r"^\*\*(.+)\.\*\*$", README.read_text("utf-8"), re.MULTILINE)
    assert sentence is not None
    assert f'"{sentence[1]}"' in (ROOT / name).read_text("utf-8")
    assert sentence[0] in (ROOT / "docs" / "index.md").read_text("utf-8")
