"""Add the docstrings of the compiled classes to the reference: an extension of griffe.

griffe reads signatures and types from `_core.pyi`. The docstrings are only in the compiled module.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import griffe

if TYPE_CHECKING:
    from griffe import GriffeLoader, Module

CORE = "_core"


class CompiledDocstrings(griffe.Extension):
    """Copies docstrings from the compiled module to the members of its stub."""

    def on_package(
        self,
        *,
        pkg: Module,
        loader: GriffeLoader,  # noqa: ARG002
        **kwargs: Any,  # noqa: ANN401, ARG002
    ) -> None:
        """Add the docstrings after griffe has read the package."""
        if CORE in pkg.members:
            describe(pkg[CORE], griffe.dynamic_import(f"{pkg.name}.{CORE}"))


def describe(described: griffe.Object, found: object) -> None:
    """Add the docstrings of all members of a module or class."""
    for name, member in described.members.items():
        if member.is_alias or name.startswith("_"):
            continue
        member_found = getattr(found, name)
        if not member.is_attribute or "property" in member.labels:
            # The docstring of a property is on the property, not on its value.
            text = inspect.getdoc(inspect.getattr_static(found, name)) or inspect.getdoc(
                member_found
            )
            member.docstring = griffe.Docstring(text or "", parent=member)
        if member.is_class:
            describe(member, member_found)
            show_constructor(member)


def show_constructor(described: griffe.Class) -> None:
    """Show the parameters of `__new__` with the class, like those of an `__init__`."""
    constructor = described.members.get("__new__")
    if constructor is not None:
        described.set_member("__init__", constructor)
