"""A store in memory: an SQLite database without a file, and limits for what it keeps."""

from __future__ import annotations

import sqlite3
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from hubhooks import _fork
from hubhooks._store import schema
from hubhooks._store.deferred import DeferredWrites
from hubhooks._store.inserts import NewDeliveries
from hubhooks._store.sqlite_errors import store_error
from hubhooks.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from typing import Literal

    from hubhooks._store.base import Leader
    from hubhooks._store.connection import Database
    from hubhooks._store.processes import CrashedRun
    from hubhooks.models import Delivery

__all__ = ["MemoryDatabase", "MemoryDeliveries", "MemoryLimits", "OnlyProcess"]

_NAME = ":memory:"
_MIB = 1024 * 1024


class MemoryLimits(NamedTuple):
    """The limits of a store in memory."""

    keep: int = 1_000
    """How many finished deliveries are kept."""
    keep_bytes: int = 64 * _MIB
    """The limit for their bodies. The deliveries themselves are kept."""
    hold_bytes: int = 256 * _MIB
    """The limit for the bodies of unfinished deliveries. More deliveries are rejected, so that the
    Hub sends them again."""


class MemoryDatabase:
    """The interface of `Database`, for a database in memory.

    It exists from the first use until the object is deleted. It belongs to its connection, so all
    threads use this one, under its lock. A read sees deferred writes.

    Args:
        flush: writes the deferred writes, in a transaction of the store.
    """

    path = ""
    times_opened = 0
    is_copy = False
    file = None

    def __init__(self, flush: Callable[[], None]) -> None:
        self.has_failed = False
        self._flush_store = flush
        self._deferred = DeferredWrites()
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()
        self._writer: int | None = None

    def open(self) -> None:
        """Create the database, unless it exists."""
        with self._lock:
            self._connect()

    def close(self) -> None:
        """Do nothing: the deliveries stay until the object is deleted."""

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            for migration in schema.MIGRATIONS:
                for statement in migration:
                    connection.execute(statement)
            weakref.finalize(self, connection.close)
            self._connection = connection
            _fork.register(self)
        return self._connection

    def switch_off(self) -> None:
        """In a forked child, use a new lock: a thread of the parent may hold the old one."""
        self._lock = threading.RLock()
        self._writer = None

    def execute(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute a statement; one that writes needs a transaction."""
        try:
            with self._lock:
                self.flush()
                return self._connect().execute(sql, values)
        except sqlite3.Error as error:
            raise store_error(_NAME, error) from error

    def executemany(self, sql: str, rows: Sequence[Sequence[object]]) -> sqlite3.Cursor:
        """Execute a statement that writes for each of these rows, in a transaction."""
        try:
            return self._connect().executemany(sql, rows)
        except sqlite3.Error as error:
            raise store_error(_NAME, error) from error

    @property
    def in_transaction(self) -> bool:
        """Whether this thread has a transaction open."""
        return self._writer == threading.get_ident()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Write everything inside, or nothing; not to be nested."""
        with self._lock:
            connection = self._connect()
            self._writer = threading.get_ident()
            try:
                connection.execute("BEGIN")
                yield
                connection.execute("COMMIT")
                self._deferred.commit()
            finally:
                self._writer = None
                self._deferred.end()
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def open_connection(
        self,
        mode: Literal["ro", "rw"] = "ro",  # noqa: ARG002 - as for a file
    ) -> Generator[sqlite3.Connection]:
        """Use the connection alone for a short time, in any thread."""
        with self._lock:
            self.flush()
            yield self._connect()

    @property
    def has_deferred(self) -> bool:
        """Whether there are deferred writes."""
        return bool(self._deferred)

    def defer(self, write: Callable[[], object]) -> None:
        """Write with the next transaction, before the next read, or with `flush`."""
        self._deferred.add(write)

    def write_deferred(self) -> None:
        """Write the deferred writes, in a transaction."""
        self._deferred.write()

    def flush(self) -> None:
        """Write the deferred writes."""
        with self._lock:
            if self._deferred and not self.in_transaction:
                self._flush_store()

    def reopen_if_replaced(self) -> None:
        """Do nothing: there is no file."""

    note_files = keep_noted = note_end = write_header = checkpoint = reopen_if_replaced


class OnlyProcess:
    """The interface of `ProcessTable`, for a store that no other process can use."""

    key = None

    def register(self, code: str, loaded_at: float, handlers: Iterable[str]) -> None:
        """Do nothing: no other process reads it."""

    def resign(self, *, is_end: bool) -> None:
        """Do nothing: no other process can be the leader."""

    def forget(self) -> None:
        """Do nothing: nothing is recorded."""

    register_in_new_file = become_leader = note_lock = forget

    def is_leader_alive(self, leader: Leader) -> bool:  # noqa: ARG002 - it is this process
        """Return True: this process is the leader."""
        return True

    def successor(self) -> None:
        """Return None: no other process can be the leader."""

    def crashed_runs(self) -> list[CrashedRun]:
        """Return none: runs end with the process."""
        return []


class MemoryDeliveries(NewDeliveries):
    """Also drops finished deliveries beyond a limit, the first finished ones first.

    Args:
        database: the store.
        timer: the clock for waits.
        limits: what is kept.
    """

    def __init__(
        self,
        database: Database,
        timer: Callable[[], float],
        limits: MemoryLimits,
    ) -> None:
        super().__init__(database, 0, timer)
        self._keep, self._keep_bytes, self._hold_bytes = limits
        # Bodies of up to this size fit into the limit together, so they are never dropped.
        self._small = limits.keep_bytes // max(limits.keep, 1)
        # The sizes of the bodies of finished deliveries, in the order of their ends, and the sum.
        self._finished: dict[int, int] = {}
        self._finished_bytes = 0
        self._is_stale = False

    def make_room(self, size: int, *, is_open: bool = True) -> None:
        """Check that the body of an unfinished delivery has room.

        Raises:
            StoreError: it has none.
        """
        held = self._body_bytes - self._finished_bytes
        if is_open and held + size > self._hold_bytes:
            if size <= self._hold_bytes:
                self._rejected_size = size
            msg = (
                f"the bodies of unfinished deliveries take {held} bytes of memory, and {size} more "
                f"would exceed the limit of {self._hold_bytes}"
            )
            raise StoreError(msg)

    def make_room_for_replay(self, size: int) -> None:
        """Check that the body of a replayed delivery has room."""
        self.make_room(size)

    def add(
        self, delivery: Delivery, known: Delivery | None, handlers: Sequence[str], headers: str
    ) -> None:
        """Insert a delivery now as the newest one; a finished one can displace others."""
        super().add(delivery, known, handlers, headers)
        seq = self._insert_now(delivery)
        if not delivery.is_open:
            self.settle(seq)

    def settle(self, seq: int) -> None:
        """Count a finished delivery, and drop the oldest ones beyond the limits."""
        row = self._db.execute(schema.SELECT_SIZE, (seq,)).fetchone()
        self._forget_finished(seq)
        self._finished[seq] = size = 0 if row is None else row[0]
        self._finished_bytes += size
        while len(self._finished) > self._keep:
            self._delete(next(iter(self._finished)))
        if self._finished_bytes > self._keep_bytes:
            self._drop_bodies()

    def note_change(self) -> None:
        """Read again which deliveries are finished, in the next transaction."""
        self._is_stale = True

    def begin(self) -> None:
        """Read the counters at the beginning of a transaction."""
        super().begin()
        if self._is_stale:
            self._finished = dict(self._db.execute(schema.SELECT_FINISHED).fetchall())
            self._finished_bytes = sum(self._finished.values())
            self._is_stale = False

    def _replaced(self, seq: int) -> None:
        self._forget_finished(seq)

    def _forget_finished(self, seq: int) -> None:
        self._finished_bytes -= self._finished.pop(seq, 0)

    def _delete(self, seq: int) -> None:
        self._body_bytes -= self._finished[seq]
        self._forget_finished(seq)
        self._db.execute(schema.DELETE_BODY, (seq,))
        for statement in schema.DELETE_ALL:
            self._db.execute(statement, (seq,))

    def _drop_bodies(self) -> None:
        for seq, size in self._finished.items():
            if self._finished_bytes <= self._keep_bytes:
                break
            if size > self._small:
                self._db.execute(schema.DELETE_BODY, (seq,))
                self._finished[seq] = 0
                self._finished_bytes -= size
                self._body_bytes -= size
