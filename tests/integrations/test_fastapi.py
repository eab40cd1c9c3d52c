"""FastAPI apps that receive webhooks, asked over the network."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate
from pythons import environment
from servers import PATIENCE, ROOT, SECRET, UVICORN, Server, started

from hubhooks import (
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    DiscussionEvent,
    HubEvent,
    RepoEvent,
    Webhooks,
    errors,
    testing,
)
from hubhooks._samples import compact, sample_json
from hubhooks.fastapi import VerifiedEvent, openapi_options, verified_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APP = """
from __future__ import annotations

import logging
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from hubhooks import CommentEvent, HubEvent, Verifier, Webhooks
from hubhooks.fastapi import VerifiedEvent, verified_event, openapi_options

hooks = Webhooks()
other = Webhooks("sun")


@hooks.on("repo.content")
@other.on("repo.content")
def pushed(event: HubEvent) -> None:
    print("pushed", event.repo.name, flush=True)


class Tags:
    # Some middleware adds to the very list it is given.
    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        async def tag(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-tag", b"one"))
            await send(message)

        await self.app(scope, receive, tag)


def guard(request: Request, tasks: BackgroundTasks) -> None:
    if request.headers.get("x-pass") != "yes":
        raise HTTPException(418)
    tasks.add_task(print, "let in", flush=True)


app = FastAPI()
app.add_middleware(Tags)


@app.middleware("http")
async def stamp(request: Request, call_next):
    response = await call_next(request)
    response.headers["x-stamp"] = "two"
    return response


app.include_router(hooks.router())
app.include_router(hooks.router("/v3/hub/"), prefix="/api")
app.include_router(hooks.router(""), prefix="/bare")
app.include_router(hooks.router("/unlisted", prefix="/quite", include_in_schema=False))
app.include_router(hooks.router("/guarded", dependencies=[Depends(guard)], tags=["hub"]))
inner = FastAPI()
inner.include_router(other.router("/hub"))
app.mount("/inner", inner)


@app.post("/mine", **openapi_options())
async def mine(event: VerifiedEvent, tenant: int = 0) -> dict[str, object]:
    return {"scope": event.scope, "tenant": tenant}


@app.post("/comments", status_code=202, **openapi_options(CommentEvent))
async def comments(
    event: Annotated[CommentEvent, Depends(verified_event(CommentEvent))],
) -> dict[str, object]:
    return {"comment": event.comment.content}


@app.post("/small")
def small(
    event: Annotated[HubEvent, Depends(verified_event(secret=("old", "new"), max_body_size=2000))],
) -> str:
    return event.scope


@app.post("/shared")
async def shared(event: Annotated[HubEvent, Depends(verified_event(secret=other))]) -> str:
    return event.scope


@app.post("/several", include_in_schema=False)
async def several(
    event: VerifiedEvent,
    request: Request,
    comment: Annotated[CommentEvent, Depends(verified_event(CommentEvent))],
    of_another: Annotated[HubEvent, Depends(verified_event(secret=["old", "moon"]))],
) -> dict[str, object]:
    streamed = b"".join([chunk async for chunk in request.stream()])
    body = await request.body()
    return {"same": event == comment == of_another, "raw": body == streamed == event.raw}


@app.post("/strict", include_in_schema=False)
async def strict(
    event: VerifiedEvent,
    of_another: Annotated[HubEvent, Depends(verified_event(secret="sun"))],
) -> None: ...


@app.post("/smaller", include_in_schema=False)
async def smaller(
    event: VerifiedEvent,
    small: Annotated[HubEvent, Depends(verified_event(max_body_size=100))],
) -> None: ...


@app.get("/wrong-method")
async def wrong_method(
    event: Annotated[HubEvent, Depends(verified_event(secret=Verifier("sun")))],
) -> str:
    return event.scope
"""
EXACT = ["/webhooks/hub", "/api/v3/hub", "/bare", "/quite/unlisted", "/inner/hub"]
COMMENT = sample_json("discussion.comment.create")
PUSH = compact(sample_json("repo.content.update"))
# The oldest and the newest Python with their newest FastAPI, and the oldest supported FastAPI.
VERSIONS = {
    "Python 3.10": ("3.10", "fastapi"),
    "Python 3.13": ("3.13", "fastapi"),
    "FastAPI 0.115": ("3.10", "fastapi==0.115.0"),
}
pytestmark = pytest.mark.timeout(600)  # the first run installs them
STRICT = ("-W", "error", "-m", "uvicorn", "app:app", "--port", "{port}")


@pytest.fixture(scope="module", params=["h11", "httptools", *VERSIONS])
def app(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    if request.param in VERSIONS:
        python, http = interpreter(request.param), "auto"
    else:
        python, http = Path(sys.executable), request.param
    folder = tmp_path_factory.mktemp("app")
    with started(folder, *STRICT, "--http", http, script=APP, python=python) as server:
        yield server


def interpreter(title: str) -> Path:
    """Return another Python with FastAPI; the package itself needs no build."""
    version, requirement = VERSIONS[title]
    return environment(version, requirement, "uvicorn")


def head_only(server: Server, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    """Send a request without its body, and return the response."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.putrequest("POST", path)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    with connection.getresponse() as response:
        expected = json.loads(response.read())
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, expected


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("path", EXACT)
def test_router_responds_at_exactly_its_path(app: Server, path: str, slash: str) -> None:
    secret = "sun" if path.startswith("/inner") else SECRET
    response = app.post(path + slash, PUSH, secret=secret)
    assert response.status_code == 202
    assert (response.json()["status"], response.json()["handlers"]) == ("accepted", ["pushed"])
    assert app.post(path + slash, PUSH, secret="wrong").status_code == 403
    assert app.post(path + slash, PUSH, secret=None).status_code == 401
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        rejected = app.request(path + slash, method, secret=secret)
        assert (rejected.status_code, rejected.headers["allow"]) == (405, "POST"), method
    assert app.post(f"{path}{slash}x", PUSH, secret=secret).status_code == 404


@pytest.mark.parametrize("path", [*EXACT, "/mine", "/shared"])
def test_query_secret_is_in_no_log_or_location(app: Server, path: str) -> None:
    secret = "sun" if path.startswith(("/inner", "/shared")) else SECRET
    assert app.post(f"{path}?secret={secret}", PUSH, secret=None).is_success
    assert app.post(f"{path}?secret=nearly", PUSH, secret=None).status_code == 403
    if path in EXACT:
        for at in (path, f"{path}/"):
            rejected = app.request(f"{at}?secret={secret}")
            assert rejected.status_code == 405
            assert "location" not in rejected.headers
    output = app.wait_for(f'"POST {path} HTTP/1.1" 403')
    assert f"={secret}" not in output
    assert "nearly" not in output


def test_router_runs_the_handlers(app: Server) -> None:
    assert app.post("/webhooks/hub", PUSH).status_code == 202
    app.wait_for("pushed ada-labs/tide-gauges")


def test_middleware_cannot_change_later_responses(app: Server) -> None:
    for _ in range(3):
        rejected = app.post("/webhooks/hub", PUSH, secret="wrong")
        assert rejected.headers.get_list("x-tag") == ["one"]
        assert rejected.headers["x-stamp"] == "two"


@pytest.mark.parametrize("slash", ["", "/"])
def test_dependencies_protect_the_router(app: Server, slash: str) -> None:
    assert app.post(f"/guarded{slash}", PUSH).status_code == 418
    assert app.post(f"/guarded{slash}", PUSH, headers={"x-pass": "yes"}).status_code == 202
    app.wait_for("let in")


@pytest.mark.parametrize("path", ["/webhooks/hub", "/mine"])
def test_secret_is_checked_before_the_body(app: Server, path: str) -> None:
    length = str(50 * 1024**3)
    for headers, status in (
        ({}, 401),
        ({"X_Webhook_Secret": "wrong"}, 403),
        ({"X_Webhook_Secret": SECRET}, 413),
    ):
        response = head_only(app, path, Content_Length=length, **headers)
        assert response[0] == status
        assert response[1]["connection"] == "close"


def test_custom_endpoint_gets_the_verified_event(app: Server) -> None:
    right = app.post("/mine?tenant=3", PUSH)
    assert (right.status_code, right.json()) == (200, {"scope": "repo.content", "tenant": 3})
    by_query = app.post(f"/mine?tenant=4&secret={SECRET}", PUSH, secret=None)
    assert (by_query.status_code, by_query.json()["tenant"]) == (200, 4)
    assert app.post("/small", PUSH, secret="old").json() == "repo.content"
    assert app.post("/small", PUSH, secret="new").json() == "repo.content"
    assert app.post("/small", PUSH, secret=SECRET).status_code == 403
    assert app.post("/shared", PUSH, secret="sun").json() == "repo.content"
    assert app.post("/shared", PUSH, secret=SECRET).status_code == 403


@pytest.mark.parametrize(
    ("content", "secret", "status", "word", "reason"),
    [
        (PUSH, None, 401, "rejected", "the webhook secret is missing"),
        (PUSH, "wrong", 403, "rejected", "the webhook secret is wrong"),
        (b"", SECRET, 400, "rejected", "the body is empty"),
        (b"{", SECRET, 202, "malformed", "line 1"),
        (b"[]", SECRET, 202, "malformed", "expected"),
        (PUSH, SECRET, 200, "ignored", "takes a CommentEvent, not a ContentEvent"),
    ],
)
def test_invalid_delivery_does_not_reach_a_custom_endpoint(
    app: Server, content: bytes, secret: str | None, status: int, word: str, reason: str
) -> None:
    response = app.post("/comments", content, secret=secret)
    detail = response.json()["detail"]
    assert (response.status_code, detail["status"]) == (status, word)
    assert reason in detail["reason"]
    if word == "malformed":
        app.wait_for("a delivery is malformed: ")


def test_custom_endpoint_enforces_the_body_limit(app: Server) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b" " * 1000 for _ in range(3))

    assert app.post("/small", chunks(), secret="new").status_code == 413
    assert app.post("/small", PUSH.ljust(2001), secret="new").status_code == 413
    assert app.post("/small", PUSH.ljust(2000), secret="new").status_code == 200


def test_custom_endpoint_gets_no_truncated_body(app: Server) -> None:
    with socket.create_connection(("127.0.0.1", app.port), timeout=PATIENCE) as client:
        head = f"POST /mine HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: {SECRET}\r\n"
        client.sendall(f"{head}Content-Length: {len(PUSH)}\r\n\r\n".encode() + PUSH[:99])
    app.wait_for("rejected a request with 400: the body was cut off")


@pytest.mark.parametrize("query", ["", f"?secret={SECRET}"])
def test_several_dependencies_of_one_request_see_the_same_delivery(app: Server, query: str) -> None:
    body = compact(COMMENT)
    secret = None if query else SECRET
    response = app.post(f"/several{query}", body, secret=secret)
    assert (response.status_code, response.json()) == (200, {"same": True, "raw": True})
    # Each endpoint checks the delivery with its own options.
    assert app.post(f"/strict{query}", body, secret=secret).status_code == 403
    assert app.post(f"/smaller{query}", body, secret=secret).status_code == 413
    assert app.post("/several", body, secret=None).status_code == 401
    assert f"secret={SECRET}" not in app.output()


def test_custom_endpoint_accepts_only_hub_requests(app: Server) -> None:
    response = app.request("/wrong-method", "GET", secret="sun")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


def examples(operation: dict[str, Any]) -> dict[str, Any]:
    content = operation["requestBody"]["content"]["application/json"]
    return {name: example["value"] for name, example in content["examples"].items()}


def test_openapi_has_a_sample_of_each_kind_of_event(app: Server) -> None:
    paths = app.request("/openapi.json").json()["paths"]
    samples = [testing.sample(name) for name in testing.sample_names()]
    kinds = {(event.scope, event.action, bool(event.updated_files)) for event in samples}
    found = [
        HubEvent.from_dict(value) for value in examples(paths["/webhooks/hub"]["post"]).values()
    ]
    shown = [(event.scope, event.action, bool(event.updated_files)) for event in found]
    assert sorted(shown) == sorted(kinds)
    content = paths["/webhooks/hub"]["post"]["requestBody"]["content"]["application/json"]
    # Swagger UI lists the examples by their summaries.
    summaries = [example["summary"] for example in content["examples"].values()]
    assert len(set(summaries)) == len(summaries)
    assert "repo create: model ada-labs/tide-forecast" in summaries
    comments = [
        HubEvent.from_dict(value) for value in examples(paths["/comments"]["post"]).values()
    ]
    assert {type(event) for event in comments} == {CommentEvent}
    assert {event.scope for event in comments} == {"discussion", "discussion.comment"}


def test_openapi_examples_are_events_of_the_endpoint() -> None:
    for event_class in (CommentEvent, ConfigEvent, ContentEvent, DiscussionEvent, RepoEvent):
        shown = examples(openapi_options(event_class)["openapi_extra"])
        assert shown
        for payload in shown.values():
            assert isinstance(event_class.from_dict(payload), event_class)
    assert list(examples(openapi_options(ContentEvent)["openapi_extra"])) == [
        "repo.content.update",
        "repo.content.update.bucket",
    ]


def test_openapi_describes_each_field_of_a_response(app: Server) -> None:
    schemas = app.request("/openapi.json").json()["components"]["schemas"]
    fields = schemas["WebhookResponse"]["properties"]
    assert list(fields) == ["status", "delivery", "handlers", "reason", "explanations"]
    assert all(field["description"] for field in fields.values())


def test_openapi_shows_requests_and_responses(app: Server) -> None:
    schema = app.request("/openapi.json").json()
    validate(schema)
    assert app.request("/docs").status_code == 200
    assert list(schema["paths"]) == [
        *("/webhooks/hub", "/api/v3/hub", "/bare", "/guarded"),
        *("/mine", "/comments", "/small", "/shared", "/wrong-method"),
    ]
    scheme = schema["components"]["securitySchemes"]["HubWebhookSecret"]
    assert (scheme["in"], scheme["name"]) == ("header", "X-Webhook-Secret")
    rejections = {"400", "401", "403", "413", "503"}
    for path, title, responses, model in (
        ("/webhooks/hub", "HubEvent", rejections | {"200", "202"}, "WebhookResponse"),
        ("/mine", "HubEvent", rejections | {"200", "422"}, "WebhookErrorResponse"),
        ("/comments", "CommentEvent", rejections | {"202"}, "WebhookErrorResponse"),
    ):
        operation = schema["paths"][path]["post"]
        assert operation["security"] == [{"HubWebhookSecret": []}]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert (body["title"], body["required"]) == (title, ["event"])
        # Older versions of FastAPI list 422 where there is nothing to validate.
        assert set(operation["responses"]) - {"422"} == responses - {"422"}
        shown = operation["responses"]["403"]["content"]["application/json"]["schema"]
        assert shown == {"$ref": f"#/components/schemas/{model}"}
    assert schema["paths"]["/guarded"]["post"]["tags"] == ["hub"]


@pytest.mark.parametrize(
    ("options", "command"),
    [("root_path='/proxy'", UVICORN), ("", (*STRICT, "--root-path", "/proxy"))],
    ids=["app", "server"],
)
def test_router_is_found_behind_a_proxy(
    start: Callable[..., Server], options: str, command: tuple[str, ...]
) -> None:
    script = f"""
from fastapi import FastAPI
from hubhooks import Webhooks

hooks = Webhooks()
app = FastAPI({options})
app.include_router(hooks.router("/hub"))
app.include_router(hooks.router("/"))
"""
    server = start(*command, script=script)
    for path in ("/hub", "/hub/", "/"):
        assert server.post(path, PUSH).status_code == 200
        assert server.post(path, PUSH, secret="wrong").status_code == 403


def test_router_without_a_secret_fails_startup(start: Callable[..., Server]) -> None:
    server = start(*STRICT, script=APP, environ={"WEBHOOK_SECRET": None}, prints="set WEBHOOK_SEC")
    assert server.wait() != 0


MOUNTS = """
import sys

from fastapi import APIRouter, FastAPI
from hubhooks import Webhooks

hooks, app, page, outer = Webhooks(), FastAPI(), FastAPI(), APIRouter(prefix="/outer")
outer.include_router(hooks.router("/hub"))
"""


@pytest.mark.parametrize("title", ["this one", *VERSIONS])
@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ('app.mount("/", page); app.include_router(outer)', 404),
        ('app.include_router(outer); app.mount("/", page)', 200),
        ('app.mount("/page", page); app.include_router(outer)', 200),
    ],
)
def test_router_behind_a_catch_all_mount_warns(
    start: Callable[..., Server], title: str, lines: str, status: int
) -> None:
    python = Path(sys.executable) if title == "this one" else interpreter(title)
    server = start(*STRICT[2:], script=MOUNTS + lines, python=python)
    assert server.post("/outer/hub", PUSH).status_code == status
    expected = re.search(r"UserWarning: no delivery reaches .*", server.output())
    assert (expected is not None) is (status == 404)
    assert expected is None or "before `gr.mount_gradio_app(app, demo, path=" in expected[0]


def test_endpoint_without_a_secret_rejects_requests(start: Callable[..., Server]) -> None:
    script = """
from typing import Annotated
from fastapi import Depends, FastAPI
from hubhooks import HubEvent
from hubhooks.fastapi import VerifiedEvent, verified_event

app = FastAPI()

@app.post("/shut")
async def shut(event: VerifiedEvent) -> str:
    return event.scope

@app.post("/open")
async def open_to_all(
    event: Annotated[HubEvent, Depends(verified_event(allow_unsigned=True))]
) -> str:
    return event.scope
"""
    for secret in (None, ""):
        server = start(*STRICT, script=script, environ={"WEBHOOK_SECRET": secret})
        assert server.post("/shut", PUSH).status_code == 503
        server.wait_for(
            "rejected a request with 503: no webhook secret is configured on this server"
        )
        # An empty secret is an error, and does not allow unsigned requests.
        assert server.post("/open", PUSH).status_code == (200 if secret is None else 503)


def test_dependency_can_be_overridden_in_tests(serve: Callable[..., Any]) -> None:
    app = FastAPI()

    @app.post("/mine")
    async def mine(event: VerifiedEvent) -> str:
        return event.scope

    app.dependency_overrides[verified_event] = lambda: HubEvent.from_dict(COMMENT)
    with serve(app) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("POST", "/mine")
        assert json.loads(connection.getresponse().read()) == "discussion.comment"
        connection.close()


def test_wrong_options_fail_at_app_creation() -> None:
    with pytest.raises(errors.ConfigError, match="the path `hub` of a webhook must begin with `/`"):
        Webhooks().router("hub")
    with pytest.raises(errors.ConfigError, match="webhook secret 2 is empty"):
        verified_event(secret=("moon", ""))
    with pytest.raises(errors.ConfigError, match="no webhook secret is given"):
        verified_event(secret=())
    wrong: list[tuple[Any, str]] = [
        (str, "`str` is not an event class; write `verified_event(CommentEvent)`"),
        ("moon", "pass a secret by name, `verified_event(secret=...)`"),
        (HubEvent.from_dict(COMMENT), "a `CommentEvent` is not an event class"),
    ]
    for given, message in wrong:
        with pytest.raises(errors.ConfigError, match=re.escape(message)) as caught:
            verified_event(given)
        assert "moon" not in str(caught.value)


def test_router_at_the_root_leaves_deliveries_to_the_app(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", "a token of the tide gauge")
    hooks = Webhooks(SECRET, deliveries=":memory:")
    app = FastAPI()
    app.include_router(hooks.router("/"))
    app.include_router(hooks.router("/", prefix="/below"))

    @app.get("/deliveries")
    async def deliveries() -> str:
        return "of the post office"

    @app.get("/deliveries/{number}")
    async def one(number: int) -> int:
        return number

    with serve(app) as port:
        asked = (
            ("GET", "/deliveries", 200, "of the post office"),
            ("GET", "/deliveries/3", 200, 3),
            ("POST", "/", 200, None),
            ("GET", "/below/deliveries", 401, None),
        )
        for method, path, status, expected in asked:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request(method, path, PUSH, {"X-Webhook-Secret": SECRET})
            response = connection.getresponse()
            assert (response.status, path) == (status, path)
            body = json.loads(response.read())
            assert expected is None or body == expected
            connection.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    script = (ROOT / "examples" / "fastapi_service.py").read_text("utf-8")
    with started(folder, *STRICT, script=script) as server:
        yield server


def test_example_shows_delivery_outcomes(service: Server) -> None:
    headers = {"Webhook-Id": "d-1"}
    assert service.post("/webhooks/hub", PUSH, headers=headers).status_code == 202
    assert service.post("/webhooks/hub", compact(COMMENT)).status_code == 200

    def shown() -> list[dict[str, Any]]:
        return list(service.request("/deliveries", secret=SECRET).json())

    service.wait_until(lambda: shown()[1]["state"] == "succeeded", "has not run the handler")
    comment, pushed = shown()
    assert (comment["state"], comment["handlers"]) == ("unhandled", {})
    assert (pushed["id"], pushed["handlers"]) == ("d-1", {"pushed": "succeeded"})
    push = json.loads(PUSH)["repo"]
    assert service.request("/heads", secret=SECRET).json() == {push["name"]: push["headSha"]}
    assert len(service.request("/deliveries?limit=1", secret=SECRET).json()) == 1


def test_example_hides_deliveries_from_anonymous_visitors(service: Server) -> None:
    for path in ("/deliveries", "/heads"):
        assert service.request(path).status_code == 401
        assert service.request(path, secret="wrong").status_code == 403


def test_example_handles_its_second_webhook(service: Server) -> None:
    response = service.post("/webhooks/comments", compact(COMMENT))
    words = len(COMMENT["comment"]["content"].split())
    assert (response.status_code, response.json()) == (202, {"words": words})
    assert service.post("/webhooks/comments", PUSH).json()["detail"]["status"] == "ignored"
    assert service.post("/webhooks/comments", PUSH, secret="wrong").status_code == 403
    validate(service.request("/openapi.json").json())


def test_app_closes_resources_after_handlers_end(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    script = """
import time
from contextlib import asynccontextmanager
from pathlib import Path
from fastapi import FastAPI
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on()
def slow(event):
    print("began", flush=True)
    while not Path("go").exists():
        time.sleep(0.02)
    time.sleep(0.5)  # longer than it takes to close something
    print("ended", flush=True)

@asynccontextmanager
async def lifespan(app):
    print("opened", flush=True)
    yield
    print("closed", flush=True)

app = FastAPI(lifespan=lifespan)
app.include_router(hooks.router())
"""
    server = start(*STRICT, script=script)
    server.post("/webhooks/hub", PUSH)
    server.wait_for("began")
    server.terminate()
    server.wait_for("Shutting down")
    (tmp_path / "go").touch()
    server.wait()
    lines = server.output().splitlines()
    assert [x for x in lines if x in {"opened", "ended", "closed"}] == ["opened", "ended", "closed"]


def test_documented_tests_pass(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "fastapi.md").read_text("utf-8")
    (block,) = [
        each for each in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "pytest" in each
    ]
    (tmp_path / "test_guide.py").write_text(block, "utf-8")
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in ended.stdout, ended.stdout + ended.stderr
