"""
Execute the notebook of a report and publish it as notebook, HTML, Markdown and JSON.

A report covers a trading day (daily) or a period (weekly, monthly, quarterly, annual, success).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.foundation import formatting, market_calendar, periods, time_parsing
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import ReportRefused, UsageError
from opslib.jobs import executor, record
from opslib.jobs.executor import Outcome
from opslib.jobs.ledger import JobKey
from opslib.reports import annual, daily, monthly, periodic, places, quarterly, success
from opslib.reports.periodic import PeriodicReport

if TYPE_CHECKING:
    from opslib.jobs.kernels import KernelPool

REVIEWS: dict[str, type[PeriodicReport]] = {
    "weekly": periodic.PeriodicReport,
    "monthly": monthly.Monthly,
    "quarterly": quarterly.Quarterly,
    "annual": annual.Annual,
    "success": success.Success,
}


def review(
    workspace: Workspace,
    name: str,
    period: str = "",
    as_of: str | datetime | None = None,
    known_at: str | datetime | None = None,
) -> PeriodicReport:
    """
    Return a report over several trading days.

    Args:
        name: The report: weekly, monthly, quarterly, annual or success.
        period: Such as ``2026-W11``, ``2026-03``, ``2026-Q1``, ``2026``; for success the last of seven days. Empty is
            the last period that has ended.
        as_of: Use only sessions that had closed by then; None is now.
        known_at: Use only data that was in the database by then; None is all data.

    Raises:
        UsageError: There is no such report or period.
        ReportRefused: The period has not begun.
    """
    kind, made = _review(name)
    at = time_parsing.instant_of(as_of)
    return made(
        workspace,
        periods.parse(kind, period) if period else periods.last_over(kind, at or workspace.now()),
        at,
        time_parsing.instant_of(known_at),
    )


def review_of(workspace: Workspace, name: str, day: str, as_of: str | None = None) -> PeriodicReport:
    """Return a report over the period that contains a day."""
    kind, made = _review(name)
    return made(workspace, periods.of(kind, time_parsing.parse_day(day)), time_parsing.instant_of(as_of))


def _review(name: str) -> tuple[str, type[PeriodicReport]]:
    """Return the kind of period of a report, and its class."""
    if name not in REVIEWS:
        raise UsageError(
            f"there is no report {name!r}. Reports: {daily.NAME}, {', '.join(REVIEWS)}"
            f".{formatting.nearest(name, REVIEWS)}"
        )
    return periods.REPORTS[name], REVIEWS[name]


def publish_daily(
    workspace: Workspace,
    day: str | date | None,
    *,
    as_of: str | None,
    known_at: str | None,
    partial: bool,
    timeout_s: float,
    due: JobKey | None = None,
    kernels: "KernelPool | None" = None,
    made_meanwhile: Sequence[Path] = (),
) -> tuple[Outcome, Path]:
    """
    Execute the notebook of the daily report and publish it.

    Args:
        due: The job key, if the schedule starts it; a complete report made by hand also completes its job.
        kernels: The pool of preloaded kernels; None starts a plain kernel.
        made_meanwhile: Pages of incidents and postmortems that are made at the same time; the report links to them.

    Returns:
        The outcome, and the path of the report without its suffix.

    Raises:
        ReportRefused: The day has no session, or has not closed and no partial report was asked for.
        AlreadyMade: Another process has made the report, or is making it.
    """
    meant = daily.meant_day(workspace, day, as_of)
    session, at = market_calendar.session(meant), time_parsing.instant_of(as_of) or workspace.now()
    if session is None:
        raise ReportRefused(
            f"there is no daily report of {meant}, a {meant:%A} without a session. "
            f"{time_parsing.nearest_sessions(meant)}"
        )
    early = at < session.closes
    if early and not partial:
        raise ReportRefused(
            f"the report of {meant} cannot be made yet: the session closes at {formatting.moment(session.closes)}. "
            f"Wait, or use --partial."
        )
    given = {"app": workspace.settings.app, "day": str(meant)}
    given |= {"as_of": formatting.iso(at)} if early else {}
    given |= {"known_at": formatting.iso(known)} if (known := time_parsing.instant_of(known_at)) else {}
    whole = JobKey(f"report {daily.NAME} {meant}") if not early and not known_at else None
    return _published(workspace, daily.NAME, given, meant, timeout_s, due or whole, kernels, made_meanwhile)


def publish_review(
    workspace: Workspace,
    name: str,
    period: str,
    *,
    as_of: str | None,
    known_at: str | None,
    partial: bool,
    timeout_s: float,
    due: JobKey | None = None,
    kernels: "KernelPool | None" = None,
) -> tuple[Outcome, Path]:
    """
    Execute the notebook of a report over a period and publish it.

    Arguments and results are those of `publish_daily`.

    Raises:
        ReportRefused: The period has not ended and no partial report was asked for.
    """
    at = time_parsing.instant_of(as_of) or workspace.now()
    meant = review(workspace, name, period, at, known_at)
    if meant.partial and not partial:
        raise ReportRefused(
            f"the {name} report of {meant.period.name} cannot be made yet: the period ends at "
            f"{formatting.moment(meant.period.window.end)}. Wait, or use --partial."
        )
    given = {"app": workspace.settings.app, "period": meant.period.name} | (
        {"as_of": formatting.iso(at)} if meant.partial else {}
    )
    given |= {"known_at": formatting.iso(known)} if (known := time_parsing.instant_of(known_at)) else {}
    whole = JobKey(f"report {name} {meant.period.name}") if not meant.partial and not known_at else None
    return _published(workspace, name, given, meant.period.name, timeout_s, due or whole, kernels)


def _published(
    workspace: Workspace,
    name: str,
    given: dict[str, Any],
    of: date | str,
    timeout_s: float,
    due: JobKey | None,
    kernels: "KernelPool | None",
    made_meanwhile: Sequence[Path] = (),
) -> tuple[Outcome, Path]:
    """Execute a report's notebook and publish the result."""
    notebook = f"{name}_report"
    outcome = executor.execute(
        executor.notebook(notebook),
        given,
        settings=workspace.settings,
        store=workspace.store,
        timeout_s=timeout_s,
        due=due,
        kernels=kernels,
        made_meanwhile=made_meanwhile,
    )
    if outcome.state == "failed" or outcome.record is None:
        lacking = (
            outcome
            if outcome.state == "failed"
            else replace(
                outcome, state="failed", reason="the notebook returned no numbers (no report.record in its last cell)"
            )
        )
        return executor.publish_run(
            lacking,
            workspace.settings.outputs / "runs" / outcome.run_id / notebook,
            settings=workspace.settings,
            store=workspace.store,
        )
    values = outcome.record["values"]
    more = {".json": record.as_json(values).encode(), ".md": outcome.record["markdown"].encode()}
    return executor.publish_run(
        outcome,
        places.place(workspace.settings, name, of, values["partial"]),
        more,
        values["restates"],
        settings=workspace.settings,
        store=workspace.store,
    )
