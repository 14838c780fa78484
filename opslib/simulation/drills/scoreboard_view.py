"""Show the scoreboard of the last drill of everything that was recorded."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.alerting.causes import NONE
from opslib.dashboard.charts import GREY, INK, LIMITS, LINES, show
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import formatting
from opslib.foundation.config import settings
from opslib.foundation.errors import UsageError
from opslib.simulation.drills import scoreboard
from opslib.simulation.drills.drill import Row
from opslib.simulation.drills.scenarios import CONTROLS, FAULTS, PAIRS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = Path(__file__).with_name("scoreboard.jsonl")
OPENS, CLOSES = "<!-- scoreboard, written by ops drill --record -->", "<!-- end of scoreboard -->"


@dataclass(frozen=True)
class Picture:
    """A picture with the words that go with it."""

    words: TextBlock
    draw: Callable[["Axes"], Any]
    name: str
    size: tuple[float, float]

    def __repr__(self) -> str:
        return self.words.plain

    def _ipython_display_(self) -> None:
        show(self.words._repr_mimebundle_(), self.draw, self.name, self.words.plain, self.size)


@dataclass(frozen=True)
class ScoreboardView:
    """
    The scoreboard of one drill of everything.

    Attributes:
        day: On which it was drilled, New York.
        seeds: On which seeds.
        rows: Every row; of those that are right, without what was seen.
    """

    day: str
    seeds: tuple[int, ...]
    rows: list[Row]

    @property
    def line(self) -> str:
        """As README shows it."""
        return f"{self.day}: {scoreboard.line(self.rows)}"

    @property
    def headline(self) -> TextBlock:
        """How often was the cause found, and was anybody told of nothing?"""
        s = scoreboard.summary(self.rows)
        lines = [
            f"drills: {scoreboard.kinds(self.rows)}",
            f"{s['faults_exact']} of {s['faults']} with something the matter: the exact cause, subject and "
            f"panel ({formatting.ratio(s['faults_exact'] / s['faults'] if s['faults'] else None)})",
            f"{s['faults_accepted']} of {s['faults']}: another cause that is accepted, each for a reason",
            f"{s['faults_unseen']} of {s['faults']}: nothing found, where too few answers were hit to be seen",
            f"{s['faults_wrong']} of {s['faults']}: wrong",
            f"{s['false_alarms']} of {s['controls']} look-alikes and controls alarmed anybody",
            f"{s['undetermined']} of {s['rows']} rows could not be told "
            f"({formatting.ratio(s['undetermined'] / s['rows'] if s['rows'] else None)})",
            f"how sure it was is off from how often it was right by "
            f"{formatting.number(s['calibration_error'], '', 2)} on average, over "
            f"{len(scoreboard.bins(self.rows))} groups",
            f"somebody was told after {formatting.number(s['told_after_s'], 's', 0)}, the cause was on record after "
            f"{formatting.number(s['found_after_s'], 's', 0)} (medians of those that told anybody)",
            f"seeds {', '.join(map(str, self.seeds))}",
        ]
        return bullet_list(f"Drilled on {self.day}", lines)

    @property
    def recall(self) -> TextBlock:
        """
        Of each fault and share: in how many rows was the exact cause found, and in how many more another that is
        accepted?
        """
        shares = sorted({r.severity for r in self.rows if r.fault in FAULTS})

        def cell(name: str, share: float) -> str:
            return (lambda own: _found(own) if own else "")(
                [r for r in self.rows if (r.fault, r.severity) == (name, share)]
            )

        rows = [[name, *(cell(name, share) for share in shares)] for name in FAULTS]
        return table(
            "Faults, by the share of answers that was hit", ["fault", *(f"{share:g} %" for share in shares)], rows
        )

    @property
    def others(self) -> TextBlock:
        """
        Of pairs of faults at once, look-alikes and controls: what was expected, in how many rows was it found, and was
        anybody told?
        """
        rows = [
            [name, own[0].kind, own[0].expected, _found(own), f"{sum(bool(r.alert) for r in own)}/{len(own)}"]
            for name in (*PAIRS, *CONTROLS)
            if (own := [r for r in self.rows if r.fault == name])
        ]
        return table("Pairs, look-alikes and controls", ["what", "is a", "expected", "exact", "told anybody"], rows)

    @property
    def accepted(self) -> TextBlock:
        """Every row that ended in another cause than the expected one, which is accepted, with the reason."""
        rows = [
            [r.fault, f"{r.severity:g} %", str(r.seed), r.expected, r.found, r.accepted]
            for r in self.rows
            if r.accepted
        ]
        return table(
            "Other answers that are accepted",
            ["what", "hit", "seed", "expected", "found", "why"],
            rows,
            "every right answer is the exact one",
        )

    @property
    def confusion(self) -> Picture:
        """What was taken for what?"""
        causes = list(dict.fromkeys(c for r in self.rows for c in (r.expected, r.found)))
        wrong = [
            f"{n} times {expected} was taken for {found}"
            for expected, found, n in scoreboard.summary(self.rows)["confused"]
        ]
        return Picture(
            bullet_list("What was taken for what", wrong or ["nothing was taken for anything else"]),
            lambda ax: _confusion(ax, self.rows, causes),
            "confusion matrix",
            (9.0, 0.24 * len(causes) + 1.5),
        )

    @property
    def calibration(self) -> Picture:
        """How often is it right, beside how sure it says it is?"""
        bins = scoreboard.bins(self.rows)
        words = table(
            "How sure, and how often right",
            ["verdicts", "how sure", "right"],
            [[f"{n:,}", formatting.ratio(sure, 0), formatting.ratio(right, 1)] for n, sure, right in bins],
        )
        return Picture(words, lambda ax: _calibration(ax, bins), "calibration", (5.0, 4.0))

    @property
    def times(self) -> Picture:
        """After how long was somebody told, and after how long was the cause on record?"""
        faults = {
            name: own
            for name in FAULTS
            if (
                own := [
                    r for r in self.rows if r.fault == name and r.severity == 100 and r.detected_after_s is not None
                ]
            )
        }
        untold = [name for name in FAULTS if name not in faults]
        words = bullet_list(
            "Seconds from when it began until somebody was told",
            [f"of these nobody is told within the drill, and a look at everything finds them: {', '.join(untold)}"]
            if untold
            else ["every fault told somebody"],
        )
        return Picture(words, lambda ax: _times(ax, faults), "times", (9.0, 0.22 * len(faults) + 1.2))

    @property
    def wrong(self) -> TextBlock:
        """Every row that is wrong, with why."""
        rows = [
            [r.fault, f"{r.severity:g} %", str(r.seed), r.expected, r.found, r.wrong] for r in self.rows if not r.right
        ]
        return table(
            "Rows that are wrong", ["what", "hit", "seed", "expected", "found", "why"], rows, "no row is wrong"
        )

    @property
    def strayed(self) -> TextBlock:
        """Every row that is right by another way than was agreed."""
        rows = [[r.fault, str(r.seed), "; ".join(r.strayed)] for r in self.rows if r.right and r.strayed]
        return table(
            "Rows that went another way than was agreed",
            ["what", "seed", "how"],
            rows,
            "every row went the way that was agreed",
        )

    def __repr__(self) -> str:
        return self.line


def read() -> ScoreboardView:
    """The recorded scoreboard."""
    head, *rows = FILE.read_text(encoding="utf-8").splitlines()
    told = json.loads(head)
    return ScoreboardView(told["day"], tuple(told["seeds"]), scoreboard.read(rows))


def record(day: str, seeds: list[int], rows: list[Row]) -> ScoreboardView:
    """
    Keep a scoreboard, and write its line into README.

    Raises:
        UsageError: This is no clone of the project, so there is no README to write it into.
    """
    project = settings.project()
    readme = project / "README.md" if project else None
    before = readme.read_text(encoding="utf-8") if readme and readme.exists() else ""
    if readme is None or OPENS not in before:
        raise UsageError("--record writes into README.md of the project, which is not here. Run it in a clone.")
    short = [r if not r.right or r.strayed else replace(r, seen=()) for r in rows]
    lines = [
        json.dumps({"day": day, "seeds": seeds}),
        *(json.dumps(r.as_json() | {"walk": []}, separators=(",", ":")) for r in short),
    ]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = read()
    head, _, rest = before.partition(OPENS)
    readme.write_text(f"{head}{OPENS}\n{found.line}.\n{CLOSES}{rest.partition(CLOSES)[2]}", encoding="utf-8")
    return found


def _found(rows: list[Row]) -> str:
    """Return how many rows of how many are exact, and how many more are accepted."""
    more = sum(bool(r.accepted) and r.found != NONE for r in rows)
    return f"{sum(r.exact for r in rows)}/{len(rows)}" + (f" and {more}" if more else "")


# Pictures.


def _confusion(ax: "Axes", rows: list[Row], causes: list[str]) -> None:
    at = {cause: n for n, cause in enumerate(causes)}
    counts: dict[tuple[str, str], int] = {}
    for r in rows:
        counts[r.expected, r.found] = counts.get((r.expected, r.found), 0) + 1
    for (expected, found), n in counts.items():
        accepted = all(r.right for r in rows if (r.expected, r.found) == (expected, found))
        if expected == found:
            colour = LINES[0][0]
        elif accepted:
            colour = INK
        else:
            colour = LIMITS["critical"]
        ax.text(
            at[found],
            at[expected],
            f"{n}" if accepted else f"✗{n}",
            ha="center",
            va="center",
            fontsize=6.5,
            color=colour,
            fontweight="bold" if not accepted else "normal",
        )
    ax.set_xlim(-0.6, len(causes) - 0.4)
    ax.set_ylim(len(causes) - 0.4, -0.6)
    ax.set_xticks(range(len(causes)), causes, rotation=90, fontsize=6.5)
    ax.set_yticks(range(len(causes)), causes, fontsize=6.5)
    ax.set_xlabel(
        "found (rows; beside the diagonal: another right answer of the same trial; ✗: wrong)", fontsize=8, color=INK
    )
    ax.set_ylabel("expected", fontsize=8, color=INK)
    ax.grid(color="#eef1f4", linewidth=0.6)
    ax.set_axisbelow(True)


def _calibration(ax: "Axes", bins: list[tuple[int, float, float]]) -> None:
    ax.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="as sure as right")
    ax.scatter(
        [100 * sure for _, sure, _ in bins],
        [100 * right for _, _, right in bins],
        s=[max(12.0, n**0.5 * 6) for n, _, _ in bins],
        color=LINES[0][0],
        alpha=0.8,
        zorder=3,
        label="verdicts, the larger the more",
    )
    ax.set_xlim(40, 102)
    ax.set_ylim(40, 102)
    ax.set_xlabel("how sure it was, %", fontsize=9, color=INK)
    ax.set_ylabel("how often it was right, %", fontsize=9, color=INK)
    ax.tick_params(labelsize=8, colors=INK)
    ax.legend(loc="lower right", fontsize=8, frameon=False)


def _times(ax: "Axes", faults: dict[str, list[Row]]) -> None:
    for y, own in enumerate(faults.values()):
        ax.scatter(
            [r.detected_after_s or 0.0 for r in own],
            [y] * len(own),
            marker="o",
            color=LINES[0][0],
            s=18,
            zorder=3,
            label="somebody was told" if not y else None,
        )
        ax.scatter(
            [r.seconds for r in own],
            [y] * len(own),
            marker="s",
            color=LINES[1][0],
            s=18,
            zorder=3,
            label="the cause was on record" if not y else None,
        )
    ax.set_yticks(range(len(faults)), list(faults), fontsize=7)
    ax.set_ylim(len(faults) - 0.4, -0.6)
    ax.set_xlim(left=0)
    ax.set_xlabel("seconds of the world since it began", fontsize=8, color=INK)
    ax.grid(axis="x", color="#e4e7eb", linewidth=0.6)
    ax.tick_params(labelsize=7, colors=INK)
    ax.legend(loc="lower right", fontsize=7, frameon=True)
