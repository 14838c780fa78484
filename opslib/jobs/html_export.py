"""
Turn an executed notebook into an HTML page that opens anywhere.

The page holds everything it shows: pictures inline, its own few lines of style, no script. Its content security policy
forbids scripts and every request, so whatever a notebook's output may contain, the page stays still and stays local.
"""

import functools
import re
import threading
from typing import TYPE_CHECKING

from opslib.foundation import templates

if TYPE_CHECKING:
    from nbconvert import HTMLExporter
    from nbformat import NotebookNode

_TURN = threading.Lock()  # nbconvert's exporters are not made for two threads at once.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# What the policy does not stop from leaving the page: a refresh, a preconnect, a frame. No notebook of ours has any.
LEAVING = re.compile(r"(?i)<(?=/?(?:meta|link|base|i?frame|frameset|object|embed|form|script)\b)")
# A notebook beside this one: where the page goes there is none.
NEIGHBOUR = re.compile(r'<a href="\w+\.ipynb">(.*?)</a>')


@functools.cache
def _exporter() -> "HTMLExporter":
    """One for all pages: it compiles its templates once."""
    from nbconvert import HTMLExporter

    return HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )


def page(notebook: "NotebookNode", title: str) -> str:
    """
    An executed notebook as one self-contained HTML page, without its code.

    Args:
        notebook: Executed.
        title: For the browser's tab; text from outside is escaped.
    """
    with _TURN:
        body, _ = _exporter().from_notebook_node(notebook)
    body = NEIGHBOUR.sub(r"\1", LEAVING.sub("&lt;", body))
    return templates.render("jobs/templates/page.html", policy=POLICY, title=title, body=body)
