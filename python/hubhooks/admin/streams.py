"""The stream of changed deliveries for the page, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hubhooks._store.base import Changes
from hubhooks.admin.operations import stats_json
from hubhooks.admin.requests import Rejection
from hubhooks.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hubhooks._http.types import Receive, Send
    from hubhooks.admin.queries import Activity

__all__ = ["EventStreams"]

# Each stream looks at the store so often.
_LOOK_SECONDS = 0.25
# The shortest pause between two counts. A slow count makes the pause longer.
_COUNT_SECONDS = 1.0
# A proxy may end a connection without traffic.
_COMMENT_SECONDS = 15.0
_MAX_STREAMS = 32
# A server waits at its shutdown for open responses. If the shutdown is not noticed, the stream
# ends by itself, and the page opens the next one.
_LONGEST_SECONDS = 10.0


class EventStreams:
    """The open event streams of an API.

    Args:
        get_app: returns the state of the app, for `event: app`; None if it never changes.
    """

    def __init__(self, get_app: Callable[[], dict[str, Any]] | None = None) -> None:
        self._get_app = get_app
        self._count = 0
        self._is_closed = False

    def close(self) -> None:
        """End all streams, and reject new ones."""
        self._is_closed = True

    async def serve(
        self,
        get_activity: Callable[[], Activity],
        after: int | None,
        receive: Receive,
        send: Send,
        headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        """Send changes until the client disconnects.

        Args:
            get_activity: returns the deliveries; under `hubhooks dev` the store can change.
            after: the id of the last event that the client received.
            receive: ASGI's function that reports the end of the connection.
            send: ASGI's function that takes the response.
            headers: headers of the response.

        Raises:
            Rejection: too many streams are open, or the app ends.
            StoreError: the store cannot be read now.
        """
        if self._is_closed or self._count >= _MAX_STREAMS:
            raise Rejection(503, "too many streams are open" if self._count else "the app ends")
        activity = get_activity()
        stream = _Stream(activity, self._get_app)
        self._count += 1
        has_ended = asyncio.ensure_future(_wait_for_end(receive))
        try:
            text = await asyncio.to_thread(stream.start, after)
            kind = (b"content-type", b"text/event-stream; charset=utf-8")
            # nginx would collect events.
            start = [kind, (b"x-accel-buffering", b"no"), *headers]
            await send({"type": "http.response.start", "status": 200, "headers": start})
            is_ending = _watch_server(receive)
            while True:
                if text:
                    body = text.encode("utf-8", "backslashreplace")
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                await asyncio.wait({has_ended}, timeout=_LOOK_SECONDS)
                if has_ended.done() or self._is_closed or is_ending():
                    break
                with suppress(ConfigError):
                    activity = get_activity()
                text = await asyncio.to_thread(stream.look, activity)
            await send({"type": "http.response.body", "body": b""})
        except OSError:  # the client disconnected
            pass
        finally:
            self._count -= 1
            has_ended.cancel()


class _Stream:
    """The events of one client, as text. Its methods belong to one thread at a time."""

    def __init__(self, activity: Activity, get_app: Callable[[], dict[str, Any]] | None) -> None:
        self._activity = activity
        self._get_app = get_app
        self._watch = activity.store.watch()
        self._app: str | None = None
        self._stats: str | None = None
        self._must_count = True
        self._count_after = 0.0
        self._sent_at = time.monotonic()

    def start(self, after: int | None) -> str:
        """Return the first events."""
        changes = self._watch.start(after)
        ready = self._watch.last_seq if after is None or not changes.is_complete else after
        return f"{_event(ready, 'ready', _ready_json(ready))}{self._events(changes)}"

    def look(self, activity: Activity) -> str:
        """Return the events since the last look, or a comment if the connection was quiet."""
        try:
            changes = self._poll(activity)
        except (ConfigError, StoreError):
            # For example, the file is being replaced. The next look finds what changed.
            changes = None
        text = "" if changes is None else self._events(changes)
        if text or time.monotonic() - self._sent_at >= _COMMENT_SECONDS:
            self._sent_at = time.monotonic()
            return text or ": the connection is open\n\n"
        return ""

    def _poll(self, activity: Activity) -> Changes:
        if activity is self._activity:
            return self._watch.look()
        watch = activity.store.watch()
        watch.start()
        self._activity, self._watch = activity, watch
        # The client reads the list of the other store.
        return Changes([], has_new_counts=True, is_complete=False)

    def _events(self, changes: Changes) -> str:
        number = self._watch.last_seq
        events: list[str] = []
        if not changes.is_complete:
            # The client reads the list again.
            events.append(_event(number, "ready", _ready_json(number)))
        events += [
            _event(number, "delivery", json.dumps(self._activity.row_json(d)))
            for d in changes.deliveries
        ]
        self._must_count = self._must_count or changes.has_new_counts
        if (stats := self._new_stats()) is not None:
            events.append(_event(number, "stats", stats))
        if self._get_app is not None and (app := json.dumps(self._get_app())) != self._app:
            self._app = app
            events.append(_event(number, "app", app))
        return "".join(events)

    def _new_stats(self) -> str | None:
        """Count again if something changed; None if the numbers are the same."""
        began = time.monotonic()
        if not self._must_count or began < self._count_after:
            return None
        try:
            stats = json.dumps(stats_json(self._activity, self._activity.store.stats()))
        except StoreError:
            return None
        self._must_count = False
        ended = time.monotonic()
        self._count_after = ended + max(_COUNT_SECONDS, 10 * (ended - began))
        if stats == self._stats:
            return None
        self._stats = stats
        return stats


def _ready_json(number: int) -> str:
    return json.dumps({"after": number})


def _event(number: int, kind: str, data: str) -> str:
    return f"id: {number}\nevent: {kind}\ndata: {data}\n\n"


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _watch_server(receive: Receive) -> Callable[[], bool]:
    """Return a function that says whether the server ends, or the stream is too old.

    At a shutdown, uvicorn sets `keep_alive` of each open response to False.
    """
    connection = getattr(receive, "__self__", None)
    is_uvicorn = type(connection).__module__.startswith("uvicorn.")
    if is_uvicorn and getattr(connection, "keep_alive", None) is True:
        return lambda: getattr(connection, "keep_alive", None) is False
    until = time.monotonic() + _LONGEST_SECONDS
    return lambda: time.monotonic() > until
