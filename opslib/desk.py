"""
This module knows what one desk is (its settings, its store, its limits) and what can be asked of it, and nothing else.

Notebooks, the shell and the receiver's neighbours all ask here.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from opslib import alertlog, clock, daily, diagnosis, panels, period as periods, report, rules as rules_module, runner, settings as settings_module, staff as staff_module, text
from opslib.alertlog import AlertLog
from opslib.chronicle import Chronicle
from opslib.clock import Window
from opslib.daily import Daily
from opslib.depth import Depth
from opslib.diagnosis import Diagnosis
from opslib.dispatch import Dispatch
from opslib.errors import NotebookFailed, ReportRefused, UsageError
from opslib.filings import Filings
from opslib.incident import fold
from opslib.ledger import Due
from opslib.marks import Marks
from opslib.memory import Memory
from opslib.panels import View
from opslib.postmortem import Postmortem
from opslib.rules import Rules
from opslib.schema import TABLES
from opslib.runner import Outcome
from opslib.settings import Settings
from opslib.staff import Staff
from opslib.store import Store

if TYPE_CHECKING:
    import pandas

    from opslib.accuracy import Accuracy
    from opslib.doctor import Examination
    from opslib.quality import ChainView
    from opslib.review import Review
    from opslib.warm import Kernels

OF_AN_APP = ("reports", "runs", "incidents")  # Folders inside that of an app.
MOST_WINDOW = timedelta(days=31)
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
        kernels: Where it has kernels for its reports that need not import anything first; None begins each in the plain way.
        remembers: Does it take what it computed before for what it would compute? Who verifies does not.
    """

    settings: Settings
    now: Callable[[], datetime] = clock.now
    kernels: "Kernels | None" = None
    remembers: bool = True

    @cached_property
    def store(self) -> Store:
        """Its facts."""
        return Store(self.settings.url, self.now)

    @cached_property
    def rules(self) -> Rules:
        """The limits in force."""
        return rules_module.load(self.settings.base)

    @cached_property
    def memory(self) -> Memory:
        """What it computed before."""
        return Memory(self.settings.outputs / ".memory" if self.remembers else None)

    @cached_property
    def staff(self) -> Staff:
        """Who is told, and how."""
        return staff_module.read(self.settings)

    @cached_property
    def dispatch(self) -> Dispatch:
        """What people are told, and what they said."""
        return Dispatch(self.store, self.settings.app)

    @cached_property
    def chronicle(self) -> Chronicle:
        """Its incidents."""
        return Chronicle(self.store, self.settings, self.rules)

    @cached_property
    def marks(self) -> Marks:
        """What somebody said happened."""
        return Marks(self.store, self.settings)

    def view(self, at: datetime, length: timedelta) -> View:
        """How does everything stand at a moment, over so long before it?"""
        return panels.status(self.store, self.settings, self.rules, as_of=at, length=length)

    def diagnose(self, at: datetime, length: timedelta) -> Diagnosis:
        """What the fault is at a moment; each rule is evaluated over its own window, whatever the length of the view."""
        return self.diagnosis_of(self.view(at, length))

    def diagnosis_of(self, view: View) -> Diagnosis:
        """What the fault is at the end of a view."""
        return diagnosis.diagnose(view)

    def postmortem(self, incident: str, upto: str = "") -> Postmortem:
        """
        What does the record of an incident come to?

        Args:
            upto: The entry up to which it is read, such as ``E42``; empty is all of it.
        """
        found = self.chronicle.find(incident)
        return Postmortem(fold(found.id, found.entries[: found.find(upto).seq]) if upto else found)

    def status(self, as_of: str | datetime | None = None, window: str = "1h", known_at: str | datetime | None = None) -> View:
        """
        How does everything stand, as of a moment?

        Args:
            as_of: ISO 8601, without an offset New York; empty is now.
            window: Its length, such as ``1h``.
            known_at: Only what was known by then; empty is all that is known.
        """
        return panels.status(self.store, self.settings, self.rules, as_of=_moment(as_of) or self.now(), length=_shown_at_once(window), known_at=_moment(known_at))

    def depth(self, as_of: str | datetime | None = None, window: str = "1h", known_at: str | datetime | None = None) -> Depth:
        """What lies under the panels: our own looks, as of a moment? Arguments as of `status`."""
        return Depth(self.status(as_of, window, known_at))

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
        end, begin = _moment(as_of) or self.now(), clock.parse(since) if isinstance(since, str) and since else _moment(since)
        asked = Window(begin, end) if begin else Window.before(end, clock.parse_span(window))
        return alertlog.alertlog(self.store, self.settings, self.rules, asked, known_at=_moment(known_at), replay=replay, progress=progress)

    def pnl(
        self, fills: str | Path | None = None, backtest: str | Path | None = None, costs: str = "real", as_of: str | datetime | None = None, window: str = "", known_at: str | datetime | None = None
    ) -> "Accuracy":
        """
        What did trades come to, and how far is that from the backtest?

        Args:
            fills: A file: tastytrade's export, the app's trades, plain CSV; empty is what was imported (of the demo, its script's trades).
            backtest: The backtest's trades, in any of the same forms; empty is what stands beside the trades.
            costs: How trading is charged: ``real``, ``guide``, ``app``.
            as_of: Only what happened up to then; empty is everything.
            window: Only round trips that ended so long before `as_of`, and what the app's page says of the same time.
            known_at: Of what was imported, only what was known by then.

        Raises:
            ImportRefused: A file is none of fills, or nothing was imported.
        """
        from opslib import accuracy

        end, rule = _moment(as_of), self.rules["backtest_variance"]
        asked = Window.before(end or self.now(), clock.parse_span(window)) if window else None
        page = self.status(asked.end, window, known_at).page_pnl if asked else None
        span = {"as_of": asked.end if asked else end, "since": asked.start if asked else None, "page": page}
        own = self.settings.home / settings_module.SAMPLE_FILLS
        path = Path(fills) if fills else own if own.exists() else None
        theirs = Path(backtest) if backtest else None
        if path:
            return accuracy.of_file(path, rule, costs, theirs, **span)
        return accuracy.of_store(Filings(self.store, self.settings.app), rule, costs, theirs, known_at=_moment(known_at), now=self.now(), **span)

    def daily_report(self, day: str | date | None = None, as_of: str | datetime | None = None, known_at: str | datetime | None = None) -> Daily:
        """What happened on a trading day? The last one that has closed, where none is named."""
        return daily.daily(self.store, self.settings, self.rules, self.day(day, as_of), self.memory, as_of=_moment(as_of), known_at=_moment(known_at))

    def day(self, day: str | date | None, as_of: str | datetime | None = None) -> date:
        """The day that is meant: the one named, else the last whose session has closed."""
        if day:
            return clock.parse_day(day) if isinstance(day, str) else day
        return clock.last_closed(_moment(as_of) or self.now()).day

    @property
    def looked_at(self) -> list[str]:
        """What do the settings name that can be looked at?"""
        named = {"massive": "massive_url", "tradier": "tradier_url", "the app": "app_url", "its WebSocket": "app_ws_url", "its log": "app_log", "its process": "app_pid"}
        return [name for name, key in named.items() if getattr(self.settings, key)]

    def doctor(self) -> "Examination":
        """Can we reach everything, and what is wrong?"""
        from opslib import doctor

        return doctor.examine(self.settings, self.store, self.rules)

    def greeks(self, what: str | Path, provider: str = "", as_of: str | datetime | None = None, known_at: str | datetime | None = None) -> "ChainView":
        """
        What are the Greeks of a chain worth?

        Args:
            what: A file (see `chain.read`), or a symbol: fetched now; with a moment, in the demo and where nobody can be asked, the last that was kept.
            provider: Who is to be asked: massive or tradier; empty is Massive, with Tradier's beside it where it is configured.
            as_of: Of a file when it was so, where it does not say; of a symbol the moment.
            known_at: Only what was known by then.
        """
        from opslib import assay

        moment = _moment(as_of)
        if Path(what).suffix or Path(what).exists():
            return assay.of_file(Path(what), self.rules, moment)
        symbol = str(what).strip().upper()
        if not symbol.removeprefix("I:").replace(".", "").isalnum():
            raise UsageError(f"a file or a symbol was wanted, found {text.one_line(str(what), 60)!r}.")
        if moment is None and known_at is None and self.settings.app != settings_module.DEMO and (self.settings.massive_url or self.settings.tradier_url):
            return assay.of_provider(self.store, self.settings, self.rules, symbol, provider, self.now)
        return assay.of_store(self.store, self.settings, self.rules, symbol, moment or self.now(), _moment(known_at), provider)

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

    def publish_daily(self, day: str | date | None, *, as_of: str | None, known_at: str | None, partial: bool, timeout_s: float, due: Due | None = None) -> tuple[Outcome, Path]:
        """
        Execute the daily report's notebook and publish it: notebook, HTML, Markdown, JSON.

        Args:
            due: What it is due as, where a schedule makes it; a whole one made by hand is what was due, too.

        Returns:
            How it ended, and where it is, without ending.

        Raises:
            ReportRefused: A day without a session; or before the close, unless a partial one was asked for.
            AlreadyMade: What is due is made, or being made, by somebody else.
        """
        meant = self.day(day, as_of)
        session, at = clock.session(meant), _moment(as_of) or self.now()
        if session is None:
            raise ReportRefused(f"a daily report of {meant} was wanted, a {meant:%A} without a session. {clock.neighbours(meant)}")
        early = at < session.closes
        if early and not partial:
            raise ReportRefused(f"a report of {meant} was wanted; its session closes only at {text.moment(session.closes)}. Wait, or ask for --partial.")
        given = {"app": self.settings.app, "day": str(meant)}
        given |= {"as_of": text.iso(at)} if early else {}
        given |= {"known_at": text.iso(_moment(known_at))} if known_at else {}
        whole = Due(f"report {daily.NAME} {meant}") if not early and not known_at else None
        return self._published(daily.NAME, given, meant, timeout_s, due or whole)

    def review(self, name: str, period: str = "", as_of: str | datetime | None = None, known_at: str | datetime | None = None) -> "Review":
        """
        What did some trading days come to together?

        Args:
            name: Of the report: weekly, monthly, quarterly, annual, success.
            period: Such as ``2026-W11``, ``2026-03``, ``2026-Q1``, ``2026``; of success the last of seven days. Empty is the last that is over.

        Raises:
            UsageError: No such report, or it is of no such period.
            ReportRefused: The period has not begun.
        """
        kind, made = _review(name)
        at = _moment(as_of)
        return made(self, periods.parse(kind, period) if period else periods.last_over(kind, at or self.now()), at, _moment(known_at))

    def review_of(self, name: str, day: str, as_of: str | None = None) -> "Review":
        """The same of the period that a day is in."""
        kind, made = _review(name)
        return made(self, periods.of(kind, clock.parse_day(day)), _moment(as_of))

    def publish_review(self, name: str, period: str, *, as_of: str | None, known_at: str | None, partial: bool, timeout_s: float, due: Due | None = None) -> tuple[Outcome, Path]:
        """
        Execute the notebook of a report over a period and publish it; as `publish_daily`.

        Raises:
            ReportRefused: The period is not over, unless a partial one was asked for.
        """
        at = _moment(as_of) or self.now()
        meant = self.review(name, period, at, known_at)
        if meant.partial and not partial:
            raise ReportRefused(f"the {name} report of {meant.period.name} was wanted; it is over only at {text.moment(meant.period.window.end)}. Wait, or ask for --partial.")
        given = {"app": self.settings.app, "period": meant.period.name} | ({"as_of": text.iso(at)} if meant.partial else {})
        given |= {"known_at": text.iso(_moment(known_at))} if known_at else {}
        whole = Due(f"report {name} {meant.period.name}") if not meant.partial and not known_at else None
        return self._published(name, given, meant.period.name, timeout_s, due or whole)

    def _published(self, name: str, given: dict[str, Any], of: date | str, timeout_s: float, due: Due | None) -> tuple[Outcome, Path]:
        """Execute a report's notebook, and put what came of it in its place."""
        book = f"{name}_report"
        outcome = runner.execute(notebook(book), given, settings=self.settings, store=self.store, timeout_s=timeout_s, due=due, kernels=self.kernels)
        if outcome.state == "failed" or outcome.record is None:
            lacking = outcome if outcome.state == "failed" else replace(outcome, state="failed", reason="the notebook handed over no numbers")
            return runner.keep(lacking, self.settings.outputs / "runs" / outcome.run_id / book, settings=self.settings, store=self.store)
        values = outcome.record["values"]
        more = {".json": report.as_json(values).encode(), ".md": outcome.record["markdown"].encode()}
        return runner.keep(outcome, report.place(self.settings, name, of, values["partial"]), more, values["restates"], settings=self.settings, store=self.store)

    def __repr__(self) -> str:
        first, last = self.store.first_ts(self.settings.app), self.store.last_look(self.settings.app, 2**62, None)
        if first is None or last is None:
            return f"{self.settings.app}: no look has come yet"
        return f"{self.settings.app}: looks from {text.moment(clock.instant(first))} to {text.moment(clock.instant(last.ts_us))}"


def _review(name: str) -> tuple[str, "type[Review]"]:
    """Over which kind of period is a report, and who makes it?"""
    from opslib import annual, monthly, quarterly, review, success

    made: dict[str, type[Review]] = {"weekly": review.Review, "monthly": monthly.Monthly, "quarterly": quarterly.Quarterly, "annual": annual.Annual, "success": success.Success}
    if name not in made:
        raise UsageError(f"there is no report {name!r}; there are: {daily.NAME}, {', '.join(made)}.{text.nearest(name, made)}")
    return periods.REPORTS[name], made[name]


def _shown_at_once(window: str) -> timedelta:
    """How long a window of panels is; of more than `MOST_WINDOW` the alerts alone would take minutes."""
    length = clock.parse_span(window)
    if length > MOST_WINDOW:
        raise UsageError(f"a window of {text.one_line(window, 40)} was asked for; panels show at most {MOST_WINDOW.days}d. ops report and ops alerts cover longer.")
    return length


def _moment(given: str | datetime | None) -> datetime | None:
    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise UsageError(f"a moment with a time zone was wanted, found {given}. Give text such as 2025-11-18T10:32 (New York), or an aware datetime.")
        return given
    return clock.parse(given, "close") if given else None


def refuse_unknown(settings: Settings) -> None:
    """
    Refuse an app of which this home has nothing: no setting, no folder, and no row in its store.

    Raises:
        UsageError: It is unknown; with the nearest name of those that are known.
    """
    if settings.app in (settings_module.load(settings.base).app, settings_module.DESK):
        return
    kept = settings.store_url or (settings.home / "store.sqlite").exists()  # To refuse lays nothing out.
    folders = {path.parent.name for kind in OF_AN_APP for path in settings.home.glob(f"*/{kind}")}
    known = sorted({settings_module.load(settings.base).app, settings_module.DESK, settings_module.DEMO} | folders | (set(_stored(Store(settings.url))) if kept else set()))
    if settings.app not in known:
        raise UsageError(
            f"there is no app {settings.app!r} in {settings.base}; there are: {', '.join(known)}.{text.nearest(settings.app, known)} A new app begins with ops import, ops serve or ops collect, given --app {settings.app}."
        )


def _stored(store: Store) -> Iterator[str]:
    """Every app of which a store has a row, each as often as tables have one; by seeking, not by reading rows."""
    with store.reading() as connection:
        for table in TABLES.tables.values():
            if "app" in table.columns:
                app = connection.execute(sa.select(sa.func.min(table.c.app, type_=sa.Text))).scalar()
                while app is not None:
                    if isinstance(app, str):  # A damaged cell is no app's name.
                        yield app
                    app = connection.execute(sa.select(sa.func.min(table.c.app, type_=sa.Text)).where(table.c.app > app)).scalar()


def open(app: str | None = None, home: str | Path | None = None, environ: dict[str, Any] | None = None) -> Desk:
    """Which desk is meant? See `settings.load`."""
    return Desk(settings_module.load(home, app, environ))
