"""Test that every place that shows an action takes it from the cause of the alert, so that none contradicts another."""

import html
from collections.abc import Callable

from opslib.alerting import effects
from opslib.alerting.notifications import NotificationStore
from opslib.dashboard import live_state
from opslib.desk import Desk
from opslib.reports import home
from opslib.runbooks import diagnose

BLOCKED = "2026-03-10T14:33"  # The app's WebSocket is blocked: refreshing its page, as its rule says, does not help.


def test_the_cause_decides_what_to_do_first_everywhere(at: Callable[[str], Desk]) -> None:
    """Message, dashboard, Home, `ops alerts`, daily and weekly report say what the cause needs, never the rule's."""
    now, evening = at(BLOCKED), at("2026-03-10T17:00")
    of_rule = now.rules["websocket_down"].action
    wanted = effects.ADVICE["socket_blocked"].action
    daily = now.daily_report("2026-03-10", BLOCKED)
    sent = [
        alert["action"]
        for _, body in NotificationStore(now.store, "demo").deliveries()
        for alert in body["alerts"]
        if alert["rule"] == "websocket_down"
    ]
    said = {
        "dashboard": live_state.answer(now.status(), diagnose, lambda alert: "").first,
        "Home": home.home_of(now, lambda place: "").block.plain,
        "Home as a page": html.unescape(home.home_of(now, lambda place: "").block.html),
        "ops alerts": repr(now.alerts().summary),
        "daily": "\n".join(daily.action_items),
        "weekly": "\n".join(evening.review("weekly", "2026-W11").action_items),
        "message": "\n".join(sent),
    }
    assert {place for place, words in said.items() if wanted not in words} == set()
    assert {place for place, words in said.items() if of_rule in words} == set()
    (item,) = (item for item in daily.action_items if item.startswith("WebSocket down"))
    assert item.endswith(" Responsible: Tech Lead. Runbook: websocket_down.")
    (item,) = (i for i in evening.daily_report("2026-03-10").action_items if i.startswith("WebSocket down"))
    todo = "Review incident 2026-03-10-3 and complete its postmortem. Responsible: Tech Lead."
    assert item == f"WebSocket down (resolved 14:35): {todo}"


def test_a_rule_acts_where_no_cause_is_sure(at: Callable[[str], Desk]) -> None:
    """The cause of the backtest variance is only likely: `ops alerts` and the daily report say what its rule says."""
    found = at("2026-03-10T15:30")
    action = found.rules["backtest_variance"].action
    assert action in repr(found.alerts().summary)
    assert any(action in item for item in at("2026-03-10T17:00").daily_report("2026-03-10").action_items)
