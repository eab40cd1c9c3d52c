from __future__ import annotations

from tables import cases

from hubhooks import HubEvent
from hubhooks._core import SCOPES, narrow, nearest_scope


@cases("scopes", "effective")
def test_scope_is_narrowed(row):
    scope, action = row["scope"], row["action"]
    assert narrow(scope, action) == tuple(row["effective"])
    event = HubEvent.from_dict({"event": {"scope": scope, "action": action}})
    assert (event.scope, event.action) == (scope, action)
    assert event.effective == tuple(row["effective"])
    assert event.is_known is row["is_known"]


@cases("scopes", "nearest")
def test_misspelt_scope_has_a_nearest_one(row):
    assert nearest_scope(row["scope"]) == row["nearest"]


def test_documented_scopes_are_known():
    pairs = [(scope, action) for scope, actions in SCOPES.items() for action in actions]
    events = [{"event": {"scope": scope, "action": action}} for scope, action in pairs]
    assert all(HubEvent.from_dict(event).is_known for event in events)
    assert len(pairs) == 11
