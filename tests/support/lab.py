"""Provide a JupyterLab for tests and a browser to use it."""

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from opslib.jobs.jupyterlab import QUIET
from opslib.simulation.drills import game_day
from opslib.simulation.drills.stepped_desk import BEGINS
from opslib.simulation.world.control import World
from tests.support.servers import free_port
from tests.support.system import needs

STARTS_S = 60.0
RUNS_S = 180.0  # For all cells of a runbook, on a busy machine.
IDLE = "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


def notebook(place: Path, *cells: str) -> None:
    """Write a notebook with these cells."""
    made = [
        {"cell_type": "code", "id": f"c{n}", "execution_count": None, "metadata": {}, "outputs": [], "source": source}
        for n, source in enumerate(cells)
    ]
    place.write_text(
        json.dumps(
            {
                "cells": made,
                "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
                "nbformat": 4,
                "nbformat_minor": 5,
            }
        )
    )


@contextmanager
def beside_a_world(home: Path, logs: Path, speed: float) -> Iterator[tuple[World, dict[str, str]]]:
    """Run a healthy world with the receiver and collector of opslib; yield the world and the settings."""
    port = free_port()
    with World(BEGINS, seed=3, speed=speed, receiver=f"http://127.0.0.1:{port}") as world:
        environ = world.environ | {"OPS_HOME": str(home), "OPS_APP": "desk"}
        ops = ("-m", "opslib.cli")
        with game_day._running([(*ops, "serve", "--port", str(port)), (*ops, "collect")], os.environ | environ, logs):
            yield world, environ


def awaited(address: str, running: subprocess.Popen[Any], log: Path) -> None:
    """Wait until a started server responds."""
    until = time.monotonic() + STARTS_S
    while True:
        try:
            urlopen(address, timeout=10).close()
            return
        except OSError:
            assert running.poll() is None and time.monotonic() < until, log.read_text()[-2000:]
            time.sleep(0.2)  # There is no event for its start.


def address_of(running: subprocess.Popen[Any], log: Path) -> str:
    """Return the address that a started server writes to its log, once it responds there."""
    until = time.monotonic() + STARTS_S
    while not (found := re.search(r"http://127\.0\.0\.1:\d+/\S*", log.read_text())):
        assert running.poll() is None and time.monotonic() < until, log.read_text()[-2000:]
        time.sleep(0.2)  # There is no event for its start.
    awaited(found[0], running, log)
    return found[0]


@contextmanager
def running_lab(root: Path, at: Path, environ: Mapping[str, str], app: str = "lab") -> Iterator[tuple[str, str]]:
    """
    Run a lab, or plain Notebook as `app`, in a folder, with its settings in another; yield its address and its token.
    """
    port, token = free_port(), secrets.token_hex(8)
    quiet = at / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps(QUIET))
    folders = {f"JUPYTER_{name}_DIR": str(at / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")} | {
        "JUPYTERLAB_SETTINGS_DIR": str(at / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(at / "workspaces"),
        "HOME": str(at),
        "IPYTHONDIR": str(at / "ipython"),
    }
    command = [
        sys.executable,
        "-m",
        "jupyter",
        app,
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
        "--allow-root",
        f"--{'LabApp' if app == 'lab' else 'JupyterNotebookApp'}.expose_app_in_browser=True",
    ]
    with (at / "log").open("w") as log:
        running = subprocess.Popen(
            command, env={**os.environ, **environ, **folders}, stdout=subprocess.DEVNULL, stderr=log
        )
    try:
        awaited(f"http://127.0.0.1:{port}/api/status?token={token}", running, at / "log")
        yield f"http://127.0.0.1:{port}", token
    finally:
        running.terminate()
        running.wait(20)


def launched(playwright: Any) -> Any:
    """Launch a browser."""
    return playwright.chromium.launch(
        executable_path=needs("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
    )


@contextmanager
def browsing(width: int = 1360, height: int = 1000) -> Iterator[tuple[Any, list[str]]]:
    """Open a page in a browser; yield it with the errors that it reports."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launched(playwright)
        shown = browser.new_page(viewport={"width": width, "height": height})
        shown.set_default_timeout(90_000)
        problems: list[str] = []
        shown.on("pageerror", lambda problem: problems.append(str(problem)))
        yield shown, problems
        browser.close()
