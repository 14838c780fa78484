"""Make pieces of text that read as plain text, HTML and Markdown: lists, tables, paragraphs."""

import re
from dataclasses import dataclass
from typing import Any

from opslib.foundation import formatting


@dataclass(frozen=True)
class TextBlock:
    """A piece of the report as people read it: plain, HTML and Markdown."""

    plain: str
    html: str
    markdown: str

    def __repr__(self) -> str:
        return self.plain

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": self.plain, "text/html": self.html, "text/markdown": self.markdown}


def bullet_list(title: str, lines: list[str]) -> TextBlock:
    """A heading and lines under it, as text, HTML and Markdown; what comes from outside is inert in each."""
    e = formatting.in_html
    return TextBlock(
        "\n".join([title, *(f"  - {line}" for line in lines)]),
        f"<p><strong>{e(title)}</strong></p><ul>{''.join(f'<li>{e(line)}</li>' for line in lines)}</ul>",
        "\n".join(
            [f"### {formatting.in_markdown(title)}", "", *(f"- {formatting.in_markdown(line)}" for line in lines)]
        ),
    )


def table(title: str, header: list[str], rows: list[list[str]], empty: str = "") -> TextBlock:
    """A heading and a table under it, as text, HTML and Markdown; without rows, `empty` stands there instead."""
    if not rows:
        return bullet_list(title, [empty])
    e = formatting.in_html
    html = "".join(
        f"<tr><th scope='row'>{e(row[0])}</th>{''.join(f'<td>{e(cell)}</td>' for cell in row[1:])}</tr>" for row in rows
    )

    def cells(row: list[str]) -> str:
        return f"| {' | '.join(formatting.in_markdown(c) for c in row)} |"

    return TextBlock(
        f"{title}\n{formatting.table(header, rows)}",
        f"<p><strong>{e(title)}</strong></p><table><thead><tr>{''.join(f'<th>{e(h)}</th>' for h in header)}</"
        f"tr></thead><tbody>{html}</tbody></table>",
        "\n".join(
            [
                f"### {formatting.in_markdown(title)}",
                "",
                cells(header),
                f"|{'---|' * len(header)}",
                *(cells(row) for row in rows),
            ]
        ),
    )


def markdown_to_html(markdown: str) -> str:
    """What our own prose uses of Markdown, as HTML; everything else stays text."""
    found, items = [], list[str]()

    def close() -> None:
        if items:
            found.append(f"<ul>{''.join(items)}</ul>")
            items.clear()

    for block in markdown.splitlines():
        line = re.sub(
            r"`([^`]+)`",
            r"<code>\1</code>",
            re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", formatting.in_html(block.strip())),
        )
        line = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"\1 (\2)", line)
        if head := re.match(r"(#{1,4}) (.+)", line):
            close()
            found.append(f"<h{len(head[1])}>{head[2]}</h{len(head[1])}>")
        elif item := re.match(r"(?:[-*]|\d+\.) (.+)", line):
            items.append(f"<li>{item[1]}</li>")
        else:
            close()
            found += [f"<p>{line}</p>"] if line else []
    close()
    return "\n".join(found)
