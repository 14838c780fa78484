"""
Execute a notebook strictly, and record the run in the ledger.

papermill executes the cells; this module decides whether the run succeeded, because papermill marks cells that never
ran as completed when the kernel dies. A run is recorded before it begins. It is *ok* only if every code cell ran in
order without an error in a running kernel; if that cannot be determined it is *unknown*.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.foundation import clock, formatting
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import AlreadyMade, NotebookFailed, StoreError, UsageError
from opslib.foundation.storage import atomic_files
from opslib.foundation.storage.database import Database
from opslib.jobs import html_export, ledger, parameters
from opslib.jobs.ledger import JobKey
from opslib.jobs.notebook_file import is_runbook, load, without_slow_import, written
from opslib.jobs.record import RunRecord
from opslib.jobs.strict_shell import STRICT_SHELL
from opslib.telemetry.probes.log_lines import ANSI

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from opslib.jobs.kernels import KernelPool
from typing import TYPE_CHECKING

TIMEOUT_S = 900.0
START_TIMEOUT_S = 60
# On a busy machine a kernel may die before it responds. Restarting it is safe; running a cell twice is not.
KERNEL_STARTS = 2
SKIPPED = "skip-execution"  # nbclient's tag for a cell that is not executed.
LONGEST_SOCKET_FOLDER = 90  # The path of a Unix socket is limited to 107 bytes.


class Stopped(KeyboardInterrupt):
    """The process received SIGTERM; raised from the code that was running."""


def notebook(name: str) -> Path:
    """
    Return the path of one of the notebooks of ops.

    Raises:
        NotebookFailed: The package was installed without its notebooks.
    """
    folder = settings_module.project()
    if folder is None:
        raise NotebookFailed(
            "the notebooks are in the project folder, which was not found. Install opslib from a clone with pip "
            "install -e ."
        )
    return folder / "notebooks" / f"{name}.ipynb"


@dataclass(frozen=True)
class Outcome:
    """
    The result of a run.

    Attributes:
        state: ok, incomplete or failed.
        reason: Why it is not ok.
        notebook: The notebook as far as it was executed; None if the execution never began.
        record: The numbers that it returned, if any.
        run_id: The id of its row in the ledger.
        due: Its job key, if any.
        kernel: The kind of its kernel, plain or warm (preloaded); None without a kernel.
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
    """Return a papermill engine with a deadline for the whole notebook, in which failed shell commands fail cells."""
    from jupyter_core.utils import run_sync
    from nbclient.exceptions import CellExecutionError
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine

    def left(_cell: Any = None) -> int:
        rest = deadline - time.monotonic()
        if rest <= 0:
            raise TimeoutError("the timeout of the notebook expired between two cells")
        return max(1, round(rest))

    class Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no types.
        async def async_start_new_kernel(self, **kwargs: Any) -> None:
            if kernels is not None:
                from opslib.jobs.kernels import NAME

                self.km.ops_kernels = kernels
                self.km.kernel_spec.metadata["kernel_provisioner"] = {"provisioner_name": NAME}
            if sockets:  # With TCP, every user of this machine could connect, as ipykernel warns at each start.
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
                    self.km = self.create_kernel_manager()  # nbclient has removed the first one.
                    await self.async_start_new_kernel()
            executed["kernel"] = self.km
            if (self.km.kernel_spec.language or "").lower() == "python":
                reply = client.execute(STRICT_SHELL, silent=True, store_history=False)
                await self._wait_for(client, reply)
            return client

        # The synchronous methods of nbclient call its own coroutines, not those above.
        start_new_kernel = run_sync(async_start_new_kernel)
        start_new_kernel_client = run_sync(async_start_new_kernel_client)

        def execute_cell(self, cell: Any, cell_index: int, **kwargs: Any) -> Any:
            try:
                return super().execute_cell(cell, cell_index, **kwargs)
            except CellExecutionError as problem:  # IPython prints usage errors, so they are in no output.
                executed["error"] = cell_index, f"{problem.ename}: {problem.evalue}"
                raise

        async def _wait_for(self, client: Any, message_id: str) -> None:
            while True:
                reply = await client.get_shell_msg(timeout=START_TIMEOUT_S)
                if reply["parent_header"].get("msg_id") == message_id:
                    if reply["content"]["status"] != "ok":
                        raise RuntimeError(f"the kernel rejected its settings: {reply['content'].get('evalue')}")
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
    Return why an executed notebook counts as failed; None if every cell ran.

    The status in the notebook's metadata is not used.

    Args:
        error: The index of a cell, and the error that the kernel returned for it.
    """
    expected = 1
    for n, (place, cell) in enumerate(((i, c) for i, c in enumerate(notebook.cells) if c.cell_type == "code"), 1):
        tags = cell.metadata.get("tags", [])
        if SKIPPED in tags:
            continue
        for output in cell.outputs:
            if output.output_type == "error":
                allowed = (
                    "; the tag raises-exception has no effect in a strict run" if "raises-exception" in tags else ""
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
            return f"code cell {n} failed with an error that is not in its output"
    return None


def _plain(text: str) -> str:
    """Return an error of a notebook as one short line without colours."""
    return formatting.single_line(" ".join(ANSI.sub("", text).split()), 200).rstrip(":.")


def _record(notebook: "NotebookNode") -> dict[str, Any] | None:
    """Return the numbers of the last record that a notebook displays; None without one."""
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
    Remove what differs between two equal runs from a notebook: times, paths, random ids.

    The times are in the ledger.
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
    """Raise `Stopped` on SIGTERM inside this context; only the main thread can receive signals."""
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
    made_meanwhile: Sequence[Path] = (),
) -> Outcome:
    """
    Execute a notebook strictly, with the ledger written before and after.

    Args:
        path: The notebook; it is not changed.
        given: Parameters, as text from the command line or as Python values.
        settings: The settings of the app.
        store: The database with the ledger.
        timeout_s: The timeout for the whole notebook in seconds.
        due: The job key, if the run is a due job.
        kernels: The pool of preloaded kernels; None starts a plain kernel.
        made_meanwhile: Files that are made at the same time, to which the notebook may already link.

    Returns:
        The result; a failed run is a result, not an exception.

    Raises:
        AlreadyMade: Another process runs the job, or has completed it; nothing was executed.
        UsageError: There is no such notebook or parameter; nothing was executed, and the ledger records the failure.
        StoreError: The ledger cannot be written; nothing was executed.
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
            raise AlreadyMade(f"{due.name if due else path} is run by another process.") from None
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
        raise AlreadyMade(f"{due.name if due else path} is run by another process.")
    executed: dict[str, Any] = {}
    with _stoppable():
        try:
            _papermill(notebook, fitting, path, settings, timeout_s, executed, kernels, made_meanwhile)
            reason = None
        except Stopped as stopped:
            reason = str(stopped)
        except KeyboardInterrupt:
            reason = "stopped from the keyboard"
        # The ledger records every failure; the reason has the message of the exception.
        except Exception as problem:
            reason = f"{problem.__class__.__name__}: {_first_line(problem)}"
        finally:
            _end_kernel(executed.get("kernel"))
    ran, kernel = executed.get("notebook"), executed.get("kernel")
    fault = reason or (_fault(ran, executed.get("error")) if ran is not None else None)
    record = _record(ran) if ran is not None else None
    incomplete = record["values"].get("incomplete") if record and not fault else None
    if fault or ran is None:
        state = "failed"
    elif incomplete:
        state = "incomplete"
    else:
        state = "ok"
    return Outcome(
        state,
        settings.redact(fault or incomplete or "") or None,
        ran,
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
    made_meanwhile: Sequence[Path],
) -> None:
    without_slow_import()
    from papermill import execute as papermill_execute
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = load_notebook_node(notebook)
    kernel = notebook.metadata.get("kernelspec", {}).get("name", "python3")
    # A notebook gets no secrets, because it could print them; it reads the database, not the network. A runbook gets
    # the provider tokens, because it probes the providers, but not the keys of the receiver.
    hidden = settings_module.RECEIVER_KEYS if is_runbook(notebook) else ()
    environment = settings_module.without_secrets(os.environ, *hidden) | {
        "OPS_HOME": str(settings.base),
        "OPS_APP": settings.app,
        UNATTENDED: "1",
        MADE_MEANWHILE: os.pathsep.join(map(str, made_meanwhile)),
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
        # The engine is not registered with papermill: the registry is shared by all threads, and another run would use
        # the sockets of this one.
        engine = _engine(time.monotonic() + timeout_s, path.resolve().parent, environment, sockets, executed, kernels)
        with _own_event_loop():
            engine.execute_notebook(
                notebook, kernel, progress_bar=sys.stderr.isatty(), input_path=None, output_path=None
            )


@contextmanager
def _own_event_loop() -> Iterator[None]:
    """
    Close the event loop of this thread at the end.

    jupyter_core creates a loop for each thread and never closes it, so a thread that ends would leave files open.
    """
    try:
        yield
    finally:
        if threading.current_thread() is not threading.main_thread():
            from jupyter_core.utils import ensure_event_loop

            ensure_event_loop().close()


def _end_kernel(manager: Any) -> None:
    """Kill the kernel of a run if it still runs."""
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
    Publish the files of a run and record its end; a run whose files cannot be published has failed.

    Args:
        outcome: The result of the run.
        place: The path of the files, without suffix.
        more: Further files besides the notebook and its HTML, by suffix; they override those two.
        keep_as: The name under which existing files are kept; None replaces them.
        settings: The settings of the app.
        store: The database with the ledger.

    Returns:
        The final result, and the path.

    Raises:
        NotebookFailed: The ledger could not be written.
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
            f"completed {formatting.duration((clock.micros(ended) - (outcome.due.at_us or 0)) / 1e6)} after it was due",
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
        raise NotebookFailed(f"{reason or outcome.state}; the ledger could not be written either: {problem}") from None
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
    """Execute any notebook and publish it under ``APP/runs/ID/``, also if it failed."""
    outcome = execute(path, given, settings=settings, store=store, timeout_s=timeout_s, due=due, kernels=kernels)
    return publish_run(outcome, settings.outputs / "runs" / outcome.run_id / path.stem, settings=settings, store=store)


MADE_MEANWHILE = "OPS_MADE_MEANWHILE"  # Files to which a notebook may link although they are not published yet.
UNATTENDED = "OPS_UNATTENDED"  # Set by a process that executes notebooks without a person.
_ATTENDED: set[int] = set()  # The kernel of this process, once a front end has accepted input requests.


def attended() -> bool:
    """
    Return whether a person uses this kernel, rather than a scheduler.

    A front end states with each cell whether it accepts input requests (``allow_stdin`` of Jupyter's protocol):
    JupyterLab, Notebook and VS Code do; papermill, nbconvert and nbval do not. Once it did, the kernel counts as
    attended until it ends.
    """
    if os.environ.get(UNATTENDED):
        return False
    import sys

    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    kernel = getattr(shell, "kernel", None)
    if getattr(kernel, "_allow_stdin", False):
        _ATTENDED.add(id(kernel))
    return id(kernel) in _ATTENDED
