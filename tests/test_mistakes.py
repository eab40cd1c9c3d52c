"""Mistakes of new users: each is reported at its own line."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar, Union, get_args

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Mount
from typer.testing import CliRunner

from hubhooks import _core, _values, testing
from hubhooks._core import (
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    DiscussionEvent,
    Filter,
    HubEvent,
    RepoEvent,
)
from hubhooks.cli import make_app
from hubhooks.errors import ConfigError
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from nowhere import Unknown  # type: ignore[import-not-found] # ty: ignore

    import hubhooks
    from hubhooks.models import RunContext


@pytest.fixture
def router() -> Router:
    return Router()


# ---- values that the Hub does not document -------------------------------------------------------


@pytest.mark.parametrize(
    ("criteria", "right"),
    [
        ({"repo_type": "datasets"}, 'repo_type="dataset"'),
        ({"repo_type": ["model", "Spaces"]}, 'repo_type="space"'),
        ({"action": "created"}, 'action="create"'),
        ({"action": "merged"}, 'status="merged"'),
        ({"status": "opened"}, 'status="open"'),
        ({"repo": "https://huggingface.co/me/x"}, 'repo="me/x"'),
        ({"owner": "@me"}, 'owner="me"'),
        ({"ref": "refs/head/main"}, 'ref="refs/heads/main"'),
        ({"path": "/raw/*"}, 'path="raw/*"'),
    ],
)
def test_undocumented_value_warns_with_the_nearest_one(
    router: Router, criteria: dict[str, Any], right: str
) -> None:
    def handler(event: HubEvent) -> None: ...

    for register in (router.on(**criteria), functools.partial(router.add, **criteria)):
        with pytest.warns(UserWarning, match="documents no|never matches") as caught:
            register(handler)
        (warning,) = caught
        assert f"did you mean `{right}`?" in str(warning.message)
        assert warning.filename == __file__


def test_undocumented_value_of_on_comment_warns(router: Router) -> None:
    with pytest.warns(UserWarning, match='did you mean `status="open"`'):

        @router.on_comment(status="opened")
        def handler(event: CommentEvent) -> None: ...


def test_undocumented_value_still_matches(router: Router, event: Callable[..., HubEvent]) -> None:
    with pytest.warns(UserWarning, match="the Hub documents no"):

        @router.on("repo", repo_type="paper")
        def handler(event: HubEvent) -> None: ...

    assert router.match(event("repo.create", repo__type="paper"))


def test_each_undocumented_value_warns_once(router: Router) -> None:
    with pytest.warns(UserWarning, match="the Hub documents no") as caught:

        @router.on(repo_type="datasets", action=["created", "deleted"])
        def handler(event: HubEvent) -> None: ...

    assert len(caught) == 3
    Webhooks("moon").include_router(router)


@pytest.mark.parametrize(("name", "table"), [
    ("Action", _core.ACTIONS), ("RepoType", _core.REPO_TYPES), ("Status", _core.STATUSES)
])  # fmt: skip
def test_types_list_the_values_of_the_core(name: str, table: tuple[str, ...]) -> None:
    assert get_args(getattr(_values, name)) == table


def test_kernel_is_a_type_of_repository(router: Router) -> None:
    @router.on("repo", "repo.content", "repo.config", "discussion", repo_type="kernel")
    def handler(event: HubEvent) -> None: ...

    for made in (
        testing.repo("create", repo_type="kernel"),
        testing.content(repo_type="kernel"),
        testing.config(repo_type="kernel"),
        testing.discussion("create", repo_type="kernel"),
    ):
        assert made.repo.type == "kernel"
        assert "/kernels/" in str(made.repo.url and made.repo.url.web)
        assert router.match(made)


@pytest.mark.parametrize(
    "scope", ["discussion", "discussion.comment", "discussion.*", CommentEvent]
)
def test_discussion_of_a_bucket_is_rejected(router: Router, scope: Any) -> None:
    def handler(event: HubEvent) -> None: ...

    for make in (
        lambda: Filter(scope, repo_type="bucket"),
        lambda: router.on(scope, repo_type=["bucket"])(handler),
        lambda: router.on_comment(repo_type="bucket")(handler),
        lambda: testing.comment(repo_type="bucket"),
        lambda: testing.discussion("create", repo_type="bucket"),
    ):
        with pytest.raises(ConfigError, match="buckets have no discussions"):
            make()


# ---- annotations that no event meets -------------------------------------------------------------


def of_content(event: ContentEvent) -> None: ...
def of_content_or_config(event: ContentEvent | ConfigEvent) -> None: ...
def of_content_by_union(event: Union[ContentEvent, None]) -> None: ...  # noqa: UP007 - a spelling
def of_content_annotated(event: Annotated[ContentEvent, "x"]) -> None: ...
def of_content_by_module(event: hubhooks.ContentEvent) -> None: ...
def of_content_in_quotes(event: "ContentEvent") -> None: ...  # noqa: UP037 - a spelling
def of_dict(event: dict[str, Any]) -> None: ...
def of_plain_dict(event: dict) -> None: ...  # type: ignore[type-arg]
async def of_content_async(event: ContentEvent, context: RunContext) -> None: ...


class Bot:
    def of_content(self, event: ContentEvent) -> None: ...

    def __call__(self, event: ContentEvent) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        of_content,
        of_content_or_config,
        of_content_by_union,
        of_content_annotated,
        of_content_by_module,
        of_content_in_quotes,
        of_content_async,
        of_plain_dict,
        Bot().of_content,
        Bot(),
        functools.partial(of_content_async, context=None),
    ],
)
@pytest.mark.parametrize("scopes", [("discussion",), (DiscussionEvent,), ("repo", "discussion.*")])
def test_annotation_outside_the_scopes_is_rejected(
    router: Router, function: Any, scopes: tuple[Any, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"handler `x` takes `\w+: \w+") as caught:
        router.add(function, *scopes, name="x")
    assert router.handler("x") is None
    assert "Event`; write `" in str(caught.value)


def test_error_names_the_classes_of_the_scope(router: Router) -> None:
    with pytest.raises(ConfigError) as caught:
        router.on("discussion")(of_content)
    assert str(caught.value) == (
        "handler `of_content` takes `event: ContentEvent`, but `discussion` gives `CommentEvent` "
        "or `DiscussionEvent`; write `event: DiscussionEvent`"
    )
    with pytest.raises(
        ConfigError, match="but it gets `CommentEvent`; write `event: CommentEvent`"
    ):
        router.on_comment()(of_content)
    with pytest.raises(ConfigError, match="but it gets any `HubEvent`; write `event: HubEvent`"):
        router.on()(of_plain_dict)


def of_hub(event: HubEvent) -> None: ...
def of_discussion(event: DiscussionEvent) -> None: ...
def of_comment(event: CommentEvent) -> None: ...
def of_either(event: DiscussionEvent | ContentEvent) -> None: ...
def of_any(event: Any) -> None: ...
def of_object(event: object) -> None: ...
def of_unknown(event: Unknown) -> None: ...
def of_unknown_or_content(event: Unknown | ContentEvent) -> None: ...
def of_nothing(event) -> None: ...  # type: ignore[no-untyped-def]
def of_bad_code(event: "not an expression (") -> None: ...  # type: ignore[valid-type] # noqa: F722 - the test needs such an annotation


class HasScope(Protocol):
    scope: str


def of_protocol(event: HasScope) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        of_hub,
        of_discussion,
        of_comment,
        of_either,
        of_any,
        of_object,
        of_unknown,
        of_unknown_or_content,
        of_nothing,
        of_bad_code,
        of_protocol,
    ],
)
def test_possible_or_unknown_annotation_is_accepted(router: Router, function: Any) -> None:
    router.add(function, "discussion")
    router.add(function, "repo.new", name="undocumented scope")


@pytest.mark.parametrize(
    ("scopes", "criteria", "function", "is_rejected"),
    [
        (("discussion",), {"action": "create"}, of_comment, False),
        (("discussion",), {"action": "update"}, of_comment, True),
        (("repo.*",), {}, of_content, False),
        (("repo.*",), {}, of_comment, True),
        ((), {"mention": "me"}, of_content, True),
        ((), {"ref": "main"}, of_content, False),
        ((), {}, of_content, False),
        (("repo.content", "discussion"), {}, of_content, True),
        (("repo.content", "discussion"), {}, of_either, False),
        ((HubEvent,), {}, of_content, False),
        ((RepoEvent,), {}, of_content, True),
    ],
)
def test_annotation_check_uses_all_criteria(
    router: Router, scopes: tuple[Any, ...], criteria: Any, function: Any, is_rejected: bool
) -> None:
    if is_rejected:
        with pytest.raises(ConfigError, match="takes `event: "):
            router.add(function, *scopes, **criteria)
    else:
        router.add(function, *scopes, **criteria)


def test_annotation_of_a_decorated_function_is_read(router: Router) -> None:
    def logged(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> None:
            function(*args)

        return wrapper

    with pytest.raises(ConfigError, match="takes `event: ContentEvent`"):
        router.add(logged(of_content), "discussion")
    # The decorator may pass on something else.
    router.add(logged(of_plain_dict), "discussion")


def test_annotation_of_when_and_of_hooks_is_checked(router: Router) -> None:
    with pytest.raises(ConfigError, match="the `when` of handler `of_hub` takes `event: Content"):
        router.add(of_hub, "discussion", when=of_content)
    with pytest.raises(
        ConfigError, match="`on_unhandled` hook `of_plain_dict` takes `event: dict`"
    ):
        router.on_unhandled(of_plain_dict)
    router.on_unhandled(of_hub)
    router.on_unhandled(of_content)


def test_each_decorator_is_checked_alone(router: Router) -> None:
    router.on("repo.config")(router.on("repo.content")(of_content_or_config))
    assert router.handler("of_content_or_config") is not None


@pytest.mark.parametrize(
    ("annotation", "is_rejected"),
    [
        (ContentEvent, True),
        (ContentEvent | None, True),
        (Union["ContentEvent", ConfigEvent], True),
        (Annotated[ContentEvent, "x"], True),
        (dict, True),
        (ContentEvent | DiscussionEvent, False),
        (Union["Unknown", ContentEvent], False),
        (dict[str, int], False),
        (Any, False),
        (TypeVar("AnyEvent", bound=ContentEvent), False),
        (7, False),
    ],
)
def test_annotations_may_be_objects(router: Router, annotation: Any, is_rejected: bool) -> None:
    def handler(event: HubEvent) -> None: ...

    handler.__annotations__["event"] = annotation
    if is_rejected:
        with pytest.raises(ConfigError, match="takes `event: "):
            router.add(handler, "discussion")
    else:
        router.add(handler, "discussion")


# ---- arguments in the wrong order ----------------------------------------------------------------


def with_delivery_first(delivery: Any, event: HubEvent) -> None: ...
def with_context_first(context: Any, e: Any) -> None: ...
def with_error_first(error: Any, event: HubEvent, context: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "names"),
    [(with_delivery_first, "(delivery, event)"), (with_context_first, "(context, e)")],
)
def test_handler_with_swapped_parameters_is_rejected(
    router: Router, function: Any, names: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        router.add(function, "repo", name="x")
    assert str(caught.value) == (
        f"handler `x` takes `{names}` in the wrong order; "
        "write `def handler(event)` or `def handler(event, context)`"
    )


def test_hook_with_swapped_parameters_is_rejected(router: Router) -> None:
    with pytest.raises(ConfigError, match=r"write `def hook\(event, context, error\)`"):
        router.on_error(with_error_first)


# ---- names that people type ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("webhook_secret", "did you mean `secret=`?"),
        ("secrets", "did you mean `secret=`?"),
        ("db", "did you mean `deliveries=`?"),
        ("database", "did you mean `deliveries=`?"),
        ("store", "did you mean `deliveries=`?"),
        ("path", "`deliveries=`, and the path of the URL is an argument of the FastAPI router"),
        ("prefix", 'app.include_router(hooks.router("/webhooks/hub"))'),
        ("token", "the webhook secret is `secret=`"),
        ("retries", '`@hooks.on("repo.content", retries=...)`'),
        ("ui", "`hooks.launch(demo)`"),
        ("ignore_author", "did you mean `ignore_authors=`?"),
        ("colour", "there are secret, allow_unsigned,"),
    ],
)
def test_unknown_setting_suggests_the_right_one(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Webhooks(**{name: "hidden"})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"`{name}=` is not a setting of `Webhooks`; ")
    assert hint in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_unknown_setting_of_a_router_suggests_the_right_one() -> None:
    with pytest.raises(ConfigError, match="did you mean `ignore_authors=`"):
        Router(ignore_author="61a1")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="other settings belong to `Webhooks`"):
        Router(secret="moon")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("scope", 'scopes are positional arguments: `@hooks.on("repo.content")`'),
        ("type", "did you mean `repo_type=`?"),
        ("pr", "did you mean `pull_request=`?"),
        ("max_retries", "did you mean `retries=`?"),
    ],
)
def test_unknown_criterion_suggests_the_right_one(router: Router, name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        router.add(of_hub, **{name: "x"})  # type: ignore[arg-type]
    assert str(caught.value) == f"`{name}=` is not a filter or an option; {hint}"


def test_include_router_replaces_include(router: Router) -> None:
    router.on("repo")(of_hub)
    hooks = Webhooks("moon")
    hooks.include_router(router)
    assert list(hooks.handler_names) == ["of_hub"]
    assert not hasattr(hooks, "include")


def test_include_router_rejects_fastapi_routers() -> None:
    with pytest.raises(ConfigError, match=r"`hubhooks\.Router` or `Webhooks`, not APIRouter"):
        Webhooks("moon").include_router(APIRouter())  # type: ignore[arg-type]


@pytest.mark.parametrize("app", [FastAPI(), APIRouter()])
@pytest.mark.parametrize("options", [{}, {"prefix": "/webhooks"}])
def test_including_webhooks_in_fastapi_suggests_its_router(
    app: Any, options: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=r"write `app\.include_router\(hooks\.router\(\)\)`"):
        app.include_router(Webhooks("moon"), **options)
    with pytest.raises(ConfigError, match=r"`hooks\.include_router\(router\)`"):
        app.include_router(Router(), **options)


@pytest.mark.parametrize("app", [FastAPI(), APIRouter()])
@pytest.mark.parametrize("options", [{}, {"prefix": "/webhooks"}])
def test_router_method_without_parentheses_is_a_config_error(
    app: Any, options: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match=r"hooks\.router\(\)\)`, with parentheses"):
        app.include_router(Webhooks("moon").router, **options)


def test_router_method_is_documented_and_has_its_signature() -> None:
    hooks = Webhooks("moon")
    assert hooks.router.__doc__ == Webhooks.router.__doc__
    assert list(inspect.signature(hooks.router).parameters) == ["path", "options"]
    assert not hasattr(hooks.router, "routes")


def test_other_uses_as_an_app_need_no_routes() -> None:
    hooks = Webhooks("moon")
    assert Mount("/hub", hooks).routes == []
    assert not hasattr(hooks, "routes")
    assert not hasattr(hooks, "no_such_attribute")


# ---- secrets, paths and handlers of an app -------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"allow_unsigned": True}])
def test_secret_of_an_unset_variable_is_a_config_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the secret is None: perhaps its variable is not set"):
        Webhooks(None, **options)  # type: ignore[arg-type] # ty: ignore


def two_routers(app: FastAPI, one: Webhooks, _: Webhooks) -> None:
    app.include_router(one.router())
    app.include_router(one.router())


def two_webhooks(app: FastAPI, one: Webhooks, other: Webhooks) -> None:
    app.include_router(one.router())
    app.include_router(other.router())


def two_spellings(app: FastAPI, one: Webhooks, other: Webhooks) -> None:
    app.include_router(one.router(), prefix="")
    app.include_router(other.router("/hub/"), prefix="/webhooks")


def a_mount(app: FastAPI, one: Webhooks, other: Webhooks) -> None:
    app.include_router(one.router())
    app.mount("/webhooks/hub", other)


def two_paths(app: FastAPI, one: Webhooks, other: Webhooks) -> None:
    app.include_router(one.router())
    app.include_router(other.router("/webhooks/other"))
    app.mount("/hub", other)


@pytest.mark.parametrize("build", [two_routers, two_webhooks, two_spellings, a_mount])
def test_two_webhooks_at_one_path_warn_at_the_start(
    build: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match="receives webhooks at `/webhooks/hub` twice"):
        start(build, monkeypatch)


def test_two_webhooks_at_two_paths_do_not_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        start(two_paths, monkeypatch)


def start(build: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBHOOKS_DELIVERIES", ":memory:")
    app = FastAPI()
    build(app, Webhooks("moon"), Webhooks("sun"))
    with TestClient(app):
        pass


@pytest.mark.parametrize(
    ("register", "level"),
    [
        (lambda _: None, "WARNING"),
        (lambda hooks: hooks.on("repo")(of_hub), "INFO"),
        (lambda hooks: hooks.on_unhandled(of_hub), "INFO"),
    ],
)
def test_start_without_handlers_is_logged_as_a_warning(
    register: Callable[[Webhooks], object], level: str, caplog: pytest.LogCaptureFixture
) -> None:
    hooks = Webhooks("moon", deliveries=":memory:")
    register(hooks)
    app = FastAPI(lifespan=hooks.lifespan)
    with caplog.at_level("INFO", "hubhooks"), TestClient(app):
        pass
    (record,) = [r for r in caplog.records if r.getMessage().startswith("hubhooks started with ")]
    assert record.levelname == level


# ---- the command line ----------------------------------------------------------------------------


def send(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(make_app(), ("send", *arguments), env={"COLUMNS": "250"})
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("http://127.0.0.1:1/", "repo.create"), "did you mean --sample repo.create?"),
        (("http://127.0.0.1:1/", "repo.created"), "did you mean --sample repo.create?"),
        (
            ("http://127.0.0.1:1/", "repo.create", "repo.move"),
            "did you mean --sample repo.create --sample repo.move?",
        ),
        (("repo.create", "http://127.0.0.1:1/"), "hubhooks send URL --sample repo.create"),
        (("repo.create",), "hubhooks send URL --sample repo.create"),
        (("http://127.0.0.1:1/", "x?secret=hidden"), "did you mean --sample NAME?"),
        (("http://127.0.0.1:1/", __file__), f"did you mean --file {__file__}?"),
    ],
)
def test_sample_given_without_its_option_is_a_usage_error(
    arguments: tuple[str, ...], hint: str
) -> None:
    status, output = send(*arguments)
    assert status == 2
    assert hint in output
    assert "hidden" not in output


def test_sample_hint_fits_a_narrow_terminal() -> None:
    command = [sys.executable, "-m", "hubhooks.cli", "send", "http://127.0.0.1:1/", "repo.create"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "--sample repo.create" in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_url_without_a_scheme_is_http(serve: Callable[..., Any], host: str) -> None:
    hooks = Webhooks("moon")
    hooks.on("repo")(of_hub)
    with serve(hooks) as port:
        status, output = send(
            f"{host}:{port}/webhooks/hub", "--sample", "repo.create", "--secret", "moon"
        )
    assert status == 0, output
    assert "accepted: of_hub" in output


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/", "/webhooks/hub", "http:/127.0.0.1/", ""])
def test_invalid_url_is_a_usage_error(url: str) -> None:
    status, output = send(url, "--sample", "repo.create")
    assert status == 2
    assert "the URL is incomplete" in output
