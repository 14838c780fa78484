"""Pass the numbers of a report from a notebook to the executor."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from opslib.foundation import templates


@dataclass(frozen=True)
class RunRecord:
    """
    The numbers of a report.

    A notebook passes them to its executor by displaying this object.

    Attributes:
        values: The numbers, fit for JSON.
        markdown: The report in Markdown.
    """

    MIME: ClassVar[str] = "application/vnd.opslib.record+json"
    values: dict[str, Any]
    markdown: str

    def __repr__(self) -> str:
        return as_json(self.values).rstrip()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {
            "text/plain": repr(self),
            "text/html": templates.render("jobs/templates/record.html", numbers=repr(self)),
            self.MIME: {"values": self.values, "markdown": self.markdown},
        }


def as_json(values: dict[str, Any]) -> str:
    """Return a report's numbers as the text of its JSON file."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
