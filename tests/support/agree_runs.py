"""
Write the expected runs of the scenarios, `opslib/simulation/drills/expected_runs.toml`, from drill results.

The input is what ``ops drill --severity 100 -o json`` printed. A result that differs between seeds becomes ``*`` and
stays so; so does a result that depends on how busy the machine is, except in scenarios about slowness. Review the diff
before you commit it: from then on it is the expected run.

    ops drill --severity 100 -o json > rows.json; python tests/support/agree_runs.py rows.json
"""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from opslib.runbooks.cases import ANY
from opslib.simulation.drills.expected_runs import FILE

HEAD = """\
# The expected run of each scenario, as people agreed on it: its runbook, the severity of the notification, and the
# result of each step.
# + passed, - failed, ? unknown, . left to a person, * varies from seed to seed.
# Written by tests/support/agree_runs.py from the rows of `ops drill`, and reviewed before it is committed.
"""


QUICK = ("massive_quick", "tradier_quick", "socket_quick", "app_quick")
SLOW = {"app_slow": "app_quick", "ws_port_blocked, app_slow": "app_quick"}


def one(found: set[str], before: str = "") -> str:
    """Return the result that all seeds agree on, else ``*``; also ``*`` where it was before."""
    return found.pop() if len(found) == 1 and before != ANY else ANY


def expected_runs(rows: list[dict[str, Any]]) -> str:
    """Return the content of the file."""
    scenarios: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["severity"] == 100:
            scenarios.setdefault(row["fault"], []).append(row)
    steps: dict[str, str] = {row["runbook"]: " ".join(step for step, _ in row["run"]) for row in rows}
    old = tomllib.loads(FILE.read_text(encoding="utf-8"))
    lines = [HEAD, "[steps]", *(f"{name} = {json.dumps(steps[name])}" for name in sorted(steps)), "", "[scenarios]"]
    for name, drilled in scenarios.items():
        assert len({row["runbook"] for row in drilled}) == 1, (name, [(row["seed"], row["runbook"]) for row in drilled])
        runbook = drilled[0]["runbook"]
        was = old["scenarios"].get(name, {})
        before = dict(zip(old["steps"].get(was.get("runbook"), "").split(), was.get("results", "")))
        order = [step for step, _ in drilled[0]["run"]]
        signs = "".join(
            ANY
            if step in QUICK and SLOW.get(name) != step
            else one({row["run"][i][1] for row in drilled}, before.get(step, ""))
            for i, step in enumerate(order)
        )
        lines.append(
            f'{json.dumps(name)} = {{ runbook = "{runbook}", severity = '
            f'"{one({row["notified_severity"] for row in drilled}, was.get("severity", ""))}", results = "{signs}" }}'
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(
        expected_runs([row for path in sys.argv[1:] for row in json.loads(Path(path).read_text(encoding="utf-8"))]),
        encoding="utf-8",
    )
