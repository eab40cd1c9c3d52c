"""What type checkers know of the FastAPI adapter. Checked by mypy and pyright, never run.

Each ignored line must be wrong: both checkers report an ignore that nothing needs.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import Request
from typing_extensions import assert_type

from hubhooks import CommentEvent, HubEvent, Verifier, Webhooks
from hubhooks.fastapi import (
    VerifiedEvent,
    make_router,
    openapi_options,
    verified_event,
)

hooks = Webhooks("moon")
app = FastAPI()
app.include_router(hooks.router("/hub", tags=["hub"], include_in_schema=False))
app.dependency_overrides[verified_event] = lambda: None
assert_type(hooks.router(), APIRouter)
assert_type(make_router(hooks), APIRouter)
comments = verified_event(CommentEvent, secret=("old", "new"), max_body_size=1_000)


@app.post("/mine", **openapi_options())
async def mine(event: VerifiedEvent) -> None:
    assert_type(event, HubEvent)


@app.post("/comments", status_code=202, **openapi_options(CommentEvent))
async def of_comments(event: Annotated[CommentEvent, Depends(comments)]) -> str:
    return event.comment.content


async def called(request: Request) -> None:
    assert_type(await verified_event(request), HubEvent)
    assert_type(await verified_event()(request), HubEvent)
    assert_type(await comments(request), CommentEvent)
    assert_type(await verified_event(secret=hooks, allow_unsigned=True)(request), HubEvent)
    assert_type(await verified_event(CommentEvent, secret=Verifier("x"))(request), CommentEvent)


verified_event(str)  # type: ignore[type-var]
verified_event(secret=7)  # type: ignore[call-overload]
openapi_options(7)  # type: ignore[arg-type]
hooks.router(7)  # type: ignore[arg-type]
