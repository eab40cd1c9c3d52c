"""The times of the worker, in one place, so that tests can shorten them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DEFAULT_TIMEOUTS", "Timeouts"]


class Timeouts(NamedTuple):
    """Times of a worker, in seconds."""

    poll: float = 0.25
    """The interval of checks for writes and deaths of other processes."""
    full_poll: float = 60.0
    """The interval of looks at everything, because a clock may have been set back."""
    deferred: float = 0.005
    """How long deferred writes wait for other writes of the same transaction."""
    busy: float = 0.05
    """The pause before the next write while another process holds the write lock."""
    store_failure: float = 1.0
    """The pause before the next write after the store failed."""
    checkpoint: float = 1.0
    """The interval of checkpoints of the database."""
    prune: float = 60.0
    """The interval of pruning, and the pause after maintenance failed."""
    quarantine: float = 60.0
    """How long a crashed run waits for the others to end, and how long it may run alone."""
    crashed_poll: float = 5.0
    """How often the leader looks for crashed runs of a process that resigned before it died."""
    handover: float = 30.0
    """How long a process with older code starts no run, before it resigns anyway."""
    resigned: float = 2.0
    """How long a process that resigned leaves the leadership to the other."""
    cancel_grace: float = 5.0
    """How long a cancelled async handler may clean up before it is stuck."""


DEFAULT_TIMEOUTS = Timeouts()
"""The default timeouts of a worker."""
