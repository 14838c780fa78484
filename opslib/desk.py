"""
This module knows what one desk is (its settings, its store, its limits) and what can be asked of it, and nothing else.

Notebooks, the shell and the receiver's neighbours all ask here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib import alertlog, clock, daily, panels, report, rules as rules_module, runner, settings as settings_module, text
from opslib.alertlog import AlertLog
from opslib.clock import Window
from opslib.daily import Daily
from opslib.errors import NotebookFailed, ReportRefused, UsageError
from opslib.panels import View
from opslib.rules import Rules
from opslib.runner import Outcome
from opslib.settings import Settings
from opslib.store import Store

if TYPE_CHECKING:
    import pandas

FIGURE_COLUMNS = ("ts", "known_at", "page")


def notebook(name: str) -> Path:
    """
    Where is one of the suite's own notebooks?

    Raises:
        NotebookFailed: The package was installed without its notebooks.
    """
    folder = settings_module.project()
    if folder is None:
        raise NotebookFailed("the suite's notebooks stand in its project folder, which is not here. Install it with pip install -e . from a clone.")
    return folder / "notebooks" / f"{name}.ipynb"


@dataclass(frozen=True)
class Desk:
    """
    One desk: everything that is asked of an app goes through here.

    Attributes:
        settings: Where it is.
        now: What time it is; only the demo gives another one.
    """

    settings: Settings
    now: Callable[[], datetime] = clock.now

    @cached_property
    def store(self) -> Store:
        """Its facts."""
        return Store(self.settings.url, self.now)

    @cached_property
    def rules(self) -> Rules:
        """The limits in force."""
        return rules_module.load(self.settings.base)

    def status(self, as_of: str | datetime | None = None, window: str = "1h", known_at: str | datetime | None = None) -> View:
        """
        How does everything stand, as of a moment?

        Args:
            as_of: ISO 8601, without an offset New York; empty is now.
            window: Its length, such as ``1h``.
            known_at: Only what was known by then; empty is all that is known.
        """
        return panels.status(self.store, self.settings, self.rules, as_of=_moment(as_of) or self.now(), length=clock.parse_span(window), known_at=_moment(known_at))

    def alerts(
        self, as_of: str | datetime | None = None, window: str = "7d", known_at: str | datetime | None = None, *, since: str | datetime | None = None, replay: bool = False, progress: Callable[[Iterable], Iterable] = lambda items: items
    ) -> AlertLog:
        """
        What did alerts do?

        Args:
            as_of: The moment of the log; empty is now.
            window: How far it looks back from there, such as ``7d``; or from `since`.
            known_at: Only what was known, or on record, by then; empty is all.
            replay: Judge anew, by the data and rules now at hand, instead of reading the record.
            progress: Wraps the instants of a replay.
        """
        end, begin = _moment(as_of) or self.now(), _moment(since)
        asked = Window(begin, end) if begin else Window.before(end, clock.parse_span(window))
        return alertlog.alertlog(self.store, self.settings, self.rules, asked, known_at=_moment(known_at), replay=replay, progress=progress)

    def daily_report(self, day: str | date | None = None, as_of: str | datetime | None = None, known_at: str | datetime | None = None) -> Daily:
        """What happened on a trading day? The last one that has closed, where none is named."""
        return daily.daily(self.store, self.settings, self.rules, self.day(day, as_of), as_of=_moment(as_of), known_at=_moment(known_at))

    def day(self, day: str | date | None, as_of: str | datetime | None = None) -> date:
        """The day that is meant: the one named, else the last whose session has closed."""
        if day:
            return clock.parse_day(day) if isinstance(day, str) else day
        return clock.last_closed(_moment(as_of) or self.now()).day

    def samples(self, as_of: str | datetime | None = None, window: str = "1h", known_at: str | datetime | None = None) -> "pandas.DataFrame":
        """
        The looks of a window as a frame, one row a look, for questions that no panel answers.

        Columns: ``ts`` and ``known_at`` (UTC), ``page``, then the fields of `snapshot.FIELDS` as the page posted them
        (cumulative since its load). No looks, no rows.
        """
        import pandas

        from opslib.snapshot import FIELDS

        view = self.status(as_of, window, known_at)
        names = [f.name for f in FIELDS if f.name not in ("page_id", "page_clock_ms")]
        rows = [
            (clock.instant(k.ts_us), clock.instant(k.known_at_us), page.name, *(getattr(k, n) for n in names))
            for page in view.tape.pages
            for k in page.looks
            if clock.micros(view.window.start) < k.ts_us <= clock.micros(view.window.end)
        ]
        frame = pandas.DataFrame(rows, columns=[*FIGURE_COLUMNS, *names])
        return frame.sort_values(["ts", "page"], ignore_index=True)

    def publish_daily(self, day: str | date | None, *, as_of: str | None, known_at: str | None, partial: bool, timeout_s: float) -> tuple[Outcome, Path]:
        """
        Execute the daily report's notebook and publish it: notebook, HTML, Markdown, JSON.

        Returns:
            How it ended, and where it is, without ending.

        Raises:
            ReportRefused: Before the close, unless a partial one was asked for.
        """
        meant = self.day(day, as_of)
        session, at = clock.session(meant), _moment(as_of) or self.now()
        early = session is not None and at < session.closes
        if early and not partial:
            raise ReportRefused(f"a report of {meant} was wanted; its session closes only at {text.moment(session.closes)}. Wait, or ask for --partial.")
        if session is None and at < clock.parse(f"{meant}T23:59:59"):
            raise ReportRefused(f"a report of {meant} was wanted; that day is not over.")
        given = {"app": self.settings.app, "day": str(meant)}
        given |= {"as_of": text.iso(at)} if early else {}
        given |= {"known_at": text.iso(_moment(known_at))} if known_at else {}
        outcome = runner.execute(notebook("daily_report"), given, settings=self.settings, store=self.store, timeout_s=timeout_s)
        if outcome.state == "failed" or outcome.record is None:
            lacking = outcome if outcome.state == "failed" else Outcome("failed", "the notebook handed over no numbers", outcome.notebook, None, outcome.run_id)
            return runner.keep(lacking, self.settings.outputs / "runs" / outcome.run_id / "daily_report", settings=self.settings, store=self.store)
        values = outcome.record["values"]
        more = {".json": report.as_json(values).encode(), ".md": outcome.record["markdown"].encode()}
        return runner.keep(outcome, report.place(self.settings, daily.NAME, meant, values["partial"]), more, values["restates"], settings=self.settings, store=self.store)

    def __repr__(self) -> str:
        first, last = self.store.first_ts(self.settings.app), self.store.last_look(self.settings.app, 2**62, None)
        if first is None or last is None:
            return f"{self.settings.app}: no look has come yet"
        return f"{self.settings.app}: looks from {text.moment(clock.instant(first))} to {text.moment(clock.instant(last.ts_us))}"


def _moment(given: str | datetime | None) -> datetime | None:
    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise UsageError(f"a moment with a time zone was wanted, found {given}. Give text such as 2025-11-18T10:32 (New York), or an aware datetime.")
        return given
    return clock.parse(given) if given else None


def open(app: str | None = None, home: str | Path | None = None, environ: dict[str, Any] | None = None) -> Desk:
    """Which desk is meant? See `settings.load`."""
    return Desk(settings_module.load(home, app, environ))
