"""An app that prints one line for each event of the Hub.

Start it:

    cd examples
    hubhooks dev quickstart.py

Send it all samples from the page that it prints, or from a second terminal:

    cd examples
    hubhooks send http://127.0.0.1:8000 --all

An event that no handler matches gets the response `unhandled`. The Hub counts it as delivered.
"""

from __future__ import annotations

from hubhooks import CommentEvent, ConfigEvent, ContentEvent, RepoEvent, RunContext, Webhooks

hooks = Webhooks()  # reads the secret from WEBHOOK_SECRET


def show(handler: str, text: str) -> None:
    """Print a line without a buffer."""
    print(f"{handler}: {text}", flush=True)


@hooks.on("repo.content", repo_type="dataset", ref="main")
def dataset_pushed(event: ContentEvent) -> None:
    """Match pushes to the main branch of datasets. You could start a training here."""
    show("dataset_pushed", f"{event.repo.name} is now at {(event.repo.head_sha or '?')[:8]}")


@hooks.on_comment(mention="my-bot")
async def mentioned(event: CommentEvent, context: RunContext) -> None:
    """Match new comments and first posts that mention the bot."""
    where = f"{event.repo.name}#{event.discussion.num}"
    post = "opening post" if event.is_opening_post else "comment"
    show("mentioned", f"{post} in {where} mentions the bot (attempt {context.attempt})")


@hooks.on("repo.config")
def settings_changed(event: ConfigEvent) -> None:
    """Match changes of settings. The Hub does not always name the setting."""
    changes = ", ".join(f"{key}={value}" for key, value in event.updated_config.items())
    show("settings_changed", f"{event.repo.name} has {changes or 'other settings'}")


@hooks.on("repo", action=["create", "delete", "move"])
def repo_created_or_gone(event: RepoEvent) -> None:
    """Match repositories that are created, deleted or renamed."""
    target = f" to {event.moved_to.name}" if event.moved_to else ""
    show("repo_created_or_gone", f"{event.action} {event.repo.type} {event.repo.name}{target}")
