"""The `hubhooks` command: sends deliveries to an app as the Hub would, and shows what there is.

Data goes to stdout, notes and errors to stderr; the secret goes nowhere but into the request.
The libraries it needs come with the extra `cli`, so this module can be imported without them and
names them in functions and annotations only.
"""

from __future__ import annotations

import asyncio
import difflib
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
    with_overrides,
)
from hubhooks._terminal import (
    WIDE,
    complain,
    guarded_output,
    new_table,
    one_line,
    print_line,
    shown_id_length,
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
        # main() stops before anything uses them; this is how to say so to a type checker.
        raise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.table import Table

__all__ = ["main", "make_app"]

_MANY = 20
"""More deliveries than this are worth a progress bar, and repeated ones a summary."""

_LAST_PORT = 65535
_has_scheme = re.compile("[A-Za-z][A-Za-z0-9+.-]*://").match

_MOST_EXPLAINED = 3
_NARROW_SAMPLE = 25

_SHOWN_TEXT = 200
"""So many characters of an answer that is not ours are shown."""

_GRADIO_PATH = "/gradio_api/webhooks"
_ROUTER_PATH = "/webhooks/hub"
_NO_ROUTE = (404, 405)
_PROBE_SECONDS = 5.0

_STATUS_HINTS = {
    401: "the app wants the webhook's secret: set WEBHOOK_SECRET or give --secret",
    403: "the app's secret is another one than the one sent",
}

# Not docstrings, which `python -OO` drops.
_SEND_HELP = """Send deliveries as the Hub does, and show what the app answers.

Exits with 0 when every answer was 2xx, with 1 when one was not, with 2 when nothing was sent
because an option is wrong.
"""

_SET_HELP = (
    "Change a field, as in repo.name=me/x or updatedRefs.0.newSha=null; the value is read as JSON "
    "where it is valid JSON. May be given several times."
)


def main() -> None:
    """Run the command line; the console script `hubhooks` starts here."""
    if not _extra_is_installed:
        complain('the command line needs the "cli" extra', 'pip install "hubhooks[cli]"')
        raise SystemExit(2)
    with guarded_output():
        make_app()(prog_name="hubhooks")


def make_app() -> typer.Typer:
    """Put the commands together."""
    from hubhooks._deliveries_cli import make_group  # noqa: PLC0415 - it needs the extra at once

    # Tracebacks with local variables would print the secret, so typer's own are off.
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback(
        help="Try out an app that reacts to webhooks of the Hugging Face Hub, and look after it."
    )(_hubhooks)
    # Arguments too many are taken, so that the error names the right option.
    app.command("send", help=_SEND_HELP, context_settings={"allow_extra_args": True})(_send)
    app.command("samples", help="List the sample deliveries, or print one as JSON.")(_samples)
    app.add_typer(make_group(), name="deliveries")
    return app


# ---- the commands ----------------------------------------------------------------------------


class SecretPlace(str, Enum):
    """Where a delivery carries the secret."""

    HEADER = "header"
    QUERY = "query"


def _print_version(wanted: bool) -> None:  # noqa: FBT001, typer passes it by position
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
    """Take the options before the command."""


def _send(  # noqa: PLR0913, one parameter per option
    *,
    context: typer.Context,
    url: Annotated[
        str,
        typer.Argument(
            help="Where to send, as in http://127.0.0.1:8000/webhooks/hub; http:// may be left out."
        ),
    ],
    sample: Annotated[
        list[str] | None,
        typer.Option(help="Send this sample, see `hubhooks samples`. May be given several times."),
    ] = None,
    all_samples: Annotated[bool, typer.Option("--all", help="Send every sample.")] = False,
    file: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Send this file's bytes as they are; - reads standard input."
        ),
    ] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help=_SET_HELP)] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            envvar="WEBHOOK_SECRET",
            show_default=False,
            help="The webhook's secret. Other users of this machine can read command lines, "
            "so prefer the variable.",
        ),
    ] = None,
    secret_in: Annotated[
        SecretPlace, typer.Option(help="Send the secret as a header, or in the URL as ?secret=.")
    ] = SecretPlace.HEADER,
    webhook_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            help="The Webhook-Id header; with --repeat the same one again, as in the Hub's "
            "retries. Fresh for each delivery by default.",
        ),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Send everything so many times.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="Send so many at a time.")] = 1,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Wait so many seconds; the Hub waits 30.")
    ] = 30.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per delivery and line.")
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
    count = len(bodies) * repeat
    answers = _send_watched(_Courier(target, concurrency, timeout), deliveries, count)
    if as_json:
        _print_json_lines(answers)
    else:
        _print_answers(answers, is_summary=repeat > 1 and count > _MANY)
    _print_hints(target, answers)
    raise typer.Exit(0 if all(answer.is_success for answer in answers) else 1)


def _samples(
    *,
    name: Annotated[str | None, typer.Argument(help="Print this sample's JSON.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", help=_SET_HELP)] = None,
) -> None:
    with usage_errors():
        overrides = _overrides(assignments or [])
        if name is not None:
            payload = with_overrides(sample_json(name), overrides)
            print_line(json.dumps(payload, indent=2))
            return
        if overrides:
            msg = "--set changes one sample: name it"
            raise ConfigError(msg)
    _print_samples()


# ---- what to send, and where -----------------------------------------------------------------


def _check_arguments(url: str, more: Sequence[str]) -> None:
    """Check that the URL is the only argument, and name the option for what came beside it."""
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
        # Arguments are not repeated: one may be a URL that holds the secret.
        (near,) = difflib.get_close_matches(argument, names, 1) or ("",)
        msg = f"did you mean --sample {near or 'NAME'}? The URL is the only argument"
        raise ConfigError(msg)


@dataclass(frozen=True)
class _Target:
    url: httpx.URL = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    hidden: Sequence[str] = field(repr=False)
    """What must not be printed: the secret and its percent-encoded form."""

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
        # Receivers strip the secret's white space, for it is easily pasted along.
        secret = _printable_ascii(secret.strip(), "the secret")
        hidden.append(secret)
        if place is SecretPlace.HEADER:
            headers["X-Webhook-Secret"] = secret
        else:
            pair = f"secret={quote(secret, safe='')}".encode()
            url = url.copy_with(query=b"&".join(filter(None, (url.query, pair))))
    forms = {form for value in hidden if value for form in (value, quote(value, safe=""))}
    # The longest first, so that no part of one is left when it contains another.
    return _Target(url, headers, sorted(forms, key=len, reverse=True))


def _url(text: str) -> httpx.URL:
    # The messages do not repeat the URL: it may hold the secret.
    text = text.strip()
    if not _has_scheme(text) and not text.lower().startswith(("http:", "https:")):
        text = f"http://{text}"
    try:
        url = httpx.URL(text)
        host = url.host
    # The latter from names that IDNA cannot encode, or, when the host is read, decode.
    except (httpx.InvalidURL, UnicodeError):
        msg = "the URL cannot be read; check its host and port"
        raise ConfigError(msg) from None
    if url.scheme not in {"http", "https"} or not host:
        msg = "the URL must be a whole one: http:// or https://, host, port and path"
        raise ConfigError(msg)
    if url.port is not None and url.port > _LAST_PORT:
        msg = f"the URL's port is {url.port}; the last one is {_LAST_PORT}"
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


def _sample_body(name: str, overrides: Mapping[str, Any]) -> bytes:
    return compact(with_overrides(sample_json(name), overrides))


def _file_body(file: str, overrides: Mapping[str, Any]) -> tuple[str, bytes]:
    is_stdin = file == "-"
    name = "(stdin)" if is_stdin else Path(file).name
    if is_stdin and sys.stdin is None:
        msg = "cannot read standard input, which is closed"
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
        msg = f"{name} is no JSON object, so --set cannot change it; send it without"
        raise ConfigError(msg)
    return name, compact(with_overrides(payload, overrides))


def _deliveries(
    bodies: Sequence[tuple[str, bytes]], webhook_id: str | None, repeat: int
) -> Iterator[_Delivery]:
    if not bodies:
        msg = "there is nothing to send; give --sample, --all or --file"
        raise ConfigError(msg)
    if webhook_id is not None:
        _printable_ascii(webhook_id, "--id")
        if len(bodies) > 1:
            msg = "--id names one delivery; give one sample or one file with it"
            raise ConfigError(msg)
    # Made one by one: there may be more than fit into memory.
    repeated = (body for _ in range(repeat) for body in bodies)
    return (
        _Delivery(number, name, webhook_id or uuid.uuid4().hex, body)
        for number, (name, body) in enumerate(repeated)
    )


# ---- sending ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
    delivery: _Delivery
    milliseconds: float
    status: int | None = None
    said: Any = None
    """The answer's body: as JSON where it is JSON, else as text."""
    error: str = ""
    is_unreachable: bool = False

    @property
    def is_success(self) -> bool:
        return self.status is not None and httpx.codes.is_success(self.status)

    @property
    def shown(self) -> str:
        """The answer as one line for people."""
        words = self.error or _in_words(self.said) or _as_text(self.said)
        return one_line(words)[:_SHOWN_TEXT]


@dataclass(frozen=True)
class _Courier:
    """Sends deliveries, so many at a time."""

    target: _Target
    concurrency: int
    timeout: float

    async def send(
        self, deliveries: Iterator[_Delivery], count: int, report: Callable[[_Answer], None]
    ) -> None:
        """Send all, and stop early when nobody is there to take them."""
        is_anybody_there = True

        async def work() -> None:
            nonlocal is_anybody_there
            while is_anybody_there and (delivery := next(deliveries, None)):
                answer = await self._send_one(client, delivery)
                report(answer)
                if answer.is_unreachable:
                    is_anybody_there = False

        # No proxy of the environment may come between us and an app on this machine, and no
        # redirect is followed, so that a receiver the Hub would not reach fails here too.
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(
            trust_env=False, follow_redirects=False, timeout=self.timeout, limits=limits
        ) as client:
            await asyncio.gather(*(work() for _ in range(min(self.concurrency, count))))

    async def _send_one(self, client: httpx.AsyncClient, delivery: _Delivery) -> _Answer:
        headers = {**self.target.headers, "Webhook-Id": delivery.id}
        hidden = self.target.hidden
        start = time.perf_counter()
        try:
            response = await client.post(self.target.url, content=delivery.body, headers=headers)
        except httpx.RequestError as error:
            return _Answer(
                delivery,
                _milliseconds_since(start),
                error=_redacted(_failure(error, self.timeout), hidden),
                is_unreachable=isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)),
            )
        return _Answer(
            delivery,
            _milliseconds_since(start),
            status=response.status_code,
            said=_redacted(_said(response), hidden),
            error=_redacted(_redirection(response), hidden),
        )


def _send_watched(courier: _Courier, deliveries: Iterator[_Delivery], count: int) -> list[_Answer]:
    """Send all behind a progress bar, and give the answers in the order of the deliveries."""
    answers: list[_Answer] = []
    console = Console(stderr=True)
    is_silent = count <= _MANY or not console.is_terminal
    with Progress(console=console, transient=True, disable=is_silent) as progress:
        task = progress.add_task("sending", total=count)

        def report(answer: _Answer) -> None:
            answers.append(answer)
            progress.advance(task)

        asyncio.run(courier.send(deliveries, count, report))
    return sorted(answers, key=lambda answer: answer.delivery.number)


def _milliseconds_since(start: float) -> float:
    return round((time.perf_counter() - start) * 1000, 1)


def _failure(error: httpx.RequestError, timeout: float) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {timeout:g} seconds"
    return str(error) or type(error).__name__


def _said(response: httpx.Response) -> Any:  # noqa: ANN401, any JSON value is possible
    try:
        return response.json()
    except (ValueError, RecursionError):
        return response.text


def _redirection(response: httpx.Response) -> str:
    if not response.has_redirect_location:
        return ""
    return f"redirects to {response.headers['Location']}; give the Hub that URL instead"


def _redacted(value: Any, hidden: Sequence[str]) -> Any:  # noqa: ANN401
    """Take the secret out of what a receiver said: some repeat what they were sent."""
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
    # The name begins with the scope and the action, so these two go first when space is short.
    event_columns = ("scope", "action") if console.width >= WIDE else ()
    table = new_table("name", *event_columns, "shows")
    for name in sample_names():
        payload = sample_json(name)
        event = scope_and_action(payload) if event_columns else ()
        table.add_row(name, *event, describe(payload))
    console.print(table)


def _print_json_lines(answers: Sequence[_Answer]) -> None:
    for answer in answers:
        line = {
            "sample": answer.delivery.sample,
            "id": answer.delivery.id,
            "status": answer.status,
            "milliseconds": answer.milliseconds,
            "answer": answer.said,
            "error": answer.error or None,
        }
        print_line(json.dumps(line))


def _print_answers(answers: Sequence[_Answer], *, is_summary: bool) -> None:
    received = [answer for answer in answers if not answer.is_unreachable]
    if not received:
        return
    console = terminal()
    is_wide = console.width >= WIDE
    console.print(
        _summary_table(received) if is_summary else _answer_table(received, is_wide=is_wide)
    )
    _print_explanations(received)


def _print_explanations(answers: Sequence[_Answer]) -> None:
    """Explain below the table why deliveries are unhandled, once for each explanation."""
    samples: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for answer in answers:
        if lines := _explanations(answer.said):
            samples[lines].append(answer.delivery.sample)
    for lines, (first, *others) in list(samples.items())[:_MOST_EXPLAINED]:
        more = f" and {len(others)} more are" if others else " is"
        sys.stderr.write(f"{one_line(first)}{more} unhandled:\n")
        for line in lines:
            sys.stderr.write(f"  {one_line(line)}\n")
    if len(samples) > _MOST_EXPLAINED:
        sys.stderr.write("of the other unhandled ones `hubhooks deliveries show ID` says why\n")


def _answer_table(answers: Sequence[_Answer], *, is_wide: bool) -> Table:
    table = new_table("status", "ms", "sample", "answer", "id")
    if not is_wide:
        # The names of samples are long, and the answer is what people look for.
        sample = table.columns[2]
        sample.no_wrap, sample.max_width = False, _NARROW_SAMPLE
    length = shown_id_length([answer.delivery.id for answer in answers])
    for answer in answers:
        table.add_row(
            _status_cell(answer.status),
            f"{answer.milliseconds:.1f}",
            Text(answer.delivery.sample),
            Text(answer.shown),
            Text(answer.delivery.id[:length]),
        )
    return table


def _summary_table(answers: Sequence[_Answer]) -> Table:
    times: dict[tuple[int | None, str], list[float]] = defaultdict(list)
    for answer in answers:
        times[answer.status, answer.shown].append(answer.milliseconds)
    table = new_table("status", "answer", "count", "median ms", "slowest ms")
    for (status, shown), values in times.items():
        table.add_row(
            _status_cell(status),
            Text(shown),
            str(len(values)),
            f"{statistics.median(values):.1f}",
            f"{max(values):.1f}",
        )
    return table


def _print_hints(target: _Target, answers: Sequence[_Answer]) -> None:
    unreachable = [answer.error for answer in answers if answer.is_unreachable]
    if unreachable:
        complain(
            f"cannot connect to {target.shown}: {unreachable[0]}",
            "start the app first, and check the URL's host and port",
        )
    hints = {_STATUS_HINTS.get(answer.status) for answer in answers if answer.status is not None}
    if any(answer.status in _NO_ROUTE for answer in answers):
        hints.add(_route_hint(target))
    for hint in sorted(filter(None, hints)):
        sys.stderr.write(f"hint: {one_line(hint)}\n")


def _route_hint(target: _Target) -> str:
    """Say where webhooks arrive in this kind of app, or that nothing receives them."""
    path = target.url.path.rstrip("/") or "/"
    # What a Gradio app is mounted at, when the path is one of its own.
    base = path.partition("/gradio_api")[0].rstrip("/") if "/gradio_api" in path else ""
    if _is_gradio(target.url, base):
        if path == base + _GRADIO_PATH:
            return (
                "this Gradio app receives no webhooks: start it with `hooks.launch(demo)` instead "
                "of `demo.launch()`; if a FastAPI app mounts it, `app.include_router("
                f"hooks.router())` receives at {_ROUTER_PATH}"
            )
        place = f"{target.url.scheme}://{target.url.netloc.decode()}{base}{_GRADIO_PATH}"
        return (
            f"this is a Gradio app: started with `hooks.launch(demo)`, it receives at {place}; if "
            f"a FastAPI app mounts it, `app.include_router(hooks.router())` does, at {_ROUTER_PATH}"
        )
    if path.endswith(_ROUTER_PATH):
        return (
            f"the app has no webhook at {path}: add `app.include_router(hooks.router())`, or give "
            "the path and the prefix that the router has"
        )
    return (
        f"the app has no webhook at {path}: give the path of `hooks.router(...)` with its prefix, "
        f"by default {_ROUTER_PATH}"
    )


def _is_gradio(url: httpx.URL, base: str) -> bool:
    """Ask the server for a page that only Gradio has; without the secret."""
    probe = httpx.URL(
        scheme=url.scheme, host=url.host, port=url.port, path=f"{base}/gradio_api/app_id"
    )
    try:
        answer = httpx.get(probe, timeout=_PROBE_SECONDS, trust_env=False, follow_redirects=False)
        said = answer.json()
    except (httpx.HTTPError, ValueError, RecursionError):
        return False
    return isinstance(said, dict) and "app_id" in said


def _status_cell(status: int | None) -> Text:
    if status is None:
        return Text("none", style="red")
    return Text(str(status), style="green" if httpx.codes.is_success(status) else "red")


def _explanations(said: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Read why no handler matched, from a response of hubhooks' own receiver."""
    given = said.get("explanations") if isinstance(said, dict) else None
    return tuple(map(str, given)) if isinstance(given, list) else ()


def _in_words(said: Any) -> str:  # noqa: ANN401
    """Read an answer of hubhooks' own receiver; empty for anything else."""
    if not isinstance(said, dict):
        return ""
    handlers = said.get("handlers")
    names = ", ".join(map(str, handlers)) if isinstance(handlers, list) else None
    return ": ".join(str(part) for part in (said.get("status"), names, said.get("reason")) if part)


def _as_text(said: Any) -> str:  # noqa: ANN401
    return said if isinstance(said, str) else json.dumps(said)


if __name__ == "__main__":
    main()
