"""Read and validate the file of a notebook, and serialize a notebook."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from opslib.foundation import files, formatting
from opslib.foundation.errors import ImportRefused, UsageError

if TYPE_CHECKING:
    from nbformat import NotebookNode

RUNBOOK = "runbook"  # In the metadata of a notebook: the value of ``opslib``, or of ``kind`` in it.


def load(path: Path) -> "NotebookNode":
    """
    Read a notebook.

    Raises:
        UsageError: There is no file at that path, or it is not a notebook.
    """
    without_slow_import()
    import nbformat

    try:
        found: NotebookNode = nbformat.from_dict(nbformat.reads(_with_ids(files.read_text(path)), as_version=4))
        nbformat.validate(found)
        written(found)
        return found
    except ImportRefused as problem:
        raise UsageError(f"{path} cannot be read as a notebook: {problem} Give the path of an .ipynb file.") from None
    except Exception as problem:  # nbformat raises many kinds of errors for invalid files.
        raise UsageError(
            f"{path} is not a notebook: {formatting.single_line(str(problem), 120)}. Give the path of an .ipynb file."
        ) from None


def _with_ids(content: str) -> str:
    """Return a notebook's JSON in which each cell has a unique id, as format 4.5 requires."""
    found = json.loads(content)
    cells = (
        found.get("cells", [])
        if isinstance(found, dict) and (found.get("nbformat"), found.get("nbformat_minor")) >= (4, 5)
        else []
    )
    seen, changed = set[str](), False
    for n, cell in enumerate(cells):
        if not cell.get("id") or cell["id"] in seen:
            cell["id"], changed = f"cell-{n}", True
        seen.add(cell["id"])
    return json.dumps(found) if changed else content


def without_slow_import() -> None:
    """
    Prevent an import that takes 1.7 s.

    jsonschema, which nbformat imports, builds a grammar for internationalised addresses that no notebook schema uses.
    """
    # None marks a module that cannot be imported.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def written(notebook: "NotebookNode") -> bytes:
    """Return a notebook as the bytes of its file."""
    import nbformat

    text: str = nbformat.writes(notebook)
    return (text + "\n").encode()


def is_runbook(notebook: "NotebookNode") -> bool:
    """Return whether a notebook is a runbook: a template, whose mark is a word, or a copy for an incident."""
    mark = notebook.metadata.get("opslib")
    return (mark.get("kind") if isinstance(mark, Mapping) else mark) == RUNBOOK
