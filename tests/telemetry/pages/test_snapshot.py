"""
Parse a page's post: known quirks of the app are accepted, and values that the app never sends are rejected by name.
"""

import contextlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.foundation import clock
from opslib.foundation.errors import BadSnapshot
from opslib.foundation.storage import snapshot_columns
from opslib.telemetry.pages import snapshot
from tests.support.snapshots import OPENS, body

T0 = clock.micros(OPENS) // 1000
COUNTS = [f.name for f in snapshot_columns.FIELDS if f.kind == "count"]
PATHS = {f.name: ".".join(f.path) for f in snapshot_columns.FIELDS}

numbers = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**53, 2**53 + 1, 2**63, -1, 12.0, 0.5, 1e308, 10**400])
)
scalars = st.none() | st.booleans() | numbers | st.text() | st.sampled_from(["\ud800", "a\0b", "", "12"])
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=6) | st.sampled_from(["pnl", "lastUpdateAt", "\udfff"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def refused(metrics):
    """The bad fields of a body that must be rejected."""
    with pytest.raises(BadSnapshot) as caught:
        snapshot.read(metrics)
    return caught.value.fields


def places(part, path=()):
    """Every path in a JSON object, of objects and single values."""
    for key in part:
        yield (*path, key)
        if isinstance(part[key], dict):
            yield from places(part[key], (*path, key))


def test_a_whole_body_is_read_into_our_names():
    """Each field of the app's JSON is read under our name, with its value."""
    read = snapshot.read(body()).values
    assert (
        read["massive_requests"],
        read["massive_successes"],
        read["massive_failures"],
        read["tradier_fallbacks"],
    ) == (100, 99, 1, 0)
    assert (read["validations"], read["greeks_valid"], read["greeks_estimated"], read["greeks_invalid"]) == (
        50,
        48,
        2,
        1,
    )
    assert (read["gamma_zero"], read["delta_out_of_bounds"], read["iv_anomalies"], read["errors"]) == (1, 1, 0, 1)
    assert (
        read["trades"],
        read["gross_mean_pct"],
        read["net_mean_pct"],
        read["commission_total_usd"],
        read["slippage_mean_usd"],
    ) == (4, 5.0, 3.0, 5.28, 20.0)
    assert (read["backtest_variance_pp"], read["websocket_connected"], read["uptime_s"], read["page_clock_ms"]) == (
        3.0,
        True,
        600.0,
        T0,
    )
    assert (
        read["page_id"],
        read["memory_bytes"],
        read["last_error_at_ms"],
        read["last_error_message"],
        read["errors_by_type"],
    ) == (None,) * 5
    assert read["load_ms"] == T0 - 600_000


def test_the_rounded_and_frozen_fields_are_not_read():
    """
    A provider's uptime and mean response time, the cost impact and the socket latency change no value, only the digest
    of the body.
    """
    lying = body()
    lying["providers"]["massive"] |= {"uptime": 3, "avgResponseTimeMs": 1}
    lying["pnl"]["costImpactPercent"] = 902.0
    lying["systemHealth"] |= {"webSocketLatencyMs": -7, "apiAvgResponseTimeMs": None}
    a, b = snapshot.read(body()), snapshot.read(lying)
    assert a.values == b.values and a.digest != b.digest


@pytest.mark.parametrize("name", [n for n in PATHS if n != "page_clock_ms"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_an_absent_or_null_field_is_unknown(name, how):
    """An absent key, and null (as JSON writes NaN), are unknown; the other fields are read."""
    full = {"last_error_at_ms": T0, "last_error_message": "x", "memory_bytes": 5, "page_id": "p"}
    metrics = body(**full, drop=[name]) if how == "absent" else body(**{**full, name: None})
    assert [n for n in PATHS if snapshot.read(metrics).values[n] is None] == [name]


@pytest.mark.parametrize("top", ["providers", "greeksQuality", "pnl", "systemHealth"])
def test_a_whole_part_may_be_absent(top):
    """If one part is missing, its own fields are unknown and the others unchanged."""
    metrics = body()
    del metrics[top]
    lost = {f.name for f in snapshot_columns.FIELDS if f.path[0] == top}
    read, before = snapshot.read(metrics).values, snapshot.read(body()).values
    assert all(read[n] is None for n in lost)
    assert all(read[n] == before[n] for n in PATHS if n not in lost)
    assert (read["load_ms"] is None) == (top == "systemHealth")


def test_a_body_without_any_part_is_rejected():
    """A body with only lastUpdateAt is rejected."""
    assert any("none of providers" in b for b in refused({"lastUpdateAt": T0}))


@pytest.mark.parametrize("found", [[], "x", 3, None, True, 1.5])
def test_a_body_that_is_not_an_object_is_rejected(found):
    """A JSON list, text, number, boolean or null is rejected, and the message names its type."""
    assert type(found).__name__ in refused(found)[0]


@pytest.mark.parametrize("found", [None, {}])
def test_a_lost_map_is_unknown(found):
    """errorsByType as {} is a Map that JSON lost: the counts are unknown, not zero."""
    assert snapshot.read(body(errors_by_type=found)).values["errors_by_type"] is None


def test_a_map_that_survived_is_read():
    """errorsByType with content is kept, with sorted keys."""
    a = snapshot.read(body(errors_by_type={"B": 2, "A": 1})).values["errors_by_type"]
    assert (
        json.loads(a) == {"A": 1, "B": 2}
        and a == snapshot.read(body(errors_by_type={"A": 1, "B": 2})).values["errors_by_type"]
    )


@pytest.mark.parametrize(
    "found", [[], "x", 1, {"A": -1}, {"A": 1.5}, {"A": "1"}, {"A": True}, {"A": {}}, {str(i): 1 for i in range(201)}]
)
def test_a_map_without_counts_is_rejected(found):
    """If errorsByType is not an object of at most 200 counts, it is rejected by name."""
    assert any(b.startswith("systemHealth.errorsByType is ") for b in refused(body(errors_by_type=found)))


def test_unknown_keys_and_providers_stay_in_the_body():
    """Unknown keys are kept in the body and change no value."""
    more = body()
    more["providers"]["polygon"] = {"requestCount": "many"}
    more["pnl"]["sharpe"] = {"deep": [1, None, "é"]}
    read = snapshot.read(more)
    assert json.loads(read.body) == more and read.values == snapshot.read(body()).values


def test_the_body_is_kept_unchanged():
    """The bytes of a post are kept, with their spaces and order."""
    raw = json.dumps(body(), indent=3).encode()
    assert snapshot.read(snapshot.loads(raw), raw).body == raw


@pytest.mark.parametrize("name", COUNTS)
def test_a_whole_float_is_a_count(name):
    """A float without a fraction, such as 12.0, is read as an integer."""
    value = (
        snapshot.read(body(**{name: 0.0})).values[name]
        if not name.endswith("_requests") and name != "validations"
        else snapshot.read(body(**{name: 120.0})).values[name]
    )
    assert isinstance(value, int)


@pytest.mark.parametrize("value", [-1, 1.5, "12", True, False, [], {}, 2**53 + 1, 10**30, -0.1])
@pytest.mark.parametrize("name", COUNTS)
def test_an_invalid_count_is_rejected(name, value):
    """A negative, fractional, textual, boolean or too large count is rejected under the app's own field name."""
    assert any(b.startswith(f"{PATHS[name]} is ") for b in refused(body(**{name: value})))


@pytest.mark.parametrize("value", ["5", True, [], {}, 2**53 * 2, -(2**60)])
@pytest.mark.parametrize("name", [f.name for f in snapshot_columns.FIELDS if f.kind == "number"])
def test_an_invalid_number_is_rejected(name, value):
    """A number field that is not a JSON number, or is too large, is rejected."""
    assert any(b.startswith(f"{PATHS[name]} is ") for b in refused(body(**{name: value})))


def test_negative_profits_are_numbers():
    """P&L means may be negative."""
    assert snapshot.read(body(gross_mean_pct=-7, net_mean_pct=-9.5)).values["net_mean_pct"] == -9.5


def test_negative_uptime_is_rejected():
    """A negative uptime would put the load after the page's current time."""
    assert any(b.startswith("systemHealth.uptime is ") for b in refused(body(uptime_s=-1)))


@pytest.mark.parametrize("value", [0, 1, 1_763_476_200, 10**15, "2025-11-18T14:30:00Z", True])
def test_a_time_that_is_not_milliseconds_of_this_century_is_rejected(value):
    """Seconds, text, booleans and times in the far future are rejected as the page's clock."""
    assert any(b.startswith("lastUpdateAt is ") for b in refused(body(page_clock_ms=value)))


@pytest.mark.parametrize("change", [{"drop": ["page_clock_ms"]}, {"page_clock_ms": None}])
def test_last_update_at_is_required(change):
    """A snapshot without lastUpdateAt is rejected, because it could not be distinguished from the next one."""
    assert any(b.startswith("lastUpdateAt is missing") for b in refused(body(**change)))


@pytest.mark.parametrize("change", [{"massive_successes": 101}, {"tradier_successes": 101}, {"greeks_valid": 51}])
def test_a_part_larger_than_its_total_is_rejected(change):
    """More successes than requests, or more valid Greeks than validations, are rejected."""
    (found,) = refused(body(**change))
    assert next(iter(change)) in found


def test_every_bad_field_is_named_at_once():
    """The error names every bad field, not only the first."""
    bad = body(
        massive_requests=-1,
        validations="9",
        trades=True,
        uptime_s="x",
        websocket_connected=1,
        page_id="",
        last_error_message=5,
        errors_by_type=[],
        drop=["page_clock_ms"],
    )
    bad["providers"]["tradier"] = 7
    named = " | ".join(refused(bad))
    for path in (
        "massive.requestCount",
        "greeksQuality.totalTrades",
        "pnl.totalTrades",
        "systemHealth.uptime",
        "webSocketConnected",
        "page is",
        "lastErrorMessage",
        "errorsByType",
        "lastUpdateAt",
        "providers.tradier is 7",
    ):
        assert path in named


@pytest.mark.parametrize("part", ["providers", "greeksQuality", "pnl", "systemHealth", "client"])
@pytest.mark.parametrize("value", [[], "x", 1, False])
def test_a_part_that_is_not_an_object_is_rejected(part, value):
    """A part of another JSON type is rejected by its name."""
    metrics = body()
    metrics[part] = value
    assert any(b.startswith(f"{part} is ") for b in refused(metrics))


@pytest.mark.parametrize("page", ["a", "p" * 128, "Händler 7", "<b>"])
def test_a_page_id_is_kept(page):
    """A page id has 1 to 128 printable characters."""
    assert snapshot.read(body(page_id=page)).values["page_id"] == page


@pytest.mark.parametrize("page", ["", "p" * 129, "a\nb", "a\0", "\ud800", "\u202e", 7, True, ["a"]])
def test_an_invalid_page_id_is_rejected(page):
    """An empty, too long, unprintable or non-text page id is rejected."""
    assert any(b.startswith("page is ") for b in refused(body(page_id=page)))


def test_hostile_text_is_kept_readable():
    """
    NUL and lone surrogates in a message are replaced so that every database and file can store it, and the message is
    cut to 500 characters.
    """
    read = snapshot.read(body(last_error_message="a\0b\ud800c" + "x" * 900)).values["last_error_message"]
    assert read.startswith("a b?c") and len(read) == 500
    read.encode()


def test_hostile_text_survives_in_the_body():
    """A lone surrogate in an unknown key breaks neither the digest nor the stored body."""
    metrics = body() | {"\ud800": "\udfff\0"}
    assert json.loads(snapshot.read(metrics).body) == metrics


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"NaN",
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b"\xff\xfe",
        b"{'a': 1}",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_invalid_json_is_rejected(raw):
    """Broken JSON, NaN, bytes that are not UTF-8, very deep nesting and very long numbers are rejected."""
    with pytest.raises(BadSnapshot):
        snapshot.loads(raw)


def test_a_byte_order_mark_is_accepted():
    """UTF-8 with a byte order mark is accepted."""
    assert snapshot.loads(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize("depth", [50, 200, 900, 2000, 20_000])
@pytest.mark.parametrize("key", ["pnl", "extra"])
def test_nesting_raises_nothing_but_bad_snapshot(depth, key):
    """A body of any depth is read or rejected."""
    raw = json.dumps(body())[:-1].encode() + f', "{key}": '.encode() + b"[" * depth + b"]" * depth + b"}"
    with contextlib.suppress(BadSnapshot):
        snapshot.read(snapshot.loads(raw), raw)


def test_a_huge_integer_in_an_unknown_key_is_kept():
    """A number larger than 64 bits in an unknown key is kept in the body."""
    metrics = body() | {"big": 10**300}
    assert json.loads(snapshot.read(metrics).body)["big"] == 10**300


def test_numbers_that_become_infinity_are_rejected():
    """1e999 is read as infinity, which JSON cannot represent; it is rejected anywhere in the body."""
    with pytest.raises(BadSnapshot, match="1e999"):
        snapshot.loads(b'{"lastUpdateAt": %d, "pnl": {}, "x": 1e999}' % T0)
    with pytest.raises(BadSnapshot, match="not finite"):
        snapshot.read(body() | {"x": float("inf")})


def test_a_null_count_in_errors_by_type():
    """errorsByType with null as a count is rejected, or only its integer counts are read."""
    try:
        kept = snapshot.read(body(errors_by_type={"A": None, "B": 2})).values["errors_by_type"]
    except BadSnapshot:
        return
    assert all(isinstance(v, int) for v in json.loads(kept or "{}").values())


def test_counts_by_type_are_integers():
    """A count of 3.0 in errorsByType is read as the integer 3."""
    kept = json.loads(snapshot.read(body(errors_by_type={"A": 3.0})).values["errors_by_type"])
    assert kept == {"A": 3} and isinstance(kept["A"], int)


def test_fields_that_are_not_zero_are_wired():
    """Zeros of an unwired app count as nothing wired; a count, flag or variance other than zero does."""
    still = body(**dict.fromkeys([*COUNTS, "backtest_variance_pp"], 0), websocket_connected=False)
    assert set(snapshot.read(still).wired()) == set()
    assert set(snapshot.read(body(massive_fallbacks=1, iv_anomalies=1)).wired()) == {
        "massive",
        "tradier",
        "fallbacks",
        "iv_anomalies",
        "backtest_variance",
        "websocket",
    }


def shuffled(value, rng):
    """The same JSON with the keys of each object in another order."""
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {k: shuffled(value[k], rng) for k in keys}
    return [shuffled(v, rng) for v in value] if isinstance(value, list) else value


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.dictionaries(st.text(max_size=5), json_values, max_size=3))
def test_the_digest_ignores_the_order_of_keys(rng, extra):
    """The same JSON in another order has the same digest; a changed value gives another digest."""
    metrics = {f"x{k}": v for k, v in extra.items()} | body()
    assert snapshot.read(metrics).digest == snapshot.read(shuffled(metrics, rng)).digest
    assert snapshot.read(metrics).digest != snapshot.read(metrics | {"lastUpdateAt": T0 + 1}).digest


@hypothesis_settings(max_examples=300, deadline=None)
@given(json_values)
def test_reading_any_json_raises_nothing_but_bad_snapshot(value):
    """Any JSON is read or rejected."""
    try:
        snapshot.read(value)
    except BadSnapshot as problem:
        assert problem.fields and all(problem.fields)


@hypothesis_settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from(["replace", "drop"]), json_values), min_size=1, max_size=4
    )
)
def test_reading_a_mutated_body_raises_nothing_but_bad_snapshot(changes):
    """A real body with random changes is read into values within their limits, or rejected."""
    metrics = body(
        errors_by_type={"API_ERROR": 1},
        page_id="p",
        memory_bytes=31_000_000,
        last_error_at_ms=T0,
        last_error_message="m",
    )
    for where, how, value in changes:
        found = list(places(metrics))
        if not found:
            break
        *path, key = found[where % len(found)]
        part = metrics
        for step in path:
            part = part[step]
        if how == "drop":
            del part[key]
        else:
            part[key] = value
    try:
        read = snapshot.read(metrics)
    except BadSnapshot:
        return
    for field in snapshot_columns.FIELDS:
        value = read.values[field.name]
        if value is None:
            continue
        if field.kind == "count":
            assert type(value) is int and 0 <= value <= 2**53
        if field.kind == "number":
            assert type(value) is float and abs(value) <= 2**53
        if field.kind == "text":
            value.encode()
            assert "\0" not in value
    assert read.values["load_ms"] is None or abs(read.values["load_ms"]) < 2**63
    assert read.values["errors_by_type"] is None or isinstance(json.loads(read.values["errors_by_type"]), dict)


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_rejected(raw):
    """Any bytes are read as JSON or rejected."""
    with contextlib.suppress(BadSnapshot):
        snapshot.loads(raw)


def test_a_stored_body_reads_the_same():
    """Reading the stored body of a snapshot gives the same snapshot."""
    rng = random.Random(3)
    for _ in range(50):
        n = rng.randint(0, 10**6)
        metrics = body(massive_requests=n, massive_successes=rng.randint(0, n), gross_mean_pct=rng.uniform(-50, 50))
        first = snapshot.read(metrics)
        assert snapshot.read(snapshot.loads(first.body)) == first


def test_the_settings_and_the_snapshot_have_the_same_wired_fields():
    """The settings accept as "wired" exactly the fields that an unwired app leaves at zero."""
    from opslib.foundation.config import settings

    assert set(settings.WIRED) == set(snapshot_columns.WIRED_FIELDS)


def test_a_row_holds_every_field() -> None:
    """SnapshotRow has the identifying columns, then the columns of `FIELDS` in their order."""
    identity = ("seq", "ts_us", "known_at_us", "digest", "load_ms", "errors_by_type")
    assert snapshot_columns.SnapshotRow._fields == (*identity, *(f.name for f in snapshot_columns.FIELDS))
