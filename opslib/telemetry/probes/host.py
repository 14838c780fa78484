"""
Look at the machine of the app and its process: name resolution, connections, ports, memory.

Whatever is looked at there is looked at through one configured prefix (``ssh HOST``, or nothing for this machine), with
commands that only look. Without one nobody can look but a person, and it is unknown.
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

LOOK_S = 8.0
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class HostLook(NamedTuple):
    """
    One thing looked at on the app's host.

    Attributes:
        name: What was looked at.
        ok: Was it well? None is unknown.
        told: What was seen, in one line.
        command: The command, for a person to run.
    """

    name: str
    ok: bool | None
    told: str
    command: str


class _Wanted(NamedTuple):
    """What is to be looked at: a command, and how its exit code and output read."""

    name: str
    command: tuple[str, ...]
    read: Callable[[int, str], tuple[bool | None, str]]


def _shell(script: str) -> tuple[str, ...]:
    return ("sh", "-c", script)


def _wanted(settings: Settings) -> list[_Wanted]:
    """Everything that is looked at there, by the addresses of the settings."""
    found = []
    for name in ("massive", "tradier"):
        url = urlsplit(getattr(settings, f"{name}_url"))
        if not url.hostname:
            continue
        host, port = url.hostname, url.port or _PORTS[url.scheme]
        found.append(
            _Wanted(
                f"DNS of {name}",
                ("getent", "hosts", host),
                lambda code, out: (code == 0, out.split()[0] if code == 0 and out.split() else "does not resolve"),
            )
        )
        connect = f"exec 3<>/dev/tcp/{host}/{port}"
        found.append(
            _Wanted(
                f"TCP to {name}",
                ("timeout", "4", "bash", "-c", connect),
                lambda code, _: (code == 0, {0: "connects", 124: "no answer"}.get(code, "refused or unreachable")),
            )
        )
        if url.scheme == "https":
            script = (
                f"timeout 5 openssl s_client -connect {shlex.quote(f'{host}:{port}')} -servername "
                f"{shlex.quote(host)} -verify_return_error </dev/null 2>&1 | grep -m1 -E 'Verif(y|ication)"
                f"|verify error'"
            )
            found.append(_Wanted(f"TLS of {name}", _shell(script), _tls))
        found.append(
            _Wanted(
                f"route to {name}",
                _shell(f"ip route get $(getent ahostsv4 {shlex.quote(host)} | head -1 | cut -d' ' -f1)"),
                lambda code, out: (code == 0 or None, formatting.single_line(out, 80) if code == 0 else "not told"),
            )
        )
    if port := urlsplit(settings.app_ws_url or settings.app_url).port:
        found.append(_Wanted(f"port {port} listening", ("ss", "-ltn"), lambda code, out: _listening(code, out, port)))
    found.append(_Wanted("free memory", ("free", "-b"), _memory))
    found.append(_Wanted("largest five processes", ("ps", "-eo", "rss,comm", "--sort=-rss"), _largest))
    return found


def _tls(code: int, out: str) -> tuple[bool | None, str]:
    if "OK" in out:
        return True, "certificate trusted"
    return (False, formatting.single_line(out.strip(), 80)) if "error" in out.lower() else (None, "not told")


def _listening(code: int, out: str, port: int) -> tuple[bool | None, str]:
    if code:
        return None, "not told"
    there = any(re.search(rf"[:.\]]{port}\s", line) for line in out.splitlines())
    return there, "somebody listens" if there else "nobody listens"


def _memory(code: int, out: str) -> tuple[bool | None, str]:
    line = next((line.split() for line in out.splitlines() if line.startswith("Mem:")), [])
    if code or len(line) < 7:
        return None, "not told"
    return True, f"{int(line[6]) / 1e6:,.0f} MB of {int(line[1]) / 1e6:,.0f} MB available"


def _largest(code: int, out: str) -> tuple[bool | None, str]:
    rows = [line.split(None, 1) for line in out.splitlines()[1:6]]
    if code or not rows:
        return None, "not told"
    return True, ", ".join(f"{formatting.single_line(name, 20)} {int(kib) / 1024:,.0f} MiB" for kib, name in rows)


def commands(settings: Settings, about: str = "") -> list[str]:
    """What would a person run on the app's host, of one matter or of all?"""
    return [shlex.join(wanted.command) for wanted in _wanted(settings) if about in wanted.name]


async def looks(settings: Settings) -> list[HostLook]:
    """
    What is to be seen on the app's host?

    Where no prefix is configured, each is unknown, with the command for a person.
    """
    return list(await asyncio.gather(*(_look(wanted, settings) for wanted in _wanted(settings))))


async def _look(wanted: _Wanted, settings: Settings) -> HostLook:
    command = _through(settings.host_prefix or (), wanted.command)
    told = shlex.join(command)
    if settings.host_prefix is None:
        return HostLook(wanted.name, None, "nobody was asked: no host_prefix in settings.toml", told)
    try:
        running = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as problem:
        return HostLook(wanted.name, None, f"cannot be run ({problem.__class__.__name__})", told)
    try:
        async with asyncio.timeout(LOOK_S):
            out, _ = await running.communicate()
    except TimeoutError:
        running.kill()
        await running.wait()
        return HostLook(wanted.name, None, f"gave no answer within {LOOK_S:g} s", told)
    code = running.returncode or 0
    if code in (126, 127, 255):  # No such command there, or no way to get there: nothing was seen.
        return HostLook(wanted.name, None, "the command is not there, or the host cannot be reached", told)
    ok, seen = wanted.read(code, settings.redact(out.decode("utf-8", "replace")))
    return HostLook(wanted.name, ok, seen, told)


def _through(prefix: Sequence[str], command: Sequence[str]) -> list[str]:
    """A command as it is run through a prefix; ssh joins its words by spaces, so they are quoted for it."""
    if not prefix:
        return list(command)
    return [*prefix, *(shlex.quote(word) for word in command)] if Path(prefix[0]).name == "ssh" else [*prefix, *command]


def process_of(told: str) -> int | None:
    """
    Which process is meant: a number, or the file that holds it? None where the file is not there or holds none.

    A file is read each time, since an app that is restarted gets another number.
    """
    if told.isdigit():
        return int(told)
    try:
        found = Path(told).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(found) if found.isdigit() else None


def process(settings: Settings, now: datetime) -> Sample:
    """
    How does the app's process stand? Its value is the memory it holds, in MB.

    The moment it was started is kept with it: another one is a restart, whoever did it.
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
            at_us, "process", "app", "absent", detail=json.dumps({"pid": pid, "why": "we may not look at it"})
        )
    return Sample(at_us, "process", "app", "ok", None, round(memory_mb, 2), detail=json.dumps(detail, sort_keys=True))
