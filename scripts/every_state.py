"""A Gradio app whose deliveries are in every state there is: the one of the picture of the tab."""

import threading

import gradio as gr

from hubhooks import HubEvent, Ignore, Webhooks

hooks = Webhooks()


@hooks.on("repo.content", repo="ada-labs/tide-gauges")
def retrain(event: HubEvent) -> None:
    """Succeed."""


@hooks.on("repo.config")
def audit(event: HubEvent) -> None:
    """Fail."""
    raise LookupError("`license` is not in the model card")


@hooks.on("repo", action="create", retries=3, backoff=600)
def announce(event: HubEvent) -> None:
    """Fail, to be tried again later."""
    raise ConnectionError("the announcement could not be sent")


@hooks.on("discussion", action="create", concurrency=1)
def review(event: HubEvent) -> None:
    """Run on, while the next one waits for its turn."""
    threading.Event().wait()


@hooks.on("discussion.comment", timeout=0.1)
def reply(event: HubEvent) -> None:
    """Run for longer than allowed."""
    threading.Event().wait()


@hooks.on("repo.content", repo_type="bucket")
def ignore_uploads(event: HubEvent) -> None:
    """Find the event to be none of its business."""
    raise Ignore("only uploads to `clean/` are of interest")


with gr.Blocks(title="Tide watcher") as demo, gr.Tab("Activity"):
    hooks.activity()

hooks.launch(demo)
