"""Store feedback about the monitoring (missed data, noise, useful) in one hash-chained record."""

from datetime import datetime
from typing import NamedTuple

from opslib.foundation import clock, formatting
from opslib.foundation.clock import Window
from opslib.foundation.errors import UsageError
from opslib.incidents.store import EntryStore

MISSED, NOISE, USEFUL = "missed-data", "noise", "useful"
KINDS = (MISSED, NOISE, USEFUL)
RECORD, FOLDER, ENTRY = "feedback", "feedback", "feedback"


class Opinion(NamedTuple):
    """One piece of feedback: time, kind, alert (empty if none), author, text."""

    at_us: int
    kind: str
    alert: str
    author: str
    words: str


class Feedback:
    """The feedback about one app's monitoring."""

    def __init__(self, records: EntryStore):
        self.records = records

    def give(self, kind: str, words: str, by: str, alert: str = "", at: datetime | None = None) -> Opinion:
        """
        Store feedback; committed before this returns.

        Raises:
            UsageError: The kind is unknown; noise without an alert; missed data without a text.
        """
        if kind not in KINDS:
            raise UsageError(
                f"the kind of feedback must be one of {', '.join(KINDS)}; found {kind!r}."
                f"{formatting.nearest(kind, KINDS)}"
            )
        if kind == NOISE and not alert:
            raise UsageError("feedback 'noise' needs an alert: give its id with --alert. ops alerts lists the ids.")
        if kind == MISSED and not words.strip():
            raise UsageError("feedback 'missed-data' needs a text: say in a few words what was missed.")
        with self.records.store.committing() as connection:
            self.records.put(connection, RECORD, "opened", {"title": "feedback", "words": "opened"}, "", "opened", None)
            entry = self.records.put(
                connection,
                RECORD,
                ENTRY,
                {"what": kind, "alert": alert, "words": formatting.single_line(words.strip())},
                by,
                "",
                clock.micros(at) if at else None,
            )
        assert entry is not None  # An entry without a key is always written.
        self.records.copy(FOLDER, RECORD)
        return Opinion(entry.at_us, kind, alert, entry.by, str(entry.body["words"]))

    def within(self, window: Window, known_at: datetime | None = None) -> list[Opinion]:
        """Return the feedback about (start, end], as known at a time (None: all), in order of time."""
        found = self.records.read(RECORD, known_at)
        entries = found.of_kind(ENTRY) if found else []
        return sorted(
            Opinion(e.at_us, e.body["what"], e.body["alert"], e.by, e.body["words"])
            for e in entries
            if window.start_us < e.at_us <= window.end_us
        )
