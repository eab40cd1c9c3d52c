"""The bot with huggingface_hub's server, in the style of the examples in its documentation."""

import gradio as gr
from huggingface_hub import WebhookPayload, WebhooksServer
from work import answer, retrain

BOT = "6a00000000000000000000b0"

with gr.Blocks() as ui:
    gr.Markdown("A bot")

app = WebhooksServer(ui=ui)


@app.add_webhook("/bot")
async def react(payload: WebhookPayload) -> dict[str, object]:
    if payload.event.scope == "repo.content" and payload.repo.type in ("dataset", "bucket"):
        retrain(payload.repo.name, payload.repo.head_sha)
        return {"retrained": True}
    if (
        payload.event.action == "create"
        and payload.event.scope == "discussion.comment"
        and payload.comment.author.id != BOT
        and "@tide-bot" in payload.comment.content
    ):
        return {"answer": answer(payload.repo.name, payload.discussion.num)}
    return {"ignored": True}


if __name__ == "__main__":
    app.launch(share=False)
