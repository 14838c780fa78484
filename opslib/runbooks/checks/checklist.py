"""Run the checks that only checklists use: objectives, the night, deployments, the monitoring itself."""

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from opslib.alerting import probe_figures
from opslib.dashboard import daily_figures, status
from opslib.dashboard.status import Status
from opslib.foundation import clock, formatting, market_calendar, time_parsing
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.config.rules import NAMES
from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.incidents.evidence import Entry
from opslib.runbooks.checklists import DEPLOYED
from opslib.runbooks.checks.context import HOUR, LATELY, CheckContext, local, sample_as_json, seconds
from opslib.runbooks.execution import CheckResult
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import SampleStore

BEAT_BACK = timedelta(hours=6)  # How far back the collector's memory is read.
COMPARED = timedelta(hours=2)  # How much of each side of a deployment is compared.
DAYS_KEYED = 86_400.0
RAISED = "raise_an_error"


def _opened(context: CheckContext) -> Entry:
    return context.incident.entries[0]


def _deployed(context: CheckContext) -> int | None:
    """Return the time of the deployment that this checklist follows."""
    return _opened(context).body.get(DEPLOYED)


# Objectives.


def target(context: CheckContext) -> CheckResult:
    """
    Check that a rule's objective is met over the window, from the page and from our probes.

    The subject is such as ``availability massive``.
    """
    name, subject = context.of.split()
    rule, length = context.view.rules[name], formatting.duration(context.view.window.seconds)
    found = list(_measured(context, name, subject, context.view.window))
    query = f"{rule.title} of {subject} over the last {length}, compared with the objective"
    aim = f"objective: {'at least' if rule.better == 'higher' else 'at most'} {rule.format_limit(rule.objective)}"
    if not found:
        return CheckResult(
            None, f"no data on the {rule.title} of {subject} in the last {length}; {aim}", None, "store", query
        )
    good = not any(rule.crosses(value, rule.objective) for _, value, _ in found)
    words = "; ".join(
        f"{who}: {rule.format_value(value)}{f' ({count})' if count else ''}" for who, value, count in found
    )
    return CheckResult(
        good,
        f"{rule.title} of {subject} in {length}: {words}; {aim}",
        [{"source": who, "value": value, "of": count} for who, value, count in found],
        "store",
        query,
        "" if good else rule.runbooks[subject],
        rule.panel,
    )


def _measured(context: CheckContext, name: str, subject: str, window: Window) -> Iterable[tuple[str, float, str]]:
    """Yield each known source, its value, and its counts."""
    f, probed = context.view.figures, context.probed
    match name:
        case "availability":
            page = f["providers"][subject]
            if page["availability"] is not None:
                yield "app page", page["availability"], f"{page['successes']:,} of {page['requests']:,}"
            part, count = probed.answered(subject, window)
            if count:
                yield "probes", part / count, f"{part:,} of {count:,}"
        case "response_time":
            p95 = probe_figures.p95_s(probed, subject, window)
            if p95 is not None:
                yield "probes", p95, f"p95 of {len(probed.seconds(subject, window)):,}"
        case "greeks_valid":
            if f["greeks"]["valid_rate"] is not None:
                yield (
                    "app page",
                    f["greeks"]["valid_rate"],
                    f"{f['greeks']['valid']:,} of {f['greeks']['validations']:,}",
                )
            for finding in context.findings:
                if finding.rule.name == name and finding.source == "chain" and finding.figure.value is not None:
                    yield "chains", finding.figure.value, f"{finding.figure.part:,} of {finding.figure.count:,}"
        case "errors":
            hours = window.seconds / 3600
            if f["system"]["errors"] is not None:
                yield "app page", f["system"]["errors"] / hours, f"{f['system']['errors']:,}"
            logged = probed.errors(window)
            if logged is not None:
                yield "log", logged / hours, f"{logged:,}"


def rule(context: CheckContext) -> CheckResult:
    """Check that a rule finds a subject healthy; the subject is such as ``backtest_variance app``."""
    name, subject = context.of.split()
    return context.by_rules([name], subject, context.view.rules[name].panel)


# The night.


def _night(context: CheckContext) -> Status:
    """Return the status since the last close."""
    at = context.view.window.end
    return status.view_at(context.workspace, at, at - market_calendar.last_closed(at).closes)


def _shut(window: Window) -> bool:
    """Return whether the market was closed for the whole window."""
    return not market_calendar.open_spans(window)


def night_errors(context: CheckContext) -> CheckResult:
    """Check the number of errors since the last close, with their kinds."""
    view, rule = _night(context), context.view.rules["errors"]
    window, paged = view.window, view.figures["system"]["errors"] if view.counters.snapshots_in(view.window) else None
    logged = view.probed.errors(window) if view.probed else None
    query = f"errors since {formatting.moment(window.start)}, from the pages and from the log"
    if paged is None and logged is None:
        return CheckResult(
            None, "since the last close, no page was open and the app's log was not read", None, "store", query
        )
    types = view.figures["system"]["errors_by_type"] or {}
    kinds = (
        {
            k: n
            for k, n in (view.probed.log_kinds(window) if view.probed else {}).items()
            if k in view.probed.log_newest(window)
        }
        if view.probed
        else {}
    )
    hours = max(1.0, window.seconds / 3600)
    most = max(n for n in (paged, logged) if n is not None)
    counts = [f"{n:,} ({who})" for n, who in ((paged, "pages"), (logged, "log")) if n is not None]
    listed = ", ".join(
        f"{kind.replace('_', ' ')} {n}" for kind, n in sorted((types | kinds).items(), key=lambda k: -k[1])
    )
    good = not rule.crosses(most / hours, rule.objective)
    words = (
        f"errors: {' and '.join(counts)} in {formatting.duration(window.seconds)} since the last "
        f"close{f': {listed}' if listed else ''}; objective: at most {rule.format_limit(rule.objective)}"
    )
    return CheckResult(
        good,
        words,
        {"pages": paged, "log": logged, "types": types, "kinds": kinds, "hours": hours},
        "store",
        query,
        "" if good else "error_rate",
        "system",
    )


def night_kinds(context: CheckContext) -> CheckResult:
    """Check that the kinds of the errors since the last close are known, however many there are."""
    found = night_errors(context)
    query = (
        f"kinds of errors since {formatting.moment(_night(context).window.start)}, from the pages' types "
        f"and the log's lines"
    )
    if found.content is None:
        return found._replace(query=query)
    kinds = found.content["types"] | found.content["kinds"]
    errors = max(n for n in (found.content["pages"], found.content["log"]) if n is not None)
    if errors and not kinds:
        return CheckResult(
            None,
            f"errors of unknown kind: {errors:,}; the pages do not send error types, and the log names none",
            found.content,
            "store",
            query,
            view="system",
        )
    listed = ", ".join(f"{kind.replace('_', ' ')} {n}" for kind, n in sorted(kinds.items(), key=lambda k: -k[1]))
    return CheckResult(
        True, f"by kind: {listed}" if kinds else "no errors", found.content, "store", query, view="system"
    )


def night_serious(context: CheckContext) -> CheckResult:
    """Check gamma zero and delta out of bounds since the last close against their warning limits."""
    view = _night(context)
    greeks, query = view.figures["greeks"], f"validations since {formatting.moment(view.window.start)}"
    if not greeks["validations"]:
        shut = (_shut(view.window) and greeks["validations"] is not None) or (
            _shut(view.window) and not view.counters.snapshots_in(view.window)
        )
        return CheckResult(
            shut or None,
            "the market was closed; nothing was validated since the last close"
            if shut
            else "no data on validations since the last close",
            None,
            "page",
            query,
        )
    rates = {
        name: greeks[name] / greeks["validations"]
        for name in ("gamma_zero", "delta_out_of_bounds")
        if greeks[name] is not None
    }
    past = [
        name for name, rate in rates.items() if view.rules[name].crosses(rate, float(view.rules[name].thresholds[0][1]))
    ]
    alerts = "; ".join(
        f"{view.rules[name].title} {greeks[name]:,} of {greeks['validations']:,} "
        f"({view.rules[name].format_value(rate)}, "
        f"warning from {view.rules[name].format_limit(view.rules[name].thresholds[0][1])})"
        for name, rate in rates.items()
    )
    return CheckResult(
        not past,
        alerts,
        {name: greeks[name] for name in ("validations", *rates)},
        "page",
        query,
        "greeks_quality" if past else "",
        "greeks",
    )


def keys(context: CheckContext) -> CheckResult:
    """Check the age of the providers' keys, by the files that hold them."""
    settings, most, age_days = (
        context.workspace.settings,
        context.view.rules.probes.key_old_days,
        dict[str, float | None](),
    )
    for provider in PROVIDERS:
        name = f"OPS_{provider.upper()}_TOKEN"
        if not settings.secret(name):
            continue
        try:
            changed_s = Path(settings.secret_files[name]).stat().st_mtime if name in settings.secret_files else None
        except OSError:
            changed_s = None
        age_days[provider] = None if changed_s is None else (context.at_us / SECOND - changed_s) / DAYS_KEYED
    query = f"age of the files that hold the keys; at most {most:g} days"
    if not age_days:
        return CheckResult(
            None,
            "no file with a provider key is configured (OPS_MASSIVE_TOKEN_FILE, OPS_TRADIER_TOKEN_FILE)",
            None,
            "settings",
            query,
        )
    ages = {
        provider: "age unknown, because the key is set in the environment and not in a file"
        if age is None
        else f"{max(0.0, age):.0f} days old"
        for provider, age in age_days.items()
    }
    words = "; ".join(f"{provider}: {age}" for provider, age in ages.items())
    old = [p for p, age in age_days.items() if age is not None and age > most]
    if old:
        good = False
    elif None in age_days.values():
        good = None
    else:
        good = True
    return CheckResult(good, f"{words}; expected at most {most:g} days", age_days, "settings", query)


# Recording.


def counted(context: CheckContext) -> CheckResult:
    """Check that counters of the app's page increase within an hour of trading; the subject names them."""
    window, increases = context.last(HOUR), dict[str, Any]()
    for name in context.of.split():
        provider = name.partition("_")[0]
        increases[name] = (
            None
            if provider in PROVIDERS and provider not in context.view.counters.wired
            else context.view.counters.increase(name, window)
        )
    query = f"increases of {', '.join(context.of.split())} in the last hour"
    words = ", ".join(
        f"{name.replace('_', ' ')} {'not reported' if increase is None else f'+{increase:,}'}"
        for name, increase in increases.items()
    )
    if _shut(window):
        return CheckResult(None, f"the market was closed in the last hour; {words}", increases, "page", query)
    if not context.view.counters.snapshots_in(window):
        return CheckResult(None, "no page posted in the last hour", increases, "page", query)
    return CheckResult(
        all(increases.values()), f"in the last hour: {words}", increases, "page", query, view="providers"
    )


def _today(context: CheckContext) -> Status | None:
    """Return the status since the open of the current or the last session."""
    at = context.view.window.end
    opens = market_calendar.open_since(at) or market_calendar.last_closed(at).opens
    return status.view_at(context.workspace, at, at - opens)


def costs_recorded(context: CheckContext) -> CheckResult:
    """Check that trades are recorded with commission and slippage."""
    view = _today(context)
    assert view
    page = view.page_pnl
    query = f"trades and costs that the pages counted since {formatting.moment(view.window.start)}"
    content = {name: page[name] for name in ("trades", "commission_usd", "slippage_usd")}
    if not page["trades"]:
        return CheckResult(
            None,
            "no trade was recorded since the open: make one, then check again"
            if page["trades"] == 0
            else "no page reported trades since the open",
            content,
            "page",
            query,
        )
    lacking = [
        words for name, words in (("commission_usd", "commission"), ("slippage_usd", "slippage")) if not page[name]
    ]
    words = (
        f"{page['trades']:,} trades, commission {formatting.dollars(page['commission_usd'])}, slippage "
        f"{formatting.dollars(page['slippage_usd'])}"
        if not lacking
        else f"{page['trades']:,} trades without {' and '.join(lacking)}"
    )
    return CheckResult(
        not lacking, f"{words} since the open", content, "page", query, "backtest_variance" if lacking else "", "pnl"
    )


def fallback_used(context: CheckContext) -> CheckResult:
    """Check that requests that Massive failed since the deployment went to Tradier and were counted."""
    since_us = _deployed(context) or context.at_us - clock.span_us(timedelta(days=1))
    at = context.view.window.end
    view = status.view_at(context.workspace, at, at - clock.instant(since_us))
    massive, tradier = (view.figures["providers"][name] for name in PROVIDERS)
    query = f"requests that the pages counted since {formatting.moment(clock.instant(since_us))}"
    content = {
        "massive_failures": massive["failures"],
        "tradier_requests": tradier["requests"],
        "fallbacks": massive["fallbacks"],
    }
    if not massive["failures"]:
        return CheckResult(
            None,
            "Massive has not failed since: the fallback count cannot be checked yet"
            if massive["failures"] == 0
            else "the pages do not count requests to Massive",
            content,
            "page",
            query,
        )
    used = massive["fallbacks"] if massive["fallbacks"] is not None else tradier["requests"]
    words = (
        f"{massive['failures']:,} requests to Massive failed; "
        f"{'fallbacks counted' if massive['fallbacks'] is not None else 'requests to Tradier'}: "
        f"{formatting.number(used)}"
    )
    return CheckResult(
        None if used is None else used > 0,
        words,
        content,
        "page",
        query,
        "" if used else "provider_availability",
        "providers",
    )


def metrics(context: CheckContext) -> CheckResult:
    """Check that the app responds at /api/metrics with JSON."""
    last, query = (
        context.probed.now("metrics", "app", context.at_us),
        "the last probe of GET /api/metrics of the app's server",
    )
    if last is None:
        return CheckResult(None, "no recent probe of /api/metrics", None, "probe", query)
    outcome = OUTCOMES[last.outcome]
    return CheckResult(
        outcome.usable,
        f"/api/metrics {outcome.words} ({seconds(last.seconds)})",
        sample_as_json(last),
        "probe",
        query,
        "" if outcome.usable else "monitor_down",
    )


def begins(context: CheckContext) -> CheckResult:
    """Check that the last loaded page started to post."""
    most_s, window = context.view.rules.days.begins_s, context.last(HOUR)
    loaded = [
        (page.loaded_at_us, page)
        for page in context.view.counters.pages
        if page.loaded_at_us is not None and window.start_us < page.loaded_at_us <= window.end_us
    ]
    query = "the first snapshot of each page that was loaded in the last hour"
    if not loaded:
        return CheckResult(None, "no page was loaded in the last hour: load one, then check again", None, "page", query)
    at_us, page = max(loaded, key=lambda found: found[0])
    after_s = (page.times[0] - at_us) / SECOND
    return CheckResult(
        after_s <= most_s,
        f"page load at {local(at_us)}, first snapshot {formatting.duration(max(0.0, after_s))} later, "
        f"{len(page.times):,} snapshots since; expected within {formatting.duration(most_s)}",
        {"loaded_us": at_us, "first_post_us": page.times[0]},
        "page",
        query,
        view="system",
    )


def filled(context: CheckContext) -> CheckResult:
    """Check that all four panels have data."""
    found = {name: context.view.panel(name) for name in NAMES}
    empty = [panel.title for panel in found.values() if not panel.evaluated]
    words = f"nothing to evaluate on: {', '.join(empty)}" if empty else f"{len(found)} of {len(found)} panels have data"
    return CheckResult(
        not empty if context.view.counters.last_seen_us(context.at_us) is not None or context.probed.any else None,
        words,
        {name: panel.verdict_text for name, panel in found.items()},
        "panels",
        "the four panels over the last hour",
    )


def rhythm(context: CheckContext) -> CheckResult:
    """Check the update interval of the open pages."""
    every_s, window = context.workspace.settings.post_every_s, context.last(LATELY)
    gaps = sorted(
        (b - a) / SECOND
        for page, _ in context.view.counters.open_at(context.at_us)
        for a, b in zip(page.times, page.times[1:])
        if window.start_us < b <= window.end_us
    )
    query = "intervals between the snapshots of the open pages in the last 5 min"
    if not gaps:
        return CheckResult(None, "no open page sent two snapshots in the last 5 min", None, "page", query)
    middle, most = gaps[len(gaps) // 2], context.view.rules.pages.late_after * every_s
    return CheckResult(
        middle <= most,
        f"every {middle:.1f} s, longest {gaps[-1]:.1f} s ({len(gaps):,} intervals); expected every {every_s:g} s",
        {"median_s": middle, "longest_s": gaps[-1], "gaps": len(gaps)},
        "page",
        query,
        "" if middle <= most else "dashboard_slow",
        "system",
    )


def memory(context: CheckContext) -> CheckResult:
    """Check the memory of the app's page and server."""
    return context.by_rules(["memory", "memory_growth"], view="system", next="memory_growth")


def error_seen(context: CheckContext) -> CheckResult:
    """Check that the test error was counted within two intervals."""
    raised = next(
        (did.entry for (_, step), did in context.incident.steps.items() if step == RAISED and did.state == "done"), None
    )
    query = "errors counted within two intervals after the test error"
    if raised is None:
        return CheckResult(None, f"no test error was caused yet: run {RAISED} first, with a hook", None, "store", query)
    heartbeat = context.probed.now("beat", "collector", context.at_us)
    paces = {
        "page": context.workspace.settings.post_every_s,
        "log": float(context.probed.details(heartbeat).get("every_s", context.workspace.settings.post_every_s))
        if heartbeat
        else context.workspace.settings.post_every_s,
    }
    found, over = dict[str, int | None](), True
    for who, every_s in paces.items():
        upto = min(raised.at_us + round(2 * every_s * SECOND), context.at_us)
        over = over and context.at_us >= raised.at_us + round(2 * every_s * SECOND)
        window = Window(clock.instant(raised.at_us), clock.instant(max(upto, raised.at_us)))
        seen = status.view(context.workspace.store, context.workspace.settings, context.view.rules, window)
        if who == "page":
            found[who] = seen.figures["system"]["errors"] if seen.counters.snapshots_in(window) else None
        elif seen.probed:
            found[who] = seen.probed.errors(window)
        else:
            found[who] = None
    counts = ", ".join(f"{who}: {'unknown' if n is None else n}" for who, n in found.items())
    if any(found.values()):
        return CheckResult(
            True,
            f"caused at {local(raised.at_us)}, counted within two intervals ({counts})",
            found,
            "store",
            query,
            view="system",
        )
    good = None if not over or all(n is None for n in found.values()) else False
    return CheckResult(
        good,
        f"caused at {local(raised.at_us)}, "
        f"{'not counted within two intervals' if good is False else 'not counted yet'} ({counts})",
        found,
        "store",
        query,
        "error_rate" if good is False else "",
        "system",
    )


# Since a deployment.


def no_slower(context: CheckContext) -> CheckResult:
    """Check that the app is not slower than before the deployment, by p95 with its 95 % interval."""
    deployed_us = _deployed(context)
    query = (
        f"p95 of our probes of the app's server, {formatting.duration(COMPARED.total_seconds())} before and "
        f"after the deployment"
    )
    if deployed_us is None:
        return CheckResult(
            None,
            "no deployment marker: set one with ops mark deploy TEXT, or with the deployment's own item",
            None,
            "probe",
            query,
        )
    back, least = clock.span_us(COMPARED), context.view.rules.days.least_looks
    kept = SampleStore(context.workspace.store, context.workspace.settings.app)

    def took(start_us: int, end_us: int) -> list[float]:
        return [
            s.seconds
            for s in kept.between(start_us, end_us)
            if (s.probe, s.subject) == ("health", "app") and s.seconds is not None and OUTCOMES[s.outcome].usable
        ]

    sides = {
        "before": took(deployed_us - back, deployed_us),
        "after": took(max(deployed_us, context.at_us - back), context.at_us),
    }
    if short := [f"{len(found):,} {side}" for side, found in sides.items() if len(found) < least]:
        return CheckResult(
            None,
            f"too few samples to compare: {' and '.join(short)}; {least:g} required on each side",
            {side: len(found) for side, found in sides.items()},
            "probe",
            query,
        )
    spans = {side: p95_interval(found) for side, found in sides.items()}
    comparison = "; ".join(
        f"{side} {seconds(p95)} ({seconds(low)} to {seconds(high)}, n {len(sides[side]):,})"
        for side, (low, p95, high) in spans.items()
    )
    good = spans["after"][0] <= spans["before"][2]
    return CheckResult(
        good,
        f"p95 {comparison}",
        {
            side: {"low_s": low, "p95_s": p95, "high_s": high, "looks": len(sides[side])}
            for side, (low, p95, high) in spans.items()
        },
        "probe",
        query,
        "" if good else "dashboard_slow",
        "system",
    )


def p95_interval(found: list[float]) -> tuple[float, float, float]:
    """
    Return the p95 with its distribution-free 95 % interval: low, value, high.
    """
    from scipy.stats import quantile_test

    at: Any = quantile_test(found, p=0.95).confidence_interval(confidence_level=0.95)  # Its type says a float.
    ordered = sorted(found)
    middle = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    low, high = float(at.low), float(at.high)
    return (low if low == low else ordered[0], middle, high if high == high else ordered[-1])


def trends(context: CheckContext) -> CheckResult:
    """Check that every figure of the last closed day is within the usual range of earlier days."""
    workspace, session = context.workspace, market_calendar.last_closed(context.view.window.end)
    past = daily_figures.DailyFigures(workspace.store, workspace.settings, context.view.rules, workspace.cache)
    today, before = past.of(session), past.before(session.day)
    query = f"figures of {session.day}, compared with the {context.view.rules.days.usual_days:g} trading days before"
    if today is None:
        return CheckResult(None, f"no data of {session.day}, the last closed day", None, "store", query)
    usually = {name: daily_figures.usual(before, name, context.view.rules.days) for name in daily_figures.WORDS}
    content = {
        name: {"value": today.figures[name], "low": u.low, "high": u.high, "days": u.n} for name, u in usually.items()
    }
    off = [
        f"{daily_figures.WORDS[name][0]} "
        f"{formatting.number(today.figures[name], daily_figures.WORDS[name][1], 2)} (usual range "
        f"{formatting.number(u.low, '', 2)} to {formatting.number(u.high, '', 2)})"
        for name, u in usually.items()
        if u.outside(today.figures[name])
    ]
    known = [name for name, u in usually.items() if u.outside(today.figures[name]) is not None]
    if not known:
        return CheckResult(
            None,
            f"{len(before)} trading days before {session.day} are stored; {context.view.rules.days.least_days:g} "
            f"are required for the usual range",
            content,
            "store",
            query,
        )
    return CheckResult(
        not off,
        f"{session.day}: "
        f"{'; '.join(off) if off else f'{len(known)} of {len(usually)} figures compared, all within the usual range'} "
        f"(n {len(before)} days)",
        content,
        "store",
        query,
    )


def staged(context: CheckContext) -> CheckResult:
    """Check that one of the seven days on staging was monitored; the subject is its number."""
    day = clock.instant(_opened(context).at_us).astimezone(NEW_YORK).date() + timedelta(days=int(context.of) - 1)
    window, at = _whole(day), context.view.window.end
    query = f"snapshots of {day}, day {context.of} of 7"
    if at < window.end:
        return CheckResult(
            None,
            f"{day} {'is not over' if at > window.start else 'has not begun'}",
            {"day": str(day)},
            "page",
            query,
        )
    session = market_calendar.session(day)
    seen = status.view(
        context.workspace.store, context.workspace.settings, context.view.rules, session.window if session else window
    )
    snapshots, coverage = seen.counters.snapshots_in(seen.window), seen.coverage
    loads = sum(
        1
        for page in seen.counters.pages
        if page.loaded_at_us is not None and window.start_us < page.loaded_at_us <= window.end_us
    )
    requests = sum(n for name in PROVIDERS if (n := seen.figures["providers"][name]["requests"]) is not None)
    content = {"day": str(day), "posts": snapshots, "coverage": coverage, "pages_loaded": loads, "requests": requests}
    if not snapshots:
        return CheckResult(False, f"missed: no snapshot on {day}", content, "page", query)
    needed = context.view.rules["availability"].min_coverage
    lacks = [
        words
        for words, wrong in (
            (
                f"only {formatting.ratio(coverage, 1)} of the expected snapshots were received",
                coverage is not None and coverage < needed,
            ),
            ("no page load: the browser was not restarted", not loads),
            ("no counter increased", not requests),
        )
        if wrong
    ]
    expected = f", {formatting.ratio(coverage, 1)} of those expected" if coverage is not None else " (no trading day)"
    summary = f"{day}: {snapshots:,} snapshots{expected}, {loads} page loads, {requests:,} requests counted"
    return CheckResult(
        not lacks, f"{summary}{'; incomplete: ' + '; '.join(lacks) if lacks else ''}", content, "page", query
    )


def _whole(day: date) -> Window:
    start: datetime = time_parsing.parse(f"{day}T00:00")
    return Window(start, time_parsing.parse(f"{day + timedelta(days=1)}T00:00"))


# The monitoring itself.


def independent(context: CheckContext) -> CheckResult:
    """Check that every kind of probe continues, whichever of its targets fails."""
    window, query = context.last(HOUR), "every kind of probe of the last hour, and whether it ran recently"
    kinds = [
        (probe, subject)
        for probe, subject in context.probed.kinds
        if probe != "beat" and context.probed.within(probe, subject, window)
    ]
    if not kinds:
        return CheckResult(None, "no probe ran in the last hour", None, "probe", query)
    now = {(probe, subject): context.probed.now(probe, subject, context.at_us) for probe, subject in kinds}

    def named(probe: str, subject: str) -> str:
        return f"{probe} of {subject}"

    stopped = [named(*kind) for kind, last in now.items() if last is None]
    trouble = [named(*kind) for kind, last in now.items() if last is not None and not OUTCOMES[last.outcome].usable]
    found = (
        f"failing: {', '.join(trouble)}; all others continue"
        if trouble and not stopped
        else f"{len(trouble)} of them fail"
    )
    words = (
        f"{len(kinds) - len(stopped)} of {len(kinds)} kinds of probes ran "
        f"recently{', not ' + ', '.join(stopped) if stopped else ''}; {found}"
    )
    return CheckResult(
        not stopped,
        words,
        {named(*kind): None if last is None else last.outcome for kind, last in now.items()},
        "probe",
        query,
        "monitor_down" if stopped else "",
    )


def own_growth(context: CheckContext) -> CheckResult:
    """Check the memory growth of our collector."""
    rule, query = (
        context.view.rules["memory_growth"],
        f"memory in the collector's heartbeats over {formatting.duration(BEAT_BACK.total_seconds())}",
    )
    kept = SampleStore(context.workspace.store, context.workspace.settings.app).between(
        context.at_us - clock.span_us(BEAT_BACK), context.at_us
    )
    heartbeats = [(s.ts_us, s.value) for s in kept if s.probe == "beat" and s.outcome == "ok" and s.value is not None]
    fell = max(
        (i for i in range(1, len(heartbeats)) if heartbeats[i][1] < heartbeats[i - 1][1] / 2), default=0
    )  # The collector restarted.
    heartbeats = heartbeats[fell:]
    hours = (heartbeats[-1][0] - heartbeats[0][0]) / SECOND / 3600 if heartbeats else 0.0
    if hours < 0.25:
        return CheckResult(
            None, f"the collector's memory is known only for {formatting.duration(hours * 3600)}", None, "probe", query
        )
    third = max(1, len(heartbeats) // 3)

    def middle(part: list[tuple[int, float]]) -> float:
        return sorted(value for _, value in part)[len(part) // 2]

    first, last = middle(heartbeats[:third]), middle(heartbeats[-third:])
    growth = (last - first) / (hours * 2 / 3)
    limit = float(rule.thresholds[0][1])
    return CheckResult(
        not rule.crosses(growth, limit),
        f"from {first:.0f} MB to {last:.0f} MB: {growth:+z.1f} MB per h over {formatting.duration(hours * 3600)}; "
        f"warning from {rule.format_limit(limit)}",
        {"first_mb": first, "last_mb": last, "hours": hours, "beats": len(heartbeats)},
        "probe",
        query,
    )
