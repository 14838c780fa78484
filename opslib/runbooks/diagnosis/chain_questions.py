"""
Answer the diagnostic questions about option chains and Greeks, from fetched chains and the page's counters.

The newer source wins: a chain that was fetched before the page began to count a fault does not contradict it.
"""

import math
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from opslib.alerting.causes import OF_OUTCOME
from opslib.alerting.verdicts import Finding
from opslib.foundation import clock
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.config.rules import SENT
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.runbooks.diagnosis.answers import Found
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample
from opslib.trading.options.units import USUAL

if TYPE_CHECKING:
    from opslib.dashboard.status import Status

CHAINS_BACK = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
PIECE = timedelta(seconds=10)  # The page posts every 5 s.
KINDS = (  # A fault of a chain, the page's rule for it, its cause, and the question.
    ("gamma_zero", "gamma_zero", "greeks_gamma_zero", "Is gamma present and not zero?"),
    ("missing", "greeks_valid", "greeks_missing", "Are all Greeks present?"),
    ("delta_out_of_bounds", "delta_out_of_bounds", "greeks_out_of_bounds", "Are all deltas within bounds?"),
)


class ChainQuestions:
    """
    The questions about chains at the end of a view.

    Args:
        findings: The findings of all rules at that time, each over its own window.
        least: The number of probes that a cause needs.
    """

    def __init__(self, view: "Status", probed: ProbeHistory, findings: list[Finding], least: int):
        self.view, self.probed, self.findings, self.least = view, probed, findings, least
        self.chains = probed.chains(Window.before(view.window.end, CHAINS_BACK))
        read = {
            symbol: [(c, c.details()) for c in chains if c.outcome == "ok" and "flagged" in c.details()]
            for symbol, chains in self.chains.items()
        }
        self.read: dict[str, list[tuple[Sample, dict[str, Any]]]] = {
            symbol: found for symbol, found in read.items() if found
        }
        self.newest_us = max((c[-1][0].ts_us for c in self.read.values()), default=None)

    def whole(self) -> Found:
        """Answer whether the newest chain of each symbol is complete."""
        question, excludes = "Are the option chains complete?", ("provider_partial", "provider_empty")
        if not self.chains:
            return Found(question, "Unknown: no chain was fetched.", None)
        newest = max(c[-1].ts_us for c in self.chains.values())
        failed = {symbol: c[-1] for symbol, c in self.chains.items() if c[-1].outcome != "ok"}
        known = [(symbol, s) for symbol, s in failed.items() if s.outcome in ("partial", "ok_empty", "stale")]
        for symbol, sample in known:
            same = [c for chains in self.chains.values() for c in chains if c.outcome == sample.outcome]
            if len(same) >= self.least:
                why = f": {sample.details()['why']}" if sample.details().get("why") else ""
                answer = f"No, the chain of {symbol}: massive {OUTCOMES[sample.outcome].words}{why}."
                return Found(
                    question,
                    answer,
                    OF_OUTCOME[sample.outcome],
                    "massive",
                    1.0,
                    "chain",
                    sample.ts_us,
                    same[0].ts_us,
                    frozenset({f"chain:{sample.outcome}"}),
                )
        for symbol, chains in self.read.items():
            most, now = max(t["contracts"] for _, t in chains), chains[-1][1]["contracts"]
            if symbol not in failed and now * self.view.rules.probes.changed_by < most:
                return Found(
                    question,
                    f"No: the chain of {symbol} has {now} contracts; an earlier one of this hour has {most}.",
                    "provider_partial",
                    "massive",
                    1.0,
                    "chain",
                    chains[-1][0].ts_us,
                    None,
                    frozenset({"chain:partial"}),
                )
        text = (
            f"Unknown: the last chain of {', '.join(failed)} could not be "
            f"fetched{'; one failure is not enough for a cause' if known else ''}."
            if failed
            else "Yes."
        )
        return Found(question, text, None if failed else "", None, 1.0, "chain", newest, excludes=excludes)

    def certainty(self) -> float:
        """
        Return the confidence of a finding of no fault, 0 to 1.

        It depends on the age of the chains and on the newest probe of a few contracts (rules.toml, [diagnosis]).
        """
        if not self.read:
            return 1.0
        limits, at_us = self.view.rules.diagnosis, self.view.window.end_us
        oldest_us = min(chains[-1][0].ts_us for chains in self.read.values())
        sure = 1 - limits.chain_doubt * min(1.0, (at_us - oldest_us) / SECOND / limits.chain_doubt_s)
        return sure * limits.differing if self._differs() else sure

    def _differs(self) -> Sample | None:
        """
        Return the newest probe of a few contracts if it differs from the last chain; else None.
        """
        last = self.probed.now("data", "massive", self.view.window.end_us)
        return last if last and "gone" in last.details() and last.ts_us > (self.newest_us or 0) else None

    def listed(self) -> Found:
        """Answer whether the newest probe matches the last chain; only a whole chain shows the cause."""
        question, last = (
            "Does the newest probe match the last stored chain?",
            self.probed.now("data", "massive", self.view.window.end_us),
        )
        if last is None or not OUTCOMES[last.outcome].usable:
            return Found(question, "Unknown: the newest probe returned no usable data.", None, "massive")
        if (sample := self._differs()) is None:
            return Found(question, "Yes.", "", "massive", 1.0, "probe", last.ts_us)
        details = sample.details()
        answer = (
            f"No: of {details['of']} contracts, {details['gone']} are missing and {details['moved']} have very "
            f"different Greeks. The whole chain is fetched again."
        )
        return Found(question, answer, None, "massive", 1.0, "probe", sample.ts_us)

    def greeks(self) -> Iterable[Found]:
        """Yield the answers to every question about Greeks, from each source with data."""
        for fault, rule, cause, question in KINDS:
            worst = self._worst(fault)
            bad = [
                symbol
                for symbol, chains in self.read.items()
                if self._share(chains[-1][1], fault) > self.view.rules.chain.told_share
            ]
            page = list(self._by_page(rule, cause, question, self._whose(bad) if bad else None))
            if worst is not None:
                _, symbol, sample, details = worst
                rows = f"{details['faults'].get(fault, 0)} of {details['core']} tradable contracts of {symbol}"
                others = f", and in {', '.join(s for s in bad if s != symbol)}" if len(bad) > 1 else ""
                answer = f"No: {fault.replace('_', ' ')} in {rows}{others}." if bad else f"Yes: {rows} are affected."
                subject = self._whose(bad) if bad else symbol
                yield Found(
                    question, answer, cause if bad else "", subject, 1.0, "chain", sample.ts_us, excludes=(cause,)
                )
            elif not page:
                yield Found(question, "Unknown: no chain was fetched, and the page reports nothing.", None)
            yield from page
        yield self._units()
        yield self._stress()
        yield self._expiry()

    def _worst(self, fault: str) -> tuple[float, str, Sample, dict[str, Any]] | None:
        """Return the newest chain with the largest share of a fault: share, symbol, sample and details."""
        newest = ((self._share(chains[-1][1], fault), symbol, *chains[-1]) for symbol, chains in self.read.items())
        return max(newest, default=None, key=lambda w: w[0])

    @staticmethod
    def _share(details: dict[str, Any], fault: str) -> float:
        share: float = details["faults"].get(fault, 0) / max(details["core"], 1)
        return share

    def _whose(self, bad: list[str]) -> str:
        """Return the subject of bad Greeks: a symbol if it is the only one of several, else the provider."""
        return bad[0] if len(bad) == 1 < len(self.read) else "massive"

    def _by_page(self, rule: str, cause: str, question: str, symbol: str | None) -> Iterable[Found]:
        """Yield the answer from the page's counters, if they are known."""
        page = {f.rule.name: f for f in self.findings if f.source == "page" and f.rule.panel == "greeks"}
        found = page.get(rule)
        if found is None or found.verdict == "unknown":
            return
        began_us = self._began_us(found) if found.severity else None
        reached = found.severity in SENT  # A severity that sends notifications; a warning at one time may be chance.
        # A Greek is valid where nothing is wrong and nothing is missing: what no other count explains is missing.
        if cause == "greeks_missing":
            reached = reached or (began_us is not None and (self.newest_us or 0) < began_us)
            reached = reached and not any(
                page[other].severity for other in ("gamma_zero", "delta_out_of_bounds") if other in page
            )
        last_us = self.view.counters.last_seen_us(self.view.window.end_us)
        if (
            reached
            and cause == "greeks_gamma_zero"
            and began_us is not None
            and symbol is None
            and self._expire(found, began_us)
        ):
            text = (
                f"Yes: {found.sentence}; this is expected: contracts that expire today have no gamma, and "
                f"every tradable contract of the newest chain has one."
            )
            yield Found(question, text, "", "app", 1.0, "page", last_us)
            return
        symptom = "page:delta" if cause == "greeks_out_of_bounds" else "page:greeks"
        sure = 1.0 if found.verdict == "critical" else 0.7
        yield Found(
            question,
            f"{'No' if reached else 'Yes'}: {found.sentence}.",
            cause if reached else "",
            symbol or self._serving() or "app",
            sure if reached else 1.0,
            "page",
            last_us,
            began_us if reached else None,
            frozenset({symptom}),
        )

    def _serving(self) -> str | None:
        """Return the provider whose Greeks the page shows; None if it is unknown."""
        serving = self.probed.serving(self.view.window.end_us)
        if serving not in PROVIDERS:
            return None
        failing = any(
            f.rule.name == "availability" and f.subject == serving and f.source == "page" and f.severity in SENT
            for f in self.findings
        )
        return None if failing else serving

    def _expire(self, found: Finding, began_us: int) -> bool:
        """
        Return whether expiring contracts explain the zeros that the page counts.

        They do by a chain fetched since, or if the page counts no more than an earlier chain has.
        """
        without = sum(self._expiring("expiring_zero").values())
        listed = sum(chains[-1][1].get("contracts", math.inf) for chains in self.read.values())
        since = (self.newest_us or 0) >= began_us + clock.span_us(PIECE)
        return without > 0 and (since or (found.figure.value or 0.0) * listed <= without)

    def _began_us(self, found: Finding) -> int:
        """Return since when the page counts a fault, within `PIECE`; at most the rule's window ago."""
        end, begins = self.view.window.end, self.view.window.end
        for back in range(round(found.rule.window / MINUTE)):
            minute = Window.before(end - back * MINUTE, MINUTE)
            if self._breaches(found, minute) is False:
                break
            begins = minute.start
        pieces = (Window(begins + n * PIECE, begins + (n + 1) * PIECE) for n in range(MINUTE // PIECE))
        first = next((piece.start for piece in pieces if self._breaches(found, piece)), begins)
        return round(first.timestamp() * SECOND)

    def _breaches(self, found: Finding, window: Window) -> bool | None:
        """
        Return whether the page's count in a window crosses the rule's first threshold; None without data.
        """
        part, total = (
            self.view.counters.increase(found.rule.name, window),
            self.view.counters.increase("validations", window),
        )
        return (
            found.rule.crosses(part / total, float(found.rule.thresholds[0][1])) if total and part is not None else None
        )

    def _times(self, chains: list[tuple[Sample, dict[str, Any]]]) -> dict[str, float]:
        """Return the ratio of each median of the last chain to that of the first chain of the hour."""
        before, now = chains[0][1], chains[-1][1]
        return {
            k: abs(now[f"median_{k}"] / before[f"median_{k}"])
            for k in ("iv", "theta", "vega")
            if now.get(f"median_{k}") and before.get(f"median_{k}")
        }

    def _of_chains(
        self, question: str, answer: str, cause: str | None, subject: str | None = None, excludes: tuple[str, ...] = ()
    ) -> Found:
        return Found(question, answer, cause, subject, 1.0, "chain", self.newest_us, excludes=excludes)

    def _units(self) -> Found:
        question, most, limits = (
            "Do the Greeks have their usual units?",
            self.view.rules.probes.changed_by,
            self.view.rules.chain,
        )
        if not self.read:
            return Found(question, "Unknown: no chain was fetched.", None)
        strange = dict[str, str]()
        for symbol, chains in self.read.items():
            details, times = chains[-1][1], self._times(chains)
            other = {name: unit for name, unit in details["units"].items() if unit not in (None, USUAL[name])}
            moved = (
                {k: t for k, t in times.items() if k != "iv" and (t > most or t < 1 / most)}
                if 1 / most <= times.get("iv", 0) <= most
                else {}
            )
            if other or moved:
                names = ", ".join(f"{n} {u}" for n, u in other.items()) or ", ".join(
                    f"{k} {t:.3g} times its earlier value" for k, t in moved.items()
                )
                strange[symbol] = f"{symbol} has {names}"
            elif self._share(details, "units") > limits.told_share:
                strange[symbol] = (
                    f"{details['faults']['units']} of {details['core']} tradable contracts of {symbol} have "
                    f"other units than the rest"
                )
        if strange:
            return self._of_chains(
                question, f"No: {'; '.join(strange.values())}.", "greeks_units", self._whose(list(strange))
            )
        return self._of_chains(question, "Yes.", "", excludes=("greeks_units",))

    def _stress(self) -> Found:
        question, most = "Did IV change sharply within the hour?", self.view.rules.probes.changed_by
        known = {symbol: self._times(chains).get("iv") for symbol, chains in self.read.items() if len(chains) > 1}
        high = {symbol: t for symbol, t in known.items() if t is not None and (t > most or t < 1 / most)}
        if not known:
            return Found(question, "Unknown: there is no earlier chain of this hour.", None)
        text = ", ".join(f"IV of {s} is {t:.1f} times its value in an earlier chain" for s, t in high.items())
        return self._of_chains(
            question,
            f"Yes: {text}, and the Greeks agree with the prices." if high else "No.",
            "market_stress" if high else "",
            excludes=("market_stress",),
        )

    def _expiring(self, counted: str) -> dict[str, int]:
        """
        Return the number of contracts per symbol that expire today (`expires_today`), or also lack gamma.

        `counted` is ``expires_today`` or ``expiring_zero``.
        """
        return {symbol: n for symbol, chains in self.read.items() if (n := chains[-1][1].get(counted))}

    def _expiry(self) -> Found:
        question = "Do contracts expire today?"
        if not self.read:
            return Found(question, "Unknown: no chain was fetched.", None)
        expiring, without = self._expiring("expires_today"), self._expiring("expiring_zero")
        text = ", ".join(f"{n} contracts of {s}, {without.get(s, 0)} without gamma" for s, n in expiring.items())
        # Many symbols have contracts that expire every day. They are a cause only of zeros that both the page and the
        # chain have.
        page = next(
            (
                f
                for f in self.findings
                if f.rule.name == "gamma_zero" and f.source == "page" and f.figure.value is not None
            ),
            None,
        )
        zeros = page is not None and page.rule.crosses(page.figure.value or 0.0, float(page.rule.thresholds[0][1]))
        answer = f"Yes: {text}{'' if zeros else '; the page counts no zeros'}." if expiring else "No."
        return self._of_chains(question, answer, "expiry" if without and zeros else "", excludes=("expiry",))
