"""The delay before a failed run is retried."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hubhooks._functions import check_ran
from hubhooks._logging import get_logger, is_interrupt
from hubhooks.models import Retry

if TYPE_CHECKING:
    from hubhooks.handlers import Policy

__all__ = ["DEFAULT_DELAY", "retry_delay"]

_log = get_logger()

# Seconds. The longest delay of a `backoff=`, before the jitter, and of a `Retry`.
_LONGEST_BACKOFF = 3600.0
_LONGEST_AFTER = 365 * 86400.0
# The delay if the user's code gives none.
DEFAULT_DELAY = 60.0
# The share by which a delay is longer or shorter at random.
_RETRY_JITTER = 0.2


def retry_delay(name: str, policy: Policy, failures: int, error: BaseException) -> float:
    """Return the seconds until the next attempt of a run: of its `Retry`, or of its `backoff=`.

    Args:
        name: the handler's name.
        policy: its options.
        failures: its failed attempts, this one included.
        error: what it raised.
    """
    after = _after(name, error) if issubclass(type(error), Retry) else None
    if after is not None:
        return after
    if callable(policy.backoff):
        try:
            given = policy.backoff(failures)
            check_ran(given)
            return _limited(float(given), _LONGEST_BACKOFF)
        # The run must end after any exception of the user's function.
        except BaseException as failure:
            if is_interrupt(failure):
                raise
            _log.exception("`backoff` of handler `%s` failed; retry in a minute", name)
            return DEFAULT_DELAY
    import random  # noqa: PLC0415 - slow to import, and only retries need it

    # Runs that failed together must not be retried together.
    jitter = random.uniform(1 - _RETRY_JITTER, 1 + _RETRY_JITTER)  # noqa: S311 - not for a secret
    return min(policy.backoff * 2.0 ** min(failures - 1, 30), _LONGEST_BACKOFF) * jitter


def _after(name: str, error: BaseException) -> float | None:
    """Return the seconds that a `Retry` asks for; None if it asks for none."""
    # A subclass may define `after` itself, or not call `super().__init__`.
    try:
        after = getattr(error, "after", None)
        return None if after is None else _limited(float(after), _LONGEST_AFTER)
    except BaseException as failure:
        if is_interrupt(failure):
            raise
        _log.exception("`after` of the error of handler `%s` failed; using its `backoff`", name)
        return None


def _limited(seconds: float, longest: float) -> float:
    if not math.isfinite(seconds):
        msg = f"it returned {seconds}: return seconds, such as 60"
        raise ValueError(msg)
    return min(max(seconds, 0.0), longest)
