"""The activity tab of a Gradio app.

Gradio makes a public endpoint of each function here, also for those hidden from the API's
documentation. Any caller can send any values. Therefore:

* Each function checks access again, for each call.
* The page holds the state of a visit: the filter, the page number, the selected delivery and the
  key of the admin session. On the server, other callers could reach it with the session's name.
* No function uses the queue. The queue returns results to any caller that names the session.
"""

from __future__ import annotations

import asyncio
import hashlib
from importlib.util import find_spec
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import gradio as gr
from gradio import oauth
from gradio.context import Context
from gradio.utils import get_space

from hubhooks import _environment
from hubhooks._gradio_private import guard_deep_links, keep_private
from hubhooks._logging import get_logger
from hubhooks.admin.access import TOKEN_VARIABLE, is_cross_site, is_space_owner
from hubhooks.admin.queries import STATES
from hubhooks.admin.tab_html import (
    STYLE,
    block,
    details_html,
    empty_html,
    escape_html,
    message,
    overview_html,
    page_html,
    styled,
)
from hubhooks.errors import ConfigError, StoreError
from hubhooks.gradio import NOT_LAUNCHED, is_about_to_start, warn_of_own_launch, webhook_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hubhooks.admin.queries import Activity, Details, Overview, Page

__all__ = ["show"]

# Changes of components. It must exist at run time: Gradio reads the annotations of its functions.
_Changes: TypeAlias = dict[Any, Any]

_logger = get_logger()

# Keep our functions out of the API's documentation. Gradio 5 has another option for that.
_HIDDEN: dict[str, Any] = (
    {"api_visibility": "private"}
    if "api_visibility" in signature(gr.on).parameters
    else {"show_api": False}
)
_SECONDS = 2
_MAX_PAGES = 1000
_ALL = "all states"
_HIDE_UNHANDLED = "hide unhandled"
_ALL_HANDLERS = "all its handlers"

# A click on a row notes its delivery, and clicks a hidden button of Gradio: clicks on HTML have no
# target, and do not arrive in each version. A new table replaces the focused button, so the page
# gives the focus to the new one.
_ON_LOAD = """() => {
  if (window.hubhooks) return;
  const page = window.hubhooks = { pressed: "", focused: "" };
  const rowOf = target => target?.closest?.(".hubhooks-list tr[data-delivery]");
  page.focus = id => {
    for (const row of document.querySelectorAll(".hubhooks-list tr[data-delivery]"))
      if (id && row.dataset.delivery === id)
        row.querySelector("button")?.focus({ preventScroll: true });
  };
  document.addEventListener("click", event => {
    const row = rowOf(event.target);
    if (!row || event.target.closest("a") || String(window.getSelection())) return;
    page.pressed = row.dataset.delivery;
    document.querySelector("button.hubhooks-choose")?.click();
  });
  document.addEventListener("pointerdown", () => { page.focused = ""; }, true);
  document.addEventListener("focusin", event => {
    page.focused = event.target.matches?.(".hubhooks-open")
      ? rowOf(event.target).dataset.delivery : "";
  });
  new MutationObserver(() => {
    if (page.focused && document.activeElement === document.body) page.focus(page.focused);
  }).observe(document.body, { childList: true, subtree: true });
}"""
_CHOOSE = """(...values) => {
  const pressed = window.hubhooks?.pressed;
  if (pressed) {
    const id = decodeURIComponent(pressed);
    values[CHOSEN] = values[CHOSEN] === id ? "" : id;
  }
  return values.slice(0, INPUTS);
}"""
_SHOW_DETAILS = """() => setTimeout(() => {
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.querySelector(".hubhooks-details")?.scrollIntoView({
    behavior: isStill ? "auto" : "smooth", block: "nearest" });
}, 100)"""
_FOCUS_ROW = """() => setTimeout(() => window.hubhooks?.focus(window.hubhooks.pressed), 100)"""

_LOCKED = "Anonymous visitors see states and public repositories. "
_ASK_FOR_TOKEN = _LOCKED + "Enter the admin token to see payloads and to replay deliveries."
_ASK_FOR_LOGIN = _LOCKED + "Payloads and Replay are for the owner of the app."
_HOW_TO_UNLOCK = (
    "the activity tab shows payloads and Replay to nobody yet; to get access, do one of these and "
    f"restart the app: set {TOKEN_VARIABLE} to a long random word, write `hf_oauth: true` in the "
    "README of the Space, or pass `auth=` to `hooks.launch`"
)
_NOT_INCLUDED = (
    "the webhooks of this app have not started: call `app.include_router(hooks.router())` in the "
    "app that mounts this page; if it mounts `hooks` itself, they start with the first delivery"
)
_REJECTIONS = {
    "wrong": "That is not the admin token.",
    "busy": "That is not the admin token. Too many wrong ones arrive now.",
    "off": "This app has no admin token.",
}


class _Parts(NamedTuple):
    """The components of the tab."""

    overview: gr.HTML
    controls: gr.Row
    state: gr.Dropdown
    newer: gr.Button
    older: gr.Button
    table: gr.HTML
    choose: gr.Button
    facts: gr.HTML
    payload: gr.JSON
    handler: gr.Dropdown
    replay: gr.Button
    outcome: gr.HTML
    close: gr.Button
    locked: gr.HTML
    token: gr.Textbox
    unlock: gr.Button
    lock: gr.Button
    rejection: gr.HTML
    # The state that the page holds.
    number: gr.Number
    chosen: gr.Textbox
    key: gr.Textbox
    seen: gr.Textbox


def show(activity: Activity, was_started: Callable[[], bool]) -> None:
    """Show the activity. Call it inside `gr.Blocks()`.

    Args:
        activity: the deliveries.
        was_started: returns True once the webhooks of this app have started in this process.

    Raises:
        ConfigError: it is called outside `gr.Blocks`, or the admin token cannot be used.
    """
    blocks = Context.root_block
    if blocks is None:
        msg = "`hooks.activity()` shows itself in a Gradio app: call it inside `with gr.Blocks():`"
        raise ConfigError(msg)
    has_token = activity.guard.is_on
    has_login = _is_login_signed() and _can_log_in()
    parts = _lay_out(has_token=has_token, has_login=has_login)
    keep_private(parts)
    warn_of_own_launch(blocks)
    tab = _Tab(activity, parts, was_started, has_token=has_token, has_login=has_login)
    held: list[Any] = [parts.state, parts.number, parts.chosen, parts.key, parts.seen]
    outputs: list[Any] = list(parts)

    def wire(
        function: Callable[..., Any],
        *triggers: Any,  # noqa: ANN401 - Gradio makes these methods
        more: Sequence[Any] = (),
        js: str | None = None,
    ) -> Any:  # noqa: ANN401 - Gradio's type
        return gr.on(
            triggers,
            function,
            [*held, *more],
            outputs,
            # With a prefix: the app may have a function of the same name.
            api_name=f"hubhooks_{function.__name__}",
            **_HIDDEN,
            queue=False,
            show_progress="hidden",
            js=js,
        )

    choose = _CHOOSE.replace("CHOSEN", str(held.index(parts.chosen)))
    choose = choose.replace("INPUTS", str(len(held)))
    blocks.load(None, js=_ON_LOAD)
    wire(tab.look, blocks.load, gr.Timer(_SECONDS).tick)
    wire(tab.filter, parts.state.input)
    wire(tab.turn_to_newer, parts.newer.click)
    wire(tab.turn_to_older, parts.older.click)
    wire(tab.choose, parts.choose.click, js=choose).then(None, js=_SHOW_DETAILS)
    wire(tab.close, parts.close.click).then(None, js=_FOCUS_ROW)
    wire(tab.replay, parts.replay.click, more=[parts.handler])
    wire(tab.unlock, parts.unlock.click, parts.token.submit, more=[parts.token])
    wire(tab.lock, parts.lock.click)


def _lay_out(*, has_token: bool, has_login: bool) -> _Parts:
    overview = gr.HTML(STYLE, padding=False)
    with gr.Row(equal_height=True, elem_classes="hubhooks-controls") as controls:
        state = gr.Dropdown(
            [_ALL, _HIDE_UNHANDLED, *STATES], value=_ALL, label="Show", show_label=False,
            container=False, scale=1, min_width=100, filterable=False,
        )  # fmt: skip
        newer = gr.Button("Newer", size="md", interactive=False, scale=0, min_width=60)
        older = gr.Button("Older", size="md", interactive=False, scale=0, min_width=60)
        lock = gr.Button("Lock", size="md", visible=False, scale=0, min_width=60)
    table = gr.HTML(padding=False)
    choose = gr.Button("Select", visible="hidden", elem_classes="hubhooks-choose")
    # The style hides a column without a section. Gradio 6.0 drops the values of components that it
    # makes visible with the same response.
    with gr.Column(elem_classes="hubhooks-details"), gr.Row():
        with gr.Column(scale=1, min_width=320):
            facts = gr.HTML(padding=False)
            with gr.Row(equal_height=True, elem_classes="hubhooks-controls"):
                handler = gr.Dropdown(
                    [_ALL_HANDLERS], value=_ALL_HANDLERS, label="Handlers to replay",
                    show_label=False, container=False, scale=1, min_width=100, filterable=False,
                )  # fmt: skip
                # Not `primary`: Gradio's white on orange has too little contrast.
                replay = gr.Button("Replay", size="md", scale=0, min_width=60)
                close = gr.Button("Close", size="md", scale=0, min_width=60)
            outcome = gr.HTML(padding=False)
        with gr.Column(scale=1, min_width=320):
            payload = gr.JSON(label="Payload", open=True, max_height=560)
    with gr.Column(elem_classes="hubhooks-locked"):
        locked, rejection, token, unlock = _lay_out_lock(has_token=has_token, has_login=has_login)
    return _Parts(
        overview, controls, state, newer, older, table, choose, facts, payload, handler,
        replay, outcome, close, locked, token, unlock, lock, rejection,
        # Not `False`: Gradio 6.0 forgets the values of components that are not on the page.
        number=gr.Number(0, precision=0, visible="hidden"),
        chosen=gr.Textbox(visible="hidden"),
        key=gr.Textbox(visible="hidden"),
        seen=gr.Textbox(visible="hidden"),
    )  # fmt: skip


def _lay_out_lock(
    *, has_token: bool, has_login: bool
) -> tuple[gr.HTML, gr.HTML, gr.Textbox, gr.Button]:
    locked = gr.HTML(padding=False)
    if has_login:
        gr.LoginButton(size="md")
    with gr.Row(equal_height=True, visible=has_token, elem_classes="hubhooks-controls"):
        token = gr.Textbox(
            type="password", placeholder="Admin token", label="Admin token", show_label=False,
            container=False, max_lines=1, scale=1, min_width=100,
        )  # fmt: skip
        unlock = gr.Button("Unlock", size="md", scale=0, min_width=80)
    return locked, gr.HTML(padding=False), token, unlock


class _Held(NamedTuple):
    """The state that the page holds. Invalid values of a caller become defaults."""

    state: str | None
    hide_unhandled: bool
    number: int
    chosen: str
    key: str
    seen: tuple[str, ...]

    @classmethod
    def of(cls, values: tuple[object, ...]) -> _Held:
        state, number, *texts = values[:5]
        chosen, key, seen = (text if isinstance(text, str) else "" for text in texts)
        if not isinstance(number, int | float) or not abs(number) < _MAX_PAGES:
            number = 0
        return cls(
            next((known for known in STATES if known == state), None),
            state == _HIDE_UNHANDLED,
            int(number),
            chosen,
            key,
            tuple(seen.split()),
        )


class _Tab:
    """The functions behind the page's events."""

    def __init__(
        self,
        activity: Activity,
        parts: _Parts,
        was_started: Callable[[], bool],
        *,
        has_token: bool,
        has_login: bool,
    ) -> None:
        self._activity = activity
        self._parts = parts
        self._was_started = was_started
        text = _ASK_FOR_TOKEN if has_token else _ASK_FOR_LOGIN
        self._locked = block(f'<section aria-label="Access">{text}</section>')
        # Logged once: only the owner of the app reads the log.
        self._hint = "" if has_token or has_login else _HOW_TO_UNLOCK
        self._has_warned = False

    def look(self, request: gr.Request, *held: object) -> _Changes:
        return self._view(request, _Held.of(held))

    def filter(self, request: gr.Request, *held: object) -> _Changes:
        return self._turn(request, _Held.of(held)._replace(number=0))

    def turn_to_newer(self, request: gr.Request, *held: object) -> _Changes:
        was = _Held.of(held)
        return self._turn(request, was._replace(number=was.number - 1))

    def turn_to_older(self, request: gr.Request, *held: object) -> _Changes:
        was = _Held.of(held)
        return self._turn(request, was._replace(number=was.number + 1))

    def choose(self, request: gr.Request, *held: object) -> _Changes:
        was = _Held.of(held)
        return self._choose(request, was, was.chosen)

    def close(self, request: gr.Request, *held: object) -> _Changes:
        return self._choose(request, _Held.of(held), "")

    # A coroutine: only the server's loop writes to the store.
    async def replay(self, request: gr.Request, *held: object) -> _Changes:
        was = _Held.of(held)
        handler = held[-1] if isinstance(held[-1], str) else _ALL_HANDLERS
        if not self._has_access(request, was.key):
            return self._view(request, was)
        try:
            names = () if handler == _ALL_HANDLERS else (handler,)
            done = await self._activity.replay(was.chosen, names)
            text = done.blocked_reason or f"Queued: {', '.join(done.handlers)}"
        except StoreError as error:
            text = str(error)
        return {
            **self._view(request, was._replace(seen=())),
            self._parts.outcome: message(text),
        }

    async def unlock(self, request: gr.Request, *held: object) -> _Changes:
        was, parts = _Held.of(held), self._parts
        token = held[-1] if isinstance(held[-1], str) else ""
        # Clear the field: Gradio keeps the values of a page, for links that share them.
        cleared: _Changes = {parts.token: "", parts.rejection: ""}
        session = request.session_hash
        if not token or not session:
            return {**cleared, **await asyncio.to_thread(self._view, request, was)}
        result = await self._activity.guard.check_delayed(token)
        if result == "right":
            key = self._activity.sessions.issue(session)
            now = was._replace(key=key, seen=())
            view = await asyncio.to_thread(self._view, request, now)
            return {**cleared, parts.key: key, **view}
        view = await asyncio.to_thread(self._view, request, was)
        return {**cleared, **view, parts.rejection: message(_REJECTIONS[result])}

    def lock(self, request: gr.Request, *held: object) -> _Changes:
        was = _Held.of(held)
        self._activity.sessions.revoke(was.key)
        now = was._replace(key="", chosen="", seen=())
        parts = self._parts
        return {parts.key: "", parts.chosen: "", **self._view(request, now)}

    def _choose(self, request: gr.Request, was: _Held, chosen: str) -> _Changes:
        parts = self._parts
        now = was._replace(chosen=chosen)
        return {
            parts.chosen: chosen,
            parts.outcome: "",
            parts.handler: gr.update(value=_ALL_HANDLERS),
            **self._view(request, now),
        }

    def _turn(self, request: gr.Request, now: _Held) -> _Changes:
        number = max(now.number, 0)
        view = self._view(request, now._replace(number=number, seen=()))
        return {self._parts.number: number, **view}

    def _has_access(self, request: gr.Request, key: str) -> bool:
        """Check that the caller may see payloads and replay deliveries."""
        session = request.session_hash or ""
        if key and session and self._activity.sessions.is_valid(key, session):
            return True
        return _is_logged_in(request)

    def _view(self, request: gr.Request, held: _Held) -> _Changes:
        """Return what changed since the last call. For a tick of the timer it is mostly nothing."""
        guard_deep_links(request)
        if config_error := self._find_config_error(request):
            return self._config_error_view(config_error, held)
        trusted = self._has_access(request, held.key)
        if not trusted:
            self._log_hint()
        try:
            overview = self._activity.overview(trusted=trusted)
            page = self._activity.page(
                held.state, held.number, trusted=trusted, hide_unhandled=held.hide_unhandled
            )
            details = self._activity.details(held.chosen) if trusted and held.chosen else None
        except StoreError as error:
            text = str(error) if trusted else "The deliveries cannot be read now."
            return {
                self._parts.overview: styled(f"<p>{escape_html(text)}</p>"),
                self._parts.seen: "",
            }
        views = (
            self._access_view(has_key=bool(held.key), trusted=trusted),
            self._overview_view(overview, request),
            self._page_view(page, held, is_empty=not overview.states, trusted=trusted),
            self._details_view(details),
        )
        now = tuple(_digest(view) for view in views)
        if now == held.seen:
            return {self._parts.seen: gr.skip()}
        was = (*held.seen, *("" for _ in now))
        changed: _Changes = {self._parts.seen: " ".join(now)}
        for view, digest, before in zip(views, now, was, strict=False):
            if digest != before:
                changed.update(view)
        return changed

    def _find_config_error(self, request: gr.Request) -> str:
        """Say why the webhooks of this app were never started; empty if they were."""
        if self._was_started() or is_about_to_start(self._activity.store):
            return ""
        return _NOT_INCLUDED if _is_mounted(request) else NOT_LAUNCHED

    def _config_error_view(self, config_error: str, held: _Held) -> _Changes:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning("%s", config_error)
        now = _digest({self._parts.overview: config_error})
        if held.seen == (now,):
            return {self._parts.seen: gr.skip()}
        text = escape_html(f"{config_error[0].upper()}{config_error[1:]}.")
        return {self._parts.overview: styled(f"<b>{text}</b>"), self._parts.seen: now}

    def _log_hint(self) -> None:
        hint, self._hint = self._hint, ""
        if hint:
            _logger.info("%s", hint)

    def _access_view(self, *, has_key: bool, trusted: bool) -> _Changes:
        return {
            self._parts.locked: "" if trusted else self._locked,
            self._parts.lock: gr.update(visible=trusted and has_key),
        }

    def _overview_view(self, overview: Overview, request: gr.Request) -> _Changes:
        html = overview_html(overview) or empty_html(*_find_url(request))
        return {self._parts.overview: styled(html)}

    def _page_view(self, page: Page, held: _Held, *, is_empty: bool, trusted: bool) -> _Changes:
        html = "" if is_empty else page_html(page, held.chosen, held.state, trusted=trusted)
        return {
            self._parts.controls: gr.update(visible=not is_empty),
            self._parts.table: gr.update(value=html and block(html), visible=not is_empty),
            self._parts.newer: gr.update(interactive=page.number > 0),
            self._parts.older: gr.update(interactive=not page.is_last),
        }

    def _details_view(self, details: Details | None) -> _Changes:
        parts = self._parts
        if details is None:
            return {
                parts.facts: "",
                parts.payload: None,
            }
        payload = details.payload
        return {
            parts.facts: block(details_html(details)),
            # Gradio would parse a bare text as JSON.
            parts.payload: payload if isinstance(payload, dict | list) else {"body": payload},
            parts.handler: gr.update(choices=[_ALL_HANDLERS, *details.handlers]),
            parts.replay: gr.update(interactive=not details.replay_blocked_reason),
        }


# ---- the caller --------------------------------------------------------------------------------


def _is_logged_in(request: gr.Request) -> bool:
    """Check for a login with `launch(auth=...)`, or for the owner of the Space."""
    if is_cross_site(request.headers):
        return False
    if request.username is not None:
        return True
    # Without a LoginButton there is no session.
    scope = request.request.scope if request.request is not None else {}
    return is_space_owner(scope.get("session"), get_space(), is_signed=_is_login_signed())


def _is_login_signed() -> bool:
    return bool(oauth.OAUTH_CLIENT_SECRET)


def _can_log_in() -> bool:
    """Check that a LoginButton would work. A broken one keeps the app from starting."""
    names = ("OAUTH_CLIENT_ID", "OAUTH_SCOPES", "OPENID_PROVIDER_URL")
    is_set = get_space() is not None and _environment.is_set(*names)
    return is_set and all(find_spec(name) for name in ("authlib", "itsdangerous"))


def _blocks_of(request: gr.Request) -> Any:  # noqa: ANN401 - an app of Gradio, or None
    app = request.request.scope.get("app") if request.request is not None else None
    return getattr(app, "blocks", None)


def _is_mounted(request: gr.Request) -> bool:
    return getattr(_blocks_of(request), "custom_mount_path", None) is not None


def _find_url(request: gr.Request) -> tuple[str, bool]:
    """Return the webhook URL, and True if its path is only a guess: other apps choose the path."""
    blocks = _blocks_of(request)
    if blocks is not None and not _is_mounted(request):
        return webhook_url(blocks), False
    base = request.request.base_url if request.request is not None else None
    origin = f"{base.scheme}://{base.netloc}" if base is not None else ""
    return f"{origin}/webhooks/hub", True


def _digest(view: _Changes) -> str:
    shown = repr([(part._id, value) for part, value in view.items()])  # noqa: SLF001 - no other name
    return hashlib.sha256(shown.encode("utf-8", "replace")).hexdigest()[:16]
