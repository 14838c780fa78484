"""Test the alert log: it is read from the record, says what is missing, and is the same in shell, notebook and JSON."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from opslib.alerting import history
from opslib.cli.main import main
from opslib.desk import Desk
from opslib.foundation import clock, time_parsing
from opslib.foundation.config import rules, settings
from opslib.foundation.errors import RulesError
from opslib.foundation.storage.database import Database
from opslib.services.collector import Collector
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import days

CLOSES = time_parsing.parse(f"{days.DAY}T16:00")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Return a desk with the scripted day, whose alerts were evaluated as the posts arrived."""
    folder = tmp_path_factory.mktemp("judged")
    found = Desk(settings.Settings(home=folder, app="desk"), lambda: CLOSES)
    world = [time_parsing.parse(f"{days.DAY}T09:30")]
    store = Database(found.settings.url, lambda: world[0])
    collector = Collector(store, found.settings, found.rules, "one", lambda: world[0])
    collector.evaluate_due()
    SnapshotStore(store).write("desk", days.posts(), known_at_ts=True)
    world[0] = CLOSES + timedelta(seconds=10)
    collector.evaluate_due()
    return found


def test_the_record_and_a_replay_are_equal(desk):
    """The changes that a collector recorded equal those of a replay, row for row."""
    end = CLOSES + timedelta(seconds=5)
    record, replayed = desk.alerts(end, "6h30m"), desk.alerts(end, "6h30m", replay=True)
    assert record.as_json() == replayed.as_json() and len(record.changes) > 10
    assert record.missing == "" and record.active == replayed.active


def test_a_firing_alert_is_listed_with_its_runbook(desk):
    """A firing alert is listed with its value, its limit and its runbook; inhibited alerts follow."""
    at = time_parsing.parse(f"{days.DAY}T11:30")
    said = repr(desk.alerts(at, "2h").summary)
    first, second, *rest = said.splitlines()
    assert (
        first.endswith("1 alert to act on; 2 others are active, and nobody is notified of them")
        and "  - critical since 11:23, problem began 11:22 New York: availability" in second
        and "Runbook: massive_down." in second
        and "< 95.0 %" in second
    )
    assert any("errors" in line and "inhibited by availability of massive, app page" in line for line in rest)
    assert repr(desk.alerts(time_parsing.parse(f"{days.DAY}T09:50"), "20m").summary).endswith("no alert to act on")


def test_the_title_names_the_length_and_the_exact_window(desk: Desk) -> None:
    """The table of alerts begins with its length in days, and has both ends of it."""
    titles = [repr(desk.alerts(CLOSES, window).fired).splitlines()[0] for window in ("7d", "6h30m")]
    assert titles[0] == (
        "Alerts fired from 2026-03-03 20:00:00 UTC (15:00:00 New York) to 2026-03-10 20:00:00 UTC (16:00:00 New York) "
        "(7 days; New York's clocks changed in between). Each row is a severity that an alert reached."
    )
    assert titles[1].startswith("Alerts fired from 2026-03-10 13:30:00 UTC (09:30:00 New York) to ")
    assert titles[1].endswith(" (6 h 30 min). Each row is a severity that an alert reached.")


def test_a_firing_alert_has_its_value_then_and_now(desk: Desk) -> None:
    """A firing alert is listed with its value when it fired and the one now; the table has the worse of both."""
    at = days.at("11:30")
    log = desk.alerts(at, "2h")
    alert = next(a for a in log.active if (a["rule"], a["source"]) == ("availability", "page"))
    now = desk.rules["availability"].format_value(log.values_now[alert["id"]])
    assert now not in alert["sentence"] and f"{alert['sentence']} when it fired, {now} now." in repr(log.summary)
    assert f"availability of massive ({now} over 10 min) < 95.0 %" in repr(log.fired)
    assert log.as_json() == [c.as_json(desk.rules, log.incidents.get(c.alert)) for c in log.changes]


def test_a_verdict_milder_than_its_alerts_has_the_reason(desk: Desk) -> None:
    """An alert may fire although the verdict over an hour is milder; the status says that their windows differ."""
    views = (desk.status(days.at("11:22") + timedelta(seconds=10 * n)) for n in range(15))
    view = next(v for v in views if any(a["state"] == "firing" and a["severity"] == "critical" for a in v.alerts))
    assert view.verdict == "warning"
    (line,) = [line for line in repr(view).splitlines() if "firing, up to" in line]
    assert "up to critical" in line and line.endswith("warning is the verdict over 1 h")
    assert "firing, up to" not in repr(desk.status(days.at("11:45")))


def test_a_firing_alert_has_its_worst_value(tmp_path):
    """At the newest recorded moment, an alert that still fires has its worst value, as in a replay."""
    at = time_parsing.parse(f"{days.DAY}T15:30")
    found = Desk(settings.Settings(home=tmp_path, app="desk"), lambda: at)
    store = Database(found.settings.url, lambda: at)
    SnapshotStore(store).write("desk", [p for p in days.posts() if p.ts_us <= clock.micros(at)], known_at_ts=True)
    Collector(store, found.settings, found.rules, "one", lambda: at).evaluate_due()
    record, replayed = found.alerts(at, "6h"), found.alerts(at - timedelta(seconds=5), "6h", replay=True)
    assert record.as_json() == replayed.as_json() and any(r.over_us is None for r in record.changes)


def test_known_at_excludes_what_was_recorded_later(desk):
    """With `known_at`, changes that were recorded later are not shown."""
    assert desk.alerts(CLOSES, "6h30m", time_parsing.parse(f"{days.DAY}T09:31")).changes == []


def test_an_alert_still_fires_as_of_a_moment_before_its_end(desk):
    """As of 11:30 the outage's alert is firing, although the record has its end."""
    rows = {(r.rule, r.severity): r for r in desk.alerts(time_parsing.parse(f"{days.DAY}T11:30"), "2h").changes}
    assert rows["availability", "critical"].state == "firing" and rows["availability", "critical"].over_us is None
    assert rows["gamma_zero", "critical"].state == "fell"


def test_status_takes_its_alerts_from_the_record(desk):
    """`ops status` shows the recorded alerts with their ids; without a record it evaluates the snapshots."""
    at = time_parsing.parse(f"{days.DAY}T11:30")
    recorded = desk.status(at).alerts
    assert [a["id"] for a in recorded if a["severity"] == "critical" and not a["inhibited_by"]] == [
        r.alert for r in desk.alerts(at, "2h").changes if (r.rule, r.severity) == ("availability", "critical")
    ]
    other = Desk(settings.Settings(home=desk.settings.home / "other", app="desk"), lambda: CLOSES)
    SnapshotStore(other.store).write("desk", days.posts(), known_at_ts=True)
    assert {(a["rule"], a["subject"], a["severity"]) for a in other.status(at).alerts if not a["inhibited_by"]} == {
        (a["rule"], a["subject"], a["severity"]) for a in recorded if not a["inhibited_by"]
    }


def test_lead_times_and_noise_cover_every_change(desk):
    """Each severity change has a lead time, and each rule its counts, which add up to all changes."""
    log = desk.alerts(CLOSES, "6h30m")
    assert repr(log.lead_times).count("\n") == len(log.changes) + 1
    rows = [line.split("  ") for line in repr(log.noisiest).splitlines()[2:]]
    counts = [[int(cell) for cell in row if cell.strip().isdigit()] for row in rows]
    assert sum(sum(c) for c in counts) == len(log.changes) and counts == sorted(counts, key=lambda c: -c[0])


def test_budgets_show_both_windows(desk):
    """Each severity of each budget is shown with both its windows; with one day of data the longest is unknown."""
    said = repr(desk.alerts(time_parsing.parse(f"{days.DAY}T11:40"), "2h").burning)
    assert "times over 1 h" in said and "times over 5 min" in said and "unknown" in said
    assert len(said.splitlines()) == 2 + 3 * 3


def test_text_from_outside_is_escaped(desk):
    """Markup in a name is escaped in notebooks and reports."""
    log = desk.alerts(CLOSES, "6h30m")
    log.changes[0].sentence = log.changes[0].inhibited_by = HOSTILE
    for part in (log.fired, log.summary):
        assert HOSTILE not in part.html and "<img" not in part.markdown


def test_the_command_says_that_nothing_was_evaluated(home, tmp_path, capsys):
    """
    Without a record `ops alerts` says so and exits with 3; with `--replay` it exits with 0 and prints the contract's
    rows.

    It also exits with 3 without any app, and with 64 if the window ends before it begins.
    """
    recording = tmp_path / "day.jsonl"
    recording.write_text("\n".join(days.line(p) for p in days.posts()))

    def ask(*more):
        return main(["alerts", "--from", f"{days.DAY}T09:30", "--to", f"{days.DAY}T12:00", "-o", "json", *more])

    assert ask() == 3 and json.loads(capsys.readouterr().out) == []
    assert main(["import", str(recording)]) == 0
    capsys.readouterr()
    assert ask() == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out) == [] and "no alerts have been evaluated here" in captured.err
    assert ask("--replay") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {
        "alert",
        "rule",
        "subject",
        "source",
        "severity",
        "pending_at",
        "fired_at",
        "resolved_at",
        "peak_value",
        "limit",
        "inhibited_by",
        "incident",
        "rules_hash",
    } <= set(rows[0])
    assert any((r["rule"], r["subject"], r["severity"]) == ("availability", "massive", "critical") for r in rows)
    assert main(["alerts", "--from", f"{days.DAY}T12:00", "--to", f"{days.DAY}T09:30"]) == 64


def test_a_row_of_a_removed_rule_can_be_read():
    """A row that was recorded under a rule that no longer exists can still be read."""
    from opslib.alerting.alerts import Transition

    gone = Transition(
        0,
        "old_rule",
        "app",
        "page",
        "old_rule-app-page-x",
        "fired",
        "critical",
        3.0,
        2.0,
        0,
        None,
        None,
        "old rule (3) > 2",
        "h",
    )
    (row,) = history.severity_changes([gone, gone._replace(kind="unknown", at_us=5)], rules.load())
    assert (
        row.as_json(rules.load())["runbook"] is None
        and row.state == "unknown"
        and row.worst_sentence(rules.load()) == "old rule (3) > 2"
    )
    assert history.active_alerts([gone], rules.load())[0]["runbook"] is None


def test_an_alert_of_a_removed_rule_is_listed(desk: Desk) -> None:
    """
    An alert of a rule that no longer exists is listed with a remark; an unknown rule name is rejected with a
    suggestion.
    """
    shown = desk.alerts(days.at("11:30"), "1d")
    assert shown.active
    gone = replace(
        shown,
        active=[
            a | {"rule": "gone", "inhibited_by": None, "severity": "critical", "state": "firing"} for a in shown.active
        ],
    )
    assert "Its rule is no longer in rules.toml" in repr(gone.summary)
    with pytest.raises(RulesError, match="no rule 'avalability' in the rules in effect. Did you mean 'availability'"):
        desk.rules["avalability"]
