"""
Test rules on stored history, and on days resampled from it with injected problems of known size.

A notification is a severity change that people are notified of. It is *right* if there was a problem of its rule and
subject (until the rule's window has passed it), *beside* if there was only a problem of another rule, and *false*
otherwise.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from opslib.alerting import evaluator, replay
from opslib.alerting import history as alerting_history
from opslib.alerting.alerts import GRID_US, Alerts
from opslib.alerting.history import SeverityChange
from opslib.foundation import clock, files, formatting, time_parsing
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.config.rules import SENT, Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import ImportRefused, UsageError
from opslib.foundation.market_calendar import Session
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.snapshot_columns import COUNTERS, FIELDS, WIRED_FIELDS, SnapshotRow
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.store import SnapshotStore

SIZES = (1.2, 1.5, 2.0, 5.0)  # Multiples of the first limit that notifies.
MINUTES = (2, 40)
LASTING = (5, 15, 40)  # Classes of the duration of problems, up to this many minutes.
BLOCK_US = 600 * SECOND
WARM_UP_S = 300
_COUNTERS = tuple(c.name for c in COUNTERS)
_EMPTY: dict[str, Any] = dict.fromkeys(SnapshotRow._fields)
Progress = Callable[[Iterable[Any], int | None, str, str], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class KnownIncident:
    """
    A known problem in the data.

    Attributes:
        size: Multiple of the first limit that notifies; None if it is not known.
    """

    rule: str
    subject: str
    start_us: int
    end_us: int
    size: float | None = None


@dataclass(slots=True)
class Score:
    """
    The score of a table of rules.

    Attributes:
        sessions: Number of evaluated trading days.
        found: By size and by duration, the number of problems and of detected ones: {"2×": [n, found]}.
        lead_s: For each problem, seconds from its beginning to its first notification.
        right, beside, false: Numbers of notifications.
        flaps: Notifications of a problem that had already been notified at that severity.
        false_notifications: Each false notification: rule, subject, severity, time.
    """

    sessions: int = 0
    found: dict[str, list[int]] = field(default_factory=dict)
    lead_s: list[float] = field(default_factory=list)
    right: int = 0
    beside: int = 0
    false: int = 0
    flaps: int = 0
    false_notifications: list[str] = field(default_factory=list)

    def add(self, other: "Score") -> None:
        """Add another score."""
        self.sessions += other.sessions
        self.lead_s += other.lead_s
        self.false_notifications += other.false_notifications
        for name in ("right", "beside", "false", "flaps"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for key, (n, found) in other.found.items():
            mine = self.found.setdefault(key, [0, 0])
            self.found[key] = [mine[0] + n, mine[1] + found]

    @property
    def precision(self) -> float | None:
        """The precision: right ÷ (right + false) notifications; None without any."""
        return self.right / (self.right + self.false) if self.right + self.false else None

    def as_json(self) -> dict[str, Any]:
        """Return the score for programs."""
        lead = {"median": statistics.median(self.lead_s), "longest": max(self.lead_s)} if self.lead_s else None
        return asdict(self) | {
            "precision": self.precision,
            "lead": lead,
            "false_in_100_days": 100 * self.false / self.sessions if self.sessions else None,
        }


def score(found: list[SeverityChange], incidents: list[KnownIncident], rules: Rules, sessions: int) -> Score:
    """Compare the notifications with the known problems."""
    score = Score(sessions)
    pages = [r for r in found if r.sent]

    def until(t: KnownIncident, r: SeverityChange) -> int:
        return t.end_us + clock.span_us(rules[r.rule].lookback(r.severity) + rules[r.rule].keep_firing_for)

    def during(t: KnownIncident, r: SeverityChange) -> bool:
        return t.start_us <= r.fired_us <= until(t, r)

    for t in incidents:
        mine = sorted(
            (r for r in pages if (r.rule, r.subject) == (t.rule, t.subject) and during(t, r)), key=lambda r: r.fired_us
        )
        for key in (f"{t.size:g}×" if t.size else "unsized", _lasting(t)):
            n = score.found.setdefault(key, [0, 0])
            score.found[key] = [n[0] + 1, n[1] + bool(mine)]
        score.lead_s += [(mine[0].fired_us - t.start_us) / SECOND] if mine else []
        score.flaps += len(mine) - len({r.severity for r in mine})
    for r in pages:
        if any((r.rule, r.subject) == (t.rule, t.subject) and during(t, r) for t in incidents):
            score.right += 1
        elif any(during(t, r) for t in incidents):
            score.beside += 1
        else:
            score.false += 1
            score.false_notifications.append(
                f"{r.rule} {r.subject} {r.severity} {formatting.iso(clock.instant(r.fired_us))}: {r.sentence}"
            )
    return score


def _lasting(t: KnownIncident) -> str:
    minutes = (t.end_us - t.start_us) / (60 * SECOND)
    return f"up to {next((m for m in LASTING if minutes <= m), math.ceil(minutes))} min"


def read_known_incidents(path: Path, rules: Rules) -> list[KnownIncident]:
    """
    Read known problems from a file: a JSON list of rule, subject, from, to and optionally size.

    Raises:
        UsageError: The file is not such a list.
    """
    try:
        rows = json.loads(files.read_text(path))
        if not isinstance(rows, list):
            raise TypeError(f"a {type(rows).__name__}")
        found = [
            KnownIncident(
                r["rule"],
                r.get("subject", "app"),
                clock.micros(time_parsing.parse(r["from"])),
                clock.micros(time_parsing.parse(r["to"])),
                r.get("size"),
            )
            for r in rows
        ]
    except (ImportRefused, RecursionError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise UsageError(
            f"{path} is not a list of problems ({problem.__class__.__name__}: {problem}); expected "
            f'[{{"rule", "subject", "from", "to"}}, …].'
        ) from None
    for t in found:
        if t.rule not in rules.rules:
            raise UsageError(f"{path}: there is no rule {t.rule!r}.{formatting.nearest(t.rule, rules.rules)}")
    return found


def score_history(
    store: Database,
    settings: Settings,
    tables: dict[str, Rules],
    window: Window,
    incidents: list[KnownIncident] | None,
    progress: Progress,
) -> tuple[dict[str, Score], list[KnownIncident]]:
    """
    Score each table of rules on stored history.

    Returns:
        A score for each table, and the problems: the given ones; without any, those that the first table notified of,
        so that none of its notifications counts as false.
    """
    found: dict[str, list[SeverityChange]] = {}
    part = evaluator.data_range(store, settings.app, window.start_us, window.end_us)
    sessions = [
        s
        for s, _, _ in (evaluator.sessions(*part) if part else ())
        if SnapshotStore(store).snapshots(settings.app, clock.micros(s.opens), clock.micros(s.closes), None)
    ]
    if not sessions:
        raise UsageError(
            f"there is no snapshot of {settings.app} in {window}; stored history was expected. Import snapshots or "
            f"choose other days."
        )
    for name, rules in tables.items():
        transitions, alerts = [], None
        for session in progress(sessions, len(sessions), f"history by the table {name}", "days"):
            became, alerts = replay.replay_session(
                store, settings, rules, clock.micros(session.opens), clock.micros(session.closes) + GRID_US
            )
            transitions += became
        found[name] = alerting_history.severity_changes(transitions, rules, alerts)
    if incidents is None:
        own = next(iter(found.values()))
        incidents = [
            KnownIncident(r.rule, r.subject, r.pending_us, r.over_us or window.end_us)
            for r in own
            if r.severity in SENT
        ]
    return {name: score(rows, incidents, tables[name], len(sessions)) for name, rows in found.items()}, incidents


@dataclass(frozen=True)
class Background:
    """
    The counts of a page without problems, to be resampled in blocks of ten minutes.

    Attributes:
        session: The session whose hours resampled days use.
        blocks: For each block, for every five seconds: the increases of the counters, and the variance.
    """

    session: Session
    blocks: tuple[tuple[tuple[dict[str, int], float], ...], ...]


def extract_background(
    store: Database, settings: Settings, rules: Rules, window: Window, incidents: list[KnownIncident]
) -> Background:
    """
    Return the blocks of ten minutes of stored history without a known problem.

    Raises:
        UsageError: There is no such block.
    """
    blocks = []
    kept: Session | None = None
    part = evaluator.data_range(store, settings.app, window.start_us, window.end_us)
    for session, _, _ in evaluator.sessions(*part) if part else ():
        opens, closes = clock.micros(session.opens), clock.micros(session.closes)
        counters = CounterHistory(rules.pages, settings.post_every_s)
        counters.add(SnapshotStore(store).snapshots(settings.app, opens - BLOCK_US, closes, None))
        for start in range(opens, closes - BLOCK_US + 1, BLOCK_US):
            clear = not any(t.start_us < start + BLOCK_US and t.end_us > start for t in incidents)
            covered = counters.coverage(Window(clock.instant(start), clock.instant(start + BLOCK_US)))
            if clear and covered is not None and covered >= rules["availability"].min_coverage:
                blocks.append(
                    tuple(_step(counters, at) for at in range(start + GRID_US, start + BLOCK_US + 1, GRID_US))
                )
                kept = session
    if not blocks or kept is None:
        raise UsageError(
            f"{window} has no block of ten minutes without a problem, which resampling needs. Choose a longer time "
            f"range."
        )
    return Background(kept, tuple(blocks))


def _step(counters: CounterHistory, at_us: int) -> tuple[dict[str, int], float]:
    window = Window(clock.instant(at_us - GRID_US), clock.instant(at_us))
    increases = {name: increase for name in _COUNTERS if (increase := counters.increase(name, window))}
    variances = [
        abs(snapshot.backtest_variance_pp)
        for _, snapshot in counters.pages_in(window)
        if snapshot.backtest_variance_pp is not None
    ]
    return increases, max(variances, default=0.0)


def _draw_incidents(rng: Random, rules: Rules, session: Session) -> list[KnownIncident]:
    """Draw the problems of one day: none on half of the days, up to three separate ones on the others."""
    kinds = [
        ("availability", "massive"),
        ("greeks_valid", "app"),
        ("gamma_zero", "app"),
        ("delta_out_of_bounds", "app"),
        ("errors", "app"),
        ("websocket_down", "app"),
        ("backtest_variance", "app"),
    ]
    opens, closes = clock.micros(session.opens), clock.micros(session.closes)
    found: list[KnownIncident] = []
    for n in range(rng.choice((0, 0, 0, 1, 2, 3))):
        rule, subject = rng.choice(kinds)
        size = rng.choice(SIZES)
        lasts_s = math.exp(rng.uniform(math.log(60 * MINUTES[0]), math.log(60 * MINUTES[1])))
        if rule == "websocket_down":
            lasts_s = size * _limit(rules, rule)  # The size of this problem is its duration.
        third = (closes - opens) // 3
        start = opens + n * third + round(rng.uniform(300, third / SECOND - lasts_s - 300)) * SECOND
        found.append(KnownIncident(rule, subject, start, start + round(lasts_s) * SECOND, size))
    return found


def _limit(rules: Rules, rule: str) -> float:
    """Return the first limit of a rule that notifies."""
    return next(
        float(limit) for severity, limit in rules[rule].thresholds if severity in SENT and not isinstance(limit, str)
    )


def _inject(
    rng: Random, rules: Rules, incidents: list[KnownIncident], at_us: int, increases: dict[str, int], variance_pp: float
) -> tuple[dict[str, int], float, bool]:
    """Apply problems to five seconds of counts; return (increases, variance, whether the socket is connected)."""
    increases, connected = dict(increases), True
    for t in incidents:
        if not t.start_us < at_us <= t.end_us or t.size is None:
            continue
        limit = _limit(rules, t.rule)

        def some(n: int, p: float) -> int:
            return sum(rng.random() < p for _ in range(n))

        match t.rule:
            case "availability":
                failed = some(increases.get("massive_successes", 0), min(1.0, t.size * (1 - limit)))
                increases["massive_successes"] = increases.get("massive_successes", 0) - failed
                increases["massive_failures"] = increases.get("massive_failures", 0) + failed
            case "greeks_valid" | "gamma_zero" | "delta_out_of_bounds":
                bad = some(
                    increases.get("greeks_valid", 0),
                    min(1.0, t.size * (1 - limit if t.rule == "greeks_valid" else limit)),
                )
                increases["greeks_valid"] = increases.get("greeks_valid", 0) - bad
                increases["greeks_invalid"] = increases.get("greeks_invalid", 0) + bad
                if t.rule != "greeks_valid":
                    increases[t.rule] = increases.get(t.rule, 0) + bad
            case "errors":
                a_step = t.size * limit * GRID_US / (t.end_us - t.start_us)
                increases["errors"] = increases.get("errors", 0) + int(a_step) + (rng.random() < a_step % 1)
            case "websocket_down":
                connected = False
            case "backtest_variance":
                variance_pp = t.size * limit
    return increases, variance_pp, connected


def _snapshots(rng: Random, rules: Rules, back: Background, incidents: list[KnownIncident]) -> Iterator[SnapshotRow]:
    """Yield the snapshots of one page that posts every five seconds, from before the open to the close."""
    opens, closes = clock.micros(back.session.opens), clock.micros(back.session.closes)
    loaded = opens - 2 * WARM_UP_S * SECOND
    held = dict.fromkeys(_COUNTERS, 0) | {
        "trades": 40,
        "massive_requests": 500,
        "massive_successes": 500,
        "tradier_requests": 100,
        "tradier_successes": 100,
    }
    plain = {f.name: 0.0 for f in FIELDS if f.kind == "number"}
    steps: tuple[tuple[dict[str, int], float], ...] = ()
    for n, at_us in enumerate(range(opens - WARM_UP_S * SECOND, closes + 1, GRID_US), 1):
        steps = steps or rng.choice(back.blocks)
        (increases, variance_pp), steps = steps[0], steps[1:]
        increases, variance_pp, connected = _inject(rng, rules, incidents, at_us, increases, variance_pp)
        for name, more in increases.items():
            held[name] += more
        now: dict[str, Any] = {
            "seq": n,
            "ts_us": at_us,
            "known_at_us": at_us,
            "digest": b"",
            "load_ms": loaded // 1000,
            "page_clock_ms": at_us // 1000,
            "uptime_s": (at_us - loaded) / SECOND,
        }
        now |= {"trades": 40, "backtest_variance_pp": variance_pp, "websocket_connected": connected}
        yield SnapshotRow(**(_EMPTY | plain | held | now))


def _day(arguments: tuple[Background, dict[str, Rules], float, str]) -> dict[str, Score]:
    """Score each table on one resampled day."""
    back, tables, every_s, seed = arguments
    rng, first = Random(seed), next(iter(tables.values()))
    incidents = _draw_incidents(rng, first, back.session)
    snapshots = list(_snapshots(rng, first, back, incidents))
    found = {}
    for name, rules in tables.items():
        counters, alerts, transitions, i = (
            CounterHistory(rules.pages, every_s, wired=frozenset(WIRED_FIELDS)),
            Alerts(rules),
            [],
            0,
        )
        for _, instants, _ in evaluator.sessions(clock.micros(back.session.opens), clock.micros(back.session.closes)):
            for at_us in instants:
                until = i
                while until < len(snapshots) and snapshots[until].ts_us <= at_us:
                    until += 1
                counters.add(snapshots[i:until])
                i = until
                transitions += evaluator.evaluate_at(at_us, alerts, counters, rules)
        found[name] = score(alerting_history.severity_changes(transitions, rules, alerts), incidents, rules, 1)
    return found


def score_resampled(
    back: Background, tables: dict[str, Rules], post_every_s: float, days: int, seed: int, progress: Progress
) -> dict[str, Score]:
    """
    Score each table on days resampled from the background, with injected problems of 1.2 to 5 times the limit.
    """
    scores = {name: Score() for name in tables}
    with ProcessPoolExecutor() as pool:
        arguments = ((back, tables, post_every_s, f"{seed}/{day}") for day in range(days))
        for found in progress(pool.map(_day, arguments), days, f"{days} resampled days, seed {seed}", "days"):
            for name, score in found.items():
                scores[name].add(score)
    return scores
