"""The decision which runs may start: tables of cases, without clock, thread, loop or store."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubhooks._worker import scheduler
from hubhooks._worker.scheduler import CrashQuarantine, Scheduler

LIMITS = {"one": 1, "two": 2}
SECONDS = 60.0


def make(slots: int, *running: str) -> Scheduler:
    made = Scheduler(slots, LIMITS.get)
    for name in running:
        made.add(name)
    return made


def test_scheduler_imports_nothing_that_waits_or_stores() -> None:
    tree = ast.parse(Path(scheduler.__file__).read_text("utf-8"))
    modules = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    # The type of a ready run is imported for type checkers only.
    assert modules == {
        "__future__",
        "typing",
        "collections.abc",
        "hubhooks._store.base",
    }


@pytest.mark.parametrize(
    ("slots", "running", "ready", "chosen"),
    [
        (2, (), ["any", "any", "any"], ["any", "any"]),
        (1, ("any",), ["any"], []),
        (9, (), ["one", "one", "any"], ["one", "any"]),
        (9, ("one",), ["one", "two"], ["two"]),
        (9, ("two",), ["two", "two", "two"], ["two"]),
        (2, ("one",), ["one", "any", "any"], ["any"]),
        (0, (), ["any"], []),
        (9, (), [], []),
    ],
)
def test_choice_respects_slots_and_limits(
    slots: int, running: tuple[str, ...], ready: list[str], chosen: list[str]
) -> None:
    made = make(slots, *running)
    found = [(f"d{number}", name) for number, name in enumerate(ready)]
    result = made.choose(found)
    assert [name for _, name in result] == chosen
    # In the order of the ready runs, and each at most once.
    assert sorted(result, key=found.index) == result


@pytest.mark.parametrize(
    ("slots", "running", "name", "may_start"),
    [
        (1, (), "one", True),
        (1, ("any",), "one", False),
        (2, ("one",), "one", False),
        (2, ("one",), "any", True),
        (3, ("two",), "two", True),
        (3, ("two", "two"), "two", False),
    ],
)
def test_single_run_starts_only_with_slot_and_limit(
    slots: int, running: tuple[str, ...], name: str, *, may_start: bool
) -> None:
    assert make(slots, *running).may_start(name) is may_start


def test_end_of_limited_run_requests_a_tick() -> None:
    made = make(3, "one", "any")
    assert made.busy() == ["one"]
    assert made.remove("any") is False
    assert made.remove("one") is True
    assert (made.busy(), made.free) == ([], 3)


@given(
    st.integers(1, 5),
    st.lists(st.sampled_from(["one", "two", "any"]), max_size=12),
    st.lists(st.sampled_from(["one", "two", "any"]), max_size=12),
)
def test_chosen_runs_may_start_in_sequence(
    slots: int, running: list[str], ready: list[str]
) -> None:
    made = Scheduler(slots, LIMITS.get)
    for name in running:
        if made.may_start(name):
            made.add(name)
    chosen = made.choose([(str(number), name) for number, name in enumerate(ready)])
    for _, name in chosen:
        assert made.may_start(name)
        made.add(name)
    skipped = list(ready)
    for _, name in chosen:
        skipped.remove(name)
    # No run that was not chosen could start beside them.
    assert not any(made.may_start(name) for name in skipped)


# ---- quarantine --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waited", "is_idle", "has_slot", "decision"),
    [
        (0, True, True, "alone"),
        (0, False, True, "wait"),
        (0, False, False, "wait"),
        (SECONDS - 1, False, True, "wait"),
        (SECONDS, False, True, "beside"),
        (SECONDS, False, False, "wait"),
        (SECONDS, True, True, "alone"),
    ],
)
def test_crashed_run_waits_at_most_60_s_for_others(
    waited: float, decision: str, *, is_idle: bool, has_slot: bool
) -> None:
    quarantine = CrashQuarantine[str](SECONDS)
    quarantine.decide(100, is_idle=False, has_slot=True)
    assert quarantine.decide(100 + waited, is_idle=is_idle, has_slot=has_slot) == decision


@pytest.mark.parametrize(
    ("ran", "is_stuck", "is_expired"),
    [(0, False, False), (SECONDS - 1, False, False), (SECONDS, False, True), (0, True, True)],
)
def test_crashed_run_is_alone_for_at_most_60_s(
    ran: float, *, is_stuck: bool, is_expired: bool
) -> None:
    quarantine = CrashQuarantine[str](SECONDS)
    quarantine.isolate("crashed", 100)
    expired = quarantine.expire(100 + ran, is_stuck=is_stuck)
    assert expired == ("crashed" if is_expired else None)
    assert quarantine.alone == (None if is_expired else "crashed")


def test_others_get_a_turn_after_each_crashed_run() -> None:
    quarantine = CrashQuarantine[str](SECONDS)
    assert not quarantine.take_turn_of_others()
    quarantine.started()
    assert [quarantine.take_turn_of_others() for _ in range(2)] == [True, False]


def test_wait_begins_anew_for_the_next_crashed_run() -> None:
    quarantine = CrashQuarantine[str](SECONDS)
    quarantine.decide(0, is_idle=False, has_slot=True)
    quarantine.started()
    assert quarantine.decide(SECONDS, is_idle=False, has_slot=True) == "wait"
    quarantine.none_ready(may_come=True)
    assert quarantine.may_have_crashed
    assert quarantine.decide(3 * SECONDS, is_idle=False, has_slot=True) == "wait"


def test_isolation_ends_with_its_own_run() -> None:
    quarantine = CrashQuarantine[str](SECONDS)
    quarantine.isolate("crashed", 0)
    assert not quarantine.end("other")
    assert quarantine.end("crashed")
    assert quarantine.alone is None
