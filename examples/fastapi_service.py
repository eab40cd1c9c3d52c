"""A FastAPI service: handlers for webhooks, a page about them, and an endpoint of its own.

Serve it, then send it samples from a second terminal; both need the same secret:

    export WEBHOOK_SECRET=moon
    uvicorn fastapi_service:app --app-dir examples
    hubhooks send http://127.0.0.1:8000/webhooks/hub --all
    hubhooks send http://127.0.0.1:8000/webhooks/comments --sample discussion.comment.create
    curl -H "X-Webhook-Secret: moon" http://127.0.0.1:8000/deliveries

http://127.0.0.1:8000/docs shows all of it.
"""

from datetime import datetime  # FastAPI reads the annotations, so they are imported for real
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.security import APIKeyHeader
from pydantic import BaseModel

from hubhooks import CommentEvent, ContentEvent, Webhooks, errors
from hubhooks.fastapi import openapi_options, verified_event

hooks = Webhooks()  # the secret comes from WEBHOOK_SECRET; without one it does not start
heads: dict[str, str] = {}


@hooks.on("repo.content", ref="main")
async def pushed(event: ContentEvent) -> None:
    """Remember the newest commit of each repository."""
    if event.repo.head_sha is not None:
        heads[event.repo.name] = event.repo.head_sha


app = FastAPI(title="What happens on the Hub")
app.include_router(hooks.router("/webhooks/hub", tags=["webhooks"]))


class Shown(BaseModel):
    """A delivery, without its body: that may be from a private repository."""

    id: str
    received_at: datetime
    state: str
    handlers: dict[str, str]


def knows_the_secret(
    secret: Annotated[str | None, Depends(APIKeyHeader(name="X-Webhook-Secret", auto_error=False))],
) -> None:
    """Let only those in who may know what comes: here, who knows the webhook's secret."""
    if hooks.verifier is None:
        raise HTTPException(503, "this server has no WEBHOOK_SECRET")
    try:
        hooks.verifier.verify(secret)
    except errors.HubHooksError as error:
        raise HTTPException(error.status, str(error)) from None


@app.get("/deliveries", dependencies=[Depends(knows_the_secret)])
def deliveries(limit: Annotated[int, Query(ge=1, le=100)] = 20) -> list[Shown]:
    """Show what came, the newest first, and what became of it."""
    return [
        Shown(
            id=record.id,
            received_at=record.received_at,
            state=record.state,
            handlers={run.handler: run.state for run in record.runs},
        )
        for record in hooks.deliveries.list()[:limit]
    ]


@app.get("/heads", dependencies=[Depends(knows_the_secret)])
def newest_commits() -> dict[str, str]:
    """Show the newest commit of each repository that had one."""
    return heads


# For a second webhook, whose deliveries the service answers itself: no handler runs, nothing is
# kept, and it is up to this function what a delivery that comes twice does.
@app.post("/webhooks/comments", status_code=202, tags=["webhooks"], **openapi_options(CommentEvent))
async def comment(
    event: Annotated[CommentEvent, Depends(verified_event(CommentEvent, secret=hooks))],
) -> dict[str, int]:
    """Count the words of a comment."""
    return {"words": len(event.comment.content.split())}
