"""An app that says in one line what happened on the Hub.

Serve it, then send it the samples from a second terminal; both need the same secret:

    export WEBHOOK_SECRET=moon
    uvicorn quickstart:hooks --app-dir examples
    hubhooks send http://127.0.0.1:8000 --all

What no handler here listens to is answered `unhandled`, which is fine with the Hub.
"""

from __future__ import annotations

from hubhooks import CommentEvent, ConfigEvent, ContentEvent, RepoEvent, RunContext, Webhooks

hooks = Webhooks()  # the secret comes from WEBHOOK_SECRET; without one it does not start


def say(handler: str, text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(f"{handler}: {text}", flush=True)


@hooks.on("repo.content", repo_type="dataset", ref="main")
def dataset_pushed(event: ContentEvent) -> None:
    """Hear pushes to the main branch of datasets, where a training could start."""
    say("dataset_pushed", f"{event.repo.name} is now at {(event.repo.head_sha or '?')[:8]}")


@hooks.on_comment(mention="my-bot")
async def mentioned(event: CommentEvent, context: RunContext) -> None:
    """Hear new comments and opening posts that name the bot, and know which run this is."""
    where = f"{event.repo.name}#{event.discussion.num}"
    post = "opening post" if event.is_opening_post else "comment"
    say("mentioned", f"{post} in {where} calls for the bot (attempt {context.attempt})")


@hooks.on("repo.config")
def settings_changed(event: ConfigEvent) -> None:
    """Hear changes of settings; the Hub does not always say which."""
    changes = ", ".join(f"{key}={value}" for key, value in event.updated_config.items())
    say("settings_changed", f"{event.repo.name} has {changes or 'other settings'}")


@hooks.on("repo", action=["create", "delete", "move"])
def repo_came_or_went(event: RepoEvent) -> None:
    """Hear of repositories that are new, gone or renamed."""
    target = f" to {event.moved_to.name}" if event.moved_to else ""
    say("repo_came_or_went", f"{event.action} {event.repo.type} {event.repo.name}{target}")
