"""`Router`: registers handlers, and finds those that match an event. It knows no HTTP."""

from __future__ import annotations

import functools
import inspect
import math
import re
import threading
import warnings
from types import MethodType
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from hubhooks._annotations import event_annotation, takes_any_of
from hubhooks._core import (
    ACTIONS,
    SCOPES,
    CommentEvent,
    DiscussionEvent,
    Filter,
    HubEvent,
    match_filters,
    narrow,
    nearest_scope,
)
from hubhooks._functions import check_ran, is_async, layers, signature_of, wraps_async, yields
from hubhooks._logging import get_logger, is_interrupt
from hubhooks._suggestions import suggestion
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence
    from typing import Generic, Literal, TypeAlias, TypedDict, TypeVar

    from typing_extensions import Never, Unpack

    from hubhooks._core import ConfigEvent, ContentEvent, RepoEvent
    from hubhooks._values import Action, RepoType, Status
    from hubhooks.models import RunContext

    E = TypeVar("E", bound=HubEvent)
    Handles: TypeAlias = Callable[[E], object] | Callable[[E, RunContext], object]
    Strings: TypeAlias = str | Iterable[str]
    # Editors complete the documented values; any other string is allowed too.
    Actions: TypeAlias = Action | str | Iterable[Action | str]
    RepoTypes: TypeAlias = RepoType | str | Iterable[RepoType | str]
    Statuses: TypeAlias = Status | str | Iterable[Status | str]

    class CommentCriteria(TypedDict, Generic[E], total=False):
        """The filters and options of `on_comment`. Comments have no `ref` and no `path`."""

        repo_type: RepoTypes
        repo: Strings
        owner: Strings
        pull_request: bool
        status: Statuses
        mention: Strings
        author: Strings
        private: bool
        when: Callable[[E], object]
        name: str
        retries: int
        backoff: float | Callable[[int], float]
        timeout: float | None
        concurrency: int | None

    class Criteria(CommentCriteria[E], total=False):
        """The filters and options of `on` and `add`."""

        action: Actions
        ref: Strings
        path: Strings

    # A documented scope or a class decides the class of the event. One TypeVar per class, because
    # the bound of a TypeVar cannot name another one. The return type keeps the handler's own type.
    Comments: TypeAlias = Literal["discussion.comment"] | type[CommentEvent]
    Discussions: TypeAlias = Comments | Literal["discussion"] | type[DiscussionEvent]
    Contents: TypeAlias = Literal["repo.content"] | type[ContentEvent]
    Configs: TypeAlias = Literal["repo.config"] | type[ConfigEvent]
    Repos: TypeAlias = Literal["repo"] | type[RepoEvent]
    OnComment = TypeVar("OnComment", bound=Handles[CommentEvent])
    OnDiscussion = TypeVar("OnDiscussion", bound=Handles[DiscussionEvent])
    OnContent = TypeVar("OnContent", bound=Handles[ContentEvent])
    OnConfig = TypeVar("OnConfig", bound=Handles[ConfigEvent])
    OnRepo = TypeVar("OnRepo", bound=Handles[RepoEvent])
    OnAny = TypeVar("OnAny", bound=Handles[HubEvent])

    HookName: TypeAlias = Literal["unhandled", "error", "failure"]
    OnUnhandled = TypeVar("OnUnhandled", bound=Callable[[HubEvent], object])
    OnError = TypeVar("OnError", bound=Callable[[HubEvent, RunContext, BaseException], object])

__all__ = [
    "ATTRIBUTES_OF_FASTAPI_ROUTERS", "Handler", "Hook", "Match", "NotAnApiRouterError", "Router",
    "Rule",
]  # fmt: skip

_log = get_logger()

# The beginning of the core's explanation if a filter does not match.
_DOES_NOT_MATCH = "does not match: "
_IDS = 'the id of a user has 24 hexadecimal digits; yours is `huggingface_hub.whoami()["id"]`'
_CRITERIA = (
    "action", "repo_type", "repo", "owner", "ref", "path", "pull_request", "status", "mention",
    "author", "private", "when", "name", "retries", "backoff", "timeout", "concurrency",
)  # fmt: skip
# Common wrong names, with the right one; a value with a space is the hint itself.
_CRITERIA_BY_OTHER_NAMES = {
    "attempts": "retries",
    "branch": "ref",
    "condition": "when",
    "delay": "backoff",
    "event": 'scopes are positional arguments: `@hooks.on("repo.content")`',
    "file": "path",
    "is_pull_request": "pull_request",
    "max_retries": "retries",
    "namespace": "owner",
    "organization": "owner",
    "pr": "pull_request",
    "predicate": "when",
    "repo_id": "repo",
    "repository": "repo",
    "scope": 'scopes are positional arguments: `@hooks.on("repo.content")`',
    "tag": "ref",
    "type": "repo_type",
    "user": "author",
    "workers": "concurrency",
}
# The first attribute that FastAPI's `include_router` reads from its argument, by version.
ATTRIBUTES_OF_FASTAPI_ROUTERS = ("_contains_router", "routes")
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
        """Explain why the event does not match although the filter does; empty if it matches."""
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
                _log.exception("`when` of handler `%s` failed: the event does not match", handler)
            return f"its `when` raised {type(error).__name__}"
        return "" if is_match else "its `when` returned false"


class Origin:
    """The place of a function in the source, and the execution of that source."""

    __slots__ = ("execution", "module", "place")

    def __init__(self, module: str, place: str, execution: object) -> None:
        self.module = module
        self.place = place
        # The outermost code object that ran in the function's globals at registration: a module's
        # body or a notebook's cell. It distinguishes two functions of one name made by a loop (an
        # error) from a script that is executed again, as Gradio's reload does (a replacement).
        # A function registered while no code of its module runs uses its own code object. Limits:
        # a function deleted from an edited script stays registered, and `exec` of one code object
        # twice looks like two functions of one name.
        self.execution = execution

    @classmethod
    def of(cls, function: Callable[..., object]) -> Origin:
        *_, plain = layers(function, through_decorators=True)
        code = getattr(plain, "__code__", None)
        if not isinstance(getattr(code, "co_filename", None), str):  # as of a mock
            code = None
        home = getattr(plain, "__globals__", None)
        execution: object = code
        frame = inspect.currentframe()
        while frame is not None:
            if frame.f_globals is home:
                execution = frame.f_code
            frame = frame.f_back
        place = f"{code.co_filename}:{code.co_firstlineno}" if code else "compiled code"
        module = getattr(plain, "__module__", None)
        return cls(module if isinstance(module, str) else "", place, execution)

    def is_executed_again_by(self, newer: Origin) -> bool:
        return self.module == newer.module and self.execution is not newer.execution


class Policy:
    """The options that decide how a handler runs."""

    __slots__ = ("backoff", "concurrency", "retries", "timeout")

    def __init__(
        self,
        retries: int = 0,
        backoff: float | Callable[[int], float] = 10.0,
        timeout: float | None = None,
        concurrency: int | None = None,
    ) -> None:
        self.retries = retries
        self.backoff = backoff
        self.timeout = timeout
        self.concurrency = concurrency

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
        "origin",
        "policy",
        "rules",
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
        self.origin = Origin.of(function)
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

    __slots__ = ("function", "is_async", "name", "origin")

    def __init__(self, name: str, function: Callable[..., Any], origin: Origin) -> None:
        self.name = name
        self.function = function
        self.is_async = is_async(function)
        self.origin = origin


class _FilterTable:
    """All filters in one list, so that Rust matches them in one call."""

    __slots__ = ("filters", "handlers", "rules")

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self.handlers = tuple(handlers)
        self.rules = [(handler, rule) for handler in self.handlers for rule in handler.rules]
        self.filters = [rule.filter for _, rule in self.rules]


class Match:
    """The handlers that match an event, and the reasons of the others.

    A later explanation calls no `when` again. The object does not keep the event.
    """

    __slots__ = ("_explain", "handlers", "ignored")

    def __init__(
        self,
        handlers: list[Handler],
        ignored: str,
        explain: Callable[[HubEvent], Iterator[str]],
    ) -> None:
        self.handlers = handlers
        """In the order of registration."""
        self.ignored = ignored
        """Why the event is ignored; empty if it is not."""
        self._explain = explain

    def explain(self, event: HubEvent) -> list[str]:
        """Explain for each handler why it matches, or why not."""
        return list(self._explain(event))

    def explanations(self, event: HubEvent) -> Iterator[str]:
        """Explain one handler at a time, lazily."""
        return self._explain(event)


class NotAnApiRouterError(ConfigError, AttributeError):
    """A router of this package was given to FastAPI, which accepts only its own routers.

    It is an `AttributeError` too, because other code may only test for the attribute.
    """


class Router:
    """A collection of handlers with their filters.

    Use it to split an app into modules: `hooks.include_router(router)`. `Webhooks` is a `Router`.

    Args:
        ignore_authors: ids of users whose comments and new discussions no handler matches, such
            as the bot's own id: `huggingface_hub.whoami()["id"]`. Other events have no author.
        unknown: none; any other name raises `ConfigError` with the right name.

    Raises:
        ConfigError: an id is empty or not a string; or there is no such setting.
    """

    _fastapi_hint = (
        "FastAPI's `include_router` takes no `hubhooks.Router`: collect the handlers with "
        "`hooks = Webhooks()` and `hooks.include_router(router)`, and write "
        "`app.include_router(hooks.router())`"
    )

    def __init__(self, *, ignore_authors: Strings = (), **unknown: Never) -> None:
        for name in unknown:
            default = "a `Router` takes only `ignore_authors=`; other settings belong to `Webhooks`"
            msg = f"`{name}=` is not a setting of a `Router`; " + suggestion(
                name, ("ignore_authors",), {}, default
            )
            raise ConfigError(msg)
        if ignore_authors is None:  # pyright: ignore[reportUnnecessaryComparison]
            _check_ignored(ignore_authors)
        self._ignore_authors = frozenset(_listed(ignore_authors))
        for user in self._ignore_authors:
            _check_ignored(user)
        self._handlers: dict[str, Handler] = {}
        self._hooks: dict[HookName, tuple[Hook, ...]] = {}
        self._table: _FilterTable | None = None
        self._lock = threading.Lock()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Name the right call if FastAPI gets this object as a router."""
            if name in ATTRIBUTES_OF_FASTAPI_ROUTERS:
                raise NotAnApiRouterError(self._fastapi_hint)
            return object.__getattribute__(self, name)

    @overload
    def on(
        self, scope: Comments, /, *scopes: Comments, **criteria: Unpack[Criteria[CommentEvent]]
    ) -> Callable[[OnComment], OnComment]: ...
    @overload
    def on(
        self,
        scope: Discussions,
        /,
        *scopes: Discussions,
        **criteria: Unpack[Criteria[DiscussionEvent]],
    ) -> Callable[[OnDiscussion], OnDiscussion]: ...
    @overload
    def on(
        self, scope: Contents, /, *scopes: Contents, **criteria: Unpack[Criteria[ContentEvent]]
    ) -> Callable[[OnContent], OnContent]: ...
    @overload
    def on(
        self, scope: Configs, /, *scopes: Configs, **criteria: Unpack[Criteria[ConfigEvent]]
    ) -> Callable[[OnConfig], OnConfig]: ...
    @overload
    def on(
        self, scope: Repos, /, *scopes: Repos, **criteria: Unpack[Criteria[RepoEvent]]
    ) -> Callable[[OnRepo], OnRepo]: ...
    @overload
    def on(
        self, *scopes: str | type[HubEvent], **criteria: Unpack[Criteria[HubEvent]]
    ) -> Callable[[OnAny], OnAny]: ...
    def on(self, *scopes: str | type[HubEvent], **criteria: Any) -> Callable[[Any], Any]:
        """Register the decorated function as a handler. The function itself is unchanged.

        A handler takes `(event)` or `(event, context)`, and may be async. With several decorators
        it runs once on each event that one of them matches.

        Args:
            scopes: scopes or event classes. `"repo.*"` is `repo` and every scope below it. Without
                scopes the handler matches every event.
            criteria: filters and options, by name.

                Filters: `action`, `repo_type`, `repo`, `owner`, `ref`, `path`, `pull_request`,
                `status`, `mention`, `author`, `private`. All of them must match; of a list, one
                item must match. `repo`, `ref` and `path` take globs. `when` is a fast function of
                the event, called last.

                Options: `name` replaces the name of the function. `retries` is the number of
                retries after a failure. `backoff` is the number of seconds before the first
                retry, doubled before each further one, or a function that returns the seconds
                for a number of failures. `timeout` is the number of seconds that an attempt may
                take. `concurrency` is the number of deliveries handled at once.

        Raises:
            ConfigError: no event can match, the function cannot be a handler, or another function
                has the same name.
        """
        _check_no_function(scopes, "on")

        def register(function: Callable[..., object]) -> Callable[..., object]:
            self._add(function, scopes, criteria)
            return function

        return register

    def on_comment(
        self, *nothing: Never, **criteria: Unpack[CommentCriteria[CommentEvent]]
    ) -> Callable[[OnComment], OnComment]:
        """Register the decorated function for new, visible comments.

        It also matches the first post of a discussion or pull request, because the Hub sends that
        post only with the discussion (https://huggingface.co/docs/hub/webhooks).

        Args:
            nothing: none; comments have one scope.
            criteria: filters and options as for `on`, without `action`, `ref` and `path`.

        Raises:
            ConfigError: as for `on`.
        """
        _check_no_function(nothing, "on_comment")
        if nothing:
            msg = (
                "`on_comment` takes no scopes: it matches all new comments. For comments that "
                'mention an account, write `on_comment(mention="my-bot")`'
            )
            raise ConfigError(msg)
        if "action" in criteria:
            msg = (
                "`on_comment` takes no `action=`: it matches only new comments. For edits, write "
                '`@hooks.on("discussion.comment", action="update")`'
            )
            raise ConfigError(msg)

        def register(function: OnComment) -> OnComment:
            self._add(
                function, (CommentEvent,), {**criteria, "action": "create"}, visible_only=True
            )
            return function

        return register

    def add(
        self,
        function: Callable[..., object],
        *scopes: str | type[HubEvent],
        **criteria: Unpack[Criteria[Any]],
    ) -> None:
        """Register a function without a decorator, such as a method: `hooks.add(bot.reply)`.

        Args:
            function: the handler.
            scopes: as for `on`.
            criteria: as for `on`.
        """
        self._add(function, scopes, criteria)

    def on_unhandled(self, function: OnUnhandled, /) -> OnUnhandled:
        """Call the decorated function with each event that no handler matches.

        It is called after the response, and not for ignored authors.

        Args:
            function: takes `(event)`, and may be async. Its own errors are only logged.

        Raises:
            ConfigError: the function takes other parameters.
        """
        self._add_hook("unhandled", function)
        return function

    def on_error(self, function: OnError, /) -> OnError:
        """Call the decorated function after each failed attempt of a handler.

        `Ignore` is not a failure.

        Args:
            function: takes `(event, context, error)`, and may be async. Its own errors are only
                logged.

        Raises:
            ConfigError: the function takes other parameters.
        """
        self._add_hook("error", function)
        return function

    def on_failure(self, function: OnError, /) -> OnError:
        """Call the decorated function when a run failed and no retry is left.

        Args:
            function: takes `(event, context, error)`, and may be async. Its own errors are only
                logged.

        Raises:
            ConfigError: the function takes other parameters.
        """
        self._add_hook("failure", function)
        return function

    def include_router(self, other: Router) -> None:
        """Add the handlers and hooks of another router.

        Handlers that the other router gets later are not added.

        Args:
            other: the other router. Its handlers come after the present ones. Its
                `ignore_authors` apply to all handlers.

        Raises:
            ConfigError: `other` is not a router of this package, or two handlers have one name.
        """
        if not isinstance(other, Router):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = (
                "`include_router` takes a `hubhooks.Router` or `Webhooks`, not "
                f"{type(other).__name__}"
            )
            raise ConfigError(msg)
        for handler in tuple(other._handlers.values()):
            self._register(handler)
        for hook_name, hooks in tuple(other._hooks.items()):
            for hook in hooks:
                self._register_hook(hook_name, hook)
        self._ignore_authors |= other._ignore_authors

    def handler(self, name: str) -> Handler | None:
        """Return the handler with this name; None if there is none."""
        return self._handlers.get(name)

    @property
    def handler_names(self) -> KeysView[str]:
        """The names of all handlers, in the order of registration; a live view."""
        return self._handlers.keys()

    def hooks_for(self, hook_name: HookName) -> tuple[Hook, ...]:
        """Return the hooks of one kind, in the order of registration."""
        return self._hooks.get(hook_name, ())

    @property
    def has_unhandled_hook(self) -> bool:
        """True if there is an `on_unhandled` hook."""
        return "unhandled" in self._hooks

    def match(self, event: HubEvent) -> list[Handler]:
        """Return the handlers that match an event, in the order of registration."""
        return self.find_match(event).handlers

    def find_match(self, event: HubEvent) -> Match:
        """Match an event; each handler calls its `when` at most once."""
        whens = WhenResults(is_logged=True)
        table = self._table or self._build()
        matches: list[Handler] = []
        ignored = self.ignored_reason(event)
        for index in () if ignored else match_filters(event, table.filters):
            handler, rule = table.rules[index]
            if matches and matches[-1] is handler:
                continue
            if not rule.other_mismatch_reason(event, handler.name, whens):
                matches.append(handler)
        return Match(matches, ignored, functools.partial(self._explanations, table, whens))

    def explain(self, event: HubEvent) -> list[str]:
        """Explain for each handler why it matches an event, or why not: one sentence each."""
        table = self._table or self._build()
        return list(self._explanations(table, WhenResults(is_logged=False), event))

    def ignored_reason(self, event: HubEvent) -> str:
        """Return why `ignore_authors` ignores the event; empty if it does not."""
        if not self._ignore_authors:
            return ""
        author = _author_id(event)
        if author is None or author not in self._ignore_authors:
            return ""
        return f"its author `{author}` is in `ignore_authors`"

    def _explanations(
        self, table: _FilterTable, whens: WhenResults, event: HubEvent
    ) -> Iterator[str]:
        if ignored := self.ignored_reason(event):
            yield f"no handler matches: {ignored}"
            return
        if self._ignore_authors and _author_id(event) is None:
            yield "`ignore_authors` has no effect: the event does not name its author"
        if not table.handlers:
            yield "no handler is registered"
        for handler in table.handlers:
            yield handler.explain(event, whens)

    def _add(
        self,
        function: Callable[..., object],
        scopes: tuple[str | type[HubEvent], ...],
        criteria: Mapping[str, object],
        *,
        visible_only: bool = False,
    ) -> None:
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
        self._register(Handler(name, function, (Rule(event_filter, when, visible_only),), options))

    def _register(self, handler: Handler) -> None:
        with self._lock:
            known = self._handlers.get(handler.name)
            if known is not None and _is_same(known.function, handler.function):
                handler = _merge(known, handler)
            elif known is not None and not known.origin.is_executed_again_by(handler.origin):
                msg = (
                    f"two handlers are named `{handler.name}`: {known.origin.place} and "
                    f"{handler.origin.place}; give one of them another name with `name=`"
                )
                raise ConfigError(msg)
            self._handlers[handler.name] = handler
            self._table = None

    def _add_hook(self, hook_name: HookName, function: Callable[..., object]) -> None:
        if not callable(function):
            msg = f"an `on_{hook_name}` hook must be a function, not {type(function).__name__}"
            raise ConfigError(msg)
        # Nothing finds a hook by its name, so any name will do.
        name = _own_name(function) or type(function).__qualname__
        _check_hook(function, hook_name, name)
        self._register_hook(hook_name, Hook(name, function, Origin.of(function)))

    def _register_hook(self, hook_name: HookName, hook: Hook) -> None:
        with self._lock:
            kept = [
                known
                for known in self._hooks.get(hook_name, ())
                if not _is_same(known.function, hook.function)
                and not (known.name == hook.name and known.origin.is_executed_again_by(hook.origin))
            ]
            self._hooks[hook_name] = (*kept, hook)

    def _build(self) -> _FilterTable:
        with self._lock:
            self._table = _FilterTable(self._handlers.values())
            return self._table


def _filter_with_warnings(
    scopes: tuple[str | type[HubEvent], ...], criteria: dict[str, Any]
) -> Filter:
    """Make a filter, and warn about values that the Hub does not document."""
    for scope in scopes:
        if isinstance(scope, str):
            _warn_if_misspelt(scope)
    authors = criteria.get("author")
    if authors is not None:
        criteria["author"] = authors = _listed(authors)
    made = Filter(*scopes, **criteria)
    for warning in made.value_warnings():
        _warn(warning)
    for user in authors or ():
        _warn_if_login(user, "author")
    return made


def _wrong_option(name: str, value: Any) -> str:  # noqa: ANN401 - the user wrote it
    """Return what an option must be instead; empty if it is right."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_time = is_number and 0 <= value < math.inf
    if name == "retries":
        right = "a whole number, 0 for no retry"
        return "" if is_time and isinstance(value, int) else right
    if name == "backoff":
        right = "seconds, or a plain function that returns them"
        return "" if is_time or _is_plain(value) else right
    is_none = value is None
    if name == "timeout":
        return "" if is_none or (is_time and value > 0) else "a number of seconds greater than 0"
    is_count = is_time and isinstance(value, int) and value > 0
    return "" if is_none or is_count else "a whole number from 1"


def _merge(known: Handler, again: Handler) -> Handler:
    """Merge the rules and options of several decorators of one function."""
    for option, value in again.options.items():
        if option in known.options and known.options[option] != value:
            msg = (
                f"handler `{known.name}` has `{option}={known.options[option]!r}` and "
                f"`{option}={value!r}`: write the option in only one of its decorators"
            )
            raise ConfigError(msg)
    more = (rule for rule in again.rules if rule not in known.rules)
    rules = (*known.rules, *more)
    merged = Handler(known.name, known.function, rules, {**known.options, **again.options})
    merged.origin = known.origin
    return merged


def _check_no_function(scopes: Iterable[object], decorator: str) -> None:
    for scope in scopes:
        if inspect.isroutine(scope):
            msg = (
                f"`{decorator}` got the function `{scope.__qualname__}` instead of a scope; "
                f"write `@hooks.{decorator}()`, with parentheses"
            )
            raise ConfigError(msg)


def _listed(words: Strings) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words)


def _author_id(event: HubEvent) -> str | None:
    """Return the id of the user who acted; None if the event does not say it.

    New discussions and comments name their author. An update of a discussion names the author of
    the discussion, not the user who updated it.
    Source: https://huggingface.co/docs/hub/webhooks.
    """
    if event.comment is not None:
        author = event.comment.author
    elif event.discussion is not None and event.effective == ("discussion", "create"):
        author = event.discussion.author
    else:
        return None
    return None if author is None else author.id


def _own_name(function: object) -> str | None:
    name = getattr(function, "__qualname__", None)
    # The name of a mock may be a mock.
    return name if isinstance(name, str) else None


def _is_plain(function: object) -> bool:
    """True for a plain function: not async, and not a generator."""
    return callable(function) and not wraps_async(function) and not yields(function)


def _is_same(function: Callable[..., object], other: Callable[..., object]) -> bool:
    """True if both are one function; `bot.reply` is a new object at each access."""
    return function is other or (isinstance(function, MethodType) and function == other)


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
    """Check that the scopes can produce the annotated event class.

    Raises:
        ConfigError: no event of one of the scopes has that class.
    """
    found = event_annotation(function, signature)
    if found is None:
        return
    parameter, annotated = found
    for listened, classes in event_filter.event_classes():
        if not classes or takes_any_of(annotated, classes):
            continue
        names = " | ".join(one.__name__ for one in annotated)
        gives = " or ".join(f"`{one.__name__}`" for one in classes)
        right = _common_class(classes).__name__
        if right == HubEvent.__name__:
            gives = f"any `{right}`"
        # A class produces only itself and its subclasses.
        source = f"{listened} gives" if listened.startswith("`") else "it gets"
        msg = (
            f"{what} takes `{parameter}: {names}`, but {source} {gives}; write "
            f"`{parameter}: {right}`"
        )
        raise ConfigError(msg)


def _common_class(classes: Sequence[type[HubEvent]]) -> type[HubEvent]:
    """Return the narrowest common base class."""
    for common in (*classes, DiscussionEvent):
        if all(issubclass(one, common) for one in classes):
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
        if name not in _CRITERIA:
            default = f"there are {', '.join(_CRITERIA)}"
            hint = suggestion(name, _CRITERIA, _CRITERIA_BY_OTHER_NAMES, default)
            msg = f"`{name}=` is not a filter or an option; {hint}"
            raise ConfigError(msg)


def _check_ignored(user: object) -> None:
    # An id that is missing in the environment would let a bot reply to itself for ever.
    if not isinstance(user, str) or not user:
        found = "an empty string" if user == "" else type(user).__name__
        msg = f"`ignore_authors` takes the ids of users, not {found}; {_IDS}"
        raise ConfigError(msg)
    _warn_if_login(user, "ignore_authors")


def _warn_if_login(user: str, where: str) -> None:
    if not _is_id(user):
        _warn(f"`{user}` in `{where}=` is not the id of a user, but perhaps a username; {_IDS}")


def _warn(message: str) -> None:
    """Warn at the line of the user's code that called this package."""
    level = 1
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back
        level += 1
    warnings.warn(message, UserWarning, stacklevel=level)
