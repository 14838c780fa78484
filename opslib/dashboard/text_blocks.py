"""Make pieces of text that read as plain text, HTML and Markdown: lists, tables, paragraphs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from opslib.foundation import formatting, templates

if TYPE_CHECKING:
    from mistune import Markdown


@dataclass(frozen=True)
class TextBlock:
    """
    A piece of the report as people read it: plain, HTML and Markdown.

    Attributes:
        template: Of its HTML, which is rendered where it is asked for: a terminal asks for none.
        values: What the template shows.
    """

    plain: str
    template: str
    values: Mapping[str, Any]
    markdown: str

    @cached_property
    def html(self) -> str:
        """It as a part of a page; what comes from outside is inert."""
        return templates.render(self.template, **self.values)

    def __repr__(self) -> str:
        return self.plain

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": self.plain, "text/html": self.html, "text/markdown": self.markdown}


def bullet_list(title: str, lines: list[str]) -> TextBlock:
    """A heading and lines under it, as text, HTML and Markdown; what comes from outside is inert in each."""
    return TextBlock(
        "\n".join([title, *(f"  - {line}" for line in lines)]),
        "dashboard/templates/bullet_list.html",
        {"title": title, "lines": lines},
        "\n".join(
            [f"### {formatting.in_markdown(title)}", "", *(f"- {formatting.in_markdown(line)}" for line in lines)]
        ),
    )


def table(title: str, header: list[str], rows: list[list[str]], empty: str = "") -> TextBlock:
    """A heading and a table under it, as text, HTML and Markdown; without rows, `empty` stands there instead."""
    if not rows:
        return bullet_list(title, [empty])

    def cells(row: list[str]) -> str:
        return f"| {' | '.join(formatting.in_markdown(c) for c in row)} |"

    return TextBlock(
        f"{title}\n{formatting.table(header, rows)}",
        "dashboard/templates/table.html",
        {"title": title, "header": header, "rows": rows},
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


def one_after_another(*blocks: TextBlock) -> TextBlock:
    """Several pieces as one."""
    return TextBlock(
        "\n\n".join(block.plain for block in blocks),
        "dashboard/templates/one_after_another.html",
        {"blocks": blocks},
        "\n\n".join(block.markdown for block in blocks),
    )


def markdown_to_html(markdown: str) -> str:
    """Markdown as HTML: markup in it stays text, and a link is its words and its address, so that paper has both."""
    return str(_converter()(formatting.printable(markdown))).strip()


@cache
def _converter() -> "Markdown":
    import mistune

    class Renderer(mistune.HTMLRenderer):
        def text(self, text: str) -> str:
            return formatting.in_html(text)

        def codespan(self, text: str) -> str:
            return f"<code>{formatting.in_html(text)}</code>"

        def link(self, text: str, url: str, title: str | None = None) -> str:
            return text if text == url else f"{text} ({formatting.in_html(url)})"

        def image(self, text: str, url: str, title: str | None = None) -> str:
            return f"{text} ({formatting.in_html(url)})"

    return mistune.create_markdown(renderer=Renderer(escape=True), plugins=["table"])
