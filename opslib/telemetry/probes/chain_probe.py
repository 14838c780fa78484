"""
Fetch the whole chain of a symbol, store its pages unchanged, and evaluate its completeness and its Greeks.
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
        moment: Returns the moment at which the data is evaluated, for a time of our clock.

    Attributes:
        comparison: Compares the minute's probes of the first symbol with the last whole chain.
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
        # All in one thread, since each thread that evaluates a chain keeps megabytes of memory.
        self._evaluation = ThreadPoolExecutor(1, "chain evaluation")

    def close(self) -> None:
        """Stop the thread that evaluates chains."""
        self._evaluation.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, symbol: str) -> tuple[Sample, list[Any]]:
        """Fetch a chain, and return its sample and its contracts."""
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
        if found.pages:  # First, so that it is stored even if the evaluation fails.
            kept = [self.settings.redact(providers.as_page(page).decode()).encode() for page in found.pages]
            await asyncio.to_thread(self.samples.keep_chain, clock.micros(now), "massive", symbol, outcome, kept)
        if found.results:
            summary = await loop.run_in_executor(
                self._evaluation, self._evaluated, found.pages, symbol, self._moment(now).at
            )
            detail = summary | detail
        shown = self.settings.redact(json.dumps(detail, ensure_ascii=False, sort_keys=True))
        seconds = (loop.time() - began_s) * self.prober.speed
        sample = Sample(clock.micros(now), "chain", symbol, outcome, seconds, float(len(found.results)), detail=shown)
        if outcome == "ok":
            self._whole[symbol] = sample
            if symbol == self.settings.symbols[0]:
                self.comparison.confirm()
        return sample, found.results

    async def _before(self, symbol: str, now: datetime) -> dict[str, Any] | None:
        """Return what the last whole chain of the same session listed; None if there is none."""
        day, at_us = providers.today(now), clock.micros(now)
        if symbol not in self._whole:
            kept = await asyncio.to_thread(self.samples.chains_of, symbol, at_us - DAY_US, at_us)
            self._whole[symbol] = next(
                (s for s in reversed(kept) if s.outcome == "ok" and "expiries" in s.details()), None
            )
        last = self._whole[symbol]
        return last.details() if last and providers.today(clock.instant(last.ts_us)) == day else None

    def _evaluated(self, pages: list[Any], symbol: str, now: datetime) -> dict[str, Any]:
        """Return the summary of its Greeks to be stored, or why the chain could not be read."""
        from opslib.trading.options import chain, chain_quality

        try:
            return iv_baseline.counted(
                chain_quality.evaluate_chain(
                    chain.of_payload(pages, f"the chain of {symbol}", now), self.rules.chain, now
                )
            )
        except OpsError as problem:
            return {"why": str(problem)}
