"""Choose deliveries to replay, queue their runs, and wait for the runs."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hubhooks._suggestions import nearest
from hubhooks.admin.delivery_json import run_json
from hubhooks.cli.store import find_id, retry_while_busy
from hubhooks.errors import ConfigError
from hubhooks.models import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from hubhooks._store.leader import LeaderLock
    from hubhooks._store.sqlite import SqliteStore
    from hubhooks.models import Delivery, Run

__all__ = [
    "Replay", "check_handlers", "choose_replacements", "choose_replays", "fail_waiting",
    "queue_replays", "refresh", "skip_unknown_handlers", "skip_without_body", "wait_for_runs",
]  # fmt: skip

# The maximum size of one transaction, and the pause after it, in which the app can write.
_CHUNK_RUNS = 50
_CHUNK_BYTES = 4 * 1024 * 1024
_PAUSE_SECONDS = 0.02

_PAGE = 500
"""The number of deliveries that one poll reads."""

_POLL_SECONDS = 0.2

_NO_LEADER_SECONDS = 5.0
"""How long no process may hold the lock: a restarting app has no leader for a moment."""

_WAITING = frozenset({State.QUEUED, State.RETRYING})
_FAIL_REASON = "marked as failed by `hubhooks deliveries fail`"


@dataclass
class Replay:
    """A delivery, and its handlers to run again."""

    delivery: Delivery
    handlers: tuple[str, ...] = ()
    skipped: str = ""
    """The reason for running no handler; empty if handlers run."""
    replaces: tuple[str, ...] = ()
    """With `--as`, the handlers that the new one replaces."""
    runs: list[Run] = field(default_factory=list)
    """The last known state of the runs."""

    @property
    def is_ended(self) -> bool:
        """Whether all runs ended, or none was queued."""
        is_finished = bool(self.runs) and all(run.finished_at is not None for run in self.runs)
        return is_finished or bool(self.skipped)

    @property
    def is_success(self) -> bool:
        """Whether the delivery is replayed and no run failed."""
        return not self.skipped and all(run.state != State.FAILED for run in self.runs)

    def skip(self, reason: str) -> None:
        """Run no handler."""
        self.skipped, self.handlers = reason, ()

    @property
    def json(self) -> dict[str, Any]:
        """The line of `--json`."""
        return {
            "id": self.delivery.id,
            "handlers": self.handlers,
            "skipped": self.skipped or None,
            "runs": [run_json(run) for run in self.runs],
        }


def choose_replays(
    store: SqliteStore,
    prefixes: Sequence[str],
    only: Sequence[str],
    since: datetime | None,
    *,
    is_failed: bool,
) -> list[Replay]:
    """Choose deliveries and handlers, in the order of the ids, or the oldest first.

    Args:
        store: the store of the app.
        prefixes: the ids, or their beginnings.
        only: the handlers of `--only`; empty for all.
        since: without ids, the time of the oldest delivery.
        is_failed: choose failed runs only.
    """
    if prefixes and since:
        msg = "give either ids or --since, not both"
        raise ConfigError(msg)
    if prefixes:
        ids = list(dict.fromkeys(find_id(store, prefix) for prefix in prefixes))
        deliveries = store.deliveries(ids)
        return [_replay_of(delivery, only, is_failed=is_failed) for delivery in deliveries]
    if not (is_failed or since):
        msg = "nothing to replay: give ids, --failed or --since"
        raise ConfigError(msg)
    chosen = []
    for delivery in store.every(state=State.FAILED if is_failed else None, since=since):
        # Without ids, handlers run only on deliveries that they matched.
        matched = [run.handler for run in delivery.runs if not only or run.handler in only]
        replay = _replay_of(delivery, matched, is_failed=is_failed)
        if matched and not replay.skipped:
            chosen.append(replay)
    return chosen[::-1]


def _replay_of(delivery: Delivery, only: Sequence[str], *, is_failed: bool) -> Replay:
    names = list(dict.fromkeys(only)) or [run.handler for run in delivery.runs]
    if is_failed:
        failed = {run.handler for run in delivery.runs if run.state == State.FAILED}
        names = [name for name in names if name in failed]
    if unfinished := [run for run in delivery.runs if run.finished_at is None]:
        run = unfinished[0]
        return Replay(delivery, skipped=f"handler `{run.handler}` is still {run.state}")
    if not names:
        reason = "none of its handlers failed" if is_failed else "no handler matches it: use --only"
        return Replay(delivery, skipped=reason)
    return Replay(delivery, tuple(names))


def choose_replacements(  # noqa: PLR0913, PLR0917 - the options of the command
    store: SqliteStore,
    prefixes: Sequence[str],
    only: Sequence[str],
    since: datetime | None,
    new: str,
    app_handlers: frozenset[str] | None,
    *,
    is_failed: bool,
) -> list[Replay]:
    """Choose deliveries on which the handler `new` replaces others.

    It replaces the handlers of `only`. Without `only` it replaces those that the running app does
    not have. The other arguments are those of `choose_replays`.
    """
    if app_handlers is not None and new not in app_handlers:
        raise ConfigError(_unknown_handler_message(new, app_handlers))
    if app_handlers is None and not only:
        msg = (
            "--as replaces the handlers that the running app does not have, and no app runs: start "
            "it, or name the handlers with --only"
        )
        raise ConfigError(msg)

    def is_replaced(run: Run) -> bool:
        if only or app_handlers is None:
            is_old = run.handler in only
        else:
            is_old = run.handler not in app_handlers
        return is_old and run.handler != new and (run.state == State.FAILED or not is_failed)

    if prefixes:
        ids = list(dict.fromkeys(find_id(store, prefix) for prefix in prefixes))
        deliveries: Iterable[Delivery] = store.deliveries(ids)
    else:
        state = State.FAILED if is_failed else None
        deliveries = reversed(list(store.every(state=state, since=since)))
    chosen = []
    for delivery in deliveries:
        old = [run for run in delivery.runs if is_replaced(run)]
        # Without ids, --since and --failed, only deliveries with a queued or retrying run.
        is_waiting = any(run.state in _WAITING for run in old)
        if old and (is_waiting or prefixes or since or is_failed):
            names = tuple(run.handler for run in old)
            chosen.append(Replay(delivery, (new,), replaces=names))
        elif prefixes:
            chosen.append(Replay(delivery, skipped="it has no run of these handlers"))
    return chosen


def _unknown_handler_message(name: str, app_handlers: frozenset[str]) -> str:
    near = nearest(name, app_handlers)
    known = f"it has {', '.join(sorted(app_handlers))}" if app_handlers else "it has none"
    hint = f"did you mean `{near}`?" if near else known
    return f"the running app has no handler `{name}`; {hint}"


def check_handlers(
    only: Sequence[str], replays: Sequence[Replay], app_handlers: frozenset[str] | None
) -> None:
    """Raise an error for an unknown handler, if no delivery was found for it."""
    if app_handlers is None or replays:
        return
    for name in only:
        if name not in app_handlers:
            raise ConfigError(_unknown_handler_message(name, app_handlers))


def skip_unknown_handlers(replays: Sequence[Replay], app_handlers: frozenset[str] | None) -> None:
    """Skip runs of handlers that the running app does not have: they would never start."""
    if app_handlers is None:
        return
    for replay in replays:
        name = next((name for name in replay.handlers if name not in app_handlers), None)
        if name is None:
            continue
        if name in {run.handler for run in replay.delivery.runs}:
            replay.skip(f"the running app does not have the handler `{name}` any more: use --as")
        else:
            replay.skip(_unknown_handler_message(name, app_handlers))


def skip_without_body(store: SqliteStore, replays: Sequence[Replay]) -> None:
    """Skip deliveries without a body: handlers need it."""
    kept = store.with_bodies(replay.delivery.id for replay in replays)
    for replay in replays:
        if replay.handlers and replay.delivery.id not in kept:
            replay.skip("its body was deleted to free space")


def queue_replays(store: SqliteStore, replays: Sequence[Replay]) -> None:
    """Queue the runs in short transactions, with pauses in which the app can write."""
    remaining = deque(replay for replay in replays if replay.handlers)
    store.open()
    try:
        while remaining:
            chunk: list[Replay] = []
            size = 0
            while remaining and len(chunk) < _CHUNK_RUNS and size < _CHUNK_BYTES:
                chunk.append(remaining.popleft())
                size += chunk[-1].delivery.size
            retry_while_busy(lambda: _queue_chunk(store, chunk))  # noqa: B023 - called immediately
            if remaining:
                time.sleep(_PAUSE_SECONDS)
    finally:
        store.close()


def _queue_chunk(store: SqliteStore, chunk: Sequence[Replay]) -> None:
    with store.transaction():
        rejected = [replay for replay in chunk if not _queue_one(store, replay)]
    for replay in rejected:
        replay.skip("it changed meanwhile")


def _queue_one(store: SqliteStore, replay: Replay) -> bool:
    if replay.replaces:
        return store.replay_as(replay.delivery.id, replay.replaces, *replay.handlers)
    return bool(store.replay(replay.delivery.id, replay.handlers))


def wait_for_runs(
    store: SqliteStore, lock: LeaderLock, replays: Sequence[Replay], report: Callable[[int], None]
) -> bool:
    """Wait until all queued runs ended; return False if the app stopped before.

    Args:
        store: the store of the app.
        lock: the lock that a running app holds.
        replays: the queued replays, and skipped ones.
        report: is called with the number of runs that ended since its last call.
    """
    pending = deque(replay for replay in replays if replay.handlers)
    app_seen_at = time.monotonic()
    while pending:
        batch = [pending.popleft() for _ in range(min(len(pending), _PAGE))]
        refresh(store, batch)
        ended = [replay for replay in batch if replay.is_ended]
        report(sum(len(replay.handlers) for replay in ended))
        pending.extend(replay for replay in batch if not replay.is_ended)
        if ended or lock.is_taken():
            app_seen_at = time.monotonic()
        elif time.monotonic() - app_seen_at > _NO_LEADER_SECONDS:
            return False
        if not ended:
            time.sleep(_POLL_SECONDS)
    return True


def refresh(store: SqliteStore, replays: Sequence[Replay]) -> None:
    """Read the current state of the runs."""
    ids = (replay.delivery.id for replay in replays)
    deliveries = {delivery.id: delivery for delivery in store.deliveries(ids)}
    for replay in replays:
        if delivery := deliveries.get(replay.delivery.id):
            replay.runs = [run for run in delivery.runs if run.handler in replay.handlers]
        else:
            replay.skipped = "it was deleted meanwhile"


def fail_waiting(store: SqliteStore, handler: str) -> int:
    """Mark the waiting runs of a handler as failed, and return their number.

    As in `queue_replays`, transactions are short, and the app can write between them.
    """
    total = 0
    store.open()
    try:
        while count := retry_while_busy(
            lambda: store.fail_waiting(handler, _FAIL_REASON, _CHUNK_RUNS)
        ):
            total += count
            time.sleep(_PAUSE_SECONDS)
    finally:
        store.close()
    return total
