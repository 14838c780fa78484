"""Read the checklists of checklists.toml, each with its title, period and items by heading."""

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
        each: The period of one checklist: ``day``, ``hour`` (New York), ``release`` (until it is signed), ``deploy``
            (the last marked deployment).
        after: Of one that follows a deployment: how long after it, it is due.
        sections: Its items in order, under headings.
    """

    name: str
    title: str
    each: str
    after: timedelta
    sections: dict[str, tuple[Step, ...]]

    @property
    def steps(self) -> list[Step]:
        """Its items in order, each once."""
        return list(dict.fromkeys(step for found in self.sections.values() for step in found))

    def section_of(self, step: Step) -> str:
        """Return the heading of an item."""
        return next(head for head, found in self.sections.items() if step in found)


@functools.cache
def table() -> dict[str, Checklist]:
    """
    Return every checklist by its name.

    Raises:
        UsageError: checklists.toml is invalid; the message lists every problem with its place.
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
    Return one checklist.

    Raises:
        UsageError: No checklist has that name.
    """
    if name not in table():
        raise UsageError(
            f"there is no checklist {name!r}. Available: {', '.join(table())}.{formatting.nearest(name, table())}"
        )
    return table()[name]


DEPLOYED = "deployed_us"  # The time of the deployment, in the record of a checklist that follows one.
