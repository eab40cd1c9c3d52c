"""Run handlers in a Hugging Face Job that a webhook starts: one delivery, no server.

The constants are the exit codes of `run`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, NoReturn

from hubhooks import _environment
from hubhooks._http.receiver import Receiver
from hubhooks._store.base import MemoryStore
from hubhooks._terminal import print_escaped
from hubhooks._worker.pools import running_loop
from hubhooks._worker.service import WorkerService
from hubhooks.errors import ConfigError
from hubhooks.models import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hubhooks.models import Delivery
    from hubhooks.routing import Router

__all__ = ["FAILED", "MALFORMED", "NO_DELIVERY", "SUCCEEDED", "run"]

SUCCEEDED = 0
"""Every matching handler succeeded or raised `Ignore`, or no handler matches."""
FAILED = 1
"""At least one handler failed."""
NO_DELIVERY = 2
"""There is no delivery: the Job was started by hand."""
MALFORMED = 3
"""The delivery is not a valid Hub event."""


def run(router: Router, environ: Mapping[str, str] | None = None) -> NoReturn:
    """Run the matching handlers on the delivery in the environment, and exit.

    Source: https://huggingface.co/docs/hub/jobs-webhooks

    Args:
        router: the handlers.
        environ: the variables that contain the delivery; by default `os.environ`.

    Raises:
        ConfigError: an event loop runs in this thread.
        SystemExit: always, with one of the exit codes of this module.
    """
    if running_loop() is not None:
        # Checked before the handlers run, not after.
        msg = "`run_job` cannot run inside an event loop: call it in the last line of the script"
        raise ConfigError(msg)
    variables = _environment.read_all() if environ is None else environ
    payload = variables.get(_environment.PAYLOAD)
    if not payload:
        _say(
            "there is no WEBHOOK_PAYLOAD: the Hub sets it only in a Job that a webhook started. To "
            "test the handlers, set it to the output of `hubhooks samples NAME`"
        )
        sys.exit(NO_DELIVERY)
    # Bytes that are not UTF-8 arrive as lone surrogates.
    body = payload.encode("utf-8", "surrogateescape")
    delivery = _handle(router, variables.get("WEBHOOK_ID"), body)
    if delivery.skipped is not None:
        for line in (
            f"delivery `{delivery.id}` is {delivery.skipped}:",
            *delivery.reason.splitlines(),
        ):
            _say(line)
    for ended in delivery.runs:
        _say(f"`{ended.handler}`: {ended.state}{ended.error and ': '}{ended.error}")
    sys.exit({State.FAILED: FAILED, State.MALFORMED: MALFORMED}.get(delivery.state, SUCCEEDED))


def _handle(router: Router, delivery_id: str | None, body: bytes) -> Delivery:
    log = MemoryStore()
    # The Hub controls who starts a Job. There is no request, and so no secret to check.
    receiver = Receiver(router, log, lambda: None, allow_unsigned=True)
    # The environment has the whole body.
    headers = [(b"content-length", b"%d" % len(body))]
    if delivery_id:
        headers.append((b"webhook-id", delivery_id.encode()))
    response = receiver.receive(headers, body, complete=True)
    # Training code needs the main thread, and may run an event loop of its own.
    worker = WorkerService(router, log, inline=True, handler_loop="dedicated")
    if response.accepted is not None:
        worker.submit(response.accepted)
        worker.run_to_the_end()
    asyncio.run(worker.stop(drain=None))
    (delivery,) = log.list()
    return delivery


def _say(line: str) -> None:
    # The output of a Job is its log, and `logging` is usually not configured there.
    print_escaped(f"hubhooks: {line}")
