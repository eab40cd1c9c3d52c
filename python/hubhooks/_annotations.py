"""Read the annotation of the event parameter, and compare it with the classes of the events.

Annotations are user code, and may contain names that are imported only for type checkers. So they
are not evaluated: names are looked up. An annotation that cannot be read is ignored.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import types
from typing import TYPE_CHECKING, Annotated, Any, ForwardRef, Union, get_args, get_origin

from hubhooks import _core
from hubhooks._core import (
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    DiscussionEvent,
    HubEvent,
    RepoEvent,
)
from hubhooks._functions import layers, signature_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["event_annotation", "takes_any_of"]

_CLASSES = (HubEvent, RepoEvent, ContentEvent, ConfigEvent, DiscussionEvent, CommentEvent)
_BY_NAME = {known.__name__: known for known in _CLASSES}
_UNKNOWN = object()


def event_annotation(
    function: Callable[..., object], signature: inspect.Signature | None = None
) -> tuple[str, tuple[type, ...]] | None:
    """Read the annotation of the first parameter of a function.

    Args:
        function: a handler, a hook or a `when`.
        signature: its signature, if it was read before.

    Returns:
        The name of the parameter and its classes, several for a union. None if it has no
        annotation, or one that cannot be read.
    """
    try:
        signature = signature or signature_of(function)
        parameter = next(iter(signature.parameters.values()), None)
        if parameter is None or parameter.annotation is inspect.Parameter.empty:
            return None
        found = tuple(_classes_in(parameter.annotation, _Names(function)))
    except Exception:  # noqa: BLE001 - user code in annotations can raise anything
        return None
    if not found or any(cls is _UNKNOWN for cls in found):
        return None
    is_event = all(issubclass(cls, HubEvent) for cls in found)
    if hasattr(function, "__wrapped__") and not is_event:
        # The decorator may pass only a part of the event to the function.
        return None
    return parameter.name, found


class _Names:
    """Looks up names in the annotations of a function."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._scopes = [
            scope
            for layer in layers(function, through_decorators=True)
            if isinstance(scope := getattr(layer, "__globals__", None), dict)
        ]

    def find(self, node: ast.expr) -> object:
        """Find the object of a name such as `ContentEvent` or `hubhooks.ContentEvent`."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            for scope in (*self._scopes, vars(builtins)):
                if node.id in scope:
                    return scope[node.id]
            return _core if node.id == "hubhooks" else _BY_NAME.get(node.id, _UNKNOWN)
        if isinstance(node, ast.Attribute):
            module = self.find(node.value)
            if isinstance(module, types.ModuleType):
                return vars(module).get(node.attr, _UNKNOWN)
        return _UNKNOWN


def _classes_in(annotation: object, names: _Names) -> Iterator[Any]:
    """List the classes that an annotation allows, and `_UNKNOWN` for any other part of it."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        yield from _classes_in_code(ast.parse(annotation.strip(), mode="eval").body, names)
    elif get_origin(annotation) is Annotated:
        yield from _classes_in(get_args(annotation)[0], names)
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _classes_in(part, names)
    elif annotation is None or annotation is type(None):
        pass
    elif annotation is Any:  # a class since Python 3.11
        yield _UNKNOWN
    elif isinstance(annotation, type) and get_origin(annotation) is None:
        yield _UNKNOWN if getattr(annotation, "_is_protocol", False) else annotation
    else:
        yield _UNKNOWN


def _classes_in_code(node: ast.expr, names: _Names) -> Iterator[Any]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _classes_in_code(node.left, names)
        yield from _classes_in_code(node.right, names)
    elif isinstance(node, ast.Subscript):
        generic = ast.unparse(node.value).rpartition(".")[2]
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if generic not in ("Annotated", "Optional", "Union"):
            yield _UNKNOWN
            return
        for part in inside[:1] if generic == "Annotated" else inside:
            yield from _classes_in_code(part, names)
    else:
        yield from _classes_in(names.find(node), names)


def takes_any_of(annotated: Iterable[type], given: Iterable[type[HubEvent]]) -> bool:
    """Return whether the annotation allows an event of at least one of the given classes."""
    try:
        return any(issubclass(cls, wanted) for cls in given for wanted in annotated)
    except Exception:  # noqa: BLE001 - `__subclasscheck__` of a user's class can raise anything
        return True
