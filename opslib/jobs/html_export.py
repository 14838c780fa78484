"""
Turn an executed notebook into an HTML page that opens anywhere.

The page holds everything it shows: pictures inline, its own few lines of style, no script. Its content security policy
forbids scripts and every request, so whatever a notebook's output may contain, the page stays still and stays local.
"""

import functools
import re
import threading
from typing import TYPE_CHECKING

from opslib.foundation import formatting

if TYPE_CHECKING:
    from nbconvert import HTMLExporter
    from nbformat import NotebookNode

_TURN = threading.Lock()  # nbconvert's exporters are not made for two threads at once.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# What the policy does not stop from leaving the page: a refresh, a preconnect, a frame. No notebook of ours has any.
LEAVING = re.compile(r"(?i)<(?=/?(?:meta|link|base|i?frame|frameset|object|embed|form|script)\b)")
# A notebook beside this one: where the page goes there is none.
NEIGHBOUR = re.compile(r'<a href="\w+\.ipynb">(.*?)</a>')
STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --paper: #ffffff; --line: #d5dbe1; --soft: #f4f6f8 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --paper: #14181c; --line: #3a434c; --soft: #1d2329 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem; margin: \
2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-top: 1px solid var(--line); padding-top: \
1rem }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--line); padding: .25rem 1rem .25rem 0; text-align: left; font-weight: normal; \
vertical-align: top }
thead th { font-weight: 600 } tbody th { white-space: nowrap } pre { background: var(--soft); padding: .6rem; \
overflow-x: auto; font-size: .85rem }
img { max-width: 100%; background: #fff } ul { padding-left: 1.3rem }
.panel { border-left: 6px solid #8a94a0; padding-left: 1rem } .panel.ok { border-color: #2e7d4f }
.panel.warning { border-color: #b58900 } .panel.critical { border-color: #c0392b }
"""


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
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta '
        f'http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{formatting.in_html(title)}</'
        f"title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
