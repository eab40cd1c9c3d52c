"""Make the site of what GitHub shows: a hook of MkDocs.

The README, the changelog and the examples stand outside `docs/`, and links lead to them where they
stand. Here they become pages, and those links lead to the pages. A link called by the name of its
file is called by the title of the page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = "docs/"
EXAMPLES = "examples/"
DOCUMENTS = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
SOURCES = {page: source for source, page in DOCUMENTS.items()}
LANGUAGES = {".md": "yaml", ".py": "python", ".txt": "text"}
FENCED = re.compile(r"^(`{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?:\[([\w./-]+\.md)\]|\])\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n+", re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are not in `docs/`."""
    for source, page in DOCUMENTS.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    for path in sorted((ROOT / EXAMPLES).iterdir()):
        if path.is_dir() or path.suffix == ".py":
            text = example_page(path)
            files.append(File.generated(config, f"{EXAMPLES}{path.stem}.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Let links lead to pages."""
    place = page.file.src_uri
    return "".join(
        piece if is_fenced else LINK.sub(lambda link: relinked(link, place), piece)
        for is_fenced, piece in pieces(markdown)
    )


def pieces(markdown: str) -> list[tuple[bool, str]]:
    """Cut a text into what is code and what is not."""
    found, end = [], 0
    for fence in FENCED.finditer(markdown):
        found += [(False, markdown[end : fence.start()]), (True, fence[0])]
        end = fence.end()
    return [*found, (False, markdown[end:])]


def relinked(link: re.Match[str], place: str) -> str:
    """Turn a link between files of the repository into one between pages."""
    file_name, path, anchor = link.groups()
    source = posixpath.normpath(posixpath.join(posixpath.dirname(source_of(place)), path))
    found = page_of(source)
    if found is None:  # MkDocs warns of it
        return link[0]
    page, own_anchor = found
    words = f"[{title(source)}]" if file_name else "]"
    relative = posixpath.relpath(page, posixpath.dirname(place) or ".")
    return f"{words}({relative}{anchor or own_anchor})"


def title(source: str) -> str:
    """Give the first heading of a file."""
    heading = TITLE.search((ROOT / source).read_text("utf-8"))
    return heading[1] if heading else source


def source_of(page: str) -> str:
    """Say where in the repository the text of a page is."""
    if page in SOURCES:
        return SOURCES[page]
    if page.startswith(EXAMPLES):
        return f"{page.removesuffix('.md')}/README.md"
    return DOCS + page


def page_of(source: str) -> tuple[str, str] | None:
    """Say on which page a file of the repository is, and where on it; None if it is on none."""
    if source in DOCUMENTS:
        return DOCUMENTS[source], ""
    if source.startswith(DOCS):
        return source.removeprefix(DOCS), ""
    if not source.startswith(EXAMPLES) or not (ROOT / source).exists():
        return None
    name, _, file = source.removeprefix(EXAMPLES).partition("/")
    has_heading = file not in {"", "README.md"}
    return f"{EXAMPLES}{Path(name).stem}.md", f"#{file.replace('.', '')}" if has_heading else ""


def example_page(path: Path) -> str:
    """Show an example: what its README says, and its files."""
    if not path.is_dir():
        return f"# {path.name}\n\n{block(path.read_text('utf-8'), '.py')}"
    text = (path / "README.md").read_text("utf-8")
    settings = FRONT_MATTER.match(text)
    sections = [FRONT_MATTER.sub("", text)]
    files = [file for file in sorted(path.iterdir()) if file.suffix in {".py", ".txt"}]
    sections += [
        f"## {file.name}\n\n{block(file.read_text('utf-8'), file.suffix)}" for file in files
    ]
    if settings is not None:
        sections.append(f"## README.md\n\nIt begins with\n\n{block(settings[0], '.md')}")
    return "\n".join(sections)


def block(text: str, suffix: str) -> str:
    """Show a file as code."""
    return f"````{LANGUAGES[suffix]}\n{text.rstrip()}\n````\n"
