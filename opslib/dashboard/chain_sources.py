"""Find the chain to evaluate: in a file, in the database, or from a provider."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from opslib.dashboard.chain_details import ChainView, ChainViews
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import DEMO, Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import UsageError
from opslib.foundation.storage.database import Database
from opslib.telemetry.probes import chain_fetch
from opslib.telemetry.probes.http import Prober
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import SampleStore
from opslib.trading.options import chain, iv_baseline
from opslib.trading.options.chain import Chain
from opslib.trading.options.chain_quality import ChainQuality, evaluate_chain
from opslib.trading.options.contracts import SIDES, day_end
from opslib.trading.options.iv_baseline import IvBaseline
from opslib.trading.options.provider_comparison import crosscheck
from opslib.trading.pnl.round_trips import round_trips
from opslib.trading.pnl.store import FillStore

PROVIDERS = ("massive", "tradier")
BAND_BACK = timedelta(days=60)  # Contains at least twenty trading days, whatever the holidays.


def of_file(path: Path, rules: Rules, as_of: datetime | None) -> ChainView | ChainViews:
    """
    Evaluate the Greeks in a file; several underlyings are evaluated separately.

    Args:
        as_of: The moment of the chain, where the file does not contain it. A time of day also sets the moment at which
            the age of its quotes is evaluated.

    Raises:
        ImportRefused: It contains no chain that can be read.
        UsageError: The moment of the chain is unknown.
    """
    found = chain.read(path, as_of)
    each = found.by_underlying
    if len(each) == 1:
        return ChainView(_evaluate(found, rules, _fetched(found, as_of)), rules, remarks=_refused(found))
    return ChainViews([ChainView(_evaluate(one, rules, _fetched(one, as_of)), rules) for one in each], found.refused)


def _fetched(found: Chain, as_of: datetime | None) -> datetime | None:
    """Return the moment at which the age of quotes is evaluated: the given one, if it is on the same day."""
    if as_of is None or day_end(as_of) != as_of or as_of < found.as_of:
        return None
    return as_of if as_of - found.as_of < timedelta(days=1) else None


def _refused(found: Chain) -> list[str]:
    return (
        [f"{len(found.refused):,} rows could not be read: {found.refused[0][0]}: {found.refused[0][1]}"]
        if found.refused
        else []
    )


def _evaluate(found: Chain, rules: Rules, fetched_at: datetime | None) -> ChainQuality:
    return evaluate_chain(found, rules.chain, fetched_at)


def of_store(
    store: Database,
    settings: Settings,
    rules: Rules,
    symbol: str,
    as_of: datetime,
    known_at: datetime | None = None,
    provider: str = "",
) -> ChainView:
    """
    Evaluate the Greeks of a symbol's last stored chain, as of a moment.

    Raises:
        UsageError: No chain was stored by then.
    """
    samples = SampleStore(store, settings.app)
    kept = samples.chain(symbol, clock.micros(as_of), clock.micros(known_at) if known_at else None, provider)
    if kept is None or not kept[2]:
        raise UsageError(
            f"no chain of {symbol}{f' from {provider}' if provider else ''} was stored by "
            f"{formatting.moment(as_of)}. Add the symbol to OPS_SYMBOLS so that ops collect fetches its chains, or "
            f"import one from a file with ops import."
        )
    at = clock.instant(kept[0])
    quality = _evaluate(chain.of_payload(kept[2], f"the chain of {symbol}", at), rules, at)
    return ChainView(
        quality,
        rules,
        _band(samples, symbol, quality, rules),
        held=held(store, settings.app, symbol, as_of, known_at),
        remarks=_ended(kept[1], symbol),
    )


def held(
    store: Database, app: str, symbol: str, at: datetime, known_at: datetime | None = None
) -> dict[tuple[Any, str, float], float] | None:
    """
    Return the open positions in a symbol's options, from the fills imported up to a moment.

    By day, side and strike; short positions are negative. None without any fills.
    """
    fills = FillStore(store, app).upto(clock.micros(at), clock.micros(known_at) if known_at else None).fills
    if not fills:
        return None
    legs = [
        leg
        for leg in round_trips(fills).open
        if leg.right and leg.strike is not None and leg.underlying == symbol.removeprefix("I:")
    ]
    return {(leg.expiry, SIDES[leg.right.lower()], float(leg.strike or 0)): float(leg.side * leg.left) for leg in legs}


def _ended(outcome: str, symbol: str) -> list[str]:
    return [] if outcome == "ok" else [f"the chain of {symbol} is incomplete: its provider {OUTCOMES[outcome].words}"]


def _band(samples: SampleStore, symbol: str, quality: ChainQuality, rules: Rules) -> IvBaseline:
    at = quality.as_of
    return iv_baseline.iv_baseline(
        [(s.ts_us, s.iv_atm) for s in samples.chains_of(symbol, clock.micros(at - BAND_BACK), clock.micros(at))],
        at,
        rules.chain,
    )


def of_provider(
    store: Database,
    settings: Settings,
    rules: Rules,
    symbol: str,
    provider: str = "",
    now: Callable[[], datetime] = clock.now,
) -> ChainView:
    """
    Fetch a symbol's chain now and evaluate its Greeks.

    From one provider, or from all configured ones, which are then compared.

    Raises:
        UsageError: No provider is configured, or none returned a chain.
    """
    urls = {"massive": settings.massive_url, "tradier": settings.tradier_url}
    providers = [name for name in ([provider] if provider else PROVIDERS) if urls[name]]
    if not providers:
        raise UsageError(
            f"no provider is configured for the chain of {symbol}. Set "
            f"{' or '.join(f'OPS_{name.upper()}_URL' for name in ([provider] if provider else PROVIDERS))}, "
            f"or name a file."
        )
    got = asyncio.run(_fetch(settings, symbol, providers, now))
    evaluated, remarks = [], []
    for name, (at, found) in got.items():
        remarks += (
            []
            if found.outcome == "ok"
            else [f"{name} {OUTCOMES[found.outcome].words}. {OUTCOMES[found.outcome].advice}"]
        )
        if found.pages and found.outcome in ("ok", "partial"):
            evaluated.append(
                _evaluate(chain.of_payload(found.pages, f"the chain of {symbol} from {name}", at), rules, at)
            )
    if not evaluated:
        raise UsageError(f"no chain of {symbol} could be fetched: {' '.join(remarks)}")
    against = crosscheck(evaluated[0], evaluated[1], rules.chain) if len(evaluated) == 2 else None
    return ChainView(
        evaluated[0],
        rules,
        _band(SampleStore(store, settings.app), symbol, evaluated[0], rules),
        against,
        held(store, settings.app, symbol, now()),
        remarks,
    )


async def _fetch(
    settings: Settings, symbol: str, providers: list[str], now: Callable[[], datetime]
) -> dict[str, tuple[datetime, Any]]:
    prober = Prober(settings, now)
    found = {}
    for name in providers:
        fetched = await {"massive": chain_fetch.massive, "tradier": chain_fetch.tradier}[name](prober, settings, symbol)
        found[name] = (now(), fetched)
    return found


def chain_of(
    workspace: Workspace,
    what: str | Path,
    provider: str = "",
    as_of: str | datetime | None = None,
    known_at: str | datetime | None = None,
) -> ChainView | ChainViews:
    """
    Evaluate a chain's Greeks, from arguments as people type them.

    Args:
        what: A file (see `chain.read`), or a symbol, whose chain is fetched now. With a moment, in the demo, or without
            a configured provider, the last stored chain is used.
        provider: massive or tradier; empty is Massive, compared with Tradier where it is configured.
        as_of: For a file, the moment of the chain, where the file does not contain it; for a symbol, the moment.
        known_at: Only what was known by then.
    """
    moment = time_parsing.instant_of(as_of)
    if Path(what).suffix or Path(what).exists():
        return of_file(Path(what), workspace.rules, moment)
    symbol = str(what).strip().upper()
    if not symbol.removeprefix("I:").replace(".", "").isalnum():
        raise UsageError(
            f"{formatting.single_line(str(what), 60)!r} is neither a file nor a symbol. "
            f"Name an existing file, or a symbol such as SPY."
        )
    if (
        moment is None
        and known_at is None
        and workspace.settings.app != DEMO
        and (workspace.settings.massive_url or workspace.settings.tradier_url)
    ):
        return of_provider(workspace.store, workspace.settings, workspace.rules, symbol, provider, workspace.now)
    return of_store(
        workspace.store,
        workspace.settings,
        workspace.rules,
        symbol,
        moment or workspace.now(),
        time_parsing.instant_of(known_at),
        provider,
    )
