"""Take the pictures that the docs show.

    python scripts/screenshot.py

Starts the apps, sends each a few deliveries as the Hub would, and looks at it in headless Chromium;
everything stays on this machine.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers import SECRET, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
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
# What the pages are shown with; the last is the newest.
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
URL_IS_SHOWN = (
    "[...document.querySelectorAll('textarea, input')].some(e => e.value.includes('https:'))"
)
WIDTH, HEIGHT, TALL = 1100, 600, 860
TOKEN = secrets.token_hex(16)


@contextmanager
def running(app: str) -> Iterator[str]:
    """Run an app of Gradio; give its address."""
    environ: dict[str, str | None] = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": "{port}",
        "HF_HUB_OFFLINE": "1",
        "HUBHOOKS_ADMIN_TOKEN": TOKEN,
        "HUBHOOKS_DELIVERIES": None,
        "SPACE_HOST": "ada-labs-hub-watcher.hf.space",
    }
    with TemporaryDirectory() as folder:
        command = str(ROOT / app)
        with started(Path(folder), command, prints="Webhook URL", environ=environ) as server:
            yield server.url


def send(url: str, *arguments: str) -> None:
    """Send deliveries, one after the other."""
    url = f"{url}/gradio_api/webhooks"
    command = [sys.executable, "-m", "hubhooks.cli", "send", url, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def send_samples(url: str, names: list[str]) -> None:
    """Send samples, in their order."""
    send(url, *(word for name in names for word in ("--sample", name)))


def keep(page: Page, name: str) -> None:
    """Keep what a page shows."""
    image = IMAGES / f"{name}.png"
    page.screenshot(path=image)
    print(f"{image.relative_to(ROOT)}: {image.stat().st_size // 1000} kB")


def take_quickstart(browser: Browser) -> None:
    """Show the quickstart Space, once the newest event is there."""
    with running("examples/quickstart_space/app.py") as url:
        send_samples(url, QUICKSTART_SAMPLES)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"{url}/?__theme=light")
        page.get_by_text("Settings changed").first.wait_for()
        page.wait_for_function(URL_IS_SHOWN)
        keep(page, "quickstart-space")


def take_activity(browser: Browser) -> None:
    """Show rows of every state to a stranger, and to the owner of the app in both colours."""
    with running("scripts/every_state.py") as url, NamedTemporaryFile(suffix=".json") as file:
        file.write(b'{"event": {"action": "update"}}')
        file.flush()
        send(url, "--file", file.name)
        send_samples(url, ACTIVITY_SAMPLES)
        for colours in ("light", "dark"):
            page = browser.new_page(viewport={"width": WIDTH, "height": TALL})
            page.goto(f"{url}/?__theme={colours}")
            page.get_by_text("stuck").filter(visible=True).first.wait_for()
            if colours == "light":
                keep(page, "activity-public")
            page.locator("input[type=password]").fill(TOKEN)
            page.get_by_role("button", name="Unlock").click()
            page.get_by_text("ada-labs/gauge-uploads").filter(visible=True).first.wait_for()
            page.get_by_text("repo.config").filter(visible=True).first.click()
            page.locator("pre", has_text="LookupError").first.wait_for()
            keep(page, f"activity-{colours}")


def main() -> None:
    """Take all pictures."""
    os.environ["WEBHOOK_SECRET"] = SECRET
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        take_quickstart(browser)
        take_activity(browser)
        browser.close()


if __name__ == "__main__":
    main()
