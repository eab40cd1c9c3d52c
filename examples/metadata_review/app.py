"""A Space that keeps one discussion per repository about the metadata its card lacks."""

from __future__ import annotations

import gradio as gr
from huggingface_hub import HfApi, RepoCard
from huggingface_hub.errors import EntryNotFoundError

from hubhooks import ContentEvent, Webhooks

TITLE = "Metadata review"
WANTED = {
    "model": ["license", "language", "library_name", "pipeline_tag", "datasets", "tags"],
    "dataset": ["license", "language", "pretty_name", "task_categories", "tags"],
}

api = HfApi()  # uses the Space's secret HF_TOKEN
me = api.whoami()["name"]
hooks = Webhooks()  # uses the Space's secret WEBHOOK_SECRET


def missing_fields(repo_id: str, repo_type: str) -> list[str]:
    """List the metadata that the card on the main branch lacks."""
    try:
        data = RepoCard.load(repo_id, repo_type=repo_type).data
    except EntryNotFoundError:
        return WANTED[repo_type]
    return [name for name in WANTED[repo_type] if not data.get(name)]


def write_report(missing: list[str]) -> str:
    """Write the post: the same text for the same missing fields."""
    if not missing:
        return "The card has all the metadata that this bot checks. Thank you!"
    names = "\n".join(f"* `{name}`" for name in missing)
    return f"The metadata at the top of the card (`README.md`) lacks:\n\n{names}"


@hooks.on("repo.content", repo_type=["model", "dataset"], ref="main", concurrency=1)
def review(event: ContentEvent) -> None:
    """Open a discussion if metadata is missing, or edit the existing one."""
    repo_id, repo_type = event.repo.name, event.repo.type
    missing = missing_fields(repo_id, repo_type)
    report = write_report(missing)
    known = api.get_repo_discussions(
        repo_id, repo_type=repo_type, author=me, discussion_type="discussion"
    )
    num = next((each.num for each in known if each.title == TITLE), None)
    if num is None:
        if missing:
            api.create_discussion(repo_id, TITLE, description=report, repo_type=repo_type)
        return
    post = api.get_discussion_details(repo_id, num, repo_type=repo_type).events[0]
    if getattr(post, "content", None) != report:
        api.edit_discussion_comment(repo_id, num, post.id, report, repo_type=repo_type)


with gr.Blocks() as demo:
    gr.Markdown(
        "# Metadata review\nThis Space checks the card of a model or dataset after each push."
    )

hooks.launch(demo)
