"""Files of a store that are replaced, removed or shorten while an app uses them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import httpx
import pytest
from servers import PATIENCE, SECRET, UVICORN, Server, patiently, started, wait_until

from hubhooks._samples import compact, sample_json
from hubhooks._store.files import LeaderFile, StoreFiles
from hubhooks._store.leader import LeaderLock
from hubhooks._store.sqlite import SqliteStore
from hubhooks.errors import BusyError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

BODY = compact(sample_json("repo.content.update"))
ON_DISK: dict[str, str | None] = {"HUBHOOKS_DELIVERIES": None}
APP = """
from hubhooks import Webhooks

app = Webhooks()

@app.on("repo.content")
def handle(event, context): ...
"""
ALL = ("", "-wal", "-shm")


def file_of(folder: Path, suffix: str = "") -> Path:
    return folder / f"hubhooks.db{suffix}"


def empty(path: Path) -> None:
    """Empty a file as `: > path` does in a shell."""
    os.truncate(path, 0)


def put_older_copy(folder: Path) -> None:
    shutil.copyfile(folder / "older.db", folder / "copy.db")
    (folder / "copy.db").rename(file_of(folder))


def overwrite_with_older_copy(folder: Path) -> None:
    shutil.copyfile(folder / "older.db", file_of(folder))


CHANGES: dict[str, Callable[[Path], object]] = {
    "older copy moved over it": put_older_copy,
    "older copy written over it": overwrite_with_older_copy,
    "database emptied": lambda folder: empty(file_of(folder)),
    "-wal emptied": lambda folder: empty(file_of(folder, "-wal")),
    "database removed": lambda folder: file_of(folder).unlink(),
    "-wal removed": lambda folder: file_of(folder, "-wal").unlink(),
    "-shm removed": lambda folder: file_of(folder, "-shm").unlink(),
    "all removed": lambda folder: [
        file_of(folder, suffix).unlink(missing_ok=True) for suffix in ALL
    ],
    "-wal moved away": lambda folder: file_of(folder, "-wal").rename(folder / "away"),
}

# The removed files are still open, so no delivery is lost.
KEEPS_ALL = {"-wal removed", "-shm removed", "-wal moved away"}


class Senders:
    """Deliver to some servers until `stop`, and note the acknowledged ids."""

    def __init__(self, servers: Sequence[Server], count: int = 4, first: int = 0) -> None:
        self.acknowledged: list[str] = []
        self._number = first
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._send, args=(servers[number % len(servers)],))
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, server: Server) -> None:
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
            while not self._stop.is_set():
                with self._lock:
                    self._number += 1
                    name = f"d{self._number}"
                headers = {"X-Webhook-Secret": SECRET, "Webhook-Id": name}
                with suppress(httpx.TransportError):
                    response = client.post("/", content=BODY, headers=headers)
                    if response.is_success:
                        self.acknowledged.append(name)

    def wait_for_more(self, server: Server, count: int) -> int:
        """Wait until so many more were acknowledged; return the number of the last one."""
        before = len(self.acknowledged)
        server.wait_until(lambda: len(self.acknowledged) >= before + count, "acknowledges no more")
        return self._number

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def prepare(folder: Path) -> None:
    """Make a store with many deliveries, and an older copy of it."""
    (folder / "app.py").write_text(APP, "utf-8")
    with started(folder, *UVICORN, environ=ON_DISK) as server:
        senders = Senders([server])
        senders.wait_for_more(server, 300)
        senders.stop()
    shutil.copyfile(file_of(folder), folder / "older.db")


def check_whole(server: Server, names: set[str]) -> None:
    """Check that the store is sound, and that all of these deliveries are done."""
    store = SqliteStore(file_of(server.folder))

    def done() -> set[str]:
        try:
            return {delivery.id for delivery in store.list(state="succeeded", limit=1_000_000)}
        except BusyError:
            return set()

    server.wait_until(lambda: names <= done(), "lost some of them")
    with closing(sqlite3.connect(file_of(server.folder))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_nothing_acknowledged_after_a_change_is_lost(
    tmp_path: Path, change: str, processes: int
) -> None:
    prepare(tmp_path)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(started(tmp_path, *UVICORN, environ=ON_DISK))
            for _ in range(processes)
        ]
        senders = Senders(servers, first=1000)
        stack.callback(senders.stop)
        senders.wait_for_more(servers[0], 400)
        CHANGES[change](tmp_path)
        # An earlier request may have been acknowledged before the change.
        last = senders.wait_for_more(servers[0], 1)
        senders.wait_for_more(servers[0], 200)
        senders.stop()
        names = set(senders.acknowledged)
        if change not in KEEPS_ALL:
            names = {name for name in names if int(name[1:]) > last + 4}
        assert len(names) > 100
        check_whole(servers[0], names)
        assert not any(server.is_over for server in servers)


def test_emptied_shm_file_costs_no_delivery(tmp_path: Path) -> None:
    prepare(tmp_path)
    acknowledged: set[str] = set()
    died = ""
    # While SQLite reads the file, to empty it ends the process, which nothing can catch.
    for round_ in range(30):
        with started(tmp_path, *UVICORN, environ=ON_DISK) as server:
            if died:
                server.wait_for(died)
            senders = Senders([server], first=10_000 * (round_ + 1))
            senders.wait_for_more(server, 50)
            empty(file_of(tmp_path, "-shm"))
            enough = len(senders.acknowledged) + 50
            wait_until(
                lambda s=senders, enough=enough, server=server: (
                    server.is_over or len(s.acknowledged) > enough
                )
            )
            senders.stop()
            acknowledged.update(senders.acknowledged)
            check = server.is_over
            if not check:
                check_whole(server, acknowledged)
        if died:
            break
        died = f"process {server.pid}, the leader of the delivery store since" if check else ""
    with started(tmp_path, *UVICORN, environ=ON_DISK) as server:
        check_whole(server, acknowledged)


def test_replaced_file_gets_no_foreign_wal(tmp_path: Path) -> None:
    prepare(tmp_path)
    with started(tmp_path, *UVICORN, environ=ON_DISK) as server:
        senders = Senders([server], first=1000)
        senders.wait_for_more(server, 400)
        server.kill()
        senders.stop()
    put_older_copy(tmp_path)
    store = SqliteStore(file_of(tmp_path))
    with pytest.raises(BusyError, match="was removed or replaced"):
        store.list()
    with started(tmp_path, *UVICORN, environ=ON_DISK) as server:
        output = server.wait_for("a file belongs to another delivery store")
        assert "hubhooks.db-wal.moved-1" in output
        assert "ended without closing it: the file was replaced" in output
        server.post("/", BODY, headers={"Webhook-Id": "d9999"})
        check_whole(server, {"d1", "d9999"})
        assert store.get("d1200") is None


def test_older_copy_over_the_database_is_noticed(tmp_path: Path, store: SqliteStore) -> None:
    def fill(names: str) -> None:
        for number in range(100):
            patiently(lambda: store.accept(f"{names}{number}", b"x" * 1000, ["a"]))  # noqa: B023 - called at once
        with closing(sqlite3.connect(file_of(tmp_path))) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert store.get("unknown") is None
        store.changed()

    fill("first")
    shutil.copyfile(file_of(tmp_path), tmp_path / "older.db")
    fill("second")
    overwrite_with_older_copy(tmp_path)
    with file_of(tmp_path).open("ab") as file:
        file.truncate(10_000_000)  # nor is it shorter than before
    fill("third")
    found = {delivery.id[:5] for delivery in store.list(limit=1000)}
    assert found == {"first", "third"}
    with closing(sqlite3.connect(file_of(tmp_path))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_killed_process_is_named_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    with started(tmp_path, *UVICORN, environ=ON_DISK) as server:
        server.kill()
    with started(tmp_path, *UVICORN, environ=ON_DISK) as after:
        text = after.output()
        assert f"process {server.pid}, the leader of the delivery store since" in text
        assert "ended without closing it: a possible cause is SIGKILL or too little memory" in text
    with started(tmp_path, *UVICORN, environ=ON_DISK) as last:
        assert "ended without" not in last.output()


# ---- without a server ---------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    lock = LeaderLock(file_of(tmp_path))
    assert lock.try_acquire()
    store = SqliteStore(file_of(tmp_path), lock=lock)
    store.open()
    store.recover()
    yield store
    store.close()
    lock.release()


def test_run_goes_on_when_the_wal_file_is_removed(tmp_path: Path, store: SqliteStore) -> None:
    with store.transaction():
        store.accept("d1", b"{}", ["a"])
        run = store.claim("d1", "a")
    assert run is not None
    file_of(tmp_path, "-wal").unlink()
    assert store.changed()
    assert store.is_leader
    store.finish_run(run, "succeeded")
    store.flush()
    found = store.get("d1")
    assert found is not None
    assert (found.state, found.runs[0].attempts) == ("succeeded", 1)


def test_shorter_valid_database_is_kept(tmp_path: Path, store: SqliteStore) -> None:
    for number in range(200):
        store.accept(f"d{number}", b"x" * 4000, ["a"])
    with closing(sqlite3.connect(file_of(tmp_path), isolation_level=None)) as other:
        other.execute("DELETE FROM bodies")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = file_of(tmp_path).stat()
    assert patiently(lambda: store.accept("between", b"{}", ["a"])).status == "accepted"
    with closing(sqlite3.connect(file_of(tmp_path), isolation_level=None)) as other:
        other.execute("VACUUM")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    after = file_of(tmp_path).stat()
    assert after.st_size < before.st_size
    assert patiently(lambda: store.accept("after", b"{}", ["a"])).status == "accepted"
    assert after.st_ino == file_of(tmp_path).stat().st_ino
    assert len(store.list(limit=1000)) == 202


def test_damaged_file_takes_no_deliveries(tmp_path: Path, store: SqliteStore) -> None:
    for number in range(50):
        store.accept(f"d{number}", b"x" * 2000, ["a"])
    with closing(sqlite3.connect(file_of(tmp_path))) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(file_of(tmp_path).read_bytes()[:8192] + b"\x07" * 40_000)
    damaged.rename(file_of(tmp_path))
    for _ in range(3):
        with pytest.raises(StoreError, match=r"is damaged|no SQLite file"):
            store.accept("after", b"{}", ["a"])


def test_only_the_leader_renames_files(tmp_path: Path, store: SqliteStore) -> None:
    other = SqliteStore(file_of(tmp_path), lock=LeaderLock(file_of(tmp_path)))
    other.open()
    store.accept("before", b"{}", ["a"])
    (tmp_path / "empty.db").touch()
    (tmp_path / "empty.db").rename(file_of(tmp_path))
    with pytest.raises(BusyError, match="was removed or replaced"):
        other.accept("d1", b"{}", ["a"])
    assert store.accept("d2", b"{}", ["a"]).status == "accepted"
    assert other.accept("d1", b"{}", ["a"]).status == "accepted"
    assert {delivery.id for delivery in store.list()} == {"d1", "d2"}
    assert file_of(tmp_path, "-wal.moved-1").exists()
    other.close()


def test_restored_backup_gets_no_foreign_wal(
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    with started(tmp_path, *UVICORN, environ=ON_DISK) as server:
        senders = Senders([server], first=1000)
        senders.wait_for_more(server, 400)
        # From here on, the `-wal` file fits no older copy.
        with closing(sqlite3.connect(file_of(tmp_path), isolation_level=None)) as other:
            checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)"
            server.wait_until(lambda: other.execute(checkpoint).fetchone()[0] == 0, "is read")
        senders.wait_for_more(server, 100)
        server.kill()
        senders.stop()
    overwrite_with_older_copy(tmp_path)
    with started(tmp_path, *UVICORN, environ=ON_DISK) as server:
        server.wait_for("a file belongs to another delivery store")
        server.post("/", BODY, headers={"Webhook-Id": "d9999"})
        check_whole(server, {"d1", "d9999"})


def test_mount_on_another_device_keeps_the_wal() -> None:
    before = StoreFiles(1, 10, 4096, 0, 11, 100, 12, 32768)
    assert not before.is_wal_foreign(before._replace(device=2))
    assert not before.is_wal_foreign(before._replace(device=2, db=20))
    assert before.is_wal_foreign(before._replace(db=20))
    assert before.is_wal_foreign(before._replace(db_size=0))
    assert not before.is_wal_foreign(before._replace(db=20, wal=21))
    assert not before.is_wal_foreign(before._replace(db=20, wal_size=0))


def test_emptied_wal_file_recovers_older_runs(tmp_path: Path, store: SqliteStore) -> None:
    with store.transaction():
        store.accept("d1", b"{}", ["a"])
        store.claim("d1", "a")
    with closing(sqlite3.connect(file_of(tmp_path))) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.accept("d2", b"{}", ["a"])
    empty(file_of(tmp_path, "-wal"))
    deadline = time.monotonic() + PATIENCE
    is_leader = True
    while is_leader:
        assert time.monotonic() < deadline
        with suppress(StoreError):
            store.accept(f"more{time.monotonic()}", b"{}", ["a"])
            store.changed()
            is_leader = store.is_leader
    assert store.get("d2") is None
    assert store.recover() == [("d1", "a", False)]


def test_removed_leader_file_is_rewritten(tmp_path: Path, store: SqliteStore) -> None:
    leader = file_of(tmp_path, ".leader")
    leader.unlink()
    store.keep_noted()
    assert leader.exists()
    assert leader.stat().st_mode & 0o777 == 0o600


def test_leader_is_identified_by_more_than_its_pid(tmp_path: Path) -> None:
    path = str(file_of(tmp_path))
    files = StoreFiles.at(path)
    LeaderFile.of_this_process(path, files, 0).write(path)
    own = LeaderFile.read(path)
    assert own is not None
    assert own.explain_end(files) == ""
    # As the first process of the container before this one.
    earlier = own._replace(process=own.process._replace(start_time="1"))
    if own.process.start_time:
        assert "ended without closing it" in earlier.explain_end(files)
    for broken in ("", "[]", "{}", '{"pid": "x"}', "{" * 100_000):
        (tmp_path / "hubhooks.db.leader").write_text(broken)
        assert LeaderFile.read(path) is None
