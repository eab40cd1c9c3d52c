"""The delivery store in SQLite."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

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
from hubhooks._store.connection import Database
from hubhooks._store.groups import is_blocked
from hubhooks._store.headers import storable
from hubhooks._store.inserts import NewDeliveries
from hubhooks._store.owner import StoreOwner
from hubhooks._store.private_files import protect
from hubhooks._store.processes import ProcessTable
from hubhooks._store.prune import Pruner
from hubhooks._store.reads import StoreReader
from hubhooks._store.rows import to_datetime, truncate
from hubhooks._store.runs import RunTable, fail_waiting_runs, replace_runs
from hubhooks.models import Delivery, RunContext, State, resolve_reason

if TYPE_CHECKING:
    import builtins
    from collections.abc import Generator, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from hubhooks._app_code import AppIdentity
    from hubhooks._store.base import Interrupted, Leader, OnReplay, Prunable
    from hubhooks._store.connection import Synchronous
    from hubhooks._store.leader import LeaderLock
    from hubhooks.models import Reason, RunGroup

__all__ = ["SqliteStore", "replay_in"]

# The backoff of a crashed run. It doubles with each crash.
_CRASH_BACKOFF_SECONDS = 10.0
_CRASH_MESSAGE = "the process died during this handler"

_NO_CONTEXT = nullcontext()


class SqliteStore(RunTable, StoreReader):
    """A store that outlives the process.

    The effects of `accept`, `replay`, `recover`, `claim` and `count_rejections` are in the file
    when they return, or at the end of the `transaction` around them. `mark_acknowledged`,
    `mark_stuck`, `finish_run`, `unclaim`, `register` and `resign` are deferred until the next
    transaction or `flush`. If they are lost with the process, something happens once more.

    All of these use one connection, which belongs to the server's loop. So do `list_ready`,
    `seconds_to_next`, `body` and `changed`. The methods of `StoreReader`, `backup`, `checkpoint`
    and `prune` open a connection of their own: they work in any thread, and before `open`.

    Args:
        path: the file; created if it does not exist, but not its folder.
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
    ) -> None:
        database = Database(
            path,
            schema.MIGRATIONS,
            synchronous=synchronous,
            allow_network=allow_network,
            lock=lock,
            progress=schema.PROGRESS,
        )
        super().__init__(database)
        protect(database.path)
        self._on_replay: OnReplay = on_replay
        self._max_crashes = max_crashes
        self._owner = StoreOwner(database, app, lock)
        self._processes = ProcessTable(database, lock)
        self._pruner = Pruner(database, keep_days, max_bytes)
        self._new = NewDeliveries(database, max_bytes)
        # The value of `times_opened` at the last check of the file.
        self._known_opening = 0
        # The file that this process leads, and its generation then; None if it is not the leader.
        self._leadership: tuple[object, int] | None = None
        # The last answer of `changed`'s query.
        self._seen_version: tuple[int, int] | None = None

    @property
    def path(self) -> str:
        """The absolute path of the file."""
        return self._db.path

    @property
    def is_durable(self) -> bool:
        """True: it outlives the process."""
        return True

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
                yield
                self._new.insert()
            finally:
                self._new.clear()

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
            self._owner.check_replaced_file()
            self._processes.register_in_new_file()
        self._known_opening = self._db.times_opened

    @property
    def is_led(self) -> bool:
        """Whether this process is still the leader since `recover`."""
        (generation,) = self._db.execute(schema.SELECT_GENERATION).fetchone()
        return self._leadership == (self._db.file, generation)

    def changed(self) -> bool:
        """Return whether another process wrote since the last call, or the file was replaced."""
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
            self._new.make_room(len(body))
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
            delivery.headers = storable(headers)
            delivery.is_replay = known is not None and known.is_acknowledged
            names = tuple(dict.fromkeys(handlers))
            self._add(delivery, known, names, groups)
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
                delivery.headers = known.headers
                delivery.is_replay = True
                delivery.is_acknowledged = known.is_acknowledged
                self._add(delivery, known, names, self._new.groups_of(delivery_id))
                # As if another process queued it: the next look at the store finds it.
                self._seen_version = None
        return names

    def _add(
        self,
        delivery: Delivery,
        known: Delivery | None,
        handlers: Sequence[str],
        groups: Mapping[str, RunGroup],
    ) -> None:
        self._new.add(delivery, known, handlers)
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
            return replace_runs(self._db.execute, known, handlers, new)

    def fail_waiting(self, handler: str, error: str, limit: int) -> int:
        """Fail waiting runs of a handler; return how many.

        Args:
            handler: its name.
            error: the recorded error.
            limit: how many at most.
        """
        with self.transaction():
            return fail_waiting_runs(self._db.execute, handler, error, limit)

    def count_rejections(self, minute: int, reason: str, count: int) -> None:
        """Add to the rejected requests of a minute, counted from 1970."""
        with self.transaction():
            self._db.execute(schema.COUNT_REJECTIONS, (minute, reason, count))

    # ---- leadership and starts of runs ---------------------------------------------------------

    def recover(self) -> builtins.list[Interrupted]:
        """Become the leader; not in a transaction.

        Returns:
            the runs that crashed with an earlier process.

        Raises:
            BusyError: another process is the leader, and only lost its lock file.
        """
        with self.transaction():
            self._processes.become_leader()
            generation = self._new.generation + 1
        self._leadership = (self._db.file, generation)
        self._db.note_files()
        return self.recover_crashed()

    def recover_crashed(self) -> builtins.list[Interrupted]:
        """Retry or fail the runs whose process died, as the leader.

        Returns:
            these runs.
        """
        found: builtins.list[Interrupted] = []
        with self.transaction():
            now = clock.now()
            for run in self._processes.crashed_runs():
                is_failed = run.crashes > self._max_crashes
                state = State.FAILED if is_failed else State.RETRYING
                backoff = _CRASH_BACKOFF_SECONDS * 2 ** (run.crashes - 1)
                due_at = None if is_failed else now + backoff
                attempt = (run.delivery_id, run.handler, run.attempt)
                self._end_run(*attempt, state, due_at, _CRASH_MESSAGE, crashes=1)
                found.append((run.delivery_id, run.handler, is_failed))
        return found

    def claim(
        self, delivery_id: str, handler: str, *, is_grouped: bool = False
    ) -> RunContext | None:
        """Record the start of a run, and return its context.

        Returns:
            None if it must not start: it does not wait, or another process is the leader.
        """
        with self.transaction():
            if self._leadership != (self._db.file, self._new.generation):
                return None
            process = self._processes.key
            if self._new.is_new(delivery_id):
                return self._new.claim(delivery_id, handler, process)
            now = clock.now()
            execute = self._db.execute
            if is_grouped and is_blocked(execute, delivery_id, handler, now):
                return None
            row = execute(schema.SELECT_STARTABLE, (handler, delivery_id)).fetchone()
            if row is None:
                return None
            seq, attempt, is_replay, received_at, failures = row
            execute(schema.START_RUN, (attempt, now, seq, handler))
            execute(schema.INSERT_ATTEMPT, (seq, handler, attempt, now, process))
            execute(schema.SET_STATE, (State.RUNNING, False, seq))
        return RunContext(
            delivery_id, attempt, bool(is_replay), to_datetime(received_at), handler, failures
        )

    def register(self, code: str, loaded_at: float, handlers: Iterable[str]) -> None:
        """Record the code of this process; deferred, and only if it changed.

        Args:
            code: the version of the app's code.
            loaded_at: when the code was executed: larger for newer code.
            handlers: the names of the handlers.
        """
        self._processes.register(code, loaded_at, handlers)

    def resign(self, *, is_end: bool) -> None:
        """Record, deferred, that this process is no longer the leader.

        Args:
            is_end: whether it no longer uses the store either.
        """
        self._processes.resign(is_end=is_end)

    def successor(self) -> Leader | None:
        """Find a living process with newer code than this one, which should be the leader."""
        return self._processes.successor()

    def is_leader_alive(self, leader: Leader) -> bool:
        """Return whether the leader is alive, in any thread."""
        return self._processes.is_leader_alive(leader)

    def note_lock(self) -> None:
        """Record, deferred, that this process locked another file as the leader."""
        self._processes.note_lock()

    def keep_noted(self) -> None:
        """Write down the files of the store again if somebody removed the leader's file."""
        self._db.keep_noted()

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
        """Count what is old enough for `prune`."""
        return self._pruner.count()

    def prune(self) -> int:
        """Drop what is too old or too much; return how many bodies and deliveries."""
        return self._pruner.prune()


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
