"""The receiver without the network: the table of responses, and traces of rejections."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from hubhooks._core import Verifier
from hubhooks._http import receiver as receiver_module
from hubhooks._http.receiver import RESPONSES, Receiver
from hubhooks._store.memory import MemoryLimits
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import ConfigError, StoreError
from hubhooks.routing import Router

if TYPE_CHECKING:
    from collections.abc import Callable

    from hubhooks._core import HubEvent
    from hubhooks._store.base import AcceptResult

TABLE = json.loads((Path(__file__).parent / "fixtures" / "responses.json").read_text())
CASES = [{**TABLE["defaults"], **case} for case in TABLE["cases"]]
SECRET_HEADER = [(b"x-webhook-secret", b"moon")]


def matching(event: HubEvent) -> None: ...


class FullDisk(SqliteStore):
    def accept(self, *_: Any, **__: Any) -> AcceptResult:
        msg = "the disk is full"
        raise StoreError(msg)


def make(
    *,
    secret: str | None = None,
    handlers: dict[str, str],
    ignore_authors: Any = (),
    on_replay: Any = "run",
    disk_full: bool = False,
    stopping: bool = False,
    **options: Any,
) -> tuple[Receiver, SqliteStore, Router]:
    router = Router(ignore_authors=ignore_authors)
    for name, scope in handlers.items():
        router.add(matching, scope, name=name)
    store = (FullDisk if disk_full else SqliteStore)(":memory:", on_replay=on_replay)

    def verifier() -> Verifier | None:
        return None if secret is None else Verifier(secret)

    receiver = Receiver(router, store, verifier, max_body_size=5_000, **options)
    receiver.is_stopping = stopping
    return receiver, store, router


@pytest.fixture
def receiver() -> Receiver:
    return make(secret="moon", handlers={"retrain": "repo.content"})[0]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_response_matches_the_table(case: dict[str, Any], body: Callable[..., bytes]) -> None:
    receiver, store, router = make(**case["setup"])
    headers = [(name.encode(), value.encode()) for name, value in case["headers"]]
    content = case["text"].encode() if "text" in case else body(case["sample"])

    for earlier in case["before"]:
        first = (
            receiver
            if not earlier.get("without_handlers")
            else Receiver(Router(), store, lambda: None)
        )
        received = body(earlier["sample"]) if "sample" in earlier else content
        response = first.receive(headers, received)
        assert response.delivery_id is not None
        receiver.mark_acknowledged(response.delivery_id, delivered=earlier["delivered"])
        for name, ending in earlier.get("ends", {}).items():
            delivery = store.claim(response.delivery_id, name)
            assert delivery is not None
            store.finish_run(delivery, ending)

    rejection = receiver.precheck(case["method"], headers, case["query"].encode())
    assert (rejection is None) is case["reads"]
    response = rejection or receiver.receive(headers, content, complete=case["complete"])

    data = json.loads(response.body)
    assert response.status == case["status"]
    assert data == {
        key: data[key] if value == "*" else value for key, value in case["body"].items()
    }
    assert all(data.values())
    sent = dict(response.headers)
    assert sent.pop(b"content-type") == b"application/json"
    assert sent.pop(b"content-length") == str(len(response.body)).encode()
    assert sent == ({b"allow": case["allow"].encode()} if case["allow"] else {})
    assert (response.accepted is not None) is (data["status"] == "accepted")
    assert (response.delivery_id is None) is (data["status"] == "rejected")
    if response.accepted is not None:
        assert list(response.accepted.handlers) == data["handlers"]
        assert response.accepted.delivery_id == data["delivery"]
        assert response.accepted.event.raw == content
        assert [h.name for h in map(router.handler, response.accepted.handlers) if h] == data[
            "handlers"
        ]
    if case["state"]:
        stored = store.get("d1")
        assert stored is not None
        assert stored.state == case["state"]
    elif response.delivery_id is None:
        assert store.list() == []


def test_response_table_has_every_case() -> None:
    shown = {(c["status"], c["body"]["status"], c["body"].get("reason", "")) for c in CASES}
    shown = {(http, status, "" if reason == "*" else reason) for http, status, reason in shown}
    assert shown == {(spec.http, spec.status, spec.reason) for spec in RESPONSES.values()}


def test_unhandled_delivery_is_stored_with_its_explanation(body: Callable[..., bytes]) -> None:
    receiver, store, _ = make(secret="moon", handlers={"retrain": "repo.content"})
    response = receiver.receive(SECRET_HEADER, body("repo.create"))
    assert response.delivery_id is not None
    stored = store.get(response.delivery_id)
    assert stored is not None
    assert stored.reason.startswith("`retrain` does not match: the scope is `repo`")


@pytest.mark.parametrize("ignore_authors", [(), ["5f0c7b2e9d3a4c1e8b6f0a2d"]])
def test_response_counts_the_explanations_that_it_leaves_out(
    ignore_authors: Any, body: Callable[..., bytes]
) -> None:
    handlers = {f"handler-{number}": "repo.content" for number in range(50)}
    receiver, _, _ = make(secret="moon", handlers=handlers, ignore_authors=ignore_authors)
    response = receiver.receive(SECRET_HEADER, body("repo.create"))
    *shown, last = json.loads(response.body)["explanations"]
    assert all(line.startswith("`handler-") for line in shown)
    # The note on the author is the last explanation.
    count = 50 + bool(ignore_authors)
    assert last == f"... and {count - len(shown)} more explanations"


def test_only_unhandled_hooks_get_unhandled_events(
    body: Callable[..., bytes],
) -> None:
    receiver, store, router = make(secret="moon", handlers={"retrain": "repo.content"})
    assert receiver.receive([(b"webhook-id", b"d1")], body("repo.create")).accepted is None

    @router.on_unhandled
    def report(event: HubEvent) -> None: ...

    response = receiver.receive([(b"webhook-id", b"d2")], body("repo.create"))
    assert (response.status, json.loads(response.body)["status"]) == (200, "unhandled")
    assert response.accepted is not None
    assert (response.accepted.delivery_id, response.accepted.handlers) == ("d2", ())
    assert response.accepted.event.raw == body("repo.create")
    assert [stored.state for stored in store.list()] == ["unhandled"] * 2
    malformed = receiver.receive([(b"webhook-id", b"d3")], b"{")
    repeated = receiver.receive([(b"webhook-id", b"d4")], body("repo.content.update"))
    assert malformed.accepted is None
    assert repeated.accepted is not None
    assert repeated.accepted.handlers == ("retrain",)
    assert receiver.receive([(b"webhook-id", b"d4")], body("repo.content.update")).accepted is None


def test_full_store_makes_the_hub_retry(body: Callable[..., bytes]) -> None:
    router, store = Router(), SqliteStore(":memory:", limits=MemoryLimits(hold_bytes=1))
    router.add(matching, "repo.content", name="retrain")
    receiver = Receiver(router, store, lambda: None, allow_unsigned=True)
    response = receiver.receive([], body("repo.content.update"))
    assert (response.status, response.delivery_id) == (503, None)
    assert b"could not be stored" in response.body
    assert store.list() == []


def test_ignored_delivery_is_stored_with_the_author(body: Callable[..., bytes]) -> None:
    author = "6409b816282dc50ee5b8f296"
    receiver, store, _ = make(handlers={}, ignore_authors=author)
    receiver.receive([(b"webhook-id", b"d1")], body("discussion.create"))
    stored = store.get("d1")
    assert stored is not None
    assert stored.reason == f"its author `{author}` is in `ignore_authors`"


def test_malformed_delivery_is_logged_without_its_body(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    response = receiver.receive([(b"webhook-id", b"d1")], b'{"event": "tell-tale')
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("delivery `d1` is malformed: ")
    assert "tell-tale" not in record.getMessage() + response.body.decode()


@pytest.mark.parametrize("secret", [None, ""])
def test_readiness_requires_a_usable_secret(secret: str | None) -> None:
    with pytest.raises(ConfigError):
        make(secret=secret, handlers={})[0].check_ready()


def test_readiness_without_a_secret_must_be_allowed() -> None:
    make(handlers={}, allow_unsigned=True)[0].check_ready()
    make(secret="moon", handlers={})[0].check_ready()
    with pytest.raises(ConfigError, match=r"set WEBHOOK_SECRET .* `allow_unsigned=True`"):
        make(handlers={})[0].check_ready()


def test_content_length_with_too_many_digits_is_413(receiver: Receiver) -> None:
    response = receiver.precheck("POST", [*SECRET_HEADER, (b"content-length", b"9" * 9_999)], b"")
    assert response is not None
    assert response.status == 413


# ---- rejections ---------------------------------------------------------------------------------


def clock_at(minute: float) -> SimpleNamespace:
    return SimpleNamespace(time=lambda: minute * 60)


def test_rejections_are_counted_and_logged_per_minute(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, logged: Callable[[], list[str]]
) -> None:
    minutes = [7.0, 7.5, 7.9, 8.0]
    for minute in minutes:
        monkeypatch.setattr(receiver_module, "time", clock_at(minute))
        receiver.precheck("POST", [(b"x-webhook-secret", b"sun")], b"")
        receiver.precheck("GET", [], b"")
    assert receiver.rejections == {
        (7, "secret wrong"): 3,
        (7, "method"): 3,
        (8, "secret wrong"): 1,
        (8, "method"): 1,
    }
    assert (
        logged()
        == [
            "rejected a request with 403: the webhook secret is wrong",
            "rejected a request with 405: only POST requests are accepted",
        ]
        * 2
    )


def test_rejections_are_dropped_after_an_hour(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minute in (1, 2, 61):
        monkeypatch.setattr(receiver_module, "time", clock_at(minute))
        receiver.precheck("GET", [], b"")
    assert set(receiver.rejections) == {(2, "method"), (61, "method")}


def test_content_of_a_rejected_request_is_not_logged(
    receiver: Receiver, logged: Callable[[], list[str]]
) -> None:
    receiver.precheck("POST", [(b"x-webhook-secret", b"tell-tale")], b"secret=tell-tale")
    receiver.precheck("POST", [], b"secret=tell-tale")
    receiver.precheck("tell-tale", [], b"")
    assert len(logged()) == 2
    assert "tell-tale" not in "".join(logged())


def test_constant_responses_are_built_once(receiver: Receiver, body: Callable[..., bytes]) -> None:
    content = body("repo.content.update")
    headers = [*SECRET_HEADER, (b"webhook-id", b"d1")]
    _, first, second = (receiver.receive(headers, content) for _ in range(3))
    assert first.body is second.body
    assert first.headers is second.headers
    assert receiver.precheck("GET", [], b"") is receiver.precheck("GET", [], b"")
