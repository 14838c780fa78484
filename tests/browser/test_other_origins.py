"""
Test that a page of another origin in a real browser can neither post to the receiver nor read from it.

This holds for direct requests and for DNS rebinding.
"""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opslib.foundation import clock
from opslib.telemetry.pages import refused_posts
from tests.alerting.notifications.test_external_alerts import alert
from tests.services.test_request_checks import ALERTS, alerts_kept
from tests.services.test_server import POST, Receiver, a_body, asked, awaited, receiving
from tests.support.system import needs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EVIL = "evil.example"
# Every request that a page can send to an address, without and with a preflight.
SENDS = """async ({to, body}) => {
  const quiet = promise => promise.then(answer => `${answer.type} ${answer.status}`, problem => `${problem}`), said = \
[];
  for (const type of ['application/json', 'text/plain', 'application/x-www-form-urlencoded'])
    for (const mode of ['cors', 'no-cors']) said.push(await quiet(fetch(to, {method: 'POST', mode, body, headers: \
{'content-type': type}})));
  said.push(await quiet(fetch(to, {method: 'POST', mode: 'no-cors', body, credentials: 'include', referrerPolicy: \
'no-referrer', keepalive: true})));
  navigator.sendBeacon(to, body);
  navigator.sendBeacon(to, new Blob([body], {type: 'text/plain'}));
  navigator.sendBeacon(to, new Blob([body], {type: 'application/x-www-form-urlencoded'}));
  try { navigator.sendBeacon(to, new Blob([body], {type: 'application/json'})); } catch (problem) { \
said.push(`${problem}`); }
  await Promise.all(['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data'].map(enctype => {
    const frame = document.body.appendChild(Object.assign(document.createElement('iframe'), {name: enctype}));
    const form = document.body.appendChild(Object.assign(document.createElement('form'), {action: to, method: 'POST', \
enctype, target: enctype}));
    form.appendChild(Object.assign(document.createElement('input'), {name: body.slice(0, -1), value: body.slice(-1)}));
    const done = new Promise(resolve => { frame.onload = resolve; });
    form.submit();
    return Promise.race([done, new Promise(resolve => setTimeout(resolve, 1500))]);
  }));
  const sandboxed = document.body.appendChild(Object.assign(document.createElement('iframe'), {sandbox: \
'allow-scripts'}));
  const answered = new Promise(resolve => { addEventListener('message', message => resolve(message.data), {once: true}\
); });
  const asks = `fetch(${JSON.stringify(to)}, {method: 'POST', mode: 'no-cors', body: ${JSON.stringify(body)}})`;
  sandboxed.srcdoc = '<script>' + asks + ".then(a => parent.postMessage(a.type, '*'), p => parent.postMessage(`${p}`, \
'*'))</" + 'script>';
  said.push(`null origin: ${await answered}`);
  for (const make of [() => Object.assign(new Image(), {src: `${to}?x=${encodeURIComponent(body)}`}), () => \
Object.assign(document.createElement('script'), {src: to})])
    await new Promise(resolve => { const made = make(); made.onload = made.onerror = resolve; \
document.body.append(made); });
  return said;
}"""
# Every way in which a page can try to read from an address; returns the text that it got.
READS = """async (from) => {
  const got = [];
  for (const more of [{}, {mode: 'no-cors'}, {mode: 'cors', credentials: 'include'}, {method: 'HEAD'}, {cache: \
'force-cache'}])
    await fetch(from, more).then(async answer => got.push(await answer.text()), () => {});
  await new Promise(resolve => { const asks = new XMLHttpRequest(); asks.onloadend = () => { \
got.push(asks.responseText); resolve(); }; asks.open('GET', from); asks.send(); });
  const frame = document.body.appendChild(document.createElement('iframe'));
  await new Promise(resolve => { frame.onload = resolve; setTimeout(resolve, 3000); frame.src = from; });
  try { got.push(frame.contentDocument?.body?.innerText ?? ''); } catch {}
  const loaded = await new Promise(resolve => { const style = Object.assign(document.createElement('link'), {rel: \
'stylesheet', href: from}); style.onload = () => resolve('loaded as a style'); style.onerror = () => resolve(''); \
document.head.append(style); });
  got.push(loaded);
  return got.filter(Boolean);
}"""


@contextmanager
def page_server() -> Iterator[str]:
    """Serve an empty page of a website on its own port."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"<!DOCTYPE html><title>page</title><body>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    server.daemon_threads = True
    running = threading.Thread(target=server.serve_forever)
    running.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        running.join()
        server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a browser that resolves every name of the website to this machine."""
    from playwright.sync_api import sync_playwright

    program = needs("chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--disable-features=LocalNetworkAccessChecks",
                f"--host-resolver-rules=MAP {EVIL} 127.0.0.1",
            ],
        )
        yield launched
        launched.close()


@pytest.fixture
def shown(browser: Any) -> Iterator[Any]:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(90_000)
    yield page
    context.close()


def names_of(receiver: Receiver, website: str) -> dict[str, str]:
    """Return the website by its address and by a name, and the receiver by two names."""
    return {
        "other port": website,
        "other name": website.replace("127.0.0.1", EVIL),
        "localhost": website.replace("127.0.0.1", "localhost"),
    }


@pytest.mark.parametrize("name", ["other port", "other name", "localhost"])
def test_another_page_can_neither_post_nor_read(home: Path, shown: Any, name: str) -> None:
    """
    A page of another port or name cannot post or read, in any way that a browser has.

    Nothing is stored, and the rejected posts are counted under its origin.
    """
    with page_server() as website, receiving(OPS_CORS_ORIGINS="https://app.example") as found:
        assert (
            asked(found.url, "POST", POST, json.dumps(a_body()).encode(), {"Content-Type": "application/json"}).status
            == 204
        )
        origin = names_of(found, website)[name]
        shown.goto(f"{origin}/page")
        for path, body in ((POST, a_body(1)), (ALERTS, [alert(severity="critical")])):
            for address in (found.url, found.url.replace("127.0.0.1", "localhost")):
                said = shown.evaluate(SENDS, {"to": f"{address}{path}", "body": json.dumps(body)})
                assert said and not any("cors 2" in one or "basic 2" in one for one in said), said
        for path in ("/", "/health", "/metrics", "/api/metrics"):
            assert shown.evaluate(READS, f"{found.url}{path}") == []
        assert len(found.bodies()) == 1 and alerts_kept(found.store) == 0

        def counted():
            return {
                r.origin
                for r in refused_posts.read(found.store, "desk", 0, clock.micros(clock.now()))
                if r.status == 403
            }

        awaited(lambda: counted() >= {origin, "null"}, "the refusals are in the store")


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/api/metrics", "/nothing"])
def test_rebinding_reads_and_posts_nothing(home: Path, shown: Any, path: str) -> None:
    """
    A page whose name resolves to this machine after it was loaded can neither read nor post.

    The receiver is then of its own origin.
    """
    with receiving() as found:
        assert (
            asked(found.url, "POST", POST, json.dumps(a_body()).encode(), {"Content-Type": "application/json"}).status
            == 204
        )
        there = found.url.replace("127.0.0.1", EVIL)
        # The rejection itself is a document of that origin, in which the test can run a script.
        shown.goto(f"{there}/page")
        got = shown.evaluate(READS, f"{there}{path}")
        assert got and all("does not accept the host name" in one for one in got if one != "loaded as a style"), got
        for to, body in ((POST, a_body(1)), (ALERTS, [alert(severity="critical")])):
            said = shown.evaluate(SENDS, {"to": f"{there}{to}", "body": json.dumps(body)})
            assert not any(one.startswith("basic 2") for one in said), said
        assert len(found.bodies()) == 1 and alerts_kept(found.store) == 0


def test_a_configured_page_posts(home: Path, shown: Any) -> None:
    """
    Once its origin is configured, the page can post, by fetch and sendBeacon.

    It still cannot read a figure, nor post to another name of this machine.
    """
    with page_server() as website, receiving(OPS_CORS_ORIGINS=website) as found:
        shown.goto(f"{website}/page")
        said = shown.evaluate(SENDS, {"to": f"{found.url}{POST}", "body": json.dumps(a_body(7))})
        assert "cors 204" in said
        shown.evaluate("([to, body]) => navigator.sendBeacon(to, body)", [f"{found.url}{POST}", json.dumps(a_body(8))])
        awaited(lambda: len(found.bodies()) == 2, "both posts")
        assert shown.evaluate(READS, f"{found.url}/api/metrics") == []


def test_the_start_page_in_a_browser(home: Path, shown: Any) -> None:
    """The start page has its style, requests no other address, and does not violate its policy."""
    with receiving() as found:
        asked_for, problems = [], []
        shown.on("request", lambda request: asked_for.append(request.url))
        shown.on(
            "console",
            lambda message: (
                problems.append(message.text)
                if message.type == "error" and "/favicon.ico" not in str(message.location)
                else None
            ),
        )
        shown.goto(f"{found.url}/")
        assert shown.inner_text("h1") == "desk: home" and "System Health" in shown.inner_text("body")
        # Its style is applied.
        assert shown.evaluate("getComputedStyle(document.querySelector('pre')).backgroundColor") == "rgb(245, 247, 249)"
        shown.click("summary")
        shown.click("a[href='/api/metrics']")
        shown.wait_for_url("**/api/metrics")
        assert {url.partition("/favicon")[0].removesuffix("/api/metrics").rstrip("/") for url in asked_for} == {
            found.url
        } and problems == []
