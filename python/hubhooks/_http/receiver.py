"""Check a request and choose its response, without the network.

`precheck` checks everything before the body: without the secret, no body is read. `receive` does
the rest. An ASGI app that stores in batches calls its two halves, `prepare` and `store`.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Literal

from hubhooks._core import HubEvent
from hubhooks._http.body import ALREADY_READ, CUT_OFF, KEEP_A_COPY, STALLED, UNDECODED, is_part
from hubhooks._logging import get_logger
from hubhooks._store.base import log_fields
from hubhooks.errors import ConfigError, PayloadError, StoreError
from hubhooks.models import AcceptedRuns, State, shorten
from hubhooks.ordering import group_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hubhooks._core import Verifier
    from hubhooks._http.types import Headers
    from hubhooks._store.base import AcceptResult, DeliveryStore, Status
    from hubhooks.models import Delivery, Reason, RunGroup
    from hubhooks.routing import Router

__all__ = [
    "COMPLETION_RESPONSES", "MAX_BODY_SIZE", "RESPONSES", "UNREAD_BODY_RESPONSES",
    "Prepared", "Receiver", "Response", "ResponseSpec", "check_size", "find_spec",
]  # fmt: skip

MAX_BODY_SIZE = 32 * 1024 * 1024
"""The default limit of a body, in bytes."""

logger = get_logger()


class Response:
    """The response to a request, and the runs that it promises."""

    __slots__ = (
        "accepted", "body", "delivery_id", "event", "headers", "is_open", "malformed_reason",
        "skip_text", "status",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - each kind of response sets other fields
        self,
        status: int,
        body: bytes,
        headers: list[tuple[bytes, bytes]],
        delivery_id: str | None = None,
        accepted: AcceptedRuns | None = None,
        *,
        is_open: bool = False,
        event: HubEvent | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.delivery_id = delivery_id
        """The stored delivery; None for a rejection."""
        self.accepted = accepted
        """The runs to start; None if there are none."""
        self.is_open = is_open
        """Whether the delivery has unfinished runs."""
        self.event = event
        """The event; None if the body is malformed, or for a rejection."""
        self.malformed_reason = ""
        """Why the body is malformed, for the log."""
        self.skip_text = ""
        """Why no handler runs, for the log."""


class Prepared:
    """A delivery that is ready to be stored: its event, and the matching handlers."""

    __slots__ = (
        "body", "delivery_id", "event", "explanations", "handlers", "headers", "reason",
        "skipped",
    )  # fmt: skip

    def __init__(
        self,
        delivery_id: str | None,
        headers: Headers,
        body: bytes,
        event: HubEvent | None = None,
    ) -> None:
        self.delivery_id = delivery_id
        self.headers = headers
        self.body = body
        self.event = event
        """None if the body is malformed."""
        self.handlers: tuple[str, ...] = ()
        self.skipped: State | None = None
        """The state of a delivery without runs; None if handlers match."""
        self.reason: Reason = ""
        """Why no handler runs. A callable computes the text when it is needed."""
        self.explanations: list[str] = []
        """Why the handlers do not match, for the response."""


class ResponseSpec:
    """One case of the response tables: the HTTP status, and the text of the body."""

    __slots__ = ("http", "reason", "status")

    def __init__(
        self,
        http: int,
        status: Status | Literal["rejected", "succeeded", "failed"],
        reason: str = "",
    ) -> None:
        self.http = http
        self.status = status
        self.reason = reason


# The responses of a webhook URL. Two tables with rarer ones follow. `Receiver.reject` takes a key.
# After other statuses than 2xx, the Hub retries, and in the end suspends the webhook
# (https://huggingface.co/docs/hub/webhooks). So a complete delivery with the right secret is never
# rejected because of its content.
RESPONSES: Mapping[str, ResponseSpec] = {
    "method": ResponseSpec(405, "rejected", "only POST requests are accepted"),
    "not configured": ResponseSpec(
        503, "rejected", "no webhook secret is configured on this server"
    ),
    "secret missing": ResponseSpec(401, "rejected", "the webhook secret is missing"),
    "secret wrong": ResponseSpec(403, "rejected", "the webhook secret is wrong"),
    "stopping": ResponseSpec(503, "rejected", "this server is shutting down"),
    "length": ResponseSpec(400, "rejected", "the Content-Length header is not one number"),
    "too large": ResponseSpec(413, "rejected", "the body is too large"),
    "empty": ResponseSpec(400, "rejected", "the body is empty"),
    "cut off": ResponseSpec(400, "rejected", "the body was cut off"),
    "not stored": ResponseSpec(503, "rejected", "the delivery could not be stored"),
    "malformed": ResponseSpec(202, "malformed"),
    "accepted": ResponseSpec(202, "accepted"),
    "unhandled": ResponseSpec(200, "unhandled", "no matching handler"),
    "ignored": ResponseSpec(200, "ignored", "its author is in ignore_authors"),
    "in_progress": ResponseSpec(200, "in_progress", "this delivery is still in progress"),
    "duplicate": ResponseSpec(200, "duplicate", "this delivery was already handled"),
}

# Responses if hubhooks cannot read the body because of other code of the app, or a slow sender. The
# status is 503, so the Hub retries the delivery.
UNREAD_BODY_RESPONSES: Mapping[str, ResponseSpec] = {
    ALREADY_READ: ResponseSpec(503, "rejected", "the body was read before it reached hubhooks"),
    STALLED: ResponseSpec(503, "rejected", "the body did not arrive in time"),
    UNDECODED: ResponseSpec(503, "rejected", "the app could not decode the body"),
}

# Responses after the handlers ended, with `acknowledge="on_completion"`.
COMPLETION_RESPONSES: Mapping[str, ResponseSpec] = {
    "succeeded": ResponseSpec(200, "succeeded"),
    "failed": ResponseSpec(503, "failed", "a handler failed"),
}

_SECRET_CASES = {None: None, "missing": "secret missing", "mismatch": "secret wrong"}
_KEPT_MINUTES = 60
# No real length has more digits. Converting many digits is slow.
_MAX_DIGITS = 18
# Limits in characters: the stored explanation of an unhandled event, and the id of a delivery. The
# ids of the Hub are shorter.
_MAX_REASON = 16 * 1024
_MAX_ID = 256
# Limits of explanations in characters: a line of a response, all its lines, a line of the log.
_MAX_LINE = 300
_MAX_EXPLANATIONS = 1000
_MAX_LOGGED = 400


def _headers_for(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]


def _make_body(spec: ResponseSpec, **more: object) -> bytes:
    body = {"status": spec.status, **more}
    body.setdefault("reason", spec.reason)
    return _json({key: value for key, value in body.items() if value})


def _json(value: object) -> bytes:
    import json  # noqa: PLC0415 - `import hubhooks` does not load it

    return json.dumps(value).encode()


def _json_string(text: str) -> bytes:
    """Write a string as JSON, ten times as fast as `_json`."""
    from json.encoder import encode_basestring_ascii  # noqa: PLC0415 - as above

    return encode_basestring_ascii(text).encode()


@functools.lru_cache(maxsize=64)
def _accepted_body_parts(handlers: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Return the parts of an `accepted` body before and after the id of the delivery."""
    marker = "\0"
    before, _, after = _make_body(
        RESPONSES["accepted"], delivery=marker, handlers=handlers
    ).partition(_json(marker))
    return before, after


def find_spec(case: str) -> ResponseSpec:
    """Find a case in the tables above."""
    return RESPONSES.get(case) or UNREAD_BODY_RESPONSES.get(case) or COMPLETION_RESPONSES[case]


@functools.cache
def _shared_response(case: str) -> Response:
    spec = find_spec(case)
    body = _make_body(spec)
    allow = [(b"allow", b"POST")] if spec.http == 405 else []  # noqa: PLR2004 - the number is from HTTP
    return Response(spec.http, body, _headers_for(body) + allow)


class Receiver:
    """Checks requests, stores deliveries, and chooses the responses.

    Args:
        router: finds the handlers that match an event.
        store: stores the deliveries.
        verifier: returns the verifier, or None if no secret is configured. It is called at each
            request, and may raise `ConfigError`.
        allow_unsigned: accept every request if no secret is configured.
        max_body_size: the limit of a body, in bytes.
    """

    def __init__(
        self,
        router: Router,
        store: DeliveryStore,
        verifier: Callable[[], Verifier | None],
        *,
        allow_unsigned: bool = False,
        max_body_size: int = MAX_BODY_SIZE,
    ) -> None:
        self.max_body_size = max_body_size
        self.is_stopping = False
        """Whether the server shuts down: new deliveries are rejected."""
        self.rejections = Counter[tuple[int, str]]()
        """The rejections that are not stored yet, of the last hour at most. The keys are the minute
        since 1970 and the case of `RESPONSES`."""
        self._last_logged: dict[str, int] = {}
        self._router = router
        self._store = store
        self._verifier = verifier
        self._allow_unsigned = allow_unsigned

    def check_ready(self) -> None:
        """Check that a secret is configured, or that none is needed.

        Raises:
            ConfigError: no secret is configured, or it cannot be used.
        """
        if self._verifier() is None and not self._allow_unsigned:
            msg = (
                "no webhook secret is configured: set WEBHOOK_SECRET to the secret in the "
                "webhook's settings on the Hub, or accept every request with `allow_unsigned=True`"
            )
            raise ConfigError(msg)

    def precheck(self, method: str, headers: Headers, query: bytes) -> Response | None:
        """Check everything before the body; None if the body can be read."""
        if method != "POST":
            return self.reject("method")
        if (rejection := self._check_secret(headers, query)) is not None:
            return self.reject(*rejection)
        if self.is_stopping:
            return self.reject("stopping")
        case = self._check_length(headers)
        return None if case in (None, "undeclared") else self.reject(case)

    def receive(self, headers: Headers, body: bytes, *, complete: bool = True) -> Response:
        """Check the body, and store the delivery.

        Args:
            headers: headers that passed `precheck`.
            body: the bytes that were received.
            complete: whether the body is complete.
        """
        if not complete:
            return self.reject(CUT_OFF)
        prepared = self.prepare(headers, body)
        if isinstance(prepared, Response):
            return prepared
        try:
            response = self.store(prepared)
        except StoreError as error:
            return self.reject("not stored", str(error))
        self.log_malformed(response)
        return response

    def prepare(
        self, headers: Headers, body: bytes, *, is_direct: bool = True
    ) -> Prepared | Response:
        """Parse the body, match the event and explain a mismatch, without the store.

        User code such as `when=` runs here, so no lock of the store is held.

        Args:
            headers: headers that passed `precheck`.
            body: the whole body.
            is_direct: whether the body came from the server, with no middleware in between.

        Returns:
            the delivery to store, or a rejection.
        """
        if not body:
            return self.reject("empty")
        delivery_id = _delivery_id(headers)
        try:
            event = HubEvent.from_json(body)
        except PayloadError as error:
            if is_part(headers, body, is_direct=is_direct):
                return self.reject(ALREADY_READ, KEEP_A_COPY)
            prepared = Prepared(delivery_id, headers, body)
            prepared.skipped, prepared.reason = State.MALFORMED, str(error)
            return prepared
        prepared = Prepared(delivery_id, headers, body, event)
        match = self._router.find_match(event)
        prepared.handlers = tuple(handler.name for handler in match.handlers)
        if match.ignored:
            prepared.skipped, prepared.reason = State.IGNORED, match.ignored
        elif not prepared.handlers:
            prepared.skipped = State.UNHANDLED
            lines = match.explain(event)
            prepared.explanations = _shorten_for_response(lines)
            prepared.reason = _shorten_for_store(lines)
        return prepared

    def _groups_of(self, names: Sequence[str], event: HubEvent) -> dict[str, RunGroup]:
        """Return the groups of the runs whose handlers have `serial=` or `debounce=`."""
        groups: dict[str, RunGroup] = {}
        for name in names:
            handler = self._router.handler(name)
            group = None if handler is None else group_of(handler.policy, event)
            if group is not None:
                groups[name] = group
        return groups

    def store(self, prepared: Prepared) -> Response:
        """Store a delivery, and choose its response. It calls no user code.

        Raises:
            StoreError: the delivery cannot be stored.
        """
        event = prepared.event
        repo = None if event is None else event.repo
        result = self._store.accept(
            prepared.delivery_id,
            prepared.body,
            prepared.handlers,
            prepared.skipped,
            prepared.reason,
            scope="" if event is None else event.scope,
            action="" if event is None else event.action,
            repo=None if repo is None else repo.name,
            headers=prepared.headers,
            verifier=self._verifier(),
            groups={} if event is None else self._groups_of(prepared.handlers, event),
        )
        if event is None:
            return _malformed_response(result, prepared)
        if result.status == "accepted":
            before, after = _accepted_body_parts(result.handlers)
            body = before + _json_string(result.id) + after
            accepted = AcceptedRuns(result.id, result.handlers, event)
            status = RESPONSES["accepted"].http
            return Response(
                status, body, _headers_for(body), result.id, accepted, is_open=True, event=event
            )
        if result.status == "unhandled":
            response = _unhandled_response(result, event, prepared.explanations)
            if self._router.has_unhandled_hook:
                response.accepted = AcceptedRuns(result.id, (), event)
            return response
        return _skip_response(result, event)

    def completion_response(self, delivery: Delivery | None, response: Response) -> Response:
        """Return the response after the handlers ended; `response` if they have not ended."""
        if delivery is None:
            return response
        is_failed = any(run.state == State.FAILED for run in delivery.runs)
        ended = _shared_response(State.FAILED if is_failed else State.SUCCEEDED)
        return Response(ended.status, ended.body, ended.headers, delivery.id, event=response.event)

    def should_close(self, http_version: str, headers: Headers) -> bool:
        """Return whether to send `Connection: close` with a rejection.

        True if the body is too long, or its length is unknown or invalid. The server discards
        other bodies: if the connection closes while a client still sends, the client often misses
        the response. HTTP/2 forbids the header.
        """
        return http_version < "2" and self._check_length(headers) is not None

    def log_response(self, response: Response) -> None:
        """Log the response to a delivery in one line."""
        self.log_malformed(response)
        if logger.is_enabled_for(logging.INFO):
            handlers = response.accepted.handlers if response.accepted else ()
            fields = log_fields(response.delivery_id, response.event)
            logger.info(
                "delivery `%s`, %s: response %d%s",
                response.delivery_id,
                response.event or "malformed",
                response.status,
                f", handlers: {', '.join(handlers)}" if handlers else response.skip_text,
                extra={**fields, "status": response.status, "handlers": list(handlers)},
            )

    def log_malformed(self, response: Response) -> None:
        """Log that a body is malformed, if it is."""
        if response.malformed_reason:
            fields = log_fields(response.delivery_id, None)
            what = "delivery `%s` is malformed: %s"
            logger.error(what, response.delivery_id, response.malformed_reason, extra=fields)

    def mark_acknowledged(self, delivery_id: str, *, delivered: bool) -> None:
        """Record whether the Hub is known to have received the response."""
        self._store.mark_acknowledged(delivery_id, delivered=delivered)

    def store_rejections(self) -> None:
        """Store the counts of rejections since the last call.

        Raises:
            StoreError: the counts cannot be stored now.
        """
        if not self.rejections:
            return
        # At a shutdown, another thread calls this while requests are rejected.
        counts, self.rejections = self.rejections, Counter[tuple[int, str]]()
        try:
            with self._store.transaction():
                for (minute, case), count in counts.items():
                    self._store.count_rejections(minute, case, count)
        except BaseException:
            self.rejections.update(counts)
            raise

    def reject(self, case: str, detail: str = "") -> Response:
        """Count a rejection and return its response; log the first of its case in each minute.

        Args:
            case: a key of `RESPONSES` or `UNREAD_BODY_RESPONSES`.
            detail: details for the log only.
        """
        minute = int(time.time()) // 60
        key = (minute, case)
        self.rejections[key] = self.rejections.get(key, 0) + 1
        response = _shared_response(case)
        if self._last_logged.get(case) != minute:
            self._last_logged[case] = minute
            reason = f"{find_spec(case).reason}{detail and ': '}{detail}"
            logger.warning("rejected a request with %d: %s", response.status, reason)
            for old in [old for old in self.rejections if old[0] <= minute - _KEPT_MINUTES]:
                del self.rejections[old]
        return response

    def _check_secret(self, headers: Headers, query: bytes) -> tuple[str, str] | None:
        """Return the case of a rejection and its detail, which never contains the secret."""
        try:
            verifier = self._verifier()
        except ConfigError as error:
            return "not configured", str(error)
        if verifier is not None:
            case = _SECRET_CASES[verifier.check(headers, query)]
        else:
            case = None if self._allow_unsigned else "not configured"
        return None if case is None else (case, "")

    def _check_length(
        self, headers: Headers
    ) -> Literal["length", "too large", "undeclared"] | None:
        """Check the declared length. A body without one is counted while it is read."""
        declared, is_chunked = None, False
        for name, value in headers:
            if name == b"content-length":
                if declared is not None and value != declared:
                    return "length"
                declared = value
            elif name == b"transfer-encoding":
                is_chunked = True
        if declared is None:
            return "undeclared" if is_chunked else None
        if not declared.isdigit():
            return "length"
        too_large = len(declared) > _MAX_DIGITS or int(declared) > self.max_body_size
        return "too large" if too_large else None


def check_size(size: object) -> None:
    """Raise `ConfigError` if the value is not valid for `max_body_size`."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        msg = f"`max_body_size={size!r}` is not a size; write a number of bytes, such as 1024"
        raise ConfigError(msg)


def _delivery_id(headers: Headers) -> str | None:
    # The Hub sends one id per delivery, also in its retries and in a Replay:
    # https://huggingface.co/docs/hub/webhooks
    for name, value in headers:
        if name == b"webhook-id" and value:
            text = value.decode("latin-1")
            return _shorten_id(text if text.isprintable() else _escape_controls(text))
    return None


def _escape_controls(text: str) -> str:
    """Escape control characters, because logs and tables show the id."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def _shorten_id(delivery_id: str) -> str:
    """Shorten an id that is too long. The hash keeps different ids different."""
    if len(delivery_id) <= _MAX_ID:
        return delivery_id
    import hashlib  # noqa: PLC0415 - the ids of the Hub need no hash

    digest = hashlib.sha256(delivery_id.encode()).hexdigest()
    return f"{delivery_id[: _MAX_ID - len(digest) - 3]}...{digest}"


def _skip_response(result: AcceptResult, event: HubEvent | None = None) -> Response:
    """Return the response to a delivery that starts no run. Its body does not contain the id."""
    shared = _shared_response(result.status)
    is_open = result.status == "in_progress"
    response = Response(
        shared.status, shared.body, shared.headers, result.id, is_open=is_open, event=event
    )
    spec = find_spec(result.status)
    response.skip_text = f", {spec.status}: {spec.reason}"
    return response


def _unhandled_response(
    result: AcceptResult, event: HubEvent, explanations: Sequence[str]
) -> Response:
    """Return the response to a delivery that no handler matches, with the reasons."""
    spec = RESPONSES["unhandled"]
    body = _make_body(spec, explanations=explanations)
    response = Response(spec.http, body, _headers_for(body), result.id, event=event)
    reason = "; ".join([spec.reason, *explanations])
    response.skip_text = f", {spec.status}: {shorten(reason, _MAX_LOGGED)}"
    return response


def _malformed_response(result: AcceptResult, prepared: Prepared) -> Response:
    if result.status != "malformed":
        return _skip_response(result)
    spec = RESPONSES["malformed"]
    body = _make_body(spec, delivery=result.id, reason=prepared.reason)
    response = Response(spec.http, body, _headers_for(body), result.id)
    response.malformed_reason = str(prepared.reason)
    return response


def _shorten_for_response(explanations: Sequence[str]) -> list[str]:
    """Cut the lines of `Match.explain` to the limit of a response.

    The last line counts the handlers that are left out.
    """
    lines: list[str] = []
    length = 0
    for full in explanations:
        line = shorten(full, _MAX_LINE)
        # As JSON, because escapes are longer.
        length += len(_json_string(line))
        if length > _MAX_EXPLANATIONS:
            return [*lines, f"... and {len(explanations) - len(lines)} more explanations"]
        lines.append(line)
    return lines


def _shorten_for_store(explanations: Sequence[str]) -> str:
    """Join the lines of `Match.explain`, up to the limit of a stored reason."""
    length = 0
    for at, line in enumerate(explanations):
        length += len(line) + 1
        if length > _MAX_REASON:
            shown = [*explanations[:at], shorten(line, 1024)]
            if rest := len(explanations) - len(shown):
                shown.append(f"... and {rest} more explanations")
            return "\n".join(shown)
    return "\n".join(explanations)
