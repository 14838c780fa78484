"""Render the read-only start page of the server: Home, then the addresses to read and to post to."""

from pathlib import Path
from urllib.parse import quote

from opslib.foundation import templates
from opslib.foundation.config.workspace import Workspace
from opslib.jobs import jupyterlab
from opslib.reports import home

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action "
    "'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}
POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # In the page; a browser refuses frame-ancestors there.


def page(workspace: Workspace, address: str, may_read: bool) -> str:
    """
    Render the page as HTML.

    The server serves no files: what Home names is linked only if `lab_url` says where JupyterLab is.

    Args:
        address: Host and port of the request.
        may_read: Whether the read key was given; without it the page shows no figures.
    """
    return templates.render(
        "services/templates/start_page.html",
        policy=POLICY,
        app=workspace.settings.app,
        address=address,
        home=home.home_of(workspace, lambda place: _in_lab(workspace, place)).block if may_read else None,
    )


def _in_lab(workspace: Workspace, place: Path) -> str:
    """Return the address of a file in the JupyterLab of `lab_url`; empty if that is not set."""
    lab = workspace.contacts.lab_url
    found = jupyterlab.link(place, {jupyterlab.ROOT: str(jupyterlab.root(workspace.settings))}) if lab else None
    return f"{lab}/lab/tree/{quote(found)}" if found else ""
