"""The annotation of the parameter that takes the event, compared to the events that come.

Annotations are the user's code, and names in them may be imported for type checkers only. So no
annotation is evaluated: names are looked up, and an annotation that is not understood says nothing.
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
    """Read what the first parameter of a function is annotated with.

    Args:
        function: a handler, a hook or a `when`.
        signature: its signature, where that was read already.

    Returns:
        the parameter's name and the classes, several for a union; None where there is no
        annotation, or one that is not understood.
    """
    try:
        signature = signature or signature_of(function)
        parameter = next(iter(signature.parameters.values()), None)
        if parameter is None or parameter.annotation is inspect.Parameter.empty:
            return None
        found = tuple(_classes_in(parameter.annotation, _Names(function)))
    except Exception:  # noqa: BLE001 - objects in annotations are the user's, and may do anything
        return None
    if not found or any(one is _UNKNOWN for one in found):
        return None
    is_event = all(issubclass(one, HubEvent) for one in found)
    if hasattr(function, "__wrapped__") and not is_event:
        # The decorator may hand on a part of the event.
        return None
    return parameter.name, found


class _Names:
    """Finds the objects that names in the annotations of a function stand for."""

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
    """List the classes that an annotation allows, with `_UNKNOWN` for all else."""
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
    """Whether an event of one of the given classes is what the annotation says."""
    try:
        return any(issubclass(one, wanted) for one in given for wanted in annotated)
    except Exception:  # noqa: BLE001 - a class of the user decides what its subclasses are
        return True
