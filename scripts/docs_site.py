"""Hook of MkDocs: add the pages from outside `docs/`, adapt the links, write `llms.txt`.

The changelog, the examples and a few other files of the repository become pages. Links to such
files lead to their pages. A link whose text is a file name gets the title of the page as its text.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.nav import Navigation
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
DOCS = "docs/"
EXAMPLES = "examples/"
SKILL = "python/hubhooks/SKILL.md"
# The files that become pages as they are.
DOCUMENTS = {
    SKILL: "agents.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
# A section of the README is a page too. Other links to the README lead to the home page.
INSTALL = "install.md"
SOURCES = {**{page: source for source, page in DOCUMENTS.items()}, INSTALL: "README.md"}
PAGES = {**DOCUMENTS, "README.md": "index.md"}
# `scripts/docs_pages.py` writes them, so nobody edits them.
GENERATED = {"cli.md", "payloads.md"}
LANGUAGES = {".md": "yaml", ".py": "python", ".txt": "text"}
FENCED = re.compile(r"^(`{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\[\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
FILE_NAME = re.compile(r"[\w./-]+\.md")
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
INSTALL_SECTION = re.compile(r"^## Install\n(.*?)^## ", re.MULTILINE | re.DOTALL)
FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n+", re.DOTALL)
VERSION = re.compile(r'^version = "(.+)"$', re.MULTILINE)
REMOTE = re.compile(r"(?:https://(?:[^@/]+@)?|git@)github\.com[:/]([^/\s]+/[^/\s]+?)(?:\.git)?/?")
# A paragraph that begins like this is no prose: a heading, code, a table, a list, HTML, a picture.
NOT_PROSE = ("#", "`" * 3, "|", "* ", "- ", "<", "!", ":::", "1.")
SENTENCE = re.compile(r".*?(?:[.!?](?=\s|$)|:$)", re.DOTALL)
DOCSTRING = re.compile(r'"""(.+?)(?:"""|$)', re.MULTILINE)
LINKED = re.compile(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])")

# For `llms.txt`: the first sentence of each page, by its file.
summaries: dict[str, str] = {}
site_nav: list[Navigation] = []


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set what depends on the checkout: the version and the links to the repository."""
    version = version_of((ROOT / "Cargo.toml").read_text("utf-8"))
    config.site_name = f"hubhooks {version}"
    config.copyright = "Apache-2.0"
    if url := repository_url():
        config.repo_url = url
        config.repo_name = url.removeprefix("https://github.com/")
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are not in `docs/`."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - the tests run without MkDocs

    summaries.clear()
    site_nav.clear()
    for page, text in added_pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def added_pages() -> dict[str, str]:
    """Return the text of each page that is not in `docs/`."""
    pages = {
        page: FRONT_MATTER.sub("", (ROOT / source).read_text("utf-8"))
        for source, page in DOCUMENTS.items()
    }
    section = INSTALL_SECTION.search((ROOT / "README.md").read_text("utf-8"))
    pages[INSTALL] = f"# Install\n{section[1] if section else ''}"
    for path in sorted((ROOT / EXAMPLES).iterdir()):
        # `hubhooks dev` keeps its secrets in a hidden folder.
        if (path.is_dir() and not path.name.startswith(".")) or path.suffix == ".py":
            pages[f"{EXAMPLES}{path.stem}.md"] = example_page(path)
    return pages


def on_nav(nav: Navigation, *, config: MkDocsConfig, files: Files) -> Navigation:  # noqa: ARG001
    """Keep the navigation for `llms.txt`."""
    site_nav.append(nav)
    return nav


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Adapt the links of a page, and its link to the source."""
    name = page.file.src_uri
    summaries[name] = summary(markdown)
    if config.repo_url and name not in GENERATED:
        page.edit_url = f"{config.repo_url}/edit/main/{source_of(name)}"
    return "".join(
        piece if is_fenced else LINK.sub(lambda link: relinked(link, name, config.repo_url), piece)
        for is_fenced, piece in pieces(markdown)
    )


def on_post_build(*, config: MkDocsConfig) -> None:
    """Write `llms.txt`."""
    base = config.site_url or ""
    lines = ["# hubhooks", "", f"> {config.site_description}."]
    for section in site_nav[0].items:
        lines += ["", f"## {section.title}", ""]
        lines += [
            llms_line(page.title or "", base + page.url, summaries[page.file.src_uri])
            for page in pages_of(section)
        ]
    Path(config.site_dir, "llms.txt").write_text("\n".join([*lines, ""]), "utf-8")


def pages_of(item: Page | object) -> list[Page]:
    """Return the pages of a section, with those of its sections."""
    if getattr(item, "is_page", False):
        return [item]  # type: ignore[list-item]
    return [page for child in getattr(item, "children", ()) or () for page in pages_of(child)]


def llms_line(title: str, url: str, sentence: str) -> str:
    """Return the line of one page."""
    return f"- [{title}]({url or './'})" + (f": {sentence}" if sentence else "")


def summary(markdown: str) -> str:
    """Return the first sentence of a page, without its markup.

    A page of code alone is described by the first line of the code's docstring.
    """
    for block in FENCED.sub("", markdown).split("\n\n"):
        if (text := block.strip()) and not text.startswith(NOT_PROSE):
            sentence = SENTENCE.match(text)
            plain = LINKED.sub(r"\1", sentence[0] if sentence else text).replace("**", "")
            return " ".join(plain.split()).removesuffix(":")
    docstring = DOCSTRING.search(markdown)
    return docstring[1] if docstring else ""


def version_of(manifest: str) -> str:
    """Return the version in a `Cargo.toml`."""
    version = VERSION.search(manifest)
    if version is None:
        msg = "Cargo.toml has no version"
        raise ValueError(msg)
    return version[1]


def repository_url() -> str | None:
    """Return the URL of this repository on GitHub, or None if the checkout does not name one."""
    name = os.environ.get("GITHUB_REPOSITORY")
    if name:
        return f"https://github.com/{name}"
    command = ["git", "remote", "get-url", "origin"]
    try:
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return github_url(run.stdout.strip())


def github_url(remote: str) -> str | None:
    """Return the page of a git remote on GitHub; None for other hosts, which may be private."""
    found = REMOTE.fullmatch(remote)
    return f"https://github.com/{found[1]}" if found else None


def pieces(markdown: str) -> list[tuple[bool, str]]:
    """Split a text into code blocks (True) and the rest (False)."""
    found, end = [], 0
    for fence in FENCED.finditer(markdown):
        found += [(False, markdown[end : fence.start()]), (True, fence[0])]
        end = fence.end()
    return [*found, (False, markdown[end:])]


def relinked(link: re.Match[str], page: str, repository: str | None) -> str:
    """Turn a link between files of the repository into a link between pages.

    A file without a page is linked in the repository, if its URL is known.
    """
    text, path, anchor = link.groups()
    source = posixpath.normpath(posixpath.join(posixpath.dirname(source_of(page)), path))
    found = page_of(source)
    if source == "README.md" and anchor == "#install":
        found, anchor = (INSTALL, ""), None
    if found is None:
        if not (ROOT / source).exists():  # MkDocs warns
            return link[0]
        return f"[{text}]({repository}/blob/main/{source})" if repository else text
    target, own_anchor = found
    if FILE_NAME.fullmatch(text):
        text = title(source)
    relative = posixpath.relpath(target, posixpath.dirname(page) or ".")
    return f"[{text}]({relative}{anchor or own_anchor})"


def title(source: str) -> str:
    """Return the first heading of a file."""
    path = ROOT / source
    heading = TITLE.search(path.read_text("utf-8")) if path.exists() else None
    return heading[1] if heading else source


def source_of(page: str) -> str:
    """Return the file of the repository that a page is made from."""
    if page in SOURCES:
        return SOURCES[page]
    if page.startswith(EXAMPLES):
        name = page.removesuffix(".md")
        return f"{name}/README.md" if (ROOT / name).is_dir() else f"{name}.py"
    return DOCS + page


def page_of(source: str) -> tuple[str, str] | None:
    """Return the page of a file and the anchor on it, or None if the file is on no page."""
    if source in PAGES:
        return PAGES[source], ""
    if source.startswith(DOCS):
        return source.removeprefix(DOCS), ""
    if not source.startswith(EXAMPLES) or not (ROOT / source).exists():
        return None
    name, _, file = source.removeprefix(EXAMPLES).partition("/")
    has_heading = file not in {"", "README.md"}
    return f"{EXAMPLES}{Path(name).stem}.md", f"#{file.replace('.', '')}" if has_heading else ""


def example_page(path: Path) -> str:
    """Return the page of an example: the text of its README, then its files."""
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
        sections.append(f"## README.md\n\nThe file begins with\n\n{block(settings[0], '.md')}")
    return "\n".join(sections)


def block(text: str, suffix: str) -> str:
    """Return a file as a code block."""
    return f"````{LANGUAGES[suffix]}\n{text.rstrip()}\n````\n"
