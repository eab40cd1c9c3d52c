"""Fixtures for tests of handlers.

No part of `hubhooks`, since pytest imports its plugins at every start. Like this the package is
imported by those tests only that use it, and coverage sees all of that.
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
    """Make a client that delivers to handlers, and close it after the test.

    Call it as `hubhooks.testing.TestClient`: `hubhooks_client(hooks)`.
    """
    from hubhooks.testing import TestClient  # noqa: PLC0415 - see above

    clients: list[TestClient] = []

    def make(hooks: Router, *, raise_errors: bool = True, timeout: float = 10) -> TestClient:
        clients.append(TestClient(hooks, raise_errors=raise_errors, timeout=timeout))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def hubhooks_sample() -> Callable[..., HubEvent]:
    """Make an event from a sample: `hubhooks_sample("repo.create", repo__name="me/x")`.

    It is `hubhooks.testing.sample`.
    """
    from hubhooks.testing import sample  # noqa: PLC0415 - see above

    return sample
