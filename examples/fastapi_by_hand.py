"""A FastAPI endpoint of your own that takes only the verifier and the event classes.

    export WEBHOOK_SECRET=moon
    uvicorn fastapi_by_hand:app --app-dir examples
    hubhooks send http://127.0.0.1:8000/webhooks/hub --sample repo.content.update

`hubhooks.fastapi.VerifiedEvent` does what is written out here; take this as a pattern for other
frameworks. `hubhooks.Webhooks` does more: it recognises deliveries that come again, and runs
handlers apart from each other.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import BackgroundTasks, FastAPI, HTTPException, Request

from hubhooks import CommentEvent, ContentEvent, DiscussionEvent, HubEvent, Verifier, errors

MAX_BODY_SIZE = 32 * 1024 * 1024

app = FastAPI()
# Raises at once where the secret is empty; without the variable the app does not start either.
verifier = Verifier(os.environ["WEBHOOK_SECRET"])


async def read_body(request: Request) -> bytes:
    """Read a body that is not longer than allowed, whatever the request declares."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_SIZE:
            msg = f"the body is longer than {MAX_BODY_SIZE} bytes"
            raise errors.BodyTooLargeError(msg)
    return bytes(body)


def react(event: HubEvent) -> None:
    """Say what happened. A plain function, so FastAPI runs it in a thread of its own."""
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


# Without a body parameter: FastAPI would read the body of everybody before the secret is judged.
@app.post("/webhooks/hub", status_code=202)
async def hub(request: Request, tasks: BackgroundTasks) -> dict[str, Any]:
    """Take a delivery: the secret first, then the body, then the work once it is answered."""
    query = request.scope["query_string"]
    request.scope["query_string"] = b""  # so that a `?secret=` stays out of the access log
    try:
        verifier.verify_request(request.headers, query)
        body = await read_body(request)
    except errors.HubHooksError as error:
        raise HTTPException(error.status, str(error)) from None
    try:
        event = HubEvent.from_json(body)
    except errors.PayloadError as error:
        # Not a 400: to the Hub that is a failure, and many of them suspend the webhook.
        return {"status": "malformed", "reason": str(error)}
    tasks.add_task(react, event)
    return {"status": "accepted", "event": repr(event)}
