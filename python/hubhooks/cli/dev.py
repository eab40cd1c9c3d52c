"""The command `hubhooks dev`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hubhooks._load_app import parse_target
from hubhooks._terminal import print_error, usage_errors
from hubhooks.dev.folder import keep_secrets

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["add_commands"]

_NEEDED = ("uvicorn", "watchfiles", "websockets")

# Not docstrings, which `python -OO` drops.
_HELP = """Run an app on this machine, and restart it when its code changes.

TARGET is `app:hooks`, `app:app` for FastAPI or another ASGI app, or a file such as `app.py`.
Deliveries wait during a restart. A secret that is not set is made once, and kept in `.hubhooks/`.
"""


def add_commands(app: typer.Typer) -> None:
    """Add the command `dev`."""
    register: Callable[..., object] = app.command("dev", help=_HELP)
    register(_dev)


def _dev(
    *,
    target: Annotated[str, typer.Argument(help="What to run: app:hooks, app:app or app.py.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port of the app.")] = 8000,
    host: Annotated[
        str, typer.Option(help="The address to listen on; only loopback addresses are allowed.")
    ] = "127.0.0.1",
    reload: Annotated[
        bool, typer.Option("--reload/--no-reload", help="Restart when a Python file changes.")
    ] = True,
) -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print_error(f'`{missing[0]}` is not installed: it needs the "dev" extra',
                    'pip install "hubhooks[dev]"')  # fmt: skip
        raise typer.Exit(2)
    from hubhooks.dev.supervisor import Options, run  # noqa: PLC0415 - it imports the extra

    with usage_errors():
        parse_target(target)
        kept = keep_secrets(Path.cwd())
        code = run(Options(target, host, port, reload), kept)
    raise typer.Exit(code)
