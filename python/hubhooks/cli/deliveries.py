"""The `hubhooks deliveries` commands on the delivery store of an app, which may be running."""

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

from hubhooks._store.busy import retry_while_busy
from hubhooks._store.file_systems import require_file
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks._suggestions import nearest
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
    usage_errors,
)
from hubhooks.admin.delivery_json import LONGEST_BODY, delivery_json, iso, run_json, too_long
from hubhooks.errors import ConfigError, StoreError
from hubhooks.models import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from hubhooks._store.sqlite import Leader
    from hubhooks.models import Delivery, Run

    T = TypeVar("T")

__all__ = ["make_group"]

_MANY = 20
"""More runs than this are counted instead of listed."""

_LONGEST_PLAN = 100
"""A dry run lists at most this many deliveries."""
# File systems allow 255 bytes, and a character has up to four. The end of the name is the id.
_LONGEST_NAME = 60

_PAGE = 500
# More rows than a terminal shows; `--json` has pages too.
_MOST_LISTED = 100_000
_SHORTEST_ID = 8
_UNITS = {"s": 1, "m": 60, "h": 60 * 60, "d": 24 * 60 * 60, "w": 7 * 24 * 60 * 60}
_SPAN = re.compile(rf"(\d+(?:\.\d+)?)([{''.join(_UNITS)}])")
_UNSAFE_IN_NAME = re.compile(r"[^\w.-]")

# Retry a write for up to `_BUSY_SECONDS`, while another process holds the write lock.
_BUSY_SECONDS = 10.0
_POLL_SECONDS = 0.2
# The size of one transaction, and the pause after it, in which the app can write.
_CHUNK = 50
_CHUNK_BYTES = 4 * 1024 * 1024
_PAUSE_SECONDS = 0.02
# A restarting app has no leader for a moment.
_GONE_SECONDS = 5.0
_CTRL_C = 130
_WAITING = frozenset({State.QUEUED, State.RETRYING})
_ENDED = "marked as failed by `hubhooks deliveries fail`"

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
        "--file",
        envvar="HUBHOOKS_DELIVERIES",
        metavar="PATH",
        help="The delivery store of the app.",
    ),
]
_Id = Annotated[str, typer.Argument(metavar="ID", help="The id of the delivery, or its beginning.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_AsJsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
_WHEN_HELP = "2h for two hours ago (units: s, m, h, d, w), or a time such as 2026-07-31T14:00."
_DEFAULT_FILE = "hubhooks.db"
# Not docstrings, which `python -OO` drops.
_REPLAY_HELP = """Queue the handlers of deliveries again, and wait until the app has run them.

If no app is running, the runs are queued and start with the next app.

The exit code is 0 if all runs succeeded or are queued. It is 1 if a run failed, a delivery could
not be replayed, or the app stopped. It is 2 if an option is wrong and nothing was queued.
"""
_FAIL_HELP = """\
Mark the queued and retrying runs of a handler as failed, for example of a removed handler.

You can replay them like other failed runs.
"""
_PRUNE_HELP = """\
Delete the bodies of old finished deliveries now. The app deletes old bodies by itself, too.

The ids stay for another week, to recognise deliveries that the Hub sends again. The file keeps
its size, and reuses the free space.
"""

_BACKUP_HELP = """\
Copy the delivery store to a new file. The app may be running.

The copy is one file that only its owner can read. An app can use it as its delivery store.
"""


def make_group() -> typer.Typer:
    """Build the group of commands."""
    group = typer.Typer(no_args_is_help=True)
    group.callback(
        help="List, show and replay the stored deliveries of an app. The app may be running or not."
    )(_deliveries)
    group.command("list", help="List deliveries, newest first.")(_list)
    group.command("show", help="Show one delivery: its runs, errors, headers and body.")(_show)
    group.command("replay", help=_REPLAY_HELP)(_replay)
    group.command(
        "export",
        help="Write the body of a delivery to a file, for tests and for `hubhooks send --file`.",
    )(_export)
    group.command("fail", help=_FAIL_HELP)(_fail)
    group.command(
        "stats", help="Show the delivery store: size, deliveries by state, rejected requests."
    )(_stats)
    group.command("prune", help=_PRUNE_HELP)(_prune)
    group.command("backup", help=_BACKUP_HELP)(_backup)
    return group


# ---- the commands ------------------------------------------------------------------------------


def _deliveries() -> None:
    """Accept no options before the command."""


def _list(  # noqa: PLR0913 - one parameter per option
    *,
    state: Annotated[State | None, typer.Option(help="Only deliveries in this state.")] = None,
    scope: Annotated[
        str | None, typer.Option(help="Only deliveries of this scope, such as repo.content.")
    ] = None,
    repo: Annotated[str | None, typer.Option(help="Only deliveries of this repository.")] = None,
    since: Annotated[
        str | None, typer.Option(help=f"Only deliveries received since: {_WHEN_HELP}")
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only deliveries older than this one.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=_MOST_LISTED, help="Maximum number of deliveries.")
    ] = 20,
    as_json: _AsJsonLines = False,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        store = _open_store(file)
        # One delivery more than the limit shows whether there are more.
        deliveries = store.list(
            state=state and state.value,
            scope=_utf_8(scope, "--scope"),
            repo=_utf_8(repo, "--repo"),
            since=None if since is None else _moment(since),
            before=None if before is None else _id(store, before),
            limit=limit + 1,
        )
        unknown = _unknown_handlers(store, is_led=LeaderLock(file).is_taken())
    page, is_more = deliveries[:limit], len(deliveries) > limit
    if as_json:
        for delivery in page:
            _print_json(delivery_json(delivery))
        return
    if page:
        _print_list(page)
    _note_unknown(unknown)
    _note(f"for older deliveries: --before {page[-1].id}" if is_more else "")
    _note("" if page else "no deliveries")


def _show(*, delivery_id: _Id, as_json: _AsJson = False, file: _File = _DEFAULT_FILE) -> None:
    with _errors():
        delivery = _find_delivery(_open_store(file), delivery_id)
    if as_json:
        _print_json(delivery_json(delivery, is_whole=True))
    else:
        _print_delivery(delivery)


def _replay(  # noqa: PLR0913 - one parameter per option
    *,
    deliveries: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Ids of deliveries, or their beginnings."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HANDLER",
            help="Run only this handler. With ids, also on deliveries that it does not match. "
            "Repeatable.",
        ),
    ] = None,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="Run only failed handlers. Without ids, of all deliveries."),
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(help=f"Without ids, all deliveries received since: {_WHEN_HELP}"),
    ] = None,
    replacement: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="HANDLER",
            help="Run this handler instead of those of --only, or of those that the running app "
            "lacks. Without ids, --failed or --since: on queued and retrying runs only.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run, and change nothing.")
    ] = False,
    as_json: _AsJsonLines = False,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        store = _open_store(file)
        lock = LeaderLock(file)
        moment = None if since is None else _moment(since)
        for name in only or ():
            _check_handler(name, "--only")
        leader = store.leader() if lock.is_taken() else None
        live = None if leader is None else leader.handlers
        if replacement is None:
            replays = _replays(store, deliveries or [], only or [], moment, is_failed=failed)
            _check_known(only or [], replays, live)
            _skip_unknown(replays, live)
        else:
            _check_handler(replacement, "--as")
            replays = _replays_as(
                store, deliveries or [], only or [], moment, replacement, live, is_failed=failed
            )
        _skip_without_body(store, replays)
        is_ended = True
        if not dry_run:
            try:
                _queue(store, replays)
                is_ended = _follow(store, lock, replays)
            except KeyboardInterrupt:
                _note("stopped waiting: the app still runs what is queued")
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
        typer.Option(
            metavar="PATH",
            help="The new file, or - for standard output. By default, a name with scope, action "
            "and id.",
        ),
    ] = None,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        delivery = _find_delivery(_open_store(file), delivery_id)
        if delivery.body is None:
            msg = (
                f"the body of `{delivery.id}` was deleted to free space: there is nothing to export"
            )
            raise ConfigError(single_line(msg))
        text = _pretty(delivery.body)
        content = delivery.body if text is None else f"{text}\n".encode()
        if output == "-":
            sys.stdout.buffer.write(content)
            return
        path = Path(output or _file_name(delivery))
        try:
            with path.open("xb") as new_file:
                new_file.write(content)
        except FileExistsError:
            msg = f"`{path}` already exists: give another --output"
            raise ConfigError(msg) from None
        except OSError as error:
            msg = f"cannot write `{path}`: {error.strerror}"
            raise ConfigError(msg) from error
    print_line(str(path))


def _fail(
    *,
    handler: Annotated[str, typer.Option(metavar="HANDLER", help="The name of the handler.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")
    ] = False,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        _check_handler(handler, "--handler")
        store = _open_store(file)
        waiting = store.waiting_handlers()
        count = waiting.get(handler, 0)
        if not dry_run:
            count = _fail_waiting(store, handler)
        near = "" if count else nearest(handler, waiting)
    verb = "would mark" if dry_run else "marked"
    print_line(f"{verb} {_count(count, 'run')} of `{single_line(handler)}` as failed")
    _note(f"did you mean `{near}`?" if near else "")


def _stats(*, as_json: _AsJson = False, file: _File = _DEFAULT_FILE) -> None:
    with _errors():
        store = _open_store(file)
        stats = store.stats()
        is_running = LeaderLock(file).is_taken()
        size = Path(store.path).stat().st_size
        leader = store.leader() if is_running else None
        unknown = _unknown_handlers(store, is_led=is_running)
    if as_json:
        _print_json(
            {
                "file": store.path,
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
        "file": f"{store.path}, {filesize.decimal(size)}",
        "bodies": filesize.decimal(stats.body_bytes),
        "app": "running" if is_running else "not running",
        "leader": leader and _leader_text(leader),
    }
    if stats.unfinished_since:
        facts["oldest unfinished"] = f"received {_local(stats.unfinished_since)}"
    print_trimmed(console, _facts(facts))
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
    _note_unknown(unknown)


def _prune(
    *,
    older_than: Annotated[str, typer.Option(help=f"Deliveries received before: {_WHEN_HELP}")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")
    ] = False,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _errors():
        moment = _moment(older_than)
        days = (datetime.now(timezone.utc) - moment) / timedelta(days=1)
        # Only the app knows its limit on the size.
        store = _open_store(file, keep_days=days, max_bytes=sys.maxsize)
        old = store.prunable()
        if not dry_run:
            _patiently(store.prune)
    verb = "would delete" if dry_run else "deleted"
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
        store = _open_store(file)
        _patiently(lambda: store.backup(target))
    print_line(target)


# ---- reading -----------------------------------------------------------------------------------


@contextmanager
def _errors() -> Iterator[None]:
    try:
        with usage_errors():
            yield
    except StoreError as error:
        print_error(str(error))
        raise typer.Exit(1) from error


def _check_handler(name: str, option: str) -> None:
    _utf_8(name, option)
    if not name:
        msg = f"{option} is empty: give the name of a handler"
        raise ConfigError(msg)


def _unknown_handlers(store: SqliteStore, *, is_led: bool) -> dict[str, int]:
    """Count the waiting runs of handlers that the running app does not have."""
    return store.unknown_handlers() if is_led else {}


def _note_unknown(unknown: Mapping[str, int]) -> None:
    for name, count in unknown.items():
        _note(
            f"{_count(count, 'run')} cannot start: the running app has no handler `{name}`. Run "
            f"another handler, `hubhooks deliveries replay --only {name} --as NEW`, or mark them "
            f"as failed, `hubhooks deliveries fail --handler {name}`"
        )


def _utf_8(text: str | None, option: str) -> str | None:
    """Reject text that no delivery contains, such as undecodable bytes of the command line."""
    if text is not None and not text.isprintable():
        msg = f"{option} must contain only printable characters"
        raise ConfigError(msg)
    return text


def _open_store(file: str, **options: Any) -> SqliteStore:  # noqa: ANN401 - options of the store
    """Open an existing store; the commands never create one."""
    if file == ":memory:":
        msg = "the app stores its deliveries in memory (:memory:): no other process can read them"
        raise ConfigError(msg)
    # Only the app checks for a network file system.
    store = SqliteStore(file, allow_network=True, **options)
    try:
        require_file(store.path)
        exists = Path(store.path).stat().st_size > 0
    except FileNotFoundError:
        exists = False
    except OSError as error:
        msg = f"cannot read the delivery store `{file}`: {error.strerror}"
        raise ConfigError(msg) from error
    if not exists:
        msg = (
            f"there is no delivery store `{store.path}`. The app creates it at its start: run this "
            "command in the folder of the app, give --file, or set HUBHOOKS_DELIVERIES"
        )
        raise ConfigError(msg)
    return store


def _id(store: SqliteStore, prefix: str) -> str:
    """Return the only id that begins with `prefix`."""
    if not prefix:
        # Every id begins with an empty text, but a script with an unset variable means no id.
        msg = "an id is empty; see `hubhooks deliveries list`"
        raise ConfigError(msg)
    prefix = prefix.encode("utf-8", "replace").decode()
    found = store.ids(prefix)
    if prefix in found or len(found) == 1:
        return found[0]
    if not found:
        msg = f"no id begins with `{prefix}`; see `hubhooks deliveries list`"
        raise ConfigError(msg)
    msg = f"several ids begin with `{prefix}`: write more of one: {', '.join(found)}"
    raise ConfigError(single_line(msg))


def _find_delivery(store: SqliteStore, prefix: str) -> Delivery:
    delivery = store.get(_id(store, prefix))
    if delivery is None:
        msg = f"the delivery `{prefix}` was deleted meanwhile"
        raise ConfigError(msg)
    return delivery


def _moment(text: str) -> datetime:
    """Parse a time span before now, or an ISO 8601 time, which is local without a zone."""
    try:
        if span := _SPAN.fullmatch(text.strip()):
            ago = timedelta(seconds=float(span[1]) * _UNITS[span[2]])
            return datetime.now(timezone.utc) - ago
        # Python 3.10 does not parse "Z".
        return datetime.fromisoformat(re.sub("[Zz]$", "+00:00", text.strip())).astimezone()
    except (ValueError, OverflowError, OSError):
        msg = f"`{text}` is not a time; write {_WHEN_HELP}"
        raise ConfigError(msg) from None


# ---- replaying ---------------------------------------------------------------------------------


@dataclass
class _Replay:
    """A delivery to replay, and the handlers that run again."""

    delivery: Delivery
    handlers: tuple[str, ...] = ()
    skipped: str = ""
    """The reason why no handler runs."""
    replaces: tuple[str, ...] = ()
    """With `--as`, the handlers that the new one replaces."""
    runs: list[Run] = field(default_factory=list)
    """The last known state of the runs."""

    @property
    def is_ended(self) -> bool:
        is_known = bool(self.runs) and all(run.finished_at is not None for run in self.runs)
        return is_known or bool(self.skipped)

    @property
    def is_well(self) -> bool:
        return not self.skipped and all(run.state != State.FAILED for run in self.runs)

    def skip(self, reason: str) -> None:
        self.skipped, self.handlers = reason, ()

    @property
    def json(self) -> dict[str, Any]:
        return {
            "id": self.delivery.id,
            "handlers": self.handlers,
            "skipped": self.skipped or None,
            "runs": [run_json(run) for run in self.runs],
        }


def _replays(
    store: SqliteStore,
    prefixes: Sequence[str],
    only: Sequence[str],
    since: datetime | None,
    *,
    is_failed: bool,
) -> list[_Replay]:
    """Choose deliveries and handlers, oldest first or in the order of the ids."""
    if prefixes and since:
        msg = "give either ids or --since, not both"
        raise ConfigError(msg)
    if prefixes:
        ids = list(dict.fromkeys(_id(store, prefix) for prefix in prefixes))
        deliveries = store.deliveries(ids)
        return [_replay_of(delivery, only, is_failed=is_failed) for delivery in deliveries]
    if not (is_failed or since):
        msg = "nothing to replay: give ids, --failed or --since"
        raise ConfigError(msg)
    chosen = []
    for delivery in store.every(state=State.FAILED if is_failed else None, since=since):
        # Without ids, only deliveries that the handler matched.
        matched = [run.handler for run in delivery.runs if not only or run.handler in only]
        replay = _replay_of(delivery, matched, is_failed=is_failed)
        if matched and not replay.skipped:
            chosen.append(replay)
    return chosen[::-1]


def _replay_of(delivery: Delivery, only: Sequence[str], *, is_failed: bool) -> _Replay:
    names = list(dict.fromkeys(only)) or [run.handler for run in delivery.runs]
    if is_failed:
        failed = {run.handler for run in delivery.runs if run.state == State.FAILED}
        names = [name for name in names if name in failed]
    if unfinished := [run for run in delivery.runs if run.finished_at is None]:
        run = unfinished[0]
        return _Replay(delivery, skipped=f"handler `{run.handler}` is still {run.state}")
    if not names:
        reason = "none of its handlers failed" if is_failed else "no handler matches it: use --only"
        return _Replay(delivery, skipped=reason)
    return _Replay(delivery, tuple(names))


def _replays_as(  # noqa: PLR0913, PLR0917 - the options of the command
    store: SqliteStore,
    prefixes: Sequence[str],
    only: Sequence[str],
    since: datetime | None,
    new: str,
    live: frozenset[str] | None,
    *,
    is_failed: bool,
) -> list[_Replay]:
    """Choose deliveries on which another handler replaces some."""
    if live is not None and new not in live:
        raise ConfigError(_no_such_handler(new, live))
    if live is None and not only:
        msg = (
            "--as replaces the handlers that the running app does not have, and no app runs: start "
            "it, or name the handlers with --only"
        )
        raise ConfigError(msg)

    def is_replaced(run: Run) -> bool:
        is_old = run.handler in only if only or live is None else run.handler not in live
        return is_old and run.handler != new and (run.state == State.FAILED or not is_failed)

    if prefixes:
        ids = list(dict.fromkeys(_id(store, prefix) for prefix in prefixes))
        deliveries: Iterable[Delivery] = store.deliveries(ids)
    else:
        state = State.FAILED if is_failed else None
        deliveries = reversed(list(store.every(state=state, since=since)))
    chosen = []
    for delivery in deliveries:
        old = [run for run in delivery.runs if is_replaced(run)]
        # Without ids, --since or --failed, only queued and retrying runs.
        is_waiting = any(run.state in _WAITING for run in old)
        if old and (is_waiting or prefixes or since or is_failed):
            names = tuple(run.handler for run in old)
            chosen.append(_Replay(delivery, (new,), replaces=names))
        elif prefixes:
            chosen.append(_Replay(delivery, skipped="it has no run of these handlers"))
    return chosen


def _no_such_handler(name: str, live: frozenset[str]) -> str:
    near = nearest(name, live)
    known = f"it has {', '.join(sorted(live))}" if live else "it has none"
    hint = f"did you mean `{near}`?" if near else known
    return f"the running app has no handler `{name}`; {hint}"


def _check_known(
    only: Sequence[str], replays: Sequence[_Replay], live: frozenset[str] | None
) -> None:
    """Report a misspelt handler, for which no delivery was found."""
    unknown = [name for name in only if live is not None and name not in live]
    if unknown and live is not None and not replays:
        raise ConfigError(_no_such_handler(unknown[0], live))


def _skip_unknown(replays: Sequence[_Replay], live: frozenset[str] | None) -> None:
    """Skip runs of handlers that the running app does not have: they would wait for ever."""
    for replay in replays:
        missing = [name for name in replay.handlers if live is not None and name not in live]
        if missing and live is not None:
            name = missing[0]
            if name in {run.handler for run in replay.delivery.runs}:
                replay.skip(
                    f"the running app does not have the handler `{name}` any more: use --as"
                )
            else:
                replay.skip(_no_such_handler(name, live))


def _fail_waiting(store: SqliteStore, handler: str) -> int:
    """Mark runs as failed in short transactions, with pauses in which the app can write."""
    total = 0
    store.open()
    try:
        while count := _patiently(lambda: store.fail_waiting(handler, _ENDED, _CHUNK)):
            total += count
            time.sleep(_PAUSE_SECONDS)
    finally:
        store.close()
    return total


def _skip_without_body(store: SqliteStore, replays: Sequence[_Replay]) -> None:
    kept = store.with_bodies(replay.delivery.id for replay in replays)
    for replay in replays:
        if replay.handlers and replay.delivery.id not in kept:
            replay.skip("its body was deleted to free space")


def _queue(store: SqliteStore, replays: Sequence[_Replay]) -> None:
    """Queue runs in short transactions, with pauses in which the app can write."""
    waiting = deque(replay for replay in replays if replay.handlers)
    store.open()
    try:
        while waiting:
            chunk: list[_Replay] = []
            size = 0
            while waiting and len(chunk) < _CHUNK and size < _CHUNK_BYTES:
                chunk.append(waiting.popleft())
                size += chunk[-1].delivery.size
            _patiently(lambda: _queue_together(store, chunk))  # noqa: B023 - called immediately
            if waiting:
                time.sleep(_PAUSE_SECONDS)
    finally:
        store.close()


def _queue_together(store: SqliteStore, chunk: Sequence[_Replay]) -> None:
    with store.transaction():
        rejected = [replay for replay in chunk if not _queue_one(store, replay)]
    for replay in rejected:
        replay.skip("it changed meanwhile")


def _queue_one(store: SqliteStore, replay: _Replay) -> bool:
    if replay.replaces:
        return store.replay_as(replay.delivery.id, replay.replaces, *replay.handlers)
    return bool(store.replay(replay.delivery.id, replay.handlers))


def _patiently(write: Callable[[], T]) -> T:
    """Retry a write while another process holds the write lock."""
    return retry_while_busy(write, _BUSY_SECONDS, _POLL_SECONDS)


def _follow(store: SqliteStore, lock: LeaderLock, replays: Sequence[_Replay]) -> bool:
    """Wait until all queued runs ended; return False if the app stopped before.

    If no app is running, return at once.
    """
    pending = deque(replay for replay in replays if replay.handlers)
    count = sum(len(replay.handlers) for replay in pending)
    if not pending:
        return True
    _refresh(store, list(pending))
    if not lock.is_taken():
        _note(f"no app is running: {_count(count, 'run')} queued for its next start")
        return True
    console = Console(stderr=True)
    seen = time.monotonic()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying", total=count)
        while pending:
            batch = [pending.popleft() for _ in range(min(len(pending), _PAGE))]
            _refresh(store, batch)
            ended = [replay for replay in batch if replay.is_ended]
            progress.advance(task, sum(len(replay.handlers) for replay in ended))
            pending.extend(replay for replay in batch if not replay.is_ended)
            if ended or lock.is_taken():
                seen = time.monotonic()
            elif time.monotonic() - seen > _GONE_SECONDS:
                _note("the app stopped: the unfinished runs start with its next start")
                return False
            if not ended:
                time.sleep(_POLL_SECONDS)
    return True


def _refresh(store: SqliteStore, replays: Sequence[_Replay]) -> None:
    """Read the current state of the runs."""
    ids = (replay.delivery.id for replay in replays)
    deliveries = {delivery.id: delivery for delivery in store.deliveries(ids)}
    for replay in replays:
        if delivery := deliveries.get(replay.delivery.id):
            replay.runs = [run for run in delivery.runs if run.handler in replay.handlers]
        else:
            replay.skipped = "it was deleted meanwhile"


# ---- printing ----------------------------------------------------------------------------------


def _note(text: str) -> None:
    if text:
        sys.stderr.write(f"{single_line(text)}\n")


def _print_json(value: object) -> None:
    print_line(json.dumps(value))


def _print_list(deliveries: Sequence[Delivery]) -> None:
    console = terminal()
    if console.width >= WIDE:
        table = new_table("id", "received", "state", "event", "repo", "handlers")
    else:
        # A separate column would be too narrow for the names of handlers.
        table = new_table("id", "age", "state", "event, handlers", "repo")
    length = shown_id_length([delivery.id for delivery in deliveries])
    for delivery in deliveries:
        delivery_id, state = Text(single_line(delivery.id[:length])), _state_cell(delivery.state)
        event, repo = Text(_event(delivery)), Text(single_line(delivery.repo or ""))
        handlers = _handlers_cell(delivery.runs)
        if console.width >= WIDE:
            received = _local(delivery.received_at)
            table.add_row(delivery_id, received, state, event, repo, handlers)
        else:
            both = Text("\n").join([event, handlers]) if delivery.runs else event
            age = _age(delivery.received_at)
            table.add_row(delivery_id, age, state, both, repo)
    print_trimmed(console, table)


def _print_delivery(delivery: Delivery) -> None:
    console = terminal()
    facts: dict[str, str | Text | None] = {
        "delivery": delivery.id,
        "state": _state_cell(delivery.state),
        "received": f"{_local(delivery.received_at)} ({_age(delivery.received_at)} ago)",
        "event": _event(delivery),
        "repo": delivery.repo,
        "response": ("" if delivery.is_acknowledged else "not known to be ")
        + "received by the sender",
        "replay": "yes" if delivery.is_replay else "",
        "duplicates": str(delivery.duplicates) if delivery.duplicates else "",
        "reason": delivery.reason,
    }
    print_trimmed(console, _facts(facts))
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
    console.print(Text("headers", style="bold"))
    _print_indented(console, "\n".join(f"{name}: {value}" for name, value in delivery.headers))
    console.print(Text(f"body, {filesize.decimal(delivery.size)}", style="bold"))
    if delivery.body is None:
        _print_indented(console, "deleted to free space")
        return
    if delivery.size > LONGEST_BODY:
        _print_indented(console, too_long(delivery))
        return
    text = _pretty(delivery.body)
    # Not folded, for copying.
    if text is None:
        console.print(Text(escape_controls(_as_text(delivery.body))), soft_wrap=True)
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
            notes.append(f"retry at {_local(run.due_at)}")
        if run.crashes:
            notes.append(f"the process died during {_count(run.crashes, 'attempt')}")
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
            print_error(f"`{single_line(replay.delivery.id)}` is not replayed: {replay.skipped}")
    if not replays:
        _note("nothing to replay")
    table = _plan_table(replays) if is_dry_run else _endings_table(replays)
    if table.row_count:
        print_trimmed(terminal(), table)
    if is_dry_run:
        count = sum(bool(replay.handlers) for replay in replays)
        hidden = count - table.row_count
        _note(f"and {hidden} more: --json lists all" if hidden else "")
        deliveries = _count(count, "delivery", "deliveries")
        _note(f"dry run: nothing was queued, {deliveries} would be replayed")


def _plan_table(replays: Sequence[_Replay]) -> Table:
    table = new_table("id", "received", "event", "handlers")
    planned = [replay for replay in replays if replay.handlers][:_LONGEST_PLAN]
    length = shown_id_length([replay.delivery.id for replay in planned])
    for replay in planned:
        delivery = replay.delivery
        table.add_row(
            Text(single_line(delivery.id[:length])),
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
        names = (Text(run.handler), Text(single_line(delivery_id[:length])))
        table.add_row(_state_cell(run.state), *names, Text(single_line(run.error)))
    return table


def _facts(facts: Mapping[str, str | Text | None]) -> Table:
    """Lay out names and values; leave out empty values."""
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


def _handlers_cell(runs: Sequence[Run]) -> Text:
    """Name the handlers; several handlers have their states, too."""
    is_one = len(runs) == 1
    names = [f"{run.handler}" if is_one else f"{run.handler}: {run.state}" for run in runs]
    return Text(", ".join(names))


def _event(delivery: Delivery) -> str:
    return single_line(f"{delivery.scope} {delivery.action}")


def _local(when: datetime) -> str:
    """Format a time with its zone, which `--since` accepts."""
    return when.astimezone().isoformat(" ", "seconds")


def _age(when: datetime) -> str:
    seconds = max((datetime.now(timezone.utc) - when).total_seconds(), 0)
    unit = next((unit for unit, size in reversed(_UNITS.items()) if size <= seconds), "s")
    return f"{seconds / _UNITS[unit]:.0f}{unit}"


def _took(span: timedelta) -> str:
    seconds = max(span.total_seconds(), 0)
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _count(count: int, singular: str, plural: str = "") -> str:
    return f"{count} {singular if count == 1 else plural or f'{singular}s'}"


def _pretty(body: bytes) -> str | None:
    """Indent a body; return None if it is not JSON."""
    try:
        return escape_controls(json.dumps(json.loads(body), indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):
        return None


def _as_text(body: bytes) -> str:
    return body.decode("utf-8", "backslashreplace")


def _file_name(delivery: Delivery) -> str:
    parts = filter(None, (delivery.scope, delivery.action, delivery.id[:_SHORTEST_ID]))
    name = _UNSAFE_IN_NAME.sub("_", ".".join(parts))
    return f"{name[-_LONGEST_NAME:]}.json"
