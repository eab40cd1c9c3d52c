"""`hooks.admin`: the page, its JSON API and its stream of changes, over real servers."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest
from servers import PATIENCE, serve, started, wait_until
from starlette.applications import Starlette
from starlette.routing import Mount

from hubhooks import CommentEvent, ContentEvent, HubEvent, Ignore, Webhooks, __version__
from hubhooks._samples import compact, sample_json, sample_names, with_overrides
from hubhooks._store.sqlite import SqliteStore
from hubhooks.admin.access import AdminTokenGuard
from hubhooks.admin.api import SendRequest, StoreSource
from hubhooks.admin.app import AdminApp, check_origin, security_headers
from hubhooks.admin.handlers_json import explain_json
from hubhooks.admin.source_lines import changed_lines
from hubhooks.errors import PayloadError
from hubhooks.webhooks import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN = "a long word of the admin"
ADMIN = {"Authorization": f"Bearer {TOKEN}"}
COMMENT = compact(sample_json("discussion.comment.create"))
PUSH = compact(sample_json("repo.content.update"))
STATES = [
    "failed", "stuck", "running", "retrying", "queued", "malformed", "succeeded", "ignored",
    "unhandled",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", TOKEN)


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.content)


class Site:
    """A served app with `hooks.admin` at `/hubhooks`."""

    def __init__(
        self, port: int, hooks: Any = None, root: str = "/hubhooks", token: str = TOKEN
    ) -> None:
        self.port = port
        self.admin = {"Authorization": f"Bearer {token}"}
        self.hooks = hooks
        self.root = root

    def request(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            with connection.getresponse() as response:
                given = {name.lower(): value for name, value in response.getheaders()}
                return Response(response.status, given, response.read())
        finally:
            connection.close()

    def api(self, path: str, method: str = "GET", body: object = None, **query: object) -> Response:
        """Send a request to the API with the admin token."""
        query_text = f"?{urlencode(query)}" if query else ""
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return self.request(f"{self.root}/api/{path}{query_text}", method, content, **self.admin)

    def deliver(self, body: bytes, delivery_id: str) -> None:
        headers = {"X-Webhook-Secret": "moon", "Webhook-Id": delivery_id}
        assert self.request("/hub/", "POST", body, **headers).status in {200, 202}

    def state(self, delivery_id: str) -> str:
        return str(self.api(f"deliveries/{delivery_id}").data["state"])

    def wait(self, delivery_id: str, *states: str) -> None:
        wait_until(lambda: self.state(delivery_id) in states)

    def ids(self, **query: object) -> list[str]:
        return [row["id"] for row in self.api("deliveries", **query).data["deliveries"]]

    @contextmanager
    def stream(self, after: int | None = None) -> Iterator[Stream]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        query = "" if after is None else f"?after={after}"
        connection.request("GET", f"{self.root}/api/events{query}", headers=self.admin)
        try:
            yield Stream(connection.getresponse())
        finally:
            assert connection.sock is not None
            connection.sock.shutdown(2)
            connection.close()


class Event(NamedTuple):
    number: int
    kind: str
    data: Any


class Stream:
    """An open stream of events."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response

    def __next__(self) -> Event:
        fields: dict[str, str] = {}
        while True:
            line = self.response.readline().decode().rstrip("\n")
            if not line and fields:
                return Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            if not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value

    def find(self, kind: str, is_right: Callable[[Any], bool] = lambda data: True) -> Event:
        """Skip events up to one of a kind."""
        while True:
            event = next(self)
            if event.kind == kind and is_right(event.data):
                return event

    def find_delivery(self, delivery_id: str, state: str) -> Event:
        return self.find("delivery", lambda row: (row["id"], row["state"]) == (delivery_id, state))


def make_hooks(deliveries: object = ":memory:") -> Webhooks:
    hooks = Webhooks("moon", deliveries=str(deliveries))
    hooks.fixed = False

    @hooks.on_comment(mention="my-bot", retries=2, backoff=600, timeout=30, when=lambda e: True)
    async def reply(event: CommentEvent) -> None:
        """Do nothing."""

    @hooks.on("repo.content", repo="ada-labs/*", concurrency=2)
    @hooks.on("repo", private=True)
    def retrain(event: Any, context: Any) -> None:
        if not hooks.fixed:
            raise ValueError("no GPU: " + "x" * 2000)

    @hooks.on("repo.config")
    def ignore(event: Any) -> None:
        raise Ignore

    return hooks


@contextmanager
def served(hooks: Webhooks) -> Iterator[Site]:
    app = Starlette(
        routes=[Mount("/hubhooks", hooks.admin), Mount("/hub", hooks)], lifespan=hooks.lifespan
    )
    with serve(app) as port:
        yield Site(port, hooks)


@pytest.fixture(params=["memory", "disk"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    hooks = make_hooks(":memory:" if request.param == "memory" else tmp_path / "hubhooks.db")
    with served(hooks) as site:
        yield site


@pytest.fixture(scope="module")
def fixed_site() -> Iterator[Site]:
    """A site for tests that change nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUBHOOKS_ADMIN_TOKEN", TOKEN)
        with served(make_hooks()) as site:
            site.deliver(COMMENT, "d1")
            site.deliver(PUSH, "d2")
            site.deliver(b"{", "d3")
            site.deliver(compact(sample_json("repo.move")), "d4")
            site.deliver(compact(sample_json("repo.config.update")), "d/5")
            site.wait("d1", "succeeded")
            site.wait("d2", "failed")
            site.wait("d%2F5", "ignored")
            yield site


# ---- the page ----------------------------------------------------------------------------------


def test_page_is_served_without_a_token(fixed_site: Site) -> None:
    index = fixed_site.request("/hubhooks/")
    assert (index.status, index.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert index.content == fixed_site.request("/hubhooks/index.html").content
    assert b"hubhooks" in index.content
    head = fixed_site.request("/hubhooks/", "HEAD")
    assert (head.status, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(index.content))


@pytest.mark.parametrize(
    "path",
    ["nothing.js", "../admin/app.py", "..%2fadmin%2fapp.py", "%2e%2e/admin/app.py", ".hidden.js",
     "vendor", "index.html/x.js", "app.py", "//index.html", "index.html%00.js", "x" * 5000],
)  # fmt: skip
def test_only_files_of_the_page_are_served(fixed_site: Site, path: str) -> None:
    response = fixed_site.request(f"/hubhooks/{path}")
    assert (response.status, response.content) == (404, b"")


def test_page_serves_no_other_method(fixed_site: Site) -> None:
    response = fixed_site.request("/hubhooks/", "POST", b"x")
    assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")


def test_path_of_the_mount_redirects_to_the_page(fixed_site: Site) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["root_path"] = "/tools/hooks"
        await fixed_site.hooks.admin(scope, receive, send)

    with serve(app, lifespan="off") as port:
        response = Site(port).request("/tools/hooks")
        assert (response.status, response.headers["location"]) == (308, "hooks/")
        assert Site(port).request("/tools/hooks/").status == 200
        assert Site(port, root="/tools/hooks").api("deliveries/d%2F5").data["id"] == "d/5"


@pytest.mark.parametrize("prefix", ["", "/proxy"])
def test_page_behind_a_proxy_that_removes_its_prefix_or_not(fixed_site: Site, prefix: str) -> None:
    # As `FastAPI(root_path="/proxy")`.
    inner = Starlette(routes=[Mount("/hubhooks", fixed_site.hooks.admin)])

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": "/proxy"}, receive, send)

    with serve(app, lifespan="off") as port:
        site = Site(port, root=f"{prefix}/hubhooks")
        assert site.request(f"{site.root}/").status == 200
        assert site.request(f"{site.root}/app.js").status == 200
        assert site.api("deliveries/d%2F5").data["id"] == "d/5"


# ---- access ------------------------------------------------------------------------------------

READS = (
    "deliveries", "deliveries/d1", "deliveries/d1/attempts", "handlers", "samples", "stats",
    "events", "app", "ready", "metrics", "nothing",
)  # fmt: skip
WRITES = ("deliveries/d1/replay", "explain", "send")
PATHS = [*((path, "GET") for path in READS), *((path, "POST") for path in WRITES)]


@pytest.mark.parametrize(("path", "method"), PATHS)
def test_api_requires_the_token(path: str, method: str) -> None:
    with served(make_hooks()) as site:
        response = site.request(f"/hubhooks/api/{path}?token={quote(TOKEN)}", method)
        assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
        assert response.content == b""
        for wrong in ("moon", TOKEN[:-1], f"{TOKEN}x"):
            headers = {"Authorization": f"Bearer {wrong}"}
            response = site.request(f"/hubhooks/api/{path}", method, **headers)
            assert (response.status, response.content) == (403, b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:1"},
        {"Referer": "http://evil.example/page"},
    ],
)
def test_other_origins_are_rejected(fixed_site: Site, headers: dict[str, str]) -> None:
    for path, method in PATHS:
        response = fixed_site.request(f"/hubhooks/api/{path}", method, **ADMIN, **headers)
        assert (response.status, response.content) == (403, b"")


def test_own_origin_is_accepted(fixed_site: Site) -> None:
    own = f"http://127.0.0.1:{fixed_site.port}"
    for headers in (
        {"Origin": own},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": own, "X-Forwarded-Host": "evil.example"},
    ):
        assert fixed_site.request("/hubhooks/api/app", **ADMIN, **headers).status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200),
        ("[::1]", 200), ("evil.example", 421), ("evil.example:8000", 421), ("127.0.0.1.evil", 421),
        ("localhost.evil.example", 421), ("", 421), ("::1", 421),
    ],
)  # fmt: skip
def test_local_app_serves_local_hosts_only(fixed_site: Site, host: str, status: int) -> None:
    app = AdminApp(fixed_site.hooks.admin.api.source, local_only=True)
    with serve(app, lifespan="off") as port:
        for path in ("/", "/api/app"):
            headers = {**ADMIN, "Host": host, "X-Forwarded-Host": "localhost"}
            response = Site(port).request(path, **headers)
            assert response.status == status
            assert set(security_headers()) <= header_pairs(response)


def test_redirect_of_the_mount_needs_a_local_host(fixed_site: Site) -> None:
    admin = AdminApp(fixed_site.hooks.admin.api.source, local_only=True)

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await admin({**scope, "root_path": "/dev"}, receive, send)

    with serve(mounted, lifespan="off") as port:
        assert Site(port).request("/dev", Host="localhost").status == 308
        assert Site(port).request("/dev", Host="evil.example").status == 421


def test_check_origin_needs_one_host() -> None:
    def check(*headers: tuple[bytes, bytes], local_only: bool = True) -> int:
        return check_origin({"headers": headers}, local_only=local_only)

    assert check((b"host", b"localhost"), (b"host", b"localhost")) == 421
    assert check() == 421
    assert check(local_only=False) == 0
    assert check((b"host", b"a.example"), (b"origin", b"https://a.example"), local_only=False) == 0
    assert check((b"host", b"a.example"), (b"host", b"b.example"), local_only=False) == 403


def header_pairs(response: Response) -> set[tuple[bytes, bytes]]:
    return {(name.encode(), value.encode()) for name, value in response.headers.items()}


@pytest.mark.parametrize(
    ("path", "method"),
    [("", "GET"), ("nothing", "GET"), ("", "POST"), *((f"api/{p}", m) for p, m in PATHS[:6]),
     ("api/nothing", "GET"), ("api/explain", "POST"), ("api/stats", "PUT")],
)  # fmt: skip
def test_every_response_has_the_security_headers(fixed_site: Site, path: str, method: str) -> None:
    for headers in ({}, ADMIN, {**ADMIN, "Origin": "http://evil.example"}):
        response = fixed_site.request(f"/hubhooks/{path}", method, **headers)
        assert set(security_headers()) <= header_pairs(response)
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in policy


def test_stream_has_the_security_headers(fixed_site: Site) -> None:
    with fixed_site.stream() as stream:
        headers = stream.response.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        for name, value in security_headers():
            assert headers[name.decode()] == value.decode()


@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [
        (None, 404, "the admin page is closed: set HUBHOOKS_ADMIN_TOKEN"),
        ("", 404, "the admin page is closed: set HUBHOOKS_ADMIN_TOKEN"),
        ("short", 503, "the admin page is closed: HUBHOOKS_ADMIN_TOKEN must be 16"),
    ],
)
def test_app_without_a_token_is_closed(
    monkeypatch: pytest.MonkeyPatch,
    logged: Callable[[], list[str]],
    token: str | None,
    status: int,
    reason: str,
) -> None:
    if token is None:
        monkeypatch.delenv("HUBHOOKS_ADMIN_TOKEN")
    else:
        monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", token)
    with served(make_hooks()) as site:
        for path in ("", "index.html", "api/deliveries", "api/events"):
            response = site.request(f"/hubhooks/{path}", Authorization=f"Bearer {token}")
            assert (response.status, response.content) == (status, b"")
            assert set(security_headers()) <= header_pairs(response)
    assert len([line for line in logged() if line.startswith(reason)]) == 1


def test_right_token_opens_the_page_after_wrong_ones(site: Site) -> None:
    for _ in range(5):
        site.request("/hubhooks/api/app", Authorization="Bearer wrong")
    assert site.api("app").status == 200
    assert site.api("stats").data["rejections"]["admin token wrong"] == 5


def test_search_is_not_in_the_access_log(
    fixed_site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "uvicorn.access")
    fixed_site.api("deliveries", q="private-name")
    assert "private-name" not in caplog.text


# ---- deliveries --------------------------------------------------------------------------------


def test_list_has_rows_without_bodies(fixed_site: Site) -> None:
    data = fixed_site.api("deliveries").data
    assert list(data) == ["deliveries", "before", "total"]
    assert [row["id"] for row in data["deliveries"]] == ["d/5", "d4", "d3", "d2", "d1"]
    assert (data["before"], data["total"]) == (None, 5)
    row = data["deliveries"][3]
    assert "body" not in row
    assert "headers" not in row
    assert (row["state"], row["repo"]) == ("failed", "ada-labs/tide-gauges")
    # A long error is cut.
    error = row["runs"][0]["error"]
    assert error.startswith("ValueError: no GPU")
    assert len(error) <= 500


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"q": "GPU valueerror"}, ["d2"]),
        ({"q": "retrain valueerror"}, ["d2"]),
        # The reason of an unhandled delivery names each handler.
        ({"q": "retrain"}, ["d4", "d2"]),
        ({"q": "Failed"}, ["d2"]),
        ({"q": "ADA-labs Discussion.Comment.create"}, ["d1"]),
        ({"q": "D1"}, ["d1"]),
        ({"q": "malformed"}, ["d3"]),
        ({"q": "repo.config.update ignore"}, ["d/5"]),
        ({"q": "reply failed"}, []),
        ({"q": "100%"}, []),
        ({"q": "d_"}, []),
        ({"q": "\\"}, []),
        ({"q": "' OR 1=1 --"}, []),
        ({"q": "   "}, ["d/5", "d4", "d3", "d2", "d1"]),
        ({"state": "failed"}, ["d2"]),
        ({"scope": "discussion.comment"}, ["d1"]),
        ({"repo": "ada-labs/tide-gauges", "state": "succeeded"}, ["d1"]),
        ({"handler": "make_hooks.<locals>.reply"}, ["d1"]),
        ({"handler": "unknown"}, []),
        ({"event": "discussion.comment"}, ["d1"]),
        ({"event": "discussion.comment.create"}, ["d1"]),
        ({"event": "repo.config.update"}, ["d/5"]),
        ({"event": "repo.config"}, ["d/5"]),
        ({"event": "repo.move"}, ["d4"]),
        ({"event": "nothing"}, []),
        ({"since": "2020-01-01T00:00:00Z", "state": "failed"}, ["d2"]),
        ({"since": "2100-01-01T00:00:00Z"}, []),
        ({"before": "d3"}, ["d2", "d1"]),
        ({"before": "d3", "q": "d"}, ["d2", "d1"]),
    ],
)  # fmt: skip
def test_list_has_filters(fixed_site: Site, query: dict[str, str], ids: list[str]) -> None:
    assert fixed_site.ids(**query) == ids


def test_list_has_pages_with_the_total(fixed_site: Site) -> None:
    data = fixed_site.api("deliveries", limit=2).data
    assert (len(data["deliveries"]), data["before"], data["total"]) == (2, "d4", 5)
    data = fixed_site.api("deliveries", limit=2, before="d4").data
    assert ([row["id"] for row in data["deliveries"]], data["before"]) == (["d3", "d2"], "d2")
    # The total counts all pages.
    assert data["total"] == 5
    assert fixed_site.api("deliveries", q="ada-labs", limit=1).data["total"] == 4


@pytest.mark.parametrize(
    "query",
    [{"state": "lost"}, {"limit": "0"}, {"limit": "501"}, {"since": "now"}, {"page": "1"},
     {"q": "x" * 257}],
)  # fmt: skip
def test_wrong_query_is_400(fixed_site: Site, query: dict[str, str]) -> None:
    response = fixed_site.api("deliveries", **query)
    assert (response.status, list(response.data)) == (400, ["reason"])


def test_delivery_is_shown_in_full(fixed_site: Site) -> None:
    shown = fixed_site.api("deliveries/d2").data
    assert shown["body"]["repo"]["name"] == "ada-labs/tide-gauges"
    assert shown["handlers"] == ["make_hooks.<locals>.retrain"]
    assert len(shown["explanations"]) == 3
    assert "Traceback" in shown["runs"][0]["traceback"]
    assert ["host", f"127.0.0.1:{fixed_site.port}"] in shown["headers"] or shown["headers"] == []
    assert fixed_site.api("deliveries/d%2F5").data["id"] == "d/5"
    assert fixed_site.api("deliveries/nothing").status == 404
    assert fixed_site.api("deliveries/d1/nothing").status == 404


def test_attempts_keep_the_first_error(site: Site) -> None:
    site.deliver(PUSH, "d1")
    site.wait("d1", "failed")
    site.hooks.fixed = True
    name = "make_hooks.<locals>.retrain"
    response = site.api("deliveries/d1/replay", "POST", {"handlers": [name]})
    assert (response.status, response.data) == (202, {"delivery": "d1", "handlers": [name]})
    site.wait("d1", "succeeded")
    first, second = site.api("deliveries/d1/attempts").data["attempts"]
    assert list(first) == [
        "handler", "attempt", "state", "started_at", "finished_at", "error", "traceback", "output",
        "result", "pid", "code",
    ]  # fmt: skip
    assert (first["handler"], first["attempt"], first["state"]) == (name, 1, "failed")
    assert "ValueError" in first["traceback"]
    assert (second["attempt"], second["state"], second["error"]) == (2, "succeeded", "")
    assert (first["output"], first["result"]) == (None, None)
    # The leader of a store in memory has no version of its code.
    assert site.api("deliveries/d1/attempts").data["code"] == first["code"]
    assert site.api("deliveries/nothing/attempts").status == 404


def test_attempts_have_the_recorded_output(tmp_path: Path) -> None:
    hooks = make_hooks(tmp_path / "hubhooks.db")
    with served(hooks) as site:
        site.deliver(COMMENT, "d1")
        site.wait("d1", "succeeded")
        with closing(sqlite3.connect(tmp_path / "hubhooks.db", timeout=PATIENCE)) as store, store:
            store.execute("UPDATE attempts SET output = 'printed', result = '42'")
        (attempt,) = site.api("deliveries/d1/attempts").data["attempts"]
        assert (attempt["output"], attempt["result"]) == ("printed", "42")


def test_changed_lines_are_read_in_the_folder_only(tmp_path: Path) -> None:
    folder, outside = tmp_path / "app", tmp_path / "secret.py"
    folder.mkdir()
    outside.write_text("key = 'moon'\n")
    (folder / "linked.py").symlink_to(outside)
    (folder / "bot.py").write_text("x = 1\n")
    for path in (outside, folder / "linked.py", folder / "none.py", folder / ".." / "secret.py"):
        text = f'  File "{path}", line 1, in <module>\n    raise ValueError\n'
        assert changed_lines(text, folder) == []
    for line, now in ((1, "x = 1"), (2, ""), (0, "")):
        text = f'  File "{folder}/bot.py", line {line}, in <module>\n    y = 1\n'
        expected = {"file": "bot.py", "line": line, "then": "y = 1", "now": now}
        assert changed_lines(text, folder) == [expected]


def test_replay_runs_all_handlers_by_default(site: Site) -> None:
    site.deliver(PUSH, "d1")
    site.wait("d1", "failed")
    response = site.api("deliveries/d1/replay", "POST")
    assert (response.status, response.data["handlers"]) == (202, ["make_hooks.<locals>.retrain"])
    site.wait("d1", "failed")
    wait_until(lambda: len(site.api("deliveries/d1/attempts").data["attempts"]) == 2)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("deliveries/nothing/replay", None, 404),
        ("deliveries/d4/replay", None, 409),
        ("deliveries/d1/replay", {"handlers": ["other"]}, 409),
        ("deliveries/d1/replay", b"{", 400),
        ("deliveries/d1/replay", {"handlers": "reply"}, 400),
        ("deliveries/d1/replay", {"handlers": []}, 400),
        ("deliveries/d1/replay", b'"' + b"x" * 70_000 + b'"', 413),
    ],
)  # fmt: skip
def test_impossible_replay_is_rejected(
    fixed_site: Site, path: str, body: object, status: int
) -> None:
    response = fixed_site.api(path, "POST", body)
    assert (response.status, list(response.data)) == (status, ["reason"])


def test_wrong_method_is_405(fixed_site: Site) -> None:
    for path, right in (
        ("deliveries", "GET"), ("deliveries/d1", "GET"), ("deliveries/d1/attempts", "GET"),
        ("deliveries/d1/replay", "POST"), ("stats", "GET"), ("explain", "POST"), ("events", "GET"),
    ):  # fmt: skip
        response = fixed_site.api(path, "PUT")
        assert (response.status, response.headers["allow"]) == (405, right)


@contextmanager
def served_without_lifespan(hooks: Webhooks) -> Iterator[Site]:
    """Serve an app that starts nothing of its mounted apps, as Starlette does."""
    app = Starlette(routes=[Mount("/hubhooks", hooks.admin), Mount("/hub", hooks)])

    async def stopping(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        if scope["type"] == "lifespan":
            await parts_of(hooks)[0].stop()

    with serve(stopping) as port:
        yield Site(port, hooks)


@pytest.mark.parametrize("path", ["/hubhooks/api/deliveries", "/hub/deliveries"])
def test_new_store_is_listed_without_lifespan(tmp_path: Path, path: str) -> None:
    with served_without_lifespan(make_hooks(tmp_path / "hubhooks.db")) as site:
        response = site.request(path, **site.admin)
        assert (response.status, response.data["deliveries"]) == (200, [])


@pytest.mark.parametrize("path", ["/hubhooks/api/deliveries", "/hub/deliveries"])
def test_reading_without_secret_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET", raising=False)
    hooks = Webhooks(deliveries=str(tmp_path / "hubhooks.db"))
    with served_without_lifespan(hooks) as site:
        assert site.request(path, **site.admin).status == 503
        assert not (tmp_path / "hubhooks.db").exists()


@pytest.mark.parametrize(
    "path", ["/hubhooks/api/deliveries/d1/replay", "/hub/deliveries/d1/replay"]
)
def test_replay_runs_without_lifespan(tmp_path: Path, path: str) -> None:
    hooks = make_hooks(tmp_path / "hubhooks.db")
    with served(hooks) as site:
        site.deliver(PUSH, "d1")
        site.wait("d1", "failed")
    with served_without_lifespan(make_hooks(tmp_path / "hubhooks.db")) as site:
        assert site.request(path, "POST", **site.admin).status == 202
        wait_until(lambda: len(site.api("deliveries/d1/attempts").data["attempts"]) == 2)


# ---- handlers, samples, explain ----------------------------------------------------------------


def test_handlers_have_source_filters_policy_and_counts(fixed_site: Site) -> None:
    reply, retrain, ignore = fixed_site.api("handlers").data["handlers"]
    assert list(reply) == [
        "name", "file", "line", "is_async", "filters", "criteria", "policy", "counts", "last",
    ]  # fmt: skip
    lines = Path(__file__).read_text("utf-8").splitlines()
    assert (reply["file"], reply["is_async"]) == (__file__, True)
    assert "@hooks.on_comment(mention" in lines[reply["line"] - 1]
    assert reply["policy"] == {
        "retries": 2, "backoff": 600, "timeout": 30, "concurrency": None, "serial": None,
        "debounce": None,
    }  # fmt: skip
    (criteria,) = reply["criteria"]
    assert criteria["scopes"] == ["CommentEvent"]
    assert criteria["mention"] == ["my-bot"]
    assert criteria["when"] == "make_hooks.<locals>.<lambda>"
    assert "new comment" in reply["filters"][0]
    assert retrain["filters"] == ["repo, private true", "repo.content, repo ada-labs/*"]
    assert (retrain["counts"], reply["counts"]) == ({"failed": 1}, {"succeeded": 1})
    assert retrain["last"]["delivery"] == "d2"
    assert retrain["last"]["state"] == "failed"
    assert retrain["last"]["at"] == fixed_site.api("deliveries/d2").data["runs"][0]["finished_at"]
    assert ignore["last"]["state"] == "ignored"


def test_handler_without_runs_has_no_last_one(site: Site) -> None:
    for handler in site.api("handlers").data["handlers"]:
        assert (handler["counts"], handler["last"]) == ({}, None)


def test_samples_have_bodies(fixed_site: Site) -> None:
    samples = fixed_site.api("samples").data["samples"]
    assert [sample["name"] for sample in samples] == sample_names()
    sample = next(each for each in samples if each["name"] == "discussion.comment.create")
    assert (sample["scope"], sample["action"]) == ("discussion.comment", "create")
    assert sample["body"] == sample_json("discussion.comment.create")
    assert "tide-gauges" in sample["description"]


def test_explain_equals_the_router_for_every_sample(fixed_site: Site) -> None:
    hooks = fixed_site.hooks
    assert hooks is not None
    for name in sample_names():
        body = compact(sample_json(name))
        data = fixed_site.api("explain", "POST", body).data
        event = HubEvent.from_json(body)
        assert [each["text"] for each in data["handlers"]] == hooks.explain(event)
        matching = [each["name"] for each in data["handlers"] if each["matches"]]
        assert matching == [handler.name for handler in hooks.match(event)]
        assert matching == [each["name"] for each in data["handlers"] if not each["failing"]]
        assert (data["event"], data["ignored"]) == (f"{event.scope} {event.action}", "")


def test_explain_stores_and_runs_nothing(fixed_site: Site) -> None:
    before = fixed_site.api("deliveries").data
    assert fixed_site.api("explain", "POST", PUSH).status == 200
    assert fixed_site.api("deliveries").data == before


def test_explain_names_the_error_of_a_malformed_body(fixed_site: Site) -> None:
    for body in (b"{", b"", b"\xff", b'{"event": 1}', b"[" * 100_000):
        response = fixed_site.api("explain", "POST", body)
        assert response.status == 422
        with pytest.raises(PayloadError) as error:
            explain_json(Webhooks("moon"), body)
        assert response.data["reason"] == str(error.value)
        assert response.data["path"] == error.value.path


def test_explain_names_the_ignored_author() -> None:
    body = sample_json("discussion.comment.create")
    author = body["comment"]["author"]["id"]
    hooks = Webhooks("moon", ignore_authors=[author])
    hooks.add(print, "discussion.*", name="reply")
    data = explain_json(hooks, compact(body))
    assert author in data["ignored"]
    assert [each["matches"] for each in data["handlers"]] == [False]


@pytest.mark.parametrize(
    ("scopes", "criteria", "failing"),
    [
        (["discussion.comment"], {}, []),
        (["discussion.comment"], {"action": "create", "repo": "me/x"}, ["repo"]),
        (["discussion.comment"], {"action": "update", "repo_type": "dataset"}, ["action"]),
        (["repo.content"], {"repo": "me/x", "ref": "main"}, ["scope", "ref", "repo"]),
        (["discussion.comment"], {"repo": ["me/x", "ada-labs/*"], "private": True}, ["private"]),
        ([], {"mention": "nobody-else", "status": "merged"}, ["mention", "status"]),
        (["discussion.comment"], {"when": lambda event: False}, ["when"]),
    ],
)
def test_explain_names_the_failing_criteria(
    scopes: list[str], criteria: dict[str, Any], failing: list[str]
) -> None:
    hooks = Webhooks("moon")
    hooks.add(print, *scopes, name="reply", **criteria)
    (handler,) = explain_json(hooks, COMMENT)["handlers"]
    assert sorted(handler["failing"]) == sorted(failing)
    assert handler["matches"] is not bool(failing)


def test_nearest_decorator_counts() -> None:
    hooks = Webhooks("moon")
    hooks.add(print, "repo.content", name="reply")
    hooks.add(print, "discussion.comment", repo="me/x", private=True, name="reply")
    hooks.add(print, "discussion.comment", action="update", name="reply")
    (handler,) = explain_json(hooks, COMMENT)["handlers"]
    assert handler["failing"] == ["action"]


# ---- numbers -----------------------------------------------------------------------------------


def test_stats_count_states_and_rejections(fixed_site: Site) -> None:
    stats = fixed_site.api("stats").data
    assert list(stats) == [
        "states", "rejections", "body_bytes", "unfinished_since", "store", "version",
    ]  # fmt: skip
    assert list(stats["states"]) == STATES
    assert stats["states"]["failed"] == stats["states"]["malformed"] == 1
    assert stats["body_bytes"] > 0
    assert (stats["unfinished_since"], stats["store"]) == (None, ":memory:")
    assert stats["version"] == __version__


def test_admin_app_reports_ready_and_metrics(fixed_site: Site) -> None:
    assert fixed_site.api("app").data == {"mode": "admin"}
    ready = fixed_site.api("ready")
    assert (ready.status, ready.data["is_ready"]) == (200, True)
    metrics = fixed_site.api("metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b"hubhooks_ready 1\n" in metrics.content


def test_admin_app_sends_nothing(fixed_site: Site) -> None:
    response = fixed_site.api("send", "POST", {"body": {}})
    assert (response.status, response.data["reason"]) == (404, "the API has no such path")


# ---- hostile payloads --------------------------------------------------------------------------


def test_hostile_payload_is_plain_json(site: Site) -> None:
    body = with_overrides(
        sample_json("discussion.comment.create"),
        {
            "repo.private": True,
            "repo.name": '<img src=x onerror="alert(1)">',
            "comment.content": "</script>\u202e${x} \u2028",
        },
    )
    text = compact(body).replace(b"${x}", b"\\ud800")
    site.deliver(text, "<b>d1</b>")
    shown = site.api(f"deliveries/{quote('<b>d1</b>', safe='')}")
    assert shown.headers["content-type"] == "application/json"
    assert shown.content.isascii()
    assert shown.data["repo"] == '<img src=x onerror="alert(1)">'
    assert "\u202e" in shown.data["body"]["comment"]["content"]
    with site.stream(after=0) as stream:
        assert next(stream).kind == "ready"
        event = stream.find("delivery")
        assert event.data["repo"] == '<img src=x onerror="alert(1)">'


def test_large_bodies_are_cut(site: Site) -> None:
    body = sample_json("discussion.comment.create")
    text = "x" * (31 * 1024 * 1024)
    body["repo"]["name"] = text
    body["discussion"]["title"] = text[:100]
    site.deliver(compact(body), "d1")
    wait_until(lambda: not site.hooks.store.get("d1").is_open)
    shown = site.api("deliveries/d1")
    assert shown.data["body"] is None
    assert "export" in shown.data["body_omitted"]
    assert len(shown.content) < 20_000
    assert len(site.api("deliveries").content) < 20_000
    explained = site.api("explain", "POST", compact(body))
    assert explained.status == 200
    assert len(explained.content) < 20_000
    with site.stream(after=0) as stream:
        assert len(json.dumps(stream.find("delivery").data)) < 20_000


def test_too_long_body_is_413(site: Site) -> None:
    response = site.api("explain", "POST", b" " * (32 * 1024 * 1024 + 1))
    assert (response.status, list(response.data)) == (413, ["reason"])


# ---- the stream --------------------------------------------------------------------------------


@pytest.mark.slow
def test_stream_reports_new_and_changed_deliveries(site: Site) -> None:
    with site.stream() as stream:
        ready = next(stream)
        assert (ready.kind, ready.data) == ("ready", {"after": ready.number})
        site.deliver(PUSH, "d1")
        event = stream.find_delivery("d1", "failed")
        assert event.number > ready.number
        assert event.data["runs"][0]["handler"] == "make_hooks.<locals>.retrain"
        assert "body" not in event.data
        stats = stream.find("stats", lambda data: data["states"]["failed"] == 1)
        assert stats.data["states"]["queued"] == 0
        site.hooks.fixed = True
        site.api("deliveries/d1/replay", "POST")
        assert stream.find_delivery("d1", "succeeded").data["is_replay"] is True
        # A duplicate changes only a counter.
        site.deliver(b"{", "d2")
        stream.find_delivery("d2", "malformed")


def test_stream_reports_the_start_and_the_end_of_a_run(tmp_path: Path) -> None:
    hooks = Webhooks("moon", deliveries=str(tmp_path / "hubhooks.db"))
    go = threading.Event()

    @hooks.on("repo.content", concurrency=1)
    def hold(event: ContentEvent) -> None:
        assert go.wait(PATIENCE)

    with served(hooks) as site, site.stream() as stream:
        try:
            site.deliver(PUSH, "d1")
            stream.find_delivery("d1", "running")
            site.deliver(PUSH, "d2")
            stream.find_delivery("d2", "queued")
        finally:
            go.set()
        ended = {"d1", "d2"}
        while ended:
            row = stream.find("delivery", lambda row: row["state"] == "succeeded").data
            ended.discard(row["id"])


def test_stream_resumes_after_an_event(site: Site) -> None:
    with site.stream() as stream:
        number = next(stream).number
    site.deliver(PUSH, "d1")
    site.wait("d1", "failed")
    site.deliver(COMMENT, "d2")
    site.wait("d2", "succeeded")
    with site.stream(after=number) as stream:
        ready = next(stream)
        assert (ready.kind, ready.data) == ("ready", {"after": number})
        assert [next(stream).data["id"] for _ in range(2)] == ["d1", "d2"]
    # The number of another store: the client reads the list again.
    with site.stream(after=10**9) as stream:
        assert next(stream).data["after"] < 10**9


def test_stream_reports_writes_of_another_process(tmp_path: Path) -> None:
    path = tmp_path / "hubhooks.db"
    with served(make_hooks(path)) as site, site.stream() as stream:
        next(stream)
        other = SqliteStore(path)
        other.open()
        try:
            other.accept("d1", b"{}", (), "unhandled", scope="repo")
            stream.find_delivery("d1", "unhandled")
        finally:
            other.close()


def test_burst_is_reported_as_ready_again(tmp_path: Path) -> None:
    path = tmp_path / "hubhooks.db"
    with served(make_hooks(path)) as site, site.stream() as stream:
        first = next(stream).number
        other = SqliteStore(path)
        other.open()
        try:
            with other.transaction():
                for number in range(600):
                    other.accept(f"d{number}", b"{}", (), "unhandled")
        finally:
            other.close()
        assert stream.find("ready").number == first + 600


def test_idle_stream_reads_no_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path / "hubhooks.db")
    store.open()
    try:
        store.accept("d1", b"{}", (), "unhandled")
        watch = store.watch()
        watch.start()
        wait_until(lambda: not _connections(watch.look, monkeypatch))
        store.accept("d2", b"{}", (), "unhandled")
        assert [delivery.id for delivery in watch.look().deliveries] == ["d2"]
        assert _connections(watch.look, monkeypatch) == 1
    finally:
        store.close()


def _connections(look: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the number of connections that a look opens."""
    connect, opened = sqlite3.connect, []

    def counted(*args: Any, **options: Any) -> sqlite3.Connection:
        opened.append(args)
        return connect(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", counted)
        look()
    return len(opened)


def test_many_streams_are_limited(fixed_site: Site) -> None:
    streams = []
    try:
        for _ in range(32):
            context = fixed_site.stream()
            next(context.__enter__())
            streams.append(context)
        assert fixed_site.api("events").status == 503
    finally:
        for context in streams:
            context.__exit__(None, None, None)
    wait_until(lambda: _opens(fixed_site))


def _opens(site: Site) -> bool:
    with site.stream() as stream:
        return stream.response.status == 200


def test_wrong_number_of_an_event_is_400(fixed_site: Site) -> None:
    for after in ("x", "-1", "1" * 30, "1.5"):
        assert fixed_site.api("events", after=after).status == 400


def test_shutdown_ends_an_open_stream() -> None:
    with served(make_hooks()) as site:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=PATIENCE)
        connection.request("GET", "/hubhooks/api/events", headers=ADMIN)
        response = connection.getresponse()
        assert next(Stream(response)).kind == "ready"
    # The response is complete: else this raises `IncompleteRead`.
    response.read()
    connection.close()


def test_stream_ends_soon_if_a_shutdown_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Middleware can hide the server's `receive`."""
    monkeypatch.setattr("hubhooks.admin.streams._LONGEST_SECONDS", 0)
    hooks = make_hooks()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def wrapped() -> Any:
            return await receive()

        await hooks.admin(scope, wrapped, send)

    hooks.store.open()
    with serve(app, lifespan="off") as port:
        response = Site(port, root="").api("events")
        assert (response.status, response.content.startswith(b"id: 0\nevent: ready\n")) == (
            200,
            True,
        )


SCRIPT = """
from fastapi import FastAPI
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content")
def retrain(event):
    print("retrained")

app = FastAPI(lifespan=hooks.lifespan)
app.include_router(hooks.router("/hub/"))
app.mount("/hubhooks", hooks.admin)
"""


def test_fastapi_app_in_a_process_of_its_own(tmp_path: Path) -> None:
    environ = {"HUBHOOKS_ADMIN_TOKEN": TOKEN, "HUBHOOKS_DELIVERIES": None}
    with started(tmp_path, script=SCRIPT, environ=environ) as server:
        site = Site(server.port)
        assert site.request("/hubhooks", Host="x").status in {307, 308}
        site.deliver(PUSH, "d1")
        with site.stream(after=0) as stream:
            stream.find_delivery("d1", "succeeded")
            (handler,) = site.api("handlers").data["handlers"]
            assert (handler["file"], handler["line"]) == (str(tmp_path / "app.py"), 7)
            assert site.api("stats").data["store"] == str(tmp_path / "hubhooks.db")
            # An open stream does not delay the shutdown.
            server.stop()


# ---- a store without its app -------------------------------------------------------------------


DEV_TOKEN = "another word of the admin"


class DevSource(StoreSource):
    """A source as `hubhooks dev` has it."""

    is_dev = True

    def __init__(self, store: Any, guard: AdminTokenGuard) -> None:
        super().__init__(store, guard)
        self.state = "starting"
        self.sent: list[SendRequest] = []

    def app(self) -> dict[str, Any]:
        return {"mode": "dev", "state": self.state}

    async def explain(self, body: bytes) -> dict[str, Any]:
        return explain_json(make_hooks(), body)

    async def send(self, request: SendRequest) -> list[dict[str, Any]]:
        self.sent.append(request)
        return [{"status": 202, "body": {}, "milliseconds": 1.5, "id": request.delivery_id}]


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[tuple[Site, DevSource]]:
    with served(make_hooks(tmp_path / "hubhooks.db")) as site:
        site.deliver(PUSH, "d1")
        site.deliver(compact(sample_json("repo.move")), "d2")
        site.wait("d1", "failed")
    guard = AdminTokenGuard(lambda: None, token=DEV_TOKEN)
    source = DevSource(SqliteStore(tmp_path / "hubhooks.db"), guard)
    with serve(AdminApp(source, local_only=True), lifespan="off") as port:
        yield Site(port, root="", token=DEV_TOKEN), source


def test_store_is_read_and_replayed_without_its_app(dev: tuple[Site, DevSource]) -> None:
    site, source = dev
    assert site.ids() == ["d2", "d1"]
    shown = site.api("deliveries/d1").data
    assert shown["handlers"] == ["make_hooks.<locals>.retrain"]
    assert len(shown["explanations"]) == 3
    assert site.api("handlers").data == {"handlers": []}
    response = site.api("deliveries/d1/replay", "POST")
    assert (response.status, site.state("d1")) == (202, "queued")
    assert site.api("deliveries/d1/replay", "POST").status == 409
    assert site.api("deliveries/d2/replay", "POST").status == 409
    assert site.api("deliveries/d3/replay", "POST").status == 404
    assert site.api("ready").status == 503
    assert source.activity.guard.is_on


def test_store_source_explains_nothing(tmp_path: Path) -> None:
    guard = AdminTokenGuard(lambda: None, token=DEV_TOKEN)
    source = StoreSource(SqliteStore(tmp_path / "hubhooks.db"), guard)
    with serve(AdminApp(source), lifespan="off") as port:
        site = Site(port, root="", token=DEV_TOKEN)
        response = site.api("explain", "POST", PUSH)
        assert (response.status, response.data) == (503, {"reason": "the app does not run"})
        # No app has created the file.
        for path in ("deliveries", "stats", "events", "handlers", "deliveries/d1"):
            assert site.api(path).status == 503


def test_stream_reports_the_state_of_the_app(dev: tuple[Site, DevSource]) -> None:
    site, source = dev
    assert site.api("app").data == {"mode": "dev", "state": "starting"}
    with site.stream() as stream:
        assert stream.find("app").data["state"] == "starting"
        source.state = "running"
        assert stream.find("app").data["state"] == "running"


def test_send_passes_the_request_on(dev: tuple[Site, DevSource]) -> None:
    site, source = dev
    response = site.api("send", "POST", {"body": {"a": "\u00e4"}, "id": "d9", "times": 2})
    assert response.status == 200
    (answer,) = response.data["responses"]
    assert (answer["status"], answer["id"]) == (202, "d9")
    site.api("send", "POST", {"body": "no JSON", "secret": "url"})
    assert source.sent == [
        SendRequest('{"a":"\u00e4"}'.encode(), "d9", "right", 2),
        SendRequest(b"no JSON", None, "url", 1),
    ]


@pytest.mark.parametrize(
    "body",
    [b"{", [], {}, {"body": 1}, {"body": {}, "secret": "x"}, {"body": {}, "secret": []},
     {"body": {}, "times": 0}, {"body": {}, "times": 101}, {"body": {}, "times": True},
     {"body": {}, "id": ""}, {"body": {}, "id": 1}, {"body": {}, "id": "a\nb"},
     {"body": {}, "id": "\u00e9"}, {"body": {}, "id": " a"}],
)  # fmt: skip
def test_wrong_send_request_is_400(dev: tuple[Site, DevSource], body: object) -> None:
    site, source = dev
    response = site.api("send", "POST", body)
    assert (response.status, list(response.data)) == (400, ["reason"])
    assert source.sent == []


def test_close_ends_the_streams(dev: tuple[Site, DevSource]) -> None:
    _, source = dev
    app = AdminApp(source)
    with serve(app, lifespan="off") as port:
        site = Site(port, root="", token=DEV_TOKEN)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/api/events", headers=site.admin)
        response = connection.getresponse()
        app.api.close()
        assert response.read().startswith(b"id: ")
        connection.close()
        assert site.api("events").status == 503


def test_import_of_the_package_loads_no_admin_module(tmp_path: Path) -> None:
    code = "import sys, hubhooks; print([m for m in sys.modules if 'admin' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == "[]\n"


def test_admin_app_serves_websockets_and_lifespan_by_ending_them() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        return {"type": ""}

    async def ask() -> None:
        await make_hooks().admin({"type": "websocket"}, receive, send)
        await make_hooks().admin({"type": "lifespan"}, receive, send)

    asyncio.run(ask())
    assert sent == ["websocket.close", "lifespan.startup.complete", "lifespan.shutdown.complete"]
