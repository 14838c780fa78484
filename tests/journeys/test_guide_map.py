"""Test the map of the guide: every requirement has a row with its implementation."""

import csv
import importlib
import re
from pathlib import Path

import pytest

from tests.support.system import SHARED

PROJECT = Path(__file__).parents[2]
ROWS = list(csv.DictReader((PROJECT / "tests" / "guide_map.csv").read_text(encoding="utf-8").splitlines()))
GUIDE = SHARED / "operations-guide.md"


def test_every_implementation_exists() -> None:
    """Each row names a callable or a document that exists."""
    for row in ROWS:
        answer = row["answer"]
        if answer.startswith("document:"):
            assert (PROJECT / answer.removeprefix("document:")).is_file(), answer
        else:
            module, _, name = answer.partition(":")
            assert callable(getattr(importlib.import_module(module), name)), answer


def test_rows_are_numbered_per_section() -> None:
    """Within a section the rows are numbered 1, 2, 3, … and no requirement is repeated."""
    sections: dict[str, list[int]] = {}
    for row in ROWS:
        sections.setdefault(row["section"], []).append(int(row["ordinal"]))
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in sections.values())
    assert len({(r["section"], r["asks"]) for r in ROWS}) == len(ROWS)


def test_every_section_of_the_guide_has_rows() -> None:
    """A section has at least as many rows as its heading in the guide has boxes, numbered lines and table rows."""
    if not GUIDE.is_file():
        pytest.skip("the guide is not beside the project")
    asked: dict[str, int] = {}
    heading = ""
    for line in GUIDE.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"#{2,4} (.+)", line):
            heading = found[1]
        elif re.match(r"(- \[ \]|\d+\.|\| [A-Z].*[<>]) ?", line):
            asked[heading] = asked.get(heading, 0) + 1
    for name, lines in asked.items():
        rows = [r for r in ROWS if name in r["section"].split(" / ") or name.split(":")[0] in r["section"]]
        assert len(rows) >= lines, f"{name}: {len(rows)} rows for {lines} lines of the guide"
