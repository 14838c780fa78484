"""
Parse one line of a log: its text, level and time, in any common format.

Wrappers are removed first (Docker's JSON, a container runtime, syslog, the journal, Compose, PM2, concurrently), then
the time, then the level. An explicit level is used; words of the message are not a level.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

NO_YEAR = 4  # The year of a time without one, as in syslog; a leap year, so that each day exists.
MOST_WRAPPERS = 8
EARLIEST_S, LATEST_S = 500_000_000, 5_000_000_000  # 1985 to 2128: a JSON number in this range is a time in seconds.
ERRORS = frozenset(
    [
        "error",
        "err",
        "eror",
        "erro",
        "fatal",
        "fata",
        "ftl",
        "critical",
        "crit",
        "critic",
        "alert",
        "emerg",
        "emergency",
        "panic",
        "dpanic",
        "severe",
        "fail",
        "e",
        "f",
        "c",
    ]
)
OTHERS = frozenset(
    [
        "trace",
        "trc",
        "trac",
        "debug",
        "dbug",
        "dbg",
        "debu",
        "verbose",
        "silly",
        "fine",
        "finer",
        "finest",
        "info",
        "inf",
        "information",
        "informational",
        "notice",
        "log",
        "http",
        "config",
        "success",
        "default",
        "audit",
        "warn",
        "wrn",
        "warning",
        "w",
        "i",
        "d",
        "t",
        "v",
        "n",
    ]
)
# These levels are recognised before a colon, in capitals, or after a time; others need brackets or a key.
PLAIN = frozenset(
    [
        "error",
        "err",
        "eror",
        "fatal",
        "critical",
        "crit",
        "severe",
        "emerg",
        "panic",
        "info",
        "warn",
        "warning",
        "debug",
        "trace",
        "verbose",
        "notice",
        "silly",
    ]
)
LEVEL_KEYS = (
    "level",
    "severity",
    "lvl",
    "loglevel",
    "log_level",
    "levelname",
    "log.level",
    "@l",
    "severityText",
    "severity_text",
    "levelName",
)
MESSAGE_KEYS = ("msg", "message", "event", "@m", "@mt", "body", "text", "short_message")
TIME_KEYS = ("time", "timestamp", "@timestamp", "ts", "@t", "datetime", "date", "asctime", "eventTime", "t")
ERROR_KEYS = ("err", "error", "exception", "stack", "exc_info", "@x")
MONTHS = {
    name: i
    for i, name in enumerate(["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], 1)
}


class LogLine(NamedTuple):
    """
    One line of a log.

    Attributes:
        text: Its text, without wrapper, time and level; for an access line METHOD PATH STATUS and the rest.
        is_error: Whether its level is an error level; None without a level.
        at: Its time, without a zone if it has none, with the year `NO_YEAR` if it has no year; None without a time.
        is_access: Whether it is a request with its status.
        continues: Whether it continues the line above: a stack frame, a part of a printed object.
        bare: Whether it has neither a time of its own nor a level, like the lines of a stack trace.
        partial: Whether the container runtime split it, so that the next line continues it.
    """

    text: str
    is_error: bool | None = None
    at: datetime | None = None
    is_access: bool = False
    continues: bool = False
    bare: bool = True
    partial: bool = False


ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_ZONE = r"\s?(?P<zone>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?"
_CLOCK = r"(?P<H>\d\d?):(?P<M>\d\d):(?P<S>\d\d)(?:[.,](?P<f>\d{1,9}))?"
_ISO = rf"(?P<y>\d{{4}})[-/](?P<m>\d\d)[-/](?P<d>\d\d)(?:[T ]| - ){_CLOCK}{_ZONE}"
_NAMED = (
    rf"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )?(?P<b>{'|'.join(MONTHS)}) +(?P<d>\d\d?) (?:(?P<y>\d{{4}}) )"
    rf"?{_CLOCK}(?: (?P<y2>\d{{4}}))?{_ZONE}"
)
_DAY_FIRST = rf"(?P<d>\d\d?)[/ ](?P<b>{'|'.join(MONTHS)})[/ ](?P<y>\d{{4}})[: ]{_CLOCK}{_ZONE}"
_US = rf"(?P<m>\d\d?)/(?P<d>\d\d?)/(?P<y>\d{{4}}),? {_CLOCK}(?: (?P<p>[AP]M))?{_ZONE}"
_TIMES = tuple(
    re.compile(rf"(?P<open>\[)?{form}(?=[\s\]),|:;]|$)(?P<close>\])?:?,?(?P<gap> |$)?")
    for form in (_ISO, _NAMED, _DAY_FIRST, _US)
)
_CLOCK_ONLY = re.compile(r"\[?(?:\d\d:\d\d:\d\d(?:[.,]\d+)?|\d\d?:\d\d[AP]M)\]? ")
_CRI = re.compile(rf"{_ISO} (?:stdout|stderr) (?P<flag>[FP])(?: |$)")
_PRIORITY = re.compile(r"<(\d{1,3})>")
_SYSLOG_5424 = re.compile(rf"1 (?:{_ISO}|-) \S+ \S+ \S+ \S+ (?:-|(?:\[(?:[^\]\\]|\\.)*\])+)(?: |$)")
_TAG = re.compile(r"(?:[\w.:-]+ )?[\w./@-]+\[[\w.-]+\]: ?")
_TAG_WITHOUT_PID = re.compile(r"[\w.-]+ [\w./@-]+: ?")
_CONTAINER = re.compile(r"\[(?:\d+|GIN)\] |\d+\|[\w.@ -]+?\s*\| ?|\[pod/[^\]]+\] |(?P<name>[\w.-]+)\s+\| ?")
_NEST = re.compile(r"\[\w+\] \d+ +- (?=\d\d/\d\d/\d{4})")
_METHOD = r"(?P<method>GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|CONNECT|TRACE)"
_COMBINED = re.compile(
    rf'\S+ (?:\S+ (?:\S+ )?)?(?:- )?(?P<at>\[[^\]]*\] )?"{_METHOD} (?P<path>\S+)(?: HTTP/[\d.]+)?" '
    rf"(?P<status>\d{{3}})\b(?P<rest>.*)"
)
_SHORT = re.compile(rf"\S+ \S+ {_METHOD} (?P<path>\S+) HTTP/[\d.]+ (?P<status>\d{{3}})\b(?P<rest>.*)")
_GIN = re.compile(rf'(?:\[\w+\] )?\| +(?P<status>\d{{3}}) +\|(?P<rest>[^"]*)\| +{_METHOD} +"(?P<path>[^"]*)"')
_TINY = re.compile(rf"{_METHOD} /\S* \d{{3}}\b")
_NOUN = (
    r"(?:rates?|ratios?|counts?|counters?|budgets?|thresholds?|handlers?|pages?|boundar(?:y|ies)"
    r"|middleware|codes|log|logs|logger|total|summary)\b"
)
_HEAD = re.compile(
    r"\s*(?:[-|] +)?(?P<open>[\[(<]?) *(?P<name>[A-Za-z]+) *(?P<close>[\])>]?)(?P<after>:|\||-(?= )|(?=\s)|$)"
)
_BEFORE = r"(?:\[[^\]]{0,80}\] *|\([^)]{0,80}\) *|\d+ +|-{1,3} +|\| *|[\w.$/:#@-]{1,80} +[-|:] +)"
_LATER = re.compile(
    rf"\s*{_BEFORE}{{1,6}}(?P<open>[\[(]?)(?P<name>[A-Za-z]+) *(?P<close>[\])]?)(?P<after>:|\||-(?= )|(?=\s)|$)"
)
_PAIR = re.compile(r'([\w.@/-]+)=("(?:[^"\\]|\\.)*"?|\S*)\s*|("(?:[^"\\]|\\.)*"|\S+)\s*')
_SPECIAL = tuple(
    re.compile(form)
    for form in (
        r"(?P<level>[EWIFDC])\d{4} \d\d:\d\d:\d\d(?:\.\d+)? +\d* *(?P<text>.*)",  # klog
        r"(?P<level>ERRO|FATA|PANI|WARN|INFO|DEBU|TRAC)\[[^\]]*\] *(?P<text>.*)",  # logrus, log15
        r"(?P<level>[DIWEFA]), \[[^\]]*\] +\w+ -- .*?: ?(?P<text>.*)",  # Ruby
        r"\[\d\d:\d\d:\d\d(?:\.\d+)? (?P<level>[A-Z]{3})\] ?(?P<text>.*)",  # Serilog
        r"\[[\w.-]*:(?P<level>emerg|alert|crit|error|warn|notice|info|debug|trace\d)\] (?P<text>.*)",  # Apache
        r"\[?\w+\.(?P<level>EMERGENCY|ALERT|CRITICAL|ERROR|WARNING|NOTICE|INFO|DEBUG):? ?(?P<text>.*)",  # Monolog
        r"npm (?P<level>ERR|error|WARN|warn|notice|http|info|verb|sill)\b!? ?(?P<text>.*)",
        r"(?P<level>fail|crit|info|warn|dbug|trce): (?P<text>[\w.]+\[\d+\].*)",  # .NET
    )
)
_OF_SPECIAL = {"E": True, "F": True, "C": True, "A": True, "PANI": True}
_CUT_LEVEL = re.compile(r'(?<!\\)"(?:level|severity)"\s*:\s*(?:"(\w+)"|(\d+))')
_CUT_MESSAGE = re.compile(r'(?<!\\)"(?:msg|message)"\s*:\s*"((?:[^"\\]|\\.)*)')
_STACK = re.compile(r"\s+at |\s*\^+\s*$|\s{4,}\S")


def read(raw: str) -> LogLine:
    """Parse one line; a line of unknown format is only text, without level and time."""
    content = ANSI.sub("", raw).rstrip()
    if "\x1b" in content or "\0" in content:
        content = content.replace("\x1b", "").replace("\0", "")
    level: bool | None = None
    at: datetime | None = None
    own_time = partial = False
    tagless = True  # Whether a syslog tag without a process id may follow.
    for _ in range(MOST_WRAPPERS):
        if content.startswith("{"):
            unwrapped = _of_json(content)
            if unwrapped is None:
                break
            inner, stated, when, is_last, request = unwrapped
            at = _better(at, when)
            level = stated if stated is not None else level
            if is_last:
                answered = request if request and not level else ""
                return LogLine(
                    answered or inner,
                    None if answered else level,
                    at,
                    bool(answered or _TINY.match(inner)),
                    False,
                    False,
                    partial,
                )
            content, own_time = inner, False
        elif found := _CRI.match(content):
            at, content, partial, own_time = (
                _better(at, _time(found)),
                content[found.end() :],
                found["flag"] == "P",
                False,
            )
        elif (found := _PRIORITY.match(content)) and int(found[1]) < 192:
            level, content, tagless = int(found[1]) % 8 <= 3, content[found.end() :], False
            if found := _SYSLOG_5424.match(content):
                at, content = _better(at, _time(found) if found["y"] else None), content[found.end() :]
        elif found := next((f for form in _TIMES if (f := form.match(content))), None):
            when = _time(found)
            if when is None:
                break
            at, content, is_named = _better(at, when), content[found.end() :], bool(found.groupdict().get("b"))
            own_time = len(found["f"] or "") < 9  # A container runtime writes nanoseconds.
            if (tag := _TAG.match(content)) or ((is_named or not tagless) and (tag := _TAG_WITHOUT_PID.match(content))):
                content, own_time = content[tag.end() :], False
            elif found["open"] and not found["close"]:
                content = content.replace("]", "", 1)  # [TIME LEVEL module] message
        elif (
            at is None and (found := _CONTAINER.match(content)) and (found["name"] or "").lower() not in ERRORS | OTHERS
        ) or (at is None and (found := _NEST.match(content))):
            content = content[found.end() :]
        elif found := _CLOCK_ONLY.match(content):
            if special := _special(content):
                return LogLine(special[0], special[1], at, False, False, False, partial)
            content, own_time = content[found.end() :], True
        else:
            break
    if access := _access(content):
        text, when = access
        return LogLine(text, None, _better(at, when), True, False, False, partial)
    text, stated, when = _level(content, own_time)
    at = _better(at, when)
    if stated is not None and (access := _access(text)):
        return LogLine(access[0], None, _better(at, access[1]), True, False, False, partial)
    own = stated is not None
    level = stated if own else level
    goes_on = not own and (bool(_STACK.match(content)) if own_time else content[:1] in (" ", "\t", "}", "]", ")"))
    return LogLine(
        text.strip() if not goes_on else content, level, at, False, goes_on, not own and not own_time, partial
    )


def _better(at: datetime | None, when: datetime | None) -> datetime | None:
    """Return the more precise of two times of a line: one with a zone, else the inner one."""
    if at is None or when is None:
        return at or when
    return at if at.tzinfo and not when.tzinfo else when


def _time(found: re.Match[str]) -> datetime | None:
    part = found.groupdict()
    year = part.get("y") or part.get("y2")
    month = int(part["m"]) if part.get("m") else MONTHS[part["b"]]
    hour, zone = int(part["H"]), part.get("zone")
    if part.get("p"):
        hour = hour % 12 + (12 if part["p"] == "PM" else 0)
    try:
        at = datetime(
            int(year) if year else NO_YEAR,
            month,
            int(part["d"]),
            hour,
            int(part["M"]),
            min(int(part["S"]), 59),
            int((part["f"] or "0")[:6].ljust(6, "0")),
        )
        if not zone:
            return at
        digits = zone[1:].replace(":", "").ljust(4, "0")
        offset = timedelta(0) if zone[0] not in "+-" else timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        return at.replace(tzinfo=timezone(-offset if zone[0] == "-" else offset)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _stated(value: Any) -> bool | None:
    """Return whether a level, as a word or a number, is an error level; None if it is no level."""
    if isinstance(value, Mapping):
        return next(
            (found for key in ("value", "name", "level") if (found := _stated(value.get(key))) is not None), None
        )
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, (int, float)) or (isinstance(value, str) and value.isdigit() and len(value) < 6):
        number = float(value)
        # Numbers of syslog, of pino and bunyan, of java.util.logging.
        if number < 8:
            return number <= 3
        if number < 100:
            return number >= 50
        return number >= 1000
    word = re.split(r"[^a-z]", ANSI.sub("", str(value)).strip().lower())[0] if isinstance(value, str) else ""
    if word in ERRORS:
        return True
    if word in OTHERS:
        return False
    return None


def _of_json(line: str) -> tuple[str, bool | None, datetime | None, bool, str] | None:
    """
    Parse a JSON line: its message, level, time, whether the message needs no further parsing, and its request.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        # The line was truncated; inside a string the quotes would be escaped.
        cut = _CUT_LEVEL.search(line)
        message = _CUT_MESSAGE.search(line)
        return (message[1] if message else line, _stated(cut[1] or cut[2]), None, True, "") if cut else None
    if not isinstance(found, dict):
        return None
    if isinstance(found.get("log"), str) and "stream" in found:
        return found["log"].rstrip("\n"), None, _json_time(found), False, ""
    if "MESSAGE" in found and ("PRIORITY" in found or "__REALTIME_TIMESTAMP" in found):
        words = found["MESSAGE"]
        if isinstance(words, list) and all(isinstance(n, int) and 0 <= n < 256 for n in words):
            words = bytes(words).decode("utf-8", "replace")  # The journal writes unprintable text as a list of bytes.
        level = (
            None
            if found.get("_TRANSPORT") == "stdout" and str(found.get("PRIORITY")) == "6"
            else _stated(found.get("PRIORITY"))
        )
        return (
            str(words).split("\n", 1)[0] if words else "",
            level,
            _number_time(found.get("__REALTIME_TIMESTAMP")),
            False,
            "",
        )
    named = [_stated(found[key]) for key in LEVEL_KEYS if key in found]
    if isinstance(found.get("log"), dict):
        named.append(_stated(found["log"].get("level")))
    if isinstance(found.get("status"), str) and not found["status"].isdigit():
        named.append(_stated(found["status"]))
    level = next((n for n in named if n is not None), None)
    failure = next(
        (found[key] for key in ERROR_KEYS if found.get(key) and not isinstance(found[key], (bool, int, float))), None
    )
    text = next((str(found[key]) for key in MESSAGE_KEYS if isinstance(found.get(key), (str, int, float))), "")
    if level is None and failure is not None:
        level = True
    why = (
        " ".join(str(failure[key]) for key in ("type", "name", "code", "message") if failure.get(key))
        if isinstance(failure, dict)
        else str(failure or "")
    )
    if level is None and text.startswith(("{", "<")):
        return text, level, _json_time(found), False, ""
    if level is not True and (inner := _access(ANSI.sub("", text))):
        return inner[0], level, _json_time(found), True, inner[0]
    words = " ".join(part for part in (ANSI.sub("", text), why.split("\n", 1)[0]) if part)
    if level is None and not words and not any(key in found for key in TIME_KEYS):
        return line, None, None, True, ""
    return words or line, level, _json_time(found), True, _request(found)


def _request(found: dict[str, Any]) -> str:
    """Return the request of a JSON line, as METHOD PATH STATUS; empty if it has none."""
    request, answer = (found[key] if isinstance(found.get(key), dict) else {} for key in ("req", "res"))
    status = next(
        (
            v
            for v in (
                answer.get("statusCode"),
                answer.get("status"),
                found.get("statusCode"),
                found.get("status"),
                found.get("status_code"),
            )
            if v is not None and str(v).isdigit() and 100 <= int(v) < 600
        ),
        None,
    )
    proxied = found["proxy"] if isinstance(found.get("proxy"), dict) else {}  # The format of Vercel.
    method, path = (
        request.get("method") or found.get("method") or proxied.get("method"),
        request.get("url") or found.get("url") or found.get("path") or proxied.get("path"),
    )
    return (
        f"{method} {path} {status} "
        if status is not None and isinstance(method, str) and isinstance(path, str) and path.startswith("/")
        else ""
    )


def _json_time(found: dict[str, Any]) -> datetime | None:
    for key in TIME_KEYS:
        if key in found and (at := _number_time(found[key]) or _text_time(found[key])):
            return at
    return None


def _text_time(value: Any) -> datetime | None:
    match = (
        next((m for form in _TIMES if (m := form.match(value))), None)
        if isinstance(value, str) and len(value) < 60
        else None
    )
    return _time(match) if match else None


def _number_time(value: Any) -> datetime | None:
    """Convert seconds, milliseconds, microseconds or nanoseconds since 1970 to an instant."""
    if isinstance(value, bool) or not (
        isinstance(value, (int, float)) or (isinstance(value, str) and re.fullmatch(r"\d{9,20}(\.\d+)?", value))
    ):
        return None
    number = float(value)
    for scale in (1, 1e3, 1e6, 1e9):
        if EARLIEST_S <= number / scale < LATEST_S:
            return datetime.fromtimestamp(round(number / scale, 6), UTC)
    return None


def _access(line: str) -> tuple[str, datetime | None] | None:
    """Parse an access line: METHOD PATH STATUS and the rest, and its time; None if the line is none."""
    if _TINY.match(line):
        return line, None
    found = _COMBINED.match(line) or _SHORT.match(line) or _GIN.match(line)
    if not found:
        return None
    when = _text_time(found["at"].strip()) if found.groupdict().get("at") else None
    return f"{found['method']} {found['path']} {found['status']} {found['rest'].strip()}", when


def _special(line: str) -> tuple[str, bool] | None:
    found = next((f for form in _SPECIAL if (f := form.match(line))), None)
    if not found:
        return None
    return line if line.startswith("npm ") else found["text"], _OF_SPECIAL.get(
        found["level"], found["level"].lower() in ERRORS
    )


def _level(line: str, timed: bool) -> tuple[str, bool | None, datetime | None]:
    """
    Return a line's text without its level, whether the level is an error level, and a time among its pairs.

    The second value is None if the line has no level.
    """
    if special := _special(line):
        return *special, None
    if re.match(r"[\w.@/-]+=", line):
        return _of_pairs(line)
    for form in (_HEAD, _LATER):
        found = form.match(line)
        if not found:
            continue
        name, is_boxed = found["name"].lower(), bool(found["open"] and found["close"])
        if name in ERRORS:
            level = True
        elif name in OTHERS:
            level = False
        else:
            level = None
        if level is None or (len(name) < 3 and not is_boxed):
            continue
        begins = found.start("open") if form is _LATER else 0  # A tag before the level is part of the text.
        rest = line[:begins] + line[found.end() :].lstrip(" :|-")
        is_named = name in PLAIN and not re.match(rf"(?i)\s*{_NOUN}", line[found.end() :])
        # `Error: …` begins an exception, and is kept in the text.
        with_colon = found["after"] == ":" and found["name"] != "Error"
        if is_boxed or (
            is_named
            and (with_colon or found["name"].isupper() or (timed and form is _HEAD and found["name"].islower()))
        ):
            return rest, level, None
        if name == "log" and found["name"].isupper() and found["after"] == ":":
            return rest, False, None
    return line, None, None


def _of_pairs(line: str) -> tuple[str, bool | None, datetime | None]:
    """Parse a line of key=value pairs; the first value of a key counts, and quoted text is one value."""
    pairs: dict[str, str] = {}
    for found in _PAIR.finditer(line):
        if found[1]:
            pairs.setdefault(found[1].lower(), found[2].strip('"'))
    level = next(
        (
            stated
            for key in ("level", "lvl", "severity", "loglevel", "levelname", "at")
            if (stated := _stated(pairs.get(key))) is not None
        ),
        None,
    )
    when = next(
        (at for key in TIME_KEYS if key in pairs and (at := _number_time(pairs[key]) or _text_time(pairs[key]))), None
    )
    status, method, path = pairs.get("status", ""), pairs.get("method", ""), pairs.get("path", pairs.get("url", ""))
    if not level and re.fullmatch(r"\d{3}", status) and method.isupper() and path.startswith("/"):
        return f"{method} {path} {status} ", False, when
    words = " ".join(pairs[key] for key in ("msg", "message", "event", "err", "error") if pairs.get(key))
    return words if level is not None and words else line, level, when
