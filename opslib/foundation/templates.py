"""
Render the packages' HTML templates, escaping every value that they show.

A template is named by its path inside the package, such as ``jobs/templates/page.html``. Only values that a template
marks as ``safe`` are inserted as markup: the output of another template, or of a converter that escapes.
"""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.foundation import formatting

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = Path(__file__).parent.parent
# Text that reads as the source of HTML or Markdown: a tag, an entity, code, bold text, a link, an escape, a table row.
SOURCE = re.compile(
    r"</?[a-zA-Z!][^<>]*>|&#?\w+;|`[^`\n]+`|\*\*[^*\n]+\*\*|!?\[[^\]\n]*\]\([^)\s]+\)|\\[\\`*_\[\]|~#<>/]+"
    r"|(?m:^[ \t]*\|.*\|[ \t]*$|^[ \t]{0,3}#{1,6} +\S.*$|^[ \t]*[-*] \[[ xX]\] .*$)"
)


def render(name: str, **values: Any) -> str:
    """
    Render one template as HTML.

    Raises:
        jinja2.UndefinedError: The template shows a value that was not given.
    """
    return _environment().get_template(name).render(values)


@cache
def _environment() -> "Environment":
    """Create the environment on first use, so that a command without HTML output does not import jinja2."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    made.filters["quoting"] = quoting
    return made


def quoting(text: object) -> Any:
    """
    Escape a text for HTML, and put what reads as source of HTML or Markdown into ``code``.

    Texts from outside, such as an app's error message, may contain it. A reader then sees that it is a quotation.
    """
    from markupsafe import Markup

    whole, made, at = formatting.printable(text), list[str](), 0
    for found in SOURCE.finditer(whole):
        made += [formatting.in_html(whole[at : found.start()]), f"<code>{formatting.in_html(found[0])}</code>"]
        at = found.end()
    return Markup("".join([*made, formatting.in_html(whole[at:])]))  # noqa: S704  # Escaped piece by piece.


def _inert(value: Any) -> Any:
    """Return a value printable and escaped; markup stays as it is."""
    from markupsafe import Markup

    return value if isinstance(value, Markup) else Markup(formatting.in_html(value))  # noqa: S704  # Escaped before.
