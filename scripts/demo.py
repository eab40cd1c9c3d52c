"""Start the quickstart app, send it every sample as the Hub would, and show what came of it.

Run by `make run`; everything stays on this machine.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import IO

EXAMPLES = Path(__file__).parent.parent / "examples"


def address(log: IO[str]) -> str:
    """Read from uvicorn's log where it serves, which is on a port of the system's choice."""
    before = ""
    for line in log:
        if served := re.search(r"running on (http://\S+)", line):
            return served[1]
        before += line
    sys.exit(f"the demo app did not start:\n{before}")


def main() -> int:
    """Run the demo; give the exit code of `hubhooks send`."""
    environ = {**os.environ, "WEBHOOK_SECRET": secrets.token_hex(16), "PYTHONUNBUFFERED": "1"}
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
