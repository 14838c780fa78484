"""
The packages, as contracts that the imports are held against, and what holds for every module.

The layers stand in pyproject.toml and are checked by import-linter: a package imports only from those below it.
"""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "opslib"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {
    "scipy",
    "pyvolr",
    "pyarrow",
    "pandas",
    "numpy",
    "matplotlib",
    "papermill",
    "nbformat",
    "nbconvert",
    "nbclient",
    "duckdb",
    "uvicorn",
    "psutil",
    "tqdm",
    "IPython",
    "httpx",
    "websockets",
}
LINES_AT_ONE_SITTING = 1200


def name(path: Path) -> str:
    """A module's path below the package."""
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so at its top."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(n)
        for node in tree.body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for n in ast.walk(node)
    }
    top = {id(n) for n in tree.body}
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((str(node.module), id(node) in top))
    return found


def test_packages_import_only_what_is_below_them() -> None:
    """The contracts of pyproject.toml hold."""
    assert lint_imports(config_filename=str(PROJECT / "pyproject.toml")) == 0


@pytest.mark.parametrize("path", [p for p in MODULES if "simulation" not in p.parts], ids=name)
def test_heavy_imports_wait(path: Path) -> None:
    """What costs time to import is imported where it is used, so that the shell answers at once."""
    assert not [module for module, top in imports(path) if top and module.split(".")[0] in HEAVY]


def test_forms_wait() -> None:
    """Forms are pydantic's, which costs 0.1 s: only forms import it or one another as they are imported."""
    forms = {f"opslib.{name(p)[:-3].replace('/', '.')}" for p in MODULES if p.stem.endswith(("_form", "validation"))}
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {
            f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        found = {n for n in named if n.split(".")[0] == "pydantic" or any(f"{n}.".startswith(f"{f}.") for f in forms)}
        assert path.stem.endswith(("_form", "validation")) or not found, path


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_says_what_it_does(path: Path) -> None:
    """Each module opens with one line that says what it does, and is no longer than one sitting."""
    content = path.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(content))
    assert said and not said.startswith(("This module knows", "Knows "))
    assert len(content.splitlines()) <= LINES_AT_ONE_SITTING


def test_the_scripted_day_does_not_know_the_suite() -> None:
    """
    The demo's script, page and expected figures import nothing of opslib but each other, so that they can contradict
    it.
    """
    for module in ("world/script", "world/page", "demo_day/expected_figures"):
        found = [m for m, _ in imports(PACKAGE / "simulation" / f"{module}.py") if m.startswith("opslib")]
        assert all(m.startswith("opslib.simulation") for m in found), found


def test_only_the_clock_asks_for_the_time() -> None:
    """Nothing but `clock` asks what time it is (a deadline's monotonic clock is no time of day)."""
    for path in MODULES:
        if path.stem != "clock":
            content = path.read_text(encoding="utf-8")
            assert "datetime.now" not in content and "time.time(" not in content and "utcnow" not in content, path


def test_limits_stand_in_one_file() -> None:
    """No limit of the ladder is repeated in the code: every comparison asks the rule for it."""
    for path in (p for p in MODULES if p.stem not in ("rules", "charts") and "simulation" not in p.parts):
        compared = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Compare)]
        numbers = {
            c.value for n in compared for c in ast.walk(n) if isinstance(c, ast.Constant) and isinstance(c.value, float)
        }
        assert not numbers & {0.99, 0.98, 0.95, 0.9, 0.75, 0.5, 0.3, 2.0, 0.005, 0.02, 0.05, 0.8}, path


def test_no_module_imports_itself_through_others() -> None:
    """There is no circle of imports between modules, imports for types included."""
    graph = grimp.build_graph("opslib", exclude_type_checking_imports=False, cache_dir=None)
    TopologicalSorter({m: graph.find_modules_directly_imported_by(m) for m in graph.modules}).prepare()


FACES = [p for p in PACKAGE.rglob("__init__.py") if "lazy.names" in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FACES, ids=name)
def test_a_package_offers_what_it_names(path: Path) -> None:
    """Each name in `__all__` can be imported from its package; another one cannot."""
    package = import_module(".".join(path.relative_to(PROJECT).parent.parts))
    assert package.__all__ and all(getattr(package, each) is not None for each in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing_of_the_kind'"):
        _ = package.nothing_of_the_kind


def test_to_import_a_package_imports_none_of_its_modules() -> None:
    """A face costs nothing: what it offers is imported when it is used."""
    packages = [".".join(p.relative_to(PROJECT).parent.parts) for p in FACES]
    lines = f"import sys, opslib; before = set(sys.modules); import {', '.join(packages)}\n"
    lines += "print(*sorted(m for m in set(sys.modules) - before if m.startswith('opslib')))"
    ran = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, cwd=PROJECT)
    above = {part for package in packages for part in (package, package.rpartition(".")[0])}
    assert set(ran.stdout.split()) <= above | {"opslib.foundation", "opslib.foundation.lazy"}  # By which it is so.
