"""A Space that replies with a language model when someone mentions it in a discussion."""

from __future__ import annotations

import os

import gradio as gr
from huggingface_hub import DiscussionComment, HfApi, InferenceClient

from hubhooks import CommentEvent, Ignore, Webhooks

# The name of a model on the Hub, or the URL of your own endpoint.
CHAT_MODEL = os.environ.get("CHAT_MODEL", "HuggingFaceTB/SmolLM3-3B")
INSTRUCTIONS = "You answer questions about machine learning repositories, in a few sentences."

api = HfApi()  # uses HF_TOKEN, a token of the bot's account
bot = api.whoami()
chat = InferenceClient(CHAT_MODEL)
hooks = Webhooks(ignore_authors=[bot["id"]])  # the bot does not reply to itself


@hooks.on_comment(mention=bot["name"])
def reply(event: CommentEvent) -> None:
    """Reply once to a comment or an opening post."""
    repo_id, repo_type, num = event.repo.name, event.repo.type, event.discussion.num
    # Invisible on the page. The handler runs again if the process dies after the reply was
    # posted, and then finds this mark.
    mark = f"<!-- answers {event.comment.id} -->"
    for post in api.get_discussion_details(repo_id, num, repo_type=repo_type).events:
        if (
            isinstance(post, DiscussionComment)
            and post.author == bot["name"]
            and mark in post.content
        ):
            msg = f"comment {event.comment.id} has a reply already"
            raise Ignore(msg)
    completion = chat.chat_completion(
        [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": event.comment.content},
        ],
        max_tokens=500,
    )
    text = f"{completion.choices[0].message.content}\n\n{mark}"
    api.comment_discussion(repo_id, num, text, repo_type=repo_type)


with gr.Blocks() as demo:
    gr.Markdown(f"# Discussion bot\nMention `@{bot['name']}` in a discussion, and it replies.")

hooks.launch(demo)
