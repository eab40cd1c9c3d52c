"""The activity as JSON, for callers with the admin token.

It is served below each path that receives deliveries: GET `deliveries`, GET `deliveries/<id>`, POST
`deliveries/<id>/replay`, GET `deliveries/-/ready` and GET `deliveries/-/metrics`.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from hubhooks._http.app import check_event_loop
from hubhooks._http.body import BodyError, read_body
from hubhooks._http.receiver import find_spec
from hubhooks.admin import operations as _operations
from hubhooks.admin.delivery_json import delivery_json
from hubhooks.admin.queries import STATES
from hubhooks.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hubhooks._http.types import Headers, Receive, Scope, Send
    from hubhooks.admin.queries import Activity

__all__ = ["serve"]

_PAGE = 50
_LONGEST_PAGE = 500
_LONGEST_BODY = 64 * 1024

_LIST_OPTIONS = ("state", "scope", "repo", "since", "before", "limit")


class _Rejection(Exception):  # noqa: N818 - a response, not an error of ours
    def __init__(self, status: int, reason: str, **headers: str) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers


class _Target(NamedTuple):
    """The resource that a path names."""

    delivery_id: str | None
    is_replay: bool
    operation: str = ""
    """`ready` or `metrics`."""


async def serve(
    activity: Callable[[], Activity],
    not_ready_reason: Callable[[], Awaitable[str]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> bool:
    """Respond to a request for this API, if an admin token is set.

    Args:
        activity: returns the deliveries.
        not_ready_reason: returns why a delivery would not be stored now; empty if it would.
        scope: the scope of the request.
        receive: ASGI's function that returns the body.
        send: ASGI's function that takes the response.

    Returns:
        False for any other request. Then nothing was read or sent.
    """
    target = _target_of(scope)
    if target is None:
        return False
    query, scope["query_string"] = scope["query_string"], b""
    said: object = None
    status, headers = 200, dict[str, str]()
    try:
        if not activity().guard.is_on:
            scope["query_string"] = query
            return False
        await _check_access(activity(), scope)
        check_event_loop()
        if target.operation:
            health = await _operations.check(activity(), not_ready_reason)
            if target.operation == "metrics":
                said = await asyncio.to_thread(_operations.metrics, activity(), health)
            else:
                status, said = 200 if health.is_ready else 503, _operations.readiness(health)
        elif target.is_replay:
            status, said = (
                202,
                await _replay(activity(), target, await _read(receive, scope["headers"])),
            )
        elif target.delivery_id is None:
            said = await asyncio.to_thread(_list, activity(), query)
        else:
            said = await asyncio.to_thread(_show, activity(), target.delivery_id)
    except _Rejection as rejection:
        status, said, headers = rejection.status, {"reason": rejection.reason}, rejection.headers
    except (ConfigError, StoreError) as error:
        status, said = 503, {"reason": str(error)}
    await _send(send, status, said, headers)
    return True


def _target_of(scope: Scope) -> _Target | None:
    # The raw path, if the server has it: an id may contain a slash.
    path = (scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1")
    parts = (path or scope["path"]).rstrip("/").split("/")
    method = scope["method"]
    match parts:
        case [*_, "deliveries"] if method == "GET":
            return _Target(None, is_replay=False)
        case [*_, "deliveries", name] if method == "GET":
            return _Target(unquote(name), is_replay=False)
        # No id can be `-/ready`: a slash in an id is sent as `%2F`.
        case [*_, "deliveries", "-", ("ready" | "metrics") as operation] if method == "GET":
            return _Target(None, is_replay=False, operation=operation)
        case [*_, "deliveries", name, "replay"] if method == "POST":
            return _Target(unquote(name), is_replay=True)
    return None


async def _check_access(activity: Activity, scope: Scope) -> None:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    kind, _, token = (values[0] if len(values) == 1 else b"").partition(b" ")
    if kind.lower() != b"bearer" or not token:
        raise _Rejection(
            401, "the header `Authorization: Bearer <admin token>` is missing",
            **{"www-authenticate": "Bearer"},
        )  # fmt: skip
    result = await activity.guard.check_delayed(token.decode("latin-1"))
    if result == "busy":
        raise _Rejection(
            429, "the admin token is wrong, after too many other wrong tokens",
            **{"retry-after": "1", **_closing(scope)},
        )  # fmt: skip
    if result != "right":
        raise _Rejection(403, "the admin token is wrong")


def _closing(scope: Scope) -> dict[str, str]:
    """Return the header that ends the connection. HTTP/2 does not allow it."""
    return {"connection": "close"} if scope.get("http_version", "1.1").startswith("1") else {}


def _list(activity: Activity, query: bytes) -> dict[str, Any]:
    given = dict(parse_qsl(query.decode("latin-1")))
    for name in given:
        if name not in _LIST_OPTIONS:
            known = ", ".join(_LIST_OPTIONS)
            raise _Rejection(400, f"there is no parameter `{name}`; there are {known}")
    state = given.get("state")
    if state is not None and state not in STATES:
        raise _Rejection(400, f"`{state}` is not a state; the states are {', '.join(STATES)}")
    limit = _limit_of(given.get("limit", str(_PAGE)))
    deliveries = activity.store.list(
        state=state,
        scope=given.get("scope"),
        repo=given.get("repo"),
        since=_moment_of(given.get("since")),
        before=given.get("before"),
        limit=limit + 1,
    )
    page = [delivery_json(delivery) for delivery in deliveries[:limit]]
    # The next page begins before the last delivery of this one.
    before = page[-1]["id"] if len(deliveries) > limit else None
    unknown = activity.unknown_handlers()
    return {"deliveries": page, "before": before, "unknown_handlers": unknown}


def _limit_of(text: str) -> int:
    # Python refuses to convert very long numbers.
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(_LONGEST_PAGE))
    if not (is_number and 0 < int(text) <= _LONGEST_PAGE):
        raise _Rejection(400, f"`limit` must be a number from 1 to {_LONGEST_PAGE}")
    return int(text)


def _moment_of(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        # Python 3.10 does not know the Z. In a query a plus is a space.
        moment = datetime.fromisoformat(text.replace("Z", "+00:00").replace(" ", "+"))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _Rejection(400, "`since` must be a time with a zone, such as 2026-07-31T14:00:00Z")
    return moment


def _show(activity: Activity, delivery_id: str) -> dict[str, Any]:
    details = activity.details(delivery_id)
    if details is None:
        raise _Rejection(404, "there is no such delivery")
    return {
        **delivery_json(details.delivery, is_whole=True),
        "explanations": details.explanations,
        "handlers": details.handlers,
    }


async def _replay(activity: Activity, target: _Target, body: bytes) -> dict[str, Any]:
    done = await activity.replay(target.delivery_id or "", _handlers_in(body))
    if done.blocked_reason:
        is_there = activity.store.get(target.delivery_id or "") is not None
        raise _Rejection(409 if is_there else 404, done.blocked_reason)
    return {"delivery": target.delivery_id, "handlers": done.handlers}


def _handlers_in(body: bytes) -> tuple[str, ...]:
    if not body:
        return ()
    right = '{"handlers": ["name"]}'
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise _Rejection(400, f"the body is not JSON: leave it empty, or send {right}") from None
    names = said.get("handlers") if isinstance(said, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise _Rejection(400, f"the body has the wrong content: leave it empty, or send {right}")
    return tuple(names)


async def _read(receive: Receive, headers: Headers) -> bytes:
    try:
        return await read_body(receive, _LONGEST_BODY, headers)
    except BodyError as error:
        words = find_spec(error.case)
        raise _Rejection(
            words.http, f"{words.reason}{error.detail and ': '}{error.detail}"
        ) from None


async def _send(send: Send, status: int, said: object, more: dict[str, str]) -> None:
    if isinstance(said, str):
        kind, body = _operations.CONTENT_TYPE, said.encode("utf-8", "backslashreplace")
    else:
        kind, body = b"application/json", json.dumps(said).encode()
    headers = [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *((name.encode(), value.encode()) for name, value in more.items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
