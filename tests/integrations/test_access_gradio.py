"""Access to payloads, replays and the store's files in Gradio apps."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from servers import UVICORN, ask_for_websocket, started
from test_activity_tab import APP, LAUNCH, PRIVATE, PRIVATE_NAME, PUBLIC, TOKEN, App, running
from test_gradio import OFFLINE, ssr

from hubhooks._samples import compact, sample_json, with_overrides

pytest.importorskip("gradio")

if TYPE_CHECKING:
    from collections.abc import Iterator

AUTH = "options = {'auth': ('ada', 'tide')}\n" + LAUNCH


def log_in(app: App) -> None:
    response = app.client.post("/login", data={"username": "ada", "password": "tide"})
    assert response.status_code == 200


# ---- pages of another origin -------------------------------------------------------------------


@pytest.mark.parametrize("rendered", ["by Python", "by Node"])
def test_page_of_another_port_cannot_read_or_replay(tmp_path: Path, rendered: str) -> None:
    environ = ssr() if rendered == "by Node" else {}
    with running(tmp_path, AUTH, **environ) as app:
        app.wait_until_all_ended()
        log_in(app)
        host = f"127.0.0.1:{app.server.port}"
        private_id = app.deliveries()[-1]["id"]
        for origin in ("http://127.0.0.1:8000", "http://eve.127.0.0.1:8000", "null"):
            for more in ({}, {"X-Forwarded-Host": origin.removeprefix("http://")}):
                headers = {"Origin": origin, **more}
                look = app.call("look", chosen=private_id, headers=headers)
                assert look.status_code == 200
                assert PRIVATE_NAME not in look.text
                replay = app.call("replay", "sync", chosen=private_id, headers=headers)
                assert "Queued" not in replay.text
        # The page of the app, with and without the headers of newer browsers.
        for headers in ({"Origin": f"http://{host}"}, {"Sec-Fetch-Site": "same-origin"}, {}):
            assert PRIVATE_NAME in app.call("look", headers=headers).text


# ---- wrong admin tokens ------------------------------------------------------------------------


def test_wrong_tokens_in_the_tab_never_block_the_right_one(tmp_path: Path) -> None:
    with running(tmp_path) as app:
        app.wait_until_all_ended()
        for _ in range(7):
            parts = app.parts(app.call("unlock", "wrong"))
            assert "not the admin token" in parts["rejection"]
            assert parts["token"] == ""
            assert PRIVATE_NAME not in str(parts)
        key = app.unlock("mine")
        assert key
        assert PRIVATE_NAME in app.call("look", session="mine", key=key).text
        assert app.server.output().count("admin token") == 2
        assert TOKEN not in app.server.output()


# ---- files of the store ------------------------------------------------------------------------

ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": None}
MOUNTED = """
from fastapi import FastAPI

outer = FastAPI()
outer.include_router(hooks.router("/gradio_api/webhooks"))
app = gr.mount_gradio_app(outer, demo, path="/", ssr_mode=False, **options)
"""
ALLOWED = "options = {'allowed_paths': ['.', '/tmp']}\n"
GIVE = """
with demo:
    path, file = gr.Textbox(), gr.File()
    gr.Button().click(lambda path: path, path, file, api_name="give")
"""
# hubhooks never sees the app that serves Gradio.
MOUNTED_WITHOUT_LIFESPAN = """
from fastapi import FastAPI

outer = FastAPI()
outer.mount("/gradio_api/webhooks", hooks)
app = gr.mount_gradio_app(outer, demo, path="/ui", ssr_mode=False, **options)
"""
MOUNTED_LATER = """
from contextlib import asynccontextmanager
from fastapi import FastAPI

@asynccontextmanager
async def lifespan(app):
    async with hooks.lifespan(None):
        yield

outer = FastAPI(lifespan=lifespan)
outer.mount("/gradio_api/webhooks", hooks)
app = gr.mount_gradio_app(outer, demo, path="/ui", ssr_mode=False, **options)
"""
MOUNTED_BEHIND_MIDDLEWARE = """
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

inner = gr.mount_gradio_app(FastAPI(), demo, path="/", ssr_mode=False, **options)
app = FastAPI()
app.include_router(hooks.router("/gradio_api/webhooks"))
app.mount("/ui", GZipMiddleware(inner))
"""
OWN_BLOCKED = "import os\noptions['blocked_paths'] = [os.path.abspath('Secret')]\n"
LAUNCHES = {
    "launch": ALLOWED + LAUNCH,
    "launch, own blocked paths": ALLOWED + OWN_BLOCKED + LAUNCH,
    "launch, static paths": "gr.set_static_paths(['.'])\n" + LAUNCH,
    "launch, static workers": ALLOWED + "options['num_workers'] = 2\n" + LAUNCH,
    "app_kwargs": ALLOWED + "demo.launch(app_kwargs=hooks.app_kwargs(), **options)\n",
    "mount": ALLOWED + MOUNTED,
    "mount, no lifespan": ALLOWED + MOUNTED_WITHOUT_LIFESPAN,
    "mount, own lifespan": ALLOWED + MOUNTED_LATER,
    "mount, behind middleware": ALLOWED + MOUNTED_BEHIND_MIDDLEWARE,
}
# Also a file that is put beside the store while the app runs.
FILES = ("", "-wal", "-shm", "-journal", ".runner", ".leader", "-wal.moved-2026", ".d/hubhooks")


@contextmanager
def serving(folder: Path, way: str, script: str, **environ: str | None) -> Iterator[App]:
    """Run the app in one of several ways, with a private delivery."""
    is_mounted = way.startswith("mount")
    variables = {**OFFLINE, "HUBHOOKS_ADMIN_TOKEN": TOKEN, **environ}
    command = UVICORN if is_mounted else ("app.py",)
    prints = None if is_mounted else "Running on local URL"
    with started(folder, *command, script=APP + script, prints=prints, environ=variables) as server:
        app = App(server)
        with app.client:
            response = server.post("/gradio_api/webhooks/", compact(sample_json(PRIVATE)))
            assert response.status_code == 202, response.text
            if not needs_poll(way):
                app.wait_until_all_ended()
            yield app


def needs_poll(way: str) -> bool:
    """Whether the page of the app is at `/ui`."""
    return way.startswith("mount, ")


def links_of_system(folder: Path, process: int | str) -> list[str]:
    """Return the links by which Linux names open files and the working directory of a process."""
    if not Path(f"/proc/{process}").is_dir():
        return []
    links = [f"/proc/{process}/cwd/hubhooks.db{suffix}" for suffix in FILES]
    return [*links, f"/proc/{process}/root{folder}/hubhooks.db-wal"]


def open_files(process: int) -> list[str]:
    """Return the links to the files of the store that a process holds open."""
    try:
        links = [*Path(f"/proc/{process}/fd").iterdir()]
    except FileNotFoundError:
        return []
    opened = [link.name for link in links if "hubhooks.db" in os.path.realpath(link)]
    return [f"/proc/{name}/fd/{link}" for link in opened for name in ("self", process)]


def give(app: App, prefix: str, path: str) -> str:
    """Ask a function of the app to return a file, and return the response."""
    response = app.client.post(f"{prefix}/gradio_api/run/give", json={"data": [path]})
    return response.text


@pytest.mark.parametrize("rendered", ["by Python", "by Node"])
@pytest.mark.parametrize("way", LAUNCHES)
def test_no_file_of_the_store_is_served(tmp_path: Path, way: str, rendered: str) -> None:
    if rendered == "by Node" and not way.startswith("launch"):
        pytest.skip("Node is in front of launched apps only")
    # Gradio's own check follows no link below a folder with a capital letter.
    folder = tmp_path / "An App"
    folder.mkdir()
    for name in ("Secret", "plain.txt"):
        (folder / name).write_text("plain", "utf-8")
    (folder / "other.db").symlink_to("hubhooks.db")
    environ: dict[str, str | None] = {}
    if way == "app_kwargs":
        environ = {"GRADIO_BLOCKED_PATHS": str(folder / "Secret")}
    environ |= ssr() if rendered == "by Node" else {}
    prefix = "/ui" if needs_poll(way) else ""
    cache = tmp_path / "cache"
    environ["GRADIO_TEMP_DIR"] = str(cache)
    with serving(folder, way, GIVE + LAUNCHES[way], **ON_DISK, **environ) as app:
        pid = app.server.pid
        files = [f"hubhooks.db{suffix}" for suffix in FILES]
        for name in files:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                path.write_text(PRIVATE_NAME, "utf-8")
        names = [*files, "other.db", *(str(folder / name) for name in files)]
        names += [f"{folder}/./hubhooks.db", f"{folder}/../{folder.name}/hubhooks.db-wal"]
        (folder / "Releases").mkdir()
        (folder / "Releases" / "current").symlink_to(folder)
        names += [f"Releases/current/{name}" for name in files]
        (folder / "Copy").hardlink_to(folder / "hubhooks.db-wal")
        names += ["Copy", *links_of_system(folder, "self"), *links_of_system(folder, pid)]
        names += open_files(pid)
        for name in names:
            for route in ("gradio_api/file=", "gradio_api/file/", "file="):
                url = f"{prefix}/{route}{name}"
                response = app.client.get(url, follow_redirects=True)
                if response.status_code == 502:  # Gradio's Node lost its connection to Python
                    response = app.client.get(url, follow_redirects=True)
                assert response.status_code in {403, 404}, (route, name)
                assert PRIVATE_NAME not in response.text
            give(app, prefix, name)
        assert "gradio.FileData" in give(app, prefix, "plain.txt")
        # Gradio copies what a function returns.
        assert {file.name for file in cache.rglob("*") if file.is_file()} <= {"plain.txt"}
        plain = app.client.get(f"{prefix}/gradio_api/file=plain.txt", follow_redirects=True)
        assert plain.text == "plain"
        if "blocked" in way or way == "app_kwargs":
            secret = app.client.get("/gradio_api/file=Secret", follow_redirects=True)
            assert secret.status_code == 403


# ---- deep links --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["launch", "app_kwargs", "mount"])
def test_deep_link_shares_no_private_data(tmp_path: Path, way: str) -> None:
    cache = tmp_path / "gradio"
    script = "options = {}\n" + LAUNCHES[way].removeprefix(ALLOWED)
    with serving(tmp_path, way, script, GRADIO_TEMP_DIR=str(cache)) as app:
        private_id = app.deliveries()[-1]["id"]
        key = app.unlock("mine")
        for name in ("choose", "look"):
            call = app.call(name, session="mine", key=key, chosen=private_id)
            assert PRIVATE_NAME in call.text
        for names in ("mine", "other&session_hash=mine", "mine&session_hash=other"):
            link = app.client.get(f"/gradio_api/deep_link?session_hash={names}")
            assert link.status_code == 200
            shared = app.client.get("/config", params={"deep_link": link.json()}).text
            for private in (PRIVATE_NAME, private_id, key, TOKEN):
                assert private not in shared
        # The rest of the page is still shared.
        link = app.client.get("/gradio_api/deep_link?session_hash=mine").json()
        shared = app.client.get("/config", params={"deep_link": link}).json()
        assert shared["deep_link_state"] == "valid"
        assert len(shared["components"]) == len(app.read_config()["components"])
        for file in cache.rglob("*"):
            if file.is_file():
                written = file.read_bytes()
                for private in (PRIVATE_NAME, private_id, key, TOKEN):
                    assert private.encode() not in written
        assert app.client.get("/gradio_api/deep_link?session_hash=unknown").json() == ""


# ---- unprintable text --------------------------------------------------------------------------


def test_the_tab_shows_no_unprintable_text(tmp_path: Path) -> None:
    marks = "\u202e\x9b\u200b"
    sample = with_overrides(
        sample_json(PUBLIC), {"repo.name": f"ada/{marks}exe", "event.action": marks}
    )
    with running(tmp_path) as app:
        response = app.server.post("/gradio_api/webhooks", compact(sample))
        assert response.status_code == 202
        delivery_id = response.json()["delivery"]
        key = app.unlock("mine")
        for session, held in (("other", ""), ("mine", key)):
            view = app.parts(app.call("look", session=session, key=held, chosen=delivery_id))
            for part in ("table", "facts"):
                shown = json.dumps(view[part], ensure_ascii=False)
                assert not any(mark in shown for mark in marks)
        assert "\\u202e" in view["table"]["value"]


LOGS = """
from starlette.middleware import Middleware


class Logs:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            print(scope["query_string"].decode(), scope["path"], flush=True)


logs = {"middleware": [Middleware(Logs)]}
"""


def test_websocket_at_the_webhook_path_is_rejected(tmp_path: Path) -> None:
    script = LAUNCH.replace("hooks.launch(demo", "hooks.launch(demo, app_kwargs=logs")
    with running(tmp_path, LOGS + script) as app:
        for path in ("/gradio_api/webhooks", "/gradio_api/webhooks/x", "/webhooks", "/webhooks/x"):
            output = ask_for_websocket(app.server, f"{path}?secret=s3cret-moon")
            assert b"403" in output
        printed = app.server.wait_for("/webhooks/x\n")
        assert "s3cret-moon" not in printed
