"""The tables of the docs match the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hubhooks import RunContext, State, Webhooks, handlers, testing
from hubhooks._http.receiver import COMPLETION_RESPONSES, RESPONSES, UNREAD_BODY_RESPONSES
from hubhooks.admin.delivery_json import delivery_json

ROOT = Path(__file__).parents[1]
SPAN = re.compile(r"`([^`]+)`")
STATES_OF_RUNS = {str(state) for state in State} - {"unhandled", "malformed"}
VARIABLE = re.compile(r"\"((?:HUBHOOKS|WEBHOOK|SPACE|OAUTH|OPENID)_[A-Z_]+)\"")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def first_cells(text: str) -> list[str]:
    """List the code spans in the first cell of each row."""
    rows = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n")[1].split("\n## ", maxsplit=1)[0]


def rows(text: str) -> list[list[str]]:
    """List the cells of each row, without the heads of tables."""
    bodies = re.findall(r"^\|.*\n\|[-|]+\n((?:\|.*(?:\n|\Z))+)", text, re.MULTILINE)
    lines = "".join(bodies).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def literal(alias: str) -> tuple[str, ...]:
    """Read a `Literal` of the types, which exist for type checkers only."""
    code = (ROOT / "python" / "hubhooks" / "_values.py").read_text("utf-8")
    values = re.search(rf"^ *{alias}: TypeAlias = Literal\[([^]]+)\]", code, re.MULTILINE)
    assert values is not None
    return tuple(re.findall(r'"(\w+)"', values[1]))


def test_environment_lists_every_variable() -> None:
    code = "".join(path.read_text("utf-8") for path in (ROOT / "python").rglob("*.py"))
    found = set(VARIABLE.findall(code)) - {"WEBHOOK_REPO_ID", "WEBHOOK_REPO_TYPE"}
    assert found == set(first_cells(page("environment.md")))


def test_deliveries_lists_every_state() -> None:
    states = first_cells(section(page("deliveries.md"), "States"))
    assert set(states) == {str(state) for state in State}


def test_filters_lists_every_filter() -> None:
    options = {"name", *handlers.Policy.__slots__}
    filters = set(handlers.CRITERIA)
    assert set(first_cells(section(page("filters.md"), "All filters"))) == filters - options


def test_retries_lists_every_option() -> None:
    listed = first_cells(section(page("retries.md"), "Options"))
    assert {name.partition("=")[0] for name in listed} == set(handlers.Policy.__slots__)


def test_http_lists_every_rejection() -> None:
    specs = [*RESPONSES.values(), *UNREAD_BODY_RESPONSES.values()]
    rejections = {(str(spec.http), spec.reason) for spec in specs if spec.status == "rejected"}
    listed = rows(section(page("http.md"), "Rejected requests"))
    assert {(response, reason) for _, response, reason in listed} == rejections


def test_http_lists_every_other_response() -> None:
    headings = ("New deliveries", "Known deliveries", "Wait for the handlers")
    listed = [row for heading in headings for row in rows(section(page("http.md"), heading))]
    specs = [*RESPONSES.values(), *COMPLETION_RESPONSES.values()]
    assert {(response, status.strip("`")) for _, response, status in listed} == {
        (str(spec.http), spec.status) for spec in specs if spec.status != "rejected"
    }


def test_changes_of_state_name_states_only() -> None:
    listed = rows(section(page("deliveries.md"), "Changes of state"))
    named = {name for row in listed for cell in (row[0], row[2]) for name in SPAN.findall(cell)}
    assert named == STATES_OF_RUNS


def test_state_diagram_has_the_states_of_runs() -> None:
    svg = page("images/states.svg")
    assert set(re.findall(r'class="name"[^>]*>(\w+)<', svg)) == STATES_OF_RUNS
    # The page asks no other server: a namespace is only a name.
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]


def test_filters_lists_the_documented_values() -> None:
    listed = rows(section(page("filters.md"), "Documented values"))
    assert {row[0].strip("`"): set(SPAN.findall(row[1])) for row in listed} == {
        name: set(literal(alias))
        for name, alias in [("action", "Action"), ("repo_type", "RepoType"), ("status", "Status")]
    }


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
        "id", "attempt", "failures", "is_replay", "received_at", "handler", "superseded",
    ]  # fmt: skip
    assert set(first_cells(text)) == set(RunContext._fields)
