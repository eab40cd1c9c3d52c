"""Each way to serve a `Webhooks`, on each server that is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import pytest
from servers import SECRET, Server, started

from hubhooks._samples import compact, sample_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SCRIPT = """
import asyncio
import time
from pathlib import Path

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from hubhooks import Webhooks

hooks = Webhooks()


@hooks.on("repo.content")
def in_a_thread(event, context):
    print("a thread began", flush=True)
    while not Path("go").exists():
        time.sleep(0.02)
    time.sleep(1)  # longer than a server takes to end that does not wait
    print("a thread ended", flush=True)


@hooks.on("repo.content")
async def on_the_loop(event):
    print("a task began", flush=True)
    while not Path("go").exists():
        await asyncio.sleep(0.02)
    await asyncio.sleep(1)
    print("a task ended", flush=True)


fastapi = FastAPI()
fastapi.include_router(hooks.router("/webhooks/hub"))
mount = Starlette(routes=[Mount("/webhooks", hooks)], lifespan=hooks.lifespan)
route = Starlette(
    routes=[Route(path, hooks) for path in ("/webhooks/hub", "/webhooks/hub/")],
    lifespan=hooks.lifespan,
)
"""
APPS = ["fastapi", "mount", "route", "hooks"]
PUSH = compact(sample_json("repo.content.update"))
UNMATCHED = compact(sample_json("repo.create"))


class Serves(NamedTuple):
    """A server: its package, the command before `app:name`, and its last line of output."""

    package: str
    command: tuple[str, ...]
    stopping: str | None


UVICORN = ("-W", "error", "-m", "uvicorn", "--port", "{port}", "--http")
GRANIAN = ("-m", "granian", "--interface", "asgi", "--access-log", "--port", "{port}")
HYPERCORN = ("-m", "hypercorn", "--access-logfile", "-", "--bind", "127.0.0.1:{port}")
SERVERS = {
    "uvicorn, h11": Serves("h11", (*UVICORN, "h11"), "Shutting down"),
    "uvicorn, httptools": Serves("httptools", (*UVICORN, "httptools"), "Shutting down"),
    "granian": Serves("granian", GRANIAN, "Stopping worker"),
    "hypercorn": Serves("hypercorn", HYPERCORN, None),
}


def serving(server: str) -> Serves:
    serves = SERVERS[server]
    if find_spec(serves.package) is None:
        pytest.skip(f"{serves.package} is not installed")
    return serves


def until_it_stops(server: Server, serves: Serves) -> None:
    """Wait until the server has begun its shutdown."""
    if serves.stopping is not None:
        server.wait_for(serves.stopping)
    else:
        server.wait_until_closed()


@pytest.fixture(scope="module", params=[(s, app) for s in SERVERS for app in APPS], ids=" ".join)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Server]]:
    name, app = request.param
    command = (*serving(name).command, f"app:{app}")
    with started(tmp_path_factory.mktemp("app"), *command, script=SCRIPT) as server:
        yield app, server


@pytest.mark.parametrize("path", ["/webhooks/hub", "/webhooks/hub/"])
def test_each_server_responds_to_the_hub(served: tuple[str, Server], path: str) -> None:
    app, server = served
    right = server.post(path, UNMATCHED)
    assert (right.status_code, right.json()["status"]) == (200, "unhandled")
    assert server.post(f"{path}?secret={SECRET}", UNMATCHED, secret=None).status_code == 200
    assert server.post(path, UNMATCHED, secret="wrong").status_code == 403
    assert server.post(path, UNMATCHED, secret=None).status_code == 401
    assert server.post(path, b"").status_code == 400
    rejected = server.request(path, secret=SECRET)
    assert (rejected.status_code, rejected.headers["allow"]) == (405, "POST")
    if app == "fastapi":
        assert server.request("/docs").status_code == 200
    assert SECRET not in server.wait_for(f'"POST {path} ')


@pytest.mark.parametrize(
    ("name", "app"),
    [*((name, "fastapi") for name in SERVERS), *(("uvicorn, h11", app) for app in APPS[1:])],
)
def test_shutdown_waits_for_running_handlers(
    start: Callable[..., Server], tmp_path: Path, name: str, app: str
) -> None:
    serves = serving(name)
    server = start(*serves.command, f"app:{app}", script=SCRIPT)
    assert server.post("/webhooks/hub", PUSH).status_code == 202
    for kind in ("thread", "task"):
        server.wait_for(f"a {kind} began")
    server.terminate()
    until_it_stops(server, serves)
    assert "ended" not in server.output()
    (tmp_path / "go").touch()
    server.wait()
    assert "a thread ended" in server.output()
    assert "a task ended" in server.output()
