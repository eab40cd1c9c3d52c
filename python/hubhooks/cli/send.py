"""The commands `hubhooks send` and `hubhooks samples`.

Data goes to stdout, notes and errors to stderr. The secret is never printed.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import uuid
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from hubhooks import _environment
from hubhooks._samples import (
    describe,
    sample_json,
    sample_names,
    scope_and_action,
    with_overrides,
)
from hubhooks._suggestions import nearest
from hubhooks._terminal import (
    WIDE,
    new_table,
    print_error,
    print_line,
    print_trimmed,
    shown_id_length,
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
from hubhooks.cli.sender import (
    OutgoingDelivery,
    Response,
    SecretPlace,
    Sender,
    make_target,
    printable_ascii,
)
from hubhooks.dev.folder import read_kept
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from hubhooks.cli.sender import Target

__all__ = ["add_commands"]

_MANY = 20
"""More deliveries than this get a progress bar, and repeated ones a summary."""

_MOST_EXPLAINED = 3
"""The maximum number of explanations below a table."""

_NARROW_SAMPLE = 25
"""The width of the sample column in a narrow terminal."""

_MOST_SHOWN = 200
"""The maximum length of a response in a table, in characters."""

_GRADIO_PATH = "/gradio_api/webhooks"
_ROUTER_PATH = "/webhooks/hub"
_NO_ROUTE = frozenset({404, 405})  # the statuses of a path without a webhook
_PROBE_SECONDS = 5.0

_STATUS_HINTS = {
    401: "the app requires the webhook secret: set WEBHOOK_SECRET or give --secret",
    403: "the app has a different webhook secret: check WEBHOOK_SECRET or --secret",
}

# Not docstrings, which `python -OO` drops.
_SEND_HELP = """Send deliveries as the Hub does, and print the responses of the app.

Exit codes: 0 if every response was 2xx, 1 if one was not, 2 if an option is wrong and nothing
was sent.
"""


def add_commands(app: typer.Typer) -> None:
    """Add the commands `send` and `samples`."""
    # typer accepts more arguments here, and `_check_arguments` names the right option for them.
    app.command("send", help=_SEND_HELP, context_settings={"allow_extra_args": True})(_send)
    app.command("samples", help="List the sample deliveries, or print one as JSON.")(_samples)


# ---- the commands ----------------------------------------------------------------------------


def _send(  # noqa: PLR0913 - one parameter per option
    *,
    context: typer.Context,
    url: Annotated[
        str,
        typer.Argument(
            help="The webhook URL, for example http://127.0.0.1:8000/webhooks/hub. Without a "
            "scheme, http:// is used."
        ),
    ],
    sample: Annotated[
        list[str] | None,
        typer.Option(help="Send this sample; `hubhooks samples` lists them. Repeatable."),
    ] = None,
    all_samples: Annotated[bool, typer.Option("--all", help="Send every sample.")] = False,
    file: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Send the bytes of this file; - reads standard input."),
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            envvar="WEBHOOK_SECRET",
            show_default=False,
            help="The webhook secret. Prefer the variable: other users of the machine can read "
            "command lines.",
        ),
    ] = None,
    secret_in: Annotated[
        SecretPlace, typer.Option(help="Send the secret in a header, or in the URL as ?secret=.")
    ] = SecretPlace.HEADER,
    webhook_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            help="The Webhook-Id header. With --repeat, every request has this id. After a "
            "response, the app handles the next one as a Replay. By default, each delivery has "
            "a new id.",
        ),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Number of times to send everything.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Number of requests at a time.")] = 1,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for a response; the Hub waits 30.")
    ] = 30.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line.")
    ] = False,
) -> None:
    with usage_errors():
        _check_arguments(url, context.args)
        target = make_target(url, secret, secret_in)
        if secret is None and target.is_local and (kept := read_kept(_environment.SECRET)):
            target = make_target(url, kept, secret_in)
        overrides = parse_assignments(assignments or [])
        names = sample_names() if all_samples else sample or []
        bodies = [(name, sample_body(name, overrides)) for name in names]
        if file is not None:
            bodies.append(file_body(file, overrides))
        deliveries = _prepare(bodies, webhook_id, repeat)
    if names:
        warn_about_paths(overrides)
    count = len(bodies) * repeat
    responses = _send_with_progress(Sender(target, concurrency, timeout), deliveries, count)
    if as_json:
        _print_json_lines(responses)
    else:
        _print_responses(responses, is_summary=repeat > 1 and count > _MANY)
    _print_hints(target, responses)
    raise typer.Exit(0 if all(response.is_success for response in responses) else 1)


def _samples(
    *,
    name: Annotated[str | None, typer.Argument(help="Print this sample as JSON.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help=SET_HELP)] = None,
) -> None:
    with usage_errors():
        overrides = parse_assignments(assignments or [])
        if name is not None:
            payload = with_overrides(sample_json(name), overrides)
            print_line(json.dumps(payload, indent=2))
            warn_about_paths(overrides)
            return
        if overrides:
            msg = "--set changes one sample: give its NAME"
            raise ConfigError(msg)
    _print_samples()


# ---- the deliveries to send ------------------------------------------------------------------


def _check_arguments(url: str, others: Sequence[str]) -> None:
    """Check that the URL is the only argument; the error names the option for another one."""
    names = sample_names()
    samples = [argument for argument in others if argument in names]
    if url in names:
        msg = f"`{url}` is a sample, not a URL; write: hubhooks send URL --sample {url}"
        raise ConfigError(msg)
    if samples:
        options = " ".join(f"--sample {name}" for name in samples)
        msg = f"did you mean {options}? The URL is the only argument"
        raise ConfigError(msg)
    for argument in others:
        if argument == "-" or Path(argument).is_file():
            msg = f"did you mean --file {argument}? The URL is the only argument"
            raise ConfigError(msg)
        # The message does not repeat the argument: it may be a URL with the secret.
        near = nearest(argument, names) or "NAME"
        msg = f"did you mean --sample {near}? The URL is the only argument"
        raise ConfigError(msg)


def _prepare(
    bodies: Sequence[tuple[str, bytes]], webhook_id: str | None, repeat: int
) -> Iterator[OutgoingDelivery]:
    if not bodies:
        msg = "nothing to send: give --sample, --all or --file"
        raise ConfigError(msg)
    if webhook_id is not None:
        printable_ascii(webhook_id, "--id")
        if len(bodies) > 1:
            msg = "--id is the id of one delivery: give one sample or one file"
            raise ConfigError(msg)
    # Lazy: all deliveries together may not fit into memory.
    repeated = (body for _ in range(repeat) for body in bodies)
    return (
        OutgoingDelivery(number, name, webhook_id or uuid.uuid4().hex, body)
        for number, (name, body) in enumerate(repeated)
    )


def _send_with_progress(
    sender: Sender, deliveries: Iterator[OutgoingDelivery], count: int
) -> list[Response]:
    """Send all deliveries; return the responses in the order of the deliveries."""
    responses: list[Response] = []
    console = Console(stderr=True)
    is_silent = count <= _MANY or not console.is_terminal
    with Progress(console=console, transient=True, disable=is_silent) as progress:
        task = progress.add_task("sending", total=count)

        def report(response: Response) -> None:
            responses.append(response)
            progress.advance(task)

        asyncio.run(sender.send(deliveries, count, report))
    return sorted(responses, key=lambda response: response.delivery.number)


# ---- printing --------------------------------------------------------------------------------


def _print_samples() -> None:
    console = terminal()
    # A narrow table leaves out scope and action: the name begins with them.
    event_columns = ("scope", "action") if console.width >= WIDE else ()
    table = new_table("name", *event_columns, "summary")
    for name in sample_names():
        payload = sample_json(name)
        event = scope_and_action(payload) if event_columns else ()
        table.add_row(name, *event, describe(payload))
    print_trimmed(console, table)


def _print_json_lines(responses: Sequence[Response]) -> None:
    for response in responses:
        line = {
            "sample": response.delivery.sample,
            "id": response.delivery.id,
            "status": response.status,
            "milliseconds": response.milliseconds,
            "response": response.body,
            "error": response.error or None,
        }
        print_line(json.dumps(line))


def _print_responses(responses: Sequence[Response], *, is_summary: bool) -> None:
    received = [response for response in responses if not response.is_unreachable]
    if not received:
        return
    console = terminal()
    is_wide = console.width >= WIDE
    table = _summary_table(received) if is_summary else _response_table(received, is_wide=is_wide)
    print_trimmed(console, table)
    _print_explanations(received)


def _print_explanations(responses: Sequence[Response]) -> None:
    """Print why deliveries are unhandled, each explanation once."""
    unhandled: dict[tuple[str, ...], list[OutgoingDelivery]] = defaultdict(list)
    for response in responses:
        lines = _explanations(response.body)
        if lines or _is_unhandled(response.body):
            unhandled[lines].append(response.delivery)
    length = shown_id_length([response.delivery.id for response in responses])
    for lines, (first, *others) in list(unhandled.items())[:_MOST_EXPLAINED]:
        more = f" and {len(others)} more are" if others else " is"
        sys.stderr.write(f"{single_line(first.sample)}{more} unhandled:\n")
        for line in lines:
            sys.stderr.write(f"  {single_line(line)}\n")
        sys.stderr.write(f"why: hubhooks deliveries show {first.id[:length]}\n")
    if len(unhandled) > _MOST_EXPLAINED:
        sys.stderr.write("for the other unhandled deliveries: hubhooks deliveries show ID\n")


def _response_table(responses: Sequence[Response], *, is_wide: bool) -> Table:
    table = new_table("status", "ms", "sample", "response", "id")
    if not is_wide:
        # Long names are folded to keep the response readable.
        sample = table.columns[2]
        sample.no_wrap, sample.max_width = False, _NARROW_SAMPLE
    length = shown_id_length([response.delivery.id for response in responses])
    for response in responses:
        table.add_row(
            _status_cell(response.status),
            f"{response.milliseconds:.1f}",
            Text(response.delivery.sample),
            Text(_response_text(response)),
            Text(response.delivery.id[:length]),
        )
    return table


def _summary_table(responses: Sequence[Response]) -> Table:
    times: dict[tuple[int | None, str], list[float]] = defaultdict(list)
    for response in responses:
        times[response.status, _response_text(response)].append(response.milliseconds)
    table = new_table("status", "response", "count", "median ms", "slowest ms")
    for (status, shown), values in times.items():
        table.add_row(
            _status_cell(status),
            Text(shown),
            str(len(values)),
            f"{statistics.median(values):.1f}",
            f"{max(values):.1f}",
        )
    return table


def _print_hints(target: Target, responses: Sequence[Response]) -> None:
    unreachable = [response.error for response in responses if response.is_unreachable]
    if unreachable:
        print_error(
            f"cannot connect to {target.shown}: {unreachable[0]}",
            _connection_hint(unreachable[0]),
        )
    statuses = {response.status for response in responses if response.status is not None}
    hints = {_STATUS_HINTS.get(status) for status in statuses}
    if statuses & _NO_ROUTE:
        hints.add(_route_hint(target))
    for hint in sorted(filter(None, hints)):
        sys.stderr.write(f"hint: {single_line(hint)}\n")


def _connection_hint(error: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in error:
        return "this machine does not trust the certificate: check the host of the URL"
    if "SSL" in error:
        return "if the server has no TLS, write http:// instead of https://"
    return "start the app first, and check the host and port of the URL"


def _route_hint(target: Target) -> str:
    """Return a hint for a 404 or 405: the usual path of the app, or the missing router."""
    path = target.url.path.rstrip("/") or "/"
    # If the path is a path of Gradio, `base` is the mount point of the Gradio app.
    base = path.partition("/gradio_api")[0].rstrip("/") if "/gradio_api" in path else ""
    if _is_gradio(target.url, base):
        if path == base + _GRADIO_PATH:
            return (
                "this Gradio app receives no webhooks: start it with `hooks.launch(demo)` instead "
                "of `demo.launch()`. If a FastAPI app mounts it, add `app.include_router("
                f"hooks.router())`, and send to {_ROUTER_PATH}"
            )
        place = f"{target.url.scheme}://{target.url.netloc.decode()}{base}{_GRADIO_PATH}"
        return (
            f"this is a Gradio app. Started with `hooks.launch(demo)`, its webhook URL is {place}. "
            "If a FastAPI app mounts it, add `app.include_router(hooks.router())`, and send to "
            f"{_ROUTER_PATH}"
        )
    if path.endswith(_ROUTER_PATH):
        return (
            f"the app has no webhook at {path}: add `app.include_router(hooks.router())`, or give "
            "the path of the router with its prefix"
        )
    return (
        f"the app has no webhook at {path}: give the path of `hooks.router(...)` with its prefix, "
        f"by default {_ROUTER_PATH}"
    )


def _is_gradio(url: httpx.URL, base: str) -> bool:
    """Request a page that only Gradio has; the request is without the secret."""
    probe = httpx.URL(
        scheme=url.scheme, host=url.host, port=url.port, path=f"{base}/gradio_api/app_id"
    )
    try:
        response = httpx.get(probe, timeout=_PROBE_SECONDS, trust_env=False, follow_redirects=False)
        body = response.json()
    except (httpx.HTTPError, ValueError, RecursionError):
        return False
    return isinstance(body, dict) and "app_id" in body


def _status_cell(status: int | None) -> Text:
    if status is None:
        return Text("none", style="red")
    return Text(str(status), style="green" if httpx.codes.is_success(status) else "red")


def _response_text(response: Response) -> str:
    """Format a response as one line of a table."""
    text = response.error or _summarize(response.body) or _as_text(response.body)
    return single_line(text)[:_MOST_SHOWN]


def _explanations(body: Any) -> tuple[str, ...]:  # noqa: ANN401 - any JSON value
    """Return why no handler matched, if the response is from hubhooks."""
    given = body.get("explanations") if isinstance(body, dict) else None
    return tuple(map(str, given)) if isinstance(given, list) else ()


def _is_unhandled(body: Any) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(body, dict) and body.get("status") == "unhandled"


def _summarize(body: Any) -> str:  # noqa: ANN401 - any JSON value
    """Summarize a response of hubhooks; empty for other responses."""
    if not isinstance(body, dict):
        return ""
    handlers = body.get("handlers")
    names = ", ".join(map(str, handlers)) if isinstance(handlers, list) else None
    return ": ".join(str(part) for part in (body.get("status"), names, body.get("reason")) if part)


def _as_text(body: Any) -> str:  # noqa: ANN401 - any JSON value
    return body if isinstance(body, str) else json.dumps(body)
