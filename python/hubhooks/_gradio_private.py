"""Keeps private data from Gradio's own endpoints."""

from __future__ import annotations

import secrets
from copy import copy
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from weakref import WeakSet

from gradio.routes import App
from gradio.state_holder import SessionState
from starlette.routing import BaseRoute, Mount, Route

from hubhooks._store.private_files import SUFFIXES, protect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import gradio as gr
    from gradio.blocks import Block, Blocks
    from starlette.datastructures import URLPath
    from starlette.routing import Match
    from starlette.types import Receive, Scope, Send

    from hubhooks._store.base import DeliveryStore

__all__ = ["block_store", "gradio_apps", "guard_deep_links", "keep_private"]

_DEEP_LINK = "/gradio_api/deep_link"

_private: WeakSet[Block] = WeakSet()
_guarded: WeakSet[App] = WeakSet()


def gradio_apps(app: object) -> Iterator[tuple[App, str]]:
    """List the Gradio apps in an app, each with its path."""
    pending: list[tuple[object, str]] = [(app, "")]
    seen: set[int] = set()
    while pending:
        current, path = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, App) and current.blocks is not None:
            yield current, path
        pending += [
            (route.app, path + route.path)
            for route in getattr(current, "routes", ())
            if isinstance(route, Mount)
        ]


# ---- files of the store ------------------------------------------------------------------------


def block_store(app: App, store: DeliveryStore) -> None:
    """Keep Gradio from serving the files of a store, even if `allowed_paths` includes the folder.

    `protect` works in this process. `blocked_paths` does the same in Gradio's static workers, which
    are other processes.
    """
    blocks = app.blocks
    if blocks is None or not store.path:
        return
    protect(store.path)
    paths = blocks.blocked_paths
    stores = paths.stores if isinstance(paths, _BlockedPaths) else ()
    if store.path not in stores:
        blocks.blocked_paths = _BlockedPaths(paths, (*stores, store.path))


class _BlockedPaths(list[str]):
    """Gradio's `blocked_paths`, with the files of stores.

    If it is unpickled in another process, it protects the stores there.
    """

    def __init__(self, paths: Iterable[str], stores: tuple[str, ...]) -> None:
        files = (store + suffix for store in stores for suffix in SUFFIXES)
        super().__init__(dict.fromkeys((*paths, *files)))
        self.stores = stores
        for store in stores:
            protect(store)

    def __reduce__(self) -> tuple[type[_BlockedPaths], tuple[list[str], tuple[str, ...]]]:
        return _BlockedPaths, ([*self], self.stores)


# ---- deep links --------------------------------------------------------------------------------


def keep_private(components: Iterable[Block]) -> None:
    """Keep the values of these components out of deep links, with `guard_deep_links`."""
    _private.update(components)


def guard_deep_links(request: gr.Request) -> None:
    """Add a route before Gradio's own route for deep links, to the app that serves a request.

    A deep link is a file with all values on the page of a session. Gradio makes one for any caller
    with the id of the session.
    """
    app = request.request.scope.get("app") if request.request is not None else None
    if not isinstance(app, App) or app in _guarded:
        return
    _guarded.add(app)
    for route in app.router.routes:
        if isinstance(route, Route) and route.path == _DEEP_LINK:
            app.router.routes.insert(0, _DeepLinkRoute(app, route))
            break


class _DeepLinkRoute(BaseRoute):
    """Calls Gradio's own route with a copy of the session without private values."""

    def __init__(self, app: App, own: Route) -> None:
        self._app = app
        self._own = own

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return self._own.matches(scope)

    def url_path_for(
        self,
        name: str,
        /,
        **path_params: Any,  # noqa: ANN401 - Starlette's signature
    ) -> URLPath:
        return self._own.url_path_for(name, **path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        holder = self._app.state_holder
        names = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])
        session = holder.session_data.get(names[-1])
        key = secrets.token_urlsafe()
        if session is not None:
            holder.session_data[key] = _without_private_values(self._app.get_blocks(), session)
        try:
            scope["query_string"] = f"session_hash={key}".encode()
            await self._own.handle(scope, receive, send)
        finally:
            holder.session_data.pop(key, None)
            holder.time_last_used.pop(key, None)


def _without_private_values(blocks: Blocks, session: SessionState) -> SessionState:
    """Copy a session, with the initial values of private components."""
    copied = copy(session)
    initial = SessionState(blocks).config_values
    copied.config_values = {
        key: initial[key] if blocks.blocks[key] in _private else values
        for key, values in [*session.config_values.items()]
        # Gradio also stores values under ids of updated components. No page shows them.
        if key in initial
    }
    return copied
