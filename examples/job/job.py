# /// script
# requires-python = ">=3.10"
# dependencies = ["hubhooks", "huggingface_hub>=2.4"]
# ///
"""A Job that tags each commit on the main branch of a dataset, so that it can be named later."""

from __future__ import annotations

from huggingface_hub import HfApi

from hubhooks import ContentEvent, Webhooks

hooks = Webhooks()


# `ref="main"`: the tag is a push as well, and starts the Job once more, for nothing.
@hooks.on("repo.content", repo_type="dataset", ref="main")
def tag_commit(event: ContentEvent) -> None:
    """Tag the commit. A second time it changes nothing."""
    commit = str(event.repo.head_sha)
    tag = f"data-{commit[:8]}"
    HfApi().create_tag(
        event.repo.name, tag=tag, revision=commit, repo_type="dataset", exist_ok=True
    )
    print(f"{event.repo.name} at {commit} is {tag}")


hooks.run_job()
