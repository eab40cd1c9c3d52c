"""Start the quickstart app, send it every sample, and show the output of its handlers.

`make run` calls it. With `--stay` it leaves the app open with its page: `make demo`. Everything
stays on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

EXAMPLES = Path(__file__).parent.parent / "examples"
# Of `hubhooks dev`, in the order of printing.
START_LINE = re.compile(r"(page|webhook|secrets) +(\S+)")


def address(log: IO[str]) -> str:
    """Read the URL from uvicorn's log. The system chooses the port."""
    before = ""
    for line in log:
        if served := re.search(r"running on (http://\S+)", line):
            return served[1]
        before += line
    sys.exit(f"the demo app did not start:\n{before}")


def main() -> int:
    """Run the demo, and return its exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--stay", action="store_true", help="leave the app open with its page")
    parser.add_argument("--port", type=int, default=8000, help="the port, with --stay")
    options = parser.parse_args()
    return stay(options.port) if options.stay else run()


def run() -> int:
    """Send every sample, show what ran, and return the exit code of `hubhooks send`."""
    # In memory, so that the demo neither leaves nor reads a file.
    environ = {
        **os.environ,
        "WEBHOOK_SECRET": secrets.token_hex(16),
        "HUBHOOKS_DELIVERIES": ":memory:",
        "PYTHONUNBUFFERED": "1",
    }
    print("Starting examples/quickstart.py with uvicorn ...", flush=True)
    serve = [sys.executable, "-m", "uvicorn", "quickstart:hooks", "--app-dir", str(EXAMPLES)]
    server = subprocess.Popen(
        [*serve, "--port", "0", "--no-access-log"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if server.stderr is None:
        msg = "the log of the demo app is not piped"
        raise ValueError(msg)
    try:
        url = address(server.stderr)
        print(f"$ hubhooks send {url} --all --json\n", flush=True)
        send = [sys.executable, "-m", "hubhooks.cli", "send", url, "--all", "--json"]
        sent = subprocess.run(send, env=environ, check=False, stdout=subprocess.PIPE, text=True)
    finally:
        server.terminate()
        printed, _ = server.communicate(timeout=30)
    show_responses([json.loads(line) for line in sent.stdout.splitlines()])
    print("\nWhat the handlers printed:\n")
    print(printed)
    show_next_steps()
    return sent.returncode


def stay(port: int) -> int:
    """Run the app with `hubhooks dev` until Ctrl-C, and send it every sample first."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print("Starting examples/quickstart.py with hubhooks dev ...", flush=True)
    with TemporaryDirectory() as folder:
        environ = {
            **os.environ,
            "HUBHOOKS_DELIVERIES": str(Path(folder, "hubhooks.db")),
            "PYTHONUNBUFFERED": "1",
        }
        cli = [sys.executable, "-m", "hubhooks.cli"]
        server = subprocess.Popen(
            [*cli, "dev", "quickstart.py", "--port", str(port)],
            cwd=EXAMPLES,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        log = Log(server.stdout)
        try:
            if not log.wait_for_start():
                print(log.text, end="")
                return server.wait()
            send = [*cli, "send", log.urls["webhook"], "--all", "--json"]
            sent = subprocess.run(
                send, cwd=EXAMPLES, env=environ, check=False, capture_output=True, text=True
            )
            if sent.returncode:
                print(log.text + sent.stdout + sent.stderr, end="")
                return sent.returncode
            show_page(log.urls)
            log.show()
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            server.terminate()
            server.wait()


class Log:
    """The output of `hubhooks dev`: kept at first, and printed after `show`."""

    def __init__(self, stream: IO[str] | None) -> None:
        if stream is None:
            msg = "the output of the demo app is not piped"
            raise ValueError(msg)
        self.text = ""
        self.urls: dict[str, str] = {}
        self._stream = stream
        self._is_shown = False
        self._started = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for_start(self) -> bool:
        """Wait for the start lines. Return False if the app ended before."""
        self._started.wait()
        return "secrets" in self.urls

    def show(self) -> None:
        """Print what is read from now on."""
        self._is_shown = True

    def _read(self) -> None:
        for line in self._stream:
            if self._is_shown:
                print(line, end="", flush=True)
                continue
            self.text += line
            if found := START_LINE.match(line):
                self.urls.setdefault(found[1], found[2])
                if found[1] == "secrets":
                    self._started.set()
        self._started.set()


def show_page(urls: dict[str, str]) -> None:
    """Print the URL of the page, and what to do next."""
    print(
        f"""
The app runs, and received every sample. Open its page:

  {urls["page"]}

Send more from the page, or from a second terminal:

  cd {os.path.relpath(EXAMPLES)}
  {hubhooks_command()} send {urls["webhook"]} --sample repo.create

Change a handler in examples/quickstart.py, and replay a delivery. Ctrl-C ends the app.
""",
        flush=True,
    )


def show_responses(responses: list[dict[str, Any]]) -> None:
    """Print the samples that a handler matched, and count the others."""
    unhandled = [response for response in responses if is_unhandled(response)]
    shown = [response for response in responses if not is_unhandled(response)]
    width = max((len(response["sample"]) for response in shown), default=0)
    for response in shown:
        body = response["response"]
        handlers = body.get("handlers", ()) if isinstance(body, dict) else ()
        outcome = "ran " + ", ".join(handlers) if handlers else response["error"] or body
        print(f"  {response['sample']:{width}}  {response['status']}  {outcome}")
    print(f"\n{len(shown)} of the {len(responses)} samples are shown.")
    if unhandled:
        print(
            f"The other {len(unhandled)} match no handler of examples/quickstart.py. Their "
            "response is\n200 `unhandled`, which the Hub counts as delivered."
        )


def is_unhandled(response: dict[str, Any]) -> bool:
    """Return whether no handler matches. The Hub counts such a response as a success."""
    body = response["response"]
    return isinstance(body, dict) and body.get("status") == "unhandled"


def hubhooks_command() -> str:
    """Return the path of `hubhooks`, for the folder `examples`."""
    return str(Path(os.path.relpath(Path(sys.executable).parent, EXAMPLES), "hubhooks"))


def show_next_steps() -> None:
    """Print commands that work in the current folder."""
    command = hubhooks_command()
    print(f"""\
Try next:

  make demo

It runs the app with a page that shows deliveries as they arrive, and sends samples. The same by
hand, with the last command in a second terminal:

  cd {os.path.relpath(EXAMPLES)}
  {command} dev quickstart.py
  {command} send http://127.0.0.1:8000 --sample repo.create

Change a handler in examples/quickstart.py, or write a bot: docs/quickstart.md.""")


if __name__ == "__main__":
    sys.exit(main())
