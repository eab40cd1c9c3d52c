"""What reading, matching and keeping events costs, beside the libraries one might use instead.

Run with `python benches/parse.py [--quick]`, with the core built for release. All that a table
compares is measured in turns, and the least time of each counts, so that a busy machine disturbs
the ratios little; several processes take part, as the layout of memory in one may favour somebody.
The garbage collector is off while times are taken, which favours the peers: they make more objects.
For a bucket, of which they make tens of thousands, times are taken both ways, and the limit is for
a collector that is on, as it is in a server.
Exits with 1 when a limit of the project is missed.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from timeit import Timer
from typing import Any, NamedTuple, TypeVar

import msgspec
import orjson
from huggingface_hub import WebhookPayload

from hubhooks._core import CommentEvent, Filter, HubEvent, match_filters
from hubhooks._samples import compact, sample_json
from hubhooks.errors import PayloadError
from hubhooks.routing import Router

T = TypeVar("T")

FILES = 10_000
FILTERS = 1_000
FRAMEWORKS = (
    "aiohttp", "click", "fastapi", "gradio", "httpx", "huggingface_hub", "pydantic", "requests",
    "rich", "sqlite3", "starlette", "typer", "uvicorn",
)  # fmt: skip


# ---- the limits ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """What a figure must not exceed, or with `is_floor` must reach, and what is hoped for."""

    value: float
    goal: float | None = None
    is_floor: bool = False

    def allows(self, figure: float) -> bool:
        return figure >= self.value if self.is_floor else figure <= self.value

    def __str__(self) -> str:
        goal = "" if self.goal is None else f" (goal {self.goal:g})"
        return f"{'>=' if self.is_floor else '<='} {self.value:g}{goal}"


PARSED = Limit(0.65, goal=0.55)
PARSED_AND_READ = Limit(0.85, goal=0.70)
BUCKET = Limit(0.30)
TIMES_FASTER = Limit(6, is_floor=True)
BYTES_HELD = Limit(2_000)
MATCHED_IN_US = Limit(100)
IMPORTED_IN_MS = Limit(10)
NO_FRAMEWORK = Limit(0)
DIGITS = Limit(4)


class Row(NamedTuple):
    """One line of the table: a figure, mostly a ratio, and the absolute value beside it."""

    what: str
    figure: float
    unit: str
    absolute: str
    limit: Limit | None = None

    @property
    def is_missed(self) -> bool:
        return self.limit is not None and not self.limit.allows(self.figure)

    def __str__(self) -> str:
        figure = f"{self.figure:,.0f}" if self.figure >= 1_000 else f"{self.figure:.2f}"
        line = f"   {self.what:<40}{figure:>9} {self.unit:<9}{self.absolute:>12}"
        if self.limit is None:
            return line
        return f"{line}   limit {self.limit!s:<20} {'MISSED' if self.is_missed else 'ok'}"


# ---- the peers -------------------------------------------------------------------------------


class Part(msgspec.Struct, frozen=True, rename="camel"):
    """What msgspec is told of all parts: frozen, as ours are, and written in camelCase."""


class What(Part, frozen=True):
    """The key `event`."""

    action: str
    scope: str


class Owner(Part, frozen=True):
    """A user or an organisation."""

    id: str


class Url(Part, frozen=True):
    """Where something is."""

    web: str
    api: str | None = None


class Repo(Part, frozen=True):
    """A repository."""

    type: str
    name: str
    id: str
    private: bool
    url: Url
    owner: Owner
    head_sha: str | None = None
    subdomain: str | None = None


class Changes(Part, frozen=True):
    """What a pull request changes."""

    base: str
    merge_commit_id: str | None = None


class Discussion(Part, frozen=True):
    """A discussion or pull request."""

    id: str
    title: str
    url: Url
    status: str
    author: Owner
    num: int
    is_pull_request: bool
    changes: Changes | None = None
    pinned: bool | None = None


class Comment(Part, frozen=True):
    """A comment or an opening post."""

    id: str
    author: Owner
    hidden: bool
    url: Url
    content: str = ""


class Webhook(Part, frozen=True):
    """The webhook that sent it."""

    id: str
    version: int


class File(Part, frozen=True):
    """A file that changed in a bucket."""

    path: str
    action: str
    xet_hash: str | None = None
    size: int | None = None


class Payload(Part, frozen=True):
    """A delivery's body."""

    event: What
    repo: Repo
    webhook: Webhook
    discussion: Discussion | None = None
    comment: Comment | None = None
    updated_files: tuple[File, ...] = ()
    updated_files_truncated: bool = False


Five = tuple[str, str, str, int, str]


def five_of_ours(event: CommentEvent) -> Five:
    return (
        event.action, event.scope, event.repo.name, event.discussion.num, event.comment.content,
    )  # fmt: skip


def five_of_objects(payload: Any) -> Five:  # noqa: ANN401 - a Struct or a model
    event = payload.event
    return (
        event.action, event.scope, payload.repo.name, payload.discussion.num,
        payload.comment.content,
    )  # fmt: skip


def five_of_dicts(payload: dict[str, Any]) -> Five:
    event = payload["event"]
    return (
        event["action"], event["scope"], payload["repo"]["name"], payload["discussion"]["num"],
        payload["comment"]["content"],
    )  # fmt: skip


def paths_of_objects(payload: HubEvent | Payload) -> list[str]:
    return [file.path for file in payload.updated_files]


def paths_of_dicts(payload: dict[str, Any]) -> list[str]:
    return [file["path"] for file in payload["updatedFiles"]]


class Peer(NamedTuple):
    """A way to read a body, and to get at what it says."""

    read: Callable[[bytes], object]
    five: Callable[[Any], Five]
    # None where buckets are refused.
    paths: Callable[[Any], list[str]] | None


OURS = "hubhooks"
ORJSON = "orjson"
MODEL = "huggingface_hub's model"
PEERS = {
    OURS: Peer(HubEvent.from_json, five_of_ours, paths_of_objects),
    ORJSON: Peer(orjson.loads, five_of_dicts, paths_of_dicts),
    "msgspec, frozen Structs": Peer(
        msgspec.json.Decoder(Payload).decode, five_of_objects, paths_of_objects
    ),
    MODEL: Peer(WebhookPayload.model_validate_json, five_of_objects, None),
    "json": Peer(json.loads, five_of_dicts, paths_of_dicts),
}


# ---- taking times ----------------------------------------------------------------------------


def timed(statement: str, setup: str = "pass", **names: object) -> Timer:
    return Timer(statement, setup, globals=names)


def least_times(timers: Mapping[str, Timer], seconds: float) -> dict[str, float]:
    """Give the least time of one run of each, measured in turns for so many seconds."""
    slice_, warm_up, least_calls, least_rounds = 0.002, 20, 5, 5
    # Counted when warm: a slice of few calls would measure what the others left in the caches.
    for timer in timers.values():
        timer.timeit(1)
    calls = {
        what: max(least_calls, int(slice_ * warm_up / timer.timeit(warm_up)))
        for what, timer in timers.items()
    }
    best = dict.fromkeys(timers, math.inf)
    end = perf_counter() + seconds
    rounds = 0
    while rounds < least_rounds or perf_counter() < end:
        for what, timer in timers.items():
            best[what] = min(best[what], timer.timeit(calls[what]) / calls[what])
        rounds += 1
    return best


def in_processes(measure: Callable[[float], dict[str, float]], seconds: float) -> dict[str, float]:
    """Give the least times of several processes: one's layout of memory may favour some peer."""
    count = 5 if is_thorough(seconds) else 1
    each = alone(measure, [(seconds / count,)] * count)
    return {what: min(times[what] for times in each) for what in each[0]}


def alone(function: Callable[..., T], calls: Sequence[tuple[object, ...]]) -> list[T]:
    """Make each call in a new process, one after the other."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.starmap(function, calls, chunksize=1)


def is_thorough(seconds: float) -> bool:
    return seconds > 1


def readable(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def ratios(times: Mapping[str, float], base: str, limit: Limit | None) -> Iterator[Row]:
    """Compare all with one of them; the limit is for ours."""
    for what, time in times.items():
        ratio = time / times[base]
        unit = f"x {base}"
        yield Row(what, ratio, unit, readable(time), limit if what == OURS else None)


# ---- what is measured ------------------------------------------------------------------------


def pull_request() -> bytes:
    return compact(sample_json("discussion.create.pull-request"))


def bucket() -> bytes:
    """A push of many files, as the Hub writes it: hash and size of those added, not of deleted."""
    payload = sample_json("repo.content.update.bucket")
    payload["updatedFiles"] = [bucket_file(at) for at in range(FILES)]
    return compact(payload)


def bucket_file(at: int) -> dict[str, object]:
    path = f"data/{at % 10}/part-{at:05}.parquet"
    if at % 20 == 0:
        return {"path": path, "action": "delete"}
    xet_hash = hashlib.sha256(path.encode()).hexdigest()
    return {"path": path, "action": "add", "xetHash": xet_hash, "size": at * 1024}


# Before each slice, since timeit turns the collector off.
COLLECTING = "import gc; gc.enable()"


def parsing(seconds: float) -> dict[str, float]:
    body = pull_request()
    timers = {what: timed("read(body)", read=peer.read, body=body) for what, peer in PEERS.items()}
    return least_times(timers, seconds)


def parsing_and_reading(seconds: float) -> dict[str, float]:
    body = pull_request()
    if len({peer.five(peer.read(body)) for peer in PEERS.values()}) != 1:
        sys.exit("the peers do not read the same")
    timers = {
        what: timed("five(read(body))", read=peer.read, five=peer.five, body=body)
        for what, peer in PEERS.items()
    }
    return least_times(timers, seconds)


def parsing_a_bucket(seconds: float, setup: str = "pass") -> dict[str, float]:
    body = bucket()
    timers = {
        what: timed("read(body)", setup, read=peer.read, body=body)
        for what, peer in PEERS.items()
        if peer.paths
    }
    return least_times(timers, seconds)


def parsing_a_bucket_collecting(seconds: float) -> dict[str, float]:
    return parsing_a_bucket(seconds, COLLECTING)


def parsing_a_bucket_and_reading(seconds: float) -> dict[str, float]:
    body = bucket()
    timers = {
        what: timed("paths(read(body))", read=peer.read, paths=peer.paths, body=body)
        for what, peer in PEERS.items()
        if peer.paths
    }
    return least_times(timers, seconds)


def parsed(seconds: float) -> Iterator[Row]:
    times = in_processes(parsing, seconds)
    yield from ratios(times, ORJSON, PARSED)
    times_faster = times[MODEL] / times[OURS]
    yield Row("times as fast as huggingface_hub's", times_faster, "x", "", TIMES_FASTER)


def parsed_and_read(seconds: float) -> Iterator[Row]:
    return ratios(in_processes(parsing_and_reading, seconds), ORJSON, PARSED_AND_READ)


def bucket_parsed(seconds: float) -> Iterator[Row]:
    """Compare as a server meets it: so many new objects have the collector run in between."""
    return ratios(in_processes(parsing_a_bucket_collecting, seconds), ORJSON, BUCKET)


def bucket_parsed_uncollected(seconds: float) -> Iterator[Row]:
    return ratios(in_processes(parsing_a_bucket, seconds), ORJSON, None)


def bucket_parsed_and_read(seconds: float) -> Iterator[Row]:
    return ratios(in_processes(parsing_a_bucket_and_reading, seconds), ORJSON, None)


EVENTS = {"a pull request": "discussion.create.pull-request", "a push": "repo.content.update"}


def criteria(at: int) -> tuple[tuple[str | type[HubEvent], ...], dict[str, Any]]:
    """What the handlers of a large organisation listen to; few of them to the same."""
    kinds: tuple[tuple[tuple[str | type[HubEvent], ...], dict[str, Any]], ...] = (
        (("repo.content",), {"repo_type": "dataset", "repo": f"team-{at}/*", "ref": "main"}),
        (("repo.content",), {"repo_type": "model", "repo": f"*/tide-{at}*", "ref": "refs/tags/v*"}),
        (("discussion",), {"repo": f"ada-labs/gauge-{at}", "pull_request": True}),
        (("discussion.*",), {"repo_type": ["model", "dataset"], "owner": f"team-{at}"}),
        ((CommentEvent,), {"action": "create", "mention": f"bot-{at}"}),
        (("repo.*",), {"repo_type": "space", "repo": f"{{ada-labs,team-{at}}}/**"}),
    )
    wanted = ((), {"repo": "ada-labs/*", "repo_type": ["model", "dataset"]})
    return wanted if at % 200 == 0 else kinds[at % len(kinds)]


def a_handler(event: HubEvent) -> None:
    """Stand for all handlers."""


def matching_many(seconds: float) -> dict[str, float]:
    router = Router()
    for at in range(FILTERS):
        scopes, words = criteria(at)
        router.add(partial(a_handler), *scopes, name=f"handler-{at}", **words)
    filters = [Filter(*scopes, **words) for scopes, words in map(criteria, range(FILTERS))]
    timers = {}
    for what, name in EVENTS.items():
        event = HubEvent.from_json(compact(sample_json(name)))
        matched = f"{what} matched by {len(router.match(event))}"
        timers[f"Router.match, {matched}"] = timed("match(event)", match=router.match, event=event)
        timers[f"_core.match_filters, {matched}"] = timed(
            "match_filters(event, filters)",
            match_filters=match_filters,
            event=event,
            filters=filters,
        )
    return least_times(timers, seconds)


def matched(seconds: float) -> Iterator[Row]:
    for what, time in in_processes(matching_many, seconds).items():
        yield Row(what, time * 1e6, "us", readable(time), MATCHED_IN_US)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def hold(what: str | None, count: int) -> tuple[float, float]:
    """Hold many events, in a process of its own.

    Returns:
        The bytes for each, its body included, and the seconds of a full garbage collection, which
        looks at nothing but them.
    """
    template = pull_request()
    wanted = b"6a0d7466181f212cf0b6b8fe"
    # One call, so that what a peer makes once is there; the lists have their final lengths.
    read = PEERS[what].read if what else bytes
    read(template)
    bodies = [b""] * count
    events: list[object] = [None] * count
    gc.collect()
    gc.freeze()
    gc.disable()
    before = resident_bytes()
    for at in range(count):
        bodies[at] = template.replace(wanted, b"%024x" % at)
    for at, body in enumerate(bodies):
        events[at] = read(body)
    size = (resident_bytes() - before) / count
    return size, min(Timer(gc.collect).repeat(3, 1))


def holding(seconds: float) -> Iterator[Row]:
    count = 100_000 if is_thorough(seconds) else 20_000
    kinds = (None, *PEERS)
    each = alone(hold, [(what, count) for what in kinds])
    for what, (size, collection) in zip(kinds, each, strict=True):
        limit = BYTES_HELD if what == OURS else None
        yield Row(what or "the bodies alone", size, "bytes", f"gc {readable(collection)}", limit)


def importing(seconds: float) -> Iterator[Row]:
    base, ours = "asyncio, logging", "asyncio, logging, hubhooks"
    # Many, as what takes some milliseconds is lost in the noise of a busy machine.
    runs = 40 if is_thorough(seconds) else 15
    times = {base: math.inf, ours: math.inf}
    for _ in range(runs):
        for names, best in times.items():
            times[names] = min(best, float(fresh(IMPORT_TIME.format(names))))
    yield Row(base, times[base] * 1e3, "ms", "")
    yield Row("hubhooks over that", (times[ours] - times[base]) * 1e3, "ms", "", IMPORTED_IN_MS)
    loaded = fresh(IMPORTED).split()
    found = [name for name in FRAMEWORKS if name in loaded]
    yield Row("frameworks loaded", len(found), "", ", ".join(found) or "none", NO_FRAMEWORK)


IMPORT_TIME = """
from time import perf_counter
start = perf_counter()
import {}
print(perf_counter() - start)
"""
IMPORTED = "import hubhooks, sys; print(*sys.modules)"
PYCACHE = Path(tempfile.gettempdir()) / "hubhooks-bench-pycache"


def fresh(code: str) -> str:
    """Run code in a new interpreter, with modules compiled as those of an installed package are."""
    command = [sys.executable, "-X", f"pycache_prefix={PYCACHE}", "-c", code]
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
    return done.stdout


def refuse(body: bytes) -> None:
    try:
        HubEvent.from_json(body)
    except PayloadError:
        return
    sys.exit("digits alone were taken for an event")


def refusing_digits(seconds: float) -> Iterator[Row]:
    body = b"1" * (100_000_000 if is_thorough(seconds) else 10_000_000)
    base = "bytes.decode"
    timers = {OURS: timed("refuse(body)", refuse=refuse, body=body), base: Timer(body.decode)}
    yield from ratios(least_times(timers, seconds), base, DIGITS)


# ---- the table -------------------------------------------------------------------------------

Section = Callable[[float], Iterator[Row]]
SECTIONS: dict[str, Section] = {
    f"1. an event of {len(pull_request()):,} bytes, parsed": parsed,
    "2. the same, and five fields read": parsed_and_read,
    f"3. a bucket's {FILES:,} files, {len(bucket()):,} bytes, parsed, collector on": bucket_parsed,
    "   the same, collector off": bucket_parsed_uncollected,
    "   the same, and every path read": bucket_parsed_and_read,
    f"4. {FILTERS:,} filters matched": matched,
    "5. events held, each with its body": holding,
    "6. import": importing,
    "7. nothing but digits, refused": refusing_digits,
}


def main() -> int:
    """Print the table; tell by the exit code whether all limits are kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less exact, in a few seconds")
    seconds = 0.3 if parser.parse_args().quick else 4.0

    names = ("hubhooks", "orjson", "msgspec", "huggingface_hub", "pydantic")
    print(
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in names),
        sep=", ",
    )
    missed = 0
    for title, section in SECTIONS.items():
        print(f"\n{title}")
        for row in section(seconds):
            print(row, flush=True)
            missed += row.is_missed
    print(f"\n{missed} limits missed" if missed else "\nall limits kept")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
