"""The ASGI app on a network: reading of bodies, responses, and secrets in logs."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from asking import Connection, ask
from servers import PATIENCE
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from hubhooks._core import HubEvent, Verifier
from hubhooks._http import app as app_module
from hubhooks._http import lag
from hubhooks._http.app import WebhookApp
from hubhooks._http.receiver import Receiver
from hubhooks._store.sqlite import SqliteStore
from hubhooks._worker.service import WorkerService
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from hubhooks.models import RunContext

SECRET = {"x-webhook-secret": "moon"}

on_both_parsers = pytest.mark.parametrize("parser", ["h11", "httptools"])
on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


class AppHarness:
    """An ASGI app with its router, store, receiver and worker."""

    def __init__(
        self,
        secret: str | None = "moon",
        **options: Any,
    ) -> None:
        self.router = Router()
        self.store = SqliteStore(":memory:")
        verifier = None if secret is None else Verifier(secret)
        self.receiver = Receiver(self.router, self.store, lambda: verifier, **options)
        self.worker = WorkerService(self.router, self.store)
        self.app = WebhookApp(self.receiver, self.worker)
        self.on = self.router.on


@pytest.fixture
def harness() -> AppHarness:
    return AppHarness(max_body_size=5_000)


@pytest.fixture
def content(body: Callable[..., bytes]) -> bytes:
    return body("repo.content.update")


# ---- before the body ----------------------------------------------------------------------------


@on_both_parsers
@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 401),
        ("POST", {"X-Webhook-Secret": "sun"}, 403),
        ("POST", {"X-Webhook-Secret": "moon", "Content-Length": "5001"}, 413),
        ("PUT", {}, 405),
    ],
)
def test_rejection_does_not_wait_for_the_body(
    harness: AppHarness, serve: Any, parser: str, method: str, headers: dict[str, str], status: int
) -> None:
    with serve(harness.app, http=parser) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.putrequest(method, "/")
        for name, value in {"Content-Length": "100", **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        with connection.getresponse() as response:
            assert response.status == status
        connection.close()
    assert harness.store.list() == []


def test_headers_may_be_lists(ask: Any, content: bytes, tmp_path: Path) -> None:
    # ASGI defines a header only as an iterable of two items.
    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await hooks({**scope, "headers": [[*pair] for pair in scope["headers"]]}, receive, send)

    async def serve() -> list[int]:
        length = {"content-length": str(len(content))}
        async with hooks.lifespan(None):
            kept = await ask(app, content, headers={**SECRET, **length, "webhook-id": "d1"})
            rejected = await ask(app, content, headers=length)
            delivery = hooks.deliveries.get("d1")
        assert delivery is not None
        assert ("webhook-id", "d1") in delivery.headers
        return [kept.status, rejected.status]

    assert asyncio.run(serve()) == [200, 401]


def test_rejected_request_is_not_read(harness: AppHarness) -> None:
    async def receive() -> Any:
        pytest.fail("the body was asked for")

    async def send(_: Any) -> None: ...

    for headers in ([], [(b"x-webhook-secret", b"sun")]):
        scope = {"type": "http", "method": "POST", "query_string": b"", "headers": headers}
        asyncio.run(harness.app(scope, receive, send))


@on_both_parsers
def test_large_rejected_body_still_gets_a_response(serve: Any, post: Any, parser: str) -> None:
    with serve(AppHarness().app, http=parser) as port:
        status, data = post(port, b"x" * 20_000_000, secret="")
    assert (status, data["status"]) == (401, "rejected")


# ---- the body -----------------------------------------------------------------------------------


def test_body_may_arrive_in_pieces(harness: AppHarness, ask: Any, content: bytes) -> None:
    pieces = [content[:10], b"", content[10:100], content[100:]]
    reply = asyncio.run(ask(harness.app, *pieces, headers={**SECRET, "webhook-id": "d1"}))
    assert (reply.status, reply.data["status"]) == (200, "unhandled")
    delivery = harness.store.get("d1")
    assert delivery is not None
    assert delivery.body == content


def test_reading_stops_at_the_limit(harness: AppHarness, ask: Any) -> None:
    async def send_too_much() -> Any:
        headers = {**SECRET, "transfer-encoding": "chunked"}
        return await ask(harness.app, b"x" * 3_000, b"x" * 2_001, ends=False, headers=headers)

    reply = asyncio.run(asyncio.wait_for(send_too_much(), PATIENCE))
    assert reply.status == 413
    assert reply.headers[b"connection"] == b"close"


def test_body_of_exactly_the_limit_is_read(harness: AppHarness, ask: Any) -> None:
    headers = {**SECRET, "content-length": "5000"}
    reply = asyncio.run(ask(harness.app, b"x" * 3_000, b"x" * 2_000, headers=headers))
    assert (reply.status, reply.data["status"]) == (202, "malformed")


def test_empty_body_is_rejected(harness: AppHarness, ask: Any) -> None:
    assert asyncio.run(ask(harness.app, b"", headers=SECRET)).status == 400


def test_body_of_a_disconnected_client_is_not_stored(
    harness: AppHarness, ask: Any, content: bytes
) -> None:
    reply = asyncio.run(ask(harness.app, content, ends=False, stays=False, headers=SECRET))
    assert reply.data["reason"] == "the body was cut off"
    assert harness.store.list() == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@on_both_parsers
def test_endless_body_takes_limited_memory(parser: str) -> None:
    script = f"""
import threading, uvicorn
from hubhooks.webhooks import Webhooks

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)

hooks = Webhooks("moon", max_body_size=8 * 1024 * 1024)
Server(uvicorn.Config(hooks, port=0, http={parser!r}, log_level="critical")).run()
"""
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        before = peak_of_memory(server.pid)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(
                b"POST / HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: moon\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
            # The server may end the connection on the way: then it cannot grow any more.
            with contextlib.suppress(ConnectionError):
                for _ in range(1_600):
                    client.sendall(chunk)
        grown = peak_of_memory(server.pid) - before
        assert grown < 12 * 1024
    finally:
        server.kill()
        server.communicate()


def peak_of_memory(pid: int) -> int:
    """Read the most memory a process ever had, in KiB."""
    with open(f"/proc/{pid}/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


# ---- the response -------------------------------------------------------------------------------


@on_both_parsers
@pytest.mark.parametrize("path", ["/", "/webhooks/hub", "/webhooks/hub/", "//x%20y"])
def test_every_path_has_a_response_and_no_redirect(
    harness: AppHarness, serve: Any, post: Any, parser: str, path: str, content: bytes
) -> None:
    with serve(harness.app, http=parser) as port:
        assert post(port, content, path=path)[0] == 200


@pytest.mark.parametrize("path", ["/hooks", "/hooks/", "/hooks/hub"])
def test_mounted_app_responds_below_its_path(
    harness: AppHarness, serve: Any, post: Any, path: str, content: bytes
) -> None:
    app = Starlette(routes=[Mount("/hooks", harness.app), Mount("/", harness.app)])
    with serve(app) as port:
        assert post(port, content, path=path)[0] == 200


@on_both_parsers
def test_response_precedes_the_end_of_handlers(
    harness: AppHarness, serve: Any, post: Any, parser: str, content: bytes
) -> None:
    responded = threading.Event()
    seen: list[bool] = []

    @harness.on(name="sync")
    def waits(event: HubEvent) -> None:
        seen.append(responded.wait(PATIENCE))

    @harness.on(name="async")
    async def waits_too(event: HubEvent) -> None:
        while not responded.is_set():
            await asyncio.sleep(0)
        seen.append(True)

    with serve(harness.app, http=parser) as port:
        status, data = post(port, content)
        responded.set()
    assert (status, data["handlers"]) == (202, ["sync", "async"])
    assert seen == [True, True]


def test_handlers_start_after_the_response(harness: AppHarness, content: bytes) -> None:
    order: list[str] = []

    @harness.on(name="async")
    async def matching(event: HubEvent) -> None:
        order.append("handler")

    async def receive() -> Any:
        if order == []:
            order.append("body")
            return {"type": "http.request", "body": content}
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        order.append(message["type"])

    async def serve() -> None:
        headers = [(b"x-webhook-secret", b"moon")]
        scope = {"type": "http", "method": "POST", "query_string": b"", "headers": headers}
        await harness.app(scope, receive, send)
        await harness.app.stop()

    asyncio.run(serve())
    assert order == ["body", "http.response.start", "http.response.body", "handler"]


def test_unhandled_hooks_run_after_the_response(
    harness: AppHarness, serve: Any, post: Any, content: bytes
) -> None:
    responded = threading.Event()
    seen: list[tuple[bool, str]] = []

    @harness.router.on_unhandled
    def report(event: HubEvent) -> None:
        seen.append((responded.wait(PATIENCE), event.scope))

    with serve(harness.app) as port:
        status, data = post(port, content)
        responded.set()
    assert (status, data["status"]) == (200, "unhandled")
    assert seen == [(True, "repo.content")]


@on_both_parsers
def test_blocking_sync_handler_delays_no_response(
    harness: AppHarness, serve: Any, post: Any, parser: str, content: bytes
) -> None:
    release = threading.Event()

    @harness.on(name="blocks")
    def blocks(event: HubEvent) -> None:
        release.wait(PATIENCE)

    with serve(harness.app, http=parser) as port:
        try:
            responses = [post(port, content, f"d{number}")[0] for number in range(8)]
            assert not release.is_set()
        finally:
            release.set()
    assert responses == [202] * 8
    assert {delivery.state for delivery in harness.store.list()} == {"succeeded"}


@pytest.fixture
def _switch_interval() -> Generator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_switch_interval")
@pytest.mark.parametrize(("before", "after"), [(0.005, 0.0005), (0.0001, 0.0001)])
def test_computing_handlers_release_the_interpreter_often(
    harness: AppHarness, ask: Any, content: bytes, before: float, after: float
) -> None:
    @harness.on()
    def computes(event: HubEvent) -> None: ...

    sys.setswitchinterval(before)
    asyncio.run(deliver(harness, ask, content))
    assert sys.getswitchinterval() == pytest.approx(after, rel=0.05)


@pytest.mark.parametrize(
    ("headers", "version", "closes"),
    [
        ({"content-length": "5000"}, "1.1", False),
        ({"content-length": "5001"}, "1.1", True),
        ({"transfer-encoding": "chunked"}, "1.1", True),
        ({"transfer-encoding": "chunked"}, "2", False),
    ],
)
def test_rejection_of_a_long_body_closes_the_connection(
    harness: AppHarness, ask: Any, headers: dict[str, str], version: str, closes: bool
) -> None:
    reply = asyncio.run(ask(harness.app, headers=headers, http_version=version))
    assert (reply.status, reply.headers.get(b"connection") == b"close") == (401, closes)


def test_accepted_delivery_keeps_the_connection(
    harness: AppHarness, ask: Any, content: bytes
) -> None:
    assert b"connection" not in asyncio.run(ask(harness.app, content, headers=SECRET)).headers


# ---- acknowledgement ----------------------------------------------------------------------------


def is_acknowledged(harness: AppHarness, delivery_id: str = "d1") -> bool:
    delivery = harness.store.get(delivery_id)
    assert delivery is not None
    return delivery.is_acknowledged


@pytest.fixture
def handled(harness: AppHarness) -> AppHarness:
    @harness.on(name="matching")
    async def matching(event: HubEvent) -> None: ...

    return harness


async def deliver(harness: AppHarness, ask: Any, content: bytes, **options: Any) -> None:
    await ask(harness.app, content, headers={**SECRET, "webhook-id": "d1"}, **options)
    await harness.app.stop()


def test_sent_response_is_acknowledged(handled: AppHarness, ask: Any, content: bytes) -> None:
    asyncio.run(deliver(handled, ask, content))
    assert is_acknowledged(handled)


def test_response_to_a_disconnected_client_is_not_acknowledged(
    handled: AppHarness, ask: Any, content: bytes
) -> None:
    asyncio.run(deliver(handled, ask, content, stays=False))
    assert not is_acknowledged(handled)
    delivery = handled.store.get("d1")
    assert delivery is not None
    assert delivery.state == "succeeded"


def test_late_response_is_not_acknowledged(
    handled: AppHarness, ask: Any, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([100.0])
    monkeypatch.setattr(app_module, "time", SimpleNamespace(monotonic=lambda: next(times, 110.0)))
    asyncio.run(deliver(handled, ask, content))
    assert not is_acknowledged(handled)


def test_disconnect_is_checked_only_after_loop_lag(
    handled: AppHarness, ask: Any, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    for module in (app_module, lag):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(lag, "_SAMPLE_SECONDS", 0)

    async def disconnected(delivery_id: str) -> bool:
        headers = {**SECRET, "webhook-id": delivery_id}
        await ask(handled.app, content, headers=headers, stays=False)
        return not is_acknowledged(handled, delivery_id)

    async def found() -> list[bool]:
        looked = [await disconnected("d0")]
        for second in range(1, 7):
            for _ in range(10):
                clock.now += 0.1
                await asyncio.sleep(0.001)
            looked.append(await disconnected(f"d{second}"))
        clock.now += 1
        looked.append(await disconnected("held up"))
        await handled.app.stop()
        return looked

    # The lag of the first five seconds is unknown, since the monitor has just started.
    assert asyncio.run(found()) == [True] * 6 + [False, True]


@pytest.mark.parametrize("broken", ["send", "receive"])
def test_broken_connection_loses_no_delivery(
    handled: AppHarness, content: bytes, broken: str
) -> None:
    parts = [{"type": "http.request", "body": content}]

    async def receive() -> Any:
        if parts:
            return parts.pop()
        if broken == "receive":
            raise ConnectionResetError
        return await asyncio.Event().wait()

    async def send(_: Any) -> None:
        if broken == "send":
            raise ConnectionResetError

    async def serve() -> None:
        headers = [(b"x-webhook-secret", b"moon"), (b"webhook-id", b"d1")]
        scope = {"type": "http", "method": "POST", "query_string": b"", "headers": headers}
        await handled.app(scope, Connection(receive).receive, send)
        await handled.app.stop()

    asyncio.run(serve())
    assert not is_acknowledged(handled)
    delivery = handled.store.get("d1")
    assert delivery is not None
    assert delivery.state == "succeeded"


def test_receive_ends_after_the_response(handled: AppHarness, content: bytes) -> None:
    order: list[str] = []

    async def receive() -> Any:
        if not order:
            order.append("body")
            return {"type": "http.request", "body": content}
        try:
            return await asyncio.Event().wait()
        finally:
            order.append("no longer listening")

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        order.append(message["type"])

    headers = [(b"x-webhook-secret", b"moon")]
    scope = {"type": "http", "method": "POST", "query_string": b"", "headers": headers}
    asyncio.run(handled.app(scope, Connection(receive).receive, send))
    assert order[:2] == ["body", "no longer listening"]


@on_both_parsers
@on_both_loops
def test_retry_after_a_hub_timeout_does_not_run_again(
    serve: Any, post: Any, content: bytes, parser: str, loop: str
) -> None:
    harness = AppHarness()
    stalls, release, done = threading.Event(), threading.Event(), threading.Event()
    ran: list[str] = []

    @harness.on(name="matching")
    async def matching(event: HubEvent, context: RunContext) -> None:
        ran.append(context.id)
        if context.id == "stall":
            stalls.set()
            release.wait(PATIENCE)
        else:
            done.set()

    with serve(harness.app, http=parser, loop=loop) as port:
        post(port, content, "stall")
        assert stalls.wait(PATIENCE)
        head = (
            f"POST / HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: moon\r\nWebhook-Id: d1\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(head.encode() + content)
        release.set()
        assert done.wait(PATIENCE)
        status, data = post(port, content, "d1")
    assert (status, data["status"]) in {(200, "duplicate"), (200, "in_progress")}
    assert ran == ["stall", "d1"]


# ---- the access log -----------------------------------------------------------------------------


def test_delivery_is_one_log_line_with_fields(
    harness: AppHarness,
    content: bytes,
    body: Callable[..., bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "hubhooks")
    # Else the second request is a Replay of a run that has succeeded.
    release = threading.Event()

    def waits(event: HubEvent) -> None:
        release.wait(PATIENCE)

    harness.router.add(waits, "repo.content", name="matching")

    async def send() -> None:
        for delivery_id, sent in ("d1", content), ("d1", content), ("d2", body("repo.move")):
            headers = {"x-webhook-secret": "moon", "webhook-id": delivery_id}
            await ask(harness.app, sent, headers=headers)
        await ask(harness.app, content, headers={"x-webhook-secret": "sun"})
        release.set()
        await harness.worker.stop()

    asyncio.run(send())
    names = ("delivery_id", "scope", "action", "repo", "status", "handlers")
    lines = [r for r in caplog.records if r.levelname == "INFO" and hasattr(r, "status")]
    assert [tuple(getattr(line, name) for name in names) for line in lines] == [
        ("d1", "repo.content", "update", "ada-labs/tide-gauges", 202, ["matching"]),
        ("d1", "repo.content", "update", "ada-labs/tide-gauges", 200, []),
        ("d2", "repo", "move", "ada-labs/surge-alarm", 200, []),
    ]
    assert lines[0].getMessage() == (
        "delivery `d1`, <ContentEvent repo.content update of dataset ada-labs/tide-gauges>: "
        "response 202, handlers: matching"
    )


@on_both_parsers
@pytest.mark.parametrize("is_mounted", [False, True])
def test_secret_of_the_url_is_not_in_the_access_log(
    harness: AppHarness,
    serve: Any,
    post: Any,
    parser: str,
    is_mounted: bool,
    content: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    app: Any = Starlette(routes=[Mount("/", harness.app)]) if is_mounted else harness.app
    with serve(app, http=parser) as port:
        for query in ("secret=moon", "secret=half-moon", "Secert=moon", "a=b&%73ecret=moon"):
            for method in ("POST", "GET"):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                connection.request(method, f"/x?{query}", content)
                with connection.getresponse() as response:
                    response.read()
                connection.close()
    access = [r.getMessage() for r in caplog.records if r.name == "uvicorn.access"]
    assert len(access) == 8
    assert all("/x HTTP" in line for line in access)
    assert "moon" not in caplog.text


@on_both_parsers
def test_secret_of_a_websocket_url_is_not_logged(
    harness: AppHarness, serve: Any, parser: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with (
        serve(harness.app, http=parser) as port,
        socket.create_connection(("127.0.0.1", port), PATIENCE) as stream,
    ):
        stream.sendall(
            b"GET /x?secret=moon HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 403 " in stream.recv(1000)
    assert "/x" in caplog.text
    assert "moon" not in caplog.text


# ---- behind others ------------------------------------------------------------------------------


@on_both_parsers
def test_app_works_behind_wrapping_middleware(
    handled: AppHarness, serve: Any, post: Any, parser: str, content: bytes
) -> None:
    async def passes(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app = Starlette(
        routes=[Mount("/", handled.app)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=passes)] * 2,
    )
    with serve(app, http=parser) as port:
        assert post(port, content)[0] == 202
        assert post(port, content, "d2")[0] == 202
    assert is_acknowledged(handled)
    assert is_acknowledged(handled, "d2")


# ---- starting and stopping ----------------------------------------------------------------------


@pytest.mark.parametrize("lifespan", ["on", "off"])
def test_app_can_be_served_repeatedly(
    handled: AppHarness, serve: Any, post: Any, content: bytes, lifespan: str
) -> None:
    for delivery_id in ("d1", "d2"):
        with serve(handled.app, lifespan=lifespan) as port:
            assert post(port, content, delivery_id)[0] == 202


async def live(app: WebhookApp, *messages: str) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []
    waiting = [{"type": f"lifespan.{message}"} for message in messages]

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    return sent


def test_lifespan_starts_and_stops(harness: AppHarness) -> None:
    sent = asyncio.run(live(harness.app, "startup", "shutdown"))
    complete = ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert [message["type"] for message in sent] == complete


def test_app_without_a_secret_does_not_start() -> None:
    (sent,) = asyncio.run(live(AppHarness(secret=None).app, "startup"))
    assert sent["type"] == "lifespan.startup.failed"
    assert "no webhook secret is configured" in sent["message"]


def test_new_deliveries_are_rejected_during_shutdown(
    harness: AppHarness, ask: Any, content: bytes
) -> None:
    release = threading.Event()

    @harness.on(name="waits")
    def waits(event: HubEvent) -> None:
        release.wait(PATIENCE)

    async def serve() -> None:
        first = await ask(harness.app, content, headers={**SECRET, "webhook-id": "d1"})
        stopping = asyncio.ensure_future(harness.app.stop())
        await asyncio.sleep(0)
        second = await ask(harness.app, content, headers={**SECRET, "webhook-id": "d2"})
        release.set()
        await stopping
        third = await ask(harness.app, content, headers={**SECRET, "webhook-id": "d3"})
        assert [first.status, second.status, third.status] == [202, 503, 202]
        await harness.app.stop()

    asyncio.run(serve())
    assert {delivery.id: delivery.state for delivery in harness.store.list()} == {
        "d1": "succeeded",
        "d3": "succeeded",
    }


def test_internal_error_is_503_and_logged_with_traceback(
    harness: AppHarness,
    serve: Any,
    post: Any,
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def accept_wrongly(*_: Any, **__: Any) -> Any:
        msg = "a mistake of ours"
        raise RuntimeError(msg)

    with serve(harness.app) as port:
        with monkeypatch.context() as patch:
            patch.setattr(harness.store, "accept", accept_wrongly)
            status, data = post(port, content)
        assert (status, data["reason"]) == (503, "the delivery could not be stored")
        assert post(port, content)[0] == 200
    assert "in accept_wrongly" in caplog.text


def test_a_websocket_is_closed(harness: AppHarness) -> None:
    events: list[Any] = ["connect"]

    async def receive() -> Any:
        return {"type": f"websocket.{events.pop()}"}

    async def send(message: Any) -> None:
        events.append(message)

    scope = {"type": "websocket", "query_string": b"secret=moon"}
    asyncio.run(harness.app(scope, receive, send))
    assert events == [{"type": "websocket.close", "code": 1000}]


def test_other_asgi_scopes_are_errors(harness: AppHarness) -> None:
    with pytest.raises(ValueError, match="does not serve ASGI scopes of type `mail`"):
        asyncio.run(harness.app({"type": "mail"}, None, None))  # type: ignore[arg-type]
