"""The doctor: everything looked at once, each thing named, and the setting to change."""

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
    """A world that runs, in market hours."""
    with World(BEGINS, speed=1.0) as lever:
        monkeypatch.setenv("OPS_CLOCK", lever.environ["OPS_CLOCK"])
        yield lever


@pytest.fixture
def web_page() -> Iterator[str]:
    """The address of an app that answers its web page on every path, as the real one does."""
    loop, ready, found = asyncio.new_event_loop(), threading.Event(), list[str]()
    stop = asyncio.Event()

    async def serve() -> None:
        async def answer(_: Request) -> Answer:
            return as_html("The app")

        server = Server(answer, asyncio.sleep)
        await server.be("open")
        found.append(f"http://127.0.0.1:{server.port}")
        ready.set()
        await stop.wait()
        await server.be("closed")

    running = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    running.start()
    ready.wait(10)
    yield found[0]
    loop.call_soon_threadsafe(stop.set)
    running.join(10)
    loop.close()


def examined(home: Path, environ: dict[str, str]) -> Examination:
    """What the doctor says of a desk with these settings; no secret of theirs is in it."""
    found = settings.load(home, None, environ)
    store = Database(found.url)
    seen = doctor.examine(found, store, rules.load())
    store.close()
    for secret in found.secrets.values():
        assert secret not in repr(seen) + json.dumps(seen.as_json())
    return seen


def of(seen: Examination, what: str) -> doctor.Check:
    return next(c for c in seen.checks if what in c.what)


def test_a_healthy_world_is_green(world: World, tmp_path: Path) -> None:
    """Against a healthy world the doctor is green, and names every thing that it looked at and what it saw there."""
    seen = examined(tmp_path, world.environ)
    assert (seen.verdict, seen.exit_code) == ("ok", 0), seen
    looked_at = [c.what for c in seen.checks if c.verdict == "ok"]
    wanted = (
        "Python",
        "store",
        "limits",
        "clock",
        "massive: is it there",
        "massive: may we have option data",
        "tradier: is it there",
        "app: is its server there",
        "socket behind its own",
        "WebSocket open",
        "log be read",
        "process alive",
        "SPY: can a whole chain",
        "clocks against ours",
    )
    assert all(any(words in what for what in looked_at) for words in wanted), seen
    assert all(c.seen for c in seen.checks)


def test_an_app_that_answers_its_page_on_every_path(world: World, web_page: str, tmp_path: Path) -> None:
    """
    Where the app's address is one that answers a web page on every path, the doctor says so and names the setting.
    """
    seen = examined(tmp_path, {**world.environ, "OPS_APP_URL": web_page})
    check = of(seen, "/api/health")
    assert seen.exit_code == 2 and check.verdict == "critical" and "a page instead of data" in check.seen
    assert "Set OPS_APP_URL to the address of the app's own server" in check.advice and web_page in check.advice


@pytest.mark.parametrize(
    ("change", "what", "words"),
    [
        ({"OPS_MASSIVE_TOKEN": ""}, "massive: is it there", "Set OPS_MASSIVE_TOKEN"),
        ({"OPS_MASSIVE_TOKEN": "another-key-than-theirs"}, "massive: is it there", "OPS_MASSIVE_TOKEN"),
        ({"OPS_TRADIER_URL": "http://127.0.0.1:1"}, "tradier: is it there", "OPS_FALLBACK=none"),
        ({"OPS_APP_LOG": "/nowhere/app.log"}, "log be read", "OPS_APP_LOG is /nowhere/app.log"),
        ({"OPS_APP_PID": "/nowhere/app.pid"}, "process alive", "OPS_APP_PID is /nowhere/app.pid"),
        ({"OPS_APP_WS_URL": "ws://127.0.0.1:1"}, "WebSocket open", "OPS_APP_WS_URL"),
        ({"SSL_CERT_FILE": ""}, "massive: is it there", "OPS_MASSIVE_URL"),
    ],
)
def test_what_is_wrong_and_which_setting(
    world: World, tmp_path: Path, change: dict[str, str], what: str, words: str
) -> None:
    """One wrong setting is named, by itself: everything else is as well as it was."""
    seen = examined(tmp_path, {**world.environ, **change})
    check = of(seen, what)
    assert seen.exit_code != 0 and check.verdict in ("critical", "warning") and words in check.advice, seen
    assert of(seen, "app: is its server there").verdict == "ok"


def test_who_is_told(tmp_path: Path) -> None:
    """The doctor says by which ways each role is told, and what is wrong with a way that cannot be meant."""
    (tmp_path / "settings.toml").write_text(
        '[channels.x]\nkind = "webhook"\nurl = "http://127.0.0.1:1"\n[roles.DevOps]\nchannels = ["x"]\n'
    )
    check = of(examined(tmp_path, {}), "who is told")
    assert check.verdict == "ok" and "DevOps: x" in check.seen and "Tech Lead: terminal" in check.seen
    (tmp_path / "settings.toml").write_text('[channels.x]\nkind = "slack"\n')
    check = of(examined(tmp_path, {}), "who is told")
    assert check.verdict == "critical" and "OPS_CHANNEL_X is not set" in check.seen


def test_nothing_is_configured(tmp_path: Path) -> None:
    """Where nothing is named to look at, the verdict is unknown, and each setting that is missing is named."""
    seen = examined(tmp_path, {})
    wanted = {name for name in settings.WORLD if name != "OPS_FALLBACK"}
    assert (seen.verdict, seen.exit_code) == ("unknown", 3) and {c.advice for c in seen.checks if not c.verdict} >= {
        f"set {name}" for name in wanted
    }
    assert (
        all(name in of(seen, "settings").advice for name in wanted)
        and "7 of 7 things are not looked at" in of(seen, "settings").seen
    )


@pytest.mark.parametrize(
    ("setting", "lost", "remains"),
    [
        ("OPS_APP_URL", "API health endpoint", ""),
        ("OPS_APP_WS_URL", "round trip", "the page's own word on its socket remains"),
        ("OPS_APP_LOG", "time-outs and how long the app waits", "POST /api/logs"),
        ("OPS_APP_PID", "memory and whether that grows", "the page's memory remain"),
        ("OPS_MASSIVE_URL", "response time", "page's counts"),
        ("OPS_TRADIER_URL", "fallback", "page's counts"),
        ("OPS_SYMBOLS", "daily validation with known symbols", "own validations remain"),
    ],
)
def test_which_checks_fall_away(tmp_path: Path, setting: str, lost: str, remains: str) -> None:
    """
    Of each setting that is missing the doctor says in plain words which of the guide's checks nobody makes, and what
    remains.
    """
    check = next(c for c in examined(tmp_path, {}).checks if c.advice == f"set {setting}")
    assert (
        check.verdict == ""
        and f"{setting} is not set. Not measured without it: " in check.seen
        and lost in check.seen
        and remains in check.seen
    )


def test_a_hosted_app_whose_log_comes_by_a_drain(world: World, tmp_path: Path) -> None:
    """
    Its log counts as looked at, its process as what cannot be looked at from afar; a day after the last line both are
    missing again; read twice it is a warning.
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
    seen = examined(tmp_path, environ)
    assert (seen.verdict, of(seen, "by a drain").verdict) == ("ok", "ok"), seen
    assert "OPS_APP_PID is not set. Not measured without it" in of(seen, "the app's process").seen and not [
        c for c in seen.checks if c.advice == "set OPS_APP_LOG"
    ]
    twice = of(examined(tmp_path, {**environ, "OPS_APP_LOG": world.environ["OPS_APP_LOG"]}), "by a drain")
    assert twice.verdict == "warning" and "counts twice" in twice.seen
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
def test_some_things_are_not_configured(
    world: World, tmp_path: Path, change: dict[str, str], verdict: str, missing: str
) -> None:
    """
    One setting that is missing makes a healthy desk unknown; what is seen to be wrong is said as it is; an app without
    Tradier lacks nothing.
    """
    seen = examined(tmp_path, {**world.environ, **change})
    assert seen.verdict == verdict, seen
    assert [missing in c.advice for c in seen.checks if c.what == "settings"] == ([True] if missing else [])


def test_a_warning_is_not_hidden_by_what_is_unset() -> None:
    """With settings missing, a warning of what was looked at stays a warning."""
    unset, warning = doctor.Check(doctor.UNSET, "unknown", ""), doctor.Check("disk", "warning", "")
    assert [
        Examination("desk", (doctor.Check("a", "ok", ""), *more)).verdict
        for more in ((), (unset,), (unset, warning), (warning,))
    ] == ["ok", "unknown", "warning", "warning"]


def test_refused_posts_are_said(tmp_path: Path) -> None:
    """Posts that the receiver refused in the last day are said with their origin and reason; older ones are not."""
    found = settings.load(tmp_path, None, {})
    store = Database(found.url)
    assert "none in the last 24 hours" in doctor._refused(found, store).seen
    for hours, origin, times in ((30, "https://old.example", 3), (2, "https://app.example", 12)):
        counting = Refusals(store, found.app, lambda hours=hours: clock.now() - timedelta(hours=hours), str)
        for _ in range(times):
            counting.count(403, "Origin not in OPS_CORS_ORIGINS", origin)
        counting.close()
    store.close()
    seen = examined(tmp_path, {})
    check = of(seen, "posts refused")
    assert (
        check.verdict == "warning"
        and "12 posts from https://app.example refused: Origin not in OPS_CORS_ORIGINS" in check.seen
        and "old.example" not in check.seen
    )
    assert seen.exit_code == 1
