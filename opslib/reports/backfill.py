"""
Make many reports at once, with several workers on this machine or on a Dask cluster.

Each report is one task and is claimed in the ledger. A report that a cluster starts twice is made once, and a report
that exists is not made again.
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
PATIENCE_S = 10  # The timeout for a cluster to respond.
MOST = 2000  # Eight years of daily reports; a longer range is a typing error.


@dataclass(frozen=True)
class Made:
    """One report: its day or period, its state (ok, incomplete, failed or `BEFORE`), the reason, and its path."""

    of: str
    state: str
    reason: str
    place: str


def period_names(name: str, given: str) -> list[str]:
    """
    Return the days or periods of a range, both ends included, such as ``2026-01-02..2026-03-31``.

    Raises:
        UsageError: The ends are not days or periods, or in the wrong order.
    """
    first, _, last = (part.strip() for part in given.partition(".."))
    if name == DAILY:
        begin, end = time_parsing.parse_day(first), time_parsing.parse_day(last)
        _check_order(given, begin, end)
        found = [str(day) for day in _days(begin, end) if market_calendar.session(day) is not None]
    else:
        kind = periods.REPORTS[name]
        at, begin_at = periods.parse(kind, last), periods.parse(kind, first)
        _check_order(given, begin_at.first, at.first)
        found = []
        while at.first >= begin_at.first and len(found) <= MOST:
            found.append(at.name)
            at = at.before
        found.reverse()
    if not found:
        raise UsageError(f"{given!r} contains no day with a session. {time_parsing.nearest_sessions(begin)}")
    if len(found) > MOST:
        raise UsageError(
            f"{given!r} contains more than {MOST} reports; at most {MOST} are allowed. Give a shorter range."
        )
    return found


def _check_order(given: str, first: date, last: date) -> None:
    if first > last:
        raise UsageError(f"{given!r} ends before it begins. Write the earlier one first.")


def _days(first: date, last: date) -> Iterator[date]:
    return (first + timedelta(days=n) for n in range((last - first).days + 1))


def make(workspace: Workspace, name: str, of: str, timeout_s: float, kernels: KernelPool | None = None) -> Made:
    """Make one report, unless it exists or another process is making it."""
    due = JobKey(f"report {name} {of}", clock.micros(workspace.now()), None, round(timeout_s * 1e6))
    options: dict[str, Any] = {
        "as_of": None,
        "known_at": None,
        "partial": False,
        "timeout_s": timeout_s,
        "due": due,
        "kernels": kernels,
    }
    try:
        outcome, place = (
            publishing.publish_daily(workspace, of, **options)
            if name == DAILY
            else publishing.publish_review(workspace, name, of, **options)
        )
        return Made(of, outcome.state, outcome.reason or "", str(place))
    except AlreadyMade:
        return Made(of, BEFORE, "", "")
    except OpsError as problem:
        return Made(of, "failed", workspace.settings.redact(str(problem)), "")


def make_locally(
    workspace: Workspace,
    name: str,
    ofs: list[str],
    workers: int,
    timeout_s: float,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> list[Made]:
    """Make reports with several workers on this machine; return them in order."""
    with with_kernel_pool(lambda: workspace) as (_, kernels), ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(make, workspace, name, of, timeout_s, kernels) for of in ofs]
        found = {m.of: m for m in (f.result() for f in progress(as_completed(running)))}
    return [found[of] for of in ofs]


def _make_on_worker(home: str, app: str, name: str, of: str, timeout_s: float) -> Made:
    """Make one report on a worker of a cluster, with the worker's settings."""
    return make(open_workspace(app, home), name, of, timeout_s)


def make_on_cluster(
    workspace: Workspace,
    url: str,
    name: str,
    ofs: list[str],
    timeout_s: float,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> list[Made]:
    """
    Make reports on a Dask cluster whose workers have the same home directory and database; return them in order.

    Raises:
        UsageError: Dask is not installed, or no scheduler responds at the URL.
    """
    try:
        from distributed import Client
        from distributed import as_completed as completed
    except ImportError:
        raise UsageError("--scheduler needs Dask, which is not installed. Run pip install -e '.[cluster]'.") from None
    try:
        client = Client(url, timeout=PATIENCE_S)
    except (OSError, ValueError) as problem:
        raise UsageError(
            f"no Dask scheduler responds at {url} ({problem.__class__.__name__}). Check the URL, or start one."
        ) from None
    with client:
        given = (str(workspace.settings.base), workspace.settings.app, name)
        running = [client.submit(_make_on_worker, *given, of, timeout_s, pure=False) for of in ofs]
        found = {m.of: m for m in (f.result() for f in progress(completed(running)))}
    return [found[of] for of in ofs]
