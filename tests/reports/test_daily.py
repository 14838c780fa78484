"""Test the daily report: the guide's template with correct figures on every kind of day, reproducible."""

import gzip
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from opslib import desk as desk_module
from opslib.alerting import history
from opslib.dashboard.daily_figures import SECTIONS
from opslib.foundation import clock, formatting, market_calendar, time_parsing
from opslib.foundation.config import settings
from opslib.foundation.errors import ReportRefused
from opslib.jobs import record
from opslib.reports import places as places_module
from opslib.reports import verification
from opslib.reports.overview import in_minutes, when
from opslib.simulation.demo_day import expected_figures
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from tests.support import days

DAY = str(days.DAY)


def given(home: Path, posts: list[Post] | tuple[Post, ...], app: str = "desk") -> desk_module.Desk:
    found = desk_module.open(app)
    SnapshotStore(found.store).write(app, posts, known_at_ts=True)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[desk_module.Desk]:
    """Return a desk with the scripted day, for tests that only read it."""
    found = desk_module.Desk(settings.load(tmp_path_factory.mktemp("whole"), "desk", {}))
    SnapshotStore(found.store).write("desk", days.posts(), known_at_ts=True)
    yield found
    found.store.close()


def published(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `ops report daily` in its own process."""
    command = [sys.executable, "-m", "opslib.cli", "report", "daily", *arguments]
    return subprocess.run(
        command, env={**os.environ, "OPS_HOME": str(home), **environment}, capture_output=True, text=True, timeout=120
    )


def files(home: Path, stem: str, app: str = "desk") -> dict[str, bytes]:
    folder = home / app / "reports" / stem[:4]
    return {p.name.removeprefix(stem): p.read_bytes() for p in sorted(folder.glob(f"{stem}*")) if p.is_file()}


def test_every_figure_equals_the_script(whole: desk_module.Desk) -> None:
    """Every field of the guide's template equals the figure of the script."""
    found = whole.daily_report(DAY).figures
    true = expected_figures.compute(days.scripted())["session"]["visible"]

    def percent(part, whole):
        return pytest.approx(100 * part / whole, abs=0.005)

    assert found["availability"] == {
        "massive_uptime_pct": percent(true["massive"]["ok"], true["massive"]["requests"]),
        "tradier_uptime_pct": percent(true["tradier"]["ok"], true["tradier"]["requests"]),
        "system_errors": true["errors"],
    }
    assert found["data_quality"] == {
        "greeks_valid_rate_pct": percent(true["greeks"]["valid"], true["greeks"]["validations"]),
        "iv_anomalies": true["greeks"]["iv_anomalies"],
        "gamma_zero_errors": true["greeks"]["gamma_zero"],
    }
    assert found["trading"]["total_trades"] == true["pnl"]["trades"]
    assert found["trading"]["gross_pnl_pct"] == pytest.approx(true["pnl"]["gross_pct"], abs=0.005)
    assert found["trading"]["net_pnl_pct"] == pytest.approx(true["pnl"]["net_pct"], abs=0.005)


def test_the_difference_of_counters_is_wrong() -> None:
    """The difference of the page's counters between start and end is wrong, because of counter resets."""
    naive, true = (
        expected_figures.naive(days.scripted()),
        expected_figures.compute(days.scripted())["session"]["visible"],
    )
    assert naive["massive"]["requests"] != true["massive"]["requests"] and naive["errors"] != true["errors"]


def test_every_figure_equals_the_dashboard(whole: desk_module.Desk) -> None:
    """A report's figure equals the dashboard's for the same window."""
    daily = whole.daily_report(DAY)
    view = whole.status(days.at("16:00"), "6h30m")
    assert daily.view.as_json() == view.as_json()


def test_the_markdown_is_the_guides_template(whole: desk_module.Desk) -> None:
    """The Markdown has every heading and field of the guide's template, in order."""
    content = whole.daily_report(DAY).markdown()
    wanted = [
        f"## Daily Monitoring Report - {DAY}",
        "### Availability",
        "- Massive Uptime: ",
        "- Tradier Uptime: ",
        "- System Errors: ",
    ]
    wanted += ["### Data Quality", "- Greeks Valid Rate: ", "- IV Anomalies: ", "- Gamma=0 Errors: "]
    wanted += [
        "### Trading Performance",
        "- Total Trades: ",
        "- Gross P&L: ",
        "- Net P&L: ",
        "- Backtest Variance: ",
        "### Issues Encountered",
        "### Action Items",
    ]
    places = [content.index(w) for w in wanted]
    assert places == sorted(places)


def test_the_scripted_faults_are_issues(whole: desk_module.Desk) -> None:
    """Each scripted fault is an issue within 90 seconds of its beginning, with an action item for the outage."""
    daily = whole.daily_report(DAY)
    rules = {"massive": "availability", "gamma": "gamma_zero", "socket": "websocket_down"}
    for name, rule in rules.items():
        trouble = next(t for t in days.scripted().faults if name in t.name)
        began = [
            time_parsing.parse(i["began"])
            for i in daily.issues
            if i["rule"] == rule and i["severity"] in ("critical", "escalate")
        ]
        assert any(abs((b - trouble.begins).total_seconds()) <= 90 for b in began), (name, trouble.begins, began)
    assert daily.verdict == "critical"
    assert any("massive_down" in item for item in daily.action_items)


def test_the_first_screen_has_the_answers(whole: desk_module.Desk) -> None:
    """
    The first screen has what was broken, since when, whose fault, what still worked and what to do first.

    Six figures and the chart follow.
    """
    daily = whole.daily_report(DAY)
    found = daily.headline.plain
    assert re.match(
        rf"◆ {DAY}: critical \(worst severity: escalate\). Availability of Massive down to 0.00 %\n"
        r"  Since when: 11:22 New York \(15:22 UTC\); "
        r"the alert was resolved at 11:4\d, after 2\d min "
        r"\(the alert looks back over 10 min, so it resolves up to 10 min after the problem\)\.\n",
        found,
    )
    assert "\n  Cause: " in found and "Fault: " in found and "\n  Still worked at 11:32, when it was worst: " in found
    assert "Greeks with gamma zero or missing 10:" in found and "WebSocket down 14:31–14:3" in found
    assert re.search(r"\n  Do first: \w", found)
    screen = daily.first_screen.html
    assert screen.count('class="ops-figure ') == 6 and "below 95.0 %" in screen
    variance = next(p for p in daily._overview.problems if p.rule.name == "backtest_variance")
    assert f"{when(variance.began_us, None)}, " in screen, "the chart gives the same times as the answer"
    alerts = {a.worst.alert for a in daily.alerts}
    assert screen.count('class="ops-bar ') >= 2 * len(alerts) > 10


def test_the_time_at_each_severity_is_shown(whole: desk_module.Desk) -> None:
    """An alert's line has the time at each severity since it fired, the same as in `ops alerts`."""
    daily = whole.daily_report(DAY)
    alert = next(a for a in daily.alerts if a.worst.severity == "escalate")
    text = daily._overview.at_each_severity(alert)
    parts = dict(part.split(" ", 1) for part in text.split(", "))
    assert list(parts) == ["warning", "notify", "critical", "escalate"]
    log = repr(whole.alerts(days.at("16:00"), "6h30m", replay=True).fired).splitlines()
    lines = [line for line in log if "availability of massive (" in line]
    for severity, lasted in parts.items():
        (line,) = (line for line in lines if f"  {severity} " in line)
        assert f" after {lasted}" in line
    assert parts["escalate"].startswith("2 min")
    assert text in daily.markdown() and text in daily.issues_list.plain


def test_the_bar_of_an_alert_shows_its_severity_over_time(whole: desk_module.Desk) -> None:
    """An alert's bar is grey until it fired; the peak severity is drawn and named only for as long as it lasted."""
    daily = whole.daily_report(DAY)
    alert = next(a for a in daily.alerts if a.worst.severity == "escalate")
    peak = alert.worst
    assert peak.over_us is not None and alert.over_us is not None
    assert alert.began_us < peak.fired_us and peak.over_us < alert.over_us
    bars = daily._overview._bars(alert, 0)
    assert [clock.micros(b.begins) for b in bars if b.verdict == "unknown"] == [alert.began_us]
    assert [(clock.micros(b.begins), clock.micros(b.ends)) for b in bars if b.verdict == "escalate"] == [
        (peak.fired_us, peak.over_us)
    ]
    assert sum((b.ends - b.begins).total_seconds() for b in bars) == (alert.over_us - alert.began_us) / 1e6
    minutes = formatting.duration(round((peak.over_us - peak.fired_us) / 60e6) * 60)
    row = f"availability of Massive (peak escalate for {minutes})"
    assert row in daily.first_screen.plain and row in daily.markdown()
    assert f'■ peak escalate<span class="ops-note"> for {minutes}</span></td>' in daily.first_screen.html


def test_a_longer_report_has_the_same_time_at_the_peak(whole: desk_module.Desk) -> None:
    """The weekly report has the same time at the peak severity as the daily report."""
    daily = whole.daily_report(DAY)
    alert = next(a for a in daily.alerts if a.worst.severity == "escalate")
    seconds = history.seconds_at("escalate", [alert], daily.view.window.end_us)
    lasted, minutes = formatting.duration(seconds), in_minutes(seconds)
    weekly = whole.review("weekly", f"{DAY[:4]}-W11")
    assert f"{DAY[:4]}-W11: critical (worst severity: escalate). " in weekly.headline.plain
    assert f", peak escalate without any success, for {minutes} (app page)" in weekly.headline.plain
    assert f"(peak escalate for {minutes})" in daily.first_screen.plain
    (row,) = (line for line in repr(weekly.alerts_table).splitlines() if "escalate" in line)
    assert f"  {lasted}  " in row


def test_active_problems_come_first(whole: desk_module.Desk) -> None:
    """A problem still active at the close comes before a worse one that is resolved."""
    daily = whole.daily_report(DAY)
    active = [p for p in daily._overview.problems if p.over_us is None]
    assert active and daily.action_items[0].startswith(f"{active[0].rule.title}: ")
    over = next(item for item in daily.action_items if item.startswith("availability of massive"))
    assert re.match(r"availability of massive \(resolved 11:4\d\): \w", over)
    assert (
        f"\n  Still broken at the end: {active[0].name} 13:50–close (fault on our side: trading costs)."
        in daily.headline.plain
    )
    assert daily.headline.plain.rstrip().endswith(f"({active[0].name}).")


def test_an_error_message_from_outside_is_quoted(whole: desk_module.Desk) -> None:
    """The page's newest error message is shown as code, with its markup escaped."""
    html = whole.daily_report(DAY).issues_list.html
    assert "<code>&lt;img src=x&gt;</code>" in html and "<img" not in html


def test_links_only_to_files_that_exist(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A published report links to an incident's page, runbook and postmortem; in an open notebook there are no such links.
    """
    found = given(home, days.posts())
    daily = found.daily_report(DAY)
    alert = daily.alerts[0].worst.alert
    daily.view.incidents = {alert: "2026-03-10-7", "of-another-day": "2026-03-09-1"}
    monkeypatch.setenv("OPS_UNATTENDED", "1")
    assert daily._overview.links is None
    folder = places_module.incident(found.settings, "2026-03-10-7")
    folder.mkdir(parents=True)
    for name in ("incident.html", "01_greeks_quality.html"):
        (folder / name).write_text("")
    made = daily._overview.links
    assert made is not None
    addresses = re.findall('href="([^"]+)"', made.html)
    assert [(daily.path.parent / a).resolve() for a in addresses] == [
        (folder / "incident.html").resolve(),
        (folder / "01_greeks_quality.html").resolve(),
    ]
    monkeypatch.setenv("OPS_MADE_MEANWHILE", str(folder / "postmortem.html"))
    made = daily._overview.links
    assert made is not None and "../../incidents/2026-03-10-7/postmortem.html" in made.html, "it is being made"
    monkeypatch.delenv("OPS_UNATTENDED")
    assert daily._overview.links is None


def test_a_report_with_an_earlier_wording_verifies(home: Path) -> None:
    """For a report with an earlier wording the numbers are compared, but not its sentences."""
    found = given(home, days.posts())
    path = found.daily_report(DAY).path.with_suffix(".json")
    path.parent.mkdir(parents=True)
    values = json.loads(record.as_json(found.daily_report(DAY).values))
    old = values | {
        "wording": 2,
        "headline": ["2026-03-10: critical; full day."],
        "action_items": values["action_items"][::-1],
    }
    path.write_text(record.as_json(old))
    assert verification.verify(path, found).verdict == "ok"
    path.write_text(record.as_json(old | {"verdict": "ok"}))
    assert [b.what for b in verification.verify(path, found).broken] == [f"{path.name}, verdict"]
    path.write_text(record.as_json(values | {"headline": ["another"]}))
    assert [b.what for b in verification.verify(path, found).broken] == [f"{path.name}, headline"]


def test_a_quiet_day_has_nothing_to_do(home: Path) -> None:
    """A day with only the usual error rates has no notification and no action item."""
    quiet = market_calendar.previous_session(days.DAY).day
    daily = given(home, days.posts(quiet, 1, True)).daily_report(quiet)
    assert not [i for i in daily.issues if i["severity"] != "warning"]
    assert daily.action_items == [] and daily.incomplete is None
    assert daily.headline.plain.endswith("No alert required a notification.")


def test_a_day_without_data_is_incomplete_and_unknown(whole: desk_module.Desk) -> None:
    """On a trading day without data every figure is None with a reason, and the report is incomplete."""
    daily = whole.daily_report("2026-03-11")
    assert daily.verdict in ("unknown", "critical")
    assert set(daily.unknown) == {figure for section in SECTIONS.values() for figure in section}
    assert all(value is None for section in daily.figures.values() for value in section.values())
    assert daily.incomplete == "only 0.0 % of the expected snapshots were received"


def test_half_a_day_missing_is_reported(home: Path) -> None:
    """With half of the snapshots missing, rates are None, counts are partial, and the gap is named."""
    cut = clock.micros(days.at("12:45"))
    daily = given(home, [p for p in days.posts() if p.ts_us <= cut]).daily_report(DAY)
    assert daily.values["coverage"] == pytest.approx(0.5, abs=0.001)
    assert daily.figures["availability"]["massive_uptime_pct"] is None
    assert daily.figures["availability"]["system_errors"] > 100
    assert "snapshots were received" in daily.unknown["massive_uptime_pct"]
    assert "no snapshots 16:45–20:00 UTC (12:45–16:00 New York), 3 h 15 min" in daily.issues_list.plain


def test_a_holiday_is_not_incomplete(home: Path) -> None:
    """The report of a holiday says that the market was closed, and is not incomplete."""
    daily = given(home, days.posts()).daily_report("2026-04-03")
    assert (daily.words, daily.incomplete, daily.issues) == ("market closed (holiday)", None, [])
    assert daily.unknown["massive_uptime_pct"] == "the market was closed; no snapshots were expected"


@pytest.mark.parametrize(
    ("day", "words"),
    [
        ("2025-11-28", "half day, 14:30–18:00 UTC (09:30–13:00 New York)"),
        pytest.param("2026-03-06", "full day, 14:30–21:00 UTC (09:30–16:00 New York)", marks=pytest.mark.slow),
        ("2026-03-09", "full day, 13:30–20:00 UTC (09:30–16:00 New York)"),
        pytest.param("2025-10-31", "full day, 13:30–20:00 UTC (09:30–16:00 New York)", marks=pytest.mark.slow),
        pytest.param("2025-11-03", "full day, 14:30–21:00 UTC (09:30–16:00 New York)", marks=pytest.mark.slow),
    ],
)
def test_half_days_and_dst(home: Path, day: str, words: str) -> None:
    """On a half day and around DST changes the session follows New York's time, and every count is right."""
    which = date.fromisoformat(day)
    daily = given(home, days.posts(which, 3)).daily_report(day)
    true = expected_figures.compute(days.scripted(which, 3))["session"]["visible"]
    assert daily.words == words
    assert (
        daily.values["coverage"],
        daily.figures["availability"]["system_errors"],
        daily.figures["trading"]["total_trades"],
    ) == (1.0, true["errors"], true["pnl"]["trades"])


def test_the_night_before_reaches_over_the_weekend(home: Path) -> None:
    """On a Monday the night before begins at Friday's close, also across a DST change."""
    night = given(home, days.posts()).daily_report("2026-03-09").night
    assert night and (night.window.start, night.window.end) == (
        time_parsing.parse("2026-03-06T16:00"),
        time_parsing.parse("2026-03-09T09:30"),
    )


def test_changes_since_earlier_days(home: Path) -> None:
    """Each figure is compared with the previous trading day, the same weekday and the days before."""
    yesterday = market_calendar.previous_session(days.DAY).day
    found = given(home, days.posts(yesterday, 1, True))
    SnapshotStore(found.store).write("desk", days.posts(), known_at_ts=True)
    daily = found.daily_report(DAY)
    a, b = (
        expected_figures.compute(s)["session"]["visible"]["errors"]
        for s in (days.scripted(yesterday, 1, True), days.scripted())
    )
    change = daily.changes["system_errors"]
    assert (
        change["previous"],
        change["value"],
        change["weekday"],
        change["n"],
        change["usual_middle"],
        change["outside"],
    ) == (
        a,
        b,
        None,
        1,
        a,
        None,
    )
    assert f"{b - a:+d}" in next(
        line for line in daily.changes_table.plain.splitlines() if line.startswith("System Errors")
    )


def test_the_usual_range_from_earlier_days(tmp_path: Path) -> None:
    """With twelve trading days before it, each figure has a usual range and an assessment."""
    from tests.runbooks.checks.test_checklist import monthly

    desk, _ = monthly(tmp_path, 13, lambda i: 2 * i)
    changes = desk.daily_report("2026-03-10").changes
    assert (
        changes["system_errors"]["n"] == 12
        and changes["system_errors"]["outside"] is True
        and changes["massive_uptime_pct"]["outside"] is False
    )
    assert (
        changes["system_errors"]["weekday"] == desk.daily_report("2026-03-03").figures["availability"]["system_errors"]
    )
    assert "not usual" in desk.daily_report("2026-03-10").changes_table.plain


@pytest.mark.slow
def test_the_same_data_gives_the_same_bytes(home: Path, tmp_path: Path) -> None:
    """The report has the same bytes for another row order, folder, time zone, locale and hash seed."""
    lines = [days.line(p) for p in days.posts()]
    made = []
    for folder, environment in (
        (tmp_path / "a b", {"TZ": "UTC", "PYTHONHASHSEED": "1", "LC_ALL": "C.UTF-8"}),
        (tmp_path / "c", {"TZ": "Asia/Kolkata", "PYTHONHASHSEED": "77", "LC_ALL": "C", "COLUMNS": "40"}),
    ):
        folder.mkdir()
        (folder / "day.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
        subprocess.run(
            [sys.executable, "-m", "opslib.cli", "import", str(folder / "day.jsonl.gz")],
            env={**os.environ, "OPS_HOME": str(folder), **environment},
            check=True,
            capture_output=True,
        )
        ended = published(folder, "--day", DAY, **environment)
        assert ended.returncode == 0, ended.stderr
        made.append(files(folder, f"{DAY}_daily"))
        random.Random(4).shuffle(lines)
    assert set(made[0]) == {".ipynb", ".html", ".md", ".json"}
    assert made[0] == made[1]
    page = made[0][".html"].decode()
    assert "Unexpected token" in page and "<img src=x" not in page, (
        "the scripted day's hostile message is shown, and inert"
    )
    assert "<script" not in page and "http://" not in page.replace("http-equiv", "") and "https://" not in page
    assert "<img src=x" not in made[0][".md"].decode()


@pytest.mark.slow
def test_a_late_import_is_a_restatement(home: Path) -> None:
    """After a late import the report is a restatement that lists the changes, and the earlier one is kept."""
    late = [p for p in days.posts() if clock.micros(days.at("13:15")) < p.ts_us <= clock.micros(days.at("14:10"))]
    keys = {id(p) for p in late}
    found = given(home, [p for p in days.posts() if id(p) not in keys])
    assert published(home, "--day", DAY).returncode == 0
    first = files(home, f"{DAY}_daily")
    assert published(home, "--day", DAY).returncode == 0
    assert files(home, f"{DAY}_daily") == first, "made again from the same facts"
    SnapshotStore(found.store).write("desk", late)
    assert published(home, "--day", DAY).returncode == 0
    second = files(home, f"{DAY}_daily")
    assert {k: second[f".r1{k}"] for k in first} == first
    restated = json.loads(second[".json"])["restated"]
    assert restated[0].startswith("This report restates an earlier one: it uses") and any(
        "was" in line for line in restated[1:]
    )
    assert "restates an earlier one" in second[".md"].decode()
    assert published(home, "--day", DAY).returncode == 0
    assert files(home, f"{DAY}_daily") == second, "and a restatement made again is the same restatement"


@pytest.mark.slow
def test_exit_codes_of_reports(home: Path) -> None:
    """A critical day exits 0; too few snapshots exit 3; before the close only a partial report can be made."""
    cut = clock.micros(days.at("12:45"))
    given(home, [p for p in days.posts() if p.ts_us <= cut])
    ended = published(home, "--day", DAY, "-o", "json")
    assert ended.returncode == 3 and json.loads(ended.stdout)["incomplete"]
    early = published(home, "--day", DAY, "--as-of", f"{DAY}T12:45")
    assert early.returncode == 70 and "--partial" in early.stderr
    partial = published(home, "--day", DAY, "--as-of", f"{DAY}T12:45", "--partial", "-o", "json")
    assert partial.returncode == 0 and json.loads(partial.stdout)["partial"] is True
    assert set(files(home, f"{DAY}_daily_partial")) == {".ipynb", ".html", ".md", ".json"}
    runs = json.loads(
        subprocess.run(
            [sys.executable, "-m", "opslib.cli", "runs", "-o", "json"],
            env={**os.environ, "OPS_HOME": str(home)},
            capture_output=True,
            text=True,
        ).stdout
    )
    assert [r["state"] for r in runs] == ["incomplete", "ok"]


def test_before_the_open_a_report_is_refused(home: Path) -> None:
    """Before the open no report can be published."""
    with pytest.raises(ReportRefused, match="the market had not opened"):
        given(home, ()).daily_report(DAY, as_of=days.at("08:00"))


def test_a_damaged_earlier_report_is_an_error(home: Path) -> None:
    """An unreadable earlier report stops the restatement, because changes could not be listed."""
    found = given(home, days.posts())
    path = places_module.place(found.settings, "daily", days.DAY).with_suffix(".json")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ReportRefused, match="cannot be read"):
        _ = found.daily_report(DAY).values


def test_known_at_uses_only_earlier_data(home: Path) -> None:
    """A report as known before the import has no data."""
    found = desk_module.open("desk")
    SnapshotStore(found.store).write(
        "desk", [Post(p.ts_us, snapshot.read(json.loads(p.snapshot.body))) for p in days.posts()[:50]]
    )
    assert found.daily_report(DAY, known_at=days.at("16:00")).figures["availability"]["system_errors"] is None
