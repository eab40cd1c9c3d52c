"""The data and the actions of the page under `hubhooks dev`."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

import httpx

from hubhooks._core import HubEvent
from hubhooks._store.sqlite import SqliteStore
from hubhooks.admin.access import AdminTokenGuard
from hubhooks.admin.api import StoreSource
from hubhooks.admin.queries import Activity, Replayed
from hubhooks.dev.link import LinkClosedError
from hubhooks.errors import StoreError
from hubhooks.routing import Router

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hubhooks.admin.api import SendRequest
    from hubhooks.dev.folder import KeptSecrets
    from hubhooks.dev.process import AppProcess, Webhook

__all__ = ["DevSource"]

_WAIT_SECONDS = 10.0
_EXPLAIN_SECONDS = 10.0
# A delivery is shown after this time without explanations. The page reads it again once the app
# runs.
_DETAILS_SECONDS = 1.0
_SEND_SECONDS = 60.0
_IN_MEMORY = ":memory:"
_NOT_RUNNING = "the app does not run"
_MEMORY_ONLY = "the app keeps its deliveries in memory, where the page cannot read them"


class _Supervisor(Protocol):
    """What the source needs of the supervisor."""

    app: AppProcess | None
    kept: KeptSecrets

    def webhook(self, number: int) -> Webhook: ...

    def urls(self, number: int) -> list[str]: ...

    def describe(self, number: int) -> dict[str, Any]: ...

    async def use_newest_code(self, seconds: float) -> None: ...


class DevSource(StoreSource):
    """Answers for the page: from the store, from the supervisor, or from the app.

    Args:
        supervisor: has the app.
        number: the webhook of the app, from 0.
    """

    is_dev = True

    def __init__(self, supervisor: _Supervisor, number: int) -> None:
        self._supervisor = supervisor
        self._number = number
        self._guard = AdminTokenGuard(lambda: None, token=supervisor.kept.page_token)
        self._path = ""
        self._client = httpx.AsyncClient(trust_env=False, timeout=_SEND_SECONDS)
        self._activity = self._open(_IN_MEMORY)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @property
    def activity(self) -> Activity:
        """The deliveries of the newest app. An edit can name another file for them."""
        path = self._webhook.store
        # Before the first start of an app there is no file, and no delivery.
        if not os.path.exists(path):  # noqa: PTH110 - faster, and each stream asks often
            path = ""
        if path != self._path:
            self._path = path
            self._activity = self._open(path or _IN_MEMORY)
        return self._activity

    @property
    def _webhook(self) -> Webhook:
        return self._supervisor.webhook(self._number)

    def _open(self, path: str) -> Activity:
        store = SqliteStore(path, allow_network=True)
        return Activity(store, Router(), lambda: None, lambda: None, self._guard)

    def app(self) -> dict[str, Any]:
        """Describe the app and its output."""
        return self._supervisor.describe(self._number)

    async def handlers(self) -> list[dict[str, Any]]:
        """Return the handlers of the newest app that ran."""
        return self._webhook.handlers

    async def explain(self, body: bytes) -> dict[str, Any]:
        """Explain which handlers of the newest code match a body.

        Raises:
            PayloadError: the body is not an event.
            StoreError: the app does not run.
        """
        return await self._explain(body, _WAIT_SECONDS)

    async def explain_stored(self, body: bytes) -> dict[str, Any]:
        """Explain a delivery, which must be shown soon, also while the app starts."""
        return await self._explain(body, _DETAILS_SECONDS)

    async def _explain(self, body: bytes, wait_seconds: float) -> dict[str, Any]:
        await asyncio.to_thread(HubEvent.from_json, body)
        await self._supervisor.use_newest_code(wait_seconds)
        app = self._supervisor.app
        if app is None or app.link is None or app.port is None:
            raise StoreError(_NOT_RUNNING)
        try:
            answer = await app.link.ask(
                "explain",
                _EXPLAIN_SECONDS,
                body=base64.b64encode(body).decode(),
                webhook=self._number,
            )
        except LinkClosedError as error:
            raise StoreError(str(error)) from error
        return dict(answer)

    async def replay(self, delivery_id: str, handlers: Sequence[str]) -> Replayed:
        """Queue handlers of a delivery again, to run in the newest code.

        Raises:
            StoreError: the store cannot be written now.
        """
        await self._supervisor.use_newest_code(_WAIT_SECONDS)
        if not self._webhook.store:
            return Replayed((), _MEMORY_ONLY)
        details = await self.details(delivery_id)
        if self._is_running():
            # An edit may have renamed the handler. A run of its old name would never start.
            known = {each["name"] for each in self._webhook.handlers}
            wanted = handlers or (details.handlers if details is not None else ())
            found = [name for name in wanted if name in known]
            if wanted and (handlers or not found) and len(found) < len(wanted):
                gone = next(name for name in wanted if name not in known)
                return Replayed((), f"the app has no handler `{gone}`")
            if details is not None and not handlers:
                ran = {run.handler for run in details.delivery.runs}
                handlers = [name for name in found if name in ran] or found
        return await self._queue(details, delivery_id, handlers)

    async def not_ready_reason(self) -> str:
        """Return why a delivery would not be stored now; empty if it would."""
        return "" if self._is_running() else _NOT_RUNNING

    def _is_running(self) -> bool:
        app = self._supervisor.app
        return app is not None and app.port is not None and not app.ended.is_set()

    async def send(self, request: SendRequest) -> list[dict[str, Any]]:
        """Send deliveries to the app as the Hub does.

        Raises:
            StoreError: the app serves no webhook, or it cannot be reached.
        """
        await self._supervisor.use_newest_code(_WAIT_SECONDS)
        urls = self._supervisor.urls(self._number)
        if not urls:
            msg = "the app serves no webhook"
            raise StoreError(msg)
        ids = [request.delivery_id or uuid.uuid4().hex for _ in range(request.times)]
        return await asyncio.gather(*(self._send_one(urls[0], request, each) for each in ids))

    async def _send_one(self, url: str, request: SendRequest, webhook_id: str) -> dict[str, Any]:
        headers = {"content-type": "application/json", "webhook-id": webhook_id}
        secret, params = self._supervisor.kept.webhook_secret, None
        choice: str = request.secret
        if choice == "url":
            params = {"secret": secret}
        elif choice != "none":
            wrong = secrets.token_urlsafe(16)
            headers["x-webhook-secret"] = secret if choice == "right" else wrong
        begun = time.perf_counter()
        try:
            response = await self._client.post(
                url, content=request.body, headers=headers, params=params
            )
        except httpx.HTTPError as error:
            # The text of an error may have the URL, and so the secret.
            msg = f"cannot send: {type(error).__name__}"
            raise StoreError(msg) from None
        milliseconds = (time.perf_counter() - begun) * 1000
        return {
            "status": response.status_code,
            "body": _json_or_text(response),
            "milliseconds": round(milliseconds, 1),
            "id": webhook_id,
        }


def _json_or_text(response: httpx.Response) -> Any:  # noqa: ANN401 - any JSON
    try:
        return response.json()
    except (ValueError, RecursionError):
        return response.text
