"""Handlers and hooks: functions with their filters and options, checked at registration."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from hubhooks._annotations import event_annotation, takes_any_of
from hubhooks._core import (
    ACTIONS,
    SCOPES,
    DiscussionEvent,
    Filter,
    HubEvent,
    narrow,
    nearest_scope,
)
from hubhooks._functions import check_ran, is_async, layers, signature_of, wraps_async, yields
from hubhooks._logging import get_logger, is_interrupt
from hubhooks._suggestions import suggestion
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "CRITERIA", "USER_ID_HINT", "Handler", "Hook", "HookName", "Policy", "RegistrationSite", "Rule",
    "WhenResults", "is_same_function", "make_handler", "make_hook", "merge", "tuple_of",
    "warn_if_login",
]  # fmt: skip

HookName: TypeAlias = Literal["unhandled", "error", "failure"]

_logger = get_logger()

# The beginning of the core's explanation if a filter does not match.
_DOES_NOT_MATCH = "does not match: "
USER_ID_HINT = (
    'the id of a user has 24 hexadecimal digits; yours is `huggingface_hub.whoami()["id"]`'
)
CRITERIA = (
    "action", "repo_type", "repo", "owner", "ref", "path", "pull_request", "status", "mention",
    "author", "private", "when", "name", "retries", "backoff", "timeout", "concurrency",
    "serial", "debounce",
)  # fmt: skip
# Common wrong names, with the right name. A value with a space is the hint itself.
_CRITERIA_BY_OTHER_NAMES = {
    "attempts": "retries",
    "branch": "ref",
    "condition": "when",
    "cooldown": "debounce",
    "delay": "backoff",
    "event": 'scopes are positional arguments: `@hooks.on("repo.content")`',
    "file": "path",
    "is_pull_request": "pull_request",
    "max_retries": "retries",
    "namespace": "owner",
    "organization": "owner",
    "ordered": "serial",
    "pr": "pull_request",
    "predicate": "when",
    "repo_id": "repo",
    "repository": "repo",
    "scope": 'scopes are positional arguments: `@hooks.on("repo.content")`',
    "tag": "ref",
    "throttle": "debounce",
    "type": "repo_type",
    "user": "author",
    "workers": "concurrency",
}
_is_id = re.compile("[0-9a-f]{24}").fullmatch


class Rule(NamedTuple):
    """The filter of one decorator. A handler with several decorators has several rules."""

    filter: Filter
    when: Callable[[Any], object] | None
    visible_only: bool

    def hides(self, event: HubEvent) -> bool:
        """True if the comment is hidden and the rule is for visible ones."""
        return self.visible_only and event.comment is not None and event.comment.hidden

    def mismatch_reason(self, event: HubEvent, handler: str, whens: WhenResults) -> str:
        """Explain why the event does not match; empty if it matches."""
        if not self.filter.matches(event):
            return self.filter.explain(event).removeprefix(_DOES_NOT_MATCH)
        return self.other_mismatch_reason(event, handler, whens)

    def other_mismatch_reason(self, event: HubEvent, handler: str, whens: WhenResults) -> str:
        """Explain a mismatch by a hidden comment or by `when`; empty if both allow the event."""
        if self.hides(event):
            return "the comment is hidden"
        return "" if self.when is None else whens.mismatch_reason(self.when, event, handler)


class WhenResults:
    """The results of `when` functions for one event. Each is called once per handler.

    Args:
        is_logged: log a `when` that raises.
    """

    __slots__ = ("_is_logged", "_reasons")

    def __init__(self, *, is_logged: bool) -> None:
        self._is_logged = is_logged
        self._reasons: dict[tuple[str, int], str] = {}

    def mismatch_reason(self, when: Callable[[Any], object], event: HubEvent, handler: str) -> str:
        """Explain why a `when` rejects the event; empty if it accepts."""
        key = (handler, id(when))
        known = self._reasons.get(key)
        if known is None:
            self._reasons[key] = known = self._call(when, event, handler)
        return known

    def _call(self, when: Callable[[Any], object], event: HubEvent, handler: str) -> str:
        try:
            result = when(event)
            check_ran(result)
            is_match = bool(result)
        except BaseException as error:
            # The function is user code, so it may raise `SystemExit` too.
            if is_interrupt(error):
                raise
            if self._is_logged:
                _logger.exception(
                    "`when` of handler `%s` failed: the event does not match", handler
                )
            return f"its `when` raised {type(error).__name__}"
        return "" if is_match else "its `when` returned false"


class RegistrationSite:
    """The source of a function, and the execution that registered it.

    It distinguishes two functions of one name (an error) from a script that is executed again, as
    Gradio's reload does (a replacement).
    """

    __slots__ = ("execution", "module", "place")

    def __init__(self, module: str, place: str, execution: object) -> None:
        self.module = module
        self.place = place
        # Neither the line nor the code object of the function is enough. An edit moves functions
        # to other lines, and one loop makes several functions of one code object.
        # Limits: a function deleted from an edited script stays registered. `exec` of one code
        # object twice looks like two functions of one name.
        self.execution = execution

    @classmethod
    def of(cls, function: Callable[..., object]) -> RegistrationSite:
        """Describe a function that is being registered.

        Its execution is the outermost code object that runs in the function's globals: the body of
        a module, or a cell of a notebook. If no code of its module runs, it is the function's own
        code object.
        """
        *_, plain = layers(function, through_decorators=True)
        code = getattr(plain, "__code__", None)
        if not isinstance(getattr(code, "co_filename", None), str):  # as of a mock
            code = None
        function_globals = getattr(plain, "__globals__", None)
        execution: object = code
        frame = inspect.currentframe()
        while frame is not None:
            if frame.f_globals is function_globals:
                execution = frame.f_code
            frame = frame.f_back
        place = f"{code.co_filename}:{code.co_firstlineno}" if code else "compiled code"
        module = getattr(plain, "__module__", None)
        return cls(module if isinstance(module, str) else "", place, execution)

    def is_executed_again_by(self, newer: RegistrationSite) -> bool:
        """True if another execution of the same module registered the newer function."""
        return self.module == newer.module and self.execution is not newer.execution


class Policy:
    """The options that decide how a handler runs."""

    __slots__ = ("backoff", "concurrency", "debounce", "retries", "serial", "timeout")

    def __init__(  # noqa: PLR0913, PLR0917 - one parameter per option
        self,
        retries: int = 0,
        backoff: float | Callable[[int], float] = 10.0,
        timeout: float | None = None,
        concurrency: int | None = None,
        serial: Literal["repo"] | None = None,
        debounce: float | None = None,
    ) -> None:
        self.retries = retries
        self.backoff = backoff
        self.timeout = timeout
        self.concurrency = concurrency
        self.serial = serial
        self.debounce = debounce

    @property
    def is_grouped(self) -> bool:
        """True if runs wait for each other, or replace each other."""
        return self.serial is not None or self.debounce is not None

    @classmethod
    def of(cls, options: Mapping[str, Any], handler: str) -> Policy:
        """Check the options of a decorator.

        Raises:
            ConfigError: an option has an impossible value.
        """
        for name, value in options.items():
            right = _wrong_option(name, value)
            if right:
                msg = f"`{name}={value!r}` of handler `{handler}` is not possible; write {right}"
                raise ConfigError(msg)
        return cls(**options)


class Handler:
    """A registered function. Stored runs find it by its name."""

    __slots__ = (
        "function",
        "is_async",
        "name",
        "options",
        "policy",
        "rules",
        "site",
        "takes_context",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        rules: tuple[Rule, ...],
        options: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.function = function
        self.rules = rules
        self.is_async = is_async(function)
        self.takes_context = _check_handler(function, name, rules)
        self.site = RegistrationSite.of(function)
        self.options = options
        self.policy = Policy.of(options, name)

    def __repr__(self) -> str:
        return f"<Handler `{self.name}`: {self.function!r}>"

    def explain(self, event: HubEvent, whens: WhenResults | None = None) -> str:
        """Explain in a sentence why the handler matches the event, or why not.

        Args:
            event: the event.
            whens: the results of `when` functions that were called before.
        """
        whens = whens or WhenResults(is_logged=False)
        reasons: list[str] = []
        for rule in self.rules:
            mismatch_reason = rule.mismatch_reason(event, self.name, whens)
            if not mismatch_reason:
                return f"`{self.name}` {rule.filter.explain(event)}"
            if mismatch_reason not in reasons:
                reasons.append(mismatch_reason)
        text = "; by another decorator: ".join(reasons)
        return f"`{self.name}` {_DOES_NOT_MATCH}{text}"


class Hook:
    """A function of `on_unhandled`, `on_error` or `on_failure`."""

    __slots__ = ("function", "is_async", "name", "site")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        self.is_async = is_async(function)
        self.site = RegistrationSite.of(function)


def make_handler(
    function: Callable[..., object],
    scopes: tuple[str | type[HubEvent], ...],
    criteria: Mapping[str, object],
    *,
    visible_only: bool = False,
) -> Handler:
    """Make a handler from the arguments of one decorator.

    Raises:
        ConfigError: no event can match, or the function cannot be a handler.
    """
    _check_criteria(criteria)
    filters: dict[str, Any] = dict(criteria)
    options = {option: filters.pop(option) for option in Policy.__slots__ if option in filters}
    when = filters.pop("when", None)
    name = filters.pop("name", None)
    if name is not None and not (isinstance(name, str) and name and name.isprintable()):
        msg = f"`name={name!r}` is not a name of a handler; write a printable string"
        raise ConfigError(msg)
    name = name or _own_name(function)
    if not callable(function):
        msg = f"a handler must be a function, not {type(function).__name__}"
        raise ConfigError(msg)
    if name is None:
        msg = f"a {type(function).__name__} has no name: give it one with `name=`"
        raise ConfigError(msg)
    if when is not None and not _is_plain(when):
        msg = (
            f"`when` of handler `{name}` must be a plain function of the event, not async and "
            "without `yield`"
        )
        raise ConfigError(msg)
    event_filter = _filter_with_warnings(scopes, filters)
    return Handler(name, function, (Rule(event_filter, when, visible_only),), options)


def make_hook(function: Callable[..., object], hook_name: HookName) -> Hook:
    """Make a hook.

    Raises:
        ConfigError: the function cannot be called as this hook.
    """
    if not callable(function):
        msg = f"an `on_{hook_name}` hook must be a function, not {type(function).__name__}"
        raise ConfigError(msg)
    # A callable object without a name uses its class's: hooks are not looked up by name.
    name = _own_name(function) or type(function).__qualname__
    _check_hook(function, hook_name, name)
    return Hook(name, function)


def merge(known: Handler, again: Handler) -> Handler:
    """Merge the rules and options of several decorators of one function.

    Raises:
        ConfigError: an option has two values.
    """
    for option, value in again.options.items():
        if option in known.options and known.options[option] != value:
            msg = (
                f"handler `{known.name}` has `{option}={known.options[option]!r}` and "
                f"`{option}={value!r}`: write the option in only one of its decorators"
            )
            raise ConfigError(msg)
    new_rules = (rule for rule in again.rules if rule not in known.rules)
    rules = (*known.rules, *new_rules)
    merged = Handler(known.name, known.function, rules, {**known.options, **again.options})
    merged.site = known.site
    return merged


def is_same_function(function: Callable[..., object], other: Callable[..., object]) -> bool:
    """True if both are one function; `bot.reply` is a new object at each access."""
    return function is other or (isinstance(function, MethodType) and function == other)


def _filter_with_warnings(
    scopes: tuple[str | type[HubEvent], ...], criteria: dict[str, Any]
) -> Filter:
    """Make a filter, and warn about values that the Hub does not document."""
    for scope in scopes:
        if isinstance(scope, str):
            _warn_if_misspelt(scope)
    authors = criteria.get("author")
    if authors is not None:
        criteria["author"] = authors = tuple_of(authors)
    event_filter = Filter(*scopes, **criteria)
    for warning in event_filter.value_warnings():
        _warn(warning)
    for user in authors or ():
        warn_if_login(user, "author")
    return event_filter


def _wrong_option(name: str, value: Any) -> str:  # noqa: ANN401 - the user wrote it
    """Describe the valid values of an option; empty if the given value is valid."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_time = is_number and 0 <= value < math.inf
    if name == "retries":
        right = "a whole number, 0 for no retry"
        return "" if is_time and isinstance(value, int) else right
    if name == "backoff":
        right = "seconds, or a plain function that returns them"
        return "" if is_time or _is_plain(value) else right
    is_none = value is None
    if name in {"timeout", "debounce"}:
        return "" if is_none or (is_time and value > 0) else "a number of seconds greater than 0"
    if name == "serial":
        return "" if is_none or value == "repo" else '"repo"'
    is_count = is_time and isinstance(value, int) and value > 0
    return "" if is_none or is_count else "a whole number from 1"


def tuple_of(strings: str | Iterable[str]) -> tuple[str, ...]:
    """Make a tuple of one string or of several."""
    return (strings,) if isinstance(strings, str) else tuple(strings)


def _own_name(function: object) -> str | None:
    name = getattr(function, "__qualname__", None)
    # The name of a mock may be a mock.
    return name if isinstance(name, str) else None


def _is_plain(function: object) -> bool:
    """True for a plain function: not async, and not a generator."""
    return callable(function) and not wraps_async(function) and not yields(function)


def _check_handler(function: Callable[..., object], name: str, rules: Iterable[Rule]) -> bool:
    """Check that the function can be called as a handler.

    Returns:
        True if it takes the context too.
    """
    what = f"handler `{name}`"
    right = "write `def handler(event)` or `def handler(event, context)`"
    signature = _signature(function, what, right)
    positional = [p for p in signature.parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD]
    # A second parameter with a default belongs to the user, unless its name is `context`.
    takes_context = len(positional) > 1 and (
        positional[1].default is inspect.Parameter.empty or positional[1].name == "context"
    )
    _check_call(signature, 1 + takes_context, what, right, "add")
    for rule in rules:
        _check_annotation(function, rule.filter, what, signature)
        if rule.when is not None:
            _check_annotation(rule.when, rule.filter, f"the `when` of {what}")
    return takes_context


def _check_annotation(
    function: Callable[..., object],
    event_filter: Filter,
    what: str,
    signature: inspect.Signature | None = None,
) -> None:
    """Check that every scope or class of the filter can give the annotated event class.

    Raises:
        ConfigError: a scope or a class of the filter never gives an event of that class.
    """
    found = event_annotation(function, signature)
    if found is None:
        return
    parameter, annotated = found
    for scope_or_class, classes in event_filter.event_classes():
        if not classes or takes_any_of(annotated, classes):
            continue
        names = " | ".join(event_class.__name__ for event_class in annotated)
        gives = " or ".join(f"`{event_class.__name__}`" for event_class in classes)
        right = _common_class(classes).__name__
        if right == HubEvent.__name__:
            gives = f"any `{right}`"
        # For a class of the filter, `gives` already names it, so the message does not repeat it.
        is_scope = scope_or_class.startswith("`")
        source = f"{scope_or_class} gives" if is_scope else "it gets"
        msg = (
            f"{what} takes `{parameter}: {names}`, but {source} {gives}; write "
            f"`{parameter}: {right}`"
        )
        raise ConfigError(msg)


def _common_class(classes: Sequence[type[HubEvent]]) -> type[HubEvent]:
    """Return the narrowest common base class."""
    for common in (*classes, DiscussionEvent):
        if all(issubclass(event_class, common) for event_class in classes):
            return common
    return HubEvent


def _check_hook(function: Callable[..., object], hook_name: HookName, name: str) -> None:
    """Check that the function can be called as a hook."""
    what = f"`on_{hook_name}` hook `{name}`"
    parameters = ("event",) if hook_name == "unhandled" else ("event", "context", "error")
    right = f"write `def hook({', '.join(parameters)})`"
    signature = _signature(function, what, right)
    _check_call(signature, len(parameters), what, right, f"on_{hook_name}")
    _check_annotation(function, Filter(), what, signature)


def _signature(function: Callable[..., object], what: str, right: str) -> inspect.Signature:
    if yields(function):
        msg = f"{what} would never run, because it contains `yield`; {right} without `yield`"
        raise ConfigError(msg)
    try:
        return signature_of(function)
    except Exception:  # noqa: BLE001 - annotations and `__signature__` are the user's code
        msg = f"the parameters of {what} cannot be read; {right}"
        raise ConfigError(msg) from None


def _check_call(
    signature: inspect.Signature, count: int, what: str, right: str, register: str
) -> None:
    """Check that a function can be called with `count` arguments."""
    first = next(iter(signature.parameters.values()), None)
    if first is not None and first.name in ("self", "cls"):
        msg = f"{what} is a method without its object; register it with `{register}(bot.method)`"
        raise ConfigError(msg)
    names = list(signature.parameters)[:count]
    if "event" in names[1:] or (count > 1 and names[:1] in (["context"], ["error"])):
        msg = f"{what} takes `({', '.join(names)})` in the wrong order; {right}"
        raise ConfigError(msg)
    try:
        signature.bind(*(None,) * count)
    except TypeError:
        # Names only: a default value may be a secret.
        has = ", ".join(signature.parameters)
        msg = f"{what} has the wrong parameters `({has})`; {right}"
        raise ConfigError(msg) from None


def _warn_if_misspelt(scope: str) -> None:
    stem = scope.removesuffix(".*")
    base = narrow(stem, "update")[0]
    parent, _, last = stem.rpartition(".")
    if parent in SCOPES and last in ACTIONS:
        hint = f'write the scope `{parent}` with `action="{last}"`'
    else:
        nearest = nearest_scope(stem.lower())
        # The Hub may add a scope below a documented one at any time.
        if base in SCOPES and (stem == base or nearest in (None, base)):
            return
        hint = f"did you mean `{nearest}`?" if nearest else f"it documents {', '.join(SCOPES)}"
    _warn(f"the Hub documents no scope `{scope}`; {hint}")


def _check_criteria(names: Iterable[str]) -> None:
    for name in names:
        if name not in CRITERIA:
            default = f"there are {', '.join(CRITERIA)}"
            hint = suggestion(name, CRITERIA, _CRITERIA_BY_OTHER_NAMES, default)
            msg = f"`{name}=` is not a filter or an option; {hint}"
            raise ConfigError(msg)


def warn_if_login(user: str, where: str) -> None:
    """Warn if a user is not an id.

    Args:
        user: the user.
        where: the name of the filter or the setting.
    """
    if not _is_id(user):
        what = f"`{user}` in `{where}=` is not the id of a user, but perhaps a username"
        _warn(f"{what}; {USER_ID_HINT}")


def _warn(message: str) -> None:
    """Warn at the line of the user's code that called this package."""
    level = 1
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level)
