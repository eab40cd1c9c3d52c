"""The kit for unit tests of handlers keeps its promises."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from servers import PATIENCE

from hubhooks import (
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    DiscussionEvent,
    HubEvent,
    Ignore,
    RepoEvent,
    Router,
    RunContext,
    Webhooks,
    testing,
)
from hubhooks._samples import compact, sample_json, sample_names
from hubhooks.errors import ConfigError
from hubhooks.testing import samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["pytester"]

BOT = "b0" * 12
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
GUIDE = Path(__file__).parents[1] / "docs" / "testing.md"
# The location of the plugin, installed or not.
SOURCES = Path(testing.__file__).parents[1]


# ---- samples and changes ---------------------------------------------------------------------


@pytest.mark.parametrize("name", sample_names())
def test_a_sample_is_the_event_of_that_name(name: str) -> None:
    event = testing.sample(name)
    assert event.to_dict() == sample_json(name)
    assert event.raw == compact(sample_json(name))


def test_a_type_checker_knows_the_class_of_every_sample() -> None:
    promised = {
        CommentEvent: samples.CommentSample,
        DiscussionEvent: samples.DiscussionSample,
        ContentEvent: samples.ContentSample,
        ConfigEvent: samples.ConfigSample,
        RepoEvent: samples.RepoSample,
    }
    classes = {name: kind for kind, names in promised.items() for name in get_args(names)}
    assert classes == {name: type(testing.sample(name)) for name in testing.sample_names()}


def test_misspelt_sample_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"there is no sample `repo\.creat`.*`repo\.create`"):
        testing.sample("repo.creat")


@pytest.mark.parametrize(
    ("name", "change", "path", "value"),
    [
        ("repo.update", "repo__name", ["repo", "name"], "me/x"),
        ("repo.update", "repo__head_sha", ["repo", "headSha"], "5c" * 20),
        ("repo.update", "repo__headSha", ["repo", "headSha"], "5c" * 20),
        ("repo.update", "repo__owner__id", ["repo", "owner", "id"], BOT),
        ("repo.update", "action", ["event", "action"], "evaporate"),
        ("repo.update", "event__scope", ["event", "scope"], "repo.tides"),
        ("repo.content.update", "updated_refs__0__old_sha", ["updatedRefs", 0, "oldSha"], None),
        ("repo.content.update", "updatedRefs__0__ref", ["updatedRefs", 0, "ref"], "refs/pr/1"),
        ("repo.content.update", "updated_refs__1__ref", ["updatedRefs", 1, "ref"], "refs/pr/1"),
        ("repo.config.update", "updated_config__xetEnabled", ["updatedConfig", "xetEnabled"], True),
        ("repo.config.update", "updated_config", ["updatedConfig"], {"a_b": 1}),
        ("discussion.create", "discussion__is_pull_request", ["discussion", "isPullRequest"], True),
        # Documented, and not in this sample.
        ("repo.update", "repo__subdomain", ["repo", "subdomain"], "me-x"),
        ("repo.update", "updated_refs__0__ref", ["updatedRefs", 0, "ref"], "refs/pr/1"),
        ("discussion.delete", "comment__content", ["comment", "content"], "hello"),
    ],
)
def test_a_change_sets_one_field_and_nothing_else(
    name: str, change: str, path: list[Any], value: object
) -> None:
    expected: Any = sample_json(name)
    found = testing.sample(name, **{change: value}).to_dict()
    for node in (expected, found):
        part: Any = node
        for key in path[:-1]:
            # Missing parents are created.
            if isinstance(part, list) and key == len(part):
                part.append({})
            elif isinstance(part, dict):
                part.setdefault(key, [] if key == "updatedRefs" else {})
            part = part[key]
        part[path[-1]] = part[path[-1]] if node is found else value
    assert found == expected


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        ("repo__nmae", "repo__name"),
        ("head_sha", "repo__head_sha"),
        ("content", "comment__content"),
        ("updated_refs__0__reff", "updated_refs__0__ref"),
        ("updated_refs__ref", "updated_refs__0__ref"),
        ("discussion__is_pull_reqest", "discussion__is_pull_request"),
        ("repo__", "repo__id"),
        ("acton", "action"),
    ],
)
def test_undocumented_field_suggests_the_nearest(change: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        testing.sample("discussion.create", **{change: "x"})
    assert f"there is no field `{change}`; the nearest is `{nearest}`" in str(caught.value)
    assert "`extra=`" in str(caught.value)


def test_an_index_beyond_the_list_is_named() -> None:
    with pytest.raises(ConfigError, match="`7` is not an index of this list of 1: use 0 to 1"):
        testing.sample("repo.content.update", updated_refs__7__ref="x")


def test_extra_sets_undocumented_fields() -> None:
    event = testing.sample("repo.update", extra={"repo.moon.phase": 3, "tide": "high"})
    assert event.extra == {"tide": "high"}
    assert event.repo.to_dict()["moon"] == {"phase": 3}


def test_changes_apply_in_order() -> None:
    event = testing.sample("repo.update", comment={"hidden": False}, comment__content="hello")
    assert event.to_dict()["comment"] == {"hidden": False, "content": "hello"}


def test_replace_does_not_change_the_original() -> None:
    first = testing.comment("hello", repo="me/x")
    second = testing.replace(first, comment__content="bye", repo__private=True)
    assert (first.comment.content, first.repo.private) == ("hello", False)
    assert (second.comment.content, second.repo.private) == ("bye", True)
    assert type(second) is CommentEvent
    assert second.repo.name == "me/x"


def test_undocumented_key_of_the_event_can_be_changed() -> None:
    event = HubEvent.from_dict({**sample_json("repo.update"), "tideTable": {"high_water": 1}})
    assert testing.replace(event, tide_table__high_water=2).extra == {
        "tideTable": {"high_water": 2}
    }


def test_field_is_changed_under_each_of_its_names() -> None:
    fields = {"discussion__num": 3, "comment__hidden": True, "webhook__version": 4}
    event = testing.sample("discussion.create", **fields)
    assert (event.discussion.num, event.comment.hidden, event.webhook.version) == (3, True, 4)


# ---- builders --------------------------------------------------------------------------------


def shape(value: Any) -> Any:
    """Reduce a body to its keys and the types of its values; short words stay."""
    if isinstance(value, dict):
        return {key: shape(member) for key, member in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(item), sort_keys=True) for item in value})
    if isinstance(value, str):
        hexadecimal = re.fullmatch("[0-9a-f]{24,}", value)
        return f"{len(value)} digits" if hexadecimal else "string"
    return type(value).__name__


ALIKE = [
    (testing.content(repo_type="dataset"), "repo.content.update"),
    (testing.content(repo_type="dataset", ref="storm", change="created"), "*.new-branch"),
    (testing.content(repo_type="dataset", ref="storm", change="deleted"), "*.deleted-branch"),
    (testing.content(ref="refs/pr/3", change="created"), "repo.content.update.pull-request"),
    (testing.content(ref="refs/tags/v1", change="created"), "repo.content.update.tag"),
    (testing.bucket(["a", "b"], deleted="c"), "repo.content.update.bucket"),
    (testing.bucket(["a", "b"], truncated=True), "repo.content.update.bucket-truncated"),
    (testing.config({"private": True}), "repo.config.update"),
    (testing.config(repo_type="space"), "repo.config.update.empty"),
    (testing.repo("create"), "repo.create"),
    (testing.repo("create", repo_type="bucket"), "repo.create.bucket"),
    (testing.repo("delete"), "repo.delete"),
    (testing.repo("move"), "repo.move"),
    (testing.repo("update"), "repo.update"),
    (testing.repo("update", repo_type="space"), "repo.update.space"),
    (testing.discussion("create"), "discussion.create"),
    (testing.discussion("create", pull_request=True), "discussion.create.pull-request"),
    (testing.discussion("update", status="closed"), "discussion.update.closed"),
    (testing.discussion("update", status="merged"), "discussion.update.merged"),
    (testing.discussion("update", pinned=True), "discussion.update.pinned"),
    (testing.discussion("delete"), "discussion.delete"),
    (testing.comment(), "discussion.comment.create"),
    (testing.comment(pull_request=True), "discussion.comment.create.pull-request"),
    (testing.comment(action="update"), "discussion.comment.update"),
    (testing.comment(hidden=True), "discussion.comment.update.hidden"),
    (testing.comment(opening_post=True), "discussion.create"),
]


@pytest.mark.parametrize(("event", "name"), ALIKE, ids=[name for _, name in ALIKE])
def test_a_built_event_has_the_shape_of_the_documented_one(event: HubEvent, name: str) -> None:
    documented = testing.sample(name.replace("*", "repo.content.update"))
    assert type(event) is type(documented)
    assert (event.scope, event.action) == (documented.scope, documented.action)
    assert shape(event.to_dict()) == shape(documented.to_dict())


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [("model", ""), ("dataset", "datasets/"), ("space", "spaces/"), ("kernel", "kernels/")],
)
def test_urls_and_ids_follow_from_the_names(kind: Any, prefix: str) -> None:
    event = testing.comment("hello", repo="me/x", repo_type=kind, num=5)
    web, api = f"https://huggingface.co/{prefix}me/x", f"https://huggingface.co/api/{kind}s/me/x"
    assert event.repo.url.to_dict() == {"web": web, "api": api}
    assert event.discussion.url.to_dict() == {
        "web": f"{web}/discussions/5",
        "api": f"{api}/discussions/5",
    }
    assert event.comment.url.web == f"{web}/discussions/5#{event.comment.id}"
    same = testing.repo("update", repo="me/x", repo_type=kind)
    other = testing.repo("update", repo="me/y", repo_type=kind)
    assert same.repo.id == event.repo.id != other.repo.id
    assert same.repo.owner == event.repo.owner == other.repo.owner


def test_short_ref_is_a_branch() -> None:
    assert testing.content().updated_refs[0].branch == "main"
    assert testing.content(ref="storm/2").updated_refs[0].branch == "storm/2"
    assert testing.content(ref="refs/pr/3").updated_refs[0].pull_request == 3
    assert testing.content(ref="refs/tags/v1").updated_refs[0].tag == "v1"


def test_head_is_always_that_of_main() -> None:
    main, other = testing.content(), testing.content(ref="refs/pr/3")
    assert main.updated_refs[0].new_sha == main.repo.head_sha == other.repo.head_sha
    assert other.updated_refs[0].new_sha != other.repo.head_sha


def test_created_and_deleted_refs_lack_a_commit() -> None:
    assert testing.content(change="created").updated_refs[0].is_created
    assert testing.content(change="deleted").updated_refs[0].is_deleted


def test_the_files_of_a_bucket_are_named() -> None:
    event = testing.bucket("a.csv", deleted=["b.csv"], repo="me/raw", private=True)
    assert [(file.path, file.action) for file in event.updated_files] == [
        ("a.csv", "add"),
        ("b.csv", "delete"),
    ]
    assert (event.repo.type, event.repo.name, event.repo.private) == ("bucket", "me/raw", True)
    assert testing.bucket(truncated=True).updated_files_truncated


def test_a_new_visibility_is_that_of_the_repository() -> None:
    event = testing.config({"private": True})
    assert (event.updated_config, event.repo.private) == ({"private": True}, True)
    assert testing.config({"private": False}, private=True).repo.private is False
    assert testing.config({"x": 1}, private=True).repo.private is True


def test_move_has_the_new_name() -> None:
    moved = testing.repo("move", repo="me/old", moved_to="you/new").moved_to
    assert moved is not None
    assert moved.name == "you/new"
    assert moved.owner == testing.repo("create", repo="you/other").repo.owner


def test_an_opening_post_is_by_the_author_of_the_discussion() -> None:
    post = testing.comment("hello", opening_post=True, author=BOT)
    assert post.is_opening_post
    assert post.comment.author == post.discussion.author
    response = testing.comment("hello", author=BOT)
    assert not response.is_opening_post
    assert response.comment.author is not None
    assert response.comment.author.id == BOT
    assert response.comment.author != response.discussion.author


def test_a_hidden_comment_has_no_content() -> None:
    hidden = testing.comment("a secret", hidden=True)
    assert "content" not in hidden.comment.to_dict()
    assert b"a secret" not in hidden.raw


def test_only_repository_events_have_head_and_subdomain() -> None:
    repo = testing.comment(repo_type="space").repo
    assert (repo.head_sha, repo.subdomain) == (None, None)
    assert testing.repo("update", repo="me/Tide_map", repo_type="space").repo.subdomain == (
        "me-tide-map"
    )


def test_pull_request_options_build_a_pull_request() -> None:
    assert testing.discussion("update", status="merged").discussion.is_pull_request
    assert testing.comment(status="draft").discussion.is_pull_request
    assert not testing.comment(status="closed").discussion.is_pull_request


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: testing.content(repo_type="bucket"), "`bucket(paths)` makes"),
        (lambda: testing.content(repo_type="modle"), "`repo_type` is 'modle'"),
        (lambda: testing.content(change="moved"), "`change` is 'moved'"),
        (lambda: testing.repo("rename"), "`action` is 'rename'"),
        (lambda: testing.repo("create", moved_to="me/y"), "belongs to the action `move`"),
        (lambda: testing.discussion("merge"), "`action` is 'merge'"),
        (lambda: testing.discussion("update", status="done"), "`status` is 'done'"),
        (
            lambda: testing.discussion("update", status="merged", pull_request=False),
            "only a pull request can be `merged`",
        ),
        (lambda: testing.comment(action="delete"), "`action` is 'delete'"),
        (lambda: testing.comment(action="update", opening_post=True), "leave out `opening_post`"),
    ],
)
def test_impossible_events_are_not_built(build: Any, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert reason in str(caught.value)


# ---- the client ------------------------------------------------------------------------------


@pytest.fixture
def hooks() -> Webhooks:
    """Return hooks with a handler of each kind."""
    made = Webhooks(ignore_authors=BOT)

    @made.on_comment(mention="my-bot", name="reply")
    def reply(event: CommentEvent) -> str:
        return event.comment.content.upper()

    @made.on("repo.content", ref="main", name="retrain")
    async def retrain(event: ContentEvent, context: RunContext) -> RunContext:
        await asyncio.sleep(0)
        return context

    @made.on("repo.content", name="audit")
    def audit(event: ContentEvent) -> str:
        if event.repo.name == "me/bad":
            msg = "the tide is out"
            raise ValueError(msg)
        if event.repo.name == "me/dull":
            msg = "nothing to see"
            raise Ignore(msg)
        return event.repo.name

    return made


@pytest.fixture
def client(hooks: Webhooks) -> testing.TestClient:
    return testing.TestClient(hooks, timeout=PATIENCE)


def test_handlers_run_in_order_and_return_values(
    client: testing.TestClient,
) -> None:
    result = client.send(testing.content(repo="me/x"), id="d1")
    assert (result.http_status, result.status) == (202, "accepted")
    assert result.handlers == ["retrain", "audit"]
    assert [run.name for run in result.runs] == result.handlers
    assert result["audit"] == testing.HandlerRun("audit", "succeeded", "me/x")
    assert result["retrain"].value.id == result.delivery_id == "d1"
    assert result["retrain"].value.handler == "retrain"
    assert result.errors == []
    assert result.body == {"status": "accepted", "delivery": "d1", "handlers": result.handlers}
    assert result.event == testing.content(repo="me/x")


@pytest.mark.parametrize(
    "sendable",
    [
        "discussion.comment.create",
        testing.sample("discussion.comment.create"),
        compact(sample_json("discussion.comment.create")),
        sample_json("discussion.comment.create"),
    ],
    ids=["name", "event", "bytes", "dict"],
)
def test_any_form_of_an_event_can_be_sent(client: testing.TestClient, sendable: Any) -> None:
    assert client.send(sendable).handlers == ["reply"]


def test_sync_handlers_run_in_threads_and_async_on_loop() -> None:
    hooks = Router()
    hooks.add(lambda _: threading.get_ident(), name="sync")

    async def thread(_: HubEvent) -> int:
        return threading.get_ident()

    hooks.add(thread, name="async")
    result = testing.TestClient(hooks).send("repo.create")
    assert result["async"].value == threading.get_ident() != result["sync"].value


def test_send_returns_when_all_handlers_are_done() -> None:
    hooks = Router()
    is_open = threading.Event()

    @hooks.on(name="waits")
    def waits(event: HubEvent) -> bool:
        return is_open.wait(PATIENCE)

    @hooks.on(name="opens")
    async def opens(event: HubEvent) -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        is_open.set()

    result = testing.TestClient(hooks, timeout=PATIENCE).send("repo.create")
    assert [run.state for run in result.runs] == ["succeeded", "succeeded"]
    assert result["waits"].value is True


def test_unhandled_event_is_explained(client: testing.TestClient) -> None:
    result = client.send(testing.comment("hello"))
    assert (result.http_status, result.status, result.handlers) == (200, "unhandled", [])
    why = "`reply` does not match: the comment does not mention `my-bot`"
    assert why in result.explain()
    assert why in repr(result)
    with pytest.raises(LookupError, match=re.escape(why)):
        result["reply"]


def test_a_handler_that_did_not_run_is_explained(client: testing.TestClient) -> None:
    result = client.send(testing.content(ref="refs/pr/3"))
    assert result.handlers == ["audit"]
    with pytest.raises(LookupError, match=r"`retrain` does not match: .*refs/pr/3"):
        result["retrain"]
    with pytest.raises(LookupError, match=r"`retrian`; did you mean `retrain`\?"):
        result["retrian"]
    with pytest.raises(
        LookupError, match="there is no handler `x`; there are: reply, retrain, audit"
    ):
        result["x"]


def test_rejected_or_malformed_delivery_is_explained(client: testing.TestClient) -> None:
    rejected = client.send(testing.content(), secret="wrong")
    with pytest.raises(LookupError, match="`audit` did not run: rejected, the webhook secret is"):
        rejected["audit"]
    malformed = client.send(b"{")
    with pytest.raises(LookupError, match="`audit` did not run: malformed, "):
        malformed["audit"]
    with pytest.raises(LookupError, match="there is no handler `x`; the body is malformed"):
        malformed["x"]


def test_repr_of_a_result_is_complete(client: testing.TestClient) -> None:
    done = client.send(testing.comment("@my-bot hi"))
    assert repr(done) == "<Result 202 accepted: <`reply` succeeded, returned '@MY-BOT HI'>>"
    failed = client.send(testing.content(repo="me/bad", ref="x"), raise_errors=False)
    assert repr(failed) == (
        "<Result 202 accepted: <`audit` failed, raised ValueError('the tide is out')>>"
    )
    rejected = client.send(testing.content(), secret=None)
    assert repr(rejected) == "<Result 401 rejected: the webhook secret is missing>"


@pytest.mark.parametrize(("secret", "status"), [("wrong", 403), ("ü", 403), (None, 401)])
def test_wrong_secret_runs_no_handler(
    client: testing.TestClient, secret: str | None, status: int
) -> None:
    result = client.send(testing.content(), secret=secret)
    assert (result.http_status, result.status, result.handlers) == (status, "rejected", [])
    assert client.deliveries.list() == []


def test_environment_has_no_effect(hooks: Webhooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "moon")
    client = testing.TestClient(hooks)
    assert client.send(testing.content()).http_status == 202
    assert client.send(testing.content(), secret="moon").http_status == 403
    monkeypatch.setenv("WEBHOOK_SECRET", "not ÄSCII")
    assert testing.TestClient(hooks).send(testing.content()).http_status == 202


def test_clients_and_webhooks_share_no_store(hooks: Webhooks) -> None:
    one, other = testing.TestClient(hooks), testing.TestClient(hooks)
    one.send(testing.content(), id="d1")
    assert [delivery.id for delivery in one.deliveries.list()] == ["d1"]
    assert other.deliveries.list() == []
    assert hooks.deliveries.list() == []
    assert other.send(testing.content(), id="d1").status == "accepted"


def test_each_delivery_has_its_own_id(client: testing.TestClient) -> None:
    results = [client.send(testing.content(), id=name) for name in ("delivery-2", None, None)]
    ids = [result.delivery_id for result in results]
    assert len(set(ids)) == 3
    assert ids == [delivery.id for delivery in reversed(client.deliveries.list())]


def test_error_before_a_successful_retry_is_no_error() -> None:
    hooks = Webhooks()

    @hooks.on("repo.content", retries=2, name="flaky")
    def flaky(event: HubEvent, context: RunContext) -> int:
        if context.attempt < 3:
            raise ValueError(context.attempt)
        return context.attempt

    run = testing.TestClient(hooks).send(testing.content())["flaky"]
    assert (run.state, run.value, run.error, run.attempt) == ("succeeded", 3, None, 3)


# ---- delivered again -------------------------------------------------------------------------


def test_a_retry_is_a_duplicate(client: testing.TestClient) -> None:
    client.send(testing.content(), id="d1")
    for _ in range(2):
        again = client.retry("d1")
        assert (again.http_status, again.status, again.handlers) == (200, "duplicate", [])


def test_replay_runs_again_and_is_marked(client: testing.TestClient) -> None:
    assert not client.send(testing.content(), id="d1")["retrain"].value.is_replay
    again = client.replay("d1")
    assert again.handlers == ["retrain", "audit"]
    assert again["retrain"].value.is_replay
    assert again["retrain"].attempt == again["retrain"].value.attempt == 2


def test_a_replay_after_a_retry_runs_again(client: testing.TestClient) -> None:
    client.send(testing.content(), id="d1")
    client.retry("d1")
    assert client.replay("d1").status == "accepted"


def test_only_failed_handlers_run_again(client: testing.TestClient) -> None:
    bad = testing.content(repo="me/bad")
    first = client.send(bad, id="d1", raise_errors=False)
    assert [run.state for run in first.runs] == ["succeeded", "failed"]
    again = client.retry("d1", raise_errors=False)
    assert again.handlers == ["audit"]
    assert again["audit"].attempt == 2


def test_rejected_delivery_can_be_sent_again(client: testing.TestClient) -> None:
    client.send(testing.content(), id="d1", secret="wrong")
    assert client.retry("d1").status == "accepted"


def test_an_id_is_sent_once(client: testing.TestClient) -> None:
    client.send(testing.content(), id="d1")
    with pytest.raises(ConfigError, match="`d1` was sent before; send it again with `retry`"):
        client.send(testing.content(), id="d1")
    assert client.deliveries.list()[0].runs[0].attempts == 1


@pytest.mark.parametrize("method", ["retry", "replay"])
def test_only_sent_deliveries_can_be_repeated(client: testing.TestClient, method: str) -> None:
    with pytest.raises(ConfigError, match="no delivery `d2` was sent; sent so far: none"):
        getattr(client, method)("d2")
    client.send(testing.content(), id="d1")
    with pytest.raises(ConfigError, match="no delivery `d2` was sent; sent so far: `d1`"):
        getattr(client, method)("d2")


# ---- settings --------------------------------------------------------------------------------


def test_ignored_authors_stay_ignored(client: testing.TestClient) -> None:
    assert client.send(testing.comment("@my-bot", author=BOT)).status == "ignored"


def test_skipped_replays_stay_skipped() -> None:
    hooks = Webhooks(on_replay="skip")
    hooks.add(lambda _: None, name="print")
    client = testing.TestClient(hooks)
    client.send("repo.create", id="d1")
    assert client.replay("d1").status == "duplicate"


def test_body_limit_applies() -> None:
    client = testing.TestClient(Webhooks(max_body_size=100))
    assert client.send(b"x" * 101).http_status == 413
    assert client.send(b"x" * 100).http_status == 202


@pytest.mark.parametrize(
    ("hooks", "status"),
    [
        (Webhooks(allow_unsigned=True), 200),
        (Webhooks("moon", allow_unsigned=True), 401),
        (Webhooks(), 401),
        (Router(), 401),
    ],
    ids=["open", "a secret", "closed", "router"],
)
def test_unsigned_deliveries_follow_the_app_options(hooks: Router, status: int) -> None:
    assert testing.TestClient(hooks).send("repo.create", secret=None).http_status == status


def test_handlers_registered_later_run(client: testing.TestClient, hooks: Webhooks) -> None:
    assert client.send("repo.create").status == "unhandled"
    hooks.add(lambda _: None, "repo", name="late")
    assert client.send("repo.create").handlers == ["late"]


# ---- failures and hooks ----------------------------------------------------------------------


def test_failing_handler_fails_the_test_at_its_line(client: testing.TestClient) -> None:
    with pytest.raises(ValueError, match="the tide is out") as caught:
        client.send(testing.content(repo="me/bad"))
    places = [entry.path.name for entry in caught.traceback.filter(caught)]
    assert set(places) == {"test_testing.py"}
    assert caught.traceback[-1].name == "audit"
    # All the others ran.
    assert client.deliveries.list()[0].run("retrain").state == "succeeded"


def test_failure_can_be_inspected(hooks: Webhooks) -> None:
    client = testing.TestClient(hooks, raise_errors=False)
    result = client.send(testing.content(repo="me/bad"))
    run = result["audit"]
    assert (run.state, run.value, result.errors) == ("failed", None, [run.error])
    assert isinstance(run.error, ValueError)
    with pytest.raises(ValueError, match="the tide is out"):
        client.send(testing.content(repo="me/bad"), raise_errors=True)


def test_ignoring_is_no_failure(client: testing.TestClient) -> None:
    run = client.send(testing.content(repo="me/dull"))["audit"]
    assert run.state == "ignored"
    assert isinstance(run.error, Ignore)


def test_value_of_a_returned_coroutine_is_its_result() -> None:
    hooks = Router()

    async def response() -> str:
        return "hello!"

    async def fail() -> None:
        raise LookupError

    def generate() -> Iterator[str]:
        yield "hello!"

    hooks.add(lambda _: response(), name="answers")
    hooks.add(lambda _: fail(), name="fails")
    hooks.add(lambda _: generate(), name="yields")
    result = testing.TestClient(hooks, raise_errors=False).send("repo.create")
    assert (result["answers"].state, result["answers"].value) == ("succeeded", "hello!")
    assert (result["fails"].state, type(result["fails"].error)) == ("failed", LookupError)
    assert (result["yields"].state, result["yields"].value) == ("failed", None)
    assert "its body never ran" in str(result["yields"].error)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_cancelled_handler_does_not_cancel_the_test(is_async: bool) -> None:
    hooks = Router()

    def sync(event: HubEvent) -> None:
        raise asyncio.CancelledError

    async def async_(event: HubEvent) -> None:
        sync(event)

    hooks.add(async_ if is_async else sync, name="cancelled")
    with pytest.raises(RuntimeError, match="a handler was cancelled"):
        testing.TestClient(hooks, timeout=PATIENCE).send("repo.create")


@pytest.mark.parametrize("is_async", [False, True])
def test_send_waits_for_hooks(client: testing.TestClient, hooks: Webhooks, is_async: bool) -> None:
    called: list[object] = []

    def delivery(*arguments: object) -> None:
        called.append([type(argument).__name__ for argument in arguments])

    async def record_async(*arguments: object) -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        delivery(*arguments)

    for register in (hooks.on_unhandled, hooks.on_error, hooks.on_failure):
        register(record_async if is_async else delivery)
    client.send("repo.create")
    assert called == [["RepoEvent"]]
    client.send(testing.content(repo="me/bad"), raise_errors=False)
    assert called[1:] == [["ContentEvent", "RunContext", "ValueError"]] * 2


def test_a_failing_hook_fails_the_test(client: testing.TestClient, hooks: Webhooks) -> None:
    @hooks.on_unhandled
    def fail(event: HubEvent) -> None:
        raise KeyError(event.action)

    with pytest.raises(KeyError, match="create"):
        client.send("repo.create")
    result = client.send("repo.create", raise_errors=False)
    assert [repr(error) for error in result.errors] == ["KeyError('create')"]


@pytest.mark.parametrize("method", ["send", "replay", "retry", "asend", "areplay", "aretry"])
def test_misspelt_option_suggests_the_nearest(client: testing.TestClient, method: str) -> None:
    client.send("repo.create", id="d1")
    first = "repo.create" if "send" in method else "d1"
    for option, hint in (("tmeout", r"did you mean `timeout`\?"), ("zzz", "there are: .*secret")):
        with pytest.raises(ConfigError, match=f"`{option}` is not an option of a delivery; {hint}"):
            call(client, method, first, **{option: 3})
    # It had no effect.
    assert len(client.deliveries.list()) == 1
    assert client.deliveries.get("d1").is_acknowledged


def call(client: testing.TestClient, method: str, *arguments: Any, **options: Any) -> Any:
    result = getattr(client, method)(*arguments, **options)
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


@pytest.mark.parametrize(
    ("hooks", "what"), [(Webhooks, "the class `Webhooks`"), (None, "a `NoneType`")]
)
def test_client_requires_handlers(hooks: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=f"`Webhooks` or a `Router`, not {what}"):
        testing.TestClient(hooks)


# ---- time and loops --------------------------------------------------------------------------


@pytest.fixture
def stuck() -> Any:
    """Return a handler that runs until the test is over."""
    is_over = threading.Event()

    def wait(*arguments: object) -> None:
        is_over.wait(PATIENCE)

    yield wait
    is_over.set()


async def never(*arguments: object) -> None:
    await asyncio.Event().wait()


@pytest.mark.slow
def test_timeout_names_the_running_handler(
    client: testing.TestClient, hooks: Webhooks, stuck: Any
) -> None:
    hooks.add(stuck, "repo", name="tide")
    hooks.add(never, "repo", name="ebb")
    hooks.add(lambda _: None, "repo", name="print")
    with pytest.raises(TimeoutError) as caught:
        client.send("repo.create", id="d1", timeout=0.5)
    assert str(caught.value) == "after 0.5 s, delivery `d1` still runs `tide` and `ebb`"


def test_timeout_names_the_running_hook(client: testing.TestClient, hooks: Webhooks) -> None:
    hooks.on_unhandled(never)
    with pytest.raises(TimeoutError, match="still runs a hook"):
        client.send("repo.create", timeout=0.5)


def test_timeout_is_set_on_the_client(stuck: Any) -> None:
    hooks = Router()
    hooks.add(stuck, name="stuck")
    with pytest.raises(TimeoutError, match=r"after 0\.5 s, .* `stuck`"):
        testing.TestClient(hooks, timeout=0.5).send("repo.create")


def test_client_works_after_a_timeout(
    client: testing.TestClient, hooks: Webhooks, stuck: Any
) -> None:
    hooks.add(stuck, "repo", name="stuck")
    with pytest.raises(TimeoutError):
        client.send("repo.create", timeout=0.5)
    assert client.send(testing.content(repo="me/x"))["audit"].value == "me/x"


def test_all_calls_share_one_loop() -> None:
    hooks = Router()
    loops: list[asyncio.AbstractEventLoop] = []

    @hooks.on()
    async def keep(event: HubEvent) -> None:
        loops.append(asyncio.get_running_loop())

    client = testing.TestClient(hooks)
    client.send("repo.create", id="d1")
    client.replay("d1")
    client.send("repo.create")
    assert len(loops) == 3
    assert len(set(loops)) == 1
    del client
    gc.collect()
    assert loops[0].is_closed()


def test_leftover_tasks_end_with_the_client() -> None:
    hooks = Router()
    left: list[asyncio.Task[None]] = []

    @hooks.on()
    async def requeue(event: HubEvent) -> None:
        left.append(asyncio.create_task(never()))
        await asyncio.sleep(0)

    client = testing.TestClient(hooks)
    client.close()
    client.send("repo.create")
    client.close()
    assert left[0].cancelled()
    client.send("repo.create")
    client.close()
    assert left[1].cancelled()


@pytest.mark.parametrize("method", ["send", "replay", "retry"])
def test_running_loop_suggests_the_async_call(client: testing.TestClient, method: str) -> None:
    async def test() -> None:
        await client.asend("repo.create", id="d1")
        with pytest.raises(RuntimeError, match=rf"write `await client\.a{method}\(\.\.\.\)`"):
            getattr(client, method)("d1")

    asyncio.run(test())


def test_async_call_uses_the_running_loop(client: testing.TestClient, hooks: Webhooks) -> None:
    @hooks.on("repo", name="loop")
    async def loop(event: HubEvent) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def test() -> None:
        first = await client.asend("repo.create", id="d1")
        assert first["loop"].value is asyncio.get_running_loop()
        assert (await client.aretry("d1")).status == "duplicate"
        assert (await client.areplay("d1")).handlers == ["loop"]
        with pytest.raises(ValueError, match="the tide is out"):
            await client.asend(testing.content(repo="me/bad"))

    asyncio.run(test())


def test_concurrent_deliveries_are_separate(client: testing.TestClient) -> None:
    async def test() -> list[testing.Result]:
        sendings = (client.asend(testing.content(repo=f"me/{n}")) for n in range(20))
        return await asyncio.gather(*sendings)

    values = [result["audit"].value for result in asyncio.run(test())]
    assert values == [f"me/{n}" for n in range(20)]


def test_retry_during_a_run_is_in_progress(hooks: Webhooks) -> None:
    is_open = asyncio.Event()

    @hooks.on("repo", name="slow")
    async def slow(event: HubEvent) -> None:
        await is_open.wait()

    async def test() -> None:
        client = testing.TestClient(hooks, timeout=PATIENCE)
        first = asyncio.create_task(client.asend("repo.create", id="d1"))
        while not client.deliveries.list():
            await asyncio.sleep(0)
        # The response comes at once; the retry waits only for its own runs.
        assert (await client.aretry("d1")).status == "in_progress"
        is_open.set()
        assert (await first)["slow"].state == "succeeded"

    asyncio.run(test())


# ---- the pytest plugin -----------------------------------------------------------------------


@pytest.fixture
def run_pytest(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., pytest.RunResult]:
    """Run pytest in a separate process, with only this plugin."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(SOURCES))

    def run(test_file: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_file)
        return pytester.runpytest_subprocess("-p", "no:xdist", "-W", "error", *options)

    return run


def test_fixtures_provide_client_and_samples(run_pytest: Callable[..., pytest.RunResult]) -> None:
    result = run_pytest(
        """
        import pytest
        from hubhooks import Webhooks, testing

        hooks = Webhooks()
        clients = []

        @hooks.on("repo")
        async def welcome(event):
            return event.repo.name

        def test_both(hubhooks_client, hubhooks_sample):
            client = hubhooks_client(hooks, timeout=60)
            assert isinstance(client, testing.TestClient)
            event = hubhooks_sample("repo.create", repo__name="me/x")
            assert client.send(event)["welcome"].value == "me/x"
            clients.append(client)

        def test_another(hubhooks_client):
            assert hubhooks_client(hooks).deliveries.list() == []

        def test_the_client_was_closed():
            assert clients[0]._loop is None
        """,
        "-p",
        "pytest_hubhooks",
    )
    result.assert_outcomes(passed=3)


def test_plugin_imports_the_package_lazily(
    run_pytest: Callable[..., pytest.RunResult],
) -> None:
    result = run_pytest(
        """
        import sys

        def test_one_without():
            assert "pytest_hubhooks" in sys.modules
            assert not any(name.split(".")[0] == "hubhooks" for name in sys.modules)

        def test_one_with(hubhooks_client):
            assert "hubhooks.testing" in sys.modules
            assert not {"fastapi", "gradio", "pydantic"} & set(sys.modules)
        """,
        "-p",
        "pytest_hubhooks",
    )
    result.assert_outcomes(passed=2)


@pytest.mark.slow
@pytest.mark.parametrize("is_off", [False, True])
def test_the_entry_point_can_be_turned_off(
    run_pytest: Callable[..., pytest.RunResult],
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    is_off: bool,
) -> None:
    # Installed as from the wheel, independent of this environment.
    declared = re.search(
        r"^\[project\.entry-points\.pytest11\]\n(.+)$", PROJECT.read_text(), re.MULTILINE
    )
    assert declared is not None
    installed = pytester.mkdir("tides-1.0.dist-info")
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tides\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[pytest11]\n" + declared[1].replace('"', ""))
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    test = "def test_it(hubhooks_client): pass"
    result = run_pytest(test, *(["-p", "no:hubhooks"] if is_off else []))
    result.assert_outcomes(errors=int(is_off), passed=int(not is_off))


def test_a_failure_shows_the_test_and_the_handler_only(
    run_pytest: Callable[..., pytest.RunResult],
) -> None:
    result = run_pytest(
        """
        from hubhooks import Router

        router = Router()

        @router.on()
        def fall(event):
            raise OSError("the tide is out")

        def test_it(hubhooks_client):
            hubhooks_client(router).send("repo.create")
        """,
        *("-p", "pytest_hubhooks", "--tb=short", "--show-capture=no"),
    )
    result.assert_outcomes(failed=1)
    entries = [line for line in result.outlines if re.match(r"\S+:\d+: in ", line)]
    assert [entry.rpartition(" ")[2] for entry in entries] == ["test_it", "fall"]


def test_documented_test_files_pass(
    run_pytest: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    files = {f"test_{number}": block for number, block in enumerate(blocks) if "def test" in block}
    (app,) = [block for block in blocks if block.startswith("# app.py\n")]
    pytester.makepyfile(**files, app=app)
    result = run_pytest("", "-p", "pytest_hubhooks", *(f"{name}.py" for name in files))
    result.assert_outcomes(passed=sum(block.count("def test") for block in files.values()))
    assert len(files) == 6
