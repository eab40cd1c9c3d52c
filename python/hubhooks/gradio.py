"""Receive webhooks in a Gradio app, for example in a Space.

`Webhooks.launch` and `Webhooks.app_kwargs` use this module.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
import warnings
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from gradio.blocks import Blocks
from gradio.cli.commands.reload import reload_thread
from gradio.routes import App
from starlette.routing import Route, WebSocketRoute

from hubhooks import _environment
from hubhooks._fork import delay_in_children, register, release_in_children
from hubhooks._gradio_private import block_store, gradio_apps
from hubhooks._logging import show_log_by_default
from hubhooks._store.space import describe_survival
from hubhooks._terminal import print_escaped
from hubhooks.errors import ConfigError
from hubhooks.webhooks import parts_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
    from types import FrameType
    from typing import TypeAlias

    from starlette.routing import BaseRoute

    from hubhooks._http.app import WebhookApp
    from hubhooks._http.types import Receive, Scope, Send
    from hubhooks._store.base import DeliveryStore
    from hubhooks.webhooks import Webhooks

    Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]

__all__ = ["launch", "make_app_kwargs", "webhook_url"]

# With server-side rendering, Gradio's Node server forwards POST requests to Python only below
# `/gradio_api` and a few other paths, so this path works everywhere.
_PATH = "/gradio_api/webhooks"
_ALIAS = "/webhooks"
PATHS = (_PATH, _ALIAS)
"""The paths of the webhook in a launched app."""
_SETTINGS = "https://huggingface.co/settings/webhooks"

NOT_LAUNCHED = (
    "no delivery reaches this app, because its webhooks were not started: call "
    "`hooks.launch(demo)` instead of `demo.launch()`, or pass "
    "`demo.launch(app_kwargs=hooks.app_kwargs())`"
)

_SIGTERM_SECONDS = 10.0
_CTRL_C_SECONDS = 5.0


def launch(
    hooks: Webhooks,
    demo: Blocks,
    **options: Any,  # noqa: ANN401 - Gradio types them
) -> tuple[App, str, str]:
    """Launch a Gradio app that receives webhooks, and print the webhook URL.

    Args:
        hooks: the `Webhooks` that receives them.
        demo: the Gradio app.
        options: options of `demo.launch`; your own `app_kwargs` are kept.

    Returns:
        The result of `demo.launch`.

    Raises:
        ConfigError: no secret is configured, and unsigned requests are not allowed.
    """
    if not isinstance(demo, Blocks):
        msg = (
            f"`launch` takes a Gradio app such as `gr.Blocks()`, not {type(demo).__name__}; a "
            "FastAPI app, `gr.Server` too, takes `app.include_router(hooks.router(...))`"
        )
        raise ConfigError(msg)
    served = _ReloadableApp.of(hooks)
    options["app_kwargs"] = _combine(served, options.get("app_kwargs") or {})
    if _is_reloading():
        return demo.launch(**options)
    # The printed lines say it already.
    parts_of(hooks)[1].logs_survival = bool(options.get("quiet"))
    is_announced = False

    def announce() -> None:
        nonlocal is_announced
        if is_announced:
            return
        is_announced = True
        release_in_children((demo.server_name, demo.server_port))
        # After the launch: with server-side rendering, `demo.launch` sets signal handlers too.
        _drain_on(signal.SIGTERM, served, _SIGTERM_SECONDS)
        if not options.get("quiet"):
            print_escaped("\n".join(_announcement(hooks, demo)))

    def block_thread() -> None:
        announce()
        with _draining_on_ctrl_c(served):
            type(demo).block_thread(demo)

    # `demo.launch` calls this method only if it blocks. The server is running by then.
    vars(demo)["block_thread"] = block_thread
    launched = demo.launch(**options)
    announce()
    return launched


def make_app_kwargs(
    hooks: Webhooks,
    **own: Any,  # noqa: ANN401 - Gradio types them
) -> dict[str, Any]:
    """Return the `app_kwargs` that make a Gradio app receive webhooks.

    Use them as `demo.launch(app_kwargs=...)`.

    Args:
        hooks: the `Webhooks` that receives them.
        own: your own `app_kwargs`; they are kept.

    Raises:
        ConfigError: no secret is configured, and unsigned requests are not allowed.
    """
    return _combine(_ReloadableApp.of(hooks), own)


def webhook_url(demo: Blocks) -> str:
    """Return the webhook URL of a launched app: the public one, if it is known."""
    root_path = demo.root_path.rstrip("/")
    if root_path.startswith(("http://", "https://")):
        return root_path + _PATH
    # A Space with a domain of its own has a list here.
    host = (_environment.read(_environment.SPACE_HOST) or "").split(",")[0]
    origin = f"https://{host}" if host else demo.share_url or demo.local_url or ""
    return f"{origin.rstrip('/')}{root_path and '/' + root_path.lstrip('/')}{_PATH}"


def warn_of_own_launch(demo: Blocks) -> None:
    """Make `demo.launch` warn if it is called without the routes that receive webhooks.

    Nothing else shows the mistake: the page works, but no delivery arrives.
    """

    @functools.wraps(demo.launch)
    def launch(
        *args: Any,  # noqa: ANN401 - Gradio types them
        **options: Any,  # noqa: ANN401 - Gradio types them
    ) -> Any:  # noqa: ANN401 - as Gradio returns it
        routes = (options.get("app_kwargs") or {}).get("routes") or ()
        if not any(
            isinstance(getattr(route, "endpoint", None), _ReloadableApp) for route in routes
        ):
            warnings.warn(NOT_LAUNCHED, stacklevel=2)
        # The method at the time of the call: packages replace it when they are imported.
        return type(demo).launch(demo, *args, **options)

    vars(demo)["launch"] = launch


def is_about_to_start(store: DeliveryStore) -> bool:
    """Return whether a running app is about to start the hooks of this store, after a reload."""
    served = _ReloadableApp.latest
    return served is not None and served.is_running and served.hooks.store is store


def prepare_mounted(app: object, store: DeliveryStore) -> None:
    """Keep mounted Gradio apps from serving the files of the store.

    It also warns about mounted apps that started a Node server: nothing uses that server.

    Args:
        app: the FastAPI or Starlette app, once everything is mounted.
        store: the store of the hooks.
    """
    for found, path in gradio_apps(app):
        block_store(found, store)
        if found is not app:
            _warn_of_node(found, path)


def _warn_of_node(app: App, path: str) -> None:
    blocks = app.blocks
    if blocks is not None and blocks.ssr_mode and blocks.node_port is not None:
        # Both warnings come from one line, so Python shows the same text once.
        warnings.warn(
            f"the Gradio app mounted at `{path or '/'}` started a Node server on port "
            f"{blocks.node_port}, which may be the port of this app: mount it with "
            "`gr.mount_gradio_app(..., ssr_mode=False)`",
            stacklevel=1,
        )


class _ReloadableApp:
    """The hooks that an app serves now. A reloaded script replaces them."""

    latest: ClassVar[_ReloadableApp | None] = None

    def __init__(self, hooks: Webhooks) -> None:
        self.hooks = hooks
        self._app: App | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def of(cls, hooks: Webhooks) -> _ReloadableApp:
        """Return the object that serves some hooks, or make it.

        Raises:
            ConfigError: no secret is configured, and unsigned requests are not allowed.
        """
        # On the server's loop, a blocking handler would block the page too.
        parts_of(hooks)[1].prefer_loop("dedicated")
        _webhook_app(hooks).check()
        if not _is_reloading() or cls.latest is None:
            cls.latest = cls(hooks)
        elif cls.latest.hooks is not hooks:
            cls.latest._replace(hooks)
        return cls.latest

    @property
    def is_running(self) -> bool:
        """Whether the app runs."""
        return self._loop is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.hooks(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[None]:
        if isinstance(app, App):
            self._app = app
            block_store(app, self.hooks.store)
            path = getattr(app.blocks, "custom_mount_path", None)
            if path is not None:  # a launched app needs Node
                _warn_of_node(app, path.rstrip("/"))
        # Gradio may start again on another loop, and may never end the first lifespan.
        self._loop = asyncio.get_running_loop()
        # Gradio configures its server to log warnings only.
        show_log_by_default(is_server_quiet=True)
        _webhook_app(self.hooks).start()
        try:
            yield
        finally:
            self._loop = None
            await _webhook_app(self.hooks).stop()

    def _replace(self, hooks: Webhooks) -> None:
        old, self.hooks = self.hooks, hooks
        if self._app is not None:
            block_store(self._app, hooks.store)
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(_swap(old, hooks), self._loop)


def _webhook_app(hooks: Webhooks) -> WebhookApp:
    """Return the ASGI app of some hooks."""
    return parts_of(hooks)[0]


async def _swap(old: Webhooks, new: Webhooks) -> None:
    _webhook_app(old).release_store()
    _webhook_app(new).start()
    await _webhook_app(old).stop()


def _is_reloading() -> bool:
    """Return whether this thread executes an edited script for a running app."""
    return bool(getattr(reload_thread, "running_reload", False))


def _combine(served: _ReloadableApp, own: Mapping[str, Any]) -> dict[str, Any]:
    """Add routes and a lifespan to the user's own `app_kwargs`."""
    # The alias comes last: a route of the user at the same path has priority.
    routes = [*_routes(_PATH, served), *(own.get("routes") or ()), *_routes(_ALIAS, served)]
    return {**own, "routes": routes, "lifespan": _nest(own.get("lifespan"), served)}


def _routes(path: str, served: _ReloadableApp) -> Iterable[BaseRoute]:
    # Not a `Mount`: it redirects its path without a slash, and the redirect shows `?secret=`.
    paths = (path, path + "/{rest:path}")
    return [kind(at, served) for at in paths for kind in (Route, WebSocketRoute)]


def _nest(own: Lifespan | None, served: _ReloadableApp) -> Lifespan:
    if own is None:
        return served.lifespan

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncGenerator[Any]:
        # The user's lifespan starts before the first handler, and ends after the last one.
        async with own(app) as state, served.lifespan(app):
            yield state

    return lifespan


def _announcement(hooks: Webhooks, demo: Blocks) -> list[str]:
    url = webhook_url(demo)
    lines = [f"* Webhook URL:  {url}"]
    if url.startswith(demo.local_url or _PATH):
        lines.append("  The Hub needs a public URL: use a Space, `share=True`, or a proxy.")
    if hooks.verifier is None:
        lines.append(f"  Enter it at {_SETTINGS} (without a secret: every request is accepted).")
    else:
        lines.append(f"  Enter it at {_SETTINGS}, with the secret of this app.")
    return [*lines, f"  {describe_survival(hooks.store)}"]


class _DrainOnSignal:
    """A signal handler that waits for running handlers, and then calls the previous one."""

    def __init__(
        self, served: _ReloadableApp, seconds: float, before: Callable[..., Any] | int
    ) -> None:
        self._served = served
        self._seconds = seconds
        self._before = before
        self._is_draining = False
        self._process = os.getpid()
        register(self)

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # In a forked child, if another signal handler wraps this one.
            self._do_as_before(signum, frame)
            return
        # A second signal ends the wait here, and the wait of the server.
        is_first = not self._is_draining
        seconds = self._seconds if is_first else 0
        self._is_draining = True
        # On a daemon thread, because this thread may have a running loop.
        drain = threading.Thread(
            target=self._drain, args=(seconds,), name="hubhooks-drain", daemon=True
        )
        drain.start()
        drain.join(seconds + 1)
        if is_first:
            self._is_draining = False
        self._do_as_before(signum, frame)

    def switch_off(self) -> None:
        """In a forked child, restore the previous signal handler."""
        before = self._before
        for number in signal.valid_signals():
            if signal.getsignal(number) is self:
                signal.signal(number, before)

    def _do_as_before(self, signum: int, frame: FrameType | None) -> None:
        if callable(self._before):
            self._before(signum, frame)
        else:
            signal.signal(signum, self._before)
            signal.raise_signal(signum)

    def _drain(self, seconds: float) -> None:
        asyncio.run(_webhook_app(self._served.hooks).drain(seconds))


def _drain_on(number: signal.Signals, served: _ReloadableApp, seconds: float) -> None:
    """Wait for running handlers on a signal that ends the process, if it can be handled here."""
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(number)
    if before is not None and before != signal.SIG_IGN:
        signal.signal(number, _DrainOnSignal(served, seconds, before))
        delay_in_children(number)


@contextmanager
def _draining_on_ctrl_c(served: _ReloadableApp) -> Generator[None]:
    """Wait for running handlers on Ctrl-C; not in a notebook, which does not block."""
    before = signal.getsignal(signal.SIGINT)
    _drain_on(signal.SIGINT, served, _CTRL_C_SECONDS)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) != before:
            signal.signal(signal.SIGINT, before)
