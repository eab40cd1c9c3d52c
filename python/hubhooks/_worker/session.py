"""What runs between a start and a stop of the runner: claims what is ready, and runs it."""

from __future__ import annotations

import asyncio
import contextvars
import math
import threading
import time
from typing import TYPE_CHECKING, Protocol

from hubhooks._core import HubEvent
from hubhooks._fork import register
from hubhooks._logging import get_logger, text_of
from hubhooks._process import current_process
from hubhooks._worker.execution import (
    CLEAN_UP_SECONDS,
    DaemonThreadPool,
    Execution,
    HookExecution,
    LoopThread,
    RunExecution,
    WaitGroup,
    Watchdog,
    cancel,
    running_loop,
)
from hubhooks.errors import BusyError, ConfigError, PayloadError, StoreError
from hubhooks.models import RunContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hubhooks._app_code import AppCode
    from hubhooks._http.receiver import AcceptedRuns
    from hubhooks._store.base import DeliveryStore, Due, Interrupted
    from hubhooks._store.sqlite import Leader
    from hubhooks.models import Delivery
    from hubhooks.routing import HookName, Router

__all__ = ["SLOTS", "Lock", "Session"]

_log = get_logger()

# How many handlers run at once, where nobody says.
SLOTS = 32
# How often a log on disk is asked whether another process wrote to it, or died.
_POLL_SECONDS = 0.25
# How often everything is looked at anew, as a clock may have been set back.
_FULL_POLL_SECONDS = 60.0
# How often a log on disk is pruned, and how long it is left alone after its upkeep failed.
_PRUNE_SECONDS = 60.0
# A log that cannot be written is tried again after this.
_BUSY_SECONDS = 0.05
_STORE_FAILURE_SECONDS = 1.0
_CHECKPOINT_SECONDS = 1.0
# How long a run that the process died during waits for the others to end, and how long they wait
# for it.
_QUARANTINE_SECONDS = 60.0
# How long a process without the newest code starts no new runs before the other one leads, and how
# long it leaves the lead to that process.
_HANDOVER_SECONDS = 30.0
_RESIGN_SECONDS = 2.0
# How often the leader looks for runs whose process died after it handed over the lead.
_CRASHED_SECONDS = 5.0
# How long what may be written late waits for other things to be written with it.
_DEFERRED_SECONDS = 0.005
# A context may hold all of a request.
_MAX_CONTEXTS = 1000


# The sessions that have a log on disk open, by its path.
_reserved: dict[str, Session] = {}
_reserving = threading.Lock()


class Lock(Protocol):
    """Says which of several processes runs what is in a log: the one that holds it."""

    @property
    def is_held(self) -> bool:
        """Whether it is this one."""
        ...

    def try_acquire(self) -> bool:
        """Take it if nobody has it; whether it is held now."""
        ...

    def keep(self) -> bool:
        """Take it again, if it was taken away; whether it had to."""
        ...

    def release(self) -> None:
        """Let another process take over."""


class Session:
    """All that runs between a start and a stop. What outlives the stop bothers no later one."""

    def __init__(
        self,
        router: Router,
        log: DeliveryStore,
        lock: Lock | None,
        slots: int,
        code: AppCode | None = None,
    ) -> None:
        self.log = log
        self.loop: asyncio.AbstractEventLoop | None = None
        """The server's loop, where steps are taken; None where there is none."""
        self.is_on_server = True
        """Whether async handlers run on that loop."""
        self.is_inline = False
        """Whether what is sync runs where it is started, not on threads."""
        self.needs_poll = True
        """Whether something in the log may be ready that is not claimed yet."""
        self.is_cancelling = False
        self.is_of_parent = False
        """Whether this process was forked from the one where it runs."""
        self.unfinished = WaitGroup()
        self._router = router
        self._leader_lock = lock
        self._slots = slots
        self._threads = DaemonThreadPool(self._run, slots)
        self._tasks: dict[asyncio.Task[None], Execution] = {}
        self._own_loop: LoopThread | None = None
        self._watchdog: Watchdog | None = None
        self._is_closed = False
        self._is_draining = False
        # What runs, and how many there are of each handler that may only run so often at once.
        self._running: dict[RunExecution, None] = {}
        self._counts: dict[str, int] = {}
        # Whether the log may have runs that the process died during; until when the next of them
        # waits for the others to end; whether those have their turn before.
        self._may_be_interrupted = False
        self._silence_until: float | None = None
        self._is_others_turn = False
        # The one that nothing is started beside, and until when.
        self._alone: RunExecution | None = None
        self._alone_until = 0.0
        self._waiting: dict[str, list[asyncio.Event]] = {}
        # Of the requests of this process whose runs have not started yet; retries have none.
        self._contexts: dict[tuple[str, str], contextvars.Context] = {}
        self._lock = threading.Lock()
        self._code = code
        self._version = "" if code is None or not log.is_durable else code.version()
        # The process with newer code that should lead, until when no run starts so that it can,
        # until when this process does not lead itself, and the processes that did not lead then.
        self._successor: Leader | None = None
        self._handover_until = 0.0
        self._resigned_until = 0.0
        self._look_for_crashed_at = 0.0
        self._declined: set[int] = set()
        # Whether runs may wait for handlers that do not exist, and those that were logged.
        self._may_be_unknown = True
        self._logged_unknown: set[str] = set()
        # When to take the next step, by the monotonic clock.
        self._is_woken = False
        self._is_flush_planned = False
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._look_at_all = time.monotonic() + _FULL_POLL_SECONDS
        self._due_at = math.inf
        self._not_before = 0.0
        self._upkeep_is_over = threading.Event()

    @property
    def is_leader(self) -> bool:
        """Whether this process runs what is in the log."""
        return self._leader_lock is None or self._leader_lock.is_held

    def open(self) -> None:
        """Open the log.

        Raises:
            ConfigError: other handlers of this process run what is in it; or it cannot be used.
            StoreError: it cannot be used just now.
        """
        self._reserve()
        lock = self._leader_lock
        try:
            # Before the files are opened: only one process may move one of them aside.
            if lock is not None:
                lock.try_acquire()
            self.log.open()
            try:
                self._register()
                self._acquire_leadership()
                leader = None if self.is_leader else self._find_leader()
                if leader is not None:
                    self._check_handlers(leader)
            except BaseException:
                self.log.close()
                raise
        except BaseException:
            if lock is not None:
                lock.release()
            self.release_store()
            raise
        register(self)
        if self.log.is_durable:
            threading.Thread(target=self._maintain, name="hubhooks upkeep", daemon=True).start()

    def _register(self) -> None:
        """Record what this process runs, for other processes and for the command line."""
        order = 0.0 if self._code is None else self._code.order
        self.log.register(self._version, order, self._router.handler_names)

    def _find_leader(self) -> Leader | None:
        """Look up the process that leads; None if it is this one, or not known just now."""
        try:
            leader = self.log.leader()
        except StoreError:
            return None
        return None if leader is None or leader.process == current_process() else leader

    def _check_handlers(self, leader: Leader) -> None:
        """Raise `ConfigError` if the leader has the same code and cannot run our handlers."""
        if leader.code != self._version or leader.handlers is None:
            return
        missing = [name for name in self._router.handler_names if name not in leader.handlers]
        if missing:
            msg = (
                f"process {leader.process.pid} is the leader of the delivery store "
                f"`{self.log.path}`. It has the same code, but no handler `{missing[0]}`, which "
                "would never run: give each `Webhooks` of the app its own file, "
                '`Webhooks(deliveries="other.db")`'
            )
            raise ConfigError(msg)

    def describe_leader(self) -> str:
        """Describe which process runs the handlers, and warn if that one has other code."""
        if self.is_leader:
            return "this process runs the handlers"
        leader = self._find_leader()
        if leader is None:
            return "another process runs the handlers"
        pid, own = leader.process.pid, self._version
        leads = (
            f"process {pid} is the leader of the delivery store `{self.log.path}` since "
            f"{_since(leader)}, with code {leader.code}"
        )
        if leader.code == own:
            return f"{leads}. This process has the same code, and only accepts deliveries"
        then = "and becomes the leader with its newer code once no handler runs there"
        _log.warning("%s. This process has code %s, %s", leads, own, then)
        return f"process {pid} runs the handlers, with different code"

    def _reserve(self) -> None:
        """Keep two routers from one log: one of them would get what the other accepted."""
        if not self.log.is_durable:
            return
        with _reserving:
            other = _reserved.get(self.log.path)
            if other is not None and other._router is not self._router:  # noqa: SLF001 - one of us
                msg = (
                    f"the delivery store `{self.log.path}` is in use by another `Webhooks` of this "
                    "process: their handlers would get each other's deliveries. Give each its own "
                    'file, `Webhooks(deliveries="other.db")`, or combine them with '
                    "`include_router`"
                )
                raise ConfigError(msg)
            _reserved[self.log.path] = self

    def release_store(self) -> None:
        """Let another session use the log, as this one ends or is about to."""
        with _reserving:
            if _reserved.get(self.log.path) is self:
                del _reserved[self.log.path]

    def switch_off(self) -> None:
        """In a forked child, leave everything to the parent."""
        global _reserving  # noqa: PLW0603 - the parent's may be locked for ever
        _reserving = threading.Lock()
        self.release_store()
        self.is_of_parent = self._is_closed = self._is_draining = True
        self.loop = None
        self._lock = threading.Lock()
        self.unfinished = WaitGroup()
        self._threads = DaemonThreadPool(self._run, self._slots)
        self._threads.close()
        self._running = {}
        self._tasks = {}
        self._watchdog = self._own_loop = self._timer = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take steps on a loop, unless they are taken on one that lives."""
        if self.loop is None or self.loop.is_closed():
            self.loop = loop
            self._is_woken = self._is_flush_planned = False
            self.wake()

    # ---- what is to run ------------------------------------------------------------------------

    def claim(self, work: AcceptedRuns, context: contextvars.Context) -> list[RunExecution]:
        """Reserve what can run at once of a delivery.

        Args:
            work: the delivery.
            context: the context of its request, also for runs that start later.
        """
        if self.is_leader:
            for name in work.handlers:
                self._contexts[work.delivery_id, name] = context
            while len(self._contexts) > _MAX_CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
        if self.needs_poll or self._alone is not None or not self._may_start():
            self.needs_poll = True
            return []
        claimed: list[RunExecution] = []
        try:
            for name in work.handlers:
                if self._has_room(name):
                    run = self._claim(work.delivery_id, name)
                    if run is not None:
                        run.event = work.event
                        claimed.append(run)
                elif len(self._running) >= self._slots:
                    self.needs_poll = True
                # What is busy says so when a run of it ends: to look sooner is to find nothing.
        except BaseException:
            self.give_back(claimed)
            raise
        return claimed

    def give_back(self, runs: Sequence[RunExecution]) -> None:
        """Forget what was claimed."""
        for run in runs:
            # The batch may be in the file all the same: see `Database.batch`.
            self.log.unclaim(run.run_context)
            self._free(run)
        self.needs_poll = True

    def _claim(self, delivery_id: str, name: str) -> RunExecution | None:
        handler = self._router.handler(name)
        if handler is None:
            # It stays as it is, until a process has the handler or somebody ends it.
            self._may_be_unknown = self.needs_poll = True
            return None
        run_context = self.log.claim(delivery_id, name)
        if run_context is None:
            return None
        run = RunExecution(self, handler, run_context)
        context = self._contexts.pop((delivery_id, name), None)
        if context is not None:
            run.context = context.copy()
        with self._lock:
            self._running[run] = None
            if run.is_counted:
                self._counts[name] = self._counts.get(name, 0) + 1
        return run

    def _has_room(self, name: str) -> bool:
        return len(self._running) < self._slots and not (
            name in self._counts and self._is_busy(name)
        )

    def _is_busy(self, name: str) -> bool:
        """Whether a handler runs as often as it may."""
        handler = self._router.handler(name)
        limit = None if handler is None else handler.policy.concurrency
        return limit is not None and self._counts.get(name, 0) >= limit

    def _busy(self) -> list[str]:
        return [name for name in tuple(self._counts) if self._is_busy(name)]

    def _may_start(self) -> bool:
        # What a log on disk has queued can wait for the next start.
        return (
            self.is_leader
            and not (self._is_draining and self.log.is_durable)
            and not self._is_handing_over
        )

    @property
    def _is_handing_over(self) -> bool:
        """Whether no run starts, so that the process with newer code can lead."""
        return self._successor is not None

    def _free(self, run: RunExecution) -> None:
        with self._lock:
            if self._running.pop(run, self) is self:
                return
            if run.is_counted:
                self._counts[run.name] -= 1
                if not self._counts[run.name]:
                    del self._counts[run.name]
            was_alone = run is self._alone
            if was_alone:
                self._alone = None
        if run.is_counted or was_alone:
            self.needs_poll = True

    # ---- steps ---------------------------------------------------------------------------------

    def wake(self) -> None:
        """Take a step soon; from any thread."""
        if not self._is_woken:
            # Set first: on another thread the step, which takes it back, may begin at once.
            self._is_woken = True
            if not self._call_soon(self.tick):
                self._is_woken = False

    def wake_if_needed(self) -> None:
        """Take a step soon if something may be ready, a bit later if something is to be written."""
        if self.needs_poll:
            self.wake()
        elif self.log.has_deferred and not (self._is_flush_planned or self._is_woken):
            self._is_flush_planned = True
            if not self._call_soon(self._plan_flush):
                self._is_flush_planned = False

    def _plan_flush(self) -> None:
        # Where more deliveries come, what is late is written with the next of them.
        if self.loop is not None:
            self.loop.call_later(_DEFERRED_SECONDS, self.tick, context=contextvars.Context())

    def _call_soon(self, function: Callable[[], None]) -> bool:
        loop = self.loop
        try:
            if loop is None:
                return False
            # Not in the context of a request or a run, which each next step would keep.
            is_here = running_loop() is loop
            call = loop.call_soon if is_here else loop.call_soon_threadsafe
            contextvars.Context().run(call, function)
        except RuntimeError:  # closed
            return False
        return True

    def tick(self) -> None:
        """Write what is late, and start what is ready."""
        self._is_woken = self._is_flush_planned = False
        if self._is_closed:
            return
        now = time.monotonic()
        try:
            if now >= self._not_before:
                self.log.flush()
                self._poll(now)
        except (ConfigError, StoreError) as error:
            # What was ready still is.
            self.needs_poll = True
            self._pause_store(now, error)
        finally:
            self._set_timer()

    def _pause_store(self, now: float, error: Exception) -> None:
        """Leave the log alone for a moment, as it could not be written."""
        if isinstance(error, BusyError):
            self._not_before = now + _BUSY_SECONDS
        else:
            self._not_before = now + _STORE_FAILURE_SECONDS
            _log.error("handlers cannot start now: %s", error)

    def _poll(self, now: float) -> None:
        if self.log.is_durable and now >= self._look_at:
            self._look_at = now + _POLL_SECONDS
            self._poll_processes(now)
        if now >= self._look_at_all or now >= self._due_at:
            self._look_at_all = now + _FULL_POLL_SECONDS
            self._may_be_unknown = True
            # Where there is no room for it now, whatever makes some wakes.
            self._due_at = math.inf
            self.needs_poll = True
        for run in tuple(self._running):
            if run.deadline is not None and now >= run.deadline:
                run.mark_stuck()
        alone = self._alone
        if alone is not None and (alone.is_stuck or now >= self._alone_until):
            self._alone = None
            self.needs_poll = True
            what = (
                "handler `%s` on delivery `%s`, during which the process died before, has not "
                "finished alone: other handlers now run at the same time"
            )
            _log.warning(what, alone.name, alone.run_context.id)
        if self.needs_poll and self._may_start():
            self._start_what_is_ready()

    def _poll_processes(self, now: float) -> None:
        """Look at what other processes did to the log on disk, and lead if none of them does."""
        is_changed = self.log.changed()
        if not self.is_leader:
            if now >= self._resigned_until:
                self._acquire_leadership()
                if self.is_leader:
                    _log.info("this process runs the handlers now: there is no other leader")
            return
        if self._leader_lock is not None and self._leader_lock.keep():
            self.log.note_lock()
        self.log.keep_noted()
        if is_changed:
            self.needs_poll = self._may_be_unknown = True
            if not self.log.is_led:
                self._reacquire_leadership()
        if is_changed or self._successor is not None:
            self._hand_over_if_idle(now)
        if self.is_leader and now >= self._look_for_crashed_at:
            self._look_for_crashed_at = now + _CRASHED_SECONDS
            self._tell_crashed(self.log.recover_crashed())

    def _hand_over_if_idle(self, now: float) -> None:
        """Let a process with newer code lead as soon as nothing runs here."""
        other = self.log.successor()
        if other is None or other.key in self._declined or not self.is_leader:
            if self._successor is not None:
                self._successor = None
                self.needs_poll = True
            return
        if self._successor is None or self._successor.key != other.key:
            self._successor = other
            self._handover_until = now + _HANDOVER_SECONDS
            what = (
                "process %d has newer code: it becomes the leader of the delivery store `%s` once "
                "no handler runs here"
            )
            _log.warning(what, other.process.pid, self.log.path)
        # A handler may take hours, and the queued runs cannot wait that long. It goes on here.
        is_idle = all(run.is_stuck for run in tuple(self._running))
        if is_idle or now >= self._handover_until:
            self._resign(other, now)

    def _resign(self, other: Leader, now: float) -> None:
        self.log.resign(is_end=False)
        self.log.flush()
        if self._leader_lock is not None:
            self._leader_lock.release()
        self._successor = None
        # If it does not take the lead, it is not asked again.
        self._declined.add(other.key)
        self._resigned_until = now + _RESIGN_SECONDS

    def _log_unknown_handlers(self) -> None:
        """Log once for each handler that runs wait for and that does not exist here."""
        self._may_be_unknown = False
        known = self._router.handler_names
        for name, count in self.log.waiting_handlers().items():
            if name not in known and name not in self._logged_unknown:
                self._logged_unknown.add(name)
                what = (
                    "%d %s cannot start: this process has no handler `%s`. Run another handler, "
                    "`hubhooks deliveries replay --only %s --as NEW`, or mark them as failed, "
                    "`hubhooks deliveries fail --handler %s`"
                )
                runs = "run" if count == 1 else "runs"
                _log.warning(what, count, runs, name, name, name)

    def _start_what_is_ready(self) -> None:
        # First, so that it stays if another thread sets it meanwhile.
        self.needs_poll = False
        if self._may_be_unknown:
            self._register()
            self._log_unknown_handlers()
        if self._alone is not None or (self._may_be_interrupted and self._start_interrupted()):
            self.needs_poll = True
        else:
            self._start_others()

    def _start_interrupted(self) -> bool:
        """Start a run that the process died during, if it is its turn.

        Returns:
            whether nothing else may start now.
        """
        if self._is_others_turn:
            # Or many of those, one after the other, would keep the rest waiting.
            self._is_others_turn = False
            self._start_others()
        busy = self._busy()
        found = self.log.list_ready(1, busy, among=self._router.handler_names, interrupted=True)
        running = tuple(self._running)
        if not found:
            self._silence_until = None
            # None becomes one as long as this process lives.
            self._may_be_interrupted = (
                bool(busy)
                or self.log.seconds_to_next() is not None
                or any(run.is_interrupted for run in running)
            )
            return False
        now = time.monotonic()
        if self._silence_until is None:
            self._silence_until = now + _QUARANTINE_SECONDS
        # What nothing can end is not waited for, and what takes long only for so long.
        is_silent = all(run.is_stuck for run in running)
        if len(running) >= self._slots or not (is_silent or now >= self._silence_until):
            return True
        claimed, _ = self._claim_found(found)
        self._silence_until = None
        self._is_others_turn = True
        for run in claimed:
            run.is_interrupted = True
            if is_silent:
                self._alone, self._alone_until = run, now + _QUARANTINE_SECONDS
            self._read_and_start(run, {})
        return is_silent and bool(claimed)

    def _start_others(self) -> None:
        is_everything = False
        while not is_everything:
            free = self._slots - len(self._running)
            if free <= 0:
                self.needs_poll = True
                # Since then something may have ended that did not see it.
                if len(self._running) >= self._slots:
                    return
                continue
            found = self.log.list_ready(free, self._busy(), among=self._router.handler_names)
            claimed, is_room_left = self._claim_found(found)
            events: dict[str, HubEvent] = {}
            for run in claimed:
                self._read_and_start(run, events)
            is_everything = is_room_left and (len(found) < free or not claimed)
        seconds = self.log.seconds_to_next()
        self._due_at = math.inf if seconds is None else time.monotonic() + seconds

    def _claim_found(self, found: Sequence[Due]) -> tuple[list[RunExecution], bool]:
        """Claim what is ready; give that, and whether there was room for all of it."""
        claimed: list[RunExecution] = []
        is_room_left = True
        if found:
            try:
                with self.log.transaction():
                    for delivery_id, name in found:
                        if not self._has_room(name):
                            is_room_left = False
                        elif run := self._claim(delivery_id, name):
                            claimed.append(run)
            except BaseException:
                self.give_back(claimed)
                raise
        return claimed, is_room_left

    def _read_and_start(self, run: RunExecution, events: dict[str, HubEvent]) -> None:
        """Start a run; `events` has what was read already, so that handlers share a long body."""
        run.loop = self.loop if self.is_on_server else None
        delivery_id = run.run_context.id
        try:
            if delivery_id not in events:
                events[delivery_id] = HubEvent.from_json(self.log.body(delivery_id) or b"")
            run.event = events[delivery_id]
        except PayloadError as error:
            run.fail_unstarted(error)
        except StoreError as error:
            run.requeue(str(error), _STORE_FAILURE_SECONDS)
            _log.error("handler `%s` cannot start now: %s", run.name, error)
        else:
            self.start(run)

    def _reacquire_leadership(self) -> None:
        """Begin anew where another process took over, or the file was replaced.

        Both should not be while the lock is held; but whoever removes its file, or opens and
        closes it in this process, takes it away.
        """
        _log.warning(
            "this process is no longer the leader of the delivery store `%s`: another process "
            "became the leader, or the file was replaced",
            self.log.path,
        )
        if self._leader_lock is not None:
            self._leader_lock.release()
        self._acquire_leadership()

    def _acquire_leadership(self) -> None:
        """Become the process that runs what is in the log, if there is no other."""
        lock = self._leader_lock
        if lock is not None and not lock.try_acquire():
            return
        try:
            self._register()
            interrupted = self.log.recover()
        except BaseException as error:
            # Whoever holds the lock without leading keeps all others from it, and itself too.
            if lock is not None:
                lock.release()
            if isinstance(error, BusyError):
                return
            raise
        self._may_be_interrupted = self.log.is_durable
        self._may_be_unknown = True
        ready = self.log.list_ready(1) or self.log.list_ready(1, interrupted=True)
        self.needs_poll = bool(ready) or self.log.seconds_to_next() is not None
        self._tell_crashed(interrupted)

    def _tell_crashed(self, crashed: Sequence[Interrupted]) -> None:
        """Log the runs whose process died, and run the hooks of those that are not tried again."""
        for delivery_id, name, is_failed in crashed:
            self._may_be_interrupted = self.needs_poll = True
            if is_failed:
                try:
                    self._fail_crashed_run(delivery_id, name)
                except StoreError as failure:
                    # The others are still to be told of.
                    what = "cannot call the hooks for handler `%s` on delivery `%s`: %s"
                    _log.error(what, name, delivery_id, failure)
            else:
                what = "the process died during handler `%s` on delivery `%s`: retrying it alone"
                _log.warning(what, name, delivery_id)

    def _fail_crashed_run(self, delivery_id: str, name: str) -> None:
        """Tell of a handler during which the process died once too often."""
        error = RuntimeError("the process died during this handler")
        _log.error("handler `%s` failed on delivery `%s`: %s", name, delivery_id, error)
        delivery = self.log.get(delivery_id)
        body = self.log.body(delivery_id)
        if delivery is None or body is None:
            return
        attempt = delivery.run(name).attempts
        run_context = RunContext(
            delivery_id, attempt, delivery.is_replay, delivery.received_at, name
        )
        try:
            event = HubEvent.from_json(body)
        except PayloadError:
            return
        context = contextvars.Context()
        self.tell("failure", delivery_id, None, event, run_context, error, context=context)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        deadlines = [run.deadline for run in tuple(self._running) if run.deadline is not None]
        at = min([self._due_at, *deadlines])
        if self.log.is_durable:
            at = min(at, self._look_at)
        at = max(at, self._not_before)
        if self.loop is not None and at < math.inf:
            seconds = max(at - time.monotonic(), 0.001)
            self._timer = self.loop.call_later(seconds, self.tick, context=contextvars.Context())

    def _maintain(self) -> None:
        """Do on a thread what waits for the disk."""
        prune_at = 0.0
        while not self._upkeep_is_over.wait(_CHECKPOINT_SECONDS):
            try:
                self.log.checkpoint()
                if self.is_leader and time.monotonic() >= prune_at:
                    prune_at = time.monotonic() + _PRUNE_SECONDS
                    self.log.prune()
            # Whatever fails, the thread goes on: without it the file would grow for ever.
            except Exception as error:  # noqa: PERF203, BLE001 - hardly ever raised; see above
                # Somebody else who writes is no reason to speak, and to try again is.
                if not isinstance(error, BusyError):
                    _log.warning("cleaning up the delivery store failed: %s", text_of(error))
                    self._upkeep_is_over.wait(_PRUNE_SECONDS)

    # ---- running -------------------------------------------------------------------------------

    def start(self, call: Execution, here: asyncio.AbstractEventLoop | None = None) -> None:
        """Begin a call, from any thread.

        Args:
            call: the call.
            here: the loop that runs in this thread, if that is known.
        """
        self.unfinished.add()
        if not call.is_async:
            if self.is_inline:
                self._run(call)
            else:
                self._threads.submit(call)
        elif call.loop is not None and call.loop is (here or running_loop()):
            self._start_task(call, call.loop)
        else:
            try:
                loop = call.loop or self._begun_own_loop()
                loop.call_soon_threadsafe(self._start_task, call, loop)
            except RuntimeError:
                try:
                    call.cancel()
                finally:
                    self.unfinished.remove()

    def ended(self, run: RunExecution) -> None:
        """Take note that a run is over, from any thread."""
        self._free(run)
        for ended in tuple(self._waiting.get(run.run_context.id, ())):
            self._call_soon(ended.set)
        self.wake_if_needed()

    def tell(
        self,
        hook_name: HookName,
        delivery_id: str,
        loop: asyncio.AbstractEventLoop | None,
        *arguments: object,
        context: contextvars.Context,
    ) -> None:
        """Call the hooks for an occasion, each in a copy of a context."""
        for hook in self._router.hooks_for(hook_name):
            what = f"`on_{hook_name}` hook `{hook.name}`"
            self.start(HookExecution(hook, what, delivery_id, loop, arguments, context.copy()))

    async def wait_for(self, delivery_id: str, seconds: float) -> Delivery | None:
        """Wait until the handlers of a delivery ended."""
        give_up = time.monotonic() + seconds
        ended = asyncio.Event()
        self._waiting.setdefault(delivery_id, []).append(ended)
        try:
            while True:
                ended.clear()
                delivery = self._look_up(delivery_id)
                if delivery is not None and not delivery.is_open:
                    return delivery
                left = give_up - time.monotonic()
                if left <= 0:
                    return None
                # Another process that runs it does not tell.
                if self.log.is_durable:
                    left = min(left, _POLL_SECONDS)
                # Not `asyncio.wait_for`, which takes a task.
                timer = asyncio.get_running_loop().call_later(left, ended.set)
                try:
                    await ended.wait()
                finally:
                    timer.cancel()
        finally:
            self._waiting[delivery_id].remove(ended)
            if not self._waiting[delivery_id]:
                del self._waiting[delivery_id]

    def _look_up(self, delivery_id: str) -> Delivery | None:
        now = time.monotonic()
        try:
            # Each try waits for another process that writes, and the loop with it.
            if now >= self._not_before:
                self.log.flush()
        except StoreError as error:
            self._pause_store(now, error)
        try:
            return self.log.get(delivery_id)
        except StoreError:
            return None

    async def drain(self, seconds: float | None) -> None:
        """Wait for what runs, then cancel the tasks that still do."""
        self._is_draining = True
        give_up = math.inf if seconds is None else time.monotonic() + seconds
        is_over = False
        while not is_over:
            left = None if seconds is None else max(give_up - time.monotonic(), 0)
            if not await self.unfinished.wait_for_none(left):
                _log.warning("stopped with handlers still running after %g s", seconds)
                break
            # What a log in memory has queued is lost if it does not run now.
            self.needs_poll = True
            self.tick()
            is_over = self.unfinished.is_none
        self.is_cancelling = True
        # The second time for the hooks that are told of the first.
        for _ in range(2):
            if [task for task in tuple(self._tasks) if cancel(task)]:
                await self.unfinished.wait_for_none(CLEAN_UP_SECONDS)
        if self.log.is_durable:
            for run in tuple(self._running):
                run.requeue()

    async def close(self) -> None:
        """Let the threads end, and the log go."""
        self._upkeep_is_over.set()
        self._threads.close()
        with self._lock:
            self._is_closed = True
        if self._watchdog is not None:
            self._watchdog.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._own_loop is not None:
            await self._own_loop.close()
        try:
            await self._close_log()
        except StoreError as error:
            what = "finished handlers will run again: their results could not be stored: %s"
            _log.error(what, error)
        finally:
            if self._leader_lock is not None:
                self._leader_lock.release()
            self.release_store()

    async def _close_log(self) -> None:
        give_up = time.monotonic() + CLEAN_UP_SECONDS
        self.log.resign(is_end=True)
        while time.monotonic() < give_up:
            try:
                self.log.flush()
                break
            except BusyError:
                await asyncio.sleep(_BUSY_SECONDS)
        self.log.close()

    def _run(self, call: Execution) -> None:
        try:
            call.run()
            if call.rest is not None:
                self._start_rest(call)
        finally:
            self.unfinished.remove()

    def _start_rest(self, call: Execution) -> None:
        """Await what a sync function returned where async functions run."""
        if self.is_cancelling:
            call.cancel()
        else:
            self.start(call)

    def _start_task(self, call: Execution, loop: asyncio.AbstractEventLoop) -> None:
        task = call.create_task(loop)
        # The loop itself keeps only weak references to its tasks.
        self._tasks[task] = call
        task.add_done_callback(self._end_task)
        if loop is self.loop:
            if self._watchdog is None or self._watchdog.loop is not loop:
                self._watchdog = Watchdog(loop, self._tasks)
            self._watchdog.watch()

    def _end_task(self, task: asyncio.Task[None]) -> None:
        call = self._tasks.pop(task)
        call.task = None
        try:
            if task.cancelled():
                if not call.is_begun:
                    call.cancel()
            elif (error := task.exception()) is not None:
                _log.error("a handler's task failed outside the handler", exc_info=error)
        finally:
            self.unfinished.remove()

    def _begun_own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_closed:
                msg = "the worker has stopped"
                raise RuntimeError(msg)
            self._own_loop = self._own_loop or LoopThread()
            return self._own_loop.loop


def _since(leader: Leader) -> str:
    return "now" if leader.since is None else f"{leader.since:%Y-%m-%d %H:%M:%S} UTC"
