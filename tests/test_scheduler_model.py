"""Random histories of a worker. It keeps its limits, and every ready run starts.

The worker, the scheduler, the quarantine and the store on disk are real. The test moves their
clocks, and ends the runs.
"""

from __future__ import annotations

import asyncio
import contextvars
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from hubhooks._core import HubEvent
from hubhooks._samples import compact, sample_json
from hubhooks._store import clock as store_clock
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks._worker.execution import Execution, RunExecution
from hubhooks._worker.timeouts import Timeouts
from hubhooks._worker.worker import Worker
from hubhooks.models import AcceptedRuns, RunGroup
from hubhooks.routing import Router

if TYPE_CHECKING:
    from collections.abc import Callable

BODY = compact(sample_json("repo.content.update"))
EVENT = HubEvent.from_json(BODY)
LIMITS = {"any": None, "one": 1, "two": 2, "serial": None}
REPOS = ["r1", "r2"]
QUARANTINE = 60.0
START = 1_700_000_000.0
NAMES = st.lists(st.sampled_from(sorted(LIMITS)), min_size=1, max_size=3, unique=True)
DELIVERIES = st.lists(st.tuples(NAMES, st.sampled_from(REPOS)), min_size=1, max_size=4)


class ManualWorker(Worker):
    """A worker whose runs end only when the test ends them."""

    on_start: Callable[[RunExecution], None]

    def start(
        self, execution: Execution, current_loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        assert isinstance(execution, RunExecution)
        execution.begin()
        self.on_start(execution)


class Histories(RuleBasedStateMachine):
    """Deliveries, ends, crashes, stops and other leaders, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.now = 0.0
        clock = self.stack.enter_context(mock.patch.object(store_clock, "now"))
        clock.side_effect = lambda: START + self.now
        self.router = Router()
        for name, limit in LIMITS.items():
            self.router.add(
                lambda event: None,
                name=name,
                concurrency=limit,
                timeout=100,
                retries=1,
                backoff=5,
                serial="repo" if name == "serial" else None,
            )
        self.count = 0
        self.serial_keys: dict[str, str] = {}
        # The crashed run that started alone, and until when no other run may start.
        self.alone: tuple[RunExecution, float] | None = None

    @initialize(slots=st.sampled_from([1, 2, 3, 20]), deliveries=DELIVERIES)
    def begin(self, slots: int, deliveries: list[tuple[list[str], str]]) -> None:
        self.slots = slots
        self.open()
        self.runs_arrive(deliveries)

    def open(self) -> None:
        path = self.folder / "x.db"
        self.lock = LeaderLock(path)
        self.store = SqliteStore(path, lock=self.lock)
        self.alone = None
        self.worker = ManualWorker(
            self.router,
            self.store,
            self.lock,
            slots=self.slots,
            code=None,
            timeouts=Timeouts(quarantine=QUARANTINE, checkpoint=3600),
            clock=lambda: self.now,
        )
        self.worker.on_start = self.started
        self.worker.open()
        self.worker.tick()

    def started(self, run: RunExecution) -> None:
        assert self.lock.is_held, "only the leader starts runs"
        assert not self.worker.claims.is_draining
        assert not self.is_isolated(), "a run starts beside a crashed run"
        if run.has_crashed:
            others = [each for each in self.worker.claims.running if each is not run]
            if all(each.is_stuck for each in others):
                self.alone = (run, self.now + QUARANTINE)

    def is_isolated(self) -> bool:
        """Return whether a crashed run still runs alone."""
        if self.alone is None:
            return False
        run, until = self.alone
        return run in self.worker.claims.running and not run.is_stuck and self.now < until

    # ---- what happens --------------------------------------------------------------------------

    @rule(deliveries=DELIVERIES)
    def runs_arrive(self, deliveries: list[tuple[list[str], str]]) -> None:
        for names, repo in deliveries:
            self.count += 1
            delivery_id = f"d{self.count}"
            self.serial_keys[delivery_id] = repo
            groups = {"serial": RunGroup(repo, "", 0)} if "serial" in names else {}
            with self.store.transaction():
                result = self.store.accept(delivery_id, BODY, names, groups=groups)
                accepted = AcceptedRuns(result.id, result.handlers, EVENT)
                claimed = self.worker.claims.claim_accepted(accepted, contextvars.copy_context())
            for run in claimed:
                self.worker.start(run)
            self.limits_hold()
        self.worker.tick()

    @precondition(lambda self: self.worker.claims.running)
    @rule(number=st.integers(0, 3), is_failure=st.booleans())
    def run_ends(self, number: int, *, is_failure: bool) -> None:
        running = self.worker.claims.running
        self.end(running[number % len(running)], is_failure=is_failure)
        self.worker.tick()

    def end(self, run: RunExecution, *, is_failure: bool = False) -> None:
        if is_failure:
            run.failed(ValueError())
        else:
            run.done(None)

    @rule(seconds=st.sampled_from([0.3, 5.5, 11.0, 21.0, 61.0, 101.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.worker.tick()

    @precondition(lambda self: self.worker.claims.running)
    @rule(seconds=st.sampled_from([0.3, 11.0, 41.0]))
    def process_crashes(self, seconds: float) -> None:
        # Its runs stay started in the store, as after the death of a process.
        asyncio.run(self.worker.close())
        self.open()
        self.time_passes(seconds)

    @rule()
    def process_restarts(self) -> None:
        asyncio.run(self.worker.drain(0))
        asyncio.run(self.worker.close())
        self.open()

    @rule(seconds=st.sampled_from([0.3, 11.0, 61.0]))
    def another_process_leads(self, seconds: float) -> None:
        """Lose the lock for some time, as if a program had removed its file."""
        self.lock.release()
        other = LeaderLock(self.folder / "x.db")
        assert other.try_acquire()
        try:
            self.time_passes(seconds)
        finally:
            other.release()
        self.time_passes(0.3)

    # ---- what always holds ---------------------------------------------------------------------

    @invariant()
    def limits_hold(self) -> None:
        running = self.worker.claims.running
        assert len(running) <= self.slots
        for name, limit in LIMITS.items():
            if limit is not None:
                assert sum(run.name == name for run in running) <= limit
        keys = [self.serial_keys[run.run_context.id] for run in running if run.name == "serial"]
        assert len(keys) == len(set(keys)), "two runs of a serial group"

    @invariant()
    def no_run_waits_without_reason(self) -> None:
        """Check that no ready run was overlooked: a full look comes only once a minute."""
        scheduler = self.worker.claims.scheduler
        busy, grouped = scheduler.busy(), ["serial"]
        crashed = self.store.list_ready(1, crashed=True)
        if self.lock.is_held and scheduler.free > 0 and not (self.is_isolated() or crashed):
            assert self.store.list_ready(1, busy, grouped=grouped) == []

    def settle(self) -> None:
        """End each run in turn: all others must start in a time that depends on their number."""
        for _ in range(10 + 8 * self.count):
            for run in self.worker.claims.running:
                self.end(run)
            self.now += 11
            self.worker.tick()
            self.limits_hold()
        assert set(self.store.stats().states) <= {"succeeded", "failed"}

    def teardown(self) -> None:
        try:
            if hasattr(self, "worker"):
                self.settle()
        finally:
            if hasattr(self, "worker"):
                asyncio.run(self.worker.close())
            self.stack.close()


TestHistories = pytest.mark.slow(Histories.TestCase)
TestHistories.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
