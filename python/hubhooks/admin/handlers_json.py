"""The handlers of an app as JSON, and which of them match a body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubhooks._core import HubEvent
from hubhooks._functions import layers
from hubhooks._logging import text_of
from hubhooks.handlers import WhenResults
from hubhooks.models import shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from hubhooks.handlers import Handler, Policy, Rule
    from hubhooks.routing import Router

__all__ = ["explain_json", "handlers_json"]


def handlers_json(router: Router) -> list[dict[str, Any]]:
    """Give the handlers of a router as JSON, in the order of registration. This runs none."""
    return [_handler_json(handler) for handler in router.handlers]


def _handler_json(handler: Handler) -> dict[str, Any]:
    file, line = _source_of(handler.function)
    return {
        "name": handler.name,
        "file": file,
        "line": line,
        "is_async": handler.is_async,
        "filters": [_filter_text(rule) for rule in handler.rules],
        "criteria": [_criteria_json(rule) for rule in handler.rules],
        "policy": _policy_json(handler.policy),
    }


def _source_of(function: Callable[..., object]) -> tuple[str | None, int | None]:
    """Return the file and the line of a function; None for a compiled one."""
    # Decorators of the user wrap the function that they want to see.
    *_, plain = layers(function, through_decorators=True)
    code = getattr(plain, "__code__", None)
    file = getattr(code, "co_filename", None)
    line = getattr(code, "co_firstlineno", None)
    if not isinstance(file, str) or not isinstance(line, int):  # as of a mock
        return None, None
    return file, line


def _filter_text(rule: Rule) -> str:
    text = repr(rule.filter).removeprefix("Filter(").removesuffix(")")
    parts = [text] if text else []
    if rule.visible_only:
        parts.append("visible comments only")
    if rule.when is not None:
        parts.append(f"when={_name_of(rule.when)}")
    return ", ".join(parts) or "every event"


def _criteria_json(rule: Rule) -> dict[str, Any]:
    scopes = [scope if isinstance(scope, str) else scope.__name__ for scope in rule.filter.scopes]
    criteria: dict[str, Any] = {"scopes": scopes, **rule.filter.criteria}
    if rule.when is not None:
        criteria["when"] = _name_of(rule.when)
    return criteria


def _policy_json(policy: Policy) -> dict[str, Any]:
    backoff = policy.backoff
    return {
        "retries": policy.retries,
        "backoff": _name_of(backoff) if callable(backoff) else backoff,
        "timeout": policy.timeout,
        "concurrency": policy.concurrency,
        "serial": policy.serial,
        "debounce": policy.debounce,
    }


def _name_of(function: object) -> str:
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else shorten(text_of(type(function).__qualname__))


def explain_json(router: Router, body: bytes) -> dict[str, Any]:
    """Explain which handlers match a body, as JSON. Of the app's code, this runs only `when=`.

    Raises:
        PayloadError: the body is not an event.
    """
    event = HubEvent.from_json(body)
    ignored = router.ignored_reason(event)
    whens = WhenResults(is_logged=False)
    return {
        "event": f"{shorten(event.scope)} {shorten(event.action)}",
        "handlers": [
            _match_json(handler, event, whens, ignored=ignored) for handler in router.handlers
        ],
        "ignored": ignored,
    }


def _match_json(
    handler: Handler, event: HubEvent, whens: WhenResults, *, ignored: str
) -> dict[str, Any]:
    if ignored:
        text = f"`{handler.name}` does not match: {ignored}"
        return {"name": handler.name, "matches": False, "text": text}
    text = handler.explain(event, whens)
    # The calls of `when` are not repeated.
    matches = any(not rule.mismatch_reason(event, handler.name, whens) for rule in handler.rules)
    return {"name": handler.name, "matches": matches, "text": text}
