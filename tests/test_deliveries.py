"""Rules of the store: its deliveries and runs, and its decision on repeated deliveries."""

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
def make_store(request: Any, tmp_path: Path) -> Generator[Callable[..., DeliveryStore]]:
    """Make the store of each test: memory and disk must behave alike."""
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
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: Callable[..., DeliveryStore]) -> DeliveryStore:
    return make_store()


def start(store: DeliveryStore, delivery_id: str, handler: str = "a") -> RunContext:
    delivery = store.claim(delivery_id, handler)
    assert delivery is not None
    return delivery


def end(
    store: DeliveryStore, delivery: RunContext, ending: Ending = "succeeded", **how: Any
) -> None:
    store.finish_run(delivery, ending, "why", "traceback", **how)
    store.flush()


def run(store: DeliveryStore, delivery_id: str, **endings: Ending) -> None:
    for handler, ending in endings.items():
        end(store, start(store, delivery_id, handler), ending)


def get_delivery(store: DeliveryStore, delivery_id: str) -> Any:
    store.flush()
    return store.get(delivery_id)


# ---- one delivery -----------------------------------------------------------------------------


def test_an_accepted_delivery_is_queued_for_each_handler(store: DeliveryStore) -> None:
    result = store.accept("d1", b"{}", ["retrain", "reply"])
    assert result == AcceptResult("accepted", "d1", ("retrain", "reply"))
    delivery = get_delivery(store, "d1")
    assert delivery.state == "queued"
    assert [(r.handler, r.state, r.attempts) for r in delivery.runs] == [
        ("retrain", "queued", 0),
        ("reply", "queued", 0),
    ]
    assert delivery.body == b"{}"
    assert delivery.received_at.tzinfo is timezone.utc


def test_run_goes_from_queued_to_running_to_finished(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["retrain"])
    context = start(store, "d1", "retrain")
    delivery = get_delivery(store, "d1")
    assert (context.id, context.attempt, context.is_replay) == ("d1", 1, False)
    assert context.received_at == delivery.received_at
    assert delivery.state == "running"
    assert delivery.runs[0].started_at >= context.received_at
    store.finish_run(context, "failed", "ValueError: x", "Traceback ...")
    (ended,) = get_delivery(store, "d1").runs
    assert (ended.state, ended.error, ended.traceback) == (
        "failed",
        "ValueError: x",
        "Traceback ...",
    )
    assert ended.finished_at - ended.started_at >= timedelta(0)


def test_delivery_has_its_most_urgent_run_state(
    store: DeliveryStore,
) -> None:
    store.accept("d1", b"{}", ["a", "b", "c"])
    states = [get_delivery(store, "d1").state]
    delivery = start(store, "d1")
    states.append(get_delivery(store, "d1").state)
    end(store, delivery)
    states.append(get_delivery(store, "d1").state)
    run(store, "d1", b="ignored")
    run(store, "d1", c="failed")
    states.append(get_delivery(store, "d1").state)
    assert states == ["queued", "running", "queued", "failed"]


@pytest.mark.parametrize("skipped", ["unhandled", "ignored", "malformed"])
def test_skipped_delivery_is_stored_with_the_reason(store: DeliveryStore, skipped: Any) -> None:
    assert store.accept("d1", b"{}", (), skipped, "because") == AcceptResult(skipped, "d1")
    assert get_delivery(store, "d1").state == skipped
    assert get_delivery(store, "d1").reason == "because"


def test_lazy_reason_is_called_once(store: DeliveryStore) -> None:
    asked: list[str] = []

    def why() -> str:
        asked.append("why")
        return "because"

    store.accept("d1", b"{}", (), "unhandled", why)
    delivery, (listed,) = get_delivery(store, "d1"), store.list()
    assert [delivery.reason, delivery.reason, listed.reason] == ["because"] * 3
    assert asked == ["why"]


def test_only_large_bodies_are_dropped_in_memory() -> None:
    # Ten bodies of up to ten bytes each fit; only a larger one is dropped.
    store = SqliteStore(":memory:", limits=MemoryLimits(keep=10, keep_bytes=100))
    store.accept("d1", b"0123456789", (), "unhandled", "small")
    store.accept("d2", b"0123456789+", (), "unhandled", "large")
    store.accept("d3", b"0" * 80, (), "unhandled")
    assert [(r.id, len(store.body(r.id) or b""), r.reason) for r in store.list()] == [
        ("d3", 80, ""),
        ("d2", 0, "large"),
        ("d1", 10, "small"),
    ]


def test_delivery_without_id_gets_a_fresh_one(store: DeliveryStore) -> None:
    first, second = (store.accept(None, b"{}", ["a"]).id for _ in range(2))
    assert first != second
    assert len(first) == 32
    assert {r.id for r in store.list()} == {first, second}


def test_list_has_newest_and_repeated_deliveries_first(store: DeliveryStore) -> None:
    for delivery_id in ("d1", "d2", "d3", "d1"):
        store.accept(delivery_id, b"{}", (), "unhandled")
    assert [r.id for r in store.list()] == ["d1", "d3", "d2"]


def test_unknown_id_has_no_delivery(store: DeliveryStore) -> None:
    assert store.get("d1") is None
    store.mark_acknowledged("d1", delivered=True)
    assert store.list() == []


def test_repr_of_a_delivery_hides_its_body(store: DeliveryStore) -> None:
    store.accept("d1", b"private", (), "unhandled")
    assert "private" not in repr(store.get("d1"))


def test_delivery_is_an_unchanging_copy(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    delivery, (listed,) = get_delivery(store, "d1"), store.list()
    run(store, "d1", a="succeeded")
    store.mark_acknowledged("d1", delivered=True)
    assert (delivery.state, listed.state) == ("queued", "queued")
    assert not delivery.is_acknowledged


# ---- the same id again ------------------------------------------------------------------------


def test_unfinished_delivery_is_not_run_twice(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a", "b"])
    assert store.accept("d1", b"{}", ["a", "b"]) == AcceptResult("in_progress", "d1")
    run(store, "d1", a="failed")
    start(store, "d1", "b")
    assert store.accept("d1", b"{}", ["a", "b"]) == AcceptResult("in_progress", "d1")
    delivery = get_delivery(store, "d1")
    assert delivery.duplicates == 2
    assert [r.state for r in delivery.runs] == ["failed", "running"]


@pytest.mark.parametrize("delivered", [False, True])
@pytest.mark.parametrize("replays", ["run", "skip"])
def test_only_failed_handlers_run_again(
    make_store: Callable[..., DeliveryStore], replays: Any, delivered: bool
) -> None:
    store = make_store(on_replay=replays)
    store.accept("d1", b"{}", ["a", "b", "c"])
    store.mark_acknowledged("d1", delivered=delivered)
    run(store, "d1", a="succeeded", b="failed", c="ignored")
    assert store.accept("d1", b"{}", ["a", "b", "c"]) == AcceptResult("accepted", "d1", ("b",))
    delivery = get_delivery(store, "d1")
    assert [(r.handler, r.state) for r in delivery.runs] == [
        ("a", "succeeded"),
        ("c", "ignored"),
        ("b", "queued"),
    ]
    again = start(store, "d1", "b")
    assert (again.attempt, again.is_replay) == (2, delivered)


def test_failed_handlers_run_again_without_a_match(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    run(store, "d1", a="failed")
    assert store.accept("d1", b"{}", (), "unhandled").handlers == ("a",)
    assert get_delivery(store, "d1").state == "queued"


def test_failed_handlers_do_not_run_on_malformed_body(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    run(store, "d1", a="failed")
    assert store.accept("d1", b"{", (), "malformed").status == "malformed"
    assert get_delivery(store, "d1").state == "failed"


def test_acknowledged_success_makes_the_next_a_replay(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    store.mark_acknowledged("d1", delivered=True)
    run(store, "d1", a="succeeded")
    assert store.accept("d1", b"{}", ["a", "new"]) == AcceptResult("accepted", "d1", ("a", "new"))
    assert get_delivery(store, "d1").is_replay
    contexts = [start(store, "d1", name) for name in ("a", "new")]
    assert [(d.attempt, d.is_replay) for d in contexts] == [(2, True), (1, True)]


def test_replays_can_be_skipped(make_store: Callable[..., DeliveryStore]) -> None:
    store = make_store(on_replay="skip")
    store.accept("d1", b"{}", ["a"])
    store.mark_acknowledged("d1", delivered=True)
    run(store, "d1", a="succeeded")
    assert store.accept("d1", b"{}", ["a"]).status == "duplicate"


def test_unacknowledged_success_makes_the_next_a_retry(
    store: DeliveryStore,
) -> None:
    store.accept("d1", b"{}", ["a"])
    store.mark_acknowledged("d1", delivered=False)
    run(store, "d1", a="succeeded")
    assert store.accept("d1", b"{}", ["a"]) == AcceptResult("duplicate", "d1")
    assert get_delivery(store, "d1").duplicates == 1


def test_delivery_after_an_acknowledged_retry_is_a_replay(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    run(store, "d1", a="succeeded")
    assert store.accept("d1", b"{}", ["a"]).status == "duplicate"
    store.mark_acknowledged("d1", delivered=True)
    store.mark_acknowledged("d1", delivered=False)
    assert store.accept("d1", b"{}", ["a"]).status == "accepted"


def test_count_of_duplicates_survives_a_rerun(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    store.accept("d1", b"{}", ["a"])
    run(store, "d1", a="failed")
    store.accept("d1", b"{}", ["a"])
    assert get_delivery(store, "d1").duplicates == 1


def test_unacknowledged_replay_does_not_run_again(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    store.mark_acknowledged("d1", delivered=True)
    run(store, "d1", a="succeeded")
    store.accept("d1", b"{}", ["a"])
    run(store, "d1", a="succeeded")
    assert store.accept("d1", b"{}", ["a"]).status == "duplicate"


@pytest.mark.parametrize("skipped", ["unhandled", "ignored", "malformed"])
@pytest.mark.parametrize("replays", ["run", "skip"])
def test_delivery_without_runs_is_matched_again(
    make_store: Callable[..., DeliveryStore], skipped: Any, replays: Any
) -> None:
    store = make_store(on_replay=replays)
    store.accept("d1", b"{}", (), skipped)
    store.mark_acknowledged("d1", delivered=True)
    assert store.accept("d1", b"{}", ["a"]) == AcceptResult("accepted", "d1", ("a",))
    assert get_delivery(store, "d1").state == "queued"
    assert start(store, "d1").is_replay


def test_ignored_delivery_is_matched_again(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    run(store, "d1", a="ignored")
    assert store.accept("d1", b"{}", ["a", "b"]) == AcceptResult("accepted", "d1", ("a", "b"))


# ---- readiness of runs ------------------------------------------------------------------------


def test_unclaimed_runs_are_ready_in_arrival_order(store: DeliveryStore) -> None:
    for delivery_id in ("d1", "d2", "d3"):
        store.accept(delivery_id, b"{}", ["b", "a"])
    start(store, "d1", "a")
    order = [("d1", "b"), ("d2", "b"), ("d2", "a"), ("d3", "b"), ("d3", "a")]
    assert store.list_ready(8) == order
    assert store.list_ready(2) == order[:2]
    assert store.list_ready(8, ["b"]) == [("d2", "a"), ("d3", "a")]
    assert store.claim("d1", "a") is None
    assert store.claim("d1", "c") is None
    assert store.claim("d9", "a") is None


def test_retrying_run_waits_and_counts_its_failures(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    delivery = start(store, "d1")
    assert (delivery.attempt, delivery.failures) == (1, 0)
    end(store, delivery, "failed", retry_after=3600)
    (waiting,) = get_delivery(store, "d1").runs
    assert (waiting.state, waiting.error, waiting.finished_at) == ("retrying", "why", None)
    assert timedelta(seconds=3500) < waiting.due_at - waiting.started_at < timedelta(seconds=3700)
    assert store.list_ready(8) == []
    assert 3500 < (store.seconds_to_next() or 0) <= 3600
    assert store.accept("d1", b"{}", ["a"]).status == "in_progress"
    # `claim` does not check the time of the retry: the worker does.
    delivery = start(store, "d1")
    assert (delivery.attempt, delivery.failures) == (2, 1)
    end(store, delivery, "failed", retry_after=0)
    assert store.list_ready(8) == [("d1", "a")]
    assert store.seconds_to_next() is None
    end(store, start(store, "d1"), "failed")
    assert store.accept("d1", b"{}", ["a"]).status == "accepted"
    again = start(store, "d1")
    assert (again.attempt, again.failures) == (4, 0)


def test_stuck_run_is_unfinished_until_it_returns(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    delivery = start(store, "d1")
    store.mark_stuck(delivery)
    assert get_delivery(store, "d1").state == "stuck"
    assert store.accept("d1", b"{}", ["a"]).status == "in_progress"
    assert store.list_ready(8) == []
    end(store, delivery)
    assert get_delivery(store, "d1").state == "succeeded"
    store.mark_stuck(delivery)
    assert get_delivery(store, "d1").state == "succeeded"


def test_stuck_run_keeps_the_error_of_its_last_attempt(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    end(store, start(store, "d1"), "failed", retry_after=0)
    store.mark_stuck(start(store, "d1"))
    (stuck,) = get_delivery(store, "d1").runs
    assert (stuck.state, stuck.error, stuck.traceback) == ("stuck", "why", "traceback")


def test_end_of_an_abandoned_attempt_changes_nothing(store: DeliveryStore) -> None:
    store.accept("d1", b"{}", ["a"])
    abandoned = start(store, "d1")
    end(store, abandoned, "failed", retry_after=0)
    end(store, abandoned, "succeeded")
    assert get_delivery(store, "d1").state == "retrying"
    start(store, "d1")
    end(store, abandoned, "succeeded")
    store.mark_stuck(abandoned)
    assert get_delivery(store, "d1").state == "running"


def test_a_finished_delivery_can_be_queued_again(store: DeliveryStore) -> None:
    store.accept("d1", b"body", ["a", "b"], scope="repo", action="update", repo="me/x")
    store.accept("d2", b"{}", (), "unhandled", "why")
    assert [store.replay(name) for name in ("d1", "d2", "d9")] == [(), (), ()]
    run(store, "d1", a="succeeded", b="failed")
    assert store.replay("d1", ["a"]) == ("a",)
    delivery = get_delivery(store, "d1")
    assert [(r.handler, r.state) for r in delivery.runs] == [("b", "failed"), ("a", "queued")]
    assert (delivery.body, delivery.scope, delivery.action, delivery.repo) == (
        b"body",
        "repo",
        "update",
        "me/x",
    )
    assert [r.id for r in store.list()] == ["d1", "d2"]
    again = start(store, "d1")
    assert (again.attempt, again.is_replay) == (2, True)
    end(store, again)
    assert store.replay("d1") == ("b", "a")
    assert store.replay("d2", ["a"]) == ("a",)
    assert (get_delivery(store, "d2").state, get_delivery(store, "d2").reason) == ("queued", "")


# ---- looking on --------------------------------------------------------------------------------


def test_list_has_filters_and_pages(store: DeliveryStore) -> None:
    for number in range(6):
        scope, repo = ("repo.content", "me/a") if number % 2 else ("discussion", None)
        store.accept(f"d{number}", b"{}", ["a"], scope=scope, action="update", repo=repo)
    run(store, "d3", a="failed")

    def names(**criteria: Any) -> str:
        return "".join(r.id[1:] for r in store.list(**criteria))

    assert (names(), names(limit=2), names(limit=2, before="d4")) == ("543210", "54", "32")
    assert names(before="d0") == names(before="nobody") == ""
    assert (names(scope="discussion"), names(repo="me/a")) == ("420", "531")
    assert names(repo="me/a", state="failed") == "3"
    assert names(since=get_delivery(store, "d4").received_at) == "54"
    (listed,) = store.list(limit=1)
    assert (listed.body, listed.size, listed.action) == (None, 2, "update")


def test_stats_count_the_store(store: DeliveryStore) -> None:
    assert store.stats() == ({}, 0, None, {})
    store.accept("d1", b"12345", (), "unhandled")
    store.accept("d2", b"123", ["a", "b"])
    store.accept("d3", b"1", ["a"])
    run(store, "d3", a="succeeded")
    for count in (2, 3):
        store.count_rejections(1, "secret wrong", count)
    states = {"unhandled": 1, "queued": 1, "succeeded": 1}
    received_at = get_delivery(store, "d2").received_at
    assert store.stats() == (states, 9, received_at, {"secret wrong": 5})


# ---- limits -----------------------------------------------------------------------------------


def test_number_of_finished_deliveries_is_limited() -> None:
    store = SqliteStore(":memory:", limits=MemoryLimits(keep=2))
    for number in range(4):
        store.accept(f"d{number}", b"{}", (), "unhandled")
    assert [r.id for r in store.list()] == ["d3", "d2"]


def test_unfinished_deliveries_are_all_kept() -> None:
    store = SqliteStore(":memory:", limits=MemoryLimits(keep=1, keep_bytes=3))
    for number in range(4):
        store.accept(f"d{number}", b"1234", ["a"])
    start(store, "d3")
    assert [store.body(r.id) for r in store.list()] == [b"1234"] * 4
    run(store, "d0", a="succeeded")
    run(store, "d1", a="succeeded")
    assert [r.id for r in store.list()] == ["d3", "d2", "d1"]


def test_oldest_bodies_are_dropped_and_their_deliveries_stay() -> None:
    store = SqliteStore(":memory:", limits=MemoryLimits(keep_bytes=5))
    for number in range(4):
        store.accept(f"d{number}", b"12", (), "unhandled")
    assert [store.body(r.id) for r in store.list()] == [b"12", b"12", None, None]
    # A repeated delivery has its body again, and counts once.
    store.accept("d2", b"12", (), "unhandled")
    store.accept("d0", b"12", (), "unhandled")
    assert [(r.id, store.body(r.id)) for r in store.list()] == [
        ("d0", b"12"),
        ("d2", b"12"),
        ("d3", None),
        ("d1", None),
    ]


def test_full_store_rejects_until_a_run_finishes() -> None:
    store = SqliteStore(":memory:", limits=MemoryLimits(hold_bytes=8))
    for delivery_id in ("d1", "d2"):
        store.accept(delivery_id, b"1234", ["a"])
    with pytest.raises(
        StoreError, match=r"take 8 bytes of memory, and 1 more would exceed the limit of 8"
    ):
        store.accept("d3", b"1", ["a"])
    assert get_delivery(store, "d3") is None
    assert store.accept("d1", b"1234", ["a"]).status == "in_progress"
    # A delivery without runs does not count for the limit.
    assert store.accept("d4", b"123456789", (), "unhandled").status == "unhandled"

    run(store, "d1", a="failed")
    assert store.accept("d3", b"1", ["a"]).status == "accepted"
    with pytest.raises(StoreError):
        store.accept("d1", b"1234", ["a"])
    assert get_delivery(store, "d1").state == "failed"
    run(store, "d2", a="succeeded")
    assert store.accept("d1", b"1234", ["a"]).status == "accepted"
    run(store, "d1", a="succeeded")
    run(store, "d3", a="succeeded")
    assert store.accept("d5", b"12345678", ["a"]).status == "accepted"


def test_rerunning_delivery_is_not_dropped() -> None:
    store = SqliteStore(":memory:", limits=MemoryLimits(keep=1))
    store.accept("d1", b"{}", ["a"])
    run(store, "d1", a="failed")
    store.accept("d1", b"{}", ["a"])
    store.accept("d2", b"{}", (), "unhandled")
    store.accept("d3", b"{}", (), "unhandled")
    assert get_delivery(store, "d1").state == "queued"


def test_one_of_many_threads_runs_a_delivery(store: DeliveryStore) -> None:
    together = threading.Barrier(8)
    statuses: list[str] = []

    def accept() -> None:
        together.wait(30)
        statuses.extend([store.accept(f"d{n}", b"{}", ["a"]).status for n in range(200)])

    threads = [threading.Thread(target=accept) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count("accepted") == 200
    assert statuses.count("in_progress") == 1_400
