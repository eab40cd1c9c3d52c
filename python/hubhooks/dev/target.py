"""Import the app that `hubhooks dev TARGET` serves, in the app's process."""

from __future__ import annotations

import inspect
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
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

from hubhooks._load_app import (
    call_factory,
    find_attribute,
    import_module,
    without_middleware,
)
from hubhooks._logging import get_logger
from hubhooks.errors import ConfigError
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hubhooks._load_app import AppTarget

__all__ = [
    "INSTALLED",
    "code_folders",
    "import_app",
    "import_without_cache",
    "keep_lines",
]

_logger = get_logger()

_NAMES = ("app", "hooks")
_NO_LAUNCH = (
    "`%s` has a Gradio app and does not call `launch`, so only the webhook is served. Write at the "
    'end of the file: if __name__ == "__main__": hooks.launch(demo)'
)
INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders of installed packages."""


def code_folders(target: AppTarget, folder: Path) -> tuple[Path, ...]:
    """Return the working directory, and the folder of the app if it is elsewhere."""
    other = target.folder.resolve()
    return (folder,) if other.is_relative_to(folder.resolve()) else (folder, other)


def import_app(target: AppTarget) -> Any:  # noqa: ANN401 - any ASGI app
    """Import the module of a target, and return its ASGI app.

    Raises:
        ConfigError: there is no such module, or it has no ASGI app.
    """
    names = vars(import_module(target))
    app = _find_app(names, target)
    blocks = getattr(sys.modules.get("gradio"), "Blocks", None)
    if blocks is not None and any(isinstance(value, blocks) for value in names.values()):
        # `gr.mount_gradio_app` mounts it.
        routes = getattr(without_middleware(app), "routes", ())
        if not any(hasattr(getattr(route, "app", None), "blocks") for route in routes):
            _logger.warning(_NO_LAUNCH, target)
    return app


def _find_app(names: Mapping[str, Any], target: AppTarget) -> Any:  # noqa: ANN401 - any ASGI app
    if target.attribute:
        return _check_app(call_factory(find_attribute(names, target)), target)
    for name in _NAMES:
        if _is_app(names.get(name)):
            return names[name]
    apps = [value for value in names.values() if isinstance(value, Webhooks)]
    if len(apps) == 1:
        return apps[0]
    msg = f"`{target}` has no `hooks` and no `app`; name the object: {target.module}:NAME"
    raise ConfigError(msg)


def _check_app(found: object, target: AppTarget) -> object:
    if _is_app(found):
        return found
    if hasattr(type(found), "launch"):
        msg = f"`{target}` is a Gradio app; name its file, which calls `hooks.launch`: " + (
            target.file.name
        )
    elif isinstance(found, Router):
        msg = f"`{target}` is a `Router`; name the `Webhooks` that includes it"
    else:
        msg = f"`{target}` is a {type(found).__name__}, not an ASGI app"
    raise ConfigError(msg)


def _is_app(found: object) -> bool:
    if isinstance(found, Router):
        return isinstance(found, Webhooks)
    if inspect.isfunction(found):
        try:
            inspect.signature(found).bind("scope", "receive", "send")
        except TypeError:
            return False
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
        is_own = resolved.is_relative_to(whole) and INSTALLED.isdisjoint(resolved.parts)
        if not (is_own and resolved.is_dir()):
            raise ImportError(path)
        return FileFinder(path or ".", *loaders)

    sys.path_hooks.insert(0, find)
    sys.path_importer_cache.clear()
