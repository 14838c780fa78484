"""Show the quality of one chain's Greeks to people and machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from opslib import text
from opslib.bands import Band, iv_atm
from opslib.chain import SENT
from opslib.crosscheck import Crosscheck
from opslib.greeks import Quality, listed_columns
from opslib.report import Text, listed, tabled
from opslib.rules import Rules
from opslib.verdicts import EXIT_CODES, Figure, Finding, judge, wilson, worst

SOURCE = "chain"


@dataclass(frozen=True, eq=False)
class ChainView:
    """
    What the Greeks of one chain are worth.

    Attributes:
        quality: What was judged.
        rules: By which limits.
        band: What is usual for its symbol.
        against: Another provider's chain beside it, where there is one.
        held: Contracts that are held now, by (day, side, strike), and how many; None where nobody knows.
        remarks: What else is to be said, such as why it could not be fetched whole.
    """

    quality: Quality
    rules: Rules
    band: Band = Band(0)
    against: Crosscheck | None = None
    held: dict[tuple[Any, str, float], float] | None = None
    remarks: Sequence[str] = ()

    @cached_property
    def judged(self) -> list[Finding]:
        """What do the rules about chains say of it?"""
        q, n = self.quality, self.quality.core_count
        parts = {
            "greeks_valid": n - q.flagged,
            "gamma_zero": q.core_with("gamma_zero"),
            "delta_out_of_bounds": q.core_with("delta_out_of_bounds"),
        }
        if not q.covered and not q.flagged:
            n = 0  # A feed without any figure, of which none was promised: what it lacks cannot be right.
        absent = why_none(q)
        return [
            judge(
                self.rules[name].of(SOURCE),
                name_of(q),
                SOURCE,
                Figure(part / n, part, n) if n else Figure(None, absent=absent),
            )
            for name, part in parts.items()
        ]

    @property
    def verdict(self) -> str:
        """
        The worst of its rules; a warning where more contracts have a fault than a good chain has; unknown where too few
        can be judged.
        """
        found = [f.verdict for f in self.judged if f.counted] or ["unknown"]
        if self.quality.told(self.rules.chain) or (
            self.against
            and self.against.shared
            and wilson(self.against.delta_off, self.against.shared)[0] > self.rules.chain.told_share
        ):
            found.append("warning")
        return worst(found)

    @property
    def exit_code(self) -> int:
        """What a shell sees."""
        return EXIT_CODES[self.verdict]

    @cached_property
    def weighted(self) -> dict[str, float | None]:
        """The valid rate of the core by what traders hold, and by open interest."""
        frame = self.quality.chain.frame
        keys = zip(frame["expiry"].dt.tz_convert(text.NEW_YORK).dt.date, frame["cp"], frame["strike"])
        positions = self.quality.weighted(_array([abs(self.held.get(key, 0.0)) for key in keys])) if self.held else None
        return {"positions": positions, "open_interest": self.quality.weighted(frame["oi"].fillna(0.0).to_numpy())}

    def as_json(self) -> dict[str, Any]:
        """The chain as CONTRACT.md has it, and what else is known of it."""
        q, n = self.quality, len(self.quality.chain.frame)
        iv = iv_atm(q)
        return {
            "as_of": text.iso(q.as_of),
            "provider": q.chain.provider,
            "symbol": name_of(q),
            "contracts": n,
            "raw_valid_rate": _rate(q.raw_valid, n),
            "core": {
                "contracts": q.core_count,
                "flagged": q.flagged,
                "valid_rate": _rate(q.core_count - q.flagged, q.core_count),
            },
            "coverage": _rate(q.covered, n),
            "weighted_valid_rate": {name: None if v is None else round(v, 6) for name, v in self.weighted.items()},
            "units": q.units,
            "iv": {
                "at_the_money": iv,
                "low": self.band.low,
                "high": self.band.high,
                "days_held": self.band.days,
                "outside": self.band.outside(iv),
            },
            "against": None
            if self.against is None
            else {
                "shared": self.against.shared,
                "moved_usd": self.against.moved_usd,
                "delta_off": self.against.delta_off,
                "iv_off": self.against.iv_off,
                "examples": list(self.against.examples),
            },
            "findings": [
                {"check": f.check, "severity": f.severity, "count": f.count, "examples": list(f.examples)}
                for f in q.findings
            ],
            "notes": [*self.remarks, *q.notes],
            "refused": [{"place": place, "why": why} for place, why in q.chain.refused],
            "verdict": self.verdict,
            "why": [f.sentence for f in self.judged],
        }

    @property
    def rates(self) -> Text:
        """Which share of it is right, by each way of counting?"""
        q, n, w = self.quality, len(self.quality.chain.frame), self.weighted
        valid = q.core_count - q.flagged
        low, high = wilson(valid, q.core_count)
        rows = [
            [
                "core",
                text.ratio(_rate(valid, q.core_count)),
                f"{valid:,} of {q.core_count:,}",
                f"quoted, unexpired, tradable: this is judged (95 %: {text.ratio(low, 1)} to {text.ratio(high, 1)})"
                if q.core_count
                else why_none(q),
            ],
            [
                "guide",
                text.ratio(_rate(q.raw_valid, n)),
                f"{q.raw_valid:,} of {n:,}",
                "every contract, by the guide's reading; low on a healthy chain too",
            ],
            [
                "coverage",
                text.ratio(_rate(q.covered, n)),
                f"{q.covered:,} of {n:,}",
                "contracts that have Greeks at all",
            ],
            ["by open interest", text.ratio(w["open_interest"]), "", "the core, by contracts that somebody holds"],
            [
                "by our positions",
                text.ratio(w["positions"]),
                "",
                "the core, by contracts that we hold"
                if self.held
                else "no positions are known: import fills"
                if self.held is None
                else "nothing of it is held",
            ],
        ]
        return tabled("How much of it is right?", ["counted", "valid", "contracts", "what that is"], rows)

    @property
    def faults(self) -> Text:
        """What is wrong, in how many contracts, and in which worst of all?"""
        rows = [[f.check, f.severity, f"{f.count:,}", "; ".join(f.examples)] for f in self.quality.findings]
        return tabled("What is wrong with it?", ["check", "severity", "contracts", "the worst"], rows, "nothing")

    @property
    def units(self) -> Text:
        """In which units does it send its figures?"""
        rows = [[name, (unit or text.UNKNOWN).replace("_", " ")] for name, unit in self.quality.units.items()]
        return tabled("Its units, as measured", ["figure", "unit"], rows)

    @property
    def usual(self) -> Text:
        """Is its volatility usual for its symbol?"""
        iv, b = iv_atm(self.quality), self.band
        if b.low is None:
            return listed(
                f"At the money {text.ratio(iv, 1)}",
                [f"whether that is usual is not known: {b.days} of {self.rules.chain.band_days:g} days are held"],
            )
        told = {
            True: "outside its own band: market stress or wrong data; see whether its Greeks agree",
            False: "within its own band",
            None: "it cannot be told",
        }[b.outside(iv)]
        return listed(
            f"At the money {text.ratio(iv, 1)}",
            [f"{told} ({text.ratio(b.low, 1)} to {text.ratio(b.high, 1)}, of the {b.days} days before)"],
        )

    @property
    def beside(self) -> Text:
        """Does another provider say the same?"""
        if self.against is None:
            return listed("Beside the other provider", ["not compared: ops greeks SYMBOL fetches both"])
        return listed(
            f"Beside the other provider: {self.against!r}", list(self.against.examples) or ["nothing differs"]
        )

    @property
    def smile(self) -> "Smile":
        """Its volatilities by strike, and where its faults lie, as a picture."""
        return Smile(self)

    def __repr__(self) -> str:
        lines = [
            f"{name_of(self.quality)} from {self.quality.chain.provider}, as of "
            f"{text.moment(self.quality.as_of)}: {self.verdict}"
        ]
        lines += [f"  {f.sentence}" for f in self.judged if f.verdict != "ok"]
        lines += [f"  {remark}" for remark in (*self.remarks, *self.quality.notes)]
        parts = [self.rates, self.faults, self.units, self.usual]
        return "\n".join([*lines, *(f"\n{part!r}" for part in (*parts, *((self.beside,) if self.against else ())))])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        head = listed(
            repr(self).splitlines()[0], [f.sentence for f in self.judged] + [*self.remarks, *self.quality.notes]
        )
        return head._repr_mimebundle_()


@dataclass(frozen=True)
class Smile:
    """The volatilities of a chain by strike, as a picture."""

    view: ChainView

    def __repr__(self) -> str:
        q = self.view.quality
        return f"volatilities of {q.core_count:,} core contracts by strike, {q.flagged:,} with a fault"

    def _ipython_display_(self) -> None:
        from opslib import plots

        def draw(ax):
            return plots.smile(ax, self.view.quality)

        plots.shown({"text/plain": repr(self)}, draw, "volatilities by strike", repr(self))


def why_none(quality: Quality) -> str:
    """Why no contract of a chain could be judged: the first reason that holds, in words."""
    chain, theory = quality.chain, quality.theory
    lacks = [f"{name}s" for name in ("bid", "ask") if name not in chain.sent]
    if lacks:
        found = f"found {listed_columns(chain.unread)}" if chain.unread else "there is no other column"
        return f"no column of quotes was recognised, that is of {' and '.join(lacks)}: {found}"
    quoted = (chain.frame["bid"] > 0).to_numpy(dtype=bool)
    odd = f": cells that are no numbers: {', '.join(chain.garbled)}" if chain.garbled else ""
    if chain.frame["bid"].isna().all():
        return f"no bid is there to be read in {len(quoted):,} contracts{odd}"
    if not quoted.any():
        return f"none of {len(quoted):,} contracts has a bid above 0"
    living = quoted & (theory.years > 0)
    if not living.any():
        return f"each of {int(quoted.sum()):,} quoted contracts had settled by {text.moment(quality.as_of)}"
    if not (living & (theory.forward > 0)).any():
        calls = int(theory.call[living].sum())
        price = (
            "no price of the underlying is given"
            if "underlying_px" in chain.sent
            else f"no column of the underlying's price was "
            f"recognised{f' (not understood: {listed_columns(chain.unread)})' if chain.unread else ''}"
        )
        return (
            f"the forward is unknown: {price}, and {calls:,} quoted calls and {int(living.sum()) - calls:,}"
            f" quoted puts have too few pairs to tell it"
        )
    if not chain.sent.intersection(SENT):
        return (
            f"this feed has neither Greeks nor "
            f"volatilities{f'; not understood: {listed_columns(chain.unread)}' if chain.unread else ''}"
        )
    return (
        f"none of {int(living.sum()):,} quoted contracts is near enough to the money: their deltas, by "
        f"their quotes, are not between those that are judged"
    )


def name_of(quality: Quality) -> str:
    """The symbol of a chain, or how many it holds."""
    names = sorted({str(name) for name in quality.chain.frame["underlying"].unique() if name})
    return text.one_line(names[0], 20) if len(names) == 1 else f"{len(names)} symbols" if names else "the chain"


def _rate(part: int, count: int) -> float | None:
    return round(part / count, 6) if count else None


def _array(values: list[float]) -> Any:
    import numpy as np

    return np.array(values)
