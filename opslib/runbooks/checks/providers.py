"""
Run the checks of providers and their Greeks.

A check reads the database as of the time of its context, so a later run for the same time has the same result. A check
without data is unknown.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from opslib.alerting import probe_figures
from opslib.dashboard import chain_sources
from opslib.dashboard.chain_details import ChainView
from opslib.foundation import clock, formatting
from opslib.foundation.config.rules import NAMES
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.runbooks.checks.context import HOUR, LAST, LATELY, CheckContext, local, sample_as_json, seconds
from opslib.runbooks.execution import CheckResult
from opslib.telemetry.probes.outcomes import OURS, OUTCOMES, PLAN, TRANSPORT
from opslib.telemetry.probes.store import Sample, SampleStore
from opslib.trading.options import iv_baseline
from opslib.trading.options.units import USUAL

ASKED = ("liveness", "data")  # The probes of a provider: its market clock, and its data.
TURNS = 2  # An outage has two state changes: down, and up again.
SYMBOL_BACK = timedelta(days=60)
# The outcomes of rejected requests, by the subject of a step.
REFUSALS = {
    "key": ("auth_401", "no_key_401", "denied_403"),
    "plan": ("entitlement_403",),
    "address": ("ip_blocked_403",),
    "quota": ("rate_limited_429", "quota_kept"),
}
ACCEPTED = {"key": "API key", "plan": "plan", "address": "IP address", "quota": "request rate"}


# Providers.


def _last_samples(context: CheckContext, of: str) -> list[Sample]:
    return [s for probe in ASKED if (s := context.probed.now(probe, of, context.at_us)) is not None]


def answers(context: CheckContext) -> CheckResult:
    """Check that a provider responds to our probes now."""
    of, samples = context.of, _last_samples(context, context.of)
    query = f"the last probes of {of}: market clock, option data"
    if not samples:
        return CheckResult(None, f"no recent probe of {of}", None, "probe", query)
    worst = next((s for s in samples if not OUTCOMES[s.outcome].usable), None)
    took = [s.seconds for s in samples if s.seconds is not None]
    content = {
        "now": {s.probe: sample_as_json(s) for s in samples},
        "before": [sample_as_json(s) for s in context.probed.within("liveness", of, context.view.window)[-LAST:]],
    }
    if worst is None:
        return CheckResult(
            True,
            f"{of} responds to our probes{f' (slowest {seconds(max(took))})' if took else ''}",
            content,
            "probe",
            query,
            view="providers",
        )
    since, details = context.probed.since(worst.probe, of, context.at_us), context.probed.details(worst)
    status, quote = details.get("status", 200), formatting.single_line(str(details.get("said", "")), 80)
    detail = [f"HTTP {status}"] if status >= 400 else []
    if quote:
        detail.append(f'"{quote}"')
    if since:
        detail.append(f"since {local(since.ts_us)}")
    return CheckResult(
        False,
        f"{of} {OUTCOMES[worst.outcome].words} ({', '.join(detail)}). Fault: {OUTCOMES[worst.outcome].fault}",
        content,
        "probe",
        query,
        view="providers",
    )


def availability(context: CheckContext) -> CheckResult:
    """Check a provider's availability, from the page and from our probes."""
    return context.by_rules(["availability"], context.of, "providers")


def quick(context: CheckContext) -> CheckResult:
    """Check a provider's response time to our probes."""
    return context.by_rules(["response_time"], context.of, "providers")


def serving(context: CheckContext) -> CheckResult:
    """Check which provider serves option data now."""
    found = context.probed.serving(context.at_us)
    text = {
        "massive": "massive serves",
        "tradier": "tradier serves instead of massive",
        "nobody": "no provider can serve",
        None: "no recent probe, so the serving provider is unknown",
    }[found]
    fallback = (
        "no fallback is configured (OPS_FALLBACK=none)"
        if context.probed.fallback == "none"
        else "the fallback is tradier"
    )
    return CheckResult(
        None if found is None else found != "nobody",
        f"{text}; {fallback}",
        {"serving": found, "fallback": context.probed.fallback},
        "probe",
        "the last probes of every provider that may serve",
        view="providers",
    )


def theirs(context: CheckContext) -> CheckResult:
    """Check whether the fault is on the providers' side or on ours, by comparing both providers."""
    samples = {s: found for s in PROVIDERS if (found := _last_samples(context, s))}
    query = "the last probes of both providers"
    if not samples:
        return CheckResult(None, "no recent probe of either provider", None, "probe", query)
    content = {s: [sample_as_json(x) for x in found] for s, found in samples.items()}
    if context.probed.network_gone(context.at_us):
        outcomes = ", ".join(
            f"{s} {OUTCOMES[next(x.outcome for x in found if x.outcome in TRANSPORT)].words.split(':')[0]}"
            for s, found in samples.items()
        )
        return CheckResult(
            False,
            f"our side: neither provider accepts a connection ({outcomes})",
            content,
            "probe",
            query,
            "provider_availability",
            "providers",
        )
    bad = {s: x for s, found in samples.items() for x in reversed(found) if not OUTCOMES[x.outcome].usable}
    mine = [f"{s} {OUTCOMES[x.outcome].words}" for s, x in bad.items() if OUTCOMES[x.outcome].fault in (OURS, PLAN)]
    if mine:
        return CheckResult(
            False, f"our side: {'; '.join(mine)}", content, "probe", query, "provider_availability", "providers"
        )
    well = [s for s in samples if s not in bad]
    if not bad:
        return CheckResult(
            True,
            f"{' and '.join(well)} respond{'s' if len(well) == 1 else ''} to our probes: no fault on our side",
            content,
            "probe",
            query,
            view="providers",
        )
    outcomes = "; ".join(
        f"{s} {OUTCOMES[x.outcome].words} (fault: {OUTCOMES[x.outcome].fault})" for s, x in bad.items()
    )
    sure = bool(well) or not any(OUTCOMES[x.outcome].name in TRANSPORT for x in bad.values())
    if well:
        comparison = f"{', '.join(well)} responds over the same network"
    elif len(samples) == 1:
        comparison = "no other provider was probed for comparison"
    else:
        comparison = "both fail, and both accept connections"
    return CheckResult(
        True if sure else None,
        f"{outcomes}; {comparison}",
        content,
        "probe",
        query,
        view="providers",
    )


def accepted(context: CheckContext) -> CheckResult:
    """Check that a provider accepts our key, plan, address or quota; the subject is such as ``massive key``."""
    of, _, what = context.of.partition(" ")
    samples, refused = _last_samples(context, of), REFUSALS[what]
    query = f"outcomes of our probes of {of} in the last 5 min: {', '.join(refused)}"
    if not samples:
        return CheckResult(None, f"no recent probe of {of}", None, "probe", query)
    recent = [s for probe in ASKED for s in context.probed.within(probe, of, context.last(LATELY))]
    bad = [s for s in recent if s.outcome in refused]
    content = {"refused": [sample_as_json(s) for s in bad[-LAST:]], "looks": len(recent)}
    if bad:
        quote = (
            f' ("{formatting.single_line(message, 80)}")'
            if (message := context.probed.details(bad[-1]).get("said"))
            else ""
        )
        return CheckResult(
            False,
            f"{of} {OUTCOMES[bad[-1].outcome].words}{quote}, {len(bad)} of {len(recent)} attempts. "
            f"{OUTCOMES[bad[-1].outcome].advice}",
            content,
            "probe",
            query,
            "provider_availability",
            "providers",
        )
    if not any(OUTCOMES[s.outcome].usable for s in samples):
        return CheckResult(
            None, f"could not be determined: {of} {OUTCOMES[samples[0].outcome].words}", content, "probe", query
        )
    left = context.probed.details(samples[0]).get("quota_left") if what == "quota" else None
    quota = f", {left} requests left in this minute's quota" if left is not None else ""
    return CheckResult(
        True,
        f"{of} accepts our {ACCEPTED[what]}{quota} ({len(recent)} attempts)",
        content,
        "probe",
        query,
    )


def steady(context: CheckContext) -> CheckResult:
    """Check whether a provider is flapping."""
    of, window = context.of, context.last(LATELY)
    attempts, turns, trouble = (
        context.probed.answered(of, window),
        context.probed.state_changes(of, window),
        context.probed.leading_failure(of, window),
    )
    query = f"state changes of {of} (up to down, or back) in 5 min"
    if not attempts.count:
        return CheckResult(None, f"no probe of {of} in the last 5 min", None, "probe", query)
    failed = f"{attempts.count - attempts.part} of {attempts.count} attempts failed" + (
        f": it {OUTCOMES[trouble].words}" if trouble else ""
    )
    text = f"state changes in 5 min: {turns} (at most {TURNS} expected); {failed}"
    words = f"{of} is flapping: {text}" if turns > TURNS else f"{of} is not flapping: {text}"
    return CheckResult(
        turns <= TURNS,
        words,
        {"turns": turns, "answered": attempts.part, "attempts": attempts.count, "trouble": trouble},
        "probe",
        query,
        "provider_availability" if turns > TURNS else "",
        "providers",
    )


def waits(context: CheckContext) -> CheckResult:
    """Check that the app's request timeout is longer than Massive's response time to our probes."""
    window, last = context.last(LATELY), context.probed.now("log", "app", context.at_us)
    query = "timeouts in the app's log in the last 5 min, compared with our probes' response time"
    if last is None or last.outcome != "ok":
        return CheckResult(
            None, "the app's log is not read: set OPS_APP_LOG, or send the log to POST /api/logs", None, "log", query
        )
    gave_up, timeouts, samples = (
        context.probed.gave_up_after_ms(window),
        context.probed.log_kinds(window).get("timeout", 0),
        _last_samples(context, "massive"),
    )
    p95 = (
        probe_figures.p95_s(context.probed, "massive", window)
        if samples and all(OUTCOMES[s.outcome].usable for s in samples)
        else None
    )
    content = {"timeouts": timeouts, "gave_up_after_ms": gave_up, "p95_s": p95}
    if p95 is not None:
        ours = f"massive responds to our probes within {seconds(p95)} (p95)"
    elif samples:
        ours = "our probes get no usable response from massive, so its response time is unknown"
    else:
        ours = "no recent probe of massive"
    if not timeouts:
        return CheckResult(True, f"the app logged no timeout in 5 min; {ours}", content, "log", query)
    after = f"after {gave_up} ms" if gave_up is not None else "after an unknown time"
    return CheckResult(
        p95 is None,
        f"requests of the app to massive timed out {timeouts} times in 5 min, {after}; {ours}",
        content,
        "log",
        query,
        "" if p95 is None else "provider_availability",
        "providers",
    )


def moved(context: CheckContext) -> CheckResult:
    """Check that the app sends its requests to Tradier and none to Massive."""
    from opslib.telemetry.pages import indicators

    found = indicators.providers(context.view.counters, context.last(timedelta(minutes=2)))
    to = {name: f["requests"] for name, f in found.items()}
    query = "requests that the app's pages counted in the last 2 min"
    if to["massive"] is None or to["tradier"] is None:
        return CheckResult(None, "the app's pages do not count requests to one of the providers", to, "page", query)
    return CheckResult(
        to["massive"] == 0 and to["tradier"] > 0,
        f"requests in the last 2 min: {to['massive']} to massive, {to['tradier']} to tradier; expected after the "
        f"switch: none to massive, some to tradier",
        to,
        "page",
        query,
        view="providers",
    )


def panels(context: CheckContext) -> CheckResult:
    """Check that all panels are ok."""
    found = [context.view.panel(name) for name in NAMES]
    content = {
        p.name: {"verdict": p.verdict_text, "sentences": [s for s in p.sentences if not s.startswith("not evaluated")]}
        for p in found
    }
    evaluated = [p for p in found if p.evaluated]
    wrong = [p for p in evaluated if p.verdict != "ok"]
    over = formatting.duration(context.view.window.seconds)
    if not evaluated:
        return CheckResult(None, "no panel has data to evaluate", content, "panels", "the four panels")
    words = (
        "; ".join(f"{p.title}: {p.sentences[0] if p.sentences else p.verdict_text}" for p in wrong)
        or f"{len(evaluated)} of {len(found)} panels have data, and all of them are ok over the last {over}"
    )
    good = None if wrong and all(p.verdict == "unknown" for p in wrong) else not wrong
    return CheckResult(good, words, content, "panels", f"the four panels over {over}")


# Greeks.


def greeks(context: CheckContext) -> CheckResult:
    """Check the rate of valid Greeks, from the page and from our chains."""
    return context.by_rules(["greeks_valid"], view="greeks")


def greeks_kinds(context: CheckContext) -> CheckResult:
    """Check the Greeks faults by kind: gamma zero or missing, delta out of bounds."""
    return context.by_rules(["gamma_zero", "delta_out_of_bounds"], view="greeks")


def _chains(context: CheckContext, back: timedelta = HOUR) -> dict[str, list[Sample]]:
    return context.probed.chains(context.last(back))


def _of_chains(context: CheckContext, query: str, wrong: Callable[[dict[str, Any]], str], right: str) -> CheckResult:
    """Check the last chain of each symbol; `wrong` describes its fault, or returns an empty string."""
    last = {symbol: found[-1] for symbol, found in _chains(context).items()}
    summaries = {symbol: context.probed.details(s) for symbol, s in last.items() if "core" in context.probed.details(s)}
    if not summaries:
        return CheckResult(
            None,
            "no chain was fetched and evaluated in the last hour: set OPS_SYMBOLS",
            None,
            "chain",
            query,
        )
    bad = {symbol: words for symbol, t in summaries.items() if (words := wrong(t))}
    words = "; ".join(f"{symbol}: {w}" for symbol, w in bad.items()) or f"{right} ({', '.join(summaries)})"
    return CheckResult(
        not bad,
        words,
        {symbol: t | {"fetched_at_us": last[symbol].ts_us} for symbol, t in summaries.items()},
        "chain",
        query,
        view="greeks",
    )


def _more_than_good(context: CheckContext, count: int, core: int) -> bool:
    return bool(core) and count / core > context.view.rules.chain.told_share


def complete(context: CheckContext) -> CheckResult:
    """Check that the provider sent the whole chain, with every Greek."""
    torn = {symbol: found[-1] for symbol, found in _chains(context).items() if found[-1].outcome != "ok"}
    query = "tradable contracts in the last chain of each symbol"
    if torn:
        return CheckResult(
            False,
            "; ".join(
                f"the chain of {symbol}: massive {OUTCOMES[s.outcome].words} "
                f"({formatting.number(s.value or 0)} contracts)"
                for symbol, s in torn.items()
            ),
            {symbol: sample_as_json(s) for symbol, s in torn.items()},
            "chain",
            query,
            view="greeks",
        )

    def lacks(t: Mapping[str, Any]) -> str:
        return (
            f"{t['missing']} of {t['core']} tradable contracts lack Greeks"
            if _more_than_good(context, t["missing"], t["core"])
            else ""
        )

    return _of_chains(context, query, lacks, "every tradable contract has Greeks")


def faults(context: CheckContext) -> CheckResult:
    """Check the faults of tradable contracts, by symbol."""

    def wrong(t: dict[str, Any]) -> str:
        kinds = {k: n for k, n in t.get("faults", {}).items() if _more_than_good(context, n, t["core"])}
        listed = ", ".join(f"{n} {k}".replace("_", " ") for k, n in sorted(kinds.items(), key=lambda f: -f[1]))
        return f"{listed} among {t['core']} tradable contracts" if kinds else ""

    return _of_chains(
        context,
        "faults of tradable contracts in the last chain of each symbol",
        wrong,
        "no more faults than in a healthy chain",
    )


def units(context: CheckContext) -> CheckResult:
    """Check that the Greeks have the usual units."""

    def wrong(t: dict[str, Any]) -> str:
        strange = {name: unit for name, unit in t.get("units", {}).items() if unit not in (None, USUAL[name])}
        return ", ".join(f"{name} {unit}, expected {USUAL[name]}".replace("_", " ") for name, unit in strange.items())

    found = _of_chains(
        context, "measured units, and medians compared with an earlier chain of the hour", wrong, "usual units"
    )
    sentences = [s.words for s in context.view.summaries if s.panel == "greeks"]
    drifts = [words for words in sentences if "units" in words and "changed" in words]
    return found._replace(good=False, words="; ".join(drifts)) if drifts and found.good else found


def usual(context: CheckContext) -> CheckResult:
    """Check that at-the-money IV is usual for its symbol, compared with earlier days and the last hour."""
    lines, content, outside = list[str](), dict[str, Any](), list[bool | None]()
    for symbol, found in _chains(context).items():
        iv = context.probed.details(found[-1]).get("iv_atm")
        if iv is None:
            continue
        at = clock.instant(found[-1].ts_us)
        before = SampleStore(context.workspace.store, context.workspace.settings.app).chains_of(
            symbol, clock.micros(at - SYMBOL_BACK), found[-1].ts_us
        )
        band = iv_baseline.iv_baseline([(s.ts_us, s.iv_atm) for s in before], at, context.view.rules.chain)
        outside.append(band.outside(iv))
        usually = (
            f"usual range {formatting.ratio(band.low, 1)} to {formatting.ratio(band.high, 1)}"
            if band.low is not None
            else f"{band.days} of {context.view.rules.chain.band_days:g} days are stored to compute the usual range"
        )
        lines.append(f"{symbol} {formatting.ratio(iv, 1)} at-the-money IV ({usually})")
        content[symbol] = {"iv_atm": iv, "low": band.low, "high": band.high, "days": band.days}
    query = "at-the-money IV, compared with the symbol's earlier days"
    stress = [s.words for s in context.view.summaries if s.panel == "greeks" and "market stress" in s.words]
    if not lines:
        return CheckResult(None, "no chain of the last hour has an at-the-money IV", None, "chain", query)
    if stress or True in outside:
        good = False
    elif None in outside:
        good = None
    else:
        good = True
    return CheckResult(good, "; ".join([*stress, *lines]), content, "chain", query, view="greeks")


def expiring(context: CheckContext) -> CheckResult:
    """Check whether contracts expire today, for which a gamma of 0 far from the money is correct."""

    def said(t: Mapping[str, Any]) -> str:
        return (
            f"{t['expires_today']} contracts expire today: a gamma of 0 far from the money is correct"
            if t.get("expires_today")
            else ""
        )

    return _of_chains(
        context, "contracts of the last chain of each symbol that expire today", said, "no contract expires today"
    )


def chain(context: CheckContext) -> CheckResult:
    """Check the stored chains contract by contract."""
    lines, content, verdicts = list[str](), dict[str, Any](), list[str]()
    for symbol in context.probed.subjects("chain"):
        try:
            view = chain_sources.chain_of(context.workspace, symbol, as_of=context.view.window.end)
        except OpsError:
            continue
        assert isinstance(view, ChainView)  # A symbol has one chain at a time.
        found = view.as_json()
        core, worst = found["core"], found["findings"][:1]
        first = (
            f"; {worst[0]['check'].replace('_', ' ')} {worst[0]['count']}, for example {worst[0]['examples'][0]}"
            if worst and worst[0]["examples"]
            else ""
        )
        lines.append(
            f"{symbol} of {local(clock.micros(view.quality.as_of))}: {core['contracts'] - core['flagged']} of "
            f"{core['contracts']} tradable contracts valid ({formatting.ratio(core['valid_rate'], 1)}){first}"
        )
        content[symbol] = {
            key: found[key]
            for key in ("as_of", "core", "raw_valid_rate", "coverage", "units", "iv", "weighted_valid_rate")
        } | {"findings": found["findings"][:5]}
        verdicts.append(view.verdict)
    if not lines:
        return CheckResult(
            None,
            "no chain is stored: run ops greeks SYMBOL to fetch one",
            None,
            "chain",
            "stored chains, contract by contract",
        )
    if {"warning", "critical"} & set(verdicts):
        good = False
    elif "unknown" in verdicts:
        good = None
    else:
        good = True
    return CheckResult(good, "; ".join(lines), content, "chain", "stored chains, contract by contract", view="greeks")
