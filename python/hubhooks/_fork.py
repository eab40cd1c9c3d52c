"""Keep forked children out of what their parent serves.

A child has copies of the parent's sessions, connections, sockets and signal handlers. It uses none
of them: it runs nothing, writes nothing, and neither closes nor unlocks the parent's files. A
`Webhooks` that was not started before the fork works in the child as usual.
"""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
import threading
from contextlib import suppress
from traceback import print_exception
from typing import TYPE_CHECKING, NoReturn, Protocol
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SwitchedOffInChildren", "delay_in_children", "end_forked_child", "register",
    "release_in_children",
]  # fmt: skip

# Where the process's open files are listed, on Linux and on macOS.
_OPEN_FILES = ("/proc/self/fd", "/dev/fd")
_ANY_HOST = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
# Some servers take the address from the request, which anybody can send.
_MOST_ADDRESSES = 16


class SwitchedOffInChildren(Protocol):
    """Something of the parent that a forked child must not use."""

    def switch_off(self) -> None:
        """Become unusable in this forked child, without a lock: no thread is left to release it."""


_registered: WeakSet[SwitchedOffInChildren] = WeakSet()
# The local addresses that this process accepts requests at: a host and a port, or a path.
_addresses: set[tuple[object, ...]] = set()
_delayed: set[int] = set()
_before_fork = threading.local()


def register(resource: SwitchedOffInChildren) -> None:
    """Switch something off in each child that is forked from now on."""
    _registered.add(resource)


def release_in_children(server: Sequence[object] | None) -> None:
    """Let forked children release the sockets of a server: a child would keep the port in use.

    Args:
        server: as `scope["server"]` of an ASGI request.
    """
    if server is not None and len(_addresses) < _MOST_ADDRESSES:
        _addresses.add(tuple(server))


def delay_in_children(number: int) -> None:
    """Deliver a signal to a forked child only once its handlers are switched off.

    CPython drops a signal with a Python handler if it arrives while a child starts.
    """
    _delayed.add(number)


def end_forked_child(process: int, error: BaseException | None = None) -> None:
    """End this process if the user's code forked it, and then returned in the child.

    The caller of the user's code belongs to the parent, and continues only there.

    Args:
        process: the process that called the user's code.
        error: what the user's code raised; it decides the exit code as in a script.
    """
    if os.getpid() == process:
        return
    code: object = 0
    with suppress(BaseException):
        code = _exit_code(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()
    _exit(code if isinstance(code, int) else 1)


def _exit(code: int) -> NoReturn:
    # Not `sys.exit`: the threads and files to clean up are the parent's.
    os._exit(code & 0xFF)


def _exit_code(error: BaseException | None) -> object:
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)  # noqa: T201 - as Python does
    else:
        print_exception(error)
    return 1


def _before() -> None:
    if _delayed:
        _before_fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _delayed)


def _after_in_parent() -> None:
    mask = vars(_before_fork).pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_in_child() -> None:
    try:
        _switch_off()
    finally:
        _delayed.clear()
        _after_in_parent()


def _switch_off() -> None:
    is_serving = bool(_registered or _addresses)
    for resource in tuple(_registered):
        with suppress(Exception):
            resource.switch_off()
    _registered.clear()
    if is_serving:
        with suppress(Exception):
            _release_sockets()
    _addresses.clear()


def _release_sockets() -> None:
    """Close the inherited sockets of the server, listening and connected."""
    folder = next((path for path in _OPEN_FILES if os.path.isdir(path)), None)  # noqa: PTH112 - `pathlib` is slow to import
    if folder is None:
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name in os.listdir(folder):  # noqa: PTH208 - numbers, not paths
        with suppress(OSError):
            number = int(name)
            if stat.S_ISSOCK(os.fstat(number).st_mode) and _is_servers(number):
                # This keeps the descriptor number in use: the object that owns it closes it later.
                os.dup2(null, number, inheritable=False)
    os.close(null)


def _is_servers(number: int) -> bool:
    """Return whether a socket is bound to an address of the server."""
    shared = socket.socket(fileno=number)
    try:
        name = shared.getsockname()
    finally:
        shared.detach()
    if isinstance(name, tuple):
        # Before the first request, the address of the server is not known.
        return _is_listening(number) or any(
            port == name[1] and (host == name[0] or host in _ANY_HOST or name[0] in _ANY_HOST)
            for host, port in _addresses
        )
    return bool(name) and (os.fsdecode(name), None) in _addresses


def _is_listening(number: int) -> bool:
    if not hasattr(socket, "SO_ACCEPTCONN"):
        return False
    shared = socket.socket(fileno=number)
    try:
        return bool(shared.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        shared.detach()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
