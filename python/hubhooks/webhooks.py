"""`Webhooks`, the class that connects the router, the store, the worker and the ASGI app."""

from __future__ import annotations

import functools
import sys
import weakref
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, cast

from hubhooks import _environment
from hubhooks._app_code import AppIdentity, find_app_code
from hubhooks._encoders import register_encoders
from hubhooks._http.app import WebhookApp, check_event_loop
from hubhooks._http.receiver import MAX_BODY_SIZE, Receiver, check_size
from hubhooks._logging import get_logger, shorten_traceback
from hubhooks._suggestions import suggestion
from hubhooks._verifiers import make_verifier
from hubhooks._worker.service import WorkerService, check_handler_loop
from hubhooks.errors import ConfigError, StoreError
from hubhooks.handlers import Policy
from hubhooks.models import Deliveries
from hubhooks.routing import ATTRIBUTES_OF_FASTAPI_ROUTERS, NotAnApiRouterError, Router

if TYPE_CHECKING:
    import os
    from collections.abc import (
        AsyncGenerator,
        Callable,
        Coroutine,
        Generator,
        Iterable,
        Mapping,
        Sequence,
    )
    from typing import Any, NoReturn, ParamSpec, TypeVar

    from fastapi import APIRouter
    from gradio.blocks import Blocks
    from gradio.routes import App
    from typing_extensions import Never

    from hubhooks._core import Verifier
    from hubhooks._http.app import Acknowledge
    from hubhooks._http.types import Receive, Scope, Send
    from hubhooks._store.base import DeliveryStore, OnReplay
    from hubhooks._store.connection import Synchronous
    from hubhooks._worker.leadership import Lock
    from hubhooks._worker.service import HandlerLoop
    from hubhooks.admin.app import AdminApp
    from hubhooks.admin.queries import Activity
    from hubhooks.routing import Strings

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["Webhooks"]

_logger = get_logger()

_LOG = "hubhooks.db"
_IN_MEMORY = ":memory:"
_NOT_ASGI = (
    "`Webhooks` is an ASGI app, and this server is not an ASGI server: serve it with `uvicorn "
    "app:hooks`, or with `gunicorn -k uvicorn_worker.UvicornWorker app:hooks` after `pip install "
    "uvicorn-worker`"
)


_SETTINGS = (
    "secret", "allow_unsigned", "max_body_size", "on_replay", "ignore_authors", "handler_loop",
    "deliveries",
    "synchronous", "allow_network", "app_name", "adopt_store", "acknowledge",
)  # fmt: skip
_URL_HINT = (
    "the path of the URL is an argument of the FastAPI router: "
    '`app.include_router(hooks.router("/webhooks/hub"))`'
)
_ADMIN_HINT = (
    "the webhook secret is `secret=`, and the admin token is the environment variable "
    "HUBHOOKS_ADMIN_TOKEN"
)
_HANDLER_HINT = 'it belongs to a handler: `@hooks.on("repo.content", {}=...)`'
# Common wrong names, with the right name. A value with a space is the hint itself.
_SETTINGS_BY_OTHER_NAMES = {
    "admin_token": _ADMIN_HINT,
    "app": "give the app the router instead: `app.include_router(hooks.router())`",
    "bot": "ignore_authors",
    "database": "deliveries",
    "db": "deliveries",
    "db_path": "deliveries",
    "durability": "synchronous",
    "demo": "give the Gradio app to `hooks.launch(demo)`",
    "endpoint": _URL_HINT,
    "file": "deliveries",
    "ignore": "ignore_authors",
    "log": "deliveries",
    "loop": "handler_loop",
    "name": "app_name",
    "path": f"the file of the delivery store is `deliveries=`, and {_URL_HINT}",
    "prefix": _URL_HINT,
    "replays": "on_replay",
    "sqlite": "deliveries",
    "storage": "deliveries",
    "store": "deliveries",
    "token": _ADMIN_HINT,
    "ui": "give the Gradio app to `hooks.launch(demo)`",
    "url": _URL_HINT,
    "webhook_secret": "secret",
    "webhook_token": _ADMIN_HINT,
    **{
        name: _HANDLER_HINT.format(name)
        for name in ("mention", "repo", "repo_type", *Policy.__slots__)
    },
}


def _with_short_errors(method: Callable[P, T]) -> Callable[P, T]:
    """Raise errors of the user with a short traceback, without the frames of this package."""

    @functools.wraps(method)
    def call(*args: P.args, **options: P.kwargs) -> T:
        try:
            return method(*args, **options)
        except (ConfigError, StoreError) as error:
            raise shorten_traceback(error) from None

    return call


class _BoundRouter(functools.partial["APIRouter"]):
    """The bound method `hooks.router`. It raises a hint if FastAPI gets it without a call."""

    def __getattr__(self, name: str) -> object:
        if name in ATTRIBUTES_OF_FASTAPI_ROUTERS:
            msg = (
                "FastAPI's `include_router` takes no method: write "
                "`app.include_router(hooks.router())`, with parentheses"
            )
            raise NotAnApiRouterError(msg)
        return object.__getattribute__(self, name)


class _RouterMethod:
    """A descriptor: `hooks.router` gives a `_BoundRouter` in place of a bound method.

    Args:
        function: the method.
    """

    def __init__(self, function: Callable[..., APIRouter]) -> None:
        self._function = function

    def __get__(self, hooks: Webhooks | None, owner: type[Webhooks]) -> object:
        if hooks is None:
            return self._function
        bound = _BoundRouter(self._function, hooks)
        bound.__doc__ = self._function.__doc__
        return bound


def _with_fastapi_hint(method: Callable[P, T]) -> Callable[P, T]:
    """Wrap a method: it raises a hint if FastAPI gets the method instead of its result."""
    return cast("Callable[P, T]", _RouterMethod(cast("Callable[..., APIRouter]", method)))


class _FromEnvironment(tuple[str, ...]):
    """The default of `secret`. It is not None: `os.environ.get` returns None without a value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _environment.SECRET


_FROM_ENVIRONMENT = _FromEnvironment()


class Settings:
    """The settings that `TestClient` takes over from a `Webhooks`."""

    __slots__ = ("allow_unsigned", "max_body_size", "on_replay")

    def __init__(self, *, allow_unsigned: bool, max_body_size: int, on_replay: OnReplay) -> None:
        self.allow_unsigned = allow_unsigned
        self.max_body_size = max_body_size
        self.on_replay: OnReplay = on_replay


class Webhooks(Router):
    """Receives Hub webhooks and runs the matching handlers.

    It is an ASGI application: `uvicorn app:hooks` serves it, and it answers every path.

    Args:
        secret: the secret of the webhook, or several secrets during a rotation; by default the
            environment variable WEBHOOK_SECRET, read at the first use.
        allow_unsigned: accept every request if no secret is configured.
        max_body_size: the longest accepted body, in bytes.
        on_replay: what a Replay of a successful delivery does: `"run"` its handlers again, or
            `"skip"` them.
        ignore_authors: ids of users, such as the bot's own id `huggingface_hub.whoami()["id"]`. No
            handler matches their comments and new discussions. Other events have no author.
        handler_loop: the event loop of async handlers. `"server"` is the loop of the server;
            `"dedicated"` is a loop of its own, so a blocking handler delays no response. The
            default is `"dedicated"` under Gradio, else `"server"`. Sync handlers run in threads.
        deliveries: the file of the store; by default the environment variable HUBHOOKS_DELIVERIES,
            else `hubhooks.db` in the working directory. The file is opened when serving starts.
            `":memory:"` keeps deliveries until the process ends.
        synchronous: how safely SQLite writes. With `"normal"`, an acknowledged delivery survives
            the death of the process. With `"full"`, it also survives a power cut, but each write
            waits for the disk.
        allow_network: use a store on a network file system, although it can lose deliveries
            there; by default the environment variable HUBHOOKS_ALLOW_NETWORK.
        app_name: the name of the app that owns the store; another app cannot use that store. By
            default the environment variable HUBHOOKS_APP_NAME, else the file that creates the
            `Webhooks`, relative to the folder of the store.
        adopt_store: take over a store of another app if no process uses it; by default the
            environment variable HUBHOOKS_ADOPT_STORE.
        acknowledge: when to respond to the Hub: `"on_receipt"`, once the delivery is stored, or
            `"on_completion"` of its handlers, at most 20 s later. With `"on_completion"` a failing
            handler makes the Hub send the delivery again.
        unknown: must be empty. Any other name raises a `ConfigError` that suggests the right name.

    Raises:
        ConfigError: a setting has an impossible value, or there is no such setting.
    """

    _fastapi_hint = (
        "FastAPI's `include_router` takes no `Webhooks`: write `app.include_router(hooks.router())`"
    )

    def __init__(  # noqa: PLR0913 - one for each setting, and all but the secret are named
        self,
        secret: str | Sequence[str] = _FROM_ENVIRONMENT,
        *,
        allow_unsigned: bool = False,
        max_body_size: int = MAX_BODY_SIZE,
        on_replay: OnReplay = "run",
        ignore_authors: Strings = (),
        handler_loop: HandlerLoop | None = None,
        deliveries: str | os.PathLike[str] | None = None,
        synchronous: Synchronous = "normal",
        allow_network: bool | None = None,
        app_name: str | None = None,
        adopt_store: bool | None = None,
        acknowledge: Acknowledge = "on_receipt",
        **unknown: Never,
    ) -> None:
        _check_settings(unknown)
        _check_secret(secret)
        _check_choice("synchronous", synchronous, "normal", "full")
        _check_choice("acknowledge", acknowledge, "on_receipt", "on_completion")
        _check_choice("on_replay", on_replay, "run", "skip")
        _check_app_name(app_name)
        check_size(max_body_size)
        check_handler_loop(handler_loop)
        super().__init__(ignore_authors=ignore_authors)
        # FastAPI may have been imported after this package.
        register_encoders()
        secrets = (secret,) if isinstance(secret, str | bytes) else secret
        is_given = secret is not _FROM_ENVIRONMENT
        self._verifier = make_verifier(*secrets) if is_given else None
        # A secret in the code is always required, also with `allow_unsigned`.
        self.settings = Settings(
            allow_unsigned=allow_unsigned and not is_given,
            max_body_size=max_body_size,
            on_replay=on_replay,
        )
        """The settings of requests, for `TestClient`."""
        self._handler_loop: HandlerLoop | None = handler_loop
        self._path = deliveries
        self._synchronous: Synchronous = synchronous
        self._allow_network = allow_network
        self._acknowledge: Acknowledge = acknowledge
        self._app_name = app_name
        self._may_adopt = adopt_store
        self._code = find_app_code(self)
        _created.append(weakref.ref(self, _created.remove))
        # Servers tell ASGI from WSGI by `hooks.__call__`, which must be a coroutine function. A
        # call uses the method of the class, which can raise before anything is awaited.
        if type(self).__call__ is Webhooks.__call__:
            self.__dict__["__call__"] = self._serve

    @property
    def deliveries(self) -> Deliveries:
        """The stored deliveries: `list`, `get`, `stats` and `replay`."""
        return Deliveries(lambda: self._worker.store, self._worker.replay)

    @property
    def store(self) -> DeliveryStore:
        """The store itself, for the adapters of this package."""
        return self._worker.store

    # Lazy: the environment can still change, and not every process that imports an app serves it.

    @cached_property
    def _worker(self) -> WorkerService:
        path = self._path or _environment.read(_environment.DELIVERIES) or _LOG
        from hubhooks._store.sqlite import SqliteStore  # noqa: PLC0415 - see above

        log: DeliveryStore
        lock: Lock | None = None
        if path == _IN_MEMORY:
            log = SqliteStore(path, on_replay=self.settings.on_replay)
        else:
            from hubhooks._store.leader import LeaderLock  # noqa: PLC0415 - see above

            lock = LeaderLock(path)
            allow_network = self._allow_network
            if allow_network is None:
                allow_network = _environment.read_flag(_environment.ALLOW_NETWORK)
            log = SqliteStore(
                path,
                on_replay=self.settings.on_replay,
                synchronous=self._synchronous,
                allow_network=allow_network,
                app=self._app(),
                lock=lock,
            )
        worker = WorkerService(
            self, log, handler_loop=self._handler_loop, lock=lock, code=self._code
        )
        worker.logs_survival = True
        return worker

    def _app(self) -> AppIdentity:
        name = self._app_name or _environment.read(_environment.APP_NAME) or None
        _check_app_name(name)
        may_adopt = self._may_adopt
        if may_adopt is None:
            may_adopt = _environment.read_flag(_environment.ADOPT_STORE)
        return AppIdentity(self._code, name, may_adopt)

    @cached_property
    def _webhook_app(self) -> WebhookApp:
        receiver = Receiver(
            self,
            self._worker.store,
            lambda: self.verifier,
            allow_unsigned=self.settings.allow_unsigned,
            max_body_size=self.settings.max_body_size,
        )
        return WebhookApp(
            receiver,
            self._worker,
            acknowledge=self._acknowledge,
            admin=self.handle_admin_request,
            on_start=self._check_admin_token,
        )

    def _check_admin_token(self) -> None:
        """Log a warning at the start if the admin token cannot be used."""
        if _environment.read(_environment.ADMIN_TOKEN) is not None:
            try:
                _ = self._activity.guard.is_on
            except ConfigError as error:
                _logger.warning("%s", error)

    @property
    def verifier(self) -> Verifier | None:
        """The `Verifier` of the webhook secret; None if no secret is configured.

        Raises:
            ConfigError: WEBHOOK_SECRET is empty, or not ASCII.
        """
        if (
            self._verifier is None
            and (secret := _environment.read(_environment.SECRET)) is not None
        ):
            self._verifier = make_verifier(secret)
        return self._verifier

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[None]:
        """Start and stop with an app: the `lifespan` of a Starlette, FastAPI or Gradio app.

        Args:
            app: the app. Gradio apps mounted in it will not serve the files of the store.

        Raises:
            ConfigError: no secret is configured, and unsigned requests are not allowed; or the
                store cannot be used.
            StoreError: the store cannot be used now.
        """
        try:
            check_event_loop()
            self._webhook_app.start()
        except (ConfigError, StoreError) as error:
            raise shorten_traceback(error) from None
        if "gradio" in sys.modules:
            from hubhooks import gradio  # noqa: PLC0415 - an optional dependency

            gradio.prepare_mounted(app, self.store)
        try:
            yield
        finally:
            await self._webhook_app.stop()

    def __call__(
        self, scope: Scope, receive: Receive | None = None, send: Send | None = None
    ) -> Coroutine[Any, Any, None]:
        """Serve one ASGI connection.

        Raises:
            TypeError: the server is not an ASGI server.
        """
        if receive is None or send is None:
            raise TypeError(_NOT_ASGI)
        return self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._webhook_app(scope, receive, send)

    @_with_fastapi_hint
    @_with_short_errors
    def router(
        self,
        path: str = "/webhooks/hub",
        **options: Any,  # noqa: ANN401 - FastAPI types them
    ) -> APIRouter:
        """Make a FastAPI router that receives webhooks: `app.include_router(hooks.router())`.

        Args:
            path: the path of the webhook URL; a slash at its end makes no difference.
            options: options of FastAPI's `APIRouter`.

        Raises:
            ConfigError: the path does not begin with a slash.
            ModuleNotFoundError: FastAPI is not installed.
        """
        with _needed("fastapi"):
            from hubhooks import fastapi  # noqa: PLC0415 - an optional dependency

        return fastapi.make_router(self, path, **options)

    @_with_short_errors
    def app_kwargs(
        self,
        **more: Any,  # noqa: ANN401 - FastAPI types them
    ) -> dict[str, Any]:
        """Return the options that make a Gradio app receive webhooks.

        Use it instead of `launch`: `demo.launch(app_kwargs=hooks.app_kwargs())`.

        Args:
            more: your own `app_kwargs`; they are kept.

        Raises:
            ModuleNotFoundError: Gradio is not installed.
        """
        with _needed("gradio"):
            from hubhooks import gradio  # noqa: PLC0415 - an optional dependency

        return gradio.make_app_kwargs(self, **more)

    @_with_short_errors
    def launch(
        self,
        demo: Blocks,
        **options: Any,  # noqa: ANN401 - Gradio types them
    ) -> tuple[App, str, str]:
        """Launch a Gradio app that receives webhooks, and print the webhook URL.

        Args:
            demo: the Gradio app.
            options: options of `demo.launch`.

        Returns:
            The result of `demo.launch`.

        Raises:
            ConfigError: no secret is configured, or the store cannot be used.
            ModuleNotFoundError: Gradio is not installed.
        """
        with _needed("gradio"):
            from hubhooks import gradio  # noqa: PLC0415 - an optional dependency

        return gradio.launch(self, demo, **options)

    @_with_short_errors
    def run_job(self, environ: Mapping[str, str] | None = None) -> NoReturn:
        """Run the handlers on the delivery that started this Hugging Face Job, and exit.

        The exit code says what happened: see `hubhooks.job`.

        Args:
            environ: the variables that contain the delivery; by default `os.environ`.
        """
        from hubhooks import job  # noqa: PLC0415 - an optional dependency

        job.run(self, environ)

    @_with_short_errors
    def activity(self) -> None:
        """Add a list of the deliveries to a Gradio app; call it inside `gr.Blocks()`.

        Anonymous visitors see states and public repositories. Payloads and Replay need a user
        logged in with `launch(auth=...)`, the owner of the Space, or the admin token of the
        environment variable HUBHOOKS_ADMIN_TOKEN.

        Raises:
            ConfigError: it is called outside `gr.Blocks()`, or the admin token is too short.
            ModuleNotFoundError: Gradio is not installed.
        """
        with _needed("gradio"):
            from hubhooks.admin import gradio_tab  # noqa: PLC0415 - an optional dependency

        gradio_tab.show(self._activity, lambda: self._worker.was_started)

    async def handle_admin_request(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Serve the deliveries as JSON to callers with the admin token.

        The app and `router` do it below their path. This method is for routes of your own.

        Returns:
            True if it answered; False if the path is another one, or no admin token is configured.
        """
        from hubhooks.admin import http_api  # noqa: PLC0415 - only viewing needs it

        return await http_api.serve(lambda: self._activity, self._webhook_app, scope, receive, send)

    @cached_property
    def admin(self) -> AdminApp:
        """An ASGI app for the owner: a page with the deliveries, and their JSON below `api/`.

        Mount it in an app of any framework: `app.mount("/hubhooks", hooks.admin)`. It is closed
        unless the environment variable HUBHOOKS_ADMIN_TOKEN is set.
        """
        from hubhooks.admin.app import AdminApp, AppSource  # noqa: PLC0415 - only viewing needs it

        return AdminApp(AppSource(self, lambda: self._activity, lambda: self._webhook_app))

    @cached_property
    def _activity(self) -> Activity:
        from hubhooks.admin.queries import Activity  # noqa: PLC0415 - only viewing needs it

        return Activity(self.store, self, lambda: self.verifier, self._worker.notify)


# `gc.get_objects()` finds them too. But it also returns tuples that another thread is building, and
# that thread fails if there is another reference to its tuple.
_created: list[weakref.ref[Webhooks]] = []


def all_webhooks() -> list[Webhooks]:
    """Return all `Webhooks` of this process, the oldest first; for `hubhooks dev`."""
    return [hooks for each in [*_created] if (hooks := each()) is not None]


def parts_of(hooks: Webhooks) -> tuple[WebhookApp, WorkerService]:
    """Return the ASGI app and the worker service; for the adapters of this package."""
    return hooks._webhook_app, hooks._worker  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of a class of this module


@contextmanager
def _needed(extra: str) -> Generator[None]:
    """Name the extra to install if an import inside fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        msg = f'`{error.name}` is not installed: try `pip install "hubhooks[{extra}]"`'
        raise ModuleNotFoundError(msg, name=error.name, path=error.path) from error


def _check_settings(unknown: Iterable[str]) -> None:
    for name in unknown:
        default = f"there are {', '.join(_SETTINGS)}"
        hint = suggestion(name, _SETTINGS, _SETTINGS_BY_OTHER_NAMES, default)
        msg = f"`{name}=` is not a setting of `Webhooks`; {hint}"
        raise ConfigError(msg)


def _check_secret(secret: object) -> None:
    if secret is None:
        msg = (
            "the secret is None: perhaps its variable is not set. Leave `secret` out to use the "
            f"environment variable {_environment.SECRET}"
        )
        raise ConfigError(msg)


def _check_choice(name: str, given: object, first: str, second: str) -> None:
    if given not in (first, second):
        msg = f'`{name}={given!r}` is not a choice; write "{first}" or "{second}"'
        raise ConfigError(msg)


def _check_app_name(name: object) -> None:
    if name is not None and not (isinstance(name, str) and name and name.isprintable()):
        msg = f"`app_name={name!r}` is not a name; write a printable string"
        raise ConfigError(msg)
