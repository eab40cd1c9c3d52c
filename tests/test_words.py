"""`scripts/words.py` finds old names, old phrases and long sentences."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
WORDS = runpy.run_path(str(ROOT / "scripts" / "words.py"))
LONG = "word " * 33 + "end."


def find(tmp_path: Path, name: str, text: str, **changes: Any) -> list[str]:
    """Check one file under small rules."""
    path = tmp_path / name
    path.write_text(text, "utf-8")
    rules: dict[str, Any] = {
        "scope": {"identifiers": ["*"], "phrases": ["*"], "sentences": ["*"], "max_words": 32},
        "identifiers": {"old_name": "new_name"},
        "strings": {"overdue": "stuck"},
        "phrases": [{"pattern": r"\bstrangers?\b", "write": "anonymous visitor"}],
        **changes,
    }
    if path.suffix == ".md":
        rules["scope"]["identifiers"] = []
    return [str(finding) for finding in WORDS["find"](rules, tmp_path)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "A stranger sees it."),
        ("a.md", "| a | a stranger |\n|---|---|\n"),
        ("a.py", '"""A stranger sees it."""\n'),
        ("a.py", "x = 1  # for strangers\n"),
        ("a.py", 'Option(help="For a stranger.")\n'),
        ("a.rs", "/// A stranger sees it.\nfn f() {}\n"),
        ("a.md", LONG),
        ("a.py", f'"""{LONG}"""\n'),
        ("a.py", "old_name = 1\n"),
        ("a.py", "x.old_name\n"),
        ("a.py", "f(old_name=1)\n"),
        ("a.py", 'state = "overdue"\n'),
        ("a.rs", "fn f() { old_name(); }\n"),
    ],
)
def test_fault_is_found(tmp_path: Path, name: str, text: str) -> None:
    (found,) = find(tmp_path, name, text)
    assert found.startswith(f"{name}:1: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "```text\nA stranger sees it.\n```\n"),
        ("a.md", "The value `stranger` is code."),
        ("a.md", "- " + "word " * 30 + "\n- " + "word " * 30 + "\n"),
        ("a.md", "word " * 20 + "end. " + "Word " * 20 + "end."),
        ("a.md", "| " + "word " * 20 + " | " + "word " * 20 + " |\n"),
        ("a.md", "[a link](https://example.com/stranger) is code"),
        ("a.py", '"""The name is fine."""\nx = "old_name is a word in a text"\n'),
        ("a.py", "x = 1  # old_name was the old name\n"),
        ("a.rs", '// old_name\nfn f() { g("old_name"); }\n'),
        ("a.py", '"""Do it.\n\n    x = stranger\n"""\n'),
    ],
)
def test_plain_text_passes(tmp_path: Path, name: str, text: str) -> None:
    assert find(tmp_path, name, text) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One sentence. Another one.", 2),
        ("Use it, e.g. Like this.", 1),
        ("Is it so? `code` is next. (A note.) [A link](x) ends.", 4),
        ("Version 0.1.0 is one sentence.", 1),
    ],
)
def test_sentences_are_split(text: str, count: int) -> None:
    assert len(WORDS["sentences"](text)) == count


def test_exception_covers_its_finding(tmp_path: Path) -> None:
    rule = {"path": "a.md", "text": "stranger", "reason": "a quotation"}
    assert find(tmp_path, "a.md", "A stranger.", exceptions=[rule]) == []


@pytest.mark.parametrize("reason", ["", "a quotation"])
def test_exception_needs_a_reason_and_a_match(tmp_path: Path, reason: str) -> None:
    rule = {"path": "a.md", "text": "stranger", "reason": reason}
    (found,) = find(tmp_path, "a.md", "A visitor.", exceptions=[rule])
    assert ("no reason" in found) is (not reason)
