"""Fixtures of several tests: one ASGI request without a network, and a real server."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from asking import ask
from leaks import Resources
from marks import markers_of
from servers import PATIENCE, serve, served_apps

from hubhooks._core import HubEvent
from hubhooks._samples import compact, sample_json, with_overrides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# More processes than this start more slowly than they run the quick tests.
MOST_WORKERS = 8


def pytest_configure() -> None:
    """Let servers of the tests react to Ctrl-C, also if a shell runs the tests with `&`.

    There it is ignored, and processes hand that down.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the tests in several processes if the command line names no file and no number."""
    # pytest-xdist calls this hook in its workers too, and its variable reaches all they start.
    # Workers that start workers would fill the machine.
    if "PYTEST_XDIST_WORKER" in os.environ or hasattr(config, "workerinput"):
        return
    if not config.pluginmanager.hasplugin("xdist") or config.option.numprocesses is not None:
        return
    names_no_file = config.args_source is not pytest.Config.ArgsSource.ARGS
    if names_no_file and not config.option.collectonly:
        config.option.numprocesses = "auto"
        config.option.maxprocesses = config.option.maxprocesses or MOST_WORKERS


def pytest_report_header(config: pytest.Config) -> str:
    """Print how to run the other tests."""
    return f'markers: {config.option.markexpr or "all tests"} (-m "" selects all tests)'


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the files of `tests/integrations` without their marker: they import Gradio."""
    is_left_out = "not servers" in config.option.markexpr
    return True if is_left_out and collection_path.name == "integrations" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start servers or browsers, or install packages."""
    for item in items:
        if "integrations" in item.path.parts:
            item.add_marker("servers")
        if isinstance(item, pytest.Function):
            for name in sorted(markers_of(item)):
                item.add_marker(name)


@pytest.fixture(autouse=True)
def _leaves_nothing_running() -> Iterator[None]:
    """Check that a test with servers in this process ends their threads and child processes."""
    before, served = Resources.current(), served_apps()
    yield
    if served_apps() != served:
        assert before.started_since() == []


@pytest.fixture(autouse=True)
def _no_options_for_other_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this run's options from the pytest that a test starts."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


@pytest.fixture(autouse=True)
def _no_secret_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)


@pytest.fixture(autouse=True)
def _no_file_in_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBHOOKS_DELIVERIES", ":memory:")


@pytest.fixture
def body() -> Callable[..., bytes]:
    """Return a sample as the body of a delivery, with values changed by dotted paths."""

    def make(name: str, **changes: Any) -> bytes:
        overrides = {path.replace("__", "."): value for path, value in changes.items()}
        return compact(with_overrides(sample_json(name), overrides))

    return make


@pytest.fixture
def event(body: Callable[..., bytes]) -> Callable[..., HubEvent]:
    """Return a sample as an event."""

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
    """Deliver over the network as the Hub does; return the status and the JSON of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    headers = {"X-Webhook-Secret": secret, "Webhook-Id": delivery_id}
    connection.request("POST", path, content, {k: v for k, v in headers.items() if v})
    with connection.getresponse() as response:
        data = json.loads(response.read())
    connection.close()
    return response.status, data


@pytest.fixture(name="post")
def _post() -> Callable[..., Any]:
    return post


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the lines that the package logged so far."""
    caplog.set_level(logging.INFO, "hubhooks")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "hubhooks"]
