"""
Writes the ways that trials are walked, `opslib/demo/walks.toml`, from what ``ops drill --severity 100 -o json`` printed: what
differs from seed to seed is told as ``*``. Read what git shows of it before it is committed: from then on it is what people
agreed on.

    ops drill --severity 100 -o json > rows.json; python tests/agree_walks.py rows.json
"""

import json
import sys
from pathlib import Path
from typing import Any

from opslib.case import ANY
from opslib.demo.walks import FILE

HEAD = """# The way that each trial is walked, as people agreed on it: by which runbook, told as how bad, each step with how it stands.
# + as expected, - not as expected, ? unknown, . left to people, * differs from seed to seed.
# Written by tests/agree_walks.py from drilled rows, and read before it is committed.
"""


def one(found: set[str]) -> str:
    """What all seeds say, or that they differ."""
    return found.pop() if len(found) == 1 else ANY


def agreed(rows: list[dict[str, Any]]) -> str:
    """The file."""
    trials: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["severity"] == 100:
            trials.setdefault(row["fault"], []).append(row)
    steps: dict[str, str] = {row["runbook"]: " ".join(step for step, _ in row["walk"]) for row in rows}
    lines = [HEAD, "[steps]", *(f"{name} = {json.dumps(steps[name])}" for name in sorted(steps)), "", "[trials]"]
    for name, drilled in trials.items():
        assert len({row["runbook"] for row in drilled}) == 1, (name, [(row["seed"], row["runbook"]) for row in drilled])
        signs = "".join(one({row["walk"][i][1] for row in drilled}) for i in range(len(drilled[0]["walk"])))
        lines.append(f'{json.dumps(name)} = {{ runbook = "{drilled[0]["runbook"]}", told = "{one({row["told"] for row in drilled})}", walk = "{signs}" }}')
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(agreed([row for path in sys.argv[1:] for row in json.loads(Path(path).read_text(encoding="utf-8"))]), encoding="utf-8")
