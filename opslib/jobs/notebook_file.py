"""Read a notebook's file within bounds, and write one."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from opslib.foundation import files, formatting
from opslib.foundation.errors import ImportRefused, UsageError

if TYPE_CHECKING:
    from nbformat import NotebookNode


def load(path: Path) -> "NotebookNode":
    """
    Read a notebook.

    Raises:
        UsageError: There is none at that path, or it is not a notebook.
    """
    without_slow_import()
    import nbformat

    try:
        found: NotebookNode = nbformat.from_dict(nbformat.reads(_with_ids(files.read_text(path)), as_version=4))
        nbformat.validate(found)
        written(found)
        return found
    except ImportRefused as problem:
        raise UsageError(
            f"{path} is not a notebook that can be read: {problem} Give the path of an .ipynb file."
        ) from None
    except Exception as problem:  # nbformat trips over what is no notebook in many ways.
        raise UsageError(f"{path} is not a notebook: {formatting.single_line(str(problem), 120)}.") from None


def _with_ids(content: str) -> str:
    """A notebook's JSON in which each cell has an id of its own, as format 4.5 demands; unchanged where it has."""
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
    jsonschema, which nbformat imports, builds a grammar for internationalised addresses (1.7 s) that no notebook schema
    uses.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None stands for what cannot be imported.


def written(notebook: "NotebookNode") -> bytes:
    """A notebook as the bytes of its file."""
    import nbformat

    text: str = nbformat.writes(notebook)
    return (text + "\n").encode()
