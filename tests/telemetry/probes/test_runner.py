"""The schedule of probes, and storage of their samples, if a probe hangs or raises or the store cannot be written."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.errors import StoreError
from opslib.foundation.storage.database import Database
from opslib.simulation.world.http_server import Answer, Request, as_html, as_json
from opslib.telemetry.probes import providers, runner
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.support.chains import AT as CHAIN_AT
from tests.support.chains import healthy
from tests.support.servers import serving
from tests.trading.options.test_chain import massive

OPEN, SHUT = datetime(2026, 3, 10, 15, 0, tzinfo=UTC), datetime(2026, 3, 8, 15, 0, tzinfo=UTC)
SPEED = 20.0


class Clock:
    """A clock that runs with the time of the event loop, and can be set."""

    def __init__(self, at: datetime = OPEN):
        self.at, self.since = at, 0.0

    def now(self) -> datetime:
        time = asyncio.get_running_loop().time()
        self.since = self.since or time
        return self.at + timedelta(seconds=(time - self.since) * SPEED)


def made(home: Path, environ: dict[str, str], at: datetime = OPEN, every_s: float = 1.0) -> tuple[ProbeRunner, Clock]:
    found, ticking = settings.load(home, None, environ), Clock(at)
    return ProbeRunner(
        found, Database(found.url), rules.load(), every_s=every_s, now=ticking.now, speed=SPEED, chance=random.Random(1)
    ), ticking


async def until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


async def running(made: ProbeRunner, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """Run the probe runner until `meanwhile` has finished."""
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        await meanwhile()
    finally:
        stop.set()
        await task


def kept(looking: ProbeRunner) -> list[Sample]:
    return looking.samples.between(0, 2**62)


def test_a_hanging_probe_delays_no_other(tmp_path: Path) -> None:
    """While one provider never responds, the other is probed as often as before."""

    async def go() -> list[Sample]:
        async with (
            serving(lambda _: Answer(fault="hang")) as hanging,
            serving(lambda _: as_json({"clock": {"state": "open", "timestamp": OPEN.timestamp()}})) as well,
        ):
            looking, _ = made(tmp_path, {"OPS_MASSIVE_URL": hanging, "OPS_TRADIER_URL": well}, every_s=2.0)
            await running(
                looking, lambda: until(lambda: sum(s.subject == "massive" and s.last for s in kept(looking)) >= 2)
            )
            return kept(looking)

    samples = asyncio.run(go())
    times = [s.ts_us / 1e6 for s in samples if s.subject == "tradier"]
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    hung = {s.outcome for s in samples if s.subject == "massive"}
    assert hung <= {"timeout", "starved"} and hung, "a machine that is busy may be at fault for a late answer"
    assert {s.outcome for s in samples if s.subject == "tradier"} <= {"ok", "starved"}
    assert len(times) >= 4 and 1.0 <= gaps[len(gaps) // 2] <= 4.0, "on a machine that is busy a look may be late"


def test_a_probe_that_fails_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug in one probe is reported once, is in the heartbeat, and does not affect the other probes."""

    async def go() -> list[Sample]:
        async with serving(
            lambda _: as_json({"status": "ok", "uptime": 1, "timestamp": "2026-03-10T15:00:00Z"})
        ) as url:
            looking, _ = made(tmp_path, {"OPS_APP_URL": url, "OPS_APP_LOG": str(tmp_path / "log")})

            async def broken() -> list[Sample]:
                raise RuntimeError("what nobody thought of")

            monkeypatch.setattr(looking, "read_log", broken)
            await running(looking, lambda: until(lambda: sum(s.probe == "health" for s in kept(looking)) >= 4))
            return kept(looking)

    samples = asyncio.run(go())
    assert capsys.readouterr().err.count("what nobody thought of") == 1
    assert [s for s in samples if s.probe == "beat"][-2].details()["failing"] == {
        "log": "RuntimeError: what nobody thought of"
    }


def test_samples_wait_while_the_store_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    While the store cannot be written, samples wait. Then all are stored, once and in order. Both changes are reported
    once.
    """
    keep, full, tried = SampleStore.keep, [True], []

    def keeping(self: SampleStore, samples: list[Sample], **how: bool) -> None:
        tried.append(len(samples))
        if full[0] and samples:
            raise StoreError("the disk is full")
        keep(self, samples, **how)

    monkeypatch.setattr(SampleStore, "keep", keeping)
    monkeypatch.setattr(runner, "RETRY_STORE_S", 0.05)

    async def go() -> list[Sample]:
        looking, _ = made(tmp_path, {})

        async def meanwhile() -> None:
            await until(lambda: max(tried, default=0) >= 5)
            full[0] = False
            await until(lambda: len(kept(looking)) > 8)

        await running(looking, meanwhile)
        return kept(looking)

    beats = asyncio.run(go())
    assert [b.ts_us for b in beats] == sorted({b.ts_us for b in beats}) and beats[-1].outcome == "stopped"
    assert max(b.details()["waiting"] for b in beats) >= 4
    said = capsys.readouterr().err
    assert said.count("the disk is full") == 1 and said.count("can be written again") == 1


def test_the_number_of_waiting_samples_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If too many samples wait, the oldest are dropped, and the heartbeat has their number."""
    monkeypatch.setattr(runner, "MOST_WAITING", 3)

    async def go() -> dict[str, int]:
        looking, _ = made(tmp_path, {})
        looking._put([Sample(i, "health", "app", "ok") for i in range(10)])
        return looking._heartbeat_sample("ok").details()

    details = asyncio.run(go())
    assert (details["waiting"], details["lost"]) == (3, 7)


def test_a_probe_during_a_clock_jump_is_discarded(tmp_path: Path) -> None:
    """
    If the clock jumps during a probe, its sample is discarded; the heartbeat reports the jump, and probing continues.
    """

    async def go() -> list[Sample]:
        ticking: list[Clock] = []

        def answer(_: Request) -> Answer:
            if len(ticking) == 1:
                ticking[0].at += timedelta(hours=1)
                ticking.append(ticking[0])
            return as_json({"status": "ok", "uptime": 1, "timestamp": "2026-03-10T15:00:00Z"})

        async with serving(answer) as url:
            looking, its = made(tmp_path, {"OPS_APP_URL": url}, every_s=2.0)

            async def meanwhile() -> None:
                await until(lambda: sum(s.probe == "health" for s in kept(looking)) >= 2)
                ticking.append(its)
                await until(
                    lambda: (
                        sum(
                            s.probe == "health" and s.ts_us > clock.micros(OPEN + timedelta(hours=1))
                            for s in kept(looking)
                        )
                        >= 3
                    )
                )

            await running(looking, meanwhile)
            return kept(looking)

    samples = asyncio.run(go())
    assert [s.details()["stepped_s"] for s in samples if "stepped_s" in s.details()] == [pytest.approx(3600, abs=5)]
    assert not [s for s in samples if (s.seconds or 0) > 60]


def test_stopping_leaves_nothing_open(tmp_path: Path) -> None:
    """
    If it is stopped while probes hang, the last heartbeat says "stopped", and no task, connection or open file is left.
    """

    async def go() -> tuple[list[Sample], list[object], list[str], int]:
        async with serving(lambda _: Answer(fault="hang")) as url:
            (tmp_path / "log").write_text("")
            looking, _ = made(
                tmp_path,
                {
                    "OPS_APP_URL": url,
                    "OPS_MASSIVE_URL": url,
                    "OPS_APP_WS_URL": url.replace("http", "ws"),
                    "OPS_APP_LOG": str(tmp_path / "log"),
                },
            )
            before = len(asyncio.all_tasks())
            await running(looking, lambda: until(lambda: len(kept(looking)) >= 4))
            found = kept(looking)
            looking.samples.store.close()
            await asyncio.sleep(0.05)
            port, us = int(url.rsplit(":", 1)[1]), psutil.Process()
            mine = [c for c in us.net_connections() if c.raddr and c.raddr.port == port]
            ours = [asyncio.current_task(), *(t for t in asyncio.all_tasks() if "Server._serve" in repr(t))]
            return (
                found,
                mine,
                [f.path for f in us.open_files() if str(tmp_path) in f.path],
                len(asyncio.all_tasks()) - len(ours) - before + 1,
            )

    samples, connections, files, tasks = asyncio.run(go())
    assert samples[-1].outcome == "stopped" and (connections, files, tasks) == ([], [], 0)


def chain(
    tmp_path: Path, answer: Callable[[Request], Answer], at: datetime = OPEN
) -> tuple[list[Sample], tuple | None]:
    """Fetch one chain from a server that answers in this way; return the samples and the stored chain."""

    async def go() -> tuple[list[Sample], tuple | None]:
        async with serving(answer) as url:
            looking, _ = made(tmp_path, {"OPS_MASSIVE_URL": url, "OPS_SYMBOLS": "SPY"}, at)
            found = await looking.fetch_chain("SPY")
            return found, looking.samples.chain("SPY", 2**62)

    return asyncio.run(go())


def paged(request: Request, host: str = "api.polygon.io", last: int = 3) -> Answer:
    """A chain of several pages with two contracts each; the next pages are at the provider's old address."""
    page = int(request.query.get("cursor", "1"))
    details = {
        "status": "OK",
        "results": [{"details": {"ticker": f"O:SPY{page}{i}", "expiration_date": "2026-03-20"}} for i in range(2)],
    }
    return as_json(
        details | ({"next_url": f"https://{host}/v3/snapshot/options/SPY?cursor={page + 1}"} if page < last else {})
    )


def test_a_complete_chain(tmp_path: Path) -> None:
    """
    Every page is fetched once, from the address in the settings whatever the response names, and stored unchanged.
    """
    (sample,), held = chain(tmp_path, paged)
    assert (sample.outcome, sample.value, sample.details()["pages"]) == ("ok", 6, 3)
    assert (
        held
        and held[1] == "ok"
        and [r["details"]["ticker"] for page in held[2] for r in page["results"]]
        == [f"O:SPY{p}{i}" for p in (1, 2, 3) for i in range(2)]
    )


@pytest.mark.parametrize(
    ("answer", "outcome", "pages"),
    [
        (lambda r: as_html("502", 502) if r.query.get("cursor") == "2" else paged(r), "partial", 1),
        (lambda r: paged(r, host="elsewhere.example"), "partial", 1),
        (
            lambda r: as_json({"status": "OK", "results": [{"details": {}}], "next_url": "http://127.0.0.1/v3/again"}),
            "partial",
            2,
        ),
        (lambda r: as_json({"status": "OK", "results": []}), "ok_empty", 1),
        (lambda r: as_json({"status": "NOT_AUTHORIZED", "message": "your plan"}, 403), "entitlement_403", 0),
        (lambda r: paged(r, last=10**9), "partial", 5),
    ],
)
def test_an_incomplete_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Request], Answer], outcome: str, pages: int
) -> None:
    """
    A failing page, another host, a loop, an empty chain, a rejection and an endless chain are each reported, with the
    pages received.
    """
    monkeypatch.setattr(providers, "MOST_PAGES", 5)
    (sample,), held = chain(tmp_path, answer)
    assert (sample.outcome, sample.details()["pages"]) == (outcome, pages) and (held is not None) == (pages > 0)


def test_no_chain_is_fetched_while_the_market_is_closed(tmp_path: Path) -> None:
    """While the market is closed no chain is fetched."""
    assert chain(tmp_path, paged, SHUT) == ([], None)


def test_the_log_is_continued_by_a_new_process(tmp_path: Path) -> None:
    """A new process reads the log from the last position, and counts no line twice."""
    log = tmp_path / "app.log"
    log.write_text("")

    async def read(minutes: int) -> None:
        looking, _ = made(tmp_path, {"OPS_APP_LOG": str(log)}, OPEN + timedelta(minutes=minutes))
        looking.samples.keep(await looking.read_log())
        looking.close()

    for i, lines in enumerate(("", "Error: one\n", "Error: two\nError: three\n")):
        with log.open("a") as file:
            file.write(lines)
        asyncio.run(read(i))
    with_targets = SampleStore(Database(settings.load(tmp_path, None, {}).url), "desk")
    assert [s.value for s in with_targets.between(0, 2**62)] == [0, 1, 2]


def judged(tmp_path: Path, payload: Any) -> tuple[Sample, tuple | None]:
    """Fetch one complete chain at the time of `healthy`, without a rush, and evaluate it."""

    async def go() -> tuple[Sample, tuple | None]:
        async with serving(lambda request: as_json(payload)) as url:
            found = settings.load(tmp_path, None, {"OPS_MASSIVE_URL": url, "OPS_SYMBOLS": "SPY"})
            looking = ProbeRunner(found, Database(found.url), rules.load(), now=lambda: CHAIN_AT, speed=1.0)
            (sample,) = await looking.fetch_chain("SPY")
            looking.close()
            return sample, looking.samples.chain("SPY", 2**62)

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("spoil", "flagged"),
    [
        (lambda t: t, 0.0),
        (lambda t: t.assign(delta=0.0, gamma=0.0, theta=0.0, vega=0.0), 1.0),
        (lambda t: t.assign(delta=[1.0 if s == "call" else -1.0 for s in t["type"]], gamma=0.0, vega=0.0, iv=0.0), 1.0),
    ],
    ids=["healthy", "all zero", "delta one"],
)
def test_contracts_with_invalid_greeks_are_evaluated(
    tmp_path: Path, spoil: Callable[[Any], Any], flagged: float
) -> None:
    """Contracts whose Greeks are all zero, or only delta one, are not excluded from the evaluation of a live chain."""
    pages = massive(spoil(healthy()))
    sample, _ = judged(tmp_path, {**pages[0], "results": pages[0]["results"] + pages[1]["results"], "next_url": None})
    found = sample.details()
    assert found["core"] > 150 and found["flagged"] / found["core"] == flagged


@pytest.mark.parametrize("far", ["2031-12-19", "2150-12-18", "9999-12-31", "soon", None, 7, [1]])
def test_one_invalid_contract_does_not_affect_the_chain(tmp_path: Path, far: Any) -> None:
    """If one contract has an expiration far away or an invalid one, the other contracts are stored and evaluated."""
    results = [r for page in massive(healthy()) for r in page["results"]]
    strange = {**results[0], "details": {**results[0]["details"], "expiration_date": far}}
    sample, held = judged(
        tmp_path, {"status": "OK", "request_id": "1", "results": [strange, *results[1:], "text", None]}
    )
    assert held and held[2][0]["results"][1:-2] == results[1:] and sample.outcome == "ok"
    assert sample.details()["core"] > 150 and sample.details()["flagged"] == 0
