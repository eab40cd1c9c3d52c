"""What type checkers know of the kit for tests. Checked by mypy and pyright, never run.

Each ignored line must be wrong: both checkers report an ignore that nothing needs.
"""

from collections.abc import Callable

from typing_extensions import assert_type

from hubhooks import (
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    DiscussionEvent,
    HubEvent,
    RepoEvent,
    Router,
    Webhooks,
    testing,
)
from hubhooks.models import Deliveries

# ---- the name of a sample says its class --------------------------------------------------------

assert_type(testing.sample("discussion.comment.create"), CommentEvent)
assert_type(testing.sample("discussion.create", comment__content="hello"), CommentEvent)
assert_type(testing.sample("discussion.update.merged"), DiscussionEvent)
assert_type(testing.sample("repo.content.update.bucket", extra={"tide": "high"}), ContentEvent)
assert_type(testing.sample("repo.config.update"), ConfigEvent)
assert_type(testing.sample("repo.move"), RepoEvent)
assert_type([testing.sample(name) for name in testing.sample_names()], list[HubEvent])
testing.sample(name="repo.move")  # type: ignore[call-overload]

# ---- and so do the builders ---------------------------------------------------------------------

assert_type(testing.content(ref="main", change="deleted"), ContentEvent)
assert_type(testing.bucket(["a.csv"], deleted="b.csv"), ContentEvent)
assert_type(testing.config({"private": True}), ConfigEvent)
assert_type(testing.repo("move", moved_to="me/y"), RepoEvent)
assert_type(testing.discussion("update", status="merged"), DiscussionEvent)
assert_type(testing.discussion("create"), CommentEvent)
assert_type(testing.comment("hello", opening_post=True), CommentEvent)
assert_type(testing.replace(testing.comment(), repo__name="me/x"), CommentEvent)
testing.content(repo_type="modle")  # type: ignore[arg-type]
testing.content(change="moved")  # type: ignore[arg-type]
testing.repo("rename")  # type: ignore[arg-type]
testing.discussion("update", status="done")  # type: ignore[call-overload]
testing.comment(auhtor="6409b816282dc50ee5b8f296")  # type: ignore[call-arg]

# ---- the client ---------------------------------------------------------------------------------

client = testing.TestClient(Webhooks(), raise_errors=False, timeout=3)
testing.TestClient(Router())
testing.TestClient(print)  # type: ignore[arg-type]

result = client.send(testing.content(), id="d1", secret=None, timeout=1.5)
assert_type(result, testing.Result)
assert_type(result.http_status, int)
assert_type(result.delivery_id, str)
assert_type(result.event, HubEvent | None)
assert_type(result.handlers, list[str])
assert_type(result.explain(), list[str])
assert_type(result["retrain"], testing.HandlerRun)
assert_type(result["retrain"].error, BaseException | None)
assert_type(client.deliveries, Deliveries)
assert_type(client.retry("d1", raise_errors=True), testing.Result)
assert_type(client.replay("d1"), testing.Result)
client.send("repo.create")
client.send(b"{}")
client.send({"event": {}})
client.send(3)  # type: ignore[arg-type]
client.send("repo.create", secrets="moon")  # type: ignore[call-arg]


async def sends_in_a_loop() -> None:
    assert_type(await client.asend(testing.bucket(), id="d2"), testing.Result)
    assert_type(await client.areplay("d2"), testing.Result)
    assert_type(await client.aretry("d2"), testing.Result)


# ---- the fixtures -------------------------------------------------------------------------------


def uses_fixtures(
    hubhooks_client: Callable[[Router], testing.TestClient],
    hubhooks_sample: Callable[..., HubEvent],
) -> None:
    assert_type(hubhooks_client(Webhooks()).send(hubhooks_sample("repo.create")), testing.Result)
