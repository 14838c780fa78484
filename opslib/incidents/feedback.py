"""Keep what people think of the monitoring: missed data, noise, something useful; one chained record."""

from datetime import datetime
from typing import NamedTuple

from opslib.foundation import clock, formatting
from opslib.foundation.clock import Window
from opslib.foundation.errors import UsageError
from opslib.incidents.store import EntryStore

MISSED, NOISE, USEFUL = "missed-data", "noise", "useful"
KINDS = (MISSED, NOISE, USEFUL)
RECORD, SHELF, ENTRY = "feedback", "feedback", "feedback"


class Opinion(NamedTuple):
    """What somebody thinks: when, of what kind, of which alert (empty: of none), who, in their words."""

    at_us: int
    kind: str
    alert: str
    author: str
    words: str


class Feedback:
    """What people said of one app's monitoring."""

    def __init__(self, records: EntryStore):
        self.records = records

    def give(self, kind: str, words: str, by: str, alert: str = "", at: datetime | None = None) -> Opinion:
        """
        Write down what somebody thinks; on the disk before this returns.

        Raises:
            UsageError: There is no such kind; noise is of an alert; what was missed is said in words.
        """
        if kind not in KINDS:
            raise UsageError(f"feedback is {', '.join(KINDS)}; found {kind!r}.{formatting.nearest(kind, KINDS)}")
        if kind == NOISE and not alert:
            raise UsageError("which alert was noise? Name it with --alert, as ops alerts has it.")
        if kind == MISSED and not words.strip():
            raise UsageError("what was missed? Say it in a few words.")
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
        assert entry is not None  # Without a key there is none before it.
        self.records.copy(SHELF, RECORD)
        return Opinion(entry.at_us, kind, alert, entry.by, str(entry.body["words"]))

    def within(self, window: Window, known_at: datetime | None = None) -> list[Opinion]:
        """What was said of (start, end], as known at a moment (None: all), in order of time."""
        found = self.records.read(RECORD, known_at)
        entries = found.of_kind(ENTRY) if found else []
        return sorted(
            Opinion(e.at_us, e.body["what"], e.body["alert"], e.by, e.body["words"])
            for e in entries
            if window.start_us < e.at_us <= window.end_us
        )
