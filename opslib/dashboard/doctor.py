"""Check everything that ops depends on once, and name the setting to change."""

import asyncio
import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from opslib.alerting.notifications.store import SENT, NotificationStore
from opslib.alerting.verdicts import EXIT_CODES, worst
from opslib.foundation import clock, formatting, market_calendar
from opslib.foundation.config import contacts
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import FALLBACKS, Settings
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.telemetry.clock_skew import compare
from opslib.telemetry.pages import refused_posts
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes import host
from opslib.telemetry.probes.history import IS_THERE
from opslib.telemetry.probes.outcomes import OURS, OUTCOMES, UNCLEAR
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample, SampleStore

CONNECT = Path(__file__).parents[1] / "docs" / "connect.md"  # Explains how to connect the app's page.
LEAST_FREE_MB = 500
NEEDED = ("jupyterlab", "papermill", "ipykernel", "nbconvert", "pandas", "matplotlib", "httpx", "websockets")
_SETTING = {"massive": "OPS_MASSIVE_URL", "tradier": "OPS_TRADIER_URL", "app": "OPS_APP_URL"}
_WORLD = (
    ("app_url", "OPS_APP_URL", "the app's server"),
    ("app_ws_url", "OPS_APP_WS_URL", "the app's WebSocket"),
    ("app_log", "OPS_APP_LOG", "the app's log"),
    ("app_pid", "OPS_APP_PID", "the app's process"),
    ("massive_url", "OPS_MASSIVE_URL", "Massive"),
    ("tradier_url", "OPS_TRADIER_URL", "Tradier"),
    ("symbols", "OPS_SYMBOLS", "chains"),
)
# The guide's checks that are not possible while a setting is missing, and what remains.
_WITHOUT = {
    "OPS_APP_URL": "the API health endpoint, /api/metrics, the response time of the app's server, its "
    "restarts, its latency after a deployment",
    "OPS_APP_WS_URL": "the WebSocket's round trip, its close code, whether it opens for new clients; the "
    "page's own report of its connection remains",
    "OPS_APP_LOG": "the application's log: errors by kind, time-outs and how long the app waits, why its "
    "sockets closed; the page's own error count remains. If the log is not a file on this machine, let the host's "
    "log drain send it: POST /api/logs of ops serve, with the ingest key",
    "OPS_APP_PID": "the server's process: whether it runs, its memory and whether that grows, its restarts by "
    "process start; the server's responses and the page's memory remain",
    "OPS_MASSIVE_URL": "Massive's status, response time, key, plan and clock, and its chains; the page's counts of its "
    "requests remain",
    "OPS_TRADIER_URL": "whether Tradier is available as the fallback, its response time, key and clock; the page's "
    "counts remain",
    "OPS_SYMBOLS": "daily validation with known symbols: whole chains, their Greeks and units, IV against "
    "earlier days; the page's own validations remain",
}
UNSET = "settings"
DRAINED_WITHIN = timedelta(hours=24)
REFUSED_WITHIN = timedelta(hours=24)
_TOKEN = {"massive": "OPS_MASSIVE_TOKEN", "tradier": "OPS_TRADIER_TOKEN"}
_CHECKS = {
    "liveness": "reachable (market clock)",
    "data": "option data (access and age)",
    "health": "server reachable (/api/health)",
    "metrics": "reports that it is monitored (/api/metrics)",
    "upstream": "upstream connection (/api/ws-health)",
    "socket": "WebSocket opens and responds",
    "log": "log readable",
    "process": "process running",
    "chain": "complete chain",
}


class Check(NamedTuple):
    """
    One check.

    Attributes:
        what: What was checked.
        verdict: ok, warning, critical, unknown; empty is not measured: shown, but not part of the verdict.
        result: What was found.
        advice: What to do; empty where nothing is to be done.
    """

    what: str
    verdict: str
    result: str
    advice: str = ""


@dataclass(frozen=True)
class Examination:
    """All checks of one run."""

    app: str
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """The worst verdict of all checks; where they are all ok but settings are missing, unknown."""
        measured = worst(c.verdict for c in self.checks if c.verdict and c.what != UNSET)
        return worst(c.verdict for c in self.checks if c.verdict) if measured == "ok" else measured

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown."""
        return EXIT_CODES[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """Return the checks as JSON."""
        return {
            "app": self.app,
            "verdict": self.verdict,
            "checks": [c._asdict() | {"verdict": c.verdict or "not measured"} for c in self.checks],
        }

    def __repr__(self) -> str:
        rows = [[c.verdict or "-", c.what, c.result] for c in self.checks]
        todo = [f"{c.what}: {c.advice}" for c in self.checks if c.advice and c.verdict not in ("ok", "")]
        more = [f"{c.what}: {c.advice}" for c in self.checks if c.advice and not c.verdict]
        parts = [f"{self.app}: {self.verdict}", formatting.table(["verdict", "check", "result"], rows)]
        parts += ["\nwhat to do", *(f"  {words}" for words in todo)] if todo else []
        parts += ["\nnot measured until set", *(f"  {words}" for words in more)] if more else []
        return "\n".join(parts)


def examine(settings: Settings, store: Database, rules: Rules) -> Examination:
    """Run every check once; no result is stored."""
    drained = _drained(settings, store)
    checks = [
        *_ours(settings, store, rules),
        *_completeness(settings, drained is not None),
        *asyncio.run(_world(settings, store, rules, drained is not None)),
        *([drained] if drained else []),
    ]
    return Examination(settings.app, tuple(checks))


def _unset(settings: Settings, drained: bool) -> list[tuple[str, str]]:
    """Return the settings that are not set, and what is not checked without them; a log drain needs no setting."""
    needless = {name for name, so in (("tradier_url", settings.fallback == "none"), ("app_log", drained)) if so}
    return [(setting, what) for name, setting, what in _WORLD if not getattr(settings, name) and name not in needless]


def _drained(settings: Settings, store: Database) -> Check | None:
    """Check the log drain; None where no line arrived within a day."""
    what, now = "app: log drain", clock.now()
    try:
        last = SampleStore(store, settings.app).last("log", clock.micros(now), None, "app")
    except OpsError as problem:
        return Check(what, "unknown", str(problem))
    if last is None or "drained" not in last.details() or last.ts_us < clock.micros(now - DRAINED_WITHIN):
        return None
    result = f"in use, the newest line at {formatting.moment(clock.instant(last.ts_us))}"
    if settings.app_log:
        return Check(
            what,
            "warning",
            f"{result}; OPS_APP_LOG is read too, so each error counts twice",
            "Unset OPS_APP_LOG, or stop the drain.",
        )
    return Check(what, "ok", result)


def _completeness(settings: Settings, from_afar: bool) -> list[Check]:
    """
    Check whether every setting is set; without one, the verdict is unknown, not ok.

    Args:
        from_afar: Whether the app's log arrives by a drain: then the app runs elsewhere, and its process cannot be
            checked here.
    """
    unset = [
        (setting, what) for setting, what in _unset(settings, from_afar) if not (from_afar and setting == "OPS_APP_PID")
    ]
    if not unset:
        return []
    return [
        Check(
            UNSET,
            "unknown",
            f"{len(unset)} of {len(_WORLD)} settings are missing, so these are not checked: "
            f"{', '.join(what for _, what in unset)}",
            f"Set {', '.join(setting for setting, _ in unset)}, in the environment or in settings.toml.",
        )
    ]


def _arriving(newest_us: int | None, rules: Rules) -> Check:
    """Check that snapshots arrive: in market hours the newest is no older than the rule `silence` allows."""
    what, now = "snapshots of the app's page", clock.now()
    if newest_us is None:
        return Check(what, "", "none received yet", f"let the app's page post to ops serve: {CONNECT}")
    at, limit_s = clock.instant(newest_us), float(dict(rules.rules["silence"].thresholds)["warning"])
    result = f"the newest was received at {formatting.moment(at)}"
    if (now - at).total_seconds() <= limit_s:
        return Check(what, "ok", result)
    if market_calendar.open_since(now) is None:
        return Check(what, "", f"{result}; none is expected while the market is closed")
    return Check(
        what,
        "warning",
        f"{result}, {formatting.duration((now - at).total_seconds())} ago; one was expected within "
        f"{formatting.duration(limit_s)}",
        f"Open the app's page and check that its posts are answered with 204: {CONNECT}, section about arriving posts.",
    )


def _refused(settings: Settings, store: Database) -> Check:
    """Check for posts that the receiver rejected within a day."""
    what, now = "posts rejected by the receiver", clock.now()
    try:
        found = refused_posts.read(store, settings.app, clock.micros(now - REFUSED_WITHIN), clock.micros(now))
    except OpsError as problem:
        return Check(what, "unknown", str(problem))
    if not found:
        return Check(what, "ok", "none in the last 24 hours")
    result = (
        f"{'; '.join(refused_posts.sentences(found))}; the newest at "
        f"{formatting.moment(clock.instant(found[0].last_us))}"
    )
    return Check(
        what,
        "warning",
        result,
        f"If the page or program is yours, fix what the reason names (add its origin to OPS_CORS_ORIGINS, its "
        f"name for this machine to OPS_ALLOWED_HOSTS, or give it the key), and restart ops serve. Otherwise ignore "
        f"it: no data was lost. Each reason is explained in {CONNECT}.",
    )


def _ours(settings: Settings, store: Database, rules: Rules) -> Iterator[Check]:
    """Check this machine: Python, packages, disk, database, rules and clock."""
    yield Check(
        "Python",
        "ok" if sys.version_info >= (3, 11) else "critical",
        sys.version.split()[0],
        "Install Python 3.11 or newer.",
    )
    lacking = [name for name in NEEDED if not _installed(name)]
    yield Check(
        "packages",
        "critical" if lacking else "ok",
        f"missing: {', '.join(lacking)}" if lacking else f"{len(NEEDED)} of {len(NEEDED)} installed",
        "Install again: pip install -e .",
    )
    free_mb = (
        shutil.disk_usage(settings.home if settings.home.exists() else settings.home.parent).free / 1e6
        if (settings.home.exists() or settings.home.parent.exists())
        else 0.0
    )
    yield Check(
        "disk space",
        "ok" if free_mb > LEAST_FREE_MB else "warning",
        f"{settings.home}, {free_mb:,.0f} MB free",
        "Free some space: without it the database cannot store snapshots, and they are lost.",
    )
    yield Check(
        "home directory",
        "ok" if os.access(settings.home if settings.home.exists() else settings.home.parent, os.W_OK) else "critical",
        str(settings.home),
        "Set OPS_HOME to a directory that can be written.",
    )
    try:
        last = SnapshotStore(store).last_snapshot(settings.app, 2**62, None)
        yield Check("database", "ok", "can be opened")
        yield _arriving(last.ts_us if last else None, rules)
    except OpsError as problem:
        yield Check("database", "critical", str(problem), "Check OPS_STORE_URL.")
    yield _notifications(settings, store)
    yield _refused(settings, store)
    yield Check("rules", "ok", f"{len(rules.rules)} rules, {rules.hash[:12]}")
    session = market_calendar.open_since(clock.now())
    yield Check("clock", "ok", f"{formatting.moment(clock.now())}, market {'open' if session else 'closed'}")


def _notifications(settings: Settings, store: Database) -> Check:
    """Check that notifications are configured and were delivered."""
    what = "notifications"
    try:
        found = contacts.read(settings)
        late = [d for d, _ in NotificationStore(store, settings.app).deliveries() if d.state != SENT and d.attempts]
    except OpsError as problem:
        return Check(what, "critical", str(problem), "Fix this setting: until then nobody is notified.")
    if set(found.channels) == {contacts.TERMINAL}:
        return Check(
            what,
            "",
            "shown only in the collector's terminal",
            "set roles and channels in settings.toml, then test them: ops notify --test",
        )
    ways = "; ".join(f"{name}: {', '.join(role.channels)}" for name, role in found.roles.items())
    if late:
        return Check(
            what,
            "warning",
            f"{ways}; {len(late)} notifications were not delivered at the first attempt, the newest by "
            f"{late[0].channel}: it {late[0].said}",
            "Run ops notify for details, and test the channel: ops notify --test.",
        )
    return Check(what, "ok", ways, "")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


async def _world(settings: Settings, store: Database, rules: Rules, drained: bool) -> list[Check]:
    """Run every probe once, and check what the settings name."""
    runner = ProbeRunner(settings, store, rules)
    try:
        samples = await runner.once(lambda name: name != "host")
    finally:
        runner.close()
    last = {(s.probe, s.subject): s for s in samples if s.last}
    found = [_probe_check(settings, sample) for sample in last.values()]
    found += _skews(last, rules) + _hours(last)
    found += [
        Check(what, "", f"{setting} is not set. Not measured without it: {_WITHOUT[setting]}", f"set {setting}")
        for setting, what in _unset(settings, drained)
    ]
    return found + await _host(settings)


def _probe_check(settings: Settings, sample: Sample) -> Check:
    """Describe how one probe ended, and what to change."""
    outcome, detail = OUTCOMES[sample.outcome], sample.details()
    subject = "massive" if sample.probe == "chain" else sample.subject
    what = f"{sample.subject}: {_CHECKS[sample.probe]}"
    if outcome.usable:
        return Check(what, "ok", _result(sample))
    remarks = f"HTTP {detail['status']}, " if "status" in detail else ""
    remarks += f'"{formatting.single_line(detail["said"], 80)}", ' if detail.get("said") else ""
    remarks += f"{detail['why']}, " if detail.get("why") else ""
    remarks += f"at {detail['route']}, which the app uses when massive fails, " if detail.get("route") else ""
    result = f"{subject} {outcome.words}" + (f" ({remarks.rstrip(', ')})" if remarks else "")
    if subject in _TOKEN and outcome.name == "no_key_401":
        return Check(
            what,
            "critical",
            f"{subject} requires a key, but {_TOKEN[subject]} is not set",
            f"Set {_TOKEN[subject]}, or {_TOKEN[subject]}_FILE.",
        )
    return Check(
        what,
        "critical" if outcome.answered is False or outcome.fault in (OURS, UNCLEAR) else "warning",
        result,
        _advice(settings, sample),
    )


def _advice(settings: Settings, sample: Sample) -> str:
    outcome, subject = OUTCOMES[sample.outcome], "massive" if sample.probe == "chain" else sample.subject
    if sample.probe == "socket":
        return f"{outcome.advice} OPS_APP_WS_URL is {settings.app_ws_url}."
    if sample.probe == "log":
        return (
            f"OPS_APP_LOG is {settings.app_log}: {sample.details().get('why', 'not found')}. Set it to a file, a "
            f"pipe or journal:UNIT."
        )
    if sample.probe == "process":
        return f"OPS_APP_PID is {settings.app_pid}. Set it to the pid file or the process id."
    setting = _SETTING.get(subject, "OPS_MASSIVE_URL")
    place = getattr(settings, setting.removeprefix("OPS_").lower())
    if subject == "app" and outcome.name == "wrong_content":
        return (
            f"{setting} is {place}, which returns a web page for every path. Set {setting} to the address of the app's "
            f"own server" + (", without a path." if urlsplit(place).path.strip("/") else ": another host or port.")
        )
    if subject == "app" and outcome.name == "schema_mismatch":
        return (
            f"{setting} is {place}, which returns JSON of another program (missing: "
            f"{sample.details().get('missing', 'the expected keys')}). Check the port."
        )
    if outcome.name == "tls":
        return (
            f"{setting} is {place}. If the address is right and its certificate authority is your own, set "
            f"SSL_CERT_FILE to its certificate."
        )
    if outcome.name in ("auth_401", "ip_blocked_403", "entitlement_403"):
        return f"{outcome.advice} The key is in {_TOKEN.get(subject, 'the token')}, the address in {setting}."
    if subject == "tradier" and outcome.name in ("refused", "dns", "unreachable") and settings.fallback == FALLBACKS[0]:
        return f"{outcome.advice} {setting} is {place}; if the app has no Tradier, set OPS_FALLBACK=none."
    return f"{outcome.advice} {setting} is {place}."


def _result(sample: Sample) -> str:
    detail, took = sample.details(), f" in {sample.seconds:.2f} s" if sample.seconds is not None else ""
    match sample.probe:
        case "liveness":
            return f"responds{took}, reports the market as {detail.get('market', 'unknown')}"
        case "data":
            return (
                f"responds{took}, newest data {formatting.duration(sample.value)} old"
                if sample.value is not None
                else f"responds{took}; {detail.get('why', 'the data has no timestamp')}"
            )
        case "health":
            return f"responds{took}, up for {formatting.duration(sample.value or 0)}"
        case "upstream":
            return f"responds{took}, reports its upstream as {detail['state']}"
        case "socket":
            return f"open, round trip {sample.seconds:.3f} s" if sample.seconds is not None else "open"
        case "log":
            return f"read, {detail.get('lines', 0)} new lines"
        case "process":
            return f"process {detail.get('pid')}, {formatting.number(sample.value, 'MB', 0)}"
        case "chain":
            return (
                f"{formatting.number(sample.value)} contracts on {detail.get('pages')} pages{took}, "
                f"{detail.get('core', 0)} tradable"
            )
    return f"responds{took}"


def _skews(last: dict[tuple[str, str], Sample], rules: Rules) -> list[Check]:
    """Compare the clocks of all parties with this machine's."""
    skews = {
        subject: skew
        for subject, probe in IS_THERE.items()
        if (s := last.get((probe, subject))) and (skew := s.details().get("skew_s")) is not None
    }
    if not skews:
        return []
    clocks = compare(skews, rules.skew_told_s)
    offsets = ", ".join(f"{s} {k:+z.1f} s" for s, k in skews.items())
    return [
        Check(
            "clock offsets from this machine",
            "warning" if clocks.names else "ok",
            offsets,
            " ".join(words[0].upper() + words[1:] for words in clocks.sentences),
        )
    ]


def _hours(last: dict[tuple[str, str], Sample]) -> list[Check]:
    """Compare the providers' market state with the calendar."""
    states = {
        subject: market
        for subject in _TOKEN
        if (s := last.get(("liveness", subject))) and (market := s.details().get("market"))
    }
    if not states:
        return []
    ours = market_calendar.open_since(clock.now()) is not None
    differs = [f"{subject} reports {market}" for subject, market in states.items() if (market == "open") is not ours]
    result = f"the calendar says {'open' if ours else 'closed'}" + (
        f", {', '.join(differs)}" if differs else ", the providers agree"
    )
    return [
        Check(
            "market hours",
            "warning" if differs else "ok",
            result,
            "If all providers report closed, no data is expected from the app. If one differs, find out whose clock or "
            "calendar is wrong."
            if differs
            else "",
        )
    ]


async def _host(settings: Settings) -> list[Check]:
    """Run the checks on the app's host."""
    if settings.host_prefix is None:
        commands = "; ".join(check.command for check in await host.run_checks(settings))
        return [
            Check(
                "the app's host",
                "",
                "not checked: host_prefix is not set",
                f'set host_prefix in settings.toml (["ssh", "HOST"], or [] for this machine), or run these commands '
                f"there by hand: {commands}",
            )
        ]
    verdict = {True: "ok", False: "warning", None: "unknown"}
    return [
        Check(f"host: {check.name}", verdict[check.ok], check.result, check.command)
        for check in await host.run_checks(settings)
    ]
