"""
Build append-only record entries: canonical JSON, redacted, in a hash chain that reveals later edits.

An entry is one line of canonical JSON. Its digest covers the entry and the digest of the entry before, so the last
digest (the head) covers the whole record. A person who can rewrite a record can also compute a new chain. Therefore the
head is also stored elsewhere: in the ledger, in the entry that resolves an incident, and in the postmortem.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import OpsError

BEGINNING = "0" * 64  # The previous digest of the first entry.
LONGEST_TEXT, MOST_ITEMS, MOST_BYTES = 4_000, 1_000, 256_000
CUT = "bounded"  # The key under which an entry lists what was truncated.
EDITED, MISSING, FORMULA, HEAD = "edited", "missing", "formula changed", "chain head differs"


class Entry(NamedTuple):
    """
    One recorded event; never changed afterwards.

    Attributes:
        seq: Its number in the record, from 1.
        at_us, known_at_us: When it happened, and when it was written; microseconds since 1970.
        kind: Its kind, such as ``alert``, ``step``, ``note``.
        by: The person who recorded it; empty: ops itself.
        key: A key that at most one entry of the record has; empty if there may be several.
        body: Its content, JSON, without secrets.
        previous, digest: SHA-256 of the entry before, and of this one.
    """

    seq: int
    at_us: int
    known_at_us: int
    kind: str
    by: str
    key: str
    body: dict[str, Any]
    previous: str
    digest: str

    @property
    def id(self) -> str:
        """The id used in references: ``E7``."""
        return f"E{self.seq}"

    @property
    def kind_name(self) -> str:
        """Its kind as people read it; the stored words stay."""
        return "notification" if self.kind == "told" else self.kind

    @property
    def line(self) -> str:
        """The entry as one line of the record."""
        return canonical(_fields(self) | {"digest": self.digest}).decode()


class IntegrityError(NamedTuple):
    """One integrity error: what, why (edited, missing, formula changed, chain head differs), and how it was found."""

    what: str
    why: str
    how: str = ""


def canonical(found: Any) -> bytes:
    """
    Return the canonical bytes of a value: JSON with sorted keys, without spaces, UTF-8.

    Raises:
        OpsError: It contains NaN or infinity, or something that is not JSON.
    """
    try:
        return (
            json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            .encode("utf-8", "surrogatepass")
            .decode("utf-8", "replace")
            .encode()
        )
    except (TypeError, ValueError) as problem:
        raise OpsError(f"evidence must be JSON with finite numbers: {problem}.") from None


def plain(found: Any) -> Any:
    """Convert Python values to JSON values: times as UTC with Z, decimals as exact text, NaN and infinity as null."""
    match found:
        case bool() | int() | str() | None:
            return found
        case float():
            return found if math.isfinite(found) else None
        case datetime():
            return formatting.iso(found)
        case date():
            return found.isoformat()
        case timedelta():
            return found.total_seconds()
        case Decimal():
            return str(found)
        case bytes():
            return found.decode("utf-8", "replace")
        case Mapping():
            return {str(key): plain(value) for key, value in found.items()}
        case _ if hasattr(found, "_asdict"):
            return plain(found._asdict())
        case _ if isinstance(found, Iterable):
            return [plain(value) for value in found]
    return str(found)


def redacted(found: Any, settings: Settings) -> Any:
    """
    Replace every secret in a JSON value by its name in brackets.

    This happens before anything is truncated or hashed.
    """
    if isinstance(found, str):
        return settings.redact(found)
    if isinstance(found, dict):
        return {settings.redact(key): redacted(value, settings) for key, value in found.items()}
    return [redacted(value, settings) for value in found] if isinstance(found, list) else found


def truncated(found: Any) -> tuple[Any, list[str]]:
    """Truncate a JSON value to the size limits; return it with a description of each cut. The beginning is kept."""
    cut: list[str] = []

    def shorter(value: Any, place: str) -> Any:
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            cut.append(
                f"{place or 'text'}: {LONGEST_TEXT:,} of {len(value):,} characters kept, SHA-256 of all "
                f"{hashlib.sha256(value.encode('utf-8', 'replace')).hexdigest()}"
            )
            return value[:LONGEST_TEXT]
        if isinstance(value, list):
            if len(value) > MOST_ITEMS:
                cut.append(f"{place or 'list'}: {MOST_ITEMS:,} of {len(value):,} items kept")
            return [shorter(item, f"{place}[{i}]") for i, item in enumerate(value[:MOST_ITEMS])]
        return (
            {key: shorter(item, f"{place}.{key}".lstrip(".")) for key, item in value.items()}
            if isinstance(value, dict)
            else value
        )

    kept = shorter(found, "")
    size = len(canonical(kept))
    if size > MOST_BYTES:
        return None, [
            f"the whole entry: {size:,} bytes, more than {MOST_BYTES:,}; SHA-256 "
            f"{hashlib.sha256(canonical(kept)).hexdigest()}"
        ]
    return kept, cut


def linked(
    before: Entry | None,
    *,
    at_us: int,
    known_at_us: int,
    kind: str,
    by: str,
    key: str,
    body: Mapping[str, Any],
    settings: Settings,
) -> Entry:
    """Build the next entry of a record: converted to JSON, redacted, truncated, then hashed."""
    kept, cut = truncated(redacted(plain(body), settings))
    content = (kept if kept is not None else {"words": "too large to store"}) | ({CUT: cut} if cut else {})
    found = Entry(
        before.seq + 1 if before else 1,
        at_us,
        known_at_us,
        kind,
        settings.redact(by),
        settings.redact(key),
        content,
        before.digest if before else BEGINNING,
        "",
    )
    return found._replace(digest=digest(found))


def digest(entry: Entry) -> str:
    """Return the SHA-256 of an entry and, through `previous`, of all entries before it."""
    return hashlib.sha256(canonical(_fields(entry))).hexdigest()


def _fields(entry: Entry) -> dict[str, Any]:
    def at(us: int) -> str:
        return formatting.iso(clock.instant(us))

    return {
        "seq": entry.seq,
        "at": at(entry.at_us),
        "known_at": at(entry.known_at_us),
        "kind": entry.kind,
        "by": entry.by,
        "key": entry.key,
        "body": entry.body,
        "previous": entry.previous,
    }


def read(line: str) -> Entry:
    """
    Read an entry from a line that `Entry.line` wrote.

    Raises:
        OpsError: The line is not an entry.
    """
    try:
        found = json.loads(line)

        def us(key: str) -> int:
            return clock.micros(time_parsing.parse(found[key]))

        return Entry(
            int(found["seq"]),
            us("at"),
            us("known_at"),
            found["kind"],
            found["by"],
            found["key"],
            dict(found["body"]),
            found["previous"],
            found["digest"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, OpsError) as problem:
        raise OpsError(
            f"a record entry was expected, found {formatting.single_line(line, 60)!r} ({problem.__class__.__name__})."
        ) from None


def checked(lines: Iterable[str]) -> tuple[list[Entry], list[IntegrityError]]:
    """
    Check whether a record is as it was written.

    Returns:
        The readable entries, in order, and the errors: edited, missing or misplaced entries. A record that was
        rewritten as a whole has no errors; only its head, which is stored elsewhere, differs.
    """
    entries, broken, before = list[Entry](), list[IntegrityError](), None
    for n, line in enumerate(lines, 1):
        try:
            entry = read(line)
        except OpsError as problem:
            broken.append(IntegrityError(f"E{n}", EDITED, str(problem)))
            before = None
            continue
        if digest(entry) != entry.digest or line != entry.line:
            broken.append(IntegrityError(entry.id, EDITED, "its content does not match its SHA-256"))
        if before:
            wanted = before.seq + 1
        elif n == 1:
            wanted = 1
        else:
            wanted = entry.seq
        if entry.seq != wanted:
            broken.append(
                IntegrityError(
                    f"E{wanted}" if entry.seq == wanted + 1 else f"E{wanted} to E{entry.seq - 1}",
                    MISSING,
                    f"{entry.id} directly follows E{wanted - 1}",
                )
            )
        elif before and entry.previous != before.digest and not any(b.what == before.id for b in broken):
            broken.append(IntegrityError(before.id, EDITED, f"{entry.id} refers to a different {before.id}"))
        elif n == 1 and entry.previous != BEGINNING:
            broken.append(IntegrityError(entry.id, EDITED, "it is the first entry but refers to a previous one"))
        entries.append(entry)
        before = entry
    return entries, broken
