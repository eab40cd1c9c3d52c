"""A server with the page and an invented API behind it, for the tests of the page.

`POST /test` changes its data and emits events: `{"arrive": 100}`, `{"app": {...}}` and others. It
also returns the requests so far. `python tests/page_server.py` serves the page on port 8017; its
token is `moon`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from datetime import datetime, timedelta, timezone
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

import uvicorn

from hubhooks import HubEvent, Webhooks
from hubhooks._samples import compact, describe, sample_json, sample_names, scope_and_action
from hubhooks.admin.handlers_json import explain_json
from hubhooks.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = "moon"  # of this server only
PREFIX = "/_hubhooks/"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types lit-html"
)
SECURITY = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
BEGIN = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)
TRACEBACK = """Traceback (most recent call last):
  File "bot.py", line 8, in reply
    raise ValueError("no token")
ValueError: no token
"""

CHANGED = [{"file": "bot.py", "line": 8, "then": 'raise ValueError("no token")', "now": "return 1"}]

hooks = Webhooks("moon")


@hooks.on("repo.content", repo="ada-labs/*", retries=3)
def retrain(event: HubEvent) -> None: ...


@hooks.on("discussion.comment")
async def reply(event: HubEvent) -> str:
    return "hello"


@hooks.on("discussion", repo="me/x")
def never(event: HubEvent) -> None: ...


class PageServer:
    """The app: data in memory, and streams that its test path feeds.

    Args:
        mode: `dev`, or `admin` without sending.
    """

    def __init__(self, mode: str = "dev") -> None:
        self.mode = mode
        self.deliveries: list[dict[str, Any]] = []  # the newest first
        self.requests: list[str] = []
        self.replays: list[tuple[str, list[str]]] = []
        self.sent: list[dict[str, Any]] = []
        self.is_stream_open = True
        self.token = TOKEN
        self.output = "calling the model...\n"  # of attempts after the second
        self.app: dict[str, Any] = {
            "mode": "dev", "target": "bot.py", "state": "running", "handlers": 3, "seconds": 0.5,
            "started_at": BEGIN.isoformat(), "traceback": "", "file": "", "line": None,
            "output": [{"stream": "stdout", "text": "ready", "at": BEGIN.isoformat()}],
            "webhook_urls": ["http://127.0.0.1:8000/"],
            "tunnel": "cloudflared tunnel --url http://127.0.0.1:8000",
        }  # fmt: skip
        self._streams: set[asyncio.Queue[tuple[str, Any] | None]] = set()
        self._number = 0
        self._samples = {name: sample_json(name) for name in sample_names()}
        self._texts: dict[str, str] = {}

    # ---- data ----------------------------------------------------------------------------------

    def add(self, sample: str = "", state: str = "", body: Any = None) -> dict[str, Any]:
        """Add a delivery and return it. Samples and states take turns."""
        number = len(self.deliveries)
        names = list(self._samples)
        body = body or self._samples[sample or names[number % len(names)]]
        try:
            matches = explain_json(hooks, compact(body))["handlers"]
        except PayloadError:
            matches = []
        reason = "\n".join(one["text"] for one in matches)
        names = [one["name"] for one in matches if one["matches"]]
        state = state or (("succeeded", "failed", "retrying")[number % 3] if names else "unhandled")
        at = datetime.now(timezone.utc) if number > 20 else BEGIN + timedelta(seconds=number)
        scope, action = scope_and_action(body)
        delivery = {
            "id": f"d{number:05}-{scope}", "received_at": at.isoformat(),
            "state": state, "scope": scope, "action": action,
            "repo": body.get("repo", {}).get("name"), "size": len(compact(body)),
            "reason": "" if names else reason, "is_replay": number % 7 == 3,
            "is_acknowledged": True, "duplicates": int(number % 11 == 5),
            "runs": [self._run(name, state, at) for name in names],
            "body": body,
        }  # fmt: skip
        self.deliveries.insert(0, delivery)
        return delivery

    def _run(self, name: str, state: str, at: datetime) -> dict[str, Any]:
        is_bad = state in {"failed", "retrying"}
        return {
            "handler": name, "state": state, "attempts": 2, "failures": 2 if is_bad else 1,
            "crashes": 0, "due_at": None, "started_at": at.isoformat(),
            "finished_at": (at + timedelta(milliseconds=8)).isoformat(),
            "error": "ValueError: no token" if is_bad else "",
        }  # fmt: skip

    def attempts(self, delivery: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "handler": run["handler"], "attempt": number, "pid": 4217,
                "code": "9f3c" if number == 1 else "a03f", "changed_lines": CHANGED * (number == 1),
                "state": "failed" if number == 1 else run["state"],
                "started_at": run["started_at"], "finished_at": run["finished_at"],
                "error": run["error"] or ("KeyError: 'x'" if number == 1 else ""),
                "traceback": TRACEBACK if number == 1 or run["error"] else "",
                "output": self.output if number > 2 else "calling the model...\n",
                "result": "'hello'",
            }
            for run in delivery["runs"]
            for number in range(1, run["attempts"] + 1)
        ]  # fmt: skip

    def row(self, delivery: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in delivery.items() if name != "body"}

    def whole(self, delivery: dict[str, Any]) -> dict[str, Any]:
        try:
            explanations = hooks.explain(HubEvent.from_json(compact(delivery["body"])))
        except PayloadError:
            explanations = []
        runs = [{**run, "traceback": TRACEBACK * bool(run["error"])} for run in delivery["runs"]]
        return {
            **delivery,
            "runs": runs,
            "headers": [["content-type", "application/json"], ["webhook-id", delivery["id"]]],
            "explanations": explanations,
            "handlers": [run["handler"] for run in delivery["runs"]],
        }

    def find(self, given: dict[str, str]) -> dict[str, Any]:
        words = given.get("q", "").lower().split()
        found = [
            one
            for one in self.deliveries
            if given.get("state", one["state"]) == one["state"]
            and all(word in self._text(one) for word in words)
            and (
                "handler" not in given
                or any(run["handler"] == given["handler"] for run in one["runs"])
            )
        ]
        total, limit = len(found), int(given.get("limit", "50"))
        if before := given.get("before"):
            ids = [one["id"] for one in found]
            found = found[ids.index(before) + 1 :]
        page = [self.row(one) for one in found[:limit]]
        is_more = len(found) > limit
        return {"deliveries": page, "before": page[-1]["id"] if is_more else None, "total": total}

    def _text(self, one: dict[str, Any]) -> str:
        # The state of a delivery changes.
        key = f"{one['id']} {one['state']}"
        if key not in self._texts:
            runs = [run[name] for run in one["runs"] for name in ("handler", "error")]
            parts = [one[name] for name in ("id", "state", "scope", "action", "repo", "reason")]
            self._texts[key] = " ".join(str(part) for part in (*parts, *runs)).lower()
        return self._texts[key]

    def stats(self) -> dict[str, Any]:
        states: dict[str, int] = {}
        for one in self.deliveries:
            states[one["state"]] = states.get(one["state"], 0) + 1
        return {
            "states": states, "rejections": {"wrong secret": 3},
            "body_bytes": sum(one["size"] for one in self.deliveries),
            "unfinished_since": None, "store": "hubhooks.db", "version": "0.1.0",
        }  # fmt: skip

    def handlers(self) -> list[dict[str, Any]]:
        found = []
        for line, name in enumerate(hooks.handler_names, 4):
            runs = [
                (one, run) for one in self.deliveries for run in one["runs"]
                if run["handler"] == name
            ]  # fmt: skip
            counts: dict[str, int] = {}
            for _, run in runs:
                counts[run["state"]] = counts.get(run["state"], 0) + 1
            last = None
            if runs:
                one, run = runs[0]
                last = {"delivery": one["id"], "state": run["state"], "at": run["finished_at"]}
            found.append({
                "name": name, "file": "bot.py", "line": line, "is_async": name == "reply",
                "filters": [f"{name} takes `repo.content`, repo `ada-labs/*`"],
                "criteria": [{}],
                "policy": {
                    "retries": 3, "backoff": 5.0, "timeout": None, "concurrency": None,
                    "serial": False, "debounce": None,
                },
                "counts": counts, "last": last,
            })  # fmt: skip
        return found

    # ---- HTTP ----------------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = (scope.get("raw_path") or scope["path"].encode()).decode().partition("?")[0]
        body = b""
        while scope["method"] == "POST":
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if path == "/test":
            await self._respond(send, 200, self.control(json.loads(body or b"{}")))
            return
        if not path.startswith(PREFIX):
            await self._respond(send, 404, {"reason": "not here"})
            return
        path = path.removeprefix(PREFIX)
        if not path.startswith("api/"):
            await self._file(send, path or "index.html")
            return
        path = path.removeprefix("api/")
        self.requests.append(f"{scope['method']} {path}")
        if dict(scope["headers"]).get(b"authorization") != f"Bearer {self.token}".encode():
            await self._respond(send, 403, {"reason": "the admin token is wrong"})
        elif path == "events":
            await self._stream(receive, send)
        else:
            given = dict(parse_qsl(scope["query_string"].decode()))
            status, content = self._api(scope["method"], path, given, body)
            await self._respond(send, status, content)

    def _api(  # noqa: PLR0911 - one for each path
        self, method: str, path: str, given: dict[str, str], body: bytes
    ) -> tuple[int, Any]:
        match [method, *path.split("/")]:
            case ["GET", "deliveries"]:
                return 200, self.find(given)
            case ["GET" | "POST", "deliveries", name, *rest]:
                return self._one(unquote(name), rest, body)
            case ["GET", "handlers"]:
                return 200, {"handlers": self.handlers()}
            case ["GET", "stats"]:
                return 200, self.stats()
            case ["GET", "app"]:
                return 200, self.app if self.mode == "dev" else {"mode": "admin"}
            case ["GET", "samples"]:
                samples = [
                    {
                        "name": name, "scope": scope_and_action(one)[0],
                        "action": scope_and_action(one)[1], "description": describe(one),
                        "body": one,
                    }
                    for name, one in self._samples.items()
                ]  # fmt: skip
                return 200, {"samples": samples}
            case ["POST", "explain"]:
                try:
                    return 200, explain_json(hooks, body)
                except PayloadError as error:
                    return 422, {"reason": str(error), "path": ""}
            case ["POST", "send"] if self.mode == "dev":
                return 200, {"responses": self._send(json.loads(body))}
        return 404, {"reason": "there is no such path"}

    def _one(self, name: str, rest: list[str], body: bytes) -> tuple[int, Any]:
        delivery = next((one for one in self.deliveries if one["id"] == name), None)
        if delivery is None:
            return 404, {"reason": "there is no such delivery"}
        if rest == ["attempts"]:
            return 200, {"attempts": self.attempts(delivery), "code": "a03f"}
        if rest == ["replay"]:
            names = [run["handler"] for run in delivery["runs"]]
            names = json.loads(body)["handlers"] if body else names
            self.replays.append((name, names))
            for run in delivery["runs"]:
                if run["handler"] in names:
                    run.update(state="succeeded", attempts=run["attempts"] + 1, error="")
            delivery["state"] = "succeeded"
            self.emit("delivery", self.row(delivery))
            return 202, {"delivery": name, "handlers": names}
        return 200, self.whole(delivery)

    def _send(self, order: dict[str, Any]) -> list[dict[str, Any]]:
        self.sent.append(order)
        if order["secret"] in {"wrong", "none"}:
            content = {"status": "rejected", "reason": "the secret is wrong"}
            return [{"status": 403, "body": content, "milliseconds": 1.2, "id": None}]
        responses = []
        for _ in range(order["times"]):
            delivery = self.add(body=json.loads(order["body"]))
            self.emit("delivery", self.row(delivery))
            responses.append({
                "status": 202, "body": {"status": "accepted"}, "milliseconds": 6.81,
                "id": delivery["id"],
            })  # fmt: skip
        return responses

    async def _respond(self, send: Any, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        await self._start(send, status, "application/json")
        await send({"type": "http.response.body", "body": body})

    async def _start(self, send: Any, status: int, kind: str) -> None:
        headers = {**SECURITY, "content-type": kind}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _file(self, send: Any, path: str) -> None:
        file = resources.files("hubhooks") / "page" / path
        if ".." in path or not file.is_file():
            await self._respond(send, 404, {"reason": "there is no such file"})
            return
        await self._start(send, 200, f"{KINDS.get(path.rpartition('.')[2], 'text/plain')}")
        await send({"type": "http.response.body", "body": file.read_bytes()})

    # ---- the stream ----------------------------------------------------------------------------

    async def _stream(self, receive: Any, send: Any) -> None:
        if not self.is_stream_open:
            await self._respond(send, 503, {"reason": "the stream is closed"})
            return
        await self._start(send, 200, "text/event-stream")
        events: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        self._streams.add(events)
        events.put_nowait(("ready", {"after": self._number}))
        left = asyncio.ensure_future(self._end_on_disconnect(receive, events))
        try:
            async for name, data in read(events):
                self._number += 1
                text = f"id: {self._number}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
                more = {"type": "http.response.body", "body": text.encode(), "more_body": True}
                await send(more)
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._streams.discard(events)
            left.cancel()

    async def _end_on_disconnect(self, receive: Any, events: asyncio.Queue[Any]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        events.put_nowait(None)

    def emit(self, name: str, data: Any) -> None:
        """Send an event to all streams."""
        for events in self._streams:
            events.put_nowait((name, data))

    def control(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do what a test asks for, and return the ids of the new deliveries."""
        ids = []
        for _ in range(order.get("arrive", 0)):
            delivery = self.add(order.get("sample", ""), order.get("state", ""), order.get("body"))
            self.emit("delivery", self.row(delivery))
            ids.append(delivery["id"])
        if "reason" in order:
            self.deliveries[0]["reason"] = order["reason"]
        self.output = order.get("output", self.output)
        if "app" in order:
            self.app.update(order["app"])
            self.emit("app", self.app)
        self.token = order.get("token", self.token)
        if "stream" in order:
            self.is_stream_open = order["stream"]
            if not self.is_stream_open:
                for events in self._streams:
                    events.put_nowait(None)
        if ids:
            self.emit("stats", self.stats())
        return {"ids": ids, "requests": self.requests, "replays": self.replays, "sent": self.sent}


async def read(events: asyncio.Queue[tuple[str, Any] | None]) -> AsyncIterator[tuple[str, Any]]:
    """Read events until a None."""
    while (event := await events.get()) is not None:
        yield event


def main() -> None:
    """Serve the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=8017)
    parser.add_argument("--count", type=int, default=60, help="the number of deliveries")
    parser.add_argument("--mode", choices=["dev", "admin"], default="dev")
    options = parser.parse_args()
    server = PageServer(options.mode)
    for _ in range(options.count):
        server.add()
    uvicorn.run(server, port=options.port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
