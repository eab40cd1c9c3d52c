"""Webhooks behind tools and middleware of the app, on each server that is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from servers import Server, started
from test_servers import SERVERS, serving

from hubhooks._samples import compact, sample_json

if TYPE_CHECKING:
    from collections.abc import Iterator

PUSH = compact(sample_json("repo.content.update"))
JSON = {"Content-Type": "application/json"}
SCRIPT = """
import os
from typing import Any

import sentry_sdk
from fastapi import Body, Depends, FastAPI, Request
from fastapi.routing import APIRoute

from hubhooks import Webhooks
from hubhooks.asgi import is_of_server
from hubhooks.fastapi import VerifiedEvent

if "SENTRY" in os.environ:
    sentry_sdk.init()
hooks = Webhooks()
hooks.add(lambda event: print("ran", event.repo.name, flush=True), name="hears")


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

    return [is_of_server(request.receive), is_of_server(wrapped), request["state"]["of_server"]]


async def takes_the_body(scope, receive, send):
    more = scope["type"] == "http" and scope["path"] == "/taken"
    while more:
        more = (await receive()).get("more_body", False)
    scope["state"]["of_server"] = is_of_server(receive)
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
    answer = server.post(path, PUSH, headers=JSON)
    assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
    assert server.post(path, PUSH, secret="wrong", headers=JSON).status_code == 403


@pytest.mark.parametrize("path", ["/plain", "/logging", "/parameter"])
def test_router_accepts_a_body_that_was_read_before(server: Server, path: str) -> None:
    assert_accepted(server, path)


@pytest.mark.parametrize("path", ["/plain", "/logging", "/parameter", "/stream"])
def test_router_accepts_a_body_that_sentry_read(sentry: Server, path: str) -> None:
    assert_accepted(sentry, path)


def test_verified_event_accepts_a_body_that_sentry_read(sentry: Server) -> None:
    answer = sentry.post("/own", PUSH, headers=JSON)
    assert (answer.status_code, answer.json()) == (200, "repo.content")


@pytest.mark.parametrize("path", ["/stream", "/taken"])
def test_a_body_that_nobody_kept_is_503(server: Server, path: str) -> None:
    answer = server.post(path, PUSH, headers=JSON)
    assert (answer.status_code, answer.json()["status"]) == (503, "refused")
    assert "refused a request with 503: the body" in server.output()


def test_receive_of_the_server_is_known(server: Server) -> None:
    assert server.request("/receive").json() == [True, False, True]
