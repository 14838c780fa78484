"""
Parse and validate the app's dashboard metrics: field names, units and known defects.

A page posts the content of its metrics service (counters since the page load, running means, flags). `read` converts
that into a `Snapshot`: typed, with our names and units, and None for values that are missing or not usable.

Fields that are never read, because the app computes them wrongly: ``uptime`` of a provider (rounded, cumulative, 100
without requests), ``avgResponseTimeMs`` and ``apiAvgResponseTimeMs`` (rounded at each step until they freeze),
``costImpactPercent`` (keeps an old value), ``webSocketLatencyMs`` (not a round trip, constant while disconnected).
They remain in the body, which is stored unchanged.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from opslib.foundation.errors import BadSnapshot
from opslib.foundation.storage.snapshot_columns import FIELDS, PROVIDERS, WIRED_FIELDS, Field, SnapshotRow

LARGEST_COUNT = 2**53
EARLIEST_MS, LATEST_MS = 946_684_800_000, 4_102_444_800_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    One snapshot that a page posted.

    Attributes:
        values: `FIELDS` by name, ``load_ms`` and ``errors_by_type``; None is unknown.
        digest: SHA-256 of the canonical JSON; a repeated body is the same snapshot.
        body: The JSON as posted, in UTF-8.
    """

    values: Mapping[str, Any]
    digest: bytes
    body: bytes

    def wired(self) -> Iterator[str]:
        """Yield the `WIRED_FIELDS` that this snapshot shows to be wired."""
        return (name for name, columns in WIRED_FIELDS.items() if any(self.values[c] for c in columns))


def wired_fields(snapshot: SnapshotRow) -> Iterator[str]:
    """Yield the `WIRED_FIELDS` that a stored snapshot shows to be wired."""
    return (name for name, columns in WIRED_FIELDS.items() if any(getattr(snapshot, c) for c in columns))


def loads(body: bytes) -> Any:
    """
    Parse standard JSON: UTF-8, no NaN, no Infinity.

    Raises:
        BadSnapshot: It is not standard JSON.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a valid JSON number")

    def finite(number: str) -> float:
        value = float(number)
        return value if math.isfinite(value) else refuse(number)

    try:
        return json.loads(body.decode("utf-8-sig"), parse_constant=refuse, parse_float=finite)
    except RecursionError:
        raise BadSnapshot(["the JSON of the body is nested too deeply; expected dashboard metrics"]) from None
    except ValueError as problem:
        raise BadSnapshot([f"the body is not valid JSON in UTF-8: {problem}"]) from None


def _value(field: Field, found: Any) -> tuple[Any, str | None]:
    """Return the value of one field, and what was expected if it is bad."""
    if found is None:
        return None, None
    if field.kind == "flag":
        return (found, None) if isinstance(found, bool) else (None, "true or false")
    if field.kind == "text":
        if not isinstance(found, str):
            return None, "text"
        if field.name == "page_id":
            return (
                (found, None)
                if 0 < len(found) <= 128 and found.isprintable()
                else (None, "1 to 128 printable characters")
            )
        return _printable(found[:500]), None
    whole = isinstance(found, int) or (isinstance(found, float) and found.is_integer())
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None, "a number"
    if field.kind == "number":
        return (
            (float(found), None) if abs(found) <= LARGEST_COUNT and math.isfinite(found) else (None, "a finite number")
        )
    if field.kind == "millis":
        return (
            (int(found), None)
            if EARLIEST_MS <= found <= LATEST_MS
            else (None, "milliseconds since 1970, in this century")
        )
    return (int(found), None) if whole and 0 <= found <= LARGEST_COUNT else (None, "a whole number of 0 or more")


def _printable(outside: str) -> str:
    """Make text storable in every database: without lone surrogates and NUL."""
    return outside.encode("utf-8", "replace").decode().replace("\0", " ")


def _by_type(found: Any) -> tuple[str | None, str | None]:
    """Return errorsByType as JSON; an empty object is a Map that JSON lost, so it is unknown."""
    if found is None or found == {}:
        return None, None
    count = Field("errors_by_type", (), "count")
    if not isinstance(found, dict) or any(v is None or _value(count, v)[1] for v in found.values()) or len(found) > 200:
        return None, "an object of counts"
    return json.dumps({_printable(kind)[:100]: int(v) for kind, v in found.items()}, sort_keys=True), None


def read(metrics: Any, body: bytes | None = None) -> Snapshot:
    """
    Validate dashboard metrics, and convert them to a snapshot.

    What the app does is accepted (missing keys, null for NaN, ``{}`` for a Map, unknown extra keys); anything else is
    rejected. ``lastUpdateAt`` is required: without it, pages and snapshots cannot be distinguished.

    Args:
        metrics: The parsed JSON.
        body: The posted bytes; made from `metrics` if None.

    Raises:
        BadSnapshot: It names every bad field.
    """
    if not isinstance(metrics, dict):
        raise BadSnapshot([f"the body is a JSON {type(metrics).__name__}; expected an object with dashboard metrics"])
    bad: list[str] = []
    values: dict[str, Any] = {}
    tops = ("providers", "greeksQuality", "pnl", "systemHealth")
    if not any(top in metrics for top in tops):
        bad.append(f"none of {', '.join(tops)} is present; expected at least one")
    objects: dict[tuple[str, ...], Any] = {(top,): metrics.get(top) for top in (*tops, "client")}
    if isinstance(metrics.get("providers"), dict):
        objects |= {("providers", p): metrics["providers"].get(p) for p in PROVIDERS}
    for path, part in objects.items():
        if part is not None and not isinstance(part, dict):
            bad.append(f"{'.'.join(path)} is {_shown(part)}, expected an object")
    for field in FIELDS:
        found: Any = metrics
        for key in field.path:
            found = found.get(key) if isinstance(found, dict) else None
        values[field.name], wrong = _value(field, found)
        if wrong:
            bad.append(f"{'.'.join(field.path)} is {_shown(found)}, expected {wrong}")
    system = metrics.get("systemHealth")
    by_type = system.get("errorsByType") if isinstance(system, dict) else None
    values["errors_by_type"], wrong = _by_type(by_type)
    if wrong:
        bad.append(f"systemHealth.errorsByType is {_shown(by_type)}, expected {wrong}")
    if metrics.get("lastUpdateAt") is None:
        bad.append("lastUpdateAt is missing; it is required to distinguish snapshots")
    clock, uptime = values["page_clock_ms"], values["uptime_s"]
    if uptime is not None and not 0 <= uptime * 1000 <= (clock or LATEST_MS) - EARLIEST_MS:
        bad.append(
            f"systemHealth.uptime is {uptime:g}, expected seconds of 0 or more, since a page load in this century"
        )
    for part, whole in [(f"{p}_successes", f"{p}_requests") for p in PROVIDERS] + [("greeks_valid", "validations")]:
        if values[part] is not None and values[whole] is not None and values[part] > values[whole]:
            bad.append(f"{part} {values[part]} is greater than {whole} {values[whole]}")
    if bad:
        raise BadSnapshot(bad)
    values["load_ms"] = None if uptime is None else clock - round(uptime * 1000)
    try:
        canonical = json.dumps(metrics, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:
        raise BadSnapshot(["a number in it is not finite"]) from None
    except RecursionError:
        raise BadSnapshot(["the JSON of the body is nested too deeply; expected dashboard metrics"]) from None
    return Snapshot(values, hashlib.sha256(canonical).digest(), body if body is not None else canonical)


def _shown(found: Any) -> str:
    """Format a bad value for a message."""
    shown = repr(found)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
