"""
Store the lines that a log drain posts, as the same samples that reading the app's log gives.

A body holds lines, JSON (an object, a list, or one object per line), or syslog messages, each after its length (RFC
6587) or on a line of its own. A line counts at its own time if that has a zone, else at the time of arrival. Repeated
lines are stored once if they can be recognised: by a time with a fraction of a second, or by a post with a name or a
time. Lines without any time cannot be recognised, so they count each time.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

from opslib.foundation import clock, formatting
from opslib.foundation.errors import BadLogs
from opslib.telemetry.probes import app_log, log_lines
from opslib.telemetry.probes.app_log import Entry, Summary
from opslib.telemetry.probes.log_lines import LogLine
from opslib.telemetry.probes.store import Sample, SampleStore

LARGEST = 4 * 1024 * 1024
MOST_LINES = 20_000
# Heroku's format: syslog after its length, without structured data; its priority is not the app's level.
LOGPLEX = "application/logplex-1"
AS_JSON = ("application/json", "application/x-ndjson", "application/ndjson", "application/jsonl")
TYPES = ("text/plain", *AS_JSON, LOGPLEX)
SAMPLE_US = 5_000_000
RETRIED_US = 600_000_000  # A repeated post is recognised for this long.
OLDEST_US = 86_400_000_000  # Older lines are not compared with stored ones.
DIGEST_BYTES = 6
_COUNTED = re.compile(rb"\d{1,7} <\d{1,3}>1 ")
_LENGTH = re.compile(rb"(\d{1,7}) ")
_LOGPLEX = re.compile(r"<\d{1,3}>1 (\S+) \S+ (\S+) (\S+) \S+ ?")
_PRIORITY = re.compile(r"<(\d{1,3})>")
_SYSLOG = re.compile(_LOGPLEX.pattern + r"(?:-|(?:\[(?:[^\]\\]|\\.)*\])+)(?: |$)")


class Batch(NamedTuple):
    """
    The content of one post.

    Attributes:
        lines: The log lines, without line ends.
        name: Identifies the post if it is sent again; empty if it cannot be identified.
    """

    lines: list[str]
    name: str


def read(body: bytes, kind: str, frame: str = "") -> Batch:
    """
    Read the body of a post.

    Args:
        kind: Its content type, one of `TYPES`.
        frame: The sender's name for this post, which stays the same if it sends the post again.

    Raises:
        BadLogs: It does not match its content type, or holds more than `MOST_LINES` lines.
    """
    if kind == LOGPLEX or _COUNTED.match(body):
        found = [
            line
            for message in _messages(body)
            for line in (_tagged(_LOGPLEX, message) if kind == LOGPLEX else message).splitlines()
        ]
    elif kind in AS_JSON:
        found = _of_json(body)
    else:
        found = body.decode("utf-8", "replace").splitlines()
    lines = [_without_default(line[: app_log.LONGEST_LINE].replace("\ufeff", "")) for line in found if line.strip()]
    if len(lines) > MOST_LINES:
        raise BadLogs(
            f"the post holds {len(lines):,} lines; at most {MOST_LINES:,} are accepted. Send them in several posts."
        )
    return Batch(lines, f"frame {frame}" if frame else sha256(body).hexdigest())


def _messages(body: bytes) -> Iterator[str]:
    """Yield the syslog messages of a body, each after its length in bytes."""
    at = 0
    while at < len(body):
        if body[at : at + 1] in b"\r\n":  # Some senders add a line end that they do not count.
            at += 1
            continue
        length = _LENGTH.match(body, at)
        end = length.end() + int(length[1]) if length else 0
        if length is None or end > len(body):
            found = formatting.single_line(body[at : at + 40].decode("utf-8", "replace"))
            raise BadLogs(f"at byte {at:,}: expected a message after its length in bytes (RFC 6587), found {found!r}.")
        yield body[length.end() : end].decode("utf-8", "replace").rstrip("\r\n")
        at = end


def _tagged(form: re.Pattern[str], message: str) -> str:
    """
    Return a syslog message without its priority: time, app[process] and text; other messages unchanged.
    """
    found = form.match(message)
    return f"{found[1]} {found[2]}[{found[3]}]: {message[found.end() :]}" if found else message


def _without_default(line: str) -> str:
    """
    Remove the default priority (severity 6) that a host gives to everything on stdout.

    The app itself stated no level.
    """
    found = _PRIORITY.match(line)
    if found is None or int(found[1]) % 8 != 6:
        return line
    return _tagged(_SYSLOG, line) if _SYSLOG.match(line) else line[found.end() :]


def _of_json(body: bytes) -> list[str]:
    """
    Return each entry of a JSON body on a line of its own; broken lines among valid ones stay unchanged.
    """
    try:
        whole = json.loads(body)
    except RecursionError:
        raise BadLogs(
            "the JSON is nested too deeply; expected an object, a list of objects or strings, or one per line."
        ) from None
    except ValueError:
        lines = body.decode("utf-8", "replace").splitlines()
        if not any(map(_is_json, lines)):
            raise BadLogs(
                f"no line is JSON: expected an object, a list, or one object per line, found "
                f"{formatting.single_line(lines[0] if lines else '', 60)!r}. Send plain lines as text/plain."
            ) from None
        return lines
    entries = whole if isinstance(whole, list) else [whole]
    if wrong := next((entry for entry in entries if not isinstance(entry, dict | str)), None):
        raise BadLogs(f"an entry is {formatting.single_line(json.dumps(wrong), 60)}; expected an object or a string.")
    return [
        line
        for entry in entries
        for line in (entry.splitlines() if isinstance(entry, str) else [json.dumps(entry, ensure_ascii=False)])
    ]


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict | str)
    except (ValueError, RecursionError):
        return False


class _Placed(NamedTuple):
    """
    An entry of the log with its time.

    Attributes:
        digests: Identify its lines if they are sent again; None for a line that cannot be identified.
    """

    entry: Entry
    at_us: int
    digests: list[bytes | None]


def _placed(batch: Batch, now_us: int) -> Iterator[_Placed]:
    parsed = [log_lines.read(line) for line in batch.lines]
    named = (
        batch.name if batch.name.startswith("frame ") or any(_stated_us(line) is not None for line in parsed) else ""
    )
    begins = 0
    for entry in app_log.entries(iter(parsed)):
        at_us = _stated_us(entry.first)
        head = batch.lines[begins] if at_us is not None and at_us % 1_000_000 else ""
        digests: list[bytes | None] = []
        for n in range(begins, begins + entry.count):
            if head:
                key = f"{head}\0{n - begins}\0{batch.lines[n]}"
            elif named:
                key = f"{named}\0{n}"
            else:
                key = ""
            digests.append(sha256(key.encode("utf-8", "replace")).digest()[:DIGEST_BYTES] if key else None)
        yield _Placed(entry, now_us if at_us is None else min(at_us, now_us), digests)
        begins += entry.count


def _stated_us(line: LogLine) -> int | None:
    """Return the time of a line, microseconds; None if it has no zone or is not valid."""
    return clock.micros(line.at) if line.at is not None and line.at.tzinfo is not None and line.at.year > 1970 else None


def keep(samples: SampleStore, batch: Batch, now: datetime, redact: Callable[[str], str]) -> int:
    """
    Store a batch in samples of 5 seconds, and return the number of new lines.

    Args:
        now: The time of arrival.
        redact: Removes secrets from stored texts.

    Raises:
        StoreError: Nothing was stored.
    """
    if not batch.lines:
        return 0
    now_us = clock.micros(now)
    buckets: dict[int, list[_Placed]] = {}
    for placed in _placed(batch, now_us):
        buckets.setdefault(placed.at_us // SAMPLE_US * SAMPLE_US, []).append(placed)
    accepted = 0

    def made(kept: list[Sample]) -> list[Sample]:
        nonlocal accepted
        known = Counter(digest for sample in kept for digest in _digests(sample.details().get("drained", "")))
        new = [
            sample for at_us, entries in sorted(buckets.items()) if (sample := _sample(at_us, entries, known, redact))
        ]
        accepted = sum(sample.details()["lines"] for sample in new)
        return new

    since_us = max(now_us - OLDEST_US, min(now_us - RETRIED_US, *buckets))
    samples.keep_imported("log", since_us - SAMPLE_US, now_us, made)
    return accepted


def _sample(at_us: int, entries: list[_Placed], known: Counter[bytes], redact: Callable[[str], str]) -> Sample | None:
    """Return a sample of the new lines of 5 seconds; None if there are none."""
    found, lines, digests = Summary(), 0, list[bytes]()
    for entry, _, own in entries:
        new = [digest for digest in own if digest is None or not known[digest]]
        if len(new) < len(own):
            known.subtract(digest for digest in own if digest is not None and known[digest])
        if own[0] in new:
            found.add(entry)
        lines += len(new)
        digests += [digest for digest in new if digest is not None]
    if not lines:
        return None
    summary = found.summarise(lines)
    detail = summary.as_json() | {"drained": base64.b64encode(b"".join(digests)).decode()}
    return Sample(
        at_us,
        "log",
        "app",
        "ok",
        None,
        float(summary.errors),
        detail=redact(json.dumps(detail, ensure_ascii=False, sort_keys=True)),
    )


def _digests(encoded: str) -> Iterator[bytes]:
    whole = base64.b64decode(encoded)
    return (whole[i : i + DIGEST_BYTES] for i in range(0, len(whole), DIGEST_BYTES))
