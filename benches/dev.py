"""The times of `hubhooks dev` and its page, with real processes and Chromium.

Run `python benches/dev.py [--only NAME]`. It needs Chromium, the
packages of the tests, FastAPI and Gradio. Each time begins with the event that a user sees: the
printed URL, the arrival of the delivery, or the rename of the saved file. It ends when the page or
the terminal shows the result. The limits are for one quiet machine; the exit code is 1 if a limit
is missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from dev_command import BROKEN, dev, failing, fill, numbered  # noqa: E402 - of `tests`
from pages import chromium, opened  # noqa: E402 - as above
from servers import wait_until  # noqa: E402 - as above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dev_command import Dev
    from pages import View
    from playwright.sync_api import Browser

PATH = "/_hubhooks/"
ROUNDS = 20
STORED = 10_000
RESTARTS = 5
HOOKS = """
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content")
def retrain(event):
    return event.scope
"""
FASTAPI = f"""
from fastapi import FastAPI
{HOOKS}
app = FastAPI()
app.include_router(hooks.router("/hub"))
"""
GRADIO = f"""
import gradio as gr
{HOOKS}
with gr.Blocks() as demo:
    gr.Markdown("tides")

if __name__ == "__main__":
    hooks.launch(demo)
"""


class Row(NamedTuple):
    """What was measured."""

    title: str
    seconds: list[float]
    limit: float


@contextmanager
def page_of(browser: Browser, script: str, *, stored: int = 0) -> Iterator[tuple[Dev, View, float]]:
    """Run the command; yield its page, and the seconds from the printed URL to the live page."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if stored:
            fill(folder, stored)
        running = stack.enter_context(dev(folder, script, "app.py"))
        began = time.monotonic()
        view = opened(browser, running.server, path=PATH, token=running.token)
        shown = stack.enter_context(view)
        yield running, shown, time.monotonic() - began


def live(browser: Browser) -> Row:
    seconds = []
    for _ in range(RESTARTS):
        with page_of(browser, HOOKS) as (_, _, waited):
            seconds.append(waited)
    return Row("page live, from its printed URL", seconds, 2.0)


def shown(browser: Browser) -> Row:
    seconds = []
    with page_of(browser, HOOKS) as (running, view, _):
        for number in range(ROUNDS):
            name = f"d{number}"
            running.deliver(name)
            view.row(name).wait_for()
            at = running.delivery(name).received_at.timestamp()
            seconds.append(view.shown_at(name) - at)
    return Row("delivery shown, from its arrival", seconds, 0.5)


def filtered(browser: Browser) -> Row:
    words = ["failed retrain", "r9999", "nothing at all", "no token", "move", "discussion r77"]
    with page_of(browser, HOOKS, stored=STORED) as (_, view, _):
        view.page.get_by_text(f"of {STORED:,} deliveries").wait_for()
        seconds = [view.filter(each) for each in words]
    return Row(f"filter of {STORED:,} deliveries answered", seconds, 0.2)


def replayed(browser: Browser) -> Row:
    """Save a fix, and press `r` at once; a run of the old code ends the measurement."""
    seconds = []
    with page_of(browser, failing(0)) as (running, view, _):
        for number in range(1, ROUNDS + 1):
            running.deliver(f"d{number}", body=numbered(number))
            running.attempts(f"d{number}", 1)
        for number in range(1, ROUNDS + 1):
            view.row(f"d{number}").focus()
            began = time.monotonic()
            running.write(failing(number))
            view.press("r")
            view.row(f"d{number}").locator(".is-succeeded").wait_for()
            seconds.append(time.monotonic() - began)
            _, last = running.attempts(f"d{number}", 2)
            assert last.result == f"'version {number}'", last
    return Row(f"Replay right after a save succeeded, {len(seconds)} of {ROUNDS}", seconds, 10.0)


def broken(browser: Browser) -> Row:
    seconds = []
    with page_of(browser, HOOKS) as (running, view, _):
        for _ in range(RESTARTS):
            began = time.monotonic()
            running.write(BROKEN)
            view.page.get_by_text("The app does not start: app.py:3").wait_for()
            seconds.append(time.monotonic() - began)
            running.write(HOOKS)
            view.page.get_by_text("The app does not start").wait_for(state="hidden")
    return Row("broken import shown, from the save", seconds, 2.0)


def restarted(script: str, what: str) -> Callable[[Browser], Row]:
    def measure(_: Browser) -> Row:
        seconds = []
        with tempfile.TemporaryDirectory() as name, dev(Path(name), script, "app.py") as running:
            for number in range(RESTARTS):
                before = running.server.output().count("restarted in")
                began = time.monotonic()
                running.write(f"{script}# edit {number}\n")
                wait_until(lambda n=before: running.server.output().count("restarted in") > n)
                seconds.append(time.monotonic() - began)
        return Row(f"{what} serves again, from the save", seconds, 10.0)

    return measure


MEASUREMENTS: dict[str, Callable[[Browser], Row]] = {
    "live": live,
    "shown": shown,
    "filter": filtered,
    "replay": replayed,
    "broken": broken,
    "bare": restarted(HOOKS, "bare `Webhooks`"),
    "fastapi": restarted(FASTAPI, "FastAPI app"),
    "gradio": restarted(GRADIO, "Gradio app"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure `hubhooks dev` and its page.")
    parser.add_argument("--only", choices=MEASUREMENTS)
    only = parser.parse_args().only
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    load = os.getloadavg()[0]
    print(f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load {load:.1f}")
    print(f"{'seconds':54} {'median':>7} {'worst':>7} {'limit':>7}")
    is_good = True
    with chromium() as browser:
        for name, measure in MEASUREMENTS.items():
            if only in {None, name}:
                title, seconds, limit = measure(browser)
                worst = max(seconds)
                is_good &= worst <= limit
                line = f"{title:54} {median(seconds):7.2f} {worst:7.2f} {limit:7.2f}"
                print(f"{line}{' MISSED' * (worst > limit)}", flush=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
