"""Test text from outside: it reaches people without anything that a terminal, mail client or chat would interpret."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.cli import main
from opslib.foundation import formatting
from opslib.services.notifying import NotificationTasks
from tests.alerting.notifications.test_message_commands import OBEYED

OBEYED_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
EVIL = "a\x1b[31mb\x1b]0;title\x07\x9b2J\u202ec\u2066d\u200be\u2028f\U000e0041g"
ANY = st.text(
    st.one_of(
        st.characters(codec=None, exclude_categories=()),
        st.sampled_from("\x1b\x9b[]31m;\r\n\t\u202e\u200d\u2028\ud800\U000e0041"),
    )
)


def test_zero_has_no_sign() -> None:
    """A value that is rounded to zero is shown without a minus."""
    assert formatting.number(-0.001, "MB", 2) == "0.00 MB" and formatting.number(-0.01, "MB", 2) == "-0.01 MB"
    assert formatting.ratio(-0.00001) == "0.00 %" and formatting.number(-1234.5) == "-1,234.50"
    assert formatting.dollars(-0.004) == "$0.00" and formatting.dollars(-0.01) == "-$0.01"


def test_every_control_character_is_removed() -> None:
    """
    Of all Unicode characters, control, format, surrogate and separator characters are removed, but not newline and tab.

    Every visible character is kept.
    """
    kept = {chr(c) for c in range(0x110000) if formatting.printable(chr(c)) == chr(c)}
    assert not [c for c in kept if unicodedata.category(c) in OBEYED_CATEGORIES and c not in "\n\t"]
    lost = {chr(c) for c in range(0x110000)} - kept
    assert {unicodedata.category(c) for c in lost} <= {*OBEYED_CATEGORIES, "Lo", "Mn", "Cn"} and not [
        c
        for c in lost
        if unicodedata.category(c) in ("Lo", "Mn")
        and unicodedata.name(c, "").split()[-1] not in ("FILLER", "JOINER", "AA", "AQ")
        and "VARIATION SELECTOR" not in unicodedata.name(c, "")
    ]


@pytest.mark.parametrize(
    ("outside", "shown"),
    [
        ("plain, naïve, 日本語, \U0001f600, ∗ 99.7 %", "plain, naïve, 日本語, \U0001f600, ∗ 99.7 %"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("a\r\nb\tc\n", "a\nb\tc\n"),
        ("a\rb\x0bc\x0cd\x85e\u2028f\u2029g", "a b c d e f g"),
        ("gpj.\u202eexe", "gpj.exe"),
        ("\u2067\u200fx\u2069\u061c", "x"),
        ("\U0001f469\u200d\U0001f4bb", "\U0001f469\U0001f4bb"),
        ("zero\u200b\u2060\ufeffwidth\u00ad", "zerowidth"),
        ("tag\U000e0001\U000e0061", "tag"),
        ("\ud800lone\udfff", " lone "),
        ("\x1b]0;t\x07", " ]0;t "),
        ("\x1b\x1b[31m[31m", " [31m"),
    ],
)
def test_printable(outside: str, shown: str) -> None:
    """
    Invisible characters and colours are removed, other control characters become spaces, line breaks and tabs are kept.
    """
    assert formatting.printable(outside) == shown


@given(ANY)
def test_printable_holds_for_any_text(outside: str) -> None:
    """The result has no control characters and does not change if it is cleaned again; a single line remains one."""
    shown = formatting.printable(outside)
    assert (
        not OBEYED.search(shown) and formatting.printable(shown) == shown and shown.isprintable() <= ("\n" not in shown)
    )
    assert formatting.single_line(outside, 10**6).isprintable()


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), ANY),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(ANY, inner)),
        max_leaves=8,
    )
)
def test_json_keeps_its_values_with_control_characters_escaped(values: Any) -> None:
    """A JSON document has the same values, with control characters written as escapes."""
    shown = formatting.escaped_json(json.dumps(values, ensure_ascii=False, indent=1))
    assert json.loads(shown) == json.loads(json.dumps(values)) and not OBEYED.search(shown)


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    out = capsys.readouterr()
    assert not OBEYED.search(out.out) and not OBEYED.search(out.err), (out.out, out.err)
    return out.out + out.err


def test_text_from_outside_has_no_control_characters_on_the_terminal(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """
    No command prints control characters from outside, as text or JSON.

    They may come in labels of another monitor, names, notes, titles, markers, reasons, feedback, file names, arguments
    and error types.
    """
    from opslib import desk
    from opslib.alerting.notifications import external_alerts
    from opslib.foundation.config.contacts import Contacts

    page = {"providerUptime": {}, "errorsByType": {}, EVIL: EVIL, "page": EVIL}
    (bad := tmp_path / "rows\x1b[31m\u202e.jsonl").write_text(
        json.dumps({"ts": "2026-03-10T15:00:00Z", "page": EVIL, "metrics": page}) + "\n"
    )
    found = desk.open()
    alert = {
        "labels": {"alertname": "A", "severity": "critical", "instance": EVIL, "job": EVIL},
        "annotations": {"summary": EVIL, "description": EVIL},
        "startsAt": "2026-03-10T15:00:00Z",
        "endsAt": "2199-01-01T00:00:00Z",
    }
    found.notifications.store_external_alerts(external_alerts.read(json.dumps([alert]).encode(), found.now()).alerts)
    notifying = NotificationTasks(found.store, found.settings, found.rules, Contacts())
    notifying.plan()
    typed = [
        ("import", str(bad)),
        ("import", "--rejects"),
        ("mark", "note", EVIL, "--by", EVIL),
        ("incident", "open", EVIL, "--by", EVIL, "--subject", EVIL),
        ("incident", "note", EVIL, EVIL, "--by", EVIL),
        ("incident", "list"),
        ("incident", "show"),
        ("silence", "add", "--subject", EVIL, "--for", "2h", "--reason", EVIL, "--by", EVIL),
        ("silence", "list"),
        ("silence", "end", EVIL),
        ("notify",),
        ("notify", "--test", EVIL),
        ("alerts",),
        ("status",),
        ("feedback", "missed-data", EVIL, "--by", EVIL),
        ("runs",),
        ("ack", EVIL),
        ("runbook", "open", EVIL),
        ("runbook", "show", EVIL),
        ("postmortem", EVIL),
        ("checklist", EVIL),
        ("greeks", EVIL),
        ("greeks", str(tmp_path / f"{EVIL}.csv".replace("/", ""))),
        ("pnl", str(bad)),
        ("run", EVIL),
        ("verify", EVIL),
        ("report", "daily", "--day", EVIL),
        ("status", "--as-of", EVIL),
        ("--app", EVIL, "status"),
        ("--home", str(tmp_path / "h\x1b[31m\u202e"), "ack", "x"),
        (EVIL,),
        ("drill", EVIL),
        ("rules", "test", EVIL),
        ("export", "snapshots", "--day", EVIL),
        ("handover",),
        ("incident", "handover", "--to", EVIL, "--by", EVIL),
    ]
    capsys.readouterr()
    for words in typed:
        for how in ("text", "json"):
            assert main.main([*words, "-o", how]) in (0, 1, 2, 3, 64, 70), words
            shown(capsys)
    sent = [notifying.sender.rendered(d.message) for d, _ in found.notifications.deliveries()]
    assert sent and not [m for m in sent if OBEYED.search(m.plain) or OBEYED.search(m.slack) or OBEYED.search(m.html())]


def test_a_file_name_that_is_not_utf8(home: Path, tmp_path: Path) -> None:
    """A file whose name is not UTF-8 is rejected with its name, without control characters, and with exit code 70."""
    name = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9\x1b[31m.jsonl")
    Path(name).write_bytes(b"nonsense\n")
    ended = subprocess.run([sys.executable, "-m", "opslib.cli", "import", name], capture_output=True, timeout=280)
    assert (
        ended.returncode == 70
        and b"Traceback" not in ended.stderr
        and not OBEYED.search(ended.stderr.decode())
        and b"caf" in ended.stderr
    )
