"""The CPU time and the bytes of a delivery in a store on disk, and the CPU time of its pages.

Run with `python benches/log.py [--quick]`. Times are CPU times, and the least of several rounds
counts, so a busy machine disturbs the ratios little. Waits for the disk do not count: with
`synchronous="normal"`, only checkpoints wait, in another thread.
The exit code is 1 if a page of a long store takes more than three times that of a short one, or if
a delivery takes more bytes than its limit.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import tempfile
import time
from base64 import b64encode
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hubhooks._samples import compact, sample_json
from hubhooks._store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 320
GROUP = 16
PAGE_LIMIT = 3.0
# The limit of the bytes per delivery, by the length of the body.
BODY_LENGTHS = {970: None, 1_056: 1_600, 1_300: None}
HEADERS = [
    (b"host", b"me-my-space.hf.space"),
    (b"content-type", b"application/json"),
    (b"content-length", b"970"),
    (b"webhook-id", b"0123456789abcdef01234567"),
    (b"x-webhook-secret", b"moon"),
    (b"user-agent", b"HuggingFace"),
]
BODY = compact(sample_json("discussion.create"))


def cpu(action: Callable[[], object]) -> float:
    before = time.thread_time()
    action()
    return time.thread_time() - before


def name(number: int) -> str:
    # Ids come in no order.
    return f"{number * 2_654_435_761 % 2**32:024x}"


class Subject:
    """A new store, to which a number of deliveries is given again and again."""

    def __init__(self, folder: Path, group: int) -> None:
        self.store = SqliteStore(folder / f"group-{group}.db")
        self.store.open()
        self.store.recover()
        self.group = group
        self.count = 0
        self.started: list[str] = []

    def take(self) -> None:
        self.started = []
        for _ in range(COUNT // self.group):
            with self.store.transaction():
                for _ in range(self.group):
                    self.count += 1
                    self.started.append(name(self.count))
                    self.accept(self.started[-1])

    def accept(self, delivery_id: str) -> None:
        self.store.accept(
            delivery_id, BODY, ["retrain"], scope="discussion", action="create", repo="me/data",
            headers=HEADERS,
        )  # fmt: skip
        self.delivery = self.store.claim(delivery_id, "retrain")

    def end(self) -> None:
        for at in range(0, COUNT, self.group):
            for delivery_id in self.started[at : at + self.group]:
                self.store.mark_acknowledged(delivery_id, delivered=True)
                assert self.delivery is not None
                self.store.finish_run(self.delivery._replace(id=delivery_id), "succeeded")
            self.store.flush()


class Plain:
    """The least that keeps a delivery: one row, in a transaction of its own."""

    def __init__(self, folder: Path) -> None:
        self.connection = sqlite3.connect(folder / "plain.db", isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = NORMAL",
            "PRAGMA wal_autocheckpoint = 0",
            "CREATE TABLE t (id TEXT UNIQUE, received_at REAL, state TEXT, body BLOB)",
        ):
            self.connection.execute(statement)
        self.count = 0

    def take(self) -> None:
        for _ in range(COUNT):
            self.count += 1
            row = (name(self.count), time.time(), "queued", BODY)
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute("INSERT INTO t VALUES (?, ?, ?, ?)", row)
            self.connection.execute("COMMIT")


def costs(folder: Path, rounds: int) -> None:
    plain, alone, together = Plain(folder), Subject(folder, 1), Subject(folder, GROUP)
    actions = {
        "one row inserted, the floor": plain.take,
        "accepted and started, alone": alone.take,
        "answered and ended, alone": alone.end,
        f"accepted and started, {GROUP} together": together.take,
        f"answered and ended, {GROUP} together": together.end,
    }
    least = dict.fromkeys(actions, float("inf"))
    for _ in range(rounds):
        for what, action in actions.items():
            least[what] = min(least[what], cpu(action) / COUNT)
    floor = least["one row inserted, the floor"]
    print(f"{'for each delivery':42} {'CPU us':>8} {'x floor':>8}")
    for what, seconds in least.items():
        print(f"{what:42} {seconds * 1e6:8.1f} {seconds / floor:8.2f}")
    for subject in (alone, together):
        subject.store.close()
    plain.connection.close()


def body_of_length(length: int) -> bytes:
    """Make a body by a longer or shorter comment than the sample's."""
    body = sample_json("discussion.create")
    body["comment"]["content"] = ""
    missing = length - len(compact(body))
    # Base 64 is text that nothing can compress by half.
    body["comment"]["content"] = b64encode(os.urandom(missing)).decode()[:missing]
    assert len(compact(body)) == length
    return compact(body)


def sizes(folder: Path, count: int) -> bool:
    """Print the bytes per delivery in the file, after one run succeeded for each."""
    print(f"\n{f'in the file, of {count:,} deliveries':42} {'bytes':>8} {'limit':>8}")
    is_fine = True
    for length, limit in BODY_LENGTHS.items():
        path = folder / f"body-{length}.db"
        store = SqliteStore(path)
        store.open()
        store.recover()
        for _ in range(0, count, GROUP):
            runs = []
            with store.transaction():
                for _ in range(GROUP):
                    delivery_id = os.urandom(12).hex()
                    store.accept(
                        delivery_id, body_of_length(length), ["retrain"], scope="discussion",
                        action="create", repo="ada-labs/tide-gauges", headers=HEADERS,
                    )  # fmt: skip
                    runs.append(store.claim(delivery_id, "retrain"))
            for run in runs:
                assert run is not None
                store.mark_acknowledged(run.id, delivered=True)
                store.finish_run(run, "succeeded")
            store.flush()
        # This writes the WAL into the file.
        store.close()
        size = path.stat().st_size / count
        is_missed = limit is not None and size > limit
        is_fine &= not is_missed
        shown = "-" if limit is None else f"{limit:,}"
        mark = "  MISSED" if is_missed else ""
        print(f"{f'body of {length:,} bytes':42} {size:8,.0f} {shown:>8}{mark}")
    return is_fine


def filled(path: Path, count: int) -> SqliteStore:
    """Make a store with deliveries, of which few failed and few are of one repository."""
    store = SqliteStore(path)
    store.open()
    store.close()
    numbers = f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    rare = count // 100
    connection = sqlite3.connect(path)
    connection.executescript(f"""
        PRAGMA synchronous = OFF;
        BEGIN;
        {numbers} INSERT INTO deliveries
            SELECT i, printf('%024x', i * 2654435761 % 4294967296), 1.8e9 + i,
                iif(i % {rare}, iif(i % 4, 'repo.content', 'discussion'), 'repo.config'), 'update',
                'me/repo-' || i % {rare},
                iif(i % {rare}, 'succeeded', 'failed'), NULL, '', 0, 1, 0,
                '[["user-agent", "hub"]]', 970
            FROM n;
        {numbers} INSERT INTO attempts (seq, handler, attempt, started_at, finished_at, state,
                error, traceback, position, failures, crashes)
            SELECT i, 'retrain', 1, 1.8e9, 1.8e9, iif(i % {rare}, 'succeeded', 'failed'), '', '', 0,
                0, 0 FROM n;
        INSERT INTO bodies SELECT seq, zeroblob(200) FROM deliveries;
        COMMIT;
    """)
    connection.close()
    return store


def pages(folder: Path, count: int, rounds: int) -> bool:
    """Compare the queries of a small store with those of a large one."""
    stores = [filled(folder / "small.db", 1_000), filled(folder / "large.db", count)]
    middles = [store.list(limit=500)[-1].id for store in stores]
    latest = [store.list(limit=10)[-1].received_at for store in stores]
    queries: dict[str, Callable[[int], object]] = {
        "the newest": lambda at: stores[at].list(),
        "the next page": lambda at: stores[at].list(before=middles[at]),
        "failed deliveries": lambda at: stores[at].list(state="failed", limit=50),
        "deliveries of one repository": lambda at: stores[at].list(repo="me/repo-3"),
        "deliveries of one scope": lambda at: stores[at].list(scope="discussion"),
        "deliveries of a rare scope": lambda at: stores[at].list(scope="repo.config", limit=10),
        "succeeded ones of a rare scope": lambda at: stores[at].list(
            scope="repo.config", state="succeeded", limit=10
        ),
        "deliveries of an absent scope": lambda at: stores[at].list(scope="repo.move"),
        "the last ten, by time": lambda at: stores[at].list(since=latest[at]),
        "one delivery": lambda at: stores[at].get(middles[at]),
    }
    print(f"\n{'a page of':42} {'1,000 ms':>8} {f'{count:,} ms':>12} {'x':>6}")
    is_fine = True
    for what, ask in queries.items():
        short, long = (min(cpu(partial(ask, at)) for _ in range(rounds)) * 1e3 for at in range(2))
        is_fine &= long <= PAGE_LIMIT * short
        print(f"{what:42} {short:8.2f} {long:12.2f} {long / short:6.2f}")
    # These may grow with the store: nothing on the server's loop waits for them.
    for what, action in {"figures": stores[1].stats, "pruning": stores[1].prune}.items():
        print(f"{what:42} {'':8} {cpu(action) * 1e3:12.2f}")
    return is_fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smaller store, fewer rounds")
    quick = parser.parse_args().quick
    rounds, count = (5, 100_000) if quick else (30, 1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        costs(Path(folder), rounds)
        is_fine = sizes(Path(folder), count // 50)
        is_fine &= pages(Path(folder), count, rounds)
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
