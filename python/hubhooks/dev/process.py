"""One process of the app, as the supervisor sees it."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import secrets
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from hubhooks import _environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hubhooks.dev.link import SupervisorLink
    from hubhooks.dev.watch import Snapshot

__all__ = ["AppProcess", "Broken", "Webhook"]

END_SECONDS = 3.5
"""A process that is asked to end is killed after this time."""

_KILLED_SECONDS = 1.0
_CHUNK = 64 * 1024
# With `-m`, a file of the app such as `token.py` would hide a module that this package imports.
_RUN_CHILD = (
    "import sys; sys.path[:] = filter(None, sys.path); from hubhooks.dev.child import main; main()"
)


class Broken(TypedDict):
    """Why the app does not run."""

    traceback: str
    file: str
    line: int | None


class Webhook(NamedTuple):
    """A `Webhooks` object of the app."""

    paths: tuple[str, ...]
    """Where the app serves it. The first one is the usual one."""
    store: str
    """The file of its deliveries; empty for a store in memory."""
    handlers: list[dict[str, Any]]


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Tells at once that the process ended.

    Until Python 3.13, `Process.wait` also waits for the end of both pipes. Processes that the app
    started may keep them open.
    """

    def __init__(self) -> None:
        super().__init__(limit=_CHUNK, loop=asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class AppProcess:
    """A process of the app.

    Args:
        folder: the working directory.
        snapshot: the watched files, just before the start.
        on_output: gets the name of the stream, and what was printed.
    """

    def __init__(
        self, folder: Path, snapshot: Snapshot, on_output: Callable[[str, str], None]
    ) -> None:
        self.snapshot = snapshot
        self.token = secrets.token_urlsafe(24)
        self.started_at = time.time()
        self.link: SupervisorLink | None = None
        self.port: int | None = None
        """The private port; None until the app runs."""
        self.broken: Broken | None = None
        self.ended = asyncio.Event()
        self._folder = folder
        self._on_output = on_output
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, config: Mapping[str, object], variables: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            config: the line of JSON that it reads.
            variables: environment variables to set in it.
        """
        environ = {**_environment.read_all(), "PYTHONUNBUFFERED": "1", **variables}
        loop = asyncio.get_running_loop()
        self._transport, protocol = await loop.subprocess_exec(
            _Protocol,
            sys.executable,
            "-c",
            _RUN_CHILD,
            cwd=self._folder,
            env=environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C is for the supervisor, which then ends the app.
            start_new_session=True,
        )
        process = asyncio.subprocess.Process(self._transport, protocol, loop)
        self._process = process
        assert process.stdin is not None  # noqa: S101 - a pipe, for the type checker
        assert process.stdout is not None  # noqa: S101 - as above
        assert process.stderr is not None  # noqa: S101 - as above
        pumps = [
            asyncio.ensure_future(self._pump(process.stdout, "stdout")),
            asyncio.ensure_future(self._pump(process.stderr, "stderr")),
        ]
        self._tasks = [*pumps, asyncio.ensure_future(self._wait(protocol.exited, pumps))]
        with suppress(OSError):
            process.stdin.write(json.dumps({**config, "token": self.token}).encode() + b"\n")
            await process.stdin.drain()
            process.stdin.close()

    async def _wait(self, exited: asyncio.Event, pumps: list[asyncio.Task[None]]) -> None:
        await exited.wait()
        # Processes that the app started may keep the pipes open.
        self._kill_group()
        await asyncio.wait(pumps, timeout=_KILLED_SECONDS)
        self.ended.set()

    async def _pump(self, stream: asyncio.StreamReader, name: str) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while chunk := await stream.read(_CHUNK):
            if text := decoder.decode(chunk):
                self._on_output(name, text)

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        return None if self._process is None else self._process.returncode

    async def end(self) -> None:
        """End the process, and all processes that it started."""
        process = self._process
        if process is None:
            self.ended.set()
            return
        if process.returncode is None:
            with suppress(OSError, RuntimeError):
                if self.link is not None:
                    self.link.send({"do": "stop"})
                else:
                    process.terminate()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.ended.wait(), END_SECONDS)
        if process.returncode is None:
            self._kill_group()
            with suppress(ProcessLookupError):
                process.kill()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.ended.wait(), 2 * _KILLED_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._transport is not None:
            # A process in a group of its own may still have the pipes.
            self._transport.close()

    def _kill_group(self) -> None:
        if self._process is not None and hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
