"""Show the quality of the Greeks of one chain, or of several in one file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from opslib.alerting.verdicts import EXIT_CODES, VERDICTS, Figure, Finding, evaluate_figure, worst
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import formatting
from opslib.foundation.config.rules import Rules
from opslib.foundation.intervals import wilson
from opslib.trading.options.chain import SENT
from opslib.trading.options.chain_quality import EXAMPLES, ChainQuality, listed_columns
from opslib.trading.options.iv_baseline import IvBaseline, iv_atm
from opslib.trading.options.provider_comparison import Crosscheck

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOURCE = "chain"


@dataclass(frozen=True, eq=False)
class ChainView:
    """
    The quality of the Greeks of one chain.

    Attributes:
        quality: The evaluated chain.
        rules: The rules in effect.
        band: The usual volatility of its symbol.
        against: The comparison with another provider's chain, where there is one.
        held: The number of contracts held, by (day, side, strike); None where unknown.
        remarks: Further remarks, such as why the chain is incomplete.
    """

    quality: ChainQuality
    rules: Rules
    band: IvBaseline = IvBaseline(0)
    against: Crosscheck | None = None
    held: dict[tuple[Any, str, float], float] | None = None
    remarks: Sequence[str] = ()

    @cached_property
    def findings(self) -> list[Finding]:
        """The chain evaluated against each rule for chains."""
        q, n = self.quality, self.quality.core_count
        parts = {
            "greeks_valid": n - q.flagged,
            "gamma_zero": q.core_with("gamma_zero"),
            "delta_out_of_bounds": q.core_with("delta_out_of_bounds"),
        }
        if not q.covered and not q.flagged:
            n = 0  # The feed sends no figures at all, so their absence is neither right nor wrong.
        absent = why_none(q)
        return [
            evaluate_figure(
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
        The worst verdict of its rules; unknown where too few contracts can be evaluated.

        At least a warning where more contracts have a fault than a healthy chain has.
        """
        found = [f.verdict for f in self.findings if f.counted] or ["unknown"]
        if self.quality.significant(self.rules.chain) or (
            self.against
            and self.against.shared
            and wilson(self.against.delta_off, self.against.shared)[0] > self.rules.chain.told_share
        ):
            found.append("warning")
        return worst(found)

    @property
    def exit_code(self) -> int:
        """The exit code of a command: 0 ok, 1 warning, 2 critical, 3 unknown."""
        return EXIT_CODES[self.verdict]

    @cached_property
    def weighted(self) -> dict[str, float | None]:
        """The valid rate of the core, weighted by positions held and by open interest."""
        frame = self.quality.chain.frame
        keys = zip(frame["expiry"].dt.tz_convert(formatting.NEW_YORK).dt.date, frame["cp"], frame["strike"])
        positions = self.quality.weighted(_array([abs(self.held.get(key, 0.0)) for key in keys])) if self.held else None
        return {"positions": positions, "open_interest": self.quality.weighted(frame["oi"].fillna(0.0).to_numpy())}

    def as_json(self) -> dict[str, Any]:
        """Return the chain in the format of CONTRACT.md, with further details."""
        q, n = self.quality, len(self.quality.chain.frame)
        iv = iv_atm(q)
        return {
            "as_of": formatting.iso(q.as_of),
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
            "why": [f.sentence for f in self.findings],
        }

    @property
    def rates(self) -> TextBlock:
        """The valid share, by each way of counting."""
        q, n, w = self.quality, len(self.quality.chain.frame), self.weighted
        valid = q.core_count - q.flagged
        low, high = wilson(valid, q.core_count)
        nothing_held = "positions unknown: import fills" if self.held is None else "no positions in this chain"
        rows = [
            [
                "tradable",
                formatting.ratio(_rate(valid, q.core_count)),
                f"{valid:,} of {q.core_count:,}",
                f"quoted, unexpired, delta not near 0 or 1: used for the verdict "
                f"(95 % interval: {formatting.ratio(low, 1)} to "
                f"{formatting.ratio(high, 1)})"
                if q.core_count
                else why_none(q),
            ],
            [
                "guide",
                formatting.ratio(_rate(q.raw_valid, n)),
                f"{q.raw_valid:,} of {n:,}",
                "every contract, by the guide's method; low on a healthy chain too",
            ],
            [
                "coverage",
                formatting.ratio(_rate(q.covered, n)),
                f"{q.covered:,} of {n:,}",
                "contracts that have Greeks",
            ],
            [
                "by open interest",
                formatting.ratio(w["open_interest"]),
                "",
                "tradable contracts, weighted by open interest",
            ],
            [
                "by our positions",
                formatting.ratio(w["positions"]),
                "",
                "tradable contracts, weighted by our positions" if self.held else nothing_held,
            ],
        ]
        return table("Valid share", ["counted", "valid", "contracts", "description"], rows)

    @property
    def faults(self) -> TextBlock:
        """The faults: in how many contracts, and the worst of them."""
        rows = [[f.check, f.severity, f"{f.count:,}", "; ".join(f.examples)] for f in self.quality.findings]
        return table("Faults", ["check", "severity", "contracts", "worst"], rows, "none")

    @property
    def units(self) -> TextBlock:
        """The measured units of its figures."""
        rows = [[name, (unit or formatting.UNKNOWN).replace("_", " ")] for name, unit in self.quality.units.items()]
        return table("Units, as measured", ["figure", "unit"], rows)

    @property
    def usual(self) -> TextBlock:
        """Whether its volatility is usual for its symbol."""
        iv, b = iv_atm(self.quality), self.band
        if b.low is None:
            return bullet_list(
                f"IV at the money: {formatting.ratio(iv, 1)}",
                [f"usual range unknown: {b.days} of {self.rules.chain.band_days:g} required days are stored"],
            )
        position = {
            True: "outside the usual range: market stress or wrong data; check whether its Greeks agree",
            False: "within the usual range",
            None: "unknown whether it is usual",
        }[b.outside(iv)]
        return bullet_list(
            f"IV at the money: {formatting.ratio(iv, 1)}",
            [f"{position} ({formatting.ratio(b.low, 1)} to {formatting.ratio(b.high, 1)} over the last {b.days} days)"],
        )

    @property
    def other_provider(self) -> TextBlock:
        """The comparison with another provider's chain."""
        if self.against is None:
            return bullet_list("Comparison with the other provider", ["not compared: ops greeks SYMBOL fetches both"])
        return bullet_list(
            f"Comparison with the other provider: {self.against!r}",
            list(self.against.examples) or ["no differences"],
        )

    @property
    def smile(self) -> "Smile":
        """A chart of its volatilities by strike, with its faults."""
        return Smile(self)

    def __repr__(self) -> str:
        lines = [
            f"{name_of(self.quality)} from {self.quality.chain.provider}, as of "
            f"{formatting.moment(self.quality.as_of)}: {self.verdict}"
        ]
        lines += [f"  {f.sentence}" for f in self.findings if f.verdict != "ok"]
        lines += [f"  {remark}" for remark in (*self.remarks, *self.quality.notes)]
        parts = [self.rates, self.faults, self.units, self.usual]
        return "\n".join(
            [*lines, *(f"\n{part!r}" for part in (*parts, *((self.other_provider,) if self.against else ())))]
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        head = bullet_list(
            repr(self).splitlines()[0], [f.sentence for f in self.findings] + [*self.remarks, *self.quality.notes]
        )
        return head._repr_mimebundle_()


@dataclass(frozen=True)
class Smile:
    """A chart of the volatilities of a chain by strike."""

    view: ChainView

    def __repr__(self) -> str:
        q = self.view.quality
        return f"volatilities of {q.core_count:,} tradable contracts by strike, {q.flagged:,} with a fault"

    def _ipython_display_(self) -> None:
        from opslib.dashboard import charts

        def draw(ax: "Axes") -> "Axes":
            return charts.smile(ax, self.view.quality)

        charts.show({"text/plain": repr(self)}, draw, "volatilities by strike", repr(self))


def why_none(quality: ChainQuality) -> str:
    """Return the first reason why no contract of a chain could be evaluated."""
    chain, fair_value = quality.chain, quality.fair_value
    lacks = [f"{name}s" for name in ("bid", "ask") if name not in chain.sent]
    if lacks:
        found = f"other columns: {listed_columns(chain.unread)}" if chain.unread else "there are no other columns"
        return f"no column of quotes was recognised for {' and '.join(lacks)}; {found}"
    quoted = (chain.frame["bid"] > 0).to_numpy(dtype=bool)
    odd = f"; cells that are not numbers: {', '.join(chain.garbled)}" if chain.garbled else ""
    if chain.frame["bid"].isna().all():
        return f"{len(quoted):,} contracts have no bid{odd}"
    if not quoted.any():
        return f"none of {len(quoted):,} contracts has a bid above 0"
    living = quoted & (fair_value.years > 0)
    if not living.any():
        return f"all {int(quoted.sum()):,} quoted contracts had settled by {formatting.moment(quality.as_of)}"
    if not (living & (fair_value.forward > 0)).any():
        calls = int(fair_value.call[living].sum())
        price = (
            "the underlying's price is missing"
            if "underlying_px" in chain.sent
            else f"no column of the underlying's price was "
            f"recognised{f' (not understood: {listed_columns(chain.unread)})' if chain.unread else ''}"
        )
        return (
            f"the forward is unknown: {price}, and {calls:,} quoted calls and {int(living.sum()) - calls:,}"
            f" quoted puts have too few pairs to compute it"
        )
    if not chain.sent.intersection(SENT):
        return (
            f"this feed has neither Greeks nor "
            f"volatilities{f'; not understood: {listed_columns(chain.unread)}' if chain.unread else ''}"
        )
    return (
        f"none of {int(living.sum()):,} quoted contracts is near enough to the money: the deltas implied by their "
        f"quotes are outside the evaluated range"
    )


def name_of(quality: ChainQuality) -> str:
    """Return the symbol of a chain, or the number of its symbols."""
    names = sorted({str(name) for name in quality.chain.frame["underlying"].unique() if name})
    if len(names) == 1:
        return formatting.single_line(names[0], 20)
    if names:
        return f"{len(names)} symbols"
    return "the chain"


def _array(values: list[float]) -> Any:
    import numpy as np

    return np.array(values)


MOST_SHOWN = 40


@dataclass(frozen=True, eq=False)
class ChainViews:
    """
    The quality of the Greeks of several chains of one file.

    Attributes:
        views: One view per underlying, by name.
        refused: Rows that could not be read, with place and reason.
    """

    views: Sequence[ChainView]
    refused: Sequence[tuple[str, str]] = field(default=())

    @property
    def verdict(self) -> str:
        """The worst verdict of all; at least a warning where rows could not be read."""
        return worst([*(view.verdict for view in self.views), *(["warning"] if self.refused else [])])

    @property
    def exit_code(self) -> int:
        """The exit code of a command: 0 ok, 1 warning, 2 critical, 3 unknown."""
        return EXIT_CODES[self.verdict]

    @property
    def notes(self) -> list[str]:
        """Remarks on the file, and on each chain."""
        remarks = [f"{len(self.views)} underlyings are in this file; each is evaluated separately"]
        remarks += (
            [f"{len(self.refused):,} rows could not be read: {self.refused[0][0]}: {self.refused[0][1]}"]
            if self.refused
            else []
        )
        return remarks + [
            f"{name_of(view.quality)}: {note}" for view in self.views for note in (*view.remarks, *view.quality.notes)
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the sums of all chains in the format of CONTRACT.md, and each chain under `symbols`."""
        each = [view.as_json() for view in self.views]
        contracts, core, flagged = (
            sum(e["contracts"] for e in each),
            sum(e["core"]["contracts"] for e in each),
            sum(e["core"]["flagged"] for e in each),
        )
        qualities = [view.quality for view in self.views]
        units = {
            name: next(iter(found)) if len(found := {q.units[name] for q in qualities}) == 1 else None
            for name in qualities[0].units
        }
        return {
            "as_of": formatting.iso(max(q.as_of for q in qualities)),
            "provider": qualities[0].chain.provider,
            "symbol": self._named,
            "contracts": contracts,
            "raw_valid_rate": _rate(sum(q.raw_valid for q in qualities), contracts),
            "core": {"contracts": core, "flagged": flagged, "valid_rate": _rate(core - flagged, core)},
            "coverage": _rate(sum(q.covered for q in qualities), contracts),
            "units": units,
            "findings": self._findings(each),
            "notes": self.notes,
            "refused": [{"place": place, "why": why} for place, why in self.refused],
            "verdict": self.verdict,
            "why": [sentence for e in each for sentence in e["why"]],
            "symbols": each,
        }

    def _findings(self, each: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for finding in (f for e in each for f in e["findings"]):
            known = found.setdefault(finding["check"], finding | {"count": 0, "examples": []})
            known["count"] += finding["count"]
            known["examples"] = [*known["examples"], *finding["examples"]][:EXAMPLES]
        if self.refused:
            found["unreadable"] = {
                "check": "unreadable",
                "severity": "error",
                "count": len(self.refused),
                "examples": [f"{formatting.single_line(place, 80)}: {why}" for place, why in self.refused[:EXAMPLES]],
            }
        return sorted(found.values(), key=lambda f: (-f["count"], f["check"]))

    @property
    def _named(self) -> str:
        return f"{len(self.views)} symbols"

    @property
    def _worst_first(self) -> list[ChainView]:
        return sorted(self.views, key=lambda view: VERDICTS.index(view.verdict))

    @property
    def rates(self) -> TextBlock:
        """The valid share of each underlying."""
        rows = []
        for view in self._worst_first[:MOST_SHOWN]:
            q, n = view.quality, len(view.quality.chain.frame)
            valid = q.core_count - q.flagged
            rows.append(
                [
                    name_of(q),
                    view.verdict,
                    formatting.ratio(_rate(valid, q.core_count)),
                    f"{valid:,} of {q.core_count:,}",
                    formatting.ratio(_rate(q.raw_valid, n)),
                    formatting.ratio(_rate(q.covered, n)),
                ]
            )
        more = f" (the worst {MOST_SHOWN} of {len(self.views):,})" if len(self.views) > MOST_SHOWN else ""
        return table(
            f"Valid share by underlying{more}",
            ["underlying", "verdict", "tradable valid", "contracts", "guide's method", "coverage"],
            rows,
        )

    @property
    def faults(self) -> TextBlock:
        """The faults: in how many contracts, and the worst of them."""
        rows = [
            [name_of(view.quality), f.check, f.severity, f"{f.count:,}", "; ".join(f.examples)]
            for view in self._worst_first[:MOST_SHOWN]
            for f in view.quality.findings
        ]
        return table("Faults", ["underlying", "check", "severity", "contracts", "worst"], rows, "none")

    @property
    def units(self) -> TextBlock:
        """The measured units of the file's figures."""
        rows = [
            [name_of(view.quality), name, (unit or formatting.UNKNOWN).replace("_", " ")]
            for view in self._worst_first[:MOST_SHOWN]
            for name, unit in view.quality.units.items()
        ]
        return table("Units, as measured", ["underlying", "figure", "unit"], rows)

    @property
    def usual(self) -> TextBlock:
        """Usual volatilities; compared only for one symbol."""
        return bullet_list("Usual volatilities", ["not compared: ops greeks SYMBOL compares one symbol"])

    @property
    def other_provider(self) -> TextBlock:
        """The other provider's chain; compared only for one symbol."""
        return bullet_list("Comparison with the other provider", ["not compared: ops greeks SYMBOL fetches both"])

    @property
    def smile(self) -> Smile:
        """A chart of the volatilities of the worst chain by strike."""
        return self._worst_first[0].smile

    def __repr__(self) -> str:
        sentences = [
            f"  {f.sentence}"
            for view in self._worst_first[:MOST_SHOWN]
            for f in view.findings
            if f.verdict not in ("ok", "unknown") or not f.counted
        ]
        lines = [
            f"{self._named}, as of {formatting.moment(max(view.quality.as_of for view in self.views))}: {self.verdict}",
            *sentences,
            *(f"  {note}" for note in self.notes[:MOST_SHOWN]),
        ]
        return "\n".join([*lines, *(f"\n{part!r}" for part in (self.rates, self.faults))])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return bullet_list(repr(self).splitlines()[0], self.notes[:MOST_SHOWN])._repr_mimebundle_()


def _rate(part: int, count: int) -> float | None:
    return round(part / count, 6) if count else None
