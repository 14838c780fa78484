"""Examine a desk: check each thing it stands on once, and name the setting to change."""

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
from opslib.telemetry.probes.outcomes import OUTCOMES, UNCLEAR
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample, SampleStore

CONNECT = Path(__file__).parents[1] / "docs" / "connect.md"  # How to connect the app's page, for people.
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
# Which of the guide's checks nobody makes while a setting is missing, and what remains.
_WITHOUT = {
    "OPS_APP_URL": "the API health endpoint, /api/metrics, how quickly the app's server answers, its "
    "restarts, its latency after a deployment",
    "OPS_APP_WS_URL": "the WebSocket's round trip, its close code, whether it opens for new clients; the "
    "page's own word on its socket remains",
    "OPS_APP_LOG": "the application's log: errors by kind, time-outs and how long the app waits, why its "
    "sockets closed; the page's own error count remains. Where the log is no file that can be read here, the "
    "host's log drain sends it: POST /api/logs of ops serve, with the ingest key",
    "OPS_APP_PID": "the server's process: whether it runs, its memory and whether that grows, its restarts "
    "as the process tells them; the server's answers and the page's memory remain",
    "OPS_MASSIVE_URL": "Massive's status, response time, key, plan and clock, and every chain of its own; "
    "the page's counts of its requests remain",
    "OPS_TRADIER_URL": "whether Tradier is there as the fallback, its response time, key and clock; the "
    "page's counts remain",
    "OPS_SYMBOLS": "daily validation with known symbols: whole chains, their Greeks and units, IV against "
    "earlier days; the page's own validations remain",
}
UNSET = "settings"
DRAINED_WITHIN = timedelta(hours=24)
REFUSED_WITHIN = timedelta(hours=24)
_TOKEN = {"massive": "OPS_MASSIVE_TOKEN", "tradier": "OPS_TRADIER_TOKEN"}
_ASKED = {
    "liveness": "is it there (market clock)",
    "data": "may we have option data, and is it new",
    "health": "is its server there (/api/health)",
    "metrics": "does it say that it is monitored (/api/metrics)",
    "upstream": "what does it say of the socket behind its own (/api/ws-health)",
    "socket": "does its WebSocket open and answer",
    "log": "can its log be read",
    "process": "is its process alive",
    "chain": "can a whole chain be fetched",
}


class Check(NamedTuple):
    """
    One thing looked at.

    Attributes:
        what: What it is.
        verdict: ok, warning, critical, unknown; empty is not measured: shown, not counted.
        seen: What was seen.
        advice: What to do; empty where there is nothing to do.
    """

    what: str
    verdict: str
    seen: str
    advice: str = ""


@dataclass(frozen=True)
class Examination:
    """Everything that was looked at."""

    app: str
    checks: tuple[Check, ...]

    @property
    def verdict(self) -> str:
        """
        What it adds up to: what was looked at decides, if anything is wrong; else, where settings are missing, it is
        unknown.
        """
        seen = worst(c.verdict for c in self.checks if c.verdict and c.what != UNSET)
        return worst(c.verdict for c in self.checks if c.verdict) if seen == "ok" else seen

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown."""
        return EXIT_CODES[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {
            "app": self.app,
            "verdict": self.verdict,
            "checks": [c._asdict() | {"verdict": c.verdict or "not measured"} for c in self.checks],
        }

    def __repr__(self) -> str:
        rows = [[c.verdict or "-", c.what, c.seen] for c in self.checks]
        todo = [f"{c.what}: {c.advice}" for c in self.checks if c.advice and c.verdict not in ("ok", "")]
        more = [f"{c.what}: {c.advice}" for c in self.checks if c.advice and not c.verdict]
        parts = [f"{self.app}: {self.verdict}", formatting.table(["verdict", "looked at", "seen"], rows)]
        parts += ["\nwhat to do", *(f"  {words}" for words in todo)] if todo else []
        parts += ["\nnot measured, until it is set", *(f"  {words}" for words in more)] if more else []
        return "\n".join(parts)


def examine(settings: Settings, store: Database, rules: Rules) -> Examination:
    """Look at everything once. Nothing of it is kept."""
    drained = _drained(settings, store)
    checks = [
        *_ours(settings, store, rules),
        *_completeness(settings, drained is not None),
        *asyncio.run(_world(settings, store, rules, drained is not None)),
        *([drained] if drained else []),
    ]
    return Examination(settings.app, tuple(checks))


def _unset(settings: Settings, drained: bool) -> list[tuple[str, str]]:
    """
    Settings of what is to be looked at that are not set, and what is not looked at without them; a log that comes by a
    drain needs none.
    """
    needless = {name for name, so in (("tradier_url", settings.fallback == "none"), ("app_log", drained)) if so}
    return [(setting, what) for name, setting, what in _WORLD if not getattr(settings, name) and name not in needless]


def _drained(settings: Settings, store: Database) -> Check | None:
    """Whether the app's log comes by a drain; None where no line came lately."""
    what, now = "app: does its log come by a drain", clock.now()
    try:
        last = SampleStore(store, settings.app).last("log", clock.micros(now), None, "app")
    except OpsError as problem:
        return Check(what, "unknown", str(problem))
    if last is None or "drained" not in last.told() or last.ts_us < clock.micros(now - DRAINED_WITHIN):
        return None
    seen = f"yes, the newest line at {formatting.moment(clock.instant(last.ts_us))}"
    if settings.app_log:
        return Check(
            what,
            "warning",
            f"{seen}; OPS_APP_LOG is read too, so that each error counts twice",
            "Unset OPS_APP_LOG, or stop the drain.",
        )
    return Check(what, "ok", seen)


def _completeness(settings: Settings, from_afar: bool) -> list[Check]:
    """
    Whether everything that can be looked at is set; what nobody looks at is unknown, not well.

    Args:
        from_afar: Whether the app's log comes by a drain: then it is hosted elsewhere, and has no process that can be
            looked at here.
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
            f"{len(unset)} of {len(_WORLD)} things are not looked at: {', '.join(what for _, what in unset)}",
            f"Set {', '.join(setting for setting, _ in unset)}, in the environment or in settings.toml.",
        )
    ]


def _arriving(newest_us: int | None, rules: Rules) -> Check:
    """
    Whether posts of the app's pages arrive: the newest is no older than the limit of the rule `silence`, while the
    market is open.
    """
    what, now = "posts of the app's pages", clock.now()
    if newest_us is None:
        return Check(what, "", "none has come yet", f"let the app's page post to ops serve: {CONNECT}")
    at, limit_s = clock.instant(newest_us), float(dict(rules.rules["silence"].ladder)["warning"])
    seen = f"the newest came at {formatting.moment(at)}"
    if (now - at).total_seconds() <= limit_s:
        return Check(what, "ok", seen)
    if market_calendar.open_since(now) is None:
        return Check(what, "", f"{seen}; none is expected while the market is closed")
    return Check(
        what,
        "warning",
        f"{seen}, {formatting.duration((now - at).total_seconds())} ago; one was expected within "
        f"{formatting.duration(limit_s)}",
        f"Open a page of the app, and see whether its posts are answered 204: {CONNECT}, See whether posts arrive.",
    )


def _refused(settings: Settings, store: Database) -> Check:
    """Posts that the receiver refused lately."""
    what, now = "posts refused by the receiver", clock.now()
    try:
        found = refused_posts.read(store, settings.app, clock.micros(now - REFUSED_WITHIN), clock.micros(now))
    except OpsError as problem:
        return Check(what, "unknown", str(problem))
    if not found:
        return Check(what, "ok", "none in the last 24 hours")
    seen = (
        f"{'; '.join(refused_posts.sentences(found))}; the newest at "
        f"{formatting.moment(clock.instant(found[0].last_us))}"
    )
    return Check(
        what,
        "warning",
        seen,
        f"Where the page or program is yours, do what the reason says (add its origin to OPS_CORS_ORIGINS, "
        f"its name for this machine to OPS_ALLOWED_HOSTS, give it the key), and start ops serve again; else "
        f"it is a stranger's, and nothing was lost. Each reason is explained in {CONNECT}.",
    )


def _ours(settings: Settings, store: Database, rules: Rules) -> Iterator[Check]:
    """What is ours: Python, what is installed, the folder, the store, the limits, the time."""
    yield Check(
        "Python",
        "ok" if sys.version_info >= (3, 11) else "critical",
        sys.version.split()[0],
        "Python 3.11 or newer is needed.",
    )
    lacking = [name for name in NEEDED if not _installed(name)]
    yield Check(
        "packages",
        "critical" if lacking else "ok",
        f"lacking: {', '.join(lacking)}" if lacking else f"{len(NEEDED)} of {len(NEEDED)} there",
        "Install again: pip install -e .",
    )
    free_mb = (
        shutil.disk_usage(settings.home if settings.home.exists() else settings.home.parent).free / 1e6
        if (settings.home.exists() or settings.home.parent.exists())
        else 0.0
    )
    yield Check(
        "disk of the home",
        "ok" if free_mb > LEAST_FREE_MB else "warning",
        f"{settings.home}, {free_mb:,.0f} MB free",
        "Make room: a store that cannot write loses what is posted meanwhile.",
    )
    yield Check(
        "home",
        "ok" if os.access(settings.home if settings.home.exists() else settings.home.parent, os.W_OK) else "critical",
        str(settings.home),
        "Set OPS_HOME to a folder that can be written.",
    )
    try:
        last = SnapshotStore(store).last_snapshot(settings.app, 2**62, None)
        yield Check("store", "ok", "opens")
        yield _arriving(last.ts_us if last else None, rules)
    except OpsError as problem:
        yield Check("store", "critical", str(problem), "See OPS_STORE_URL.")
    yield _told(settings, store)
    yield _refused(settings, store)
    yield Check("limits", "ok", f"{len(rules.rules)} rules, {rules.hash[:12]}")
    session = market_calendar.open_since(clock.now())
    yield Check("clock", "ok", f"{formatting.moment(clock.now())}, market {'open' if session else 'closed'}")


def _told(settings: Settings, store: Database) -> Check:
    """Is anybody told, and does it reach them?"""
    what = "who is told"
    try:
        found = contacts.read(settings)
        late = [d for d, _ in NotificationStore(store, settings.app).deliveries() if d.state != SENT and d.attempts]
    except OpsError as problem:
        return Check(what, "critical", str(problem), "Nobody is told of anything until that is set right.")
    if set(found.channels) == {contacts.TERMINAL}:
        return Check(
            what,
            "",
            "nobody but who reads the collector's terminal",
            "set roles and channels in settings.toml, then try them: ops notify --test",
        )
    ways = "; ".join(f"{name}: {', '.join(role.channels)}" for name, role in found.roles.items())
    if late:
        return Check(
            what,
            "warning",
            f"{ways}; {len(late)} messages could not be delivered at once, the newest by {late[0].channel}: "
            f"it {late[0].said}",
            "See ops notify, and try the channel: ops notify --test.",
        )
    return Check(what, "ok", ways, "")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


async def _world(settings: Settings, store: Database, rules: Rules, drained: bool) -> list[Check]:
    """What the settings name."""
    rounds = ProbeRunner(settings, store, rules)
    try:
        samples = await rounds.once(lambda name: name != "host")
    finally:
        rounds.close()
    last = {(s.probe, s.subject): s for s in samples if s.last}
    found = [_asked(settings, sample) for sample in last.values()]
    found += _skews(last, rules) + _hours(last)
    found += [
        Check(what, "", f"{setting} is not set. Not measured without it: {_WITHOUT[setting]}", f"set {setting}")
        for setting, what in _unset(settings, drained)
    ]
    return found + await _host(settings)


def _asked(settings: Settings, sample: Sample) -> Check:
    """How one look ended, and what to change."""
    outcome, told = OUTCOMES[sample.outcome], sample.told()
    subject = "massive" if sample.probe == "chain" else sample.subject
    what = f"{sample.subject}: {_ASKED[sample.probe]}"
    if outcome.usable:
        return Check(what, "ok", _seen(sample))
    said = f"HTTP {told['status']}, " if "status" in told else ""
    said += f'"{formatting.single_line(told["said"], 80)}", ' if told.get("said") else ""
    said += f"{told['why']}, " if told.get("why") else ""
    said += f"asked for {told['route']}, as the app will when massive fails, " if told.get("route") else ""
    seen = f"{subject} {outcome.words}" + (f" ({said.rstrip(', ')})" if said else "")
    if subject in _TOKEN and outcome.name == "no_key_401":
        return Check(
            what,
            "critical",
            f"{subject} wants a key, and {_TOKEN[subject]} is not set",
            f"Set {_TOKEN[subject]}, or {_TOKEN[subject]}_FILE.",
        )
    return Check(
        what,
        "critical" if outcome.answered is False or outcome.fault in ("ours", UNCLEAR) else "warning",
        seen,
        _advice(settings, sample),
    )


def _advice(settings: Settings, sample: Sample) -> str:
    outcome, subject = OUTCOMES[sample.outcome], "massive" if sample.probe == "chain" else sample.subject
    if sample.probe == "socket":
        return f"{outcome.advice} It is OPS_APP_WS_URL, {settings.app_ws_url}."
    if sample.probe == "log":
        return (
            f"OPS_APP_LOG is {settings.app_log}: {sample.told().get('why', 'not there')}. Name a file, a "
            f"pipe or journal:UNIT."
        )
    if sample.probe == "process":
        return f"OPS_APP_PID is {settings.app_pid}. Name the process's number, or better its pid file."
    setting = _SETTING.get(subject, "OPS_MASSIVE_URL")
    place = getattr(settings, setting.removeprefix("OPS_").lower())
    if subject == "app" and outcome.name == "wrong_content":
        return (
            f"{setting} is {place}: what answers there is a web page on every path, which proves nothing. Set "
            f"{setting} to the address of the app's own server"
            + (", without a path." if urlsplit(place).path.strip("/") else ": another host or port.")
        )
    if subject == "app" and outcome.name == "schema_mismatch":
        return (
            f"{setting} is {place}: what answers there is JSON, but not this app's (it lacks "
            f"{sample.told().get('missing', 'what was asked for')}). See whether it is another program's port."
        )
    if outcome.name == "tls":
        return (
            f"{setting} is {place}. Where it is right and its authority is your own, name its certificate "
            f"in SSL_CERT_FILE."
        )
    if outcome.name in ("auth_401", "ip_blocked_403", "entitlement_403"):
        return f"{outcome.advice} The key is {_TOKEN.get(subject, 'the token')}, the address {setting}."
    if subject == "tradier" and outcome.name in ("refused", "dns", "unreachable") and settings.fallback == FALLBACKS[0]:
        return f"{outcome.advice} {setting} is {place}; an app without Tradier says OPS_FALLBACK=none."
    return f"{outcome.advice} {setting} is {place}."


def _seen(sample: Sample) -> str:
    told, took = sample.told(), f" in {sample.seconds:.2f} s" if sample.seconds is not None else ""
    match sample.probe:
        case "liveness":
            return f"answers{took}, says the market is {told.get('market', 'unknown')}"
        case "data":
            return (
                f"answers{took}, newest of it {formatting.duration(sample.value)} old"
                if sample.value is not None
                else f"answers{took}; {told.get('why', 'no time on it')}"
            )
        case "health":
            return f"answers{took}, up for {formatting.duration(sample.value or 0)}"
        case "upstream":
            return f"answers{took}, says that its upstream is {told['state']}"
        case "socket":
            return f"open, round trip {sample.seconds:.3f} s" if sample.seconds is not None else "open"
        case "log":
            return f"read, {told.get('lines', 0)} lines are new"
        case "process":
            return f"process {told.get('pid')}, {formatting.number(sample.value, 'MB', 0)}"
        case "chain":
            return (
                f"{formatting.number(sample.value)} contracts on {told.get('pages')} pages{took}, "
                f"{told.get('core', 0)} tradable"
            )
    return f"answers{took}"


def _skews(last: dict[tuple[str, str], Sample], rules: Rules) -> list[Check]:
    """Do their clocks agree with ours?"""
    skews = {
        subject: skew
        for subject, probe in IS_THERE.items()
        if (s := last.get((probe, subject))) and (skew := s.told().get("skew_s")) is not None
    }
    if not skews:
        return []
    clocks = compare(skews, rules.skew_told_s)
    told = ", ".join(f"{s} {k:+.1f} s" for s, k in skews.items())
    return [
        Check(
            "clocks against ours",
            "warning" if clocks.names else "ok",
            told,
            " ".join(words[0].upper() + words[1:] for words in clocks.sentences),
        )
    ]


def _hours(last: dict[tuple[str, str], Sample]) -> list[Check]:
    """Do the providers have the same session as our calendar?"""
    told = {
        subject: market
        for subject in _TOKEN
        if (s := last.get(("liveness", subject))) and (market := s.told().get("market"))
    }
    if not told:
        return []
    ours = market_calendar.open_since(clock.now()) is not None
    differs = [f"{subject} says {market}" for subject, market in told.items() if (market == "open") is not ours]
    seen = f"our calendar says {'open' if ours else 'closed'}" + (
        f", {', '.join(differs)}" if differs else ", so do they"
    )
    return [
        Check(
            "market hours",
            "warning" if differs else "ok",
            seen,
            "Where all of them say closed, nothing is expected of the app; where one differs, see whose "
            "clock or calendar is wrong."
            if differs
            else "",
        )
    ]


async def _host(settings: Settings) -> list[Check]:
    """What is to be seen on the app's host."""
    if settings.host_prefix is None:
        commands = "; ".join(look.command for look in await host.looks(settings))
        return [
            Check(
                "the app's host",
                "",
                "nobody can look there but a person",
                f'set host_prefix in settings.toml (["ssh", "HOST"], or [] for this machine), or ask there by '
                f"hand: {commands}",
            )
        ]
    verdict = {True: "ok", False: "warning", None: "unknown"}
    return [
        Check(f"host: {look.name}", verdict[look.ok], look.told, look.command) for look in await host.looks(settings)
    ]
