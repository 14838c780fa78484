"""
Run the checks of the app and of the monitoring: server, WebSocket, log, memory, pages, collector, clocks.

Each check has one result for one time; without data it is unknown.
"""

from datetime import timedelta

from opslib.foundation import clock, formatting
from opslib.runbooks.checks.context import HOUR, LAST, LATELY, CheckContext, local, sample_as_json, seconds
from opslib.runbooks.execution import CheckResult
from opslib.telemetry.clock_skew import compare, parties
from opslib.telemetry.markers import Markers
from opslib.telemetry.pages import indicators
from opslib.telemetry.probes import host as host_module
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample

HOST_BACK = timedelta(minutes=15)  # The host is probed every five minutes.
# Kinds of lines in the app's log, by their subject.
LINES = {
    "providers": ("provider_5xx", "timeout", "dns", "refused", "tls", "rate_limit", "auth"),
    "socket": ("socket_closed", "socket_error"),
}
# The meaning of WebSocket close codes (RFC 6455, 7.4).
CODES = {
    1000: "normal closure",
    1001: "the server or the page went away",
    1005: "no close code",
    1006: "abnormal closure: network or process failure",
    1008: "policy violation: token, or too many connections",
    1011: "internal server error",
    1012: "server restart",
    1013: "server overloaded",
}
IN_ORDER = (1000, 1001)
# What the lines of a subject are called where there are none.
ABOUT = {"": "error", "providers": "provider error", "socket": "WebSocket error"}


def _last_with_words(context: CheckContext, probe: str, subject: str = "app") -> tuple[Sample | None, str]:
    """Return the last sample of a probe, and since when its outcome holds."""
    last, since = context.probed.now(probe, subject, context.at_us), context.probed.since(probe, subject, context.at_us)
    return last, f"since {local(since.ts_us)}" if since else ""


def server(context: CheckContext) -> CheckResult:
    """Check that the app's server responds."""
    last, since = _last_with_words(context, "health")
    query = "the last probe of GET /api/health of the app's server"
    if last is None:
        return CheckResult(None, "no recent probe of the app's server", None, "probe", query)
    outcome = OUTCOMES[last.outcome]
    up = f", up for {formatting.duration(last.value)}" if last.value is not None and outcome.usable else ""
    words = (
        f"the app's server {outcome.words} ({seconds(last.seconds)}{up})"
        if outcome.usable
        else f"the app's server {outcome.words}, {since}; expected HTTP 200 with JSON"
    )
    return CheckResult(
        outcome.usable, words, sample_as_json(last), "probe", query, "" if outcome.usable else "monitor_down", "system"
    )


def process(context: CheckContext) -> CheckResult:
    """Check that the app's process is running."""
    last, since = _last_with_words(context, "process")
    query = "the last probe of the process in OPS_APP_PID"
    if last is None:
        return CheckResult(None, "the app's process is not probed: set OPS_APP_PID", None, "probe", query)
    details = context.probed.details(last)
    if last.outcome == "ok":
        born = (
            f", started {formatting.moment(clock.instant(round(details['born'] * 1e6)))}" if "born" in details else ""
        )
        return CheckResult(
            True,
            f"running: pid {details.get('pid')}, {formatting.number(last.value, 'MB', 0)}, {details.get('threads')} "
            f"threads{born}",
            sample_as_json(last),
            "probe",
            query,
            view="system",
        )
    return CheckResult(
        None if last.outcome == "absent" else False,
        f"the app's process {OUTCOMES[last.outcome].words}, {since}",
        sample_as_json(last),
        "probe",
        query,
        view="system",
    )


def restarts(context: CheckContext) -> CheckResult:
    """Check whether the app's server restarted in the last hour."""
    window = context.last(HOUR)
    if not (context.probed.within("process", "app", window) or context.probed.within("health", "app", window)):
        return CheckResult(
            None,
            "no probe of the app's process or uptime in the last hour",
            None,
            "probe",
            "starts of the process and resets of its uptime",
        )
    found = context.probed.restarts(window)
    words = (
        f"restarted at {', '.join(local(at) for at in found)}; all its WebSocket connections were closed"
        if found
        else "no restart in the last hour"
    )
    return CheckResult(
        not found,
        words,
        {"restarted_at_us": found},
        "probe",
        "starts of the process and resets of its uptime in the last hour",
        view="system",
    )


def socket(context: CheckContext) -> CheckResult:
    """Check that the app's WebSocket is open and sends messages, by our probe and by the page."""
    last, since = _last_with_words(context, "socket")
    page = {True: "connected", False: "disconnected", None: "unknown"}[
        connected := context.view.figures["system"]["websocket_connected"]
    ]
    query = "our probe's connection to the app's WebSocket, and the page's connection state"
    if last is None:
        return CheckResult(
            None if connected is None else connected,
            f"app page: {page}; our probes do not test the WebSocket",
            {"page": connected},
            "page",
            query,
            view="system",
        )
    outcome, details = OUTCOMES[last.outcome], context.probed.details(last)
    if "code" in details:
        code = f", code {details['code']}"
    elif "status" in details:
        code = f", HTTP {details['status']}"
    else:
        code = ""
    silent = f" for {formatting.duration(last.value)}" if last.outcome == "silent" and last.value is not None else ""
    ours = (
        f"probe: connected (response time {seconds(last.seconds)})"
        if outcome.usable
        else f"the app's WebSocket {outcome.words.split(':')[0]}{code}{silent}, {since}"
    )
    good = outcome.usable and connected is not False
    hint = "; only the page is disconnected: refresh it" if outcome.usable and connected is False else ""
    return CheckResult(
        good,
        f"{ours}; app page: {page}{hint}",
        {"ours": sample_as_json(last), "page": connected},
        "probe",
        query,
        view="system",
    )


def close_code(context: CheckContext) -> CheckResult:
    """Check the last close code of the WebSocket, from our probe and from the app's log."""
    window, query = (
        context.last(HOUR),
        "close codes of our probe's connection, and of the app's upstream in its log, in the last hour",
    )
    samples = context.probed.within("socket", "app", window)
    log = {k: v for k, v in context.probed.log_newest(window).items() if k in LINES["socket"]}
    codes = [(s.ts_us, context.probed.details(s)["code"]) for s in samples if "code" in context.probed.details(s)]
    if not samples and not log:
        return CheckResult(None, "no probe of the WebSocket in the last hour", None, "probe", query)
    content = {"codes": [{"at_us": at, "code": code} for at, code in codes[-LAST:]], "log": log}
    upstream = f"; the app's log: {'; '.join(log.values())}" if log else ""
    if not codes:
        lost = sum(not OUTCOMES[s.outcome].usable for s in samples)
        return CheckResult(
            None if lost or log else True,
            f"no close code received: {lost} of {len(samples)} probes failed{upstream}"
            if lost
            else f"not closed in the last hour ({len(samples)} probes){upstream}",
            content,
            "probe",
            query,
        )
    at_us, code = codes[-1]
    return CheckResult(
        code in IN_ORDER and not log,
        f"code {code} at {local(at_us)}: {CODES.get(code, 'application-defined code')}; expected "
        f"1000 or 1001{upstream}",
        content,
        "probe",
        query,
    )


def page_hears(context: CheckContext) -> CheckResult:
    """Check that a page is open and its WebSocket is connected."""
    reloads, now = context.view.counters.reloads(context.last(HOUR)), context.view.counters.open_at(context.at_us)
    connected = context.view.figures["system"]["websocket_connected"]
    loads = (
        f"reloaded at {', '.join(f'{at.astimezone(formatting.NEW_YORK):%H:%M:%S}' for at in reloads[-3:])} New York"
        if reloads
        else "no reload in the last hour"
    )
    content = {"pages_open": len(now), "reloads": [formatting.iso(at) for at in reloads], "connected": connected}
    if connected is None or not now:
        return CheckResult(
            None,
            f"no open page reports its WebSocket state ({len(now)} open; {loads})",
            content,
            "page",
            "WebSocket state as reported by the open pages",
        )
    return CheckResult(
        connected,
        f"pages open: {len(now)}, WebSocket {'connected' if connected else 'disconnected'}; {loads}",
        content,
        "page",
        "WebSocket state as reported by the open pages",
        view="system",
    )


def socket_quick(context: CheckContext) -> CheckResult:
    """Check the WebSocket's response time."""
    return context.by_rules(["websocket_latency"], view="system")


def log(context: CheckContext) -> CheckResult:
    """Check the errors in the app's log, of one subject or of all."""
    window, last = context.view.window, context.probed.now("log", "app", context.at_us)
    query = f"new lines of the app's log in the last {formatting.duration(window.seconds)}"
    if last is None or last.outcome != "ok":
        return CheckResult(
            None, "the app's log is not read: set OPS_APP_LOG, or send the log to POST /api/logs", None, "log", query
        )
    newest = context.probed.log_newest(window)
    kinds = {
        k: n for k, n in context.probed.log_kinds(window).items() if k in newest and k in LINES.get(context.of, newest)
    }
    if not kinds:
        return CheckResult(
            True,
            f"no {ABOUT[context.of]} in the last {formatting.duration(window.seconds)}",
            {"kinds": {}},
            "log",
            query,
        )
    counts = ", ".join(f"{kind.replace('_', ' ')} {n}" for kind, n in sorted(kinds.items(), key=lambda k: -k[1]))
    most = max(kinds, key=lambda k: kinds[k])
    return CheckResult(
        False,
        f"errors in the last {formatting.duration(window.seconds)}: {sum(kinds.values())} (expected: 0; {counts}); "
        f"newest: {formatting.single_line(newest[most], 120)}",
        {"kinds": kinds, "newest": {k: newest[k] for k in kinds}},
        "log",
        query,
        view="system",
    )


def host(context: CheckContext) -> CheckResult:
    """Check one subject on the app's host."""
    last: dict[str, Sample] = {}
    for sample in context.probed.within("host", "app", context.last(HOST_BACK)):
        if context.of in (name := context.probed.details(sample)["name"]):
            last[name] = sample
    query = f"commands run through host_prefix: {context.of}"
    if not last:
        commands = host_module.commands(context.workspace.settings, context.of)
        return CheckResult(
            None,
            f"the app's host was not checked: host_prefix is not set in settings.toml. Run there by hand: "
            f"{'; '.join(commands) or 'the commands that ops doctor lists'}",
            None,
            "host",
            query,
        )
    results = "; ".join(f"{name}: {context.probed.details(s)['told']}" for name, s in last.items())
    states = [{"ok": True, "server_5xx": False}.get(s.outcome) for s in last.values()]
    good = None if None in states else True
    return CheckResult(
        False if False in states else good,
        results,
        [sample_as_json(s) for s in last.values()],
        "host",
        query,
    )


def page_memory(context: CheckContext) -> CheckResult:
    """Check the memory of the app's page, if the page posts it."""
    return context.by_rules(["memory"], view="system")


def growth(context: CheckContext) -> CheckResult:
    """Check the memory growth of the app's server."""
    last, _ = _last_with_words(context, "process")
    return context.by_rules(
        ["memory_growth"],
        view="system",
        more=f"its size is {formatting.number(last.value, 'MB', 0)}" if last and last.value is not None else "",
    )


def errors(context: CheckContext) -> CheckResult:
    """Check the errors per hour, from the page and from the log."""
    types = context.view.figures["system"]["errors_by_type"]
    more = ", ".join(f"{kind} {n}" for kind, n in types.items()) if types else "the page does not send its error types"
    return context.by_rules(["errors"], view="system", more=more)


def _anything(context: CheckContext) -> bool:
    """Return whether any data of the app exists at that time."""
    return context.view.counters.last_seen_us(context.at_us) is not None or context.probed.any


def explained(context: CheckContext) -> CheckResult:
    """Check whether another alert inhibits the error alert; if so, continue with its runbook."""
    if not _anything(context):
        return CheckResult(
            None, "there is no data of this app, so no alert can be active", None, "alerts", "error alerts"
        )
    own = [a for a in context.view.alerts if a["rule"] == "errors" and a["state"] in ("firing", "pending", "unknown")]
    by = {a["inhibited_by"] for a in own if a["inhibited_by"]}
    cause = next((a for a in context.view.alerts if a["id"] in by and a["rule"] != "errors"), None)
    query = "alerts that inhibit error alerts"
    if cause:
        return CheckResult(
            False,
            f"inhibited by: {cause['sentence']}. Follow that alert's runbook first",
            {"by": cause["id"]},
            "alerts",
            query,
            cause["runbook"],
        )
    if own:
        return CheckResult(
            True,
            "no other alert inhibits them: the errors have their own cause",
            {"alerts": [a["id"] for a in own]},
            "alerts",
            query,
        )
    return CheckResult(True, "no error alert is active", {"alerts": []}, "alerts", query)


def alerts(context: CheckContext) -> CheckResult:
    """Check that no alert fires; if one does, continue with the runbook of the most severe."""
    from opslib.foundation.config.rules import SEVERITIES

    found = [a for a in context.view.alerts if a["state"] == "firing"]
    query = "firing alerts"
    if not found:
        return CheckResult(
            _anything(context) or None,
            "no alert fires" if _anything(context) else "there is no data of this app, so no alert can fire",
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


def dashboard_age(context: CheckContext) -> CheckResult:
    """Check the age of the dashboard's data."""
    return context.by_rules(["dashboard_lag"], view="system")


def posts(context: CheckContext) -> CheckResult:
    """Check that the pages' snapshots arrive."""
    silent, now = (
        indicators.silent_for_s(context.view.counters, context.view.window.end),
        context.view.counters.open_at(context.at_us),
    )
    more = (
        f"pages open: {len(now)}, newest snapshot {formatting.duration(silent)} ago"
        if silent is not None
        else "the market is closed: no snapshot is expected"
    )
    return context.by_rules(["silence"], view="system", more=more)


def beats(context: CheckContext) -> CheckResult:
    """Check the collector's heartbeats."""
    last, since = _last_with_words(context, "beat", "collector")
    details = context.probed.details(last) if last else {}
    parts = []
    if last and last.outcome == "stopped":
        parts.append(f"stopped {since}")
    if failing := details.get("failing"):
        parts.append(f"failing: {', '.join(failing)}")
    if lost := details.get("lost"):
        parts.append(f"{lost} samples lost")
    found = context.by_rules(["heartbeat"], view="system", more="; ".join(parts))
    return found._replace(good=False) if parts else found


def store(context: CheckContext) -> CheckResult:
    """Check the age of the newest rows in the database."""
    post_us, heartbeat = (
        context.view.counters.last_seen_us(context.at_us),
        context.probed.now("beat", "collector", context.at_us),
    )

    def ago(us: int) -> str:
        return formatting.duration((context.at_us - us) / 1e6)

    parts = ([f"newest snapshot {ago(post_us)} old"] if post_us is not None else []) + (
        [f"newest heartbeat {ago(heartbeat.ts_us)} old"] if heartbeat else []
    )
    content = {
        "seq": context.view.counters.seq,
        "newest_post_us": post_us,
        "newest_beat_us": heartbeat.ts_us if heartbeat else None,
    }
    return CheckResult(
        bool(parts) or None,
        f"the database responds: {', '.join(parts)}"
        if parts
        else "the database responds, but has no rows of the last hour",
        content,
        "store",
        "the newest rows",
    )


def clocks(context: CheckContext) -> CheckResult:
    """Check that all clocks agree with ours within the limit."""
    skews = parties(context.probed, context.view.figures["system"], context.at_us)
    if not skews:
        return CheckResult(
            None,
            "no clock to compare with ours",
            None,
            "probe",
            "clocks in responses and snapshots, and ours",
        )
    most = context.view.rules.skew_told_s
    clocks = compare(skews, most)
    offsets = ", ".join(
        f"{s} {k:+z.1f} s" for s, k in ({s: k for s, k in skews.items() if abs(k) > most} or skews).items()
    )
    whose = (
        f". {' '.join(words[0].upper() + words[1:] for words in clocks.sentences)}".removesuffix(".")
        if clocks.names
        else ""
    )
    return CheckResult(
        not clocks.names,
        f"{offsets}; expected within {most:g} s of ours{whose}",
        skews,
        "probe",
        "clocks in responses and snapshots, and ours",
        view="system",
    )


def changed(context: CheckContext) -> CheckResult:
    """Check for deployments and restarts in the last hour."""
    window = context.last(HOUR)
    marks = [
        m
        for m in Markers(context.workspace.store, context.workspace.settings).between(window.start_us, window.end_us)
        if m.kind in ("deploy", "restart")
    ]
    born = context.probed.restarts(window)
    changes = [f"{m.kind} at {local(m.ts_us)}: {m.words}" for m in marks] + [
        f"the server restarted at {local(at)}" for at in born
    ]
    content = {"marks": [m._asdict() for m in marks], "restarted_at_us": born}
    if not changes and not _anything(context):
        return CheckResult(
            None,
            "there is no marker, and no probe of the app",
            content,
            "marks",
            "ops mark deploy and restart, in the last hour",
        )
    return CheckResult(
        not changes,
        "; ".join(changes) or "no deployment or restart in the last hour, by markers and probes",
        content,
        "marks",
        "ops mark deploy and restart, and starts of the server, in the last hour",
    )


def lately(context: CheckContext) -> CheckResult:
    """Check the response time of the app's server."""
    from opslib.alerting import probe_figures

    found, rule = probe_figures.p95_s(context.probed, "app", context.last(LATELY)), context.view.rules["response_time"]
    if found is None:
        return CheckResult(
            None,
            "no recent response time of the app's server",
            None,
            "probe",
            "p95 of our probes of /api/health in the last 5 min",
        )
    limit = dict(rule.thresholds)["warning"]
    good = isinstance(limit, str) or not rule.crosses(found, limit)
    return CheckResult(
        good,
        f"p95 of the app's server ({seconds(found)}) {'≤' if good else '>'} {rule.format_limit(limit)}",
        {"p95_s": found},
        "probe",
        "p95 of our probes of /api/health in the last 5 min",
        view="system",
    )
