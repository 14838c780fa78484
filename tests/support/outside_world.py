"""Serve Massive, Tradier and the app on real sockets, each with its own clock, and a market that can be closed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.simulation.world.http_server import Answer, Request, as_json
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample
from tests.support.servers import serving

NEW_YORK = ZoneInfo("America/New_York")
RULES = rules.load()
QUOTAS, UNUSED_PER_MIN = ("massive_per_min", "tradier_per_min"), 6000.0
BEGINS = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)  # 11:00 New York, an ordinary session.


class Outside:
    """
    The responses of the servers; attributes may be changed at any time.

    Attributes:
        at: Our own time.
        ahead_s: How far each party's clock is ahead of ours, seconds.
        data_ahead_s: How far the timestamps of each provider's data are ahead of our clock, seconds.
        market: The state of the market that the providers report.
        frozen: The instant of the last quotes, by our clock; None while there are new quotes.
        refuses: Returns another response to a request than the usual one, or None.
    """

    def __init__(self) -> None:
        self.at = BEGINS
        self.ahead_s = dict.fromkeys(("massive", "tradier", "app"), 0.0)
        self.data_ahead_s = dict.fromkeys(("massive", "tradier"), 0.0)
        self.market = "open"
        self.frozen: datetime | None = None
        self.refuses: Callable[[Request], Answer | None] = lambda request: None
        self.asked: list[str] = []

    def _clock(self, party: str) -> datetime:
        return self.at + timedelta(seconds=self.ahead_s[party])

    def _quoted_s(self, party: str) -> float:
        return (self.frozen or self.at - timedelta(seconds=1)).timestamp() + self.data_ahead_s[party]

    def massive(self, request: Request) -> Answer:
        self.asked.append(request.path)
        if other := self.refuses(request):
            return other
        if request.path == "/v1/marketstatus/now":
            return as_json(
                {
                    "market": self.market,
                    "serverTime": self._clock("massive").astimezone(NEW_YORK).isoformat(timespec="seconds"),
                }
            )
        quote = {"bid": 1, "ask": 2, "last_updated": round(self._quoted_s("massive") * 1e9), "timeframe": "REAL-TIME"}
        return as_json(
            {
                "status": "OK",
                "results": [
                    {
                        "details": {"ticker": "O:SPY260320C00670000", "expiration_date": "2026-03-20"},
                        "day": {},
                        "last_quote": quote,
                    }
                ],
            }
        )

    def tradier(self, request: Request) -> Answer:
        self.asked.append(request.path)
        if other := self.refuses(request):
            return other
        stamp = round(self._quoted_s("tradier") * 1000)
        return as_json(
            {
                "/v1/markets/clock": {
                    "clock": {"state": self.market, "timestamp": round(self._clock("tradier").timestamp())}
                },
                "/v1/markets/quotes": {
                    "quotes": {"quote": {"symbol": "SPY", "trade_date": stamp, "bid_date": stamp, "ask_date": stamp}}
                },
                "/v1/markets/options/expirations": {"expirations": {"date": ["2026-03-20", "2026-03-27"]}},
                "/v1/markets/options/chains": {
                    "options": {"option": {"symbol": "SPY260320C00670000", "bid": 1, "ask": 2}}
                },
            }[request.path]
        )

    def app(self, request: Request) -> Answer:
        at = self._clock("app").isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return as_json({"status": "ok", "uptime": (self.at - BEGINS).total_seconds() + 9000.0, "timestamp": at})


@asynccontextmanager
async def probing(
    home: Path, outside: Outside, parties: tuple[str, ...] = ("massive", "tradier", "app"), **environ: str
) -> AsyncIterator[ProbeRunner]:
    """Return a probe runner for some of these parties, with long timeouts."""
    async with serving(outside.massive) as massive, serving(outside.tradier) as tradier, serving(outside.app) as app:
        urls = {"massive": massive, "tradier": tradier, "app": app}
        found = settings.load(
            home,
            None,
            {"OPS_SYMBOLS": "SPY", **{f"OPS_{party.upper()}_URL": urls[party] for party in parties}, **environ},
        )
        # Much time passes between two steps, so that only a quota that a test sets is ever used up.
        usual = {f.name for f in fields(found) if f.name in QUOTAS and getattr(found, f.name) == f.default}
        found = replace(found, **dict.fromkeys(usual, UNUSED_PER_MIN))
        rounds = ProbeRunner(found, Database(found.url), RULES, now=lambda: outside.at, speed=1.0)
        try:
            yield rounds
        finally:
            rounds.close()


async def passing(
    rounds: ProbeRunner, outside: Outside, seconds: float, step_s: float = 20.0, each: Callable[[], None] = lambda: None
) -> list[Sample]:
    """Advance the time; each step has a heartbeat and a probe of everything but chains."""
    found: list[Sample] = []
    for _ in range(round(seconds / step_s)):
        outside.at += timedelta(seconds=step_s)
        each()
        found += await rounds.once(lambda name: not name.startswith("chain"))
        found.append(
            Sample(clock.micros(outside.at), "beat", "collector", "ok", None, 50.0, detail=f'{{"every_s": {step_s}}}')
        )
    return found


def seen(
    home: Path,
    outside: Outside,
    seconds: float,
    parties: tuple[str, ...] = ("massive", "tradier", "app"),
    **environ: str,
) -> list[Sample]:
    """Return the samples of a period; fail if a probe raised an unexpected error."""

    async def go() -> list[Sample]:
        async with probing(home, outside, parties, **environ) as rounds:
            found = await passing(rounds, outside, seconds)
            assert not rounds._failing
            return found

    return asyncio.run(go())
