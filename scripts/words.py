"""Check the words of code and docs: old names, old phrases and long sentences.

    python scripts/words.py                 # everything
    python scripts/words.py README.md ...   # some files

`scripts/words.toml` has the lists. The exit code is 1 if there is a finding.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^( *)(`{3,}|~{3,})")
CODE_SPAN = re.compile(r"(`+)(.+?)\1")
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
HTML = re.compile(r"<[^>]*>")
# A list item, a heading, a quote, or an argument of a docstring begins a paragraph.
BEGINS = re.compile(r"^\s*([*+-] |\d+[.)] |#+ |> |\|)")
ARGUMENT = re.compile(r"^\s{4,}\w+: ")
SECTION = re.compile(r"^\s*(Args|Returns|Raises|Yields|Source):")
# A full stop ends a sentence before a capital letter, a code span or a quote.
END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)[.!?][)\"'*]*\s+(?=[A-Z`(\"'*\[])|[;:](?=\s*$)")
COMMENT_MARKS = re.compile(r"^\s*(///?|//!|#+)\s?")
RUST_COMMENT = re.compile(r"^\s*//[/!]?( .*)?$")
RUST_STRING = re.compile(r'"(?:\\.|[^"\\])*"')


class Text(NamedTuple):
    """A paragraph of prose, and where it begins."""

    line: int
    words: str


class Finding(NamedTuple):
    """A fault in a file."""

    path: str
    line: int
    check: str
    text: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[Text]:
    """Join the lines of each paragraph. List items, table cells and arguments stand alone."""
    begun, words = 0, list[str]()

    def done() -> Iterator[Text]:
        text = " ".join(words).strip()
        if text:
            yield Text(begun, text)
        words.clear()

    for number, line in lines:
        stripped = line.strip()
        if stripped.startswith("|"):
            yield from done()
            for cell in re.split(r"(?<!\\)\|", CODE_SPAN.sub("`code`", stripped)):
                if cell.strip(" -:"):
                    yield Text(number, cell.strip())
            continue
        if not stripped or BEGINS.match(line) or ARGUMENT.match(line) or SECTION.match(line):
            yield from done()
        if stripped:
            if not words:
                begun = number
            words.append(BEGINS.sub("", ARGUMENT.sub("", line)).strip())
    yield from done()


def markdown_prose(text: str) -> Iterator[Text]:
    """Read the prose of Markdown, without code blocks and front matter."""
    kept: list[tuple[int, str]] = []
    fence = ""
    lines = text.splitlines()
    start = 0
    if lines and lines[0] == "---" and "---" in lines[1:]:
        start = lines.index("---", 1) + 1
    for number, line in enumerate(lines[start:], start + 1):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[2]
            kept.append((number, ""))
        elif mark and line.strip().startswith(fence):
            fence = ""
        elif not fence and not line.startswith((":::", "    options:", "<!--", "[!")):
            kept.append((number, line))
    return paragraphs(kept)


def python_prose(text: str) -> Iterator[Text]:
    """Read docstrings, comments and help texts."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                lines = docstring_lines(node.value.value)
                yield from paragraphs((node.lineno + at, line) for at, line in lines)
        elif isinstance(node, ast.keyword) and node.arg == "help":
            value = node.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield from paragraphs([(value.lineno, value.value)])
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            line = COMMENT_MARKS.sub("", token.string)
            if comments and token.start[0] != comments[-1][0] + 1:
                comments.append((token.start[0] - 1, ""))
            comments.append((token.start[0], line))
    yield from paragraphs(comments)


def docstring_lines(text: str) -> Iterator[tuple[int, str]]:
    """Read a docstring, without code blocks, which are indented after a blank line."""
    is_after_blank = is_code = False
    is_in_section = False
    for at, line in enumerate(text.splitlines()):
        if SECTION.match(line):
            is_in_section = True
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            is_after_blank = True
        else:
            deep = 8 if is_in_section else 4
            is_code = not is_in_section and indent >= deep and (is_after_blank or is_code)
            is_after_blank = False
        if not is_code or not line.strip():
            yield at, line


def rust_prose(text: str) -> Iterator[Text]:
    """Read the comments of Rust."""
    lines = [
        (number, COMMENT_MARKS.sub("", line) if RUST_COMMENT.match(line) else "")
        for number, line in enumerate(text.splitlines(), 1)
    ]
    return paragraphs(lines)


def prose(path: Path) -> Iterator[Text]:
    """Read the prose of a file."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return markdown_prose(text)
    return rust_prose(text) if path.suffix == ".rs" else python_prose(text)


def plain(text: str) -> str:
    """Remove what is not prose: links keep their text, and a code span is one word."""
    return HTML.sub("", LINK.sub(r"\1", CODE_SPAN.sub("`code`", text)))


def sentences(text: str) -> list[str]:
    """Split a paragraph into sentences."""
    return [sentence for sentence in END.split(plain(text)) if sentence.strip()]


def count_words(sentence: str) -> int:
    """Count the words of a sentence; marks and dashes do not count."""
    return sum(any(sign.isalnum() for sign in word) for word in sentence.split())


def names_of(path: Path) -> Iterator[tuple[int, str]]:
    """Read the names in code, without comments and strings."""
    text = path.read_text("utf-8")
    if path.suffix == ".rs":
        for number, line in enumerate(text.splitlines(), 1):
            code = RUST_STRING.sub('""', line).split("//")[0]
            yield from ((number, name) for name in re.findall(r"[A-Za-z_]\w*", code))
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def strings_of(path: Path) -> Iterator[tuple[int, str]]:
    """Read the string constants of Python code."""
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def check_names(path: Path, shown: str, rules: dict[str, Any]) -> Iterator[Finding]:
    """Find old names and old values of settings."""
    old = rules["identifiers"]
    for line, name in names_of(path):
        if name in old:
            message = f"`{name}` is an old name; write `{old[name]}`"
            yield Finding(shown, line, "name", name, message)
    for line, value in strings_of(path):
        if value in rules["strings"]:
            message = f"`{value!r}` is an old word; write {rules['strings'][value]!r}"
            yield Finding(shown, line, "name", value, message)


def check_phrases(path: Path, shown: str, rules: dict[str, Any]) -> Iterator[Finding]:
    """Find old phrases."""
    patterns = [
        (re.compile(one["pattern"], re.IGNORECASE | re.MULTILINE), one["write"])
        for one in rules["phrases"]
    ]
    for line, text in prose(path):
        words = plain(text)
        for pattern, write in patterns:
            if found := pattern.search(words):
                message = f"`{found[0].strip()}` in `{words[:80]}`; write {write}"
                yield Finding(shown, line, "phrase", words, message)


def check_sentences(path: Path, shown: str, rules: dict[str, Any]) -> Iterator[Finding]:
    """Find long sentences."""
    most = rules["scope"]["max_words"]
    for line, text in prose(path):
        for sentence in sentences(text):
            count = count_words(sentence)
            if count > most:
                message = f"a sentence of {count} words, over {most}: `{sentence.strip()[:70]}...`"
                yield Finding(shown, line, "sentence", sentence, message)


CHECKS = {
    "identifiers": check_names,
    "phrases": check_phrases,
    "sentences": check_sentences,
}


def find(rules: dict[str, Any], root: Path, chosen: Sequence[Path] = ()) -> list[Finding]:
    """Run all checks on the files of their scope, and leave out the exceptions."""
    wanted = {path.resolve() for path in chosen}
    findings: list[Finding] = []
    for scope, check in CHECKS.items():
        paths = {path for pattern in rules["scope"][scope] for path in root.glob(pattern)}
        for path in sorted(paths):
            if path.is_file() and (not wanted or path.resolve() in wanted):
                findings += check(path, path.relative_to(root).as_posix(), rules)
    exceptions = rules.get("exceptions", [])
    kept = [one for one in findings if not any(is_excepted(one, rule) for rule in exceptions)]
    for rule in exceptions:
        where = f"{rule['path']}: {rule['text']}"
        if not rule.get("reason"):
            kept.append(Finding("scripts/words.toml", 1, "exception", where, f"{where}: no reason"))
        elif not wanted and not any(is_excepted(one, rule) for one in findings):
            message = f"{where}: this exception matches nothing"
            kept.append(Finding("scripts/words.toml", 1, "exception", where, message))
    return kept


def is_excepted(finding: Finding, rule: dict[str, str]) -> bool:
    """Return whether an exception covers a finding."""
    return finding.path == rule["path"] and rule["text"] in finding.text


def main() -> int:
    """Print the findings; return the exit code."""
    rules = tomllib.loads((ROOT / "scripts" / "words.toml").read_text("utf-8"))
    findings = find(rules, ROOT, [Path(name) for name in sys.argv[1:]])
    for finding in findings:
        print(finding)
    counts = {kind: sum(one.check == kind for one in findings) for kind in
              ("name", "phrase", "sentence", "exception")}  # fmt: skip
    print("words:", ", ".join(f"{count} {kind}" for kind, count in counts.items()))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
