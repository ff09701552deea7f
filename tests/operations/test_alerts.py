"""Two forecasts in a row raise an alert, two lower it, and a gap never says all clear."""

from __future__ import annotations

import pytest

from sa_nowcast.operations.alerts import collection, states, without_all_clear


def after(text: str) -> str:
    """Return the state after forecasts: + exceeded, - not, ? without a value, and a space where one is missing."""
    flags = {"+": True, "-": False, "?": None}
    history = [(i * 5, {"mill": [flags[c]]}) for i, c in enumerate(text) if c != " "]
    return states(history, 5, "mill", 0)[0]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("", "unknown"), ("+", "unknown"), ("-", "unknown"), ("++", "raised"), ("--", "clear"), ("-+", "unknown"),
        ("--+", "clear"), ("--++", "raised"), ("++-", "raised"), ("++--", "clear"), ("++-+-", "raised"),
        ("++ -", "raised"), ("++ --", "clear"), ("++- -", "raised"), ("-- -", "unknown"), ("--?", "unknown"),
        ("++?", "raised"), ("++?-", "raised"), ("++?--", "clear"), ("+ +", "unknown"), ("+?+", "unknown"),
        ("--?--", "clear"), ("++ ++", "raised"),
    ],
)  # fmt: skip
def test_states_by_what_was_forecast(text: str, state: str) -> None:
    assert after(text) == state


def test_a_forecast_that_is_published_late_leads_to_the_same_state() -> None:
    history = [(0, {"a": [True]}), (5, {"a": [True]}), (10, {"a": [False]})]
    assert states([history[0], history[2]], 5, "a", 0) == ("unknown", 0)
    assert states(history, 5, "a", 0) == ("raised", 5)


def test_nothing_is_clear_where_no_forecast_is_new_enough() -> None:
    history = [(i, {"a": [False, True]}) for i in (0, 5)]
    places = [{"name": "a", "kind": "point", "geometry": None}]
    alerts = collection(places, [1.0, 5.0], "mm h-1", history, 5, str)
    assert [f["properties"]["state"] for f in alerts["features"]] == ["clear", "raised"]
    stale = without_all_clear(alerts, "now")
    assert [(f["properties"]["state"], f["properties"]["since"]) for f in stale["features"]] == [
        ("unknown", "now"),
        ("raised", "5"),
    ]
