"""The bodies of deliveries from the options `--sample`, `--file` and `--set`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubhooks._samples import (
    compact,
    read_value,
    sample_json,
    suggest_path,
    with_overrides,
)
from hubhooks._terminal import single_line
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SET_HELP", "file_body", "parse_assignments", "sample_body", "warn_about_paths"]

SET_HELP = (
    "Set a field of the body, for example repo.name=me/x or updatedRefs.0.newSha=null. The value "
    "is JSON, or else a string. Repeatable."
)


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse the values of `--set`: dotted paths and their new values.

    Raises:
        ConfigError: one has no value.
    """
    overrides = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            msg = f"--set {assignment} has no value; write path=value"
            raise ConfigError(msg)
        overrides[path] = read_value(text)
    return overrides


def warn_about_paths(
    overrides: Mapping[str, Any], payload: Mapping[str, Any] | None = None
) -> None:
    """Warn about paths of --set that the Hub does not document: they may be misspelt."""
    for path in overrides:
        if near := suggest_path(path, payload or {}):
            text = f"warning: --set {path}: the Hub documents no such field; the nearest is {near}"
            sys.stderr.write(f"{single_line(text)}\n")


def sample_body(name: str, overrides: Mapping[str, Any]) -> bytes:
    """Return the body of a sample with changed fields."""
    return compact(with_overrides(sample_json(name), overrides))


def file_body(file: str, overrides: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the name and the bytes of a file, or of standard input for `-`.

    Raises:
        ConfigError: it cannot be read; or fields are to be changed, and it is not a JSON object.
    """
    is_stdin = file == "-"
    name = "(stdin)" if is_stdin else Path(file).name
    if is_stdin and sys.stdin is None:
        msg = "cannot read standard input: it is closed"
        raise ConfigError(msg)
    try:
        body = sys.stdin.buffer.read() if is_stdin else Path(file).read_bytes()
    except OSError as error:
        msg = f"cannot read {file}: {error.strerror}"
        raise ConfigError(msg) from error
    if not overrides:
        return name, body
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        msg = f"{name} is not a JSON object, so --set cannot change it: send it without --set"
        raise ConfigError(msg)
    changed = compact(with_overrides(payload, overrides))
    warn_about_paths(overrides, payload)
    return name, changed
