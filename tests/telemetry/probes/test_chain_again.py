"""When a Greeks rule starts to breach, the chains are fetched at once, but not repeatedly."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from opslib.foundation.config import settings
from opslib.foundation.storage.database import Database
from opslib.services.collector import Collector
from opslib.simulation.world.http_server import Answer, Request, as_json
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes.runner import ProbeRunner
from tests.support import snapshots
from tests.support.outside_world import RULES
from tests.support.servers import serving
from tests.telemetry.probes.test_runner import OPEN, Clock, kept, running, until


def fetching(home: Path, chain_again_s: float, meanwhile: Callable[[ProbeRunner], None], count: int) -> int:
    """
    Number of chain fetches of a probe runner whose own interval is 15 minutes, while other threads request a fetch
    twice.
    """

    def answer(request: Request) -> Answer:
        return as_json(
            {
                "status": "OK",
                "market": "open",
                "results": [{"details": {"ticker": "O:SPY1", "expiration_date": "2026-03-20"}}],
            }
        )

    async def go() -> int:
        async with serving(answer) as url:
            found = settings.load(home, None, {"OPS_MASSIVE_URL": url, "OPS_SYMBOLS": "SPY"})
            made = ProbeRunner(
                found,
                Database(found.url),
                replace(RULES, probes=replace(RULES.probes, chain_again_s=chain_again_s)),
                every_s=1.0,
                now=Clock(OPEN).now,
                speed=20.0,
            )

            def chains():
                return sum(s.probe == "chain" for s in kept(made))

            async def asked() -> None:
                await until(lambda: chains() == 1)
                for _ in range(2):
                    await asyncio.to_thread(meanwhile, made)
                    await asyncio.sleep(0.3)
                await until(lambda: chains() >= count)

            await running(made, asked)
            made.fetch_chains_again()  # After the runner has ended, this does nothing.
            return chains()

    return asyncio.run(go())


def test_a_requested_fetch_has_a_minimum_interval(tmp_path: Path) -> None:
    """A fetch requested from another thread is made if the last one is long enough ago, otherwise not."""
    assert fetching(tmp_path / "a", 1.0, ProbeRunner.fetch_chains_again, 3) == 3
    assert fetching(tmp_path / "b", 600.0, ProbeRunner.fetch_chains_again, 1) == 1


def test_the_evaluator_requests_a_fetch_when_greeks_breach(tmp_path: Path) -> None:
    """The first evaluation at which a Greeks rule breaches requests a fetch; other rules do not."""
    instant, called = [snapshots.at(300)], list[float]()
    store, page = Database(f"sqlite:///{tmp_path / 'store.sqlite'}", lambda: instant[0]), snapshots.PageOf(-600)
    found = settings.load(tmp_path, None, {})
    judge = Collector(
        store,
        found,
        RULES,
        "one",
        lambda: instant[0],
        lambda: called.append((instant[0] - snapshots.OPENS).total_seconds()),
    )
    for s in range(300, 1100, 5):
        instant[0] = snapshots.at(s)
        bad = s >= 1000
        page.add(
            validations=10,
            greeks_valid=4 if bad else 10,
            gamma_zero=6 if bad else 0,
            massive_requests=1,
            tradier_requests=1,
            errors=0 if s < 800 else 2,
        )
        SnapshotStore(store).write("desk", [snapshots.post(s, page.body(s))])
        judge.evaluate_due()
    assert called and 1000 < called[0] <= 1060


def test_a_request_to_a_stopped_runner_does_nothing(tmp_path: Path) -> None:
    """A request from any thread does nothing and raises nothing while the runner is not running."""
    found = settings.load(tmp_path, None, {"OPS_MASSIVE_URL": "http://127.0.0.1:1", "OPS_SYMBOLS": "SPY"})
    made = ProbeRunner(found, Database(found.url), RULES)
    other = threading.Thread(target=made.fetch_chains_again)
    other.start()
    other.join()
    made.close()
