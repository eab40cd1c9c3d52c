"""A stand-in for the Hub: the part of its API that the guides use, and its deliveries."""

# ruff: noqa: EM101, FAST003 - the Hub's own codes are no messages; dependencies take the parameters
from __future__ import annotations

import base64
import hashlib
import itertools
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, Literal

import httpx
import uvicorn
from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from huggingface_hub import HfApi
from servers import PATIENCE, wait_until

from hubhooks._samples import compact, sample_json, with_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator

MAIN = "refs/heads/main"
PAGE = 20

Status = Literal["open", "closed", "merged"]
Payload = Annotated[dict[str, Any], Body()]


@dataclass
class User:
    name: str
    id: str


@dataclass
class Comment:
    id: str
    author: User
    content: str
    edits: int = 0

    def as_json(self) -> dict[str, Any]:
        latest = {"raw": self.content, "html": self.content, "updatedAt": now()}
        return {
            "id": self.id,
            "type": "comment",
            "createdAt": now(),
            "author": {"name": self.author.name},
            "data": {
                "edited": self.edits > 0,
                "hidden": False,
                "latest": latest,
                "history": [latest] * self.edits,
            },
        }


@dataclass
class Discussion:
    id: str
    num: int
    title: str
    author: User
    is_pull_request: bool
    comments: list[Comment]
    status: Status = "open"
    base: str = ""
    """The commit that a pull request started from."""


@dataclass
class Repo:
    type: str
    name: str
    id: str
    owner_id: str
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    discussions: list[Discussion] = field(default_factory=list)

    @property
    def path(self) -> str:
        return self.name if self.type == "model" else f"{self.type}s/{self.name}"

    def find(self, revision: str) -> str:
        """Return the commit that a branch, a tag, a full ref or a commit means."""
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs:
                return self.refs[ref]
        if revision in self.commits:
            return revision
        raise not_found("Revision")

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.find(revision)]

    @property
    def pull_requests(self) -> list[Discussion]:
        return [each for each in self.discussions if each.is_pull_request]


@dataclass
class Job:
    id: str
    owner: User
    spec: dict[str, Any]
    stage: str = "RUNNING"

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.spec.get("labels", {})
        return labels

    def as_json(self) -> dict[str, Any]:
        # The Hub never gives secrets back, only their names.
        shown = {**self.spec, "secrets": list(self.spec.get("secrets", ()))}
        owner = {"id": self.owner.id, "name": self.owner.name, "type": "user"}
        return {**shown, "id": self.id, "owner": owner, "status": {"stage": self.stage}}


@dataclass
class SentDelivery:
    """A delivery that was sent, and the response to it."""

    id: str
    payload: dict[str, Any]
    url: str
    secret: str | None
    status: int = 0
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return f"{self.payload['event']['scope']} {self.payload['event']['action']}"

    @property
    def refs(self) -> list[str]:
        return [updated["ref"] for updated in self.payload.get("updatedRefs", ())]


class Hub:
    """The state of the stand-in, for tests to read; it changes through the API."""

    def __init__(self) -> None:
        self.url = ""
        self.users: dict[str, User] = {}
        self.repos: dict[str, Repo] = {}
        self.jobs: list[Job] = []
        self.webhooks: list[dict[str, Any]] = []
        self.deliveries: list[SentDelivery] = []
        self.requests: list[str] = []
        """The method and path of every request so far."""
        self._ids = (f"{number:024x}" for number in itertools.count(1))
        self._outbox: SimpleQueue[SentDelivery | None] = SimpleQueue()
        self._unsent = 0
        self._lock = threading.Lock()

    def new_id(self) -> str:
        return next(self._ids)

    def sign_up(self, name: str) -> HfApi:
        """Make an account, and return the real client that is logged in with it."""
        token = f"hf_{name}"
        self.users[token] = User(name, self.new_id())
        return HfApi(endpoint=self.url, token=token)

    def repo(self, path: str) -> Repo:
        """Look a repository up: `owner/name`, `datasets/owner/name`."""
        if path not in self.repos:
            raise not_found("Repo")
        return self.repos[path]

    def commit(self, repo: Repo, ref: str, files: dict[str, bytes]) -> str:
        """Put files on a ref, and notify the webhooks."""
        before = repo.refs.get(ref)
        sha = hashlib.sha1(self.new_id().encode(), usedforsecurity=False).hexdigest()
        repo.commits[sha] = files
        self.move(repo, ref, before, sha)
        return sha

    def move(self, repo: Repo, ref: str, before: str | None, sha: str) -> None:
        repo.refs[ref] = sha
        self.notify(
            "repo.content.update",
            repo,
            {"repo.headSha": repo.refs[MAIN], "updatedRefs": [changed(ref, before, sha)]},
        )

    def notify_discussion(
        self, sample: str, repo: Repo, discussion: Discussion, comment: Comment | None = None
    ) -> None:
        """Notify the webhooks of a discussion, with its comment."""
        url = f"{self.url}/{repo.path}/discussions/{discussion.num}"
        api_url = f"{self.url}/api/{repo.type}s/{repo.name}/discussions/{discussion.num}"
        changes: dict[str, Any] = {
            "discussion.id": discussion.id,
            "discussion.num": discussion.num,
            "discussion.title": discussion.title,
            "discussion.status": discussion.status,
            "discussion.author.id": discussion.author.id,
            "discussion.isPullRequest": discussion.is_pull_request,
            "discussion.url": {"web": url, "api": api_url},
        }
        if discussion.is_pull_request:
            changes["discussion.changes"] = {"base": MAIN}
        if comment is not None:
            changes |= {
                "comment.id": comment.id,
                "comment.author.id": comment.author.id,
                "comment.content": comment.content,
                "comment.url.web": f"{url}#{comment.id}",
            }
        self.notify(sample, repo, changes)

    def notify(self, sample: str, repo: Repo, changes: dict[str, Any]) -> None:
        """Notify every webhook that watches the repository, in the shape of a sample."""
        about = {
            "repo.type": repo.type,
            "repo.name": repo.name,
            "repo.id": repo.id,
            "repo.owner.id": repo.owner_id,
            "repo.url.web": f"{self.url}/{repo.path}",
            "repo.url.api": f"{self.url}/api/{repo.type}s/{repo.name}",
        }
        payload = with_overrides(sample_json(sample), {**about, **changes})
        for webhook in self.webhooks:
            if is_watched(repo, payload, webhook):
                mine = with_overrides(payload, {"webhook.id": webhook["id"]})
                if webhook.get("job") is None:
                    self._post(webhook, mine)
                else:
                    self._run(webhook, mine)

    def send_again(self, delivery: SentDelivery) -> SentDelivery:
        """Send a delivery again with its id, and return it with the new response."""
        again = SentDelivery(delivery.id, delivery.payload, delivery.url, delivery.secret)
        self._send(again)
        return again

    def settle(self) -> list[SentDelivery]:
        """Wait for the responses to all deliveries, and return the deliveries."""
        wait_until(lambda: not self._unsent, "deliveries have no response")
        return self.deliveries

    def replay(self) -> None:
        """Replay each accepted delivery after its run has ended, and wait for the new run.

        While handlers run, the response is `in_progress`. Any other response means that the run
        has ended. So each delivery is sent twice: the second time waits for the replay.
        """
        accepted = [each for each in self.settle() if each.data["status"] == "accepted"]
        for delivery in accepted * 2:
            wait_until(
                lambda delivery=delivery: self.send_again(delivery).data["status"] != "in_progress",
                "a handler does not end",
            )

    def send_until_stopped(self) -> None:
        while (delivery := self._outbox.get()) is not None:
            self._send(delivery)
            with self._lock:
                self._unsent -= 1

    def stop(self) -> None:
        self._outbox.put(None)

    def _post(self, webhook: dict[str, Any], payload: dict[str, Any]) -> None:
        delivery = SentDelivery(self.new_id(), payload, webhook["url"], webhook["secret"])
        with self._lock:
            self._unsent += 1
        self.deliveries.append(delivery)
        self._outbox.put(delivery)

    def _send(self, delivery: SentDelivery) -> None:
        headers = {"Content-Type": "application/json", "Webhook-Id": delivery.id}
        if delivery.secret is not None:
            headers["X-Webhook-Secret"] = delivery.secret
        body = compact(delivery.payload)
        # Not through a proxy of this machine. A missing response is noted as an error.
        try:
            response = httpx.post(
                delivery.url, content=body, headers=headers, timeout=PATIENCE, trust_env=False
            )
            delivery.data = response.json()
            delivery.status = response.status_code
        except (httpx.HTTPError, ValueError) as error:
            delivery.data = {"error": repr(error)}

    def _run(self, webhook: dict[str, Any], payload: dict[str, Any]) -> None:
        """Start a Job as the Hub does: a copy of the source with the delivery in its environment.

        The source's volumes and secrets are not copied.
        """
        source: Job = webhook["job"]
        variables = {
            "WEBHOOK_ID": self.new_id(),
            "WEBHOOK_PAYLOAD": compact(payload).decode(),
            "WEBHOOK_REPO_ID": payload["repo"]["name"],
            "WEBHOOK_REPO_TYPE": payload["repo"]["type"],
            "WEBHOOK_SECRET": webhook["secret"] or "",
        }
        environment = {**source.spec["environment"], **variables}
        spec = {**source.spec, "environment": environment, "secrets": webhook["secrets"]}
        spec.pop("volumes", None)
        self.jobs.append(Job(self.new_id(), source.owner, spec))


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def changed(ref: str, before: str | None, after: str) -> dict[str, str | None]:
    return {"ref": ref, "oldSha": before, "newSha": after}


def not_found(what: str) -> HTTPException:
    text = f"{what} not found"
    return HTTPException(404, text, {"X-Error-Code": f"{what}NotFound", "X-Error-Message": text})


def is_watched(repo: Repo, payload: dict[str, Any], webhook: dict[str, Any]) -> bool:
    domain = payload["event"]["scope"].partition(".")[0]
    watched = [(item["type"], item["name"]) for item in webhook["watched"]]
    owner = repo.name.partition("/")[0]
    subjects = [(repo.type, repo.name), ("user", owner), ("org", owner)]
    return domain in webhook["domains"] and any(subject in watched for subject in subjects)


def hub_of(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


def user_of(request: Request) -> User:
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    user = hub_of(request).users.get(token)
    if user is None:
        raise HTTPException(401, "Invalid username or password.")
    return user


def repo_of(request: Request, kind: str, owner: str, name: str) -> Repo:
    prefix = "" if kind == "models" else f"{kind}/"
    return hub_of(request).repo(f"{prefix}{owner}/{name}")


def discussion_of(repo: Annotated[Repo, Depends(repo_of)], num: int) -> Discussion:
    if not 1 <= num <= len(repo.discussions):
        raise not_found("Discussion")
    return repo.discussions[num - 1]


TheHub = Annotated[Hub, Depends(hub_of)]
TheUser = Annotated[User, Depends(user_of)]
TheRepo = Annotated[Repo, Depends(repo_of)]
TheDiscussion = Annotated[Discussion, Depends(discussion_of)]

# All are async and never wait, so the loop runs them in sequence and they need no locks.
api = FastAPI(redirect_slashes=False)


@api.get("/api/whoami-v2")
async def whoami(user: TheUser) -> dict[str, Any]:
    return {"type": "user", "id": user.id, "name": user.name, "orgs": []}


@api.post("/api/settings/webhooks")
async def create_webhook(hub: TheHub, user: TheUser, asked: Payload) -> dict[str, Any]:
    source = asked.get("jobSourceId")
    job = next((each for each in hub.jobs if each.id == source), None)
    webhook = {"id": hub.new_id(), "secret": None, "secrets": {}, **asked, "job": job}
    hub.webhooks.append(webhook)
    shown = {**webhook, "disabled": False, "job": None if job is None else job.spec}
    return {"webhook": shown}


@api.post("/api/repos/create")
async def create_repo(hub: TheHub, user: TheUser, asked: Payload) -> dict[str, Any]:
    owner = asked.get("organization") or user.name
    repo = Repo(asked.get("type", "model"), f"{owner}/{asked['name']}", hub.new_id(), user.id)
    hub.repos[repo.path] = repo
    sha = hashlib.sha1(repo.id.encode(), usedforsecurity=False).hexdigest()
    repo.refs[MAIN] = sha
    repo.commits[sha] = {".gitattributes": b""}
    hub.notify("repo.create", repo, {"repo.headSha": sha})
    return {"url": f"{hub.url}/{repo.path}", "name": repo.name, "id": repo.id}


@api.post("/api/validate-yaml")
async def validate_yaml(asked: Payload) -> dict[str, Any]:
    return {"errors": [], "warnings": []}


@api.get("/api/jobs/{namespace}")
async def list_jobs(
    hub: TheHub,
    user: TheUser,
    stage: Annotated[list[str], Query(default_factory=list)],
    label: Annotated[list[str], Query(default_factory=list)],
) -> list[dict[str, Any]]:
    wanted = {tuple(each.split("=", 1)) for each in label}
    return [
        job.as_json()
        for job in hub.jobs
        if wanted <= set(job.labels.items()) and (not stage or job.stage in stage)
    ]


@api.post("/api/jobs/{namespace}")
async def run_job(hub: TheHub, user: TheUser, asked: Payload) -> dict[str, Any]:
    job = Job(hub.new_id(), user, asked)
    hub.jobs.append(job)
    return job.as_json()


@api.post("/api/jobs/{namespace}/{job_id}/cancel")
async def cancel_job(hub: TheHub, user: TheUser, job_id: str) -> dict[str, Any]:
    job = next(each for each in hub.jobs if each.id == job_id)
    job.stage = "CANCELED"
    return job.as_json()


@api.post("/v1/chat/completions")
async def chat(asked: Payload) -> dict[str, Any]:
    """Reply as a language model: repeat the message of the user with its mentions."""
    answer = f"You said: {asked['messages'][-1]['content']}"
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": answer},
    }
    return {"id": "1", "created": 1, "model": "echo", "choices": [choice], "usage": {}}


@api.get("/api/{kind}/{owner}/{name}")
@api.get("/api/{kind}/{owner}/{name}/revision/{revision}")
async def repo_info(repo: TheRepo, revision: str = "main") -> dict[str, Any]:
    files = [{"rfilename": path} for path in sorted(repo.files(revision))]
    return {"id": repo.name, "sha": repo.find(revision), "private": False, "siblings": files}


@api.post("/api/{kind}/{owner}/{name}/preupload/{revision}")
async def preupload(repo: TheRepo, revision: str, asked: Payload) -> dict[str, Any]:
    regular = {"uploadMode": "regular", "shouldIgnore": False}
    return {"files": [{"path": file["path"], **regular} for file in asked["files"]]}


@api.post("/api/{kind}/{owner}/{name}/commit/{revision}")
async def commit(
    hub: TheHub,
    user: TheUser,
    repo: TheRepo,
    revision: str,
    request: Request,
    create_pr: bool = False,
) -> dict[str, Any]:
    lines = [json.loads(line) for line in (await request.body()).splitlines()]
    header = lines[0]["value"]
    parent = repo.find(header.get("parentCommit") or revision)
    if header.get("parentCommit") and not create_pr and parent != repo.find(revision):
        raise HTTPException(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repo.commits[parent])
    for line in lines[1:]:
        if line["key"] == "file":
            files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        else:
            files.pop(line["value"]["path"])
    ref, data = f"refs/heads/{revision}", {}
    if create_pr:
        opened = open_discussion(
            hub, user, repo, header["summary"], header["description"], pull_request=True
        )
        opened.base = parent
        ref = f"refs/pr/{opened.num}"
        data["pullRequestUrl"] = f"{hub.url}/{repo.path}/discussions/{opened.num}"
    sha = hub.commit(repo, ref, files)
    return {**data, "commitUrl": f"{hub.url}/{repo.path}/commit/{sha}", "commitOid": sha}


@api.post("/api/{kind}/{owner}/{name}/tag/{revision}")
async def create_tag(
    hub: TheHub, user: TheUser, repo: TheRepo, revision: str, asked: Payload
) -> dict[str, Any]:
    ref = f"refs/tags/{asked['tag']}"
    if ref in repo.refs:
        raise HTTPException(409, "Tag reference exists already.")
    hub.move(repo, ref, None, repo.find(revision))
    return {}


@api.get("/api/{kind}/{owner}/{name}/discussions")
async def list_discussions(
    repo: TheRepo,
    p: int = 0,
    author: str | None = None,
    type: str = "all",  # noqa: A002 - the Hub's name for it
    status: str = "all",
) -> dict[str, Any]:
    found = [
        each
        for each in reversed(repo.discussions)
        if author in (None, each.author.name)
        and type in ("all", "pull_request" if each.is_pull_request else "discussion")
        # For this filter merged pull requests are closed too.
        and status in ("all", "open" if each.status == "open" else "closed")
    ]
    start = p * PAGE
    shown = [summary(repo, each) for each in found[start : start + PAGE]]
    return {"count": len(found), "start": start, "discussions": shown}


@api.post("/api/{kind}/{owner}/{name}/discussions")
async def create_discussion(
    hub: TheHub, user: TheUser, repo: TheRepo, asked: Payload
) -> dict[str, Any]:
    opened = open_discussion(
        hub,
        user,
        repo,
        asked["title"],
        asked["description"],
        pull_request=asked["pullRequest"],
    )
    return {"num": opened.num}


@api.get("/api/{kind}/{owner}/{name}/discussions/{num}")
async def discussion_details(repo: TheRepo, discussion: TheDiscussion) -> dict[str, Any]:
    details = {
        **summary(repo, discussion),
        "events": [comment.as_json() for comment in discussion.comments],
    }
    if discussion.is_pull_request:
        details |= {"changes": {"base": MAIN}, "filesWithConflicts": []}
    return details


@api.post("/api/{kind}/{owner}/{name}/discussions/{num}/comment")
async def create_comment(
    hub: TheHub, user: TheUser, repo: TheRepo, discussion: TheDiscussion, asked: Payload
) -> dict[str, Any]:
    comment = Comment(hub.new_id(), user, asked["comment"])
    # Notify first: a test that sees the comment can then wait for its delivery.
    hub.notify_discussion("discussion.comment.create", repo, discussion, comment)
    discussion.comments.append(comment)
    return {"newMessage": comment.as_json()}


@api.post("/api/{kind}/{owner}/{name}/discussions/{num}/comment/{comment_id}/edit")
async def edit_comment(
    hub: TheHub,
    user: TheUser,
    repo: TheRepo,
    discussion: TheDiscussion,
    comment_id: str,
    asked: Payload,
) -> dict[str, Any]:
    comment = next(each for each in discussion.comments if each.id == comment_id)
    if comment.author is not user:
        raise HTTPException(403, "This is somebody else's comment.")
    comment.content = asked["content"]
    comment.edits += 1
    hub.notify_discussion("discussion.comment.update", repo, discussion, comment)
    return {"updatedComment": comment.as_json()}


@api.post("/api/{kind}/{owner}/{name}/discussions/{num}/status")
async def change_status(
    hub: TheHub, user: TheUser, repo: TheRepo, discussion: TheDiscussion, asked: Payload
) -> dict[str, Any]:
    discussion.status = asked["status"]
    hub.notify_discussion("discussion.update.closed", repo, discussion)
    event = {"id": hub.new_id(), "type": "status-change", "createdAt": now(), "author": {}}
    return {"newStatus": {**event, "data": {"status": asked["status"]}}}


@api.post("/api/{kind}/{owner}/{name}/discussions/{num}/merge")
async def merge(
    hub: TheHub, user: TheUser, repo: TheRepo, discussion: TheDiscussion
) -> dict[str, Any]:
    base, proposed = repo.commits[discussion.base], repo.files(f"refs/pr/{discussion.num}")
    changes = {path: text for path, text in proposed.items() if base.get(path) != text}
    discussion.status = "merged"
    hub.notify_discussion("discussion.update.merged", repo, discussion)
    hub.commit(repo, MAIN, {**repo.files(), **changes})
    return {}


@api.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
async def resolve_model(request: Request, owner: str, name: str, revision: str, path: str) -> Any:
    return resolve(repo_of(request, "models", owner, name), revision, path)


@api.api_route("/{kind}/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
async def resolve_other(repo: TheRepo, revision: str, path: str) -> Any:
    return resolve(repo, revision, path)


def resolve(repo: Repo, revision: str, path: str) -> Response:
    sha = repo.find(revision)
    content = repo.commits[sha].get(path)
    if content is None:
        missing = not_found("Entry")
        return JSONResponse(
            {"error": missing.detail}, 404, {**(missing.headers or {}), "X-Repo-Commit": sha}
        )
    etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return Response(content, headers={"ETag": f'"{etag}"', "X-Repo-Commit": sha})


def open_discussion(
    hub: Hub, user: User, repo: Repo, title: str, description: str, *, pull_request: bool
) -> Discussion:
    num = len(repo.discussions) + 1
    post = Comment(hub.new_id(), user, description)
    opened = Discussion(hub.new_id(), num, title, user, pull_request, [post])
    repo.discussions.append(opened)
    hub.notify_discussion("discussion.create", repo, opened, post)
    return opened


def summary(repo: Repo, discussion: Discussion) -> dict[str, Any]:
    return {
        "num": discussion.num,
        "title": discussion.title,
        "author": {"name": discussion.author.name},
        "status": discussion.status,
        "isPullRequest": discussion.is_pull_request,
        "createdAt": now(),
        "repo": {"name": repo.name, "type": repo.type},
    }


class App:
    """The stand-in as an ASGI application with its own state; it notes every request."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self._hub.requests.append(f"{scope['method']} {scope['path']}")
        await api(scope, receive, send)


class _Server(uvicorn.Server):
    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a stand-in for the Hub on 127.0.0.1 until the block ends."""
    hub = Hub()
    api.state.hub = hub
    server = _Server(uvicorn.Config(App(hub), port=0, log_config=None, lifespan="off"))
    threads = [
        threading.Thread(target=server.run),
        threading.Thread(target=hub.send_until_stopped),
    ]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: server.started, "the stand-in for the Hub does not start")
        hub.url = f"http://127.0.0.1:{server.port}"
        yield hub
    finally:
        server.should_exit = True
        hub.stop()
        for thread in threads:
            thread.join(PATIENCE)
