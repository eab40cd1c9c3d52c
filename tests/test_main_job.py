"""From the wire to a handler: every sample, sent by the command to a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from queue import SimpleQueue

import pytest
from servers import PATIENCE

from hubhooks import CommentEvent, HubEvent, Webhooks
from hubhooks._samples import sample_json, sample_names
from hubhooks.errors import PayloadError

OLD_REPO = {
    "type": "model",
    "name": "ada-labs/harbor-net",
    "id": "64aa00000000000000000001",
    "private": False,
    "author": {"id": "64aa00000000000000000002"},
    "gitalyUid": "3b" * 32,
    "tags": ["tide", "region:eu"],
    "headSha": "5c" * 20,
    "url": {"web": "https://huggingface.co/ada-labs/harbor-net"},
}


def send(port, *arguments):
    command = [sys.executable, "-m", "hubhooks.cli", "send", f"http://127.0.0.1:{port}"]
    done = subprocess.run(
        [*command, *arguments, "--secret", "moon", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def served(serve):
    """Serve an app whose single handler records its events."""
    hooks = Webhooks("moon")
    events: SimpleQueue[HubEvent] = SimpleQueue()

    @hooks.on()
    def keep(event: HubEvent) -> None:
        events.put(event)

    with serve(hooks) as port:
        yield port, events


def test_every_sample_gets_a_response_and_runs(served):
    port, events = served
    responses = send(port, "--all")
    assert [response["sample"] for response in responses] == sample_names()
    assert {response["status"] for response in responses} == {202}
    assert all(response["response"]["handlers"] == [keep_name()] for response in responses)
    received = {events.get(timeout=PATIENCE).to_json() for _ in responses}
    assert {HubEvent.from_json(text) for text in received} == {
        HubEvent.from_dict(sample_json(name)) for name in sample_names()
    }


def keep_name():
    return "served.<locals>.keep"


@pytest.mark.slow
@pytest.mark.parametrize("fragment", ["repo", "discussion", "comment"])
def test_fragment_completed_into_an_event_is_handled(served, tmp_path, fragment):
    port, events = served
    whole = sample_json("discussion.comment.create.older")
    body = {"event": {"action": "create", "scope": "discussion.comment"}}
    body |= {part: whole[part] for part in ("repo", "discussion", "comment", "webhook")}
    if fragment == "repo":
        body = {"event": {"action": "update", "scope": "repo"}, "repo": OLD_REPO}
    elif fragment == "discussion":
        body["event"] = {"action": "update", "scope": "discussion"}
        del body["comment"]
    file = tmp_path / "body.json"
    file.write_text(json.dumps(body))
    (response,) = send(port, "--file", str(file))
    assert response["response"]["status"] == "accepted"
    event = events.get(timeout=PATIENCE)
    assert event.to_dict() == body
    assert getattr(event, fragment).to_dict() == body[fragment]
    assert event.repo.owner.id == body["repo"]["author"]["id"]
    assert event.repo.tags == tuple(body["repo"].get("tags", ()))
    assert isinstance(event, CommentEvent) is (fragment == "comment")


def test_body_of_version_1_is_stored_as_malformed(served, tmp_path):
    port, _ = served
    file = tmp_path / "body.json"
    file.write_text('{"update": "datasets/ada-labs/tide-gauges"}')
    (response,) = send(port, "--file", str(file))
    assert (response["status"], response["response"]["status"]) == (202, "malformed")
    with pytest.raises(PayloadError) as caught:
        HubEvent.from_json(file.read_bytes())
    assert response["response"]["reason"] == str(caught.value)
