"""Take the pictures of the quickstart Space that the docs show, light and dark.

    python scripts/screenshot.py

Starts the Space, sends it a few deliveries as the Hub would, and looks at it in headless Chromium;
everything stays on this machine.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

from demo import free_port, wait_for
from playwright.sync_api import sync_playwright

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
# What the page is shown with; the last is the newest.
SAMPLES = [
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
URL_IS_SHOWN = (
    "[...document.querySelectorAll('textarea, input')].some(e => e.value.includes('https:'))"
)
WIDTH, HEIGHT = 1100, 600


def send(port: int, environ: dict[str, str]) -> None:
    """Send the deliveries, one after the other."""
    url = f"http://127.0.0.1:{port}/gradio_api/webhooks"
    names = [word for name in SAMPLES for word in ("--sample", name)]
    command = [sys.executable, "-m", "hubhooks.cli", "send", url, *names]
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)


def take(port: int) -> None:
    """Open the page in both colours, and keep what it shows once the newest event is there."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for colours in ("light", "dark"):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(f"http://127.0.0.1:{port}/?__theme={colours}")
            page.get_by_text("Settings changed").first.wait_for()
            page.wait_for_function(URL_IS_SHOWN)
            image = IMAGES / f"quickstart-space-{colours}.png"
            page.screenshot(path=image)
            print(f"{image.relative_to(ROOT)}: {image.stat().st_size // 1000} kB")
        browser.close()


def main() -> None:
    """Run the Space and take its pictures."""
    port = free_port()
    environ = {
        **os.environ,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "SPACE_HOST": "ada-labs-hub-watcher.hf.space",
        "WEBHOOK_SECRET": secrets.token_hex(16),
    }
    app = ROOT / "examples" / "quickstart_space" / "app.py"
    server = subprocess.Popen([sys.executable, str(app)], env=environ, stdout=subprocess.DEVNULL)
    try:
        wait_for(port, server)
        send(port, environ)
        take(port)
    finally:
        server.terminate()
        server.wait(timeout=30)


if __name__ == "__main__":
    main()
