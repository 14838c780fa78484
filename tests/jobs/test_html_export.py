"""Test the HTML page of an executed notebook: it is complete, and no content can make it send a request."""

import base64
import http.server
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from opslib.jobs import html_export
from opslib.jobs import notebook_file as runner
from tests.support.system import needs

if TYPE_CHECKING:
    from nbformat import NotebookNode

PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
    )
).decode()
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--virtual-time-budget=3000",
    "--dump-dom",
]
ASKING = {
    "image": '<img src="URL/image">',
    "background": '<div style="background:url(URL/background)">x</div>',
    "import": "<style>@import url(URL/import);</style>",
    "sheet": '<link rel="stylesheet" href="URL/sheet">',
    "script": '<script src="URL/script"></script>',
    "inline": '<script>fetch("URL/inline")</script>',
    "handler": '<img src="x:" onerror="fetch(\'URL/handler\')">',
    "onload": "<svg xmlns='http://www.w3.org/2000/svg' onload=\"fetch('URL/onload')\"></svg>",
    "vector": '<svg xmlns="http://www.w3.org/2000/svg"><image href="URL/vector"/></svg>',
    "frame": '<iframe src="URL/frame"></iframe>',
    "inner": '<iframe srcdoc="<img src=URL/inner>"></iframe>',
    "javascript": "<iframe src=\"javascript:fetch('URL/javascript')\"></iframe>",
    "object": '<object data="URL/object"></object>',
    "embed": '<embed src="URL/embed">',
    "video": '<video src="URL/video" autoplay></video>',
    "prefetch": '<link rel="prefetch" href="URL/prefetch">',
    "preload": '<link rel="preload" as="image" href="URL/preload">',
    "module": '<link rel="modulepreload" href="URL/module">',
}
LEAVING = '<meta http-equiv="refresh" content="0;url=URL/leaving">'
CONNECTING = '<link rel="preconnect" href="URL"><iframe src="URL/frame"></iframe>'


def notebook(*outputs: dict, markdown: str = "", source: str = "1") -> "NotebookNode":
    """Return an executed notebook: text, then a cell with those outputs."""
    runner.without_slow_import()
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    shown = [new_output("display_data", data) for data in outputs]
    cells = [new_markdown_cell(markdown), new_code_cell(source, outputs=shown, execution_count=1)]
    for n, cell in enumerate(cells):
        cell["id"] = f"c{n}"
    return new_notebook(cells=cells)


class Elements(HTMLParser):
    """Collects every element of a page with its attributes, in order."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def recorder() -> Iterator[tuple[str, Callable[[], set[str]]]]:
    """Start a server that records requests and connections."""
    asked: set[str] = set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.add(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def get_request(self) -> tuple:
            connection = super().get_request()
            asked.add("connection")
            return connection

        def handle_error(self, *_: object) -> None:
            """Ignore a browser that disconnects."""

    def since() -> set[str]:
        seen = set(asked)
        asked.clear()
        return seen

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", since
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def opened(recorder: tuple[str, Callable[[], set[str]]], tmp_path: Path) -> Callable[[str], tuple[set[str], str]]:
    """Open a page from the disk in a browser; return the recorded requests and the page."""
    browser = needs("chromium")

    def open(page: str) -> tuple[set[str], str]:
        recorder[1]()
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8")
        environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {"HOME": str(tmp_path)}
        done = subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={tmp_path / 'browser'}", path.as_uri()],
            capture_output=True,
            text=True,
            timeout=90,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return recorder[1](), done.stdout

    return open


def hostile(recorder: tuple[str, object], content: str) -> str:
    """Return the page of a notebook with that content in its text and in its outputs."""
    content = content.replace("URL", recorder[0])
    return html_export.page(notebook({"text/html": content, "text/plain": "x"}, markdown=content), "a title")


def test_the_policy_comes_first(recorder: tuple[str, object]) -> None:
    """
    The content security policy precedes all content of the notebook and allows only inline styles and data images.
    """
    page = hostile(recorder, "".join(ASKING.values()))
    metas = [
        (n, a)
        for n, (tag, a) in enumerate(Elements(page).found)
        if tag == "meta" and (a.get("http-equiv") or "").lower() == "content-security-policy"
    ]
    assert len(metas) == 1 and metas[0][0] <= 3
    rules = dict(rule.split(" ", 1) for rule in metas[0][1]["content"].split("; "))
    assert rules["default-src"] == "'none'"
    assert set(rules.get("img-src", "").split()) <= {"data:"} and rules.get("style-src") == "'unsafe-inline'"
    assert not {"script-src", "connect-src", "frame-src", "font-src", "object-src"} & {
        name for name, value in rules.items() if value != "'none'"
    }
    assert page.index("Content-Security-Policy") < page.index("<title>") < page.index("<body>")


def test_a_hostile_notebook_sends_no_request(
    recorder: tuple[str, object], opened: Callable[[str], tuple[set[str], str]]
) -> None:
    """A page of hostile content sends no request and runs nothing; without the policy it would."""
    page = hostile(recorder, "".join(ASKING.values()))
    asked, shown = opened(page)
    assert {a for a in asked if a != "connection"} == set()
    assert "a title" in shown
    asked, _ = opened(plain(recorder, "".join(ASKING.values())))
    assert {f"/{name}" for name in ASKING} <= asked, "a bait that nothing takes proves nothing"


def plain(recorder: tuple[str, object], content: str) -> str:
    """Return a page of that content without protection, to prove that the content is hostile."""
    return f"<!doctype html><html><head></head><body>{content.replace('URL', recorder[0])}</body></html>"


def test_a_hostile_notebook_does_not_redirect(
    recorder: tuple[str, object], opened: Callable[[str], tuple[set[str], str]]
) -> None:
    """A notebook with a refresh, which the policy does not stop, stays on its page."""
    asked, _ = opened(plain(recorder, LEAVING))
    assert "/leaving" in asked
    asked, shown = opened(hostile(recorder, LEAVING))
    assert asked == set() and "a title" in shown


def test_a_hostile_notebook_opens_no_connection(
    recorder: tuple[str, object], opened: Callable[[str], tuple[set[str], str]]
) -> None:
    """The page opens no connection ahead of a request (preconnect) either."""
    asked, _ = opened(plain(recorder, CONNECTING))
    assert "connection" in asked
    asked, _ = opened(hostile(recorder, CONNECTING))
    assert asked == set()


@pytest.mark.parametrize(
    "kind", ["application/javascript", "image/svg+xml", "text/markdown", "text/latex", "text/plain"]
)
def test_other_kinds_of_output_send_no_request(
    recorder: tuple[str, object], opened: Callable[[str], tuple[set[str], str]], kind: str
) -> None:
    """Other kinds of output that may contain HTML or scripts send no request either."""
    url = recorder[0]
    content = (
        f"fetch('{url}/script')"
        if kind == "application/javascript"
        else f"<svg xmlns='http://www.w3.org/2000/svg'><image href='{url}/a'/><script>fetch('{url}/b')</"
        f"script></svg> ![x]({url}/c)"
    )
    asked, shown = opened(
        html_export.page(
            notebook({kind: content}, markdown=f"![x]({url}/d) [y](javascript:fetch('{url}/e'))"), "a title"
        )
    )
    assert asked == set() and "a title" in shown


def test_the_page_is_self_contained(opened: Callable[[str], tuple[set[str], str]]) -> None:
    """Text, tables and pictures of a notebook are in the page, and a browser shows them."""
    book = notebook(
        {"text/html": "<table><tr><td>99.72 %</td></tr></table>", "text/plain": "x"},
        {"image/png": PIXEL, "text/plain": "<Figure>"},
        markdown="# Massive was down\n\nand **came back**",
    )
    page = html_export.page(book, "a title")
    sources = [a["src"] for tag, a in Elements(page).found if tag == "img"]
    assert sources == [f"data:image/png;base64,{PIXEL}"]
    _, shown = opened(page)
    assert "Massive was down" in shown and "<strong>came back</strong>" in shown and "99.72 %" in shown


def test_the_page_has_no_code_and_no_script() -> None:
    """The page has no code and no script, and refers to nothing outside."""
    page = html_export.page(
        notebook({"text/plain": "the result"}, markdown="# Words", source="very_secret_source()"), "a title"
    )
    assert "the result" in page and "very_secret_source" not in page and "In [" not in page
    assert not {tag for tag, _ in Elements(page).found} & {"script", "link", "iframe", "object", "embed", "base"}
    assert not re.search(r"https?://(?!www\.w3\.org)", page), "a page without links has no address in it"


@pytest.mark.parametrize("title", ["</title><script>fetch('x')</script>", "a & b < c", '"quoted"', "{name} 'q' ü"])
def test_a_title_is_text(title: str) -> None:
    """An external title, such as a file name, is escaped."""
    import html

    page = html_export.page(notebook(), title)
    assert (
        f"<title>{html.escape(title)}</title>" in page
        or html.unescape(page[page.index("<title>") + 7 : page.index("</title>")]) == title
    )
    assert "script" not in {tag for tag, _ in Elements(page).found}


def test_the_same_notebook_gives_the_same_page() -> None:
    """Exporting a notebook twice gives the same bytes."""
    pages = [
        html_export.page(notebook({"text/html": "<b>x</b>"}, {"image/png": PIXEL}, markdown="# A\n# A"), "t")
        for _ in range(2)
    ]
    assert pages[0] == pages[1]


def test_empty_and_failed_notebooks_have_a_page() -> None:
    """A notebook without cells, or with a failed cell, gives a page too; the page shows the error."""
    from nbformat.v4 import new_notebook, new_output

    assert html_export.page(new_notebook(), "t").startswith("<!doctype html>")
    book = notebook()
    book.cells[1].outputs = [
        new_output(
            "error",
            ename="ZeroDivisionError",
            evalue="division by <b>zero</b>",
            traceback=["\x1b[31mZeroDivisionError\x1b[0m: division by <b>zero</b>"],
        )
    ]
    page = html_export.page(book, "t")
    assert "ZeroDivisionError" in page and "<b>zero</b>" not in page and "\x1b" not in page
