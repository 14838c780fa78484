"""
Execute the committed notebooks anew, with their defaults, and write them back: ``python tests/refresh_notebooks.py``.

They are committed executed, so that nbval has something to compare; without pictures, so that a change can be read.
"""

import tempfile
from pathlib import Path

from opslib import desk, runner, settings

FOLDER = Path(__file__).parent.parent / "notebooks"


def refresh(path: Path, home: Path) -> None:
    """Execute one notebook and write it back without its pictures."""
    found = desk.open("refresh", home)
    outcome = runner.execute(path, {}, settings=found.settings, store=found.store)
    if outcome.state != "ok" or outcome.notebook is None:
        raise SystemExit(f"{path.name}: {outcome.reason}")
    notebook = runner.tidied(outcome.notebook)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    path.write_bytes(runner.written(notebook))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for notebook in sorted(FOLDER.glob("*.ipynb")):
            refresh(notebook, Path(folder))
            print(notebook.name, "refreshed", settings.VERSION)
