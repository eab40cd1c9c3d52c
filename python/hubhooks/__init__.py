"""Receive Hugging Face Hub webhooks: hubhooks checks the secret, and calls matching handlers.

    from hubhooks import ContentEvent, Webhooks

    hooks = Webhooks()  # the secret comes from WEBHOOK_SECRET

    @hooks.on("repo.content", repo_type="dataset", ref="main")
    def retrain(event: ContentEvent) -> None: ...

`hooks` is an ASGI app: `uvicorn app:hooks` serves it, and an ASGI framework can mount it.
"""

from hubhooks import errors
from hubhooks._core import (
    Changes,
    Comment,
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    Discussion,
    DiscussionEvent,
    Filter,
    HubEvent,
    MovedTo,
    Owner,
    Repo,
    RepoEvent,
    UpdatedFile,
    UpdatedFiles,
    UpdatedRef,
    Url,
    Verifier,
    Webhook,
    __version__,
)
from hubhooks._encoders import register_encoders as _register_encoders
from hubhooks.models import Delivery, Ignore, Retry, RunContext, State
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks

__all__ = [
    "Changes",
    "Comment",
    "CommentEvent",
    "ConfigEvent",
    "ContentEvent",
    "Delivery",
    "Discussion",
    "DiscussionEvent",
    "Filter",
    "HubEvent",
    "Ignore",
    "MovedTo",
    "Owner",
    "Repo",
    "RepoEvent",
    "Retry",
    "Router",
    "RunContext",
    "State",
    "UpdatedFile",
    "UpdatedFiles",
    "UpdatedRef",
    "Url",
    "Verifier",
    "Webhook",
    "Webhooks",
    "__version__",
    "errors",
]

_register_encoders()
