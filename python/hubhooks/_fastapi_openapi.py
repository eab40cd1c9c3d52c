"""The OpenAPI schema of the webhook: request body, samples and responses."""

from __future__ import annotations

from functools import cache
from typing import Any, TypedDict

from fastapi import Depends
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field, TypeAdapter

from hubhooks._core import HubEvent
from hubhooks._samples import describe, sample_json, sample_names, scope_and_action

__all__ = [
    "SECRET_SCHEME", "RouteOptions", "WebhookErrorResponse", "WebhookResponse", "openapi_options",
    "receive_options",
]  # fmt: skip

# It only documents the scheme in OpenAPI. The `Verifier` checks the secret, in constant time.
SECRET_SCHEME = APIKeyHeader(
    name="X-Webhook-Secret",
    scheme_name="HubWebhookSecret",
    description="The secret from the webhook's settings on the Hub. "
    "Without this header, `?secret=` in the URL counts.",
    auto_error=False,
)
_ERRORS = {
    400: "The body is empty or cut off, or the `Content-Length` is wrong.",
    401: "The request has no secret.",
    403: "The secret is wrong.",
    413: "The body is too large.",
    503: "No secret is configured, the delivery cannot be stored, or the app shuts down.",
}


class WebhookResponse(BaseModel):
    """The JSON of a response to a delivery."""

    status: str = Field(description="A word for the result, such as `accepted` or `rejected`.")
    delivery: str | None = Field(None, description="The id of the stored delivery.")
    handlers: list[str] | None = Field(None, description="The names of the handlers that will run.")
    reason: str | None = Field(
        None, description="Why the request was rejected, or why no handler runs."
    )
    explanations: list[str] | None = Field(
        None, description="Why each handler does not match. Only for `unhandled`."
    )


class WebhookErrorResponse(BaseModel):
    """The JSON of an error response: a `WebhookResponse` as the `detail` of an `HTTPException`."""

    detail: WebhookResponse


class RouteOptions(TypedDict):
    """Options of `app.post(path, **options)` in FastAPI."""

    responses: dict[int | str, dict[str, Any]]
    openapi_extra: dict[str, Any]


def openapi_options(event_class: type[HubEvent] = HubEvent) -> RouteOptions:
    """Return the options that show a verified event in OpenAPI: `@app.post(path, **...)`.

    Args:
        event_class: the class of the event.

    Returns:
        The request body, with a sample of each kind of event, and the error responses. FastAPI
        cannot see them in the parameters of an endpoint.
    """
    return {
        "responses": _error_responses(WebhookErrorResponse),
        "openapi_extra": _request_body(event_class),
    }


def receive_options() -> dict[str, Any]:
    """Return the options of the route that receives webhooks."""
    return {
        "summary": "Receive a Hub webhook",
        "description": "Receives a delivery of the Hub and runs the matching handlers.",
        "status_code": 202,
        "response_model": WebhookResponse,
        "response_description": "Accepted, or stored as malformed.",
        "responses": {
            200: {"model": WebhookResponse, "description": "No handler runs."},
            **_error_responses(WebhookResponse),
        },
        "openapi_extra": _request_body(HubEvent),
        "dependencies": [Depends(SECRET_SCHEME)],
    }


def _error_responses(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": model, "description": description}
        for status, description in _ERRORS.items()
    }


def _request_body(event_class: type[HubEvent]) -> dict[str, Any]:
    """Describe the request body in OpenAPI, with a sample of each kind of event."""
    content = {
        "schema": TypeAdapter(event_class).json_schema(),
        "examples": {
            name: {"summary": _summarize(payload), "value": payload}
            for name, payload, found in _samples()
            if issubclass(found, event_class)
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _summarize(payload: dict[str, Any]) -> str:
    """Return the text that Swagger UI shows in its list of examples."""
    return f"{' '.join(scope_and_action(payload))}: {describe(payload)}"


@cache
def _samples() -> list[tuple[str, dict[str, Any], type[HubEvent]]]:
    """Read one sample of each kind of event: the one with the shortest name.

    A kind is a scope with an action. A push to a bucket, which has files, is one more.
    """
    found: dict[tuple[str, str, bool], tuple[str, dict[str, Any], type[HubEvent]]] = {}
    for name in sorted(sample_names(), key=len):
        payload = sample_json(name)
        event = HubEvent.from_dict(payload)
        kind = (event.scope, event.action, "updatedFiles" in payload)
        found.setdefault(kind, (name, payload, type(event)))
    return sorted(found.values(), key=lambda sample: sample[0])
