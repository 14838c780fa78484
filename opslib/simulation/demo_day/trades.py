"""
Write the scripted day's trades as the app stores them, with quotes and the backtest's figures.

The script has the result of each trade. Entry, size and spread follow from it: two equations with two unknowns.
"""

import json
import os
from datetime import timedelta
from pathlib import Path

from opslib.simulation.world.script import BACKTEST_SPREAD, COMMISSION_USD_PER_CONTRACT_SIDE, Script, round_trip

HELD = timedelta(minutes=11)
QUALITY = 0.98
CHAIN = (("SPX", 6810.0, "C"), ("SPX", 6790.0, "P"), ("QQQ", 604.0, "C"), ("NVDA", 182.5, "C"))


def trades(scripted: Script) -> list[dict[str, object]]:
    """Return every round trip of the session in the app's format, with prices to the hundredth of a cent."""
    found: list[dict[str, object]] = []
    for event in (e for e in scripted.events if e.kind == "trade"):
        gross, net, commission, slippage = (
            float(str(event.data[k])) for k in ("gross_pct", "net_pct", "commission_usd", "slippage_usd")
        )
        gain, contracts = gross / 100, round(commission / (2 * COMMISSION_USD_PER_CONTRACT_SIDE))
        entry_slippage = slippage / (2 + gain)
        paid = (net / 100 * (commission / 2 + entry_slippage) + commission + slippage) / (gain - net / 100)
        entry, spread = paid / (contracts * 100), entry_slippage / (QUALITY * paid)
        exit_ = entry * (1 + gain)
        backtest = round_trip(entry, exit_, contracts, BACKTEST_SPREAD)
        ticker, strike, right = CHAIN[len(found) % len(CHAIN)]
        quotes = {
            f"{end}_{side}": round(price * (1 + sign * spread / 2), 4)
            for end, price in (("entry", entry), ("exit", exit_))
            for side, sign in (("bid", -1), ("ask", 1))
        }
        found.append(
            {
                "id": len(found) + 1,
                "ticker": ticker,
                "contract": {"strike": strike, "expiry": str(scripted.day), "type": right},
                "state": "EXITED",
                "quantity": contracts,
                "contractMultiplier": 100,
                "entry_ts": (event.at - HELD).isoformat(),
                "exit_ts": event.at.isoformat(),
                "entry_price": round(entry, 4),
                "exit_price": round(exit_, 4),
                **quotes,
                "backtest_net_pct": round(backtest["net_pct"], 6),
                "backtest_commission_usd": round(backtest["commission_usd"], 2),
                "backtest_slippage_usd": round(backtest["slippage_usd"], 4),
            }
        )
    return found


def write(path: Path, scripted: Script) -> None:
    """Write the trades to a file, completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_suffix(f".{os.getpid()}")  # Two processes at once write equal files under different names.
    making.write_text(json.dumps(trades(scripted), indent=1) + "\n", encoding="utf-8")
    making.replace(path)
