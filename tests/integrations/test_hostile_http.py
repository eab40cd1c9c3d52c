"""Hostile and malformed HTTP requests, written by hand to each installed server.

No handler runs without the right secret. No response is a server error of hubhooks. The log shows
neither the secret nor a traceback, and the next delivery is handled.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import pytest
from servers import PATIENCE, SECRET, Server, started
from test_servers import SERVERS, serving

from hubhooks._samples import compact, sample_json, with_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = """
from hubhooks import Webhooks

hooks = Webhooks(max_body_size=200_000)


@hooks.on()
def hear(event):
    print(f"heard {event.repo.name}.", flush=True)
"""
NUMBERS = count(1)
RIGHT = f"X-Webhook-Secret: {SECRET}"
WRONG = "X-Webhook-Secret: sunshine"
CHUNKED = "Transfer-Encoding: chunked"


class Hostile(NamedTuple):
    """A request whose head and body are written as they stand.

    In both, `{length}` is the length of a delivery; in the body `{delivery}` stands for it.
    """

    headers: tuple[str, ...]
    body: str = "{delivery}"
    line: str = "POST / HTTP/1.1"
    may_be_accepted: bool = False
    """Whether a server is free to take it for an honest delivery."""
    is_cut: bool = False
    """Whether the sender goes away without an answer."""


LENGTH = "Content-Length: {length}"
WHOLE = "{length:x}\r\n{delivery}\r\n0\r\n\r\n"
SMUGGLED = f"POST / HTTP/1.1\r\nHost: x\r\n{RIGHT}\r\n{LENGTH}\r\n\r\n{{delivery}}"
HOSTILE = {
    # Unclear end of the body: a proxy may read it differently from the server.
    "a length and chunks": Hostile((RIGHT, LENGTH, CHUNKED), WHOLE, may_be_accepted=True),
    "chunks and a length": Hostile((RIGHT, CHUNKED, LENGTH), WHOLE, may_be_accepted=True),
    "a length and chunks, wrong secret": Hostile((WRONG, LENGTH, CHUNKED), WHOLE),
    "chunks by another name": Hostile((RIGHT, "Transfer-Encoding: xchunked"), WHOLE),
    "chunks twice": Hostile((RIGHT, CHUNKED, CHUNKED), WHOLE, may_be_accepted=True),
    "two lengths": Hostile((RIGHT, LENGTH, "Content-Length: 5")),
    "two lengths, the other way": Hostile((RIGHT, "Content-Length: 5", LENGTH)),
    "the length twice": Hostile((RIGHT, LENGTH, LENGTH), may_be_accepted=True),
    "a list of lengths": Hostile((RIGHT, "Content-Length: {length}, 5")),
    "a negative length": Hostile((RIGHT, "Content-Length: -1")),
    "a length with a sign": Hostile((RIGHT, "Content-Length: +{length}")),
    "a length in hexadecimals": Hostile((RIGHT, "Content-Length: 0x{length:x}")),
    "a length in Arabic digits": Hostile((RIGHT, "Content-Length: ١٢")),
    "a length of a thousand digits": Hostile((RIGHT, "Content-Length: " + "9" * 1000)),
    "a length over the limit": Hostile((RIGHT, "Content-Length: 200001")),
    "no length": Hostile((RIGHT,)),
    "a chunk without a length": Hostile((RIGHT, CHUNKED), "zz\r\n{delivery}\r\n0\r\n\r\n"),
    "a chunk of a negative length": Hostile((RIGHT, CHUNKED), "-5\r\n{delivery}\r\n0\r\n\r\n"),
    "a chunk of 2^64": Hostile((RIGHT, CHUNKED), "10000000000000000\r\n{delivery}", is_cut=True),
    "a chunk longer than it says": Hostile((RIGHT, CHUNKED), "5\r\n{delivery}\r\n0\r\n\r\n"),
    "a secret behind the chunks": Hostile(
        (CHUNKED,), "{length:x}\r\n{delivery}\r\n0\r\n" + RIGHT + "\r\n\r\n", may_be_accepted=True
    ),
    # The body is another request. It has the right secret, which no attacker has.
    "a request in a refused body": Hostile((WRONG, "Content-Length: {smuggled}"), SMUGGLED),
    "a request behind an empty body": Hostile(
        (WRONG, "Content-Length: 0"), SMUGGLED, may_be_accepted=True
    ),
    "a request behind chunks of none": Hostile(
        (WRONG, CHUNKED), f"0\r\n\r\n{SMUGGLED}", may_be_accepted=True
    ),
    # Several secrets.
    "a wrong secret behind the right one": Hostile((RIGHT, WRONG, LENGTH)),
    "the right secret behind a wrong one": Hostile((WRONG, RIGHT, LENGTH)),
    "secrets in a list": Hostile((f"{RIGHT}, sunshine", LENGTH)),
    "a folded secret": Hostile(("X-Webhook-Secret: sun\r\n " + SECRET, LENGTH)),
    "a folded header before a secret": Hostile(("X-A: b\r\n c", WRONG, LENGTH)),
    "a secret in a folded header": Hostile((f"X-A: b\r\n {RIGHT}", LENGTH)),
    "a blank before the colon": Hostile((f"X-Webhook-Secret : {SECRET}", LENGTH)),
    "a secret in the name": Hostile((f"X-Webhook-Secret {SECRET}", LENGTH)),
    "an underscore for a dash": Hostile((f"X_Webhook_Secret: {SECRET}", LENGTH)),
    "a zero in the secret": Hostile((f"{RIGHT}\0", LENGTH)),
    "a control character in the secret": Hostile((f"X-Webhook-Secret: \x01{SECRET}", LENGTH)),
    "a lone line feed in the secret": Hostile(
        (f"X-Webhook-Secret: sun\n{RIGHT}", LENGTH), may_be_accepted=True
    ),
    "a lone carriage return in the secret": Hostile((f"X-Webhook-Secret: sun\r{RIGHT}", LENGTH)),
    "a secret of 60 kB": Hostile((f"{RIGHT}" + "n" * 60_000, LENGTH)),
    "two secrets in the query": Hostile((LENGTH,), line="POST /?secret=sun&secret=moon HTTP/1.1"),
    "a wrong secret, the right one in the query": Hostile(
        (WRONG, LENGTH), line="POST /?secret=moon HTTP/1.1"
    ),
    # Other input that may break a server.
    "two ids": Hostile((RIGHT, LENGTH, "Webhook-Id: a", "Webhook-Id: b"), may_be_accepted=True),
    "an id of 10 kB": Hostile((RIGHT, LENGTH, "Webhook-Id: " + "a" * 10_000), may_be_accepted=True),
    "an id that is not text": Hostile(
        (RIGHT, LENGTH, "Webhook-Id: \udcff\udcfe"), may_be_accepted=True
    ),
    "a thousand headers": Hostile((*(f"X-{at}: {at}" for at in range(1000)), WRONG, LENGTH)),
    "a path of 60 kB": Hostile((WRONG, LENGTH), line=f"POST /{'a' * 60_000} HTTP/1.1"),
    "a path that leaves the root": Hostile((WRONG, LENGTH), line="POST /../../etc/passwd HTTP/1.1"),
    "a path that is a URL": Hostile((WRONG, LENGTH), line="POST http://hf.co/ HTTP/1.1"),
    "a path that is not text": Hostile((WRONG, LENGTH), line="POST /%ff%fe%00 HTTP/1.1"),
    "GET with a body": Hostile((RIGHT, LENGTH), line="GET / HTTP/1.1"),
    "a method of its own": Hostile((RIGHT, LENGTH), line="DELIVER / HTTP/1.1"),
    "CONNECT": Hostile((RIGHT, LENGTH), line="CONNECT / HTTP/1.1"),
    "TRACE": Hostile((RIGHT, LENGTH), line="TRACE / HTTP/1.1"),
    "HTTP/1.0": Hostile((WRONG, LENGTH), line="POST / HTTP/1.0"),
    "HTTP/9.9": Hostile((WRONG, LENGTH), line="POST / HTTP/9.9"),
    # uvicorn passes it to its websockets, which never respond to a POST.
    "an upgrade": Hostile(
        (WRONG, LENGTH, "Connection: upgrade", "Upgrade: websocket"), is_cut=True
    ),
    "no HTTP at all": Hostile((), "", line="\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
    # The sender has disconnected.
    "half a line": Hostile((), "", line="POST / HT", is_cut=True),
    "half a body": Hostile((RIGHT, "Content-Length: 9{length}"), is_cut=True),
    "half a chunk": Hostile((RIGHT, CHUNKED), "9{length:x}\r\n{delivery}", is_cut=True),
    "no last chunk": Hostile((RIGHT, CHUNKED), "{length:x}\r\n{delivery}\r\n", is_cut=True),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    command = (*serving(request.param).command, "app:hooks")
    with started(tmp_path_factory.mktemp("app"), *command, script=SCRIPT) as server:
        yield server


def a_delivery() -> tuple[str, str]:
    """Make the body of a delivery about a new repository; return its name and the body."""
    repo = f"ada-labs/number-{next(NUMBERS)}"
    body = with_overrides(sample_json("repo.content.update"), {"repo.name": repo})
    return repo, compact(body).decode()


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def request(head: tuple[str, ...], body: str, delivery: str) -> bytes:
    known = {"length": len(delivery), "delivery": delivery}
    written = body.format(**known)
    filled = [line.format(**known, smuggled=len(written)) for line in head]
    return ("\r\n".join((*filled, "", "")) + written).encode("utf-8", "surrogateescape")


def status_of(connection: socket.socket) -> int | None:
    """Read the status of a response; None if the other side closes without one."""
    with suppress(ConnectionError), connection.makefile("rb") as stream:
        while line := stream.readline():
            if (status := int(line.split()[1])) != 100:
                return status
            # Some servers ask for the body by themselves.
            while stream.readline().strip():
                pass
    return None


def assert_unharmed(server: Server, *, without: str | None = None) -> None:
    """Deliver as the Hub does, and check the output so far."""
    repo, body = a_delivery()
    assert server.post("/", body).status_code == 202
    output = server.wait_for(f"heard {repo}.")
    assert without is None or without not in output
    assert SECRET not in output
    assert "Traceback" not in output


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_request_does_no_harm(server: Server, what: str) -> None:
    hostile = HOSTILE[what]
    repo, delivery = a_delivery()
    with connected(server) as connection:
        with suppress(ConnectionError):  # some respond before they have read all, and close
            connection.sendall(
                request((hostile.line, "Host: x", *hostile.headers), hostile.body, delivery)
            )
        status = None if hostile.is_cut else status_of(connection)
    assert status in {None, 202, 501} or status in range(400, 500)
    assert hostile.may_be_accepted or status != 202
    assert_unharmed(server, without=None if hostile.may_be_accepted else f"heard {repo}.")


def test_slow_senders_delay_no_other_request(server: Server) -> None:
    slow = [a_delivery() for _ in range(100)]
    with ExitStack() as stack:
        connections = []
        for _, delivery in slow:
            connection = stack.enter_context(connected(server))
            sent = request(("POST / HTTP/1.1", "Host: x", RIGHT, LENGTH), "{delivery}", delivery)
            connection.sendall(sent[:-1])
            connections.append(connection)
        assert_unharmed(server)
        first, last = connections[0], connections[-1]
        for connection in (first, last):
            connection.sendall(b"}")
            assert status_of(connection) == 202
    for repo, _ in (slow[0], slow[-1]):
        server.wait_for(f"heard {repo}.")
    assert_unharmed(server)
    assert server.output().count("heard ada-labs/number-") >= 4


def test_secret_is_checked_before_the_body(server: Server) -> None:
    _, delivery = a_delivery()
    head = ("POST / HTTP/1.1", "Host: x", WRONG, LENGTH, "Expect: 100-continue")
    with connected(server) as connection:
        connection.sendall(request(head, "", delivery))
        assert status_of(connection) == 403
    assert_unharmed(server)
