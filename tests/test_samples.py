"""The samples match the documentation of the Hub and each other, and can be changed."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubhooks._samples import (
    compact,
    describe,
    read_value,
    sample_json,
    sample_names,
    scope_and_action,
    with_overrides,
)
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

# https://huggingface.co/docs/hub/webhooks
DOCUMENTED = {
    ("repo", "create"),
    ("repo", "delete"),
    ("repo", "update"),
    ("repo", "move"),
    ("repo.content", "update"),
    ("repo.config", "update"),
    ("discussion", "create"),
    ("discussion", "delete"),
    ("discussion", "update"),
    ("discussion.comment", "create"),
    ("discussion.comment", "update"),
}
VERSION_2_ACTIONS = {"add": "create", "remove": "delete"}
KEY_ORDER = [
    *("event", "scope", "repo", "discussion", "comment", "webhook"),
    *("movedTo", "movedToAuthorId", "updatedRefs", "updatedConfig"),
    *("updatedFiles", "updatedFilesTruncated"),
]
HEX_DIGITS = {
    **dict.fromkeys(("id", "authorId", "movedToAuthorId"), 24),
    **dict.fromkeys(("headSha", "oldSha", "newSha", "mergeCommitId"), 40),
    **dict.fromkeys(("xetHash", "gitalyUid"), 64),
}
WEB_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/", "bucket": "buckets/"}

NAMES = sample_names()
SAMPLES = {name: sample_json(name) for name in NAMES}
VERSION_3 = {name: body for name, body in SAMPLES.items() if body["webhook"]["version"] == 3}

every_sample = pytest.mark.parametrize("name", NAMES)
every_version_3_sample = pytest.mark.parametrize("name", VERSION_3)


def members(value: Any) -> Iterator[tuple[str, Any]]:
    """Walk over every key and value of every object in a body."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield key, member
            yield from members(member)
    elif isinstance(value, list):
        for item in value:
            yield from members(item)


def identities(body: dict[str, Any]) -> Iterator[tuple[str, Hashable]]:
    """Return each id of a body with the object that it identifies."""
    repo, webhook = body["repo"], body["webhook"]
    yield repo["id"], ("repo", repo["type"], repo["name"])
    yield webhook["id"], ("webhook", webhook["version"])
    owner = repo.get("owner") or repo.get("author") or {"id": repo.get("authorId")}
    yield owner["id"], ("owner", repo["name"].rpartition("/")[0])
    if discussion := body.get("discussion"):
        yield discussion["id"], ("discussion", repo["id"], discussion["num"])
        yield discussion["author"]["id"], ("member", discussion["author"]["id"])
    if comment := body.get("comment"):
        yield comment["id"], ("comment", comment["url"]["web"])
        yield comment["author"]["id"], ("member", comment["author"]["id"])
    if isinstance(moved_to := body.get("movedTo"), dict):
        yield moved_to["owner"]["id"], ("owner", moved_to["name"].rpartition("/")[0])
    if isinstance(moved_to, str):
        yield body["movedToAuthorId"], ("owner", moved_to.rpartition("/")[0])


# ---- the samples themselves ------------------------------------------------------------------


@every_sample
def test_the_name_begins_with_scope_and_action(name: str) -> None:
    scope, action = scope_and_action(SAMPLES[name])
    expected = f"{scope}.{VERSION_2_ACTIONS.get(action, action)}"
    assert name == expected or name.startswith(f"{expected}.")


def test_every_documented_event_has_a_sample_and_no_other() -> None:
    assert {scope_and_action(body) for body in VERSION_3.values()} == DOCUMENTED


def test_every_repo_type_and_action_has_a_sample() -> None:
    version_2 = [body for name, body in SAMPLES.items() if name not in VERSION_3]
    assert {body["repo"]["type"] for body in SAMPLES.values()} == set(WEB_PREFIXES)
    assert {body["event"] for body in version_2} == {"add", "remove", "update", "move"}


@every_sample
def test_samples_file_has_a_plain_format(name: str) -> None:
    text = (resources.files("hubhooks") / "samples" / f"{name}.json").read_text(encoding="utf-8")
    assert text == json.dumps(SAMPLES[name], indent=2) + "\n"


@every_sample
def test_keys_are_in_the_order_of_genuine_deliveries(name: str) -> None:
    assert list(SAMPLES[name]) == sorted(SAMPLES[name], key=KEY_ORDER.index)


@every_sample
def test_ids_and_hashes_are_well_formed(name: str) -> None:
    for key, value in members(SAMPLES[name]):
        if key in HEX_DIGITS and value is not None:
            assert re.fullmatch(rf"[0-9a-f]{{{HEX_DIGITS[key]}}}", value), key


@every_version_3_sample
def test_samples_have_the_fields_of_the_hub(name: str) -> None:
    body = VERSION_3[name]
    scope, action = scope_and_action(body)
    repo = body["repo"]
    is_repo_scope = scope.startswith("repo")
    assert ("headSha" in repo) == (is_repo_scope and repo["type"] != "bucket")
    assert ("subdomain" in repo) == (is_repo_scope and repo["type"] == "space")
    assert ("discussion" in body) == (not is_repo_scope)
    is_comment_sent = scope == "discussion.comment" or (scope, action) == ("discussion", "create")
    assert ("comment" in body) == is_comment_sent
    assert ("movedTo" in body) == (action == "move")
    assert ("updatedConfig" in body) == (scope == "repo.config")
    is_content = scope == "repo.content"
    assert ("updatedFiles" in body) == (is_content and repo["type"] == "bucket")
    assert ("updatedRefs" in body) == (is_content and repo["type"] != "bucket")


@every_version_3_sample
def test_a_hidden_comment_has_no_content_and_a_pull_request_has_changes(name: str) -> None:
    comment = VERSION_3[name].get("comment", {"hidden": True})
    discussion = VERSION_3[name].get("discussion", {"isPullRequest": False})
    assert comment["hidden"] == ("content" not in comment)
    assert discussion["isPullRequest"] == ("changes" in discussion)


@every_version_3_sample
def test_urls_follow_from_the_names(name: str) -> None:
    body = VERSION_3[name]
    repo = body["repo"]
    web = f"https://huggingface.co/{WEB_PREFIXES[repo['type']]}{repo['name']}"
    api = f"https://huggingface.co/api/{repo['type']}s/{repo['name']}"
    assert repo["url"] == {"web": web, "api": api}
    if discussion := body.get("discussion"):
        web += f"/discussions/{discussion['num']}"
        api += f"/discussions/{discussion['num']}"
        assert discussion["url"] == {"web": web, "api": api}
    if comment := body.get("comment"):
        assert comment["url"] == {"web": f"{web}#{comment['id']}"}


def test_ids_and_objects_correspond() -> None:
    things, ids = defaultdict(set), defaultdict(set)
    for body in SAMPLES.values():
        for identifier, thing in identities(body):
            things[identifier].add(thing)
            ids[thing].add(identifier)
    assert [found for found in things.values() if len(found) > 1] == []
    assert [found for found in ids.values() if len(found) > 1] == []


def test_samples_are_different() -> None:
    assert len({compact(body) for body in SAMPLES.values()}) == len(NAMES)
    assert len({describe(body) for body in SAMPLES.values()}) > len(NAMES) // 2


@every_version_3_sample
def test_the_head_is_the_new_commit_of_main(name: str) -> None:
    for ref in VERSION_3[name].get("updatedRefs", []):
        is_main = ref["ref"] == "refs/heads/main"
        assert not is_main or ref["newSha"] == VERSION_3[name]["repo"]["headSha"]
        assert ref["oldSha"] != ref["newSha"]


def test_one_comment_mentions_the_bot_and_is_edited_later() -> None:
    created = SAMPLES["discussion.comment.create"]["comment"]
    edited = SAMPLES["discussion.comment.update"]["comment"]
    assert "@my-bot" in created["content"]
    assert created["id"] == edited["id"]
    assert created["content"] != edited["content"]


def test_the_opened_pull_request_is_about_a_kilobyte() -> None:
    assert 950 < len(compact(SAMPLES["discussion.create.pull-request"])) < 1100


# ---- reading and describing ------------------------------------------------------------------


def test_names_are_sorted() -> None:
    assert sorted(NAMES) == NAMES


def test_every_call_gives_a_new_dict() -> None:
    sample_json("repo.create")["repo"]["name"] = "changed"
    assert sample_json("repo.create")["repo"]["name"] == "ada-labs/tide-forecast"


@pytest.mark.parametrize("name", ["repo.creat", "../errors", ""])
def test_unknown_name_suggests_the_nearest(name: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no sample `.*`; the nearest are `"):
        sample_json(name)


def test_the_nearest_name_comes_first() -> None:
    with pytest.raises(ConfigError, match=r"the nearest are `repo\.create`,"):
        sample_json("repo.creat")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("repo.create", "model ada-labs/tide-forecast"),
        ("repo.move", "model ada-labs/surge-alarm; moved to sea-archive/surge-alarm"),
        (
            "repo.move.v2",
            "dataset ada-labs/wave-heights; moved to sea-archive/wave-heights; version 2",
        ),
        ("repo.update.older", "model ada-labs/harbor-net; older shape with repo.author"),
        ("repo.config.update", 'model ada-labs/tide-forecast; settings {"private": true}'),
        ("repo.content.update.bucket", "bucket ada-labs/gauge-uploads; files: 2 add, 1 delete"),
        (
            "repo.content.update.bucket-truncated",
            "bucket ada-labs/gauge-uploads; files: 2 add; list of files cut short",
        ),
        (
            "repo.content.update.new-branch",
            "dataset ada-labs/tide-gauges; refs/heads/storm-season created",
        ),
        (
            "repo.content.update.deleted-branch",
            "dataset ada-labs/tide-gauges; refs/heads/storm-season deleted",
        ),
        (
            "discussion.create.pull-request",
            "model ada-labs/tide-forecast; pull request 3, open; opening post",
        ),
        ("discussion.update.pinned", "dataset ada-labs/tide-gauges; discussion 7, open, pinned"),
        (
            "discussion.comment.update.hidden",
            "dataset ada-labs/tide-gauges; discussion 7, open; hidden comment",
        ),
    ],
)
def test_description_is_derived_from_the_body(name: str, expected: str) -> None:
    assert describe(SAMPLES[name]) == expected


# ---- changing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", {"a": 0, "list": [{"x": 1}]}),
        ("new.deep.er", {"a": 1, "list": [{"x": 1}], "new": {"deep": {"er": 0}}}),
        ("list.0", {"a": 1, "list": [0]}),
        ("list.0.x", {"a": 1, "list": [{"x": 0}]}),
        ("list.1", {"a": 1, "list": [{"x": 1}, 0]}),
        ("list.1.x", {"a": 1, "list": [{"x": 1}, {"x": 0}]}),
        ("new.0.x", {"a": 1, "list": [{"x": 1}], "new": [{"x": 0}]}),
    ],
)
def test_an_override_sets_one_value_in_a_copy(path: str, expected: dict[str, Any]) -> None:
    payload = {"a": 1, "list": [{"x": 1}]}
    assert with_overrides(payload, {path: 0}) == expected
    assert payload == {"a": 1, "list": [{"x": 1}]}


def test_overrides_apply_in_order() -> None:
    assert with_overrides({}, {"a": {"b": 1}, "a.c": 2}) == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "write names and list indexes"),
        ("a..b", "write names and list indexes"),
        ("text.x", "`x` cannot be inside a string"),
        ("nothing.x", "`x` cannot be inside null"),
        ("list.2", "`2` is not an index of this list of 1: use 0 to 1"),
        ("list.-1", "`-1` is not an index"),
        ("list.x.y", "`x` is not an index"),
        ("list.\u0660", "is not an index"),
    ],
)
def test_invalid_path_is_named(path: str, reason: str) -> None:
    payload: dict[str, Any] = {"a": {}, "text": "t", "nothing": None, "list": [1]}
    with pytest.raises(ConfigError) as caught:
        with_overrides(payload, {path: 0})
    assert str(caught.value).startswith(f"cannot set `{path}`: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("me/x", "me/x"),
        ("", ""),
        ("null", None),
        ("true", True),
        ("12", 12),
        ('"12"', "12"),
        ('{"a": [1]}', {"a": [1]}),
        ("{broken", "{broken"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("1e999", "1e999"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_typed_value_is_json_or_a_string(text: str, expected: object) -> None:
    assert read_value(text) == expected


@given(st.text())
def test_any_typed_value_gives_a_valid_body(text: str) -> None:
    value = read_value(text)
    assert json.loads(compact({"value": value})) == {"value": value}


def test_body_with_lone_surrogates_is_short_utf_8() -> None:
    assert compact({"a": "é\ud800", "b": 1}) == b'{"a":"\xc3\xa9\\ud800","b":1}'
