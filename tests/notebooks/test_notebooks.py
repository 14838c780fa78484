"""Test the notebooks: prose, little code, committed with outputs, and nbval detects a wrong number."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from opslib.cli import main
from opslib.jobs import notebook_file as runner
from opslib.jobs import parameters
from tests.support import demo

pytestmark = pytest.mark.kernel

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path for folder in ("notebooks", "runbooks") for path in (PROJECT / folder).glob("*.ipynb"))
FORBIDDEN = re.compile(
    r"^\s*(def|class|for|while|try|if|with|from|!|%)|\.style\b|plt\.|sys\.exit|raises-exception", re.MULTILINE
)


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def cells(request: pytest.FixtureRequest) -> list[dict]:
    """Return the cells of each notebook."""
    return json.loads(request.param.read_text(encoding="utf-8"))["cells"]


def sources(cells: list[dict]) -> list[str]:
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def test_no_logic_in_cells(cells: list[dict]) -> None:
    """Code cells call the library without logic; cells have at most five lines, parameters eight."""
    for source in sources(cells):
        assert not FORBIDDEN.search(source), source
        assert len(source.strip().splitlines()) <= (8 if source.startswith("app: str") else 5)
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, ast.Import) or [a.name for a in node.names] == ["opslib"]


def test_every_section_states_what_is_expected(cells: list[dict]) -> None:
    """Nearly every section states what is expected, and prose precedes each code cell."""
    previous = None
    for cell in cells:
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            assert previous == "markdown"
        previous = cell["cell_type"]
    prose = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    assert (
        prose[0].startswith("# ")
        and sum("xpected" in p for p in prose) >= len([p for p in prose if p.startswith("## ")]) - 1
    )


def test_parameters_are_typed_and_commented(cells: list[dict]) -> None:
    """Each line of the parameters cell has one typed assignment and a comment without `=`."""
    found = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert len(found) == 1
    for line in "".join(found[0]["source"]).splitlines():
        assert re.fullmatch(r"\w+: \w+ = [^#]+  # [^=]+", line), line


def test_committed_with_outputs_and_without_pictures(cells: list[dict]) -> None:
    """Every code cell was executed in order, without errors, and the file has no pictures."""
    counts = [c["execution_count"] for c in cells if c["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    assert len(outputs) >= len(counts) - 1
    assert not [o for o in outputs if o["output_type"] in ("error", "stream") or "image/png" in o.get("data", {})]


def test_defaults_are_the_demo() -> None:
    """The defaults of every notebook are the offline demo."""
    for path in NOTEBOOKS:
        notebook = runner.load(path)
        assert parameters.declared(notebook)["app"] == "str"
        assert 'app: str = "demo"' in next(
            c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given"), [("dashboard", ["as_of=2026-03-10T15:30", "window=30m"]), ("daily_report", ["day=2026-03-09"])]
)
def test_other_parameters(home: Path, name: str, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A notebook runs with other parameters and shows pictures; nbval covers only the defaults."""
    demo.laid_out(home)
    arguments = [a for pair in given for a in ("-p", pair)]
    assert main.main(["run", str(PROJECT / "notebooks" / f"{name}.ipynb"), *arguments, "-o", "json"]) == 0
    executed = next((home / "desk" / "runs").glob("*/*.ipynb"))
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    # Four panels, and unattended also the live view as a picture.
    assert sum("image/png" in o.get("data", {}) for c in cells if c["cell_type"] == "code" for o in c["outputs"]) == {
        "dashboard": 5
    }.get(name, 4)
    capsys.readouterr()


@pytest.mark.slow
def test_nbval_detects_a_wrong_number(tmp_path: Path) -> None:
    """nbval passes for a copy of the project, and fails if one figure is off by one."""
    copy = tmp_path / "copy"
    shutil.copytree(PROJECT / "opslib", copy / "opslib", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("notebooks", "runbooks"):  # The demo's people run a runbook.
        shutil.copytree(PROJECT / folder, copy / folder)
    (copy / "pyproject.toml").write_text("")
    demo.laid_out(tmp_path / "home")
    environment = {**os.environ, "PYTHONPATH": str(copy), "OPS_HOME": str(tmp_path / "home")}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(copy),
        "--nbval",
        "--nbval-current-env",
        "--nbval-cell-timeout=120",
        str(copy / "notebooks" / "dashboard.ipynb"),
    ]
    good = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=copy)
    assert good.returncode == 0, good.stdout[-2000:]
    module = copy / "opslib" / "telemetry" / "pages" / "indicators.py"
    code = module.read_text()
    changed = code.replace("name: history.increase(column, window)\n", "name: history.increase(column, window) + 1\n")
    assert changed != code
    module.write_text(changed)
    assert subprocess.run(command, env=environment, capture_output=True, text=True, cwd=copy).returncode == 1
