"""Access to payloads, replays and secrets."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from servers import PATIENCE, ask_for_websocket, started

from hubhooks._core import Verifier
from hubhooks._samples import compact, sample_json
from hubhooks.admin.access import AdminTokenGuard, is_cross_site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import Server

TOKEN = "a long word of the admin"
BODY = compact(sample_json("repo.content.update"))
APP = """
from hubhooks import Webhooks

app = Webhooks()
"""

# ---- pages of another origin -------------------------------------------------------------------

HOST = "ada.lan:7860"


@pytest.mark.parametrize(
    "headers",
    [
        # A page can set these headers, so they prove nothing.
        {"origin": "http://ada.lan:8000", "host": HOST, "x-forwarded-host": "ada.lan:8000"},
        {"origin": "http://eve.lan", "host": HOST, "forwarded": "host=eve.lan"},
        {"origin": "http://eve.lan", "host": HOST, "x-original-host": "eve.lan"},
        # Another port, a sibling domain, another scheme's default port.
        {"origin": "http://ada.lan:8000", "host": HOST},
        {"origin": "http://ada.lan", "host": HOST},
        {"origin": "http://eve.ada.lan:7860", "host": HOST},
        {"origin": "http://ada.lan:443", "host": "ada.lan"},
        {"origin": "https://ada.lan:80", "host": "ada.lan"},
        # Not an origin.
        {"origin": "null", "host": "null"},
        {"origin": "ada.lan:7860", "host": HOST},
        {"origin": "http://", "host": ""},
        {"origin": "http://ada.lan:7860", "host": ""},
        {"origin": "http://ada.lan:7860"},
        {"origin": "http://eve@ada.lan:7860", "host": HOST},
        {"origin": "http://ada.lan:7860/", "host": HOST},
        {"origin": "file://ada.lan:7860", "host": HOST},
        {"origin": "http://[ada", "host": HOST},
        # A GET has no Origin.
        {"referer": "http://ada.lan:8000/page", "host": HOST},
        {"referer": "http://ada.lan", "host": HOST},
        # Only Sec-Fetch-Site decides.
        {"sec-fetch-site": "same-site", "origin": "http://ada.lan:7860", "host": HOST},
        {"sec-fetch-site": "cross-site", "host": HOST},
        {"Sec-Fetch-Site": "cross-site"},
        {"sec-fetch-site": "Same-Origin"},
    ],
)
def test_page_of_another_origin_is_not_trusted(headers: dict[str, str]) -> None:
    assert is_cross_site(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": HOST},
        {"origin": "http://ada.lan:7860", "host": HOST},
        {"origin": "http://ADA.lan:7860", "host": "ada.LAN:7860"},
        {"origin": "http://ada.lan", "host": "ada.lan:80"},
        {"origin": "https://ada.lan", "host": "ada.lan:443"},
        {"origin": "https://ada.hf.space", "host": "ada.hf.space"},
        {"origin": "http://[::1]:7860", "host": "[::1]:7860"},
        {"referer": "http://ada.lan:7860/?page=1", "host": HOST},
        {"referer": "http://ada.lan:7860", "host": HOST},
        # A proxy rewrote the Host. A Space has https, so browsers send Sec-Fetch-Site.
        {"sec-fetch-site": "same-origin", "origin": "https://ada.hf.space", "host": "10.0.0.1"},
        {"sec-fetch-site": "none", "host": "10.0.0.1"},
    ],
)
def test_same_origin_and_programs_are_trusted(headers: dict[str, str]) -> None:
    assert not is_cross_site(headers)


@pytest.mark.parametrize("name", ["origin", "host", "sec-fetch-site", "referer"])
def test_a_repeated_header_is_not_trusted(name: str) -> None:
    from starlette.datastructures import Headers  # noqa: PLC0415 - it comes with an extra

    same = {
        "origin": "http://ada.lan:7860", "host": HOST, "referer": "http://ada.lan:7860/",
        "sec-fetch-site": "same-origin",
    }  # fmt: skip
    right = [(key.encode(), value.encode()) for key, value in same.items()]
    assert not is_cross_site(Headers(raw=right))
    assert is_cross_site(Headers(raw=[*right, (name.encode(), b"http://eve.lan")]))


# ---- wrong admin tokens ------------------------------------------------------------------------


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    with started(tmp_path, script=APP, environ={"HUBHOOKS_ADMIN_TOKEN": TOKEN}) as server:
        yield server


def test_unusable_token_is_reported_at_startup(tmp_path: Path) -> None:
    environ = {"HUBHOOKS_ADMIN_TOKEN": TOKEN, "WEBHOOK_SECRET": TOKEN}
    with started(tmp_path, script=APP, environ=environ) as server:
        output = server.wait_for(
            "HUBHOOKS_ADMIN_TOKEN is the webhook secret: use a different token"
        )
        assert TOKEN not in output


def list_deliveries(server: Server, token: str) -> httpx.Response:
    return server.request("/deliveries", headers={"Authorization": f"Bearer {token}"})


def test_wrong_tokens_never_block_the_right_one(guarded: Server) -> None:
    for _ in range(7):
        assert list_deliveries(guarded, "wrong").status_code == 403
        assert list_deliveries(guarded, TOKEN).status_code == 200
    assert "rejected an admin token" in guarded.output()


def test_flood_of_wrong_tokens_blocks_no_admin(guarded: Server) -> None:
    async def ask(client: httpx.AsyncClient, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return (await client.get("/deliveries", headers=headers)).status_code

    async def flood() -> tuple[list[int], Counter[int]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=guarded.url, timeout=PATIENCE, trust_env=False, limits=limits
        ) as client:
            wrong = [asyncio.ensure_future(ask(client, "wrong")) for _ in range(100)]
            right = [await ask(client, TOKEN) for _ in range(20)]
            delivered = await client.post("/", content=BODY, headers={"X-Webhook-Secret": "moon"})
            right.append(delivered.status_code)
            return right, Counter(await asyncio.gather(*wrong))

    right, wrong = asyncio.run(flood())
    assert right == [200] * 21
    assert set(wrong) == {403}
    assert list_deliveries(guarded, TOKEN).status_code == 200


class Minutes:
    """A clock, and a `sleep` that the test ends."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.go_on = asyncio.Event()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.go_on.wait()

    def guard(self) -> AdminTokenGuard:
        return AdminTokenGuard(lambda: Verifier("moon"), self.clock, self.sleep)


@pytest.fixture
def admin_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", TOKEN)


@pytest.mark.usefixtures("admin_token")
def test_number_of_waiting_attempts_is_bounded() -> None:
    async def attempt() -> Counter[str]:
        minutes = Minutes()
        guard = minutes.guard()
        assert [await guard.check_delayed("wrong") for _ in range(5)] == ["wrong"] * 5
        assert minutes.waits == []
        delayed = [asyncio.ensure_future(guard.check_delayed("wrong")) for _ in range(5000)]
        await asyncio.sleep(0)
        right: Any = [await guard.check_delayed(TOKEN) for _ in range(3)]
        assert right == ["right"] * 3
        delayed[0].cancel()  # that frees its place
        await asyncio.gather(delayed[0], return_exceptions=True)
        delayed[0] = asyncio.ensure_future(guard.check_delayed("wrong"))
        await asyncio.sleep(0)
        assert len(minutes.waits) == 4001
        minutes.go_on.set()
        return Counter(await asyncio.gather(*delayed))

    assert asyncio.run(attempt()) == {"wrong": 4000, "busy": 1000}


@pytest.mark.usefixtures("admin_token")
def test_delay_grows_with_the_rate_and_ends() -> None:
    async def attempt() -> None:
        minutes = Minutes()
        minutes.go_on.set()
        guard = minutes.guard()
        for _ in range(3000):
            assert await guard.check_delayed("wrong") == "wrong"
        waits = [*minutes.waits]
        assert len(waits) == 2995
        assert waits == sorted(waits)
        assert (waits[0], waits[-1]) == (1.0, 20.0)
        minutes.now = 60.0
        await guard.check_delayed("wrong")
        assert minutes.waits.pop() == 20.0
        minutes.now = 180.0
        await guard.check_delayed("wrong")
        assert len(minutes.waits) == 2995
        assert await guard.check_delayed(TOKEN) == "right"

    asyncio.run(attempt())


@pytest.mark.usefixtures("admin_token")
def test_wrong_tokens_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    minutes = Minutes()
    guard = minutes.guard()
    for now in (0.0, 1.0, 59.0, 60.0, 61.0):
        minutes.now = now
        assert guard.check("wrong") == "wrong"
    assert caplog.text.count("rejected an admin token") == 2


# ---- a secret in the query ---------------------------------------------------------------------

PATHS = """
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from hubhooks import Webhooks

hooks = Webhooks()
fastapi = FastAPI()
fastapi.include_router(hooks.router("/webhooks/hub"))


@fastapi.get("/webhooks/hub/mine")
def mine(page: str):
    return page


@fastapi.get("/webhooks/hub/slash/")
def slash():
    return "slash"


prefixed = FastAPI()
prefixed.include_router(hooks.router(""), prefix="/webhooks/hub")
mount = Starlette(routes=[Mount("/webhooks", hooks)], lifespan=hooks.lifespan)
"""
METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS", "PROPFIND")
BELOW = (
    "/webhooks/hub", "/webhooks/hub/", "/webhooks/hub/typo", "/webhooks/hub/a/b/",
    "/webhooks/hub//",
    "/webhooks/hub/deliveries", "/webhooks/hub/deliveries/", "/webhooks/hub/deliveries/d1",
    "/webhooks/hub/deliveries/d1/replay", "/webhooks/hub/deliveries/d1/replay/x",
)  # fmt: skip
LOGGING_SERVERS = {
    "uvicorn, h11": ("uvicorn", "--port", "{port}", "--http", "h11", "--ws", "wsproto"),
    "uvicorn, httptools": ("uvicorn", "--port", "{port}", "--http", "httptools"),
    "hypercorn": ("hypercorn", "--access-logfile", "-", "--bind", "127.0.0.1:{port}"),
    "granian": ("granian", "--interface", "asgi", "--access-log", "--port", "{port}"),
    "gunicorn, uvicorn": (
        "gunicorn", "-k", "uvicorn_worker.UvicornWorker", "--access-logfile", "-", "--bind",
        "127.0.0.1:{port}",
    ),
    # It always logs the query in `%(r)s` and `%(q)s`.
    "gunicorn, asgi": (
        "gunicorn", "-k", "asgi", "--access-logfile", "-", "--access-logformat",
        '%(h)s "%(m)s %(U)s %(H)s" %(s)s', "--bind", "127.0.0.1:{port}",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "app", "token"),
    [
        *((name, "fastapi", None) for name in LOGGING_SERVERS),
        ("uvicorn, h11", "fastapi", TOKEN),
        *(("uvicorn, h11", app, None) for app in ("prefixed", "mount", "hooks")),
    ],
)
def test_access_log_has_no_query_of_the_router(
    tmp_path: Path, name: str, app: str, token: str | None
) -> None:
    package, *options = LOGGING_SERVERS[name]
    pytest.importorskip(package)
    if name == "gunicorn, uvicorn":
        pytest.importorskip("uvicorn_worker")
    elif name == "gunicorn, asgi":
        pytest.importorskip("gunicorn.asgi")
    command = ("-m", package, *options, f"app:{app}")
    environ = {"HUBHOOKS_ADMIN_TOKEN": token}
    with started(tmp_path, *command, script=PATHS, environ=environ) as server:
        for path in BELOW:
            for method in METHODS:
                server.request(f"{path}?SECRET=s3cret-moon", method)
                server.request(f"{path}?%73ecret=s3cret-moon", method)
            assert ask_for_websocket(server, f"{path}?secret=s3cret-moon")
        assert server.post("/webhooks/hub?secret=moon", BODY, secret=None).status_code == 200
        output = server.wait_for('"POST /webhooks/hub/a/b/')
        assert "s3cret-moon" not in output
        assert "?secret=" not in output


def test_other_routes_keep_their_query_in_the_log(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    command = ("-m", "uvicorn", "app:fastapi", "--port", "{port}")
    with started(tmp_path, *command, script=PATHS) as server:
        assert server.request("/webhooks/hub/mine?page=2").json() == "2"
        assert server.request("/webhooks/hub/slash").status_code == 307
        assert server.request("/webhooks/hub/slash/?page=2").json() == "slash"
        assert server.request("/webhooks/hub/typo?page=2").json() == {"detail": "Not Found"}
        assert server.request("/webhooks/hubs?page=2").status_code == 404
        for query in ("", "?page=2"):
            rejected = server.request(f"/webhooks/hub{query}", "PROPFIND")
            assert (rejected.status_code, rejected.headers["allow"]) == (405, "POST")
        assert server.request("/openapi.json").json()["paths"].keys() == {
            "/webhooks/hub", "/webhooks/hub/mine", "/webhooks/hub/slash/",
        }  # fmt: skip


# ---- stored headers ----------------------------------------------------------------------------

CREDENTIALS = [
    "Authorization", "Proxy-Authorization", "Cookie", "X-Webhook-Secret-Old", "X-Api-Key",
    "CF-Access-Jwt-Assertion", "X-Goog-Iap-Jwt-Assertion", "X-Amzn-Oidc-Data",
    "X-Amzn-Oidc-Identity", "X-Forwarded-Client-Cert", "Ssl-Client-Cert", "X-SSL-Client-Cert",
    "X-Session-Id", "X-Ms-Client-Principal", "X-Csrf", "X-Jwt", "X-Remote-User", "X-Password",
    "X-Original-Url", "X-Rewrite-Url", "X-Envoy-Original-Path", "X-Forwarded-Uri", "Referer",
    "X-Hub-Signature-256", "Webhook-Signature", "Baggage", "Tracestate", "Pragma", "Link",
]  # fmt: skip
# Headers that httpx adds.
TRANSPORT = {"host", "accept", "accept-encoding", "connection", "content-length"}
COPIED_URLS = [
    "/hook?secret=s3cret-moon", "/hook?SECRET=s3cret-moon", "/hook?%73ecret=s3cret-moon",
    "/hook%3Fsecret%3Ds3cret-moon", "/hook%253Fsecret%253Ds3cret-moon", "SECRET=s3cret-moon",
]  # fmt: skip


def test_proxy_credentials_are_not_stored(tmp_path: Path) -> None:
    environ = {"HUBHOOKS_DELIVERIES": None, "HUBHOOKS_ADMIN_TOKEN": TOKEN}
    kept = {
        "User-Agent": "hub/1.0", "Content-Type": "application/json", "Webhook-Id": "d1",
        "X-Forwarded-For": "10.0.0.1, 10.0.0.2", "X-Request-Id": "abc-1",
        "Webhook-Timestamp": "1700000000",
        "Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    }  # fmt: skip
    headers = [*kept.items(), *((name, "s3cret-moon") for name in CREDENTIALS)]
    headers += [
        (name, url) for name in ("X-Original-Url", "Via", "X-Forwarded-Host") for url in COPIED_URLS
    ]
    # The webhook's secret itself, in the headers of a proxy.
    secrets = ("moon", "1.1 moon", "for=10.0.0.1;host=moon", 'by="moon"', "a, moon")
    headers += [(name, value) for name in ("Via", "Forwarded", "X-B3-TraceId") for value in secrets]
    with started(tmp_path, script=APP, environ=environ) as server:
        assert server.post("/", BODY, headers=headers).status_code == 200
        files = b"".join(file.read_bytes() for file in tmp_path.glob("hubhooks.db*"))
        assert b"x-original-url" in files
        assert b"s3cret-moon" not in files
        admin = {"Authorization": f"Bearer {TOKEN}"}
        shown = server.request("/deliveries/d1", headers=admin).json()["headers"]
        assert [value for _, value in shown if "moon" in value] == []
        assert {name: value for name, value in shown if value != "(redacted)"} == {
            **{name.lower(): value for name, value in kept.items()},
            **{name: value for name, value in shown if name in TRANSPORT},
        }


# ---- delivery ids ------------------------------------------------------------------------------


def test_delivery_id_cannot_control_a_terminal(tmp_path: Path) -> None:
    controls = "".join(map(chr, range(0x80, 0xA0))) + "\xad"
    delivery_id = f"d\xe9{controls}31m"
    script = "import logging; logging.basicConfig(level=logging.INFO)" + APP
    environ = {"HUBHOOKS_ADMIN_TOKEN": TOKEN, "PYTHONIOENCODING": "utf-8"}
    with started(tmp_path, script=script, environ=environ) as server:
        headers = [(b"webhook-id", delivery_id.encode("latin-1")), (b"x-webhook-secret", b"moon")]
        with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE) as client:
            for body, status in ((BODY, 200), (b"no JSON", 202)):
                assert client.post("/", content=body, headers=headers).status_code == status
        output = server.wait_for("response 202")
        assert "d\xe9\\x80" in output
        assert not any(sign in output for sign in controls)
        admin = {"Authorization": f"Bearer {TOKEN}"}
        (shown,) = server.request("/deliveries", headers=admin).json()["deliveries"]
        assert shown["id"].isprintable()
        assert server.request(f"/deliveries/{shown['id']}", headers=admin).status_code == 200
