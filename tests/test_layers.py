"""The layers of the package: imports go down only, and no module uses another one's private names.

`docs/design.md` describes the layers.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import hubhooks

PACKAGE = Path(hubhooks.__file__).parent
ROOT = Path(__file__).parent.parent
# From the bottom. A module imports only from its own row and from rows above it in this list.
LAYERS: list[set[str]] = [
    {"_core", "errors", "_suggestions", "_values"},
    {
        "_annotations", "_app_code", "_encoders", "_environment", "_fork", "_functions", "_logging",
        "_process", "_pydantic", "_reentrant", "_samples", "_terminal", "_verifiers",
    },
    {"models"},
    {"handlers"},
    {"ordering"},
    {"routing", "_store"},
    {"_http", "_http.types", "_worker"},
    {"_http.body", "_http.receiver"},
    {"_http.app"},
    {"webhooks"},
    # `hubhooks` itself.
    {""},
    {"admin", "_gradio_private", "_fastapi_openapi", "_load_app"},
    {"fastapi", "gradio", "job"},
    {"admin.gradio_tab", "admin.tab_html"},
    {"dev"},
    {"cli", "testing"},
]  # fmt: skip
# Methods of `Webhooks` import what only their callers need. Another test limits what a plain
# `import hubhooks` loads.
LAZY = {
    "webhooks": {
        "admin", "admin.access", "admin.app", "admin.gradio_tab", "admin.http_api",
        "admin.queries", "fastapi", "gradio", "job",
    }
}  # fmt: skip


class Import(NamedTuple):
    """An import of a module of the package."""

    importer: str
    imported: str


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


MODULES = modules()


def module_of(dotted: str) -> str | None:
    """Return the module of the package that a dotted name is in, without `hubhooks.`."""
    if dotted != "hubhooks" and not dotted.startswith("hubhooks."):
        return None
    name = dotted.removeprefix("hubhooks").removeprefix(".")
    return name if name in MODULES or name == "_core" else name.rpartition(".")[0]


def imports() -> list[Import]:
    found = []
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            dotted: list[str] = []
            if isinstance(node, ast.ImportFrom):
                dotted = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                dotted = [alias.name for alias in node.names]
            found += [
                Import(name, module)
                for module in map(module_of, dotted)
                if module is not None and module != name
            ]
    return found


def rank(module: str) -> int:
    for number, layer in enumerate(LAYERS):
        if module in layer:
            return number
    parent = module.rpartition(".")[0]
    assert module, "the package itself has a layer"
    assert parent, f"`{module}` has no layer: add it to LAYERS"
    return rank(parent)


def test_imports_go_down_only() -> None:
    wrong = [
        f"{each.importer} imports {each.imported}"
        for each in imports()
        if rank(each.imported) > rank(each.importer)
        and each.imported not in LAZY.get(each.importer, set())
    ]
    assert wrong == []


def test_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for each in imports():
        if each.imported in graph and each.imported not in LAZY.get(each.importer, set()):
            graph[each.importer].add(each.imported)
    # Modules without imports are removed repeatedly. The remaining ones have a cycle.
    while leaves := {name for name, imported in graph.items() if not imported}:
        graph = {name: imported - leaves for name, imported in graph.items() if name not in leaves}
    assert sorted(graph) == []


def private_names(tree: ast.Module) -> set[str]:
    """Return the private names that a module defines or assigns anywhere."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}
PRIVATE = {name: private_names(tree) for name, tree in MODULES.items()}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_module_uses_no_private_attribute_of_another(name: str) -> None:
    others = set[str]().union(*(names for other, names in PRIVATE.items() if other != name))
    wrong = {
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.Attribute)
        and node.attr in others - PRIVATE[name] - OF_NAMED_TUPLES
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    }
    assert wrong == set()


def test_environment_is_read_in_one_module() -> None:
    readers = {
        name
        for name, tree in MODULES.items()
        if any(
            isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
            for node in ast.walk(tree)
        )
    }
    assert readers == {"_environment"}


# Longer ones do more than one thing. Exceptions: a path or a class name, with its length and why.
MOST_LINES = {"module": 600, "class": 400}
LONGER: dict[str, tuple[int, str]] = {}


def test_no_module_or_class_is_too_long() -> None:
    lengths: dict[str, int] = {}
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text("utf-8")
        name = path.relative_to(PACKAGE).as_posix()
        if (lines := len(text.splitlines())) > MOST_LINES["module"]:
            lengths[name] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                assert node.end_lineno is not None
                if (lines := node.end_lineno - node.lineno + 1) > MOST_LINES["class"]:
                    lengths[f"{name}: {node.name}"] = lines
    too_long = {
        name: lines for name, lines in lengths.items() if lines > LONGER.get(name, (0, ""))[0]
    }
    assert too_long == {}
    assert set(LONGER) <= set(lengths), "no longer an exception: remove it from LONGER"


def test_paths_of_pyright_exist() -> None:
    """Pyright ignores a path of `strict` that does not exist, so a rename would turn it off."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    # Python 3.10 has no `tomllib`.
    settings = text[text.index("[tool.pyright]") : text.index("[tool.ruff]")]
    strict = re.findall(r'"([^"]+)"', settings[settings.index("strict = [") :].partition("]")[0])
    assert len(strict) > 20
    assert [path for path in strict if not (ROOT / path).exists()] == []
