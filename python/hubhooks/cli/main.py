"""The `hubhooks` command: its subcommands and the group `deliveries`.

`import hubhooks.cli` works without the extra `cli`. Only `make_app` imports the modules of the
commands, which need the extra.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Annotated

from hubhooks import __version__
from hubhooks._terminal import guarded_output, print_error, print_line

_extra_is_installed = True
try:
    import httpx as _httpx  # noqa: F401 - the commands import it
    import rich as _rich  # noqa: F401 - the commands import it
    import typer
except ModuleNotFoundError:
    _extra_is_installed = False
    if TYPE_CHECKING:
        # Type checkers must not continue here. At run time, `main` exits before it uses `typer`.
        raise

__all__ = ["main", "make_app"]


def main() -> None:
    """Run the command line; the console script `hubhooks` starts here."""
    if not _extra_is_installed:
        print_error('the command line needs the "cli" extra', 'pip install "hubhooks[cli]"')
        raise SystemExit(2)
    try:
        with guarded_output():
            make_app()(prog_name="hubhooks")
    except SystemExit as end:
        # A thread that an imported app started must not keep the command.
        if any(not each.daemon for each in threading.enumerate()[1:]):
            _exit(end.code if isinstance(end.code, int) else int(bool(end.code)))
        raise


def _exit(code: int) -> None:
    os._exit(code)


def make_app() -> typer.Typer:
    """Build the command line."""
    # They import the extra.
    from hubhooks.cli import dev, follow, handlers, init, send  # noqa: PLC0415 - see above
    from hubhooks.cli.deliveries import make_group  # noqa: PLC0415 - see above

    # typer's tracebacks show local variables, and so the secret.
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback(help="Make and test webhook apps, and manage the deliveries that they store.")(
        _options
    )
    for module in (init, dev, handlers, send, follow):
        module.add_commands(app)
    app.add_typer(make_group(), name="deliveries")
    return app


def _print_version(is_wanted: bool) -> None:  # noqa: FBT001 - typer passes it by position
    if is_wanted:
        print_line(f"hubhooks {__version__}")
        raise typer.Exit


def _options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Accept the options before the command."""
