"""Test the status and its panels at a moment."""

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from opslib import desk
from opslib.alerting import alerts as watch
from opslib.alerting.verdicts import Figure, evaluate_figure
from opslib.dashboard.status import Status
from opslib.desk import Desk
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config.rules import NAMES
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from tests.support import days, demo

HOSTILE = "<script>alert(1)</script>[x](javascript:alert(1))"


@pytest.fixture
def full(home: Path) -> Desk:
    """Return a desk whose database contains the scripted day."""
    found = desk.open("desk")
    SnapshotStore(found.store).write("desk", days.posts(), known_at_ts=True)
    return found


def body(minute: int = 0, **changes: object) -> dict:
    """Return a post of a quiet page, some minutes after 11:00 New York."""
    found = json.loads(days.posts()[2000].snapshot.body)
    moment = days.at("11:00")
    found["lastUpdateAt"] = int(moment.timestamp() * 1000) + minute * 60_000
    found["systemHealth"]["uptime"] = 3600 + minute * 60
    for path, value in changes.items():
        *groups, field = path.split("__")
        part = found
        for group in groups:
            part = part[group]
        part[field] = value
    return found


def seen(found: Desk, *bodies: dict) -> None:
    """Store each body as received at its page's time."""
    SnapshotStore(found.store).write(
        "desk", [Post(b["lastUpdateAt"] * 1000, snapshot.read(b)) for b in bodies], known_at_ts=True
    )


def test_the_json_has_the_keys_of_the_contract(full: Desk) -> None:
    """The JSON of a status has every key of CONTRACT.md."""
    found = full.status(days.at("11:25")).as_json()
    assert set(found) >= {"app", "as_of", "seq", "window", "verdict", "panels", "alerts"}
    assert set(found["panels"]) == set(NAMES)
    assert set(found["panels"]["providers"]["subjects"]["massive"]) >= {
        "verdict",
        "source",
        "availability",
        "requests",
        "failures",
        "fallbacks",
        "coverage",
    }
    assert set(found["panels"]["greeks"]) >= {
        "verdict",
        "source",
        "coverage",
        "valid_rate",
        "validations",
        "invalid",
        "gamma_zero",
        "delta_out_of_bounds",
        "iv_anomalies",
    }
    assert set(found["panels"]["pnl"]) >= {
        "verdict",
        "source",
        "coverage",
        "trades",
        "gross_pct",
        "net_pct",
        "commission_usd",
        "slippage_usd",
        "backtest_variance_pp",
    }
    assert set(found["panels"]["system"]) >= {
        "verdict",
        "coverage",
        "errors",
        "errors_per_hour",
        "errors_by_type",
        "websocket_connected",
        "websocket_down_seconds",
        "restarts",
        "pages",
        "memory_mb",
    }
    assert set(found["alerts"][0]) >= {
        "id",
        "rule",
        "subject",
        "source",
        "state",
        "severity",
        "since",
        "value",
        "limit",
        "sentence",
        "runbook",
        "inhibited_by",
        "incident",
    }
    assert found["window"] == {"from": "2026-03-10T14:25:00.000Z", "to": "2026-03-10T15:25:00.000Z"}


def test_an_outage_is_reported_with_value_and_limit(full: Desk) -> None:
    """In the scripted outage the provider panel is critical, and its sentence has the measured value and the limit."""
    view = full.status(days.at("11:30"))
    assert (view.verdict, view.exit_code) == ("critical", 2)
    sentence = view.panel("providers").sentences[0]
    measured = formatting.ratio(view.figures["providers"]["massive"]["availability"])
    assert sentence == f"critical: availability of massive ({measured} over 1 h) < 95.0 %"


def test_the_value_shown_on_the_page_is_beside_ours(full: Desk) -> None:
    """The value of the hour is beside the one that the guide reads off the page, which is cumulative and rounded."""
    view = full.status(days.at("12:45"))
    row = {r[0]: r for r in view.panel("providers").rows}["massive availability"]
    ours, guide = float(row[1].split()[0]), int(row[2].split()[0])
    assert ours > 99 and guide < 95


def test_no_data_is_unknown(home: Path) -> None:
    """With an empty database the verdict is unknown, never green, and every value is None."""
    view = desk.open("desk").status(days.at("11:00"))
    assert (view.verdict, view.exit_code) == ("unknown", 3)
    figures = view.as_json()["panels"]
    assert figures["providers"]["subjects"]["massive"]["availability"] is None
    assert figures["greeks"]["validations"] is None and figures["system"]["errors"] is None


def test_silence_is_critical_and_the_rates_unknown(full: Desk) -> None:
    """More than an hour after the last snapshot, in market hours, silence is critical and rates are unknown."""
    found = desk.open("quiet")
    SnapshotStore(found.store).write(
        "quiet", [p for p in days.posts() if p.ts_us <= clock.micros(days.at("11:00"))], known_at_ts=True
    )
    view = found.status(days.at("12:30"))
    assert view.verdict == "critical"
    assert view.figures["providers"]["massive"]["availability"] is None
    assert view.panel("providers").verdict == "unknown"
    assert "(1 h 30 min) > 10 min" in "\n".join(view.panel("system").sentences)


def test_a_coverage_below_the_minimum_is_unknown(home: Path) -> None:
    """Below the rule's minimum coverage a rate is None and unknown; counts are those of the received snapshots."""
    found = desk.open("desk")
    SnapshotStore(found.store).write(
        "desk",
        [p for p in days.posts() if not clock.micros(days.at("12:10")) < p.ts_us < clock.micros(days.at("12:45"))],
        known_at_ts=True,
    )
    view = found.status(days.at("13:00"))
    assert view.coverage == pytest.approx(25 / 60, abs=0.01)
    assert view.figures["providers"]["massive"]["availability"] is None
    assert view.figures["providers"]["massive"]["requests"] > 1000
    assert "only 42 % of the expected snapshots received" in "\n".join(view.panel("providers").sentences)


def test_zeros_of_an_unwired_app_are_not_measured(home: Path) -> None:
    """A field that is always zero is None, until it had another value once or is declared wired."""
    found = desk.open("desk")
    dead = {
        "providers__massive__fallbackCount": 0,
        "providers__tradier__fallbackCount": 0,
        "greeksQuality__ivAnomalies": 0,
        "pnl__backtestVariance": 0,
        "systemHealth__webSocketConnected": False,
    }
    dead |= {f"providers__tradier__{k}": 0 for k in ("requestCount", "successCount", "failureCount")}
    seen(found, *(body(m, **dead) for m in range(4)))
    view = found.status(days.at("11:03"))
    assert view.figures["providers"]["massive"]["fallbacks"] is None
    assert view.figures["providers"]["tradier"] == {
        "availability": None,
        "requests": None,
        "successes": None,
        "failures": None,
        "fallbacks": None,
    }
    assert (
        view.figures["greeks"]["iv_anomalies"],
        view.figures["pnl"]["backtest_variance_pp"],
        view.figures["system"]["websocket_connected"],
    ) == (None, None, None)
    (home / "settings.toml").write_text('wired = ["fallbacks", "websocket"]')
    declared = desk.open("desk").status(days.at("11:03"))
    assert declared.figures["providers"]["massive"]["fallbacks"] == 0
    assert declared.figures["system"]["websocket_connected"] is False
    seen(found, body(4, **dead | {"greeksQuality__ivAnomalies": 1}))
    assert desk.open("desk").status(days.at("11:03")).figures["greeks"]["iv_anomalies"] == 0, (
        "known to be alive now, it was alive then"
    )
    assert (
        desk.open("desk").status(days.at("11:03"), known_at=days.at("11:03")).figures["greeks"]["iv_anomalies"] is None
    ), "but it was not known then"


def test_text_from_outside_is_escaped(home: Path) -> None:
    """A hostile error message is shown as text; HTML escapes it."""
    found = desk.open("desk")
    seen(
        found,
        *(
            body(m, systemHealth__lastErrorMessage=HOSTILE, systemHealth__lastErrorAt=1_773_154_000_000)
            for m in range(3)
        ),
    )
    panel = found.status(days.at("11:02")).panel("system")
    bundle = panel._repr_mimebundle_()
    assert "&lt;script&gt;" in bundle["text/html"] and "<script" not in bundle["text/html"]
    assert HOSTILE in bundle["text/plain"]


def test_a_clock_three_minutes_off_is_corrected_and_reported(home: Path) -> None:
    """The posts of a page with a wrong clock are counted at our time, and the panel reports the difference."""
    found = desk.open("desk")
    shifted = []
    for post in days.posts():
        raw = json.loads(post.snapshot.body)
        raw["lastUpdateAt"] += 180_000
        shifted.append(Post(post.ts_us, snapshot.read(raw)))
    SnapshotStore(found.store).write("desk", shifted, known_at_ts=True)
    straight = desk.open("straight")
    SnapshotStore(straight.store).write("straight", days.posts(), known_at_ts=True)
    for moment in ("10:30", "11:30", "14:00"):
        ours, theirs = found.status(days.at(moment)), straight.status(days.at(moment))

        def skewless(figures):
            return figures | {"system": figures["system"] | {"clock_skew_s": None}}

        assert skewless(ours.figures) == skewless(theirs.figures)
    assert any(
        "clock is 3 min" in note and "ahead" in note for note in found.status(days.at("10:30")).panel("system").notes
    )


@pytest.mark.parametrize(
    ("moment", "words"),
    [("2026-03-08T12:00", "weekend"), ("2026-04-03T12:00", "Good Friday"), ("2026-03-10T20:00", "after the close")],
)
def test_a_closed_market_is_unknown_and_not_counted(full: Desk, moment: str, words: str) -> None:
    """
    In a closed market no snapshots are expected: values are shown, findings are not counted, and the verdict is
    unknown.
    """
    view = full.status(moment)
    assert view.coverage is None
    assert view.verdict == "unknown"
    assert not [f for f in view.findings if f.counted], words


def test_a_panel_has_a_reproducible_text_and_picture(full: Desk) -> None:
    """Two panels of one moment have equal text and byte-equal PNGs."""
    from opslib.dashboard import charts

    for name in NAMES:
        first, second = full.status(days.at("13:45"), "3h").panel(name), full.status(days.at("13:45"), "3h").panel(name)
        assert repr(first) == repr(second)
        picture = charts.png(first.draw)
        assert picture.startswith(b"\x89PNG") and picture == charts.png(second.draw)


def test_a_verdict_has_the_worst_severity_beside_it(full: Desk) -> None:
    """
    If an alert is worse than the verdict, the first line and the panel's title name its severity; the JSON does not.
    """
    view = full.status(days.at("15:30"))
    assert view.verdict == "warning" and any(a["severity"] == "notify" for a in view.alerts)
    assert repr(view).splitlines()[0] == "desk: warning (worst severity: notify)"
    assert view.panel("pnl").heading == "P&L Accuracy: warning (worst severity: notify), over 1 h"
    assert view.as_json()["verdict"] == view.as_json()["panels"]["pnl"]["verdict"] == "warning"
    assert view.panel("pnl").sentences[0].startswith("notify: ")


def test_an_active_alert_shows_when_its_severity_began(full: Desk) -> None:
    """A severity is shown with the time it was reached and the time the problem began; the JSON has the latter."""
    view = full.status(days.at("15:30"))
    alert = next(a for a in view.alerts if a["severity"] == "notify")
    reached = clock.instant(view.severity_since[alert["id"]])
    began = time_parsing.parse(alert["since"])
    assert began < reached - timedelta(minutes=5)
    since, start = (f"{t.astimezone(formatting.NEW_YORK):%H:%M}" for t in (reached, began))
    assert f"notify since {since}, problem began {start} New York: backtest variance" in repr(view)


def test_both_figures_of_a_row_have_one_unit(full: Desk) -> None:
    """The backtest variance of the window and that on the page are both in points."""
    rows = {label: (value, page) for label, value, page in full.status(days.at("15:30")).panel("pnl").rows}
    assert [text.rpartition(" ")[2] for text in rows["backtest variance"]] == ["points", "points"]


def test_a_panel_folds_what_is_ok(full: Desk) -> None:
    """Breaches are visible at once, the rest is folded; the values shown on the newest page have their time span."""
    panel = full.status(days.at("11:30")).panel("providers")
    html = panel._repr_mimebundle_()["text/html"]
    seen_at_once, _, folded = html.partition("<details")
    assert "◆ critical</span> availability of massive" in seen_at_once and "ok: availability of tradier" in folded
    assert [severity for _, severity, _ in panel.breaches] == ["critical"] and "newest page load only, since " in html
    assert "requests to massive served by tradier instead, each after its retries" in html


def test_invalid_greeks_are_explained(full: Desk) -> None:
    """Not every validation that is not valid has an error."""
    view = full.status(days.at("11:30"))
    rows = {label: value for label, value, _ in view.panel("greeks").rows}
    counts = [int(n.replace(",", "")) for n in rows["validations / not valid / with an error"].split(" / ")]
    figures = view.figures["greeks"]
    assert counts == [figures["validations"], figures["validations"] - figures["valid"], figures["invalid"]]
    assert counts[1] > counts[2] > 0


@pytest.fixture
def at_outage(tmp_path: Path) -> Status:
    """Return the status of the demo during its outage."""
    return Desk(demo.laid_out(tmp_path), lambda: days.at("16:00")).status("2026-03-10T11:27")


def test_the_cause_of_a_breach_is_labelled_as_cause(at_outage: Status) -> None:
    """What our probes find wrong with a provider is the cause of a critical panel, not another warning."""
    panel = at_outage.panel("providers")
    assert "  cause: massive " in repr(panel) and "warning: massive " not in repr(panel)
    assert ("", "cause") in [found[:2] for found in panel.breaches]
    usable = next(s for s in panel.good if "usable data" in s)
    assert usable.endswith(", of the responses that arrived")


def test_a_threshold_that_is_not_exceeded_significantly_is_named(full: Desk) -> None:
    """
    757 of 803 probes are 94.27 %, but Wilson's interval ends at 95.68 %: below 98 %, and below 95 % only perhaps.

    700 of them are 87.17 %, and the interval ends at 89.31 %.
    """
    rule = full.rules["availability"]

    def said(part: int) -> str:
        found = evaluate_figure(rule, "massive", "probe", Figure(part / 803, count=803, part=part))
        panel = replace(full.status(days.at("11:30")).panel("providers"), findings=(found,), summaries=())
        return panel.sentences[0]

    assert said(757).endswith(" < 98.0 %; also < 95.0 %, but not significantly (n=803)")
    assert said(700).endswith(" < 95.0 %")


@pytest.mark.parametrize(("rule", "own"), [("app_response_time", " over 5 min"), ("response_time", "")])
def test_too_few_samples_have_their_window(full: Desk, rule: str, own: str) -> None:
    """A condition is evaluated over its rule's window, other figures over that of the panel."""
    panel = full.status(days.at("11:30")).panel("system")
    few = evaluate_figure(full.rules[rule], "app", "probe", Figure(0.08, count=10, coverage=1.0))
    shown = replace(panel, findings=(few,)).sentences[-1]
    assert shown.endswith(f"too few samples (10 of {full.rules[rule].min_count} required){own}")


def test_errors_without_types_are_not_in_the_snapshots(at_outage: Status) -> None:
    """Errors are counted, but their types are not: the snapshots do not have them."""
    assert ("errors by type", "not in the snapshots", "") in at_outage.panel("system").rows


def test_an_unknown_panel_is_rejected(full: Desk) -> None:
    """An unknown panel name is rejected with the nearest one."""
    with pytest.raises(LookupError, match="Did you mean 'greeks'"):
        full.status(days.at("11:00")).panel("greek")


def test_the_frame_has_a_row_for_each_snapshot(full: Desk) -> None:
    """
    The data frame has a row for each snapshot of the window, with its page and times; for an empty window it is empty.
    """
    frame = full.samples(days.at("11:00"), "5m")
    assert len(frame) == full.status(days.at("11:00"), "5m").counters.snapshots_in(
        full.status(days.at("11:00"), "5m").window
    )
    assert {"ts", "known_at", "page", "massive_requests"} <= set(frame.columns)
    assert full.samples(f"{date(2026, 3, 8)}T12:00", "5m").empty


@pytest.mark.slow
def test_alerts_of_a_long_window_are_evaluated_where_there_is_data(full: Desk) -> None:
    """
    If only one day of a long window has data, only that day is evaluated, with the same alerts as for the whole window.
    """
    at = days.at("11:30")
    long = full.status(at, "10d")
    assert long.evaluated == (days.posts()[0].ts_us - watch.GRID_US, clock.micros(at))
    found = [(a["id"], a["severity"], a["state"]) for a in long.alerts]
    long.__dict__.pop("alerts")
    long.evaluated = None
    assert found == [(a["id"], a["severity"], a["state"]) for a in long.alerts] != []
    after = full.status(time_parsing.parse("2026-05-20T12:00"), "10d")
    assert after.evaluated == (after.window.end_us, after.window.end_us) and after.alerts == []
