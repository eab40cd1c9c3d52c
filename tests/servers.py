"""Servers: in separate processes, started as a user starts them, and in this one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import pytest
import uvicorn
import uvicorn.server

from hubhooks.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
# The limit of every wait: no test depends on time alone.
PATIENCE = 60
SECRET = "moon"
UVICORN = ("-m", "uvicorn", "app:app", "--port", "{port}")


class Server:
    """A server that runs in a separate process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.folder = log.parent
        self._process = process
        self._log = log

    def request(
        self, path: str, method: str = "GET", *, secret: str | None = None, **options: Any
    ) -> httpx.Response:
        """Send a request; a redirect is given back, not followed."""
        headers = {} if secret is None else {"X-Webhook-Secret": secret}
        headers.update(options.pop("headers", {}))
        with httpx.Client(
            base_url=self.url,
            timeout=PATIENCE,
            trust_env=False,
            verify=False,  # there is no TLS, and to read the certificates is slow
        ) as client:
            return client.request(method, path, headers=headers, **options)

    def post(
        self, path: str, content: Any, *, secret: str | None = SECRET, **options: Any
    ) -> httpx.Response:
        """Deliver as the Hub does."""
        return self.request(path, "POST", secret=secret, content=content, **options)

    def output(self) -> str:
        """Return all it printed so far, on both streams."""
        return self._log.read_text("utf-8", "replace")

    def wait_until(self, is_so: Callable[[], bool], failure: str) -> None:
        """Wait until a condition holds; on failure show the output of the server."""
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            if self._process.poll() is not None and not is_so():
                pytest.fail(f"the server ended and {failure}:\n{self.output()}")
            if time.monotonic() > deadline:
                pytest.fail(f"the server {failure}:\n{self.output()}")
            time.sleep(0.02)

    def wait_for(self, text: str) -> str:
        """Wait until it printed the text, and return all it printed."""
        self.wait_until(lambda: text in self.output(), f"did not print `{text}`")
        return self.output()

    def wait_until_listening(self) -> None:
        """Wait until its port accepts connections."""
        self.wait_until(self._listens, f"does not listen on port {self.port}")

    def wait_until_closed(self) -> None:
        """Wait until its port accepts no more connections."""
        self.wait_until(lambda: not self._listens(), f"still listens on port {self.port}")

    def terminate(self) -> None:
        """Ask it to end, with SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_over(self) -> bool:
        """Whether the process ended."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        """Wait until it ended, and return its exit code."""
        return self._process.wait(PATIENCE)

    def stop(self) -> int:
        """Ask it to end, wait until it did, and return its exit code."""
        self.terminate()
        return self.wait()

    def end(self) -> None:
        """End the server and all processes that it started."""
        try:
            if self._process.poll() is None:
                self.stop()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.wait()
        finally:
            # Gradio leaves its Node server behind, and sometimes a worker.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


def wait_until(is_so: Callable[[], object], failure: str = "it never became so") -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, failure
        time.sleep(0.005)


def ask_for_websocket(server: Server, path: str) -> bytes:
    """Ask for a websocket, and return the response's first line."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        return connection.recv(1000).partition(b"\r\n")[0]


def patiently(write: Callable[[], T]) -> T:
    """Try again while the store waits for another program."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return write()
        except BusyError:  # noqa: PERF203 - it loops only where it failed
            assert time.monotonic() < deadline
            time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Return whether a process runs, on Linux. A zombie does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def started(
    folder: Path,
    *command: str,
    script: str | None = None,
    prints: str | None = None,
    python: str | Path = sys.executable,
    environ: dict[str, str | None] | None = None,
) -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        folder: the working directory.
        command: the arguments of the interpreter; `{port}` is a free port, in `environ` too.
            By default uvicorn with `app:app`.
        script: the text of `app.py` in that folder.
        prints: the output that shows it is ready; by default it is ready when its port listens.
        python: the interpreter.
        environ: variables to set, or with None to leave out; WEBHOOK_SECRET is `moon` by default,
            and deliveries are stored in memory.
    """
    port = free_port()
    if script is not None:
        (folder / "app.py").write_text(script, "utf-8")
    variables: dict[str, str | None] = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "python"),
        "PYTHONUNBUFFERED": "1",
        "WEBHOOK_SECRET": SECRET,
        "HUBHOOKS_DELIVERIES": ":memory:",
        **(environ or {}),
    }
    log = folder / f"output-{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(python), *(word.replace("{port}", str(port)) for word in command or UVICORN)],
            cwd=folder,
            env={
                name: value.replace("{port}", str(port))
                for name, value in variables.items()
                if value is not None
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        server = Server(process, port, log)
        try:
            if prints is None:
                server.wait_until_listening()
            else:
                server.wait_for(prints)
            yield server
        finally:
            server.end()


class _ShortSleeps:
    """asyncio, as uvicorn sees it, with short sleeps.

    uvicorn looks every tenth of a second for the end of the server and of its connections. Hundreds
    of tests would wait for that.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.005))


uvicorn.server.asyncio = _ShortSleeps()

_served = 0


def served_apps() -> int:
    """Return the number of apps that `serve` served in this process."""
    return _served


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()
        self.leaked: list[str] = []

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        await super().shutdown(sockets)
        self.leaked = await leaked_tasks()

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


async def leaked_tasks() -> list[str]:
    """Return the tasks of the running loop that neither its server nor the test began."""
    # A cancelled task ends in the next turns of the loop.
    for _ in range(10):
        await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return [repr(task) for task in tasks if not _is_of_server(task)]


def _is_of_server(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "/uvicorn/" in code.co_filename.replace("\\", "/")


@contextmanager
def serve(app: Any, **options: Any) -> Generator[int]:
    """Serve an app on a free port until the block ends; then no task may be left."""
    global _served  # noqa: PLW0603 - the check of each test reads the count
    _served += 1
    server = _Server(uvicorn.Config(app, port=0, log_config=None, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.is_up.wait(PATIENCE)
        yield server.port
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert server.leaked == [], server.leaked
