"""
Fork kernels from a process that has imported what notebooks need, opened nothing and begun no thread.

It is asked over the socket that it was born with, by `warm`. When that closes it ends, and its kernels with it.
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
LONGEST = 1_000_000  # Bytes of a question: a command and an environment.
# Read when each is first imported: one thread only, so that a fork takes all there is; and pictures as a plain kernel
# makes them, whose backend is to be imported in the kernel, since that is what binds it to the shell.
BEFORE = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


def _preload() -> None:
    """Import what a notebook of the suite imports, and draw once, so that no kernel has to find fonts."""
    for name in IMPORTED:
        importlib.import_module(name)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().set_title("0")
    FigureCanvasAgg(figure).draw()
    gc.collect()
    gc.freeze()  # What is here now is shared with every kernel for as long as nobody touches it.


def _threads() -> int:
    """How many threads are there? A fork would leave all but one behind."""
    return len(os.listdir("/proc/self/task"))


def _kernel(asked: dict[str, Any], ready: int) -> None:
    """Be a kernel from here on, as if begun by a command."""
    import numpy
    from ipykernel import ipkernel, kernelapp

    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.write(ready, b"1")
    os.close(ready)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    random.seed()
    numpy.random.seed()
    sys.argv = [ipkernel.__file__, *asked["argv"]]
    kernelapp.launch_new_instance(argv=asked["argv"])


def serve(asking: socket.socket) -> None:
    """Fork a kernel for each question, until nobody can ask any more. Answers its number, or why there is none."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Kernels that end leave nothing behind; who asked watches them.
    mine = os.getpid()
    asking.send(json.dumps({"threads": _threads()}).encode())
    while question := asking.recv(LONGEST):
        if _threads() != 1:
            asking.send(json.dumps({"why": f"{_threads()} threads run"}).encode())
            continue
        begun, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != mine:
                os._exit(1)
            os.close(begun)
            asking.close()
            gc.unfreeze()
            _kernel(json.loads(question), ready)
            os._exit(0)
        os.close(ready)
        os.read(begun, 1)  # Until it leads a group of its own, which may be signalled.
        os.close(begun)
        asking.send(json.dumps({"pid": pid}).encode())


def main() -> None:
    """Begin: the socket's number is the only argument."""
    # A kernel watches whether its parent lives; which one, it reads when it is imported.
    os.environ.update(BEFORE | {"JPY_PARENT_PID": str(os.getpid())})
    if sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]  # As ipykernel_launcher does.
    _preload()
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
