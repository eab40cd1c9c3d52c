"""What the handlers of all peers do: write down that they were called, and what they read.

The name of the repository says what else: one that ends in `-slow` takes three seconds, one in
`-flaky` fails the first time.
"""

import os
import time
from pathlib import Path

SLOW_SECONDS = 3.0
HEARD = Path(os.environ["HEARD"])


def note(*words: object) -> None:
    """Write a line to the file that the comparison reads."""
    with HEARD.open("a", encoding="utf-8") as file:
        file.write(" ".join(map(str, words)) + "\n")


def retrain(repo: str, head_sha: object) -> None:
    """Do what a handler of pushes does."""
    is_first = f"began {repo}\n" not in (HEARD.read_text("utf-8") if HEARD.exists() else "")
    note("began", repo)
    if repo.endswith("-slow"):
        time.sleep(SLOW_SECONDS)
    if repo.endswith("-flaky") and is_first:
        raise BlockingIOError
    note("retrained", repo, head_sha)


def answer(repo: str, num: int) -> str:
    """Do what a handler of comments does."""
    note("answered", repo, num)
    return f"answered in {repo}"
