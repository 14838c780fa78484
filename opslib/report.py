"""Name the place of a report and its earlier versions; make its pieces of text and its numbers for machines."""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

from opslib import text
from opslib.errors import ReportRefused
from opslib.settings import Settings


@dataclass(frozen=True)
class Text:
    """A piece of the report as people read it: plain, HTML and Markdown."""

    plain: str
    html: str
    markdown: str

    def __repr__(self) -> str:
        return self.plain

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": self.plain, "text/html": self.html, "text/markdown": self.markdown}


@dataclass(frozen=True)
class Record:
    """The numbers of a report; a notebook that shows one hands it to whoever executed it."""

    MIME: ClassVar[str] = "application/vnd.opslib.record+json"
    values: dict[str, Any]
    markdown: str

    def __repr__(self) -> str:
        return as_json(self.values).rstrip()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        folded = (
            f"<details><summary>every number of this report</summary><pre>{text.in_html(repr(self))}</pre></details>"
        )
        return {
            "text/plain": repr(self),
            "text/html": folded,
            self.MIME: {"values": self.values, "markdown": self.markdown},
        }


def listed(title: str, lines: list[str]) -> Text:
    """A heading and lines under it, as text, HTML and Markdown; what comes from outside is inert in each."""
    e = text.in_html
    return Text(
        "\n".join([title, *(f"  - {line}" for line in lines)]),
        f"<p><strong>{e(title)}</strong></p><ul>{''.join(f'<li>{e(line)}</li>' for line in lines)}</ul>",
        "\n".join([f"### {text.in_markdown(title)}", "", *(f"- {text.in_markdown(line)}" for line in lines)]),
    )


def tabled(title: str, header: list[str], rows: list[list[str]], empty: str = "") -> Text:
    """A heading and a table under it, as text, HTML and Markdown; without rows, `empty` stands there instead."""
    if not rows:
        return listed(title, [empty])
    e = text.in_html
    html = "".join(
        f"<tr><th scope='row'>{e(row[0])}</th>{''.join(f'<td>{e(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )

    def cells(row):
        return f"| {' | '.join(text.in_markdown(c) for c in row)} |"

    return Text(
        f"{title}\n{text.table(header, rows)}",
        f"<p><strong>{e(title)}</strong></p><table><thead><tr>{''.join(f'<th>{e(h)}</th>' for h in header)}</"
        f"tr></thead><tbody>{html}</tbody></table>",
        "\n".join(
            [
                f"### {text.in_markdown(title)}",
                "",
                cells(header),
                f"|{'---|' * len(header)}",
                *(cells(row) for row in rows),
            ]
        ),
    )


def place(settings: Settings, name: str, day: date | str, partial: bool = False) -> Path:
    """Where the report of a day, or of what is named so, is published, without the ending."""
    return settings.outputs / "reports" / str(day)[:4] / f"{day}_{name}{'_partial' if partial else ''}"


def next_name(path: Path) -> str:
    """The name under which the published report steps back when a restatement takes its place: r1, r2, …"""
    n = 1
    while path.with_name(f"{path.name}.r{n}.json").exists():
        n += 1
    return f"r{n}"


def published(path: Path) -> dict[str, Any] | None:
    """
    The numbers of a published report, or None where there is none.

    Raises:
        ReportRefused: They cannot be read, so what changed could not be told.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:
        raise ReportRefused(
            f"the earlier report {path} cannot be read ({problem}); move it away, or restore it, so that what "
            f"changed can be told."
        ) from None


def as_json(values: dict[str, Any]) -> str:
    """A report's numbers as the text of its file."""
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
