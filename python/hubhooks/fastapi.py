"""Receive webhooks in FastAPI: a router, or a dependency for your own endpoints."""

from __future__ import annotations

import inspect
import json
import warnings
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar, get_args, overload
from weakref import WeakKeyDictionary, WeakSet

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount
from starlette.websockets import WebSocketClose

from hubhooks._core import HubEvent, Verifier
from hubhooks._encoders import register_encoders
from hubhooks._fastapi_openapi import (
    SECRET_SCHEME,
    WebhookErrorResponse,
    WebhookResponse,
    openapi_options,
    receive_options,
)
from hubhooks._http.app import is_server_receive
from hubhooks._http.body import (
    ALREADY_READ,
    CUT_OFF,
    KEEP_A_COPY,
    TOO_LARGE,
    UNDECODED,
    BodyError,
    BoundedReceive,
    is_part,
    read_body,
    read_parts,
)
from hubhooks._http.receiver import MAX_BODY_SIZE, Receiver, check_size
from hubhooks._logging import get_logger
from hubhooks._verifiers import make_verifier, verifier_of_environment
from hubhooks.errors import ConfigError, PayloadError
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence

    from starlette.types import Message, Receive, Scope, Send

    from hubhooks._http.receiver import Response as HubResponse

__all__ = [
    "VerifiedEvent",
    "WebhookErrorResponse",
    "WebhookResponse",
    "make_router",
    "openapi_options",
    "verified_event",
]

logger = get_logger()

register_encoders()

E = TypeVar("E", bound=HubEvent)

# The key of the original query in the scope of a request.
_QUERY = "hubhooks.query"
_OTHER_METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"]


class RequestReceive:
    """Receives the body of a request, also if the request already holds it.

    Dependencies, a `route_class` or a monitoring tool can read the body before. A request class of
    the app can decode it.
    """

    def __init__(self, request: Request) -> None:
        self._request = request

    async def __call__(self) -> Message:
        """Receive one message."""
        return await self._request.receive()

    @property
    def asgi_receive(self) -> Receive:
        """The `receive` of the request: the server's own, unless middleware wraps it."""
        return self._request.receive

    async def read_body(self, limit: int) -> bytes:
        """Read the body to its end, or take it from the request.

        Raises:
            BodyError: the body is too large, was cut off or read before, or did not arrive in time.
        """
        request = self._request
        if _decodes_body(request):
            body = await self._decode_body(limit)
        elif hasattr(request, "_body"):
            body = await request.body()
        elif request._stream_consumed:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - Starlette has no public attribute for it
            raise BodyError(ALREADY_READ, KEEP_A_COPY)
        else:
            body = await read_parts(request.receive, limit)
            # Later readers, such as another dependency, find it there.
            request._body = body  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - Starlette's cache of the body
        if len(body) > limit:
            raise BodyError(TOO_LARGE)
        return body

    async def _decode_body(self, limit: int) -> bytes:
        request = self._request
        receive = request.receive
        request._receive = BoundedReceive(receive, limit)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - `body()` has no limit of its own
        try:
            return await request.body()
        except (BodyError, StarletteHTTPException):
            raise
        except ClientDisconnect:
            raise BodyError(CUT_OFF) from None
        except Exception as error:  # noqa: BLE001 - user code can raise anything
            if isinstance(error, RuntimeError) and request._stream_consumed:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - see above
                raise BodyError(ALREADY_READ, KEEP_A_COPY) from None
            # Its text may quote the body.
            detail = f"`{type(request).__name__}.body` raised {type(error).__name__}"
            raise BodyError(UNDECODED, detail) from None
        finally:
            request._receive = receive  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - restores it


def _decodes_body(request: Request) -> bool:
    """Return whether the app's request class reads the body in its own way."""
    kind = type(request)
    return kind.body is not Request.body or kind.stream is not Request.stream


class _Received(Response):
    """A FastAPI response that lets an ASGI app read the request and respond."""

    def __init__(
        self, request: Request, app: Callable[[Scope, Receive, Send], Awaitable[object]]
    ) -> None:
        super().__init__()
        self._request = request
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - Starlette's signature
        await self._app(scope, RequestReceive(self._request), send)
        if self.background is not None:  # from a dependency of the app
            await self.background()


class _Leftover(APIRoute):
    """Removes the query of requests at the webhook's path, or below, that no other route matches.

    FastAPI responds 404 or 405 to them. The server would log the query, which may contain a secret.
    This route matches only partially. FastAPI prefers full matches, so other routes of the app
    below the path still work.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if not scope["query_string"]:
            return Match.NONE, {}
        # Routes of FastAPI match no websocket.
        as_http = {"method": "GET", **scope, "type": "http"}
        match, child_scope = super().matches(as_http)
        return (match if match is Match.NONE else Match.PARTIAL), child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["query_string"] = b""
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            await super().handle(scope, receive, send)


def make_router(
    hooks: Webhooks,
    path: str = "/webhooks/hub",
    **options: Any,  # noqa: ANN401 - FastAPI types them
) -> APIRouter:
    """Make a router that receives webhooks at a path, with and without a slash at its end.

    Below the path, but not below `/`, it also serves the JSON API to callers with the admin token.

    Args:
        hooks: the `Webhooks` that receives. It starts and stops with the app.
        path: the path; empty to use only the `prefix` of `include_router`.
        options: options of FastAPI's `APIRouter`.

    Raises:
        ConfigError: the path does not begin with a slash.
    """
    if path and not path.startswith("/"):
        msg = f"the path `{path}` of a webhook must begin with `/`: `/{path}`"
        raise ConfigError(msg)

    # No body parameter: FastAPI would read the body before the secret is checked. Async, because
    # FastAPI runs sync endpoints in threads.
    async def receive_hub_webhook(request: Request) -> _Received:
        return _Received(request, hooks)

    _endpoints[receive_hub_webhook] = hooks

    async def serve_admin(scope: Scope, receive: Receive, send: Send) -> None:
        if not await hooks.handle_admin_request(scope, receive, send):
            scope["query_string"] = b""
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)

    async def view_deliveries(request: Request) -> _Received:
        return _Received(request, serve_admin)

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncGenerator[None]:
        async with hooks.lifespan(app):
            _warn_of_mount(app, receive_hub_webhook, path)
            for fault in _new_faults(app):
                warnings.warn(fault, stacklevel=1)
            yield

    router = APIRouter(lifespan=lifespan, **options)
    exact = path.rstrip("/")
    # FastAPI redirects an unknown path to the one with or without a slash. `Location` would show a
    # secret in the query. So both exist, for each method.
    for at in dict.fromkeys((path if path == "/" else exact, f"{exact}/")):
        # Added first, because FastAPI takes the first of several partial matches.
        router.add_api_route(
            at,
            receive_hub_webhook,
            methods=["POST"],
            include_in_schema=False,
            route_class_override=_Leftover,
        )
        router.add_api_route(
            at,
            receive_hub_webhook,
            methods=["POST"],
            **receive_options(),
            include_in_schema=at == (exact or path),
        )
        router.add_api_route(
            at, receive_hub_webhook, methods=_OTHER_METHODS, include_in_schema=False
        )
    # Not at "/": they would hide paths of the app, such as `/deliveries`.
    if path != "/" or options.get("prefix"):
        _add_below(router, exact, view_deliveries)
    return router


def _add_below(
    router: APIRouter, path: str, view_deliveries: Callable[[Request], Awaitable[_Received]]
) -> None:
    # Added first, because FastAPI takes the first of several partial matches.
    router.add_api_route(
        f"{path}/{{rest:path}}",
        _not_found,
        methods=["POST", *_OTHER_METHODS],
        include_in_schema=False,
        route_class_override=_Leftover,
    )
    for below in ("deliveries", "deliveries/{rest:path}"):
        router.add_api_route(
            f"{path}/{below}", view_deliveries, methods=["GET", "POST"], include_in_schema=False
        )


async def _not_found() -> None:
    raise HTTPException(404)


def _warn_of_mount(app: object, endpoint: object, path: str) -> None:
    """Warn if an app mounted at `/` gets the requests of a later route."""
    is_hidden = False
    for route in getattr(app, "routes", ()):
        if isinstance(route, Mount) and not route.path:
            is_hidden = True
        elif _has(route, endpoint):
            if is_hidden:
                warnings.warn(
                    f"no delivery reaches the router at `{path}`, because an app mounted at "
                    "`/` before it handles every path: call "
                    "`app.include_router(hooks.router(...))` before "
                    '`gr.mount_gradio_app(app, demo, path="/")` or `app.mount("/", ...)`',
                    stacklevel=1,
                )
            return


def _has(route: object, endpoint: object) -> bool:
    """Return whether a route, or a router that FastAPI included as it is, has the endpoint."""
    if getattr(route, "endpoint", None) is endpoint:
        return True
    included = getattr(getattr(route, "original_router", None), "routes", ())
    return any(_has(inner, endpoint) for inner in included)


# Endpoints of the routers of `Webhooks`.
_endpoints: WeakKeyDictionary[Any, Webhooks] = WeakKeyDictionary()
# Apps whose routes were checked: each mistake is reported once.
_checked_apps: WeakSet[Any] = WeakSet()


def _new_faults(app: object) -> list[str]:
    """Report mistakes in the routes of an app, once."""
    if app is None or app in _checked_apps:
        return []
    _checked_apps.add(app)
    routes = getattr(app, "routes", ())
    return [*_shared_paths(routes), *_query_parameters(routes)]


def _shared_paths(routes: Iterable[object]) -> list[str]:
    """Report the paths at which the app receives webhooks more than once."""
    counts = Counter(path for path, _ in webhook_paths(routes))
    # With and without a slash at the end, it is one path.
    shared = {path.rstrip("/") or "/" for path, count in counts.items() if count > 1}
    return [
        f"the app receives webhooks at `{path}` twice, and only the first gets the deliveries: "
        'remove one, or give it another path, such as `hooks.router("/webhooks/other")`'
        for path in sorted(shared)
    ]


def webhook_paths(routes: Iterable[object], prefix: str = "") -> Iterator[tuple[str, Webhooks]]:
    """List the paths of the routers of `Webhooks`, and of mounted `Webhooks`, also in mounts."""
    from hubhooks._load_app import without_middleware  # noqa: PLC0415 - only for `hubhooks dev`

    for route in routes:
        if (included := getattr(route, "original_router", None)) is not None:
            context = getattr(route, "include_context", None)
            yield from webhook_paths(included.routes, prefix + getattr(context, "prefix", ""))
        elif isinstance(route, Mount) and isinstance(
            mounted := without_middleware(route.app), Webhooks
        ):
            yield f"{prefix}{route.path}/", mounted
        elif isinstance(route, Mount):
            yield from webhook_paths(route.routes, f"{prefix}{route.path}")
        elif (
            isinstance(route, APIRoute)
            and not isinstance(route, _Leftover)
            and route.endpoint in _endpoints
            and "POST" in (route.methods or ())
        ):
            yield f"{prefix}{route.path}", _endpoints[route.endpoint]


def _query_parameters(routes: Iterable[object]) -> list[str]:
    """Report parameters that are meant as the body, but FastAPI reads them from the query."""
    return [
        f"FastAPI reads the parameter `{parameter}` of the endpoint `{endpoint}` from the query, "
        "because its class is not a pydantic model. For a delivery of the Hub, annotate it with "
        "`hubhooks.fastapi.VerifiedEvent`; for another body, with "
        "`Annotated[HubEvent, Body()]`"
        for endpoint, parameter in _query_events(routes)
    ]


def _query_events(routes: Iterable[object]) -> Iterator[tuple[str, str]]:
    """List the endpoint and the name of each query parameter that takes an event."""
    for route in routes:
        # A router that FastAPI included as it is, or an app that is mounted.
        inner = getattr(route, "original_router", None) or route
        yield from _query_events(getattr(inner, "routes", None) or ())
        dependants = [getattr(route, "dependant", None)]
        for dependant in dependants:
            dependants += getattr(dependant, "dependencies", ())
            for field in getattr(dependant, "query_params", ()):
                if _is_event(getattr(field.field_info, "annotation", None)):
                    call = getattr(dependant, "call", None)
                    yield getattr(call, "__qualname__", repr(call)), field.name


def _is_event(annotation: object) -> bool:
    """Return whether an annotation is an event class, or a union with one."""
    if isinstance(annotation, type) and issubclass(annotation, HubEvent):
        return True
    return any(_is_event(argument) for argument in get_args(annotation))


class _VerifiedEvent:
    """The dependency behind `VerifiedEvent`; called with a class or a secret, it makes another."""

    def __init__(self) -> None:
        dependency = _make_dependency(None, None, allow_unsigned=False, max_body_size=MAX_BODY_SIZE)
        self._dependency = dependency
        # FastAPI reads the parameters here, and sees by the instance's `__call__` that the result
        # is awaited. A call uses the method of the class.
        self.__signature__ = inspect.signature(dependency, eval_str=True)
        self.__dict__["__call__"] = dependency

    @overload
    def __call__(self, event_class: Request) -> Awaitable[HubEvent]: ...

    @overload
    def __call__(
        self,
        event_class: type[E],
        *,
        secret: str | Sequence[str] | Verifier | Webhooks | None = None,
        allow_unsigned: bool = False,
        max_body_size: int = MAX_BODY_SIZE,
    ) -> Callable[..., Awaitable[E]]: ...

    @overload
    def __call__(
        self,
        *,
        secret: str | Sequence[str] | Verifier | Webhooks | None = None,
        allow_unsigned: bool = False,
        max_body_size: int = MAX_BODY_SIZE,
    ) -> Callable[..., Awaitable[HubEvent]]: ...

    def __call__(
        self,
        event_class: type[HubEvent] | Request | None = None,
        *,
        secret: str | Sequence[str] | Verifier | Webhooks | None = None,
        allow_unsigned: bool = False,
        max_body_size: int = MAX_BODY_SIZE,
        **by_fastapi: Any,
    ) -> Any:
        """Make a dependency that returns the event of a delivery whose secret was verified.

        It rejects requests with 401, 403, 413 and 400, like a `Webhooks`. For a malformed body it
        responds 202, and for an event of another class 200. The Hub suspends webhooks that fail
        (https://huggingface.co/docs/hub/webhooks), and a retry would not help.

        The secret is checked before the body is read. So the endpoint must have no body parameter:
        FastAPI would read the body first.

        Args:
            event_class: the class of the event. The response to other classes is 200 `ignored`.
            secret: the webhook's secret, several secrets, a `Verifier` or a `Webhooks`; by default
                the environment variable WEBHOOK_SECRET, read at each request.
            allow_unsigned: accept every request if no secret is configured. Without it, the
                response is 503.
            max_body_size: the limit of a body, in bytes.
            by_fastapi: the parameters of the default dependency. FastAPI passes them by name.

        Returns:
            A dependency for `Annotated[..., Depends(...)]` and `app.dependency_overrides`.

        Raises:
            ConfigError: a secret is empty or not ASCII, `event_class` is not an event class, or
                `max_body_size` is not a size.
        """
        if isinstance(event_class, Request):
            return self._dependency(event_class, **by_fastapi)
        if by_fastapi:
            return self._dependency(**by_fastapi)
        return _make_dependency(
            event_class, secret, allow_unsigned=allow_unsigned, max_body_size=max_body_size
        )

    def __repr__(self) -> str:
        return "hubhooks.fastapi.verified_event"


def _make_dependency(
    event_class: type[HubEvent] | None,
    secret: str | Sequence[str] | Verifier | Webhooks | None,
    *,
    allow_unsigned: bool,
    max_body_size: int,
) -> Callable[..., Awaitable[HubEvent]]:
    wanted = HubEvent if event_class is None else _check_event_class(event_class)
    check_size(max_body_size)
    from hubhooks._store.sqlite import IN_MEMORY, SqliteStore  # noqa: PLC0415 - loads `sqlite3`

    # It only checks requests: it stores nothing and runs nothing.
    receiver = Receiver(
        Router(),
        SqliteStore(IN_MEMORY),
        _verifier_getter(secret),
        allow_unsigned=allow_unsigned,
        max_body_size=max_body_size,
    )

    async def event_of(
        request: Request,
        _: Annotated[str | None, Depends(SECRET_SCHEME)] = None,
    ) -> HubEvent:
        scope = request.scope
        for fault in _new_faults(scope.get("app")):
            logger.warning("%s", fault)
        rejection = receiver.precheck(scope["method"], scope["headers"], _take_query(scope))
        if rejection is not None:
            raise _reject_request(receiver, rejection, request)
        body = await _read(receiver, request)
        try:
            event = HubEvent.from_json(body)
        except PayloadError as error:
            if is_part(scope["headers"], body, is_direct=is_server_receive(request.receive)):
                rejection = receiver.reject(ALREADY_READ, KEEP_A_COPY)
                raise _reject_request(receiver, rejection, request) from None
            logger.error("a delivery is malformed: %s", error)  # noqa: TRY400 - the body is at fault, so no traceback
            raise _make_exception(202, "malformed", str(error)) from None
        if not isinstance(event, wanted):
            reason = f"this endpoint takes a {wanted.__name__}, not a {type(event).__name__}"
            raise _make_exception(200, "ignored", reason)
        return event

    return event_of


def _check_event_class(event_class: object) -> type[HubEvent]:
    if isinstance(event_class, type) and issubclass(event_class, HubEvent):
        return event_class
    if isinstance(event_class, type):
        what = f"`{event_class.__name__}` is not an event class"
    else:
        # Without the value, which may be a secret.
        what = f"a `{type(event_class).__name__}` is not an event class"
    hint = ""
    if isinstance(event_class, (str, Verifier, Webhooks)):
        hint = "; pass a secret by name, `verified_event(secret=...)`"
    msg = f"{what}; write `verified_event(CommentEvent)` or another event class{hint}"
    raise ConfigError(msg)


def _verifier_getter(
    secret: str | Sequence[str] | Verifier | Webhooks | None,
) -> Callable[[], Verifier | None]:
    if secret is None:
        return verifier_of_environment
    if isinstance(secret, Webhooks):
        return lambda: secret.verifier
    if isinstance(secret, Verifier):
        return lambda: secret
    verifier = make_verifier(*((secret,) if isinstance(secret, str | bytes) else secret))
    return lambda: verifier


class _Query:
    """The original query, for other dependencies of a request. Its `repr` does not show it."""

    def __init__(self, value: bytes) -> None:
        self.value = value


def _take_query(scope: Scope) -> bytes:
    query: bytes = scope["query_string"]
    if query:
        # FastAPI has parsed the query before. Without it here, the access log does not show it.
        scope["query_string"] = b""
        scope[_QUERY] = _Query(query)
    elif _QUERY in scope:
        query = scope[_QUERY].value
    return query


async def _read(receiver: Receiver, request: Request) -> bytes:
    try:
        headers = request.scope["headers"]
        body = await read_body(RequestReceive(request), receiver.max_body_size, headers)
    except BodyError as error:
        rejection = receiver.reject(error.case, error.detail)
        raise _reject_request(receiver, rejection, request) from None
    if not body:
        raise _reject_request(receiver, receiver.reject("empty"), request)
    return body


def _reject_request(receiver: Receiver, rejection: HubResponse, request: Request) -> HTTPException:
    """Return the exception that FastAPI turns into a rejection."""
    headers = {
        name.decode(): value.decode() for name, value in rejection.headers if name == b"allow"
    }
    if receiver.should_close(request.scope.get("http_version", "1.1"), request.scope["headers"]):
        headers["connection"] = "close"
    return HTTPException(rejection.status, json.loads(rejection.body), headers)


def _make_exception(status: int, word: str, reason: str) -> HTTPException:
    return HTTPException(status, {"status": word, "reason": reason})


verified_event = _VerifiedEvent()
"""The dependency of `VerifiedEvent`, also as a key of `app.dependency_overrides`.

Call it to make a dependency for another event class or secret:
`Depends(verified_event(CommentEvent, secret="..."))`.
"""

VerifiedEvent: TypeAlias = Annotated[HubEvent, Depends(verified_event)]
"""An event whose secret was verified with WEBHOOK_SECRET."""
