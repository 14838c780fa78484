"""
Generate the probe samples of the scripted day without playing it.

`replay.play_day` probes a simulated world. These samples are for notebooks, which need the same day each time.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from opslib.simulation.world.massive import GREEKS, nested
from opslib.simulation.world.option_surface import Surface
from opslib.simulation.world.script import Script

EVERY_S, SELDOM_S, CHAIN_S = 15, 60, 900
BEFORE_OPEN = timedelta(minutes=5)
SYMBOLS = {"SPY": (450, 190, 0.178), "AAPL": (450, 116, 0.281)}
GAMMA_ZERO_SHARE = 0.4
# The symbol whose chains are stored whole, and for how long after the open: healthy ones and one with the burst.
KEPT, KEPT_FOR = "SPY", timedelta(minutes=75)
UNITS = {"theta": "per_day", "vega": "per_point", "gamma": "per_dollar", "iv": "decimal"}


class GeneratedSample(NamedTuple):
    """One attempt of one probe: the time of its outcome, and the fields of `Sample`."""

    at: datetime
    probe: str
    subject: str
    outcome: str
    seconds: float | None = None
    value: float | None = None
    attempt: int = 1
    last: bool = True
    detail: dict[str, Any] = {}  # noqa: RUF012  # Never modified.


def generate(script: Script) -> Iterator[GeneratedSample]:
    """Yield every sample of the day in time order, from five minutes before the open to the close."""
    rng = Random(f"{script.seed}/{script.day}/witness")
    spans = {t.name: (t.begins, t.ends) for t in script.faults}

    def inside(name: str, at: datetime) -> bool:
        begins, ends = spans.get(name, (script.closes, script.opens))
        return begins <= at < ends

    begun = script.opens - BEFORE_OPEN
    for since_s in range(0, int((script.closes - begun).total_seconds()) + 1, EVERY_S):
        at = begun + timedelta(seconds=since_s)
        is_open = at > script.opens
        down, deaf = inside("massive_outage", at), inside("websocket_loss", at)
        yield from _request(
            rng,
            at,
            "liveness",
            "massive",
            down,
            0.19,
            {"market": "open" if is_open else "extended-hours", "skew_s": 0.1},
        )
        yield from _request(
            rng,
            at,
            "liveness",
            "tradier",
            False,
            0.15,
            {
                "market": "open" if is_open else "premarket",
                "quota": 120,
                "quota_left": rng.randint(104, 116),
                "skew_s": -0.2,
            },
        )
        yield GeneratedSample(
            _after(rng, at),
            "health",
            "app",
            "ok",
            round(rng.uniform(0.006, 0.04), 4),
            since_s + 86_400.0,
            detail={"bytes": 75, "first_byte_s": 0.01, "said": "ok", "skew_s": 0.0, "status": 200},
        )
        if deaf:
            yield GeneratedSample(
                _after(rng, at),
                "socket",
                "app",
                "unreachable",
                None,
                round((at - spans["websocket_loss"][0]).total_seconds(), 1),
                detail={},
            )
        else:
            yield GeneratedSample(
                _after(rng, at),
                "socket",
                "app",
                "ok",
                round(max(0.012, rng.gauss(0.048, 0.015)), 4),
                round(rng.uniform(0.1, 1.2), 1),
            )
        yield GeneratedSample(
            at,
            "beat",
            "collector",
            "ok",
            None,
            58.0,
            detail={"every_s": EVERY_S, "files": 14, "tasks": 16, "waiting": 0},
        )
        if since_s % SELDOM_S == 0:
            yield GeneratedSample(
                at, "metrics", "app", "ok", 0.018, detail={"bytes": 311, "said": "active", "status": 200}
            )
            yield from _seldom(rng, at, since_s, down, is_open)
        if since_s % CHAIN_S == 0 and is_open:
            yield from _chains(rng, at, down, inside("gamma_burst", at))


def _after(rng: Random, at: datetime) -> datetime:
    return at + timedelta(milliseconds=rng.randint(20, 400))


def _request(
    rng: Random,
    at: datetime,
    probe: str,
    subject: str,
    down: bool,
    usual_s: float,
    more: dict[str, Any],
    value: float | None = None,
) -> Iterator[GeneratedSample]:
    """Yield one probe: a response, or two failed attempts."""
    for attempt in (1, 2) if down else (1,):
        seconds = round(max(0.03, rng.gauss(usual_s, usual_s / 4)), 4)
        at += timedelta(seconds=round(seconds + 0.3 * (attempt - 1), 3))
        detail = (
            {"bytes": 512, "first_byte_s": round(seconds * 0.9, 4), "status": 503, "said": ""}
            if down
            else {"bytes": 690, "first_byte_s": round(seconds * 0.9, 4), "status": 200} | more
        )
        yield GeneratedSample(
            at,
            probe,
            subject,
            "server_5xx" if down else "ok",
            seconds,
            None if down else value,
            attempt,
            attempt == 2 or not down,
            detail,
        )


def _seldom(rng: Random, at: datetime, since_s: int, down: bool, is_open: bool) -> Iterator[GeneratedSample]:
    """Yield the probes of once a minute: data, process and log."""
    yield from _request(
        rng,
        at,
        "data",
        "massive",
        down,
        0.22,
        {"contract": "O:SPY260313C00670000", "contracts": 50, "delayed": False},
        round(rng.uniform(0.4, 2.5), 1),
    )
    yield from _request(rng, at, "data", "tradier", False, 0.16, {"delayed": False}, round(rng.uniform(0.4, 2.5), 1))
    yield GeneratedSample(
        _after(rng, at),
        "process",
        "app",
        "ok",
        None,
        round(142 + 0.4 * since_s / 3600 + rng.uniform(-1.5, 1.5), 2),
        detail={"born": 1_772_900_000.0, "cpu_s": round(since_s * 0.04, 1), "pid": 4242, "threads": 11},
    )
    errors = rng.randint(5, 9) if down else int(rng.random() < 0.03)
    kinds, newest = {"access": rng.randint(20, 40)}, dict[str, str]()
    if down:
        kinds |= {"provider_5xx": errors}
        newest = {"provider_5xx": "[v0] Massive proxy error (502): HTTP 503 from /v3/snapshot/options/SPY"}
    elif errors:
        kinds |= {"other_error": errors}
        newest = {"other_error": "[Trades API] Error: update was refused"}
    yield GeneratedSample(
        _after(rng, at),
        "log",
        "app",
        "ok",
        None,
        float(errors),
        detail={"cursor": "", "kinds": kinds, "lines": sum(kinds.values()), "newest": newest},
    )


def _chains(rng: Random, at: datetime, down: bool, burst: bool) -> Iterator[GeneratedSample]:
    for symbol, (contracts, core, iv) in SYMBOLS.items():
        seconds = round(rng.uniform(0.5, 0.9), 3)
        ended = at + timedelta(seconds=seconds)
        if down:
            yield GeneratedSample(
                ended, "chain", symbol, "server_5xx", seconds, 0.0, detail={"pages": 0, "said": "", "status": 503}
            )
            continue
        zero = round(core * GAMMA_ZERO_SHARE) + rng.randint(-4, 4) if burst else 0
        summary: dict[str, Any] = {
            "contracts": contracts,
            "quoted": contracts - 60,
            "core": core,
            "expires_today": 0,
            "missing": 0,
            "gamma_zero": zero,
            "delta_out_of_bounds": 0,
        }
        summary |= {
            "flagged": zero,
            "faults": {"gamma_zero": zero} if zero else {},
            "units": UNITS,
            "iv_atm": round(iv * rng.uniform(0.99, 1.01), 4),
        }
        medians = {
            "median_iv": round(iv * rng.uniform(0.97, 1.03), 4),
            "median_theta": round(-0.21 * rng.uniform(0.97, 1.03), 4),
            "median_vega": round(0.34 * rng.uniform(0.97, 1.03), 4),
        }
        yield GeneratedSample(
            ended, "chain", symbol, "ok", seconds, float(contracts), detail=summary | {"pages": 2} | medians
        )


def chains(script: Script) -> Iterator[tuple[datetime, dict[str, Any]]]:
    """Yield the first hour's chains of one symbol in the provider's format, a page each, with the burst's zeros."""
    rng, surface = Random(f"{script.seed}/{script.day}/chains"), Surface(script.seed)
    burst = next((t for t in script.faults if t.name == "gamma_burst"), None)
    for since_s in range(CHAIN_S, round(KEPT_FOR.total_seconds()) + 1, CHAIN_S):
        at = script.opens - BEFORE_OPEN + timedelta(seconds=since_s)
        zeroed = burst is not None and burst.begins <= at < burst.ends
        results = []
        for c in surface.chain(KEPT, at.timestamp()):
            row = nested(c, KEPT, round(at.timestamp() * 1e9) - rng.randint(1, 2_000) * 1_000_000)
            if c.delta is not None:
                greeks = {name: getattr(c, name) for name in GREEKS}
                row["greeks"] = greeks | (
                    {"gamma": 0} if zeroed and c.bid > 0 and rng.random() < GAMMA_ZERO_SHARE else {}
                )
            results.append(row)
        yield at, {"request_id": f"{rng.getrandbits(128):032x}", "results": results, "status": "OK"}
