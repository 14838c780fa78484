"""Make pieces of text that read as plain text, HTML and Markdown: lists, tables, paragraphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from opslib.foundation import formatting, templates

if TYPE_CHECKING:
    from mistune import Markdown


# A wide table scrolls inside itself.
TABLE = '<div class="ops-table" tabindex="0" role="region" aria-label="table">'


@dataclass(frozen=True)
class TextBlock:
    """
    A piece of text in three forms: plain, HTML and Markdown.

    Attributes:
        template: The template of the HTML, which is rendered only when it is needed; a terminal needs none.
        values: The values for the template.
    """

    plain: str
    template: str
    values: Mapping[str, Any]
    markdown: str

    @cached_property
    def html(self) -> str:
        """The text as a part of an HTML page; text from outside is escaped."""
        return templates.render(self.template, **self.values)

    def __repr__(self) -> str:
        return self.plain

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": self.plain, "text/html": self.html, "text/markdown": self.markdown}


def bullet_list(title: str, lines: list[str]) -> TextBlock:
    """Return a heading (none if it is empty) with lines under it; text from outside is escaped in each form."""
    return TextBlock(
        "\n".join([title, *(f"  - {line}" for line in lines)] if title else [f"- {line}" for line in lines]),
        "dashboard/templates/bullet_list.html",
        {"title": title, "lines": lines},
        "\n".join(
            [
                *([f"### {formatting.in_markdown(title)}", ""] if title else []),
                *(f"- {formatting.in_markdown(line)}" for line in lines),
            ]
        ),
    )


def table(title: str, header: list[str], rows: list[list[str]], empty: str = "") -> TextBlock:
    """Return a heading with a table under it; without rows, `empty` is shown instead."""
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


@dataclass(frozen=True)
class KeyFigure:
    """
    A figure that is shown large.

    Attributes:
        label: What it is, with its source and its unit if the value has none.
        value: The value as text.
        verdict: Its state, a key of `formatting.SIGNS`; empty for a figure without a threshold.
        notes: Short lines under it: the threshold, the change against the usual.
    """

    label: str
    value: str
    verdict: str
    notes: tuple[str, ...] = ()


def key_figures(figures: list[KeyFigure]) -> TextBlock:
    """Return a strip of three to six key figures, each with its state and notes."""
    signs = formatting.SIGNS
    notes = ["; ".join(filter(None, [f.verdict, *f.notes])) for f in figures]
    lines = [
        f"{signs.get(f.verdict, '·')} {f.label}: {f.value}{f' ({more})' if more else ''}"
        for f, more in zip(figures, notes)
    ]
    return TextBlock(
        "\n".join(lines),
        "dashboard/templates/key_figures.html",
        {"figures": figures, "signs": signs},
        "\n".join(f"- {formatting.in_markdown(line)}" for line in lines),
    )


def answer(verdict: str, words: str, lines: Sequence[str | tuple[str, str]]) -> TextBlock:
    """
    Return the first thing that a page says: its verdict in large words, and a few lines under it.

    Args:
        verdict: A key of `formatting.SIGNS`.
        words: The verdict as a sentence.
        lines: Each a text, or a label and a text.
    """
    labelled = [("", line) if isinstance(line, str) else line for line in lines]
    return TextBlock(
        "\n".join(
            [
                f"{formatting.SIGNS[verdict]} {words}",
                *(f"  {label}: {line}" if label else f"  {line}" for label, line in labelled),
            ]
        ),
        "dashboard/templates/answer.html",
        {"verdict": verdict, "words": words, "lines": labelled, "signs": formatting.SIGNS},
        "\n\n".join(
            [
                f"**{formatting.SIGNS[verdict]} {formatting.in_markdown(words)}**",
                *(
                    f"**{formatting.in_markdown(label)}:** {formatting.in_markdown(line)}"
                    if label
                    else formatting.in_markdown(line)
                    for label, line in labelled
                ),
            ]
        ),
    )


def links(found: list[tuple[str, str]]) -> TextBlock:
    """Return a line of links; each is its words and its address."""
    return TextBlock(
        "\n".join(f"{words}: {address}" for words, address in found),
        "dashboard/templates/links.html",
        {"links": found},
        " · ".join(f"[{formatting.in_markdown(words)}]({address})" for words, address in found),
    )


def folded(words: str, block: TextBlock) -> TextBlock:
    """Return a block that HTML shows only on demand, under a line of words; plain text and Markdown show it."""
    return TextBlock(block.plain, "dashboard/templates/fold.html", {"words": words, "block": block}, block.markdown)


def one_after_another(*blocks: TextBlock) -> TextBlock:
    """Join several blocks into one."""
    return TextBlock(
        "\n\n".join(block.plain for block in blocks),
        "dashboard/templates/one_after_another.html",
        {"blocks": blocks},
        "\n\n".join(block.markdown for block in blocks),
    )


def markdown_to_html(markdown: str) -> str:
    """
    Convert Markdown to HTML.

    Raw markup is quoted as code. A link shows its words and its address, so that a printed page has both.
    """
    made = str(_converter()(formatting.printable(markdown))).strip()
    return made.replace("<table>", f"{TABLE}<table>").replace("</table>", "</table></div>")


@cache
def _converter() -> "Markdown":
    import mistune

    class Renderer(mistune.HTMLRenderer):
        def text(self, text: str) -> str:
            return str(templates.quoting(text))

        def inline_html(self, html: str) -> str:
            return str(templates.quoting(html))

        def block_html(self, html: str) -> str:
            return f"<p>{templates.quoting(html.strip())}</p>\n"

        def codespan(self, text: str) -> str:
            return f"<code>{formatting.in_html(text)}</code>"

        def link(self, text: str, url: str, title: str | None = None) -> str:
            return text if text == url else f"{text} ({formatting.in_html(url)})"

        def image(self, text: str, url: str, title: str | None = None) -> str:
            return f"{text} ({formatting.in_html(url)})"

    return mistune.create_markdown(renderer=Renderer(escape=True), plugins=["table"])
