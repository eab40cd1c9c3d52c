"""Kill a server many times while it takes deliveries, and look for what got lost."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from soaking import soak

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 300
ROUNDS = 20


def main() -> None:
    """Soak for as long as the first argument says, in seconds."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            report = soak(Path(folder), ROUNDS)
        print(
            f"{ROUNDS} kills: {report.acknowledged} deliveries acknowledged, none lost; "
            f"{report.crashed} of {report.runs} runs crashed, and no finished run was repeated",
            flush=True,
        )


main()
