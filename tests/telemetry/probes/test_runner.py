"""When each probe is made, and that what it saw is kept: whatever hangs, raises, or cannot be written."""

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
    """A clock that runs with the loop's own time, and can be set."""

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
    """Wait until something holds."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


async def running(made: ProbeRunner, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """Run until what is to be awaited has been."""
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        await meanwhile()
    finally:
        stop.set()
        await task


def kept(looking: ProbeRunner) -> list[Sample]:
    return looking.samples.between(0, 2**62)


def test_what_hangs_delays_nothing_else(tmp_path: Path) -> None:
    """While one provider never answers, the other is looked at as often as before."""

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
    """A fault of ours in one probe is reported once, stands in the heartbeat, and leaves the others as they are."""

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


def test_what_cannot_be_written_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    While the store cannot be written samples wait; then all are kept, once and in order, and that is reported once.
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


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more samples than may wait the oldest are lost, and the heartbeat says how many."""
    monkeypatch.setattr(runner, "MOST_WAITING", 3)

    async def go() -> dict[str, int]:
        looking, _ = made(tmp_path, {})
        looking._put([Sample(i, "health", "app", "ok") for i in range(10)])
        return looking._heartbeat_sample("ok").details()

    details = asyncio.run(go())
    assert (details["waiting"], details["lost"]) == (3, 7)


def test_a_probe_that_was_slept_through_is_not_kept(tmp_path: Path) -> None:
    """
    When the clock jumps during a probe, what it saw is nobody's; the heartbeat tells of the jump, and looking goes on.
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


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    """
    Stopped in the middle of probes that hang, it has left a last heartbeat that says so, no task, no connection and no
    open file.
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
    """One chain fetched from a server that answers so: what was seen, and what was kept."""

    async def go() -> tuple[list[Sample], tuple | None]:
        async with serving(answer) as url:
            looking, _ = made(tmp_path, {"OPS_MASSIVE_URL": url, "OPS_SYMBOLS": "SPY"}, at)
            found = await looking.fetch_chain("SPY")
            return found, looking.samples.chain("SPY", 2**62)

    return asyncio.run(go())


def paged(request: Request, host: str = "api.polygon.io", last: int = 3) -> Answer:
    """A chain of so many pages of two contracts, whose next pages stand at the vendor's old address."""
    page = int(request.query.get("cursor", "1"))
    details = {
        "status": "OK",
        "results": [{"details": {"ticker": f"O:SPY{page}{i}", "expiration_date": "2026-03-20"}} for i in range(2)],
    }
    return as_json(
        details | ({"next_url": f"https://{host}/v3/snapshot/options/SPY?cursor={page + 1}"} if page < last else {})
    )


def test_a_whole_chain(tmp_path: Path) -> None:
    """Every page is fetched once, from the address of the settings whatever the answer names, and kept as it came."""
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
def test_a_chain_that_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Request], Answer], outcome: str, pages: int
) -> None:
    """
    A page that fails, another host, a circle, an empty chain, a refusal and an endless chain are each reported, with
    the pages that came.
    """
    monkeypatch.setattr(providers, "MOST_PAGES", 5)
    (sample,), held = chain(tmp_path, answer)
    assert (sample.outcome, sample.details()["pages"]) == (outcome, pages) and (held is not None) == (pages > 0)


def test_no_chain_of_a_closed_market(tmp_path: Path) -> None:
    """While the market is closed no chain is fetched."""
    assert chain(tmp_path, paged, SHUT) == ([], None)


def test_the_log_goes_on_where_it_was(tmp_path: Path) -> None:
    """A new process reads the log on from where the last one had come, and counts no line twice."""
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
    """One whole chain fetched at the moment of `healthy`, in no hurry, and evaluated."""

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
def test_a_fetched_chain_is_evaluated_by_its_quotes(
    tmp_path: Path, spoil: Callable[[Any], Any], flagged: float
) -> None:
    """Greeks that are all zero, or delta one with nothing beside it, take no contract out of what is evaluated live."""
    pages = massive(spoil(healthy()))
    sample, _ = judged(tmp_path, {**pages[0], "results": pages[0]["results"] + pages[1]["results"], "next_url": None})
    found = sample.details()
    assert found["core"] > 150 and found["flagged"] / found["core"] == flagged


@pytest.mark.parametrize("far", ["2031-12-19", "2150-12-18", "9999-12-31", "soon", None, 7, [1]])
def test_a_fetched_chain_is_kept_and_evaluated_whatever_one_of_its_contracts_says(tmp_path: Path, far: Any) -> None:
    """An expiration far away, or none at all, takes nothing from the other contracts: they are kept, and evaluated."""
    results = [r for page in massive(healthy()) for r in page["results"]]
    strange = {**results[0], "details": {**results[0]["details"], "expiration_date": far}}
    sample, held = judged(
        tmp_path, {"status": "OK", "request_id": "1", "results": [strange, *results[1:], "text", None]}
    )
    assert held and held[2][0]["results"][1:-2] == results[1:] and sample.outcome == "ok"
    assert sample.details()["core"] > 150 and sample.details()["flagged"] == 0
