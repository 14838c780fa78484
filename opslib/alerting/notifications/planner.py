"""
Decide when a notification of an alert is due, to whom, and about what.

For each alert it holds what is so beside what was told of it; a message is due where the two differ. So whatever was
killed in between, the difference is still there. Nothing here asks for the time, the store or the network.

Alerts of one trouble (of one rule and subject by two sources, or of one diagnosed cause) make one notification: the
first of them is sent, another one only where it is more severe, and the end when all of them are over.

A silenced alert tells nobody: when its silence ends, what still fires is told then, and what was told before and is
over by now too. What began and ended before anybody could be told is told afterwards, all of it in one message.
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
# What goes on to the next role where nobody says anything, and waits for nobody's hours.
PRESSING = ("critical", "escalate")
HELD_US = 15_000_000  # What nothing is at fault for is asked about again so often, and sent once that is no longer so.
# What is critical waits no longer for what belongs to it; that is merged with it by its cause.
PRESSING_WAIT_US = 5_000_000
# What one cause sets off follows within so long; what fires later is another trouble, though the cause is the same.
TROUBLE_US = 900_000_000
ANEW_US = 1_800_000_000  # What was told so long ago, and is reached again, is told again.
NEIGHBOUR = "prometheus"  # The source of alerts that another monitor judged.
# The source of what is told of things that were due; how their fingerprints end.
SCHEDULE, OF_SCHEDULE = "schedule", ":schedule"
# The same of what the collector says of itself, without evaluating a rule.
COLLECTOR, OF_COLLECTOR = "collector", ":collector"


class AlertChange(NamedTuple):
    """
    One change that somebody is to be told of: a severity that was reached (firing) or left (resolved); times in
    microseconds since 1970.
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
    Who wants to hear nothing of what, until when, and why; an empty rule, subject or source is any.

    Attributes:
        id: By which it is ended early.
        from_us, until_us: Microseconds since 1970; `until_us` is when it ended, where it was ended early.
    """

    id: str
    author: str
    reason: str
    rule: str
    subject: str
    source: str
    from_us: int
    until_us: int

    def holds(self, notice: "NotificationState", at_us: int) -> bool:
        """Does it keep an alert quiet at an instant?"""
        return self.from_us <= at_us < self.until_us and all(
            mine in ("", theirs)
            for mine, theirs in ((self.rule, notice.rule), (self.subject, notice.subject), (self.source, notice.source))
        )


class Cause(NamedTuple):
    """
    What sets an alert off, where the diagnosis of that moment is sure of it.

    Attributes:
        name: The cause and its subject, by which two alerts are one trouble.
        words: The cause, its subject, how sure that is, and what it means.
        headline: What it means, in one sentence.
        runbook: Where it goes on; empty where nothing needs be done.
        rule: The rule that says what to do first about it; empty where there is none.
        who: The role that acts first on that.
        action, traders: What to do first, and what it means for who trades, where the text of the rule does not fit;
            else empty.
        no_fault: Whether nothing is at fault, so that nobody is notified while that is so.
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


def unknown_cause(notice: "NotificationState") -> Cause | None:
    """No diagnosis was made."""
    return None


@dataclass(slots=True)
class NotificationState:
    """
    One alert as people know it; times in microseconds since 1970.

    Attributes:
        panel, who: Of its rule: where it belongs, and the role that acts first.
        group: By which those belong together that fire in one panel at one time.
        levels: The severities that fire and of which somebody is to be told, in the order in which they were reached.
        fired_us: When the first of them did; rose_us, when the present one did.
        over_us, how: When none was left, and whether it was resolved, has ended, or only fell below.
        worst: The highest severity that it reached meanwhile.
        told: The highest severity that somebody was told of; None where nobody was, since it was last over.
        told_us: When somebody was last told of it.
        roles: Who was.
        acked_by: Who has taken it; empty is nobody.
        muted: Was it kept quiet since somebody was last told?
        again: Of something that was due: the words after ``ops`` by which somebody makes it.
        explained: Is it a neighbour's word for an alert of ours, which is told instead?
        held_until_us: Nobody is notified of it before, for its cause was no fault; 0 where that was not so.
        cause, cause_words, headline, runbook, cause_rule, action, traders: The cause that people were notified of, see
            `Cause`; empty where none was.
    """

    alert: str
    rule: str
    subject: str
    source: str
    panel: str
    who: str
    group: str = ""
    levels: list[str] = field(default_factory=list)
    pending_us: int = 0
    fired_us: int | None = None
    rose_us: int = 0
    over_us: int | None = None
    how: str = ""
    worst: str | None = None
    told: str | None = None
    told_us: int = 0
    roles: list[str] = field(default_factory=list)
    acked_by: str = ""
    muted: bool = False
    explained: bool = False
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
    held_until_us: int = 0

    @classmethod
    def of_json(cls, state: str) -> "NotificationState":
        """
        Read what `as_json` gave, as it is kept.

        Raises:
            DamagedCell: It is no such thing.
        """
        with decoding("notices.state"):
            found = cls(**json.loads(state))
            require_types(found)
            if not {*found.levels, found.worst, found.told} <= {*SEVERITIES, None}:
                raise ValueError("a severity that there is not")
        return found

    @property
    def level(self) -> str | None:
        """The highest severity that fires."""
        return max(self.levels, key=SEVERITIES.index, default=None)

    @property
    def open(self) -> bool:
        """Is there, or may there be, anything to tell?"""
        return bool(self.levels) or self.told is not None or self.over_us is not None

    def take(self, edge: AlertChange) -> None:
        """Take in what became of the alert."""
        if edge.edge == "firing":
            if not self.levels and self.over_us is None:
                self.fired_us, self.pending_us, self.peak, self.worst = edge.at_us, edge.pending_us, None, None
            if edge.severity not in self.levels:
                self.levels.append(edge.severity)
            self.worst = max(self.worst or edge.severity, edge.severity, key=SEVERITIES.index)
            if self.level == edge.severity:
                self.rose_us = edge.at_us
                self.sentence, self.value, self.limit = edge.sentence, edge.value, edge.limit
            self.over_us, self.how = None, ""
            return
        self.levels = [level for level in self.levels if level != edge.severity]
        # The mildest is left last, and its peak is that of the whole.
        self.peak = self.peak if edge.peak is None else edge.peak
        if not self.levels and self.fired_us is not None and self.over_us is None:
            self.over_us, self.how, self.value = edge.at_us, edge.kind, edge.value

    def closed(self) -> None:
        """All that there was to tell has been told."""
        (
            self.over_us,
            self.how,
            self.told,
            self.told_us,
            self.roles,
            self.acked_by,
            self.muted,
            self.explained,
            self.group,
        ) = None, "", None, 0, [], "", False, False, ""
        self.cause, self.cause_words, self.headline, self.runbook, self.cause_rule, self.action, self.traders = (
            "",
            "",
            "",
            "",
            "",
            "",
            "",
        )
        self.held_until_us = 0

    def named(self, cause: Cause | None) -> None:
        """Keep the cause that people are notified of; one that is kept stays."""
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
            ) = cause
            self.who = who or self.who

    def as_json(self) -> dict[str, Any]:
        """For the store; `of_json` reads it."""
        return asdict(self)


class Notification(NamedTuple):
    """One thing to be told of one alert, and to whom."""

    notice: NotificationState
    kind: str
    roles: tuple[str, ...]


def _rank(severity: str | None) -> int:
    return SEVERITIES.index(severity) if severity else -1


def due(
    notices: Iterable[NotificationState],
    silences: Iterable[Silence],
    acks: Mapping[str, tuple[str, int]],
    staff: Contacts,
    at_us: int,
    cause_of: Callable[[NotificationState], Cause | None] = unknown_cause,
) -> list[Notification]:
    """
    What is to be told at an instant? The notices are marked as told of it, and those with nothing left are closed.

    Args:
        notices: Every open one of an app.
        acks: Who has taken which alert, or group, by its id, and when: what fires anew after that is not taken by it.
        cause_of: The cause that sets an alert off, by the diagnosis of this instant; None where it is not sure.
    """
    notices, silences = sorted(notices, key=lambda n: (n.fired_us or 0, n.alert)), list(silences)
    heard = list[NotificationState]()
    for notice in notices:
        _join(notice, notices)
    _merge(notices, cause_of)
    _explain(notices)
    _take(notices, acks)
    for notice in notices:
        quiet = any(silence.holds(notice, at_us) for silence in silences)
        if quiet or notice.explained:
            notice.muted = notice.muted or quiet
            if notice.over_us is not None and notice.told is None:
                notice.closed()
            continue
        if notice.held_until_us and notice.over_us is not None and notice.told is None:
            notice.closed()  # It was no fault to its end.
            continue
        heard.append(notice)
    wait_us = clock.span_us(staff.group_wait)
    pressing_us = min(wait_us, PRESSING_WAIT_US)
    ripe = {
        n.group
        for n in heard
        if n.levels
        and n.told is None
        and at_us - (n.fired_us or 0) >= (pressing_us if n.level in PRESSING else wait_us)
    } | {n.group for n in heard if n.told and _rank(n.level) > _rank(n.told)}
    goes_on = {n.group for n in heard if n.told and n.levels}
    settled = {
        n.group for n in heard if n.over_us is not None and (at_us - n.over_us >= wait_us or n.group not in goes_on)
    }
    found = list[Notification]()
    for notice in heard:
        is_ripe = notice.group in (ripe if notice.levels else settled)
        telling = _telling(notice, is_ripe, staff, at_us)
        if telling and telling.kind in (FIRING, ESCALATED_SEVERITY):
            if at_us < notice.held_until_us:
                continue
            cause = cause_of(notice)
            if cause and cause.no_fault:
                notice.held_until_us = at_us + HELD_US
                continue
            if cause and not notice.cause:
                notice.named(cause)
                telling = _telling(notice, is_ripe, staff, at_us)  # Who acts first is the cause's.
        found += [telling] if telling and not _said_by_another(telling, notices) else []
    for telling in found:
        _mark(telling, at_us)
    return found


def _one_trouble(a: NotificationState, b: NotificationState, name: str) -> bool:
    """
    Whether two alerts are one trouble: of one rule and subject, or of one cause (`name` is that of the first) within a
    while.
    """
    by_cause = bool(name) and name == b.cause and abs((a.fired_us or 0) - (b.fired_us or 0)) <= TROUBLE_US
    return (
        a is not b
        and NEIGHBOUR not in (a.source, b.source)
        and (by_cause or ((a.rule, a.subject) == (b.rule, b.subject) and a.source != b.source))
    )


def _merge(notices: list[NotificationState], cause_of: Callable[[NotificationState], Cause | None]) -> None:
    """What fires for a trouble that people were notified of belongs to it: it is sent only where it is more severe."""
    for notice in notices:
        if notice.explained or notice.level not in SENT or _rank(notice.told) >= _rank(notice.level):
            continue
        cause = None if notice.cause else cause_of(notice)
        name = notice.cause or (cause.name if cause else "")
        others = [n for n in notices if n.told and n.levels and not n.muted and _one_trouble(notice, n, name)]
        worst = max(others, key=lambda n: _rank(n.told), default=None)
        if worst is None or _rank(worst.told) <= _rank(notice.told):
            continue
        notice.told, notice.told_us, notice.group = min(worst.told, notice.level, key=_rank), worst.told_us, worst.group
        notice.roles = list(_with(notice.roles, tuple(worst.roles)))
        notice.named(
            Cause(
                worst.cause,
                worst.cause_words,
                worst.headline,
                worst.runbook,
                worst.cause_rule,
                worst.who,
                worst.action,
                worst.traders,
            )
            if worst.cause
            else None
        )


def _said_by_another(telling: Notification, notices: list[NotificationState]) -> bool:
    """
    Whether another alert of the same trouble is sent in its place: its end while the other one fires, and what is
    repeated of both.
    """
    notice = telling.notice
    others = [n for n in notices if n.told and n.levels and not n.muted and _one_trouble(notice, n, notice.cause)]
    if telling.kind == RESOLVED:
        return bool(others)
    first = min([*others, notice], key=lambda n: (n.fired_us or 0, n.alert))
    return (
        telling.kind in (REPEAT, ESCALATED_ROLE)
        and not notice.muted
        and first is not notice
        and _rank(first.level) >= _rank(notice.level)
    )


def _explain(notices: list[NotificationState]) -> None:
    """
    What a neighbour says of an alert of ours is ours to tell, to the end; what it has told already is not told again.
    """
    own = {(n.rule, n.subject): n for n in notices if n.source != NEIGHBOUR and n.levels}
    for theirs in notices:
        ours = own.get((theirs.rule, theirs.subject)) if theirs.source == NEIGHBOUR and theirs.levels else None
        if ours is None or theirs.explained:
            continue
        theirs.explained = True
        if theirs.told is not None and ours.told is None:
            ours.told, ours.told_us, ours.roles, ours.group = (
                theirs.told,
                theirs.told_us,
                list(theirs.roles),
                theirs.group,
            )
        theirs.told = None


def _take(notices: list[NotificationState], acks: Mapping[str, tuple[str, int]]) -> None:
    """Who takes an alert takes all that fires with it; what fires anew afterwards is not taken by that."""
    for notice in notices:
        for name in (notice.group, notice.alert):
            author, since_us = acks.get(name, ("", 0))
            if author and since_us >= notice.pending_us:
                for other in notices:
                    if other.group == notice.group and since_us >= other.pending_us:
                        other.acked_by = author


def _join(notice: NotificationState, notices: list[NotificationState]) -> None:
    """Which group does an alert belong to? That of its panel which is open, else one of its own."""
    if not notice.group:
        notice.group = (
            next((n.group for n in notices if n.group and n.panel == notice.panel and (n.levels or n.told)), "")
            or notice.alert
        )


def _telling(notice: NotificationState, ripe: bool, staff: Contacts, at_us: int) -> Notification | None:
    level = notice.level
    if level is None:
        if notice.told is not None:
            return Notification(notice, RESOLVED, tuple(notice.roles)) if ripe and notice.over_us is not None else None
        if notice.over_us is None:
            return None
        if notice.muted:
            notice.closed()
            return None
        return Notification(notice, MISSED_SUMMARY, staff.told(notice.who, "notify"))
    if level not in SENT:
        return None
    if _rank(level) > _rank(notice.told):
        return (
            Notification(
                notice,
                ESCALATED_SEVERITY if notice.told else FIRING,
                _with(notice.roles, staff.told(notice.who, level)),
            )
            if ripe
            else None
        )
    if level in PRESSING and notice.rose_us - notice.told_us >= ANEW_US:
        return Notification(
            notice, ESCALATED_SEVERITY, tuple(notice.roles)
        )  # It was less for a good while, and is so again.
    if notice.muted:
        return Notification(notice, REPEAT, tuple(notice.roles))  # The silence is over, and it still fires.
    if notice.acked_by:
        return None
    if (
        level in PRESSING
        and at_us - max(notice.told_us, notice.rose_us) >= clock.span_us(staff.escalate_after)
        and (role := staff.after(tuple(notice.roles)))
    ):
        return Notification(notice, ESCALATED_ROLE, (role,))
    if at_us - notice.told_us < clock.span_us(staff.repeat_every):
        return None
    # What can wait for somebody's hours is not said again and again meanwhile.
    there = level in PRESSING or any(
        staff.roles[role].on_duty(clock.instant(at_us)) for role in notice.roles if role in staff.roles
    )
    return Notification(notice, REPEAT, tuple(notice.roles)) if there else None


def _with(roles: list[str], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*roles, *more)))


def _mark(telling: Notification, at_us: int) -> None:
    notice = telling.notice
    if telling.kind in (RESOLVED, MISSED_SUMMARY):
        return  # Whoever writes the message still reads when it was; it is closed after that.
    notice.told = max(notice.level or "", notice.told or "", key=lambda s: _rank(s or None))
    notice.told_us, notice.roles, notice.muted = at_us, list(_with(notice.roles, telling.roles)), False
