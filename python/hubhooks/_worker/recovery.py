"""Take over the runs of the store as its new leader, and report the crashed ones."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Protocol

from hubhooks._core import HubEvent
from hubhooks._logging import get_logger
from hubhooks.errors import PayloadError, StoreError
from hubhooks.models import RunContext

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from hubhooks._store.base import DeliveryStore, RecoveredRun
    from hubhooks._worker.execution import RunExecution
    from hubhooks._worker.polls import PollSchedule
    from hubhooks._worker.scheduler import CrashQuarantine
    from hubhooks.handlers import HookName

__all__ = ["CrashRecovery", "StartHooks"]

_log = get_logger()


class StartHooks(Protocol):
    """Starts the hooks of a name."""

    def __call__(
        self,
        hook_name: HookName,
        delivery_id: str,
        loop: asyncio.AbstractEventLoop | None,
        *arguments: object,
        context: contextvars.Context,
    ) -> None:
        """Start the hooks, each in a copy of the context."""


class CrashRecovery:
    """Handles crashed runs: plans the retries, and starts the hooks of failed runs.

    Args:
        store: has the deliveries and their runs.
        quarantine: decides when a crashed run may start.
        polls: the schedule of the looks at the store.
        start_hooks: starts the hooks of a run that is not retried.
    """

    def __init__(
        self,
        store: DeliveryStore,
        quarantine: CrashQuarantine[RunExecution],
        polls: PollSchedule,
        start_hooks: StartHooks,
    ) -> None:
        self._store = store
        self._quarantine = quarantine
        self._polls = polls
        self._start_hooks = start_hooks

    def take_over(self, crashed: Sequence[RecoveredRun] | None) -> None:
        """Take over the runs of the store, after this process became the leader.

        Args:
            crashed: the crashed runs; None if another process is the leader.
        """
        if crashed is None:
            return
        self._quarantine.may_have_crashed = bool(self._store.path)
        self._polls.may_be_unknown = True
        store = self._store
        ready = store.list_ready(1) or store.list_ready(1, crashed=True)
        self._polls.is_needed = bool(ready) or store.seconds_to_next() is not None
        self.report(crashed)

    def report(self, crashed: Sequence[RecoveredRun]) -> None:
        """Log crashed runs, plan their retries, and run the hooks of failed runs."""
        for delivery_id, name, is_failed in crashed:
            self._quarantine.may_have_crashed = self._polls.is_needed = True
            if is_failed:
                try:
                    self._fail(delivery_id, name)
                except StoreError as failure:
                    # The other runs are still to be reported.
                    what = "cannot call the hooks for handler `%s` on delivery `%s`: %s"
                    _log.error(what, name, delivery_id, failure)
            else:
                what = "the process died during handler `%s` on delivery `%s`: retrying it alone"
                _log.warning(what, name, delivery_id)

    def _fail(self, delivery_id: str, name: str) -> None:
        """Run the `on_failure` hooks of a run that crashed more often than allowed."""
        error = RuntimeError("the process died during this handler")
        _log.error("handler `%s` failed on delivery `%s`: %s", name, delivery_id, error)
        delivery = self._store.get(delivery_id)
        body = self._store.body(delivery_id)
        if delivery is None or body is None:
            return
        attempt = delivery.run(name).attempts
        run_context = RunContext(
            delivery_id, attempt, delivery.is_replay, delivery.received_at, name
        )
        try:
            event = HubEvent.from_json(body)
        except PayloadError:
            return
        context = contextvars.Context()
        self._start_hooks("failure", delivery_id, None, event, run_context, error, context=context)
