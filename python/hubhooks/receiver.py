"""The door without the network: method, headers, query and body in, an answer out.

Two steps, so that nobody without the secret can make us read a body: `refuse` judges what is known
before it, `receive` the rest.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING, Literal

from hubhooks._body import ALREADY_READ, CUT_OFF, KEEP_A_COPY, STALLED, UNDECODED, is_part
from hubhooks._core import HubEvent
from hubhooks._logging import get_logger
from hubhooks._stored_headers import redact_secret
from hubhooks.deliveries import log_fields
from hubhooks.errors import ConfigError, PayloadError, StoreError
from hubhooks.models import State, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeAlias

    from hubhooks._core import Verifier
    from hubhooks.deliveries import Log, Status, Verdict
    from hubhooks.models import Delivery, Reason
    from hubhooks.routing import Match, Router

    # As ASGI has them: names in lower case.
    Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

__all__ = [
    "ANSWERS", "ENDINGS", "MAX_BODY_SIZE", "UNREAD_BODIES", "Answer", "Prepared", "Receiver",
    "Work",
 "check_size", "words_of",
]  # fmt: skip

MAX_BODY_SIZE = 32 * 1024 * 1024
"""The longest body that is read by default, in bytes."""

_log = get_logger()


class Work:
    """What is to be done once the answer is sent."""

    __slots__ = ("delivery_id", "event", "handlers")

    def __init__(self, delivery_id: str, handlers: tuple[str, ...], event: HubEvent) -> None:
        self.delivery_id = delivery_id
        self.handlers = handlers
        self.event = event


class Answer:
    """What the Hub is answered, and what that promises."""

    __slots__ = (
        "body",
        "complaint",
        "delivery_id",
        "event",
        "headers",
        "is_open",
        "outcome",
        "status",
        "work",
    )

    def __init__(  # noqa: PLR0913 - what is promised is not the same for any two
        self,
        status: int,
        body: bytes,
        headers: list[tuple[bytes, bytes]],
        delivery_id: str | None = None,
        work: Work | None = None,
        *,
        is_open: bool = False,
        event: HubEvent | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.delivery_id = delivery_id
        """The delivery that is recorded as answered once this was sent; None for a refusal."""
        self.work = work
        self.is_open = is_open
        """Whether handlers of the delivery have yet to end."""
        self.event = event
        """What the delivery says, if it can be read."""
        self.complaint = ""
        """Why the body cannot be read, for the log."""
        self.outcome = ""
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
        """None if the body cannot be read."""
        self.handlers: tuple[str, ...] = ()
        self.skipped: State | None = None
        """Why no handler runs."""
        self.reason: Reason = ""
        """Why it was skipped, in words."""
        self.explanations: list[str] = []
        """For the response: why the handlers do not match."""


class Words:
    """A line of the table of answers: the HTTP status, and what the body says."""

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


# Everything we answer. A status that is not 2xx makes the Hub retry and in the end suspend the
# webhook (https://huggingface.co/docs/hub/webhooks), so after the secret a delivery that is whole
# and can be stored is never refused for what it says.
ANSWERS: Mapping[str, Words] = {
    "method": Words(405, "rejected", "only POST requests are accepted"),
    "not configured": Words(503, "rejected", "no webhook secret is configured on this server"),
    "secret missing": Words(401, "rejected", "the webhook secret is missing"),
    "secret wrong": Words(403, "rejected", "the webhook secret is wrong"),
    "stopping": Words(503, "rejected", "this server is shutting down"),
    "length": Words(400, "rejected", "the Content-Length header is not one number"),
    "too large": Words(413, "rejected", "the body is too large"),
    "empty": Words(400, "rejected", "the body is empty"),
    "cut off": Words(400, "rejected", "the body was cut off"),
    "not stored": Words(503, "rejected", "the delivery could not be stored"),
    "malformed": Words(202, "malformed"),
    "accepted": Words(202, "accepted"),
    "unhandled": Words(200, "unhandled", "no matching handler"),
    "ignored": Words(200, "ignored", "its author is in ignore_authors"),
    "in_progress": Words(200, "in_progress", "this delivery is still in progress"),
    "duplicate": Words(200, "duplicate", "this delivery was already handled"),
}

# Responses to a request whose body cannot be read, for a reason in the app: the Hub sends it again.
UNREAD_BODIES: Mapping[str, Words] = {
    ALREADY_READ: Words(503, "rejected", "the body was read before it reached hubhooks"),
    STALLED: Words(503, "rejected", "the body did not arrive in time"),
    UNDECODED: Words(503, "rejected", "the app could not decode the body"),
}

# What is answered instead where the answer waits for the handlers.
ENDINGS: Mapping[str, Words] = {
    "succeeded": Words(200, "succeeded"),
    "failed": Words(503, "failed", "a handler failed"),
}

_CASE_OF_SECRET = {None: None, "missing": "secret missing", "mismatch": "secret wrong"}
_MINUTES_KEPT = 60
# No server can hold a body whose length needs more digits; reading more of them is only work.
_MOST_DIGITS = 18
# The longest explanation of an unhandled event that is kept, and the longest id of a delivery, in
# characters. The Hub's own ids are shorter.
_LONGEST_REASON = 16 * 1024
_LONGEST_ID = 256
# The same for the response, where each line and all of them together are short, and for the log.
_LONGEST_LINE = 300
_LONGEST_EXPLANATIONS = 1000
_LONGEST_LOGGED = 400


def _headers_of(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]


def _body_of(words: Words, **more: object) -> bytes:
    said = {"status": words.status, **more}
    said.setdefault("reason", words.reason)
    return _json({key: value for key, value in said.items() if value})


def _json(value: object) -> bytes:
    import json  # noqa: PLC0415 - `import hubhooks` can do without

    return json.dumps(value).encode()


@functools.lru_cache(maxsize=64)
def _acceptance(handlers: tuple[str, ...]) -> tuple[bytes, bytes]:
    """Give what stands before and after the id of a delivery that these handlers hear."""
    marker = "\0"
    before, _, after = _body_of(ANSWERS["accepted"], delivery=marker, handlers=handlers).partition(
        _json(marker)
    )
    return before, after


def words_of(case: str) -> Words:
    """Look up a case in the tables above."""
    return ANSWERS.get(case) or UNREAD_BODIES.get(case) or ENDINGS[case]


@functools.cache
def _constant(case: str) -> Answer:
    words = words_of(case)
    body = _body_of(words)
    allow = [(b"allow", b"POST")] if words.http == 405 else []  # noqa: PLR2004 - HTTP's number
    return Answer(words.http, body, _headers_of(body) + allow)


class Receiver:
    """Decides what a request is answered.

    Args:
        router: says who hears an event.
        log: keeps the deliveries.
        verifier: gives the verifier, or None where no secret is configured; asked at each request,
            and may raise `ConfigError`.
        allow_unsigned: let everybody in where no secret is configured.
        max_body_size: the longest body that is read, in bytes.
    """

    def __init__(
        self,
        router: Router,
        log: Log,
        verifier: Callable[[], Verifier | None],
        *,
        allow_unsigned: bool = False,
        max_body_size: int = MAX_BODY_SIZE,
    ) -> None:
        self.max_body_size = max_body_size
        self.is_stopping = False
        """Whether new deliveries are refused because the server shuts down."""
        self.rejections: dict[tuple[int, str], int] = {}
        """How often we refused, by minute since 1970 and case of `ANSWERS`, until that is stored;
        of the last hour at most."""
        self._told: dict[str, int] = {}
        self._router = router
        self._log = log
        self._verifier = verifier
        self._allow_unsigned = allow_unsigned

    def ready(self) -> None:
        """Check that requests can be let in.

        Raises:
            ConfigError: there is no secret, or none that can be used.
        """
        if self._verifier() is None and not self._allow_unsigned:
            msg = (
                "no webhook secret is configured: set WEBHOOK_SECRET to the secret in the "
                "webhook's settings on the Hub, or accept every request with `allow_unsigned=True`"
            )
            raise ConfigError(msg)

    def refuse(self, method: str, headers: Headers, query: bytes) -> Answer | None:
        """Judge a request by all that comes before its body; None to go on and read it."""
        if method != "POST":
            return self.refusal("method")
        if (refused := self._judge_secret(headers, query)) is not None:
            return self.refusal(*refused)
        if self.is_stopping:
            return self.refusal("stopping")
        case = self._judge_length(headers)
        return None if case in (None, "undeclared") else self.refusal(case)

    def receive(self, headers: Headers, body: bytes, *, complete: bool = True) -> Answer:
        """Judge a delivery by its body, and store it.

        Args:
            headers: those that `refuse` let in.
            body: the body as far as it came.
            complete: whether it came to its end.
        """
        if not complete:
            return self.refusal(CUT_OFF)
        prepared = self.prepare(headers, body)
        if isinstance(prepared, Answer):
            return prepared
        try:
            answer = self.store(prepared)
        except StoreError as error:
            return self.refusal("not stored", str(error))
        self.log_unreadable(answer)
        return answer

    def prepare(
        self, headers: Headers, body: bytes, *, is_direct: bool = True
    ) -> Prepared | Answer:
        """Do all that needs no store: parse the body, match the event, explain it; or refuse.

        The user's code runs here, such as `when=`, so it holds no lock of the store.

        Args:
            headers: those that `refuse` let in.
            body: the whole body.
            is_direct: whether the body came from the server, with no middleware in between.
        """
        if not body:
            return self.refusal("empty")
        delivery_id = _delivery_id(headers)
        try:
            event = HubEvent.from_json(body)
        except PayloadError as error:
            if is_part(headers, body, is_direct=is_direct):
                return self.refusal(ALREADY_READ, KEEP_A_COPY)
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
            prepared.explanations = _explain_briefly(match, event, len(self._router.handler_names))
            # A log in memory asks late or never, and would hold the event that long.
            prepared.reason = (
                _explain(match, event)
                if self._log.is_durable
                else functools.partial(_explain, match, body)
            )
        return prepared

    def store(self, prepared: Prepared) -> Answer:
        """Store a delivery, and decide what is answered. It calls no code of the user.

        Raises:
            StoreError: it cannot be stored.
        """
        event = prepared.event
        repo = None if event is None else event.repo
        verdict = self._log.accept(
            prepared.delivery_id,
            prepared.body,
            prepared.handlers,
            prepared.skipped,
            prepared.reason,
            scope="" if event is None else event.scope,
            action="" if event is None else event.action,
            repo=None if repo is None else repo.name,
            headers=self._storable(prepared.headers),
        )
        if event is None:
            return _unreadable(verdict, prepared)
        if verdict.status == "accepted":
            before, after = _acceptance(verdict.handlers)
            said = before + _json(verdict.id) + after
            work = Work(verdict.id, verdict.handlers, event)
            status = ANSWERS["accepted"].http
            return Answer(
                status, said, _headers_of(said), verdict.id, work, is_open=True, event=event
            )
        if verdict.status == "unhandled":
            answer = _unhandled(verdict, event, prepared.explanations)
            if self._router.has_unhandled_hook:
                answer.work = Work(verdict.id, (), event)
            return answer
        return _constant_for(verdict, event)

    def _storable(self, headers: Headers) -> Headers:
        verifier = self._verifier() if self._log.is_durable else None
        return headers if verifier is None else redact_secret(headers, verifier)

    def outcome(self, delivery: Delivery | None, answer: Answer) -> Answer:
        """Give the answer once the handlers ended: `answer` if they did not."""
        if delivery is None:
            return answer
        is_failed = any(run.state == State.FAILED for run in delivery.runs)
        ended = _constant(State.FAILED if is_failed else State.SUCCEEDED)
        return Answer(ended.status, ended.body, ended.headers, delivery.id, event=answer.event)

    def is_to_close(self, http_version: str, headers: Headers) -> bool:
        """Whether a refusal is to end the connection: too long a body may follow.

        What is short is left for the server to throw away: a client that is still sending when
        the connection ends often never sees the answer. HTTP/2 forbids the header.
        """
        return http_version < "2" and self._judge_length(headers) is not None

    def tell(self, answer: Answer) -> None:
        """Log what became of a delivery, in a line of its own."""
        self.log_unreadable(answer)
        if _log.is_enabled_for(logging.INFO):
            handlers = answer.work.handlers if answer.work else ()
            fields = log_fields(answer.delivery_id, answer.event)
            _log.info(
                "delivery `%s`, %s: response %d%s",
                answer.delivery_id,
                answer.event or "malformed",
                answer.status,
                f", handlers: {', '.join(handlers)}" if handlers else answer.outcome,
                extra={**fields, "status": answer.status, "handlers": list(handlers)},
            )

    def log_unreadable(self, answer: Answer) -> None:
        """Log that a body cannot be read."""
        if answer.complaint:
            fields = log_fields(answer.delivery_id, None)
            what = "delivery `%s` is malformed: %s"
            _log.error(what, answer.delivery_id, answer.complaint, extra=fields)

    def answered(self, delivery_id: str, *, delivered: bool) -> None:
        """Record whether an answer is known to have reached the Hub."""
        self._log.answered(delivery_id, delivered=delivered)

    def store_refusals(self) -> None:
        """Add the refusals since the last time to the log.

        Raises:
            StoreError: they cannot be kept just now.
        """
        if self.rejections:
            with self._log.batch():
                for (minute, case), count in self.rejections.items():
                    self._log.refused(minute, case, count)
            self.rejections.clear()

    def refusal(self, case: str, detail: str = "") -> Answer:
        """Count a refusal and give its answer; only the first of its kind in a minute is logged.

        Args:
            case: that of `ANSWERS`.
            detail: more about it, for the log alone.
        """
        minute = int(time.time()) // 60
        key = (minute, case)
        self.rejections[key] = self.rejections.get(key, 0) + 1
        answer = _constant(case)
        if self._told.get(case) != minute:
            self._told[case] = minute
            reason = f"{words_of(case).reason}{detail and ': '}{detail}"
            _log.warning("rejected a request with %d: %s", answer.status, reason)
            for old in [old for old in self.rejections if old[0] <= minute - _MINUTES_KEPT]:
                del self.rejections[old]
        return answer

    def _judge_secret(self, headers: Headers, query: bytes) -> tuple[str, str] | None:
        """Give the case of a refusal and its detail, which never has the secret."""
        try:
            verifier = self._verifier()
        except ConfigError as error:
            return "not configured", str(error)
        if verifier is not None:
            case = _CASE_OF_SECRET[verifier.check(headers, query)]
        else:
            case = None if self._allow_unsigned else "not configured"
        return None if case is None else (case, "")

    def _judge_length(
        self, headers: Headers
    ) -> Literal["length", "too large", "undeclared"] | None:
        """Judge the declared length; without one a body that follows is counted as it comes."""
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
        too_large = len(declared) > _MOST_DIGITS or int(declared) > self.max_body_size
        return "too large" if too_large else None


def check_size(size: object) -> None:
    """Raise `ConfigError` if it is no `max_body_size`."""
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        msg = f"`max_body_size={size!r}` is not a size; write a number of bytes, such as 1024"
        raise ConfigError(msg)


def _delivery_id(headers: Headers) -> str | None:
    # The Hub sends one per delivery, not per attempt: https://huggingface.co/docs/hub/webhooks.
    for name, value in headers:
        if name == b"webhook-id" and value:
            text = value.decode("latin-1")
            return _short_id(text if text.isprintable() else _printable(text))
    return None


def _printable(text: str) -> str:
    """Escape what controls a terminal: an id is shown in logs and tables."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def _short_id(delivery_id: str) -> str:
    """Cut an id that is too long; two that differ stay different."""
    if len(delivery_id) <= _LONGEST_ID:
        return delivery_id
    import hashlib  # noqa: PLC0415 - the Hub's ids need none

    digest = hashlib.sha256(delivery_id.encode()).hexdigest()
    return f"{delivery_id[: _LONGEST_ID - len(digest) - 3]}...{digest}"


def _constant_for(verdict: Verdict, event: HubEvent | None = None) -> Answer:
    """Answer a delivery that no handler runs: only its id differs from others' of its kind."""
    said = _constant(verdict.status)
    is_open = verdict.status == "in_progress"
    answer = Answer(said.status, said.body, said.headers, verdict.id, is_open=is_open, event=event)
    words = words_of(verdict.status)
    answer.outcome = f", {words.status}: {words.reason}"
    return answer


def _unhandled(verdict: Verdict, event: HubEvent, explanations: Sequence[str]) -> Answer:
    """Answer a delivery that no handler matches, and say why."""
    words = ANSWERS["unhandled"]
    said = _body_of(words, explanations=explanations)
    answer = Answer(words.http, said, _headers_of(said), verdict.id, event=event)
    why = "; ".join([words.reason, *explanations])
    answer.outcome = f", {words.status}: {shorten(why, _LONGEST_LOGGED)}"
    return answer


def _unreadable(verdict: Verdict, prepared: Prepared) -> Answer:
    if verdict.status != "malformed":
        return _constant_for(verdict)
    words = ANSWERS["malformed"]
    said = _body_of(words, delivery=verdict.id, reason=prepared.reason)
    answer = Answer(words.http, said, _headers_of(said), verdict.id)
    answer.complaint = str(prepared.reason)
    return answer


def _explain_briefly(match: Match, event: HubEvent, count: int) -> list[str]:
    """Explain the first handlers, as far as it fits into a response."""
    lines: list[str] = []
    length = 0
    for full in match.explanations(event):
        line = shorten(full, _LONGEST_LINE)
        # Escapes count too.
        length += len(_json(line))
        if length > _LONGEST_EXPLANATIONS:
            return [*lines, f"... and {count - len(lines)} more handlers"]
        lines.append(line)
    return lines


def _explain(match: Match, source: HubEvent | bytes) -> str:
    event = HubEvent.from_json(source) if isinstance(source, bytes) else source
    lines = match.explain(event)
    length = 0
    for at, line in enumerate(lines):
        length += len(line) + 1
        if length > _LONGEST_REASON:
            rest = f"... and {len(lines) - at} more handlers"
            return "\n".join([*lines[:at], shorten(line, 1024), rest])
    return "\n".join(lines)
