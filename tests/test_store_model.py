"""Both stores agree with a short model after any sequence of operations."""

from __future__ import annotations

import copy
import functools
import shutil
import sqlite3
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hubhooks._store import clock as clock_module
from hubhooks._store import connection, inserts
from hubhooks._store.base import AcceptResult
from hubhooks._store.memory import MemoryLimits
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import StoreError

if TYPE_CHECKING:
    from hubhooks.models import RunContext

DAY = 24 * 60 * 60
UNFINISHED = {"queued", "running", "retrying", "stuck"}
URGENCY = ["running", "stuck", "queued", "retrying", "failed", "succeeded"]
URGENCY += ["malformed", "ignored", "unhandled"]
CRASH_ERROR = "the process died during this handler"
# Limits of finished and unfinished deliveries: the bodies below often reach both.
MAX_FINISHED = 3
MAX_BYTES = 60

IDS = st.sampled_from(["d1", "d2", "d3", None])
BODIES = st.sampled_from([b"{}", b"x" * 7, b"y" * 20, b"z" * 25])
MATCHING = st.sampled_from([("a",), ("a", "b"), ("c", "a"), "unhandled", "ignored", "malformed"])
GROUPS = st.lists(st.tuples(IDS, BODIES, MATCHING), min_size=1, max_size=3)
RUN_ENDS = st.sampled_from(["succeeded", "failed", "ignored", "stuck", 0, 5, 3600])
ANY = st.integers(0, 99)


# ---- the model ----------------------------------------------------------------------------------


@dataclass
class RunModel:
    handler: str
    state: str = "queued"
    attempts: int = 0
    failures: int = 0
    crashes: int = 0
    error: str = ""
    started_at: float | None = None
    due_at: float | None = None


@dataclass
class DeliveryModel:
    id: str
    body: bytes | None
    size: int
    skipped: str | None
    reason: str
    received_at: float
    is_replay: bool
    is_acknowledged: bool
    duplicates: int
    runs: list[RunModel]

    @property
    def is_open(self) -> bool:
        return any(run.state in UNFINISHED for run in self.runs)

    @property
    def state(self) -> str:
        states = [*(run.state for run in self.runs), self.skipped]
        return next(state for state in URGENCY if state in states)


class StoreFullError(Exception):
    pass


@dataclass
class Model:
    """The expected content of a store: plain lists, and the documented rules."""

    on_replay: str
    now: float = 1_800_000_000.0
    # The oldest first; a repeated delivery is new.
    known: dict[str, DeliveryModel] = field(default_factory=dict)
    rejections: dict[tuple[int, str], int] = field(default_factory=dict)

    def accept(
        self, delivery_id: str, body: bytes, handlers: tuple[str, ...], skipped: str | None
    ) -> AcceptResult:
        reason = "why" if skipped else ""
        known = self.known.get(delivery_id)
        if known is not None:
            failed = tuple(run.handler for run in known.runs if run.state == "failed")
            is_done = any(run.state == "succeeded" for run in known.runs)
            if known.is_open:
                known.duplicates += 1
                return AcceptResult("in_progress", delivery_id)
            if failed:
                if skipped != "malformed":
                    handlers, skipped, reason = failed, None, ""
            elif is_done and not (known.is_acknowledged and self.on_replay == "run"):
                known.duplicates += 1
                return AcceptResult("duplicate", delivery_id)
        self.free_space(len(body), is_open=bool(handlers))
        is_replay = known is not None and known.is_acknowledged
        made = DeliveryModel(
            delivery_id, body, len(body), skipped, reason, self.now, is_replay, False, 0, []
        )
        self._store(made, known, handlers)
        return AcceptResult(skipped or "accepted", delivery_id, handlers)  # type: ignore[arg-type]

    def replay(self, delivery_id: str, handlers: tuple[str, ...]) -> tuple[str, ...]:
        known = self.known.get(delivery_id)
        if known is None or known.body is None or known.is_open:
            return ()
        handlers = handlers or tuple(run.handler for run in known.runs)
        if handlers:
            self.free_space_for_replay(known.size)
            made = copy.copy(known)
            made.skipped, made.reason, made.is_replay = None, "", True
            self._store(made, known, handlers)
        return handlers

    def _store(
        self, made: DeliveryModel, known: DeliveryModel | None, handlers: tuple[str, ...]
    ) -> None:
        attempts = {}
        if known is not None:
            self.forget(known)
            made.duplicates = known.duplicates
            attempts = {run.handler: run.attempts for run in known.runs}
            made.runs = [run for run in known.runs if run.handler not in handlers]
        made.runs = made.runs + [RunModel(n, attempts=attempts.get(n, 0)) for n in handlers]
        self.known[made.id] = made
        if not handlers:
            self.settle(made)

    def startable(self, delivery_id: str, handler: str) -> RunModel | None:
        known = self.known.get(delivery_id)
        for run in [] if known is None else known.runs:
            if run.handler == handler and run.state in {"queued", "retrying"}:
                return run
        return None

    def start(self, delivery_id: str, handler: str) -> RunModel | None:
        run = self.startable(delivery_id, handler)
        if run is not None:
            run.state, run.started_at, run.due_at = "running", self.now, None
            run.attempts += 1
        return run

    def end(self, delivery: RunContext, state: str, error: str, due_at: float | None) -> None:
        known = self.known.get(delivery.id)
        for run in [] if known is None else known.runs:
            is_started = run.state in {"running", "stuck"}
            if run.handler == delivery.handler and is_started and run.attempts == delivery.attempt:
                run.state, run.due_at = state, due_at
                if state != "stuck":
                    run.error = error
                run.failures += state == "retrying"
                if known is not None and not known.is_open:
                    self.settle(known)

    def mark_acknowledged(self, delivery_id: str) -> None:
        if delivery_id in self.known:
            self.known[delivery_id].is_acknowledged = True

    def recover(self) -> set[tuple[str, str, bool]]:
        found = set()
        for known in self.known.values():
            for run in known.runs:
                if run.state in {"running", "stuck"}:
                    run.crashes += 1
                    run.error = CRASH_ERROR
                    is_failed = run.crashes > 3
                    run.state = "failed" if is_failed else "retrying"
                    wait = 10 * 2 ** (run.crashes - 1)
                    run.due_at = None if is_failed else self.now + wait
                    found.add((known.id, run.handler, is_failed))
        return found

    def list_ready(self, *, crashed: bool = False) -> set[tuple[str, str]]:
        return {
            (known.id, run.handler)
            for known in self.known.values()
            for run in known.runs
            if run.state == "queued" or self.has_waited(run)
            if (run.crashes > 0) == crashed
        }

    def has_waited(self, run: RunModel) -> bool:
        return run.state == "retrying" and (
            (run.due_at or 0) <= self.now or (run.started_at or 0) > self.now + 60
        )

    def seconds_to_next(self) -> float | None:
        waits = [
            run.due_at - self.now
            for known in self.known.values()
            for run in known.runs
            if run.due_at is not None and run.due_at > self.now
        ]
        return min(waits, default=None)

    def bytes_of(self, known: list[DeliveryModel]) -> int:
        return sum(one.size for one in known if one.body is not None)

    @property
    def open(self) -> list[DeliveryModel]:
        return [known for known in self.known.values() if known.is_open]

    # The stores differ here: freeing space for a body, and dropping finished deliveries.

    def free_space(self, size: int, *, is_open: bool) -> None:
        raise NotImplementedError

    def free_space_for_replay(self, size: int) -> None: ...

    def settle(self, known: DeliveryModel) -> None: ...

    def prune(self) -> int:
        return 0

    def forget(self, known: DeliveryModel) -> None:
        del self.known[known.id]


@dataclass
class MemoryModel(Model):
    # In the order in which they were finished.
    settled: list[str] = field(default_factory=list)

    def free_space(self, size: int, *, is_open: bool) -> None:
        if is_open and self.bytes_of(self.open) + size > MAX_BYTES:
            raise StoreFullError

    def free_space_for_replay(self, size: int) -> None:
        self.free_space(size, is_open=True)

    def settle(self, known: DeliveryModel) -> None:
        self.settled.append(known.id)
        if len(self.settled) > MAX_FINISHED:
            del self.known[self.settled.pop(0)]
        for one in [self.known[name] for name in self.settled]:
            if self.bytes_of([self.known[name] for name in self.settled]) <= MAX_BYTES // 2:
                break
            if one.size > MAX_BYTES // 2 // MAX_FINISHED:
                one.body = None

    def forget(self, known: DeliveryModel) -> None:
        super().forget(known)
        self.settled.remove(known.id)


@dataclass
class DiskModel(Model):
    # New ones of the open batch, which are not in the file yet.
    new: set[str] = field(default_factory=set)

    def free_space(self, size: int, *, is_open: bool) -> None:
        for known in self.known.values():
            if size > MAX_BYTES or self.bytes_of([*self.known.values()]) + size <= MAX_BYTES:
                break
            if not known.is_open and known.id not in self.new:
                known.body = None
        if self.bytes_of([*self.known.values()]) + size > MAX_BYTES:
            raise StoreFullError

    def _store(self, made: DeliveryModel, *more: Any) -> None:
        super()._store(made, *more)
        self.new.add(made.id)

    def prune(self) -> int:
        old = self.now - 30 * DAY
        finished = [known for known in self.known.values() if not known.is_open]
        excess = self.bytes_of([*self.known.values()]) - MAX_BYTES * 0.9
        dropped = 0
        for known in finished:
            if known.body is not None and (excess > 0 or known.received_at < old):
                known.body = None
                excess -= known.size
                dropped += 1
        for known in finished:
            if known.received_at < old - 7 * DAY:
                self.forget(known)
                dropped += 1
        self.rejections = {key: n for key, n in self.rejections.items() if key[0] * 60 >= old}
        return dropped


# ---- the machine --------------------------------------------------------------------------------


@dataclass
class Process:
    """A process with an open store, and its deferred writes."""

    store: Any
    deferred: list[tuple[Any, ...]] = field(default_factory=list)
    running: list[RunContext] = field(default_factory=list)
    abandoned: list[RunContext] = field(default_factory=list)


class StoreMachine(RuleBasedStateMachine):
    """Apply the operations of app, worker and command to a store and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.model: Any = None
        self.leader: Any = None
        self.looks = 0
        # Checked in addition to the model, which may be wrong: runs that were acknowledged, and
        # runs that were seen as finished.
        self.promised: set[tuple[str, str]] = set()
        self.seen_done: set[tuple[str, str]] = set()

    @initialize(on_replay=st.sampled_from(["run", "run", "skip"]))
    def begin(self, on_replay: str) -> None:
        self.begin_with(on_replay)

    def begin_with(self, on_replay: str) -> None:
        raise NotImplementedError

    def teardown(self) -> None:
        self.patch.undo()

    def processes(self) -> list[Process]:
        return [self.leader]

    def any_process(self, at: int) -> Process:
        processes = self.processes()
        return processes[at % len(processes)]

    def defer(self, process: Process, *what: Any) -> None:
        """Defer a write to the next batch; in memory it is written at once."""
        self.write(what)

    def write_deferred(self, process: Process) -> None: ...

    def write(self, what: tuple[Any, ...]) -> None:
        kind, *arguments = what
        getattr(self.model, kind)(*arguments)

    # ---- deliveries -----------------------------------------------------------------------------

    @rule(group=GROUPS, starts=st.booleans(), at=ANY, is_acknowledged=st.booleans())
    def deliver(self, group: list[Any], starts: bool, at: int, is_acknowledged: bool) -> None:
        process = self.any_process(at)
        self.write_deferred(process)
        ids = []
        with process.store.transaction():
            for delivery_id, body, matching in group:
                result = self.accept(process, delivery_id, body, matching)
                if result is not None:
                    ids.append(result.id)
                    for name in result.handlers if starts else ():
                        self.start(process, result.id, name)
        self.batch_is_over()
        for name in ids:
            process.store.mark_acknowledged(name, delivered=is_acknowledged)
            if is_acknowledged:
                self.defer(process, "mark_acknowledged", name)

    def accept(self, process: Process, delivery_id: Any, body: bytes, matching: Any) -> Any:
        handlers, skipped = ((), matching) if isinstance(matching, str) else (matching, None)
        before = self.model.known.get(delivery_id)
        was_delivered = before is not None and before.is_acknowledged
        reason = "why" if skipped else ""
        try:
            result = process.store.accept(delivery_id, body, handlers, skipped, reason)
        except StoreError:
            with pytest.raises(StoreFullError):
                self.model.accept(delivery_id or "new", body, handlers, skipped)
            return None
        assert delivery_id is None or result.id == delivery_id
        expected = self.model.accept(result.id, body, handlers, skipped)
        assert result == expected
        if before is None:
            self.is_dropped(result.id)
        for name in result.handlers:
            run = (result.id, name)
            if run in self.seen_done:
                assert was_delivered, "what is done ran again, and nobody replayed it"
                assert self.model.on_replay == "run"
                self.seen_done.remove(run)
            self.promised.add(run)
        return result

    @rule(at=ANY, which=ANY, handlers=st.sampled_from([(), ("a",), ("new",), ("b", "a")]))
    def replay(self, at: int, which: int, handlers: tuple[str, ...]) -> None:
        process, ids = self.any_process(at), [*self.model.known, "nobody"]
        delivery_id = ids[which % len(ids)]
        before = copy.deepcopy(self.model), copy.deepcopy(process.deferred)
        self.write_deferred(process)
        try:
            queued = process.store.replay(delivery_id, handlers)
        except StoreError:
            with pytest.raises(StoreFullError):
                self.model.replay(delivery_id, handlers)
            self.model, process.deferred = before
            return
        assert queued == self.model.replay(delivery_id, handlers)
        self.batch_is_over()
        for name in queued:
            self.seen_done.discard((delivery_id, name))
            self.promised.add((delivery_id, name))

    # ---- runs -----------------------------------------------------------------------------------

    def start(self, process: Process, delivery_id: str, handler: str) -> None:
        delivery = process.store.claim(delivery_id, handler)
        if process is not self.leader:
            assert delivery is None
            return
        run = self.model.start(delivery_id, handler)
        assert (delivery is None) == (run is None)
        if delivery is not None:
            known = self.model.known[delivery_id]
            assert (delivery.attempt, delivery.failures) == (run.attempts, run.failures)
            assert delivery.is_replay == known.is_replay
            assert (delivery_id, handler) in self.promised
            assert (delivery_id, handler) not in self.seen_done
            process.running.append(delivery)

    @rule(limit=st.integers(1, 4), crashed=st.booleans(), ending=st.one_of(st.none(), RUN_ENDS))
    def start_what_is_due(self, limit: int, crashed: bool, ending: Any) -> None:
        process = self.leader
        self.flush_all_of(process)
        found = process.store.list_ready(limit, crashed=crashed)
        assert len(found) == min(limit, len(self.model.list_ready(crashed=crashed)))
        with process.store.transaction():
            for delivery_id, handler in found:
                self.start(process, delivery_id, handler)
        for delivery_id, _ in found:
            assert process.store.body(delivery_id) == self.model.known[delivery_id].body
        for delivery in process.running[-len(found) :] if found and ending is not None else []:
            self.end_one(process, delivery, ending)

    @rule(at=ANY)
    def start_all_there_is(self, at: int) -> None:
        """Include finished and running ones, other processes than the leader, and no batch."""
        process = self.any_process(at)
        for known in [*self.model.known.values()]:
            for handler in ("a", "b", "new"):
                self.write_deferred(process)
                self.start(process, known.id, handler)

    @precondition(lambda self: any(process.running for process in self.processes()))
    @rule(which=ANY, ending=RUN_ENDS)
    def end(self, which: int, ending: Any) -> None:
        started = [(process, one) for process in self.processes() for one in process.running]
        process, delivery = started[which % len(started)]
        self.end_one(process, delivery, ending)

    def end_one(self, process: Process, delivery: RunContext, ending: Any) -> None:
        if ending == "stuck":
            process.store.mark_stuck(delivery)
            self.defer(process, "end", delivery, "stuck", "", None)
            return
        process.running.remove(delivery)
        process.abandoned.append(delivery)
        self.end_as(process, delivery, ending)

    @precondition(lambda self: any(process.abandoned for process in self.processes()))
    @rule(which=ANY, ending=RUN_ENDS.filter(lambda ending: ending != "stuck"))
    def end_once_more(self, which: int, ending: Any) -> None:
        ended = [(process, one) for process in self.processes() for one in process.abandoned]
        self.end_as(*ended[which % len(ended)], ending)

    def end_as(self, process: Process, delivery: RunContext, ending: Any) -> None:
        if isinstance(ending, str):
            process.store.finish_run(delivery, ending, "why", "where")
            self.defer(process, "end", delivery, ending, "why", None)
        else:
            process.store.finish_run(delivery, "failed", "why", "where", retry_after=ending)
            self.defer(process, "end", delivery, "retrying", "why", self.model.now + ending)

    def flush_all_of(self, process: Process) -> None:
        process.store.flush()
        self.write_deferred(process)
        assert not process.store.has_deferred

    # ---- upkeep ---------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(["flush", "answer", "reject", "prune", "checkpoint"]),
        at=ANY,
        which=ANY,
    )
    def keep_up(self, what: str, at: int, which: int) -> None:
        process = self.any_process(at)
        if what == "flush":
            self.flush_all_of(process)
        elif what == "answer":
            ids = [*self.model.known, "nobody"]
            delivery_id = ids[which % len(ids)]
            process.store.mark_acknowledged(delivery_id, delivered=True)
            self.defer(process, "mark_acknowledged", delivery_id)
        elif what == "reject":
            self.reject(process, ("secret wrong", "too large")[which % 2], 1 + which % 3)
        elif what == "prune":
            assert process.store.prune() == self.model.prune()
        else:
            process.store.checkpoint()

    def reject(self, process: Process, reason: str, count: int) -> None:
        minute = int(self.model.now) // 60
        self.write_deferred(process)
        with process.store.transaction():
            process.store.count_rejections(minute, reason, count)
        rejections = self.model.rejections
        rejections[minute, reason] = rejections.get((minute, reason), 0) + count

    def batch_is_over(self) -> None: ...

    # ---- invariants -----------------------------------------------------------------------------

    @invariant()
    def store_matches_model(self) -> None:
        if self.model is None:
            return
        store = self.leader.store
        listed = store.list(limit=1_000)
        expected = [*reversed(self.model.known.values())]
        assert [seen(delivery) for delivery in listed] == [seen(known) for known in expected]
        for known in expected:
            assert store.body(known.id) == known.body
        self.check_promises({delivery.id: delivery for delivery in listed})
        # On disk each of these opens a connection.
        self.looks += 1
        if self.looks % 3 == 0:
            self.check_figures(store.stats(), expected)
        elif expected:
            known = expected[self.looks % len(expected)]
            delivery = store.get(known.id)
            assert (seen(delivery), delivery.body) == (seen(known), known.body)
            found = [delivery.id for delivery in store.list(state=known.state, limit=1_000)]
            assert found == [one.id for one in expected if one.state == known.state]
        for crashed in (False, True):
            found = store.list_ready(1_000, crashed=crashed)
            assert set(found) == self.model.list_ready(crashed=crashed)
        waits, expected_wait = store.seconds_to_next(), self.model.seconds_to_next()
        assert (waits is None) == (expected_wait is None)
        assert waits is None or waits == pytest.approx(expected_wait)

    def check_figures(self, stats: Any, expected: list[DeliveryModel]) -> None:
        states = [known.state for known in expected]
        assert stats.states == {state: states.count(state) for state in states}
        assert stats.body_bytes == self.model.bytes_of(expected)
        since = [known.received_at for known in expected if known.is_open]
        oldest = None if stats.unfinished_since is None else stats.unfinished_since.timestamp()
        assert oldest == (since[-1] if since else None)
        rejections: dict[str, int] = {}
        for (_, reason), count in self.model.rejections.items():
            rejections[reason] = rejections.get(reason, 0) + count
        assert stats.rejections == rejections

    def check_promises(self, deliveries: dict[str, Any]) -> None:
        for delivery_id, handler in [*self.promised]:
            # Only finished deliveries are ever dropped.
            delivery = deliveries.get(delivery_id)
            state = "gone" if delivery is None else delivery.run(handler).state
            assert state != "gone" or not self.is_unfinished(delivery_id)
            if state in UNFINISHED:
                assert self.leader.store.body(delivery_id) is not None
            else:
                self.promised.remove((delivery_id, handler))
                if state == "succeeded":
                    self.seen_done.add((delivery_id, handler))
        for delivery_id, handler in [*self.seen_done]:
            if delivery_id in deliveries:
                assert deliveries[delivery_id].run(handler).state == "succeeded"
            else:
                self.seen_done.remove((delivery_id, handler))

    def is_dropped(self, delivery_id: str) -> None:
        """Take the delivery as new: an earlier one of the same group can have displaced it."""
        for runs in (self.promised, self.seen_done):
            runs -= {run for run in runs if run[0] == delivery_id}

    def is_unfinished(self, delivery_id: str) -> bool:
        return delivery_id in self.model.known and self.model.known[delivery_id].is_open


def seen(delivery: Any) -> tuple[Any, ...]:
    """Return the fields that a delivery shares with its model."""
    received_at = delivery.received_at
    runs = [
        (run.handler, run.state, run.attempts, run.failures, run.crashes, run.error)
        for run in delivery.runs
    ]
    return (
        delivery.id,
        received_at if isinstance(received_at, float) else received_at.timestamp(),
        delivery.state,
        delivery.skipped,
        delivery.reason,
        delivery.size,
        delivery.is_replay,
        delivery.is_acknowledged,
        delivery.duplicates,
        runs,
    )


class MemoryMachine(StoreMachine):
    def begin_with(self, on_replay: Any) -> None:
        self.model = MemoryModel(on_replay)
        clock = SimpleNamespace(monotonic=lambda: self.model.now, time=lambda: self.model.now)
        self.patch.setattr(clock_module, "time", clock)
        limits = MemoryLimits(MAX_FINISHED, MAX_BYTES // 2, MAX_BYTES)
        store: Any = SqliteStore(":memory:", on_replay=on_replay, limits=limits)
        self.leader = Process(store)

    @rule(seconds=st.sampled_from([1, 5, 3600]))
    def wait(self, seconds: float) -> None:
        self.model.now += seconds

    @rule()
    def look_for_others(self) -> None:
        assert (self.leader.store.recover(), self.leader.store.changed()) == ([], False)
        self.leader.store.close()
        self.leader.store.open()


class DiskMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "0.db"
        self.deaths = 0
        self.others: list[Process] = []

    def begin_with(self, on_replay: Any) -> None:
        self.model = DiskModel(on_replay)
        self.patch.setattr(clock_module, "now", lambda: self.model.now)
        # Else the check for free space would depend on the time.
        self.patch.setattr(inserts, "_FULL_SECONDS", 0.0)
        self.patch.setattr(connection, "_CHECKPOINT_BYTES", 0)
        self.patch.setattr(connection, "_TRUNCATE_BYTES", 0)
        self.leader = self.opened()
        assert self.leader.store.recover() == []

    def opened(self) -> Process:
        store = SqliteStore(self.path, on_replay=self.model.on_replay, max_bytes=MAX_BYTES)
        store.open()
        return Process(store)

    def teardown(self) -> None:
        try:
            if self.leader is not None:
                self.check_file()
                for process in self.processes():
                    process.store.close()
        finally:
            super().teardown()
            shutil.rmtree(self.folder)

    def processes(self) -> list[Process]:
        return [self.leader, *self.others]

    def defer(self, process: Process, *what: Any) -> None:
        process.deferred.append(what)

    def write_deferred(self, process: Process) -> None:
        for what in process.deferred:
            self.write(what)
        process.deferred.clear()

    def batch_is_over(self) -> None:
        self.model.new.clear()

    @rule(seconds=st.sampled_from([1, 5, 10, 3600, 31 * DAY, 38 * DAY, -90, -3600, -2 * DAY]))
    def wait(self, seconds: float) -> None:
        """Let time pass, or the clock be set back."""
        self.model.now += seconds

    @rule(
        what=st.sampled_from(["take over", "take back", "stop", "drain", "fail", "kill", "crash"]),
        group=GROUPS,
    )
    def break_off(self, what: str, group: list[Any]) -> None:
        if what in {"take over", "take back"}:
            self.take_over(is_other_new=what == "take over" or not self.others)
        elif what in {"stop", "drain"}:
            self.stop_and_start(is_drained=what == "drain")
        elif what == "fail":
            self.fail_to_deliver(self.leader, group)
        else:
            self.kill(group if what == "crash" else [])

    def take_over(self, *, is_other_new: bool) -> None:
        """Let another process take over without the knowledge of the leader."""
        self.others.append(self.leader)
        self.leader = self.opened() if is_other_new else self.others.pop(0)
        self.become_leader()
        while len(self.others) > 2:
            process = self.others.pop(0)
            process.store.close()
            self.write_deferred(process)

    def stop_and_start(self, *, is_drained: bool) -> None:
        if is_drained:
            for delivery in self.leader.running:
                self.end_as(self.leader, delivery, 0)
        self.leader.store.close()
        self.write_deferred(self.leader)
        self.leader = self.opened()
        # Opening does not change the store.
        self.store_matches_model()
        self.become_leader()

    def fail_to_deliver(
        self, process: Process, group: list[Any], image: Path | None = None
    ) -> None:
        """Deliver in a batch that is rolled back; copy the files just before the rollback."""
        before = copy.deepcopy(self.model), {*self.promised}, {*self.seen_done}
        deferred, running = [*process.deferred], [*process.running]
        self.write_deferred(process)
        with suppress(ZeroDivisionError), process.store.transaction():
            for delivery_id, body, matching in group:
                result = self.accept(process, delivery_id, body, matching)
                for name in () if result is None else result.handlers:
                    self.start(process, result.id, name)
            if image is not None:
                for suffix in "", "-wal":
                    shutil.copy(f"{self.path}{suffix}", f"{image}{suffix}")
            raise ZeroDivisionError
        self.model, self.promised, self.seen_done = before
        process.deferred, process.running = deferred, running

    def kill(self, group: list[Any]) -> None:
        """Kill all processes, perhaps during a write: only the content of the files stays."""
        self.deaths += 1
        image = self.folder / f"{self.deaths}.db"
        self.fail_to_deliver(self.leader, group, image)
        for process in self.processes():
            process.store.close()
        self.path = image
        self.leader, self.others = self.opened(), []
        self.check_file()
        self.become_leader()

    def become_leader(self) -> None:
        self.write_deferred(self.leader)
        crashed = self.leader.store.recover()
        assert set(crashed) == self.model.recover()
        self.leader.abandoned += self.leader.running
        self.leader.running = []

    def check_file(self) -> None:
        connection = sqlite3.connect(self.path)
        try:
            ask = functools.partial(rows, connection)
            assert ask("PRAGMA integrity_check") == [("ok",)]
            assert ask("SELECT seq FROM runs EXCEPT SELECT seq FROM deliveries") == []
            assert ask("SELECT seq FROM bodies EXCEPT SELECT seq FROM deliveries") == []
            wrong = "SELECT 1 FROM bodies JOIN deliveries USING (seq) WHERE size != length(body)"
            assert ask(wrong) == []
            assert ask("SELECT body_bytes FROM log") == ask(
                "SELECT coalesce(sum(length(body)), 0) FROM bodies"
            )
        finally:
            connection.close()


def rows(connection: sqlite3.Connection, sql: str) -> list[Any]:
    return connection.execute(sql).fetchall()


def examples(count: int, steps: int) -> settings:
    # The time of an example depends on the disk.
    return settings(
        max_examples=count,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )


def test_memory_store_matches_the_model() -> None:
    run_state_machine_as_test(MemoryMachine, settings=examples(150, 40))


@pytest.mark.slow
def test_disk_store_matches_the_model() -> None:
    run_state_machine_as_test(DiskMachine, settings=examples(60, 40))
