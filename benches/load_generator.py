"""A load generator for HTTP servers on the loopback interface.

`saturate` and `send_paced` run this file as a process of its own, so the load never shares a GIL
with its caller. Each request has a new random `Webhook-Id`. Connections are kept alive. It needs
Linux: it reads the CPU clock of the server, and waits with `epoll`.
"""

from __future__ import annotations

import json
import math
import random
import re
import select
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from hubhooks._samples import compact, sample_json

SAMPLE = "discussion.create.pull-request"
CONNECTIONS = 16
CLIENTS = 4
PAUSE_SECONDS = 0.01
TIMEOUT = 30.0
# The server counts as idle below 5 % of a CPU.
IDLE_SECONDS = 0.05
IDLE_CPU_SECONDS = 0.0025

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Target(NamedTuple):
    """A server process, and the request and response status of a load."""

    pid: int
    port: int
    path: str
    secret: str
    status: int


class Load(NamedTuple):
    """The figures of one load."""

    count: int
    seconds: float
    cpu_seconds: float
    """CPU time of all threads of the server, from the first request until it is idle again."""
    p99: float
    """Response time in seconds. Only `send_paced` measures it."""

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_per_request(self) -> float:
        return self.cpu_seconds / self.count


def saturate(target: Target, seconds: float) -> Load:
    """Send the next request of each connection as soon as the last one is answered."""
    return _run("saturate", target, seconds)


def send_paced(target: Target, seconds: float) -> Load:
    """Send from a few clients, each with a pause after a response, and measure response times."""
    return _run("paced", target, seconds)


def _run(mode: str, target: Target, seconds: float) -> Load:
    done = subprocess.run(
        [sys.executable, __file__, mode, json.dumps(target), str(seconds)],
        check=False, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"the load of {target} failed")
    return Load(*json.loads(done.stdout))


# ---- in the process of the load ----------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """Read the CPU clock of a process: `clock_getcpuclockid` of the C library, in Python."""
    return time.clock_gettime((~pid << 3) | 2)


def idle_cpu_seconds(pid: int) -> float:
    """Read the CPU clock once the server is idle: handlers may run after the last response."""
    used = cpu_seconds(pid)
    for _ in range(int(TIMEOUT / IDLE_SECONDS)):
        time.sleep(IDLE_SECONDS)
        now = cpu_seconds(pid)
        if now - used < IDLE_CPU_SECONDS:
            return now
        used = now
    what = f"the server is still busy {TIMEOUT:g} s after the last response"
    raise TimeoutError(what)


class Connection:
    """A connection with at most one open request."""

    def __init__(self, target: Target) -> None:
        body = compact(sample_json(SAMPLE))
        self.before_id = (
            f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-Webhook-Secret: {target.secret}\r\nWebhook-Id: "
        ).encode()
        self.after_id = b"\r\n\r\n" + body
        self.status_line = b"HTTP/1.1 %d " % target.status
        self.socket = socket.create_connection(("127.0.0.1", target.port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.random = random.Random()
        self.received = b""
        self.usual_length = 0

    def send(self) -> None:
        delivery_id = b"%024x" % self.random.getrandbits(96)
        self.socket.sendall(self.before_id + delivery_id + self.after_id)

    def receive(self) -> bool:
        """Read from the socket, and return whether the response is complete."""
        data = self.received + self.socket.recv(65_536)
        if len(data) == len(self.received):
            what = "the server closed the connection"
            raise ConnectionError(what)
        # Nearly all responses of a load have one length, so their head is not parsed.
        if len(data) == self.usual_length and data.startswith(self.status_line):
            self.received = b""
            return True
        return self._receive_other(data)

    def _receive_other(self, data: bytes) -> bool:
        self.received = data
        head, end, body = data.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(self.status_line):
            what = f"expected {self.status_line!r}, got {data[:200]!r}"
            raise ValueError(what)
        length = CONTENT_LENGTH.search(head + b"\r\n")
        if length is None:
            what = f"expected a Content-Length, got {head!r}"
            raise ValueError(what)
        if len(body) < int(length[1]):
            return False
        self.received = b""
        self.usual_length = len(data)
        return True

    def exchange(self) -> None:
        self.send()
        while not self.receive():
            pass


def _saturate(target: Target, seconds: float) -> Load:
    connections = {each.socket.fileno(): each for each in connect(target, CONNECTIONS)}
    poll = select.epoll()
    for number in connections:
        poll.register(number, select.EPOLLIN)
    used = idle_cpu_seconds(target.pid)
    began = time.monotonic()
    end = began + seconds
    for connection in connections.values():
        connection.send()
    waiting, count = len(connections), 0
    while waiting:
        ready = poll.poll(TIMEOUT)
        if not ready:
            what = f"no response within {TIMEOUT:g} s"
            raise TimeoutError(what)
        is_over = time.monotonic() >= end
        answered = [connections[number] for number, _ in ready if connections[number].receive()]
        count += len(answered)
        if is_over:
            waiting -= len(answered)
            continue
        for connection in answered:
            connection.send()
    took = time.monotonic() - began
    return Load(count, took, idle_cpu_seconds(target.pid) - used, 0.0)


def _send_paced(target: Target, seconds: float) -> Load:
    times: list[float] = []
    connections = connect(target, CLIENTS)
    used = cpu_seconds(target.pid)
    began = time.monotonic()

    def send(connection: Connection) -> None:
        while (sent := time.monotonic()) < began + seconds:
            connection.exchange()
            times.append(time.monotonic() - sent)
            time.sleep(PAUSE_SECONDS)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(send, connections))
    took = time.monotonic() - began
    p99 = sorted(times)[math.ceil(len(times) * 0.99) - 1]
    return Load(len(times), took, cpu_seconds(target.pid) - used, p99)


def connect(target: Target, count: int) -> list[Connection]:
    """Open connections, and send a first request over each, which no figure counts."""
    connections = [Connection(target) for _ in range(count)]
    for connection in connections:
        connection.exchange()
    return connections


def main() -> None:
    mode, target, seconds = sys.argv[1:]
    run = {"saturate": _saturate, "paced": _send_paced}[mode]
    print(json.dumps(run(Target(*json.loads(target)), float(seconds))))


if __name__ == "__main__":
    main()
