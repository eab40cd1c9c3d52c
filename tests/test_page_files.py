"""The files of the page: vendored code is unchanged, nothing is inline, and all of it is small."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from pathlib import Path

PAGE = Path(__file__).parents[1] / "python" / "hubhooks" / "page"
# Of the package `lit-html` 3.3.3 on npm.
VENDORED = {
    "LICENSE": "2b66f9390afde29edfe4314daff93f01fb182e1178053e228120178987e5db75",
    "VERSION": "8d26d4b5ae14e1e1a8f87fc52c8ab111cc88dab2587400aea990a02adf58399d",
    "directive-helpers.js": "f7fb1154b8f72ed2cc08b05eaeed71c99270e9ad2d48620ed24688a1af4c2b62",
    "directive.js": "3344c4f41c69cd0701d3937e8f9ef90bd845614bf6456d0b8314b7c51d415b9d",
    "directives/repeat.js": "083140026ecd8665fedd15b17769f9d516252a9f1502f1e91e6967686ee82626",
    "lit-html.js": "b878e7f95dec8a9b6e9b217faca6b6a11bad82ebc44c0caa77419ed83edd81f2",
}
LARGEST = 60_000


def files() -> list[Path]:
    return sorted(path for path in PAGE.rglob("*") if path.is_file())


def test_vendored_files_are_those_of_the_release() -> None:
    folder = PAGE / "vendor" / "lit-html"
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files()
        if path.is_relative_to(folder)
    }
    assert found == VENDORED


def test_page_is_small() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files():
            archive.write(path, path.relative_to(PAGE))
    assert len(packed.getvalue()) < LARGEST


def test_imports_and_links_lead_to_files_of_the_page() -> None:
    for path in files():
        if path.suffix == ".js":
            names = re.findall(r"""(?:from|import)\s*"([^"]+)";""", path.read_text("utf-8"))
        elif path.suffix == ".html":
            names = re.findall(r"""(?:src|href)="([^"]+)\"""", path.read_text("utf-8"))
        else:
            continue
        for name in names:
            assert (path.parent / name).resolve() in files(), (path.name, name)


def test_no_script_and_no_style_is_inline() -> None:
    html = (PAGE / "index.html").read_text("utf-8")
    assert re.findall(r"<script[^>]*>([^<]+)</script>|<style|\son\w+=|\sstyle=", html) == []
    for path in PAGE.glob("*.js"):
        text = path.read_text("utf-8")
        assert not re.search(r"\sstyle=|\bon[a-z]+=\"|innerHTML|\beval\(|new Function", text), path
        # Only links that the Hub's payloads name, and no request to another host.
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"https://huggingface.co"}, path
