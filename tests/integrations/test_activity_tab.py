"""The activity of a running app: what strangers can make it tell, and what its owner sees."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pythons import find_chromium
from servers import PATIENCE, SECRET, started
from test_gradio import OFFLINE, READY, SPACE, ssr

from hubhooks._samples import compact, sample_json

gradio_client = pytest.importorskip("gradio_client")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from servers import Server

TOKEN = "a long word of the admin"
PRIVATE = "repo.content.update.bucket"
PUBLIC = "repo.create"
# What only the body of the private delivery says, and what only its handler does.
PRIVATE_NAME = "gauge-uploads"
SECRETS = (PRIVATE_NAME, "6a0333a6dc295436fc3709c5", "the tide is out")

APP = """
import gradio as gr
from hubhooks import Webhooks

hooks = Webhooks()


@hooks.on("repo.content")
def sync(event):
    raise ValueError("the tide is out")


@hooks.on("repo.content", "repo")
async def note(event):
    print("note heard", event.repo.name, flush=True)


with gr.Blocks() as demo:
    with gr.Tab("Activity"):
        hooks.activity()

options = {}
"""
LAUNCH = "hooks.launch(demo, **options)\n"


class App:
    """A running app, as somebody on the network sees it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=PATIENCE, trust_env=False)

    def read_config(self) -> dict[str, Any]:
        return self.client.get("/config").json()

    def call(self, name: str, *more: Any, session: str | None = "stranger", chosen: str = "",
             ticket: str = "", **options: Any) -> httpx.Response:  # fmt: skip
        """Call a function as the page does."""
        body = {
            "data": ["all states", 0, chosen, ticket, "", *more],
            "session_hash": session,
            "event_data": options.pop("event_data", None),
        }
        return self.client.post(f"/gradio_api/run/hubhooks_{name}", json=body, **options)

    def parts(self, answer: httpx.Response) -> dict[str, Any]:
        """Name what a function gave."""
        from hubhooks import _activity_tab  # noqa: PLC0415 - it needs Gradio

        assert answer.status_code == 200, answer.text
        names = _activity_tab._Parts._fields  # noqa: SLF001 - the order of what is given
        return dict(zip(names, answer.json()["data"], strict=True))

    def unlock(self, session: str) -> str:
        """Unlock a session, and give its ticket."""
        ticket = self.parts(self.call("unlock", TOKEN, session=session))["ticket"]
        assert isinstance(ticket, str)
        return ticket

    def deliveries(self) -> list[dict[str, Any]]:
        """Ask the API for what became of all deliveries."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = self.client.get("/gradio_api/webhooks/deliveries", headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()["deliveries"]

    def wait_until_all_ended(self) -> None:
        self.server.wait_until(
            lambda: all(one["state"] in {"succeeded", "failed"} for one in self.deliveries()),
            "has deliveries that do not end",
        )


@contextmanager
def running(folder: Path, script: str = LAUNCH, **environ: str | None) -> Iterator[App]:
    """Run the app, with a private delivery and a public one."""
    variables = {**OFFLINE, "HUBHOOKS_ADMIN_TOKEN": TOKEN, **environ}
    with started(folder, "app.py", script=APP + script, prints=READY, environ=variables) as server:
        app = App(server)
        with app.client:
            for kind in (PRIVATE, PUBLIC):
                answer = server.post("/gradio_api/webhooks", compact(sample_json(kind)))
                assert answer.status_code == 202, answer.text
            yield app
        said = server.output()
        assert TOKEN not in said
        assert SECRET not in said


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with running(tmp_path_factory.mktemp("activity")) as app:
        app.wait_until_all_ended()
        yield app


@pytest.fixture(scope="module")
def private_id(app: App) -> str:
    return next(one["id"] for one in app.deliveries() if PRIVATE_NAME in one["repo"])


def test_a_stranger_sees_states_and_public_names(app: App) -> None:
    parts = app.parts(app.call("look"))
    rows = parts["table"]["value"]["data"]
    assert [[len(row), *row[2:]] for row in rows] == [
        [4, "repo create", "ada-labs/tide-forecast"],
        [4, "", ""],
    ]
    assert "succeeded" in rows[0][1]
    assert "failed" in rows[1][1]
    assert parts["locked"]["visible"] is True
    assert "1</b> failed" in parts["overview"]


# A delivery that is not theirs, a ticket they made up, a session they know of.
FORGED = [
    ("victim", ""),
    ("victim", "x" * 43),
    ("stranger", "stolen"),
    ("", "stolen"),
    (None, "stolen"),
    ("stranger", ""),
]


@pytest.mark.parametrize(("session", "ticket"), FORGED)
def test_no_function_tells_a_stranger_more_or_replays(
    app: App, private_id: str, session: str | None, ticket: str
) -> None:
    """Whoever calls what the page calls, in each way there is to call it."""
    stolen = app.unlock("victim")
    assert PRIVATE_NAME in app.call("look", session="victim", ticket=stolen).text
    ticket = stolen if ticket == "stolen" else ticket
    row = ["", "", "", "", "", private_id]
    event = {"index": [0, 0], "value": "", "row_value": row, "selected": True}
    before = app.deliveries()
    config = app.read_config()
    said: list[str] = [json.dumps(config), app.client.get("/").text]
    called = 0
    for function in config["dependencies"]:
        if not function["backend_fn"]:
            continue
        name = function["api_name"]
        # How many wrong tokens there may be is asked elsewhere.
        last = "" if name == "hubhooks_unlock" else "all its handlers"
        data = ["all states", 0, private_id, ticket, "", last]
        body = {
            "data": data[: len(function["inputs"])],
            "fn_index": function["id"],
            "trigger_id": function["targets"][0][0],
            "event_data": event,
            "session_hash": session,
        }
        paths = [f"run/{name}", f"api/{name}", "run/predict", f"call/{name}", "queue/join"]
        # The queue itself stumbles over a session without a name.
        for path in paths[:3] if session == "" else paths:
            answer = app.client.post(f"/gradio_api/{path}", json=body)
            called += answer.status_code == 200
            said.append(answer.text)
            started_id = answer.json().get("event_id") if answer.status_code == 200 else None
            if started_id:
                queue = f"queue/data?session_hash={session}"
                result = queue if path == "queue/join" else f"{path}/{started_id}"
                said.append(app.client.get(f"/gradio_api/{result}").text)
    assert called >= 27
    for text in said:
        for secret in SECRETS:
            assert secret not in text
    assert app.deliveries() == before


def test_the_client_of_gradio_finds_nothing_to_call(app: App) -> None:
    client = gradio_client.Client(app.server.url, verbose=False)
    described = client.view_api(return_format="dict")
    assert described == {"named_endpoints": {}, "unnamed_endpoints": {}}
    for name in ("/hubhooks_look", "/hubhooks_replay"):
        with pytest.raises(ValueError, match="Cannot find"):
            client.predict(api_name=name)
    client.close()


def test_who_knows_the_token_sees_everything_in_that_session(app: App, private_id: str) -> None:
    ticket = app.unlock("mine")
    parts = app.parts(app.call("look", session="mine", ticket=ticket, chosen=private_id))
    assert parts["table"]["value"]["data"][1][3:] == [
        "ada-labs/gauge-uploads", "sync: failed, note", private_id,
    ]  # fmt: skip
    assert parts["payload"]["repo"]["name"] == "ada-labs/gauge-uploads"
    assert "the tide is out" in parts["facts"]
    assert PRIVATE_NAME not in app.call("look", session="other", ticket=ticket).text
    app.call("lock", session="mine", ticket=ticket)
    assert PRIVATE_NAME not in app.call("look", session="mine", ticket=ticket).text


def test_the_token_is_not_remembered_with_what_a_page_sent(app: App) -> None:
    """Gradio keeps it for a link that shows others the same."""
    app.unlock("sharing")
    link = app.client.get("/gradio_api/deep_link", params={"session_hash": "sharing"}).json()
    assert link
    shared = app.client.get("/config", params={"deep_link": link}).text
    assert "The value of HUBHOOKS_ADMIN_TOKEN" in shared
    assert TOKEN not in shared


def test_replay_runs_handlers_again_for_who_knows_the_token(app: App) -> None:
    public_id = next(one["id"] for one in app.deliveries() if PRIVATE_NAME not in one["repo"])
    ticket = app.unlock("mine")

    def attempts() -> int:
        return next(
            one["runs"][0]["attempts"] for one in app.deliveries() if one["id"] == public_id
        )

    before = attempts()
    parts = app.parts(
        app.call("replay", "all its handlers", session="mine", ticket=ticket, chosen=public_id)
    )
    assert "Queued: note" in parts["outcome"]
    app.wait_until_all_ended()
    assert attempts() == before + 1


def test_details_are_told_over_http_to_who_knows_the_token(app: App, private_id: str) -> None:
    path = f"/gradio_api/webhooks/deliveries/{private_id}"
    assert app.client.get(path).status_code == 401
    headers = {"Authorization": f"Bearer {TOKEN}"}
    said = app.client.get(path, headers=headers).json()
    assert said["body"]["repo"]["name"] == "ada-labs/gauge-uploads"


def test_without_any_way_in_the_page_says_how_to_make_one(tmp_path: Path) -> None:
    with running(tmp_path, HUBHOOKS_ADMIN_TOKEN=None) as app:
        assert "it knows nobody yet" in json.dumps(app.read_config())
        assert "is not set" in app.parts(app.call("unlock", TOKEN))["refusal"]
        assert PRIVATE_NAME not in app.call("look").text
        assert app.client.get("/gradio_api/webhooks/deliveries").status_code == 405


def test_where_the_app_asks_for_a_password_its_users_see_everything(tmp_path: Path) -> None:
    script = "options = {'auth': ('ada', 'tide')}\n" + LAUNCH
    with running(tmp_path, script) as app:
        app.wait_until_all_ended()
        assert app.call("look").status_code == 401
        answer = app.client.post("/login", data={"username": "ada", "password": "tide"})
        assert answer.status_code == 200
        assert PRIVATE_NAME in app.call("look").text
        # A page of another site, in the browser of a user who is logged in.
        for headers in (
            {"Origin": "https://eve.example", "Sec-Fetch-Site": "cross-site"},
            {"Origin": "https://eve.example"},
        ):
            text = app.call("look", headers=headers).text
            assert "failed" in text
            assert PRIVATE_NAME not in text


LOGIN = """
from starlette.middleware import Middleware


class Login:
    \"\"\"Stands for the login with the Hub: what a signed cookie says is in `session`.\"\"\"

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        name = dict(scope.get("headers", ())).get(b"x-user")
        if name:
            user = {"preferred_username": name.decode()}
            scope["session"] = {"oauth_info": {"userinfo": user, "expires_at": 2e10}}
        await self.app(scope, receive, send)


options = {"app_kwargs": {"middleware": [Middleware(Login)]}}
"""


@pytest.mark.parametrize(
    ("user", "environ", "is_owner"),
    [
        ("ada", {**SPACE, "OAUTH_CLIENT_SECRET": "signs"}, True),
        ("eve", {**SPACE, "OAUTH_CLIENT_SECRET": "signs"}, False),
        ("ada", {**SPACE, "OAUTH_CLIENT_SECRET": None}, False),
        ("ada", {"OAUTH_CLIENT_SECRET": "signs"}, False),
    ],
)
def test_the_owner_of_a_space_sees_everything(
    tmp_path: Path, user: str, environ: dict[str, str | None], is_owner: bool
) -> None:
    with running(tmp_path, LOGIN + LAUNCH, **environ) as app:
        app.wait_until_all_ended()
        assert PRIVATE_NAME not in app.call("look").text
        assert (PRIVATE_NAME in app.call("look", headers={"X-User": user}).text) is is_owner


def test_the_activity_is_shown_inside_blocks_only(tmp_path: Path) -> None:
    script = "from hubhooks import Webhooks\nWebhooks('moon').activity()\n"
    with started(
        tmp_path, "app.py", script=script, prints="gr.Blocks()", environ=OFFLINE
    ) as server:
        assert server.wait() == 1


# ---- in FastAPI --------------------------------------------------------------------------------

FASTAPI = """
from fastapi import FastAPI
from hubhooks import Webhooks

hooks = Webhooks()


@hooks.on("repo")
def note(event):
    print("note heard", flush=True)


app = FastAPI()
app.include_router(hooks.router("/webhooks/hub"), prefix="/api")
"""


@pytest.mark.parametrize(
    ("name", "path"), [("app:app", "/api/webhooks/hub"), ("app:hooks", "/webhooks")]
)
def test_the_api_is_there_in_every_app(start: Callable[..., Server], name: str, path: str) -> None:
    command = ("-m", "uvicorn", name, "--port", "{port}")
    server = start(*command, script=FASTAPI, environ={"HUBHOOKS_ADMIN_TOKEN": TOKEN})
    headers = {"Webhook-Id": "d1"}
    answer = server.post(path, compact(sample_json(PUBLIC)), headers=headers)
    assert answer.status_code == 202
    server.wait_for("note heard")
    bearer = {"Authorization": f"Bearer {TOKEN}"}

    def state() -> str:
        return server.request(f"{path}/deliveries/d1", headers=bearer).json()["state"]

    server.wait_until(lambda: state() == "succeeded", "did not end")
    assert server.request(f"{path}/deliveries").status_code == 401
    assert server.request(f"{path}/deliveries", secret=SECRET).status_code == 401
    assert (
        server.request(f"{path}/deliveries", headers=bearer).json()["deliveries"][0]["id"] == "d1"
    )
    answer = server.request(f"{path}/deliveries/d1/replay", "POST", headers=bearer)
    assert (answer.status_code, answer.json()["handlers"]) == (202, ["note"])
    server.wait_until(lambda: server.output().count("note heard") == 2, "did not run it again")
    assert TOKEN not in server.output()


def test_without_a_token_the_router_has_no_such_paths(start: Callable[..., Server]) -> None:
    server = start(script=FASTAPI, environ={"HUBHOOKS_ADMIN_TOKEN": None})
    for path, method in (("deliveries", "GET"), ("deliveries", "POST"), ("deliveries/d1", "GET")):
        answer = server.request(f"/api/webhooks/hub/{path}", method, secret=SECRET)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


# ---- in a browser ------------------------------------------------------------------------------


@pytest.mark.parametrize("rendered", ["in the browser", "by the server"])
def test_a_browser_shows_it_and_replays(tmp_path: Path, rendered: str) -> None:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("there is no chromium that runs")
    playwright = pytest.importorskip("playwright.sync_api")
    patience = PATIENCE * 1000
    environ = ssr() if rendered == "by the server" else {}
    with running(tmp_path, **environ) as app, playwright.sync_playwright() as driver:
        app.wait_until_all_ended()
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page()
        page.goto(app.server.url)

        # The table holds its widest cells a second time, out of sight.
        def cell(text: str) -> Any:
            return page.get_by_text(text).filter(visible=True).first

        cell("ada-labs/tide-forecast").wait_for(timeout=patience)
        assert PRIVATE_NAME not in page.content()
        page.locator("input[type=password]").fill(TOKEN)
        page.get_by_role("button", name="Unlock").click()
        cell("ada-labs/gauge-uploads").click(timeout=patience)
        error = page.locator("pre", has_text="the tide is out").first
        error.wait_for(timeout=patience)
        assert not page.locator("input[type=password]").is_visible()
        page.get_by_role("button", name="Replay").click()
        # The page finds out by itself.
        try:
            page.get_by_text("2 attempts").first.wait_for(timeout=patience)
        except playwright.TimeoutError:
            shown = page.locator("body").inner_text()
            pytest.fail(f"{shown}\n{app.deliveries()}\n{app.server.output()}")
        page.get_by_role("button", name="Close").click()
        error.wait_for(state="hidden", timeout=patience)
        page.get_by_role("button", name="Lock", exact=True).click()
        cell("ada-labs/gauge-uploads").wait_for(state="hidden", timeout=patience)
        # What comes is shown without a word.
        app.server.post("/gradio_api/webhooks", compact(sample_json("discussion.create")))
        cell("discussion create").wait_for(timeout=patience)
        browser.close()
