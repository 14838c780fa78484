"""Compute the scoreboard of drill rows: exact causes, false alarms, confusion, calibration and times."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable
from typing import Any

from opslib.alerting.causes import NONE, UNDETERMINED
from opslib.simulation.drills.drill import CASE, Row, Subsampled
from opslib.simulation.drills.scenarios import KINDS

BIN_SIZE = 20  # With fewer diagnoses in a bin, the share that is right is too uncertain.


def bins(rows: Iterable[Row]) -> list[tuple[int, float, float]]:
    """
    Group diagnoses by confidence.

    The diagnoses with fewer probe samples count too; those whose expected cause is `undetermined` do not. There are at
    most 50 bins of about equal size, and equal confidences share a bin.

    Returns:
        For each bin, in order of confidence: the number of diagnoses, their mean confidence, the share that is right.
    """
    diagnoses: list[Row | Subsampled] = []
    for row in rows:
        if row.expected != UNDETERMINED:
            diagnoses += [row, *row.subsampled]
    ordered = sorted(diagnoses, key=lambda diagnosis: diagnosis.confidence)
    size, found, part = max(BIN_SIZE, len(ordered) // 50), list[tuple[int, float, float]](), list[Row | Subsampled]()
    for i, diagnosis in enumerate(ordered):
        part.append(diagnosis)
        rest = len(ordered) - i - 1
        if (
            len(part) >= size
            and (rest >= BIN_SIZE or not rest)
            and (not rest or ordered[i + 1].confidence != diagnosis.confidence)
        ):
            found.append(_bin(part))
            part = []
    return [*found, _bin(part)] if part else found


def _bin(part: "list[Row | Subsampled]") -> tuple[int, float, float]:
    return len(part), statistics.fmean(r.confidence for r in part), statistics.fmean(r.right for r in part)


def calibration_error(rows: Iterable[Row]) -> float | None:
    """Return the mean difference between confidence and share of right diagnoses; None with too few of them."""
    found = bins(rows)
    total = sum(n for n, _, _ in found)
    return sum(n * abs(confidence - right) for n, confidence, right in found) / total if total >= BIN_SIZE else None


def summary(rows: list[Row]) -> dict[str, Any]:
    """
    Return the scoreboard as numbers.

    Returns:
        rows, right, exact: counts of all rows; kinds: rows of each kind; faults: rows with a fault, and of them
        faults_exact, faults_accepted, faults_none and faults_wrong, which add up to them; controls: look-alikes and
        controls, and their false_alarms; undetermined: rows with that result though another was expected; recall: by
        fault and share affected, [exact, accepted, rows]; confused: [expected, found, count] of wrong rows;
        calibration_error: None with too few rows; notified_after_s, found_after_s: medians over faults with a
        notification.
    """
    faults, controls = [r for r in rows if not r.control], [r for r in rows if r.control]
    undetected = [r for r in faults if r.accepted and r.found == NONE]
    accepted = [r for r in faults if r.accepted and r.found != NONE]
    notified = [r for r in faults if r.detected_after_s is not None]
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
        "faults_none": len(undetected),
        "faults_wrong": sum(not r.right for r in faults),
        "controls": len(controls),
        "false_alarms": sum(r.control and bool(r.alert) for r in rows),
        "undetermined": sum(r.found == UNDETERMINED != r.expected for r in rows),
        "recall": recall,
        "confused": [[*pair, n] for pair, n in confused.most_common()],
        "calibration_error": calibration_error(rows),
        "notified_after_s": median([after_s for r in notified if (after_s := r.detected_after_s) is not None]),
        "found_after_s": median([r.seconds for r in notified]),
    }


NAMES = {
    "fault": ("single fault", "single faults"),
    "pair": ("pair of faults", "pairs of faults"),
    "look-alike": ("harmless look-alike", "harmless look-alikes"),
    "control": ("run without a fault", "runs without a fault"),
    CASE: ("regression case", "regression cases"),
}


def kinds(rows: list[Row]) -> str:
    """Return the number of rows of each kind, as text."""
    return ", ".join(f"{n} {NAMES[kind][n != 1]}" for kind, n in summary(rows)["kinds"].items()) or "no drills"


def line(rows: list[Row]) -> str:
    """Return the scoreboard as sentences in one line, as README shows it."""
    s = summary(rows)
    runs = sum(s["kinds"].values())
    sentences = [
        f"{runs} run{'' if runs == 1 else 's'} ({kinds(rows)}).",
        f"Of {s['faults']} runs with a fault, {s['faults_exact']} found the exact cause and "
        f"{s['faults_accepted']} another cause that is accepted as right; {s['faults_wrong']} failed (a wrong cause or "
        f"none); in {s['faults_none']}, too few responses were affected for a diagnosis.",
        f"Of {s['controls']} runs with nothing to find, {s['false_alarms']} had a false alarm.",
    ]
    if s["notified_after_s"] is not None:
        sentences.append(
            f"Median time to the first notification: {s['notified_after_s']:.0f} s, to the diagnosis: "
            f"{s['found_after_s']:.0f} s."
        )
    if s["calibration_error"] is not None:
        sentences.append(
            f"Calibration error: the stated confidence is on average {s['calibration_error'] * 100:.0f} percentage "
            f"points off the share of right diagnoses."
        )
    return " ".join(sentences)


def report(rows: list[Row]) -> str:
    """
    Return the scoreboard as text.

    It has the summary line, each accepted alternative with its reason, each wrong row with the answers to the
    diagnostic questions, each undetermined row beside the most similar one, and each right row that deviates from the
    expected run.
    """
    lines = [line(rows)]
    for r in (r for r in rows if r.accepted):
        lines += [
            "",
            f"{r.fault} at {r.severity:g} %, seed {r.seed}: expected {r.expected}, found {r.found} (accepted: "
            f"{r.accepted})",
        ]
    for r in (r for r in rows if not r.right):
        lines += [
            "",
            f"{r.fault} at {r.severity:g} %, seed {r.seed}: expected {r.expected}, found {r.found} "
            f"(wrong: {'; '.join((r.wrong, *r.deviations)).strip('; ')})",
            *(f"    {answer}" for answer in r.answers),
        ]
    for r in (r for r in rows if r.found == UNDETERMINED != r.expected):
        lines += ["", *_most_similar(r, rows)]
    for r in (r for r in rows if r.right and r.deviations):
        lines += [
            "",
            f"{r.fault}, seed {r.seed}: right, with deviations from the expected run:",
            *(f"    {deviation}" for deviation in r.deviations),
        ]
    return "\n".join(lines)


def _most_similar(row: Row, rows: list[Row]) -> list[str]:
    """
    Compare an undetermined row with the row of another cause that has the most equal answers.

    If all answers are equal, the diagnostic questions cannot distinguish the two causes.
    """
    others = [r for r in rows if r.expected != row.expected and r.answers]
    other = max(others, key=lambda r: len({*r.answers} & {*row.answers}), default=None)
    if other is None:
        return []
    differ = [f"    {row.fault}: {a}\n    {other.fault}: {b}" for a, b in zip(row.answers, other.answers) if a != b]
    return [
        f"{row.fault} at {row.severity:g} %, seed {row.seed}, is undetermined. Most similar: {other.fault} at "
        f"{other.severity:g} %, seed {other.seed}, with {len({*row.answers} & {*other.answers})} of "
        f"{len(row.answers)} answers equal" + ("; these differ:" if differ else ""),
        *differ,
    ]


def read(lines: Iterable[str]) -> list[Row]:
    """Read rows from the lines of a file."""
    rows = [json.loads(found) for found in lines if found.strip()]
    return [
        Row(
            **{
                **row,
                "answers": tuple(row["answers"]),
                "run": tuple((step, sign) for step, sign in row["run"]),
                "deviations": tuple(row["deviations"]),
                "subsampled": tuple(Subsampled(**s) for s in row["subsampled"]),
            }
        )
        for row in rows
    ]
