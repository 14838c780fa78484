"""Determine what still works at a moment and how severe the impact on traders is, from current data only."""

import re
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from opslib.alerting import effects
from opslib.alerting.probe_figures import CHAIN_LASTS_US
from opslib.foundation import formatting, market_calendar
from opslib.foundation.clock import SECOND
from opslib.telemetry import app_state
from opslib.telemetry.probes.outcomes import OUTCOMES

if TYPE_CHECKING:
    from opslib.dashboard.status import Status

CHAIN_LASTS = timedelta(microseconds=CHAIN_LASTS_US)
LEVELS = ("none", "notify", "critical", "escalate", "unknown")


class Severity(NamedTuple):
    """
    The impact on traders, on the severity scale of alerts.

    Attributes:
        level: none; notify (a fallback serves); critical (data that trading depends on is wrong); escalate (no data is
            served); unknown.
        why: One sentence with the reason, then what works and what does not.
    """

    level: str
    why: str


class Thing(NamedTuple):
    """
    Something that trading depends on, and whether it works.

    Attributes:
        state: works, fails or unknown.
        words: What it is, the source, and how old the source's information is.
        about: massive, tradier, prices, greeks, server, or data: no provider can serve, or our network.
        source, age_s: The newest report's source, and its age in seconds; empty and None if several sources decide.
    """

    state: str
    words: str
    about: str
    source: str = ""
    age_s: float | None = None


class Report(NamedTuple):
    """What one source reports: whether a thing works, the source, and the age of the report in seconds."""

    works: bool
    source: str
    age_s: float


PAGE, PROBES = "the app's page", "our probes"
# Outcomes that the page counts as a success, though their data cannot be used.
COUNTED_AS_GOOD = ("ok_empty", "partial", "stale")
FRESH_S = 60.0  # An older report does not contradict a newer one.


def working_and_failing(view: "Status") -> list[tuple[str, str]]:
    """Return what works, what fails and what is unknown at the end of a status' window, each with its words."""
    return [(thing.state, thing.words) for thing in things(view)]


def things(view: "Status") -> list[Thing]:
    """
    Return what trading depends on: option data, live prices, Greeks, the app's server, and whether each works.

    The newest source decides, and its age is shown. Where two recent sources disagree, the thing fails, and both
    sources are named.
    """
    found, at_us = [*_served(view)], view.window.end_us
    connected = view.figures["system"]["websocket_connected"]
    reports = [Report(connected, PAGE, _page_age_s(view))] if connected is not None else []
    if view.probed and (socket := view.probed.now("socket", "app", at_us)):
        reports.append(Report(OUTCOMES[socket.outcome].usable, PROBES, (at_us - socket.ts_us) / SECOND))
    prices = _combine("live prices over the WebSocket", "prices", reports)
    left = app_state.unserved_page(view.counters, view.probed, at_us) if view.probed else None
    if left is not None and prices.state == "works":
        prices = Thing("fails", f"live prices over the WebSocket: {app_state.unserved_note(at_us, left[0])}", "prices")
    elif len(reports) == 2 and prices.state == "fails" and reports[0].works and reports[0].age_s <= FRESH_S:
        # Not every loss resets the page's flag, and an open connection may carry no messages.
        prices = prices._replace(
            words=f"live prices over the WebSocket ({_source(reports[1])}); "
            f"{PAGE} still counts its own connection as open"
        )
    greeks = _greeks(view)
    if greeks.state == "fails":  # The providers' data includes Greeks.
        found = [
            t._replace(words=re.sub(r"^option data from [^(:]*?(?= \(|:|$)", rf"\g<0>{effects.EXCEPT_GREEKS}", t.words))
            if t.state == "works"
            else t
            for t in found
        ]
    elif serving(view) == "tradier" and greeks.state == "works":  # Tradier updates its Greeks every hour.
        greeks = greeks._replace(words=greeks.words.replace("Greeks", "Greeks from Tradier up to 1 h old", 1))
    return [*found, prices, greeks, *_server(view)]


def _server(view: "Status") -> list[Thing]:
    """Return the app's server, where it is probed; a server that responds too slowly does not work."""
    health = view.probed.now("health", "app", view.window.end_us) if view.probed else None
    if health is None:
        return []
    report = Report(OUTCOMES[health.outcome].usable, PROBES, (view.window.end_us - health.ts_us) / SECOND)
    slow = next((f for f in view.findings if f.rule.name == "app_response_time" and f.severity is not None), None)
    if slow is None or not report.works:
        return [_combine("the app's server", "server", [report])]
    return [
        Thing(
            "fails",
            f"the app's server: it responds slowly, p95 {slow.rule.format_value(slow.figure.value)} "
            f"({_source(report)})",
            "server",
        )
    ]


def _combine(words: str, about: str, reports: list[Report]) -> Thing:
    """Combine the reports of several sources."""
    if not reports:
        return Thing("unknown", words, about)
    newest = min(reports, key=lambda s: s.age_s)
    other = next((s for s in reports if s.works != newest.works and s.age_s <= FRESH_S), None)
    if other is None:
        state = "works" if newest.works else "fails"
        return Thing(state, f"{words} ({_source(newest)})", about, newest.source, newest.age_s)
    good, bad = (newest, other) if newest.works else (other, newest)
    return Thing("fails", f"{words} (fails: {_source(bad)}; works: {_source(good)})", about)


def _source(report: Report) -> str:
    return f"{report.source}, {formatting.duration(max(0.0, report.age_s))} ago"


def _page_age_s(view: "Status") -> float:
    last_us = view.counters.last_seen_us(view.window.end_us)
    return (view.window.end_us - (last_us if last_us is not None else view.window.start_us)) / SECOND


def _cut_off(view: "Status") -> bool:
    """
    Return whether the app's server does not respond.

    All data of the page passes through it, so the page's counts are then not current.
    """
    health = view.probed.now("health", "app", view.window.end_us) if view.probed else None
    return health is not None and not OUTCOMES[health.outcome].usable


def _counted_age_s(view: "Status", *counters: str) -> float:
    """Return the seconds since the page last counted one of these, by its newest post."""
    return _page_age_s(view) + (view.counters.idle_of_s(view.window.end_us, counters) or 0.0)


def _greeks(view: "Status") -> Thing:
    valid = view.figures["greeks"]["valid_rate"]
    page = next((f.verdict for f in view.findings if f.rule.name == "greeks_valid" and f.source == "page"), "unknown")
    # A short window may have too few validations for a verdict; an alert of the page over a longer one has one.
    if page == "unknown" and any(
        a["rule"] in ("greeks_valid", "gamma_zero") and a["source"] == "page" and a["state"] == "firing"
        for a in view.alerts
    ):
        page = "critical"
    reports = (
        [
            Report(
                page == "ok",
                f"{PAGE}: {formatting.ratio(valid, 1)} valid over {_span(view)}",
                _counted_age_s(view, "validations"),
            )
        ]
        if valid is not None and page != "unknown" and not _cut_off(view)
        else []
    )
    units = next((f for f in view.findings if f.rule.name == "greeks_units" and f.severity is not None), None)
    if units is not None and view.probed:  # The validation of Greeks does not check their units.
        share = f"chains: {formatting.ratio(units.figure.value, 1)} of the tradable contracts in unusual units"
        return _combine("Greeks", "greeks", [Report(False, share, _fetched_s(view))])
    chain = next(
        (
            f
            for f in view.findings
            if f.rule.name == "greeks_valid" and f.source == "chain" and f.figure.value is not None
        ),
        None,
    )
    if chain is not None and view.probed:
        reports.append(
            Report(
                chain.verdict == "ok",
                f"chains: {formatting.ratio(chain.figure.value, 1)} valid",
                _fetched_s(view),
            )
        )
    if valid is not None and page == "unknown" and not _cut_off(view) and all(r.age_s > FRESH_S for r in reports):
        return _with_counts(_combine("Greeks", "greeks", reports), view)
    if reports and reports[0].source.startswith(PAGE) and reports[0].age_s > FRESH_S:
        idle_s = reports.pop(0).age_s
        return (
            _combine("Greeks", "greeks", reports)
            if reports
            else Thing(
                "unknown", f"Greeks: {PAGE} counted no validation in the last {formatting.duration(idle_s)}", "greeks"
            )
        )
    return _combine("Greeks", "greeks", reports)


def _with_counts(greeks: Thing, view: "Status") -> Thing:
    """Add what the page counted most recently, which is too little for a verdict."""
    counted = (
        f"{PAGE}: {formatting.ratio(view.figures['greeks']['valid_rate'], 1)} valid over {_span(view)}, "
        f"{formatting.duration(_counted_age_s(view, 'validations'))} ago, too few validations for a verdict"
    )
    if not greeks.source:
        return greeks._replace(words=f"{greeks.words} ({counted})")
    return greeks._replace(words=f"{greeks.words.removesuffix(')')}; {counted})", source=f"{greeks.source}; {counted}")


def _span(view: "Status") -> str:
    return formatting.duration(view.window.seconds)


def _fetched_s(view: "Status") -> float:
    """Return the seconds since the newest chain was fetched, of those that are still current."""
    assert view.probed
    fetched = [c[-1].ts_us for c in view.probed.chains(view.window.before(view.window.end, CHAIN_LASTS)).values()]
    return (view.window.end_us - max(fetched, default=view.window.start_us)) / SECOND


def _of_page(view: "Status", name: str) -> Report | None:
    """
    Return what the app's page reports of its requests to a provider.

    From the newest minute where all requests of it ended alike, else from the status' window.
    """
    if _cut_off(view):
        return None
    minute = view.window.before(view.window.end, timedelta(seconds=FRESH_S))
    requests, successes = (view.counters.increase(f"{name}_{what}", minute) for what in ("requests", "successes"))
    found = next(
        (f for f in view.findings if f.rule.name == "availability" and f.subject == name and f.source == "page"), None
    )
    if requests and successes in (0, requests):
        works = successes == requests
    elif found is None or found.verdict == "unknown" or not view.figures["providers"][name]["requests"]:
        return None
    else:
        works = found.verdict in ("ok", "warning")
    return Report(works, PAGE, _counted_age_s(view, f"{name}_requests"))


def _share(view: "Status", name: str) -> str:
    figures = view.figures["providers"][name]
    requests = formatting.number(figures["requests"])
    return f"{formatting.ratio(figures['availability'], 1)} of {requests} requests over {_span(view)}, "


def serving(view: "Status") -> str | None:
    """Return the provider in use at the end of a status' window by our probes, or "nobody"; None if it is unknown."""
    return view.probed.serving(view.window.end_us) if view.probed else None


def _served(view: "Status") -> list[Thing]:
    """Return which provider can serve option data, from our probes and the page's counts."""
    if view.probed is None or (which := serving(view)) is None:
        return [_by_page(view, name) for name in view.figures["providers"]]
    if which == "nobody":
        ours = (
            [Thing("fails", "our network: no provider can be reached", "data")]
            if view.probed.network_gone(view.window.end_us)
            else []
        )
        return [*ours, Thing("fails", "option data: no provider can serve", "data")]
    massive = _provider(view, "massive", "option data from Massive")
    if which == "tradier":
        return [_provider(view, "tradier", "option data from Tradier instead of Massive"), massive]
    # Where the page's requests to Massive fail although our probes do not, the page's counts of Tradier show whether
    # the page is served.
    return [massive, *([_by_page(view, "tradier")] if massive.state == "fails" else [])]


def _provider(view: "Status", name: str, words: str) -> Thing:
    """Combine our probes of a provider and the page's requests to it; where they disagree, name whose requests fail."""
    assert view.probed
    latest = [s for probe in ("liveness", "data") if (s := view.probed.now(probe, name, view.window.end_us))]
    page = _of_page(view, name)
    if page and page.works and any(s.outcome in COUNTED_AS_GOOD for s in latest):
        page = None
    reports = (
        [
            Report(
                all(OUTCOMES[s.outcome].usable for s in latest),
                PROBES,
                (view.window.end_us - max(s.ts_us for s in latest)) / SECOND,
            )
        ]
        if latest
        else []
    )
    found = _combine(words, name, [*reports, *([page] if page else [])])
    part = next(
        (f for f in view.findings if f.rule.name == "chain_whole" and f.subject == name and f.severity is not None),
        None,
    )
    if part is not None and found.state == "works":
        return found._replace(
            state="fails",
            words=f"{words}: chains are incomplete (chains: {formatting.ratio(part.figure.value, 0)} of the symbols "
            f"complete)",
        )
    if page and reports and reports[0].works and not page.works and found.state == "fails":
        return found._replace(
            words=f"{found.words}: only the page's own requests fail, so check the network between the app and "
            f"{name.title()} first"
        )
    return found


def _by_page(view: "Status", name: str) -> Thing:
    report, words = _of_page(view, name), f"option data from {name.title()}"
    if report is None:
        return Thing("unknown", words, name)
    if report.age_s > FRESH_S:
        return Thing(
            "unknown",
            f"{words}: {report.source} counted no request in the last {formatting.duration(report.age_s)}",
            name,
        )
    return Thing("works" if report.works else "fails", f"{words} ({_share(view, name)}{_source(report)})", name)


def severity(view: "Status") -> Severity:
    """
    Determine the impact on traders at the end of a status' window.

    An outage of Massive is `notify` only while Tradier replaces it. Escalated at once are the conditions of the guide's
    list: no provider at all, most Greeks wrong, the WebSocket down for long.
    """
    states = working_and_failing(view)
    works, fails, unknown = (
        [words for state, words in states if state == wanted] for wanted in ("works", "fails", "unknown")
    )
    summary = (
        f"{'Works: ' + ', '.join(works) + '. ' if works else ''}"
        f"{'Does not work: ' + ', '.join(fails) + '. ' if fails else ''}"
        f"{'Unknown: ' + ', '.join(unknown) + '.' if unknown else ''}"
    ).strip()
    if not market_calendar.open_since(view.window.end):
        return Severity("none", f"The market is closed: no data is expected. {summary}".strip())
    escalating = [
        f
        for f in view.findings
        if f.severity == "escalate" and f.counted and not (f.rule.name == "availability" and f.subject != "app")
    ]
    data = [
        words for words in fails if words.startswith(("option data: no provider", "our network", "the app's server"))
    ]
    if data or escalating:
        why = "; ".join([*data, *(f.sentence for f in escalating[:1] if not data)])
        return Severity("escalate", f"There is no replacement ({why}). {summary}")
    served = [words for words in works if words.startswith("option data")]
    other = [words for words in fails if not words.startswith("option data")]
    if not served:
        if [words for words in unknown if words.startswith("option data")]:
            return Severity("unknown", f"It could not be determined which provider serves option data. {summary}")
        return Severity("escalate", f"No provider serves option data. {summary}")
    if other:
        return Severity("critical", f"Option data is served, but other data that trading depends on fails. {summary}")
    if fails:
        return Severity("notify", f"The fallback provider serves. {summary}")
    wrong = [f for f in view.findings if f.counted and f.verdict == "critical"]
    if wrong:
        return Severity("notify", f"Everything works, but {wrong[0].sentence}. {summary}")
    level = "unknown" if unknown and not works else "none"
    return Severity(level, f"Nothing that trading depends on fails. {summary}")
