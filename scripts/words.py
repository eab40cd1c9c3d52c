"""Check the words of code and docs: old names, old phrases and long sentences.

    python scripts/words.py                       # all files of the scopes
    python scripts/words.py --list README.md ...  # only these files

`scripts/words.toml` has the lists. The exit code is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import ast
import functools
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# Python 3.10 does not have it. It only runs the tests of this file.
if sys.version_info >= (3, 11):
    import tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT = Path(__file__).parent.parent
RULES = "scripts/words.toml"

# Markdown
FENCE = re.compile(r"^[ >]*(`{3,}|~{3,})")
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK_MARK = "\u2060"  # a word joiner: in place of the bracket that begins a link
LINK = re.compile(r"!?\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])")
HTML = re.compile(r"<!--.*?-->|<[^>]*>|\{[:#][^}]*\}")
QUOTE = re.compile(r"^\s*(> ?)+")
HEADING = re.compile(r"^\s*(#+ |!!! |\?\?\?\+? |=== )")
ITEM = re.compile(r"^\s*([*+-]|\d+[.)]) +")
SKIPPED = re.compile(r"^\s*(:::|options:|\[[^\]]+\]: |\[!\w+\]\s*$|[-=*_]{3,}\s*$)")

# Docstrings: an argument, and a section of arguments.
ARGUMENT = re.compile(r"^\s{4,}[*\w]+( \([^)]*\))?: ")
SECTION = re.compile(r"^\s*(Args|Attributes|Returns|Raises|Yields|Source|Example|Examples):")
PRAGMA = re.compile(r"^#\s*(noqa(: ?[A-Z0-9, ]+)?( - )?|type: ignore\S*|pyright: ?\S+|fmt: \w+)")

# Sentences: a full stop ends one before a capital letter, a digit, a code span or a quote.
END = re.compile(r"([.!?])[)\"'*_]*\s+(?=[\"'*_(]*[A-Z0-9`\u2060])|[;:]\s*$")
ABBREVIATION = re.compile(r"(?:^|[\s(])(?:e\.g|i\.e|etc|vs|cf|approx|incl|No|Mr|Ms|Dr)\.$")

RUST = re.compile(
    r"""(?P<line>//[^\n]*)
    | (?P<block>/\*)
    | (?P<raw>\b[bc]?r(?P<marks>\#*)"(?P<raw_text>.*?)"(?P=marks))
    | (?P<string>[bc]?"(?P<text>(?:\\.|[^"\\])*)")
    | (?P<char>b?'(?:\\(?:u\{[^}]*\}|x..|.)|[^\\'\n])')
    | (?P<name>(?P<dot>\.\s*)?(?:r\#)?(?P<word>[A-Za-z_]\w*))""",
    re.VERBOSE | re.DOTALL,
)
BLOCK_MARK = re.compile(r"/\*|\*/")


class Text(NamedTuple):
    """A paragraph of prose, and its line."""

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


class Reader:
    """Reads files once, and keeps what the checks need of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.text = functools.cache(self._text)
        self.tree = functools.cache(self._tree)
        self.prose = functools.cache(self._prose)

    def _text(self, path: str) -> str:
        return (self.root / path).read_text("utf-8")

    def _tree(self, path: str) -> ast.Module:
        return ast.parse(self.text(path))

    def _prose(self, path: str) -> list[Text]:
        text = self.text(path)
        if path.endswith(".md"):
            return list(markdown_prose(text))
        if path.endswith((".rs", ".js")):
            # Comments and strings look the same in JavaScript.
            return list(rust_prose(text))
        return list(python_prose(text, self.tree(path)))


# Prose


def paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[Text]:
    """Join the lines of each paragraph. Headings, list items, cells and arguments stand alone."""
    begun, words = 0, list[str]()

    def end() -> Iterator[Text]:
        text = " ".join(words).strip()
        words.clear()
        if text:
            yield Text(begun, text)

    is_quoted = False
    for number, source in lines:
        line = QUOTE.sub("", source)
        if is_quoted is (line == source) or not line.strip():
            yield from end()
        is_quoted = line != source
        stripped = line.strip()
        if stripped.startswith("|"):
            yield from end()
            yield from (Text(number, cell) for cell in cells(stripped))
        elif HEADING.match(line):
            yield from end()
            yield Text(number, HEADING.sub("", line).strip())
        elif stripped:
            if ITEM.match(line) or ARGUMENT.match(line) or SECTION.match(line):
                yield from end()
            if not words:
                begun = number
            words.append(ITEM.sub("", ARGUMENT.sub("", line)).strip())
    yield from end()


def cells(row: str) -> Iterator[str]:
    """Split a row of a table; a vertical bar in a code span does not end a cell."""
    spans = [match.span() for match in CODE_SPAN.finditer(row)]
    start = 0
    for bar in [*re.finditer(r"(?<!\\)\|", row), None]:
        at = len(row) if bar is None else bar.start()
        if any(begin < at < end for begin, end in spans):
            continue
        for part in row[start:at].split("<br>"):
            if part.strip(" -:"):
                yield part.strip()
        start = at + 1


def markdown_lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """Number the lines of Markdown without front matter, and mark those of code blocks."""
    lines = text.splitlines()
    start = 0
    if lines and lines[0] == "---" and "---" in lines[1:]:
        start = lines.index("---", 1) + 1
    fence = ""
    for number, line in enumerate(lines[start:], start + 1):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
            yield number, "", False
        elif mark and QUOTE.sub("", line).strip() == fence:
            fence = ""
        else:
            yield number, line, bool(fence)


def markdown_prose(text: str) -> Iterator[Text]:
    """Read the prose of Markdown, without code blocks."""
    return paragraphs(
        (number, "" if SKIPPED.match(line) else line)
        for number, line, is_code in markdown_lines(text)
        if not is_code
    )


def python_prose(text: str, tree: ast.Module) -> Iterator[Text]:
    """Read docstrings, help texts and comments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                lines = docstring_lines(node.value.value, node.col_offset)
                yield from paragraphs((node.lineno + at, line) for at, line in lines)
        elif isinstance(node, ast.keyword) and node.arg in {"help", "short_help", "epilog"}:
            lines = enumerate(constant_text(node.value).splitlines())
            yield from paragraphs((node.value.lineno + at, line) for at, line in lines)
    yield from paragraphs(python_comments(text))


def python_comments(text: str) -> Iterator[tuple[int, str]]:
    """Read comments; a line between two of them separates them."""
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            is_alone = not token.line[:column].strip()
            if number != last + 1 or not is_alone:
                yield number, ""
            yield number, PRAGMA.sub("", token.string).lstrip("#!").strip()
            last = number if is_alone else 0


def constant_text(node: ast.expr) -> str:
    """Read a text written in code; each computed value in it is a code span."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            constant_text(part) if isinstance(part, ast.Constant) else "`code`"
            for part in node.values
        )
    if isinstance(node, ast.BinOp):
        return constant_text(node.left) + constant_text(node.right)
    return ""


def docstring_lines(text: str, margin: int) -> Iterator[tuple[int, str]]:
    """Read a docstring without its code blocks, which are indented after a blank line."""
    is_after_blank = is_code = is_section = False
    for at, source in enumerate(text.splitlines()):
        line = source.strip() if at == 0 else source[margin:]
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            is_after_blank = True
        else:
            if SECTION.match(line):
                is_section = True
            elif indent == 0:
                is_section = False
            is_code = not is_section and indent >= 4 and (is_after_blank or is_code)  # noqa: PLR2004 - Markdown's indent of code
            is_after_blank = False
        yield at, "" if is_code or line.startswith((">>> ", "... ")) else line


def rust_prose(text: str) -> Iterator[Text]:
    """Read the comments of Rust, without code blocks."""
    lines: list[tuple[int, str]] = []
    last = 0
    for token in rust_tokens(text):
        if token.kind != "comment":
            continue
        alone = is_alone(text, token.at)
        if token.line != last + 1 or not alone:
            lines.append((token.line, ""))
        comment = re.sub(r"^//[/!]? ?", "", token.text)
        if token.text.startswith("/*"):
            comment = token.text.strip("/*! \n")
        parts = comment.splitlines() or [""]
        lines.extend((token.line + at, part) for at, part in enumerate(parts))
        last = token.line if alone else 0
    fence = False
    kept: list[tuple[int, str]] = []
    for number, line in lines:
        if line.startswith("```"):
            fence = not fence
        kept.append((number, "" if fence or line.startswith("```") else line))
    return paragraphs(kept)


def is_alone(text: str, at: int) -> bool:
    """Return True if only white space is before this place in its line."""
    return not text[text.rfind("\n", 0, at) + 1 : at].strip()


class RustToken(NamedTuple):
    """A comment, a string, a name, or a name after a dot."""

    kind: str
    line: int
    text: str
    at: int


def rust_tokens(text: str) -> Iterator[RustToken]:
    """Split Rust into comments, strings and names."""
    at = counted = 0
    line = 1
    while found := RUST.search(text, at):
        start, at = found.span()
        line += text.count("\n", counted, start)
        counted = start
        if found["line"]:
            yield RustToken("comment", line, found["line"], start)
        elif found["block"]:
            at = block_end(text, start)
            yield RustToken("comment", line, text[start:at], start)
        elif found["raw"]:
            yield RustToken("string", line, found["raw_text"], start)
        elif found["string"]:
            yield RustToken("string", line, found["text"], start)
        elif found["name"]:
            yield RustToken("attribute" if found["dot"] else "name", line, found["word"], start)


def block_end(text: str, start: int) -> int:
    """Return the end of a block comment, which can hold others."""
    depth = 0
    for mark in BLOCK_MARK.finditer(text, start):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(text)


def plain(text: str) -> str:
    """Remove the marks of Markdown: a link keeps its text, and a code span is one word.

    A mark stays where a link begins, because it can begin a sentence.
    """
    return HTML.sub("", LINK.sub(rf"{LINK_MARK}\1", CODE_SPAN.sub("`code`", text)))


def sentences(text: str) -> list[str]:
    """Split a paragraph into sentences."""
    words = plain(text)
    found: list[str] = []
    start = 0
    for end in END.finditer(words):
        if not ABBREVIATION.search(words[: end.start() + 1]):
            found.append(words[start : end.end()])
            start = end.end()
    found = [sentence.replace(LINK_MARK, "").strip() for sentence in [*found, words[start:]]]
    return [sentence for sentence in found if sentence]


def count_words(sentence: str) -> int:
    """Count the words of a sentence; marks and dashes do not count."""
    return sum(any(sign.isalnum() for sign in word) for word in sentence.split())


# Names
#
# Code is read as keys of `[identifiers]`: `name`, `.attribute`, `keyword=`, `"text"`, and
# `name="text"` for a text that is compared with, assigned to or passed as this name.


def python_keys(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Read the names and texts of Python code, with their context."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 1)
        yield from ((line, key) for key in name_keys(node))
        yield from ((line, key) for key in value_keys(node))
        if isinstance(node, ast.ClassDef):
            yield from member_keys(node)


def name_keys(node: ast.AST) -> Sequence[str]:  # noqa: PLR0911 - one case for each kind of node
    """Return the names that a node has, without those below it, and its text."""
    match node:
        case ast.Name(id=name) | ast.ClassDef(name=name):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.Attribute(attr=name):
            return [name, f".{name}"]
        case ast.arg(arg=name) | ast.keyword(arg=str() as name):
            return [name, f"{name}="]
        case ast.Constant(value=str() as text):
            return [f'"{text}"']
        case ast.alias(name=name, asname=alias):
            return [*name.split("."), *([alias] if alias else [])]
        case ast.ImportFrom(module=str() as name):
            return name.split(".")
    return []


def value_keys(node: ast.AST) -> Iterator[str]:  # noqa: C901, PLR0912 - as above
    """Read the texts that are values of a name: compared, assigned or passed."""
    match node:
        case ast.arg(arg=name, annotation=value) | ast.keyword(arg=str() as name, value=value):
            yield from values_of(name, value)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from default_keys(node.args)
        case ast.Compare():
            sides = [node.left, *node.comparators]
            for left in sides:
                for right in sides:
                    yield from pair_keys(left, right)
        case ast.Assign():
            for target in node.targets:
                yield from pair_keys(target, node.value)
        case ast.AnnAssign(target=target):
            yield from pair_keys(target, node.annotation)
            yield from pair_keys(target, node.value)
        case ast.Dict():
            for key, entry in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield from values_of(key.value, entry)
        case ast.Match(subject=subject):
            for case in node.cases:
                yield from pair_keys(subject, case.pattern)


def member_keys(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    """Read the attributes that a class defines."""
    for member in node.body:
        match member:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield member.lineno, f".{name}"
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                yield member.lineno, f".{name}"


def default_keys(arguments: ast.arguments) -> Iterator[str]:
    """Read the defaults of parameters."""
    positional = [*arguments.posonlyargs, *arguments.args]
    last = positional[len(positional) - len(arguments.defaults) :]
    for argument, value in zip(last, arguments.defaults, strict=True):
        yield from values_of(argument.arg, value)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield from values_of(argument.arg, default)


def pair_keys(name: ast.expr, value: ast.AST | None) -> Iterator[str]:
    """Read the texts in `value` as values of the name that `name` ends with."""
    match name:
        case ast.Name(id=word) | ast.Attribute(attr=word):
            yield from values_of(word, value)
        case (
            ast.Subscript(slice=ast.Constant(value=str() as word))
            | ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str() as word), *_])
        ):
            yield from values_of(word, value)


def values_of(name: str, value: ast.AST | None) -> Iterator[str]:
    """Read the texts of an expression, also those in a tuple, a set or `Literal[...]`."""
    match value:
        case ast.Constant(value=str() as text):
            yield f'{name.strip("_").lower()}="{text}"'
        case ast.Tuple(elts=items) | ast.Set(elts=items) | ast.List(elts=items):
            for item in items:
                yield from values_of(name, item)
        case ast.Subscript(slice=inner):
            yield from values_of(name, inner)
        case ast.BinOp(left=left, right=right):
            yield from values_of(name, left)
            yield from values_of(name, right)
        case ast.Call(args=[first]):
            yield from values_of(name, first)
        case ast.MatchValue(value=inner):
            yield from values_of(name, inner)
        case ast.MatchOr(patterns=patterns):
            for pattern in patterns:
                yield from values_of(name, pattern)


def rust_keys(text: str) -> Iterator[tuple[int, str]]:
    """Read the names and texts of Rust code."""
    for token in rust_tokens(text):
        if token.kind == "string":
            yield token.line, f'"{token.text}"'
        elif token.kind != "comment":
            yield token.line, token.text
            if token.kind == "attribute":
                yield token.line, f".{token.text}"


@functools.cache
def key_pattern(key: str) -> re.Pattern[str]:
    """Return the pattern that finds a key of `[identifiers]` in code that is shown in prose."""
    name, equals, value = key.partition("=")
    if equals and value:
        text = re.escape(value.strip('"'))
        return re.compile(rf"(?<![\w.])[\"']?{name}[\"']? ?(?:[:=]|==|!=) ?[\"']{text}[\"']")
    if equals:
        return re.compile(rf"(?<![\w.]){re.escape(name)}=(?!=)")
    if key.startswith('"'):
        text = re.escape(key.strip('"'))
        return re.compile(rf"[\"']{text}[\"']")
    return re.compile(rf"(?<![\w/-]){re.escape(key)}(?![\w/-])" if key[0] != "." else
                      rf"{re.escape(key)}\b")  # fmt: skip


def is_possible(key: str, text: str, words: set[str]) -> bool:
    """Return False if a key of `[identifiers]` is certainly not in a text."""
    name, _, value = key.partition("=")
    if value or key.startswith('"'):
        value = (value or key).strip('"')
        is_quoted = any(f"{mark}{value}{mark}" in text for mark in "\"'`")
        return is_quoted and (not key.partition("=")[1] or name in text)
    return name.lstrip(".") in words


def shown_keys(text: str, keys: Iterable[str]) -> Iterator[str]:
    """Find keys in code that prose shows."""
    return (key for key in keys if key_pattern(key).search(text))


# Checks


def check_names(path: str, reader: Reader, rules: dict[str, Any]) -> Iterator[Finding]:
    """Find old names and old values in code, and in the code that prose shows."""
    text = reader.text(path)
    words = set(re.findall(r"\w+", text))
    # Most files have no old word at all; this is much faster than to parse them.
    old: dict[str, str] = {
        key: new for key, new in rules["identifiers"].items() if is_possible(key, text, words)
    }
    if not old:
        return
    found: set[tuple[int, str]] = set()
    if path.endswith(".md"):
        code = ((number, line) for number, line, is_code in markdown_lines(text) if is_code)
        found |= {(number, key) for number, line in code for key in shown_keys(line, old)}
    else:
        keys = rust_keys(text) if path.endswith((".rs", ".js")) else python_keys(reader.tree(path))
        found |= {place for place in keys if place[1] in old}
    for place, paragraph in reader.prose(path):
        for span in CODE_SPAN.finditer(paragraph):
            found |= {(place, key) for key in shown_keys(span[2], old)}
            # In docs, a state stands without quotes. In code, such a word can be a method.
            if path.endswith(".md") and f'"{span[2]}"' in old:
                found.add((place, f'"{span[2]}"'))
    for at, key in sorted(found):
        message = f"`{key}` is an old name; write `{old[key]}`"
        yield Finding(path, at, "identifiers", key, message)


def check_phrases(path: str, reader: Reader, rules: dict[str, Any]) -> Iterator[Finding]:
    """Find old phrases."""
    for line, text in reader.prose(path):
        words = plain(text).replace(LINK_MARK, "")
        end = 0
        for found, write in sorted(matches(words, rules), key=lambda match: match[0].start()):
            # A phrase that two patterns find is one finding.
            if found.start() >= end:
                end = found.end()
                start = max(0, words.rfind(" ", 0, max(0, found.start() - 30)))
                shown = words[start : end + 40].strip()
                message = f"`{found[0].strip()}` in `{shown}`; write {write}"
                yield Finding(path, line, "phrases", words, message)


def matches(words: str, rules: dict[str, Any]) -> Iterator[tuple[re.Match[str], str]]:
    """Find all patterns of `[[phrases]]` in a paragraph."""
    for phrase in rules["phrases"]:
        for found in re.compile(phrase["pattern"], re.IGNORECASE).finditer(words):
            yield found, phrase["write"]


def check_sentences(path: str, reader: Reader, rules: dict[str, Any]) -> Iterator[Finding]:
    """Find long sentences."""
    most = rules["scope"]["max_words"]
    for line, text in reader.prose(path):
        for sentence in sentences(text):
            count = count_words(sentence)
            if count > most:
                message = f"a sentence of {count} words, over {most}: `{sentence[:70]}...`"
                yield Finding(path, line, "sentences", sentence, message)


CHECKS: dict[str, Callable[[str, Reader, dict[str, Any]], Iterator[Finding]]] = {
    "identifiers": check_names,
    "phrases": check_phrases,
    "sentences": check_sentences,
}


def find(rules: dict[str, Any], root: Path, chosen: Sequence[Path] = ()) -> list[Finding]:
    """Run all checks on the files of their scope, and leave out the exceptions."""
    wanted = {path.resolve() for path in chosen}
    reader = Reader(root)
    findings: list[Finding] = []
    for scope, check in CHECKS.items():
        paths = {path for pattern in rules["scope"][scope] for path in root.glob(pattern)}
        for path in sorted(paths):
            if path.is_file() and (not wanted or path.resolve() in wanted):
                findings += check(path.relative_to(root).as_posix(), reader, rules)
    exceptions = rules.get("exceptions", [])
    kept = [one for one in findings if not any(is_excepted(one, rule) for rule in exceptions)]
    for number, rule in enumerate(exceptions, 1):
        fault = ""
        if not (rule.get("path") and rule.get("text") and rule.get("reason", "").strip()):
            fault = "an exception needs `path`, `text` and `reason`"
        elif not wanted and not any(is_excepted(one, rule) for one in findings):
            fault = "this exception matches nothing any more; remove it"
        if fault:
            text = f"exception {number} (`{rule.get('path')}`, `{rule.get('text')}`): {fault}"
            kept.append(Finding(RULES, exception_line(root, number), "exceptions", text, text))
    return kept


def is_excepted(finding: Finding, rule: dict[str, str]) -> bool:
    """Return whether an exception covers a finding."""
    return bool(
        finding.path == rule.get("path") and rule.get("text") and rule["text"] in finding.text
    )


def exception_line(root: Path, number: int) -> int:
    """Return the line of an exception, counted from 1."""
    path = root / RULES
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    places = [at for at, line in enumerate(lines, 1) if line.strip() == "[[exceptions]]"]
    return places[number - 1] if number <= len(places) else 1


def read_rules() -> dict[str, Any]:
    """Read the lists."""
    if sys.version_info < (3, 11):
        sys.exit("words: Python 3.11 or newer is needed")
    else:
        return tomllib.loads((ROOT / RULES).read_text("utf-8"))


def main() -> int:
    """Print the findings; return the exit code."""
    parser = argparse.ArgumentParser(description="Check the words of code and docs.")
    parser.add_argument("--list", nargs="+", type=Path, metavar="PATH", default=[],
                        help="check only these files")  # fmt: skip
    options = parser.parse_args()
    if missing := [str(path) for path in options.list if not path.is_file()]:
        parser.error(f"not a file: {', '.join(missing)}")
    findings = find(read_rules(), ROOT, options.list)
    for finding in findings:
        print(finding)
    counts = [
        f"{sum(one.check == check for one in findings)} in {check}"
        for check in (*CHECKS, "exceptions")
    ]
    print(f"words: {len(findings)} findings: {', '.join(counts)}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
