"""The supervisor: starts the app again when its files change, and serves the public port.

The states of the app, as the page shows them:

| from | event | to |
|---|---|---|
| - | `hubhooks dev` starts | starting |
| starting, restarting | the app serves | running |
| starting, restarting, running | it cannot be imported, or it ends | broken |
| starting, running, broken | a watched file changes | restarting |
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import socket
import sys
import time
from collections import deque
from contextlib import closing, nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import uvicorn

from hubhooks import _environment
from hubhooks._load_app import parse_target
from hubhooks._terminal import print_error, print_line
from hubhooks._worker import recording
from hubhooks.admin.app import AdminApp
from hubhooks.dev.link import LinkServer, is_token
from hubhooks.dev.process import AppProcess, Broken, Webhook
from hubhooks.dev.proxy import Proxy
from hubhooks.dev.source import DevSource
from hubhooks.dev.target import code_folders
from hubhooks.dev.watch import take_snapshot, wait_for_changes
from hubhooks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from types import FrameType

    from hubhooks._http.types import Receive, Scope, Send
    from hubhooks.dev.folder import KeptSecrets
    from hubhooks.dev.link import SupervisorLink
    from hubhooks.dev.watch import Snapshot

__all__ = ["PREFIX", "Options", "Supervisor", "run"]

PREFIX = "/_hubhooks"
"""The page and its API are below this path. Everything else goes to the app."""

_State = Literal["starting", "running", "restarting", "broken"]
# The page gets all lines again after each change.
_OUTPUT_LINES = 2000
_OUTPUT_CHARACTERS = 128 * 1024
_LONGEST_LINE = 8 * 1024
_LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
_STORE = "hubhooks.db"
_TUNNELS = {
    "cloudflared": "cloudflared tunnel --url {url}",
    "ngrok": "ngrok http {url}",
}
_CLOSE_SECONDS = 1
_POLL_SECONDS = 1.0
# After so many starts in a row that a change cut short, the terminal says why.
_MANY_STARTS = 3
_SERVING = "`hooks.router()`, `hooks.launch()`"
_BACKLOG = 2048


class Options(NamedTuple):
    """The options of `hubhooks dev`."""

    target: str
    host: str
    port: int
    reload: bool


def page_path(number: int) -> str:
    """Return the path of the page of a webhook."""
    return f"{PREFIX}/{number + 1}/" if number else f"{PREFIX}/"


_match_page = re.compile(rf"(?P<root>{PREFIX}(?:/(?P<number>[2-9]|[1-9]\d))?)(?:/|$)").match


class _Front(uvicorn.Server):
    """uvicorn without its signal handlers: the supervisor has its own."""

    def capture_signals(self) -> Any:  # noqa: ANN401 - a context manager
        return nullcontext()

    install_signal_handlers = capture_signals


class Supervisor:
    """Runs the app in processes, one after the other.

    Args:
        options: the options of the command.
        kept: the secrets.
        folder: the working directory of the app.
        url: the public address of this machine, without a slash at its end.
    """

    def __init__(self, options: Options, kept: KeptSecrets, folder: Path, url: str) -> None:
        self.options = options
        self.kept = kept
        self.url = url
        self.state: _State = "starting"
        self.app: AppProcess | None = None
        """The newest process of the app."""
        self.seconds = 0.0
        """How long the last start took."""
        self.broken: Broken | None = None
        """Why the app does not run; None if it runs."""
        self.output: deque[dict[str, str]] = deque()
        """The last lines that the app printed."""
        self._output_size = 0
        store = _environment.read(_environment.DELIVERIES) or _STORE
        self.webhooks: list[Webhook] = [Webhook((), store, [])]
        """The webhooks of the app that ran last. Before the first start, the store is a guess."""
        self._folder = folder
        self._code_folders = code_folders(parse_target(options.target), folder)
        self._running = asyncio.Event()
        # Set while the app runs or is broken: a restart has come to its end.
        self._settled = asyncio.Event()
        self._wanted = asyncio.Event()
        self._partial = {"stdout": "", "stderr": ""}
        self._links = LinkServer(self._accept, self._connect)
        self._link_port = self._script_port = 0
        self._start_time = 0.0
        self._starts = self._cut_starts = 0
        self._changed: list[str] = []
        self._has_printed = False
        self._printed_stores: list[str] = []
        self._printed_webhooks: list[tuple[str, str]] = []

    # ---- the app's processes ---------------------------------------------------------------------

    async def run(self) -> None:
        """Run the app, and start it again after each change."""
        self._link_port = await self._links.start()
        try:
            while True:
                await self._run_once()
        finally:
            if self.app is not None:
                await self.app.end()
            self._links.close()

    async def _run_once(self) -> None:
        self._start_time = time.monotonic()
        self._starts += 1
        self._wanted.clear()
        snapshot: Snapshot = {}
        if self.options.reload:
            snapshot = await asyncio.to_thread(take_snapshot, *self._code_folders)
        app = self.app = AppProcess(self._folder, snapshot, self._print_output)
        port = self._script_port = _free_port()
        config = {
            "target": self.options.target,
            "link_port": self._link_port,
            "script_port": port,
            "secret": self.kept.webhook_secret,
        }
        variables = {
            **self.kept.variables(),
            "GRADIO_SERVER_NAME": "127.0.0.1",
            "GRADIO_SERVER_PORT": str(port),
            "PORT": str(port),
        }
        try:
            await app.start(config, variables)
        except OSError as error:
            # For example, the folder was removed.
            msg = f"cannot start the app in `{self._folder}`: {error.strerror}"
            raise ConfigError(msg) from error
        wanted = asyncio.ensure_future(self._wanted.wait())
        ended = asyncio.ensure_future(app.ended.wait())
        try:
            await asyncio.wait({wanted, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not self._wanted.is_set():
                self._report_broken(app)
                await self._wanted.wait()
        finally:
            wanted.cancel()
            ended.cancel()
        self._unsettle()
        # The old process must not run the handlers of a delivery that came after the change.
        await app.end()

    def _unsettle(self) -> None:
        self.state = "restarting"
        self._running.clear()
        self._settled.clear()

    def _accept(self, token: str) -> Callable[[dict[str, Any]], None] | None:
        app = self.app
        if app is None or not is_token(token, app.token):
            return None
        return lambda message: self._take_event(app, message)

    def _connect(self, token: str, link: SupervisorLink) -> None:
        if self.app is not None and is_token(token, self.app.token):
            self.app.link = link

    def _take_event(self, app: AppProcess, message: dict[str, Any]) -> None:
        if app is not self.app or self._wanted.is_set():
            return
        if message["event"] == "ready":
            app.port = message["port"]
            found = [
                Webhook(tuple(each["paths"]), each["store"], each["handlers"])
                for each in message["webhooks"]
            ]
            self.webhooks = found or [Webhook((), self.webhooks[0].store, [])]
            self.seconds = time.monotonic() - self._start_time
            self.state, self.broken = "running", None
            self._running.set()
            self._settled.set()
            self._print_state()
        elif message["event"] == "slow":
            place = f", at {message['file']}:{message['line']}" if message["file"] else ""
            after = f"after {message['seconds']:g} s{place}"
            self._print(f"still starting {after}; deliveries get 503 until it runs")
        elif message["event"] == "broken":
            app.broken = Broken(
                traceback=message["traceback"], file=message["file"], line=message["line"]
            )

    def _report_broken(self, app: AppProcess) -> None:
        """Report that the app ended by itself."""
        ended = Broken(traceback=_end_text(app.exit_code), file="", line=None)
        self.broken = app.broken or ended
        self.seconds = time.monotonic() - self._start_time
        self.state = "broken"
        self._running.clear()
        self._settled.set()
        self._print_state()

    async def watch(self) -> None:
        """Start the app again after each change of a watched file."""
        try:
            async for _ in wait_for_changes(*self._code_folders):
                await self._restart_if_changed()
        except (OSError, RuntimeError) as error:
            # For example, the folder has more subfolders than the system can watch.
            names = " and ".join(f"`{each}`" for each in self._code_folders)
            print_error(f"cannot watch {names}, so it is read every second: {error}")
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self._restart_if_changed()

    async def _restart_if_changed(self) -> None:
        app = self.app
        if app is None or not self.options.reload:
            return
        snapshot = await asyncio.to_thread(take_snapshot, *self._code_folders)
        if snapshot == app.snapshot or app is not self.app or self._wanted.is_set():
            return
        files = {path for path, _ in snapshot.items() ^ app.snapshot.items()}
        self._changed = sorted(_shown(path).removeprefix("./") for path in files)
        self._cut_starts = 0 if self._settled.is_set() else self._cut_starts + 1
        if self._cut_starts == _MANY_STARTS:
            self._print(
                f"{self._changed_text()} during each of the last {_MANY_STARTS} starts; an app "
                "must not write Python files below its folder, except in hidden folders"
            )
        self._unsettle()
        self._wanted.set()

    async def use_newest_code(self, seconds: float) -> None:
        """Wait until the app has the code of the files, or until it is broken."""
        await self._restart_if_changed()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._settled.wait(), seconds)

    async def wait_for_port(self, seconds: float) -> int | None:
        """Wait for a running app, and return its port; None if there is none in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        # An edit can come between the start of the app and the end of a wait for it.
        while not self._running.is_set():
            if loop.time() >= until:
                return None
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._running.wait(), until - loop.time())
        return None if self.app is None else self.app.port

    # ---- what the page and the terminal show -----------------------------------------------------

    def webhook(self, number: int) -> Webhook:
        """Return a webhook. If the app has so many no longer, it is one without a store."""
        return self.webhooks[number] if number < len(self.webhooks) else Webhook((), "", [])

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of all webhooks, also while the app restarts."""
        return tuple(path for webhook in self.webhooks for path in webhook.paths)

    def describe(self, number: int) -> dict[str, Any]:
        """Return the JSON of `app`, for the page of a webhook."""
        webhook = self.webhook(number)
        broken = self.broken or Broken(traceback="", file="", line=None)
        started_at = None if self.app is None else self.app.started_at
        return {
            "mode": "dev",
            "target": self.options.target,
            "state": self.state,
            "handlers": len(webhook.handlers),
            "seconds": round(self.seconds, 3),
            "started_at": None if started_at is None else _iso(started_at),
            **broken,
            "output": [*self.output],
            "webhook_urls": self.urls(number),
            "webhooks": [
                {"path": next(iter(each.paths), ""), "page": page_path(at)}
                for at, each in enumerate(self.webhooks)
            ],
            "tunnel": self.tunnel,
        }

    def urls(self, number: int) -> list[str]:
        """Return the addresses of a webhook on this machine."""
        return [self.url + path for path in self.webhook(number).paths]

    @property
    def tunnel(self) -> str:
        """The command that makes the app public; empty if no program for it is installed."""
        commands = (text for name, text in _TUNNELS.items() if shutil.which(name))
        return next(commands, "").format(url=self.url)

    def _print_state(self) -> None:
        names = [handler["name"] for webhook in self.webhooks for handler in webhook.handlers]
        count = len(names)
        handlers = f"{count} handler{'s' * (count != 1)}"
        handlers += f" ({', '.join(names)})" if names else ""
        if self.broken is not None:
            what = f"broken{self._broken_text(self.broken)}; save a file to start it again"
        else:
            what = ""
            if self._starts > 1:
                why = f" ({self._changed_text()})" if self._changed else ""
                what = f"restarted in {self.seconds:.1f} s{why}, "
            what += handlers
            stores = [_shown(webhook.store) for webhook in self.webhooks]
            if stores != self._printed_stores:
                self._printed_stores = stores
                what += f", store{'s' * (len(stores) > 1)} {', '.join(stores)}"
        webhooks = [] if self.broken is not None else self._webhook_lines()
        is_new = webhooks != self._printed_webhooks
        if webhooks:
            self._printed_webhooks = webhooks
        self._print(what, webhooks if is_new else ())

    def _print(self, what: str, more: Sequence[tuple[str, str]] = ()) -> None:
        """Print the state of the app, and the URL of the page at the first time."""
        lines = [("", f"hubhooks dev: {self.options.target}, {what}")]
        if not self._has_printed:
            lines.append(("page", f"{self.url}{PREFIX}/#{self.kept.page_token}"))
        lines += more
        if not self._has_printed:
            lines += self._lines()
        self._has_printed = True
        # In one write: a program that waits for the page's URL then has all lines.
        print_line("\n".join(f"{name:<8} {text}" if name else text for name, text in lines))
        sys.stdout.flush()

    def _broken_text(self, broken: Broken) -> str:
        """Return where the app broke, or how it ended. It has printed its errors itself."""
        if broken["file"]:
            return f": {broken['file']}:{broken['line']}"
        is_printed = self.app is not None and self.app.broken is broken
        return "" if is_printed else f": {broken['traceback']}"

    def _changed_text(self) -> str:
        """Name a file that changed since the last start."""
        others = len(self._changed) - 1
        more = f" and {others} other file{'s' * (others > 1)}" if others else ""
        return f"{self._changed[0]}{more} changed"

    def _webhook_lines(self) -> list[tuple[str, str]]:
        lines = [
            ("webhook", f"{self.url}{path}" + f" (the same as {webhook.paths[0]})" * (at > 0))
            for webhook in self.webhooks
            for at, path in enumerate(webhook.paths)
        ]
        if any(webhook.handlers for webhook in self.webhooks):
            return lines or [
                ("webhook", "the paths of the handlers were not found: see " + _SERVING)
            ]
        return lines or [("webhook", "the app serves no `Webhooks` with handlers: see " + _SERVING)]

    def _lines(self) -> list[tuple[str, str]]:
        lines: list[tuple[str, str]] = []
        lines.append(("secrets", "kept in .hubhooks/ (used by `hubhooks send` and `follow`)"))
        if tunnel := self.tunnel:
            program = tunnel.partition(" ")[0]
            lines.append(("public", f"{program} is installed: {tunnel}"))
        return lines

    def _print_output(self, stream: str, text: str) -> None:
        """Print output of the app, and keep its lines for the page."""
        # Servers print their own address. Only the public one survives a restart.
        for port in (self._script_port, self.app.port if self.app is not None else None):
            text = text.replace(f"http://127.0.0.1:{port}", self.url)
        terminal = sys.stderr if stream == "stderr" else sys.stdout
        terminal.write(text)
        terminal.flush()
        *lines, rest = (self._partial[stream] + text).split("\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], ""
        self._partial[stream] = rest
        at = _iso(time.time())
        for line in lines:
            text = recording.last_state(line)[:_LONGEST_LINE]
            self._add_line({"stream": stream, "text": text, "at": at})

    def _add_line(self, line: dict[str, str]) -> None:
        self.output.append(line)
        self._output_size += len(line["text"])
        while len(self.output) > _OUTPUT_LINES or self._output_size > _OUTPUT_CHARACTERS:
            self._output_size -= len(self.output.popleft()["text"])


def _end_text(exit_code: int | None) -> str:
    """Say how a process ended."""
    if exit_code is not None and exit_code < 0:
        with suppress(ValueError):
            return f"the app was ended by {signal.Signals(-exit_code).name}"
    return f"the app ended with exit code {exit_code}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _shown(path: str) -> str:
    """Return the file of a store as seen from the working directory."""
    if not path:
        return "in memory"
    # The folder may be removed.
    with suppress(ValueError, OSError):
        return f"./{Path(path).resolve().relative_to(Path.cwd()).as_posix()}"
    return path


def _free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# ---- the command ---------------------------------------------------------------------------------


def run(options: Options, kept: KeptSecrets) -> int:
    """Serve until Ctrl-C; return the exit code.

    Raises:
        ConfigError: the host is not of this machine only.
    """
    host = _LOOPBACK.get(options.host)
    if host is None:
        msg = f"`{options.host}` is not a loopback address; write 127.0.0.1"
        raise ConfigError(msg)
    try:
        listener = _listen(host, options.port)
    except OSError as error:
        print_error(f"cannot listen on port {options.port}: {error.strerror}", "give --port")
        return 1
    with closing(listener):
        port = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        asyncio.run(_serve(options, kept, listener, f"http://{shown}:{port}"))
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        if sys.platform != "win32":
            # There, the option would let a second process take the port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def _serve(options: Options, kept: KeptSecrets, listener: socket.socket, url: str) -> None:
    supervisor = Supervisor(options, kept, Path.cwd(), url)
    proxy = Proxy(supervisor)
    sources: list[DevSource] = []
    pages: list[AdminApp] = []

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        found = _match_page(scope["path"])
        number = int(found["number"] or 1) - 1 if found else -1
        # An edit can remove a webhook while its page is open.
        while len(pages) < max(1, len(supervisor.webhooks)):
            sources.append(DevSource(supervisor, len(pages)))
            pages.append(AdminApp(sources[-1], local_only=True))
        if found and number < len(pages):
            await pages[number]({**scope, "root_path": found["root"]}, receive, send)
        else:
            await proxy(scope, receive, send)

    server = _Front(
        uvicorn.Config(
            front,
            lifespan="off",
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )
    )
    stop = asyncio.Event()
    restore = _stop_on_signals(stop)
    work: list[Coroutine[Any, Any, None]] = [supervisor.run(), server.serve(sockets=[listener])]
    if options.reload:
        work.append(supervisor.watch())
    tasks = [asyncio.ensure_future(each) for each in work]
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        restore()
        stopping.cancel()
        for page in pages:
            page.api.close()
        server.should_exit = True
        for task in (tasks[0], *tasks[2:]):
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for source in sources:
            await source.close()
        await proxy.close()
    for result in results:
        if isinstance(result, Exception):
            raise result


def _stop_on_signals(stop: asyncio.Event) -> Callable[[], None]:
    """Stop on Ctrl-C and on the signals that end a process; return the function that undoes it."""
    loop = asyncio.get_running_loop()
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - of `signal`
        loop.call_soon_threadsafe(stop.set)

    before = [(number, signal.signal(number, ask)) for number in numbers]

    def restore() -> None:
        for number, handler in before:
            # A second Ctrl-C must not leave the app behind, so it stays ignored until the end.
            if number != signal.SIGINT:
                signal.signal(number, handler)

    return restore
