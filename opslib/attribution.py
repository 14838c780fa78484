"""
This module knows which cost the page's own means point at where results fall behind the backtest, and nothing else.

The newest trades that are enough to count are set beside those before them in the hour that the rule looks over.
"""

from datetime import datetime, timedelta
from typing import Any

from opslib import indicators
from opslib.causes import UNDETERMINED
from opslib.clock import Window
from opslib.rules import Rule
from opslib.tape import Tape

NEWEST = tuple(timedelta(minutes=m) for m in (5, 10, 15, 20, 30))
COSTS = ("commission_usd", "slippage_usd", "gross_pct")


def by_page(tape: Tape, at: datetime, rule: Rule, changed_by: float) -> tuple[str, str, float]:
    """
    Which cost has changed?

    Args:
        rule: Of the backtest's variance: how many trades count, over how long.
        changed_by: So many times another value is another.

    Returns:
        The cause, in words what it rests on, and how far what was seen agrees (0 to 1).
    """
    now, before = _newest(tape, at, rule)
    if not now["trades"] or not before["trades"] or any(x[k] is None for x in (now, before) for k in COSTS):
        return UNDETERMINED, "which cost it is cannot be told without trades from before, or fills", 0.0
    times = {k: (now[k] / now["trades"]) / (before[k] / before["trades"]) if before[k] else 1.0 for k in ("commission_usd", "slippage_usd")}
    fell = before["gross_pct"] - now["gross_pct"]
    told = f"a trade's commission is {times['commission_usd']:.1f} times that of before, its slippage {times['slippage_usd']:.1f} times, gross {-fell:+.1f} points ({now['trades']} trades and {before['trades']} before)"
    if times["commission_usd"] > changed_by:
        return "costs_commission", told, 0.9
    if times["slippage_usd"] > changed_by:
        return "costs_spread", told, 0.9
    if times["slippage_usd"] < 1 / changed_by:
        return "costs_size", told, 0.8
    return "costs_fill_quality" if fell > 0 else UNDETERMINED, told, 0.7


def _newest(tape: Tape, at: datetime, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
    hour = Window.before(at, rule.window)
    for part in NEWEST:
        lately = Window.before(at, part)
        now = indicators.pnl(tape, lately, 1)
        if (now["trades"] or 0) >= rule.min_count:
            break
    return now, indicators.pnl(tape, Window(hour.start, lately.start), 1)
