"""The HTML and the style of the activity tab. Text of a delivery is escaped here."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from hubhooks._terminal import escape_controls

if TYPE_CHECKING:
    from hubhooks.admin.queries import Details, Links, Overview, Page, Row
    from hubhooks.models import Run

__all__ = [
    "STYLE", "block", "details_html", "empty_html", "escape_html", "message", "overview_html",
    "page_html", "styled",
]  # fmt: skip

_SAMPLE = "discussion.comment.create"
_SETTINGS = "https://huggingface.co/settings/webhooks"

_MEANINGS = {
    "failed": "A handler failed. No retry is left.",
    "stuck": "A handler exceeded its timeout, and still runs.",
    "running": "A handler runs now.",
    "retrying": "An attempt failed. The next one starts later.",
    "queued": "A run waits for a free slot.",
    "malformed": "The body is not a valid event.",
    "succeeded": "The handlers ended without an error.",
    "ignored": "A handler or `ignore_authors` ignored the event.",
    "unhandled": "No handler matches.",
}
# Each colour is legible on white and on black.
_COLOURS = {
    "failed": "#e5484d", "stuck": "#e2730f", "running": "#2b8ce6", "retrying": "#c28a00",
    "queued": "#2b8ce6", "malformed": "#e5484d", "succeeded": "#2f9e5f", "ignored": "#8b8d98",
    "unhandled": "#8b8d98",
}  # fmt: skip

# A doubled class beats the styles that Gradio gives to all HTML.
STYLE = """<style>
.hubhooks { --hubhooks-muted: #5c5e66; --hubhooks-line: var(--border-color-primary);
  font-size: var(--text-md); line-height: 1.5; color: var(--body-text-color);
  overflow-wrap: anywhere; }
.dark .hubhooks { --hubhooks-muted: #b3b5bd; }
.html-container:has(> .prose > .hubhooks) { padding: 0 !important; }
.hubhooks.hubhooks p { margin: 0 0 8px; }
.hubhooks.hubhooks pre + p { margin-top: 16px; }
.hubhooks.hubhooks p:last-child { margin-bottom: 0; }
.hubhooks.hubhooks h3 { margin: 0 0 4px; font-size: var(--text-lg); font-weight: 600; }
.hubhooks.hubhooks a { display: inline-block; margin: 0; padding: 2px 0; color: inherit;
  text-decoration: underline; text-underline-offset: 2px; }
.hubhooks.hubhooks :is(small, dt, summary, th) { font-size: var(--text-sm);
  color: var(--hubhooks-muted); }
.hubhooks.hubhooks :is(.hubhooks-muted, .hubhooks-what) { color: var(--hubhooks-muted); }
.hubhooks.hubhooks :focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px;
  border-radius: 2px; }
.hubhooks-box { padding: 16px; border: 1px solid var(--hubhooks-line);
  border-radius: var(--radius-lg); }
.hubhooks-chips { display: flex; flex-wrap: wrap; gap: 4px 18px; align-items: baseline; }
.hubhooks-dot { display: inline-block; width: .6em; height: .6em; border-radius: 50%;
  margin-right: .45em; }
.hubhooks-controls { flex-wrap: nowrap !important; gap: 8px !important; }
.hubhooks-controls > * { min-width: 0 !important; }
.hubhooks-controls > button { flex: none; }
@media (max-width: 640px) {
  .hubhooks-controls > button { padding-inline: 8px !important;
    font-size: var(--text-sm) !important; }
  .hubhooks-controls .wrap-inner { padding-inline: 0; }
  .hubhooks-controls .wrap-inner input { margin-inline: 0; padding-inline: 8px 20px;
    text-overflow: ellipsis; }
}
@media (min-width: 641px) {
  .hubhooks-controls > .block { flex: 0 1 18em !important; }
  .hubhooks-controls > button { padding-inline: 16px; }
}

.hubhooks-list { container-type: inline-size; overflow: hidden;
  border: 1px solid var(--hubhooks-line); border-radius: var(--radius-lg); }
.hubhooks.hubhooks .hubhooks-list :is(table, thead, tbody, tr, th, td) { margin: 0; border: 0;
  background: none; font-size: inherit; }
.hubhooks.hubhooks .hubhooks-list table { width: 100%; table-layout: fixed;
  border-collapse: collapse; }
.hubhooks.hubhooks .hubhooks-list :is(th, td) { padding: 8px 12px; text-align: left;
  vertical-align: top; }
.hubhooks.hubhooks .hubhooks-list th { font-size: var(--text-sm); font-weight: 600; }
.hubhooks.hubhooks .hubhooks-list tbody tr { border-top: 1px solid var(--hubhooks-line); }
.hubhooks.hubhooks .hubhooks-list tr[data-delivery] { cursor: pointer; }
.hubhooks.hubhooks .hubhooks-list tr:is([data-delivery]:hover, [aria-current]) {
  background: var(--background-fill-secondary); }
.hubhooks.hubhooks .hubhooks-list tr[aria-current] {
  box-shadow: inset 4px 0 0 var(--color-accent); }
.hubhooks-list .hubhooks-time { width: 8.5em; font-variant-numeric: tabular-nums; }
.hubhooks-list .hubhooks-state { width: 9.5em; }
.hubhooks.hubhooks :is(td, dd) a + a { margin-left: 12px; }
.hubhooks-what { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2;
  overflow: hidden; }
.hubhooks.hubhooks :is(.hubhooks-open, .hubhooks-open:hover, .hubhooks-open:active) { margin: 0;
  padding: 2px 0; border: 0; box-shadow: none; background: none; color: inherit; font: inherit;
  font-weight: 600; text-align: left; cursor: pointer; }
.hubhooks-open::before { content: "\\25B8" / ""; display: inline-block; width: 1.1em;
  color: var(--hubhooks-muted); }
.hubhooks-open[aria-expanded="true"]::before { content: "\\25BE" / ""; }
@container (min-width: 641px) {
  .hubhooks.hubhooks .hubhooks-list td { padding-top: 10px; }
  .hubhooks.hubhooks .hubhooks-list td > :is(a, button) {
    margin-top: -2px !important; }
}
@container (max-width: 640px) {
  .hubhooks.hubhooks .hubhooks-list :is(table, tbody, td) { display: block; width: auto;
    padding: 0; }
  .hubhooks.hubhooks .hubhooks-list thead { position: absolute; width: 1px; height: 1px;
    overflow: hidden; clip-path: inset(50%); }
  .hubhooks.hubhooks .hubhooks-list tbody tr { display: grid; gap: 2px 12px;
    grid-template-columns: 1fr auto; padding: 10px 14px; }
  .hubhooks.hubhooks .hubhooks-list tbody tr:first-child { border-top: 0; }
  .hubhooks.hubhooks .hubhooks-list td { grid-column: 1 / -1; }
  .hubhooks.hubhooks .hubhooks-list td:empty { display: none; }
  .hubhooks.hubhooks .hubhooks-list td.hubhooks-time { grid-column: 1;
    color: var(--hubhooks-muted); }
  .hubhooks.hubhooks .hubhooks-list td.hubhooks-state { grid-column: 2; }
}

:is(.hubhooks-details, .hubhooks-locked):not(:has(section)) { display: none; }
.hubhooks-details .json-node .content { flex: 1; min-width: 0; overflow-wrap: anywhere; }
.hubhooks.hubhooks dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px;
  align-items: baseline; margin: 0; }
.hubhooks.hubhooks dd { margin: 0; min-width: 0; }
.hubhooks-run { border: 1px solid var(--hubhooks-line); border-radius: var(--radius-md);
  padding: 8px 12px; margin-top: 8px; }
.hubhooks.hubhooks pre { margin: 4px 0 0; padding: 8px 12px; max-height: 20em; overflow-y: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; color: inherit; border: 0;
  background: var(--background-fill-secondary); border-radius: var(--radius-md);
  font-family: var(--font-mono); font-size: var(--text-sm); }
.hubhooks summary { cursor: pointer; }
</style>"""


def escape_html(text: str) -> str:
    """Make text safe in HTML, in attributes, and in the templates that Gradio makes of HTML."""
    safe = escape(escape_controls(text))
    for mark in "{}$`":
        safe = safe.replace(mark, f"&#{ord(mark)};")
    return safe


def block(html: str) -> str:
    """Give HTML the style of the tab."""
    return f'<div class="hubhooks">{html}</div>'


def styled(html: str) -> str:
    """Make the first block of the tab. It contains the style of all blocks."""
    return f"{STYLE}{block(html)}"


def message(text: str) -> str:
    """Make a message that screen readers announce."""
    return block(f'<p role="status">{escape_html(text)}</p>')


def _link(url: str, text: str) -> str:
    return f'<a href="{escape_html(url)}" target="_blank" rel="noopener">{text}</a>'


def _dot(state: str) -> str:
    return f'<span class="hubhooks-dot" style="background: {_COLOURS[state]}"></span>'


def _state_html(state: str) -> str:
    return f'<span title="{escape_html(_MEANINGS[state])}">{_dot(state)}{state}</span>'


def overview_html(overview: Overview) -> str:
    """Show the numbers; empty if there is no delivery."""
    if not overview.states:
        return ""
    chips = [
        f'<span title="{escape_html(_MEANINGS[state])}">{_dot(state)}<b>{count}</b> {state}</span>'
        for state, count in overview.states.items()
    ]
    rejected = ", ".join(
        f"{count} &times; {escape_html(reason)}" for reason, count in overview.rejections.items()
    )
    more = f"<small>rejected: {rejected}</small>" if rejected else ""
    for name, count in overview.unknown_handlers.items():
        runs = "run" if count == 1 else "runs"
        more += (
            f"<small>{count} {runs} of <b>{escape_html(name)}</b>: no app has this handler</small>"
        )
    return f'<div class="hubhooks-chips">{"".join(chips)}{more}</div>'


def empty_html(url: str, is_guess: bool) -> str:  # noqa: FBT001 - the caller unpacks a pair
    """Explain how to get the first delivery.

    Args:
        url: the webhook URL.
        is_guess: True if the app may have chosen another path.
    """
    note = " Change the path if your app has another one." if is_guess else ""
    command = f"hubhooks send {url} --sample {_SAMPLE}"
    return (
        '<div class="hubhooks-box"><h3>No deliveries yet</h3>'
        "<p>New deliveries appear here by themselves.</p>"
        f"<p>Webhook URL:{note}</p>{_pre(url, 'Webhook URL')}"
        f"<p>To try it, send a sample from a terminal that has the "
        f"webhook's secret:</p>{_pre(command, 'Command')}"
        f"<p>For real events, enter the URL in the "
        f"{_link(_SETTINGS, 'webhook settings of the Hub')}.</p></div>"
    )


def page_html(page: Page, chosen: str, state: str | None, *, trusted: bool) -> str:
    """Show a page of the list.

    Args:
        page: the page.
        chosen: the id of the selected delivery.
        state: the state that the list is limited to.
        trusted: True if the caller may see private deliveries.
    """
    if not page.rows:
        text = f"No delivery has the state {state}." if state else "No delivery to show."
        return f'<div class="hubhooks-box">{text}</div>'
    names = ["Time (UTC)", "State", "Event", "Repository", *(["Handlers or reason"] * trusted)]
    heads = "".join(
        f'<th role="columnheader" scope="col" class="hubhooks-{name[:5].strip().lower()}">'
        f"{name}</th>"
        for name in names
    )
    rows = "".join(_row_html(row, chosen, trusted=trusted) for row in page.rows)
    return (
        '<div class="hubhooks-list"><table role="table" aria-label="Deliveries">'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{rows}</tbody></table></div>'
    )


def _row_html(row: Row, chosen: str, *, trusted: bool) -> str:
    time = f'<time datetime="{row.at.isoformat()}">{_format_time(row.at)}</time>'
    if row.is_replay:
        time += ' <span class="hubhooks-muted">replayed</span>'
    event = escape_html(row.event) or "no valid event"
    repo = '<span class="hubhooks-muted">private</span>' if row.is_private else _repo_html(row)
    attributes = ""
    if row.is_private:
        event = '<span class="hubhooks-muted">private</span>'
        repo = ""
    if row.id:
        is_chosen = row.id == chosen
        attributes = f' data-delivery="{quote(row.id, safe="", errors="replace")}"'
        attributes += ' aria-current="true"' * is_chosen
        name = f"{row.event or 'no valid event'} {row.repo}, {row.state}"
        event = (
            f'<button type="button" class="hubhooks-open" aria-expanded="{str(is_chosen).lower()}"'
            f' aria-label="{escape_html(name)}">{event}</button>'
        )
    cells = [("time", time), ("state", _state_html(row.state)), ("event", event), ("repos", repo)]
    if trusted:
        what = escape_html(row.handlers or row.reason)
        cells.append(
            ("handl", what and f'<div class="hubhooks-what" title="{what}">{_prose(what)}</div>')
        )
    html = "".join(f'<td role="cell" class="hubhooks-{name}">{cell}</td>' for name, cell in cells)
    return f'<tr role="row"{attributes}>{html}</tr>'


def _prose(text: str) -> str:
    """Mark the code of an escaped text, which stands between backquotes."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def _repo_html(row: Row) -> str:
    return _links_html(escape_html(row.repo), row.links)


def _links_html(repo: str, links: Links) -> str:
    """Show the repository and the discussion, with links where they are safe."""
    html = _link(links.repo, repo) if links.repo else repo
    if links.discussion:
        html += f" {_link(links.discussion, f'discussion #{links.number}')}"
    return html


def details_html(details: Details) -> str:
    """Show the selected delivery."""
    delivery = details.delivery
    state = delivery.state
    facts = {
        "state": f"{_state_html(state)}. {escape_html(_MEANINGS[state])}",
        "repository": _links_html(escape_html(delivery.repo or ""), details.links),
        "received": f"{_format_time(delivery.received_at)} UTC",
        "delivery": escape_html(delivery.id),
        "size": f"{delivery.size} bytes",
        "response": "" if delivery.is_acknowledged else "not known to be received by the sender",
        "replay": "yes" if delivery.is_replay else "",
        "duplicates": f"{delivery.duplicates}, without a new run" if delivery.duplicates else "",
        "reason": "" if details.explanations else escape_html(delivery.reason),
        "no Replay": escape_html(details.replay_blocked_reason),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value)
    runs = "".join(_run_html(run) for run in delivery.runs)
    lines = "".join(
        f"<div><small>{escape_html(line)}</small></div>" for line in details.explanations
    )
    # Open for an unhandled delivery: the explanations are all there is to see.
    is_open = " open" if state == "unhandled" else ""
    why = f'<details class="hubhooks-run"{is_open}><summary>Why</summary>{lines}</details>'
    why = why if lines else ""
    title = escape_html(f"{delivery.scope} {delivery.action}".strip() or "no valid event")
    return (
        f'<section aria-label="Selected delivery"><h3>{title}</h3><dl>{listed}</dl>{runs}{why}'
        "</section>"
    )


def _run_html(run: Run) -> str:
    notes = [f"{run.attempts} attempt{'s' * (run.attempts != 1)}"]
    if run.started_at and run.finished_at:
        notes.append(f"took {_format_seconds((run.finished_at - run.started_at).total_seconds())}")
    if run.due_at:
        notes.append(f"next attempt at {_format_time(run.due_at)}")
    if run.crashes:
        notes.append(f"the process died {run.crashes} &times; during it")
    error = _pre(run.error, f"Error of {run.handler}") if run.error else ""
    if run.traceback:
        text = _pre(run.traceback, f"Traceback of {run.handler}")
        error += f"<details><summary>Traceback</summary>{text}</details>"
    return (
        f'<div class="hubhooks-run">{_state_html(run.state)} <b>{escape_html(run.handler)}</b> '
        f"<small>{', '.join(notes)}</small>{error}</div>"
    )


def _pre(text: str, name: str) -> str:
    """Show text as it is. It can take the focus, so that the keyboard can scroll it."""
    return (
        f'<pre tabindex="0" role="group" aria-label="{escape_html(name)}">{escape_html(text)}</pre>'
    )


def _format_time(moment: datetime) -> str:
    moment = moment.astimezone(timezone.utc)
    is_today = moment.date() == datetime.now(timezone.utc).date()
    return moment.strftime("%H:%M:%S" if is_today else "%b %d %H:%M")


def _format_seconds(seconds: float) -> str:
    return f"{max(seconds, 0) * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
