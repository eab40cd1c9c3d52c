"""Inspect functions of users: whether they are async, their parameters, and their results."""

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
# The marks of `inspect` and `asyncio` on a function that returns a coroutine without `async def`.
# `inspect.iscoroutinefunction` is wrong about `MagicMock(spec=function)`, and Python 3.14 warns
# about `asyncio.iscoroutinefunction`. So neither is used.
_MARKS = {"_is_coroutine": getattr(asyncio.coroutines, "_is_coroutine", None)}
if sys.version_info >= (3, 12):
    # The name of this mark is private, and differs between versions of Python.
    _MARKS |= vars(inspect.markcoroutinefunction(lambda: None))
# The class of the objects that functions with `contextmanager` or `asynccontextmanager` return.
_CONTEXT_MANAGERS: Any = getattr(contextlib, "_GeneratorContextManagerBase", ())
# The limit of `layers`: an object with every attribute, such as a proxy, would never end.
_MOST_LAYERS = 100


def layers(
    function: Callable[..., object], *, through_decorators: bool = False
) -> Iterator[Callable[..., Any]]:
    """List a function and the functions behind it: of partials, methods and `__call__`.

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
    """Return whether a call is known to return a coroutine."""
    return any(_is_coroutine_function(layer) for layer in layers(function))


def wraps_async(function: Callable[..., object]) -> bool:
    """Return whether a function is async, or a decorator's wrapper of an async function."""
    inner = layers(function, through_decorators=True)
    return any(_is_coroutine_function(layer) for layer in inner)


def yields(function: Callable[..., object]) -> bool:
    """Return whether a call returns a generator or a context manager, and runs no other code."""
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
        TypeError: the object has no signature that can be read.
        ValueError: the object is a built-in function without a signature.
    """
    # A mock with the `spec` of a function has the parameters of that function.
    spec = getattr(function, "_spec_signature", None) if inspect.isroutine(function) else None
    if isinstance(spec, inspect.Signature):
        return spec
    if isinstance(function, FunctionType | MethodType) and hasattr(function, "__wrapped__"):
        # A wrapper with `*args` passes them on, so the signature of the wrapped function counts.
        own = _read(function, follow_wrapped=False)
        if all(parameter.kind != parameter.VAR_POSITIONAL for parameter in own.parameters.values()):
            return own
    try:
        return _read(function)
    except TypeError:
        # On Python 3.10, `inspect.signature` fails for an `AsyncMock`.
        call = getattr(function, "__call__", None)  # noqa: B004 - its value is used
        if not isinstance(call, MethodType):
            raise
        return _read(call)


def _read(
    function: Callable[..., object],
    **options: Any,  # noqa: ANN401 - options of `inspect.signature`
) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        # The default evaluates annotations, which fails for names that are imported only for type
        # checkers.
        import annotationlib  # noqa: PLC0415 - new in Python 3.14

        options["annotation_format"] = annotationlib.Format.FORWARDREF
    return inspect.signature(function, **options)


async def settle(value: object) -> object:
    """Return the result of an async function, and check that the function's code ran.

    Raises:
        TypeError: the function's code never ran.
    """
    # An async function can return another awaitable, such as a coroutine or a task.
    while inspect.isawaitable(value):
        value = await value
    check_ran(value)
    return value


def check_ran(value: object) -> None:
    """Check by the return value of a function that its code ran.

    Raises:
        TypeError: the function returned an object that runs the code later, such as a generator.
    """
    what, right = "", "write it without `yield`"
    if inspect.iscoroutine(value):
        # Closed, because Python warns about a coroutine that is neither awaited nor closed.
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
    # The attribute of a mock is another mock.
    return flags if isinstance(flags, int) else 0
