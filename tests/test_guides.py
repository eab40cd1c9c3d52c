"""The examples of the guides, each in a separate process with a stand-in for the Hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

# The examples import Gradio in separate processes. To import it here takes seconds.
if find_spec("gradio") is None:
    pytest.skip("gradio is not installed", allow_module_level=True)
pytest.importorskip("huggingface_hub")

from hub import MAIN, running_hub
from servers import PATIENCE, ROOT, started, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hub import Hub, RunContext
    from huggingface_hub import HfApi

    Start = Callable[[str], HfApi]

SECRET = "moon"
DATASET = "ada-labs/tide-gauges"
MODEL = "ada-labs/tide-forecast"
JOB = ROOT / "examples" / "job"
URL = re.compile(r"Webhook URL:\s+(\S+)")


def environ(hub: Hub, token: str | None, folder: Path) -> dict[str, str | None]:
    """Return the environment of a Space, with settings that keep all traffic on this machine."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": token,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": None,
        "NO_PROXY": "127.0.0.1",
        "CHAT_MODEL": f"{hub.url}/v1/chat/completions",
        "WEBHOOK_SECRET": SECRET,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": "{port}",
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def grace(hub: Hub) -> HfApi:
    """Sign up the owners of the repositories, before a webhook watches them."""
    grace = hub.sign_up("grace-h")
    grace.create_repo(DATASET, repo_type="dataset")
    grace.create_repo(MODEL)
    return grace


@contextmanager
def running(name: str, hub: Hub, bot: HfApi, folder: Path) -> Iterator[None]:
    """Run an example with a bot's account and a webhook for all events."""
    app = str(ROOT / "examples" / name / "app.py")
    with started(
        folder, app, prints="Webhook URL", environ=environ(hub, str(bot.token), folder)
    ) as server:
        url = URL.search(server.output())
        assert url is not None
        watched = [{"type": "org", "name": "ada-labs"}]
        bot.create_webhook(url=url[1], watched=watched, secret=SECRET)
        yield


@pytest.fixture
def start(hub: Hub, grace: HfApi, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as apps:

        def start(name: str) -> HfApi:
            bot = hub.sign_up("my-bot")
            apps.enter_context(running(name, hub, bot, tmp_path))
            return bot

        yield start


def push(api: HfApi, repo_id: str, repo_type: str, path: str, text: str, **options: Any) -> str:
    done = api.upload_file(
        path_or_fileobj=text.encode(),
        path_in_repo=path,
        repo_id=repo_id,
        repo_type=repo_type,
        **options,
    )
    return str(done.oid)


def push_data(api: HfApi, text: str, **options: Any) -> str:
    return push(api, DATASET, "dataset", "gauges.csv", text, **options)


def push_model(api: HfApi, path: str, text: str, **options: Any) -> str:
    return push(api, MODEL, "model", path, text, **options)


def statuses(deliveries: list[RunContext]) -> list[tuple[str, int, str]]:
    return [(each.kind, each.status, each.data.get("status", "")) for each in deliveries]


def test_a_push_to_a_dataset_starts_one_training(hub: Hub, grace: HfApi, start: Start) -> None:
    start("retrain")
    commit = push_data(grace, "1")
    wait_until(lambda: hub.jobs, "no job starts")
    (job,) = hub.jobs
    assert job.labels == {"name": "retrain", "commit": commit}
    assert job.spec["command"] == ["python", "train.py", "--revision", commit]
    assert job.spec["secrets"] == {"HF_TOKEN": "hf_my-bot"}
    hub.replay()
    assert hub.jobs == [job]

    # A failed job does not count: Replay starts the training again.
    job.stage = "ERROR"
    hub.replay()
    wait_until(lambda: len(hub.jobs) == 2, "no job starts again")
    assert hub.jobs[1].labels == job.labels


def test_burst_of_pushes_trains_on_the_last(hub: Hub, grace: HfApi, start: Start) -> None:
    start("retrain")
    push_data(grace, "first")
    wait_until(lambda: hub.jobs, "no job starts")
    for number in range(5):
        commit = push_data(grace, str(number))
    hub.replay()
    assert [job.labels["commit"] for job in hub.jobs if job.stage == "RUNNING"] == [commit]
    assert hub.jobs[0].stage == "CANCELED"


def test_only_the_main_branch_starts_a_training(hub: Hub, grace: HfApi, start: Start) -> None:
    start("retrain")
    push_data(grace, "1", create_pr=True)
    grace.create_tag(DATASET, tag="v1", repo_type="dataset")
    push_model(grace, "README.md", "# Tides")
    assert statuses(hub.settle()) == [
        ("discussion create", 200, "unhandled"),
        ("repo.content update", 200, "unhandled"),
        ("repo.content update", 200, "unhandled"),
        ("repo.content update", 200, "unhandled"),
    ]
    assert hub.jobs == []


def test_bot_replies_once_and_never_to_itself(hub: Hub, grace: HfApi, start: Start) -> None:
    opened = grace.create_discussion(DATASET, "Gauges", repo_type="dataset")
    start("discussion_bot")
    question = "@My-Bot, is `brest` a copy?"
    grace.comment_discussion(DATASET, opened.num, question, repo_type="dataset")
    comments = hub.repo(f"datasets/{DATASET}").discussions[0].comments
    wait_until(lambda: len(comments) == 3, "the bot does not answer")
    response = comments[2]
    assert response.author.name == "my-bot"
    # The reply mentions the bot itself, as a quotation would.
    assert response.content.startswith(f"You said: {question}")
    assert statuses(hub.settle()) == [
        ("discussion.comment create", 202, "accepted"),
        ("discussion.comment create", 200, "ignored"),
    ]

    hub.replay()
    assert comments[2:] == [response]


def test_bot_replies_to_opening_posts_and_mentions_only(
    hub: Hub, grace: HfApi, start: Start
) -> None:
    start("discussion_bot")
    grace.create_discussion(MODEL, "Ask", description="@my-bots and me@my-bot are not it")
    grace.create_discussion(MODEL, "Tides", description="Hello @my-bot!")
    other, asked = hub.repo(MODEL).discussions
    wait_until(lambda: len(asked.comments) == 2, "the bot does not answer")
    assert asked.comments[1].content.startswith("You said: Hello @my-bot!")
    hub.replay()
    assert len(asked.comments) == 2
    assert len(other.comments) == 1


def test_review_updates_one_discussion(hub: Hub, grace: HfApi, start: Start) -> None:
    start("metadata_review")
    push_model(grace, "config.json", "{}")
    repo = hub.repo(MODEL)
    wait_until(lambda: repo.discussions, "no review is opened")
    (review,) = repo.discussions
    (post,) = review.comments
    assert (review.title, review.author.name) == ("Metadata review", "my-bot")
    assert "* `license`\n" in post.content

    push_model(grace, "README.md", "---\nlicense: mit\n---\n# Tides")
    wait_until(lambda: "license" not in post.content, "the review is not edited")
    assert "* `tags`" in post.content

    card = (
        "license: mit\nlanguage: en\nlibrary_name: keras\npipeline_tag: other\n"
        "datasets: [ada-labs/tide-gauges]\ntags: [tides]"
    )
    push_model(grace, "README.md", f"---\n{card}\n---\n# Tides")
    wait_until(lambda: "Thank you" in post.content, "the review is not edited")

    hub.replay()
    assert repo.discussions == [review]
    assert (review.comments, post.edits) == ([post], 2)
    # The Hub also delivers the bot's own actions, and no handler matches.
    mine = [each for each in hub.deliveries if each.kind.startswith("discussion")]
    assert statuses(mine) == [
        ("discussion create", 200, "unhandled"),
        ("discussion.comment update", 200, "unhandled"),
        ("discussion.comment update", 200, "unhandled"),
    ]


def test_complete_card_opens_no_discussion(hub: Hub, grace: HfApi, start: Start) -> None:
    start("metadata_review")
    card = "license: mit\nlanguage: en\npretty_name: Tides\ntask_categories: [other]\ntags: [tides]"
    push(grace, DATASET, "dataset", "README.md", f"---\n{card}\n---\n# Tides")
    hub.replay()
    repo = hub.repo(f"datasets/{DATASET}")
    assert repo.discussions == []

    # A proposed card does not change the repository.
    push(grace, DATASET, "dataset", "README.md", "# Tides", create_pr=True)
    assert statuses(hub.settle())[1:] == [
        ("discussion create", 200, "unhandled"),
        ("repo.content update", 200, "unhandled"),
    ]
    assert repo.discussions == repo.pull_requests


def test_one_pull_request_proposes_the_tags(hub: Hub, grace: HfApi, start: Start) -> None:
    push_model(grace, "README.md", "---\nlicense: mit\ntags:\n- tides\n---\n# Tides\n")
    start("pr_bot")
    push_model(grace, "adapter_config.json", "{}")
    repo = hub.repo(MODEL)
    wait_until(lambda: "refs/pr/1" in repo.refs, "no pull request is opened")
    (proposal,) = repo.pull_requests
    assert proposal.author.name == "my-bot"
    proposed = "---\nlicense: mit\ntags:\n- tides\n- lora\n---\n# Tides\n"
    assert repo.files("refs/pr/1")["README.md"].decode() == proposed
    # Its own pull request comes back as two deliveries, and neither makes another one.
    assert statuses(hub.settle()) == [
        ("repo.content update", 202, "accepted"),
        ("discussion create", 200, "unhandled"),
        ("repo.content update", 200, "unhandled"),
    ]
    assert hub.deliveries[-1].refs == ["refs/pr/1"]

    # No second pull request is opened while one is open, despite pushes and replays.
    push_model(grace, "model.gguf", "weights")
    hub.replay()
    assert repo.pull_requests == [proposal]

    # Its merge is a push to the main branch, where the next field is missing.
    grace.merge_pull_request(MODEL, proposal.num)
    wait_until(lambda: "refs/pr/2" in repo.refs, "no second pull request is opened")
    grace.merge_pull_request(MODEL, 2)
    hub.replay()
    assert len(repo.pull_requests) == 2
    assert b"- tides\n- lora\n- gguf\n" in repo.files()["README.md"]


def test_closed_pull_request_is_not_reopened(hub: Hub, grace: HfApi, start: Start) -> None:
    start("pr_bot")
    push_model(grace, "model.onnx", "weights")
    repo = hub.repo(MODEL)
    wait_until(lambda: "refs/pr/1" in repo.refs, "no pull request is opened")
    # There was no card at all.
    assert repo.files("refs/pr/1")["README.md"] == b"---\ntags:\n- onnx\n---\n"
    grace.change_discussion_status(MODEL, 1, "closed")
    push_model(grace, "config.json", "{}")
    hub.replay()
    assert len(repo.pull_requests) == 1


def run_job(
    hub: Hub, folder: Path, environment: dict[str, str], secrets: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the example as the machine of a Job would."""
    around = environ(hub, None, folder) | environment | secrets
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "python"), **around}
    return subprocess.run(
        [sys.executable, str(JOB / "job.py")],
        cwd=folder,
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@pytest.mark.filterwarnings("ignore:.*run_uv_job.* is experimental:UserWarning")
def test_a_job_handles_the_delivery_that_started_it(hub: Hub, grace: HfApi, tmp_path: Path) -> None:
    readme = (JOB / "README.md").read_text("utf-8")
    command = re.search(r"^ *hf jobs uv run (\S+)$", readme, re.MULTILINE)
    assert command is not None
    source = grace.run_uv_job(command[1], namespace="grace")
    grace.create_webhook(
        job_id=source.id,
        watched=[{"type": "dataset", "name": DATASET}],
        domains=["repo"],
        secret=SECRET,
        secrets={"HF_TOKEN": str(grace.token)},
    )
    commit = push_data(grace, "1")
    repo = hub.repo(f"datasets/{DATASET}")
    (first, job) = hub.jobs
    # A local script would be in a volume, which the Hub does not copy.
    assert not first.spec.get("volumes")
    assert job.spec["command"] == ["uv", "run", command[1]]
    # The Hub may start a Job again; a tag that is there is no error.
    for _ in range(2):
        ended = run_job(hub, tmp_path, job.spec["environment"], job.spec["secrets"])
        assert ended.returncode == 0, ended.stderr
        assert f"{DATASET} at {commit} is data-{commit[:8]}" in ended.stdout
    assert repo.refs == {MAIN: commit, f"refs/tags/data-{commit[:8]}": commit}

    # The tag is a push and started the Job once more; it finds nothing to do.
    (_, _, again) = hub.jobs
    ended = run_job(hub, tmp_path, again.spec["environment"], again.spec["secrets"])
    assert ended.returncode == 0, ended.stderr
    assert f"is data-{commit[:8]}" not in ended.stdout
    assert len(hub.jobs) == 3
