"""A Space that lists the events of the Hub. Copy it, and write your own code into the handlers.

The page of a public Space is public, so it shows only events of public repositories.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timezone

import gradio as gr

from hubhooks import (
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    DiscussionEvent,
    HubEvent,
    RepoEvent,
    Webhooks,
)
from hubhooks.gradio import webhook_url

hooks = Webhooks()  # reads the secret from WEBHOOK_SECRET
rows: deque[tuple[str, str, str]] = deque(maxlen=50)


def show(event: HubEvent, text: str) -> None:
    """Add a line to the table. Your own Space would start its work here."""
    where = f"{event.repo.type} {event.repo.name}" if event.repo else "?"
    print(f"{text}, {where}", flush=True)  # into the log of the Space
    if event.repo and event.repo.private is False:
        rows.appendleft((datetime.now(timezone.utc).strftime("%H:%M:%S"), text, where))


@hooks.on("repo.content")
def content_changed(event: ContentEvent) -> None:
    """Match pushes to branches, tags and pull requests, and files of a bucket."""
    for ref in event.updated_refs:
        verb = "created" if ref.is_created else "deleted" if ref.is_deleted else "updated"
        show(event, f"{ref.ref.removeprefix('refs/').removeprefix('heads/')} {verb}")
    if files := len(event.updated_files):
        show(event, f"{files} file{'s' * (files > 1)} changed")


@hooks.on_comment()
def commented(event: CommentEvent) -> None:
    """Match new comments, and the first post of a discussion."""
    kind = "pull request" if event.discussion.is_pull_request else "discussion"
    what = f"New {kind}" if event.is_opening_post else f"Comment in {kind}"
    show(event, f"{what} #{event.discussion.num}")


@hooks.on("discussion", action="update")
def discussion_changed(event: DiscussionEvent) -> None:
    """Match closed, merged, renamed and pinned discussions and pull requests."""
    show(event, f"#{event.discussion.num} changed: {event.discussion.status}")


@hooks.on("repo")
def repo_changed(event: RepoEvent) -> None:
    """Match repositories that are created, deleted or moved."""
    done = {"create": "created", "delete": "deleted", "move": "moved"}
    show(event, f"Repository {done.get(event.action, 'updated')}")


@hooks.on("repo.config")
async def settings_changed(event: ConfigEvent) -> None:
    """Match changes of settings. Handlers may be async."""
    show(event, "Settings changed")


def refresh() -> tuple[str, list[tuple[str, str, str]]]:
    """Return the heading and the rows of the table."""
    lines = list(rows)
    heading = f"### The last {len(lines)} events" if lines else "### Waiting for the first event"
    return heading, lines


# Fonts of the visitor's machine, so that the page loads none from another server.
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
STEPS = """
### Set it up
1. **Duplicate** this Space.
2. In its settings, add the secret `WEBHOOK_SECRET`: a long random word.
3. Add a [webhook](https://huggingface.co/settings/webhooks) with **the URL above**, the same
   secret, and the repositories to watch.
4. Write a comment in one of them. It appears here.

The handlers are in `app.py`.
"""

with gr.Blocks(title="Hub watcher") as demo:
    gr.Markdown(
        "# Hub watcher\n"
        "This Space lists commits, discussions and settings of public repositories on the Hugging "
        "Face Hub, as they happen. Copy it, and write your own handlers."
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=420):
            heading = gr.Markdown()
            table = gr.Dataframe(
                headers=["UTC", "Event", "Repository"],
                column_widths=["15%", "39%", "46%"],
                column_count=3,
                interactive=False,
                buttons=[],
                wrap=True,
            )
        with gr.Column(scale=2, min_width=300):
            url = gr.Textbox(label="Webhook URL", interactive=False, buttons=["copy"], max_lines=2)
            gr.Markdown(STEPS)
    demo.load(lambda: webhook_url(demo), None, url, api_visibility="private")
    demo.load(refresh, None, [heading, table], api_visibility="private")
    gr.Timer(2).tick(
        refresh,
        None,
        [heading, table],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )

if __name__ == "__main__":
    hooks.launch(demo, theme=THEME)
