"""
Show the chains of several underlyings that stand in one file: each is judged by itself, and the worst verdict is the
file's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from opslib import text
from opslib.greeks import EXAMPLES
from opslib.quality import ChainView, Smile, name_of
from opslib.report import Text, listed, tabled
from opslib.verdicts import EXIT_CODES, VERDICTS, worst

MOST_SHOWN = 40


@dataclass(frozen=True, eq=False)
class ChainViews:
    """
    What the Greeks of several chains of one file are worth.

    Attributes:
        views: One chain each, by the name of its underlying.
        refused: Rows that could not be read, of whichever: their place and why.
    """

    views: Sequence[ChainView]
    refused: Sequence[tuple[str, str]] = field(default=())

    @property
    def verdict(self) -> str:
        """The worst of all; a warning at least where rows could not be read."""
        return worst([*(view.verdict for view in self.views), *(["warning"] if self.refused else [])])

    @property
    def exit_code(self) -> int:
        """What a shell sees."""
        return EXIT_CODES[self.verdict]

    @property
    def notes(self) -> list[str]:
        """How they were judged, and what is worth knowing of each."""
        told = [f"{len(self.views)} underlyings are in this file; each is judged by itself"]
        told += (
            [f"{len(self.refused):,} rows could not be read: {self.refused[0][0]}: {self.refused[0][1]}"]
            if self.refused
            else []
        )
        return told + [
            f"{name_of(view.quality)}: {note}" for view in self.views for note in (*view.remarks, *view.quality.notes)
        ]

    def as_json(self) -> dict[str, Any]:
        """The chains as CONTRACT.md has one, summed; and under `symbols` each by itself."""
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
            "as_of": text.iso(max(q.as_of for q in qualities)),
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
                "examples": [f"{text.one_line(place, 80)}: {why}" for place, why in self.refused[:EXAMPLES]],
            }
        return sorted(found.values(), key=lambda f: (-f["count"], f["check"]))

    @property
    def _named(self) -> str:
        return f"{len(self.views)} symbols"

    @property
    def _worst_first(self) -> list[ChainView]:
        return sorted(self.views, key=lambda view: VERDICTS.index(view.verdict))

    @property
    def rates(self) -> Text:
        """Which share of each is right?"""
        rows = []
        for view in self._worst_first[:MOST_SHOWN]:
            q, n = view.quality, len(view.quality.chain.frame)
            valid = q.core_count - q.flagged
            rows.append(
                [
                    name_of(q),
                    view.verdict,
                    text.ratio(_rate(valid, q.core_count)),
                    f"{valid:,} of {q.core_count:,}",
                    text.ratio(_rate(q.raw_valid, n)),
                    text.ratio(_rate(q.covered, n)),
                ]
            )
        more = f" (the worst {MOST_SHOWN} of {len(self.views):,})" if len(self.views) > MOST_SHOWN else ""
        return tabled(
            f"Each underlying by itself{more}",
            ["underlying", "verdict", "core valid", "contracts", "by the guide's reading", "coverage"],
            rows,
        )

    @property
    def faults(self) -> Text:
        """What is wrong, in how many contracts, and in which worst of all?"""
        rows = [
            [name_of(view.quality), f.check, f.severity, f"{f.count:,}", "; ".join(f.examples)]
            for view in self._worst_first[:MOST_SHOWN]
            for f in view.quality.findings
        ]
        return tabled(
            "What is wrong with them?", ["underlying", "check", "severity", "contracts", "the worst"], rows, "nothing"
        )

    @property
    def units(self) -> Text:
        """In which units does the file have its figures?"""
        rows = [
            [name_of(view.quality), name, (unit or text.UNKNOWN).replace("_", " ")]
            for view in self._worst_first[:MOST_SHOWN]
            for name, unit in view.quality.units.items()
        ]
        return tabled("Their units, as measured", ["underlying", "figure", "unit"], rows)

    @property
    def usual(self) -> Text:
        """Whether volatilities are usual is asked of one symbol."""
        return listed("Usual volatilities", ["not compared: ops greeks SYMBOL does, of one symbol"])

    @property
    def beside(self) -> Text:
        """Whether another provider says the same is asked of one symbol."""
        return listed("Beside the other provider", ["not compared: ops greeks SYMBOL fetches both"])

    @property
    def smile(self) -> Smile:
        """The volatilities of the worst of them by strike, as a picture."""
        return self._worst_first[0].smile

    def __repr__(self) -> str:
        sentences = [
            f"  {f.sentence}"
            for view in self._worst_first[:MOST_SHOWN]
            for f in view.judged
            if f.verdict not in ("ok", "unknown") or not f.counted
        ]
        lines = [
            f"{self._named}, as of {text.moment(max(view.quality.as_of for view in self.views))}: {self.verdict}",
            *sentences,
            *(f"  {note}" for note in self.notes[:MOST_SHOWN]),
        ]
        return "\n".join([*lines, *(f"\n{part!r}" for part in (self.rates, self.faults))])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return listed(repr(self).splitlines()[0], self.notes[:MOST_SHOWN])._repr_mimebundle_()


def _rate(part: int, count: int) -> float | None:
    return round(part / count, 6) if count else None
