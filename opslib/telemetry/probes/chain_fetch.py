"""Fetch a whole chain from a provider: page after page of Massive, expiration after expiration of Tradier."""

import asyncio
from typing import Any, NamedTuple

from opslib.foundation.config.settings import Settings
from opslib.telemetry.probes import providers
from opslib.telemetry.probes.http import Prober, ProbeRequest
from opslib.telemetry.probes.store import Sample
from opslib.trading.options.vendors import several

CHAIN_TIMEOUT_S = 60.0
USABLE = ("ok", "ok_empty")


class Fetched(NamedTuple):
    """
    A fetched chain.

    Attributes:
        outcome: The outcome of the fetch; a name of `outcomes.OUTCOMES`.
        pages: The payload of each response.
        results: For Massive, the contracts of all pages.
        detail: Further details to store.
    """

    outcome: str
    pages: list[Any]
    results: list[Any]
    detail: dict[str, Any]


async def _answer(prober: Prober, question: ProbeRequest) -> tuple[Sample | None, Any]:
    attempts = [attempt async for attempt in prober.attempts(question)]
    return attempts[-1] if attempts else (None, None)


def _ended(last: Sample | None) -> str:
    return last.outcome if last else "timeout"


async def massive(prober: Prober, settings: Settings, symbol: str) -> Fetched:
    """Fetch the whole chain of a symbol from Massive, page by page."""
    pages, results, seen = list[Any](), list[Any](), set[str]()
    url, detail, loop = None, dict[str, Any](), asyncio.get_running_loop()
    began_s = loop.time()
    while (
        len(pages) < providers.MOST_PAGES and loop.time() - began_s < CHAIN_TIMEOUT_S * prober.patience / prober.speed
    ):
        last, payload = await _answer(prober, providers.chain_question(settings, symbol, url))
        if last is None or last.outcome not in USABLE or not isinstance(payload, dict):
            detail |= last.details() if last else {}
            return Fetched("partial" if pages else _ended(last), pages, results, detail)
        pages.append(payload)
        results += [r for r in several(payload.get("results")) if isinstance(r, dict)]
        try:
            url = providers.next_page(settings, payload, seen)
        except ValueError as problem:
            return Fetched("partial", pages, results, {"why": str(problem)})
        if url is None:
            return Fetched("ok" if results else "ok_empty", pages, results, detail)
    return Fetched("partial", pages, results, {"why": "the chain has more pages than expected, or took too long"})


async def tradier(prober: Prober, settings: Settings, symbol: str) -> Fetched:
    """Fetch every expiration of a symbol's chain from Tradier, and the underlying's quote, which its chains lack."""
    last, payload = await _answer(
        prober, providers.tradier_question(settings, "options/expirations", symbol, includeAllRoots="true")
    )
    days = providers.expirations(payload) if last and last.outcome in USABLE else []
    if last is None or not days:
        return Fetched(
            last.outcome if last and last.outcome != "ok" else "ok_empty", [], [], last.details() if last else {}
        )
    quoted, quote = await _answer(prober, providers.tradier_question(settings, "quotes", symbol))
    pages = [quote] if quoted and quoted.outcome == "ok" else []
    for day in days:
        last, payload = await _answer(
            prober, providers.tradier_question(settings, "options/chains", symbol, expiration=day, greeks="true")
        )
        if last is None or last.outcome not in USABLE:
            return Fetched(
                "partial" if len(pages) > 1 else _ended(last),
                pages,
                [],
                last.details() if last else {},
            )
        pages.append(payload)
    return Fetched("ok", pages, [], {})
