"""Show one panel: its verdict, its table, its picture."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opslib.alerting import evaluation
from opslib.alerting.verdicts import VERDICTS, Finding
from opslib.dashboard.probe_summary import ProbeSummary
from opslib.foundation import formatting, templates

if TYPE_CHECKING:
    pass


SOURCES = {"probe": "looks", "chain": "chains", "logs": "reading of the log", "fills": "fills"}
MOST_TYPES = 3


@dataclass(frozen=True)
class Panel:
    """
    One question answered: its verdict, the sentences behind it, a table and a picture.

    Its text says the same on every machine; its picture is for the eyes.

    Attributes:
        verdict: ok, warning, critical or unknown.
        findings: Every judged figure behind the verdict.
        sights: What our own looks see, in sentences.
        rows: Figure, our value, and the guide's literal reading of the page where that differs.
        notes: Facts a reader needs beside the figures.
        draw: Draws the picture on an Axes.
    """

    name: str
    title: str
    verdict: str
    findings: tuple[Finding, ...]
    sights: tuple[ProbeSummary, ...]
    rows: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]
    draw: Callable[[Any], Any]

    @property
    def told(self) -> str:
        """The verdict in words; where nothing could be judged, that is said."""
        judged = any(f.counted for f in self.findings) or any(s.verdict for s in self.sights)
        return self.verdict if judged else f"{self.verdict} (nothing to judge)"

    @property
    def sentences(self) -> list[str]:
        """
        What the verdict rests on: what is wrong, what our own looks see, what is well; what nothing measures yet in one
        last line.
        """
        told = sorted((f for f in self.findings if f.counted), key=lambda f: VERDICTS.index(f.verdict))
        silent = list(dict.fromkeys(_by(f) + f.sentence for f in self.findings if not f.counted))
        wrong, right = (
            [f"{f.severity or f.verdict}: {_by(f)}{f.sentence}" for f in told if (f.verdict == "ok") is ok]
            for ok in (False, True)
        )
        seen = [
            f"{s.verdict or 'seen'}: {s.words}"
            for s in sorted(self.sights, key=lambda s: VERDICTS.index(s.verdict or "ok"))
        ]
        return wrong + seen + right + ([f"not counted: {'; '.join(silent)}"] if silent else [])

    def __repr__(self) -> str:
        table = formatting.table(["figure", "value", "guide reads"], [list(r) for r in self.rows])
        return "\n".join(
            [
                f"{self.title}: {self.told}",
                *(f"  {s}" for s in self.sentences),
                "",
                table,
                *(f"  {n}" for n in self.notes),
            ]
        )

    def _html(self) -> str:
        return templates.render("dashboard/templates/panel.html", panel=self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._html()}

    def _ipython_display_(self) -> None:
        from opslib.dashboard import charts

        charts.show(
            self._repr_mimebundle_(),
            self.draw,
            f"{self.title} over time",
            f"{self.title} over time; {self.verdict}: {'; '.join(self.sentences[:1])}",
        )


def _by(finding: Finding) -> str:
    """Who says so, where it is not the app's page."""
    return "" if finding.source == evaluation.PAGE else f"by our own {SOURCES[finding.source]}: "
