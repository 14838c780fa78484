"""
Test the documentation of connecting the app's page.

Its code blocks run in an Express app with helmet's policy, in a real browser.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import opslib
from opslib.cli import main
from opslib.dashboard import doctor
from opslib.foundation import clock, time_parsing
from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.telemetry.pages import refused_posts, snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from opslib.telemetry.probes import app_log
from opslib.telemetry.probes import log_lines as logs
from tests.services.test_server import AS_JSON, LARGEST, Answer, Receiver, a_body, asked, awaited, receiving
from tests.support import node_packages
from tests.support.servers import free_port
from tests.support.system import absent, needs

DOC = (Path(opslib.__file__).parent / "docs" / "connect.md").read_text(encoding="utf-8")
BLOCKS = {block.splitlines()[0]: block for block in re.findall(r"```ts\n(.*?)```", DOC, re.S)}
KEY = "an-ingest-key-of-a-test"
ROUTE = "/api/metrics/export"
PAGE_METRICS = """
const service = {
  requests: 0,
  getDashboardMetrics() {
    const now = Date.now(), provider = {provider: "massive", requestCount: this.requests, successCount: \
this.requests, failureCount: 0, avgResponseTimeMs: 0, fallbackCount: 0, lastUpdateAt: now, uptime: 100};
    return {
      providers: {massive: provider, tradier: {...provider, provider: "tradier", requestCount: 0, successCount: 0}},
      greeksQuality: {totalTrades: 0, validGreeks: 0, estimatedGreeks: 0, validationErrors: 0, deltaOutOfBounds: 0, \
gammaIsZero: 0, ivAnomalies: 0, lastUpdateAt: now},
      pnl: {totalTrades: 0, avgGrossPnL: 0, avgNetPnL: 0, totalCommissionCost: 0, avgSlippageCost: 0, \
costImpactPercent: 0, backtestVariance: 0, lastUpdateAt: now},
      systemHealth: {apiAvgResponseTimeMs: 0, webSocketConnected: true, webSocketLatencyMs: 0, errorCount: 3, \
errorsByType: new Map([["MassiveREST", 2], ["Other", 1]]), uptime: 60},
      lastUpdateAt: now,
    };
  },
};
window.service = service;
window.blocked = [];
addEventListener("securitypolicyviolation", (event) => window.blocked.push(`${event.effectiveDirective} \
${event.blockedURI}`));
export const getMetricsService = () => service;
"""
# The app of these tests: the code blocks of the documentation at their documented places, then code of the tests.
SERVER = """
import express from "express";
import helmet from "helmet";

const app = express();
%(route)s
app.use(helmet(%(helmet)s));
app.use(express.json({ limit: "1mb" }));
const script = (path, code) => app.get(path, (req, res) => res.type("js").send(code));
script("/services/monitoring", %(metrics)s);
script("/opsMonitor", %(monitor)s);
script("/main.js", %(main)s);
app.get("/", (req, res) => res.type("html").send('<!DOCTYPE html><title>app</title><link rel="icon" href="data:,">\
<script type="module" src="/main.js"></script>'));
app.use((problem, req, res, next) => res.status(500).json({ error: "Internal server error" }));
const listening = app.listen(process.env.TEST_PORT, "127.0.0.1", () => console.log(`listening \
${listening.address().port}`));
"""


def block(start: str) -> str:
    """Return the only code block of the documentation with this first line, without that line."""
    found = [code for first, code in BLOCKS.items() if first.startswith(f"// {start}")]
    assert len(found) == 1, (start, list(BLOCKS))
    return found[0].partition("\n")[2]


class App:
    """The Express app, running."""

    def __init__(self, url: str, log: Path, process: subprocess.Popen[bytes]):
        self.url, self._log, self.process = url, log, process

    @property
    def log(self) -> list[str]:
        """Return the output of the server so far."""
        return self._log.read_text().splitlines()

    def post(self, body: bytes, **headers: str) -> Answer:
        """Post to the route."""
        return asked(self.url, "POST", ROUTE, body, {"Content-Type": "text/plain;charset=UTF-8", **headers})


@pytest.fixture(scope="module")
def modules() -> Path:
    """Return the node_modules folder with express and helmet."""
    needs("node")
    found = node_packages.installed(needs("npm"))
    return found if isinstance(found, Path) else absent(f"express and helmet from npm ({found})")


@pytest.fixture
def run_app(modules: Path, tmp_path: Path) -> Any:
    """Start the app: `run_app(receiver_url, direct=…, policy=…)`."""
    (tmp_path / "node_modules").symlink_to(modules)

    @contextmanager
    def run(
        receiver: str, *, direct: bool = False, policy: bool = False, key: str = KEY, port: int = 0
    ) -> Iterator[App]:
        monitor, options = block("src/opsMonitor.ts, a new file"), ""
        if direct:  # Step 3 of way 2, with the receiver's port.
            old = re.search(r"instead of: (.*)\n", DOC)
            assert old and old[1] in monitor
            monitor = monitor.replace(old[1], block("src/opsMonitor.ts, instead of").strip())
        if policy:
            options = block("server/index.ts, the options of helmet()")
        code = SERVER % {
            "route": block("server/index.ts, directly below: const app = express();"),
            "helmet": options.replace("http://127.0.0.1:8321", receiver),
            "metrics": json.dumps(PAGE_METRICS),
            "monitor": json.dumps(monitor.replace("http://127.0.0.1:8321", receiver)),
            "main": json.dumps(block("src/main.tsx")),
        }
        (tmp_path / "server.mjs").write_text(code)
        log = tmp_path / "app.log"
        environ = {
            "PATH": os.environ["PATH"],
            "OPS_RECEIVER_URL": receiver,
            "OPS_INGEST_KEY": key,
            "TEST_PORT": str(port),
        }
        with log.open("w") as written:
            running = subprocess.Popen(
                [needs("node"), "server.mjs"], cwd=tmp_path, env=environ, stdout=written, stderr=subprocess.STDOUT
            )
        try:
            awaited(lambda: running.poll() is not None or "listening" in log.read_text(), "the app listens", 60)
            assert running.poll() is None, log.read_text()
            yield App(f"http://127.0.0.1:{log.read_text().split()[-1]}", log, running)
        finally:
            running.kill()
            running.wait()

    return run


@pytest.fixture(scope="module")
def launch() -> Iterator[Any]:
    """Launch a real Chromium with all of its checks on: `launch(*more_arguments)`."""
    from playwright.sync_api import sync_playwright

    program = needs("chromium")
    with sync_playwright() as playwright:
        yield lambda *more: playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", *more]
        )


@pytest.fixture(scope="module")
def browser(launch: Any) -> Iterator[Any]:
    """One browser for most of the tests."""
    launched = launch()
    yield launched
    launched.close()


def hold_time(page: Any) -> None:
    """Stop the page's clock and timers, unless a test runs them."""
    now = clock.now()
    page.clock.install(time=now)
    page.clock.pause_at(now + timedelta(seconds=1))


@pytest.fixture
def tab(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Open a tab whose timers run only on request; with the parameter "real time", by themselves."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(90_000)
    if getattr(request, "param", "") != "real time":
        hold_time(page)
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    yield page
    context.close()


def open_app(tab: Any, app: App) -> str:
    """Open the app's page in a tab; return its policy."""
    answer = tab.goto(app.url)
    tab.wait_for_function("window.service")
    return str(answer.header_value("content-security-policy"))


def tick(tab: Any, before_ms: int = 5000, after_ms: int = 0) -> int:
    """
    Fire the page's timer once, with time before and after it; return the response status of its post.

    It is 0 without a response.
    """
    ended = list[int]()

    def finished(request):
        return ended.append(request.response().status)

    def failed(_):
        return ended.append(0)

    tab.on("requestfinished", finished)
    tab.on("requestfailed", failed)
    tab.clock.run_for(before_ms)
    tab.clock.run_for(after_ms)
    until = time.monotonic() + 60
    while not ended and time.monotonic() < until:
        tab.evaluate("0")  # The browser handles events only during a call.
    tab.remove_listener("requestfinished", finished)
    tab.remove_listener("requestfailed", failed)
    assert len(ended) == 1, "one post was expected of the timer"
    return ended[0]


def posts(found: Receiver) -> list[dict[str, Any]]:
    """Return every post in the database."""
    return [json.loads(body) for body in found.bodies()]


def status_shows(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return what `ops status -o json` shows for the same home."""
    capsys.readouterr()
    main.main(["status", "-o", "json"])
    return dict(json.loads(capsys.readouterr().out))


def test_the_page_posts_through_the_apps_server(
    home: Path, run_app: Any, tab: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    With helmet's default policy the page's timer posts through the route: 204, with page id and errors by type.

    The key is only on the server.
    """
    with receiving(OPS_INGEST_KEY=KEY) as found, run_app(found.url) as app:
        sources: list[str] = []
        tab.on("response", lambda answer: sources.append(answer.text()) if answer.request.method == "GET" else None)
        assert "default-src 'self'" in open_app(tab, app)
        tab.evaluate("service.requests = 41")
        assert tick(tab) == 204
        (post,) = posts(found)
        assert (
            post["systemHealth"]["errorsByType"] == {"MassiveREST": 2, "Other": 1}
            and post["systemHealth"]["errorCount"] == 3
        )
        assert len(post["page"]) > 8 and post["providers"]["massive"]["requestCount"] == 41
        tab.evaluate("service.requests = 43")
        assert tick(tab) == 204
        assert posts(found)[1]["page"] == post["page"]
        assert len(sources) >= 4 and not any(KEY in source for source in sources) and KEY not in tab.content()
        assert tab.evaluate("blocked") == [] and tab.problems == []
        shown = status_shows(capsys)["panels"]
        assert (
            shown["providers"]["subjects"]["massive"]["requests"] == 43
            and shown["system"]["pages"] == 1
            and shown["system"]["errors_by_type"] == {"MassiveREST": 2, "Other": 1}
        )
        assert not any(ROUTE in line for line in app.log)


@pytest.mark.parametrize("tab", ["timer held", "real time"], indirect=True)
def test_the_last_post_arrives_when_the_tab_is_closed(
    home: Path, run_app: Any, tab: Any, request: pytest.FixtureRequest
) -> None:
    """
    What was counted since the last post arrives when the tab is closed, without the timer.

    In a page with a real clock, it has the browser's memory figure.
    """
    with receiving(OPS_INGEST_KEY=KEY) as found, run_app(found.url) as app:
        open_app(tab, app)
        tab.evaluate("service.requests = 777")
        tab.close()
        awaited(
            lambda: any(post["providers"]["massive"]["requestCount"] == 777 for post in posts(found)),
            "the post of the closed tab",
            90,
        )
        assert posts(found)[-1]["systemHealth"]["errorsByType"] == {"MassiveREST": 2, "Other": 1}
        if request.node.callspec.params["tab"] == "real time":
            assert posts(found)[-1]["client"]["memoryBytes"] > 100_000


def test_a_reload_posts_as_well(home: Path, run_app: Any, tab: Any) -> None:
    """A reload posts what the old page load had counted; the new one has another id."""
    with receiving(OPS_INGEST_KEY=KEY) as found, run_app(found.url) as app:
        open_app(tab, app)
        tab.evaluate("service.requests = 12")
        tab.reload()
        tab.wait_for_function("window.service")
        awaited(lambda: len(posts(found)) == 1, "the post of the page that was left", 90)
        assert tick(tab) == 204
        left, loaded = posts(found)
        assert (
            left["providers"]["massive"]["requestCount"] == 12
            and loaded["providers"]["massive"]["requestCount"] == 0
            and left["page"] != loaded["page"]
        )


def test_the_default_policy_blocks_direct_posts(home: Path, run_app: Any, tab: Any) -> None:
    """
    With helmet's default policy the browser blocks posts to the receiver.

    That holds for the documentation's code and for sendBeacon, which still returns true.
    """
    with receiving() as found, run_app(found.url, direct=True) as app:
        open_app(tab, app)
        tab.clock.run_for(5000)
        assert tab.evaluate(f"navigator.sendBeacon('{found.url}{ROUTE}', '{{}}')") is True
        tab.wait_for_function("blocked.length >= 2")
        assert {line.split()[0] for line in tab.evaluate("blocked")} == {"connect-src"} and any(
            "violates the following Content Security Policy directive" in line for line in tab.problems
        ), tab.problems
        assert posts(found) == []


@pytest.mark.parametrize("origin_is_named", [False, True])
def test_direct_posts_with_the_documented_policy(
    home: Path, run_app: Any, tab: Any, capsys: pytest.CaptureFixture[str], origin_is_named: bool
) -> None:
    """
    With the documentation's connect-src the post is sent, and rejected until its origin is in OPS_CORS_ORIGINS.

    Then it arrives, also when the tab is closed.
    """
    port = free_port()
    with (
        receiving(OPS_CORS_ORIGINS=f"http://127.0.0.1:{port}" if origin_is_named else "https://app.example") as found,
        run_app(found.url, direct=True, policy=True, port=port) as app,
    ):
        assert f"connect-src 'self' {found.url}" in open_app(tab, app)
        if origin_is_named:
            assert tick(tab) == 204
            assert posts(found)[0]["systemHealth"]["errorsByType"] == {"MassiveREST": 2, "Other": 1}
            tab.evaluate("service.requests = 778")
            tab.close()
            awaited(
                lambda: posts(found)[-1]["providers"]["massive"]["requestCount"] == 778,
                "the post of the closed tab",
                90,
            )
            assert status_shows(capsys)["panels"]["system"]["pages"] == 1
        else:
            tick(tab)
            assert any("blocked by CORS policy" in line for line in tab.problems) and posts(found) == []
            awaited(
                lambda: any(
                    r.words == f"1 post from {app.url} rejected: Origin not in OPS_CORS_ORIGINS (HTTP 403)"
                    for r in refused_posts.read(found.store, "desk", 0, 2**62)
                ),
                "the refusal is counted",
            )


@pytest.mark.parametrize("direct", [True, False])
def test_a_page_from_the_internet(home: Path, run_app: Any, launch: Any, direct: bool) -> None:
    """
    A page from the internet needs the browser's permission for local addresses to post directly.

    Through the app's server it needs none.
    """
    port = free_port()
    with (
        receiving(OPS_CORS_ORIGINS=f"http://127.0.0.1:{port}") as found,
        run_app(found.url, direct=direct, policy=direct, port=port) as app,
    ):
        launched = launch(f"--ip-address-space-overrides=127.0.0.1:{port}=public")
        for permissions in ([], ["local-network-access"]):
            context = launched.new_context(permissions=permissions)
            page, said = context.new_page(), list[str]()
            page.set_default_timeout(90_000)
            page.on("console", lambda message, said=said: said.append(message.text))
            hold_time(page)
            open_app(page, app)
            before = len(posts(found))
            refused = direct and not permissions
            assert tick(page) == (0 if refused else 204)
            assert len(posts(found)) == before + (0 if refused else 1)
            assert (
                any(
                    "Permission was denied for this request to access the `loopback` address space" in line
                    for line in said
                )
                is refused
            ), said
            context.close()
        launched.close()


def test_the_route_while_the_receiver_is_down(run_app: Any, home: Path) -> None:
    """
    While the receiver is down the route returns 502 with the reason, and the app logs it once.

    Once the receiver is back, posts are stored and the log says so.
    """
    port = free_port()
    with run_app(f"http://127.0.0.1:{port}") as app:
        for _ in range(3):
            answer = app.post(b"{}")
            assert (answer.status, answer.body) == (502, b"The receiver did not answer: ECONNREFUSED")
        assert asked(app.url, "GET", "/").status == 200
        with socket.create_server(("127.0.0.1", port)) as back:
            posting = threading.Thread(target=app.post, args=(b"{}",))
            posting.start()
            connection, _ = back.accept()
            with connection:
                assert b"content-type: application/json" in connection.recv(65536).lower()
                connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                posting.join()
        assert app.log[1:] == [
            "WARN [Ops] The receiver did not answer: ECONNREFUSED",
            "WARN [Ops] The receiver answers again.",
        ]
        assert errors_of(app) == 0


def errors_of(app: App) -> int:
    """Return the number of errors that opslib counts in the app's log."""
    return sum(entry.is_error for entry in app_log.entries(logs.read(line) for line in app.log))


def test_the_route_with_a_receiver_that_hangs(run_app: Any) -> None:
    """
    A receiver that does not respond delays a post by three seconds, then it gets 502.

    Meanwhile the app serves all other requests.
    """
    with socket.create_server(("127.0.0.1", 0)) as hangs, run_app(f"http://127.0.0.1:{hangs.getsockname()[1]}") as app:
        answers = list[tuple[float, Answer]]()

        def post() -> None:
            began = time.monotonic()
            answer = app.post(b"{}")
            answers.append((time.monotonic() - began, answer))

        posting = [threading.Thread(target=post) for _ in range(5)]
        for one in posting:
            one.start()
        held, _ = hangs.accept()  # A post is waiting.
        with held:
            assert asked(app.url, "GET", "/").status == 200
            for one in posting:
                one.join()
        assert (
            all(answer.status == 502 and b"timeout" in answer.body and took >= 2.9 for took, answer in answers)
            and len(answers) == 5
        )
        assert min(took for took, _ in answers) < 20, "the route's limit is 3 s"
        # A failure of the receiver must not count as one of a provider.
        assert len(app.log) == 2 and errors_of(app) == 0


def test_the_apps_server_hangs(home: Path, run_app: Any, tab: Any) -> None:
    """
    While the app's server hangs, the page cancels each post before the next, so that its connections stay free.

    Then posts continue, with what was counted meanwhile.
    """
    with receiving(OPS_INGEST_KEY=KEY) as found, run_app(found.url) as app:
        open_app(tab, app)
        app.process.send_signal(signal.SIGSTOP)
        tab.evaluate("service.requests = 5")
        assert [tick(tab, 5000, 4500), tick(tab, 500, 4500)] == [0, 0]
        app.process.send_signal(signal.SIGCONT)
        tab.evaluate("service.requests = 6")
        assert tick(tab, 500) == 204
        assert posts(found)[-1]["providers"]["massive"]["requestCount"] == 6


def test_the_receivers_response_is_passed_on(home: Path, run_app: Any) -> None:
    """The page gets the receiver's response: 400 with the invalid fields, 401 for another key; none of it is HTML."""
    with receiving(OPS_INGEST_KEY=KEY) as found:
        with run_app(found.url) as app:
            answer = app.post(b'{"providers": 1}')
            assert (
                answer.status == 400
                and b"lastUpdateAt is missing" in answer.body
                and answer.headers["content-type"].startswith("text/plain")
            )
            assert app.post(json.dumps(a_body()).encode()).status == 204
            assert app.post(json.dumps(a_body(1)).encode(), **{"Content-Type": "application/json"}).status == 204
            assert app.post(b"").status == 400
            assert len(app.log) == 1
        with run_app(found.url + "/", key="another key") as app:
            assert app.post(json.dumps(a_body(2)).encode()).status == 401
    assert len(found.bodies()) == 2


def test_the_largest_body(home: Path, run_app: Any) -> None:
    """A body of 65,536 bytes, the limit of the receiver, passes; one byte more gets 413 and is not forwarded."""
    with receiving() as found, run_app(found.url) as app:
        body = json.dumps(a_body()).encode()
        assert app.post(body + b" " * (LARGEST - len(body))).status == 204
        answer = app.post(body + b" " * (LARGEST + 1 - len(body)))
        assert (answer.status, answer.body) == (413, b"request entity too large")
        assert len(found.bodies()) == 1


def test_a_page_of_another_site_cannot_use_the_route(home: Path, run_app: Any) -> None:
    """The route rejects a post of a page from another site, although it adds the key itself."""
    with receiving(OPS_INGEST_KEY=KEY) as found, run_app(found.url) as app:
        body = json.dumps(a_body()).encode()
        assert [app.post(body, **{"Sec-Fetch-Site": site}).status for site in ("cross-site", "same-site", "none")] == [
            403,
            403,
            403,
        ]
        assert found.bodies() == []
        assert app.post(body, **{"Sec-Fetch-Site": "same-origin"}).status == 204


def test_every_rejection_is_documented(home: Path) -> None:
    """Each rejection of the receiver is a row of the documentation, with its status and title."""
    body = json.dumps(a_body()).encode()
    with receiving(OPS_INGEST_KEY=KEY) as found:
        key = {"Authorization": f"Bearer {KEY}"}
        answers = [
            found.post(b"{}", AS_JSON | key),
            found.post(body),
            found.post(body, AS_JSON | key | {"Origin": "https://app.example"}),
            found.post(body + b" " * LARGEST, AS_JSON | key),
            found.post(body, {"Content-Type": "text/html"} | key),
            found.post(body, AS_JSON | key | {"Host": "ops.example"}),
        ]
        found.store.close()
        shutil.rmtree(home)
        home.write_text("no folder")
        answers.append(found.post(body, AS_JSON | key))
    assert [answer.status for answer in answers] == [400, 401, 403, 413, 415, 421, 503]
    for answer in answers:
        assert f"| {answer.status} *{answer.problem()['title'].replace('ops.example', '…')}*" in DOC, answer


@pytest.mark.parametrize(
    ("at", "age_s", "verdict", "words"),
    [
        ("2026-03-10T15:00Z", 60, "ok", "the newest was received at 2026-03-10 14:59:00 UTC"),
        ("2026-03-10T15:00Z", 61, "warning", "1 min 1 s ago; one was expected within 1 min"),
        ("2026-03-10T15:00Z", None, "", "none received yet"),
        ("2026-03-10T22:00Z", 4 * 3600, "", "none is expected while the market is closed"),
        ("2026-03-10T22:00Z", 5, "ok", "the newest was received at 2026-03-10 21:59:55 UTC"),
    ],
)
def test_the_doctor_reports_whether_posts_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, age_s: float | None, verdict: str, words: str
) -> None:
    """
    The doctor reports when the newest snapshot was received; it is late only while the market is open.

    If it is late or none was received, the advice names the page that explains how to connect.
    """
    now, found = time_parsing.parse(at), settings.load(tmp_path, None, {})
    monkeypatch.setattr(clock, "now", lambda: now)
    store = Database(found.url)
    if age_s is not None:
        body = snapshot.read({"lastUpdateAt": 1_773_150_000_000, "systemHealth": {"errorCount": 0, "uptime": 60}})
        SnapshotStore(store).write("desk", [Post(clock.micros(now - timedelta(seconds=age_s)), body)])
    check = next(c for c in doctor._ours(found, store, rules.load()) if c.what == "snapshots of the app's page")
    store.close()
    assert check.verdict == verdict and words in check.result
    assert ("docs/connect.md" in check.advice) is (verdict == "warning" or age_s is None) and doctor.CONNECT.is_file()


def test_links_lead_to_headings() -> None:
    """Every link into the documentation, its own and README's, leads to a heading of it."""
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in DOC.splitlines()
        if line.startswith("#")
    }
    readme = (Path(opslib.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(#([^)]+)\)", DOC) + re.findall(r"connect\.md#([^)]+)\)", readme)
    assert len(links) >= 5 and set(links) <= headings


def test_readme_links_the_documentation() -> None:
    """README links the page, and every code block of the page is run by the tests above."""
    readme = (Path(opslib.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert "](opslib/docs/connect.md)" in readme and "sendBeacon" not in readme
    assert len(BLOCKS) == 5 and all(first.startswith(("// server/index.ts, ", "// src/")) for first in BLOCKS)
