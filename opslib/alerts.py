"""
This module knows how an alert lives, and nothing else: a state machine over findings, instant by instant.

One alert per rule, subject and source. Each rung of its rule's ladder is held, fires and is gone by itself, as a
Prometheus alert is (`for`, `keep_firing_for`); the alert's severity is its highest rung that fires. What is unknown
neither begins nor ends anything, and its time counts for nothing. What is over because its page or its market closed
has *ended*, which is neither firing nor resolved.

Nothing here asks for the time, the store or the network: the same findings at the same instants give the same
transitions, live, after a crash and in a replay.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from opslib import clock, text
from opslib.rules import RUNGS, Rule, Rules
from opslib.verdicts import Finding, past_clear

GRID_US = 5_000_000  # Alerts are judged at whole multiples of this since 1970.
MISSING = "missing"  # The rung of a rule that alerts on missing data; told as `notify`.
Key = tuple[str, str, str]
PageKey = tuple[str | None, int | None]


class Transition(NamedTuple):
    """
    One thing that happened to an alert; never changed afterwards.

    Attributes:
        at_us: The instant that was judged, microseconds since 1970.
        alert: Its id, the same from its first pending instant to its end.
        kind: pending, dropped (gone before it fired), fired, rose, fell, unknown, known, released (what explained it
            away is over), resolved, ended.
        severity: The one that was reached or left; of pending the lowest.
        value: The figure then, in the rule's unit; None is unknown.
        limit: Of that severity; None where it is no number.
        pending_us: Since when that severity was held.
        peak: Of a severity that was left, its worst value.
        inhibited_by: The alert that explains this one away; nobody is told of it.
        sentence: What is wrong, with the value and the limit.
        rules_hash: The table by which it was judged.
    """

    at_us: int
    rule: str
    subject: str
    source: str
    alert: str
    kind: str
    severity: str
    value: float | None
    limit: float | None
    pending_us: int
    peak: float | None
    inhibited_by: str | None
    sentence: str
    rules_hash: str


@dataclass(slots=True)
class Rung:
    """
    How one rung of an alert stands; times in microseconds since 1970.

    Attributes:
        since_us: Since when it is held; `unknown_us` of that time nothing was known.
        fired: Does it fire?
        gone_us: Since when it is known to be gone, while it still fires; `unknown_us` counts from then.
    """

    since_us: int
    unknown_us: int = 0
    fired: bool = False
    gone_us: int | None = None


@dataclass(slots=True)
class OpenRise:
    """A severity that an alert rose to and has not left."""

    severity: str
    pending_us: int
    limit: float | None
    peak: float | None
    inhibited_by: str | None


@dataclass(slots=True)
class Alert:
    """
    One alert, from idle to idle again.

    Attributes:
        id: Of its present life; None while idle.
        rungs: Those that are held or fire.
        rises: The severities it rose to and has not left, mildest first.
        unknown_since_us: Since when its figure is unknown; told of when that lasts.
        page: The page that it is about, where it is about one.
        explains: When each rung that fired was last seen past its limit, and in which life.
    """

    rule: str
    subject: str
    source: str
    id: str | None = None
    pending_us: int = 0
    rungs: dict[str, Rung] = field(default_factory=dict)
    rises: list[OpenRise] = field(default_factory=list)
    unknown_since_us: int | None = None
    unknown_told: bool = False
    page: PageKey | None = None
    explains: dict[str, tuple[int, str]] = field(default_factory=dict)
    value: float | None = None
    sentence: str = ""
    seen_us: int = 0

    @property
    def severity(self) -> str | None:
        """The highest rung that fires."""
        fires = {_severity(name) for name, rung in self.rungs.items() if rung.fired}
        return next((rung for rung in reversed(RUNGS) if rung in fires), None)

    @property
    def state(self) -> str:
        """pending, firing, unknown or idle."""
        return "idle" if self.id is None else "pending" if not self.rises else "unknown" if self.unknown_told else "firing"

    def as_json(self) -> dict[str, Any]:
        """For the store; `of_json` reads it."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> "Alert":
        """What `as_json` wrote."""
        page, explains = found["page"], {name: (at, life) for name, (at, life) in found["explains"].items()}
        rungs, rises = {name: Rung(**rung) for name, rung in found["rungs"].items()}, [OpenRise(**rise) for rise in found["rises"]]
        return cls(**{**found, "rungs": rungs, "rises": rises, "page": None if page is None else (page[0], page[1]), "explains": explains})


def _severity(rung: str) -> str:
    return "notify" if rung == MISSING else rung


def _rank(severity: str | None) -> int:
    return RUNGS.index(severity) if severity else -1


def worse(rule: Rule, a: float | None, b: float | None) -> float | None:
    """The worse of two values; None is unknown, and loses."""
    if a is None or b is None:
        return b if a is None else a
    return min(a, b) if rule.better == "higher" else max(a, b)


class Alerts:
    """
    The alerts of one app, judged instant by instant.

    Args:
        rules: The limits in force.
        alerts: As they stood after the last instant; none of them changes.
    """

    def __init__(self, rules: Rules, alerts: Iterable[Alert] = ()):
        self.rules = rules
        self.alerts: dict[Key, Alert] = {}
        for alert in alerts:
            if alert.rule in rules.rules:
                alert.rungs = {name: rung for name, rung in alert.rungs.items() if name == MISSING or name in dict(rules[alert.rule].ladder)}
                self.alerts[alert.rule, alert.subject, alert.source] = alert

    def advance(self, at_us: int, findings: Iterable[Finding], page_closed: Callable[[PageKey], bool | None] = lambda page: False) -> list[Transition]:
        """
        Judge one instant, later than the one before.

        Args:
            findings: At most one for each rule, subject and source; who is not among them stays as it is.
            page_closed: Is a page closed for good? None is that it is not seen just now, and may come back.

        Raises:
            ValueError: Two findings for one alert.
        """
        moved: dict[Key, tuple[Finding, str | None, bool]] = {}
        for finding in findings:
            key = (finding.rule.name, finding.subject, finding.source)
            if key in moved:
                raise ValueError(f"two findings for {' '.join(key)} at one instant")
            alert = self.alerts.get(key)
            if alert is None or alert.id is None:
                missing = finding.rule.no_data == "alert" and finding.verdict == "unknown" and finding.counted
                if finding.severity is None and not missing:
                    continue
                if alert is None:
                    alert = self.alerts[key] = Alert(*key)
            before = alert.severity
            moved[key] = (finding, before, self._move(alert, finding, at_us, page_closed))
        found: list[Transition] = []
        for key, (finding, before, ended) in moved.items():
            found += self._told(self.alerts[key], finding, before, ended, at_us)
        return found

    def close(self, at_us: int) -> list[Transition]:
        """The market is closed: whatever is pending or fires has ended."""
        found = []
        for alert in self.alerts.values():
            if alert.id is not None:
                found += self._over(alert, "ended", at_us)
        return found

    def _move(self, alert: Alert, finding: Finding, at_us: int, page_closed: Callable[[PageKey], bool | None]) -> bool:
        """Move every rung of one alert on; has it ended, because its page is closed?"""
        rule, reached = finding.rule, _rank(finding.severity)
        known = finding.verdict != "unknown"
        if finding.severity and finding.figure.page:
            alert.page = finding.figure.page
        elif alert.id and alert.page and not finding.severity:
            closed = page_closed(alert.page)
            if closed:
                return True
            known = known and closed is not None  # Other pages say nothing about one that is not seen.
        passed_us = at_us - alert.seen_us if alert.id else 0
        alert.seen_us = at_us
        if alert.id is None:
            alert.pending_us, alert.id = at_us, f"{alert.rule}-{alert.subject}-{alert.source}-{clock.instant(at_us):%Y%m%dT%H%M%SZ}"
        for i, (name, _) in enumerate(rule.ladder):
            spent = finding.figure.spent
            rung_known = known and (spent is None or spent[name].bound is not None)
            held = None if not rung_known else reached >= _rank(name)
            clears = not (i == 0 and held is False and past_clear(rule, finding.figure))
            self._rung(alert, name, held, clears, at_us, passed_us, rule.holds[name], rule)
        if rule.no_data == "alert":
            self._rung(alert, MISSING, not known and finding.counted, True, at_us, passed_us, rule.unknown_after, rule)
        if finding.figure.value is not None and known:
            alert.value = finding.figure.value
        if finding.severity or (alert.severity is None and finding.counted) or not alert.sentence:
            alert.sentence = finding.sentence
        return False

    @staticmethod
    def _rung(alert: Alert, name: str, held: bool | None, clears: bool, at_us: int, passed_us: int, hold: Any, rule: Rule) -> None:
        rung = alert.rungs.get(name)
        if rung is None:
            if held:
                alert.rungs[name] = rung = Rung(at_us)
            else:
                return
        elif held is None:
            rung.unknown_us += passed_us
            return
        if held:
            if rung.gone_us is not None:
                rung.gone_us, rung.unknown_us = None, 0
            if not rung.fired and at_us - rung.since_us - rung.unknown_us >= clock.span_us(hold):
                rung.fired, rung.unknown_us = True, 0
            if rung.fired:
                alert.explains[name] = (at_us, str(alert.id))
        elif not rung.fired:
            del alert.rungs[name]
        elif clears:
            if rung.gone_us is None:
                rung.gone_us, rung.unknown_us = at_us, 0
            if at_us - rung.gone_us - rung.unknown_us >= clock.span_us(rule.keep_firing_for):
                del alert.rungs[name]
        else:
            rung.gone_us, rung.unknown_us = None, 0

    def _told(self, alert: Alert, finding: Finding, before: str | None, ended: bool, at_us: int) -> list[Transition]:
        """What became of an alert at this instant, now that every other one has moved too."""
        if ended:
            return self._over(alert, "ended", at_us)
        found, rule, after = [], finding.rule, alert.severity
        make = lambda kind, severity, **more: self._transition(alert, at_us, kind, severity, **more)  # noqa: E731
        if alert.pending_us == at_us and alert.rungs:
            found.append(make("pending", min(alert.rungs, key=lambda name: _rank(_severity(name)))))
        if not alert.rungs:
            if alert.rises:
                return found + self._over(alert, "resolved", at_us)
            found += [make("dropped", rule.ladder[0][0])] if alert.pending_us < at_us else []
            self._idle(alert)
            return found
        for rise in alert.rises:
            rise.peak = worse(rule, rise.peak, finding.figure.value) if finding.severity else rise.peak
        found += self._patience(alert, finding, at_us)
        inhibitor = self._inhibitor(alert, at_us) if after else None
        if _rank(after) > _rank(before):
            limit = dict(rule.ladder).get(after or "")
            rung = alert.rungs.get(after or "") or alert.rungs[MISSING]
            alert.rises.append(OpenRise(str(after), rung.since_us, None if isinstance(limit, str) else limit, finding.figure.value, inhibitor))
            held_s = (at_us - rung.since_us) / 1e6
            found.append(make("rose" if before else "fired", str(after), rise=alert.rises[-1], sentence=f"{alert.sentence} for {text.duration(held_s)}" if held_s else alert.sentence))
        elif before and after and _rank(after) < _rank(before):
            for rise in [r for r in alert.rises[1:] if _rank(r.severity) > _rank(after)]:
                alert.rises.remove(rise)
                found.append(make("fell", rise.severity, rise=rise))
        if inhibitor is None:
            for rise in [r for r in alert.rises if r.inhibited_by]:
                rise.inhibited_by = None
                found.append(make("released", rise.severity, rise=rise))
        return found

    def _patience(self, alert: Alert, finding: Finding, at_us: int) -> list[Transition]:
        """Has an alert that fires been without data for longer than its rule's patience, or is its figure back?"""
        if finding.verdict != "unknown":
            back = [self._transition(alert, at_us, "known", str(alert.severity))] if alert.unknown_told else []
            alert.unknown_since_us, alert.unknown_told = None, False
            return back
        alert.unknown_since_us = alert.unknown_since_us or at_us
        if alert.unknown_told or not alert.rises or at_us - alert.unknown_since_us < clock.span_us(finding.rule.unknown_after):
            return []
        alert.unknown_told = True
        return [self._transition(alert, at_us, "unknown", str(alert.severity), sentence=finding.sentence)]

    def _inhibitor(self, alert: Alert, at_us: int) -> str | None:
        """
        Which other alert explains this one away?

        One of a rule that this rule names, of the same subject or of the app, that is held or fires at the same severity
        or above, or did so while this one's window still holds it.
        """
        rule = self.rules[alert.rule]
        for other in self.alerts.values():
            if other.rule not in rule.inhibited_by or other is alert:
                continue
            if other.subject != alert.subject and other.subject != "app" and (alert.subject != "app" or other.rule == alert.rule):
                continue
            if _rank(alert.severity) <= max([_rank(name) for name in other.rungs if name != MISSING], default=-1):
                return other.id
            window_us = clock.span_us(rule.reach(str(alert.severity)) if alert.severity in dict(rule.ladder) else rule.window)
            lives = [life for name, (last_us, life) in other.explains.items() if _rank(name) >= _rank(alert.severity) and last_us + window_us > at_us]
            if lives:
                return max(lives)
        return None

    def _over(self, alert: Alert, how: str, at_us: int) -> list[Transition]:
        """An alert is over: so is each severity that it had not left."""
        found = [self._transition(alert, at_us, how, rise.severity, rise=rise) for rise in alert.rises]
        found = found or [self._transition(alert, at_us, "dropped", str(min(alert.rungs, key=lambda n: _rank(_severity(n)), default="warning")))]
        self._idle(alert)
        return found

    @staticmethod
    def _idle(alert: Alert) -> None:
        alert.id, alert.page, alert.unknown_since_us = None, None, None
        alert.unknown_told = False
        alert.rungs, alert.rises, alert.value, alert.sentence = {}, [], None, ""

    def _transition(self, alert: Alert, at_us: int, kind: str, severity: str, rise: OpenRise | None = None, sentence: str = "") -> Transition:
        limit = dict(self.rules[alert.rule].ladder).get(severity)
        left = kind in ("fell", "resolved", "ended")
        return Transition(
            at_us, alert.rule, alert.subject, alert.source, str(alert.id), kind, _severity(severity), alert.value, None if isinstance(limit, str) else limit,
            rise.pending_us if rise else alert.pending_us, rise.peak if rise and left else None, rise.inhibited_by if rise else None, sentence or alert.sentence, self.rules.hash,
        )  # fmt: skip
