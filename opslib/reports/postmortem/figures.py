"""Compute the numbers of a postmortem from its evidence, each by a formula that anybody can apply again."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from opslib.dashboard import status
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.foundation.version import VERSION
from opslib.incidents import evidence, lifecycle
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident
from opslib.telemetry.pages import indicators
from opslib.telemetry.probes.history import IS_THERE
from opslib.telemetry.probes.outcomes import OUTCOMES

if TYPE_CHECKING:
    from opslib.dashboard.status import Status
    from opslib.foundation.config.workspace import Workspace

METRICS = "metrics"
LEAD, AFTER = timedelta(minutes=30), timedelta(minutes=15)
STEPS_S = (60, 300, 900, 3600)
MOST_ROWS = 600
LIMITS = {"availability": "availability", "greeks_valid": "valid Greeks", "errors": "errors"}


class Result(NamedTuple):
    """What a formula comes to: a value, of a share its part and count too, and why it is None."""

    value: float | int | None
    part: int | None = None
    count: int | None = None  # type: ignore[assignment]  # Nobody calls the tuple's own count.
    why: str = ""


@dataclass(frozen=True)
class Figure:
    """
    One number of a postmortem.

    Attributes:
        id: Its name, the same in every postmortem.
        words: What it is.
        formula: Which of `FORMULAS` it comes out of, with what it is asked about.
        evidence: The entries that it comes out of.
    """

    id: str
    words: str
    unit: str
    formula: tuple[str, str]
    evidence: tuple[str, ...]
    result: Result

    @property
    def told(self) -> str:
        """The number for people, with its denominator where it has one."""
        value, part, count, why = self.result
        if value is None:
            return f"{formatting.UNKNOWN} ({why})"
        if count is not None:
            share = formatting.ratio(value, 1) if self.unit == "ratio" else formatting.number(value, self.unit)
            return f"{share} ({formatting.number(part)} of {formatting.number(count)})"
        if self.unit == "s":
            return formatting.duration(value)
        if self.unit == "ratio":
            return formatting.ratio(value, 1)
        return formatting.number(value, self.unit)

    def as_json(self) -> dict[str, Any]:
        """For the postmortem's file; `verification` computes it again."""
        value, part, count, why = self.result
        return {
            "id": self.id,
            "words": self.words,
            "value": value,
            "part": part,
            "count": count,
            "unit": self.unit,
            "why": why or None,
            "formula": list(self.formula),
            "evidence": list(self.evidence),
        }


def span(incident: Incident) -> tuple[int | None, int | None]:
    """
    From when to when did it hurt, microseconds?

    From its beginning to the end of the alerts of its own rule and subject (what those explain away lasts longer), else
    to when it was called over; None where it is not known, or not over.
    """
    began = incident.times["began"].at_us or incident.times["detected"].at_us
    mine = [
        e.body["alert"]
        for e in incident.of_kind("alert")
        if (e.body["rule"], e.body["subject"]) == (incident.rule, incident.subject)
        and e.body["kind"] in ("fired", "rose")
    ]
    over = [
        e.at_us
        for e in incident.of_kind("alert")
        if e.body["alert"] in mine and e.body["kind"] in ("resolved", "ended")
    ]
    ended = max(over) if over and not set(mine) & set(incident.firing) else incident.times["resolved"].at_us
    return began, ended if began is None or ended is None or ended > began else began


def capture_metrics(workspace: "Workspace", incident: Incident) -> Incident:
    """
    Put what the metrics say of an incident on its record: once for the same facts, anew where the store now says
    otherwise.
    """
    began, ended = span(incident)
    if began is None:
        return incident
    found = _onset(workspace, incident)
    if found is not None:
        lifecycle.of(workspace).append(
            incident.id, "time", found, key=f"began:{sha256(evidence.canonical(found)).hexdigest()[:16]}"
        )
        incident = lifecycle.of(workspace).read(incident.id)
        began, ended = span(incident)
        assert began is not None
    start = clock.instant(began) - LEAD
    end = min(clock.instant(ended) + AFTER if ended is not None else workspace.now(), workspace.now())
    end = max(end, clock.instant(began) + timedelta(minutes=1))
    step_s = next((s for s in STEPS_S if (end - start).total_seconds() / s <= MOST_ROWS), STEPS_S[-1])
    view = status.view_at(workspace, end, end - start)
    rows = [
        _row(view, Window(at, at + timedelta(seconds=step_s)))
        for at in (start + timedelta(seconds=step_s * i) for i in range(int((end - start).total_seconds() // step_s)))
    ][-evidence.MOST_ITEMS :]
    content = {
        "step_s": step_s,
        "from": formatting.iso(start),
        "until": formatting.iso(end),
        "began": formatting.iso(clock.instant(began)),
        "ended": formatting.iso(clock.instant(ended)) if ended is not None else None,
        "rows": rows,
        "limits": {
            name: {
                "objective": r.objective,
                "warning": dict(r.ladder).get("warning"),
                "critical": dict(r.ladder).get("critical"),
            }
            for name in LIMITS
            if (r := workspace.rules[name])
        },
    }
    content = json.loads(evidence.canonical(evidence.plain(content)))
    key = f"{METRICS}:{sha256(evidence.canonical(content)).hexdigest()[:24]}"
    body = {
        "name": METRICS,
        "source": "store",
        "query": f"posts and looks of {workspace.settings.app}, each {step_s} s",
        "as_of": formatting.iso(end),
        "opslib": VERSION,
        "rules_hash": workspace.rules.hash,
        "content": content,
        "words": f"what posts and looks say, each {step_s} s, {formatting.moment(start)} to {formatting.moment(end)}",
    }
    lifecycle.of(workspace).append(incident.id, "evidence", body, key=key)
    return lifecycle.of(workspace).read(incident.id)


def _row(view: "Status", window: Window) -> dict[str, Any]:
    tape, probed = view.tape, view.probed
    providers, greeks, system = (
        indicators.providers(tape, window),
        indicators.greeks(tape, window),
        indicators.system(tape, window),
    )
    row: dict[str, Any] = {"at": formatting.iso(window.end)}
    for name in PROVIDERS:
        row |= {f"{name}_{key}": providers[name][key] for key in ("requests", "failures", "fallbacks")}
        looks = (
            [OUTCOMES[s.outcome].usable for s in probed.within(IS_THERE[name], name, window) if s.last]
            if probed
            else []
        )
        row |= {f"{name}_looks": len(looks), f"{name}_looks_failed": len(looks) - sum(looks)}
    row |= {key: greeks[key] for key in ("validations", "invalid", "gamma_zero", "delta_out_of_bounds")}
    row |= {
        "errors": system["errors"],
        "websocket_down_s": system["websocket_down_seconds"],
        "page_loads": system["restarts"],
        "trades": indicators.pnl(tape, window, 1)["trades"],
    }
    return row | {"coverage": tape.coverage(window)}


def _onset(workspace: "Workspace", incident: Incident) -> dict[str, Any] | None:
    """
    The first of our looks that failed and did not come back before it was detected, where there are any: when, and how
    exactly.
    """
    detected = incident.times["detected"].at_us
    probe, subject = (
        ("socket", "app")
        if incident.rule.startswith("websocket")
        else (IS_THERE.get(incident.subject, ""), incident.subject)
    )
    if (
        detected is None
        or incident.rule not in ("availability", "answers", "app_answers", "app_down", "websocket_down")
        or not probe
        or any(e.by for e in incident.of_kind("time"))
    ):
        return None
    at = clock.instant(detected)
    view = status.view_at(workspace, at, timedelta(hours=1))
    looks = view.probed.within(probe, subject, view.window) if view.probed else []
    failing = None
    for i in range(len(looks) - 1, 0, -1):
        if OUTCOMES[looks[i].outcome].usable:
            break
        failing = i
    if failing is None:
        return None
    first, before = looks[failing], looks[failing - 1]
    when_us = first.ts_us - round((first.seconds or 0.0) * 1e6)
    precision_s = round((when_us - before.ts_us) / 1e6, 1)
    return {
        "which": "began",
        "at": formatting.iso(clock.instant(when_us)),
        "source": f"our look at {subject} that failed first ({first.outcome}); the one before was well",
        "precision_s": max(precision_s, 0.0),
        "words": f"it began: our look at {subject} failed ({first.outcome}), {precision_s:g} s after one that was well",
    }


def metrics(incident: Incident) -> Entry | None:
    """The newest evidence of the metrics; None where none was captured."""
    return next((e for e in reversed(incident.of_kind("evidence")) if e.body.get("name") == METRICS), None)


# What each number comes out of: the content of one piece of evidence, and what it is asked about.


def _during(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows that end after it began, up to the one in which it ended."""
    began, ended = content["began"], content["ended"] or content["until"]
    step = timedelta(seconds=content["step_s"])
    return [
        r
        for r in content["rows"]
        if time_parsing.parse(r["at"]) > time_parsing.parse(began)
        and time_parsing.parse(r["at"]) - step < time_parsing.parse(ended)
    ]


def _total(rows: Iterable[Mapping[str, Any]], key: str) -> int | None:
    known = [r[key] for r in rows if r.get(key) is not None]
    return sum(known) if known else None


def minutes_past(content: Mapping[str, Any], about: str) -> Result:
    """
    For how many minutes was a provider's availability, by the app's page, below a limit?

    Of those in which it was asked.
    """
    provider, rung = about.split("/")
    limit, per = content["limits"]["availability"][rung], content["step_s"] / 60
    asked = [r for r in _during(content) if r[f"{provider}_requests"]]
    if not asked:
        return Result(None, why="no request was counted")
    below = [
        r for r in asked if (r[f"{provider}_requests"] - r[f"{provider}_failures"]) / r[f"{provider}_requests"] < limit
    ]
    return Result(round(len(below) * per, 2), round(len(below) * per), round(len(asked) * per))


def share(content: Mapping[str, Any], about: str) -> Result:
    """How many of all were so, while it lasted? ``failures/requests``: the first of the second."""
    part, count = (_total(_during(content), key) for key in about.split("/"))
    if not count or part is None:
        return Result(None, why="none was counted")
    return Result(part / count, int(part), int(count))


def total(content: Mapping[str, Any], about: str) -> Result:
    """How many while it lasted?"""
    found = _total(_during(content), about)
    return Result(None, why="nobody counted them") if found is None else Result(int(found))


def missing(content: Mapping[str, Any], about: str) -> Result:
    """How much of what the app's page should have posted while it lasted did not come?"""
    known = [r["coverage"] for r in _during(content) if r["coverage"] is not None]
    return (
        Result(1 - sum(known) / len(known))
        if known
        else Result(None, why="nothing was expected: the market was closed")
    )


def lasted(content: Mapping[str, Any], about: str) -> Result:
    """For how long did it hurt, seconds?"""
    if content["ended"] is None:
        return Result(None, why="it is not over")
    return Result((time_parsing.parse(content["ended"]) - time_parsing.parse(content["began"])).total_seconds())


FORMULAS: dict[str, Callable[[Mapping[str, Any], str], Result]] = {
    "minutes_past": minutes_past,
    "share": share,
    "total": total,
    "missing": missing,
    "lasted": lasted,
}
_ASKED = (
    ("lasted", "how long it lasted", "s", ("lasted", "")),
    *(
        (
            f"{p}_minutes_{rung}",
            f"minutes with {p}'s availability below {words}",
            "min",
            ("minutes_past", f"{p}/{rung}"),
        )
        for p in PROVIDERS
        for rung, words in (("objective", "the objective"), ("critical", "critical"))
    ),
    *(
        (f"{p}_failed", f"requests to {p} that failed", "ratio", ("share", f"{p}_failures/{p}_requests"))
        for p in PROVIDERS
    ),
    *(
        (f"{p}_looks_failed", f"our own looks at {p} that failed", "ratio", ("share", f"{p}_looks_failed/{p}_looks"))
        for p in PROVIDERS
    ),
    ("fallbacks", "requests that the fallback served", "", ("total", "massive_fallbacks")),
    ("greeks_invalid", "Greeks that were not valid", "ratio", ("share", "invalid/validations")),
    ("errors", "errors that the app counted", "", ("total", "errors")),
    ("trades", "trades that were closed meanwhile", "", ("total", "trades")),
    ("websocket_down", "the page's WebSocket was down", "s", ("total", "websocket_down_s")),
    ("page_loads", "times the app's page was loaded anew", "", ("total", "page_loads")),
    ("posts_missing", "of the page's posts that did not come", "ratio", ("missing", "")),
)
DURATIONS = (
    ("TTD", "began to detected", "began", "detected"),
    ("TTA", "detected to acknowledged", "detected", "acknowledged"),
    ("TTM", "detected to mitigated", "detected", "mitigated"),
    ("TTR", "began to resolved", "began", "resolved"),
)


def figures(incident: Incident) -> list[Figure]:
    """Every number of an incident's impact; unknown where no evidence was captured."""
    entry = metrics(incident)
    found = []
    for name, words, unit, formula in _ASKED:
        result = (
            FORMULAS[formula[0]](entry.body["content"], formula[1])
            if entry
            else Result(None, why="no evidence was captured yet")
        )
        found.append(Figure(name, words, unit, formula, (entry.id,) if entry else (), result))
    return found


def durations(incident: Incident) -> list[Figure]:
    """The four durations of one incident; unknown where one of their ends is."""
    found = []
    for name, words, first, last in DURATIONS:
        a, b = incident.times[first], incident.times[last]
        if a.at_us is None or b.at_us is None:
            result = Result(
                None,
                why=f"{first if a.at_us is None else last} is unknown: {a.source if a.at_us is None else b.source}",
            )
        else:
            result = Result((b.at_us - a.at_us) / 1e6)
        found.append(
            Figure(
                name,
                words,
                "s",
                ("between", f"{first}/{last}"),
                tuple(e for e in (a.evidence, b.evidence) if e),
                result,
            )
        )
    return found
