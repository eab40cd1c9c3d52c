"""Kill a server repeatedly while it receives deliveries, and look for lost ones."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from servers import PATIENCE, SECRET, Server, started

from hubhooks._samples import compact, sample_json
from hubhooks._store.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

_SENDERS = 4
_HANDLERS = ("sync", "async")
_BODY = compact(sample_json("repo.content.update"))
_APP = """
import asyncio, os, time
from hubhooks import Webhooks
from hubhooks._store import leadership

leadership._CRASH_BACKOFF_SECONDS = 0.05  # so that nobody waits for what a kill interrupted
app = Webhooks()
ran = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.on(name="sync")
def sync(event, context):
    os.write(ran, f"{context.id} sync\\n".encode())
    time.sleep(0.001)

@app.on(name="async")
async def not_sync(event, context):
    os.write(ran, f"{context.id} async\\n".encode())
    await asyncio.sleep(0.001)
"""


class Report(NamedTuple):
    """The result of a soak."""

    acknowledged: int
    runs: int
    crashed: int
    """The number of runs that started more than once, as after a crash."""


def soak(folder: Path, rounds: int) -> Report:
    """Deliver while the server is killed at random moments; raise if a guarantee does not hold.

    Args:
        folder: the folder of the app, its store and the files of its handlers.
        rounds: the number of kills.
    """
    sender = _Sender()
    for _ in range(rounds):
        with started(folder, script=_APP, environ={"HUBHOOKS_DELIVERIES": None}) as server:
            sender.send(server, until=lambda: time.sleep(random.uniform(0.05, 0.8)))
            server.kill()
        sender.stop()
        _remember_what_is_done(folder, sender.done)
    with started(folder, script=_APP, environ={"HUBHOOKS_DELIVERIES": None}) as server:
        sender.finish(server)
        store = SqliteStore(folder / "hubhooks.db")
        server.wait_until(
            lambda: set(store.stats().states) == {"succeeded"}, "does not end its work"
        )
    counts = _counts(folder)
    missing = [(i, name) for i in sender.acknowledged for name in _HANDLERS if not counts[i, name]]
    assert not missing, f"acknowledged, and never run: {missing}"
    again = [run for run, count in sender.done.items() if counts[run] != count]
    assert not again, f"recorded as done, and run again: {again}"
    crashed = sum(count > 1 for count in counts.values())
    return Report(len(sender.acknowledged), len(counts), crashed)


class _Sender:
    """Send as the Hub does: only a delivery without a 2xx response is sent again."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.done: dict[tuple[str, str], int] = {}
        self._unacknowledged: set[str] = set()
        self._number = 0
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []

    def send(self, server: Server, until: object) -> None:
        self._is_over.clear()
        self._threads = [
            threading.Thread(target=self._send_many, args=(server.port,)) for _ in range(_SENDERS)
        ]
        for thread in self._threads:
            thread.start()
        assert callable(until)
        until()

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def finish(self, server: Server) -> None:
        while self._unacknowledged:
            self._send_one(server.port, self._unacknowledged.pop())

    def _send_many(self, port: int) -> None:
        while not self._is_over.is_set():
            with self._lock:
                if self._unacknowledged:
                    delivery_id = self._unacknowledged.pop()
                else:
                    self._number += 1
                    delivery_id = f"d{self._number}"
            if not self._send_one(port, delivery_id):
                return

    def _send_one(self, port: int, delivery_id: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        headers = {"X-Webhook-Secret": SECRET, "Webhook-Id": delivery_id}
        status = 0
        try:
            connection.request("POST", "/", _BODY, headers)
            with connection.getresponse() as response:
                status = response.status
                response.read()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        is_acknowledged = status // 100 == 2
        (self.acknowledged if is_acknowledged else self._unacknowledged).add(delivery_id)
        return is_acknowledged


def _remember_what_is_done(folder: Path, done: dict[tuple[str, str], int]) -> None:
    counts = _counts(folder)
    for delivery in SqliteStore(folder / "hubhooks.db").list(limit=1_000_000):
        for run in delivery.runs:
            if run.state == "succeeded":
                done.setdefault((delivery.id, run.handler), counts[delivery.id, run.handler])


def _counts(folder: Path) -> Counter[tuple[str, str]]:
    lines = (folder / "ran").read_text().splitlines() if (folder / "ran").exists() else []
    return Counter((line.split()[0], line.split()[1]) for line in lines)
