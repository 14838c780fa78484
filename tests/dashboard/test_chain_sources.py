"""Test the sources of a chain: providers that respond or fail, the database, the shell."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from opslib import desk
from opslib.dashboard import chain_details, chain_sources
from opslib.foundation import clock
from opslib.foundation.config import rules
from opslib.foundation.errors import UsageError
from opslib.simulation.world.http_server import Answer, Request, as_json
from opslib.telemetry.probes.store import SampleStore
from tests.support.chains import AT, core, healthy, written
from tests.support.servers import serving
from tests.trading.options.test_chain import massive, tradier

RULES = rules.load(None)
TABLE = healthy()


def answering(request: Request, *, tradier_down: bool = False) -> Answer:
    """Serve both providers at one address: Massive's chain in two pages, Tradier's by expiration."""
    path, query = request.path, request.query
    if "/v3/snapshot/options/" in path:
        pages = massive(TABLE)
        second = "cursor" in query
        page = (
            pages[1] if second else pages[0] | {"next_url": "https://api.massive.com/v3/snapshot/options/SPY?cursor=2"}
        )
        return as_json(page)
    if tradier_down:
        return as_json({"fault": "down"}, 503)
    if path.endswith("/markets/options/expirations"):
        return as_json({"expirations": {"date": sorted(set(TABLE["expiration"]))}})
    if path.endswith("/markets/quotes"):
        return as_json({"quotes": {"quote": {"symbol": "SPY", "last": float(TABLE["underlying_price"].iloc[0])}}})
    if path.endswith("/markets/options/chains"):
        return as_json(next(page for page in tradier(TABLE[TABLE["expiration"] == query["expiration"]])[:1]))
    return as_json({"error": "unknown"}, 404)


def asked(
    home: Path,
    answer: Callable[[Request], Answer],
    what: str,
    as_of: str = "",
    provider: str = "",
    urls: tuple[str, ...] = ("MASSIVE", "TRADIER"),
) -> chain_details.ChainView:
    """Request a symbol's chain at the moment of the table."""
    found: list[chain_details.ChainView] = []

    async def go() -> None:
        async with serving(answer) as url:
            at = desk.open("desk", home, {f"OPS_{name}_URL": url for name in urls})
            found.append(
                await asyncio.to_thread(
                    lambda: chain_sources.of_provider(at.store, at.settings, RULES, what, provider, lambda: AT)
                )
            )

    asyncio.run(go())
    return found[0]


def test_a_chain_is_compared_between_providers(tmp_path: Path) -> None:
    """Massive's chain is evaluated and compared with Tradier's, contract by contract."""
    view = asked(tmp_path, answering, "SPY")
    values = view.as_json()
    assert (values["provider"], values["verdict"], values["contracts"], values["core"]["flagged"]) == (
        "massive",
        "ok",
        len(TABLE),
        0,
    )
    assert values["against"]["shared"] > 150 and (
        values["against"]["moved_usd"],
        values["against"]["delta_off"],
        values["against"]["iv_off"],
    ) == (0.0, 0, 0)
    assert "Comparison with the other provider" in repr(view)


def test_tradier_alone_and_tradier_down(tmp_path: Path) -> None:
    """Tradier's chain alone, with the missing quote added; if Tradier fails, Massive's alone, with a remark."""
    view = asked(tmp_path, answering, "SPY", provider="tradier")
    assert (view.as_json()["provider"], view.verdict, view.as_json()["contracts"]) == ("tradier", "ok", len(TABLE))
    down = asked(tmp_path, lambda r: answering(r, tradier_down=True), "SPY")
    assert (
        down.as_json()["against"] is None
        and any("tradier" in note for note in down.as_json()["notes"])
        and down.verdict == "ok"
    )


def test_a_page_that_fails_is_reported(tmp_path: Path) -> None:
    """A chain whose second page fails is evaluated as far as it arrived, and is not ok."""
    view = asked(
        tmp_path, lambda r: as_json({}, 502) if "cursor" in r.query else answering(r), "SPY", urls=("MASSIVE",)
    )
    values = view.as_json()
    assert (
        values["contracts"] == len(TABLE) // 2
        and values["verdict"] == "warning"
        and "incomplete" in {f["check"] for f in values["findings"]}
    )


def test_no_provider(tmp_path: Path) -> None:
    """Without an address or a response, the error says what to set."""
    at = desk.open("desk", tmp_path, {})
    with pytest.raises(UsageError, match="OPS_MASSIVE_URL"):
        chain_sources.of_provider(at.store, at.settings, RULES, "SPY")
    with pytest.raises(UsageError, match="no chain of SPY"):
        chain_sources.of_store(at.store, at.settings, RULES, "SPY", AT)
    with pytest.raises(UsageError, match="could be fetched"):
        asked(tmp_path, lambda r: as_json({"error": "Unknown API Key"}, 401), "SPY", urls=("MASSIVE",))


def test_a_stored_chain_is_used_as_of_a_moment(tmp_path: Path) -> None:
    """As of a moment it is the last chain stored by then, with the age of its quotes when it was fetched."""
    at = desk.open("desk", tmp_path, {})
    SampleStore(at.store, "desk").keep_chain(
        clock.micros(AT), "massive", "SPY", "ok", [json.dumps(page).encode() for page in massive(TABLE)]
    )
    view = at.greeks("SPY", as_of=AT + timedelta(minutes=20))
    assert view.quality.core_count == len(core(TABLE)) and view.verdict == "ok"
    with pytest.raises(UsageError, match="no chain of SPY"):
        at.greeks("SPY", as_of=AT - timedelta(minutes=1))
    SampleStore(at.store, "desk").keep_chain(
        clock.micros(AT + timedelta(hours=1)),
        "massive",
        "SPY",
        "ok",
        [json.dumps(page).encode() for page in massive(TABLE)],
    )
    assert at.greeks("SPY", as_of=AT + timedelta(hours=1)).quality.core_with("stale") == len(core(TABLE))


def test_from_the_shell(tmp_path: Path) -> None:
    """
    The exit code is the verdict, and the JSON follows CONTRACT.md.

    A file without a chain ends with 70, wrong usage with 64.
    """

    def ops(*given: str) -> tuple[int, str, str]:
        ended = subprocess.run(
            [sys.executable, "-m", "opslib.cli", "--home", str(tmp_path / "home"), "greeks", *given],
            capture_output=True,
            text=True,
            timeout=120,
        )
        return ended.returncode, ended.stdout, ended.stderr

    good = written(TABLE, tmp_path)
    rc, out, _ = ops(str(good), "-o", "json")
    values = json.loads(out)
    assert (
        rc == 0
        and values["verdict"] == "ok"
        and set(values) >= {"as_of", "contracts", "raw_valid_rate", "core", "coverage", "units", "findings", "verdict"}
    )
    assert (
        set(values["core"]) == {"contracts", "flagged", "valid_rate"} and values["as_of"] == "2026-03-10T15:30:00.000Z"
    )
    bad = TABLE.copy()
    bad.iloc[core(TABLE)[:120], bad.columns.get_loc("gamma")] = 0.0
    rc, out, _ = ops(str(written(bad, tmp_path, "bad.csv")))
    assert rc == 2 and "gamma_zero" in out and "critical" in out.splitlines()[0]
    (tmp_path / "page.html").write_text("<html>502</html>")
    rc, out, err = ops(str(tmp_path / "page.html"))
    assert (rc, out) == (70, "") and "no chain" in err
    assert ops("S P Y")[0] == 64 and ops(str(good), "--from", "nobody")[0] == 64
