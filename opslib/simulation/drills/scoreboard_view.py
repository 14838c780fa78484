"""Show and record the scoreboard of the last recorded drill of all scenarios."""

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
    """A chart and its text alternative."""

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
    The scoreboard of one drill of all scenarios.

    Attributes:
        day: Day of the drill, New York.
        seeds: Its seeds.
        rows: Every row; rows that are right and have no deviation are without their diagnostic answers.
    """

    day: str
    seeds: tuple[int, ...]
    rows: list[Row]

    @property
    def line(self) -> str:
        """The summary line, as README shows it."""
        return f"{self.day}: {scoreboard.line(self.rows)}"

    @property
    def headline(self) -> TextBlock:
        """Results, false alarms, calibration and times of the drill."""
        s = scoreboard.summary(self.rows)
        lines = [
            f"runs: {scoreboard.kinds(self.rows)}",
            f"exact cause, subject and panel: {s['faults_exact']} of {s['faults']} runs with a fault "
            f"({formatting.ratio(s['faults_exact'] / s['faults'] if s['faults'] else None)})",
            f"accepted alternative: {s['faults_accepted']} of {s['faults']}",
            f"no fault found (too few responses were affected): {s['faults_none']} of {s['faults']}",
            f"wrong: {s['faults_wrong']} of {s['faults']}",
            f"false alarms: {s['false_alarms']} of {s['controls']} runs with nothing to find",
            f"cause could not be determined: {s['undetermined']} of {s['rows']} runs "
            f"({formatting.ratio(s['undetermined'] / s['rows'] if s['rows'] else None)})",
            f"calibration error: {formatting.number(s['calibration_error'], '', 2)} (mean difference between "
            f"confidence and share of right diagnoses, {len(scoreboard.bins(self.rows))} bins)",
            f"median time to notification: {formatting.number(s['notified_after_s'], 's', 0)}; to diagnosis: "
            f"{formatting.number(s['found_after_s'], 's', 0)} (runs with a notification)",
            f"seeds: {', '.join(map(str, self.seeds))}",
        ]
        return bullet_list(f"Drill of {self.day}", lines)

    @property
    def recall(self) -> TextBlock:
        """Exact results and accepted alternatives, by fault and share of responses affected."""
        shares = sorted({r.severity for r in self.rows if r.fault in FAULTS})

        def cell(name: str, share: float) -> str:
            return (lambda own: _found(own) if own else "")(
                [r for r in self.rows if (r.fault, r.severity) == (name, share)]
            )

        rows = [[name, *(cell(name, share) for share in shares)] for name in FAULTS]
        return table(
            "Exact results by fault and share of responses affected",
            ["fault", *(f"{share:g} %" for share in shares)],
            rows,
        )

    @property
    def pairs_and_controls(self) -> TextBlock:
        """Exact results and notifications of pairs, look-alikes and controls."""
        rows = [
            [name, own[0].kind, own[0].expected, _found(own), f"{sum(bool(r.alert) for r in own)}/{len(own)}"]
            for name in (*PAIRS, *CONTROLS)
            if (own := [r for r in self.rows if r.fault == name])
        ]
        return table(
            "Pairs of faults, look-alikes and runs without a fault",
            ["scenario", "kind", "expected", "exact", "notified"],
            rows,
        )

    @property
    def accepted(self) -> TextBlock:
        """Every row with an accepted alternative, and the reason."""
        rows = [
            [r.fault, f"{r.severity:g} %", str(r.seed), r.expected, r.found, r.accepted]
            for r in self.rows
            if r.accepted
        ]
        return table(
            "Accepted alternatives",
            ["scenario", "affected", "seed", "expected", "found", "reason"],
            rows,
            "every right result is exact",
        )

    @property
    def confusion(self) -> Picture:
        """The confusion matrix: expected and found causes."""
        causes = list(dict.fromkeys(c for r in self.rows for c in (r.expected, r.found)))
        wrong = [
            f"expected {expected}, found {found}: {n} run{'' if n == 1 else 's'}"
            for expected, found, n in scoreboard.summary(self.rows)["confused"]
        ]
        return Picture(
            bullet_list("Wrong causes", wrong or ["no run found a wrong cause"]),
            lambda ax: _confusion(ax, self.rows, causes),
            "confusion matrix",
            (9.0, 0.24 * len(causes) + 1.5),
        )

    @property
    def calibration(self) -> Picture:
        """The share of right diagnoses by confidence."""
        bins = scoreboard.bins(self.rows)
        words = table(
            "Calibration of the confidence",
            ["diagnoses", "mean confidence", "right"],
            [[f"{n:,}", formatting.ratio(confidence, 0), formatting.ratio(right, 1)] for n, confidence, right in bins],
        )
        return Picture(words, lambda ax: _calibration(ax, bins), "calibration", (5.0, 4.0))

    @property
    def times(self) -> Picture:
        """Time to notification and time to diagnosis, by fault."""
        faults = {
            name: own
            for name in FAULTS
            if (
                own := [
                    r for r in self.rows if r.fault == name and r.severity == 100 and r.detected_after_s is not None
                ]
            )
        }
        unnotified = [name for name in FAULTS if name not in faults]
        words = bullet_list(
            "Time to notification and to diagnosis",
            [f"no notification within the drill; found by opening the diagnosis: {', '.join(unnotified)}"]
            if unnotified
            else ["every fault caused a notification"],
        )
        return Picture(words, lambda ax: _times(ax, faults), "times", (9.0, 0.22 * len(faults) + 1.2))

    @property
    def wrong(self) -> TextBlock:
        """Every wrong row, with what is wrong."""
        rows = [
            [r.fault, f"{r.severity:g} %", str(r.seed), r.expected, r.found, r.wrong] for r in self.rows if not r.right
        ]
        return table(
            "Wrong results",
            ["scenario", "affected", "seed", "expected", "found", "wrong"],
            rows,
            "no result is wrong",
        )

    @property
    def deviations(self) -> TextBlock:
        """Every right row that deviates from the expected run."""
        rows = [[r.fault, str(r.seed), "; ".join(r.deviations)] for r in self.rows if r.right and r.deviations]
        return table(
            "Deviations from the expected run",
            ["scenario", "seed", "deviation"],
            rows,
            "every right result followed the expected run",
        )

    def __repr__(self) -> str:
        return self.line


def read() -> ScoreboardView:
    """Read the recorded scoreboard."""
    head, *rows = FILE.read_text(encoding="utf-8").splitlines()
    drill = json.loads(head)
    return ScoreboardView(drill["day"], tuple(drill["seeds"]), scoreboard.read(rows))


def record(day: str, seeds: list[int], rows: list[Row]) -> ScoreboardView:
    """
    Record a scoreboard and write its summary line into README.md.

    Raises:
        UsageError: The project is not a clone of the repository, so it has no README.md.
    """
    project = settings.project()
    readme = project / "README.md" if project else None
    before = readme.read_text(encoding="utf-8") if readme and readme.exists() else ""
    if readme is None or OPENS not in before:
        raise UsageError(
            "--record writes into README.md of the project, which was not found. Run it in a clone of the repository."
        )
    short = [r if not r.right or r.deviations else replace(r, answers=()) for r in rows]
    lines = [
        json.dumps({"day": day, "seeds": seeds}),
        *(json.dumps(r.as_json() | {"run": []}, separators=(",", ":")) for r in short),
    ]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = read()
    head, _, rest = before.partition(OPENS)
    readme.write_text(f"{head}{OPENS}\n{found.line}\n{CLOSES}{rest.partition(CLOSES)[2]}", encoding="utf-8")
    return found


def _found(rows: list[Row]) -> str:
    """Return the number of exact rows of all rows, and the number of accepted alternatives."""
    more = sum(bool(r.accepted) and r.found != NONE for r in rows)
    return f"{sum(r.exact for r in rows)}/{len(rows)}" + (f" (+{more} accepted)" if more else "")


# Charts.


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
    ax.set_xlabel("found (number of runs; off the diagonal: accepted alternative; ✗: wrong)", fontsize=8, color=INK)
    ax.set_ylabel("expected", fontsize=8, color=INK)
    ax.grid(color="#eef1f4", linewidth=0.6)
    ax.set_axisbelow(True)


def _calibration(ax: "Axes", bins: list[tuple[int, float, float]]) -> None:
    ax.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    ax.scatter(
        [100 * confidence for _, confidence, _ in bins],
        [100 * right for _, _, right in bins],
        s=[max(12.0, n**0.5 * 6) for n, _, _ in bins],
        color=LINES[0][0],
        alpha=0.8,
        zorder=3,
        label="diagnoses (larger dot: more)",
    )
    ax.set_xlim(40, 102)
    ax.set_ylim(40, 102)
    ax.set_xlabel("mean confidence, %", fontsize=9, color=INK)
    ax.set_ylabel("right, %", fontsize=9, color=INK)
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
            label="notification" if not y else None,
        )
        ax.scatter(
            [r.seconds for r in own],
            [y] * len(own),
            marker="s",
            color=LINES[1][0],
            s=18,
            zorder=3,
            label="diagnosis" if not y else None,
        )
    ax.set_yticks(range(len(faults)), list(faults), fontsize=7)
    ax.set_ylim(len(faults) - 0.4, -0.6)
    ax.set_xlim(left=0)
    ax.set_xlabel("seconds since the fault began (world time)", fontsize=8, color=INK)
    ax.grid(axis="x", color="#e4e7eb", linewidth=0.6)
    ax.tick_params(labelsize=7, colors=INK)
    ax.legend(loc="lower right", fontsize=7, frameon=True)
