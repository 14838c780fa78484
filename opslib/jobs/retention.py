"""
Delete the files of old runs.

Only files under ``APP/runs`` are deleted. Reports, incidents, checklists, the database and its ledger stay, and so do
the files of runs that an incident, a checklist or a report refers to.
"""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa

from opslib.foundation import clock
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.storage.schema import ENTRIES
from opslib.jobs import ledger

EVERY_US = 86_400_000_000  # The interval between two sweeps.


def sweep_daily(workspace: Workspace) -> list[str]:
    """Run `sweep` if it has not run for a day."""
    key, now_us = f"swept:{workspace.settings.app}", clock.micros(workspace.now())
    last_us = int(workspace.store.recall(key) or 0)
    if 0 <= now_us - last_us < EVERY_US:
        return []
    workspace.store.remember(key, str(now_us))
    return sweep(workspace)


def sweep(workspace: Workspace) -> list[str]:
    """
    Delete the files of runs beyond the age limit, then of the oldest runs until the size limit is met.

    Both limits are settings: ``keep_runs_days`` and ``keep_runs_mb``.

    Returns:
        The ids of the runs whose files were deleted; the ledger keeps their rows.
    """
    folder, keep, most_bytes = (
        workspace.settings.outputs / "runs",
        timedelta(days=workspace.settings.keep_runs_days),
        workspace.settings.keep_runs_mb * 1e6,
    )
    now, cited = workspace.now(), _cited(workspace)
    ended = {
        row["id"]: row["ended_at_us"] for row in ledger.all_rows(workspace.store) if row["ended_at_us"] is not None
    }
    there = (
        sorted((ended[p.name], p) for p in folder.iterdir() if p.is_dir() and p.name in ended)
        if folder.is_dir()
        else []
    )
    sizes = {p: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for _, p in there}
    total, gone = sum(sizes.values()), []
    for at_us, path in there:
        old = now - clock.instant(at_us) > keep
        if (old or total > most_bytes) and path.name not in cited:
            shutil.rmtree(path)
            total -= sizes[path]
            gone.append(path.name)
    return gone


def _cited(workspace: Workspace) -> set[str]:
    """Return the runs that an incident, a checklist or a report refers to."""
    ids = {row["id"] for row in ledger.all_rows(workspace.store)}
    return {word for text in _texts(workspace) for word in ids if word in text}


def _texts(workspace: Workspace) -> Iterator[str]:
    with workspace.store.reading() as connection:
        yield "\n".join(
            connection.execute(sa.select(ENTRIES.c.line).where(ENTRIES.c.app == workspace.settings.app)).scalars()
        )
    for path in _written(workspace.settings.outputs):
        yield path.read_text(encoding="utf-8", errors="replace")


def _written(outputs: Path) -> Iterator[Path]:
    for folder in ("reports", "incidents", "checklists"):
        yield from (p for ending in ("json", "md", "jsonl") for p in (outputs / folder).rglob(f"*.{ending}"))
