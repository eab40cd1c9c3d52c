"""Deliveries as JSON, for the command line and the HTTP API."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, cast

from hubhooks._core import HubEvent
from hubhooks.errors import PayloadError
from hubhooks.models import shorten

if TYPE_CHECKING:
    from datetime import datetime

    from hubhooks.models import Attempt, Delivery, Run

__all__ = [
    "LONGEST_BODY",
    "attempt_json",
    "body_of",
    "delivery_json",
    "event_of",
    "iso",
    "json_safe",
    "row_json",
    "run_json",
    "too_long",
]  # fmt: skip

# To read and write a body as JSON takes a hundred times its size in memory, and stops all threads.
LONGEST_BODY = 1024 * 1024
# Of the texts in a list. A page has up to 500 deliveries with any number of runs.
_LONGEST_IN_ROW = 500
_DEEPEST_SHOWN = 64
_WRITTEN_IN = 64
# JavaScript rounds whole numbers beyond.
_EXACT = 2**53


def delivery_json(delivery: Delivery, *, is_whole: bool = False) -> dict[str, Any]:
    """Convert a delivery to a JSON object.

    Args:
        delivery: the delivery.
        is_whole: add its headers, its tracebacks, and its body unless the body is very long.
    """
    made: dict[str, Any] = {
        "id": delivery.id,
        "received_at": iso(delivery.received_at),
        "state": delivery.state,
        "scope": delivery.scope,
        "action": delivery.action,
        "repo": delivery.repo,
        "size": delivery.size,
        "reason": delivery.reason,
        "is_replay": delivery.is_replay,
        "is_acknowledged": delivery.is_acknowledged,
        "duplicates": delivery.duplicates,
        "runs": [run_json(run, is_whole=is_whole) for run in delivery.runs],
    }
    if is_whole:
        made["headers"] = delivery.headers
        if delivery.size > LONGEST_BODY:
            made["body"] = None
            if delivery.body is not None:
                made["body_omitted"] = too_long(delivery)
            return made
        body = body_of(delivery)
        made["body"] = body if _can_be_written(body) else json_safe(body)
    return made


def shown_at(delivery: Delivery) -> datetime:
    """Return when a delivery was received, or replayed: a replayed one is listed as a new one."""
    started = [run.started_at for run in delivery.runs if run.started_at is not None]
    return max([delivery.received_at, *started]) if delivery.is_replay else delivery.received_at


def row_json(delivery: Delivery) -> dict[str, Any]:
    """Give a delivery as JSON for a long list, with short texts."""
    row = delivery_json(delivery)
    row["reason"] = shorten(row["reason"], _LONGEST_IN_ROW)
    for run in row["runs"]:
        run["error"] = shorten(run["error"], _LONGEST_IN_ROW)
    return row


def too_long(delivery: Delivery) -> str:
    """Say why a body is not shown, and how to get it."""
    return (
        f"the body has {delivery.size} bytes, and one of more than {LONGEST_BODY} is not shown "
        f"here; `hubhooks deliveries export {shlex.quote(delivery.id)}` writes it to a file, "
        "unless deliveries are kept in memory"
    )


def _can_be_written(body: object) -> bool:
    """Return whether a parsed body can be written as JSON: it may contain NaN, or be too deep."""
    # The writer may be deeper in the stack, and may nest the value in another one.
    for _ in range(_WRITTEN_IN):
        body = [body]
    try:
        json.dumps(body, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


def run_json(run: Run, *, is_whole: bool = False) -> dict[str, Any]:
    """Convert a run to a JSON object; `is_whole` adds its traceback and its attempts."""
    return {
        "handler": run.handler,
        "state": run.state,
        "attempts": run.attempts,
        "failures": run.failures,
        "crashes": run.crashes,
        "due_at": iso(run.due_at),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "error": run.error,
        **({"traceback": run.traceback, "history": _history_json(run)} if is_whole else {}),
    }


def _history_json(run: Run) -> list[dict[str, Any]]:
    return [attempt_json(attempt) for attempt in run.history]


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    """Give an attempt as JSON."""
    return {
        "attempt": attempt.number,
        "state": attempt.state,
        "started_at": iso(attempt.started_at),
        "finished_at": iso(attempt.finished_at),
        "error": attempt.error,
        "traceback": attempt.traceback,
        "output": attempt.output,
        "result": attempt.result,
        "pid": attempt.pid,
        "code": attempt.code,
    }


def iso(when: datetime | None) -> str | None:
    """Format a time in ISO 8601; None for None."""
    return None if when is None else when.isoformat()


def event_of(delivery: Delivery) -> HubEvent | None:
    """Parse the body; None if it was dropped or is not an event."""
    try:
        return None if delivery.body is None else HubEvent.from_json(delivery.body)
    except PayloadError:
        return None


def body_of(delivery: Delivery) -> Any:  # noqa: ANN401 - any JSON
    """Parse the body as JSON, or return it as text if it is not JSON; None if it was dropped."""
    if delivery.body is None:
        return None
    try:
        return json.loads(delivery.body)
    except (ValueError, RecursionError):
        return delivery.body.decode("utf-8", "backslashreplace")


def json_safe(value: Any, depth: int = _DEEPEST_SHOWN) -> Any:  # noqa: ANN401 - any JSON
    """Convert a JSON value for a browser: inexact numbers become text, deep parts are left out."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int | float) and not -_EXACT < value < _EXACT:
        return str(value)  # a NaN too, which is not smaller than anything
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        return "(too deep to show here)"
    if isinstance(value, list):
        return [json_safe(item, depth - 1) for item in value]
    pairs = cast("dict[str, Any]", value).items()
    return {json_safe(key, depth): json_safe(item, depth - 1) for key, item in pairs}
