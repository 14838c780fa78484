"""Test that Markdown or HTML source in a page is found, and that our templates quote text from outside."""

import pytest

from opslib.dashboard import text_blocks
from opslib.foundation import templates
from tests.support.published import SOURCE, problems

SHOWN = {
    "table row in Markdown": ("<p>| what | type |</p>", "<p>what\n|---|---|</p>"),
    "bold text in Markdown": ("<td>**critical**</td>", "<td>__critical__</td>"),
    "code in Markdown": ("<p>run `ops status`</p>",),
    "heading in Markdown": ("<p>text\n## Impact</p>",),
    "task in Markdown": ("<div>- [ ] restart the app</div>", "<div>* [x] restart the app</div>"),
    "link in Markdown": ("<p>see [the runbook](massive_down.html)</p>", "<p>![chart](x.png)</p>"),
    "escape of Markdown": (r"<td>massive\_answers</td>",),
    "HTML tag": ("<p>a &lt;b class='x'&gt;c</p>", "<p>c&lt;/b&gt;</p>", "<p>&lt;!-- write below: well --&gt;</p>"),
    "HTML entity": ("<p>availability &amp;lt; 95 %</p>", "<p>S&amp;amp;P</p>", "<p>don&amp;#x27;t</p>"),
}


@pytest.mark.parametrize(("what", "page"), [(what, page) for what, pages in SHOWN.items() for page in pages])
def test_each_kind_of_source_is_found(what: str, page: str) -> None:
    """Each kind is found in the text of a page, and ignored inside code and pre."""
    assert set(SHOWN) == set(SOURCE)
    assert [p.partition(" in <")[0] for p in problems(f"<html><body>{page}</body></html>")] == [what]
    inner = page[page.index(">") + 1 : page.rindex("<")]
    assert problems(f"<p>quoted: <code>{inner}</code></p><pre>{inner}</pre>") == []


def test_rendered_text_is_not_reported() -> None:
    """Headings, tables, emphasis, signs and comparisons are not reported as source."""
    page = (
        "<h1>Massive &amp; Tradier</h1><table><tr><td>a_b_c</td><td>73.9 % &lt; 95 %</td></tr></table>"
        "<p>P&amp;L · 5 * 3 * 2 · #trading-alerts · [Write here.] · 1 > 0<br>a | b</p><style>a > b {}</style>"
    )
    assert problems(page) == []


EVIL = [
    "<img src=x onerror=alert(1)>",
    "&lt;b&gt; and &amp;",
    "**bold** and `code` and [a](b)",
    "| a | b |",
    "## heading",
    r"massive\_answers",
    "- [ ] task",
    "<!-- end of well -->",
]


@pytest.mark.parametrize("outside", EVIL)
def test_our_blocks_quote_text_from_outside(outside: str) -> None:
    """A text that looks like source is shown as code, by every block and in Markdown fields."""
    text = f"the app said: {outside}" if outside[0] not in "|#-" else outside
    blocks = [
        text_blocks.bullet_list("Lines", [text]),
        text_blocks.table("Rows", ["name", "value"], [[text, text]]),
        text_blocks.answer("critical", text, [text]),
    ]
    for block in blocks:
        assert problems(block.html) == [] and "<code>" in block.html
    assert problems(text_blocks.markdown_to_html(outside)) == []
    assert templates.quoting("73.9 % < 95 % & a_b") == "73.9 % &lt; 95 % &amp; a_b"
