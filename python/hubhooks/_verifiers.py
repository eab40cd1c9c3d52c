"""Verifiers of webhook secrets. Under `hubhooks dev` they accept one more secret."""

from __future__ import annotations

from functools import lru_cache

from hubhooks import _environment
from hubhooks._core import Verifier

__all__ = ["accept_also", "make_verifier", "verifier_of_environment"]

_also_accepted: list[str] = []


def accept_also(secret: str) -> None:
    """Let all verifiers that are made from now on accept one more secret.

    Without it, the page of `hubhooks dev` could not send deliveries to an app that has another
    secret in its code.
    """
    _also_accepted.append(secret)


def make_verifier(*secrets: str) -> Verifier:
    """Make the verifier of a webhook.

    Raises:
        ConfigError: there is no secret, or one of them is not valid.
    """
    # The other secret must not make up for a missing one.
    return Verifier(*secrets, *_also_accepted) if secrets else Verifier()


def verifier_of_environment() -> Verifier | None:
    """Make the verifier of WEBHOOK_SECRET; None if it is not set.

    Raises:
        ConfigError: the secret is not valid.
    """
    secret = _environment.read(_environment.SECRET)
    return None if secret is None else _cached_verifier(secret)


# A new verifier for each request would repeat its warnings.
_cached_verifier = lru_cache(maxsize=1)(make_verifier)
