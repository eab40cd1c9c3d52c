"""States, stored deliveries and `hooks.deliveries`."""

from __future__ import annotations

import json
import pickle
import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from servers import serve, wait_until

from hubhooks import RunContext, State, Webhooks, testing
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import ConfigError
from hubhooks.models import STATE_PRIORITY, aggregate_state

if TYPE_CHECKING:
    from pathlib import Path


def test_there_are_nine_states() -> None:
    assert [str(state) for state in State] == [
        "queued", "running", "retrying", "succeeded", "failed", "ignored", "unhandled", "malformed",
        "stuck",
    ]  # fmt: skip


@pytest.mark.parametrize("state", State)
def test_state_is_a_string(state: State) -> None:
    assert state == state.value
    assert {state.value: 1}[state] == 1
    assert f"{state}|{state:>10}" == f"{state.value}|{state.value:>10}"
    assert json.loads(json.dumps({state: state})) == {state.value: state.value}
    assert pickle.loads(pickle.dumps(state)) is state


def test_state_priority_has_every_state() -> None:
    assert sorted(STATE_PRIORITY) == sorted(State)
    assert aggregate_state(["succeeded", "failed", None]) is State.FAILED


def test_deliveries_has_four_methods() -> None:
    hooks = Webhooks("moon", deliveries=":memory:")
    public = [name for name in dir(hooks.deliveries) if not name.startswith("_")]
    assert public == ["get", "list", "replay", "stats"]


def test_unknown_state_in_list_names_the_states() -> None:
    hooks = Webhooks("moon", deliveries=":memory:")
    with pytest.raises(ConfigError, match="there is no state `done`; the states are: queued, "):
        hooks.deliveries.list(state="done")


@pytest.mark.parametrize("deliveries", ["hubhooks.db", ":memory:"])
def test_replay_from_another_thread_runs_the_handler(
    deliveries: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hooks = Webhooks("moon", deliveries=deliveries)
    attempts: list[int] = []

    @hooks.on("repo", name="handle")
    def handle(event: object, context: RunContext) -> None:
        attempts.append(context.attempt)

    with serve(hooks) as port:
        send(port)
        wait_until(lambda: attempts == [1], "the handler does not run")
        wait_until(lambda: one_state(hooks) is State.SUCCEEDED, "the run does not end")
        queued: list[tuple[str, ...]] = []
        thread = threading.Thread(target=lambda: queued.append(hooks.deliveries.replay("d1")))
        thread.start()
        thread.join()
        assert queued == [("handle",)]
        wait_until(lambda: attempts == [1, 2], "the handler does not run again")
        assert hooks.deliveries.replay("unknown") == ()
        with pytest.raises(ConfigError, match="is not a name of a handler"):
            hooks.deliveries.replay("d1", [""])


def test_replay_without_a_server_queues_for_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "hubhooks.db"
    store = SqliteStore(path)
    store.open()
    store.recover()
    store.accept("d1", testing.repo("create").raw, ["handle"])
    run = store.claim("d1", "handle")
    assert run is not None
    store.finish_run(run, State.SUCCEEDED)
    store.close()
    hooks = Webhooks("moon", deliveries=path)
    assert hooks.deliveries.replay("d1", "handle") == ("handle",)
    assert one_state(hooks) is State.QUEUED


def test_replay_creates_no_store(tmp_path: Path) -> None:
    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    assert hooks.deliveries.replay("d1") == ()
    assert list(tmp_path.iterdir()) == []


def test_run_of_another_handler_is_a_key_error(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "hubhooks.db")
    store.open()
    store.accept("d1", b"{}", ["handle"])
    delivery = store.get("d1")
    store.close()
    assert delivery is not None
    assert delivery.run("handle").state is State.QUEUED
    with pytest.raises(KeyError, match="other"):
        delivery.run("other")


def one_state(hooks: Webhooks) -> State | None:
    (delivery,) = hooks.deliveries.list()
    return delivery.state


def send(port: int) -> None:
    response = httpx.post(
        f"http://127.0.0.1:{port}/",
        content=testing.repo("create").raw,
        headers={"X-Webhook-Secret": "moon", "Webhook-Id": "d1"},
        trust_env=False,
    )
    assert response.status_code == 202
