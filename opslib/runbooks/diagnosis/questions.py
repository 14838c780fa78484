"""
Ask the questions that decide what the fault of a moment is; each answer carries its source and the time it rests on.

What nobody observed answers nothing: its cause is None. A cause needs `least` probes, or one probe and another source.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from itertools import chain, pairwise, takewhile
from typing import TYPE_CHECKING, Any

from opslib.alerting import evaluation, probe_figures
from opslib.alerting.causes import OF_LOG, OF_OUTCOME, OF_RULE, OF_SOCKET, PRODUCES, UNDETERMINED
from opslib.alerting.verdicts import Finding
from opslib.foundation import clock, formatting
from opslib.foundation.clock import Window
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.runbooks.diagnosis import cost_questions, denials, monitoring_questions
from opslib.runbooks.diagnosis.answers import Found
from opslib.runbooks.diagnosis.chain_questions import ChainInquiry
from opslib.telemetry import app_state, clock_skew
from opslib.telemetry.probes.history import KEPT, ProbeHistory
from opslib.telemetry.probes.outcomes import OUTCOMES, TRANSPORT
from opslib.telemetry.probes.store import Sample
from opslib.telemetry.probes.websocket import NO_TOKEN, NOT_SERVED

if TYPE_CHECKING:
    from opslib.dashboard.status import Status

BACK = timedelta(minutes=5)  # What is the matter now is read from so far back.
FLAPS_BACK = timedelta(minutes=10)  # One that fails one look in twenty must be seen to fail twice.
RESTARTS_BACK = timedelta(hours=1)
LATELY_MINUTES = 2  # A page whose requests failed in none of so many minutes has recovered.
LONG = 10.0  # So many times longer than we need for an answer is long.
GENERAL = frozenset({"log:other_error", "log:access_5xx"})  # Kinds of errors that say nothing of their cause.
# Their errors are of general kinds.
LOGS_GENERALLY = (
    "provider_wrong_content",
    "provider_empty",
    "provider_intermittent",
    "our_network",
    "app_down",
    "app_restarted",
    "app_slow",
)
# The app takes far longer than the providers in the same minutes, which nothing that is ours makes.
SLOWER = "app:slower"
AT_TIMES = 0.7  # How far slow answers that come at times are believed.
BY_BOTH, BY_LOG = 0.9, 0.7  # How far the log is believed of a refusal that our own probes met as well, and alone.
MINUTE_US = 60_000_000
POSTED_WITHIN_US = 10_000_000  # A post may count requests of so long before it.
# Of these no request succeeds.
UNSERVED = ("provider_5xx", "provider_timeout", "provider_refused", "provider_dns", "provider_tls")
# Of a provider: whether it is there, gives new data, and what its plan covers.
PROBES = ("liveness", "data", "options")
PROVIDER_CAUSES = tuple(dict.fromkeys((*OF_OUTCOME.values(), "provider_intermittent")))
# Of each question that names none itself: whose answer it is, and which causes it excludes where it found no fault.
SOURCES = {"monitor": "probe", "market": "calendar", "network": "probe", "skew": "probe", "costs": "page"}
EXCLUDES = {
    "monitor": ("monitor_down",),
    "market": ("market_closed",),
    "network": ("our_network",),
    "both": ("both_providers_down", "our_network"),
    "server": ("app_down",),
    "restarted": ("app_restarted",),
    "slow": ("app_slow",),
    "skew": ("clock_skew",),
    "timeout": ("our_timeout_too_short",),
    "dashboard": ("dashboard_slow",),
    "memory": ("memory_leak",),
    "storm": ("error_storm",),
    "costs": ("costs_commission", "costs_spread", "costs_fill_quality", "costs_size", "too_few_trades"),
}
# The probes whose newest sample dates an answer.
DATED = {
    "monitor": (("beat", "collector"),),
    "market": (("liveness", "massive"), ("liveness", "tradier")),
    "network": (("liveness", "massive"), ("liveness", "tradier")),
    "both": (("liveness", "massive"), ("liveness", "tradier")),
    "server": (("health", "app"), ("metrics", "app"), ("process", "app")),
    "restarted": (("health", "app"), ("process", "app")),
    "slow": (("health", "app"),),
    "skew": (("liveness", "massive"), ("liveness", "tradier"), ("health", "app")),
    "timeout": (("log", "app"),),
}


def _kind(bad: Counter[str], most: float) -> tuple[str, float]:
    """
    What is it that fails now and then, and which share of the failures says so?

    The kind of most of them; where no kind has so many, or no probe met it, only that it comes and goes.
    """
    kinds = Counter(
        "provider_intermittent" if name == "reset" else OF_OUTCOME.get(name, "provider_intermittent")
        for name in bad.elements()
    )
    (cause, count), *_ = kinds.most_common(1) or [("provider_intermittent", 0)]
    if len(kinds) == 1:
        return (cause, 1.0)
    if count and count >= most * kinds.total():
        return (cause, count / kinds.total())
    return ("provider_intermittent", 1.0 if kinds else 0.9)


class Questions:
    """The questions, in the order in which what they find explains the rest away."""

    def __init__(self, view: "Status"):
        self.view = view
        self.probed, self.at_us = view.probed or ProbeHistory(), view.window.end_us
        self.lately, self.flaps = Window.before(view.window.end, BACK), Window.before(view.window.end, FLAPS_BACK)
        self.least = round(view.rules.diagnosis.least_probes)
        self.chains = ChainInquiry(view, self.probed, self.judged, self.least)

    @cached_property
    def judged(self) -> list[Finding]:
        """
        What every rule amounts to at the end of the view, each over its own window; budgets look back further than a
        view does.
        """
        return evaluation.evaluate_rules(
            self.view.tape,
            self.view.rules.without_budgets(),
            self.view.window.end,
            self.probed if self.probed.any else None,
        )

    def asked(self) -> tuple[list[Found], list[Found]]:
        """Every answer: of what everything else is observed through, and of everything else."""
        providers = [found for subject in PROVIDERS for found in self.provider(subject)]
        through = [
            *self._dated("monitor"),
            *self._dated("starved"),
            *self._dated("market"),
            *self._dated("network"),
            *self._dated("both", providers),
        ]
        # Our own few probes may miss what the log shows.
        logs = {subject: found for subject in PROVIDERS if (found := self.by_log(subject))}
        providers = [
            f._replace(excludes=tuple(c for c in f.excludes if c != logs[f.subject].cause)) if f.subject in logs else f
            for f in providers
        ]
        answers = [
            *self._dated("server"),
            *providers,
            *logs.values(),
            *self._dated("timeout"),
            self.chains.whole(),
            self.chains.listed(),
            *self.chains.greeks(),
            *self._dated("restarted"),
            *self.socket(),
        ]
        answers += [answer for name in ("slow", "skew", "dashboard", "memory") for answer in self._dated(name)]
        return through, [*answers, *self._dated("storm", [*through, *answers]), *self._dated("costs")]

    def _dated(self, name: str, *given: Any) -> list[Found]:
        """
        The answers to a question, with their source, the time of what they rest on, and what they exclude, where they
        name none themselves.
        """
        found = getattr(self, name)(*given)
        newest = [
            s.ts_us for probe, subject in DATED.get(name, ()) if (s := self.probed.now(probe, subject, self.at_us))
        ]
        at_us = max(newest, default=self.at_us) if name in DATED else self._page_us
        answers = []
        for answer in [found] if isinstance(found, Found) else found:
            own_us = at_us if answer.at_us is None else answer.at_us
            answers.append(
                answer._replace(
                    source=answer.source or SOURCES.get(name, "probe"),
                    at_us=None if answer.cause is None else own_us,
                    excludes=answer.excludes or EXCLUDES.get(name, ()),
                )
            )
        return answers

    @property
    def _page_us(self) -> int | None:
        return self.view.tape.last_seen_us(self.at_us)

    def monitor(self) -> Found:
        """Whether our collector looks."""
        question, rule = "Does our collector look?", self.view.rules["heartbeat"]
        missed = self.probed.missed_beats(self.at_us)
        if missed is None:
            return Found(question, "it was stopped, or never ran.", None)
        dead = rule.past(missed, float(dict(rule.ladder)["warning"]))
        beats = self.probed.within("beat", "collector", Window.before(self.view.window.end, FLAPS_BACK))
        return Found(
            question,
            f"it has missed {missed:,.0f} beats." if dead else "yes.",
            "monitor_down" if dead else "",
            at_us=beats[-1].ts_us if beats else None,
        )

    def starved(self) -> Found:
        """Whether our collector had the time to look."""
        return monitoring_questions.collector(self.probed, self.view.rules.probes, self.at_us)

    def market(self) -> Found:
        """Whether the market is open, by the calendar and by what the providers say."""
        return monitoring_questions.market(self.probed, self.at_us)

    def network(self) -> Found:
        """Whether our own network works."""
        gone = self.probed.network_gone(self.at_us)
        told, cause = {
            None: ("fewer than two providers are looked at.", None),
            True: ("no: neither provider can even be connected to.", "our_network"),
            False: ("yes.", ""),
        }[gone]
        return Found("Does our own network work?", told, cause)

    def stands(self, subject: str) -> list[Sample]:
        """The last probe of each kind of a subject, the worst first."""
        found = [s for probe in (*PROBES, "health", "metrics") if (s := self.probed.now(probe, subject, self.at_us))]
        return sorted(found, key=lambda s: OUTCOMES[s.outcome].usable)

    def _looks(self, probe: str, subject: str, window: Window) -> list[Sample]:
        return [s for s in self.probed.within(probe, subject, window) if s.outcome != KEPT]

    def _run(self, probe: str, subject: str) -> list[Sample]:
        """The newest probes that all ended as the last one did, which was not usable; none where it was."""
        now = self.probed.now(probe, subject, self.at_us)
        if now is None or OUTCOMES[now.outcome].usable:
            return []
        return list(
            takewhile(
                lambda s: s.outcome == now.outcome,
                (s for s in reversed(self._looks(probe, subject, self.flaps)) if s.last),
            )
        )

    def turns(self, subject: str) -> int:
        """
        How often has a provider become usable, or ceased to be: an outage that is over turns twice, and one that goes
        on, two looks that failed alike, has not turned.
        """
        looks = [self._looks(probe, subject, self.flaps) for probe in PROBES]
        newest = [s.outcome for s in sorted(chain(*looks), key=lambda s: s.ts_us)[-2:]]
        goes_on = len(newest) == 2 and len({*newest}) == 1 and not OUTCOMES[newest[0]].usable
        said = [[OUTCOMES[s.outcome].usable for s in found] for found in looks]
        return max(sum(a != b for a, b in pairwise(usable)) for usable in said) - goes_on

    def _in_spells(self, subject: str) -> bool:
        """
        Whether a provider fails for a while and is well for a while, rather than at any request: it turns far less
        often than by chance.
        """
        said = [OUTCOMES[s.outcome].usable for s in self._looks("liveness", subject, self.flaps)]
        share = said.count(False) / max(1, len(said))
        return sum(a != b for a, b in pairwise(said)) < self.view.rules.diagnosis.spells_below * 2 * len(
            said
        ) * share * (1 - share)

    def _requests(self, subject: str) -> list[tuple[int, int]]:
        """
        The page's requests of a provider that failed, and that succeeded, in each of the last minutes, the newest
        first.
        """
        ends = [self.view.window.end - timedelta(minutes=m) for m in range(round(FLAPS_BACK.total_seconds() / 60))]
        rises = [
            [
                self.view.tape.rise(f"{subject}_{how}", Window.before(end, timedelta(minutes=1)))
                for how in ("failures", "successes")
            ]
            for end in ends
        ]
        return [(failed or 0, served or 0) for failed, served in rises]

    def by_page(self, subject: str) -> Found | None:
        """Whether the page's own requests of a provider succeed; None where the page says nothing."""
        question, found = (
            f"Do the app's own requests of {subject} succeed?",
            self._finding("availability", subject, "page"),
        )
        if found is None or found.verdict == "unknown":
            return None
        answer = Found(
            question,
            f"{found.sentence}.",
            "",
            subject,
            1.0,
            "page",
            self._page_us,
            symptoms=frozenset({"page:availability"}),
        )
        minutes = self._requests(subject)
        failed, served = (sum(n[i] for n in minutes[:LATELY_MINUTES]) for i in (0, 1))
        if found.severity is None:
            return answer
        if not failed:
            return answer._replace(
                answer=f"yes, now: none failed in the last {LATELY_MINUTES} min, though {found.sentence}."
            )
        if until_us := self._network_explains(minutes):
            return answer._replace(
                answer=f"yes, now: they failed while our own network was gone, until "
                f"{clock.instant(until_us).astimezone(formatting.NEW_YORK):%H:%M:%S} New York, though {found.sentence}."
            )
        failing = list(takewhile(lambda n: n[0], minutes))
        answer = answer._replace(since_us=self.at_us - len(failing) * MINUTE_US)
        if mixed := self._mixed(minutes):
            return answer._replace(
                answer=f"not always: they failed beside others that did not, in {mixed} of "
                f"{formatting.duration(FLAPS_BACK.total_seconds())}'s minutes.",
                cause="provider_intermittent",
                agree=0.9,
            )
        if served:
            return answer._replace(answer=f"not always, of late: {found.sentence}.", cause=UNDETERMINED)
        kinds = Counter({OF_LOG[k]: n for k, n in self.probed.log_kinds(self.lately).items() if k in OF_LOG})
        if kinds and (most := kinds.most_common(1)[0]) and most[1] >= self.least:
            return answer._replace(
                answer=f"no: {found.sentence}; its log says "
                f"{most[0].removeprefix('provider_').replace('_', ' ')} {most[1]} times.",
                cause=most[0],
                agree=most[1] / kinds.total(),
                source="logs",
            )
        return answer._replace(answer=f"no: {found.sentence}.", cause=UNDETERMINED)

    def by_log(self, subject: str) -> Found | None:
        """
        Whether a provider refuses the app by the app's own log, of answers that the page does not count; None where it
        says nothing of that.
        """
        refused = denials.of_log(self.probed.within("log", "app", self.flaps), subject)
        own = Counter(
            OF_OUTCOME[s.outcome]
            for probe in PROBES
            for s in self._looks(probe, subject, self.flaps)
            if s.outcome in OF_OUTCOME
        )
        own = Counter({cause: n for cause, n in own.items() if cause in denials.CAUSES})
        if not refused or refused.count + own.total() < self.least:
            return None
        # Whose key is accepted by our probes is refused by its plan.
        cause, agree = (own.most_common(1)[0][0], BY_BOTH) if own else (refused.cause or "provider_plan", BY_LOG)
        answer = (
            f"{refused.count} requests of the app refused in {formatting.duration(FLAPS_BACK.total_seconds())},"
            f" the last with {refused.line!r}."
        )
        return Found(
            f"Does {subject} refuse the app, by its log?",
            answer,
            cause,
            subject,
            agree,
            "logs",
            refused.at_us,
            refused.since_us,
            frozenset({"log:auth"}),
        )

    def _network_gone(self, window: Window) -> list[int]:
        """
        The times of a window at which our own network was gone, by the probes of Massive that could not connect then;
        none of fewer than a cause needs.
        """
        failed = [s.ts_us for s in self._looks("liveness", "massive", window) if s.last and s.outcome in TRANSPORT]
        gone = [at_us for at_us in failed if self.probed.network_gone(at_us)]
        return gone if len(gone) >= self.least else []

    def _network_explains(self, minutes: Sequence[tuple[int, int]]) -> int | None:
        """
        Until when our own network was gone, where it is back and explains each minute in which requests of the page
        failed; else None.
        """
        gone = self._network_gone(self.flaps)
        if not gone or self.probed.network_gone(self.at_us):
            return None
        # Requests that were under way end later, and posts tell of them later still.
        first_us, last_us = gone[0] - MINUTE_US, gone[-1] + 2 * MINUTE_US
        failing = [
            (self.at_us - (i + 1) * MINUTE_US, self.at_us - i * MINUTE_US)
            for i, (failed, _) in enumerate(minutes)
            if failed
        ]
        return gone[-1] if all(end_us > first_us and start_us < last_us for start_us, end_us in failing) else None

    @staticmethod
    def _mixed(minutes: Sequence[tuple[int, int]]) -> int:
        """
        In how many minutes some requests failed beside others that did not; 0 of fewer than an outage's begin and end
        can leave, or of none of late.
        """
        mixed = [bool(failed and served) for failed, served in minutes]
        return sum(mixed) if any(mixed[:LATELY_MINUTES]) and sum(mixed) > 2 else 0

    def provider(self, subject: str) -> list[Found]:
        """Whether a provider gives what it is asked for: by our own probes, then by what the page counted."""
        question, stands, page = f"Does {subject} answer what it is asked?", self.stands(subject), self.by_page(subject)
        by_page = [page] if page else []
        if not stands:
            return [Found(question, "it is not probed.", None, subject), *by_page]
        turns, newest = self.turns(subject), max(s.ts_us for s in stands)
        looks = [s for probe in PROBES for s in self._looks(probe, subject, self.flaps if turns > 2 else self.lately)]
        bad = Counter(s.outcome for s in looks if not OUTCOMES[s.outcome].usable)
        told = ", ".join(f"{n} {name}" for name, n in bad.most_common(4))
        well = Found(
            question, "yes.", "", subject, 1.0, "probe", newest, excludes=("both_providers_down", "our_network")
        )
        runs = [self._run(probe, subject) for probe in PROBES]
        steady = max(runs, key=len)
        page_fails = page is not None and bool(page.cause)
        confirmed = len(steady) >= self.least or (bool(steady) and (page_fails or sum(map(bool, runs)) >= self.least))
        flapping = turns > 2 and sum(bad.values()) >= self.least
        spells = flapping and self._in_spells(subject)
        if flapping and not (confirmed and self._apart(steady[0].outcome, runs, looks)):
            cause, agree = (
                ("provider_intermittent", 1.0)
                if spells and all(OUTCOMES[name].answered is False for name in bad)
                else _kind(bad, self.view.rules.diagnosis.main_kind)
            )
            answer = (
                f"some of the time{', in spells' if spells else ''}: of {len(looks)} looks in "
                f"{formatting.duration(FLAPS_BACK.total_seconds())} {sum(bad.values())} failed ({told})."
            )
            return [
                well._replace(
                    answer=answer,
                    cause=cause,
                    agree=agree,
                    symptoms=frozenset(bad),
                    since_us=min(s.ts_us for s in looks if not OUTCOMES[s.outcome].usable),
                ),
                *by_page,
            ]
        if confirmed:
            found = self._steadily(well, steady, stands, bad)
            return [found, *(self._held_against(answer, found) for answer in by_page)]
        if steady:
            return [
                well._replace(
                    answer=f"not at the last probe: {OUTCOMES[steady[0].outcome].words}. One probe is not "
                    f"enough to tell.",
                    cause=None,
                ),
                *by_page,
            ]
        if bad and page_fails:
            cause, agree = _kind(bad, self.view.rules.diagnosis.main_kind)
            return [
                well._replace(
                    answer=f"not always: of our own probes {sum(bad.values())} failed ({told}).",
                    cause=cause,
                    agree=agree,
                    symptoms=frozenset(bad),
                ),
                *by_page,
            ]
        if bad:
            return [
                well._replace(
                    answer=f"yes, now; within {formatting.duration(BACK.total_seconds())} it did not ({told})."
                ),
                *by_page,
            ]
        seconds = [s.seconds for s in stands if s.seconds is not None]
        blind = (
            ("provider_partial",)
            if page is None or page.cause != "provider_intermittent"
            else ("provider_partial", "provider_intermittent")
        )
        # A probe of a few contracts does not see that others are gone.
        excluded = tuple(c for c in PROVIDER_CAUSES if c not in blind)
        return [
            well._replace(
                answer=f"yes{f', in {max(seconds):.2f} s' if seconds else ''}.", excludes=(*well.excludes, *excluded)
            ),
            *by_page,
        ]

    def _held_against(self, page: Found, ours: Found) -> Found:
        """
        The page's answer, as evidence against ours where its requests went on to succeed, and none failed, since our
        probes began to fail.
        """
        since = Window(
            clock.instant(min(self.at_us, (ours.since_us or self.at_us) + POSTED_WITHIN_US)), self.view.window.end
        )
        served, failed = (self.view.tape.rise(f"{ours.subject}_{how}", since) or 0 for how in ("successes", "failures"))
        if page.cause or failed or served < self.least:
            return page
        return page._replace(
            answer=f"yes: {served} since our own probes began to fail, and none failed.",
            excludes=(*UNSERVED, "both_providers_down"),
        )

    def _apart(self, outcome: str, runs: list[list[Sample]], looks: list[Sample]) -> bool:
        """Whether one kind of probe fails each time, in a way that those which come and go do not."""
        steady = max(runs, key=len)[0].probe
        return not any(s.outcome == outcome for s in looks if s.probe != steady) and not any(
            OUTCOMES[s.outcome].usable for s in looks if s.probe == steady
        )

    def _steadily(self, well: Found, run: list[Sample], stands: list[Sample], bad: Counter[str]) -> Found:
        """A provider that has failed at each of the last probes."""
        worst, first = run[0], run[-1].ts_us
        outcome, subject = OUTCOMES[worst.outcome], well.subject or ""
        streak = list(
            takewhile(
                lambda s: not OUTCOMES[s.outcome].usable, reversed(self._looks(worst.probe, subject, self.lately))
            )
        )
        since = [
            s for s in streak if s.ts_us >= min((s.ts_us for s in streak if s.outcome == worst.outcome), default=first)
        ]
        agree = sum(s.outcome == worst.outcome for s in since) / len(since) if since else 1.0
        cause = OF_OUTCOME.get(worst.outcome, UNDETERMINED)
        if worst.outcome == "denied_403":  # Whose key and address are accepted elsewhere is refused by its plan.
            cause = "provider_plan" if any(OUTCOMES[s.outcome].usable for s in stands) else "provider_ip_blocked"
            agree = agree / 2
        said, told = self.probed.told(worst).get("said"), ", ".join(f"{n} {name}" for name, n in bad.most_common(4))
        answer = (
            f"no: {outcome.words}{f', it says {formatting.single_line(said, 80)!r}' if said else ''} "
            f"({told or worst.outcome}). Fault: {outcome.fault}."
        )
        return well._replace(
            answer=answer,
            cause=cause,
            agree=agree,
            at_us=worst.ts_us,
            since_us=first,
            symptoms=frozenset({worst.outcome}),
        )

    def both(self, providers: Sequence[Found]) -> Found:
        """Whether at least one provider serves: a page is asked only of a provider that is not probed."""
        question = "Does at least one provider serve?"
        own = dict[str, Found | None]()
        for subject in PROVIDERS:
            found = [f for f in providers if f.subject == subject]
            own[subject] = next(
                (f for f in (found[:1] if self.stands(subject) else found) if f.cause is not None), None
            )
        if not all(own.values()):
            return Found(question, "not both are looked at.", None)
        down = {s: f for s, f in own.items() if f and f.cause}
        if len(down) < len(PROVIDERS):
            return Found(question, "yes.", "")
        kinds = {f.cause for f in down.values()}
        answer = f"no: {', '.join(f'{s} {chr(32).join(sorted(f.symptoms))}' for s, f in down.items())}."
        return Found(
            question,
            answer,
            "both_providers_down",
            None,
            min(f.agree for f in down.values()),
            symptoms=frozenset(
                chain(*(f.symptoms for f in down.values()), ["both_providers_down"] if len(kinds) > 1 else [])
            ),
            since_us=max(f.since_us or self.at_us for f in down.values()),
        )

    def timeout(self) -> Found:
        """Whether the app waits long enough for Massive."""
        question, gave_up_ms = "Does the app wait long enough for Massive?", self.probed.gave_up_after_ms(self.lately)
        if not self.probed.seen("log", "app"):
            return Found(question, "its log is not read.", None, "massive", source="logs")
        p95, count = (
            probe_figures.p95_s(self.probed, "massive", self.lately),
            self.probed.log_kinds(self.lately).get("timeout", 0),
        )
        if gave_up_ms is None or count < self.least:
            return Found(question, "it gives up on nothing.", "", "massive", source="logs")
        short = (
            p95 is not None
            and gave_up_ms / 1000 < LONG * p95
            and all(OUTCOMES[s.outcome].usable for s in self.stands("massive"))
        )
        return Found(
            question,
            f"it gives up after {gave_up_ms} ms, while we need "
            f"{formatting.UNKNOWN if p95 is None else f'{p95:.2f} s'} (p95).",
            "our_timeout_too_short" if short else "",
            "massive",
            source="logs",
        )

    def server(self) -> Found:
        """
        Whether the app's server runs: by the newest of all that asked it, and by its process where no newer answer
        contradicts that.
        """
        question, process = "Does the app's server run?", self.probed.now("process", "app", self.at_us)
        asked = sorted(
            (s for probe in ("health", "metrics") for s in self._looks(probe, "app", self.lately) if s.last),
            key=lambda s: s.ts_us,
        )
        if not self.stands("app") and process is None:
            return Found(question, "nobody looks at it.", None, "app")
        run = (
            list(takewhile(lambda s: OUTCOMES[s.outcome].answered is False, reversed(asked)))
            if self.stands("app")
            else []
        )
        gone = [
            s
            for s in self._run("process", "app")
            if s.outcome == "gone" and not (asked and not run and asked[-1].ts_us >= s.ts_us)
        ]
        if len(run) + len(gone) >= self.least:
            names = Counter(s.outcome for s in run)
            words = [
                *(["its process is gone"] if gone else []),
                *([f"it {OUTCOMES[names.most_common(1)[0][0]].words}"] if names else []),
            ]
            symptoms = frozenset(f"app:{name}" for name in (*names, *(["gone"] if gone else [])))
            return Found(
                question,
                f"no: {', '.join(words)}.",
                "app_down",
                "app",
                symptoms=symptoms,
                since_us=min(s.ts_us for s in (*run, *gone)),
            )
        if run or gone:
            return Found(
                question,
                f"not at the last probe ({(run or gone)[0].outcome}). One probe is not enough to tell.",
                None,
                "app",
            )
        if asked and not OUTCOMES[asked[-1].outcome].usable:
            return Found(question, f"it {OUTCOMES[asked[-1].outcome].words}.", None, "app")
        return Found(question, "yes.", "", "app")

    def restarted(self) -> Found:
        """Whether the app's server was started anew."""
        question, at = "Was the app's server started anew?", self.probed.restarts(self.lately)
        if not self.probed.seen("process", "app") and not self.probed.seen("health", "app"):
            return Found(question, "nobody looks at it.", None, "app")
        before = at or self.probed.restarts(Window.before(self.view.window.end, RESTARTS_BACK))
        when = f"at {clock.instant(before[-1]).astimezone(formatting.NEW_YORK):%H:%M:%S} New York" if before else ""
        if at:
            told = f"yes, {when}."
        elif before:
            told = f"yes, {when}, longer than {formatting.duration(BACK.total_seconds())} ago."
        else:
            told = "no."
        return Found(question, told, "app_restarted" if at else "", "app", since_us=at[-1] if at else None)

    def slow(self) -> Found:
        """
        Whether one in twenty of the app's answers took longer than is critical, or did not come; of fewer than the
        rule's least count nothing is said.
        """
        question, rule = (
            "Is the app's server quick?",
            self.view.rules.rules.get("app_response_time") or self.view.rules["response_time"],
        )
        limit, seconds = float(dict(rule.ladder)["critical"]), self.probed.seconds("app", self.lately)
        late = sum(s.outcome == "timeout" for s in self._looks("health", "app", self.lately))
        if not seconds or len(seconds) + late < rule.min_count:
            return Found(
                question,
                f"too few probes to tell ({len(seconds) + late} of {rule.min_count})."
                if seconds or late
                else "not measured.",
                None,
                "app",
            )
        slow = (late + sum(rule.past(s, limit) for s in seconds)) > probe_figures.LATE_SHARE * (len(seconds) + late)
        if not slow and (found := self._slow_at_times(limit)):
            return Found(
                question,
                f"not always: {found} answers took longer than {limit:g} s in "
                f"{formatting.duration(FLAPS_BACK.total_seconds())}, and no provider's did.",
                "app_slow",
                "app",
                AT_TIMES,
            )
        if slow and monitoring_questions.slow_everywhere(self.probed, rule, self.lately):
            return Found(
                question,
                "no, nor is any other: both providers and the app are slow at once, and what they share is "
                "our own network.",
                "our_network",
                symptoms=frozenset({"latency"}),
            )
        own_s, others_s = (
            max(
                (s for subject in of if (s := probe_figures.p95_s(self.probed, subject, self.lately)) is not None),
                default=None,
            )
            for of in (("app",), PROVIDERS)
        )
        apart = (
            slow
            and own_s is not None
            and others_s is not None
            and rule.past(own_s, limit)
            and own_s > self.view.rules.diagnosis.slow_times * others_s
        )
        answer = (
            f"p95 {own_s or 0.0:.2f} s{f', and {late} not in time' if late else ''}"
            f"{f', while the providers take {others_s:.2f} s' if apart else ''}."
        )
        return Found(
            question, answer, "app_slow" if slow else "", "app", symptoms=frozenset({SLOWER}) if apart else frozenset()
        )

    def _slow_at_times(self, limit_s: float) -> int:
        """
        How many answers of the app took longer than is critical; 0 of too few, and where a provider was as slow
        meanwhile.
        """
        slow = {
            subject: sum(s > limit_s for s in self.probed.seconds(subject, self.flaps, "data", "metrics", "upstream"))
            for subject in ("app", *PROVIDERS)
        }
        return slow["app"] if slow["app"] > self.least and not any(slow[subject] for subject in PROVIDERS) else 0

    def socket(self) -> list[Found]:
        """Whether the app's WebSocket works: by our own, then by the page's."""
        question, last, rule = (
            "Does the app's WebSocket work?",
            self.probed.now("socket", "app", self.at_us),
            self.view.rules["websocket_down"],
        )
        down_s = (
            self.view.figures["system"]["websocket_down_for_s"]
            if self.view.figures["system"]["websocket_connected"] is not None
            else None
        )
        page = list[Found]()
        if down_s is not None:
            lost = down_s >= rule.holds["warning"].total_seconds()
            cause: str | None = None
            if not down_s:
                told, cause = "yes.", ""
            elif lost:
                cause = "socket_closed"
                told = (
                    f"no: closed for {formatting.duration(down_s)}, and it comes back only when the page is refreshed."
                )
            else:
                told = f"closed for {formatting.duration(down_s)}, which is too short to tell."
            page = [
                Found(
                    "Does the page's own WebSocket work?",
                    told,
                    cause,
                    "app",
                    0.8,
                    "page",
                    self._page_us,
                    self.at_us - round(down_s * 1e6),
                    frozenset({"page:websocket"}),
                )
            ]
        left = app_state.left_behind(self.view.tape, self.probed, self.at_us) if not down_s else None
        if left is not None:
            told = f"no, though its flag says so: {app_state.left_note(self.at_us, left[0])}."
            page = [
                Found(
                    "Does the page's own WebSocket work?",
                    told,
                    "socket_silent",
                    "app",
                    0.95,
                    "page",
                    self._page_us,
                    self.at_us - round(left[0] * 1e6),
                    frozenset({"socket:silent"}),
                )
            ]
        if last is None:
            upstream = self.probed.now("upstream", "app", self.at_us)
            if (
                upstream is not None
                and self.probed.told(upstream)["state"] in NOT_SERVED
                and (upstream.value or 0) > 0
                and self.probed.open_since(self.at_us) is not None
            ):
                told = (
                    f"no: {app_state.upstream(self.probed, self.at_us)}, with {upstream.value:.0f} clients "
                    f"connected to it."
                )
                return [
                    Found(
                        question,
                        told,
                        "socket_silent",
                        "app",
                        0.7,
                        "probe",
                        upstream.ts_us,
                        symptoms=frozenset({"socket:silent"}),
                    ),
                    *page,
                ]
            return page or [Found(question, "nobody looks at it, and the page says nothing.", None, "app")]
        if OUTCOMES[last.outcome].usable:
            return [
                Found(
                    question,
                    "yes, ours.",
                    "",
                    "app",
                    1.0,
                    "probe",
                    last.ts_us,
                    excludes=("socket_auth", "socket_blocked")
                    if left
                    else ("socket_silent", "socket_auth", "socket_blocked"),
                ),
                *page,
            ]
        failed = list(
            takewhile(
                lambda s: not OUTCOMES[s.outcome].usable, reversed(self.probed.within("socket", "app", self.lately))
            )
        )
        if len(failed) < self.least and not any(p.cause for p in page):
            return [
                Found(question, f"it {OUTCOMES[last.outcome].words}, at one probe: not enough to tell.", None, "app"),
                *page,
            ]
        detail, note = self.probed.told(last), app_state.socket_note(self.probed, self.at_us)
        code = ""
        if "code" in detail:
            code = f", code {detail['code']}"
        elif "status" in detail:
            code = f", HTTP {detail['status']}"
        symptom = self._of_socket(last)
        cause = OF_SOCKET.get(symptom, UNDETERMINED)
        agree = (
            sum(OF_SOCKET.get(self._of_socket(s)) == cause for s in failed) / len(failed)
            if failed and cause != UNDETERMINED
            else 1.0
        )
        return [
            Found(
                question,
                f"no: it {OUTCOMES[last.outcome].words}{code}{f': {note}' if note else ''}.",
                cause,
                "app",
                agree,
                "probe",
                last.ts_us,
                failed[-1].ts_us if failed else None,
                frozenset({f"socket:{symptom}"}),
            ),
            *page,
        ]

    @staticmethod
    def _of_socket(sample: Sample) -> str:
        """How a probe of the socket failed, as `OF_SOCKET` names it."""
        why = str(sample.told().get("why", ""))
        if why == NO_TOKEN:
            return "no_token"
        if sample.outcome == "timeout" and "upgrade" in why:
            return "upgrade"
        return sample.outcome

    def skew(self) -> list[Found]:
        """Whether the clocks of all parties agree."""
        return monitoring_questions.clocks(
            clock_skew.parties(self.probed, self.view.figures["system"], self.at_us), self.view.rules.skew_told_s
        )

    def _finding(self, rule: str, subject: str, source: str) -> Finding | None:
        return next((f for f in self.judged if (f.rule.name, f.subject, f.source) == (rule, subject, source)), None)

    def _rule(self, question: str, cause: str, *names: str) -> Found:
        """
        What some rules say of the app: the first that is past a limit, else that none is, else that nobody measures.
        """
        mine = [f for f in self.judged if f.rule.name in names]
        reached = next((f for f in mine if f.severity is not None and f.counted), None)
        if reached:
            return Found(
                question,
                f"{reached.sentence}.",
                cause,
                "app",
                source=reached.source,
                at_us=self._page_us if reached.source == "page" else self.at_us,
            )
        known = next((f for f in mine if f.verdict != "unknown"), None)
        return Found(
            question,
            "yes." if known else "not measured.",
            "" if known else None,
            "app",
            source=known.source if known else "",
        )

    def dashboard(self) -> Found:
        """Whether what the dashboard shows is new."""
        return self._rule("Is what the dashboard shows new?", "dashboard_slow", "dashboard_lag")

    def memory(self) -> Found:
        """Whether the app's memory stays as it is."""
        return self._rule("Does memory stay as it is?", "memory_leak", "memory", "memory_growth")

    def storm(self, faults: Sequence[Found]) -> Found:
        """Whether errors are few, without those that the other faults produce, as far as the log tells kinds apart."""
        found, rule = self._rule("Are errors few?", "error_storm", "errors"), self.view.rules["errors"]
        if not found.cause:
            return found
        limit, over, logs = (
            float(rule.ladder[0][1]),
            Window.before(self.view.window.end, rule.window),
            found.source == "logs",
        )
        count = self.probed.errors if logs else lambda window: self.view.tape.rise("errors", window)
        lately = count(self.lately)
        if lately is not None and not rule.past(lately * 3600 / self.lately.seconds, limit):
            return found._replace(
                answer=f"yes, now: {lately} in {formatting.duration(self.lately.seconds)}, though {found.answer}",
                cause="",
            )
        kinds, roots = self.probed.log_kinds(over), [f for f in faults if f.cause]
        errors = {k: n for k, n in kinds.items() if k in self.probed.log_newest(over)}
        told = ", ".join(f"{k} {n}" for k, n in sorted(errors.items(), key=lambda i: -i[1])[:3])
        found = found._replace(answer=f"{found.answer.rstrip('.')}{f' ({told})' if told else ''}.")
        produced = frozenset(chain(*(PRODUCES.get(f.cause or "", ()) for f in roots)))
        named = sum(n for kind, n in kinds.items() if f"log:{kind}" in produced and f"log:{kind}" not in GENERAL)
        # A call that fails is logged by its kind, and once more by whoever made it: what is beyond that is of something
        # else.
        beyond = (
            logs
            and rule.past(((count(over) or 0) - 2 * named) / max(1.0, over.seconds / 3600), limit)
            and not any(f.cause in LOGS_GENERALLY for f in roots)
        )
        return found if beyond else found._replace(symptoms=frozenset({"page:errors"}))

    def of_alert(self, alert: dict[str, Any]) -> Found:
        """
        The cause of an alert that is active while nothing else shows it, by what was observed over its own window.
        """
        name, subject, rule = alert["rule"], alert["subject"], self.view.rules.rules.get(alert["rule"])
        over = Window.before(self.view.window.end, max(rule.window if rule else BACK, BACK))
        known = Found(
            f"Which alert is active, though nothing else shows a fault of {subject}?",
            f"{alert['sentence'] or name}.",
            OF_RULE.get(name, UNDETERMINED),
            subject,
            0.5,
            alert["source"],
            self.at_us,
        )
        if name in ("errors", "silence", "availability", "availability_burn", "answers"):
            if until := self._network_outage(over):
                return known._replace(
                    answer=f"{known.answer.rstrip('.')}; our own network was gone within "
                    f"{formatting.duration(over.seconds)}, until {until}.",
                    cause="our_network",
                    subject=None,
                )
            past = {
                s: bad
                for s in PROVIDERS
                if subject in (s, "app") and (bad := self._failed(s, over, *PROBES)).total() >= self.least
            }
            if len(past) == len(PROVIDERS) and name == "availability":
                return known._replace(cause="both_providers_down", subject=None)
            if past:
                of, bad = max(past.items(), key=lambda p: p[1].total())
                cause, agree = _kind(bad, self.view.rules.diagnosis.main_kind)
                return known._replace(
                    answer=f"{known.answer.rstrip('.')}; of the probes of {of} {bad.total()} failed in "
                    f"{formatting.duration(over.seconds)}.",
                    cause=cause,
                    subject=of,
                    agree=agree / 2,
                )
            if name == "availability" and subject == "app":
                return known._replace(cause="both_providers_down", subject=None)
            if name == "availability" and any(failed and served for failed, served in self._requests(subject)):
                return known._replace(cause="provider_intermittent")
        if (
            name in ("app_answers", "silence", "errors")
            and subject == "app"
            and (bad := self._failed("app", over, "health", "metrics")).total() >= self.least
        ):
            return known._replace(cause="app_down")
        if name == "websocket_down" and (bad := self._failed("app", over, "socket")):
            return known._replace(cause=OF_SOCKET.get(bad.most_common(1)[0][0], UNDETERMINED))
        return known

    def _network_outage(self, over: Window) -> str:
        """
        Until when our own network was gone within a window, in words; empty where most probes of the providers failed
        otherwise, or none did.
        """
        gone = self._network_gone(over)
        bad = Counter[str]()
        for subject in PROVIDERS:
            bad += self._failed(subject, over, *PROBES)
        unconnected = sum(n for name, n in bad.items() if name in TRANSPORT)
        explained = gone and unconnected >= self.view.rules.diagnosis.main_kind * bad.total()
        return f"{clock.instant(gone[-1]).astimezone(formatting.NEW_YORK):%H:%M:%S} New York" if explained else ""

    def _failed(self, subject: str, over: Window, *probes: str) -> Counter[str]:
        """How the probes of a subject ended that were not usable."""
        return Counter(
            s.outcome
            for probe in probes
            for s in self._looks(probe, subject, over)
            if s.last and not OUTCOMES[s.outcome].usable
        )

    def costs(self) -> list[Found]:
        """Whether results fall behind the backtest, and by which cost."""
        return [
            Found(
                "Do results keep what the backtest promised?", a.words, a.cause, a.subject, a.agree, a.source, a.at_us
            )
            for a in cost_questions.answers(self.view)
        ]
