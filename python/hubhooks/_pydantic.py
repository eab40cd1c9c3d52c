"""Describe events as pydantic fields. Only a call from pydantic imports this module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic_core import core_schema as schema

from hubhooks._core import HubEvent
from hubhooks._encoders import register_encoders

if TYPE_CHECKING:
    from typing import Any

    from pydantic_core import CoreSchema

__all__ = ["core_schema"]

# The schema in OpenAPI. It names only the main fields: the Hub can add others, which are accepted
# too. Source: https://huggingface.co/docs/hub/webhooks
_JSON_SCHEMA = {
    "type": "object",
    "description": "The body of a Hugging Face Hub webhook.",
    "required": ["event"],
    "properties": {
        "event": {
            "type": "object",
            "required": ["action", "scope"],
            "properties": {
                "action": {"type": "string", "examples": ["create", "update", "delete", "move"]},
                "scope": {"type": "string", "examples": ["repo.content", "discussion.comment"]},
            },
        },
        "repo": {"type": "object"},
        "discussion": {"type": "object"},
        "comment": {"type": "object"},
        "webhook": {"type": "object"},
    },
}


def core_schema(cls: type[HubEvent]) -> CoreSchema:
    """Return the pydantic schema of an event class: validation, serialization and JSON schema."""
    register_encoders()

    def read(value: object) -> HubEvent:
        if isinstance(value, cls):
            return value
        if isinstance(value, (bytes, bytearray, str)):
            return cls.from_json(value)
        if isinstance(value, Mapping):
            return cls.from_dict(value)
        msg = f"expected a Hub event as a mapping or JSON, found {type(value).__name__}"
        raise ValueError(msg)

    return schema.no_info_plain_validator_function(
        read,
        json_schema_input_schema=schema.dict_schema(metadata=_metadata(cls)),
        serialization=schema.plain_serializer_function_ser_schema(
            HubEvent.to_dict, return_schema=schema.dict_schema(metadata=_metadata(cls))
        ),
    )


def _metadata(cls: type[HubEvent]) -> dict[str, Any]:
    shown = {**_JSON_SCHEMA, "title": cls.__name__}
    return {"pydantic_js_functions": [lambda _schema, _handler: shown]}
