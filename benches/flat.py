"""Compare the memory of a server after a million deliveries with its memory after a few.

Run with `python benches/flat.py [deliveries]`, with the core built for release.
Deliveries come over 16 connections, and an async handler runs for each. One server stores them in
memory, one on disk, where a million deliveries reach the limit of 1 GiB. The exit code is 1 if a
server holds much more memory at the end than after the first tenth.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from load_generator import Target, saturate
from serving import HANDLED, started

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
LOAD_SECONDS = 10
MOST_MORE_MB = 16.0


def megabytes(target: Target) -> float:
    status = Path(f"/proc/{target.pid}/status").read_text("ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1e3


def deliver(what: str, target: Target) -> bool:
    """Send `COUNT` deliveries, print the memory meanwhile, and return whether it is flat."""
    done, settled = 0, 0.0
    while True:
        done += saturate(target, LOAD_SECONDS).count
        held = megabytes(target)
        print(f"{what:10} {done:>10,} deliveries {held:8.1f} MB", flush=True)
        if done < COUNT / 10:
            continue
        settled = settled or held
        if done >= COUNT:
            return held - settled <= MOST_MORE_MB


def main() -> int:
    is_flat = True
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "deliveries.db"
        for what, deliveries in {"in memory": ":memory:", "on disk": str(file)}.items():
            with started("async", deliveries) as target:
                is_flat &= deliver(what, target._replace(status=HANDLED))
        size = file.stat().st_size / 1e6
    print(f"the file has {size:,.0f} MB; {'flat' if is_flat else 'NOT FLAT'}")
    return 0 if is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
