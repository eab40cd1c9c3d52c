"""The Python files of an app, and their changes."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Snapshot", "take_snapshot", "wait_for_changes"]

# The time of the last change in nanoseconds, and the size, by path.
Snapshot: TypeAlias = dict[str, tuple[int, int]]

_SUFFIX = ".py"
_IGNORED = frozenset({"__pycache__", "node_modules", "site-packages"})
# The marker file of a virtual environment, which can have any name.
_ENVIRONMENT_MARKER = "pyvenv.cfg"
_STEP_MILLISECONDS = 30
_DEBOUNCE_MILLISECONDS = 300


def take_snapshot(*roots: Path) -> Snapshot:
    """Read the times and sizes of the Python files below folders."""
    found: Snapshot = {}
    for parent, folders, files in chain.from_iterable(map(os.walk, roots)):
        if _ENVIRONMENT_MARKER in files and Path(parent) not in roots:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not _is_ignored(name)]
        for name in files:
            if name.endswith(_SUFFIX):
                path = os.path.join(parent, name)  # noqa: PTH118 - faster for many files
                try:
                    status = os.stat(path)  # noqa: PTH116 - faster for many files
                except OSError:  # it was removed since
                    continue
                found[path] = (status.st_mtime_ns, status.st_size)
    return found


async def wait_for_changes(*roots: Path) -> AsyncIterator[None]:
    """Yield after each change of a Python file below folders, and every 5 s."""
    from watchfiles import awatch  # noqa: PLC0415 - not needed with --no-reload

    async for _ in awatch(
        *roots,
        watch_filter=lambda _, path: any(_is_watched(root, path) for root in roots),
        debounce=_DEBOUNCE_MILLISECONDS,
        step=_STEP_MILLISECONDS,
        ignore_permission_denied=True,
        # Some file systems report no changes, so the caller looks every 5 s too.
        yield_on_timeout=True,
    ):
        yield


def _is_watched(folder: Path, path: str) -> bool:
    if not path.endswith(_SUFFIX):
        return False
    try:
        parts = Path(path).relative_to(folder).parts
    except ValueError:
        return False
    return not any(_is_ignored(part) for part in parts[:-1])


def _is_ignored(name: str) -> bool:
    # Hidden folders too: `.hubhooks`, `.venv`, `.git`.
    return name in _IGNORED or name.startswith(".")
