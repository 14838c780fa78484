"""Compute the numbers of a postmortem from its evidence, each by a named formula that can be applied again."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from opslib.dashboard import status
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.foundation.version import VERSION
from opslib.incidents import evidence, lifecycle
from opslib.incidents.durations import METRICS, Result, exact, metrics, minutes_past, rows_during, span
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident
from opslib.telemetry.pages import indicators
from opslib.telemetry.probes.history import IS_THERE
from opslib.telemetry.probes.outcomes import OUTCOMES

if TYPE_CHECKING:
    from opslib.dashboard.status import Status
    from opslib.foundation.config.workspace import Workspace

LEAD, AFTER = timedelta(minutes=30), timedelta(minutes=15)
STEPS_S = (60, 300, 900, 3600)
MOST_ROWS = 600
LIMITS = {"availability": "availability", "greeks_valid": "valid Greeks", "errors": "errors"}


@dataclass(frozen=True)
class Figure:
    """
    One number of a postmortem.

    Attributes:
        id: Its name, the same in every postmortem.
        words: Its label.
        unit: The unit of its value.
        formula: The name of its formula in `FORMULAS`, and the argument.
        evidence: The entries that it is computed from.
        result: Its value.
    """

    id: str
    words: str
    unit: str
    formula: tuple[str, str]
    evidence: tuple[str, ...]
    result: Result

    @property
    def text(self) -> str:
        """The number as text, with its total for a share."""
        value, part, count, why = self.result
        if value is None:
            return f"{formatting.UNKNOWN} ({why})"
        if count is not None:
            if self.unit == "min":
                return f"{formatting.number(value)} of the {formatting.number(count)} min with requests"
            return f"{formatting.ratio(value, 1)} ({formatting.number(part)} of {formatting.number(count)})"
        if self.unit == "s":
            return exact(value)
        if self.unit == "ratio":
            return formatting.ratio(value, 1)
        return formatting.number(value, self.unit)

    def as_json(self) -> dict[str, Any]:
        """Return the figure for the postmortem's JSON file, from which `verification` recomputes it."""
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


def capture_metrics(workspace: "Workspace", incident: Incident) -> Incident:
    """Record the metrics of an incident as evidence, once for the same data and again if the data changed."""
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
                "warning": dict(r.thresholds).get("warning"),
                "critical": dict(r.thresholds).get("critical"),
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
        "query": f"snapshots and probes of {workspace.settings.app}, per {step_s} s",
        "as_of": formatting.iso(end),
        "opslib": VERSION,
        "rules_hash": workspace.rules.hash,
        "content": content,
        "words": f"metrics of snapshots and probes, per {step_s} s, {formatting.moment(start)} to "
        f"{formatting.moment(end)}",
    }
    lifecycle.of(workspace).append(incident.id, "evidence", body, key=key)
    return lifecycle.of(workspace).read(incident.id)


def _row(view: "Status", window: Window) -> dict[str, Any]:
    counters, probed = view.counters, view.probed
    providers, greeks, system = (
        indicators.providers(counters, window),
        indicators.greeks(counters, window),
        indicators.system(counters, window),
    )
    row: dict[str, Any] = {"at": formatting.iso(window.end)}
    for name in PROVIDERS:
        row |= {f"{name}_{key}": providers[name][key] for key in ("requests", "failures", "fallbacks")}
        usable = (
            [OUTCOMES[s.outcome].usable for s in probed.within(IS_THERE[name], name, window) if s.last]
            if probed
            else []
        )
        row |= {f"{name}_looks": len(usable), f"{name}_looks_failed": len(usable) - sum(usable)}
    row |= {key: greeks[key] for key in ("validations", "invalid", "gamma_zero", "delta_out_of_bounds")}
    row |= {
        "errors": system["errors"],
        "websocket_down_s": system["websocket_down_seconds"],
        "page_loads": system["restarts"],
        "trades": indicators.pnl(counters, window, 1)["trades"],
    }
    return row | {"coverage": counters.coverage(window)}


def _onset(workspace: "Workspace", incident: Incident) -> dict[str, Any] | None:
    """
    Return the time of the first failed probe of the outage that led to the detection, with its precision.

    None if there are no such probes, or if a person recorded a time.
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
    samples = view.probed.within(probe, subject, view.window) if view.probed else []
    failing = None
    for i in range(len(samples) - 1, 0, -1):
        if OUTCOMES[samples[i].outcome].usable:
            break
        failing = i
    if failing is None:
        return None
    first, before = samples[failing], samples[failing - 1]
    when_us = first.ts_us - round((first.seconds or 0.0) * 1e6)
    precision_s = round((when_us - before.ts_us) / 1e6, 1)
    return {
        "which": "began",
        "at": formatting.iso(clock.instant(when_us)),
        "source": f"first failed probe of {subject}: {first.outcome}; previous probe passed",
        "precision_s": max(precision_s, 0.0),
        "words": f"beginning determined: {formatting.moment(clock.instant(when_us))}, when a probe of {subject} failed "
        f"({first.outcome}), {precision_s:g} s after the last successful probe",
    }


# The formulas. Each takes the content of the evidence and one argument.


def _total(rows: Iterable[Mapping[str, Any]], key: str) -> int | None:
    known = [r[key] for r in rows if r.get(key) is not None]
    return sum(known) if known else None


def share(content: Mapping[str, Any], about: str) -> Result:
    """Return a share over the incident; ``failures/requests`` is the first divided by the second."""
    part, count = (_total(rows_during(content), key) for key in about.split("/"))
    if not count or part is None:
        return Result(None, why="no events were counted")
    return Result(part / count, int(part), int(count))


def total(content: Mapping[str, Any], about: str) -> Result:
    """Return the sum of a count over the incident."""
    found = _total(rows_during(content), about)
    return Result(None, why="not measured") if found is None else Result(int(found))


def missing(content: Mapping[str, Any], about: str) -> Result:
    """Return the share of the page's expected snapshots that were not received during the incident."""
    known = [r["coverage"] for r in rows_during(content) if r["coverage"] is not None]
    return (
        Result(1 - sum(known) / len(known))
        if known
        else Result(None, why="the market was closed; no snapshots were expected")
    )


def lasted(content: Mapping[str, Any], about: str) -> Result:
    """Return the duration of the incident in seconds."""
    if content["ended"] is None:
        return Result(None, why="the incident is not resolved")
    return Result((time_parsing.parse(content["ended"]) - time_parsing.parse(content["began"])).total_seconds())


FORMULAS: dict[str, Callable[[Mapping[str, Any], str], Result]] = {
    "minutes_past": minutes_past,
    "share": share,
    "total": total,
    "missing": missing,
    "lasted": lasted,
}
_DEFINITIONS = (
    ("lasted", "duration until its alerts ended", "s", ("lasted", "")),
    *(
        (
            f"{p}_minutes_{rung}",
            f"minutes with availability of {p.title()} below {words}",
            "min",
            ("minutes_past", f"{p}/{rung}"),
        )
        for p in PROVIDERS
        for rung, words in (("objective", "the objective"), ("critical", "the critical threshold"))
    ),
    *(
        (f"{p}_failed", f"failed requests to {p.title()}", "ratio", ("share", f"{p}_failures/{p}_requests"))
        for p in PROVIDERS
    ),
    *(
        (f"{p}_looks_failed", f"failed probes of {p.title()}", "ratio", ("share", f"{p}_looks_failed/{p}_looks"))
        for p in PROVIDERS
    ),
    ("fallbacks", "requests served by the fallback, each after its retries", "", ("total", "massive_fallbacks")),
    ("greeks_invalid", "invalid Greeks", "ratio", ("share", "invalid/validations")),
    ("errors", "errors counted by the app", "", ("total", "errors")),
    ("trades", "trades closed during the incident", "", ("total", "trades")),
    ("websocket_down", "time with the page's WebSocket down", "s", ("total", "websocket_down_s")),
    ("page_loads", "page reloads", "", ("total", "page_loads")),
    ("posts_missing", "missing snapshots of the page", "ratio", ("missing", "")),
)
DURATION_NAMES = {
    "TTD": "time to detect (TTD)",
    "TTA": "time to acknowledge (TTA)",
    "TTM": "time to mitigate (TTM)",
    "TTR": "time to resolve (TTR)",
}
DURATIONS = (
    ("TTD", "began to detected", "began", "detected"),
    ("TTA", "detected to acknowledged", "detected", "acknowledged"),
    ("TTM", "detected to mitigated", "detected", "mitigated"),
    ("TTR", "began to resolved", "began", "resolved"),
)


def figures(incident: Incident) -> list[Figure]:
    """Return every number of an incident's impact; unknown if no evidence was captured."""
    entry = metrics(incident)
    found = []
    for name, words, unit, formula in _DEFINITIONS:
        result = (
            FORMULAS[formula[0]](entry.body["content"], formula[1])
            if entry
            else Result(None, why="no evidence was captured yet")
        )
        label = f"{words} ({_limit(entry, formula[1])})" if entry and formula[0] == "minutes_past" else words
        found.append(Figure(name, label, unit, formula, (entry.id,) if entry else (), result))
    return found


def _limit(entry: Entry, about: str) -> str:
    """Return the threshold that minutes are counted below, such as ``99 %``."""
    return f"{entry.body['content']['limits']['availability'][about.partition('/')[2]] * 100:g} %"


def verdict(incident: Incident, figure: Figure) -> str:
    """Return the verdict of a share of failures by the thresholds at the time: ok, warning or critical; else ok."""
    entry = metrics(incident)
    rule = "availability" if figure.id.endswith("_failed") else "greeks_valid" if figure.id == "greeks_invalid" else ""
    if entry is None or not rule or figure.result.value is None:
        return "unknown" if figure.result.value is None else "ok"
    limits, good = entry.body["content"]["limits"].get(rule, {}), 1 - figure.result.value
    crossed = [name for name in ("critical", "warning") if limits.get(name) is not None and good < limits[name]]
    return crossed[0] if crossed else "ok"


def durations(incident: Incident) -> list[Figure]:
    """Return the four durations of an incident; unknown if one of its times is unknown."""
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
