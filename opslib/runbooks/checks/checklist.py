"""Run the checks that only checklists ask: the guide's aims, the night, deployments, the monitoring itself."""

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
from opslib.runbooks.checks.context import HOUR, LATELY, CheckContext, local, looked, seconds
from opslib.runbooks.execution import CheckResult
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import SampleStore

BEAT_BACK = timedelta(hours=6)  # So far back our collector's memory is read.
COMPARED = timedelta(hours=2)  # So much of each side of a deployment is compared.
DAYS_KEYED = 86_400.0
RAISED = "raise_an_error"


def _opened(scene: CheckContext) -> Entry:
    return scene.incident.entries[0]


def _deployed(scene: CheckContext) -> int | None:
    """When was what this checklist follows deployed?"""
    return _opened(scene).body.get(DEPLOYED)


# The aims.


def target(scene: CheckContext) -> CheckResult:
    """
    Is the objective of a rule met over the window, by the page and by our own looks?

    Asked as ``availability massive``.
    """
    name, subject = scene.of.split()
    rule, length = scene.view.rules[name], formatting.duration(scene.view.window.seconds)
    found = list(_measured(scene, name, subject, scene.view.window))
    query = f"{rule.title} of {subject} over the last {length}, against the objective"
    aim = f"{'at least' if rule.better == 'higher' else 'at most'} {rule.limit_told(rule.objective)} is aimed for"
    if not found:
        return CheckResult(
            None, f"nothing of the last {length} tells the {rule.title} of {subject}; {aim}", None, "store", query
        )
    good = not any(rule.past(value, rule.objective) for _, value, _ in found)
    words = "; ".join(f"{who} {rule.told(value)}{f' ({count})' if count else ''}" for who, value, count in found)
    return CheckResult(
        good,
        f"{rule.title} of {subject} in {length}: {words}; {aim}",
        [{"source": who, "value": value, "of": count} for who, value, count in found],
        "store",
        query,
        "" if good else rule.runbooks[subject],
        rule.panel,
    )


def _measured(scene: CheckContext, name: str, subject: str, window: Window) -> Iterable[tuple[str, float, str]]:
    """Who says so, the value, and what it is made of; only of what is known."""
    f, probed = scene.view.figures, scene.probed
    match name:
        case "availability":
            page = f["providers"][subject]
            if page["availability"] is not None:
                yield "by the page", page["availability"], f"{page['successes']:,} of {page['requests']:,}"
            part, count = probed.answered(subject, window)
            if count:
                yield "by our looks", part / count, f"{part:,} of {count:,}"
        case "response_time":
            p95 = probe_figures.p95_s(probed, subject, window)
            if p95 is not None:
                yield "by our looks", p95, f"p95 of {len(probed.seconds(subject, window)):,}"
        case "greeks_valid":
            if f["greeks"]["valid_rate"] is not None:
                yield (
                    "by the page",
                    f["greeks"]["valid_rate"],
                    f"{f['greeks']['valid']:,} of {f['greeks']['validations']:,}",
                )
            for finding in scene.judged:
                if finding.rule.name == name and finding.source == "chain" and finding.figure.value is not None:
                    yield "by our chains", finding.figure.value, f"{finding.figure.part:,} of {finding.figure.count:,}"
        case "errors":
            hours = window.seconds / 3600
            if f["system"]["errors"] is not None:
                yield "by the page", f["system"]["errors"] / hours, f"{f['system']['errors']:,}"
            logged = probed.errors(window)
            if logged is not None:
                yield "by the log", logged / hours, f"{logged:,}"


def rule(scene: CheckContext) -> CheckResult:
    """Does a rule find a subject well? Asked as ``backtest_variance app``."""
    name, subject = scene.of.split()
    return scene.ruled([name], subject, scene.view.rules[name].panel)


# The night.


def _night(scene: CheckContext) -> Status:
    """Everything since the last close."""
    at = scene.view.window.end
    return status.view_at(scene.workspace, at, at - market_calendar.last_closed(at).closes)


def _shut(window: Window) -> bool:
    """Was the market closed all the while?"""
    return not market_calendar.open_spans(window)


def night_errors(scene: CheckContext) -> CheckResult:
    """How many errors came since the last close, and of which kinds?"""
    view, rule = _night(scene), scene.view.rules["errors"]
    window, paged = view.window, view.figures["system"]["errors"] if view.tape.looks_in(view.window) else None
    logged = view.probed.errors(window) if view.probed else None
    query = f"errors from {formatting.moment(window.start)} on, by the pages and by the log"
    if paged is None and logged is None:
        return CheckResult(
            None, "since the last close no page was open, and the app's log was not read", None, "store", query
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
    told = [f"{n:,} {who}" for n, who in ((paged, "by the pages"), (logged, "by the log")) if n is not None]
    listed = ", ".join(
        f"{kind.replace('_', ' ')} {n}" for kind, n in sorted((types | kinds).items(), key=lambda k: -k[1])
    )
    good = not rule.past(most / hours, rule.objective)
    words = (
        f"{' and '.join(told)} in {formatting.duration(window.seconds)} since the last "
        f"close{f': {listed}' if listed else ''}; at most {rule.limit_told(rule.objective)} is aimed for"
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


def night_kinds(scene: CheckContext) -> CheckResult:
    """Of which kinds were the errors since the last close? As expected where that is known, however many they are."""
    found = night_errors(scene)
    query = (
        f"kinds of errors from {formatting.moment(_night(scene).window.start)} on, by the pages' types "
        f"and the log's lines"
    )
    if found.content is None:
        return found._replace(query=query)
    kinds = found.content["types"] | found.content["kinds"]
    errors = max(n for n in (found.content["pages"], found.content["log"]) if n is not None)
    if errors and not kinds:
        return CheckResult(
            None,
            f"{errors:,} errors, and nothing tells of which kinds: the pages' types are lost in their posts, "
            f"and the log names none",
            found.content,
            "store",
            query,
            view="system",
        )
    listed = ", ".join(f"{kind.replace('_', ' ')} {n}" for kind, n in sorted(kinds.items(), key=lambda k: -k[1]))
    return CheckResult(
        True, f"by kind: {listed}" if kinds else "no error, so no kind", found.content, "store", query, view="system"
    )


def night_serious(scene: CheckContext) -> CheckResult:
    """Were there more Greeks with a gamma of zero, or a delta out of bounds, since the last close than chance makes?"""
    view = _night(scene)
    greeks, query = view.figures["greeks"], f"validations from {formatting.moment(view.window.start)} on"
    if not greeks["validations"]:
        shut = (_shut(view.window) and greeks["validations"] is not None) or (
            _shut(view.window) and not view.tape.looks_in(view.window)
        )
        return CheckResult(
            shut or None,
            "the market was closed, and nothing was validated since"
            if shut
            else "it is not known what was validated since the last close",
            None,
            "page",
            query,
        )
    rates = {
        name: greeks[name] / greeks["validations"]
        for name in ("gamma_zero", "delta_out_of_bounds")
        if greeks[name] is not None
    }
    past = [name for name, rate in rates.items() if view.rules[name].past(rate, float(view.rules[name].ladder[0][1]))]
    told = "; ".join(
        f"{view.rules[name].title} {greeks[name]:,} of {greeks['validations']:,} "
        f"({view.rules[name].told(rate)}, a warning from {view.rules[name].limit_told(view.rules[name].ladder[0][1])})"
        for name, rate in rates.items()
    )
    return CheckResult(
        not past,
        told,
        {name: greeks[name] for name in ("validations", *rates)},
        "page",
        query,
        "greeks_quality" if past else "",
        "greeks",
    )


def keys(scene: CheckContext) -> CheckResult:
    """How old are the keys to the providers, by the files that hold them?"""
    settings, most, told = scene.workspace.settings, scene.view.rules.probes.key_old_days, dict[str, float | None]()
    for provider in PROVIDERS:
        name = f"OPS_{provider.upper()}_TOKEN"
        if not settings.secret(name):
            continue
        try:
            changed_s = Path(settings.secret_files[name]).stat().st_mtime if name in settings.secret_files else None
        except OSError:
            changed_s = None
        told[provider] = None if changed_s is None else (scene.at_us / SECOND - changed_s) / DAYS_KEYED
    query = f"age of the files that hold the keys; at most {most:g} days"
    if not told:
        return CheckResult(
            None,
            "no key to a provider is set: OPS_MASSIVE_TOKEN_FILE and OPS_TRADIER_TOKEN_FILE name files that hold one",
            None,
            "settings",
            query,
        )
    ages = {
        provider: "its key comes from the environment, which does not tell its age"
        if age is None
        else f"{max(0.0, age):.0f} days old"
        for provider, age in told.items()
    }
    words = "; ".join(f"{provider}: {age}" for provider, age in ages.items())
    old = [p for p, age in told.items() if age is not None and age > most]
    if old:
        good = False
    elif None in told.values():
        good = None
    else:
        good = True
    return CheckResult(good, f"{words}; at most {most:g} days are wanted", told, "settings", query)


# Is everything recorded?


def counted(scene: CheckContext) -> CheckResult:
    """Do counters of the app's page rise within an hour of trading? Asked as their names."""
    window, rises = scene.last(HOUR), dict[str, Any]()
    for name in scene.of.split():
        provider = name.partition("_")[0]
        rises[name] = (
            None
            if provider in PROVIDERS and provider not in scene.view.tape.alive
            else scene.view.tape.rise(name, window)
        )
    query = f"increases of {', '.join(scene.of.split())} in the last hour"
    words = ", ".join(
        f"{name.replace('_', ' ')} {'not counted' if rise is None else f'+{rise:,}'}" for name, rise in rises.items()
    )
    if _shut(window):
        return CheckResult(None, f"the market was closed in the last hour; {words}", rises, "page", query)
    if not scene.view.tape.looks_in(window):
        return CheckResult(None, "no page posted in the last hour", rises, "page", query)
    return CheckResult(all(rises.values()), f"in the last hour: {words}", rises, "page", query, view="providers")


def _today(scene: CheckContext) -> Status | None:
    """Everything since the open of the session that is on, or the last one."""
    at = scene.view.window.end
    opens = market_calendar.open_since(at) or market_calendar.last_closed(at).opens
    return status.view_at(scene.workspace, at, at - opens)


def costs_recorded(scene: CheckContext) -> CheckResult:
    """Are trades recorded with their commissions and slippage?"""
    view = _today(scene)
    assert view
    page = view.page_pnl
    query = f"trades and costs that the pages counted since {formatting.moment(view.window.start)}"
    content = {name: page[name] for name in ("trades", "commission_usd", "slippage_usd")}
    if not page["trades"]:
        return CheckResult(
            None,
            "no trade was recorded since the open: make one, then look again"
            if page["trades"] == 0
            else "no page told of trades since the open",
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
        else f"{page['trades']:,} trades, and no {' nor '.join(lacking)}"
    )
    return CheckResult(
        not lacking, f"{words} since the open", content, "page", query, "backtest_variance" if lacking else "", "pnl"
    )


def fallback_used(scene: CheckContext) -> CheckResult:
    """Where Massive failed since the deployment, was Tradier asked, and counted?"""
    since_us = _deployed(scene) or scene.at_us - clock.span_us(timedelta(days=1))
    at = scene.view.window.end
    view = status.view_at(scene.workspace, at, at - clock.instant(since_us))
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
            "Massive did not fail since: nothing shows yet that its fallback is counted"
            if massive["failures"] == 0
            else "the pages tell of no requests to Massive",
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


def metrics(scene: CheckContext) -> CheckResult:
    """Does the app answer for /api/metrics, with its own JSON?"""
    last, query = scene.probed.now("metrics", "app", scene.at_us), "GET /api/metrics of the app's server, the last look"
    if last is None:
        return CheckResult(None, "nobody has asked the app for /api/metrics lately", None, "probe", query)
    outcome = OUTCOMES[last.outcome]
    return CheckResult(
        outcome.usable,
        f"/api/metrics {outcome.words} ({seconds(last.seconds)})",
        looked(last),
        "probe",
        query,
        "" if outcome.usable else "monitor_down",
    )


def begins(scene: CheckContext) -> CheckResult:
    """Did the page that was loaded last begin to post?"""
    most_s, window = scene.view.rules.days.begins_s, scene.last(HOUR)
    loaded = [
        (page.loaded_at_us, page)
        for page in scene.view.tape.pages
        if page.loaded_at_us is not None and window.start_us < page.loaded_at_us <= window.end_us
    ]
    query = "the first post of each page that was loaded in the last hour"
    if not loaded:
        return CheckResult(None, "no page was loaded in the last hour: load one, then look again", None, "page", query)
    at_us, page = max(loaded, key=lambda found: found[0])
    after_s = (page.times[0] - at_us) / SECOND
    return CheckResult(
        after_s <= most_s,
        f"a page was loaded at {local(at_us)} and posted first {formatting.duration(max(0.0, after_s))} later, "
        f"{len(page.times):,} posts since; within {formatting.duration(most_s)} was expected",
        {"loaded_us": at_us, "first_post_us": page.times[0]},
        "page",
        query,
        view="system",
    )


def filled(scene: CheckContext) -> CheckResult:
    """Have all four panels something to judge?"""
    found = {name: scene.view.panel(name) for name in NAMES}
    empty = [panel.title for panel in found.values() if panel.told == "unknown (nothing to judge)"]
    words = f"nothing to judge on: {', '.join(empty)}" if empty else f"{len(found)} of {len(found)} panels have figures"
    return CheckResult(
        not empty if scene.view.tape.last_seen_us(scene.at_us) is not None or scene.probed.any else None,
        words,
        {name: panel.told for name, panel in found.items()},
        "panels",
        "the four panels over the last hour",
    )


def rhythm(scene: CheckContext) -> CheckResult:
    """At which pace do the open pages renew their figures?"""
    every_s, window = scene.workspace.settings.post_every_s, scene.last(LATELY)
    gaps = sorted(
        (b - a) / SECOND
        for page, _ in scene.view.tape.open_at(scene.at_us)
        for a, b in zip(page.times, page.times[1:])
        if window.start_us < b <= window.end_us
    )
    query = "gaps between the posts of the open pages in the last 5 min"
    if not gaps:
        return CheckResult(None, "no open page posted twice in the last 5 min", None, "page", query)
    middle, most = gaps[len(gaps) // 2], scene.view.rules.pages.late_after * every_s
    return CheckResult(
        middle <= most,
        f"each {middle:.1f} s, at the longest {gaps[-1]:.1f} s ({len(gaps):,} gaps); each {every_s:g} s was expected",
        {"median_s": middle, "longest_s": gaps[-1], "gaps": len(gaps)},
        "page",
        query,
        "" if middle <= most else "dashboard_slow",
        "system",
    )


def memory(scene: CheckContext) -> CheckResult:
    """Are the app's page and its server within the limits of memory?"""
    return scene.ruled(["memory", "memory_growth"], view="system", next="memory_growth")


def error_seen(scene: CheckContext) -> CheckResult:
    """Was the error that was raised on purpose counted within two looks?"""
    raised = next(
        (did.entry for (_, step), did in scene.incident.steps.items() if step == RAISED and did.state == "done"), None
    )
    query = "errors counted within two looks after one was raised on purpose"
    if raised is None:
        return CheckResult(
            None, f"no error was raised yet: {RAISED} comes first, with a hook that does it", None, "store", query
        )
    beat = scene.probed.now("beat", "collector", scene.at_us)
    paces = {
        "page": scene.workspace.settings.post_every_s,
        "log": float(scene.probed.told(beat).get("every_s", scene.workspace.settings.post_every_s))
        if beat
        else scene.workspace.settings.post_every_s,
    }
    found, over = dict[str, int | None](), True
    for who, every_s in paces.items():
        upto = min(raised.at_us + round(2 * every_s * SECOND), scene.at_us)
        over = over and scene.at_us >= raised.at_us + round(2 * every_s * SECOND)
        window = Window(clock.instant(raised.at_us), clock.instant(max(upto, raised.at_us)))
        seen = status.view(scene.workspace.store, scene.workspace.settings, scene.view.rules, window)
        if who == "page":
            found[who] = seen.figures["system"]["errors"] if seen.tape.looks_in(window) else None
        elif seen.probed:
            found[who] = seen.probed.errors(window)
        else:
            found[who] = None
    told = ", ".join(f"by the {who} {'not told' if n is None else n}" for who, n in found.items())
    if any(found.values()):
        return CheckResult(
            True,
            f"raised at {local(raised.at_us)}, counted within two looks: {told}",
            found,
            "store",
            query,
            view="system",
        )
    good = None if not over or all(n is None for n in found.values()) else False
    return CheckResult(
        good,
        f"raised at {local(raised.at_us)}; "
        f"{'not counted within two looks' if good is False else 'not seen yet'}: {told}",
        found,
        "store",
        query,
        "error_rate" if good is False else "",
        "system",
    )


# Since a deployment.


def no_slower(scene: CheckContext) -> CheckResult:
    """Does the app answer us no more slowly than before the deployment? By p95, with its 95 % interval."""
    deployed_us = _deployed(scene)
    query = (
        f"p95 of our looks at the app's server, {formatting.duration(COMPARED.total_seconds())} of looks on "
        f"each side of the deployment"
    )
    if deployed_us is None:
        return CheckResult(
            None,
            "no deployment was marked: ops mark deploy TEXT, or the deployment's own box, puts the marker",
            None,
            "probe",
            query,
        )
    back, least = clock.span_us(COMPARED), scene.view.rules.days.least_looks
    kept = SampleStore(scene.workspace.store, scene.workspace.settings.app)

    def took(start_us: int, end_us: int) -> list[float]:
        return [
            s.seconds
            for s in kept.between(start_us, end_us)
            if (s.probe, s.subject) == ("health", "app") and s.seconds is not None and OUTCOMES[s.outcome].usable
        ]

    sides = {
        "before": took(deployed_us - back, deployed_us),
        "after": took(max(deployed_us, scene.at_us - back), scene.at_us),
    }
    if short := [f"{len(found):,} {side}" for side, found in sides.items() if len(found) < least]:
        return CheckResult(
            None,
            f"too few looks to compare: {' and '.join(short)}, {least:g} are needed",
            {side: len(found) for side, found in sides.items()},
            "probe",
            query,
        )
    spans = {side: p95_interval(found) for side, found in sides.items()}
    told = "; ".join(
        f"{side} {seconds(p95)} ({seconds(low)} to {seconds(high)}, n {len(sides[side]):,})"
        for side, (low, p95, high) in spans.items()
    )
    good = spans["after"][0] <= spans["before"][2]
    return CheckResult(
        good,
        f"p95 {told}",
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
    The value that one in twenty is above, with its 95 % interval by the ranks (no shape is assumed): low, value, high.
    """
    from scipy.stats import quantile_test

    at: Any = quantile_test(found, p=0.95).confidence_interval(confidence_level=0.95)  # Its type says a float.
    ordered = sorted(found)
    middle = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    low, high = float(at.low), float(at.high)
    return (low if low == low else ordered[0], middle, high if high == high else ordered[-1])


def trends(scene: CheckContext) -> CheckResult:
    """Is any figure of the last closed day outside of what the trading days before were?"""
    workspace, session = scene.workspace, market_calendar.last_closed(scene.view.window.end)
    past = daily_figures.DailyFigures(workspace.store, workspace.settings, scene.view.rules, workspace.memory)
    today, before = past.of(session), past.before(session.day)
    query = (
        f"the figures of {session.day} against those of the {scene.view.rules.days.usual_days:g} trading days before"
    )
    if today is None:
        return CheckResult(None, f"nothing was seen of {session.day}, the last closed day", None, "store", query)
    usually = {name: daily_figures.usual(before, name, scene.view.rules.days) for name in daily_figures.WORDS}
    content = {
        name: {"value": today.figures[name], "low": u.low, "high": u.high, "days": u.n} for name, u in usually.items()
    }
    off = [
        f"{daily_figures.WORDS[name][0]} "
        f"{formatting.number(today.figures[name], daily_figures.WORDS[name][1], 2)} (usually "
        f"{formatting.number(u.low, '', 2)} to {formatting.number(u.high, '', 2)})"
        for name, u in usually.items()
        if u.outside(today.figures[name])
    ]
    known = [name for name, u in usually.items() if u.outside(today.figures[name]) is not None]
    if not known:
        return CheckResult(
            None,
            f"{len(before)} trading days before {session.day} are held; {scene.view.rules.days.least_days:g} "
            f"are needed to say what is usual",
            content,
            "store",
            query,
        )
    return CheckResult(
        not off,
        f"{session.day}: "
        f"{'; '.join(off) if off else f'{len(known)} of {len(usually)} figures can be compared, all usual'} "
        f"(n {len(before)} days)",
        content,
        "store",
        query,
    )


def staged(scene: CheckContext) -> CheckResult:
    """Was one of the seven days on staging watched? Asked as its number."""
    day = clock.instant(_opened(scene).at_us).astimezone(NEW_YORK).date() + timedelta(days=int(scene.of) - 1)
    window, at = _whole(day), scene.view.window.end
    query = f"posts of {day}, day {scene.of} of 7"
    if at < window.end:
        return CheckResult(
            None, f"{day} {'is not over' if at > window.start else 'is yet to come'}", {"day": str(day)}, "page", query
        )
    session = market_calendar.session(day)
    seen = status.view(
        scene.workspace.store, scene.workspace.settings, scene.view.rules, session.window if session else window
    )
    looks, coverage = seen.tape.looks_in(seen.window), seen.coverage
    loads = sum(
        1
        for page in seen.tape.pages
        if page.loaded_at_us is not None and window.start_us < page.loaded_at_us <= window.end_us
    )
    requests = sum(n for name in PROVIDERS if (n := seen.figures["providers"][name]["requests"]) is not None)
    content = {"day": str(day), "posts": looks, "coverage": coverage, "pages_loaded": loads, "requests": requests}
    if not looks:
        return CheckResult(False, f"missed: no page posted on {day}, so this day is not done", content, "page", query)
    needed = scene.view.rules["availability"].min_coverage
    lacks = [
        words
        for words, wrong in (
            (
                f"only {formatting.ratio(coverage, 1)} of the expected posts came",
                coverage is not None and coverage < needed,
            ),
            ("no page was loaded: the browser was not restarted", not loads),
            ("no figure grew", not requests),
        )
        if wrong
    ]
    expected = f", {formatting.ratio(coverage, 1)} of those expected" if coverage is not None else " (no trading day)"
    told = f"{day}: {looks:,} posts{expected}, {loads} pages loaded, {requests:,} requests counted"
    return CheckResult(not lacks, f"{told}{'; not done: ' + '; '.join(lacks) if lacks else ''}", content, "page", query)


def _whole(day: date) -> Window:
    start: datetime = time_parsing.parse(f"{day}T00:00")
    return Window(start, time_parsing.parse(f"{day + timedelta(days=1)}T00:00"))


# The monitoring itself.


def independent(scene: CheckContext) -> CheckResult:
    """Does every kind of look go on, whoever of those looked at is in trouble?"""
    window, query = scene.last(HOUR), "every kind of look of the last hour, and whether it was made lately"
    kinds = [
        (probe, subject)
        for probe, subject in scene.probed.kinds
        if probe != "beat" and scene.probed.within(probe, subject, window)
    ]
    if not kinds:
        return CheckResult(None, "nobody looked at anything in the last hour", None, "probe", query)
    now = {(probe, subject): scene.probed.now(probe, subject, scene.at_us) for probe, subject in kinds}

    def named(probe: str, subject: str) -> str:
        return f"{probe} of {subject}"

    stopped = [named(*kind) for kind, last in now.items() if last is None]
    trouble = [named(*kind) for kind, last in now.items() if last is not None and not OUTCOMES[last.outcome].usable]
    found = (
        f"{', '.join(trouble)} in trouble, and the rest goes on"
        if trouble and not stopped
        else f"{len(trouble)} of them found trouble"
    )
    words = (
        f"{len(kinds) - len(stopped)} of {len(kinds)} kinds of looks were made "
        f"lately{': not ' + ', '.join(stopped) if stopped else ''}; {found}"
    )
    return CheckResult(
        not stopped,
        words,
        {named(*kind): None if last is None else last.outcome for kind, last in now.items()},
        "probe",
        query,
        "monitor_down" if stopped else "",
    )


def own_growth(scene: CheckContext) -> CheckResult:
    """Does our own collector grow?"""
    rule, query = (
        scene.view.rules["memory_growth"],
        f"the memory that the collector's beats tell, over {formatting.duration(BEAT_BACK.total_seconds())}",
    )
    kept = SampleStore(scene.workspace.store, scene.workspace.settings.app).between(
        scene.at_us - clock.span_us(BEAT_BACK), scene.at_us
    )
    beats = [(s.ts_us, s.value) for s in kept if s.probe == "beat" and s.outcome == "ok" and s.value is not None]
    fell = max((i for i in range(1, len(beats)) if beats[i][1] < beats[i - 1][1] / 2), default=0)  # Started anew.
    beats = beats[fell:]
    hours = (beats[-1][0] - beats[0][0]) / SECOND / 3600 if beats else 0.0
    if hours < 0.25:
        return CheckResult(
            None, f"the collector's memory is known for {formatting.duration(hours * 3600)} only", None, "probe", query
        )
    third = max(1, len(beats) // 3)

    def middle(part: list[tuple[int, float]]) -> float:
        return sorted(value for _, value in part)[len(part) // 2]

    first, last = middle(beats[:third]), middle(beats[-third:])
    growth = (last - first) / (hours * 2 / 3)
    limit = float(rule.ladder[0][1])
    return CheckResult(
        not rule.past(growth, limit),
        f"{first:.0f} MB then, {last:.0f} MB now: {growth:+.1f} MB per h over {formatting.duration(hours * 3600)}; "
        f"a warning from {rule.limit_told(limit)}",
        {"first_mb": first, "last_mb": last, "hours": hours, "beats": len(beats)},
        "probe",
        query,
    )
