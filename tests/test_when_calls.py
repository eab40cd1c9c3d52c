"""When `when=` is called: once per handler and delivery, and outside of the store's lock."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from typing import TYPE_CHECKING, Any

import pytest
from servers import PATIENCE, serve

from hubhooks import HubEvent, Webhooks
from hubhooks._samples import compact, sample_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PUSH = compact(sample_json("repo.content.update"))


@pytest.fixture(params=["memory", "disk"])
def hooks(request: pytest.FixtureRequest, tmp_path: Path) -> Webhooks:
    is_on_disk = request.param == "disk"
    return Webhooks("moon", deliveries=tmp_path / "hubhooks.db" if is_on_disk else ":memory:")


@pytest.mark.parametrize("is_matched", [False, True])
def test_when_is_called_once_per_handler_and_delivery(
    hooks: Webhooks, post: Any, is_matched: bool
) -> None:
    asked: list[str] = []

    def make(name: str) -> Callable[[HubEvent], bool]:
        return lambda _: asked.append(name) is None and is_matched

    hooks.add(lambda event: None, when=make("one"), name="one")
    hooks.add(lambda event: None, "repo.content", when=make("two"), name="two")
    hooks.add(lambda event: None, "discussion", when=make("never"), name="never")
    with serve(hooks) as port:
        assert post(port, PUSH)[1]["status"] == ("accepted" if is_matched else "unhandled")
        delivery = hooks.deliveries.get("d1")
        assert delivery is not None
        if not is_matched:
            assert "`one` does not match: its `when` returned false" in delivery.reason
    assert asked == ["one", "two"]


def test_when_of_two_decorators_is_called_once(hooks: Webhooks, post: Any) -> None:
    asked: list[HubEvent] = []

    def raises(event: HubEvent) -> None:
        asked.append(event)

    @hooks.on("repo.content", when=raises)
    @hooks.on("repo.*", when=raises)
    def handle(event: HubEvent) -> None: ...

    with serve(hooks) as port:
        post(port, PUSH)
        delivery = hooks.deliveries.get("d1")
        assert delivery is not None
        assert delivery.reason.count("returned false") == 1
    assert len(asked) == 1


def test_when_is_called_for_each_repetition(hooks: Webhooks, post: Any) -> None:
    asked: list[HubEvent] = []
    hooks.add(lambda event: None, when=asked.append, name="one")
    with serve(hooks) as port:
        for count in (1, 2):
            post(port, PUSH)
            assert len(asked) == count


def test_blocking_when_holds_no_lock(tmp_path: Path, post: Any) -> None:
    path = tmp_path / "hubhooks.db"
    hooks = Webhooks("moon", deliveries=path)
    is_called, release = threading.Event(), threading.Event()

    def blocks(_: HubEvent) -> bool:
        is_called.set()
        return not release.wait(PATIENCE)

    hooks.add(lambda event: None, when=blocks, name="one")
    responses: list[Any] = []
    with serve(hooks) as port:
        sender = threading.Thread(target=lambda: responses.append(post(port, PUSH)))
        sender.start()
        try:
            assert is_called.wait(PATIENCE)
            with sqlite3.connect(path, timeout=0) as other:
                other.execute("BEGIN IMMEDIATE")
                other.rollback()
            other.close()
        finally:
            release.set()
            sender.join(PATIENCE)
    assert responses[0][1]["status"] == "unhandled"


def test_no_log_line_is_written_inside_a_transaction(
    tmp_path: Path, post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "hubhooks.db"
    hooks = Webhooks("moon", deliveries=path)
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: Any) -> None:
            other = sqlite3.connect(path, timeout=0)
            try:
                other.execute("BEGIN IMMEDIATE")
                other.rollback()
            finally:
                other.close()
            lines.append(record.getMessage())

        def handleError(self, record: Any) -> None:  # noqa: N802 - the name of `logging`
            lines.append("locked")

    def raises(_: HubEvent) -> bool:
        raise ValueError

    hooks.add(lambda event: None, when=raises, name="one")
    handler = Handler()
    with serve(hooks) as port:
        logger = logging.getLogger("hubhooks")
        logger.addHandler(handler)
        try:
            post(port, PUSH)
            post(port, b"{", "d2")
            monkeypatch.setattr(hooks.store._new, "_max_bytes", 0)  # noqa: SLF001 - a full store
            assert post(port, PUSH, "d3")[0] == 503
        finally:
            logger.removeHandler(handler)
    assert [line.split(" ")[0] for line in lines] == ["`when`", "delivery", "`when`", "rejected"]


@pytest.mark.parametrize(
    "error", [ValueError, SystemExit, GeneratorExit, asyncio.CancelledError, KeyboardInterrupt]
)
def test_raising_when_gets_a_response_and_is_recorded(
    hooks: Webhooks, post: Any, error: type[BaseException]
) -> None:
    asked: list[HubEvent] = []

    def raises(event: HubEvent) -> bool:
        asked.append(event)
        raise error

    hooks.add(lambda event: None, when=raises, name="raises")
    hooks.add(lambda event: None, "discussion", name="other")
    with serve(hooks) as port:
        status, data = post(port, PUSH)
        assert (status, data["status"]) == (200, "unhandled")
        delivery = hooks.deliveries.get("d1")
        assert delivery is not None
        assert f"`raises` does not match: its `when` raised {error.__name__}" in delivery.reason
    assert len(asked) == 1


def test_retried_batch_calls_no_when_again(tmp_path: Path, post: Any) -> None:
    path = tmp_path / "hubhooks.db"
    hooks = Webhooks("moon", deliveries=path)
    asked: list[HubEvent] = []
    is_called = threading.Event()

    def raises(event: HubEvent) -> None:
        asked.append(event)
        is_called.set()

    hooks.add(lambda event: None, when=raises, name="one")
    responses: list[Any] = []
    tries = threading.Event()
    with serve(hooks) as port:
        app = hooks._webhook_app  # noqa: SLF001 - nothing else shows a batch that is tried again
        commit, count = app._commit_batch, [0]  # noqa: SLF001 - see above

        def counted(group: Any) -> None:
            commit(group)
            count[0] += 1
            if count[0] == 3:
                tries.set()

        app._commit_batch = counted  # noqa: SLF001 - see above
        other = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        sender = threading.Thread(target=lambda: responses.append(post(port, PUSH)))
        sender.start()
        try:
            assert is_called.wait(PATIENCE)
            assert tries.wait(PATIENCE)
        finally:
            other.rollback()
            other.close()
            sender.join(PATIENCE)
    assert responses[0][1]["status"] == "unhandled"
    assert len(asked) == 1
