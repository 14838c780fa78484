"""The panels: what is shown of an app at a moment, whoever asks."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest

from opslib import desk
from opslib.alerting import alerts as watch
from opslib.desk import Desk
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config.rules import NAMES
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from tests.support import days

HOSTILE = "<script>alert(1)</script>[x](javascript:alert(1))"


@pytest.fixture
def full(home: Path) -> Desk:
    """A desk that has seen the scripted day."""
    found = desk.open("desk")
    SnapshotStore(found.store).write("desk", days.posts(), known_at_ts=True)
    return found


def body(minute: int = 0, **changes: object) -> dict:
    """A post of a quiet page at 11:00 New York and so many minutes."""
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
    """Each body is seen at its own page's time."""
    SnapshotStore(found.store).write(
        "desk", [Post(b["lastUpdateAt"] * 1000, snapshot.read(b)) for b in bodies], known_at_ts=True
    )


def test_the_json_is_the_contract(full: Desk) -> None:
    """The JSON of a view has every key of CONTRACT.md."""
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
    """
    In the scripted outage the provider's panel is critical, and its sentence holds what was measured and the limit.
    """
    view = full.status(days.at("11:30"))
    assert (view.verdict, view.exit_code) == ("critical", 2)
    sentence = view.panel("providers").sentences[0]
    measured = formatting.ratio(view.figures["providers"]["massive"]["availability"])
    assert sentence == f"critical: availability of massive ({measured} over 1 h) < 95.0 %"


def test_the_guide_reads_otherwise(full: Desk) -> None:
    """Beside our figure of the hour stands what the guide would read off the page: cumulative and rounded."""
    view = full.status(days.at("12:45"))
    row = {r[0]: r for r in view.panel("providers").rows}["massive availability"]
    ours, guide = float(row[1].split()[0]), int(row[2].split()[0])
    assert ours > 99 and guide < 95


def test_no_data_is_unknown(home: Path) -> None:
    """An empty store is unknown, never green, and every figure is None."""
    view = desk.open("desk").status(days.at("11:00"))
    assert (view.verdict, view.exit_code) == ("unknown", 3)
    figures = view.as_json()["panels"]
    assert figures["providers"]["subjects"]["massive"]["availability"] is None
    assert figures["greeks"]["validations"] is None and figures["system"]["errors"] is None


def test_silence_is_critical_and_the_rates_unknown(full: Desk) -> None:
    """An hour after the last look, in market hours, silence is critical and no rate is invented."""
    found = desk.open("quiet")
    SnapshotStore(found.store).write(
        "quiet", [p for p in days.posts() if p.ts_us <= clock.micros(days.at("11:00"))], known_at_ts=True
    )
    view = found.status(days.at("12:30"))
    assert view.verdict == "critical"
    assert view.figures["providers"]["massive"]["availability"] is None
    assert view.panel("providers").verdict == "unknown"
    assert "(1 h 30 min) > 10 min" in "\n".join(view.panel("system").sentences)


def test_half_of_the_snapshots_missing_is_unknown(home: Path) -> None:
    """Below the rule's minimum coverage a rate is None and unknown; the counts are what was seen."""
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
    """What nothing records into is None and not counted, until it has once been seen alive, or is declared wired."""
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


def test_text_from_outside_is_inert(home: Path) -> None:
    """A hostile error message is shown, and is nothing but text, in HTML and in plain text."""
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
    """A page whose clock is off is counted at our time, and the panel says how far it is off."""
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
def test_a_closed_market_is_not_expected(full: Desk, moment: str, words: str) -> None:
    """Nothing is expected of a closed market: shown, not counted, and not green."""
    view = full.status(moment)
    assert view.coverage is None
    assert view.verdict == "unknown"
    assert not [f for f in view.findings if f.counted], words


def test_a_panel_prints_the_same_text_and_a_picture(full: Desk) -> None:
    """A panel's text is the same twice, and its picture is a PNG of the same bytes twice."""
    from opslib.dashboard import charts

    for name in NAMES:
        first, second = full.status(days.at("13:45"), "3h").panel(name), full.status(days.at("13:45"), "3h").panel(name)
        assert repr(first) == repr(second)
        picture = charts.png(first.draw)
        assert picture.startswith(b"\x89PNG") and picture == charts.png(second.draw)


def test_a_verdict_has_the_worst_severity_beside_it(full: Desk) -> None:
    """A verdict that sums a worse severity up names it on the first line and in the panel's title, not in JSON."""
    view = full.status(days.at("15:30"))
    assert view.verdict == "warning" and any(a["severity"] == "notify" for a in view.alerts)
    assert repr(view).splitlines()[0] == "desk: warning (worst severity: notify)"
    assert view.panel("pnl").heading == "P&L Accuracy, 1 h: warning (worst severity: notify)"
    assert view.as_json()["verdict"] == view.as_json()["panels"]["pnl"]["verdict"] == "warning"
    assert view.panel("pnl").sentences[0].startswith("notify: ")


def test_an_active_alert_says_since_when_it_has_its_severity(full: Desk) -> None:
    """A severity stands beside the time it was reached and the time the problem began; JSON has the beginning."""
    view = full.status(days.at("15:30"))
    alert = next(a for a in view.alerts if a["severity"] == "notify")
    reached = clock.instant(view.severity_since[alert["id"]])
    began = time_parsing.parse(alert["since"])
    assert began < reached - timedelta(minutes=5)
    since, start = (f"{t.astimezone(formatting.NEW_YORK):%H:%M}" for t in (reached, began))
    assert f"notify since {since}, began {start} New York: backtest variance" in repr(view)


def test_both_figures_of_a_row_have_one_unit(full: Desk) -> None:
    """The backtest variance of the window and that on the page are both in points."""
    rows = {label: (value, page) for label, value, page in full.status(days.at("15:30")).panel("pnl").rows}
    assert [text.rpartition(" ")[2] for text in rows["backtest variance"]] == ["points", "points"]


def test_a_panel_folds_what_is_ok(full: Desk) -> None:
    """What breaches a threshold is seen at once, the rest on demand; what the page shows has the span it covers."""
    panel = full.status(days.at("11:30")).panel("providers")
    html = panel._repr_mimebundle_()["text/html"]
    seen_at_once, _, folded = html.partition("<details")
    assert "◆ critical</span> availability of massive" in seen_at_once and "ok: availability of tradier" in folded
    assert [severity for _, severity, _ in panel.breaches] == ["critical"] and "shown on the page, since " in html
    assert "requests to massive served by tradier instead" in html


def test_an_unknown_panel_is_named(full: Desk) -> None:
    """A misspelt panel is refused with the nearest there is."""
    with pytest.raises(LookupError, match="Did you mean 'greeks'"):
        full.status(days.at("11:00")).panel("greek")


def test_the_samples_are_the_snapshots(full: Desk) -> None:
    """The frame has one row a look of the window, with its page and times; an empty window has none."""
    frame = full.samples(days.at("11:00"), "5m")
    assert len(frame) == full.status(days.at("11:00"), "5m").counters.snapshots_in(
        full.status(days.at("11:00"), "5m").window
    )
    assert {"ts", "known_at", "page", "massive_requests"} <= set(frame.columns)
    assert full.samples(f"{date(2026, 3, 8)}T12:00", "5m").empty


@pytest.mark.slow
def test_alerts_of_a_long_window_are_evaluated_where_there_is_data(full: Desk) -> None:
    """
    A window of weeks of which one day holds data evaluates that day, and shows the alerts that a window of it all
    shows.
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
