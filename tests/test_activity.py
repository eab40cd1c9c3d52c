"""Who sees what of the deliveries, and who is trusted."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from servers import PATIENCE

from hubhooks import Verifier, Webhooks
from hubhooks._delivery_json import delivery_json
from hubhooks.activity import (
    Activity,
    Gate,
    Replayed,
    Tickets,
    is_cross_site,
    is_space_owner,
)
from hubhooks.deliveries import MemoryLog
from hubhooks.errors import BusyError, ConfigError
from hubhooks.sqlite import SqliteLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from hubhooks.deliveries import Log

TOKEN = "a long word of the admin"
NAME = "ada-labs/tide-gauges"


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", TOKEN)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class House(NamedTuple):
    """An activity, and what it tells of."""

    log: Any
    hooks: Webhooks
    activity: Activity
    woken: list[int]

    def put(
        self,
        body: bytes = b"{}",
        *handlers: str,
        scope: str = "repo",
        repo: str | None = NAME,
        **more: Any,
    ) -> str:
        facts = {"scope": scope, "action": "create", "repo": repo}
        if not handlers:
            more.setdefault("skipped", "unhandled")
        return self.log.accept(None, body, handlers, **facts, **more).id

    def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> Replayed:
        return asyncio.run(self.activity.replay(delivery_id, handlers))

    def end(self, delivery_id: str, handler: str, *how: str) -> None:
        self.log.finished(self.log.claim(delivery_id, handler), *how)
        self.log.flush()


@pytest.fixture(params=["memory", "disk"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    log: Log = MemoryLog() if request.param == "memory" else SqliteLog(tmp_path / "hubhooks.db")
    log.open()
    log.recover()
    hooks = Webhooks("moon", deliveries=":memory:")
    woken: list[int] = []
    yield House(
        log, hooks, Activity(log, hooks, lambda: hooks.verifier, lambda: woken.append(1)), woken
    )
    log.close()


# ---- what strangers see ------------------------------------------------------------------------

# What the body says of the repository, and whether a stranger is told its name.
PRIVACY: dict[str, tuple[dict[str, Any], bool]] = {
    "public": ({"private": False}, True),
    "private": ({"private": True}, False),
    "not said": ({"private": None}, False),
    "of another type": ({"private": "false"}, False),
    "zero": ({"private": 0}, False),
}


@pytest.mark.parametrize("case", PRIVACY)
def test_strangers_are_told_of_public_repositories_only(
    house: House, body: Callable[..., bytes], case: str
) -> None:
    changes, is_told = PRIVACY[case]
    given = json.loads(body("repo.create", repo__name=NAME))
    given["repo"].update(changes)
    house.put(json.dumps(given).encode(), "heard")
    (row,) = house.activity.page(trusted=False).rows
    assert row.state == "queued"
    assert (row.event, row.repo) == (("repo create", NAME) if is_told else ("", ""))
    assert (row.id, row.handlers) == ("", "")
    (row,) = house.activity.page(trusted=True).rows
    assert (row.event, row.repo, row.handlers) == ("repo create", NAME, "heard")
    assert row.id


def test_strangers_are_told_nothing_of_a_delivery_that_cannot_be_read(house: House) -> None:
    house.put(b'{"repo": {"private": false', skipped="malformed", reason="line 1", repo=NAME)
    (row,) = house.activity.page(trusted=False).rows
    assert row == (row.received_at, "malformed", "", "", "", "")


def test_strangers_are_told_no_name_that_the_body_does_not_bear(
    house: House, body: Callable[..., bytes]
) -> None:
    house.put(body("repo.create", repo__name="ada-labs/other", repo__private=False), repo=NAME)
    (row,) = house.activity.page(trusted=False).rows
    assert row.repo == ""


def test_a_repository_that_became_private_is_public_no_more(
    house: House, body: Callable[..., bytes]
) -> None:
    house.put(body("repo.create", repo__name=NAME, repo__private=False))
    house.put(body("repo.create", repo__name=NAME, repo__private=True))
    rows = house.activity.page(trusted=False).rows
    assert [row.repo for row in rows] == ["", ""]


def test_what_strangers_are_told_is_no_different_when_asked_again(
    house: House, body: Callable[..., bytes]
) -> None:
    """The judgement is remembered: of the delivery, and not of its id."""

    def come(*, private: bool) -> None:
        content = body("repo.create", repo__name=NAME, repo__private=private)
        house.log.accept("d1", content, (), "unhandled", repo=NAME)

    come(private=False)
    assert house.activity.page(trusted=False).rows[0].repo == NAME
    come(private=True)
    deadline = time.monotonic() + PATIENCE
    while house.activity.page(trusted=False).rows[0].repo:
        assert time.monotonic() < deadline


def test_only_the_trusted_are_told_what_was_refused(house: House) -> None:
    house.put(skipped="unhandled")
    house.log.refused(int(time.time() // 60), "secret wrong", 3)
    assert house.activity.gate.judge("wrong") == "wrong"
    assert house.activity.overview(trusted=False) == ({"unhandled": 1}, {}, {})
    rejections = house.activity.overview(trusted=True).rejections
    assert rejections["admin token wrong"] == 1
    assert rejections["secret wrong"] == 3


def test_a_page_leads_to_the_next_one(house: House) -> None:
    ids = [house.put(skipped="unhandled") for _ in range(13)][::-1]
    first = house.activity.page(trusted=True)
    assert ([row.id for row in first.rows], first.is_last) == (ids[:12], False)
    second = house.activity.page(number=1, trusted=True)
    assert ([row.id for row in second.rows], second.is_last) == (ids[12:], True)
    for number, right in ((-5, 0), (10**9, 99)):
        assert house.activity.page(number=number, trusted=True).number == right
    assert house.activity.page("failed", trusted=True).rows == ()


# ---- who is trusted ----------------------------------------------------------------------------


def gate(clock: Clock) -> Gate:
    return Gate(lambda: Verifier("moon"), clock)


def test_the_token_opens_the_gate() -> None:
    judge = gate(Clock()).judge
    assert [judge(word) for word in (TOKEN, f" {TOKEN}\n", TOKEN.upper(), "", "moon")] == [
        "right", "right", "wrong", "wrong", "wrong",
    ]  # fmt: skip
    assert judge("ä" * 20) == "wrong"


@pytest.mark.parametrize("token", ["\ud800" * 20, "x" * 5000, "\0" * 20])
def test_no_token_breaks_the_gate(token: str) -> None:
    assert gate(Clock()).judge(token) == "wrong"


def test_wrong_tokens_never_lock_the_right_one_out(logged: Callable[[], list[str]]) -> None:
    clock = Clock()
    door = gate(clock)
    assert [door.judge("wrong") for _ in range(1000)] == ["wrong"] * 1000
    assert [door.judge(TOKEN) for _ in range(10)] == ["right"] * 10
    assert sum(door.wrong.values()) == 1000
    # Logged, but nobody can fill the log.
    assert len(logged()) == 2
    assert TOKEN not in str(logged())
    clock.now += 3600
    door.judge("wrong")
    assert len(door.wrong) == 1


def test_without_a_token_there_is_no_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUBHOOKS_ADMIN_TOKEN")
    door = gate(Clock())
    assert not door.is_on
    assert door.judge("") == door.judge("None") == "off"


@pytest.mark.parametrize("token", ["short", "ä" * 20, "the webhook's own secret"])
def test_a_token_that_is_no_good_is_refused(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", token)
    door = Gate(lambda: Verifier("the webhook's own secret"))
    with pytest.raises(ConfigError, match="HUBHOOKS_ADMIN_TOKEN") as raised:
        door.judge(token)
    assert token not in str(raised.value)


def test_a_ticket_is_good_in_its_session_for_a_while() -> None:
    clock = Clock()
    tickets = Tickets(clock)
    ticket = tickets.issue("mine")
    assert tickets.admits(ticket, "mine")
    # Neither is worth something without the other.
    assert not tickets.admits(ticket, "other")
    assert not tickets.admits("", "mine")
    assert not tickets.admits("mine", "mine")
    assert not tickets.admits(ticket[:-1], "mine")
    assert not tickets.admits("", "")
    clock.now += 9 * 60 * 60
    assert not tickets.admits(ticket, "mine")


def test_a_ticket_can_be_taken_back_and_the_oldest_makes_room() -> None:
    tickets = Tickets(Clock())
    first, second = tickets.issue("mine"), tickets.issue("mine")
    assert first != second
    tickets.take_back(first)
    tickets.take_back("unknown")
    assert not tickets.admits(first, "mine")
    for _ in range(1000):
        last = tickets.issue("other")
    assert tickets.admits(last, "other")
    assert not tickets.admits(second, "mine")


def login(name: object = "ada", until: object = 2000) -> dict[str, Any]:
    return {"oauth_info": {"userinfo": {"preferred_username": name}, "expires_at": until}}


@pytest.mark.parametrize(
    ("session", "space", "is_signed", "is_owner"),
    [
        (login(), "ada/tide", True, True),
        (login("eve"), "ada/tide", True, False),
        (login("Ada"), "ada/tide", True, False),
        (login(until=999), "ada/tide", True, False),
        (login(until=None), "ada/tide", True, False),
        # Gradio signs with a key that everybody knows, or pretends the login.
        (login(), "ada/tide", False, False),
        (login(), None, True, False),
        (login(""), "/tide", True, False),
        (login("ada"), "ada", True, False),
        (login(None), "ada/tide", True, False),
        (None, "ada/tide", True, False),
        ({}, "ada/tide", True, False),
        ({"oauth_info": "ada"}, "ada/tide", True, False),
        ({"oauth_info": {"userinfo": "ada", "expires_at": 2000}}, "ada/tide", True, False),
    ],
)
def test_the_owner_of_the_space_is_known_by_a_signed_login(
    session: dict[str, Any] | None, space: str | None, is_signed: bool, is_owner: bool
) -> None:
    assert is_space_owner(session, space, is_signed=is_signed, now=1000) is is_owner


@pytest.mark.parametrize(
    ("headers", "is_cross"),
    [
        ({}, False),
        ({"sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"origin": "https://ada.hf.space", "host": "ada.hf.space"}, False),
        ({"origin": "https://eve.hf.space", "host": "ada.hf.space"}, True),
        ({"origin": "null", "host": "ada.hf.space"}, True),
        (
            {"origin": "https://a.hf.space", "host": "10.0.0.1", "x-forwarded-host": "a.hf.space"},
            True,
        ),
    ],
)
def test_a_page_of_another_site_is_known(headers: dict[str, str], is_cross: bool) -> None:
    assert is_cross_site(headers) is is_cross


# ---- details and Replay ------------------------------------------------------------------------


def test_details_say_why_and_what_can_be_replayed(house: House, body: Callable[..., bytes]) -> None:
    @house.hooks.on("repo")
    def added_since(event: Any) -> None: ...

    delivery = house.put(body("repo.create"), "heard")
    assert house.activity.details("unknown") is None
    details = house.activity.details(delivery)
    assert details is not None
    assert details.objection == "it is being handled already"
    house.end(delivery, "heard", "failed", "no tide", "Traceback")
    details = house.activity.details(delivery)
    assert details is not None
    assert details.objection == ""
    name = "test_details_say_why_and_what_can_be_replayed.<locals>.added_since"
    assert details.handlers == ("heard", name)
    assert any(name in line for line in details.explanations)
    assert details.payload["event"] == {"action": "create", "scope": "repo"}
    assert details.url.startswith("https://huggingface.co/")
    said = delivery_json(details.delivery, is_whole=True)
    assert said["runs"][0]["error"] == "no tide"
    assert said["body"] == json.loads(body("repo.create"))
    assert "body" not in delivery_json(details.delivery)
    json.dumps(said)


def test_a_link_leads_to_the_hub_only(house: House, body: Callable[..., bytes]) -> None:
    evil = house.put(body("repo.create", repo__url__web="javascript:alert(1)"))
    details = house.activity.details(evil)
    assert details is not None
    assert details.url == ""


def test_replay_runs_what_heard_it_or_what_is_named(
    house: House, body: Callable[..., bytes]
) -> None:
    delivery = house.put(body("repo.create"), "one", "two")
    assert house.replay(delivery).objection == "it is being handled already"
    house.end(delivery, "one", "succeeded")
    house.end(delivery, "two", "failed")
    assert house.replay("unknown").objection == "there is no such delivery"
    assert "does not match this delivery" in house.replay(delivery, ["three"]).objection
    assert house.woken == []
    assert house.replay(delivery, ["two"]) == (("two",), "")
    assert house.woken == [1]
    assert house.log.get(delivery).run("one").state == "succeeded"
    house.end(delivery, "two", "succeeded")
    assert house.replay(delivery).handlers == ("one", "two")


@pytest.mark.parametrize("house", ["disk"], indirect=True)
def test_replay_waits_while_another_process_writes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = house.put(b"{}", "one")
    house.end(delivery, "one", "failed")
    other = sqlite3.connect(house.log.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    tries: list[str] = []
    replay = house.log.replay

    def replay_and_let_go(*arguments: Any) -> Any:
        tries.append(delivery)
        try:
            return replay(*arguments)
        except BusyError:
            other.execute("ROLLBACK")
            raise

    monkeypatch.setattr(house.log, "replay", replay_and_let_go)
    assert house.replay(delivery) == (("one",), "")
    assert len(tries) == 2
    assert house.woken == [1]
    other.close()


def test_replay_runs_what_would_hear_it_now(house: House, body: Callable[..., bytes]) -> None:
    delivery = house.put(body("repo.create"))
    assert house.replay(delivery).objection == "no handler heard it, or would now"
    house.hooks.on("repo", name="added since")(lambda event: None)
    assert house.replay(delivery) == (("added since",), "")


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b'{"n": 9007199254740993}', {"n": "9007199254740993"}),
        (b'{"n": -1, "x": 0.5, "y": true, "z": null}', {"n": -1, "x": 0.5, "y": True, "z": None}),
        (b'{"n": NaN, "i": 1e999}', {"n": "nan", "i": "inf"}),
        (b'{"\\ud83d": "\\ud83d"}', {"\\ud83d": "\\ud83d"}),
        (b"[" * 70 + b"]" * 70, "(deeper than is shown here)"),
        (b"\xff no JSON", "\\xff no JSON"),
        (b'{"x": "' + b"x" * 300_000 + b'"}', {"(too long to be shown here)": "300009 bytes"}),
    ],
)  # fmt: skip
def test_every_payload_can_be_shown(house: House, content: bytes, shown: object) -> None:
    details = house.activity.details(house.put(content, skipped="malformed"))
    assert details is not None
    payload = details.payload
    while isinstance(payload, list):
        payload = payload[0]
    assert payload == shown
    json.dumps(payload, allow_nan=False).encode("utf-8")


# ---- as JSON over HTTP -------------------------------------------------------------------------


@pytest.fixture
def asked(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Ask an app as somebody does who knows the token."""

    def asked(
        hooks: Webhooks, path: str, method: str = "GET", *, query: str = "", body: bytes = b"",
        token: str | None = TOKEN, **scope: Any,
    ) -> Any:  # fmt: skip
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        request = {"path": path, "method": method, "query_string": query.encode(), **scope}
        return asyncio.run(ask(hooks, body, headers=headers, **request))

    return asked


@pytest.fixture
def served(body: Callable[..., bytes]) -> Webhooks:
    """Hooks with a public and a private delivery, `d0` and `d1`, and one whose id has a slash."""
    hooks = Webhooks("moon", deliveries=":memory:")
    for number, private in ((0, False), (1, True)):
        hooks.store.accept(
            f"d{number}", body("repo.create", repo__private=private), (), "unhandled",
            scope="repo", action="create", repo=NAME,
        )  # fmt: skip
    hooks.store.accept("d/2", body("discussion.create"), (), "unhandled", scope="discussion")
    return hooks


PATHS = [("/deliveries", "GET"), ("/deliveries/d1", "GET"), ("/deliveries/d1/replay", "POST")]


@pytest.mark.parametrize(("path", "method"), PATHS)
def test_without_the_token_nothing_is_told(
    asked: Callable[..., Any], served: Webhooks, path: str, method: str
) -> None:
    reply = asked(served, path, method, token=None)
    assert (reply.status, reply.headers[b"www-authenticate"]) == (401, b"Bearer")
    for wrong in ("moon", "wrong", TOKEN[:-1], "\xe4" * 20):
        reply = asked(served, path, method, token=wrong)
        assert (reply.status, reply.said) == (403, {"reason": "the admin token is wrong"})
    reply = asked(served, path, method, token=None, query=f"token={TOKEN}")
    assert reply.status == 401
    assert asked(served, path, method, token="wrong").status == 403
    # Five wrong ones lock nobody out.
    assert asked(served, path, method).status != 403


@pytest.mark.parametrize(("path", "method"), PATHS)
def test_without_a_token_of_its_own_the_app_takes_deliveries_only(
    asked: Callable[..., Any],
    served: Webhooks,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    method: str,
) -> None:
    monkeypatch.delenv("HUBHOOKS_ADMIN_TOKEN")
    assert asked(served, path, method).status == (405 if method == "GET" else 401)


def test_a_token_that_is_no_good_says_so_and_opens_nothing(
    asked: Callable[..., Any], served: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", "moon")
    reply = asked(served, "/deliveries", token="moon")
    assert reply.status == 503
    assert "HUBHOOKS_ADMIN_TOKEN must be" in reply.said["reason"]


def test_the_list_can_be_narrowed_and_read_in_pages(
    asked: Callable[..., Any], served: Webhooks
) -> None:
    def ids(query: str) -> list[str]:
        said = asked(served, "/webhooks/deliveries", query=query).said
        return [one["id"] for one in said["deliveries"]]

    assert ids("") == ["d/2", "d1", "d0"]
    assert ids("scope=repo") == ids(f"repo={NAME}") == ids("before=d/2") == ["d1", "d0"]
    assert ids("state=failed") == ids("since=2100-01-01T00:00:00Z") == []
    assert ids("since=2020-01-01T00:00:00%2B01:00") == ids("since=2020-01-01T00:00:00+01:00") != []
    reply = asked(served, "/deliveries", query="limit=2")
    assert (len(reply.said["deliveries"]), reply.said["before"]) == (2, "d1")
    assert reply.headers[b"cache-control"] == b"no-store"
    assert asked(served, "/deliveries", query="limit=1&before=d1").said["before"] is None
    assert all("body" not in one for one in reply.said["deliveries"])


@pytest.mark.parametrize(
    "query",
    ["state=lost", "limit=0", "limit=501", "limit=x", "limit=99999999999999", "since=now",
     "limit=0000000019999", f"limit=1{'0' * 5000}",
     "since=2020-01-01", "page=1"],
)  # fmt: skip
def test_a_list_that_cannot_be_is_refused(
    asked: Callable[..., Any], served: Webhooks, query: str
) -> None:
    assert asked(served, "/deliveries", query=query).status == 400


def test_one_delivery_is_told_whole(asked: Callable[..., Any], served: Webhooks) -> None:
    said = asked(served, "/deliveries/d1").said
    assert (said["id"], said["body"]["repo"]["private"]) == ("d1", True)
    assert said["explanations"] == ["no handler is registered"]
    raw = {"raw_path": b"/deliveries/d%2F2"}
    assert asked(served, "/deliveries/d/2", **raw).said["id"] == "d/2"
    assert asked(served, "/deliveries/unknown").status == 404


@pytest.mark.parametrize(
    "content", [b"[" * 980 + b"]" * 980, b"[" * 100_000, b'{"n": NaN}', b"\xff"]
)
def test_what_is_no_event_is_told_as_json_all_the_same(
    asked: Callable[..., Any], served: Webhooks, content: bytes
) -> None:
    served.store.accept("odd", content, skipped="malformed")
    reply = asked(served, "/deliveries/odd")
    assert reply.status == 200
    json.dumps(reply.said, allow_nan=False)


def test_a_replay_that_is_cut_off_replays_nothing(
    ask: Callable[..., Any], served: Webhooks
) -> None:
    served.on("repo", name="one")(lambda event: None)
    chunks = (b'{"handlers": [', b"")
    headers = {"authorization": f"Bearer {TOKEN}"}
    asking = ask(
        served, chunks[0], headers=headers, path="/deliveries/d1/replay", stays=False, ends=False
    )
    assert asyncio.run(asking).status == 400
    asking = ask(
        served, b"", headers=headers, path="/deliveries/d1/replay", stays=False, ends=False
    )
    assert asyncio.run(asking).status == 400
    record = served.deliveries.get("d1")
    assert record is not None
    assert record.state == "unhandled"


@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_a_replay_whose_sender_goes_away_replays_nothing(
    serve: Any, served: Webhooks, parser: str
) -> None:
    served.on("repo", name="one")(lambda event: None)
    over = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await served(scope, receive, send)
        finally:
            if scope["type"] == "http":
                over.set()

    head = (
        "POST /deliveries/d1/replay HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Length: 40\r\n\r\n"
    )
    with serve(app, http=parser) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(head.encode())
        assert over.wait(PATIENCE)
    record = served.deliveries.get("d1")
    assert record is not None
    assert (record.state, record.runs, record.is_replay) == ("unhandled", [], False)


def test_a_replay_is_asked_for_by_post(asked: Callable[..., Any], served: Webhooks) -> None:
    def replay(delivery: str, body: bytes = b"") -> Any:
        return asked(served, f"/deliveries/{delivery}/replay", "POST", body=body)

    assert (replay("unknown").status, replay("d1").status) == (404, 409)
    heard: list[str] = []
    served.on("repo", name="one")(lambda event: heard.append(event.repo.name))
    served.on("repo", name="two")(lambda event: heard.append("two"))
    for wrong in (b"[]", b"x", b'{"handlers": "one"}', b'{"handlers": [1]}', b"[" * 10_000):
        assert replay("d1", wrong).status == 400
    assert replay("d1", b'{"handlers": ["three"]}').status == 409
    assert replay("d1", b"x" * 100_000).status == 413
    reply = replay("d1", b'{"handlers": ["one"]}')
    assert (reply.status, reply.said) == (202, {"delivery": "d1", "handlers": ["one"]})


@pytest.mark.parametrize(
    "path", ["/deliveries", "/deliveries/d1", "/deliveries/d1/replay/more", "/my-deliveries"]
)
def test_what_only_looks_similar_is_a_delivery(
    ask: Callable[..., Any], served: Webhooks, body: Callable[..., bytes], path: str
) -> None:
    async def deliver() -> Any:
        async with served.lifespan(None):
            headers = {"x-webhook-secret": "moon"}
            return await ask(served, body("repo.create"), headers=headers, path=path)

    assert asyncio.run(deliver()).said["status"] == "unhandled"
