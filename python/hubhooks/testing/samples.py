"""Events from the samples of the package, and changed copies of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast, overload

from hubhooks._core import HubEvent
from hubhooks._samples import compact, sample_json, wire_path, with_overrides

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    from hubhooks._core import (
        CommentEvent,
        ConfigEvent,
        ContentEvent,
        DiscussionEvent,
        RepoEvent,
    )

    E = TypeVar("E", bound=HubEvent)

__all__ = ["replace", "sample"]

CommentSample = Literal[
    "discussion.comment.create",
    "discussion.comment.create.older",
    "discussion.comment.create.pull-request",
    "discussion.comment.update",
    "discussion.comment.update.hidden",
    "discussion.create",
    "discussion.create.older",
    "discussion.create.pull-request",
]
DiscussionSample = Literal[
    "discussion.delete",
    "discussion.update.closed",
    "discussion.update.merged",
    "discussion.update.pinned",
]
ConfigSample = Literal["repo.config.update", "repo.config.update.empty"]
ContentSample = Literal[
    "repo.content.update",
    "repo.content.update.bucket",
    "repo.content.update.bucket-truncated",
    "repo.content.update.deleted-branch",
    "repo.content.update.new-branch",
    "repo.content.update.parquet",
    "repo.content.update.pull-request",
    "repo.content.update.tag",
    "repo.content.update.v2",
]
RepoSample = Literal[
    "repo.create",
    "repo.create.bucket",
    "repo.create.canonical",
    "repo.create.v2",
    "repo.delete",
    "repo.delete.v2",
    "repo.move",
    "repo.move.v2",
    "repo.update",
    "repo.update.older",
    "repo.update.space",
    "repo.update.v2",
]


@overload
def sample(
    name: CommentSample, /, *, extra: Mapping[str, Any] | None = ..., **changes: object
) -> CommentEvent: ...
@overload
def sample(
    name: DiscussionSample, /, *, extra: Mapping[str, Any] | None = ..., **changes: object
) -> DiscussionEvent: ...
@overload
def sample(
    name: ContentSample, /, *, extra: Mapping[str, Any] | None = ..., **changes: object
) -> ContentEvent: ...
@overload
def sample(
    name: ConfigSample, /, *, extra: Mapping[str, Any] | None = ..., **changes: object
) -> ConfigEvent: ...
@overload
def sample(
    name: RepoSample, /, *, extra: Mapping[str, Any] | None = ..., **changes: object
) -> RepoEvent: ...
@overload
def sample(
    name: str, /, *, extra: Mapping[str, Any] | None = ..., **changes: object
) -> HubEvent: ...
def sample(
    name: str,
    /,
    *,
    extra: Mapping[str, Any] | None = None,
    **changes: object,
) -> HubEvent:
    """Make an event from a sample of the package.

    Args:
        name: one of `sample_names()`.
        extra: as for `replace`.
        changes: as for `replace`. A new scope or action can change the class of the event.

    Raises:
        ConfigError: there is no such sample or field.
    """
    return _changed(sample_json(name), changes, extra)


def replace(event: E, /, *, extra: Mapping[str, Any] | None = None, **changes: object) -> E:
    """Return a copy of an event with some fields changed.

    Other fields stay the same: a new `repo__name` does not change `repo.url`.

    Args:
        event: the event to copy.
        extra: undocumented fields, by dotted paths: `{"repo.newThing": 1}`.
        changes: new values by field, with two underscores in place of a dot:
            `repo__head_sha=...`, `updated_refs__0__ref=...`. Missing parts are created. The index
            after the last element of a list appends.

    Raises:
        ConfigError: there is no such field.
    """
    return cast("E", _changed(event.to_dict(), changes, extra))


def _changed(
    payload: Mapping[str, Any], changes: Mapping[str, object], extra: Mapping[str, Any] | None
) -> HubEvent:
    body = dict(payload)
    for name, value in changes.items():
        # One by one: a change can create the part that the next one needs.
        body = with_overrides(body, {wire_path(body, name): value})
    return HubEvent.from_json(compact(with_overrides(body, extra or {})))
