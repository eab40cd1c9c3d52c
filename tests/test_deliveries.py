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


def test_a_run_goes_from_queued_to_running_to_its_end(log: DeliveryStore) -> None:
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


def test_the_state_of_a_delivery_is_the_one_that_asks_for_attention_first(
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
def test_a_delivery_that_nobody_runs_is_kept_with_the_reason(
    log: DeliveryStore, skipped: Any
) -> None:
    assert log.accept("d1", b"{}", (), skipped, "because") == AcceptResult(skipped, "d1")
    assert record(log, "d1").state == skipped
    assert record(log, "d1").reason == "because"


def test_reason_may_be_a_function_which_is_called_once(log: DeliveryStore) -> None:
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


def test_without_an_id_each_delivery_has_a_fresh_one(log: DeliveryStore) -> None:
    first, second = (log.accept(None, b"{}", ["a"]).id for _ in range(2))
    assert first != second
    assert len(first) == 32
    assert {r.id for r in log.list()} == {first, second}


def test_the_list_has_the_newest_first_and_a_repeated_one_is_new(log: DeliveryStore) -> None:
    for delivery_id in ("d1", "d2", "d3", "d1"):
        log.accept(delivery_id, b"{}", (), "unhandled")
    assert [r.id for r in log.list()] == ["d1", "d3", "d2"]


def test_an_unknown_id_has_no_record(log: DeliveryStore) -> None:
    assert log.get("d1") is None
    log.mark_acknowledged("d1", delivered=True)
    assert log.list() == []


def test_a_record_never_shows_its_body(log: DeliveryStore) -> None:
    log.accept("d1", b"private", (), "unhandled")
    assert "private" not in repr(log.get("d1"))


def test_a_record_is_a_copy_that_does_not_change(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    kept, (listed,) = record(log, "d1"), log.list()
    run(log, "d1", a="succeeded")
    log.mark_acknowledged("d1", delivered=True)
    assert (kept.state, listed.state) == ("queued", "queued")
    assert not kept.is_acknowledged


# ---- the same id again ------------------------------------------------------------------------


def test_while_it_is_queued_or_running_it_is_not_run_twice(log: DeliveryStore) -> None:
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
def test_handlers_that_failed_run_again_and_the_others_do_not(
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


def test_handlers_that_failed_run_again_even_if_they_no_longer_listen(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="failed")
    assert log.accept("d1", b"{}", (), "unhandled").handlers == ("a",)
    assert record(log, "d1").state == "queued"


def test_handlers_that_failed_do_not_run_on_a_body_that_cannot_be_read(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="failed")
    assert log.accept("d1", b"{", (), "malformed").status == "malformed"
    assert record(log, "d1").state == "failed"


def test_after_success_with_an_answer_that_arrived_it_is_a_replay(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    log.mark_acknowledged("d1", delivered=True)
    run(log, "d1", a="succeeded")
    assert log.accept("d1", b"{}", ["a", "new"]) == AcceptResult("accepted", "d1", ("a", "new"))
    assert record(log, "d1").is_replay
    told = [start(log, "d1", name) for name in ("a", "new")]
    assert [(d.attempt, d.is_replay) for d in told] == [(2, True), (1, True)]


def test_a_replay_can_be_turned_off(make_log: Callable[..., DeliveryStore]) -> None:
    log = make_log(on_replay="skip")
    log.accept("d1", b"{}", ["a"])
    log.mark_acknowledged("d1", delivered=True)
    run(log, "d1", a="succeeded")
    assert log.accept("d1", b"{}", ["a"]).status == "duplicate"


def test_after_success_with_an_answer_that_got_lost_it_is_the_hubs_retry(
    log: DeliveryStore,
) -> None:
    log.accept("d1", b"{}", ["a"])
    log.mark_acknowledged("d1", delivered=False)
    run(log, "d1", a="succeeded")
    assert log.accept("d1", b"{}", ["a"]) == AcceptResult("duplicate", "d1")
    assert record(log, "d1").duplicates == 1


def test_once_the_retry_was_answered_the_next_one_is_a_replay(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="succeeded")
    assert log.accept("d1", b"{}", ["a"]).status == "duplicate"
    log.mark_acknowledged("d1", delivered=True)
    log.mark_acknowledged("d1", delivered=False)
    assert log.accept("d1", b"{}", ["a"]).status == "accepted"


def test_what_was_not_run_again_stays_counted(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="failed")
    log.accept("d1", b"{}", ["a"])
    assert record(log, "d1").duplicates == 1


def test_a_replay_whose_answer_got_lost_is_not_run_a_third_time(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    log.mark_acknowledged("d1", delivered=True)
    run(log, "d1", a="succeeded")
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="succeeded")
    assert log.accept("d1", b"{}", ["a"]).status == "duplicate"


@pytest.mark.parametrize("skipped", ["unhandled", "ignored", "malformed"])
@pytest.mark.parametrize("replays", ["run", "skip"])
def test_what_nobody_ran_is_judged_anew(
    make_log: Callable[..., DeliveryStore], skipped: Any, replays: Any
) -> None:
    log = make_log(on_replay=replays)
    log.accept("d1", b"{}", (), skipped)
    log.mark_acknowledged("d1", delivered=True)
    assert log.accept("d1", b"{}", ["a"]) == AcceptResult("accepted", "d1", ("a",))
    assert record(log, "d1").state == "queued"
    assert start(log, "d1").is_replay


def test_what_all_handlers_ignored_is_judged_anew(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="ignored")
    assert log.accept("d1", b"{}", ["a", "b"]) == AcceptResult("accepted", "d1", ("a", "b"))


# ---- what runs when ---------------------------------------------------------------------------


def test_what_was_not_claimed_is_due_in_the_order_it_came(log: DeliveryStore) -> None:
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


def test_a_run_that_is_to_be_tried_again_waits_and_counts_its_failures(log: DeliveryStore) -> None:
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


def test_an_overdue_run_is_unfinished_until_it_returns(log: DeliveryStore) -> None:
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


def test_an_overdue_run_still_tells_why_it_is_tried_again(log: DeliveryStore) -> None:
    log.accept("d1", b"{}", ["a"])
    end(log, start(log, "d1"), "failed", retry_after=0)
    log.mark_stuck(start(log, "d1"))
    (overdue,) = record(log, "d1").runs
    assert (overdue.state, overdue.error, overdue.traceback) == ("stuck", "why", "traceback")


def test_the_end_of_a_start_that_was_given_up_changes_nothing(log: DeliveryStore) -> None:
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


def test_the_list_can_be_narrowed_and_turned_page_by_page(log: DeliveryStore) -> None:
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


def test_a_log_in_figures(log: DeliveryStore) -> None:
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


def test_only_so_many_finished_deliveries_are_kept() -> None:
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


def test_the_oldest_bodies_make_room_and_their_records_stay() -> None:
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


def test_more_than_can_be_held_is_not_taken_until_something_is_finished() -> None:
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


def test_a_finished_delivery_that_runs_again_is_not_dropped_meanwhile() -> None:
    log = SqliteStore(":memory:", limits=MemoryLimits(keep=1))
    log.accept("d1", b"{}", ["a"])
    run(log, "d1", a="failed")
    log.accept("d1", b"{}", ["a"])
    log.accept("d2", b"{}", (), "unhandled")
    log.accept("d3", b"{}", (), "unhandled")
    assert record(log, "d1").state == "queued"


def test_of_many_threads_with_the_same_delivery_one_runs_it(log: DeliveryStore) -> None:
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
