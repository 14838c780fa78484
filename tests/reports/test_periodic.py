"""Test reports over a week, month, quarter and year, and the success metrics."""

import json
import random
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from opslib import desk as desk_module
from opslib.cli import main
from opslib.dashboard import daily_figures, status
from opslib.dashboard.daily_figures import WORDS, Day
from opslib.desk import Desk
from opslib.foundation import clock, market_calendar, periods, time_parsing
from opslib.foundation.config import rules
from opslib.foundation.errors import ReportRefused, UsageError
from opslib.foundation.periods import Period
from opslib.incidents import feedback
from opslib.incidents.feedback import Feedback
from opslib.reports import periodic, publishing, verification
from opslib.reports.monthly import Rate
from opslib.reports.quarterly import Quarterly
from opslib.reports.success import Success
from opslib.telemetry.pages.store import Post, SnapshotStore
from tests.runbooks.checks.test_checklist import monthly as month_of_posts
from tests.support import demo
from tests.support.published import problems
from tests.support.snapshots import CLOSES

KINDS = {"weekly": "2026-W11", "monthly": "2026-03", "quarterly": "2026-Q1", "annual": "2026", "success": "2026-03-10"}


# Periods.


def test_periods_by_hand() -> None:
    """Weeks are ISO weeks, also across a new year; months and quarters end on their last days."""

    def week(name):
        return (str(periods.parse(periods.WEEK, name).first), str(periods.parse(periods.WEEK, name).last))

    assert (
        week("2026-W11") == ("2026-03-09", "2026-03-15")
        and week("2026-W53") == ("2026-12-28", "2027-01-03")
        and week("2025-W01") == ("2024-12-30", "2025-01-05")
    )
    assert periods.parse(periods.MONTH, "2024-02").last == date(2024, 2, 29) and periods.parse(
        periods.QUARTER, "2026-Q4"
    ).first == date(2026, 10, 1)
    seven = periods.parse(periods.SEVEN, "2026-03-10")
    assert (str(seven.first), str(seven.before.last)) == ("2026-03-04", "2026-03-03") and len(
        periods.parse(periods.YEAR, "2026").sessions
    ) == 251
    for kind, wrong in (
        (periods.WEEK, "2026-W54"),
        (periods.WEEK, "2026-11"),
        (periods.MONTH, "2026-13"),
        (periods.QUARTER, "2026-Q5"),
        (periods.YEAR, "26"),
        (periods.SEVEN, "2026-02-30"),
    ):
        with pytest.raises(UsageError, match="Write it as"):
            periods.parse(kind, wrong)


def test_periods_meet_without_a_gap() -> None:
    """The previous period ends on the day before, and the days of a period belong to it (the seed is printed)."""
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(300):
        day = date(2024, 1, 20) + timedelta(days=chance.randrange(700))
        for kind in (periods.WEEK, periods.MONTH, periods.QUARTER, periods.YEAR):
            found = periods.of(kind, day)
            assert found.first <= day <= found.last and found.before.last == found.first - timedelta(days=1)
            assert (
                periods.of(kind, found.first)
                == periods.of(kind, found.last)
                == found
                == periods.parse(kind, found.name)
            )
            assert found.window.start == time_parsing.parse(f"{found.first}T00:00")


def test_the_last_period_that_ended() -> None:
    """A period has ended at midnight after its last day, and not a second before."""
    at = time_parsing.parse("2026-03-16T00:00")
    assert (
        periods.last_over(periods.WEEK, at).name == "2026-W11"
        and periods.last_over(periods.WEEK, at - timedelta(seconds=1)).name == "2026-W10"
    )
    assert periods.last_over(periods.SEVEN, time_parsing.parse("2026-03-16T08:00")).name == "2026-03-13"


# Sums.


def made_up(chance: random.Random, n: int) -> Day:
    """Return a day with random counts."""
    session = market_calendar.session(date(2026, 3, 9 + n))
    assert session
    requests, validations, trades = chance.randrange(1, 9000), chance.randrange(1, 5000), chance.randrange(1, 60)
    failures, valid = chance.randrange(requests), chance.randrange(validations)
    counts: dict[str, int | None] = {
        "massive_requests": requests,
        "massive_failures": failures,
        "tradier_requests": requests,
        "tradier_failures": 0,
        "validations": validations,
        "valid": valid,
        "gamma_zero": 3,
        "iv_anomalies": 1,
        "errors": chance.randrange(50),
        "trades": trades,
    }
    return Day(
        session,
        dict.fromkeys(WORDS, 0.0),
        counts,
        {
            "gross_pct": chance.uniform(-9, 9),
            "net_pct": chance.uniform(-9, 9),
            "backtest_variance_pp": chance.uniform(0, 9),
        },
        [],
        1.0,
    )


def test_sums_add_up_counts() -> None:
    """Sums add counts, means are means over trades, and one unknown day makes a sum unknown."""
    chance = random.Random(3)
    for _ in range(50):
        found = [made_up(chance, n) for n in range(5)]
        whole = periodic.total(found)
        requests, failures = (sum(d.counts[k] or 0 for d in found) for k in ("massive_requests", "massive_failures"))
        trades = [(d.means["net_pct"] or 0.0, d.counts["trades"] or 0) for d in found]
        assert whole["massive_uptime_pct"] == round(100 * (requests - failures) / requests, 2)
        assert whole["net_pnl_pct"] == round(sum(v * n for v, n in trades) / sum(n for _, n in trades), 2) and whole[
            "total_trades"
        ] == sum(n for _, n in trades)
        lacking = [*found[:4], found[4]._replace(counts=found[4].counts | {"massive_failures": None})]
        assert (
            periodic.total(lacking)["massive_uptime_pct"] is None
            and periodic.total(lacking)["system_errors"] == whole["system_errors"]
        )
    assert set(periodic.total([]).values()) == {None}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Return a desk with fifteen trading days and three incidents: true, false alarm, found by a person."""
    desk, _ = month_of_posts(tmp_path_factory.mktemp("held"), 15, lambda i: i // 20)

    def alert(n, rule, peak):
        return {
            "id": f"{rule}-app-page-2026031{n}",
            "rule": rule,
            "subject": "app",
            "source": "page",
            "severity": "notify",
            "sentence": f"{rule} was {peak}",
            "limit": 10.0,
            "since": "2026-03-10T15:00:00Z",
            "inhibited_by": None,
        }

    true = desk.incidents.open("", by="Ann", alert=alert(1, "backtest_variance", 14.0))
    step = {"runbook": "massive_down", "step": "tradier_only", "state": "rehearsed", "words": "tradier_only: dry run"}
    desk.incidents.append(true.id, "step", step, by="Ann")
    desk.incidents.resolve(true.id, "costs were put right", "Ann")
    false = desk.incidents.open("", by="Ann", alert=alert(2, "errors", 21.0))
    desk.incidents.dismiss(false.id, "false alarm", "a test", "Ann")
    desk.incidents.open("no Greeks for TSLA", by="Bob")
    Feedback(desk.incidents.records).give(feedback.MISSED, "spreads of NVDA were an hour old", "Bob")
    return desk


@pytest.mark.slow
@pytest.mark.parametrize(("name", "named"), KINDS.items())
def test_each_report_equals_its_days(held: Desk, name: str, named: str) -> None:
    """Each day of a report equals its daily report, and the dashboard for the same window."""
    found = held.review(name, named)
    assert found.values["days"] and found.values["trading_days"] == len(found.sessions)
    for session, day in found.days:
        assert day is not None
        daily = held.daily_report(session.day, as_of=session.closes)
        assert day.figures == {k: v for section in daily.figures.values() for k, v in section.items()}
        dashboard = status.view_at(held, session.closes, session.closes - session.opens).figures
        assert (
            day.counts["massive_requests"] == dashboard["providers"]["massive"]["requests"]
            and day.counts["errors"] == dashboard["system"]["errors"]
        )
        assert sum(h["massive_requests"] for h in day.hours) == day.counts["massive_requests"]
        break  # One day of each is enough, because a daily report evaluates its day again.
    json.dumps(found.values)
    assert found.markdown().count("\n### ") >= 6 and name == found.NAME


def test_a_gap_names_its_step_in_words(held: Desk) -> None:
    """A step that was only a dry run is a gap of the annual report."""
    gaps = publishing.review_of(held, "annual", "2026-03-10").gains
    assert '"Switch the app to Tradier only" of runbook massive_down: a dry run 1 time; configure a hook for it' in gaps


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("monthly", "2026-02"),
        ("monthly", "2025-12"),
        ("quarterly", "2025-Q4"),
        ("annual", "2025"),
        ("weekly", "2025-W52"),
        ("success", "2025-12-26"),
    ],
)
def test_ended_periods_of_any_length(held: Desk, name: str, named: str) -> None:
    """A period that has ended is reported as a whole, with or without data."""
    found = held.review(name, named)
    assert not found.partial and json.loads(json.dumps(found.values))["period"] == named and found.markdown()
    assert (
        found.verdict == "unknown"
        if not found.days_with_data
        else found.verdict in ("ok", "warning", "critical", "unknown")
    )


@pytest.mark.slow
def test_missing_days_are_named(tmp_path: Path) -> None:
    """A day without data makes a week incomplete and is named; days before the first snapshot are left out."""
    desk, end = month_of_posts(tmp_path, 4)
    with desk.store.committing() as connection:
        connection.exec_driver_sql(
            "DELETE FROM snapshots WHERE ts_us > ? AND ts_us <= ?",
            (
                clock.micros(time_parsing.parse("2026-03-09T00:00")),
                clock.micros(time_parsing.parse("2026-03-10T00:00")),
            ),
        )
    weekly = Desk(desk.settings, lambda: end).review("weekly", "2026-W11")
    assert (
        weekly.incomplete == "1 of 2 trading days: 2026-03-09 (no data)"
        and weekly.verdict in ("critical", "unknown")
        and weekly.coverage == pytest.approx(0.5, abs=0.02)
    )
    before = Desk(desk.settings, lambda: end).review("weekly", "2026-W10")
    assert [str(s.day) for s in before.sessions] == [
        "2026-03-05",
        "2026-03-06",
    ] and "3 trading days before the first snapshot are left out" in repr(before.headline)
    success = Desk(desk.settings, lambda: end).review("success", "2026-03-10")
    assert len(success.sessions) == 5 and {m.name: m.state for m in success.metrics}["uptime"] == "unknown"


def test_a_future_or_unknown_period_is_rejected(held: Desk) -> None:
    """A period that has not begun and an unknown name are rejected; a period that has not ended is partial."""
    with pytest.raises(ReportRefused, match="the period begins at"):
        held.review("weekly", "2026-W12")
    with pytest.raises(UsageError, match="Did you mean 'weekly'"):
        held.review("weeky", "2026-W11")
    assert held.review("weekly", "2026-W11").partial and not held.review("weekly", "2026-W10").partial
    assert (
        held.review("weekly").period.name == "2026-W10"
        and publishing.review_of(held, "monthly", "2026-02-27").period.name == "2026-02"
    )


def test_best_and_worst_hour(held: Desk) -> None:
    """The best hour has the highest availability, then the fewest errors; the worst hour the reverse."""
    hours = held.review("weekly", "2026-W11").hours
    shares = [h[1] for h in hours]
    assert shares == sorted(shares, reverse=True) and len(hours) == 14 and shares[0] > shares[-1]


# The quality of the monitoring.


def test_accuracy_of_the_alerts(held: Desk) -> None:
    """A dismissed incident is a false alarm, a resolved one is true, one opened by hand or reported is missed."""
    found = held.review("quarterly", "2026-Q1")
    assert isinstance(found, Quarterly)
    assert len(found.missed) == 2 and "no Greeks for TSLA" in found.missed[0] and "NVDA" in found.missed[1]
    assert {i.status for i in found.incidents} == {"resolved", "dismissed", "open"}


def quarterly(desk: Desk, verdicts: list[tuple[str, float]]) -> Quarterly:
    """Return a quarter whose alerts on errors have these assessments and peaks."""
    from opslib.alerting.history import SeverityChange

    found = desk.review("quarterly", "2026-Q1")
    assert isinstance(found, Quarterly)
    rows = [
        (
            SeverityChange(
                f"a{i}", "errors", "app", "page", "critical", "resolved", 0, 1, 2, peak, 50.0, None, "errors", ""
            ),
            verdict,
        )
        for i, (verdict, peak) in enumerate(verdicts)
    ]
    found.__dict__["assessed"], found.__dict__["missed"] = rows, ["x"]
    return found


def test_proposed_limits(held: Desk) -> None:
    """A proposed threshold is just beyond the worst false alarm; it lists the true alerts that it would lose."""
    found = quarterly(
        held,
        [
            ("false alarm", 55.0),
            ("false alarm", 60.0),
            ("true", 58.0),
            ("true", 400.0),
            ("true", 90.0),
            ("not assessed", 70.0),
        ],
    )
    assert found.precision == 3 / 5 and found.recall == 3 / 4
    (move,) = found.proposed_limits
    assert (move.to, move.kept, move.lost, move.spared, move.limit) == (
        60.0,
        2,
        1,
        2,
        50.0,
    ) and "not recommended" in repr(found.limits)
    (better,) = quarterly(held, [("false alarm", 55.0), ("true", 400.0)]).proposed_limits
    assert better.lost == 0 and "1 would still have fired" in repr(
        quarterly(held, [("false alarm", 55.0), ("true", 400.0)]).limits
    )
    nothing = quarterly(held, [("not assessed", 70.0)])
    assert nothing.precision is None and not nothing.proposed_limits and "no change is proposed" in repr(nothing.limits)


def test_feedback(held: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    """Noise needs a recorded alert, missed data needs a text; feedback is in the report and stays unchanged."""
    home = str(held.settings.home)
    for words in (["noise"], ["noise", "--alert", "nosuch"], ["missed-data"], ["praise", "x"]):
        assert main.main(["--home", home, "feedback", *words, "--by", "Ann"]) == 64, words
    capsys.readouterr()
    assert (
        main.main(
            [
                "--home",
                home,
                "feedback",
                "useful",
                "the runbook saved the day",
                "--by",
                "Ann",
                "--at",
                "2026-03-10T12:00",
                "-o",
                "json",
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["kind"] == "useful"
    assert "the runbook saved the day" in repr(held.review("quarterly", "2026-Q1").feedback_table)
    assert verification.verify(held.incidents.records.folder(feedback.FOLDER, feedback.RECORD), held).verdict == "ok"


# Success.


def success(found: Success, **figures: float | None) -> dict[str, str]:
    """Return the states of the metrics with other figures."""
    found.__dict__["figures"] = found.figures | figures
    found.__dict__.pop("metrics", None)
    return {m.name: m.state for m in found.metrics}


@pytest.mark.slow
def test_each_success_metric(held: Desk) -> None:
    """Each metric passes, fails or is unknown according to its figure."""
    good = {
        "massive_uptime_pct": 99.0,
        "tradier_uptime_pct": 100.0,
        "greeks_valid_rate_pct": 95.0,
        "backtest_variance_pp": 4.99,
    }
    week = held.review("success", "2026-03-10")
    assert isinstance(week, Success)
    states = success(week, **good)
    assert list(states) == ["uptime", "greeks", "variance", "critical_errors", "missed_data", "responsive", "trends"]
    assert (
        (states["uptime"], states["greeks"], states["variance"]) == ("pass", "pass", "pass")
        and states["missed_data"] == "fail"
        and states["responsive"] == "unknown"
        and states["trends"] in ("pass", "fail")
    )
    for name, value, line in (
        ("massive_uptime_pct", 98.99, "uptime"),
        ("tradier_uptime_pct", 98.0, "uptime"),
        ("greeks_valid_rate_pct", 94.99, "greeks"),
        ("backtest_variance_pp", 5.0, "variance"),
    ):
        assert success(week, **(good | {name: value}))[line] == "fail", name
        assert success(week, **(good | {name: None}))[line] == "unknown", name


# Costs.


def test_means_have_an_interval() -> None:
    """The mean of a rate has a Student t interval, computed by hand; one value has none."""
    from decimal import Decimal

    from opslib.reports import monthly

    found = monthly._rate(
        "commission_usd", {"commission_usd": (Decimal("0.65"), "a side")}, [Decimal(1), Decimal(2), Decimal(3), None]
    )
    assert (
        found.n == 3
        and found.mean == 2.0
        and found.low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5)
        and found.high == pytest.approx(2 + 4.302653 / 3**0.5, abs=1e-5)
    )
    assert monthly._rate("commission_usd", {"commission_usd": (None, "")}, [Decimal(1)]) == Rate(
        "commission_usd", "", None, 1, 1.0, None, None
    )


# Publication.


@pytest.mark.slow
def test_publish_restate_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report has four files with reproducible bytes; late data makes a restatement; an edit is detected."""
    desk, _ = month_of_posts(tmp_path, 4)
    home = str(tmp_path)

    def run(*words):
        return main.main(["--home", home, "report", "weekly", "--period", "2026-W10", *words])

    assert run("-o", "json") in (0, 3), capsys.readouterr()
    place = tmp_path / "desk" / "reports" / "2026" / "2026-W10_weekly.json"
    first = {p.suffix: p.read_bytes() for p in place.parent.iterdir() if p.is_file()}
    assert set(first) == {".ipynb", ".html", ".md", ".json"}
    values = json.loads(first[".json"])
    assert (
        values["figures"] == desk.review("weekly", "2026-W10", as_of="2026-03-09T00:00").values["figures"]
        and values["trading_days"] == 2
    )
    assert run() in (0, 3) and {p.suffix: p.read_bytes() for p in place.parent.iterdir() if p.is_file()} == first
    assert verification.verify(place, desk).verdict == "ok" and verification.verify(place, desk).figures > 30
    place.write_bytes(
        first[".json"]
        .replace(b'"system_errors"', b'"system_errors" ', 1)
        .replace(f'"system_errors" : {values["figures"]["system_errors"]}'.encode(), b'"system_errors": 1')
    )
    broken = json.loads(place.read_bytes()) | {"figures": values["figures"] | {"system_errors": 1}}
    place.write_text(json.dumps(broken))
    assert [b.what for b in verification.verify(place, desk).broken] == [f"{place.name}, figures, system_errors"]
    place.write_bytes(first[".json"])
    from opslib.telemetry.pages import snapshot
    from tests.support.snapshots import body

    at = clock.micros(datetime.fromisoformat("2026-03-05T18:00:30+00:00"))
    SnapshotStore(desk.store).write(
        "desk", [Post(at, snapshot.read(body(uptime_s=5, page_clock_ms=at // 1000, errors=40)))]
    )
    assert run() in (0, 3)
    restated = json.loads(place.read_bytes())
    assert (
        restated["restates"] == "r1"
        and any("System Errors: was" in line for line in restated["restated"])
        and (place.parent / "2026-W10_weekly.r1.json").exists()
    )
    assert (
        main.main(["--home", home, "report", "weekly", "--period", "2026-W11"]) == 70
        if desk_module.open("desk", tmp_path, {}).now() < time_parsing.parse("2026-03-16T00:00")
        else True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "named"), KINDS.items())
def test_no_page_shows_source(held: Desk, name: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The published page of each report shows no Markdown or HTML source as text."""
    home = held.settings.home.parent
    words = ["--home", str(home), "report", name, "--period", named, "--partial"]
    assert main.main(words) in (0, 3), capsys.readouterr()
    pages = list(home.rglob(f"{named}_{name}*.html"))
    assert len(pages) == 1 and problems(pages[0].read_text(encoding="utf-8")) == []


def test_the_usual_range_is_set_in_rules_toml() -> None:
    """The usual range needs as many days, and extends as far beyond them, as rules.toml says."""
    limits = rules.load().days
    session = market_calendar.session(date(2026, 3, 10))
    assert session
    found = [
        Day(session, {"massive_uptime_pct": 99.0 + n / 10, "system_errors": float(n)}, {}, {}, [], 1.0)
        for n in range(10)
    ]
    usual = daily_figures.usual(found, "massive_uptime_pct", limits)
    assert usual.low == pytest.approx(99.0 - 0.45) and usual.high == pytest.approx(99.9 + 0.45) and usual.n == 10
    assert daily_figures.usual(found[:9], "massive_uptime_pct", limits).high is None
    same = [d._replace(figures={"system_errors": 4.0}) for d in found]
    assert (
        daily_figures.usual(same, "system_errors", limits).outside(5.0) is False
        and daily_figures.usual(same, "system_errors", limits).outside(6.0) is True
    )


def test_periods_compare_by_value() -> None:
    """Periods of the same kind and name are equal, so one can be a key."""
    assert periods.of(periods.MONTH, date(2026, 3, 1)) == Period(
        periods.MONTH, "2026-03", date(2026, 3, 1), date(2026, 3, 31)
    )


def test_an_active_alert_has_the_worst_value_of_the_daily_report(tmp_path: Path) -> None:
    """
    An alert still active at the close has no recorded worst value; the longer report has that of the daily report.
    """
    desk = Desk(demo.laid_out(tmp_path), lambda: CLOSES)
    active = [a.worst for a in desk.daily_report("2026-03-10").alerts if a.worst.over_us is None]
    longer = {(c.alert, c.severity): c.peak for c in desk.review("success", "2026-03-10").log.changes}
    assert [(c.rule, longer[c.alert, c.severity]) for c in active] == [
        ("backtest_variance", pytest.approx(14.004, abs=0.001))
    ]
