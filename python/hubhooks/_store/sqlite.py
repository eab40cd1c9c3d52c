"""The delivery store in SQLite."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, cast

from hubhooks._core import storable_headers
from hubhooks._store import clock, schema
from hubhooks._store.backup import back_up
from hubhooks._store.base import (
    NO_GROUPS,
    AcceptResult,
    decide_redelivery,
    handler_names,
    status_of,
)
from hubhooks._store.busy import retry_while_busy
from hubhooks._store.clock import SteadyClock
from hubhooks._store.connection import Database
from hubhooks._store.inserts import NewDeliveries
from hubhooks._store.leadership import LeaderTable
from hubhooks._store.memory import MemoryDatabase, MemoryDeliveries, MemoryLimits, OnlyProcess
from hubhooks._store.owner import StoreOwner
from hubhooks._store.private_files import protect
from hubhooks._store.processes import ProcessTable
from hubhooks._store.prune import Pruner
from hubhooks._store.reads import StoreReader
from hubhooks._store.rows import to_datetime, truncate
from hubhooks._store.runs import fail_waiting_runs, replace_runs
from hubhooks.models import Delivery, State, resolve_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from hubhooks._app_code import AppIdentity
    from hubhooks._core import Verifier
    from hubhooks._store.base import OnReplay, Prunable
    from hubhooks._store.connection import Synchronous
    from hubhooks._store.leader import LeaderLock
    from hubhooks.models import Reason, RunGroup

__all__ = ["IN_MEMORY", "SqliteStore", "replay_in"]

# The path of a store in memory.
IN_MEMORY = ":memory:"

_NO_CONTEXT = nullcontext()


class SqliteStore(LeaderTable, StoreReader):
    """A store that outlives the process.

    The effects of `accept`, `replay`, `recover`, `claim` and `count_rejections` are in the file
    when they return, or at the end of the `transaction` around them. `mark_acknowledged`,
    `mark_stuck`, `finish_run`, `unclaim`, `register` and `resign` are deferred until the next
    transaction or `flush`. If they are lost with the process, something happens once more.

    All of these use one connection, which belongs to the server's loop. So do `list_ready`,
    `seconds_to_next`, `body` and `changed`. The methods of `StoreReader`, `backup`, `checkpoint`
    and `prune` open a connection of their own: they work in any thread, and before `open`.

    Args:
        path: the file; created if it does not exist, but not its folder. `:memory:` is a store
            in memory, which ends with the object. All its methods work in any thread.
        on_replay: whether a Replay of a succeeded delivery runs its handlers again.
        synchronous: `normal` keeps accepted deliveries if the process dies, `full` also if the
            machine does.
        keep_days: how long finished deliveries are kept; their ids are kept for a week more.
        max_bytes: the limit for their bodies. Unfinished deliveries are never dropped: if their
            bodies take all of it, no more are accepted.
        max_crashes: how often a run is tried again after the process died during it.
        allow_network: use the file even on a network file system.
        app: the app of the store; None to read the store only.
        lock: the leader lock of the file.
        limits: the limits of a store in memory, in place of `keep_days` and `max_bytes`.
    """

    def __init__(  # noqa: PLR0913 - options, each with a default
        self,
        path: str | os.PathLike[str],
        *,
        on_replay: OnReplay = "run",
        synchronous: Synchronous = "normal",
        keep_days: float = 30,
        max_bytes: int = 1024**3,
        max_crashes: int = 3,
        allow_network: bool = False,
        app: AppIdentity | None = None,
        lock: LeaderLock | None = None,
        limits: MemoryLimits | None = None,
    ) -> None:
        is_shared = path != IN_MEMORY
        if is_shared:
            database = Database(
                path,
                schema.MIGRATIONS,
                synchronous=synchronous,
                allow_network=allow_network,
                lock=lock,
                progress=schema.PROGRESS,
            )
            protect(database.path)
            processes = ProcessTable(database, lock)
            timer: Callable[[], float] = _now
            new = NewDeliveries(database, max_bytes, timer)
        else:
            # They have the methods of `Database` and `ProcessTable` that are called.
            database = cast("Database", MemoryDatabase(self._flush_in_transaction))
            processes = cast("ProcessTable", OnlyProcess())
            timer = SteadyClock().now
            new = MemoryDeliveries(database, timer, limits or MemoryLimits())
        super().__init__(
            database, new, timer, processes, is_shared=is_shared, max_crashes=max_crashes
        )
        self._on_replay: OnReplay = on_replay
        self._owner = StoreOwner(database, app, lock)
        self._pruner = Pruner(database, keep_days, max_bytes)
        # The value of `times_opened` at the last check of the file.
        self._known_opening = 0
        # The last answer of `changed`'s query.
        self._seen_version: tuple[int, int] | None = None

    @property
    def path(self) -> str:
        """The absolute path of the file; empty for a store in memory."""
        return self._db.path

    @property
    def has_deferred(self) -> bool:
        """Whether there are deferred writes."""
        return self._db.has_deferred

    def open(self) -> None:
        """Open the file for writing, and migrate it to the newest format.

        Raises:
            ConfigError: the path cannot be used.
            StoreError: the file cannot be used now.
        """
        if self._is_shared:
            # Its files, and links to it, may have changed since.
            protect(self._db.path)
        self._db.open()
        try:
            self._known_opening = self._db.times_opened
            retry_while_busy(self._owner.claim)
        except BaseException:
            self._db.note_end()
            self._db.close()
            raise

    def close(self) -> None:
        """Write the deferred writes, and close the file."""
        self._leadership = None
        self._processes.forget()
        self._db.close()
        self._claimed.clear()

    def transaction(self) -> AbstractContextManager[None]:
        """Write everything inside in one transaction. A nested one is part of the outer one.

        Raises:
            BusyError: another process is writing; nothing was written, and a retry may succeed.
            StoreError: it cannot be written.
        """
        return _NO_CONTEXT if self._db.in_transaction else self._new_transaction()

    @contextmanager
    def _new_transaction(self) -> Generator[None]:
        with self._db.transaction():
            try:
                self._follow_file()
                self._new.begin()
                # The first ones were written before `begin`, unless the store is in memory: there
                # they change its counters.
                self._db.write_deferred()
                yield
                self._new.insert()
            except BaseException:
                self._new.note_change()
                raise
            finally:
                self._new.clear()

    def _flush_in_transaction(self) -> None:
        with self.transaction():
            pass

    def flush(self) -> None:
        """Write the deferred writes.

        Raises:
            StoreError: they cannot be written now; they stay deferred.
        """
        self._db.flush()

    def _follow_file(self) -> None:
        """Adapt to another file that was opened at the path.

        Raises:
            StoreError: it belongs to another app.
        """
        if self._known_opening == self._db.times_opened:
            return
        if self._db.is_copy:
            if self._leadership is not None:
                self._leadership = (self._db.file, self._leadership[1])
        else:
            # The numbers of deliveries are those of the other file.
            self._claimed.clear()
            self._owner.check_replaced_file()
            self._processes.register_in_new_file()
        self._known_opening = self._db.times_opened

    def changed(self) -> bool:
        """Return whether another process wrote since the last call, or the file was replaced."""
        if not self._is_shared:
            return False
        self._db.reopen_if_replaced()
        self._follow_file()
        before = self._seen_version
        # `data_version` counts per connection: a new connection may return the same number.
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        self._seen_version = (self._db.times_opened, version)
        return self._seen_version != before

    def check_writable(self) -> None:
        """Check that a delivery could be stored now.

        This takes the write lock for a moment. It writes only if the last write failed: only a
        write shows that the disk is full.

        Raises:
            BusyError: another process is writing.
            StoreError: a delivery could not be stored.
        """
        must_write = self._db.has_failed
        with self.transaction():
            self._new.check_room()
            if must_write:
                self._db.write_header()
        self._db.has_failed = False
        self._new.forget_rejected()

    # ---- new deliveries and replays ------------------------------------------------------------

    def expect(self, delivery_ids: Collection[str | None]) -> None:
        """Look up the ids of the deliveries that this transaction accepts, with one query."""
        self._new.expect(delivery_ids)

    def accept(  # noqa: PLR0913 - the facts of a delivery
        self,
        delivery_id: str | None,
        body: bytes,
        handlers: Sequence[str] = (),
        skipped: State | None = None,
        reason: Reason = "",
        *,
        scope: str = "",
        action: str = "",
        repo: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        verifier: Verifier | None = None,
        groups: Mapping[str, RunGroup] = NO_GROUPS,
    ) -> AcceptResult:
        """Store a delivery, and decide which handlers run; see `DeliveryStore`."""
        if delivery_id is None:
            delivery_id = os.urandom(16).hex()
        with self.transaction():
            known = self._new.find(delivery_id)
            if known is not None:
                again = decide_redelivery(known, self._on_replay)
                if isinstance(again, str):
                    known.duplicates += 1
                    self._db.execute(schema.COUNT_DUPLICATE, (delivery_id,))
                    return AcceptResult(again, delivery_id)
                # Failed runs stay failed if the body cannot be parsed this time.
                if again and skipped != State.MALFORMED:
                    handlers, skipped, reason = again, None, ""
            self._new.make_room(len(body), is_open=bool(handlers))
            delivery = Delivery(
                delivery_id,
                to_datetime(clock.now()),
                body,
                skipped,
                truncate(resolve_reason(reason)),
                scope=scope,
                action=action,
                repo=repo,
            )
            delivery.is_replay = known is not None and known.is_acknowledged
            names = tuple(dict.fromkeys(handlers))
            stored_headers = storable_headers([*headers], verifier)
            self._add(delivery, known, names, groups, stored_headers)
        return AcceptResult(status_of(skipped), delivery_id, names)

    def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> tuple[str, ...]:
        """Queue handlers of a finished delivery again.

        Args:
            delivery_id: the delivery.
            handlers: their names, also of handlers that did not match; by default all that
                matched. A name given twice counts once.

        Returns:
            the names of the queued handlers. There are none if the delivery is unknown or
            unfinished, if its body was dropped, or if none matched and none is given.

        Raises:
            ConfigError: one of the names cannot be the name of a handler.
        """
        chosen = handler_names(handlers)
        with self.transaction():
            known = self._new.find(delivery_id)
            body = self.body(delivery_id)
            if known is None or body is None or known.is_open:
                return ()
            names = chosen or tuple(run.handler for run in known.runs)
            if names:
                delivery = Delivery(
                    delivery_id,
                    known.received_at,
                    body,
                    None,
                    "",
                    scope=known.scope,
                    action=known.action,
                    repo=known.repo,
                )
                delivery.is_replay = True
                delivery.is_acknowledged = known.is_acknowledged
                self._new.make_room_for_replay(delivery.size)
                groups = self._new.groups_of(delivery_id)
                self._add(delivery, known, names, groups, json.dumps(known.headers))
                # As if another process queued it: the next look at the store finds it.
                self._seen_version = None
        return names

    def _add(
        self,
        delivery: Delivery,
        known: Delivery | None,
        handlers: Sequence[str],
        groups: Mapping[str, RunGroup],
        headers: str,
    ) -> None:
        self._new.add(delivery, known, handlers, headers)
        if groups:
            self._new.add_groups(delivery, {n: groups[n] for n in handlers if n in groups})

    def replay_as(self, delivery_id: str, handlers: Sequence[str], new: str) -> bool:
        """Queue another handler in place of some, which are not running.

        Args:
            delivery_id: the delivery.
            handlers: the names of the replaced handlers. They are recorded as ignored.
            new: the name of the other handler, which may have run already.

        Returns:
            whether it is queued: not if the delivery is unknown, if its body was dropped, or if
            there is none to replace.
        """
        with self.transaction():
            known = self._new.find(delivery_id)
            has_body = self._db.execute(schema.HAS_BODY, (delivery_id,)).fetchone() is not None
            if known is None or not has_body:
                return False
            self._new.note_change()
            return replace_runs(self._db.execute, known, handlers, new)

    def fail_waiting(self, handler: str, error: str, limit: int) -> int:
        """Fail waiting runs of a handler; return how many.

        Args:
            handler: its name.
            error: the recorded error.
            limit: how many at most.
        """
        with self.transaction():
            self._new.note_change()
            return fail_waiting_runs(self._db.execute, handler, error, limit)

    def count_rejections(self, minute: int, reason: str, count: int) -> None:
        """Add to the number of rejected requests of a minute. Minutes count from 1970."""
        with self.transaction():
            self._db.execute(schema.COUNT_REJECTIONS, (minute, reason, count))

    # ---- upkeep --------------------------------------------------------------------------------

    def backup(self, path: str) -> None:
        """Copy the store as it is now into a new file that only its owner can read; any thread.

        The app may run meanwhile.

        Args:
            path: the new file.

        Raises:
            ConfigError: the file exists, or cannot be created.
            StoreError: the store cannot be read now, or the copy cannot be written.
        """
        back_up(self._db, path)

    def checkpoint(self) -> None:
        """Copy the `-wal` file into the database, if it is large enough.

        It waits for the disk, so it belongs on a thread of its own.
        """
        self._db.checkpoint()

    def prunable(self) -> Prunable:
        """Count the bodies and deliveries that are old enough for `prune`."""
        return self._pruner.count()

    def prune(self) -> int:
        """Drop old deliveries, and old or excess bodies; return how many were dropped."""
        # In memory, the end of each delivery does so.
        return self._pruner.prune() if self._is_shared else 0


def _now() -> float:
    return clock.now()


def replay_in(path: str, delivery_id: str, handlers: Sequence[str]) -> tuple[str, ...]:
    """Queue handlers of a delivery in a store that exists, through a connection of its own.

    Raises:
        ConfigError: a name cannot be the name of a handler.
        StoreError: the store cannot be written now.
    """
    handler_names(handlers)
    if not os.path.exists(path):  # noqa: PTH110 - `pathlib` costs the import a millisecond
        return ()
    store = SqliteStore(path, allow_network=True)
    store.open()
    try:
        return retry_while_busy(lambda: store.replay(delivery_id, handlers))
    finally:
        store.close()
