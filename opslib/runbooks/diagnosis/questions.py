"""
Answer the diagnostic questions that determine the cause of a fault, each with its source and time.

Without data the cause of an answer is None. A cause needs `least` probes, or one probe and another source.
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
from opslib.runbooks.diagnosis.chain_questions import ChainQuestions
from opslib.telemetry import app_state, clock_skew
from opslib.telemetry.probes.history import KEPT, ProbeHistory
from opslib.telemetry.probes.outcomes import OUTCOMES, TRANSPORT
from opslib.telemetry.probes.store import Sample
from opslib.telemetry.probes.websocket import NO_TOKEN, NOT_SERVED

if TYPE_CHECKING:
    from opslib.dashboard.status import Status

BACK = timedelta(minutes=5)  # How far back the current fault is read.
FLAPS_BACK = timedelta(minutes=10)  # Long enough to see two failures if one probe in twenty fails.
RESTARTS_BACK = timedelta(hours=1)
LATELY_MINUTES = 2  # A page without failed requests in so many minutes has recovered.
LONG = 10.0  # A timeout so many times longer than the response time is long enough.
GENERAL = frozenset({"log:other_error", "log:access_5xx"})  # Kinds of errors that do not indicate their cause.
# Causes whose errors are of general kinds.
LOGS_GENERALLY = (
    "provider_wrong_content",
    "provider_empty",
    "provider_intermittent",
    "our_network",
    "app_down",
    "app_restarted",
    "app_slow",
)
# The app takes far longer than the providers in the same minutes, which no fault on our side causes.
SLOWER = "app:slower"
AT_TIMES = 0.7  # The confidence in responses that are slow only sometimes.
BY_BOTH, BY_LOG = 0.9, 0.7  # The confidence in a rejection by probes and log, and by the log alone.
MINUTE_US = 60_000_000
POSTED_WITHIN_US = 10_000_000  # A snapshot may count requests from so long before it.
# Causes under which no request succeeds.
UNSERVED = ("provider_5xx", "provider_timeout", "provider_refused", "provider_dns", "provider_tls")
# The probes of a provider: its clock, its data, and its option chains.
PROBES = ("liveness", "data", "options")
PROVIDER_CAUSES = tuple(dict.fromkeys((*OF_OUTCOME.values(), "provider_intermittent")))
# For questions whose answers do not set them: the source, and the causes that are excluded if there is no fault.
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


def _attempts(bad: Counter[str]) -> str:
    """Return the number of failed attempts, retries included, by outcome; a probe may take several."""
    kinds = ", ".join(f"{n} {name}" if len(bad) > 1 else name for name, n in bad.most_common(4))
    return f"{bad.total()} failed attempt{'' if bad.total() == 1 else 's'}: {kinds}" if bad else ""


def _kind(bad: Counter[str], most: float) -> tuple[str, float]:
    """
    Return the cause of intermittent failures, and the share of the failures that support it.

    The cause is the most frequent kind; without a dominant kind, it is only intermittent.
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
    """Answer all questions, in the order in which a cause can explain later ones."""

    def __init__(self, view: "Status"):
        self.view = view
        self.probed, self.at_us = view.probed or ProbeHistory(), view.window.end_us
        self.lately, self.flaps = Window.before(view.window.end, BACK), Window.before(view.window.end, FLAPS_BACK)
        self.least = round(view.rules.diagnosis.least_probes)
        self.chains = ChainQuestions(view, self.probed, self.findings, self.least)

    @cached_property
    def findings(self) -> list[Finding]:
        """
        The findings of all rules at the end of the view, each over its own window.

        Error budgets are left out, because they look back further than a view.
        """
        return evaluation.evaluate_rules(
            self.view.counters,
            self.view.rules.without_budgets(),
            self.view.window.end,
            self.probed if self.probed.any else None,
        )

    def asked(self) -> tuple[list[Found], list[Found]]:
        """Return every answer: first those about the means of observation, then all others."""
        providers = [found for subject in PROVIDERS for found in self.provider(subject)]
        through = [
            *self._dated("monitor"),
            *self._dated("starved"),
            *self._dated("market"),
            *self._dated("network"),
            *self._dated("both", providers),
        ]
        # Our few probes may miss what the log shows.
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
        Return the answers to a question, with defaults for source, time and excluded causes.
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
        return self.view.counters.last_seen_us(self.at_us)

    def monitor(self) -> Found:
        """Answer whether our collector runs."""
        question, rule = "Is our collector running?", self.view.rules["heartbeat"]
        missed = self.probed.missed_heartbeats(self.at_us)
        if missed is None:
            return Found(question, "No: it was stopped, or it never ran.", None)
        dead = rule.crosses(missed, float(dict(rule.thresholds)["warning"]))
        heartbeats = self.probed.within("beat", "collector", Window.before(self.view.window.end, FLAPS_BACK))
        return Found(
            question,
            f"No: it missed {missed:,.0f} heartbeats." if dead else "Yes.",
            "monitor_down" if dead else "",
            at_us=heartbeats[-1].ts_us if heartbeats else None,
        )

    def starved(self) -> Found:
        """Answer whether our collector gets enough processor time."""
        return monitoring_questions.collector(self.probed, self.view.rules.probes, self.at_us)

    def market(self) -> Found:
        """Answer whether the market is open, by the calendar and by the providers."""
        return monitoring_questions.market(self.probed, self.at_us)

    def network(self) -> Found:
        """Answer whether our network works."""
        gone = self.probed.network_gone(self.at_us)
        text, cause = {
            None: ("Unknown: fewer than two providers are probed.", None),
            True: ("No: neither provider accepts a connection.", "our_network"),
            False: ("Yes.", ""),
        }[gone]
        return Found("Does our network work?", text, cause)

    def last_samples(self, subject: str) -> list[Sample]:
        """Return the last sample of each probe of a subject, the worst first."""
        found = [s for probe in (*PROBES, "health", "metrics") if (s := self.probed.now(probe, subject, self.at_us))]
        return sorted(found, key=lambda s: OUTCOMES[s.outcome].usable)

    def _samples(self, probe: str, subject: str, window: Window) -> list[Sample]:
        return [s for s in self.probed.within(probe, subject, window) if s.outcome != KEPT]

    def _run(self, probe: str, subject: str) -> list[Sample]:
        """Return the newest samples with the same failure as the last one; empty if the last one is usable."""
        now = self.probed.now(probe, subject, self.at_us)
        if now is None or OUTCOMES[now.outcome].usable:
            return []
        return list(
            takewhile(
                lambda s: s.outcome == now.outcome,
                (s for s in reversed(self._samples(probe, subject, self.flaps)) if s.last),
            )
        )

    def turns(self, subject: str) -> int:
        """
        Return the number of a provider's state changes.

        An outage that has ended counts two; a lasting one, with two equal failures last, counts none.
        """
        samples = [self._samples(probe, subject, self.flaps) for probe in PROBES]
        newest = [s.outcome for s in sorted(chain(*samples), key=lambda s: s.ts_us)[-2:]]
        goes_on = len(newest) == 2 and len({*newest}) == 1 and not OUTCOMES[newest[0]].usable
        answers = [[OUTCOMES[s.outcome].usable for s in found] for found in samples]
        return max(sum(a != b for a, b in pairwise(usable)) for usable in answers) - goes_on

    def _in_spells(self, subject: str) -> bool:
        """
        Return whether a provider fails in spells instead of at random requests.

        In spells it changes state far less often than by chance.
        """
        answers = [OUTCOMES[s.outcome].usable for s in self._samples("liveness", subject, self.flaps)]
        share = answers.count(False) / max(1, len(answers))
        return sum(a != b for a, b in pairwise(answers)) < self.view.rules.diagnosis.spells_below * 2 * len(
            answers
        ) * share * (1 - share)

    def _requests(self, subject: str) -> list[tuple[int, int]]:
        """
        Return the page's failed and successful requests to a provider in each of the last minutes, newest first.
        """
        ends = [self.view.window.end - timedelta(minutes=m) for m in range(round(FLAPS_BACK.total_seconds() / 60))]
        increases = [
            [
                self.view.counters.increase(f"{subject}_{how}", Window.before(end, timedelta(minutes=1)))
                for how in ("failures", "successes")
            ]
            for end in ends
        ]
        return [(failed or 0, served or 0) for failed, served in increases]

    def by_page(self, subject: str) -> Found | None:
        """Answer whether the page's requests to a provider succeed; None without data."""
        question, found = (
            f"Do the app's requests to {subject} succeed?",
            self._finding("availability", subject, "page"),
        )
        if found is None or found.verdict == "unknown":
            return None
        answer = Found(
            question,
            f"Yes: {found.sentence}.",
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
                answer=f"Yes, now: none failed in the last {LATELY_MINUTES} min, although {found.sentence}."
            )
        if until_us := self._network_explains(minutes):
            return answer._replace(
                answer=f"Yes, now: they failed while our network was down, until "
                f"{clock.instant(until_us).astimezone(formatting.NEW_YORK):%H:%M:%S} New York; "
                f"{found.sentence}."
            )
        failing = list(takewhile(lambda n: n[0], minutes))
        answer = answer._replace(since_us=self.at_us - len(failing) * MINUTE_US)
        if mixed := self._mixed(minutes):
            return answer._replace(
                answer=f"Not always: some requests failed and others succeeded in {mixed} of the last "
                f"{round(FLAPS_BACK.total_seconds() / 60)} minutes.",
                cause="provider_intermittent",
                agree=0.9,
            )
        if served:
            return answer._replace(
                answer=f"Not always in the last {LATELY_MINUTES} min: {found.sentence}.", cause=UNDETERMINED
            )
        kinds = Counter({OF_LOG[k]: n for k, n in self.probed.log_kinds(self.lately).items() if k in OF_LOG})
        if kinds and (most := kinds.most_common(1)[0]) and most[1] >= self.least:
            return answer._replace(
                answer=f"No: {found.sentence}; the app's log shows "
                f"{most[0].removeprefix('provider_').replace('_', ' ')} {most[1]} times.",
                cause=most[0],
                agree=most[1] / kinds.total(),
                source="logs",
            )
        return answer._replace(answer=f"No: {found.sentence}.", cause=UNDETERMINED)

    def by_log(self, subject: str) -> Found | None:
        """
        Answer whether the app's log shows requests that a provider rejected; None if it shows none.

        The page does not count these responses.
        """
        refused = denials.of_log(self.probed.within("log", "app", self.flaps), subject)
        own = Counter(
            OF_OUTCOME[s.outcome]
            for probe in PROBES
            for s in self._samples(probe, subject, self.flaps)
            if s.outcome in OF_OUTCOME
        )
        own = Counter({cause: n for cause, n in own.items() if cause in denials.CAUSES})
        if not refused or refused.count + own.total() < self.least:
            return None
        # If our probes' key is accepted, the plan is the reason for the rejection.
        cause, agree = (own.most_common(1)[0][0], BY_BOTH) if own else (refused.cause or "provider_plan", BY_LOG)
        answer = (
            f"Yes: {refused.count} requests rejected in {formatting.duration(FLAPS_BACK.total_seconds())},"
            f" the last with {refused.line!r}."
        )
        return Found(
            f"Does {subject} reject the app's requests?",
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
        Return the times in a window at which our network was down, by failed connections of the probes of Massive.

        Fewer than a cause needs are left out.
        """
        failed = [s.ts_us for s in self._samples("liveness", "massive", window) if s.last and s.outcome in TRANSPORT]
        gone = [at_us for at_us in failed if self.probed.network_gone(at_us)]
        return gone if len(gone) >= self.least else []

    def _network_explains(self, minutes: Sequence[tuple[int, int]]) -> int | None:
        """
        Return when our network outage ended, if it explains each minute with failed requests of the page.

        None if the network is still down, or the outage does not explain them.
        """
        gone = self._network_gone(self.flaps)
        if not gone or self.probed.network_gone(self.at_us):
            return None
        # Pending requests end later, and snapshots report them later still.
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
        Return the number of minutes with both failed and successful requests.

        0 if the start and end of an outage explain them, or if there is none in the last minutes.
        """
        mixed = [bool(failed and served) for failed, served in minutes]
        return sum(mixed) if any(mixed[:LATELY_MINUTES]) and sum(mixed) > 2 else 0

    def provider(self, subject: str) -> list[Found]:
        """Answer whether a provider responds: by our probes, then by the page."""
        question, last_samples, page = (
            f"Does {subject} respond to our probes?",
            self.last_samples(subject),
            self.by_page(subject),
        )
        by_page = [page] if page else []
        if not last_samples:
            return [Found(question, "Unknown: it is not probed.", None, subject), *by_page]
        turns, newest = self.turns(subject), max(s.ts_us for s in last_samples)
        samples = [
            s for probe in PROBES for s in self._samples(probe, subject, self.flaps if turns > 2 else self.lately)
        ]
        bad = Counter(s.outcome for s in samples if not OUTCOMES[s.outcome].usable)
        failures = ", ".join(f"{n} {name}" for name, n in bad.most_common(4))
        well = Found(
            question, "Yes.", "", subject, 1.0, "probe", newest, excludes=("both_providers_down", "our_network")
        )
        runs = [self._run(probe, subject) for probe in PROBES]
        steady = max(runs, key=len)
        page_fails = page is not None and bool(page.cause)
        confirmed = len(steady) >= self.least or (bool(steady) and (page_fails or sum(map(bool, runs)) >= self.least))
        flapping = turns > 2 and sum(bad.values()) >= self.least
        spells = flapping and self._in_spells(subject)
        if flapping and not (confirmed and self._apart(steady[0].outcome, runs, samples)):
            cause, agree = (
                ("provider_intermittent", 1.0)
                if spells and all(OUTCOMES[name].answered is False for name in bad)
                else _kind(bad, self.view.rules.diagnosis.main_kind)
            )
            answer = (
                f"Not always: {sum(bad.values())} of {len(samples)} probes in "
                f"{formatting.duration(FLAPS_BACK.total_seconds())} failed{' in spells' if spells else ''} "
                f"({failures})."
            )
            return [
                well._replace(
                    answer=answer,
                    cause=cause,
                    agree=agree,
                    symptoms=frozenset(bad),
                    since_us=min(s.ts_us for s in samples if not OUTCOMES[s.outcome].usable),
                ),
                *by_page,
            ]
        if confirmed:
            found = self._steadily(well, steady, last_samples, bad)
            return [found, *(self._held_against(answer, found) for answer in by_page)]
        if steady:
            return [
                well._replace(
                    answer=f"Unknown: at the last probe it {OUTCOMES[steady[0].outcome].words}. One failed "
                    f"probe is not enough.",
                    cause=None,
                ),
                *by_page,
            ]
        if bad and page_fails:
            cause, agree = _kind(bad, self.view.rules.diagnosis.main_kind)
            return [
                well._replace(
                    answer=f"Not always: {sum(bad.values())} of our probes failed ({failures}).",
                    cause=cause,
                    agree=agree,
                    symptoms=frozenset(bad),
                ),
                *by_page,
            ]
        if bad:
            return [
                well._replace(
                    answer=f"Yes, now; probes failed in the last {formatting.duration(BACK.total_seconds())} "
                    f"({failures})."
                ),
                *by_page,
            ]
        seconds = [s.seconds for s in last_samples if s.seconds is not None]
        blind = (
            ("provider_partial",)
            if page is None or page.cause != "provider_intermittent"
            else ("provider_partial", "provider_intermittent")
        )
        # A probe of a few contracts cannot show that others are missing.
        excluded = tuple(c for c in PROVIDER_CAUSES if c not in blind)
        return [
            well._replace(
                answer=f"Yes{f', in {max(seconds):.2f} s' if seconds else ''}.", excludes=(*well.excludes, *excluded)
            ),
            *by_page,
        ]

    def _held_against(self, page: Found, ours: Found) -> Found:
        """
        Return the page's answer, as evidence against ours if its requests kept succeeding after our probes failed.
        """
        since = Window(
            clock.instant(min(self.at_us, (ours.since_us or self.at_us) + POSTED_WITHIN_US)), self.view.window.end
        )
        served, failed = (
            self.view.counters.increase(f"{ours.subject}_{how}", since) or 0 for how in ("successes", "failures")
        )
        if page.cause or failed or served < self.least:
            return page
        return page._replace(
            answer=f"Yes: {served} succeeded and none failed since our probes began to fail.",
            excludes=(*UNSERVED, "both_providers_down"),
        )

    def _apart(self, outcome: str, runs: list[list[Sample]], samples: list[Sample]) -> bool:
        """Return whether one kind of probe always fails, with an outcome that the others do not have."""
        steady = max(runs, key=len)[0].probe
        return not any(s.outcome == outcome for s in samples if s.probe != steady) and not any(
            OUTCOMES[s.outcome].usable for s in samples if s.probe == steady
        )

    def _steadily(self, well: Found, run: list[Sample], last_samples: list[Sample], bad: Counter[str]) -> Found:
        """Return the answer for a provider that failed each of the last probes."""
        worst, first = run[0], run[-1].ts_us
        outcome, subject = OUTCOMES[worst.outcome], well.subject or ""
        streak = list(
            takewhile(
                lambda s: not OUTCOMES[s.outcome].usable, reversed(self._samples(worst.probe, subject, self.lately))
            )
        )
        since = [
            s for s in streak if s.ts_us >= min((s.ts_us for s in streak if s.outcome == worst.outcome), default=first)
        ]
        agree = sum(s.outcome == worst.outcome for s in since) / len(since) if since else 1.0
        cause = OF_OUTCOME.get(worst.outcome, UNDETERMINED)
        if worst.outcome == "denied_403":  # If key and address are accepted elsewhere, it is the plan.
            cause = "provider_plan" if any(OUTCOMES[s.outcome].usable for s in last_samples) else "provider_ip_blocked"
            agree = agree / 2
        message, failures = self.probed.details(worst).get("said"), _attempts(bad)
        answer = (
            f"No: it {outcome.words}{f' with {formatting.single_line(message, 80)!r}' if message else ''} "
            f"({failures or worst.outcome}). Fault: {outcome.fault}."
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
        """Answer whether at least one provider serves; the page counts only for a provider that is not probed."""
        question = "Is at least one provider available?"
        own = dict[str, Found | None]()
        for subject in PROVIDERS:
            found = [f for f in providers if f.subject == subject]
            own[subject] = next(
                (f for f in (found[:1] if self.last_samples(subject) else found) if f.cause is not None), None
            )
        if not all(own.values()):
            return Found(question, "Unknown: not both providers are probed.", None)
        down = {s: f for s, f in own.items() if f and f.cause}
        if len(down) < len(PROVIDERS):
            return Found(question, "Yes.", "")
        kinds = {f.cause for f in down.values()}
        answer = f"No: {', '.join(f'{s} {chr(32).join(sorted(f.symptoms))}' for s, f in down.items())}."
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
        """Answer whether the app's timeout for Massive is long enough."""
        question, gave_up_ms = (
            "Is the app's timeout for Massive long enough?",
            self.probed.gave_up_after_ms(self.lately),
        )
        if not self.probed.seen("log", "app"):
            return Found(question, "Unknown: the app's log is not read.", None, "massive", source="logs")
        p95, count = (
            probe_figures.p95_s(self.probed, "massive", self.lately),
            self.probed.log_kinds(self.lately).get("timeout", 0),
        )
        if gave_up_ms is None or count < self.least:
            return Found(question, "Yes: the log shows no timeouts.", "", "massive", source="logs")
        short = (
            p95 is not None
            and gave_up_ms / 1000 < LONG * p95
            and all(OUTCOMES[s.outcome].usable for s in self.last_samples("massive"))
        )
        return Found(
            question,
            f"{'No' if short else 'Yes'}: it is {gave_up_ms} ms; Massive's response time to our probes is "
            f"{formatting.UNKNOWN if p95 is None else f'{p95:.2f} s'} (p95).",
            "our_timeout_too_short" if short else "",
            "massive",
            source="logs",
        )

    def server(self) -> Found:
        """
        Answer whether the app's server runs: by its newest responses, and by its process if none is newer.
        """
        question, process = "Is the app's server running?", self.probed.now("process", "app", self.at_us)
        samples = sorted(
            (s for probe in ("health", "metrics") for s in self._samples(probe, "app", self.lately) if s.last),
            key=lambda s: s.ts_us,
        )
        if not self.last_samples("app") and process is None:
            return Found(question, "Unknown: it is not probed.", None, "app")
        run = (
            list(takewhile(lambda s: OUTCOMES[s.outcome].answered is False, reversed(samples)))
            if self.last_samples("app")
            else []
        )
        gone = [
            s
            for s in self._run("process", "app")
            if s.outcome == "gone" and not (samples and not run and samples[-1].ts_us >= s.ts_us)
        ]
        if len(run) + len(gone) >= self.least:
            names = Counter(s.outcome for s in run)
            words = [
                *(["its process does not exist"] if gone else []),
                *([f"it {OUTCOMES[names.most_common(1)[0][0]].words}"] if names else []),
            ]
            symptoms = frozenset(f"app:{name}" for name in (*names, *(["gone"] if gone else [])))
            return Found(
                question,
                f"No: {', '.join(words)}.",
                "app_down",
                "app",
                symptoms=symptoms,
                since_us=min(s.ts_us for s in (*run, *gone)),
            )
        if run or gone:
            return Found(
                question,
                f"Unknown: the last probe failed ({(run or gone)[0].outcome}). One failed probe is not enough.",
                None,
                "app",
            )
        if samples and not OUTCOMES[samples[-1].outcome].usable:
            return Found(question, f"Unknown: it {OUTCOMES[samples[-1].outcome].words}.", None, "app")
        return Found(question, "Yes.", "", "app")

    def restarted(self) -> Found:
        """Answer whether the app's server restarted."""
        question, at = "Did the app's server restart?", self.probed.restarts(self.lately)
        if not self.probed.seen("process", "app") and not self.probed.seen("health", "app"):
            return Found(question, "Unknown: it is not probed.", None, "app")
        before = at or self.probed.restarts(Window.before(self.view.window.end, RESTARTS_BACK))
        when = f"at {clock.instant(before[-1]).astimezone(formatting.NEW_YORK):%H:%M:%S} New York" if before else ""
        if at:
            text = f"Yes, {when}."
        elif before:
            text = f"Yes, {when}, more than {formatting.duration(BACK.total_seconds())} ago."
        else:
            text = "No."
        return Found(question, text, "app_restarted" if at else "", "app", since_us=at[-1] if at else None)

    def slow(self) -> Found:
        """
        Answer whether the app's server is fast: at most one response in twenty is critically slow or missing.

        Unknown with fewer samples than the rule requires.
        """
        question, rule = (
            "Does the app's server respond fast enough?",
            self.view.rules.rules.get("app_response_time") or self.view.rules["response_time"],
        )
        limit, seconds = float(dict(rule.thresholds)["critical"]), self.probed.seconds("app", self.lately)
        late = sum(s.outcome == "timeout" for s in self._samples("health", "app", self.lately))
        if not seconds or len(seconds) + late < rule.min_count:
            return Found(
                question,
                f"Unknown: too few samples ({len(seconds) + late} of {rule.min_count} required)."
                if seconds or late
                else "Unknown: not measured.",
                None,
                "app",
            )
        slow = (late + sum(rule.crosses(s, limit) for s in seconds)) > probe_figures.LATE_SHARE * (len(seconds) + late)
        if not slow and (found := self._slow_at_times(limit)):
            return Found(
                question,
                f"Not always: {found} responses took longer than {limit:g} s in "
                f"{formatting.duration(FLAPS_BACK.total_seconds())}, and none of a provider did.",
                "app_slow",
                "app",
                AT_TIMES,
            )
        if slow and monitoring_questions.slow_everywhere(self.probed, rule, self.lately):
            return Found(
                question,
                "No: both providers and the app are slow at the same time; they share our network.",
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
            and rule.crosses(own_s, limit)
            and own_s > self.view.rules.diagnosis.slow_times * others_s
        )
        answer = (
            f"{'No' if slow else 'Yes'}: p95 {own_s or 0.0:.2f} s{f', {late} timeouts' if late else ''}"
            f"{f'; the providers have {others_s:.2f} s' if apart else ''}."
        )
        return Found(
            question, answer, "app_slow" if slow else "", "app", symptoms=frozenset({SLOWER}) if apart else frozenset()
        )

    def _slow_at_times(self, limit_s: float) -> int:
        """
        Return the number of critically slow responses of the app; 0 if too few, or if a provider was as slow.
        """
        slow = {
            subject: sum(s > limit_s for s in self.probed.seconds(subject, self.flaps, "data", "metrics", "upstream"))
            for subject in ("app", *PROVIDERS)
        }
        return slow["app"] if slow["app"] > self.least and not any(slow[subject] for subject in PROVIDERS) else 0

    def socket(self) -> list[Found]:
        """Answer whether the app's WebSocket works: by our probe, then by the page."""
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
                text, cause = "Yes.", ""
            elif lost:
                cause = "socket_closed"
                text = f"No: closed for {formatting.duration(down_s)}. It reconnects only when the page is refreshed."
            else:
                text = f"Unknown: closed for {formatting.duration(down_s)}, which is too short to decide."
            page = [
                Found(
                    "Does the page's WebSocket work?",
                    text,
                    cause,
                    "app",
                    0.8,
                    "page",
                    self._page_us,
                    self.at_us - round(down_s * 1e6),
                    frozenset({"page:websocket"}),
                )
            ]
        left = app_state.unserved_page(self.view.counters, self.probed, self.at_us) if not down_s else None
        if left is not None:
            text = f"No, although the page reports it as connected: {app_state.unserved_note(self.at_us, left[0])}."
            page = [
                Found(
                    "Does the page's WebSocket work?",
                    text,
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
                and self.probed.details(upstream)["state"] in NOT_SERVED
                and (upstream.value or 0) > 0
                and self.probed.open_since(self.at_us) is not None
            ):
                text = (
                    f"No: {app_state.upstream(self.probed, self.at_us)}, with {upstream.value:.0f} clients connected."
                )
                return [
                    Found(
                        question,
                        text,
                        "socket_silent",
                        "app",
                        0.7,
                        "probe",
                        upstream.ts_us,
                        symptoms=frozenset({"socket:silent"}),
                    ),
                    *page,
                ]
            return page or [Found(question, "Unknown: it is not probed, and the page does not report it.", None, "app")]
        if OUTCOMES[last.outcome].usable:
            return [
                Found(
                    question,
                    "Yes, for our probe.",
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
                Found(
                    question,
                    f"Unknown: it {OUTCOMES[last.outcome].words}. One failed probe is not enough.",
                    None,
                    "app",
                ),
                *page,
            ]
        detail, note = self.probed.details(last), app_state.socket_note(self.probed, self.at_us)
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
                f"No: it {OUTCOMES[last.outcome].words}{code}{f': {note}' if note else ''}.",
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
        """Return how a probe of the WebSocket failed, as named in `OF_SOCKET`."""
        why = str(sample.details().get("why", ""))
        if why == NO_TOKEN:
            return "no_token"
        if sample.outcome == "timeout" and "upgrade" in why:
            return "upgrade"
        return sample.outcome

    def skew(self) -> list[Found]:
        """Answer whether all clocks agree."""
        return monitoring_questions.clocks(
            clock_skew.parties(self.probed, self.view.figures["system"], self.at_us), self.view.rules.skew_told_s
        )

    def _finding(self, rule: str, subject: str, source: str) -> Finding | None:
        return next((f for f in self.findings if (f.rule.name, f.subject, f.source) == (rule, subject, source)), None)

    def _rule(self, question: str, cause: str, *names: str) -> Found:
        """
        Answer a question by rules of the app: the first that crossed a threshold, else none, else unknown.
        """
        mine = [f for f in self.findings if f.rule.name in names]
        reached = next((f for f in mine if f.severity is not None and f.counted), None)
        if reached:
            return Found(
                question,
                f"No: {reached.sentence}.",
                cause,
                "app",
                source=reached.source,
                at_us=self._page_us if reached.source == "page" else self.at_us,
            )
        known = next((f for f in mine if f.verdict != "unknown"), None)
        return Found(
            question,
            "Yes." if known else "Unknown: not measured.",
            "" if known else None,
            "app",
            source=known.source if known else "",
        )

    def dashboard(self) -> Found:
        """Answer whether the dashboard's data is fresh."""
        return self._rule("Is the dashboard's data fresh?", "dashboard_slow", "dashboard_lag")

    def memory(self) -> Found:
        """Answer whether the app's memory is stable."""
        return self._rule("Is the app's memory stable?", "memory_leak", "memory", "memory_growth")

    def storm(self, faults: Sequence[Found]) -> Found:
        """Answer whether the error rate is normal, apart from the errors that other faults produce."""
        found, rule = self._rule("Is the error rate normal?", "error_storm", "errors"), self.view.rules["errors"]
        if not found.cause:
            return found
        limit, over, logs = (
            float(rule.thresholds[0][1]),
            Window.before(self.view.window.end, rule.window),
            found.source == "logs",
        )
        count = self.probed.errors if logs else lambda window: self.view.counters.increase("errors", window)
        lately = count(self.lately)
        if lately is not None and not rule.crosses(lately * 3600 / self.lately.seconds, limit):
            return found._replace(
                answer=f"Yes, now: {lately} in {formatting.duration(self.lately.seconds)}, although "
                f"{found.answer.removeprefix('No: ')}",
                cause="",
            )
        kinds, roots = self.probed.log_kinds(over), [f for f in faults if f.cause]
        errors = {k: n for k, n in kinds.items() if k in self.probed.log_newest(over)}
        errors_text = ", ".join(f"{k} {n}" for k, n in sorted(errors.items(), key=lambda i: -i[1])[:3])
        found = found._replace(
            answer=f"{found.answer.rstrip('.')}{f'; in the log: {errors_text}' if errors_text else ''}."
        )
        produced = frozenset(chain(*(PRODUCES.get(f.cause or "", ()) for f in roots)))
        named = sum(n for kind, n in kinds.items() if f"log:{kind}" in produced and f"log:{kind}" not in GENERAL)
        # A failed call is logged by its kind and again by its caller; more errors than that have another cause.
        beyond = (
            logs
            and rule.crosses(((count(over) or 0) - 2 * named) / max(1.0, over.seconds / 3600), limit)
            and not any(f.cause in LOGS_GENERALLY for f in roots)
        )
        return found if beyond else found._replace(symptoms=frozenset({"page:errors"}))

    def of_alert(self, alert: dict[str, Any]) -> Found:
        """
        Return the cause of an active alert that no other answer explains, from the data of its own window.
        """
        name, subject, rule = alert["rule"], alert["subject"], self.view.rules.rules.get(alert["rule"])
        over = Window.before(self.view.window.end, max(rule.window if rule else BACK, BACK))
        known = Found(
            f"Is an alert active without other evidence of a fault of {subject}?",
            f"Yes: {alert['sentence'] or name}.",
            OF_RULE.get(name, UNDETERMINED),
            subject,
            0.5,
            alert["source"],
            self.at_us,
        )
        if name in ("errors", "silence", "availability", "availability_burn", "answers"):
            if until := self._network_outage(over):
                return known._replace(
                    answer=f"{known.answer.rstrip('.')}; our network was down within the last "
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
                    answer=f"{known.answer.rstrip('.')}; {bad.total()} probes of {of} failed in "
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
        Return until when our network was down within a window, as text.

        Empty if most failed probes of the providers failed in another way, or none failed.
        """
        gone = self._network_gone(over)
        bad = Counter[str]()
        for subject in PROVIDERS:
            bad += self._failed(subject, over, *PROBES)
        unconnected = sum(n for name, n in bad.items() if name in TRANSPORT)
        explained = gone and unconnected >= self.view.rules.diagnosis.main_kind * bad.total()
        return f"{clock.instant(gone[-1]).astimezone(formatting.NEW_YORK):%H:%M:%S} New York" if explained else ""

    def _failed(self, subject: str, over: Window, *probes: str) -> Counter[str]:
        """Return the outcomes of a subject's failed probes."""
        return Counter(
            s.outcome
            for probe in probes
            for s in self._samples(probe, subject, over)
            if s.last and not OUTCOMES[s.outcome].usable
        )

    def costs(self) -> list[Found]:
        """Answer whether live results match the backtest, and which cost makes the difference."""
        return [
            Found("Do live results match the backtest?", a.words, a.cause, a.subject, a.agree, a.source, a.at_us)
            for a in cost_questions.answers(self.view)
        ]
