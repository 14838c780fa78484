"""
Start JupyterLab, or the dashboard without code, over this suite; the user's own settings stay as they are.

They see a folder of links: ``notebooks`` and ``runbooks`` of the project, ``home`` for everything that this desk has
made.
"""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import UsageError
from opslib.foundation.storage import temporary_files

FOLDER, LINKS = ".lab", ("notebooks", "runbooks")
ROOT, READ_ONLY = "OPS_LAB_ROOT", "OPS_READ_ONLY"  # Told to kernels: where links begin; that a page only shows.
QUIET = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}  # No news popup over a dashboard.
LIVE = "Dashboard: what is it now?"
NOW = {
    "dashboard": "A moment: was anything wrong?",
    "alerts": "Alerts of the week",
    "provider_health": "Providers, looked at closely",
    "greeks_quality": "Greeks, looked at closely",
    "pnl_accuracy": "Trades beside the backtest",
    "system_health": "The app itself, looked at closely",
    "checklist": "Checklists",
    "drills": "Drills: do the runbooks find the cause?",
}
TEMPLATE = "ops"  # Of the dashboard without code: Voilà's own, without the letters that it fetches from a network.
PAGE = 'import opslib as ops\n\nops.live("{app}")'


@dataclass(frozen=True)
class LabFolder:
    """
    A folder from which a lab is started.

    Attributes:
        root: What the lab sees.
        environ: The environment of the lab and its kernels.
    """

    root: Path
    environ: dict[str, str]

    def address(self, what: str, port: int) -> str:
        """Where a browser finds it, with the token that lets it in."""
        return f"http://127.0.0.1:{port}/{'lab' if what == 'lab' else ''}?token={self.environ['JUPYTER_TOKEN']}"

    def lab(self, port: int, browser: bool) -> list[str]:
        """
        The command of JupyterLab; its token is in the environment, and in a file that only its owner reads, where no
        list of processes shows it.
        """
        return [
            sys.executable,
            "-m",
            "jupyter",
            "lab",
            "--ip=127.0.0.1",
            f"--port={port}",
            f"--ServerApp.root_dir={self.root}",
            f"--ServerApp.open_browser={browser}",
            f"--ServerApp.allow_root={os.geteuid() == 0}",
        ]

    def dashboard(self, port: int, browser: bool) -> list[str]:
        """The command of the dashboard without code."""
        return [
            sys.executable,
            "-m",
            "voila",
            str(self.root / "dashboard.ipynb"),
            "--Voila.ip=127.0.0.1",
            f"--port={port}",
            f"--Voila.open_browser={browser}",
            f"--template={TEMPLATE}",
            "--strip_sources=True",
            "--show_tracebacks=False",
        ]


def prepare(settings: Settings, environ: Mapping[str, str], runbooks: Mapping[str, str]) -> LabFolder:
    """
    Lay out the folder from which a lab is started: links, settings, the launcher's entries; what is there is made anew.

    Args:
        runbooks: The title of each runbook, by its name.

    Raises:
        UsageError: The package was installed without its notebooks, or Voilà without its templates.
    """
    project = settings_module.project()
    if project is None:
        raise UsageError(
            "the notebooks stand in the suite's project folder, which is not here. Install it with pip "
            "install -e . from a clone."
        )
    with temporary_files.refusing(settings.base / FOLDER):
        return _laid_out(settings, environ, project, runbooks)


def _laid_out(settings: Settings, environ: Mapping[str, str], project: Path, runbooks: Mapping[str, str]) -> LabFolder:
    folder = settings.base / FOLDER
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    for name, target in (*((name, project / name) for name in LINKS), ("home", settings.base)):
        link = root / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target, target_is_directory=True)
    quiet = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True, exist_ok=True)
    quiet.write_text(json.dumps(QUIET), encoding="utf-8")
    launcher = folder / "launcher"
    launcher.mkdir(exist_ok=True)
    # JSON is YAML.
    (launcher / "jp_app_launcher.yaml").write_text(
        json.dumps(entries(project, runbooks), indent=1, ensure_ascii=False), encoding="utf-8"
    )
    (root / "dashboard.ipynb").write_text(json.dumps(_page(settings.app), indent=1), encoding="utf-8")
    _template(folder / "data" / "voila" / "templates" / TEMPLATE)
    token = environ.get("JUPYTER_TOKEN") or secrets.token_hex(16)
    config = folder / "config" / "voila.json"
    config.parent.mkdir(exist_ok=True)
    config.touch(mode=0o600)
    config.write_text(json.dumps({"Voila": {"token": token}}), encoding="utf-8")
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_APP_LAUNCHER_PATH": str(launcher),
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    return LabFolder(
        root,
        {
            **environ,
            **own,
            "JUPYTER_TOKEN": token,
            "OPS_HOME": str(settings.base),
            "OPS_APP": settings.app,
            ROOT: str(root),
            "PATH": path,
        },
    )


def entries(project: Path, runbooks: Mapping[str, str]) -> list[dict[str, object]]:
    """What stands in the launcher: runbooks by their symptom, what there is to look at now, reports."""
    found = [_entry("Runbooks, by what you see", title, f"runbooks/{name}.ipynb") for name, title in runbooks.items()]
    reports = {
        path.stem: path.stem.replace("_", " ").capitalize()
        for path in sorted((project / "notebooks").glob("*_report.ipynb"))
    }
    found += [
        _entry("Now", LIVE, "dashboard.ipynb"),
        *(_entry("Now", title, f"notebooks/{name}.ipynb") for name, title in NOW.items()),
    ]
    return found + [_entry("Reports", title, f"notebooks/{name}.ipynb") for name, title in reports.items()]


def _entry(catalog: str, title: str, path: str) -> dict[str, object]:
    return {
        "id": f"ops-{path}",
        "title": title,
        "description": path,
        "catalog": catalog,
        "type": "jupyterlab-commands",
        "source": [{"label": title, "id": "docmanager:open", "args": {"path": path}}],
    }


def _page(app: str) -> dict[str, object]:
    """The notebook behind the dashboard without code."""
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": "live",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": PAGE.format(app=app),
    }
    return {
        "cells": [cell],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _template(folder: Path) -> None:
    """
    Voilà's template ``lab`` without its links to another machine, so that a page neither asks one nor waits for one.

    Raises:
        UsageError: Voilà is not what it was.
    """
    from jupyter_core.paths import jupyter_path

    theirs = next(
        (
            found
            for place in jupyter_path("voila", "templates", "lab")
            if (found := Path(place) / "index.html.j2").is_file()
        ),
        None,
    )
    if theirs is None:
        raise UsageError(
            "Voilà's template lab was wanted for the dashboard without code, and is not there. Install the suite anew."
        )
    folder.mkdir(parents=True, exist_ok=True)
    kept = [
        line
        for line in theirs.read_text(encoding="utf-8").splitlines(keepends=True)
        if not ("<link" in line and "https:" in line)
    ]
    (folder / "index.html.j2").write_text("".join(kept), encoding="utf-8")
    (folder / "conf.json").write_text(json.dumps({"base_template": "lab"}), encoding="utf-8")


def link(place: Path, environ: Mapping[str, str] = os.environ) -> str | None:
    """Under which path a lab that was started so opens a file; None where it does not see it."""
    root = environ.get(ROOT)
    for seen in (Path(root), *(Path(root) / name for name in (*LINKS, "home"))) if root else ():
        if place.resolve().is_relative_to(seen.resolve()):
            return str((seen / place.resolve().relative_to(seen.resolve())).relative_to(Path(root or "")))
    return None
