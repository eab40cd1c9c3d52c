"""An endpoint that uses only `Verifier` and the event classes, as a pattern for other frameworks.

Start the server, and send it a sample from a second terminal. Both need the secret:

    export WEBHOOK_SECRET=moon     # Windows PowerShell: $env:WEBHOOK_SECRET = "moon"
    uvicorn fastapi_by_hand:app --app-dir examples
    hubhooks send http://127.0.0.1:8000/webhooks/hub --sample repo.content.update

In FastAPI, `hubhooks.fastapi.VerifiedEvent` does all of this. `hubhooks.Webhooks` also stores
deliveries, recognizes those that arrive twice, and runs handlers with retries.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import BackgroundTasks, FastAPI, HTTPException, Request

from hubhooks import CommentEvent, ContentEvent, DiscussionEvent, HubEvent, Verifier, errors

MAX_BODY_SIZE = 32 * 1024 * 1024

app = FastAPI()
# Without the variable, or with an empty one, the app does not start.
verifier = Verifier(os.environ["WEBHOOK_SECRET"])


async def read_body(request: Request) -> bytes:
    """Read the body up to `MAX_BODY_SIZE`. `Content-Length` may be wrong."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_SIZE:
            msg = f"the body is longer than {MAX_BODY_SIZE} bytes"
            raise errors.BodyTooLargeError(msg)
    return bytes(body)


def react(event: HubEvent) -> None:
    """Print what happened. FastAPI runs a sync function in a thread."""
    match event:
        case CommentEvent() if not event.comment.hidden:
            text = f"{len(event.comment.content)} characters in #{event.discussion.num}"
        case DiscussionEvent():
            text = f"#{event.discussion.num} is {event.discussion.status}"
        case ContentEvent():
            text = f"{event.repo.type} {event.repo.name} has new content"
        case _:
            text = f"{event.action} on {event.scope}"
    print(f"react: {text}", flush=True)


# No body parameter: FastAPI would read the body before the secret is checked.
@app.post("/webhooks/hub", status_code=202)
async def hub(request: Request, tasks: BackgroundTasks) -> dict[str, Any]:
    """Check the secret, read the body, respond, and then handle the event."""
    query = request.scope["query_string"]
    request.scope["query_string"] = b""  # keeps `?secret=` out of the access log
    try:
        verifier.verify_request(request.headers, query)
        body = await read_body(request)
    except errors.HubHooksError as error:
        raise HTTPException(error.status, str(error)) from None
    try:
        event = HubEvent.from_json(body)
    except errors.PayloadError as error:
        # Not a 400: the Hub suspends a webhook after many failures.
        return {"status": "malformed", "reason": str(error)}
    tasks.add_task(react, event)
    return {"status": "accepted", "event": repr(event)}
