"""
Read runbooks from runbooks/, fill one in for an incident, and print them all.

A runbook is a notebook in ``runbooks/``, used as a template. It is read as JSON, without a kernel.
"""

import copy
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from opslib.dashboard.text_blocks import markdown_to_html
from opslib.foundation import formatting, templates
from opslib.foundation.config import settings
from opslib.foundation.errors import IncidentError, UsageError
from opslib.jobs import html_export
from opslib.jobs.notebook_file import RUNBOOK
from opslib.runbooks import steps
from opslib.runbooks.steps import Step

_STEP = re.compile(r'\brunbook\.step\("(\w+)"\)')
_PARAMETER = re.compile(r"^(\w+): (\w+) = .*?(  # .*)?$")
_HEADING = re.compile(r"^#+ (?:\d+\. )?(.+)$", re.MULTILINE)
BRANCH, CAUSE, LIKELY = "branch", "cause:", "Likely: "

Cell = dict[str, Any]


@dataclass(frozen=True)
class Runbook:
    """
    One runbook of the catalog.

    Attributes:
        name: The name of its file, and the one that rules refer to.
        title: The symptom.
        notebook: The notebook as JSON.
    """

    name: str
    title: str
    notebook: dict[str, Any]

    @property
    def cells(self) -> list[Cell]:
        """Its cells in order."""
        cells: list[Cell] = self.notebook["cells"]
        return cells

    @property
    def steps(self) -> list[Step]:
        """Its steps in order, each once."""
        names = [name for cell in self.cells if cell["cell_type"] == "code" for name in _STEP.findall(source(cell))]
        return [steps.step(name) for name in dict.fromkeys(names)]

    @property
    def titles(self) -> dict[str, str]:
        """The title of each step: the last heading before it, without its number."""
        found: dict[str, str] = {}
        heading = self.title
        for cell in self.cells:
            if cell["cell_type"] == "markdown":
                heading = ([heading, *_HEADING.findall(source(cell))])[-1]
            for step in self._of(cell):
                found.setdefault(step.name, heading)
        return found

    def ruled_out(self, causes: set[str]) -> dict[str, str]:
        """
        Return the steps that are not needed for some causes, each with the title of its branch.

        They are those that only occur in branches for other causes; none if no branch is for these causes.
        """
        cells = self.cells
        before, parts, after = _branches(cells)
        fitting = [part for part in parts if _fits(part, causes)]
        if not fitting:
            return {}
        needed = {step.name for cell in itertools.chain(before, *fitting, after) for step in self._of(cell)}
        return {
            step.name: _HEADING.findall(source(part[0]))[0]
            for part in parts
            for cell in part
            for step in self._of(cell)
            if step.name not in needed
        }

    @property
    def plain(self) -> str:
        """Its text for a terminal: the prose, and for each step what to do and what is expected."""
        lines: list[str] = []
        for cell in self.cells:
            if cell["cell_type"] == "markdown":
                lines += ["", re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"\1 (\2)", source(cell).replace("**", ""))]
            lines += [f"  [{_kind(s)}] {s.do}\n      {s.aim}" for s in self._of(cell)]
        return "\n".join(lines).strip() + "\n"

    def _of(self, cell: Mapping[str, Any]) -> list[Step]:
        return [steps.step(name) for name in _STEP.findall(source(cell))] if cell["cell_type"] == "code" else []

    @property
    def parts(self) -> list[tuple[str, list[dict[str, str]]]]:
        """Its content for a web page, cell by cell: prose as HTML, and steps."""
        return [
            (
                markdown_to_html(source(cell)) if cell["cell_type"] == "markdown" else "",
                [{"do": s.do, "kind": _kind(s), "aim": s.aim} for s in self._of(cell)],
            )
            for cell in self.cells
        ]


def source(cell: Mapping[str, Any]) -> str:
    """Return the text of a cell."""
    found = cell["source"]
    return found if isinstance(found, str) else "".join(found)


def _kind(step: Step) -> str:
    kind = {"check": "check", "ask": "you answer", "action": "action: needs your name"}[step.kind]
    return f"{kind}; {step.box} min" if step.box != "after" else f"{kind}; after the incident"


def folder() -> Path:
    """
    Return the folder of the runbooks.

    Raises:
        IncidentError: The package was installed without runbooks.
    """
    place = settings.project()
    if place is None or not (place / "runbooks").is_dir():
        raise IncidentError(
            "the runbooks were not found: they are in the project folder, which this installation does not "
            "have. Run pip install -e . in a clone."
        )
    return place / "runbooks"


def names() -> list[str]:
    """Return the names of all runbooks."""
    return sorted(path.stem for path in folder().glob("*.ipynb"))


def runbook(name: str) -> Runbook:
    """
    Return one runbook.

    Raises:
        UsageError: No runbook has that name.
    """
    path = folder() / f"{name}.ipynb"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        raise UsageError(
            f"there is no runbook {name!r}. Available: {', '.join(names())}.{formatting.nearest(name, names())}"
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    return Runbook(name, _title(found) or name, found)


def _title(notebook: Mapping[str, Any]) -> str:
    """Return the first heading of a notebook; empty if it has none."""
    lines = (line for cell in notebook["cells"] for line in source(cell).splitlines())
    return next((line.removeprefix("# ") for line in lines if line.startswith("# ")), "")


def fill_in(found: Runbook, given: Mapping[str, str], causes: Iterable[str] = (), why: str = "") -> dict[str, Any]:
    """
    Return a copy of a runbook for an incident: parameters filled in, not executed, the likely branch first.

    Its code is hidden, and `ops lab` runs it when it is opened.

    Args:
        given: Parameters by name; unknown ones are ignored.
        causes: Causes of a diagnosis; the branch that is tagged with one of them comes first.
        why: Why the other branches are not needed; empty leaves them unfolded.
    """
    made = copy.deepcopy(found.notebook)
    for cell in made["cells"]:
        if cell["cell_type"] != "code":
            continue
        cell["outputs"], cell["execution_count"] = [], None
        cell["metadata"]["jupyter"] = {"source_hidden": True}
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = "\n".join(_given(line, given) for line in source(cell).splitlines())
    made["cells"] = _likely_first(_answer_first(made["cells"]), set(causes), why)
    made["metadata"]["opslib"] = {"kind": RUNBOOK, "run_on_open": True}
    return made


def _given(line: str, given: Mapping[str, str]) -> str:
    found = _PARAMETER.match(line)
    if not found or found[1] not in given:
        return line
    return f"{found[1]}: {found[2]} = {json.dumps(given[found[1]], ensure_ascii=False)}{found[3] or ''}"


def _branches(cells: list[Cell]) -> tuple[list[Cell], list[list[Cell]], list[Cell]]:
    """
    Divide the cells: those before the branches, each branch, those after them.

    A branch extends from its tagged cell to the next heading of its level or above.
    """
    starts = [i for i, cell in enumerate(cells) if BRANCH in cell["metadata"].get("tags", [])]
    if not starts:
        return cells, [], []
    end = next(
        (
            i
            for i in range(starts[-1] + 1, len(cells))
            if cells[i]["cell_type"] == "markdown" and source(cells[i]).startswith("## ")
        ),
        len(cells),
    )
    return cells[: starts[0]], [cells[a:b] for a, b in zip(starts, [*starts[1:], end])], cells[end:]


def _fits(branch: list[Cell], causes: set[str]) -> bool:
    return bool(causes & {tag.removeprefix(CAUSE) for tag in branch[0]["metadata"]["tags"]})


def _answer_first(cells: list[Cell]) -> list[Cell]:
    """Return the cells without the prose above the one that opens the runbook: its output comes first."""
    opens = next((i for i, cell in enumerate(cells) if "ops.runbook(" in source(cell)), 0)
    return [cell for i, cell in enumerate(cells) if i >= opens or i == 0 or cell["cell_type"] == "code"]


def _likely_first(cells: list[Cell], causes: set[str], why: str) -> list[Cell]:
    """Return the cells with the branch first that fits a cause; the other branches are folded, with the reason."""
    before, parts, after = _branches(cells)
    fitting = [part for part in parts if _fits(part, causes)]
    others = [part for part in parts if part not in fitting]
    for part in fitting:
        part[0]["source"] = re.sub(r"^(#+ )", rf"\g<1>{LIKELY}", source(part[0]))
    for part in others if fitting and why else ():
        part[0]["source"] = f"{source(part[0])}\n\nNot needed: {why}"
        part[0]["metadata"]["jp-MarkdownHeadingCollapsed"] = True
    return [*before, *itertools.chain(*fitting, *others), *after]


def page() -> str:
    """Return all runbooks as one self-contained HTML page for printing."""
    runbooks = [runbook(name) for name in names()]
    return templates.render("runbooks/templates/runbooks.html", policy=html_export.POLICY, runbooks=runbooks)


def titles() -> dict[str, str]:
    """Return the title of each runbook by its name; a notebook is read again only if it was changed."""
    paths = [folder() / f"{name}.ipynb" for name in names()]
    return {path.stem: _title_at(path, path.stat().st_mtime_ns) for path in paths}


@lru_cache(maxsize=64)
def _title_at(path: Path, changed_ns: int) -> str:
    return _title(json.loads(path.read_text(encoding="utf-8"))) or path.stem
