"""The page of the deliveries in Chromium, with the invented API of `page_server.py`."""

from __future__ import annotations

import ast
import json
import statistics
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import page_server
import pytest
from page_server import TOKEN
from pages import DESKTOP, NARROW, PHONE, View, load_axe, opened, overflow
from servers import ROOT, started, wait_until

from hubhooks import HubEvent
from hubhooks._samples import compact, sample_json, sample_names, with_overrides

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

COMMENT = "discussion.comment.create"
# A machine with other work is slower than the page may be on its own.
MARGIN = 5


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., View]]:
    """Start a server, and open its page: `show(count=60, mode="dev", size=..., theme=...)`."""
    with ExitStack() as stack:

        def show(count: int = 60, mode: str = "dev", **options: Any) -> View:
            script = str(ROOT / "tests" / "page_server.py")
            command = (script, "--port", "{port}", "--count", str(count), "--mode", mode)
            server = stack.enter_context(started(tmp_path, *command))
            view = stack.enter_context(opened(browser, server, **options))
            if count:
                view.rows.first.wait_for()
            return view

        yield show


def test_token_leaves_the_url_and_a_delivery_appears_at_once(show: Callable[..., View]) -> None:
    view = show()
    assert view.page.url.endswith("/#/deliveries")
    assert TOKEN not in json.dumps(view.page.evaluate("[{...localStorage}, {...sessionStorage}]"))
    assert view.rows.count() == 60
    requests = view.control()["requests"].count("GET deliveries")
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        (name,) = view.control(arrive=1, sample=COMMENT, state="failed")["ids"]
        view.page.locator(f'#rows > li[data-id="{name}"]').wait_for()
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 0.5
    assert view.rows.first.get_attribute("data-id") == name
    view.page.get_by_role("status").filter(has_text="new deliver").wait_for()
    # The stream brought them: the list was not loaded again.
    assert view.control()["requests"].count("GET deliveries") == requests


def test_detail_shows_runs_attempts_and_payload(show: Callable[..., View]) -> None:
    view = show(count=0)
    view.page.get_by_text("No deliveries yet").wait_for()
    view.control(arrive=1, sample=COMMENT, state="failed")
    view.rows.first.click()
    detail = view.page.locator(".detail")
    detail.get_by_role("heading", name="discussion.comment create").wait_for()
    assert view.rows.first.get_attribute("aria-selected") == "true"
    attempts = detail.locator(".attempt")
    assert attempts.count() == 2
    for text in ("ValueError: no token", "calling the model...", "'hello'"):
        assert text in attempts.first.inner_text()
    boxes = [attempt.bounding_box() for attempt in attempts.all()]
    assert boxes[0] and boxes[1]  # noqa: PT018 - narrows both types
    assert boxes[0]["y"] == boxes[1]["y"]
    attempts.first.get_by_text("Traceback", exact=True).click()
    assert 'File "bot.py", line 8' in attempts.first.inner_text()
    assert "retrain does not match: the scope is discussion.comment" in detail.inner_text()
    attempts.first.get_by_role("heading", name="Edited since").wait_for()
    edit = attempts.first.locator("dl").inner_text().split("\n")
    assert edit == ["bot.py:8", 'raise ValueError("no token")', "now", "return 1"]
    assert "dited since" not in attempts.last.inner_text()
    links = [link.get_attribute("href") or "" for link in detail.get_by_role("link").all()]
    assert len(links) == 2
    assert all(link.startswith("https://huggingface.co/datasets/ada-labs/") for link in links)
    assert "@my-bot please check" in detail.locator(".tree").inner_text()
    detail.get_by_role("button", name="Raw").click()
    raw = detail.get_by_role("region", name="Body").inner_text()
    assert json.loads(raw) == sample_json(COMMENT)
    detail.get_by_role("button", name="Headers").click()
    assert "application/json" in detail.inner_text()
    detail.get_by_role("button", name="Replay", exact=True).click()
    detail.locator(".title .is-succeeded").wait_for()
    assert view.page.get_by_role("status").inner_text() == "Replay: reply"


def test_attempts_are_compared_side_by_side(show: Callable[..., View]) -> None:
    view = show(count=0)
    view.control(arrive=1, sample=COMMENT, state="failed")
    view.rows.first.click()
    detail = view.page.locator(".detail")
    compare = detail.get_by_role("button", name="Compare attempts of reply")
    compare.click()
    assert detail.locator("mark").count() == 0
    assert detail.get_by_role("region", name="Traceback, attempt 1 of reply").is_visible()
    view.control(output="calling the model...\nno answer\n")
    detail.get_by_role("button", name="Replay", exact=True).click()
    chosen = detail.get_by_role("group", name="Attempts of reply")
    chosen.get_by_role("button", name="3 succeeded").wait_for()
    # The last two are shown. The third has no traceback, and its output has one line more.
    assert detail.locator(".attempt h5").all_inner_texts() == [
        "Attempt 2 ✓succeeded",
        "Attempt 3 ✓succeeded",
    ]
    assert "no answer" in detail.locator("mark").all_inner_texts()
    chosen.get_by_role("button", name="1 failed").click()
    assert detail.locator(".attempt").count() == 3
    for name in ("1 failed", "2 succeeded"):
        chosen.get_by_role("button", name=name).click()
    assert detail.locator(".attempt").count() == 1
    assert compare.is_disabled()
    assert detail.locator("mark").count() == 0


def test_payload_lines_copy_the_path_and_filter(show: Callable[..., View]) -> None:
    view = show()
    view.rows.filter(has_text="discussion.comment create").first.click()
    tree = view.page.locator(".tree")
    tree.get_by_role("button", name="copy path repo.name").click()
    view.page.get_by_role("status").filter(has_text="Copied the path").wait_for()
    assert view.page.evaluate("navigator.clipboard.readText()") == "repo.name"
    # The server does not search in bodies: such a filter would find nothing.
    assert tree.get_by_role("button", name="copy path comment.content").count() == 1
    assert tree.get_by_role("button", name="filter by comment.content").count() == 0
    tree.get_by_role("button", name="filter by event.scope").click()
    assert view.page.get_by_label("Filter deliveries").input_value() == "discussion.comment"
    view.page.locator(".count").filter(has_text="matches").wait_for()
    selected = view.page.locator("#rows > [aria-selected=true]")
    assert 0 < view.rows.count() < 60
    assert selected.count() == 1


def test_header_copies_the_tunnel_command(show: Callable[..., View]) -> None:
    view = show(count=0)
    view.page.get_by_role("button", name="Copy the cloudflared command").click()
    view.page.get_by_role("status").filter(has_text="Copied the tunnel command").wait_for()
    text = view.page.evaluate("navigator.clipboard.readText()")
    assert text == "cloudflared tunnel --url http://127.0.0.1:8000"


def test_unhandled_delivery_shows_each_reason_once(show: Callable[..., View]) -> None:
    view = show(count=0)
    view.control(arrive=1, sample="repo.move")
    view.rows.first.click()
    view.page.locator(".tree").wait_for()
    text = view.page.locator(".detail").inner_text()
    for name in ("retrain", "reply", "never"):
        assert text.count(f"{name} does not match") == 1
    assert "Reason" not in text
    # The app's code changed since: the old reason is shown too.
    view.control(reason="`old` does not match: the repo is private")
    view.page.reload()
    view.open()
    view.rows.first.click()
    view.page.get_by_text("Reason then").wait_for()
    text = view.page.locator(".detail").inner_text()
    assert text.count("old does not match") == text.count("reply does not match") == 1


def test_commands_of_a_delivery_have_no_secret(show: Callable[..., View]) -> None:
    view = show(count=0)
    view.control(arrive=1, sample=COMMENT)
    view.rows.first.click()
    detail = view.page.locator(".detail")
    copied = {}
    for name in ("Copy curl", "CLI", "pytest", "JSON"):
        detail.get_by_role("button", name=name, exact=True).click()
        view.page.get_by_role("status").filter(has_text="Copied").wait_for()
        copied[name] = view.page.evaluate("navigator.clipboard.readText()")
    assert copied["Copy curl"].startswith("curl -X POST 'http://127.0.0.1:8000/' ")
    assert '"X-Webhook-Secret: $WEBHOOK_SECRET"' in copied["Copy curl"]
    assert copied["CLI"].startswith("hubhooks send 'http://127.0.0.1:8000/' --file - <<'JSON'\n{")
    assert json.loads(copied["JSON"]) == sample_json(COMMENT)
    assert TOKEN not in "".join(copied.values())
    assert """assert result["reply"].value == 'hello'""" in copied["pytest"]
    run_pasted(copied["pytest"])


def run_pasted(test: str) -> None:
    """Run a test that the page wrote, with the handlers of the server."""
    bot = types.ModuleType("bot")
    bot.hooks = page_server.hooks  # type: ignore[attr-defined]  # that makes it the module `bot`
    sys.modules["bot"] = bot
    try:
        names: dict[str, Any] = {}
        exec(test, names)
        (function,) = [value for name, value in names.items() if name.startswith("test_")]
        # This thread has the event loop of Playwright.
        with ThreadPoolExecutor(1) as threads:
            threads.submit(function).result()
    finally:
        del sys.modules["bot"]


def test_filter_of_10_000_deliveries_is_quick(show: Callable[..., View]) -> None:
    view = show(count=10_000)
    view.page.get_by_text("100 of 10,000 deliveries").wait_for()
    view.press("/")
    view.wait("document.activeElement.id === 'filter'")
    filter_box = view.page.get_by_label("Filter deliveries")
    seconds = []
    for words, shown in (
        ("failed reply", "failed"), ("gauges retrying", "retrying"), ("nothing at all", ""),
        ("no token ada-labs", "ValueError"), ("move", "move"),
    ):  # fmt: skip
        seconds.append(view.filter(words))
        texts = view.rows.all_text_contents()
        assert bool(texts) is bool(shown)
        assert all(shown in " ".join(text.split()) for text in texts), (words, texts)
    assert statistics.median(seconds) < 0.2 * MARGIN, seconds
    filter_box.fill("")
    view.page.get_by_label("State").select_option("failed")
    view.page.get_by_label("Handler").select_option("reply")
    view.page.get_by_text("100 of ").wait_for()
    view.wait(
        "[...document.querySelectorAll('#rows > li')]"
        ".every(e => /failed[^]*reply/.test(e.textContent))"
    )
    # Live arrivals obey the filter too.
    (hidden,) = view.control(arrive=1, sample=COMMENT, state="succeeded")["ids"]
    (found,) = view.control(arrive=1, sample=COMMENT, state="failed")["ids"]
    view.page.locator(f'#rows > li[data-id="{found}"]').wait_for()
    assert view.page.locator(f'#rows > li[data-id="{hidden}"]').count() == 0
    view.page.get_by_role("button", name="Load older").click()
    view.page.get_by_text("201 of ").wait_for()


def test_selection_focus_and_scroll_survive_100_arrivals(show: Callable[..., View]) -> None:
    view = show(count=500)
    view.rows.nth(40).click()
    view.page.locator(".tree").wait_for()
    view.rows.nth(42).focus()
    before = view.page.evaluate(
        """() => {
            const row = document.activeElement;
            const text = document.querySelector(".detail .tree");
            getSelection().selectAllChildren(text);
            window.kept = row;
            return [row.dataset.id, Math.round(row.getBoundingClientRect().top),
                    getSelection().toString()];
        }"""
    )
    selected = view.page.locator("#rows > [aria-selected=true]").get_attribute("data-id")
    view.control(arrive=100)
    view.page.get_by_text("200 of 600 deliveries").wait_for()
    after = view.page.evaluate(
        """() => [document.activeElement.dataset.id,
                  Math.round(document.activeElement.getBoundingClientRect().top),
                  getSelection().toString()]"""
    )
    assert before[2]
    assert after == before
    assert view.page.evaluate("window.kept === document.activeElement")
    assert view.page.locator("#rows > [aria-selected=true]").get_attribute("data-id") == selected
    # Only one row can be reached with the Tab key.
    assert view.page.locator("#rows > [tabindex='0']").count() == 1


def test_keyboard_only(show: Callable[..., View]) -> None:
    view = show()
    page = view.page
    view.press("n")
    page.locator("#compose .matches").wait_for()
    view.wait("document.activeElement.id === 'compose-source'")
    assert "discussion.comment.create" in page.locator("#compose-source").input_value()
    view.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("me/x")
    assert json.loads(page.get_by_label("JSON").input_value())["repo"]["name"] == "me/x"
    page.locator("#compose .matches").get_by_text("the repo is me/x").wait_for()
    assert "reply matches" in page.locator("#compose .is-match").inner_text()
    # Keys are off while the user types.
    assert page.locator("#compose").is_visible()
    view.press("Control+Enter")
    page.locator("#compose .responses").get_by_text("202").first.wait_for()
    assert view.control()["sent"][0]["secret"] == "right"
    page.get_by_role("button", name="Open delivery").focus()
    view.press("Enter")
    page.locator(".detail .run").first.wait_for()
    assert view.focused() == "detail-title"
    page.get_by_role("button", name="Replay this: reply").focus()
    view.press("Enter")
    page.get_by_role("status").filter(has_text="Replay: reply").first.wait_for()
    assert view.control()["replays"][-1][1] == ["reply"]
    view.press("t")
    page.get_by_role("status").filter(has_text="Copied a test").wait_for()
    ast.parse(page.evaluate("navigator.clipboard.readText()"))
    view.press("Escape")
    view.wait("document.activeElement.matches('#rows > li')")
    first = view.focused()
    view.press("j", "j", "k", "ArrowDown")
    third = view.focused()
    assert third == view.rows.nth(2).get_attribute("data-id") != first
    view.press("End")
    assert view.focused() == view.rows.last.get_attribute("data-id")
    view.press("Enter")
    view.wait("document.activeElement.id === 'detail-title'")
    view.press("2")
    view.wait("document.activeElement.id === 'page-title'")
    page.get_by_role("heading", name="Handlers", exact=True).wait_for()
    view.press("3")
    page.get_by_role("heading", name="Output", exact=True).wait_for()
    view.press("1", "?")
    page.get_by_role("dialog", name="Keys").wait_for()
    page.get_by_label("Keys are on.").focus()
    view.press("Space")
    view.close_dialog("help")
    view.press("2", "n")
    assert page.locator("dialog[open]").count() == 0
    assert page.get_by_role("link", name="Deliveries").get_attribute("aria-current") == "page"


def test_focus_goes_to_a_neighbour_of_a_vanished_button(show: Callable[..., View]) -> None:
    view = show(count=150)
    page = view.page
    last = view.rows.last.get_attribute("data-id")
    page.get_by_role("button", name="Load older").focus()
    view.press("Enter")
    page.get_by_text("150 of 150").wait_for()
    assert view.focused() == last
    page.get_by_label("Filter deliveries").fill("no such word")
    page.get_by_role("button", name="Clear the filter").focus()
    view.press("Enter")
    page.get_by_text("100 of 150").wait_for()
    assert page.evaluate("document.activeElement.ariaLabel") == "Handler"
    page.locator("button.new").click()
    page.locator("#compose .matches").wait_for()
    page.get_by_label("JSON").fill("{}")
    page.get_by_role("button", name="Reset").focus()
    view.press("Enter")
    view.wait("document.activeElement.id === 'compose-json'")
    page.locator("#compose-send").focus()
    view.press("Enter")
    page.locator("#compose .responses").get_by_text("202").wait_for()
    assert view.focused() == "compose-send"


def test_focus_goes_to_the_page_that_back_shows(show: Callable[..., View]) -> None:
    view = show()
    view.rows.nth(3).focus()
    view.press("Enter")
    view.page.locator(".detail .facts").first.wait_for()
    view.press("2")
    view.wait("document.activeElement.id === 'page-title'")
    view.page.go_back()
    view.wait("document.activeElement.id === 'detail-title'")
    view.page.go_back()
    view.wait("document.activeElement.matches('#rows > li')")


def test_escape_leaves_the_filter_as_it_is(show: Callable[..., View]) -> None:
    view = show()
    view.press("/")
    view.wait("document.activeElement.id === 'filter'")
    view.page.keyboard.type("failed")
    view.page.locator(".count").get_by_text("matches").wait_for()
    count = view.page.locator(".count").text_content()
    view.press("Escape")
    view.wait("document.activeElement.matches('#rows > li')")
    assert view.page.get_by_label("Filter deliveries").input_value() == "failed"
    assert view.page.locator(".count").text_content() == count


def test_new_stream_keeps_the_older_rows_and_the_focus(show: Callable[..., View]) -> None:
    view = show(count=300)
    view.page.get_by_role("button", name="Load older").click()
    view.page.get_by_text("200 of 300").wait_for()
    view.rows.nth(150).focus()
    before = view.focused()
    view.control(stream=False)
    view.page.get_by_text("connecting ...").wait_for()
    (name,) = view.control(arrive=1)["ids"]
    view.control(stream=True)
    view.row(name).wait_for()
    assert view.rows.count() == 200
    assert view.focused() == before
    view.complaints.clear()  # the browser logs the rejected attempts


def test_replay_of_all_failed_deliveries_asks_first(show: Callable[..., View]) -> None:
    view = show(count=30)
    failed = view.page.locator("#rows .is-failed").count()
    assert failed
    view.rows.first.focus()
    view.press("R")
    dialog = view.page.get_by_role("dialog", name=f"Replay {failed} failed deliveries?")
    dialog.wait_for()
    view.close_dialog("question")
    assert view.control()["replays"] == []
    assert view.focused() == view.rows.first.get_attribute("data-id")
    view.press("R")
    dialog.get_by_role("button", name="Replay").click()
    view.page.get_by_role("status").filter(has_text=f"Replay of {failed}").wait_for()
    assert len(view.control()["replays"]) == failed


def deep(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"bottom": True}
    for _ in range(depth):
        value = {"in": value}
    return value


HOSTILE = {
    "repo.name": "ada/<img src=x onerror=alert(1)>",
    "repo.url.web": 'https://huggingface.co/ada/x" onclick="alert(1)',
    "discussion.title": "\u202eevil ${alert(1)} {{x}} </title><script>alert(1)</script>",
    "discussion.url.web": "javascript:alert(1)",
    "comment.url.web": "https://huggingface.co@eve.example/",
    "comment.content": "`${alert(1)}` \x1b[31m \ud800 <svg onload=alert(1)>",
}


def test_hostile_payloads_are_text(show: Callable[..., View]) -> None:
    view = show(count=0)
    body = with_overrides(sample_json(COMMENT), HOSTILE)
    body |= {"deep": deep(64), "<b>key</b>": "x" * 400_000, "many": list(range(3000))}
    view.control(arrive=1, body=body, state="failed")
    view.rows.filter(has_text=HOSTILE["repo.name"]).wait_for()
    view.rows.first.click()
    detail = view.page.locator(".detail")
    tree = detail.locator(".tree")
    tree.get_by_text("<svg onload=alert(1)>").and_(tree.get_by_text("\\ud800")).wait_for()
    assert detail.locator("img, script, svg, b").count() == 0
    links = [link.get_attribute("href") for link in detail.get_by_role("link").all()]
    assert links == ["https://huggingface.co/ada/x%22%20onclick=%22alert(1)"]
    # Open all 64 levels.
    for depth in range(65):
        path = ".".join(["deep", *["in"] * depth])
        toggle = tree.get_by_role("button", name=f"{path}, ", exact=False).first
        if toggle.get_attribute("aria-expanded") == "false":
            toggle.click()
    tree.get_by_text("bottom").wait_for()
    began = time.perf_counter()
    detail.get_by_role("button", name="Raw").click()
    body_text = detail.get_by_role("region", name="Body")
    body_text.wait_for()
    detail.get_by_role("button", name="Show all").click()
    wait_until(lambda: len(body_text.text_content() or "") > 400_000)
    assert time.perf_counter() - began < 1 * MARGIN
    for name, what in (("Copy curl", "a curl"), ("CLI", "a hubhooks"), ("pytest", "a test")):
        detail.get_by_role("button", name=name, exact=True).click()
        view.page.get_by_role("status").filter(has_text=f"Copied {what}").wait_for()
        assert "\x1b" not in view.page.evaluate("navigator.clipboard.readText()")
    view.press("e")
    view.page.locator("#compose .matches").wait_for()
    assert "alert(1)" in view.page.get_by_label("JSON").input_value()
    view.close_dialog("compose")


def test_compose_shows_mistakes_and_responses(show: Callable[..., View]) -> None:
    view = show(count=5)
    page = view.page
    page.get_by_role("button", name="New (n)", exact=True).click()
    dialog = page.get_by_role("dialog", name="Send a delivery")
    dialog.locator(".matches").wait_for()
    text = dialog.get_by_label("JSON")
    text.fill('{\n  "event": {"action": "create",\n  "scope" "x"}\n}')
    dialog.get_by_text("Line 3: ").wait_for()
    dialog.get_by_role("button", name="Go to line 3").click()
    selection = "e => e.value.slice(e.selectionStart, e.selectionEnd)"
    assert text.evaluate(selection) == '  "scope" "x"}'
    text.fill('{"event": {"action": "create"}}')
    dialog.get_by_text("Malformed: ").wait_for()
    dialog.get_by_role("button", name="Reset").click()
    dialog.get_by_text("Not changed").wait_for()
    dialog.get_by_label("wrong").check()
    dialog.get_by_role("button", name="Send", exact=True).click()
    dialog.locator(".responses").get_by_text("403").wait_for()
    dialog.get_by_label("right").check()
    dialog.get_by_role("button", name="Send 5 at once").click()
    view.wait("document.querySelectorAll('.responses > li').length === 5")
    source = view.rows.last.get_attribute("data-id")
    dialog.get_by_label("Start from").select_option(f"delivery:{source}")
    dialog.get_by_label("an id of your choice; a known one is a Replay").check()
    assert dialog.get_by_label("Webhook-Id").input_value() == source
    dialog.get_by_role("button", name="Send", exact=True).click()
    view.wait("document.querySelectorAll('.responses > li').length === 1")
    sent = view.control()["sent"]
    assert [(one["secret"], one["times"], one["id"]) for one in sent] == [
        ("wrong", 1, None), ("right", 5, None), ("right", 1, source),
    ]  # fmt: skip
    dialog.get_by_role("button", name="Close").click()
    # The browser logs the response to the malformed body.
    assert all("422" in text for text in view.complaints)
    view.complaints.clear()
    # The focus goes back to the button that opened the dialog.
    assert page.evaluate("document.activeElement.innerText") == "New (n)"


def test_matrix_equals_explain(show: Callable[..., View]) -> None:
    view = show()
    view.page.get_by_role("link", name="Handlers").click()
    view.page.locator(".cell").first.wait_for()
    for sample in sample_names():
        event = HubEvent.from_json(compact(sample_json(sample)))
        for text in page_server.hooks.explain(event):
            name = text.split("`")[1]
            verb = "matches" if text == f"`{name}` matches" else "does not match"
            label = f"{sample}: {name} {verb}"
            assert view.page.get_by_role("button", name=label, exact=True).count() == 1
    view.page.get_by_role("button", name=f"{COMMENT}: retrain does not match").click()
    reason = view.page.locator(".reason").inner_text()
    assert "the scope is discussion.comment, not repo.content" in reason
    view.page.get_by_text("Matches none of the 60 deliveries and the 35 samples.").wait_for()
    closest = view.page.get_by_text("Closest: ").inner_text()
    assert closest == "Closest: discussion.create, but the repo is ada-labs/tide-gauges, not me/x"
    view.page.get_by_role("button", name="Send a match for retrain").click()
    view.page.locator("#compose .matches").wait_for()
    assert "repo.content" in view.page.get_by_label("JSON").input_value()
    view.close_dialog("compose")
    view.page.get_by_role("button", name="Deliveries of reply").click()
    view.wait(
        "[...document.querySelectorAll('#rows > li')].every(e => e.textContent.includes('reply'))"
    )


def test_handlers_have_the_counts_of_now(show: Callable[..., View]) -> None:
    view = show(count=0)
    view.control(arrive=2, sample=COMMENT, state="failed")
    view.rows.nth(1).wait_for()
    view.page.get_by_role("link", name="Handlers").click()
    reply = view.page.locator(".handler").filter(has_text="reply")
    reply.get_by_text("failed 2").wait_for()
    view.control(arrive=1, sample=COMMENT, state="failed")
    reply.get_by_text("failed 3").wait_for()


def test_broken_app_shows_its_traceback_and_comes_back(show: Callable[..., View]) -> None:
    view = show()
    app = {
        "state": "broken", "file": "bot.py", "line": 3, "traceback": "ImportError: no <moon>",
        "output": [{"stream": "stderr", "text": "it broke", "at": "2026-09-01T12:00:00Z"}],
    }  # fmt: skip
    view.control(app=app)
    view.page.get_by_text("The app does not start: bot.py:3.").wait_for()
    assert view.rows.count() == 60
    view.page.get_by_role("button", name="Show the traceback").click()
    main = view.page.get_by_role("main")
    assert "ImportError: no <moon>" in main.inner_text()
    assert "it broke" in main.inner_text()
    view.control(app={"state": "running", "traceback": "", "file": "", "line": None})
    view.page.get_by_text("ImportError").wait_for(state="hidden")


def test_stream_connects_again_and_misses_nothing(show: Callable[..., View]) -> None:
    view = show()
    view.control(stream=False)
    view.page.get_by_text("connecting ...").wait_for()
    (name,) = view.control(arrive=1, sample=COMMENT)["ids"]
    assert view.page.locator(f'#rows > li[data-id="{name}"]').count() == 0
    view.control(stream=True)
    view.page.locator(".connection.is-live").wait_for()
    view.page.locator(f'#rows > li[data-id="{name}"]').wait_for()
    # The browser logs the rejected attempts.
    assert all("503" in text for text in view.complaints)
    view.complaints.clear()


def test_sign_in_without_and_with_a_wrong_token(show: Callable[..., View]) -> None:
    view = show()
    view.page.evaluate("history.replaceState(null, '')")
    view.page.reload()
    view.page.get_by_label("Admin token").fill("sun")
    view.press("Enter")
    view.page.get_by_text("the admin token is wrong").wait_for()
    view.wait("document.activeElement.id === 'token'")
    assert view.page.locator("#rows").count() == 0
    view.page.get_by_label("Admin token").fill(TOKEN)
    view.page.get_by_role("button", name="Sign in").click()
    view.rows.first.wait_for()
    assert all("403" in text for text in view.complaints)
    view.complaints.clear()


def test_changed_token_asks_for_the_new_one(show: Callable[..., View]) -> None:
    view = show()
    view.press("n")
    view.page.locator("#compose .matches").wait_for()
    view.control(token="another moon")
    view.control(stream=False)
    view.control(stream=True)
    view.page.get_by_text("the admin token is wrong").wait_for()
    view.wait("document.activeElement.id === 'token'")
    view.page.keyboard.type("another moon")
    view.press("Enter")
    view.page.locator(".connection.is-live").wait_for()
    assert view.page.locator("dialog[open]").count() == 0
    view.press("?")
    view.page.get_by_role("dialog", name="Keys").wait_for()
    view.complaints.clear()  # the browser logs the rejected requests


@pytest.mark.parametrize("token", ["/a token+of=16 characters", "/handlers-and-more"])
def test_token_can_begin_with_a_slash(show: Callable[..., View], token: str) -> None:
    view = show()
    view.control(token=token)
    view.page.goto("about:blank")
    view.open(token)
    view.rows.first.wait_for()
    assert "token" not in view.page.evaluate("location.href")


def test_reload_stays_signed_in_under_dev_only(show: Callable[..., View]) -> None:
    view = show()
    view.rows.nth(2).click()
    address = view.page.url
    view.page.reload()
    view.page.locator(".detail .facts").first.wait_for()
    assert view.page.url == address
    assert TOKEN not in address
    view.page.go_back()
    view.page.reload()
    view.rows.first.wait_for()
    admin = show(mode="admin")
    admin.page.reload()
    admin.page.get_by_label("Admin token").wait_for()


def test_admin_mode_cannot_compose_or_send(show: Callable[..., View]) -> None:
    view = show(mode="admin")
    view.rows.first.click()
    view.page.locator(".detail .facts").wait_for()
    view.press("n", "e", "3")
    for name in ("New (n)", "Edit and send"):
        assert view.page.get_by_role("button", name=name, exact=True).count() == 0
    assert view.page.locator("#compose").count() == 0
    assert view.page.get_by_role("link", name="Output").count() == 0
    assert view.page.get_by_role("button", name="Replay", exact=True).count() == 1
    assert not any("send" in request for request in view.control()["requests"])


@pytest.mark.parametrize("size", [DESKTOP, NARROW], ids=["desktop", "320 px"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(
    show: Callable[..., View], theme: str, size: dict[str, int]
) -> None:
    view = show(theme=theme, size=size)
    page = view.page
    load_axe(page)
    view.rows.first.wait_for()
    view.check_axe()
    (name,) = view.control(arrive=1, sample=COMMENT, state="failed")["ids"]
    view.row(name).click()
    page.locator(".tree").wait_for()
    for summary in page.locator(".detail summary").all():
        summary.click()
    view.check_axe()
    view.control(output="no answer\n")
    page.get_by_role("button", name="Replay", exact=True).click()
    page.get_by_role("button", name="3 succeeded").wait_for()
    page.get_by_role("button", name="Compare attempts of reply").click()
    page.locator("mark").first.wait_for()
    page.get_by_role("button", name="copy path repo.name").focus()
    view.check_axe()
    for form in ("Raw", "Headers"):
        page.get_by_role("button", name=form).click()
        view.check_axe()
    view.press("n")
    page.locator("#compose .matches").wait_for()
    view.check_axe()
    page.get_by_label("JSON").fill("{")
    page.get_by_text("Line 1: ").wait_for()
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
    view.control(app={"state": "broken", "file": "bot.py", "line": 3, "traceback": "Error"})
    page.get_by_text("The app does not start").wait_for()
    view.check_axe()
    page.get_by_role("link", name="Output").click()
    view.check_axe()
    page.evaluate("history.replaceState(null, '')")
    page.reload()
    load_axe(page)
    page.get_by_label("Admin token").wait_for()
    view.check_axe()


def test_phone_shows_list_or_detail_and_goes_back(show: Callable[..., View]) -> None:
    view = show(size=PHONE)
    name = view.rows.nth(12).get_attribute("data-id")
    view.rows.nth(12).click()
    view.page.locator(".tree").wait_for()
    assert view.focused() == "detail-title"
    assert not view.rows.first.is_visible()
    view.page.get_by_role("button", name="Back to the list").click()
    view.wait("document.activeElement.matches('#rows > li')")
    assert view.focused() == name
    view.page.go_back()
    view.page.locator(".tree").wait_for()
    assert overflow(view.page) == []
