"""
Read what is new in the app's log, and of which kinds.

The app writes to stdout, without times or levels; wherever that ends up (a file, a pipe, the journal) is read from a
cursor, so much at a time, through rotation and truncation, and nothing waits for a line to come.
"""

import asyncio
import errno
import hashlib
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from opslib.foundation import formatting
from opslib.telemetry.probes.log_lines import LogLine
from opslib.telemetry.probes.log_lines import read as read_line

MOST_BYTES = 1 << 20  # Read at one time; what is left is read the next time.
MOST_LINES = 20_000
LONGEST_LINE = 16_384
MARK_BYTES = 256  # So much of a file's beginning tells whether it is still the same file.
JOURNAL = "journal:"


class Kind(NamedTuple):
    """One kind of line: its name, what it looks like, and whether it is an error."""

    name: str
    pattern: re.Pattern[str]
    error: bool


def _kind(name: str, pattern: str, error: bool = True) -> Kind:
    return Kind(name, re.compile(pattern), error)


# The first that fits is the line's kind. Patterns are of what the app really writes; case matters to it, not to us.
_PROVIDER = (
    r"(?:massive|tradier)\]?(?: (?:api|proxy|request|error|failed|returned|responded|status|http|with|code))*:? *\(?"
)
KINDS = (
    _kind(
        "configured",
        r"(?i)^(\[[^\]]+\] )?\W*\w*_(API_KEY|TOKEN|URL)\b.*(present|set|loaded|missing|✓|true|length)",
        error=False,
    ),
    # Ours, or a load balancer's.
    _kind(
        "access_looks", r"^[A-Z]{3,7} /(ping|api/(health|metrics|ws-token|market/status))\b\S* \d\d\d\b", error=False
    ),
    _kind("access_proxy_5xx", r"^[A-Z]{3,7} /api/massive\S* 5\d\d\b", error=False),  # Its message is counted.
    _kind("access_5xx", r"^[A-Z]{3,7} /\S* 5\d\d\b"),
    _kind("access", r"^[A-Z]{3,7} /\S* \d\d\d\b", error=False),
    _kind("fallback", r"\[v0\] fallback\(", error=False),
    _kind(
        "timeout",
        r"(?i)\btimed out\b|ETIMEDOUT|aborted due to timeout|TimeoutError|timeout of \d+ ?ms exceeded|timeout "
        r"after \d+ ?ms",
    ),
    _kind("dns", r"ENOTFOUND|EAI_AGAIN"),
    _kind("refused", r"ECONNREFUSED"),
    _kind("tls", r"(?i)\bCERT_\w+|certificate (has|is|verify|not|chain)|self.signed certificate|ERR_TLS|SSL routines"),
    _kind(
        "rate_limit",
        rf"(?i)\b(HTTP|status|code|error):? ?\(?429\b|\(429\)|{_PROVIDER}429\b|rate.?limit(ed| exceeded)|too "
        rf"many requests|maximum requests per minute",
    ),
    _kind(
        "auth",
        rf"(?i)\b(HTTP|status|code|error):? ?\(?40[13]\b|\(40[13]\)|{_PROVIDER}40[13]:|unauthorized"
        rf"|\bforbidden\b|not entitled|unknown api key|auth_failed|invalid token",
    ),
    _kind(
        "provider_5xx",
        rf"(?i)proxy error \(5\d\d\)|HTTP 5\d\d from|External API error|{_PROVIDER}5(\d\d|xx)\b(?! +(contracts"
        rf"|symbols|rows|items|quotes|results|bytes|requests|ms)\b)",
    ),
    _kind("socket_idle", r"\[WS [\w ]+\] upstream closed( with code)? 100[015]\b", error=False),
    _kind("socket_closed", r"\[WS [\w ]+\] upstream closed"),
    _kind("socket_error", r"\[WS [\w ]+\] .*(?i:error)"),
    _kind("started", r"(?i)\[Server\].*(listening|started|running)|listening on", error=False),
    _kind("heartbeat", r"\[Composite Scanner\] Heartbeat", error=False),
    _kind(
        "other_error",
        r"\b\w*(Error|Exception)\b|\bERROR\b|^Traceback \(most recent|(?i:\berror:|unhandled|uncaught|(?<!\b0 "
        r")\bfailed\b|\bfatal\b|segmentation fault|core dumped|out of memory)",
    ),
)
_ERRORS = frozenset(k.name for k in KINDS if k.error)
# What says that there is no error, or speaks of errors in general; left out before a line without a level is
# classified.
_NO_ERROR = re.compile(
    r"(?i)\b(?:no|0|zero|without(?: any)?|0 (?:of|/) \d+)\s+(?:[\w-]+\s+)?(?:errors?|failures?|failed"
    r"|exceptions?|timed out|timeouts?)\b"
    r"|\b\w*(?:error|failed|failure|exception)s?\s*(?:[:=]|is|are)?\s*(?:0(?:\.0+)?\s*%?|null|none|undefined"
    r"|false|nil|no|\[\]|\{\}|\"\"|'')(?=\s*(?:[,;)\]}]|$))"
    r"|\b\w*(?:error|exception|failure)[ -](?:rates?|ratios?|counts?|counters?|budgets?|thresholds?|handlers?"
    r"|pages?|boundar(?:y|ies)|middleware|codes|logger|totals?|summary)\b(?:\s*[:=])?"
    r"|\b\w*error[ -](?:handling|reporting|logging|tracking|monitoring)\b(?= (?:is |was )?(?:enabled|disabled"
    r"|initiali[sz]ed|configured|registered|active|ready|set up|installed|started|on\b|off\b))"
)
_CHAINED = re.compile(
    r"Caused by: |During handling of the above exception|The above exception was the direct cause|\.\.\. \d+ "
    r"more|Traceback \(most recent|Node\.js v\d|\[cause\]: "
)
_TRACEBACK = re.compile(r"\s*(?:\+ Exception Group )?Traceback \(most recent")
_EXCEPTION = re.compile(
    r"(?:Uncaught )?[\w.$]*(?:Error|Exception|Exit|Interrupt|Warning|[a-z_]\w*\.[A-Z]\w*)(?: \[\w+\])?(?::|$)"
)
_REJECTION = "UnhandledPromiseRejection"
_NPM = re.compile(r"\S*npm (?:ERR!|error)")
_DUMPED_LEVEL = re.compile(r"""\s{1,4}["']?(?:level|severity)["']?\s*:\s*["']?(\w+)""")
_TOO_SHORT = re.compile(r"(?i)(?:timed out after|timeout of|timeout after) (\d+) ?ms")
# So long did a call to Massive take that failed.
_GAVE_UP = re.compile(r"^[A-Z]{3,7} /api/massive\S* 5\d\d .* ([\d.]+) ms$")
MOST_OF_ENTRY = 2000  # Lines of one entry whose words are still asked for its kind.


class LogSummary(NamedTuple):
    """
    What a stretch of a log comes to.

    Attributes:
        lines: How many lines there were.
        kinds: How many entries of each kind, where there were any.
        errors: How many errors; a stack below a message is not counted again.
        newest: The newest line of each kind of error, shortened, without secrets.
        waited_ms: The shortest time after which the app says that it gave up waiting; None where it says none.
    """

    lines: int
    kinds: dict[str, int]
    errors: int
    newest: dict[str, str]
    waited_ms: int | None

    def as_json(self) -> dict[str, Any]:
        """For a sample."""
        return {"lines": self.lines, "kinds": self.kinds, "newest": self.newest} | (
            {"waited_ms": self.waited_ms} if self.waited_ms is not None else {}
        )


class Entry:
    """
    One entry of a log: a line, and the lines that go on with it, as those of a stack.

    Attributes:
        first: The line that begins it.
        count: How many lines it has.
        kind: The name of its kind; empty where it is of none.
        is_error: Whether it is an error.
    """

    def __init__(self, first: LogLine):
        self.first, self.count, self.last = first, 1, first
        self.kind, self.is_error = _classified(first)
        self._in_traceback = bool(_TRACEBACK.match(first.text))

    def continued_by(self, line: LogLine, after: LogLine | None) -> bool:
        """Whether a line belongs to this entry; `after` is the line below it, None where that is not known yet."""
        if line.continues or self.last.partial:
            return True
        if not line.bare:
            return bool(self.is_error and _NPM.match(line.text) and _NPM.match(self.first.text))
        if self.is_error and (
            _CHAINED.match(line.text)
            or (_REJECTION in line.text and _REJECTION in self.first.text and "originated" in line.text)
        ):
            return True
        is_exception = bool(_EXCEPTION.match(line.text))
        if self._in_traceback:
            return is_exception or bool(re.match(r"[\w.]+(: |$)", line.text))
        has_stack = after is not None and after.continues and after.text.lstrip().startswith("at ")
        return self.is_error and is_exception and has_stack and not _EXCEPTION.match(self.first.text)

    def add(self, line: LogLine) -> None:
        """Take in a line that goes on with this entry."""
        self.count, self.last = self.count + 1, line
        if _TRACEBACK.match(line.text):
            self._in_traceback = True
        elif self._in_traceback and line.bare and not line.continues:
            self._in_traceback = False
        if self.count > MOST_OF_ENTRY:
            return
        if not self.kind and self.first.text == "{" and (found := _DUMPED_LEVEL.match(line.text)):
            self.kind, self.is_error = _classified(read_line(json.dumps({"level": found[1], "msg": ""})))
        elif self.kind == "other_error":  # What the stack says of the cause says more.
            self.kind = next(
                (
                    k.name
                    for k in KINDS
                    if k.name in ("timeout", "dns", "refused", "tls") and k.pattern.search(line.text)
                ),
                self.kind,
            )


def _classified(line: LogLine) -> tuple[str, bool]:
    """The kind of a line, and whether it is an error: by its level where it states one, else by its words."""
    if line.is_error is None:
        words = line.text if line.is_access else _NO_ERROR.sub("", line.text)
        kind = next((k for k in KINDS if k.pattern.search(words)), None)
        return (kind.name, kind.error) if kind else ("", False)
    kind = next(
        (
            k
            for k in KINDS
            if k.error is line.is_error and k.pattern.search(line.text) and not k.name.startswith("access")
        ),
        None,
    )
    unknown = "other_error" if line.is_error else ""
    return kind.name if kind else unknown, line.is_error


def entries(lines: Iterable[LogLine]) -> Iterator[Entry]:
    """
    Group lines into entries; lines that go on with nothing, as at the beginning of a rotated file, are an entry of no
    kind.
    """
    current: Entry | None = None
    held: LogLine | None = None
    for line in chain(lines, [None]):
        if held is not None:
            if current is not None and current.continued_by(held, line):
                current.add(held)
            else:
                if current is not None:
                    yield current
                current = Entry(held if not held.continues else held._replace(text="", is_error=None))
        held = line
    if current is not None:
        yield current


class Summary:
    """What entries of a log come to, as they are added."""

    def __init__(self) -> None:
        self._kinds, self._newest, self._errors = Counter[str](), dict[str, str](), 0
        self._waited, self._took = list[int](), list[int]()

    def add(self, entry: Entry) -> None:
        """Count an entry."""
        if not entry.kind:
            return
        line = entry.first.text
        self._kinds[entry.kind] += 1
        self._errors += entry.is_error
        if entry.is_error:
            self._newest[entry.kind] = formatting.single_line(line, 160)
        if found := _TOO_SHORT.search(line):
            self._waited.append(int(found[1]))
        elif found := _GAVE_UP.match(line):
            self._took.append(round(float(found[1])))

    def told(self, lines: int) -> LogSummary:
        """What it comes to, of so many lines."""
        # Where the app says that it gave up, and not after what time: after that of the calls that failed.
        waited = self._waited or (self._took if self._kinds["timeout"] else [])
        return LogSummary(
            lines,
            dict(sorted((k, n) for k, n in self._kinds.items() if n)),
            self._errors,
            self._newest,
            min(waited) if waited else None,
        )


def read(lines: Iterable[str]) -> LogSummary:
    """What these lines come to."""
    count, found = 0, Summary()

    def counted() -> Iterator[LogLine]:
        nonlocal count
        for line in lines:
            if line.strip():
                count += 1
                yield read_line(line)

    for entry in entries(counted()):
        found.add(entry)
    return found.told(count)


class Log:
    """
    One log and how far it was read.

    Args:
        place: A file, a named pipe, or ``journal:UNIT``.
        cursor: What `cursor` gave before; empty begins at the end of what is there now, and says so.
    """

    def __init__(self, place: str, cursor: str = ""):
        self.place = place
        self._file: int | None = None
        self._at = json.loads(cursor) if cursor else {}
        self._begun = bool(cursor)
        self._rest = b""

    @property
    def cursor(self) -> str:
        """How far it was read, for the next process."""
        whole = self._at | ({"offset": self._at["offset"] - len(self._rest)} if "offset" in self._at else {})
        return json.dumps(whole, sort_keys=True)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    async def new(self) -> list[str]:
        """
        What has come since the last time? Whole lines, at most `MOST_BYTES` of them.

        Raises:
            OSError: It is not there, or cannot be read.
        """
        if self.place.startswith(JOURNAL):
            return await self._journal()
        return await asyncio.to_thread(self._read)

    def _read(self) -> list[str]:
        path = Path(self.place)
        if self._file is None:
            self._open(path)
        found = self._more()
        assert self._file is not None
        if not found and stat.S_ISREG(os.fstat(self._file).st_mode) and self._moved(path):
            self.close()  # Rotated, and read to its end: what is there now is another file, from its beginning.
            self._at, left, self._rest = {}, self._rest, b""
            self._open(path, 0)
            found = ([left.decode("utf-8", "replace")] if left else []) + self._more()
        return found

    def _open(self, path: Path, offset: int | None = None) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        status = os.fstat(self._file)
        if stat.S_ISDIR(status.st_mode):
            self.close()
            raise IsADirectoryError(errno.EISDIR, "a log was wanted", str(path))
        if not stat.S_ISREG(status.st_mode):
            self._at = {}
            return
        if offset is None and self._begun and self._at.get("mark") is not None:
            offset = self._resumed(path, status)
        if offset is None:
            offset = status.st_size if not self._begun else 0
        self._begun = True
        self._at = {"offset": offset, "inode": status.st_ino, "mark": self._mark()}

    def _resumed(self, path: Path, status: os.stat_result) -> int | None:
        """Where to go on in the file that is there; in the one it was renamed to first, where that is found."""
        assert self._file is not None
        if (
            self._at.get("inode") == status.st_ino
            and self._at["offset"] <= status.st_size
            and self._mark().startswith(self._at["mark"])
        ):
            return int(self._at["offset"])
        for other in sorted(path.parent.glob(f"{path.name}*")):
            if other != path and other.is_file() and other.stat().st_ino == self._at.get("inode"):
                os.close(self._file)
                self._file = os.open(other, os.O_RDONLY | os.O_NONBLOCK)
                return int(self._at["offset"])
        return None

    def _mark(self) -> str:
        """
        What a file begins with, as a digest of each power of two of its first bytes, so that one that grew is known
        again.
        """
        assert self._file is not None
        head = os.pread(self._file, MARK_BYTES, 0)
        return "".join(hashlib.sha256(head[:n]).hexdigest()[:8] for n in (16, 64, 256) if len(head) >= n)

    def _more(self) -> list[str]:
        assert self._file is not None
        regular = stat.S_ISREG(os.fstat(self._file).st_mode)
        if regular:
            size, mark = os.fstat(self._file).st_size, self._mark()
            if size < self._at["offset"] or not mark.startswith(self._at["mark"]):
                self._at["offset"], self._rest = 0, b""  # Cut in place: it begins anew.
            self._at["mark"] = mark
            found = os.pread(self._file, MOST_BYTES, self._at["offset"])
        else:
            try:
                found = os.read(self._file, MOST_BYTES)
            except BlockingIOError:
                found = b""
        *whole, rest = (self._rest + found).split(b"\n")
        if len(rest) > LONGEST_LINE:
            whole.append(rest)  # A line without an end is taken as it is, lest it be held for ever.
            rest = b""
        self._rest = rest
        if regular:
            self._at["offset"] += len(found)
        return [line[:LONGEST_LINE].decode("utf-8", "replace") for line in whole]

    def _moved(self, path: Path) -> bool:
        assert self._file is not None
        try:
            there = path.stat()
        except FileNotFoundError:
            return False  # Between the renaming and the new file: the old one is still written to.
        return there.st_ino != os.fstat(self._file).st_ino

    async def _journal(self) -> list[str]:
        unit = self.place.removeprefix(JOURNAL)
        after = (
            ["--after-cursor", self._at["journal"], "-n", str(MOST_LINES)] if self._at.get("journal") else ["-n", "0"]
        )
        command = ["journalctl", "-u", unit, "-o", "cat", "--show-cursor", "--no-pager", "-q", *after]
        running = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, told = await running.communicate()
        if running.returncode:
            raise OSError(errno.EIO, formatting.single_line(told.decode("utf-8", "replace"), 120), self.place)
        lines = out.decode("utf-8", "replace").splitlines()
        if lines and lines[-1].startswith("-- cursor: "):
            self._at["journal"] = lines.pop().removeprefix("-- cursor: ")
        return [line[:LONGEST_LINE] for line in lines]
