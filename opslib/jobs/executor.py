"""
Execute a notebook strictly, and record that it ran.

papermill executes; whether the run succeeded is decided here, outside the notebook: papermill's own marks call cells
that never ran "completed" when the kernel died. A run is in the ledger before it begins. It is *ok* only if every code
cell ran, in order, without an error, in a kernel that lived; what cannot be told is *unknown*, never ok.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.foundation import clock, formatting, logs
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import AlreadyMade, NotebookFailed, StoreError, UsageError
from opslib.foundation.storage import atomic_files
from opslib.foundation.storage.database import Database
from opslib.jobs import html_export, index_page, ledger, parameters
from opslib.jobs.ledger import JobKey
from opslib.jobs.notebook_file import load, without_slow_import, written
from opslib.jobs.record import RunRecord
from opslib.jobs.strict_shell import STRICT_SHELL
from opslib.telemetry.probes.log_lines import ANSI

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from opslib.jobs.kernels import KernelPool
from typing import TYPE_CHECKING

TIMEOUT_S = 900.0
START_TIMEOUT_S = 60
# A busy machine's kernel sometimes dies before it answers; starting again is safe, a cell again is not.
KERNEL_STARTS = 2
SKIPPED = "skip-execution"  # nbclient's tag for a cell that its author leaves out.
RUNBOOK = "runbook"  # What a runbook's notebook says of itself in its metadata, under ``opslib``.
LONGEST_SOCKET_FOLDER = 90  # A Unix socket's path may have 107 bytes.


class Stopped(KeyboardInterrupt):
    """The runner was asked to stop; raised out of whatever it was doing."""


def notebook(name: str) -> Path:
    """
    The path of one of the suite's own notebooks.

    Raises:
        NotebookFailed: The package was installed without its notebooks.
    """
    folder = settings_module.project()
    if folder is None:
        raise NotebookFailed(
            "the suite's notebooks stand in its project folder, which is not here. Install it with pip "
            "install -e . from a clone."
        )
    return folder / "notebooks" / f"{name}.ipynb"


@dataclass(frozen=True)
class Outcome:
    """
    How a run ended.

    Attributes:
        state: ok, incomplete or failed.
        reason: Why it is not ok.
        notebook: As far as it was executed; None where it never began.
        record: The numbers it handed over, if any.
        run_id: Its row in the ledger.
        due: What it was due as, if anything.
        kernel: How its kernel was begun: plain or warm; None where none was.
    """

    state: str
    reason: str | None
    notebook: "NotebookNode | None"
    record: dict[str, Any] | None
    run_id: str
    due: JobKey | None = None
    kernel: str | None = None


def _engine(
    deadline: float,
    folder: Path,
    environment: Mapping[str, str],
    sockets: str,
    executed: dict[str, Any],
    kernels: "KernelPool | None",
) -> Any:
    """A papermill engine that keeps to a deadline for the whole notebook, and whose shell commands can fail."""
    from jupyter_core.utils import run_sync
    from nbclient.exceptions import CellExecutionError
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine

    def left(_cell: Any = None) -> int:
        rest = deadline - time.monotonic()
        if rest <= 0:
            raise TimeoutError("the notebook's time ran out between two cells")
        return max(1, round(rest))

    class Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no types.
        async def async_start_new_kernel(self, **kwargs: Any) -> None:
            if kernels is not None:
                from opslib.jobs.kernels import NAME

                self.km.ops_kernels = kernels
                self.km.kernel_spec.metadata["kernel_provisioner"] = {"provisioner_name": NAME}
            if sockets:  # Over TCP anybody on this machine could listen, as ipykernel says at each start.
                self.km.transport, self.km.ip = "ipc", f"{sockets}/k"
            await super().async_start_new_kernel(env=dict(environment), **kwargs)

        async def async_start_new_kernel_client(self) -> Any:
            for more in reversed(range(KERNEL_STARTS)):
                try:
                    client = await super().async_start_new_kernel_client()
                    break
                except RuntimeError:
                    if not more or deadline <= time.monotonic():
                        raise
                    self.km = self.create_kernel_manager()  # nbclient has cleaned the first one away.
                    await self.async_start_new_kernel()
            executed["kernel"] = self.km
            if (self.km.kernel_spec.language or "").lower() == "python":
                reply = client.execute(STRICT_SHELL, silent=True, store_history=False)
                await self._wait_for(client, reply)
            return client

        # nbclient's plain methods are bound to its own coroutines, not to those above.
        start_new_kernel = run_sync(async_start_new_kernel)
        start_new_kernel_client = run_sync(async_start_new_kernel_client)

        def execute_cell(self, cell: Any, cell_index: int, **kwargs: Any) -> Any:
            try:
                return super().execute_cell(cell, cell_index, **kwargs)
            except CellExecutionError as problem:  # A usage error of IPython is only printed, so it is in no output.
                executed["error"] = cell_index, f"{problem.ename}: {problem.evalue}"
                raise

        async def _wait_for(self, client: Any, message_id: str) -> None:
            while True:
                reply = await client.get_shell_msg(timeout=START_TIMEOUT_S)
                if reply["parent_header"].get("msg_id") == message_id:
                    if reply["content"]["status"] != "ok":
                        raise RuntimeError(f"the kernel refused its settings: {reply['content'].get('evalue')}")
                    return

    class Engine(NBClientEngine):  # type: ignore[misc]  # papermill has no types.
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **_: Any) -> Any:
            executed["notebook"] = nb_man.nb
            return Client(
                nb_man,
                kernel_name=kernel_name,
                startup_timeout=min(START_TIMEOUT_S, left()),
                timeout_func=left,
                shutdown_kernel="immediate",
                resources={"metadata": {"path": str(folder)}},
            ).execute()

    return Engine


def _fault(notebook: "NotebookNode", error: tuple[int, str] | None = None) -> str | None:
    """
    What in an executed notebook shows that it did not run to its end; None where it did. Its own status marks are not
    asked.

    Args:
        error: The place of a cell among all, and the error with which the kernel answered it.
    """
    expected = 1
    for n, (place, cell) in enumerate(((i, c) for i, c in enumerate(notebook.cells) if c.cell_type == "code"), 1):
        tags = cell.metadata.get("tags", [])
        if SKIPPED in tags:
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                allowed = (
                    "; the tag raises-exception lets the notebook go on, but a strict run accepts no error"
                    if "raises-exception" in tags
                    else ""
                )
                return f"code cell {n} raised {_plain(f'{output.ename}: {output.evalue}')}{allowed}"
        if error and error[0] == place:
            return f"code cell {n} raised {_plain(error[1])}"
        if not cell.source.strip():
            continue
        if cell.execution_count is None:
            return f"code cell {n} never ran"
        if cell.execution_count < expected:
            return f"code cell {n} ran out of order"
        expected = cell.execution_count + 1
        if cell.metadata.get("papermill", {}).get("exception"):
            return f"code cell {n} ended with an error that it does not show"
    return None


def _plain(outside: str) -> str:
    """An error of a notebook as one short line without colours."""
    return formatting.single_line(" ".join(ANSI.sub("", outside).split()), 200).rstrip(":.")


def _record(notebook: "NotebookNode") -> dict[str, Any] | None:
    """The numbers that the last record shown in a notebook holds."""
    found = [
        o.data[RunRecord.MIME]
        for c in notebook.cells
        if c.cell_type == "code"
        for o in c.outputs
        if RunRecord.MIME in o.get("data", {})
    ]
    fitting = [
        f
        for f in found
        if isinstance(f, dict)
        and isinstance(f.get("values"), dict)
        and "verdict" in f["values"]
        and isinstance(f.get("markdown"), str)
    ]
    return fitting[-1] if fitting else None


def tidied(notebook: "NotebookNode") -> "NotebookNode":
    """
    The notebook without what differs between two equal runs: times, paths, random ids.

    The ledger holds the times.
    """
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"
    return notebook


@contextmanager
def _stoppable() -> Iterator[None]:
    """While inside, SIGTERM raises `Stopped`; only the main thread can be asked so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Stopped(f"stopped by {signal.Signals(number).name}")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def execute(
    path: Path,
    given: Mapping[str, Any],
    *,
    settings: Settings,
    store: Database,
    timeout_s: float = TIMEOUT_S,
    due: JobKey | None = None,
    kernels: "KernelPool | None" = None,
) -> Outcome:
    """
    Execute a notebook strictly, with the ledger written before and after.

    Args:
        path: Any notebook; it is never changed.
        given: Parameters, as a shell's text or as Python values.
        timeout_s: For the whole notebook, seconds.
        due: What it is due as.
        kernels: Where kernels are had that need not import anything first; None begins one in the plain way.

    Returns:
        How it ended; a run that failed is an outcome, not an exception.

    Raises:
        AlreadyMade: What is due is made, or being made, by somebody else; nothing ran.
        UsageError: No notebook there, or a parameter it does not have; nothing ran, and the ledger says so.
        StoreError: The ledger cannot be written, so nothing is run.
    """
    started = clock.now()
    run_id = f"{started:%Y%m%dT%H%M%SZ}-{path.stem[:40]}-{uuid.uuid4().hex[:8]}"
    row = {
        "id": run_id,
        "app": settings.app,
        "notebook": str(path),
        "started_at_us": clock.micros(started),
        "state": "running",
    }
    shown = {k: v if isinstance(v, (str, int, float, bool, type(None))) else repr(v) for k, v in given.items()}
    try:
        notebook = load(path)
        fitting = parameters.checked(notebook, path.stem, given, settings.secrets)
    except UsageError as problem:
        hidden = {settings.redact(k): settings.redact(v) if isinstance(v, str) else v for k, v in shown.items()}
        if not ledger.begins(store, due, **row, parameters=json.dumps(hidden)):
            raise AlreadyMade(f"{due.name if due else path} is made by somebody else.") from None
        ledger.ends(
            store,
            run_id,
            state="failed",
            reason=settings.redact(str(problem)),
            ended_at_us=clock.micros(clock.now()),
            outputs=[],
        )
        raise
    if not ledger.begins(store, due, **row, parameters=json.dumps(shown)):
        raise AlreadyMade(f"{due.name if due else path} is made by somebody else.")
    executed: dict[str, Any] = {}
    with _stoppable():
        try:
            _papermill(notebook, fitting, path, settings, timeout_s, executed, kernels)
            reason = None
        except Stopped as stopped:
            reason = str(stopped)
        except KeyboardInterrupt:
            reason = "stopped from the keyboard"
        # Whatever stopped it, the ledger must say that it failed; nothing is swallowed: the reason tells.
        except Exception as problem:
            reason = f"{problem.__class__.__name__}: {_first_line(problem)}"
        finally:
            _end_kernel(executed.get("kernel"))
    seen, kernel = executed.get("notebook"), executed.get("kernel")
    fault = reason or (_fault(seen, executed.get("error")) if seen is not None else None)
    record = _record(seen) if seen is not None else None
    incomplete = record["values"].get("incomplete") if record and not fault else None
    if fault or seen is None:
        state = "failed"
    elif incomplete:
        state = "incomplete"
    else:
        state = "ok"
    return Outcome(
        state,
        settings.redact(fault or incomplete or "") or None,
        seen,
        record,
        run_id,
        due,
        getattr(kernel.provisioner, "way", "plain") if kernel is not None else None,
    )


def _first_line(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip(" -")]
    return formatting.single_line(lines[0] if lines else "no message", 200)


def _papermill(
    notebook: "NotebookNode",
    given: dict[str, Any],
    path: Path,
    settings: Settings,
    timeout_s: float,
    executed: dict[str, Any],
    kernels: "KernelPool | None",
) -> None:
    without_slow_import()
    from papermill import execute as papermill_execute
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = load_notebook_node(notebook)
    kernel = notebook.metadata.get("kernelspec", {}).get("name", "python3")
    # The notebook may print nothing secret, and has no use for the key to the receiver; it reads the store, not the
    # network. A runbook looks at the world for itself.
    hidden = settings_module.RECEIVER_KEYS if notebook.metadata.get("opslib") == RUNBOOK else ()
    environment = settings_module.without_secrets(os.environ, *hidden) | {
        "OPS_HOME": str(settings.base),
        "OPS_APP": settings.app,
        "OPS_UNATTENDED": "1",
    }
    if given:
        language = notebook.metadata.get("kernelspec", {}).get("language", "python")
        notebook = parameterize_notebook(notebook, given, kernel_name=kernel, language=language)
    notebook = papermill_execute.prepare_notebook_metadata(notebook, None, None)
    executed["notebook"] = notebook
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with tempfile.TemporaryDirectory(prefix="ops") as folder:
        sockets = folder if hasattr(socket, "AF_UNIX") and len(folder) < LONGEST_SOCKET_FOLDER else ""
        # Not by a name in papermill's registry: that is one for all threads, and another run would take this one's
        # sockets.
        engine = _engine(time.monotonic() + timeout_s, path.resolve().parent, environment, sockets, executed, kernels)
        with _loop_of_its_own():
            engine.execute_notebook(
                notebook, kernel, progress_bar=sys.stderr.isatty(), input_path=None, output_path=None
            )


@contextmanager
def _loop_of_its_own() -> Iterator[None]:
    """
    Each thread gets an event loop from jupyter_core, which nobody closes; a thread that ends would leave its files
    open.
    """
    try:
        yield
    finally:
        if threading.current_thread() is not threading.main_thread():
            from jupyter_core.utils import ensure_event_loop

            ensure_event_loop().close()


def _end_kernel(manager: Any) -> None:
    """No kernel outlives its run."""
    process = getattr(getattr(manager, "provisioner", None), "process", None)
    if process is not None and process.poll() is None:
        process.kill()


def publish_run(
    outcome: Outcome,
    place: Path,
    more: Mapping[str, bytes] | None = None,
    keep_as: str | None = None,
    *,
    settings: Settings,
    store: Database,
) -> tuple[Outcome, Path]:
    """
    Publish what a run made and end its row in the ledger; what could not be published has failed.

    Args:
        place: Where to, and under which name, without ending.
        more: Further files by ending, beside the notebook and its page; a page among them takes the place of that.
        keep_as: Under which name the files that stand there are kept; None replaces them.

    Returns:
        How it ended in the end, and the place.

    Raises:
        NotebookFailed: The ledger could not be told.
    """
    state, reason, outputs = outcome.state, outcome.reason, []
    try:
        files = dict(more or {})
        if outcome.notebook is not None:
            notebook = tidied(outcome.notebook)
            files = (
                {".ipynb": written(notebook)}
                | ({} if ".html" in files else {".html": html_export.page(notebook, place.name).encode()})
                | files
            )
        outputs = atomic_files.publish(place, files, keep_as) if files else []
    except (OSError, UnicodeError) as problem:
        state, reason = (
            "failed",
            f"its files could not be written to {place.parent}: {getattr(problem, 'strerror', None) or problem}",
        )
    ended = clock.now()
    if state == "ok" and outcome.due and outcome.due.late_us is not None and clock.micros(ended) > outcome.due.late_us:
        state, reason = (
            "late",
            f"made {formatting.duration((clock.micros(ended) - (outcome.due.at_us or 0)) / 1e6)} after it was due",
        )
    try:
        ledger.ends(
            store,
            outcome.run_id,
            state=state,
            reason=reason,
            ended_at_us=clock.micros(ended),
            outputs=[str(p) for p in outputs],
            kernel=outcome.kernel,
        )
    except StoreError as problem:
        raise NotebookFailed(f"{reason or outcome.state}; and the ledger could not be told: {problem}") from None
    try:
        index_page.write(settings, store)
    except OSError as problem:  # The run is what it is; the next one makes the page anew.
        logs.of(settings.redact).warning(
            f"{settings.home / index_page.NAME} could not be written ({problem.strerror}); ops runs has every run."
        )
    return replace(outcome, state=state, reason=reason), place


def run(
    path: Path,
    given: Mapping[str, Any],
    *,
    settings: Settings,
    store: Database,
    timeout_s: float = TIMEOUT_S,
    due: JobKey | None = None,
    kernels: "KernelPool | None" = None,
) -> tuple[Outcome, Path]:
    """Execute any notebook and keep what came of it under ``APP/runs/ID/``, whether it succeeded or not."""
    outcome = execute(path, given, settings=settings, store=store, timeout_s=timeout_s, due=due, kernels=kernels)
    return publish_run(outcome, settings.outputs / "runs" / outcome.run_id / path.stem, settings=settings, store=store)


UNATTENDED = "OPS_UNATTENDED"  # Set by whoever executes notebooks while nobody looks.
_MET: set[int] = set()  # The kernel of this process, once somebody was there.


def attended() -> bool:
    """
    Is this a kernel of somebody who can be asked, and not of a scheduler?

    A front end says with each cell whether it answers questions (Jupyter's ``allow_stdin``): JupyterLab, Notebook and
    VS Code do; papermill, nbconvert and nbval do not. Who did so once is there until the kernel ends.
    """
    if os.environ.get(UNATTENDED):
        return False
    import sys

    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    kernel = getattr(shell, "kernel", None)
    if getattr(kernel, "_allow_stdin", False):
        _MET.add(id(kernel))
    return id(kernel) in _MET
