"""The handlers that a Replay names: each runs once, and a wrong name is the caller's mistake."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from servers import PATIENCE, wait_until
from test_cli import hubhooks

from hubhooks import Webhooks
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from hubhooks._store.base import DeliveryStore

TOKEN = "a-token-that-nobody-guesses"
HEADERS = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(params=["memory", "disk"])
def store(request: Any, tmp_path: Path) -> Generator[DeliveryStore]:
    made = SqliteStore(":memory:" if request.param == "memory" else tmp_path / "hubhooks.db")
    made.open()
    made.recover()
    yield made
    made.close()


def run(store: DeliveryStore, *handlers: str) -> None:
    """Run handlers of the delivery `d1` until they are done."""
    for handler in handlers:
        run = store.claim("d1", handler)
        assert run is not None
        store.finish_run(run, "succeeded")
    store.flush()


def states(store: DeliveryStore) -> list[tuple[str, str]]:
    delivery = store.get("d1")
    assert delivery is not None
    return [(run.handler, run.state) for run in delivery.runs]


@pytest.mark.parametrize(
    ("named", "queued"),
    [
        (["a", "a"], ("a",)),
        (["b", "a", "b", "a"], ("b", "a")),
        (["new", "a", "new"], ("new", "a")),
        (["a"] * 100_000, ("a",)),
        ((), ("a", "b")),
        # A string is one name, and not one name per letter.
        ("retrain", ("retrain",)),
    ],
)
def test_replay_queues_each_name_once_in_order(
    store: DeliveryStore, named: Any, queued: tuple[str, ...]
) -> None:
    store.accept("d1", b"{}", ["a", "b"])
    run(store, "a", "b")
    assert store.replay("d1", named) == queued
    others = [(name, "succeeded") for name in ("a", "b") if name not in queued]
    assert states(store) == others + [(name, "queued") for name in queued]
    # No second run of the same name is left over, which would keep the delivery unfinished.
    run(store, *queued)
    delivery = store.get("d1")
    assert delivery is not None
    assert delivery.state == "succeeded"


def test_replay_queues_many_names(store: DeliveryStore) -> None:
    names = tuple(f"handler_{number}" for number in range(2_000))
    store.accept("d1", b"{}", ["a"])
    run(store, "a")
    assert store.replay("d1", names * 2) == names
    assert states(store) == [("a", "succeeded"), *((name, "queued") for name in names)]


@pytest.mark.parametrize("named", [[""], ["a", ""], [None], [1], [b"a"], [["a"]], ["\ud800"]])
def test_replay_rejects_an_unknown_handler(store: DeliveryStore, named: Any) -> None:
    store.accept("d1", b"{}", ["a"])
    run(store, "a")
    with pytest.raises(ConfigError, match="is not a name of a handler"):
        store.replay("d1", named)
    assert states(store) == [("a", "succeeded")]


def test_accept_queues_each_name_once_in_order(store: DeliveryStore) -> None:
    assert store.accept("d1", b"{}", ["b", "a", "b"]).handlers == ("b", "a")
    assert states(store) == [("b", "queued"), ("a", "queued")]
    run(store, "a", "b")
    delivery = store.get("d1")
    assert delivery is not None
    assert delivery.state == "succeeded"


# ---- over HTTP ---------------------------------------------------------------------------------


@pytest.mark.parametrize("is_on_disk", [False, True])
@pytest.mark.parametrize(
    ("named", "queued"),
    [
        (["retrain", "retrain"], ["retrain"]),
        (["reply", "retrain", "reply"], ["reply", "retrain"]),
        (["retrain"] * 5_000, ["retrain"]),
    ],
)
def test_json_api_runs_a_repeated_handler_once(
    serve: Any, post: Any, body: Callable[..., bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, named: list[str], queued: list[str], *, is_on_disk: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", TOKEN)
    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db" if is_on_disk else ":memory:")
    ran: list[str] = []
    for name in ("retrain", "reply"):
        hooks.on("repo", name=name)(lambda event, name=name: ran.append(name))
    with serve(hooks) as port:
        assert post(port, body("repo.create"))[0] == 202
        wait_until(lambda: is_done(hooks))
        ran.clear()
        response = replay(port, json.dumps({"handlers": named}))
        assert (response.status_code, response.json()) == (
            202, {"delivery": "d1", "handlers": queued},
        )  # fmt: skip
        wait_until(lambda: is_done(hooks))
        assert sorted(ran) == sorted(queued)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        ('{"handlers": [""]}', 400),
        ('{"handlers": ["retrain", ""]}', 400),
        ('{"handlers": ["retrain", null]}', 400),
        ('{"handlers": "retrain"}', 400),
        ('{"handlers": {"retrain": 1}}', 400),
        ('{"handlers": ["unknown", "unknown"]}', 409),
        ('{"handlers": ["\\ud800"]}', 409),
    ],
)
def test_json_api_rejects_a_wrong_name_with_4xx(
    serve: Any, post: Any, body: Callable[..., bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, content: str, status: int,
) -> None:  # fmt: skip
    monkeypatch.setenv("HUBHOOKS_ADMIN_TOKEN", TOKEN)
    hooks = Webhooks("moon", deliveries=tmp_path / "hubhooks.db")
    hooks.on("repo", name="retrain")(lambda event: None)
    with serve(hooks) as port:
        assert post(port, body("repo.create"))[0] == 202
        wait_until(lambda: is_done(hooks))
        response = replay(port, content)
        assert response.status_code == status
        assert response.json()["reason"]


def replay(port: int, content: str) -> httpx.Response:
    url = f"http://127.0.0.1:{port}/deliveries/d1/replay"
    with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
        return client.post(url, content=content, headers=HEADERS)


def is_done(hooks: Webhooks) -> bool:
    delivery = hooks.deliveries.get("d1")
    return delivery is not None and delivery.state == "succeeded"


# ---- the command line --------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make a store with one delivery, `d1-first`, that the handlers `a` and `b` have finished."""
    store = SqliteStore(tmp_path / "hubhooks.db")
    store.open()
    store.recover()
    store.accept("d1-first", b"{}", ["a", "b"])
    for handler in ("a", "b"):
        run = store.claim("d1-first", handler)
        assert run is not None
        store.finish_run(run, "succeeded")
    store.close()
    return tmp_path / "hubhooks.db"


def command(path: Path, *words: str) -> Any:
    return hubhooks("deliveries", *words, HUBHOOKS_DELIVERIES=str(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "handlers"),
    [
        (["d1-first", "--only", "b", "--only", "a", "--only", "b"], ["b", "a"]),
        (["d1", "d1-first", "d1-f", "--only", "a"], ["a"]),
        (["d1", "d1"], ["a", "b"]),
        (["--since", "1d", "--only", "a", "--only", "a"], ["a"]),
        (["d1", "--only", "unknown", "--only", "unknown"], ["unknown"]),
    ],
)
def test_command_queues_each_name_of_each_delivery_once(
    path: Path, words: list[str], handlers: list[str]
) -> None:
    done = command(path, "replay", *words, "--json")
    assert done.returncode == 0, done.stderr
    (data,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (data["id"], data["handlers"]) == ("d1-first", handlers)
    assert sorted(run["handler"] for run in data["runs"]) == sorted(handlers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replay", "d1", "--only", ""], "--only is empty: give the name of a handler"),
        (["replay", ""], "an id is empty"),
        (["show", ""], "an id is empty"),
        (["export", "", "--output", "-"], "an id is empty"),
        (["list", "--before", ""], "an id is empty"),
    ],
)
def test_command_rejects_an_empty_id_or_name(path: Path, words: list[str], message: str) -> None:
    done = command(path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    store = SqliteStore(path)
    delivery = store.get("d1-first")
    assert delivery is not None
    assert delivery.state == "succeeded"
