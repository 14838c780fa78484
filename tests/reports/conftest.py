"""Provide the demo's desk at any moment of its day."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from opslib import desk
from opslib.desk import Desk
from opslib.foundation import time_parsing
from tests.support import demo


@pytest.fixture
def at(tmp_path: Path) -> Callable[[str], Desk]:
    """Return the demo's desk at a moment of its day."""
    found = demo.laid_out(tmp_path)

    def moment(when: str) -> Desk:
        now = time_parsing.parse(when)
        return replace(desk.open("demo", tmp_path), settings=found, now=lambda: now)

    return moment
