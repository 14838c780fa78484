"""
Export an executed notebook as one self-contained HTML page.

Pictures and styles are inline, and there is no script. The content security policy forbids scripts and requests, so
the output of a notebook can neither run code nor load anything.
"""

import functools
import re
import threading
from typing import TYPE_CHECKING

from opslib.foundation import templates

if TYPE_CHECKING:
    from nbconvert import HTMLExporter
    from nbformat import NotebookNode

_LOCK = threading.Lock()  # nbconvert's exporters are not thread-safe.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# Tags that could load or open something in spite of the policy, such as a refresh or a frame. Our notebooks have none.
LEAVING = re.compile(r"(?i)<(?=/?(?:meta|link|base|i?frame|frameset|object|embed|form|script)\b)")
# Links to other notebooks are removed, because those files are not beside the exported page.
NOTEBOOK_LINK = re.compile(r'<a href="\w+\.ipynb">(.*?)</a>')


@functools.cache
def _exporter() -> "HTMLExporter":
    """Return the exporter, which is shared because it compiles its templates once."""
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
    Return an executed notebook as one self-contained HTML page, without its code.

    Args:
        notebook: The executed notebook.
        title: The title of the page; it is escaped.
    """
    with _LOCK:
        body, _ = _exporter().from_notebook_node(notebook)
    body = NOTEBOOK_LINK.sub(r"\1", LEAVING.sub("&lt;", body))
    return templates.render("jobs/templates/page.html", policy=POLICY, title=title, body=body)
