"""The routes of the page's API that only `hubhooks dev` has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from hubhooks._http.body import BodyError, read_body
from hubhooks._http.receiver import find_spec
from hubhooks.dev.guard import check_origin, check_token
from hubhooks.dev.proxy import send_json
from hubhooks.dev.source import RejectedError

if TYPE_CHECKING:
    from hubhooks._http.types import Headers, Receive, Scope, Send
    from hubhooks.dev.source import DevSource

__all__ = ["DevRoutes"]

_LONGEST_BODY = 32 * 1024 * 1024


class DevRoutes:
    """An ASGI app below `/_hubhooks/`.

    Args:
        source: has the data.
        token: what a caller must know.
    """

    def __init__(self, source: DevSource, token: str) -> None:
        self._source = source
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        if scope["type"] != "http":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        rejection = check_origin(scope, local_only=True) or check_token(scope, self._token)
        if rejection is not None:
            await send_json(send, rejection[0], {"reason": rejection[1]})
            return
        try:
            status, value = await self._respond(scope, receive)
        except RejectedError as error:
            status, value = error.status, {"reason": error.reason}
        await send_json(send, status, value)

    async def _respond(self, scope: Scope, receive: Receive) -> tuple[int, object]:
        raw = scope["raw_path"].partition(b"?")[0].decode("latin-1")
        source = self._source
        match (scope["method"], *raw.strip("/").split("/")[1:]):
            case ("GET", "api", "app"):
                return 200, source.app()
            case ("GET", "api", "handlers"):
                return 200, {"handlers": await source.handlers()}
            case ("POST", "api", "explain"):
                answer = await source.explain(await _read(receive, scope["headers"]))
                return 422 if "reason" in answer else 200, answer
            case ("POST", "api", "send"):
                request = _object(await _read(receive, scope["headers"]))
                return 200, {"responses": await source.send(request)}
            case ("POST", "api", "deliveries", name, "replay"):
                handlers = _handlers(await _read(receive, scope["headers"]))
                names = await source.replay(unquote(name), handlers)
                return 202, {"delivery": unquote(name), "handlers": names}
        raise RejectedError(404, "there is nothing at this path")


async def _read(receive: Receive, headers: Headers) -> bytes:
    try:
        return await read_body(receive, _LONGEST_BODY, headers)
    except BodyError as error:
        spec = find_spec(error.case)
        raise RejectedError(spec.http, spec.reason) from None


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RejectedError(400, "the body is not a JSON object")
    return value


def _handlers(body: bytes) -> list[str]:
    names = _object(body).get("handlers", []) if body.strip() else []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise RejectedError(400, 'leave the body empty, or send {"handlers": ["name"]}')
    return names
