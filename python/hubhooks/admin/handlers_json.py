"""The handlers of an app as JSON, and which of them match a body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hubhooks._core import CommentEvent, Filter, HubEvent
from hubhooks._functions import layers
from hubhooks._logging import text_of
from hubhooks.handlers import WhenResults
from hubhooks.models import shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from hubhooks.handlers import Handler, Policy, Rule
    from hubhooks.routing import Router

__all__ = ["explain_json", "filter_text", "function_name", "handler_json", "handlers_json"]


def handlers_json(router: Router) -> list[dict[str, Any]]:
    """Give the handlers of a router as JSON, in the order of registration. This runs none."""
    return [handler_json(handler) for handler in router.handlers]


def handler_json(handler: Handler) -> dict[str, Any]:
    """Give a handler as JSON: filters as text and as data, options, file and line."""
    file, line = _source_of(handler.function)
    return {
        "name": handler.name,
        "file": file,
        "line": line,
        "is_async": handler.is_async,
        "filters": [filter_text(rule) for rule in handler.rules],
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


def filter_text(rule: Rule) -> str:
    """Describe the filters of one decorator in one line."""
    criteria = dict(rule.filter.criteria)
    scopes = [each if isinstance(each, str) else each.__name__ for each in rule.filter.scopes]
    if rule.visible_only and rule.filter.scopes == (CommentEvent,):
        # `on_comment` makes these criteria.
        scopes = ["new comment"]
        criteria.pop("action", None)
    parts = [" or ".join(scopes) or "every event"]
    for name, value in criteria.items():
        words = str(value).lower() if isinstance(value, bool) else " or ".join(value)
        parts.append(f"{name} {words}")
    if rule.when is not None:
        parts.append(f"when {function_name(rule.when)}")
    return ", ".join(parts)


def _criteria_json(rule: Rule) -> dict[str, Any]:
    scopes = [scope if isinstance(scope, str) else scope.__name__ for scope in rule.filter.scopes]
    criteria: dict[str, Any] = {"scopes": scopes, **rule.filter.criteria}
    if rule.when is not None:
        criteria["when"] = function_name(rule.when)
    return criteria


def _policy_json(policy: Policy) -> dict[str, Any]:
    backoff = policy.backoff
    return {
        "retries": policy.retries,
        "backoff": function_name(backoff) if callable(backoff) else backoff,
        "timeout": policy.timeout,
        "concurrency": policy.concurrency,
        "serial": policy.serial,
        "debounce": policy.debounce,
    }


def function_name(function: object) -> str:
    """Return the name of a function of the user."""
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
        "note": router.author_note(event),
    }


def _match_json(
    handler: Handler, event: HubEvent, whens: WhenResults, *, ignored: str
) -> dict[str, Any]:
    if ignored:
        text = f"`{handler.name}` does not match: {ignored}"
        return {"name": handler.name, "matches": False, "text": text, "failing": ["ignored"]}
    text = handler.explain(event, whens)
    # The calls of `when` are not repeated.
    failing = [_failing_criteria(rule, event, handler.name, whens) for rule in handler.rules]
    # A decorator of another scope is the farthest.
    nearest = min(failing, key=lambda names: ("scope" in names, len(names)))
    return {"name": handler.name, "matches": not nearest, "text": text, "failing": nearest}


def _failing_criteria(rule: Rule, event: HubEvent, handler: str, whens: WhenResults) -> list[str]:
    """List the criteria of a decorator that an event does not meet; none if it matches."""
    if rule.filter.matches(event):
        return ["when"] if rule.other_mismatch_reason(event, handler, whens) else []
    scopes = rule.filter.scopes
    criteria: dict[str, Any] = dict(rule.filter.criteria)
    failing: list[str] = []
    if scopes and not Filter(*scopes).matches(event):
        # Without the scope, the other criteria can be met.
        failing, scopes = ["scope"], ()
    failing += [
        name
        for name, value in criteria.items()
        if not Filter(*scopes, **{name: value}).matches(event)
    ]
    return failing
