"""Compare the memory of a server after a million deliveries with its memory after a few.

Run with `python benches/flat.py [deliveries]`, with the core built for release and `wrk` installed.
Deliveries come over 16 connections, and an async handler runs for each. One server stores them in
memory, one on disk, where a million deliveries reach the limit of 1 GiB. The exit code is 1 if a
server holds much more memory at the end than after the first tenth.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from pathlib import Path

from serving import ASYNC_HANDLER, SCRIPT, SUBJECTS, Server, load, started

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
LOAD_SECONDS = 10
MOST_MORE_MB = 16.0


def megabytes(server: Server) -> float:
    status = Path(f"/proc/{server.pid}/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1e3


def deliver(what: str, server: Server, script: Path) -> bool:
    """Deliver so many, say what is held meanwhile, and tell whether it stayed about the same."""
    done, settled = 0, 0.0
    for turn in itertools.count():
        done += load(server, SUBJECTS[ASYNC_HANDLER], script, turn, LOAD_SECONDS).count
        held = megabytes(server)
        print(f"{what:10} {done:>10,} deliveries {held:8.1f} MB", flush=True)
        if done < COUNT / 10:
            continue
        settled = settled or held
        if done >= COUNT:
            return held - settled <= MOST_MORE_MB
    raise AssertionError


def main() -> int:
    if shutil.which("wrk") is None:
        sys.exit("the load comes from `wrk`, which is not installed: try `apt-get install wrk`")
    is_flat = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = folder / "load.lua"
        script.write_text(SCRIPT, encoding="ascii")
        for what, path in {"in memory": ":memory:", "on disk": str(folder / "log.db")}.items():
            with started(ASYNC_HANDLER, path) as server:
                is_flat &= deliver(what, server, script)
        size = (folder / "log.db").stat().st_size / 1e6
    print(f"the file has {size:,.0f} MB; {'flat' if is_flat else 'NOT FLAT'}")
    return 0 if is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
