"""The command `hubhooks init`: make a small project from templates."""

from __future__ import annotations

import os
import re
import shlex
from enum import Enum
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from hubhooks._terminal import print_line, usage_errors
from hubhooks.cli.output import print_note
from hubhooks.errors import ConfigError

__all__ = ["add_commands"]

# Not docstrings, which `python -OO` drops.
_INIT_HELP = """Make a small project: an app with a handler, a test and a README.

No file is overwritten. If a file of the project exists, nothing is written.
"""
_SUFFIX = ".txt"
_MOST_SHOWN = 60


class _Kind(str, Enum):
    SPACE = "space"
    FASTAPI = "fastapi"
    JOB = "job"


# The files of the folder `common` that a kind of project has.
_COMMON = {
    _Kind.SPACE: ("bot.py", "test_bot.py"),
    _Kind.FASTAPI: ("bot.py", "test_bot.py"),
    _Kind.JOB: (),
}
_TRY = {
    _Kind.SPACE: "hubhooks dev app.py",
    _Kind.FASTAPI: "hubhooks dev app:app",
    _Kind.JOB: 'WEBHOOK_PAYLOAD="$(hubhooks samples repo.content.update)" python job.py',
}


def add_commands(app: typer.Typer) -> None:
    """Add the command `init`."""
    app.command("init", help=_INIT_HELP)(_init)


def _init(
    *,
    kind: Annotated[
        _Kind,
        typer.Argument(
            help="A Gradio Space, a FastAPI app, or a Job that the Hub starts for each delivery."
        ),
    ] = _Kind.SPACE,
    folder: Annotated[
        str,
        typer.Argument(help="The folder of the project. It is made if it does not exist."),
    ] = ".",
) -> None:
    root = Path(folder)
    with usage_errors():
        files = _project(kind, _title(root))
        existing = [name for name in files if os.path.lexists(root / name)]
        if existing:
            msg = f"`{root}` already has {', '.join(existing)}: give another folder"
            raise ConfigError(msg)
        try:
            root.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                with (root / name).open("x", encoding="utf-8", newline="\n") as file:
                    file.write(text)
        except OSError as error:
            msg = f"cannot write to `{root}`: {error.strerror}"
            raise ConfigError(msg) from error
    for name in sorted(files):
        print_line(str(root / name))
    print_note(
        f"test it: cd {shlex.quote(folder)} && pytest" if folder != "." else "test it: pytest"
    )
    print_note(f"run it: {_TRY[kind]}")
    print_note("README.md says how to deploy it")


def _title(root: Path) -> str:
    """Make a title from the name of the folder: one line, safe in YAML."""
    words = re.findall(r"[^\W_]+", root.absolute().name)
    title = " ".join(words)[:_MOST_SHOWN] or "My bot"
    # YAML reads some words and numbers as other values.
    return f"{title[0].upper()}{title[1:]}" if title[0].isalpha() else f"Bot {title}"


def _project(kind: _Kind, title: str) -> dict[str, str]:
    """Return the names and the texts of the files."""
    templates = resources.files("hubhooks") / "cli" / "templates"
    own = [(templates / kind.value, entry.name) for entry in (templates / kind.value).iterdir()]
    common = [(templates / "common", f"{name}{_SUFFIX}") for name in _COMMON[kind]]
    files = {
        name.removesuffix(_SUFFIX): (folder / name).read_text("utf-8")
        for folder, name in sorted((*own, *common), key=lambda each: each[1])
    }
    files[".gitignore"] = (templates / "common" / f"gitignore{_SUFFIX}").read_text("utf-8")
    files["README.md"] = Template(files["README.md"]).substitute(title=title)
    return files
