"""
Load the state of one app at a moment, and make its four panels.

The dashboard, the reports, the shell and the receiver all read the same `Status`, so a figure has the same value
everywhere.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opslib.alerting import alert_ids, evaluation, evaluator, fill_figures, history, replay
from opslib.alerting.alerts import Transition
from opslib.alerting.fill_figures import FillReader
from opslib.alerting.history import TransitionReader
from opslib.alerting.notifications.planner import NotificationState, Silence
from opslib.alerting.notifications.store import NotificationStore
from opslib.alerting.store import AlertStore
from opslib.alerting.verdicts import EXIT_CODES, VERDICT_OF, Finding, describe_verdict, worst
from opslib.dashboard.panels import MOST_TYPES, Panel
from opslib.dashboard.probe_summary import ProbeSummaries, ProbeSummary, Problem, lately
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import NAMES, SEVERITIES, Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import UsageError
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.snapshot_columns import FIELDS, PROVIDERS, SnapshotRow
from opslib.incidents.lifecycle import Incidents
from opslib.telemetry.markers import Marker, Markers
from opslib.telemetry.pages import counters, indicators, refused_posts
from opslib.telemetry.pages.counters import CounterHistory, CounterReader
from opslib.telemetry.pages.refused_posts import Refused
from opslib.telemetry.probes import history as probes_history
from opslib.telemetry.probes.history import ProbeHistory, ProbeReader
from opslib.telemetry.probes.store import SampleStore
from opslib.trading.pnl.fills import Fill
from opslib.trading.pnl.pnl import Pnl
from opslib.trading.pnl.store import FillStore, StoredFill

if TYPE_CHECKING:
    import pandas


MOST_WINDOW = timedelta(days=31)
FIGURE_COLUMNS = ("ts", "known_at", "page")
DETAILS = {"providers": "provider_health", "greeks": "greeks_quality", "pnl": "pnl_accuracy", "system": "system_health"}
# Snapshots are read from a multiple of this on, so that a live view can continue with those of the view before.
STEADY_US, STEADY_LIVE_US = 300_000_000, 3_600_000_000
LATELY_US = 30_000_000  # An evaluation that is no older than this is current.


class Status:
    """
    The state of one app at one moment.

    Attributes:
        app: The app's name.
        window: The figures' window, (start, end]; its end is the moment of the status.
        known_at: Only what was in the database by then; None is all that is known.
        counters: The snapshots behind the figures.
        rules: The rules in effect.
        recorded: The recorded transitions of alerts, where alerts were evaluated up to the moment; else None.
        evaluated: The part of the window for which alerts are evaluated where nothing is recorded; None is all of it.
        probed: The results of our probes; None where there are none.
        acks, silences: Acknowledgements and silences: see `NotificationStore`.
        filed: The result of the window's fills; None where there are none, and the page's figures are used.
        traded: The result of all fills up to the moment; None where there are none.
        rows: Those fills, to evaluate alerts where nothing is recorded.
        incidents: The incident of each alert.
        marks: The markers of the window.
        refused: Posts that the receiver rejected in the window.
    """

    def __init__(
        self,
        app: str,
        window: Window,
        known_at: datetime | None,
        counters: CounterHistory,
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
            self.counters,
            self.rules,
            self.recorded,
            self.probed,
            self.acks,
            self.silences,
        ) = app, window, known_at, counters, rules, recorded, probed, acks, tuple(silences)

    @cached_property
    def fills_pnl(self) -> Pnl | None:
        """The result of the window's fills; None where there are none, and the page's figures are used."""
        in_window = any(row.ts_us > self.window.start_us for row in self._rows if isinstance(row.content, Fill))
        return self.traded.within(self.window.start, self.window.end) if self.traded and in_window else None

    @cached_property
    def findings(self) -> list[Finding]:
        """Every rule evaluated over the window; the rule for fills over a longer one where it holds too few of them."""
        found = evaluation.evaluate_window(self.counters, self.rules, self.window, self.probed)
        counted = (
            fill_figures.counted_trades(self.traded, self.window.end, self.window.end - self.window.start)
            if self.traded
            else None
        )
        trades = counted or self.fills_pnl
        by_fills = fill_figures.finding(trades) if trades else None
        return [*found, by_fills] if by_fills else found

    @cached_property
    def counted(self) -> Pnl | None:
        """The trades that the rule for backtest variance evaluates now; None where none closed in its window."""
        return fill_figures.counted_trades(self.traded, self.window.end) if self.traded else None

    @cached_property
    def transitions(self) -> list[Transition]:
        """The changes of alerts: recorded ones, or where alerts were not evaluated, from the window's snapshots."""
        if self.recorded is not None:
            return self.recorded
        return replay.replay_view(
            self.counters,
            self.rules,
            *(self.evaluated or (self.window.start_us, self.window.end_us)),
            self.probed,
            self._rows,
        )

    @cached_property
    def alerts(self) -> list[dict[str, Any]]:
        """Every alert that is active at the moment."""
        return [row | self._responses_to(row) for row in history.active_alerts(self.transitions, self.rules)]

    def describe_since(self, alert: Mapping[str, Any]) -> str:
        """Return an active alert's severity, since when it has it, and when its problem began."""
        return history.describe_since(alert, self.severity_since.get(alert["id"]), self.window.end)

    @cached_property
    def severity_since(self) -> dict[str, int]:
        """Since when each active alert has its severity, by alert; microseconds since 1970."""
        return history.severity_since(self.transitions)

    def _responses_to(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return who acknowledged an alert, the silence that matches it, and its incident."""
        at_us, state = (
            self.window.end_us,
            NotificationState(row["id"], row["rule"], row["subject"], row["source"], "", ""),
        )
        author, since_us, _ = self.acks.get(row["id"], ("", at_us, ""))
        quiet = next((s.id for s in self.silences if s.matches(state, at_us)), None)
        return {
            "acked_by": author if author and since_us <= at_us else None,
            "silenced_by": quiet,
            "incident": self.incidents.get(row["id"]),
        }

    @cached_property
    def coverage(self) -> float | None:
        """Snapshots received ÷ expected, 0 to 1; None where the market was closed throughout."""
        return self.counters.coverage(self.window)

    @cached_property
    def verdict(self) -> str:
        """The worst verdict of all panels in which something was evaluated."""
        return worst(self._verdict_of(name) for name in NAMES if self._counts(name))

    @property
    def verdict_text(self) -> str:
        """The verdict in words, with the worst severity of a figure or an active alert where that is worse."""
        return describe_verdict(self.verdict, [*(f.severity for f in self.findings if f.counted), *self._alerted()])

    def _alerted(self, panel: str = "") -> tuple[str, ...]:
        """Return the severity of each active alert that is not pending; of one panel, if it is given."""
        return tuple(
            a["severity"]
            for a in self.alerts
            if a["state"] != "pending"
            and (not panel or (a["rule"] in self.rules.rules and self.rules[a["rule"]].panel == panel))
        )

    @cached_property
    def _probe_summaries(self) -> ProbeSummaries:
        page_verdicts = (
            {
                f.subject: f.verdict
                for f in evaluation.evaluate_window(
                    self.counters, self.rules.only("availability"), Window.before(self.window.end, lately(self.rules))
                )
            }
            if self.probed
            else {}
        )
        return ProbeSummaries(self.probed or ProbeHistory(), self.rules, self.window, self.figures, page_verdicts)

    @cached_property
    def summaries(self) -> list[ProbeSummary]:
        """What our probes found, in sentences; empty without probes."""
        return self._probe_summaries.all()

    def problem(self, subject: str | None) -> Problem | None:
        """Return what our probes find wrong with a subject now; None where nothing is, or nothing is known."""
        return self._probe_summaries.problem(subject) if subject else None

    def _of(self, panel: str) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.rule.panel == panel)

    def _verdicts(self, panel: str) -> list[str]:
        return [f.verdict for f in self._of(panel) if f.counted] + [
            s.verdict for s in self.summaries if s.panel == panel and s.verdict
        ]

    def _counts(self, panel: str) -> bool:
        return bool(self._verdicts(panel))

    def _verdict_of(self, panel: str) -> str:
        return worst(self._verdicts(panel))

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The figures of each panel; a rate from too few snapshots is None, the counts are what was received."""
        known = {
            (f.rule.name, f.subject): f.verdict != "unknown" or not f.counted
            for f in self.findings
            if f.source == evaluation.PAGE
        }
        providers = indicators.providers(self.counters, self.window)
        greeks = indicators.greeks(self.counters, self.window)
        for name, found in providers.items():
            found["availability"] = found["availability"] if known["availability", name] else None
        for rate, rule in (
            ("valid_rate", "greeks_valid"),
            ("gamma_zero_rate", "gamma_zero"),
            ("delta_out_of_bounds_rate", "delta_out_of_bounds"),
        ):
            greeks[rate] = greeks[rate] if known[rule, "app"] else None
        pnl = self.page_pnl if self.fills_pnl is None else _of_fills(self.fills_pnl)
        system = indicators.system(self.counters, self.window)
        system["errors_per_hour"] = (
            None
            if system["errors"] is None or not known["errors", "app"] or not self.window.seconds
            else system["errors"] * 3600 / self.window.seconds
        )
        return {"providers": providers, "greeks": greeks, "pnl": pnl, "system": system}

    @cached_property
    def page_pnl(self) -> dict[str, Any]:
        """The page's own figures of its trades; the variance only where there are enough of them."""
        at_least = self.rules["backtest_variance"].min_count
        found = indicators.pnl(self.counters, self.window, at_least)
        return found | ({"backtest_variance_pp": None} if (found["variance_trades"] or 0) < at_least else {})

    def panel(self, name: str) -> Panel:
        """Make one of the four panels: providers, greeks, pnl, system."""
        from opslib.dashboard import charts

        if name not in NAMES:
            raise LookupError(
                f"there is no panel {name!r}; use one of {', '.join(NAMES)}.{formatting.nearest(name, NAMES)}"
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
            self.window,
            self._of(name),
            self._alerted(name),
            tuple(s for s in self.summaries if s.panel == name),
            tuple(rows),
            self._guide_heading,
            (*self._notes(name), *(m.line for m in self.marks)),
            lambda ax: charts.with_markers(draw(ax, self.counters, self.window, self.rules), self.marks),
        )

    @property
    def panels(self) -> list[Panel]:
        """All four panels."""
        return [self.panel(name) for name in NAMES]

    def _guide(self, read: Callable[[SnapshotRow], str]) -> str:
        """Apply the guide's method: read the newest page's own figure, cumulative since its load."""
        seen = self.counters.pages_in(self.window)
        return read(seen[-1][1]) if seen else "no data"

    @property
    def _guide_heading(self) -> str:
        """Say since when the newest page's own figures count."""
        seen = self.counters.pages_in(self.window)
        loaded_us = seen[-1][0].loaded_at_us if seen else None
        if loaded_us is None:
            return "newest page load only"
        loaded, end = (t.astimezone(formatting.NEW_YORK) for t in (clock.instant(loaded_us), self.window.end))
        day = "" if loaded.date() == end.date() else f"{loaded:%m-%d} "
        return f"newest page load only, since {day}{loaded:%H:%M}"

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
                (f"{name} fallbacks", _fallbacks(f["fallbacks"], name), ""),
            ]
            if ours := self._probe_summaries.figures(name):
                assert self.probed
                up = self.probed.answered(name, self.window)
                rows += [
                    (
                        f"{name}, probes",
                        f"{formatting.ratio(ours['availability'])} available ({up.part:,} of {up.count:,} availability "
                        f"probes); of all {ours['total']:,} probes, of every kind, "
                        f"{ours['total'] - ours['usable']:,} got no usable data",
                        "",
                    ),
                    (
                        f"{name}, probes, p95 / mean",
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
        known = f["validations"] is not None and f["valid"] is not None
        not_valid = f["validations"] - f["valid"] if known else None
        return [
            ("valid Greeks", formatting.ratio(f["valid_rate"]), guide),
            (
                "validations / not valid / with an error",
                f"{formatting.number(f['validations'])} / {formatting.number(not_valid)} / "
                f"{formatting.number(f['invalid'])}",
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
                self._guide(lambda k: formatting.number(k.backtest_variance_pp, "points", 2)),
            ),
        ]

    def _system_rows(self) -> list[tuple[str, str, str]]:
        f = self.figures["system"]
        connected = {True: "connected", False: "disconnected", None: "unknown"}[f["websocket_connected"]]
        down, ours = f["websocket_down_seconds"], self._probe_summaries.figures("app")
        trips = next(
            (
                found
                for found in self.findings
                if found.rule.name == "websocket_latency" and found.figure.value is not None
            ),
            None,
        )
        probe_rows = (
            [
                (
                    "app, probes, p95 / mean",
                    f"{formatting.number(ours['p95_s'], 's', 3)} / {formatting.number(ours['mean_s'], 's', 3)}",
                    "",
                )
            ]
            if ours
            else []
        )
        probe_rows += (
            [("WebSocket round trip p95, probes", formatting.number(trips.figure.value, "s", 3), "")] if trips else []
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
                f"{connected}; down for {formatting.UNKNOWN if down is None else formatting.duration(down)} in "
                f"this window",
                self._guide(
                    lambda k: {True: "✓ Connected", False: "✗ Disconnected", None: "no data"}[k.websocket_connected]
                ),
            ),
            ("page loads / reloads", f"{formatting.number(f['pages'])} / {formatting.number(f['restarts'])}", ""),
            ("memory of the largest page", formatting.number(f["memory_mb"], "MB"), ""),
            *probe_rows,
        ]

    def _notes(self, panel: str) -> list[str]:
        notes = [
            f"snapshots received: {formatting.ratio(self.coverage, 1)} of those expected"
            if self.coverage is not None
            else "market closed: no snapshots expected"
        ]
        if panel == "pnl" and self.fills_pnl:
            notes = [
                "figures from the fills of this window, each round trip counted when it closed; the chart and the "
                "guide's method use the page's figures"
            ]
            notes += [self.fills_pnl.shares_sentence] if self.fills_pnl.shares_sentence else []
        if panel in DETAILS and (self.probed or (panel == "pnl" and self.fills_pnl)):
            notes.append(f"details: notebooks/{DETAILS[panel]}.ipynb")
        if panel == "system":
            notes += refused_posts.sentences(self.refused)
            f = self.figures["system"]
            if f["clock_skew_s"] is not None and abs(f["clock_skew_s"]) > self.rules.skew_told_s:
                notes.append(
                    f"a page's clock is {formatting.duration(abs(f['clock_skew_s']))} "
                    f"{'ahead of' if f['clock_skew_s'] > 0 else 'behind'} this machine's, which every time shown here "
                    f"uses"
                )
            if f["last_error_message"]:
                notes.append(f"newest error message: {formatting.single_line(f['last_error_message'])}")
        return notes

    def as_json(self) -> dict[str, Any]:
        """Return the status in the format of ``ops status -o json`` in CONTRACT.md."""
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

        def base(name: str) -> dict[str, Any]:
            return {
                "verdict": self._verdict_of(name),
                "source": evaluation.PAGE,
                "coverage": coverage,
                **summaries(name),
            }

        def summaries(name: str) -> dict[str, Any]:
            sentences = [s.words for s in self.summaries if s.panel == name]
            return {"probe_summaries": sentences} if sentences else {}

        return {
            "app": self.app,
            "as_of": formatting.iso(self.window.end),
            "seq": self.counters.seq,
            "window": {"from": formatting.iso(self.window.start), "to": formatting.iso(self.window.end)},
            "verdict": self.verdict,
            "panels": {
                "providers": {
                    "verdict": self._verdict_of("providers"),
                    "coverage": coverage,
                    "subjects": subjects,
                    "probes": self._probe_summaries.providers(),
                    **summaries("providers"),
                },
                "greeks": base("greeks") | figures["greeks"] | self._probe_summaries.chains(),
                "pnl": base("pnl")
                | ({} if self.fills_pnl is None else {"source": "fills", "coverage": None})
                | figures["pnl"],
                "system": base("system") | figures["system"] | self._probe_summaries.system(),
            },
            "alerts": self.alerts,
        }

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown."""
        return EXIT_CODES[self.verdict]

    @property
    def _louder_alerts(self) -> list[str]:
        """A line for the case that an alert fires with a worse severity than the verdict of the window."""
        firing = [a["severity"] for a in self.alerts if a["state"] in ("firing", "unknown")]
        most = max(firing, key=SEVERITIES.index, default=None)
        if most is None or self.verdict in ("unknown", VERDICT_OF[most], "critical"):
            return []
        return [
            f"{len(firing)} alert{'s' if len(firing) > 1 else ''} firing, up to {most}: each alert has its own window; "
            f"{self.verdict} is the verdict over {formatting.duration(self.window.seconds)}"
        ]

    def __repr__(self) -> str:
        known = f", as known at {formatting.moment(self.known_at)}" if self.known_at else ""
        head = [f"{self.app}: {self.verdict_text}", f"{self.window}{known}"]
        coverage = (
            "market closed"
            if self.coverage is None
            else f"{formatting.ratio(self.coverage, 1)} of the expected snapshots"
        )
        snapshots, loads = self.counters.snapshots_in(self.window), len(self.counters.pages_in(self.window))
        now = [f"{self.describe_since(a)}: {a['sentence']}{_also(a, self.rules.titles)}" for a in self.alerts]
        return "\n".join(
            [
                *head,
                *self._louder_alerts,
                f"{snapshots:,} snapshot{'' if snapshots == 1 else 's'} from {loads} page "
                f"load{'' if loads == 1 else 's'}; {coverage}",
                *now,
            ]
        )


def _of_fills(fills_pnl: Pnl) -> dict[str, Any]:
    """
    Return the figures of fills under the same keys as the page's.

    Means of the trades in %, costs in dollars, the paired gap to the backtest where there are enough pairs.
    """
    spread = fills_pnl.points

    def cents(v: Decimal | None) -> float | None:
        return None if v is None else round(float(v), 2) + 0.0

    def percent(v: Decimal | None) -> float | None:
        return None if v is None else float(v)

    enough = spread is not None and spread.n >= fills_pnl.rule.of("fills").min_count
    return {
        "trades": len(fills_pnl.chosen),
        "gross_pct": percent(fills_pnl.mean("gross_pct")),
        "net_pct": percent(fills_pnl.mean("net_pct")),
        "commission_usd": cents(fills_pnl.total("commission")),
        "slippage_usd": cents(fills_pnl.total("slippage")),
        "backtest_variance_pp": spread.mean if enough and spread else None,
        "variance_trades": spread.n if spread else None,
    }


def _also(alert: dict[str, Any], titles: Mapping[str, str]) -> str:
    """Describe an alert's source, what inhibits it, who acknowledged it and what silences it."""
    remarks = [] if alert["state"] == "pending" else [f"value when it became {alert['severity']}"]
    remarks.append(f"source: {alert_ids.source_name(alert['source'])}")
    if alert["inhibited_by"]:
        remarks.append(f"inhibited by {alert_ids.describe(alert['inhibited_by'], titles)}")
    for key, words in (("acked_by", "acknowledged by"), ("silenced_by", "silenced by")):
        if alert[key]:
            remarks.append(f"{words} {alert[key]}")
    return f" ({'; '.join(remarks)})"


def _by_type(types: Mapping[str, int] | None, errors: int | None) -> str:
    """List errors by type, most frequent first, on one line of limited length."""
    if not types:
        if errors is None:
            return formatting.UNKNOWN
        return "not in the snapshots" if errors else "none"
    most = sorted(types.items(), key=lambda found: (-found[1], found[0]))
    rest = sum(n for _, n in most[MOST_TYPES:])
    return ", ".join(
        [f"{formatting.single_line(kind, 40)} {n:,}" for kind, n in most[:MOST_TYPES]]
        + ([f"others {rest:,}"] if rest else [])
    )


def _fallbacks(count: int | None, provider: str) -> str:
    """Return how many requests to a provider another one served."""
    if not count:
        return formatting.number(count)
    other = next(name for name in PROVIDERS if name != provider)
    return (
        f"{count:,} request{'' if count == 1 else 's'} to {provider} served by {other} instead, each after its retries"
    )


def _page_uptime(provider: str, snapshot: SnapshotRow) -> str:
    """Return the page's own ``uptime``: cumulative, a whole percent rounded half up, 100 before the first request."""
    successes, requests = getattr(snapshot, f"{provider}_successes"), getattr(snapshot, f"{provider}_requests")
    if requests is None or successes is None:
        return "no data"
    return f"{(200 * successes + requests) // (2 * requests) if requests else 100} %"


class Recent:
    """
    What a live view has read of an app, so that its next status reads only what is new.

    A status that was loaded with it is valid until the next one is loaded.

    Attributes:
        lock: Held while the data of its statuses changes; hold it to compute their figures in another thread.
    """

    def __init__(self, workspace: Workspace):
        store, settings, rules = workspace.store, workspace.settings, workspace.rules
        self.lock = threading.RLock()
        self.counters = CounterReader(
            store, settings.app, rules.pages, self.lock, post_every_s=settings.post_every_s, wired=settings.wired
        )
        self.probes = ProbeReader(store, settings.app, settings.fallback, self.lock)
        self.fills = FillReader(FillStore(store, settings.app), rules)
        self.alerts = TransitionReader(AlertStore(store, settings.app))


def view(
    store: Database,
    settings: Settings,
    rules: Rules,
    window: Window,
    known_at: datetime | None = None,
    recent: Recent | None = None,
    before: timedelta = timedelta(0),
) -> Status:
    """
    Load the status of an app over a window.

    Args:
        known_at: As known at a moment; None is all that is known.
        recent: What was read before of all that is known; None reads everything.
        before: How long before the window snapshots are needed too.
    """
    # Reach back over the longest window of any rule but the budgets', so that each alert can be shown with its start.
    longest = max(rule.window for rule in rules.rules.values() if not rule.burn)
    reach = Window(min(window.start, window.end - longest), window.end)
    first_us = min(reach.start_us, clock.micros(window.start - before))
    steady_us = STEADY_US if recent is None else STEADY_LIVE_US
    steady = Window(clock.instant(first_us - first_us % steady_us), reach.end)
    if recent is None:
        counter_history = counters.load(
            store, settings.app, steady, known_at, rules.pages, post_every_s=settings.post_every_s, wired=settings.wired
        )
        probed = probes_history.load(SampleStore(store, settings.app), reach, known_at, settings.fallback)
        traded, rows = fill_figures.pnl_of_fills(
            FillStore(store, settings.app), rules, window, None if known_at is None else clock.micros(known_at)
        )
    else:
        counter_history, probed = recent.counters.read(steady), recent.probes.read(reach)
        traded, rows = recent.fills.read(window)
    notified = NotificationStore(store, settings.app)
    recorded = _recorded(store, settings.app, window.end_us, known_at, recent)
    evaluated = (
        (evaluator.data_range(store, settings.app, window.start_us, window.end_us) or (window.end_us, window.end_us))
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
        counter_history,
        rules,
        recorded,
        probed if probed.any else None,
        notified.acks(),
        notified.silences(),
        traded,
        rows,
        Incidents(store, settings, rules).of_alerts(known_at),
        marks,
        refused,
        evaluated,
    )


def _recorded(
    store: Database, app: str, at_us: int, known_at: datetime | None, recent: Recent | None
) -> list[Transition] | None:
    """Read the recorded transitions of a session up to a moment; None where alerts were not evaluated up to then."""
    record = AlertStore(store, app)
    evaluated = record.evaluated()
    if evaluated is None or not evaluated[0] <= at_us <= evaluated[1] + LATELY_US:
        return None
    return history.load_transitions(record, at_us, at_us, known_at) if recent is None else recent.alerts.read(at_us)


def status(
    store: Database,
    settings: Settings,
    rules: Rules,
    *,
    as_of: datetime | None = None,
    length: timedelta = timedelta(hours=1),
    known_at: datetime | None = None,
) -> Status:
    """Load the status as of a moment (default: now)."""
    return view(store, settings, rules, Window.before(as_of or clock.now(), length), known_at)


def view_at(
    workspace: Workspace,
    at: datetime,
    length: timedelta,
    recent: Recent | None = None,
    before: timedelta = timedelta(0),
) -> Status:
    """Load the status at a moment, over a window of the given length before it; see `view`."""
    return view(workspace.store, workspace.settings, workspace.rules, Window.before(at, length), None, recent, before)


def status_of(
    workspace: Workspace,
    as_of: str | datetime | None = None,
    window: str = "1h",
    known_at: str | datetime | None = None,
) -> Status:
    """
    Load the status as of a moment, from arguments as people type them.

    Args:
        as_of: ISO 8601, without an offset New York; empty is now.
        window: The window's length, such as ``1h``.
        known_at: Only what was known by then; empty is all that is known.

    Raises:
        UsageError: The window is longer than `MOST_WINDOW`; evaluating its alerts would take minutes.
    """
    length = time_parsing.parse_span(window)
    if length > MOST_WINDOW:
        raise UsageError(
            f"the window {formatting.single_line(window, 40)} is too long: panels show at most {MOST_WINDOW.days}d. "
            f"Use a shorter window, or ops report or ops alerts for a longer one."
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
    Return the snapshots of a status' window as a frame, one row per snapshot.

    Columns: ``ts`` and ``known_at`` (UTC), ``page``, then the fields of `snapshot.FIELDS` as the page posted them
    (cumulative since its load). Without snapshots the frame is empty.
    """
    import pandas

    names = [f.name for f in FIELDS if f.name not in ("page_id", "page_clock_ms")]
    rows = [
        (clock.instant(k.ts_us), clock.instant(k.known_at_us), page.name, *(getattr(k, n) for n in names))
        for page in view.counters.pages
        for k in page.snapshots
        if view.window.start_us < k.ts_us <= view.window.end_us
    ]
    return pandas.DataFrame(rows, columns=[*FIGURE_COLUMNS, *names]).sort_values(["ts", "page"], ignore_index=True)
