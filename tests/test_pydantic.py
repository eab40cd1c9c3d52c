from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Body, FastAPI
from pydantic import BaseModel, TypeAdapter, ValidationError

from hubhooks import CommentEvent, HubEvent
from hubhooks._samples import compact, sample_json

COMMENT = sample_json("discussion.comment.create")
MOVE = sample_json("repo.move")


class Job(BaseModel):
    event: HubEvent
    comment: CommentEvent | None = None


@pytest.mark.parametrize("value", [COMMENT, compact(COMMENT), compact(COMMENT).decode()])
def test_field_is_read_from_a_mapping_or_json(value):
    job = Job(event=value, comment=value)
    assert type(job.event) is CommentEvent
    assert job.event == job.comment == HubEvent.from_dict(COMMENT)


def test_field_keeps_an_event_as_it_is():
    event = HubEvent.from_dict(COMMENT)
    assert Job(event=event).event is event


def test_model_round_trips_through_json():
    job = Job(event=COMMENT)
    assert json.loads(job.model_dump_json())["event"] == COMMENT
    assert Job.model_validate_json(job.model_dump_json()) == job
    assert job.model_dump()["event"] == COMMENT


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"event": {"event": 1}}, "`event`: expected an object with `action` and `scope`"),
        ({"event": 7}, "expected a Hub event as a mapping or JSON, found int"),
        (
            {"event": MOVE, "comment": MOVE},
            "expected the body of a `CommentEvent`, found that of a `RepoEvent`",
        ),
    ],
)
def test_field_of_another_type_is_a_validation_error(values, message):
    with pytest.raises(ValidationError) as caught:
        Job(**values)
    assert message in str(caught.value)


def test_schema_describes_an_event():
    for mode in ("validation", "serialization"):
        schema = TypeAdapter(CommentEvent).json_schema(mode=mode)
        assert schema["title"] == "CommentEvent"
        assert schema["required"] == ["event"]
        assert schema["properties"]["event"]["required"] == ["action", "scope"]


def test_documented_endpoint_accepts_an_event(serve):
    text = (Path(__file__).parents[1] / "docs" / "events.md").read_text("utf-8")
    (block,) = [part for part in text.split("```python\n") if "/internal/events" in part]
    names = {}
    exec(compile(block.partition("```")[0], "events.md", "exec", dont_inherit=True), names)
    with serve(names["app"]) as port, httpx.Client(trust_env=False) as client:
        response = client.post(f"http://127.0.0.1:{port}/internal/events", json=names["payload"])
    assert (response.status_code, response.json()) == (200, {"scope": "repo.content"})


def test_event_is_the_body_of_a_fastapi_endpoint(serve):
    app = FastAPI()

    @app.post("/comments")
    async def comments(event: Annotated[CommentEvent, Body()]) -> str:
        return event.comment.content

    with serve(app) as port, httpx.Client(trust_env=False) as client:
        url = f"http://127.0.0.1:{port}/comments"
        response = client.post(url, content=compact(COMMENT))
        rejected = client.post(url, json=MOVE)
    assert (response.status_code, response.json()) == (200, COMMENT["comment"]["content"])
    assert rejected.status_code == 422
    operation = app.openapi()["paths"]["/comments"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["event"]
