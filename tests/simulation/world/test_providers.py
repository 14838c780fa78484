"""Test that the simulated Massive and Tradier respond over real sockets as the real ones do, with their faults."""

import asyncio
import itertools
import os
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from email.utils import parsedate_to_datetime
from math import exp, log, sqrt
from statistics import NormalDist, median
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import httpx
import pytest

from opslib.simulation.world.faults import STATES
from opslib.simulation.world.http_server import Request, Server
from opslib.simulation.world.massive import Massive
from opslib.simulation.world.option_surface import Contract, Surface
from opslib.simulation.world.state import WorldState
from opslib.simulation.world.tradier import Tradier

AT_S = 1773153000.0  # 2026-03-10 10:30 in New York, a Tuesday.
HOUR_S, DAY_S, YEAR_S = 3600, 86_400, 365 * 86_400
NEW_YORK = ZoneInfo("America/New_York")
TOKENS = {"massive": "mk-4f1ad2", "tradier": "td-90b7c3"}
RATE = 0.04
CENT, LAST_DIGIT = 0.01, 6e-5
PATIENCE_S = 0.2
SPY = "/v3/snapshot/options/SPY"
CLOCK, QUOTES, EXPIRATIONS, CHAINS = (
    "/v1/markets/clock",
    "/v1/markets/quotes",
    "/v1/markets/options/expirations",
    "/v1/markets/options/chains",
)
JSON = {"Accept": "application/json"}
Pairs = list[tuple[Contract, Contract]]


@dataclass
class Doors:
    """Running servers of both providers of one world, and clients with the right token."""

    world: WorldState
    providers: dict[str, Massive | Tradier]
    servers: dict[str, Server]
    clients: dict[str, httpx.AsyncClient]

    async def inject(self, **active: float) -> None:
        """Make these the only active states, and set the state of each port."""
        self.world.inject(active)
        for name, server in self.servers.items():
            await server.set_state(self.providers[name].listening())

    async def massive(self, path: str = SPY, **query: object) -> httpx.Response:
        """Return Massive's response."""
        return await self.clients["massive"].get(
            path, params={k.replace("_from", ".gte").replace("_to", ".lte"): v for k, v in query.items()} or None
        )

    async def tradier(self, path: str = CLOCK, **query: object) -> httpx.Response:
        """Return Tradier's response to a request for JSON."""
        return await self.clients["tradier"].get(path, params=query, headers=JSON)

    async def bare(self, name: str, path: str, key: str | None = None, **query: str) -> httpx.Response:
        """Return the response to a request with another token, or none."""
        async with httpx.AsyncClient(
            base_url=self.clients[name].base_url, trust_env=False, timeout=PATIENCE_S
        ) as client:
            return await client.get(path, params=query, headers={"Authorization": f"Bearer {key}"} if key else {})


@asynccontextmanager
async def opened(at_s: float = AT_S, seed: int = 1, **active: float) -> AsyncIterator[Doors]:
    """Start both providers of a world with these active states."""
    world = WorldState({"seed": seed, "speed": 1000.0, "tokens": TOKENS, "at_s": at_s, "runs": False})
    surface, servers = Surface(seed), {}
    providers = {
        "massive": Massive(world, surface, lambda: f"http://127.0.0.1:{servers['massive'].port}"),
        "tradier": Tradier(world, surface),
    }
    for name, provider in providers.items():
        servers[name] = Server(provider.answer, world.sleep)
        await servers[name].set_state("open")
    clients = {
        name: httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}",
            headers={"Authorization": f"Bearer {TOKENS[name]}"},
            trust_env=False,
            timeout=5.0,
        )
        for name, server in servers.items()
    }
    doors = Doors(world, providers, servers, clients)
    try:
        await doors.inject(**active)
        yield doors
    finally:
        for client in clients.values():
            await client.aclose()
        for server in servers.values():
            await server.set_state("closed")


def within(
    asked: Callable[[Doors], Coroutine[Any, Any, Any]], at_s: float = AT_S, seed: int = 1, **active: float
) -> Any:
    """Return what a function returns in a world with these active states."""

    async def run() -> Any:
        async with opened(at_s, seed, **active) as doors:
            return await asked(doors)

    return asyncio.run(run())


def years(contract: Contract) -> float:
    """Return the years until 16:00 New York on the contract's expiration day."""
    return (
        datetime.combine(date.fromisoformat(contract.expiry), time(16), NEW_YORK).timestamp() - contract.quoted_at_s
    ) / YEAR_S


def black(side: str, spot: float, strike: float, years: float, iv: float, rate: float = RATE) -> float:
    """Price a European contract by its forward (Black, 1976), independently of the surface's own formula."""
    forward, spread, cdf = spot * exp(rate * years), iv * sqrt(years), NormalDist().cdf
    d1 = log(forward / strike) / spread + spread / 2
    call = exp(-rate * years) * (forward * cdf(d1) - strike * cdf(d1 - spread))
    return call if side == "call" else call - spot + strike * exp(-rate * years)


def slopes(c: Contract) -> dict[str, float]:
    """Return each Greek of a contract as a difference of two prices."""
    at = (c.side, c.spot, c.strike, years(c), c.iv)

    def moved(which: int, by: float) -> float:
        return black(*(x + by if i == which else x for i, x in enumerate(at)))

    ds, dt, dv, dr = c.spot * 1e-4, years(c) * 1e-4, 1e-5, 1e-5
    return {
        "delta": (moved(1, ds) - moved(1, -ds)) / (2 * ds),
        "gamma": (moved(1, ds) - 2 * black(*at) + moved(1, -ds)) / ds**2,
        "theta": -(moved(3, dt) - moved(3, -dt)) / (2 * dt) / 365,
        "vega": (moved(4, dv) - moved(4, -dv)) / (2 * dv) / 100,
        "rho": (black(*at, RATE + dr) - black(*at, RATE - dr)) / (2 * dr) / 100,
    }


def legs(chain: list[Contract]) -> dict[tuple[str, str], list[Contract]]:
    """Return the contracts of each expiry and side, by strike."""
    found: dict[tuple[str, str], list[Contract]] = defaultdict(list)
    for contract in sorted(chain, key=lambda c: c.strike):
        found[contract.expiry, contract.side].append(contract)
    return found


def mid(c: Contract) -> float:
    return (c.bid + c.ask) / 2


def pairs(before: list[Contract], after: list[Contract]) -> Pairs:
    """Return the contracts that are in both chains."""
    known = {c.ticker: c for c in before}
    return [(known[c.ticker], c) for c in after if c.ticker in known]


# The surface.


@pytest.mark.parametrize("how", [{}, {"stressed": True}, {"expires_today": True}], ids=str)
def test_greeks_are_slopes_of_the_price(how: dict[str, bool]) -> None:
    """Each Greek equals the slope of another formula's price at the given volatility, to the last digit."""
    chain = [c for c in Surface(1).chain("SPY", AT_S, **how) if c.iv is not None]
    assert len(chain) > 300
    for c in chain:
        assert {name: getattr(c, name) for name in ("delta", "gamma", "theta", "vega", "rho")} == pytest.approx(
            slopes(c), abs=LAST_DIGIT
        ), c.ticker
        assert (
            c.bid - CENT
            <= max(black(c.side, c.spot, c.strike, years(c), c.iv), abs(c.spot - c.strike) * (abs(c.delta) > 0.5))
            <= c.ask + CENT
        ), c.ticker


@pytest.mark.parametrize("stressed", [False, True])
def test_calls_and_puts_are_at_parity(stressed: bool) -> None:
    """The prices of a call and a put of one strike are at parity, within half of both spreads."""
    chain = {
        (c.expiry, c.strike, c.side): c for c in Surface(1).chain("SPY", AT_S, stressed=stressed) if c.iv is not None
    }
    both = [
        (c, chain[c.expiry, c.strike, "put"])
        for c in chain.values()
        if c.side == "call" and (c.expiry, c.strike, "put") in chain
    ]
    assert len(both) > 100
    for call, put in both:
        gap = mid(call) - mid(put) - (call.spot - call.strike * exp(-RATE * years(call)))
        assert abs(gap) <= (call.ask - call.bid + put.ask - put.bid) / 2 + CENT, call.ticker


@pytest.mark.parametrize("symbol", ["SPY", "AAPL", "F"])
@pytest.mark.parametrize("how", [{}, {"stressed": True}, {"expires_today": True}], ids=str)
def test_quotes_allow_no_arbitrage(symbol: str, how: dict[str, bool]) -> None:
    """
    No bid is above its ask, and no ask is below the exercise value.

    Of two strikes the one with the lower payoff has the lower price.
    """
    for (_, side), leg in legs(Surface(1).chain(symbol, AT_S, **how)).items():
        dearer = 1 if side == "put" else -1
        assert all(0 <= c.bid <= c.ask for c in leg)
        assert all(c.ask >= (c.strike - c.spot) * dearer for c in leg)
        assert all((mid(b) - mid(a)) * dearer >= -CENT - 1e-9 for a, b in itertools.pairwise(leg)), [
            (c.strike, c.bid, c.ask) for c in leg
        ]


def test_a_chain_is_realistic() -> None:
    """A chain has weeklies and monthlies after today, strikes on both sides, and realistic wings."""
    chain = Surface(1).chain("AAPL", AT_S)
    assert 300 <= len(chain) <= 600 and len({c.ticker for c in chain}) == len(chain)
    expiries = sorted({date.fromisoformat(c.expiry) for c in chain})
    assert expiries == [date(2026, 3, 13), date(2026, 3, 20), date(2026, 3, 27), date(2026, 4, 17), date(2026, 5, 15)]
    for leg in legs(chain).values():
        assert 40 <= len(leg) <= 80 and leg[0].strike < leg[0].spot < leg[-1].strike
    c = next(c for c in chain if c.strike == 250 and c.side == "put" and c.expiry == "2026-03-13")
    assert (c.ticker, c.root, c.quoted_at_s) == ("AAPL260313P00250000", "AAPL", AT_S)
    far = [c for c in chain if c.bid == 0]
    assert far and all(c.bid_size == 0 and c.last is None for c in far)
    assert any(c.gamma == 0.0 for c in far) and not [
        c for c in chain if c.gamma == 0.0 and 0.05 <= abs(c.delta) <= 0.95
    ]
    assert any(c.last is None and c.volume == 0 for c in chain if c.bid > 1) and any(c.volume for c in chain)
    blank = [c for c in chain if c.iv is None]
    assert blank and all(
        c.delta is c.gamma is c.theta is c.vega is c.rho is None and abs(c.spot - c.strike) > 0.02 * c.spot
        for c in blank
    )
    leg = [c for c in legs(chain)["2026-04-17", "put"] if c.iv is not None]
    near = min(leg, key=lambda c: abs(c.strike - c.spot))
    assert leg[0].iv > near.iv + 0.01, "lower strikes have the higher volatility"


def test_volatility_under_stress() -> None:
    """
    Under stress the volatility near the money is 2.5 to 4 times as high, and more than doubled everywhere.

    Spreads are wider and the spot is 6 % lower.
    """
    surface = Surface(1)
    both = pairs(surface.chain("SPY", AT_S), surface.chain("SPY", AT_S, stressed=True))
    calm, wild = both[0]
    assert wild.spot == pytest.approx(0.94 * calm.spot, abs=CENT) and wild.spot == surface.spot(
        "SPY", AT_S, stressed=True
    )
    payload = [(a, b) for a, b in both if a.iv and b.iv]
    near = [(a, b) for a, b in payload if abs(a.strike / a.spot - 1) < 0.03]
    assert (
        len(payload) > 200
        and all(2 < b.iv / a.iv <= 4 for a, b in payload)
        and near
        and all(b.iv / a.iv >= 2.5 for a, b in near)
    )
    assert median(b.ask - b.bid for _, b in both) > 2 * median(a.ask - a.bid for a, _ in both)


def test_an_expiry_of_today() -> None:
    """
    Contracts that expire today are listed on request until 16:00.

    They have no gamma in the wings, and the highest gamma at the money while there is time left.
    """
    surface, closes_s = Surface(1), AT_S + 5.5 * HOUR_S
    chain = surface.chain("SPY", closes_s - HOUR_S, expires_today=True)
    today = [c for c in chain if c.expiry == "2026-03-10"]
    sure = [c for c in today if c.gamma is not None and abs(c.strike - c.spot) > 0.01 * c.spot]
    assert len(today) == 90 and sure and all(c.gamma == 0 for c in sure)
    assert max(c.gamma or 0 for c in today) > 3 * max(c.gamma or 0 for c in chain if c.expiry != "2026-03-10")
    for later in (surface.chain("SPY", closes_s, expires_today=True), surface.chain("SPY", AT_S)):
        assert min(c.expiry for c in later) == "2026-03-13"
    assert min(c.expiry for c in surface.chain("SPY", AT_S + 3 * DAY_S)) == "2026-03-20", (
        "a Friday's own is not listed either"
    )


def test_the_same_seed_gives_the_same_chains() -> None:
    """Chains depend on seed, symbol and minute, and not on the hash seed of the process."""
    payload = Surface(1).chain("AAPL", AT_S)
    code = (
        f"from opslib.simulation.world.option_surface import Surface; import zlib; "
        f"print(zlib.crc32(repr(Surface(1).chain('AAPL', {AT_S})).encode()))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert int(other) == zlib.crc32(repr(payload).encode())
    assert Surface(1).chain("AAPL", AT_S + 59) == payload != Surface(1).chain("AAPL", AT_S + 60)
    assert Surface(2).chain("AAPL", AT_S) != payload
    assert Surface(1).spot("XYZ", AT_S) == Surface(1).spot("XYZ", AT_S) != Surface(1).spot("XYY", AT_S)


def test_the_spot_moves_smoothly() -> None:
    """An underlying moves every few minutes, and never by much in one."""
    surface = Surface(1)
    path = [surface.spot("SPY", AT_S + 60 * i) for i in range(390)]
    assert 600 < min(path) < max(path) < 740 and max(path) / min(path) > 1.005
    assert all(abs(b / a - 1) < 0.002 for a, b in itertools.pairwise(path))


# Massive.


@pytest.mark.parametrize(
    ("later_s", "state", "market", "early", "after"),
    [
        (0, "healthy", "open", False, False),
        (-2 * HOUR_S, "healthy", "extended-hours", True, False),
        (7 * HOUR_S, "healthy", "extended-hours", False, True),
        (12 * HOUR_S, "healthy", "closed", False, False),
        (4 * DAY_S, "healthy", "closed", False, False),
        (0, "market_closed", "closed", False, False),
    ],
)
def test_massive_reports_the_market(later_s: int, state: str, market: str, early: bool, after: bool) -> None:
    """Massive's status has the New York session, with its own time and offset."""
    found = within(lambda doors: doors.massive("/v1/marketstatus/now"), AT_S + later_s, **{state: 1.0})
    payload = found.json()
    assert (payload["market"], payload["earlyHours"], payload["afterHours"]) == (market, early, after)
    assert set(payload["exchanges"].values()) == {market} and payload["currencies"] == {"fx": "open", "crypto": "open"}
    assert datetime.fromisoformat(payload["serverTime"]).timestamp() == AT_S + later_s and payload[
        "serverTime"
    ].endswith("-04:00")
    assert parsedate_to_datetime(found.headers["date"]).timestamp() == AT_S + later_s


def test_massive_reports_the_holidays() -> None:
    """The holidays are a bare array with a row for each exchange."""
    payload = within(lambda doors: doors.massive("/v1/marketstatus/upcoming")).json()
    assert (
        isinstance(payload, list)
        and {row["exchange"] for row in payload} == {"NYSE", "NASDAQ"}
        and all(row["status"] in ("closed", "early-close") and date.fromisoformat(row["date"]) for row in payload)
    )


def test_a_snapshot_has_the_vendors_shape() -> None:
    """A snapshot has the vendor's nesting and gaps, and the values of the surface."""

    async def asked(doors: Doors) -> list[httpx.Response]:
        return [
            await doors.massive(),
            await doors.massive(limit=9999),
            await doors.massive(SPY.replace("SPY", "I:SPX"), limit=1),
        ]

    few, many, index = within(asked)
    payload = few.json()
    assert (
        set(payload) == {"request_id", "results", "status", "next_url"}
        and payload["status"] == "OK"
        and few.headers["x-request-id"] == payload["request_id"]
    )
    assert len(payload["results"]) == 10 and len(many.json()["results"]) == 250
    known = {f"O:{c.ticker}": c for c in Surface(1).chain("SPY", AT_S)}
    for row in many.json()["results"]:
        c, quote, asset = known[row["details"]["ticker"]], row["last_quote"], row["underlying_asset"]
        assert row["details"] == {
            "contract_type": c.side,
            "exercise_style": "american",
            "expiration_date": c.expiry,
            "shares_per_contract": 100,
            "strike_price": c.strike,
            "ticker": f"O:{c.ticker}",
        }
        assert (
            quote["bid"],
            quote["ask"],
            quote["bid_size"],
            quote["ask_size"],
            quote["timeframe"],
            row["open_interest"],
        ) == (c.bid, c.ask, c.bid_size, c.ask_size, "REAL-TIME", c.open_interest)
        assert 0 <= AT_S - quote["last_updated"] / 1e9 < 5 and asset["price"] == c.spot and asset["ticker"] == "SPY"
        assert asset["change_to_break_even"] == pytest.approx(row["break_even_price"] - c.spot, abs=CENT)
        assert (
            row.get("greeks")
            == (None if c.delta is None else {"delta": c.delta, "gamma": c.gamma, "theta": c.theta, "vega": c.vega})
            and row.get("implied_volatility") == c.iv
        )
        assert (row["day"] == {}) == (row["last_trade"] == {}) == (c.last is None)
    assert (
        {bool(row["day"]) for row in many.json()["results"]}
        == {True, False}
        == {"greeks" in row for row in many.json()["results"]}
    )
    underlying = index.json()["results"][0]["underlying_asset"]
    assert underlying["ticker"] == "I:SPX" and underlying["value"] > 0 and "price" not in underlying


def test_pages_hold_every_contract_once() -> None:
    """
    The pages of a chain contain each contract once.

    Their links stay on the same host, with the filters and without the token.
    """

    async def asked(doors: Doors) -> tuple[list[str], list[str], list[int], str]:
        pages = [await doors.massive(limit=100, contract_type="put", apiKey=TOKENS["massive"])]
        while next_url := pages[-1].json().get("next_url"):
            assert len(pages) < 9
            pages.append(await doors.clients["massive"].get(next_url))
        rows = [[row["details"]["ticker"] for row in page.json()["results"]] for page in pages]
        return (
            sum(rows, []),
            [page.json()["next_url"] for page in pages[:-1]],
            [len(row) for row in rows],
            str(doors.clients["massive"].base_url),
        )

    tickers, links, sizes, base = within(asked)
    assert (
        sorted(tickers) == tickers == sorted(f"O:{c.ticker}" for c in Surface(1).chain("SPY", AT_S) if c.side == "put")
    )
    assert sizes == [100, 100, 25]
    for link in links:
        assert link.startswith(f"{base}{SPY}?") and TOKENS["massive"] not in link
        assert parse_qs(urlsplit(link).query).keys() == {"cursor", "limit", "contract_type"}


def test_a_limit_of_zero() -> None:
    """A request with a limit of 0 returns results, and its pages have different contracts."""

    async def asked(doors: Doors) -> set[str]:
        page = (await doors.massive(limit=0)).json()
        assert page["results"]
        return {
            row["details"]["ticker"]
            for row in page["results"] + (await doors.clients["massive"].get(page["next_url"])).json()["results"]
        }

    assert len(within(asked)) == 2


def test_filters_and_orders() -> None:
    """A snapshot has the requested contracts in the requested order."""

    async def asked(doors: Doors) -> list[list[dict[str, Any]]]:
        queries: list[dict[str, object]] = [
            {"limit": 250, "strike_price_from": 660, "strike_price_to": 680, "expiration_date": "2026-03-13"},
            {"limit": 250, "expiration_date_from": "2026-04-01", "expiration_date_to": "2026-04-30"},
            {"limit": 250, "strike_price": 670, "sort": "expiration_date", "order": "desc"},
            {"limit": 250, "expiration_date": "2026-03-13", "sort": "strike_price"},
        ]
        return [[row["details"] for row in (await doors.massive(**query)).json()["results"]] for query in queries]

    near, april, falling, rising = within(asked)
    assert (
        sorted({row["strike_price"] for row in near}) == [660, 665, 670, 675, 680]
        and {row["expiration_date"] for row in near} == {"2026-03-13"}
        and len(near) == 10
    )
    assert {row["expiration_date"] for row in april} == {"2026-04-17"}
    days, strikes = [row["expiration_date"] for row in falling], [row["strike_price"] for row in rising]
    assert (
        days == sorted(days, reverse=True) and len(set(days)) == 5 and {row["strike_price"] for row in falling} == {670}
    )
    assert strikes == sorted(strikes) and len(set(strikes)) == 45


@pytest.mark.parametrize("symbol", ["NOSUCH", "TOOLONGER", "SP1"])
def test_an_unknown_symbol_has_no_results(symbol: str) -> None:
    """An unknown underlying gets 200 without results, and null from Tradier."""

    async def asked(doors: Doors) -> list[httpx.Response]:
        return [
            await doors.massive(f"/v3/snapshot/options/{symbol}"),
            await doors.tradier(CHAINS, symbol=symbol, expiration="2026-03-13"),
            await doors.tradier(QUOTES, symbols=symbol),
            await doors.tradier(EXPIRATIONS, symbol=symbol),
        ]

    massive, *others = within(asked)
    assert massive.status_code == 200 and massive.json()["results"] == [] and "next_url" not in massive.json()
    assert [found.json() for found in others] == [{"options": None}, {"quotes": None}, {"expirations": None}]


def test_massive_requires_its_key() -> None:
    """Massive accepts its token in a header or in the query, and its error says which one is wrong."""

    async def asked(doors: Doors) -> list[httpx.Response]:
        return [
            await doors.bare("massive", SPY),
            await doors.bare("massive", SPY, "other"),
            await doors.bare("massive", SPY, apiKey=TOKENS["massive"]),
            await doors.bare("massive", SPY, TOKENS["massive"]),
        ]

    none, other, *right = within(asked)
    assert (none.status_code, none.json()["status"], none.json()["error"]) == (
        401,
        "ERROR",
        "API Key was not provided",
    ) and none.json()["request_id"]
    assert (other.status_code, other.json()["error"]) == (401, "Unknown API Key")
    assert [found.status_code for found in right] == [200, 200]


@pytest.mark.parametrize("path", ["/health", "/", "/v1/nosuch", "/v3/snapshot/options"])
def test_massive_has_no_other_path(path: str) -> None:
    """Massive has no such path, and no /health."""
    found = within(lambda doors: doors.massive(path))
    assert (
        found.status_code == 404
        and found.json()["status"] == "NOT_FOUND"
        and set(found.json()) == {"status", "request_id", "message"}
    )


@pytest.mark.parametrize(("state", "least_s", "most_s"), [("healthy", 0.06, 0.6), ("our_timeout_short", 0.25, 0.45)])
def test_response_times_of_massive(state: str, least_s: float, most_s: float) -> None:
    """
    Massive responds well within a second; if our timeout is short, slightly later than it.

    Equal seeds have equal times.
    """

    def times(seed: int) -> list[float]:
        world = WorldState({"seed": seed, "speed": 1000.0, "tokens": TOKENS, "at_s": AT_S, "runs": False})
        world.states.inject({state: 1.0})
        massive = Massive(world, Surface(seed), str)
        request = Request("GET", "/v1/marketstatus/now", {}, {"authorization": f"Bearer {TOKENS['massive']}"})

        async def asked() -> list[float]:
            return [
                answer.after_s for answer in [await massive.answer(request) for _ in range(200)] if answer.status == 200
            ]

        return asyncio.run(asked())

    found = times(1)
    assert len(found) == 200 and least_s <= min(found) < max(found) <= most_s
    assert found == times(1) != times(2)
    if state == "healthy":
        assert 0.1 < median(found) < 0.25 and sum(0.08 <= after_s <= 0.35 for after_s in found) > 180


# Faults of Massive.


def test_server_errors_of_massive() -> None:
    """Massive's server errors are 502 and 503, mostly HTML and sometimes JSON."""
    for state in ("massive_5xx", "both_down"):
        found = within(lambda doors: _many(doors.massive, 30), **{state: 1.0})
        assert {answer.status_code for answer in found} == {502, 503}
        pages = [answer.headers["content-type"].startswith("text/html") for answer in found]
        assert 15 <= sum(pages) < 30 and all(
            answer.json()["status"] == "ERROR" for answer, page in zip(found, pages, strict=True) if not page
        )


async def _many(asked: Callable[[], Coroutine[Any, Any, httpx.Response]], times: int) -> list[httpx.Response]:
    return [await asked() for _ in range(times)]


def test_massive_hangs() -> None:
    """Massive accepts the connection and sends no response."""

    async def asked(doors: Doors) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await doors.bare("massive", SPY, TOKENS["massive"])

    within(asked, massive_timeout=1.0)


@pytest.mark.parametrize(
    ("state", "code", "words", "of_status"),
    [
        ("massive_401", 401, "Unknown API Key", 401),
        (
            "massive_403_plan",
            403,
            "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing",
            200,
        ),
        ("massive_403_ip", 403, "IP address", 403),
        (
            "massive_429",
            429,
            "You've exceeded the maximum requests per minute, please wait or upgrade your subscription to continue.",
            429,
        ),
    ],
)
def test_massive_rejects_requests(state: str, code: int, words: str, of_status: int) -> None:
    """Massive rejects with its own message; a plan without the data still covers the market's status."""

    async def asked(doors: Doors) -> tuple[httpx.Response, httpx.Response]:
        return await doors.massive(), await doors.massive("/v1/marketstatus/now")

    data, status = within(asked, **{state: 1.0})
    payload = data.json()
    assert (data.status_code, status.status_code) == (code, of_status)
    assert words in payload.get("error", payload.get("message")) and payload["status"] == (
        "NOT_AUTHORIZED" if code == 403 else "ERROR"
    )
    assert set(payload) == {"status", "request_id", "message" if code == 403 else "error"}


def test_massive_limits_without_headers() -> None:
    """A rate limit response has no limit headers, and only sometimes Retry-After."""
    found = within(lambda doors: _many(doors.massive, 20), massive_429=1.0)
    assert {answer.headers.get("retry-after") for answer in found} == {None, "12"}
    assert not [name for answer in found for name in answer.headers if "ratelimit" in name]


def test_massive_returns_html_instead_of_data() -> None:
    """An HTML page is returned with 200 instead of data."""
    found = within(lambda doors: doors.massive(), massive_html_200=1.0)
    assert (
        found.status_code == 200
        and found.headers["content-type"].startswith("text/html")
        and found.text.startswith("<!doctype html>")
    )


def test_massive_returns_an_empty_chain() -> None:
    """An empty chain is returned with 200; the market's status is unaffected."""

    async def asked(doors: Doors) -> tuple[httpx.Response, httpx.Response]:
        return await doors.massive(), await doors.massive("/v1/marketstatus/now")

    data, status = within(asked, massive_empty=1.0)
    assert data.status_code == 200 and data.json()["results"] == [] and status.json()["market"] == "open"


def test_only_the_first_page_is_returned() -> None:
    """The first page is complete, but the page that it links to fails."""

    async def asked(doors: Doors) -> tuple[httpx.Response, httpx.Response]:
        page = await doors.massive(limit=250)
        return page, await doors.clients["massive"].get(page.json()["next_url"])

    one, two = within(asked, massive_partial_pages=1.0)
    assert len(one.json()["results"]) == 250 and two.status_code == 502


def test_stale_data_has_old_timestamps() -> None:
    """Stale data is more than 20 minutes old, timestamps and prices alike; Massive's clock is right."""

    async def asked(doors: Doors) -> tuple[list[dict[str, Any]], str]:
        return (await doors.massive(limit=250)).json()["results"], (await doors.massive("/v1/marketstatus/now")).json()[
            "serverTime"
        ]

    rows, at = within(asked, massive_stale=1.0)
    assert all(
        1200 < AT_S - row[part]["last_updated"] / 1e9 < 1300
        for row in rows
        for part in ("last_quote", "underlying_asset")
    )
    assert datetime.fromisoformat(at).timestamp() == AT_S
    now, then = within(asked)[0], within(asked, AT_S - 1260)[0]
    assert (
        [row["last_quote"]["bid"] for row in rows]
        == [row["last_quote"]["bid"] for row in then]
        != [row["last_quote"]["bid"] for row in now]
    )


@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 0.2, 0.4), (0.2, 0.01, 0.12)])
def test_massive_fails_intermittently(share: float, least: float, most: float) -> None:
    """A share of 30 % of the requests fails, multiplied by the given share: half with 502, half aborted."""

    async def asked(doors: Doors) -> list[int]:
        found = []
        for _ in range(150):
            try:
                found.append((await doors.massive("/v1/marketstatus/now")).status_code)
            except (httpx.RemoteProtocolError, httpx.ReadError):
                found.append(0)
        return found

    found = within(asked, massive_intermittent=share)
    assert set(found) == {0, 200, 502}
    assert least <= sum(code != 200 for code in found) / len(found) <= most


def test_ports_and_certificates() -> None:
    """A port refuses or drops packets, and the certificate is wrong, only under those faults."""

    async def asked(doors: Doors) -> None:
        one, two = doors.providers.values()
        assert (one.listening(), two.listening(), one.certificate()) == ("open", "open", "good")
        await doors.inject(massive_tls=1.0)
        assert (one.listening(), one.certificate()) == ("open", "wrong")
        await doors.inject(massive_refused=1.0)
        with pytest.raises(httpx.ConnectError):
            await doors.bare("massive", SPY)
        assert (await doors.tradier()).status_code == 200
        await doors.inject(our_network_down=1.0)
        for name in doors.servers:
            with pytest.raises(httpx.ConnectTimeout):
                await doors.bare(name, SPY)
        await doors.inject()
        assert (await doors.massive()).status_code == (await doors.tradier()).status_code == 200

    within(asked)


def bid_for(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["last_quote"]["bid"] > 0]


SPOILT: dict[str, Callable[[dict[str, Any], dict[str, float]], bool]] = {
    "gamma_zero": lambda row, was: row["greeks"] == was | {"gamma": 0},
    "greeks_missing": lambda row, was: "greeks" not in row and row["implied_volatility"] > 0,
    "delta_out_of_bounds": lambda row, was: (
        1.2 <= abs(row["greeks"]["delta"]) <= 1.6 and row["greeks"]["delta"] * was["delta"] > 0
    ),
    "unit_drift": lambda row, was: (
        row["greeks"] == pytest.approx(was | {"theta": 100 * was["theta"], "vega": 100 * was["vega"]}, abs=1e-9)
    ),
}


@pytest.mark.parametrize("state", SPOILT)
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_greeks_are_faulty(state: str, share: float) -> None:
    """Of the contracts with a bid, the given share has faulty Greeks; all others are unaffected."""

    async def asked(doors: Doors) -> list[dict[str, Any]]:
        return (await doors.massive(limit=250)).json()["results"]

    well = {row["details"]["ticker"]: row["greeks"] for row in within(asked) if "greeks" in row}
    rows = [row for row in within(asked, **{state: share}) if row["details"]["ticker"] in well]
    touched = [row for row in rows if row.get("greeks") != well[row["details"]["ticker"]]]
    assert all(row["last_quote"]["bid"] > 0 and SPOILT[state](row, well[row["details"]["ticker"]]) for row in touched)
    able = [row for row in bid_for(rows) if well[row["details"]["ticker"]]["gamma"] > 0]
    hit = [row for row in able if row in touched]
    assert len(hit) == len(able) if share == 1 else 0.15 < len(hit) / len(able) < 0.45


def test_states_that_are_no_fault_of_massive() -> None:
    """Stress and an expiry of today change both providers alike; a wrong clock of the app does not change Massive's."""

    async def asked(doors: Doors) -> tuple[dict[str, Any], list[str], float]:
        row = (await doors.massive(limit=1, strike_price=650, expiration_date="2026-03-20")).json()["results"][0]
        days = (await doors.tradier(EXPIRATIONS, symbol="SPY")).json()["expirations"]["date"]
        return (
            row,
            days,
            datetime.fromisoformat((await doors.massive("/v1/marketstatus/now")).json()["serverTime"]).timestamp(),
        )

    calm, days, at_s = within(asked)
    wild, today, skewed = within(asked, iv_stress=1.0), within(asked, expiry_friday=1.0), within(asked, clock_skew=1.0)
    assert (
        2.5 <= wild[0]["implied_volatility"] / calm["implied_volatility"] <= 4
        and wild[0]["underlying_asset"]["price"] < 0.95 * calm["underlying_asset"]["price"]
    )
    assert "2026-03-10" not in days and today[1] == ["2026-03-10", *days]
    assert at_s == skewed[2] == AT_S


# Tradier.


def test_tradier_returns_xml_by_default() -> None:
    """Tradier returns XML by default, and the same content in JSON on request."""

    async def asked(doors: Doors) -> list[httpx.Response]:
        ask = {"symbol": "SPY", "expiration": "2026-03-13", "greeks": "true"}
        return [
            await doors.bare("tradier", CLOCK, TOKENS["tradier"]),
            await doors.tradier(),
            await doors.bare("tradier", CHAINS, TOKENS["tradier"], **ask),
            await doors.tradier(CHAINS, **ask),
        ]

    xml, as_json, chain_xml, chain = within(asked)
    assert xml.headers["content-type"].startswith("application/xml") and as_json.headers["content-type"].startswith(
        "application/json"
    )
    tree = ElementTree.fromstring(xml.text)
    assert tree.tag == "clock" and {child.tag: child.text for child in tree} == {
        k: str(v) for k, v in as_json.json()["clock"].items()
    }
    tickers = [found.text for found in ElementTree.fromstring(chain_xml.text).iterfind("option/symbol")]
    assert tickers == [row["symbol"] for row in chain.json()["options"]["option"]] and len(tickers) == 90


@pytest.mark.parametrize(
    ("later_s", "state", "payload"),
    [
        (0, "healthy", ("open", "16:00", "postmarket")),
        (-2 * HOUR_S, "healthy", ("premarket", "09:30", "open")),
        (7 * HOUR_S, "healthy", ("postmarket", "20:00", "closed")),
        (12 * HOUR_S, "healthy", ("closed", "04:00", "premarket")),
        (4 * DAY_S, "healthy", ("closed", "04:00", "premarket")),
        (0, "market_closed", ("closed", "04:00", "premarket")),
    ],
)
def test_tradiers_clock(later_s: int, state: str, payload: tuple[str, str, str]) -> None:
    """Tradier's clock has the New York session and the next change."""
    clock = within(lambda doors: doors.tradier(), AT_S + later_s, **{state: 1.0}).json()["clock"]
    assert (clock["state"], clock["next_change"], clock["next_state"]) == payload
    assert (
        clock["timestamp"] == AT_S + later_s
        and clock["date"] == datetime.fromtimestamp(AT_S + later_s, NEW_YORK).date().isoformat()
    )


def test_a_single_quote_is_an_object() -> None:
    """One quote is returned as an object, two as a list."""

    async def asked(doors: Doors) -> list[Any]:
        return [
            (await doors.tradier(QUOTES, symbols=symbols)).json()["quotes"]["quote"]
            for symbols in ("SPY", "SPY,AAPL", "SPY,NOSUCH")
        ]

    one, two, known = within(asked)
    assert one["symbol"] == known["symbol"] == "SPY" and [quote["symbol"] for quote in two] == ["SPY", "AAPL"]
    assert (
        one["last"] == Surface(1).spot("SPY", AT_S)
        and one["bid"] < one["last"] < one["ask"]
        and 0 <= AT_S * 1000 - one["bid_date"] < 5000
    )


def test_tradiers_chain() -> None:
    """
    A chain has no underlying price, and null where nothing was traded.

    On request it has Greeks that were calculated within the last 75 minutes.
    """

    async def asked(doors: Doors) -> list[list[dict[str, Any]]]:
        return [
            (await doors.tradier(CHAINS, symbol="SPY", expiration="2026-03-20", greeks=wanted)).json()["options"][
                "option"
            ]
            for wanted in ("true", "false")
        ]

    rows, bare = within(asked)
    assert all("greeks" not in row for row in bare) and [row["symbol"] for row in bare] == [
        row["symbol"] for row in rows
    ]
    known = {c.ticker: c for c in Surface(1).chain("SPY", AT_S)}
    unsolved = 0
    for row in rows:
        c, greeks = known[row["symbol"]], row["greeks"]
        assert (
            row["bid"],
            row["ask"],
            row["strike"],
            row["option_type"],
            row["underlying"],
            row["root_symbol"],
            row["expiration_type"],
        ) == (c.bid, c.ask, c.strike, c.side, "SPY", "SPY", "standard")
        assert row["last"] == row["open"] == row["high"] == row["low"] == row["close"] == c.last
        if c.delta is None:
            assert greeks is None
            continue
        assert (greeks["delta"], greeks["gamma"], greeks["theta"], greeks["vega"], greeks["mid_iv"]) == (
            c.delta,
            c.gamma,
            c.theta,
            c.vega,
            c.iv,
        )
        below = c.bid <= max(0.0, c.spot - c.strike if c.side == "call" else c.strike - c.spot)
        unsolved += below
        assert (greeks["bid_iv"] == 0.0) == below
        age_s = AT_S - datetime.strptime(greeks["updated_at"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
        assert 0 < age_s < 75 * 60
    assert unsolved and {row["last"] is None for row in rows} == {True, False} == {
        row["greeks"] is None for row in rows
    }


def test_tradier_counts_requests() -> None:
    """Each response has the quota; requests above it fail until a minute after the first request."""

    async def asked(doors: Doors) -> list[httpx.Response]:
        found = await _many(doors.tradier, 121)
        doors.world.set_s(AT_S + 60)
        return [*found, await doors.tradier()]

    *found, after = within(asked)
    assert [answer.status_code for answer in found] == [200] * 120 + [429] and after.status_code == 200
    assert [int(found[i].headers["x-ratelimit-used"]) for i in (0, 1, 119)] == [1, 2, 120]
    assert all(
        answer.headers["x-ratelimit-allowed"] == "120"
        and int(answer.headers["x-ratelimit-available"]) == max(0, 120 - int(answer.headers["x-ratelimit-used"]))
        for answer in found
    )
    assert {int(answer.headers["x-ratelimit-expiry"]) for answer in found} == {round((AT_S + 60) * 1000)}
    assert "Quota" in found[-1].json()["fault"]["faultstring"] and after.headers["x-ratelimit-used"] == "1"


def test_tradier_names_a_missing_token_or_parameter() -> None:
    """Without its token Tradier returns 401, without a parameter 400, both in plain text."""

    async def asked(doors: Doors) -> list[httpx.Response]:
        return [
            await doors.bare("tradier", CLOCK),
            await doors.bare("tradier", CLOCK, "other"),
            await doors.tradier(QUOTES),
            await doors.tradier(EXPIRATIONS),
            await doors.tradier(CHAINS, symbol="SPY"),
            await doors.tradier("/v1/markets/status"),
        ]

    found = within(asked)
    assert [answer.status_code for answer in found] == [401, 401, 400, 400, 400, 404]
    assert found[0].text == found[1].text == "Invalid Access Token"
    assert all(answer.headers["content-type"].startswith("text/plain") for answer in found)


@pytest.mark.parametrize("state", ["tradier_down", "both_down"])
def test_tradier_fails(state: str) -> None:
    """
    Tradier under a fault returns 500 or 503 in text or XML, also to requests for JSON.

    Massive fails only if both providers are down.
    """

    async def asked(doors: Doors) -> tuple[list[httpx.Response], httpx.Response]:
        return await _many(doors.tradier, 20), await doors.massive()

    found, massive = within(asked, **{state: 1.0})
    assert {answer.status_code for answer in found} == {500, 503} and not [
        answer for answer in found if "json" in answer.headers["content-type"]
    ]
    assert (massive.status_code == 200) == (state == "tradier_down")


# Names of states.


@pytest.mark.parametrize("state", STATES)
def test_no_state_is_named(state: str) -> None:
    """No response has the name of a state in its headers or body, whatever the fault."""
    answered = []

    async def asked(doors: Doors) -> None:
        for name, path in (
            ("massive", "/v1/marketstatus/now"),
            ("massive", "/v1/marketstatus/upcoming"),
            ("massive", f"{SPY}?limit=50"),
            ("massive", f"{SPY}?cursor=6y"),
            ("massive", "/health"),
            ("massive", SPY),
            ("massive", SPY),
            ("tradier", CLOCK),
            ("tradier", f"{QUOTES}?symbols=SPY"),
            ("tradier", f"{CHAINS}?symbol=SPY&expiration=2026-03-20&greeks=true"),
            ("tradier", EXPIRATIONS),
            ("tradier", CLOCK),
        ):
            key = None if path == SPY else TOKENS[name]
            with suppress(httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.TimeoutException):
                answered.append(await _impatient(doors, name, path, key))

    within(asked, **{state: 1.0})
    for answer in answered:
        left = (
            b"\n".join(
                [answer.extensions["reason_phrase"], *(b": ".join(pair) for pair in answer.headers.raw), answer.content]
            )
            .decode()
            .lower()
        )
        assert not [name for name in STATES if name in left]
    assert answered or state == "our_network_down"


async def _impatient(doors: Doors, name: str, path: str, key: str | None) -> httpx.Response:
    """Return the response; with a fault that never responds, wait only briefly."""
    headers = {"Authorization": f"Bearer {key}" if key else ""}
    silent = doors.world.states.on("massive_timeout") or doors.world.states.on("our_network_down")
    return await doors.clients[name].get(path, headers=headers, timeout=0.05 if silent else 5.0)


def test_the_same_seed_gives_the_same_responses() -> None:
    """Two worlds with one seed return byte-equal responses; a world with another seed returns others."""

    async def asked(doors: Doors) -> list[bytes]:
        return [
            (await doors.massive()).content.replace(str(doors.servers["massive"].port).encode(), b"port")
            for _ in range(3)
        ] + [(await doors.tradier(QUOTES, symbols="SPY,XYZ")).content]

    once, again, other = (
        within(asked, gamma_zero=0.5),
        within(asked, gamma_zero=0.5),
        within(asked, seed=2, gamma_zero=0.5),
    )
    assert once == again and not set(once) & set(other)


# Wrong clocks, a closed market, and limits of a plan.


@pytest.mark.parametrize(
    ("state", "massive_s", "tradier_s"),
    [
        ("healthy", 0, 0),
        ("massive_clock_ahead", 600, 0),
        ("massive_clock_behind", -600, 0),
        ("tradier_clock_ahead", 0, 600),
        ("tradier_clock_behind", 0, -600),
        ("our_clock_fast", -600, -600),
        ("our_clock_slow", 600, 600),
        ("clock_skew", 0, 0),
        ("page_clock_ahead", 0, 0),
    ],
)
def test_a_wrong_clock(state: str, massive_s: float, tradier_s: float) -> None:
    """A wrong clock shifts all timestamps of that provider (clock, Date and quotes), and none of the other's."""

    async def stamps(doors: Doors) -> tuple[list[float], list[float]]:
        payload, chain = await doors.massive("/v1/marketstatus/now"), await doors.massive(limit=250)
        quotes = [row["last_quote"]["last_updated"] / 1e9 for row in chain.json()["results"]]
        clock, quote = (
            (await doors.tradier(CLOCK)).json()["clock"],
            (await doors.tradier(QUOTES, symbols="SPY")).json()["quotes"]["quote"],
        )
        massive = [
            datetime.fromisoformat(payload.json()["serverTime"]).timestamp(),
            parsedate_to_datetime(payload.headers["date"]).timestamp(),
            max(quotes),
        ]
        return massive, [clock["timestamp"], quote["bid_date"] / 1000]

    found = within(stamps, **{state: 1.0})
    for stamped, ahead_s in zip(found, (massive_s, tradier_s), strict=True):
        assert all(ahead_s - 2.1 <= at_s - AT_S <= ahead_s + 0.1 for at_s in stamped), found


def test_quotes_stay_at_the_last_close() -> None:
    """
    Quotes of a closed market are those of its last close.

    If the market closed early, they are those of that moment. Prices do not move, and both providers report it as
    closed.
    """

    async def seen(doors: Doors) -> tuple[float, float, set[str], float]:
        chain = (await doors.massive(limit=250)).json()["results"]
        quote = (await doors.tradier(QUOTES, symbols="SPY")).json()["quotes"]["quote"]
        days = (await doors.tradier(EXPIRATIONS, symbol="SPY")).json()["expirations"]["date"]
        bids = {
            row["bid_date"] / 1000
            for row in (await doors.tradier(CHAINS, symbol="SPY", expiration=days[0])).json()["options"]["option"]
        }
        payload = {
            (await doors.massive("/v1/marketstatus/now")).json()["market"],
            (await doors.tradier(CLOCK)).json()["clock"]["state"],
        }
        assert 0 <= min(bids) - quote["bid_date"] / 1000 <= 2.1
        return (
            max(row["last_quote"]["last_updated"] for row in chain) / 1e9,
            max(bids),
            payload,
            chain[0]["underlying_asset"]["price"],
        )

    async def later(doors: Doors) -> list[tuple[float, float, set[str], float]]:
        found = []
        for after_s in (0.0, HOUR_S):
            doors.world.set_s(AT_S + after_s)
            found.append(await seen(doors))
        return found

    monday = datetime(2026, 3, 9, 16, tzinfo=NEW_YORK).timestamp()
    for state, closed_s in (("market_closed", monday), ("market_closes_early", AT_S)):
        found = within(later, **{state: 1.0})
        assert all(
            closed_s - 2.1 <= quoted_s <= closed_s and bid_s == closed_s and payload == {"closed"}
            for quoted_s, bid_s, payload, _ in found
        ), found
        assert found[0][3] == found[1][3]
    evening = within(seen, at_s=AT_S + 8 * HOUR_S)
    assert evening[1] == datetime(2026, 3, 10, 16, tzinfo=NEW_YORK).timestamp()


def test_tradier_rejects_options_only() -> None:
    """
    Tradier returns its clock and quotes, but rejects expirations and chains with 403, because our plan has no options.
    """

    async def asked(doors: Doors) -> list[int]:
        answers = [
            await doors.tradier(CLOCK),
            await doors.tradier(QUOTES, symbols="SPY"),
            await doors.tradier(EXPIRATIONS, symbol="SPY"),
            await doors.tradier(CHAINS, symbol="SPY", expiration="2026-03-13"),
        ]
        assert "not entitled" in answers[2].text
        return [answer.status_code for answer in answers]

    assert within(asked, tradier_options_refused=1.0) == [200, 200, 403, 403]
