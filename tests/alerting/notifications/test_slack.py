"""Slack messages: the order of their blocks, and that any message is within Slack's limits."""

import html
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.alerting.notifications import message, slack
from opslib.alerting.notifications.message import Code, IncidentPage, Message, Situation, Working
from opslib.foundation.config import rules
from opslib.foundation.config.contacts import Contacts, Role
from tests.alerting.notifications.test_channels import body, found

RULES = rules.load()
STAFF = Contacts({name: Role(name) for name in Contacts().roles}, lab_url="https://lab.example")
CAUSED = {
    "cause": "provider_5xx of massive",
    "cause_words": "Massive returns server errors (5xx), confidence 97 %.",
    "headline": "Massive returns server errors (5xx).",
}
WORKS = Situation(
    [
        Working("fails", "option data from Massive (our probes, 0 s ago)", "massive"),
        Working("works", "option data from Tradier instead of Massive (our probes, 0 s ago)", "tradier"),
        Working("works", "live prices (fails: the app's page; works: our probes)", "prices"),
    ],
    "tradier",
    "tradier",
    lambda panel, rule, since_us: b"",
    lambda alert: IncidentPage("2026-03-10-1", "desk/incidents/2026-03-10-1/incident.html", ""),
)


def problems(blocks: list[dict[str, Any]]) -> list[str]:
    """Return each limit of Block Kit that the blocks break (docs.slack.dev/reference/block-kit)."""
    said: list[str] = []

    def check(fine: bool, words: str) -> None:
        if not fine:
            said.append(words)

    def text(value: dict[str, Any], kind: str, most: int) -> None:
        check(value["type"] == kind, f"{value['type']} instead of {kind}")
        check(0 < len(value["text"]) <= most, f"a text of {len(value['text'])} characters, of at most {most}")
        check(not re.search(r"&(?!amp;|lt;|gt;)|[<>]", value["text"]), f"not escaped: {value['text'][:80]}")

    check(1 <= len(blocks) <= 50, f"{len(blocks)} blocks")
    for block in blocks:
        match block["type"]:
            case "header":
                text(block["text"], "plain_text", 150)
            case "section":
                check(("text" in block) != ("fields" in block), "a section with neither text nor fields, or both")
                check(len(block.get("fields", ())) <= 10, "more than ten fields")
                if "text" in block:
                    text(block["text"], "mrkdwn", 3000)
                for field in block.get("fields", ()):
                    text(field, "mrkdwn", 2000)
            case "actions":
                check(1 <= len(block["elements"]) <= 25, f"{len(block['elements'])} buttons")
                for button in block["elements"]:
                    check(button["type"] == "button", button["type"])
                    text(button["text"], "plain_text", 75)
                    check(button["url"].startswith("https://") and len(button["url"]) <= 3000, "a URL that is refused")
            case "context":
                check(1 <= len(block["elements"]) <= 10, f"{len(block['elements'])} elements")
                for element in block["elements"]:
                    text(element, "mrkdwn", 3000)
            case other:
                check(False, f"a block of type {other}")
    return said


def fields(blocks: list[dict[str, Any]]) -> dict[str, str]:
    """Return the fields by heading."""
    shown = [f["text"] for b in blocks for f in b.get("fields", ())]
    return {head.strip("*"): words for head, words in (text.split("\n", 1) for text in shown)}


def caused(kind: str = "firing", **changed: Any) -> Message:
    made = body(kind, **changed)
    made["alerts"] = [a | CAUSED for a in made["alerts"]]
    return message.compose(made, RULES, STAFF, WORKS)


def test_five_questions_are_answered_first() -> None:
    """
    First come what is broken, what to do first, since when, whose fault, and what still works; then the owner and
    links.
    """
    blocks = slack.blocks(caused())
    assert blocks[0]["text"]["text"] == "◆ Severity critical: Massive returns server errors (5xx)"
    assert blocks[1]["text"]["text"].startswith("*Do first:* Check the provider's status page")
    answers = fields(blocks[2:3])
    assert list(answers) == ["Since", "Whose fault", "Does not work", "Still works", "Measured", "Owner", "Next"]
    assert answers["Measured"] == "availability of massive (0.00 %) &lt; 95.0 % for 1 min"
    assert answers["Since"].startswith("11:22 New York") and answers["Whose fault"] == "Massive (confidence 97 %)"
    assert answers["Still works"].split("\n") == [
        "• option data from Tradier instead of Massive (our probes, 0 s ago)",
        "• live prices (fails: the app's page; works: our probes)",
    ]
    assert (answers["Owner"], answers["Next"]) == (
        "nobody yet",
        "DevOps is notified at 11:39 New York, unless somebody acknowledges",
    )
    links = {e["text"]["text"]: e["url"] for b in blocks if b["type"] == "actions" for e in b["elements"]}
    assert links == {
        "Acknowledge": "https://lab.example/lab/tree/home.ipynb",
        "Runbook": "https://lab.example/lab/tree/runbooks/massive_down.ipynb",
        "Dashboard": "https://lab.example/lab/tree/notebooks/dashboard.ipynb",
        "Incident": "https://lab.example/lab/tree/home/desk/incidents/2026-03-10-1/incident.html",
    }
    assert problems(blocks) == []


@pytest.mark.parametrize(
    ("incident", "acked_by", "expected"),
    [
        (IncidentPage("2026-03-10-1", "i.html", ""), "", "https://lab.example/lab/tree/home.ipynb"),
        (IncidentPage("2026-03-10-1", "i.html", "Ann"), "", "https://lab.example/lab/tree/notebooks/dashboard.ipynb"),
        (None, "", "https://lab.example/lab/tree/notebooks/dashboard.ipynb"),
        (IncidentPage("2026-03-10-1", "i.html", "Ann"), "Ann", None),
    ],
    ids=["nobody owns the incident", "it has an owner", "no incident", "acknowledged"],
)
def test_where_an_alert_is_acknowledged(incident: IncidentPage | None, acked_by: str, expected: str | None) -> None:
    """The first button opens Home if nobody owns the incident, else the dashboard; acknowledged, there is none."""
    made = body("firing")
    made["alerts"] = [a | CAUSED | {"acked_by": acked_by} for a in made["alerts"]]
    said = message.compose(made, RULES, STAFF, replace(WORKS, incident=lambda alert: incident))
    names = [name for name, _ in said.buttons]
    assert dict(said.buttons).get("Acknowledge") == expected
    assert names == ([] if expected is None else ["Acknowledge"]) + ["Runbook", "Dashboard"] + (
        ["Incident"] if incident else []
    )
    assert all(f"{name} at: {url}" in said.plain for name, url in said.buttons)


def test_words_come_first_and_commands_are_secondary() -> None:
    """The text has no cause name; commands appear only in the small text at the end, below their heading."""
    blocks = slack.blocks(caused())
    assert "provider_5xx" not in str(blocks) and "`" not in str(blocks[:-1])
    assert blocks[-1]["type"] == "context"
    heading, commands = [element["text"] for element in blocks[-1]["elements"]]
    assert heading == "In a terminal" and commands.startswith("*Runbook:* `ops runbook open massive_down --incident")


@pytest.mark.parametrize("source", ["schedule", "collector", "prometheus"])
def test_alerts_without_a_rule_say_what_to_do_first(source: str) -> None:
    """Alerts about a missed job, from the collector and from an external monitor also answer the five questions."""
    made = body("firing")
    made["alerts"][0] |= {"rule": "schedule", "subject": "daily", "source": source, "runbook": None, "cause": ""}
    blocks = slack.blocks(message.compose(made, RULES, STAFF, WORKS))
    assert blocks[1]["text"]["text"].startswith("*Do first:* ")
    assert {"Since", "Whose fault", "Still works"} <= set(fields(blocks))
    assert (fields(blocks)["Whose fault"] == "ours: the monitoring") == (source != "prometheus")


def test_an_acknowledged_alert_names_its_owner() -> None:
    """The person who acknowledged is named as owner, and no next role is named; neither is one for severity notify."""
    made = body("repeat")
    made["alerts"][0] |= {"acked_by": "Ann"}
    answers = fields(slack.blocks(message.compose(made, RULES, STAFF, None)))
    assert answers["Owner"] == "Ann has acknowledged it" and "Next" not in answers
    made = body("firing", severity="notify")
    made["alerts"][0] |= {"severity": "notify"}
    shown = slack.blocks(message.compose(made, RULES, STAFF, None))
    assert "Next" not in fields(shown) and fields(shown)["Whose fault"] == "not determined yet"
    assert shown[0]["text"]["text"].startswith("▲ Severity notify: availability of massive")


def test_resolved_and_ended_have_different_signs() -> None:
    """A resolved alert and one that ended without being resolved have different signs and words."""
    works = replace(WORKS, things=[thing._replace(state="works") for thing in WORKS.things])
    over = message.compose(body("over"), RULES, STAFF, works)
    assert (
        slack.blocks(over)[0]["text"]["text"]
        == "✓ Resolved: availability of Massive (now 99.80 %, worst 0.00 %, over 10 min)"
    )
    assert fields(slack.blocks(over))["Since"].split("\n")[1].startswith("resolved at 11:24 New York")
    made = body("over")
    made["alerts"][0] |= {"how": "ended"}
    assert slack.blocks(message.compose(made, RULES, STAFF, None))[0]["text"]["text"].startswith("? Ended: ")


def test_a_button_without_an_address_is_left_out() -> None:
    """There are no buttons if the address of JupyterLab is not set or too long."""
    assert "actions" not in {b["type"] for b in slack.blocks(message.compose(body(), RULES, Contacts(), None))}
    far = Contacts(lab_url=f"https://lab.example/{'x' * 3000}")
    assert "actions" not in {b["type"] for b in slack.blocks(message.compose(body(), RULES, far, None))}


OUTSIDE = st.one_of(
    st.text(max_size=400),
    st.text(alphabet="&<>*_`~@!|# \n", max_size=200),
    st.builds(
        lambda part, n: part * n, st.sampled_from(["&", "<", "x", "<!channel> ", "`", "word "]), st.integers(1, 4000)
    ),
)


def _code(text: str) -> Code:
    """Return a command. Hypothesis would invert the class itself and then draw values of it."""
    return Code(text)


@given(
    title=OUTSIDE,
    headline=OUTSIDE,
    detail=OUTSIDE,
    kind=st.sampled_from(["firing", "rose", "repeat", "unheard", "over", "passed", "report", "said"]),
    lines=st.lists(
        st.tuples(
            st.sampled_from(
                ["", "Since", "Whose fault", "Still works", "Does not work", "Owner", "Do first", "x" * 4000]
            ),
            st.one_of(OUTSIDE, OUTSIDE.map(_code)),
        ),
        max_size=70,
    ),
    pages=st.lists(
        st.tuples(
            OUTSIDE.map(lambda name: f"page {name}"),
            st.integers(0, 4000).map(lambda n: f"https://lab.example/{'x' * n}"),
        ),
        max_size=30,
    ),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_every_message_is_within_slacks_limits(
    title: str, headline: str, detail: str, kind: str, lines: list[tuple[str, str]], pages: list[tuple[str, str]]
) -> None:
    """Slack accepts the blocks whatever the texts are; each command is complete or left out."""
    what = Message(
        "x-1", kind, "critical", f"[x] {title}", tuple(lines), "", body(kind), headline, detail, tuple(pages)
    )
    blocks = slack.blocks(what)
    assert problems(blocks) == []
    whole = {str(words) for _, words in what.lines}
    texts = [b["text"] for b in blocks if b["type"] == "section" and "text" in b]
    texts += [e for b in blocks if b["type"] == "context" for e in b["elements"]]
    shown = "\n".join(text["text"] for text in texts)
    for span in re.findall(r"```(.+?)```(?!`)|(?<!`)`([^`\n]+)`(?!`)", shown):
        assert html.unescape(span[0] or span[1]) in whole


def test_a_secret_is_removed_before_a_text_is_cut(tmp_path: Any) -> None:
    """Secrets are redacted before long texts are truncated, so no part of a secret is left."""
    settings = found(tmp_path)
    secret = settings.secret("OPS_CHANNEL_X")
    assert secret
    for before in range(130, 152):
        what = Message("x-1", "said", "notify", "x" * before + secret, (), "", body())
        assert secret[:8] not in str(slack.payload(what.redacted(settings.redact)))
