"""Rejects requests of other sites, and the headers of each response below `/_hubhooks/`."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from hubhooks._http.types import Scope

__all__ = ["check_origin", "check_token", "header_of", "security_headers"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types lit-html"
)
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def security_headers() -> list[tuple[bytes, bytes]]:
    """Return the headers of each response."""
    return [
        (b"content-security-policy", _POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-store"),
    ]


def check_origin(scope: Scope, *, local_only: bool) -> tuple[int, str] | None:
    """Reject a request that another site sent, or one for another host.

    Returns:
        the status and the reason of the rejection; None to accept.
    """
    host = header_of(scope, b"host")
    if local_only and _host_name(host) not in _LOCAL_HOSTS:
        # Another name that leads to this machine: DNS rebinding.
        return 421, "the page is served at localhost only"
    site = header_of(scope, b"sec-fetch-site")
    origin = header_of(scope, b"origin")
    if site:
        is_own = site in ("same-origin", "none")
    else:
        is_own = not origin or urlsplit(origin).netloc == host
    return None if is_own else (403, "the request comes from another site")


def check_token(scope: Scope, token: str) -> tuple[int, str] | None:
    """Reject a request without the token.

    Returns:
        the status and the reason of the rejection; None to accept.
    """
    kind, _, given = header_of(scope, b"authorization").partition(" ")
    if kind.lower() != "bearer" or not given:
        return 401, "the header `Authorization: Bearer <token>` is missing"
    if not hmac.compare_digest(given.strip().encode(), token.encode()):
        return 403, "the token is wrong: open the URL that `hubhooks dev` printed"
    return None


def header_of(scope: Scope, name: bytes) -> str:
    """Return the value of a header; empty if it is missing or given twice."""
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
