"""Read the checklists of checklists.toml: of each its title, for what it is made anew, and its items by heading."""

import functools
import tomllib
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources

from opslib.foundation import formatting, time_parsing
from opslib.foundation.errors import UsageError
from opslib.runbooks import steps
from opslib.runbooks.steps import Step

DAY, HOUR, RELEASE, DEPLOY = "day", "hour", "release", "deploy"


@dataclass(frozen=True, slots=True)
class Checklist:
    """
    One checklist.

    Attributes:
        each: For what it is made anew: ``day``, ``hour`` (New York's), ``release`` (until it is signed), ``deploy``
            (the last one that was marked).
        after: Of one that follows a deployment: so long after it, it is due.
        sections: Its boxes in order, under the guide's headings.
    """

    name: str
    title: str
    each: str
    after: timedelta
    sections: dict[str, tuple[Step, ...]]

    @property
    def steps(self) -> list[Step]:
        """Its boxes in order; each once."""
        return list(dict.fromkeys(step for found in self.sections.values() for step in found))

    def section_of(self, step: Step) -> str:
        """Under which heading does a box stand?"""
        return next(head for head, found in self.sections.items() if step in found)


@functools.cache
def table() -> dict[str, Checklist]:
    """
    Every checklist by its name.

    Raises:
        UsageError: checklists.toml has one that cannot be meant; every problem with its place.
    """
    from opslib.runbooks import steps_form

    rows = tomllib.loads(resources.files("opslib.runbooks").joinpath("checklists.toml").read_text(encoding="utf-8"))
    known = {"each": (DAY, HOUR, RELEASE, DEPLOY), "steps": tuple(steps.table())}
    if problems := steps_form.checklist_problems(rows, known):
        raise UsageError("\n".join(problems))
    return {
        name: Checklist(
            name,
            row["title"],
            row["each"],
            time_parsing.parse_span(row["after"]) if "after" in row else timedelta(0),
            {head: tuple(steps.step(box) for box in boxes) for head, boxes in row["boxes"].items()},
        )
        for name, row in rows.items()
    }


def checklist(name: str) -> Checklist:
    """
    One checklist.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in table():
        raise UsageError(
            f"there is no checklist {name!r}; there are: {', '.join(table())}.{formatting.nearest(name, table())}"
        )
    return table()[name]


DEPLOYED = "deployed_us"  # What the record of a checklist that follows a deployment says of it.
