"""Bodies that something read before hubhooks did, and bodies that never come."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import queue
import socket
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from fastapi import Body, Depends, FastAPI, Request
from fastapi.routing import APIRoute
from servers import PATIENCE, wait_until
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

import hubhooks._http.body as body_module
from hubhooks import Webhooks
from hubhooks._samples import compact, sample_json
from hubhooks.fastapi import VerifiedEvent  # noqa: TC001 - FastAPI evaluates annotations

if TYPE_CHECKING:
    from collections.abc import Callable

PUSH = compact(sample_json("repo.content.update"))
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: moon\r\nContent-Length: %d\r\n\r\n" % len(
    PUSH
)
JSON = {"Content-Type": "application/json"}


def deliver(
    port: int,
    content: Any = PUSH,
    path: str = "/webhooks/hub",
    secret: str = "moon",
    **headers: str,
) -> tuple[int, dict[str, Any]]:
    """Deliver as the Hub does, and return the status and the JSON of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    sent = {"X-Webhook-Secret": secret, "Webhook-Id": "d1", **JSON}
    sent.update({name.replace("_", "-"): value for name, value in headers.items()})
    is_chunked = not isinstance(content, bytes)
    connection.request("POST", path, content, sent, encode_chunked=is_chunked)
    with connection.getresponse() as response:
        data = json.loads(response.read())
    connection.close()
    return response.status, data.get("detail", data)


@pytest.fixture
def hooks() -> Webhooks:
    hooks = Webhooks("moon", max_body_size=50_000)
    hooks.add(lambda event: None, "repo.content", name="matching")
    return hooks


# ---- readers in front of the endpoint that keep the body ----------------------------------------


async def read_body(request: Request) -> None:
    await request.body()


async def read_json(request: Request) -> None:
    await request.json()


async def read_form(request: Request) -> None:
    await request.form()


def take_json(payload: Annotated[dict[str, Any], Body()]) -> None:
    assert payload


class LoggingRoute(APIRoute):
    """The pattern of FastAPI's documentation."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def log_and_handle(request: Request) -> Any:
            assert await request.body()
            return await handle(request)

        return log_and_handle


class OwnRequest(Request):
    """A request that changes nothing but the class."""

    async def body(self) -> bytes:
        return await super().body()


class OwnRequestRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def handle_own(request: Request) -> Any:
            return await handle(OwnRequest(request.scope, request.receive))

        return handle_own


READERS: dict[str, dict[str, Any]] = {
    "body": {"dependencies": [Depends(read_body)]},
    "json": {"dependencies": [Depends(read_json)]},
    "form": {"dependencies": [Depends(read_form)]},
    "body parameter": {"dependencies": [Depends(take_json)]},
    "logging route": {"route_class": LoggingRoute},
    "request class": {"route_class": OwnRequestRoute},
}


@pytest.mark.parametrize("reader", READERS)
def test_router_uses_a_body_that_was_read_before(hooks: Webhooks, serve: Any, reader: str) -> None:
    app = FastAPI()
    app.include_router(hooks.router(**READERS[reader]))
    with serve(app) as port:
        assert deliver(port)[1]["status"] == "accepted"
        assert deliver(port, secret="sun")[0] == 403
        delivery = hooks.deliveries.get("d1")
    assert delivery is not None
    assert delivery.body == PUSH


@pytest.mark.parametrize("reader", READERS)
def test_verified_event_uses_a_body_that_was_read_before(serve: Any, reader: str) -> None:
    app = FastAPI()
    options = {"dependencies": [], **READERS[reader]}
    app.router.route_class = options.pop("route_class", APIRoute)

    @app.post("/webhooks/hub", **options)
    async def own(event: VerifiedEvent) -> dict[str, str]:
        return {"status": event.scope}

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEBHOOK_SECRET", "moon")
        with serve(app) as port:
            assert deliver(port) == (200, {"status": "repo.content"})
            assert deliver(port, secret="sun")[0] == 403


@pytest.mark.parametrize("reader", READERS)
def test_admin_replay_uses_a_body_that_was_read_before(
    hooks: Webhooks, serve: Any, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", "sesame" * 6)
    app = FastAPI()
    app.include_router(hooks.router(**READERS[reader]))
    with serve(app) as port:
        deliver(port)
        wait_until(
            lambda: [delivery.state for delivery in hooks.deliveries.list()] == ["succeeded"]
        )
        response = deliver(
            port,
            b'{"handlers": ["nobody"]}',
            "/webhooks/hub/deliveries/d1/replay",
            Authorization=f"Bearer {'sesame' * 6}",
        )
    assert response[0] == 409
    assert "nobody" in response[1]["reason"]


class GzipRequest(Request):
    """The pattern of FastAPI's documentation."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            body = await super().body()
            if "gzip" in self.headers.getlist("Content-Encoding"):
                body = gzip.decompress(body)
            self._body = body
        return self._body


class GzipRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def handle_gzip(request: Request) -> Any:
            return await handle(GzipRequest(request.scope, request.receive))

        return handle_gzip


@pytest.fixture
def gzip_port(hooks: Webhooks, serve: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("WEBHOOK_SECRET", "moon")
    app = FastAPI()
    app.router.route_class = GzipRoute
    app.include_router(hooks.router(route_class=GzipRoute))

    @app.post("/own")
    async def own(event: VerifiedEvent) -> dict[str, str]:
        return {"status": event.scope}

    with serve(app) as port:
        yield port


def test_gzip_route_decompresses_the_body(gzip_port: int, hooks: Webhooks) -> None:
    packed = gzip.compress(PUSH)
    assert deliver(gzip_port, packed, Content_Encoding="gzip")[1]["status"] == "accepted"
    assert deliver(gzip_port, packed, "/own", Content_Encoding="gzip")[0] == 200
    assert deliver(gzip_port, PUSH, "/own")[0] == 200
    delivery = hooks.deliveries.get("d1")
    assert delivery is not None
    assert delivery.body == PUSH


def test_gzip_route_enforces_the_body_limit(gzip_port: int, hooks: Webhooks) -> None:
    packed = gzip.compress(b"{" + b" " * 60_000 + b"}")
    status, data = deliver(gzip_port, packed, Content_Encoding="gzip")
    assert (status, data["status"]) == (413, "rejected")
    chunked = iter([b"x" * 30_000] * 2)
    connection = http.client.HTTPConnection("127.0.0.1", gzip_port, timeout=PATIENCE)
    headers = {"X-Webhook-Secret": "moon"}
    connection.request("POST", "/webhooks/hub", chunked, headers, encode_chunked=True)
    with connection.getresponse() as response:
        assert response.status == 413
    connection.close()
    assert hooks.deliveries.list() == []


def test_invalid_compressed_body_is_503(
    gzip_port: int, hooks: Webhooks, logged: Callable[[], list[str]]
) -> None:
    for path in ("/webhooks/hub", "/own"):
        status, data = deliver(gzip_port, b"no gzip", path, Content_Encoding="gzip")
        assert (status, data["status"]) == (503, "rejected")
    assert hooks.deliveries.list() == []
    assert any("BadGzipFile" in line for line in logged())


# ---- readers that keep nothing ------------------------------------------------------------------


async def read_stream(request: Request) -> None:
    async for _ in request.stream():
        pass


async def read_form_data(request: Request) -> None:
    assert await request.form() is not None


class StreamingRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def stream_and_handle(request: Request) -> Any:
            await read_stream(request)
            return await handle(request)

        return stream_and_handle


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"dependencies": [Depends(read_stream)]}, "application/json"),
        ({"dependencies": [Depends(read_form_data)]}, FORM),
        ({"route_class": StreamingRoute}, "application/json"),
    ],
)
def test_consumed_body_is_503(
    hooks: Webhooks,
    serve: Any,
    options: dict[str, Any],
    kind: str,
    logged: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "moon")
    app = FastAPI()
    app.include_router(hooks.router(**options))
    given = {"dependencies": [], **options}
    app.router.route_class = given.pop("route_class", APIRoute)

    @app.post("/own", **given)
    async def own(event: VerifiedEvent) -> None:
        pytest.fail("the event was not rejected")

    with serve(app) as port:
        for path in ("/webhooks/hub", "/own"):
            status, data = deliver(port, path=path, Content_Type=kind)
            assert (status, data["status"]) == (503, "rejected")
            assert "was read" in data["reason"]
            assert deliver(port, path=path, secret="sun", Content_Type=kind)[0] == 403
    assert any("await request.body()" in line for line in logged())
    assert hooks.deliveries.list() == []


def test_middleware_that_reads_the_stream_is_503(
    hooks: Webhooks, serve: Any, logged: Callable[[], list[str]]
) -> None:
    class Reads(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            await read_stream(request)
            return await call_next(request)

    app = Starlette(
        routes=[Mount("/", hooks)], middleware=[Middleware(Reads)], lifespan=hooks.lifespan
    )
    with serve(app) as port:
        assert deliver(port)[0] == 503
    assert any("await request.body()" in line for line in logged())


def test_partly_read_body_is_not_stored(hooks: Webhooks, serve: Any) -> None:
    async def drops_a_part(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            message = await receive()
            rest = {**message, "body": message["body"][10:]}
            parts = [rest]

            async def receive_rest() -> Any:
                return parts.pop() if parts else await receive()

            await hooks(scope, receive_rest, send)
        else:
            await hooks(scope, receive, send)

    with serve(drops_a_part) as port:
        assert deliver(port)[0] == 503
    assert hooks.deliveries.list() == []


# No response to a body without Content-Length may depend on where its parts end.
SPLITS = [1, 10, 300]


class ReadsOnePart:
    """ASGI middleware that reads the first part of a body and passes the rest on.

    Args:
        wraps: whether it passes on its own `receive`.
    """

    def __init__(self, app: Any, *, wraps: bool) -> None:
        self.app = app
        self.wraps = wraps
        self.has_read = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await receive()
            self.has_read.set()

        async def receive_rest() -> Any:
            return await receive()

        await self.app(scope, receive_rest if self.wraps else receive, send)


@pytest.mark.parametrize("wraps", [True, False])
@pytest.mark.parametrize("split", SPLITS)
def test_partly_read_chunked_body_is_503(
    hooks: Webhooks, serve: Any, split: int, wraps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "moon")
    app = FastAPI()
    app.include_router(hooks.router())

    @app.post("/own")
    async def own(event: VerifiedEvent) -> None:
        pytest.fail("the event was not rejected")

    for path in ("/webhooks/hub", "/own"):
        middleware = ReadsOnePart(app, wraps=wraps)
        with (
            serve(middleware) as port,
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client,
        ):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: moon\r\n"
            client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            client.sendall(b"%x\r\n%s\r\n" % (split, PUSH[:split]))
            assert middleware.has_read.wait(PATIENCE)
            client.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(PUSH) - split, PUSH[split:]))
            assert b" 503 " in client.recv(1000)
    assert hooks.deliveries.list() == []


class DropsTheBody:
    """ASGI middleware that reads the body and passes an empty one on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = scope["type"] == "http"
        while more:
            more = (await receive()).get("more_body", False)

        async def receive_nothing() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await self.app(scope, receive_nothing if scope["type"] == "http" else receive, send)


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        ([PUSH], {"Transfer_Encoding": "chunked"}),
        (PUSH, {}),
        (PUSH, {"Content_Encoding": "gzip"}),
    ],
)
def test_consumed_body_of_any_framing_is_503(
    hooks: Webhooks, serve: Any, content: Any, headers: dict[str, str]
) -> None:
    app = FastAPI()
    app.include_router(hooks.router())
    with serve(DropsTheBody(app)) as port:
        status, data = deliver(port, content, **headers)
    assert (status, data["reason"]) == (503, "the body was read before it reached hubhooks")
    assert hooks.deliveries.list() == []


def test_malformed_chunked_body_is_stored(hooks: Webhooks, serve: Any) -> None:
    with serve(hooks) as port:
        assert (
            deliver(port, [b'{"event": 1}'], Transfer_Encoding="chunked")[1]["status"]
            == "malformed"
        )
    assert [delivery.state for delivery in hooks.deliveries.list()] == ["malformed"]


def test_middleware_that_reads_the_body_is_used(hooks: Webhooks, serve: Any) -> None:
    class Reads(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            assert await request.body()
            return await call_next(request)

    app = FastAPI()
    app.add_middleware(Reads)
    app.include_router(hooks.router())
    with serve(app) as port:
        assert deliver(port)[1]["status"] == "accepted"


# ---- bodies that never come ---------------------------------------------------------------------


class TakesTheBody:
    """ASGI middleware that reads the body and passes `receive` on unchanged."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = scope["type"] == "http"
        while more:
            more = (await receive()).get("more_body", False)
        await self.app(scope, receive, send)


def take_in_route(app: FastAPI, hooks: Webhooks) -> None:
    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            handle = super().get_route_handler()

            async def handle_anew(request: Request) -> Any:
                await Request(request.scope, request.receive).body()
                return await handle(request)

            return handle_anew

    app.include_router(hooks.router(route_class=Route))
    app.router.route_class = Route


def take_in_middleware(app: FastAPI, hooks: Webhooks) -> None:
    app.include_router(hooks.router())
    app.add_middleware(TakesTheBody)


@pytest.mark.parametrize("take", [take_in_route, take_in_middleware])
def test_missing_body_is_503(
    hooks: Webhooks,
    serve: Any,
    take: Any,
    logged: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "moon")
    app = FastAPI()
    take(app, hooks)

    @app.post("/own")
    async def own(event: VerifiedEvent) -> None:
        pytest.fail("the event was not rejected")

    with serve(app) as port:
        for path in ("/webhooks/hub", "/own"):
            status, data = deliver(port, path=path)
            assert (status, data["status"]) == (503, "rejected")
            assert "was read" in data["reason"]  # not that it did not arrive in time
    assert any("kept no copy" in line for line in logged())
    assert hooks.deliveries.list() == []


def test_unread_body_has_the_longer_timeout(
    hooks: Webhooks, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: queue.Queue[float] = queue.Queue()

    async def receive_within(seconds: float, receive: Any) -> Any:
        waits.put(seconds)
        return await receive()

    monkeypatch.setattr(body_module, "_receive_within", receive_within)
    with (
        serve(hooks) as port,
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client,
    ):
        client.sendall(HEAD + PUSH[:-1])
        assert waits.get(timeout=PATIENCE) == body_module._NEXT_SECONDS  # noqa: SLF001 - the wait itself would take longer
        client.sendall(PUSH[-1:])
        assert b" 202 " in client.recv(1000)


def test_body_that_has_arrived_needs_no_timer(
    hooks: Webhooks, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Any wait fails the request.
    monkeypatch.setattr(body_module, "_receive_within", None)
    with (
        serve(hooks) as port,
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client,
    ):
        # In one packet. Otherwise the app can begin before the body arrives.
        client.sendall(HEAD + PUSH)
        assert b" 202 " in client.recv(1000)


def test_stalled_body_is_503(hooks: Webhooks, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "_NEXT_SECONDS", 0.1)
    with (
        serve(hooks) as port,
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client,
    ):
        client.sendall(HEAD + PUSH[:-1])
        assert b" 503 " in client.recv(1000)
    assert hooks.deliveries.list() == []


class OwnTask(asyncio.Task[Any]):
    """A task that cannot be cancelled, as those of some servers."""

    def cancel(self, msg: Any = None) -> bool:
        return False


@pytest.mark.parametrize("kind", [asyncio.Task, OwnTask])
def test_body_timeout_applies_in_any_task(
    kind: type[asyncio.Task[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "_FIRST_SECONDS", 0.01)

    async def never() -> Any:
        await asyncio.Event().wait()

    async def read() -> str:
        with pytest.raises(body_module.BodyError) as raised:
            await body_module.read_parts(never, 10)
        await asyncio.sleep(0)
        return raised.value.case

    async def main() -> str:
        return await kind(read(), loop=asyncio.get_running_loop())

    assert asyncio.run(main()) == "stalled"


def test_cancelled_request_is_not_a_timeout() -> None:
    async def never() -> Any:
        await asyncio.Event().wait()

    async def main() -> None:
        reading = asyncio.ensure_future(body_module.read_parts(never, 10))
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(main())


def test_body_received_during_a_blocked_loop_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body_module, "_FIRST_SECONDS", 0.01)

    async def main() -> bytes:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        reader, writer = socket.socketpair()
        loop = asyncio.get_running_loop()
        loop.add_reader(reader, lambda: queue.put_nowait({"body": reader.recv(10)}))

        async def receive() -> Any:
            return {"type": "http.request", **await queue.get()}

        reading = asyncio.ensure_future(body_module.read_parts(receive, 10))
        await asyncio.sleep(0)
        writer.send(b"came")
        time.sleep(0.2)  # noqa: ASYNC251 - the loop is blocked past the time
        try:
            return await reading
        finally:
            loop.remove_reader(reader)
            reader.close()
            writer.close()

    assert asyncio.run(main()) == b"came"


# ---- `http.disconnect` of middleware ------------------------------------------------------------


class BuffersTheBody:
    """ASGI middleware that reads the whole body and then reports its end."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", scope["type"] == "http"
        if not more:
            await self.app(scope, receive, send)
            return
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            return parts.pop() if parts else {"type": "http.disconnect"}

        await self.app(scope, replay, send)


class BuffersInAQueue(BuffersTheBody):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def fill(_: Any, receive: Any, __: Any) -> None:
            queue.put_nowait(await receive())
            queue.put_nowait(await receive())

        if scope["type"] == "http":
            await BuffersTheBody(fill)(scope, receive, send)
            receive = queue.get
        await self.app(scope, receive, send)


class ReplacesReceive(BaseHTTPMiddleware):
    """A known workaround: each call of `receive` gives the whole body again."""

    async def dispatch(self, request: Request, call_next: Any) -> Any:
        body = await request.body()

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        request._receive = receive  # noqa: SLF001 - the workaround
        return await call_next(request)


class BuffersInARoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def handle_buffered(request: Request) -> Any:
            parts = [{"type": "http.request", "body": await request.body(), "more_body": False}]

            async def replay() -> Any:
                return parts.pop() if parts else {"type": "http.disconnect"}

            return await handle(Request(request.scope, replay))

        return handle_buffered


@pytest.mark.parametrize("middleware", [BuffersTheBody, BuffersInAQueue, ReplacesReceive])
@pytest.mark.parametrize("is_fastapi", [False, True])
@pytest.mark.parametrize("acknowledge", ["on_receipt", "on_completion"])
def test_replay_behind_middleware_that_disconnects_runs_again(
    serve: Any, middleware: Any, is_fastapi: bool, acknowledge: Any
) -> None:
    hooks = Webhooks("moon", acknowledge=acknowledge)
    hooks.add(lambda event: None, name="matching")
    app: Any = hooks
    if is_fastapi:
        app = FastAPI()
        app.include_router(hooks.router())
    assert_replayed(hooks, serve, middleware(app))


def test_replay_behind_a_route_class_that_disconnects_runs_again(
    hooks: Webhooks, serve: Any
) -> None:
    app = FastAPI()
    app.include_router(hooks.router(route_class=BuffersInARoute))
    assert_replayed(hooks, serve, app)


def assert_replayed(hooks: Webhooks, serve: Any, app: Any) -> None:
    with serve(app) as port:
        for count in (1, 2):
            assert deliver(port)[1]["status"] in {"accepted", "succeeded"}
            wait_until(lambda: is_acknowledged(hooks))
            delivery = hooks.deliveries.get("d1")
            assert delivery is not None
            assert delivery.runs[0].attempts == count


def is_acknowledged(hooks: Webhooks) -> bool:
    delivery = hooks.deliveries.get("d1")
    return delivery is not None and delivery.is_acknowledged and delivery.state == "succeeded"
