"""`Webhooks` connects the parts: secrets, outer apps, and its repr."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from servers import PATIENCE

from hubhooks._core import CommentEvent, ContentEvent, HubEvent
from hubhooks.errors import ConfigError
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks, all_webhooks

if TYPE_CHECKING:
    from collections.abc import Callable

    from hubhooks.models import RunContext


@pytest.fixture
def content(body: Callable[..., bytes]) -> bytes:
    return body("repo.content.update")


def status_of(hooks: Webhooks, ask: Any, content: bytes, **headers: str) -> int:
    pairs = {name.replace("_", "-"): value for name, value in headers.items()}
    return int(asyncio.run(ask(hooks, content, headers=pairs)).status)


# ---- the secret ---------------------------------------------------------------------------------


def test_only_serving_requires_a_secret(event: Callable[..., HubEvent]) -> None:
    hooks = Webhooks()

    @hooks.on("repo.content")
    def retrain(event: ContentEvent) -> None: ...

    assert [h.function for h in hooks.match(event("repo.content.update"))] == [retrain]
    assert len(hooks.explain(event("repo.create"))) == 1
    assert hooks.deliveries.list() == []
    assert hooks.verifier is None


def test_environment_secret_is_read_lazily(
    ask: Any, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = Webhooks()
    assert status_of(hooks, ask, content, x_webhook_secret="moon") == 503
    monkeypatch.setenv("WEBHOOK_SECRET", " moon\n")
    assert status_of(hooks, ask, content, x_webhook_secret="moon") == 200
    monkeypatch.setenv("WEBHOOK_SECRET", "sun")
    assert status_of(hooks, ask, content, x_webhook_secret="sun") == 403


def test_given_secret_has_priority(
    ask: Any, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", "sun")
    hooks = Webhooks("moon")
    assert status_of(hooks, ask, content, x_webhook_secret="moon") == 200
    assert status_of(hooks, ask, content, x_webhook_secret="sun") == 403
    assert status_of(hooks, ask, content) == 401


def test_any_of_several_secrets_is_accepted(ask: Any, content: bytes) -> None:
    hooks = Webhooks(["old", "new"])
    for secret, status in {"old": 200, "new": 200, "older": 403}.items():
        assert status_of(hooks, ask, content, x_webhook_secret=secret) == status


@pytest.mark.parametrize("secret", ["", "  ", "mönd", []])
def test_unusable_secret_is_rejected_at_once(secret: Any) -> None:
    with pytest.raises(ConfigError):
        Webhooks(secret)


@pytest.mark.parametrize("secret", [None, "", "mönd"])
def test_serving_without_a_usable_secret_is_rejected(
    secret: str | None, ask: Any, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    if secret is not None:
        monkeypatch.setenv("WEBHOOK_SECRET", secret)
    hooks = Webhooks()

    async def live() -> None:
        async with hooks.lifespan(None):
            pytest.fail("it started")

    with pytest.raises(ConfigError):
        asyncio.run(live())
    assert status_of(hooks, ask, content) == 503


def test_unsigned_deliveries_must_be_allowed(ask: Any, content: bytes) -> None:
    assert status_of(Webhooks(allow_unsigned=True), ask, content) == 200
    assert status_of(Webhooks("moon", allow_unsigned=True), ask, content) == 401


def test_repr_hides_the_secret(ask: Any, content: bytes, caplog: Any) -> None:
    caplog.set_level("DEBUG")
    hooks = Webhooks("tell-tale")
    for headers in ({}, {"x_webhook_secret": "x"}, {"x_webhook_secret": "tell-tale"}):
        status_of(hooks, ask, content, **headers)
    shown = [repr(hooks), str(hooks), repr(hooks.verifier), repr(hooks.deliveries.list())]
    assert "tell-tale" not in "".join([*shown, caplog.text])


# ---- serving ------------------------------------------------------------------------------------


def test_webhooks_is_an_asgi_app(serve: Any, post: Any, content: bytes) -> None:
    hooks = Webhooks("moon")
    seen: list[tuple[str, str]] = []

    @hooks.on("repo.content", repo="ada-labs/*")
    def retrain(event: ContentEvent, context: RunContext) -> None:
        seen.append((event.repo.name, context.id))

    with serve(hooks) as port:
        status, data = post(port, content)
    assert (status, data["handlers"]) == (202, [retrain.__qualname__])
    assert seen == [("ada-labs/tide-gauges", "d1")]
    delivery = hooks.deliveries.get("d1")
    assert delivery is not None
    assert delivery.state == "succeeded"


def test_lifespan_works_in_an_outer_app(serve: Any, post: Any, content: bytes) -> None:
    hooks = Webhooks("moon")
    ran: list[str] = []

    @hooks.on()
    def matching(event: HubEvent, context: RunContext) -> None:
        ran.append(context.id)

    app = FastAPI(lifespan=hooks.lifespan)
    app.mount("/hooks", hooks)
    with serve(app) as port:
        assert post(port, content, path="/hooks/hub")[0] == 202
    assert ran == ["d1"]


def test_end_of_lifespan_waits_for_handlers(ask: Any, content: bytes) -> None:
    hooks = Webhooks(allow_unsigned=True)
    release = threading.Event()

    @hooks.on()
    def waits(event: HubEvent) -> None:
        assert release.wait(PATIENCE)

    async def live() -> str:
        async with hooks.lifespan(None):
            await ask(hooks, content, headers={"webhook-id": "d1"})
            # The handler is released only if the end of the lifespan waits.
            asyncio.get_running_loop().call_soon(release.set)
        delivery = hooks.deliveries.get("d1")
        assert delivery is not None
        return delivery.state

    assert asyncio.run(live()) == "succeeded"


def test_body_size_can_be_limited(ask: Any, content: bytes) -> None:
    small = Webhooks(allow_unsigned=True, max_body_size=len(content) - 1)
    assert status_of(small, ask, content) == 413
    assert status_of(Webhooks(allow_unsigned=True, max_body_size=len(content)), ask, content) == 200


def test_replays_can_be_skipped(ask: Any, content: bytes) -> None:
    async def twice(hooks: Webhooks) -> list[str]:
        @hooks.on(name="matching")
        async def matching(event: HubEvent) -> None: ...

        data: list[str] = []
        for _ in range(2):
            reply = await ask(hooks, content, headers={"webhook-id": "d1"})
            data.append(reply.data["status"])
            while (delivery := hooks.deliveries.get("d1")) and delivery.state != "succeeded":
                await asyncio.sleep(0)
        return data

    run = asyncio.run(twice(Webhooks(allow_unsigned=True)))
    assert run == ["accepted", "accepted"]
    skip = asyncio.run(twice(Webhooks(allow_unsigned=True, on_replay="skip")))
    assert skip == ["accepted", "duplicate"]


def test_bot_does_not_reply_to_itself(ask: Any, body: Callable[..., bytes]) -> None:
    bot = "6a00000000000000000000b0"
    hooks = Webhooks(allow_unsigned=True, ignore_authors=[bot])
    called: list[HubEvent] = []
    hooks.on_unhandled(called.append)

    @hooks.on_comment()
    def reply(event: CommentEvent) -> None: ...

    own = body("discussion.comment.create", comment__author__id=bot)
    response = asyncio.run(ask(hooks, own))
    assert (response.status, response.data["status"]) == (200, "ignored")
    assert called == []
    assert hooks.explain(HubEvent.from_json(own)) == [
        f"no handler matches: its author `{bot}` is in `ignore_authors`"
    ]


def test_other_routers_can_be_included(ask: Any, content: bytes) -> None:
    router = Router()

    @router.on("repo.content")
    async def retrain(event: ContentEvent) -> None: ...

    hooks = Webhooks(allow_unsigned=True)
    hooks.include_router(router)
    assert status_of(hooks, ask, content) == 202


# ---- hooks and loops ----------------------------------------------------------------------------


def test_hooks_are_called_after_the_response(
    serve: Any, post: Any, body: Callable[..., bytes]
) -> None:
    hooks = Webhooks("moon")
    responded = threading.Event()
    called: list[tuple[str, str]] = []

    @hooks.on("repo.content", name="fails")
    def fails(event: ContentEvent) -> None:
        raise ValueError

    @hooks.on_unhandled
    def unhandled(event: HubEvent) -> None:
        assert responded.wait(PATIENCE)
        called.append(("unhandled", event.scope))

    @hooks.on_failure
    async def failure(event: HubEvent, context: RunContext, error: BaseException) -> None:
        called.append((context.handler, type(error).__name__))

    with serve(hooks) as port:
        assert post(port, body("repo.create"), "d1")[0] == 200
        assert post(port, body("repo.content.update"), "d2")[0] == 202
        assert post(port, b"{}", "d3")[0] == 202
        responded.set()
    assert sorted(called) == [("fails", "ValueError"), ("unhandled", "repo")]


@pytest.mark.parametrize("mounted", [False, True])
def test_dedicated_loop_prevents_delayed_responses(
    serve: Any, post: Any, content: bytes, mounted: bool
) -> None:
    hooks = Webhooks("moon", handler_loop="dedicated")
    begun, release = threading.Event(), threading.Event()
    order: list[str] = []

    @hooks.on(name="blocks")
    async def blocks(event: HubEvent, context: RunContext) -> None:
        if context.id == "d1":
            begun.set()
            while not release.is_set():
                time.sleep(0.01)  # noqa: ASYNC251 - the very mistake
            order.append("handled")

    app: Any = hooks
    if mounted:
        app = FastAPI(lifespan=hooks.lifespan)
        app.mount("/", hooks)
    with serve(app) as port:
        assert post(port, content, "d1")[0] == 202
        assert begun.wait(PATIENCE)
        assert post(port, content, "d2")[0] == 202
        order.append("responded")
        release.set()
    assert order == ["responded", "handled"]
    assert [delivery.state for delivery in hooks.deliveries.list()] == ["succeeded", "succeeded"]


@pytest.mark.parametrize(
    ("chosen", "is_own"), [(None, True), ("server", False), ("dedicated", True)]
)
def test_gradio_uses_a_dedicated_loop_by_default(
    ask: Any, content: bytes, chosen: Any, is_own: bool
) -> None:
    pytest.importorskip("gradio")
    hooks = Webhooks(allow_unsigned=True, handler_loop=chosen)
    seen: list[bool] = []

    @hooks.on()
    async def matching(event: HubEvent) -> None:
        seen.append(threading.current_thread() is not threading.main_thread())

    async def live() -> None:
        async with hooks.app_kwargs()["lifespan"](None):
            await ask(hooks, content)

    asyncio.run(live())
    assert seen == [is_own]


@pytest.mark.parametrize("loop", ["server", "dedicated"])
def test_webhooks_can_be_served_on_another_loop(
    serve: Any, post: Any, content: bytes, loop: Any
) -> None:
    hooks = Webhooks("moon", handler_loop=loop)
    before = set(threading.enumerate())
    loops: list[object] = []

    @hooks.on(name="async")
    async def matching(event: HubEvent) -> None:
        loops.append(asyncio.get_running_loop())

    @hooks.on(name="sync")
    def matching_too(event: HubEvent) -> None: ...

    for delivery_id in ("d1", "d2"):
        with serve(hooks) as port:
            assert post(port, content, delivery_id)[0] == 202
    assert [delivery.state for delivery in hooks.deliveries.list()] == ["succeeded", "succeeded"]
    assert loops[0] is not loops[1]
    ours = set(threading.enumerate()) - before
    for thread in ours:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_missing_extra_is_named() -> None:
    script = """
import sys

class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("fastapi", "gradio"):
            raise ModuleNotFoundError(name=name)

sys.meta_path.insert(0, Absent)
from hubhooks.webhooks import Webhooks, all_webhooks
hooks = Webhooks("moon")
for method in hooks.router, hooks.app_kwargs, lambda: hooks.launch(None), hooks.activity:
    try:
        method()
    except ModuleNotFoundError as error:
        print(error, error.name, error.__cause__.name)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    fastapi, gradio = (
        f'`{name}` is not installed: try `pip install "hubhooks[{name}]"` {name} {name}'
        for name in ("fastapi", "gradio")
    )
    assert done.stdout.splitlines() == [fastapi, gradio, gradio, gradio], done.stderr


def test_import_of_webhooks_loads_no_heavy_module() -> None:
    script = """
import sys, hubhooks.webhooks
heavy = {"fastapi", "starlette", "gradio", "pydantic", "huggingface_hub", "sqlite3", "typer",
    "click", "rich", "httpx", "http.client", "email", "typing_extensions", "uvicorn", "dataclasses",
    "json", "random", "difflib", "datetime", "copy"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "[]\n", done.stderr


# ---- all objects of a process -------------------------------------------------------------------


def test_all_webhooks_are_listed_from_the_oldest_until_they_are_deleted() -> None:
    made = [Webhooks("moon") for _ in range(3)]
    assert [hooks for hooks in all_webhooks() if hooks in made] == made
    del made[1]
    gc.collect()
    assert [hooks for hooks in all_webhooks() if hooks in made] == made
    before = len(all_webhooks())
    made.clear()
    gc.collect()
    assert len(all_webhooks()) == before - 2
