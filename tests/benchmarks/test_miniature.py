"""
Run each benchmark with the smallest sizes, so that none breaks unnoticed.

The figures of such a run mean nothing; run ``python -m tests.benchmarks NAME`` for real ones.
"""

import json
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import browser, chains, collected, commit, dashboard, month, receiver, replay, reports, status
from tests.benchmarks.__main__ import MEASURES
from tests.support import demo
from tests.support.system import needs

A_FEW_POSTS = {"EVERY_S": 1800, "PER_DAY": 48}
# The size constants of each benchmark, as small as possible.
SMALLEST: dict[str, list[tuple[Any, dict[str, Any]]]] = {
    "status": [(status, {"RUNS": 1, "DAYS": (1,)}), (month, A_FEW_POSTS)],
    "commit": [(commit, {"COMMITS": 10})],
    "receiver": [(receiver, {"POSTS": 60, "BEFORE": 20, "CONNECTIONS": 4})],
    "replay": [(replay, {"PAIRS": 20, "LASTS": timedelta(minutes=1)})],
    "collected": [
        (collected, {"LASTS": timedelta(minutes=5), "SPEED": 30.0, "EACH": timedelta(minutes=2), "SETTLE_S": 0.5})
    ],
    "chains": [(chains, {"COUNT": 400, "EXPIRATIONS": 2, "BESIDE": 20})],
    "reports": [(reports, {"COUNT": 3, "EACH": 1, "MONTH": 4}), (month, A_FEW_POSTS)],
    "dashboard": [(dashboard, {"UPDATES": 2, "MANY": 200})],
    "browser": [
        (browser, {"MINUTES": 1.0, "MINUTE_S": 0.5, "EVERY_S": 1, "SETTLED_S": 1, "STILL_S": 1}),
        (
            browser,
            {"CELLS": {name: cell for name, cell in browser.CELLS.items() if name not in ("live, ten views", "PNG")}},
        ),
    ],
}


SLOW = ("browser", "collected", "dashboard", "reports")  # These start kernels, a browser or a simulated world.


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in MEASURES])
def test_each_benchmark_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each benchmark runs to its end, and every row that it returns is JSON with a figure."""
    if name == "browser":
        needs("chromium")
    if name == "dashboard":  # The demo's day already exists.
        shutil.copytree(demo.laid_out(tmp_path / "template").home, tmp_path / "bench" / "demo")
    for module, sizes in SMALLEST[name]:
        for constant, value in sizes.items():
            monkeypatch.setattr(module, constant, value)
    (tmp_path / "bench").mkdir(exist_ok=True)
    rows = list(MEASURES[name](tmp_path / "bench"))
    assert rows
    for row in rows:
        assert json.loads(json.dumps(row)) and any(isinstance(value, (int, float)) for value in row.values()), row


def test_all_benchmarks_are_listed() -> None:
    """Every benchmark module can be run by its name."""
    modules = {p.stem for p in Path(__file__).parent.glob("*.py") if "def measure" in p.read_text(encoding="utf-8")}
    assert modules - {Path(__file__).stem} == set(MEASURES) == set(SMALLEST)
