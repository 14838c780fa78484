"""Find the system packages that tests need, and the data beside the project."""

import os
import shutil
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"

RECORDED = SHARED / "data" / "app-day-2025-11-18"

REQUIRE_ALL = os.environ.get("OPS_TEST_REQUIRE") == "all"


def absent(what: str) -> None:
    """Skip a test without a system package; fail it if all packages are required (OPS_TEST_REQUIRE=all)."""
    if REQUIRE_ALL:
        pytest.fail(f"{what} is absent, and OPS_TEST_REQUIRE=all")
    pytest.skip(f"{what} is absent")


def needs(program: str) -> str:
    """Return the path of a program that a test needs."""
    found = shutil.which(program)
    if not found:
        absent(program)
    return str(found)
