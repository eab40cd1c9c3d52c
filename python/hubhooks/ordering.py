"""Group runs by repository and subject, for `serial=` and `debounce=`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from hubhooks._core import CommentEvent, ContentEvent, HubEvent
from hubhooks.errors import PayloadError
from hubhooks.models import RunGroup, Superseded

if TYPE_CHECKING:
    from hubhooks.handlers import Policy

__all__ = ["group_of", "superseded_of"]

_LONGEST_KEY = 1024


def group_of(policy: Policy, event: HubEvent) -> RunGroup | None:
    """Return the group of a run; None if its handler has neither `serial=` nor `debounce=`."""
    if policy.serial is None and policy.debounce is None:
        return None
    serial = _shorten(_repo_key(event)) if policy.serial else ""
    subject = "" if policy.debounce is None else _shorten(_subject(event))
    return RunGroup(serial, subject, (policy.debounce or 0.0) if subject else 0.0)


def superseded_of(ids: tuple[str, ...], oldest_body: bytes | None) -> Superseded:
    """Describe the deliveries that a run replaced."""
    try:
        event = None if oldest_body is None else HubEvent.from_json(oldest_body)
    except PayloadError:
        event = None
    refs = () if event is None else getattr(event, "updated_refs", ())
    return Superseded(ids, refs[0].old_sha if refs else None)


def _shorten(key: str) -> str:
    """Replace a key by its hash if it is longer than any key of the Hub: an index contains it."""
    if len(key) <= _LONGEST_KEY:
        return key
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _repo_key(event: HubEvent) -> str:
    """Return a key of the repository. It contains the id, which a move does not change."""
    repo = event.repo
    return "" if repo is None else f"{repo.type}/{repo.id or repo.name}"


def _subject(event: HubEvent) -> str:
    """Return a key of the event's subject; empty if a later event cannot replace this one.

    A comment, the files of a bucket and a move have information that a later event lacks.
    """
    is_comment = isinstance(event, CommentEvent)
    is_bucket = isinstance(event, ContentEvent) and not event.updated_refs
    repo = _repo_key(event)
    if is_comment or is_bucket or event.action == "move" or not repo:
        return ""
    refs = sorted({str(ref.ref) for ref in getattr(event, "updated_refs", ())})
    discussion = getattr(event, "discussion", None)
    number = "" if discussion is None else str(discussion.num)
    return "\n".join((repo, event.scope, event.action, number, *refs))
