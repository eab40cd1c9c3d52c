"""The command `hubhooks follow`: copy the deliveries of a deployed app into a local one."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import ssl
import time
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import quote

import httpx
import typer

from hubhooks import _environment
from hubhooks._samples import compact
from hubhooks._terminal import (
    flush_output,
    print_error,
    print_line,
    shown_id_length,
    single_line,
    usage_errors,
)
from hubhooks.cli.output import counted, cut, print_note, terminal_width
from hubhooks.cli.sender import SecretPlace, make_target, printable_ascii
from hubhooks.cli.times import WHEN_HELP, parse_time
from hubhooks.dev.folder import FOLDER, read_kept
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hubhooks.cli.sender import Target

__all__ = ["add_commands"]

ORIGIN_HEADER = "x-hubhooks-origin"
_POLL_SECONDS = 1.0
_LONGEST_PAUSE = 15.0
_TIMEOUT = 30.0
_PAGE = 500
_MOST_IDS = 2000
# The clock of the deployed app may go back by so much.
_SLACK = timedelta(minutes=1)
_UNAVAILABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_WRONG_SECRET = frozenset({401, 403})
# The server responded without TLS. The reason depends on the version of OpenSSL.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})
_NO_WEBHOOK = frozenset({404, 405})
_has_scheme = re.compile("[A-Za-z][A-Za-z0-9+.-]*://").match
_DEFAULT_TARGET = "http://127.0.0.1:8000/"

# Not docstrings, which `python -OO` drops.
_FOLLOW_HELP = """Copy the deliveries of a deployed app into a local app, until Ctrl-C.

Each delivery is posted once, with its own id and the secret of the local app. The first start
copies only deliveries received from then on. A later start continues after the last copied one.
Either app may stop and start again meanwhile.

The deployed app needs HUBHOOKS_ADMIN_TOKEN. Give this command the same token in the variable
HUBHOOKS_FOLLOW_TOKEN.

Exit codes: 0 after Ctrl-C, 1 if one of the apps rejects the requests, 2 if an option is wrong.
"""


class _RejectedError(Exception):
    """An app rejects the requests, so that a retry is useless."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class _UnavailableError(Exception):
    """An app does not respond now."""


def add_commands(app: typer.Typer) -> None:
    """Add the command `follow`."""
    app.command("follow", help=_FOLLOW_HELP)(_follow)


def _follow(  # noqa: PLR0913 - one parameter per option
    *,
    url: Annotated[
        str,
        typer.Argument(
            help="The webhook URL of the deployed app, for example "
            "https://me-bot.hf.space/gradio_api/webhooks."
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="The webhook URL of the local app.")
    ] = _DEFAULT_TARGET,
    token_env: Annotated[
        str,
        typer.Option(metavar="NAME", help="The variable with the admin token of the deployed app."),
    ] = _environment.FOLLOW_TOKEN,
    secret: Annotated[
        str | None,
        typer.Option(
            envvar="WEBHOOK_SECRET",
            show_default=False,
            help="The webhook secret of the local app. Prefer the variable: other users of the "
            "machine can read command lines.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help=f"At the first start, copy the deliveries since then: {WHEN_HELP}"),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line.")
    ] = False,
) -> None:
    with usage_errors():
        source = _source_url(url)
        token = (_environment.read(token_env) or "").strip()
        if not token:
            msg = f"{token_env} is not set: set it to the HUBHOOKS_ADMIN_TOKEN of the deployed app"
            raise ConfigError(msg)
        printable_ascii(token, token_env)
        target = make_target(to, secret, SecretPlace.HEADER)
        if secret is None and target.is_local and (kept := read_kept(_environment.SECRET)):
            target = make_target(to, kept, SecretPlace.HEADER)
        if target.shown.rstrip("/") == source:
            msg = "the URL and --to are the same app"
            raise ConfigError(msg)
        moment = None if since is None else parse_time(since)
        state = _State.load(source)
    follower = _Follower(source, token, token_env, target, state, as_json=as_json)
    try:
        with follower.clients():
            follower.run(moment)
    except KeyboardInterrupt:
        print_note(f"{counted(follower.count, 'delivery', 'deliveries')} copied")
    except _RejectedError as error:
        print_error(single_line(str(error)), single_line(error.hint))
        raise typer.Exit(1) from None


def _source_url(text: str) -> str:
    """Return the URL of the deployed app without a slash at its end.

    Raises:
        ConfigError: it cannot be read, or the token would be sent without TLS.
    """
    text = text.strip()
    if not _has_scheme(text):
        is_local = _is_loopback(httpx.URL(f"http://{text}").host) if text else False
        text = f"{'http' if is_local else 'https'}://{text}"
    url = make_target(text, None, SecretPlace.HEADER).url
    if url.userinfo or url.query:
        msg = "write the URL without user, password and query"
        raise ConfigError(msg)
    if url.scheme == "http" and not _is_loopback(url.host):
        msg = "the admin token would be sent unencrypted: write https://"
        raise ConfigError(msg)
    return f"{url.scheme}://{url.netloc.decode()}{url.path}".rstrip("/")


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


# ---- what was copied -------------------------------------------------------------------------


class _State:
    """The ids of the copied deliveries, in a file in the folder `.hubhooks`.

    Args:
        path: the file.
        url: the deployed app.
        copied: the ids with the times of their deliveries, the newest copied one last; None at
            the first start.
    """

    def __init__(self, path: Path, url: str, copied: dict[str, str] | None) -> None:
        self._path = path
        self._url = url
        self.is_new = copied is None
        """True if nothing was copied from this app before."""
        self.copied = copied or {}

    @classmethod
    def load(cls, url: str) -> _State:
        """Read the file of a deployed app, if there is one.

        Raises:
            ConfigError: it cannot be read.
        """
        host = re.sub(r"[^\w.-]", "_", httpx.URL(url).netloc.decode())
        path = Path(FOLDER) / f"follow-{host}.json"
        try:
            stored = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return cls(path, url, None)
        except (OSError, ValueError) as error:
            msg = f"cannot read `{path}`: {error}. Delete it to copy only new deliveries"
            raise ConfigError(msg) from error
        # Another app of the same host has other deliveries.
        is_same = isinstance(stored, dict) and stored.get("url") == url
        copied = stored.get("copied") if is_same else None
        return cls(path, url, _checked_ids(copied) if isinstance(copied, dict) else None)

    @property
    def newest(self) -> datetime | None:
        """The time of the newest copied delivery."""
        times = [_parse_iso(text) for text in self.copied.values()]
        return max(times, default=None)

    def add(self, row: Mapping[str, Any]) -> None:
        """Note that a delivery is copied."""
        self.copied[row["id"]] = row["received_at"]

    def save(self) -> None:
        """Write the file. A process that dies meanwhile leaves the old one."""
        newest = self.newest
        for key in list(self.copied)[: max(len(self.copied) - _MOST_IDS, 0)]:
            if newest is not None and _parse_iso(self.copied[key]) < newest - 2 * _SLACK:
                del self.copied[key]
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        ignore = self._path.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", "utf-8")
        text = json.dumps(
            {"url": self._url, "newest": next(reversed(self.copied), None), "copied": self.copied}
        )
        new = self._path.with_suffix(f".{os.getpid()}")
        new.write_text(text, "utf-8")
        new.replace(self._path)


def _checked_ids(copied: Mapping[Any, Any]) -> dict[str, str]:
    return {key: moment for key, moment in copied.items() if _is_time(moment)}


def _is_time(text: object) -> bool:
    try:
        return isinstance(text, str) and _parse_iso(text).tzinfo is not None
    except ValueError:
        return False


def _parse_iso(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


# ---- copying ---------------------------------------------------------------------------------


class _Copied(NamedTuple):
    """A delivery that was posted to the local app."""

    row: Mapping[str, Any]
    status: int
    response: Any


class _Follower:
    """Copies deliveries, one after the other and the oldest first."""

    def __init__(  # noqa: PLR0913 - the options of the command
        self,
        source: str,
        token: str,
        token_env: str,
        target: Target,
        state: _State,
        *,
        as_json: bool,
    ) -> None:
        self.count = 0
        """The number of deliveries that the local app accepted."""
        self._source = source
        self._token_env = token_env
        self._target = target
        self._state = state
        self._as_json = as_json
        self._was_reached = False
        self._complaint = ""
        # Requests to this machine must not go through a proxy. Redirects are never followed:
        # another server must not get the token or the secret. TLS is verified by default.
        is_local = _is_loopback(httpx.URL(source).host)
        self._remote = httpx.Client(
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeout=_TIMEOUT, follow_redirects=False, trust_env=not is_local,
        )  # fmt: skip
        self._local = httpx.Client(
            headers={**target.headers, ORIGIN_HEADER: source},
            timeout=_TIMEOUT, follow_redirects=False, trust_env=False,
        )  # fmt: skip

    @contextmanager
    def clients(self) -> Iterator[None]:
        """Close the connections at the end of the block."""
        with self._remote, self._local:
            yield

    def run(self, since: datetime | None) -> None:
        """Copy deliveries until the output is closed."""
        pause = _POLL_SECONDS
        is_started = False
        began = datetime.now(timezone.utc)
        while True:
            try:
                if not is_started:
                    self._start(since)
                    is_started = True
                self._copy_new(since)
                pause = _POLL_SECONDS
                if self._complaint:
                    self._complaint = ""
                    print_note("continues")
            except _UnavailableError as error:
                if not is_started and self._state.is_new and since is None:
                    # A delivery may start the app before the next try.
                    since = began
                if str(error) != self._complaint:
                    self._complaint = str(error)
                    print_note(f"{error}; trying again")
                pause = min(2 * pause, _LONGEST_PAUSE)
            if not flush_output():
                return
            time.sleep(pause)

    def _start(self, since: datetime | None) -> None:
        is_from_now = self._state.is_new and since is None
        if self._state.is_new:
            for row in self._old_rows(since):
                self._state.add(row)
            self._state.save()
        print_note(
            f"copying {'new ' if is_from_now else ''}deliveries from {self._source} to "
            f"{self._target.shown}; Ctrl-C ends"
        )

    def _old_rows(self, since: datetime | None) -> list[Mapping[str, Any]]:
        """Return the rows that are not to be copied and that `_new_rows` would find."""
        rows: list[Mapping[str, Any]] = []
        newest: datetime | None = None
        query: dict[str, Any] = {"limit": _PAGE}
        while True:
            page = self._get("", query)
            times = [_parse_iso(row["received_at"]) for row in page["deliveries"]]
            for row, moment in zip(page["deliveries"], times, strict=True):
                if since is None or moment < since:
                    rows.append(row)
                    newest = moment if newest is None else max(newest, moment)
            # A replayed delivery is listed before newer ones.
            is_over = newest is not None and all(moment < newest - _SLACK for moment in times)
            if is_over or not page.get("before"):
                return rows[::-1]
            query["before"] = page["before"]

    def _copy_new(self, since: datetime | None) -> None:
        for row in self._new_rows(since):
            if row.get("state") == "malformed":
                self._skip(row, "it is not an event of the Hub")
                continue
            if not row["id"].isascii() or not row["id"].isprintable():
                self._skip(row, "no header can carry its id")
                continue
            whole = self._get(f"/{quote(row['id'], safe='')}", {})
            body = whole.get("body")
            if isinstance(body, dict):
                self._post(row, compact(body))
            else:
                self._skip(row, whole.get("body_omitted") or "its body was deleted to free space")

    def _new_rows(self, since: datetime | None) -> list[Mapping[str, Any]]:
        """Return the rows of deliveries that are not copied, the oldest first."""
        query: dict[str, Any] = {"limit": _PAGE}
        if (newest := self._state.newest) is not None:
            query["since"] = (newest - _SLACK).isoformat()
        elif since is not None:
            query["since"] = since.isoformat()
        rows: dict[str, Mapping[str, Any]] = {}
        while True:
            page = self._get("", query)
            for row in page["deliveries"]:
                if row["id"] not in self._state.copied:
                    rows.setdefault(row["id"], row)
            if not page.get("before"):
                return list(rows.values())[::-1]
            query["before"] = page["before"]

    def _get(self, path: str, query: dict[str, Any]) -> dict[str, Any]:
        url = f"{self._source}/deliveries{path}"
        try:
            response = self._remote.get(url, params=query)
        except httpx.RequestError as error:
            tls = _tls_error_of(error)
            if isinstance(tls, ssl.SSLCertVerificationError):
                msg = f"cannot verify the certificate of {self._source}: {error}"
                raise _RejectedError(msg) from None
            # A server that stops in the middle of a handshake is tried again.
            if tls is not None and tls.reason in _NO_TLS and not self._was_reached:
                msg = f"{self._source} does not use TLS: {error}"
                hint = "for an app on this machine, write http:// instead of https://"
                raise _RejectedError(msg, hint) from None
            msg = f"cannot reach {self._source}: {str(error) or type(error).__name__}"
            raise _UnavailableError(msg) from None
        value = _json_of(response)
        if response.status_code == httpx.codes.OK and isinstance(value, dict):
            if path or _is_list_of_rows(value.get("deliveries")):
                self._was_reached = True
                return value
        elif path and response.status_code == httpx.codes.NOT_FOUND and self._was_reached:
            return {"body_omitted": "the deployed app does not have it any more"}
        self._check(response, value)
        msg = f"{self._source} responds {response.status_code}"
        raise _UnavailableError(msg)

    def _check(self, response: httpx.Response, value: object) -> None:
        """Raise an error if a retry is useless."""
        status = response.status_code
        reason = str(value.get("reason", "")) if isinstance(value, dict) else ""
        if status in _WRONG_SECRET or (
            status == httpx.codes.TOO_MANY_REQUESTS and "token" in reason
        ):
            msg = f"{self._source} rejects the admin token ({status}): {reason or 'no reason'}"
            hint = f"set {self._token_env} to the HUBHOOKS_ADMIN_TOKEN of the deployed app"
            raise _RejectedError(msg, hint)
        # During a restart, the platform may respond in place of the app.
        if self._was_reached or status in _UNAVAILABLE:
            return
        if response.has_redirect_location:
            msg = f"{self._source} redirects to {response.headers['Location']}"
            raise _RejectedError(msg, "give that URL: redirects are not followed with the token")
        msg = f"{self._source}/deliveries is not the JSON API of hubhooks ({status})"
        hint = (
            "give the webhook URL of the app, for example with /webhooks/hub (FastAPI) or "
            "/gradio_api/webhooks (Gradio), or the URL of its admin page with /api; and set "
            "HUBHOOKS_ADMIN_TOKEN for that app"
        )
        raise _RejectedError(msg, hint)

    def _post(self, row: Mapping[str, Any], body: bytes) -> None:
        try:
            response = self._local.post(
                self._target.url, content=body, headers={"Webhook-Id": row["id"]}
            )
        except httpx.RequestError as error:
            what = str(error) or type(error).__name__
            msg = f"cannot reach the local app at {self._target.shown}: {what}"
            raise _UnavailableError(msg) from None
        status, shown = response.status_code, self._target.shown
        if status in _WRONG_SECRET:
            msg = f"the local app at {shown} rejects the secret ({status})"
            raise _RejectedError(msg, "set WEBHOOK_SECRET to the secret of the local app")
        if status in _NO_WEBHOOK or response.has_redirect_location:
            msg = f"the local app has no webhook at {shown} ({status})"
            raise _RejectedError(msg, "give its webhook URL with --to")
        if status in _UNAVAILABLE:
            msg = f"the local app at {shown} responds {status}"
            raise _UnavailableError(msg)
        if response.is_success:
            self.count += 1
        self._state.add(row)
        self._state.save()
        self._print(_Copied(row, status, _json_of(response)))

    def _skip(self, row: Mapping[str, Any], reason: str) -> None:
        self._state.add(row)
        self._state.save()
        print_note(f"not copied: {row['id']}: {reason}")

    def _print(self, copied: _Copied) -> None:
        row, response = copied.row, copied.response
        if self._as_json:
            print_line(json.dumps({"delivery": row, "status": copied.status, "response": response}))
        else:
            width = terminal_width()
            line = "  ".join(single_line(text) for text in _columns(copied) if text)
            print_line(line if width is None else cut(line, width))
        flush_output()


def _columns(copied: _Copied) -> Iterator[str]:
    row, response = copied.row, copied.response
    yield str(row["id"])[: shown_id_length([row["id"]])]
    yield f"{row.get('scope', '')} {row.get('action', '')}"
    yield str(row.get("repo") or "")
    yield str(copied.status)
    if isinstance(response, dict):
        handlers = response.get("handlers")
        names = ", ".join(map(str, handlers)) if isinstance(handlers, list) else ""
        yield ": ".join(filter(None, (str(response.get("status", "")), names)))
        yield str(response.get("reason") or "")


def _is_list_of_rows(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict)
        and isinstance(row.get("id"), str)
        and _is_time(row.get("received_at"))
        for row in value
    )


def _json_of(response: httpx.Response) -> Any:  # noqa: ANN401 - any JSON value
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def _tls_error_of(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None
