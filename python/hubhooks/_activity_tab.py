"""Shows the activity in a Gradio app.

Each of these functions can be called by anybody, with anything: Gradio makes an endpoint of every
one, also where `api_visibility` hides it. So each asks anew whether the caller is trusted. What
they work on is held by the page and not by the server, where it would belong to whoever names the
session; and they do without the queue, which hands results to whoever does that.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from datetime import datetime, timezone
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import gradio as gr
from gradio import oauth
from gradio.context import Context
from gradio.utils import get_space

from hubhooks._gradio_private import guard_deep_links, keep_private
from hubhooks._logging import get_logger
from hubhooks._terminal import escape_controls
from hubhooks.activity import (
    STATES,
    TOKEN_VARIABLE,
    is_cross_site,
    is_space_owner,
)
from hubhooks.errors import ConfigError, StoreError
from hubhooks.gradio import NOT_LAUNCHED, is_about_to_start, warn_of_own_launch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hubhooks.activity import Activity, Details, Overview, Page
    from hubhooks.models import Run

__all__ = ["show"]

# What is to change on the page. Gradio reads the annotations of what it calls, so it is no name of
# type checkers alone.
_Changes: TypeAlias = dict[Any, Any]

_log = get_logger()

_SECONDS = 2
_MOST_PAGES = 1000
_ALL = "all states"
_EVERY = "all its handlers"
_HEADERS = ["Time (UTC)", "State", "Event", "Repository", "Handlers", "Delivery"]
_WIDTHS: list[str | int] = ["12%", "13%", "23%", "23%", "17%", "12%"]
_STRANGERS_WIDTHS = ["14%", "16%", "34%", "36%"]
_WORDS = {
    "failed": "failed, and not to be tried again",
    "stuck": "running for longer than allowed",
    "running": "running now",
    "retrying": "waiting to be tried again",
    "queued": "waiting for its turn",
    "malformed": "no event that could be read",
    "succeeded": "handled",
    "ignored": "not wanted by a handler or by ignore_authors",
    "unhandled": "heard by no handler",
}
# Colours that are legible on white and on black.
_COLOURS = {
    "failed": "#e5484d", "stuck": "#e2730f", "running": "#2b8ce6", "retrying": "#c28a00",
    "queued": "#2b8ce6", "malformed": "#e5484d", "succeeded": "#2f9e5f", "ignored": "#8b8d98",
    "unhandled": "#8b8d98",
}  # fmt: skip

_STYLE = """<style>
.hubhooks { font-size: var(--text-md); color: var(--body-text-color); line-height: 1.5;
  overflow-wrap: anywhere; }
.hubhooks-chips { display: flex; flex-wrap: wrap; gap: 6px 18px; align-items: baseline; }
.hubhooks-dot { display: inline-block; width: .6em; height: .6em; border-radius: 50%;
  margin-right: .45em; }
.hubhooks small, .hubhooks dt { color: var(--body-text-color-subdued); }
.html-container:has(> .prose > .hubhooks) { padding: 0 !important; }
.hubhooks a { margin: 0 !important; padding: 0 !important; }
.hubhooks h4 { margin: 0 0 6px; font-size: var(--text-lg); overflow-wrap: anywhere; }
.hubhooks dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; }
.hubhooks dd { margin: 0; overflow-wrap: anywhere; }
.hubhooks-run { border: 1px solid var(--border-color-primary); border-radius: var(--radius-md);
  padding: 8px 12px; margin-top: 8px; }
.hubhooks pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: var(--text-sm);
  font-family: var(--font-mono); margin: 4px 0 0; max-height: 20em; overflow-y: auto; }
.hubhooks summary { cursor: pointer; color: var(--body-text-color-subdued); }
</style>"""

_SHOW_DETAILS = """() => setTimeout(() => {
  const details = document.querySelector(".hubhooks-details");
  details?.scrollIntoView({ behavior: "smooth", block: "nearest" });
}, 100)"""
_HOW_TO_UNLOCK = f"""
Here you see what a stranger sees: what became of deliveries, and which ones they were where their
repository is public. Details and Replay are for those the app trusts, and it knows nobody yet.
Set one of these up, and restart the app:

- the secret `{TOKEN_VARIABLE}`, a long random word that is then asked for here;
- `hf_oauth: true` in the README of the Space, for its owner to log in with;
- `hooks.launch(demo, auth=("you", "a long password"))`, which closes the whole page to others.
"""
_LOCKED = """
Here you see what a stranger sees: what became of deliveries, and which ones they were where their
repository is public. Details and Replay are for the owner of the app.
"""
_NOT_INCLUDED = (
    "the webhooks of this app have not started: call `app.include_router(hooks.router())` in the "
    "app that mounts this page; if it mounts `hooks` itself, they start with the first delivery"
)
_REFUSALS = {
    "wrong": "That is not the token.",
    "busy": "That is not the token, and too many wrong ones come at once.",
    "off": f"There is no token to know: {TOKEN_VARIABLE} is not set.",
}


class _Parts(NamedTuple):
    """What the tab consists of."""

    overview: gr.HTML
    state: gr.Dropdown
    newer: gr.Button
    older: gr.Button
    table: gr.Dataframe
    details: gr.Column
    facts: gr.HTML
    payload: gr.JSON
    handler: gr.Dropdown
    replay: gr.Button
    outcome: gr.HTML
    close: gr.Button
    locked: gr.Column
    token: gr.Textbox
    unlock: gr.Button
    lock: gr.Button
    refusal: gr.HTML
    # What the page holds for us.
    number: gr.Number
    chosen: gr.Textbox
    ticket: gr.Textbox
    seen: gr.Textbox


def show(activity: Activity, was_started: Callable[[], bool]) -> None:
    """Show the activity: to be called inside `gr.Blocks()`.

    Args:
        activity: what to show.
        was_started: whether the webhooks of this app were ever started in this process.

    Raises:
        ConfigError: there is no `gr.Blocks` around it, or the admin token cannot be used.
    """
    blocks = Context.root_block
    if blocks is None:
        msg = "`hooks.activity()` shows itself in a Gradio app: call it inside `with gr.Blocks():`"
        raise ConfigError(msg)
    parts = _lay_out(has_token=activity.gate.is_on)
    keep_private(parts)
    warn_of_own_launch(blocks)
    tab = _Tab(activity, parts, was_started)
    held: list[Any] = [parts.state, parts.number, parts.chosen, parts.ticket, parts.seen]
    outputs: list[Any] = list(parts)

    def wire(function: Callable[..., Any], *triggers: Any, more: Sequence[Any] = ()) -> Any:  # noqa: ANN401 - Gradio makes these methods
        return gr.on(
            triggers,
            function,
            [*held, *more],
            outputs,
            # Not to take a name away from a function of the app.
            api_name=f"hubhooks_{function.__name__}",
            api_visibility="private",
            queue=False,
            show_progress="hidden",
        )

    wire(tab.look, blocks.load, gr.Timer(_SECONDS).tick)
    wire(tab.filter, parts.state.input)
    wire(tab.turn_to_newer, parts.newer.click)
    wire(tab.turn_to_older, parts.older.click)
    wire(tab.choose, parts.table.select).then(None, js=_SHOW_DETAILS)
    wire(tab.close, parts.close.click)
    wire(tab.replay, parts.replay.click, more=[parts.handler])
    wire(tab.unlock, parts.unlock.click, parts.token.submit, more=[parts.token])
    wire(tab.lock, parts.lock.click)


def _lay_out(*, has_token: bool) -> _Parts:
    overview = gr.HTML(_STYLE, padding=False)
    with gr.Row(equal_height=True):
        state = gr.Dropdown(
            [_ALL, *STATES], value=_ALL, show_label=False, container=False, scale=2, min_width=140,
            filterable=False,
        )  # fmt: skip
        newer = gr.Button("Newer", size="md", interactive=False, scale=1, min_width=80)
        older = gr.Button("Older", size="md", interactive=False, scale=1, min_width=80)
        lock = gr.Button("Lock", size="md", visible=False, scale=1, min_width=80)
    table = gr.Dataframe(
        headers=_HEADERS,
        datatype=["str", "html", "str", "str", "str", "str"],
        column_widths=_WIDTHS,
        column_count=len(_HEADERS),
        interactive=False,
        buttons=[],
        show_label=False,
    )
    with gr.Column(visible=False, elem_classes="hubhooks-details") as details, gr.Row():
        with gr.Column(scale=1, min_width=380):
            facts = gr.HTML(padding=False)
            with gr.Row(equal_height=True):
                handler = gr.Dropdown(
                    [_EVERY], value=_EVERY, show_label=False, container=False, scale=3,
                    min_width=160, filterable=False,
                )  # fmt: skip
                replay = gr.Button("Replay", variant="primary", size="md", min_width=90)
                close = gr.Button("Close", size="md", min_width=90)
            outcome = gr.HTML(padding=False)
        with gr.Column(scale=1, min_width=380):
            payload = gr.JSON(label="Payload", open=True, max_height=560)
    with gr.Column(visible=False) as locked:
        refusal, token, unlock = _lay_out_lock(has_token=has_token)
    return _Parts(
        overview, state, newer, older, table, details, facts, payload, handler, replay, outcome,
        close, locked, token, unlock, lock, refusal,
        number=gr.Number(0, precision=0, visible=False),
        chosen=gr.Textbox(visible=False),
        ticket=gr.Textbox(visible=False),
        seen=gr.Textbox(visible=False),
    )  # fmt: skip


def _lay_out_lock(*, has_token: bool) -> tuple[gr.HTML, gr.Textbox, gr.Button]:
    has_login = _is_login_signed() and _can_log_in()
    gr.Markdown(_LOCKED if has_token or has_login else _HOW_TO_UNLOCK)
    if has_login:
        gr.LoginButton(size="md")
    with gr.Row(equal_height=True, visible=has_token):
        token = gr.Textbox(
            type="password", placeholder=f"The value of {TOKEN_VARIABLE}", show_label=False,
            container=False, max_lines=1, scale=4,
        )  # fmt: skip
        unlock = gr.Button("Unlock", size="md", min_width=90)
    return gr.HTML(padding=False), token, unlock


class _Held(NamedTuple):
    """What the page holds; whatever else somebody sends is nothing."""

    state: str | None
    number: int
    chosen: str
    ticket: str
    seen: tuple[str, ...]

    @classmethod
    def of(cls, values: tuple[object, ...]) -> _Held:
        state, number, *texts = values[: len(cls._fields)]
        chosen, ticket, seen = (text if isinstance(text, str) else "" for text in texts)
        if not isinstance(number, int | float) or not abs(number) < _MOST_PAGES:
            number = 0
        return cls(
            next((known for known in STATES if known == state), None),
            int(number),
            chosen,
            ticket,
            tuple(seen.split()),
        )


class _Tab:
    """What happens when somebody looks, or presses something."""

    def __init__(self, activity: Activity, parts: _Parts, was_started: Callable[[], bool]) -> None:
        self._activity = activity
        self._parts = parts
        self._was_started = was_started
        self._is_warned = False

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

    def choose(self, request: gr.Request, event: gr.SelectData, *held: object) -> _Changes:
        row = getattr(event, "row_value", None)
        if not isinstance(row, list) or len(row) != len(_HEADERS):
            row = [""]
        return self._choose(request, _Held.of(held), str(row[-1]))

    def close(self, request: gr.Request, *held: object) -> _Changes:
        return self._choose(request, _Held.of(held), "")

    # On the server's loop, which the log is written from.
    async def replay(self, request: gr.Request, *held: object) -> _Changes:
        was = _Held.of(held)
        handler = held[-1] if isinstance(held[-1], str) else _EVERY
        if not self._trusts(request, was.ticket):
            return self._view(request, was)
        try:
            names = () if handler == _EVERY else (handler,)
            done = await self._activity.replay(was.chosen, names)
            said = done.objection or f"Queued: {', '.join(done.handlers)}"
        except StoreError as error:
            said = str(error)
        return {
            **self._view(request, was._replace(seen=())),
            self._parts.outcome: _block(f"<small>{_text(said)}</small>"),
        }

    async def unlock(self, request: gr.Request, *held: object) -> _Changes:
        was, parts = _Held.of(held), self._parts
        token = held[-1] if isinstance(held[-1], str) else ""
        # Emptied here too, as Gradio remembers what a page sent, to be shared by a link.
        emptied: _Changes = {parts.token: "", parts.refusal: ""}
        session = request.session_hash
        if not token or not session:
            return {**emptied, **await asyncio.to_thread(self._view, request, was)}
        judgement = await self._activity.gate.judge_slowly(token)
        if judgement == "right":
            ticket = self._activity.tickets.issue(session)
            now = was._replace(ticket=ticket, seen=())
            view = await asyncio.to_thread(self._view, request, now)
            return {**emptied, parts.ticket: ticket, **view}
        refusal = _block(f"<small>{_text(_REFUSALS[judgement])}</small>")
        view = await asyncio.to_thread(self._view, request, was)
        return {**emptied, **view, parts.refusal: refusal}

    def lock(self, request: gr.Request, *held: object) -> _Changes:
        was = _Held.of(held)
        self._activity.tickets.take_back(was.ticket)
        now = was._replace(ticket="", chosen="", seen=())
        parts = self._parts
        return {parts.ticket: "", parts.chosen: "", **self._view(request, now)}

    def _choose(self, request: gr.Request, was: _Held, chosen: str) -> _Changes:
        parts = self._parts
        now = was._replace(chosen=chosen)
        return {
            parts.chosen: chosen,
            parts.outcome: "",
            parts.handler: gr.update(value=_EVERY),
            **self._view(request, now),
        }

    def _turn(self, request: gr.Request, now: _Held) -> _Changes:
        number = max(now.number, 0)
        view = self._view(request, now._replace(number=number, seen=()))
        return {self._parts.number: number, **view}

    def _trusts(self, request: gr.Request, ticket: str) -> bool:
        """Whether the caller may see and do everything."""
        session = request.session_hash or ""
        if ticket and session and self._activity.tickets.admits(ticket, session):
            return True
        return _is_logged_in(request)

    def _view(self, request: gr.Request, held: _Held) -> _Changes:
        """Give what is to be shown and is not yet: most times, when a timer asks, nothing."""
        guard_deep_links(request)
        if mistake := self._find_mistake(request):
            return self._mistake_view(mistake, held)
        trusted = self._trusts(request, held.ticket)
        try:
            overview = self._activity.overview(trusted=trusted)
            page = self._activity.page(held.state, held.number, trusted=trusted)
            details = self._activity.details(held.chosen) if trusted and held.chosen else None
        except StoreError as error:
            said = str(error) if trusted else "The deliveries cannot be read just now."
            return {self._parts.overview: _block(_text(said)), self._parts.seen: ""}
        views = (
            self._access_view(is_ticket=bool(held.ticket), trusted=trusted),
            self._overview_view(overview),
            self._page_view(page, trusted=trusted),
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

    def _find_mistake(self, request: gr.Request) -> str:
        """Say why the webhooks of this app were never started; empty if they were."""
        if self._was_started() or is_about_to_start(self._activity.log):
            return ""
        app = request.request.scope.get("app") if request.request is not None else None
        mount_path = getattr(getattr(app, "blocks", None), "custom_mount_path", None)
        return NOT_LAUNCHED if mount_path is None else _NOT_INCLUDED

    def _mistake_view(self, mistake: str, held: _Held) -> _Changes:
        if not self._is_warned:
            self._is_warned = True
            _log.warning("%s", mistake)
        now = _digest({self._parts.overview: mistake})
        if held.seen == (now,):
            return {self._parts.seen: gr.skip()}
        text = _text(f"{mistake[0].upper()}{mistake[1:]}.")
        return {self._parts.overview: _block(f"<b>{text}</b>"), self._parts.seen: now}

    def _access_view(self, *, is_ticket: bool, trusted: bool) -> _Changes:
        return {
            self._parts.locked: gr.update(visible=not trusted),
            self._parts.lock: gr.update(visible=trusted and is_ticket),
        }

    def _overview_view(self, overview: Overview) -> _Changes:
        return {self._parts.overview: _block(_overview_html(overview))}

    def _page_view(self, page: Page, *, trusted: bool) -> _Changes:
        widths = _WIDTHS if trusted else _STRANGERS_WIDTHS
        columns = len(widths)
        rows = [
            (
                _when(row.received_at),
                _state_html(row.state),
                *map(escape_controls, (row.event, row.repo, row.handlers)),
                row.id,
            )[:columns]
            for row in page.rows
        ]
        return {
            self._parts.table: gr.update(
                value={"headers": _HEADERS[:columns], "data": rows}, column_widths=widths
            ),
            self._parts.newer: gr.update(interactive=page.number > 0),
            self._parts.older: gr.update(interactive=not page.is_last),
        }

    def _details_view(self, details: Details | None) -> _Changes:
        parts = self._parts
        if details is None:
            return {
                parts.details: gr.update(visible=False),
                parts.facts: "",
                parts.payload: None,
            }
        payload = details.payload
        return {
            parts.details: gr.update(visible=True),
            parts.facts: _block(_details_html(details)),
            # Text alone would be read as JSON.
            parts.payload: payload if isinstance(payload, dict | list) else {"body": payload},
            parts.handler: gr.update(choices=[_EVERY, *details.handlers]),
            parts.replay: gr.update(interactive=not details.objection),
        }


# ---- who is logged in --------------------------------------------------------------------------


def _is_logged_in(request: gr.Request) -> bool:
    """Whether `launch(auth=...)` let the caller in, or the caller owns the Space."""
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
    """Whether a LoginButton would work: where it would not, it keeps the app from starting."""
    names = ("OAUTH_CLIENT_ID", "OAUTH_SCOPES", "OPENID_PROVIDER_URL")
    is_set = get_space() is not None and all(os.environ.get(name) for name in names)
    return is_set and all(find_spec(name) for name in ("authlib", "itsdangerous"))


# ---- how it looks ------------------------------------------------------------------------------


def _text(text: str) -> str:
    """Make text safe inside HTML, and inside the templates that Gradio makes of HTML."""
    safe = escape(escape_controls(text))
    for mark in "{}$`":
        safe = safe.replace(mark, f"&#{ord(mark)};")
    return safe


def _block(html: str) -> str:
    return f'{_STYLE}<div class="hubhooks">{html}</div>'


def _dot(state: str) -> str:
    return f'<span class="hubhooks-dot" style="background: {_COLOURS[state]}"></span>'


def _state_html(state: str) -> str:
    return f'<span title="{_WORDS[state]}">{_dot(state)}{state}</span>'


def _overview_html(overview: Overview) -> str:
    if not overview.states:
        return "No deliveries yet. They are shown here as soon as they come."
    chips = [
        f'<span title="{_WORDS[state]}">{_dot(state)}<b>{count}</b> {state}</span>'
        for state, count in overview.states.items()
    ]
    refused = ", ".join(
        f"{count} &times; {_text(reason)}" for reason, count in overview.rejections.items()
    )
    more = f"<small>refused: {refused}</small>" if refused else ""
    for name, count in overview.unknown_handlers.items():
        more += f"<small>{count} waiting for <b>{_text(name)}</b>, which the app lacks</small>"
    return f'<div class="hubhooks-chips">{"".join(chips)}{more}</div>'


def _details_html(details: Details) -> str:
    delivery = details.delivery
    repo = _text(delivery.repo or "")
    if details.url:
        repo = f'<a href="{_text(details.url)}" target="_blank" rel="noopener">{repo}</a>'
    facts = {
        "state": _state_html(delivery.state),
        "repository": repo,
        "received": _when(delivery.received_at),
        "delivery": _text(delivery.id),
        "size": f"{delivery.size} bytes",
        "answer": "" if delivery.is_acknowledged else "not known to have reached the Hub",
        "replay": "yes" if delivery.is_replay else "",
        "came again": f"{delivery.duplicates} &times;, not run again"
        if delivery.duplicates
        else "",
        "because": "" if details.explanations else _text(delivery.reason),
        "no Replay": _text(details.objection),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value)
    runs = "".join(_run_html(run) for run in delivery.runs)
    lines = "".join(f"<div><small>{_text(line)}</small></div>" for line in details.explanations)
    # Why no handler ran is what a reader of an unhandled delivery looks for.
    shown = " open" if delivery.state == "unhandled" else ""
    why = f'<details class="hubhooks-run"{shown}><summary>Why</summary>{lines}</details>'
    why = why if lines else ""
    title = _text(f"{delivery.scope} {delivery.action}".strip() or "malformed")
    return f"<h4>{title}</h4><dl>{listed}</dl>{runs}{why}"


def _run_html(run: Run) -> str:
    notes = [f"{run.attempts} attempt{'s' * (run.attempts != 1)}"]
    if run.started_at and run.finished_at:
        notes.append(f"took {_took((run.finished_at - run.started_at).total_seconds())}")
    if run.due_at:
        notes.append(f"again at {_when(run.due_at)}")
    if run.crashes:
        notes.append(f"the process died during it {run.crashes} &times;")
    error = f"<pre>{_text(run.error)}</pre>" if run.error else ""
    if run.traceback:
        error += f"<details><summary>Traceback</summary><pre>{_text(run.traceback)}</pre></details>"
    return (
        f'<div class="hubhooks-run">{_state_html(run.state)} <b>{_text(run.handler)}</b> '
        f"<small>{', '.join(notes)}</small>{error}</div>"
    )


def _when(moment: datetime) -> str:
    moment = moment.astimezone(timezone.utc)
    is_today = moment.date() == datetime.now(timezone.utc).date()
    return moment.strftime("%H:%M:%S" if is_today else "%b %d %H:%M")


def _took(seconds: float) -> str:
    return f"{max(seconds, 0) * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _digest(view: _Changes) -> str:
    shown = repr([(block._id, value) for block, value in view.items()])  # noqa: SLF001 - no other name
    return hashlib.sha256(shown.encode("utf-8", "replace")).hexdigest()[:16]
