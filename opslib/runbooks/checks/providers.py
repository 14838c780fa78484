"""
Run the checks of providers and their Greeks.

A check reads what is in the store as of the moment of its scene; so asked later as of then it says the same. It says
unknown where nobody has looked.
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
from opslib.runbooks.checks.context import HOUR, LAST, LATELY, CheckContext, local, looked, seconds
from opslib.runbooks.execution import CheckResult
from opslib.telemetry.probes.outcomes import OURS, OUTCOMES, PLAN, TRANSPORT
from opslib.telemetry.probes.store import Sample, SampleStore
from opslib.trading.options import iv_baseline
from opslib.trading.options.units import USUAL

ASKED = ("liveness", "data")  # The looks at a provider: is it there, does it give data.
TURNS = 2  # An outage turns twice: it goes, and comes back.
SYMBOL_BACK = timedelta(days=60)
# What a refusal is about, by what a step asks.
REFUSALS = {
    "key": ("auth_401", "no_key_401", "denied_403"),
    "plan": ("entitlement_403",),
    "address": ("ip_blocked_403",),
    "quota": ("rate_limited_429", "quota_kept"),
}


# The providers.


def _stands(scene: CheckContext, of: str) -> list[Sample]:
    return [s for probe in ASKED if (s := scene.probed.now(probe, of, scene.at_us)) is not None]


def answers(scene: CheckContext) -> CheckResult:
    """Does a provider answer what it is asked, as of now?"""
    of, stands = scene.of, _stands(scene, scene.of)
    query = f"the last looks at {of}: market clock, option data"
    if not stands:
        return CheckResult(None, f"nobody has looked at {of} lately", None, "probe", query)
    worst = next((s for s in stands if not OUTCOMES[s.outcome].usable), None)
    took = [s.seconds for s in stands if s.seconds is not None]
    content = {
        "now": {s.probe: looked(s) for s in stands},
        "before": [looked(s) for s in scene.probed.within("liveness", of, scene.view.window)[-LAST:]],
    }
    if worst is None:
        return CheckResult(
            True,
            f"{of} answers{f' (slowest {seconds(max(took))})' if took else ''}",
            content,
            "probe",
            query,
            view="providers",
        )
    since, told = scene.probed.since(worst.probe, of, scene.at_us), scene.probed.told(worst)
    status, quote = told.get("status", 200), formatting.single_line(str(told.get("said", "")), 80)
    detail = [f"HTTP {status}"] if status >= 400 else []
    if quote:
        detail.append(f'"{quote}"')
    if since:
        detail.append(f"since {local(since.ts_us)}")
    return CheckResult(
        False,
        f"{of} {OUTCOMES[worst.outcome].words} ({', '.join(detail)}); the fault is {OUTCOMES[worst.outcome].fault}",
        content,
        "probe",
        query,
        view="providers",
    )


def availability(scene: CheckContext) -> CheckResult:
    """Which share of its requests does a provider answer, by the page and by us?"""
    return scene.ruled(["availability"], scene.of, "providers")


def quick(scene: CheckContext) -> CheckResult:
    """How fast does a provider answer us?"""
    return scene.ruled(["response_time"], scene.of, "providers")


def serving(scene: CheckContext) -> CheckResult:
    """Who serves option data now?"""
    found = scene.probed.serving(scene.at_us)
    told = {
        "massive": "massive serves",
        "tradier": "tradier serves, in massive's place",
        "nobody": "nobody can serve",
        None: "nobody has looked, so who serves is not known",
    }[found]
    fallback = (
        "no fallback is configured (OPS_FALLBACK=none)"
        if scene.probed.fallback == "none"
        else "the fallback is tradier"
    )
    return CheckResult(
        None if found is None else found != "nobody",
        f"{told}; {fallback}",
        {"serving": found, "fallback": scene.probed.fallback},
        "probe",
        "the last looks at every provider that may serve",
        view="providers",
    )


def theirs(scene: CheckContext) -> CheckResult:
    """Is the trouble theirs, and not ours? By both providers beside each other, and what each says of us."""
    stands = {s: found for s in PROVIDERS if (found := _stands(scene, s))}
    query = "the last looks at both providers, beside each other"
    if not stands:
        return CheckResult(None, "nobody has looked at either provider lately", None, "probe", query)
    content = {s: [looked(x) for x in found] for s, found in stands.items()}
    if scene.probed.network_gone(scene.at_us):
        told = ", ".join(
            f"{s} {OUTCOMES[next(x.outcome for x in found if x.outcome in TRANSPORT)].words.split(':')[0]}"
            for s, found in stands.items()
        )
        return CheckResult(
            False,
            f"ours: neither provider can be connected to ({told})",
            content,
            "probe",
            query,
            "provider_availability",
            "providers",
        )
    bad = {s: x for s, found in stands.items() for x in reversed(found) if not OUTCOMES[x.outcome].usable}
    mine = [f"{s} {OUTCOMES[x.outcome].words}" for s, x in bad.items() if OUTCOMES[x.outcome].fault in (OURS, PLAN)]
    if mine:
        return CheckResult(
            False, f"ours: {'; '.join(mine)}", content, "probe", query, "provider_availability", "providers"
        )
    well = [s for s in stands if s not in bad]
    if not bad:
        return CheckResult(
            True, f"{' and '.join(well)} answer us: nothing is ours", content, "probe", query, view="providers"
        )
    told = "; ".join(f"{s} {OUTCOMES[x.outcome].words}: {OUTCOMES[x.outcome].fault}" for s, x in bad.items())
    sure = bool(well) or not any(OUTCOMES[x.outcome].name in TRANSPORT for x in bad.values())
    if well:
        beside = f"{', '.join(well)} answers us over the same network"
    elif len(stands) == 1:
        beside = "nothing else was looked at beside it"
    else:
        beside = "both answer badly, and both can be connected to"
    return CheckResult(
        True if sure else None,
        f"{told}; {beside}",
        content,
        "probe",
        query,
        view="providers",
    )


def accepted(scene: CheckContext) -> CheckResult:
    """Does a provider accept our key, plan, address, quota? Asked as ``massive key``."""
    of, _, what = scene.of.partition(" ")
    stands, refused = _stands(scene, of), REFUSALS[what]
    query = f"outcomes of our looks at {of} in the last 5 min: {', '.join(refused)}"
    if not stands:
        return CheckResult(None, f"nobody has looked at {of} lately", None, "probe", query)
    recent = [s for probe in ASKED for s in scene.probed.within(probe, of, scene.last(LATELY))]
    bad = [s for s in recent if s.outcome in refused]
    content = {"refused": [looked(s) for s in bad[-LAST:]], "looks": len(recent)}
    if bad:
        quote = f' ("{formatting.single_line(said, 80)}")' if (said := scene.probed.told(bad[-1]).get("said")) else ""
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
    if not any(OUTCOMES[s.outcome].usable for s in stands):
        return CheckResult(
            None, f"it cannot be told: {of} {OUTCOMES[stands[0].outcome].words}", content, "probe", query
        )
    left = scene.probed.told(stands[0]).get("quota_left") if what == "quota" else None
    return CheckResult(
        True,
        f"{of} accepts our {what}{f', {left} questions left of this minute' if left is not None else ''} "
        f"({len(recent)} attempts)",
        content,
        "probe",
        query,
    )


def steady(scene: CheckContext) -> CheckResult:
    """Does a provider answer all the time, or does it come and go?"""
    of, window = scene.of, scene.last(LATELY)
    asked, turns, trouble = (
        scene.probed.answered(of, window),
        scene.probed.turns(of, window),
        scene.probed.trouble(of, window),
    )
    query = f"turns from answering to not answering, or back, of {of} in 5 min"
    if not asked.count:
        return CheckResult(None, f"nobody has looked at {of} in the last 5 min", None, "probe", query)
    failed = f"{asked.count - asked.part} of {asked.count} attempts failed" + (
        f": it {OUTCOMES[trouble].words}" if trouble else ""
    )
    told = f"{turns} turns in 5 min, at most {TURNS} were expected; {failed}"
    words = f"{of} comes and goes: {told}" if turns > TURNS else f"{of} does not come and go: {told}"
    return CheckResult(
        turns <= TURNS,
        words,
        {"turns": turns, "answered": asked.part, "attempts": asked.count, "trouble": trouble},
        "probe",
        query,
        "provider_availability" if turns > TURNS else "",
        "providers",
    )


def waits(scene: CheckContext) -> CheckResult:
    """Does the app wait long enough for Massive? What it says that it waited, against the time that we need."""
    window, last = scene.last(LATELY), scene.probed.now("log", "app", scene.at_us)
    query = "time-outs in the app's log in the last 5 min, against our own round trips"
    if last is None or last.outcome != "ok":
        return CheckResult(
            None, "the app's log is not read: see OPS_APP_LOG, or send it to POST /api/logs", None, "log", query
        )
    gave_up, timeouts, stands = (
        scene.probed.gave_up_after_ms(window),
        scene.probed.log_kinds(window).get("timeout", 0),
        _stands(scene, "massive"),
    )
    p95 = (
        probe_figures.p95_s(scene.probed, "massive", window)
        if stands and all(OUTCOMES[s.outcome].usable for s in stands)
        else None
    )
    content = {"timeouts": timeouts, "gave_up_after_ms": gave_up, "p95_s": p95}
    if p95 is not None:
        ours = f"massive answers us within {seconds(p95)} (p95)"
    elif stands:
        ours = "massive does not answer us either"
    else:
        ours = "nobody has looked at massive"
    if not timeouts:
        return CheckResult(True, f"the app logged no time-out in 5 min; {ours}", content, "log", query)
    after = f"after {gave_up} ms" if gave_up is not None else "after a time that it does not tell"
    return CheckResult(
        p95 is None,
        f"the app gave up on massive {timeouts} times, {after}; {ours}",
        content,
        "log",
        query,
        "" if p95 is None else "provider_availability",
        "providers",
    )


def moved(scene: CheckContext) -> CheckResult:
    """Do the app's requests go to Tradier, and none to Massive?"""
    from opslib.telemetry.pages import indicators

    found = indicators.providers(scene.view.tape, scene.last(timedelta(minutes=2)))
    to = {name: f["requests"] for name, f in found.items()}
    query = "requests that the app's pages counted in the last 2 min"
    if to["massive"] is None or to["tradier"] is None:
        return CheckResult(None, "the app's pages count no requests of one of the two", to, "page", query)
    return CheckResult(
        to["massive"] == 0 and to["tradier"] > 0,
        f"in 2 min {to['massive']} requests to massive, {to['tradier']} to tradier; expected: none to massive,"
        f" some to tradier",
        to,
        "page",
        query,
        view="providers",
    )


def panels(scene: CheckContext) -> CheckResult:
    """Are all panels green?"""
    found = [scene.view.panel(name) for name in NAMES]
    content = {
        p.name: {"verdict": p.told, "sentences": [s for s in p.sentences if not s.startswith("not counted")]}
        for p in found
    }
    judged = [p for p in found if p.told != "unknown (nothing to judge)"]
    wrong = [p for p in judged if p.verdict != "ok"]
    if not judged:
        return CheckResult(None, "no panel has anything to judge", content, "panels", "the four panels")
    words = (
        "; ".join(f"{p.title}: {p.sentences[0] if p.sentences else p.told}" for p in wrong)
        or f"{len(judged)} of {len(found)} panels have something to judge, and are ok"
    )
    good = None if wrong and all(p.verdict == "unknown" for p in wrong) else not wrong
    return CheckResult(
        good, words, content, "panels", f"the four panels over {formatting.duration(scene.view.window.seconds)}"
    )


# Greeks.


def greeks(scene: CheckContext) -> CheckResult:
    """Which share of Greeks is valid, by the page and by our own chains?"""
    return scene.ruled(["greeks_valid"], view="greeks")


def greeks_kinds(scene: CheckContext) -> CheckResult:
    """Of which kind are the faults: gamma zero or missing, delta out of bounds?"""
    return scene.ruled(["gamma_zero", "delta_out_of_bounds"], view="greeks")


def _chains(scene: CheckContext, back: timedelta = HOUR) -> dict[str, list[Sample]]:
    return scene.probed.chains(scene.last(back))


def _of_chains(scene: CheckContext, query: str, wrong: Callable[[dict[str, Any]], str], right: str) -> CheckResult:
    """One question put to the last chain of each symbol; `wrong` says what is, in words."""
    last = {symbol: found[-1] for symbol, found in _chains(scene).items()}
    told = {symbol: scene.probed.told(s) for symbol, s in last.items() if "core" in scene.probed.told(s)}
    if not told:
        return CheckResult(
            None,
            "no chain was fetched and judged in the last hour: OPS_SYMBOLS names those that are",
            None,
            "chain",
            query,
        )
    bad = {symbol: words for symbol, t in told.items() if (words := wrong(t))}
    words = "; ".join(f"{symbol}: {w}" for symbol, w in bad.items()) or f"{right} ({', '.join(told)})"
    return CheckResult(
        not bad,
        words,
        {symbol: t | {"fetched_at_us": last[symbol].ts_us} for symbol, t in told.items()},
        "chain",
        query,
        view="greeks",
    )


def _more_than_good(scene: CheckContext, count: int, core: int) -> bool:
    return bool(core) and count / core > scene.view.rules.chain.told_share


def complete(scene: CheckContext) -> CheckResult:
    """Did the provider give every Greek, and the whole chain?"""
    torn = {symbol: found[-1] for symbol, found in _chains(scene).items() if found[-1].outcome != "ok"}
    query = "the last chain of each symbol, by contracts that can be traded"
    if torn:
        return CheckResult(
            False,
            "; ".join(
                f"the chain of {symbol}: massive {OUTCOMES[s.outcome].words} "
                f"({formatting.number(s.value or 0)} contracts)"
                for symbol, s in torn.items()
            ),
            {symbol: looked(s) for symbol, s in torn.items()},
            "chain",
            query,
            view="greeks",
        )

    def lacks(t: Mapping[str, Any]) -> str:
        return (
            f"{t['missing']} of {t['core']} tradable contracts lack Greeks"
            if _more_than_good(scene, t["missing"], t["core"])
            else ""
        )

    return _of_chains(scene, query, lacks, "no tradable contract lacks its Greeks")


def faults(scene: CheckContext) -> CheckResult:
    """Which faults do tradable contracts have, by symbol?"""

    def wrong(t: dict[str, Any]) -> str:
        kinds = {k: n for k, n in t.get("faults", {}).items() if _more_than_good(scene, n, t["core"])}
        listed = ", ".join(f"{n} {k}".replace("_", " ") for k, n in sorted(kinds.items(), key=lambda f: -f[1]))
        return f"of {t['core']} tradable contracts {listed}" if kinds else ""

    return _of_chains(
        scene,
        "faults of tradable contracts in the last chain of each symbol",
        wrong,
        "no more faults than a good chain has",
    )


def units(scene: CheckContext) -> CheckResult:
    """Do the Greeks come in the usual units?"""

    def wrong(t: dict[str, Any]) -> str:
        strange = {name: unit for name, unit in t.get("units", {}).items() if unit not in (None, USUAL[name])}
        return ", ".join(f"{name} {unit}, usual is {USUAL[name]}".replace("_", " ") for name, unit in strange.items())

    found = _of_chains(
        scene, "units as measured, and medians against an earlier chain of the hour", wrong, "units as usual"
    )
    drifts = [s.words for s in scene.view.sights if s.panel == "greeks" and "units" in s.words and "changed" in s.words]
    return found._replace(good=False, words="; ".join(drifts)) if drifts and found.good else found


def usual(scene: CheckContext) -> CheckResult:
    """Is the volatility at the money usual for its symbol, against its own days before and its own last hour?"""
    told, content, outside = list[str](), dict[str, Any](), list[bool | None]()
    for symbol, found in _chains(scene).items():
        iv = scene.probed.told(found[-1]).get("iv_atm")
        if iv is None:
            continue
        at = clock.instant(found[-1].ts_us)
        before = SampleStore(scene.workspace.store, scene.workspace.settings.app).chains_of(
            symbol, clock.micros(at - SYMBOL_BACK), found[-1].ts_us
        )
        band = iv_baseline.iv_baseline([(s.ts_us, s.iv_atm) for s in before], at, scene.view.rules.chain)
        outside.append(band.outside(iv))
        usually = (
            f"usually {formatting.ratio(band.low, 1)} to {formatting.ratio(band.high, 1)}"
            if band.low is not None
            else f"{band.days} of {scene.view.rules.chain.band_days:g} days are held to say what is usual"
        )
        told.append(f"{symbol} {formatting.ratio(iv, 1)} at the money ({usually})")
        content[symbol] = {"iv_atm": iv, "low": band.low, "high": band.high, "days": band.days}
    query = "volatility at the money, against the symbol's own days before"
    stress = [s.words for s in scene.view.sights if s.panel == "greeks" and "market stress" in s.words]
    if not told:
        return CheckResult(None, "no chain of the last hour tells a volatility at the money", None, "chain", query)
    if stress or True in outside:
        good = False
    elif None in outside:
        good = None
    else:
        good = True
    return CheckResult(good, "; ".join([*stress, *told]), content, "chain", query, view="greeks")


def expiring(scene: CheckContext) -> CheckResult:
    """Do contracts expire today, whose wings rightly have a gamma of 0?"""

    def said(t: Mapping[str, Any]) -> str:
        return (
            f"{t['expires_today']} contracts expire today: a gamma of 0 in their wings is right"
            if t.get("expires_today")
            else ""
        )

    return _of_chains(
        scene, "contracts of the last chain of each symbol that expire today", said, "nothing expires today"
    )


def chain(scene: CheckContext) -> CheckResult:
    """What is each kept chain worth, contract by contract, and which are the worst?"""
    told, content, verdicts = list[str](), dict[str, Any](), list[str]()
    for symbol in scene.probed.subjects("chain"):
        try:
            view = chain_sources.chain_of(scene.workspace, symbol, as_of=scene.view.window.end)
        except OpsError:
            continue
        assert isinstance(view, ChainView)  # A symbol has one chain at a time.
        found = view.as_json()
        core, worst = found["core"], found["findings"][:1]
        first = (
            f"; {worst[0]['check'].replace('_', ' ')} {worst[0]['count']}, such as {worst[0]['examples'][0]}"
            if worst and worst[0]["examples"]
            else ""
        )
        told.append(
            f"{symbol} of {local(clock.micros(view.quality.as_of))}: {core['contracts'] - core['flagged']} of "
            f"{core['contracts']} tradable contracts right ({formatting.ratio(core['valid_rate'], 1)}){first}"
        )
        content[symbol] = {
            key: found[key]
            for key in ("as_of", "core", "raw_valid_rate", "coverage", "units", "iv", "weighted_valid_rate")
        } | {"findings": found["findings"][:5]}
        verdicts.append(view.verdict)
    if not told:
        return CheckResult(
            None,
            "no chain was kept: ops greeks SYMBOL fetches one now",
            None,
            "chain",
            "kept chains, contract by contract",
        )
    if {"warning", "critical"} & set(verdicts):
        good = False
    elif "unknown" in verdicts:
        good = None
    else:
        good = True
    return CheckResult(good, "; ".join(told), content, "chain", "kept chains, contract by contract", view="greeks")
