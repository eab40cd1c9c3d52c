"""Events for tests: each function makes one that the Hub could have sent.

Names decide ids, hashes and addresses, so the same repository has the same id in every event.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Literal, overload

from hubhooks._core import (
    REPO_TYPES,
    STATUSES,
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    DiscussionEvent,
    RepoEvent,
)
from hubhooks._samples import compact
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hubhooks._values import RepoType, Status

__all__ = ["bucket", "comment", "config", "content", "discussion", "repo"]

_HUB = "https://huggingface.co"
_REPO = "ada-labs/tide-forecast"
_OF_PULL_REQUESTS = ("merged", "draft")
_MAIN = "refs/heads/main"


def content(
    *,
    repo: str = _REPO,
    repo_type: RepoType = "model",
    ref: str = "main",
    change: Literal["updated", "created", "deleted"] = "updated",
    private: bool = False,
) -> ContentEvent:
    """Make the event of a push to a repository.

    Args:
        repo: its full name.
        repo_type: what it is; the files of a bucket are for `bucket`.
        ref: what was pushed to: a branch, or a full ref such as `refs/pr/3` or `refs/tags/v1`.
        change: what became of the ref.
        private: whether the repository is.

    Raises:
        ConfigError: the Hub sends no such event.
    """
    _check("change", change, ("updated", "created", "deleted"))
    if repo_type == "bucket":
        msg = "a bucket has no refs; `bucket(paths)` makes the event of its files"
        raise ConfigError(msg)
    full = ref if ref.startswith("refs/") else f"refs/heads/{ref}"
    part = _repo(repo, repo_type, private=private, has_head=True)
    new = part["headSha"] if full == _MAIN else _hash(40, "new", repo_type, repo, full)
    pushed = {
        "ref": full,
        "oldSha": None if change == "created" else _hash(40, "old", repo_type, repo, full),
        "newSha": None if change == "deleted" else new,
    }
    return ContentEvent.from_json(_body("repo.content", "update", part, updatedRefs=[pushed]))


def bucket(
    paths: str | Iterable[str] = (),
    *,
    deleted: str | Iterable[str] = (),
    truncated: bool = False,
    repo: str = _REPO,
    private: bool = False,
) -> ContentEvent:
    """Make the event of files that were added to a bucket, or deleted from it.

    Args:
        paths: the files that were added or overwritten.
        deleted: the files that were deleted.
        truncated: whether the Hub cut the list short, as it does after 10,000 files.
        repo: the full name of the bucket.
        private: whether it is private.
    """
    files: list[dict[str, Any]] = [
        {"path": path, "action": "add", "xetHash": _hash(64, repo, path), "size": 1024}
        for path in _listed(paths)
    ]
    files += [{"path": path, "action": "delete"} for path in _listed(deleted)]
    more: dict[str, Any] = {"updatedFilesTruncated": True} if truncated else {}
    part = _repo(repo, "bucket", private=private, has_head=True)
    body = _body("repo.content", "update", part, updatedFiles=files, **more)
    return ContentEvent.from_json(body)


def config(
    settings: Mapping[str, Any] | None = None,
    *,
    repo: str = _REPO,
    repo_type: RepoType = "model",
    private: bool = False,
) -> ConfigEvent:
    """Make the event of settings that changed.

    Args:
        settings: the new values, by the Hub's names; `{"private": True}` makes the repository
            private. Of many settings the Hub tells nothing, so none is usual.
        repo: the full name of the repository.
        repo_type: what it is.
        private: whether the repository is, where the settings do not say it.
    """
    new = dict(settings or {})
    part = _repo(repo, repo_type, private=new.get("private", private), has_head=True)
    return ConfigEvent.from_json(_body("repo.config", "update", part, updatedConfig=new))


def repo(
    action: Literal["create", "delete", "update", "move"],
    *,
    repo: str = _REPO,
    repo_type: RepoType = "model",
    moved_to: str | None = None,
    private: bool = False,
) -> RepoEvent:
    """Make the event of a repository that was created, deleted, updated or moved.

    Args:
        action: what happened to it.
        repo: its full name; on a move the old one.
        repo_type: what it is.
        moved_to: the new full name on a move; by default it goes to `sea-archive`.
        private: whether it is private.

    Raises:
        ConfigError: the Hub sends no such event.
    """
    _check("action", action, ("create", "delete", "update", "move"))
    more: dict[str, Any] = {}
    if action == "move":
        name = moved_to or f"sea-archive/{repo.rpartition('/')[2]}"
        more["movedTo"] = {"name": name, "owner": {"id": _owner(name)}}
    elif moved_to is not None:
        msg = f"`moved_to` belongs to the action `move`, not to `{action}`"
        raise ConfigError(msg)
    part = _repo(repo, repo_type, private=private, has_head=True)
    return RepoEvent.from_json(_body("repo", action, part, **more))


@overload
def discussion(
    action: Literal["create"],
    *,
    title: str = ...,
    status: Status = ...,
    pull_request: bool | None = ...,
    num: int = ...,
    author: str | None = ...,
    pinned: bool = ...,
    repo: str = ...,
    repo_type: RepoType = ...,
    private: bool = ...,
) -> CommentEvent: ...
@overload
def discussion(
    action: Literal["create", "update", "delete"],
    *,
    title: str = ...,
    status: Status = ...,
    pull_request: bool | None = ...,
    num: int = ...,
    author: str | None = ...,
    pinned: bool = ...,
    repo: str = ...,
    repo_type: RepoType = ...,
    private: bool = ...,
) -> DiscussionEvent: ...
def discussion(  # noqa: PLR0913 - each is something a handler may listen to
    action: Literal["create", "update", "delete"],
    *,
    title: str = "Retrain on the March gauges",
    status: Status = "open",
    pull_request: bool | None = None,
    num: int = 1,
    author: str | None = None,
    pinned: bool = False,
    repo: str = _REPO,
    repo_type: RepoType = "model",
    private: bool = False,
) -> DiscussionEvent:
    """Make the event of a discussion or pull request that was opened, changed or deleted.

    Args:
        action: what happened to it; one that is created comes with its opening post, for which
            `comment(..., opening_post=True)` has the text.
        title: its title.
        status: its status after that.
        pull_request: whether it is one; by default if only pull requests have the status.
        num: its number.
        author: the id of who opened it.
        pinned: whether it is.
        repo: the full name of its repository.
        repo_type: what that is.
        private: whether that is private.

    Raises:
        ConfigError: the Hub sends no such event.
    """
    _check("action", action, ("create", "update", "delete"))
    part = _repo(repo, repo_type, private=private)
    opener = author or _hash(24, "author")
    talk = _discussion(part, title, status, num, opener, pull_request=pull_request, pinned=pinned)
    if action == "create":
        post = _comment(talk, f"About: {title}", opener)
        return CommentEvent.from_json(
            _body("discussion", action, part, discussion=talk, comment=post)
        )
    return DiscussionEvent.from_json(_body("discussion", action, part, discussion=talk))


def comment(  # noqa: PLR0913 - each is something a handler may listen to
    content: str = "Thank you!",
    *,
    action: Literal["create", "update"] | None = None,
    opening_post: bool = False,
    hidden: bool = False,
    author: str | None = None,
    title: str = "Retrain on the March gauges",
    status: Status = "open",
    pull_request: bool | None = None,
    num: int = 1,
    repo: str = _REPO,
    repo_type: RepoType = "model",
    private: bool = False,
) -> CommentEvent:
    """Make the event of a comment that was written, edited or hidden.

    Args:
        content: its text, which the Hub leaves out of a hidden one.
        action: `update` for one that was edited; by default only if it is hidden.
        opening_post: whether it opens the discussion, which the Hub sends as one that was
            created: scope `discussion`, action `create`.
        hidden: whether it was hidden.
        author: the id of who wrote it.
        title: the title of the discussion.
        status: the status of the discussion.
        pull_request: whether that is one; by default if only pull requests have the status.
        num: the number of the discussion.
        repo: the full name of its repository.
        repo_type: what that is.
        private: whether that is private.

    Raises:
        ConfigError: the Hub sends no such event.
    """
    _check("action", action, (None, "create", "update"))
    if opening_post and action == "update":
        msg = "the Hub sends an edited opening post as any comment: leave out `opening_post`"
        raise ConfigError(msg)
    part = _repo(repo, repo_type, private=private)
    writer = author or _hash(24, "author")
    opener = writer if opening_post else _hash(24, "opener")
    talk = _discussion(part, title, status, num, opener, pull_request=pull_request)
    said = _comment(talk, content, writer, hidden=hidden)
    scope = "discussion" if opening_post else "discussion.comment"
    default = "update" if hidden and not opening_post else "create"
    return CommentEvent.from_json(
        _body(scope, action or default, part, discussion=talk, comment=said)
    )


def _repo(name: str, kind: str, *, private: bool, has_head: bool = False) -> dict[str, Any]:
    _check("repo_type", kind, REPO_TYPES)
    # Addresses of models have no prefix.
    prefix = "" if kind == "model" else f"{kind}s/"
    part: dict[str, Any] = {
        "type": kind,
        "name": name,
        "id": _hash(24, "repo", kind, name),
        "private": private,
        "url": {"web": f"{_HUB}/{prefix}{name}", "api": f"{_HUB}/api/{kind}s/{name}"},
    }
    if has_head and kind != "bucket":
        part["headSha"] = _hash(40, "head", kind, name)
    if has_head and kind == "space":
        part["subdomain"] = re.sub("[^a-z0-9]+", "-", name.lower())
    part["owner"] = {"id": _owner(name)}
    return part


def _discussion(  # noqa: PLR0913 - what a discussion has
    repo: Mapping[str, Any],
    title: str,
    status: str,
    num: int,
    author: str,
    *,
    pull_request: bool | None,
    pinned: bool = False,
) -> dict[str, Any]:
    if repo["type"] == "bucket":
        msg = "buckets have no discussions"
        raise ConfigError(msg)
    _check("status", status, STATUSES)
    if pull_request is None:
        pull_request = status in _OF_PULL_REQUESTS
    elif not pull_request and status in _OF_PULL_REQUESTS:
        msg = f"only a pull request can be `{status}`: leave out `pull_request=False`"
        raise ConfigError(msg)
    url = repo["url"]
    part: dict[str, Any] = {
        "id": _hash(24, "discussion", repo["id"], str(num)),
        "title": title,
        "url": {key: f"{address}/discussions/{num}" for key, address in url.items()},
        "status": status,
        "author": {"id": author},
        "num": num,
        "isPullRequest": pull_request,
    }
    if pull_request:
        part["changes"] = {"base": _MAIN}
    if status == "merged":
        part["changes"]["mergeCommitId"] = _hash(40, "head", repo["type"], repo["name"])
    part["pinned"] = pinned
    return part


def _comment(
    discussion: Mapping[str, Any], content: str, author: str, *, hidden: bool = False
) -> dict[str, Any]:
    comment_id = _hash(24, "comment", discussion["id"], author, content)
    return {
        "id": comment_id,
        "author": {"id": author},
        **({} if hidden else {"content": content}),
        "hidden": hidden,
        "url": {"web": f"{discussion['url']['web']}#{comment_id}"},
    }


def _body(scope: str, action: str, repo: Mapping[str, Any], **more: object) -> bytes:
    webhook = {"id": _hash(24, "webhook"), "version": 3}
    event = {"action": action, "scope": scope}
    return compact({"event": event, "repo": repo, "webhook": webhook, **more})


def _owner(name: str) -> str:
    return _hash(24, "owner", name.rpartition("/")[0])


def _hash(digits: int, *words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:digits]


def _listed(paths: str | Iterable[str]) -> Iterable[str]:
    return (paths,) if isinstance(paths, str) else paths


def _check(name: str, value: str | None, known: tuple[str | None, ...]) -> None:
    if value not in known:
        words = ", ".join(f"`{word}`" for word in known if word)
        msg = f"`{name}` is {value!r}, and the Hub documents {words}"
        raise ConfigError(msg)
