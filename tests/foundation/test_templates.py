"""Test templates: values are escaped and printable, a missing value is an error, and every template compiles."""

import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from opslib.dashboard import text_blocks
from opslib.foundation import templates

ALL = sorted(str(p.relative_to(templates.PACKAGE)) for p in templates.PACKAGE.rglob("templates/*.html"))
EVIL = "<script>alert('x')</script> \"q\" & {{ 7*7 }} \u202e\x07"
INERT = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &quot;q&quot; &amp; {{ 7*7 }}  "


def test_values_are_escaped() -> None:
    """Values are escaped for text and for quoted attributes; control characters are removed."""
    found = templates.render("jobs/templates/record.html", numbers=EVIL)
    assert f"<pre>{INERT}</pre>" in found and "<script" not in found
    found = templates.render("dashboard/templates/table.html", title=EVIL, header=["x"], rows=[[EVIL]])
    assert found.count("<script") == 0 and "&lt;script" in found


def test_a_missing_value_is_an_error() -> None:
    """A template with a missing value raises an error instead of leaving a gap."""
    with pytest.raises(UndefinedError, match="'numbers' is undefined"):
        templates.render("jobs/templates/record.html")


def test_status_imports_no_template_engine() -> None:
    """`ops status` imports no template engine, Markdown reader or HTTP client, so that it is quick."""
    heavy = ("jinja2", "mistune", "httpx")
    code = (
        f"import sys; from opslib.cli import main; main.main(['status', '--as-of', '2026-03-10T11:00']); "
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == "[]"


@pytest.mark.parametrize("name", ALL)
def test_every_template_compiles(name: str) -> None:
    """Each template is found by its path in the package and is used somewhere."""
    assert templates._environment().get_template(name).filename == str(templates.PACKAGE / name)
    sources = [p.read_text(encoding="utf-8") for p in templates.PACKAGE.rglob("*.*") if p.suffix in (".py", ".html")]
    assert sum(f'"{name}"' in source for source in sources) >= 1, "nothing shows it"


def test_unescaped_markup_has_known_origins() -> None:
    """Markup that a template does not escape comes from another template, an escaping converter, or a constant."""
    trusted = {
        (name, part.split("|safe")[0].split("{{")[-1].strip())
        for name in ALL
        for part in (Path(templates.PACKAGE / name).read_text(encoding="utf-8").split("}}"))
        if "|safe" in part
    }
    assert trusted == {
        ("alerting/notifications/templates/page.html", "body"),  # message.html, redacted
        ("dashboard/templates/one_after_another.html", "block.html"),  # TextBlock.html
        ("reports/templates/index.html", "script"),  # index.js
        ("reports/templates/index.html", "home.html"),  # TextBlock.html
        ("services/templates/start_page.html", "home.html"),  # TextBlock.html
        ("dashboard/templates/fold.html", "block.html"),
        ("jobs/templates/page.html", "body"),  # nbconvert's, under a policy without scripts
        ("jobs/templates/page.html", "policy"),  # a constant, in double quotes
        ("reports/templates/outage.html", "svg"),  # matplotlib's, its text escaped
        ("reports/templates/postmortem.html", "block.html"),  # TextBlock.html
        ("reports/templates/postmortem.html", "written"),  # markdown_to_html
        ("runbooks/templates/incident.html", "picture"),  # incident_chart's SVG, its text escaped
        ("runbooks/templates/runbooks.html", "markup"),  # markdown_to_html
    }


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a *b* **c** `d < e`", "<p>a <em>b</em> <strong>c</strong> <code>d &lt; e</code></p>"),
        ("[words](https://x.example/?a=1&b='2')", "<p>words (https://x.example/?a=1&amp;b=%272%27)</p>"),
        ("[words](javascript:alert(1))", "<p>words (javascript:alert(1))</p>"),
        ("![picture](https://x.example/p.png)", "<p>picture (https://x.example/p.png)</p>"),
        ("<img src=x onerror=alert(1)>", "<p><code>&lt;img src=x onerror=alert(1)&gt;</code></p>"),
        ("a <b onclick='x'>c</b>", "<p>a <code>&lt;b onclick=&#x27;x&#x27;&gt;</code>c<code>&lt;/b&gt;</code></p>"),
        ("[Two sentences: what]", "<p>[Two sentences: what]</p>"),
        ("an \u202eRLO and a \x07 bell", "<p>an RLO and a   bell</p>"),
        ("1. one\n2. two", "<ol>\n<li>one</li>\n<li>two</li>\n</ol>"),
    ],
)
def test_markdown_becomes_safe_html(written: str, shown: str) -> None:
    """Markdown becomes headings, lists, tables and emphasis, but never raw tags, links or requests."""
    assert text_blocks.markdown_to_html(written) == shown


def test_a_markdown_table_becomes_a_table() -> None:
    """A Markdown table becomes an HTML table, and an escaped underscore an underscore."""
    found = text_blocks.markdown_to_html("| what | type |\n|---|---|\n| see host\\_reaches <b> | detect |")
    assert (
        "<th>what</th>" in found and "<td>see host_reaches <code>&lt;b&gt;</code></td>" in found and "\\" not in found
    )
