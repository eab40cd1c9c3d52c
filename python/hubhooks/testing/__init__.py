"""Test handlers without a server: make events, and deliver them to your handlers.

    from hubhooks import testing
    from app import hooks

    def test_reply() -> None:
        result = testing.TestClient(hooks).send(testing.comment("hello @my-bot"))
        assert result["reply"].value == "hello!"

The client does the same steps as a server, from the secret to the handlers, without a network. In
pytest there are also the fixtures `hubhooks_client` and `hubhooks_sample`.
"""

from hubhooks._samples import sample_names
from hubhooks.testing.client import HandlerRun, Result, TestClient
from hubhooks.testing.factories import bucket, comment, config, content, discussion, repo
from hubhooks.testing.samples import replace, sample

__all__ = [
    "HandlerRun",
    "Result",
    "TestClient",
    "bucket",
    "comment",
    "config",
    "content",
    "discussion",
    "replace",
    "repo",
    "sample",
    "sample_names",
]
