"""The exceptions of hubhooks, each with the HTTP status of the matching response.

The Rust core raises these classes too, so this module imports nothing of the package.

    HubHooksError
    ├── ConfigError            500  a mistake in the app's code or settings; also a ValueError
    ├── SecretMissingError     401  the request carries no secret
    ├── SecretMismatchError    403  the request carries a wrong secret, or two different ones
    ├── BodyTooLargeError      413  the body is longer than `max_body_size`
    ├── PayloadError           400  the body is not a Hub event; also a ValueError
    └── StoreError             503  the store cannot be read or written now
        └── BusyError          503  another process is writing; a retry may succeed
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
    """The base class of all exceptions of this package."""

    status: ClassVar[int] = 500
    """The HTTP status of the response to a request that fails with this error."""


class ConfigError(HubHooksError, ValueError):
    """A mistake in the app: a pattern, a secret, a handler or a setting that cannot work."""


class SecretMissingError(HubHooksError):
    """The request has no secret: no `X-Webhook-Secret` header, and no `?secret=` in the URL."""

    status = 401


class SecretMismatchError(HubHooksError):
    """The request has a wrong secret, or two different ones."""

    status = 403


class BodyTooLargeError(HubHooksError):
    """The body of the request is longer than `max_body_size`."""

    status = 413


class PayloadError(HubHooksError, ValueError):
    """The body is not a Hub event.

    Args:
        message: what is wrong, where, and what would be right; it never quotes the body.
        line: the line in the body, from 1; None if the error has no position.
        column: the column in that line in bytes, from 1; 0 at the start of a line.
        path: the field, with dots (`event.action`); empty if the error is about the whole body.
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
    """The store cannot be read or written now. The Hub sends a delivery again after a 503."""

    status = 503


class BusyError(StoreError):
    """Another process writes to the store now. A retry may succeed."""
