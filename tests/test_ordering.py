"""`serial=` and `debounce=`: groups of runs, their order, and replaced runs."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from servers import started, wait_until

from hubhooks import HubEvent, Ignore, RunContext, Webhooks, testing
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import ConfigError
from hubhooks.handlers import Policy
from hubhooks.models import RunGroup
from hubhooks.ordering import group_of, superseded_of

if TYPE_CHECKING:
    from pathlib import Path

    from servers import Server

ON_DISK = {"HUBHOOKS_DELIVERIES": None}
A, B = "a" * 40, "b" * 40


def push(ref: str = "main", repo: str = "me/tides", **changes: Any) -> HubEvent:
    return testing.replace(testing.content(ref=ref, repo=repo), **changes)


def subject(event: HubEvent) -> str:
    group = group_of(Policy(debounce=10), event)
    assert group is not None
    return group.subject


# ---- groups ------------------------------------------------------------------------------------


def test_handler_without_options_has_no_group() -> None:
    assert group_of(Policy(concurrency=1), push()) is None


@pytest.mark.parametrize(
    "event",
    [
        testing.comment("hello"),
        testing.comment("hello", opening_post=True),
        testing.bucket(["a.csv"]),
        testing.repo("move", moved_to="me/other"),
    ],
    ids=["comment", "opening post", "bucket", "move"],
)
def test_event_with_unique_information_is_never_replaced(event: HubEvent) -> None:
    group = group_of(Policy(debounce=10), event)
    assert group == RunGroup("", "", 0.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (push("main"), push("dev")),
        (push("main"), push("refs/pr/1")),
        (push("main"), push(repo="me/other")),
        (testing.discussion("update", num=1), testing.discussion("update", num=2)),
        (testing.discussion("update", num=1), testing.discussion("create", num=1)),
        (testing.repo("create"), testing.repo("delete")),
        (testing.config(), testing.repo("update")),
    ],
)
def test_events_about_different_subjects_keep_their_runs(one: HubEvent, other: HubEvent) -> None:
    assert subject(one) != subject(other)


def test_two_pushes_to_one_branch_have_one_subject() -> None:
    assert subject(push()) == subject(push()) != ""


def test_serial_group_survives_a_move_of_the_repository() -> None:
    policy = Policy(serial="repo")
    named = group_of(policy, push())
    moved = group_of(policy, push(repo__name="me/moved"))
    assert named == moved
    assert named != group_of(policy, push(repo="me/other"))


@pytest.mark.parametrize(
    ("option", "value"),
    [("serial", "handler"), ("serial", True), ("debounce", 0), ("debounce", -1), ("debounce", "5")],
)
def test_impossible_options_are_errors(option: str, value: Any) -> None:
    options: Any = {option: value}
    with pytest.raises(ConfigError, match=f"`{option}="):
        Webhooks("moon").add(lambda event: None, name="handler", **options)


def test_superseded_names_the_commit_before_the_oldest_push() -> None:
    oldest = push(updated_refs__0__old_sha=A)
    assert superseded_of(("d1", "d2"), oldest.raw) == (("d1", "d2"), A)
    assert superseded_of(("d1",), None) == (("d1",), None)
    assert superseded_of(("d1",), b"no event") == (("d1",), None)


# ---- the store ---------------------------------------------------------------------------------


class Clock:
    """The clock of a store."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("hubhooks._store.clock.now", made)
    return made


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> SqliteStore:
    made = SqliteStore(tmp_path / "hubhooks.db")
    made.open()
    made.recover()
    return made


def accept(store: SqliteStore, delivery_id: str, subject: str = "s", serial: str = "") -> None:
    debounce = 10.0 if subject else 0.0
    groups = {"handler": RunGroup(serial, subject, debounce)}
    store.accept(delivery_id, b"{}", ["handler", "other"], groups=groups)


def ready(store: SqliteStore) -> list[str]:
    found = store.list_ready(99, grouped=["handler"])
    return [delivery_id for delivery_id, name in found if name == "handler"]


def state(store: SqliteStore, delivery_id: str) -> str:
    delivery = store.get(delivery_id)
    assert delivery is not None
    return delivery.run("handler").state


def test_newer_delivery_replaces_the_queued_run(store: SqliteStore, clock: Clock) -> None:
    accept(store, "d1")
    clock.now += 9
    accept(store, "d2")
    assert (state(store, "d1"), state(store, "d2")) == ("ignored", "queued")
    replaced = store.get("d1")
    assert replaced is not None
    assert replaced.run("handler").error == "replaced by `d2`"
    # The run of another handler is not touched.
    assert replaced.run("other").state == "queued"
    assert replaced.state == "queued"
    clock.now += 9
    assert ready(store) == []
    assert store.seconds_to_next(["handler"]) == 1
    assert store.claim("d2", "handler", is_grouped=True) is None
    clock.now += 1
    assert ready(store) == ["d2"]
    assert store.claim("d2", "handler", is_grouped=True) is not None
    assert store.read_superseded("d2", "handler") == (("d1",), b"{}")


def test_wait_for_newer_deliveries_ends_after_ten_times(store: SqliteStore, clock: Clock) -> None:
    for number in range(30):
        accept(store, f"d{number}")
        if ready(store):
            break
        clock.now += 9
    # It came after 108 s. The first one waits for 100 s at most.
    assert ready(store) == ["d12"]


def test_chain_of_replaced_deliveries_is_kept_whole(store: SqliteStore) -> None:
    for number in range(4):
        accept(store, f"d{number}")
    assert store.read_superseded("d3", "handler")[0] == ("d0", "d1", "d2")
    assert [state(store, f"d{n}") for n in range(4)] == ["ignored"] * 3 + ["queued"]


def test_running_run_is_not_replaced(store: SqliteStore, clock: Clock) -> None:
    accept(store, "d1")
    clock.now += 10
    assert store.claim("d1", "handler", is_grouped=True) is not None
    accept(store, "d2")
    assert (state(store, "d1"), state(store, "d2")) == ("running", "queued")
    assert store.read_superseded("d2", "handler") == ((), None)


def test_deliveries_of_one_transaction_replace_each_other(store: SqliteStore) -> None:
    with store.transaction():
        for number in range(3):
            accept(store, f"d{number}")
    assert [state(store, f"d{n}") for n in range(3)] == ["ignored", "ignored", "queued"]


def test_replay_runs_at_once_and_replaces_nothing(store: SqliteStore, clock: Clock) -> None:
    accept(store, "d1", serial="r")
    clock.now += 10
    context = store.claim("d1", "handler", is_grouped=True)
    assert context is not None
    store.finish_run(context, "succeeded")
    store.flush()
    other = store.claim("d1", "other")
    assert other is not None
    store.finish_run(other, "succeeded")
    store.flush()
    accept(store, "d2", serial="r")
    assert store.replay("d1", ["handler"]) == ("handler",)
    assert state(store, "d2") == "queued"
    # It comes after `d2`, which is of the same repository and still waits.
    assert ready(store) == []
    clock.now += 10
    assert ready(store) == ["d2"]


def test_serial_runs_start_in_the_order_of_arrival(store: SqliteStore) -> None:
    for number in range(3):
        accept(store, f"d{number}", "", serial="r")
    accept(store, "other", "", serial="r2")
    assert ready(store) == ["d0", "other"]
    assert store.claim("d1", "handler", is_grouped=True) is None
    context = store.claim("d0", "handler", is_grouped=True)
    assert context is not None
    assert ready(store) == ["other"]
    # A retry comes before the next delivery.
    store.finish_run(context, "failed", retry_after=3600)
    store.flush()
    assert ready(store) == ["other"]


def test_groups_survive_a_restart_and_go_with_their_delivery(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "hubhooks.db"
    first = SqliteStore(path)
    first.open()
    first.recover()
    accept(first, "d1")
    accept(first, "d2")
    first.close()
    again = SqliteStore(path)
    again.open()
    again.recover()
    assert ready(again) == []
    clock.now += 10
    assert ready(again) == ["d2"]
    assert again.read_superseded("d2", "handler")[0] == ("d1",)


# ---- an app ------------------------------------------------------------------------------------


def ended(hooks: Webhooks, *ids: str) -> bool:
    found = [hooks.deliveries.get(each) for each in ids]
    return all(delivery is not None and not delivery.is_open for delivery in found)


def test_burst_of_pushes_runs_the_first_and_the_last(tmp_path: Path, serve: Any, post: Any) -> None:
    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    ran: list[RunContext] = []
    hooks.on("repo.content", name="retrain", debounce=0.5)(
        lambda event, context: ran.append(context)
    )
    shas = [f"{number:040x}" for number in range(51)]
    with serve(hooks) as port:
        for number in range(50):
            event = push(updated_refs__0__old_sha=shas[number], repo__head_sha=shas[number + 1])
            assert post(port, event.raw, f"d{number}")[0] == 202
        wait_until(lambda: ended(hooks, "d49"), "does not run the last one")
    assert len(ran) <= 2
    assert ran[-1].id == "d49"
    superseded = {each for context in ran for each in context.superseded.ids}
    assert superseded | {context.id for context in ran} == {f"d{n}" for n in range(50)}
    # Together they begin before the first push, so that no commit is missed.
    assert ran[0].superseded.old_sha == shas[0]


def test_two_discussions_and_two_refs_keep_all_runs(tmp_path: Path, serve: Any, post: Any) -> None:
    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    ran: list[str] = []
    hooks.on(name="handler", debounce=0.2)(lambda event, context: ran.append(context.id))
    events = [
        testing.discussion("update", num=1),
        testing.discussion("update", num=2),
        push("main"),
        push("refs/pr/1"),
        testing.comment("one"),
        testing.comment("two"),
    ]
    ids = [f"d{number}" for number in range(len(events))]
    with serve(hooks) as port:
        for delivery_id, event in zip(ids, events, strict=True):
            assert post(port, event.raw, delivery_id)[0] in {200, 202}
        wait_until(lambda: ended(hooks, *ids), "does not run all of them")
    assert sorted(ran) == ids


def test_serial_handler_runs_one_delivery_per_repository(
    tmp_path: Path, serve: Any, post: Any
) -> None:
    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    order: list[str] = []
    running: set[str] = set()
    both, overlaps = threading.Barrier(2, timeout=30), []

    @hooks.on("repo.content", serial="repo", retries=2, backoff=0.05)
    def retrain(event: HubEvent, context: RunContext) -> None:
        assert event.repo is not None
        overlaps.append(event.repo.name in running)
        running.add(event.repo.name)
        try:
            if context.id in {"a0", "b0"}:
                both.wait()  # two repositories run at the same time
            if context.id == "a1" and context.attempt == 1:
                msg = "once"
                raise ValueError(msg)
            order.append(context.id)
        finally:
            running.discard(event.repo.name)

    ids = [f"{repo}{number}" for number in range(5) for repo in "ab"]
    with serve(hooks) as port:
        for delivery_id in ids:
            event = push(repo=f"me/{delivery_id[0]}")
            assert post(port, event.raw, delivery_id)[0] == 202
        wait_until(lambda: ended(hooks, *ids), "does not run all of them")
    assert not any(overlaps)
    for repo in "ab":
        assert [each for each in order if each[0] == repo] == [f"{repo}{n}" for n in range(5)]


SERIAL = """
import os, time
from hubhooks import Webhooks
from hubhooks._store import leadership

leadership._CRASH_BACKOFF_SECONDS = 0.05
hooks = Webhooks()

@hooks.on("repo.content", serial="repo")
def retrain(event, context):
    with open("began", "a") as file:
        file.write(context.id + "\\n")
    while not os.path.exists("go"):
        time.sleep(0.01)
    with open("ran", "a") as file:
        file.write(context.id + "\\n")
"""


def test_serial_order_survives_sigkill(tmp_path: Path) -> None:
    began, ran = tmp_path / "began", tmp_path / "ran"

    def deliver(server: Server, delivery_id: str) -> None:
        headers = {"Webhook-Id": delivery_id}
        assert server.post("/", push().raw, headers=headers).status_code == 202

    (tmp_path / "app.py").write_text(SERIAL, "utf-8")
    command = ("-m", "uvicorn", "app:hooks", "--port", "{port}")
    with started(tmp_path, *command, environ=ON_DISK) as server:
        for number in range(4):
            deliver(server, f"d{number}")
        server.wait_until(began.exists, "starts no run")
        server.kill()
    with started(tmp_path, *command, environ=ON_DISK) as server:
        deliver(server, "d4")
        server.wait_until(lambda: len(began.read_text().split()) == 2, "does not run it again")
        (tmp_path / "go").touch()
        server.wait_until(
            lambda: ran.exists() and len(ran.read_text().split()) == 5, "does not run all"
        )
    assert began.read_text().split() == ["d0", "d0", "d1", "d2", "d3", "d4"]
    assert ran.read_text().split() == ["d0", "d1", "d2", "d3", "d4"]


def test_test_client_runs_debounced_handlers_at_once() -> None:
    hooks = Webhooks("moon")

    @hooks.on("repo.content", name="retrain", debounce=3600, serial="repo")
    def retrain(event: HubEvent, context: RunContext) -> str:
        if context.superseded.ids:
            raise Ignore
        return "done"

    client = testing.TestClient(hooks)
    for _ in range(2):
        assert client.send(push())["retrain"].value == "done"
