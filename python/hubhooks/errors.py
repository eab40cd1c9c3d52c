"""Everything hubhooks raises, each with the HTTP status a server answers it with.

The Rust core raises these same classes, so this module imports nothing of the package.

    HubHooksError
    ├── ConfigError            500  our user's mistake, found at set-up; also a ValueError
    ├── SecretMissingError     401  the request carries no secret
    ├── SecretMismatchError    403  the request carries a wrong secret, or two different ones
    ├── BodyTooLargeError      413  the body is longer than allowed
    ├── PayloadError           400  the body is no Hub event; also a ValueError
    └── StoreError             503  the delivery could not be kept
        └── BusyError          503  another process is writing; soon it may work
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BodyTooLargeError",
    "BusyError",
    "ConfigError",
    "HubHooksError",
    "PayloadError",
    "SecretMismatchError",
    "SecretMissingError",
    "StoreError",
]


class HubHooksError(Exception):
    """The base of all errors of this package."""

    status: ClassVar[int] = 500
    """The HTTP status to answer a request with that ends in this error."""


class ConfigError(HubHooksError, ValueError):
    """Something the author of the app wrote cannot work: a pattern, a secret, a handler."""


class SecretMissingError(HubHooksError):
    """The request carries no secret, neither in the `X-Webhook-Secret` header nor as `?secret=`."""

    status = 401


class SecretMismatchError(HubHooksError):
    """The request carries a secret that is not one of ours, or two different ones."""

    status = 403


class BodyTooLargeError(HubHooksError):
    """The request's body is longer than the receiver allows."""

    status = 413


class PayloadError(HubHooksError, ValueError):
    """The body is not a Hub event.

    Args:
        message: what is wrong, where, and what would be right; never a piece of the body.
        line: the line of the body, counted from 1; None when the mistake has no place.
        column: the column in that line in bytes, counted from 1; 0 at the start of a line.
        path: the field, with dots (`event.action`); empty for the body as a whole.
    """

    status = 400

    def __init__(
        self,
        message: str,
        line: int | None = None,
        column: int | None = None,
        path: str = "",
    ) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.path = path


class StoreError(HubHooksError):
    """The delivery could not be kept, so the Hub must send it again."""

    status = 503


class BusyError(StoreError):
    """Another process writes to the delivery log at the moment; soon it may work."""
