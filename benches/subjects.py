"""The servers of `benches/serving.py`: `python benches/subjects.py NAME` serves one.

A server writes its port to standard output, as a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from typing import Any

import uvicorn

SECRET = "moon"


async def do_nothing(event: object) -> None: ...


def do_nothing_in_thread(event: object) -> None: ...


async def floor(scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401
    """Read the body and send some JSON, the least that any receiver must do."""
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


def webhooks(scope: str, handler: Any) -> Any:  # noqa: ANN401
    # The floor must not import hubhooks: its process has only what a bare app needs.
    from hubhooks import Webhooks  # noqa: PLC0415 - see above

    hooks = Webhooks(SECRET)
    hooks.add(handler, scope)
    return hooks


SUBJECTS = {
    "floor": lambda: floor,
    "unhandled": lambda: webhooks("repo.content", do_nothing),
    "async": lambda: webhooks("discussion", do_nothing),
    "sync": lambda: webhooks("discussion", do_nothing_in_thread),
}


def compute() -> None:
    while True:
        sum(at * at for at in range(1_000))


def serve(app: Any, computing: int) -> None:  # noqa: ANN401
    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:  # noqa: ANN401
            await super().startup(sockets)
            for _ in range(computing):
                threading.Thread(target=compute, daemon=True).start()
            print(json.dumps({"port": self.servers[0].sockets[0].getsockname()[1]}), flush=True)

    # Both are in `uvicorn[standard]`.
    config = uvicorn.Config(
        app, port=0, http="httptools", loop="uvloop", access_log=False, log_level="critical"
    )
    Server(config).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=SUBJECTS)
    parser.add_argument("--computing", type=int, default=0, metavar="THREADS")
    parser.add_argument("--switch-interval", type=float, metavar="SECONDS")
    options = parser.parse_args()
    if options.switch_interval:
        sys.setswitchinterval(options.switch_interval)
    serve(SUBJECTS[options.name](), options.computing)


if __name__ == "__main__":
    main()
