"""What type checkers know of `on`, `on_comment` and `add`. Checked by mypy and pyright, never run.

Each ignored line must be wrong: both checkers report an ignore that nothing needs.
"""

from typing import Any, Literal

from typing_extensions import assert_type

from hubhooks._core import (
    CommentEvent,
    ConfigEvent,
    ContentEvent,
    DiscussionEvent,
    Filter,
    HubEvent,
    RepoEvent,
)
from hubhooks._values import Action, RepoType, Status
from hubhooks.handlers import Handler
from hubhooks.models import RunContext
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks

router = Router(ignore_authors=["61a1"])


# ---- a documented scope or a class says what the handler is given ---------------------------


@router.on("discussion.comment")
def takes_a_comment(event: CommentEvent) -> int:
    return len(event.comment.content)


@router.on(CommentEvent, mention=["bot", "robot"])
def takes_a_comment_by_class(event: CommentEvent) -> None: ...


@router.on("discussion.comment")
def takes_something_broader(event: DiscussionEvent) -> None: ...


@router.on("discussion", "discussion.comment", status="open")
def takes_discussions(event: DiscussionEvent) -> None: ...


@router.on(DiscussionEvent, CommentEvent)
def takes_discussions_by_class(event: DiscussionEvent) -> None: ...


@router.on("repo.content", repo_type="bucket", path="raw/*.csv")
async def takes_content(event: ContentEvent, context: RunContext) -> None: ...


@router.on("repo.config", private=True)
async def takes_config(event: ConfigEvent) -> None: ...


@router.on("repo", action=["create", "move"])
def takes_a_repo(event: RepoEvent) -> None: ...


@router.on("repo.*")
def takes_anything_by_pattern(event: HubEvent) -> None: ...


@router.on()
def takes_everything(event: HubEvent, context: RunContext) -> None: ...


# Two decorators, where one would promise only the class that both share.
@router.on("repo.config")
@router.on("repo.content")
def takes_either(event: ContentEvent | ConfigEvent) -> None: ...


@router.on_comment(mention="bot", repo_type=("model", "dataset"), pull_request=False)
async def on_new_comment(event: CommentEvent, context: RunContext) -> str:
    return event.comment.content + context.id


# Documented values are completed by editors, and any other string is allowed.
@router.on("repo", repo_type=["kernel", "something new"], action="something new")
def takes_new_values(event: RepoEvent) -> None: ...


Filter("discussion", repo_type="model", action={"create"}, status=("open", "something new"))


# ---- the decorated name keeps its own type ----------------------------------------------------


def returns_its_number(event: CommentEvent) -> int:
    return event.discussion.num


def numbers(event: CommentEvent) -> None:
    assert_type(takes_a_comment(event), int)
    assert_type(router.on("discussion.comment")(returns_its_number)(event), int)
    assert_type(router.on_comment()(returns_its_number)(event), int)


def values(action: Action, repo_type: RepoType, status: Status) -> None:
    assert_type(action, Literal["create", "delete", "update", "move"])
    router.on("discussion", action=action, repo_type=[repo_type], status=(status, "new"))


# ---- predicates see the class as well -----------------------------------------------------------

router.on("discussion.comment", when=lambda event: event.comment.content != "")
router.on("repo.content", when=lambda event: event.repo.name != "me/x")
router.on_comment(when=lambda event: event.is_opening_post)


# ---- wrong handlers and criteria are refused ----------------------------------------------------


def takes_only_content(event: ContentEvent) -> None: ...


def takes_only_comments(event: CommentEvent) -> None: ...


def takes_nothing() -> None: ...


def takes_too_much(event: HubEvent, context: RunContext, more: int) -> None: ...


router.on("discussion.comment")(takes_only_content)  # type: ignore[type-var]
router.on(CommentEvent)(takes_only_content)  # type: ignore[type-var]
router.on("discussion")(takes_only_comments)  # type: ignore[type-var]
router.on("repo.config")(takes_only_content)  # type: ignore[type-var]
router.on("repo")(takes_only_content)  # type: ignore[type-var]
router.on("repo.*")(takes_only_content)  # type: ignore[type-var]
router.on()(takes_only_content)  # type: ignore[type-var]
router.on_comment()(takes_only_content)  # type: ignore[type-var]
router.on()(takes_nothing)  # type: ignore[type-var]
router.on()(takes_too_much)  # type: ignore[type-var]
router.on("repo", reop="me/x")  # type: ignore[call-overload]
router.on(int)  # type: ignore[arg-type]
router.on_comment(action="update")  # type: ignore[call-arg]
router.on_comment(path="x")  # type: ignore[call-arg]
router.add(3, "repo")  # type: ignore[arg-type]
router.on("repo", action=7)  # type: ignore[call-overload]
Filter(repo_type=7)  # type: ignore[arg-type]
Router(deliveries="x.db")  # type: ignore[arg-type]
Webhooks(db="x.db")  # type: ignore[arg-type]


# ---- hooks --------------------------------------------------------------------------------------


@router.on_unhandled
def takes_unhandled_event(event: HubEvent) -> int:
    return len(event.scope)


@router.on_error
async def takes_an_error(event: HubEvent, context: RunContext, error: BaseException) -> str:
    return f"{context.handler} on {event.scope}: {error}"


@router.on_failure
def takes_a_failure(event: HubEvent, context: RunContext, error: BaseException) -> None: ...


def calls(event: HubEvent) -> None:
    assert_type(takes_unhandled_event(event), int)
    assert_type(Webhooks(handler_loop="dedicated").has_unhandled_hook, bool)


router.on_unhandled(takes_only_content)  # type: ignore[type-var]
router.on_unhandled(takes_a_failure)  # type: ignore[type-var]
router.on_error(takes_unhandled_event)  # type: ignore[type-var]
router.on_failure(takes_nothing)  # type: ignore[type-var]
Webhooks(handler_loop="main")  # type: ignore[arg-type]


# ---- the rest -----------------------------------------------------------------------------------


class Bot:
    def reply(self, event: CommentEvent) -> None: ...


router.add(Bot().reply, "discussion.comment", mention="bot", name="reply")
router.include_router(Router())


def reads(event: HubEvent, payload: dict[str, Any]) -> None:
    assert_type(router.match(event), list[Handler])
    assert_type(router.explain(HubEvent.from_dict(payload)), list[str])
    assert_type(router.handler("reply"), Handler | None)
