"""Find Markdown and HTML source that a published page shows as text instead of rendering it."""

import re
from html.parser import HTMLParser
from pathlib import Path

# Text inside these is quoted, or is not shown on the page.
QUOTED = ("code", "pre", "script", "style", "textarea", "kbd", "samp")
EMPTY = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
SOURCE = {
    "table row in Markdown": r"(?m)^[ \t]*\|.*\|[ \t]*$|\|[ \t]*:?-{3,}:?[ \t]*\|",
    "bold text in Markdown": r"(?<![*\w])(\*\*|__)(?=\S)[^*_\n]+(?<=\S)\1(?![*\w])",
    "code in Markdown": r"`[^`\n]+`",
    "heading in Markdown": r"(?m)^[ \t]{0,3}#{1,6} +\S",
    "task in Markdown": r"(?m)^[ \t]*[-*] \[[ xX]\] ",
    "link in Markdown": r"!?\[[^\]\n]*\]\([^)\s]+\)",
    "escape of Markdown": r"\\[\\`*_\[\]|~#<>/]",
    "HTML tag": r"</?[a-zA-Z][\w:-]*(?:\s[^<>]*)?/?>|<!--|<!doctype",
    "HTML entity": r"(?i)&(?:amp|lt|gt|quot|apos|nbsp|#\d+|#x[0-9a-f]+);",
}


class _Reader(HTMLParser):
    """Collect the text of a page as a browser shows it, each piece with the element that it is in."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Enter an element."""
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Leave an element, and those in it that were never closed."""
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        """Keep a text that is not quoted."""
        if data.strip() and not any(tag in QUOTED for tag in self.open):
            self.texts.append((self.open[-1] if self.open else "body", data))


def problems(page: str) -> list[str]:
    """
    Return what looks like Markdown or HTML source in the text of a page, each with its element.

    Text in ``code`` and ``pre`` is left out: there a reader sees that it is quoted.
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return [
        f"{what} in <{tag}>: {' '.join(text[max(0, found.start() - 20) : found.end() + 60].split())[:140]}"
        for tag, text in reader.texts
        for what, pattern in SOURCE.items()
        if (found := re.search(pattern, text))
    ]


def problems_below(folder: Path) -> dict[str, list[str]]:
    """Return the problems of every HTML page below a folder, by its path; pages without one are left out."""
    found = {str(p.relative_to(folder)): problems(p.read_text(encoding="utf-8")) for p in folder.rglob("*.html")}
    return {name: lines for name, lines in sorted(found.items()) if lines}
