"""Compare the source lines of a traceback with the files of now."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["changed_lines"]

# The source line of a frame stands below its place.
_FRAME = re.compile(
    r'^ *File "(?P<file>[^"\n]+\.py)", line (?P<line>\d+)[^\n]*\n +(?P<text>.+)', re.MULTILINE
)
_LONGEST_FILE = 1024 * 1024
_MOST_FILES = 20


def changed_lines(traceback: str, folder: Path) -> list[dict[str, Any]]:
    """List the lines of a traceback that the files of a folder do not have any more.

    The text of an error can name any file, so no other file is read.

    Args:
        traceback: its text.
        folder: the folder of the app.

    Returns:
        for each line its `file` and `line`, and its text `then` and `now`.
    """
    changed: dict[tuple[str, int], dict[str, Any]] = {}
    files: dict[str, list[str] | None] = {}
    for frame in _FRAME.finditer(traceback):
        file, line, then = frame["file"], int(frame["line"][:9]), frame["text"].strip()
        if file not in files:
            if len(files) == _MOST_FILES:
                break
            files[file] = _read(file, folder)
        lines = files[file]
        if lines is None:
            continue
        now = lines[line - 1].strip() if 0 < line <= len(lines) else ""
        if now != then:
            shown = Path(file).resolve().relative_to(folder).as_posix()
            changed[file, line] = {"file": shown, "line": line, "then": then, "now": now}
    return [*changed.values()]


def _read(file: str, folder: Path) -> list[str] | None:
    """Return the lines of a file; None if it is not in the folder or cannot be read."""
    with suppress(OSError, ValueError):
        path = Path(file).resolve()
        if path.is_relative_to(folder) and path.stat().st_size <= _LONGEST_FILE:
            return path.read_text("utf-8", "replace").splitlines()
    return None
