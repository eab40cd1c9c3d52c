"""The JSON API of the page. `hooks.admin` and `hubhooks dev` serve it."""

from __future__ import annotations

import asyncio
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, get_args
from urllib.parse import unquote

from hubhooks import _samples
from hubhooks._http.app import check_event_loop
from hubhooks._http.receiver import MAX_BODY_SIZE
from hubhooks.admin import operations as _operations
from hubhooks.admin.delivery_json import attempt_json, delivery_json, event_of, iso
from hubhooks.admin.queries import NOT_FINISHED, Activity, Replayed, choose_replay, make_details
from hubhooks.admin.requests import (
    DEFAULT_PAGE,
    Rejection,
    check_access,
    json_in,
    limit_of,
    moment_of,
    names_in,
    query_of,
    read,
    state_of,
)
from hubhooks.admin.source_lines import changed_lines
from hubhooks.admin.streams import EventStreams
from hubhooks.errors import ConfigError, PayloadError, StoreError
from hubhooks.routing import Router

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeAlias

    from hubhooks._http.types import Receive, Scope, Send
    from hubhooks._store.base import DeliveryStore
    from hubhooks.admin.access import AdminTokenGuard
    from hubhooks.admin.queries import Details

    # A status and the JSON of the response, or its text.
    _Reply: TypeAlias = tuple[int, object]

__all__ = ["AdminApi", "SendRequest", "Source", "StoreSource"]

_LIST_OPTIONS = (
    "q", "state", "scope", "repo", "handler", "event", "since", "before", "limit",
)  # fmt: skip
_LONGEST_QUERY = 256  # of `q`, in characters
_MOST_SENT = 100
_LONGEST_ID = 256
# A caller without access gets no body.
_NO_ACCESS = frozenset({401, 403})
# An event id has fewer digits.
_LONGEST_NUMBER = 18
_NO_APP = "the app does not run"
_SEND_HINT = 'send {"body": {...}, "id": null, "secret": "right", "times": 1}'

SecretChoice = Literal["right", "wrong", "none", "url"]


class SendRequest(NamedTuple):
    """A delivery that the user sends to the app."""

    body: bytes
    delivery_id: str | None
    """The `Webhook-Id`; None for a new one."""
    secret: SecretChoice
    """`url` is the right secret, in the query of the URL."""
    times: int
    """How many copies are sent at once."""


class Source(Protocol):
    """The parts of an app that the API needs. All methods are called on the server's loop."""

    @property
    def activity(self) -> Activity:
        """Reads the store, and checks the admin token.

        Raises:
            ConfigError: a setting cannot be used.
        """
        ...

    @property
    def is_dev(self) -> bool:
        """True for `hubhooks dev`: deliveries can be sent, and `app()` changes."""
        ...

    def start(self) -> None:
        """Start what the requests need; called before each of them."""
        ...

    def app(self) -> dict[str, Any]:
        """Return the state of the app as JSON."""
        ...

    async def handlers(self) -> list[dict[str, Any]]:
        """Return the handlers as `handlers_json` gives them.

        Raises:
            StoreError: they are not known now.
        """
        ...

    async def explain(self, body: bytes) -> dict[str, Any]:
        """Explain which handlers match a body, as `explain_json` does.

        Raises:
            PayloadError: the body is not an event.
            StoreError: the app does not run now.
        """
        ...

    async def details(self, delivery_id: str) -> Details | None:
        """Look up a delivery; None if there is none.

        Raises:
            StoreError: the store cannot be read now.
        """
        ...

    async def replay(self, delivery_id: str, handlers: Sequence[str]) -> Replayed:
        """Run handlers of a delivery again.

        Args:
            delivery_id: the delivery.
            handlers: their names; none for all that Replay can run.

        Raises:
            StoreError: the store cannot be written now.
        """
        ...

    async def not_ready_reason(self) -> str:
        """Return why a delivery would not be stored now; empty if it would."""
        ...

    async def send(self, request: SendRequest) -> list[dict[str, Any]]:
        """Send a delivery to the app, if `is_dev`.

        Returns:
            for each copy, its `status`, `body`, `milliseconds` and `id`.
        """
        ...


class StoreSource:
    """A `Source` for a store without an app. `hubhooks dev` adds the app to it.

    Args:
        store: the store, which another process may use.
        guard: checks the admin token.
    """

    is_dev = False

    def __init__(self, store: DeliveryStore, guard: AdminTokenGuard) -> None:
        self._activity = Activity(store, Router(), lambda: None, lambda: None, guard)

    @property
    def activity(self) -> Activity:
        """The deliveries of the store."""
        return self._activity

    def start(self) -> None:
        """Start nothing: there is only the store."""

    def app(self) -> dict[str, Any]:
        """Return the state of the app as JSON."""
        return {"mode": "admin"}

    async def handlers(self) -> list[dict[str, Any]]:
        """Return the handlers as JSON; there are none without an app."""
        return []

    async def explain(self, body: bytes) -> dict[str, Any]:  # noqa: ARG002 - for subclasses
        """Explain which handlers match a body.

        Raises:
            StoreError: there is no app.
        """
        raise StoreError(_NO_APP)

    async def explain_stored(self, body: bytes) -> dict[str, Any]:
        """Explain which handlers match the body of a stored delivery, as `explain` does."""
        return await self.explain(body)

    async def details(self, delivery_id: str) -> Details | None:
        """Look up a delivery; without explanations while the app does not run."""
        delivery = await asyncio.to_thread(self.activity.store.get, delivery_id)
        if delivery is None:
            return None
        explanations: list[str] = []
        names: list[str] = []
        if delivery.body is not None:
            try:
                explained = await self.explain_stored(delivery.body)
            except (PayloadError, StoreError):
                pass
            else:
                explanations = [each["text"] for each in explained["handlers"]]
                explanations += [explained["note"]] * bool(explained["note"])
                if explained["ignored"]:
                    explanations = [f"no handler matches: {explained['ignored']}"]
                names = [each["name"] for each in explained["handlers"] if each["matches"]]
        event = await asyncio.to_thread(event_of, delivery)
        return await asyncio.to_thread(make_details, delivery, event, explanations, names)

    async def replay(self, delivery_id: str, handlers: Sequence[str]) -> Replayed:
        """Queue handlers of a delivery again, for the process that runs them.

        Raises:
            StoreError: the store cannot be written now.
        """
        return await self._queue(await self.details(delivery_id), delivery_id, handlers)

    async def _queue(
        self, details: Details | None, delivery_id: str, handlers: Sequence[str]
    ) -> Replayed:
        from hubhooks._store.sqlite import replay_in  # noqa: PLC0415 - only for stores on disk

        chosen = choose_replay(details, handlers)
        if chosen.blocked_reason:
            return chosen
        path = self.activity.store.path
        names = await asyncio.to_thread(replay_in, path, delivery_id, chosen.handlers)
        return Replayed(names) if names else Replayed((), NOT_FINISHED)

    async def not_ready_reason(self) -> str:
        """Return why a delivery would not be stored now."""
        return _NO_APP

    async def send(self, request: SendRequest) -> list[dict[str, Any]]:  # noqa: ARG002 - for subclasses
        """Send a delivery to the app.

        Raises:
            StoreError: there is no app.
        """
        raise StoreError(_NO_APP)


class AdminApi:
    """The API for one source. It checks the admin token, and nothing else about the caller.

    Args:
        source: the app or the store.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._streams = EventStreams(source.app if source.is_dev else None)

    def close(self) -> None:
        """End the open event streams, before a shutdown."""
        self._streams.close()

    async def serve(
        self,
        path: str,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Respond to a request.

        Args:
            path: its path relative to the API's root, percent-encoded: an id may have a slash.
            scope: the scope of the request.
            receive: ASGI's function that returns the body.
            send: ASGI's function that takes the response.
            headers: headers of each response.
        """
        # Servers write their access log from this scope. A search may have private text.
        query, scope["query_string"] = scope["query_string"], b""
        status: int = 503
        data: object
        more = dict[str, str]()
        try:
            await check_access(self.source.activity.guard, scope)
            check_event_loop()
            self.source.start()
            if path == "events" and scope["method"] == "GET":
                after = _after_of(query)
                await self._streams.serve(
                    lambda: self.source.activity, after, receive, send, headers
                )
                return
            status, data = await self._respond(path, scope, query, receive)
        except Rejection as rejection:
            status, data, more = rejection.status, rejection.data, rejection.headers
            if status in _NO_ACCESS:
                data = None
        except (ConfigError, StoreError) as error:
            data = {"reason": str(error)}
        named = [(name.encode(), value.encode()) for name, value in more.items()]
        await send_json(send, status, data, [*headers, *named])

    async def _respond(self, path: str, scope: Scope, query: bytes, receive: Receive) -> _Reply:
        method = scope["method"]
        head, *rest = path.split("/")
        if head == "deliveries" and rest:
            return await self._respond_about(unquote(rest[0]), rest[1:], scope, receive)
        right = self._methods.get(head)
        if right is None or rest or (head == "send" and not self.source.is_dev):
            raise Rejection(404, "the API has no such path")
        _check_method(method, right)
        if head == "deliveries":
            return 200, await asyncio.to_thread(_list, self.source.activity, query)
        if head == "explain":
            return await self._explain(await read(receive, scope["headers"], MAX_BODY_SIZE))
        if head == "send":
            # Quoted as a JSON string, a body is longer.
            body = await read(receive, scope["headers"], 2 * MAX_BODY_SIZE)
            request = await asyncio.to_thread(_send_request_in, body)
            return 200, {"responses": await self.source.send(request)}
        return await self._simple[head](self)

    async def _respond_about(
        self, delivery_id: str, rest: list[str], scope: Scope, receive: Receive
    ) -> _Reply:
        """Respond to a request about one delivery."""
        if rest == ["replay"]:
            _check_method(scope["method"], "POST")
            names = names_in(await read(receive, scope["headers"]))
            return 202, await self._replay(delivery_id, names)
        if rest not in ([], ["attempts"]):
            raise Rejection(404, "the API has no such path")
        _check_method(scope["method"], "GET")
        if rest:
            return 200, await asyncio.to_thread(_attempts, self.source, delivery_id)
        return 200, await self._show(delivery_id)

    async def _show(self, delivery_id: str) -> dict[str, Any]:
        details = await self.source.details(delivery_id)
        if details is None:
            raise _unknown()
        shown = await asyncio.to_thread(delivery_json, details.delivery, is_whole=True)
        return {**shown, "explanations": details.explanations, "handlers": details.handlers}

    async def _replay(self, delivery_id: str, names: Sequence[str]) -> dict[str, Any]:
        done = await self.source.replay(delivery_id, names)
        if done.blocked_reason:
            store = self.source.activity.store
            is_there = await asyncio.to_thread(store.deliveries, [delivery_id])
            raise Rejection(409 if is_there else 404, done.blocked_reason)
        return {"delivery": delivery_id, "handlers": done.handlers}

    async def _handlers(self) -> _Reply:
        handlers = await self.source.handlers()
        counts = await asyncio.to_thread(_runs_by_handler, self.source.activity)
        nothing: dict[str, Any] = {"counts": {}, "last": None}
        return 200, {
            "handlers": [{**each, **counts.get(each["name"], nothing)} for each in handlers]
        }

    async def _samples(self) -> _Reply:
        return 200, {"samples": await asyncio.to_thread(_samples_json)}

    async def _explain(self, body: bytes) -> _Reply:
        try:
            return 200, await self.source.explain(body)
        except PayloadError as error:
            raise Rejection(
                422, str(error), path=error.path, line=error.line, column=error.column
            ) from None

    async def _stats(self) -> _Reply:
        activity = self.source.activity
        stats = await asyncio.to_thread(activity.store.stats)
        return 200, _operations.stats_json(activity, stats)

    async def _app(self) -> _Reply:
        return 200, self.source.app()

    async def _ready(self) -> _Reply:
        health = await _operations.check(self.source.activity, self.source.not_ready_reason)
        return 200 if health.is_ready else 503, _operations.readiness(health)

    async def _metrics(self) -> _Reply:
        activity = self.source.activity
        health = await _operations.check(activity, self.source.not_ready_reason)
        return 200, await asyncio.to_thread(_operations.metrics, activity, health)

    # The paths of GET requests without parameters.
    _simple: dict[str, Callable[[AdminApi], Awaitable[_Reply]]] = {  # noqa: RUF012 - never changed
        "app": _app,
        "handlers": _handlers,
        "metrics": _metrics,
        "ready": _ready,
        "samples": _samples,
        "stats": _stats,
    }
    _methods = dict.fromkeys((*_simple, "deliveries", "events"), "GET") | {
        "explain": "POST",
        "send": "POST",
    }


def _check_method(method: str, right: str) -> None:
    if method != right:
        raise Rejection(405, f"only {right} is served here", {"allow": right})


def _unknown() -> Rejection:
    return Rejection(404, "there is no such delivery")


def _after_of(query: bytes) -> int | None:
    text = query_of(query, ("after",)).get("after")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER):
        raise Rejection(400, "`after` must be the id of an event")
    return int(text)


def _list(activity: Activity, query: bytes) -> dict[str, Any]:
    given = query_of(query, _LIST_OPTIONS)
    limit = limit_of(given.get("limit", str(DEFAULT_PAGE)))
    text = given.get("q", "")
    if len(text) > _LONGEST_QUERY:
        raise Rejection(400, f"`q` must have at most {_LONGEST_QUERY} characters")
    found = activity.store.search(
        words=text.split(),
        state=state_of(given.get("state")),
        scope=given.get("scope"),
        repo=given.get("repo"),
        handler=given.get("handler"),
        event=given.get("event"),
        since=moment_of(given.get("since")),
        before=given.get("before"),
        limit=limit + 1,
    )
    page = [activity.row_json(delivery) for delivery in found.deliveries[:limit]]
    # The next page begins before the last delivery of this one.
    before = page[-1]["id"] if len(found.deliveries) > limit else None
    return {"deliveries": page, "before": before, "total": found.total}


def _attempts(source: Source, delivery_id: str) -> dict[str, Any]:
    store = source.activity.store
    found = store.deliveries([delivery_id])
    if not found:
        raise _unknown()
    # Not the leader that `Activity` keeps for a while: an edit changes it at once.
    leader = store.leader() if store.path else None
    attempts: list[dict[str, Any]] = []
    for run in found[0].runs:
        for attempt in run.history:
            shown = {"handler": run.handler, **attempt_json(attempt)}
            if source.is_dev:
                # Only `hubhooks dev` is on the machine with the files, and in their folder.
                shown["changed_lines"] = changed_lines(attempt.traceback, Path.cwd().resolve())
            attempts.append(shown)
    code = leader.code if leader is not None and store.is_leader_alive(leader) else None
    return {"attempts": attempts, "code": code}


def _runs_by_handler(activity: Activity) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    latest: dict[str, Any] = {}
    for runs in activity.run_counts():
        entry = found.setdefault(runs.handler, {"counts": {}, "last": None})
        entry["counts"][runs.state] = runs.number
        if runs.last_at is not None and runs.last_id is not None:
            known = latest.get(runs.handler)
            if known is None or known < runs.last_at:
                latest[runs.handler] = runs.last_at
                last = {"delivery": runs.last_id, "state": runs.state, "at": iso(runs.last_at)}
                entry["last"] = last
    return found


@functools.cache
def _samples_json() -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = []
    for name in _samples.sample_names():
        body = _samples.sample_json(name)
        scope, action = _samples.scope_and_action(body)
        description = _samples.describe(body)
        samples.append(
            {
                "name": name,
                "scope": scope,
                "action": action,
                "description": description,
                "body": body,
            }
        )
    return samples


def _send_request_in(body: bytes) -> SendRequest:
    given = json_in(body, _SEND_HINT)
    if not isinstance(given, dict):
        raise Rejection(400, f"the body is not an object: {_SEND_HINT}")
    content, delivery_id = given.get("body"), given.get("id")
    secret, times = given.get("secret", "right"), given.get("times", 1)
    if not isinstance(content, dict | str):
        raise Rejection(400, f"`body` must be an object or a string: {_SEND_HINT}")
    if delivery_id is not None and not _is_header_value(delivery_id):
        raise Rejection(400, f"`id` must be a short ASCII text, or null: {_SEND_HINT}")
    if secret not in get_args(SecretChoice):
        raise Rejection(400, f"`secret` must be one of {', '.join(get_args(SecretChoice))}")
    if type(times) is not int or not 1 <= times <= _MOST_SENT:
        raise Rejection(400, f"`times` must be a number from 1 to {_MOST_SENT}")
    if isinstance(content, dict):
        raw = _samples.compact(content)
    else:
        raw = content.encode("utf-8", "backslashreplace")
    return SendRequest(raw, delivery_id, secret, times)


def _is_header_value(value: object) -> bool:
    """Return whether a header can carry a `Webhook-Id`."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= _LONGEST_ID
        and value.isascii()
        and value.isprintable()
        and value == value.strip()
    )


async def send_json(
    send: Send, status: int, data: object, headers: Sequence[tuple[bytes, bytes]]
) -> None:
    """Send a response with JSON, with a text in the Prometheus format, or without a body."""
    if data is None:
        kind, body = b"", b""
    elif isinstance(data, str):
        kind, body = _operations.CONTENT_TYPE, data.encode("utf-8", "backslashreplace")
    else:
        kind, body = b"application/json", (await asyncio.to_thread(json.dumps, data)).encode()
    start = [(b"content-length", b"%d" % len(body)), *headers]
    if kind:
        start.append((b"content-type", kind))
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
