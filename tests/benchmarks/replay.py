"""
A recorded day replayed through the rules, and ten thousand rules and subjects at one instant; beside them, promtool
testing as many rules.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from opslib import clock, findings, rules, settings, snapshot, watch
from opslib.alerts import GRID_US, Alerts
from opslib.demo import page, tour
from opslib.snapshot_store import Post, SnapshotStore
from opslib.store import Store

PAIRS = 10_000


def measure(folder: Path) -> Iterator[dict]:
    """Seconds of a replay with its reading, and of one instant."""
    desk, table = settings.Settings(home=folder, app="desk"), rules.load()
    store = Store(f"sqlite:///{folder / 'store.sqlite'}")
    script = tour._session_script(tour.DAY, 1)
    SnapshotStore(store).write(
        "desk", [Post(clock.micros(p.at), snapshot.read(p.body)) for p in page.posts(script)], known_at_ts=True
    )
    began, count = time.perf_counter(), 0
    made = watch.Watch(store, desk, table)
    for at_us, _ in made.judge(clock.micros(script.opens), clock.micros(script.closes) + GRID_US):
        count += at_us <= clock.micros(script.closes)
    seconds = time.perf_counter() - began
    pairs = sum(len(rule.subjects) for rule in table.rules.values())
    rungs = sum(len(rule.subjects) * len(rule.ladder) for rule in table.rules.values())
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
        if findings.SOURCE in rule.sources and name != "availability"
    }
    wide = {
        f"{name} {i}": (name, replace(rule, name=f"{name} {i}"))
        for i in range(PAIRS // sum(len(r.subjects) for r in plain.values()) + 1)
        for name, rule in plain.items()
    }
    big = replace(table, rules={key: rule for key, (_, rule) in wide.items()})
    at, alerts = script.closes - timedelta(hours=2), Alerts(big)
    tape = watch.Watch(store, desk, table)
    for _ in tape.judge(clock.micros(at) - GRID_US, clock.micros(at)):
        pass
    began = time.perf_counter()
    windows, found = findings.Windows(at, judging=True), []
    for name, rule in wide.values():
        for subject in rule.subjects:
            figure = findings.observe(tape._tape, table, table[name], subject, windows, rule.window)
            found.append(findings.judge(rule, subject, findings.SOURCE, figure))
    alerts.advance(clock.micros(at), found)
    yield {
        "what": "rules and subjects judged at one instant",
        "pairs": len(found),
        "seconds": round(time.perf_counter() - began, 3),
        "reach_s": 1,
        "promtool_check_s": _promtool(folder, len(found)),
    }


def _promtool(folder: Path, count: int) -> float | None:
    """
    Seconds that promtool takes to evaluate as many threshold rules once, its start included; None where it is not
    installed.
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
