"""The sample deliveries of the package, and functions that change them.

All samples belong to one invented organisation, `ada-labs`, which forecasts tides. grace-h retrains
the model `tide-forecast` on the dataset `tide-gauges` in pull request 3. In discussion 7 grace-h
asks `@my-bot` to check the gauges. `tide-map` is a Space. The bucket `gauge-uploads` receives raw
readings, and finished work moves to `sea-archive`. The same object has the same id in every sample.
"""

from __future__ import annotations

import copy
import difflib
import functools
import json
import re
from collections import Counter
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TypeAlias

__all__ = [
    "compact",
    "describe",
    "read_value",
    "sample_json",
    "sample_names",
    "scope_and_action",
    "suggest_path",
    "wire_path",
    "with_overrides",
]

_FOLDER = resources.files("hubhooks") / "samples"
_SUFFIX = ".json"
_VERSION = 3
_FLATTENED = ("action", "scope")  # fields of an event that are nested on the wire
_KINDS = {
    bool: "true or false",
    float: "a number",
    int: "a number",
    str: "a string",
    type(None): "null",
}
_CAMEL = re.compile("_([a-z])")
_SNAKE = re.compile("[A-Z]")
_INDEX = re.compile(r"\.\d+(?=\.|$)")

# A tree of keys. All items of a list share the key `_ITEM`.
_Outline: TypeAlias = "dict[str, _Outline]"
_ITEM = "[]"


def sample_names() -> list[str]:
    """Return the sorted names of the samples: `<scope>.<action>`, some with a suffix."""
    return sorted(
        entry.name.removesuffix(_SUFFIX)
        for entry in _FOLDER.iterdir()
        if entry.name.endswith(_SUFFIX)
    )


def sample_json(name: str) -> dict[str, Any]:
    """Read one sample; every call returns a new dict.

    Raises:
        ConfigError: no sample has this name.
    """
    names = sample_names()
    if name not in names:
        near = ", ".join(f"`{name}`" for name in difflib.get_close_matches(name, names, cutoff=0))
        msg = f"there is no sample `{name}`; the nearest are {near}"
        raise ConfigError(msg)
    payload: dict[str, Any] = json.loads((_FOLDER / f"{name}{_SUFFIX}").read_bytes())
    return payload


def with_overrides(payload: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a payload and set values in the copy.

    Args:
        payload: the original, which is not changed.
        overrides: dotted paths and their new values, such as `{"updatedRefs.0.newSha": None}`.
            Missing objects and lists are created. The index after the last one appends.

    Raises:
        ConfigError: a path leads through a value that is neither an object nor a list.
    """
    changed = copy.deepcopy(dict(payload))
    for path, value in overrides.items():
        _set(changed, path, value)
    return changed


def wire_path(payload: Mapping[str, Any], name: str) -> str:
    """Translate a Python name such as `repo__head_sha` into a dotted path.

    Args:
        payload: the payload. Its own keys are valid too.
        name: names of fields, as in Python or in the JSON, and list indexes, joined by two
            underscores.

    Raises:
        ConfigError: neither the payload nor any sample has such a field.
    """
    pieces = name.split("__")
    if pieces[0] in _FLATTENED and isinstance(payload.get("event"), dict):
        pieces.insert(0, "event")
    outline = _merged(_documented(), _outline(payload))
    path: list[str] = []
    for piece in pieces:
        if _ITEM in outline:
            key, is_right = piece, piece.isdecimal()
        else:
            key = piece if piece in outline else _CAMEL.sub(_upper, piece)
            # `updatedConfig` has arbitrary keys.
            is_right = key in outline or "updatedConfig" in path
        if not is_right:
            raise ConfigError(_unknown(payload, name))
        path.append(key)
        outline = outline.get(_ITEM if _ITEM in outline else key, {})
    return ".".join(path)


def suggest_path(path: str, payload: Mapping[str, Any]) -> str:
    """Return the documented path most similar to an unknown one; empty if the path is known.

    Args:
        path: a dotted path, as for `with_overrides`.
        payload: the payload. Its own paths are known too.
    """
    same_index = _INDEX.sub(".0", path)
    known = [*_paths(_merged(_documented(), _outline(payload)))]
    # `updatedConfig` has arbitrary keys.
    if same_index in known or path.startswith("updatedConfig."):
        return ""
    same_end = [other for other in known if other.endswith(f".{same_index}")]
    near = (same_end or difflib.get_close_matches(same_index, known, n=1, cutoff=0))[0]
    indexes = iter(_INDEX.findall(path))
    return _INDEX.sub(lambda match: next(indexes, match[0]), near)


def read_value(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Parse a value of the command line as JSON, or return it as a string."""
    try:
        value = json.loads(text)
        # Python also parses `NaN`, `Infinity` and `1e999`, which are not valid JSON.
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


def compact(payload: Mapping[str, Any]) -> bytes:
    """Serialize a payload as UTF-8 JSON without white space between tokens."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    # UTF-8 has no lone surrogates; Python's escape for one happens to be JSON's.
    return text.encode("utf-8", "backslashreplace")


def scope_and_action(payload: Mapping[str, Any]) -> tuple[str, str]:
    """Read the scope and the action; in version 2, `event` is the action itself."""
    event = payload["event"]
    if isinstance(event, str):
        return payload["scope"], event
    return event["scope"], event["action"]


def describe(payload: Mapping[str, Any]) -> str:
    """Summarize a sample in one line."""
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


@functools.cache
def _documented() -> _Outline:
    """Return the outline of all samples together, which contain every documented field."""
    return functools.reduce(_merged, (_outline(sample_json(name)) for name in sample_names()))


def _outline(value: Any) -> _Outline:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {key: _outline(member) for key, member in value.items()}
    if isinstance(value, list):
        return {_ITEM: functools.reduce(_merged, map(_outline, value), {})}
    return {}


def _merged(one: _Outline, other: _Outline) -> _Outline:
    keys = dict.fromkeys((*one, *other))
    return {key: _merged(one.get(key, {}), other.get(key, {})) for key in keys}


def _upper(match: re.Match[str]) -> str:
    return match[1].upper()


def _unknown(payload: Mapping[str, Any], name: str) -> str:
    names = [*_FLATTENED, *_names(_merged(_documented(), _outline(payload)))]
    same_end = [known for known in names if known.endswith(f"__{name}")]
    nearest = (same_end or difflib.get_close_matches(name, names, n=1, cutoff=0))[0]
    return (
        f"there is no field `{name}`; the nearest is `{nearest}`. Set a field that the Hub does "
        "not document with `extra=`"
    )


def _names(outline: _Outline, above: str = "") -> Iterator[str]:
    for key, below in outline.items():
        name = above + ("0" if key == _ITEM else _SNAKE.sub(lambda m: f"_{m[0].lower()}", key))
        yield name
        yield from _names(below, f"{name}__")


def _paths(outline: _Outline, above: str = "") -> Iterator[str]:
    for key, below in outline.items():
        path = above + ("0" if key == _ITEM else key)
        yield path
        yield from _paths(below, f"{path}.")


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
    """Convert one piece of a path into a key or an index of this node."""
    if isinstance(node, dict) and key:
        return key
    if isinstance(node, list) and key in map(str, range(len(node) + 1)):
        return int(key)
    msg = f"cannot set `{path}`: {_obstacle(node, key)}"
    raise ConfigError(msg)


def _obstacle(node: Any, key: str) -> str:  # noqa: ANN401
    if not key:
        return "write names and list indexes with single dots between, such as `repo.owner.id`"
    if isinstance(node, list):
        return f"`{key}` is not an index of this list of {len(node)}: use 0 to {len(node)}"
    found = _KINDS.get(type(node), type(node).__name__)
    return f"`{key}` cannot be inside {found}: only an object or a list can contain it"


def _is_missing(node: Any, place: str | int) -> bool:  # noqa: ANN401
    return place not in node if isinstance(node, dict) else place == len(node)


def _put(node: Any, place: Any, value: Any) -> None:  # noqa: ANN401
    if isinstance(node, list):
        node[place : place + 1] = [value]  # appends if the index is the length
    else:
        node[place] = value
