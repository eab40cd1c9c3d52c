"""The servers that `benches/serving.py` compares: `python benches/subjects.py NAME` serves one.

Each imports only what it needs, and writes the URL of each handler to standard output. Annotations
are evaluated in this file: FastAPI reads those of functions within functions.
"""

import asyncio
import hmac
import json
import sys
import warnings
from time import monotonic, sleep
from typing import Annotated, Any

SECRET = "moon"
# All busy handlers end this long after the first one began, so that a server which runs them one
# after the other is not kept longer than one which runs them at once.
BUSY_SECONDS = 4.0
# What begins this long after that begins anew.
PAUSE_SECONDS = 1.0
ROLES = ("returns", "sleeps", "computes", "waits")

_end = 0.0


def seconds_left() -> float:
    global _end  # noqa: PLW0603 - of all handlers of a server
    now = monotonic()
    if now > _end + PAUSE_SECONDS:
        _end = now + BUSY_SECONDS
    return max(0.0, _end - now)


async def returns(event: object) -> None: ...


def returns_in_thread(event: object) -> None: ...


def sleeps(_: object) -> None:
    sleep(seconds_left())


def computes(_: object) -> None:
    while seconds_left():
        sum(at * at for at in range(1_000))


async def waits(_: object) -> None:
    await asyncio.sleep(seconds_left())


# ---- the floor, and ours -----------------------------------------------------------------------


async def floor(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401
    """Do the least that any receiver must: read the body, answer with some JSON."""
    if scope["type"] != "http":
        return
    chunks = []
    more = True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    b"".join(chunks)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"15")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"status":"ok"}'})


def ours(**heard: Any) -> Any:  # noqa: ANN401
    from hubhooks import Webhooks  # noqa: PLC0415 - see above

    hooks = Webhooks(SECRET)
    for scope, function in heard.items():
        hooks.add(function, scope.replace("_", "."))
    return hooks


# ---- the others --------------------------------------------------------------------------------


def minimal() -> Any:  # noqa: ANN401
    """Write by hand what suggests itself."""
    from fastapi import FastAPI, Header, HTTPException  # noqa: PLC0415
    from huggingface_hub import WebhookPayload  # noqa: PLC0415

    app = FastAPI()

    @app.post("/")
    async def receive(
        payload: WebhookPayload, x_webhook_secret: Annotated[str, Header()]
    ) -> dict[str, str]:
        if not hmac.compare_digest(x_webhook_secret.encode(), SECRET.encode()):
            raise HTTPException(403)
        await returns(payload)
        return {"status": "ok"}

    return app


def serve_incumbent() -> None:
    """Start huggingface_hub's server on Gradio as its documentation does."""
    warnings.simplefilter("ignore")
    from huggingface_hub import WebhookPayload, WebhooksServer  # noqa: PLC0415

    server = WebhooksServer(webhook_secret=SECRET)

    @server.add_webhook("/returns")
    async def handler_returns(payload: WebhookPayload) -> dict[str, str]:
        await returns(payload)
        return {"status": "ok"}

    @server.add_webhook("/waits")
    async def handler_waits(payload: WebhookPayload) -> dict[str, str]:
        await waits(payload)
        return {"status": "ok"}

    @server.add_webhook("/sleeps")
    def handler_sleeps(payload: WebhookPayload) -> dict[str, str]:
        sleeps(payload)
        return {"status": "ok"}

    @server.add_webhook("/computes")
    def handler_computes(payload: WebhookPayload) -> dict[str, str]:
        computes(payload)
        return {"status": "ok"}

    server.launch(prevent_thread_lock=True, share=False, quiet=True, ssr_mode=False)
    ui = server.fastapi_app.blocks
    say(ui.server_port, {role: f"/webhooks/{role}" for role in ROLES})
    ui.block_thread()


# ---- serving -----------------------------------------------------------------------------------


def say(port: int, paths: dict[str, str]) -> None:
    print(json.dumps({"port": port, "paths": paths}), flush=True)


def serve(app: Any) -> None:  # noqa: ANN401
    import uvicorn  # noqa: PLC0415

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:  # noqa: ANN401
            await super().startup(sockets)
            say(self.servers[0].sockets[0].getsockname()[1], dict.fromkeys(ROLES, "/"))

    config = uvicorn.Config(
        app, port=0, http="httptools", loop="uvloop", access_log=False, log_level="critical"
    )
    Server(config).run()


SUBJECTS = {
    "floor": lambda: serve(floor),
    "refusal": lambda: serve(ours()),
    "unhandled": lambda: serve(ours(repo_content=returns)),
    "async": lambda: serve(ours(discussion=returns)),
    "sync": lambda: serve(ours(discussion=returns_in_thread)),
    "busy": lambda: serve(
        ours(discussion=returns, repo=sleeps, repo_content=computes, repo_config=waits)
    ),
    "minimal": lambda: serve(minimal()),
    "incumbent": serve_incumbent,
}

if __name__ == "__main__":
    SUBJECTS[sys.argv[1]]()
