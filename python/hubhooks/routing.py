"""`Router`: registers handlers, and finds the handlers that match an event. It knows no HTTP."""

from __future__ import annotations

import functools
import inspect
import threading
from typing import TYPE_CHECKING, Any, overload

from hubhooks._core import CommentEvent, DiscussionEvent, HubEvent, match_filters
from hubhooks._suggestions import nearest, suggestion
from hubhooks.errors import ConfigError
from hubhooks.handlers import (
    USER_ID_HINT,
    Handler,
    Hook,
    HookName,
    WhenResults,
    is_same_function,
    make_handler,
    make_hook,
    merge,
    tuple_of,
    warn_if_login,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, KeysView
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
        serial: Literal["repo"] | None
        debounce: float | None

    class Criteria(CommentCriteria[E], total=False):
        """The filters and options of `on` and `add`."""

        action: Actions
        ref: Strings
        path: Strings

    # For the overloads of `on`: a documented scope or an event class determines the event's class.
    # Each class has its own TypeVar, because a TypeVar's bound cannot contain another TypeVar. As
    # the return type, the TypeVar keeps the type of the decorated function.
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

    OnUnhandled = TypeVar("OnUnhandled", bound=Callable[[HubEvent], object])
    OnError = TypeVar("OnError", bound=Callable[[HubEvent, RunContext, BaseException], object])

__all__ = ["ATTRIBUTES_OF_FASTAPI_ROUTERS", "Match", "NotAnApiRouterError", "Router"]


# The first attribute that FastAPI's `include_router` reads from its argument, by version.
ATTRIBUTES_OF_FASTAPI_ROUTERS = ("_contains_router", "routes")


class _FilterTable:
    """All filters in one list, so that Rust matches them in one call."""

    __slots__ = ("filters", "handlers", "rules")

    def __init__(self, handlers: Iterable[Handler]) -> None:
        self.handlers = tuple(handlers)
        self.rules = [(handler, rule) for handler in self.handlers for rule in handler.rules]
        self.filters = [rule.filter for _, rule in self.rules]


class Match:
    """The handlers that match an event, and the reasons of the others.

    `explain` uses the results of `when` from the match. The object does not keep the event.
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


class NotAnApiRouterError(ConfigError, AttributeError):
    """A router of this package was given to FastAPI, which accepts only its own routers.

    It is an `AttributeError` too, because other code may only test for the attribute.
    """


# Without the prefix `on_`, which would make all names similar.
_DECORATORS = ("comment", "unhandled", "error", "failure")
_ARGUMENTS_BY_NAME = {
    "discussion": '"discussion"',
    "pull_request": '"discussion", pull_request=True',
    "pr": '"discussion", pull_request=True',
    "repo": '"repo"',
    "content": '"repo.content"',
    "commit": '"repo.content"',
    "push": '"repo.content"',
    "config": '"repo.config"',
    "settings": '"repo.config"',
    "event": "",
    "any": "",
}


def _decorator_hint(name: str) -> str:
    """Return the decorator that a wrong name most likely means."""
    near = nearest(name.removeprefix("on_"), (*_DECORATORS, *_ARGUMENTS_BY_NAME))
    if near in _DECORATORS:
        return f"did you mean `on_{near}`?"
    if near:
        return f"write `on({_ARGUMENTS_BY_NAME[near]})`"
    return 'write `on("discussion")` with the scope of the event, or `on()` for every event'


class Router:
    """A collection of handlers with their filters.

    Use it to split an app into modules: `hooks.include_router(router)`. `Webhooks` is a `Router`.

    Args:
        ignore_authors: ids of users, such as the bot's own id `huggingface_hub.whoami()["id"]`. No
            handler matches their comments and new discussions. Other events have no author.
        unknown: must be empty. Any other name raises a `ConfigError` that suggests the right name.

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
        self._ignore_authors = frozenset(tuple_of(ignore_authors))
        for user in self._ignore_authors:
            _check_ignored(user)
        self._handlers: dict[str, Handler] = {}
        self._hooks: dict[HookName, tuple[Hook, ...]] = {}
        self._table: _FilterTable | None = None
        self._lock = threading.Lock()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            """Name the right call for a wrong decorator, or if FastAPI gets this as a router."""
            if name in ATTRIBUTES_OF_FASTAPI_ROUTERS:
                raise NotAnApiRouterError(self._fastapi_hint)
            if name.startswith("on_"):
                msg = f"there is no decorator `{name}`; {_decorator_hint(name)}"
                raise AttributeError(msg)
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
                take. `concurrency` is the number of deliveries handled at once. `serial="repo"`
                handles the deliveries of one repository one after the other, in the order of
                arrival. `debounce` is the number of seconds to wait for a newer delivery about
                the same subject, which then replaces this one.

        Raises:
            ConfigError: no event can match, the function cannot be a handler, or another function
                has the same name.
        """
        _check_no_function(scopes, "on")

        def register(function: Callable[..., object]) -> Callable[..., object]:
            self._register(make_handler(function, scopes, criteria))
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
            created = {**criteria, "action": "create"}
            self._register(make_handler(function, (CommentEvent,), created, visible_only=True))
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
        self._register(make_handler(function, scopes, criteria))

    def on_unhandled(self, function: OnUnhandled, /) -> OnUnhandled:
        """Call the decorated function with each event that no handler matches.

        It is called after the response, and not for ignored authors.

        Args:
            function: takes `(event)`, and may be async. Its own errors are only logged.

        Raises:
            ConfigError: the function takes other parameters.
        """
        self._register_hook("unhandled", make_hook(function, "unhandled"))
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
        self._register_hook("error", make_hook(function, "error"))
        return function

    def on_failure(self, function: OnError, /) -> OnError:
        """Call the decorated function when a run failed and no retry is left.

        Args:
            function: takes `(event, context, error)`, and may be async. Its own errors are only
                logged.

        Raises:
            ConfigError: the function takes other parameters.
        """
        self._register_hook("failure", make_hook(function, "failure"))
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
        for handler in other.handlers:
            self._register(handler)
        for hook_name, hooks in tuple(other._hooks.items()):
            for hook in hooks:
                self._register_hook(hook_name, hook)
        self._ignore_authors |= other._ignore_authors

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """The registered handlers, in the order of registration.

        Handlers registered later are not in the tuple.
        """
        return tuple(self._handlers.values())

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

    def author_note(self, event: HubEvent) -> str:
        """Return why `ignore_authors` cannot ignore the event; empty if it can."""
        is_unnamed = bool(self._ignore_authors) and _author_id(event) is None
        note = "`ignore_authors` has no effect: the event does not name its author"
        return note if is_unnamed else ""

    def _explanations(
        self, table: _FilterTable, whens: WhenResults, event: HubEvent
    ) -> Iterator[str]:
        if ignored := self.ignored_reason(event):
            yield f"no handler matches: {ignored}"
            return
        if not table.handlers:
            yield "no handler is registered"
        for handler in table.handlers:
            yield handler.explain(event, whens)
        if note := self.author_note(event):
            yield note

    def _register(self, handler: Handler) -> None:
        with self._lock:
            known = self._handlers.get(handler.name)
            if known is not None and is_same_function(known.function, handler.function):
                handler = merge(known, handler)
            elif known is not None and not known.site.is_executed_again_by(handler.site):
                msg = (
                    f"two handlers are named `{handler.name}`: {known.site.place} and "
                    f"{handler.site.place}; give one of them another name with `name=`"
                )
                raise ConfigError(msg)
            self._handlers[handler.name] = handler
            self._table = None

    def _register_hook(self, hook_name: HookName, hook: Hook) -> None:
        with self._lock:
            kept = [
                known
                for known in self._hooks.get(hook_name, ())
                if not is_same_function(known.function, hook.function)
                and not (known.name == hook.name and known.site.is_executed_again_by(hook.site))
            ]
            self._hooks[hook_name] = (*kept, hook)

    def _build(self) -> _FilterTable:
        with self._lock:
            self._table = _FilterTable(self._handlers.values())
            return self._table


def _check_no_function(scopes: Iterable[object], decorator: str) -> None:
    for scope in scopes:
        if inspect.isroutine(scope):
            msg = (
                f"`{decorator}` got the function `{scope.__qualname__}` instead of a scope; "
                f"write `@hooks.{decorator}()`, with parentheses"
            )
            raise ConfigError(msg)


def _author_id(event: HubEvent) -> str | None:
    """Return the id of the user who caused the event; None if the event does not name that user.

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


def _check_ignored(user: object) -> None:
    # An id that is missing in the environment would let a bot reply to itself for ever.
    if not isinstance(user, str) or not user:
        found = "an empty string" if user == "" else type(user).__name__
        msg = f"`ignore_authors` takes the ids of users, not {found}; {USER_ID_HINT}"
        raise ConfigError(msg)
    warn_if_login(user, "ignore_authors")
