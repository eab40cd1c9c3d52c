"""A Job that a webhook started: the same handlers, one delivery, and an exit code."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hubhooks import HubEvent, Webhooks, job
from hubhooks._samples import sample_json
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import asyncio
import threading

from hubhooks import CommentEvent, ContentEvent, RunContext, HubEvent, Ignore, Webhooks

hooks = Webhooks(ignore_authors=["5e9ecfc04957053f60648a3e"])


@hooks.on("repo.content")
def train(event: ContentEvent, context: RunContext) -> None:
    is_main = threading.current_thread() is threading.main_thread()
    asyncio.run(asyncio.sleep(0))
    print("train", event.repo.name, context.id, context.attempt, is_main, flush=True)


@hooks.on("repo.content")
async def notify(event: ContentEvent) -> None:
    await asyncio.sleep(0)
    print("notify", event.repo.name, flush=True)


@hooks.on("repo")
def break_down(event: HubEvent) -> None:
    raise OSError("the disk is gone")


@hooks.on("repo")
async def go_on(event: HubEvent) -> None:
    print("go on", flush=True)


@hooks.on("discussion.comment")
def shy(event: CommentEvent) -> None:
    raise Ignore("not for me")


@hooks.on_failure
def report(event: HubEvent, context: RunContext, error: BaseException) -> None:
    print("report", context.handler, error, flush=True)


@hooks.on_unhandled
async def wonder(event: HubEvent) -> None:
    print("wonder", event.scope, flush=True)


if __name__ == "__main__":
    hooks.run_job()
    print("not reached")
"""


@pytest.fixture
def run_job(tmp_path: Path):
    """Run a Job's script as the Hub does, and return its exit code, output and errors."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, "utf-8")

    def run(payload: str | None, **variables: str) -> tuple[int, list[str], str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("WEBHOOK_")}
        if payload is not None:
            environ["WEBHOOK_PAYLOAD"] = payload
        ended = subprocess.run(
            [sys.executable, "-W", "error", str(script)],
            env={**environ, **variables},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return ended.returncode, ended.stdout.splitlines(), ended.stderr

    return run


def test_all_handlers_of_the_delivery_run(run_job) -> None:
    payload = json.dumps(sample_json("repo.content.update"))
    code, lines, errors = run_job(payload, WEBHOOK_ID="d7", WEBHOOK_SECRET="moon")
    assert (code, errors) == (job.SUCCEEDED, "")
    # Sync handlers are called in the main thread, and the delivery is the Hub's.
    assert "train ada-labs/tide-gauges d7 1 True" in lines
    assert "notify ada-labs/tide-gauges" in lines
    assert lines[-2:] == ["hubhooks: `train`: succeeded", "hubhooks: `notify`: succeeded"]


def test_job_without_an_id_gets_one(run_job) -> None:
    code, lines, _ = run_job(json.dumps(sample_json("repo.content.update")), WEBHOOK_ID="")
    (line,) = (line for line in lines if line.startswith("train "))
    assert code == job.SUCCEEDED
    assert len(line.split()[2]) == 32


def test_failed_handler_fails_the_job_after_the_others(run_job) -> None:
    code, lines, errors = run_job(json.dumps(sample_json("repo.create")))
    assert code == job.FAILED
    assert "go on" in lines
    assert "report break_down the disk is gone" in lines
    assert "hubhooks: `break_down`: failed: OSError: the disk is gone" in lines
    assert "hubhooks: `go_on`: succeeded" in lines
    assert "Traceback" in errors


def test_ignored_run_is_no_failure(run_job) -> None:
    code, lines, _ = run_job(json.dumps(sample_json("discussion.comment.create")))
    assert (code, lines) == (job.SUCCEEDED, ["hubhooks: `shy`: ignored: not for me"])


def test_unhandled_event_is_explained(run_job) -> None:
    code, lines, _ = run_job(json.dumps(sample_json("discussion.delete")), WEBHOOK_ID="d1")
    assert code == job.SUCCEEDED
    assert "wonder discussion" in lines
    at = lines.index("hubhooks: delivery `d1` is unhandled:")
    assert any(line.startswith("hubhooks: `train` does not match: ") for line in lines[at:])


def test_ignored_author_is_reported(run_job) -> None:
    payload = sample_json("discussion.comment.create")
    payload["comment"]["author"]["id"] = "5e9ecfc04957053f60648a3e"
    code, lines, _ = run_job(json.dumps(payload), WEBHOOK_ID="d1")
    assert code == job.SUCCEEDED
    assert lines[0] == "hubhooks: delivery `d1` is ignored:"
    assert lines[1].startswith("hubhooks: its author ")


@pytest.mark.parametrize("payload", ["no JSON", "[]", '{"event": 1}', "caf\udce9"])
def test_malformed_body_has_its_own_exit_code(run_job, payload: str) -> None:
    code, lines, _ = run_job(payload, WEBHOOK_ID="d1")
    assert code == job.MALFORMED
    assert lines[0] == "hubhooks: delivery `d1` is malformed:"
    assert lines[1].startswith("hubhooks: ")


@pytest.mark.parametrize("payload", [None, ""])
def test_manual_job_names_missing_variables(run_job, payload: str | None) -> None:
    code, lines, errors = run_job(payload)
    assert (code, errors) == (job.NO_DELIVERY, "")
    assert "WEBHOOK_PAYLOAD" in lines[0]
    assert "hubhooks samples" in lines[0]


def test_running_loop_is_rejected() -> None:
    hooks = Webhooks()
    ran: list[HubEvent] = []
    hooks.on()(ran.append)

    async def main() -> None:
        hooks.run_job({"WEBHOOK_PAYLOAD": json.dumps(sample_json("repo.create"))})

    with pytest.raises(ConfigError, match="`run_job` cannot run inside an event loop"):
        asyncio.run(main())
    assert ran == []
