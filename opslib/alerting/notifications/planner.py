"""
Decide when a notification of an alert is due, to which roles, and about what.

For each alert it keeps the current state and the state that people were last notified of. A notification is due when
they differ, so it survives a killed process. This module reads no clock, database or network.

Alerts of one problem (one rule and subject from two sources, or one diagnosed cause) make one notification. The first
one is sent, another one only if it is more severe, and the resolution when all of them are over.

A silenced alert notifies no one. When the silence ends, people are notified if it still fires, or of its resolution if
they were notified before. Alerts that resolved before anyone was notified are reported afterwards in one message.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from opslib.foundation import clock
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import SENT, SEVERITIES
from opslib.foundation.storage.cell_types import decoding, require_types

FIRING, ESCALATED_SEVERITY, REPEAT, ESCALATED_ROLE, RESOLVED, MISSED_SUMMARY, REPORT = (
    "firing",
    "rose",
    "repeat",
    "unheard",
    "over",
    "passed",
    "report",
)
# The kinds as people read them.
KIND_NAMES = {
    FIRING: "firing",
    ESCALATED_SEVERITY: "severity raised",
    REPEAT: "still firing",
    ESCALATED_ROLE: "not acknowledged",
    RESOLVED: "resolved",
    MISSED_SUMMARY: "resolved before anyone was notified",
    REPORT: "report",
}
# Severities that escalate to the next role without acknowledgement, and that ignore working hours.
PRESSING = ("critical", "escalate")
HOLD_BACK_US = 15_000_000  # An alert whose cause is no fault is held back and checked again after this time.
# A critical alert waits at most this long for its group; later alerts of its cause are merged with it.
PRESSING_WAIT_US = 5_000_000
# Alerts of one cause fire within this time of each other; a later one is another problem with the same cause.
SAME_PROBLEM_US = 900_000_000
RENOTIFY_US = 1_800_000_000  # A severity that is reached again this long after the last notification is notified again.
EXTERNAL = "prometheus"  # The source of an external monitoring system's alerts.
# The source of alerts about due jobs, and the end of their fingerprints.
SCHEDULE, OF_SCHEDULE = "schedule", ":schedule"
# The same for alerts of the collector about itself, which no rule evaluates.
COLLECTOR, OF_COLLECTOR = "collector", ":collector"


class AlertChange(NamedTuple):
    """
    One change of an alert that can need a notification: a severity reached (firing) or left (resolved).

    Times are in microseconds since 1970.
    """

    edge: str
    at_us: int
    alert: str
    rule: str
    subject: str
    source: str
    kind: str
    severity: str
    value: float | None
    limit: float | None
    pending_us: int
    peak: float | None
    sentence: str


class Silence(NamedTuple):
    """
    One silence: author, reason, what it matches, and its time; an empty rule, subject or source matches any.

    Attributes:
        id: The id by which it can be expired early.
        from_us, until_us: Microseconds since 1970; if it was expired early, `until_us` is that time.
    """

    id: str
    author: str
    reason: str
    rule: str
    subject: str
    source: str
    from_us: int
    until_us: int

    def matches(self, state: "NotificationState", at_us: int) -> bool:
        """Return whether it silences an alert at an instant."""
        return self.from_us <= at_us < self.until_us and all(
            mine in ("", theirs)
            for mine, theirs in ((self.rule, state.rule), (self.subject, state.subject), (self.source, state.source))
        )


class Cause(NamedTuple):
    """
    The cause of an alert by the diagnosis of that time.

    Attributes:
        name: The cause and its subject; alerts with the same name belong to one problem.
        words: The meaning of the cause, and the confidence.
        headline: Its meaning in one sentence.
        runbook: The runbook; empty if nothing needs to be done.
        rule: The rule with the first action for it; empty if there is none.
        who: The role that acts first.
        action, traders: The first action and the impact on traders if the rule's texts do not fit; else empty.
        no_fault: Whether there is no fault, so that no one is notified while this lasts.
        likely: If the diagnosis is not sure: the likely cause and its subject. Then only `words` is set besides, and
            the alert belongs to no problem of this cause.
    """

    name: str
    words: str
    headline: str
    runbook: str
    rule: str
    who: str
    action: str = ""
    traders: str = ""
    no_fault: bool = False
    likely: str = ""


def unknown_cause(state: "NotificationState") -> Cause | None:
    """Return no cause: no diagnosis was made."""
    return None


# Attributes of a state that the database stores under another name.
_STORED_AS = {
    "notified": "told",
    "notified_us": "told_us",
    "silenced": "muted",
    "replaced": "explained",
    "reached_us": "rose_us",
}
_ATTRIBUTE_OF = {stored: name for name, stored in _STORED_AS.items()}


@dataclass(slots=True)
class NotificationState:
    """
    The state of one alert and what people were notified of; times in microseconds since 1970.

    Attributes:
        panel, who: The panel of its rule, and the role that acts first.
        group: The group of alerts that fire in one panel at the same time.
        levels: The firing severities that need a notification, in the order in which they were reached.
        active_us: Since when it is active at any severity; 0 if that is not stored.
        pending_us: Since when the threshold of the first of them was crossed.
        reached: When each of them was reached, by severity.
        fired_us: When the first of them was reached; reached_us is the time of the present one.
        over_us, how: When none was left, and how: resolved, ended, or fell (to a severity without notification).
        worst: The highest severity reached so far.
        notified: The highest severity that people were notified of; None if no one was since it was last over.
        notified_us: When people were last notified of it.
        roles: The roles that were notified.
        acked_by: The person who acknowledged it; empty if no one did.
        silenced: Whether it was silenced since the last notification.
        again: For a due job: the words after ``ops`` that run it by hand.
        replaced: Whether it is an external alert for which an alert of ours is notified instead.
        held_until_us: No notification before this time, because its cause was no fault; 0 if that is not the case.
        cause, cause_words, headline, runbook, cause_rule, action, traders, likely: The cause that people were notified
            of, see `Cause`; empty if there was none.
    """

    alert: str
    rule: str
    subject: str
    source: str
    panel: str
    who: str
    group: str = ""
    levels: list[str] = field(default_factory=list)
    active_us: int = 0
    pending_us: int = 0
    reached: dict[str, int] = field(default_factory=dict)
    fired_us: int | None = None
    reached_us: int = 0
    over_us: int | None = None
    how: str = ""
    worst: str | None = None
    notified: str | None = None
    notified_us: int = 0
    roles: list[str] = field(default_factory=list)
    acked_by: str = ""
    silenced: bool = False
    replaced: bool = False
    value: float | None = None
    limit: float | None = None
    peak: float | None = None
    sentence: str = ""
    again: list[str] = field(default_factory=list)
    cause: str = ""
    cause_words: str = ""
    headline: str = ""
    runbook: str = ""
    cause_rule: str = ""
    action: str = ""
    traders: str = ""
    likely: str = ""
    held_until_us: int = 0

    @classmethod
    def of_json(cls, state: str) -> "NotificationState":
        """
        Read the stored result of `as_json`.

        Raises:
            DamagedCell: It is not a stored state.
        """
        with decoding("notices.state"):
            found = cls(**{_ATTRIBUTE_OF.get(key, key): value for key, value in json.loads(state).items()})
            require_types(found)
            if not {*found.levels, found.worst, found.notified} <= {*SEVERITIES, None}:
                raise ValueError("a severity that there is not")
        return found

    @property
    def level(self) -> str | None:
        """The highest severity that fires."""
        return max(self.levels, key=SEVERITIES.index, default=None)

    @property
    def open(self) -> bool:
        """Whether a notification is or may become due."""
        return bool(self.levels) or self.notified is not None or self.over_us is not None

    def apply(self, edge: AlertChange) -> None:
        """Apply a change of the alert."""
        if edge.edge == "firing":
            if not self.levels and self.over_us is None:
                self.fired_us, self.pending_us, self.peak, self.worst = edge.at_us, edge.pending_us, None, None
            if edge.severity not in self.levels:
                self.levels.append(edge.severity)
            self.worst = max(self.worst or edge.severity, edge.severity, key=SEVERITIES.index)
            self.reached[edge.severity] = edge.at_us
            if self.level == edge.severity:
                self.reached_us = edge.at_us
                self.sentence, self.value, self.limit = edge.sentence, edge.value, edge.limit
            self.over_us, self.how = None, ""
            return
        self.levels = [level for level in self.levels if level != edge.severity]
        # The lowest severity is left last, and its peak is that of the whole alert.
        self.peak = self.peak if edge.peak is None else edge.peak
        if not self.levels and self.fired_us is not None and self.over_us is None:
            self.over_us, self.how, self.value = edge.at_us, edge.kind, edge.value

    def reset(self) -> None:
        """Reset the state after the last notification."""
        (
            self.over_us,
            self.how,
            self.notified,
            self.notified_us,
            self.roles,
            self.acked_by,
            self.silenced,
            self.replaced,
            self.group,
        ) = None, "", None, 0, [], "", False, False, ""
        self.cause = self.cause_words = self.headline = self.runbook = self.cause_rule = ""
        self.action = self.traders = self.likely = ""
        self.held_until_us = 0

    def set_cause(self, cause: Cause | None) -> None:
        """Store the cause that people are notified of; one that a diagnosis was sure of is kept."""
        if cause is not None and not self.cause:
            (
                self.cause,
                self.cause_words,
                self.headline,
                self.runbook,
                self.cause_rule,
                who,
                self.action,
                self.traders,
                _,
                self.likely,
            ) = cause
            self.who = who or self.who

    def as_json(self) -> dict[str, Any]:
        """Return the state for the database; `of_json` reads it."""
        return {_STORED_AS.get(name, name): value for name, value in asdict(self).items()}


class Notification(NamedTuple):
    """One due notification of one alert, and the roles that get it."""

    state: NotificationState
    kind: str
    roles: tuple[str, ...]


def _rank(severity: str | None) -> int:
    return SEVERITIES.index(severity) if severity else -1


def due_notifications(
    states: Iterable[NotificationState],
    silences: Iterable[Silence],
    acks: Mapping[str, tuple[str, int]],
    contacts: Contacts,
    at_us: int,
    cause_of: Callable[[NotificationState], Cause | None] = unknown_cause,
) -> list[Notification]:
    """
    Return the notifications due at an instant. The states are marked as notified; finished ones are reset.

    Args:
        states: Every open state of an app.
        acks: By id of an alert or group: the person who acknowledged it and when. An alert that fires again after that
            is not covered by it.
        cause_of: Returns the cause of an alert by the diagnosis of this instant; None if it is not sure.
    """
    states, silences = sorted(states, key=lambda n: (n.fired_us or 0, n.alert)), list(silences)
    audible = list[NotificationState]()
    for state in states:
        _assign_group(state, states)
    _merge(states, cause_of)
    _replace_external(states)
    _acknowledge(states, acks)
    for state in states:
        quiet = any(silence.matches(state, at_us) for silence in silences)
        if quiet or state.replaced:
            state.silenced = state.silenced or quiet
            if state.over_us is not None and state.notified is None:
                state.reset()
            continue
        if state.held_until_us and state.over_us is not None and state.notified is None:
            state.reset()  # Its cause was no fault until the end.
            continue
        audible.append(state)
    wait_us = clock.span_us(contacts.group_wait)
    pressing_us = min(wait_us, PRESSING_WAIT_US)
    ripe = {
        n.group
        for n in audible
        if n.levels
        and n.notified is None
        and at_us - (n.fired_us or 0) >= (pressing_us if n.level in PRESSING else wait_us)
    } | {n.group for n in audible if n.notified and _rank(n.level) > _rank(n.notified)}
    goes_on = {n.group for n in audible if n.notified and n.levels}
    ended = {
        n.group
        for n in audible
        if n.over_us is not None
        and (at_us - n.over_us >= wait_us or (n.group not in goes_on and n.how != "fell"))  # It may resolve soon.
    }
    found = list[Notification]()
    for state in audible:
        is_ripe = state.group in (ripe if state.levels else ended)
        notification = _due_notification(state, is_ripe, contacts, at_us)
        if notification and notification.kind in (FIRING, ESCALATED_SEVERITY):
            if at_us < state.held_until_us:
                continue
            cause = cause_of(state)
            if cause and cause.no_fault:
                state.held_until_us = at_us + HOLD_BACK_US
                continue
            if cause and not state.cause:
                state.set_cause(cause)
                notification = _due_notification(
                    state, is_ripe, contacts, at_us
                )  # The cause decides which role acts first.
        found += [notification] if notification and not _replaced_by_another(notification, states) else []
    for notification in found:
        _mark_notified(notification, at_us)
    return found


def _same_problem(a: NotificationState, b: NotificationState, name: str) -> bool:
    """
    Return whether two alerts are one problem: the same rule and subject, or the same cause within `SAME_PROBLEM_US`.

    Args:
        name: The cause of the first one.
    """
    by_cause = bool(name) and name == b.cause and abs((a.fired_us or 0) - (b.fired_us or 0)) <= SAME_PROBLEM_US
    return (
        a is not b
        and EXTERNAL not in (a.source, b.source)
        and (by_cause or ((a.rule, a.subject) == (b.rule, b.subject) and a.source != b.source))
    )


def _merge(states: list[NotificationState], cause_of: Callable[[NotificationState], Cause | None]) -> None:
    """Merge firing alerts into a problem that people were notified of; they are sent only if they are more severe."""
    for state in states:
        if state.replaced or state.level not in SENT or _rank(state.notified) >= _rank(state.level):
            continue
        cause = None if state.cause else cause_of(state)
        name = state.cause or (cause.name if cause else "")
        others = [n for n in states if n.notified and n.levels and not n.silenced and _same_problem(state, n, name)]
        worst = max(others, key=lambda n: _rank(n.notified), default=None)
        if worst is None or _rank(worst.notified) <= _rank(state.notified):
            continue
        state.notified, state.notified_us, state.group = (
            min(worst.notified, state.level, key=_rank),
            worst.notified_us,
            worst.group,
        )
        state.roles = list(_with(state.roles, tuple(worst.roles)))
        state.set_cause(
            Cause(
                worst.cause,
                worst.cause_words,
                worst.headline,
                worst.runbook,
                worst.cause_rule,
                worst.who,
                worst.action,
                worst.traders,
                likely=worst.likely,
            )
            if worst.cause or worst.likely
            else None
        )


def _replaced_by_another(notification: Notification, states: list[NotificationState]) -> bool:
    """
    Return whether another alert of the same problem is sent instead.

    That holds for a resolution while the other one fires, and for repeats of both.
    """
    state = notification.state
    others = [n for n in states if n.notified and n.levels and not n.silenced and _same_problem(state, n, state.cause)]
    if notification.kind == RESOLVED:
        return bool(others)
    first = min([*others, state], key=lambda n: (n.fired_us or 0, n.alert))
    return (
        notification.kind in (REPEAT, ESCALATED_ROLE)
        and not state.silenced
        and first is not state
        and _rank(first.level) >= _rank(state.level)
    )


def _replace_external(states: list[NotificationState]) -> None:
    """Let our own alert replace the external alert of the same rule and subject, with what was notified already."""
    own = {(n.rule, n.subject): n for n in states if n.source != EXTERNAL and n.levels}
    for theirs in states:
        ours = own.get((theirs.rule, theirs.subject)) if theirs.source == EXTERNAL and theirs.levels else None
        if ours is None or theirs.replaced:
            continue
        theirs.replaced = True
        if theirs.notified is not None and ours.notified is None:
            ours.notified, ours.notified_us, ours.roles, ours.group = (
                theirs.notified,
                theirs.notified_us,
                list(theirs.roles),
                theirs.group,
            )
        theirs.notified = None


def _acknowledge(states: list[NotificationState], acks: Mapping[str, tuple[str, int]]) -> None:
    """Apply acknowledgements to the whole group; an alert that fires again later is not covered."""
    for state in states:
        for name in (state.group, state.alert):
            author, since_us = acks.get(name, ("", 0))
            if author and since_us >= state.pending_us:
                for other in states:
                    if other.group == state.group and since_us >= other.pending_us:
                        other.acked_by = author


def _assign_group(state: NotificationState, states: list[NotificationState]) -> None:
    """Set the group of an alert: the open group of its panel, else its own."""
    if not state.group:
        state.group = (
            next((n.group for n in states if n.group and n.panel == state.panel and (n.levels or n.notified)), "")
            or state.alert
        )


def _due_notification(state: NotificationState, ripe: bool, contacts: Contacts, at_us: int) -> Notification | None:
    level = state.level
    if level is None:
        if state.notified is not None:
            return Notification(state, RESOLVED, tuple(state.roles)) if ripe and state.over_us is not None else None
        if state.over_us is None:
            return None
        if state.silenced:
            state.reset()
            return None
        return Notification(state, MISSED_SUMMARY, contacts.notified_roles(state.who, "notify"))
    if level not in SENT:
        return None
    if _rank(level) > _rank(state.notified):
        return (
            Notification(
                state,
                ESCALATED_SEVERITY if state.notified else FIRING,
                _with(state.roles, contacts.notified_roles(state.who, level)),
            )
            if ripe
            else None
        )
    if level in PRESSING and state.reached_us - state.notified_us >= RENOTIFY_US:
        return Notification(
            state, ESCALATED_SEVERITY, tuple(state.roles)
        )  # It was lower for a long time and has reached this severity again.
    if state.silenced:
        return Notification(state, REPEAT, tuple(state.roles))  # The silence is over and the alert still fires.
    if state.acked_by:
        return None
    if (
        level in PRESSING
        and at_us - max(state.notified_us, state.reached_us) >= clock.span_us(contacts.escalate_after)
        and (role := contacts.next_role(tuple(state.roles)))
    ):
        return Notification(state, ESCALATED_ROLE, (role,))
    if at_us - state.notified_us < clock.span_us(contacts.repeat_every):
        return None
    # A severity that waits for working hours is not repeated outside of them.
    there = level in PRESSING or any(
        contacts.roles[role].on_duty(clock.instant(at_us)) for role in state.roles if role in contacts.roles
    )
    return Notification(state, REPEAT, tuple(state.roles)) if there else None


def _with(roles: list[str], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*roles, *more)))


def _mark_notified(notification: Notification, at_us: int) -> None:
    state = notification.state
    if notification.kind in (RESOLVED, MISSED_SUMMARY):
        return  # The message still needs these times; the state is reset after it is written.
    state.notified = max(state.level or "", state.notified or "", key=lambda s: _rank(s or None))
    state.notified_us, state.roles, state.silenced = at_us, list(_with(state.roles, notification.roles)), False
