"""Evidence: one canonical form for each value, no secrets, and every later change is detected."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import OpsError
from opslib.incidents import evidence
from opslib.incidents.evidence import EDITED, MISSING
from tests.support.snapshots import at, us

DESK = Settings(Path("/nowhere"), "desk", secrets={"OPS_MASSIVE_TOKEN": 'tok-123456789/äö"x'})
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda c: st.lists(c, max_size=4) | st.dictionaries(st.text(max_size=8), c, max_size=4),
    max_leaves=12,
)


def chain(*bodies: dict) -> list[evidence.Entry]:
    """Return linked entries with these bodies."""
    found: list[evidence.Entry] = []
    for n, body in enumerate(bodies):
        found.append(
            evidence.linked(
                found[-1] if found else None,
                at_us=us(n),
                known_at_us=us(n),
                kind="note",
                by="Ann",
                key="",
                body=body,
                settings=DESK,
            )
        )
    return found


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_the_order_of_keys_changes_nothing(body: dict) -> None:
    """Equal values have equal bytes whatever the order of keys; a line that is read gives the same entry."""
    (one,), (other,) = chain(body), chain(dict(reversed(body.items())))
    assert one.line == other.line and evidence.read(one.line) == one and evidence.checked([one.line]) == ([one], [])


@given(st.integers(0, 10**6), st.integers(1, 255))
@hypothesis_settings(max_examples=300)
def test_any_changed_byte_is_detected(place: int, by: int) -> None:
    """A changed byte anywhere in a record is detected."""
    lines = "\n".join(e.line for e in chain({"words": "a"}, {"n": 1.5}, {"words": "c", "list": [1, 2, 3]})).encode()
    n = place % len(lines)
    edited = (lines[:n] + bytes([lines[n] ^ by]) + lines[n + 1 :]).decode("utf-8", "replace").split("\n")
    _found, broken = evidence.checked(edited)
    assert broken, (n, edited)


def test_a_missing_entry_is_detected() -> None:
    """An entry removed from the middle or the start is reported as missing."""
    lines = [e.line for e in chain({"n": 1}, {"n": 2}, {"n": 3}, {"n": 4})]
    assert [(b.what, b.why) for b in evidence.checked([*lines[:1], *lines[2:]])[1]] == [("E2", MISSING)]
    assert evidence.checked(lines[1:])[1][0].why == MISSING


def test_a_rewritten_entry_is_detected() -> None:
    """An entry with another body and a matching digest is detected by the next entry."""
    entries = chain({"value": 94.1}, {"n": 2}, {"n": 3})
    forged = evidence.linked(
        entries[0],
        at_us=entries[1].at_us,
        known_at_us=entries[1].known_at_us,
        kind="note",
        by="Ann",
        key="",
        body={"n": 20},
        settings=DESK,
    )
    assert [(b.what, b.why) for b in evidence.checked([entries[0].line, forged.line, entries[2].line])[1]] == [
        ("E2", EDITED)
    ]


def test_a_rewritten_record_has_another_last_digest() -> None:
    """A record that is rewritten as a whole has no errors, but its last entry has another digest."""
    one, other = chain({"value": 94.1}, {"n": 2}), chain({"value": 99.9}, {"n": 2})
    assert evidence.checked([e.line for e in other])[1] == [] and one[-1].digest != other[-1].digest


def test_no_secret_is_stored() -> None:
    """A secret anywhere (value, key, nested JSON text) is replaced by its name before hashing."""
    token = DESK.secrets["OPS_MASSIVE_TOKEN"]
    (entry,) = chain(
        {
            "said": f"Bearer {token}",
            token: [f"x{token}y", {"body": json.dumps({"key": token})}],
            "error": f"https://h/?apiKey={token}&x",
        }
    )
    assert (
        token not in entry.line
        and json.dumps(token)[1:-1] not in entry.line
        and entry.line.count("OPS_MASSIVE_TOKEN") >= 4
    )


def test_a_large_entry_is_truncated() -> None:
    """Long texts and lists are truncated; the entry states the original length and the digest of the whole."""
    (entry,) = chain({"text": "x" * 10_000, "rows": list(range(5_000))})
    assert len(entry.body["text"]) == evidence.LONGEST_TEXT and len(entry.body["rows"]) == evidence.MOST_ITEMS
    assert (
        len(entry.body["bounded"]) == 2
        and "10,000" in entry.body["bounded"][0]
        and "SHA-256" in entry.body["bounded"][0]
    )
    (large,) = chain({f"k{i}": "y" * 3_900 for i in range(80)})
    assert set(large.body) == {"words", "bounded"} and len(large.line) < 2_000


def test_values_are_converted_to_json() -> None:
    """Times and decimals are converted to JSON, NaN becomes null; a value that is not valid JSON is rejected."""
    (entry,) = chain({"at": at(0), "usd": Decimal("1.30"), "nothing": float("nan")})
    assert entry.body == {"at": "2026-03-10T13:30:00.000Z", "usd": "1.30", "nothing": None}, entry.body
    with pytest.raises(OpsError, match="JSON"):
        evidence.canonical({"x": float("nan")})
