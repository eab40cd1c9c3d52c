"""A Space that answers who mentions it in a discussion, with the words of a language model."""

from __future__ import annotations

import os

import gradio as gr
from huggingface_hub import DiscussionComment, HfApi, InferenceClient

from hubhooks import CommentEvent, Ignore, Webhooks

# The name of a model on the Hub, or the URL of an endpoint of your own.
CHAT_MODEL = os.environ.get("CHAT_MODEL", "HuggingFaceTB/SmolLM3-3B")
INSTRUCTIONS = "You answer questions about machine learning repositories, in a few sentences."

api = HfApi()  # with the Space's secret HF_TOKEN, which is the bot's
bot = api.whoami()
chat = InferenceClient(CHAT_MODEL)
hooks = Webhooks(ignore_authors=[bot["id"]])  # its own answers are no questions


@hooks.on_comment(mention=bot["name"])
def answer(event: CommentEvent) -> None:
    """Answer a comment or an opening post, once; it may take as long as it takes."""
    repo_id, repo_type, num = event.repo.name, event.repo.type, event.discussion.num
    # Invisible on the page. Should this process die right after it answered, the comment is
    # handled again, and the mark tells that all is done.
    mark = f"<!-- answers {event.comment.id} -->"
    for post in api.get_discussion_details(repo_id, num, repo_type=repo_type).events:
        is_mine = isinstance(post, DiscussionComment) and post.author == bot["name"]
        if is_mine and mark in post.content:
            msg = f"comment {event.comment.id} has its answer already"
            raise Ignore(msg)
    said = chat.chat_completion(
        [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": event.comment.content},
        ],
        max_tokens=500,
    )
    reply = f"{said.choices[0].message.content}\n\n{mark}"
    api.comment_discussion(repo_id, num, reply, repo_type=repo_type)


with gr.Blocks() as demo:
    gr.Markdown(f"# Discussion bot\nMention `@{bot['name']}` in a discussion to have an answer.")

hooks.launch(demo)
