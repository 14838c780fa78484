"""
Writes the ways that trials are walked, `opslib/demo/walks.toml`, from what ``ops drill --severity 100 -o json``
printed: what differs from seed to seed is told as ``*``, and stays so once it was seen; and so is how quick something
is, which in these hasty
worlds is how busy the machine is, but where slowness is what is drilled. Read what git shows of it before it is
committed: from then on it is what people agreed on.

    ops drill --severity 100 -o json > rows.json; python tests/support/agree_runs.py rows.json
"""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from opslib.runbooks.cases import ANY
from opslib.simulation.drills.expected_runs import FILE

HEAD = """# The way that each trial is walked, as people agreed on it: by which runbook, told as how bad, each step \
with how it stands.
# + as expected, - not as expected, ? unknown, . left to people, * differs from seed to seed.
# Written by tests/support/agree_runs.py from drilled rows, and read before it is committed.
"""


QUICK = ("massive_quick", "tradier_quick", "socket_quick", "app_quick")
SLOW = {"app_slow": "app_quick", "ws_port_blocked, app_slow": "app_quick"}


def one(found: set[str], before: str = "") -> str:
    """What all seeds say, or that they differ, now or before."""
    return found.pop() if len(found) == 1 and before != ANY else ANY


def agreed(rows: list[dict[str, Any]]) -> str:
    """The file."""
    trials: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["severity"] == 100:
            trials.setdefault(row["fault"], []).append(row)
    steps: dict[str, str] = {row["runbook"]: " ".join(step for step, _ in row["walk"]) for row in rows}
    held = tomllib.loads(FILE.read_text(encoding="utf-8"))
    lines = [HEAD, "[steps]", *(f"{name} = {json.dumps(steps[name])}" for name in sorted(steps)), "", "[trials]"]
    for name, drilled in trials.items():
        assert len({row["runbook"] for row in drilled}) == 1, (name, [(row["seed"], row["runbook"]) for row in drilled])
        runbook = drilled[0]["runbook"]
        was = held["trials"].get(name, {})
        before = dict(zip(held["steps"].get(was.get("runbook"), "").split(), was.get("walk", "")))
        order = [step for step, _ in drilled[0]["walk"]]
        signs = "".join(
            ANY
            if step in QUICK and SLOW.get(name) != step
            else one({row["walk"][i][1] for row in drilled}, before.get(step, ""))
            for i, step in enumerate(order)
        )
        lines.append(
            f'{json.dumps(name)} = {{ runbook = "{runbook}", told = '
            f'"{one({row["told"] for row in drilled}, was.get("told", ""))}", walk = "{signs}" }}'
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(
        agreed([row for path in sys.argv[1:] for row in json.loads(Path(path).read_text(encoding="utf-8"))]),
        encoding="utf-8",
    )
