"""
This module knows the questions that are asked of a moment to learn what is the matter, each with what was seen, and nothing else.

What nobody has looked at answers nothing: its cause is None.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from opslib import attribution, clock, measures, text
from opslib.causes import OF_OUTCOME, OF_SOCKET, UNDETERMINED
from opslib.clock import Window
from opslib.outcome import OUTCOMES
from opslib.probed import Probed
from opslib.samples import Sample
from opslib.stream import NO_TOKEN
from opslib.units import USUAL

if TYPE_CHECKING:
    from opslib.panels import View

BACK = timedelta(minutes=5)  # What is the matter now is read from so far back.
FLAPS_BACK = timedelta(minutes=10)  # One that fails one look in twenty must be seen to fail twice.
CHAINS_BACK = timedelta(hours=1)
LONG = 10.0  # So many times longer than we need for an answer is long.


class Found(NamedTuple):
    """
    What one question came to.

    Attributes:
        cause: What it points at; empty is that all is well; None is not known.
        agree: Of what was seen, the share that says so.
    """

    question: str
    answer: str
    cause: str | None
    subject: str | None = None
    agree: float = 1.0


def _kind(bad: Counter[str], subject: str) -> tuple[str, str, float]:
    """What is it that fails now and then, of whom, and which share of the failures says so? Of several kinds only that it comes and goes; where no look met it, it is the page alone that says so."""
    kinds = Counter(OF_OUTCOME.get(name, "provider_intermittent") for name in bad.elements())
    return ("provider_intermittent" if len(kinds) != 1 else next(iter(kinds)), subject, 1.0 if kinds else 0.9)


class Inquiry:
    """The questions, in the order in which what they find explains the rest away."""

    def __init__(self, view: "View"):
        self.view = view
        self.probed, self.at_us = view.probed or Probed(), view.window.end_us
        self.lately = Window.before(view.window.end, BACK)

    def asked(self) -> list[Found]:
        return [self.monitor(), self.market(), self.network(), self.both(), self.server(), *(self.provider(s) for s in ("massive", "tradier")), self.timeout(), self.chain_whole(), *self.greeks(), self.restarted(), self.socket(), self.slow(), self.skew(), self.dashboard(), self.memory(), self.storm(), *self.costs()]

    def monitor(self) -> Found:
        question, rule = "Does our collector look?", self.view.rules["heartbeat"]
        missed = self.probed.missed_beats(self.at_us)
        if missed is None:
            return Found(question, "it was stopped, or never ran.", None)
        dead = rule.past(missed, float(dict(rule.ladder)["warning"]))
        return Found(question, f"it has missed {missed:,.0f} beats." if dead else "yes.", "monitor_down" if dead else "")

    def market(self) -> Found:
        question = "Is the market open?"
        if clock.open_since(self.view.window.end) is None:
            return Found(question, "no, by the calendar.", "market_closed")
        shut = self.probed.market_shut(self.at_us)
        return Found(question, "no, both providers say, though the calendar has a session." if shut else "yes.", "market_closed" if shut else "")

    def network(self) -> Found:
        gone = self.probed.network_gone(self.at_us)
        told = {None: "fewer than two providers are looked at.", True: "no: neither provider can even be connected to.", False: "yes."}[gone]
        return Found("Does our own network work?", told, None if gone is None else "our_network" if gone else "")

    def stands(self, subject: str) -> list[Sample]:
        """The last look of each kind at a subject, the worst first."""
        found = [s for probe in ("liveness", "health", "data", "metrics") if (s := self.probed.now(probe, subject, self.at_us))]
        return sorted(found, key=lambda s: OUTCOMES[s.outcome].usable)

    def _looks(self, probe: str, subject: str, window: Window) -> list[Sample]:
        return [s for s in self.probed.within(probe, subject, window) if s.outcome != "quota_kept"]

    def turns(self, subject: str) -> int:
        """How often has a provider become usable, or ceased to be: an outage that is over turns twice, and one that goes on, two looks that failed alike, has not turned."""
        window = Window.before(self.view.window.end, FLAPS_BACK)
        looks = [self._looks(probe, subject, window) for probe in ("liveness", "data")]
        newest = [s.outcome for s in sorted(chain(*looks), key=lambda s: s.ts_us)[-2:]]
        goes_on = len(newest) == 2 and len({*newest}) == 1 and not OUTCOMES[newest[0]].usable
        said = [[OUTCOMES[s.outcome].usable for s in found] for found in looks]
        return max(sum(a != b for a, b in zip(usable, usable[1:])) for usable in said) - goes_on

    def page_mixed(self, subject: str) -> int:
        """In how many of the last minutes, one of the newest two among them, did the page's requests to a provider fail beside others that did not? 0 where its availability is past no limit, and of fewer than an outage's begin and end can leave."""
        if not any(f.subject == subject for f in self._reached("availability")):
            return 0
        ends = [self.view.window.end - timedelta(minutes=m) for m in range(round(FLAPS_BACK.total_seconds() / 60))]
        rose = [[self.view.tape.rise(f"{subject}_{how}", Window.before(end, timedelta(minutes=1))) for how in ("failures", "successes")] for end in ends]
        mixed = [all(r) for r in rose]
        return sum(mixed) if any(mixed[:2]) and sum(mixed) > 2 else 0

    def both(self) -> Found:
        question, worst = "Does at least one provider serve?", [self.stands(s)[:1] for s in ("massive", "tradier")]
        if not all(worst):
            return Found(question, "not both are looked at.", None)
        out = [w[0].outcome for w in worst if not OUTCOMES[w[0].outcome].usable]
        turning = any(self.turns(s) > 2 for s in ("massive", "tradier"))
        down = len(out) == 2 and not turning
        return Found(question, f"no: massive {out[0]}, tradier {out[1]}." if down else "yes.", "both_providers_down" if down else "")

    @cached_property
    def _since_us(self) -> int:
        """Since when are the looks of now the same trouble? The newest time at which a provider was last well."""
        return max((s.ts_us for subject in ("massive", "tradier") for s in self.probed.within("liveness", subject, self.lately) if OUTCOMES[s.outcome].usable), default=self.lately.start_us)

    def provider(self, subject: str) -> Found:
        question, stands = f"Does {subject} answer what it is asked?", self.stands(subject)
        if not stands:
            return Found(question, "nobody looks at it.", None, subject)
        turns, worst = self.turns(subject), stands[0]
        over = Window.before(self.view.window.end, FLAPS_BACK) if turns > 2 else self.lately
        looks = [s for probe in ("liveness", "data") for s in self._looks(probe, subject, over)]
        bad = Counter(s.outcome for s in looks if not OUTCOMES[s.outcome].usable)
        told = ", ".join(f"{n} {name}" for name, n in bad.most_common(4))
        if OUTCOMES[worst.outcome].usable and (mixed := self.page_mixed(subject)):
            ours = f"of our looks {sum(bad.values())} failed ({told})" if bad else "each of our looks was answered"
            return Found(question, f"not always: the page's own requests failed beside others that did not, in {mixed} of {text.duration(FLAPS_BACK.total_seconds())}'s minutes; {ours}.", *_kind(bad, subject))
        if not bad and OUTCOMES[worst.outcome].usable:
            seconds = [s.seconds for s in stands if s.seconds is not None]
            return Found(question, f"yes{f', in {max(seconds):.2f} s' if seconds else ''}.", "", subject)
        if turns > 2:
            return Found(question, f"some of the time: of {len(looks)} looks in {text.duration(over.seconds)} {sum(bad.values())} failed ({told}).", *_kind(bad, subject))
        if OUTCOMES[worst.outcome].usable:
            return Found(question, f"yes, now; within {text.duration(BACK.total_seconds())} it did not ({told}).", "", subject)
        first = next(s.ts_us for s in looks if s.outcome == worst.outcome) if bad.get(worst.outcome) else worst.ts_us
        since = [s for s in looks if s.probe == worst.probe and s.ts_us >= first]
        agree = sum(s.outcome == worst.outcome for s in since) / len(since) if since else 1.0
        said = self.probed.told(worst).get("said")
        answer = f"no: {OUTCOMES[worst.outcome].words}{f', it says {text.one_line(said, 80)!r}' if said else ''} ({told or worst.outcome}). Fault: {OUTCOMES[worst.outcome].fault}."
        return Found(question, answer, OF_OUTCOME.get(worst.outcome, UNDETERMINED), subject, agree)

    def timeout(self) -> Found:
        question, gave_up_ms = "Does the app wait long enough for Massive?", self.probed.gave_up_after_ms(self.lately)
        if not self.probed.seen("log", "app"):
            return Found(question, "its log is not read.", None, "massive")
        p95 = measures.p95_s(self.probed, "massive", self.lately)
        if gave_up_ms is None or not self.probed.log_kinds(self.lately).get("timeout"):
            return Found(question, "it gives up on nothing.", "", "massive")
        short = p95 is not None and gave_up_ms / 1000 < LONG * p95 and all(OUTCOMES[s.outcome].usable for s in self.stands("massive"))
        return Found(question, f"it gives up after {gave_up_ms} ms, while we need {text.UNKNOWN if p95 is None else f'{p95:.2f} s'} (p95).", "our_timeout_too_short" if short else "", "massive")

    def _chains(self) -> dict[str, list[Sample]]:
        return self.probed.chains(Window.before(self.view.window.end, CHAINS_BACK))

    def chain_whole(self) -> Found:
        question, chains = "Are the chains whole?", self._chains()
        if not chains:
            return Found(question, "none was fetched.", None)
        broken = {symbol: c[-1] for symbol, c in chains.items() if c[-1].outcome != "ok"}
        known = {symbol: s for symbol, s in broken.items() if s.outcome in ("partial", "ok_empty", "stale")}
        if known:
            symbol, sample = next(iter(known.items()))
            return Found(question, f"no: that of {symbol}: massive {OUTCOMES[sample.outcome].words}.", OF_OUTCOME[sample.outcome], "massive")
        return Found(question, f"of {', '.join(broken)} the last could not be fetched." if broken else "yes.", None if broken else "")

    def greeks(self) -> Iterable[Found]:
        """By our own chains where there are any, else by what the page counted."""
        judged = {symbol: [self.probed.told(c) for c in chains if c.outcome == "ok" and "flagged" in self.probed.told(c)] for symbol, chains in self._chains().items()}
        judged = {symbol: told for symbol, told in judged.items() if told}
        kinds = (("gamma_zero", "greeks_gamma_zero", "Is gamma there?"), ("missing", "greeks_missing", "Are all Greeks there?"), ("delta_out_of_bounds", "greeks_out_of_bounds", "Are deltas possible?"))
        share = self.view.rules.chain.told_share
        for fault, cause, question in kinds:
            worst = max(((told[-1]["faults"].get(fault, 0) / max(told[-1]["core"], 1), symbol, told[-1]) for symbol, told in judged.items()), default=None, key=lambda w: w[0])
            page = next((f for f in self.view.findings if f.rule.name == fault and f.source == "page"), None)
            if worst is not None:
                bad = worst[0] > share
                rows = f"{worst[2]['faults'].get(fault, 0)} of {worst[2]['core']} tradable contracts of {worst[1]}"
                yield Found(question, f"no: {fault.replace('_', ' ')} in {rows}." if bad else f"yes ({rows} are not).", cause if bad else "", worst[1])
            elif page is not None and page.verdict != "unknown":
                bad = page.severity is not None
                yield Found(question, f"by the page: {page.sentence}.", cause if bad else "", "app", 1.0 if page.verdict == "critical" else 0.7)
            else:
                yield Found(question, "no chain was fetched, and the page says nothing.", None)
        yield self._units(judged)
        yield self._stress(judged)
        expiring = {symbol: told[-1]["expires_today"] for symbol, told in judged.items() if told[-1].get("expires_today")}
        yield Found("Does anything expire today?", ", ".join(f"{n} contracts of {s}" for s, n in expiring.items()) + "." if expiring else "no." if judged else "no chain was fetched.", ("expiry" if expiring else "") if judged else None)

    def _times(self, told: list[dict[str, Any]]) -> dict[str, float]:
        """How many times that of the first chain of the hour is each median of the last?"""
        before, now = told[0], told[-1]
        return {k: abs(now[f"median_{k}"] / before[f"median_{k}"]) for k in ("iv", "theta", "vega") if now.get(f"median_{k}") and before.get(f"median_{k}")}

    def _units(self, judged: dict[str, list[dict[str, Any]]]) -> Found:
        question, most = "Are the Greeks in their usual units?", self.view.rules.probes.changed_by
        if not judged:
            return Found(question, "no chain was fetched.", None)
        for symbol, told in judged.items():
            strange = {name: unit for name, unit in told[-1]["units"].items() if unit not in (None, USUAL[name])}
            times = self._times(told)
            moved = {k: t for k, t in times.items() if k != "iv" and (t > most or t < 1 / most)} if 1 / most <= times.get("iv", 0) <= most else {}
            few = told[-1]["faults"].get("units", 0)
            if few / max(told[-1]["core"], 1) > self.view.rules.chain.told_share and not strange and not moved:
                return Found(question, f"no: {few} of {told[-1]['core']} tradable contracts of {symbol} are in others than the rest.", "greeks_units", symbol)
            if strange or moved:
                return Found(question, f"no: {symbol} has {', '.join(f'{n} {u}' for n, u in strange.items()) or ', '.join(f'{k} {t:.3g} times that of before' for k, t in moved.items())}.", "greeks_units", symbol)
        return Found(question, "yes.", "")

    def _stress(self, judged: dict[str, list[dict[str, Any]]]) -> Found:
        question, most = "Has volatility changed?", self.view.rules.probes.changed_by
        known = {symbol: self._times(told).get("iv") for symbol, told in judged.items() if len(told) > 1}
        high = {symbol: t for symbol, t in known.items() if t is not None and (t > most or t < 1 / most)}
        if not known:
            return Found(question, "there is no earlier chain of this hour.", None)
        return Found(question, f"{', '.join(f'that of {s} is {t:.1f} times that of an earlier chain' for s, t in high.items())}, and its Greeks agree." if high else "no.", "market_stress" if high else "")

    def server(self) -> Found:
        question, stands, process = "Does the app's server run?", self.stands("app"), self.probed.now("process", "app", self.at_us)
        if not stands and process is None:
            return Found(question, "nobody looks at it.", None, "app")
        gone = process is not None and process.outcome == "gone"
        down = bool(stands) and OUTCOMES[stands[0].outcome].answered is False
        if gone or down:
            return Found(question, f"no: {'its process is gone' if gone else ''}{', ' if gone and down else ''}{'it ' + OUTCOMES[stands[0].outcome].words if down else ''}.", "app_down" if gone or len(stands) and stands[0].outcome in ("refused", "unreachable", "reset") else "app_slow", "app")
        if stands and not OUTCOMES[stands[0].outcome].usable:
            return Found(question, f"it {OUTCOMES[stands[0].outcome].words}.", None, "app")
        return Found(question, "yes.", "", "app")

    def restarted(self) -> Found:
        question, at = "Was the app's server started anew?", self.probed.restarts(self.lately)
        if not self.probed.seen("process", "app") and not self.probed.seen("health", "app"):
            return Found(question, "nobody looks at it.", None, "app")
        return Found(question, f"yes, at {clock.instant(at[-1]).astimezone(text.NEW_YORK):%H:%M:%S} New York." if at else "no.", "app_restarted" if at else "", "app")

    def slow(self) -> Found:
        question, p95, rule = "Is the app's server quick?", measures.p95_s(self.probed, "app", self.lately), self.view.rules["response_time"]
        if p95 is None:
            return Found(question, "not measured.", None, "app")
        slow = rule.past(p95, float(dict(rule.ladder)["warning"]))
        return Found(question, f"p95 {p95:.2f} s.", "app_slow" if slow else "", "app")

    def socket(self) -> Found:
        question, last = "Does the app's WebSocket work?", self.probed.now("socket", "app", self.at_us)
        down = self.view.figures["system"]["websocket_connected"]
        if last is None:
            told = {None: "nobody looks at it, and the page says nothing.", True: "yes, the page says.", False: "no, the page says."}[down]
            return Found(question, told, {None: None, True: "", False: "socket_closed"}[down], "app", 0.7)
        if OUTCOMES[last.outcome].usable:
            lost = down is False
            return Found(question, "yes, for us; the page's own is closed, and comes back only when it is refreshed." if lost else "yes.", "socket_closed" if lost else "", "app", 0.8 if lost else 1.0)
        told = self.probed.told(last)
        code = f", code {told['code']}" if "code" in told else f", HTTP {told['status']}" if "status" in told else ""
        cause = "socket_auth" if told.get("why") == NO_TOKEN else OF_SOCKET.get(last.outcome, UNDETERMINED)
        looks = [s for s in self.probed.within("socket", "app", self.lately) if not OUTCOMES[s.outcome].usable]
        agree = sum(OF_SOCKET.get(s.outcome) == cause for s in looks) / len(looks) if looks and cause in OF_SOCKET.values() else 1.0
        return Found(question, f"no: it {OUTCOMES[last.outcome].words}{code}.", cause, "app", agree)

    def skew(self) -> Found:
        question, limit = "Do all clocks agree?", self.view.rules.skew_told_s
        skews = {s: k for s in ("massive", "tradier", "app") if (k := self.probed.skew_s(s, self.at_us)) is not None}
        page = self.view.figures["system"].get("clock_skew_s")
        skews |= {"the page": page} if page is not None else {}
        off = {s: k for s, k in skews.items() if abs(k) > limit}
        if not skews:
            return Found(question, "nobody says.", None)
        return Found(question, f"{', '.join(f'{s} is {text.duration(abs(k))} off' for s, k in off.items())}." if off else "yes.", "clock_skew" if off else "", next(iter(off)) if off else None)

    def _reached(self, *names: str) -> list[Any]:
        return [f for f in self.view.findings if f.rule.name in names and f.severity is not None and f.counted]

    def _known(self, *names: str) -> bool:
        return any(f.rule.name in names and f.verdict != "unknown" for f in self.view.findings)

    def dashboard(self) -> Found:
        found = self._reached("dashboard_lag")
        return Found("Is what the dashboard shows new?", f"{found[0].sentence}." if found else "yes." if self._known("dashboard_lag") else "not measured.", "dashboard_slow" if found else "" if self._known("dashboard_lag") else None, "app")

    def memory(self) -> Found:
        found = self._reached("memory", "memory_growth")
        return Found("Does memory stay as it is?", f"{found[0].sentence}." if found else "yes." if self._known("memory", "memory_growth") else "not measured.", "memory_leak" if found else "" if self._known("memory", "memory_growth") else None, "app")

    def storm(self) -> Found:
        found = self._reached("errors")
        kinds = ", ".join(f"{k} {n}" for k, n in sorted(self.probed.log_kinds(self.lately).items(), key=lambda i: -i[1])[:3])
        return Found("Are errors few?", f"{found[0].sentence}{f' ({kinds})' if kinds else ''}." if found else "yes." if self._known("errors") else "not measured.", "error_storm" if found else "" if self._known("errors") else None, "app")

    def costs(self) -> list[Found]:
        return [Found("Do results keep what the backtest promised?", a.words, a.cause, a.subject, a.agree) for a in attribution.answers(self.view)]
