"""Make events for tests. The Hub could have sent each of them.

Ids, hashes and URLs depend only on names: the same repository has the same id in every event.
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
        repo: the full name of the repository, `owner/name`.
        repo_type: its type. For a bucket, use `bucket`.
        ref: a branch, or a full ref such as `refs/pr/3` or `refs/tags/v1`.
        change: whether the ref was updated, created or deleted.
        private: whether the repository is private.

    Raises:
        ConfigError: the Hub does not send such an event.
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
    """Make the event of added or deleted files in a bucket.

    Args:
        paths: the added or overwritten files.
        deleted: the deleted files.
        truncated: whether the list of files is incomplete. The Hub lists at most 10,000 files
            (https://huggingface.co/docs/hub/webhooks).
        repo: the full name of the bucket, `owner/name`.
        private: whether the bucket is private.
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
    """Make the event of changed settings of a repository.

    Args:
        settings: the new values, with the keys of the Hub, such as `{"private": True}`. By default
            there are none: for many settings, the Hub sends an empty object.
        repo: the full name of the repository, `owner/name`.
        repo_type: its type.
        private: whether the repository is private, if `settings` does not have it.
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
        action: the event's action.
        repo: the full name of the repository, `owner/name`; for a move, the old name.
        repo_type: its type.
        moved_to: the new full name after a move; by default, its owner is `sea-archive`.
        private: whether the repository is private.

    Raises:
        ConfigError: the Hub does not send such an event.
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
def discussion(  # noqa: PLR0913 - a filter can use each of them
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
        action: the event's action. With `create`, the event has the opening post as its comment.
            Use `comment(text, opening_post=True)` to choose the text of the post.
        title: the title of the discussion.
        status: its status after the event.
        pull_request: whether it is a pull request; by default, True for `merged` and `draft`.
        num: the number of the discussion.
        author: the id of its author.
        pinned: whether it is pinned.
        repo: the full name of its repository, `owner/name`.
        repo_type: the type of the repository.
        private: whether the repository is private.

    Raises:
        ConfigError: the Hub does not send such an event.
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


def comment(  # noqa: PLR0913 - a filter can use each of them
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
        content: the text. The Hub does not send the text of a hidden comment.
        action: `create` for a new comment, `update` for an edited one; by default `update` only
            for a hidden comment.
        opening_post: whether it is the first post of a discussion. The Hub sends it with the scope
            `discussion` and the action `create`.
        hidden: whether the comment is hidden.
        author: the id of the author of the comment.
        title: the title of the discussion.
        status: the status of the discussion.
        pull_request: whether it is a pull request; by default, True for `merged` and `draft`.
        num: the number of the discussion.
        repo: the full name of its repository, `owner/name`.
        repo_type: the type of the repository.
        private: whether the repository is private.

    Raises:
        ConfigError: the Hub does not send such an event.
    """
    _check("action", action, (None, "create", "update"))
    if opening_post and action == "update":
        msg = "the Hub sends an edited opening post as any comment: leave out `opening_post`"
        raise ConfigError(msg)
    part = _repo(repo, repo_type, private=private)
    writer = author or _hash(24, "author")
    opener = writer if opening_post else _hash(24, "opener")
    talk = _discussion(part, title, status, num, opener, pull_request=pull_request)
    post = _comment(talk, content, writer, hidden=hidden)
    scope = "discussion" if opening_post else "discussion.comment"
    default = "update" if hidden and not opening_post else "create"
    return CommentEvent.from_json(
        _body(scope, action or default, part, discussion=talk, comment=post)
    )


def _repo(name: str, kind: str, *, private: bool, has_head: bool = False) -> dict[str, Any]:
    _check("repo_type", kind, REPO_TYPES)
    # URLs of models have no prefix.
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


def _discussion(  # noqa: PLR0913 - one for each field of a discussion
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
