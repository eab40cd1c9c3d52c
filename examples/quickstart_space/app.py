"""A Space that shows what happens on the Hub, and where to begin with one that does something.

The page of a public Space is public, so it shows what happens in public repositories only.
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

hooks = Webhooks()  # the secret comes from WEBHOOK_SECRET; without one the Space does not start
rows: deque[tuple[str, str, str]] = deque(maxlen=50)


def show(event: HubEvent, text: str) -> None:
    """Put a line on top of the table. Here your own Space would start to work."""
    where = f"{event.repo.type} {event.repo.name}" if event.repo else "?"
    print(f"{text}, {where}", flush=True)  # into the Space's log, which its owner sees
    if event.repo and event.repo.private is False:
        rows.appendleft((datetime.now(timezone.utc).strftime("%H:%M:%S"), text, where))


@hooks.on("repo.content")
def content_changed(event: ContentEvent) -> None:
    """Hear pushes to branches, tags and pull requests, and the files of a bucket."""
    for ref in event.updated_refs:
        verb = "created" if ref.is_created else "deleted" if ref.is_deleted else "updated"
        show(event, f"{ref.ref.removeprefix('refs/').removeprefix('heads/')} {verb}")
    if files := len(event.updated_files):
        show(event, f"{files} file{'s' * (files > 1)} changed")


@hooks.on_comment()
def commented(event: CommentEvent) -> None:
    """Hear new comments, and the posts that open a discussion."""
    kind = "pull request" if event.discussion.is_pull_request else "discussion"
    what = f"New {kind}" if event.is_opening_post else f"Comment in {kind}"
    show(event, f"{what} #{event.discussion.num}")


@hooks.on("discussion", action="update")
def discussion_changed(event: DiscussionEvent) -> None:
    """Hear when a discussion or pull request is closed, merged, renamed or pinned."""
    show(event, f"#{event.discussion.num} changed: {event.discussion.status}")


@hooks.on("repo")
def repo_changed(event: RepoEvent) -> None:
    """Hear when a repository comes, goes or moves."""
    done = {"create": "created", "delete": "deleted", "move": "moved"}
    show(event, f"Repository {done.get(event.action, 'updated')}")


@hooks.on("repo.config")
async def settings_changed(event: ConfigEvent) -> None:
    """Hear when settings change. Handlers may be async, and even then block nothing here."""
    show(event, "Settings changed")


def refresh() -> tuple[str, list[tuple[str, str, str]]]:
    """Give what the page shows."""
    lines = list(rows)
    heading = f"### The last {len(lines)} events" if lines else "### Waiting for the first event"
    return heading, lines


# Letters of the reader's own machine, so that the page asks no other server for them.
THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
STEPS = """
### Set it up
1. **Duplicate** this Space.
2. In its settings add the secret `WEBHOOK_SECRET`: any long word.
3. At [your webhooks](https://huggingface.co/settings/webhooks) add one with **the URL above**, that
   word as its secret, and the repositories to watch.
4. Comment on one of them, and look here.

Handlers are a decorator and a function: see `app.py`.
"""

with gr.Blocks(title="Hub watcher") as demo:
    gr.Markdown(
        "# Hub watcher\n"
        "This Space hears of commits, discussions and settings on the Hugging Face Hub the moment "
        "they happen, in public repositories. Make it yours, and let it do something about them."
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
