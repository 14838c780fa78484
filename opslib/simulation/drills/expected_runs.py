"""Read the expected run of each scenario: its runbook, the severity of the notification, and each step's result."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from opslib.runbooks.cases import deviations
from opslib.simulation.drills.scenarios import Scenario

FILE = Path(__file__).with_name("expected_runs.toml")


@dataclass(frozen=True)
class ExpectedRun:
    """
    The run that people agreed on for a scenario.

    Attributes:
        runbook: The runbook that is run; empty if no run was agreed on.
        severity: The severity that someone is notified of; empty if nobody is notified, ``*`` if it varies.
        results: Its steps in order, each with its result, as `cases.SIGNS`; ``*`` where it varies.
    """

    runbook: str = ""
    severity: str = ""
    results: tuple[tuple[str, str], ...] = ()

    def deviations(self, runbook: str, severity: str, results: Sequence[tuple[str, str]]) -> list[str]:
        """List the deviations of a run, as text; empty if there are none or no run was agreed on."""
        if not self.runbook:
            return []
        if runbook != self.runbook:
            return [f"ran runbook {runbook}, expected {self.runbook}"]
        notified = (
            [f"notified as {severity or 'nothing'}, expected {self.severity or 'nothing'}"]
            if self.severity not in ("*", severity)
            else []
        )
        return notified + deviations(self.results, results)


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def expected_run(scenario: Scenario) -> ExpectedRun:
    """
    Return the expected run of a scenario.

    It is empty for a scenario that affects only a share of the responses, since its run varies by chance.
    """
    found = _file()["scenarios"].get(scenario.name) if scenario.share == 1.0 else None
    if found is None:
        return ExpectedRun()
    steps = _file()["steps"][found["runbook"]].split()
    return ExpectedRun(found["runbook"], found["severity"], tuple(zip(steps, found["results"], strict=True)))
