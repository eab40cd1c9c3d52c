"""hubhooks passes the checks of `docs/peers.md`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults import CASES, PEERS, Bot, Case, running, try_case

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[1] / "docs" / "peers.md"
# The response is sent before a handler starts.
FAILED = {"returns the handler's result to the sender"}


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bot]:
    with running(PEERS["hubhooks"], tmp_path_factory.mktemp("bot")) as bot:
        yield bot


@pytest.mark.slow
@pytest.mark.parametrize("case", [pytest.param(case, id=case.title) for case in CASES])
def test_bot_passes_check(bot: Bot, case: Case) -> None:
    outcome = try_case(case, bot)
    assert outcome.is_fine is (case.title not in FAILED), outcome.what


def test_page_has_each_case_once() -> None:
    text = PAGE.read_text("utf-8")
    assert [case.title for case in CASES if text.count(f"| {case.title} |") != 1] == []
