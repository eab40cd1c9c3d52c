"""The tables of cases in `tests/fixtures`, which cargo's tests read too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hubhooks._samples import sample_json, with_overrides

FIXTURES = Path(__file__).parent / "fixtures"


def cases(table: str, key: str) -> pytest.MarkDecorator:
    """Parametrise a test with the rows of a table that have this key."""
    rows = json.loads((FIXTURES / f"{table}.json").read_text())
    chosen = [pytest.param(row, id=row["name"]) for row in rows if key in row]
    return pytest.mark.parametrize("row", chosen)


def body_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a row: its `sample`, with `set` and `drop` applied."""
    body = with_overrides(sample_json(row["sample"]), row.get("set", {}))
    for path in row.get("drop", []):
        *parents, last = path.split(".")
        owner: Any = body
        for key in parents:
            owner = owner[int(key) if isinstance(owner, list) else key]
        del owner[int(last) if isinstance(owner, list) else last]
    return body
