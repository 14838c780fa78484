"""Make the read-only page that a browser shows at the server's address: what it is, how to post, how everything is."""

from opslib.dashboard.status import Status
from opslib.foundation import formatting

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action "
    "'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; \
background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 1.6rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem 1.2rem .25rem 0; border-bottom: 1px \
solid #ddd; vertical-align: top; }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; }
.ok { color: #1a6b2f; } .warning { color: #8a5a00; } .critical { color: #a61b1b; } .unknown { color: #555; }
"""
_POST = """curl -X POST http://{address}/api/metrics/export \\
     -H 'Content-Type: application/json' -d @metrics.json"""


def page(app: str, address: str, view: Status | None) -> str:
    """
    The page, as HTML.

    Args:
        app: Whose receiver it is.
        address: Host and port by which it was asked.
        view: The last hour; None for a reader who has not given the read key, who sees no figures.
    """
    e = formatting.in_html
    if view is None:
        now = (
            "<p>Figures need the read key: add <code>?key=…</code> to the address, or send <code>"
            "Authorization: Bearer …</code>.</p>"
        )
    else:
        rows = "".join(
            f"<tr><th scope='row'>{e(p.title)}</th><td class='{e(p.verdict)}'>{e(p.told)}</td></tr>"
            for p in view.panels
        )
        now = (
            f"<p>The last hour, as of {e(formatting.moment(view.window.end))}: <strong class='{e(view.verdict)}'>"
            f"{e(view.verdict)}</strong></p><table><tbody>{rows}</tbody></table>"
        )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{e(app)}: \
receiver of opslib</title><style>{_STYLE}</style></head><body>
<h1>{e(app)}: receiver of opslib</h1>
<p>This is <code>ops serve</code>. It takes the metrics that the app's pages post and the alerts of other monitors, \
and gives out figures.</p>
<h2>Now</h2>
{now}
<h2>Read</h2>
<table><tbody>
<tr><td><a href="/health">/health</a></td><td>whether this receiver runs</td></tr>
<tr><td><a href="/metrics">/metrics</a></td><td>figures of the last hour, for Prometheus</td></tr>
<tr><td><a href="/api/metrics">/api/metrics</a></td><td>the same as <code>ops status -o json</code></td></tr>
</tbody></table>
<p>In a terminal: <code>ops status</code>, <code>ops alerts</code>, <code>ops dashboard</code>.</p>
<h2>Post</h2>
<table><tbody>
<tr><td>POST /api/metrics/export</td><td>an app's dashboard metrics, as <code>application/json</code> or <code>\
text/plain</code>; answered 204 once they are on the disk</td></tr>
<tr><td>POST /api/logs</td><td>lines of the app's log, as a log drain sends them</td></tr>
<tr><td>POST /api/v2/alerts</td><td>alerts, as a Prometheus sends them to an Alertmanager</td></tr>
</tbody></table>
<pre>{e(_POST.format(address=address))}</pre>
<p>A page may post from a browser if its origin is in <code>OPS_CORS_ORIGINS</code>. Its Content-Security-Policy and \
the browser must allow it, too. If posts do not arrive, <code>ops doctor</code> says which were refused, and why, and \
names the page that explains how to connect an app.</p>
</body></html>
"""
