"""Pytest fixtures for tests of handlers.

This is not a module of `hubhooks`, because pytest imports its plugins at every start. So `hubhooks`
is imported only when a test uses it, and coverage measures that import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hubhooks import HubEvent, Router
    from hubhooks.testing import TestClient

__all__ = ["hubhooks_client", "hubhooks_sample"]


@pytest.fixture
def hubhooks_client() -> Iterator[Callable[..., TestClient]]:
    """Return a function that makes a `TestClient`, which is closed after the test.

    The function takes the arguments of `hubhooks.testing.TestClient`: `hubhooks_client(hooks)`.
    """
    from hubhooks.testing import TestClient  # noqa: PLC0415 - see the module's docstring

    clients: list[TestClient] = []

    def make(hooks: Router, *, raise_errors: bool = True, timeout: float = 10) -> TestClient:
        clients.append(TestClient(hooks, raise_errors=raise_errors, timeout=timeout))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def hubhooks_sample() -> Callable[..., HubEvent]:
    """Return `hubhooks.testing.sample`, which makes an event from a sample of the package.

    Example: `hubhooks_sample("repo.create", repo__name="me/x")`.
    """
    from hubhooks.testing import sample  # noqa: PLC0415 - see the module's docstring

    return sample
