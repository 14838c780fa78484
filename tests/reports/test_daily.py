"""The daily report: the guide's template, right on every kind of day, and the same from the same facts."""

import gzip
import json
import os
import random
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from opslib import desk as desk_module
from opslib.dashboard.daily_figures import SECTIONS
from opslib.foundation import clock, market_calendar, time_parsing
from opslib.foundation.errors import ReportRefused
from opslib.reports import places as places_module
from opslib.simulation.demo_day import expected_figures
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from tests.support import days

DAY = str(days.DAY)


def given(home: Path, posts: list[Post] | tuple[Post, ...], app: str = "desk") -> desk_module.Desk:
    found = desk_module.open(app)
    SnapshotStore(found.store).write(app, posts, known_at_ts=True)
    return found


def published(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """`ops report daily` as a process of its own."""
    command = [sys.executable, "-m", "opslib.cli", "report", "daily", *arguments]
    return subprocess.run(
        command, env={**os.environ, "OPS_HOME": str(home), **environment}, capture_output=True, text=True, timeout=120
    )


def files(home: Path, stem: str, app: str = "desk") -> dict[str, bytes]:
    folder = home / app / "reports" / stem[:4]
    return {p.name.removeprefix(stem): p.read_bytes() for p in sorted(folder.glob(f"{stem}*")) if p.is_file()}


def test_every_figure_is_the_scripts_own(home: Path) -> None:
    """Every field of the guide's template has the figure that the script of events has."""
    found = given(home, days.posts()).daily_report(DAY).figures
    true = expected_figures.truth(days.scripted())["session"]["visible"]

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


def test_the_naive_reading_is_wrong() -> None:
    """End minus start of the page's own fields is not what happened, else this suite would not be needed."""
    naive, true = expected_figures.naive(days.scripted()), expected_figures.truth(days.scripted())["session"]["visible"]
    assert naive["massive"]["requests"] != true["massive"]["requests"] and naive["errors"] != true["errors"]


def test_every_figure_equals_the_dashboards(home: Path) -> None:
    """A report's figure is that of the dashboard for the same window."""
    found = given(home, days.posts())
    daily = found.daily_report(DAY)
    view = found.status(days.at("16:00"), "6h30m")
    assert daily.view.as_json() == view.as_json()


def test_the_markdown_is_the_guides_template(home: Path) -> None:
    """Every heading and field of the guide's template stands in the Markdown, in its order."""
    content = given(home, days.posts()).daily_report(DAY).markdown()
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


def test_the_troubles_are_among_the_issues(home: Path) -> None:
    """Each scripted trouble is an issue that begins within a minute and a half of it, with a runbook and an action."""
    daily = given(home, days.posts()).daily_report(DAY)
    rules = {"massive": "availability", "gamma": "gamma_zero", "socket": "websocket_down"}
    for name, rule in rules.items():
        trouble = next(t for t in days.scripted().troubles if name in t.name)
        began = [
            time_parsing.parse(i["began"])
            for i in daily.issues
            if i["rule"] == rule and i["severity"] in ("critical", "escalate")
        ]
        assert any(abs((b - trouble.begins).total_seconds()) <= 90 for b in began), (name, trouble.begins, began)
    assert daily.verdict == "critical"
    assert any("massive_down" in item for item in daily.action_items)


def test_a_quiet_day_has_nothing_to_do(home: Path) -> None:
    """A day of base rates only has no issue at which anybody is told, and is not critical."""
    quiet = market_calendar.previous_session(days.DAY).day
    daily = given(home, days.posts(quiet, 1, True)).daily_report(quiet)
    assert not [i for i in daily.issues if i["severity"] != "warning"]
    assert daily.action_items == [] and daily.incomplete is None


def test_a_day_without_data_is_incomplete_and_unknown(home: Path) -> None:
    """Nothing seen on a trading day: every figure None with its reason, verdict unknown, report incomplete."""
    daily = given(home, days.posts()).daily_report("2026-03-11")
    assert daily.verdict in ("unknown", "critical")
    assert set(daily.unknown) == {figure for section in SECTIONS.values() for figure in section}
    assert all(value is None for section in daily.figures.values() for value in section.values())
    assert daily.incomplete == "only 0.0 % of the expected looks came"


def test_half_a_day_missing_is_said(home: Path) -> None:
    """With half of the looks missing the rates are None, the counts are what was seen, the gap is named."""
    cut = clock.micros(days.at("12:45"))
    daily = given(home, [p for p in days.posts() if p.ts_us <= cut]).daily_report(DAY)
    assert daily.values["coverage"] == pytest.approx(0.5, abs=0.001)
    assert daily.figures["availability"]["massive_uptime_pct"] is None
    assert daily.figures["availability"]["system_errors"] > 100
    assert "looks came" in daily.unknown["massive_uptime_pct"]
    assert "no looks 16:45–20:00 UTC (12:45–16:00 New York), 3 h 15 min" in daily.issues_told.plain


def test_a_holiday_is_no_failure(home: Path) -> None:
    """A holiday's report says that the market was closed, and is not incomplete."""
    daily = given(home, days.posts()).daily_report("2026-04-03")
    assert (daily.words, daily.incomplete, daily.issues) == ("market closed (holiday)", None, [])
    assert daily.unknown["massive_uptime_pct"] == "the market was closed: nothing was expected"


@pytest.mark.parametrize(
    ("day", "words"),
    [
        ("2025-11-28", "half day, 14:30–18:00 UTC (09:30–13:00 New York)"),
        ("2026-03-06", "full day, 14:30–21:00 UTC (09:30–16:00 New York)"),
        ("2026-03-09", "full day, 13:30–20:00 UTC (09:30–16:00 New York)"),
        ("2025-10-31", "full day, 13:30–20:00 UTC (09:30–16:00 New York)"),
        ("2025-11-03", "full day, 14:30–21:00 UTC (09:30–16:00 New York)"),
    ],
)
def test_half_days_and_dst(home: Path, day: str, words: str) -> None:
    """On a half day and on both sides of each DST change the session is New York's, complete, and every count right."""
    which = date.fromisoformat(day)
    daily = given(home, days.posts(which, 3)).daily_report(day)
    true = expected_figures.truth(days.scripted(which, 3))["session"]["visible"]
    assert daily.words == words
    assert (
        daily.values["coverage"],
        daily.figures["availability"]["system_errors"],
        daily.figures["trading"]["total_trades"],
    ) == (1.0, true["errors"], true["pnl"]["trades"])


def test_the_night_before_reaches_over_the_weekend(home: Path) -> None:
    """On a Monday the night before begins at Friday's close, also when DST changed between."""
    night = given(home, days.posts()).daily_report("2026-03-09").night
    assert night and (night.window.start, night.window.end) == (
        time_parsing.parse("2026-03-06T16:00"),
        time_parsing.parse("2026-03-09T09:30"),
    )


def test_what_changed_against_yesterday(home: Path) -> None:
    """
    Each figure stands beside that of the previous trading day, the same weekday and the days before, with how many
    those are.
    """
    yesterday = market_calendar.previous_session(days.DAY).day
    found = given(home, days.posts(yesterday, 1, True))
    SnapshotStore(found.store).write("desk", days.posts(), known_at_ts=True)
    daily = found.daily_report(DAY)
    a, b = (
        expected_figures.truth(s)["session"]["visible"]["errors"]
        for s in (days.scripted(yesterday, 1, True), days.scripted())
    )
    told = daily.changes["system_errors"]
    assert (told["previous"], told["value"], told["weekday"], told["n"], told["usual_middle"], told["outside"]) == (
        a,
        b,
        None,
        1,
        a,
        None,
    )
    assert f"{b - a:+d}" in next(
        line for line in daily.changes_told.plain.splitlines() if line.startswith("System Errors")
    )


def test_usual_by_the_days_before(tmp_path: Path) -> None:
    """
    With twelve trading days before it, a day says of each figure whether it is usual, with the band and n, and what it
    was on the same weekday.
    """
    from tests.runbooks.checks.test_checklist import monthly

    desk, _ = monthly(tmp_path, 13, lambda i: 2 * i)
    told = desk.daily_report("2026-03-10").changes
    assert (
        told["system_errors"]["n"] == 12
        and told["system_errors"]["outside"] is True
        and told["massive_uptime_pct"]["outside"] is False
    )
    assert told["system_errors"]["weekday"] == desk.daily_report("2026-03-03").figures["availability"]["system_errors"]
    assert "not usual" in desk.daily_report("2026-03-10").changes_told.plain


@pytest.mark.slow
def test_the_same_facts_give_the_same_bytes(home: Path, tmp_path: Path) -> None:
    """
    Made twice, from rows in another order, in another folder, zone, locale and hash seed, a report is the same bytes.
    """
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
    assert "onerror" in page and "<img src=x" not in page, "the scripted day's hostile message is shown, and inert"
    assert "<script" not in page and "http://" not in page.replace("http-equiv", "") and "https://" not in page
    assert "<img src=x" not in made[0][".md"].decode()


@pytest.mark.slow
def test_a_late_import_is_a_restatement(home: Path) -> None:
    """
    A report made again is the same; after a late import it takes the name, says what changed, and the older is kept.
    """
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
    told = json.loads(second[".json"])["restated"]
    assert told[0].startswith("This report restates an earlier one: it rests on") and any(
        "was" in line for line in told[1:]
    )
    assert "restates an earlier one" in second[".md"].decode()
    assert published(home, "--day", DAY).returncode == 0
    assert files(home, f"{DAY}_daily") == second, "and a restatement made again is the same restatement"


@pytest.mark.slow
def test_exit_codes_of_reports(home: Path) -> None:
    """
    A red day is not a failed report; too few looks are 3; before the close only a partial one, under another name.
    """
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


def test_before_the_open_there_is_no_report(home: Path) -> None:
    """As of a moment before the open nothing can be reported."""
    with pytest.raises(ReportRefused, match="before the market opened"):
        given(home, ()).daily_report(DAY, as_of=days.at("08:00"))


def test_a_damaged_earlier_report_is_not_passed_over(home: Path) -> None:
    """An earlier report that cannot be read stops the restatement, since what changed could not be told."""
    found = given(home, days.posts())
    path = places_module.place(found.settings, "daily", days.DAY).with_suffix(".json")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(ReportRefused, match="cannot be read"):
        _ = found.daily_report(DAY).values


def test_known_at_shows_what_was_known_then(home: Path) -> None:
    """A report as known before the import knows nothing of the day."""
    found = desk_module.open("desk")
    SnapshotStore(found.store).write(
        "desk", [Post(p.ts_us, snapshot.read(json.loads(p.snapshot.body))) for p in days.posts()[:50]]
    )
    assert found.daily_report(DAY, known_at=days.at("16:00")).figures["availability"]["system_errors"] is None
