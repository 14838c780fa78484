"""
Describe what our own probes see, one sentence per finding and panel.

A sight is one sentence: who, what is the matter, since when, whose fault, what to do. Where a rule judges the same, the
rule has the verdict; a sight has one of its own only where no limit is needed to see that something is wrong.
"""

from datetime import timedelta
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

LONG = 10.0  # So many times longer than we need for an answer is long.
CHAINS_BACK = timedelta(hours=1)  # So far back may the chain be that another is held against.


class ProbeSummary(NamedTuple):
    """One sentence of a panel; its verdict is empty where a rule has it."""

    panel: str
    verdict: str
    words: str


def lately(rules: Rules) -> timedelta:
    """Over how long our probes and the page's requests are compared: both as they are now, whatever window is shown."""
    return rules["answers"].window


def _since(at_us: int) -> str:
    return f"since {clock.instant(at_us).astimezone(formatting.NEW_YORK):%H:%M:%S} New York"


def _seconds(found: float | None) -> str:
    return formatting.UNKNOWN if found is None else f"{found:.2f} s"


class ProbeSummaries:
    """
    What is to be told of our own looks over a window.

    Args:
        page: The page's figures of the same window, by panel, to be held against ours.
        page_says: Of each provider, the verdict of the page's own availability of the last minutes (`lately`).
    """

    def __init__(
        self, probed: ProbeHistory, rules: Rules, window: Window, page: dict[str, Any], page_says: dict[str, str]
    ):
        self.probed, self.rules, self.window, self.page, self.page_says = probed, rules, window, page, page_says
        self.at_us = window.end_us

    def all(self) -> list[ProbeSummary]:
        """Every sentence, by panel."""
        return [*self._providers(), *self._greeks(), *self._system()] if self.probed.any else []

    def _stands(self, subject: str) -> list[Sample]:
        """The last look of each kind at a subject, the worst first."""
        found = [
            s
            for probe in ("liveness", "health", "data", "metrics")
            if (s := self.probed.now(probe, subject, self.at_us))
        ]
        return sorted(found, key=lambda s: OUTCOMES[s.outcome].usable)

    def figures(self, subject: str) -> dict[str, Any]:
        """What our looks say of a subject, as JSON; empty where there was none."""
        stands = self._stands(subject)
        if not stands:
            return {}
        worst = stands[0]
        outcome, since = OUTCOMES[worst.outcome], self.probed.since(worst.probe, subject, self.at_us)
        asked, data = self.probed.usable(subject, self.window), self.probed.now("data", subject, self.at_us)
        seconds, p95 = self.probed.seconds(subject, self.window), probe_figures.p95_s(self.probed, subject, self.window)
        answered = self.probed.answered(subject, self.window)
        return {
            "outcome": outcome.name,
            "fault": outcome.fault,
            "since": formatting.iso(clock.instant(since.ts_us)) if since else None,
            "looks": asked.count,
            "usable": asked.part,
            "availability": answered.part / answered.count if answered.count else None,
            "p95_s": None if p95 is None else round(p95, 4),
            "mean_s": round(sum(seconds) / len(seconds), 4) if seconds else None,
            "data_age_s": data.value if data else None,
            "skew_s": self.probed.skew_s(subject, self.at_us),
            "quota_left": self._quota(subject),
        }

    def providers(self) -> dict[str, Any]:
        """What our looks say of each provider and who can serve, as JSON; empty where nobody looks."""
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
        """The last chain of each symbol, as JSON; empty where none was fetched."""
        found = self.probed.chains(Window.before(self.window.end, CHAINS_BACK))
        return (
            {
                "chains": {
                    symbol: {
                        "outcome": c[-1].outcome,
                        "fetched_at": formatting.iso(clock.instant(c[-1].ts_us)),
                        **self.probed.told(c[-1]),
                    }
                    for symbol, c in found.items()
                }
            }
            if found
            else {}
        )

    def system(self) -> dict[str, Any]:
        """
        What our looks say of the app's server, socket, log and process, and of ourselves, as JSON; empty where nobody
        looks.
        """
        found: dict[str, Any] = {"app": self.figures("app")} if self._stands("app") else {}
        for name, subject in (("socket", "app"), ("process", "app"), ("log", "app"), ("beat", "collector")):
            if (last := self.probed.now(name, subject, self.at_us)) and (
                since := self.probed.since(name, subject, self.at_us)
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
        return self.probed.told(last).get("quota_left") if last else None

    def _matter(self, subject: str, sample: Sample) -> str:
        """What is the matter with a subject, in one sentence."""
        outcome, since, told = (
            OUTCOMES[sample.outcome],
            self.probed.since(sample.probe, subject, self.at_us),
            self.probed.told(sample),
        )
        detail = f"HTTP {told['status']}, " if told.get("status", 200) >= 400 else ""
        detail += f'"{formatting.single_line(told["said"], 100)}", ' if told.get("said") else ""
        detail += f"asked for {told['route']}, as the app will when massive fails, " if told.get("route") else ""
        age = (
            f"data {formatting.duration(sample.value)} old, "
            if sample.outcome == "stale" and sample.value is not None
            else ""
        )
        when = _since(since.ts_us) if since else ""
        fault = "the app's" if subject == "app" and outcome.fault == PROVIDER else outcome.fault
        return f"{subject} {outcome.words} ({detail}{age}{when}). Fault: {fault}. {outcome.advice}".rstrip()

    def _providers(self) -> list[ProbeSummary]:
        found, at_us = list[ProbeSummary](), self.at_us
        if market_calendar.open_since(self.window.end) and self.probed.market_shut(at_us):
            said = " and ".join(self.probed.market_said_by(at_us))
            found.append(
                ProbeSummary(
                    "providers",
                    "",
                    f"the providers say that the market is closed ({said}), though our calendar has a "
                    f"session: nothing is expected of the app.",
                )
            )
        gone = self.probed.network_gone(at_us)
        if gone:
            told = ", ".join(
                f"{s} {OUTCOMES[last.outcome].words.split(':')[0]}"
                for s in PROVIDERS
                if (last := self.probed.now("liveness", s, at_us))
            )
            found.append(
                ProbeSummary(
                    "providers",
                    "critical",
                    f"our own network first: neither provider can be connected to ({told}). Check DNS, route "
                    f"and firewall from here.",
                )
            )
        for subject in PROVIDERS:
            found += self._provider(subject, bool(gone))
        serving = self.probed.serving(at_us)
        if serving == "tradier":
            found.append(ProbeSummary("providers", "", "tradier can serve in massive's place."))
        elif serving == "nobody":
            why = (
                "no fallback is configured (OPS_FALLBACK=none)"
                if self.probed.fallback == "none"
                else "neither provider gives what is asked for"
            )
            found.append(ProbeSummary("providers", "critical", f"nobody can serve: {why}."))
        return found

    def _provider(self, subject: str, network_gone: bool) -> list[ProbeSummary]:
        stands = self._stands(subject)
        if not stands or network_gone:
            return []
        worst, asked, p95 = (
            stands[0],
            self.probed.answered(subject, self._lately()),
            probe_figures.p95_s(self.probed, subject, self.window),
        )
        if self.probed.turns(subject, self._lately()) > 2:
            trouble = self.probed.trouble(subject, self._lately())
            words = f": it {OUTCOMES[trouble].words}" if trouble else ""
            return [
                ProbeSummary(
                    "providers",
                    "",
                    f"{subject} answers some of our looks and not others ({asked.count - asked.part} of "
                    f"{asked.count} attempts failed in the last 5 min){words}. Fault: "
                    f"{OUTCOMES[trouble].fault if trouble else UNCLEAR}.",
                )
            ]
        if not OUTCOMES[worst.outcome].usable:
            since = self.probed.since(worst.probe, subject, self.at_us)
            lasts = since is not None and since.ts_us < worst.ts_us  # One look that went wrong is no trouble yet.
            return [ProbeSummary("providers", "warning" if lasts else "", self._matter(subject, self._agreed(worst)))]
        return [self._well(subject, p95), *self._against_page(subject, p95)]

    def _agreed(self, failed: Sample) -> Sample:
        """
        Of the probes that have failed without a break, the newest that ended as the one before it did; the newest where
        no two did.
        """
        line = [
            s for s in reversed(self.probed.within(failed.probe, failed.subject, self._lately())) if s.outcome != KEPT
        ]
        streak = list(takewhile(lambda s: not OUTCOMES[s.outcome].usable, line))
        return next((newer for newer, older in pairwise(streak) if newer.outcome == older.outcome), failed)

    def _lately(self) -> Window:
        return Window.before(self.window.end, lately(self.rules))

    def _well(self, subject: str, p95: float | None) -> ProbeSummary:
        data = self.probed.now("data", subject, self.at_us)
        age = f", data {formatting.duration(data.value)} old" if data and data.value is not None else ""
        quota = self._quota(subject)
        left = f", {quota} questions left of this minute's quota" if quota is not None else ""
        refused = self.probed.refused_attempts(subject, self._lately())
        often = (
            f"; {refused.part} of {refused.count} attempts in the last 5 min were refused for asking too often"
            if refused.part
            else ""
        )
        return ProbeSummary("providers", "", f"{subject} answers us (p95 {_seconds(p95)}{age}{left}{often}).")

    def _against_page(self, subject: str, p95: float | None) -> list[ProbeSummary]:
        """It answers us; does it answer the app?"""
        gave_up_ms, kinds = self.probed.gave_up_after_ms(self._lately()), self.probed.log_kinds(self._lately())
        if subject == "massive" and gave_up_ms is not None and kinds.get("timeout"):
            # An app that waits far longer than we need, and in vain, does not get through to it.
            why = (
                "the app's own timeout is too short"
                if p95 is None or gave_up_ms / 1000 < LONG * p95
                else "the app's own timeout, or the way from the app to massive, is at fault"
            )
            return [
                ProbeSummary(
                    "providers",
                    "warning",
                    f"the app gives up on massive after {gave_up_ms} ms, while massive answers us within "
                    f"{_seconds(p95)} (p95): {why}.",
                )
            ]
        if self.page_says.get(subject) == "critical" and self._answered_throughout(subject):
            return [
                ProbeSummary(
                    "providers",
                    "",
                    f"{subject} has answered each of our probes of the last minutes, yet the app's page "
                    f"counts its requests of the same minutes as failed: look at the app (its key, its "
                    f"network, its timeout), not at {subject}.",
                )
            ]
        return []

    def _answered_throughout(self, subject: str) -> bool:
        """
        Whether each of our probes was answered, of the time of the page's verdict and of twice as long: after an outage
        both still count it for a while.
        """
        asked = self.probed.usable(subject, Window.before(self.window.end, 2 * lately(self.rules)))
        return asked.count > 0 and asked.part == asked.count

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
                        f"({self.probed.told(last).get('pages', 0)} pages, {formatting.number(last.value or 0)} "
                        f"contracts{f'; {why}' if (why := self.probed.told(last).get('why')) else ''}). "
                        f"{OUTCOMES[last.outcome].advice}",
                    )
                )
                continue
            told = self.probed.told(last)
            if "flagged" not in told:
                found.append(
                    ProbeSummary(
                        "greeks",
                        "warning",
                        f"the chain of {symbol} was not judged: {told.get('why', 'an older collector fetched it')}",
                    )
                )
                continue
            kinds = ", ".join(
                f"{n} {name.replace('_', ' ')}" for name, n in sorted(told["faults"].items(), key=lambda f: -f[1])
            )
            found.append(
                ProbeSummary(
                    "greeks",
                    "",
                    f"the chain of {symbol}: {formatting.number(told['contracts'])} contracts, "
                    f"{formatting.number(told['core'])} tradable; of these {told['flagged']} with a "
                    f"fault{f' ({kinds})' if kinds else ''}; IV at the money {formatting.ratio(told['iv_atm'], 1)}.",
                )
            )
            strange = {name: unit for name, unit in told["units"].items() if unit not in (None, USUAL[name])}
            if strange:
                found.append(
                    ProbeSummary(
                        "greeks",
                        "warning",
                        f"the Greeks of {symbol} come in other units than usual: "
                        f"{', '.join(f'{name} {unit}'.replace('_', ' ') for name, unit in strange.items())}.",
                    )
                )
            before = next((self.probed.told(c) for c in chains if c.outcome == "ok" and c is not last), None)
            found += self._changed(symbol, before, told) if before else []
            if told.get("expires_today"):
                found.append(
                    ProbeSummary(
                        "greeks",
                        "",
                        f"{symbol} has {told['expires_today']} contracts that expire today: a gamma of 0 in "
                        f"their wings is right.",
                    )
                )
        return found

    def _changed(self, symbol: str, before: dict[str, Any], now: dict[str, Any]) -> list[ProbeSummary]:
        """Has a median changed by more than markets do within the hour, and what does that look like?"""
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
            told = ", ".join(f"{k} {t:.3g} times" for k, t in moved.items())
            return [
                ProbeSummary(
                    "greeks",
                    "warning",
                    f"the units of {symbol}'s Greeks may have changed: medians against an earlier chain of "
                    f"this hour: {told}, its IV not.",
                )
            ]
        if "iv" in moved:
            return [
                ProbeSummary(
                    "greeks",
                    "",
                    f"{symbol}'s median IV is {times['iv']:.1f} times that of an earlier chain of this hour: "
                    f"market stress, no fault of the data while its Greeks agree.",
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
        stands = self._stands("app")
        if not stands:
            return []
        worst, p95 = stands[0], probe_figures.p95_s(self.probed, "app", self._lately())
        if not OUTCOMES[worst.outcome].usable:
            words = self._matter("app", worst)
            if worst.outcome == "wrong_content":
                words += (
                    " It answers its web page on every path it does not know: OPS_APP_URL must be the "
                    "server's own address, without a path."
                )
            return [
                ProbeSummary(
                    "system", "critical" if OUTCOMES[worst.outcome].answered is False else "warning", f"the {words}"
                )
            ]
        limit = dict(self.rules["response_time"].ladder)
        slow = (
            p95 is not None
            and isinstance(limit["critical"], float)
            and not isinstance(limit["warning"], str)
            and self.rules["response_time"].past(p95, limit["warning"])
        )
        up = self.probed.now("health", "app", self.at_us)
        age = f", up for {formatting.duration(up.value)}" if up and up.value is not None else ""
        return [
            ProbeSummary(
                "system",
                "warning" if slow else "",
                f"the app is slow to answer us (p95 {_seconds(p95)}{age})."
                if slow
                else f"the app answers us (p95 {_seconds(p95)}{age}).",
            )
        ]

    def _socket(self) -> list[ProbeSummary]:
        last, since = self.probed.now("socket", "app", self.at_us), self.probed.since("socket", "app", self.at_us)
        if last is None or since is None:
            return []
        outcome, told, lately = OUTCOMES[last.outcome], self.probed.told(last), self._lately()
        if self.probed.socket_turns(lately) > 2:
            looks = self.probed.within("socket", "app", lately)
            bad = [s.outcome for s in looks if not OUTCOMES[s.outcome].usable]
            return [
                ProbeSummary(
                    "system",
                    "warning",
                    f"the app's WebSocket comes and goes: {len(bad)} of {len(looks)} looks in the last 5 min "
                    f"found it {' or '.join(sorted(set(bad)))}. The page tries once to come back, then never "
                    f"again: refresh it.",
                )
            ]
        if outcome.usable:
            heard = (
                f", last message {formatting.duration(last.value)} ago"
                if last.value is not None
                else ", no message heard yet"
            )
            return [ProbeSummary("system", "", f"the app's WebSocket answers us ({_seconds(last.seconds)}{heard}).")]
        if "code" in told:
            code = f" (code {told['code']})"
        elif "status" in told:
            code = f" (HTTP {told['status']})"
        else:
            code = ""
        silent = (
            f", nothing for {formatting.duration(last.value)}"
            if last.outcome == "silent" and last.value is not None
            else ""
        )
        note = f": {found}" if (found := app_state.socket_note(self.probed, self.at_us)) else ""
        words = {
            "closed": f"is closed on us{code}",
            "silent": f"is open and silent{silent}{note}",
            "renewed": f"serves new connections only{note}",
            "forbidden_403": f"refuses us before it opens{code}: its token",
            "unreachable": "cannot be connected to while the port is blocked, or its network gone",
            "timeout": str(told.get("why", "is open and answers no ping"))
            .removeprefix("open, and ")
            .replace("no answer to a ping", "is open and answers no ping"),
            "stale": f"sends only old data: {told.get('why', '')}",
            "wrong_content": f"is answered by something that is no WebSocket{code}: see whether "
            f"OPS_APP_WS_URL names its path",
            "redirected": f"sends us elsewhere{code}: see OPS_APP_WS_URL",
        }.get(last.outcome, outcome.words + code)
        if told.get("why") == NO_TOKEN:
            return [
                ProbeSummary(
                    "system",
                    "",
                    f"the app gives no token for its WebSocket, {_since(since.ts_us)}: it {outcome.words}. "
                    f"See its log, and whether it has its Massive key.",
                )
            ]
        hint = (
            "The page tries once to come back, then never again: refresh it."
            if last.outcome in ("closed", "timeout")
            else outcome.advice
        )
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
                    f"the app's log cannot be read ({self.probed.told(last).get('why', 'not there')}): see "
                    f"OPS_APP_LOG.",
                )
            ]
        kinds = {
            k: n for k, n in self.probed.log_kinds(self.window).items() if k in self.probed.log_newest(self.window)
        }
        errors = self.probed.errors(self.window)
        told = ", ".join(f"{k} {n}" for k, n in sorted(kinds.items(), key=lambda i: -i[1])[:4])
        return [
            ProbeSummary(
                "system",
                "",
                f"the app logged {formatting.number(errors)} errors in this window" + (f": {told}." if told else "."),
            )
        ]

    def _process(self) -> list[ProbeSummary]:
        last, found = self.probed.now("process", "app", self.at_us), list[ProbeSummary]()
        for at in self.probed.restarts(self.window):
            found.append(
                ProbeSummary(
                    "system",
                    "",
                    f"the app's server was started anew at "
                    f"{clock.instant(at).astimezone(formatting.NEW_YORK):%H:%M:%S} New York: its sockets were "
                    f"closed with it.",
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
                    "the app's process is gone."
                    if critical
                    else "the app's process cannot be looked at: see OPS_APP_PID.",
                ),
            ]
        grows = self.probed.growth_mb_per_h(Window.before(self.window.end, self.rules["memory_growth"].window))
        return [
            *found,
            ProbeSummary(
                "system",
                "",
                f"the app's process holds {formatting.number(last.value, 'MB', 0)}"
                + (f", {grows[0]:+,.0f} MB per h." if grows else "."),
            ),
        ]

    def _clocks(self) -> list[ProbeSummary]:
        """Whose clock is off."""
        skews = parties(self.probed, self.page.get("system", {}), self.at_us)
        return [ProbeSummary("system", "warning", words) for words in compare(skews, self.rules.skew_told_s).sentences]

    def _host(self) -> list[ProbeSummary]:
        last: dict[str, Sample] = {}
        for sample in self.probed.within("host", "app", self.window):
            last[self.probed.told(sample)["name"]] = sample
        wrong = [f"{name}: {self.probed.told(s)['told']}" for name, s in last.items() if s.outcome == "server_5xx"]
        if wrong:
            return [ProbeSummary("system", "warning", f"on the app's host: {'; '.join(wrong)}.")]
        return (
            [ProbeSummary("system", "", f"on the app's host {len(last)} things were looked at and none is wrong.")]
            if last
            else []
        )

    def _collector(self) -> list[ProbeSummary]:
        last = self.probed.now("beat", "collector", self.at_us)
        missed = self.probed.missed_beats(self.at_us)
        heartbeat = self.rules["heartbeat"]
        if missed and heartbeat.past(missed, float(dict(heartbeat.ladder)["warning"])):
            return [
                ProbeSummary(
                    "system",
                    "",
                    f"our collector has missed {missed:,.0f} beats: nothing was looked at since, and no alert "
                    f"is judged. Start ops collect again.",
                )
            ]
        if last is None:
            return []
        if last.outcome == "stopped":
            return [ProbeSummary("system", "", f"our collector was stopped {_since(last.ts_us)}.")]
        told = self.probed.told(last)
        failing = f"; failing: {', '.join(told['failing'])}" if told.get("failing") else ""
        lost = f"; {told['lost']} samples lost" if told.get("lost") else ""
        stepped = [
            self.probed.told(s)["stepped_s"]
            for s in self.probed.within("beat", "collector", self.window)
            if "stepped_s" in self.probed.told(s)
        ]
        share = self.probed.lost_share(Window.before(self.window.end, LATELY))
        starved = share is not None and share > self.rules.probes.starved_share
        slowed = (
            f"; it could not run for {formatting.ratio(share, 0)} of the last "
            f"{formatting.duration(LATELY.total_seconds())}, so what looks slow from here is not sure to be: see "
            f"what else this machine does"
            if starved
            else ""
        )
        jumped = f"; our clock jumped by {formatting.duration(abs(stepped[-1]))} (sleep, or set)" if stepped else ""
        return [
            ProbeSummary(
                "system",
                "warning" if failing or lost or starved else "",
                f"our collector looks every {told['every_s']:g} s and holds {formatting.number(last.value, 'MB', 0)}"
                f"{failing}{lost}{jumped}{slowed}.",
            )
        ]
