"""The activity as JSON, for callers with the admin token.

It is served below each path that receives deliveries: GET `deliveries`, GET `deliveries/<id>`, POST
`deliveries/<id>/replay`, GET `deliveries/-/ready` and GET `deliveries/-/metrics`.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from hubhooks._http.app import check_event_loop
from hubhooks.admin import operations as _operations
from hubhooks.admin.delivery_json import delivery_json
from hubhooks.admin.requests import (
    DEFAULT_PAGE,
    Rejection,
    check_access,
    limit_of,
    moment_of,
    names_in,
    query_of,
    read,
    state_of,
)
from hubhooks.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hubhooks._http.app import WebhookApp
    from hubhooks._http.types import Receive, Scope, Send
    from hubhooks.admin.queries import Activity

__all__ = ["serve"]

_LIST_OPTIONS = ("state", "scope", "repo", "since", "before", "limit")


class _Target(NamedTuple):
    """The resource that a path names."""

    delivery_id: str | None
    is_replay: bool
    operation: str = ""
    """`ready` or `metrics`."""


async def serve(
    activity: Callable[[], Activity],
    app: WebhookApp,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> bool:
    """Respond to a request for this API, if an admin token is set.

    Args:
        activity: returns the deliveries.
        app: the app. It starts with the first request of the owner, if it was not started.
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
        await check_access(activity().guard, scope)
        check_event_loop()
        app.start_if_new()
        if target.operation:
            health = await _operations.check(activity(), app.not_ready_reason)
            if target.operation == "metrics":
                said = await asyncio.to_thread(_operations.metrics, activity(), health)
            else:
                status, said = 200 if health.is_ready else 503, _operations.readiness(health)
        elif target.is_replay:
            status, said = (
                202,
                await _replay(activity(), target, await read(receive, scope["headers"])),
            )
        elif target.delivery_id is None:
            said = await asyncio.to_thread(_list, activity(), query)
        else:
            said = await asyncio.to_thread(_show, activity(), target.delivery_id)
    except Rejection as rejection:
        status, said, headers = rejection.status, rejection.data, rejection.headers
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


def _list(activity: Activity, query: bytes) -> dict[str, Any]:
    given = query_of(query, _LIST_OPTIONS)
    limit = limit_of(given.get("limit", str(DEFAULT_PAGE)))
    deliveries = activity.store.list(
        state=state_of(given.get("state")),
        scope=given.get("scope"),
        repo=given.get("repo"),
        since=moment_of(given.get("since")),
        before=given.get("before"),
        limit=limit + 1,
    )
    page = [delivery_json(delivery) for delivery in deliveries[:limit]]
    # The next page begins before the last delivery of this one.
    before = page[-1]["id"] if len(deliveries) > limit else None
    unknown = activity.unknown_handlers()
    return {"deliveries": page, "before": before, "unknown_handlers": unknown}


def _show(activity: Activity, delivery_id: str) -> dict[str, Any]:
    details = activity.details(delivery_id)
    if details is None:
        raise Rejection(404, "there is no such delivery")
    return {
        **delivery_json(details.delivery, is_whole=True),
        "explanations": details.explanations,
        "handlers": details.handlers,
    }


async def _replay(activity: Activity, target: _Target, body: bytes) -> dict[str, Any]:
    done = await activity.replay(target.delivery_id or "", names_in(body))
    if done.blocked_reason:
        is_there = activity.store.get(target.delivery_id or "") is not None
        raise Rejection(409 if is_there else 404, done.blocked_reason)
    return {"delivery": target.delivery_id, "handlers": done.handlers}


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
