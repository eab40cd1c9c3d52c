"""Print deliveries as they arrive: `hubhooks deliveries list --follow`."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

from hubhooks._terminal import blank_controls, flush_output, print_line, shown_id_length
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hubhooks._store.sqlite import SqliteStore
    from hubhooks.models import Delivery

__all__ = ["Criteria", "follow_deliveries"]

POLL_SECONDS = 0.25
# So many stored deliveries are printed at most before new ones.
_MOST_LISTED = 5000
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
    if not as_json:
        print_note(f"waiting for deliveries in {store.path}; Ctrl-C ends")
    complaint = ""
    follower = _Follower(store, criteria.since)
    while True:
        try:
            changed, complaint = follower.changes(), ""
        except StoreError as error:
            changed = []
            if str(error) != complaint:
                complaint = str(error)
                print_note(f"cannot read the store now, trying again: {complaint}")
        for delivery in filter(criteria.accepts, changed):
            print_line(json.dumps(delivery_json(delivery)) if as_json else _line(delivery))
        if changed and not flush_output():
            return
        time.sleep(POLL_SECONDS)


class _Follower:
    """Finds the deliveries that changed since the last call.

    Args:
        store: the store.
        since: stored deliveries received since then count as new; None for none.
    """

    def __init__(self, store: SqliteStore, since: datetime | None) -> None:
        self._store = store
        self._watch = store.watch()
        self._is_started = False
        # All stored deliveries since then count as new: at the start, and in a store that was
        # replaced.
        self._since = datetime.now(timezone.utc) if since is None else since

    def changes(self) -> Sequence[Delivery]:
        """Return the deliveries that changed since the last call, the oldest first.

        Raises:
            StoreError: the store cannot be read now.
        """
        if not self._is_started:
            self._watch.start()
            found = self._list_since()
            self._is_started = True
        else:
            changes = self._watch.look()
            found = changes.deliveries if changes.is_complete else self._list_since()
        for delivery in found:
            self._since = max(delivery.received_at + timedelta(microseconds=1), self._since)
        return found

    def _list_since(self) -> list[Delivery]:
        return self._store.list(since=self._since, limit=_MOST_LISTED)[::-1]


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
    # Not `single_line`, which removes the blanks after a short state.
    line = "  ".join(text for part in parts if (text := blank_controls(part)))
    return line if width is None else cut(line, width)
