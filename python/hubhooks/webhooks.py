"""The class that ties the rooms together."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from hubhooks._core import Verifier
from hubhooks.asgi import Door
from hubhooks.deliveries import MemoryLog
from hubhooks.receiver import Receiver
from hubhooks.routing import Router
from hubhooks.runner import Runner

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from hubhooks.asgi import Receive, Scope, Send
    from hubhooks.deliveries import Log, Replays
    from hubhooks.routing import Strings

__all__ = ["Webhooks"]

_VARIABLE = "WEBHOOK_SECRET"


class Webhooks(Router):
    """Receives the Hub's webhooks and runs the handlers that listen to them.

    It is itself an ASGI application, which answers every path it is given: `uvicorn app:hooks`.

    Args:
        secret: the webhook's secret, or several while one replaces another; by default that of
            the environment variable WEBHOOK_SECRET, read when it is first needed.
        allow_unsigned: let everybody in where there is no secret at all.
        max_body_size: the longest body that is read, in bytes.
        replays: `skip` not to run handlers again when a delivery that succeeded is replayed.
        ignore_authors: ids of users whose comments and discussions no handler hears, such as the
            bot's own. Other events do not say who acted.
    """

    def __init__(
        self,
        secret: str | Sequence[str] | None = None,
        *,
        allow_unsigned: bool = False,
        max_body_size: int = 32 * 1024 * 1024,
        replays: Replays = "run",
        ignore_authors: Strings = (),
    ) -> None:
        super().__init__(ignore_authors=ignore_authors)
        secrets = (secret,) if isinstance(secret, str) else secret
        self._verifier = None if secrets is None else Verifier(*secrets)
        self._deliveries = MemoryLog(replays=replays)
        receiver = Receiver(
            self,
            self._deliveries,
            lambda: self.verifier,
            allow_unsigned=allow_unsigned,
            max_body_size=max_body_size,
        )
        self._door = Door(receiver, Runner(self.handler, self._deliveries))

    @property
    def deliveries(self) -> Log:
        """What became of the deliveries so far."""
        return self._deliveries

    @property
    def verifier(self) -> Verifier | None:
        """What judges the secret of a request; None where no secret is configured.

        Raises:
            ConfigError: WEBHOOK_SECRET is empty, or not ASCII.
        """
        if self._verifier is None and (secret := os.environ.get(_VARIABLE)) is not None:
            self._verifier = Verifier(secret)
        return self._verifier

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[None]:  # noqa: ARG002
        """Serve while the app does: the `lifespan` of a Starlette, FastAPI or Gradio app.

        Args:
            app: the app that is served; nothing is asked of it.

        Raises:
            ConfigError: there is no secret, and unsigned requests are not allowed.
        """
        self._door.start()
        try:
            yield
        finally:
            await self._door.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        await self._door(scope, receive, send)
