"""The `hubhooks deliveries` commands on the delivery store of an app, which may be running."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import filesize

from hubhooks._store.leader import LeaderLock
from hubhooks._suggestions import nearest
from hubhooks._terminal import print_error, print_line, single_line, usage_errors
from hubhooks.cli.output import (
    StoreStatus,
    counted,
    indented_json,
    local_time,
    print_delivery,
    print_list,
    print_note,
    print_replays,
    print_stats,
    print_unknown_handlers,
    progress_bar,
)
from hubhooks.cli.replay import (
    check_handlers,
    choose_replacements,
    choose_replays,
    fail_waiting,
    queue_replays,
    refresh,
    skip_unknown_handlers,
    skip_without_body,
    wait_for_runs,
)
from hubhooks.cli.store import find_delivery, find_id, open_store, retry_while_busy
from hubhooks.cli.tail import Criteria, follow_deliveries
from hubhooks.cli.times import WHEN_HELP, parse_time
from hubhooks.errors import ConfigError, StoreError
from hubhooks.models import State  # noqa: TC001 - typer reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hubhooks._store.sqlite import SqliteStore
    from hubhooks.cli.replay import Replay
    from hubhooks.models import Delivery

__all__ = ["make_group"]

# File systems allow 255 bytes, and a character has up to four. The end of the name is the id.
_LONGEST_NAME = 60
_SHORTEST_ID = 8
_UNSAFE_IN_NAME = re.compile(r"[^\w.-]")

# No terminal shows more rows. A script gets more pages with `--before`.
_MOST_LISTED = 100_000
_EXIT_CODE_OF_CTRL_C = 130

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
_DEFAULT_FILE = "hubhooks.db"
_LISTED = 20
# Not docstrings, which `python -OO` drops.
_LIST_HELP = """List deliveries, newest first.

With --follow, print one line for each new or changed delivery until Ctrl-C. The app may stop and
start again meanwhile.
"""
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
    group.command("list", help=_LIST_HELP)(_list)
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
        str | None, typer.Option(help=f"Only deliveries received since: {WHEN_HELP}")
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="ID", help="Only deliveries older than this one.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=_MOST_LISTED, help="Maximum number of deliveries.")
    ] = _LISTED,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Print new and changed deliveries as they arrive. With --since, print the stored "
            "ones first.",
        ),
    ] = False,
    as_json: _AsJsonLines = False,
    file: _File = _DEFAULT_FILE,
) -> None:
    if follow:
        with _store_errors():
            if before is not None or limit != _LISTED:
                msg = "--follow prints what is new: leave out --before and --limit"
                raise ConfigError(msg)
            criteria = Criteria(
                state and state.value,
                _check_printable(scope, "--scope"),
                _check_printable(repo, "--repo"),
                None if since is None else parse_time(since),
            )
            # Ctrl-C is the way to end it.
            with suppress(KeyboardInterrupt):
                follow_deliveries(open_store(file), criteria, as_json=as_json)
        return
    with _store_errors():
        store = open_store(file)
        # One delivery more than the limit shows whether there are more.
        deliveries = store.list(
            state=state and state.value,
            scope=_check_printable(scope, "--scope"),
            repo=_check_printable(repo, "--repo"),
            since=None if since is None else parse_time(since),
            before=None if before is None else find_id(store, before),
            limit=limit + 1,
        )
        unknown = _count_unknown_handlers(store, is_app_running=LeaderLock(file).is_taken())
    page, is_more = deliveries[:limit], len(deliveries) > limit
    print_list(page, as_json=as_json)
    if as_json:
        return
    print_unknown_handlers(unknown)
    print_note(f"for older deliveries: --before {page[-1].id}" if is_more else "")
    print_note("" if page else "no deliveries")


def _show(*, delivery_id: _Id, as_json: _AsJson = False, file: _File = _DEFAULT_FILE) -> None:
    with _store_errors():
        delivery = find_delivery(open_store(file), delivery_id)
    print_delivery(delivery, as_json=as_json)


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
        typer.Option(help=f"Without ids, all deliveries received since: {WHEN_HELP}"),
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
    with _store_errors():
        store = open_store(file)
        lock = LeaderLock(file)
        moment = None if since is None else parse_time(since)
        for name in only or ():
            _check_handler(name, "--only")
        leader = store.leader() if lock.is_taken() else None
        app_handlers = None if leader is None else leader.handlers
        if replacement is None:
            replays = choose_replays(store, deliveries or [], only or [], moment, is_failed=failed)
            check_handlers(only or [], replays, app_handlers)
            skip_unknown_handlers(replays, app_handlers)
        else:
            _check_handler(replacement, "--as")
            replays = choose_replacements(
                store,
                deliveries or [],
                only or [],
                moment,
                replacement,
                app_handlers,
                is_failed=failed,
            )
        skip_without_body(store, replays)
        is_ended = True
        if not dry_run:
            try:
                queue_replays(store, replays)
                is_ended = _wait(store, lock, replays)
            except KeyboardInterrupt:
                print_note("stopped waiting: the app still runs what is queued")
                raise typer.Exit(_EXIT_CODE_OF_CTRL_C) from None
    print_replays(replays, is_dry_run=dry_run, as_json=as_json)
    raise typer.Exit(0 if is_ended and all(replay.is_success for replay in replays) else 1)


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
    with _store_errors():
        delivery = find_delivery(open_store(file), delivery_id)
        if delivery.body is None:
            msg = (
                f"the body of `{delivery.id}` was deleted to free space: there is nothing to export"
            )
            raise ConfigError(single_line(msg))
        text = indented_json(delivery.body)
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
    with _store_errors():
        _check_handler(handler, "--handler")
        store = open_store(file)
        waiting = store.waiting_handlers()
        count = waiting.get(handler, 0)
        if not dry_run:
            count = fail_waiting(store, handler)
        near = "" if count else nearest(handler, waiting)
    verb = "would mark" if dry_run else "marked"
    print_line(f"{verb} {counted(count, 'run')} of `{single_line(handler)}` as failed")
    print_note(f"did you mean `{near}`?" if near else "")


def _stats(*, as_json: _AsJson = False, file: _File = _DEFAULT_FILE) -> None:
    with _store_errors():
        store = open_store(file)
        stats = store.stats()
        is_app_running = LeaderLock(file).is_taken()
        status = StoreStatus(
            file=store.path,
            file_bytes=Path(store.path).stat().st_size,
            stats=stats,
            is_app_running=is_app_running,
            leader=store.leader() if is_app_running else None,
            unknown_handlers=_count_unknown_handlers(store, is_app_running=is_app_running),
        )
    print_stats(status, as_json=as_json)


def _prune(
    *,
    older_than: Annotated[str, typer.Option(help=f"Deliveries received before: {WHEN_HELP}")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")
    ] = False,
    file: _File = _DEFAULT_FILE,
) -> None:
    with _store_errors():
        moment = parse_time(older_than)
        days = (datetime.now(timezone.utc) - moment) / timedelta(days=1)
        # Only the app knows its limit on the size.
        store = open_store(file, keep_days=days, max_bytes=sys.maxsize)
        old = store.prunable()
        if not dry_run:
            retry_while_busy(store.prune)
    verb = "would delete" if dry_run else "deleted"
    print_line(
        f"{verb} {counted(old.bodies, 'body', 'bodies')} ({filesize.decimal(old.body_bytes)}) and "
        f"{counted(old.deliveries, 'delivery', 'deliveries')} received before {local_time(moment)}"
    )


def _backup(
    *,
    target: Annotated[str, typer.Argument(metavar="FILE", help="The new file.")],
    file: _File = _DEFAULT_FILE,
) -> None:
    with _store_errors():
        store = open_store(file)
        retry_while_busy(lambda: store.backup(target))
    print_line(target)


# ---- helpers of the commands --------------------------------------------------------------------


@contextmanager
def _store_errors() -> Iterator[None]:
    """Exit with 2 for a wrong option, and with 1 for an error of the store."""
    try:
        with usage_errors():
            yield
    except StoreError as error:
        print_error(str(error))
        raise typer.Exit(1) from error


def _check_handler(name: str, option: str) -> None:
    """Reject a name that no handler has."""
    _check_printable(name, option)
    if not name:
        msg = f"{option} is empty: give the name of a handler"
        raise ConfigError(msg)


def _count_unknown_handlers(store: SqliteStore, *, is_app_running: bool) -> dict[str, int]:
    """Count the waiting runs of handlers that the running app does not have."""
    return store.unknown_handlers() if is_app_running else {}


def _check_printable(text: str | None, option: str) -> str | None:
    """Reject text that no delivery contains, such as undecodable bytes of the command line."""
    if text is not None and not text.isprintable():
        msg = f"{option} must contain only printable characters"
        raise ConfigError(msg)
    return text


def _wait(store: SqliteStore, lock: LeaderLock, replays: Sequence[Replay]) -> bool:
    """Wait until all queued runs ended; return False if the app stopped before.

    If no app is running, return at once.
    """
    queued = [replay for replay in replays if replay.handlers]
    if not queued:
        return True
    count = sum(len(replay.handlers) for replay in queued)
    refresh(store, queued)
    if not lock.is_taken():
        print_note(f"no app is running: {counted(count, 'run')} queued for its next start")
        return True
    with progress_bar("replaying", count) as advance:
        is_ended = wait_for_runs(store, lock, queued, advance)
    if not is_ended:
        print_note("the app stopped: the unfinished runs start with its next start")
    return is_ended


def _file_name(delivery: Delivery) -> str:
    """Return the name of an exported body: scope, action and id."""
    parts = filter(None, (delivery.scope, delivery.action, delivery.id[:_SHORTEST_ID]))
    name = _UNSAFE_IN_NAME.sub("_", ".".join(parts))
    return f"{name[-_LONGEST_NAME:]}.json"
