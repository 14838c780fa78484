"""
The log drain, tested over real sockets: formats of hosts, repeated posts, authentication, invalid bodies, and storage.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.dashboard import status
from opslib.foundation import clock
from opslib.foundation.clock import Window
from opslib.foundation.config import rules
from opslib.runbooks.diagnosis import diagnosis
from opslib.telemetry import log_drain
from opslib.telemetry.probes import app_log
from opslib.telemetry.probes.store import SampleStore
from tests.services.test_server import Answer, Clock, Receiver, asked, receiving, running

LOGS = "/api/logs"
NOON = datetime.fromisoformat("2026-03-10T16:00:00+00:00")
PLAIN, JSON, NDJSON, LOGPLEX = (
    {"Content-Type": kind}
    for kind in ("text/plain", "application/json", "application/x-ndjson", "application/logplex-1")
)
RULES = rules.load()


@pytest.fixture
def receiver(home: Path) -> Iterator[Receiver]:
    """A receiver at noon, without keys."""
    with receiving(now=lambda: NOON) as found:
        yield found


def sent(receiver: Receiver, body: str | bytes | Any, headers: dict[str, str] = PLAIN) -> Answer:
    """Post a body to the drain; a value that is not text or bytes is sent as JSON."""
    if isinstance(body, str):
        raw = body.encode()
    elif isinstance(body, bytes):
        raw = body
    else:
        raw = json.dumps(body).encode()
    return asked(receiver.url, "POST", LOGS, raw, headers)


def held(
    receiver: Receiver, at: datetime = NOON, back: timedelta = timedelta(hours=1)
) -> tuple[int, dict[str, int], int]:
    """Errors, kinds and lines of the app's log that the store has up to a time."""
    found = SampleStore(receiver.store, "desk").between(clock.micros(at - back), clock.micros(at))
    kinds: dict[str, int] = {}
    for sample in found:
        for kind, n in sample.details()["kinds"].items():
            kinds[kind] = kinds.get(kind, 0) + n
    return round(sum(s.value or 0 for s in found)), kinds, sum(s.details()["lines"] for s in found)


def framed(*messages: str) -> bytes:
    """Syslog messages, each preceded by its length in bytes (RFC 6587)."""
    return b"".join(b"%d %s" % (len(m.encode()), m.encode()) for m in messages)


AT = "2026-03-10T15:59:58.123456+00:00"
THREE = (
    "[Massive] proxy error (502): upstream failed",
    "GET /api/health 200 3 ms",
    "[v0] Massive request timed out after 12000 ms",
)
KINDS = {"provider_5xx": 1, "access_looks": 1, "timeout": 1}
FORMS = {
    "plain lines": ("\n".join(THREE), PLAIN),
    "plain lines with CR": ("\r\n".join(THREE) + "\r\n", {"Content-Type": "text/plain; charset=utf-8"}),
    "lines with a time and a tag, as Heroku's own log shows them": (
        "\n".join(f"{AT} app[web.1]: {line}" for line in THREE),
        PLAIN,
    ),
    "a JSON list, as Vercel sends it": (
        [
            {
                "id": f"{n}",
                "message": line,
                "timestamp": clock.micros(NOON) // 1000 - 2000 + n,
                "type": "stdout",
                "source": "lambda",
                "projectId": "p",
                "host": "desk.example",
            }
            for n, line in enumerate(THREE)
        ],
        JSON,
    ),
    "a list of texts": (list(THREE), JSON),
    "JSON, one a line": ("\n".join(json.dumps({"message": line, "timestamp": AT}) for line in THREE), NDJSON),
    "JSON, one a line, called JSON": ("\n".join(json.dumps({"message": line, "time": AT}) for line in THREE), JSON),
    "Heroku's frames, whose priority says nothing": (
        framed(*(f"<40>1 {AT} host app web.1 - {line}\n" for line in THREE)),
        LOGPLEX,
    ),
    "RFC 5424 messages after their length": (framed(*(f"<14>1 {AT} host app 123 - - {line}" for line in THREE)), PLAIN),
    "RFC 5424 messages after their length, a line end between them": (
        b"\n".join(framed(f'<14>1 {AT} host app 123 ID [meta@1 a="\\]b" c="d"][x@2 y="z"] {line}') for line in THREE),
        PLAIN,
    ),
    "RFC 5424 lines": ("\n".join(f"<190>1 {AT} host app 123 - - \ufeff{line}" for line in THREE), PLAIN),
    "RFC 3164 lines": ("\n".join(f"<14>Mar 10 15:59:58 host app[12]: {line}" for line in THREE), PLAIN),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_counts(receiver: Receiver, form: str) -> None:
    """Every format gives two errors with their kinds and one request of our own probes, as if the file was read."""
    body, headers = FORMS[form]
    answer = sent(receiver, body, headers)
    assert (answer.status, answer.body) == (204, b"")
    assert held(receiver) == (2, KINDS, 3) and app_log.read(THREE).kinds == dict(sorted(KINDS.items()))


def test_the_level_of_the_app_decides(receiver: Receiver) -> None:
    """
    A line is an error by its level or its HTTP status; a severity that the host gives to every line of stdout is
    ignored.
    """
    at = clock.micros(NOON) // 1000
    sent(
        receiver,
        [
            {"level": "error", "message": "scanner lost its list", "timestamp": at - 10},
            {"level": "info", "message": "loaded", "timestamp": at - 9},
            {
                "level": "info",
                "message": "",
                "path": "/api/options",
                "proxy": {"method": "GET", "path": "/api/options"},
                "statusCode": 500,
                "timestamp": at - 8,
            },
        ],
        JSON,
    )
    assert held(receiver)[:2] == (2, {"other_error": 1, "access_5xx": 1})
    sent(receiver, f"<11>1 {AT} host app 1 - - scanner lost its list again\n<14>1 {AT} host app 1 - - all is well\n")
    assert held(receiver)[0] == 3
    sent(
        receiver,
        framed(
            f'<158>1 {AT} host heroku router - at=error code=H12 desc="Request timeout" method=GET path="/api/'
            f'quotes" status=503\n'
        ),
        LOGPLEX,
    )
    assert held(receiver)[0] == 4


def test_a_stack_trace_is_one_error(receiver: Receiver) -> None:
    """A stack trace with each line in its own frame is counted once."""
    stack = (
        "TypeError: cannot read properties of undefined",
        "    at Scanner.run (/app/scan.js:10:5)",
        "    at process.processTicksAndRejections (node:internal/process/task_queues:95:5)",
    )
    sent(receiver, framed(*(f"<190>1 {AT} host app web.1 - {line}\n" for line in stack)), LOGPLEX)
    assert held(receiver) == (1, {"other_error": 1}, 3)


def test_a_line_counts_at_its_own_time(receiver: Receiver) -> None:
    """
    A line counts at its own time if that has a zone. Without a zone or a time, or with a time in the future, it counts
    when it was received.
    """
    early = (NOON - timedelta(minutes=30)).isoformat(timespec="milliseconds")
    late = (NOON + timedelta(minutes=10)).isoformat()
    sent(
        receiver,
        f"{early} ECONNREFUSED 127.0.0.1:1\n{late} ENOTFOUND massive.example\n2026-03-10 01:00:00 FATAL lost"
        f"\nECONNREFUSED now",
    )
    assert held(receiver, NOON - timedelta(minutes=29), timedelta(minutes=2))[:2] == (1, {"refused": 1})
    assert held(receiver, NOON, timedelta(minutes=1))[:2] == (3, {"dns": 1, "other_error": 1, "refused": 1})


@pytest.mark.parametrize(
    ("body", "headers", "errors"),
    [
        ("\n".join(f"2026-03-10T15:59:5{n}.25Z ECONNREFUSED" for n in range(3)), PLAIN, 3),
        ("2026-03-10T15:59:50Z ECONNREFUSED\n2026-03-10T15:59:50Z ECONNREFUSED", PLAIN, 2),
        (
            framed(*["<40>1 2026-03-10T15:59:50+00:00 host app web.1 - ECONNREFUSED\n"] * 2),
            LOGPLEX | {"Logplex-Frame-Id": "09C557EAFCFB6CF2740EE62F62971098"},
            2,
        ),
        ("ECONNREFUSED\nECONNREFUSED", PLAIN | {"Logplex-Frame-Id": "A1"}, 2),
        ([{"message": "ECONNREFUSED", "timestamp": 1773158390123}], JSON, 1),
    ],
)
def test_a_repeated_post_counts_once(home: Path, body: Any, headers: dict[str, str], errors: int) -> None:
    """
    A post that a host repeats minutes later, also after we restarted, changes nothing; equal lines in one post are
    counted separately.
    """
    at = Clock(NOON)
    for _ in range(2):
        with receiving(now=at.now) as receiver:
            for _ in range(2):
                assert sent(receiver, body, headers).status == 204
                at.at += timedelta(minutes=1)
    assert held(receiver, at.at)[0] == errors


def test_the_same_lines_in_other_posts_count_once(receiver: Receiver) -> None:
    """
    If a host puts failed and new lines in one post, a line with its own time is recognised, and so is the stack trace
    below it.
    """
    lines = [f"2026-03-10T15:59:{n:02}.{n:03}Z Error: lost {n}\n    at run (a.js:{n})" for n in range(10, 20)]
    sent(receiver, "\n".join(lines[:6]))
    sent(receiver, "\n".join(lines[3:]))
    assert held(receiver) == (10, {"other_error": 10}, 20)


def test_lines_without_a_time_count_each_time(home: Path) -> None:
    """The same line each minute is an error each minute, because it cannot be distinguished from a repeated post."""
    at = Clock(NOON)
    with receiving(now=at.now) as receiver:
        for _ in range(5):
            sent(receiver, "Massive request timed out after 12000 ms")
            at.at += timedelta(minutes=1)
        assert held(receiver, at.at)[0] == 5


def test_the_same_second_in_another_post_is_another_line(receiver: Receiver) -> None:
    """
    Twenty equal lines of one second in two posts of different length all count, because times with whole seconds do not
    identify a line.
    """
    line = "2026-03-10T15:59:50Z ECONNREFUSED"
    sent(receiver, "\n".join([line] * 8))
    sent(receiver, "\n".join([line] * 12))
    assert held(receiver)[0] == 20


def test_an_empty_post_is_accepted(receiver: Receiver) -> None:
    """An empty list or an empty body is accepted: hosts send one to test the drain."""
    assert [
        sent(receiver, body, headers).status
        for body, headers in (("[]", JSON), ("", PLAIN), ("\n\n", PLAIN), ("", LOGPLEX))
    ] == [204] * 4
    assert held(receiver) == (0, {}, 0)


@pytest.mark.parametrize(
    ("body", "headers", "wanted"),
    [
        ("not JSON", JSON, "no line is JSON"),
        ("[1, 2]", JSON, "an entry is 1"),
        ("[[", NDJSON, "no line is JSON"),
        ("9999 <40>1 cut", LOGPLEX, "after its length"),
        ("words", LOGPLEX, "RFC 6587"),
        ("[" * 100_000, JSON, "JSON"),
        ("\n".join("x" for _ in range(log_drain.MOST_LINES + 1)), PLAIN, "at most 20,000"),
    ],
)
def test_an_invalid_body_is_rejected(receiver: Receiver, body: str, headers: dict[str, str], wanted: str) -> None:
    """The response is 400 with what was expected, and nothing is stored."""
    answer = sent(receiver, body, headers)
    assert (answer.status, held(receiver)) == (400, (0, {}, 0)) and wanted in answer.problem()["detail"]


def test_a_truncated_line_does_not_affect_others(receiver: Receiver) -> None:
    """In lines of JSON, a truncated line counts as plain text."""
    assert (
        sent(receiver, json.dumps({"level": "error", "msg": "a"}) + '\n{"level":"error","msg":"cut of', NDJSON).status
        == 204
    )
    assert held(receiver) == (2, {"other_error": 2}, 2)


def test_the_checks_of_the_receiver_apply(home: Path) -> None:
    """
    Key, content type, encoding, size, Host and Origin are checked as for posts of metrics; rejected posts store
    nothing.
    """
    with receiving(
        OPS_INGEST_KEY="k-0123456789", OPS_CORS_ORIGINS="https://desk.example", now=lambda: NOON
    ) as receiver:
        key = {"Authorization": "Bearer k-0123456789"}
        assert sent(receiver, "a").status == sent(receiver, "a", PLAIN | {"Authorization": "Bearer no"}).status == 401
        assert (
            sent(receiver, "a", PLAIN | key).status
            == asked(receiver.url, "POST", f"{LOGS}?key=k-0123456789", b"a", PLAIN).status
            == 204
        )
        assert [
            sent(receiver, "a", h | key).status
            for h in ({"Content-Type": "image/png"}, {}, PLAIN | {"Content-Encoding": "gzip"})
        ] == [415] * 3
        assert sent(receiver, b"a" * (log_drain.LARGEST + 1), PLAIN | key).status == 413
        assert sent(receiver, b"a\n" * 100, PLAIN | key).status == 204
        assert sent(receiver, "a", PLAIN | key | {"Host": "evil.example"}).status == 421
        assert sent(receiver, "a", PLAIN | key | {"Origin": "https://evil.example"}).status == 403
        assert asked(receiver.url, "GET", LOGS).status == 405
    assert held(receiver)[2] == 102


def test_secrets_are_not_stored(home: Path) -> None:
    """Our own keys, and text that looks like a key, are not in the store."""
    with receiving(OPS_MASSIVE_TOKEN="mass-secret-123456", now=lambda: NOON) as receiver:
        sent(
            receiver,
            "Error: request to https://massive.example/v3?apiKey=abcdefghijklmnop failed with mass-secret-123456",
        )
        assert held(receiver)[0] == 1
        receiver.store.close()
    kept = b"".join(path.read_bytes() for path in home.rglob("store.sqlite*"))
    assert b"mass-secret-123456" not in kept and b"abcdefghijklmnop" not in kept and b"[OPS_MASSIVE_TOKEN]" in kept


def test_an_error_storm_raises_an_alert(home: Path) -> None:
    """
    With sixty errors in ten minutes the errors rule is critical, the diagnosis supports an error storm, and the app's
    timeout is read from the messages.
    """
    at = Clock(NOON - timedelta(minutes=10))
    with receiving(now=at.now) as receiver:
        for n in range(60):
            sent(
                receiver,
                [
                    {
                        "message": f"Massive request timed out after 12000 ms ({n})",
                        "timestamp": clock.micros(at.at) // 1000,
                    }
                ],
                JSON,
            )
            at.at += timedelta(seconds=10)
        view = status.status(receiver.store, receiver.settings, RULES, as_of=at.at, length=timedelta(hours=1))
        (found,) = [f for f in view.findings if f.rule.name == "errors" and f.source == "logs"]
        assert (found.verdict, found.figure.value) == ("critical", 60.0)
        assert (
            view.probed is not None
            and view.probed.gave_up_after_ms(Window.before(at.at, timedelta(minutes=5))) == 12000
        )
        diagnosed = diagnosis.diagnose(
            status.status(receiver.store, receiver.settings, RULES, as_of=at.at, length=timedelta(minutes=10))
        )
        storm = next(c for c in diagnosed.evidence if c.question == "Is the error rate normal?")
        assert storm.supports and "timeout" in storm.answer


def test_lines_are_durable_before_the_response(home: Path) -> None:
    """A receiver that is killed right after its response has stored the lines."""
    with running(home, OPS_INGEST_KEY="k-0123456789") as found:
        for n in range(5):
            assert (
                asked(found.url, "POST", f"{LOGS}?key=k-0123456789", f"ECONNREFUSED {n}".encode(), PLAIN).status == 204
            )
        found.process.kill()
        found.process.wait(40)
    with sqlite3.connect(home / "store.sqlite") as connection:
        assert connection.execute("SELECT count(*), sum(value) FROM samples WHERE probe = 'log'").fetchone() == (5, 5.0)
    connection.close()


def test_a_busy_store_gives_503(home: Path) -> None:
    """If the store is locked the response is 503 with Retry-After; sent again, the line is stored once."""
    with receiving(now=lambda: NOON) as receiver:
        real, receiver.store.writing = receiver.store.writing, _fails
        body = "2026-03-10T15:59:50.5Z ECONNREFUSED"
        answer = sent(receiver, body)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        receiver.store.writing = real
        assert [sent(receiver, body).status for _ in range(2)] == [204, 204]
        assert held(receiver)[0] == 1


def _fails() -> Any:
    raise sqlite3.OperationalError("database is locked")


def test_concurrent_posts_lose_nothing(receiver: Receiver) -> None:
    """Eight concurrent senders lose nothing."""

    def several(k: int) -> None:
        for n in range(10):
            assert sent(receiver, f"ECONNREFUSED {k} {n}").status == 204

    threads = [threading.Thread(target=several, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(receiver)[0] == 80
