"""The pages of the site are complete, and generated pages match the code."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = runpy.run_path(str(ROOT / "scripts" / "docs_pages.py"))["PAGES"]
SHOWN = re.compile(r"^::: (\S+)$", re.MULTILINE)
# Names without their own entry: `errors` is shown as a module, and the version needs none.
ELSEWHERE = {"hubhooks.errors", "hubhooks.__version__"}


@pytest.mark.parametrize("name", PAGES)
def test_generated_page_is_up_to_date(name: str) -> None:
    path = ROOT / name
    is_same = path.exists() and path.read_text("utf-8") == PAGES[name]()
    assert is_same, f"{name} is old: run `python scripts/docs_pages.py`"


def test_development_page_names_the_keys_and_buttons_of_the_page() -> None:
    text = (ROOT / "docs" / "dev.md").read_text("utf-8")
    page = ROOT / "python" / "hubhooks" / "page"
    keys = re.findall(r'^  \["(.+?)", ', (page / "keys.js").read_text("utf-8"), re.MULTILINE)
    table = text[text.index("## Keys") : text.index("In the dialog, Ctrl+Enter")]
    rows = re.findall(r"^\| (.+?) \| ", table, re.MULTILINE)[1:]
    assert [row.replace("`", "") for row in rows] == keys
    code = "".join(path.read_text("utf-8").lower() for path in sorted(page.glob("*.js")))
    labels = re.findall(r"\*\*(.+?)\*\*", text)
    assert len(labels) >= 15
    assert [label for label in labels if label.lower() not in code] == []


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
def test_reference_lists_all_public_names(module: str) -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    shown = {name for page in pages for name in SHOWN.findall(page.read_text("utf-8"))}
    assert "hubhooks.errors" in shown
    # Some names of `hubhooks.models` are shown as names of `hubhooks`, where users import them.
    shown |= {name.replace("hubhooks.", "hubhooks.models.", 1) for name in shown}
    names = exported(module)
    assert names
    assert sorted({*names} - shown - ELSEWHERE) == []


# ---- the site ----------------------------------------------------------------------------------


NAV = re.compile(r"^ +- (.+): (\S+\.md)$", re.MULTILINE)
SITE = runpy.run_path(str(ROOT / "scripts" / "docs_site.py"))
FENCE = re.compile(r"^ *```(python|sh)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COLUMNS = 92
# Pages for visitors. The others are for maintainers or made of the code.
READ = [
    ROOT / "README.md",
    *sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "design.md"}),
    ROOT / "python" / "hubhooks" / "SKILL.md",
]


def nav() -> dict[str, str]:
    """Return the pages of the site with their titles in the navigation."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    return {page: title for title, page in NAV.findall(text)}


def texts() -> dict[str, str]:
    """Return the pages of the site with their text."""
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).as_posix(): path for path in docs.rglob("*.md")}
    read = {page: path.read_text("utf-8") for page, path in pages.items()}
    return {**read, **SITE["added_pages"]()}


def test_navigation_has_every_page_once() -> None:
    entries = [page for _, page in NAV.findall((ROOT / "mkdocs.yml").read_text("utf-8"))]
    assert sorted(entries) == sorted(texts())


def test_page_titles_are_unique() -> None:
    titles = list(nav().values())
    headings = [heading[1] for text in texts().values() if (heading := SITE["TITLE"].search(text))]
    assert len(headings) == len(texts())
    assert {title for title in titles if titles.count(title) > 1} == set()
    assert {heading for heading in headings if headings.count(heading) > 1} == set()


@pytest.mark.parametrize("path", READ, ids=lambda path: path.name)
def test_code_fits_its_column(path: Path) -> None:
    blocks = FENCE.findall(path.read_text("utf-8"))
    lines = [line for _, code in blocks for line in code.splitlines()]
    assert [line for line in lines if len(line) > COLUMNS] == []


@pytest.mark.parametrize(
    ("markdown", "sentence"),
    [
        ("# Jobs\n\nA webhook starts a\n**Job**. And more.", "A webhook starts a Job."),
        ("# Jobs\n\n![A job](job.png)\n\nA [Job](jobs.md) runs.", "A Job runs."),
        ("# Jobs\n\nVersion 0.1 runs [jobs](jobs.md) here:\n\n* one", "Version 0.1 runs jobs here"),
        ('# job.py\n\n````python\n"""Run a job.\n\nAnd more.\n"""\n````\n', "Run a job."),
        ("# Jobs\n\n::: hubhooks.job\n", ""),
    ],
)
def test_summary_of_a_page_is_its_first_sentence(markdown: str, sentence: str) -> None:
    assert SITE["summary"](markdown) == sentence


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("https://github.com/ada-labs/hubhooks.git", "https://github.com/ada-labs/hubhooks"),
        ("https://ada:key@github.com/ada-labs/hubhooks", "https://github.com/ada-labs/hubhooks"),
        ("git@github.com:ada-labs/hubhooks.git", "https://github.com/ada-labs/hubhooks"),
        ("https://git.example/ada-labs/hubhooks", None),
        ("/srv/hubhooks", None),
        ("", None),
    ],
)
def test_site_links_to_a_repository_on_github_only(remote: str, url: str | None) -> None:
    assert SITE["github_url"](remote) == url


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    built = subprocess.run(
        [*command, "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    # From disk too: the search index is a script, and no page loads a file of another host.
    assert (tmp_path / "search" / "search_index.js").exists()
    loaded = re.compile(r'<(?:script|img|iframe)[^>]+src="?https?:|<link[^>]+href="?https?:')
    pages = [*tmp_path.rglob("*.html")]
    assert [page.name for page in pages if loaded.search(page.read_text("utf-8"))] == []
    listed = re.findall(r"^- \[(.+)\]\((\S+)\)", (tmp_path / "llms.txt").read_text(), re.MULTILINE)
    assert [title for title, _ in listed] == list(nav().values())
    assert [url for _, url in listed if not (tmp_path / url).exists()] == []


def test_pictures_are_small() -> None:
    sizes = [path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()]
    assert sum(sizes) < 600_000


def test_every_picture_is_shown() -> None:
    text = "".join(texts().values()) + (ROOT / "mkdocs.yml").read_text("utf-8")
    names = [path.name for path in (ROOT / "docs" / "images").iterdir()]
    assert [name for name in names if f"images/{name}" not in text] == []


# ---- the page for coding agents ----------------------------------------------------------------

SKILL = ROOT / "python" / "hubhooks" / "SKILL.md"


def test_skill_has_the_front_matter_of_agent_skills() -> None:
    front = re.match(r"---\nname: hubhooks\ndescription: (.+)\n---\n", SKILL.read_text("utf-8"))
    assert front is not None
    assert len(front[1]) <= 1024


def test_skill_prints_its_path() -> None:
    command = re.search(r'^python -c "(.+)"$', SKILL.read_text("utf-8"), re.MULTILINE)
    assert command is not None
    run = subprocess.run(
        [sys.executable, "-c", command[1]], capture_output=True, text=True, check=True
    )
    assert Path(run.stdout.strip()).name == "SKILL.md"
    assert Path(run.stdout.strip()).exists()


def test_skill_is_short() -> None:
    assert len(SKILL.read_text("utf-8").splitlines()) <= 150
