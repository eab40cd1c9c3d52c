"""The work of the handlers of all bots: write a line per call, with the fields that they read.

The name of the repository decides the rest: `-slow` at its end takes three seconds, and `-flaky`
fails the first time.
"""

import os
import time
from pathlib import Path

SLOW_SECONDS = 3.0
CALLS = Path(os.environ["CALLS"])


def note(*words: object) -> None:
    """Write a line to the file that the comparison reads."""
    with CALLS.open("a", encoding="utf-8") as file:
        file.write(" ".join(map(str, words)) + "\n")


def retrain(repo: str, head_sha: object) -> None:
    """Do the work of a handler of pushes."""
    is_first = f"began {repo}\n" not in (CALLS.read_text("utf-8") if CALLS.exists() else "")
    note("began", repo)
    if repo.endswith("-slow"):
        time.sleep(SLOW_SECONDS)
    if repo.endswith("-flaky") and is_first:
        raise BlockingIOError
    note("retrained", repo, head_sha)


def answer(repo: str, num: int) -> str:
    """Do the work of a handler of comments."""
    note("answered", repo, num)
    return f"answered in {repo}"
