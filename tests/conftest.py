"""Provide what tests share: a home, two databases, and the recorded day if it is available."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from nbval.plugin import IPyNbCell

from tests.support.system import RECORDED, REQUIRE_ALL, absent

# Notebooks run in kernels, which read the home from the environment; so it is set before the collection of tests.
_HOME = tempfile.mkdtemp(prefix="ops-test-")
os.environ["OPS_HOME"] = _HOME
for _name in [n for n in os.environ if n.startswith("OPS_") and n not in ("OPS_HOME", "OPS_TEST_REQUIRE")]:
    del os.environ[_name]

# Tests start many processes. Without cached bytecode each of them compiles 180 modules, which takes 0.25 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell starts a background job with SIGINT ignored, and its children inherit that; tests interrupt processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# The demo's days, set up once (see `demos`): every worker inherits the folder of the process that started it.
_OWN = "TEST_DEMO" not in os.environ
if _OWN:
    os.environ["TEST_DEMO"] = tempfile.mkdtemp(prefix="ops-demo-")


class _DemoForNotebooks:
    """
    Give the notebooks the demo's day that all tests share: to create one takes as long as ten notebooks.

    It is a plugin because the hooks of this file are not called for tests outside its folder.
    """

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Copy it before the first cell of a notebook."""
        if isinstance(item, IPyNbCell) and not (Path(_HOME) / "demo").exists():
            from tests.support import demo  # Not before the environment is as tests want it.

            demo.laid_out(Path(_HOME))


def pytest_configure(config: pytest.Config) -> None:
    """Leave slow tests out of a full run, unless OPS_TEST_REQUIRE=all is set or a file or a marker is named."""
    config.pluginmanager.register(_DemoForNotebooks())
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.markexpr
    # Workers inherit the decision; they get every path by name.
    os.environ.setdefault("TEST_SLOW", "no" if everything and not REQUIRE_ALL else "yes")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one worker more than cores, since many tests wait for a server, a kernel or a browser."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Mark tests by what they need, deselect the slow ones, and begin with their files.

    A file that takes minutes and begins last would leave the other workers idle.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "postgres_server" in fixtures or "[postgresql" in item.nodeid or "-postgresql" in item.nodeid:
            item.add_marker("postgres")
        if isinstance(item, IPyNbCell):
            item.add_marker("kernel")
    slow = [item for item in items if item.get_closest_marker("slow")]
    if os.environ["TEST_SLOW"] == "no":
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
    first = {item.path for item in slow}
    items.sort(key=lambda item: item.path not in first)


def pytest_sessionfinish() -> None:
    """Remove the temporary folders."""
    shutil.rmtree(_HOME, ignore_errors=True)
    if _OWN:
        shutil.rmtree(os.environ["TEST_DEMO"], ignore_errors=True)


@pytest.fixture(autouse=True)
def logged() -> None:
    """Show log messages on stderr, as every command does."""
    from opslib.foundation import logs  # Imported after the environment is set.

    logs.to_stderr("ops")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty home directory."""
    monkeypatch.setenv("OPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Return the folder of the recorded day; it is beside the project, not in it."""
    if not RECORDED.is_dir():
        pytest.skip("the recorded day is not beside the project")
    return RECORDED


def _postgres_binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Start a PostgreSQL server for this session, on a socket in its own folder; yield its URL."""
    pytest.importorskip("psycopg")
    initdb, server = _postgres_binary("initdb"), _postgres_binary("postgres")
    if not initdb or not server:
        absent("PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix="ops-pg-"))
    as_user: dict[str, str] = {}
    if os.geteuid() == 0:
        folder.chmod(0o755)
        shutil.chown(folder, "postgres")
        as_user = {"user": "postgres"}
    subprocess.run(
        [str(initdb), "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C"],
        check=True,
        capture_output=True,
        cwd=folder,
        **as_user,
    )
    running = subprocess.Popen(
        [
            str(server),
            "-D",
            str(folder / "data"),
            "-k",
            str(folder),
            "-c",
            "listen_addresses=",
            "-c",
            "max_connections=60",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        **as_user,
    )
    try:
        import psycopg

        for _attempt in range(200):
            try:
                psycopg.connect(host=str(folder), user="postgres", dbname="postgres").close()
                break
            except psycopg.OperationalError:
                if running.poll() is not None:
                    pytest.fail("PostgreSQL did not start")
                import time

                time.sleep(0.05)  # There is no event for its start.
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        running.send_signal(signal.SIGQUIT)  # Stops at once; its data is discarded.
        running.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """Return the URL of an empty PostgreSQL database."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres_server.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database, for each database system in turn."""
    return (
        f"sqlite:///{tmp_path / 'store.sqlite'}"
        if request.param == "sqlite"
        else str(request.getfixturevalue("postgres_url"))
    )
