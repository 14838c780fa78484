"""
Compose the text of a notification: the first line says what is wrong, the next what to do first.

What still works is read as of the time of the message and never assumed; without data it is shown as unknown.
"""

import html
import re
import shlex
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import quote

from opslib.alerting import causes, effects
from opslib.alerting.notifications.planner import (
    COLLECTOR,
    ESCALATED_ROLE,
    ESCALATED_SEVERITY,
    EXTERNAL,
    FIRING,
    MISSED_SUMMARY,
    PRESSING,
    REPEAT,
    REPORT,
    RESOLVED,
    SCHEDULE,
)
from opslib.alerting.verdicts import named, over_window, subject_title
from opslib.foundation import clock, formatting, templates
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import NAMES, SEVERITIES, Rule, Rules
from opslib.foundation.storage.snapshot_columns import PROVIDERS

PAGE = "alerting/notifications/templates/page.html"  # Of one message, or the begin of a page of several.
SHOWN = 10  # Most alerts that are named in one message.
MINUTE_US = 60_000_000  # Two times in the same minute are one for people.
OLD_S = 300.0  # What was observed longer ago than this does not show how something is now.
LATE_US = 300_000_000  # A notification that is sent later than this after the alert fired says so.
HEADS = {
    FIRING: "",
    ESCALATED_SEVERITY: "severity raised: ",
    REPEAT: "still firing: ",
    ESCALATED_ROLE: "not acknowledged: ",
    RESOLVED: "resolved: ",
    MISSED_SUMMARY: "resolved before anyone was notified: ",
}
# Slack and mails show what to do first below the headline, then the short answers, side by side.
DO_FIRST, SINCE, FAULT, MEASURED, OWNER, NEXT = "Do first", "Since", "Whose fault", "Measured", "Owner", "Next"
SHORT = (SINCE, FAULT, "Does not work", "Still works", "Works now", "Works again", "Unknown", MEASURED, OWNER, NEXT)
# How an alert that is over ended, see `NotificationState.how`.
_END_OF_HOW = {"resolved": "resolved", "fell": "lowered to warning", "ended": "ended"}
_LEFT = {"warning": "still broken", "unknown": "not confirmed yet"}
IN_TERMINAL = "In a terminal"
ACKNOWLEDGE, RUNBOOK, DASHBOARD, INCIDENT = "Acknowledge", "Runbook", "Dashboard", "Incident"  # The buttons.
# Who measured an alert, by its source.
_SOURCES = {
    "page": "the app's page",
    "probe": "our probes",
    "chain": "our chains",
    "logs": "the app's log",
    "fills": "our fills",
}
# What to do first about alerts that no rule of ours describes, by their source.
_ADVICE_OF_SOURCE = {
    SCHEDULE: "Run the job by hand.",
    COLLECTOR: "Compare the clock of the collector's machine with a time server. Watch the app manually until then.",
    EXTERNAL: "Open this alert in the monitoring system that reported it.",
}
# The colours of the states in mails, light and dark, as in components.css; mail clients know no stylesheet of ours.
_COLOURS = {
    "ok": "#1f6b3f",
    "warning": "#7a5200",
    "notify": "#9a4a00",
    "critical": "#a8201a",
    "escalate": "#7d1238",
    "unknown": "#4f5b66",
}
_DARK = {
    "ok": "#7fd6a2",
    "warning": "#f0c05a",
    "notify": "#ffab66",
    "critical": "#ff9d94",
    "escalate": "#ff9fc0",
    "unknown": "#b8c4cf",
}
_WORDS = {"fails": "Does not work", "works": "Still works", "unknown": "Unknown"}


class Working(NamedTuple):
    """
    Something that traders depend on, and whether it works.

    Attributes:
        state: works, fails or unknown.
        words: Its name, the source of the state, and the age of the observation.
        about: massive, tradier, prices, greeks, server or data.
        source, age_s: Of the observation; empty and None if several sources decide. After ``; `` stands what was
            counted since then and is too little for a verdict.
    """

    state: str
    words: str
    about: str
    source: str = ""
    age_s: float | None = None

    @property
    def name(self) -> str:
        """What it is, without the source."""
        return re.split(r" \(|: ", self.words)[0]

    @property
    def is_old(self) -> bool:
        """Whether the observation is too old to say how it is now."""
        return self.age_s is not None and self.age_s > OLD_S

    @property
    def as_unknown(self) -> "Working":
        """The same as unknown, with what was observed last."""
        ago, then = formatting.duration(self.age_s or 0.0), "working" if self.state == "works" else "not working"
        source, *newer = self.source.split("; ")
        words = f"{self.name}: {then} when last checked {ago} ago ({source})"
        return self._replace(state="unknown", words=". Since then: ".join([words, *newer]), age_s=None)


class IncidentPage(NamedTuple):
    """
    The incident of an alert.

    Attributes:
        id: Such as 2026-03-10-2.
        path: Its page, below the home directory.
        owner: Empty if nobody owns it.
    """

    id: str
    path: str
    owner: str


@dataclass(frozen=True)
class Situation:
    """
    The state of all panels when a message was made.

    Attributes:
        things: What traders depend on, and whether it works.
        fallback: The provider that replaces Massive when it fails; empty if there is none.
        serving: The provider in use, or "nobody"; empty if it is unknown.
        picture: Draws the hour before that time as PNG, for a panel and the rule of an alert, and marks since when the
            alert is active (microseconds since 1970).
        incident: Returns the incident of an alert; None without one.
    """

    things: Sequence[Working]
    fallback: str
    serving: str
    picture: Callable[[str, str, int], bytes]
    incident: Callable[[str], IncidentPage | None]


class Code(str):
    """A command or an id that people copy from a message; every channel shows it unaltered."""


def command(*words: str, where: tuple[str, ...] = ()) -> Code:
    """
    Return an ``ops`` command that can be pasted into a shell.

    Args:
        where: The options that select the home directory and app, see `Settings.where`.
    """
    return Code(shlex.join(("ops", *words, *where)))


@dataclass(frozen=True)
class Message:
    """
    One notification. Every text in it is printable and on one line.

    Attributes:
        id: The same for every attempt to send it.
        kind: firing, rose, repeat, unheard, over, passed, report, or test.
        severity: The highest severity of its alerts.
        title: One line with the essential facts.
        lines: The lines after the title, each a heading (may be empty) and its text; a command or an id is `Code`.
        link: URL of the runbook in JupyterLab; empty if the URL of JupyterLab is not configured.
        facts: The data it was made from, for programs.
        left: Of a resolution: what is still broken or unknown, such as ``Greeks still broken``; empty if nothing is.
        left_state: ``warning`` if something is still broken, ``unknown`` if something is unknown; empty if nothing is.
        headline: What is broken, or over, in a few words; empty means that the title is short enough.
        detail: The figure and its threshold, if the headline does not have them.
        pages: Other pages that it links, each its name and its URL.
    """

    id: str
    kind: str
    severity: str
    title: str
    lines: tuple[tuple[str, str], ...]
    link: str
    facts: dict[str, Any]
    headline: str = ""
    detail: str = ""
    pages: tuple[tuple[str, str], ...] = ()
    left: str = ""
    left_state: str = ""

    def __post_init__(self) -> None:
        for name, value in (
            ("id", _line(self.id)),
            ("title", _line(self.title)),
            ("lines", tuple((_line(head), _line(words)) for head, words in self.lines)),
            ("link", _line(self.link)),
            ("headline", _line(self.headline)),
            ("detail", _line(self.detail)),
            ("left", _line(self.left)),
            ("pages", tuple((_line(name), _line(url)) for name, url in self.pages)),
            ("facts", formatting.printable_values(self.facts)),
        ):
            object.__setattr__(self, name, value)

    @property
    def plain(self) -> str:
        """The text for a terminal or a mail."""
        return "\n".join(
            [
                self.title,
                *(f"{head}: {words}" if head else words for head, words in self.lines),
                *(f"{name} at: {url}" for name, url in self.buttons),
            ]
        )

    @property
    def state(self) -> str:
        """The state that its sign shows, one of `formatting.SIGNS`; empty if it is about no alert and no report."""
        if self.kind == REPORT:
            return str(self.facts.get("verdict") or "unknown")
        if self.kind == RESOLVED:
            return self.left_state or ("unknown" if _has_ended(self.facts["alerts"]) else "ok")
        return self.severity if self.kind in HEADS else ""

    @property
    def heading(self) -> str:
        """The first line where there is a layout: the sign, the state in words, and what is broken."""
        if not self.state:
            return self.title
        sign = formatting.SIGNS.get(self.state, formatting.SIGNS["unknown"])
        if self.kind == REPORT:
            return f"{sign} {self.title}"
        label = {
            FIRING: f"severity {self.severity}",
            ESCALATED_SEVERITY: f"severity raised to {self.severity}",
            REPEAT: f"still firing, severity {self.severity}",
            ESCALATED_ROLE: f"severity {self.severity}, not acknowledged",
            RESOLVED: f"{_end(self.facts['alerts'], self.state)}{f', {self.left}' if self.left else ''}",
            MISSED_SUMMARY: "resolved before anyone was notified",
        }[self.kind]
        return f"{sign} {label[0].upper()}{label[1:]}: {self.headline or self.title}"

    @property
    def do_first(self) -> str:
        """What to do first; empty if the message does not say it."""
        return next((words for head, words in self.lines if head == DO_FIRST and not isinstance(words, Code)), "")

    @property
    def short_answers(self) -> list[tuple[str, str]]:
        """The lines that answer since when, whose fault, what works, what was measured and who owns it."""
        found = [line for line in self.lines if line[0] in SHORT] + ([(MEASURED, self.detail)] if self.detail else [])
        return sorted(found, key=lambda line: SHORT.index(line[0]))

    @staticmethod
    def items(head: str, words: str) -> list[str]:
        """Return the parts of a short answer, things that work or not each with a bullet; brackets are not split."""
        found = re.split(r"; (?![^()]*\))", words)
        return [f"\u2022 {part}" for part in found] if len(found) > 1 and head != SINCE else found

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The other lines with a heading that are no commands."""
        shown = (*SHORT, DO_FIRST, "")
        return [line for line in self.lines if line[0] not in shown and not isinstance(line[1], Code)]

    @property
    def commands(self) -> list[tuple[str, str]]:
        """The lines whose text is copied: commands and ids."""
        return [line for line in self.lines if isinstance(line[1], Code)]

    @property
    def commands_heading(self) -> str:
        """Where the commands are entered; empty if there is none, such as for the path of a report."""
        return IN_TERMINAL if any(words.startswith("ops ") for _, words in self.commands) else ""

    @property
    def remarks(self) -> list[str]:
        """The lines without a heading."""
        return [words for head, words in self.lines if not head and not isinstance(words, Code)]

    @property
    def buttons(self) -> list[tuple[str, str]]:
        """The pages that it links, each its name and its URL; a page without a URL is left out."""
        pages = [(name, url) for name, url in self.pages if url]
        runbook = [(RUNBOOK, self.link)] if self.link else []
        first = [page for page in pages if page[0] == ACKNOWLEDGE]
        return [*first, *runbook, *(page for page in pages if page[0] != ACKNOWLEDGE)]

    @property
    def slack(self) -> str:
        """
        The text in the markup of Slack and compatible chats.

        Commands and ids stand unaltered in code spans.
        """
        lines = [f"*{free(self.title)}*", *(in_markup(head, words) for head, words in self.lines)]
        links = " ".join(f"<{entities(url).replace('|', '%7C')}|{free(name)}>" for name, url in self.buttons)
        return "\n".join([*lines, *([links] if links else [])])

    def html(self, picture: str = "") -> str:
        """
        Return the HTML page for a mail; external text is escaped.

        Args:
            picture: The URL of the chart; empty if there is none.
        """
        return page(self.title, self.article(picture))

    def article(self, picture: str = "", at: str = "") -> str:
        """
        Return the part of a page that shows the message, with inline styles, as mail clients need them.

        Args:
            picture: The URL of the chart; empty if there is none.
            at: When it was sent, on a page of several messages.
        """
        return templates.render(
            "alerting/notifications/templates/message.html",
            message=self,
            at=at,
            level=2 if at else 1,
            picture=picture,
            alt=f"Chart: {NAMES.get(self.facts['panel'], 'the report')}, with its thresholds",
            state=self.state if self.state in _COLOURS else "unknown",
            colours=_COLOURS,
            do_first=DO_FIRST,
            is_code=_is_code,
        )

    def redacted(self, redact: Callable[[str], str]) -> "Message":
        """Return the message with its texts redacted; what it was made from stays."""
        return replace(
            self,
            title=redact(self.title),
            lines=tuple((redact(head), type(words)(redact(words))) for head, words in self.lines),
            link=redact(self.link),
            headline=redact(self.headline),
            detail=redact(self.detail),
            left=redact(self.left),
            pages=tuple((redact(name), redact(url)) for name, url in self.pages),
        )


def page(title: str, body: str | None = None) -> str:
    """Return the HTML page of one message, or the begin of a page to which messages are appended."""
    return templates.render(PAGE, title=title, body=body, dark=_DARK)


def _line(outside: str) -> str:
    """Return the text printable and on one line; `Code` stays `Code`."""
    return type(outside)(formatting.printable(outside).replace("\n", " ").replace("\t", " "))


def _is_code(words: str) -> bool:
    return isinstance(words, Code)


def entities(words: str) -> str:
    """Return a text with the three characters that Slack parses, ``&``, ``<`` and ``>``, as entities."""
    return html.escape(words, quote=False)


def free(outside: str) -> str:
    """
    Return free text for Slack's markup: its three entities escaped, and no emphasis, code or quote.

    Slack's markup has no escape character, so its characters are replaced by similar ones. An underscore inside a word
    is kept, because Slack does not read it as emphasis.
    """
    alike = re.sub(r"(?<!\w)_|_(?!\w)", "\u02cd", outside).translate(
        {ord("*"): "\u2217", ord("~"): "\u223c", ord("`"): "'"}
    )
    return entities(re.sub(r"^\s*>", "\u203a", alike))


def in_markup(head: str, words: str) -> str:
    """
    Return one line in Slack's markup, its heading bold and a command in a code span.

    Empty for a command that no code span can hold, since Slack would show another command.
    """
    if isinstance(words, Code):
        if "```" in words or words.startswith("`") or words.endswith("`"):
            return ""
        fence = "```" if "`" in words else "`"  # A path may contain a backtick.
        marked = f"{fence}{entities(words)}{fence}"
    else:
        marked = free(words)
    return f"*{free(head)}:* {marked}" if head else marked


def compose(
    body: dict[str, Any], rules: Rules, contacts: Contacts, situation: Situation | None, where: tuple[str, ...] = ()
) -> Message:
    """
    Compose the message of a stored body.

    Args:
        situation: The state of all panels when it was made; None if that cannot be read.
        where: The options that its commands use to select the home directory and app.
    """
    body = formatting.printable_values(body)
    if body["kind"] == REPORT:
        return Message(
            body["id"],
            REPORT,
            body["severity"],
            formatting.single_line(body["title"], 300),
            tuple((head, Code(words) if words == body.get("page") else words) for head, words in body["lines"]),
            "",
            body,
        )
    alerts, kind = [a | {"sentence": formatting.single_line(a["sentence"], 300)} for a in body["alerts"]], body["kind"]
    first = max(alerts, key=lambda a: SEVERITIES.index(a["severity"]))
    panel = f", {NAMES[body['panel']]}" if kind != MISSED_SUMMARY else ""
    lines = _when(alerts, kind, rules, where)
    blamed = {about for a in alerts if (about := _blamed(a))}
    is_ours = _is_of_monitoring(alerts)
    late_us, link, left, left_state = body["made_us"] - first["fired_us"], "", "", ""
    if kind in (FIRING, ESCALATED_SEVERITY, REPEAT, ESCALATED_ROLE):
        rule = rules.rules.get(first.get("cause_rule") or first["rule"])
        action, traders = _advice(first, rule, situation, rules)
        lines = [*_do_first(first, rule, action), *lines, *_whose_fault(alerts)]
        lines += _stands(situation, blamed)
        lines += [("For traders", traders)] if traders else []
        lines += _unbacked(situation, alerts)
        lines += _confidence(alerts)
        lines = _with_confidence(lines)
        lines += _ownership(body, first, contacts)
        lines += [
            ("Run by hand", command(*a["again"], where=where))
            for a in alerts[:SHOWN]
            if a["source"] == SCHEDULE and a.get("again")
        ]
        lines += _answers(first, situation.incident(first["alert"]) if situation else None, where)
        link = (
            f"{contacts.lab_url}/lab/tree/runbooks/{first['runbook']}.ipynb"
            if contacts.lab_url and first["runbook"]
            else ""
        )
    elif kind == RESOLVED:
        now = _as_of_now(situation)
        names, left_state = ([], "") if is_ours else _left(situation, now, blamed)
        left = f"{', '.join(names)} {_LEFT[left_state]}" if names else ""
        lines = [*([] if is_ours else _do_afterwards(first, situation, names, alerts)), *lines]
        lines += _whose_fault(alerts) if any(a.get("cause") or a.get("likely") for a in alerts) else []
        lines += [(head.replace("Still works", "Works now"), words) for head, words in _stands(now)]
        lines += [(f"{head} then", words) for head, words in _causes(alerts)]
    lines.append(("", f"{body['app']}{panel}. Notified: {_for(body['roles'], contacts)}."))
    if kind == FIRING and late_us > LATE_US:
        lines.append(
            (
                "",
                f"Sent {formatting.duration(late_us / 1e6)} after the alert fired: before that, no one could be "
                f"notified, or the alert was silenced.",
            )
        )
    others = len({(a["rule"], a["subject"]) for a in alerts}) - 1
    more = f" (and {others} more)" if others else ""
    summary = (
        f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''}"
        if kind == MISSED_SUMMARY
        else f"{_describe_end(first, rules) if kind == RESOLVED else describe_problem(first)}{more}"
    )
    end = _end(alerts, "") if kind == RESOLVED else ""
    head = ("partly resolved" if left_state == "warning" else left_state) or _head(body)
    prefix = f"{end}: " if end else HEADS[kind]
    return Message(
        body["id"],
        kind,
        body["severity"],
        formatting.single_line(f"[{head}] {f'{left}; ' if left else ''}{prefix}{summary}", 300),
        tuple(lines),
        link,
        body,
        *_headline(first, kind, summary, more),
        _pages(contacts, situation, kind, first),
        left,
        left_state,
    )


def _causes(alerts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the causes of alerts by the diagnosis, with the confidence of each."""
    return list(
        dict.fromkeys(
            ("Cause" if a.get("cause") else "Likely cause", a["cause_words"]) for a in alerts if a.get("cause_words")
        )
    )


def _confidence(alerts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the causes of alerts; of one that is the headline only the confidence."""
    headline = str(max(alerts, key=lambda a: SEVERITIES.index(a["severity"])).get("headline") or "").rstrip(".")
    same = f"{headline}, confidence "
    return [
        ("Confidence", words.removeprefix(same)) if headline and words.startswith(same) else (head, words)
        for head, words in _causes(alerts)
    ]


def _with_confidence(lines: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Put the confidence in a cause behind whose fault it is, where that is one party's."""
    sure = next((words for head, words in lines if head == "Confidence"), "")
    found = re.fullmatch(r"(\d+ %)\.?(?: Also: (.+))?", sure)
    fault = next((words for head, words in lines if head == FAULT), "")
    if found is None or not fault or "; " in fault:
        return lines
    also = [("Also", found[2])] if found[2] else []
    kept = [line for line in lines if line[0] != "Confidence"]
    return [(h, f"{w} (confidence {found[1]})" if h == FAULT else w) for h, w in kept] + also


def _as_of_now(situation: Situation | None) -> Situation | None:
    """Return a situation in which what was observed too long ago is unknown."""
    if situation is None:
        return None
    found = [t.as_unknown if t.is_old else t for t in situation.things]
    if not any(t.about == "greeks" and t.state == "fails" for t in found):
        found = [t._replace(words=t.words.replace(effects.EXCEPT_GREEKS, "", 1)) for t in found]
    return replace(situation, things=found)


def _left(situation: Situation | None, now: Situation | None, blamed: Set[str]) -> tuple[list[str], str]:
    """
    Return what is still broken at a resolution and ``warning``, or what is unknown and ``unknown``; else nothing.

    Something is unknown here if the alerts were about it, or if it did not work when it was checked last.
    """
    if situation is None or now is None:
        return [], ""
    if broken := [t.name for t in now.things if t.state == "fails"]:
        return broken, "warning"
    unknown = [
        t.name
        for before, t in zip(situation.things, now.things)
        if t.state == "unknown" and (before.state == "fails" or t.about in blamed)
    ]
    return unknown, "unknown" if unknown else ""


def _do_afterwards(
    alert: dict[str, Any], situation: Situation | None, left: list[str], alerts: list[dict[str, Any]]
) -> list[tuple[str, str]]:
    """Return what is left to do after a resolution; of what is still broken or unknown first."""
    if left:
        return [(DO_FIRST, f"Check on the dashboard whether this works again: {', '.join(left)}.")]
    if _has_ended(alerts):
        return []
    incident = situation.incident(alert["alert"]) if situation else None
    then = " Then resolve its incident." if incident else ""
    return [(DO_FIRST, f"Check that traders see it work again.{then}")]


def _has_ended(alerts: list[dict[str, Any]]) -> bool:
    """Return whether an alert ended because its data is gone, which is no recovery."""
    return any(a["how"] == "ended" for a in alerts)


def _headline(alert: dict[str, Any], kind: str, summary: str, more: str) -> tuple[str, str]:
    """Return what is broken in a few words, and the figure if it is not among them."""
    cause = str(alert.get("headline") or "").rstrip(".")
    if kind in (RESOLVED, MISSED_SUMMARY) or not cause:
        return summary, ""
    return f"{cause}{more}", str(alert["sentence"])


def _pages(
    contacts: Contacts, situation: Situation | None, kind: str, alert: dict[str, Any]
) -> tuple[tuple[str, str], ...]:
    """
    Return the pages of JupyterLab to open, by the name of their button.

    *Acknowledge* opens Home, which has a button for each incident that nobody owns; without such an incident it opens
    the dashboard, where single alerts are acknowledged.
    """
    lab = f"{contacts.lab_url}/lab/tree"
    if not contacts.lab_url:
        return ()
    incident, dashboard = situation.incident(alert["alert"]) if situation else None, f"{lab}/notebooks/dashboard.ipynb"
    done = kind in (RESOLVED, MISSED_SUMMARY) or alert.get("acked_by")
    home = f"{lab}/home.ipynb" if incident and not incident.owner else dashboard
    return (
        *([] if done else [(ACKNOWLEDGE, home)]),
        (DASHBOARD, dashboard),
        *([(INCIDENT, f"{lab}/home/{quote(incident.path)}")] if incident else []),
    )


def _do_first(alert: dict[str, Any], rule: Rule | None, action: str) -> list[tuple[str, str]]:
    """Return what to do first, and who does it; without a rule by the source of the alert."""
    words = str(effects.FirstAction(action, rule.who)) if rule else _ADVICE_OF_SOURCE.get(alert["source"], "")
    return [(DO_FIRST, words)] if words else []


def _whose_fault(alerts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return whose fault it is by the diagnosis; of alerts of the monitoring about itself, ours."""
    if _is_of_monitoring(alerts):
        return [(FAULT, causes.WHOSE["monitor_down"])]
    found = dict.fromkeys(
        _at_fault(a["cause"]) if a.get("cause") else f"probably {_at_fault(a['likely'])}"
        for a in alerts
        if a.get("cause") or a.get("likely")
    )
    return [(FAULT, "; ".join(found) or "not determined yet")]


def _is_of_monitoring(alerts: list[dict[str, Any]]) -> bool:
    """Return whether alerts are about the monitoring itself, such as a job that did not run."""
    return all(a["source"] in (SCHEDULE, COLLECTOR) for a in alerts)


def _at_fault(name: str) -> str:
    """Return whose fault a cause is, by the name of `planner.Cause`."""
    cause, _, subject = name.partition(" of ")
    return causes.whose(cause, subject)


def _ownership(body: dict[str, Any], alert: dict[str, Any], contacts: Contacts) -> list[tuple[str, str]]:
    """Return who acknowledged the alert, and the role that is notified next if nobody does."""
    if owner := alert.get("acked_by"):
        return [(OWNER, f"{owner} has acknowledged it")]
    found, role = [(OWNER, "nobody yet")], contacts.next_role(tuple(body["roles"]))
    if body["severity"] in PRESSING and role:
        at = clock.instant(body["made_us"] + clock.span_us(contacts.escalate_after))
        when = f"{at.astimezone(formatting.NEW_YORK):%H:%M} New York"
        found.append((NEXT, f"{role} is notified at {when}, unless somebody acknowledges"))
    return found


def _advice(alert: dict[str, Any], rule: Rule | None, situation: Situation | None, rules: Rules) -> tuple[str, str]:
    """
    Return the first action and the impact on traders.

    The texts are the cause's, else the rule's; if no provider is available, or the other one serves, traders get the
    text for that.
    """
    if rule is None:
        return "", ""
    nobody = situation is not None and situation.serving == "nobody"
    blamed = _blamed(alert | {"rule": rule.name})
    of_data = blamed in (*PROVIDERS, "data")
    no_provider = (rule.name, alert["subject"]) == ("availability", "app")
    traders = alert.get("traders") or (effects.NOBODY_SERVES if no_provider else rule.traders)
    if situation is not None and blamed in PROVIDERS and situation.serving in {*PROVIDERS} - {blamed}:
        traders = effects.other_serves(blamed, situation.serving)
    action = alert.get("action") or effects.first_action(None, rule.name, alert["subject"], rules).action
    return action, effects.NOBODY_SERVES if nobody and of_data else traders


def _unbacked(situation: Situation | None, alerts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the line that the fallback is missing, if the fallback has the problem and Massive is in use."""
    if situation is None or situation.fallback not in {a["subject"] for a in alerts} or situation.serving != "massive":
        return []
    return [
        (
            "Fallback",
            f"missing: while {situation.fallback.title()} has this problem, no provider can replace Massive if it "
            f"fails",
        )
    ]


def describe_problem(alert: dict[str, Any]) -> str:
    """Return what is wrong; if the diagnosis was sure, the cause comes first."""
    headline = str(alert.get("headline") or "").rstrip(".")
    return f"{headline}: {alert['sentence']}" if headline else str(alert["sentence"])


def _answers(alert: dict[str, Any], incident: IncidentPage | None, where: tuple[str, ...]) -> list[tuple[str, str]]:
    """
    Return the commands that open the runbook and acknowledge, of the incident if there is one yet, else of the alert.

    The id of an alert may begin with a hyphen.
    """
    name = incident.id if incident else alert["alert"]
    hyphen = name.startswith("-")
    of_incident = (f"--incident={name}",) if hyphen else ("--incident", name)
    runbook = (
        [("Runbook", command("runbook", "open", alert["runbook"], *of_incident, where=where))]
        if alert["runbook"]
        else []
    )
    ack = command("ack", *where, "--", name) if hyphen else command("ack", name, where=where)
    return [*runbook, ("Acknowledge", ack)]


def _end(alerts: list[dict[str, Any]], state: str) -> str:
    """Return how the alerts of a resolution are over; *partly resolved* if its state is that something is broken."""
    if state == "warning":
        return "partly resolved"
    return next((_END_OF_HOW[how] for how in ("ended", "fell") if any(a["how"] == how for a in alerts)), "resolved")


def _head(body: dict[str, Any]) -> str:
    if body["kind"] == RESOLVED:
        return "ended" if _has_ended(body["alerts"]) else "ok"
    return "late" if body["kind"] == MISSED_SUMMARY else body["severity"]


def _describe_end(alert: dict[str, Any], rules: Rules) -> str:
    """Return which alert is over, its value now, and its worst value."""
    rule = rules.rules.get(alert["rule"])
    if rule is None:
        return str(alert["sentence"])
    parts = []
    if alert["value"] is not None and alert["how"] != "ended":
        parts.append(f"now {rule.format_value(alert['value'])}")
    if alert["peak"] is not None:
        parts.append(f"worst {rule.format_value(alert['peak'])}")
    if parts and (over := over_window(rule, alert["source"])):
        parts.append(f"over {formatting.duration(over.total_seconds())}")
    subject = subject_title(alert["subject"])
    return named(rule, subject) + (f" ({', '.join(parts)})" if parts else "")


def _when(alerts: list[dict[str, Any]], kind: str, rules: Rules, where: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return one line per alert with its start and end; with its sentence and source if there are several."""
    several, found = kind == MISSED_SUMMARY or len(alerts) > 1, list[tuple[str, str]]()
    is_over = kind in (RESOLVED, MISSED_SUMMARY)
    if several and kind != MISSED_SUMMARY:
        words, over = _moment(min(map(_active_us, alerts))), [a["over_us"] for a in alerts]
        if is_over and None not in over:
            words += f"; {_end(alerts, '')} at {_until(max(over), min(map(_active_us, alerts)))}"
        found.append((SINCE, words))
    for alert in alerts[:SHOWN]:
        words = _moment(_active_us(alert))
        level_us = alert.get("level_us") or alert["pending_us"]
        if not is_over and level_us // MINUTE_US > _active_us(alert) // MINUTE_US:
            words += f"; severity {alert['severity']} since {_new_york(level_us)}"
        if is_over and alert["over_us"] is not None:
            until = _until(alert["over_us"], _active_us(alert))
            words += {
                "resolved": f"; resolved at {until}",
                "fell": f"; lowered to warning at {until}",
                "ended": f"; ended at {until}: the market, the page or the sender is gone, which is no recovery",
            }[alert["how"]]
        what = _describe_end(alert, rules) if kind == RESOLVED else alert["sentence"]
        source = _SOURCES.get(alert["source"], alert["source"])
        found.append(
            (f"Peak {alert['severity']}", f"{what}, by {source}, since {words}") if several else (SINCE, words)
        )
    return (
        [*found, (f"{len(alerts) - SHOWN} more alerts; list all", command("notify", "-o", "json", where=where))]
        if len(alerts) > SHOWN
        else found
    )


def _active_us(alert: dict[str, Any]) -> int:
    """Return since when an alert is active at any severity, else since when it needs a notification."""
    return int(alert.get("active_us") or alert["pending_us"])


def _until(over_us: int, since_us: int) -> str:
    minutes = max(1, round((over_us - since_us) / MINUTE_US))
    return f"{_new_york(over_us)}, after {formatting.duration(60 * minutes)}"


def _new_york(us: int) -> str:
    return f"{clock.instant(us).astimezone(formatting.NEW_YORK):%H:%M} New York"


def _moment(at_us: int) -> str:
    at = clock.instant(at_us)
    return f"{at.astimezone(formatting.NEW_YORK):%H:%M} New York ({at:%Y-%m-%d %H:%M} UTC)"


def _for(roles: list[str], contacts: Contacts) -> str:
    def people(name: str) -> str:
        return (
            f"{name} ({', '.join(contacts.roles[name].people)})"
            if name in contacts.roles and contacts.roles[name].people
            else name
        )

    return ", ".join(people(name) for name in roles) or "no one"


_ABOUT = {
    "websocket_down": "prices",
    "websocket_latency": "prices",
    "app_down": "server",
    "app_answers": "server",
    "app_response_time": "server",
}
_GREEKS = ("greeks_valid", "gamma_zero", "delta_out_of_bounds", "greeks_units", "greeks_burn")


def _blamed(alert: dict[str, Any]) -> str:
    """Return what an alert says does not work, as named in `impact.things`; empty if it is none of them."""
    if alert["rule"] in ("availability", "answers", "response_time", "availability_burn", "chain_whole"):
        return "data" if alert["subject"] == "app" else str(alert["subject"])
    return "greeks" if alert["rule"] in _GREEKS else _ABOUT.get(alert["rule"], "")


def _stands(situation: Situation | None, blamed: Set[str] = frozenset()) -> list[tuple[str, str]]:
    """
    Return what works and what does not, line by line.

    Args:
        blamed: What the message's alerts say does not work; if it works again by now, the message says so.
    """
    if situation is None:
        return [("Still works", "unknown: the collected data cannot be read")]
    found = [t.as_unknown if t.is_old and t.state == "works" else t for t in situation.things]
    otherwise = [t for t in found if t.state == "works" and t.about in blamed]
    lines = [
        (head, "; ".join(t.words for t in found if t.state == state and t not in otherwise))
        for state, head in _WORDS.items()
    ]
    return [(head, words) for head, words in lines if words] + (
        [("Works again", "; ".join(t.words for t in otherwise))] if otherwise else []
    )


def test_message(app: str, target: str, contacts: Contacts, where: tuple[str, ...] = ()) -> Message:
    """Compose a test message."""
    body: dict[str, Any] = {
        "id": f"{app}-test-{target}",
        "app": app,
        "kind": "test",
        "severity": "notify",
        "roles": [],
        "alerts": [],
        "group": "",
        "panel": "system",
        "made_us": 0,
    }
    lines = (
        ("", "This is a test message. No alert is firing because of it."),
        ("Send it again", command("notify", "--test", target, where=where)),
    )
    return Message(
        body["id"], "test", "notify", f"[test] {app}: test message to {target}", lines, contacts.lab_url, body
    )


def free_text(app: str, name: str, words: str, contacts: Contacts, lines: tuple[tuple[str, str], ...] = ()) -> Message:
    """Compose a message of free text."""
    body = {
        "id": name,
        "app": app,
        "kind": "said",
        "severity": "notify",
        "roles": [],
        "alerts": [],
        "group": name,
        "panel": "system",
        "made_us": 0,
    }
    return Message(
        name, "said", "notify", formatting.single_line(f"[{app}] {words}", 300), lines, contacts.lab_url, body
    )
