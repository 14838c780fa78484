"""Test what the receiver checks of every request (Host, Origin, content type), and how it reports rejected posts."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.dashboard import status as status_module
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.errors import SettingsError, StoreError
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import FACTS, FOREIGN
from opslib.telemetry.pages import refused_posts
from opslib.telemetry.pages.refused_posts import Refusals, Refused
from opslib.telemetry.pages.store import SnapshotStore
from tests.alerting.notifications.test_external_alerts import alert
from tests.services.test_server import (
    AS_BEACON,
    AS_JSON,
    NOON,
    POST,
    Clock,
    Receiver,
    _heard,
    a_body,
    asked,
    ops,
    raw,
    receiving,
    running,
    spoken,
)

ALERTS = "/api/v2/alerts"
ORIGIN = "https://app.example"
ROUTES = [
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/api/metrics"),
    ("HEAD", "/health"),
    ("OPTIONS", POST),
    ("POST", POST),
    ("POST", ALERTS),
    ("GET", "/nothing"),
    ("POST", "/nothing"),
    ("PUT", POST),
    ("GET", POST),
    ("DELETE", "/metrics"),
    ("OPTIONS", "/health"),
]


def answered(url: str, method: str, target: str, *headers: str, body: bytes = b"") -> int:
    """Return the status of a request with exactly these headers; 0 without a response."""
    head = [f"{method} {target} HTTP/1.1", *headers, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    said = spoken(url, "\r\n".join(head).encode("latin-1") + body, quiet=20)
    return int(said.split()[1]) if said else 0


def alerts_kept(store: Database) -> int:
    with store.reading() as connection:
        return len(connection.execute(FOREIGN.select()).all())


@contextmanager
def one(**environ: str) -> Iterator[Receiver]:
    with receiving(**environ) as found:
        yield found


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_host_is_checked_on_every_route(home: Path, method: str, path: str) -> None:
    """A request whose Host is not allowed is rejected on every route, existing or not, and nothing of it is stored."""
    body = raw(a_body()) if path == POST else raw([alert()])
    with one() as found:
        assert (
            answered(found.url, method, path, "Host: evil.example", "Content-Type: application/json", body=body) == 421
        )
        assert answered(found.url, method, path, "Content-Type: application/json", body=body) == 400
        assert found.bodies() == [] and alerts_kept(found.store) == 0
        assert answered(
            found.url, method, path, "Host: localhost", "Content-Type: application/json", body=body
        ) not in (400, 421)


OURS = [
    "localhost",
    "localhost:8321",
    "LOCALHOST:1",
    "localhost.",
    "localhost.:80",
    "localhost:",
    "127.0.0.1",
    "127.0.0.1:9",
    "127.255.3.4",
    "[::1]",
    "[::1]:8321",
    "127.0.0.1.",
    "[0:0:0:0:0:0:0:1]",
]
NOT_OURS = [
    "evil.example",
    "evil.example:8321",
    "localhost.evil.example",
    "evil.localhost",
    "127.0.0.1.evil.example",
    "localhost..",
    "127.0.0.1.nip.io",
    "0.0.0.0",
    "192.168.1.5",
    "10.0.0.1:8321",
    "[::]",
    "[fe80::1]",
    "2130706433",
    "0x7f.1",
    "127.1",
    "0177.0.0.1",
    "localhost1",
    "xn--localhost",
    "a",
    "-",
]
MALFORMED = [
    "",
    "localhost@evil.example",
    "evil.example@localhost",
    "localhost:8321@evil.example",
    "local host",
    "localhost/",
    "http://localhost",
    "localhost:port",
    "localhost:123456",
    "[::1",
    "::1",
    "[localhost]",
    "localhost, evil.example",
    "localhost\tx",
    "\xe9vil",
    "localhost:80:80",
    "[::1%25lo]",
    "*",
]


def test_which_host_names_are_allowed(home: Path) -> None:
    """Loopback names and addresses are allowed with any spelling and port; other names get 421, invalid ones 400."""
    with one() as found:
        for names, status in ((OURS, {200}), (NOT_OURS, {421}), (MALFORMED, {400, 421})):
            assert {
                name: s for name in names if (s := answered(found.url, "GET", "/health", f"Host: {name}")) not in status
            } == {}
        assert answered(found.url, "GET", "/health", "Host: localhost", "Host: evil.example") == 400
        assert answered(found.url, "GET", "http://evil.example/health", "Host: localhost") == 421
        assert answered(found.url, "GET", "http://localhost/health", "Host: evil.example") == 200
        assert spoken(found.url, b"GET /health HTTP/1.0\r\n\r\n", quiet=20).startswith(b"HTTP/1.1 400")


def test_allowed_hosts_are_configured(home: Path) -> None:
    """
    Names in OPS_ALLOWED_HOSTS, from the environment or the settings file, are allowed.

    A rejection names the setting.
    """
    with one(OPS_ALLOWED_HOSTS="ops, Ops.Example,[fd00::1]") as found:
        assert {
            name: answered(found.url, "GET", "/metrics", f"Host: {name}")
            for name in (
                "ops:8321",
                "ops.example",
                "OPS.EXAMPLE.",
                "[fd00::1]:8321",
                "127.0.0.1",
                "other",
                "x.ops.example",
            )
        } == {
            "ops:8321": 200,
            "ops.example": 200,
            "OPS.EXAMPLE.": 200,
            "[fd00::1]:8321": 200,
            "127.0.0.1": 200,
            "other": 421,
            "x.ops.example": 421,
        }
        detail = asked(found.url, "GET", "/metrics", headers={"Host": "other:1"}).problem()["detail"]
        assert "OPS_ALLOWED_HOSTS" in detail and "other:1" in detail
    home.mkdir(exist_ok=True)
    (home / "settings.toml").write_text('allowed_hosts = ["desk.example"]\n')
    with one() as found:
        assert answered(found.url, "GET", "/metrics", "Host: desk.example") == 200
    for wrong in ("http://ops", "ops:8321", "*", "a/b", "o ps", "*.example"):
        with pytest.raises(SettingsError, match="OPS_ALLOWED_HOSTS names"):
            settings.load(environ={"OPS_ALLOWED_HOSTS": wrong})


def test_the_listening_address_is_allowed(home: Path) -> None:
    """If it listens on all addresses, the address of the connection is an allowed Host, and no other name is."""
    with running(home, "--host", "0.0.0.0", OPS_INGEST_KEY="ingest-key-1234", OPS_READ_KEY="read-key-1234") as found:
        assert answered(found.url, "GET", "/health", "Host: 127.0.0.1") == 200
        assert (
            answered(found.url, "GET", "/health", "Host: 192.0.2.7")
            == answered(found.url, "GET", "/health", "Host: 0.0.0.0")
            == 421
        )


BAD_ORIGINS = [
    "null",
    "https://evil.example",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example.evil",
    "http://127.0.0.1:8321",
    "http://localhost:8321",
    "file://",
    "chrome-extension://abc",
    "*",
    "",
    " ",
    "https://app.example, https://evil.example",
]


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        (POST, ("text/plain", "application/json")),
        (ALERTS, ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data")),
    ],
)
def test_a_page_of_another_origin_cannot_write(home: Path, path: str, kinds: tuple[str, ...]) -> None:
    """
    On each writing route a browser's request from an origin that is not configured gets 403, with any content type.

    So does one with Sec-Fetch-Site and without Origin.
    """
    body = raw(a_body()) if path == POST else raw([alert()])
    with one(OPS_CORS_ORIGINS=ORIGIN) as found:
        for kind in kinds:
            for origin in BAD_ORIGINS:
                assert (
                    answered(
                        found.url,
                        "POST",
                        path,
                        "Host: localhost",
                        f"Content-Type: {kind}",
                        f"Origin: {origin}",
                        body=body,
                    )
                    == 403
                ), origin
            for site in ("cross-site", "same-site"):
                assert (
                    answered(
                        found.url,
                        "POST",
                        path,
                        "Host: localhost",
                        f"Content-Type: {kind}",
                        f"Sec-Fetch-Site: {site}",
                        body=body,
                    )
                    == 403
                )
            assert (
                answered(
                    found.url,
                    "POST",
                    path,
                    "Host: localhost",
                    f"Content-Type: {kind}",
                    f"Origin: {ORIGIN}",
                    "Origin: https://evil.example",
                    body=body,
                )
                == 403
            )
        assert found.bodies() == [] and alerts_kept(found.store) == 0
        for more in (f"Origin: {ORIGIN}", "Origin: HTTPS://APP.EXAMPLE", "Sec-Fetch-Site: none", "X: y"):
            assert answered(
                found.url, "POST", path, "Host: localhost", "Content-Type: application/json", more, body=body
            ) in (200, 204)


def test_no_other_route_writes(home: Path) -> None:
    """No GET has a side effect, and no method but POST writes."""
    with one() as found:
        for method in ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"):
            for path in ("/", POST, ALERTS, "/health", "/metrics", "/api/metrics"):
                asked(found.url, method, path, raw(a_body()), AS_JSON)
        assert (
            found.bodies() == [] and alerts_kept(found.store) == 0 and SnapshotStore(found.store).rejects("desk") == []
        )


def test_responses_are_not_shared_with_other_sites(home: Path) -> None:
    """Headers forbid other sites to read a response, and no origin gets a CORS header, configured or not."""
    with one(OPS_CORS_ORIGINS=ORIGIN) as found:
        for path in ("/", "/health", "/metrics", "/api/metrics"):
            headers = asked(found.url, "GET", path, headers={"Origin": ORIGIN}).headers
            assert (headers["cross-origin-resource-policy"], headers["x-content-type-options"]) == (
                "same-origin",
                "nosniff",
            ) and not [h for h in headers if h.startswith("access-control")]


@pytest.mark.parametrize("path", [POST, ALERTS])
def test_a_post_without_a_content_type_gets_the_header_to_add(home: Path, path: str) -> None:
    """A post by curl -d without a header gets 415, and the response has the header to add, which then works."""
    with one() as found:
        body = raw(a_body()) if path == POST else raw([alert()])
        detail = asked(found.url, "POST", path, body, {"Content-Type": "application/x-www-form-urlencoded"}).problem()[
            "detail"
        ]
        assert "found application/x-www-form-urlencoded" in detail
        name, _, value = re.search(r"-H '([^']+)'", detail)[1].partition(": ")
        assert asked(found.url, "POST", path, body, {name: value}).status in (200, 204)
        assert "no Content-Type" in asked(found.url, "POST", path, body).problem()["detail"]
        assert asked(found.url, "POST", path, body, AS_JSON | {"Content-Encoding": "gzip"}).status == 415


def test_a_wrong_path_or_method_gets_the_right_ones(home: Path) -> None:
    """A 404 names the routes, a 405 the methods, also in Allow."""
    with one() as found:
        for path in ("/metric", "/api/metrics/exports", "/api/v1/alerts", "/favicon.ico"):
            answer = asked(found.url, "POST", path, b"{}", AS_JSON)
            assert (
                answer.status == 404
                and POST in answer.problem()["detail"]
                and ALERTS in answer.problem()["detail"]
                and "/metrics" in answer.problem()["detail"]
            )
        for method, path, allow in (
            ("GET", POST, {"POST", "OPTIONS"}),
            ("GET", ALERTS, {"POST"}),
            ("POST", "/metrics", {"GET", "HEAD"}),
            ("DELETE", "/", {"GET", "HEAD"}),
        ):
            answer = asked(found.url, method, path)
            assert (
                answer.status == 405
                and set(answer.headers["allow"].split(", ")) == allow
                and all(m in answer.problem()["detail"] for m in allow)
            )


def test_the_start_page(home: Path) -> None:
    """
    GET / explains how to post and read, requests no other address and runs no script.

    It shows figures only with the read key.
    """
    with one(OPS_READ_KEY="read-key-1234") as found:
        without, with_key = asked(found.url, "GET", "/"), asked(found.url, "GET", "/?key=read-key-1234")
        for answer in (without, with_key):
            page = answer.body.decode()
            assert (
                answer.status == 200
                and answer.headers["content-type"] == "text/html; charset=utf-8"
                and "default-src 'none'" in answer.headers["content-security-policy"]
                and "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            )
            assert all(
                words in page
                for words in (
                    "/health",
                    "/metrics",
                    "/api/metrics",
                    POST,
                    ALERTS,
                    "Content-Type: application/json",
                    "OPS_CORS_ORIGINS",
                )
            )
            assert (
                not re.search(r"<(script|img|iframe|link|form)|src=|https?://(?!127\.0\.0\.1:)", page)
                and f"{found.url}{POST}" in page
                and "read-key-1234" not in page
            )
        assert (
            "System Health" in with_key.body.decode()
            and "System Health" not in without.body.decode()
            and "read key" in without.body.decode()
        )


# Rejected posts are counted and reported.


def said(receiver: Receiver, minutes: float = 5) -> list[Refused]:
    """Return the counts of the last minutes that are in the database."""
    now = clock.now()
    return refused_posts.read(
        receiver.store, receiver.settings.app, clock.micros(now - timedelta(minutes=minutes)), clock.micros(now)
    )


def test_every_rejected_post_is_counted(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Rejected posts are counted by reason and sender, whatever the reason; accepted posts and reads are not."""
    key = f"{POST}?key=ingest-key-1234"
    with one(OPS_CORS_ORIGINS=ORIGIN, OPS_INGEST_KEY="ingest-key-1234") as found:
        for _ in range(12):
            found.post(a_body(), AS_BEACON | {"Origin": "https://other.example"})
        found.ask(
            "OPTIONS", POST, headers={"Origin": "https://fetching.example", "Access-Control-Request-Method": "POST"}
        )
        found.post(a_body(), AS_JSON | {"Origin": ORIGIN})
        found.post(a_body(), {"Content-Type": "text/html", "Origin": ORIGIN}, key)
        found.post(b"{}", AS_JSON, key)
        found.post(b"x" * 70_000, AS_JSON, key)
        found.post(a_body(), AS_JSON | {"Host": "ops:8321"}, key)
        found.ask("GET", "/metrics", headers={"Host": "ops:8321"})
        found.post([{"labels": {}}, {"labels": {}}, alert()], AS_JSON, f"{ALERTS}?key=ingest-key-1234")
        found.post(a_body(), AS_JSON, "/api/wrong?key=ingest-key-1234")
        found.post(a_body(), AS_JSON | {"Origin": ORIGIN}, key)
        found.ask("GET", "/nothing")
    program = "a program at 127.0.0.1"
    assert {(r.origin, r.status, r.reason, r.count) for r in said(found)} == {
        ("https://other.example", 403, "Origin not in OPS_CORS_ORIGINS", 12),
        ("https://fetching.example", 403, "Origin not in OPS_CORS_ORIGINS", 1),
        (ORIGIN, 401, "The ingest key is required", 1),
        (ORIGIN, 415, "The content type is not accepted", 1),
        (program, 400, "The body is not valid dashboard metrics", 1),
        (program, 413, "The body is too large", 1),
        (program, 421, "Host ops:8321 not in OPS_ALLOWED_HOSTS", 2),
        (program, 400, "an alert is not valid: at least one label pair required", 2),
        (program, 404, "Not found", 1),
    }
    logged = capfd.readouterr().err
    assert logged.count("https://other.example rejected") == 1 and "ingest-key-1234" not in logged
    shown = ops(home, "status").stdout.decode().rpartition("System Health")[2]
    assert (
        shown.count(" rejected: ") == refused_posts.MOST_SAID
        and "more were rejected, for 4 other reasons or from other origins" in shown
    )


def test_system_health_shows_rejected_posts(home: Path) -> None:
    """The System Health panel shows the posts rejected within its window, as of its moment and as known then."""
    found = settings.load()
    store, world = Database(found.url), Clock(NOON)
    counting = Refusals(store, found.app, world.now, str)
    for minutes, times in ((-90, 2), (-30, 12), (5, 4)):
        world.at = NOON + timedelta(minutes=minutes)
        for _ in range(times):
            counting.count(403, "Origin not in OPS_CORS_ORIGINS", "https://other.example")
        counting.flush()
    counting.close()
    store.close()
    for as_of, window, words in (
        ("16:00", "1h", "12 posts"),
        ("16:00", "2h", "14 posts"),
        ("16:10", "1h", "16 posts"),
        ("14:00", "1h", ""),
        ("15:29", "1h", "2 posts"),
    ):
        panel = (
            ops(home, "status", "--as-of", f"2026-03-10T{as_of}:00Z", "--window", window)
            .stdout.decode()
            .rpartition("System Health")[2]
        )
        assert (
            (f"{words} from https://other.example rejected: Origin not in OPS_CORS_ORIGINS (HTTP 403)" in panel)
            if words
            else "refused" not in panel
        )
    store = Database(found.url)
    assert [
        r.count
        for r in refused_posts.read(store, found.app, 0, clock.micros(NOON + timedelta(hours=1)), clock.micros(NOON))
    ] == [14]
    view = status_module.status(store, found, rules.load(), as_of=NOON)
    assert view.verdict == status_module.status(store, found, rules.load(), as_of=NOON - timedelta(hours=2)).verdict
    store.close()


def test_many_rejected_posts_use_bounded_resources(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """100,000 rejected posts from as many origins are all counted, with bounded memory, disk space and log lines."""
    found = settings.load()
    store, world = Database(found.url), Clock(NOON)
    counting = Refusals(store, found.app, world.now, str)
    for n in range(100_000):
        counting.count(403, f"reason {n % 700}", f"https://{n}.example/{'x' * 500}\x1b[31m\u202e")
        if n % 10_000 == 0:
            world.at += timedelta(minutes=1)
    minutes = 10  # If the writing thread did not run, each minute has one more row for what exceeds the limit.
    assert len(counting._counted) <= 2 * refused_posts.MOST_AT_ONCE + minutes + 1
    counting.close()
    rows = refused_posts.read(store, found.app, 0, clock.micros(world.at))
    assert sum(r.count for r in rows) == 100_000 and all(r.origin.isprintable() and len(r.origin) < 200 for r in rows)
    with store.reading() as connection:
        assert (
            sum(len(value) for key, value in connection.execute(FACTS.select()) if key.startswith("refused:")) < 400_000
        )
    assert len(capfd.readouterr().err.splitlines()) < 2000
    store.close()


def test_only_the_newest_counts_are_kept(home: Path) -> None:
    """For a page rejected for days the newest rows are kept; two receivers on one database add to the same counts."""
    found = settings.load()
    store, world = Database(found.url), Clock(NOON)
    one, two = (Refusals(store, found.app, world.now, str) for _ in range(2))
    one.close(), two.close()
    for n in range(refused_posts.MOST_ROWS // 50 + 3):
        for _ in range(50):
            world.at += timedelta(minutes=1)
            (one, two)[n % 2].count(403, "r", ORIGIN)
        (one, two)[n % 2].flush()
    (row,) = refused_posts.read(store, found.app, 0, clock.micros(world.at))
    assert row.count == refused_posts.MOST_ROWS and row.last_us == clock.micros(world.at)
    one.count(403, "r", ORIGIN), two.count(403, "r", ORIGIN)
    one.flush(), two.flush()
    assert refused_posts.read(store, found.app, clock.micros(world.at) - 1, clock.micros(world.at))[0].count == 3
    store.close()


def test_counts_that_cannot_be_written_are_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """While the database cannot be written, counts are kept and this is logged; a damaged count raises an error."""
    found = settings.load()
    store = Database(found.url)
    counting = Refusals(store, found.app, lambda: NOON, str)
    counting.close()
    counting.count(403, "r", ORIGIN)
    with monkeypatch.context() as broken:
        broken.setattr(Database, "committing", lambda _: (_ for _ in ()).throw(StoreError("the disk is full")))
        counting.flush()
    assert "the counts of 1 rejected posts could not be written" in capfd.readouterr().err
    counting.count(403, "r", ORIGIN)
    counting.flush()
    assert refused_posts.read(store, found.app, 0, clock.micros(NOON))[0].count == 2
    for damaged in ("{", "[1]", '[["a"]]', "7", '{"a": 1}', "[null]"):
        store.remember("refused:desk", damaged)
        with pytest.raises(StoreError, match="damaged"):
            refused_posts.read(store, "desk", 0, 2**60)
    store.close()


NAMES = st.sampled_from(
    [
        "Host",
        "Origin",
        "Content-Type",
        "Content-Encoding",
        "Authorization",
        "Sec-Fetch-Site",
        "Content-Length",
        "Transfer-Encoding",
        "Cookie",
        "Upgrade",
        "Connection",
        "Expect",
    ]
)
ASCII = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30
) | st.sampled_from(["localhost", "null", "application/json", "cross-site", "websocket", "chunked", "Bearer x", "h2c"])


def test_no_header_causes_a_5xx(home: Path) -> None:
    """Whatever headers and body a request has, on any route, no response is a 5xx."""
    with one(OPS_CORS_ORIGINS=ORIGIN, OPS_ALLOWED_HOSTS="ops") as found:

        @hypothesis_settings(
            max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(
            requests=st.lists(
                st.tuples(
                    st.sampled_from(ROUTES),
                    st.booleans(),
                    st.lists(st.tuples(NAMES, ASCII), max_size=4),
                    st.binary(max_size=60) | st.sampled_from([b"[]", b"{}", b'[{"labels": {"a": "b"}}]']),
                ),
                min_size=20,
                max_size=20,
            )
        )
        def all_at_once(requests: list[Any]) -> None:
            import socket

            host, _, port = found.url.removeprefix("http://").partition(":")
            talks = []
            for (method, path), good, headers, body in requests:
                head = [
                    f"{method} {path} HTTP/1.1",
                    *(["Host: localhost"] if good else []),
                    *(f"{name}: {value}" for name, value in headers),
                    f"Content-Length: {len(body)}",
                    "Connection: close",
                    "",
                    "",
                ]
                talks.append(
                    (
                        socket.create_connection((host, int(port)), timeout=20),
                        "\r\n".join(head).encode("latin-1") + body,
                    )
                )
            try:
                answers = _heard(talks, 0.2)
            finally:
                for connection, _ in talks:
                    connection.close()
            assert [
                (talk[1], answer) for talk, answer in zip(talks, answers) if re.search(rb"HTTP/1\.1 5\d\d", answer)
            ] == []

        all_at_once()
        assert asked(found.url, "GET", "/health").status == 200
