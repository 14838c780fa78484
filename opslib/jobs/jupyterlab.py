"""
Start JupyterLab, or the dashboard without code; the user's own Jupyter settings are not changed.

The root folder contains links: ``notebooks`` and ``runbooks`` of the project, and ``home`` for the home directory.
"""

import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opslib.foundation import templates
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import UsageError
from opslib.foundation.storage import temporary_files

STYLES = templates.PACKAGE / "foundation" / "styles"
EXTENSIONS = templates.PACKAGE / "jobs" / "labextensions"  # It runs a notebook on open; see its remoteEntry.js.
FOLDER, LINKS = ".lab", ("notebooks", "runbooks")
ROOT, READ_ONLY = (
    "OPS_LAB_ROOT",
    "OPS_READ_ONLY",
)  # Environment of kernels: the root folder; whether the page is read-only.
QUIET = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}  # No popups over the dashboard.
LIVE = "Dashboard, live"
NOW = {
    "dashboard": "Dashboard at a given time",
    "alerts": "Alerts of the week",
    "provider_health": "Provider details",
    "greeks_quality": "Greeks quality details",
    "pnl_accuracy": "P&L compared with the backtest",
    "system_health": "App details",
    "checklist": "Checklists",
    "drills": "Drills of the runbooks",
}
ICONS = {"alerts": "bell", "checklist": "checklist"}
IMAGES = Path(__file__).parent / "icons"
# Extensions that need parts of JupyterLab which that page does not have: they report errors in its console.
ONLY_LAB = ("jupyter_app_launcher", "@jupyterhub/jupyter-server-proxy", "@jupyter-notebook/lab-extension")
TEMPLATE = "ops"  # The template of the dashboard without code: Voilà's own without web fonts.
HOME = "home.ipynb"  # What `ops lab` opens.
# The notebooks of the root folder, and the code of each.
PAGES = {
    "dashboard.ipynb": 'import opslib as ops\n\nops.live("{app}")',
    HOME: 'import opslib as ops\n\nops.connect("{app}").home()',
}


@dataclass(frozen=True)
class LabFolder:
    """
    A folder from which JupyterLab is started.

    Attributes:
        root: The root folder that JupyterLab shows.
        environ: The environment of JupyterLab and its kernels.
    """

    root: Path
    environ: dict[str, str]

    def address(self, what: str, port: int) -> str:
        """Return the address for a browser, with the access token."""
        opened = f"lab/tree/{HOME}" if what == "lab" else ""
        return f"http://127.0.0.1:{port}/{opened}?token={self.environ['JUPYTER_TOKEN']}"

    def lab(self, port: int, browser: bool) -> list[str]:
        """
        Return the command that starts JupyterLab.

        The token is in the environment and in a file that only its owner can read, so process lists do not show it.
        """
        return [
            sys.executable,
            "-m",
            "jupyter",
            "lab",
            "--ip=127.0.0.1",
            f"--port={port}",
            f"--ServerApp.root_dir={self.root}",
            f"--LabApp.default_url=/lab/tree/{HOME}",
            f"--ServerApp.open_browser={browser}",
            f"--ServerApp.allow_root={os.geteuid() == 0}",
            "--custom-css",
            f"--LabApp.extra_labextensions_path={EXTENSIONS}",
        ]

    def dashboard(self, port: int, browser: bool) -> list[str]:
        """Return the command that starts the dashboard without code."""
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
            *(f"--VoilaConfiguration.extension_denylist={name}" for name in ONLY_LAB),
        ]


def root(settings: Settings) -> Path:
    """Return the root folder that JupyterLab shows."""
    return settings.base / FOLDER / "root"


def prepare(settings: Settings, environ: Mapping[str, str], runbooks: Mapping[str, str]) -> LabFolder:
    """
    Prepare the folder from which JupyterLab is started: links, settings, and the entries of the launcher.

    An existing folder is rebuilt.

    Args:
        runbooks: The title of each runbook, by its name.

    Raises:
        UsageError: The package was installed without its notebooks, or Voilà without its templates.
    """
    project = settings_module.project()
    if project is None:
        raise UsageError(
            "the notebooks are in the project folder, which was not found. Install opslib from a clone with pip "
            "install -e ."
        )
    with temporary_files.refusing(settings.base / FOLDER):
        return _prepare(settings, environ, project, runbooks)


def _prepare(settings: Settings, environ: Mapping[str, str], project: Path, runbooks: Mapping[str, str]) -> LabFolder:
    folder, top = settings.base / FOLDER, root(settings)
    top.mkdir(parents=True, exist_ok=True)
    for name, target in (*((name, project / name) for name in LINKS), ("home", settings.base)):
        link = top / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target, target_is_directory=True)
    quiet = folder / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True, exist_ok=True)
    quiet.write_text(json.dumps(QUIET), encoding="utf-8")
    launcher = folder / "launcher"
    launcher.mkdir(exist_ok=True)
    # The file is YAML; JSON is valid YAML.
    (launcher / "jp_app_launcher.yaml").write_text(
        json.dumps(entries(project, runbooks), indent=1, ensure_ascii=False), encoding="utf-8"
    )
    for name, code in PAGES.items():
        (top / name).write_text(json.dumps(_page(code.format(app=settings.app)), indent=1), encoding="utf-8")
    _template(folder / "data" / "voila" / "templates" / TEMPLATE)
    token = environ.get("JUPYTER_TOKEN") or secrets.token_hex(16)
    config = folder / "config" / "voila.json"
    config.parent.mkdir(exist_ok=True)
    config.touch(mode=0o600)
    config.write_text(json.dumps({"Voila": {"token": token}}), encoding="utf-8")
    style = folder / "config" / "custom" / "custom.css"  # JupyterLab's own name for it.
    style.parent.mkdir(exist_ok=True)
    style.write_text((STYLES / "components.css").read_text(encoding="utf-8"), encoding="utf-8")
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_APP_LAUNCHER_PATH": str(launcher),
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", "")])
    return LabFolder(
        top,
        {
            **environ,
            **own,
            "JUPYTER_TOKEN": token,
            "OPS_HOME": str(settings.base),
            "OPS_APP": settings.app,
            ROOT: str(top),
            "PATH": path,
        },
    )


def entries(project: Path, runbooks: Mapping[str, str]) -> list[dict[str, object]]:
    """Return the entries of the launcher: runbooks by symptom, Home and dashboards, reports."""
    found = [
        _entry("Runbooks by symptom", title, f"runbooks/{name}.ipynb", "runbook") for name, title in runbooks.items()
    ]
    reports = {
        path.stem: path.stem.replace("_", " ").capitalize()
        for path in sorted((project / "notebooks").glob("*_report.ipynb"))
    }
    found += [
        _entry("Now", "Home", HOME, "home"),
        _entry("Now", LIVE, "dashboard.ipynb", "chart"),
        *(_entry("Now", title, f"notebooks/{name}.ipynb", ICONS.get(name, "chart")) for name, title in NOW.items()),
    ]
    return found + [_entry("Reports", title, f"notebooks/{name}.ipynb", "report") for name, title in reports.items()]


def _entry(catalog: str, title: str, path: str, icon: str) -> dict[str, object]:
    return {
        "icon": str(IMAGES / f"{icon}.svg"),
        "id": f"ops-{path}",
        "title": title,
        "description": path,
        "catalog": catalog,
        "type": "jupyterlab-commands",
        "source": [{"label": title, "id": "docmanager:open", "args": {"path": path}}],
    }


def _page(code: str) -> dict[str, object]:
    """Return a notebook with one hidden cell, which runs when the notebook is opened."""
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": "page",
        "execution_count": None,
        "metadata": {"jupyter": {"source_hidden": True}},
        "outputs": [],
        "source": code,
    }
    return {
        "cells": [cell],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "opslib": {"run_on_open": True},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _template(folder: Path) -> None:
    """
    Write Voilà's template ``lab`` without its links to other hosts, so that the page loads offline.

    Raises:
        UsageError: Voilà has no such template.
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
            "the dashboard without code needs Voilà's template lab, which was not found. Install opslib again."
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
    """Return the path under which JupyterLab opens a file; None if the file is outside its root folder."""
    shown = environ.get(ROOT)
    for folder in (Path(shown), *(Path(shown) / name for name in (*LINKS, "home"))) if shown else ():
        if place.resolve().is_relative_to(folder.resolve()):
            return str((folder / place.resolve().relative_to(folder.resolve())).relative_to(Path(shown or "")))
    return None
