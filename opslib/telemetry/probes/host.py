"""
Check the app's host and process: name resolution, connections, ports, memory.

The commands are read-only and run through one configured prefix (``ssh HOST``, or empty for this machine). Without a
prefix the results are unknown, and a person has to run the commands.
"""

import asyncio
import re
import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from opslib.foundation import clock, formatting
from opslib.foundation.config.settings import Settings
from opslib.telemetry.probes.store import Sample

TIMEOUT_S = 8.0
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class HostCheck(NamedTuple):
    """
    The result of one check on the app's host.

    Attributes:
        name: What was checked.
        ok: Whether it passed; None is unknown.
        result: The result in one line.
        command: The command, for a person to run.
    """

    name: str
    ok: bool | None
    result: str
    command: str


class _Check(NamedTuple):
    """One check: a command, and how to read its exit code and output."""

    name: str
    command: tuple[str, ...]
    read: Callable[[int, str], tuple[bool | None, str]]


def _shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def _checks(settings: Settings) -> list[_Check]:
    """List all checks, from the addresses in the settings."""
    found = []
    for name in ("massive", "tradier"):
        url = urlsplit(getattr(settings, f"{name}_url"))
        if not url.hostname:
            continue
        host, port = url.hostname, url.port or _PORTS[url.scheme]
        found.append(
            _Check(
                f"DNS of {name}",
                ("getent", "hosts", host),
                lambda code, out: (code == 0, out.split()[0] if code == 0 and out.split() else "does not resolve"),
            )
        )
        connect = f"exec 3<>/dev/tcp/{host}/{port}"
        found.append(
            _Check(
                f"TCP to {name}",
                ("timeout", "4", "bash", "-c", connect),
                lambda code, _: (code == 0, {0: "connects", 124: "no response"}.get(code, "refused or unreachable")),
            )
        )
        if url.scheme == "https":
            script = (
                f"timeout 5 openssl s_client -connect {shlex.quote(f'{host}:{port}')} -servername "
                f"{shlex.quote(host)} -verify_return_error </dev/null 2>&1 | grep -m1 -E 'Verif(y|ication)"
                f"|verify error'"
            )
            found.append(_Check(f"TLS of {name}", _shell(script), _tls))
        found.append(
            _Check(
                f"route to {name}",
                _shell(f"ip route get $(getent ahostsv4 {shlex.quote(host)} | head -1 | cut -d' ' -f1)"),
                lambda code, out: (code == 0 or None, formatting.single_line(out, 80) if code == 0 else "no result"),
            )
        )
    if port := urlsplit(settings.app_ws_url or settings.app_url).port:
        found.append(_Check(f"port {port} listening", ("ss", "-ltn"), lambda code, out: _listening(code, out, port)))
    found.append(_Check("free memory", ("free", "-b"), _memory))
    found.append(_Check("largest five processes", ("ps", "-eo", "rss,comm", "--sort=-rss"), _largest))
    return found


def _tls(code: int, out: str) -> tuple[bool | None, str]:
    if "OK" in out:
        return True, "certificate trusted"
    return (False, formatting.single_line(out.strip(), 80)) if "error" in out.lower() else (None, "no result")


def _listening(code: int, out: str, port: int) -> tuple[bool | None, str]:
    if code:
        return None, "no result"
    there = any(re.search(rf"[:.\]]{port}\s", line) for line in out.splitlines())
    return there, "a process listens" if there else "no process listens"


def _memory(code: int, out: str) -> tuple[bool | None, str]:
    line = next((line.split() for line in out.splitlines() if line.startswith("Mem:")), [])
    if code or len(line) < 7:
        return None, "no result"
    return True, f"{int(line[6]) / 1e6:,.0f} MB of {int(line[1]) / 1e6:,.0f} MB available"


def _largest(code: int, out: str) -> tuple[bool | None, str]:
    rows = [line.split(None, 1) for line in out.splitlines()[1:6]]
    if code or not rows:
        return None, "no result"
    return True, ", ".join(f"{formatting.single_line(name, 20)} {int(kib) / 1024:,.0f} MiB" for kib, name in rows)


def commands(settings: Settings, about: str = "") -> list[str]:
    """Return the commands for a person to run on the app's host, for one subject or for all."""
    return [shlex.join(check.command) for check in _checks(settings) if about in check.name]


async def run_checks(settings: Settings) -> list[HostCheck]:
    """
    Run all checks on the app's host.

    Without a configured prefix each is unknown, with the command for a person.
    """
    return list(await asyncio.gather(*(_run_check(check, settings) for check in _checks(settings))))


async def _run_check(check: _Check, settings: Settings) -> HostCheck:
    command = _through(settings.host_prefix or (), check.command)
    shown = shlex.join(command)
    if settings.host_prefix is None:
        return HostCheck(check.name, None, "not checked: host_prefix is not set in settings.toml", shown)
    try:
        running = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as problem:
        return HostCheck(check.name, None, f"the command could not be run ({problem.__class__.__name__})", shown)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, _ = await running.communicate()
    except TimeoutError:
        running.kill()
        await running.wait()
        return HostCheck(check.name, None, f"no result within {TIMEOUT_S:g} s", shown)
    code = running.returncode or 0
    if code in (126, 127, 255):  # No such command, or no connection to the host.
        return HostCheck(check.name, None, "the command does not exist, or the host cannot be reached", shown)
    ok, found = check.read(code, settings.redact(out.decode("utf-8", "replace")))
    return HostCheck(check.name, ok, found, shown)


def _through(prefix: Sequence[str], command: Sequence[str]) -> list[str]:
    """Put the prefix before a command; its words are quoted for ssh, which joins them by spaces."""
    if not prefix:
        return list(command)
    return [*prefix, *(shlex.quote(word) for word in command)] if Path(prefix[0]).name == "ssh" else [*prefix, *command]


def process_of(given: str) -> int | None:
    """
    Return the process id: a number, or the content of a PID file; None if the file is missing or holds none.

    The file is read each time, since a restarted app gets another id.
    """
    if given.isdigit():
        return int(given)
    try:
        found = Path(given).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(found) if found.isdigit() else None


def process(settings: Settings, now: datetime) -> Sample:
    """
    Probe the app's process; the value of the sample is its memory in MB.

    Its start time is stored too: another start time is a restart.
    """
    import json

    import psutil

    pid = process_of(settings.app_pid)
    at_us = clock.micros(now)
    if pid is None:
        return Sample(
            at_us,
            "process",
            "app",
            "absent" if not settings.app_pid.isdigit() and not Path(settings.app_pid).exists() else "gone",
        )
    try:
        found = psutil.Process(pid)
        with found.oneshot():
            if found.status() == psutil.STATUS_ZOMBIE:
                raise psutil.NoSuchProcess(pid)
            detail = {
                "pid": pid,
                "born": round(found.create_time(), 2),
                "threads": found.num_threads(),
                "cpu_s": round(sum(found.cpu_times()[:2]), 2),
            }
            memory_mb = found.memory_info().rss / 1e6
    except psutil.NoSuchProcess:
        return Sample(at_us, "process", "app", "gone", detail=json.dumps({"pid": pid}))
    except psutil.AccessDenied:
        return Sample(
            at_us,
            "process",
            "app",
            "absent",
            detail=json.dumps({"pid": pid, "why": "no permission to read the process"}),
        )
    return Sample(at_us, "process", "app", "ok", None, round(memory_mb, 2), detail=json.dumps(detail, sort_keys=True))
