"""`hubhooks follow` between two servers on the loopback interface."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, SECRET, Server, free_port, started, wait_until
from test_cli import ENVIRONMENT
from typer.testing import CliRunner

from hubhooks._samples import compact, sample_json
from hubhooks._store.sqlite import SqliteStore
from hubhooks.cli import follow as _follow
from hubhooks.cli import make_app
from hubhooks.errors import StoreError
from hubhooks.models import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hubhooks import Delivery

TOKEN = "a-token-of-the-deployed-app"
DEPLOYED = "deployed secret"
APP = """
from pathlib import Path
from hubhooks import Webhooks

hooks = Webhooks()


@hooks.on()
def note(event, context):
    with Path("runs").open("a") as file:
        file.write(context.id + "\\n")
"""
PUSH = compact(sample_json("repo.content.update"))


@contextmanager
def app(folder: Path, port: int | None = None, **environ: str | None) -> Iterator[Server]:
    """Serve an app that stores its deliveries in a file."""
    folder.mkdir(exist_ok=True)
    command = ("-m", "uvicorn", "app:hooks", "--port", str(port or "{port}"))
    variables = {"HUBHOOKS_DELIVERIES": "hubhooks.db", **environ}
    ready = "Uvicorn running" if port else None
    with started(folder, *command, script=APP, prints=ready, environ=variables) as server:
        if port is not None:
            server.port, server.url = port, f"http://127.0.0.1:{port}"
        yield server


@contextmanager
def deployed(folder: Path, port: int | None = None) -> Iterator[Server]:
    variables = {"WEBHOOK_SECRET": DEPLOYED, "HUBHOOKS_ADMIN_TOKEN": TOKEN}
    with app(folder, port, **variables) as server:
        yield server


class Follow:
    """A running `hubhooks follow`."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, errors: Path) -> None:
        self.process = process
        self._output = output
        self._errors = errors

    @property
    def printed(self) -> list[str]:
        return self._output.read_text("utf-8").splitlines()

    @property
    def errors(self) -> str:
        return self._errors.read_text("utf-8")

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.errors or self.process.poll() is not None)
        assert text in self.errors

    def stop(self) -> list[str]:
        """Press Ctrl-C, and return the lines of stdout."""
        self.process.send_signal(signal.SIGINT)
        assert self.wait() == 0, self.errors
        return self.printed

    def wait(self) -> int:
        return self.process.wait(PATIENCE)


@contextmanager
def following(
    folder: Path, url: str, *words: str, to: str, token: str = TOKEN, secret: str = SECRET
) -> Iterator[Follow]:
    environment = {**ENVIRONMENT, "HUBHOOKS_FOLLOW_TOKEN": token, "WEBHOOK_SECRET": secret}
    name = len(list(folder.iterdir()))
    paths = folder / f"output-{name}", folder / f"errors-{name}"
    with paths[0].open("wb") as output, paths[1].open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "hubhooks.cli", "follow", url, "--to", to, *words],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=errors,
        )
    try:
        yield Follow(process, *paths)
    finally:
        process.kill()
        process.wait(PATIENCE)


def post(server: Server, name: str, body: bytes = PUSH) -> None:
    done = server.post("/", body, secret=DEPLOYED, headers={"Webhook-Id": name})
    assert done.is_success or body != PUSH


def stored(folder: Path) -> dict[str, Delivery]:
    store = SqliteStore(folder / "hubhooks.db")
    try:
        return {each.id: each for each in store.list()}
    except StoreError:  # the app is starting
        return {}


def runs(folder: Path) -> list[str]:
    path = folder / "runs"
    return path.read_text().split() if path.exists() else []


def test_new_deliveries_are_copied_with_their_ids(tmp_path: Path) -> None:
    local = tmp_path / "local"
    with deployed(tmp_path / "deployed") as source, app(local) as target:
        post(source, "before")
        with following(local, source.url, to=target.url) as follow:
            follow.wait_for("copying new deliveries")
            for number in range(5):
                post(source, f"d{number}")
            post(source, "broken", b"no json")
            wait_until(lambda: len(follow.printed) == 5)
            follow.wait_for("not copied: broken: it is not an event of the Hub")
            printed = follow.stop()
        assert [line.split()[0] for line in printed] == runs(local)
        assert all("202  accepted: note" in line for line in printed)
        assert "5 deliveries copied" in follow.errors
        body = SqliteStore(local / "hubhooks.db").get("d0")
        assert body is not None
        assert json.loads(body.body or b"") == json.loads(PUSH)
        assert _follow.ORIGIN_HEADER in {name for name, _ in body.headers}
    assert runs(local) == [f"d{number}" for number in range(5)]


def test_each_delivery_is_copied_once_across_restarts(tmp_path: Path) -> None:
    local, remote = tmp_path / "local", tmp_path / "deployed"
    source_port, target_port = free_port(), free_port()
    url, to = (f"http://127.0.0.1:{port}" for port in (source_port, target_port))
    local.mkdir()
    with deployed(remote, source_port) as source, following(local, url, to=to) as follow:
        follow.wait_for("copying new deliveries")
        post(source, "d1")
        follow.wait_for("cannot reach the local app")
        with app(local, target_port):
            wait_until(lambda: runs(local) == ["d1"])
            post(source, "d2")
            wait_until(lambda: runs(local) == ["d1", "d2"])
            source.stop()
            follow.wait_for(f"cannot reach {url}")
            with deployed(remote, source_port) as again:
                post(again, "d3")
                wait_until(lambda: len(follow.printed) == 3)
                follow.stop()
                # While nobody follows, one arrives, and an old one is replayed by the Hub.
                post(again, "d4")
                post(again, "d1")
                wait_until(lambda: stored(remote)["d1"].is_replay)
                with following(local, url, to=to) as second:
                    wait_until(lambda: "d4" in runs(local))
                    post(again, "d5")
                    wait_until(lambda: len(second.printed) == 2)
                    second.stop()
                assert "2 deliveries copied" in second.errors
    assert runs(local) == ["d1", "d2", "d3", "d4", "d5"]
    (path,) = (local / ".hubhooks").glob("follow-*.json")
    assert path.name == f"follow-127.0.0.1_{source_port}.json"
    assert json.loads(path.read_text())["newest"] == "d5"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert TOKEN not in path.read_text()


def test_first_start_copies_none_of_many_deliveries_of_the_last_minute(tmp_path: Path) -> None:
    local, remote = tmp_path / "local", tmp_path / "deployed"
    remote.mkdir()
    store = SqliteStore(remote / "hubhooks.db")
    store.open()
    store.recover()
    for number in range(1100):  # more than two pages
        store.accept(f"old{number}", PUSH, [], skipped=State.UNHANDLED, headers=[])
    store.close()
    with (
        deployed(remote) as source,
        app(local) as target,
        following(local, source.url, to=target.url) as follow,
    ):
        follow.wait_for("copying new deliveries")
        post(source, "d1")
        wait_until(lambda: follow.printed)
        follow.stop()
    assert runs(local) == ["d1"]


def test_since_copies_stored_deliveries_at_the_first_start(tmp_path: Path) -> None:
    local = tmp_path / "local"
    with deployed(tmp_path / "deployed") as source, app(local) as target:
        for name in ("d1", "d2"):
            post(source, name)
        with following(local, source.url, "--since", "1h", "--json", to=target.url) as follow:
            wait_until(lambda: len(follow.printed) == 2)
            lines = [json.loads(line) for line in follow.stop()]
    assert [line["delivery"]["id"] for line in lines] == ["d1", "d2"]
    assert [line["status"] for line in lines] == [202, 202]
    assert lines[0]["response"]["handlers"] == ["note"]
    assert sorted(runs(local)) == ["d1", "d2"]


def test_wrong_token_exits_with_1(tmp_path: Path) -> None:
    with (
        deployed(tmp_path / "deployed") as source,
        following(tmp_path, source.url, to="http://127.0.0.1:9", token="x" * 16) as follow,
    ):
        assert follow.wait() == 1
        assert "rejects the admin token (403)" in follow.errors
        assert "hint: set HUBHOOKS_FOLLOW_TOKEN to the HUBHOOKS_ADMIN_TOKEN" in follow.errors


def test_wrong_local_secret_exits_with_1(tmp_path: Path) -> None:
    local = tmp_path / "local"
    with deployed(tmp_path / "deployed") as source, app(local) as target:
        with following(local, source.url, to=target.url, secret="wrong") as follow:
            follow.wait_for("copying")
            post(source, "d1")
            assert follow.wait() == 1
            assert "rejects the secret (403)" in follow.errors
            assert "set WEBHOOK_SECRET" in follow.errors
        # It was not copied, so the next start does it.
        with following(local, source.url, to=target.url) as follow:
            wait_until(lambda: runs(local) == ["d1"])
            follow.stop()


# ---- other servers -------------------------------------------------------------------------------


@contextmanager
def web_server(
    respond: Callable[[str, str], tuple[int, dict[str, str], bytes]],
) -> Iterator[tuple[str, list[Any]]]:
    """Serve responses, and collect the requests."""
    requests: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.path, dict(self.headers)))
            length = int(self.headers.get("Content-Length", 0))
            self.rfile.read(length)
            status, headers, body = respond(self.command, self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name of the base class

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command in this process, with a pause that ends it after some polls."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, polls: int = 2, token: str = TOKEN) -> Any:
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) >= polls:
                raise KeyboardInterrupt

        monkeypatch.setattr(_follow.time, "sleep", sleep)
        environment = {"HUBHOOKS_FOLLOW_TOKEN": token, "WEBHOOK_SECRET": SECRET}
        done = CliRunner().invoke(make_app(), ["follow", *words], env=environment)
        done.slept = slept  # type: ignore[attr-defined]
        return done

    return run


def test_redirect_is_not_followed_with_the_token(invoke: Callable[..., Any]) -> None:
    with web_server(lambda *_: (200, {}, b"{}")) as (other, stolen):
        answer = (302, {"Location": other}, b"")
        with web_server(lambda *_: answer) as (url, requests):
            done = invoke(url)
    assert done.exit_code == 1
    assert f"redirects to {other}" in done.stderr
    assert requests[0][1]["Authorization"] == f"Bearer {TOKEN}"
    assert stolen == []


@pytest.mark.parametrize("status", [200, 404, 405])
def test_other_server_exits_with_1(invoke: Callable[..., Any], status: int) -> None:
    with web_server(lambda *_: (status, {}, b"<html>")) as (url, _):
        done = invoke(f"{url}/webhooks/hub/")
    assert done.exit_code == 1
    assert f"{url}/webhooks/hub/deliveries is not the JSON API of hubhooks" in done.stderr
    assert "set HUBHOOKS_ADMIN_TOKEN for that app" in done.stderr


def test_restarting_app_is_tried_again_with_longer_pauses(invoke: Callable[..., Any]) -> None:
    with web_server(lambda *_: (503, {}, b"")) as (url, _):
        done = invoke(url, polls=6)
    assert done.exit_code == 0
    assert done.stderr.count("responds 503; trying again") == 1
    assert "0 deliveries copied" in done.stderr
    assert done.slept == [2, 4, 8, 15, 15, 15]


def row(name: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "received_at": "2026-11-27T10:00:00+00:00",
        "state": "succeeded",
        "scope": "repo",
        "action": "create",
        "repo": "me/x",
        **more,
    }


def source_of(*rows: dict[str, Any], **bodies: Any) -> Callable[[str, str], Any]:
    """Respond as an app with these deliveries, after a first empty list."""
    asked: list[str] = []

    def respond(_: str, path: str) -> tuple[int, dict[str, str], bytes]:
        name = path.partition("?")[0].rpartition("/")[2]
        if name != "deliveries":
            found = name in bodies
            return (200 if found else 404), {}, json.dumps(bodies.get(name, {})).encode()
        asked.append(path)
        listed = [] if len(asked) == 1 else rows
        return 200, {}, json.dumps({"deliveries": listed, "before": None}).encode()

    return respond


def test_delivery_without_body_is_named(invoke: Callable[..., Any]) -> None:
    source = source_of(
        row("é"), row("long"), row("old"), row("gone"),
        long={"body": None, "body_omitted": "the body has 2 MB"}, old={"body": None},
    )  # fmt: skip
    with web_server(source) as (url, _), web_server(lambda *_: (202, {}, b"{}")) as (to, posted):
        done = invoke(url, "--to", to)
    assert done.exit_code == 0
    assert "not copied: long: the body has 2 MB" in done.stderr
    assert "not copied: old: its body was deleted to free space" in done.stderr
    assert "not copied: gone: the deployed app does not have it any more" in done.stderr
    assert "no header can carry its id" in done.stderr
    assert posted == []


def test_copy_has_the_local_secret_and_the_origin(invoke: Callable[..., Any]) -> None:
    body = {"event": {}, "name": "é\ud83d"}
    with (
        web_server(source_of(row("d1"), d1={"body": body})) as (url, requests),
        web_server(lambda *_: (202, {}, b"{}")) as (to, posted),
    ):
        done = invoke(url, "--to", to, polls=3)
    assert done.exit_code == 0, done.output
    ((path, headers),) = posted
    given = {name.lower(): value for name, value in headers.items()}
    assert path == "/"
    assert given["webhook-id"] == "d1"
    assert given["x-webhook-secret"] == SECRET
    assert given["x-hubhooks-origin"] == url
    assert "authorization" not in given
    assert all("X-Webhook-Secret" not in asked for _, asked in requests)
    assert "1 delivery copied" in done.stderr


def test_delivery_that_wakes_the_app_is_copied_at_the_first_start(
    invoke: Callable[..., Any],
) -> None:
    now = datetime.now(timezone.utc)
    rows = [
        row("new", received_at=(now + timedelta(minutes=1)).isoformat()),
        row("old", received_at=(now - timedelta(days=1)).isoformat()),
    ]
    source = source_of(*rows, new={"body": {}}, old={"body": {}})
    # The empty list of the first request stands for an app that sleeps.
    asleep = [True]

    def respond(method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        answer = source(method, path)
        return (503, {}, b"") if asleep and asleep.pop() else answer

    with web_server(respond) as (url, _), web_server(lambda *_: (202, {}, b"{}")) as (to, posted):
        done = invoke(url, "--to", to)
    assert done.exit_code == 0, done.output
    assert [headers["Webhook-Id"] for _, headers in posted] == ["new"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, 0, "0 deliveries copied"),
        (404, 1, "the local app has no webhook at"),
        (302, 1, "give its webhook URL with --to"),
        (503, 0, "responds 503; trying again"),
    ],
)
def test_response_of_the_local_app(
    invoke: Callable[..., Any], status: int, code: int, message: str
) -> None:
    headers = {"Location": "/other"} if status == 302 else {}
    with (
        web_server(source_of(row("d1"), d1={"body": {}})) as (url, _),
        web_server(lambda *_: (status, headers, b"")) as (to, posted),
    ):
        done = invoke(url, "--to", to, polls=3)
    assert done.exit_code == code, done.output
    assert message in done.stderr
    # Only an unavailable app gets it again.
    assert len(posted) == (3 if status == 503 else 1)


def test_damaged_state_file_is_a_usage_error(invoke: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / ".hubhooks").mkdir()
    path = tmp_path / ".hubhooks" / "follow-127.0.0.1_9.json"
    path.write_text("{")
    done = invoke("127.0.0.1:9")
    assert done.exit_code == 2
    assert "cannot read" in done.output
    path.write_text('{"url": "http://127.0.0.1:9", "copied": {"d1": "no time"}}')
    assert invoke("127.0.0.1:9").exit_code == 0


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (("https://bot.hf.space",), "", "HUBHOOKS_FOLLOW_TOKEN is not set"),
        (("https://bot.hf.space", "--token-env", "NO_SUCH"), TOKEN, "NO_SUCH is not set"),
        (("http://bot.hf.space",), TOKEN, "would be sent unencrypted"),
        (("https://a:b@bot.hf.space",), TOKEN, "without user, password and query"),
        (("https://bot.hf.space?secret=x",), TOKEN, "without user, password and query"),
        (("127.0.0.1:8000",), TOKEN, "the same app"),
        (("https://bot.hf.space", "--since", "x"), TOKEN, "`x` is not a time"),
        (("",), TOKEN, "URL"),
    ],
)
def test_wrong_option_is_a_usage_error(
    invoke: Callable[..., Any], words: tuple[str, ...], token: str, message: str
) -> None:
    done = invoke(*words, token=token)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", "").split())


def test_host_without_scheme_is_reached_with_tls() -> None:
    assert _follow._source_url("me-bot.hf.space/in/") == "https://me-bot.hf.space/in"  # noqa: SLF001
    assert _follow._source_url("localhost:90/in") == "http://localhost:90/in"  # noqa: SLF001
    assert _follow._source_url("[::1]:90") == "http://[::1]:90"  # noqa: SLF001


def test_certificate_is_verified(invoke: Callable[..., Any], tmp_path: Path) -> None:
    openssl = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=localhost", "-keyout", tmp_path / "key", "-out", tmp_path / "certificate"],
        capture_output=True, check=False,
    )  # fmt: skip
    if openssl.returncode:
        pytest.skip("there is no openssl")
    import ssl  # noqa: PLC0415 - only this test needs it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        done = invoke(f"https://localhost:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert done.exit_code == 1
    assert "cannot verify the certificate" in done.stderr


def test_server_without_tls_is_named(invoke: Callable[..., Any]) -> None:
    with web_server(lambda *_: (200, {}, b"{}")) as (url, _):
        done = invoke(url.replace("http:", "https:"))
    assert done.exit_code == 1
    assert "does not use TLS" in done.stderr
    assert "write http://" in done.stderr


def test_handshake_that_is_cut_off_is_tried_again(invoke: Callable[..., Any]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def cut_off() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(100)
                # The client must not get a reset.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1000):
                    pass
                connection.close()

        thread = threading.Thread(target=cut_off, daemon=True)
        thread.start()
        done = invoke(f"https://127.0.0.1:{server.getsockname()[1]}")
        assert done.exit_code == 0
        assert "cannot reach" in done.stderr
        assert len(done.slept) == 2
        thread.join(PATIENCE)
