"""Name the place of a report and its earlier versions; make its pieces of text and its numbers for machines."""

import json
from datetime import date
from pathlib import Path
from typing import Any

from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import ReportRefused


def place(settings: Settings, name: str, day: date | str, partial: bool = False) -> Path:
    """Where the report of a day, or of what is named so, is published, without the ending."""
    return settings.outputs / "reports" / str(day)[:4] / f"{day}_{name}{'_partial' if partial else ''}"


def next_name(path: Path) -> str:
    """The name under which the published report steps back when a restatement takes its place: r1, r2 and so on."""
    n = 1
    while path.with_name(f"{path.name}.r{n}.json").exists():
        n += 1
    return f"r{n}"


def published(path: Path) -> dict[str, Any] | None:
    """
    The numbers of a published report, or None where there is none.

    Raises:
        ReportRefused: They cannot be read, so what changed could not be told.
    """
    try:
        earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return earlier
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise ReportRefused(
            f"the earlier report {path} cannot be read ({problem}); move it away, or restore it, so that what "
            f"changed can be told."
        ) from None
