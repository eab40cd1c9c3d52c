"""What several tests need: one ASGI request without a network, and a real server."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from asking import ask
from servers import PATIENCE

from hubhooks._core import HubEvent
from hubhooks._samples import compact, sample_json, with_overrides

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


def pytest_configure() -> None:
    """Hear Ctrl-C in the servers that tests start, also in a run that a shell put aside with `&`.

    There it is ignored, and processes hand that down.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_secret_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)


@pytest.fixture(autouse=True)
def _no_file_in_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBHOOKS_DELIVERIES", ":memory:")


@pytest.fixture
def body() -> Callable[..., bytes]:
    """Give a sample as the body of a delivery, with values changed by dotted paths."""

    def make(name: str, **changes: Any) -> bytes:
        overrides = {path.replace("__", "."): value for path, value in changes.items()}
        return compact(with_overrides(sample_json(name), overrides))

    return make


@pytest.fixture
def event(body: Callable[..., bytes]) -> Callable[..., HubEvent]:
    """Give a sample as an event."""

    def make(name: str, **changes: Any) -> HubEvent:
        return HubEvent.from_json(body(name, **changes))

    return make


@pytest.fixture(name="ask")
def _ask() -> Callable[..., Any]:
    return ask


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()
        self.leaked: list[str] = []

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        await super().shutdown(sockets)
        self.leaked = await leaked_tasks()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


async def leaked_tasks() -> list[str]:
    """Return the tasks of the running loop that neither its server nor the test began."""
    # A cancelled task ends in the next turns of the loop.
    for _ in range(10):
        await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return [repr(task) for task in tasks if not _is_of_server(task)]


def _is_of_server(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "/uvicorn/" in code.co_filename.replace("\\", "/")


@contextmanager
def serve(app: Any, **options: Any) -> Generator[int]:
    """Serve an app on a port of its own until the block ends, when no task of ours is left."""
    server = _Server(uvicorn.Config(app, port=0, log_config=None, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.is_up.wait(PATIENCE)
        yield server.port
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert server.leaked == []


@pytest.fixture(name="serve")
def _serve() -> Callable[..., Any]:
    return serve


def post(
    port: int,
    content: bytes,
    delivery_id: str = "d1",
    path: str = "/",
    secret: str = "moon",
) -> tuple[int, dict[str, Any]]:
    """Deliver over the network as the Hub does, and give the status and what was said."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    headers = {"X-Webhook-Secret": secret, "Webhook-Id": delivery_id}
    connection.request("POST", path, content, {k: v for k, v in headers.items() if v})
    with connection.getresponse() as response:
        said = json.loads(response.read())
    connection.close()
    return response.status, said


@pytest.fixture(name="post")
def _post() -> Callable[..., Any]:
    return post


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Give the lines of the package's own log so far."""
    caplog.set_level(logging.INFO, "hubhooks")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "hubhooks"]
