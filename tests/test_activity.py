"""The deliveries as anonymous visitors and admins see them, and access to them."""

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
from hubhooks._samples import sample_json, with_overrides
from hubhooks._store.sqlite import SqliteStore
from hubhooks.admin.access import (
    AdminSessions,
    AdminTokenGuard,
    is_cross_site,
    is_space_owner,
)
from hubhooks.admin.delivery_json import delivery_json
from hubhooks.admin.queries import Activity, Links, Replayed, Row
from hubhooks.errors import BusyError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from hubhooks._store.base import DeliveryStore

TOKEN = "a long word of the admin"
NAME = "ada-labs/tide-gauges"


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", TOKEN)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class ActivityHarness(NamedTuple):
    """An activity with its store."""

    store: Any
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
        return self.store.accept(None, body, handlers, **facts, **more).id

    def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> Replayed:
        return asyncio.run(self.activity.replay(delivery_id, handlers))

    def end(self, delivery_id: str, handler: str, *how: str) -> None:
        self.store.finish_run(self.store.claim(delivery_id, handler), *how)
        self.store.flush()


@pytest.fixture(params=["memory", "disk"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ActivityHarness]:
    store: DeliveryStore = SqliteStore(
        ":memory:" if request.param == "memory" else tmp_path / "hubhooks.db"
    )
    store.open()
    store.recover()
    hooks = Webhooks("moon", deliveries=":memory:")
    woken: list[int] = []
    yield ActivityHarness(
        store, hooks, Activity(store, hooks, lambda: hooks.verifier, lambda: woken.append(1)), woken
    )
    store.close()


def test_row_names_the_discussion_unless_the_store_cannot_be_read(
    harness: ActivityHarness, body: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = body("discussion.create", discussion__num=7, discussion__title="tides")
    harness.put(given, scope="discussion")
    (delivery,) = harness.store.list()

    def fail(_: str) -> None:
        raise BusyError

    with monkeypatch.context() as patch:
        patch.setattr(harness.store, "get", fail)
        # A stream of changes goes on.
        assert harness.activity.row_json(delivery)["discussion"] is None
    row = harness.activity.row_json(delivery)
    assert row["discussion"] == {"num": 7, "title": "tides"}


# ---- anonymous visitors ------------------------------------------------------------------------

# Fields of the repository in the body, and if an anonymous visitor sees its name.
PRIVACY: dict[str, tuple[dict[str, Any], bool]] = {
    "public": ({"private": False}, True),
    "private": ({"private": True}, False),
    "not said": ({"private": None}, False),
    "of another type": ({"private": "false"}, False),
    "zero": ({"private": 0}, False),
}


@pytest.mark.parametrize("case", PRIVACY)
def test_anonymous_visitors_see_public_repositories_only(
    harness: ActivityHarness, body: Callable[..., bytes], case: str
) -> None:
    changes, is_public = PRIVACY[case]
    web = f"https://huggingface.co/datasets/{NAME}"
    given = json.loads(body("repo.create", repo__name=NAME, repo__url__web=web))
    given["repo"].update(changes)
    harness.put(json.dumps(given).encode(), "reply")
    (row,) = harness.activity.page(trusted=False).rows
    assert row.state == "queued"
    assert (row.event, row.repo) == (("repo create", NAME) if is_public else ("", ""))
    assert (row.id, row.handlers, row.reason) == ("", "", "")
    assert row.is_private is not is_public
    assert row.links.repo == (web if is_public else "")
    (row,) = harness.activity.page(trusted=True).rows
    assert (row.event, row.repo, row.handlers) == ("repo create", NAME, "reply")
    assert row.id
    assert not row.is_private


def test_anonymous_visitors_see_only_the_malformed_state(harness: ActivityHarness) -> None:
    harness.put(b'{"repo": {"private": false', skipped="malformed", reason="line 1", repo=NAME)
    (row,) = harness.activity.page(trusted=False).rows
    assert row == Row(row.at, "malformed")


def test_anonymous_visitors_see_only_names_of_the_body(
    harness: ActivityHarness, body: Callable[..., bytes]
) -> None:
    harness.put(body("repo.create", repo__name="ada-labs/other", repo__private=False), repo=NAME)
    (row,) = harness.activity.page(trusted=False).rows
    assert row.repo == ""


def test_repository_that_became_private_is_hidden(
    harness: ActivityHarness, body: Callable[..., bytes]
) -> None:
    harness.put(body("repo.create", repo__name=NAME, repo__private=False))
    harness.put(body("repo.create", repo__name=NAME, repo__private=True))
    rows = harness.activity.page(trusted=False).rows
    assert [(row.repo, row.is_private) for row in rows] == [("", True)] * 2


@pytest.mark.slow
def test_reused_id_is_checked_again(harness: ActivityHarness, body: Callable[..., bytes]) -> None:
    """The cache knows deliveries, not ids."""

    def receive(*, private: bool) -> None:
        content = body("repo.create", repo__name=NAME, repo__private=private)
        harness.store.accept("d1", content, (), "unhandled", repo=NAME)

    receive(private=False)
    assert harness.activity.page(trusted=False).rows[0].repo == NAME
    receive(private=True)
    deadline = time.monotonic() + PATIENCE
    while harness.activity.page(trusted=False).rows[0].repo:
        assert time.monotonic() < deadline


def test_only_admins_see_rejections(harness: ActivityHarness) -> None:
    harness.put(skipped="unhandled")
    harness.store.count_rejections(int(time.time() // 60), "secret wrong", 3)
    assert harness.activity.guard.check("wrong") == "wrong"
    assert harness.activity.overview(trusted=False) == ({"unhandled": 1}, {}, {})
    rejections = harness.activity.overview(trusted=True).rejections
    assert rejections["admin token wrong"] == 1
    assert rejections["secret wrong"] == 3


def test_pages_follow_each_other(harness: ActivityHarness) -> None:
    ids = [harness.put(skipped="unhandled") for _ in range(13)][::-1]
    first = harness.activity.page(trusted=True)
    assert ([row.id for row in first.rows], first.is_last) == (ids[:12], False)
    second = harness.activity.page(number=1, trusted=True)
    assert ([row.id for row in second.rows], second.is_last) == (ids[12:], True)
    for number, right in ((-5, 0), (10**9, 99)):
        assert harness.activity.page(number=number, trusted=True).number == right
    assert harness.activity.page("failed", trusted=True).rows == ()


# ---- access ------------------------------------------------------------------------------------


def make_guard(clock: Clock) -> AdminTokenGuard:
    return AdminTokenGuard(lambda: Verifier("moon"), clock)


def test_admin_token_is_accepted() -> None:
    check = make_guard(Clock()).check
    assert [check(word) for word in (TOKEN, f" {TOKEN}\n", TOKEN.upper(), "", "moon")] == [
        "right", "right", "wrong", "wrong", "wrong",
    ]  # fmt: skip
    assert check("ä" * 20) == "wrong"


@pytest.mark.parametrize("token", ["\ud800" * 20, "x" * 5000, "\0" * 20])
def test_other_tokens_are_rejected(token: str) -> None:
    assert make_guard(Clock()).check(token) == "wrong"


def test_wrong_tokens_never_block_the_right_one(logged: Callable[[], list[str]]) -> None:
    clock = Clock()
    guard = make_guard(clock)
    assert [guard.check("wrong") for _ in range(1000)] == ["wrong"] * 1000
    assert [guard.check(TOKEN) for _ in range(10)] == ["right"] * 10
    assert sum(guard.wrong.values()) == 1000
    # Wrong tokens cannot fill the log.
    assert len(logged()) == 2
    assert TOKEN not in str(logged())
    clock.now += 3600
    guard.check("wrong")
    assert len(guard.wrong) == 1


def test_without_a_token_the_guard_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUBHOOKS_ADMIN_TOKEN")
    guard = make_guard(Clock())
    assert not guard.is_on
    assert guard.check("") == guard.check("None") == "off"


@pytest.mark.parametrize("token", ["short", "ä" * 20, "the webhook's own secret"])
def test_unusable_token_is_an_error(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", token)
    guard = AdminTokenGuard(lambda: Verifier("the webhook's own secret"))
    with pytest.raises(ConfigError, match="HUBHOOKS_ADMIN_TOKEN") as raised:
        guard.check(token)
    assert token not in str(raised.value)


def test_session_key_is_valid_in_its_session_for_hours() -> None:
    clock = Clock()
    sessions = AdminSessions(clock)
    key = sessions.issue("mine")
    assert sessions.is_valid(key, "mine")
    # Both the key and the session are needed.
    assert not sessions.is_valid(key, "other")
    assert not sessions.is_valid("", "mine")
    assert not sessions.is_valid("mine", "mine")
    assert not sessions.is_valid(key[:-1], "mine")
    assert not sessions.is_valid("", "")
    clock.now += 9 * 60 * 60
    assert not sessions.is_valid(key, "mine")


def test_session_keys_are_revoked_and_the_oldest_dropped() -> None:
    sessions = AdminSessions(Clock())
    first, second = sessions.issue("mine"), sessions.issue("mine")
    assert first != second
    sessions.revoke(first)
    sessions.revoke("unknown")
    assert not sessions.is_valid(first, "mine")
    for _ in range(1000):
        last = sessions.issue("other")
    assert sessions.is_valid(last, "other")
    assert not sessions.is_valid(second, "mine")


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
        # Gradio signs with a public key, or simulates the login.
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
def test_signed_login_identifies_the_owner_of_the_space(
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
def test_page_of_another_site_is_recognised(headers: dict[str, str], is_cross: bool) -> None:
    assert is_cross_site(headers) is is_cross


# ---- details and Replay ------------------------------------------------------------------------


def test_details_show_reason_and_replayable_handlers(
    harness: ActivityHarness, body: Callable[..., bytes]
) -> None:
    @harness.hooks.on("repo")
    def added_since(event: Any) -> None: ...

    delivery = harness.put(body("repo.create"), "reply")
    assert harness.activity.details("unknown") is None
    details = harness.activity.details(delivery)
    assert details is not None
    assert details.replay_blocked_reason == "its handlers have not finished yet"
    harness.end(delivery, "reply", "failed", "no tide", "Traceback")
    details = harness.activity.details(delivery)
    assert details is not None
    assert details.replay_blocked_reason == ""
    name = "test_details_show_reason_and_replayable_handlers.<locals>.added_since"
    assert details.handlers == ("reply", name)
    assert any(name in line for line in details.explanations)
    assert details.payload["event"] == {"action": "create", "scope": "repo"}
    assert details.links.repo.startswith("https://huggingface.co/")
    data = delivery_json(details.delivery, is_whole=True)
    assert data["runs"][0]["error"] == "no tide"
    assert data["body"] == json.loads(body("repo.create"))
    assert "body" not in delivery_json(details.delivery)
    json.dumps(data)


HUB = "https://huggingface.co"
GAUGES = f"{HUB}/datasets/ada-labs/tide-gauges"
# Changes of a body, and the links that follow: to the repository and to the discussion.
LINKS: dict[str, tuple[str, dict[str, Any], tuple[str, str]]] = {
    "model": ("repo.create", {}, (f"{HUB}/ada-labs/tide-forecast", "")),
    "canonical model": ("repo.create.canonical", {}, (f"{HUB}/tidebert", "")),
    "bucket": ("repo.create.bucket", {}, (f"{HUB}/buckets/ada-labs/gauge-uploads", "")),
    "no url": ("repo.create.v2", {}, (f"{HUB}/datasets/ada-labs/wave-heights", "")),
    "no url, new type": ("repo.create.v2", {"repo.type": "kernel"}, ("", "")),
    "new type": (
        "repo.create",
        {"repo.type": "kernel", "repo.url.web": f"{HUB}/kernels/ada-labs/tide-forecast"},
        (f"{HUB}/kernels/ada-labs/tide-forecast", ""),
    ),
    "discussion": (
        "discussion.comment.create",
        {},
        (GAUGES, f"{GAUGES}/discussions/7"),
    ),
    "discussion's url is not used": (
        "discussion.create",
        {"discussion.url.web": "javascript:alert(1)"},
        (GAUGES, f"{GAUGES}/discussions/7"),
    ),
    "no number": (
        "discussion.create", {"discussion.num": 0}, (GAUGES, ""),
    ),
    "script": ("repo.create", {"repo.url.web": "javascript:alert(1)"}, ("", "")),
    "other host": ("repo.create", {"repo.url.web": "https://eve.co/ada-labs/x"}, ("", "")),
    "user name": (
        "repo.create", {"repo.url.web": f"{HUB}@eve.co/ada-labs/tide-forecast"}, ("", ""),
    ),
    "other repository": ("repo.create", {"repo.url.web": f"{HUB}/ada-labs/secret"}, ("", "")),
    "query": ("repo.create", {"repo.url.web": f"{HUB}/ada-labs/tide-forecast?x"}, ("", "")),
    "line break": ("repo.create", {"repo.url.web": f"{HUB}/ada-labs/tide-forecast\n"}, ("", "")),
    "parent folder": ("repo.create.v2", {"repo.name": "../settings"}, ("", "")),
    "two slashes": ("repo.create.v2", {"repo.name": "a/b/c"}, ("", "")),
    "markup": ("repo.create.v2", {"repo.name": 'ada/"><img>'}, ("", "")),
}  # fmt: skip


@pytest.mark.parametrize("case", LINKS)
def test_links_lead_to_the_named_pages_of_the_hub(harness: ActivityHarness, case: str) -> None:
    sample, changes, links = LINKS[case]
    given = with_overrides(sample_json(sample), changes)
    delivery = harness.put(json.dumps(given).encode(), repo=given["repo"]["name"])
    details = harness.activity.details(delivery)
    assert details is not None
    assert (details.links.repo, details.links.discussion) == links
    for trusted in (False, True):
        (row,) = harness.activity.page(trusted=trusted).rows
        is_shown = trusted or given["repo"]["private"] is False
        assert row.links == (details.links if is_shown else Links())


def test_hide_unhandled_lists_all_other_states(harness: ActivityHarness) -> None:
    kept: list[str] = []
    for number in range(14):
        harness.put(skipped="unhandled")
        kept.append(harness.put(b"{}", "one"))
        if number % 2:
            harness.end(kept[-1], "one", "failed")
    for trusted in (True, False):
        first = harness.activity.page(hide_unhandled=True, trusted=trusted)
        second = harness.activity.page(number=1, hide_unhandled=True, trusted=trusted)
        states = [row.state for row in (*first.rows, *second.rows)]
        assert states == ["failed", "queued"] * 7
        assert (first.is_last, second.is_last) == (False, True)
    ids = [row.id for row in harness.activity.page(hide_unhandled=True, trusted=True).rows]
    assert ids == kept[:1:-1]
    unhandled = harness.activity.page("unhandled", hide_unhandled=True, trusted=True)
    assert len(unhandled.rows) == 12


def test_replay_runs_finished_or_named_handlers(
    harness: ActivityHarness, body: Callable[..., bytes]
) -> None:
    delivery = harness.put(body("repo.create"), "one", "two")
    assert harness.replay(delivery).blocked_reason == "its handlers have not finished yet"
    harness.end(delivery, "one", "succeeded")
    harness.end(delivery, "two", "failed")
    assert harness.replay("unknown").blocked_reason == "there is no such delivery"
    assert "does not match this delivery" in harness.replay(delivery, ["three"]).blocked_reason
    assert harness.woken == []
    assert harness.replay(delivery, ["two"]) == (("two",), "")
    assert harness.woken == [1]
    assert harness.store.get(delivery).run("one").state == "succeeded"
    harness.end(delivery, "two", "succeeded")
    assert harness.replay(delivery).handlers == ("one", "two")


@pytest.mark.parametrize("harness", ["disk"], indirect=True)
def test_replay_waits_while_another_process_writes(
    harness: ActivityHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = harness.put(b"{}", "one")
    harness.end(delivery, "one", "failed")
    other = sqlite3.connect(harness.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    tries: list[str] = []
    replay = harness.store.replay

    def replay_and_let_go(*arguments: Any) -> Any:
        tries.append(delivery)
        try:
            return replay(*arguments)
        except BusyError:
            other.execute("ROLLBACK")
            raise

    monkeypatch.setattr(harness.store, "replay", replay_and_let_go)
    assert harness.replay(delivery) == (("one",), "")
    assert len(tries) == 2
    assert harness.woken == [1]
    other.close()


def test_replay_runs_handlers_that_match_now(
    harness: ActivityHarness, body: Callable[..., bytes]
) -> None:
    delivery = harness.put(body("repo.create"))
    assert harness.replay(delivery).blocked_reason == "no handler matches it"
    harness.hooks.on("repo", name="added since")(lambda event: None)
    assert harness.replay(delivery) == (("added since",), "")


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b'{"n": 9007199254740993}', {"n": "9007199254740993"}),
        (b'{"n": -1, "x": 0.5, "y": true, "z": null}', {"n": -1, "x": 0.5, "y": True, "z": None}),
        (b'{"n": NaN, "i": 1e999}', {"n": "nan", "i": "inf"}),
        (b'{"\\ud83d": "\\ud83d"}', {"\\ud83d": "\\ud83d"}),
        (b"[" * 70 + b"]" * 70, "(too deep to show here)"),
        (b"\xff no JSON", "\\xff no JSON"),
        (b'{"x": "' + b"x" * 300_000 + b'"}', {"(too long to show here)": "300009 bytes"}),
    ],
)  # fmt: skip
def test_every_payload_is_shown(harness: ActivityHarness, content: bytes, shown: object) -> None:
    details = harness.activity.details(harness.put(content, skipped="malformed"))
    assert details is not None
    payload = details.payload
    while isinstance(payload, list):
        payload = payload[0]
    assert payload == shown
    json.dumps(payload, allow_nan=False).encode("utf-8")


# ---- as JSON over HTTP -------------------------------------------------------------------------


@pytest.fixture
def asked(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Send a request to an app with the admin token."""

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
def test_api_requires_the_token(
    asked: Callable[..., Any], served: Webhooks, path: str, method: str
) -> None:
    reply = asked(served, path, method, token=None)
    assert (reply.status, reply.headers[b"www-authenticate"]) == (401, b"Bearer")
    for wrong in ("moon", "wrong", TOKEN[:-1], "\xe4" * 20):
        reply = asked(served, path, method, token=wrong)
        assert (reply.status, reply.data) == (403, {"reason": "the admin token is wrong"})
    reply = asked(served, path, method, token=None, query=f"token={TOKEN}")
    assert reply.status == 401
    assert asked(served, path, method, token="wrong").status == 403
    # Five wrong tokens do not block the right one.
    assert asked(served, path, method).status != 403


@pytest.mark.parametrize(("path", "method"), PATHS)
def test_app_without_admin_token_has_no_api(
    asked: Callable[..., Any],
    served: Webhooks,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    method: str,
) -> None:
    monkeypatch.delenv("HUBHOOKS_ADMIN_TOKEN")
    assert asked(served, path, method).status == (405 if method == "GET" else 401)


def test_unusable_token_is_503_with_the_reason(
    asked: Callable[..., Any], served: Webhooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", "moon")
    reply = asked(served, "/deliveries", token="moon")
    assert reply.status == 503
    assert "HUBHOOKS_ADMIN_TOKEN must be" in reply.data["reason"]


def test_list_has_filters_and_pages(asked: Callable[..., Any], served: Webhooks) -> None:
    def ids(query: str) -> list[str]:
        data = asked(served, "/webhooks/deliveries", query=query).data
        return [one["id"] for one in data["deliveries"]]

    assert ids("") == ["d/2", "d1", "d0"]
    assert ids("scope=repo") == ids(f"repo={NAME}") == ids("before=d/2") == ["d1", "d0"]
    assert ids("state=failed") == ids("since=2100-01-01T00:00:00Z") == []
    assert ids("since=2020-01-01T00:00:00%2B01:00") == ids("since=2020-01-01T00:00:00+01:00") != []
    reply = asked(served, "/deliveries", query="limit=2")
    assert (len(reply.data["deliveries"]), reply.data["before"]) == (2, "d1")
    assert reply.headers[b"cache-control"] == b"no-store"
    assert asked(served, "/deliveries", query="limit=1&before=d1").data["before"] is None
    assert all("body" not in one for one in reply.data["deliveries"])


@pytest.mark.parametrize(
    "query",
    ["state=lost", "limit=0", "limit=501", "limit=x", "limit=99999999999999", "since=now",
     "limit=0000000019999", f"limit=1{'0' * 5000}",
     "since=2020-01-01", "page=1"],
)  # fmt: skip
def test_invalid_list_query_is_rejected(
    asked: Callable[..., Any], served: Webhooks, query: str
) -> None:
    assert asked(served, "/deliveries", query=query).status == 400


def test_single_delivery_has_all_details(asked: Callable[..., Any], served: Webhooks) -> None:
    data = asked(served, "/deliveries/d1").data
    assert (data["id"], data["body"]["repo"]["private"]) == ("d1", True)
    assert data["explanations"] == ["no handler is registered"]
    raw = {"raw_path": b"/deliveries/d%2F2"}
    assert asked(served, "/deliveries/d/2", **raw).data["id"] == "d/2"
    assert asked(served, "/deliveries/unknown").status == 404


@pytest.mark.parametrize(
    "content", [b"[" * 980 + b"]" * 980, b"[" * 100_000, b'{"n": NaN}', b"\xff"]
)
def test_malformed_delivery_is_shown_as_json(
    asked: Callable[..., Any], served: Webhooks, content: bytes
) -> None:
    served.store.accept("odd", content, skipped="malformed")
    reply = asked(served, "/deliveries/odd")
    assert reply.status == 200
    json.dumps(reply.data, allow_nan=False)


def test_cut_off_replay_request_replays_nothing(ask: Callable[..., Any], served: Webhooks) -> None:
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
    delivery = served.deliveries.get("d1")
    assert delivery is not None
    assert delivery.state == "unhandled"


@pytest.mark.parametrize("parser", ["h11", "httptools"])
def test_disconnected_replay_request_replays_nothing(
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
    delivery = served.deliveries.get("d1")
    assert delivery is not None
    assert (delivery.state, delivery.runs, delivery.is_replay) == ("unhandled", [], False)


def test_replay_requires_post(asked: Callable[..., Any], served: Webhooks) -> None:
    def replay(delivery: str, body: bytes = b"") -> Any:
        return asked(served, f"/deliveries/{delivery}/replay", "POST", body=body)

    assert (replay("unknown").status, replay("d1").status) == (404, 409)
    ran: list[str] = []
    served.on("repo", name="one")(lambda event: ran.append(event.repo.name))
    served.on("repo", name="two")(lambda event: ran.append("two"))
    for wrong in (b"[]", b"x", b'{"handlers": "one"}', b'{"handlers": [1]}', b"[" * 10_000):
        assert replay("d1", wrong).status == 400
    assert replay("d1", b'{"handlers": ["three"]}').status == 409
    assert replay("d1", b"x" * 100_000).status == 413
    reply = replay("d1", b'{"handlers": ["one"]}')
    assert (reply.status, reply.data) == (202, {"delivery": "d1", "handlers": ["one"]})


@pytest.mark.parametrize(
    "path", ["/deliveries", "/deliveries/d1", "/deliveries/d1/replay/more", "/my-deliveries"]
)
def test_path_similar_to_the_api_takes_deliveries(
    ask: Callable[..., Any], served: Webhooks, body: Callable[..., bytes], path: str
) -> None:
    async def deliver() -> Any:
        async with served.lifespan(None):
            headers = {"x-webhook-secret": "moon"}
            return await ask(served, body("repo.create"), headers=headers, path=path)

    assert asyncio.run(deliver()).data["status"] == "unhandled"
