"""Read the expected run of each trial, as people agreed on it: by which runbook, how bad, and each step's result."""

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
class Agreed:
    """
    The way that was agreed on.

    Attributes:
        runbook: Which is walked; empty is that nobody agreed on any.
        told: The severity that somebody is told of; empty is that nobody is, ``*`` that it differs.
        walk: Its steps in order, each with how it stands, as `cases.SIGNS`; ``*`` where that differs.
    """

    runbook: str = ""
    told: str = ""
    walk: tuple[tuple[str, str], ...] = ()

    def strayed(self, runbook: str, told: str, walk: Sequence[tuple[str, str]]) -> list[str]:
        """By what did it go another way? In words; nothing where nobody agreed on any."""
        if not self.runbook:
            return []
        if runbook != self.runbook:
            return [f"runbook {runbook} was walked, not {self.runbook}"]
        how = (
            [f"somebody was told of it as {told or 'nothing'}, agreed was {self.told or 'nothing'}"]
            if self.told not in ("*", told)
            else []
        )
        return how + deviations(self.walk, walk)


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def agreed(trial: Scenario) -> Agreed:
    """
    The way that was agreed on for a trial; nothing for one that hits only a share of what is answered, which differs by
    chance.
    """
    found = _file()["trials"].get(trial.name) if trial.share == 1.0 else None
    if found is None:
        return Agreed()
    steps = _file()["steps"][found["runbook"]].split()
    return Agreed(found["runbook"], found["told"], tuple(zip(steps, found["walk"], strict=True)))
