"""Webhooks behind tools and middleware of the app, on each server that is installed."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest
from servers import Server, started
from test_servers import SERVERS, serving

from hubhooks import Webhooks
from hubhooks._samples import compact, sample_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PUSH = compact(sample_json("repo.content.update"))
JSON = {"Content-Type": "application/json"}
SCRIPT = """
import os
from typing import Any

import sentry_sdk
from fastapi import Body, Depends, FastAPI, Request
from fastapi.routing import APIRoute

from hubhooks import Webhooks
from hubhooks._http.app import is_server_receive
from hubhooks.fastapi import VerifiedEvent

if "SENTRY" in os.environ:
    sentry_sdk.init()
hooks = Webhooks()
hooks.add(lambda event: print("ran", event.repo.name, flush=True), name="matching")


class LoggingRoute(APIRoute):
    def get_route_handler(self):
        handle = super().get_route_handler()

        async def log_and_handle(request: Request):
            assert await request.body()
            return await handle(request)

        return log_and_handle


async def read_stream(request: Request) -> None:
    async for _ in request.stream():
        pass


def take_json(payload: Any = Body()) -> None: ...


app = FastAPI()
app.include_router(hooks.router("/plain"))
app.include_router(hooks.router("/logging", route_class=LoggingRoute))
app.include_router(hooks.router("/parameter", dependencies=[Depends(take_json)]))
app.include_router(hooks.router("/stream", dependencies=[Depends(read_stream)]))


@app.post("/own")
async def own(event: VerifiedEvent) -> str:
    return event.scope


@app.get("/receive")
async def of_server_in_fastapi(request: Request) -> list[bool]:
    async def wrapped():
        return await request.receive()

    seen = request["state"]["of_server"]
    return [is_server_receive(request.receive), is_server_receive(wrapped), seen]


async def takes_the_body(scope, receive, send):
    more = scope["type"] == "http" and scope["path"] == "/taken"
    while more:
        more = (await receive()).get("more_body", False)
    scope["state"]["of_server"] = is_server_receive(receive)
    await app(scope, receive, send)


app.include_router(hooks.router("/taken"))
"""


def serve(
    request: pytest.FixtureRequest, factory: pytest.TempPathFactory, **environ: str
) -> Iterator[Server]:
    pytest.importorskip("sentry_sdk")
    command = (*serving(request.param).command, "app:takes_the_body")
    folder = factory.mktemp("app")
    with started(folder, *command, script=SCRIPT, environ={**environ}) as server:
        yield server


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    yield from serve(request, tmp_path_factory)


@pytest.fixture(scope="module", params=SERVERS)
def sentry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    yield from serve(request, tmp_path_factory, SENTRY="on")


def assert_accepted(server: Server, path: str) -> None:
    response = server.post(path, PUSH, headers=JSON)
    assert (response.status_code, response.json()["status"]) == (202, "accepted")
    assert server.post(path, PUSH, secret="wrong", headers=JSON).status_code == 403


@pytest.mark.parametrize("path", ["/plain", "/logging", "/parameter"])
def test_router_accepts_a_body_read_before(server: Server, path: str) -> None:
    assert_accepted(server, path)


@pytest.mark.parametrize("path", ["/plain", "/logging", "/parameter", "/stream"])
def test_router_accepts_a_body_that_sentry_read(sentry: Server, path: str) -> None:
    assert_accepted(sentry, path)


def test_verified_event_accepts_a_body_that_sentry_read(sentry: Server) -> None:
    response = sentry.post("/own", PUSH, headers=JSON)
    assert (response.status_code, response.json()) == (200, "repo.content")


@pytest.mark.parametrize("path", ["/stream", "/taken"])
def test_consumed_body_is_503(server: Server, path: str) -> None:
    response = server.post(path, PUSH, headers=JSON)
    assert (response.status_code, response.json()["status"]) == (503, "rejected")
    assert "rejected a request with 503: the body" in server.output()


def test_receive_of_the_server_is_recognised(server: Server) -> None:
    assert server.request("/receive").json() == [True, False, True]


# ---- servers without asyncio, or without ASGI ---------------------------------------------------

EACH_WAY = """
from fastapi import FastAPI

from hubhooks import HubEvent, Webhooks
from hubhooks.fastapi import VerifiedEvent

hooks = Webhooks()
app = FastAPI()
app.include_router(hooks.router())
no_lifespan = FastAPI()


async def without_lifespan(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    await (no_lifespan if scope["path"] == "/own" else hooks)(scope, receive, send)


@no_lifespan.post("/own")
async def own(event: VerifiedEvent) -> str:
    return event.scope
"""
TRIO = ("-m", "hypercorn", "-k", "trio", "--bind", "127.0.0.1:{port}")


@pytest.mark.parametrize("app", ["hooks", "app"])
def test_trio_is_rejected_at_startup(tmp_path: Path, app: str) -> None:
    pytest.importorskip("trio")
    with started(
        tmp_path, *TRIO, f"app:{app}", script=EACH_WAY, prints="hubhooks needs asyncio"
    ) as server:
        server.wait()
    assert "hypercorn app:app" in server.output()


def test_trio_without_a_startup_is_503(tmp_path: Path) -> None:
    pytest.importorskip("trio")
    environ = {"HUBHOOKS_ADMIN_TOKEN": "sesame" * 6}
    with started(
        tmp_path, *TRIO, "app:without_lifespan", script=EACH_WAY, environ={**environ}
    ) as server:
        for _ in range(2):
            response = server.post("/", PUSH)
            assert (response.status_code, response.json()["status"]) == (503, "rejected")
        assert server.post("/", PUSH, secret="wrong").status_code == 403
        token = {"Authorization": f"Bearer {'sesame' * 6}"}
        assert server.request("/deliveries", headers=token).status_code == 503
        assert server.request("/").status_code == 405
        # The dependency needs no asyncio.
        assert server.post("/own", PUSH).json() == "repo.content"
        assert "hubhooks needs asyncio" in server.output()
        assert "Traceback" not in server.output().replace("NotImplementedError", "")


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_gunicorn_without_asgi_is_an_error(tmp_path: Path, worker: str) -> None:
    pytest.importorskip("gunicorn")
    command = ("-m", "gunicorn", "-k", worker, "-b", "127.0.0.1:{port}", "app:hooks")
    with started(tmp_path, *command, script=EACH_WAY) as server:
        assert server.post("/", PUSH).status_code == 500
        server.wait_for("`Webhooks` is an ASGI app")
        assert "gunicorn -k uvicorn_worker.UvicornWorker app:hooks" in server.output()


def test_gunicorn_with_the_named_worker_serves(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn_worker")
    worker = ("-k", "uvicorn_worker.UvicornWorker")
    command = ("-m", "gunicorn", *worker, "-b", "127.0.0.1:{port}", "app:hooks")
    with started(tmp_path, *command, script=EACH_WAY) as server:
        assert server.post("/", PUSH).json()["status"] == "unhandled"


def test_wsgi_call_is_an_error() -> None:
    hooks: Any = Webhooks("moon")
    with pytest.raises(TypeError, match="is an ASGI app"):
        hooks({"REQUEST_METHOD": "POST"}, lambda *_: None)
    with pytest.raises(TypeError, match="is an ASGI app"):
        hooks({"type": "http"})
    assert inspect.iscoroutinefunction(hooks.__call__)
