"""
Fetch the whole chain of a symbol, keep its pages as they came, and judge whether it is whole and what its Greeks are
worth.
"""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from opslib.foundation import clock
from opslib.foundation.clock import SECOND
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import OpsError
from opslib.telemetry.probes import chain_fetch, providers
from opslib.telemetry.probes.http import Prober
from opslib.telemetry.probes.providers import Moment
from opslib.telemetry.probes.store import Sample, SampleStore
from opslib.trading.options import completeness, iv_baseline

DAY_US = 86_400 * SECOND


class ChainProbe:
    """
    Fetches chains from Massive.

    Args:
        moment: The moment at which its data is judged, given the time of our own clock.

    Attributes:
        comparison: What each minute's probe of the first symbol is compared by, from one whole chain to the next.
    """

    def __init__(
        self,
        settings: Settings,
        samples: SampleStore,
        prober: Prober,
        rules: Rules,
        moment: Callable[[datetime], Moment],
    ):
        self.settings, self.samples, self.prober, self.rules, self._moment = settings, samples, prober, rules, moment
        self.comparison = completeness.Comparison(rules.chain, rules.probes.changed_by)
        self._whole: dict[str, Sample | None] = {}  # The last whole chain of each symbol.
        # One after the other in one thread: each thread that judges a chain keeps megabytes of its own.
        self._judge = ThreadPoolExecutor(1, "judge")

    def close(self) -> None:
        """Let go of the thread that judges chains."""
        self._judge.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, symbol: str) -> tuple[Sample, list[Any]]:
        """Fetch a chain; its sample, and its contracts."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        found = await chain_fetch.massive(self.prober, self.settings, symbol)
        now, outcome, detail = self.prober.now(), found.outcome, found.detail | {"pages": len(found.pages)}
        if outcome == "ok":
            counted = completeness.listed(found.results)
            why = completeness.why_partial(
                counted, await self._before(symbol, now), providers.today(now), self.rules.chain
            )
            outcome, detail = ("partial", detail | counted | {"why": why}) if why else (outcome, detail | counted)
        if found.pages:  # First of all, so that it is kept whatever becomes of judging it.
            kept = [self.settings.redact(providers.as_page(page).decode()).encode() for page in found.pages]
            await asyncio.to_thread(self.samples.keep_chain, clock.micros(now), "massive", symbol, outcome, kept)
        if found.results:
            judged = await loop.run_in_executor(self._judge, self._judged, found.pages, symbol, self._moment(now).at)
            detail = judged | detail
        told = self.settings.redact(json.dumps(detail, ensure_ascii=False, sort_keys=True))
        seconds = (loop.time() - began_s) * self.prober.speed
        sample = Sample(clock.micros(now), "chain", symbol, outcome, seconds, float(len(found.results)), detail=told)
        if outcome == "ok":
            self._whole[symbol] = sample
            if symbol == self.settings.symbols[0]:
                self.comparison.confirm()
        return sample, found.results

    async def _before(self, symbol: str, now: datetime) -> dict[str, Any] | None:
        """What was listed in the last whole chain of the same session; None where there is none."""
        day, at_us = providers.today(now), clock.micros(now)
        if symbol not in self._whole:
            kept = await asyncio.to_thread(self.samples.chains_of, symbol, at_us - DAY_US, at_us)
            self._whole[symbol] = next(
                (s for s in reversed(kept) if s.outcome == "ok" and "expiries" in s.told()), None
            )
        last = self._whole[symbol]
        return last.told() if last and providers.today(clock.instant(last.ts_us)) == day else None

    def _judged(self, pages: list[Any], symbol: str, now: datetime) -> dict[str, Any]:
        """What its Greeks are worth, as it is kept; why not, where nobody can read it."""
        from opslib.trading.options import chain, chain_quality

        try:
            return iv_baseline.counted(
                chain_quality.judge(chain.of_payload(pages, f"the chain of {symbol}", now), self.rules.chain, now)
            )
        except OpsError as problem:
            return {"why": str(problem)}
