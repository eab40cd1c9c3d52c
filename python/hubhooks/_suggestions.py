"""Hints for unknown names of arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["nearest", "suggestion"]


def suggestion(
    name: str, known: Iterable[str], other_names: Mapping[str, str], default: str
) -> str:
    """Return a hint about an unknown argument.

    Args:
        name: the unknown name.
        known: the names of the arguments.
        other_names: common wrong names, each with the right name or a whole hint.
        default: the hint if no name is similar.
    """
    near = nearest(name, (*known, *other_names))
    right = other_names.get(name) or other_names.get(near, near)
    if " " in right:
        return right
    return f"did you mean `{right}=`?" if right else default


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most similar to a misspelt one; empty if none is similar."""
    import difflib  # noqa: PLC0415 - slow to import, and only a mistake needs it

    (near,) = difflib.get_close_matches(name, list(known), 1) or ("",)
    return near
