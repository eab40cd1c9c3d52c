"""Make the pictures of the docs: `make images`.

Start the apps, send them deliveries in the format of the Hub, and take screenshots in headless
Chromium. A local server stands in for the Hub, so no request leaves this machine.

The pictures of the README and of the docs go to `docs/images`. Those of the site, for a look at
its layout, go to `target/site-images`.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
import secrets
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import TYPE_CHECKING, Any

from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hub import running_hub
from servers import SECRET, started, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hub import Discussion
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
SITE_IMAGES = ROOT / "target" / "site-images"
# All pictures of the docs together.
LIMIT_KB = 600
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
COLOURS = ("light", "dark")
DESKTOP, PHONE = 1280, 390
# In the order of sending; the last one is the newest.
QUICKSTART_SAMPLES = [
    "repo.create",
    "repo.content.update.bucket",
    "repo.content.update.tag",
    "discussion.create.pull-request",
    "repo.content.update.pull-request",
    "discussion.comment.create",
    "discussion.update.merged",
    "repo.content.update",
    "repo.config.update.empty",
]
ACTIVITY_SAMPLES = [
    "repo.content.update",
    "repo.content.update.bucket",
    "repo.move",
    "repo.create",
    "discussion.comment.create",
    "discussion.create",
    "discussion.create.pull-request",
    "repo.config.update.empty",
]
DEV_SAMPLES = [
    "repo.create",
    "repo.content.update.bucket",
    "discussion.create.pull-request",
    "repo.content.update",
    "discussion.comment.create",
    "repo.config.update.empty",
]
SITE_PAGES = ["index", "tutorial", "gradio", "reference/webhooks"]
URL_IS_SHOWN = (
    "[...document.querySelectorAll('textarea, input')].some(e => e.value.includes('https:'))"
)
TOKEN = secrets.token_hex(16)
BOT, DATASET = "my-bot", "ada-labs/tide-gauges"
# The app of the README's picture is the bot of the README, in a Gradio app.
README_EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GRADIO_APP = """
import gradio as gr

with gr.Blocks(title="my-bot", fill_width=True) as demo:
    hooks.activity()
hooks.launch(demo)
"""
WEBHOOK_URL = re.compile(r"Webhook URL:\s+(\S+)")
# The app of the development page: the bot of the README, and a handler that prints and returns.
RETRAIN = """

@hooks.on("repo.content", repo_type="dataset", ref="main", retries=3)
def retrain(event) -> dict[str, int]:
    print("training on", event.repo.name)
    return {"epochs": 3}
"""
NOT_SET: dict[str, str | None] = dict.fromkeys(
    ["HF_TOKEN", "HUBHOOKS_ADMIN_TOKEN", "HUBHOOKS_DELIVERIES", "WEBHOOK_SECRET"]
)
PAGE_URL = re.compile(r"^page +(\S+)$", re.MULTILINE)
README_PICTURE = """
<style>
  body {{ background: #eef1f6; font: 15px/1.5 system-ui, sans-serif; margin: 0; }}
  main {{ align-items: start; display: flex; gap: 20px; padding: 20px; width: 1080px; }}
  section {{ background: white; border: 1px solid #d4dae4; border-radius: 10px; overflow: hidden; }}
  h2 {{ background: #f6f8fb; border-bottom: 1px solid #d4dae4; font-size: 15px; margin: 0;
        padding: 8px 16px; }}
  #discussion {{ flex: 0 0 330px; }}
  h3 {{ font-size: 17px; margin: 14px 16px 4px; }}
  article {{ border: 1px solid #d4dae4; border-radius: 8px; margin: 12px 16px 16px;
             overflow: hidden; }}
  article b {{ border-bottom: 1px solid #d4dae4; display: block; padding: 4px 12px; }}
  article p {{ margin: 8px 12px; }}
  .bot {{ border-color: #5b6ee1; }}
  .bot b {{ background: #eceffd; border-color: #5b6ee1; }}
  img {{ display: block; width: 100%; }}
</style>
<main>
  <section id="discussion"><h2>A discussion</h2><h3>{title}</h3>{comments}</section>
  <section><h2>The activity tab</h2><img src="{activity}"></section>
</main>
"""


@contextmanager
def running(app: str | Path, **environ: str | None) -> Iterator[str]:
    """Run a Gradio app; yield its URL."""
    variables: dict[str, str | None] = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": "{port}",
        "HF_HUB_OFFLINE": "1",
        "HUBHOOKS_ADMIN_TOKEN": TOKEN,
        "HUBHOOKS_DELIVERIES": None,
        "SPACE_HOST": "ada-labs-hub-watcher.hf.space",
        **environ,
    }
    with TemporaryDirectory() as folder:
        command = str(ROOT / app)
        with started(Path(folder), command, prints="Webhook URL", environ=variables) as server:
            yield server.url


def send(url: str, *arguments: str) -> None:
    """Send deliveries one after the other."""
    url = f"{url}/gradio_api/webhooks"
    command = [sys.executable, "-m", "hubhooks.cli", "send", url, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def send_samples(url: str, names: list[str]) -> None:
    """Send samples in this order."""
    send(url, *(word for name in names for word in ("--sample", name)))


def new_page(browser: Browser, width: int, height: int, **options: Any) -> Page:  # noqa: ANN401 - Playwright checks them
    """Open a page without access to other hosts."""
    page = browser.new_page(viewport={"width": width, "height": height}, **options)
    page.route(
        lambda url: not url.startswith(("http://127.0.0.1:", "file:", "data:", "about:")),
        lambda route: route.abort(),
    )
    return page


def save(picture: bytes, path: Path) -> None:
    """Save a screenshot as a small file: with 256 colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    # Other methods lose the few pixels of a coloured dot.
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    image.quantize(256, method=method, dither=dither).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB", flush=True)


def unlock(page: Page, row: str) -> None:
    """Enter the admin token, and open the newest delivery with this text."""
    page.locator("input[type=password]").fill(TOKEN)
    page.get_by_role("button", name="Unlock").click()
    page.get_by_role("button", name="Lock", exact=True).wait_for()
    page.get_by_text(row).filter(visible=True).first.click()


def readme_example() -> str:
    """Return the bot of the README."""
    example = README_EXAMPLE.search((ROOT / "README.md").read_text("utf-8"))
    if example is None:
        sys.exit("README.md has no example")
    return example[1]


def take_reply(browser: Browser) -> None:
    """Show a comment, the reply of the README's bot, and the activity tab of the bot."""
    with running_hub() as hub, TemporaryDirectory() as folder:
        ada, bot = hub.sign_up("ada"), hub.sign_up(BOT)
        ada.create_repo(DATASET, repo_type="dataset")
        app = Path(folder, "app.py")
        app.write_text(readme_example() + GRADIO_APP, "utf-8")
        environ = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": folder,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": None,
            "HF_TOKEN": bot.token,
            "NO_PROXY": "127.0.0.1",
            "SPACE_HOST": None,
        }
        with running(app, **environ) as url:
            watched = [{"type": "org", "name": "ada-labs"}]
            target = f"{url}/gradio_api/webhooks"
            bot.create_webhook(url=target, watched=watched, secret=SECRET)
            ada.create_discussion(
                DATASET,
                "Two gauges report the same timestamps",
                repo_type="dataset",
                description=f"@{BOT} can you look at this?",
            )
            (discussion,) = hub.repo(f"datasets/{DATASET}").discussions
            wait_until(lambda: len(discussion.comments) > 1)
            hub.settle()
            page = new_page(browser, 960, 1200, device_scale_factor=2)
            page.goto(f"{url}/?__theme=light")
            unlock(page, "discussion create")
            replay = page.get_by_role("button", name="Replay")
            replay.wait_for()
            replay.focus()  # not the cell of the table
            page.wait_for_timeout(1000)
            box = replay.bounding_box() or {"y": 0, "height": 0}
            height = box["y"] + box["height"] + 24
            activity = page.screenshot(clip={"x": 0, "y": 0, "width": 960, "height": height})
        page = new_page(browser, 1120, 900, device_scale_factor=2)
        page.set_content(readme_picture(discussion, activity))
        save(page.locator("main").screenshot(), IMAGES / "reply.png")


def readme_picture(discussion: Discussion, activity: bytes) -> str:
    """Return the page with the discussion beside the activity tab."""
    comments = [
        f'<article class="{"bot" if comment.author.name == BOT else ""}">'
        f"<b>{comment.author.name}</b><p>{html.escape(comment.content)}</p></article>"
        for comment in discussion.comments
    ]
    return README_PICTURE.format(
        title=html.escape(discussion.title),
        comments="".join(comments),
        activity=f"data:image/png;base64,{base64.b64encode(activity).decode()}",
    )


def take_quickstart(browser: Browser) -> None:
    """Show the quickstart Space with the newest event."""
    with running("examples/quickstart_space/app.py") as url:
        send_samples(url, QUICKSTART_SAMPLES)
        page = new_page(browser, 1100, 600)
        page.goto(f"{url}/?__theme=light")
        page.get_by_text("Settings changed").first.wait_for()
        page.wait_for_function(URL_IS_SHOWN)
        save(page.screenshot(), IMAGES / "quickstart-space.png")


def take_activity(browser: Browser) -> None:
    """Show the activity tab with every state: to an anonymous visitor and to the owner."""
    with running("scripts/every_state.py") as url, NamedTemporaryFile(suffix=".json") as file:
        file.write(b'{"event": {"action": "update"}}')
        file.flush()
        send(url, "--file", file.name)
        send_samples(url, ACTIVITY_SAMPLES)
        for name, colours, width, height in [
            ("light", "light", 1100, 1060),
            ("dark", "dark", 1100, 1060),
            ("phone", "light", PHONE, 860),
        ]:
            page = new_page(browser, width, height)
            page.goto(f"{url}/?__theme={colours}")
            page.get_by_text("stuck").filter(visible=True).first.wait_for()
            if name == "light":
                save(page.screenshot(), IMAGES / "activity-public.png")
            unlock(page, "repo.config")
            page.locator("pre", has_text="LookupError").first.wait_for()
            page.evaluate("scrollTo(0, 0)")
            save(page.screenshot(), IMAGES / f"activity-{name}.png")


@contextmanager
def developing() -> Iterator[str]:
    """Run `hubhooks dev` with deliveries, the last of which failed; yield the URL of its page."""
    example = readme_example()
    with TemporaryDirectory() as name:
        folder = Path(name)
        command = ("-m", "hubhooks.cli", "dev", "app.py", "--port", "{port}")
        script = example + RETRAIN
        with started(folder, *command, script=script, prints="secrets ", environ=NOT_SET) as server:

            def send_to_dev(*samples: str) -> None:
                send_from(folder, server.url, samples)

            send_to_dev(*DEV_SAMPLES)
            (folder / "app.py").write_text(script.replace("{repo.name}", "{repo.nam}"), "utf-8")
            server.wait_for("restarted in")
            send_to_dev("discussion.comment.create")
            server.wait_for("object has no attribute 'nam'")
            found = PAGE_URL.search(server.output())
            if found is None:
                sys.exit(f"`hubhooks dev` printed no page:\n{server.output()}")
            yield found[1]


def send_from(folder: Path, url: str, samples: tuple[str, ...]) -> None:
    """Send samples with the secret that `hubhooks dev` keeps in this folder."""
    words = [word for sample in samples for word in ("--sample", sample)]
    environ = {name: value for name, value in os.environ.items() if name not in NOT_SET}
    environ["PYTHONPATH"] = str(ROOT / "python")
    command = [sys.executable, "-m", "hubhooks.cli", "send", url, *words]
    quiet = subprocess.DEVNULL
    subprocess.run(command, check=True, stdout=quiet, stderr=quiet, cwd=folder, env=environ)


def take_dev(browser: Browser) -> None:
    """Show the page of `hubhooks dev`: a failed delivery, the dialog that sends, the handlers."""
    with developing() as url:
        for colours in COLOURS:
            page = new_page(browser, 1100, 680, color_scheme=colours)
            page.goto(url)
            open_failed(page)
            save(page.screenshot(), IMAGES / f"dev-{colours}.png")
            page.close()
        page = new_page(browser, 1100, 810)
        page.goto(url)
        page.locator("#rows").wait_for()
        page.keyboard.press("2")
        page.get_by_role("button", name="discussion.create: reply matches").click()
        page.get_by_role("heading", name="Handlers", exact=True).evaluate("e => e.blur()")
        save(page.screenshot(), IMAGES / "dev-handlers.png")
        page.keyboard.press("1")
        page.keyboard.press("n")
        page.get_by_label("Comment", exact=True).fill("@my-bot is this file complete?")
        page.locator("#compose .is-match").get_by_text("reply").wait_for()
        save(page.locator("#compose").screenshot(), IMAGES / "dev-compose.png")
        page.close()
        page = new_page(browser, PHONE, 760)
        page.goto(url)
        page.locator("#rows").wait_for()
        listed = page.screenshot()
        open_failed(page)
        page.evaluate("scrollTo(0, 0)")
        save(beside(listed, page.screenshot()), IMAGES / "dev-phone.png")


def open_failed(page: Page) -> None:
    """Open the newest failed delivery with its traceback."""
    page.locator("#rows > li").filter(has_text="failed").first.click()
    page.get_by_text("Traceback", exact=True).click()
    page.locator("pre", has_text="AttributeError").first.wait_for()


def beside(left: bytes, right: bytes) -> bytes:
    """Return one picture of two, with a gap."""
    gap = 24
    one, other = (Image.open(io.BytesIO(picture)).convert("RGB") for picture in (left, right))
    both = Image.new("RGB", (one.width + gap + other.width, one.height), "white")
    both.paste(one, (0, 0))
    both.paste(other, (one.width + gap, 0))
    buffer = io.BytesIO()
    both.save(buffer, "PNG")
    return buffer.getvalue()


def take_site(browser: Browser) -> None:
    """Show pages of the site from disk, for windows of a computer and of a phone."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder]
        environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        subprocess.run(command, check=True, cwd=ROOT, env=environ)
        for name in SITE_PAGES:
            for width in (DESKTOP, PHONE):
                for colours in COLOURS:
                    page = new_page(browser, width, 900, color_scheme=colours)
                    page.goto(Path(folder, f"{name}.html").as_uri())
                    file = f"{name.replace('/', '-')}-{width}-{colours}.png"
                    save(page.screenshot(), SITE_IMAGES / file)
                    page.close()


def main() -> None:
    """Make all pictures, or those that the arguments name."""
    os.environ["WEBHOOK_SECRET"] = SECRET
    pictures = {
        "reply": take_reply,
        "quickstart": take_quickstart,
        "activity": take_activity,
        "dev": take_dev,
        "site": take_site,
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name in sys.argv[1:] or pictures:
            pictures[name](browser)
        browser.close()
    size = sum(path.stat().st_size for path in IMAGES.iterdir()) // 1000
    print(f"docs/images: {size} kB")
    if size >= LIMIT_KB:
        sys.exit(f"docs/images should have less than {LIMIT_KB} kB")


if __name__ == "__main__":
    main()
