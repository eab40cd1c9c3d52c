"""New deliveries of a transaction, and the room for their bodies."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from hubhooks._store import clock, schema
from hubhooks._store.base import queue_runs
from hubhooks._store.groups import read_groups, write_group
from hubhooks._store.prune import CHUNK_ROWS, drop_body
from hubhooks._store.rows import find_delivery, to_datetime, to_timestamp
from hubhooks.errors import StoreError
from hubhooks.models import Attempt, RunContext, RunGroup, State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hubhooks._store.connection import Database
    from hubhooks.models import Delivery

__all__ = ["NewDeliveries"]

# If only unfinished deliveries are left, wait so long before looking for room again.
_FULL_SECONDS = 1.0


class NewDeliveries:
    """The deliveries that are inserted at the end of the open transaction.

    Until then a claim only changes the object, which saves two updates per delivery.

    Args:
        database: the store.
        max_bytes: the limit for all bodies.
    """

    def __init__(self, database: Database, max_bytes: int) -> None:
        self.generation = 0
        """How often the leader changed, as of the open transaction."""
        self._db = database
        self._max_bytes = max_bytes
        self._new: dict[str, Delivery] = {}
        # The size of all bodies: at the begin of the transaction, and now.
        self._stored_bytes = self._body_bytes = 0
        self._full_until = 0.0
        # The size of the last body without room.
        self._rejected_size = 0

    def begin(self) -> None:
        """Read the counters at the begin of a transaction."""
        row = self._db.execute(schema.SELECT_COUNTERS).fetchone()
        self.generation, self._stored_bytes = row
        self._body_bytes = self._stored_bytes

    def insert(self) -> None:
        """Insert all at the end of the transaction."""
        for delivery in self._new.values():
            self._insert(delivery)
        if self._body_bytes != self._stored_bytes:
            self._db.execute(schema.SET_BODY_BYTES, (self._body_bytes,))

    def clear(self) -> None:
        """Forget the deliveries after the transaction."""
        self._new.clear()

    def find(self, delivery_id: str) -> Delivery | None:
        """Return a delivery, a new one or a stored one."""
        new = self._new.get(delivery_id)
        # Most ids are new. The index alone shows that.
        if new is None and self._seq(delivery_id) is not None:
            return find_delivery(self._db.execute, delivery_id)
        return new

    def is_new(self, delivery_id: str) -> bool:
        """Return whether a delivery is inserted at the end of the transaction."""
        return delivery_id in self._new

    def claim(self, delivery_id: str, handler: str, process: int | None) -> RunContext | None:
        """Start a queued run of a new delivery; None if it is not queued."""
        delivery = self._new[delivery_id]
        run = next((run for run in delivery.runs if run.handler == handler), None)
        if run is None or run.state != State.QUEUED:
            return None
        run.state, run.started_at = State.RUNNING, to_datetime(clock.now())
        run.attempts += 1
        run.history.append(Attempt(run.attempts, run.started_at, process))
        return RunContext(
            delivery_id, run.attempts, delivery.is_replay, delivery.received_at, handler
        )

    def add(self, delivery: Delivery, known: Delivery | None, handlers: Sequence[str]) -> None:
        """Add a delivery as the newest one, in place of an earlier delivery with the same id."""
        if known is not None:
            delivery.duplicates = known.duplicates
            delivery.runs = known.runs
            if self._new.pop(known.id, None):
                self._body_bytes -= known.size
            elif (seq := self._seq(known.id)) is not None:
                self._body_bytes -= drop_body(self._db.execute, seq, known.size)
                for statement in (
                    schema.DELETE_RUNS,
                    schema.DELETE_ATTEMPTS,
                    schema.DELETE_GROUPS,
                    schema.DELETE_DELIVERY,
                ):
                    self._db.execute(statement, (seq,))
        queue_runs(delivery, handlers)
        self._body_bytes += delivery.size
        self._new[delivery.id] = delivery

    def add_groups(self, delivery: Delivery, groups: Mapping[str, RunGroup]) -> None:
        """Store the groups of a new delivery. It is inserted now: groups need its number."""
        del self._new[delivery.id]
        seq = self._insert(delivery)
        for handler, group in groups.items():
            write_group(self._db.execute, seq, delivery.id, handler, group, clock.now())

    def groups_of(self, delivery_id: str) -> dict[str, RunGroup]:
        """Return the groups of a delivery before a replay. A replay waits for no newer delivery."""
        seq = self._seq(delivery_id)
        stored = () if seq is None else read_groups(self._db.execute, seq)
        return {group.handler: RunGroup(group.serial, group.subject, 0.0) for group in stored}

    def _seq(self, delivery_id: str) -> int | None:
        row = self._db.execute(schema.SELECT_SEQ, (delivery_id,)).fetchone()
        return None if row is None else int(row[0])

    def _insert(self, delivery: Delivery) -> int:
        execute = self._db.execute
        row = (
            delivery.id, to_timestamp(delivery.received_at), delivery.scope, delivery.action,
            delivery.repo, delivery.state, delivery.skipped, delivery.reason, delivery.is_replay,
            delivery.is_acknowledged, delivery.duplicates, json.dumps(delivery.headers),
            delivery.size,
        )  # fmt: skip
        seq = execute(schema.INSERT_DELIVERY, row).lastrowid
        assert seq is not None  # noqa: S101 - for type checkers
        execute(schema.INSERT_BODY, (seq, delivery.body))
        for position, run in enumerate(delivery.runs):
            # A replayed run waits since now, not since the delivery was received.
            is_queued_again = delivery.is_replay and run.state == State.QUEUED
            due_at = clock.now() if is_queued_again else to_timestamp(run.due_at)
            values = (
                seq, run.handler, position, run.state, run.attempts, run.failures, run.crashes,
                due_at, to_timestamp(run.started_at), to_timestamp(run.finished_at), run.error,
                run.traceback,
            )  # fmt: skip
            execute(schema.INSERT_RUN, values)
            for attempt in run.history:
                started = (seq, run.handler, attempt.number, to_timestamp(attempt.started_at))
                execute(schema.INSERT_ATTEMPT, (*started, attempt.process))
        return seq

    # ---- room for bodies -----------------------------------------------------------------------

    def make_room(self, size: int) -> None:
        """Drop old bodies for a new one. `prune` mostly did so before.

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
        """Check that there is room for the last body without room.

        Raises:
            StoreError: there is none.
        """
        self.make_room(self._rejected_size)

    def forget_rejected(self) -> None:
        """Forget the last body without room."""
        self._rejected_size = 0
