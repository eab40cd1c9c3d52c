"""A Space that retrains a model when the main branch of its dataset changes."""

from __future__ import annotations

import gradio as gr
from huggingface_hub import HfApi, get_token

from hubhooks import ContentEvent, Ignore, Webhooks

OWNER = "ada-labs"  # the owner of the Jobs; the token must be allowed to start them
DATASET = "ada-labs/tide-gauges"
MODEL = "ada-labs/tide-forecast"
TRAINER = "hf.co/spaces/ada-labs/tide-trainer"  # a Docker image, or a Docker Space

api = HfApi()  # uses the Space's secret HF_TOKEN
hooks = Webhooks()  # uses the Space's secret WEBHOOK_SECRET


@hooks.on("repo.content", repo_type="dataset", repo=DATASET, ref="main", concurrency=1)
def retrain(event: ContentEvent) -> None:
    """Train on the newest commit, once for any number of deliveries."""
    # Ask the Hub: a delivery can be late, and its commit is then not the newest.
    commit = str(api.dataset_info(event.repo.name).sha)
    for job in api.list_jobs(
        status=["SCHEDULING", "RUNNING", "COMPLETED"],
        labels={"name": "retrain"},
        namespace=OWNER,
    ):
        if (job.labels or {}).get("commit") == commit:
            msg = f"job {job.id} trains on {commit} already"
            raise Ignore(msg)
        if job.status.stage != "COMPLETED":
            api.cancel_job(job_id=job.id, namespace=OWNER)  # it trains on an older commit
    api.run_job(
        image=TRAINER,
        command=["python", "train.py", "--revision", commit],
        env={"DATASET": DATASET, "MODEL": MODEL},
        secrets={"HF_TOKEN": get_token()},
        flavor="a10g-small",
        name="retrain",
        labels={"commit": commit},
        namespace=OWNER,
    )


with gr.Blocks() as demo:
    gr.Markdown(f"# Retrain\nEach push to `{DATASET}` retrains `{MODEL}` in a Job.")

hooks.launch(demo)
