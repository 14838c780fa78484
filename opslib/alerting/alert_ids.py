"""Describe alerts by their IDs, which are rule, subject, source and the time when they began."""

import re

_ID = re.compile(r"(?P<rule>[a-z0-9_]+)-(?P<subject>.+)-(?P<source>page|probe|chain|logs|fills)-\d{8}T\d{6}Z")


def describe(alert: str) -> str:
    """Return ``availability of massive, page`` for an alert's ID; the ID itself for one of an external monitor."""
    found = _ID.fullmatch(alert)
    if not found:
        return alert
    subject = "" if found["subject"] == "app" else f" of {found['subject']}"
    return f"{found['rule']}{subject}, {found['source']}"
