"""Name an app as the commands take it, import its module, and find its `Webhooks`."""

from __future__ import annotations

import ast
import importlib
import inspect
import runpy
import sys
import traceback
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from hubhooks._suggestions import nearest
from hubhooks.errors import ConfigError
from hubhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

__all__ = [
    "AppImportError", "AppTarget", "call_factory", "describe_error", "find_attribute",
    "import_module", "launches", "load_webhooks", "mounted_webhooks", "parse_target",
    "without_middleware",
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
    """Ends the import of a module that calls `hooks.launch`, `hooks.run_job` or `demo.launch`."""

    def __init__(self, hooks: Webhooks | None) -> None:
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
        if module == "__init__":
            # Else the package would be imported twice, as `bot` and as `bot.__init__`.
            folder, module = folder.parent, folder.name
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
        with redirect_stdout(sys.stderr), _blocking_calls_raise(target):
            names = vars(import_module(target))
            made = call_factory(find_attribute(names, target)) if target.attribute else None
    except _BlockingCall as call:
        if call.hooks is not None:
            return call.hooks
        names, made = _names_of_frames(call, target), None
    except (KeyboardInterrupt, _TargetError):
        raise
    except BaseException as error:
        raise _import_error(target, error) from error
    return _find_webhooks(names, target, made)


class _TargetError(ConfigError):
    """There is no module or no attribute with the name of a target."""


def call_factory(found: object) -> object:
    """Call a function without arguments, as uvicorn does with a factory of apps."""
    if inspect.isfunction(found) and not inspect.signature(found).parameters:
        return found()
    return found


def _names_of_frames(call: _BlockingCall, target: AppTarget) -> dict[str, Any]:
    """Return the names of a module whose import was ended."""
    for frame, _ in traceback.walk_tb(call.__traceback__):
        if frame.f_globals.get("__name__") == target.module:
            return frame.f_globals
    return {}


def import_module(target: AppTarget) -> ModuleType:
    """Import the module of a target, with its folder first on `sys.path`.

    Raises:
        ConfigError: there is no such module. Errors of the module itself are not changed.
    """
    if (folder := str(target.folder)) not in sys.path[:1]:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(target.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{target.module}.".startswith(f"{error.name}."):
            raise
    else:
        _check_file(module, target)
        return module
    if target.file.parent != target.folder and (target.folder / f"{target.module}.py").is_file():
        msg = f"`{target.module}.py` cannot be imported: rename it to a name without dots"
        raise _TargetError(msg)
    files = {path.stem for path in target.folder.glob("*.py")}
    near = nearest(target.module, files)
    hint = f"did you mean `{near}`?" if near else "run this command in the folder of the app"
    inner = [each.relative_to(target.folder) for each in _files_of(target, "src")]
    if inner:
        hint = f"did you mean `{inner[0].as_posix()}`?"
    msg = f"there is no module `{target.module}` in {target.folder}; {hint}"
    raise _TargetError(msg)


def _check_file(module: ModuleType, target: AppTarget) -> None:
    """Check that a module is not another one with the same name, such as one of Python's."""
    found, files = getattr(module, "__file__", None), _files_of(target)
    if found and files and not any(Path(found).parent.samefile(each.parent) for each in files):
        msg = (
            f"the name `{target.module}` is taken by {found}: rename "
            f"`{files[0].relative_to(target.folder).as_posix()}`"
        )
        raise _TargetError(msg)


def _files_of(target: AppTarget, below: str = "") -> list[Path]:
    """Return the files that a module can have in a folder of the target."""
    base = target.folder.joinpath(below, *target.module.split("."))
    return [each for each in (base / "__init__.py", Path(f"{base}.py")) if each.is_file()]


@contextmanager
def _blocking_calls_raise(target: AppTarget) -> Iterator[None]:
    def stop(called: object, *_: object, **__: object) -> NoReturn:
        raise _BlockingCall(called if isinstance(called, Webhooks) else None)

    replaced: list[tuple[type, str, object]] = [
        (Webhooks, name, vars(Webhooks)[name]) for name in _BLOCKING
    ]
    if launches(target.file):
        with suppress(ImportError):
            from gradio.blocks import Blocks  # noqa: PLC0415 - an optional dependency

            # `demo.launch(app_kwargs=hooks.app_kwargs())`
            replaced.append((Blocks, "launch", vars(Blocks)["launch"]))
    for owner, name, _ in replaced:
        setattr(owner, name, stop)
    try:
        yield
    finally:
        for owner, name, method in replaced:
            setattr(owner, name, method)


def launches(path: Path) -> bool:
    """Return whether a file calls `launch`, as Gradio scripts do. It is not executed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False  # its import reports the error
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "launch"
        for node in ast.walk(tree)
    )


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
        raise _TargetError(msg)
    value = names[first]
    for name in others:
        if not hasattr(value, name):
            msg = f"`{target.module}:{first}` has no attribute `{name}`"
            raise _TargetError(msg)
        value = getattr(value, name)
    return value


def _find_webhooks(names: Mapping[str, Any], target: AppTarget, made: object) -> Webhooks:
    if not target.attribute:
        return _only(_of_module(names), f"the module `{target.module}`", target)
    value = find_attribute(names, target) if made is None else made
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
    inner = without_middleware(app)
    if isinstance(inner, Webhooks):
        return [inner]
    for _, route in _routes_of(inner):
        candidates = [
            without_middleware(getattr(route, "app", None)),
            *_closure(getattr(route, "endpoint", None)),
        ]
        found.update((id(each), each) for each in candidates if isinstance(each, Webhooks))
    return list(found.values())


def mounted_webhooks(app: object) -> Iterator[tuple[str, Webhooks]]:
    """List the paths of the `Webhooks` in the routes of a Starlette app without FastAPI."""
    for path, route in _routes_of(app):
        hooks = without_middleware(getattr(route, "app", None))
        if isinstance(hooks, Webhooks):
            # A mount has routes, and a path with a slash at its end.
            yield (path if getattr(route, "routes", None) is None else f"{path}/"), hooks


def without_middleware(app: object) -> object:
    """Return the app inside ASGI middleware, which keeps it as `app`."""
    for _ in range(_DEEPEST_ROUTER):
        inner = getattr(app, "app", None)
        if isinstance(app, Webhooks) or hasattr(app, "routes") or inner is None:
            break
        app = inner
    return app


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
