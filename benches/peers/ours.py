"""The bot with hubhooks: `uvicorn ours:hooks`, or `python ours.py` for a Gradio app."""

from work import answer, retrain

from hubhooks import CommentEvent, ContentEvent, Webhooks

BOT = "6a00000000000000000000b0"
hooks = Webhooks(ignore_authors=[BOT])


@hooks.on("repo.content", repo_type=["dataset", "bucket"], retries=3, backoff=0.2)
def pushed(event: ContentEvent) -> None:
    retrain(event.repo.name, event.repo.head_sha)


@hooks.on_comment(mention="tide-bot")
async def commented(event: CommentEvent) -> str:
    return answer(event.repo.name, event.discussion.num)


if __name__ == "__main__":
    import gradio as gr

    with gr.Blocks() as demo:
        gr.Markdown("A bot")
    hooks.launch(demo)
