"""Readiness and metrics, for what monitors an app."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from hubhooks._core import __version__
from hubhooks.admin.delivery_json import iso
from hubhooks.admin.queries import STATES
from hubhooks.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import TypeAlias

    from hubhooks._store.base import Backlog
    from hubhooks.admin.queries import Activity, LeaderState
    from hubhooks.models import Stats

    # The labels of a sample, and its value.
    Sample: TypeAlias = tuple[Mapping[str, object], float]

__all__ = ["CONTENT_TYPE", "Health", "check", "metrics", "readiness", "stats_json"]

# The name of a store in memory.
IN_MEMORY = ":memory:"
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_NO_LEADER = "the delivery store has no living leader, so no handler runs"
# Only these have a meaning in a label's value.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Health(NamedTuple):
    """Whether an app stores and runs deliveries."""

    reasons: tuple[str, ...]
    """Why it does not."""
    is_store_writable: bool
    is_durable: bool
    leader: LeaderState | None
    backlog: Backlog | None
    """None if the store cannot be read."""

    @property
    def is_ready(self) -> bool:
        """Whether the app stores deliveries, and some process runs their handlers."""
        return not self.reasons

    @property
    def oldest_seconds(self) -> float | None:
        """For how long the oldest run that can start has waited; None if none waits."""
        since = None if self.backlog is None else self.backlog.startable_since
        if since is None:
            return None
        return max((datetime.now(timezone.utc) - since).total_seconds(), 0.0)


async def check(activity: Activity, not_ready_reason: Callable[[], Awaitable[str]]) -> Health:
    """Look whether the app stores and runs deliveries; on the server's loop.

    Args:
        activity: reads the store.
        not_ready_reason: returns why a delivery would not be stored now; empty if it would.
    """
    reason = await not_ready_reason()
    reasons = [reason] if reason else []
    leader = backlog = None
    try:
        leader, backlog = await asyncio.to_thread(
            lambda: (activity.leader(), activity.backlog()),
        )
    except StoreError as error:
        reasons.append(str(error))
    else:
        if leader is None or not leader.is_alive:
            reasons.append(_NO_LEADER)
    unique = tuple(dict.fromkeys(reasons))
    return Health(unique, not reason, bool(activity.store.path), leader, backlog)


def readiness(health: Health) -> dict[str, Any]:
    """Describe the health of an app as JSON."""
    leader, backlog = health.leader, health.backlog
    return {
        "is_ready": health.is_ready,
        "reason": "; ".join(health.reasons) or None,
        "is_store_writable": health.is_store_writable,
        "is_durable": health.is_durable,
        "leader": leader and {**leader._asdict(), "since": iso(leader.since)},
        "waiting_runs": None if backlog is None else sum(backlog.runs.values()),
        "oldest_queued_run_seconds": health.oldest_seconds,
    }


def stats_json(activity: Activity, stats: Stats) -> dict[str, Any]:
    """Give the numbers of a store as JSON."""
    return {
        "states": {state: stats.states.get(state, 0) for state in STATES},
        "rejections": activity.rejections(stats),
        "body_bytes": stats.body_bytes,
        "unfinished_since": iso(stats.unfinished_since),
        "store": activity.store.path or IN_MEMORY,
        "version": __version__,
    }


def metrics(activity: Activity, health: Health) -> str:
    """Write the metrics of an app in the Prometheus text format.

    Raises:
        StoreError: the store cannot be read just now.
    """
    stats = activity.stats()
    leader = health.leader
    is_alive = leader is not None and leader.is_alive
    runs = dict.fromkeys(activity.handler_names, 0)
    if health.backlog is not None:
        runs.update(health.backlog.runs)
    lines = [
        *_gauge(
            "hubhooks_ready",
            "Whether the store is writable and a living leader runs the handlers.",
            [({}, health.is_ready)],
        ),
        *_gauge(
            "hubhooks_store_writable",
            "Whether a delivery could be stored.",
            [({}, health.is_store_writable)],
        ),
        *_gauge("hubhooks_leader_alive", "Whether the leader process is alive.", [({}, is_alive)]),
        *_gauge(
            "hubhooks_leader_info",
            "The process that runs the handlers, and the version of its code.",
            [({"pid": leader.pid, "code": leader.code or ""}, 1)] if leader else [],
        ),
        *_gauge(
            "hubhooks_leader_start_time_seconds",
            "When this process became the leader, in seconds since 1970.",
            [({}, leader.since.timestamp())] if leader and leader.since else [],
        ),
        *_gauge(
            "hubhooks_deliveries",
            "Deliveries in the store, by state.",
            [({"state": state}, stats.states.get(state, 0)) for state in STATES],
        ),
        *_gauge(
            "hubhooks_rejected_requests",
            "Rejected requests in the store, by reason.",
            [({"reason": reason}, count) for reason, count in activity.rejections().items()],
        ),
        *_gauge(
            "hubhooks_waiting_runs",
            "Runs that wait to start, including retries, by handler.",
            [({"handler": name}, count) for name, count in runs.items()],
        ),
        *_gauge(
            "hubhooks_unknown_handler_runs",
            "Waiting runs whose handler does not exist in any running app.",
            [({"handler": name}, n) for name, n in activity.unknown_handlers().items()],
        ),
        *_gauge(
            "hubhooks_oldest_queued_run_age_seconds",
            "How long the oldest run that can start has waited; 0 if none waits.",
            [({}, health.oldest_seconds or 0.0)],
        ),
        *_gauge("hubhooks_body_bytes", "The size of all stored bodies.", [({}, stats.body_bytes)]),
    ]
    return "\n".join(lines) + "\n"


def _gauge(name: str, text: str, samples: Iterable[Sample]) -> list[str]:
    # All of them: what the store drops is no longer counted, so no number only grows.
    lines = [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        pairs = ",".join(f'{key}="{str(v).translate(_ESCAPES)}"' for key, v in labels.items())
        # `float` writes booleans and long integers in the same way.
        number = int(value) if float(value).is_integer() else float(value)
        lines.append(f"{name}{pairs and '{' + pairs + '}'} {number}")
    return lines
