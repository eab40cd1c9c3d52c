"""Find threads and processes that a test leaves running."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

# A stopping thread may need this long on a busy machine.
ENDS_WITHIN = 10


class Resources(NamedTuple):
    """The non-daemon threads and the child processes of this process."""

    threads: frozenset[threading.Thread]
    processes: frozenset[int]

    @classmethod
    def current(cls) -> Resources:
        """Return the running ones."""
        threads = (thread for thread in threading.enumerate() if not thread.daemon)
        return cls(frozenset(threads), frozenset(_children()))

    def started_since(self) -> list[str]:
        """Describe those that started later and do not end within some seconds."""
        deadline = time.monotonic() + ENDS_WITHIN
        while left := self._others():
            if time.monotonic() > deadline:
                return left
            time.sleep(0.01)
        return []

    def _others(self) -> list[str]:
        now = Resources.current()
        threads = [repr(thread) for thread in now.threads - self.threads]
        return threads + [_describe(pid) for pid in now.processes - self.processes]


def _children() -> set[int]:
    # Only Linux lists child processes in files. Elsewhere the check covers only threads.
    lists = Path("/proc/self/task").glob("*/children")
    return {int(pid) for each in lists for pid in _read(each).split()}


def _describe(pid: int) -> str:
    command = _read(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()
    return f"process {pid}: {command or 'ended, and nobody waited for it'}"


def _read(path: Path) -> str:
    # The thread or the process may end meanwhile.
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return ""
