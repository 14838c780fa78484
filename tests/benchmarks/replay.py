"""
Measure the replay of a recorded day through the rules, and ten thousand rules and subjects at one evaluation time.

The peer is promtool, which tests as many rules.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from opslib.alerting import evaluation, evaluator
from opslib.alerting import verdicts as findings
from opslib.alerting.alerts import GRID_US, Alerts
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.simulation.demo_day import replay
from opslib.simulation.world import page
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore

PAIRS = 10_000
LASTS = timedelta(hours=6.5)  # The replayed part of the day, from the open.


def measure(folder: Path) -> Iterator[dict]:
    """Measure seconds of a replay with its reading, and of one evaluation."""
    desk, table = settings.Settings(home=folder, app="desk"), rules.load()
    store = Database(f"sqlite:///{folder / 'store.sqlite'}")
    script = replay._session_script(replay.DAY, 1)
    SnapshotStore(store).write(
        "desk", [Post(clock.micros(p.at), snapshot.read(p.body)) for p in page.posts(script)], known_at_ts=True
    )
    began, count = time.perf_counter(), 0
    made = evaluator.Evaluator(store, desk, table)
    upto_us = clock.micros(script.opens + LASTS)
    for at_us, _ in made.evaluate(clock.micros(script.opens), upto_us + GRID_US):
        count += at_us <= upto_us
    seconds = time.perf_counter() - began
    pairs = sum(len(rule.subjects) for rule in table.rules.values())
    rungs = sum(len(rule.subjects) * len(rule.thresholds) for rule in table.rules.values())
    yield {
        "what": "a day of two to three pages replayed",
        "seconds": round(seconds, 2),
        "reach_s": 3,
        "instants": count,
        "figures_judged": count * pairs,
        "rungs_judged": count * rungs,
    }

    plain = {
        name: rule
        for name, rule in table.without_budgets().rules.items()
        if evaluation.PAGE in rule.sources and name != "availability"
    }
    wide = {
        f"{name} {i}": (name, replace(rule, name=f"{name} {i}"))
        for i in range(PAIRS // sum(len(r.subjects) for r in plain.values()) + 1)
        for name, rule in plain.items()
    }
    big = replace(table, rules={key: rule for key, (_, rule) in wide.items()})
    at, alerts = script.closes - timedelta(hours=2), Alerts(big)
    counters = evaluator.Evaluator(store, desk, table)
    for _ in counters.evaluate(clock.micros(at) - GRID_US, clock.micros(at)):
        pass
    began = time.perf_counter()
    windows, found = evaluation.Windows(at, for_alerts=True), []
    for name, rule in wide.values():
        for subject in rule.subjects:
            figure = evaluation.measure_page(counters._counters, table, table[name], subject, windows, rule.window)
            found.append(findings.evaluate_figure(rule, subject, evaluation.PAGE, figure))
    alerts.advance(clock.micros(at), found)
    yield {
        "what": "rules and subjects evaluated at one instant",
        "pairs": len(found),
        "seconds": round(time.perf_counter() - began, 3),
        "reach_s": 1,
        "promtool_check_s": _promtool(folder, len(found)),
    }


def _promtool(folder: Path, count: int) -> float | None:
    """
    Return the seconds that promtool takes to evaluate as many threshold rules once, with its start.

    None if it is not installed.
    """
    promtool = shutil.which("promtool")
    if promtool is None:
        return None
    rows = "".join(f'  - alert: A{i}\n    expr: heat{{n="{i % 100}"}} > 10\n' for i in range(count))
    (folder / "rules.yml").write_text(f"groups:\n- name: g\n  rules:\n{rows}")
    series = "".join(f"  - {{series: 'heat{{n=\"{i}\"}}', values: '5'}}\n" for i in range(100))
    (folder / "test.yml").write_text(
        f"rule_files: [rules.yml]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n{series} "
        f" alert_rule_test:\n  - {{eval_time: 0m, alertname: A0}}\n"
    )
    began = time.perf_counter()
    subprocess.run([promtool, "test", "rules", "test.yml"], cwd=folder, check=True, capture_output=True)
    return round(time.perf_counter() - began, 2)
