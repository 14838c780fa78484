"""Check that a provider still lists the contracts that it listed before, in whole chains and in probes."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from opslib.foundation.config.limits import ChainLimits

SIDES = {"call": "put", "put": "call"}
GREEKS = ("delta", "gamma", "theta", "vega")
LEAST_MOVED = 3  # Fewer contracts than this may have moved by chance.
# At most this many chains are fetched because of a provider that lists its contracts in a new order each time.
MOST_IN_VAIN = 3


def listed(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Count the contracts in Massive's response: per expiry, and those without their call or put."""
    found = Counter[tuple[str, str, float, str]]()
    for result in results:
        details = result.get("details")
        if not isinstance(details, Mapping):
            continue
        strike, side = details.get("strike_price"), details.get("contract_type")
        if side in SIDES and isinstance(strike, (int, float)):
            found[
                str(details.get("ticker", ""))[:-15], str(details.get("expiration_date", ""))[:10], float(strike), side
            ] += 1
    expiries, unpaired = Counter[str](), 0
    for (root, expiry, strike, side), count in found.items():
        expiries[expiry] += count
        unpaired += 0 if (root, expiry, strike, SIDES[side]) in found else count
    return {"expiries": dict(sorted(expiries.items())), "unpaired": unpaired}


def why_partial(now: Mapping[str, Any], before: Mapping[str, Any] | None, day: date, limits: ChainLimits) -> str:
    """
    Return why a chain is only partial; empty if it is complete, or too small to decide.

    Args:
        now, before: What `listed` counted, for this chain and for the last complete one of the same session; None if
            there is none.
        day: Contracts that expire by then may be gone.
    """
    total = sum(now["expiries"].values())
    # A feed that always has only one side may be meant that way; one that loses a side differs from its last complete
    # chain.
    if total >= limits.whole_from and limits.missing_share * total < now["unpaired"] < total:
        return f"{now['unpaired']} of {total} contracts lack their call or put"
    wanted = {
        expiry: count for expiry, count in (before or {"expiries": {}})["expiries"].items() if expiry > day.isoformat()
    }
    count, there = sum(wanted.values()), sum(min(n, now["expiries"].get(expiry, 0)) for expiry, n in wanted.items())
    if count >= limits.whole_from and count - there > limits.missing_share * count:
        return f"{count - there} of {count} contracts of the last complete chain are missing"
    return ""


class Comparison:
    """
    Compare the few contracts of each probe with those of the last probe before a complete chain.

    Args:
        limits: How many may be gone or changed.
        changed_by: A volatility that differs by this factor has changed, and Greeks may have changed with it.
    """

    def __init__(self, limits: ChainLimits, changed_by: float):
        self._limits, self._changed_by = limits, changed_by
        self._last: dict[str, Mapping[str, Any]] = {}
        self._baseline: dict[str, Mapping[str, Any]] = {}
        self._differs, self._in_vain = False, 0

    def of(self, results: Iterable[Any]) -> dict[str, int]:
        """
        Count the contracts of the baseline that are gone, and those with other Greeks; empty if nothing has changed.
        """
        now = {
            str(d["ticker"]): r
            for r in results
            if isinstance(r, Mapping) and isinstance(d := r.get("details"), Mapping) and d.get("ticker")
        }
        self._last, self._baseline = now, self._baseline or now
        both = [(self._baseline[ticker], now[ticker]) for ticker in self._baseline if ticker in now]
        gone, moved = len(self._baseline) - len(both), sum(self._moved(before, after) for before, after in both)
        share = self._limits.missing_share
        self._differs = gone > share * len(self._baseline) or moved >= max(LEAST_MOVED, share * len(both))
        if not self._differs:
            self._in_vain = 0
            return {}
        return {} if self._in_vain >= MOST_IN_VAIN else {"gone": gone, "moved": moved, "of": len(self._baseline)}

    def confirm(self) -> None:
        """Use the last probe as the baseline, because a complete chain was fetched beside it."""
        self._in_vain += self._differs
        self._baseline, self._differs = self._last, False

    def _moved(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """
        Return whether a tradable contract's Greeks are invalid, gone or changed a lot while its volatility is not.
        """
        old, new = _greeks(before), _greeks(now)
        volatility, volatility_now = _number(before.get("implied_volatility")), _number(now.get("implied_volatility"))
        if len(old) < len(GREEKS) or not self._limits.core_from <= abs(old["delta"]) <= self._limits.core_upto:
            return False
        if (
            volatility
            and volatility_now
            and not 1 / self._changed_by <= volatility_now / volatility <= self._changed_by
        ):
            return False
        if len(new) < len(GREEKS) or abs(new["delta"]) > 1:
            return True
        times = self._limits.greeks_times
        return any(not 1 / times <= new[name] / old[name] <= times for name in GREEKS if old[name])


def _greeks(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the Greeks that a contract has."""
    found = result.get("greeks")
    known = {name: _number(found.get(name)) for name in GREEKS} if isinstance(found, Mapping) else {}
    return {name: value for name, value in known.items() if value is not None}


def _number(found: Any) -> float | None:
    """Return a finite number; None for anything else."""
    return (
        float(found)
        if isinstance(found, (int, float)) and not isinstance(found, bool) and math.isfinite(found)
        else None
    )
