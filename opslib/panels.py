"""
This module knows the four panels: a question, its verdict, its table, its picture; and nothing else.

A `View` is what is shown of one app at one moment. The dashboard, the report, the shell and the receiver all ask the
same view, so that a figure is the same wherever it stands.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from opslib import clock, findings, indicators, rises, tape as tape_module, text, watch
from opslib.clock import Window
from opslib.alerts import Transition
from opslib.record import Record
from opslib.rules import Rules
from opslib.settings import Settings
from opslib.snapshot import PROVIDERS
from opslib.store import Store
from opslib.tape import Tape
from opslib.verdicts import EXIT_CODES, Finding, worst

LATELY_US = 30_000_000  # Judged so lately is judged up to now.
NAMES = {"providers": "Data Provider Health", "greeks": "Greeks Quality", "pnl": "P&L Accuracy", "system": "System Health"}


@dataclass(frozen=True)
class Panel:
    """
    One question answered: its verdict, the sentences behind it, a table and a picture.

    Its text says the same on every machine; its picture is for the eyes.

    Attributes:
        verdict: ok, warning, critical or unknown.
        findings: Every judged figure behind the verdict.
        rows: Figure, our value, and the guide's literal reading of the page where that differs.
        notes: Facts a reader needs beside the figures.
        draw: Draws the picture on an Axes.
    """

    name: str
    title: str
    verdict: str
    findings: tuple[Finding, ...]
    rows: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]
    draw: Callable[[Any], Any]

    @property
    def told(self) -> str:
        """The verdict in words; where nothing could be judged, that is said."""
        return self.verdict if any(f.counted for f in self.findings) else f"{self.verdict} (nothing to judge)"

    @property
    def sentences(self) -> list[str]:
        """What the verdict rests on, worst first; what nothing measures yet is left to the end, in one line."""
        told = sorted((f for f in self.findings if f.counted), key=lambda f: ("critical", "unknown", "warning", "ok").index(f.verdict))
        silent = [f.sentence for f in self.findings if not f.counted]
        return [f"{f.severity or f.verdict}: {f.sentence}" for f in told] + ([f"not counted: {'; '.join(silent)}"] if silent else [])

    def __repr__(self) -> str:
        table = text.table(["figure", "value", "guide reads"], [list(r) for r in self.rows])
        return "\n".join([f"{self.title}: {self.told}", *(f"  {s}" for s in self.sentences), "", table, *(f"  {n}" for n in self.notes)])

    def _html(self) -> str:
        e = text.in_html
        rows = "".join(f"<tr><th scope='row'>{e(a)}</th><td>{e(b)}</td><td>{e(c)}</td></tr>" for a, b, c in self.rows)
        return (
            f"<section class='panel {self.verdict}'><p><strong>{e(self.title)}: {e(self.told)}</strong></p><ul>{''.join(f'<li>{e(s)}</li>' for s in self.sentences)}</ul>"
            f"<table><thead><tr><th>figure</th><th>value</th><th>guide reads</th></tr></thead><tbody>{rows}</tbody></table>{''.join(f'<p>{e(n)}</p>' for n in self.notes)}</section>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._html()}

    def _ipython_display_(self) -> None:
        from opslib import plots

        plots.shown(self._repr_mimebundle_(), self.draw, f"{self.title} over time", f"{self.title} over time; {self.verdict}: {'; '.join(self.sentences[:1])}")


class View:
    """
    What is shown of one app at one moment.

    Attributes:
        app: Whose figures.
        window: The figures' window, (start, end]; its end is the moment of the view.
        known_at: Only what had come into the store by then; None is all that is known.
        tape: The looks behind it.
        rules: The limits in force.
        recorded: What became of alerts, where they were judged up to the moment of the view; else None.
    """

    def __init__(self, app: str, window: Window, known_at: datetime | None, tape: Tape, rules: Rules, recorded: list[Transition] | None = None):
        self.app, self.window, self.known_at, self.tape, self.rules, self.recorded = app, window, known_at, tape, rules, recorded

    @cached_property
    def findings(self) -> list[Finding]:
        """Every rule judged over the view's window."""
        return findings.at(self.tape, self.rules, self.window)

    @cached_property
    def alerts(self) -> list[dict[str, Any]]:
        """How every alert stands at the moment of the view: by the record, or where nobody judged, by the window's own looks."""
        if self.recorded is not None:
            return rises.standing(self.recorded, self.rules)
        return rises.standing(watch.on(self.tape, self.rules, self.window.start_us, self.window.end_us), self.rules)

    @cached_property
    def coverage(self) -> float | None:
        """Looks received ÷ expected; None where the market was closed throughout."""
        return self.tape.coverage(self.window)

    @cached_property
    def verdict(self) -> str:
        """What everything adds up to; a panel in which nothing counts is shown, not counted."""
        return worst(f.verdict for f in self.findings if f.counted)

    def _of(self, panel: str) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.rule.panel == panel)

    def _verdict_of(self, panel: str) -> str:
        return worst(f.verdict for f in self._of(panel) if f.counted)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The figures of each panel; a rate that rests on too few looks is None, the counts are what was seen."""
        known = {(f.rule.name, f.subject): f.verdict != "unknown" or not f.counted for f in self.findings}
        providers = indicators.providers(self.tape, self.window)
        greeks = indicators.greeks(self.tape, self.window)
        for name, found in providers.items():
            found["availability"] = found["availability"] if known["availability", name] else None
        for rate, rule in (("valid_rate", "greeks_valid"), ("gamma_zero_rate", "gamma_zero"), ("delta_out_of_bounds_rate", "delta_out_of_bounds")):
            greeks[rate] = greeks[rate] if known[rule, "app"] else None
        pnl = indicators.pnl(self.tape, self.window, self.rules["backtest_variance"].min_count)
        if (pnl["variance_trades"] or 0) < self.rules["backtest_variance"].min_count:
            pnl["backtest_variance_pp"] = None
        system = indicators.system(self.tape, self.window)
        system["errors_per_hour"] = None if system["errors"] is None or not known["errors", "app"] or not self.window.seconds else system["errors"] * 3600 / self.window.seconds
        return {"providers": providers, "greeks": greeks, "pnl": pnl, "system": system}

    def panel(self, name: str) -> Panel:
        """One of the four panels: providers, greeks, pnl, system."""
        from opslib import plots

        if name not in NAMES:
            raise LookupError(f"there is no panel {name!r}; there are: {', '.join(NAMES)}.{text.nearest(name, NAMES)}")
        rows = {"providers": self._provider_rows, "greeks": self._greeks_rows, "pnl": self._pnl_rows, "system": self._system_rows}[name]()
        draw = {"providers": plots.providers, "greeks": plots.greeks, "pnl": plots.pnl, "system": plots.system}[name]
        return Panel(name, NAMES[name], self._verdict_of(name), self._of(name), tuple(rows), tuple(self._notes(name)), lambda ax: draw(ax, self.tape, self.window, self.rules))

    @property
    def panels(self) -> list[Panel]:
        """All four."""
        return [self.panel(name) for name in NAMES]

    def _guide(self, read: Callable[[Any], str]) -> str:
        """What the guide's recipe would read off the page seen last: its own figures, since it was loaded."""
        seen = self.tape.seen_in(self.window)
        return read(seen[-1][1]) if seen else "nothing"

    def _provider_rows(self) -> list[tuple[str, str, str]]:
        rows = []
        for name in PROVIDERS:
            f = self.figures["providers"][name]
            guide = self._guide(lambda k, name=name: _page_uptime(getattr(k, f"{name}_successes"), getattr(k, f"{name}_requests")))
            rows += [
                (f"{name} availability", text.ratio(f["availability"]), guide),
                (f"{name} requests / failures", f"{text.number(f['requests'])} / {text.number(f['failures'])}", ""),
                (f"{name} fallbacks", text.number(f["fallbacks"]), ""),
            ]
        return rows

    def _greeks_rows(self) -> list[tuple[str, str, str]]:
        f = self.figures["greeks"]
        guide = self._guide(lambda k: f"{100 * k.greeks_valid / k.validations:.2f} %" if k.validations and k.greeks_valid is not None else "0 ÷ 0")
        return [
            ("valid Greeks", text.ratio(f["valid_rate"]), guide),
            ("validations / with an error", f"{text.number(f['validations'])} / {text.number(f['invalid'])}", ""),
            ("gamma zero or missing", f"{text.number(f['gamma_zero'])} ({text.ratio(f['gamma_zero_rate'])})", self._guide(lambda k: text.number(k.gamma_zero))),
            ("delta outside -1 to 1", f"{text.number(f['delta_out_of_bounds'])} ({text.ratio(f['delta_out_of_bounds_rate'])})", self._guide(lambda k: text.number(k.delta_out_of_bounds))),
            ("IV anomalies", text.number(f["iv_anomalies"]), self._guide(lambda k: text.number(k.iv_anomalies))),
        ]

    def _pnl_rows(self) -> list[tuple[str, str, str]]:
        f = self.figures["pnl"]
        percent = lambda v: text.number(v, "%", 2)  # noqa: E731
        return [
            ("trades", text.number(f["trades"]), self._guide(lambda k: text.number(k.trades))),
            ("mean gross result", percent(f["gross_pct"]), self._guide(lambda k: percent(k.gross_mean_pct))),
            ("mean net result", percent(f["net_pct"]), self._guide(lambda k: percent(k.net_mean_pct))),
            ("commission / slippage", f"{text.dollars(f['commission_usd'])} / {text.dollars(f['slippage_usd'])}", ""),
            ("backtest variance", text.number(f["backtest_variance_pp"], "points", 2), self._guide(lambda k: text.number(k.backtest_variance_pp, "%", 2))),
        ]

    def _system_rows(self) -> list[tuple[str, str, str]]:
        f = self.figures["system"]
        connected = {True: "connected", False: "disconnected", None: "unknown"}[f["websocket_connected"]]
        down = f["websocket_down_seconds"]
        return [
            ("errors", f"{text.number(f['errors'])} ({text.number(f['errors_per_hour'], 'per h', 1)})", self._guide(lambda k: text.number(k.errors))),
            ("WebSocket", f"{connected}, down {text.UNKNOWN if down is None else text.duration(down)}", self._guide(lambda k: {True: "✓ Connected", False: "✗ Disconnected", None: "nothing"}[k.websocket_connected])),
            ("pages seen / reloads", f"{text.number(f['pages'])} / {text.number(f['restarts'])}", ""),
            ("memory of the largest page", text.number(f["memory_mb"], "MB"), ""),
        ]

    def _notes(self, panel: str) -> list[str]:
        notes = [f"looks received: {text.ratio(self.coverage, 1)} of those expected" if self.coverage is not None else "market closed: no looks expected"]
        if panel == "system":
            f = self.figures["system"]
            if f["clock_skew_s"] is not None and abs(f["clock_skew_s"]) > self.rules.skew_told_s:
                notes.append(f"a page's clock is {text.duration(abs(f['clock_skew_s']))} {'ahead of' if f['clock_skew_s'] > 0 else 'behind'} ours; every time shown is ours")
            if f["last_error_message"]:
                notes.append(f"newest error message: {text.one_line(f['last_error_message'])}")
        return notes

    def as_json(self) -> dict[str, Any]:
        """The view as CONTRACT.md's ``ops status -o json`` shows it."""
        coverage = None if self.coverage is None else round(self.coverage, 4)
        figures = self.figures
        verdicts = {f.subject: f.verdict for f in self._of("providers") if f.rule.name == "availability"}
        subjects = {name: {"verdict": verdicts[name], "source": findings.SOURCE, "coverage": coverage} | f for name, f in figures["providers"].items()}
        head = lambda name: {"verdict": self._verdict_of(name), "source": findings.SOURCE, "coverage": coverage}  # noqa: E731
        return {
            "app": self.app,
            "as_of": text.iso(self.window.end),
            "seq": self.tape.seq,
            "window": {"from": text.iso(self.window.start), "to": text.iso(self.window.end)},
            "verdict": self.verdict,
            "panels": {
                "providers": {"verdict": self._verdict_of("providers"), "coverage": coverage, "subjects": subjects, "probes": {}},
                **{name: head(name) | figures[name] for name in ("greeks", "pnl", "system")},
            },
            "alerts": self.alerts,
        }

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown."""
        return EXIT_CODES[self.verdict]

    def __repr__(self) -> str:
        known = f", as known at {text.moment(self.known_at)}" if self.known_at else ""
        head = [f"{self.app}: {self.verdict}", f"{self.window}{known}"]
        seen = "market closed" if self.coverage is None else f"{text.ratio(self.coverage, 1)} of the expected looks"
        now = [f"{a['state']}, since {clock.parse(a['since']).astimezone(text.NEW_YORK):%H:%M:%S} New York: {a['severity']}: {a['sentence']}{' (explained by ' + a['inhibited_by'] + ')' if a['inhibited_by'] else ''}" for a in self.alerts]
        return "\n".join([*head, f"{self.tape.looks_in(self.window):,} looks of {len(self.tape.seen_in(self.window))} pages; {seen}", *now])


def _page_uptime(successes: int | None, requests: int | None) -> str:
    """The page's own ``uptime``: cumulative, rounded half up to a whole percent, 100 before the first request."""
    if requests is None or successes is None:
        return "nothing"
    return f"{(200 * successes + requests) // (2 * requests) if requests else 100} %"


def view(store: Store, settings: Settings, rules: Rules, window: Window, known_at: datetime | None = None) -> View:
    """What is to be shown of an app for a window, as known at a moment (None: all that is known)?"""
    # Far enough back for every rule's own window but the budgets', so that what is wrong now can be told with since when.
    longest = max(rule.window for rule in rules.rules.values() if not rule.burn)
    reach = Window(min(window.start, window.end - longest), window.end)
    tape = tape_module.load(store, settings.app, reach, known_at, rules.pages, post_every_s=settings.post_every_s, wired=settings.wired)
    return View(settings.app, window, known_at, tape, rules, _recorded(store, settings.app, window.end_us, known_at))


def _recorded(store: Store, app: str, at_us: int, known_at: datetime | None) -> list[Transition] | None:
    """What became of the alerts of a session up to a moment, where they were judged up to then."""
    record = Record(store, app)
    judged = record.judged()
    if judged is None or not judged[0] <= at_us <= judged[1] + LATELY_US:
        return None
    return rises.recorded(record, at_us, at_us, known_at)


def status(store: Store, settings: Settings, rules: Rules, *, as_of: datetime | None = None, length: timedelta = timedelta(hours=1), known_at: datetime | None = None) -> View:
    """How does everything stand, as of a moment (default: now)?"""
    return view(store, settings, rules, Window.before(as_of or clock.now(), length), known_at)
