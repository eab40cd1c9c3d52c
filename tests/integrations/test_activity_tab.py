"""The activity tab of running apps: for anonymous visitors, for the owner, and on screens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pages import DESKTOP, PHONE, axe_violations, chromium, load_axe
from pythons import environment
from servers import PATIENCE, SECRET, started
from test_gradio import OFFLINE, READY, SPACE, ssr

from hubhooks._samples import compact, sample_json, with_overrides

gradio_client = pytest.importorskip("gradio_client")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from playwright.sync_api import Browser, Page
    from servers import Server

TOKEN = "a long word of the admin"
PRIVATE = "repo.content.update.bucket"
PUBLIC = "repo.create"
# Text that only the body of the private delivery has, and text that only its handler prints.
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
    """A running app and an HTTP client for it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=PATIENCE, trust_env=False)

    def read_config(self) -> dict[str, Any]:
        return self.client.get("/config").json()

    def call(self, name: str, *more: Any, session: str | None = "visitor", chosen: str = "",
             key: str = "", **options: Any) -> httpx.Response:  # fmt: skip
        """Call a function as the page does."""
        body = {
            "data": ["all states", 0, chosen, key, "", *more],
            "session_hash": session,
        }
        return self.client.post(f"/gradio_api/run/hubhooks_{name}", json=body, **options)

    def parts(self, response: httpx.Response) -> dict[str, Any]:
        """Return the changes of a response by the names of the components."""
        from hubhooks.admin import gradio_tab as _activity_tab  # noqa: PLC0415 - it needs Gradio

        assert response.status_code == 200, response.text
        names = _activity_tab._Parts._fields  # noqa: SLF001 - the order of the outputs
        return dict(zip(names, response.json()["data"], strict=True))

    def rows(self, response: httpx.Response) -> list[list[str]]:
        """Return the text of each cell of the table."""
        rows = re.findall(r"<tr role=.row.[^>]*>(.*?)</tr>", self.parts(response)["table"]["value"])
        cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows[1:]]
        return [[re.sub(r"<[^>]*>", "", cell) for cell in row] for row in cells]

    def unlock(self, session: str) -> str:
        """Unlock a session, and return its key."""
        key = self.parts(self.call("unlock", TOKEN, session=session))["key"]
        assert isinstance(key, str)
        return key

    def deliveries(self) -> list[dict[str, Any]]:
        """Return all deliveries."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        response = self.client.get("/gradio_api/webhooks/deliveries", headers=headers)
        assert response.status_code == 200, response.text
        return response.json()["deliveries"]

    def wait_until_all_ended(self) -> None:
        self.server.wait_until(
            lambda: not {"queued", "running"} & {one["state"] for one in self.deliveries()},
            "has deliveries that do not end",
        )


@contextmanager
def running(
    folder: Path,
    script: str = LAUNCH,
    kinds: Sequence[str] = (PRIVATE, PUBLIC),
    python: str | Path = sys.executable,
    **environ: str | None,
) -> Iterator[App]:
    """Run the app and send it samples: by default one of a private and one of a public repo."""
    variables = {**OFFLINE, "HUBHOOKS_ADMIN_TOKEN": TOKEN, **environ}
    with started(
        folder, "app.py", script=APP + script, prints=READY, python=python, environ=variables
    ) as server:
        app = App(server)
        with app.client:
            for kind in kinds:
                response = server.post("/gradio_api/webhooks", compact(sample_json(kind)))
                assert response.status_code in {200, 202}, response.text
            yield app
        output = server.output()
        assert TOKEN not in output
        assert SECRET not in output


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with running(tmp_path_factory.mktemp("activity")) as app:
        app.wait_until_all_ended()
        yield app


@pytest.fixture(scope="module")
def private_id(app: App) -> str:
    return next(one["id"] for one in app.deliveries() if PRIVATE_NAME in one["repo"])


def test_anonymous_visitor_sees_states_and_public_names(app: App) -> None:
    response = app.call("look")
    rows = app.rows(response)
    assert [row[1:] for row in rows] == [
        ["succeeded", "repo create", "ada-labs/tide-forecast"],
        ["failed", "private", ""],
    ]
    parts = app.parts(response)
    assert "Enter the admin token" in parts["locked"]
    assert "1</b> failed" in parts["overview"]
    # No row can be opened.
    assert "data-delivery=" not in parts["table"]["value"]
    assert "<button" not in parts["table"]["value"]


# Session and key: another session, an invented key, a stolen key.
FORGED = [
    ("victim", ""),
    ("victim", "x" * 43),
    ("visitor", "stolen"),
    ("", "stolen"),
    (None, "stolen"),
    ("visitor", ""),
]


@pytest.mark.parametrize(("session", "key"), FORGED)
def test_no_function_shows_private_data_or_replays_without_access(
    app: App, private_id: str, session: str | None, key: str
) -> None:
    """Call each function of the page, in each way that Gradio offers."""
    stolen = app.unlock("victim")
    assert PRIVATE_NAME in app.call("look", session="victim", key=stolen).text
    key = stolen if key == "stolen" else key
    row = ["", "", "", "", "", private_id]
    event = {"index": [0, 0], "value": "", "row_value": row, "selected": True}
    before = app.deliveries()
    config = app.read_config()
    texts: list[str] = [json.dumps(config), app.client.get("/").text]
    called = 0
    for function in config["dependencies"]:
        if not function["backend_fn"]:
            continue
        name = function["api_name"]
        # Wrong tokens have their own tests.
        last = "" if name == "hubhooks_unlock" else "all its handlers"
        data = ["all states", 0, private_id, key, "", last]
        body = {
            "data": data[: len(function["inputs"])],
            "fn_index": function["id"],
            "trigger_id": function["targets"][0][0],
            "event_data": event,
            "session_hash": session,
        }
        paths = [f"run/{name}", f"api/{name}", "run/predict", f"call/{name}", "queue/join"]
        # Gradio's queue fails for a session without a name.
        for path in paths[:3] if session == "" else paths:
            response = app.client.post(f"/gradio_api/{path}", json=body)
            called += response.status_code == 200
            texts.append(response.text)
            started_id = response.json().get("event_id") if response.status_code == 200 else None
            if started_id:
                queue = f"queue/data?session_hash={session}"
                result = queue if path == "queue/join" else f"{path}/{started_id}"
                texts.append(app.client.get(f"/gradio_api/{result}").text)
    assert called >= 27
    for text in texts:
        for secret in SECRETS:
            assert secret not in text
    assert app.deliveries() == before


def test_gradio_client_finds_no_endpoint(app: App) -> None:
    client = gradio_client.Client(app.server.url, verbose=False)
    described = client.view_api(return_format="dict")
    assert described == {"named_endpoints": {}, "unnamed_endpoints": {}}
    for name in ("/hubhooks_look", "/hubhooks_replay"):
        with pytest.raises(ValueError, match="Cannot find"):
            client.predict(api_name=name)
    client.close()


def test_admin_session_sees_private_deliveries(app: App, private_id: str) -> None:
    key = app.unlock("mine")
    response = app.call("look", session="mine", key=key, chosen=private_id)
    parts = app.parts(response)
    assert app.rows(response)[1][2:] == [
        "repo.content update", "ada-labs/gauge-uploads", "sync: failed, note",
    ]  # fmt: skip
    assert f'data-delivery="{private_id}" aria-current="true"' in parts["table"]["value"]
    assert parts["payload"]["repo"]["name"] == "ada-labs/gauge-uploads"
    assert "the tide is out" in parts["facts"]
    assert PRIVATE_NAME not in app.call("look", session="other", key=key).text
    app.call("lock", session="mine", key=key)
    assert PRIVATE_NAME not in app.call("look", session="mine", key=key).text


def test_admin_token_is_not_in_a_deep_link(app: App) -> None:
    app.unlock("sharing")
    link = app.client.get("/gradio_api/deep_link", params={"session_hash": "sharing"}).json()
    assert link
    shared = app.client.get("/config", params={"deep_link": link}).text
    assert "Admin token" in shared
    assert TOKEN not in shared


def test_replay_runs_handlers_again(app: App) -> None:
    public_id = next(one["id"] for one in app.deliveries() if PRIVATE_NAME not in one["repo"])
    key = app.unlock("mine")

    def attempts() -> int:
        return next(
            one["runs"][0]["attempts"] for one in app.deliveries() if one["id"] == public_id
        )

    before = attempts()
    parts = app.parts(
        app.call("replay", "all its handlers", session="mine", key=key, chosen=public_id)
    )
    assert "Queued: note" in parts["outcome"]
    app.wait_until_all_ended()
    assert attempts() == before + 1


def test_api_shows_details_with_the_admin_token(app: App, private_id: str) -> None:
    path = f"/gradio_api/webhooks/deliveries/{private_id}"
    assert app.client.get(path).status_code == 401
    headers = {"Authorization": f"Bearer {TOKEN}"}
    shown = app.client.get(path, headers=headers).json()
    assert shown["body"]["repo"]["name"] == "ada-labs/gauge-uploads"


def test_without_a_token_only_the_log_explains_access(tmp_path: Path) -> None:
    with running(tmp_path, HUBHOOKS_ADMIN_TOKEN=None) as app:
        rejected = app.call("unlock", TOKEN)
        assert "has no admin token" in app.parts(rejected)["rejection"]
        look = app.call("look")
        assert PRIVATE_NAME not in look.text
        assert app.client.get("/gradio_api/webhooks/deliveries").status_code == 405
        assert "for the owner of the app" in look.text
        for text in (json.dumps(app.read_config()), app.client.get("/").text, look.text):
            assert not re.search(r"HUBHOOKS_|WEBHOOK_SECRET|hf_oauth", text)
        app.server.wait_for("set HUBHOOKS_ADMIN_TOKEN to a long random word")
        app.call("look")
        assert app.server.output().count("HUBHOOKS_ADMIN_TOKEN") == 1


def test_page_names_no_environment_variable(app: App) -> None:
    for text in (json.dumps(app.read_config()), app.client.get("/").text, app.call("look").text):
        assert not re.search(r"HUBHOOKS_|WEBHOOK_SECRET", text)


def test_password_users_see_everything(tmp_path: Path) -> None:
    script = "options = {'auth': ('ada', 'tide')}\n" + LAUNCH
    with running(tmp_path, script) as app:
        app.wait_until_all_ended()
        assert app.call("look").status_code == 401
        response = app.client.post("/login", data={"username": "ada", "password": "tide"})
        assert response.status_code == 200
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
    \"\"\"Simulates the login with the Hub: it sets `session` as a signed cookie would.\"\"\"

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
def test_owner_of_the_space_sees_everything(
    tmp_path: Path, user: str, environ: dict[str, str | None], is_owner: bool
) -> None:
    with running(tmp_path, LOGIN + LAUNCH, **environ) as app:
        app.wait_until_all_ended()
        assert PRIVATE_NAME not in app.call("look").text
        assert (PRIVATE_NAME in app.call("look", headers={"X-User": user}).text) is is_owner


def test_activity_outside_blocks_is_an_error(tmp_path: Path) -> None:
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
def test_every_app_has_the_api(start: Callable[..., Server], name: str, path: str) -> None:
    command = ("-m", "uvicorn", name, "--port", "{port}")
    server = start(*command, script=FASTAPI, environ={"HUBHOOKS_ADMIN_TOKEN": TOKEN})
    headers = {"Webhook-Id": "d1"}
    response = server.post(path, compact(sample_json(PUBLIC)), headers=headers)
    assert response.status_code == 202
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
    response = server.request(f"{path}/deliveries/d1/replay", "POST", headers=bearer)
    assert (response.status_code, response.json()["handlers"]) == (202, ["note"])
    server.wait_until(lambda: server.output().count("note heard") == 2, "did not run it again")
    assert TOKEN not in server.output()


def test_without_a_token_there_is_no_api(start: Callable[..., Server]) -> None:
    server = start(script=FASTAPI, environ={"HUBHOOKS_ADMIN_TOKEN": None})
    for path, method in (("deliveries", "GET"), ("deliveries", "POST"), ("deliveries/d1", "GET")):
        response = server.request(f"/api/webhooks/hub/{path}", method, secret=SECRET)
        assert (response.status_code, response.json()) == (404, {"detail": "Not Found"})


# ---- on screens --------------------------------------------------------------------------------

UNHANDLED = "discussion.comment.create"
HOSTILE = {
    "repo.name": "ada/<img src=x onerror=alert(1)>",
    "repo.url.web": 'https://huggingface.co/ada/x" onclick="alert(1)',
    "event.action": "{{x}}${alert(1)}</table><script>alert(1)</script>",
}


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as started_browser:
        yield started_browser


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """An app with a delivery of each kind. No test changes it."""
    with running(tmp_path_factory.mktemp("filled"), kinds=(PRIVATE, PUBLIC, UNHANDLED)) as app:
        hostile = compact(with_overrides(sample_json(PUBLIC), HOSTILE))
        for body in (b'{"event": {"action": "update"}}', hostile):
            assert app.server.post("/gradio_api/webhooks", body).status_code == 202
        app.wait_until_all_ended()
        yield app


def open_page(browser: Browser, app: App, size: dict[str, int], theme: str = "light") -> Page:
    """Open the tab and wait for its table."""
    page = browser.new_page(viewport=size)  # type: ignore[arg-type]  # a dict with both keys
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"{app.server.url}/?__theme={theme}")
    page.locator(".hubhooks-list").wait_for()
    return page


def unlock(page: Page) -> None:
    page.get_by_label("Admin token").fill(TOKEN)
    page.get_by_role("button", name="Unlock").click()
    page.locator(".hubhooks-open").first.wait_for()


def overflow(page: Page) -> list[str]:
    """Return our elements and the page itself, if they are wider than the screen."""
    return page.evaluate(
        """() => [document.documentElement,
                  ...document.querySelectorAll(".hubhooks *, .hubhooks-controls > *")]
        .filter(e => !e.matches("thead, thead *") &&
                     e.getBoundingClientRect().right > innerWidth + 1 ||
                     e === document.documentElement && e.scrollWidth > innerWidth)
        .map(e => e.outerHTML.slice(0, 200))"""
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_phone_shows_each_row_and_nothing_overflows(
    filled: App, browser: Browser, theme: str
) -> None:
    page = open_page(browser, filled, PHONE, theme)
    for is_admin in (False, True):
        if is_admin:
            unlock(page)
        assert overflow(page) == []
        rows = page.locator(".hubhooks-list tbody tr")
        assert rows.count() == 5
        for row in rows.all():
            for part in ("time", "state", "event"):
                cell = row.locator(f".hubhooks-{part}")
                box = cell.bounding_box()
                assert cell.inner_text().strip()
                assert box is not None
                assert box["x"] >= 0
                assert box["x"] + box["width"] <= PHONE["width"]
        buttons = ["Newer", "Older", *(["Lock"] * is_admin)]
        controls = [page.get_by_label("Show", exact=True)]
        controls += [page.get_by_role("button", name=name, exact=True) for name in buttons]
        boxes = [control.bounding_box() for control in controls]
        middles = [box["y"] + box["height"] / 2 for box in boxes if box is not None]
        assert len(middles) == len(controls)
        assert max(middles) - min(middles) < 8
    page.locator(".hubhooks-open").last.click()
    page.locator(".hubhooks-details dl").wait_for()
    assert overflow(page) == []


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_anonymous_visitor_reads_private_for_private_rows(
    filled: App, browser: Browser, size: dict[str, int]
) -> None:
    page = open_page(browser, filled, size)
    texts = [row.inner_text().split() for row in page.locator(".hubhooks-list tbody tr").all()]
    assert [text[1:3] for text in texts][-1] == ["failed", "private"]
    assert sum("private" in text for text in texts) == 1
    assert PRIVATE_NAME not in page.content()
    assert page.locator(".hubhooks-open").count() == 0


def test_selected_row_is_marked_and_the_keyboard_selects_it(filled: App, browser: Browser) -> None:
    page = open_page(browser, filled, DESKTOP)
    unlock(page)
    private = page.get_by_role(
        "button", name=f"repo.content update ada-labs/{PRIVATE_NAME}, failed"
    )
    marked = page.locator(".hubhooks-list tr[aria-current=true]")
    assert marked.count() == 0
    page.get_by_label("Show", exact=True).focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if private.evaluate("button => button === document.activeElement"):
            break
    outline = private.evaluate("button => getComputedStyle(button).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Enter")
    page.locator("pre", has_text="the tide is out").first.wait_for()
    assert marked.count() == 1
    assert PRIVATE_NAME in marked.inner_text()
    assert marked.evaluate("row => getComputedStyle(row).boxShadow") != "none"
    # The table was replaced, and the focus is on the same button.
    assert private.get_attribute("aria-expanded") == "true"
    assert private.evaluate("button => button === document.activeElement")
    page.keyboard.press("Enter")
    marked.wait_for(state="detached")
    assert not page.locator(".hubhooks-details").is_visible()
    # A click anywhere on a row selects it too.
    page.locator(".hubhooks-list tr", has_text=PRIVATE_NAME).locator(".hubhooks-time").click()
    marked.wait_for()
    page.get_by_role("button", name="Close").click()
    marked.wait_for(state="detached")
    page.wait_for_function("document.activeElement.classList.contains('hubhooks-open')")


def test_hide_unhandled_leaves_out_unhandled_rows(filled: App, browser: Browser) -> None:
    page = open_page(browser, filled, PHONE)
    unhandled = page.locator(".hubhooks-list tr", has_text="unhandled")
    assert unhandled.count() == 1
    page.get_by_label("Show", exact=True).click()
    page.get_by_role("option", name="hide unhandled").click()
    unhandled.wait_for(state="detached")
    assert page.locator(".hubhooks-list tbody tr").count() == 4
    page.get_by_label("Show", exact=True).click()
    page.get_by_role("option", name="stuck").click()
    page.get_by_text("No delivery has the state stuck.").wait_for()


@pytest.mark.parametrize("is_admin", [False, True], ids=["anonymous", "admin"])
def test_rows_link_to_the_hub_only(filled: App, browser: Browser, *, is_admin: bool) -> None:
    dialogs: list[str] = []
    page = open_page(browser, filled, DESKTOP)
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    if is_admin:
        unlock(page)
    links = page.locator(".hubhooks-list a")
    found = {link.get_attribute("href") for link in links.all()}
    tide = "https://huggingface.co/datasets/ada-labs/tide-gauges"
    private = {f"https://huggingface.co/buckets/ada-labs/{PRIVATE_NAME}"}
    public = {"https://huggingface.co/ada-labs/tide-forecast", tide, f"{tide}/discussions/7"}
    assert found == (public | private if is_admin else public)
    assert {link.get_attribute("rel") for link in links.all()} == {"noopener"}
    assert page.get_by_role("link", name="discussion #7").count() == 1
    # The hostile names are text.
    hostile = page.locator(".hubhooks-list tbody tr").first
    assert HOSTILE["repo.name"] in hostile.inner_text()
    assert "${alert(1)}</table><script>" in hostile.inner_text()
    assert page.locator(".hubhooks img, .hubhooks script").count() == 0
    assert dialogs == []


def test_empty_tab_shows_the_url_and_a_command(tmp_path: Path, browser: Browser) -> None:
    with running(tmp_path, kinds=()) as app:
        page = browser.new_page(viewport=PHONE)  # type: ignore[arg-type]  # a dict with both keys
        page.goto(app.server.url)
        page.get_by_text("No deliveries yet").wait_for(timeout=PATIENCE * 1000)
        url = f"{app.server.url}/gradio_api/webhooks"
        texts = page.locator(".hubhooks pre").all_inner_texts()
        assert texts == [url, f"hubhooks send {url} --sample {UNHANDLED}"]
        assert overflow(page) == []
        command = [sys.executable, "-m", "hubhooks.cli", *texts[1].split()[1:]]
        environ = {**os.environ, "WEBHOOK_SECRET": SECRET}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environ)
        # The page shows the delivery without a reload.
        page.get_by_text("discussion.comment create").wait_for(timeout=PATIENCE * 1000)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(filled: App, browser: Browser, theme: str) -> None:
    # Our HTML and our choice of buttons. The dropdowns are Gradio's.
    parts = [[".hubhooks"], [".hubhooks-controls > button"]]
    for size in (PHONE, DESKTOP):
        page = open_page(browser, filled, size, theme)
        load_axe(page)
        assert axe_violations(page, parts) == []
        unlock(page)
        page.locator(".hubhooks-open").last.click()
        page.locator("pre", has_text="the tide is out").first.wait_for()
        for summary in page.locator(".hubhooks summary").all():
            summary.click()
        assert axe_violations(page, parts) == []
        page.close()


@pytest.mark.timeout(900)  # the first time Gradio is installed
@pytest.mark.parametrize("rendered", ["in the browser", "by the server", "by Gradio 5"])
def test_browser_shows_and_replays(tmp_path: Path, browser: Browser, rendered: str) -> None:
    environ = ssr() if rendered == "by the server" else {}
    python = environment("3.10", "gradio==5.50.0") if rendered == "by Gradio 5" else sys.executable
    with running(tmp_path, python=python, **environ) as app:
        app.wait_until_all_ended()
        page = open_page(browser, app, DESKTOP)
        assert PRIVATE_NAME not in page.content()
        unlock(page)
        private = page.get_by_role("button", name=PRIVATE_NAME)
        private.click()
        error = page.locator("pre", has_text="the tide is out").first
        error.wait_for()
        assert not page.locator("input[type=password]").is_visible()
        page.get_by_role("button", name="Replay").click()
        # The page updates by itself.
        page.get_by_text("2 attempts").first.wait_for()
        page.get_by_role("button", name="Close").click()
        error.wait_for(state="hidden")
        page.get_by_role("button", name="Lock", exact=True).click()
        private.wait_for(state="hidden")
        app.server.post("/gradio_api/webhooks", compact(sample_json("discussion.create")))
        page.get_by_text("discussion create").first.wait_for()
