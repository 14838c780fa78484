"""Import chains and logs: what is stored, where it appears, and that a repeated import changes nothing."""

import gzip
import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import opslib
from opslib.cli import main
from opslib.dashboard import chain_sources
from opslib.desk import Desk
from opslib.foundation import clock, time_parsing
from opslib.foundation.errors import ImportRefused
from opslib.telemetry import importing, log_import
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes import log_lines
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.support import chains

CASES = Path(__file__).parents[1] / "cases"
AT = time_parsing.parse("2026-03-10T14:00:00Z")


def ops(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run one command in this process; return its exit code, stdout and stderr."""
    code = main.main([str(a) for a in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def lines(path: Path, *entries: tuple[str, str]) -> Path:
    """Write a log; each line begins with its time."""
    path.write_text("".join(f"{at} {said}\n" for at, said in entries))
    return path


@pytest.fixture
def desk(home: Path) -> Desk:
    return opslib.connect(None, home)


@pytest.mark.parametrize("named", [("--kind", "log"), ()])
@pytest.mark.parametrize(
    ("case", "accepted", "errors"), [("e01_structured_errors.log", 5, 4), ("e02_info_lines_with_words.log", 4, 1)]
)
def test_imported_logs_have_the_right_number_of_errors(
    home: Path, case: str, accepted: int, errors: int, named: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each log has its right number of errors, is recognised by its content, and is a duplicate the second time."""
    path = CASES / case
    expected = {
        "path": str(path),
        "kind": "log",
        "accepted": accepted,
        "duplicate": 0,
        "rejected": 0,
        "errors": errors,
        "by_kind": {"other_error": errors},
    }
    code, out, _ = ops(capsys, "import", path, *named, "-o", "json")
    assert (code, json.loads(out)) == (0, [expected])
    code, out, _ = ops(capsys, "import", path, *named, "-o", "json")
    assert (code, json.loads(out)) == (0, [expected | {"accepted": 0, "duplicate": accepted}])


def test_an_imported_log_counts_like_a_live_log(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The System panel and the alert rule with the source logs count an imported error from its own time on, and not
    before.
    """
    path = lines(
        tmp_path / "app.log",
        *((f"2026-03-10T14:{m:02d}:00Z", "error: Massive 503: Service Unavailable") for m in range(30)),
    )
    code, out, _ = ops(capsys, "import", path, "-o", "json", "--known-at-ts")
    assert code == 0 and json.loads(out)[0]["by_kind"] == {"provider_5xx": 30}

    def panel(at):
        return json.loads(ops(capsys, "status", "--as-of", at, "-o", "json")[1])["panels"]["system"]["probes"]["log"]

    assert (panel("2026-03-10T14:10:30Z")["errors"], panel("2026-03-10T14:29:30Z")["errors"]) == (11, 30)
    assert panel("2026-03-10T14:29:30Z")["kinds"] == {"provider_5xx": 30}
    found = json.loads(
        ops(
            capsys, "alerts", "--from", "2026-03-10T13:30:00Z", "--to", "2026-03-10T14:40:00Z", "--replay", "-o", "json"
        )[1]
    )
    fired = [a for a in found if a["rule"] == "errors" and a["source"] == "logs"]
    assert [a["fired_at"][:16] for a in fired] == ["2026-03-10T14:21"] and fired[0]["severity"] == "warning"


def test_minutes_between_lines_have_zero_errors(desk: Desk, tmp_path: Path) -> None:
    """Between two lines at most an hour apart each minute has a sample with zero errors; a longer gap has none."""
    path = lines(
        tmp_path / "app.log",
        ("2026-03-10T14:00:00Z", "error: a"),
        ("2026-03-10T14:10:00Z", "info: b"),
        ("2026-03-10T20:00:00Z", "info: c"),
    )
    log_import.read(desk.store, "desk", path)
    kept = SampleStore(desk.store, "desk").between(clock.micros(AT) - 1, clock.micros(AT + timedelta(days=1)))
    assert [(s.ts_us - clock.micros(AT)) // 60_000_000 for s in kept] == [*range(11), 360] and sum(
        s.value for s in kept
    ) == 1


def test_a_grown_log_adds_only_new_lines(desk: Desk, tmp_path: Path) -> None:
    """
    Only new lines are added, also within a second that was imported before, and if their text equals that of an earlier
    line.
    """
    entries = [
        ("2026-03-10T14:00:00Z", "error: a"),
        ("2026-03-10T14:00:01Z", "error: a"),
        ("2026-03-10T14:00:01Z", "error: a"),
    ]
    assert log_import.read(desk.store, "desk", lines(tmp_path / "a.log", *entries)).accepted == 3
    found = log_import.read(
        desk.store,
        "desk",
        lines(tmp_path / "b.log", *entries, ("2026-03-10T14:00:01Z", "error: a"), ("2026-03-10T14:00:02Z", "info: b")),
    )
    assert (found.accepted, found.duplicate, found.errors) == (2, 3, 4)
    assert sum(s.value for s in SampleStore(desk.store, "desk").between(0, 2**62)) == 4


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.sampled_from(["error: a", "info: b", "GET /x 500 1 - 1 ms"])),
        min_size=1,
        max_size=40,
    ),
    st.lists(st.integers(0, 40), max_size=4),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_importing_a_log_in_pieces_counts_each_line_once(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[int, str]], cuts: list[int]
) -> None:
    """However often a growing log is imported, each line counts once: the total is that of importing it whole."""
    folder = tmp_path_factory.mktemp("grown")
    desk = opslib.connect(None, folder / "home")
    rows = [(f"2026-03-10T14:00:{s:02d}Z", said) for s, said in sorted(entries)]
    accepted = 0
    for n in [*sorted(c for c in cuts if c <= len(rows)), len(rows)]:
        if n:
            accepted += log_import.read(desk.store, "desk", lines(folder / "app.log", *rows[:n])).accepted
    assert accepted == len(rows)
    assert sum(s.value for s in SampleStore(desk.store, "desk").between(0, 2**62)) == sum(
        said != "info: b" for _, said in entries
    )


def test_lines_that_the_collector_read_are_not_counted_twice(desk: Desk, tmp_path: Path) -> None:
    """Lines from the time in which the collector read the log are duplicates; earlier and later ones are new."""
    live = [
        Sample(clock.micros(AT) + s * 5_000_000, "log", "app", "ok", None, 0.0, detail='{"cursor": "{}"}')
        for s in range(12)
    ]
    SampleStore(desk.store, "desk").keep(live)
    path = lines(
        tmp_path / "app.log",
        ("2026-03-10T13:59:00Z", "error: a"),
        ("2026-03-10T14:00:30Z", "error: b"),
        ("2026-03-10T14:05:00Z", "error: c"),
    )
    found = log_import.read(desk.store, "desk", path)
    assert (found.accepted, found.duplicate, found.read_live, found.errors) == (2, 1, 1, 3)


def test_a_log_written_in_batches(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed log that is stored in many batches gives the same counts as one stored at once."""
    monkeypatch.setattr(log_import, "BATCH", 7)
    entries = [
        (f"2026-03-10T14:{i // 60:02d}:{i % 60:02d}Z", "error: a\n    at f (x:1)" if i % 3 == 0 else "info: b")
        for i in range(200)
    ]
    path = lines(tmp_path / "app.log", *entries)
    zipped = tmp_path / "app.log.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    found = log_import.read(desk.store, "desk", zipped)
    assert (found.accepted, found.duplicate, found.errors) == (267, 0, 67)
    assert sum(s.value for s in SampleStore(desk.store, "desk").between(0, 2**62)) == 67
    assert log_import.read(desk.store, "desk", path).duplicate == 267


def test_a_time_without_a_year(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A syslog time without a year is rejected without --as-of. With it, it is the last such time before, and the log may
    cross New Year.
    """
    path = tmp_path / "sys.log"
    path.write_text("Dec 31 23:59:59 host app[1]: error: a\nJan  1 00:00:01 host app[1]: error: b\n")
    code, _, err = ops(capsys, "import", path, "--kind", "log")
    assert code == 70 and "sys.log:1" in err and "--as-of" in err
    assert ops(capsys, "import", path, "--kind", "log", "--as-of", "2026-06-01T00:00")[0] == 0
    kept = SampleStore(opslib.connect(None, home).store, "desk").between(0, 2**62)
    assert [str(clock.instant(s.ts_us).date()) for s in kept] == ["2026-01-01"] * 2 and [s.value for s in kept] == [
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("stated", "instants"),
    [
        (["2026-03-10T14:00:00Z", "2026-03-10T14:00:04"], ["14:00:00", "14:00:04"]),
        (["2026-03-10T14:00:00", "2026-03-10T14:00:04"], ["18:00:00", "18:00:04"]),
        (["2026-03-10T10:00:00-04:00", "2026-03-10T10:00:04"], ["14:00:00", "14:00:04"]),
        (["2026-11-01T01:59:59", "2026-11-01T01:00:01"], ["05:59:59", "06:00:01"]),
        (["2026-03-10T14:00:00Z", "0004-03-10T10:00:04"], ["14:00:00", "14:00:04"]),
        (["2026-03-10T14:00:00Z", None], ["14:00:00", "14:00:00"]),
    ],
)
def test_the_time_of_a_line(stated: list[str | None], instants: list[str]) -> None:
    """
    A time without a zone is New York's, or the closest to the line above if the log also has zones. In the repeated
    hour of DST, time does not go back. A line without a time has that of the line above.
    """
    from datetime import datetime

    reading = log_import.Instants(Path("x.log"), None)
    found = [
        reading.of(i, datetime.fromisoformat(s).replace(tzinfo=datetime.fromisoformat(s).tzinfo) if s else None)
        for i, s in enumerate(stated)
    ]
    assert [f"{at.astimezone(clock.UTC):%H:%M:%S}" for at in found if at] == instants


def test_lines_without_any_time(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Lines without a time are rejected one by one with the reason; they do not get the present time. --as-of gives the
    time at which they were written.
    """
    path = tmp_path / "app.log"
    path.write_text("[Server] listening on 8080\n[v0] Massive proxy error (502): x\n  status: 502\n")
    code, out, _ = ops(capsys, "import", path, "-o", "json")
    assert (code, json.loads(out)[0]) == (
        70,
        {
            "path": str(path),
            "kind": "log",
            "accepted": 0,
            "duplicate": 0,
            "rejected": 3,
            "errors": 1,
            "by_kind": {"provider_5xx": 1},
        },
    )
    rejects = json.loads(ops(capsys, "import", "--rejects", "-o", "json")[1])
    assert [r["source"] for r in rejects] == ["app.log:1", "app.log:2", "app.log:3"] and "--as-of" in rejects[0][
        "reasons"
    ][0]
    assert not SampleStore(opslib.connect(None, home).store, "desk").between(0, 2**62)
    code, out, _ = ops(capsys, "import", path, "--as-of", "2026-03-10T14:00:00Z", "-o", "json")
    assert code == 0 and json.loads(out)[0]["accepted"] == 3
    assert [
        clock.instant(s.ts_us) for s in SampleStore(opslib.connect(None, home).store, "desk").between(0, 2**62)
    ] == [AT]


def test_binary_lines_are_rejected(desk: Desk, tmp_path: Path) -> None:
    """
    Binary lines and overlong lines are rejected by number, and the lines around them are read. A file with too many of
    them is rejected as a whole.
    """
    path = tmp_path / "app.log"
    path.write_bytes(
        b"2026-03-10T14:00:00Z error: a\n\x00\x01\x02\n" + b"x" * 2_000_000 + b"\n2026-03-10T14:00:01Z error: b\xff\n"
    )
    found = log_import.read(desk.store, "desk", path)
    assert (found.accepted, found.rejected, found.errors) == (2, 2, 2)
    assert [r.source for _, r in SnapshotStore(desk.store).rejects("desk")] == ["app.log:2", "app.log:3"]
    (tmp_path / "garbage").write_bytes(b"\x00\x01\n" * 5000)
    with pytest.raises(ImportRefused, match="garbage: more than 1,000 lines"):
        log_import.read(desk.store, "desk", tmp_path / "garbage")


def test_secrets_in_a_log_are_redacted(desk: Desk, tmp_path: Path) -> None:
    """The stored part of a line has no secret."""
    path = lines(tmp_path / "app.log", ("2026-03-10T14:00:00Z", "error: key s3cr3t-value refused"))
    importing.read_any(
        desk.store, "desk", path, rules=desk.rules, redact=lambda text: text.replace("s3cr3t-value", "…")
    )
    assert "s3cr3t-value" not in SampleStore(desk.store, "desk").between(0, 2**62)[0].detail


def test_an_imported_chain_is_stored_like_a_probed_one(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    `ops greeks` gives the same result for the symbol as for the file, the Greeks panel shows the chain, and a second
    import is a duplicate.
    """
    path = chains.written(chains.healthy("AAPL"), tmp_path)
    rows = len(chains.healthy("AAPL"))
    for expected in ({"accepted": rows, "duplicate": 0}, {"accepted": 0, "duplicate": rows}):
        code, out, _ = ops(capsys, "import", path, "-o", "json")
        assert (code, json.loads(out)) == (0, [{"path": str(path), "kind": "chain", "rejected": 0, **expected}])
    at = chains.AT.isoformat()
    by_file, by_symbol = (
        json.loads(ops(capsys, "greeks", what, "--as-of", at, "-o", "json")[1]) for what in (path, "AAPL")
    )
    assert {k: by_symbol[k] for k in ("contracts", "core", "verdict", "units", "findings")} == {
        k: by_file[k] for k in ("contracts", "core", "verdict", "units", "findings")
    }
    panel = json.loads(
        ops(capsys, "status", "--as-of", (chains.AT + timedelta(minutes=5)).isoformat(), "-o", "json")[1]
    )["panels"]["greeks"]
    assert panel["chains"]["AAPL"]["contracts"] == rows and panel["chains"]["AAPL"]["outcome"] == "ok"
    assert ops(capsys, "greeks", "AAPL", "--as-of", "2026-03-10T09:31")[0] == 64


def test_a_chain_with_a_fault_raises_its_alert(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The alert rules with the source chain evaluate an imported chain at its own time."""
    table = chains.healthy("AAPL")
    table.loc[chains.core(table), "gamma"] = 0
    assert ops(capsys, "import", chains.written(table, tmp_path), "--known-at-ts")[0] == 0
    end = chains.AT + timedelta(minutes=15)
    found = json.loads(
        ops(
            capsys,
            "alerts",
            "--from",
            (chains.AT - timedelta(minutes=5)).isoformat(),
            "--to",
            end.isoformat(),
            "--replay",
            "-o",
            "json",
        )[1]
    )
    assert ("gamma_zero", "chain") in {(a["rule"], a["source"]) for a in found}


def test_a_provider_response_is_stored_unchanged(desk: Desk, tmp_path: Path) -> None:
    """A response of Massive is stored as received, and recognised as Massive's again."""
    contract = {
        "details": {
            "ticker": "O:AAPL260417C00250000",
            "contract_type": "call",
            "strike_price": 250,
            "expiration_date": "2026-04-17",
            "shares_per_contract": 100,
        },
        "last_quote": {"bid": 5.0, "ask": 5.2, "last_updated": 1773154800000000000},
        "greeks": {"delta": 0.5, "gamma": 0.02, "theta": -0.1, "vega": 0.3},
        "implied_volatility": 0.25,
        "open_interest": 5,
        "underlying_asset": {"ticker": "AAPL", "price": 250.0},
    }
    page = {"status": "OK", "request_id": "x", "results": [contract]}
    (tmp_path / "chain.json").write_text(json.dumps(page))
    assert importing.read_any(desk.store, "desk", tmp_path / "chain.json", rules=desk.rules).accepted == 1
    kept = SampleStore(desk.store, "desk").chain("AAPL", 2**62)
    assert kept and kept[2] == [page]
    assert (
        chain_sources.of_store(
            desk.store, desk.settings, desk.rules, "AAPL", time_parsing.parse("2026-03-10T15:30")
        ).as_json()["provider"]
        == "massive"
    )


def test_several_underlyings_are_several_chains(desk: Desk, tmp_path: Path) -> None:
    """Each underlying in a file is stored as its own chain."""
    import pandas

    table = pandas.concat([chains.healthy("AAPL"), chains.healthy("SPY")])
    found = importing.read_any(desk.store, "desk", chains.written(table, tmp_path), rules=desk.rules)
    assert found.accepted == len(table)
    samples = SampleStore(desk.store, "desk")
    assert {s.subject: s.value for s in samples.between(0, 2**62)} == {
        "AAPL": float(len(chains.healthy("AAPL"))),
        "SPY": float(len(chains.healthy("SPY"))),
    }
    assert samples.chain("SPY", 2**62) and samples.chain("AAPL", 2**62)


def test_a_chain_without_an_underlying_is_named_after_its_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The chain is stored under the name of its file, a message says so, and `ops greeks` finds it by that name."""
    path = CASES / "a00_control_healthy.csv"
    code, out, err = ops(capsys, "import", path, "--kind", "chain", "-o", "json")
    assert code == 0 and json.loads(out)[0]["accepted"] == 44 and "ops greeks A00CONTROLHEALTHY" in err
    assert ops(capsys, "greeks", "A00CONTROLHEALTHY", "--as-of", "2026-03-10T16:00")[0] == 0


def test_a_chain_without_a_time_needs_as_of(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain without a time is rejected without --as-of; other files of the same command are imported."""
    table = chains.healthy("AAPL").drop(columns=["as_of", "quote_ts"])
    path = chains.written(table, tmp_path)
    code, out, err = ops(capsys, "import", path, CASES / "e01_structured_errors.log", "-o", "json")
    assert code == 70 and "--as-of" in err and [r["kind"] for r in json.loads(out)] == ["log"]
    assert ops(capsys, "import", path, "--as-of", "2026-03-10T11:30")[0] == 0


@pytest.mark.parametrize(
    "content",
    [
        "just some words\nand more\n",
        '{"cells": []}',
        "[1, 2]",
        "a,b,c\n1,2,3\n",
        "\x01\x02",
        "",
        "{" * 5000,
        '{"a":' * 5000,
    ],
)
def test_a_file_of_unknown_kind_is_rejected(
    home: Path, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is none of the kinds is rejected by name, with or without --kind, and without a traceback."""
    path = tmp_path / "what.dat"
    path.write_text(content)
    code, _, err = ops(capsys, "import", path)
    assert code == 70 and "what.dat" in err
    for kind in ("snapshots", "chain", "log"):
        code, _, err = ops(capsys, "import", path, "--kind", kind)
        assert code == 70 and "what.dat" in err, kind


def test_february_29_without_a_year_is_read() -> None:
    """29 February is accepted in a time without a year."""
    assert log_lines.read("Feb 29 10:00:00 host app[1]: x").at.month == 2
