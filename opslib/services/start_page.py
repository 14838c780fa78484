"""Make the read-only page that a browser shows at the server's address: what it is, how to post, how everything is."""

from opslib.dashboard.status import Status
from opslib.foundation import formatting, templates

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action "
    "'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}


def page(app: str, address: str, view: Status | None) -> str:
    """
    The page, as HTML.

    Args:
        app: Whose receiver it is.
        address: Host and port by which it was asked.
        view: The last hour; None for a reader who has not given the read key, who sees no figures.
    """
    return templates.render(
        "services/templates/start_page.html",
        app=app,
        address=address,
        view=view,
        as_of=formatting.moment(view.window.end) if view else "",
    )
