"""Print deliveries, replays and notes: tables for people, JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

from rich import filesize
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.padding import Padding
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from hubhooks._terminal import (
    WIDE,
    escape_controls,
    new_table,
    print_error,
    print_line,
    print_trimmed,
    shown_id_length,
    single_line,
    terminal,
)
from hubhooks.admin.delivery_json import LONGEST_BODY, delivery_json, iso, shown_at, too_long
from hubhooks.models import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from hubhooks._store.base import Leader
    from hubhooks.cli.replay import Replay
    from hubhooks.models import Delivery, Run, Stats

__all__ = [
    "TIME_UNITS", "StoreStatus", "counted", "cut", "delivery_error", "event_text",
    "handlers_text", "indented_json", "local_time", "print_delivery", "print_list", "print_note",
    "print_replays", "print_stats", "print_unknown_handlers", "progress_bar", "terminal_width",
]  # fmt: skip

TIME_UNITS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60, "w": 7 * 24 * 60 * 60}
"""The units of time spans, in seconds."""

_MANY = 20
"""More runs than this are counted instead of listed, and more attempts are left out."""

_MOST_PLANNED = 100
"""A dry run lists at most this many deliveries."""

# The width of the other columns with the names of most events and repositories, by `is_wide`.
_WIDTH_BESIDE_ERRORS = {False: 55, True: 103}

_STYLES = {
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.STUCK: "yellow",
    State.QUEUED: "cyan",
    State.RUNNING: "cyan",
    State.MALFORMED: "red",
    State.RETRYING: "yellow",
}


class StoreStatus(NamedTuple):
    """The data of `hubhooks deliveries stats`."""

    file: str
    file_bytes: int
    stats: Stats
    is_app_running: bool
    leader: Leader | None
    unknown_handlers: Mapping[str, int]
    """The number of waiting runs by handler, for handlers that the running app does not have."""


def print_note(text: str) -> None:
    """Print one line to stderr, or nothing for an empty text."""
    if text:
        sys.stderr.write(f"{single_line(text)}\n")
        # A command that runs until Ctrl-C may write to a file or a pipe.
        sys.stderr.flush()


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar in a terminal; the block calls the function to advance it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)


def _print_json(value: object) -> None:
    print_line(json.dumps(value))


def print_unknown_handlers(unknown: Mapping[str, int]) -> None:
    """Print a note for each handler with waiting runs that the running app does not have."""
    for name, count in unknown.items():
        print_note(
            f"{counted(count, 'run')} cannot start: the running app has no handler `{name}`. Run "
            f"another handler, `hubhooks deliveries replay --only {name} --as NEW`, or mark them "
            f"as failed, `hubhooks deliveries fail --handler {name}`"
        )


def print_list(deliveries: Sequence[Delivery], *, as_json: bool) -> None:
    """Print one row or one line of JSON for each delivery."""
    if as_json:
        for delivery in deliveries:
            _print_json(delivery_json(delivery))
    elif deliveries:
        _print_delivery_table(deliveries)


def _print_delivery_table(deliveries: Sequence[Delivery]) -> None:
    console = terminal()
    is_wide, is_piped = console.width >= WIDE, not sys.stdout.isatty()
    errors = {delivery.id: delivery_error(delivery) for delivery in deliveries}
    has_errors = any(errors.values())
    # In a terminal, an error has no column of its own: its line is below another value.
    below = ", error" if has_errors and not is_piped else ""
    if is_wide:
        columns = ["id", "received", "state", "event", "repo", f"handlers{below}"]
        table = new_table(*columns, *(["error"] if has_errors and is_piped else []))
    else:
        # Names of handlers do not fit into a column of their own.
        table = new_table("id", "age", "state", f"event, handlers{below}", "repo")
    length = shown_id_length([delivery.id for delivery in deliveries])
    beside = _WIDTH_BESIDE_ERRORS[is_wide]
    limit = len(max(errors.values(), key=len)) if is_piped else max(console.width - beside, 22)
    for delivery in deliveries:
        delivery_id, state = Text(single_line(delivery.id[:length])), _state_cell(delivery.state)
        event, repo = Text(event_text(delivery)), Text(single_line(delivery.repo or ""))
        handlers = Text(handlers_text(delivery))
        error = Text(cut(errors[delivery.id], limit))
        if is_wide:
            received = local_time(delivery.received_at)
            last = (handlers, error) if is_piped else (_lines(handlers, error),)
            row = (delivery_id, received, state, event, repo, *last)
            table.add_row(*row[: len(table.columns)])
        else:
            age = _age(shown_at(delivery))
            table.add_row(delivery_id, age, state, _lines(event, handlers, error), repo)
    print_trimmed(console, table)
    if any(len(error) > limit for error in errors.values()):
        print_note("errors are cut: hubhooks deliveries show ID prints all")


def _lines(*texts: Text) -> Text:
    """Join the texts that are not empty with line breaks."""
    return Text("\n").join(text for text in texts if text)


def delivery_error(delivery: Delivery) -> str:
    """Return the last error of a delivery in one line, or why it is malformed."""
    if delivery.state == State.MALFORMED:
        return single_line(delivery.reason)
    # The reason of an ignored run is of no interest beside other runs.
    ended = {State.SUCCEEDED, State.IGNORED} - {delivery.state}
    failed = [run for run in delivery.runs if run.error and run.state not in ended]
    last = max(failed, key=lambda run: _moment(run.finished_at or run.started_at), default=None)
    if last is None:
        return ""
    error = single_line(last.error)
    # The list shows the state of another run.
    return error if last.state == delivery.state else f"{single_line(last.handler)}: {error}"


def _moment(when: datetime | None) -> datetime:
    return when or datetime.min.replace(tzinfo=timezone.utc)


def cut(text: str, length: int) -> str:
    """Cut a text to a number of characters, and mark the cut."""
    return text if len(text) <= length else f"{text[: max(length - 3, 0)].rstrip()}..."


def terminal_width() -> int | None:
    """Return the number of columns of the terminal; None in a pipe or a file."""
    return terminal().width if sys.stdout.isatty() else None


def print_delivery(delivery: Delivery, *, as_json: bool) -> None:
    """Print everything that is known about a delivery."""
    if as_json:
        _print_json(delivery_json(delivery, is_whole=True))
        return
    console = terminal()
    acknowledged = "received" if delivery.is_acknowledged else "not known to be received"
    facts: dict[str, str | Text | None] = {
        "delivery": delivery.id,
        "state": _state_cell(delivery.state),
        "received": f"{local_time(delivery.received_at)} ({_age(delivery.received_at)} ago)",
        "event": event_text(delivery),
        "repo": delivery.repo,
        "response": f"{acknowledged} by the sender",
        "replay": "yes" if delivery.is_replay else "",
        "duplicates": str(delivery.duplicates) if delivery.duplicates else "",
        "reason": delivery.reason,
    }
    print_trimmed(console, _fact_table(facts))
    if delivery.runs:
        print_trimmed(console, _runs_table(delivery.runs))
    if any(run.history for run in delivery.runs):
        print_trimmed(console, _attempts_table(delivery.runs))
    for run in delivery.runs:
        if run.error or run.traceback:
            heading = Text(f"{run.handler}: ", style="bold")
            console.print(heading + Text(escape_controls(run.error)))
        if run.traceback:
            _print_indented(console, run.traceback.rstrip("\n"))
        for attempt in run.history[-_MANY:]:
            # The last error of the run stands above.
            if attempt.error and (attempt.error, attempt.traceback) != (run.error, run.traceback):
                name = f"{run.handler}, attempt {attempt.number}: "
                console.print(Text(name, style="bold") + Text(escape_controls(attempt.error)))
                if attempt.traceback:
                    _print_indented(console, attempt.traceback.rstrip("\n"))
        _print_recorded(console, run)
    console.print(Text("headers", style="bold"))
    _print_indented(console, "\n".join(f"{name}: {value}" for name, value in delivery.headers))
    _print_body(console, delivery)


def _print_recorded(console: Console, run: Run) -> None:
    """Print what each attempt printed and returned, if `hubhooks dev` recorded it."""
    for attempt in run.history[-_MANY:]:
        for what, text in (("printed", attempt.output), ("returned", attempt.result)):
            if text:
                name = f"{run.handler}, attempt {attempt.number}, {what}:"
                console.print(Text(name, style="bold"))
                _print_indented(console, text.rstrip("\n"))


def _print_body(console: Console, delivery: Delivery) -> None:
    console.print(Text(f"body, {filesize.decimal(delivery.size)}", style="bold"))
    if delivery.body is None:
        _print_indented(console, "deleted to free space")
        return
    if delivery.size > LONGEST_BODY:
        _print_indented(console, too_long(delivery))
        return
    text = indented_json(delivery.body)
    # `soft_wrap` adds no line breaks, so the body can be copied.
    if text is None:
        console.print(Text(escape_controls(_as_text(delivery.body))), soft_wrap=True)
    else:
        console.print(JSONHighlighter()(text), soft_wrap=True)


def _runs_table(runs: Sequence[Run]) -> Table:
    table = new_table("handler", "state", "attempts", "started", "took", "notes")
    for run in runs:
        took = ""
        if run.started_at and run.finished_at:
            took = _duration(run.finished_at - run.started_at)
        notes = []
        if run.due_at:
            notes.append(f"retry at {local_time(run.due_at)}")
        if run.crashes:
            notes.append(f"the process died during {counted(run.crashes, 'attempt')}")
        table.add_row(
            Text(run.handler),
            _state_cell(run.state),
            str(run.attempts),
            local_time(run.started_at) if run.started_at else "",
            took,
            "; ".join(notes),
        )
    return table


def _attempts_table(runs: Sequence[Run]) -> Table:
    table = new_table("attempt", "state", "started", "process", "code")
    for run in runs:
        for attempt in run.history[-_MANY:]:
            table.add_row(
                Text(f"{run.handler} {attempt.number}"),
                "" if attempt.state is None else _state_cell(attempt.state),
                local_time(attempt.started_at),
                "" if attempt.pid is None else str(attempt.pid),
                attempt.code or "",
            )
    return table


def _leader_text(leader: Leader) -> str:
    since = "" if leader.since is None else f", since {local_time(leader.since)}"
    return f"process {leader.process.pid}{since}, code {leader.code}"


def print_stats(status: StoreStatus, *, as_json: bool) -> None:
    """Print the size of the store, its numbers of deliveries and rejected requests."""
    stats, leader = status.stats, status.leader
    if as_json:
        _print_json(
            {
                "file": status.file,
                "file_bytes": status.file_bytes,
                "body_bytes": stats.body_bytes,
                "is_app_running": status.is_app_running,
                "leader": leader and {"pid": leader.process.pid, "code": leader.code},
                "unknown_handlers": status.unknown_handlers,
                "unfinished_since": iso(stats.unfinished_since),
                "states": stats.states,
                "rejected": stats.rejections,
            }
        )
        return
    console = terminal()
    facts = {
        "file": f"{status.file}, {filesize.decimal(status.file_bytes)}",
        "bodies": filesize.decimal(stats.body_bytes),
        "app": "running" if status.is_app_running else "not running",
        "leader": leader and _leader_text(leader),
    }
    if stats.unfinished_since:
        facts["oldest unfinished"] = f"received {local_time(stats.unfinished_since)}"
    print_trimmed(console, _fact_table(facts))
    if stats.states:
        counts = new_table("state", "deliveries")
        for state in State:
            if count := stats.states.get(state):
                counts.add_row(_state_cell(state), str(count))
        print_trimmed(console, counts)
    if stats.rejections:
        rejected = new_table("rejection reason", "requests")
        for reason, count in sorted(stats.rejections.items()):
            rejected.add_row(Text(reason), str(count))
        print_trimmed(console, rejected)
    print_unknown_handlers(status.unknown_handlers)


def print_replays(replays: Sequence[Replay], *, is_dry_run: bool, as_json: bool) -> None:
    """Print the state of each run; for a dry run, the handlers of each delivery."""
    if as_json:
        for replay in replays:
            _print_json(replay.json)
        return
    for replay in replays:
        if replay.skipped:
            print_error(f"`{single_line(replay.delivery.id)}` is not replayed: {replay.skipped}")
    if not replays:
        print_note("nothing to replay")
    table = _plan_table(replays) if is_dry_run else _outcome_table(replays)
    if table.row_count:
        print_trimmed(terminal(), table)
    if is_dry_run:
        count = sum(bool(replay.handlers) for replay in replays)
        hidden = count - table.row_count
        print_note(f"and {hidden} more: --json lists all" if hidden else "")
        deliveries = counted(count, "delivery", "deliveries")
        print_note(f"dry run: nothing was queued, {deliveries} would be replayed")


def _plan_table(replays: Sequence[Replay]) -> Table:
    table = new_table("id", "received", "event", "handlers")
    planned = [replay for replay in replays if replay.handlers][:_MOST_PLANNED]
    length = shown_id_length([replay.delivery.id for replay in planned])
    for replay in planned:
        delivery = replay.delivery
        table.add_row(
            Text(single_line(delivery.id[:length])),
            local_time(delivery.received_at),
            Text(event_text(delivery)),
            Text(", ".join(replay.handlers)),
        )
    return table


def _outcome_table(replays: Sequence[Replay]) -> Table:
    runs = [(replay.delivery.id, run) for replay in replays for run in replay.runs]
    if len(runs) > _MANY:
        table = new_table("state", "handler", "runs")
        counts = Counter((run.state, run.handler) for _, run in runs)
        for (state, handler), count in sorted(counts.items()):
            table.add_row(_state_cell(state), Text(handler), str(count))
        return table
    table = new_table("state", "handler", "id", "error")
    length = shown_id_length([delivery_id for delivery_id, _ in runs])
    for delivery_id, run in runs:
        names = (Text(run.handler), Text(single_line(delivery_id[:length])))
        table.add_row(_state_cell(run.state), *names, Text(single_line(run.error)))
    return table


def _fact_table(facts: Mapping[str, str | Text | None]) -> Table:
    """Build a table of names and values, without empty values."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            text = value if isinstance(value, Text) else Text(escape_controls(value))
            table.add_row(name, text)
    return table


def _print_indented(console: Console, text: str) -> None:
    indented = Padding(Text(escape_controls(text), overflow="fold"), (0, 0, 0, 2), expand=False)
    print_trimmed(console, indented)


def _state_cell(state: State) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def handlers_text(delivery: Delivery) -> str:
    """Return the names of the handlers, with their states if there are several."""
    runs = delivery.runs
    is_one = len(runs) == 1
    return ", ".join(run.handler if is_one else f"{run.handler}: {run.state}" for run in runs)


def event_text(delivery: Delivery) -> str:
    """Return the scope and the action of an event."""
    return single_line(f"{delivery.scope} {delivery.action}")


def local_time(when: datetime) -> str:
    """Format a time with its zone; `--since` accepts this format."""
    return when.astimezone().isoformat(" ", "seconds")


def _age(when: datetime) -> str:
    seconds = max((datetime.now(timezone.utc) - when).total_seconds(), 0)
    unit = next((unit for unit, size in reversed(TIME_UNITS.items()) if size <= seconds), "s")
    return f"{seconds / TIME_UNITS[unit]:.0f}{unit}"


def _duration(span: timedelta) -> str:
    seconds = max(span.total_seconds(), 0)
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def counted(count: int, singular: str, plural: str = "") -> str:
    """Format a number with its noun; the plural is by default the singular with an s."""
    return f"{count} {singular if count == 1 else plural or f'{singular}s'}"


def indented_json(body: bytes) -> str | None:
    """Indent a body; return None if it is not JSON."""
    try:
        return escape_controls(json.dumps(json.loads(body), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return None


def _as_text(body: bytes) -> str:
    return body.decode("utf-8", "backslashreplace")
