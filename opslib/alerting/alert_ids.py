"""Describe alerts by their IDs, which are rule, subject, source and the time when they began."""

import re
from collections.abc import Mapping
from types import MappingProxyType

# The names of the sources of figures for people, where they differ from the stored ones.
SOURCES = {"page": "app page", "probe": "probes", "chain": "chains", "logs": "log"}

_ID = re.compile(r"(?P<rule>[a-z0-9_]+)-(?P<subject>.+)-(?P<source>page|probe|chain|logs|fills)-\d{8}T\d{6}Z")


def describe(alert: str, titles: Mapping[str, str] = MappingProxyType({})) -> str:
    """
    Return ``availability of massive, app page`` for an alert's ID; an external alert's ID stays as it is.

    Args:
        titles: The title of each rule; a rule without one is named by its name.
    """
    found = _ID.fullmatch(alert)
    if not found:
        return alert
    return f"{titles.get(found['rule'], found['rule'])}{of_subject(found['subject'])}, {source_name(found['source'])}"


def source_name(source: str) -> str:
    """Return the name of a source, such as ``probes``; that of another system stays as it is."""
    return SOURCES.get(source, source)


def of_subject(subject: str) -> str:
    """Return `` of massive``, which follows the name of a rule; empty for the app."""
    return {"app": "", "monitor": " of the collector's machine"}.get(subject, f" of {subject}")
