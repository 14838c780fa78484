"""Tell what still works at a moment, and how bad that is; both are looked up, never assumed."""

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from opslib.alerting.probe_figures import CHAIN_LASTS_US
from opslib.foundation import formatting, market_calendar
from opslib.foundation.clock import SECOND
from opslib.telemetry import app_state
from opslib.telemetry.probes.outcomes import OUTCOMES

if TYPE_CHECKING:
    from opslib.dashboard.status import Status

CHAIN_LASTS = timedelta(microseconds=CHAIN_LASTS_US)
LEVELS = ("low", "medium", "high", "critical", "unknown")


class Severity(NamedTuple):
    """
    How bad it is for who trades.

    Attributes:
        level: low, medium (a fallback serves), high (something that trades rest on is wrong), critical (nothing
            serves), unknown.
        why: One sentence.
    """

    level: str
    why: str


class Thing(NamedTuple):
    """
    Something that people trade by, and how it is.

    Attributes:
        state: works, fails or unknown.
        words: What it is, who says so, and how long ago.
        about: massive, tradier, prices, greeks, server, or data: nobody can serve, or our network.
    """

    state: str
    words: str
    about: str


class Said(NamedTuple):
    """What one source says of a thing: whether it works, who says so, and how old that is in seconds."""

    works: bool
    who: str
    age_s: float


PAGE, PROBES = "the app's page", "our own probes"
# What the page counts as a success, though nothing in it can be used.
COUNTED_AS_GOOD = ("ok_empty", "partial", "stale")
FRESH_S = 60.0  # What is older says nothing against what is newer.


def working_and_failing(view: "Status") -> list[tuple[str, str]]:
    """
    What works, what does not, and what is not known, at the end of a view: works, fails or unknown, each with its
    words.
    """
    return [(thing.state, thing.words) for thing in things(view)]


def things(view: "Status") -> list[Thing]:
    """
    What people trade by, and how it is at the end of a view: who can serve, the WebSocket, the Greeks, the app's
    server.

    The newest source decides, and its age is said. Where two that are both new disagree, it fails for somebody: who is
    said.
    """
    found, at_us = [*_served(view)], view.window.end_us
    connected = view.figures["system"]["websocket_connected"]
    said = [Said(connected, PAGE, _page_age_s(view))] if connected is not None else []
    if view.probed and (socket := view.probed.now("socket", "app", at_us)):
        said.append(Said(OUTCOMES[socket.outcome].usable, PROBES, (at_us - socket.ts_us) / SECOND))
    prices = _judged("live prices over the WebSocket", "prices", said)
    left = app_state.left_behind(view.tape, view.probed, at_us) if view.probed else None
    if left is not None and prices.state == "works":
        prices = Thing("fails", f"live prices over the WebSocket: {app_state.left_note(at_us, left[0])}", "prices")
    elif len(said) == 2 and prices.state == "fails" and said[0].works and said[0].age_s <= FRESH_S:
        # The page's flag is not reset by each kind of loss, and a flag is no message.
        prices = prices._replace(
            words=f"live prices over the WebSocket ({_by(said[1])}); {PAGE} still counts its own connection as open"
        )
    return [*found, prices, _greeks(view), *_server(view)]


def _server(view: "Status") -> list[Thing]:
    """The app's server, where it is probed: one that answers, and takes too long, does not work."""
    health = view.probed.now("health", "app", view.window.end_us) if view.probed else None
    if health is None:
        return []
    said = Said(OUTCOMES[health.outcome].usable, PROBES, (view.window.end_us - health.ts_us) / SECOND)
    slow = next((f for f in view.findings if f.rule.name == "app_response_time" and f.severity is not None), None)
    if slow is None or not said.works:
        return [_judged("the app's server", "server", [said])]
    return [
        Thing(
            "fails",
            f"the app's server: it answers slowly, p95 {slow.rule.told(slow.figure.value)} ({_by(said)})",
            "server",
        )
    ]


def _judged(words: str, about: str, said: list[Said]) -> Thing:
    """What several sources come to."""
    if not said:
        return Thing("unknown", words, about)
    newest = min(said, key=lambda s: s.age_s)
    other = next((s for s in said if s.works != newest.works and s.age_s <= FRESH_S), None)
    if other is None:
        return Thing("works" if newest.works else "fails", f"{words} ({_by(newest)})", about)
    good, bad = (newest, other) if newest.works else (other, newest)
    return Thing("fails", f"{words} for {_by(bad)}; for {_by(good)} it works", about)


def _by(said: Said) -> str:
    return f"{said.who}, {formatting.duration(max(0.0, said.age_s))} ago"


def _page_age_s(view: "Status") -> float:
    last_us = view.tape.last_seen_us(view.window.end_us)
    return (view.window.end_us - (last_us if last_us is not None else view.window.start_us)) / SECOND


def _cut_off(view: "Status") -> bool:
    """
    Whether the app's server does not answer: what the page gets passes through it, so its counts say nothing of now.
    """
    health = view.probed.now("health", "app", view.window.end_us) if view.probed else None
    return health is not None and not OUTCOMES[health.outcome].usable


def _counted_age_s(view: "Status", *counters: str) -> float:
    """Seconds since the page last counted one of these, by its newest post: what stands still says nothing of now."""
    return _page_age_s(view) + (view.tape.idle_of_s(view.window.end_us, counters) or 0.0)


def _greeks(view: "Status") -> Thing:
    valid = view.figures["greeks"]["valid_rate"]
    page = next((f.verdict for f in view.findings if f.rule.name == "greeks_valid" and f.source == "page"), "unknown")
    said = (
        [Said(page == "ok", f"{formatting.ratio(valid, 1)} valid by {PAGE}", _counted_age_s(view, "validations"))]
        if valid is not None and page != "unknown" and not _cut_off(view)
        else []
    )
    units = next((f for f in view.findings if f.rule.name == "greeks_units" and f.severity is not None), None)
    if units is not None and view.probed:  # What validates Greeks does not see their units.
        share = (
            f"{formatting.ratio(units.figure.value, 1)} of the tradable contracts in other units than "
            f"usual by our own chains"
        )
        return _judged("Greeks", "greeks", [Said(False, share, _fetched_s(view))])
    chain = next(
        (
            f
            for f in view.findings
            if f.rule.name == "greeks_valid" and f.source == "chain" and f.figure.value is not None
        ),
        None,
    )
    if chain is not None and view.probed:
        said.append(
            Said(
                chain.verdict == "ok",
                f"{formatting.ratio(chain.figure.value, 1)} valid by our own chains",
                _fetched_s(view),
            )
        )
    if said and said[0].who.endswith(PAGE) and said[0].age_s > FRESH_S:
        idle_s = said.pop(0).age_s
        return (
            _judged("Greeks", "greeks", said)
            if said
            else Thing(
                "unknown", f"Greeks: {PAGE} counted no validation in the last {formatting.duration(idle_s)}", "greeks"
            )
        )
    return _judged("Greeks", "greeks", said)


def _fetched_s(view: "Status") -> float:
    """Seconds since a chain was last fetched, of those that still say something."""
    assert view.probed
    fetched = [c[-1].ts_us for c in view.probed.chains(view.window.before(view.window.end, CHAIN_LASTS)).values()]
    return (view.window.end_us - max(fetched, default=view.window.start_us)) / SECOND


def _of_page(view: "Status", name: str) -> Said | None:
    """
    What the app's page says of its requests to a provider: of the newest minute where that is plain, else of the view's
    window.
    """
    if _cut_off(view):
        return None
    minute = view.window.before(view.window.end, timedelta(seconds=FRESH_S))
    requests, successes = (view.tape.rise(f"{name}_{what}", minute) for what in ("requests", "successes"))
    judged = next(
        (f for f in view.findings if f.rule.name == "availability" and f.subject == name and f.source == "page"), None
    )
    if requests and successes in (0, requests):
        works = successes == requests
    elif judged is None or judged.verdict == "unknown" or not view.figures["providers"][name]["requests"]:
        return None
    else:
        works = judged.verdict in ("ok", "warning")
    return Said(works, PAGE, _counted_age_s(view, f"{name}_requests"))


def _share(view: "Status", name: str) -> str:
    figures = view.figures["providers"][name]
    return f"{formatting.ratio(figures['availability'], 1)} of {formatting.number(figures['requests'])} requests, "


def _served(view: "Status") -> list[Thing]:
    """Who can serve option data: by our own probes and by what the page counted."""
    serving = view.probed.serving(view.window.end_us) if view.probed else None
    if view.probed is None or serving is None:
        return [_by_page(view, name) for name in view.figures["providers"]]
    if serving == "nobody":
        ours = (
            [Thing("fails", "our own network: neither provider can even be connected to", "data")]
            if view.probed.network_gone(view.window.end_us)
            else []
        )
        return [*ours, Thing("fails", "option data: nobody can serve", "data")]
    massive = _provider(view, "massive", "option data from Massive")
    if serving == "tradier":
        return [_provider(view, "tradier", "option data from Tradier, in Massive's place"), massive]
    # Where the page's own requests to Massive fail although ours do not, what the page counted of Tradier says whether
    # it is served.
    return [massive, *([_by_page(view, "tradier")] if massive.state == "fails" else [])]


def _provider(view: "Status", name: str, words: str) -> Thing:
    """
    What our own probes of a provider and the page's requests to it come to; where they disagree, whose requests fail.
    """
    assert view.probed
    stands = [s for probe in ("liveness", "data") if (s := view.probed.now(probe, name, view.window.end_us))]
    page = _of_page(view, name)
    if page and page.works and any(s.outcome in COUNTED_AS_GOOD for s in stands):
        page = None
    said = (
        [
            Said(
                all(OUTCOMES[s.outcome].usable for s in stands),
                PROBES,
                (view.window.end_us - max(s.ts_us for s in stands)) / SECOND,
            )
        ]
        if stands
        else []
    )
    found = _judged(words, name, [*said, *([page] if page else [])])
    part = next(
        (f for f in view.findings if f.rule.name == "chain_whole" and f.subject == name and f.severity is not None),
        None,
    )
    if part is not None and found.state == "works":
        return found._replace(
            state="fails",
            words=f"{words}: only part of the chain comes ({formatting.ratio(part.figure.value, 0)} of the symbols "
            f"whole by our own chains)",
        )
    if page and said and said[0].works and not page.works and found.state == "fails":
        return found._replace(
            words=f"{found.words}: the requests that fail are the page's own, so look at the way from the app "
            f"first, not at {name.title()}"
        )
    return found


def _by_page(view: "Status", name: str) -> Thing:
    said, words = _of_page(view, name), f"option data from {name.title()}"
    if said is None:
        return Thing("unknown", words, name)
    if said.age_s > FRESH_S:
        return Thing(
            "unknown", f"{words}: {said.who} counted no request in the last {formatting.duration(said.age_s)}", name
        )
    return Thing("works" if said.works else "fails", f"{words} ({_share(view, name)}{_by(said)})", name)


def severity(view: "Status") -> Severity:
    """
    How bad is it at the end of a view?

    The guide calls an outage of Massive medium because Tradier stands in; here it is medium only while Tradier does.
    What
    is critical is its list of what escalates at once: no provider at all, most Greeks wrong, the socket down for long.
    """
    stands = working_and_failing(view)
    fails, unknown = ([words for state, words in stands if state == wanted] for wanted in ("fails", "unknown"))
    works = [words for state, words in stands if state == "works"]
    told = (
        f"{'Works: ' + ', '.join(works) + '. ' if works else ''}"
        f"{'Does not work: ' + ', '.join(fails) + '. ' if fails else ''}"
        f"{'Not known: ' + ', '.join(unknown) + '.' if unknown else ''}"
    ).strip()
    if not market_calendar.open_since(view.window.end):
        return Severity("low", f"The market is closed: nothing is expected now. {told}".strip())
    escalating = [
        f
        for f in view.findings
        if f.severity == "escalate" and f.counted and not (f.rule.name == "availability" and f.subject != "app")
    ]
    data = [
        words for words in fails if words.startswith(("option data: nobody", "our own network", "the app's server"))
    ]
    if data or escalating:
        why = "; ".join([*data, *(f.sentence for f in escalating[:1] if not data)])
        return Severity("critical", f"Nothing stands in for it ({why}). {told}")
    served = [words for words in works if words.startswith("option data")]
    other = [words for words in fails if not words.startswith("option data")]
    if not served:
        if [words for words in unknown if words.startswith("option data")]:
            return Severity("unknown", f"Nobody knows who serves option data. {told}")
        return Severity("critical", f"No provider serves. {told}")
    if other:
        return Severity("high", f"Data is served, but what is traded by is wrong. {told}")
    if fails:
        return Severity("medium", f"A fallback serves. {told}")
    wrong = [f for f in view.findings if f.counted and f.verdict == "critical"]
    if wrong:
        return Severity("medium", f"Everything works, but {wrong[0].sentence}. {told}")
    return Severity("unknown" if unknown and not works else "low", f"Nothing that trading rests on fails. {told}")
