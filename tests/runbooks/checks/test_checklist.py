"""Test the checks that only checklists use: each passes, fails or is unknown, and changes when its fault is present."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib import desk as desk_module
from opslib.dashboard import daily_figures, status
from opslib.desk import Desk
from opslib.foundation import clock, market_calendar, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config import rules
from opslib.runbooks import steps
from opslib.runbooks.checklist_session import ChecklistSession
from opslib.runbooks.checks import checklist as checklist_module
from opslib.runbooks.checks.context import CheckContext
from opslib.simulation.drills.stepped_desk import stepped_probes
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from opslib.telemetry.probes.store import SampleStore
from tests.runbooks.checks.test_checks import AT, asked, every, laid, posted, well


def result_of(desk: Desk, box: str, checklist: str, at: datetime = AT) -> Any:
    """Return the result of an item's check, run by a checklist session that is recorded."""
    sheet = ChecklistSession(desk, checklist, "Ann", as_of=at)
    return checkups_seen(desk, box, sheet, at)


def checkups_seen(desk: Desk, box: str, sheet: ChecklistSession, at: datetime) -> Any:
    from opslib.runbooks.checks import run_check

    return run_check(CheckContext(status.view_at(desk, at, timedelta(hours=1)), desk, steps.step(box), sheet.incident))


# What the page records.

PAGES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # item: (fields of a page that passes, fields of one that fails, text of the failed result)
    "requests_counted": ({}, {"massive_requests": 7, "massive_successes": 7}, "massive requests +0"),
    "greeks_counted": ({}, {"validations": 7, "greeks_valid": 7}, "validations +0"),
    "trades_counted": ({}, {"commission_total_usd": 0}, "trades without commission"),
    "night_serious": ({}, {"gamma_zero": lambda i: i}, "Greeks with gamma zero or missing"),
    "variance_in_bounds": (
        {"backtest_variance_pp": 3.0},
        {"backtest_variance_pp": 18.0},
        "backtest variance (18 points) > 15 points",
    ),
    "memory_in_bounds": (
        {"memory_bytes": 20_000_000},
        {"memory_bytes": 120_000_000},
        "memory of the page (120 MB) > 100 MB",
    ),
    "greeks_on_target": ({}, {"greeks_valid": lambda i: 9 * i}, "app page: 90.00 %"),
    "massive_on_target": (
        {},
        {"massive_successes": lambda i: 9 * i, "massive_failures": lambda i: i},
        "app page: 90.00 %",
    ),
    "errors_on_target": ({}, {"errors": lambda i: i}, "app page: 720 per h"),
}


@pytest.mark.parametrize("box", PAGES)
def test_page_counters_decide_an_item(tmp_path: Path, box: str) -> None:
    """An item passes if the page counts as it should; otherwise it fails, and the result gives the figure."""
    good, bad, words = PAGES[box]
    for how, wanted in ((good, True), (bad, False)):
        desk = laid(tmp_path / str(wanted), well(), posted(**how))
        found = asked(desk, box)
        assert found.good is wanted, (how, found)
        assert wanted or words in found.words, found.words
        desk.store.close()


def test_a_page_with_a_late_first_post(tmp_path: Path) -> None:
    """A first post two minutes after the page load fails; without a page load within the hour the result is unknown."""
    assert asked(laid(tmp_path / "c", well(), posted(30)), "service_begins").good is True
    late = [p for p in posted(30) if p.ts_us > clock.micros(AT - timedelta(minutes=28))]
    found = asked(laid(tmp_path / "a", well(), late), "service_begins")
    assert found.good is False and "first snapshot 2 min" in found.words, found.words
    assert asked(laid(tmp_path / "b", well(), posted(200)), "service_begins").good is None


def test_a_slow_page_fails_the_post_interval(tmp_path: Path) -> None:
    """A post every 30 s fails the interval of 5 s; with `post_every_s = 30` it passes."""
    slow = posted()[::6]
    found = asked(laid(tmp_path / "a", well(), slow), "renewed")
    assert found.good is False and "every 30.0 s" in found.words
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "settings.toml").write_text("post_every_s = 30\n")
    assert asked(laid(tmp_path / "b", well(), slow), "renewed").good is True


def test_an_empty_panel(tmp_path: Path) -> None:
    """Without posts the P&L panel is empty and the check fails, although our own probes fill the other panels."""
    found = asked(laid(tmp_path, well()), "panels_filled")
    assert found.good is False and "P&L Accuracy" in found.words


def test_a_probe_that_stopped(tmp_path: Path) -> None:
    """
    A probe that stopped within the hour is named, whichever subject it has; a probe that runs and fails does not count.
    """
    gone = [s for s in well() if s.probe != "socket" or s.ts_us < clock.micros(AT - timedelta(minutes=20))]
    found = asked(laid(tmp_path / "a", gone), "looks_go_on")
    assert found.good is False and "not socket of app" in found.words
    failing = [s._replace(outcome="timeout") if s.subject == "massive" else s for s in well()]
    found = asked(laid(tmp_path / "b", failing), "looks_go_on")
    assert found.good is True and "failing: data of massive, liveness of massive; all others continue" in found.words


def test_counters_are_unknown_while_the_market_is_closed(tmp_path: Path) -> None:
    """Outside market hours a counter without an increase is unknown."""
    desk = laid(tmp_path, well(), posted())
    assert asked(desk, "requests_counted", datetime(2026, 3, 10, 8, 0, tzinfo=UTC)).good is None


def test_the_night_without_page_and_log(tmp_path: Path) -> None:
    """
    Without posts and log the errors since the last close are unknown.

    Without a page there can be no serious errors, so that check passes.
    """
    before = datetime(2026, 3, 10, 13, 0, tzinfo=UTC)
    desk = laid(tmp_path, [])
    assert asked(desk, "night_errors", before).good is None and asked(desk, "night_kinds", before).good is None
    assert asked(desk, "night_serious", before).good is True


def test_kinds_of_errors_need_the_log(tmp_path: Path) -> None:
    """Kinds of errors come from the app's log; for errors that only a page counted the kinds are unknown."""
    found = asked(
        laid(
            tmp_path / "a",
            [*well(), *every("log", "app", value=1.0, minutes=2, kinds={"timeout": 1}, newest={"timeout": "x"})],
            posted(),
        ),
        "night_kinds",
    )
    assert found.good is True and "timeout" in found.words
    assert asked(laid(tmp_path / "b", [], posted(errors=lambda i: i // 100)), "night_kinds").good is None


# Keys.


def test_the_age_of_a_key(tmp_path: Path) -> None:
    """
    A key is as old as its file: at most 90 days passes, more fails.

    The age of a key from the environment is unknown.
    """
    found = {}
    for days_old in (3, 200):
        home = tmp_path / str(days_old)
        home.mkdir()
        (home / "key").write_text("tok-of-massive-0123")
        os.utime(home / "key", ((AT - timedelta(days=days_old)).timestamp(),) * 2)
        found[days_old] = asked(laid(home, [], OPS_MASSIVE_TOKEN_FILE=str(home / "key")), "key_age")
    assert found[3].good is True and "massive: 3 days old" in found[3].words
    assert found[200].good is False and "200 days old; expected at most 90 days" in found[200].words
    (tmp_path / "e").mkdir()
    assert asked(laid(tmp_path / "e", [], OPS_MASSIVE_TOKEN="tok-of-massive-0123"), "key_age").good is None


# Since a deployment.


def deployed(home: Path, before_s: float, after_s: float, count: int = 400) -> Desk:
    """Return a desk whose app had these response times before and after a deployment an hour ago."""
    at = AT - timedelta(minutes=60)
    snapshots = [
        s._replace(ts_us=clock.micros(at - timedelta(seconds=15 * (i + 1))), seconds=before_s + i % 7 / 1000)
        for i, s in enumerate(every("health", "app", value=9000.0, minutes=count / 4))
    ]
    snapshots += [
        s._replace(ts_us=clock.micros(at + timedelta(seconds=9 * (i + 1))), seconds=after_s + i % 7 / 1000)
        for i, s in enumerate(every("health", "app", value=9000.0, minutes=count / 4))
        if i < 395
    ]
    desk = laid(home, snapshots)
    desk.marks.put("deploy", "v1.4.0", "Ann", at)
    return desk


def test_slower_since_a_deployment(tmp_path: Path) -> None:
    """The same p95 as before the deployment passes, half as much again fails; too few probes are unknown."""
    same, slower = (
        result_of(deployed(tmp_path / name, 0.1, s), "no_slower", "post-deploy-1w")
        for name, s in (("a", 0.1), ("b", 0.15))
    )
    assert same.good is True and "n 400" in same.words and slower.good is False and slower.next == "dashboard_slow"
    few = result_of(deployed(tmp_path / "c", 0.1, 0.15, count=60), "no_slower", "post-deploy-1w")
    assert few.good is None and "100 required" in few.words
    assert result_of(laid(tmp_path / "d", well()), "no_slower", "post-deploy-1w").good is None


def test_the_p95_interval_covers_the_true_value() -> None:
    """In at least 92 % of draws the interval contains the true 95th percentile."""
    import random

    chance, held = random.Random(4), 0
    for _ in range(300):
        low, middle, high = checklist_module.p95_interval([chance.random() for _ in range(300)])
        assert low <= middle <= high
        held += low <= 0.95 <= high
    assert held >= 276, held


def test_fallbacks_are_counted(tmp_path: Path) -> None:
    """
    If Massive failed, requests to Tradier pass the check, and no requests to it fail the check.

    If Massive did not fail, the result is unknown.
    """
    failing: dict[str, Callable[[int], int]] = {"massive_successes": lambda i: 9 * i, "massive_failures": lambda i: i}
    for name, how, wanted in (
        ("a", failing, True),
        ("b", {}, None),
        ("c", failing | {"tradier_requests": lambda i: 7, "tradier_successes": lambda i: 7}, False),
    ):
        desk = laid(tmp_path / name, [], posted(**how))
        desk.marks.put("deploy", "v1.4.0", "Ann", AT - timedelta(minutes=50))
        assert result_of(desk, "fallbacks_counted", "post-deploy-1w").good is wanted, name


def test_an_error_raised_by_a_hook(tmp_path: Path) -> None:
    """
    An error raised by a hook passes if the page counts it within two posts, fails if not; before that it is unknown.
    """
    for name, errors, wanted in (("a", lambda i: int(i >= 601), True), ("b", lambda i: int(i >= 640), False)):
        home = tmp_path / name
        home.mkdir()
        (home / "settings.toml").write_text('[hooks]\nraise_error = ["true"]\n')
        raised = AT - timedelta(minutes=10)
        desk = Desk(desk_module.open("desk", home, {"OPS_HOME": str(home)}).settings, lambda raised=raised: raised)
        SampleStore(desk.store, "desk").keep(every("log", "app", value=0.0, kinds={}, newest={}), known_at_ts=True)
        SnapshotStore(desk.store).write("desk", posted(errors=errors), known_at_ts=True)
        sheet = ChecklistSession(desk, "post-deploy-24h", "Ann", as_of=raised)
        assert checkups_seen(desk, "error_seen", sheet, raised).good is None
        assert sheet.do("raise_an_error", confirmed=True).state == "done"
        assert checkups_seen(desk, "error_seen", sheet, raised + timedelta(seconds=4)).good is None
        found = checkups_seen(desk, "error_seen", sheet, AT)
        assert found.good is wanted, (name, found)


# Days.


def week(
    home: Path,
    start: datetime,
    missed: tuple[int, ...] = (),
    loads: Callable[[int], bool] = lambda n: True,
    every_s: int = 60,
) -> Desk:
    """Return a desk whose page posts day and night for nine days, except on the missed days."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.toml").write_text(f"post_every_s = {every_s}\n")
    desk = desk_module.open("desk", home, {"OPS_HOME": str(home)})
    posts, loaded = [], start
    from tests.support.snapshots import body

    for minute in range(0, 9 * 1440, every_s // 60):
        at = start + timedelta(minutes=minute)
        day = (at - timedelta(hours=4)).toordinal() - (start - timedelta(hours=4)).toordinal()
        if (at - timedelta(hours=4)).hour == 9 and at.minute == 0 and loads(day):
            loaded = at
        n = round((at - loaded).total_seconds() / 60)
        if day not in missed:
            posts.append(
                Post(
                    clock.micros(at),
                    snapshot.read(
                        body(
                            uptime_s=60 * n,
                            page_clock_ms=clock.micros(at) // 1000,
                            massive_requests=10 * n,
                            massive_successes=10 * n,
                            massive_failures=0,
                            tradier_requests=n,
                            tradier_successes=n,
                            tradier_failures=0,
                            errors=0,
                        )
                    ),
                )
            )
    SnapshotStore(desk.store).write("desk", posts, known_at_ts=True)
    return desk


def test_seven_days_on_staging(tmp_path: Path) -> None:
    """Each of the seven days passes once it has ended; a day without posts or without a new page load fails."""
    begun = datetime(2026, 3, 9, 14, 0, tzinfo=UTC)  # A Monday.
    desk = week(tmp_path, begun, missed=(2,), loads=lambda n: n != 3)
    ChecklistSession(desk, "staging", "Ann", as_of=begun)
    end = begun + timedelta(days=8)
    sheet = ChecklistSession(Desk(desk.settings, lambda: end), "staging", "Bob", as_of=end)
    assert sheet.id == "staging-2026-03-09"
    found = {n: checkups_seen(desk, f"staging_day_{n}", sheet, end) for n in range(1, 8)}
    assert [n for n in found if found[n].good is True] == [1, 2, 5, 6, 7], {n: f.words for n, f in found.items()}
    assert found[3].good is False and "missed: no snapshot on 2026-03-11" in found[3].words
    assert found[4].good is False and "browser was not restarted" in found[4].words
    early = checkups_seen(desk, "staging_day_2", sheet, begun + timedelta(hours=1))
    assert early.good is None and "has not begun" in early.words


def monthly(home: Path, count: int, last: Callable[[int], int] = lambda n: 0) -> tuple[Desk, datetime]:
    """Return a desk with a number of trading days of posts every five minutes; the last day has its own error count."""
    from tests.support.snapshots import body

    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.toml").write_text("post_every_s = 300\n")
    session, posts = market_calendar.session(time_parsing.parse_day("2026-03-10")), []
    assert session
    desk = Desk(desk_module.open("desk", home, {"OPS_HOME": str(home)}).settings, lambda at=session.closes: at)
    for n in range(count):
        assert session
        for i in range(79):
            at = session.opens + timedelta(minutes=5 * i)
            errors = last(i) if n == 0 else i // 20 + n % 3
            posts.append(
                Post(
                    clock.micros(at),
                    snapshot.read(
                        body(
                            uptime_s=300 * i,
                            page_clock_ms=clock.micros(at) // 1000,
                            massive_requests=10 * i,
                            massive_successes=10 * i - i // 30,
                            massive_failures=i // 30,
                            tradier_requests=i,
                            tradier_successes=i,
                            tradier_failures=0,
                            errors=errors,
                            validations=5 * i,
                            greeks_valid=5 * i,
                            trades=i // 8,
                        )
                    ),
                )
            )
        session = market_calendar.previous_session(session.day)
    SnapshotStore(desk.store).write("desk", posts, known_at_ts=True)
    return desk, desk.now()


def test_trends_need_enough_days(tmp_path: Path) -> None:
    """
    With nine earlier days trends are unknown; with fourteen an ordinary day passes, and one with many errors fails.
    """
    for name, count, last, wanted in (
        ("a", 10, lambda i: i // 20, None),
        ("b", 15, lambda i: i // 20, True),
        ("c", 15, lambda i: 2 * i, False),
    ):
        desk, at = monthly(tmp_path / name, count, last)
        found = result_of(desk, "trends_usual", "post-deploy-1w", at)
        assert found.good is wanted, (name, found.words)
        assert wanted is not False or "System Errors 156" in found.words


def test_daily_figures_are_cached(tmp_path: Path) -> None:
    """A day's figures are cached by their source data and equal the computed ones; a late post recomputes them."""
    desk, _ = monthly(tmp_path, 3)
    held = daily_figures.DailyFigures(desk.store, desk.settings, desk.rules, desk.cache)
    session = market_calendar.session(time_parsing.parse_day("2026-03-09"))
    assert session
    first = held.of(session)
    assert first and held.of(session) == first and (desk.settings.outputs / ".memory" / "2026-03-09.json").exists()
    view = status.view_at(desk, session.closes, session.closes - session.opens)
    assert first.figures == {
        name: value for section in daily_figures.figures(view).values() for name, value in section.items()
    }
    (desk.settings.outputs / ".memory" / "2026-03-09.json").write_text("{broken")
    assert held.of(session) == first
    from tests.support.snapshots import body

    late = clock.micros(session.closes - timedelta(minutes=1))
    SnapshotStore(desk.store).write(
        "desk",
        [
            Post(
                late,
                snapshot.read(
                    body(
                        uptime_s=600,
                        page_clock_ms=late // 1000,
                        massive_requests=900,
                        massive_successes=600,
                        massive_failures=300,
                        errors=4,
                    )
                ),
            )
        ],
        known_at_ts=True,
    )
    again = held.of(session)
    assert again and again != first
    anew = status.view_at(desk, session.closes, session.closes - session.opens)
    assert again.figures == {
        name: value for section in daily_figures.figures(anew).values() for name, value in section.items()
    }
    assert (
        daily_figures.DailyFigures(desk.store, desk.settings, desk.rules, desk.cache).of(
            market_calendar.session(time_parsing.parse_day("2026-03-02"))
        )
        is None
    )


def test_earlier_days_stop_at_the_first_data(tmp_path: Path) -> None:
    """Only days with data count, oldest first; a value at the upper end of the usual range is still usual."""
    desk, _ = monthly(tmp_path, 13)
    held = daily_figures.DailyFigures(desk.store, desk.settings, desk.rules, desk.cache)
    before = held.before(time_parsing.parse_day("2026-03-10"))
    assert len(before) == 12 and [d.day for d in before] == sorted(d.day for d in before)
    usual = daily_figures.usual(before, "system_errors", rules.load().days)
    assert (
        usual.n == 12
        and usual.low is not None
        and usual.high is not None
        and usual.outside(usual.high) is False
        and usual.outside(usual.high + 0.1) is True
        and usual.outside(None) is None
    )
    assert (
        daily_figures.usual(before[:3], "system_errors", rules.load().days).low is None
        and daily_figures.usual([], "system_errors", rules.load().days).n == 0
    )


# Simulated worlds.

FLIPS = {
    "app_down": ("server_answers", "metrics_answers"),
    "massive_5xx": ("massive_on_target",),
    "error_storm": ("errors_on_target", "night_errors"),
    "ws_403": ("socket_open",),
}


@pytest.mark.slow
def test_each_fault_fails_its_items(tmp_path: Path) -> None:
    """In a healthy simulated world each item passes; with its fault injected it fails."""
    for state, boxes in FLIPS.items():
        home = tmp_path / state
        home.mkdir()
        with stepped_probes(home) as probes:
            probes.advance(2)
            desk = Desk(probes.settings, lambda probes=probes: probes.at)
            assert {box: asked(desk, box, probes.at).good for box in boxes} == dict.fromkeys(boxes, True), state
            probes.world.inject(**{state: 1.0})
            probes.advance(4)
            found = {
                box: asked(Desk(probes.load_settings(), lambda probes=probes: probes.at), box, probes.at)
                for box in boxes
            }
            assert {box: seen.good for box, seen in found.items()} == dict.fromkeys(boxes, False), (state, found)


def test_windows_of_a_day() -> None:
    """A day is from midnight to midnight in New York, also when the clocks change."""
    for day, hours in (("2026-03-07", 24), ("2026-03-08", 23), ("2026-11-01", 25)):
        assert checklist_module._whole(time_parsing.parse_day(day)) == Window(
            time_parsing.parse(f"{day}T00:00"), time_parsing.parse(f"{day}T00:00") + timedelta(hours=hours)
        )


def test_check_results_are_json(tmp_path: Path) -> None:
    """The content of each check result can be recorded as JSON."""
    desk = laid(tmp_path, well(), posted())
    SampleStore(desk.store, "desk").keep([])
    for step in (s for s in steps.table().values() if s.kind == steps.CHECK and not s.box):
        json.dumps(asked(desk, step).content)
