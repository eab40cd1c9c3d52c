"""The processes that use a store, and the one that is its leader."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hubhooks._process import Process, current_process, is_alive
from hubhooks._store import clock, schema
from hubhooks._store.base import Leader
from hubhooks._store.rows import to_datetime
from hubhooks.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hubhooks._store.connection import Database
    from hubhooks._store.leader import LeaderLock

__all__ = ["CrashedRun", "ProcessTable", "read_leader"]

# The handlers of a process that did not record them.
_UNKNOWN_HANDLERS = "null"


class CrashedRun(NamedTuple):
    """A run whose process died."""

    seq: int
    delivery_id: str
    handler: str
    attempt: int
    crashes: int
    """How often the process died during this run, this time included."""


class ProcessTable:
    """Records this process and the leader in the store, and finds the other processes.

    Its methods need an open store. A method that writes needs a transaction, or defers the write.

    Args:
        database: the store.
        lock: the leader lock of the store.
    """

    def __init__(self, database: Database, lock: LeaderLock | None) -> None:
        self.key: int | None = None
        """The row of this process; None if it has none yet."""
        self._db = database
        self._lock = lock
        # The version of the code, when it was executed, and the handlers as JSON.
        self._registration: tuple[str, float, str] | None = None

    # ---- this process --------------------------------------------------------------------------

    def register(self, code: str, loaded_at: float, handlers: Iterable[str]) -> None:
        """Record the code of this process; deferred, and only if it changed."""
        registration = (code, loaded_at, json.dumps(sorted(handlers)))
        if registration != self._registration:
            self._registration = registration
            self._db.defer(self._write)

    def register_in_new_file(self) -> None:
        """Record this process in the new file at the path; deferred."""
        if self._registration is not None:
            self.key = None
            self._db.defer(self._write)

    def forget(self) -> None:
        """Forget the row of this process: the store is closed."""
        self.key = self._registration = None

    def _write(self) -> None:
        if self._registration is None:
            self._registration = ("", 0.0, _UNKNOWN_HANDLERS)
        code, loaded_at, handlers = self._registration
        if self.key is None:
            values = (*current_process(), code, loaded_at, handlers)
            self.key = self._db.execute(schema.INSERT_PROCESS, values).lastrowid
        else:
            self._db.execute(schema.UPDATE_PROCESS, (code, loaded_at, handlers, self.key))

    # ---- leadership ----------------------------------------------------------------------------

    def become_leader(self) -> None:
        """Record this process as the leader, and the end of killed processes, in a transaction.

        Raises:
            BusyError: another process is the leader, and only lost its lock file.
        """
        now = clock.now()
        self._check_no_other_leader()
        if self.key is None:
            self._write()
        lock = "" if self._lock is None else self._lock.file
        self._db.execute(schema.SET_LEADER, (self.key, lock))
        self._db.execute(schema.SET_LED_AT, (now, self.key))
        for key, *process in self._db.execute(schema.SELECT_UNENDED_PROCESSES).fetchall():
            if key != self.key and is_alive(Process(*process)) is False:
                self._db.execute(schema.END_PROCESS, (now, key))

    def _check_no_other_leader(self) -> None:
        row = self._db.execute(schema.SELECT_LEADER).fetchone()
        if row is None or self._lock is None:
            return
        other = read_leader(row)
        # The lock is free: the other process released it, or it locked a file that was removed.
        if (
            row[-1] not in ("", self._lock.file)
            and other.process != current_process()
            and is_alive(other.process)
        ):
            path = self._db.path
            msg = f"process {other.process.pid} is the leader of the delivery store `{path}`"
            raise BusyError(msg)

    def resign(self, *, is_end: bool) -> None:
        """Record, deferred, that this process is no longer the leader.

        Args:
            is_end: whether it no longer uses the store either.
        """
        if self.key is not None:
            self._db.defer(partial(self._db.execute, schema.CLEAR_LEADER, (self.key,)))
            if is_end:
                values = (clock.now(), self.key)
                self._db.defer(partial(self._db.execute, schema.END_PROCESS, values))
        self._db.note_end()

    def note_lock(self) -> None:
        """Record, deferred, that the leader lock of this process is on a new file."""
        if self._lock is not None:
            values = (self._lock.file, self.key)
            self._db.defer(partial(self._db.execute, schema.SET_LEADER_LOCK, values))

    def is_leader_alive(self, leader: Leader) -> bool:
        """Return whether the leader is alive, in any thread."""
        lock = self._lock
        is_locked = lock is None or lock.is_held or lock.is_taken()
        # Only the lock shows a process on another machine.
        return is_locked and is_alive(leader.process) is not False

    def successor(self) -> Leader | None:
        """Return the process with newer code that should become the leader; None if none should."""
        if self._registration is None:
            return None
        code, loaded_at, _ = self._registration
        for row in self._db.execute(schema.SELECT_NEWER_PROCESSES, (code, loaded_at)).fetchall():
            other = read_leader(row)
            # It is unknown whether a process on another machine is alive.
            if is_alive(other.process) is not False:
                return other
        return None

    def crashed_runs(self) -> list[CrashedRun]:
        """List the started runs whose process is dead."""
        found: list[CrashedRun] = []
        for *run, key, pid, host, start_time in self._db.execute(
            schema.SELECT_STARTED_RUNS
        ).fetchall():
            # After a stop and a new start of this process, its old runs have the key of an old row.
            is_own = key is not None and key == self.key
            is_running_elsewhere = False
            if pid is not None:
                process = Process(pid, host, start_time)
                is_running_elsewhere = process != current_process() and bool(is_alive(process))
            if not is_own and not is_running_elsewhere:
                found.append(CrashedRun(*run))
        return found


def read_leader(row: Sequence[Any]) -> Leader:
    """Convert a row of a process."""
    key, pid, host, start_time, code, led_at, handlers = row[:7]
    since = None if led_at is None else to_datetime(led_at)
    names = json.loads(handlers)
    known = None if names is None else frozenset(names)
    return Leader(Process(pid, host, start_time), code, since, known, key)
