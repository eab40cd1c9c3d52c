"""Processes as the store names them, and whether one of them is alive."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["Process", "current_process", "is_alive"]

# States of `/proc/PID/stat`: a zombie, or a process that is being removed.
_DEAD_STATES = ("Z", "X")
# The start time, counted from the state; see proc_pid_stat(5).
_START_TIME_FIELD = 19


class Process(NamedTuple):
    """A process, distinguished from earlier processes with the same number."""

    pid: int
    host: str
    """The boot of the machine and the PID namespace; a number means nothing elsewhere."""
    start_time: str
    """In clock ticks since boot; empty if the system does not show it."""


def current_process() -> Process:
    """Return this process."""
    return _describe(os.getpid())


@functools.lru_cache(maxsize=1)
def _describe(pid: int) -> Process:
    stat = _read_stat(pid)
    return Process(pid, _host(), stat[_START_TIME_FIELD] if stat else "")


def is_alive(process: Process) -> bool | None:
    """Return whether a process is alive; None if this machine cannot tell."""
    if process.host != _host():
        return None
    if process.start_time:
        stat = _read_stat(process.pid)
        return bool(stat) and (
            stat[0] not in _DEAD_STATES and stat[_START_TIME_FIELD] == process.start_time
        )
    if sys.platform == "win32":
        # There, `os.kill(pid, 0)` sends Ctrl-C.
        return None
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it belongs to another user
    return True


def _read_stat(pid: int) -> list[str]:
    """Read the fields of `/proc/PID/stat` from the state on; none without that file."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return []
    # The name of the program may contain blanks and parentheses.
    return text.rpartition(")")[2].split()


@functools.cache
def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except (OSError, ValueError):
        import socket  # noqa: PLC0415 - slow to import, and needed without /proc only

        return socket.gethostname()
    return f"{boot}/{namespace}"
