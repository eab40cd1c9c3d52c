"""What several tests need: one ASGI request without a network, and a real server."""

from __future__ import annotations

import http.client
import json
import logging
import signal
from typing import TYPE_CHECKING, Any

import pytest
from asking import ask
from servers import PATIENCE, serve

from hubhooks._core import HubEvent
from hubhooks._samples import compact, sample_json, with_overrides

if TYPE_CHECKING:
    from collections.abc import Callable


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
