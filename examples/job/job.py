# /// script
# requires-python = ">=3.10"
# dependencies = ["hubhooks", "huggingface_hub>=2.4"]
# ///
"""A Job that tags each commit on the main branch of a dataset."""

from __future__ import annotations

from huggingface_hub import HfApi

from hubhooks import ContentEvent, Webhooks

hooks = Webhooks()


# `ref="main"`: the new tag is a push too and starts the Job again. That Job does nothing.
@hooks.on("repo.content", repo_type="dataset", ref="main")
def tag_commit(event: ContentEvent) -> None:
    """Tag the commit. A second run changes nothing."""
    commit = str(event.repo.head_sha)
    tag = f"data-{commit[:8]}"
    HfApi().create_tag(
        event.repo.name, tag=tag, revision=commit, repo_type="dataset", exist_ok=True
    )
    print(f"{event.repo.name} at {commit} is {tag}")


hooks.run_job()
