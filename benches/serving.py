"""What a delivery costs a server, beside the least it can cost and what others make of it.

Run with `python benches/serving.py [--quick]`, with the core built for release and `wrk` installed.
Every server of `benches/subjects.py` is a process of its own. Each is loaded in turn, right after
the floor, and the median of these ratios counts, so that a busy machine disturbs them little; what
is absolute is the best round. Deliveries are kept in memory, but for the rows that say `on disk`.
The second table has what users feel: how long an answer takes while handlers are busy, in the best
of some tries. Exits with 1 when a limit of the project is missed.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from parse import Limit, Row, readable
from subjects import BUSY_SECONDS, PAUSE_SECONDS, SECRET

from hubhooks._samples import compact, sample_json

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

SAMPLE = "discussion.create.pull-request"
CONNECTIONS = 16
BUSY_HANDLERS = 8
PATIENCE = 60

NEARLY_FREE = Limit(0.9, is_floor=True)
ASYNC = Limit(0.65, is_floor=True)
SYNC = Limit(0.45, is_floor=True)
TIMES_THE_INCUMBENT = Limit(6, is_floor=True)
DISK_TO_MEMORY = Limit(0.4, is_floor=True)
DISK_CPU = Limit(4)
ANSWERED_IN_MS = Limit(50)

ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1",
}


class Subject(NamedTuple):
    """A server, and what it is to answer a pull request's opening."""

    what: str
    status: int
    secret: str = SECRET
    limit: Limit | None = None
    in_memory: str = ""
    """Which of the others is the same without a disk."""


FLOOR, INCUMBENT, OURS = "floor", "incumbent", "busy"
ASYNC_HANDLER, SYNC_HANDLER = "async", "sync"
SUBJECTS = {
    FLOOR: Subject("the floor: reads the body, answers 200", 200),
    "refusal": Subject("a wrong secret", 403, "sun", NEARLY_FREE),
    "unhandled": Subject("nobody listens", 200, limit=NEARLY_FREE),
    ASYNC_HANDLER: Subject("an async handler that does nothing", 202, limit=ASYNC),
    SYNC_HANDLER: Subject("a sync handler that does nothing", 202, limit=SYNC),
    "unhandled on disk": Subject("nobody listens, on disk", 200, in_memory="unhandled"),
    "async on disk": Subject("an async handler, on disk", 202, in_memory=ASYNC_HANDLER),
    "sync on disk": Subject("a sync handler, on disk", 202, in_memory=SYNC_HANDLER),
    "minimal": Subject("FastAPI, pydantic, compare_digest", 200),
    INCUMBENT: Subject("huggingface_hub's WebhooksServer", 200),
}


class Busy(NamedTuple):
    """What handlers of `subjects.py` do for some seconds when they hear a sample."""

    what: str
    sample: str


BUSY = {
    "sleeps": Busy("sleep in a thread", "repo.create"),
    "computes": Busy("compute in a thread", "repo.content.update"),
    "waits": Busy("wait in async", "repo.config.update"),
}


# ---- servers -----------------------------------------------------------------------------------


class Server(NamedTuple):
    """A server that runs."""

    pid: int
    port: int
    paths: dict[str, str]

    def cpu_seconds(self) -> float:
        """Read what all its threads have used so far."""
        after_name = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2]
        user, system = after_name.split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def deliver(self, delivery_id: str, sample: str, role: str, secret: str = SECRET) -> int:
        """Deliver once, and give the status of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        return post(connection, self.paths[role], headers(delivery_id, secret), body_of(sample))


def post(
    connection: http.client.HTTPConnection, path: str, headers: dict[str, str], body: bytes
) -> int:
    connection.request("POST", path, body, headers)
    with connection.getresponse() as response:
        response.read()
        return response.status


def body_of(sample: str) -> bytes:
    return compact(sample_json(sample))


def headers(delivery_id: str, secret: str) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "X-Webhook-Secret": secret,
        "Webhook-Id": delivery_id,
    }


@contextmanager
def started(name: str, deliveries: str = ":memory:") -> Generator[Server]:
    """Serve a subject until the block ends, with deliveries in memory or in a file."""
    script = Path(__file__).with_name("subjects.py")
    environ = {k: v for k, v in os.environ.items() if k not in ("WEBHOOK_SECRET", "SPACE_ID")}
    process = subprocess.Popen(
        [sys.executable, str(script), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**environ, **ENVIRONMENT, "HUBHOOKS_DELIVERIES": deliveries},
    )
    watchdog = threading.Timer(PATIENCE, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        # Others write there too, before.
        said = next((json.loads(line) for line in process.stdout if line.startswith(b"{")), None)
        watchdog.cancel()
        if said is None:
            sys.exit(f"`{name}` did not start: try `{sys.executable} {script} {name}`")
        yield Server(process.pid, said["port"], said["paths"])
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGKILL)
        process.communicate()


# ---- load --------------------------------------------------------------------------------------

# The head of each request is made here once, but for the id of the delivery: wrk's own `format`
# would cost as much as some of what is measured.
SCRIPT = """
local id, round, head, tail = 0
function init(arguments)
  round = arguments[1]
  local marked = wrk.format("POST", arguments[2], {
    ["Host"] = "127.0.0.1", ["Content-Type"] = "application/json",
    ["X-Webhook-Secret"] = arguments[3], ["Webhook-Id"] = "MARK",
  }, arguments[4])
  local from, to = marked:find("MARK", 1, true)
  head, tail = marked:sub(1, from - 1) .. round .. "-", marked:sub(to + 1)
end
function request()
  id = id + 1
  return head .. id .. tail
end
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "microseconds": %d, "status": %d, "broken": %d, "p50": %d, "p99": %d}\\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


class Load(NamedTuple):
    """What one round of load made of a server."""

    count: int
    per_second: float
    cpu_seconds: float
    p50: float
    p99: float


def load(server: Server, subject: Subject, script: Path, turn: int, seconds: int = 1) -> Load:
    url = f"http://127.0.0.1:{server.port}"
    body = body_of(SAMPLE).decode()
    before = server.cpu_seconds()
    done = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), url, "--",
         str(turn), server.paths["returns"], subject.secret, body],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    used = server.cpu_seconds() - before
    count = found["requests"]
    if found["broken"] or found["status"] != (count if subject.status >= 400 else 0):
        sys.exit(f"{subject.what}: not answered as expected: {found}")
    per_second = count / found["microseconds"] * 1e6
    return Load(count, per_second, used / count, found["p50"] / 1e6, found["p99"] / 1e6)


def throughput(rounds: int) -> Iterator[Row]:
    """Load all servers in turns."""
    loads: dict[str, list[Load]] = {name: [] for name in SUBJECTS}
    ratios: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script = folder / "load.lua"
        script.write_text(SCRIPT, encoding="ascii")
        servers = {
            name: stack.enter_context(
                started(subject.in_memory, str(folder / f"{name}.db"))
                if subject.in_memory
                else started(name)
            )
            for name, subject in SUBJECTS.items()
        }
        for name, subject in SUBJECTS.items():
            status = servers[name].deliver("first", SAMPLE, "returns", subject.secret)
            if status != subject.status:
                sys.exit(f"{subject.what}: answered {status}, expected {subject.status}")
        turns = itertools.count()
        for at in range(rounds + 1):
            for name, subject in SUBJECTS.items():
                floor = load(servers[FLOOR], SUBJECTS[FLOOR], script, next(turns))
                done = load(servers[name], subject, script, next(turns))
                # The first round warms up.
                if at:
                    loads[name].append(done)
                    ratios[name].append(done.per_second / floor.per_second)
    middle = {name: median(found) for name, found in ratios.items()}
    for name, subject in SUBJECTS.items():
        yield row(subject, middle[name], loads[name])
    for name, subject in SUBJECTS.items():
        if subject.in_memory:
            slower = middle[name] / middle[subject.in_memory]
            yield Row(f"{subject.what}, beside memory", slower, "x", "", DISK_TO_MEMORY)
            dearer = cheapest(loads[name]) / cheapest(loads[FLOOR])
            yield Row(f"{subject.what}, cpu", dearer, "x floor", "", DISK_CPU)
    for name, limit in ((ASYNC_HANDLER, TIMES_THE_INCUMBENT), (SYNC_HANDLER, None)):
        times = middle[name] / middle[INCUMBENT]
        yield Row(f"{SUBJECTS[name].what}, beside it", times, "x", "", limit)


def cheapest(loads: list[Load]) -> float:
    return min(each.cpu_seconds for each in loads)


def row(subject: Subject, ratio: float, loads: list[Load]) -> Row:
    columns = (
        f"{max(each.per_second for each in loads):,.0f}/s",
        f"cpu {cheapest(loads) * 1e6:.0f} us",
        f"p50 {readable(min(each.p50 for each in loads))}",
        f"p99 {readable(min(each.p99 for each in loads))}",
    )
    absolute = "".join(f"{column:>14}" for column in columns)
    return Row(subject.what, ratio, "x floor", absolute, subject.limit)


# ---- answers while handlers are busy -----------------------------------------------------------


def stalls(rounds: int) -> Iterator[Row]:
    """Ask servers whose handlers are busy, in turns."""
    tries = itertools.product(BUSY, (OURS, INCUMBENT), range(rounds))
    took: dict[tuple[str, str], float] = {}
    with started(OURS) as ours, started(INCUMBENT) as incumbent:
        servers = {OURS: ours, INCUMBENT: incumbent}
        for role, name, turn in tries:
            found = answered_meanwhile(servers[name], role, turn)
            took[role, name] = min(found, took.get((role, name), found))
    for role, busy in BUSY.items():
        yield Row(busy.what, took[role, OURS] * 1e3, "ms p99", "", ANSWERED_IN_MS)
        yield Row(f"{busy.what}, WebhooksServer", took[role, INCUMBENT] * 1e3, "ms p99", "")


def answered_meanwhile(server: Server, role: str, turn: int) -> float:
    """Keep handlers busy, deliver other events at a calm pace, and give the p99 in seconds."""
    # Some servers answer only when the handler is done.
    busy = [
        threading.Thread(
            target=server.deliver, args=(f"{role}-{turn}-busy-{at}", BUSY[role].sample, role)
        )
        for at in range(BUSY_HANDLERS)
    ]
    took: list[float] = []
    clients = [
        threading.Thread(target=keep_delivering, args=(server, f"{role}-{turn}-{at}", took))
        for at in range(4)
    ]
    for thread in busy:
        thread.start()
    # Until the first of them is at work.
    time.sleep(0.5)
    for thread in clients:
        thread.start()
    for thread in (*busy, *clients):
        thread.join()
    # The clients ended before the handlers.
    time.sleep(2 * PAUSE_SECONDS)
    return sorted(took)[math.ceil(len(took) * 0.99) - 1]


def keep_delivering(server: Server, name: str, took: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    body = body_of(SAMPLE)
    end = time.monotonic() + BUSY_SECONDS - 1
    for at in itertools.count():
        began = time.monotonic()
        if began > end:
            break
        post(connection, server.paths["returns"], headers(f"{name}-{at}", SECRET), body)
        took.append(time.monotonic() - began)
        time.sleep(0.01)
    connection.close()


# ---- the table ---------------------------------------------------------------------------------


def main() -> int:
    """Print the tables; tell by the exit code whether all limits are kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less exact, in half a minute")
    is_quick = parser.parse_args().quick
    rounds = 2 if is_quick else 12
    if shutil.which("wrk") is None:
        sys.exit("the load comes from `wrk`, which is not installed: try `apt-get install wrk`")
    names = ("hubhooks", "uvicorn", "httptools", "uvloop", "fastapi", "gradio", "huggingface_hub")
    print(f"Python {platform.python_version()}", *(f"{n} {version(n)}" for n in names), sep=", ")
    size = len(body_of(SAMPLE))
    sections = {
        f"1. deliveries of {size:,} bytes over {CONNECTIONS} connections": throughput(rounds),
        f"2. an answer while {BUSY_HANDLERS} handlers": stalls(1 if is_quick else 3),
    }
    missed = 0
    for title, section in sections.items():
        print(f"\n{title}")
        for line in section:
            print(line, flush=True)
            missed += line.is_missed
    print(f"\n{missed} limits missed" if missed else "\nall limits kept")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
