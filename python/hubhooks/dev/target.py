"""Find and import what `hubhooks dev TARGET` serves, in the app's process."""

from __future__ import annotations

import ast
import importlib
import linecache
import sys
from contextlib import suppress
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.util import decode_source
from operator import attrgetter
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from hubhooks.errors import ConfigError
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "check_target",
    "import_app",
    "import_without_cache",
    "is_script",
    "keep_lines",
    "launches",
]

_SUFFIX = ".py"
_NAMES = ("app", "hooks")
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def check_target(target: str) -> None:
    """Check the form of a target.

    Raises:
        ConfigError: it is neither `module:name` nor a Python file that exists.
    """
    if is_script(target):
        if not Path(target).is_file():
            msg = f"there is no file `{target}`"
            raise ConfigError(msg)
        return
    module, colon, name = target.partition(":")
    if not colon:
        near = f"{target}{_SUFFIX}"
        hint = f"`{near}` or `{target}:hooks`" if Path(near).is_file() else "`app.py`, `app:hooks`"
        msg = f"`{target}` is not a target; write a file or `module:name`, such as {hint}"
        raise ConfigError(msg)
    parts = [*module.split("."), *name.split(".")]
    if not all(part.isidentifier() for part in parts):
        msg = f"`{target}` is not a target; write `module:name`, such as `app:hooks`"
        raise ConfigError(msg)


def is_script(target: str) -> bool:
    """Return whether a target names a file."""
    return target.endswith(_SUFFIX)


def launches(path: Path) -> bool:
    """Return whether a file calls `launch`, as Gradio scripts do. It is not executed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return False  # its import reports the error
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "launch"
        for node in ast.walk(tree)
    )


def import_app(target: str) -> Any:  # noqa: ANN401 - any ASGI app
    """Import a target, and return its ASGI app.

    Raises:
        ConfigError: it has no ASGI app.
    """
    if is_script(target):
        path = Path(target).resolve()
        sys.path.insert(0, str(path.parent))
        return _find_app(importlib.import_module(path.stem), target)
    name, _, attributes = target.partition(":")
    module = importlib.import_module(name)
    try:
        found = attrgetter(attributes)(module)
    except AttributeError:
        msg = f"`{name}` has no `{attributes}`, which the target `{target}` names"
        raise ConfigError(msg) from None
    return _check_app(found, target)


def _find_app(module: ModuleType, target: str) -> Any:  # noqa: ANN401 - any ASGI app
    for name in _NAMES:
        found = getattr(module, name, None)
        if found is not None and _is_app(found):
            return found
    apps = [value for value in vars(module).values() if isinstance(value, Webhooks)]
    if len(apps) == 1:
        return apps[0]
    msg = f"`{target}` has no `hooks` and no `app`; name the object: {Path(target).stem}:NAME"
    raise ConfigError(msg)


def _check_app(found: object, target: str) -> object:
    if _is_app(found):
        return found
    if hasattr(type(found), "launch"):
        file = target.partition(":")[0].replace(".", "/") + _SUFFIX
        msg = f"`{target}` is a Gradio app; name its file, which calls `hooks.launch`: {file}"
    elif isinstance(found, Router):
        msg = f"`{target}` is a `Router`; name the `Webhooks` that includes it"
    else:
        msg = f"`{target}` is a {type(found).__name__}, not an ASGI app"
    raise ConfigError(msg)


def _is_app(found: object) -> bool:
    if isinstance(found, Router):
        return isinstance(found, Webhooks)
    return callable(found) and not hasattr(type(found), "launch")


class _UncachedLoader(SourceFileLoader):
    """Compiles a module from its source at each import, and keeps the lines for tracebacks.

    Python's cache compares whole seconds and the size. Two edits within a second would run the
    first one.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        keep_lines(path, source)
        code = self.source_to_code(source, path)
        return code if isinstance(code, CodeType) else None


def keep_lines(path: str, source: bytes) -> None:
    """Keep the lines of a module for tracebacks, which would read the file after an edit."""
    with suppress(SyntaxError, ValueError):  # its import reports the error
        lines = decode_source(source).splitlines(keepends=True)
        # Without a time of change, `linecache` never reads the file again.
        linecache.cache[path] = (len(source), None, lines, path)


def import_without_cache(folder: Path) -> None:
    """Compile the modules below a folder at each import; installed packages keep their cache."""
    loaders = (
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (_UncachedLoader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )
    whole = Path(folder).resolve()

    def find(path: str) -> FileFinder:
        resolved = Path(path or ".").resolve()
        is_own = resolved.is_relative_to(whole) and _INSTALLED.isdisjoint(resolved.parts)
        if not (is_own and resolved.is_dir()):
            raise ImportError(path)
        return FileFinder(path or ".", *loaders)

    sys.path_hooks.insert(0, find)
    sys.path_importer_cache.clear()
