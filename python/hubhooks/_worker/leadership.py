"""Decide which process runs the handlers of a shared store: the leader."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from hubhooks._logging import get_logger
from hubhooks._process import current_process
from hubhooks.errors import BusyError, ConfigError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hubhooks._app_code import AppCode
    from hubhooks._store.base import DeliveryStore, Leader, RecoveredRun
    from hubhooks._worker.timeouts import Timeouts
    from hubhooks.routing import Router

__all__ = ["Leadership", "Lock"]

_log = get_logger()

# The user of each store on disk in this process, by path.
_users: dict[str, Leadership] = {}
_users_lock = threading.Lock()


class Lock(Protocol):
    """A lock between processes. Its holder is the leader."""

    @property
    def is_held(self) -> bool:
        """True if this process holds it."""
        ...

    def try_acquire(self) -> bool:
        """Acquire it if it is free; True if this process holds it now."""
        ...

    def keep(self) -> bool:
        """Acquire it again if it was lost; True if it had to."""
        ...

    def release(self) -> None:
        """Release it for another process."""


class Leadership:
    """The role of this process in a shared store: it leads, or it only stores deliveries.

    Args:
        router: has the handlers of this process.
        store: the store, maybe shared with other processes.
        lock: the lock of the leader; None if no other process uses the store.
        code: the code of the app in this process.
        timeouts: the times of the worker.
    """

    def __init__(
        self,
        router: Router,
        store: DeliveryStore,
        lock: Lock | None,
        code: AppCode | None,
        timeouts: Timeouts,
    ) -> None:
        self.successor: Leader | None = None
        """The process with newer code that should become the leader."""
        self.router = router
        self._store = store
        self._lock = lock
        self._code = code
        self._version = "" if code is None or not store.path else code.version()
        self._timeouts = timeouts
        self._handover_until = 0.0
        self._resigned_until = 0.0
        # Processes that did not become the leader when this one resigned for them.
        self._declined: set[int] = set()

    @property
    def is_leader(self) -> bool:
        """True if this process runs the handlers."""
        return self._lock is None or self._lock.is_held

    # ---- start and stop ------------------------------------------------------------------------

    def open(self) -> Sequence[RecoveredRun] | None:
        """Open the store, and become the leader if there is none.

        Returns:
            The crashed runs, as `acquire`.

        Raises:
            ConfigError: another router of this process uses the store, or it cannot be used.
            StoreError: it cannot be used now.
        """
        self._reserve_store()
        lock = self._lock
        try:
            # Before the files are opened: only one process may move one of them.
            if lock is not None:
                lock.try_acquire()
            self._store.open()
            try:
                self.register()
                crashed = self.acquire()
                leader = None if self.is_leader else self._find_leader()
                if leader is not None:
                    self._check_handlers(leader)
            except BaseException:
                self._store.close()
                raise
        except BaseException:
            self.release()
            raise
        return crashed

    def release(self) -> None:
        """Let another process lead, and another router of this process use the store."""
        if self._lock is not None:
            self._lock.release()
        self.release_store()

    def release_store(self) -> None:
        """Let another router of this process use the store."""
        with _users_lock:
            if _users.get(self._store.path) is self:
                del _users[self._store.path]

    def switch_off(self) -> None:
        """In a forked child, leave the store to the parent."""
        global _users_lock  # noqa: PLW0603 - a thread of the parent may hold it for ever
        _users_lock = threading.Lock()
        self.release_store()

    def register(self) -> None:
        """Record the code and the handlers of this process, for others and the command line."""
        order = 0.0 if self._code is None else self._code.order
        self._store.register(self._version, order, self.router.handler_names)

    def _reserve_store(self) -> None:
        """Reject a second router: it would get deliveries of the first one."""
        if not self._store.path:
            return
        with _users_lock:
            other = _users.get(self._store.path)
            if other is not None and other.router is not self.router:
                msg = (
                    f"the delivery store `{self._store.path}` is in use by another `Webhooks` of "
                    "this process: their handlers would get each other's deliveries. Give each "
                    'its own file, `Webhooks(deliveries="other.db")`, or combine them with '
                    "`include_router`"
                )
                raise ConfigError(msg)
            _users[self._store.path] = self

    def _check_handlers(self, leader: Leader) -> None:
        """Raise `ConfigError` if the leader has the same code and cannot run our handlers."""
        if leader.code != self._version or leader.handlers is None:
            return
        missing = [name for name in self.router.handler_names if name not in leader.handlers]
        if missing:
            msg = (
                f"process {leader.process.pid} is the leader of the delivery store "
                f"`{self._store.path}`. It has the same code, but no handler `{missing[0]}`, which "
                "would never run: give each `Webhooks` of the app its own file, "
                '`Webhooks(deliveries="other.db")`'
            )
            raise ConfigError(msg)

    # ---- the leader ----------------------------------------------------------------------------

    def acquire(self) -> Sequence[RecoveredRun] | None:
        """Become the leader if there is none.

        Returns:
            The runs during which a process died; None if another process is the leader.
        """
        lock = self._lock
        if lock is not None and not lock.try_acquire():
            return None
        try:
            self.register()
            return self._store.recover()
        except BaseException as error:
            # Otherwise this process would hold the lock without leading, and no other could lead.
            if lock is not None:
                lock.release()
            if isinstance(error, BusyError):
                return None
            raise

    def reacquire(self) -> Sequence[RecoveredRun] | None:
        """Become the leader again, after this process lost the lock or the file was replaced.

        Neither happens while the lock is held, unless a program removes the lock's file, or opens
        and closes it in this process.
        """
        _log.warning(
            "this process is no longer the leader of the delivery store `%s`: another process "
            "became the leader, or the file was replaced",
            self._store.path,
        )
        if self._lock is not None:
            self._lock.release()
        return self.acquire()

    def may_acquire(self, now: float) -> bool:
        """Return whether this process may try to lead. It may not just after it resigned."""
        return now >= self._resigned_until

    def keep(self) -> None:
        """Acquire the lock again if its file was removed, and record that this process leads."""
        if self._lock is not None and self._lock.keep():
            self._store.note_lock()
        self._store.keep_noted()

    # ---- newer code ----------------------------------------------------------------------------

    def hand_over(self, now: float, *, is_idle: bool) -> bool:
        """Resign for a process with newer code, as soon as no handler runs here.

        A handler may take hours. So this process resigns after `handover` seconds at the latest:
        queued runs must not wait longer. Running handlers continue in this process.

        Returns:
            True if the process with newer code is gone, so that runs may start here again.
        """
        other = self._store.successor()
        if other is None or other.key in self._declined or not self.is_leader:
            was_waiting, self.successor = self.successor is not None, None
            return was_waiting
        if self.successor is None or self.successor.key != other.key:
            self.successor = other
            self._handover_until = now + self._timeouts.handover
            what = (
                "process %d has newer code: it becomes the leader of the delivery store `%s` once "
                "no handler runs here"
            )
            _log.warning(what, other.process.pid, self._store.path)
        if is_idle or now >= self._handover_until:
            self._resign(other, now)
        return False

    def _resign(self, other: Leader, now: float) -> None:
        self._store.resign(is_end=False)
        self._store.flush()
        if self._lock is not None:
            self._lock.release()
        self.successor = None
        self._declined.add(other.key)
        self._resigned_until = now + self._timeouts.resigned

    # ---- for the log ---------------------------------------------------------------------------

    def describe(self) -> str:
        """Describe which process runs the handlers, and warn if it has other code."""
        if self.is_leader:
            return "this process runs the handlers"
        leader = self._find_leader()
        if leader is None:
            return "another process runs the handlers"
        pid, own = leader.process.pid, self._version
        leads = (
            f"process {pid} is the leader of the delivery store `{self._store.path}` since "
            f"{_since(leader)}, with code {leader.code}"
        )
        if leader.code == own:
            return f"{leads}. This process has the same code, and only accepts deliveries"
        then = "and becomes the leader with its newer code once no handler runs there"
        _log.warning("%s. This process has code %s, %s", leads, own, then)
        return f"process {pid} runs the handlers, with different code"

    def _find_leader(self) -> Leader | None:
        """Look up the leader; None if it is this process, or cannot be read now."""
        try:
            leader = self._store.leader()
        except StoreError:
            return None
        return None if leader is None or leader.process == current_process() else leader


def _since(leader: Leader) -> str:
    return "now" if leader.since is None else f"{leader.since:%Y-%m-%d %H:%M:%S} UTC"
