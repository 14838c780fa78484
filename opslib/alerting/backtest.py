"""
Try limits on stored history, and on days resampled from it into which troubles of known size are put.

A page is a rise that somebody is told of. It is *right* when the trouble it is of was there (its rule and subject, from
its beginning until its window has left it), *beside* when it came with a trouble of another rule, and *false*
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

SIZES = (1.2, 1.5, 2.0, 5.0)  # Times the limit at which somebody is first told.
MINUTES = (2, 40)
LASTING = (5, 15, 40)  # How long troubles last is told in these classes, up to so many minutes.
BLOCK_US = 600 * SECOND
WARM_UP_S = 300
_COUNTERS = tuple(c.name for c in COUNTERS)
_EMPTY: dict[str, Any] = dict.fromkeys(SnapshotRow._fields)
Progress = Callable[[Iterable[Any], int | None, str, str], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class KnownIncident:
    """
    What was really wrong.

    Attributes:
        size: Times the limit at which somebody is first told; None where nobody knows.
    """

    rule: str
    subject: str
    start_us: int
    end_us: int
    size: float | None = None


@dataclass(slots=True)
class Score:
    """
    How a table did.

    Attributes:
        sessions: Trading days judged.
        found: Of each size and lasting, how many troubles there were and how many were told: {"2×": [n, found]}.
        lead_s: From a trouble's beginning to its first page, seconds, each one.
        right, beside, false: Pages.
        flaps: Pages of a trouble that had already paged at that severity.
        false_pages: Each false one: rule, subject, severity, when.
    """

    sessions: int = 0
    found: dict[str, list[int]] = field(default_factory=dict)
    lead_s: list[float] = field(default_factory=list)
    right: int = 0
    beside: int = 0
    false: int = 0
    flaps: int = 0
    false_pages: list[str] = field(default_factory=list)

    def add(self, other: "Score") -> None:
        """Add what another one counted."""
        self.sessions += other.sessions
        self.lead_s += other.lead_s
        self.false_pages += other.false_pages
        for name in ("right", "beside", "false", "flaps"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for key, (n, found) in other.found.items():
            mine = self.found.setdefault(key, [0, 0])
            self.found[key] = [mine[0] + n, mine[1] + found]

    @property
    def precision(self) -> float | None:
        """Right pages ÷ right and false ones."""
        return self.right / (self.right + self.false) if self.right + self.false else None

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        lead = {"median": statistics.median(self.lead_s), "longest": max(self.lead_s)} if self.lead_s else None
        return asdict(self) | {
            "precision": self.precision,
            "lead": lead,
            "false_in_100_days": 100 * self.false / self.sessions if self.sessions else None,
        }


def scored(found: list[SeverityChange], troubles: list[KnownIncident], rules: Rules, sessions: int) -> Score:
    """How do the pages that were sent compare with the troubles there were?"""
    score = Score(sessions)
    pages = [r for r in found if r.sent]

    def until(t: KnownIncident, r: SeverityChange) -> int:
        return t.end_us + clock.span_us(rules[r.rule].reach(r.severity) + rules[r.rule].keep_firing_for)

    def during(t: KnownIncident, r: SeverityChange) -> bool:
        return t.start_us <= r.fired_us <= until(t, r)

    for t in troubles:
        mine = sorted(
            (r for r in pages if (r.rule, r.subject) == (t.rule, t.subject) and during(t, r)), key=lambda r: r.fired_us
        )
        for key in (f"{t.size:g}×" if t.size else "unsized", _lasting(t)):
            n = score.found.setdefault(key, [0, 0])
            score.found[key] = [n[0] + 1, n[1] + bool(mine)]
        score.lead_s += [(mine[0].fired_us - t.start_us) / SECOND] if mine else []
        score.flaps += len(mine) - len({r.severity for r in mine})
    for r in pages:
        if any((r.rule, r.subject) == (t.rule, t.subject) and during(t, r) for t in troubles):
            score.right += 1
        elif any(during(t, r) for t in troubles):
            score.beside += 1
        else:
            score.false += 1
            score.false_pages.append(
                f"{r.rule} {r.subject} {r.severity} {formatting.iso(clock.instant(r.fired_us))}: {r.sentence}"
            )
    return score


def _lasting(t: KnownIncident) -> str:
    minutes = (t.end_us - t.start_us) / (60 * SECOND)
    return f"up to {next((m for m in LASTING if minutes <= m), math.ceil(minutes))} min"


def labelled(path: Path, rules: Rules) -> list[KnownIncident]:
    """
    The troubles that a file tells of: a JSON list of rule, subject, from and to, and size where it is known.

    Raises:
        UsageError: It is no such list.
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
            f'{path} is no list of troubles ({problem.__class__.__name__}: {problem}); wanted [{{"rule", '
            f'"subject", "from", "to"}}, …].'
        ) from None
    for t in found:
        if t.rule not in rules.rules:
            raise UsageError(f"{path}: there is no rule {t.rule!r}.{formatting.nearest(t.rule, rules.rules)}")
    return found


def history(
    store: Database,
    settings: Settings,
    tables: dict[str, Rules],
    window: Window,
    troubles: list[KnownIncident] | None,
    progress: Progress,
) -> tuple[dict[str, Score], list[KnownIncident]]:
    """
    How would each table have done on what is stored?

    Returns:
        A score of each table, and the troubles: those given; without any, what the first table told of, so that no page
        of it counts as false.
    """
    found: dict[str, list[SeverityChange]] = {}
    part = evaluator.held(store, settings.app, window.start_us, window.end_us)
    sessions = [
        s
        for s, _, _ in (evaluator.sessions(*part) if part else ())
        if SnapshotStore(store).looks(settings.app, clock.micros(s.opens), clock.micros(s.closes), None)
    ]
    if not sessions:
        raise UsageError(
            f"history was wanted to try the limits on; there is no look of {settings.app} in {window}. Import "
            f"some, or ask for other days."
        )
    for name, rules in tables.items():
        transitions, standing = [], None
        for session in progress(sessions, len(sessions), f"history by the table {name}", "days"):
            became, standing = replay.replay_session(
                store, settings, rules, clock.micros(session.opens), clock.micros(session.closes) + GRID_US
            )
            transitions += became
        found[name] = alerting_history.read(transitions, rules, standing)
    if troubles is None:
        own = next(iter(found.values()))
        troubles = [
            KnownIncident(r.rule, r.subject, r.pending_us, r.over_us or window.end_us)
            for r in own
            if r.severity in SENT
        ]
    return {name: scored(rows, troubles, tables[name], len(sessions)) for name, rows in found.items()}, troubles


@dataclass(frozen=True)
class Background:
    """
    What a page counts when nothing is wrong, to be drawn from in blocks of ten minutes.

    Attributes:
        session: The session that resampled days are laid into.
        blocks: Of each block, what each five seconds of it brought: the counters that rose, and the variance that
            stood.
    """

    session: Session
    blocks: tuple[tuple[tuple[dict[str, int], float], ...], ...]


def background(
    store: Database, settings: Settings, rules: Rules, window: Window, troubles: list[KnownIncident]
) -> Background:
    """
    The blocks of stored history in which no trouble was, nor its aftermath in any window of ten minutes.

    Raises:
        UsageError: There is none.
    """
    blocks = []
    kept: Session | None = None
    part = evaluator.held(store, settings.app, window.start_us, window.end_us)
    for session, _, _ in evaluator.sessions(*part) if part else ():
        opens, closes = clock.micros(session.opens), clock.micros(session.closes)
        tape = CounterHistory(rules.pages, settings.post_every_s)
        tape.add(SnapshotStore(store).looks(settings.app, opens - BLOCK_US, closes, None))
        for start in range(opens, closes - BLOCK_US + 1, BLOCK_US):
            clear = not any(t.start_us < start + BLOCK_US and t.end_us > start for t in troubles)
            covered = tape.coverage(Window(clock.instant(start), clock.instant(start + BLOCK_US)))
            if clear and covered is not None and covered >= rules["availability"].min_coverage:
                blocks.append(tuple(_step(tape, at) for at in range(start + GRID_US, start + BLOCK_US + 1, GRID_US)))
                kept = session
    if not blocks or kept is None:
        raise UsageError(
            f"days were to be resampled from {window}; there is no block of ten minutes in it without "
            f"trouble. Give more history."
        )
    return Background(kept, tuple(blocks))


def _step(tape: CounterHistory, at_us: int) -> tuple[dict[str, int], float]:
    window = Window(clock.instant(at_us - GRID_US), clock.instant(at_us))
    rose = {name: rise for name in _COUNTERS if (rise := tape.rise(name, window))}
    stood = [
        abs(look.backtest_variance_pp) for _, look in tape.seen_in(window) if look.backtest_variance_pp is not None
    ]
    return rose, max(stood, default=0.0)


def _drawn(rng: Random, rules: Rules, session: Session) -> list[KnownIncident]:
    """The troubles of one day: none on every other, up to three on the rest, apart from each other."""
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
            lasts_s = size * _limit(rules, rule)  # Here how long it lasts is how large it is.
        third = (closes - opens) // 3
        start = opens + n * third + round(rng.uniform(300, third / SECOND - lasts_s - 300)) * SECOND
        found.append(KnownIncident(rule, subject, start, start + round(lasts_s) * SECOND, size))
    return found


def _limit(rules: Rules, rule: str) -> float:
    """The limit at which somebody is first told."""
    return next(float(limit) for rung, limit in rules[rule].ladder if rung in SENT and not isinstance(limit, str))


def _worsened(
    rng: Random, rules: Rules, troubles: list[KnownIncident], at_us: int, rose: dict[str, int], stood: float
) -> tuple[dict[str, int], float, bool]:
    """What five seconds bring while troubles last: (increases, variance, is the socket connected?)."""
    rose, connected = dict(rose), True
    for t in troubles:
        if not t.start_us < at_us <= t.end_us or t.size is None:
            continue
        limit = _limit(rules, t.rule)

        def some(n: int, p: float) -> int:
            return sum(rng.random() < p for _ in range(n))

        match t.rule:
            case "availability":
                failed = some(rose.get("massive_successes", 0), min(1.0, t.size * (1 - limit)))
                rose["massive_successes"] = rose.get("massive_successes", 0) - failed
                rose["massive_failures"] = rose.get("massive_failures", 0) + failed
            case "greeks_valid" | "gamma_zero" | "delta_out_of_bounds":
                bad = some(
                    rose.get("greeks_valid", 0), min(1.0, t.size * (1 - limit if t.rule == "greeks_valid" else limit))
                )
                rose["greeks_valid"] = rose.get("greeks_valid", 0) - bad
                rose["greeks_invalid"] = rose.get("greeks_invalid", 0) + bad
                if t.rule != "greeks_valid":
                    rose[t.rule] = rose.get(t.rule, 0) + bad
            case "errors":
                a_step = t.size * limit * GRID_US / (t.end_us - t.start_us)
                rose["errors"] = rose.get("errors", 0) + int(a_step) + (rng.random() < a_step % 1)
            case "websocket_down":
                connected = False
            case "backtest_variance":
                stood = t.size * limit
    return rose, stood, connected


def _looks(rng: Random, rules: Rules, back: Background, troubles: list[KnownIncident]) -> Iterator[SnapshotRow]:
    """One page that posts every five seconds, from before the open to the close."""
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
        (rose, stood), steps = steps[0], steps[1:]
        rose, stood, connected = _worsened(rng, rules, troubles, at_us, rose, stood)
        for name, more in rose.items():
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
        now |= {"trades": 40, "backtest_variance_pp": stood, "websocket_connected": connected}
        yield SnapshotRow(**(_EMPTY | plain | held | now))


def _day(asked: tuple[Background, dict[str, Rules], float, str]) -> dict[str, Score]:
    """One resampled day, by each table."""
    back, tables, every_s, seed = asked
    rng, first = Random(seed), next(iter(tables.values()))
    troubles = _drawn(rng, first, back.session)
    looks = list(_looks(rng, first, back, troubles))
    found = {}
    for name, rules in tables.items():
        tape, alerts, transitions, i = (
            CounterHistory(rules.pages, every_s, alive=frozenset(WIRED_FIELDS)),
            Alerts(rules),
            [],
            0,
        )
        for _, instants, _ in evaluator.sessions(clock.micros(back.session.opens), clock.micros(back.session.closes)):
            for at_us in instants:
                until = i
                while until < len(looks) and looks[until].ts_us <= at_us:
                    until += 1
                tape.add(looks[i:until])
                i = until
                transitions += evaluator.judged_at(at_us, alerts, tape, rules)
        found[name] = scored(alerting_history.read(transitions, rules, alerts), troubles, rules, 1)
    return found


def resampled(
    back: Background, tables: dict[str, Rules], post_every_s: float, days: int, seed: int, progress: Progress
) -> dict[str, Score]:
    """
    How does each table do on days drawn from the background, with troubles of 1.2 to 5 times the limit put into them?
    """
    scores = {name: Score() for name in tables}
    with ProcessPoolExecutor() as pool:
        asked = ((back, tables, post_every_s, f"{seed}/{day}") for day in range(days))
        for found in progress(pool.map(_day, asked), days, f"{days} resampled days, seed {seed}", "days"):
            for name, score in found.items():
                scores[name].add(score)
    return scores
