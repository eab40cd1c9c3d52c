"""The CPU time of a request, and the response time beside computing threads, as ratios to a floor.

Run `python benches/serving.py [--quick] [--only NAME]` with a release build of the core. It needs
Linux and `uvicorn[standard]`. The floor is a raw ASGI app that reads the body and sends 200.
Floor and subject are servers of `benches/subjects.py`, each a process of its own with one worker.
`benches/load_generator.py` sends the requests.

* CPU: the load goes to the floor and then to the subject, each round. All threads of the server
  count. The median of the rounds' ratios counts, so a busy machine disturbs it little.
* p99: each try starts floor and subject anew, one after the other. Both have the same number of
  computing threads and the same switch interval. The median of the tries' ratios counts.

Requests per second have no limit: they depend on the load generator too. The exit code is 1 if a
limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from load_generator import CLIENTS, CONNECTIONS, SAMPLE, Target, saturate, send_paced
from subjects import SECRET

from hubhooks._samples import compact, sample_json
from hubhooks._worker.pools import SWITCH_SECONDS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

START_SECONDS = 60
LOAD_SECONDS = 1.5
PACED_SECONDS = 3.0
COMPUTING_THREADS = 8

FLOOR = "floor"
HANDLED = 202


class Subject(NamedTuple):
    """A server of `subjects.py` with a store, and the limit of its ratio."""

    title: str
    server: str
    status: int
    limit: float | None = None
    on_disk: bool = True
    secret: str = SECRET

    @property
    def rounds(self) -> int:
        # Repeats on disk vary more. The limit of the wrong secret is tight.
        return 5 if self.limit is None else 12


SUBJECTS = {
    "secret": Subject("wrong secret", "unhandled", 403, 1.06, on_disk=False, secret="sun"),
    "disk": Subject("on disk, no handler matches", "unhandled", 200, 3.0),
    "disk-async": Subject("on disk, async handler", "async", HANDLED, 3.5),
    "disk-sync": Subject("on disk, sync handler", "sync", HANDLED, 3.8),
    "memory": Subject("in memory, no handler matches", "unhandled", 200, on_disk=False),
    "memory-async": Subject("in memory, async handler", "async", HANDLED, on_disk=False),
    "memory-sync": Subject("in memory, sync handler", "sync", HANDLED, on_disk=False),
}
P99 = "p99"
P99_SUBJECT = Subject(f"on disk, beside {COMPUTING_THREADS} threads", "async", HANDLED, 2.0)
P99_TRIES = 5


class Row(NamedTuple):
    """A line of the table."""

    title: str
    ratio: float
    limit: float | None
    absolute: str
    per_second: float

    @property
    def is_missed(self) -> bool:
        return self.limit is not None and self.ratio > self.limit

    def __str__(self) -> str:
        limit = "-" if self.limit is None else f"{self.limit:.2f}"
        line = f"{self.title:34}{self.ratio:7.2f}{limit:>7}{self.absolute:>11}"
        return f"{line}{self.per_second:>12,.0f}{'  MISSED' if self.is_missed else ''}"


HEAD = f"{'':34}{'x floor':>7}{'limit':>7}{'absolute':>11}{'requests/s':>12}"


# ---- servers -----------------------------------------------------------------------------------


@contextmanager
def started(name: str, deliveries: str = ":memory:", *options: str) -> Generator[Target]:
    """Run a server of `subjects.py` until the block ends."""
    script = Path(__file__).with_name("subjects.py")
    environ = {k: v for k, v in os.environ.items() if k not in ("WEBHOOK_SECRET", "SPACE_ID")}
    process = subprocess.Popen(
        [sys.executable, str(script), name, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environ, "HUBHOOKS_DELIVERIES": deliveries},
    )
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        watchdog.cancel()
        if not line:
            sys.exit(f"`{name}` did not start: try `{sys.executable} {script} {name}`")
        yield Target(process.pid, json.loads(line)["port"], "/", SECRET, 200)
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@contextmanager
def started_subject(subject: Subject, *options: str) -> Generator[Target]:
    """Run the server of a subject with a new store."""
    with tempfile.TemporaryDirectory() as folder:
        deliveries = str(Path(folder) / "deliveries.db") if subject.on_disk else ":memory:"
        with started(subject.server, deliveries, *options) as target:
            yield target._replace(secret=subject.secret, status=subject.status)


# ---- measurements ------------------------------------------------------------------------------


def measure_cpu(subject: Subject, rounds: int) -> Row:
    """Compare the CPU time per request of a subject with the floor's."""
    ratios: list[float] = []
    loads = []
    with started(FLOOR) as floor, started_subject(subject) as target:
        for at in range(rounds + 1):
            least = saturate(floor, LOAD_SECONDS)
            load = saturate(target, LOAD_SECONDS)
            # The first round warms up.
            if at:
                ratios.append(load.cpu_per_request / least.cpu_per_request)
                loads.append(load)
    cpu = median(load.cpu_per_request for load in loads)
    per_second = median(load.per_second for load in loads)
    return Row(subject.title, median(ratios), subject.limit, f"{cpu * 1e6:,.0f} us", per_second)


def measure_p99(subject: Subject, tries: int, switch_interval: float) -> Row:
    """Compare the p99 of a subject's response times with the floor's."""
    options = (
        "--computing", str(COMPUTING_THREADS), "--switch-interval", str(switch_interval),
    )  # fmt: skip
    ratios: list[float] = []
    loads = []
    for _ in range(tries):
        with started(FLOOR, ":memory:", *options) as floor:
            least = send_paced(floor, PACED_SECONDS)
        with started_subject(subject, *options) as target:
            loads.append(send_paced(target, PACED_SECONDS))
        ratios.append(loads[-1].p99 / least.p99)
    p99 = median(load.p99 for load in loads)
    per_second = median(load.per_second for load in loads)
    return Row(subject.title, median(ratios), subject.limit, f"{p99 * 1e3:,.0f} ms", per_second)


def measure(names: list[str], switch_interval: float, *, is_quick: bool) -> Iterator[Row | str]:
    """Measure subjects by name, and yield the lines of the table."""
    size = len(compact(sample_json(SAMPLE)))
    yield f"\nCPU time per request, body {size:,} bytes, {CONNECTIONS} connections"
    for name, subject in SUBJECTS.items():
        if name in names:
            yield measure_cpu(subject, 3 if is_quick else subject.rounds)
    if P99 in names:
        yield f"\np99 of {CLIENTS} clients, switch interval {switch_interval * 1e3:g} ms"
        yield measure_p99(P99_SUBJECT, 1 if is_quick else P99_TRIES, switch_interval)


def main() -> int:
    """Print the table, and return 1 if a limit is missed."""
    names = [*SUBJECTS, P99]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, less exact")
    parser.add_argument(
        "--only", action="append", choices=names, help="measure only this; may be repeated"
    )
    parser.add_argument(
        "--switch-interval", type=float, default=SWITCH_SECONDS, metavar="SECONDS",
        help="of both servers of the p99 (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args()
    packages = ("hubhooks", "uvicorn", "httptools", "uvloop")
    print(f"Python {platform.python_version()}", *(f"{n} {version(n)}" for n in packages), sep=", ")
    print(f"\n{HEAD}")
    missed = 0
    for line in measure(options.only or names, options.switch_interval, is_quick=options.quick):
        print(line, flush=True)
        missed += isinstance(line, Row) and line.is_missed
    print(f"\n{missed} limits missed" if missed else "\nall limits hold")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
