"""A JupyterLab of a test's own, and a browser that looks at it."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from conftest import needs
from servers import free_port

from opslib.lab import QUIET

STARTS_S = 60.0


@contextmanager
def running_lab(root: Path, at: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """A lab over a folder, its own settings in another: its address and its token."""
    port, token = free_port(), secrets.token_hex(8)
    quiet = at / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text(json.dumps(QUIET))
    folders = {f"JUPYTER_{name}_DIR": str(at / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")} | {"JUPYTERLAB_SETTINGS_DIR": str(at / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(at / "workspaces"), "HOME": str(at), "IPYTHONDIR": str(at / "ipython")}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}", "--allow-root", "--LabApp.expose_app_in_browser=True"]
    with (at / "log").open("w") as log:
        running = subprocess.Popen(command, env={**os.environ, **environ, **folders}, stdout=subprocess.DEVNULL, stderr=log)
    try:
        until = time.monotonic() + STARTS_S
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/api/status?token={token}", timeout=2).close()
                break
            except OSError:
                assert running.poll() is None and time.monotonic() < until, (at / "log").read_text()[-2000:]
                time.sleep(0.2)  # A server's start can only be awaited.
        yield f"http://127.0.0.1:{port}", token
    finally:
        running.terminate()
        running.wait(20)


@contextmanager
def browsing(width: int = 1360, height: int = 1000) -> Iterator[tuple[Any, list[str]]]:
    """A page of a browser, and the errors that it met."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=needs("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"])
        shown = browser.new_page(viewport={"width": width, "height": height})
        shown.set_default_timeout(90_000)
        problems: list[str] = []
        shown.on("pageerror", lambda problem: problems.append(str(problem)))
        yield shown, problems
        browser.close()
