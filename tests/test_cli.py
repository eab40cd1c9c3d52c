"""The command line against a real server on the loopback interface."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from rich.text import Text
from typer.testing import CliRunner

from hubhooks import _samples
from hubhooks._samples import compact, sample_json, sample_names
from hubhooks.cli import make_app

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECRET = "moon & tide+50%/x"
ENCODED_SECRET = "moon%20%26%20tide%2B50%25%2Fx"

# Variables that would set a secret, a file, or colours without a terminal.
UNWANTED = {
    "FORCE_COLOR",
    "GITHUB_ACTIONS",
    "HUBHOOKS_DELIVERIES",
    "PY_COLORS",
    "TTY_COMPATIBLE",
    "WEBHOOK_SECRET",
}
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in UNWANTED},
    "PYTHONPATH": str(Path(_samples.__file__).parents[1]),
    "COLUMNS": "250",  # so that no message is wrapped
    "NO_COLOR": "1",
}


class Request(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Receiver:
    """The responses of the server at `url`, and the requests that it got."""

    url: str = ""
    status: int = 202
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"status": "accepted", "delivery": "d1", "handlers": ["retrain", "reply"]}'
    meeting: threading.Barrier | None = None
    requests: list[Request] = field(default_factory=list)

    @property
    def only(self) -> Request:
        (request,) = self.requests
        return request


def handler_for(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each response waits for the client's delayed ACK

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append(Request(self.command, self.path, headers, body))
            if receiver.meeting:
                receiver.meeting.wait()
            self.send_response(receiver.status)
            for name, value in {**receiver.headers, "Content-Length": len(receiver.body)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(receiver.body)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Log nothing."""

    return Handler


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(receiver))
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}/webhooks/hub"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def bound_socket(*, listening: bool) -> Iterator[str]:
    """Bind a port that refuses connections, or accepts them and never responds."""
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        if listening:
            owner.listen()
        yield f"http://127.0.0.1:{owner.getsockname()[1]}/webhooks/hub"


def python(
    *arguments: str, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        env={**ENVIRONMENT, **environment},
        timeout=60,
        check=False,
    )
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in stderr, stderr
    assert SECRET not in stdout + stderr
    assert ENCODED_SECRET not in stdout + stderr
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)


def hubhooks(
    *arguments: str, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    return python("-m", "hubhooks.cli", *arguments, stdin=stdin, **environment)


# ---- requests --------------------------------------------------------------------------------


def test_sample_is_sent_as_the_hub_sends_it(receiver: Receiver) -> None:
    done = hubhooks("send", receiver.url, "--sample", "repo.create", WEBHOOK_SECRET=SECRET)
    assert (done.returncode, done.stderr) == (0, "")
    request = receiver.only
    assert (request.method, request.path) == ("POST", "/webhooks/hub")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-webhook-secret"] == SECRET
    assert re.fullmatch("[0-9a-f]{32}", request.headers["webhook-id"])
    assert request.body == compact(sample_json("repo.create"))
    for shown in ("202", "repo.create", "accepted: retrain, reply", request.headers["webhook-id"]):
        assert shown in done.stdout


def test_without_a_secret_no_header_is_sent(receiver: Receiver) -> None:
    hubhooks("send", receiver.url, "--sample", "repo.create")
    assert "x-webhook-secret" not in receiver.only.headers


@pytest.mark.parametrize("query", ["", "?a=%2F+1"])
def test_the_secret_can_be_in_the_query(receiver: Receiver, query: str) -> None:
    options = ("--sample", "repo.create", "--secret", f" {SECRET}\n", "--secret-in", "query")
    hubhooks("send", receiver.url + query, *options)
    separator = "&" if query else "?"
    expected = f"/webhooks/hub{query}{separator}secret={ENCODED_SECRET}"
    assert receiver.only.path == expected
    assert "x-webhook-secret" not in receiver.only.headers


def test_every_sample_is_sent_in_order(receiver: Receiver) -> None:
    done = hubhooks("send", receiver.url, "--all", "--json")
    assert [json.loads(line)["sample"] for line in done.stdout.splitlines()] == sample_names()
    assert [request.body for request in receiver.requests] == [
        compact(sample_json(name)) for name in sample_names()
    ]


def test_each_repetition_has_a_fresh_id(receiver: Receiver) -> None:
    hubhooks("send", receiver.url, "--sample", "repo.create", "--repeat", "3")
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 3


def test_given_id_is_repeated_as_in_a_retry(receiver: Receiver) -> None:
    hubhooks("send", receiver.url, "--sample", "repo.create", "--repeat", "3", "--id", "again")
    assert [request.headers["webhook-id"] for request in receiver.requests] == ["again"] * 3


def test_fields_are_changed(receiver: Receiver) -> None:
    changes = {"repo.name": "me/x", "repo.private": "true", "updatedRefs.0.newSha": "null"}
    options = [f"--set={path}={value}" for path, value in changes.items()]
    hubhooks("send", receiver.url, "--sample", "repo.content.update", *options)
    expected = sample_json("repo.content.update")
    expected["repo"] |= {"name": "me/x", "private": True}
    expected["updatedRefs"][0]["newSha"] = None
    assert json.loads(receiver.only.body) == expected


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_a_file_is_sent_byte_for_byte(receiver: Receiver, tmp_path: Path, source: str) -> None:
    body = b'\xef\xbb\xbf{ "broken": \xff\r\n'
    path = tmp_path / "body.json"
    path.write_bytes(body)
    file = str(path) if source == "file" else "-"
    done = hubhooks("send", receiver.url, "--file", file, stdin=body)
    assert receiver.only.body == body
    assert ("body.json" if source == "file" else "(stdin)") in done.stdout


def test_fields_of_a_file_are_changed(receiver: Receiver) -> None:
    hubhooks(
        "send", receiver.url, "--file", "-", "--set", "a.b=1", stdin=b'{ "a": {"c": "\xc3\xa9"} }'
    )
    assert receiver.only.body == '{"a":{"c":"é","b":1}}'.encode()


def test_concurrency_limits_requests(receiver: Receiver) -> None:
    # No request gets a response before three have arrived.
    receiver.meeting = threading.Barrier(3, timeout=30)
    options = ("--sample", "repo.create", "--repeat", "9", "--concurrency", "3")
    assert hubhooks("send", receiver.url, *options).returncode == 0
    assert len(receiver.requests) == 9


def test_no_proxy_of_the_environment_is_used(receiver: Receiver) -> None:
    with bound_socket(listening=False) as proxy:
        done = hubhooks("send", receiver.url, "--sample", "repo.create", HTTP_PROXY=proxy)
    assert done.returncode == 0


# ---- output ----------------------------------------------------------------------------------


def test_json_lines_hold_the_whole_response(receiver: Receiver) -> None:
    done = hubhooks("send", receiver.url, "--sample", "repo.create", "--id", "d1", "--json")
    line = json.loads(done.stdout)
    assert line.pop("milliseconds") > 0
    assert line == {
        "sample": "repo.create",
        "id": "d1",
        "status": 202,
        "response": {"status": "accepted", "delivery": "d1", "handlers": ["retrain", "reply"]},
        "error": None,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"status": "unhandled", "handlers": [], "reason": "nobody"}', "unhandled: nobody"),
        (b'{"status": "ignored", "reason": "[red]bot[/x]"}', "ignored: [red]bot[/x]"),
        (b'{"detail": "Not Found"}', '{"detail": "Not Found"}'),
        (b'{"status": {"a": 1}, "handlers": 3}', "{'a': 1}"),
        (b"[1, 2]", "[1, 2]"),
        (b"<h1>\n\x1b[2J  Hello</h1>", "<h1> [2J Hello</h1>"),
        (b"x" * 500, "x" * 200 + " "),
        (b"[" * 100_000, "[[["),
        (b"", ""),
    ],
)
def test_any_response_is_shown_on_one_line(receiver: Receiver, body: bytes, shown: str) -> None:
    receiver.body = body
    done = hubhooks("send", receiver.url, "--sample", "repo.create")
    assert done.returncode == 0
    assert shown in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.strip()]) == 3


def test_unhandled_delivery_names_the_command_that_says_why(receiver: Receiver) -> None:
    receiver.body = b'{"status": "unhandled", "handlers": [], "explanations": ["`a` does not"]}'
    options = ("--sample", "repo.create", "--sample", "repo.move")
    done = hubhooks("send", receiver.url, *options)
    first = receiver.requests[0].headers["webhook-id"]
    assert done.stderr.splitlines() == [
        "repo.create and 1 more are unhandled:",
        "  `a` does not",
        f"why: hubhooks deliveries show {first}",
    ]
    receiver.body = b'{"status": "unhandled"}'
    done = hubhooks("send", receiver.url, "--sample", "repo.create", "--id", "d1")
    assert done.stderr == "repo.create is unhandled:\nwhy: hubhooks deliveries show d1\n"
    receiver.body = b'{"status": "ignored"}'
    assert hubhooks("send", receiver.url, "--sample", "repo.create").stderr == ""


def test_many_repeated_deliveries_are_summed_up(receiver: Receiver) -> None:
    done = hubhooks("send", receiver.url, "--sample", "repo.create", "--repeat", "25")
    (row,) = [line for line in done.stdout.splitlines() if "accepted" in line]
    assert row.split()[:5] == ["202", "accepted:", "retrain,", "reply", "25"]
    assert done.stderr == ""


def test_terminal_shows_progress_of_many_deliveries(receiver: Receiver) -> None:
    options = ("--sample", "repo.create", "--repeat", "25")
    done = hubhooks("send", receiver.url, *options, FORCE_COLOR="1")
    assert "sending" in done.stderr
    assert "sending" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (401, "hint: the app requires the webhook secret"),
        (403, "hint: the app has a different webhook secret"),
        (404, "hint: the app has no webhook at /webhooks/hub"),
        (405, "hint: the app has no webhook at /webhooks/hub"),
        (503, ""),
    ],
)
def test_non_2xx_response_fails(receiver: Receiver, status: int, hint: str) -> None:
    receiver.status = status
    done = hubhooks("send", receiver.url, "--sample", "repo.create", "--sample", "repo.move")
    assert done.returncode == 1
    assert len(receiver.requests) == 2
    assert str(status) in done.stdout
    assert hint in done.stderr
    assert done.stderr.count("hint:") == bool(hint)


def test_redirect_is_shown_and_not_followed(receiver: Receiver) -> None:
    receiver.status = 307
    receiver.headers = {"Location": f"/elsewhere/?secret={ENCODED_SECRET}"}
    options = ("--sample", "repo.create", "--secret", SECRET, "--secret-in", "query")
    done = hubhooks("send", receiver.url, *options)
    assert done.returncode == 1
    assert len(receiver.requests) == 1
    assert "307" in done.stdout
    assert "redirects to /elsewhere/?secret=[secret]" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_echoed_secret_is_not_shown(receiver: Receiver, options: tuple[str, ...]) -> None:
    receiver.body = json.dumps({"reason": f"no {SECRET}", "more": [{SECRET: SECRET}]}).encode()
    done = hubhooks("send", receiver.url, "--sample", "repo.create", "--secret", SECRET, *options)
    assert "no [secret]" in done.stdout


def test_secret_of_the_url_is_not_shown(receiver: Receiver) -> None:
    receiver.body = SECRET.encode()
    url = f"{receiver.url}?secret={ENCODED_SECRET}"
    assert "[secret]" in hubhooks("send", url, "--sample", "repo.create").stdout


def test_help_shows_the_variable_without_its_value() -> None:
    assert "WEBHOOK_SECRET" in hubhooks("send", "--help", WEBHOOK_SECRET=SECRET).stdout


# ---- errors ----------------------------------------------------------------------------------


def test_deliveries_are_built_when_sent() -> None:
    with bound_socket(listening=False) as url:
        done = hubhooks("send", url, "--all", "--repeat", f"{10**30}", "--concurrency", "3")
    assert done.returncode == 1
    assert done.stderr.startswith(f"hubhooks: cannot connect to {url}: ")


def test_refused_connection_is_one_error_for_all() -> None:
    with bound_socket(listening=False) as url:
        address = url.replace("http://", "http://user:password@")
        done = hubhooks("send", f"{address}?secret={ENCODED_SECRET}", "--all")
    assert done.returncode == 1
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith(f"hubhooks: cannot connect to {url}: ")
    assert hint == "hint: start the app first, and check the host and port of the URL"


def test_server_without_tls_is_named(receiver: Receiver) -> None:
    url = receiver.url.replace("http://", "https://")
    done = hubhooks("send", url, "--sample", "repo.create")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "hint: if the server has no TLS, write http:// instead of https://\n"
    )


def test_refused_connection_is_a_json_line() -> None:
    with bound_socket(listening=False) as url:
        done = hubhooks("send", url, "--all", "--json")
    line = json.loads(done.stdout)
    assert (line["status"], line["response"]) == (None, None)
    assert line["error"]


def test_missing_response_times_out() -> None:
    with bound_socket(listening=True) as url:
        done = hubhooks("send", url, "--sample", "repo.create", "--timeout", "0.1")
    assert done.returncode == 1
    assert "no response within 0.1 seconds" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("send", "http://x/"), "nothing to send"),
        (("send", "http://x/", "--sample", "repo.creat"), "the nearest are `repo.create`"),
        (("send", "http://x/", "--file", "no-such-file"), "cannot read no-such-file: "),
        (("send", "http://x/", "--file", "."), "cannot read .: "),
        (("send", "http://x/", "--file", "-", "--set", "a=1"), "(stdin) is not a JSON object"),
        (("send", "http://x/", "--all", "--set", "repo.name.x=1"), "cannot set `repo.name.x`"),
        (
            ("send", "http://x/", "--all", "--set", "repo=null", "--set", "repo.name=x"),
            "cannot set `repo.name`: `name` cannot be inside null: only an object or a list",
        ),
        (("send", "http://x/", "--all", "--set", "repo.name"), "--set repo.name has no value"),
        (("send", "http://x/", "--all", "--id", "one"), "--id is the id of one delivery"),
        (("send", "http://x/", "--sample", "repo.move", "--id", "é"), "--id must be printable"),
        (("send", "http://x/", "--all", "--secret", "\n"), "the secret must be printable ASCII"),
        (("send", "http://x/", "--all", "--secret", "tidé"), "the secret must be printable ASCII"),
        (("send", "http://x/", "--all", "--repeat", "0"), "--repeat"),
        (("send", "/webhooks/hub", "--all"), "the URL is incomplete"),
        (("send", "http://x:port/", "--all"), "the URL cannot be read"),
        (("send", "http://xn--/", "--all"), "the URL cannot be read"),
        (("send", "http://user:password@xn--a/", "--all"), "the URL cannot be read"),
        (("send", "http://x:65536/", "--all"), "the port of the URL is 65536"),
        (("samples", "repo.creat"), "the nearest are `repo.create`"),
        (("samples", "--set", "a=1"), "--set changes one sample"),
        (("no-such-command",), "no-such-command"),
    ],
)
def test_a_wrong_option_is_a_usage_error(arguments: tuple[str, ...], message: str) -> None:
    # These commands send nothing, so they need no separate process.
    done = CliRunner().invoke(make_app(), arguments, input="[]", env={"COLUMNS": "250"})
    assert done.exit_code == 2
    assert done.stdout == ""
    assert message in Text.from_ansi(done.stderr).plain


def test_usage_error_has_no_traceback() -> None:
    done = hubhooks("send", "http://x/")
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: hubhooks send")


@pytest.mark.parametrize("library", ["httpx", "rich", "typer"])
def test_command_names_the_missing_extra(library: str) -> None:
    block = f"import sys; sys.modules[{library!r}] = None"
    done = python("-c", f"{block}; from hubhooks.cli import main; main()")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        'hubhooks: the command line needs the "cli" extra',
        'hint: pip install "hubhooks[cli]"',
    ]


# ---- samples and version ---------------------------------------------------------------------


def test_piped_lines_have_no_trailing_blanks(receiver: Receiver) -> None:
    some = ("--sample", "repo.create", "--sample", "repo.move")
    many = ("--sample", "repo.create", "--repeat", "21")
    for words in (("samples",), ("send", receiver.url, *some), ("send", receiver.url, *many)):
        done = hubhooks(*words)
        lines = done.stdout.splitlines()
        assert len(lines) > 3
        assert [line for line in lines if line != line.rstrip()] == []


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("repo.nmae", "repo.name"),
        ("headSha", "repo.headSha"),
        ("updatedRefs.1.newsha", "updatedRefs.1.newSha"),
    ],
)
def test_misspelt_path_of_set_warns_and_is_sent(receiver: Receiver, path: str, near: str) -> None:
    sets = ("--set", "updatedRefs.1.ref=x", "--set", f"{path}=x")
    done = hubhooks("send", receiver.url, "--sample", "repo.content.update", *sets)
    assert done.returncode == 0
    assert done.stderr == (
        f"warning: --set {path}: the Hub documents no such field; the nearest is {near}\n"
    )
    assert b'"x"' in receiver.only.body


@pytest.mark.slow
def test_documented_path_of_set_does_not_warn(receiver: Receiver, tmp_path: Path) -> None:
    for path in ("repo.name=me/x", "updatedConfig.any=1", "comment.content=x"):
        assert hubhooks("samples", "repo.config.update", "--set", path).stderr == ""
    file = tmp_path / "own.json"
    file.write_text('{"own": {"field": 1}}')
    done = hubhooks("send", receiver.url, "--file", str(file), "--set", "own.field=2")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_of_samples_is_complete() -> None:
    done = hubhooks("samples")
    rows: list[list[str]] = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert rows[0] == ["name", "scope", "action", "summary"]
    assert [row[0] for row in rows[2:]] == sample_names()
    assert ["repo.delete.v2", "repo", "remove", "dataset"] in [row[:4] for row in rows]


def test_one_sample_is_printed_as_plain_json() -> None:
    done = hubhooks("samples", "discussion.create", "--set", "discussion.num=8", FORCE_COLOR="1")
    expected: dict[str, Any] = sample_json("discussion.create")
    expected["discussion"]["num"] = 8
    assert done.stdout == json.dumps(expected, indent=2) + "\n"


def test_the_version_is_printed() -> None:
    done = hubhooks("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("hubhooks ")
