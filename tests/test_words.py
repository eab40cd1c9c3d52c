"""`scripts/words.py` finds old names, old phrases and long sentences."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
WORDS = runpy.run_path(str(ROOT / "scripts" / "words.py"))
LONG = "word " * 33 + "end."
NAMES: dict[str, Any] = {
    "old_name": "new_name",
    ".gone": "left",
    "former=": "now=",
    '"late"': "stuck",
    'state="open"': 'state="begun"',
}
EXCEPTION = {"path": "a.md", "text": "stranger", "reason": "a quotation"}


def find(tmp_path: Path, name: str, text: str, **changes: Any) -> list[str]:
    """Check one file under small rules."""
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    every = ["**/*.md", "**/*.py", "**/*.pyi", "**/*.rs"]
    rules: dict[str, Any] = {
        "scope": {"identifiers": every, "phrases": every, "sentences": every, "max_words": 32},
        "identifiers": NAMES,
        "phrases": [{"pattern": r"\bstrangers?\b", "write": "anonymous visitor"}],
        **changes,
    }
    return [str(finding) for finding in WORDS["find"](rules, tmp_path)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", "old_name = 1\n"),
        ("a.py", "x.old_name\n"),
        ("a.py", "f(old_name=1)\n"),
        ("a.py", "def old_name(): ...\n"),
        ("a.py", "class old_name: ...\n"),
        ("a.py", "import old_name.x\n"),
        ("a.py", "from x.old_name import y\n"),
        ("a.py", "from x import y as old_name\n"),
        ("a.py", 'f"{old_name}"\n'),
        ("a.py", "x.gone\n"),
        ("a.py", "f(former=1)\n"),
        ("a.py", "lambda former: 1\n"),
        ("a.py", 'x = {"late": 1}\n'),
        ("a.py", 'x.state == "open"\n'),
        ("a.py", 'x["state"] in ("new", "open")\n'),
        ("a.py", 'x.get("state") != "open"\n'),
        ("a.py", 'f(state="open")\n'),
        ("a.py", 'x = {"state": "open"}\n'),
        ("a.py", 'self._state = "open"\n'),
        ("a.py", 'state: Literal["new", "open"]\n'),
        ("a.py", 'def f(a, state="open"): ...\n'),
        ("a.py", 'def f(*, state: Literal["open"]): ...\n'),
        ("a.py", "x = 1  # see `x.gone`\n"),
        ("a.pyi", "old_name: int\n"),
        ("a.rs", "fn f() { old_name(); }\n"),
        ("a.rs", "fn f() { x.gone(); }\n"),
        ("a.rs", 'fn f() { g("late"); }\n'),
        ("a.rs", "/// See `old_name`.\nfn f() {}\n"),
        ("a.md", "Call `x.gone()`."),
        ("a.md", "The state is `late`."),
        ("a.md", 'It is `"state": "open"`.'),
    ],
)
def test_old_name_is_found(tmp_path: Path, name: str, text: str) -> None:
    (found,) = find(tmp_path, name, text)
    assert re.match(rf"{name}:1: `.*` is an old name; write `.*`$", found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", '"""The name is fine."""\nx = "old_name is a word in a text"\n'),
        ("a.py", "x = 1  # old_name was the old name\n"),
        ("a.py", "gone = 1\nformer = 2\nopen(state)\n"),
        ("a.py", 'open_mode = "open"\nstate = "too late"\n'),
        ("a.py", "my_old_name = old_names = 1\n"),
        ("a.py", "x = 1  # run `late`\n"),
        ("a.rs", '// old_name\nfn f() { g("old_name"); }\n'),
        ("a.rs", 'fn f() { g(r#"a "quoted" old_name"#); }\n'),
        ("a.rs", "/* old_name /* old_name */ old_name */ fn f<'a>(x: &'a str) {}\n"),
        ("a.rs", "fn f() { let quote = '\"'; }\n// old_name '\"'\n"),
        ("a.rs", "fn f() { gone(); }\n"),
        ("a.md", "The old_name is a word of prose, and late."),
        ("a.md", "See [`guide`](old_name.md) and `docs/old_name.md`."),
        ("a.py", "private_name = 1\n"),
    ],
)
def test_other_name_passes(tmp_path: Path, name: str, text: str) -> None:
    assert find(tmp_path, name, text) == []


def test_code_block_in_docs_is_code(tmp_path: Path) -> None:
    text = 'Text.\n\n```python\nf(former=1)\n```\n\n```json\n{"state": "open"}\n```\n'
    assert [found[:6] for found in find(tmp_path, "a.md", text)] == ["a.md:4", "a.md:8"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "A stranger sees it."),
        ("a.md", "# For strangers"),
        ("a.md", "> For strangers"),
        ("a.md", "| a | a stranger |\n|---|---|\n"),
        ("a.md", "A\nstranger sees it."),
        ("a.md", "[A **stranger**](x.md) sees it."),
        ("a.py", '"""A stranger sees it."""\n'),
        ("a.py", "x = 1  # for strangers\n"),
        ("a.py", "x = 1  # noqa: S101 - strangers see it\n"),
        ("a.py", 'Option(help="For a stranger.")\n'),
        ("a.py", 'Option(help="For "\n    f"a {x} stranger.")\n'),
        ("a.rs", "/// A stranger sees it.\nfn f() {}\n"),
        ("a.rs", "//! A stranger sees it.\n"),
        ("a.rs", "fn f() {} // for strangers\n"),
        ("a.rs", "/* For strangers */\n"),
    ],
)
def test_old_phrase_is_found(tmp_path: Path, name: str, text: str) -> None:
    (found,) = find(tmp_path, name, text)
    assert found.startswith(f"{name}:1: ")
    assert found.endswith("write anonymous visitor")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "```text\nA stranger sees it.\n```\n"),
        ("a.md", "- item\n\n  ```text\n  A stranger sees it.\n  ```\n"),
        ("a.md", "````md\n```text\nstranger\n```\n````\n"),
        ("a.md", "---\ntitle: stranger\n---\n\nText.\n"),
        ("a.md", "The value `stranger` is code."),
        ("a.md", "[a link](https://example.com/stranger) is code"),
        ("a.md", "<!-- stranger -->"),
        ("a.py", '"""Do it.\n\n    x = stranger\n"""\n'),
        ("a.py", 'def f():\n    """Do it.\n\n        stranger\n    """\n'),
        ("a.py", 'x = "stranger"\n'),
        ("a.rs", "/// Text.\n///\n/// ```\n/// let stranger = 1;\n/// ```\nfn f() {}\n"),
        ("a.rs", 'fn f() { g("// stranger"); }\n'),
    ],
)
def test_code_is_not_prose(tmp_path: Path, name: str, text: str) -> None:
    assert find(tmp_path, name, text) == []


def test_all_phrases_of_a_paragraph_are_found_once(tmp_path: Path) -> None:
    phrases = [
        {"pattern": r"\bstrangers?\b", "write": "anonymous visitor"},
        {"pattern": r"\bthe stranger\b", "write": "anonymous visitor"},
    ]
    found = find(tmp_path, "a.md", "A stranger meets the stranger.", phrases=phrases)
    assert [re.findall(r"`([^`]*)`", one)[0] for one in found] == ["stranger", "the stranger"]


METHOD = '''class A:
    """Text."""

    def f(self) -> None:
        """Do it.

        A stranger sees it.

        Args:
            x: for a stranger.

                A stranger again.

            y = stranger
        """
'''


def test_docstring_of_method_is_read(tmp_path: Path) -> None:
    lines = [found.split(":")[1] for found in find(tmp_path, "a.py", METHOD)]
    assert lines == ["7", "10", "12", "14"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", LONG),
        ("a.md", f"# {LONG}"),
        ("a.md", f"| a | {LONG} |\n"),
        ("a.md", f"> {'word ' * 20}\n> {'word ' * 20}\n"),
        ("a.md", f"- {'word ' * 20}\n  {'word ' * 20}\n"),
        ("a.py", f'"""{LONG}"""\n'),
        ("a.py", f'Option(help="{LONG}")\n'),
        ("a.py", f"# {'word ' * 20}\n# {'word ' * 20}\n"),
        ("a.rs", f"/// {LONG}\nfn f() {{}}\n"),
    ],
)
def test_long_sentence_is_found(tmp_path: Path, name: str, text: str) -> None:
    (found,) = find(tmp_path, name, text)
    assert re.match(rf"{name}:1: a sentence of \d+ words, over 32: ", found)


TWENTY = "word " * 20


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", f"- {TWENTY}\n- {TWENTY}\n1. {TWENTY}\n"),
        ("a.md", f"# {TWENTY}\n{TWENTY}\n"),
        ("a.md", f"| {TWENTY} | {TWENTY}<br>{TWENTY} |\n| {TWENTY} | x |\n"),
        ("a.md", f"{TWENTY}end. A {TWENTY}end."),
        ("a.md", f"{TWENTY}\n> {TWENTY}\n\n{TWENTY}\n"),
        ("a.md", f"`{TWENTY}` and `{TWENTY}` are two words."),
        ("a.md", f"| {TWENTY} `a | b` {TWENTY[:50]} | {TWENTY} |\n"),
        ("a.py", f"x = 1  # {TWENTY}\ny = 2  # {TWENTY}\n"),
        ("a.py", f"# {TWENTY}\n\n# {TWENTY}\n"),
        ("a.py", f'"""Do it.\n\n    Args:\n        a: {TWENTY}\n        b: {TWENTY}\n    """\n'),
        ("a.rs", f"// {TWENTY}\nfn f() {{}}\n// {TWENTY}\n"),
    ],
)
def test_short_sentences_pass(tmp_path: Path, name: str, text: str) -> None:
    assert find(tmp_path, name, text) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One sentence. Another one.", 2),
        ("Use it, e.g. Like this.", 1),
        ("Use a store, i.e. SQLite.", 1),
        ("It is ASGI vs. WSGI, approx. 3 times.", 1),
        ("(E.g. not this.) But this.", 2),
        ("Is it so? `code` is next. (A note.) [a link](x) ends.", 4),
        ("It waits. 5 s later it ends.", 2),
        ("**Bold.** Text. _Italic._ Text!", 4),
        ('He says "stop." Then it stops.', 2),
        ("Version 0.1.0 of app.py is one sentence.", 1),
        ("It ends here... and goes on.", 1),
        ("One thing; another: a third.", 1),
        ("", 0),
    ],
)
def test_sentences_are_split(text: str, count: int) -> None:
    assert len(WORDS["sentences"](text)) == count


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("`a long code span` is one word", 4),
        ("[two words](and/a/link.md) - no dash", 4),
        ("<b>bold</b> {#anchor} **text**", 2),
        ("![a picture](x.png)", 2),
    ],
)
def test_words_are_counted(text: str, count: int) -> None:
    (sentence,) = WORDS["sentences"](text)
    assert WORDS["count_words"](sentence) == count


def test_exception_covers_its_finding(tmp_path: Path) -> None:
    assert find(tmp_path, "a.md", "A stranger.", exceptions=[EXCEPTION]) == []


def test_exception_covers_only_its_file(tmp_path: Path) -> None:
    found = find(tmp_path, "b.md", "A stranger.", exceptions=[EXCEPTION])
    assert [finding.split(":")[0] for finding in found] == ["b.md", "scripts/words.toml"]


def test_exception_must_match(tmp_path: Path) -> None:
    (found,) = find(tmp_path, "a.md", "A visitor.", exceptions=[EXCEPTION])
    assert found.endswith("this exception matches nothing any more; remove it")


@pytest.mark.parametrize("missing", ["path", "text", "reason"])
def test_exception_must_be_complete(tmp_path: Path, missing: str) -> None:
    rule = {**EXCEPTION, missing: " " if missing == "reason" else ""}
    found = find(tmp_path, "a.md", "A stranger.", exceptions=[rule])
    assert found[-1].endswith("an exception needs `path`, `text` and `reason`")


def test_exception_is_found_by_its_line(tmp_path: Path) -> None:
    rules = tmp_path / "scripts" / "words.toml"
    rules.parent.mkdir()
    rules.write_text("\n[[exceptions]]\n\n[[exceptions]]\n")
    text = {**EXCEPTION, "text": "gone"}
    (found,) = find(tmp_path, "a.md", "A stranger.", exceptions=[EXCEPTION, text])
    assert found.startswith("scripts/words.toml:4: exception 2 (`a.md`, `gone`): ")


def test_chosen_files_are_checked_alone(tmp_path: Path) -> None:
    find(tmp_path, "a.md", "A stranger.")
    find(tmp_path, "b.md", "A stranger.")
    rules = {
        "scope": {"identifiers": [], "phrases": ["*.md"], "sentences": [], "max_words": 32},
        "identifiers": {},
        "phrases": [{"pattern": "stranger", "write": "x"}],
        "exceptions": [{**EXCEPTION, "path": "c.md"}],
    }
    (found,) = WORDS["find"](rules, tmp_path, [tmp_path / "b.md"])
    assert found.path == "b.md"


@pytest.mark.parametrize(("text", "code"), [("A visitor.", 0), ("A stranger.", 1)])
def test_command_counts_and_exits(
    text: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tomllib")
    rules = tmp_path / "scripts" / "words.toml"
    rules.parent.mkdir()
    rules.write_text(
        'identifiers = {}\nphrases = [{pattern = "stranger", write = "visitor"}]\n'
        '[scope]\nidentifiers = []\nphrases = ["*.md"]\nsentences = []\nmax_words = 32\n'
    )
    page = tmp_path / "a.md"
    page.write_text(text)
    monkeypatch.setitem(WORDS["main"].__globals__, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["words.py", "--list", str(page)])
    assert WORDS["main"]() == code
    *found, summary = capsys.readouterr().out.splitlines()
    assert [line[:7] for line in found] == ["a.md:1:"] * code
    total = f"words: {code} findings: 0 in identifiers, {code} in phrases, 0 in sentences"
    assert summary.startswith(total)


def test_rules_compile() -> None:
    pytest.importorskip("tomllib")
    rules = WORDS["read_rules"]()
    assert all(re.compile(phrase["pattern"]) and phrase["write"] for phrase in rules["phrases"])
    for key in rules["identifiers"]:
        assert re.fullmatch(r'\w+=?|\.\w+|"\w+"|[a-z_]+="\w+"', key), key
