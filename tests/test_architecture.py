"""
The house, as a drawing that the imports are held against.

Arrows point down; on one floor only to a room further left. `demo` stands apart: nobody but the door goes there.
"""

import ast
from pathlib import Path

import pytest

HOUSE = """
 6 door      __init__  usage  replies  signing  handling  planning  cli
 5 voice     plots  sights  panels  diagnosis  exposition  ruletest  backtest  rulebook  message  channels  ledger  \
agenda  notify  notifying  chainimport  logimport  drain  intake  fetch  chain_probe  rounds  collect  webserver  \
start_page  server  report  accuracy  depth  alertlog  days  replays  daily  document  publication  parameters  index \
 warm  strictshell  notebookfile  runner  doctor  quality  several  assay  shelf  figures  postmortem  scene  \
spending  review  monthly  quarterly  annual  success  publish  desk  vitals  checkups  checks  workbook  sheet  \
controls  opening  screen  lab  dashboard  case  drafting  verification  retention  zygote  scheduler  backfill
 4 act       evidence  incident  dossier  records  feedback  chronicle  hooks  steps  walk  checklists  practice
 3 meaning   skews  series  tape  limits  wholeness  rules  workspace  notices  hearsay  dispatch  providers  stream  \
verdicts  legs  trades  costs  variance  pnl  indicators  probed  app_state  measures  listing  theory  units  \
conditions  findings  alerts  beginnings  realised  watch  rises  faults  greeks  bands  crosscheck  impact  causes  \
effects  attribution  answers  denials  chain_inquiry  own_inquiry  inquiry
 2 facts     snapshot  page  cells  fills  instruments  columns  broker  executions  plain  book  cell_types  schema  \
sqlite  store  snapshot_store  rescue  refusals  request_checks  record  filings  marks  neighbour  outcome  samples  \
lag  probe  loglines  logs  host  feeds  contracts  nested  tables  chain  pricing
 1 ground    clock  period  settings  crash_log  staff  schedule  temporary  memory
 0 bedrock   errors  text  files  output  ports
"""
PACKAGE = Path(__file__).parent.parent / "opslib"
APART = "demo"
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
LINES_AT_ONE_SITTING = 500


def floors() -> dict[str, tuple[int, int]]:
    """Each room's floor and its place on it, from the left."""
    rows = [line.split() for line in HOUSE.strip().splitlines()]
    return {room: (int(row[0]), place) for row in rows for place, room in enumerate(row[2:])}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module a file imports, and whether it does so at its top."""
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
            names = (
                [f"{node.module}.{a.name}" for a in node.names]
                if node.module in ("opslib", "opslib.demo")
                else [str(node.module)]
            )
            found += [(name, id(node) in top) for name in names]
    return found


ROOMS = sorted(PACKAGE.glob("*.py"))


def test_every_room_is_in_the_drawing() -> None:
    """The drawing shows every module, and no module that is not there."""
    assert {p.stem for p in ROOMS} == set(floors())


@pytest.mark.parametrize("path", ROOMS, ids=lambda p: p.stem)
def test_arrows_point_down(path: Path) -> None:
    """A room imports only from floors below, or from rooms further left on its own."""
    here = floors()[path.stem]
    for name, _ in imports(path):
        if not name.startswith("opslib."):
            continue
        room = name.split(".")[1]
        if room == APART:
            assert path.stem in ("__init__", "cli"), f"{path.stem} goes to the demo, which only the door may"
        elif room in floors():
            there = floors()[room]
            assert there < here if there[0] != here[0] else there[1] < here[1], (
                f"{path.stem} imports {room}, which is not below it"
            )


@pytest.mark.parametrize("path", ROOMS, ids=lambda p: p.stem)
def test_heavy_imports_wait(path: Path) -> None:
    """What costs time to import is imported where it is used, so that the shell answers at once."""
    assert not [name for name, top in imports(path) if top and name.split(".")[0] in HEAVY]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_a_module_says_what_it_knows(path: Path) -> None:
    """Each module opens with what it knows, and is no longer than one sitting."""
    content = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(content))
    assert len(content.splitlines()) <= LINES_AT_ONE_SITTING


def test_the_scripted_day_does_not_know_the_suite() -> None:
    """The demo's script, page and truth import nothing of opslib but each other, so that they can contradict it."""
    for name in ("day", "page", "truth"):
        found = [module for module, _ in imports(PACKAGE / APART / f"{name}.py") if module.startswith("opslib")]
        assert all(module.startswith("opslib.demo") for module in found), found


def test_only_the_clock_asks_for_the_time() -> None:
    """Nothing but `clock` asks what time it is (a deadline's monotonic clock is no time of day)."""
    for path in PACKAGE.rglob("*.py"):
        if path.stem != "clock":
            content = path.read_text(encoding="utf-8")
            assert "datetime.now" not in content and "time.time(" not in content and "utcnow" not in content, path


def test_limits_stand_in_one_file() -> None:
    """No limit of the ladder is repeated in the code: every comparison asks the rule for it."""
    for path in (p for p in PACKAGE.glob("*.py") if p.stem not in ("rules", "plots")):
        compared = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Compare)]
        numbers = {
            c.value for n in compared for c in ast.walk(n) if isinstance(c, ast.Constant) and isinstance(c.value, float)
        }
        assert not numbers & {0.99, 0.98, 0.95, 0.9, 0.75, 0.5, 0.3, 2.0, 0.005, 0.02, 0.05, 0.8}, path
