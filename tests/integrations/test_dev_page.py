"""The page of `hubhooks dev` in Chromium: the real command, real deliveries, real edits."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from dev_command import BROKEN, NOTHING_SET, TWO_WEBHOOKS, Dev, dev, failing, fill, numbered
from pages import DESKTOP, NARROW, load_axe, opened
from servers import PATIENCE, ROOT, serve

from hubhooks import HubEvent
from hubhooks._samples import (
    compact,
    sample_json,
    sample_names,
    with_overrides,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pages import View
    from playwright.sync_api import Browser, Locator

PATH = "/_hubhooks/"
COMMENT = "discussion.comment.create"
# A machine with other work is slower than the limits of the page.
MARGIN = 5
APP = """
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content", repo="ada-labs/*")
def retrain(event):
    print("trained", event.repo.name)

@hooks.on("discussion.comment", when=lambda event: "@my-bot" in event.comment.content)
def reply(event):
    return "hello"
"""


class Shown(NamedTuple):
    """A running `hubhooks dev` and its page."""

    dev: Dev
    view: View
    seconds: float
    """The time from the printed URL to the live page."""

    def open(self, delivery_id: str) -> Locator:
        """Open a delivery, and return the part of the page that shows it."""
        self.view.row(delivery_id).click()
        detail = self.view.page.locator(".detail")
        detail.get_by_text(delivery_id, exact=True).wait_for()
        return detail


@pytest.fixture
def develop(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Shown]]:
    """Run `hubhooks dev`, and open its page: `develop(script, environ={}, size=..., theme=...)`."""
    with ExitStack() as stack:

        def develop(
            script: str = APP, environ: dict[str, str] | None = None, **options: Any
        ) -> Shown:
            running = stack.enter_context(dev(tmp_path, script, "app.py", **(environ or {})))
            began = time.monotonic()
            options = {"path": PATH, "token": running.token, **options}
            view = stack.enter_context(opened(browser, running.server, **options))
            return Shown(running, view, time.monotonic() - began)

        yield develop


def send(running: Dev, delivery_id: str, *options: str) -> None:
    """Run `hubhooks send` in the folder, with nothing exported."""
    command = [sys.executable, "-m", "hubhooks.cli", "send", running.server.url]
    variables = {key: os.environ[key] for key in os.environ if key not in NOTHING_SET}
    subprocess.run(
        [*command, "--id", delivery_id, *options],
        cwd=running.folder,
        env={**variables, "PYTHONPATH": str(ROOT / "python")},
        stdout=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=True,
    )


# ---- start ---------------------------------------------------------------------------------------

# Python loads a module of this name at each start.
AUDIT = """
import os, sys

def audit(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        where = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = where[0] if isinstance(where, tuple) else where
        with open(os.environ["AUDIT_FILE"], "a") as file:
            file.write(f"{host!r}\\n")

sys.addaudithook(audit)
"""


def test_page_is_live_soon_and_asks_only_this_machine(
    develop: Callable[..., Shown], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("audit")
    (folder / "sitecustomize.py").write_text(AUDIT, "utf-8")
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://192.0.2.1:9")
    environ = {
        **nowhere,
        **{name.lower(): value for name, value in nowhere.items()},
        "AUDIT_FILE": str(folder / "hosts"),
        "PYTHONPATH": f"{ROOT / 'python'}{os.pathsep}{folder}",
    }
    running, _, seconds = develop(environ=environ)
    assert seconds < 2 * MARGIN
    assert running.server.output().count(PATH) == 1
    sent = {"body": sample_json(COMMENT), "id": "sent"}
    (response,) = running.api("send", "POST", json=sent).json()["responses"]
    assert response["status"] == 202
    running.attempts("sent", 1)
    hosts = set((folder / "hosts").read_text("utf-8").split("\n")) - {""}
    assert hosts == {"'127.0.0.1'"}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_choice_of_the_webhook_opens_its_page(develop: Callable[..., Shown], theme: str) -> None:
    running, view, _ = develop(TWO_WEBHOOKS, size=NARROW, theme=theme)
    body = compact(with_overrides(sample_json("repo.create"), {"repo.type": "dataset"}))
    assert running.deliver("d1", "/webhooks/datasets", body).status_code == 202
    view.page.get_by_text("No deliveries yet").wait_for()
    choice = view.page.get_by_label("Webhook", exact=True)
    choice.wait_for()
    assert choice.locator("option").all_inner_texts() == ["/webhooks/models", "/webhooks/datasets"]
    load_axe(view.page)
    view.check_axe()
    choice.select_option("/webhooks/datasets")
    view.row("d1").wait_for()
    assert choice.evaluate("select => select.selectedOptions[0].text") == "/webhooks/datasets"
    assert running.token not in view.page.url
    view.page.reload()
    view.row("d1").wait_for()
    view.page.go_back()
    view.page.get_by_text("No deliveries yet").wait_for()


def test_rows_name_the_discussion_and_headers_have_names(develop: Callable[..., Shown]) -> None:
    shown = develop()
    send(shown.dev, "first", "--sample", COMMENT)
    detail = shown.open("first")
    title = sample_json(COMMENT)["discussion"]["title"]
    shown.view.row("first").get_by_text(f"#7 {title}").wait_for()
    detail.get_by_role("button", name="Headers", exact=True).click()
    detail.get_by_text("webhook-id", exact=True).wait_for()
    names, values = (detail.locator(f".facts {tag}").all_inner_texts() for tag in ("dt", "dd"))
    headers = dict(zip(names, values, strict=True))
    assert headers["webhook-id"] == "first"
    assert headers["content-type"] == "application/json"
    assert headers["x-webhook-secret"] == "(redacted)"


def test_replayed_delivery_moves_to_the_top(develop: Callable[..., Shown]) -> None:
    shown = develop()
    for delivery_id in ("first", "second"):
        send(shown.dev, delivery_id, "--sample", COMMENT)
        shown.dev.attempts(delivery_id, 1)
    shown.view.row("second").wait_for()
    shown.open("first").get_by_role("button", name="Replay", exact=True).click()
    shown.view.wait("document.querySelector('#rows > li').dataset.id === 'first'")
    shown.view.page.reload()
    shown.view.row("second").wait_for()
    ids = [row.get_attribute("data-id") for row in shown.view.rows.all()]
    assert ids == ["first", "second"]
    times = [row.locator("time").get_attribute("datetime") for row in shown.view.rows.all()]
    assert times == sorted(times, reverse=True)


def test_sent_delivery_is_shown_without_reading_the_list(develop: Callable[..., Shown]) -> None:
    running, view, _ = develop()
    view.page.get_by_text("No deliveries yet").wait_for()
    asked = view.requests.count("GET deliveries")
    for number in range(3):
        send(running, f"d{number}", "--sample", COMMENT)
        view.row(f"d{number}").locator(".is-succeeded").wait_for()
        waited = (
            view.shown_at(f"d{number}") - running.delivery(f"d{number}").received_at.timestamp()
        )
        assert waited < 0.5 * MARGIN
    assert view.requests.count("GET deliveries") == asked


# ---- hostile payloads and many deliveries --------------------------------------------------------

HOSTILE = {
    "repo.name": "ada-labs/<img src=x onerror=alert(1)>",
    "repo.url.web": 'https://huggingface.co/ada/x" onclick="alert(1)',
    "discussion.title": "\u202eevil ${alert(1)} {{x}} </title><script>alert(1)</script>",
    "discussion.url.web": "javascript:alert(1)",
    "comment.url.web": "https://huggingface.co@eve.example/",
    "comment.content": "@my-bot `${alert(1)}` \u200f \x1b[31m \ud800 <svg onload=alert(1)>",
}
LOUD = """
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on()
def shout(event):
    print("<b>printed</b>", event.repo.name)
    raise ValueError("<img src=y onerror=alert(2)> ${alert(2)} \\ud801 \\u202e")
"""


def test_hostile_payloads_are_shown_as_text(develop: Callable[..., Shown]) -> None:
    running, view, _ = develop(LOUD)
    nested: Any = {"bottom": True}
    for _ in range(63):
        nested = {"in": nested}
    body = with_overrides(sample_json(COMMENT), HOSTILE)
    body |= {"deep": nested, "<b>key</b>": "x" * 100_000, "many": list(range(3000))}
    assert running.deliver("<i>d1</i>/%2F?#", body=compact(body)).status_code == 202
    (attempt,) = running.attempts("<i>d1</i>/%2F?#", 1)
    assert attempt.state == "failed"
    row = view.rows.filter(has_text=HOSTILE["repo.name"])
    row.locator(".is-failed").wait_for()
    assert "<img src=y onerror=alert(2)>" in row.inner_text()
    row.click()
    detail = view.page.locator(".detail")
    tree = detail.locator(".tree")
    tree.wait_for()
    detail.get_by_text("<i>d1</i>/%2F?#", exact=True).wait_for()
    text = detail.inner_text()
    for part in ("<svg onload=alert(1)>", "\\ud800", "<b>printed</b>", "onerror=alert(2)"):
        assert part in text
    links = [link.get_attribute("href") for link in detail.get_by_role("link").all()]
    assert links == ["https://huggingface.co/ada/x%22%20onclick=%22alert(1)"]
    for depth in range(64):
        path = ".".join(["deep", *["in"] * depth])
        toggle = tree.get_by_role("button", name=f"{path}, 1 inside", exact=True)
        if toggle.get_attribute("aria-expanded") == "false":
            toggle.click()
    tree.get_by_text("bottom").wait_for()
    assert view.page.locator("img, svg, b, i, script:not([src])").count() == 0
    # The copied test has the same body.
    view.press("t")
    view.page.get_by_role("status").filter(has_text="Copied a test").wait_for()
    assert "\x1b" not in view.page.evaluate("navigator.clipboard.readText()")
    view.press("e")
    view.page.locator("#compose .matches").wait_for()
    assert "alert(1)" in view.page.get_by_label("JSON").input_value()
    view.close_dialog("compose")
    view.page.get_by_role("link", name="Output").click()
    view.page.get_by_text("<b>printed</b>").wait_for()


@pytest.mark.parametrize("body", [b'{"a": <img src=x onerror=alert(1)>', b"\xff\xfe<b>", b"[]"])
def test_malformed_bodies_are_shown_as_text(develop: Callable[..., Shown], body: bytes) -> None:
    running, view, _ = shown = develop()
    running.deliver("d1", body=body)
    detail = shown.open("d1")
    detail.get_by_text("malformed").first.wait_for()
    assert view.page.locator(".detail img, .detail b").count() == 0
    detail.get_by_role("button", name="Raw").click()
    raw = detail.get_by_role("region", name="Body").inner_text()
    assert raw == body.decode("utf-8", "backslashreplace")


def test_body_of_a_bucket_with_1_4_mb_is_not_loaded(develop: Callable[..., Shown]) -> None:
    running, view, _ = shown = develop()
    body = sample_json("repo.content.update.bucket")
    file = body["updatedFiles"][0]
    count = 1_500_000 // len(compact(file))
    body["updatedFiles"] = [{**file, "path": f"data/{number}"} for number in range(count)]
    assert len(compact(body)) > 1_400_000
    for number in range(2):
        assert running.deliver(f"d{number}", body=compact(body)).status_code == 202
    detail = shown.open("d1")
    detail.get_by_text("hubhooks deliveries export d1").wait_for()
    view.row("d1").focus()
    began = time.monotonic()
    view.press("j")
    view.wait("document.activeElement.dataset.id === 'd0'")
    assert time.monotonic() - began < 0.1 * MARGIN


def test_filter_of_10_000_deliveries_is_quick(
    develop: Callable[..., Shown], tmp_path: Path
) -> None:
    fill(tmp_path, 10_000)
    view = develop().view
    view.page.get_by_text("100 of 10,000 deliveries").wait_for()
    seconds = []
    for words, shown in (
        ("failed retrain", "failed"), ("r9999", "r9999"), ("nothing at all", ""),
        ("no token", "ValueError"), ("move", "move"),
    ):  # fmt: skip
        seconds.append(view.filter(words))
        texts = view.rows.all_text_contents()
        assert bool(texts) is bool(shown)
        assert all(shown in text for text in texts)
    assert statistics.median(seconds) < 0.2 * MARGIN, seconds
    # The list is read at the sign-in and when the stream begins, and then once for each filter.
    assert view.requests.count("GET deliveries") == 2 + len(seconds)


def test_selection_focus_and_scroll_survive_100_arrivals(
    develop: Callable[..., Shown], tmp_path: Path
) -> None:
    fill(tmp_path, 200)
    running, view, _ = shown = develop()
    shown.open("old160")
    view.page.locator(".tree").wait_for()
    view.row("old158").focus()
    read = """() => [
        document.activeElement.dataset.id,
        Math.round(document.activeElement.getBoundingClientRect().top),
        getSelection().toString(),
        document.querySelector("#rows > [aria-selected=true]").dataset.id,
    ]"""
    view.page.evaluate("getSelection().selectAllChildren(document.querySelector('.detail .tree'))")
    before = view.page.evaluate(read)
    assert (before[0], before[3]) == ("old158", "old160")
    assert before[2]
    for number in range(100):
        assert running.deliver(f"d{number}").status_code == 202
    view.row("d99").locator(".is-succeeded").wait_for()
    view.page.get_by_text("of 300 deliveries").wait_for()
    after = view.page.evaluate(read)
    # The browser rounds the height of each row.
    assert abs(after[1] - before[1]) <= 2
    assert [after[0], *after[2:]] == [before[0], *before[2:]]


# ---- edits ---------------------------------------------------------------------------------------

ROUNDS = 20


@pytest.mark.slow
def test_replay_right_after_the_fix_runs_the_new_code(develop: Callable[..., Shown]) -> None:
    running, view, _ = shown = develop(failing(0))
    names = [f"d{number}" for number in range(1, ROUNDS + 1)]
    for number, name in enumerate(names, 1):
        assert running.deliver(name, body=numbered(number)).status_code == 202
    view.row(names[-1]).locator(".is-failed").wait_for()
    for version, name in enumerate(names, 1):
        running.attempts(name, 1)
        view.row(name).focus()
        running.write(failing(version))
        view.press("r")
        _, last = running.attempts(name, 2)
        assert (last.state, last.result) == ("succeeded", f"'version {version}'")
        view.row(name).locator(".is-succeeded").wait_for()
    detail = shown.open(names[-1])
    first, second = detail.locator(".attempt").all()
    assert "succeeded" in second.inner_text()
    assert f"version {ROUNDS}" in second.inner_text()
    first.locator("summary").click()
    assert "# line of version 0" in first.inner_text()
    attempts = running.api(f"deliveries/{names[-1]}/attempts").json()["attempts"]
    assert [(each["state"], each["error"]) for each in attempts] == [
        ("failed", "ValueError: no token"), ("succeeded", ""),
    ]  # fmt: skip


def test_each_attempt_has_its_own_source_line(develop: Callable[..., Shown]) -> None:
    running, view, _ = shown = develop(failing(0))
    running.deliver("d1", body=numbered(9))
    running.attempts("d1", 1)
    detail = shown.open("d1")
    detail.locator(".attempt").wait_for()
    running.write("# one more line\n" + failing(3))
    view.press("r")
    detail.locator(".attempt").nth(1).wait_for()
    running.attempts("d1", 2)
    view.wait("document.querySelectorAll('.attempt summary').length === 2")
    lines = []
    for attempt in detail.locator(".attempt").all():
        attempt.locator("summary").click()
        lines.append(attempt.inner_text())
    assert "line 10, in retrain" in lines[0]
    assert "# line of version 0" in lines[0]
    assert "line 11, in retrain" in lines[1]
    assert "# line of version 3" in lines[1]


BLOCKED = """
import time
from pathlib import Path
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content")
def retrain(event):
    while not Path("go").exists():
        time.sleep(0.01)
    raise ValueError("no token")  # line of version {version}
"""


def test_run_that_fails_during_a_restart_shows_the_old_line(
    develop: Callable[..., Shown],
) -> None:
    running, *_ = develop(BLOCKED.replace("{version}", "1"))
    running.deliver("d1")
    running.server.wait_until(
        lambda: running.delivery("d1").runs[0].state == "running", "does not run d1"
    )
    # The old process raises while the file already has the new code.
    running.write("# another file\n" * 3 + BLOCKED.replace("{version}", "2"))
    (running.folder / "go").touch()
    attempt, *_ = running.attempts("d1", 1)
    assert "# line of version 1" in attempt.traceback


def test_broken_import_is_shown_and_loses_no_delivery(develop: Callable[..., Shown]) -> None:
    running, view, _ = shown = develop()
    running.deliver("d1")
    view.row("d1").locator(".is-succeeded").wait_for()
    running.write(BROKEN)
    began = time.monotonic()
    view.page.get_by_text("The app does not start: app.py:3").wait_for()
    assert time.monotonic() - began < 2 * MARGIN
    view.page.get_by_role("button", name="Show the traceback").click()
    assert "No module named 'no_such_module'" in view.page.locator("main").inner_text()
    view.page.get_by_role("link", name="Deliveries").click()
    # Nobody mends the app: the sender gets an answer, and tries again later.
    began = time.monotonic()
    assert running.deliver("unmended").status_code == 503
    assert time.monotonic() - began < 12
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(running.deliver, "d2")
        # The page works meanwhile.
        detail = shown.open("d1")
        detail.locator(".tree").wait_for()
        running.write(APP)
        assert sent.result(PATIENCE).status_code == 202
    view.row("d2").locator(".is-succeeded").wait_for()
    view.page.get_by_text("The app does not start").wait_for(state="hidden")
    assert view.row("unmended").count() == 0
    detail.get_by_role("button", name="Replay", exact=True).click()
    assert [attempt.state for attempt in running.attempts("d1", 2)] == ["succeeded"] * 2
    detail.locator(".attempt").nth(1).wait_for()
    # The tab was never loaded again.
    assert view.requests.count("GET app") == 1


def test_app_that_is_broken_from_the_start_is_shown(develop: Callable[..., Shown]) -> None:
    running, view, _ = develop("import no_such_module\n")
    view.page.get_by_text("The app does not start: app.py:1").wait_for()
    running.write(BROKEN)
    view.page.get_by_text("The app does not start: app.py:3").wait_for()
    running.write(APP)
    view.page.get_by_text("The app does not start").wait_for(state="hidden")
    running.deliver("d1")
    view.row("d1").locator(".is-succeeded").wait_for()


def test_open_delivery_follows_an_edit_of_the_filters(develop: Callable[..., Shown]) -> None:
    running, *_ = shown = develop(APP.replace("ada-labs/*", "nobody/none"))
    running.deliver("d1")
    detail = shown.open("d1")
    run = detail.locator(".run", has_text="retrain does not match")
    run.wait_for()
    running.write(APP)
    detail.locator(".run", has_text="retrain matches").wait_for()
    run.wait_for(state="detached")
    detail.get_by_role("button", name="Run it: retrain").click()
    detail.locator(".title .is-succeeded").wait_for()


def test_page_follows_an_edit_that_names_another_store(develop: Callable[..., Shown]) -> None:
    running, view, _ = develop()
    running.deliver("d1")
    view.row("d1").wait_for()
    running.write(APP.replace("Webhooks()", 'Webhooks(deliveries="other.db")'))
    view.row("d1").wait_for(state="detached")
    running.deliver("d2")
    view.row("d2").locator(".is-succeeded").wait_for()
    assert view.rows.count() == 1


def test_hidden_tab_closes_its_stream_until_it_is_seen(develop: Callable[..., Shown]) -> None:
    running, view, _ = develop()
    hide = """isHidden => {
        Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    view.page.evaluate(hide, True)
    view.page.locator(".connection.is-lost").wait_for()
    running.deliver("d1")
    running.attempts("d1", 1)
    assert view.requests.count("GET events") == 1
    assert view.rows.count() == 0
    view.page.evaluate(hide, False)
    view.row("d1").locator(".is-succeeded").wait_for()
    view.page.locator(".connection.is-live").wait_for()


# ---- keys, copies and accessibility --------------------------------------------------------------


def run_pasted(running: Dev, test: str) -> int:
    """Run a copied test beside the app; return the exit code of pytest."""
    (running.folder / "test_pasted.py").write_text(test, "utf-8")
    variables = {key: os.environ[key] for key in os.environ if key not in NOTHING_SET}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_pasted.py"],
        cwd=running.folder,
        env={**variables, "PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert b"1 passed" in done.stdout or b"1 failed" in done.stdout, done.stdout
    return done.returncode


def test_keys_are_enough_to_send_replay_and_copy_a_test(develop: Callable[..., Shown]) -> None:
    running, view, _ = develop()
    page = view.page
    view.press("n")
    page.locator("#compose .matches").wait_for()
    view.wait("document.activeElement.id === 'compose-source'")
    assert COMMENT in page.locator("#compose-source").input_value()
    view.tab_to("e.labels?.[0]?.innerText.trim() === 'Comment'")
    page.keyboard.press("Control+A")
    page.keyboard.type("nothing for a bot")
    page.locator("#compose").get_by_text("reply does not match").wait_for()
    page.keyboard.press("Control+A")
    page.keyboard.type("@my-bot hello")
    page.locator("#compose .is-match").get_by_text("reply").wait_for()
    view.press("Control+Enter")
    page.locator("#compose .responses").get_by_text("202").first.wait_for()
    view.tab_to("e.ariaLabel?.startsWith('Open delivery')")
    view.press("Enter")
    page.locator(".detail .run").first.wait_for()
    assert view.focused() == "detail-title"
    view.tab_to("e.ariaLabel === 'Replay this: reply'")
    view.press("Enter")
    page.get_by_role("status").filter(has_text="Replay: reply").first.wait_for()
    page.locator(".attempt").nth(1).wait_for()
    (sent,) = running.api("deliveries").json()["deliveries"]
    attempts = running.attempts(sent["id"], 2)
    assert [attempt.result for attempt in attempts] == ["'hello'"] * 2
    body = running.api(f"deliveries/{sent['id']}").json()["body"]
    assert body["comment"]["content"] == "@my-bot hello"
    view.press("t")
    page.get_by_role("status").filter(has_text="Copied a test").wait_for()
    test = page.evaluate("navigator.clipboard.readText()")
    assert running.token not in test
    assert run_pasted(running, test) == 0
    running.write(APP.replace('return "hello"', 'raise ValueError("no token")'))
    assert run_pasted(running, test) == 1


@pytest.mark.parametrize(
    ("theme", "size"),
    [
        ("light", DESKTOP),
        ("dark", DESKTOP),
        ("light", NARROW),
        # A zoom of 200 % halves the size in CSS pixels.
        ("dark", {"width": DESKTOP["width"] // 2, "height": DESKTOP["height"] // 2}),
    ],
    ids=["light", "dark", "320 px", "200 %"],
)
def test_axe_finds_no_violation(
    develop: Callable[..., Shown], theme: str, size: dict[str, int]
) -> None:
    running, view, _ = shown = develop(LOUD, size=size, theme=theme)
    page = view.page
    load_axe(view.page)
    page.get_by_text("No deliveries yet").wait_for()
    view.check_axe()
    for number, sample in enumerate(sample_names()[::5]):
        running.deliver(f"d{number}", body=compact(sample_json(sample)))
    view.row("d6").locator(".is-failed").wait_for()
    view.check_axe()
    detail = shown.open("d6")
    detail.locator(".attempt summary").click()
    view.check_axe()
    view.press("n")
    page.locator("#compose .is-match").wait_for()
    view.check_axe()
    view.close_dialog("compose")
    view.press("?")
    page.locator("#help").wait_for()
    view.check_axe()
    view.close_dialog("help")
    view.press("Escape", "R")
    page.locator("#question").wait_for()
    view.check_axe()
    view.close_dialog("question")
    page.get_by_label("Filter deliveries").fill("nothing at all")
    page.get_by_text("No delivery matches the filter.").wait_for()
    view.check_axe()
    page.get_by_role("link", name="Handlers").click()
    page.locator(".cell").first.click()
    view.check_axe()
    running.write(BROKEN)
    page.get_by_text("The app does not start").wait_for()
    view.check_axe()
    page.get_by_role("link", name="Output").click()
    page.get_by_text("No module named").first.wait_for()
    view.check_axe()


# ---- matches and security ------------------------------------------------------------------------

MANY = """
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content", repo="ada-labs/*", ref="main")
def retrain(event): ...

@hooks.on("discussion.comment", when=lambda event: "@" in event.comment.content)
def reply(event): ...

@hooks.on("discussion", "repo", action="create")
def note(event): ...

@hooks.on()
async def everything(event): ...

@hooks.on("repo", action="delete", repo="nobody/none")
def never(event): ...
"""


def test_matrix_equals_explain(develop: Callable[..., Shown]) -> None:
    view = develop(MANY).view
    names: dict[str, Any] = {}
    exec(MANY, names)
    view.page.get_by_role("link", name="Handlers").click()
    view.wait(f"document.querySelectorAll('.cell').length === {5 * len(sample_names())}")
    shown = view.page.evaluate(
        """() => [...document.querySelectorAll(".cell")]
            .map(cell => [cell.ariaLabel, cell.innerText])"""
    )
    expected = []
    for sample in sample_names():
        event = HubEvent.from_json(compact(sample_json(sample)))
        for text in names["hooks"].explain(event):
            handler = text.split("`")[1]
            is_match = text == f"`{handler}` matches"
            verb = "matches" if is_match else "does not match"
            expected.append([f"{sample}: {handler} {verb}", "\u2713" if is_match else "\u2013"])
    assert len(expected) == 35 * 5
    assert shown == expected
    assert view.page.locator(".handler", has_text="never").get_by_text("Matches none").count() == 1
    view.page.get_by_text("app.py:6").wait_for()


def test_page_rejects_other_hosts_sites_and_callers(develop: Callable[..., Shown]) -> None:
    running = develop().dev
    running.deliver("d1")
    ask = running.server.request
    token = {"Authorization": f"Bearer {running.token}"}
    cases: list[tuple[str, dict[str, str], int]] = [
        (api, headers, status)
        for api in ("api/deliveries", "api/events", "api/app", "api/deliveries/d1/attempts")
        for headers, status in (
            ({**token, "Host": "evil.example"}, 421),
            ({**token, "Host": "evil.example", "X-Forwarded-Host": "127.0.0.1"}, 421),
            ({**token, "Host": "127.0.0.1.evil.example"}, 421),
            ({**token, "Sec-Fetch-Site": "cross-site"}, 403),
            ({**token, "Sec-Fetch-Site": "same-site"}, 403),
            ({**token, "Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"}, 403),
            ({}, 401),
            ({"Cookie": f"token={running.token}"}, 401),
            ({"Authorization": f"Bearer {running.secret}"}, 403),
        )
    ]
    cases += [(path, {"Host": "evil.example"}, 421) for path in ("", "app.js", "none", "none.js")]
    for path, headers, status in cases:
        response = ask(f"{PATH}{path}", headers=headers)
        assert response.status_code == status, (path, headers)
        assert response.content == b""
    responses = [
        *(ask(f"{PATH}{path}", headers=headers) for path, headers, _ in cases),
        *(ask(f"{PATH}{path}", method) for path in ("", "none", "api/none") for method in METHODS),
        ask(PATH.rstrip("/")),
    ]
    for response in responses:
        assert response.headers["content-security-policy"].startswith("default-src 'none';")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in response.headers


METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE")


def test_page_of_another_origin_reads_nothing(
    develop: Callable[..., Shown], browser: Browser
) -> None:
    running, *_ = develop()
    running.deliver("d1")
    with serve(_nothing) as port:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://localhost:{port}/")
        address = f"{running.server.url}{PATH}api/deliveries"
        for headers in ({}, {"authorization": f"Bearer {running.token}"},
                        {"x-forwarded-host": f"localhost:{port}"}):  # fmt: skip
            result = page.evaluate(
                """([url, headers]) => fetch(url, { headers })
                    .then(response => response.text(), error => error.name)""",
                [address, headers],
            )
            assert result == "TypeError"
        frame = """url => new Promise(resolve => {
            const frame = document.createElement("iframe");
            frame.onload = () => resolve(frame.contentDocument === null);
            frame.src = url;
            document.body.append(frame);
        })"""
        assert page.evaluate(frame, f"{running.server.url}{PATH}#{running.token}")
        assert all("hubhooks" not in each.title() for each in page.frames)
        context.close()


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"<p>another site"})
