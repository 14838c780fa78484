"""
Test the import contracts of the packages and the rules for every module.

The layers are defined in pyproject.toml and checked by import-linter: a package imports only from those below it.
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
LONGEST_MODULE_LINES = 1200


def name(path: Path) -> str:
    """Return a module's path below the package."""
    return str(path.relative_to(PACKAGE))


def imports(path: Path) -> list[tuple[str, bool]]:
    """Yield every module that a file imports, and whether the import is at module level."""
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
    """The import contracts of pyproject.toml hold."""
    assert lint_imports(config_filename=str(PROJECT / "pyproject.toml")) == 0


@pytest.mark.parametrize("path", [p for p in MODULES if "simulation" not in p.parts], ids=name)
def test_slow_imports_are_deferred(path: Path) -> None:
    """Modules that are slow to import are imported where they are used, so that commands start quickly."""
    assert not [module for module, top in imports(path) if top and module.split(".")[0] in HEAVY]


def test_pydantic_is_imported_only_by_forms() -> None:
    """Only forms import pydantic, which takes 0.1 s, or one another at module level."""
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
def test_a_module_has_a_docstring(path: Path) -> None:
    """Each module begins with a docstring whose first line is a sentence, and is not longer than the limit."""
    content = path.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(content))
    assert docstring and docstring.splitlines()[0].endswith(".")
    assert len(content.splitlines()) <= LONGEST_MODULE_LINES


def test_the_scripted_day_is_independent_of_opslib() -> None:
    """
    The demo's script, page and expected figures import nothing of opslib but each other.

    Otherwise they could not show an error in it.
    """
    for module in ("world/script", "world/page", "demo_day/expected_figures"):
        found = [m for m, _ in imports(PACKAGE / "simulation" / f"{module}.py") if m.startswith("opslib")]
        assert all(m.startswith("opslib.simulation") for m in found), found


def test_only_the_clock_reads_the_time() -> None:
    """Only `clock` reads the time of day; a monotonic clock for a deadline is allowed."""
    for path in MODULES:
        if path.stem != "clock":
            content = path.read_text(encoding="utf-8")
            assert "datetime.now" not in content and "time.time(" not in content and "utcnow" not in content, path


def test_thresholds_are_in_one_file() -> None:
    """No threshold of a rule is repeated in the code: every comparison reads it from the rule."""
    for path in (p for p in MODULES if p.stem not in ("rules", "charts") and "simulation" not in p.parts):
        compared = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Compare)]
        numbers = {
            c.value for n in compared for c in ast.walk(n) if isinstance(c, ast.Constant) and isinstance(c.value, float)
        }
        assert not numbers & {0.99, 0.98, 0.95, 0.9, 0.75, 0.5, 0.3, 2.0, 0.005, 0.02, 0.05, 0.8}, path


def test_no_module_imports_itself_through_others() -> None:
    """There is no import cycle between modules, type-checking imports included."""
    graph = grimp.build_graph("opslib", exclude_type_checking_imports=False, cache_dir=None)
    TopologicalSorter({m: graph.find_modules_directly_imported_by(m) for m in graph.modules}).prepare()


FACES = [p for p in PACKAGE.rglob("__init__.py") if "lazy.names" in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FACES, ids=name)
def test_a_package_offers_what_it_names(path: Path) -> None:
    """Each name in `__all__` can be imported from its package; any other cannot."""
    package = import_module(".".join(path.relative_to(PROJECT).parent.parts))
    assert package.__all__ and all(getattr(package, each) is not None for each in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing_of_the_kind'"):
        _ = package.nothing_of_the_kind


def test_to_import_a_package_imports_none_of_its_modules() -> None:
    """Importing a package imports none of the names that it offers; they are imported on use."""
    packages = [".".join(p.relative_to(PROJECT).parent.parts) for p in FACES]
    lines = f"import sys, opslib; before = set(sys.modules); import {', '.join(packages)}\n"
    lines += "print(*sorted(m for m in set(sys.modules) - before if m.startswith('opslib')))"
    ran = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True, cwd=PROJECT)
    above = {part for package in packages for part in (package, package.rpartition(".")[0])}
    assert set(ran.stdout.split()) <= above | {"opslib.foundation", "opslib.foundation.lazy"}  # These two implement it.
