"""Describe alerts by their IDs, which are rule, subject, source and the time when they began."""

import re

_ID = re.compile(r"(?P<rule>[a-z0-9_]+)-(?P<subject>.+)-(?P<source>page|probe|chain|logs|fills)-\d{8}T\d{6}Z")


def describe(alert: str) -> str:
    """Return ``availability of massive, page`` for an alert's ID; an external alert's ID stays as it is."""
    found = _ID.fullmatch(alert)
    if not found:
        return alert
    return f"{found['rule']}{of_subject(found['subject'])}, {found['source']}"


def of_subject(subject: str) -> str:
    """Return `` of massive``, which follows the name of a rule; empty for the app."""
    return {"app": "", "monitor": " of the collector's machine"}.get(subject, f" of {subject}")
