"""The page of the deliveries in Chromium: what its tests share."""

from __future__ import annotations

import json
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from page_server import PREFIX, TOKEN
from pythons import find_chromium
from servers import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator, Page
    from servers import Server

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
NARROW = {"width": 320, "height": 640}
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", event =>
    violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""
FILTER = """async words => {
    const box = document.getElementById("filter");
    const count = document.querySelector(".count");
    const before = count.textContent;
    const began = performance.now();
    box.value = words;
    box.dispatchEvent(new Event("input", { bubbles: true }));
    while ([before, "Loading ..."].includes(count.textContent))
        await new Promise(resolve => setTimeout(resolve, 1));
    return (performance.now() - began) / 1000;
}"""

RECORD_ROWS = """
window.shown = {};
new MutationObserver(() => {
    for (const row of document.querySelectorAll("#rows > li"))
        window.shown[row.dataset.id] ??= Date.now() / 1000;
}).observe(document, { childList: true, subtree: true });
"""


class View:
    """An open page, its server, and everything that the browser complains about."""

    def __init__(self, page: Page, server: Server, path: str) -> None:
        self.page = page
        self.server = server
        self.address = f"{server.url}{path}"
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.requests: list[str] = []
        """The requests to the API, such as `GET deliveries`."""
        self.unprotected: list[str] = []
        """The URLs of responses without a content security policy."""
        self.dialogs: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._on_request)
        page.on("response", self._on_response)
        page.on("dialog", lambda dialog: self.dialogs.append(dialog.message))
        page.add_init_script(WATCH + RECORD_ROWS)

    def _on_console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _on_request(self, request: Any) -> None:
        self.hosts.add(request.url.split("/")[2])
        _, is_api, path = request.url.partition("/_hubhooks/api/")
        if is_api:
            self.requests.append(f"{request.method} {path.partition('?')[0]}")

    def _on_response(self, response: Any) -> None:
        if "default-src 'none'" not in response.headers.get("content-security-policy", ""):
            self.unprotected.append(response.url)

    def open(self, fragment: str = TOKEN) -> None:
        self.page.goto(f"{self.address}#{fragment}")

    def control(self, **order: Any) -> dict[str, Any]:
        """Control the server of `page_server.py`."""
        return self.server.request("/test", "POST", content=json.dumps(order)).json()

    @property
    def rows(self) -> Locator:
        return self.page.locator("#rows > li")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def tab_to(self, condition: str) -> None:
        """Press Tab until a JavaScript condition holds for the focused element, `e`."""
        for _ in range(200):
            self.press("Tab")
            if self.page.evaluate(f"(e => {condition})(document.activeElement)"):
                return
        pytest.fail(f"the Tab key never reached {condition}")

    def wait(self, condition: str) -> None:
        """Wait for a JavaScript condition. For Playwright's own function the CSP forbids `eval`."""
        wait_until(lambda: self.page.evaluate(condition), condition)

    def close_dialog(self, name: str) -> None:
        self.press("Escape")
        self.page.locator(f"#{name}").wait_for(state="hidden")

    def focused(self) -> str:
        return self.page.evaluate(
            "document.activeElement.dataset.id ?? document.activeElement.id ?? ''"
        )

    def check(self) -> None:
        """Check that nothing was blocked or failed, and that no other host was asked."""
        assert self.page.evaluate("violations") == []
        assert self.complaints == [], "\n".join(self.complaints)
        assert self.dialogs == []
        assert self.unprotected == []
        assert self.hosts == {f"127.0.0.1:{self.server.port}"}

    def filter(self, words: str) -> float:
        """Filter the list, and return the seconds until the count changes."""
        return self.page.evaluate(FILTER, words)

    def shown_at(self, delivery_id: str) -> float:
        """Return when the page first showed a delivery, in seconds since 1970."""
        return self.page.evaluate("id => window.shown[id]", delivery_id)

    def row(self, delivery_id: str) -> Locator:
        return self.page.locator(f'#rows > li[data-id="{delivery_id}"]')

    def check_axe(self) -> None:
        """Check that the page is accessible, and not wider than the screen."""
        assert axe_violations(self.page) == []
        assert overflow(self.page) == []


def load_axe(page: Page) -> None:
    """Load the checks of accessibility; skip the test if they are not installed."""
    package = find_spec("axe_playwright_python")
    if package is None or package.origin is None:
        pytest.skip("axe is not installed")
    page.evaluate(Path(package.origin).with_name("axe.min.js").read_text("utf-8"))


def axe_violations(page: Page, parts: list[list[str]] | None = None) -> list[str]:
    """Return the violations in the page, or in parts of it, as selectors name them."""
    # Neither rule is on by default: the least size of a button, and a name with the visible text.
    rules = {"target-size": {"enabled": True}, "label-content-name-mismatch": {"enabled": True}}
    found = page.evaluate(
        "([parts, rules]) => axe.run(parts ? { include: parts } : document, { rules })",
        [parts, rules],
    )
    return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium; skip the test if there is none."""
    path = find_chromium()
    if path is None:
        pytest.skip("there is no chromium that runs")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Share one Chromium between the tests of a module."""
    with chromium() as started:
        yield started


@contextmanager
def opened(
    browser: Browser,
    server: Server,
    size: dict[str, int] | None = None,
    theme: str = "light",
    path: str = PREFIX,
    token: str = TOKEN,
) -> Iterator[View]:
    """Open the page, and check in the end that the browser had no complaint."""
    context = browser.new_context(viewport=size or DESKTOP, color_scheme=theme)  # type: ignore[arg-type]  # a dict with both keys
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.url)
    context.set_default_timeout(PATIENCE * 100)
    view = View(context.new_page(), server, path)
    view.open(token)
    view.page.locator(".connection.is-live").wait_for()
    yield view
    view.check()
    context.close()


def overflow(page: Page) -> list[str]:
    """Return the elements that are wider than the screen, except in parts that scroll."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] :
        [...document.querySelectorAll("body *")]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
        .map(e => e.outerHTML.slice(0, 200))"""
    )
