"""
Make the four panels: a question, its verdict, its table, its picture.

A `Status` is what is shown of one app at one moment. The dashboard, the report, the shell and the receiver all ask the
same view, so that a figure is the same wherever it stands.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opslib.alerting import evaluation, evaluator, fill_figures, history, replay
from opslib.alerting.alerts import Transition
from opslib.alerting.notifications.planner import NotificationState, Silence
from opslib.alerting.notifications.store import NotificationStore
from opslib.alerting.store import AlertStore
from opslib.alerting.verdicts import EXIT_CODES, Finding, worst
from opslib.dashboard.panels import MOST_TYPES, Panel
from opslib.dashboard.probe_summary import ProbeSummaries, ProbeSummary, lately
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import NAMES, Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import UsageError
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.snapshot_columns import FIELDS, PROVIDERS, SnapshotRow
from opslib.incidents.lifecycle import Incidents
from opslib.telemetry.markers import Marker, Markers
from opslib.telemetry.pages import counters, indicators, refused_posts
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.refused_posts import Refused
from opslib.telemetry.probes import history as probes_history
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.store import SampleStore
from opslib.trading.pnl.fills import Fill
from opslib.trading.pnl.pnl import Pnl
from opslib.trading.pnl.store import FillStore, StoredFill

if TYPE_CHECKING:
    import pandas


MOST_WINDOW = timedelta(days=31)
FIGURE_COLUMNS = ("ts", "known_at", "page")
DEEPER = {"providers": "provider_health", "greeks": "greeks_quality", "pnl": "pnl_accuracy", "system": "system_health"}
LATELY_US = 30_000_000  # Judged so lately is judged up to now.


class Status:
    """
    What is shown of one app at one moment.

    Attributes:
        app: Whose figures.
        window: The figures' window, (start, end]; its end is the moment of the view.
        known_at: Only what had come into the store by then; None is all that is known.
        tape: The looks behind it.
        rules: The limits in force.
        recorded: What became of alerts, where they were judged up to the moment of the view; else None.
        evaluated: The part of the window for which alerts are evaluated where nothing is recorded; None is all of it.
        probed: What our own looks saw; None where nobody ever looked.
        acks, silences: What people said of alerts: see `NotificationStore`.
        filed: What the fills of the window came to; None where there are none, and the page is asked.
        traded: What all fills up to the moment of the view came to; None where there are none.
        rows: Those fills, for the alerts where nobody judged.
        incidents: Which incident each alert is in.
        marks: What somebody said happened in its window.
        refused: Posts that the receiver refused in its window.
    """

    def __init__(
        self,
        app: str,
        window: Window,
        known_at: datetime | None,
        tape: CounterHistory,
        rules: Rules,
        recorded: list[Transition] | None = None,
        probed: ProbeHistory | None = None,
        acks: Mapping[str, tuple[str, int, str]] = MappingProxyType({}),
        silences: Iterable[Silence] = (),
        traded: Pnl | None = None,
        rows: Iterable[StoredFill] = (),
        incidents: Mapping[str, str] = MappingProxyType({}),
        marks: Iterable[Marker] = (),
        refused: Iterable[Refused] = (),
        evaluated: tuple[int, int] | None = None,
    ):
        self.incidents, self.marks, self.refused, self.evaluated = incidents, tuple(marks), tuple(refused), evaluated
        self.traded, self._rows = traded, rows
        (
            self.app,
            self.window,
            self.known_at,
            self.tape,
            self.rules,
            self.recorded,
            self.probed,
            self.acks,
            self.silences,
        ) = app, window, known_at, tape, rules, recorded, probed, acks, tuple(silences)

    @cached_property
    def filed(self) -> Pnl | None:
        """What the fills of the window came to; None where there are none, and the page is asked."""
        in_window = any(row.ts_us > self.window.start_us for row in self._rows if isinstance(row.told, Fill))
        return self.traded.within(self.window.start, self.window.end) if self.traded and in_window else None

    @cached_property
    def findings(self) -> list[Finding]:
        """Every rule judged over the view's window; that of fills over more, where it holds too few of them."""
        found = evaluation.at(self.tape, self.rules, self.window, self.probed)
        counted = (
            fill_figures.counted(self.traded, self.window.end, self.window.end - self.window.start)
            if self.traded
            else None
        )
        trades = counted or self.filed
        by_fills = fill_figures.finding(trades) if trades else None
        return [*found, by_fills] if by_fills else found

    @cached_property
    def counted(self) -> Pnl | None:
        """
        The trades by which the alert of the backtest's variance is judged now; None where no such trade ended in the
        rule's own window.
        """
        return fill_figures.counted(self.traded, self.window.end) if self.traded else None

    @cached_property
    def alerts(self) -> list[dict[str, Any]]:
        """
        How every alert stands at the moment of the view: by the record, or where nobody judged, by the window's own
        looks.
        """
        found = (
            self.recorded
            if self.recorded is not None
            else replay.replay_view(
                self.tape,
                self.rules,
                *(self.evaluated or (self.window.start_us, self.window.end_us)),
                self.probed,
                self._rows,
            )
        )
        return [row | self._said_of(row) for row in history.active_alerts(found, self.rules)]

    def _said_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """Who has taken an alert, and which silence keeps it quiet, at the moment of the view."""
        at_us, notice = (
            self.window.end_us,
            NotificationState(row["id"], row["rule"], row["subject"], row["source"], "", ""),
        )
        author, since_us, _ = self.acks.get(row["id"], ("", at_us, ""))
        quiet = next((s.id for s in self.silences if s.holds(notice, at_us)), None)
        return {
            "acked_by": author if author and since_us <= at_us else None,
            "silenced_by": quiet,
            "incident": self.incidents.get(row["id"]),
        }

    @cached_property
    def coverage(self) -> float | None:
        """Looks received ÷ expected; None where the market was closed throughout."""
        return self.tape.coverage(self.window)

    @cached_property
    def verdict(self) -> str:
        """What everything adds up to; a panel in which nothing counts is shown, not counted."""
        return worst(self._verdict_of(name) for name in NAMES if self._counts(name))

    @cached_property
    def _sights(self) -> ProbeSummaries:
        says = (
            {
                f.subject: f.verdict
                for f in evaluation.at(
                    self.tape, self.rules.only("availability"), Window.before(self.window.end, lately(self.rules))
                )
            }
            if self.probed
            else {}
        )
        return ProbeSummaries(self.probed or ProbeHistory(), self.rules, self.window, self.figures, says)

    @cached_property
    def sights(self) -> list[ProbeSummary]:
        """What our own looks see, in sentences; nothing where nobody looks."""
        return self._sights.all()

    def _of(self, panel: str) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.rule.panel == panel)

    def _judged(self, panel: str) -> list[str]:
        return [f.verdict for f in self._of(panel) if f.counted] + [
            s.verdict for s in self.sights if s.panel == panel and s.verdict
        ]

    def _counts(self, panel: str) -> bool:
        return bool(self._judged(panel))

    def _verdict_of(self, panel: str) -> str:
        return worst(self._judged(panel))

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The figures of each panel; a rate that rests on too few looks is None, the counts are what was seen."""
        known = {
            (f.rule.name, f.subject): f.verdict != "unknown" or not f.counted
            for f in self.findings
            if f.source == evaluation.PAGE
        }
        providers = indicators.providers(self.tape, self.window)
        greeks = indicators.greeks(self.tape, self.window)
        for name, found in providers.items():
            found["availability"] = found["availability"] if known["availability", name] else None
        for rate, rule in (
            ("valid_rate", "greeks_valid"),
            ("gamma_zero_rate", "gamma_zero"),
            ("delta_out_of_bounds_rate", "delta_out_of_bounds"),
        ):
            greeks[rate] = greeks[rate] if known[rule, "app"] else None
        pnl = self.page_pnl if self.filed is None else _of_fills(self.filed)
        system = indicators.system(self.tape, self.window)
        system["errors_per_hour"] = (
            None
            if system["errors"] is None or not known["errors", "app"] or not self.window.seconds
            else system["errors"] * 3600 / self.window.seconds
        )
        return {"providers": providers, "greeks": greeks, "pnl": pnl, "system": system}

    @cached_property
    def page_pnl(self) -> dict[str, Any]:
        """What the app's page says of its trades, whoever else does; its variance only of enough of them."""
        at_least = self.rules["backtest_variance"].min_count
        found = indicators.pnl(self.tape, self.window, at_least)
        return found | ({"backtest_variance_pp": None} if (found["variance_trades"] or 0) < at_least else {})

    def panel(self, name: str) -> Panel:
        """One of the four panels: providers, greeks, pnl, system."""
        from opslib.dashboard import charts

        if name not in NAMES:
            raise LookupError(
                f"there is no panel {name!r}; there are: {', '.join(NAMES)}.{formatting.nearest(name, NAMES)}"
            )
        rows = {
            "providers": self._provider_rows,
            "greeks": self._greeks_rows,
            "pnl": self._pnl_rows,
            "system": self._system_rows,
        }[name]()
        draw = {"providers": charts.providers, "greeks": charts.greeks, "pnl": charts.pnl, "system": charts.system}[
            name
        ]
        return Panel(
            name,
            NAMES[name],
            self._verdict_of(name),
            self._of(name),
            tuple(s for s in self.sights if s.panel == name),
            tuple(rows),
            (*self._notes(name), *(m.told for m in self.marks)),
            lambda ax: charts.with_markers(draw(ax, self.tape, self.window, self.rules), self.marks),
        )

    @property
    def panels(self) -> list[Panel]:
        """All four."""
        return [self.panel(name) for name in NAMES]

    def _guide(self, read: Callable[[SnapshotRow], str]) -> str:
        """What the guide's recipe would read off the page seen last: its own figures, since it was loaded."""
        seen = self.tape.seen_in(self.window)
        return read(seen[-1][1]) if seen else "nothing"

    def _provider_rows(self) -> list[tuple[str, str, str]]:
        rows = []
        for name in PROVIDERS:
            f = self.figures["providers"][name]
            guide = self._guide(partial(_page_uptime, name))
            rows += [
                (f"{name} availability", formatting.ratio(f["availability"]), guide),
                (
                    f"{name} requests / failures",
                    f"{formatting.number(f['requests'])} / {formatting.number(f['failures'])}",
                    "",
                ),
                (f"{name} fallbacks", formatting.number(f["fallbacks"]), ""),
            ]
            if ours := self._sights.figures(name):
                rows += [
                    (
                        f"{name}, our own looks",
                        f"{formatting.ratio(ours['availability'])} available, {ours['usable']} of "
                        f"{ours['looks']} usable",
                        "",
                    ),
                    (
                        f"{name}, our looks' p95 / mean",
                        f"{formatting.number(ours['p95_s'], 's', 3)} / {formatting.number(ours['mean_s'], 's', 3)}",
                        "",
                    ),
                ]
        return rows

    def _greeks_rows(self) -> list[tuple[str, str, str]]:
        f = self.figures["greeks"]
        guide = self._guide(
            lambda k: (
                f"{100 * k.greeks_valid / k.validations:.2f} %"
                if k.validations and k.greeks_valid is not None
                else "0 ÷ 0"
            )
        )
        return [
            ("valid Greeks", formatting.ratio(f["valid_rate"]), guide),
            (
                "validations / with an error",
                f"{formatting.number(f['validations'])} / {formatting.number(f['invalid'])}",
                "",
            ),
            (
                "gamma zero or missing",
                f"{formatting.number(f['gamma_zero'])} ({formatting.ratio(f['gamma_zero_rate'])})",
                self._guide(lambda k: formatting.number(k.gamma_zero)),
            ),
            (
                "delta outside -1 to 1",
                f"{formatting.number(f['delta_out_of_bounds'])} ({formatting.ratio(f['delta_out_of_bounds_rate'])})",
                self._guide(lambda k: formatting.number(k.delta_out_of_bounds)),
            ),
            (
                "IV anomalies",
                formatting.number(f["iv_anomalies"]),
                self._guide(lambda k: formatting.number(k.iv_anomalies)),
            ),
        ]

    def _pnl_rows(self) -> list[tuple[str, str, str]]:
        f = self.figures["pnl"]

        def percent(v: float | None) -> str:
            return formatting.number(v, "%", 2)

        return [
            ("trades", formatting.number(f["trades"]), self._guide(lambda k: formatting.number(k.trades))),
            ("mean gross result", percent(f["gross_pct"]), self._guide(lambda k: percent(k.gross_mean_pct))),
            ("mean net result", percent(f["net_pct"]), self._guide(lambda k: percent(k.net_mean_pct))),
            (
                "commission / slippage",
                f"{formatting.dollars(f['commission_usd'])} / {formatting.dollars(f['slippage_usd'])}",
                "",
            ),
            (
                "backtest variance",
                formatting.number(f["backtest_variance_pp"], "points", 2),
                self._guide(lambda k: formatting.number(k.backtest_variance_pp, "%", 2)),
            ),
        ]

    def _system_rows(self) -> list[tuple[str, str, str]]:
        f = self.figures["system"]
        connected = {True: "connected", False: "disconnected", None: "unknown"}[f["websocket_connected"]]
        down, ours = f["websocket_down_seconds"], self._sights.figures("app")
        trips = next(
            (
                found
                for found in self.findings
                if found.rule.name == "websocket_latency" and found.figure.value is not None
            ),
            None,
        )
        seen = (
            [
                (
                    "app, our looks' p95 / mean",
                    f"{formatting.number(ours['p95_s'], 's', 3)} / {formatting.number(ours['mean_s'], 's', 3)}",
                    "",
                )
            ]
            if ours
            else []
        )
        seen += (
            [("WebSocket round trip p95, our looks", formatting.number(trips.figure.value, "s", 3), "")]
            if trips
            else []
        )
        return [
            (
                "errors",
                f"{formatting.number(f['errors'])} ({formatting.number(f['errors_per_hour'], 'per h', 1)})",
                self._guide(lambda k: formatting.number(k.errors)),
            ),
            ("errors by type", _by_type(f["errors_by_type"], f["errors"]), ""),
            (
                "WebSocket",
                f"{connected}, down {formatting.UNKNOWN if down is None else formatting.duration(down)}",
                self._guide(
                    lambda k: {True: "✓ Connected", False: "✗ Disconnected", None: "nothing"}[k.websocket_connected]
                ),
            ),
            ("pages seen / reloads", f"{formatting.number(f['pages'])} / {formatting.number(f['restarts'])}", ""),
            ("memory of the largest page", formatting.number(f["memory_mb"], "MB"), ""),
            *seen,
        ]

    def _notes(self, panel: str) -> list[str]:
        notes = [
            f"looks received: {formatting.ratio(self.coverage, 1)} of those expected"
            if self.coverage is not None
            else "market closed: no looks expected"
        ]
        if panel == "pnl" and self.filed:
            notes = [
                "by the fills of this window, each round trip where it ended; the picture and the guide's "
                "reading are the page's"
            ]
            notes += [self.filed.shares_told] if self.filed.shares_told else []
        if panel in DEEPER and (self.probed or (panel == "pnl" and self.filed)):
            notes.append(f"a deeper look: notebooks/{DEEPER[panel]}.ipynb")
        if panel == "system":
            notes += refused_posts.sentences(self.refused)
            f = self.figures["system"]
            if f["clock_skew_s"] is not None and abs(f["clock_skew_s"]) > self.rules.skew_told_s:
                notes.append(
                    f"a page's clock is {formatting.duration(abs(f['clock_skew_s']))} "
                    f"{'ahead of' if f['clock_skew_s'] > 0 else 'behind'} ours; every time shown is ours"
                )
            if f["last_error_message"]:
                notes.append(f"newest error message: {formatting.single_line(f['last_error_message'])}")
        return notes

    def as_json(self) -> dict[str, Any]:
        """The view as CONTRACT.md's ``ops status -o json`` shows it."""
        coverage = None if self.coverage is None else round(self.coverage, 4)
        figures = self.figures
        verdicts = {
            f.subject: f.verdict
            for f in self._of("providers")
            if f.rule.name == "availability" and f.source == evaluation.PAGE
        }
        subjects = {
            name: {"verdict": verdicts[name], "source": evaluation.PAGE, "coverage": coverage} | f
            for name, f in figures["providers"].items()
        }

        def head(name: str) -> dict[str, Any]:
            return {"verdict": self._verdict_of(name), "source": evaluation.PAGE, "coverage": coverage, **seen(name)}

        def seen(name: str) -> dict[str, Any]:
            return {"sights": told} if (told := [s.words for s in self.sights if s.panel == name]) else {}

        return {
            "app": self.app,
            "as_of": formatting.iso(self.window.end),
            "seq": self.tape.seq,
            "window": {"from": formatting.iso(self.window.start), "to": formatting.iso(self.window.end)},
            "verdict": self.verdict,
            "panels": {
                "providers": {
                    "verdict": self._verdict_of("providers"),
                    "coverage": coverage,
                    "subjects": subjects,
                    "probes": self._sights.providers(),
                    **seen("providers"),
                },
                "greeks": head("greeks") | figures["greeks"] | self._sights.chains(),
                "pnl": head("pnl")
                | ({} if self.filed is None else {"source": "fills", "coverage": None})
                | figures["pnl"],
                "system": head("system") | figures["system"] | self._sights.system(),
            },
            "alerts": self.alerts,
        }

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown."""
        return EXIT_CODES[self.verdict]

    def __repr__(self) -> str:
        known = f", as known at {formatting.moment(self.known_at)}" if self.known_at else ""
        head = [f"{self.app}: {self.verdict}", f"{self.window}{known}"]
        seen = (
            "market closed" if self.coverage is None else f"{formatting.ratio(self.coverage, 1)} of the expected looks"
        )
        now = [
            f"{a['state']}, since {time_parsing.parse(a['since']).astimezone(formatting.NEW_YORK):%H:%M:%S} New York: "
            f"{a['severity']}: {a['sentence']}{_also(a)}"
            for a in self.alerts
        ]
        return "\n".join(
            [
                *head,
                f"{self.tape.looks_in(self.window):,} looks of {len(self.tape.seen_in(self.window))} pages; {seen}",
                *now,
            ]
        )


def _of_fills(filed: Pnl) -> dict[str, Any]:
    """
    The figures of fills in the shape of the page's: means of the trades in %, costs in dollars, the paired gap to the
    backtest where there are enough of them.
    """
    spread = filed.points

    def cents(v: Decimal | None) -> float | None:
        return None if v is None else round(float(v), 2) + 0.0

    def percent(v: Decimal | None) -> float | None:
        return None if v is None else float(v)

    enough = spread is not None and spread.n >= filed.rule.of("fills").min_count
    return {
        "trades": len(filed.chosen),
        "gross_pct": percent(filed.mean("gross_pct")),
        "net_pct": percent(filed.mean("net_pct")),
        "commission_usd": cents(filed.total("commission")),
        "slippage_usd": cents(filed.total("slippage")),
        "backtest_variance_pp": spread.mean if enough and spread else None,
        "variance_trades": spread.n if spread else None,
    }


def _also(alert: dict[str, Any]) -> str:
    """What else is known of an alert: what explains it, who has taken it, what keeps it quiet."""
    told = [
        f"{words} {alert[key]}"
        for key, words in (("inhibited_by", "explained by"), ("acked_by", "taken by"), ("silenced_by", "kept quiet by"))
        if alert[key]
    ]
    return f" ({'; '.join(told)})" if told else ""


def _by_type(types: Mapping[str, int] | None, errors: int | None) -> str:
    """Errors by their type, most first; the page's free text, so in one line and not for ever."""
    if not types:
        return "none" if errors == 0 else formatting.UNKNOWN
    most = sorted(types.items(), key=lambda found: (-found[1], found[0]))
    rest = sum(n for _, n in most[MOST_TYPES:])
    return ", ".join(
        [f"{formatting.single_line(kind, 40)} {n:,}" for kind, n in most[:MOST_TYPES]]
        + ([f"others {rest:,}"] if rest else [])
    )


def _page_uptime(provider: str, look: SnapshotRow) -> str:
    """The page's own ``uptime``: cumulative, rounded half up to a whole percent, 100 before the first request."""
    successes, requests = getattr(look, f"{provider}_successes"), getattr(look, f"{provider}_requests")
    if requests is None or successes is None:
        return "nothing"
    return f"{(200 * successes + requests) // (2 * requests) if requests else 100} %"


def view(store: Database, settings: Settings, rules: Rules, window: Window, known_at: datetime | None = None) -> Status:
    """What is to be shown of an app for a window, as known at a moment (None: all that is known)?"""
    # Far enough back for every rule's own window but the budgets', so that what is wrong now can be told with since
    # when.
    longest = max(rule.window for rule in rules.rules.values() if not rule.burn)
    reach = Window(min(window.start, window.end - longest), window.end)
    tape = counters.load(
        store, settings.app, reach, known_at, rules.pages, post_every_s=settings.post_every_s, wired=settings.wired
    )
    probed = probes_history.load(SampleStore(store, settings.app), reach, known_at, settings.fallback)
    said = NotificationStore(store, settings.app)
    traded, rows = fill_figures.traded(
        FillStore(store, settings.app), rules, window, None if known_at is None else clock.micros(known_at)
    )
    recorded = _recorded(store, settings.app, window.end_us, known_at)
    evaluated = (
        (evaluator.held(store, settings.app, window.start_us, window.end_us) or (window.end_us, window.end_us))
        if recorded is None
        else None
    )
    known_us = None if known_at is None else clock.micros(known_at)
    marks, refused = (
        Markers(store, settings).between(window.start_us, window.end_us, known_us),
        refused_posts.read(store, settings.app, window.start_us, window.end_us, known_us),
    )
    return Status(
        settings.app,
        window,
        known_at,
        tape,
        rules,
        recorded,
        probed if probed.any else None,
        said.acks(),
        said.silences(),
        traded,
        rows,
        Incidents(store, settings, rules).of_alerts(known_at),
        marks,
        refused,
        evaluated,
    )


def _recorded(store: Database, app: str, at_us: int, known_at: datetime | None) -> list[Transition] | None:
    """What became of the alerts of a session up to a moment, where they were judged up to then."""
    record = AlertStore(store, app)
    judged = record.judged()
    if judged is None or not judged[0] <= at_us <= judged[1] + LATELY_US:
        return None
    return history.recorded(record, at_us, at_us, known_at)


def status(
    store: Database,
    settings: Settings,
    rules: Rules,
    *,
    as_of: datetime | None = None,
    length: timedelta = timedelta(hours=1),
    known_at: datetime | None = None,
) -> Status:
    """How does everything stand, as of a moment (default: now)?"""
    return view(store, settings, rules, Window.before(as_of or clock.now(), length), known_at)


def view_at(workspace: Workspace, at: datetime, length: timedelta) -> Status:
    """Everything at a moment, over so long before it."""
    return status(workspace.store, workspace.settings, workspace.rules, as_of=at, length=length)


def status_of(
    workspace: Workspace,
    as_of: str | datetime | None = None,
    window: str = "1h",
    known_at: str | datetime | None = None,
) -> Status:
    """
    Everything as of a moment.

    Args:
        as_of: ISO 8601, without an offset New York; empty is now.
        window: Its length, such as ``1h``.
        known_at: Only what was known by then; empty is all that is known.

    Raises:
        UsageError: The window is longer than `MOST_WINDOW`, of which the alerts alone would take minutes.
    """
    length = time_parsing.parse_span(window)
    if length > MOST_WINDOW:
        raise UsageError(
            f"a window of {formatting.single_line(window, 40)} was asked for; panels show at most {MOST_WINDOW.days}d. "
            f"ops report and ops alerts cover longer."
        )
    return status(
        workspace.store,
        workspace.settings,
        workspace.rules,
        as_of=time_parsing.instant_of(as_of) or workspace.now(),
        length=length,
        known_at=time_parsing.instant_of(known_at),
    )


def frame(view: Status) -> "pandas.DataFrame":
    """
    The snapshots of a view's window as a frame, one row a snapshot, for questions that no panel answers.

    Columns: ``ts`` and ``known_at`` (UTC), ``page``, then the fields of `snapshot.FIELDS` as the page posted them
    (cumulative since its load). No snapshots, no rows.
    """
    import pandas

    names = [f.name for f in FIELDS if f.name not in ("page_id", "page_clock_ms")]
    rows = [
        (clock.instant(k.ts_us), clock.instant(k.known_at_us), page.name, *(getattr(k, n) for n in names))
        for page in view.tape.pages
        for k in page.looks
        if view.window.start_us < k.ts_us <= view.window.end_us
    ]
    return pandas.DataFrame(rows, columns=[*FIGURE_COLUMNS, *names]).sort_values(["ts", "page"], ignore_index=True)
