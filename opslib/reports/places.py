"""Name the files of a report and of its earlier versions, and read published numbers."""

import json
from datetime import date
from pathlib import Path
from typing import Any

from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import ReportRefused


def place(settings: Settings, name: str, day: date | str, partial: bool = False) -> Path:
    """Return the path of the report of a day or period, without the suffix."""
    return settings.outputs / "reports" / str(day)[:4] / f"{day}_{name}{'_partial' if partial else ''}"


def incident(settings: Settings, name: str) -> Path:
    """Return the folder of an incident."""
    return settings.outputs / "incidents" / name


def next_name(path: Path) -> str:
    """Return the suffix that the published report gets when a restatement replaces it: r1, r2 and so on."""
    n = 1
    while path.with_name(f"{path.name}.r{n}.json").exists():
        n += 1
    return f"r{n}"


def published(path: Path) -> dict[str, Any] | None:
    """
    Return the numbers of a published report, or None if there is none.

    Raises:
        ReportRefused: They cannot be read, so changes cannot be listed.
    """
    try:
        earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return earlier
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise ReportRefused(
            f"the earlier report {path} cannot be read ({problem}), so changes cannot be listed. Restore it, or move "
            f"it away."
        ) from None
