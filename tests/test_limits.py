"""Long texts of a payload are cut in the store, logs, responses and output."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import threading
import time
from urllib.parse import quote

import pytest
from servers import PATIENCE, started

from hubhooks import HubEvent, Router
from hubhooks._http.receiver import Receiver
from hubhooks._samples import compact, sample_json, with_overrides
from hubhooks._store.sqlite import SqliteStore
from hubhooks.cli.deliveries import _file_name
from hubhooks.errors import PayloadError
from hubhooks.models import RunContext
from hubhooks.ordering import group_of

# Almost as long as the longest body.
LONG = 32 * 1024 * 1024 - 4096
# Five times the limit of half a second, since test machines can be slow.
OTHERS_WAIT = 2.5
SHORT = 2000

DISCUSSION = "discussion.comment.create"
# Each field of a payload that explanations, messages or lists quote, in a sample that has it.
FIELDS = {
    "event.scope": "repo.content.update",
    "event.action": "repo.content.update",
    "repo.name": "repo.content.update",
    "repo.type": "repo.content.update",
    "repo.owner.id": "repo.content.update",
    "updatedRefs": "repo.content.update",
    "discussion.status": DISCUSSION,
    "discussion.title": DISCUSSION,
    "comment.author.id": DISCUSSION,
    "comment.content": DISCUSSION,
}

APP = """
from hubhooks import Webhooks

hooks = Webhooks(deliveries="hubhooks.db")
ID = "65f0c3b2a1d4e5f6a7b8c9d0"
FILTERS = [
    (("repo.config",), {"repo": ["me/*x*z", "you/**/q*"]}),
    (("repo.content",), {"ref": ["ma*n*z", "v*"]}),
    (("repo.content",), {"path": ["**/*.py", "data/*/x*z"]}),
    (("discussion", "discussion.comment"), {"mention": "bot", "status": "closed", "author": ID}),
    (("repo",), {"owner": "me", "repo_type": "space", "action": "delete"}),
]
for number in range(30):
    scopes, criteria = FILTERS[number % len(FILTERS)]

    @hooks.on(*scopes, name=f"handler-{number}", **criteria)
    def handle(event):
        pass
"""


def long_body(field, length):
    text = "a" * length
    value = [{"ref": text, "oldSha": None, "newSha": None}] if field == "updatedRefs" else text
    return compact(with_overrides(sample_json(FIELDS[field]), {field: value}))


def router_of_30_handlers():
    names = {"__name__": "app"}
    code = APP.replace('Webhooks(deliveries="hubhooks.db")', "Router()").replace(
        "Webhooks", "Router"
    )
    exec(code, names)
    return names["hooks"]


@pytest.fixture(scope="module")
def router():
    return router_of_30_handlers()


# ---- quoted values ----------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS)
def test_explanations_quote_no_long_value(field, router):
    event = HubEvent.from_json(long_body(field, 1_000_000))
    lines = router.explain(event)
    assert len(lines) == 30
    assert max(map(len, lines)) < SHORT
    assert any("... (1000000 bytes)" in line for line in lines) == (
        field not in {"discussion.title", "comment.content"}
    )


@pytest.mark.parametrize("field", FIELDS)
def test_repr_quotes_no_long_value(field):
    event = HubEvent.from_json(long_body(field, 1_000_000))
    shown = [repr(event), str(event)]
    parts = (event.repo, event.repo.owner, event.discussion, event.comment, *event.updated_refs)
    shown += [repr(part) for part in parts if part is not None]
    if event.comment is not None:
        shown.append(repr(event.comment.author))
    assert max(map(len, shown)) < SHORT


def test_short_values_are_quoted_whole(event, router):
    name = "me/" + "x" * 90
    event = event("repo.content.update", repo__name=name)
    assert name in repr(event)
    assert name in repr(event.repo)
    assert any(f"`{name}`" in line for line in router.explain(event))


@pytest.mark.parametrize("character", ["\x1b", "\n", "é", "😀", "\u200b"])
def test_escaped_value_is_cut_too(character, event, router):
    event = event("repo.content.update", repo__name=character * 10_000)
    assert len(repr(event)) < SHORT
    assert max(map(len, router.explain(event))) < SHORT


@pytest.mark.parametrize(
    "body",
    [
        b'{"' + b"a" * 1_000_000 + b'": {',
        b'{"' + b"a" * 1_000_000 + b'": 1e999, "event": 7}',
        b'{"event": {"scope": "' + b"a" * 1_000_000,
        b'{"event": "' + b"a" * 1_000_000 + b'"}',
        b"a" * 1_000_000,
        b"[" * 1_000_000,
        b'{"x": ' + b"7" * 1_000_000 + b"}",
    ],
    ids=["key", "number below key", "string", "word", "no JSON", "depth", "number"],
)
def test_error_message_quotes_no_long_value(body):
    with pytest.raises(PayloadError) as caught:
        HubEvent.from_json(body)
    assert len(str(caught.value)) + len(caught.value.path) < SHORT


def test_error_of_unwritable_mapping_is_short():
    kind = type("a" * 1_000_000, (), {})
    with pytest.raises(PayloadError) as caught:
        HubEvent.from_dict({"x": kind()})
    assert len(str(caught.value)) < SHORT


# ---- matching ---------------------------------------------------------------------------------


def test_long_name_matches_only_plain_patterns(event):
    event = event("repo.content.update", repo__name="me/" + "a" * 5000)
    router = Router()
    for pattern in ("me/*", "**", "me/a*a", "me/{a,b}*", "me/" + "a" * 5000):
        router.add(print, name=pattern, repo=pattern)
    matched = [handler.name for handler in router.match(event)]
    assert matched == ["**", "me/" + "a" * 5000]


@pytest.mark.parametrize(
    ("count", "length", "matches"),
    [(10_000, 100, False), (10_001, 1, True), (5_000, 1000, True)],
    ids=["longest list", "longer than the Hub's", "long paths"],
)
def test_path_filter_matches_if_files_are_not_compared(count, length, matches, event):
    files = [{"path": "a" * length, "action": "delete"} for _ in range(count)]
    event = event("repo.content.update.bucket", updatedFiles=files)
    router = Router()
    router.add(print, "repo.content", path="data/*.csv")
    assert bool(router.match(event)) == matches
    assert len(event.updated_files) == count


def test_mention_is_searched_in_first_mebibyte(event):
    router = Router()
    router.add(print, "discussion.comment", mention="bot")
    for before, matches in ((2**20 - 10, True), (2**20, False)):
        event_ = event(DISCUSSION, comment__content=" " * before + "@bot")
        assert bool(router.match(event_)) == matches


# ---- stored texts -----------------------------------------------------------------------------


@contextlib.contextmanager
def opened_store(kind, folder):
    store = SqliteStore(":memory:" if kind == "memory" else folder / "hubhooks.db")
    store.open()
    try:
        yield store
    finally:
        store.close()


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_stored_names_are_cut(kind, tmp_path):
    text = "a" * 100_000
    with opened_store(kind, tmp_path) as store:
        store.accept("d1", b"{}", ["h"], scope=text, action=text, repo=text)
        store.accept("d2", b"{}", ["h"], scope="repo", action="x" * 256, repo=None)
        cut = "a" * 253 + "..."
        for delivery in (store.get("d1"), store.list()[1]):
            assert (delivery.scope, delivery.action, delivery.repo) == (cut, cut, cut)
        delivery = store.get("d2")
        assert (delivery.scope, delivery.action, delivery.repo) == ("repo", "x" * 256, None)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_stored_error_is_cut(kind, tmp_path):
    with opened_store(kind, tmp_path) as store:
        store.recover()
        store.accept("d1", b"{}", ["h"])
        delivery = store.claim("d1", "h")
        assert isinstance(delivery, RunContext)
        store.finish_run(delivery, "ignored", "e" * 1_000_000, "t" * 999_999 + "!")
        store.flush()
        (run,) = store.get("d1").runs
        assert run.error == "e" * 4093 + "..."
        assert run.traceback == "t" * (64 * 1024 - 1) + "!"


def receiver_of(router, store):
    return Receiver(router, store, lambda: None, allow_unsigned=True)


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("field", ["event.scope", "repo.name"])
def test_unhandled_delivery_stores_and_logs_little(kind, field, tmp_path, caplog):
    caplog.set_level(logging.INFO, "hubhooks")
    router = Router()
    for number in range(300):
        router.add(print, "repo.config", name=f"handler-{number}", repo=["me/*", "you/*"])
    with opened_store(kind, tmp_path) as store:
        receiver = receiver_of(router, store)
        response = receiver.receive([(b"webhook-id", b"i" * 30_000)], long_body(field, 200_000))
        receiver.log_response(response)
        assert response.status == 200
        record = store.get(store.list()[0].id)
    assert len(record.reason) < 20_000
    assert record.reason.endswith(" more explanations")
    assert max(map(len, (record.scope, record.action, record.repo, record.id))) <= 256
    (line,) = caplog.records
    extra = [value for value in vars(line).values() if isinstance(value, str)]
    assert max(map(len, [*extra, line.getMessage()])) < SHORT


@pytest.mark.parametrize("count", [1, 30, 31, 300])
def test_stored_reason_counts_the_missing_handlers(count):
    router = Router()
    for number in range(count):
        router.add(print, "repo.config", name=f"handler-{number}-{'h' * 500}")
    store = SqliteStore(":memory:")
    response = receiver_of(router, store).receive([], compact(sample_json("repo.create")))
    *shown, last = store.get(response.delivery_id).reason.splitlines()
    if last.endswith(" more explanations"):
        assert last == f"... and {count - len(shown)} more explanations"
        assert len(shown) < count
    else:
        assert len(shown) + 1 == count


def test_different_long_ids_are_two_deliveries():
    receiver = receiver_of(Router(), SqliteStore(":memory:"))
    content = compact(sample_json("repo.create"))
    ids = [
        receiver.receive([(b"webhook-id", b"i" * length)], content).delivery_id
        for length in (256, 257, 300, 257)
    ]
    assert ids[0] == "i" * 256
    assert len(set(ids)) == 3
    assert ids[1] == ids[3]
    assert {len(one) for one in ids} == {256}


@pytest.mark.parametrize("option", [{"serial": "repo"}, {"debounce": 60}])
def test_group_key_of_a_long_name_is_short(option):
    router = Router()
    router.on(**option)(lambda event: None)
    event = HubEvent.from_json(long_body("repo.name", 200_000))
    group = group_of(router.handlers[0].policy, event)
    assert len(group.serial + group.subject) <= 1024


def test_export_has_a_valid_file_name(tmp_path):
    store = SqliteStore(":memory:")
    store.accept("d1", b"{}", (), "unhandled", scope="s" * 300, action="é" * 300)
    path = tmp_path / _file_name(store.get("d1"))
    path.write_bytes(b"{}")
    assert path.name.endswith("d1.json")


# ---- a server ---------------------------------------------------------------------------------


class Others:
    """Send other requests in sequence while the block runs, and note how long each waited."""

    def __init__(self, port):
        self.longest = 0.0
        self._port = port
        self._is_over = threading.Event()
        self._first = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self):
        self._thread.start()
        assert self._first.wait(PATIENCE)
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self._thread.join(PATIENCE)

    def _ask(self):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        while not self._is_over.wait(0.005):
            began = time.perf_counter()
            connection.request("GET", "/")
            connection.getresponse().read()
            self.longest = max(self.longest, time.perf_counter() - began)
            self._first.set()
        connection.close()


TOKEN = "admin token of the tests"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    environ = {"HUBHOOKS_ADMIN_TOKEN": TOKEN}
    command = ("-m", "uvicorn", "app:hooks", "--port", "{port}")
    with started(folder, *command, script=APP, environ=environ) as server:
        yield server


LONGEST = {
    **{field: lambda field=field: long_body(field, LONG) for field in FIELDS},
    "scope of dots": lambda: compact({"event": {"action": "update", "scope": "repo" + "." * LONG}}),
    "lone surrogates": lambda: (
        b'{"event": {"action": "update", "scope": "' + b"\\ud800" * (LONG // 6) + b'"}}'
    ),
    "mentions": lambda: compact(
        with_overrides(sample_json(DISCUSSION), {"comment.content": "@bo " * (LONG // 4)})
    ),
    "files": lambda: compact(
        with_overrides(
            sample_json("repo.content.update.bucket"),
            {"updatedFiles": [{"path": f"a/{n}/b.csv", "action": "add"} for n in range(500_000)]},
        )
    ),
    "depth": lambda: b"[" * LONG,
    "key": lambda: b'{"' + b"a" * LONG + b'": {',
}


@pytest.mark.parametrize("case", LONGEST)
def test_longest_body_delays_no_other_response(case, server):
    content = LONGEST[case]()
    admin = {"Authorization": f"Bearer {TOKEN}"}

    with Others(server.port) as others:
        reply = server.post("/", content, headers={"Webhook-Id": case})
    assert reply.status_code in {200, 202}
    assert len(reply.content) < SHORT
    assert others.longest < OTHERS_WAIT
    with Others(server.port) as others:
        reply = server.request(f"/deliveries/{quote(case)}", headers=admin)
    assert reply.status_code == 200
    assert len(reply.content) < 100_000
    data = reply.json()
    assert (data["size"], data["body"]) == (len(content), None)
    assert "`hubhooks deliveries export" in data["body_omitted"]
    assert others.longest < OTHERS_WAIT
    assert len(server.request("/deliveries", headers=admin).content) < 1_000_000


def test_30_handlers_share_longest_body(tmp_path):
    app = """
from pathlib import Path
from hubhooks import Webhooks

hooks = Webhooks(deliveries="hubhooks.db")
events = []
for number in range(30):

    @hooks.on(name=f"handler-{number}")
    def handle(event):
        events.append(event)
        Path("objects").write_text(str(len({id(event) for event in events})))
"""
    admin = {"Authorization": f"Bearer {TOKEN}"}
    environ = {"HUBHOOKS_ADMIN_TOKEN": TOKEN}
    command = ("-m", "uvicorn", "app:hooks", "--port", "{port}")
    with started(tmp_path, *command, script=app, environ=environ) as server:

        def is_done(attempts):
            (found,) = server.request("/deliveries", headers=admin).json()["deliveries"]
            states = {(run["state"], run["attempts"]) for run in found["runs"]}
            return states == {("succeeded", attempts)}

        server.post("/", long_body("repo.name", LONG), headers={"Webhook-Id": "d1"})
        server.wait_until(lambda: is_done(1), "runs all handlers")
        with Others(server.port) as others:
            reply = server.request("/deliveries/d1/replay", "POST", headers=admin)
            server.wait_until(lambda: is_done(2), "runs all handlers again")
        assert reply.status_code == 202
        assert others.longest < OTHERS_WAIT
    # One for the delivery; for its replay one per batch of runs that start together.
    assert int((tmp_path / "objects").read_text()) < 10


def test_short_body_is_shown(server):
    content = compact(sample_json("repo.create"))
    server.post("/", content, headers={"Webhook-Id": "short"})
    data = server.request("/deliveries/short", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert data["body"] == json.loads(content)
    assert "body_omitted" not in data
