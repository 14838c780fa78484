"""
Read new lines of the app's log, and classify them.

The app writes to stdout, without times or levels. The file, pipe or journal that receives it is read from a cursor, a
limited amount at a time, across rotation and truncation, without blocking.
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

MOST_BYTES = 1 << 20  # Read at one time; the rest is read the next time.
MOST_LINES = 20_000
LONGEST_LINE = 16_384
MARK_BYTES = 256  # This much of a file's beginning identifies the file.
JOURNAL = "journal:"


class Kind(NamedTuple):
    """One kind of line: its name, its pattern, and whether it is an error."""

    name: str
    pattern: re.Pattern[str]
    error: bool


def _kind(name: str, pattern: str, error: bool = True) -> Kind:
    return Kind(name, re.compile(pattern), error)


# The first match is the line's kind. The patterns are taken from the app's real output.
_PROVIDER = (
    r"(?:massive|tradier)\]?(?: (?:api|proxy|request|error|failed|returned|responded|status|http|with|code))*:? *\(?"
)
KINDS = (
    _kind(
        "configured",
        r"(?i)^(\[[^\]]+\] )?\W*\w*_(API_KEY|TOKEN|URL)\b.*(present|set|loaded|missing|✓|true|length)",
        error=False,
    ),
    # Our probes, or those of a load balancer.
    _kind(
        "access_looks", r"^[A-Z]{3,7} /(ping|api/(health|metrics|ws-token|market/status))\b\S* \d\d\d\b", error=False
    ),
    _kind(
        "access_proxy_5xx", r"^[A-Z]{3,7} /api/massive\S* 5\d\d\b", error=False
    ),  # Its error message is counted instead.
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
# Phrases that report no error, or mention errors in general; they are removed before a line without a level is
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
# The duration of a failed call to Massive.
_GAVE_UP = re.compile(r"^[A-Z]{3,7} /api/massive\S* 5\d\d .* ([\d.]+) ms$")
MOST_OF_ENTRY = 2000  # Further lines of an entry are not used to classify it.


class LogSummary(NamedTuple):
    """
    The summary of a part of a log.

    Attributes:
        lines: The number of lines.
        kinds: The number of entries of each kind that occurs.
        errors: The number of errors; a stack trace is part of its message.
        newest: The newest line of each kind of error, shortened, without secrets.
        waited_ms: The shortest timeout that the app reports; None if it reports none.
    """

    lines: int
    kinds: dict[str, int]
    errors: int
    newest: dict[str, str]
    waited_ms: int | None

    def as_json(self) -> dict[str, Any]:
        """Return the detail of a sample."""
        return {"lines": self.lines, "kinds": self.kinds, "newest": self.newest} | (
            {"waited_ms": self.waited_ms} if self.waited_ms is not None else {}
        )


class Entry:
    """
    One entry of a log: a line and its continuation lines, such as a stack trace.

    Attributes:
        first: Its first line.
        count: The number of its lines.
        kind: The name of its kind; empty if it is of no kind.
        is_error: Whether it is an error.
    """

    def __init__(self, first: LogLine):
        self.first, self.count, self.last = first, 1, first
        self.kind, self.is_error = _classified(first)
        self._in_traceback = bool(_TRACEBACK.match(first.text))

    def continued_by(self, line: LogLine, after: LogLine | None) -> bool:
        """Return whether a line belongs to this entry; `after` is the line below it, None if not known yet."""
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
        """Add a continuation line."""
        self.count, self.last = self.count + 1, line
        if _TRACEBACK.match(line.text):
            self._in_traceback = True
        elif self._in_traceback and line.bare and not line.continues:
            self._in_traceback = False
        if self.count > MOST_OF_ENTRY:
            return
        if not self.kind and self.first.text == "{" and (found := _DUMPED_LEVEL.match(line.text)):
            self.kind, self.is_error = _classified(read_line(json.dumps({"level": found[1], "msg": ""})))
        elif self.kind == "other_error":  # The stack trace names the cause more precisely.
            self.kind = next(
                (
                    k.name
                    for k in KINDS
                    if k.name in ("timeout", "dns", "refused", "tls") and k.pattern.search(line.text)
                ),
                self.kind,
            )


def _classified(line: LogLine) -> tuple[str, bool]:
    """Return the kind of a line, and whether it is an error: by its level if it has one, else by its text."""
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
    Group lines into entries.

    Continuation lines without a first line, as at the beginning of a rotated file, form an entry of no kind.
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
    """Builds the summary of a log from its entries."""

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

    def summarise(self, lines: int) -> LogSummary:
        """Return the summary, for a number of lines."""
        # If the app reports timeouts without their duration, the duration of the failed calls counts.
        waited = self._waited or (self._took if self._kinds["timeout"] else [])
        return LogSummary(
            lines,
            dict(sorted((k, n) for k, n in self._kinds.items() if n)),
            self._errors,
            self._newest,
            min(waited) if waited else None,
        )


def read(lines: Iterable[str]) -> LogSummary:
    """Summarise lines of the log."""
    count, found = 0, Summary()

    def counted() -> Iterator[LogLine]:
        nonlocal count
        for line in lines:
            if line.strip():
                count += 1
                yield read_line(line)

    for entry in entries(counted()):
        found.add(entry)
    return found.summarise(count)


class Log:
    """
    One log and the position up to which it was read.

    Args:
        place: A file, a named pipe, or ``journal:UNIT``.
        cursor: An earlier value of `cursor`; empty starts at the current end of the log.
    """

    def __init__(self, place: str, cursor: str = ""):
        self.place = place
        self._file: int | None = None
        self._at = json.loads(cursor) if cursor else {}
        self._begun = bool(cursor)
        self._rest = b""

    @property
    def cursor(self) -> str:
        """The position up to which it was read, for the next process."""
        whole = self._at | ({"offset": self._at["offset"] - len(self._rest)} if "offset" in self._at else {})
        return json.dumps(whole, sort_keys=True)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    async def new(self) -> list[str]:
        """
        Return the complete lines since the last call, at most `MOST_BYTES`.

        Raises:
            OSError: The log does not exist, or cannot be read.
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
            self.close()  # Rotated, and read to its end: continue with the new file from its beginning.
            self._at, left, self._rest = {}, self._rest, b""
            self._open(path, 0)
            found = ([left.decode("utf-8", "replace")] if left else []) + self._more()
        return found

    def _open(self, path: Path, offset: int | None = None) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        status = os.fstat(self._file)
        if stat.S_ISDIR(status.st_mode):
            self.close()
            raise IsADirectoryError(errno.EISDIR, "it is a directory; expected a log file", str(path))
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
        """Return the offset to resume from, in the current file or in the renamed one; None if neither is found."""
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
        Return digests of the first 16, 64 and 256 bytes, by which a file that grew is recognised.
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
                self._at["offset"], self._rest = 0, b""  # Truncated in place: start again at its beginning.
            self._at["mark"] = mark
            found = os.pread(self._file, MOST_BYTES, self._at["offset"])
        else:
            try:
                found = os.read(self._file, MOST_BYTES)
            except BlockingIOError:
                found = b""
        *whole, rest = (self._rest + found).split(b"\n")
        if len(rest) > LONGEST_LINE:
            whole.append(rest)  # A line that is too long is returned without its end, so that it is not held forever.
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
            return False  # Renamed, and no new file yet: the old one is still written to.
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
        out, errors = await running.communicate()
        if running.returncode:
            raise OSError(errno.EIO, formatting.single_line(errors.decode("utf-8", "replace"), 120), self.place)
        lines = out.decode("utf-8", "replace").splitlines()
        if lines and lines[-1].startswith("-- cursor: "):
            self._at["journal"] = lines.pop().removeprefix("-- cursor: ")
        return [line[:LONGEST_LINE] for line in lines]
