"""Read the responses of Massive, Tradier and the app, in each form that the real ones have."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from opslib.foundation.config import rules, settings
from opslib.telemetry.probes import providers
from opslib.telemetry.probes.http import ProbeReading

NOW = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)
LIMITS = rules.load().probes
DAY = date(2026, 3, 10)
MIN = 60


def ns(age_s: float) -> int:
    return round((NOW.timestamp() - age_s) * 1e9)


def row(
    quote_s: float | None = 1,
    spot_s: float | None = 1,
    quote: str = "REAL-TIME",
    spot: str = "REAL-TIME",
    traded_s: float = 7200,
    **more: Any,
) -> dict[str, Any]:
    """One contract of a snapshot, with the given ages of its quote, underlying and last trade."""
    found: dict[str, Any] = {
        "details": {"ticker": "O:SPY260320C00670000", "expiration_date": "2026-03-20"},
        "day": {},
        "last_trade": {"sip_timestamp": ns(traded_s), "timeframe": "REAL-TIME"},
    }
    found |= (
        {"last_quote": {"bid": 1, "ask": 2, "last_updated": ns(quote_s), "timeframe": quote}}
        if quote_s is not None
        else {}
    )
    found |= (
        {"underlying_asset": {"ticker": "SPY", "last_updated": ns(spot_s), "timeframe": spot}}
        if spot_s is not None
        else {"underlying_asset": {"ticker": "SPY"}}
    )
    return found | more


def asked(probe: str, subject: str, payload: Any) -> ProbeReading:
    """The reading that a probe makes of a response."""
    found = settings.load(
        ".",
        None,
        {"OPS_MASSIVE_URL": "http://m", "OPS_TRADIER_URL": "http://t", "OPS_APP_URL": "http://a", "OPS_SYMBOLS": "SPY"},
    )
    question = next(q for q in providers.questions(found, LIMITS) if (q.probe, q.subject) == (probe, subject))
    return question.read(payload, NOW)


@pytest.mark.parametrize(
    ("rows", "outcome", "age_s"),
    [
        ([row()], "ok", 1),
        ([row(40 * MIN, 1)], "stale", 40 * MIN),  # A new price of the underlying does not hide an old quote,
        ([row(1, 40 * MIN)], "stale", 40 * MIN),  # nor do new quotes hide an old price of the underlying.
        ([row(18 * MIN, 15 * MIN, spot="DELAYED")], "stale", 18 * MIN),  # Each has its own timeframe.
        ([row(16 * MIN, 16 * MIN, "DELAYED", "DELAYED")], "ok", 16 * MIN),
        ([row(1, 16 * MIN, spot="DELAYED")], "ok", 16 * MIN),
        ([row(40 * MIN), row(2)], "ok", 2),  # The newest quote of all contracts counts.
        ([row(None, 1)], "ok", 1),  # A plan without quotes.
        # Also without a price of the underlying: the age is unknown, and trades do not count.
        ([row(None, None)], "ok", None),
        ([], "ok_empty", None),
    ],
)
def test_the_age_of_the_data(rows: list[dict[str, Any]], outcome: str, age_s: float | None) -> None:
    """
    The newest item of each kind of data counts, then the oldest of the kinds, each with its own timeframe; trades do
    not count.
    """
    found = asked("data", "massive", {"status": "OK", "results": rows})
    assert (found.outcome, found.value) == (outcome, age_s)


@pytest.mark.parametrize(
    ("probe", "subject", "payload", "outcome"),
    [
        ("liveness", "massive", {"market": "open"}, "ok"),
        ("liveness", "massive", {"market": "open", "serverTime": "2026-03-10T11:00:00-04:00"}, "ok"),
        ("liveness", "massive", {"status": "ERROR", "error": "try later"}, "server_5xx"),
        ("data", "massive", {"status": "ERROR", "error": "try later"}, "server_5xx"),
        ("data", "massive", {"status": "OK"}, "ok_empty"),
        ("liveness", "tradier", {"errors": {"error": ["try later"]}}, "server_5xx"),
        ("data", "tradier", {"quotes": None}, "ok_empty"),
        ("data", "tradier", {"quotes": {"quote": {"symbol": "SPY", "trade_date": NOW.timestamp() * 1000}}}, "ok"),
        ("data", "tradier", {"quotes": {"quote": [{"symbol": "SPY", "bid_date": NOW.timestamp() * 1000}]}}, "ok"),
        ("health", "app", {"status": "degraded", "uptime": 1.0, "timestamp": "2026-03-10T15:00:00Z"}, "server_5xx"),
    ],
)
def test_the_outcome_of_a_response(probe: str, subject: str, payload: Any, outcome: str) -> None:
    """
    An error with status 200 is a server error; fields that the providers do not guarantee are optional; one element and
    a list are read the same.
    """
    assert asked(probe, subject, payload).outcome == outcome


def test_the_contracts_to_subscribe_to() -> None:
    """
    The most traded contracts are chosen, and none that expires today if there are others; without volumes, the choice
    is stable.
    """
    many = [
        row(
            details={"ticker": f"O:{i:02}", "expiration_date": "2026-03-10" if i < 5 else "2026-03-20"},
            day={"volume": 100 - i} if i != 7 else {},
        )
        for i in range(20)
    ]
    assert providers.busiest(many, DAY) == [f"O:{i:02}" for i in (5, 6, 8, 9, 10, 11, 12, 13)]
    assert (
        providers.busiest(many[:3], DAY) == ["O:00", "O:01", "O:02"]
        and providers.busiest([{"details": {}}, {}], DAY) == []
    )
