"""The commands `hubhooks handlers` and `hubhooks explain`. They run no handler."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hubhooks._core import HubEvent
from hubhooks._load_app import AppImportError, load_webhooks
from hubhooks._terminal import (
    escape_controls,
    new_table,
    print_error,
    print_line,
    print_trimmed,
    single_line,
    terminal,
    usage_errors,
)
from hubhooks.admin.handlers_json import (
    explain_json,
    filter_text,
    function_name,
    handler_json,
)
from hubhooks.cli.bodies import (
    SET_HELP,
    file_body,
    parse_assignments,
    sample_body,
    warn_about_paths,
)
from hubhooks.cli.output import counted, print_note
from hubhooks.errors import ConfigError, PayloadError
from hubhooks.handlers import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hubhooks.handlers import Handler
    from hubhooks.webhooks import Webhooks

__all__ = ["add_commands"]

_EXIT_CODE_OF_A_USAGE_ERROR = 2
_SECONDS = frozenset({"backoff", "debounce", "timeout"})
# Not docstrings, which `python -OO` drops.
_HANDLERS_HELP = """List the handlers of an app: filters, options, and the line in the code.

The app is imported, but not started.
"""
_EXPLAIN_HELP = """Explain for each handler why it matches a delivery, or why not.

No handler runs. Only the functions of `when=` are called.

Exit codes: 0 if a handler matches, 1 if none does, 2 if an option is wrong or the app cannot be
imported.
"""
_App = Annotated[
    str,
    typer.Argument(
        metavar="APP",
        help="The app as for uvicorn: app:hooks, app:app for a FastAPI app, or app.py.",
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands `handlers` and `explain`."""
    app.command("handlers", help=_HANDLERS_HELP)(_handlers)
    app.command("explain", help=_EXPLAIN_HELP)(_explain)


# ---- the commands ----------------------------------------------------------------------------


def _handlers(*, app: _App, as_json: _AsJson = False) -> None:
    with _app_errors():
        hooks = load_webhooks(app)
    if as_json:
        print_line(json.dumps({"handlers": [handler_json(each) for each in hooks.handlers]}))
        return
    if not hooks.handlers:
        print_note("no handler is registered")
        return
    console = terminal()
    table = new_table("handler", "filters", "options", "source")
    for handler in hooks.handlers:
        filters = [Text(single_line(filter_text(rule))) for rule in handler.rules]
        table.add_row(
            Text(handler.name),
            Text(" or\n" if sys.stdout.isatty() else " or ").join(filters),
            Text(_policy_text(handler)),
            Text(_source_text(handler)),
        )
    print_trimmed(console, table)


def _explain(
    *,
    app: _App,
    sample: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="This sample; `hubhooks samples` lists them."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The body in this file, such as one of `hubhooks deliveries export`; - reads "
            "standard input.",
        ),
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    as_json: _AsJson = False,
) -> None:
    with _app_errors():
        overrides = parse_assignments(assignments or [])
        if (sample is None) == (file is None):
            msg = "give either --sample NAME or --file PATH"
            raise ConfigError(msg)
        if file is not None:
            name, body = file_body(file, overrides)
        else:
            name, body = str(sample), sample_body(str(sample), overrides)
            warn_about_paths(overrides)
        try:
            event = HubEvent.from_json(body)
        except PayloadError as error:
            msg = f"{name} is not an event of the Hub: {error}"
            raise ConfigError(msg) from error
        hooks = load_webhooks(app)
    explained = explain_json(hooks, body)
    if as_json:
        print_line(json.dumps(explained))
    else:
        _print_explained(explained, hooks, event)
    raise typer.Exit(0 if any(each["matches"] for each in explained["handlers"]) else 1)


@contextmanager
def _app_errors() -> Iterator[None]:
    """Exit with 2 for a wrong option, and for an app that cannot be imported."""
    try:
        with usage_errors():
            try:
                yield
            except AppImportError as error:
                sys.stderr.write(escape_controls(error.traceback))
                print_error(single_line(str(error)))
                raise typer.Exit(_EXIT_CODE_OF_A_USAGE_ERROR) from None
    except typer.BadParameter as error:
        # The message of an event can quote the body.
        raise typer.BadParameter(single_line(str(error))) from None


# ---- handlers --------------------------------------------------------------------------------


_OPTIONS = ("retries", "backoff", "timeout", "concurrency", "serial", "debounce")


def _policy_text(handler: Handler) -> str:
    """List the options that differ from the default."""
    default, parts = Policy(), []
    for name in _OPTIONS:
        value = getattr(handler.policy, name)
        # The backoff decides nothing without retries. With retries it is always of interest.
        is_shown = handler.policy.retries if name == "backoff" else value != getattr(default, name)
        if is_shown:
            unit = " s" if name in _SECONDS and not callable(value) else ""
            text = function_name(value) if callable(value) else _number(value)
            parts.append(f"{name} {text}{unit}")
    return ", ".join(parts)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _source_text(handler: Handler) -> str:
    described = handler_json(handler)
    file, line = described["file"], described["line"]
    if file is None:
        return handler.site.place
    path = Path(file)
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{line}"


# ---- explanations ----------------------------------------------------------------------------


def _print_explained(explained: dict[str, Any], hooks: Webhooks, event: HubEvent) -> None:
    repo = "" if event.repo is None else f", {event.repo.type} {event.repo.name}"
    print_line(single_line(f"{explained['event']}{repo}"))
    table = new_table("handler", "matches", "why")
    for each, handler in zip(explained["handlers"], hooks.handlers, strict=True):
        if each["matches"]:
            cell = Text("yes", style="green")
            # Only a `when` of another decorator can make this the wrong one of several.
            rule = next(rule for rule in handler.rules if rule.filter.matches(event))
            why = filter_text(rule)
        else:
            cell = Text("no")
            why = each["text"].removeprefix(f"`{handler.name}` ").removeprefix("does not match: ")
        table.add_row(Text(handler.name), cell, Text(single_line(why)))
    if table.row_count:
        print_trimmed(terminal(), table)
    count = sum(each["matches"] for each in explained["handlers"])
    print_note(
        f"{counted(count, 'handler')} of {len(explained['handlers'])} would run"
        if explained["handlers"]
        else "no handler is registered"
    )
