"""The pages of the site are whole: what is made of the code is of this code, and all is shown."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

from hubhooks import State
from hubhooks.receiver import ANSWERS, ENDINGS, UNREAD_BODIES

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
        "hubhooks.models",
        "hubhooks.testing",
        "pytest_hubhooks",
    ],
)
def test_the_reference_shows_all_that_is_public(module: str) -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    shown = {name for page in pages for name in SHOWN.findall(page.read_text("utf-8"))}
    assert "hubhooks.errors" in shown
    # Some names of `hubhooks.models` are shown as names of `hubhooks`, where users import them.
    shown |= {name.replace("hubhooks.", "hubhooks.models.", 1) for name in shown}
    names = exported(module)
    assert names
    assert sorted({*names} - shown - ELSEWHERE) == []


def rows(page: str, heading: str) -> list[list[str]]:
    """Read the rows of the tables below a heading, without the tables' heads."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    start = text.index(f"\n## {heading}\n") + 1
    section = text[start:].split("\n## ")[0]
    tables = re.findall(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", section + "\n", re.MULTILINE)
    lines = "".join(tables).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([\w.]+)=?`", cell)


def first_names(page: str, heading: str) -> set[str]:
    return {name for row in rows(page, heading) for name in names(row[0])}


def variables_in_code() -> set[str]:
    """Find the environment variables that the code names."""
    found: set[str] = set()
    for path in (ROOT / "python").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                is_name = re.fullmatch(r"(HF|HUBHOOKS|OAUTH|OPENID|SPACE|WEBHOOK)_\w+", node.value)
                found |= {node.value} if is_name else set()
            if isinstance(node, ast.Call) and re.search(
                r"(\b(environ|variables)\.get|\.setdefault|getenv)$", ast.unparse(node.func)
            ):
                key = node.args[0]
                is_upper = isinstance(key, ast.Constant) and str(key.value).isupper()
                found |= {str(ast.literal_eval(key))} if is_upper else set()
    return found


def test_environment_page_lists_all_variables() -> None:
    listed = {
        name
        for heading in ("Settings of an app", "Settings of the command line", "Set by the Hub")
        for name in first_names("environment.md", heading)
    }
    assert listed == variables_in_code()


def test_deliveries_page_lists_all_states() -> None:
    assert first_names("deliveries.md", "States") == {str(state) for state in State}


def test_changes_of_state_name_only_states() -> None:
    states = {str(state) for state in State}
    for source, _, target in rows("deliveries.md", "Changes of state"):
        assert {*names(source), *names(target)} <= states


def test_state_diagram_shows_the_states_of_runs() -> None:
    svg = (ROOT / "docs" / "images" / "states.svg").read_text("utf-8")
    shown = set(re.findall(r'class="name"[^>]*>(\w+)<', svg))
    assert shown == {str(state) for state in State} - {"unhandled", "malformed"}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", svg)


def test_http_page_lists_all_rejections() -> None:
    words = [*ANSWERS.values(), *UNREAD_BODIES.values()]
    rejections = {(str(line.http), line.reason) for line in words if line.status == "rejected"}
    listed = {(row[1], row[2]) for row in rows("http.md", "Rejected requests")}
    assert listed == rejections


def test_http_page_lists_all_other_responses() -> None:
    words = [*ANSWERS.values(), *ENDINGS.values()]
    headings = ("New deliveries", "Known deliveries", "Wait for the handlers")
    listed = {(row[1], *names(row[2])) for heading in headings for row in rows("http.md", heading)}
    assert listed == {(str(line.http), line.status) for line in words} - {
        (str(line.http), "rejected") for line in words
    }


def parameters_of_on() -> set[str]:
    """Read the keyword arguments of `Router.on` from its types."""
    tree = ast.parse((ROOT / "python" / "hubhooks" / "routing.py").read_text("utf-8"))
    return {
        ast.unparse(field.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name in {"Criteria", "CommentCriteria"}
        for field in node.body
        if isinstance(field, ast.AnnAssign)
    }


def test_pages_list_all_parameters_of_on() -> None:
    filters = first_names("filters.md", "All filters")
    options = first_names("retries.md", "Options")
    assert filters
    assert options
    assert not filters & options
    # `name=` is neither a filter nor about retries.
    assert filters | options == parameters_of_on() - {"name"}


def test_filters_page_lists_the_documented_values() -> None:
    tree = ast.parse((ROOT / "python" / "hubhooks" / "_values.py").read_text("utf-8"))
    literals = {
        ast.unparse(node.target): ast.literal_eval(node.value.slice)
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Subscript)
        if ast.unparse(node.value.value) == "Literal"
    }
    listed = {row[0]: tuple(names(row[1])) for row in rows("filters.md", "Documented values")}
    assert listed == {
        "`action`": literals["Action"],
        "`repo_type`": literals["RepoType"],
        "`status`": literals["Status"],
    }
