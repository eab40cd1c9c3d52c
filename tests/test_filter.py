from __future__ import annotations

import pytest
from tables import body_of, cases

import hubhooks
from hubhooks import ContentEvent, DiscussionEvent, Filter, HubEvent
from hubhooks._core import match_filters
from hubhooks.errors import ConfigError


def filter_of(arguments):
    criteria = dict(arguments)
    scopes = [
        scope if isinstance(scope, str) else getattr(hubhooks, scope["class"])
        for scope in criteria.pop("scopes", [])
    ]
    return Filter(*scopes, **criteria)


@cases("filters", "explain")
def test_filter_matches_and_explains(row):
    event = HubEvent.from_dict(body_of(row))
    chosen = filter_of(row["filter"])
    assert chosen.explain(event) == row["explain"]
    assert chosen.matches(event) is row["matches"]
    assert match_filters(event, [chosen]) == ([0] if row["matches"] else [])


@cases("filters", "error")
def test_impossible_filter_is_rejected(row):
    with pytest.raises(ConfigError) as caught:
        filter_of(row["filter"])
    assert str(caught.value) == row["error"]


@cases("filters", "warnings")
def test_filter_reports_undocumented_values(row):
    assert filter_of(row["filter"]).value_warnings() == row["warnings"]


def test_match_returns_positions_in_order(event):
    filters = [Filter("repo"), Filter(), Filter("discussion"), Filter(DiscussionEvent)]
    assert match_filters(event("discussion.create"), filters) == [1, 2, 3]


def test_filters_are_compared_by_criteria():
    one = Filter("repo.content", repo="me/*", private=True)
    assert one == Filter("repo.content", repo=["me/*"], private=True)
    assert hash(one) == hash(Filter("repo.content", repo=["me/*"], private=True))
    assert one != Filter("repo.content", repo="me/*", private=False)
    assert one != "repo.content"


def test_scopes_and_criteria_are_those_of_the_call():
    chosen = Filter(ContentEvent, "repo.*", private=False, repo="me/*", action=["create", "update"])
    assert chosen.scopes == (ContentEvent, "repo.*")
    assert chosen.criteria == {
        "action": ("create", "update"), "repo": ("me/*",), "private": False
    }  # fmt: skip
    assert chosen.criteria is not chosen.criteria
    assert (Filter().scopes, Filter().criteria) == ((), {})


@cases("filters", "explain")
def test_scopes_and_criteria_rebuild_the_filter(row):
    chosen = filter_of(row["filter"])
    assert Filter(*chosen.scopes, **chosen.criteria) == chosen


def test_scopes_and_criteria_cannot_be_set():
    for name in ("scopes", "criteria"):
        with pytest.raises(AttributeError):
            setattr(Filter(), name, ())


def test_repr_is_the_call():
    assert repr(Filter(ContentEvent, "repo", repo=["me/*"], private=False)) == (
        'Filter(ContentEvent, "repo", repo=["me/*"], private=False)'
    )


@pytest.mark.parametrize("scope", [7, None, b"repo"])
def test_scope_of_another_type_is_a_type_error(scope):
    with pytest.raises(TypeError, match="expected a scope or an event class"):
        Filter(scope)


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({"action": 5}, "`action=`: expected a string or strings, found int"),
        ({"repo": ["me/*", 5]}, "`repo=`: expected a string or strings, found int"),
        ({"ref": b"main"}, "`ref=`: expected a string or strings, found int"),
        ({"private": "yes"}, "`private=`: expected True or False, found str"),
        ({"pull_request": 1}, "`pull_request=`: expected True or False, found int"),
    ],
)
def test_criterion_of_wrong_type_is_a_type_error(criteria, message):
    with pytest.raises(TypeError) as caught:
        Filter(**criteria)
    assert str(caught.value) == message


def test_class_that_is_no_event_is_rejected():
    with pytest.raises(ConfigError, match="`dict` is no event class"):
        Filter(dict)


def test_alternatives_may_be_any_iterable(event):
    actions = (word for word in ("create", "update"))
    assert Filter(action=actions).matches(event("repo.content.update"))
