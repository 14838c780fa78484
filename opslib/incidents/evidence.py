"""
Keep what was seen and done so that no later edit goes unnoticed: canonical bytes, no secrets, a hash chain.

An entry is one line of JSON in one form only. Its digest covers all of it and the digest of the entry before, so the
last digest (the head) stands for the whole record. Who can rewrite a record can compute a new chain; that is why heads
are
told elsewhere too: in the ledger, in the message that says an incident is over, in the printed postmortem.
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

BEGINNING = "0" * 64  # What stands before the first entry.
LONGEST_TEXT, MOST_ITEMS, MOST_BYTES = 4_000, 1_000, 256_000
CUT = "bounded"  # Under this key an entry says what of it was left out.
EDITED, MISSING, FORMULA, HEAD = "edited", "missing", "formula changed", "chain head differs"


class Entry(NamedTuple):
    """
    One thing that was seen, said or done; never changed afterwards.

    Attributes:
        seq: Its place in the record of its incident, from 1.
        at_us, known_at_us: When it happened, and when it was written down; microseconds since 1970.
        kind: What it is, such as ``alert``, ``step``, ``note``.
        by: Who; empty is the suite itself.
        key: What it is the only one of; empty where there may be several.
        body: What it says, JSON, without secrets.
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
        """By which it is cited: ``E7``."""
        return f"E{self.seq}"

    @property
    def line(self) -> str:
        """The entry as the record keeps it."""
        return canonical(_told(self) | {"digest": self.digest}).decode()


class IntegrityError(NamedTuple):
    """
    Something that is not as it was recorded: what, why (edited, missing, formula changed, chain head differs), and how
    it shows.
    """

    what: str
    why: str
    how: str = ""


def canonical(found: Any) -> bytes:
    """
    The only bytes that stand for a value: JSON with sorted keys, no blanks, UTF-8.

    Raises:
        OpsError: It holds a number that is none (NaN, infinity), or something that is not JSON.
    """
    try:
        return (
            json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            .encode("utf-8", "surrogatepass")
            .decode("utf-8", "replace")
            .encode()
        )
    except (TypeError, ValueError) as problem:
        raise OpsError(f"what is kept as evidence is JSON, with numbers that are numbers: {problem}.") from None


def plain(found: Any) -> Any:
    """Python values as JSON has them: times as UTC with Z, money as exact text, what is no number as null."""
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
    The same with every secret replaced by its name in brackets, wherever in it one stands: before anything is cut or
    hashed.
    """
    if isinstance(found, str):
        return settings.redact(found)
    if isinstance(found, dict):
        return {settings.redact(key): redacted(value, settings) for key, value in found.items()}
    return [redacted(value, settings) for value in found] if isinstance(found, list) else found


def truncated(found: Any) -> tuple[Any, list[str]]:
    """The same, no larger than can be kept, and in words what was left out; what is left out is never the beginning."""
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
            f"all of it: {size:,} bytes, more than {MOST_BYTES:,}; SHA-256 "
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
    """The next entry of a record: made plain, scrubbed, bounded, then hashed."""
    kept, cut = truncated(redacted(plain(body), settings))
    said = (kept if kept is not None else {"words": "too large to keep"}) | ({CUT: cut} if cut else {})
    found = Entry(
        before.seq + 1 if before else 1,
        at_us,
        known_at_us,
        kind,
        settings.redact(by),
        settings.redact(key),
        said,
        before.digest if before else BEGINNING,
        "",
    )
    return found._replace(digest=digest(found))


def digest(entry: Entry) -> str:
    """SHA-256 of an entry and, through `previous`, of all before it."""
    return hashlib.sha256(canonical(_told(entry))).hexdigest()


def _told(entry: Entry) -> dict[str, Any]:
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
    An entry as `Entry.line` wrote it.

    Raises:
        OpsError: The line is none.
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
            f"an entry of a record was wanted, found {formatting.single_line(line, 60)!r} "
            f"({problem.__class__.__name__})."
        ) from None


def checked(lines: Iterable[str]) -> tuple[list[Entry], list[IntegrityError]]:
    """
    Is a record as it was written?

    Returns:
        The entries that can be read, in order, and what is broken: an entry whose bytes were edited, one that is
            missing or
        out of place. A record that was rewritten whole is sound in itself; only its head, told elsewhere, shows it.
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
            broken.append(IntegrityError(entry.id, EDITED, "its bytes do not give its SHA-256"))
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
                    f"{entry.id} follows E{wanted - 1}",
                )
            )
        elif before and entry.previous != before.digest and not any(b.what == before.id for b in broken):
            broken.append(IntegrityError(before.id, EDITED, f"{entry.id} was written after another {before.id}"))
        elif n == 1 and entry.previous != BEGINNING:
            broken.append(IntegrityError(entry.id, EDITED, "it is the first, and names one before it"))
        entries.append(entry)
        before = entry
    return entries, broken
