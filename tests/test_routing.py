"""Which handlers match an event, in which order, and how it is explained."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from hubhooks import handlers
from hubhooks._core import CommentEvent, ContentEvent, DiscussionEvent, Filter, HubEvent
from hubhooks.errors import ConfigError
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from hubhooks.models import RunContext

    Event = Callable[..., HubEvent]


@pytest.fixture
def router() -> Router:
    return Router()


def names(router: Router, event: HubEvent) -> list[str]:
    return [handler.name for handler in router.match(event)]


def run_script(source: str, namespace: dict[str, Any]) -> None:
    """Execute a script as Gradio's reload does: again and again in the same globals."""
    exec(compile(source, "app.py", "exec"), namespace)


# ---- registering ------------------------------------------------------------------------------


def test_decorators_return_the_function_unchanged(router: Router) -> None:
    def matching(event: CommentEvent) -> None: ...

    assert router.on("discussion.comment")(matching) is matching
    assert router.on_comment(name="other")(matching) is matching


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("on_discussion", 'write `on("discussion")`'),
        ("on_pull_requests", 'write `on("discussion", pull_request=True)`'),
        ("on_push", 'write `on("repo.content")`'),
        ("on_coment", "did you mean `on_comment`?"),
        ("on_star", 'write `on("discussion")` with the scope of the event'),
    ],
)
def test_unknown_decorator_names_the_right_one(router: Router, name: str, hint: str) -> None:
    assert not hasattr(router, name)
    with pytest.raises(AttributeError) as caught:
        getattr(router, name)
    assert str(caught.value).startswith(f"there is no decorator `{name}`; {hint}")


def test_handler_has_its_qualified_or_given_name(router: Router, event: Event) -> None:
    class Bot:
        def reply(self, event: HubEvent) -> None: ...

    @router.on("repo")
    def matching(event: HubEvent) -> None: ...

    router.add(Bot().reply, "repo")
    router.add(Bot().reply, "repo", name="second bot")
    here = "test_handler_has_its_qualified_or_given_name.<locals>."
    expected = [f"{here}matching", f"{here}Bot.reply", "second bot"]
    assert names(router, event("repo.create")) == expected
    found = router.handler("second bot")
    assert found is not None
    assert found.name == "second bot"
    assert router.handler("third bot") is None


class Object:
    def __call__(self, event: HubEvent) -> None: ...


@pytest.mark.parametrize("anonymous", [functools.partial(str.join, "x"), Object()])
def test_callable_without_a_name_requires_one(router: Router, event: Event, anonymous: Any) -> None:
    with pytest.raises(ConfigError, match="has no name: give it one with `name=`"):
        router.add(anonymous, "repo")
    router.add(anonymous, "repo", name="given")
    assert names(router, event("repo.create")) == ["given"]


def test_uncallable_object_is_no_handler(router: Router) -> None:
    with pytest.raises(ConfigError, match="a handler must be a function, not int"):
        router.add(3, "repo")  # type: ignore[arg-type]


def test_handler_takes_event_and_optional_context(router: Router) -> None:
    def plain(event: HubEvent) -> None: ...
    def with_delivery(event: HubEvent, context: RunContext) -> None: ...
    def with_optional_delivery(event: HubEvent, context: RunContext | None = None) -> None: ...
    def with_option(event: HubEvent, retries: int = 3) -> None: ...
    def with_keyword(event: HubEvent, *, retries: int = 3) -> None: ...
    def with_rest(*events: HubEvent) -> None: ...

    expected: dict[Any, bool] = {
        plain: False,
        with_delivery: True,
        with_optional_delivery: True,
        with_option: False,
        with_keyword: False,
        with_rest: False,
    }
    for function in expected:
        router.add(function, name=function.__name__)
    found = {function: router.handler(function.__name__) for function in expected}
    assert {f: h.takes_context for f, h in found.items() if h is not None} == expected


def takes_nothing() -> None: ...
def takes_three(event: object, context: object, repo: object) -> None: ...
def needs_a_keyword(event: object, *, secret: object) -> None: ...


@pytest.mark.parametrize(
    ("function", "has"),
    [
        (takes_nothing, "()"),
        (takes_three, "(event, context, repo)"),
        (needs_a_keyword, "(event, secret)"),
    ],
)
def test_wrong_signature_is_rejected_with_the_right_one(
    router: Router, function: Any, has: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        router.on("repo")(function)
    name = function.__name__
    assert str(caught.value) == (
        f"handler `{name}` has the wrong parameters `{has}`; "
        "write `def handler(event)` or `def handler(event, context)`"
    )


def test_default_value_is_never_shown(router: Router) -> None:
    def report_error(a: object, b: object, c: object, token: str = "hf_x") -> None: ...

    with pytest.raises(ConfigError) as caught:
        router.add(report_error)
    assert "hf_x" not in str(caught.value)


def test_unreadable_signature_is_rejected(router: Router) -> None:
    known: dict[str, str] = {}
    caught = r"the parameters of handler `dict\.update` cannot be read"
    with pytest.raises(ConfigError, match=caught):
        router.add(known.update)


def test_unbound_method_is_rejected(router: Router) -> None:
    with pytest.raises(ConfigError, match=r"is a method without its object; .*`add\(bot.method\)`"):

        class Bot:
            @router.on("repo")  # type: ignore[type-var]
            def reply(self, event: HubEvent) -> None: ...


def test_decorator_without_parentheses_is_rejected(router: Router) -> None:
    with pytest.raises(ConfigError) as caught:

        @router.on  # type: ignore[arg-type]
        def matching(event: HubEvent) -> None: ...

    here = "test_decorator_without_parentheses_is_rejected.<locals>.matching"
    assert str(caught.value) == (
        f"`on` got the function `{here}` instead of a scope; write `@hooks.on()`, with parentheses"
    )


def test_on_comment_misuse_is_rejected(router: Router) -> None:
    with pytest.raises(ConfigError, match=r"write `@hooks.on_comment\(\)`, with parentheses"):
        router.on_comment(takes_the_event)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="`on_comment` takes no scopes"):
        router.on_comment("discussion")  # type: ignore[arg-type]


def test_on_comment_takes_no_action(router: Router) -> None:
    with pytest.raises(ConfigError, match=r'write `@hooks\.on\("discussion\.comment", action='):
        router.on_comment(action="update")  # type: ignore[call-arg]


def test_generators_are_rejected(router: Router) -> None:
    def yields(event: HubEvent) -> Any:
        yield event

    async def yields_too(event: HubEvent) -> Any:
        yield event

    for function in (yields, yields_too, functools.partial(yields)):
        with pytest.raises(ConfigError, match="would never run, because it contains `yield`"):
            router.add(function, name="x")


def test_async_handlers_are_recognised(router: Router) -> None:
    async def coroutine(event: HubEvent) -> None: ...

    class Asynchronous:
        async def __call__(self, event: HubEvent) -> None: ...

        async def method(self, event: HubEvent) -> None: ...

    asynchronous: list[Any] = [
        coroutine,
        functools.partial(coroutine),
        functools.partial(functools.partial(Asynchronous())),
        Asynchronous(),
        Asynchronous().method,
    ]
    synchronous = [Object(), functools.partial(Object()), takes_the_event, [].append]
    for number, function in enumerate([*asynchronous, *synchronous]):
        router.add(function, name=str(number))
    found = [router.handler(str(number)) for number in range(9)]
    assert [h.is_async for h in found if h is not None] == [True] * 5 + [False] * 4


@pytest.mark.parametrize("when", [3, type("W", (), {})()])
def test_a_predicate_must_be_a_plain_function(router: Router, when: Any) -> None:
    with pytest.raises(ConfigError, match="`when` of handler `x` must be a plain function"):
        router.add(takes_the_event, "repo", when=when, name="x")

    async def asynchronous(event: HubEvent) -> bool:
        return bool(event)

    with pytest.raises(ConfigError, match="must be a plain function of the event, not async"):
        router.add(takes_the_event, "repo", when=asynchronous, name="x")


def test_wrong_class_or_criterion_fails_at_its_line(router: Router) -> None:
    with pytest.raises(ConfigError):
        router.add(takes_the_event, int)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        router.add(takes_the_event, "repo.content", path="x", repo_type="model")
    with pytest.raises(ConfigError, match=r"`reop=` is not a filter .*; did you mean `repo=`\?"):
        router.add(takes_the_event, "repo", reop="me/x")  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"`branch=` is not a filter .*; did you mean `ref=`\?"):
        router.add(takes_the_event, "repo", branch="main")  # type: ignore[call-arg]
    with pytest.raises(
        ConfigError, match=r"`zzz=` is not a filter .*; there are action, repo_type, "
    ):
        router.add(takes_the_event, "repo", zzz="me/x")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="`action=`: expected a string or strings, found int"):
        router.add(takes_the_event, "repo", action=5)  # type: ignore[arg-type]
    for name in (5, "", "two\nlines", "\ud800"):
        with pytest.raises(
            ConfigError, match=re.escape(f"`name={name!r}` is not a name of a handler")
        ):
            router.add(takes_the_event, "repo", name=name)  # type: ignore[arg-type]
    assert router.handler("takes_the_event") is None


# ---- misspelt scopes --------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["disscussion", "disscussion.*"])
def test_misspelt_scope_warns_at_its_line(router: Router, scope: str) -> None:
    expected = f"the Hub documents no scope `{scope}`; did you mean `discussion`?"
    for register in (router.on(scope), lambda f: router.add(f, scope)):
        with pytest.warns(UserWarning, match="documents no scope") as warned:
            register(takes_the_event)
        (warning,) = warned
        assert str(warning.message) == expected
        assert warning.filename == __file__


@pytest.mark.parametrize(
    ("scope", "hint"),
    [
        ("repo.contents", "did you mean `repo.content`?"),
        ("repo.conent", "did you mean `repo.content`?"),
        ("repo.Content", "did you mean `repo.content`?"),
        ("repo.confg.*", "did you mean `repo.config`?"),
        ("discussion.comments", "did you mean `discussion.comment`?"),
        ("discussion.coment", "did you mean `discussion.comment`?"),
        ("repo.create", 'write the scope `repo` with `action="create"`'),
        (
            "discussion.comment.update",
            'write the scope `discussion.comment` with `action="update"`',
        ),
    ],
)
def test_misspelt_subscope_warns(router: Router, scope: str, hint: str) -> None:
    with pytest.warns(UserWarning, match="documents no scope") as warned:
        router.on(scope)(takes_the_event)
    assert [str(w.message) for w in warned] == [f"the Hub documents no scope `{scope}`; {hint}"]


def test_misspelt_first_word_of_a_scope_warns(router: Router) -> None:
    with pytest.warns(UserWarning, match=r"no scope `repos\.\*`; did you mean `repo`\?"):
        router.on("repos.*")(takes_the_event)


def test_unknown_scope_warns_with_all_scopes(router: Router) -> None:
    with pytest.warns(UserWarning, match=r"no scope `zzz`; it documents repo, repo\.content, "):
        router.on("zzz")(takes_the_event)


def test_documented_and_narrower_scopes_do_not_warn(router: Router) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        router.on("repo", "repo.*", "repo.config.dois", "discussion.comment.*")(takes_the_event)
        router.on("repo.files", "repo.settings", "repo.content.lfs", "discussion.reaction")(
            takes_the_event
        )


def takes_the_event(event: HubEvent) -> None: ...


# ---- matching ---------------------------------------------------------------------------------


def test_matches_keep_the_order_of_registration(router: Router, event: Event) -> None:
    listening: dict[str, list[Any]] = {
        "content": ["repo.content"],
        "comments": ["discussion.comment"],
        "all": [],
        "below repo": ["repo.*"],
        "class": [ContentEvent],
        "discussions": [DiscussionEvent],
    }
    for name, scopes in listening.items():
        router.add(takes_the_event, *scopes, name=name)
    assert names(router, event("repo.content.update")) == ["content", "all", "below repo", "class"]
    assert names(router, event("discussion.comment.create")) == ["comments", "all", "discussions"]
    assert names(router, event("repo.create")) == ["all", "below repo"]


def test_handler_registered_later_matches(router: Router, event: Event) -> None:
    router.add(takes_the_event, name="first")
    assert names(router, event("repo.create")) == ["first"]
    router.add(takes_the_event, name="second")
    assert names(router, event("repo.create")) == ["first", "second"]


def test_any_of_several_decorators_may_match(router: Router, event: Event) -> None:
    @router.on("repo.content")
    @router.on("repo.*")
    @router.on("discussion")
    def first(event: HubEvent) -> None: ...

    router.add(takes_the_event)
    router.on("repo.config")(first)
    qualified = first.__qualname__
    assert names(router, event("repo.content.update")) == [qualified, "takes_the_event"]
    assert names(router, event("discussion.update.closed")) == [qualified, "takes_the_event"]
    handler = router.handler(qualified)
    assert handler is not None
    assert len(handler.rules) == 4
    assert handler.function is first


def test_equal_bound_methods_are_one_handler(router: Router) -> None:
    class Bot:
        def reply(self, event: HubEvent) -> None: ...

    bot = Bot()
    router.add(bot.reply, "repo")
    router.add(bot.reply, "discussion")
    handler = router.handler(Bot.reply.__qualname__)
    assert handler is not None
    assert len(handler.rules) == 2


def test_predicate_is_called_only_after_the_criteria_match(router: Router, event: Event) -> None:
    asked: list[str] = []

    def asks(event: ContentEvent) -> bool:
        asked.append(event.repo.name)
        return True

    @router.on("repo.content", when=asks)
    def matching(event: ContentEvent) -> None: ...

    assert names(router, event("repo.create")) == []
    assert asked == []
    (handler,) = router.match(event("repo.content.update"))
    assert handler.function is matching
    assert len(asked) == 1


def test_false_predicate_does_not_affect_other_rules(router: Router, event: Event) -> None:
    router.add(takes_the_event, "repo", when=lambda _: False)
    assert names(router, event("repo.create")) == []
    router.add(takes_the_event, "repo", when=lambda _: True)
    assert names(router, event("repo.create")) == ["takes_the_event"]


def test_raising_predicate_affects_only_its_handler(
    router: Router, event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    router.add(takes_the_event, "repo", when=lambda _: 1 / 0, name="broken")
    router.add(takes_the_event, "repo", name="whole")
    assert names(router, event("repo.create")) == ["whole"]
    (record,) = caplog.records
    assert record.getMessage() == "`when` of handler `broken` failed: the event does not match"
    assert record.exc_info is not None
    explained = router.explain(event("repo.create"))
    assert explained[0] == "`broken` does not match: its `when` raised ZeroDivisionError"


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        ("discussion.comment.create", True),
        ("discussion.create", True),
        ("discussion.create.pull-request", True),
        ("discussion.comment.update", False),
        ("discussion.update.closed", False),
        ("discussion.delete", False),
        ("repo.content.update", False),
    ],
)
def test_on_comment_matches_new_comments_and_opening_posts(
    router: Router, event: Event, name: str, matches: bool
) -> None:
    router.on_comment()(takes_the_event)
    assert names(router, event(name)) == ["takes_the_event"] * matches


def test_on_comment_never_matches_a_hidden_comment(router: Router, event: Event) -> None:
    asked: list[object] = []
    router.on_comment(when=asked.append)(takes_the_event)
    hidden = event("discussion.comment.create", comment__hidden=True)
    assert router.match(hidden) == []
    assert router.explain(hidden) == ["`takes_the_event` does not match: the comment is hidden"]
    assert asked == []


def test_on_matches_hidden_comments(router: Router, event: Event) -> None:
    router.on("discussion.comment")(takes_the_event)
    hidden = event("discussion.comment.create", comment__hidden=True)
    assert names(router, hidden) == ["takes_the_event"]


def test_on_comment_accepts_the_criteria_of_on(router: Router, event: Event) -> None:
    router.on_comment(mention="my-bot", when=lambda e: not e.is_opening_post, name="bot")(
        takes_the_event
    )
    assert names(router, event("discussion.comment.create")) == ["bot"]
    unmentioned = event("discussion.comment.create", comment__content="hello")
    assert names(router, unmentioned) == []
    opening = event("discussion.create", comment__content="@my-bot hello")
    assert names(router, opening) == []
    assert router.explain(opening) == ["`bot` does not match: its `when` returned false"]


# ---- explaining -------------------------------------------------------------------------------


def test_each_handler_is_explained_in_a_line(router: Router, event: Event) -> None:
    router.add(takes_the_event, "repo", action="move", name="moves")
    router.add(takes_the_event, "repo", action=["create"], name="births")
    moves, births = router.explain(event("repo.create"))
    assert moves.startswith("`moves` does not match: the action is `create`")
    assert births == "`births` matches"


def test_explanation_covers_all_decorators(router: Router, event: Event) -> None:
    router.add(takes_the_event, "discussion", name="both")
    router.add(takes_the_event, "repo", when=lambda _: False, name="both")
    (line,) = router.explain(event("repo.create"))
    assert line.startswith("`both` does not match: the scope is `repo`")
    assert line.endswith("; by another decorator: its `when` returned false")


def test_router_without_handlers_is_explained(router: Router, event: Event) -> None:
    assert router.explain(event("repo.create")) == ["no handler is registered"]


def test_equal_reasons_of_two_decorators_appear_once(router: Router, event: Event) -> None:
    router.add(takes_the_event, "discussion", action="create", name="both")
    router.add(takes_the_event, "discussion", action="delete", name="both")
    router.add(takes_the_event, "discussion", action="delete", when=bool, name="both")
    (line,) = router.explain(event("discussion.update.closed"))
    assert line == (
        "`both` does not match: the action is `update`, not `create`; "
        "by another decorator: the action is `update`, not `delete`"
    )


# ---- ignored authors --------------------------------------------------------------------------

BOT = "6a00000000000000000000b0"


@pytest.mark.parametrize("ignored", [BOT, ["1" * 24, BOT]])
def test_comments_of_ignored_authors_do_not_match(event: Event, ignored: Any) -> None:
    router = Router(ignore_authors=ignored)
    router.add(takes_the_event)
    own = event("discussion.comment.create", comment__author__id=BOT)
    assert router.match(own) == []
    expected = f"its author `{BOT}` is in `ignore_authors`"
    assert router.ignored_reason(own) == expected
    assert router.explain(own) == [f"no handler matches: {expected}"]
    assert names(router, event("discussion.comment.create")) == ["takes_the_event"]


def test_reply_in_the_bots_discussion_matches(event: Event) -> None:
    router = Router(ignore_authors=[BOT])
    router.add(takes_the_event)
    response = event("discussion.comment.create", discussion__author__id=BOT)
    assert names(router, response) == ["takes_the_event"]


def test_discussion_without_a_post_uses_its_own_author(event: Event) -> None:
    router = Router(ignore_authors=[BOT])
    opened = event("discussion.create", discussion__author__id=BOT, comment=None)
    assert router.ignored_reason(opened)
    assert not router.ignored_reason(event("discussion.create", comment=None))


@pytest.mark.parametrize("name", ["discussion.update.closed", "repo.content.update"])
def test_event_without_an_author_is_not_ignored(event: Event, name: str) -> None:
    router = Router(ignore_authors=[BOT])
    router.add(takes_the_event)
    given = event(name, discussion__author__id=BOT) if "discussion" in name else event(name)
    assert names(router, given) == ["takes_the_event"]
    assert router.explain(given) == [
        "`takes_the_event` matches",
        "`ignore_authors` has no effect: the event does not name its author",
    ]


def test_ignored_author_that_looks_like_a_login_warns() -> None:
    expected = (
        "`my-bot` in `ignore_authors=` is not the id of a user, but perhaps a username; the id of "
        'a user has 24 hexadecimal digits; yours is `huggingface_hub.whoami()["id"]`'
    )
    for make in (Router, Webhooks):
        with pytest.warns(UserWarning, match="perhaps a username") as warned:
            make(ignore_authors=[BOT, "my-bot"])
        (warning,) = warned
        assert str(warning.message) == expected
        assert warning.filename == __file__


def test_author_that_looks_like_a_login_warns(router: Router) -> None:
    with pytest.warns(UserWarning, match="`my-bot` in `author=` is not the id of a user") as warned:

        @router.on_comment(author=(author for author in ["my-bot", BOT]))
        def matching(event: CommentEvent) -> None: ...

    (warning,) = warned
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("ids", "found"), [("", "an empty string"), (None, "NoneType"), ([None], "NoneType")]
)
def test_missing_ignored_author_is_rejected(ids: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=f"takes the ids of users, not {found}; the id of a user"):
        Router(ignore_authors=ids)


def test_comment_without_an_author_matches(event: Event) -> None:
    router = Router(ignore_authors=[BOT])
    router.add(takes_the_event)
    nobody = event("discussion.comment.create", comment__author=None)
    assert names(router, nobody) == ["takes_the_event"]


# ---- names that are taken ---------------------------------------------------------------------

SCRIPT = """
@router.on("repo")
@router.on("discussion")
def matching(event):
    return {version}
"""


def test_reexecuted_script_replaces_its_handlers(router: Router, event: Event) -> None:
    namespace = {"router": router, "__name__": "__main__"}
    run_script(SCRIPT.format(version=1), namespace)
    router.add(takes_the_event)
    run_script("\n\n# edited: all lines moved" + SCRIPT.format(version=2), namespace)
    first, second = router.match(event("repo.create"))
    assert first.function(None) == 2
    assert len(first.rules) == 2
    assert second.name == "takes_the_event"


def test_script_in_new_globals_replaces_its_handlers(router: Router, event: Event) -> None:
    for version in (1, 2):
        run_script(SCRIPT.format(version=version), {"router": router, "__name__": "app"})
    (handler,) = router.match(event("repo.create"))
    assert handler.function(None) == 2


def test_nested_functions_of_a_script_are_replaced(router: Router, event: Event) -> None:
    source = """
def register():
    @router.on("repo")
    def inner(event):
        return {version}
register()
"""
    for version in (1, 2):
        run_script(source.format(version=version), {"router": router, "__name__": "app"})
    (handler,) = router.match(event("repo.create"))
    assert handler.function(None) == 2


def wrapped_elsewhere(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def wrapper(*arguments: object) -> object:
        return function(*arguments)

    return wrapper


def test_foreign_decorator_keeps_the_place_of_a_function(router: Router, event: Event) -> None:
    script = SCRIPT.replace("def", "@wrapped\ndef")
    namespace = {"router": router, "wrapped": wrapped_elsewhere, "__name__": "app"}
    for version in (1, 2):
        run_script(script.format(version=version), namespace)
    (handler,) = router.match(event("repo.create"))
    assert handler.function(None) == 2
    with pytest.raises(ConfigError, match=r"named `matching`: app\.py:2 and "):
        router.add(takes_the_event, name="matching")


@pytest.mark.parametrize(
    "source",
    [
        SCRIPT + SCRIPT,
        "for version in range(2):" + SCRIPT.replace("\n", "\n    "),
        "def f():" + SCRIPT.replace("\n", "\n    ") + "\nf()\nf()",
    ],
    ids=["two definitions", "loop", "factory"],
)
def test_two_functions_of_one_name_are_an_error(router: Router, source: str) -> None:
    source = source.replace("{version}", "1")
    with pytest.raises(ConfigError) as caught:
        run_script(source, {"router": router, "__name__": "app"})
    assert "app.py:2" in str(caught.value)
    assert str(caught.value).startswith("two handlers are named `")
    assert str(caught.value).endswith("give one of them another name with `name=`")


def test_duplicate_name_is_rejected_with_both_places(router: Router) -> None:
    run_script(SCRIPT.format(version=1), {"router": router, "__name__": "one"})
    with pytest.raises(ConfigError) as caught:
        router.add(takes_the_event, name="matching")
    line = takes_the_event.__code__.co_firstlineno
    assert f"named `matching`: app.py:2 and {__file__}:{line};" in str(caught.value)


def test_two_objects_of_one_class_need_two_names(router: Router) -> None:
    class Bot:
        def reply(self, event: HubEvent) -> None: ...

    router.add(Bot().reply)
    with pytest.raises(ConfigError, match="two handlers are named"):
        router.add(Bot().reply)


def test_compiled_code_has_no_place(router: Router) -> None:
    router.add([].append, name="x")
    with pytest.raises(ConfigError, match=r"named `x`: compiled code and .*test_routing\.py:"):
        router.add(takes_the_event, name="x")
    with pytest.raises(ConfigError, match="named `x`: compiled code and compiled code;"):
        router.add([].append, name="x")


def test_handlers_are_listed_in_the_order_of_registration(router: Router) -> None:
    router.add(takes_the_event, "repo", name="b")
    router.add(takes_the_event, "repo", name="a")
    before = router.handlers
    router.add(takes_the_event, "discussion", name="b")
    router.add(takes_the_event, name="c")
    assert [handler.name for handler in before] == ["b", "a"]
    assert [handler.name for handler in router.handlers] == ["b", "a", "c"]
    assert router.handlers[0] is router.handler("b")
    assert len(router.handlers[0].rules) == 2
    with pytest.raises(AttributeError):
        router.handlers = ()  # type: ignore[misc]


# ---- including --------------------------------------------------------------------------------


def test_included_handlers_come_after_own_handlers(router: Router, event: Event) -> None:
    other = Router()
    other.add(takes_the_event, "repo", name="theirs")
    router.add(takes_the_event, "repo", name="ours")
    router.include_router(other)
    other.add(takes_the_event, "repo", name="too late")
    assert names(router, event("repo.create")) == ["ours", "theirs"]
    assert names(other, event("repo.create")) == ["theirs", "too late"]


def test_included_router_cannot_reuse_a_name(router: Router) -> None:
    other = Router()
    other.add(takes_nothing_special, name="taken")
    router.add(takes_the_event, name="taken")
    with pytest.raises(ConfigError, match="two handlers are named `taken`"):
        router.include_router(other)


def takes_nothing_special(event: HubEvent) -> None: ...


def test_router_included_twice_counts_once(router: Router) -> None:
    other = Router()
    other.add(takes_the_event, "repo")
    other.on_unhandled(takes_the_event)
    router.include_router(other)
    router.include_router(other)
    handler = router.handler("takes_the_event")
    assert handler is not None
    assert len(handler.rules) == 1
    assert len(router.hooks_for("unhandled")) == 1


def test_ignored_authors_of_an_included_router_apply(router: Router, event: Event) -> None:
    router.add(takes_the_event)
    router.include_router(Router(ignore_authors=BOT))
    assert router.match(event("discussion.comment.create", comment__author__id=BOT)) == []
    assert names(router, event("discussion.comment.create")) == ["takes_the_event"]


def test_included_hooks_come_after_own_hooks(router: Router) -> None:
    def ours(event: HubEvent, context: RunContext, error: BaseException) -> None: ...
    def theirs(event: HubEvent, context: RunContext, error: BaseException) -> None: ...

    other = Router()
    other.on_error(theirs)
    router.on_error(ours)
    router.include_router(other)
    assert [hook.function for hook in router.hooks_for("error")] == [ours, theirs]
    assert router.hooks_for("failure") == ()


# ---- hooks ------------------------------------------------------------------------------------


def report_error(event: object, context: object, error: object) -> None: ...


def test_hooks_are_listed_by_kind_and_unchanged(router: Router) -> None:
    class Bot:
        async def report(self, event: HubEvent, context: RunContext, error: object) -> None: ...

    bot = Bot()
    assert not router.has_unhandled_hook
    assert router.on_unhandled(takes_the_event) is takes_the_event
    assert router.has_unhandled_hook
    assert router.on_error(report_error) is report_error
    router.on_error(bot.report)
    router.on_error(bot.report)
    router.on_failure(report_error)
    assert [hook.function for hook in router.hooks_for("unhandled")] == [takes_the_event]
    errors = router.hooks_for("error")
    assert [hook.function for hook in errors] == [report_error, bot.report]
    assert [hook.is_async for hook in errors] == [False, True]
    assert [hook.function for hook in router.hooks_for("failure")] == [report_error]


def test_hooks_may_share_a_name(router: Router) -> None:
    seen: list[int] = []
    for number in (1, 2):
        router.on_unhandled(lambda _, number=number: seen.append(number))  # type: ignore[misc]
    for hook in router.hooks_for("unhandled"):
        hook.function(None)
    assert seen == [1, 2]


@pytest.mark.parametrize(
    ("occasion", "function", "message"),
    [
        ("error", takes_the_event, "hook `takes_the_event` has the wrong parameters `(event)`"),
        ("error", takes_the_event, "; write `def hook(event, context, error)`"),
        ("failure", takes_nothing, "`on_failure` hook `takes_nothing` has the wrong parameters"),
        ("unhandled", report_error, "has the wrong parameters `(event, context, error)`; write "),
        ("unhandled", report_error, "write `def hook(event)`"),
        ("error", 3, "an `on_error` hook must be a function, not int"),
        ("unhandled", {}.update, "the parameters of `on_unhandled` hook `dict.update` cannot be"),
    ],
)
def test_wrong_signature_of_a_hook_is_rejected(
    router: Router, occasion: str, function: Any, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        getattr(router, f"on_{occasion}")(function)
    assert message in str(caught.value)
    assert not router.hooks_for("error")
    assert not router.has_unhandled_hook


def test_generator_or_unbound_hook_is_rejected(router: Router) -> None:
    def yields(event: HubEvent) -> Any:
        yield event

    with pytest.raises(ConfigError, match=r"`on_unhandled` hook .* it contains `yield`"):
        router.on_unhandled(yields)
    with pytest.raises(ConfigError, match=r"register it with `on_unhandled\(bot.method\)`"):

        class Bot:
            @router.on_unhandled  # type: ignore[type-var]
            def report(self, event: HubEvent) -> None: ...


def test_reexecuted_script_replaces_its_hooks(router: Router) -> None:
    script = """
@router.on_error
def tells(event, context, error):
    return {version}

router.on_error(lambda event, context, error: -{version})
"""
    namespace = {"router": router, "__name__": "__main__"}
    run_script(script.format(version=1), namespace)
    router.on_error(report_error)
    run_script("# edited\n" + script.format(version=2), namespace)
    results = [hook.function(None, None, None) for hook in router.hooks_for("error")]
    assert results == [None, 2, -2]


# ---- how a handler runs -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({"retries": -1}, "a whole number, 0 for no retry"),
        ({"retries": 1.5}, "a whole number, 0 for no retry"),
        ({"retries": True}, "a whole number, 0 for no retry"),
        ({"retries": None}, "a whole number, 0 for no retry"),
        ({"backoff": -1}, "seconds, or a plain function that returns them"),
        ({"backoff": "10"}, "seconds, or a plain function that returns them"),
        ({"backoff": float("inf")}, "seconds, or a plain function that returns them"),
        ({"timeout": 0}, "a number of seconds greater than 0"),
        ({"timeout": float("nan")}, "a number of seconds greater than 0"),
        ({"concurrency": 0}, "a whole number from 1"),
        ({"concurrency": 1.5}, "a whole number from 1"),
    ],
)
def test_invalid_run_options_are_rejected(options: dict[str, Any], right: str) -> None:
    router = Router()
    with pytest.raises(ConfigError) as caught:
        router.add(lambda event: None, name="matching", **options)
    ((name, value),) = options.items()
    what = f"`{name}={value!r}` of handler `matching` is not possible"
    assert str(caught.value) == f"{what}; write {right}"
    assert router.handler("matching") is None


def test_async_backoff_is_rejected() -> None:
    async def backoff(failures: int) -> float:
        return 1.0

    with pytest.raises(ConfigError, match="a plain function"):
        Router().add(lambda event: None, name="matching", backoff=backoff)  # type: ignore[arg-type]


def test_decorator_accepts_every_criterion_and_option() -> None:
    of_filters = set(inspect.signature(Filter).parameters) - {"scopes"}
    known = {*of_filters, *handlers.Policy.__slots__, "when", "name"}
    assert set(handlers.CRITERIA) == known


def test_any_decorator_may_set_run_options() -> None:
    router = Router()

    @router.on("repo", retries=2)
    @router.on_comment(timeout=5, retries=2)
    @router.on("discussion", concurrency=1, backoff=0)
    def matching(event: HubEvent) -> None: ...

    handler = router.handler(matching.__qualname__)
    assert handler is not None
    policy = handler.policy
    assert (policy.retries, policy.backoff) == (2, 0)
    assert (policy.timeout, policy.concurrency) == (5, 1)


def test_conflicting_run_options_are_rejected() -> None:
    router = Router()

    def matching(event: HubEvent) -> None: ...

    router.add(matching, "repo", name="matching", retries=1)
    with pytest.raises(ConfigError) as caught:
        router.add(matching, "discussion", name="matching", retries=2)
    assert str(caught.value) == (
        "handler `matching` has `retries=1` and `retries=2`: write the option in only one of its "
        "decorators"
    )
