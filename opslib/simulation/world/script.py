"""
Script one trading day: the pages, their events and the faults.

It is independent of how the app counts (page.py) and of the expected figures (expected_figures.py). Equal seeds and
days give equal scripts, event for event.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

POST_INTERVAL_S = 5
FULL_SESSION_MINUTES = 390  # The session length that the minutes below refer to.
# What a browser says of a web page in place of JSON. Its markup and quotes must be escaped wherever it is shown.
HOSTILE_MESSAGE = "Unexpected token '<', \"<!DOCTYPE html><img src=x>\" is not valid JSON"

MASSIVE_REQUESTS_PER_HOUR = 1800
MASSIVE_REQUESTS_PER_HOUR_AT_OPEN = 2600
BUSY_OPEN_S = 1800
TRADIER_REQUESTS_PER_HOUR = 250
ATTEMPTS_PER_CALL = 3
ATTEMPT_FAILURE_RATE = 0.0025
VALIDATION_INTERVAL_S = 10
GAMMA_ZERO_RATE = 0.003
GAMMA_ZERO_RATE_IN_BURST = 0.4
DELTA_RATE = 0.003
THETA_MISSING_RATE = 0.006
IV_ANOMALIES_PER_HOUR = 2.0
UI_ERRORS_PER_HOUR = 2.5
LATENCY_INTERVAL_S = 5
SOCKET_CONNECT_S = 1.2
COMMISSION_USD_PER_CONTRACT_SIDE = 0.66
BACKTEST_SPREAD = 0.005
CALM_SPREAD = 0.02
SPREAD_RISE_PER_MINUTE = 0.00028
VARIANCE_TRADES = 5

GAMMA_ZERO_TEXT = "Gamma cannot be exactly 0 (API likely missing data)"
DELTA_TEXT = "Delta 1.37 out of bounds [-1, 1]"
UI_MESSAGES = ("ResizeObserver loop limit exceeded", "Chart canvas was resized to 0 px", None)


@dataclass(frozen=True, slots=True)
class Event:
    """
    One event on one page at a true UTC instant (whole milliseconds).

    Kinds and their data: request (provider, ms, ok), fallback (provider), greeks (valid,
    estimated, cause, errors), iv_anomaly (), trade (gross_pct, net_pct, commission_usd,
    slippage_usd), variance (points), error (type, message or None), ws (connected),
    ws_latency (ms).
    """

    at: datetime
    page: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class PageLife:
    """
    One page load: instants are aware UTC, offsets and clock errors are seconds.

    `page_id` is what the page posts as `page` (None if it posts none). With `closed_at` None the page stays open past
    the close. Skew is page clock minus true clock; jitter is the largest deviation from the skew, to either side.
    """

    key: str
    page_id: str | None
    loaded_at: datetime
    closed_at: datetime | None
    post_offset_s: int
    clock_skew_s: float
    clock_jitter_s: float
    first_post_at: datetime
    last_post_at: datetime

    def post_instants(self) -> list[datetime]:
        """Return every true UTC instant at which this page posts, oldest first."""
        last_s = int((self.last_post_at - self.first_post_at).total_seconds())
        offsets_s = range(0, last_s + 1, POST_INTERVAL_S)
        return [self.first_post_at + timedelta(seconds=s) for s in offsets_s]


@dataclass(frozen=True)
class Fault:
    """A scripted fault between two aware UTC instants, with one sentence for a reader."""

    name: str
    begins: datetime
    ends: datetime
    words: str


@dataclass(frozen=True)
class Script:
    """A whole scripted day; `opens` and `closes` are aware UTC, events are sorted by instant."""

    seed: int
    day: date
    events: tuple[Event, ...]
    pages: tuple[PageLife, ...]
    faults: tuple[Fault, ...]
    opens: datetime
    closes: datetime


class _Habits(NamedTuple):
    """How one page is used: share of the trader's request rate, positions, minutes per trade."""

    request_share: float
    positions: int
    minutes_per_trade: float


class _Session(NamedTuple):
    """The session, the same for every page: open, close and faults."""

    opens: datetime
    closes: datetime
    faults: tuple[Fault, ...]

    def since_open_s(self, at: datetime) -> float:
        return (at - self.opens).total_seconds()


_TRADER, _LEAD = _Habits(1.0, 3, 9.5), _Habits(0.5, 2, 21.0)


def script(
    seed: int,
    day: date = date(2026, 3, 10),
    *,
    opens: datetime,
    closes: datetime,
    quiet: bool = False,
) -> Script:
    """
    Return the day's script for a seed; `opens` and `closes` are the session's aware UTC instants.

    Faults begin at fixed minutes of a full session, scaled for a shorter one and moved by a few minutes by the seed. A
    quiet day has the base rates only: no fault and no refresh.
    """
    rng = Random(f"{seed}/{day}/{quiet}")
    session_s = int((closes - opens).total_seconds())
    session = _Session(opens, closes, () if quiet else _faults(rng, opens, session_s))
    pages = _pages(rng, session)
    events = [event for life in pages for event in _PageDay(rng, life, session).events()]
    if not quiet:
        at = closes - timedelta(seconds=rng.randint(60, 120))
        hostile = {"type": "UI_ERROR", "message": HOSTILE_MESSAGE}
        events.append(Event(at, "trader-2", "error", hostile))
    events.sort(key=lambda event: event.at)
    return Script(seed, day, tuple(events), pages, session.faults, opens, closes)


def _faults(rng: Random, opens: datetime, session_s: int) -> tuple[Fault, ...]:
    """Return the faults of the incident day, in order of their beginning."""

    def begins(full_session_minute: int) -> datetime:
        minute = full_session_minute * session_s / 60 / FULL_SESSION_MINUTES
        return opens + timedelta(minutes=round(minute) + rng.randint(-4, 4))

    def fault(name: str, minute: int, shortest_s: int, longest_s: int, words: str) -> Fault:
        start = begins(minute)
        ends = start + timedelta(seconds=rng.randint(shortest_s, longest_s))
        return Fault(name, start, ends, words)

    last_post = begins(250) + timedelta(seconds=10 * rng.randint(1, 4))
    unload = last_post + timedelta(milliseconds=rng.randint(3300, 3800))
    load = unload + timedelta(milliseconds=rng.randint(1000, 3000))
    refreshed = "The trader refreshes the page; its counters restart at zero."
    closes = opens + timedelta(seconds=session_s)
    dearer = "Spreads widen all afternoon: net P&L falls and live results drift from the backtest."
    burst = "40 % of the validations have a gamma of exactly 0."
    outage = "Every request to Massive fails; the app falls back to Tradier."
    loss = "The WebSocket is disconnected on every open page."
    return (
        fault("gamma_burst", 40, 840, 960, burst),
        fault("massive_outage", 110, 660, 840, outage),
        Fault("costs_rise", begins(180), closes, dearer),
        Fault("refresh", unload, load, refreshed),
        fault("websocket_loss", 300, 180, 300, loss),
    )


def _pages(rng: Random, session: _Session) -> tuple[PageLife, ...]:
    """Return the page loads of the day; each load is in the same minute as its first post."""

    def at(since_open_s: int) -> datetime:
        return session.opens + timedelta(seconds=since_open_s)

    def grid_s(since_open_s: float, offset_s: int) -> int:
        """Return the page's last posting second at or before the given one."""
        return int(since_open_s - (since_open_s - offset_s) % POST_INTERVAL_S)

    close_s = session.since_open_s(session.closes)
    loaded, first, last = at(-18 * 60), at(-5 * 60), at(grid_s(close_s, 0))
    traders = [PageLife("trader", None, loaded, None, 0, 0.0, 0.0, first, last)]
    for refresh in (t for t in session.faults if t.name == "refresh"):
        before_s = grid_s(session.since_open_s(refresh.begins), 0)
        before, after = at(before_s), at(before_s + 2 * POST_INTERVAL_S)
        traders = [
            PageLife("trader", None, loaded, refresh.begins, 0, 0.0, 0.0, first, before),
            PageLife("trader-2", None, refresh.ends, None, 0, 0.0, 0.0, after, last),
        ]
    minute = round(75 * close_s / 60 / FULL_SESSION_MINUTES) + rng.randint(-4, 4)
    load_s = 60 * minute + rng.randint(10, 35)
    lead = PageLife(
        key="lead",
        page_id=f"lead-{rng.randint(0, 0xFFFF):04x}",
        loaded_at=at(load_s),
        closed_at=None,
        post_offset_s=2,
        clock_skew_s=2.4,
        clock_jitter_s=0.4,
        first_post_at=at(grid_s(load_s + 2 + POST_INTERVAL_S, 2)),
        last_post_at=at(grid_s(close_s, 2)),
    )
    return (*traders, lead)


class _PageDay:
    """Write the events of one page load; times are seconds since the open."""

    def __init__(self, rng: Random, life: PageLife, session: _Session) -> None:
        self._rng = rng
        self._key = life.key
        self._habits = _TRADER if life.page_id is None else _LEAD
        self._opens = session.opens
        self._from_s = session.since_open_s(life.loaded_at)
        self._to_s = session.since_open_s(life.closed_at or session.closes)
        self._spans_s = {t.name: (session.since_open_s(t.begins), session.since_open_s(t.ends)) for t in session.faults}
        self._events: list[Event] = []

    def events(self) -> list[Event]:
        """Return every event of the page between its load and its end, unordered."""
        self._write_requests()
        self._write_validations()
        self._write_trades()
        self._write_socket()
        for at_s in self._arrivals_s(IV_ANOMALIES_PER_HOUR):
            self._add(at_s, "iv_anomaly")
        for at_s in self._arrivals_s(UI_ERRORS_PER_HOUR):
            message = UI_MESSAGES[self._rng.randint(0, len(UI_MESSAGES) - 1)]
            self._add(at_s, "error", type="UI_ERROR", message=message)
        return self._events

    def _add(self, at_s: float, kind: str, **data: object) -> None:
        if at_s <= self._to_s:
            at = self._opens + timedelta(milliseconds=round(at_s * 1000))
            self._events.append(Event(at, self._key, kind, data))

    def _inside(self, name: str, at_s: float) -> bool:
        begins_s, ends_s = self._spans_s.get(name, (0.0, 0.0))
        return begins_s <= at_s < ends_s

    def _arrivals_s(self, per_hour: float) -> list[float]:
        found, at_s = [], self._from_s + self._rng.expovariate(per_hour / 3600)
        while at_s < self._to_s:
            found.append(round(at_s, 3))
            at_s += self._rng.expovariate(per_hour / 3600)
        return found

    def _write_requests(self) -> None:
        share = self._habits.request_share
        for at_s in self._arrivals_s(share * MASSIVE_REQUESTS_PER_HOUR_AT_OPEN):
            busy = 0 <= at_s < BUSY_OPEN_S
            kept = MASSIVE_REQUESTS_PER_HOUR / MASSIVE_REQUESTS_PER_HOUR_AT_OPEN
            if busy or self._rng.random() < kept:
                self._call_massive(at_s)
        for at_s in self._arrivals_s(share * TRADIER_REQUESTS_PER_HOUR):
            self._ask_tradier(at_s)

    def _call_massive(self, start_s: float) -> None:
        """Make one logical call: up to three recorded attempts, then the fallback to Tradier."""
        at_s = start_s
        for attempt in range(ATTEMPTS_PER_CALL):
            failed = self._rng.random() < ATTEMPT_FAILURE_RATE
            ms = round(max(35.0, self._rng.gauss(195, 55)))
            at_s += ms / 1000
            failed = failed or self._inside("massive_outage", at_s)
            self._add(at_s, "request", provider="massive", ms=ms, ok=not failed)
            if not failed:
                return
            at_s += 0.1 * 2**attempt
        self._add(at_s, "fallback", provider="massive")
        self._add(at_s, "error", type="API_ERROR", message="Massive answered HTTP 503 three times")
        self._ask_tradier(at_s)

    def _ask_tradier(self, start_s: float) -> None:
        ms = round(max(30.0, self._rng.gauss(150, 40)))
        ok = self._rng.random() >= ATTEMPT_FAILURE_RATE
        self._add(start_s + ms / 1000, "request", provider="tradier", ms=ms, ok=ok)

    def _write_validations(self) -> None:
        at_s = self._from_s + 3
        while at_s < self._to_s:
            for _ in range(self._habits.positions):
                cause, errors = self._finding(at_s)
                found = {"cause": cause, "errors": errors, "valid": not errors}
                estimated = cause in ("gamma_zero", "theta_missing")
                self._add(at_s, "greeks", estimated=estimated, **found)
            at_s += VALIDATION_INTERVAL_S

    def _finding(self, at_s: float) -> tuple[str, tuple[str, ...]]:
        burst = self._inside("gamma_burst", at_s)
        gamma_rate = GAMMA_ZERO_RATE_IN_BURST if burst else GAMMA_ZERO_RATE
        draw = self._rng.random()
        if draw < gamma_rate:
            return "gamma_zero", (GAMMA_ZERO_TEXT,)
        if draw < gamma_rate + DELTA_RATE:
            return "delta_out_of_bounds", (DELTA_TEXT,)
        if draw < gamma_rate + DELTA_RATE + THETA_MISSING_RATE:
            return "theta_missing", ()
        return "clean", ()

    def _write_trades(self) -> None:
        gaps: list[float] = []
        step_s = 60 * self._habits.minutes_per_trade
        at_s = max(self._from_s, 0.0) + step_s * (0.7 + 0.6 * self._rng.random())
        while at_s < self._to_s:
            entry_usd = 3 + 6 * self._rng.random()
            exit_usd = entry_usd * (1 + max(-0.5, self._rng.gauss(0.05, 0.1)))
            contracts = self._rng.randint(4, 10)
            spread = self._spread(at_s)
            live = round_trip(entry_usd, exit_usd, contracts, spread)
            backtest = round_trip(entry_usd, exit_usd, contracts, BACKTEST_SPREAD)
            gaps.append(backtest["net_pct"] - live["net_pct"])
            recent = gaps[-VARIANCE_TRADES:]
            self._add(at_s, "trade", **live)
            self._add(at_s, "variance", points=sum(recent) / len(recent))
            at_s += step_s * (0.7 + 0.6 * self._rng.random())

    def _spread(self, at_s: float) -> float:
        """Return bid-ask spread over mid price; it grows with the minutes since the costs began to rise."""
        begins_s, ends_s = self._spans_s.get("costs_rise", (0.0, 0.0))
        minutes = max(0.0, min(at_s, ends_s) - begins_s) / 60
        # A short session reaches the same spread in fewer minutes.
        stretch = FULL_SESSION_MINUTES * 60 / ends_s if ends_s else 0.0
        spread = CALM_SPREAD + SPREAD_RISE_PER_MINUTE * stretch * minutes
        return spread * (0.9 + 0.2 * self._rng.random())

    def _write_socket(self) -> None:
        connected_s = self._from_s + SOCKET_CONNECT_S
        self._add(connected_s, "ws", connected=True)
        loss = self._spans_s.get("websocket_loss")
        if loss:
            self._add(loss[0], "ws", connected=False)
            message = "WebSocket closed with code 1006"
            self._add(loss[0], "error", type="NETWORK_ERROR", message=message)
            self._add(loss[1], "ws", connected=True)
        at_s = connected_s + LATENCY_INTERVAL_S / 2
        while at_s < self._to_s:
            if not self._inside("websocket_loss", at_s):
                self._add(at_s, "ws_latency", ms=round(max(12.0, self._rng.gauss(48, 15))))
            at_s += LATENCY_INTERVAL_S


def round_trip(entry_usd: float, exit_usd: float, contracts: int, spread: float) -> dict[str, float]:
    """Compute a round trip in percent of its entry and in dollars; slippage is paid on both legs."""
    size = contracts * 100
    side_usd = COMMISSION_USD_PER_CONTRACT_SIDE * contracts
    entry_slippage_usd = 0.98 * entry_usd * size * spread
    slippage_usd = entry_slippage_usd + 0.98 * exit_usd * size * spread
    net_usd = (exit_usd - entry_usd) * size - 2 * side_usd - slippage_usd
    paid_usd = entry_usd * size + side_usd + entry_slippage_usd
    return {
        "gross_pct": (exit_usd - entry_usd) / entry_usd * 100,
        "net_pct": net_usd / paid_usd * 100,
        "commission_usd": 2 * side_usd,
        "slippage_usd": slippage_usd,
    }
