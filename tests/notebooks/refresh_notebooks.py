"""
Execute the committed notebooks again and write them back: ``python tests/notebooks/refresh_notebooks.py [NAME ...]``.

They are committed with outputs, which nbval compares, but without pictures, so that a change can be read.
"""

import sys
import tempfile
from pathlib import Path

from opslib import desk
from opslib.foundation import version
from opslib.jobs import executor
from opslib.jobs import notebook_file as runner

FOLDERS = [Path(__file__).parents[2] / name for name in ("notebooks", "runbooks")]


def refresh(path: Path, home: Path) -> None:
    """Execute one notebook and write it back without its pictures."""
    found = desk.open("refresh", home)
    outcome = executor.execute(path, {}, settings=found.settings, store=found.store)
    if outcome.state == "failed" or outcome.notebook is None:
        raise SystemExit(f"{path.name}: {outcome.reason}")
    notebook = executor.tidied(outcome.notebook)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("image/png", None)
    path.write_bytes(runner.written(notebook))


def committed(names: list[str]) -> list[Path]:
    """Return the notebooks and runbooks of those names; without names, all."""
    found = [path for folder in FOLDERS for path in sorted(folder.glob("*.ipynb"))]
    return [path for path in found if not names or path.stem in names]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for notebook in committed(sys.argv[1:]):
            refresh(notebook, Path(place))
            print(notebook.name, "refreshed", version.VERSION)
