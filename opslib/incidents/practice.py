"""Keep the record of a dry-run incident in memory only."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from opslib.foundation import clock
from opslib.foundation.config.settings import Settings
from opslib.incidents import evidence
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident, from_entries

PRACTICE = "practice"


class DryRunIncidents:
    """The record of a dry-run incident; nothing of it is stored."""

    def __init__(
        self,
        settings: Settings,
        now: datetime,
        title: str,
        subject: str,
        severity: str,
        runbook: str,
        more: Mapping[str, Any] | None = None,
    ):
        self._settings, self._now = settings, now
        self._entries: list[Entry] = []
        self.append(
            PRACTICE,
            "opened",
            {
                "title": title,
                "subject": subject,
                "severity": severity,
                "runbook": runbook,
                "how": PRACTICE,
                "words": "dry run opened: nothing is stored",
            }
            | dict(more or {}),
        )

    def read(self, name: str) -> Incident:
        """Return the incident of the dry run."""
        return from_entries(name, self._entries)

    def append(
        self, name: str, kind: str, body: Mapping[str, Any], *, by: str = "", key: str = "", at: datetime | None = None
    ) -> Entry | None:
        """Add an entry as `Incidents.append` does, in memory only."""
        if key and any(e.key == key for e in self._entries):
            return None
        now_us = clock.micros(self._now)
        self._entries.append(
            evidence.linked(
                self._entries[-1] if self._entries else None,
                at_us=now_us,
                known_at_us=now_us,
                kind=kind,
                by=by,
                key=key,
                body=body,
                settings=self._settings,
            )
        )
        return self._entries[-1]
