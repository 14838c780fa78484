"""
Read the runbooks: their names, texts and steps; fill one in for an incident; print them all.

A runbook is a notebook in ``runbooks/``, never worked in. It is read as the JSON that it is, without a kernel.
"""

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opslib.dashboard.text_blocks import markdown_to_html
from opslib.foundation import formatting, templates
from opslib.foundation.config import settings
from opslib.foundation.errors import IncidentError, UsageError
from opslib.jobs import html_export
from opslib.runbooks import steps
from opslib.runbooks.steps import Step

_STEP = re.compile(r'book\.step\("(\w+)"\)')
_PARAMETER = re.compile(r"^(\w+): (\w+) = .*?(  # .*)?$")
BRANCH, CAUSE, LIKELY = "branch", "cause:", "Likely: "


@dataclass(frozen=True)
class Runbook:
    """
    One runbook as it lies on the shelf.

    Attributes:
        name: That of its file, and of the rule's runbook.
        title: The symptom that a person sees.
        cells: Its cells, as the notebook has them.
    """

    name: str
    title: str
    notebook: dict[str, Any]

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Its cells in order."""
        cells: list[dict[str, Any]] = self.notebook["cells"]
        return cells

    @property
    def steps(self) -> list[Step]:
        """Its steps, in the order in which they stand; each once."""
        names = [name for cell in self.cells if cell["cell_type"] == "code" for name in _STEP.findall(source(cell))]
        return [steps.step(name) for name in dict.fromkeys(names)]

    @property
    def plain(self) -> str:
        """All of it for a terminal: its prose, and of each step what to do and what to expect."""
        lines: list[str] = []
        for cell in self.cells:
            if cell["cell_type"] == "markdown":
                lines += ["", re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"\1 (\2)", source(cell).replace("**", ""))]
            lines += [f"  [{_kind(s)}] {s.do}\n      expect: {s.expect}" for s in self._of(cell)]
        return "\n".join(lines).strip() + "\n"

    def _of(self, cell: Mapping[str, Any]) -> list[Step]:
        return [steps.step(name) for name in _STEP.findall(source(cell))] if cell["cell_type"] == "code" else []

    @property
    def parts(self) -> list[tuple[str, list[dict[str, str]]]]:
        """It for a page, cell by cell: prose as HTML, and steps."""
        return [
            (
                markdown_to_html(source(cell)) if cell["cell_type"] == "markdown" else "",
                [{"do": s.do, "kind": _kind(s), "expect": s.expect} for s in self._of(cell)],
            )
            for cell in self.cells
        ]


def source(cell: Mapping[str, Any]) -> str:
    """The text of a cell."""
    found = cell["source"]
    return found if isinstance(found, str) else "".join(found)


def _kind(step: Step) -> str:
    kind = {"look": "look", "ask": "you judge", "change": "changes the world: needs a name"}[step.kind]
    return f"{kind}; {step.box} min" if step.box != "after" else f"{kind}; afterwards"


def folder() -> Path:
    """
    Where do the runbooks lie?

    Raises:
        IncidentError: The package was installed without them.
    """
    place = settings.project()
    if place is None or not (place / "runbooks").is_dir():
        raise IncidentError(
            "the runbooks stand in the suite's project folder, which is not here. Install it with pip "
            "install -e . from a clone."
        )
    return place / "runbooks"


def names() -> list[str]:
    """Every runbook there is."""
    return sorted(path.stem for path in folder().glob("*.ipynb"))


def runbook(name: str) -> Runbook:
    """
    One runbook.

    Raises:
        UsageError: There is none of that name.
    """
    path = folder() / f"{name}.ipynb"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        raise UsageError(
            f"there is no runbook {name!r}; there are: {', '.join(names())}.{formatting.nearest(name, names())}"
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    title = next(
        (
            line.removeprefix("# ")
            for cell in found["cells"]
            for line in source(cell).splitlines()
            if line.startswith("# ")
        ),
        name,
    )
    return Runbook(name, title, found)


def fill_in(found: Runbook, given: Mapping[str, str], causes: Iterable[str] = ()) -> dict[str, Any]:
    """
    A copy of a runbook for an incident: parameters filled in, nothing executed, the likely branch first.

    Args:
        given: Parameters by name; only those that it has are filled in.
        causes: What a diagnosis found; the branch that is tagged with one of them comes first.
    """
    made = copy.deepcopy(found.notebook)
    for cell in made["cells"]:
        if cell["cell_type"] != "code":
            continue
        cell["outputs"], cell["execution_count"] = [], None
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = "\n".join(_given(line, given) for line in source(cell).splitlines())
    made["cells"] = _likely_first(made["cells"], set(causes))
    return made


def _given(line: str, given: Mapping[str, str]) -> str:
    found = _PARAMETER.match(line)
    if not found or found[1] not in given:
        return line
    return f"{found[1]}: {found[2]} = {json.dumps(given[found[1]], ensure_ascii=False)}{found[3] or ''}"


def _likely_first(cells: list[dict[str, Any]], causes: set[str]) -> list[dict[str, Any]]:
    """
    The branches with that first which fits a cause; a branch goes from the cell tagged so to the next heading of its
    level or above.
    """
    starts = [i for i, cell in enumerate(cells) if BRANCH in cell["metadata"].get("tags", [])]
    if not starts:
        return cells
    end = next(
        (
            i
            for i in range(starts[-1] + 1, len(cells))
            if cells[i]["cell_type"] == "markdown" and source(cells[i]).startswith("## ")
        ),
        len(cells),
    )
    parts = [cells[a:b] for a, b in zip(starts, [*starts[1:], end])]

    def fits(part: list[dict[str, Any]]) -> bool:
        return bool(causes & {tag.removeprefix(CAUSE) for tag in part[0]["metadata"]["tags"]})

    for part in parts:
        if fits(part):
            head, _, rest = source(part[0]).partition("\n")
            part[0]["source"] = re.sub(r"^(#+ )", rf"\g<1>{LIKELY}", head) + (f"\n{rest}" if rest else "")
    return [
        *cells[: starts[0]],
        *(cell for part in sorted(parts, key=lambda p: not fits(p)) for cell in part),
        *cells[end:],
    ]


def page() -> str:
    """All runbooks on one page that opens anywhere and prints."""
    books = [runbook(name) for name in names()]
    return templates.render("runbooks/templates/runbooks.html", policy=html_export.POLICY, books=books)


def titles() -> dict[str, str]:
    """The title of each runbook, by its name: what somebody sees who needs it."""
    return {name: runbook(name).title for name in names()}
