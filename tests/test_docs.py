"""The pages of the site are whole: what is made of the code is of this code, and all is shown."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = runpy.run_path(str(ROOT / "scripts" / "docs_pages.py"))["PAGES"]
SHOWN = re.compile(r"^::: (\S+)$", re.MULTILINE)
# What is shown otherwise: `errors` is a module, shown as one, and the version says itself.
ELSEWHERE = {"hubhooks.errors", "hubhooks.__version__"}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_made_of_the_code_is_up_to_date(name: str) -> None:
    path = ROOT / name
    is_same = path.exists() and path.read_text("utf-8") == PAGES[name]()
    assert is_same, f"{name} is old: run `python scripts/docs_pages.py`"


def exported(module: str) -> list[str]:
    path = ROOT / "python" / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [f"{module}.{name}" for name in ast.literal_eval(node.value)]
    return []


@pytest.mark.parametrize(
    "module",
    [
        "hubhooks",
        "hubhooks.fastapi",
        "hubhooks.gradio",
        "hubhooks.job",
        "hubhooks.testing",
        "pytest_hubhooks",
    ],
)
def test_the_reference_shows_all_that_is_public(module: str) -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    shown = {name for page in pages for name in SHOWN.findall(page.read_text("utf-8"))}
    assert "hubhooks.errors" in shown
    names = exported(module)
    assert names
    assert sorted({*names} - shown - ELSEWHERE) == []
