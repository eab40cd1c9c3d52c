"""The leader of a store: the process that runs its handlers."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from hubhooks._store import clock, schema
from hubhooks._store.groups import is_blocked
from hubhooks._store.inserts import ClaimedRun
from hubhooks._store.rows import to_datetime
from hubhooks._store.runs import EndedAttempt, RunTable
from hubhooks.models import RunContext, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from hubhooks._store.base import Leader, RecoveredRun
    from hubhooks._store.connection import Database
    from hubhooks._store.inserts import NewDeliveries
    from hubhooks._store.processes import ProcessTable

__all__ = ["LeaderTable"]

# The backoff of a crashed run. It doubles with each crash.
_CRASH_BACKOFF_SECONDS = 10.0
_CRASH_MESSAGE = "the process died during this handler"


class LeaderTable(RunTable):
    """Makes this process the leader, starts its runs, and recovers the runs of dead processes.

    Args:
        database: the store.
        new: the new deliveries of a transaction.
        timer: the clock for retries and waits.
        processes: the processes that use the store.
        is_shared: whether other processes can use it. If not, this process is always the leader.
        max_crashes: how often a run is tried again after the process died during it.
    """

    def __init__(  # noqa: PLR0913 - parts of the store, and options
        self,
        database: Database,
        new: NewDeliveries,
        timer: Callable[[], float],
        processes: ProcessTable,
        *,
        is_shared: bool,
        max_crashes: int,
    ) -> None:
        super().__init__(database, new, timer, is_shared=is_shared)
        self._processes = processes
        self._max_crashes = max_crashes
        # The file that this process leads, and its generation then; None if it is not the leader.
        self._leadership: tuple[object, int] | None = None

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """Write everything inside in one transaction. A nested one is part of the outer one."""

    @property
    def is_leader(self) -> bool:
        """Whether this process is still the leader since `recover`; always so in memory."""
        if not self._is_shared:
            return True
        (generation,) = self._db.execute(schema.SELECT_GENERATION).fetchone()
        return self._leadership == (self._db.file, generation)

    def recover(self) -> list[RecoveredRun]:
        """Become the leader. The caller must not be in a transaction.

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

    def recover_crashed(self) -> list[RecoveredRun]:
        """Retry or fail the runs whose process died. This process must be the leader.

        Returns:
            these runs.
        """
        found: list[RecoveredRun] = []
        ends: list[EndedAttempt] = []
        with self.transaction():
            now = clock.now()
            for run in self._processes.crashed_runs():
                is_failed = run.crashes > self._max_crashes
                state = State.FAILED if is_failed else State.RETRYING
                backoff = _CRASH_BACKOFF_SECONDS * 2 ** (run.crashes - 1)
                due_at = None if is_failed else now + backoff
                ends.append(
                    EndedAttempt(
                        run.seq, run.handler, run.attempt, state, State.FAILED, due_at,
                        _CRASH_MESSAGE, crashes=1,
                    )
                )  # fmt: skip
                found.append((run.delivery_id, run.handler, is_failed))
            if ends:
                self._write_ends(ends)
        return found

    def claim(
        self, delivery_id: str, handler: str, *, is_grouped: bool = False
    ) -> RunContext | None:
        """Record the start of a run, and return its context.

        Returns:
            None if it must not start: it does not wait, or another process is the leader.
        """
        with self.transaction():
            leadership = (self._db.file, self._new.generation)
            if self._leadership != leadership and self._is_shared:
                return None
            process = self._processes.key
            if self._new.is_new(delivery_id):
                found = self._new.claim(delivery_id, handler, process)
                if found is None:
                    return None
                self._claimed[delivery_id, handler, found[0].attempt] = found[1]
                return found[0]
            now = clock.now()
            execute = self._db.execute
            if is_grouped and is_blocked(execute, delivery_id, handler, self._timer()):
                return None
            row = execute(schema.SELECT_STARTABLE, (handler, delivery_id)).fetchone()
            if row is None:
                return None
            seq, attempt, is_replay, received_at, failures = row
            execute(schema.START_RUN, (attempt, now, process, seq, handler))
            execute(schema.SET_STATE, (State.RUNNING, False, seq))
            self._claimed[delivery_id, handler, attempt] = ClaimedRun(seq, is_single=False)
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
        """Return the process with newer code that should become the leader; None if none should."""
        return self._processes.successor()

    def is_leader_alive(self, leader: Leader) -> bool:
        """Return whether the leader is alive, in any thread."""
        return self._processes.is_leader_alive(leader)

    def note_lock(self) -> None:
        """Record, deferred, that the leader lock of this process is on a new file."""
        self._processes.note_lock()

    def keep_noted(self) -> None:
        """Write the leader's file again if somebody removed it."""
        self._db.keep_noted()
