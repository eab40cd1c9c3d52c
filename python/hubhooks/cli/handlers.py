"""The commands `hubhooks handlers` and `hubhooks explain`. They run no handler."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from hubhooks._core import CommentEvent, HubEvent
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

    from hubhooks.handlers import Handler, Rule
    from hubhooks.webhooks import Webhooks

__all__ = ["add_commands", "handler_json"]

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
    explained = explain_json(hooks, event)
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


def handler_json(handler: Handler) -> dict[str, Any]:
    """Describe a handler as JSON: filters as text and as data, options, file and line."""
    file, line = _source(handler)
    return {
        "name": handler.name,
        "file": file,
        "line": line,
        "is_async": handler.is_async,
        "filters": [filter_text(rule) for rule in handler.rules],
        "criteria": [_criteria(rule) for rule in handler.rules],
        "policy": {name: _json_option(handler.policy, name) for name in _OPTIONS},
    }


_OPTIONS = ("retries", "backoff", "timeout", "concurrency", "serial", "debounce")


def _json_option(policy: Policy, name: str) -> Any:  # noqa: ANN401 - any JSON value
    value = getattr(policy, name)
    return _function_name(value) if callable(value) else value


def filter_text(rule: Rule) -> str:
    """Describe the filters of one decorator in one line."""
    criteria = dict(rule.filter.criteria)
    scopes = [each if isinstance(each, str) else each.__name__ for each in rule.filter.scopes]
    if rule.visible_only and rule.filter.scopes == (CommentEvent,):
        # `on_comment` makes these criteria.
        scopes = ["new comment"]
        criteria.pop("action", None)
    parts = [" or ".join(scopes) or "every event"]
    for name, value in criteria.items():
        words = str(value).lower() if isinstance(value, bool) else " or ".join(value)
        parts.append(f"{name} {words}")
    if rule.when is not None:
        parts.append(f"when {_function_name(rule.when)}")
    return ", ".join(parts)


def _criteria(rule: Rule) -> dict[str, Any]:
    scopes = [each if isinstance(each, str) else each.__name__ for each in rule.filter.scopes]
    criteria: dict[str, Any] = {"scopes": scopes, **rule.filter.criteria}
    if rule.when is not None:
        criteria["when"] = _function_name(rule.when)
    return criteria


def _function_name(function: object) -> str:
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__name__


def _policy_text(handler: Handler) -> str:
    """List the options that differ from the default."""
    default, parts = Policy(), []
    for name in _OPTIONS:
        value = getattr(handler.policy, name)
        # The backoff decides nothing without retries. With retries it is always of interest.
        is_shown = handler.policy.retries if name == "backoff" else value != getattr(default, name)
        if is_shown:
            unit = " s" if name in _SECONDS and not callable(value) else ""
            text = _function_name(value) if callable(value) else _number(value)
            parts.append(f"{name} {text}{unit}")
    return ", ".join(parts)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _source(handler: Handler) -> tuple[str | None, int | None]:
    """Return the file and the line of a handler; None for compiled code."""
    file, _, line = handler.site.place.rpartition(":")
    return (file, int(line)) if file and line.isdecimal() else (None, None)


def _source_text(handler: Handler) -> str:
    file, line = _source(handler)
    if file is None:
        return handler.site.place
    path = Path(file)
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{line}"


# ---- explanations ----------------------------------------------------------------------------


def explain_json(hooks: Webhooks, event: HubEvent) -> dict[str, Any]:
    """Explain for each handler why it matches an event, or why not."""
    match = hooks.find_match(event)
    matching = {handler.name for handler in match.handlers}
    lines = match.explain(event)
    # The lines of the handlers are the last ones. Of an ignored event, one line is about all.
    names = [handler.name for handler in hooks.handlers]
    if match.ignored:
        texts = [f"`{name}` does not match: {match.ignored}" for name in names]
    else:
        texts = lines[len(lines) - len(names) :]
    return {
        "event": f"{event.scope} {event.action}",
        "handlers": [
            {"name": handler.name, "matches": handler.name in matching, "text": text}
            for handler, text in zip(hooks.handlers, texts, strict=True)
        ],
        "ignored": match.ignored,
    }


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
