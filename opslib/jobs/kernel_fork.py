"""
Fork kernels from a process that has imported what notebooks need.

This fork server opens no files and starts no threads. `kernels` sends its requests over a socket that is inherited at
the start. When the socket closes, the fork server and its kernels end.
"""

import ctypes
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
import time
from typing import Any

PR_SET_PDEATHSIG = 1
IMPORTED = (
    "ipykernel.ipkernel",
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
    "jinja2",
    "numpy",
    "opslib",
    "opslib.reports.daily",
    "opslib.desk",
    "opslib.dashboard.charts",
    "opslib.runbooks.checklist_session",
)
LONGEST = 1_000_000  # The size limit of a request in bytes: a command and an environment.
# Read by the libraries when they are imported. One thread only, because a fork copies only the calling thread. The
# Matplotlib backend is that of a plain kernel; the kernel imports it, since the import binds it to the shell.
BEFORE = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


def _preload() -> None:
    """Import what the notebooks import, and draw one figure, so that kernels need not search for fonts."""
    for name in IMPORTED:
        importlib.import_module(name)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().set_title("0")
    FigureCanvasAgg(figure).draw()
    gc.collect()
    gc.freeze()  # Memory that exists now stays shared with every kernel until it is written.


def _threads() -> int:
    """Return the number of threads; a fork copies only one of them."""
    return len(os.listdir("/proc/self/task"))


def _run_kernel(request: dict[str, Any], ready: int) -> None:
    """Run a kernel in this process, as if started by a command."""
    import numpy
    from ipykernel import ipkernel, kernelapp

    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.write(ready, b"1")
    os.close(ready)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    random.seed()
    numpy.random.seed()
    sys.argv = [ipkernel.__file__, *request["argv"]]
    kernelapp.launch_new_instance(argv=request["argv"])


def serve(connection: socket.socket) -> None:
    """Fork a kernel for each request until the socket closes; respond with its PID, or with the reason of a failure."""
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # Ended kernels leave no zombies; the requesting process watches them.
    mine = os.getpid()
    connection.send(json.dumps({"threads": _threads()}).encode())
    while request := connection.recv(LONGEST):
        if _threads() != 1:
            connection.send(json.dumps({"why": f"{_threads()} threads run"}).encode())
            continue
        begun, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != mine:
                os._exit(1)
            os.close(begun)
            connection.close()
            gc.unfreeze()
            _run_kernel(json.loads(request), ready)
            os._exit(0)
        os.close(ready)
        os.read(begun, 1)  # Wait until the kernel leads its own process group, which can be signalled.
        os.close(begun)
        connection.send(json.dumps({"pid": pid}).encode())


def main() -> None:
    """Run the fork server; the file descriptor of the socket is the only argument."""
    # A kernel ends with its parent process. ipykernel reads the PID of the parent when it is imported.
    os.environ.update(BEFORE | {"JPY_PARENT_PID": str(os.getpid())})
    if sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]  # As ipykernel_launcher does.
    _preload()
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
