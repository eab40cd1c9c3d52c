"""The delivery store on disk."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hubhooks._logging import get_logger
from hubhooks._process import Process, current_process, is_alive
from hubhooks._store.base import (
    LONGEST_ERROR,
    LONGEST_TRACEBACK,
    NO_GROUPS,
    AcceptResult,
    Backlog,
    decide_redelivery,
    handler_names,
    queue_runs,
    status_of,
)
from hubhooks._store.busy import retry_while_busy
from hubhooks._store.connection import Database
from hubhooks._store.groups import (
    GROUPS_MIGRATION,
    drop_groups,
    is_blocked,
    list_ready_in_groups,
    read_groups,
    read_superseded,
    seconds_to_next_group,
    write_group,
)
from hubhooks._store.headers import storable
from hubhooks._store.private_files import protect
from hubhooks.errors import BusyError, ConfigError, StoreError
from hubhooks.models import (
    STARTED,
    Attempt,
    Delivery,
    Run,
    RunContext,
    RunGroup,
    State,
    Stats,
    aggregate_state,
    resolve_reason,
    shorten,
)

if TYPE_CHECKING:
    import builtins
    import sqlite3
    from collections.abc import (
        Callable,
        Container,
        Generator,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )
    from contextlib import AbstractContextManager
    from typing import TypeAlias, TypeVar

    from hubhooks._app_code import AppIdentity
    from hubhooks._store.base import Due, Interrupted, OnReplay
    from hubhooks._store.connection import Synchronous
    from hubhooks._store.leader import LeaderLock
    from hubhooks.models import Reason

    T = TypeVar("T")
    Execute: TypeAlias = Callable[[str, Sequence[object]], sqlite3.Cursor]

__all__ = ["Leader", "Prunable", "SqliteStore", "replay_in"]

_log = get_logger()

_DAY = 24 * 60 * 60
_IDS_OUTLIVE_BODIES = 7 * _DAY
# Pruning holds the write lock for so many deliveries, or about so many bytes, at a time.
_CHUNK_ROWS = 500
_CHUNK_BYTES = 8 * 1024 * 1024
# How much of what is allowed pruning leaves, so that there is room until it comes again.
_KEPT_SHARE = 0.9
# A log that is full of unfinished work looks for room so often.
_FULL_SECONDS = 1.0
# An interrupted run waits so long at first, then twice as long each time.
_INTERRUPTED_SECONDS = 10.0
# A clock that was set back by more than this does not keep a run waiting.
_CLOCK_SLACK = 60.0
_DIED = "the process died during this handler"
# So many deliveries are sorted in no time.
_FEW = 1000
_LAST_SIGN = chr(0x10FFFF)
# What a datetime can tell in every time zone: until the end of the year 9999, but for two days.
_LAST_SECOND = 253402128000.0

# What the files of a store have after its name.
_SUFFIXES = ("", "-wal", "-shm", "-journal", "-new", ".runner", ".leader", ".leader-new")

# The handlers of a process that did not say which it has.
_UNKNOWN_HANDLERS = "null"

_WITHIN = nullcontext()

MIGRATIONS = (
    (
        # Found by id, in order by seq: times are for people, as clocks are set back. What was
        # chosen by its seq to be dropped must never be another one by then, so none comes again.
        """CREATE TABLE deliveries (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
            received_at REAL NOT NULL,
            scope TEXT NOT NULL, action TEXT NOT NULL, repo TEXT, state TEXT NOT NULL, aside TEXT,
            reason TEXT NOT NULL, is_replay INTEGER NOT NULL, is_delivered INTEGER NOT NULL,
            duplicates INTEGER NOT NULL, headers TEXT NOT NULL, size INTEGER NOT NULL)""",
        "CREATE INDEX deliveries_state ON deliveries (state)",
        "CREATE INDEX deliveries_repo ON deliveries (repo) WHERE repo IS NOT NULL",
        "CREATE INDEX deliveries_scope ON deliveries (scope)",
        "CREATE INDEX deliveries_received_at ON deliveries (received_at)",
        # Apart, so that a change of state does not write the body again.
        "CREATE TABLE bodies (seq INTEGER PRIMARY KEY, body BLOB NOT NULL)",
        """CREATE TABLE runs (
            seq INTEGER NOT NULL, handler TEXT NOT NULL, position INTEGER NOT NULL,
            state TEXT NOT NULL, attempts INTEGER NOT NULL, failures INTEGER NOT NULL,
            interruptions INTEGER NOT NULL,
            due_at REAL, started_at REAL, finished_at REAL, error TEXT NOT NULL,
            traceback TEXT NOT NULL, PRIMARY KEY (seq, handler)) WITHOUT ROWID""",
        # A run is finished when it has a time for that; in words, this would cost 16 us a row.
        # By handler, so that one which is busy does not have all that waits for it looked at.
        """CREATE INDEX runs_unfinished ON runs (state, handler, seq, position)
            WHERE finished_at IS NULL""",
        """CREATE VIEW finished AS SELECT * FROM deliveries WHERE NOT EXISTS (
            SELECT 1 FROM runs WHERE runs.seq = deliveries.seq AND finished_at IS NULL)""",
        """CREATE TABLE refusals (
            minute INTEGER NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
            PRIMARY KEY (minute, reason)) WITHOUT ROWID""",
        # One row: how often the runner changed, and the size of all bodies together.
        "CREATE TABLE log (generation INTEGER NOT NULL, body_bytes INTEGER NOT NULL)",
        "INSERT INTO log VALUES (0, 0)",
    ),
    (
        # Processes that opened the store. `code` is the version of the app's modules, and
        # `loaded_at` when they were executed. Without an end, a process may be dead.
        """CREATE TABLE processes (
            id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, host TEXT NOT NULL,
            start_time TEXT NOT NULL, code TEXT NOT NULL, loaded_at REAL NOT NULL,
            handlers TEXT NOT NULL, led_at REAL, ended_at REAL)""",
        """CREATE TABLE attempts (
            seq INTEGER NOT NULL, handler TEXT NOT NULL, attempt INTEGER NOT NULL,
            started_at REAL NOT NULL, process INTEGER,
            PRIMARY KEY (seq, handler, attempt)) WITHOUT ROWID""",
        # The app that the store belongs to, once it was opened by one; the process that leads it,
        # and which file that process locked.
        "ALTER TABLE log ADD COLUMN app TEXT",
        "ALTER TABLE log ADD COLUMN leader INTEGER",
        "ALTER TABLE log ADD COLUMN leader_lock TEXT NOT NULL DEFAULT ''",
    ),
    # The states got the names of `State`.
    tuple(
        f"UPDATE {table} SET {column} = '{new}' WHERE {column} = '{old}'"  # noqa: S608 - constants
        for table, column, old, new in (
            ("deliveries", "state", "waiting", "retrying"),
            ("deliveries", "state", "overdue", "stuck"),
            ("deliveries", "state", "done", "succeeded"),
            ("deliveries", "state", "unreadable", "malformed"),
            ("deliveries", "aside", "unreadable", "malformed"),
            ("runs", "state", "waiting", "retrying"),
            ("runs", "state", "overdue", "stuck"),
            ("runs", "state", "done", "succeeded"),
        )
    ),
    # Groups of runs, for `serial=` and `debounce=`.
    GROUPS_MIGRATION,
)


class Prunable(NamedTuple):
    """What is too old to be kept."""

    bodies: int
    body_bytes: int
    deliveries: int
    """How many are forgotten altogether, their ids too."""


class Leader(NamedTuple):
    """A process that leads a store, or wants to."""

    process: Process
    code: str
    """The version of its code."""
    since: datetime | None
    """When it took the lead; None if it did not."""
    handlers: frozenset[str] | None
    """The names of its handlers; None if it did not say."""
    key: int
    """Its row in the store."""


class _PendingAck:
    """That an answer is known to have reached the Hub, which is written late."""

    __slots__ = ("delivery_id", "is_taken")

    def __init__(self, delivery_id: str) -> None:
        self.delivery_id = delivery_id
        self.is_taken = False
        """Whether it is written with something else."""


class SqliteStore:
    """A log that outlives the process.

    `accept`, `replay`, `recover`, `claim` and `refused` are in the file when they return, or when
    the `batch` around them ends. `answered`, `overdue` and `finished` are so with the next batch
    or `flush`: lost with the process, they mean that something happens once more.

    Those write, like `due`, `next_due`, `body` and `changed` read, over one connection that the
    server's loop uses. `get`, `list`, `stats`, `backup`, `checkpoint` and `prune` open one for a
    moment, so they may be called from any thread, and without `open`.

    Args:
        path: the file; made if it is not there, but not its folder.
        replays: whether a Replay of a delivery that succeeded runs its handlers again.
        durability: `process` keeps what is accepted when the process dies, `full` also when the
            machine does.
        keep_days: how long finished deliveries are kept; their ids are for a week more.
        max_bytes: how much of their bodies is kept. Unfinished work is never dropped: when it
            alone takes so much, no more is accepted.
        max_crashes: how often a run is tried again during which the process died.
        allow_network: use the file even on a network file system.
        app: the app that uses the file, which belongs to one app; None to read it only.
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
        self._on_replay: OnReplay = on_replay
        self._keep_seconds = keep_days * _DAY
        self._max_bytes = max_bytes
        self._max_crashes = max_crashes
        self._db = Database(
            path,
            MIGRATIONS,
            synchronous=synchronous,
            allow_network=allow_network,
            lock=lock,
            progress=_PROGRESS,
        )
        protect(self._db.path)
        self._app = app
        self._lock = lock
        # What `register` was given, and the row of it.
        self._registration: tuple[str, float, str] | None = None
        self._process: int | None = None
        # How often the file was opened when it was last compared with what this object knows.
        self._opened = 0
        # Which file this process leads, and since which change of the runner; None if it does not.
        self._led: tuple[object, int] | None = None
        self._seen: tuple[int, int] | None = None
        self._full_until = 0.0
        # The size of the last body without room.
        self._refused_size = 0
        # The answers that arrived and are not written yet.
        self._arrivals: dict[str, _PendingAck] = {}
        # During a batch: what is inserted at its end, and the row of `log` as it will be then.
        self._new: dict[str, Delivery] = {}
        self._newest_generation = 0
        self._body_bytes = 0

    @property
    def path(self) -> str:
        """The file, wherever the working directory is."""
        return self._db.path

    @property
    def is_durable(self) -> bool:
        """It outlives the process."""
        return True

    @property
    def has_deferred(self) -> bool:
        """Whether there is something for `flush` to write."""
        return self._db.has_deferred

    def open(self) -> None:
        """Open the file for writing, and bring an older one up to date.

        Raises:
            ConfigError: the path cannot be used.
            StoreError: the file cannot be used just now.
        """
        # Its files, and links to it, may have changed since.
        protect(self._db.path)
        self._db.open()
        try:
            self._opened = self._db.times_opened
            retry_while_busy(self._claim_for_app)
        except BaseException:
            self._db.note_end()
            self._db.close()
            raise

    def close(self) -> None:
        """Write what is late, and close the file."""
        self._led = None
        self._process = self._registration = None
        self._db.close()

    def _claim_for_app(self) -> None:
        """Write down which app the store belongs to.

        Raises:
            ConfigError: it belongs to another one.
        """
        if self._app is None or self._is_of_app():
            return
        with self.transaction():
            if not self._is_of_app():
                known = self._known_app()
                name = self._app.name_for(self.path)
                if known is not None:
                    self._check_adoption(self._app, known, name)
                self._db.execute("UPDATE log SET app = ?", (name,))

    def _known_app(self) -> str | None:
        (known,) = self._db.execute("SELECT app FROM log").fetchone()
        return None if known is None else str(known)

    def _is_of_app(self) -> bool:
        return self._app is None or self._known_app() == self._app.name_for(self.path)

    def _check_adoption(self, app: AppIdentity, known: str, name: str) -> None:
        """Raise `ConfigError` if the app must not take the store over from another one."""
        is_in_use = self._lock is not None and not self._lock.is_held and self._lock.is_taken()
        if not is_in_use and app.is_moved(self.path, known):
            _log.warning(
                "the app of the delivery store `%s` moved from `%s` to `%s`", self.path, known, name
            )
        elif is_in_use or not app.may_adopt:
            first = f"stop `{known}`, then " if is_in_use else ""
            msg = (
                f"the delivery store `{self.path}` belongs to the app `{known}`, and this is "
                f"`{name}`: their handlers would get each other's deliveries. Give this app its "
                'own file, `Webhooks(deliveries="other.db")` or HUBHOOKS_DELIVERIES. If it is the '
                f"same app with a new name, {first}start it once with HUBHOOKS_ADOPT_STORE=1, or "
                "name it with HUBHOOKS_APP_NAME"
            )
            raise ConfigError(msg)

    def transaction(self) -> AbstractContextManager[None]:
        """Make one transaction of what is done inside: all of it is in the file, or nothing.

        A batch inside a batch is part of it.

        Raises:
            BusyError: another process is writing; nothing was done, and soon it may work.
            StoreError: it cannot be kept.
        """
        return _WITHIN if self._db.in_transaction else self._new_batch()

    @contextmanager
    def _new_batch(self) -> Generator[None]:
        with self._db.transaction():
            try:
                self._follow_file()
                row = self._db.execute("SELECT generation, body_bytes FROM log").fetchone()
                self._newest_generation, self._body_bytes = row
                yield
                for delivery in self._new.values():
                    self._insert(delivery)
                if self._body_bytes != row[1]:
                    self._db.execute("UPDATE log SET body_bytes = ?", (self._body_bytes,))
            finally:
                self._new.clear()

    def flush(self) -> None:
        """Write what is late.

        Raises:
            StoreError: it cannot be written just now; it stays late.
        """
        self._db.flush()

    def _follow_file(self) -> None:
        """Note that another file is open than before.

        Raises:
            StoreError: it belongs to another app.
        """
        if self._opened == self._db.times_opened:
            return
        if self._db.is_copy:
            if self._led is not None:
                self._led = (self._db.file, self._led[1])
        elif not self._is_new_file_of_app():
            msg = (
                f"the delivery store `{self.path}` was replaced by the store of another app, "
                f"`{self._known_app()}`: restore the right file"
            )
            raise StoreError(msg)
        elif self._registration is not None:
            self._process = None
            self._db.defer(self._insert_process)
        self._opened = self._db.times_opened

    def _is_new_file_of_app(self) -> bool:
        """Return whether a file that came to the path meanwhile may be used."""
        if self._app is None or self._is_of_app():
            return True
        known = self._known_app()
        if known is None:
            self._db.defer(partial(self._db.execute, _SET_APP, (self._app.name_for(self.path),)))
        return known is None

    @property
    def is_led(self) -> bool:
        """Whether what `recover` began still holds: no other process took over since."""
        (generation,) = self._db.execute("SELECT generation FROM log").fetchone()
        return self._led == (self._db.file, generation)

    def changed(self) -> bool:
        """Whether somebody else wrote since the last call, or replaced the file."""
        self._db.reopen_if_replaced()
        self._follow_file()
        before = self._seen
        # The number is of the connection: another file may have the same one.
        self._seen = (self._db.times_opened, *self._db.execute("PRAGMA data_version").fetchone())
        return self._seen != before

    # ---- what comes in -------------------------------------------------------------------------

    def accept(  # noqa: PLR0913 - what is known of a delivery
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
        """Record that a delivery came, and decide what is to run."""
        if delivery_id is None:
            delivery_id = os.urandom(16).hex()
        with self.transaction():
            known = self._find(delivery_id)
            if known is not None:
                again = decide_redelivery(known, self._on_replay)
                if isinstance(again, str):
                    known.duplicates += 1
                    self._db.execute(_COUNT_DUPLICATE, (delivery_id,))
                    return AcceptResult(again, delivery_id)
                # What failed on a body that we could read stays failed on one that we cannot.
                if again and skipped != State.MALFORMED:
                    handlers, skipped, reason = again, None, ""
            self._make_room(len(body))
            why = _truncate(resolve_reason(reason))
            delivery = Delivery(
                delivery_id,
                _to_datetime(_now()),
                body,
                skipped,
                why,
                scope=scope,
                action=action,
                repo=repo,
            )
            delivery.headers = storable(headers)
            delivery.is_replay = known is not None and known.is_acknowledged
            names = tuple(dict.fromkeys(handlers))
            self._keep(delivery, known, names)
            if groups:
                self._write_groups(delivery, {n: groups[n] for n in names if n in groups})
        return AcceptResult(status_of(skipped), delivery_id, names)

    def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> tuple[str, ...]:
        """Queue handlers of a finished delivery again.

        Args:
            delivery_id: the delivery.
            handlers: their names, also of some that did not hear it; none for those that did. A
                name given twice counts once.

        Returns:
            the names of those queued. None is if the delivery is unknown or unfinished, if its
            body was dropped, or if no handler heard it and none is named.

        Raises:
            ConfigError: one of the names cannot be the name of a handler.
        """
        chosen = handler_names(handlers)
        with self.transaction():
            known = self._find(delivery_id)
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
                groups = self._read_groups(delivery_id)
                self._keep(delivery, known, names)
                if groups:
                    self._write_groups(delivery, {n: groups[n] for n in names if n in groups})
                # As if another process queued it: the next look at the store finds it.
                self._seen = None
        return names

    def replay_as(self, delivery_id: str, handlers: Sequence[str], new: str) -> bool:
        """Queue another handler in place of some, which are not running.

        Args:
            delivery_id: the delivery.
            handlers: the names of those that it replaces. They are recorded as ignored.
            new: the name of the other one, which may have run already.

        Returns:
            whether it is queued: not if the delivery is unknown, if its body was dropped, or if
            there is none to replace.
        """
        with self.transaction():
            known = self._find(delivery_id)
            has_body = self._db.execute(_HAS_BODY, (delivery_id,)).fetchone() is not None
            if known is None or not has_body:
                return False
            runs = {run.handler: run for run in known.runs if run.state not in STARTED}
            replaced = [runs[name] for name in handlers if name in runs and name != new]
            is_running = new not in runs and any(run.handler == new for run in known.runs)
            if not replaced or is_running:
                return False
            (seq,) = self._db.execute(_SEQ, (delivery_id,)).fetchone()
            for run in replaced:
                error = f"replayed as `{new}`{run.error and ': '}{run.error}"
                values = (State.IGNORED, None, _now(), error, run.traceback, 0, 0, seq, run.handler)
                self._db.execute(_END, values)
                run.state = State.IGNORED
            if new in runs:
                self._db.execute(_QUEUE_AGAIN, (_now(), seq, new))
                runs[new].state = State.QUEUED
            else:
                self._db.execute(_QUEUE_NEW, (seq, new, len(known.runs), _now()))
            states = [*(run.state for run in known.runs), State.QUEUED]
            self._db.execute(_SET_STATE, (aggregate_state(states), False, seq))
            self._db.execute(_HANDLED, (seq,))
        return True

    def fail_waiting(self, handler: str, error: str, limit: int) -> int:
        """End runs of a handler that wait to start; give how many these were.

        Args:
            handler: its name.
            error: what is recorded.
            limit: how many at most.
        """
        with self.transaction():
            found = self._db.execute(_WAITING_OF, (handler, limit)).fetchall()
            for (seq,) in found:
                values = (State.FAILED, None, _now(), error, "", 0, 0, seq, handler)
                self._db.execute(_END, values)
                states = [row[0] for row in self._db.execute(_RUN_STATES, (seq,))]
                self._db.execute(_SET_STATE, (aggregate_state(states), False, seq))
        return len(found)

    def count_rejections(self, minute: int, reason: str, count: int) -> None:
        """Add to how often requests were refused in a minute, counted from 1970."""
        with self.transaction():
            self._db.execute(_COUNT_REFUSALS, (minute, reason, count))

    def _find(self, delivery_id: str) -> Delivery | None:
        new = self._new.get(delivery_id)
        # Most never came before, and the index alone knows that.
        if new is None and self._db.execute(_SEQ, (delivery_id,)).fetchone() is not None:
            return _find(self._db.execute, delivery_id)
        return new

    def _keep(self, delivery: Delivery, known: Delivery | None, handlers: Sequence[str]) -> None:
        """Keep a delivery as the newest, with what is known of it from before."""
        if known is not None:
            delivery.duplicates = known.duplicates
            delivery.runs = known.runs
            if self._new.pop(known.id, None):
                self._body_bytes -= known.size
            else:
                (seq,) = self._db.execute(_SEQ, (known.id,)).fetchone()
                self._body_bytes -= _drop_body(self._db.execute, seq, known.size)
                for table in ("runs", "attempts", "run_groups", "deliveries"):
                    self._db.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))  # noqa: S608 - see above
        queue_runs(delivery, handlers)
        self._body_bytes += delivery.size
        self._new[delivery.id] = delivery

    def _insert(self, delivery: Delivery) -> None:
        row = (
            delivery.id, _to_timestamp(delivery.received_at), delivery.scope, delivery.action,
            delivery.repo, delivery.state, delivery.skipped, delivery.reason, delivery.is_replay,
            delivery.is_acknowledged, delivery.duplicates, json.dumps(delivery.headers),
            delivery.size,
        )  # fmt: skip
        seq = self._db.execute(_INSERT_DELIVERY, row).lastrowid
        self._db.execute("INSERT INTO bodies VALUES (?, ?)", (seq, delivery.body))
        for position, run in enumerate(delivery.runs):
            # A replayed delivery came long ago, and its run waits since now.
            is_queued_again = delivery.is_replay and run.state == State.QUEUED
            due_at = _now() if is_queued_again else _to_timestamp(run.due_at)
            values = (
                seq, run.handler, position, run.state, run.attempts, run.failures,
                run.crashes,
                due_at, _to_timestamp(run.started_at), _to_timestamp(run.finished_at),
                run.error, run.traceback,
            )  # fmt: skip
            self._db.execute(_INSERT_RUN, values)
            for attempt in run.history:
                started = (seq, run.handler, attempt.number, _to_timestamp(attempt.started_at))
                self._db.execute(_INSERT_ATTEMPT, (*started, attempt.process))

    def _read_groups(self, delivery_id: str) -> dict[str, RunGroup]:
        """Read the groups of a delivery before a replay. A replay waits for no newer delivery."""
        row = self._db.execute(_SEQ, (delivery_id,)).fetchone()
        stored = () if row is None else read_groups(self._db.execute, row[0])
        return {group.handler: RunGroup(group.serial, group.subject, 0.0) for group in stored}

    def _write_groups(self, delivery: Delivery, groups: Mapping[str, RunGroup]) -> None:
        """Insert a delivery now, not at the end of the transaction, and store its groups."""
        del self._new[delivery.id]
        self._insert(delivery)
        (seq,) = self._db.execute(_SEQ, (delivery.id,)).fetchone()
        for handler, group in groups.items():
            write_group(self._db.execute, seq, delivery.id, handler, group, _now())

    def read_superseded(
        self, delivery_id: str, handler: str
    ) -> tuple[tuple[str, ...], bytes | None]:
        """Read the ids of the deliveries that a run replaced, and the body of the oldest one."""
        return read_superseded(self._db.execute, delivery_id, handler)

    def _make_room(self, size: int) -> None:
        """Drop old bodies for a new one, where `prune`, which leaves room, did not come in time."""
        if self._body_bytes + size <= self._max_bytes:
            return
        if size <= self._max_bytes and time.monotonic() >= self._full_until:
            while bodies := self._db.execute(_OLDEST_BODIES, (_CHUNK_ROWS,)).fetchall():
                for seq, body_size in bodies:
                    self._body_bytes -= _drop_body(self._db.execute, seq, body_size)
                    if self._body_bytes + size <= self._max_bytes:
                        return
            self._full_until = time.monotonic() + _FULL_SECONDS
        if size <= self._max_bytes:
            self._refused_size = size
        msg = (
            f"the delivery store `{self._db.path}` is full of unfinished deliveries: it accepts "
            "new ones when handlers finish"
        )
        raise StoreError(msg)

    # ---- what runs -----------------------------------------------------------------------------

    def recover(self) -> builtins.list[Interrupted]:
        """Become the process that runs what is in the log; not in a batch.

        Returns:
            what ran in the last one when that died.

        Raises:
            BusyError: another process leads, and only lost its lock file.
        """
        now = _now()
        with self.transaction():
            self._check_no_other_leads()
            if self._process is None:
                self._insert_process()
            lock = "" if self._lock is None else self._lock.file
            self._db.execute(_LEAD, (self._process, lock))
            self._db.execute("UPDATE processes SET led_at = ? WHERE id = ?", (now, self._process))
            self._end_dead_processes(now)
            generation = self._newest_generation + 1
        self._led = (self._db.file, generation)
        self._db.note_files()
        return self.recover_crashed()

    def recover_crashed(self) -> builtins.list[Interrupted]:
        """Let runs be tried again whose process died, as the leader.

        Returns:
            these runs.
        """
        found: list[Interrupted] = []
        with self.transaction():
            now = _now()
            for delivery_id, handler, attempt, count in self._crashed():
                is_failed = count > self._max_crashes
                state = State.FAILED if is_failed else State.RETRYING
                due_at = None if is_failed else now + _INTERRUPTED_SECONDS * 2 ** (count - 1)
                self._end(delivery_id, handler, attempt, state, due_at, _DIED, crashes=1)
                found.append((delivery_id, handler, is_failed))
        return found

    def _crashed(self) -> builtins.list[tuple[str, str, int, int]]:
        """List the runs whose process does not live any more, with how often that happened."""
        found: builtins.list[tuple[str, str, int, int]] = []
        for *run, key, pid, host, start_time in self._db.execute(_STARTED).fetchall():
            delivery_id, handler, attempt, count = run
            # A run of this process from before its last stop is not its own any more.
            is_own = key is not None and key == self._process
            is_others = False
            if pid is not None:
                process = Process(pid, host, start_time)
                is_others = process != current_process() and bool(is_alive(process))
            if not is_own and not is_others:
                found.append((delivery_id, handler, attempt, count))
        return found

    def _end_dead_processes(self, now: float) -> None:
        """Record the end of processes that were killed."""
        for key, *process in self._db.execute(_UNENDED).fetchall():
            if key != self._process and is_alive(Process(*process)) is False:
                self._db.execute(_END_PROCESS, (now, key))

    def register(self, code: str, loaded_at: float, handlers: Iterable[str]) -> None:
        """Record, late, what this process runs; again, if that changed.

        Args:
            code: the version of the app's code.
            loaded_at: when the code was executed: larger for newer code.
            handlers: the names of the handlers.
        """
        made = (code, loaded_at, json.dumps(sorted(handlers)))
        if made != self._registration:
            self._registration = made
            self._db.defer(self._insert_process)

    def _insert_process(self) -> None:
        if self._registration is None:
            self._registration = ("", 0.0, _UNKNOWN_HANDLERS)
        code, loaded_at, handlers = self._registration
        if self._process is None:
            values = (*current_process(), code, loaded_at, handlers)
            self._process = self._db.execute(_INSERT_PROCESS, values).lastrowid
        else:
            changes = (code, loaded_at, handlers, self._process)
            self._db.execute(_UPDATE_PROCESS, changes)

    def resign(self, *, is_end: bool) -> None:
        """Record, late, that this process does not lead any more.

        Args:
            is_end: whether it does not use the store any more either.
        """
        if self._process is not None:
            self._db.defer(partial(self._db.execute, _RESIGN, (self._process,)))
            if is_end:
                self._db.defer(partial(self._db.execute, _END_PROCESS, (_now(), self._process)))
        self._db.note_end()

    def check_writable(self) -> None:
        """Check that a delivery could be stored now.

        It takes the write lock and gives it back. It writes only if the last write failed: a full
        disk shows at a write alone.

        Raises:
            BusyError: another process is writing.
            StoreError: a delivery could not be stored.
        """
        must_write = self._db.has_failed
        with self.transaction():
            self._make_room(self._refused_size)
            if must_write:
                self._db.write_header()
        self._db.has_failed = False
        self._refused_size = 0

    def is_leader_alive(self, leader: Leader) -> bool:
        """Return whether the process that leads the store is alive, in any thread."""
        lock = self._lock
        is_locked = lock is None or lock.is_held or lock.is_taken()
        # Of a process on another machine, only the lock tells that there is one.
        return is_locked and is_alive(leader.process) is not False

    def leader(self) -> Leader | None:
        """Look up the process that leads the store, in any thread; None if none does."""
        with self._db.open_connection() as connection:
            row = connection.execute(_LEADER).fetchone()
        return None if row is None else _read_leader(row)

    def successor(self) -> Leader | None:
        """Look up a living process with newer code than this one, which should lead."""
        if self._registration is None:
            return None
        code, loaded_at, _ = self._registration
        for row in self._db.execute(_NEWER, (code, loaded_at)).fetchall():
            other = _read_leader(row)
            # Of a process on another machine we cannot tell.
            if is_alive(other.process) is not False:
                return other
        return None

    def _check_no_other_leads(self) -> None:
        row = self._db.execute(_LEADER).fetchone()
        if row is None or self._lock is None:
            return
        other = _read_leader(row)
        # The lock is free as it was given back, or as the file that is locked is another one.
        if (
            row[-1] not in ("", self._lock.file)
            and other.process != current_process()
            and is_alive(other.process)
        ):
            msg = f"process {other.process.pid} is the leader of the delivery store `{self.path}`"
            raise BusyError(msg)

    def keep_noted(self) -> None:
        """Write down again which files belong together, if somebody removed that."""
        self._db.keep_noted()

    def note_lock(self) -> None:
        """Record, late, that this process locked another file to lead the store."""
        if self._lock is not None:
            self._db.defer(partial(self._db.execute, _SET_LOCK, (self._lock.file, self._process)))

    def waiting_handlers(self) -> dict[str, int]:
        """Count the runs that wait to start, by handler, in any thread."""
        with self._db.open_connection() as connection:
            return dict(connection.execute(_COUNT_WAITING).fetchall())

    def backlog(self) -> Backlog:
        """Describe the runs that wait to start, in any thread."""
        with self._db.open_connection() as connection:
            rows = connection.execute(_BACKLOG).fetchall()
        since = min((row[2] for row in rows), default=math.inf)
        runs = {handler: count for handler, count, _ in rows}
        return Backlog(runs, _to_datetime(since) if since <= _now() else None)

    def unknown_handlers(self, known: Container[str] | None = None) -> dict[str, int]:
        """Count the runs that wait for handlers which the leader does not have, in any thread.

        Args:
            known: the handlers of this process, in case that no process leads; None to count
                nothing then.
        """
        waiting = self.waiting_handlers()
        leader = self.leader() if waiting else None
        if leader is not None and leader.handlers is not None:
            known = leader.handlers
        if known is None:
            return {}
        return {name: count for name, count in waiting.items() if name not in known}

    def list_ready(
        self,
        limit: int,
        without: Sequence[str] = (),
        *,
        among: Container[str] | None = None,
        interrupted: bool = False,
        grouped: Container[str] = (),
    ) -> builtins.list[Due]:
        """List runs that can start, the oldest first.

        Args:
            limit: how many at most.
            without: the handlers that are busy.
            among: the handlers that there are; None for any.
            interrupted: those during which the process died before, and not the others.
            grouped: the handlers with `serial=` or `debounce=`.
        """
        now = _now()
        times = (now, now + _CLOCK_SLACK)
        found: builtins.list[tuple[int, int, str, str]] = []
        # What was interrupted waits, and is never queued.
        for state in (State.RETRYING,) if interrupted else (State.QUEUED, State.RETRYING):
            for (handler,) in self._db.execute(_HANDLERS, (state, state)).fetchall():
                if handler in without or not (among is None or handler in among):
                    continue
                if handler in grouped:
                    execute = self._db.execute
                    found += list_ready_in_groups(
                        execute, state, handler, times, limit, crashed=interrupted
                    )
                else:
                    values = (state, handler, interrupted, *times, limit)
                    found += self._db.execute(_DUE, values)
        return [(delivery_id, handler) for _, _, delivery_id, handler in sorted(found)[:limit]]

    def seconds_to_next(self, grouped: Iterable[str] = ()) -> float | None:
        """Return the seconds to the next retry, or to the end of a wait; None if none waits.

        Args:
            grouped: the handlers with `serial=` or `debounce=`.
        """
        now = _now()
        (due_at,) = self._db.execute(_NEXT_DUE, (now,)).fetchone()
        seconds = None if due_at is None else float(due_at - now)
        wait = seconds_to_next_group(self._db.execute, grouped, now)
        return min((each for each in (seconds, wait) if each is not None), default=None)

    def body(self, delivery_id: str) -> bytes | None:
        """Look up the body of a delivery that is about to run."""
        return _body(self._db.execute, delivery_id)

    def claim(
        self, delivery_id: str, handler: str, *, is_grouped: bool = False
    ) -> RunContext | None:
        """Record that a handler is about to run, and give what it is told.

        Returns:
            None if it must not: it is not queued or waiting, or another process took over.
        """
        with self.transaction():
            if self._led != (self._db.file, self._newest_generation):
                return None
            now = _now()
            if (new := self._new.get(delivery_id)) is not None:
                run = next((run for run in new.runs if run.handler == handler), None)
                if run is None or run.state != State.QUEUED:
                    return None
                run.state, run.started_at = State.RUNNING, _to_datetime(now)
                run.attempts += 1
                run.history.append(Attempt(run.attempts, run.started_at, self._process))
                return RunContext(
                    delivery_id, run.attempts, new.is_replay, new.received_at, handler
                )
            if is_grouped and is_blocked(self._db.execute, delivery_id, handler, now):
                return None
            row = self._db.execute(_STARTABLE, (handler, delivery_id)).fetchone()
            if row is None:
                return None
            seq, attempt, is_replay, received_at, failures = row
            self._db.execute(_START, (attempt, now, seq, handler))
            self._db.execute(_INSERT_ATTEMPT, (seq, handler, attempt, now, self._process))
            self._db.execute(_SET_STATE, (State.RUNNING, False, seq))
        return RunContext(
            delivery_id, attempt, bool(is_replay), _to_datetime(received_at), handler, failures
        )

    def unclaim(self, run_context: RunContext) -> None:
        """Record, late, that a handler did not start; nothing if `claim` was undone."""
        start = (run_context.id, run_context.handler, run_context.attempt)
        self._db.defer(partial(self._end, *start, State.RETRYING, _now()))

    def mark_acknowledged(self, delivery_id: str, *, delivered: bool) -> None:
        """Record whether the answer is known to have reached the Hub."""
        # One answer that arrived is enough for the Hub, so a later "no" does not undo it.
        if delivered:
            self._arrivals[delivery_id] = arrival = _PendingAck(delivery_id)
            self._db.defer(partial(self._write_ack, arrival))

    def _write_ack(self, arrival: _PendingAck) -> None:
        self._arrivals.pop(arrival.delivery_id, None)
        if not arrival.is_taken:
            self._db.execute(_DELIVERED, (arrival.delivery_id,))

    def _merge_ack(self, delivery_id: str) -> bool:
        """Write what is late of an answer with something else of the delivery."""
        arrival = self._arrivals.pop(delivery_id, None)
        if arrival is not None:
            arrival.is_taken = True
        return arrival is not None

    def mark_stuck(self, run_context: RunContext) -> None:
        """Record that a handler is out of time, and cannot be ended."""
        start = (run_context.id, run_context.handler, run_context.attempt)
        self._db.defer(partial(self._end, *start, State.STUCK))

    def finish_run(
        self,
        run_context: RunContext,
        ending: State,
        error: str = "",
        traceback: str = "",
        *,
        retry_after: float | None = None,
    ) -> None:
        """Record how a handler ended; nothing is recorded of a start that was given up meanwhile.

        Args:
            run_context: what `claim` gave.
            ending: how it ended.
            error: why.
            traceback: where.
            retry_after: in how many seconds it is tried again; None for never.
        """
        start = (run_context.id, run_context.handler, run_context.attempt)
        state, due_at = (
            (ending, None) if retry_after is None else (State.RETRYING, _now() + retry_after)
        )
        failures = 0 if retry_after is None else 1
        how = (_truncate(shorten(error, LONGEST_ERROR)), _truncate(traceback), failures)
        arrived = self._merge_ack(run_context.id)
        self._db.defer(partial(self._end, *start, state, due_at, *how, arrived=arrived))

    def _end(  # noqa: PLR0913, PLR0917 - which start, and how it ended
        self,
        delivery_id: str,
        handler: str,
        attempt: int,
        state: str,
        due_at: float | None = None,
        error: str = "",
        traceback: str = "",
        failures: int = 0,
        crashes: int = 0,
        *,
        arrived: bool = False,
    ) -> None:
        seq, states = None, list[str]()
        for run_seq, name, run_attempt, run_state in self._db.execute(_STATES, (delivery_id,)):
            # The attempt makes it that start and no other.
            is_it = name == handler and run_attempt == attempt
            if is_it and run_state in STARTED:
                seq = run_seq
            states.append(state if is_it else run_state)
        if seq is None:
            if arrived:
                self._db.execute(_DELIVERED, (delivery_id,))
            return
        if state == State.STUCK:
            self._db.execute(_OVERDUE, (seq, handler))
        else:
            finished_at = None if state == State.RETRYING else _now()
            counts = (failures, crashes)
            values = (state, due_at, finished_at, error, traceback, *counts, seq, handler)
            self._db.execute(_END, values)
        self._db.execute(_SET_STATE, (aggregate_state(states), arrived, seq))

    # ---- what is asked -------------------------------------------------------------------------

    def get(self, delivery_id: str) -> Delivery | None:
        """Look up a delivery."""
        with self._db.open_connection() as connection:
            delivery = _find(connection.execute, delivery_id)
            if delivery is not None:
                delivery.body = _body(connection.execute, delivery_id)
        return delivery

    def deliveries(self, delivery_ids: Iterable[str]) -> builtins.list[Delivery]:
        """Look up those deliveries that there are, at one moment and without their bodies."""
        with self._db.open_connection() as connection:
            found = [_find(connection.execute, delivery_id) for delivery_id in delivery_ids]
        return [delivery for delivery in found if delivery is not None]

    def with_bodies(self, delivery_ids: Iterable[str]) -> set[str]:
        """Pick those deliveries whose bodies are still there."""
        with self._db.open_connection() as connection:
            return {one for one in delivery_ids if connection.execute(_HAS_BODY, (one,)).fetchone()}

    def ids(self, prefix: str, limit: int = 10) -> builtins.list[str]:
        """List ids that begin so."""
        with self._db.open_connection() as connection:
            rows = connection.execute(_IDS, (prefix, prefix + _LAST_SIGN, limit)).fetchall()
        return [row[0] for row in rows]

    def prunable(self) -> Prunable:
        """Tell what is old enough for `prune` to drop it."""
        old = _now() - self._keep_seconds
        with self._db.open_connection() as connection:
            bodies = connection.execute(_OLD_BODIES, (old,)).fetchone()
            rows = connection.execute(_OLD_ROWS, (old - _IDS_OUTLIVE_BODIES,)).fetchone()
        return Prunable(*bodies, *rows)

    def list(  # noqa: PLR0913 - criteria, each optional
        self,
        *,
        state: str | None = None,
        scope: str | None = None,
        repo: str | None = None,
        since: datetime | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> builtins.list[Delivery]:
        """List deliveries, the newest first, without their bodies.

        Args:
            state: only those in this state.
            scope: only those of this scope.
            repo: only those of this repository.
            since: only those received then or later.
            before: only those older than the one with this id: the next page.
            limit: how many at most.
        """
        criteria: dict[str, object] = {
            "state = ?": state,
            "scope = ?": scope,
            "repo = ?": repo,
            "received_at >= ?": _to_timestamp(since),
            f"seq < ({_SEQ})": before,
        }
        with self._db.open_connection() as connection:
            return _page(connection.execute, criteria, limit)

    def every(
        self, *, state: str | None = None, since: datetime | None = None
    ) -> Iterator[Delivery]:
        """Give all deliveries that there are at one moment, the newest first, without their bodies.

        Args:
            state: only those in this state.
            since: only those received then or later.
        """
        criteria: dict[str, object] = {
            "state = ?": state,
            "received_at >= ?": _to_timestamp(since),
        }
        with self._db.open_connection() as connection:
            while page := _page(connection.execute, criteria, _CHUNK_ROWS):
                yield from page
                criteria[f"seq < ({_SEQ})"] = page[-1].id

    def stats(self) -> Stats:
        """Give the log in figures."""
        with self._db.open_connection() as connection:
            counts = connection.execute(_COUNT_STATES).fetchall()
            (body_bytes,) = connection.execute("SELECT body_bytes FROM log").fetchone()
            (oldest,) = connection.execute(_OLDEST_UNFINISHED).fetchone() or (None,)
            rejections = dict(connection.execute(_SUM_REFUSALS).fetchall())
        states = {State(state): count for state, count in counts}
        return Stats(
            states, body_bytes, None if oldest is None else _to_datetime(oldest), rejections
        )

    def backup(self, path: str) -> None:
        """Copy the store as it is now into a new file, which only its owner may read; any thread.

        The app may run meanwhile. No process uses the copy, so no process leads it.

        Args:
            path: the new file.

        Raises:
            ConfigError: the file exists, or cannot be created.
            StoreError: the store cannot be read just now, or the copy cannot be written.
        """
        # SQLite reads some names, such as `:memory:`, in a way of its own.
        target = os.path.abspath(path)  # noqa: PTH100 - resolves no links, which are refused
        self._create_copy(path, target)
        try:
            self._db.backup(target, ((_NO_LEADER, ()), (_END_PROCESSES, (_now(),))))
        except BaseException:
            for suffix in ("", "-journal", "-wal", "-shm"):
                with suppress(OSError):
                    os.unlink(f"{target}{suffix}")  # noqa: PTH108 - a path as SQLite has it
            raise

    def _create_copy(self, path: str, target: str) -> None:
        """Create the empty file of a copy."""
        mine = {f"{self.path}{suffix}" for suffix in _SUFFIXES}
        try:
            is_taken = os.path.realpath(target) in mine
            if not is_taken:
                os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            is_taken = True
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            msg = f"cannot create `{path}`: {why}"
            raise ConfigError(msg) from error
        if is_taken:
            msg = f"`{path}` already exists, or belongs to the delivery store: give a new path"
            raise ConfigError(msg)

    # ---- upkeep --------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Move what was written to its place in the file, if it is enough to be worth it.

        It waits for the disk, so it is for a thread that nobody waits for.
        """
        self._db.checkpoint()

    def prune(self) -> int:
        """Drop what is too old or too much, in several short transactions.

        Returns:
            how many bodies and deliveries were dropped.
        """
        old = _now() - self._keep_seconds
        dropped = 0
        with self._db.open_connection("rw") as connection:
            while count := self._prune_bodies(connection, old):
                dropped += count
            while count := self._prune_rows(connection, old - _IDS_OUTLIVE_BODIES):
                dropped += count
            connection.execute("DELETE FROM refusals WHERE minute * 60 < ?", (old,))
            connection.execute(_DROP_PROCESSES, (old - _IDS_OUTLIVE_BODIES,))
        return dropped

    def _prune_bodies(self, connection: sqlite3.Connection, old: float) -> int:
        (body_bytes,) = connection.execute("SELECT body_bytes FROM log").fetchone()
        excess = body_bytes - self._max_bytes * _KEPT_SHARE
        if excess > 0:
            found = connection.execute(_OLDEST_BODIES, (_CHUNK_ROWS,))
        else:
            found = connection.execute(_AGED_BODIES, (old, _CHUNK_ROWS))
        chosen: list[tuple[int, int]] = []
        chunk = 0
        for seq, size in found:
            if chunk < _CHUNK_BYTES and (chunk < excess or excess <= 0):
                chosen.append((seq, size))
                chunk += size
        return _drop(connection, chosen, rows=False)

    def _prune_rows(self, connection: sqlite3.Connection, old: float) -> int:
        chosen = connection.execute(_AGED_ROWS, (old, _CHUNK_ROWS)).fetchall()
        return _drop(connection, chosen, rows=True)


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


# ---- statements --------------------------------------------------------------------------------

_SEQ = "SELECT seq FROM deliveries WHERE id = ?"
_INSERT_DELIVERY = """
    INSERT INTO deliveries (id, received_at, scope, action, repo, state, aside, reason, is_replay,
        is_delivered, duplicates, headers, size)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_RUN = "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PROGRESS = """
    SELECT generation + (SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'deliveries')
    FROM log
"""
# A store that another program changed may have the row already.
_INSERT_ATTEMPT = "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?)"
_INSERT_PROCESS = """
    INSERT INTO processes (pid, host, start_time, code, loaded_at, handlers)
    VALUES (?, ?, ?, ?, ?, ?)
"""
_UPDATE_PROCESS = "UPDATE processes SET code = ?, loaded_at = ?, handlers = ? WHERE id = ?"
_END_PROCESS = "UPDATE processes SET ended_at = ? WHERE id = ?"
_SET_APP = "UPDATE log SET app = ?"
_SET_LOCK = "UPDATE log SET leader_lock = ? WHERE leader = ?"
_LEAD = "UPDATE log SET generation = generation + 1, leader = ?, leader_lock = ?"
_RESIGN = "UPDATE log SET leader = NULL WHERE leader = ?"
_NO_LEADER = "UPDATE log SET leader = NULL, leader_lock = ''"
_END_PROCESSES = "UPDATE processes SET ended_at = ? WHERE ended_at IS NULL"
_LEADER = """
    SELECT id, pid, host, start_time, code, led_at, handlers, leader_lock
    FROM log JOIN processes ON processes.id = log.leader
"""
# The process of a run is that of its last attempt; an older store does not have it.
_STARTED = """
    SELECT deliveries.id, runs.handler, runs.attempts, interruptions + 1, process, pid, host,
        start_time
    FROM runs JOIN deliveries USING (seq)
        LEFT JOIN attempts ON attempts.seq = runs.seq AND attempts.handler = runs.handler
            AND attempt = runs.attempts
        LEFT JOIN processes ON processes.id = process
    WHERE finished_at IS NULL AND runs.state IN ('running', 'stuck')
"""
_NEWER = """
    SELECT id, pid, host, start_time, code, led_at, handlers FROM processes
    WHERE ended_at IS NULL AND code <> ? AND loaded_at > ? ORDER BY loaded_at DESC
"""
_UNENDED = "SELECT id, pid, host, start_time FROM processes WHERE ended_at IS NULL"
_QUEUE_AGAIN = """
    UPDATE runs SET state = 'queued', due_at = ?, finished_at = NULL
    WHERE seq = ? AND handler = ?
"""
_QUEUE_NEW = """
    INSERT INTO runs (seq, handler, position, state, attempts, failures, interruptions, due_at,
        error, traceback)
    VALUES (?, ?, ?, 'queued', 0, 0, 0, ?, '', '')
"""
# What was not handled before is so now.
_HANDLED = "UPDATE deliveries SET aside = NULL WHERE seq = ?"
_WAITING_OF = """
    SELECT seq FROM runs
    WHERE finished_at IS NULL AND state IN ('queued', 'retrying') AND handler = ? LIMIT ?
"""
_RUN_STATES = "SELECT state FROM runs WHERE seq = ?"
_COUNT_WAITING = """
    SELECT handler, count(*) FROM runs
    WHERE finished_at IS NULL AND state IN ('queued', 'retrying') GROUP BY handler
"""
# A queued run has a time since when it could start only if it was replayed.
_BACKLOG = """
    SELECT handler, count(*), min(ifnull(due_at, received_at)) FROM runs JOIN deliveries USING (seq)
    WHERE finished_at IS NULL AND runs.state IN ('queued', 'retrying') GROUP BY handler
"""
_COUNT_DUPLICATE = "UPDATE deliveries SET duplicates = duplicates + 1 WHERE id = ?"
_COUNT_REFUSALS = """
    INSERT INTO refusals VALUES (?, ?, ?)
    ON CONFLICT (minute, reason) DO UPDATE SET count = count + excluded.count
"""
_DELIVERED = "UPDATE deliveries SET is_delivered = true WHERE id = ?"
_SET_STATE = """
    UPDATE deliveries SET state = ?, is_delivered = is_delivered OR ? WHERE seq = ?
"""

_STARTABLE = """
    SELECT seq, attempts + 1, is_replay, received_at, failures FROM deliveries JOIN runs USING (seq)
    WHERE handler = ? AND id = ? AND runs.state IN ('queued', 'retrying')
"""
_START = """
    UPDATE runs SET state = 'running', attempts = ?, started_at = ?, due_at = NULL
    WHERE seq = ? AND handler = ?
"""
# A delivery that runs has no `aside`, so the states of its runs are all there is.
_STATES = """
    SELECT seq, handler, attempts, runs.state FROM deliveries JOIN runs USING (seq) WHERE id = ?
"""
_END = """
    UPDATE runs SET state = ?, due_at = ?, finished_at = ?, error = ?, traceback = ?,
        failures = failures + ?, interruptions = interruptions + ? WHERE seq = ? AND handler = ?
"""
# What went wrong before stays on record until it ends.
_OVERDUE = "UPDATE runs SET state = 'stuck' WHERE seq = ? AND handler = ?"

# A start after now means that the clock was set back, and is not waited for.
_HANDLERS = """
    WITH RECURSIVE names (handler) AS (
        SELECT * FROM (SELECT handler FROM runs WHERE finished_at IS NULL AND state = ?
            ORDER BY handler LIMIT 1)
        UNION ALL
        SELECT (SELECT runs.handler FROM runs WHERE finished_at IS NULL AND state = ?
            AND runs.handler > names.handler ORDER BY runs.handler LIMIT 1)
        FROM names WHERE names.handler IS NOT NULL)
    SELECT handler FROM names WHERE handler IS NOT NULL
"""
_DUE = """
    SELECT seq, position, id, handler FROM runs JOIN deliveries USING (seq)
    WHERE finished_at IS NULL AND runs.state = ? AND handler = ? AND (interruptions > 0) = ?
        AND (due_at IS NULL OR due_at <= ? OR started_at > ? OR runs.state = 'queued')
    ORDER BY seq, position LIMIT ?
"""
_NEXT_DUE = """
    SELECT min(due_at) FROM runs WHERE finished_at IS NULL AND state = 'retrying' AND due_at > ?
"""

_READ_DELIVERIES = """
    SELECT seq, id, received_at, scope, action, repo, aside, reason, is_replay, is_delivered,
        duplicates, headers, size FROM deliveries
"""
_READ_RUNS = """
    SELECT handler, state, attempts, failures, interruptions, due_at, started_at, finished_at,
        error, traceback FROM runs WHERE seq = ? ORDER BY position
"""
_READ_ATTEMPTS = """
    SELECT handler, attempt, attempts.started_at, process, pid, code
    FROM attempts LEFT JOIN processes ON processes.id = process
    WHERE seq = ? ORDER BY handler, attempt
"""
_BODY = "SELECT body FROM bodies JOIN deliveries USING (seq) WHERE id = ?"
_HAS_BODY = "SELECT 1 FROM bodies JOIN deliveries USING (seq) WHERE id = ?"
_COUNT_STATES = "SELECT state, count(*) FROM deliveries GROUP BY state"
_OLDEST_UNFINISHED = """
    SELECT received_at FROM deliveries WHERE seq = (
        SELECT min(seq) FROM runs INDEXED BY runs_unfinished WHERE finished_at IS NULL)
"""
_SUM_REFUSALS = "SELECT reason, sum(count) FROM refusals GROUP BY reason"

_COUNT_YOUNG = """
    SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE received_at >= ? LIMIT ?)
"""
_IDS = "SELECT id FROM deliveries WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
_OLD_BODIES = """
    SELECT count(*), coalesce(sum(size), 0) FROM bodies JOIN finished USING (seq)
    WHERE received_at < ?
"""
_OLD_ROWS = "SELECT count(*) FROM finished WHERE received_at < ?"
# By their order, or by their times: a clock that was wrong for a while puts these asunder.
_OLDEST_BODIES = """
    SELECT bodies.seq, size FROM bodies JOIN finished USING (seq) ORDER BY bodies.seq LIMIT ?
"""
_AGED_BODIES = """
    SELECT seq, size FROM finished CROSS JOIN bodies USING (seq) WHERE received_at < ? LIMIT ?
"""
_AGED_ROWS = "SELECT seq, size FROM finished WHERE received_at < ? LIMIT ?"
# What was chosen may be unfinished again by now.
_DROP_BODY = """
    DELETE FROM bodies WHERE seq = ? AND EXISTS (SELECT 1 FROM finished WHERE seq = ?)
"""
_DROP_PROCESSES = "DELETE FROM processes WHERE ended_at < ?"
_DROP_ROW = """
    DELETE FROM deliveries WHERE seq = ? AND EXISTS (SELECT 1 FROM finished WHERE seq = ?)
"""


def _page(execute: Execute, criteria: Mapping[str, object], limit: int) -> list[Delivery]:
    given = {sql: value for sql, value in criteria.items() if value is not None}
    since = given.get("received_at >= ?")
    # Where few are so young, it is better to sort these than to look for a whole page.
    is_few = since is not None and execute(_COUNT_YOUNG, (since, _FEW)).fetchone() < (_FEW,)
    order = "+seq" if is_few else "seq"
    end = f"WHERE {' AND '.join(given) or 'true'} ORDER BY {order} DESC LIMIT ?"
    return _read(execute, end, (*given.values(), limit))


def _read(execute: Execute, end: str, values: Sequence[object]) -> list[Delivery]:
    deliveries: list[Delivery] = []
    for row in execute(_READ_DELIVERIES + end, values).fetchall():
        seq, delivery_id, received_at, scope, action, repo, skipped, reason, *more = row
        delivery = Delivery(
            delivery_id,
            _to_datetime(received_at),
            None,
            skipped,
            reason,
            scope=scope,
            action=action,
            repo=repo,
        )
        is_replay, is_acknowledged, delivery.duplicates, headers, delivery.size = more
        delivery.is_replay, delivery.is_acknowledged = bool(is_replay), bool(is_acknowledged)
        delivery.headers = [(name, value) for name, value in json.loads(headers)]
        delivery.runs = [_read_run(row) for row in execute(_READ_RUNS, (seq,))]
        deliveries.append(delivery)
    return deliveries


def _read_run(row: Sequence[Any]) -> Run:
    run = Run(row[0], attempts=row[2])
    run.state, run.failures, run.crashes = State(row[1]), row[3], row[4]
    times = [None if seconds is None else _to_datetime(seconds) for seconds in row[5:8]]
    run.due_at, run.started_at, run.finished_at = times
    if run.state == State.QUEUED:
        run.due_at = None
    run.error, run.traceback = row[8:]
    return run


def _find(execute: Execute, delivery_id: str) -> Delivery | None:
    """Look up a delivery with the attempts of its runs, without its body."""
    found = _read(execute, "WHERE id = ?", (delivery_id,))
    if not found:
        return None
    runs = {run.handler: run for run in found[0].runs}
    (seq,) = execute(_SEQ, (delivery_id,)).fetchone()
    for handler, number, started_at, *process in execute(_READ_ATTEMPTS, (seq,)):
        if handler in runs:
            runs[handler].history.append(Attempt(number, _to_datetime(started_at), *process))
    return found[0]


def _read_leader(row: Sequence[Any]) -> Leader:
    key, pid, host, start_time, code, led_at, handlers = row[:7]
    since = None if led_at is None else _to_datetime(led_at)
    names = json.loads(handlers)
    known = None if names is None else frozenset(names)
    return Leader(Process(pid, host, start_time), code, since, known, key)


def _body(execute: Execute, delivery_id: str) -> bytes | None:
    found = execute(_BODY, (delivery_id,)).fetchone()
    return None if found is None else found[0]


def _drop_body(execute: Execute, seq: int, size: int) -> int:
    """Drop a body, unless its delivery is unfinished by now; give how much that freed."""
    return size if execute(_DROP_BODY, (seq, seq)).rowcount else 0


def _drop(connection: sqlite3.Connection, chosen: Sequence[tuple[int, int]], *, rows: bool) -> int:
    """Drop the bodies of deliveries, or all of them, in one transaction; give how many."""
    execute = connection.execute
    execute("BEGIN IMMEDIATE")
    freed = sum(_drop_body(execute, seq, size) for seq, size in chosen)
    execute("UPDATE log SET body_bytes = body_bytes - ?", (freed,))
    for seq, _ in chosen if rows else ():
        if execute(_DROP_ROW, (seq, seq)).rowcount:
            execute("DELETE FROM runs WHERE seq = ?", (seq,))
            execute("DELETE FROM attempts WHERE seq = ?", (seq,))
            drop_groups(execute, seq)
    execute("COMMIT")
    return len(chosen)


def _truncate(text: str) -> str:
    """Cut a text of somebody else's to what is kept: its end, where a traceback has the error."""
    return text[-LONGEST_TRACEBACK:].encode("utf-8", "backslashreplace").decode()


def _now() -> float:
    return time.time()


def _to_datetime(seconds: float) -> datetime:
    # No time in the file, whoever wrote it, may keep the rest of it from being read.
    return datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_SECOND), timezone.utc)


def _to_timestamp(when: datetime | None) -> float | None:
    return None if when is None else when.timestamp()
