"""The app's process, started by the supervisor.

Standard input has one line of JSON with the target and the link. The process ends when the
supervisor asks for it, or when the supervisor dies.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import copy
import json
import logging
import logging.config
import os
import re
import runpy
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import uvicorn
import uvicorn.config

from hubhooks._load_app import (
    describe_error,
    launches,
    mounted_webhooks,
    parse_target,
    without_middleware,
)
from hubhooks._verifiers import accept_also
from hubhooks._worker import recording
from hubhooks.admin.handlers_json import explain_json, handlers_json
from hubhooks.dev.link import AppLink
from hubhooks.dev.target import (
    INSTALLED,
    code_folders,
    import_app,
    import_without_cache,
    keep_lines,
)
from hubhooks.errors import ConfigError, StoreError
from hubhooks.routing import Router
from hubhooks.webhooks import Webhooks, all_webhooks, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


__all__ = ["DRAIN_SECONDS", "main"]

DRAIN_SECONDS = 2.0
"""Running handlers get this time at a restart. Then they are queued again."""

_CLOSE_SECONDS = 1
_HOST = "127.0.0.1"
_POLL_SECONDS = 0.05
# At a stop, requests on their way get so long to end.
_REQUEST_SECONDS = 0.5
# The time between the connection and its request.
_ARRIVAL_SECONDS = 0.02
# From then on, the port of a script that sets its own is searched.
_SEARCH_SECONDS = 3.0
# A longer line is written before its end.
_LONGEST_REST = 4096
# An app that takes longer to start is reported, with the line that runs.
_SLOW_SECONDS = 10.0
# Functions of `atexit` get so long.
_ATEXIT_SECONDS = 1.0
# Without a supervisor, the app is killed after this time.
_ALONE_SECONDS = 5.0
_PACKAGE = str(Path(__file__).parents[1])
_LINE = re.compile(r'File "([^"]+)", line (\d+)')


class _Stream:
    """Writes to a stream of the process, and to the recording of the handler that prints.

    It writes whole lines, so that those of two threads do not mix.
    """

    def __init__(self, stream: Any) -> None:  # noqa: ANN401 - any text stream
        self._stream = stream
        # By thread: the line without an end yet.
        self._unwritten: dict[int, str] = {}

    def write(self, text: str) -> int:
        recorded = recording.current.get()
        if recorded is not None:
            recorded.write(text)
        whole, newline, rest = (self._take_rest() + text).rpartition("\n")
        # A terminal shows the line of a progress bar at once too.
        if len(rest) > _LONGEST_REST or "\r" in rest:
            whole, newline, rest = whole + newline, rest, ""
        if rest:
            self._unwritten[threading.get_ident()] = rest
        if newline:
            self._stream.write(whole + newline)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if rest := self._take_rest():
            self._stream.write(rest)
        self._stream.flush()

    def end(self) -> None:
        """Write the unfinished lines of all threads."""
        while self._unwritten:
            self._stream.write(self._unwritten.popitem()[1])
        self._stream.flush()

    def _take_rest(self) -> str:
        return self._unwritten.pop(threading.get_ident(), "")

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the stream
        return getattr(self._stream, name)


def _recording_stream(stream: Any) -> _Stream:  # noqa: ANN401 - any text stream
    # The supervisor reads UTF-8, with any locale of the user.
    stream.reconfigure(encoding="utf-8", errors=stream.errors)
    return _Stream(stream)


class _App:
    """The app in this process, and its reports to the supervisor.

    Args:
        link: the connection to the supervisor.
        target: what to serve.
    """

    def __init__(self, link: AppLink, target: str) -> None:
        self.link = link
        self.target = target
        self.served: Any = None
        self.stop: Callable[[], None] = self.exit
        self.is_reported = False
        self.is_alone = False

    def webhooks(self) -> list[tuple[str, Webhooks]]:
        """List the paths of the webhooks that the app serves."""
        served = without_middleware(self.served)
        if isinstance(served, Webhooks):
            return [("/", served)]
        found: list[tuple[str, Webhooks]] = []
        routes = getattr(served, "routes", None)
        if routes is not None and "fastapi" in sys.modules:
            from hubhooks.fastapi import webhook_paths  # noqa: PLC0415 - an optional dependency

            found += webhook_paths(routes)
        elif routes is not None:
            found += mounted_webhooks(served)
        if self.served is None and "hubhooks.gradio" in sys.modules:
            from hubhooks.gradio import PATHS  # noqa: PLC0415 - an optional dependency

            found += [(path, hooks) for hooks in _with_handlers() for path in PATHS]
        # With and without a slash at the end, it is one path.
        paths = {path.rstrip("/") or "/": (path, hooks) for path, hooks in reversed(found)}
        return [*reversed(paths.values())]

    def all_webhooks(self) -> list[Webhooks]:
        """List the webhooks with a path; without one, all objects of this process."""
        served = {id(hooks): hooks for _, hooks in self.webhooks()}
        return [*served.values()] or _with_handlers()

    def report_ready(self, port: int) -> None:
        """Tell the supervisor that requests can be sent."""
        served = self.webhooks()
        webhooks = [
            {
                "paths": [path for path, each in served if each is hooks],
                "store": hooks.store.path,
                "handlers": _handlers_json(hooks),
            }
            for hooks in self.all_webhooks()
        ]
        self.is_reported = True
        self.link.send({"event": "ready", "port": port, "webhooks": webhooks})

    def report_slow(self) -> None:
        """Tell the supervisor where the app is, if it has not started."""
        if self.is_reported:
            return
        main_thread = threading.main_thread().ident or 0
        frame = sys._current_frames().get(main_thread)  # noqa: SLF001 - the only way to see it
        while frame is not None and not _is_in_folder(frame.f_code.co_filename):
            frame = frame.f_back
        file = "" if frame is None else _shown_file(frame.f_code.co_filename)
        line = None if frame is None else frame.f_lineno
        self.link.send({"event": "slow", "seconds": _SLOW_SECONDS, "file": file, "line": line})

    def report_broken(self, failure: _Failure) -> None:
        """Tell the supervisor why the app does not run; only the first reason counts."""
        if not self.is_reported:
            self.is_reported = True
            self.link.send({"event": "broken", **failure._asdict()})

    def end_alone(self) -> None:
        """End the process and all that it started: the supervisor died."""
        self.is_alone = True
        self.stop()
        # A handler can block the event loop for ever.
        time.sleep(_ALONE_SECONDS)
        _kill_group()

    def exit(self, code: int = 0) -> None:
        """Exit now; without a supervisor, end the processes of the app too."""
        _close()
        if self.is_alone:
            _kill_group()
        _exit(code)

    def take(self, message: dict[str, Any]) -> None:
        """Do what the supervisor asks for."""
        if message["do"] == "stop":
            self.stop()
            return
        # `when=` is user code, which may hang. The thread of the link must stay free.
        threading.Thread(target=self._answer, args=(message,), daemon=True).start()

    def _answer(self, message: dict[str, Any]) -> None:
        body = base64.b64decode(message["body"])
        found = self.all_webhooks()[message["webhook"] :]
        # It runs only `when=`. An app without webhooks has no handlers.
        result = explain_json(found[0] if found else Router(), body)
        self.link.send({"id": message["id"], "result": result})


def _handlers_json(hooks: Webhooks) -> list[dict[str, Any]]:
    return [
        {**each, "file": each["file"] and _shown_file(each["file"])}
        for each in handlers_json(hooks)
    ]


def _with_handlers() -> list[Webhooks]:
    """Return all `Webhooks` of this process that have handlers."""
    return [hooks for hooks in all_webhooks() if hooks.handlers]


# ---- failures ------------------------------------------------------------------------------------


class _Failure(NamedTuple):
    """Why the app does not run."""

    traceback: str
    file: str = ""
    line: int | None = None


def _failure_of(error: BaseException) -> _Failure:
    described = describe_error(error)
    text = "".join(described.format())
    if isinstance(error, SystemExit):
        text = f"the app exited while it was imported, with {error.code!r}"
    # `ast.literal_eval` and others raise it for a text that is no file.
    if isinstance(error, SyntaxError) and Path(error.filename or "").is_file():
        return _Failure(text, _shown_file(str(error.filename)), error.lineno or 1)
    user = [frame for frame in described.stack if _is_in_folder(frame.filename)]
    last = (user or described.stack)[-1:]
    if not last:
        return _Failure(text)
    return _Failure(text, _shown_file(last[0].filename), last[0].lineno)


def _failure_of_text(text: str) -> _Failure:
    """Find file and line in the text of a failed start, which may be a traceback."""
    found = [(file, int(line)) for file, line in _LINE.findall(text) if _is_in_folder(file)]
    file, line = found[-1] if found else ("", None)
    return _Failure(text, _shown_file(file), line)


def _is_in_folder(file: str) -> bool:
    if file.startswith(("<", _PACKAGE)):
        return False  # for example, the code of an `exec`
    with suppress(ValueError, OSError):
        return INSTALLED.isdisjoint(Path(file).resolve().relative_to(Path.cwd()).parts)
    return False


def _shown_file(file: str) -> str:
    """Return a file as seen from the working directory, if it is in there."""
    with suppress(ValueError):
        return Path(file).relative_to(Path.cwd()).as_posix()
    return file


# ---- serving -------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn, which reports its start, and lets handlers end before it stops."""

    def __init__(self, config: uvicorn.Config, app: _App, port: int) -> None:
        super().__init__(config)
        self._app = app
        self._port = port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self._app.report_ready(self._port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # A delivery after the drain would start a worker again, with old code. So the port closes
        # first, and the requests on their way end.
        for server in self.servers:
            server.close()
        for each in sockets or ():
            each.close()
        await asyncio.sleep(_ARRIVAL_SECONDS)
        if requests := set(self.server_state.tasks):
            await asyncio.wait(requests, timeout=_REQUEST_SECONDS)
        # The server's own stop waits longer for handlers than a restart should take.
        for hooks in self._app.all_webhooks():
            if parts_of(hooks)[1].is_started:
                with suppress(StoreError):
                    await parts_of(hooks)[0].drain(DRAIN_SECONDS)
        await super().shutdown(sockets)


def _serve(app: _App) -> None:
    # `dictConfig` of the app disables all loggers that it does not name. The server must be able to
    # say why the app does not start.
    logging.getLogger("uvicorn.error").disabled = False
    listener = socket.socket()
    listener.bind((_HOST, 0))
    config = uvicorn.Config(
        _reporting_lifespan(app),
        log_config=None,
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )
    server = _Server(config, app, listener.getsockname()[1])

    def stop() -> None:
        server.should_exit = True

    app.stop = stop
    server.run(sockets=[listener])


class _WarningsOnly(logging.Filter):
    """Drops the records below a warning."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING


def _log_config() -> dict[str, Any]:
    """Return uvicorn's settings without the lines of each start and stop."""
    config = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    # Not a higher level: the log of hubhooks follows the level of the server's.
    config["filters"] = {"warnings": {"()": _WarningsOnly}}
    config["loggers"]["uvicorn.error"] = {"level": "INFO", "filters": ["warnings"]}
    return config


def _reporting_lifespan(app: _App) -> Any:  # noqa: ANN401 - an ASGI app
    """Wrap the app, to report why its start failed."""
    served = app.served

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - of ASGI
        if scope["type"] != "lifespan":
            await served(scope, receive, send)
            return

        async def send_and_report(message: Any) -> None:  # noqa: ANN401 - of ASGI
            if message["type"] == "lifespan.startup.failed":
                app.report_broken(_failure_of_text(message.get("message", "")))
            await send(message)

        await served(scope, receive, send_and_report)

    return wrapped


def _run_script(app: _App, path: Path, port: int) -> None:
    """Run a Gradio script as Python would."""
    sys.path.insert(0, str(path.parent))
    threading.Thread(target=_wait_for_port, args=(app, port), daemon=True).start()
    keep_lines(str(path), path.read_bytes())
    runpy.run_path(str(path), run_name="__main__")
    reason = (
        "the script ended, so nothing is served: end it with `hooks.launch(demo)`, or name an app, "
        f"such as {path.stem}:hooks"
    )
    app.report_broken(_Failure(reason))
    print(f"hubhooks dev: {reason}", file=sys.stderr)  # noqa: T201 - for the terminal


def _wait_for_port(app: _App, port: int) -> None:
    started = time.monotonic()
    while not _listens(port):
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - started > _SEARCH_SECONDS and (own := _launched_port()):
            port = own
    app.report_ready(port)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
        return True
    return False


def _launched_port() -> int | None:
    """Return the port of a Gradio app that `launch(server_port=...)` gave it."""
    blocks = getattr(sys.modules.get("gradio.blocks"), "Blocks", None)
    # The script may make another one at this moment. Then the next look finds it.
    with suppress(RuntimeError):
        for found in getattr(blocks, "instances", ()):
            if getattr(found, "is_running", False):
                return int(found.server_port)
    return None


def _close() -> None:
    """Close the stores, call the functions of `atexit`, and write the unfinished lines."""
    # Else the next process warns that this one was killed.
    for hooks in all_webhooks():
        if parts_of(hooks)[1].is_started:
            with suppress(Exception):
                asyncio.run(parts_of(hooks)[0].drain(DRAIN_SECONDS))
    # It logs the errors of the functions itself.
    last = threading.Thread(target=atexit._run_exitfuncs, daemon=True)  # noqa: SLF001 - `os._exit` skips them
    last.start()
    last.join(_ATEXIT_SECONDS)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            # The user may have replaced it.
            (stream.end if isinstance(stream, _Stream) else stream.flush)()


def _kill_group() -> None:
    """Kill this process and all that it started, if it leads a group of its own."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    _exit(1)


def _exit(code: int) -> NoReturn:
    # Threads of the user, and an import that hangs, must not keep the process.
    os._exit(code)


def main() -> None:
    """Serve the app until the supervisor stops it."""
    config = json.loads(sys.stdin.buffer.readline())
    # Nobody types into the app. A read must end at once.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    target = config["target"]
    app = _App(AppLink(config["link_port"], config["token"]), target)
    app.link.read(app.take, app.end_alone)
    sys.stdout, sys.stderr = _recording_stream(sys.stdout), _recording_stream(sys.stderr)
    recording.turn_on()
    accept_also(config["secret"])
    folder = Path.cwd()
    sys.path.insert(0, str(folder))
    sys.argv = [target]
    slow = threading.Timer(_SLOW_SECONDS, app.report_slow)
    slow.daemon = True
    slow.start()
    import_without_cache(folder)
    try:
        found = parse_target(target)
        for other in code_folders(found, folder)[1:]:
            import_without_cache(other)
        if not found.attribute and launches(found.file):
            _run_script(app, found.file, config["script_port"])
        else:
            # As uvicorn does: settings of the app come after those of the server.
            logging.config.dictConfig(_log_config())
            app.served = import_app(found)
            _serve(app)
    except BaseException as error:  # noqa: BLE001 - the app may raise anything
        if isinstance(error, SystemExit) and app.is_reported:
            app.exit(1)  # the server has printed why the app does not start
        failure = _failure_of(error)
        app.report_broken(failure)
        # A wrong target has no place in the app's code: the message says everything.
        is_target_wrong = isinstance(error, ConfigError) and not failure.file
        text = f"hubhooks dev: {error}" if is_target_wrong else failure.traceback.rstrip("\n")
        print(text, file=sys.stderr)  # noqa: T201 - for the terminal
        app.exit(1)
    app.exit()


if __name__ == "__main__":
    main()
