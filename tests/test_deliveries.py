"""What the log remembers, and what it decides when a delivery comes again."""

from __future__ import annotations

import threading
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from hubhooks._store.base import AcceptResult
from hubhooks._store.memory import MemoryLimits
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from hubhooks._store.base import DeliveryStore, Ending
    from hubhooks.models import RunContext


@pytest.fixture(params=["memory", "disk"])
def make_log(request: Any, tmp_path: Path) -> Generator[Callable[..., DeliveryStore]]:
    """Make the log that each rule is tested with: they must not differ."""
    made: list[DeliveryStore] = []

    def make(**options: Any) -> DeliveryStore:
        if request.param == "memory":
            made.append(SqliteStore(":memory:", **options))
        else:
            made.append(SqliteStore(tmp_path / "hubhooks.db", **options))
        made[-1].open()
        made[-1].recover()
        return made[-1]

    yield make
    for log in made:
        log.close()


@pytest.fixture
def log(make_log: Callable[..., DeliveryStore]) -> DeliveryStore:
    return make_log()


def start(log: DeliveryStore, delivery_id: str, handler: str = "a") -> RunContext:
    delivery = log.claim(delivery_id, handler)
    assert delivery is not None
    return delivery


def end(log: DeliveryStore, delivery: RunContext, ending: Ending = "succeeded", **how: Any) -> None:
    log.finish_run(delivery, ending, "why", "traceback", **how)
    log.flush()


def run(log: DeliveryStore, delivery_id: str, **endings: Ending) -> None:
    for handler, ending in endings.items():
        end(log, start(log, delivery_id, handler), ending)


def record(log: DeliveryStore, delivery_id: str) -> Any:
    log.flush()
    return log.get(delivery_id)


# ---- one delivery -----------------------------------------------------------------------------


def test_an_accepted_delivery_is_queued_for_each_handler(log: DeliveryStore) -> None:
    verdict = log.accept("d1", b"{}", ["retrain", "reply"])
    assert verdict == AcceptResult("accepted", "d1", ("retrain", "reply"))
    kept = record(log, "d1")
    assert kept.state == "queued"
    assert [(r.handler, r.state, r.attempts) for r in kept.runs] == [
        ("retrain", "queued", 0),
        ("reply", "queued", 0),
    ]
    assert kept.body == b"{}"
    assert kept.received_at.tzinfo is timezone.utc


def test_run_goes_from_queued_to_running_to_finished(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["retrain"])
    delivery = start(log, "d1", "retrain")
    kept = record(log, "d1")
    assert (delivery.id, delivery.attempt, delivery.is_replay) == ("d1", 1, False)
    assert delivery.received_at == kept.received_at
    assert kept.state == "running"
    assert kept.runs[0].started_at >= kept.received_at
    log.finish_run(delivery, "failed", "ValueError: x", "Traceback ...")
    (ended,) = record(log, "d1").runs
    assert (ended.state, ended.error, ended.traceback) == (
        "failed",
        "ValueError: x",
        "Traceback ...",
    )
    assert ended.finished_at - ended.started_at >= timedelta(0)


def test_delivery_has_its_most_urgent_run_state(
    log: DeliveryStore,
) -> None:
    log.accept("d1", b"{}", ["a", "b", "c"])
    states = [record(log, "d1").state]
    delivery = start(log, "d1")
    states.append(record(log, "d1").state)
    end(log, delivery)
    states.append(record(log, "d1").state)
    run(log, "d1", b="ignored")
    run(log, "d1", c="failed")
    states.append(record(log, "d1").state)
    assert states == ["queued", "running", "queued", "failed"]


@pytest.mark.parametrize("skipped", ["unhandled", "ignored", "malformed"])
def test_skipped_delivery_is_stored_with_the_reason(log: DeliveryStore, skipped: Any) -> None:
    assert log.accept("d1", b"{}", (), skipped, "because") == AcceptResult(skipped, "d1")
    assert record(log, "d1").state == skipped
    assert record(log, "d1").reason == "because"


def test_lazy_reason_is_called_once(log: DeliveryStore) -> None:
    asked: list[str] = []

    def why() -> str:
        asked.append("why")
        return "because"

    log.accept("d1", b"{}", (), "unhandled", why)
    kept, (listed,) = record(log, "d1"), log.list()
    assert [kept.reason, kept.reason, listed.reason] == ["because"] * 3
    assert asked == ["why"]


def test_only_large_bodies_are_dropped_in_memory() -> None:
    # Ten bodies of up to ten bytes each have room; only a larger one is dropped.
    log = SqliteStore(":memory:", limits=MemoryLimits(keep=10, keep_bytes=100))
    log.accept("d1", b"0123456789", (), "unhandled", "small")
    log.accept("d2", b"0123456789+", (), "unhandled", "large")
    log.accept("d3", b"0" * 80, (), "unhandled")
    assert [(r.id, len(log.body(r.id) or b""), r.reason) for r in log.list()] == [
        ("d3", 80, ""),
        ("d2", 0, "large"),
        ("d1", 10, "small"),
    ]


def test_delivery_without_id_gets_a_fresh_one(log: DeliveryStore) -> None:
    first, second = (log.accept(None, b"{}", ["a"]).id for _ in range(2))
    assert first != second
    assert len(first) == 32
    assert {r.id for r in log.list()} == {first, second}


def test_list_has_newest_and_repeated_deliveries_first(log: DeliveryStore) -> None:
    for delivery_id in ("d1", "d2", "d3", "d1"):
        log.accept(delivery_id, b"{}", (), "unhandled")
    assert [r.id for r in log.list()] == ["d1", "d3", "d2"]


def test_unknown_id_has_no_delivery(log: DeliveryStore) -> None:
    assert log.get("d1") is None
    log.mark_acknowledged("d1", delivered=True)
    assert log.list() == []


def test_repr_of_a_delivery_hides_its_body(log: DeliveryStore) -> None:
    log.accept("d1", b"private", (), "unhandled")
    assert "private" not in repr(log.get("d1"))


def test_delivery_is_an_unchanging_copy(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    kept, (listed,) = record(log, "d1"), log.list()
    run(log, "d1", a="succeeded")
    log.mark_acknowledged("d1", delivered=True)
    assert (kept.state, listed.state) == ("queued", "queued")
    assert not kept.is_acknowledged


# ---- the same id again ------------------------------------------------------------------------


def test_unfinished_delivery_is_not_run_twice(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a", "b"])
    assert log.accept("d1", b"{}", ["a", "b"]) == AcceptResult("in_progress", "d1")
    run(log, "d1", a="failed")
    start(log, "d1", "b")
    assert log.accept("d1", b"{}", ["a", "b"]) == AcceptResult("in_progress", "d1")
    kept = record(log, "d1")
    assert kept.duplicates == 2
    assert [r.state for r in kept.runs] == ["failed", "running"]


@pytest.mark.parametrize("delivered", [False, True])
@pytest.mark.parametrize("replays", ["run", "skip"])
def test_only_failed_handlers_run_again(
    make_log: Callable[..., DeliveryStore], replays: Any, delivered: bool
) -> None:
    log = make_log(on_replay=replays)
    log.accept("d1", b"{}", ["a", "b", "c"])
    log.mark_acknowledged("d1", delivered=delivered)
    run(log, "d1", a="succeeded", b="failed", c="ignored")
    assert log.accept("d1", b"{}", ["a", "b", "c"]) == AcceptResult("accepted", "d1", ("b",))
    kept = record(log, "d1")
    assert [(r.handler, r.state) for r in kept.runs] == [
        ("a", "succeeded"),
        ("c", "ignored"),
        ("b", "queued"),
    ]
    again = start(log, "d1", "b")
    assert (again.attempt, again.is_replay) == (2, delivered)


def test_failed_handlers_run_again_without_a_match(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="failed")
    assert log.accept("d1", b"{}", (), "unhandled").handlers == ("a",)
    assert record(log, "d1").state == "queued"


def test_failed_handlers_do_not_run_on_malformed_body(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="failed")
    assert log.accept("d1", b"{", (), "malformed").status == "malformed"
    assert record(log, "d1").state == "failed"


def test_acknowledged_success_makes_the_next_a_replay(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    log.mark_acknowledged("d1", delivered=True)
    run(log, "d1", a="succeeded")
    assert log.accept("d1", b"{}", ["a", "new"]) == AcceptResult("accepted", "d1", ("a", "new"))
    assert record(log, "d1").is_replay
    told = [start(log, "d1", name) for name in ("a", "new")]
    assert [(d.attempt, d.is_replay) for d in told] == [(2, True), (1, True)]


def test_replays_can_be_skipped(make_log: Callable[..., DeliveryStore]) -> None:
    log = make_log(on_replay="skip")
    log.accept("d1", b"{}", ["a"])
    log.mark_acknowledged("d1", delivered=True)
    run(log, "d1", a="succeeded")
    assert log.accept("d1", b"{}", ["a"]).status == "duplicate"


def test_unacknowledged_success_makes_the_next_a_retry(
    log: DeliveryStore,
) -> None:
    log.accept("d1", b"{}", ["a"])
    log.mark_acknowledged("d1", delivered=False)
    run(log, "d1", a="succeeded")
    assert log.accept("d1", b"{}", ["a"]) == AcceptResult("duplicate", "d1")
    assert record(log, "d1").duplicates == 1


def test_delivery_after_an_acknowledged_retry_is_a_replay(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="succeeded")
    assert log.accept("d1", b"{}", ["a"]).status == "duplicate"
    log.mark_acknowledged("d1", delivered=True)
    log.mark_acknowledged("d1", delivered=False)
    assert log.accept("d1", b"{}", ["a"]).status == "accepted"


def test_count_of_duplicates_survives_a_rerun(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="failed")
    log.accept("d1", b"{}", ["a"])
    assert record(log, "d1").duplicates == 1


def test_unacknowledged_replay_does_not_run_again(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    log.mark_acknowledged("d1", delivered=True)
    run(log, "d1", a="succeeded")
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="succeeded")
    assert log.accept("d1", b"{}", ["a"]).status == "duplicate"


@pytest.mark.parametrize("skipped", ["unhandled", "ignored", "malformed"])
@pytest.mark.parametrize("replays", ["run", "skip"])
def test_delivery_without_runs_is_matched_again(
    make_log: Callable[..., DeliveryStore], skipped: Any, replays: Any
) -> None:
    log = make_log(on_replay=replays)
    log.accept("d1", b"{}", (), skipped)
    log.mark_acknowledged("d1", delivered=True)
    assert log.accept("d1", b"{}", ["a"]) == AcceptResult("accepted", "d1", ("a",))
    assert record(log, "d1").state == "queued"
    assert start(log, "d1").is_replay


def test_ignored_delivery_is_matched_again(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="ignored")
    assert log.accept("d1", b"{}", ["a", "b"]) == AcceptResult("accepted", "d1", ("a", "b"))


# ---- what runs when ---------------------------------------------------------------------------


def test_unclaimed_runs_are_ready_in_arrival_order(log: DeliveryStore) -> None:
    for delivery_id in ("d1", "d2", "d3"):
        log.accept(delivery_id, b"{}", ["b", "a"])
    start(log, "d1", "a")
    order = [("d1", "b"), ("d2", "b"), ("d2", "a"), ("d3", "b"), ("d3", "a")]
    assert log.list_ready(8) == order
    assert log.list_ready(2) == order[:2]
    assert log.list_ready(8, ["b"]) == [("d2", "a"), ("d3", "a")]
    assert log.claim("d1", "a") is None
    assert log.claim("d1", "c") is None
    assert log.claim("d9", "a") is None


def test_retrying_run_waits_and_counts_its_failures(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    delivery = start(log, "d1")
    assert (delivery.attempt, delivery.failures) == (1, 0)
    end(log, delivery, "failed", retry_after=3600)
    (waiting,) = record(log, "d1").runs
    assert (waiting.state, waiting.error, waiting.finished_at) == ("retrying", "why", None)
    assert timedelta(seconds=3500) < waiting.due_at - waiting.started_at < timedelta(seconds=3700)
    assert log.list_ready(8) == []
    assert 3500 < (log.seconds_to_next() or 0) <= 3600
    assert log.accept("d1", b"{}", ["a"]).status == "in_progress"
    # Not waited for, as it is only asked to be.
    delivery = start(log, "d1")
    assert (delivery.attempt, delivery.failures) == (2, 1)
    end(log, delivery, "failed", retry_after=0)
    assert log.list_ready(8) == [("d1", "a")]
    assert log.seconds_to_next() is None
    end(log, start(log, "d1"), "failed")
    assert log.accept("d1", b"{}", ["a"]).status == "accepted"
    again = start(log, "d1")
    assert (again.attempt, again.failures) == (4, 0)


def test_stuck_run_is_unfinished_until_it_returns(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    delivery = start(log, "d1")
    log.mark_stuck(delivery)
    assert record(log, "d1").state == "stuck"
    assert log.accept("d1", b"{}", ["a"]).status == "in_progress"
    assert log.list_ready(8) == []
    end(log, delivery)
    assert record(log, "d1").state == "succeeded"
    log.mark_stuck(delivery)
    assert record(log, "d1").state == "succeeded"


def test_stuck_run_keeps_the_error_of_its_last_attempt(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    end(log, start(log, "d1"), "failed", retry_after=0)
    log.mark_stuck(start(log, "d1"))
    (overdue,) = record(log, "d1").runs
    assert (overdue.state, overdue.error, overdue.traceback) == ("stuck", "why", "traceback")


def test_end_of_an_abandoned_attempt_changes_nothing(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    given_up = start(log, "d1")
    end(log, given_up, "failed", retry_after=0)
    end(log, given_up, "succeeded")
    assert record(log, "d1").state == "retrying"
    start(log, "d1")
    end(log, given_up, "succeeded")
    log.mark_stuck(given_up)
    assert record(log, "d1").state == "running"


def test_a_finished_delivery_can_be_queued_again(log: DeliveryStore) -> None:
    log.accept("d1", b"body", ["a", "b"], scope="repo", action="update", repo="me/x")
    log.accept("d2", b"{}", (), "unhandled", "why")
    assert [log.replay(name) for name in ("d1", "d2", "d9")] == [(), (), ()]
    run(log, "d1", a="succeeded", b="failed")
    assert log.replay("d1", ["a"]) == ("a",)
    kept = record(log, "d1")
    assert [(r.handler, r.state) for r in kept.runs] == [("b", "failed"), ("a", "queued")]
    assert (kept.body, kept.scope, kept.action, kept.repo) == (b"body", "repo", "update", "me/x")
    assert [r.id for r in log.list()] == ["d1", "d2"]
    again = start(log, "d1")
    assert (again.attempt, again.is_replay) == (2, True)
    end(log, again)
    assert log.replay("d1") == ("b", "a")
    assert log.replay("d2", ["a"]) == ("a",)
    assert (record(log, "d2").state, record(log, "d2").reason) == ("queued", "")


# ---- looking on --------------------------------------------------------------------------------


def test_list_has_filters_and_pages(log: DeliveryStore) -> None:
    for number in range(6):
        scope, repo = ("repo.content", "me/a") if number % 2 else ("discussion", None)
        log.accept(f"d{number}", b"{}", ["a"], scope=scope, action="update", repo=repo)
    run(log, "d3", a="failed")

    def names(**criteria: Any) -> str:
        return "".join(r.id[1:] for r in log.list(**criteria))

    assert (names(), names(limit=2), names(limit=2, before="d4")) == ("543210", "54", "32")
    assert names(before="d0") == names(before="nobody") == ""
    assert (names(scope="discussion"), names(repo="me/a")) == ("420", "531")
    assert names(repo="me/a", state="failed") == "3"
    assert names(since=record(log, "d4").received_at) == "54"
    (listed,) = log.list(limit=1)
    assert (listed.body, listed.size, listed.action) == (None, 2, "update")


def test_stats_count_the_store(log: DeliveryStore) -> None:
    assert log.stats() == ({}, 0, None, {})
    log.accept("d1", b"12345", (), "unhandled")
    log.accept("d2", b"123", ["a", "b"])
    log.accept("d3", b"1", ["a"])
    run(log, "d3", a="succeeded")
    for count in (2, 3):
        log.count_rejections(1, "secret wrong", count)
    states = {"unhandled": 1, "queued": 1, "succeeded": 1}
    came = record(log, "d2").received_at
    assert log.stats() == (states, 9, came, {"secret wrong": 5})


# ---- room -------------------------------------------------------------------------------------


def test_number_of_finished_deliveries_is_limited() -> None:
    log = SqliteStore(":memory:", limits=MemoryLimits(keep=2))
    for number in range(4):
        log.accept(f"d{number}", b"{}", (), "unhandled")
    assert [r.id for r in log.list()] == ["d3", "d2"]


def test_unfinished_deliveries_are_all_kept() -> None:
    log = SqliteStore(":memory:", limits=MemoryLimits(keep=1, keep_bytes=3))
    for number in range(4):
        log.accept(f"d{number}", b"1234", ["a"])
    start(log, "d3")
    assert [log.body(r.id) for r in log.list()] == [b"1234"] * 4
    run(log, "d0", a="succeeded")
    run(log, "d1", a="succeeded")
    assert [r.id for r in log.list()] == ["d3", "d2", "d1"]


def test_oldest_bodies_are_dropped_and_their_deliveries_stay() -> None:
    log = SqliteStore(":memory:", limits=MemoryLimits(keep_bytes=5))
    for number in range(4):
        log.accept(f"d{number}", b"12", (), "unhandled")
    assert [log.body(r.id) for r in log.list()] == [b"12", b"12", None, None]
    # One that comes again has its body again, and counts once.
    log.accept("d2", b"12", (), "unhandled")
    log.accept("d0", b"12", (), "unhandled")
    assert [(r.id, log.body(r.id)) for r in log.list()] == [
        ("d0", b"12"),
        ("d2", b"12"),
        ("d3", None),
        ("d1", None),
    ]


def test_full_store_rejects_until_a_run_finishes() -> None:
    log = SqliteStore(":memory:", limits=MemoryLimits(hold_bytes=8))
    for delivery_id in ("d1", "d2"):
        log.accept(delivery_id, b"1234", ["a"])
    with pytest.raises(
        StoreError, match=r"take 8 bytes of memory, and 1 more would exceed the limit of 8"
    ):
        log.accept("d3", b"1", ["a"])
    assert record(log, "d3") is None
    assert log.accept("d1", b"1234", ["a"]).status == "in_progress"
    # What nobody waits for is not held.
    assert log.accept("d4", b"123456789", (), "unhandled").status == "unhandled"

    run(log, "d1", a="failed")
    assert log.accept("d3", b"1", ["a"]).status == "accepted"
    with pytest.raises(StoreError):
        log.accept("d1", b"1234", ["a"])
    assert record(log, "d1").state == "failed"
    run(log, "d2", a="succeeded")
    assert log.accept("d1", b"1234", ["a"]).status == "accepted"
    run(log, "d1", a="succeeded")
    run(log, "d3", a="succeeded")
    assert log.accept("d5", b"12345678", ["a"]).status == "accepted"


def test_rerunning_delivery_is_not_dropped() -> None:
    log = SqliteStore(":memory:", limits=MemoryLimits(keep=1))
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="failed")
    log.accept("d1", b"{}", ["a"])
    log.accept("d2", b"{}", (), "unhandled")
    log.accept("d3", b"{}", (), "unhandled")
    assert record(log, "d1").state == "queued"


def test_one_of_many_threads_runs_a_delivery(log: DeliveryStore) -> None:
    together = threading.Barrier(8)
    verdicts: list[str] = []

    def accept() -> None:
        together.wait(30)
        verdicts.extend([log.accept(f"d{n}", b"{}", ["a"]).status for n in range(200)])

    threads = [threading.Thread(target=accept) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts.count("accepted") == 200
    assert verdicts.count("in_progress") == 1_400
