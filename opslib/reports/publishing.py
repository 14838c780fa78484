"""
Execute the notebook of a report and publish what came of it: notebook, HTML, Markdown, JSON.

A report is of a trading day (daily) or of a period (weekly, monthly, quarterly, annual, success).
"""

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
    A report over some trading days.

    Args:
        name: Of the report: weekly, monthly, quarterly, annual, success.
        period: Such as ``2026-W11``, ``2026-03``, ``2026-Q1``, ``2026``; of success the last of seven days. Empty is
            the last that is over.

    Raises:
        UsageError: No such report, or it is of no such period.
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
    """A report over the period that a day is in."""
    kind, made = _review(name)
    return made(workspace, periods.of(kind, time_parsing.parse_day(day)), time_parsing.instant_of(as_of))


def _review(name: str) -> tuple[str, type[PeriodicReport]]:
    """The kind of period that a report is over, and its class."""
    if name not in REVIEWS:
        raise UsageError(
            f"there is no report {name!r}; there are: {daily.NAME}, {', '.join(REVIEWS)}"
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
) -> tuple[Outcome, Path]:
    """
    Execute the daily report's notebook and publish it.

    Args:
        due: What it is due as, where a schedule makes it; a whole one made by hand is what was due, too.
        kernels: Where kernels come from that need not import anything first; None begins one in the plain way.

    Returns:
        How it ended, and where it is, without ending.

    Raises:
        ReportRefused: A day without a session; or before the close, unless a partial one was asked for.
        AlreadyMade: What is due is made, or being made, by somebody else.
    """
    meant = daily.meant_day(workspace, day, as_of)
    session, at = market_calendar.session(meant), time_parsing.instant_of(as_of) or workspace.now()
    if session is None:
        raise ReportRefused(
            f"a daily report of {meant} was wanted, a {meant:%A} without a session. {time_parsing.neighbours(meant)}"
        )
    early = at < session.closes
    if early and not partial:
        raise ReportRefused(
            f"a report of {meant} was wanted; its session closes only at {formatting.moment(session.closes)}. Wait, "
            f"or ask for --partial."
        )
    given = {"app": workspace.settings.app, "day": str(meant)}
    given |= {"as_of": formatting.iso(at)} if early else {}
    given |= {"known_at": formatting.iso(known)} if (known := time_parsing.instant_of(known_at)) else {}
    whole = JobKey(f"report {daily.NAME} {meant}") if not early and not known_at else None
    return _published(workspace, daily.NAME, given, meant, timeout_s, due or whole, kernels)


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
    Execute the notebook of a report over a period and publish it; as `publish_daily`.

    Raises:
        ReportRefused: The period is not over, unless a partial one was asked for.
    """
    at = time_parsing.instant_of(as_of) or workspace.now()
    meant = review(workspace, name, period, at, known_at)
    if meant.partial and not partial:
        raise ReportRefused(
            f"the {name} report of {meant.period.name} was wanted; it is over only at "
            f"{formatting.moment(meant.period.window.end)}. Wait, or ask for --partial."
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
) -> tuple[Outcome, Path]:
    """Execute a report's notebook, and put what came of it in its place."""
    book = f"{name}_report"
    outcome = executor.execute(
        executor.notebook(book),
        given,
        settings=workspace.settings,
        store=workspace.store,
        timeout_s=timeout_s,
        due=due,
        kernels=kernels,
    )
    if outcome.state == "failed" or outcome.record is None:
        lacking = (
            outcome
            if outcome.state == "failed"
            else replace(outcome, state="failed", reason="the notebook handed over no numbers")
        )
        return executor.publish_run(
            lacking,
            workspace.settings.outputs / "runs" / outcome.run_id / book,
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
