"""Start the quickstart app, send it every sample, and show the output of its handlers.

`make run` calls it. Everything stays on this machine.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

EXAMPLES = Path(__file__).parent.parent / "examples"


def address(log: IO[str]) -> str:
    """Read the URL from uvicorn's log. The system chooses the port."""
    before = ""
    for line in log:
        if served := re.search(r"running on (http://\S+)", line):
            return served[1]
        before += line
    sys.exit(f"the demo app did not start:\n{before}")


def main() -> int:
    """Run the demo, and return the exit code of `hubhooks send`."""
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


def show_next_steps() -> None:
    """Print commands that work in this folder."""
    folder = os.path.relpath(Path(sys.executable).parent)
    print(f"""\
Try next:

  cd examples
  ../{folder}/hubhooks dev quickstart.py

Open the printed page: it shows deliveries as they arrive, and sends samples. In a second terminal:

  cd examples
  ../{folder}/hubhooks send http://127.0.0.1:8000 --sample repo.create

Change a handler in examples/quickstart.py, or write a bot: docs/quickstart.md.""")


if __name__ == "__main__":
    sys.exit(main())
