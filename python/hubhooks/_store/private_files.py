"""Keeps Gradio from serving the files of a store, anywhere in this process.

Gradio serves files to every visitor. It also copies files that a function returns into its cache.
It calls `is_allowed_file` before it serves a file, and `_check_allowed` before it copies one. In a
mounted app, `_check_allowed` checks nothing. So this module wraps both. It does not import Gradio.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SUFFIXES", "guard_gradio", "is_private", "protect"]

SUFFIXES = ("", "-wal", "-shm", "-journal", ".runner", ".leader")

_stores: set[str] = set()


def protect(store: str) -> None:
    """Keep the files of a store private, also if Gradio is imported later."""
    _stores.update((store, os.path.realpath(store)))
    guard_gradio()


def guard_gradio() -> None:
    """Make Gradio call `is_private`, if Gradio is imported. A repeated call is cheap."""
    # Gradio looks both functions up in these modules at each call.
    if "gradio" in sys.modules:
        _guard(sys.modules.get("gradio.utils"), "is_allowed_file", _block)
        _guard(sys.modules.get("gradio.processing_utils"), "_check_allowed", _raise)


def _guard(module: object, name: str, reject: Callable[[], Any]) -> None:
    original = getattr(module, name, None)
    if original is not None and not isinstance(original, _Check):
        setattr(module, name, _Check(original, reject))


def _block() -> tuple[bool, str]:
    return False, "in_blocklist"


def _raise() -> None:
    from gradio.exceptions import InvalidPathError  # noqa: PLC0415 - only Gradio calls this

    msg = "this file belongs to a delivery store, and is not served"
    raise InvalidPathError(msg)


class _Check:
    """Wraps a function of Gradio that checks a file, and rejects files of a store first."""

    def __init__(self, original: Callable[..., Any], reject: Callable[[], Any]) -> None:
        self._original = original
        self._reject = reject

    def __call__(self, path: str | os.PathLike[str], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - Gradio's signature
        if is_private(path):
            return self._reject()
        return self._original(path, *args, **options)


def is_private(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a file of a store, or a link of any kind to one.

    Every file with a name that begins with the name of the store counts.
    """
    status = None
    try:
        # `stat` follows links such as `/proc/self/fd/5`, like `open`.
        target = os.path.realpath(path).lower()
        with suppress(FileNotFoundError):
            status = Path(path).stat()
    except (OSError, ValueError):  # for example a NUL in the path
        return True
    stores = tuple(_stores)
    if target.startswith(tuple(store.lower() for store in stores)):
        return True
    return status is not None and any(
        _is_same(store + suffix, status) for store in stores for suffix in SUFFIXES
    )


def _is_same(file: str, status: os.stat_result) -> bool:
    """Return whether a file has this status: it is the same file, perhaps with another name."""
    try:
        return os.path.samestat(Path(file).stat(), status)
    except OSError:
        return False
