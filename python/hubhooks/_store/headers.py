"""Which headers of a delivery are stored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hubhooks._core import Verifier

__all__ = ["redact_secret", "storable"]

_REDACTED = "(redacted)"

# Proxies add credentials in headers of any name, so only these values are stored. None of them is
# a credential. They help to find the sender and the proxy of a request.
_STORED = frozenset(
    (
        b"accept accept-charset accept-encoding accept-language cache-control connection "
        b"content-encoding content-language content-length content-type date expect forwarded host "
        b"keep-alive max-forwards te trailer transfer-encoding upgrade user-agent via webhook-id "
        b"webhook-timestamp "
        b"cf-connecting-ip cf-ipcountry cf-ray true-client-ip "
        b"x-amzn-trace-id x-b3-parentspanid x-b3-sampled x-b3-spanid x-b3-traceid "
        b"x-cloud-trace-context x-correlation-id x-request-id x-request-start traceparent "
        b"x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip"
    ).split()
)
# Signs of a URL with a query, percent-encoded or not. None of the stored headers should have one.
_MAY_HAVE_QUERY = re.compile(rb"[?%]|secret", re.IGNORECASE)
# The separators of words in a value such as `for=10.0.0.1;host=hub`.
_SEPARATORS = re.compile(rb'[\s,;="]+')


def redact_secret(
    headers: Iterable[tuple[bytes, bytes]], verifier: Verifier
) -> list[tuple[bytes, bytes]]:
    """Redact the values that are the secret, or have it as a word."""
    return [
        (name, _REDACTED.encode() if _has_secret(value, verifier) else value)
        for name, value in headers
    ]


def _has_secret(value: bytes, verifier: Verifier) -> bool:
    words = {value, *_SEPARATORS.split(value)} - {b""}
    return any(verifier.check(((b"x-webhook-secret", word),)) is None for word in words)


def storable(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Return the headers of a request, with all values redacted that may be secret."""
    return [
        (
            name.decode("latin-1"),
            value.decode("latin-1")
            if name.lower() in _STORED and _MAY_HAVE_QUERY.search(value) is None
            else _REDACTED,
        )
        for name, value in headers
    ]
