"""Name an app as the commands take it, import its module, and find its `Webhooks`."""

from __future__ import annotations

import importlib
import runpy
import sys
import traceback
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from hubhooks._suggestions import nearest
from hubhooks.errors import ConfigError
from hubhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

__all__ = [
    "AppImportError", "AppTarget", "describe_error", "find_attribute", "import_module",
    "load_webhooks", "mounted_webhooks", "parse_target",
]  # fmt: skip

# Routers can contain each other.
_DEEPEST_ROUTER = 20
_HERE = str(Path(__file__).parent)
_IMPORTERS = frozenset({importlib.__file__, runpy.__file__})
# Methods that run until the app ends. A module may call one of them in its last line.
_BLOCKING = ("launch", "run_job")


class AppImportError(ConfigError):
    """The code of the app raised while it was imported; `__cause__` is its error."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.traceback = ""
        """The traceback, without the frames of this package and of the import system."""


class AppTarget(NamedTuple):
    """The module of an app and an attribute in it, as `uvicorn` takes them."""

    folder: Path
    """The first folder of `sys.path`."""
    module: str
    attribute: str
    """The attribute, perhaps with dots; empty to find the app in the module."""

    @property
    def file(self) -> Path:
        """The file of the module, unless it is a package or installed elsewhere."""
        return self.folder.joinpath(*self.module.split(".")).with_suffix(".py")

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}" if self.attribute else self.module


class _BlockingCall(BaseException):
    """Ends the import of a module that calls `hooks.launch` or `hooks.run_job`."""

    def __init__(self, hooks: Webhooks) -> None:
        super().__init__()
        self.hooks = hooks


def parse_target(text: str) -> AppTarget:
    """Parse `app:hooks`, `app`, `app.py` or `folder/app.py:hooks`.

    Raises:
        ConfigError: it is none of these.
    """
    name, colon, attribute = text.strip().rpartition(":")
    # On Windows, a colon follows the letter of a drive.
    if not colon or not all(part.isidentifier() for part in attribute.split(".")):
        name, attribute = text.strip(), ""
    if name.endswith(".py"):
        path = Path(name).absolute()
        if not path.is_file():
            msg = f"there is no file `{name}` in {Path.cwd()}"
            raise ConfigError(msg)
        folder, module = path.parent, path.stem
        # A module of a package can have relative imports.
        while (folder / "__init__.py").is_file():
            folder, module = folder.parent, f"{folder.name}.{module}"
        return AppTarget(folder, module, attribute)
    if not name or not all(part.isidentifier() for part in name.split(".")):
        msg = f"`{text}` does not name an app; write MODULE:ATTRIBUTE such as app:hooks, or app.py"
        raise ConfigError(msg)
    return AppTarget(Path.cwd(), name, attribute)


def load_webhooks(text: str) -> Webhooks:
    """Import an app, and return its `Webhooks`.

    The current folder comes first on `sys.path`, as with `uvicorn`. What the module prints goes to
    stderr. `hooks.launch` and `hooks.run_job` end the import instead of running the app.

    Args:
        text: `app:hooks`, `app:app` for a FastAPI app that includes its router, or `app.py`.

    Raises:
        ConfigError: there is no such module or attribute, or it has no or several `Webhooks`.
        AppImportError: the module raised.
    """
    target = parse_target(text)
    try:
        with redirect_stdout(sys.stderr), _blocking_calls_raise():
            module = import_module(target)
    except _BlockingCall as call:
        return call.hooks
    except (KeyboardInterrupt, _NoModuleError):
        raise
    except BaseException as error:
        raise _import_error(target, error) from error
    return _find_webhooks(vars(module), target)


class _NoModuleError(ConfigError):
    """There is no module with the name of a target."""


def import_module(target: AppTarget) -> ModuleType:
    """Import the module of a target, with its folder first on `sys.path`.

    Raises:
        ConfigError: there is no such module. Errors of the module itself are not changed.
    """
    if (folder := str(target.folder)) not in sys.path[:1]:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{target.module}.".startswith(f"{error.name}."):
            raise
    files = {path.stem for path in target.folder.glob("*.py")}
    near = nearest(target.module, files)
    hint = f"did you mean `{near}`?" if near else "run this command in the folder of the app"
    msg = f"there is no module `{target.module}` in {target.folder}; {hint}"
    raise _NoModuleError(msg)


@contextmanager
def _blocking_calls_raise() -> Iterator[None]:
    def stop(hooks: Webhooks, *_: object, **__: object) -> NoReturn:
        raise _BlockingCall(hooks)

    methods = {name: vars(Webhooks)[name] for name in _BLOCKING}
    for name in methods:
        setattr(Webhooks, name, stop)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(Webhooks, name, method)


def _import_error(target: AppTarget, error: BaseException) -> AppImportError:
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    if isinstance(error, SystemExit):
        what = f"it exits with {error.code!r}"
    failure = AppImportError(f"cannot import `{target.module}`: {what}")
    failure.traceback = "".join(describe_error(error).format())
    return failure


def describe_error(error: BaseException) -> traceback.TracebackException:
    """Return the traceback of an error, without the frames of this package and of imports."""
    described = traceback.TracebackException.from_exception(error)
    remaining: list[traceback.TracebackException | None] = [described]
    while remaining:
        each = remaining.pop()
        if each is not None:
            each.stack = traceback.StackSummary.from_list(
                frame for frame in each.stack if not _is_foreign(frame.filename)
            )
            remaining += [each.__cause__, each.__context__]
    return described


def _is_foreign(file: str) -> bool:
    return file.startswith((_HERE, "<frozen ")) or file in _IMPORTERS


def find_attribute(names: Mapping[str, Any], target: AppTarget) -> Any:  # noqa: ANN401 - any object of the user
    """Return the attribute of a target from the names of its module.

    Raises:
        ConfigError: there is no such attribute.
    """
    first, *others = target.attribute.split(".")
    if first not in names:
        near = nearest(first, [name for name in names if not name.startswith("_")])
        found = [name for name, value in names.items() if isinstance(value, Webhooks)]
        hint = f"did you mean `{target.module}:{near or found[0]}`?" if near or found else ""
        msg = f"the module `{target.module}` has no attribute `{first}`; {hint}".removesuffix("; ")
        raise ConfigError(msg)
    value = names[first]
    for name in others:
        if not hasattr(value, name):
            msg = f"`{target.module}:{first}` has no attribute `{name}`"
            raise ConfigError(msg)
        value = getattr(value, name)
    return value


def _find_webhooks(names: Mapping[str, Any], target: AppTarget) -> Webhooks:
    if not target.attribute:
        return _only(_of_module(names), f"the module `{target.module}`", target)
    value = find_attribute(names, target)
    if isinstance(value, Webhooks):
        return value
    included = {f"#{number}": hooks for number, hooks in enumerate(_of_app(value))}
    # A Gradio app does not know its `Webhooks`.
    where = f"`{target}` is a {type(value).__name__}, and the module"
    return _only(included or _of_module(names), where, target)


def _of_module(names: Mapping[str, Any]) -> dict[str, Webhooks]:
    found: dict[int, tuple[str, Webhooks]] = {}
    for name, value in names.items():
        if isinstance(value, Webhooks):
            found.setdefault(id(value), (name, value))
    if not found:
        for value in list(names.values()):
            for hooks in _of_app(value):
                found.setdefault(id(hooks), (f"#{len(found) + 1}", hooks))
    return dict(found.values())


def _of_app(app: object) -> list[Webhooks]:
    """Find the `Webhooks` in the routes of a FastAPI or Starlette app, each once."""
    found: dict[int, Webhooks] = {}
    for _, route in _routes_of(app):
        candidates = [getattr(route, "app", None), *_closure(getattr(route, "endpoint", None))]
        found.update((id(each), each) for each in candidates if isinstance(each, Webhooks))
    return list(found.values())


def mounted_webhooks(app: object) -> Iterator[tuple[str, Webhooks]]:
    """List the paths of the `Webhooks` in the routes of a Starlette app without FastAPI."""
    for path, route in _routes_of(app):
        hooks = getattr(route, "app", None)
        if isinstance(hooks, Webhooks):
            # A mount has routes, and a path with a slash at its end.
            yield (path if getattr(route, "routes", None) is None else f"{path}/"), hooks


def _routes_of(app: object, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """List the paths and the routes of an app, also of routers and apps in it."""
    routes = getattr(app, "routes", None)
    if isinstance(app, type) or not isinstance(routes, list | tuple) or depth > _DEEPEST_ROUTER:
        return
    for route in routes:
        path = f"{prefix}{getattr(route, 'path', '')}"
        yield path, route
        inner = getattr(route, "original_router", None) or route
        yield from _routes_of(inner, path, depth + 1)


def _closure(function: Callable[..., object] | None) -> list[object]:
    """Return the variables of the function around an endpoint, such as those of a router."""
    cells = getattr(function, "__closure__", None) or ()
    values = []
    for cell in cells:
        try:
            values.append(cell.cell_contents)
        except ValueError:  # noqa: PERF203 - the variable has no value yet
            continue
    return values


def _only(found: Mapping[str, Webhooks], where: str, target: AppTarget) -> Webhooks:
    if not found:
        msg = f"{where} has no `Webhooks`; name another attribute: {target.module}:ATTRIBUTE"
        raise ConfigError(msg)
    if len(found) > 1:
        names = [name for name in found if name.isidentifier()]
        choices = " or ".join(f"{target.module}:{name}" for name in names)
        msg = f"{where} has {len(found)} `Webhooks`; name one: " + (
            choices or f"{target.module}:ATTRIBUTE"
        )
        raise ConfigError(msg)
    return next(iter(found.values()))
