"""Requests and faults: `compare.py` sends them to all bots, `tests/test_peers.py` to hubhooks.

A case sends a request to a running bot, and checks the result. No case depends on time alone: it
waits for the result, with a limit.
"""

from __future__ import annotations

import http.client
import select
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

ROOT = Path(__file__).parents[1]
# To start servers in the same way as the tests.
sys.path.append(str(ROOT / "tests"))

from servers import PATIENCE, Server, started  # noqa: E402 - see above

from hubhooks._samples import compact, sample_json  # noqa: E402

BOTS = ROOT / "benches" / "peers"
# A text that appears nowhere else.
SECRET = "wdGyKrZ7"
BOT_ID = "6a00000000000000000000b0"
MEGABYTE = 1_000_000
# A rejection that takes longer is not sent before the body.
HEADERS_SECONDS = 5


class Peer(NamedTuple):
    """A bot, and how it is started."""

    command: tuple[str, ...]
    path: str


PEERS = {
    "hubhooks": Peer(
        ("-m", "uvicorn", "ours:hooks", "--app-dir", str(BOTS), "--port", "{port}"), "/"
    ),
    "hubhooks in Gradio": Peer((str(BOTS / "ours.py"),), "/gradio_api/webhooks"),
    "WebhooksServer": Peer((str(BOTS / "incumbent.py"),), "/webhooks/bot"),
    "by hand": Peer(
        ("-m", "uvicorn", "by_hand:app", "--app-dir", str(BOTS), "--port", "{port}"), "/webhook"
    ),
}


class Response(NamedTuple):
    """The response to a delivery; status 0 if there was none."""

    status: int
    text: str = ""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def __str__(self) -> str:
        return str(self.status) if self.status else "no response"


class Bot:
    """A running bot, and the lines that its handlers wrote."""

    secret = SECRET

    def __init__(self, peer: Peer, server: Server, folder: Path) -> None:
        self.peer = peer
        self.server = server
        self.folder = folder
        self._numbers = count(1)

    def new_repo(self, kind: str = "") -> str:
        return f"ada-labs/data-{next(self._numbers)}{kind}"

    def deliver(
        self,
        body: dict[str, Any] | bytes,
        *,
        secret: str | bytes | None = SECRET,
        path: str = "",
        **headers: str,
    ) -> Response:
        """Deliver as the Hub does."""
        content = body if isinstance(body, bytes) else compact(body)
        sent: dict[str, Any] = {"Content-Type": "application/json", **headers}
        if secret is not None:
            sent["X-Webhook-Secret"] = secret
        try:
            response = self.server.request(
                path or self.peer.path, "POST", content=content, headers=sent
            )
        except httpx.HTTPError:
            return Response(0)
        return Response(response.status_code, response.text)

    def push(self, repo: str, sample: str = "repo.content.update", **headers: str) -> Response:
        return self.deliver(push(repo, sample), **headers)

    def lines(self) -> list[str]:
        """Return the lines that handlers wrote so far."""
        path = self.folder / "calls"
        return path.read_text("utf-8").splitlines() if path.exists() else []

    def calls(self, word: str, repo: str) -> list[str]:
        return [line for line in self.lines() if line.startswith(f"{word} {repo} ")]

    def wait_for(self, word: str, repo: str, seconds: float = PATIENCE) -> bool:
        """Wait until a handler wrote a line; return whether it did."""
        return waits(lambda: bool(self.calls(word, repo)), seconds)

    def settle(self) -> None:
        """Wait until handlers ran for all deliveries sent so far."""
        repo = self.new_repo()
        self.push(repo)
        self.deliver(comment(repo, "@tide-bot, are you there?"))
        if not (self.wait_for("retrained", repo) and self.wait_for("answered", repo)):
            pytest.fail(f"{self.peer.path} runs no handler:\n{self.server.output()}")

    def megabytes(self, what: str) -> float:
        """Read a figure of the process's memory, such as VmRSS."""
        status = Path(f"/proc/{self.server.pid}/status").read_text("ascii")
        line = next(line for line in status.splitlines() if line.startswith(what))
        return int(line.split()[1]) * 1024 / MEGABYTE

    def send_without_secret(self, megabytes: int) -> None:
        """Send a body with a wrong secret until the response arrives."""
        head = (
            f"POST {self.peer.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Webhook-Secret: sun\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"%x\r\n%s\r\n" % (MEGABYTE, b" " * MEGABYTE)
        address = ("127.0.0.1", self.server.port)
        with socket.create_connection(address, PATIENCE) as stream, suppress(OSError):
            stream.sendall(head.encode())
            for _ in range(megabytes):
                stream.sendall(chunk)
                if select.select([stream], [], [], 0)[0]:
                    return
            stream.sendall(b"0\r\n\r\n")
            stream.recv(MEGABYTE)

    @contextmanager
    def another(self, **environ: str | None) -> Generator[Bot]:
        """Start the same bot again, in a second folder that it keeps between calls."""
        with running(self.peer, self.folder / "another", **environ) as bot:
            yield bot


@contextmanager
def running(peer: Peer, folder: Path, **environ: str | None) -> Generator[Bot]:
    """Run a bot until the block ends.

    Raises:
        pytest.fail.Exception: the bot does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    variables: dict[str, str | None] = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": "{port}",
        "CALLS": str(folder / "calls"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "HUBHOOKS_DELIVERIES": str(folder / "hubhooks.db"),
        "NO_PROXY": "127.0.0.1",
        "SPACE_ID": None,
        "WEBHOOK_SECRET": SECRET,
        **environ,
    }
    with started(folder, *peer.command, environ=variables) as server:
        bot = Bot(peer, server, folder)
        # `WebhooksServer` adds its paths a moment after its socket accepts connections.
        server.wait_until(
            lambda: bot.deliver({}, secret="sun").status not in (0, 404), "does not respond"
        )
        yield bot


def waits(is_so: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; return whether it became true in time."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if is_so():
            return True
        pause.wait(0.02)
    return is_so()


# ---- bodies ------------------------------------------------------------------------------------


def push(repo: str, sample: str = "repo.content.update") -> dict[str, Any]:
    body = sample_json(sample)
    body["repo"]["name"] = repo
    return body


def comment(repo: str, text: str | None, sample: str = "discussion.comment.create") -> Any:  # noqa: ANN401 - JSON
    body = sample_json(sample)
    body["repo"]["name"] = repo
    if text is not None:
        body["comment"]["content"] = text
    return body


def hostile_body() -> bytes:
    """Make a body of 1.4 MB with as many validation errors as possible."""
    body = push("ada-labs/data")
    body["updatedRefs"] = [{}] * 475_000
    return compact(body)


# ---- cases -------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """Whether a bot passed a check, and what it did."""

    is_fine: bool
    what: str = ""


class Case(NamedTuple):
    """A check: what a bot should do, and the request that shows it."""

    group: str
    title: str
    run: Callable[[Bot], Outcome]


CASES: list[Case] = []
_Check = Callable[[Bot], Outcome]


def case(group: str, title: str) -> Callable[[_Check], _Check]:
    def keep(check: _Check) -> _Check:
        CASES.append(Case(group, title, check))
        return check

    return keep


def try_case(case: Case, bot: Bot) -> Outcome:
    """Try a case on a bot. The bot must survive it."""
    outcome = case.run(bot)
    if bot.server.is_over:
        pytest.fail(f"{case.title}: the server ended:\n{bot.server.output()}")
    return outcome


def _accepted(response: Response) -> Outcome:
    return Outcome(response.is_success, str(response))


def _rejected(response: Response) -> Outcome:
    return Outcome(response.status in (401, 403), str(response))


def _unharmed(response: Response) -> Outcome:
    return Outcome(0 < response.status < 500, str(response))


SECRET_CHECKS = "Secret"


@case(SECRET_CHECKS, "accepts the secret in the header")
def _(bot: Bot) -> Outcome:
    repo = bot.new_repo()
    response = bot.push(repo)
    return Outcome(response.is_success and bot.wait_for("retrained", repo), str(response))


@case(SECRET_CHECKS, "accepts the secret in the URL")
def _(bot: Bot) -> Outcome:
    return _accepted(
        bot.deliver(push(bot.new_repo()), secret=None, path=f"{bot.peer.path}?secret={SECRET}")
    )


@case(SECRET_CHECKS, "keeps that secret out of the access log")
def _(bot: Bot) -> Outcome:
    bot.deliver(push(bot.new_repo()), secret=None, path=f"{bot.peer.path}?secret={SECRET}")
    bot.settle()
    return Outcome(SECRET not in bot.server.output())


@case(SECRET_CHECKS, "rejects a wrong and a missing secret")
def _(bot: Bot) -> Outcome:
    wrong = bot.deliver(push(bot.new_repo()), secret="sun")
    missing = bot.deliver(push(bot.new_repo()), secret=None)
    is_fine = _rejected(wrong).is_fine and _rejected(missing).is_fine
    return Outcome(is_fine, f"{wrong}, {missing}")


@case(SECRET_CHECKS, "rejects a secret that is not ASCII")
def _(bot: Bot) -> Outcome:
    return _rejected(bot.deliver(push(bot.new_repo()), secret=b"m\xf6on"))


@case(SECRET_CHECKS, "rejects before a byte of the body is sent")
def _(bot: Bot) -> Outcome:
    connection = http.client.HTTPConnection("127.0.0.1", bot.server.port, timeout=HEADERS_SECONDS)
    connection.putrequest("POST", bot.peer.path)
    for name, value in {
        "Content-Type": "application/json", "Content-Length": "970", "X-Webhook-Secret": "sun",
    }.items():  # fmt: skip
        connection.putheader(name, value)
    try:
        connection.endheaders()
        return _rejected(Response(connection.getresponse().status))
    except TimeoutError:
        return Outcome(is_fine=False, what="it waits for the body")
    finally:
        connection.close()


@case(SECRET_CHECKS, "rejects 100 MB without the secret, and does not hold them")
def _(bot: Bot) -> Outcome:
    with bot.another() as other:
        other.settle()
        before = other.megabytes("VmHWM")
        other.send_without_secret(100)
        more = other.megabytes("VmHWM") - before
    return Outcome(more < 32, f"+{more:.0f} MB")


@case(SECRET_CHECKS, "accepts nothing if no secret is configured")
def _(bot: Bot) -> Outcome:
    try:
        with bot.another(WEBHOOK_SECRET=None) as other:
            response = other.deliver(push(other.new_repo()), secret=None)
            return Outcome(not response.is_success, str(response))
    except pytest.fail.Exception:
        return Outcome(is_fine=True, what="does not start")


READING = "Parsing"


@case(READING, "accepts the files of a bucket")
def _(bot: Bot) -> Outcome:
    return _accepted(bot.push(bot.new_repo(), "repo.content.update.bucket"))


@case(READING, "accepts a body of version 2")
def _(bot: Bot) -> Outcome:
    return _accepted(bot.push(bot.new_repo(), "repo.content.update.v2"))


@case(READING, "accepts an unknown scope, action and status")
def _(bot: Bot) -> Outcome:
    scope = push(bot.new_repo())
    scope["event"] = {"action": "archive", "scope": "repo.config.dois"}
    status = comment(bot.new_repo(), "Nobody is asked.")
    status["discussion"]["status"] = "on hold"
    responses = [bot.deliver(scope), bot.deliver(status)]
    return Outcome(all(each.is_success for each in responses), ", ".join(map(str, responses)))


@case(READING, "accepts a deleted branch, whose new commit is null")
def _(bot: Bot) -> Outcome:
    return _accepted(bot.push(bot.new_repo(), "repo.content.update.deleted-branch"))


@case(READING, "has the head commit of a push")
def _(bot: Bot) -> Outcome:
    body = push(bot.new_repo())
    repo, sha = body["repo"]["name"], body["repo"]["headSha"]
    bot.deliver(body)
    bot.wait_for("retrained", repo)
    has_sha = bot.calls("retrained", repo) == [f"retrained {repo} {sha}"]
    return Outcome(has_sha, "" if has_sha else "it reads None")


@case(READING, "accepts a hidden comment, which has no content")
def _(bot: Bot) -> Outcome:
    body = comment(bot.new_repo(), None, "discussion.comment.update.hidden")
    body["event"]["action"] = "create"
    return _accepted(bot.deliver(body))


@case(READING, "finds a mention in the first post of a discussion")
def _(bot: Bot) -> Outcome:
    repo = bot.new_repo()
    bot.deliver(comment(repo, "@tide-bot, is it high water?", "discussion.create"))
    bot.settle()
    return Outcome(bool(bot.calls("answered", repo)))


@case(READING, "takes `@tide-bot-2` and `x@tide-bot.org` for no mention")
def _(bot: Bot) -> Outcome:
    repo = bot.new_repo()
    bot.deliver(comment(repo, "Ask @tide-bot-2, or write to x@tide-bot.org"))
    bot.settle()
    return Outcome(not bot.calls("answered", repo))


@case(READING, "does not reply to itself, also in a first post")
def _(bot: Bot) -> Outcome:
    repo = bot.new_repo()
    for sample in ("discussion.comment.create", "discussion.create"):
        body = comment(repo, "@tide-bot says: it is.", sample)
        for part in ("comment", "discussion"):
            body[part]["author"]["id"] = BOT_ID
        bot.deliver(body)
    bot.settle()
    return Outcome(not bot.calls("answered", repo))


@case(READING, "responds 2xx to an event without a handler")
def _(bot: Bot) -> Outcome:
    body = sample_json("repo.config.update")
    return _accepted(bot.deliver(body))


@case(READING, "accepts a malformed body, as no retry would help")
def _(bot: Bot) -> Outcome:
    return _accepted(bot.deliver(b'{"event": {"action": "update", "scope": '))


@case(READING, "survives 100,000 brackets, NaN, 1e999 and invalid UTF-8")
def _(bot: Bot) -> Outcome:
    body = compact(push(bot.new_repo()))
    hostile = [
        b"[" * 100_000,
        body.replace(b'"private":false', b'"private":NaN'),
        body.replace(b'"version":3', b'"version":1e999'),
        body.replace(b"tide-gauges", b"tide-\xff\xfe"),
    ]
    responses = [bot.deliver(each) for each in hostile]
    worst = next((each for each in responses if not _unharmed(each).is_fine), responses[0])
    return Outcome(_unharmed(worst).is_fine, ", ".join(map(str, responses)))


RUNNING = "Handlers"


@case(RUNNING, "responds to others while a handler works for 3 s")
def _(bot: Bot) -> Outcome:
    slow = bot.new_repo("-slow")
    thread = threading.Thread(target=bot.push, args=(slow,))
    thread.start()
    waits(lambda: f"began {slow}" in bot.lines(), PATIENCE)
    response = bot.deliver(comment(bot.new_repo(), "Nobody is asked."))
    is_busy = not bot.calls("retrained", slow)
    thread.join()
    bot.wait_for("retrained", slow)
    return Outcome(response.is_success and is_busy, "" if is_busy else "only after it")


@case(RUNNING, "runs once if the Hub sends the delivery again meanwhile")
def _(bot: Bot) -> Outcome:
    repo = bot.new_repo("-slow")
    again = {"Webhook-Id": f"sent-again-{repo}"}
    threads = [threading.Thread(target=bot.push, args=(repo,), kwargs=again) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bot.wait_for("retrained", repo)
    # A second run of the first delivery would end before this one.
    last = bot.new_repo("-slow")
    bot.push(last)
    bot.wait_for("retrained", last)
    times = len(bot.calls("retrained", repo))
    return Outcome(times == 1, f"{times} times" if times != 1 else "")


@case(RUNNING, "retries a failure, or makes the Hub do it")
def _(bot: Bot) -> Outcome:
    repo = bot.new_repo("-flaky")
    response = bot.push(repo)
    if not response.is_success:
        return Outcome(is_fine=True, what=f"responds {response}, so the Hub does")
    is_tried = bot.wait_for("retrained", repo, 5)
    return Outcome(is_tried, "by itself" if is_tried else f"responds {response}, and it is lost")


@case(RUNNING, "loses nothing acknowledged when it is killed")
def _(bot: Bot) -> Outcome:
    return _ended(bot, Server.kill)


@case(RUNNING, "loses nothing acknowledged when it is stopped")
def _(bot: Bot) -> Outcome:
    return _ended(bot, Server.stop)


def _ended(bot: Bot, end: Callable[[Server], object]) -> Outcome:
    """End a bot while a handler works, and start it again."""
    responses: list[Response] = []
    with bot.another() as other:
        slow = other.new_repo(f"-{end.__name__}-slow")
        thread = threading.Thread(target=lambda: responses.append(other.push(slow)))
        thread.start()
        waits(lambda: f"began {slow}" in other.lines(), PATIENCE)
        # A bot that responds before its handler has responded by now.
        thread.join(1)
        end(other.server)
        thread.join()
    if not responses[0].is_success:
        return Outcome(is_fine=True, what="not acknowledged, so the Hub sends it again")
    with bot.another() as other:
        is_done = other.wait_for("retrained", slow, 20)
    return Outcome(is_done, "" if is_done else f"responded {responses[0]}, and it is lost")


@case(RUNNING, "returns the handler's result to the sender")
def _(bot: Bot) -> Outcome:
    repo = bot.new_repo()
    return Outcome(
        f"answered in {repo}" in bot.deliver(comment(repo, "@tide-bot, is it?")).text,
    )
