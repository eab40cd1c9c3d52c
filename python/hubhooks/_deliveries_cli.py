"""The commands on the delivery store of an app, which may run meanwhile."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import filesize
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.padding import Padding
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from hubhooks._database import require_file
from hubhooks._delivery_json import LONGEST_BODY, delivery_json, iso, run_json, too_long
from hubhooks._terminal import (
    WIDE,
    complain,
    new_table,
    one_line,
    print_line,
    shown_id_length,
    terminal,
    usage_errors,
    visible,
)
from hubhooks.errors import BusyError, ConfigError, StoreError
from hubhooks.models import State
from hubhooks.sqlite import RunnerLock, SqliteLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from hubhooks.models import Delivery, Run
    from hubhooks.sqlite import Leader

    T = TypeVar("T")

__all__ = ["make_group"]

_MANY = 20
"""More runs than this are counted, not listed."""

_LONGEST_PLAN = 100
# In characters of up to four bytes, as file systems take 255 bytes. The end has the id.
_LONGEST_NAME = 60
"""So many of what would run again are listed."""

_PAGE = 500
# More than a terminal holds; `--json` has pages too.
_MOST_LISTED = 100_000
_SHORTEST_ID = 8
_UNITS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60, "w": 7 * 24 * 60 * 60}
_SPAN = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(_UNITS)}])")
_UNSAFE_IN_NAME = re.compile(r"[^\w.-]")

# Another process that writes holds the log for a moment, and now and then for a little longer.
_BUSY_SECONDS = 10.0
_POLL_SECONDS = 0.2
# What is queued in one transaction, and how long the app has before the next.
_CHUNK = 50
_CHUNK_BYTES = 4 * 1024 * 1024
_PAUSE_SECONDS = 0.02
# An app that restarts is away for a moment.
_GONE_SECONDS = 5.0
_CTRL_C = 130
_WAITING = frozenset({State.QUEUED, State.RETRYING})
_ENDED = "ended by `hubhooks deliveries fail`"

_STYLES = {
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.STUCK: "yellow",
    State.QUEUED: "cyan",
    State.RUNNING: "cyan",
    State.MALFORMED: "red",
    State.RETRYING: "yellow",
}


_File = Annotated[
    str,
    typer.Option(
        "--file", envvar="HUBHOOKS_DELIVERIES", metavar="PATH", help="The app's delivery store."
    ),
]
_Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, or how that begins.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_AsJsonLines = Annotated[
    bool, typer.Option("--json", help="Print one JSON object per delivery and line.")
]
_WHEN_HELP = 'as in "2h" (s, m, h, d or w), or a date and time, as in 2026-07-31T14:00.'
_DEFAULT_FILE = "hubhooks.db"
# Not docstrings, which `python -OO` drops.
_REPLAY_HELP = """Queue handlers again, and follow the app that runs them until all have ended.

Exits with 0 when all did well, or are queued and no app runs; with 1 when a handler failed,
a delivery could not be replayed, or the app went away; with 2 when nothing was queued because
an option is wrong.
"""
_FAIL_HELP = """\
Mark the waiting runs of a handler as failed, for example after the handler was removed.

They can be replayed like other failed runs.
"""
_PRUNE_HELP = """\
Drop the bodies of finished deliveries now that are older; the app drops old ones by itself.

Their ids are kept for a week more, so that what the Hub sends again is recognised. The file
keeps its size, and fills what is free in it first.
"""

_BACKUP_HELP = """\
Copy the log as it is now into a new file, also while the app runs.

The copy is one file, and only its owner may read it. The app can use it in place of the log.
"""


def make_group() -> typer.Typer:
    """Put the commands together."""
    group = typer.Typer(no_args_is_help=True)
    group.callback(
        help="Read and replay what an app keeps of its deliveries, whether it runs or not."
    )(_deliveries)
    group.command("list", help="List deliveries, the newest first.")(_list)
    group.command(
        "show", help="Show all that is known of a delivery: its handlers, headers and body."
    )(_show)
    group.command("replay", help=_REPLAY_HELP)(_replay)
    group.command(
        "export",
        help="Write the body of a delivery to a file, for `hubhooks send --file` and for tests.",
    )(_export)
    group.command("fail", help=_FAIL_HELP)(_fail)
    group.command("stats", help="Show the log in figures: states, sizes, what was refused.")(_stats)
    group.command("prune", help=_PRUNE_HELP)(_prune)
    group.command("backup", help=_BACKUP_HELP)(_backup)
    return group


# ---- the commands ------------------------------------------------------------------------------


def _deliveries() -> None:
    """Take no options before the command."""


def _list(  # noqa: PLR0913, one parameter per option
    *,
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="Only those of this scope, as in repo.content.")
    ] = None,
    repo: Annotated[str | None, typer.Option(help="Only those of this repository.")] = None,
    since: Annotated[
        str | None, typer.Option(help=f"Only those that came since: {_WHEN_HELP}")
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only those older than this one.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=_MOST_LISTED, help="So many at most.")] = 20,
    as_json: _AsJsonLines = False,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        log = _log(file)
        # One more than asked for tells whether there are more.
        deliveries = log.list(
            state=state and state.value,
            scope=_utf_8(scope, "--scope"),
            repo=_utf_8(repo, "--repo"),
            since=None if since is None else _moment(since),
            before=None if before is None else _id(log, before),
            limit=limit + 1,
        )
        unknown = _unknown_handlers(log, is_led=RunnerLock(file).is_taken())
    page, is_more = deliveries[:limit], len(deliveries) > limit
    if as_json:
        for delivery in page:
            _print_json(delivery_json(delivery))
        return
    if page:
        _print_list(page)
    _note_unknown(unknown)
    _note(f"older ones: --before {page[-1].id}" if is_more else "" if page else "no deliveries")


def _show(*, delivery_id: _Id, as_json: _AsJson = False, file: _File = _DEFAULT_FILE) -> None:
    with _errors():
        delivery = _find_delivery(_log(file), delivery_id)
    if as_json:
        _print_json(delivery_json(delivery, is_whole=True))
    else:
        _print_delivery(delivery)


def _replay(  # noqa: PLR0913, one parameter per option
    *,
    deliveries: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Their ids, or how these begin.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HANDLER",
            help="Only this handler; of deliveries named by id also one that did not hear it. "
            "May be given several times.",
        ),
    ] = None,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Only handlers that failed; without ids, all that did."),
    ] = False,
    since: Annotated[
        str | None, typer.Option(help=f"Instead of ids, all that came since: {_WHEN_HELP}")
    ] = None,
    replacement: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="HANDLER",
            help="Run this handler in place of those of --only, or of those that no running app "
            "has; without ids, of all deliveries that wait for these.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    as_json: _AsJsonLines = False,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        log = _log(file)
        lock = RunnerLock(file)
        moment = None if since is None else _moment(since)
        for name in only or ():
            _check_handler(name, "--only")
        leader = log.leader() if lock.is_taken() else None
        live = None if leader is None else leader.handlers
        if replacement is None:
            replays = _replays(log, deliveries or [], only or [], moment, is_failed=failed)
            _skip_unknown(replays, live)
        else:
            _check_handler(replacement, "--as")
            replays = _replays_as(log, deliveries or [], only or [], moment, replacement, live)
        _skip_without_body(log, replays)
        is_ended = True
        if not dry_run:
            try:
                _queue(log, replays)
                is_ended = _follow(log, lock, replays)
            except KeyboardInterrupt:
                _note("no longer followed: the app runs what is queued")
                raise typer.Exit(_CTRL_C) from None
    if as_json:
        for replay in replays:
            _print_json(replay.json)
    else:
        _print_replays(replays, is_dry_run=dry_run)
    raise typer.Exit(0 if is_ended and all(replay.is_well for replay in replays) else 1)


def _export(
    *,
    delivery_id: _Id,
    output: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="A new file, or - for standard output; else named so."),
    ] = None,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        delivery = _find_delivery(_log(file), delivery_id)
        if delivery.body is None:
            msg = (
                f"the body of `{delivery.id}` was dropped to make room, so there is none to export"
            )
            raise ConfigError(one_line(msg))
        text = _pretty(delivery.body)
        content = delivery.body if text is None else f"{text}\n".encode()
        if output == "-":
            sys.stdout.buffer.write(content)
            return
        path = Path(output or _file_name(delivery))
        try:
            with path.open("xb") as made:
                made.write(content)
        except FileExistsError:
            msg = f"`{path}` exists already: give another --output"
            raise ConfigError(msg) from None
        except OSError as error:
            msg = f"cannot write `{path}`: {error.strerror}"
            raise ConfigError(msg) from error
    print_line(str(path))


def _fail(
    *,
    handler: Annotated[str, typer.Option(metavar="HANDLER", help="The name of the handler.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is.")] = False,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        _check_handler(handler, "--handler")
        log = _log(file)
        count = log.waiting_handlers().get(handler, 0)
        if not dry_run:
            count = _fail_waiting(log, handler)
    verb = "would end" if dry_run else "ended"
    print_line(f"{verb} {_count(count, 'run')} of `{one_line(handler)}` as failed")


def _stats(*, as_json: _AsJson = False, file: _File = _DEFAULT_FILE) -> None:
    with _errors():
        log = _log(file)
        stats = log.stats()
        is_running = RunnerLock(file).is_taken()
        size = Path(log.path).stat().st_size
        leader = log.leader() if is_running else None
        unknown = _unknown_handlers(log, is_led=is_running)
    if as_json:
        _print_json(
            {
                "file": log.path,
                "file_bytes": size,
                "body_bytes": stats.body_bytes,
                "is_app_running": is_running,
                "leader": leader and {"pid": leader.process.pid, "code": leader.code},
                "unknown_handlers": unknown,
                "unfinished_since": iso(stats.unfinished_since),
                "states": stats.states,
                "rejected": stats.rejections,
            }
        )
        return
    console = terminal()
    facts = {
        "file": f"{log.path}, {filesize.decimal(size)}",
        "bodies": filesize.decimal(stats.body_bytes),
        "app": "runs" if is_running else "does not run",
        "leader": leader and _leader_text(leader),
    }
    if stats.unfinished_since:
        facts["unfinished"] = f"since {_local(stats.unfinished_since)}"
    console.print(_facts(facts))
    if stats.states:
        counts = new_table("state", "deliveries")
        for state in State:
            if count := stats.states.get(state):
                counts.add_row(_state_cell(state), str(count))
        console.print(counts)
    if stats.rejections:
        refused = new_table("rejected because", "requests")
        for reason, count in sorted(stats.rejections.items()):
            refused.add_row(Text(reason), str(count))
        console.print(refused)
    _note_unknown(unknown)


def _prune(
    *,
    older_than: Annotated[str, typer.Option(help=f"What came before: {_WHEN_HELP}")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is.")] = False,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        moment = _moment(older_than)
        days = (datetime.now(timezone.utc) - moment) / timedelta(days=1)
        # The limit on the size is the app's, which we do not know.
        log = _log(file, keep_days=days, max_bytes=sys.maxsize)
        old = log.prunable()
        if not dry_run:
            _patiently(log.prune)
    verb = "would drop" if dry_run else "dropped"
    print_line(
        f"{verb} {_count(old.bodies, 'body', 'bodies')} ({filesize.decimal(old.body_bytes)}) and "
        f"{_count(old.deliveries, 'delivery', 'deliveries')} received before {_local(moment)}"
    )


def _backup(
    *,
    target: Annotated[str, typer.Argument(metavar="FILE", help="The new file.")],
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        log = _log(file)
        _patiently(lambda: log.backup(target))
    print_line(target)


# ---- reading -----------------------------------------------------------------------------------


@contextmanager
def _errors() -> Iterator[None]:
    try:
        with usage_errors():
            yield
    except StoreError as error:
        complain(str(error))
        raise typer.Exit(1) from error


def _check_handler(name: str, option: str) -> None:
    _utf_8(name, option)
    if not name:
        msg = f"{option} must be the name of a handler, and is empty"
        raise ConfigError(msg)


def _unknown_handlers(log: SqliteLog, *, is_led: bool) -> dict[str, int]:
    """Count the runs that wait for handlers which the running app does not have."""
    return log.unknown_handlers() if is_led else {}


def _note_unknown(unknown: Mapping[str, int]) -> None:
    for name, count in unknown.items():
        _note(
            f"{_count(count, 'run')} wait for `{name}`, which no running app has: `hubhooks "
            f"deliveries replay --only {name} --as NEW`, or `hubhooks deliveries fail --handler "
            f"{name}`"
        )


def _utf_8(text: str | None, option: str) -> str | None:
    """Refuse what no delivery says: bytes of the command line that are no text."""
    if text is not None and not text.isprintable():
        msg = f"{option} must be printable text"
        raise ConfigError(msg)
    return text


def _log(file: str, **options: Any) -> SqliteLog:  # noqa: ANN401, those of the log
    """Give the log of a file that is there: nothing here makes one."""
    if file == ":memory:":
        msg = "the app keeps its deliveries in memory (:memory:), where only it can read them"
        raise ConfigError(msg)
    # It is for the app to refuse a network file system.
    log = SqliteLog(file, allow_network=True, **options)
    try:
        require_file(log.path)
        is_there = Path(log.path).stat().st_size > 0
    except FileNotFoundError:
        is_there = False
    except OSError as error:
        msg = f"cannot read the delivery store `{file}`: {error.strerror}"
        raise ConfigError(msg) from error
    if not is_there:
        msg = (
            f"there is no delivery store `{log.path}`; the app makes it when it starts: "
            "run this where the app runs, give --file, or set HUBHOOKS_DELIVERIES"
        )
        raise ConfigError(msg)
    return log


def _id(log: SqliteLog, prefix: str) -> str:
    """Find the one id that begins so."""
    if not prefix:
        # Every id begins so. A script whose variable is not set means none of them.
        msg = "an id is empty; see `hubhooks deliveries list`"
        raise ConfigError(msg)
    prefix = prefix.encode("utf-8", "replace").decode()
    found = log.ids(prefix)
    if prefix in found or len(found) == 1:
        return found[0]
    if not found:
        msg = f"no delivery has an id that begins with `{prefix}`; see `hubhooks deliveries list`"
        raise ConfigError(msg)
    msg = f"several ids begin with `{prefix}`; write more of one: {', '.join(found)}"
    raise ConfigError(one_line(msg))


def _find_delivery(log: SqliteLog, prefix: str) -> Delivery:
    delivery = log.get(_id(log, prefix))
    if delivery is None:
        msg = f"the delivery `{prefix}` was dropped just now"
        raise ConfigError(msg)
    return delivery


def _moment(text: str) -> datetime:
    """Read a time: so long ago, or a date as ISO 8601 has it, local unless it says otherwise."""
    try:
        if span := _SPAN.fullmatch(text.strip()):
            ago = timedelta(seconds=float(span[1]) * _UNITS[span[2]])
            return datetime.now(timezone.utc) - ago
        # Python 3.10 does not know the Z.
        return datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text.strip())).astimezone()
    except (ValueError, OverflowError, OSError):
        msg = f"`{text}` is no time; write {_WHEN_HELP}"
        raise ConfigError(msg) from None


# ---- replaying ---------------------------------------------------------------------------------


@dataclass
class _Replay:
    """Handlers of one delivery that are to run again."""

    delivery: Delivery
    handlers: tuple[str, ...] = ()
    skipped: str = ""
    """Why none do."""
    replaces: tuple[str, ...] = ()
    """The handlers in whose place it runs, for `--as`."""
    runs: list[Run] = field(default_factory=list)
    """What became of them, as far as it is known."""

    @property
    def is_ended(self) -> bool:
        is_known = bool(self.runs) and all(run.finished_at is not None for run in self.runs)
        return is_known or bool(self.skipped)

    @property
    def is_well(self) -> bool:
        return not self.skipped and all(run.state != State.FAILED for run in self.runs)

    def skip(self, why: str) -> None:
        self.skipped, self.handlers = why, ()

    @property
    def json(self) -> dict[str, Any]:
        return {
            "id": self.delivery.id,
            "handlers": self.handlers,
            "skipped": self.skipped or None,
            "runs": [run_json(run) for run in self.runs],
        }


def _replays(
    log: SqliteLog,
    prefixes: Sequence[str],
    only: Sequence[str],
    since: datetime | None,
    *,
    is_failed: bool,
) -> list[_Replay]:
    """Choose what is to run again, the oldest first or in the order of the ids."""
    if prefixes and since:
        msg = "--since chooses deliveries, and so do ids: give one of them"
        raise ConfigError(msg)
    if prefixes:
        ids = list(dict.fromkeys(_id(log, prefix) for prefix in prefixes))
        return [_replay_of(delivery, only, is_failed=is_failed) for delivery in log.deliveries(ids)]
    if not (is_failed or since):
        msg = "there is nothing to replay: give ids, --failed or --since"
        raise ConfigError(msg)
    chosen = []
    for delivery in log.every(state=State.FAILED if is_failed else None, since=since):
        # Nobody meant those that did not hear it, as long as they are not named.
        heard = [run.handler for run in delivery.runs if not only or run.handler in only]
        replay = _replay_of(delivery, heard, is_failed=is_failed)
        if heard and not replay.skipped:
            chosen.append(replay)
    return chosen[::-1]


def _replay_of(delivery: Delivery, only: Sequence[str], *, is_failed: bool) -> _Replay:
    names = list(dict.fromkeys(only)) or [run.handler for run in delivery.runs]
    if is_failed:
        failed = {run.handler for run in delivery.runs if run.state == State.FAILED}
        names = [name for name in names if name in failed]
    if unfinished := [run for run in delivery.runs if run.finished_at is None]:
        return _Replay(delivery, skipped=f"{unfinished[0].handler} is still {unfinished[0].state}")
    if not names:
        why = "none of its handlers failed" if is_failed else "no handler heard it: use --only"
        return _Replay(delivery, skipped=why)
    return _Replay(delivery, tuple(names))


def _replays_as(  # noqa: PLR0913, PLR0917 - as for `_replays`, and what replaces what
    log: SqliteLog,
    prefixes: Sequence[str],
    only: Sequence[str],
    since: datetime | None,
    new: str,
    live: frozenset[str] | None,
) -> list[_Replay]:
    """Choose deliveries in which another handler is to run in place of some."""
    if live is not None and new not in live:
        raise ConfigError(_no_such_handler(new, live))
    names = list(only) or list(_unknown(log, live))
    if not names:
        msg = "--as replaces handlers: name them with --only"
        raise ConfigError(msg)
    if prefixes:
        ids = list(dict.fromkeys(_id(log, prefix) for prefix in prefixes))
        deliveries: Iterable[Delivery] = log.deliveries(ids)
    else:
        deliveries = reversed(list(log.every(since=since)))
    chosen = []
    for delivery in deliveries:
        old = [run.handler for run in delivery.runs if run.handler in names and run.handler != new]
        # Without ids, those that wait: what ended is replayed by name.
        is_waiting = any(run.handler in old and run.state in _WAITING for run in delivery.runs)
        if old and (is_waiting or prefixes or since):
            chosen.append(_Replay(delivery, (new,), replaces=tuple(old)))
        elif prefixes:
            chosen.append(_Replay(delivery, skipped="it has no run of these handlers"))
    return chosen


def _unknown(log: SqliteLog, live: frozenset[str] | None) -> Iterable[str]:
    return () if live is None else [name for name in log.waiting_handlers() if name not in live]


def _no_such_handler(name: str, live: frozenset[str]) -> str:
    return f"no running app has the handler `{name}`; there are {', '.join(sorted(live)) or 'none'}"


def _skip_unknown(replays: Sequence[_Replay], live: frozenset[str] | None) -> None:
    """Skip what no running app can run: it would wait for ever."""
    for replay in replays:
        missing = [name for name in replay.handlers if live is not None and name not in live]
        if missing and live is not None:
            replay.skip(f"{_no_such_handler(missing[0], live)}: use --as")


def _fail_waiting(log: SqliteLog, handler: str) -> int:
    """End runs in short transactions with pauses, as the app has to write meanwhile."""
    total = 0
    log.open()
    try:
        while count := _patiently(lambda: log.fail_waiting(handler, _ENDED, _CHUNK)):
            total += count
            time.sleep(_PAUSE_SECONDS)
    finally:
        log.close()
    return total


def _skip_without_body(log: SqliteLog, replays: Sequence[_Replay]) -> None:
    kept = log.with_bodies(replay.delivery.id for replay in replays)
    for replay in replays:
        if replay.handlers and replay.delivery.id not in kept:
            replay.skip("its body was dropped to make room")


def _queue(log: SqliteLog, replays: Sequence[_Replay]) -> None:
    """Queue in short transactions with pauses, as the app has to write meanwhile."""
    waiting = deque(replay for replay in replays if replay.handlers)
    log.open()
    try:
        while waiting:
            chunk: list[_Replay] = []
            size = 0
            while waiting and len(chunk) < _CHUNK and size < _CHUNK_BYTES:
                chunk.append(waiting.popleft())
                size += chunk[-1].delivery.size
            _patiently(lambda: _queue_together(log, chunk))  # noqa: B023, it is called at once
            if waiting:
                time.sleep(_PAUSE_SECONDS)
    finally:
        log.close()


def _queue_together(log: SqliteLog, chunk: Sequence[_Replay]) -> None:
    with log.batch():
        refused = [one for one in chunk if not _queue_one(log, one)]
    for replay in refused:
        replay.skip("it changed meanwhile")


def _queue_one(log: SqliteLog, replay: _Replay) -> bool:
    if replay.replaces:
        return log.replay_as(replay.delivery.id, replay.replaces, *replay.handlers)
    return bool(log.replay(replay.delivery.id, replay.handlers))


def _patiently(write: Callable[[], T]) -> T:
    """Try again while another process writes."""
    give_up = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return write()
        except BusyError:  # noqa: PERF203, it loops only where it failed
            if time.monotonic() > give_up:
                raise
            time.sleep(_POLL_SECONDS)


def _follow(log: SqliteLog, lock: RunnerLock, replays: Sequence[_Replay]) -> bool:
    """Wait until all that was queued has ended; whether the app was there to the end.

    Where no app runs, there is nothing to wait for.
    """
    pending = deque(replay for replay in replays if replay.handlers)
    count = sum(len(replay.handlers) for replay in pending)
    if not pending:
        return True
    _look(log, list(pending))
    if not lock.is_taken():
        _note(f"no app runs on this log: {_count(count, 'run')} queued, to start with it")
        return True
    console = Console(stderr=True)
    seen = time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying", total=count)
        while pending:
            batch = [pending.popleft() for _ in range(min(len(pending), _PAGE))]
            _look(log, batch)
            ended = [replay for replay in batch if replay.is_ended]
            progress.advance(task, sum(len(replay.handlers) for replay in ended))
            pending.extend(replay for replay in batch if not replay.is_ended)
            if ended or lock.is_taken():
                seen = time.monotonic()
            elif time.monotonic() - seen > _GONE_SECONDS:
                _note("the app went away: what has not ended runs when it is there again")
                return False
            if not ended:
                time.sleep(_POLL_SECONDS)
    return True


def _look(log: SqliteLog, replays: Sequence[_Replay]) -> None:
    """Note what became of runs so far."""
    deliveries = {
        delivery.id: delivery for delivery in log.deliveries(one.delivery.id for one in replays)
    }
    for replay in replays:
        if delivery := deliveries.get(replay.delivery.id):
            replay.runs = [run for run in delivery.runs if run.handler in replay.handlers]
        else:
            replay.skipped = "it was dropped meanwhile"


# ---- printing ----------------------------------------------------------------------------------


def _note(text: str) -> None:
    if text:
        sys.stderr.write(f"{one_line(text)}\n")


def _print_json(value: object) -> None:
    print_line(json.dumps(value))


def _print_list(deliveries: Sequence[Delivery]) -> None:
    console = terminal()
    if console.width >= WIDE:
        table = new_table("id", "received", "state", "event", "repo", "handlers")
    else:
        # A column of their own would be too narrow for the names of handlers.
        table = new_table("id", "age", "state", "event, handlers", "repo")
    length = shown_id_length([delivery.id for delivery in deliveries])
    for delivery in deliveries:
        delivery_id, state = Text(one_line(delivery.id[:length])), _state_cell(delivery.state)
        event, repo = Text(_event(delivery)), Text(one_line(delivery.repo or ""))
        handlers = _handlers_cell(delivery.runs)
        if console.width >= WIDE:
            received = _local(delivery.received_at)
            table.add_row(delivery_id, received, state, event, repo, handlers)
        else:
            both = Text("\n").join([event, handlers]) if delivery.runs else event
            age = _age(delivery.received_at)
            table.add_row(delivery_id, age, state, both, repo)
    console.print(table)


def _print_delivery(delivery: Delivery) -> None:
    console = terminal()
    facts: dict[str, str | Text | None] = {
        "delivery": delivery.id,
        "state": _state_cell(delivery.state),
        "received": f"{_local(delivery.received_at)} ({_age(delivery.received_at)} ago)",
        "event": _event(delivery),
        "repo": delivery.repo,
        "answer": ("" if delivery.is_acknowledged else "not ") + "known to have reached the Hub",
        "replay": "yes" if delivery.is_replay else "",
        "repeated": _count(delivery.duplicates, "time") if delivery.duplicates else "",
        "because": delivery.reason,
    }
    console.print(_facts(facts))
    if delivery.runs:
        console.print(_runs_table(delivery.runs))
    if any(run.history for run in delivery.runs):
        console.print(_attempts_table(delivery.runs))
    for run in delivery.runs:
        if run.error or run.traceback:
            console.print(Text(f"{run.handler}: ", style="bold") + Text(visible(run.error)))
        if run.traceback:
            _print_indented(console, run.traceback.rstrip("\n"))
    console.print(Text("headers", style="bold"))
    _print_indented(console, "\n".join(f"{name}: {value}" for name, value in delivery.headers))
    console.print(Text(f"body, {filesize.decimal(delivery.size)}", style="bold"))
    if delivery.body is None:
        _print_indented(console, "dropped to make room")
        return
    if delivery.size > LONGEST_BODY:
        _print_indented(console, too_long(delivery))
        return
    text = _pretty(delivery.body)
    # Not folded, so that it can be copied.
    if text is None:
        console.print(Text(visible(_as_text(delivery.body))), soft_wrap=True)
    else:
        console.print(JSONHighlighter()(text), soft_wrap=True)


def _runs_table(runs: Sequence[Run]) -> Table:
    table = new_table("handler", "state", "attempts", "started", "took", "notes")
    for run in runs:
        took = ""
        if run.started_at and run.finished_at:
            took = _took(run.finished_at - run.started_at)
        notes = []
        if run.due_at:
            notes.append(f"again at {_local(run.due_at)}")
        if run.crashes:
            notes.append(f"the process died during it: {_count(run.crashes, 'time')}")
        table.add_row(
            Text(run.handler),
            _state_cell(run.state),
            str(run.attempts),
            _local(run.started_at) if run.started_at else "",
            took,
            "; ".join(notes),
        )
    return table


def _attempts_table(runs: Sequence[Run]) -> Table:
    table = new_table("attempt", "started", "process", "code")
    for run in runs:
        for attempt in run.history[-_MANY:]:
            table.add_row(
                Text(f"{run.handler} {attempt.number}"),
                _local(attempt.started_at),
                "" if attempt.pid is None else str(attempt.pid),
                attempt.code or "",
            )
    return table


def _leader_text(leader: Leader) -> str:
    since = "" if leader.since is None else f", since {_local(leader.since)}"
    return f"process {leader.process.pid}{since}, code {leader.code}"


def _print_replays(replays: Sequence[_Replay], *, is_dry_run: bool) -> None:
    for replay in replays:
        if replay.skipped:
            complain(f"`{one_line(replay.delivery.id)}` is not replayed: {replay.skipped}")
    if not replays:
        _note("there is nothing to replay")
    table = _plan_table(replays) if is_dry_run else _endings_table(replays)
    if table.row_count:
        terminal().print(table)
    if is_dry_run:
        count = sum(bool(replay.handlers) for replay in replays)
        hidden = count - table.row_count
        _note(f"and {hidden} more, which --json lists too" if hidden else "")
        _note(f"a dry run: nothing was queued of {_count(count, 'delivery', 'deliveries')}")


def _plan_table(replays: Sequence[_Replay]) -> Table:
    table = new_table("id", "received", "event", "handlers")
    planned = [replay for replay in replays if replay.handlers][:_LONGEST_PLAN]
    length = shown_id_length([replay.delivery.id for replay in planned])
    for replay in planned:
        delivery = replay.delivery
        table.add_row(
            Text(one_line(delivery.id[:length])),
            _local(delivery.received_at),
            Text(_event(delivery)),
            Text(", ".join(replay.handlers)),
        )
    return table


def _endings_table(replays: Sequence[_Replay]) -> Table:
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
        names = (Text(run.handler), Text(one_line(delivery_id[:length])))
        table.add_row(_state_cell(run.state), *names, Text(one_line(run.error)))
    return table


def _facts(facts: Mapping[str, str | Text | None]) -> Table:
    """Put names before values, leaving out what is empty."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, value if isinstance(value, Text) else Text(visible(value)))
    return table


def _print_indented(console: Console, text: str) -> None:
    console.print(Padding(Text(visible(text), overflow="fold"), (0, 0, 0, 2), expand=False))


def _state_cell(state: State) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def _handlers_cell(runs: Sequence[Run]) -> Text:
    """Name the handlers, and where there are several, their states too."""
    is_one = len(runs) == 1
    names = [f"{run.handler}" if is_one else f"{run.handler}: {run.state}" for run in runs]
    return Text(", ".join(names))


def _event(delivery: Delivery) -> str:
    return one_line(f"{delivery.scope} {delivery.action}")


def _local(when: datetime) -> str:
    """Write a time with its zone, so that `--since` reads the same time from it."""
    return when.astimezone().isoformat(" ", "seconds")


def _age(when: datetime) -> str:
    seconds = max((datetime.now(timezone.utc) - when).total_seconds(), 0)
    unit = next((unit for unit, size in reversed(_UNITS.items()) if size <= seconds), "s")
    return f"{seconds / _UNITS[unit]:.0f}{unit}"


def _took(span: timedelta) -> str:
    seconds = max(span.total_seconds(), 0)
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def _pretty(body: bytes) -> str | None:
    """Lay out a body; None if it is no JSON."""
    try:
        return visible(json.dumps(json.loads(body), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return None


def _as_text(body: bytes) -> str:
    return body.decode("utf-8", "backslashreplace")


def _file_name(delivery: Delivery) -> str:
    parts = filter(None, (delivery.scope, delivery.action, delivery.id[:_SHORTEST_ID]))
    name = _UNSAFE_IN_NAME.sub("_", ".".join(parts))
    return f"{name[-_LONGEST_NAME:]}.json"
