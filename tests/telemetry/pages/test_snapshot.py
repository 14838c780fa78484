"""The page's posts are read as the app means them: its warts are known, and what it never does is refused by name."""

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
    """The bad fields of a body that must be refused."""
    with pytest.raises(BadSnapshot) as caught:
        snapshot.read(metrics)
    return caught.value.fields


def places(part, path=()):
    """Every place in a JSON object, whole parts and single values alike."""
    for key in part:
        yield (*path, key)
        if isinstance(part[key], dict):
            yield from places(part[key], (*path, key))


def test_a_whole_body_is_read_into_our_names():
    """Each field of the app's JSON arrives under our name, with its value."""
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
    """A provider's uptime, its mean response time, cost impact and socket latency change no value, only the body."""
    lying = body()
    lying["providers"]["massive"] |= {"uptime": 3, "avgResponseTimeMs": 1}
    lying["pnl"]["costImpactPercent"] = 902.0
    lying["systemHealth"] |= {"webSocketLatencyMs": -7, "apiAvgResponseTimeMs": None}
    a, b = snapshot.read(body()), snapshot.read(lying)
    assert a.values == b.values and a.digest != b.digest


@pytest.mark.parametrize("name", [n for n in PATHS if n != "page_clock_ms"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_what_the_page_does_not_say_is_unknown(name, how):
    """An absent key and null, as JSON writes NaN, are both unknown and nothing else is lost."""
    full = {"last_error_at_ms": T0, "last_error_message": "x", "memory_bytes": 5, "page_id": "p"}
    metrics = body(**full, drop=[name]) if how == "absent" else body(**{**full, name: None})
    assert [n for n in PATHS if snapshot.read(metrics).values[n] is None] == [name]


@pytest.mark.parametrize("top", ["providers", "greeksQuality", "pnl", "systemHealth"])
def test_a_whole_part_may_be_absent(top):
    """One missing part leaves its own fields unknown and the others as they were."""
    metrics = body()
    del metrics[top]
    lost = {f.name for f in snapshot_columns.FIELDS if f.path[0] == top}
    read, before = snapshot.read(metrics).values, snapshot.read(body()).values
    assert all(read[n] is None for n in lost)
    assert all(read[n] == before[n] for n in PATHS if n not in lost)
    assert (read["load_ms"] is None) == (top == "systemHealth")


def test_a_body_without_any_part_is_refused():
    """lastUpdateAt alone is no dashboard metrics."""
    assert any("none of providers" in b for b in refused({"lastUpdateAt": T0}))


@pytest.mark.parametrize("found", [[], "x", 3, None, True, 1.5])
def test_what_is_no_object_is_refused(found):
    """A JSON list, text, number or null is refused, and the message says what it was."""
    assert type(found).__name__ in refused(found)[0]


@pytest.mark.parametrize("found", [None, {}])
def test_a_lost_map_is_unknown(found):
    """errorsByType as {} is a Map that JSON lost: it says nothing, least of all zero."""
    assert snapshot.read(body(errors_by_type=found)).values["errors_by_type"] is None


def test_a_map_that_survived_is_read():
    """errorsByType with content is kept, in an order of its own."""
    a = snapshot.read(body(errors_by_type={"B": 2, "A": 1})).values["errors_by_type"]
    assert (
        json.loads(a) == {"A": 1, "B": 2}
        and a == snapshot.read(body(errors_by_type={"A": 1, "B": 2})).values["errors_by_type"]
    )


@pytest.mark.parametrize(
    "found", [[], "x", 1, {"A": -1}, {"A": 1.5}, {"A": "1"}, {"A": True}, {"A": {}}, {str(i): 1 for i in range(201)}]
)
def test_a_map_that_holds_no_counts_is_refused(found):
    """errorsByType is an object of counts, or refused by name."""
    assert any(b.startswith("systemHealth.errorsByType is ") for b in refused(body(errors_by_type=found)))


def test_unknown_keys_and_providers_stay_in_the_body():
    """What we do not know is kept as it came and changes no value."""
    more = body()
    more["providers"]["polygon"] = {"requestCount": "many"}
    more["pnl"]["sharpe"] = {"deep": [1, None, "é"]}
    read = snapshot.read(more)
    assert json.loads(read.body) == more and read.values == snapshot.read(body()).values


def test_the_body_is_kept_as_it_came():
    """The bytes of a post are kept, spaces, order and all."""
    raw = json.dumps(body(), indent=3).encode()
    assert snapshot.read(snapshot.loads(raw), raw).body == raw


@pytest.mark.parametrize("name", COUNTS)
def test_a_whole_float_is_a_count(name):
    """12.0 is twelve; an integer of it comes out."""
    value = (
        snapshot.read(body(**{name: 0.0})).values[name]
        if not name.endswith("_requests") and name != "validations"
        else snapshot.read(body(**{name: 120.0})).values[name]
    )
    assert isinstance(value, int)


@pytest.mark.parametrize("value", [-1, 1.5, "12", True, False, [], {}, 2**53 + 1, 10**30, -0.1])
@pytest.mark.parametrize("name", COUNTS)
def test_what_is_no_count_is_refused(name, value):
    """Negative, broken, textual, true and beyond-belief counts are refused under the page's own name for them."""
    assert any(b.startswith(f"{PATHS[name]} is ") for b in refused(body(**{name: value})))


@pytest.mark.parametrize("value", ["5", True, [], {}, 2**53 * 2, -(2**60)])
@pytest.mark.parametrize("name", [f.name for f in snapshot_columns.FIELDS if f.kind == "number"])
def test_what_is_no_number_is_refused(name, value):
    """A number field is a finite JSON number."""
    assert any(b.startswith(f"{PATHS[name]} is ") for b in refused(body(**{name: value})))


def test_negative_profits_are_numbers():
    """P&L means may be negative; only counts may not."""
    assert snapshot.read(body(gross_mean_pct=-7, net_mean_pct=-9.5)).values["net_mean_pct"] == -9.5


def test_negative_uptime_is_refused():
    """A page cannot have been loaded in the future of its own clock."""
    assert any(b.startswith("systemHealth.uptime is ") for b in refused(body(uptime_s=-1)))


@pytest.mark.parametrize("value", [0, 1, 1_763_476_200, 10**15, "2025-11-18T14:30:00Z", True])
def test_a_time_that_is_no_milliseconds_of_this_century_is_refused(value):
    """Seconds, texts and far futures are no page clock."""
    assert any(b.startswith("lastUpdateAt is ") for b in refused(body(page_clock_ms=value)))


@pytest.mark.parametrize("change", [{"drop": ["page_clock_ms"]}, {"page_clock_ms": None}])
def test_last_update_at_is_needed(change):
    """Without lastUpdateAt a snapshot is refused: nothing tells it from the next."""
    assert any(b.startswith("lastUpdateAt is missing") for b in refused(body(**change)))


@pytest.mark.parametrize("change", [{"massive_successes": 101}, {"tradier_successes": 101}, {"greeks_valid": 51}])
def test_a_part_larger_than_its_whole_is_refused(change):
    """More successes than requests, or more valid Greeks than validations, cannot be."""
    (found,) = refused(body(**change))
    assert next(iter(change)) in found


def test_every_bad_field_is_named_at_once():
    """The refusal names all that is wrong, not the first of it."""
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
def test_a_part_that_is_no_object_is_refused(part, value):
    """A part of another JSON type is refused by its name."""
    metrics = body()
    metrics[part] = value
    assert any(b.startswith(f"{part} is ") for b in refused(metrics))


@pytest.mark.parametrize("page", ["a", "p" * 128, "Händler 7", "<b>"])
def test_a_page_id_is_kept(page):
    """One to 128 printable characters name a page."""
    assert snapshot.read(body(page_id=page)).values["page_id"] == page


@pytest.mark.parametrize("page", ["", "p" * 129, "a\nb", "a\0", "\ud800", "\u202e", 7, True, ["a"]])
def test_what_names_no_page_is_refused(page):
    """An empty, long or unprintable page id is refused."""
    assert any(b.startswith("page is ") for b in refused(body(page_id=page)))


def test_hostile_text_is_kept_readable():
    """NUL and lone surrogates of a message become something every database and file can hold."""
    read = snapshot.read(body(last_error_message="a\0b\ud800c" + "x" * 900)).values["last_error_message"]
    assert read.startswith("a b?c") and len(read) == 500
    read.encode()


def test_hostile_text_survives_in_the_body():
    """A lone surrogate in an unknown key neither breaks the digest nor the kept body."""
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
def test_what_is_no_json_is_refused(raw):
    """Broken JSON, NaN, bytes of no UTF-8, bottomless nesting and endless digits are refused as such."""
    with pytest.raises(BadSnapshot):
        snapshot.loads(raw)


def test_a_byte_order_mark_is_no_fault():
    """UTF-8 with a byte order mark is UTF-8."""
    assert snapshot.loads(b"\xef\xbb\xbf{}") == {}


@pytest.mark.parametrize("depth", [50, 200, 900, 2000, 20_000])
@pytest.mark.parametrize("key", ["pnl", "extra"])
def test_nesting_raises_nothing_but_bad_snapshot(depth, key):
    """However deep a body is, it is read or refused."""
    raw = json.dumps(body())[:-1].encode() + f', "{key}": '.encode() + b"[" * depth + b"]" * depth + b"}"
    with contextlib.suppress(BadSnapshot):
        snapshot.read(snapshot.loads(raw), raw)


def test_a_huge_integer_in_an_unknown_key_is_kept():
    """A number beyond 64 bits in a key that we do not know changes nothing."""
    metrics = body() | {"big": 10**300}
    assert json.loads(snapshot.read(metrics).body)["big"] == 10**300


def test_infinity_by_the_back_door_is_refused():
    """1e999 reads as infinity, which no JSON can say again; it is refused wherever it stands."""
    with pytest.raises(BadSnapshot, match="1e999"):
        snapshot.loads(b'{"lastUpdateAt": %d, "pnl": {}, "x": 1e999}' % T0)
    with pytest.raises(BadSnapshot, match="not finite"):
        snapshot.read(body() | {"x": float("inf")})


def test_a_null_count_of_a_type_is_no_count():
    """errorsByType with null for a count is refused, or holds only counts when read."""
    try:
        kept = snapshot.read(body(errors_by_type={"A": None, "B": 2})).values["errors_by_type"]
    except BadSnapshot:
        return
    assert all(isinstance(v, int) for v in json.loads(kept or "{}").values())


def test_counts_by_type_are_integers():
    """3.0 of a type is the count 3."""
    kept = json.loads(snapshot.read(body(errors_by_type={"A": 3.0})).values["errors_by_type"])
    assert kept == {"A": 3} and isinstance(kept["A"], int)


def test_what_is_alive_is_what_has_moved():
    """Zeros of an unwired app show nothing alive; any count, flag or variance does."""
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
    """The same JSON with the keys of every object in another order."""
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {k: shuffled(value[k], rng) for k in keys}
    return [shuffled(v, rng) for v in value] if isinstance(value, list) else value


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.dictionaries(st.text(max_size=5), json_values, max_size=3))
def test_the_digest_does_not_see_the_order_of_keys(rng, extra):
    """The same JSON in another order is the same snapshot; another value is another."""
    metrics = {f"x{k}": v for k, v in extra.items()} | body()
    assert snapshot.read(metrics).digest == snapshot.read(shuffled(metrics, rng)).digest
    assert snapshot.read(metrics).digest != snapshot.read(metrics | {"lastUpdateAt": T0 + 1}).digest


@hypothesis_settings(max_examples=300, deadline=None)
@given(json_values)
def test_reading_any_json_raises_nothing_but_bad_snapshot(value):
    """Whatever JSON comes, it is read or refused."""
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
    """A real body with any values put anywhere is read into believable values, or refused."""
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
def test_any_bytes_are_json_or_refused(raw):
    """Whatever bytes come, they are JSON or refused."""
    with contextlib.suppress(BadSnapshot):
        snapshot.loads(raw)


def test_a_random_real_walk_reads_and_reads_again():
    """A body that was made from a body reads the same."""
    rng = random.Random(3)
    for _ in range(50):
        n = rng.randint(0, 10**6)
        metrics = body(massive_requests=n, massive_successes=rng.randint(0, n), gross_mean_pct=rng.uniform(-50, 50))
        first = snapshot.read(metrics)
        assert snapshot.read(snapshot.loads(first.body)) == first


def test_what_may_be_declared_wired_is_what_can_be_unwired():
    """
    The settings, which lie below, name the same fields that may be declared wired as the snapshot knows to be left at
    zero.
    """
    from opslib.foundation.config import settings

    assert set(settings.WIRED) == set(snapshot_columns.WIRED_FIELDS)


def test_a_row_holds_every_field() -> None:
    """The written-out row has the columns of `FIELDS`, in their order, after those that say which snapshot it is."""
    identity = ("seq", "ts_us", "known_at_us", "digest", "load_ms", "errors_by_type")
    assert snapshot_columns.SnapshotRow._fields == (*identity, *(f.name for f in snapshot_columns.FIELDS))
