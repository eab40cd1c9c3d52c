"""Find the markers of a test from the functions that it and its fixtures call."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

from pythons import environment, find_chromium
from servers import started

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

_TESTS = Path(__file__).parent
_MARKERS = {started: "servers", find_chromium: "browser", environment: "network"}


def markers_of(test: pytest.Function) -> set[str]:
    """Return the markers of all functions that a test or one of its fixtures can reach."""
    fixtures = test._fixtureinfo.name2fixturedefs.values()  # noqa: SLF001 - pytest has no public list
    functions = [test.function, *(each.func for defined in fixtures for each in defined)]
    return {_MARKERS[each] for each in _reached(functions) if each in _MARKERS}


def _reached(functions: list[object]) -> set[FunctionType]:
    """Follow the names in the code of functions to other functions of the tests."""
    reached: set[FunctionType] = set()
    while functions:
        function = functions.pop()
        if isinstance(function, FunctionType) and function not in reached:
            reached.add(function)
            functions.extend(_called(function))
    return reached


@cache
def _called(function: FunctionType) -> list[FunctionType]:
    inner = _unwrapped(function)
    found = (inner.__globals__.get(name) for name in _names(inner.__code__))
    return [each for each in found if isinstance(each, FunctionType) and _is_test_code(each)]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_test_code(function: FunctionType) -> bool:
    return Path(_unwrapped(function).__code__.co_filename).is_relative_to(_TESTS)


def _unwrapped(function: FunctionType) -> FunctionType:
    # `contextmanager` wraps the function with the code.
    inner = inspect.unwrap(function)
    return inner if isinstance(inner, FunctionType) else function
