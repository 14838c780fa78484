"""Test the doctor: every check runs once, and each problem names the setting to change."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opslib.dashboard import doctor
from opslib.dashboard.doctor import Examination
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.simulation.world.control import World
from opslib.simulation.world.http_server import Answer, Request, Server, as_html
from opslib.telemetry import log_drain
from opslib.telemetry.pages.refused_posts import Refusals
from opslib.telemetry.probes.store import SampleStore

BEGINS = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Run a simulated world in market hours, without a fault."""
    with World(BEGINS, speed=1.0) as lever:
        monkeypatch.setenv("OPS_CLOCK", lever.environ["OPS_CLOCK"])
        yield lever


@pytest.fixture
def web_page() -> Iterator[str]:
    """Serve an app that returns its web page for every path, as the real one does; yield its address."""
    loop, ready, found = asyncio.new_event_loop(), threading.Event(), list[str]()
    stop = asyncio.Event()

    async def serve() -> None:
        async def answer(_: Request) -> Answer:
            return as_html("The app")

        server = Server(answer, asyncio.sleep)
        await server.set_state("open")
        found.append(f"http://127.0.0.1:{server.port}")
        ready.set()
        await stop.wait()
        await server.set_state("closed")

    running = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    running.start()
    ready.wait(10)
    yield found[0]
    loop.call_soon_threadsafe(stop.set)
    running.join(10)
    loop.close()


def examined(home: Path, environ: dict[str, str]) -> Examination:
    """Examine an app with these settings; the report contains no secret."""
    found = settings.load(home, None, environ)
    store = Database(found.url)
    report = doctor.examine(found, store, rules.load())
    store.close()
    for secret in found.secrets.values():
        assert secret not in repr(report) + json.dumps(report.as_json())
    return report


def of(report: Examination, what: str) -> doctor.Check:
    return next(c for c in report.checks if what in c.what)


def test_a_healthy_world_is_green(world: World, tmp_path: Path) -> None:
    """Against a healthy world the doctor is ok, and lists every check with its result."""
    report = examined(tmp_path, world.environ)
    assert (report.verdict, report.exit_code) == ("ok", 0), report
    checked = [c.what for c in report.checks if c.verdict == "ok"]
    wanted = (
        "Python",
        "database",
        "rules",
        "clock",
        "massive: reachable",
        "massive: option data",
        "tradier: reachable",
        "app: server reachable",
        "app: upstream connection",
        "WebSocket opens",
        "log readable",
        "process running",
        "SPY: complete chain",
        "clock offsets from this machine",
    )
    assert all(any(words in what for what in checked) for words in wanted), report
    assert all(c.result for c in report.checks)


def test_an_app_that_returns_its_web_page_for_every_path(world: World, web_page: str, tmp_path: Path) -> None:
    """If the app's address returns a web page for every path, the doctor says so and names the setting."""
    report = examined(tmp_path, {**world.environ, "OPS_APP_URL": web_page})
    check = of(report, "/api/health")
    assert report.exit_code == 2 and check.verdict == "critical" and "a web page instead of data" in check.result
    assert "Set OPS_APP_URL to the address of the app's own server" in check.advice and web_page in check.advice


@pytest.mark.parametrize(
    ("change", "what", "words"),
    [
        ({"OPS_MASSIVE_TOKEN": ""}, "massive: reachable", "Set OPS_MASSIVE_TOKEN"),
        ({"OPS_MASSIVE_TOKEN": "another-key-than-theirs"}, "massive: reachable", "OPS_MASSIVE_TOKEN"),
        ({"OPS_TRADIER_URL": "http://127.0.0.1:1"}, "tradier: reachable", "OPS_FALLBACK=none"),
        ({"OPS_APP_LOG": "/nowhere/app.log"}, "log readable", "OPS_APP_LOG is /nowhere/app.log"),
        ({"OPS_APP_PID": "/nowhere/app.pid"}, "process running", "OPS_APP_PID is /nowhere/app.pid"),
        ({"OPS_APP_WS_URL": "ws://127.0.0.1:1"}, "WebSocket opens", "OPS_APP_WS_URL"),
        ({"SSL_CERT_FILE": ""}, "massive: reachable", "OPS_MASSIVE_URL"),
    ],
)
def test_a_wrong_setting_is_named(world: World, tmp_path: Path, change: dict[str, str], what: str, words: str) -> None:
    """One wrong setting is named alone; every other check is as before."""
    report = examined(tmp_path, {**world.environ, **change})
    check = of(report, what)
    assert report.exit_code != 0 and check.verdict in ("critical", "warning") and words in check.advice, report
    assert of(report, "app: server reachable").verdict == "ok"


def test_channels_of_each_role(tmp_path: Path) -> None:
    """The doctor lists the channels of each role, and names an error in the configuration of a channel."""
    (tmp_path / "settings.toml").write_text(
        '[channels.x]\nkind = "webhook"\nurl = "http://127.0.0.1:1"\n[roles.DevOps]\nchannels = ["x"]\n'
    )
    check = of(examined(tmp_path, {}), "notifications")
    assert check.verdict == "ok" and "DevOps: x" in check.result and "Tech Lead: terminal" in check.result
    (tmp_path / "settings.toml").write_text('[channels.x]\nkind = "slack"\n')
    check = of(examined(tmp_path, {}), "notifications")
    assert check.verdict == "critical" and "OPS_CHANNEL_X is not set" in check.result


def test_without_settings(tmp_path: Path) -> None:
    """Without any setting the verdict is unknown, and each missing setting is named."""
    report = examined(tmp_path, {})
    wanted = {name for name in settings.WORLD if name != "OPS_FALLBACK"}
    assert (report.verdict, report.exit_code) == ("unknown", 3) and {
        c.advice for c in report.checks if not c.verdict
    } >= {f"set {name}" for name in wanted}
    assert (
        all(name in of(report, "settings").advice for name in wanted)
        and "7 of 7 settings are missing, so these are not checked" in of(report, "settings").result
    )


@pytest.mark.parametrize(
    ("setting", "lost", "remains"),
    [
        ("OPS_APP_URL", "API health endpoint", ""),
        ("OPS_APP_WS_URL", "round trip", "the page's own report of its connection remains"),
        ("OPS_APP_LOG", "time-outs and how long the app waits", "POST /api/logs"),
        ("OPS_APP_PID", "memory and whether that grows", "the page's memory remain"),
        ("OPS_MASSIVE_URL", "response time", "page's counts"),
        ("OPS_TRADIER_URL", "fallback", "page's counts"),
        ("OPS_SYMBOLS", "daily validation with known symbols", "own validations remain"),
    ],
)
def test_checks_that_a_missing_setting_prevents(tmp_path: Path, setting: str, lost: str, remains: str) -> None:
    """For each missing setting the doctor names the guide's checks that are not possible, and what remains."""
    check = next(c for c in examined(tmp_path, {}).checks if c.advice == f"set {setting}")
    assert (
        check.verdict == ""
        and f"{setting} is not set. Not measured without it: " in check.result
        and lost in check.result
        and remains in check.result
    )


def test_a_hosted_app_with_a_log_drain(world: World, tmp_path: Path) -> None:
    """
    With a log drain the log counts as checked; the process cannot be checked from elsewhere.

    More than a day after the last line both are missing again; a log that is read twice is a warning.
    """
    environ = {**world.environ, "OPS_APP_LOG": "", "OPS_APP_PID": ""}
    store = Database(settings.load(tmp_path, None, environ).url)

    def keep(ago):
        return log_drain.keep(
            SampleStore(store, "desk"),
            log_drain.read(b"GET /api/health 200 3 ms", "text/plain"),
            clock.now() - ago,
            str,
        )

    keep(timedelta(hours=25))
    assert "OPS_APP_LOG" in of(examined(tmp_path, environ), "settings").advice
    keep(timedelta(minutes=1))
    report = examined(tmp_path, environ)
    assert (report.verdict, of(report, "log drain").verdict) == ("ok", "ok"), report
    assert "OPS_APP_PID is not set. Not measured without it" in of(report, "the app's process").result and not [
        c for c in report.checks if c.advice == "set OPS_APP_LOG"
    ]
    twice = of(examined(tmp_path, {**environ, "OPS_APP_LOG": world.environ["OPS_APP_LOG"]}), "log drain")
    assert twice.verdict == "warning" and "counts twice" in twice.result
    store.close()


@pytest.mark.parametrize(
    ("change", "verdict", "missing"),
    [
        ({"OPS_APP_PID": ""}, "unknown", "OPS_APP_PID"),
        ({"OPS_SYMBOLS": "", "OPS_MASSIVE_URL": ""}, "unknown", "OPS_SYMBOLS"),
        ({"OPS_TRADIER_URL": "", "OPS_FALLBACK": "none"}, "ok", ""),
        ({"OPS_APP_PID": "", "OPS_APP_LOG": "/nowhere/app.log"}, "critical", "OPS_APP_PID"),
    ],
)
def test_a_missing_setting_and_the_verdict(
    world: World, tmp_path: Path, change: dict[str, str], verdict: str, missing: str
) -> None:
    """One missing setting makes a healthy app unknown; a problem keeps its verdict; Tradier is optional."""
    report = examined(tmp_path, {**world.environ, **change})
    assert report.verdict == verdict, report
    assert [missing in c.advice for c in report.checks if c.what == "settings"] == ([True] if missing else [])


def test_a_missing_setting_does_not_hide_a_warning() -> None:
    """With settings missing, the warning of a check stays a warning."""
    unset, warning = doctor.Check(doctor.UNSET, "unknown", ""), doctor.Check("disk", "warning", "")
    assert [
        Examination("desk", (doctor.Check("a", "ok", ""), *more)).verdict
        for more in ((), (unset,), (unset, warning), (warning,))
    ] == ["ok", "unknown", "warning", "warning"]


def test_rejected_posts_are_listed(tmp_path: Path) -> None:
    """Posts that the receiver rejected within a day are listed with origin and reason; older ones are not."""
    found = settings.load(tmp_path, None, {})
    store = Database(found.url)
    assert "none in the last 24 hours" in doctor._refused(found, store).result
    for hours, origin, times in ((30, "https://old.example", 3), (2, "https://app.example", 12)):
        counting = Refusals(store, found.app, lambda hours=hours: clock.now() - timedelta(hours=hours), str)
        for _ in range(times):
            counting.count(403, "Origin not in OPS_CORS_ORIGINS", origin)
        counting.close()
    store.close()
    report = examined(tmp_path, {})
    check = of(report, "posts rejected")
    assert (
        check.verdict == "warning"
        and "12 posts from https://app.example rejected: Origin not in OPS_CORS_ORIGINS" in check.result
        and "old.example" not in check.result
    )
    assert report.exit_code == 1
