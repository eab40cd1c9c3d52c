"""The `hubhooks` command: `send`, `samples` and the group `deliveries`.

Data goes to stdout, notes and errors to stderr. The secret is never printed.
This module can be imported without the extra `cli`: only functions and annotations use its
libraries.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import sys
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from hubhooks import __version__
from hubhooks._samples import (
    compact,
    describe,
    read_value,
    sample_json,
    sample_names,
    scope_and_action,
    suggest_path,
    with_overrides,
)
from hubhooks._suggestions import nearest
from hubhooks._terminal import (
    WIDE,
    guarded_output,
    new_table,
    print_error,
    print_line,
    print_trimmed,
    shown_id_length,
    single_line,
    terminal,
    usage_errors,
)
from hubhooks.errors import ConfigError

_extra_is_installed = True
try:
    import httpx
    import typer
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text
except ModuleNotFoundError:
    _extra_is_installed = False
    if TYPE_CHECKING:
        # Type checkers must not continue here. At run time, `main` exits before using them.
        raise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.table import Table

__all__ = ["main", "make_app"]

_MANY = 20
"""More deliveries than this get a progress bar, and repeated ones a summary."""

_LAST_PORT = 65535
_has_scheme = re.compile("[A-Za-z][A-Za-z0-9+.-]*://").match

_MOST_EXPLAINED = 3
_NARROW_SAMPLE = 25

_SHOWN_TEXT = 200
"""The maximum length of a response in a table, in characters."""

_GRADIO_PATH = "/gradio_api/webhooks"
_ROUTER_PATH = "/webhooks/hub"
_NO_ROUTE = frozenset({404, 405})
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

_SET_HELP = (
    "Set a field of the body, for example repo.name=me/x or updatedRefs.0.newSha=null. The value "
    "is JSON, or else a string. Repeatable."
)


def main() -> None:
    """Run the command line; the console script `hubhooks` starts here."""
    if not _extra_is_installed:
        print_error('the command line needs the "cli" extra', 'pip install "hubhooks[cli]"')
        raise SystemExit(2)
    with guarded_output():
        make_app()(prog_name="hubhooks")


def make_app() -> typer.Typer:
    """Build the command line."""
    from hubhooks.cli.deliveries import make_group  # noqa: PLC0415 - it imports the extra

    # typer's tracebacks show local variables, and so the secret.
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback(
        help="Send test deliveries to a webhook app, and manage the deliveries that it stores."
    )(_hubhooks)
    # Extra arguments are accepted here, and `_check_arguments` names the right option.
    app.command("send", help=_SEND_HELP, context_settings={"allow_extra_args": True})(_send)
    app.command("samples", help="List the sample deliveries, or print one as JSON.")(_samples)
    app.add_typer(make_group(), name="deliveries")
    return app


# ---- the commands ----------------------------------------------------------------------------


class SecretPlace(str, Enum):
    """The part of the request that carries the secret."""

    HEADER = "header"
    QUERY = "query"


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer passes it by position
    if wanted:
        print_line(f"hubhooks {__version__}")
        raise typer.Exit


def _hubhooks(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Accept the options before the command."""


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
    assignments: Annotated[list[str] | None, typer.Option("--set", help=_SET_HELP)] = None,
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
            help="The Webhook-Id header. With --repeat, every request has this id, like a retry "
            "of the Hub. By default, each delivery has a new id.",
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
        target = _target(url, secret, secret_in)
        overrides = _overrides(assignments or [])
        names = sample_names() if all_samples else sample or []
        bodies = [(name, _sample_body(name, overrides)) for name in names]
        if file is not None:
            bodies.append(_file_body(file, overrides))
        deliveries = _deliveries(bodies, webhook_id, repeat)
    if names:
        _warn_about_paths(overrides)
    count = len(bodies) * repeat
    responses = _send_with_progress(_Sender(target, concurrency, timeout), deliveries, count)
    if as_json:
        _print_json_lines(responses)
    else:
        _print_responses(responses, is_summary=repeat > 1 and count > _MANY)
    _print_hints(target, responses)
    raise typer.Exit(0 if all(response.is_success for response in responses) else 1)


def _samples(
    *,
    name: Annotated[str | None, typer.Argument(help="Print this sample as JSON.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help=_SET_HELP)] = None,
) -> None:
    with usage_errors():
        overrides = _overrides(assignments or [])
        if name is not None:
            payload = with_overrides(sample_json(name), overrides)
            print_line(json.dumps(payload, indent=2))
            _warn_about_paths(overrides)
            return
        if overrides:
            msg = "--set changes one sample: give its NAME"
            raise ConfigError(msg)
    _print_samples()


# ---- what to send, and where -----------------------------------------------------------------


def _check_arguments(url: str, more: Sequence[str]) -> None:
    """Check that the URL is the only argument; the error names the option for any other."""
    names = sample_names()
    samples = [argument for argument in more if argument in names]
    if url in names:
        msg = f"`{url}` is a sample, not a URL; write: hubhooks send URL --sample {url}"
        raise ConfigError(msg)
    if samples:
        options = " ".join(f"--sample {name}" for name in samples)
        msg = f"did you mean {options}? The URL is the only argument"
        raise ConfigError(msg)
    for argument in more:
        if argument == "-" or Path(argument).is_file():
            msg = f"did you mean --file {argument}? The URL is the only argument"
            raise ConfigError(msg)
        # The message does not repeat the argument: it may be a URL with the secret.
        near = nearest(argument, names) or "NAME"
        msg = f"did you mean --sample {near}? The URL is the only argument"
        raise ConfigError(msg)


@dataclass(frozen=True)
class _Target:
    url: httpx.URL = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    hidden: Sequence[str] = field(repr=False)
    """Texts to redact from the output: the secret and its percent-encoded form."""

    @property
    def shown(self) -> str:
        """The address without user, password and query."""
        return f"{self.url.scheme}://{self.url.netloc.decode()}{self.url.path}"


@dataclass(frozen=True)
class _Delivery:
    number: int
    sample: str
    id: str
    body: bytes


def _target(text: str, secret: str | None, place: SecretPlace) -> _Target:
    url = _url(text)
    hidden = url.params.get_list("secret")
    headers = {"Content-Type": "application/json"}
    if secret is not None:
        # Receivers strip white space around the secret: people paste it by accident.
        secret = _printable_ascii(secret.strip(), "the secret")
        hidden.append(secret)
        if place is SecretPlace.HEADER:
            headers["X-Webhook-Secret"] = secret
        else:
            pair = f"secret={quote(secret, safe='')}".encode()
            url = url.copy_with(query=b"&".join(filter(None, (url.query, pair))))
    forms = {form for value in hidden if value for form in (value, quote(value, safe=""))}
    # Longest first: a text may contain a shorter one.
    return _Target(url, headers, sorted(forms, key=len, reverse=True))


def _url(text: str) -> httpx.URL:
    # The messages do not repeat the URL: it may contain the secret.
    text = text.strip()
    if not _has_scheme(text) and not text.lower().startswith(("http:", "https:")):
        text = f"http://{text}"
    try:
        url = httpx.URL(text)
        host = url.host
    # UnicodeError: IDNA cannot encode the host, or not decode it when `host` is read.
    except (httpx.InvalidURL, UnicodeError):
        msg = "the URL cannot be read; check its host and port"
        raise ConfigError(msg) from None
    if url.scheme not in {"http", "https"} or not host:
        msg = "the URL is incomplete: write http:// or https://, host, port and path"
        raise ConfigError(msg)
    if url.port is not None and url.port > _LAST_PORT:
        msg = f"the port of the URL is {url.port}; the highest port is {_LAST_PORT}"
        raise ConfigError(msg)
    return url


def _printable_ascii(text: str, what: str) -> str:
    if not text or not text.isascii() or not text.isprintable():
        msg = f"{what} must be printable ASCII, and not empty"
        raise ConfigError(msg)
    return text


def _overrides(assignments: Sequence[str]) -> dict[str, Any]:
    overrides = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            msg = f"--set {assignment} has no value; write path=value"
            raise ConfigError(msg)
        overrides[path] = read_value(text)
    return overrides


def _warn_about_paths(
    overrides: Mapping[str, Any], payload: Mapping[str, Any] | None = None
) -> None:
    """Warn about paths of --set that the Hub does not document: they may be misspelt."""
    for path in overrides:
        if near := suggest_path(path, payload or {}):
            text = f"warning: --set {path}: the Hub documents no such field; the nearest is {near}"
            sys.stderr.write(f"{single_line(text)}\n")


def _sample_body(name: str, overrides: Mapping[str, Any]) -> bytes:
    return compact(with_overrides(sample_json(name), overrides))


def _file_body(file: str, overrides: Mapping[str, Any]) -> tuple[str, bytes]:
    is_stdin = file == "-"
    name = "(stdin)" if is_stdin else Path(file).name
    if is_stdin and sys.stdin is None:
        msg = "cannot read standard input: it is closed"
        raise ConfigError(msg)
    try:
        body = sys.stdin.buffer.read() if is_stdin else Path(file).read_bytes()
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror}"
        raise ConfigError(msg) from error
    if not overrides:
        return name, body
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        msg = f"{name} is not a JSON object, so --set cannot change it: send it without --set"
        raise ConfigError(msg)
    changed = compact(with_overrides(payload, overrides))
    _warn_about_paths(overrides, payload)
    return name, changed


def _deliveries(
    bodies: Sequence[tuple[str, bytes]], webhook_id: str | None, repeat: int
) -> Iterator[_Delivery]:
    if not bodies:
        msg = "nothing to send: give --sample, --all or --file"
        raise ConfigError(msg)
    if webhook_id is not None:
        _printable_ascii(webhook_id, "--id")
        if len(bodies) > 1:
            msg = "--id is the id of one delivery: give one sample or one file"
            raise ConfigError(msg)
    # A generator: all deliveries together may not fit into memory.
    repeated = (body for _ in range(repeat) for body in bodies)
    return (
        _Delivery(number, name, webhook_id or uuid.uuid4().hex, body)
        for number, (name, body) in enumerate(repeated)
    )


# ---- sending ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Response:
    delivery: _Delivery
    milliseconds: float
    status: int | None = None
    body: Any = None
    """The parsed JSON body, or the text if it is not JSON."""
    error: str = ""
    is_unreachable: bool = False

    @property
    def is_success(self) -> bool:
        return self.status is not None and httpx.codes.is_success(self.status)

    @property
    def shown(self) -> str:
        """The response as one line of a table."""
        text = self.error or _summarize(self.body) or _as_text(self.body)
        return single_line(text)[:_SHOWN_TEXT]


@dataclass(frozen=True)
class _Sender:
    """Sends deliveries, `concurrency` at a time."""

    target: _Target
    concurrency: int
    timeout: float

    async def send(
        self, deliveries: Iterator[_Delivery], count: int, report: Callable[[_Response], None]
    ) -> None:
        """Send all deliveries, and stop at the first connection failure."""
        is_reachable = True

        async def work() -> None:
            nonlocal is_reachable
            while is_reachable and (delivery := next(deliveries, None)):
                response = await self._send_one(client, delivery)
                report(response)
                if response.is_unreachable:
                    is_reachable = False

        # `trust_env=False`: a proxy of the environment must not handle requests to this machine.
        # Redirects are not followed: the Hub does not follow them either.
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(
            trust_env=False, follow_redirects=False, timeout=self.timeout, limits=limits
        ) as client:
            await asyncio.gather(*(work() for _ in range(min(self.concurrency, count))))

    async def _send_one(self, client: httpx.AsyncClient, delivery: _Delivery) -> _Response:
        headers = {**self.target.headers, "Webhook-Id": delivery.id}
        hidden = self.target.hidden
        start = time.perf_counter()
        try:
            response = await client.post(self.target.url, content=delivery.body, headers=headers)
        except httpx.RequestError as error:
            return _Response(
                delivery,
                _milliseconds_since(start),
                error=_redacted(_failure(error, self.timeout), hidden),
                is_unreachable=isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)),
            )
        return _Response(
            delivery,
            _milliseconds_since(start),
            status=response.status_code,
            body=_redacted(_parsed_body(response), hidden),
            error=_redacted(_redirection(response), hidden),
        )


def _send_with_progress(
    sender: _Sender, deliveries: Iterator[_Delivery], count: int
) -> list[_Response]:
    """Send all with a progress bar; return the responses in the order of the deliveries."""
    responses: list[_Response] = []
    console = Console(stderr=True)
    is_silent = count <= _MANY or not console.is_terminal
    with Progress(console=console, transient=True, disable=is_silent) as progress:
        task = progress.add_task("sending", total=count)

        def report(response: _Response) -> None:
            responses.append(response)
            progress.advance(task)

        asyncio.run(sender.send(deliveries, count, report))
    return sorted(responses, key=lambda response: response.delivery.number)


def _milliseconds_since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 1)


def _failure(error: httpx.RequestError, timeout: float) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no response within {timeout:g} seconds"
    return str(error) or type(error).__name__


def _parsed_body(response: httpx.Response) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return response.json()
    except (ValueError, RecursionError):
        return response.text


def _redirection(response: httpx.Response) -> str:
    if not response.has_redirect_location:
        return ""
    return f"redirects to {response.headers['Location']}: give the Hub that URL"


def _redacted(value: Any, hidden: Sequence[str]) -> Any:  # noqa: ANN401 - any JSON value
    """Remove the secret from a response: some servers repeat the request."""
    if isinstance(value, str):
        for secret in hidden:
            value = value.replace(secret, "[secret]")
        return value
    if isinstance(value, list):
        return [_redacted(item, hidden) for item in value]
    if isinstance(value, dict):
        return {_redacted(key, hidden): _redacted(item, hidden) for key, item in value.items()}
    return value


# ---- printing --------------------------------------------------------------------------------


def _print_samples() -> None:
    console = terminal()
    # The name begins with the scope and the action, so a narrow table leaves these two out.
    event_columns = ("scope", "action") if console.width >= WIDE else ()
    table = new_table("name", *event_columns, "summary")
    for name in sample_names():
        payload = sample_json(name)
        event = scope_and_action(payload) if event_columns else ()
        table.add_row(name, *event, describe(payload))
    print_trimmed(console, table)


def _print_json_lines(responses: Sequence[_Response]) -> None:
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


def _print_responses(responses: Sequence[_Response], *, is_summary: bool) -> None:
    received = [response for response in responses if not response.is_unreachable]
    if not received:
        return
    console = terminal()
    is_wide = console.width >= WIDE
    table = _summary_table(received) if is_summary else _response_table(received, is_wide=is_wide)
    print_trimmed(console, table)
    _print_explanations(received)


def _print_explanations(responses: Sequence[_Response]) -> None:
    """Print below the table why deliveries are unhandled, each explanation once."""
    samples: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for response in responses:
        if lines := _explanations(response.body):
            samples[lines].append(response.delivery.sample)
    for lines, (first, *others) in list(samples.items())[:_MOST_EXPLAINED]:
        more = f" and {len(others)} more are" if others else " is"
        sys.stderr.write(f"{single_line(first)}{more} unhandled:\n")
        for line in lines:
            sys.stderr.write(f"  {single_line(line)}\n")
    if len(samples) > _MOST_EXPLAINED:
        sys.stderr.write("for the other unhandled deliveries: hubhooks deliveries show ID\n")


def _response_table(responses: Sequence[_Response], *, is_wide: bool) -> Table:
    table = new_table("status", "ms", "sample", "response", "id")
    if not is_wide:
        # Names of samples are long; fold them and keep the response readable.
        sample = table.columns[2]
        sample.no_wrap, sample.max_width = False, _NARROW_SAMPLE
    length = shown_id_length([response.delivery.id for response in responses])
    for response in responses:
        table.add_row(
            _status_cell(response.status),
            f"{response.milliseconds:.1f}",
            Text(response.delivery.sample),
            Text(response.shown),
            Text(response.delivery.id[:length]),
        )
    return table


def _summary_table(responses: Sequence[_Response]) -> Table:
    times: dict[tuple[int | None, str], list[float]] = defaultdict(list)
    for response in responses:
        times[response.status, response.shown].append(response.milliseconds)
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


def _print_hints(target: _Target, responses: Sequence[_Response]) -> None:
    unreachable = [response.error for response in responses if response.is_unreachable]
    if unreachable:
        print_error(
            f"cannot connect to {target.shown}: {unreachable[0]}",
            "start the app first, and check the host and port of the URL",
        )
    statuses = {response.status for response in responses if response.status is not None}
    hints = {_STATUS_HINTS.get(status) for status in statuses}
    if statuses & _NO_ROUTE:
        hints.add(_route_hint(target))
    for hint in sorted(filter(None, hints)):
        sys.stderr.write(f"hint: {single_line(hint)}\n")


def _route_hint(target: _Target) -> str:
    """Name the webhook path of this kind of app, or say that nothing receives webhooks."""
    path = target.url.path.rstrip("/") or "/"
    # The mount point of a Gradio app, if the path is one of its paths.
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
    """Request a page that only Gradio has, without the secret."""
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


def _explanations(body: Any) -> tuple[str, ...]:  # noqa: ANN401 - any JSON value
    """Read why no handler matched, from a response of hubhooks."""
    given = body.get("explanations") if isinstance(body, dict) else None
    return tuple(map(str, given)) if isinstance(given, list) else ()


def _summarize(body: Any) -> str:  # noqa: ANN401 - any JSON value
    """Summarize a response of hubhooks; empty for other responses."""
    if not isinstance(body, dict):
        return ""
    handlers = body.get("handlers")
    names = ", ".join(map(str, handlers)) if isinstance(handlers, list) else None
    return ": ".join(str(part) for part in (body.get("status"), names, body.get("reason")) if part)


def _as_text(body: Any) -> str:  # noqa: ANN401 - any JSON value
    return body if isinstance(body, str) else json.dumps(body)
