"""The data and the actions of the page under `hubhooks dev`."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
import uuid
from typing import TYPE_CHECKING, Any, Protocol

import httpx

from hubhooks._store.sqlite import SqliteStore, replay_in
from hubhooks.dev.link import LinkClosedError
from hubhooks.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hubhooks.dev.folder import KeptSecrets
    from hubhooks.dev.process import AppProcess

__all__ = ["DevSource", "RejectedError"]

_WAIT_SECONDS = 10.0
_EXPLAIN_SECONDS = 10.0
_SEND_SECONDS = 60.0
_MOST_TIMES = 100
_IN_MEMORY = ":memory:"


class RejectedError(Exception):
    """A request that cannot be done.

    Args:
        status: the status of the response.
        reason: why.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Supervisor(Protocol):
    """What the source needs of the supervisor."""

    app: AppProcess | None
    handlers: list[dict[str, Any]]
    kept: KeptSecrets
    store_path: str
    url: str

    @property
    def webhook_urls(self) -> list[str]: ...

    def describe(self) -> dict[str, Any]: ...

    async def use_newest_code(self, seconds: float) -> None: ...


class DevSource:
    """Answers for the page: from the store, from the supervisor, or from the app.

    Args:
        supervisor: has the app.
    """

    mode = "dev"

    def __init__(self, supervisor: _Supervisor) -> None:
        self._supervisor = supervisor
        self._client = httpx.AsyncClient(trust_env=False, timeout=_SEND_SECONDS)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @property
    def store_path(self) -> str:
        """The file of the store.

        Raises:
            RejectedError: the deliveries are in the memory of the app.
        """
        path = self._supervisor.store_path
        if path in ("", _IN_MEMORY):
            raise RejectedError(409, "the app keeps its deliveries in memory")
        return path

    def app(self) -> dict[str, Any]:
        """Describe the app and its output."""
        return self._supervisor.describe()

    async def handlers(self) -> list[dict[str, Any]]:
        """Return the handlers of the newest app that ran, without the numbers of the store."""
        return self._supervisor.handlers

    async def explain(self, body: bytes) -> dict[str, Any]:
        """Say for each handler whether it matches a body.

        Returns:
            `event`, `handlers` and `ignored`; or `reason` and `path` of a malformed body.

        Raises:
            RejectedError: no app runs.
        """
        await self._supervisor.use_newest_code(_WAIT_SECONDS)
        app = self._supervisor.app
        if app is None or app.link is None or app.port is None:
            raise RejectedError(503, "the app is not running")
        try:
            answer = await app.link.ask(
                "explain", _EXPLAIN_SECONDS, body=base64.b64encode(body).decode()
            )
        except LinkClosedError as error:
            raise RejectedError(503, str(error)) from error
        return dict(answer)

    async def replay(self, delivery_id: str, handlers: Sequence[str] = ()) -> tuple[str, ...]:
        """Queue handlers of a delivery again, to run in the newest code.

        Raises:
            RejectedError: it cannot be replayed.
        """
        path = self.store_path
        await self._supervisor.use_newest_code(_WAIT_SECONDS)
        try:
            names = await asyncio.to_thread(replay_in, path, delivery_id, handlers)
            if not names:
                why = await asyncio.to_thread(_blocked_reason, path, delivery_id)
                raise RejectedError(*why)
        except ConfigError as error:
            raise RejectedError(400, str(error)) from error
        except StoreError as error:
            raise RejectedError(503, str(error)) from error
        return names

    async def send(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Send deliveries to the app as the Hub does.

        Args:
            request: `body`, and optional `id`, `secret`, `times`.

        Raises:
            RejectedError: the request has a wrong value, or the app has no webhook.
        """
        body, webhook_id, place, times = _parse_send(request)
        await self._supervisor.use_newest_code(_WAIT_SECONDS)
        urls = self._supervisor.webhook_urls
        if not urls:
            raise RejectedError(503, "the app serves no webhook")
        ids = [webhook_id or uuid.uuid4().hex for _ in range(times)]
        return await asyncio.gather(*(self._send_one(urls[0], body, place, each) for each in ids))

    async def _send_one(self, url: str, body: bytes, place: str, webhook_id: str) -> dict[str, Any]:
        headers = {"content-type": "application/json", "webhook-id": webhook_id}
        secret, params = self._supervisor.kept.webhook_secret, None
        if place == "url":
            params = {"secret": secret}
        elif place != "none":
            wrong = secrets.token_urlsafe(16)
            headers["x-webhook-secret"] = secret if place == "right" else wrong
        begun = time.perf_counter()
        try:
            response = await self._client.post(url, content=body, headers=headers, params=params)
        except httpx.HTTPError as error:
            # The text of an error may have the URL, and so the secret.
            raise RejectedError(503, f"cannot send: {type(error).__name__}") from None
        milliseconds = (time.perf_counter() - begun) * 1000
        return {
            "status": response.status_code,
            "body": _json_or_text(response),
            "milliseconds": round(milliseconds, 1),
            "id": webhook_id,
        }


def _parse_send(request: dict[str, Any]) -> tuple[bytes, str | None, str, int]:
    body, webhook_id = request.get("body"), request.get("id")
    place, times = request.get("secret", "right"), request.get("times", 1)
    if not isinstance(body, dict | str):
        raise RejectedError(400, "`body` must be an object, or a string that is sent as it is")
    if place not in ("right", "wrong", "none", "url"):
        raise RejectedError(400, "`secret` must be right, wrong, none or url")
    if type(times) is not int or not 0 < times <= _MOST_TIMES:
        raise RejectedError(400, f"`times` must be a number from 1 to {_MOST_TIMES}")
    is_id = isinstance(webhook_id, str) and webhook_id.isascii() and webhook_id.isprintable()
    if webhook_id is not None and not is_id:
        raise RejectedError(400, "`id` must be printable ASCII")
    text = body if isinstance(body, str) else json.dumps(body)
    return text.encode("utf-8", "surrogatepass"), webhook_id, place, times


def _json_or_text(response: httpx.Response) -> Any:  # noqa: ANN401 - any JSON
    try:
        return response.json()
    except (ValueError, RecursionError):
        return response.text


def _blocked_reason(path: str, delivery_id: str) -> tuple[int, str]:
    """Return the status and the reason why a delivery was not replayed."""
    try:
        delivery = SqliteStore(path, allow_network=True).get(delivery_id)
    except (ConfigError, StoreError):
        delivery = None
    if delivery is None:
        return 404, "there is no such delivery"
    if delivery.is_open:
        return 409, f"the delivery is still {delivery.state}"
    if delivery.body is None:
        return 409, "its body was deleted to free space"
    return 409, "no handler matched it: name the handlers to run"
