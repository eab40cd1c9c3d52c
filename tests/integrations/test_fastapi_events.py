"""FastAPI serializes events for any return annotation, and wrong parameters are reported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from servers import SECRET, started
from test_fastapi import VERSIONS, interpreter

from hubhooks._samples import compact, sample_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from servers import Server

pytestmark = pytest.mark.timeout(600)  # the first run installs the other versions
STRICT = ("-W", "error", "-m", "uvicorn", "app:app", "--port", "{port}")
COMMENT = sample_json("discussion.comment.create")
CONTENT = sample_json("repo.content.update")
BUCKET = sample_json("repo.content.update.bucket")
TITLES = ["this one", *VERSIONS]

APP = """
from dataclasses import dataclass
from typing import Any, Optional

from fastapi import FastAPI
from hubhooks import CommentEvent, HubEvent, Repo
from hubhooks.fastapi import VerifiedEvent
from pydantic import BaseModel


class Model(BaseModel):
    event: HubEvent


class Open(BaseModel):
    event: Any


@dataclass
class Data:
    event: HubEvent
    repo: Any


app = FastAPI()


@app.post("/event")
async def event(event: VerifiedEvent):
    return event


@app.post("/sync")
def sync(event: VerifiedEvent):
    return event


@app.post("/event-class")
async def event_class(event: VerifiedEvent) -> HubEvent:
    return event


@app.post("/list")
async def list_(event: VerifiedEvent):
    return [event, (event,), {"event": event}]


@app.post("/model")
async def model(event: VerifiedEvent):
    return {"model": Model(event=event), "open": Open(event=event)}


@app.post("/data")
async def data(event: VerifiedEvent):
    return Data(event, event.repo)


@app.post("/parts")
async def parts(event: VerifiedEvent):
    return [event.repo, event.repo.owner, event.repo.url, event.discussion, event.comment]


@app.post("/pushed")
async def pushed(event: VerifiedEvent):
    return {"refs": event.updated_refs, "ref": event.updated_refs[0]}


@app.post("/files")
async def files(event: VerifiedEvent):
    return event.updated_files


@app.post("/annotated/dict")
async def annotated_dict(event: VerifiedEvent) -> dict:
    return {"event": event, "repo": event.repo, "files": event.updated_files}


@app.post("/annotated/any")
async def annotated_any(event: VerifiedEvent) -> Any:
    return event


@app.post("/annotated/optional")
async def annotated_optional(event: VerifiedEvent) -> Optional[HubEvent]:
    return event


@app.post("/annotated/open")
async def annotated_open(event: VerifiedEvent) -> Open:
    return Open(event=event)
"""


@pytest.fixture(scope="module", params=TITLES)
def app(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("app")
    with started(folder, *STRICT, script=APP, python=python_of(request.param)) as server:
        yield server


def python_of(title: str) -> Path:
    return Path(sys.executable) if title == "this one" else interpreter(title)


@pytest.mark.parametrize(
    ("path", "payload", "expected"),
    [
        ("/event", COMMENT, COMMENT),
        ("/sync", COMMENT, COMMENT),
        ("/event-class", COMMENT, COMMENT),
        ("/list", COMMENT, [COMMENT, [COMMENT], {"event": COMMENT}]),
        ("/model", COMMENT, {"model": {"event": COMMENT}, "open": {"event": COMMENT}}),
        ("/data", COMMENT, {"event": COMMENT, "repo": COMMENT["repo"]}),
        (
            "/parts",
            COMMENT,
            [
                COMMENT["repo"],
                COMMENT["repo"]["owner"],
                COMMENT["repo"]["url"],
                COMMENT["discussion"],
                COMMENT["comment"],
            ],
        ),
        ("/pushed", CONTENT, {"refs": CONTENT["updatedRefs"], "ref": CONTENT["updatedRefs"][0]}),
        ("/files", BUCKET, BUCKET["updatedFiles"]),
        ("/files", COMMENT, []),
        (
            "/annotated/dict",
            BUCKET,
            {"event": BUCKET, "repo": BUCKET["repo"], "files": BUCKET["updatedFiles"]},
        ),
        ("/annotated/any", COMMENT, COMMENT),
        ("/annotated/optional", COMMENT, COMMENT),
        ("/annotated/open", COMMENT, {"event": COMMENT}),
    ],
)
def test_endpoint_returns_events_and_their_parts(
    app: Server, path: str, payload: Any, expected: Any
) -> None:
    response = app.post(path, compact(payload))
    assert (response.status_code, response.text and response.json()) == (200, expected)


# Each way to have an event without `hubhooks.fastapi`, imported after and before this package.
BY_HAND = """
{imports}
app = FastAPI()
{lines}
seen = []


@app.post("/event")
async def take(request: Request):
    return [HubEvent.from_json(await request.body())]
"""


@pytest.mark.parametrize(
    ("imports", "lines"),
    [
        ("from fastapi import FastAPI, Request\nfrom hubhooks import HubEvent", ""),
        ("from hubhooks import HubEvent\nfrom fastapi import FastAPI, Request", ""),
        (
            "from hubhooks import HubEvent, Webhooks\nfrom fastapi import FastAPI, Request",
            'hooks = Webhooks()\napp.mount("/hub", hooks)',
        ),
        (
            "from hubhooks import HubEvent\nfrom fastapi import FastAPI, Request",
            "from pydantic import TypeAdapter\nadapter = TypeAdapter(HubEvent)",
        ),
    ],
)
def test_endpoint_without_the_adapter_returns_events(
    start: Callable[..., Server], imports: str, lines: str
) -> None:
    server = start(*STRICT, script=BY_HAND.format(imports=imports, lines=lines))
    response = server.post("/event", compact(COMMENT))
    assert (response.status_code, response.json()) == (200, [COMMENT])


WRONG = """
from typing import Annotated, Optional

from fastapi import APIRouter, Body, Depends, FastAPI
from hubhooks import CommentEvent, HubEvent, Webhooks
from hubhooks.fastapi import VerifiedEvent

app, inner, mounted = FastAPI(), APIRouter(), FastAPI()
{lines}


@app.post("/own")
def own(event: HubEvent):
    return event


@inner.post("/included")
def included(event: Optional[CommentEvent] = None): ...


def dependency(event: HubEvent): ...


@mounted.post("/depends")
def depends(value=Depends(dependency)): ...


@app.post("/body")
def body(event: Annotated[HubEvent, Body()], page: int = 1):
    return event


app.include_router(inner, prefix="/inner")
app.mount("/mounted", mounted)
"""
FAULTS = [
    f"FastAPI reads the parameter `event` of the endpoint `{endpoint}` from the query"
    for endpoint in ("own", "included", "dependency")
]


@pytest.mark.parametrize("title", TITLES)
def test_router_reports_events_read_from_the_query(
    start: Callable[..., Server], title: str
) -> None:
    lines = "hooks = Webhooks()\napp.include_router(hooks.router())"
    script = WRONG.format(lines=lines)
    server = start(*STRICT[2:], script=script, python=python_of(title))
    assert server.post("/own", compact(COMMENT)).status_code == 422
    assert server.post("/body", compact(COMMENT)).json() == COMMENT
    output = server.output()
    for fault in FAULTS:
        assert f"UserWarning: {fault}" in output
    assert output.count("from the query") == len(FAULTS)
    assert "annotate it with `hubhooks.fastapi.VerifiedEvent`" in output


@pytest.mark.parametrize("title", TITLES)
def test_verified_endpoint_reports_events_read_from_the_query(
    start: Callable[..., Server], title: str
) -> None:
    lines = '@app.post("/verified")\ndef verified(event: VerifiedEvent):\n    return event.scope'
    server = start(*STRICT, script=WRONG.format(lines=lines), python=python_of(title))
    for _ in range(2):
        assert server.post("/verified", compact(COMMENT)).status_code == 200
    output = server.output()
    for fault in FAULTS:
        assert output.count(fault) == 1


def test_right_parameters_are_not_reported(start: Callable[..., Server]) -> None:
    server = start(
        *STRICT,
        script=APP + "\nfrom hubhooks import Webhooks\napp.include_router(Webhooks().router())\n",
    )
    assert server.post("/event", compact(COMMENT), secret=SECRET).status_code == 200
    assert "from the query" not in server.output()
