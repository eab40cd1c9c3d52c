"""Serialize events and their parts in FastAPI and pydantic, also without an annotation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hubhooks._core import (
    Changes,
    Comment,
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    Discussion,
    DiscussionEvent,
    HubEvent,
    MovedTo,
    Owner,
    Repo,
    RepoEvent,
    UpdatedFile,
    UpdatedFiles,
    UpdatedRef,
    Url,
    Webhook,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["register_encoders"]


def _files(files: UpdatedFiles) -> list[dict[str, Any]]:
    return [file.to_dict() for file in files]


_ENCODERS: dict[type, Callable[[Any], object]] = {
    **dict.fromkeys(
        (HubEvent, RepoEvent, ContentEvent, ConfigEvent, DiscussionEvent, CommentEvent),
        HubEvent.to_dict,
    ),
    **{
        part: part.to_dict
        for part in (
            Changes, Comment, Discussion, MovedTo, Owner, Repo, UpdatedFile, UpdatedRef, Url,
            Webhook,
        )
    },
    UpdatedFiles: _files,
}  # fmt: skip


def register_encoders() -> None:
    """Register events and their parts with FastAPI and pydantic, if they are imported.

    It is cheap, so it is called again if one of them may have been imported since.
    """
    # For an endpoint without a return annotation.
    fastapi = sys.modules.get("fastapi.encoders")
    if fastapi is not None:
        fastapi.ENCODERS_BY_TYPE.update(_ENCODERS)
    # For a value in a field of type `dict` or `Any`.
    if "pydantic_core" in sys.modules and not hasattr(HubEvent, "__pydantic_serializer__"):
        from pydantic_core import SchemaSerializer, core_schema  # noqa: PLC0415 - an optional dependency

        for encoded, encoder in _ENCODERS.items():
            written = core_schema.plain_serializer_function_ser_schema(encoder)
            schema = core_schema.any_schema(serialization=written)
            setattr(encoded, "__pydantic_serializer__", SchemaSerializer(schema))  # noqa: B010 - the stubs of the classes lack the attribute
