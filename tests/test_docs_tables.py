"""The tables of the docs name what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hubhooks import RunContext, State, Webhooks, routing, testing
from hubhooks._delivery_json import delivery_json
from hubhooks.receiver import ANSWERS, ENDINGS, UNREAD_BODIES

ROOT = Path(__file__).parents[1]
VARIABLE = re.compile(r"\"((?:HUBHOOKS|WEBHOOK|SPACE|OAUTH|OPENID)_[A-Z_]+)\"")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def first_cells(text: str) -> list[str]:
    """List the code spans in the first cell of each row."""
    rows = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n")[1].split("\n## ", maxsplit=1)[0]


def test_environment_lists_every_variable() -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "python").rglob("*.py"))
    found = set(VARIABLE.findall(code)) - {"WEBHOOK_REPO_ID", "WEBHOOK_REPO_TYPE"}
    assert found == set(first_cells(page("environment.md")))


def test_deliveries_lists_every_state() -> None:
    states = first_cells(section(page("deliveries.md"), "States"))
    assert set(states) == {str(state) for state in State}


def test_filters_lists_every_filter() -> None:
    options = {"name", *routing.Policy.__slots__}
    filters = set(routing._CRITERIA)  # noqa: SLF001 - the names of `Criteria`, at run time
    assert set(first_cells(section(page("filters.md"), "All filters"))) == filters - options


def test_retries_lists_every_option() -> None:
    listed = first_cells(section(page("retries.md"), "Options"))
    assert {name.rstrip("=") for name in listed} == set(routing.Policy.__slots__)


def test_http_lists_every_status() -> None:
    text = page("http.md")
    tables = (ANSWERS, ENDINGS, UNREAD_BODIES)
    missing = [
        f"{spec.http} `{spec.status}`"
        for table in tables
        for spec in table.values()
        if not re.search(rf"{spec.http} +`{spec.status}`", text.replace("\n", " "))
    ]
    assert sorted(set(missing)) == []


@pytest.mark.parametrize("heading", ["A delivery", "A run"])
def test_json_lists_every_key(heading: str) -> None:
    hooks = Webhooks()
    hooks.add(lambda event: None, name="handle")
    client = testing.TestClient(hooks)
    client.send(testing.content(), id="d1")
    delivery = client.deliveries.get("d1")
    assert delivery is not None
    found = delivery_json(delivery, is_whole=True)
    keys = set(found if heading == "A delivery" else found["runs"][0])
    listed = set(first_cells(section(page("json.md"), heading)))
    assert keys - listed == set()
    assert listed - keys <= {"body_omitted", "explanations", "handlers"}


def test_run_context_fields_are_listed() -> None:
    text = section(page("deliveries.md"), "What a handler knows about its run")
    assert first_cells(text) == [
        "id", "attempt", "failures", "is_replay", "received_at", "handler",
    ]  # fmt: skip
    assert set(first_cells(text)) == set(RunContext._fields)
