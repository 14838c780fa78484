"""
Provide preloaded kernels to jupyter_client from a fork server.

If anything fails, a plain kernel is started instead. The run's row in the ledger records which kind it was.
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
PATIENCE_S = 20.0  # The timeout for the fork server to start, and to respond.
LAUNCHER = ["-m", "ipykernel_launcher"]


class Forked:
    """
    A forked kernel process, watched by its file descriptor because it is a child of the fork server.

    It has the methods of `subprocess.Popen` that jupyter_client needs.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._fd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return None while it runs, else -1: only its parent process knows the exit code."""
        if self.returncode is None and select.select([self._fd], [], [], 0)[0]:
            self.returncode = -1
            os.close(self._fd)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended."""
        if self.poll() is None and not select.select([self._fd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(["kernel"], timeout or 0.0)
        found = self.poll()
        assert found is not None
        return found

    def send_signal(self, number: int) -> None:
        """Send a signal to it, and never to another process with the same PID."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    terminate = kill

    def __del__(self) -> None:
        if self.returncode is None:
            os.close(self._fd)


class KernelPool:
    """
    A pool of preloaded kernels, until it is closed.

    Args:
        environment: The environment of the fork server, without secrets, because every kernel can read it.
        begins: Whether the fork server starts at once; otherwise it starts when `begin` is called.
    """

    def __init__(self, environment: Mapping[str, str], *, begins: bool = True):
        self._environment = dict(environment)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._asking: socket.socket | None = None
        self._grown = False
        if begins:
            self.begin()

    def begin(self) -> None:
        """Start the fork server."""
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
        """Return a kernel process as this command would start it; None if a plain kernel has to be started."""
        with self._lock:
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
        """End the fork server and every kernel that still runs."""
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
    Open a workspace with a pool of preloaded kernels.

    The fork server, whose environment has no secrets, imports libraries while this process opens the workspace.
    """
    with closing(KernelPool(without_secrets(os.environ))) as kernels:
        yield opened(), kernels


class WarmProvisioner(LocalProvisioner):
    """A provisioner that takes kernels from the pool in the kernel manager's attribute ``ops_kernels``."""

    way = PLAIN

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start a kernel like `LocalProvisioner`; fork it if the pool provides the same kernel."""
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
        self.process = forked  # type: ignore[assignment]  # It has the needed methods of Popen.
        self.cwd = kwargs.get("cwd", os.getcwd())
        return self.connection_info
