"""Run the commands ``ack``, ``silence``, ``notify`` and ``feedback``."""

import argparse
import getpass
from typing import TYPE_CHECKING

from opslib.alerting.notifications.planner import KIND_NAMES
from opslib.cli.output import Reply
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.errors import UsageError
from opslib.incidents import Feedback

if TYPE_CHECKING:
    from opslib.desk import Desk


def author(given: str | None) -> str:
    """Return the name that was given, else that of the user who is logged in."""
    try:
        name = given or getpass.getuser()
    except (OSError, KeyError):
        name = ""
    if not name.strip():
        raise UsageError("the name of the logged-in user could not be determined. Give yours with --by NAME.")
    return formatting.single_line(name.strip(), 60)


def ack(desk: "Desk", options: argparse.Namespace) -> Reply:
    """
    Acknowledge an alert or an incident.

    Raises:
        UsageError: No such alert is active, or there is no name.
    """
    by = author(options.by)
    known = {name for n in desk.notifications.open_states() for name in (n.alert, n.group) if name} | {
        a["id"] for a in desk.status(options.as_of).alerts
    }
    if options.id in {i.id for i in desk.incidents.all()}:
        desk.incidents.acknowledge(options.id, by, options.note)
        return Reply(
            {"incident": options.id, "by": by, "note": options.note},
            f"{options.id} acknowledged by {by}, with all its alerts. No one else will be notified of it.",
        )
    if options.id not in known:
        raise UsageError(
            f"no active alert has the ID {options.id!r}.{formatting.nearest(options.id, known)} "
            f"ops status lists active alerts."
        )
    desk.notifications.ack(options.id, by, options.note)
    desk.incidents.follow_alerts()
    return Reply(
        {"alert": options.id, "by": by, "note": options.note},
        f"{options.id} acknowledged by {by}. You will be notified again only if it gets worse or is resolved.",
    )


def silence(desk: "Desk", options: argparse.Namespace) -> Reply:
    """
    Add, end or list silences.

    Raises:
        UsageError: There is no duration, reason, filter or name, or no such rule or silence.
    """
    if options.what == "add":
        given = {name: getattr(options, name) for name in ("rule", "subject", "source")}
        if not options.span or not options.reason.strip():
            raise UsageError("a silence needs a duration and a reason. Give --for and --reason.")
        if not any(given.values()):
            raise UsageError("this would silence every alert. Give a --rule, --subject or --source.")
        # External monitoring systems have rules of their own.
        known = {*desk.rules.rules, *(n.rule for n in desk.notifications.open_states())}
        if given["rule"] and given["rule"] not in known:
            raise UsageError(f"there is no rule {given['rule']!r}.{formatting.nearest(given['rule'], known)}")
        shown = [
            desk.notifications.silence(
                author(options.by),
                formatting.single_line(options.reason.strip()),
                time_parsing.parse_span(options.span),
                **given,
            )
        ]
    elif options.what == "end":
        by = author(options.by)
        now_us = clock.micros(desk.now())
        if not options.id or not desk.notifications.expire_silence(options.id, by):
            holding = [s.id for s in desk.notifications.silences() if s.until_us > now_us]
            raise UsageError(
                f"no active silence has the ID {options.id!r}.{formatting.nearest(options.id or '', holding)} "
                f"ops silence list shows them."
            )
        shown = [s for s in desk.notifications.silences() if s.id == options.id]
    else:
        at_us = clock.micros(time_parsing.parse(options.as_of) if options.as_of else desk.now())
        shown = [s for s in desk.notifications.silences() if s.from_us <= at_us < s.until_us]
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
        values, formatting.table(["id", "what", "until", "by", "reason"], table) if shown else "no active silences"
    )


def notify(desk: "Desk", options: argparse.Namespace) -> Reply:
    """Send test messages, or list notifications."""
    from opslib.alerting.notifications import sender

    if options.test is not None:
        tried = sender.test_delivery(desk.settings, desk.contacts, options.test, desk.now())
        words = "\n".join(f"{name}: {'delivered' if not why else 'failed: ' + why}" for name, why in tried)
        return Reply(
            [{"channel": name, "delivered": not why, "why": why or None} for name, why in tried],
            words,
            not any(why for _, why in tried),
        )
    found = desk.notifications.deliveries()
    rows = [
        {
            "message": d.message,
            "channel": d.channel,
            "state": d.state,
            "kind": m["kind"],
            "severity": m["severity"],
            "roles": m["roles"],
            "alerts": [a["alert"] for a in m["alerts"]],
            "created_at": formatting.iso(clock.instant(d.made_us)),
            "ended_at": formatting.iso(clock.instant(d.over_us)) if d.over_us is not None else None,
            "attempts": d.attempts,
            "response": d.said or None,
        }
        for d, m in found
    ]
    table = [
        [
            f"{clock.instant(d.made_us).astimezone(formatting.NEW_YORK):%Y-%m-%d %H:%M:%S}",
            KIND_NAMES.get(r["kind"], r["kind"]),
            r["severity"],
            ", ".join(r["alerts"]),
            r["channel"],
            ", ".join(r["roles"]),
            r["state"],
            str(r["attempts"]),
            r["response"] or "",
        ]
        for r, (d, _) in zip(rows, found)
    ]
    return Reply(
        rows,
        formatting.table(
            [
                "created, New York",
                "notification",
                "severity",
                "alerts",
                "channel",
                "to",
                "state",
                "attempts",
                "response",
            ],
            table,
        )
        if rows
        else "no notifications yet; people are notified while ops collect or ops serve runs",
    )


def feedback(desk: "Desk", options: argparse.Namespace) -> Reply:
    """
    Record feedback on the monitoring.

    Raises:
        UsageError: The text is missing, or no such alert is on record.
    """
    if (
        options.alert
        and options.alert not in desk.incidents.of_alerts()
        and options.alert not in {r.alert for r in desk.alerts(window="400d").changes}
    ):
        raise UsageError(f"no alert {options.alert!r} is on record. ops alerts lists those that are.")
    at = time_parsing.happened(options.at, desk.now())
    found = Feedback(desk.incidents.records).give(
        options.kind, " ".join(options.words), author(options.by), options.alert, at
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
        f"recorded {found.kind} at {formatting.moment(when)}{': ' + found.words if found.words else ''}",
    )
