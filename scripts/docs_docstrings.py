"""Give the reference the docstrings of the compiled classes: an extension of griffe.

Their signatures and types are in `_core.pyi`, which griffe reads; their docstrings are in the
compiled module alone, so that there is one place to write them.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import griffe

if TYPE_CHECKING:
    from griffe import GriffeLoader, Module

CORE = "_core"


class CompiledDocstrings(griffe.Extension):
    """Looks up each member of the stub in the module that it describes."""

    def on_package(
        self,
        *,
        pkg: Module,
        loader: GriffeLoader,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401, ARG002
    ) -> None:
        """Add them once all of the package is read."""
        if CORE in pkg.members:
            describe(pkg[CORE], griffe.dynamic_import(f"{pkg.name}.{CORE}"))


def describe(described: griffe.Object, found: object) -> None:
    """Add the docstrings of all that a module or class has."""
    for name, member in described.members.items():
        if member.is_alias or name.startswith("_"):
            continue
        member_found = getattr(found, name)
        if not member.is_attribute or "property" in member.labels:
            # That of a property is with the property, not with its value.
            text = inspect.getdoc(inspect.getattr_static(found, name)) or inspect.getdoc(
                member_found
            )
            member.docstring = griffe.Docstring(text or "", parent=member)
        if member.is_class:
            describe(member, member_found)
            show_constructor(member)


def show_constructor(described: griffe.Class) -> None:
    """Let the parameters of `__new__` be those of the class, as those of `__init__` would be."""
    constructor = described.members.get("__new__")
    if constructor is not None:
        described.set_member("__init__", constructor)
