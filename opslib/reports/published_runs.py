"""Read what runs of notebooks published: the newest of each report, with its verdict and its pages."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

REPORT, POSTMORTEM = "_report", "postmortem"


class PublishedRun(NamedTuple):
    """
    A report or a postmortem that was published.

    Attributes:
        title: Its name and its day, period or incident.
        verdict: The verdict in its numbers; empty if there is none.
        state: How the run ended, such as ok or failed.
        pages: Its HTML pages.
    """

    title: str
    verdict: str
    state: str
    pages: list[Path]

    @property
    def shown(self) -> str:
        """Its verdict; where there is none, how the run ended, unless it ended well."""
        return self.verdict or ("" if self.state == "ok" else self.state)


def newest(runs: Iterable[dict[str, Any]], app: str) -> list[PublishedRun]:
    """Return the reports and postmortems of an app, the newest run first; each of a day or period once."""
    found: dict[str, PublishedRun] = {}
    for run in sorted(runs, key=lambda r: str(r["started_at"]), reverse=True):
        name, given = Path(run["notebook"]).stem, run["parameters"]
        if not name.endswith((REPORT, POSTMORTEM)) or run["state"] == "running" or given.get("app", app) != app:
            continue
        of = str(given.get("day") or given.get("period") or given.get("incident") or "")
        title = f"{name.removesuffix(REPORT).capitalize()} {'of ' if name == POSTMORTEM else ''}{of}".strip()
        pages = [Path(p) for p in run["outputs"] if p.endswith(".html")]
        found.setdefault(title, PublishedRun(title, verdict(run["outputs"]), run["state"], pages))
    return list(found.values())


def dashboards(runs: Iterable[dict[str, Any]], app: str) -> list[Path]:
    """Return the pages of the dashboard notebook of an app, the newest first."""
    return [
        Path(place)
        for run in sorted(runs, key=lambda r: str(r["started_at"]), reverse=True)
        if Path(run["notebook"]).stem == "dashboard" and run["parameters"].get("app", app) == app
        for place in run["outputs"]
        if place.endswith(".html")
    ]


def verdict(outputs: Iterable[str]) -> str:
    """Return the verdict that a run published; empty if there is none, or its file cannot be read."""
    path = next((p for p in outputs if p.endswith(".json")), None)
    try:
        return str(json.loads(Path(path).read_text(encoding="utf-8"))["verdict"]) if path else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
