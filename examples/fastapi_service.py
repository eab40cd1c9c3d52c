"""A FastAPI service with webhook handlers, a list of deliveries, and an endpoint of its own.

Start the app in the folder `examples`, and send it samples from a second terminal there:

    hubhooks dev fastapi_service:app
    hubhooks send http://127.0.0.1:8000/webhooks/hub --all
    hubhooks send http://127.0.0.1:8000/webhooks/comments --sample discussion.comment.create
    curl -H "X-Webhook-Secret: $(cat .hubhooks/webhook_secret)" http://127.0.0.1:8000/deliveries

`hubhooks dev` made this secret. `hubhooks send` reads it by itself.

http://127.0.0.1:8000/docs shows all paths.
"""

from datetime import datetime  # not under `if TYPE_CHECKING`: FastAPI evaluates annotations
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.security import APIKeyHeader
from pydantic import BaseModel

from hubhooks import CommentEvent, ContentEvent, Webhooks, errors
from hubhooks.fastapi import openapi_options, verified_event

hooks = Webhooks()  # reads the secret from WEBHOOK_SECRET
heads: dict[str, str] = {}


@hooks.on("repo.content", ref="main")
async def pushed(event: ContentEvent) -> None:
    """Keep the newest commit of each repository."""
    if event.repo.head_sha is not None:
        heads[event.repo.name] = event.repo.head_sha


app = FastAPI(title="What happens on the Hub")
app.include_router(hooks.router("/webhooks/hub", tags=["webhooks"]))


class DeliverySummary(BaseModel):
    """A delivery without its body, which may be from a private repository."""

    id: str
    received_at: datetime
    state: str
    handlers: dict[str, str]


def check_secret(
    secret: Annotated[str | None, Depends(APIKeyHeader(name="X-Webhook-Secret", auto_error=False))],
) -> None:
    """Reject requests without the webhook's secret."""
    if hooks.verifier is None:
        raise HTTPException(503, "this server has no WEBHOOK_SECRET")
    try:
        hooks.verifier.verify(secret)
    except errors.HubHooksError as error:
        raise HTTPException(error.status, str(error)) from None


@app.get("/deliveries", dependencies=[Depends(check_secret)])
def deliveries(limit: Annotated[int, Query(ge=1, le=100)] = 20) -> list[DeliverySummary]:
    """List the newest deliveries and their states."""
    return [
        DeliverySummary(
            id=delivery.id,
            received_at=delivery.received_at,
            state=delivery.state,
            handlers={run.handler: run.state for run in delivery.runs},
        )
        for delivery in hooks.deliveries.list(limit=limit)
    ]


@app.get("/heads", dependencies=[Depends(check_secret)])
def newest_commits() -> dict[str, str]:
    """List the newest commit of each repository."""
    return heads


# For a second webhook. This endpoint handles the event itself: no handler runs and nothing is
# stored. It does not recognize a delivery that arrives twice.
@app.post("/webhooks/comments", status_code=202, tags=["webhooks"], **openapi_options(CommentEvent))
async def comment(
    event: Annotated[CommentEvent, Depends(verified_event(CommentEvent, secret=hooks))],
) -> dict[str, int]:
    """Count the words of a comment."""
    return {"words": len(event.comment.content.split())}
