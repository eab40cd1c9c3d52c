"""hubhooks does what the page beside its peers says of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults import CASES, PEERS, Bot, Case, running, try_case

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[1] / "docs" / "peers.md"
# The Hub has its answer before a handler starts.
AHEAD = {"returns the handler's result to the sender"}


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bot]:
    with running(PEERS["hubhooks"], tmp_path_factory.mktemp("bot")) as bot:
        yield bot


@pytest.mark.parametrize("case", [pytest.param(case, id=case.title) for case in CASES])
def test_it_does_what_a_receiver_should(bot: Bot, case: Case) -> None:
    outcome = try_case(case, bot)
    assert outcome.is_fine is (case.title not in AHEAD), outcome.what


def test_the_page_has_each_case_once() -> None:
    text = PAGE.read_text("utf-8")
    assert [case.title for case in CASES if text.count(f"| {case.title} |") != 1] == []
