"""Which of several processes runs the handlers: the one with the newest code."""

from __future__ import annotations

import re
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from servers import PATIENCE, UVICORN, Server, started, wait_until

from hubhooks import Webhooks, _process
from hubhooks._app_code import AppCode
from hubhooks._process import Process, current_process, is_alive
from hubhooks._samples import compact, sample_json
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = compact(sample_json("repo.content.update"))
ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": None}
APP = """
import os, time
from hubhooks import Webhooks

app = Webhooks()

@app.on("repo.content")
def handle(event, context):
    with open("ran", "a") as file:
        file.write(f"{context.id} VERSION {os.getpid()}\\n")
    while os.path.exists(f"hold-{context.id}"):
        time.sleep(0.01)
"""


def app(version: int) -> str:
    return APP.replace("VERSION", str(version))


def ran(folder: Path) -> dict[str, list[str]]:
    """Return the version and process of each run, by delivery."""
    path = folder / "ran"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line.split()[0]: line.split()[1:] for line in lines}


def deliver(server: Server, *delivery_ids: str) -> None:
    for delivery_id in delivery_ids:
        response = server.post("/", BODY, headers={"Webhook-Id": delivery_id})
        assert response.status_code == 202, response.text


def wait_until_ran(server: Server, *delivery_ids: str) -> None:
    server.wait_until(lambda: set(delivery_ids) <= set(ran(server.folder)), "does not run them")


def wait_until_leads(server: Server) -> None:
    store = SqliteStore(server.folder / "hubhooks.db")

    def leads() -> bool:
        try:
            leader = store.leader()
        except BusyError:
            return False
        return leader is not None and leader.process.pid == server.pid

    server.wait_until(leads, "does not take the lead")


def test_process_with_newer_code_becomes_leader(tmp_path: Path) -> None:
    with started(tmp_path, script=app(1), environ=ON_DISK) as old:
        deliver(old, "before")
        wait_until_ran(old, "before")
        with started(tmp_path, script=app(2), environ=ON_DISK) as new:
            wait_until_leads(new)
            deliver(old, "to-old")
            deliver(new, "to-new")
            wait_until_ran(new, "to-old", "to-new")
            output = new.output()
        pattern = (
            rf"process {old.pid} is the leader of the delivery store `.*hubhooks\.db` since "
            r"[-\d]+ [:\d]+ UTC, with code (\w{8})\. This process has code (\w{8}), and becomes"
        )
        found = re.search(pattern, output)
        assert found is not None, output
        assert found[1] != found[2]
        assert output.count("is the leader of the delivery store") == 1
        # The old one leads again once no other process does.
        wait_until_leads(old)
    runs = ran(tmp_path)
    assert runs["before"] == ["1", str(old.pid)]
    assert runs["to-old"] == runs["to-new"] == ["2", str(new.pid)]
    show = SqliteStore(tmp_path / "hubhooks.db").get("to-old")
    assert show is not None
    (attempt,) = show.runs[0].history
    assert (attempt.number, attempt.pid, attempt.code) == (1, new.pid, found[2])


def test_newer_code_waits_for_the_runs_of_the_older(tmp_path: Path) -> None:
    hold = tmp_path / "hold-long"
    hold.touch()
    with started(tmp_path, script=app(1), environ=ON_DISK) as old:
        deliver(old, "long")
        wait_until_ran(old, "long")
        with started(tmp_path, script=app(2), environ=ON_DISK) as new:
            old.wait_for("has newer code")
            for number in range(10):
                deliver(new if number % 2 else old, f"d{number}")
            # The run is not restarted elsewhere, and new deliveries wait.
            assert set(ran(tmp_path)) == {"long"}
            hold.unlink()
            wait_until_ran(new, *(f"d{number}" for number in range(10)))
    runs = ran(tmp_path)
    assert runs.pop("long") == ["1", str(old.pid)]
    assert set(map(tuple, runs.values())) == {("2", str(new.pid))}
    delivery = SqliteStore(tmp_path / "hubhooks.db").get("long")
    assert delivery is not None
    assert (delivery.state, delivery.runs[0].attempts) == ("succeeded", 1)


def test_processes_of_one_version_keep_the_leader(tmp_path: Path) -> None:
    with started(tmp_path, script=app(1), environ=ON_DISK) as first:
        with started(tmp_path, *UVICORN, environ=ON_DISK) as second:
            deliver(second, "d1")
            deliver(first, "d2")
            wait_until_ran(second, "d1", "d2")
            assert f"process {first.pid} is the leader" in second.output()
            assert "This process has the same code" in second.output()
            first.terminate()
            wait_until_leads(second)
            deliver(second, "d3")
            wait_until_ran(second, "d3")
        assert "newer code" not in first.output()
    runs = ran(tmp_path)
    assert runs["d1"] == runs["d2"] == ["1", str(first.pid)]
    assert runs["d3"] == ["1", str(second.pid)]


def test_older_leader_resumes_if_newer_code_never_leads(tmp_path: Path) -> None:
    with started(tmp_path, script=app(1), environ=ON_DISK) as old:
        deliver(old, "d1")
        wait_until_ran(old, "d1")
        # A process that is alive and never takes the lead, as this one is.
        store = SqliteStore(tmp_path / "hubhooks.db", lock=LeaderLock(tmp_path / "hubhooks.db"))
        store.open()
        store.register("other", 1e11, [])
        store.flush()
        old.wait_for("has newer code")
        deliver(old, "d2")
        wait_until_ran(old, "d2")
        store.close()


# ---- identity of processes ----------------------------------------------------------------------


def test_code_version_depends_on_module_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app_file, helper = tmp_path / "app.py", tmp_path / "helper.py"
    installed = tmp_path / "venv" / "site-packages" / "x.py"
    installed.parent.mkdir(parents=True)
    for file in (app_file, helper, installed):
        file.write_text("1")
        monkeypatch.setitem(sys.modules, f"_test_{file.stem}", SimpleNamespace(__file__=str(file)))  # type: ignore[arg-type]
    code = AppCode(str(app_file), 1e11)
    first = code.version()
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert AppCode(str(app_file), 2e11).version() == first
    installed.write_text("2")
    assert code.version() == first
    helper.write_text("2")
    assert code.version() != first
    # Edited after it was loaded: the file no longer shows the code of this process.
    assert AppCode(str(app_file), 1.0).version() != AppCode(str(app_file), 2.0).version()


def test_living_process_is_identified_by_its_start_time(monkeypatch: pytest.MonkeyPatch) -> None:
    own = current_process()
    assert is_alive(own)
    assert is_alive(own._replace(host="elsewhere")) is None
    if own.start_time:
        assert is_alive(own._replace(start_time="1")) is False
    # Without a start time, any process with that number counts.
    monkeypatch.setattr(_process, "_read_stat", lambda _: [])
    assert is_alive(own._replace(start_time=""))
    assert is_alive(Process(2**22 + 1, own.host, "")) is False


@pytest.fixture
def leaders(tmp_path: Path) -> Iterator[tuple[SqliteStore, LeaderLock]]:
    path = tmp_path / "x.db"
    lock = LeaderLock(path)
    assert lock.try_acquire()
    store = SqliteStore(path, lock=lock)
    store.open()
    store.recover()
    yield store, lock
    store.close()
    lock.release()


def test_lock_file_that_is_removed_is_locked_again(
    tmp_path: Path, leaders: tuple[SqliteStore, LeaderLock]
) -> None:
    _, lock = leaders
    file = tmp_path / "x.db.runner"
    for change in (file.unlink, lambda: file.rename(tmp_path / "away")):
        change()
        assert lock.keep()
        assert not LeaderLock(tmp_path / "x.db").try_acquire()
    assert not lock.keep()


THREE = """
import os, time
from hubhooks import Webhooks

app = Webhooks()

@app.on("repo.content")
def handle(event, context):
    with open("ran", "a") as file:
        file.write(f"{context.id} {context.attempt} {os.getpid()}\\n")
    while os.path.exists("hold"):
        time.sleep(0.01)
"""


def test_no_run_starts_twice_when_the_lock_file_is_removed(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    names = [f"d{number}" for number in range(12)]
    with (
        started(tmp_path, script=THREE, environ=ON_DISK) as one,
        started(tmp_path, *UVICORN, environ=ON_DISK) as two,
        started(tmp_path, *UVICORN, environ=ON_DISK) as three,
    ):
        servers = (one, two, three)
        for number, name in enumerate(names):
            deliver(servers[number % 3], name)
        wait_until_ran(one, *names)
        for _ in range(3):
            (tmp_path / "hubhooks.db.runner").unlink()
            wait_until((tmp_path / "hubhooks.db.runner").exists, "no process locks it again")
        # Each process has checked the lock since, and claimed the last delivery.
        deliver(two, "last")
        wait_until_ran(one, "last")
        hold.unlink()
        store = SqliteStore(tmp_path / "hubhooks.db")
        one.wait_until(lambda: store.stats().states == {"succeeded": 13}, "does not end them")
    lines = (tmp_path / "ran").read_text().splitlines()
    assert sorted(line.split()[0] for line in lines) == sorted([*names, "last"])


# ---- processes that cannot lead, or must not ----------------------------------------------------


STUCK = """
import os, time
from hubhooks import Webhooks

app = Webhooks()

@app.on("repo.content", timeout=0.2)
def handle(event, context):
    with open("ran", "a") as file:
        file.write(f"{context.id} VERSION {os.getpid()}\\n")
    while context.id == "stuck" and not os.path.exists("end"):
        time.sleep(0.01)
"""


def test_stuck_run_does_not_block_newer_code(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "hubhooks.db")
    with started(tmp_path, script=STUCK.replace("VERSION", "1"), environ=ON_DISK) as old:
        deliver(old, "stuck")
        old.wait_until(lambda: store.stats().states == {"stuck": 1}, "is not stuck")
        with started(tmp_path, script=STUCK.replace("VERSION", "2"), environ=ON_DISK) as new:
            deliver(new, "d1")
            wait_until_ran(new, "d1")
            # It still runs in the other process, which records how it ends.
            states = {"stuck": 1, "succeeded": 1}
            new.wait_until(lambda: store.stats().states == states, "does not record the run")
            (tmp_path / "end").touch()
            new.wait_until(
                lambda: store.stats().states == {"succeeded": 2}, "does not record the end"
            )
    assert ran(tmp_path) == {"stuck": ["1", str(old.pid)], "d1": ["2", str(new.pid)]}


def test_run_is_retried_if_its_former_leader_dies(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "hubhooks.db")
    with started(tmp_path, script=STUCK.replace("VERSION", "1"), environ=ON_DISK) as old:
        deliver(old, "stuck")
        old.wait_until(lambda: store.stats().states == {"stuck": 1}, "is not stuck")
        with started(tmp_path, script=STUCK.replace("VERSION", "2"), environ=ON_DISK) as new:
            wait_until_leads(new)
            old.kill()
            new.wait_for("the process died during handler `handle` on delivery `stuck`")
    delivery = store.get("stuck")
    assert delivery is not None
    assert delivery.runs[0].crashes == 1


TWO = """
from hubhooks import Webhooks

first, second = Webhooks(), Webhooks()

@first.on("repo.content")
def one(event): ...

@second.on("repo.content")
def two(event): ...
"""


def test_second_object_of_one_file_is_rejected_by_name(tmp_path: Path) -> None:
    command = ("-m", "uvicorn", "app:{}", "--port", "{port}")
    first, second = (
        tuple(word.replace("{}", name) for word in command) for name in ("first", "second")
    )
    with (
        started(tmp_path, *first, script=TWO, environ=ON_DISK) as one,
        started(tmp_path, *second, prints="startup failed", environ=ON_DISK) as two,
    ):
        output = two.wait_for("no handler `two`, which would never run")
        assert f"process {one.pid} is the leader of the delivery store" in output
        assert 'Webhooks(deliveries="other.db")' in output


def test_clock_set_back_does_not_make_code_older() -> None:
    codes = [Webhooks("moon")._code for _ in range(2)]  # noqa: SLF001 - what is compared
    assert codes[0].order <= codes[1].order
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert abs(codes[0].order - time.clock_gettime(time.CLOCK_BOOTTIME)) < PATIENCE


def test_dead_process_of_another_machine_knows_no_handlers(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    lock = LeaderLock(path)
    store = SqliteStore(path, lock=lock)
    store.open()
    with store.transaction():
        store._db.execute(  # noqa: SLF001 - as a process elsewhere wrote it
            "INSERT INTO processes (pid, host, start_time, code, loaded_at, handlers) "
            "VALUES (1, 'elsewhere', '1', 'c', 0, '[\"old\"]')"
        )
        store.accept("d1", b"{}", ["old"])
    assert store.unknown_handlers() == {}
    assert lock.try_acquire()
    store.register("c", 1.0, ["new"])
    store.recover()
    assert store.unknown_handlers() == {"old": 1}
    store.close()
    lock.release()
