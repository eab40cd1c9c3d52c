"""`hubhooks dev` in a process of its own, for its tests."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servers import started

from hubhooks._samples import (
    compact,
    sample_json,
    sample_names,
    scope_and_action,
    with_overrides,
)
from hubhooks._store.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    from servers import Server

    from hubhooks.models import Attempt, Delivery

BODY = compact(sample_json("repo.content.update"))
NOTHING_SET: dict[str, str | None] = {
    "WEBHOOK_SECRET": None,
    "HUBHOOKS_ADMIN_TOKEN": None,
    "HUBHOOKS_DELIVERIES": None,
}
# It allows the deliveries with a number up to its version.
FAILING = """
from hubhooks import Webhooks

hooks = Webhooks()

@hooks.on("repo.content")
def retrain(event):
    number = int(event.repo.name.partition("/r")[2])
    if number > {version}:
        raise ValueError("no token")  # line of version {version}
    return "version {version}"
"""
# As in docs/fastapi.md.
TWO_WEBHOOKS = """
from fastapi import FastAPI
from hubhooks import Webhooks

models = Webhooks("moon", deliveries="models.db")
datasets = Webhooks("sun", deliveries="datasets.db")

@models.on("repo", repo_type="model")
def note_model(event):
    return event.repo.name

@datasets.on("repo", repo_type="dataset")
def note_dataset(event):
    return event.repo.name

app = FastAPI()
app.include_router(models.router("/webhooks/models"))
app.include_router(datasets.router("/webhooks/datasets"))
"""
BROKEN = "from hubhooks import Webhooks\n\nimport no_such_module\n"


def failing(version: int) -> str:
    """Return an app whose handler fails for each delivery after a number."""
    return FAILING.replace("{version}", str(version))


def numbered(number: int) -> bytes:
    """Return the body of a delivery with a number."""
    return compact(
        with_overrides(sample_json("repo.content.update"), {"repo.name": f"me/r{number}"})
    )


def fill(folder: Path, count: int) -> None:
    """Store deliveries of all samples, a third of them with a failed run."""
    store = SqliteStore(folder / "hubhooks.db")
    store.open()
    store.recover()
    for number in range(count):
        if number % 500 == 0:
            store.flush()
        sample = sample_names()[number % len(sample_names())]
        body = with_overrides(sample_json(sample), {"repo.name": f"ada-labs/r{number}"})
        scope, action = scope_and_action(body)
        store.accept(
            f"old{number}", compact(body), ["retrain"], scope=scope, action=action,
            repo=body["repo"]["name"], headers=[],
        )  # fmt: skip
        run = store.claim(f"old{number}", "retrain")
        assert run is not None
        is_bad = number % 3 == 0
        store.finish_run(run, "failed" if is_bad else "succeeded", "ValueError: no token" * is_bad)
    store.close()


@contextmanager
def dev(
    folder: Path, script: str, target: str = "app:hooks", *options: str, **environ: str | None
) -> Iterator[Dev]:
    """Run `hubhooks dev` in a folder, with nothing exported."""
    command = ("-m", "hubhooks.cli", "dev", target, "--port", "{port}", *options)
    variables = {**NOTHING_SET, **environ}
    with started(folder, *command, script=script, prints="page ", environ=variables) as server:
        yield Dev(server)


class Dev:
    """A running `hubhooks dev`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.folder = server.folder

    def write(self, text: str) -> None:
        # As editors do: the file is never half written.
        new = self.folder / "app.new"
        new.write_text(text, "utf-8")
        new.replace(self.folder / "app.py")

    @property
    def secret(self) -> str:
        return (self.folder / ".hubhooks" / "webhook_secret").read_text("ascii")

    @property
    def token(self) -> str:
        return (self.folder / ".hubhooks" / "admin_token").read_text("ascii")

    def deliver(self, delivery_id: str, path: str = "/", body: bytes = BODY) -> httpx.Response:
        headers = {"Webhook-Id": delivery_id}
        return self.server.post(path, body, secret=self.secret, headers=headers)

    def api(
        self, path: str, method: str = "GET", page: str = "/_hubhooks/", **options: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return self.server.request(f"{page}api/{path}", method, headers=headers, **options)

    def app(self) -> dict[str, Any]:
        return dict(self.api("app").json())

    def wait_for_state(self, state: str) -> dict[str, Any]:
        self.server.wait_until(lambda: self.app()["state"] == state, f"was never {state}")
        return self.app()

    def delivery(self, delivery_id: str) -> Delivery:
        store = SqliteStore(self.folder / "hubhooks.db")
        found = store.get(delivery_id)
        assert found is not None
        return found

    def attempts(self, delivery_id: str, count: int) -> list[Attempt]:
        """Wait until the only run of a delivery ended, after so many attempts."""

        def is_over() -> bool:
            (run,) = self.delivery(delivery_id).runs
            return not run.is_open and len(run.history) == count

        self.server.wait_until(is_over, f"did not run {delivery_id} {count} times")
        return self.delivery(delivery_id).runs[0].history

    def children(self) -> set[int]:
        """Return the processes that the supervisor started."""
        listed = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children")
        return {int(pid) for pid in listed.read_text("ascii").split()}
