"""
Render the packages' HTML templates; what comes from outside is escaped where it is shown.

A template is named by its path inside the package, such as ``jobs/templates/page.html``. Only what a template marks as
``safe`` is markup already: the output of another template, or of a converter that escapes.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.foundation import formatting

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = Path(__file__).parent.parent


def render(name: str, **values: Any) -> str:
    """
    Render one template as HTML.

    Raises:
        jinja2.UndefinedError: The template shows a value that was not given.
    """
    return _environment().get_template(name).render(values)


@cache
def _environment() -> "Environment":
    """Made where a page is wanted: a command that shows none does not import jinja2."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )


def _inert(value: Any) -> Any:
    """What a template shows, printable and escaped; markup stays as it is."""
    from markupsafe import Markup

    return value if isinstance(value, Markup) else Markup(formatting.in_html(value))  # noqa: S704  # Escaped before.
