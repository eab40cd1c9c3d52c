"""The environment variables that hubhooks reads: here and nowhere else.

`docs/environment.md` lists them.
"""

from __future__ import annotations

import os

from hubhooks.errors import ConfigError

__all__ = [
    "ADMIN_TOKEN", "ADOPT_STORE", "ALLOW_NETWORK", "APP_NAME", "DELIVERIES", "FOLLOW_TOKEN",
    "PAYLOAD", "SECRET", "SPACE_HOST", "is_set", "is_space", "read", "read_all", "read_flag",
]  # fmt: skip

SECRET = "WEBHOOK_SECRET"  # noqa: S105 - the name, not the secret
ADMIN_TOKEN = "HUBHOOKS_ADMIN_TOKEN"  # noqa: S105 - the name, not the token
# The admin token of another app, whose deliveries `hubhooks follow` copies.
FOLLOW_TOKEN = "HUBHOOKS_FOLLOW_TOKEN"  # noqa: S105 - the name, not the token
DELIVERIES = "HUBHOOKS_DELIVERIES"
APP_NAME = "HUBHOOKS_APP_NAME"
ADOPT_STORE = "HUBHOOKS_ADOPT_STORE"
ALLOW_NETWORK = "HUBHOOKS_ALLOW_NETWORK"
# In a Job that a webhook started: the body of the delivery.
PAYLOAD = "WEBHOOK_PAYLOAD"
# In a Space: its host, or several with commas.
SPACE_HOST = "SPACE_HOST"
_SPACE_ID = "SPACE_ID"


def read(variable: str) -> str | None:
    """Return the value of a variable; None if it is not set."""
    return os.environ.get(variable)


def read_all() -> dict[str, str]:
    """Return all variables, for a Job."""
    return dict(os.environ)


def read_flag(variable: str) -> bool:
    """Return whether a variable is true; one that is not set is false.

    Raises:
        ConfigError: it is neither true nor false.
    """
    given = os.environ.get(variable, "").strip()
    if given.lower() in {"1", "true", "yes", "on"}:
        return True
    if given.lower() in {"", "0", "false", "no", "off"}:
        return False
    msg = f"{variable} is {given!r}, which is not a flag; write 1 or 0"
    raise ConfigError(msg)


def is_set(*variables: str) -> bool:
    """Return whether all variables have a value that is not empty."""
    return all(os.environ.get(variable) for variable in variables)


def is_space() -> bool:
    """Return whether this process runs in a Space."""
    return _SPACE_ID in os.environ
