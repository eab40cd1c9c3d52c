"""The sample deliveries that come with the package, and small changes to them.

They tell one story. The organisation `ada-labs` forecasts tides: grace-h retrains the model
`tide-forecast` on the dataset `tide-gauges` in pull request 3, asks `@my-bot` in discussion 7 to
check the gauges, and everybody looks at the space `tide-map`. Raw readings arrive in the bucket
`gauge-uploads`; finished work moves to `sea-archive`. All names, ids and hashes are invented, and
what is the same thing has the same id in every sample.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections import Counter
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "compact",
    "describe",
    "read_value",
    "sample_json",
    "sample_names",
    "scope_and_action",
    "with_overrides",
]

_FOLDER = resources.files("hubhooks") / "samples"
_SUFFIX = ".json"
_VERSION = 3


def sample_names() -> list[str]:
    """Name every sample, sorted: `<scope>.<action>`, then a word for what is special about it."""
    return sorted(
        entry.name.removesuffix(_SUFFIX)
        for entry in _FOLDER.iterdir()
        if entry.name.endswith(_SUFFIX)
    )


def sample_json(name: str) -> dict[str, Any]:
    """Read one sample; every call gives a new dict.

    Raises:
        ConfigError: no sample has this name.
    """
    names = sample_names()
    if name not in names:
        near = ", ".join(f"`{name}`" for name in difflib.get_close_matches(name, names, cutoff=0))
        msg = f"no sample is named `{name}`; the nearest are {near}"
        raise ConfigError(msg)
    payload: dict[str, Any] = json.loads((_FOLDER / f"{name}{_SUFFIX}").read_bytes())
    return payload


def with_overrides(payload: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a payload and set values in the copy.

    Args:
        payload: what to start from; it stays as it is.
        overrides: dotted paths and their new values, as in `{"updatedRefs.0.newSha": None}`.
            What is missing on the way is made, and the index just past the end of a list appends.

    Raises:
        ConfigError: a path leads through something that is neither an object nor a list.
    """
    changed = copy.deepcopy(dict(payload))
    for path, value in overrides.items():
        _set(changed, path, value)
    return changed


def read_value(text: str) -> Any:  # noqa: ANN401, any JSON value is possible
    """Read a value typed by a person: as JSON where it is valid JSON, else as the string it is."""
    try:
        value = json.loads(text)
        # Python also reads `NaN`, `Infinity` and `1e999`, which no JSON body can carry.
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


def compact(payload: Mapping[str, Any]) -> bytes:
    """Write a payload as the body of a delivery: UTF-8, no white space between tokens."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    # UTF-8 has no lone surrogates; Python's escape for one happens to be JSON's.
    return text.encode("utf-8", "backslashreplace")


def scope_and_action(payload: Mapping[str, Any]) -> tuple[str, str]:
    """Read both as they are on the wire, where version 2 has the action alone as `event`."""
    event = payload["event"]
    if isinstance(event, str):
        return payload["scope"], event
    return event["scope"], event["action"]


def describe(payload: Mapping[str, Any]) -> str:
    """Say in one line what a sample is about."""
    repo = payload["repo"]
    subject = f"{repo['type']} {repo['name']}"
    return "; ".join([subject, *_talk(payload), *_changes(payload), *_age(payload)])


def _talk(payload: Mapping[str, Any]) -> Iterator[str]:
    if discussion := payload.get("discussion"):
        kind = "pull request" if discussion["isPullRequest"] else "discussion"
        pinned = ", pinned" if discussion.get("pinned") else ""
        yield f"{kind} {discussion['num']}, {discussion['status']}{pinned}"
    if comment := payload.get("comment"):
        is_opening_post = scope_and_action(payload)[0] == "discussion"
        hidden = "hidden " if comment["hidden"] else ""
        yield f"{hidden}{'opening post' if is_opening_post else 'comment'}"


def _changes(payload: Mapping[str, Any]) -> Iterator[str]:
    if moved_to := payload.get("movedTo"):
        yield f"moved to {moved_to if isinstance(moved_to, str) else moved_to['name']}"
    for ref in payload.get("updatedRefs", ()):
        change = "created" if not ref["oldSha"] else "updated" if ref["newSha"] else "deleted"
        yield f"{ref['ref']} {change}"
    if files := payload.get("updatedFiles"):
        counts = Counter(file["action"] for file in files)
        yield "files: " + ", ".join(f"{count} {action}" for action, count in counts.items())
    if payload.get("updatedFilesTruncated"):
        yield "list of files cut short"
    if "updatedConfig" in payload:
        yield f"settings {json.dumps(payload['updatedConfig'])}"


def _age(payload: Mapping[str, Any]) -> Iterator[str]:
    if "author" in payload["repo"]:
        yield "older shape with repo.author"
    if (version := payload["webhook"]["version"]) != _VERSION:
        yield f"version {version}"


def _set(payload: dict[str, Any], path: str, value: Any) -> None:  # noqa: ANN401
    keys = path.split(".")
    node: Any = payload
    for key, next_key in pairwise(keys):
        place = _place(node, key, path)
        if _is_missing(node, place):
            _put(node, place, [] if next_key.isdecimal() else {})
        node = node[place]
    _put(node, _place(node, keys[-1], path), value)


def _place(node: Any, key: str, path: str) -> str | int:  # noqa: ANN401
    """Turn a piece of a path into the key or the index it means in this node."""
    if isinstance(node, dict) and key:
        return key
    if isinstance(node, list) and key in map(str, range(len(node) + 1)):
        return int(key)
    msg = f"cannot set `{path}`: {_obstacle(node, key)}"
    raise ConfigError(msg)


def _obstacle(node: Any, key: str) -> str:  # noqa: ANN401
    if not key:
        return "a path is names and list indexes with single dots between, as in `repo.owner.id`"
    if isinstance(node, list):
        return f"`{key}` is no index of a list of {len(node)}; use 0 to {len(node)}"
    return f"`{key}` cannot be inside {type(node).__name__}, only inside an object or a list"


def _is_missing(node: Any, place: str | int) -> bool:  # noqa: ANN401
    return place not in node if isinstance(node, dict) else place == len(node)


def _put(node: Any, place: Any, value: Any) -> None:  # noqa: ANN401
    if isinstance(node, list):
        node[place : place + 1] = [value]  # which appends when the place is just past the end
    else:
        node[place] = value
