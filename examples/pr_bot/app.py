"""A Space that reads the files of a model and proposes missing tags in a pull request."""

from __future__ import annotations

from fnmatch import fnmatch

import gradio as gr
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError

from hubhooks import ContentEvent, Ignore, Webhooks

TITLE = "Add tags for what is in this repository"
TAGS = {"adapter_config.json": "lora", "*.gguf": "gguf", "*.onnx": "onnx"}

api = HfApi()  # uses the Space's secret HF_TOKEN
me = api.whoami()["name"]
hooks = Webhooks()  # uses the Space's secret WEBHOOK_SECRET


def load_card(repo_id: str, commit: str) -> ModelCard:
    """Read the card at a commit, or make an empty one."""
    try:
        return ModelCard.load(api.hf_hub_download(repo_id, "README.md", revision=commit))
    except EntryNotFoundError:
        return ModelCard("---\n{}\n---\n")


# `ref="main"`: the pull request that this handler opens is a push to `refs/pr/*`.
@hooks.on("repo.content", repo_type="model", ref="main", concurrency=1)
def propose_tags(event: ContentEvent) -> None:
    """Open a pull request with the missing tags, unless one is open or was closed."""
    repo_id = event.repo.name
    # Pull requests first, then the card: if one is merged in between, the card has its tags.
    for known in api.get_repo_discussions(repo_id, author=me, discussion_type="pull_request"):
        if known.title == TITLE and known.status != "merged":
            msg = f"pull request {known.num} is {known.status}"
            raise Ignore(msg)
    model = api.model_info(repo_id)
    card = load_card(repo_id, str(model.sha))
    files = [file.rfilename for file in model.siblings or []]
    found = {tag for glob, tag in TAGS.items() if any(fnmatch(file, glob) for file in files)}
    tags = card.data.get("tags") or []
    missing = sorted(found.difference(tags))
    if not missing:
        msg = "no tag is missing"
        raise Ignore(msg)
    card.data["tags"] = [*tags, *missing]
    api.create_commit(
        repo_id,
        [CommitOperationAdd("README.md", str(card).encode())],
        commit_message=TITLE,
        commit_description=f"The files suggest: {', '.join(missing)}.",
        create_pr=True,
        parent_commit=model.sha,
    )


with gr.Blocks() as demo:
    gr.Markdown("# Pull request bot\nThis Space looks for missing tags of a model after each push.")

hooks.launch(demo)
