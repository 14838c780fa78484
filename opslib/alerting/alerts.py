"""
Run the life of an alert: a state machine over findings, instant by instant.

One alert per rule, subject and source. Each rung of its rule's ladder is held, fires and is gone by itself, as a
Prometheus alert is (`for`, `keep_firing_for`); the alert's severity is its highest rung that fires. What is unknown
neither begins nor ends anything, and its time counts for nothing. What is over because its page or its market closed
has *ended*, which is neither firing nor resolved.

Nothing here asks for the time, the store or the network: the same findings at the same instants give the same
transitions, live, after a crash and in a replay.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from opslib.alerting.verdicts import Finding, still_beyond_clear, value_on
from opslib.foundation import clock, formatting
from opslib.foundation.config.rules import SENT, SEVERITIES, Rule, Rules
from opslib.foundation.storage.cell_types import decoding, require_types

GRID_US = 5_000_000  # Alerts are judged at whole multiples of this since 1970.
WIDER = ("app", "monitor")  # Subjects whose alerts may explain any other subject's.
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
        pending_us: Since when that severity was held, or the trouble behind it lasts, where that is known.
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
class SeverityState:
    """
    How one rung of an alert stands; times in microseconds since 1970.

    Attributes:
        since_us: Since when it is held; `unknown_us` of that time nothing was known.
        fired: Does it fire?
        gone_us: Since when it is known to be gone, while it still fires; `unknown_us` counts from then.
        peak: The worst value since then.
        began_us: When the trouble behind it began, where that is known: before it was sure.
    """

    since_us: int
    peak: float | None = None
    unknown_us: int = 0
    fired: bool = False
    gone_us: int | None = None
    began_us: int | None = None

    @property
    def trouble_us(self) -> int:
        """Since when people have had the trouble: when it began, else since when it is held."""
        return self.since_us if self.began_us is None else min(self.began_us, self.since_us)


@dataclass(slots=True)
class OpenSeverity:
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
    rungs: dict[str, SeverityState] = field(default_factory=dict)
    rises: list[OpenSeverity] = field(default_factory=list)
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
        return next((rung for rung in reversed(SEVERITIES) if rung in fires), None)

    @property
    def state(self) -> str:
        """pending, firing, unknown or idle."""
        if self.id is None:
            return "idle"
        if not self.rises:
            return "pending"
        if self.unknown_told:
            return "unknown"
        return "firing"

    def as_json(self) -> dict[str, Any]:
        """For the store; `of_json` reads it."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> "Alert":
        """
        Read what `as_json` wrote.

        Raises:
            DamagedCell: It is no such thing.
        """
        with decoding("alerts.state"):
            page, explains = found["page"], {name: (at, life) for name, (at, life) in found["explains"].items()}
            rungs, rises = (
                {name: SeverityState(**rung) for name, rung in found["rungs"].items()},
                [OpenSeverity(**rise) for rise in found["rises"]],
            )
            alert = cls(
                **{
                    **found,
                    "rungs": rungs,
                    "rises": rises,
                    "page": None if page is None else (page[0], page[1]),
                    "explains": explains,
                }
            )
            for part in (alert, *rungs.values(), *rises):
                require_types(part)
            return alert


def _severity(rung: str) -> str:
    return "notify" if rung == MISSING else rung


def _rank(severity: str | None) -> int:
    return SEVERITIES.index(severity) if severity else -1


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
                rule = rules[alert.rule]
                alert.rungs = {
                    name: rung
                    for name, rung in alert.rungs.items()
                    if name in dict(rule.ladder) or (name == MISSING and rule.no_data == "alert")
                }
                self.alerts[alert.rule, alert.subject, alert.source] = alert

    def advance(
        self,
        at_us: int,
        findings: Iterable[Finding],
        page_closed: Callable[[PageKey], bool | None] = lambda page: False,
        began: Callable[[Finding], int | None] = lambda finding: None,
    ) -> list[Transition]:
        """
        Judge one instant, later than the one before.

        Args:
            findings: At most one for each rule, subject and source; who is not among them stays as it is.
            page_closed: Is a page closed for good? None is that it is not seen just now, and may come back.
            began: When the trouble of a finding began; asked where a severity is newly held.

        Raises:
            ValueError: Two findings for one alert.
        """
        seen: set[Key] = set()
        moved: list[tuple[Alert, Finding, str | None, bool | None]] = []
        for finding in findings:
            key = (finding.rule.name, finding.subject, finding.source)
            if key in seen:
                raise ValueError(f"two findings for {' '.join(key)} at one instant")
            seen.add(key)
            alert = self.alerts.get(key)
            if alert is None or alert.id is None:
                missing = finding.rule.no_data == "alert" and finding.verdict == "unknown" and finding.counted
                if finding.severity is None and not missing:
                    continue
                if alert is None:
                    alert = self.alerts[key] = Alert(*key)
            before = alert.severity
            moved.append((alert, finding, before, self._move(alert, finding, at_us, page_closed)))
            for rung in [rung for name, rung in alert.rungs.items() if rung.since_us == at_us and name != MISSING]:
                rung.began_us = began(finding)
        return [t for alert, finding, before, known in moved for t in self._told(alert, finding, before, known, at_us)]

    def close(self, at_us: int) -> list[Transition]:
        """The market is closed: whatever is pending or fires has ended."""
        found = []
        for alert in self.alerts.values():
            if alert.id is not None:
                found += self._over(alert, "ended", at_us)
        return found

    def _move(
        self, alert: Alert, finding: Finding, at_us: int, page_closed: Callable[[PageKey], bool | None]
    ) -> bool | None:
        """Move every rung of one alert on. Is anything known of it at this instant? None is that its page is closed."""
        rule, figure, known = finding.rule, finding.figure, finding.verdict != "unknown"
        if finding.severity and figure.page:
            alert.page = figure.page
        elif alert.id and alert.page and not finding.severity:
            closed = page_closed(alert.page)
            if closed:
                return None
            known = known and closed is not None  # Other pages say nothing about one that is not seen.
        passed_us = at_us - alert.seen_us if alert.id else 0
        alert.seen_us = at_us
        if alert.id is None:
            self._begin(alert, at_us)
        for name, limit in rule.ladder:
            rung_known = known and (figure.spent is None or figure.spent[name].bound is not None)
            held = _rank(finding.severity) >= _rank(name) if rung_known else None
            self._rung(
                alert,
                name,
                held,
                not still_beyond_clear(rule, figure, name, limit),
                rule.holds[name],
                rule,
                value_on(figure, name),
                at_us,
                passed_us,
            )
        if rule.no_data == "alert":
            self._rung(
                alert, MISSING, not known and finding.counted, True, rule.unknown_after, rule, None, at_us, passed_us
            )
        # What is past a limit is past every milder one: who fires needs not wait for those.
        fires = [_rank(name) for name, rung in alert.rungs.items() if rung.fired and name != MISSING]
        for name, rung in alert.rungs.items():
            rung.fired = rung.fired or (name != MISSING and _rank(name) < max(fires, default=-1))
        if figure.value is not None and known:
            alert.value = figure.value
        if finding.severity or MISSING in alert.rungs:
            alert.sentence = finding.sentence
        return known

    @staticmethod
    def _begin(alert: Alert, at_us: int) -> None:
        alert.pending_us, alert.id = (
            at_us,
            f"{alert.rule}-{alert.subject}-{alert.source}-{clock.instant(at_us):%Y%m%dT%H%M%SZ}",
        )

    @staticmethod
    def _rung(
        alert: Alert,
        name: str,
        held: bool | None,
        clears: bool,
        hold: timedelta,
        rule: Rule,
        value: float | None,
        at_us: int,
        passed_us: int,
    ) -> None:
        """Move one rung on: held, not held, or unknown (None)."""
        rung = alert.rungs.get(name)
        if rung is None:
            if not held:
                return
            rung = alert.rungs[name] = SeverityState(at_us)
        if held is None:
            rung.unknown_us += passed_us
        elif held:
            if rung.gone_us is not None:
                rung.gone_us, rung.unknown_us = None, 0
            rung.peak = worse(rule, rung.peak, value)
            if not rung.fired and at_us - rung.since_us - rung.unknown_us >= clock.span_us(hold):
                rung.fired, rung.unknown_us = True, 0
            if rung.fired:
                alert.explains[name] = (at_us, str(alert.id))
        elif not rung.fired:
            del alert.rungs[name]
        elif not clears:
            rung.gone_us, rung.unknown_us = None, 0
        else:
            if rung.gone_us is None:
                rung.gone_us, rung.unknown_us = at_us, 0
            if at_us - rung.gone_us - rung.unknown_us >= clock.span_us(rule.keep_firing_for):
                del alert.rungs[name]

    def _told(
        self, alert: Alert, finding: Finding, before: str | None, known: bool | None, at_us: int
    ) -> list[Transition]:
        """What became of an alert at this instant, now that every other one has moved too."""
        if known is None:
            return self._over(alert, "ended", at_us)
        found, after = list[Transition](), alert.severity
        if after is None and alert.rises:
            waiting = alert.rungs
            found += self._over(alert, "resolved", at_us)
            if not waiting:
                return found
            # What was missing is back, and not good: another life.
            alert.rungs, alert.sentence = waiting, finding.sentence
            self._begin(alert, at_us)
        if not alert.rungs:
            return self._over(alert, "dropped", at_us)
        if alert.pending_us == at_us:
            found.append(
                self._transition(alert, at_us, "pending", min((_severity(name) for name in alert.rungs), key=_rank))
            )
        for rise in alert.rises:
            rise.peak = (
                worse(finding.rule, rise.peak, value_on(finding.figure, rise.severity))
                if finding.severity
                else rise.peak
            )
        found += self._patience(alert, finding, known, at_us)
        inhibitor = self._inhibitor(alert, at_us) if after else None
        for rise in [r for r in alert.rises if _rank(r.severity) > _rank(after)]:
            alert.rises.remove(rise)
            found.append(self._transition(alert, at_us, "fell", rise.severity, rise))
        if after and (not alert.rises or _rank(after) > max(_rank(before), *(_rank(r.severity) for r in alert.rises))):
            # The first of its rises is the mildest it fires at, so that one is open for as long as it fires.
            base = min((_severity(name) for name, rung in alert.rungs.items() if rung.fired), key=_rank)
            for severity in [base, after] if not alert.rises and base != after else [after]:
                found.append(self._rises(alert, finding, severity, inhibitor, at_us))
        if inhibitor is None and known:
            # What its window still holds of the trouble that explained it is not the alert's own: it must breach now,
            # so far that people are notified.
            reached = _rank(finding.severity)
            for rise in [
                r for r in alert.rises if r.inhibited_by and reached >= min(_rank(r.severity), _rank(SENT[0]))
            ]:
                rise.inhibited_by = None
                found.append(self._transition(alert, at_us, "released", rise.severity, rise))
        return found

    def _rises(self, alert: Alert, finding: Finding, severity: str, inhibitor: str | None, at_us: int) -> Transition:
        kind = "rose" if alert.rises else "fired"
        rung = alert.rungs.get(severity) or alert.rungs[MISSING]
        if severity not in alert.rungs:
            limit = None
        elif finding.severity == severity:
            limit = finding.limit
        else:
            limit = dict(finding.rule.ladder)[severity]
        alert.rises.append(
            OpenSeverity(severity, rung.trouble_us, None if isinstance(limit, str) else limit, rung.peak, inhibitor)
        )
        said = (
            finding._replace(severity=severity, limit=limit).sentence
            if limit is not None and finding.severity
            else alert.sentence
        )
        held_s = (at_us - rung.since_us) / 1e6
        return self._transition(
            alert,
            at_us,
            kind,
            severity,
            alert.rises[-1],
            f"{said} for {formatting.duration(held_s)}" if held_s else said,
        )

    def _patience(self, alert: Alert, finding: Finding, known: bool, at_us: int) -> list[Transition]:
        """Has an alert that fires been without data for longer than its rule's patience, or is its figure back?"""
        if known:
            back = [self._transition(alert, at_us, "known", alert.rises[-1].severity)] if alert.unknown_told else []
            alert.unknown_since_us, alert.unknown_told = None, False
            return back
        alert.unknown_since_us = alert.unknown_since_us or at_us
        patient = at_us - alert.unknown_since_us < clock.span_us(finding.rule.unknown_after)
        if alert.unknown_told or not alert.rises or patient or MISSING in alert.rungs:
            return []
        alert.unknown_told = True
        why = finding.sentence if finding.verdict == "unknown" else f"{alert.sentence}; its page is not seen"
        return [self._transition(alert, at_us, "unknown", alert.rises[-1].severity, sentence=why)._replace(value=None)]

    def _inhibitor(self, alert: Alert, at_us: int) -> str | None:
        """
        Which other alert explains this one away?

        One of a rule that this rule names, of the same subject, of the app or of the monitor, or the same rule's by a
        source that stands before this one's, that is held or fires at the same severity or above (or at what
        `inhibited_from` asks for), or did so while this one's window still holds it.
        """
        rule = self.rules[alert.rule].of(alert.source)
        window_us = clock.span_us(
            rule.reach(str(alert.severity)) if alert.severity in dict(rule.ladder) else rule.window
        )
        found: list[tuple[bool, int, int, bool, int, int, str]] = []
        for other in self.alerts.values():
            if other.rule == alert.rule and other.subject == alert.subject:
                # Two sources say the same: who is named first in the table is told.
                order = {source: i for i, source in enumerate(rule.sources)}
                if order.get(other.source, len(order)) >= order.get(alert.source, len(order)):
                    continue
            elif other.rule not in rule.inhibited_by or (
                other.subject not in (alert.subject, *WIDER) and (alert.subject != "app" or other.rule == alert.rule)
            ):
                continue
            rank = _rank(rule.inhibited_from.get(other.rule, alert.severity))
            sources = self.rules[other.rule].sources
            first = -sources.index(other.source) if other.source in sources else -len(sources)
            named = -rule.inhibited_by.index(other.rule) if other.rule in rule.inhibited_by else 1
            # Though it may not fire yet.
            held = max([_rank(name) for name in other.rungs if name != MISSING], default=-1)
            if other.id and held >= rank:
                found.append((True, held, named, other.subject == "app", first, other.pending_us, other.id))
            found += [
                (False, _rank(_severity(name)), named, other.subject == "app", first, last_us, life)
                for name, (last_us, life) in other.explains.items()
                if _rank(_severity(name)) >= rank and last_us + window_us > at_us
            ]
        # What is so now before what was, the worse before the milder, then by the order of `inhibited_by`, then who is
        # told before who is not.
        return max(found)[-1] if found else None

    def _over(self, alert: Alert, how: str, at_us: int) -> list[Transition]:
        """An alert is over: so is each severity that it had not left."""
        mildest = min((_severity(name) for name in alert.rungs), key=_rank, default=self.rules[alert.rule].ladder[0][0])
        found = [self._transition(alert, at_us, how, rise.severity, rise) for rise in alert.rises] or [
            self._transition(alert, at_us, "dropped", mildest)
        ]
        self._idle(alert)
        return found

    @staticmethod
    def _idle(alert: Alert) -> None:
        alert.id, alert.page, alert.unknown_since_us = None, None, None
        alert.unknown_told = False
        alert.rungs, alert.rises, alert.value, alert.sentence = {}, [], None, ""

    def _transition(
        self, alert: Alert, at_us: int, kind: str, severity: str, rise: OpenSeverity | None = None, sentence: str = ""
    ) -> Transition:
        limit = rise.limit if rise else dict(self.rules[alert.rule].ladder).get(severity)
        left = kind in ("fell", "resolved", "ended")
        if left and alert.value is not None:
            sentence = f"{alert.sentence}; now {self.rules[alert.rule].told(alert.value)}"
        return Transition(
            at_us,
            alert.rule,
            alert.subject,
            alert.source,
            str(alert.id),
            kind,
            _severity(severity),
            alert.value,
            None if isinstance(limit, str) else limit,
            rise.pending_us if rise else min([alert.pending_us, *(rung.trouble_us for rung in alert.rungs.values())]),
            rise.peak if rise and left else None,
            rise.inhibited_by if rise else None,
            sentence or alert.sentence,
            self.rules.hash,
        )
