"""
Compose the text of a notification, so that a phone shows at first sight what is wrong and what to do.

What still works is looked up at the moment that the message is about, never assumed; what nobody knows is said to be
not known.
"""

import html
import re
import shlex
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from opslib.alerting import effects
from opslib.alerting.notifications.planner import (
    ESCALATED_ROLE,
    ESCALATED_SEVERITY,
    FIRING,
    MISSED_SUMMARY,
    REPEAT,
    REPORT,
    RESOLVED,
    SCHEDULE,
)
from opslib.alerting.verdicts import named
from opslib.foundation import clock, formatting, templates
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import NAMES, SEVERITIES, Rule, Rules
from opslib.foundation.storage.snapshot_columns import PROVIDERS

SHOWN = 10  # So many alerts are named in one message.
LATE_US = 300_000_000  # Whoever is told so long after it began is told that, too.
HEADS = {
    FIRING: "",
    ESCALATED_SEVERITY: "worse: ",
    REPEAT: "still: ",
    ESCALATED_ROLE: "nobody has taken it: ",
    RESOLVED: "over: ",
    MISSED_SUMMARY: "began and ended while nobody could be told: ",
}
_WORDS = {"fails": "Does not work", "works": "Still works", "unknown": "Not known"}


class Working(NamedTuple):
    """
    Something that people trade by, and whether it works.

    Attributes:
        state: works, fails or unknown.
        words: What it is, who says so, and how long ago.
        about: massive, tradier, prices, greeks, server or data.
    """

    state: str
    words: str
    about: str


@dataclass(frozen=True)
class Situation:
    """
    How everything stood when a message was made.

    Attributes:
        things: What people trade by, and whether it works.
        fallback: The provider that serves where Massive does not; empty where there is none.
        serving: Which provider serves: its name, or nobody; empty where that is not known.
        picture: Draws a panel as it looked then, by its name, as PNG.
    """

    things: Sequence[Working]
    fallback: str
    serving: str
    picture: Callable[[str], bytes]


class Code(str):
    """A command or an id: to be copied from a message, so every channel shows it unaltered."""


def command(*words: str, where: tuple[str, ...] = ()) -> Code:
    """
    An ``ops`` command as it can be pasted into a shell.

    Args:
        where: The options that find the desk, see `Settings.where`.
    """
    return Code(shlex.join(("ops", *words, *where)))


@dataclass(frozen=True)
class Message:
    """
    What people are told, in one piece. Every text in it is printable, and on one line.

    Attributes:
        id: The same however often it is sent.
        kind: firing, rose, repeat, unheard, over, passed, report, or test.
        severity: The highest of its alerts.
        title: One line, which says all that matters.
        lines: What follows it, each a heading (may be empty) and its words; a command or an id is `Code`.
        link: Where the runbook opens in a browser; empty where nobody said where the lab is.
        facts: What it was made from, for a program.
    """

    id: str
    kind: str
    severity: str
    title: str
    lines: tuple[tuple[str, str], ...]
    link: str
    facts: dict[str, Any]

    def __post_init__(self) -> None:
        for name, value in (
            ("id", _line(self.id)),
            ("title", _line(self.title)),
            ("lines", tuple((_line(head), _line(words)) for head, words in self.lines)),
            ("link", _line(self.link)),
            ("facts", formatting.printable_values(self.facts)),
        ):
            object.__setattr__(self, name, value)

    @property
    def plain(self) -> str:
        """For a terminal or a mail."""
        return "\n".join(
            [
                self.title,
                *(f"{head}: {words}" if head else words for head, words in self.lines),
                *([f"Opens at: {self.link}"] if self.link else []),
            ]
        )

    @property
    def slack(self) -> str:
        """
        As Slack's and its likes' own markup: commands and ids in code spans, unaltered; no free text becomes markup.

        Slack's markup has no escape of its own, so its characters are replaced in free text by others that look alike.
        """
        lines = [
            f"*{_free(self.title)}*",
            *(f"*{_free(head)}:* {_marked(words)}" if head else _marked(words) for head, words in self.lines),
        ]
        return "\n".join(
            [*lines, *([f"<{_entities(self.link).replace('|', '%7C')}|Open the runbook>"] if self.link else [])]
        )

    @property
    def html(self) -> str:
        """For a mail that shows HTML; whatever comes from outside is inert."""
        return templates.render(
            "alerting/notifications/templates/message.html",
            title=self.title,
            lines=[(head, words, isinstance(words, Code)) for head, words in self.lines],
            link=self.link,
        )


def _line(outside: str) -> str:
    """Printable, on one line; what is `Code` stays `Code`."""
    return type(outside)(formatting.printable(outside).replace("\n", " ").replace("\t", " "))


def _entities(words: str) -> str:
    return html.escape(words, quote=False)


def _free(outside: str) -> str:
    """
    Free text in Slack's markup: its three entities, and no emphasis, code or quote.

    An underscore inside a word is none.
    """
    alike = re.sub(r"(?<!\w)_|_(?!\w)", "\u02cd", outside).translate(
        {ord("*"): "\u2217", ord("~"): "\u223c", ord("`"): "'"}
    )
    return _entities(re.sub(r"^\s*>", "\u203a", alike))


def _marked(words: str) -> str:
    if not isinstance(words, Code):
        return _free(words)
    fence = "```" if "`" in words else "`"  # A folder may have a backtick in its name.
    return f"{fence}{_entities(words)}{fence}"


def compose(
    body: dict[str, Any], rules: Rules, staff: Contacts, situation: Situation | None, where: tuple[str, ...] = ()
) -> Message:
    """
    The message that was written down as `body`.

    Args:
        situation: How everything stood when it was made; None where that cannot be read.
        where: The options by which a command in it finds the desk.
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
    lines = [*_when(alerts, kind, rules, where), ("", f"{body['app']}{panel}. For {_for(body['roles'], staff)}.")]
    late_us, link = body["made_us"] - first["fired_us"], ""
    if kind == FIRING and late_us > LATE_US:
        lines.append(
            (
                "",
                f"Told {formatting.duration(late_us / 1e6)} late: until now nobody could be told, or it was "
                f"kept quiet.",
            )
        )
    if kind in (FIRING, ESCALATED_SEVERITY, REPEAT, ESCALATED_ROLE):
        rule = rules.rules.get(first.get("cause_rule") or first["rule"])
        lines += [("Cause", words) for words in dict.fromkeys(a["cause_words"] for a in alerts if a.get("cause_words"))]
        action, traders = _advice(first, rule, situation)
        lines += [("For traders", traders)] if traders else []
        lines += _unbacked(situation, alerts)
        lines += _stands(situation, {about for a in alerts if (about := _blamed(a))})
        lines += [("Do first", f"{action} ({rule.who})")] if rule else []
        lines += [
            ("By hand", command(*a["again"], where=where))
            for a in alerts[:SHOWN]
            if a["source"] == SCHEDULE and a.get("again")
        ]
        lines += _answers(first, where)
        link = (
            f"{staff.lab_url}/lab/tree/runbooks/{first['runbook']}.ipynb" if staff.lab_url and first["runbook"] else ""
        )
    elif kind == RESOLVED:
        lines += [(head.replace("Still works", "Works now"), words) for head, words in _stands(situation)]
    more = f" (and {len(alerts) - 1} more)" if len(alerts) > 1 else ""
    told = (
        f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''}"
        if kind == MISSED_SUMMARY
        else f"{_ended(first, rules) if kind == RESOLVED else _said(first)}{more}"
    )
    return Message(
        body["id"],
        kind,
        body["severity"],
        formatting.single_line(f"[{_head(body)}] {HEADS[kind]}{told}", 300),
        tuple(lines),
        link,
        body,
    )


def _advice(alert: dict[str, Any], rule: Rule | None, situation: Situation | None) -> tuple[str, str]:
    """
    What to do first, and what it means for who trades: the cause's text, else that of its rule, as far as anybody
    serves at all.
    """
    if rule is None:
        return "", ""
    general = (
        effects.ADVICE["both_providers_down"]
        if (rule.name, alert["subject"]) == ("availability", "app")
        else effects.Advice("")
    )
    nobody = situation is not None and situation.serving == "nobody"
    of_data = _blamed(alert | {"rule": rule.name}) in (*PROVIDERS, "data")
    traders = effects.NOBODY_SERVES if nobody and of_data else alert.get("traders") or general.traders or rule.traders
    return alert.get("action") or general.action or rule.action, traders


def _unbacked(situation: Situation | None, alerts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """That the fallback is missing, where the trouble is the fallback's and Massive serves."""
    if situation is None or situation.fallback not in {a["subject"] for a in alerts} or situation.serving != "massive":
        return []
    return [
        (
            "Fallback",
            f"missing: while {situation.fallback.title()} is like this, should Massive fail, nobody serves "
            f"options in its place",
        )
    ]


def _said(alert: dict[str, Any]) -> str:
    """What is wrong; where the diagnosis was sure, its cause first."""
    headline = str(alert.get("headline") or "").rstrip(".")
    return f"{headline}: {alert['sentence']}" if headline else str(alert["sentence"])


def _answers(alert: dict[str, Any], where: tuple[str, ...]) -> list[tuple[str, str]]:
    """The commands by which somebody takes an alert and opens its runbook; an id may begin with a hyphen."""
    name, hyphen = alert["alert"], alert["alert"].startswith("-")
    of_incident = (f"--incident={name}",) if hyphen else ("--incident", name)
    runbook = (
        [("Runbook", command("runbook", "open", alert["runbook"], *of_incident, where=where))]
        if alert["runbook"]
        else []
    )
    return [*runbook, ("Take it", command("ack", *where, "--", name) if hyphen else command("ack", name, where=where))]


def _head(body: dict[str, Any]) -> str:
    if body["kind"] == RESOLVED:
        return "ended" if any(a["how"] == "ended" for a in body["alerts"]) else "ok"
    return "late" if body["kind"] == MISSED_SUMMARY else body["severity"]


def _ended(alert: dict[str, Any], rules: Rules) -> str:
    """What is over, where its figure stands now, and how bad it was."""
    rule = rules.rules.get(alert["rule"])
    if rule is None:
        return str(alert["sentence"])
    parts = []
    if alert["value"] is not None and alert["how"] != "ended":
        parts.append(f"now {rule.told(alert['value'])}")
    if alert["peak"] is not None:
        parts.append(f"at its worst {rule.told(alert['peak'])}")
    return f"{named(rule, alert['subject'])}" + (f" ({', '.join(parts)})" if parts else "")


def _when(alerts: list[dict[str, Any]], kind: str, rules: Rules, where: tuple[str, ...]) -> list[tuple[str, str]]:
    """Since when, and until when; what of, where there are several."""
    found = []
    for alert in alerts[:SHOWN]:
        since = clock.instant(alert["pending_us"])
        words = f"since {since.astimezone(formatting.NEW_YORK):%H:%M:%S} New York ({since:%Y-%m-%d %H:%M:%S} UTC)"
        if kind in (RESOLVED, MISSED_SUMMARY) and alert["over_us"] is not None:
            until = (
                f"{clock.instant(alert['over_us']).astimezone(formatting.NEW_YORK):%H:%M:%S} New York, after "
                f"{formatting.duration((alert['over_us'] - alert['pending_us']) / 1e6)}"
            )
            words += {
                "resolved": f"; over at {until}",
                "fell": f"; back below what is told at {until}",
                "ended": f"; its market, its page or its sender was gone at {until}, which is no recovery",
            }[alert["how"]]
        several = kind == MISSED_SUMMARY or len(alerts) > 1
        found.append(
            (
                "",
                f"{alert['severity']}: {_ended(alert, rules) if kind == RESOLVED else alert['sentence']}, {words}."
                if several
                else f"{words[0].upper()}{words[1:]}.",
            )
        )
    return (
        [*found, (f"And {len(alerts) - SHOWN} more, all in", command("notify", "-o", "json", where=where))]
        if len(alerts) > SHOWN
        else found
    )


def _for(roles: list[str], staff: Contacts) -> str:
    def people(name: str) -> str:
        return (
            f"{name} ({', '.join(staff.roles[name].people)})"
            if name in staff.roles and staff.roles[name].people
            else name
        )

    return ", ".join(people(name) for name in roles) or "nobody"


_ABOUT = {
    "websocket_down": "prices",
    "websocket_latency": "prices",
    "app_down": "server",
    "app_answers": "server",
    "app_response_time": "server",
}
_GREEKS = ("greeks_valid", "gamma_zero", "delta_out_of_bounds", "greeks_units", "greeks_burn")


def _blamed(alert: dict[str, Any]) -> str:
    """What an alert says does not work, as `impact.things` has it; empty where that is none of them."""
    if alert["rule"] in ("availability", "answers", "response_time", "availability_burn", "chain_whole"):
        return "data" if alert["subject"] == "app" else str(alert["subject"])
    return "greeks" if alert["rule"] in _GREEKS else _ABOUT.get(alert["rule"], "")


def _stands(situation: Situation | None, blamed: Set[str] = frozenset()) -> list[tuple[str, str]]:
    """
    What works and what does not, line by line.

    Args:
        blamed: What an alert of the message says does not work: where it works by now, the message says by whom.
    """
    if situation is None:
        return [("Still works", "not known: what was seen cannot be read")]
    found = situation.things
    otherwise = [t for t in found if t.state == "works" and t.about in blamed]
    lines = [
        (head, "; ".join(t.words for t in found if t.state == state and t not in otherwise))
        for state, head in _WORDS.items()
    ]
    return [(head, words) for head, words in lines if words] + (
        [("Yet it works now", "; ".join(t.words for t in otherwise))] if otherwise else []
    )


def test_message(app: str, target: str, staff: Contacts, where: tuple[str, ...] = ()) -> Message:
    """A message that says it is only a trial."""
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
        ("", "Nothing is wrong. Somebody tried whether this way works."),
        ("Try it again", command("notify", "--test", target, where=where)),
    )
    return Message(
        body["id"], "test", "notify", f"[test] {app}: this is how {target} is told", lines, staff.lab_url, body
    )


def free_text(app: str, name: str, words: str, staff: Contacts, lines: tuple[tuple[str, str], ...] = ()) -> Message:
    """What somebody says to the channel."""
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
    return Message(name, "said", "notify", formatting.single_line(f"[{app}] {words}", 300), lines, staff.lab_url, body)
