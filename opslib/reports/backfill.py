"""
Make many reports at once: here, by several workers, or on a Dask cluster.

One report is the unit. Each is claimed in the ledger, so that one which a cluster hands out twice is made once, and
what was made before stays.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from opslib.foundation import clock, market_calendar, periods, time_parsing
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.config.workspace import open as open_workspace
from opslib.foundation.errors import AlreadyMade, OpsError, UsageError
from opslib.jobs.kernels import KernelPool, with_kernel_pool
from opslib.jobs.ledger import JobKey
from opslib.jobs.schedule import DAILY
from opslib.reports import publishing

BEFORE = "made before"
PATIENCE_S = 10  # For a cluster to answer.
MOST = 2000  # More reports than eight years have are a slip of the pen.


@dataclass(frozen=True)
class Made:
    """One report: of what, how it ended (ok, incomplete, failed, or `BEFORE`), why, and where it is without ending."""

    of: str
    state: str
    reason: str
    place: str


def span(name: str, told: str) -> list[str]:
    """
    Of which days or periods are the reports from one to another, both inside, such as ``2026-01-02..2026-03-31``?

    Raises:
        UsageError: They are no days or periods, or in the wrong order.
    """
    first, _, last = (part.strip() for part in told.partition(".."))
    if name == DAILY:
        begin, end = time_parsing.parse_day(first), time_parsing.parse_day(last)
        _ordered(told, begin, end)
        found = [str(day) for day in _days(begin, end) if market_calendar.session(day) is not None]
    else:
        kind = periods.REPORTS[name]
        at, begin_at = periods.parse(kind, last), periods.parse(kind, first)
        _ordered(told, begin_at.first, at.first)
        found = []
        while at.first >= begin_at.first and len(found) <= MOST:
            found.append(at.name)
            at = at.before
        found.reverse()
    if not found:
        raise UsageError(f"{told!r} holds no day with a session. {time_parsing.neighbours(begin)}")
    if len(found) > MOST:
        raise UsageError(f"{told!r} holds more than {MOST} reports; 1 to {MOST} were wanted.")
    return found


def _ordered(told: str, first: date, last: date) -> None:
    if first > last:
        raise UsageError(f"{told!r} ends before it begins; write the earlier one first.")


def _days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=n) for n in range((last - first).days + 1))


def made(workspace: Workspace, name: str, of: str, timeout_s: float, kernels: KernelPool | None = None) -> Made:
    """One report, made unless it was, or is being made elsewhere."""
    due = JobKey(f"report {name} {of}", clock.micros(workspace.now()), None, round(timeout_s * 1e6))
    told: dict[str, Any] = {
        "as_of": None,
        "known_at": None,
        "partial": False,
        "timeout_s": timeout_s,
        "due": due,
        "kernels": kernels,
    }
    try:
        outcome, place = (
            publishing.publish_daily(workspace, of, **told)
            if name == DAILY
            else publishing.publish_review(workspace, name, of, **told)
        )
        return Made(of, outcome.state, outcome.reason or "", str(place))
    except AlreadyMade:
        return Made(of, BEFORE, "", "")
    except OpsError as problem:
        return Made(of, "failed", workspace.settings.redact(str(problem)), "")


def here(
    workspace: Workspace,
    name: str,
    ofs: list[str],
    workers: int,
    timeout_s: float,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> list[Made]:
    """Reports by so many workers on this machine; in order."""
    with with_kernel_pool(lambda: workspace) as (_, kernels), ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(made, workspace, name, of, timeout_s, kernels) for of in ofs]
        found = {m.of: m for m in (f.result() for f in progress(as_completed(running)))}
    return [found[of] for of in ofs]


def _there(home: str, app: str, name: str, of: str, timeout_s: float) -> Made:
    """One report on a worker of a cluster, by its own settings."""
    return made(open_workspace(app, home), name, of, timeout_s)


def there(
    workspace: Workspace,
    url: str,
    name: str,
    ofs: list[str],
    timeout_s: float,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> list[Made]:
    """
    Reports on a Dask cluster, whose workers have the same home and store; in order.

    Raises:
        UsageError: Dask is not installed, or nobody answers there.
    """
    try:
        from distributed import Client
        from distributed import as_completed as completed
    except ImportError:
        raise UsageError("--scheduler needs Dask: pip install -e '.[cluster]'.") from None
    try:
        client = Client(url, timeout=PATIENCE_S)
    except (OSError, ValueError) as problem:
        raise UsageError(f"no Dask scheduler answers at {url} ({problem.__class__.__name__}).") from None
    with client:
        given = (str(workspace.settings.base), workspace.settings.app, name)
        running = [client.submit(_there, *given, of, timeout_s, pure=False) for of in ofs]
        found = {m.of: m for m in (f.result() for f in progress(completed(running)))}
    return [found[of] for of in ofs]
