"""Test the text of ops incident."""

import argparse
from dataclasses import replace
from pathlib import Path

from opslib import desk
from opslib.cli.commands import incidents
from opslib.foundation import time_parsing
from tests.support import demo


def test_a_resolved_incident_whose_alert_fires_says_so(tmp_path: Path) -> None:
    """It is listed and shown with its severity; after the alert has ended it is only resolved. The JSON is the same."""
    settings = demo.laid_out(tmp_path)

    def run(when: str, **options: object) -> incidents.Reply:
        now = time_parsing.parse(when)
        found = replace(desk.open("demo", tmp_path), settings=settings, now=lambda: now)
        return incidents.incident(found, argparse.Namespace(**{"html": False, "known_at": None, "words": []} | options))

    listed, later = (run(f"2026-03-10T{at}", what="list") for at in ("16:00", "16:01"))
    first, other = listed.words.splitlines()[1:3]
    assert first.split("  ")[1:3] == ["resolved; its alert still fires", "notify"] and "fires" not in other
    assert "fires" not in later.words and listed.values == later.values
    shown = run("2026-03-10T16:00", what="show", words=["2026-03-10-4"])
    assert "resolved; its alert still fires; severity notify" in shown.words
