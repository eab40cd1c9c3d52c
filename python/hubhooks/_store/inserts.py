"""New deliveries of a transaction, and the room for their bodies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from hubhooks._store import clock, schema
from hubhooks._store.base import queue_runs
from hubhooks._store.groups import read_groups, write_group
from hubhooks._store.prune import CHUNK_ROWS, drop_body
from hubhooks._store.rows import find_delivery, to_datetime, to_timestamp
from hubhooks.errors import StoreError
from hubhooks.models import Attempt, RunContext, RunGroup, State

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from hubhooks._store.connection import Database
    from hubhooks.models import Delivery

__all__ = ["ClaimedRun", "NewDeliveries"]

# If only unfinished deliveries are left, wait these seconds before the next search for room.
_FULL_SECONDS = 1.0


class ClaimedRun(NamedTuple):
    """Where a claimed run is stored."""

    seq: int
    is_single: bool
    """Whether its delivery has no other run."""


class NewDeliveries:
    """The deliveries that are inserted at the end of the open transaction.

    Until then a claim only changes the object, which saves two updates per delivery.

    Args:
        database: the store.
        max_bytes: the limit for all bodies.
        timer: the clock for waits.
    """

    def __init__(self, database: Database, max_bytes: int, timer: Callable[[], float]) -> None:
        self._timer = timer
        self.generation = 0
        """How often the leader changed, as of the open transaction."""
        self._db = database
        self._max_bytes = max_bytes
        self._new: dict[str, Delivery] = {}
        # Their numbers. The insert of a batch returns none, so they are chosen here.
        self._seqs: dict[str, int] = {}
        # Their headers as JSON.
        self._headers: dict[str, str] = {}
        self._last_seq = 0
        # Ids that the store did not have at the beginning of the transaction.
        self._absent: set[str | None] = set()
        # The number of the delivery that a new one replaces. Its ended runs and attempts stay.
        self._moved: dict[int, int] = {}
        # The size of all bodies: at the beginning of the transaction, and now.
        self._stored_bytes: int = 0
        self._body_bytes: int = 0
        self._full_until = 0.0
        # The size of the last body that was rejected because the store was full.
        self._rejected_size = 0

    def begin(self) -> None:
        """Read the counters at the beginning of a transaction."""
        row = self._db.execute(schema.SELECT_COUNTERS).fetchone()
        self.generation, self._stored_bytes, self._last_seq = row
        self._body_bytes = self._stored_bytes

    def expect(self, delivery_ids: Collection[str | None]) -> None:
        """Look up the ids of a batch with one query. Most are new."""
        marks = ", ".join("?" * len(delivery_ids))
        found = self._db.execute(schema.SELECT_KNOWN.format(marks), tuple(delivery_ids)).fetchall()
        self._absent = set(delivery_ids)
        self._absent.difference_update(row[0] for row in found)

    def insert(self) -> None:
        """Insert all at the end of the transaction."""
        self._insert([*self._new.values()])
        if self._body_bytes != self._stored_bytes:
            self._db.execute(schema.SET_BODY_BYTES, (self._body_bytes,))

    def clear(self) -> None:
        """Forget the deliveries after the transaction."""
        self._new.clear()
        self._seqs.clear()
        self._headers.clear()
        self._absent.clear()
        self._moved.clear()

    def find(self, delivery_id: str) -> Delivery | None:
        """Return a delivery, a new one or a stored one."""
        new = self._new.get(delivery_id)
        # Most ids are new. The index alone shows that.
        if new is None and self.seq(delivery_id) is not None:
            return find_delivery(self._db.execute, delivery_id)
        return new

    def is_new(self, delivery_id: str) -> bool:
        """Return whether a delivery is inserted at the end of the transaction."""
        return delivery_id in self._new

    def seq(self, delivery_id: str) -> int | None:
        """Return the number of a delivery; None if it is unknown."""
        if (new := self._seqs.get(delivery_id)) is not None:
            return new
        if delivery_id in self._absent:
            return None
        row = self._db.execute(schema.SELECT_SEQ, (delivery_id,)).fetchone()
        return None if row is None else int(row[0])

    def claim(
        self, delivery_id: str, handler: str, process: int | None
    ) -> tuple[RunContext, ClaimedRun] | None:
        """Start a queued run of a new delivery; None if it is not queued."""
        delivery = self._new[delivery_id]
        run = next((run for run in delivery.runs if run.handler == handler), None)
        if run is None or run.state != State.QUEUED:
            return None
        run.state, run.started_at = State.RUNNING, to_datetime(clock.now())
        run.attempts += 1
        # Only the last attempt is in progress, so the list has no other entry without an end.
        run.history.append(Attempt(run.attempts, run.started_at, process=process))
        context = RunContext(
            delivery_id, run.attempts, delivery.is_replay, delivery.received_at, handler
        )
        return context, ClaimedRun(self._seqs[delivery_id], len(delivery.runs) == 1)

    def add(
        self, delivery: Delivery, known: Delivery | None, handlers: Sequence[str], headers: str
    ) -> None:
        """Add a delivery as the newest one, in place of an earlier delivery with the same id."""
        if known is not None:
            delivery.duplicates = known.duplicates
            delivery.runs = known.runs
            if self._new.pop(known.id, None):
                self._body_bytes -= known.size
                if (moved := self._moved.pop(self._seqs[known.id], None)) is not None:
                    self._moved[self._last_seq + 1] = moved
            elif (seq := self.seq(known.id)) is not None:
                self._body_bytes -= drop_body(self._db.execute, seq, known.size)
                for statement in schema.DELETE_ALL_BUT_ATTEMPTS:
                    self._db.execute(statement, (seq,))
                self._moved[self._last_seq + 1] = seq
                self._replaced(seq)
        queue_runs(delivery, handlers)
        self._body_bytes += delivery.size
        self._new[delivery.id] = delivery
        self._headers[delivery.id] = headers
        self._last_seq += 1
        self._seqs[delivery.id] = self._last_seq

    def add_groups(self, delivery: Delivery, groups: Mapping[str, RunGroup]) -> None:
        """Store the groups of a new delivery. It is inserted now: groups need its number."""
        seq = self._insert_now(delivery)
        for handler, group in groups.items():
            write_group(self._db.execute, seq, delivery.id, handler, group, self._timer())
        # Replaced runs have ended.
        self.note_change()

    def groups_of(self, delivery_id: str) -> dict[str, RunGroup]:
        """Return the groups of a delivery before a replay. A replay waits for no newer delivery."""
        seq = self.seq(delivery_id)
        stored = () if seq is None else read_groups(self._db.execute, seq)
        return {group.handler: RunGroup(group.serial, group.subject, 0.0) for group in stored}

    def _insert_now(self, delivery: Delivery) -> int:
        """Insert a delivery before the end of the transaction, or return its number."""
        seq = self._seqs[delivery.id]
        if self._new.pop(delivery.id, None) is not None:
            self._insert([delivery])
        return seq

    def _insert(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        rows: list[tuple[object, ...]] = []
        bodies: list[tuple[object, ...]] = []
        runs: list[tuple[object, ...]] = []
        for delivery in deliveries:
            seq = self._seqs[delivery.id]
            rows.append((
                seq, delivery.id, to_timestamp(delivery.received_at), delivery.scope,
                delivery.action, delivery.repo, delivery.state, delivery.skipped, delivery.reason,
                delivery.is_replay, delivery.is_acknowledged, delivery.duplicates,
                self._headers[delivery.id], delivery.size,
            ))  # fmt: skip
            bodies.append((seq, delivery.body))
            if delivery.runs:
                self._add_runs(seq, delivery, runs)
        self._db.executemany(schema.INSERT_DELIVERY, rows)
        self._db.executemany(schema.INSERT_BODY, bodies)
        if runs:
            self._db.executemany(schema.INSERT_OPEN_RUN, runs)

    def _add_runs(self, seq: int, delivery: Delivery, rows: list[tuple[object, ...]]) -> None:
        """Add the rows of the unfinished runs. Ended runs have their last attempt."""
        if (moved := self._moved.get(seq)) is not None:
            self._db.execute(schema.MOVE_ATTEMPTS, (seq, moved))
        for position, run in enumerate(delivery.runs):
            if not run.is_open:
                if moved is not None:
                    values = (position, seq, run.handler)
                    self._db.execute(schema.SET_POSITION, values)
                continue
            if moved is not None:
                self._db.execute(schema.CLEAR_LAST_ATTEMPT, (seq, run.handler))
            # A replayed run waits since now, not since the delivery was received.
            is_queued_again = delivery.is_replay and run.state == State.QUEUED
            due_at = clock.now() if is_queued_again else to_timestamp(run.due_at)
            process = run.history[-1].process if run.state == State.RUNNING else None
            rows.append((
                seq, run.handler, position, run.state, run.attempts, run.failures, run.crashes,
                due_at, to_timestamp(run.started_at), process, run.error, run.traceback,
            ))  # fmt: skip

    # ---- room for bodies -----------------------------------------------------------------------

    def make_room(self, size: int, *, is_open: bool = True) -> None:  # noqa: ARG002 - for memory
        """Drop old bodies if a new body does not fit. Usually `prune` has made enough room.

        Raises:
            StoreError: the bodies of unfinished deliveries take all the room.
        """
        if self._body_bytes + size <= self._max_bytes:
            return
        if size <= self._max_bytes and time.monotonic() >= self._full_until:
            if self._drop_oldest_bodies(size):
                return
            self._full_until = time.monotonic() + _FULL_SECONDS
        if size <= self._max_bytes:
            self._rejected_size = size
        msg = (
            f"the delivery store `{self._db.path}` is full of unfinished deliveries: it accepts "
            "new ones when handlers finish"
        )
        raise StoreError(msg)

    def _drop_oldest_bodies(self, size: int) -> bool:
        """Drop bodies until there is room; return False if there are none left to drop."""
        execute = self._db.execute
        while bodies := execute(schema.SELECT_OLDEST_BODIES, (CHUNK_ROWS,)).fetchall():
            for seq, body_size in bodies:
                self._body_bytes -= drop_body(execute, seq, body_size)
                if self._body_bytes + size <= self._max_bytes:
                    return True
        return False

    def check_room(self) -> None:
        """Check that there is room for the last rejected body.

        Raises:
            StoreError: there is still no room.
        """
        self.make_room(self._rejected_size)

    def forget_rejected(self) -> None:
        """Forget the last rejected body: there is room for it now."""
        self._rejected_size = 0

    # ---- only in memory ------------------------------------------------------------------------

    def make_room_for_replay(self, size: int) -> None:
        """Do nothing: the body of a replayed delivery is stored already."""

    def settle(self, seq: int) -> None:
        """Do nothing: `prune` drops finished deliveries."""

    def note_change(self) -> None:
        """Do nothing: finished deliveries are not counted."""

    def _replaced(self, seq: int) -> None:
        """Do nothing: finished deliveries are not counted."""
