"""Fixtures of the integration tests."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from pages import browser
from servers import Server, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["browser"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers that end with the test: `start(*command, script=..., environ=...)`."""
    with ExitStack() as servers:
        yield lambda *command, **options: servers.enter_context(
            started(tmp_path, *command, **options)
        )
