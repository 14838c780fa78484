"""
Add up drilled rows: how often the exact cause was found, or another that is accepted, what was taken for what, false
alarms, how sure it was and how right, how long it took.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

from opslib.alerting.causes import NONE, UNDETERMINED
from opslib.simulation.drills.drill import CASE, Row, Thinned
from opslib.simulation.drills.scenarios import KINDS

BIN_HOLDS = 20  # Fewer rows of one confidence say nothing of how often they are right.


def bins(rows: Iterable[Row]) -> list[tuple[int, float, float]]:
    """
    Verdicts, those with fewer looks among them and without those that should say that nobody can tell, in order of
    their confidence, in at most fifty parts of equal size, no confidence in two: how many, how sure they were on
    average, how often right.
    """
    verdicts: list[Row | Thinned] = []
    for row in rows:
        if row.expected != UNDETERMINED:
            verdicts += [row, *row.thinned]
    ordered = sorted(verdicts, key=lambda verdict: verdict.confidence)
    size, found, part = max(BIN_HOLDS, len(ordered) // 50), list[tuple[int, float, float]](), list[Row | Thinned]()
    for i, verdict in enumerate(ordered):
        part.append(verdict)
        rest = len(ordered) - i - 1
        if (
            len(part) >= size
            and (rest >= BIN_HOLDS or not rest)
            and (not rest or ordered[i + 1].confidence != verdict.confidence)
        ):
            found.append(_bin(part))
            part = []
    return [*found, _bin(part)] if part else found


def _bin(part: "list[Row | Thinned]") -> tuple[int, float, float]:
    return len(part), statistics.fmean(r.confidence for r in part), statistics.fmean(r.right for r in part)


def calibration_error(rows: Iterable[Row]) -> float | None:
    """By how much, on average, is how sure it was off from how often it was right? None of too few rows."""
    found = bins(rows)
    total = sum(n for n, _, _ in found)
    return sum(n * abs(sure - right) for n, sure, right in found) / total if total >= BIN_HOLDS else None


def summary(rows: list[Row]) -> dict[str, Any]:
    """
    The scoreboard as numbers.

    Returns:
        rows, right (of all), exact; kinds: rows of each kind; faults (rows with something the matter, their exact,
        accepted, unseen and wrong answers, which add up to them); controls (rows with nothing to be done,
        false_alarms); undetermined, where another answer was expected; recall by fault and share hit: exact, accepted,
        rows; confused: (expected, found, count) of what was taken for something else; calibration_error, None of too
        few; told_after_s and found_after_s, medians over faults that were told of.
    """
    faults, controls = [r for r in rows if not r.control], [r for r in rows if r.control]
    unseen = [r for r in faults if r.accepted and r.found == NONE]
    accepted = [r for r in faults if r.accepted and r.found != NONE]
    told = [r for r in faults if r.detected_after_s is not None]
    confused = Counter((r.expected, r.found) for r in rows if not r.right)
    recall: dict[str, list[int]] = {}
    for r in faults:
        part = recall.setdefault(f"{r.fault} {r.severity:g} %", [0, 0, 0])
        part[0], part[1], part[2] = part[0] + r.exact, part[1] + (r in accepted), part[2] + 1

    def median(values: list[float]) -> float | None:
        return statistics.median(values) if values else None

    return {
        "rows": len(rows),
        "right": sum(r.right for r in rows),
        "exact": sum(r.exact for r in rows),
        "kinds": {kind: n for kind in (*KINDS, CASE) if (n := sum(r.kind == kind for r in rows))},
        "faults": len(faults),
        "faults_exact": sum(r.exact for r in faults),
        "faults_accepted": len(accepted),
        "faults_unseen": len(unseen),
        "faults_wrong": sum(not r.right for r in faults),
        "controls": len(controls),
        "false_alarms": sum(r.control and bool(r.alert) for r in rows),
        "undetermined": sum(r.found == UNDETERMINED != r.expected for r in rows),
        "recall": recall,
        "confused": [[*pair, n] for pair, n in confused.most_common()],
        "calibration_error": calibration_error(rows),
        "told_after_s": median([after_s for r in told if (after_s := r.detected_after_s) is not None]),
        "found_after_s": median([r.seconds for r in told]),
    }


def kinds(rows: list[Row]) -> str:
    """Return in words how many rows there are of each kind."""
    return ", ".join(f"{n} {kind}{'' if n == 1 else 's'}" for kind, n in summary(rows)["kinds"].items()) or "no drills"


def line(rows: list[Row]) -> str:
    """The scoreboard in one line, as README shows it."""
    s = summary(rows)
    sure = "" if s["calibration_error"] is None else f", certainty off by {s['calibration_error']:.2f}"
    after = (
        ""
        if s["told_after_s"] is None
        else f"; somebody was told after {s['told_after_s']:.0f} s, the cause on record after "
        f"{s['found_after_s']:.0f} s (medians)"
    )
    answers = (
        f"of {s['faults']} with a fault {s['faults_exact']} ended in the exact cause, "
        f"{s['faults_accepted']} in an accepted alternative, {s['faults_unseen']} in none (too few answers were "
        f"hit), {s['faults_wrong']} in a wrong answer"
    )
    return (
        f"{kinds(rows)}: {answers}; {s['false_alarms']} false alarms in {s['controls']} look-alikes and "
        f"controls, {s['undetermined']} undetermined{sure}{after}"
    )


def told(rows: list[Row]) -> str:
    """
    The scoreboard for people: the line, each other answer that is accepted with its reason, each row that is wrong with
    what was seen, and each that is right by another way than was agreed.
    """
    lines = [line(rows)]
    for r in (r for r in rows if r.accepted):
        lines += [
            "",
            f"{r.fault} at {r.severity:g} %, seed {r.seed}: expected {r.expected}, found {r.found}, which is "
            f"accepted: {r.accepted}",
        ]
    for r in (r for r in rows if not r.right):
        lines += [
            "",
            f"{r.fault} at {r.severity:g} %, seed {r.seed}: expected {r.expected}, found {r.found} "
            f"({'; '.join((r.wrong, *r.strayed)).strip('; ')})",
            *(f"    {seen}" for seen in r.seen),
        ]
    for r in (r for r in rows if r.found == UNDETERMINED != r.expected):
        lines += ["", *_alike(r, rows)]
    for r in (r for r in rows if r.right and r.strayed):
        lines += [
            "",
            f"{r.fault}, seed {r.seed}: right, by another way than was agreed:",
            *(f"    {way}" for way in r.strayed),
        ]
    return "\n".join(lines)


def _alike(row: Row, rows: list[Row]) -> list[str]:
    """
    What was seen of a row that could not be told, beside the row of another cause of which most was seen alike: where
    all is, nobody could tell them apart by it.
    """
    others = [r for r in rows if r.expected != row.expected and r.seen]
    other = max(others, key=lambda r: len({*r.seen} & {*row.seen}), default=None)
    if other is None:
        return []
    differ = [f"    {row.fault}: {a}\n    {other.fault}: {b}" for a, b in zip(row.seen, other.seen) if a != b]
    return [
        f"{row.fault} at {row.severity:g} %, seed {row.seed}, could not be told from {other.fault} at "
        f"{other.severity:g} %, seed {other.seed}: {len({*row.seen} & {*other.seen})} of {len(row.seen)} "
        f"answers are the same" + ("; these differ:" if differ else ""),
        *differ,
    ]


def read(lines: Iterable[str]) -> list[Row]:
    """Rows from the lines of a file."""
    rows = [json.loads(found) for found in lines if found.strip()]
    return [
        Row(
            **{
                **row,
                "seen": tuple(row["seen"]),
                "walk": tuple((step, sign) for step, sign in row["walk"]),
                "strayed": tuple(row["strayed"]),
                "thinned": tuple(Thinned(**t) for t in row["thinned"]),
            }
        )
        for row in rows
    ]
