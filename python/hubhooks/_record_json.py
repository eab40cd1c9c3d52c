"""Deliveries as JSON, the same for the command line and over HTTP."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, cast

from hubhooks._core import HubEvent
from hubhooks.errors import PayloadError

if TYPE_CHECKING:
    from datetime import datetime

    from hubhooks.deliveries import Record, Run

__all__ = [
    "LONGEST_BODY", "body_of", "event_of", "iso", "record_json", "run_json", "showable", "too_long",
]  # fmt: skip

# To read and write a body as JSON takes a hundred times its size in memory, and stops all threads.
LONGEST_BODY = 1024 * 1024
_DEEPEST_SHOWN = 64
_WRITTEN_IN = 64
# JavaScript rounds whole numbers beyond.
_EXACT = 2**53


def record_json(record: Record, *, is_whole: bool = False) -> dict[str, Any]:
    """Give a delivery as JSON has it.

    Args:
        record: the delivery.
        is_whole: with its headers, the tracebacks, and its body unless that is very long.
    """
    made: dict[str, Any] = {
        "id": record.id,
        "received_at": iso(record.received_at),
        "state": record.state,
        "scope": record.scope,
        "action": record.action,
        "repo": record.repo,
        "size": record.size,
        "reason": record.reason,
        "is_replay": record.is_replay,
        "is_delivered": record.is_delivered,
        "duplicates": record.duplicates,
        "runs": [run_json(run, is_whole=is_whole) for run in record.runs],
    }
    if is_whole:
        made["headers"] = record.headers
        if record.size > LONGEST_BODY:
            made["body"] = None
            if record.body is not None:
                made["body_omitted"] = too_long(record)
            return made
        body = body_of(record)
        made["body"] = body if _can_be_written(body) else showable(body)
    return made


def too_long(record: Record) -> str:
    """Say why a body is not shown, and how to get it."""
    return (
        f"the body has {record.size} bytes, and one of more than {LONGEST_BODY} is not shown here; "
        f"`hubhooks deliveries export {shlex.quote(record.id)}` writes it to a file, unless "
        "deliveries are kept in memory"
    )


def _can_be_written(body: object) -> bool:
    """Whether what was read from JSON is JSON once it is written again: it may be NaN, or deep."""
    # Whoever writes it has a stack of another height, and puts it into something.
    for _ in range(_WRITTEN_IN):
        body = [body]
    try:
        json.dumps(body, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


def run_json(run: Run, *, is_whole: bool = False) -> dict[str, Any]:
    return {
        "handler": run.handler,
        "state": run.state,
        "attempts": run.attempts,
        "failures": run.failures,
        "interruptions": run.interruptions,
        "due_at": iso(run.due_at),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "error": run.error,
        **({"traceback": run.traceback, "history": _history_json(run)} if is_whole else {}),
    }


def _history_json(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "attempt": attempt.number,
            "started_at": iso(attempt.started_at),
            "pid": attempt.pid,
            "code": attempt.code,
        }
        for attempt in run.history
    ]


def iso(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()


def event_of(record: Record) -> HubEvent | None:
    try:
        return None if record.body is None else HubEvent.from_json(record.body)
    except PayloadError:
        return None


def body_of(record: Record) -> Any:  # noqa: ANN401 - any JSON
    if record.body is None:
        return None
    try:
        return json.loads(record.body)
    except (ValueError, RecursionError):
        return record.body.decode("utf-8", "backslashreplace")


def showable(value: Any, depth: int = _DEEPEST_SHOWN) -> Any:  # noqa: ANN401 - any JSON
    """Give a JSON value as what a browser reads from JSON: numbers that are exact, whole text."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int | float) and not -_EXACT < value < _EXACT:
        return str(value)  # a NaN too, which is not smaller than anything
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        return "(deeper than is shown here)"
    if isinstance(value, list):
        return [showable(item, depth - 1) for item in value]
    pairs = cast("dict[str, Any]", value).items()
    return {showable(key, depth): showable(item, depth - 1) for key, item in pairs}
