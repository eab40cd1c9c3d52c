"""Print deliveries as they arrive: `hubhooks deliveries list --follow`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, NamedTuple

from hubhooks._store.watcher import StoreWatcher
from hubhooks._terminal import flush_output, print_line, shown_id_length
from hubhooks.admin.delivery_json import delivery_json
from hubhooks.cli.output import (
    cut,
    delivery_error,
    event_text,
    handlers_text,
    local_time,
    print_note,
    terminal_width,
)
from hubhooks.errors import StoreError
from hubhooks.models import UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from hubhooks._store.sqlite import SqliteStore
    from hubhooks.models import Delivery

__all__ = ["Criteria", "follow_deliveries"]

POLL_SECONDS = 0.25
_PAGE = 200
# Deliveries older than these are found again only while they are unfinished.
_MOST_KNOWN = 5000
_WIDTH_OF_STATE = 9


class Criteria(NamedTuple):
    """The deliveries to print."""

    state: str | None = None
    scope: str | None = None
    repo: str | None = None
    since: datetime | None = None
    """Print the stored ones received since then first; None to print only new ones."""

    def accepts(self, delivery: Delivery) -> bool:
        """Return whether a delivery is to be printed."""
        return (
            self.state in (None, delivery.state)
            and self.scope in (None, delivery.scope)
            and self.repo in (None, delivery.repo)
        )


def follow_deliveries(store: SqliteStore, criteria: Criteria, *, as_json: bool) -> None:
    """Print a line for each new or changed delivery, until the output is closed or Ctrl-C.

    The app may stop, start again and replace the store meanwhile.
    """
    seen = _Seen(store, criteria.since)
    if not as_json:
        print_note(f"waiting for deliveries in {store.path}; Ctrl-C ends")
    complaint = ""
    with StoreWatcher(store.path) as watcher:
        needs_poll = True
        while True:
            # A failed read is repeated although nothing else changes.
            if watcher.changed() or needs_poll:
                try:
                    changed = list(seen.changes())
                    needs_poll, complaint = False, ""
                except StoreError as error:
                    changed, needs_poll = [], True
                    if str(error) != complaint:
                        complaint = str(error)
                        print_note(f"cannot read the store now, trying again: {complaint}")
                for delivery in filter(criteria.accepts, changed):
                    print_line(json.dumps(delivery_json(delivery)) if as_json else _line(delivery))
                if changed and not flush_output():
                    return
            time.sleep(POLL_SECONDS)


class _Seen:
    """The deliveries that were read before, to find the changed ones.

    Args:
        store: the store.
        since: stored deliveries received since then count as new; None for none.
    """

    def __init__(self, store: SqliteStore, since: datetime | None) -> None:
        self._store = store
        self._versions: dict[str, object] = {}
        self._unfinished: set[str] = set()
        stored = store.list(limit=_MOST_KNOWN)
        stored += self._list_unfinished()
        for delivery in reversed(stored):
            if since is None or delivery.received_at < since:
                self._note(delivery)

    def changes(self) -> Iterator[Delivery]:
        """Yield the deliveries that changed since the last call, the oldest first."""
        found: dict[str, Delivery] = {}
        before = None
        while page := self._store.list(limit=_PAGE, before=before):
            changed = [each for each in page if self._is_changed(each)]
            found.update((each.id, each) for each in changed)
            # New ones come first. Older changed ones were unfinished, or are now.
            if len(changed) < len(page) or len(found) >= _MOST_KNOWN:
                break
            before = page[-1].id
        known = self._store.deliveries(self._unfinished - found.keys())
        # The others were deleted.
        self._unfinished.intersection_update((*found, *(each.id for each in known)))
        for delivery in (*known, *self._list_unfinished()):
            if self._is_changed(delivery):
                found.setdefault(delivery.id, delivery)
        for delivery in sorted(found.values(), key=_changed_at):
            self._note(delivery)
            yield delivery

    def _list_unfinished(self) -> list[Delivery]:
        return [
            delivery
            for state in sorted(UNFINISHED)
            for delivery in self._store.list(state=state, limit=_PAGE)
        ]

    def _is_changed(self, delivery: Delivery) -> bool:
        return self._versions.get(delivery.id) != _version(delivery)

    def _note(self, delivery: Delivery) -> None:
        # The newest one is the last one of the dictionary.
        self._versions.pop(delivery.id, None)
        self._versions[delivery.id] = _version(delivery)
        if delivery.is_open:
            self._unfinished.add(delivery.id)
        else:
            self._unfinished.discard(delivery.id)
        while len(self._versions) > 2 * _MOST_KNOWN:
            del self._versions[next(iter(self._versions))]


def _version(delivery: Delivery) -> object:
    """Return what differs between two versions of a delivery."""
    runs = tuple((run.handler, run.state, run.attempts) for run in delivery.runs)
    return delivery.received_at, delivery.skipped, delivery.is_replay, delivery.duplicates, runs


def _changed_at(delivery: Delivery) -> datetime:
    times = [delivery.received_at]
    for run in delivery.runs:
        times += [moment for moment in (run.started_at, run.finished_at) if moment is not None]
    return max(times)


def _line(delivery: Delivery) -> str:
    width = terminal_width()
    when = local_time(_changed_at(delivery))
    if width is not None:
        # The date and the zone are those of the terminal.
        when = when[len("2026-07-31 ") :][: len("14:00:00")]
    parts = [
        when,
        delivery.id[: shown_id_length([delivery.id])],
        f"{delivery.state:<{_WIDTH_OF_STATE}}",
        event_text(delivery),
        delivery.repo or "",
        handlers_text(delivery),
        delivery_error(delivery),
        f"sent {delivery.duplicates + 1} times" if delivery.duplicates else "",
    ]
    line = "  ".join(text for part in parts if (text := _printable(part)))
    return line if width is None else cut(line, width)


def _printable(text: str) -> str:
    # Not `single_line`, which removes the blanks after a short state.
    return "".join(char if char.isprintable() else " " for char in text)
