"""
Run the checks of the app and of those who watch it: server, socket, log, memory, pages, collector, clocks.

Each answers one question about a moment, and says unknown where nobody looked.
"""

from datetime import timedelta

from opslib.foundation import clock, formatting
from opslib.runbooks.checks.context import HOUR, LAST, LATELY, CheckContext, local, looked, seconds
from opslib.runbooks.execution import CheckResult
from opslib.telemetry.clock_skew import compare, parties
from opslib.telemetry.markers import Markers
from opslib.telemetry.pages import indicators
from opslib.telemetry.probes import host as host_module
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample

HOST_BACK = timedelta(minutes=15)  # The host is looked at every five minutes.
# Kinds of lines in the app's log, by what they are about.
LINES = {
    "providers": ("provider_5xx", "timeout", "dns", "refused", "tls", "rate_limit", "auth"),
    "socket": ("socket_closed", "socket_error"),
}
# What a code says with which a WebSocket was closed (RFC 6455, 7.4).
CODES = {
    1000: "closed in order",
    1001: "the server or the page went away",
    1005: "closed without a code",
    1006: "torn: network or process, no farewell",
    1008: "refused by policy: token, or too many connections",
    1011: "the server failed",
    1012: "the server restarts",
    1013: "the server is overloaded",
}
IN_ORDER = (1000, 1001)


def _stands(scene: CheckContext, probe: str, subject: str = "app") -> tuple[Sample | None, str]:
    """The last look of a kind, and since when it is so."""
    last, since = scene.probed.now(probe, subject, scene.at_us), scene.probed.since(probe, subject, scene.at_us)
    return last, f"since {local(since.ts_us)}" if since else ""


def server(scene: CheckContext) -> CheckResult:
    """Does the app's server answer?"""
    last, since = _stands(scene, "health")
    query = "GET /api/health of the app's server, the last look"
    if last is None:
        return CheckResult(None, "nobody has asked the app's server lately", None, "probe", query)
    outcome = OUTCOMES[last.outcome]
    up = f", up for {formatting.duration(last.value)}" if last.value is not None and outcome.usable else ""
    words = (
        f"the app's server {outcome.words} ({seconds(last.seconds)}{up})"
        if outcome.usable
        else f"the app's server {outcome.words}, {since}; 200 with its own JSON was expected"
    )
    return CheckResult(
        outcome.usable, words, looked(last), "probe", query, "" if outcome.usable else "monitor_down", "system"
    )


def process(scene: CheckContext) -> CheckResult:
    """Is the app's process alive, and since when?"""
    last, since = _stands(scene, "process")
    query = "the process that OPS_APP_PID names, the last look"
    if last is None:
        return CheckResult(None, "nobody looks at the app's process: set OPS_APP_PID", None, "probe", query)
    told = scene.probed.told(last)
    if last.outcome == "ok":
        born = f", started {formatting.moment(clock.instant(round(told['born'] * 1e6)))}" if "born" in told else ""
        return CheckResult(
            True,
            f"it runs: pid {told.get('pid')}, {formatting.number(last.value, 'MB', 0)}, {told.get('threads')} "
            f"threads{born}",
            looked(last),
            "probe",
            query,
            view="system",
        )
    return CheckResult(
        None if last.outcome == "absent" else False,
        f"the app's process {OUTCOMES[last.outcome].words}, {since}",
        looked(last),
        "probe",
        query,
        view="system",
    )


def restarts(scene: CheckContext) -> CheckResult:
    """Was the app's server started anew lately? Its sockets are closed with it."""
    window = scene.last(HOUR)
    if not (scene.probed.within("process", "app", window) or scene.probed.within("health", "app", window)):
        return CheckResult(
            None,
            "nobody has looked at the app's process or its uptime in the last hour",
            None,
            "probe",
            "births of the process, falls of its uptime",
        )
    found = scene.probed.restarts(window)
    words = (
        f"started anew at {', '.join(local(at) for at in found)}; its sockets were closed with it"
        if found
        else "not started anew in the last hour"
    )
    return CheckResult(
        not found,
        words,
        {"restarted_at_us": found},
        "probe",
        "births of the process and falls of its uptime in the last hour",
        view="system",
    )


def socket(scene: CheckContext) -> CheckResult:
    """Is the app's WebSocket open, and does it say anything? By our own, and by the page's."""
    last, since = _stands(scene, "socket")
    page = {True: "connected", False: "disconnected", None: "not told"}[
        connected := scene.view.figures["system"]["websocket_connected"]
    ]
    query = "our own connection to the app's WebSocket, and the page's word"
    if last is None:
        return CheckResult(
            None if connected is None else connected,
            f"the page says: {page}; we do not look at it ourselves",
            {"page": connected},
            "page",
            query,
            view="system",
        )
    outcome, told = OUTCOMES[last.outcome], scene.probed.told(last)
    if "code" in told:
        code = f", code {told['code']}"
    elif "status" in told:
        code = f", HTTP {told['status']}"
    else:
        code = ""
    silent = (
        f", nothing for {formatting.duration(last.value)}"
        if last.outcome == "silent" and last.value is not None
        else ""
    )
    ours = (
        f"ours answers ({seconds(last.seconds)})"
        if outcome.usable
        else f"the app's WebSocket {outcome.words.split(':')[0]}{code}{silent}, {since}"
    )
    good = outcome.usable and connected is not False
    hint = (
        "; only the page's own connection is lost: a refresh repairs it"
        if outcome.usable and connected is False
        else ""
    )
    return CheckResult(
        good,
        f"{ours}; the page's: {page}{hint}",
        {"ours": looked(last), "page": connected},
        "probe",
        query,
        view="system",
    )


def close_code(scene: CheckContext) -> CheckResult:
    """With which code was the socket closed last, on us or, by its log, on the app?"""
    window, query = (
        scene.last(HOUR),
        "closings of our own connection and of the app's upstream, by its log, in the last hour",
    )
    looks = scene.probed.within("socket", "app", window)
    log = {k: v for k, v in scene.probed.log_newest(window).items() if k in LINES["socket"]}
    codes = [(s.ts_us, scene.probed.told(s)["code"]) for s in looks if "code" in scene.probed.told(s)]
    if not looks and not log:
        return CheckResult(None, "nobody has looked at the socket in the last hour", None, "probe", query)
    content = {"codes": [{"at_us": at, "code": code} for at, code in codes[-LAST:]], "log": log}
    upstream = f"; the app's log: {'; '.join(log.values())}" if log else ""
    if not codes:
        lost = sum(not OUTCOMES[s.outcome].usable for s in looks)
        return CheckResult(
            None if lost or log else True,
            f"no close code came: {lost} of {len(looks)} looks found it not open{upstream}"
            if lost
            else f"never closed on us in the last hour ({len(looks)} looks){upstream}",
            content,
            "probe",
            query,
        )
    at_us, code = codes[-1]
    return CheckResult(
        code in IN_ORDER and not log,
        f"code {code} at {local(at_us)}: {CODES.get(code, 'a code of its own')}; 1000 is in order, 1006 is "
        f"not{upstream}",
        content,
        "probe",
        query,
    )


def page_hears(scene: CheckContext) -> CheckResult:
    """Is a page open, and is its socket connected, as after a refresh?"""
    reloads, now = scene.view.tape.reloads(scene.last(HOUR)), scene.view.tape.open_at(scene.at_us)
    connected = scene.view.figures["system"]["websocket_connected"]
    loads = (
        f"reloaded at {', '.join(f'{at.astimezone(formatting.NEW_YORK):%H:%M:%S}' for at in reloads[-3:])} New York"
        if reloads
        else "not reloaded in the last hour"
    )
    content = {"pages_open": len(now), "reloads": [formatting.iso(at) for at in reloads], "connected": connected}
    if connected is None or not now:
        return CheckResult(
            None,
            f"no open page tells of its socket ({len(now)} open; {loads})",
            content,
            "page",
            "the open pages' own word of their socket",
        )
    return CheckResult(
        connected,
        f"pages open: {len(now)}, socket {'connected' if connected else 'disconnected'}; {loads}",
        content,
        "page",
        "the open pages' own word of their socket",
        view="system",
    )


def socket_quick(scene: CheckContext) -> CheckResult:
    """How long does the socket take to answer?"""
    return scene.ruled(["websocket_latency"], view="system")


def log(scene: CheckContext) -> CheckResult:
    """What errors does the app's log hold, of which kinds? Of one matter, or of all."""
    window, last = scene.view.window, scene.probed.now("log", "app", scene.at_us)
    query = f"new lines of the app's log in the last {formatting.duration(window.seconds)}"
    if last is None or last.outcome != "ok":
        return CheckResult(
            None, "the app's log is not read: see OPS_APP_LOG, or send it to POST /api/logs", None, "log", query
        )
    newest = scene.probed.log_newest(window)
    kinds = {
        k: n for k, n in scene.probed.log_kinds(window).items() if k in newest and k in LINES.get(scene.of, newest)
    }
    if not kinds:
        return CheckResult(
            True,
            f"no error of {scene.of or 'any kind'} in the last {formatting.duration(window.seconds)}",
            {"kinds": {}},
            "log",
            query,
        )
    told = ", ".join(f"{kind.replace('_', ' ')} {n}" for kind, n in sorted(kinds.items(), key=lambda k: -k[1]))
    most = max(kinds, key=lambda k: kinds[k])
    return CheckResult(
        False,
        f"{sum(kinds.values())} errors in {formatting.duration(window.seconds)}, none was expected: {told}; newest: "
        f"{formatting.single_line(newest[most], 120)}",
        {"kinds": kinds, "newest": {k: newest[k] for k in kinds}},
        "log",
        query,
        view="system",
    )


def host(scene: CheckContext) -> CheckResult:
    """What is to be seen on the app's host, of one matter?"""
    last: dict[str, Sample] = {}
    for sample in scene.probed.within("host", "app", scene.last(HOST_BACK)):
        if scene.of in (name := scene.probed.told(sample)["name"]):
            last[name] = sample
    query = f"looks through host_prefix: {scene.of}"
    if not last:
        commands = host_module.commands(scene.workspace.settings, scene.of)
        return CheckResult(
            None,
            f"nobody looks on the app's host (host_prefix in settings.toml). By hand, there: "
            f"{'; '.join(commands) or 'what ops doctor names'}",
            None,
            "host",
            query,
        )
    told = "; ".join(f"{name}: {scene.probed.told(s)['told']}" for name, s in last.items())
    states = [{"ok": True, "server_5xx": False}.get(s.outcome) for s in last.values()]
    good = None if None in states else True
    return CheckResult(
        False if False in states else good,
        told,
        [looked(s) for s in last.values()],
        "host",
        query,
    )


def page_memory(scene: CheckContext) -> CheckResult:
    """How much memory does the app's page hold, where it posts it?"""
    return scene.ruled(["memory"], view="system")


def growth(scene: CheckContext) -> CheckResult:
    """Does the app's server go on growing?"""
    last, _ = _stands(scene, "process")
    return scene.ruled(
        ["memory_growth"],
        view="system",
        more=f"it holds {formatting.number(last.value, 'MB', 0)}" if last and last.value is not None else "",
    )


def errors(scene: CheckContext) -> CheckResult:
    """How many errors an hour, by the page and by the log, and of which types?"""
    types = scene.view.figures["system"]["errors_by_type"]
    more = ", ".join(f"{kind} {n}" for kind, n in types.items()) if types else "the page's types are lost in its post"
    return scene.ruled(["errors"], view="system", more=more)


def _anything(scene: CheckContext) -> bool:
    """Was anything of the app ever seen by that moment?"""
    return scene.view.tape.last_seen_us(scene.at_us) is not None or scene.probed.any


def explained(scene: CheckContext) -> CheckResult:
    """Is the trouble its own, or does another explain it? Leads to that one's runbook."""
    if not _anything(scene):
        return CheckResult(
            None, "nothing was ever seen of this app, so no alert could stand", None, "alerts", "alerts of errors"
        )
    own = [a for a in scene.view.alerts if a["rule"] == "errors" and a["state"] in ("firing", "pending", "unknown")]
    by = {a["inhibited_by"] for a in own if a["inhibited_by"]}
    cause = next((a for a in scene.view.alerts if a["id"] in by and a["rule"] != "errors"), None)
    query = "alerts that explain those of errors away"
    if cause:
        return CheckResult(
            False,
            f"{cause['sentence']} explains them: look there first",
            {"by": cause["id"]},
            "alerts",
            query,
            cause["runbook"],
        )
    if own:
        return CheckResult(
            True,
            "no other alert explains them: they are a trouble of their own",
            {"alerts": [a["id"] for a in own]},
            "alerts",
            query,
        )
    return CheckResult(
        True, "no alert of errors stands, so there is nothing to explain", {"alerts": []}, "alerts", query
    )


def alerts(scene: CheckContext) -> CheckResult:
    """Does another alert fire? Leads to the loudest one's runbook."""
    from opslib.foundation.config.rules import SEVERITIES

    found = [a for a in scene.view.alerts if a["state"] == "firing"]
    query = "alerts that fire now"
    if not found:
        return CheckResult(
            _anything(scene) or None,
            "no alert fires" if _anything(scene) else "nothing was ever seen of this app, so no alert could fire",
            {"alerts": []},
            "alerts",
            query,
        )
    first = max(
        (a for a in found if not a["inhibited_by"]), key=lambda a: SEVERITIES.index(a["severity"]), default=found[0]
    )
    more = f"; {len(found) - 1} more fire" if len(found) > 1 else ""
    return CheckResult(
        False,
        f"{first['severity']}: {first['sentence']}{more}",
        {"alerts": [a["id"] for a in found]},
        "alerts",
        query,
        first["runbook"] or "",
    )


def dashboard_age(scene: CheckContext) -> CheckResult:
    """How old is what the dashboard shows?"""
    return scene.ruled(["dashboard_lag"], view="system")


def posts(scene: CheckContext) -> CheckResult:
    """Do the pages' posts come in?"""
    silent, now = indicators.silent_for_s(scene.view.tape, scene.view.window.end), scene.view.tape.open_at(scene.at_us)
    more = (
        f"pages open: {len(now)}, the newest post {formatting.duration(silent)} ago"
        if silent is not None
        else "the market is closed: none is expected"
    )
    return scene.ruled(["silence"], view="system", more=more)


def beats(scene: CheckContext) -> CheckResult:
    """Does our collector look on?"""
    last, since = _stands(scene, "beat", "collector")
    told = scene.probed.told(last) if last else {}
    parts = []
    if last and last.outcome == "stopped":
        parts.append(f"stopped {since}")
    if failing := told.get("failing"):
        parts.append(f"failing: {', '.join(failing)}")
    if lost := told.get("lost"):
        parts.append(f"{lost} samples lost")
    found = scene.ruled(["heartbeat"], view="system", more="; ".join(parts))
    return found._replace(good=False) if parts else found


def store(scene: CheckContext) -> CheckResult:
    """Does the store give back what came, and how new is it?"""
    post_us, beat = scene.view.tape.last_seen_us(scene.at_us), scene.probed.now("beat", "collector", scene.at_us)

    def ago(us: int) -> str:
        return formatting.duration((scene.at_us - us) / 1e6)

    parts = ([f"the newest post {ago(post_us)} old"] if post_us is not None else []) + (
        [f"the newest beat {ago(beat.ts_us)} old"] if beat else []
    )
    content = {"seq": scene.view.tape.seq, "newest_post_us": post_us, "newest_beat_us": beat.ts_us if beat else None}
    return CheckResult(
        bool(parts) or None,
        f"the store answers: {', '.join(parts)}" if parts else "the store answers and holds nothing of the last hour",
        content,
        "store",
        "the newest rows",
    )


def clocks(scene: CheckContext) -> CheckResult:
    """Do all clocks agree with ours, to within what is told?"""
    skews = parties(scene.probed, scene.view.figures["system"], scene.at_us)
    if not skews:
        return CheckResult(
            None, "no clock is known but ours", None, "probe", "clocks told in answers and posts, against ours"
        )
    most = scene.view.rules.skew_told_s
    clocks = compare(skews, most)
    told = ", ".join(f"{s} {k:+.1f} s" for s, k in ({s: k for s, k in skews.items() if abs(k) > most} or skews).items())
    whose = (
        f". {' '.join(words[0].upper() + words[1:] for words in clocks.sentences)}".removesuffix(".")
        if clocks.names
        else ""
    )
    return CheckResult(
        not clocks.names,
        f"{told}; within {most:g} s of ours was expected{whose}",
        skews,
        "probe",
        "clocks told in answers and posts, against ours",
        view="system",
    )


def changed(scene: CheckContext) -> CheckResult:
    """Was anything deployed or started anew in the last hour?"""
    window = scene.last(HOUR)
    marks = [
        m
        for m in Markers(scene.workspace.store, scene.workspace.settings).between(window.start_us, window.end_us)
        if m.kind in ("deploy", "restart")
    ]
    born = scene.probed.restarts(window)
    told = [f"{m.kind} at {local(m.ts_us)}: {m.words}" for m in marks] + [
        f"the server was started anew at {local(at)}" for at in born
    ]
    content = {"marks": [m._asdict() for m in marks], "restarted_at_us": born}
    if not told and not _anything(scene):
        return CheckResult(
            None,
            "nobody marked anything, and nobody has looked at the app",
            content,
            "marks",
            "ops mark deploy and restart, in the last hour",
        )
    return CheckResult(
        not told,
        "; ".join(told) or "nothing was deployed or started anew in the last hour, as far as anybody marked it",
        content,
        "marks",
        "ops mark deploy and restart, births of the server, in the last hour",
    )


def lately(scene: CheckContext) -> CheckResult:
    """How fast does the app's server answer?"""
    from opslib.alerting import probe_figures

    found, rule = probe_figures.p95_s(scene.probed, "app", scene.last(LATELY)), scene.view.rules["response_time"]
    if found is None:
        return CheckResult(
            None,
            "nobody has timed the app's server lately",
            None,
            "probe",
            "p95 of our looks at /api/health in the last 5 min",
        )
    limit = dict(rule.ladder)["warning"]
    good = isinstance(limit, str) or not rule.past(found, limit)
    return CheckResult(
        good,
        f"p95 of the app's server ({seconds(found)}) {'≤' if good else '>'} {rule.limit_told(limit)}",
        {"p95_s": found},
        "probe",
        "p95 of our looks at /api/health in the last 5 min",
        view="system",
    )
