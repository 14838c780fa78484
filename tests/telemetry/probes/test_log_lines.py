"""Read lines of many log formats: whether a line is an error, of which kind, and its time."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.telemetry.probes import app_log, log_lines

ESC = "\x1b"
ERRORS = [
    # JSON loggers
    '{"level":50,"time":1773151201000,"pid":1,"hostname":"h","msg":"could not fetch the chain"}',
    '{"level":60,"time":1773151202000,"msg":"out of reach"}',
    '{"msg":"level first is not required","time":1773151202000,"level":50}',
    '{"name":"app","hostname":"h","pid":1,"level":50,"msg":"could not fetch","time":"2026-03-10T14:00:00.000Z","v":0}',
    '{"level":"error","message":"could not fetch","timestamp":"2026-03-10T14:00:03.000Z"}',
    '{"level":"\\u001b[31merror\\u001b[39m","message":"could not fetch"}',
    '{"message":"could not fetch","level":"error"}',
    '{"level":"fatal","ts":1773151202.5,"caller":"x.go:1","msg":"bye"}',
    '{"severity":"CRITICAL","message":"could not fetch","timestamp":"2026-03-10T14:00:03Z"}',
    '{"@t":"2026-03-10T14:00:03Z","@l":"Error","@mt":"could not fetch {Symbol}"}',
    '{"@timestamp":"2026-03-10T14:00:03Z","log.level":"ERROR","message":"could not fetch"}',
    '{"@timestamp":"2026-03-10T14:00:03Z","log":{"level":"error"},"message":"could not fetch"}',
    '{"version":"1.1","host":"h","short_message":"could not fetch","level":3}',
    '{"time":"2026-03-10T14:00:03Z","level":"ERROR+2","msg":"could not fetch"}',
    '{"err":{"type":"Error","message":"boom","stack":"Error: boom\\n    at x"},"msg":"request errored"}',
    '{"level":"info","message":"GET /api/trades 503 12 - 3.1 ms"}',
    '{"level":30,"time":1773151200000,"req":{"method":"GET","url":"/api/trades"},"res":{"statusCode":500},'
    '"msg":"request completed"}',
    '{"level":"error","message":"' + "x" * 16_400,  # Truncated because of its length.
    # A level before the message
    "2026-03-10T10:00:00Z error: could not fetch",
    "2026-03-10 14:00:04 [error]: could not fetch the chain",
    "2026-03-10T10:00:00.000Z [ERROR] could not fetch",
    "[2026-03-10T10:00:00.000Z] ERROR [massive] boom {}",
    "[2026-03-10 10:00:00 +0000] [12] [ERROR] Exception in worker process",
    "error: could not fetch",
    'error: could not fetch {"symbol":"AAA"}',
    "[error] could not fetch",
    f"{ESC}[31merror{ESC}[39m: could not fetch",
    f"2026-03-10 14:00:00 {ESC}[31m[ERROR]{ESC}[0m could not fetch",
    "2026-03-10 14:00:00 ERROR could not fetch",
    "2026-03-10 14:00:00 error could not fetch",
    "2026-03-10 14:00:00,001 - app.feed - ERROR - could not fetch",
    "2026-03-10 14:00:00,001 ERROR [main] a.b.Feed - could not fetch",
    "2026-03-10 14:00:00.001 ERROR 12 --- [main] a.b.Feed : could not fetch",
    "2026-03-10 14:00:00.123 | ERROR    | app.feed:load:12 - could not fetch",
    '2026-03-10 14:00:00.123 UTC [12] ERROR:  relation "x" does not exist',
    "2026-03-10 14:00:00.123 UTC [12] FATAL:  the database system is starting up",
    "ERROR:root:could not fetch",
    "ERROR:    Application startup failed. Exiting.",
    "[Nest] 12  - 03/10/2026, 2:00:00 PM   ERROR [Feed] could not fetch",
    "[2026-03-10 14:00:00] production.ERROR: could not fetch {}",
    "E0310 14:00:00.000000      12 feed.go:12] could not fetch",
    "ERRO[0012] could not fetch                       symbol=AAA",
    "2026-03-10T14:00:00Z ERR could not fetch symbol=AAA",
    "[2026-03-10T14:00:00Z ERROR app::feed] could not fetch",
    "E, [2026-03-10T14:00:00.123456 #12] ERROR -- : could not fetch",
    "[14:00:00 ERR] could not fetch",
    "[14:00:00.123] ERROR (12): could not fetch",
    "fail: App.Feed[0]",
    "panic: could not fetch",
    # logfmt
    'ts=2026-03-10T14:00:00Z level=error msg="could not fetch"',
    "t=2026-03-10T14:00:00+0000 lvl=eror msg=could",
    'time="2026-03-10T14:00:00Z" level=fatal msg="bye"',
    'at=error code=H12 desc="Request timed out" method=GET path=/x status=503',
    # Servers
    "2026/03/10 14:00:00 [error] 12#12: *1 connect() failed (111: Connection refused) while connecting to upstream",
    "2026/03/10 14:00:00 [crit] 12#12: *1 no space left",
    "[Tue Mar 10 14:00:00.123456 2026] [core:error] [pid 12] could not fetch",
    '127.0.0.1 - - [10/Mar/2026:14:00:00 +0000] "GET /api/trades HTTP/1.1" 500 33 "-" "curl/7"',
    '::1 - ann [10/Mar/2026:14:00:00 +0000] "POST /api/trades HTTP/1.1" 503 -',
    "127.0.0.1 - GET /api/trades HTTP/1.1 502 33 - 3.1 ms",
    f"{ESC}[0mGET /api/trades {ESC}[31m500{ESC}[0m 12.3 ms - 33{ESC}[0m",
    'INFO:     127.0.0.1:1234 - "GET /api/trades HTTP/1.1" 500 Internal Server Error',
    '[GIN] 2026/03/10 - 14:00:00 | 500 |    1.2ms |       127.0.0.1 | GET      "/api/trades"',
    # Wrappers
    "<11>Mar 10 14:00:02 host app[12]: could not fetch",
    '<11>1 2026-03-10T14:00:02.000Z host app 12 ID47 [x@1 a="b"] could not fetch',
    "<3>could not fetch",
    "Mar 10 14:00:02 host app[12]: Error: could not fetch",
    "Mar 10 14:00:02 host app[12]: error: could not fetch",
    "2026-03-10T14:00:02.000000+00:00 app[web.1]: Error: could not fetch",
    '{"log":"Error: could not fetch\\n","stream":"stderr","time":"2026-03-10T14:00:00.123456789Z"}',
    '{"log":"{\\"level\\":50,\\"msg\\":\\"could not fetch\\"}\\n","stream":"stdout","time":"2026-03-10T14:00:00Z"}',
    '{"PRIORITY":"3","MESSAGE":"could not fetch","__REALTIME_TIMESTAMP":"1773151202000000"}',
    '{"PRIORITY":"6","_TRANSPORT":"stdout","MESSAGE":"Error: could not fetch",'
    '"__REALTIME_TIMESTAMP":"1773151202000000"}',
    "2026-03-10T14:00:00.123456789Z stderr F Error: could not fetch",
    '2026-03-10T14:00:00.123456789Z stdout F {"level":50,"msg":"could not fetch"}',
    "app-1  | error: could not fetch",
    "web  | 2026-03-10 14:00:00 ERROR could not fetch",
    "0|app  | Error: could not fetch",
    "0|app  | 2026-03-10T14:00:00: Error: could not fetch",
    "[pod/app-7d9/app] error: could not fetch",
    '[1] {"level":50,"msg":"could not fetch"}',
    # Programs
    "npm ERR! code ELIFECYCLE",
    "npm error code ELIFECYCLE",
    "[UnhandledPromiseRejection: This error originated either by throwing] {",
    "(node:12) UnhandledPromiseRejectionWarning: Error: boom",
    "Uncaught TypeError: x is not a function",
    'Exception in thread "main" java.lang.IllegalStateException: boom',
    "java.lang.NullPointerException",
    "ValueError: bad",
    "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
]
NONE = [
    '{"level":30,"time":1773151200000,"pid":1,"msg":"request completed","responseTime":12}',
    '{"level":40,"msg":"Error rate is high: error: failed"}',
    '{"level":"info","message":"level: error, ERROR, failed, fatal"}',
    '{"level":"info","error":null,"msg":"done"}',
    '{"level":"info","error":"retried","msg":"done after an Error"}',
    '{"level":30,"req":{"level":"error"},"msg":"Error: none"}',
    '{"msg":"done","error":false,"time":1773151200000}',
    '{"severity":"NOTICE","message":"TypeError was fixed"}',
    '{"level":"http","message":"GET /api/x 404 12 - 3.1 ms"}',
    '{"level":30,"req":{"method":"GET","url":"/error"},"res":{"statusCode":404},"msg":"request completed"}',
    '{"level":"info","message":"' + "x" * 100 + '\\"level\\":\\"error\\"' + "x" * 16_400,
    '{"log":"0 errors\\n","stream":"stderr","time":"2026-03-10T14:00:00.123456789Z"}',
    '{"PRIORITY":"6","MESSAGE":"Error: none of ours","__REALTIME_TIMESTAMP":"1773151202000000"}',
    "2026-03-10 14:00:00,001 - INFO  [SessionTracker] - Expiring session 0x1, timeout of 10000ms exceeded",
    "2026-03-10 14:00:01,001 WARN [Renewer] Failed to renew lease for [CLIENT_1]",
    "2026-03-10T10:00:00Z info: error: is only a word here",
    "2026-03-10T10:00:00Z error rate 0 %",
    "2026-03-10 14:00:00 [info]: Error: handled",
    "[warn] Failed to renew",
    "WARNING:root:Error: handled",
    "2026-03-10 14:00:00.001  INFO 12 --- [main] a.b.Feed : Error page registered",
    "[Nest] 12  - 03/10/2026, 2:00:00 PM     LOG [Routes] Mapped {/error, GET} route",
    'level=info msg="level=error and Error: failed"',
    'level=info msg="0 errors" level=error',
    "at=info method=GET path=/error host=h status=200",
    "I0310 14:00:00.000000      12 feed.go:12] Error: handled",
    "[14:00:00 INF] Error: handled",
    "<14>Mar 10 14:00:02 host app[12]: Failed attempts are listed",
    "0 errors",
    "error rate 0 %",
    "Error rate: 0 %",
    "Error rate: 12 %",
    "no error",
    "No Error",
    "errorHandler registered",
    "Error handler registered",
    "GET /error-page 200 12 - 3.1 ms",
    "GET /error-page 200",
    "Found 0 errors. Watching for file changes.",
    "Build finished without errors",
    "errors: 0, warnings: 2",
    "lastError: null",
    "{ error: null }",
    "Error: null",
    "failed: 0",
    "0 of 12 failed",
    "Error tracking enabled",
    "error.html loaded",
    "ERROR_LEVEL=info",
    "Registered TimeoutError handler",
    "using a timeout of 5000 ms",
    "HTTP 200 from massive",
    "Massive cached 503 contracts",
    "Massive: 512 contracts",
    "[Massive] 503 contracts in 120 ms",
    '127.0.0.1 - - [10/Mar/2026:14:00:00 +0000] "GET /error HTTP/1.1" 404 33 "-" "curl/7"',
    '127.0.0.1 - - [10/Mar/2026:14:00:00 +0000] "GET /api/x HTTP/1.1" 200 500 "-" "Error/1.0"',
    'INFO:     127.0.0.1:1234 - "GET /error HTTP/1.1" 404 Not Found',
    f"{ESC}[0mGET /api/trades {ESC}[33m404{ESC}[0m 12.3 ms - 33{ESC}[0m",
    "npm WARN deprecated error@1.0.0: failed",
    "npm notice Error",
    "",
    "    at fetch (node:internal)",
    "}",
]


@pytest.mark.parametrize("line", ERRORS)
def test_a_line_that_is_an_error(line: str) -> None:
    """Each format marks an error by its level, its status or an exception, and it is counted once."""
    assert app_log.read([line]).errors == 1


@pytest.mark.parametrize("line", NONE)
def test_a_line_that_is_not_an_error(line: str) -> None:
    """A line of another level, or one that only contains a word of an error, is not an error."""
    assert app_log.read([line]).errors == 0


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("Massive 503: Service Unavailable", "provider_5xx"),
        ("Massive error 5xx", "provider_5xx"),
        ("Massive error 502", "provider_5xx"),
        ("[Massive] error: 500 for /v3/x", "provider_5xx"),
        ("[Massive] Massive 503: upstream", "provider_5xx"),
        ("[Tradier] request failed with status 502", "provider_5xx"),
        ("error: Massive 503: Service Unavailable", "provider_5xx"),
        ('{"level":50,"msg":"Massive 503: Service Unavailable"}', "provider_5xx"),
        ("Massive 429: slow down", "rate_limit"),
        ("Massive 403: not allowed", "auth"),
        ('{"level":50,"err":{"type":"Error","code":"ECONNREFUSED","message":"connect"},"msg":"query"}', "refused"),
        ("2026-03-10T14:00:00Z error: getaddrinfo ENOTFOUND api.massive.com", "dns"),
        ('{"level":"error","message":"request timed out after 150 ms"}', "timeout"),
        ('127.0.0.1 - - [10/Mar/2026:14:00:00 +0000] "GET /api/x HTTP/1.1" 500 33', "access_5xx"),
        ('{"level":"error","message":"certificate has expired"}', "tls"),
        ("app-1  | [WS options] upstream closed with code 1006: ", "socket_closed"),
    ],
)
def test_the_kind_of_an_error(line: str, kind: str) -> None:
    """The kinds of the app's own lines are recognised within any format."""
    assert (app_log.read([line]).errors, list(app_log.read([line]).kinds)) == (1, [kind])


NODE = ["Error: boom", "    at f (/app/x.js:1:2)", "    at g (/app/x.js:3:4) {", "  code: 'E_X'", "}"]
PYTHON = [
    "Traceback (most recent call last):",
    '  File "x.py", line 1, in <module>',
    "    raise ValueError('bad')",
    "ValueError: bad",
]
JAVA = [
    "java.lang.RuntimeException: boom",
    "\tat a.B.c(B.java:1)",
    "Caused by: java.net.ConnectException: refused",
    "\tat a.B.d(B.java:2)",
    "\t... 12 more",
]


@pytest.mark.parametrize(
    "lines",
    [
        NODE,
        ["could not fetch Error: boom", *NODE[1:]],
        ["2026-03-10T10:00:00Z error: could not fetch", *NODE],
        ["ERROR could not fetch", *JAVA],
        ["ERROR:root:could not fetch", *PYTHON],
        PYTHON,
        JAVA,
        [
            *PYTHON,
            "",
            "During handling of the above exception, another exception occurred:",
            "",
            *PYTHON[:-1],
            "app.errors.Refused: no",
        ],
        ["/app/server.js:12", '    throw new Error("boom");', "    ^", "", *NODE, "", "Node.js v20.1.0"],
        [
            "(node:12) UnhandledPromiseRejectionWarning: Error: boom",
            "    at f (/app/x.js:1:2)",
            "(node:12) UnhandledPromiseRejectionWarning: Unhandled promise rejection. This error originated "
            "either by throwing",
        ],
        [
            "node:internal/process/promises:288",
            "            triggerUncaughtException(err, true /* fromPromise */);",
            "            ^",
            "",
            "[UnhandledPromiseRejection: This error originated] {",
            "  code: 'ERR_UNHANDLED_REJECTION'",
            "}",
            "",
            "Node.js v20.1.0",
        ],
        ["[v0] request failed {", "  status: 502,", "  data: { error: 'Error: x' },", "  list: [", "    1", "  ]", "}"],
        ["{", '  "level": "error",', '  "message": "could not fetch"', "}"],
        ["{ message: 'Error: x',", "  level: 'error'", "}"],
        ["npm ERR! code ELIFECYCLE", "npm ERR! errno 1", "npm ERR! app@1.0.0 start: `node x.js`"],
        ["panic: boom", "", "goroutine 1 [running]:", "main.main()", "\t/app/main.go:12 +0x1d", "exit status 2"],
        [f"Mar 10 14:00:02 host app[12]: {line}" for line in NODE],
        [f"2026-03-10T14:00:00.123456789Z stderr F {line}" for line in NODE],
        [json.dumps({"log": line + "\n", "stream": "stderr", "time": "2026-03-10T14:00:00Z"}) for line in NODE],
        [json.dumps({"PRIORITY": "6", "_TRANSPORT": "stdout", "MESSAGE": line}) for line in NODE],
        [f"app-1  | {line}" for line in NODE],
        [f"0|app  | {line}" for line in NODE],
        [f"[0] {line}" for line in PYTHON],
        [f"Mar 10 14:00:02 host app[12]: {line}" for line in PYTHON],
        ["2026-03-10T14:00:00.1Z stderr P Error: half of a", "2026-03-10T14:00:00.1Z stderr F n Error: line"],
    ],
)
def test_a_stack_trace_is_one_error(lines: list[str]) -> None:
    """
    An error with its stack trace, its causes and its printed object is one error, also between other lines and twice in
    a row.
    """
    assert app_log.read(lines).errors == 1
    assert app_log.read(["[Server] listening", *lines, "GET /api/x 200 1 - 1 ms"]).errors == 1
    summary = app_log.read([*lines, "GET /api/x 200 1 - 1 ms", *lines])
    assert summary.errors == 2 and summary.lines == 2 * sum(bool(line.strip()) for line in lines) + 1


def test_consecutive_errors_are_counted_separately() -> None:
    """
    Two exceptions in a row without a stack trace are two errors, and an exception after an info line is its own error.
    """
    assert app_log.read(["Error: a", "Error: b"]).errors == 2
    assert app_log.read(["2026-03-10T10:00:00Z info: done", *NODE]).errors == 1
    assert app_log.read(["2026-03-10T10:00:00Z error: a", "2026-03-10T10:00:01Z error: b"]).errors == 2
    assert app_log.read(["could not fetch", "Error: a"]).errors == 1


def test_the_exception_below_a_message_gives_the_kind() -> None:
    """If the message itself has no known kind, the exception below it gives the kind."""
    assert list(
        app_log.read(
            [
                "2026-03-10T10:00:00Z error: could not fetch",
                "Error: connect ECONNREFUSED 127.0.0.1:1",
                "    at x (y:1:2)",
            ]
        ).kinds
    ) == ["refused"]


@given(
    st.text(max_size=40),
    st.sampled_from(
        [
            "error",
            "ERROR:",
            "fatal",
            "Error: x",
            "level=error",
            '"level":50',
            "[error]",
            "failed",
            "Traceback (most recent call last):",
            "timed out",
            "HTTP 503 from massive",
        ]
    ),
    st.text(max_size=40),
)
def test_words_of_a_structured_info_line_never_count(before: str, word: str, after: str) -> None:
    """
    A structured line with the level info is never an error, whatever its message contains; with the level error it
    always is.
    """
    message = f"x {before} {word} {after}"
    plain = " ".join(message.split()).replace('"', "'").replace("\\", "/")
    for level, errors in ((30, 0), (50, 1)):
        assert app_log.read([json.dumps({"level": level, "time": 1773151200000, "msg": message})]).errors == errors
    for level, errors in (("info", 0), ("error", 1)):
        assert app_log.read([json.dumps({"message": message, "level": level})]).errors == errors
        assert app_log.read([f'ts=1 level={level} msg="{plain}"']).errors == errors
        assert app_log.read([f"2026-03-10T10:00:00Z [{level}]: {plain}"]).errors == errors


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("utf-8", "replace")))
def test_any_text_is_read(line: str) -> None:
    """No line makes the reader fail, whatever it contains."""
    log_lines.read(line)
    log_lines.read("{" + line)
    assert app_log.read([line]).errors in (0, 1)


def test_deep_and_long_lines_are_read_quickly() -> None:
    """Nested JSON and long lines of separators neither fail nor take more than linear time."""
    for line in (
        "{" * 16_000,
        '{"a":' * 3000,
        "[" * 16_000,
        "- " * 8000,
        "a=" * 8000,
        "1 " * 8000,
        "[x] " * 4000,
        "a - " * 4000,
        '"' * 16_000,
        "x" * 16_384,
    ):
        app_log.read([line])


@pytest.mark.parametrize(
    ("line", "at"),
    [
        ('{"level":30,"time":1773151200000,"msg":"x"}', "2026-03-10T14:00:00+00:00"),
        ('{"ts":1773151200.25,"level":"info","msg":"x"}', "2026-03-10T14:00:00.250000+00:00"),
        ('{"timestamp":"2026-03-10T10:00:00-04:00","level":"info"}', "2026-03-10T14:00:00+00:00"),
        ("2026-03-10T14:00:00.5Z info: x", "2026-03-10T14:00:00.500000+00:00"),
        ("2026-03-10 14:00:00,001 - INFO - x", "2026-03-10T14:00:00.001000"),
        ("[2026-03-10T14:00:00.000Z] ERROR [x] y", "2026-03-10T14:00:00+00:00"),
        ("2026/03/10 14:00:00 [error] x", "2026-03-10T14:00:00"),
        ('::1 - - [10/Mar/2026:10:00:00 -0400] "GET /x HTTP/1.1" 200 5', "2026-03-10T14:00:00+00:00"),
        ("Nov 18 10:00:01 host app[1]: x", "0004-11-18T10:00:01"),
        ("Nov  8 10:00:01 host app: x", "0004-11-08T10:00:01"),
        ("<11>Mar 10 14:00:02 host app[12]: x", "0004-03-10T14:00:02"),
        ('{"PRIORITY":"3","MESSAGE":"x","__REALTIME_TIMESTAMP":"1773151200000000"}', "2026-03-10T14:00:00+00:00"),
        ("2026-03-10T14:00:00.123456789Z stderr F x", "2026-03-10T14:00:00.123456+00:00"),
        (
            '{"log":"2026-03-10 10:00:00 x\\n","stream":"stdout","time":"2026-03-10T14:00:00Z"}',
            "2026-03-10T14:00:00+00:00",
        ),
        ("[Nest] 12  - 03/10/2026, 2:00:00 PM   ERROR [Feed] x", "2026-03-10T14:00:00"),
        ('ts=2026-03-10T14:00:00Z level=info msg="x"', "2026-03-10T14:00:00+00:00"),
        ("0|app  | 2026-03-10T14:00:00: Error: x", "2026-03-10T14:00:00"),
        ("[Tue Mar 10 14:00:00.123456 2026] [core:error] x", "2026-03-10T14:00:00.123456"),
        ("2026-02-30 14:00:00 x", None),
        ("GET /api/x 200 1 - 1 ms", None),
        ("price 2026-03-10 14:00:00", None),
    ],
)
def test_the_time_of_a_line(line: str, at: str | None) -> None:
    """The time of a line in each usual format, with its zone if it has one; None if the line has no time."""
    found = log_lines.read(line).at
    assert (found.isoformat() if found else None) == at
    assert found is None or (found.tzinfo in (None, UTC) and isinstance(found, datetime))
