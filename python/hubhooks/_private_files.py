"""Keeps Gradio from serving the files of a store, anywhere in this process.

Gradio serves files to anybody, and copies the files that a function returns into its cache. It
asks `is_allowed_file` before the one, and `_check_allowed` before the other, but in a mounted app
`_check_allowed` checks nothing. Both are wrapped here. This module does not import Gradio.
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
    """Keep the files of a store private, also in a Gradio that is imported later."""
    _stores.update((store, os.path.realpath(store)))
    guard_gradio()


def guard_gradio() -> None:
    """Make Gradio ask `is_private`, if it is imported. Cheap where that is done."""
    # Gradio calls both by the names of their modules.
    _guard(sys.modules.get("gradio.utils"), "is_allowed_file", _block)
    _guard(sys.modules.get("gradio.processing_utils"), "_check_allowed", _raise)


def _guard(module: object, name: str, refuse: Callable[[], Any]) -> None:
    original = getattr(module, name, None)
    if original is not None and not isinstance(original, _Check):
        setattr(module, name, _Check(original, refuse))


def _block() -> tuple[bool, str]:
    return False, "in_blocklist"


def _raise() -> None:
    from gradio.exceptions import InvalidPathError  # noqa: PLC0415 - Gradio is imported by then

    msg = "this file belongs to a delivery store, and is not served"
    raise InvalidPathError(msg)


class _Check:
    """A function of Gradio that checks a file; files of a store are refused first."""

    def __init__(self, original: Callable[..., Any], refuse: Callable[[], Any]) -> None:
        self._original = original
        self._refuse = refuse

    def __call__(self, path: str | os.PathLike[str], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - Gradio's signature
        if is_private(path):
            return self._refuse()
        return self._original(path, *args, **options)


def is_private(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a file of a store, over links of any kind.

    Each file whose name begins with that of the store is one.
    """
    status = None
    try:
        # The system follows links such as `/proc/self/fd/5` when it opens a file.
        target = os.path.realpath(path).lower()
        with suppress(FileNotFoundError):
            status = Path(path).stat()
    except (OSError, ValueError):  # such as a NUL in it
        return True
    stores = tuple(_stores)
    if target.startswith(tuple(store.lower() for store in stores)):
        return True
    return status is not None and any(
        _is_same(store + suffix, status) for store in stores for suffix in SUFFIXES
    )


def _is_same(file: str, status: os.stat_result) -> bool:
    """Whether a file is the one with this status, as a hard link is."""
    try:
        return os.path.samestat(Path(file).stat(), status)
    except OSError:
        return False
