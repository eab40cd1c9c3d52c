"""Reading of bodies: errors, unusual values, and the methods of events and their parts."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import pickle
import subprocess
import sys
import threading
import types
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import body_of, cases

from hubhooks import (
    Changes,
    Comment,
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    Discussion,
    DiscussionEvent,
    Filter,
    HubEvent,
    MovedTo,
    Owner,
    Repo,
    RepoEvent,
    UpdatedFile,
    UpdatedFiles,
    UpdatedRef,
    Url,
    Webhook,
)
from hubhooks._samples import compact, sample_json, sample_names
from hubhooks.errors import ConfigError, PayloadError

EVENTS = (HubEvent, RepoEvent, ContentEvent, ConfigEvent, DiscussionEvent, CommentEvent)
PARTS = (
    *(Repo, Url, Owner, Discussion, Changes, Comment),
    *(UpdatedRef, UpdatedFile, UpdatedFiles, MovedTo, Webhook),
)
NAMES = sample_names()
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
EVENT = '"event": {"action": "update", "scope": "repo.content"}'
# A key that the JSON reader uses internally.
READERS_KEY = "$serde_json::private::RawValue"

every_sample = pytest.mark.parametrize("name", NAMES)


def attributes(value: Any) -> list[str]:
    """Name the attributes of an event or a part."""
    classes = type(value).__mro__
    return [
        name
        for cls in classes
        for name, member in vars(cls).items()
        if isinstance(member, types.GetSetDescriptorType) and name != "__class__"
    ]


def everything(value: Any) -> Any:
    """Read every attribute of an event or a part, and of the parts in it."""
    if isinstance(value, (tuple, UpdatedFiles)):
        return [everything(item) for item in value]
    if isinstance(value, (*EVENTS, *PARTS)):
        return {name: everything(getattr(value, name)) for name in attributes(value)}
    return value


def parts_of(value: Any) -> Iterator[Any]:
    """Return every part of an event or a part, and the parts of those."""
    children = [getattr(value, name) for name in attributes(value)]
    if isinstance(value, UpdatedFiles):
        children = list(value)
    for child in children:
        for part in child if isinstance(child, tuple) else [child]:
            if isinstance(part, PARTS):
                yield part
                yield from parts_of(part)


def read(name: str) -> HubEvent:
    return HubEvent.from_json(compact(sample_json(name)))


def is_one_line(text: str) -> bool:
    """Return whether a text has no character that ends a line or moves the cursor."""
    return not {unicodedata.category(character) for character in text} & {"Cc", "Zl", "Zp"}


EXAMPLES = [read(name) for name in NAMES]
EXAMPLE_PARTS = [part for event in EXAMPLES for part in parts_of(event)]


def one_of(cls: type) -> Any:
    """Return an example of an event class or a part."""
    unknown = HubEvent.from_json('{"event": {"action": "create", "scope": "org"}}')
    return next(each for each in (*EXAMPLES, *EXAMPLE_PARTS, unknown) if type(each) is cls)


# ---- errors -----------------------------------------------------------------------------------


def rejected_body(row: dict[str, Any]) -> bytes:
    if "body_hex" in row:
        return bytes.fromhex(row["body_hex"])
    if build := row.get("build"):
        text = build["prefix"] + build["repeat"] * build["times"] + build["suffix"]
        return text.encode()
    return row["body"].encode()


@cases("rejected", "message")
def test_body_is_rejected_with_message_and_place(row):
    with pytest.raises(PayloadError) as caught:
        HubEvent.from_json(rejected_body(row))
    error = caught.value
    assert str(error) == row["message"]
    assert (error.line, error.column, error.path) == (row["line"], row["column"], row["path"])
    assert error.__cause__ is None
    assert isinstance(error, ValueError)


def test_payload_error_survives_pickling():
    with pytest.raises(PayloadError) as caught:
        HubEvent.from_json(b'{"event": 1}')
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert vars(again) == vars(caught.value) == {"line": 1, "column": 12, "path": "event"}


@pytest.mark.parametrize("key", [r"a\nb", r"\u001b[31m", r"\r", r"\u0085", r"\u2028"])
def test_payload_error_is_one_line(key):
    with pytest.raises(PayloadError) as caught:
        HubEvent.from_json(f'{{"{key}": NaN}}')
    assert is_one_line(str(caught.value))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda: b"9" * 100_000_000, id="the whole body"),
        pytest.param(lambda: b'{%s, "x": ' % EVENT.encode() + b"9" * 100_000_000, id="cut off"),
        pytest.param(
            lambda: b'{%s, "x": %s}' % (EVENT.encode(), b"9" * 100_000_000), id="in a field"
        ),
    ],
)
def test_hundred_megabytes_of_digits_are_rejected(body):
    with pytest.raises(PayloadError):
        HubEvent.from_json(body())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("7" * 70_000, id="digits"),
        pytest.param("pi is " + "3" * 70_000, id="digits after a space"),
        pytest.param("a " + "-" * 140_000, id="dashes after a space"),
        pytest.param("[1," + "2" * 70_000 + "]", id="digits after a comma"),
        pytest.param("x" + "1" * 1_000_000, id="a million digits after a letter"),
    ],
)
def test_long_numbers_in_text_are_text(event, text):
    made = event("discussion.comment.create", comment__content=text)
    assert made.comment.content == text


# ---- unusual values ---------------------------------------------------------------------------


def found(event: Any, path: str) -> Any:
    if path == "class":
        return type(event).__name__
    for step in path.split("."):
        event = event[int(step)] if step.isdigit() else getattr(event, step)
    return event


def assert_agrees(value: Any, expected: Any) -> None:
    """Compare exactly; of an object only the attributes that the expected dict names."""
    if isinstance(expected, dict):
        assert value is not None
        for path, inner in expected.items():
            assert_agrees(found(value, path), inner)
    elif isinstance(expected, list):
        assert len(value) == len(expected)
        for item, inner in zip(value, expected, strict=True):
            assert_agrees(item, inner)
    else:
        assert (type(value), value) == (type(expected), expected)


def as_text(value: Any) -> str:
    """Write a value so that whole numbers and fractions, and orders of keys, differ."""
    return json.dumps(value, ensure_ascii=False)


@cases("readings", "expect")
def test_odd_body_is_read_as_documented(row):
    event = HubEvent.from_json(row["body"] if "body" in row else compact(body_of(row)))
    assert_agrees(event, row["expect"])
    for name, expected in row.get("expect_python", {}).items():
        assert as_text(getattr(event, name)) == as_text(expected)


@pytest.mark.parametrize("value", ["[1, 2]", "[1", "", 7, None, {"a": 1}])
def test_internal_key_of_the_reader_is_an_ordinary_key(value):
    body = {
        READERS_KEY: value,
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {READERS_KEY: value, "type": "bucket", "name": "b"},
        "updatedRefs": [{READERS_KEY: value, "ref": "refs/heads/main"}],
        "updatedFiles": [{READERS_KEY: value, "path": "a", "action": "add"}],
        "updatedConfig": {READERS_KEY: value},
        "x": {READERS_KEY: value},
    }
    event = HubEvent.from_json(json.dumps(body))
    assert event.to_dict() == body
    assert event.extra == {READERS_KEY: value, "x": {READERS_KEY: value}}
    assert event.updated_config == {READERS_KEY: value}
    assert event.repo.to_dict() == body["repo"]
    assert event.updated_refs[0].to_dict() == body["updatedRefs"][0]
    assert event.updated_files[0].to_dict() == body["updatedFiles"][0]


# ---- coverage of samples ----------------------------------------------------------------------


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the paths to everything in a body that is neither an object nor a list."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


def with_leaf(body: Any, path: tuple[Any, ...], change: Any) -> Any:
    """Copy a body and change one value in the copy."""
    changed = copy.deepcopy(body)
    *parents, last = path
    owner = changed
    for step in parents:
        owner = owner[step]
    owner[last] = change(owner[last])
    return changed


def another(value: Any) -> Any:
    """Return another value of the same type, or a string instead of None."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else "changed"


def documented(event: HubEvent) -> str:
    """Return every attribute except those that show the unchanged body."""
    values = everything(event)
    del values["raw"], values["extra"]
    return json.dumps(values)


@every_sample
def test_every_value_of_the_sample_is_read(name):
    body = sample_json(name)
    before = documented(HubEvent.from_dict(body))
    for path in leaves(body):
        changed = with_leaf(body, path, another)
        event = HubEvent.from_dict(changed)
        after = documented(event)
        assert after != before, f"nobody reads {path}"
        for step in path:
            changed = changed[step]
        assert not isinstance(changed, str) or '"changed"' in after, f"{path} is not kept"
        assert event.extra == {}


def test_every_attribute_is_in_some_sample():
    known, filled = set(), set()
    for value in (*EXAMPLES, *EXAMPLE_PARTS):
        for name in attributes(value):
            known.add(name)
            if getattr(value, name) not in (None, (), {}):
                filled.add(name)
    assert known - filled == {"extra"}


def test_every_class_has_an_example():
    assert {type(each) for each in EXAMPLE_PARTS} == set(PARTS)
    assert {type(each) for each in EXAMPLES} == set(EVENTS) - {HubEvent}


# ---- input ------------------------------------------------------------------------------------


def test_body_may_be_bytes_text_or_a_bytearray():
    body = compact(sample_json("repo.move"))
    event = HubEvent.from_json(body)
    assert event.raw is body
    assert HubEvent.from_json(body.decode()).raw == body
    changing = bytearray(body)
    of_changing = HubEvent.from_json(changing)
    changing[:] = b"x" * len(body)
    assert type(of_changing.raw) is bytes
    assert of_changing.raw == body
    assert of_changing == event


@pytest.mark.parametrize(
    "body", [7, None, memoryview(b"{}"), {}, [], object()], ids=lambda body: type(body).__name__
)
def test_body_of_another_type_is_a_type_error(body):
    expected = f"expected the body as bytes or str, found {type(body).__name__}"
    with pytest.raises(TypeError) as caught:
        HubEvent.from_json(body)
    assert str(caught.value) == expected


def test_text_without_utf8_form_is_rejected():
    with pytest.raises(PayloadError) as caught:
        HubEvent.from_json(f'{{{EVENT}, "x": "\ud800"}}')
    error = caught.value
    assert str(error) == "expected text that UTF-8 can write, found lone surrogates"
    assert (error.line, error.column, error.path) == (None, None, "")


@every_sample
@pytest.mark.parametrize("cls", EVENTS)
def test_class_methods_return_their_class_or_raise(name, cls):
    body = sample_json(name)
    event = HubEvent.from_dict(body)
    ways = [
        lambda: cls.from_json(json.dumps(body)),
        lambda: cls.from_dict(body),
        lambda: cls.from_env({"WEBHOOK_PAYLOAD": json.dumps(body)}),
    ]
    for way in ways:
        if isinstance(event, cls):
            assert type(way()) is type(event)
            continue
        with pytest.raises(PayloadError) as caught:
            way()
        expected, kind = cls.__name__, type(event).__name__
        assert str(caught.value) == f"expected the body of a `{expected}`, found that of a `{kind}`"
        assert caught.value.line is None


@pytest.mark.parametrize("cls", [*EVENTS, *PARTS])
def test_event_classes_cannot_be_called(cls):
    with pytest.raises(TypeError):
        cls()


@every_sample
def test_from_dict_and_to_dict_are_inverse(name):
    body = sample_json(name)
    event = HubEvent.from_dict(types.MappingProxyType(body))
    assert event.to_dict() == body == json.loads(compact(body))
    assert list(event.to_dict()) == list(body)
    assert HubEvent.from_dict(event.to_dict()) == event == HubEvent.from_json(compact(body))


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


def cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["x"] = value
    return value


@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        pytest.param(cyclic(), ValueError, id="a cycle"),
        pytest.param({"x": float("nan")}, ValueError, id="NaN"),
        pytest.param({"x": [float("-inf")]}, ValueError, id="infinity"),
        pytest.param(nested(100_000), RecursionError, id="too deep for Python"),
        pytest.param({"x": {1, 2}}, TypeError, id="a set"),
        pytest.param({"x": b"bytes"}, TypeError, id="bytes"),
        pytest.param({(1, 2): 3}, TypeError, id="a key that is a tuple"),
        pytest.param(7, TypeError, id="a number"),
        pytest.param(None, TypeError, id="None"),
        pytest.param("ab", ValueError, id="text"),
    ],
)
def test_value_outside_json_is_rejected_with_the_cause(payload, cause):
    with pytest.raises(PayloadError, match=r"^the mapping cannot be written as JSON: ") as caught:
        HubEvent.from_dict(payload)
    assert type(caught.value.__cause__) is cause
    assert (caught.value.line, caught.value.column, caught.value.path) == (None, None, "")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({}, "expected a key `event` with `action` and `scope` at line 1 column 2"),
        ({"event": "add"}, "expected a key `scope` with a string beside the `event`"),
        ({"x": 10**400}, "`x`: number out of range"),
        ({"x": nested(200)}, "recursion limit exceeded"),
    ],
    ids=["empty", "version 2 without scope", "a number too large", "too deep"],
)
def test_dict_that_is_no_event_is_rejected(payload, message):
    with pytest.raises(PayloadError) as caught:
        HubEvent.from_dict(payload)
    assert message in str(caught.value)
    assert caught.value.__cause__ is None


def test_from_dict_passes_interrupts_on():
    class Stopped(dict):
        def keys(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        HubEvent.from_dict(types.MappingProxyType(Stopped()))


def test_dict_with_lone_surrogates_is_read():
    event = HubEvent.from_dict({"event": {"action": "\ud800", "scope": "repo"}, "\udfff": 1})
    assert event.action == "\ufffd"
    assert event.extra == {"\ufffd": 1}


def test_job_reads_its_delivery_from_the_environment(monkeypatch):
    body = json.dumps(sample_json("repo.move"))
    assert HubEvent.from_env({"WEBHOOK_PAYLOAD": body}) == read("repo.move")
    monkeypatch.setenv("WEBHOOK_PAYLOAD", body)
    assert HubEvent.from_env() == read("repo.move") == HubEvent.from_env(None)


@pytest.mark.parametrize(
    "environ", [{}, {"WEBHOOK_REPO_ID": "x"}, {"WEBHOOK_PAYLOAD": ""}, None], ids=repr
)
def test_job_started_by_hand_has_no_delivery(monkeypatch, environ):
    monkeypatch.delenv("WEBHOOK_PAYLOAD", raising=False)
    with pytest.raises(ConfigError, match=r"^no `WEBHOOK_PAYLOAD` in the environment: "):
        HubEvent.from_env(environ)


@pytest.mark.parametrize("payload", ["{", "null", "\udcff"], ids=ascii)
def test_job_with_a_broken_delivery_is_an_error(payload):
    with pytest.raises(PayloadError):
        HubEvent.from_env({"WEBHOOK_PAYLOAD": payload})


# ---- output -----------------------------------------------------------------------------------

ODD = f' {{{EVENT},\t"x" : "\\ud83d\\u00e9",\r\n"y":1.50, "y": 2E0}}\n'.encode()


def test_raw_is_the_exact_body():
    assert HubEvent.from_json(ODD).raw == ODD
    assert HubEvent.from_json(ODD.decode()).raw == ODD


def test_to_json_is_the_body_without_lone_surrogates():
    event = HubEvent.from_json(ODD)
    assert event.to_json() == ODD.decode().replace("\\ud83d", "\\uFFFD")
    assert json.loads(event.to_json()) == event.to_dict()
    plain = compact(sample_json("repo.move"))
    assert HubEvent.from_json(plain).to_json() == plain.decode()


def test_to_dict_returns_a_new_dict():
    event = read("repo.config.update")
    for make in (
        event.to_dict,
        event.repo.to_dict,
        lambda: event.updated_config,
        lambda: event.extra,
    ):
        first, kept = make(), copy.deepcopy(make())
        first["x"] = 1
        assert make() == kept != first


@pytest.mark.parametrize(
    "number",
    [
        *("6.5906986593280764e-21", "9007199254740993.0", "0.1", "123456789.123456789"),
        *("1.7976931348623157e308", "2.2250738585072014e-308", "5e-324", "1e23", "-0.0"),
        *("18446744073709551616", "-9223372036854775809"),
    ],
)
def test_fractions_equal_those_of_python(number):
    event = HubEvent.from_json(f'{{{EVENT}, "x": {number}}}')
    assert event.extra == {"x": float(number)}
    assert type(event.extra["x"]) is float


@every_sample
def test_part_shows_what_the_hub_sent(name):
    body, event = sample_json(name), read(name)
    wire = {"moved_to": "movedTo", "updated_refs": "updatedRefs", "updated_files": "updatedFiles"}
    for way, part in parts_by_path(event).items():
        sent: Any = body
        for step in way.split("."):
            if isinstance(sent, dict):
                sent = sent.get(wire.get(step, step))
            elif isinstance(sent, list):
                sent = sent[int(step)]
        if isinstance(sent, dict):
            assert part.to_dict() == sent


def test_part_shows_its_undocumented_keys(event):
    made = event("discussion.update.merged", discussion__x=[1], repo__owner__x=2, webhook__x=3)
    assert made.discussion.to_dict()["x"] == [1]
    assert made.repo.to_dict()["owner"] == made.repo.owner.to_dict()
    assert made.repo.owner.to_dict()["x"] == 2
    assert made.webhook.to_dict() == {"id": "6a065cd30f24d7cc0ec06496", "version": 3, "x": 3}


def test_older_shape_of_a_part_is_read_as_newer():
    event = read("repo.move.v2")
    assert event.repo.owner.to_dict() == {"id": "63fd9741b106ddc5cec15951"}
    assert event.moved_to.to_dict() == {"name": "sea-archive/wave-heights"}
    assert event.moved_to.owner.to_dict() == {"id": "6411a5c11d514a071c5d28d7"}
    older = read("repo.update.older")
    assert older.repo.owner.to_dict() == older.to_dict()["repo"]["author"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "discussion.comment.create",
            "<CommentEvent discussion.comment create of dataset ada-labs/tide-gauges #7>",
        ),
        (
            "discussion.update.merged",
            "<DiscussionEvent discussion update of model ada-labs/tide-forecast #3>",
        ),
        (
            "repo.content.update",
            "<ContentEvent repo.content update of dataset ada-labs/tide-gauges>",
        ),
        ("repo.config.update", "<ConfigEvent repo.config update of model ada-labs/tide-forecast>"),
        ("repo.create.canonical", "<RepoEvent repo create of model tidebert>"),
        ("repo.move.v2", "<RepoEvent repo move of dataset ada-labs/wave-heights>"),
    ],
)
def test_repr_of_an_event_has_action_and_repository(name, expected):
    assert repr(read(name)) == expected


def test_repr_of_an_event_without_parts():
    event = HubEvent.from_json('{"event": {"action": "create", "scope": "org"}}')
    assert repr(event) == "<HubEvent org create>"


def test_repr_of_parts():
    merged, moved = read("discussion.update.merged"), read("repo.move")
    bucket = read("repo.content.update.bucket")
    assert [
        repr(merged.repo),
        repr(merged.repo.url),
        repr(merged.repo.owner),
        repr(merged.discussion),
        repr(merged.discussion.changes),
        repr(read("discussion.comment.update.hidden").comment),
        repr(merged.webhook),
        repr(moved.moved_to),
        repr(read("repo.content.update").updated_refs),
        repr(bucket.updated_files),
        repr(bucket.updated_files[2]),
    ] == [
        "Repo(type='model', name='ada-labs/tide-forecast')",
        "Url(web='https://huggingface.co/ada-labs/tide-forecast')",
        "Owner(id='63fd9741b106ddc5cec15951')",
        (
            "Discussion(num=3, title='Retrain on the March gauges', status='merged', "
            "is_pull_request=True)"
        ),
        "Changes(base='refs/heads/main')",
        "Comment(content='', hidden=True)",
        "Webhook(id='6a065cd30f24d7cc0ec06496')",
        "MovedTo(name='sea-archive/surge-alarm')",
        "(UpdatedRef(ref='refs/heads/main'),)",
        "<UpdatedFiles: 3 files>",
        "UpdatedFile(path='incoming/brest.csv.part', action='delete')",
    ]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "<UpdatedFiles: 0 files>"), (1, "<UpdatedFiles: 1 file>"), (2, "<UpdatedFiles: 2 files>")],
)
def test_repr_of_files_counts_them(event, count, expected):
    files = [{"path": f"{at}.csv", "action": "add"} for at in range(count)]
    assert repr(event("repo.content.update.bucket", updatedFiles=files).updated_files) == expected


def test_only_a_comment_shows_its_content(event):
    made = event("discussion.create", comment__content="the words")
    for shown in (made, *parts_of(made)):
        assert ("the words" in repr(shown)) is isinstance(shown, Comment)


def test_repr_quotes_as_python_does(event):
    made = event("discussion.create", comment__content='it\'s\n"so"\u2028\x1b')
    assert repr(made.comment) == f"Comment(content={made.comment.content!r}, hidden=False)"


ODD_NAMES = ["a\nb", "\r", "\x1b[31m", "\u2028"]


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_explanation_is_one_line(event, odd):
    made = event("discussion.create", event__scope=odd, event__action=odd, discussion__status=odd)
    for filter_ in (
        Filter("repo"),
        Filter(action="move"),
        Filter(status="open"),
        Filter(owner="me", author="x"),
    ):
        assert is_one_line(filter_.explain(made))
    pushed = event(
        "repo.content.update", repo__type=odd, repo__name=f"{odd}/x", repo__owner__id=odd
    )
    for filter_ in (Filter(repo_type="model"), Filter(repo="me/*"), Filter(owner="me")):
        assert is_one_line(filter_.explain(pushed))


def test_comparison_with_other_types_returns_not_implemented(event):
    made = event("repo.content.update.bucket")
    for one in (made, made.repo, made.updated_files, made.updated_files[0]):
        assert one == ANY
        assert one != "something else"
        assert type(one).__eq__(one, "something else") is NotImplemented


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_repr_is_one_line(event, odd):
    made = event("discussion.create", repo__name=odd, repo__type=odd, event__action=odd)
    assert is_one_line(repr(made))
    assert is_one_line(repr(event("discussion.create", event__scope=odd)))
    for part in parts_of(made):
        assert is_one_line(repr(part))


# ---- equality, hashes, copies -----------------------------------------------------------------


def turned_round(value: Any) -> Any:
    """Reverse the order of keys."""
    if isinstance(value, dict):
        return {key: turned_round(item) for key, item in reversed(value.items())}
    return [turned_round(item) for item in value] if isinstance(value, list) else value


def escaped(value: Any) -> str:
    """Write a body with an escape for every character of every string."""
    if isinstance(value, str):
        return '"' + "".join(f"\\u{ord(character):04x}" for character in value) + '"'
    if isinstance(value, dict):
        members = [f"{escaped(key)}: {escaped(item)}" for key, item in value.items()]
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(escaped, value)) + "]"
    return json.dumps(value)


@every_sample
def test_equality_ignores_the_json_format(name):
    body = sample_json(name)
    first = HubEvent.from_dict(body)
    for text in (
        json.dumps(body, indent=3),
        json.dumps(turned_round(body)),
        escaped(body),
    ):
        second = HubEvent.from_json(text)
        assert first == second
        assert not first != second  # noqa: SIM202
        assert len({first, second}) == 1
        for way, part in parts_by_path(second).items():
            same = found(first, way)
            assert same == part
            assert hash(same) == hash(part)


def test_any_difference_makes_events_unequal():
    for name in NAMES:
        body = sample_json(name)
        event = HubEvent.from_dict(body)
        for path in leaves(body):
            assert HubEvent.from_dict(with_leaf(body, path, another)) != event
        assert HubEvent.from_dict({**body, "x": None}) != event
    assert len(set(EXAMPLES)) == len(NAMES)


def test_parts_are_compared_by_content():
    comment, post = read("discussion.comment.create"), read("discussion.create")
    assert comment.repo == post.repo
    assert comment.repo is not post.repo
    assert comment.comment != post.comment
    assert {comment.repo, post.repo} == {post.repo}
    assert comment.webhook == read("repo.create").webhook


@pytest.mark.parametrize("cls", [*EVENTS, *PARTS])
def test_events_never_equal_another_type(cls):
    made = one_of(cls)
    assert made == made  # noqa: PLR0124
    assert not made != made  # noqa: PLR0124, SIM202
    for other in (None, 1, "x", (), {}, object(), cls, read("repo.move.v2"), one_of(Webhook)):
        if type(other) is not cls:
            assert made != other
            assert not made == other  # noqa: SIM201


@every_sample
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_events_and_parts_survive_pickling(name, protocol):
    event = read(name)
    for made in (event, *parts_of(event)):
        again = pickle.loads(pickle.dumps(made, protocol))
        assert type(again) is type(made)
        assert again == made
        assert hash(again) == hash(made)
        assert everything(again) == everything(made)


def test_pickling_keeps_the_exact_body():
    assert pickle.loads(pickle.dumps(HubEvent.from_json(ODD))).raw == ODD


def test_parts_beside_none_survive_pickling():
    files = [7, {"path": "a", "action": "add"}, {}, {"path": "b", "action": "add"}]
    refs = [None, {"ref": "a"}, [], {"ref": "b"}]
    body = {**sample_json("repo.content.update"), "updatedFiles": files, "updatedRefs": refs}
    event = HubEvent.from_dict(body)
    assert pickle.loads(pickle.dumps(event.updated_files[1])).path == "b"
    assert pickle.loads(pickle.dumps(event.updated_refs[1])).ref == "b"
    assert event.updated_files[1].to_dict() == files[3]
    assert event.updated_refs[1].to_dict() == refs[3]


@pytest.mark.parametrize("cls", [*EVENTS, *PARTS])
def test_copies_are_the_same_object(cls):
    made = one_of(cls)
    assert copy.copy(made) is made
    assert copy.deepcopy(made) is made
    assert copy.deepcopy([made, made])[1] is made


# ---- frozen -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [*EVENTS, *PARTS])
def test_attributes_cannot_be_set_or_deleted(cls):
    made = one_of(cls)
    before = everything(made)
    for name in (*attributes(made), "new"):
        with pytest.raises(AttributeError):
            setattr(made, name, None)
        with pytest.raises(AttributeError):
            delattr(made, name)
    assert not hasattr(made, "__dict__")
    assert everything(made) == before


def test_files_cannot_be_changed():
    files = read("repo.content.update.bucket").updated_files
    with pytest.raises(TypeError):
        files[0] = files[1]
    with pytest.raises(TypeError):
        del files[0]


def parts_by_path(event: HubEvent) -> dict[str, Any]:
    """Return every part of an event with its path."""
    ways = ["repo", "repo.url", "repo.owner", "discussion", "discussion.url", "discussion.author"]
    ways += ["discussion.changes", "comment", "comment.author", "comment.url", "webhook"]
    ways += ["moved_to", "moved_to.owner", "updated_refs", "updated_files"]
    ways += [f"updated_refs.{index}" for index in range(len(event.updated_refs))]
    ways += [f"updated_files.{index}" for index in range(len(event.updated_files))]
    parts = {}
    for way in ways:
        parent, _, _ = way.rpartition(".")
        if not parent or parts.get(parent) is not None:
            parts[way] = found(event, way)
    return parts


@every_sample
def test_part_is_the_same_object_on_every_access(name):
    event = read(name)
    first, second = parts_by_path(event), parts_by_path(event)
    assert first.keys() == second.keys()
    for way, part in first.items():
        assert part is second[way], way


@pytest.mark.slow
@every_sample
def test_a_part_outlives_its_event(name):
    event = read(name)
    before = [everything(part) for part in parts_of(event)]
    parts = list(parts_of(event))
    del event
    gc.collect()
    assert [everything(part) for part in parts] == before


# ---- match ------------------------------------------------------------------------------------


def describe(event: HubEvent) -> str:  # noqa: C901, PLR0911
    """Distinguish events as a handler may."""
    match event:
        case CommentEvent(is_opening_post=True, discussion=Discussion(is_pull_request=True)):
            return "opened pull request"
        case CommentEvent(comment=Comment(hidden=True)):
            return "hidden comment"
        case CommentEvent(comment=Comment(content=content)):
            return f"comment {content[:7]}"
        case DiscussionEvent(discussion=Discussion(status="merged", changes=Changes(base=base))):
            return f"merged into {base}"
        case DiscussionEvent(discussion=Discussion(num=num)):
            return f"discussion {num}"
        case ContentEvent(updated_files=[UpdatedFile(path=first), *rest]):
            return f"{first} and {len(rest)} files"
        case ContentEvent(updated_refs=[UpdatedRef(branch="main")]):
            return "push to main"
        case ContentEvent(updated_files=[]):
            return "push elsewhere"
        case ConfigEvent(updated_config={"private": bool(private)}):
            return f"private: {private}"
        case RepoEvent(action="move", moved_to=MovedTo(name=name, owner=Owner())):
            return f"moved to {name}"
        case RepoEvent(repo=Repo(type=kind, url=Url() | None)):
            return f"a {kind}"
        case HubEvent(effective=[scope, _], webhook=Webhook(version=3) | None):
            return f"something on {scope}"
    return "nothing"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("discussion.create.pull-request", "opened pull request"),
        ("discussion.comment.update.hidden", "hidden comment"),
        ("discussion.comment.create", "comment @my-bot"),
        ("discussion.update.merged", "merged into refs/heads/main"),
        ("discussion.update.closed", "discussion 7"),
        ("repo.content.update.bucket", "2026/03/brest.csv and 2 files"),
        ("repo.content.update", "push to main"),
        ("repo.content.update.tag", "push elsewhere"),
        ("repo.config.update", "private: True"),
        ("repo.move.v2", "moved to sea-archive/wave-heights"),
        ("repo.create.bucket", "a bucket"),
    ],
)
def test_match_distinguishes_event_classes(name, expected):
    assert describe(read(name)) == expected


def test_unknown_event_matches_the_base_class(event):
    assert describe(event("repo.create", event__scope="org")) == "something on org"


# ---- updated files ----------------------------------------------------------------------------

FILES = read("repo.content.update.bucket").updated_files
TWICE = HubEvent.from_dict(
    {
        **sample_json("repo.content.update.bucket"),
        "updatedFiles": [
            {"path": path, "action": "add", "size": size}
            for path, size in [("a", 1), ("b", 2), ("a", 1), ("a", 3), ("b", 2), ("c", 1)]
        ],
    }
).updated_files

ANY_INDEX = st.one_of(
    st.integers(-8, 8),
    st.integers(-(2**70), 2**70),
    st.sampled_from([sys.maxsize, -sys.maxsize, -sys.maxsize - 1, True, False]),
)


def outcome(action: Any) -> Any:
    """Return the result of an action, or the class of its exception."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001, any is compared
        return type(error)


def test_files_are_a_sequence():
    assert isinstance(FILES, Sequence)
    assert issubclass(UpdatedFiles, Sequence)
    assert len(FILES) == 3
    assert FILES
    assert not read("repo.create").updated_files
    paths = ["2026/03/brest.csv", "2026/03/saint-malo.csv", "incoming/brest.csv.part"]
    assert [file.path for file in FILES] == paths
    assert [file.path for file in reversed(FILES)] == paths[::-1]
    assert FILES[-1] is FILES[2] is [*FILES][2]


@given(ANY_INDEX)
def test_files_are_indexed_like_a_tuple(index):
    assert outcome(lambda: FILES[index]) == outcome(lambda: tuple(FILES)[index])


@given(st.builds(slice, *[st.none() | ANY_INDEX] * 3))
def test_files_are_sliced_like_a_tuple(span):
    assert outcome(lambda: FILES[span]) == outcome(lambda: tuple(FILES)[span])


@pytest.mark.parametrize("index", ["a", 1.5, None, (0, 1), b"", slice("a")], ids=repr)
def test_files_reject_other_indexes(index):
    with pytest.raises(TypeError):
        FILES[index]


class Two:
    def __index__(self):
        return 2


def test_files_accept_objects_with_index():
    assert FILES[Two()] is FILES[2]
    assert FILES[Two() :] == (FILES[2],)


@given(st.sampled_from(TWICE), st.lists(ANY_INDEX, max_size=2))
def test_files_are_found_like_in_a_tuple(file, bounds):
    assert outcome(lambda: TWICE.index(file, *bounds)) == outcome(
        lambda: tuple(TWICE).index(file, *bounds)
    )


def test_files_are_counted_and_contained_by_content():
    first, second, *_, last = TWICE
    assert [TWICE.count(file) for file in (first, second, last)] == [2, 2, 1]
    assert TWICE.index(TWICE[4]) == 1
    assert TWICE.index(second, 2, None) == 4
    assert pickle.loads(pickle.dumps(first)) in TWICE
    assert FILES[0] not in TWICE
    assert TWICE.count(FILES[0]) == 0


@pytest.mark.parametrize("other", [None, 7, "2026/03/brest.csv", (), read("repo.move")], ids=repr)
def test_other_object_is_not_in_files(other):
    assert other not in FILES
    assert FILES.count(other) == 0
    with pytest.raises(ValueError, match=r"^the file is not among these$"):
        FILES.index(other)


def test_file_outside_the_bounds_is_not_found():
    with pytest.raises(ValueError, match=r"^the file is not among these$"):
        FILES.index(FILES[0], 1)


def test_index_beyond_the_files_is_an_index_error():
    for index in (3, -4, sys.maxsize, -sys.maxsize - 1, 2**100, -(2**100)):
        with pytest.raises(IndexError):
            FILES[index]


def test_files_match_sequence_patterns():
    match FILES:
        case [first, *_, UpdatedFile(action="delete") as last]:
            assert first is FILES[0]
            assert last is FILES[2]
        case _:
            pytest.fail("no match")


def test_iterator_stays_exhausted():
    walk = iter(FILES)
    assert iter(walk) is walk
    assert len(list(walk)) == 3
    assert list(walk) == []
    with pytest.raises(StopIteration):
        next(walk)


def test_files_equal_only_equal_files():
    assert read("repo.content.update.bucket").updated_files == FILES
    assert FILES != TWICE
    assert tuple(FILES) != FILES
    assert len({FILES, read("repo.content.update.bucket").updated_files, TWICE}) == 2


def test_ten_thousand_files_are_read():
    sent = [
        {"path": f"2026/{number}.csv", "action": "add", "xetHash": "0" * 64, "size": number}
        for number in range(10_000)
    ]
    body = {**sample_json("repo.content.update.bucket-truncated"), "updatedFiles": sent}
    event = HubEvent.from_json(compact(body))
    assert event.updated_files_truncated
    files = event.updated_files
    assert len(files) == 10_000
    assert files[9_999].size == 9_999
    assert files[9_999] is files[-1]
    assert [file.to_dict() for file in files[::1_000]] == sent[::1_000]
    assert sum(file.size for file in files) == sum(range(10_000))
    assert files.index(files[5_000]) == 5_000
    assert event.to_dict() == body
    assert pickle.loads(pickle.dumps(event)) == event


# ---- mentions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "@my-bot",
        "@my-bot check the gauges",
        "please, @my-bot",
        "Hey @My-Bot!",
        "@MY-BOT?",
        "(@my-bot)",
        "[@my-bot]",
        "**@my-bot**",
        ">@my-bot",
        "thanks,@my-bot",
        "@my-bot's fault",
        "@my-bot.",
        "@my-bot...",
        "@my-bot, @your-bot",
        "@my-bot\nsecond line",
        "\n@my-bot",
        "\u3000@my-bot\u3000",
        "@my-bot/model",  # as the Hub links the login in a path
        "@my-bot@my-bot",
        "@my-botany, but also @my-bot",
        "me@my-bot.org, but also @my-bot",
        "\U0001f30a@my-bot\U0001f30a",
    ],
)
def test_comment_mentions_a_whole_login(event, content):
    comment = event("discussion.comment.create", comment__content=content).comment
    assert comment.mentions("my-bot")
    assert comment.mentions("@my-bot")
    assert comment.mentions("My-BOT")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "my-bot",
        "my-bot@",
        "@ my-bot",
        "@my-",
        "@my-bo",
        "@my bot",
        "@my-bots",
        "@my-bot2",
        "@my-bot-two",
        "@my-bot_",
        "@my-bot\u00e9",
        "@my-bot.two",
        "@not-my-bot",
        "me@my-bot",
        "me@my-bot.org",
        "me.@my-bot",
        "https://huggingface.co/@my-bot",
        "@@my-bot",
        "\u00e9@my-bot",
        "7@my-bot",
        "-@my-bot",
        "_@my-bot",
        "`@my-bot`",
        "@my\u2010bot",
        "\uff20my-bot",
    ],
)
def test_part_of_a_word_or_address_is_no_mention(event, content):
    comment = event("discussion.comment.create", comment__content=content).comment
    assert not comment.mentions("my-bot")


def test_hidden_comment_mentions_no_user():
    assert not read("discussion.comment.update.hidden").comment.mentions("my-bot")


@pytest.mark.parametrize("name", ["", "@", "@@my-bot", "bot", "my", "y-bot"])
def test_only_a_whole_login_is_mentioned(event, name):
    comment = event("discussion.comment.create", comment__content="@my-bot @ @@ me").comment
    assert not comment.mentions(name)


def test_non_ascii_login_is_compared_unchanged(event):
    comment = event("discussion.comment.create", comment__content="@J\u00f8rgen").comment
    assert comment.mentions("j\u00f8rgen")
    assert not comment.mentions("j\u00f8rge")
    assert not comment.mentions("j\u00f8")
    assert not comment.mentions("j")


# ---- memory and threads -----------------------------------------------------------------------


@every_sample
def test_events_are_not_tracked_by_the_garbage_collector(name):
    event = read(name)
    for made in (event, *parts_of(event)):
        assert not gc.is_tracked(made)


def use(made: Any) -> None:
    """Use every method of an event or a part."""
    everything(made)
    assert is_one_line(repr(made))
    again = pickle.loads(pickle.dumps(made))
    assert again == made
    assert hash(again) == hash(made)
    assert isinstance(made, UpdatedFiles) or isinstance(made.to_dict(), dict)
    if isinstance(made, Comment):
        made.mentions(made.content)


@every_sample
def test_body_is_freed_with_its_event(name):
    body = compact(sample_json(name))
    before = sys.getrefcount(body)
    event = HubEvent.from_json(body)
    made = [event, *parts_of(event)]
    for each in made:
        use(each)
    del event, made, each
    assert sys.getrefcount(body) == before


LEAK = """
import gc, pickle, resource, sys
from hubhooks import HubEvent
from hubhooks._samples import compact, sample_json

bodies = [
    compact(sample_json(name))
    for name in ("discussion.comment.create", "repo.content.update.bucket", "repo.move.v2")
]
bodies += [body.replace(b"ada", b"\\\\u0061d\\\\ud800") for body in bodies]
bodies += [bodies[0][:-5]]

def parse(times):
    for at in range(times):
        try:
            event = HubEvent.from_json(bodies[at % len(bodies)])
        except ValueError:
            continue
        event.repo.owner.id, event.webhook, event.comment, event.moved_to, event.updated_refs
        [file.path for file in event.updated_files]
        if at % 10 == 0:
            event.to_dict(), hash(event), repr(event), pickle.dumps(event.repo)

def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used // 1024 if sys.platform == "darwin" else used

parse(2_000)
before = peak()
parse(50_000)
print(peak() - before)
"""


def test_fifty_thousand_events_leak_no_memory():
    pytest.importorskip("resource")
    run = subprocess.run([sys.executable, "-c", LEAK], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 4_000, "kilobytes"


@every_sample
def test_threads_share_the_same_parts(name):
    event = read(name)
    start = threading.Barrier(8)
    seen: list[Any] = []

    def look():
        start.wait()
        seen.append((parts_by_path(event), everything(event)))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    for one, other in itertools.pairwise(seen):
        assert one[1] == other[1]
        assert all(part is other[0][way] for way, part in one[0].items())


# ---- properties -------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()))
KEYS = st.one_of(
    st.sampled_from(
        [
            *("event", "scope", "repo", "discussion", "comment", "webhook", "movedTo", "add"),
            *("updatedRefs", "updatedConfig", "updatedFiles", "updatedFilesTruncated", "id"),
            *("movedToAuthorId", "owner", "author", "authorId", "name", "type", "ref", "path"),
            *("action", "size", "num", "title", "status", "isPullRequest", "url", "web", "tags"),
            READERS_KEY,
        ]
    ),
    ANY_TEXT,
)
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
PIECES = st.lists(
    st.sampled_from(
        [
            *("{", "}", "[", "]", ",", ":", '"', "\\", " ", "\n", "null", "7", "-", "1e999", "NaN"),
            *("1.5", '"a"', r'"\ud800"', r'"\ud83c\udf0a"', "\\u", "\u00e9", '"event":', '"repo":'),
            *('"action":', '"scope":', '"updatedFiles":', '"id":', '"updatedFiles":[1e999],'),
            *('{"path":"a","action":"add"}', '{"action":"update","scope":"repo.content"}'),
            f'{{"{READERS_KEY}":',
        ]
    ),
    max_size=5,
).map("".join)


def whole(text: str) -> int | float:
    """Read a whole number as the core does: as a fraction where 64 bits cannot hold it."""
    number = int(text)
    return number if -(2**63) <= number < 2**64 else float(number)


def exercise(body: bytes | str) -> None:
    """Read a body; if it is an event, use every method of it and its parts."""
    try:
        event = HubEvent.from_json(body)
    except PayloadError as error:
        error_of = error
    else:
        error_of = None
    if error_of is not None:
        assert is_one_line(str(error_of))
        return
    assert event.to_dict() == json.loads(event.to_json(), parse_int=whole)
    assert event.raw == (body.encode() if isinstance(body, str) else body)
    for made in (event, *parts_of(event)):
        use(made)


@given(st.binary())
def test_any_bytes_are_read_or_rejected(body):
    exercise(body)


@given(st.text() | PIECES)
def test_any_text_is_read_or_rejected(body):
    exercise(body)
    exercise(f"{{{body}{EVENT}}}")
    exercise(f"{{{EVENT},{body}}}")


@settings(max_examples=200)
@given(
    st.sampled_from(NAMES),
    st.lists(st.tuples(st.integers(0, 1_500), st.integers(0, 8), PIECES), min_size=1, max_size=3),
)
def test_any_damaged_sample_is_read_or_rejected(name, damages):
    text = compact(sample_json(name)).decode()
    for start, length, piece in damages:
        text = text[:start] + piece + text[start + length :]
    exercise(text)


@settings(max_examples=200)
@given(st.sampled_from(NAMES), st.integers(0), ANY_JSON)
def test_any_value_in_a_sample_is_read_or_rejected(name, at, value):
    body = sample_json(name)
    paths = list(leaves(body))
    exercise(json.dumps(with_leaf(body, paths[at % len(paths)], lambda _: value)))


@settings(max_examples=200)
@given(st.sampled_from(NAMES), KEYS, ANY_JSON, st.booleans())
def test_any_key_in_a_sample_is_read_or_rejected(name, key, value, is_last):
    text = json.dumps(sample_json(name))
    member = f"{json.dumps(key)}: {json.dumps(value)}"
    exercise(f"{text[:-1]}, {member}}}" if is_last else f"{{{member}, {text[1:]}")


@given(st.sampled_from(NAMES), st.data())
def test_json_format_does_not_change_the_event(name, data):
    def shuffled(value):
        if isinstance(value, dict):
            keys = data.draw(st.permutations(list(value)))
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    body = sample_json(name)
    written = json.dumps(shuffled(body), indent=data.draw(st.none() | st.integers(0, 4)))
    first, second = HubEvent.from_dict(body), HubEvent.from_json(written)
    assert (first, hash(first)) == (second, hash(second))
    assert everything(first) | {"raw": b""} == everything(second) | {"raw": b""}
