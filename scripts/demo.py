"""Start the quickstart app, send it every sample as the Hub would, and show what came of it.

Run by `make run`; everything stays on this machine.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"
START_SECONDS = 30


def free_port() -> int:
    """Ask the system for a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(port: int, server: subprocess.Popen[str]) -> None:
    """Wait until the server accepts connections."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    sys.exit("the demo app did not start")


def main() -> int:
    """Run the demo; give the exit code of `hubhooks send`."""
    environ = {**os.environ, "WEBHOOK_SECRET": secrets.token_hex(16), "PYTHONUNBUFFERED": "1"}
    port = free_port()
    serve = [sys.executable, "-m", "uvicorn", "quickstart:hooks", "--app-dir", str(EXAMPLES)]
    server = subprocess.Popen(
        [*serve, "--port", str(port), "--log-level", "warning"],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(port, server)
        url = f"http://127.0.0.1:{port}"
        print(f"$ hubhooks send {url} --all", flush=True)
        send = [sys.executable, "-m", "hubhooks.cli", "send", url, "--all"]
        code = subprocess.run(send, env=environ, check=False).returncode
    finally:
        server.terminate()
        printed, _ = server.communicate(timeout=30)
    print("What the handlers of examples/quickstart.py printed:\n")
    print(printed)
    return code


if __name__ == "__main__":
    sys.exit(main())
