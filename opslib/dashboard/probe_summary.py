"""
Describe what our probes found, one sentence per finding and panel.

Each sentence names the subject, the problem, since when, whose fault it is, and what to do. Where a rule evaluates the
same thing, the rule has the verdict. A summary has its own verdict only where a problem shows without any threshold.
"""

from datetime import datetime, timedelta
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

from opslib.alerting import probe_figures
from opslib.foundation import clock, formatting, market_calendar
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rules
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.telemetry import app_state
from opslib.telemetry.clock_skew import LATELY, compare, parties
from opslib.telemetry.probes.history import IS_THERE, KEPT, ProbeHistory
from opslib.telemetry.probes.outcomes import OUTCOMES, PROVIDER, UNCLEAR
from opslib.telemetry.probes.store import Sample
from opslib.telemetry.probes.websocket import NO_TOKEN
from opslib.trading.options.units import USUAL

LONG = 10.0  # The app waits long if it waits this many times longer than our probes need for a response.
CHAINS_BACK = timedelta(hours=1)  # A chain is compared with chains that are at most this much older.


class ProbeSummary(NamedTuple):
    """One sentence of a panel; the verdict is empty where a rule has it."""

    panel: str
    verdict: str
    words: str


class Problem(NamedTuple):
    """What is wrong with a subject, as a predicate such as ``returns HTTP 502``, and since when."""

    words: str
    since: datetime | None


def lately(rules: Rules) -> timedelta:
    """Return the window over which our probes and the page's requests are compared, whatever window is shown."""
    return rules["answers"].window


def _since(at_us: int) -> str:
    return f"since {clock.instant(at_us).astimezone(formatting.NEW_YORK):%H:%M} New York"


def _seconds(found: float | None) -> str:
    return formatting.UNKNOWN if found is None else f"{found:.2f} s"


class ProbeSummaries:
    """
    The summaries of our probes over a window.

    Args:
        page: The page's figures of the same window, by panel, to compare with the probes.
        page_verdicts: By provider, the verdict on the availability that the page counted lately (`lately`).
    """

    def __init__(
        self, probed: ProbeHistory, rules: Rules, window: Window, page: dict[str, Any], page_verdicts: dict[str, str]
    ):
        self.probed, self.rules, self.window, self.page, self.page_verdicts = probed, rules, window, page, page_verdicts
        self.at_us = window.end_us

    def all(self) -> list[ProbeSummary]:
        """Return every sentence, panel by panel."""
        return [*self._providers(), *self._greeks(), *self._system()] if self.probed.any else []

    def _latest(self, subject: str) -> list[Sample]:
        """Return the last sample of each probe of a subject, the worst first."""
        found = [
            s
            for probe in ("liveness", "health", "data", "metrics")
            if (s := self.probed.now(probe, subject, self.at_us))
        ]
        return sorted(found, key=lambda s: OUTCOMES[s.outcome].usable)

    def figures(self, subject: str) -> dict[str, Any]:
        """Return the figures of the probes of a subject, as JSON; empty where there are none."""
        latest = self._latest(subject)
        if not latest:
            return {}
        worst = latest[0]
        outcome, since = OUTCOMES[worst.outcome], self.probed.since(worst.probe, subject, self.at_us)
        share, data = self.probed.usable(subject, self.window), self.probed.now("data", subject, self.at_us)
        seconds, p95 = self.probed.seconds(subject, self.window), probe_figures.p95_s(self.probed, subject, self.window)
        answered = self.probed.answered(subject, self.window)
        return {
            "outcome": outcome.name,
            "fault": outcome.fault,
            "since": formatting.iso(clock.instant(since.ts_us)) if since else None,
            "total": share.count,
            "usable": share.part,
            "availability": answered.part / answered.count if answered.count else None,
            "p95_s": None if p95 is None else round(p95, 4),
            "mean_s": round(sum(seconds) / len(seconds), 4) if seconds else None,
            "data_age_s": data.value if data else None,
            "skew_s": self.probed.skew_s(subject, self.at_us),
            "quota_left": self._quota(subject),
        }

    def providers(self) -> dict[str, Any]:
        """Return the figures of each provider and which can serve, as JSON; empty without probes."""
        found = {subject: figures for subject in PROVIDERS if (figures := self.figures(subject))}
        return (
            found
            | {
                "serving": self.probed.serving(self.at_us),
                "our_network": {True: "gone", False: "ok", None: None}[self.probed.network_gone(self.at_us)],
            }
            if found
            else {}
        )

    def chains(self) -> dict[str, Any]:
        """Return the last chain of each symbol, as JSON; empty where none was fetched."""
        found = self.probed.chains(Window.before(self.window.end, CHAINS_BACK))
        return (
            {
                "chains": {
                    symbol: {
                        "outcome": c[-1].outcome,
                        "fetched_at": formatting.iso(clock.instant(c[-1].ts_us)),
                        **self.probed.details(c[-1]),
                    }
                    for symbol, c in found.items()
                }
            }
            if found
            else {}
        )

    def system(self) -> dict[str, Any]:
        """Return the figures of the app's server, socket, log and process, and of the collector, as JSON."""
        found: dict[str, Any] = {"app": self.figures("app")} if self._latest("app") else {}
        for name, probe, subject in (
            ("socket", "socket", "app"),
            ("process", "process", "app"),
            ("log", "log", "app"),
            ("heartbeat", "beat", "collector"),
        ):
            if (last := self.probed.now(probe, subject, self.at_us)) and (
                since := self.probed.since(probe, subject, self.at_us)
            ):
                found[name] = {
                    "outcome": last.outcome,
                    "since": formatting.iso(clock.instant(since.ts_us)),
                    "seconds": last.seconds,
                    "value": last.value,
                }
        if "log" in found:
            found["log"] |= {
                "errors": self.probed.errors(self.window),
                "kinds": self.probed.log_kinds(self.window),
                "newest": self.probed.log_newest(self.window),
            }
        if "process" in found and (
            grows := self.probed.growth_mb_per_h(Window.before(self.window.end, self.rules["memory_growth"].window))
        ):
            found["process"]["growth_mb_per_h"] = round(grows[0], 1)
        return {"probes": found | {"server_restarts": len(self.probed.restarts(self.window))}} if found else {}

    def _quota(self, subject: str) -> int | None:
        last = self.probed.now(IS_THERE.get(subject, ""), subject, self.at_us)
        return self.probed.details(last).get("quota_left") if last else None

    def _problem(self, subject: str, sample: Sample) -> str:
        """Describe the problem of a subject in one sentence, with whose fault it is and what to do."""
        outcome, since, detail = (
            OUTCOMES[sample.outcome],
            self.probed.since(sample.probe, subject, self.at_us),
            self.probed.details(sample),
        )
        status = detail.get("status", 200)
        words, remarks = self._predicate(sample), f"HTTP {status}, " if status >= 400 else ""
        if outcome.name == "server_5xx" and status >= 500:
            remarks = "server error, "
        remarks += f'"{formatting.single_line(detail["said"], 100)}", ' if detail.get("said") else ""
        remarks += f"at {detail['route']}, which the app uses when massive fails, " if detail.get("route") else ""
        age = (
            f"data {formatting.duration(sample.value)} old, "
            if sample.outcome == "stale" and sample.value is not None
            else ""
        )
        when = _since(since.ts_us) if since else ""
        fault = "the app" if subject == "app" and outcome.fault == PROVIDER else outcome.fault
        return f"{subject} {words} ({remarks}{age}{when}). Fault: {fault}. {outcome.advice}".rstrip()

    def problem(self, subject: str) -> Problem | None:
        """Return what is wrong with a subject now, and since when; None where its last probes were usable."""
        latest = self._latest(subject)
        if not latest or OUTCOMES[latest[0].outcome].usable:
            return None
        sample = self._agreed(latest[0])
        since = self.probed.since(sample.probe, subject, self.at_us)
        return Problem(self._predicate(sample), clock.instant(since.ts_us) if since else None)

    def _predicate(self, sample: Sample) -> str:
        """Return the problem of a sample as a predicate; a server error with its status."""
        status = self.probed.details(sample).get("status", 200)
        return (
            f"returns HTTP {status}"
            if sample.outcome == "server_5xx" and status >= 500
            else OUTCOMES[sample.outcome].words
        )

    def _providers(self) -> list[ProbeSummary]:
        found, at_us = list[ProbeSummary](), self.at_us
        if market_calendar.open_since(self.window.end) and self.probed.market_shut(at_us):
            providers = " and ".join(self.probed.providers_with_market_state(at_us))
            found.append(
                ProbeSummary(
                    "providers",
                    "",
                    f"the providers report that the market is closed ({providers}), but the calendar has a "
                    f"session: no data is expected from the app.",
                )
            )
        gone = self.probed.network_gone(at_us)
        if gone:
            failures = ", ".join(
                f"{s} {OUTCOMES[last.outcome].words.split(':')[0]}"
                for s in PROVIDERS
                if (last := self.probed.now("liveness", s, at_us))
            )
            found.append(
                ProbeSummary(
                    "providers",
                    "critical",
                    f"our network is down: no provider can be reached ({failures}). Check DNS, route and "
                    f"firewall on this machine.",
                )
            )
        for subject in PROVIDERS:
            found += self._provider(subject, bool(gone))
        serving = self.probed.serving(at_us)
        if serving == "tradier":
            found.append(ProbeSummary("providers", "", "tradier can serve instead of massive."))
        elif serving == "nobody":
            why = (
                "no fallback is configured (OPS_FALLBACK=none)"
                if self.probed.fallback == "none"
                else "no provider returns usable data"
            )
            found.append(ProbeSummary("providers", "critical", f"no provider can serve: {why}."))
        return found

    def _provider(self, subject: str, network_gone: bool) -> list[ProbeSummary]:
        latest = self._latest(subject)
        if not latest or network_gone:
            return []
        worst, share, p95 = (
            latest[0],
            self.probed.answered(subject, self._lately()),
            probe_figures.p95_s(self.probed, subject, self.window),
        )
        if self.probed.state_changes(subject, self._lately()) > 2:
            failure = self.probed.leading_failure(subject, self._lately())
            words = f": it {OUTCOMES[failure].words}" if failure else ""
            return [
                ProbeSummary(
                    "providers",
                    "",
                    f"{subject} fails intermittently ({share.count - share.part} of {share.count} attempts failed "
                    f"in the last 5 min){words}. Fault: {OUTCOMES[failure].fault if failure else UNCLEAR}.",
                )
            ]
        if not OUTCOMES[worst.outcome].usable:
            since = self.probed.since(worst.probe, subject, self.at_us)
            # A single failed probe is not a problem yet.
            lasts = since is not None and since.ts_us < worst.ts_us
            return [ProbeSummary("providers", "warning" if lasts else "", self._problem(subject, self._agreed(worst)))]
        return [self._healthy(subject, p95), *self._compare_with_page(subject, p95)]

    def _agreed(self, failed: Sample) -> Sample:
        """
        Return the sample that stands for a series of failures.

        The newest that ended as the one before it did; the newest of all where no two in a row ended alike.
        """
        samples = [
            s for s in reversed(self.probed.within(failed.probe, failed.subject, self._lately())) if s.outcome != KEPT
        ]
        streak = list(takewhile(lambda s: not OUTCOMES[s.outcome].usable, samples))
        return next((newer for newer, older in pairwise(streak) if newer.outcome == older.outcome), failed)

    def _lately(self) -> Window:
        return Window.before(self.window.end, lately(self.rules))

    def _healthy(self, subject: str, p95: float | None) -> ProbeSummary:
        data = self.probed.now("data", subject, self.at_us)
        age = f", data {formatting.duration(data.value)} old" if data and data.value is not None else ""
        quota = self._quota(subject)
        left = f", {quota} requests left in this minute's quota" if quota is not None else ""
        limited = self.probed.refused_attempts(subject, self._lately())
        often = (
            f"; {limited.part} of {limited.count} attempts in the last 5 min were rate limited" if limited.part else ""
        )
        return ProbeSummary(
            "providers", "", f"{subject} responds to our probes (p95 {_seconds(p95)}{age}{left}{often})."
        )

    def _compare_with_page(self, subject: str, p95: float | None) -> list[ProbeSummary]:
        """Compare a provider that responds to our probes with what the app reports of it."""
        gave_up_ms, kinds = self.probed.gave_up_after_ms(self._lately()), self.probed.log_kinds(self._lately())
        if subject == "massive" and gave_up_ms is not None and kinds.get("timeout"):
            # If the app waits far longer than our probes need, its requests do not reach the provider at all.
            why = (
                "the app's own timeout is too short"
                if p95 is None or gave_up_ms / 1000 < LONG * p95
                else "the app's own timeout, or the network between the app and massive, is at fault"
            )
            return [
                ProbeSummary(
                    "providers",
                    "warning",
                    f"the app's requests to massive time out after {gave_up_ms} ms, but massive responds to our "
                    f"probes within {_seconds(p95)} (p95): {why}.",
                )
            ]
        if self.page_verdicts.get(subject) == "critical" and self._answered_throughout(subject):
            return [
                ProbeSummary(
                    "providers",
                    "",
                    f"{subject} responded to all our probes in the last minutes, but the app's page counts its own "
                    f"requests as failed: check the app (its key, its network, its timeout), not at {subject}.",
                )
            ]
        return []

    def _answered_throughout(self, subject: str) -> bool:
        """
        Return whether all our probes were answered over twice the window of the page's verdict.

        After an outage both windows still count it for a while.
        """
        share = self.probed.usable(subject, Window.before(self.window.end, 2 * lately(self.rules)))
        return share.count > 0 and share.part == share.count

    def _greeks(self) -> list[ProbeSummary]:
        found = list[ProbeSummary]()
        for symbol, chains in self.probed.chains(Window.before(self.window.end, CHAINS_BACK)).items():
            last = chains[-1]
            if last.outcome != "ok":
                found.append(
                    ProbeSummary(
                        "greeks",
                        "warning",
                        f"the chain of {symbol}: massive {OUTCOMES[last.outcome].words} "
                        f"({self.probed.details(last).get('pages', 0)} pages, {formatting.number(last.value or 0)} "
                        f"contracts{f'; {why}' if (why := self.probed.details(last).get('why')) else ''}). "
                        f"{OUTCOMES[last.outcome].advice}",
                    )
                )
                continue
            detail = self.probed.details(last)
            if "flagged" not in detail:
                found.append(
                    ProbeSummary(
                        "greeks",
                        "warning",
                        f"the chain of {symbol} was not evaluated: "
                        f"{detail.get('why', 'an older collector fetched it')}",
                    )
                )
                continue
            kinds = ", ".join(
                f"{n} {name.replace('_', ' ')}" for name, n in sorted(detail["faults"].items(), key=lambda f: -f[1])
            )
            found.append(
                ProbeSummary(
                    "greeks",
                    "",
                    f"the chain of {symbol}: {formatting.number(detail['contracts'])} contracts, "
                    f"{formatting.number(detail['core'])} tradable, {detail['flagged']} of them with a "
                    f"fault{f' ({kinds})' if kinds else ''}; IV at the money {formatting.ratio(detail['iv_atm'], 1)}.",
                )
            )
            strange = {name: unit for name, unit in detail["units"].items() if unit not in (None, USUAL[name])}
            if strange:
                found.append(
                    ProbeSummary(
                        "greeks",
                        "warning",
                        f"the Greeks of {symbol} have unusual units: "
                        f"{', '.join(f'{name} {unit}'.replace('_', ' ') for name, unit in strange.items())}.",
                    )
                )
            before = next((self.probed.details(c) for c in chains if c.outcome == "ok" and c is not last), None)
            found += self._changed(symbol, before, detail) if before else []
            if detail.get("expires_today"):
                found.append(
                    ProbeSummary(
                        "greeks",
                        "",
                        f"{symbol} has {detail['expires_today']} contracts that expire today: a gamma of 0 in "
                        f"their wings is correct.",
                    )
                )
        return found

    def _changed(self, symbol: str, before: dict[str, Any], now: dict[str, Any]) -> list[ProbeSummary]:
        """Report a median that changed by more than markets move within an hour, and what that suggests."""
        most = self.rules.probes.changed_by
        times = {
            k: abs(now[f"median_{k}"] / before[f"median_{k}"])
            for k in ("iv", "theta", "vega")
            if now.get(f"median_{k}") and before.get(f"median_{k}")
        }
        moved = {k: t for k, t in times.items() if t > most or t < 1 / most}
        if not moved:
            return []
        if times.get("iv") and 1 / most <= times["iv"] <= most:
            changes = ", ".join(f"{k} {t:.3g} times" for k, t in moved.items())
            return [
                ProbeSummary(
                    "greeks",
                    "warning",
                    f"the units of {symbol}'s Greeks may have changed: medians compared with an earlier chain of "
                    f"this hour: {changes}; its IV did not change.",
                )
            ]
        if "iv" in moved:
            return [
                ProbeSummary(
                    "greeks",
                    "",
                    f"{symbol}'s median IV is {times['iv']:.1f} times that of an earlier chain of this hour: "
                    f"market stress, not a data fault, if its Greeks agree.",
                )
            ]
        return []

    def _system(self) -> list[ProbeSummary]:
        return [
            *self._app(),
            *self._socket(),
            *self._log(),
            *self._process(),
            *self._clocks(),
            *self._host(),
            *self._collector(),
        ]

    def _app(self) -> list[ProbeSummary]:
        latest = self._latest("app")
        if not latest:
            return []
        worst, p95 = latest[0], probe_figures.p95_s(self.probed, "app", self._lately())
        if not OUTCOMES[worst.outcome].usable:
            words = self._problem("app", worst)
            if worst.outcome == "wrong_content":
                words += (
                    " The app returns its web page for every path that it does not know: set OPS_APP_URL to the "
                    "address of the app's server, without a path."
                )
            return [
                ProbeSummary(
                    "system", "critical" if OUTCOMES[worst.outcome].answered is False else "warning", f"the {words}"
                )
            ]
        thresholds = dict(self.rules["response_time"].thresholds)
        slow = (
            p95 is not None
            and isinstance(thresholds["critical"], float)
            and not isinstance(thresholds["warning"], str)
            and self.rules["response_time"].crosses(p95, thresholds["warning"])
        )
        span = formatting.duration(lately(self.rules).total_seconds())
        up = self.probed.now("health", "app", self.at_us)
        age = f", up for {formatting.duration(up.value)}" if up and up.value is not None else ""
        return [
            ProbeSummary(
                "system",
                "warning" if slow else "",
                f"the app responds slowly to our probes (p95 {_seconds(p95)} over {span}{age})."
                if slow
                else f"the app responds to our probes (p95 {_seconds(p95)} over {span}{age}).",
            )
        ]

    def _socket(self) -> list[ProbeSummary]:
        last, since = self.probed.now("socket", "app", self.at_us), self.probed.since("socket", "app", self.at_us)
        if last is None or since is None:
            return []
        outcome, detail, recent = OUTCOMES[last.outcome], self.probed.details(last), self._lately()
        if self.probed.socket_state_changes(recent) > 2:
            probes = self.probed.within("socket", "app", recent)
            bad = [s.outcome for s in probes if not OUTCOMES[s.outcome].usable]
            return [
                ProbeSummary(
                    "system",
                    "warning",
                    f"the app's WebSocket is flapping: {len(bad)} of {len(probes)} probes in the last 5 min found "
                    f"it {' or '.join(sorted(set(bad)))}. The page reconnects only once: refresh it.",
                )
            ]
        if outcome.usable:
            received = (
                f", last message {formatting.duration(last.value)} ago"
                if last.value is not None
                else ", no message received yet"
            )
            words = f"the app's WebSocket responds to our probes ({_seconds(last.seconds)}{received})."
            return [ProbeSummary("system", "", words)]
        if "code" in detail:
            code = f" (code {detail['code']})"
        elif "status" in detail:
            code = f" (HTTP {detail['status']})"
        else:
            code = ""
        silent = (
            f", no message for {formatting.duration(last.value)}"
            if last.outcome == "silent" and last.value is not None
            else ""
        )
        note = f": {found}" if (found := app_state.socket_note(self.probed, self.at_us)) else ""
        words = {
            "closed": f"closed the connection of our probe{code}",
            "silent": f"is open but sends no messages{silent}{note}",
            "renewed": f"serves new connections only{note}",
            "forbidden_403": f"rejects the connection before it opens{code}: check its token",
            "unreachable": "cannot be reached: the port is blocked, or the network is down",
            "timeout": str(detail.get("why", "is open but does not answer pings"))
            .removeprefix("open, and ")
            .replace("no answer to a ping", "is open but does not answer pings"),
            "stale": f"sends only old data: {detail.get('why', '')}",
            "wrong_content": f"address belongs to something that is not a WebSocket{code}: check the path in "
            f"OPS_APP_WS_URL",
            "redirected": f"redirects to another address{code}: check OPS_APP_WS_URL",
        }.get(last.outcome, outcome.words + code)
        if detail.get("why") == NO_TOKEN:
            return [
                ProbeSummary(
                    "system",
                    "",
                    f"the app issues no token for its WebSocket, {_since(since.ts_us)}: it {outcome.words}. "
                    f"Check its log, and that it has its Massive key.",
                )
            ]
        hint = "The page reconnects only once: refresh it." if last.outcome in ("closed", "timeout") else outcome.advice
        return [ProbeSummary("system", "", f"the app's WebSocket {words}, {_since(since.ts_us)}. {hint}")]

    def _log(self) -> list[ProbeSummary]:
        last = self.probed.now("log", "app", self.at_us)
        if last is None:
            return []
        if last.outcome != "ok":
            return [
                ProbeSummary(
                    "system",
                    "unknown",
                    f"the app's log cannot be read ({self.probed.details(last).get('why', 'not found')}): check "
                    f"OPS_APP_LOG.",
                )
            ]
        newest = self.probed.log_newest(self.window)
        kinds = {k: n for k, n in self.probed.log_kinds(self.window).items() if k in newest}
        errors = self.probed.errors(self.window)
        listed = ", ".join(f"{k} {n}" for k, n in sorted(kinds.items(), key=lambda i: -i[1])[:4])
        return [
            ProbeSummary(
                "system",
                "",
                f"the app logged {formatting.number(errors)} errors in this window"
                + (f": {listed}." if listed else "."),
            )
        ]

    def _process(self) -> list[ProbeSummary]:
        last, found = self.probed.now("process", "app", self.at_us), list[ProbeSummary]()
        for at in self.probed.restarts(self.window):
            found.append(
                ProbeSummary(
                    "system",
                    "",
                    f"the app's server restarted at "
                    f"{clock.instant(at).astimezone(formatting.NEW_YORK):%H:%M:%S} New York: its sockets were "
                    f"closed.",
                )
            )
        if last is None:
            return found
        if last.outcome != "ok":
            critical = last.outcome == "gone"
            return [
                *found,
                ProbeSummary(
                    "system",
                    "critical" if critical else "unknown",
                    "the app's process is not running."
                    if critical
                    else "the app's process cannot be checked: check OPS_APP_PID.",
                ),
            ]
        grows = self.probed.growth_mb_per_h(Window.before(self.window.end, self.rules["memory_growth"].window))
        return [
            *found,
            ProbeSummary(
                "system",
                "",
                f"the app's process uses {formatting.number(last.value, 'MB', 0)} of memory"
                + (f", {grows[0]:+z,.0f} MB per h." if grows else "."),
            ),
        ]

    def _clocks(self) -> list[ProbeSummary]:
        """Report each clock that is off."""
        skews = parties(self.probed, self.page.get("system", {}), self.at_us)
        return [ProbeSummary("system", "warning", words) for words in compare(skews, self.rules.skew_told_s).sentences]

    def _host(self) -> list[ProbeSummary]:
        last: dict[str, Sample] = {}
        for sample in self.probed.within("host", "app", self.window):
            last[self.probed.details(sample)["name"]] = sample
        wrong = [f"{name}: {self.probed.details(s)['told']}" for name, s in last.items() if s.outcome == "server_5xx"]
        if wrong:
            return [ProbeSummary("system", "warning", f"on the app's host: {'; '.join(wrong)}.")]
        return [ProbeSummary("system", "", f"on the app's host all {len(last)} checks passed.")] if last else []

    def _collector(self) -> list[ProbeSummary]:
        last = self.probed.now("beat", "collector", self.at_us)
        missed = self.probed.missed_heartbeats(self.at_us)
        heartbeat = self.rules["heartbeat"]
        if missed and heartbeat.crosses(missed, float(dict(heartbeat.thresholds)["warning"])):
            return [
                ProbeSummary(
                    "system",
                    "",
                    f"the collector has missed {missed:,.0f} heartbeats: since then there are no probes, and no "
                    f"alert is evaluated. Start ops collect again.",
                )
            ]
        if last is None:
            return []
        if last.outcome == "stopped":
            return [ProbeSummary("system", "", f"the collector is stopped {_since(last.ts_us)}.")]
        detail = self.probed.details(last)
        failing = f"; failing: {', '.join(detail['failing'])}" if detail.get("failing") else ""
        lost = f"; {detail['lost']} samples lost" if detail.get("lost") else ""
        stepped = [
            self.probed.details(s)["stepped_s"]
            for s in self.probed.within("beat", "collector", self.window)
            if "stepped_s" in self.probed.details(s)
        ]
        share = self.probed.lost_share(Window.before(self.window.end, LATELY))
        starved = share is not None and share > self.rules.probes.starved_share
        slowed = (
            f"; it could not run for {formatting.ratio(share, 0)} of the last "
            f"{formatting.duration(LATELY.total_seconds())}, so its response times may be too high: check the load of "
            f"this machine"
            if starved
            else ""
        )
        jumped = (
            f"; this machine's clock jumped by {formatting.duration(abs(stepped[-1]))} (sleep, or the clock was set)"
            if stepped
            else ""
        )
        return [
            ProbeSummary(
                "system",
                "warning" if failing or lost or starved else "",
                f"the collector probes every {detail['every_s']:g} s and uses "
                f"{formatting.number(last.value, 'MB', 0)} of memory{failing}{lost}{jumped}{slowed}.",
            )
        ]
