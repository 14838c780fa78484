"""
Keep a pool of kernels that need not import anything first, and provide them to jupyter_client.

Whatever is not as it should be, a kernel is begun in the plain way. Which way it was, the run's row in the ledger says.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, TypeVar

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from opslib.foundation.config.settings import without_secrets

T = TypeVar("T")

NAME = "opslib-warm"  # As pyproject.toml registers it.
PLAIN, WARM = "plain", "warm"
PATIENCE_S = 20.0  # For a zygote to grow, and for it to answer.
LAUNCHER = ["-m", "ipykernel_launcher"]


class Forked:
    """
    A kernel's process, watched by its file descriptor: it is a child of the zygote's, not ours.

    What is needed of `subprocess.Popen`.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._fd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """None while it lives; of what is over nobody but its parent knows how it ended: that is told as -1."""
        if self.returncode is None and select.select([self._fd], [], [], 0)[0]:
            self.returncode = -1
            os.close(self._fd)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it is over."""
        if self.poll() is None and not select.select([self._fd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(["kernel"], timeout or 0.0)
        found = self.poll()
        assert found is not None
        return found

    def send_signal(self, number: int) -> None:
        """Signal it, and never another process of its number."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    terminate = kill

    def __del__(self) -> None:
        if self.returncode is None:
            os.close(self._fd)


class KernelPool:
    """
    Warm kernels, for as long as this is open.

    Args:
        environment: Of the process that they are forked from: without secrets, since what it holds every kernel could
            read.
    """

    def __init__(self, environment: Mapping[str, str]):
        self._environment = dict(environment)
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._asking: socket.socket | None = None
        self._grown = False
        self._begin()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "opslib.jobs.kernel_fork", str(theirs.fileno())]
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        ours.settimeout(PATIENCE_S)
        self._asking, self._grown = ours, False

    def kernel(self, argv: list[str], environment: Mapping[str, str], cwd: str) -> Forked | None:
        """A kernel's process, begun as this command would; None where the plain way has to be taken."""
        with self._turn:
            try:
                if self._asking is None:
                    return None
                if not self._grown:
                    self._grown = json.loads(self._asking.recv(1000) or b"{}").get("threads") == 1
                if not self._grown:
                    self.close()
                    return None
                self._asking.send(json.dumps({"argv": argv, "env": dict(environment), "cwd": cwd}).encode())
                answer = json.loads(self._asking.recv(1000) or b"{}")
                return Forked(answer["pid"]) if "pid" in answer else None
            except (OSError, ValueError):
                self.close()
                return None

    def close(self) -> None:
        """End the zygote, and every kernel that still runs."""
        if self._asking is not None:
            self._asking.close()
        if self._process is not None:
            if not self._grown:
                self._process.kill()
            try:
                self._process.wait(2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._asking = self._process = None


@contextmanager
def with_kernel_pool(opened: Callable[[], T]) -> Iterator[tuple[T, KernelPool]]:
    """
    A workspace, and warm kernels for its notebooks: they import what they need, without secrets, while this process
    opens it and does the same.
    """
    with closing(KernelPool(without_secrets(os.environ))) as kernels:
        yield opened(), kernels


class WarmProvisioner(LocalProvisioner):
    """Takes a kernel from a pool that the kernel manager was given as ``ops_kernels``, where it can."""

    way = PLAIN

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """As `LocalProvisioner`, forked where that gives the same kernel."""
        kernels: KernelPool | None = getattr(self.parent, "ops_kernels", None)
        python, *rest = cmd
        fits = (
            kernels is not None
            and rest[:2] == LAUNCHER
            and os.path.realpath(python) == os.path.realpath(sys.executable)
        )
        forked = (
            kernels.kernel(rest[2:], kwargs.get("env") or os.environ, str(kwargs.get("cwd") or os.getcwd()))
            if fits and kernels
            else None
        )
        if forked is None:
            return await super().launch_kernel(cmd, **kwargs)
        self.way, self.pid, self.pgid = WARM, forked.pid, forked.pid
        self.process = forked  # type: ignore[assignment]  # What is needed of a Popen.
        self.cwd = kwargs.get("cwd", os.getcwd())
        return self.connection_info
