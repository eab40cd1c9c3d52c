"""Requests to the JSON APIs: the admin token, parameters and bodies."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from hubhooks._http.body import BodyError, read_body
from hubhooks._http.receiver import find_spec
from hubhooks.admin.queries import STATES

if TYPE_CHECKING:
    from collections.abc import Collection

    from hubhooks._http.types import Headers, Receive, Scope
    from hubhooks.admin.access import AdminTokenGuard

__all__ = [
    "DEFAULT_PAGE", "LONGEST_BODY", "Rejection", "check_access", "json_in", "limit_of", "moment_of",
    "names_in", "query_of", "read", "state_of",
]  # fmt: skip

DEFAULT_PAGE = 50
_LONGEST_PAGE = 500
LONGEST_BODY = 64 * 1024
"""The length of most bodies, in bytes."""


class Rejection(Exception):  # noqa: N818 - a response, not an error of ours
    """A request that is not served.

    Args:
        status: the HTTP status.
        reason: what is wrong.
        headers: more headers of the response.
        details: more members of the JSON.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        headers: dict[str, str] | None = None,
        **details: object,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers or {}
        self.data: dict[str, object] = {"reason": reason, **details}


async def check_access(guard: AdminTokenGuard, scope: Scope) -> None:
    """Check the admin token of a request. The response to a wrong one may be delayed.

    Raises:
        ConfigError: HUBHOOKS_ADMIN_TOKEN cannot be used.
        Rejection: the token is missing or wrong.
    """
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    kind, _, token = (values[0] if len(values) == 1 else b"").partition(b" ")
    if kind.lower() != b"bearer" or not token:
        reason = "the header `Authorization: Bearer <admin token>` is missing"
        raise Rejection(401, reason, {"www-authenticate": "Bearer"})
    result = await guard.check_delayed(token.decode("latin-1"))
    if result == "busy":
        reason = "the admin token is wrong, after too many other wrong tokens"
        raise Rejection(429, reason, {"retry-after": "1", **_closing(scope)})
    if result != "right":
        raise Rejection(403, "the admin token is wrong")


def _closing(scope: Scope) -> dict[str, str]:
    """Return the header that ends the connection. HTTP/2 does not allow it."""
    return {"connection": "close"} if scope.get("http_version", "1.1").startswith("1") else {}


def query_of(query: bytes, names: Collection[str]) -> dict[str, str]:
    """Return the parameters of a query.

    Raises:
        Rejection: a parameter has another name.
    """
    given = dict(parse_qsl(query.decode("latin-1")))
    for name in given:
        if name not in names:
            known = ", ".join(names)
            raise Rejection(400, f"there is no parameter `{name}`; there are {known}")
    return given


def state_of(text: str | None) -> str | None:
    """Return a state.

    Raises:
        Rejection: there is no such state.
    """
    if text is not None and text not in STATES:
        raise Rejection(400, f"`{text}` is not a state; the states are {', '.join(STATES)}")
    return text


def limit_of(text: str) -> int:
    """Return the length of a page.

    Raises:
        Rejection: it is not a number of the allowed range.
    """
    # Python refuses to convert very long numbers.
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(_LONGEST_PAGE))
    if not (is_number and 0 < int(text) <= _LONGEST_PAGE):
        raise Rejection(400, f"`limit` must be a number from 1 to {_LONGEST_PAGE}")
    return int(text)


def moment_of(text: str | None) -> datetime | None:
    """Return a time.

    Raises:
        Rejection: it is not a time with a zone.
    """
    if text is None:
        return None
    try:
        # Python 3.10 does not know the Z. In a query a plus is a space.
        moment = datetime.fromisoformat(text.replace("Z", "+00:00").replace(" ", "+"))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Rejection(400, "`since` must be a time with a zone, such as 2026-07-31T14:00:00Z")
    return moment


def names_in(body: bytes) -> tuple[str, ...]:
    """Return the names of handlers in the body of a replay; empty for all.

    Raises:
        Rejection: the body has another content.
    """
    if not body:
        return ()
    right = 'leave it empty, or send {"handlers": ["name"]}'
    said = json_in(body, right)
    names = said.get("handlers") if isinstance(said, dict) else None
    # An empty list must not run all handlers.
    if (
        not isinstance(names, list)
        or not names
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise Rejection(400, f"the body has the wrong content: {right}")
    return tuple(names)


def json_in(body: bytes, right: str) -> Any:  # noqa: ANN401 - any JSON
    """Parse a body.

    Raises:
        Rejection: it is not JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Rejection(400, f"the body is not JSON: {right}") from None


async def read(receive: Receive, headers: Headers, limit: int = LONGEST_BODY) -> bytes:
    """Read the body of a request.

    Raises:
        Rejection: it is too long, or incomplete.
    """
    try:
        return await read_body(receive, limit, headers)
    except BodyError as error:
        spec = find_spec(error.case)
        raise Rejection(spec.http, f"{spec.reason}{error.detail and ': '}{error.detail}") from None
