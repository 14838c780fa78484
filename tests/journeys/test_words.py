"""Test the words of the product: no text that a user sees has a word that only its authors understand."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from opslib.cli import main, parser
from tests.support import demo as demos

PROJECT = Path(__file__).parents[2]
PRIVATE = re.compile(
    r"""\b(?:
        told | tells? | telling | untold | anew | aloud | unheard | hearsay | neighbours? | chronicle | dossier | zygote
        | tapes? | rungs? | ladders? | judged? | judges | judging | rehearsed? | walk(?:s|ed|ing)? | mutants?
        | troubles? | sights? | beats? | lapses? | scenes? | shelf | assay | witness
        | (?:our|own|last|first|next|each|every|no|deeper|these|of|a)[ ]looks? | looked[ ]at
        | looks?[ ](?:received|came|comes?|of|every|for[ ]ourselves) | (?:nobody|somebody|who(?:ever)?)[ ]looks
        | taken[ ]by | explained[ ]by | held[ ]by | kept[ ]quiet | guide[ ]reads | in[ ]force
        | past[ ](?:a|its|the)[ ]limits?
        | the[ ]matter | our[ ]own[ ](?:looks?|eyes|chains?|reading) | stands?[ ]by | who[ ](?:holds|says[ ]so|looks)
        | suites? | nobody[ ]was[ ]asked | comes?[ ]and[ ]goes? | cannot[ ]be[ ]told
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
# Ordinary words with the same letters, and names that CONTRACT.md or files on disk fix.
ORDINARY = re.compile(
    r"look-alikes?|look-ups?|looks? (?:up|at once)|--mutants|--troubles|tell\\?_channel\w*|check = \"beats\"|"
    r"market_stress|troubleshoot\w*|"
    r"[\w./-]*_(?:look|told|walk|trouble)s?\b|cleartext",
    re.IGNORECASE,
)


def private(text: str) -> list[str]:
    """Return the private words of a text, each with its context."""
    plain = ORDINARY.sub("", text)
    return [plain[max(0, m.start() - 40) : m.end() + 40].replace("\n", " ") for m in PRIVATE.finditer(plain)]


def sentences(module: Path) -> Iterator[tuple[int, str]]:
    """
    Yield every text of a module that has several words, with its line.

    Docstrings are left out, because they are for developers.
    """
    tree = ast.parse(module.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
            continue
        if " " in node.value.strip():
            yield node.lineno, node.value


@pytest.mark.parametrize(
    "package", sorted(p.name for p in (PROJECT / "opslib").iterdir() if (p / "__init__.py").exists())
)
def test_messages(package: str) -> None:
    """No message in the code has a private word: errors, sentences of rules and checks, labels, notifications."""
    found = [
        f"{module.relative_to(PROJECT)}:{line}: {words}"
        for module in sorted((PROJECT / "opslib" / package).rglob("*.py"))
        for line, text in sentences(module)
        for words in private(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("command", [None, *main.COMMANDS])
def test_help(command: str | None) -> None:
    """The help of no command has a private word."""
    assert not private(parser.help_text(main.COMMANDS, command))


DATA = ["*.toml", "*.html", "*.js", "docs/*.md", "templates/*.html"]


@pytest.mark.parametrize("pattern", DATA)
def test_data_files(pattern: str) -> None:
    """Steps, checklists, rules, templates, reference pages and README have no private word."""
    files = [*sorted((PROJECT / "opslib").rglob(pattern)), PROJECT / "README.md"]
    found = [
        f"{path.relative_to(PROJECT)}: {words}"
        for path in files
        if "expected_runs" not in path.name
        for words in private(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "path",
    sorted([*(PROJECT / "notebooks").glob("*.ipynb"), *(PROJECT / "runbooks").glob("*.ipynb")]),
    ids=lambda p: p.stem,
)
def test_notebooks(path: Path) -> None:
    """Neither the prose nor the outputs of a notebook have a private word."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        texts = [cell.source] if cell.cell_type == "markdown" else []
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            texts += [output.get("text", ""), shown.get("text/plain", ""), shown.get("text/markdown", "")]
        found += [words for text in texts for words in private("".join(text))]
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home directory with the demo's data."""
    home = tmp_path_factory.mktemp("words")
    demos.laid_out(home)
    return home


@pytest.mark.parametrize(
    "typed",
    [
        "status --as-of 2026-03-10T11:27",
        "alerts",
        "incident show 2026-03-10-2",
        "diagnose --as-of 2026-03-10T11:27",
        "notify",
        "runbook show massive_down",
        "schedule list",
        "checklist",
        "postmortem 2026-03-10-2 --check",
        "rules",
    ],
)
def test_command_output(typed: str, demo_home: Path) -> None:
    """The output of commands for the demo's day has no private word."""
    ended = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "--home", str(demo_home), "--app", "demo", *typed.split()],
        capture_output=True,
        text=True,
    )
    assert ended.returncode in (0, 1, 2, 3, 70) and ended.stdout
    found = private(ended.stdout + ended.stderr)
    assert not found, "\n".join(found)
