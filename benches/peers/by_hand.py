"""The bot with FastAPI alone: a model, a compared secret, and a background task.

The Hub's guides build receivers of this shape. The code is our own.
"""

import os
from typing import Annotated, Literal

from fastapi import BackgroundTasks, FastAPI, Header, HTTPException
from pydantic import BaseModel, Field
from work import answer, retrain

BOT = "6a00000000000000000000b0"
SECRET = os.environ.get("WEBHOOK_SECRET")


class Event(BaseModel):
    action: Literal["create", "update", "delete", "move"]
    scope: str


class Repo(BaseModel):
    type: Literal["model", "dataset", "space"]
    name: str
    head_sha: str | None = Field(None, alias="headSha")


class Author(BaseModel):
    id: str


class Comment(BaseModel):
    content: str
    author: Author


class Discussion(BaseModel):
    num: int


class Payload(BaseModel):
    event: Event
    repo: Repo
    discussion: Discussion | None = None
    comment: Comment | None = None


app = FastAPI()


@app.post("/webhook")
async def receive(
    payload: Payload,
    tasks: BackgroundTasks,
    x_webhook_secret: Annotated[str | None, Header()] = None,
) -> dict[str, str]:
    if x_webhook_secret != SECRET:
        raise HTTPException(401)
    event, repo = payload.event, payload.repo
    if event.scope == "repo.content" and repo.type == "dataset":
        tasks.add_task(retrain, repo.name, repo.head_sha)
        return {"status": "scheduled"}
    comment, discussion = payload.comment, payload.discussion
    is_new_comment = event.action == "create" and event.scope == "discussion.comment"
    if (
        is_new_comment
        and comment
        and discussion
        and comment.author.id != BOT
        and "@tide-bot" in comment.content
    ):
        return {"answer": answer(repo.name, discussion.num)}
    return {"status": "ignored"}
