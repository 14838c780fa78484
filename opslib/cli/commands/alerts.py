"""Run the commands ``ack``, ``silence``, ``notify`` and ``feedback``."""

import argparse
import getpass
from typing import TYPE_CHECKING

from opslib.cli.output import Reply
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.errors import UsageError
from opslib.incidents import Feedback

if TYPE_CHECKING:
    from opslib.desk import Desk


def who(given: str | None) -> str:
    """Who says it: the name that was given, else that of who is logged in."""
    try:
        name = given or getpass.getuser()
    except (OSError, KeyError):
        name = ""
    if not name.strip():
        raise UsageError("who says so? Give --by NAME.")
    return formatting.single_line(name.strip(), 60)


def ack(desk: "Desk", options: argparse.Namespace) -> Reply:
    """
    Somebody takes an alert.

    Raises:
        UsageError: No such alert stands, or nobody says so.
    """
    who_says = who(options.by)
    known = {name for n in desk.dispatch.standing() for name in (n.alert, n.group) if name} | {
        a["id"] for a in desk.status(options.as_of).alerts
    }
    incidents = {i.id: i for i in desk.chronicle.all()}
    if options.id in incidents:
        desk.dispatch.ack(incidents[options.id].about, who_says, options.note)
        desk.chronicle.follow_alerts()
        return Reply(
            {"incident": options.id, "by": who_says, "note": options.note},
            f"{options.id} is taken by {who_says}, with all its alerts; nobody else is called for it",
        )
    if options.id not in known:
        raise UsageError(
            f"no alert {options.id!r} stands now.{formatting.nearest(options.id, known)} ops status has those that do."
        )
    desk.dispatch.ack(options.id, who_says, options.note)
    desk.chronicle.follow_alerts()
    return Reply(
        {"alert": options.id, "by": who_says, "note": options.note},
        f"{options.id} is taken by {who_says}; it is not told again unless it becomes worse, and its end is",
    )


def silence(desk: "Desk", options: argparse.Namespace) -> Reply:
    """
    Somebody keeps alerts quiet, ends that, or asks what is kept quiet.

    Raises:
        UsageError: No end, no reason, nothing named, a rule or a silence that is not there, or nobody says so.
    """
    if options.what == "add":
        given = {name: getattr(options, name) for name in ("rule", "subject", "source")}
        if not options.span or not options.reason.strip():
            raise UsageError("a silence has an end and a reason: give --for and --reason.")
        if not any(given.values()):
            raise UsageError("a silence of everything was wanted? Name a --rule, --subject or --source.")
        # A neighbour's alerts have rules of its own.
        known = {*desk.rules.rules, *(n.rule for n in desk.dispatch.standing())}
        if given["rule"] and given["rule"] not in known:
            raise UsageError(f"there is no rule {given['rule']!r}.{formatting.nearest(given['rule'], known)}")
        shown = [
            desk.dispatch.silence(
                who(options.by),
                formatting.single_line(options.reason.strip()),
                time_parsing.parse_span(options.span),
                **given,
            )
        ]
    elif options.what == "end":
        who_says = who(options.by)
        now_us = clock.micros(desk.now())
        if not options.id or not desk.dispatch.expire_silence(options.id, who_says):
            holding = [s.id for s in desk.dispatch.silences() if s.until_us > now_us]
            raise UsageError(
                f"there is no silence {options.id!r} that holds.{formatting.nearest(options.id or '', holding)} See "
                f"ops silence list."
            )
        shown = [s for s in desk.dispatch.silences() if s.id == options.id]
    else:
        at_us = clock.micros(time_parsing.parse(options.as_of) if options.as_of else desk.now())
        shown = [s for s in desk.dispatch.silences() if s.from_us <= at_us < s.until_us]
    rows = [
        s._asdict()
        | {"from": formatting.iso(clock.instant(s.from_us)), "until": formatting.iso(clock.instant(s.until_us))}
        for s in shown
    ]
    values = [{k: v for k, v in row.items() if not k.endswith("_us")} for row in rows]
    table = [
        [
            s.id,
            " ".join(x or "any" for x in (s.rule, s.subject, s.source)),
            formatting.moment(clock.instant(s.until_us)),
            s.author,
            s.reason,
        ]
        for s in shown
    ]
    return Reply(
        values, formatting.table(["id", "what", "until", "by", "reason"], table) if shown else "nothing is kept quiet"
    )


def notified(desk: "Desk", options: argparse.Namespace) -> Reply:
    """Somebody tries the ways to people, or asks who was told of what."""
    from opslib.alerting.notifications import sender

    if options.test is not None:
        tried = sender.test_delivery(desk.settings, desk.staff, options.test, desk.now())
        words = "\n".join(f"{name}: {'told' if not why else 'not told: it ' + why}" for name, why in tried)
        return Reply(
            [{"channel": name, "told": not why, "why": why or None} for name, why in tried],
            words,
            not any(why for _, why in tried),
        )
    found = desk.dispatch.deliveries()
    rows = [
        {
            "message": d.message,
            "channel": d.channel,
            "state": d.state,
            "kind": m["kind"],
            "severity": m["severity"],
            "roles": m["roles"],
            "alerts": [a["alert"] for a in m["alerts"]],
            "made_at": formatting.iso(clock.instant(d.made_us)),
            "over_at": formatting.iso(clock.instant(d.over_us)) if d.over_us is not None else None,
            "attempts": d.attempts,
            "said": d.said or None,
        }
        for d, m in found
    ]
    table = [
        [
            r["made_at"],
            f"{r['kind']} {r['severity']} {', '.join(r['alerts'])}",
            r["channel"],
            ", ".join(r["roles"]),
            r["state"],
            str(r["attempts"]),
            r["said"] or "",
        ]
        for r in rows
    ]
    return Reply(
        rows,
        formatting.table(["made", "what", "by", "to", "state", "tries", "said"], table)
        if rows
        else "nobody was told of anything yet",
    )


def feedback(desk: "Desk", options: argparse.Namespace) -> Reply:
    """
    Somebody says what they think of the monitoring.

    Raises:
        UsageError: Something that it needs was not said, or no such alert is on record.
    """
    if (
        options.alert
        and options.alert not in desk.chronicle.of_alerts()
        and options.alert not in {r.alert for r in desk.alerts(window="400d").rises}
    ):
        raise UsageError(f"no alert {options.alert!r} is on record. ops alerts has those that are.")
    at = time_parsing.happened(options.at, desk.now())
    found = Feedback(desk.chronicle.records).give(
        options.kind, " ".join(options.words), who(options.by), options.alert, at
    )
    when = clock.instant(found.at_us)
    return Reply(
        {
            "at": formatting.iso(when),
            "kind": found.kind,
            "alert": found.alert or None,
            "by": found.author,
            "words": found.words,
        },
        f"noted, {found.kind} at {formatting.moment(when)}{': ' + found.words if found.words else ''}",
    )
