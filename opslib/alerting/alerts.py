"""
Run the state machine of each alert over the findings of one evaluation time after another.

There is one alert per rule, subject and source. Each severity of its rule is pending, fires and clears by itself, like
a Prometheus alert (`for`, `keep_firing_for`). The alert's severity is the highest one that fires. An unknown finding
starts and ends nothing, and its time does not count. An alert that is over because its page or the market closed has
*ended*: it is neither firing nor resolved.

This module reads no clock, database or network: the same findings at the same times give the same transitions, live,
after a crash and in a replay.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from opslib.alerting.verdicts import Figure, Finding, both_windows, still_beyond_clear, value_on
from opslib.foundation import clock, formatting
from opslib.foundation.config.rules import SENT, SEVERITIES, Rule, Rules
from opslib.foundation.storage.cell_types import decoding, require_types

GRID_US = 5_000_000  # Alerts are evaluated at whole multiples of this since 1970.
WIDER = ("app", "monitor")  # Subjects whose alerts can inhibit the alerts of any other subject.
MISSING = "missing"  # The level of a rule that alerts on missing data; its severity is `notify`.
Key = tuple[str, str, str]
PageKey = tuple[str | None, int | None]


class Transition(NamedTuple):
    """
    One state change of an alert; never changed afterwards.

    Attributes:
        at_us: The evaluation time, microseconds since 1970.
        alert: Its id, the same from its first pending instant to its end.
        kind: pending, dropped (cleared before it fired), fired, rose, fell, unknown, known, released (no longer
            inhibited), resolved, ended.
        severity: The severity that was reached or left; for pending the lowest.
        value: The figure at that time, in the rule's unit; None is unknown.
        limit: The limit of that severity; None if it is not a number.
        pending_us: Since when the severity was reached, or the problem exists if that is known.
        peak: The worst value of a severity that was left.
        inhibited_by: The alert that inhibits this one, so that no one is notified of it.
        sentence: What is wrong, with the value and the limit.
        rules_hash: The hash of the rules it was evaluated by.
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
    The state of one severity of an alert; times in microseconds since 1970.

    Attributes:
        since_us: Since when its limit is crossed; `unknown_us` of that time was without data.
        fired: Whether it fires.
        gone_us: Since when its limit is no longer crossed while it still fires; `unknown_us` counts from then.
        peak: The worst value since then.
        began_us: When the problem began, if that is known: it can be before the limit was crossed.
    """

    since_us: int
    peak: float | None = None
    unknown_us: int = 0
    fired: bool = False
    gone_us: int | None = None
    began_us: int | None = None

    @property
    def problem_since_us(self) -> int:
        """The start of the problem: when it began, else when the limit was crossed."""
        return self.since_us if self.began_us is None else min(self.began_us, self.since_us)


@dataclass(slots=True)
class OpenSeverity:
    """A severity that an alert reached and has not left."""

    severity: str
    pending_us: int
    limit: float | None
    peak: float | None
    inhibited_by: str | None


# Attributes of an alert that the database stores under another name.
_STORED_AS = {"severities": "rungs", "reached": "rises", "unknown_reported": "unknown_told"}
_ATTRIBUTE_OF = {stored: name for name, stored in _STORED_AS.items()}


@dataclass(slots=True)
class Alert:
    """
    One alert, from idle to idle again.

    Attributes:
        id: The id of its present episode; None while idle.
        severities: The severities that are pending or fire.
        reached: The severities it reached and has not left, lowest first.
        unknown_since_us: Since when its figure is unknown; it is reported after `unknown_after`.
        page: The page load that it is about, if it is about one.
        explains: When each severity that fired last crossed its limit, and in which episode.
    """

    rule: str
    subject: str
    source: str
    id: str | None = None
    pending_us: int = 0
    severities: dict[str, SeverityState] = field(default_factory=dict)
    reached: list[OpenSeverity] = field(default_factory=list)
    unknown_since_us: int | None = None
    unknown_reported: bool = False
    page: PageKey | None = None
    explains: dict[str, tuple[int, str]] = field(default_factory=dict)
    value: float | None = None
    sentence: str = ""
    seen_us: int = 0

    @property
    def severity(self) -> str | None:
        """The highest severity that fires."""
        fires = {_severity(name) for name, state in self.severities.items() if state.fired}
        return next((severity for severity in reversed(SEVERITIES) if severity in fires), None)

    @property
    def state(self) -> str:
        """The state: pending, firing, unknown or idle."""
        if self.id is None:
            return "idle"
        if not self.reached:
            return "pending"
        if self.unknown_reported:
            return "unknown"
        return "firing"

    def as_json(self) -> dict[str, Any]:
        """Return the alert for the database; `of_json` reads it."""
        return {_STORED_AS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> "Alert":
        """
        Read what `as_json` wrote.

        Raises:
            DamagedCell: It is not a stored alert.
        """
        with decoding("alerts.state"):
            page, explains = found["page"], {name: (at, life) for name, (at, life) in found["explains"].items()}
            severities = {name: SeverityState(**state) for name, state in found["rungs"].items()}
            reached = [OpenSeverity(**level) for level in found["rises"]]
            alert = cls(
                **{
                    **{_ATTRIBUTE_OF.get(key, key): value for key, value in found.items()},
                    "severities": severities,
                    "reached": reached,
                    "page": None if page is None else (page[0], page[1]),
                    "explains": explains,
                }
            )
            for part in (alert, *severities.values(), *reached):
                require_types(part)
            return alert


def _severity(name: str) -> str:
    return "notify" if name == MISSING else name


def _rank(severity: str | None) -> int:
    return SEVERITIES.index(severity) if severity else -1


def worse(rule: Rule, a: float | None, b: float | None) -> float | None:
    """Return the worse of two values; None is unknown and ignored."""
    if a is None or b is None:
        return b if a is None else a
    return min(a, b) if rule.better == "higher" else max(a, b)


class Alerts:
    """
    The alerts of one app, advanced from one evaluation time to the next.

    Args:
        rules: The rules in effect.
        alerts: Their states after the last evaluation time; these objects are used as they are.
    """

    def __init__(self, rules: Rules, alerts: Iterable[Alert] = ()):
        self.rules = rules
        self.alerts: dict[Key, Alert] = {}
        for alert in alerts:
            if alert.rule in rules.rules:
                rule = rules[alert.rule]
                alert.severities = {
                    name: state
                    for name, state in alert.severities.items()
                    if name in dict(rule.thresholds) or (name == MISSING and rule.no_data == "alert")
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
        Apply the findings of one evaluation time, later than the one before.

        Args:
            findings: At most one per rule, subject and source; an alert without a finding does not change.
            page_closed: Returns whether a page load is closed for good; None means not seen now, it may come back.
            began: Returns when the problem of a finding began; called when a severity becomes pending.

        Raises:
            ValueError: Two findings for one alert.
        """
        keys: set[Key] = set()
        moved: list[tuple[Alert, Finding, str | None, bool | None]] = []
        for finding in findings:
            key = (finding.rule.name, finding.subject, finding.source)
            if key in keys:
                raise ValueError(f"two findings for {' '.join(key)} at one instant")
            keys.add(key)
            alert = self.alerts.get(key)
            if alert is None or alert.id is None:
                missing = finding.rule.no_data == "alert" and finding.verdict == "unknown" and finding.counted
                if finding.severity is None and not missing:
                    continue
                if alert is None:
                    alert = self.alerts[key] = Alert(*key)
            before = alert.severity
            moved.append((alert, finding, before, self._advance_alert(alert, finding, at_us, page_closed)))
            for state in [
                state for name, state in alert.severities.items() if state.since_us == at_us and name != MISSING
            ]:
                state.began_us = began(finding)
        return [
            t
            for alert, finding, before, known in moved
            for t in self._transitions(alert, finding, before, known, at_us)
        ]

    def close(self, at_us: int) -> list[Transition]:
        """End every pending or firing alert because the market closed."""
        found = []
        for alert in self.alerts.values():
            if alert.id is not None:
                found += self._end(alert, "ended", at_us)
        return found

    def _advance_alert(
        self, alert: Alert, finding: Finding, at_us: int, page_closed: Callable[[PageKey], bool | None]
    ) -> bool | None:
        """Advance all severities of an alert; return whether its figure is known; None if its page load is closed."""
        rule, figure, known = finding.rule, finding.figure, finding.verdict != "unknown"
        if finding.severity and figure.page:
            alert.page = figure.page
        elif alert.id and alert.page and not finding.severity:
            closed = page_closed(alert.page)
            if closed:
                return None
            known = known and closed is not None  # Other pages have no information about a page that is not seen.
        passed_us = at_us - alert.seen_us if alert.id else 0
        alert.seen_us = at_us
        if alert.id is None:
            self._begin(alert, at_us)
        for name, limit in rule.thresholds:
            threshold_known = known and (figure.spent is None or figure.spent[name].bound is not None)
            held = _rank(finding.severity) >= _rank(name) if threshold_known else None
            self._advance_severity(
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
            self._advance_severity(
                alert, MISSING, not known and finding.counted, True, rule.unknown_after, rule, None, at_us, passed_us
            )
        # A value beyond one limit is beyond every lower one, so the lower severities fire without waiting.
        fires = [_rank(name) for name, state in alert.severities.items() if state.fired and name != MISSING]
        for name, state in alert.severities.items():
            state.fired = state.fired or (name != MISSING and _rank(name) < max(fires, default=-1))
        if figure.value is not None and known:
            alert.value = figure.value
        if finding.severity or MISSING in alert.severities:
            alert.sentence = finding.sentence
        return known

    @staticmethod
    def _begin(alert: Alert, at_us: int) -> None:
        alert.pending_us, alert.id = (
            at_us,
            f"{alert.rule}-{alert.subject}-{alert.source}-{clock.instant(at_us):%Y%m%dT%H%M%SZ}",
        )

    @staticmethod
    def _advance_severity(
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
        """Advance one severity: limit crossed, not crossed, or unknown (None)."""
        state = alert.severities.get(name)
        if state is None:
            if not held:
                return
            state = alert.severities[name] = SeverityState(at_us)
        if held is None:
            state.unknown_us += passed_us
        elif held:
            if state.gone_us is not None:
                state.gone_us, state.unknown_us = None, 0
            state.peak = worse(rule, state.peak, value)
            if not state.fired and at_us - state.since_us - state.unknown_us >= clock.span_us(hold):
                state.fired, state.unknown_us = True, 0
            if state.fired:
                alert.explains[name] = (at_us, str(alert.id))
        elif not state.fired:
            del alert.severities[name]
        elif not clears:
            state.gone_us, state.unknown_us = None, 0
        else:
            if state.gone_us is None:
                state.gone_us, state.unknown_us = at_us, 0
            if at_us - state.gone_us - state.unknown_us >= clock.span_us(rule.keep_firing_for):
                del alert.severities[name]

    def _transitions(
        self, alert: Alert, finding: Finding, before: str | None, known: bool | None, at_us: int
    ) -> list[Transition]:
        """Return the transitions of an alert at this instant, after all alerts were advanced."""
        if known is None:
            return self._end(alert, "ended", at_us)
        found, after = list[Transition](), alert.severity
        if after is None and alert.reached:
            waiting = alert.severities
            found += self._end(alert, "resolved", at_us, finding.figure)
            if not waiting:
                return found
            # Missing data is back and crosses a limit: a new episode begins.
            alert.severities, alert.sentence = waiting, finding.sentence
            self._begin(alert, at_us)
        if not alert.severities:
            return self._end(alert, "dropped", at_us)
        if alert.pending_us == at_us:
            found.append(
                self._transition(
                    alert, at_us, "pending", min((_severity(name) for name in alert.severities), key=_rank)
                )
            )
        for level in alert.reached:
            level.peak = (
                worse(finding.rule, level.peak, value_on(finding.figure, level.severity))
                if finding.severity
                else level.peak
            )
        found += self._check_missing_data(alert, finding, known, at_us)
        inhibitor = self._inhibitor(alert, at_us) if after else None
        for level in [r for r in alert.reached if _rank(r.severity) > _rank(after)]:
            alert.reached.remove(level)
            found.append(self._transition(alert, at_us, "fell", level.severity, level, figure=finding.figure))
        if after and (
            not alert.reached or _rank(after) > max(_rank(before), *(_rank(r.severity) for r in alert.reached))
        ):
            # The first severity in `reached` is the lowest that fires, so it stays open as long as the alert fires.
            base = min((_severity(name) for name, state in alert.severities.items() if state.fired), key=_rank)
            for severity in [base, after] if not alert.reached and base != after else [after]:
                found.append(self._reach_severity(alert, finding, severity, inhibitor, at_us))
        if inhibitor is None and known:
            # Its window can still contain data of the inhibiting problem. The alert is released only if the current
            # finding has a severity that notifies.
            rank = _rank(finding.severity)
            for level in [
                r for r in alert.reached if r.inhibited_by and rank >= min(_rank(r.severity), _rank(SENT[0]))
            ]:
                level.inhibited_by = None
                found.append(self._transition(alert, at_us, "released", level.severity, level))
        return found

    def _reach_severity(
        self, alert: Alert, finding: Finding, severity: str, inhibitor: str | None, at_us: int
    ) -> Transition:
        kind = "rose" if alert.reached else "fired"
        state = alert.severities.get(severity) or alert.severities[MISSING]
        if severity not in alert.severities:
            limit = None
        elif finding.severity == severity:
            limit = finding.limit
        else:
            limit = dict(finding.rule.thresholds)[severity]
        alert.reached.append(
            OpenSeverity(
                severity, state.problem_since_us, None if isinstance(limit, str) else limit, state.peak, inhibitor
            )
        )
        sentence = (
            finding._replace(severity=severity, limit=limit).sentence
            if limit is not None and finding.severity
            else alert.sentence
        )
        held_s = (at_us - state.since_us) / 1e6
        return self._transition(
            alert,
            at_us,
            kind,
            severity,
            alert.reached[-1],
            f"{sentence} for {formatting.duration(held_s)}" if held_s else sentence,
        )

    def _check_missing_data(self, alert: Alert, finding: Finding, known: bool, at_us: int) -> list[Transition]:
        """Mark a firing alert unknown after `unknown_after` without data, or known again."""
        if known:
            back = (
                [self._transition(alert, at_us, "known", alert.reached[-1].severity)] if alert.unknown_reported else []
            )
            alert.unknown_since_us, alert.unknown_reported = None, False
            return back
        alert.unknown_since_us = alert.unknown_since_us or at_us
        patient = at_us - alert.unknown_since_us < clock.span_us(finding.rule.unknown_after)
        if alert.unknown_reported or not alert.reached or patient or MISSING in alert.severities:
            return []
        alert.unknown_reported = True
        why = finding.sentence if finding.verdict == "unknown" else f"{alert.sentence}; its page sends no snapshots"
        return [
            self._transition(alert, at_us, "unknown", alert.reached[-1].severity, sentence=why)._replace(value=None)
        ]

    def _inhibitor(self, alert: Alert, at_us: int) -> str | None:
        """
        Return the id of the alert that inhibits this one; None if there is none.

        It is an alert of a rule in `inhibited_by` with the same subject, or of the app or the monitor; or an alert of
        the same rule from an earlier source. It is pending or fires at this severity or above (or at the severity in
        `inhibited_from`), or did so within this alert's window.
        """
        rule = self.rules[alert.rule].of(alert.source)
        window_us = clock.span_us(
            rule.lookback(str(alert.severity)) if alert.severity in dict(rule.thresholds) else rule.window
        )
        found: list[tuple[bool, int, int, bool, int, int, str]] = []
        for other in self.alerts.values():
            if other.rule == alert.rule and other.subject == alert.subject:
                # Two sources report the same: the first source in the rule notifies.
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
            # A pending alert inhibits, too.
            held = max([_rank(name) for name in other.severities if name != MISSING], default=-1)
            if other.id and held >= rank:
                found.append((True, held, named, other.subject == "app", first, other.pending_us, other.id))
            found += [
                (False, _rank(_severity(name)), named, other.subject == "app", first, last_us, life)
                for name, (last_us, life) in other.explains.items()
                if _rank(_severity(name)) >= rank and last_us + window_us > at_us
            ]
        # A present alert comes before a past one, a higher severity before a lower one, then the order of
        # `inhibited_by`, then the subject app, then the order of the sources.
        return max(found)[-1] if found else None

    def _end(self, alert: Alert, how: str, at_us: int, figure: Figure | None = None) -> list[Transition]:
        """End an alert and each severity that it had not left; `figure` is the value now, if there is one."""
        mildest = min(
            (_severity(name) for name in alert.severities), key=_rank, default=self.rules[alert.rule].thresholds[0][0]
        )
        found = [
            self._transition(alert, at_us, how, level.severity, level, figure=figure) for level in alert.reached
        ] or [self._transition(alert, at_us, "dropped", mildest)]
        self._idle(alert)
        return found

    @staticmethod
    def _idle(alert: Alert) -> None:
        alert.id, alert.page, alert.unknown_since_us = None, None, None
        alert.unknown_reported = False
        alert.severities, alert.reached, alert.value, alert.sentence = {}, [], None, ""

    def _value_now(self, alert: Alert, severity: str, figure: Figure | None) -> str:
        """
        Return the value at which a severity is left: of a burn rate both of its windows.

        Either window of a burn rate can end it, so one of them alone may still be beyond the threshold. Empty if it is
        unknown, or if the alert's sentence has it already.
        """
        rule, value = self.rules[alert.rule], ""
        if rule.burn:
            value = both_windows(rule, figure, severity) if figure and figure.spent else ""
        elif alert.value is not None:
            value = rule.format_value(alert.value)
        return "" if any(f"({value}{end}" in alert.sentence for end in (")", ";", " over ")) else value

    def _transition(
        self,
        alert: Alert,
        at_us: int,
        kind: str,
        severity: str,
        level: OpenSeverity | None = None,
        sentence: str = "",
        figure: Figure | None = None,
    ) -> Transition:
        limit = level.limit if level else dict(self.rules[alert.rule].thresholds).get(severity)
        left = kind in ("fell", "resolved", "ended")
        if left and (value := self._value_now(alert, severity, figure)):
            sentence = f"{alert.sentence}; now {value}"
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
            level.pending_us
            if level
            else min([alert.pending_us, *(state.problem_since_us for state in alert.severities.values())]),
            level.peak if level and left else None,
            level.inhibited_by if level else None,
            sentence or alert.sentence,
            self.rules.hash,
        )
