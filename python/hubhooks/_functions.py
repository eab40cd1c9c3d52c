"""Functions that users hand in: whether they are async, what they take, what they returned."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import sys
from types import AsyncGeneratorType, FunctionType, GeneratorType, MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["check_ran", "is_async", "layers", "settle", "signature_of", "wraps_async", "yields"]

# `types.coroutine` makes awaitable generators.
_AWAITABLE = inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
# How `inspect` and `asyncio` mark a function that returns a coroutine without being an `async def`.
# Not asked by `inspect.iscoroutinefunction`, which takes a `MagicMock(spec=function)` for one, nor
# by `asyncio.iscoroutinefunction`, which Python 3.14 warns of.
_MARKS = {"_is_coroutine": getattr(asyncio.coroutines, "_is_coroutine", None)}
if sys.version_info >= (3, 12):
    # The name of its mark is private, and not the same in all versions.
    _MARKS |= vars(inspect.markcoroutinefunction(lambda: None))
# What a function decorated with `contextmanager` or `asynccontextmanager` returns.
_CONTEXT_MANAGERS: Any = getattr(contextlib, "_GeneratorContextManagerBase", ())
# Of a proxy that has every attribute, layers would never end.
_MOST_LAYERS = 100


def layers(
    function: Callable[..., object], *, through_decorators: bool = False
) -> Iterator[Callable[..., Any]]:
    """List a function, and what it calls: behind partials, methods, an object's `__call__`.

    Args:
        function: any callable.
        through_decorators: also follow `__wrapped__`, which `functools.wraps` sets.
    """
    for _ in range(_MOST_LAYERS):
        yield function
        inner = function.func if isinstance(function, functools.partial) else None
        if inner is None and through_decorators:
            inner = getattr(function, "__wrapped__", None)
        if inner is None:
            is_routine = inspect.isroutine(function)
            inner = getattr(function, "__func__", None) if is_routine else type(function).__call__
        if not callable(inner):
            return
        function = inner


def is_async(function: Callable[..., object]) -> bool:
    """Whether a call is known to return a coroutine."""
    return any(_is_coroutine_function(layer) for layer in layers(function))


def wraps_async(function: Callable[..., object]) -> bool:
    """Whether a function is async, or a decorator's wrapper of an async function."""
    inner = layers(function, through_decorators=True)
    return any(_is_coroutine_function(layer) for layer in inner)


def yields(function: Callable[..., object]) -> bool:
    """Whether a call is known to return a generator or a context manager, and to run nothing."""
    for layer in layers(function):
        flags = _flags(layer)
        if flags & _GENERATOR and not flags & _AWAITABLE:
            return True
        # `contextmanager` and `asynccontextmanager` wrap a generator function and never run it.
        if getattr(layer, "__globals__", None) is vars(contextlib):
            wrapped = getattr(layer, "__wrapped__", None)
            return wrapped is not None and bool(_flags(wrapped) & _GENERATOR)
    return False


def signature_of(function: Callable[..., object]) -> inspect.Signature:
    """Read the parameters of a function, without evaluating its annotations.

    Raises:
        TypeError: it has none that can be read.
        ValueError: it has none that can be read.
    """
    # A mock with the `spec` of a function takes what that function takes.
    spec = getattr(function, "_spec_signature", None) if inspect.isroutine(function) else None
    if isinstance(spec, inspect.Signature):
        return spec
    if isinstance(function, FunctionType | MethodType) and hasattr(function, "__wrapped__"):
        # A decorator that names its parameters takes those; one with `*args` hands them on.
        own = _read(function, follow_wrapped=False)
        if all(parameter.kind != parameter.VAR_POSITIONAL for parameter in own.parameters.values()):
            return own
    try:
        return _read(function)
    except TypeError:
        # On Python 3.10 `inspect` takes an `AsyncMock` for a function and stumbles over it.
        call = getattr(function, "__call__", None)  # noqa: B004 - to read it, not to test for it
        if not isinstance(call, MethodType):
            raise
        return _read(call)


def _read(
    function: Callable[..., object],
    **options: Any,  # noqa: ANN401 - those of `inspect.signature`
) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        # By default it evaluates the annotations, and fails on names that a module imports only
        # for type checkers.
        import annotationlib  # noqa: PLC0415 - there is none before

        options["annotation_format"] = annotationlib.Format.FORWARDREF
    return inspect.signature(function, **options)


async def settle(value: object) -> object:
    """Give the result of an awaited function, and check that its body ran.

    Raises:
        TypeError: the body never ran.
    """
    # An async function may return a coroutine, a task or another awaitable of the work it began.
    while inspect.isawaitable(value):
        value = await value
    check_ran(value)
    return value


def check_ran(value: object) -> None:
    """Check by what a function returned that its body ran.

    Raises:
        TypeError: the function returned something that runs the body only when it is used.
    """
    what, right = "", "write it without `yield`"
    if inspect.iscoroutine(value):
        # Python warns of a coroutine that is neither awaited nor closed.
        value.close()
        what, right = "a coroutine", "write it as a plain `def`"
    elif _is_open_generator(value):
        what = "a generator"
    elif isinstance(value, _CONTEXT_MANAGERS) and _is_open_generator(getattr(value, "gen", None)):
        what = "a context manager"
    elif isinstance(value, FunctionType):
        what, right = "another function", "perhaps a decorator lacks its parentheses"
    if what:
        msg = f"the function returned {what}, so its body never ran; {right}"
        raise TypeError(msg)


def _is_open_generator(value: object) -> bool:
    if isinstance(value, GeneratorType):
        return value.gi_frame is not None
    return isinstance(value, AsyncGeneratorType) and value.ag_frame is not None


def _is_coroutine_function(function: Callable[..., object]) -> bool:
    is_marked = any(
        mark is not None and getattr(function, name, None) is mark for name, mark in _MARKS.items()
    )
    return is_marked or bool(_flags(function) & _AWAITABLE)


def _flags(function: object) -> int:
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    # A mock has mocks there.
    return flags if isinstance(flags, int) else 0
