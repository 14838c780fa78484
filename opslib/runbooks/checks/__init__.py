"""Run the checks of runbooks and checklists by their names in steps.toml."""

from collections.abc import Callable

from opslib.foundation import formatting
from opslib.runbooks.checks import app, checklist, costs, providers
from opslib.runbooks.checks.context import CheckContext
from opslib.runbooks.execution import CheckResult

__all__ = ["CHECKS", "CheckContext", "run_check"]

CHECKS: dict[str, Callable[[CheckContext], CheckResult]] = {
    "answers": providers.answers,
    "availability": providers.availability,
    "quick": providers.quick,
    "serving": providers.serving,
    "theirs": providers.theirs,
    "accepted": providers.accepted,
    "steady": providers.steady,
    "waits": providers.waits,
    "moved": providers.moved,
    "panels": providers.panels,
    "greeks": providers.greeks,
    "greeks_kinds": providers.greeks_kinds,
    "complete": providers.complete,
    "faults": providers.faults,
    "units": providers.units,
    "usual": providers.usual,
    "expiring": providers.expiring,
    "chain": providers.chain,
    "variance": costs.variance,
    "enough": costs.enough,
    "last_trades": costs.last_trades,
    "costs": costs.cost_table,
    "commission": costs.commission,
    "slippage": costs.slippage,
    "fees": costs.fees,
    "sizes": costs.sizes,
    "spreads": costs.spreads,
    "strikes": costs.strikes,
    "fills": costs.fill_quality,
    "server": app.server,
    "process": app.process,
    "restarts": app.restarts,
    "socket": app.socket,
    "close_code": app.close_code,
    "page_hears": app.page_hears,
    "socket_quick": app.socket_quick,
    "log": app.log,
    "host": app.host,
    "page_memory": app.page_memory,
    "growth": app.growth,
    "errors": app.errors,
    "explained": app.explained,
    "alerts": app.alerts,
    "dashboard_age": app.dashboard_age,
    "app_quick": app.lately,
    "posts": app.posts,
    "beats": app.beats,
    "store": app.store,
    "clocks": app.clocks,
    "changed": app.changed,
    "target": checklist.target,
    "rule": checklist.rule,
    "night_errors": checklist.night_errors,
    "night_kinds": checklist.night_kinds,
    "night_serious": checklist.night_serious,
    "keys": checklist.keys,
    "counted": checklist.counted,
    "costs_recorded": checklist.costs_recorded,
    "fallback_used": checklist.fallback_used,
    "metrics": checklist.metrics,
    "begins": checklist.begins,
    "filled": checklist.filled,
    "rhythm": checklist.rhythm,
    "memory": checklist.memory,
    "error_seen": checklist.error_seen,
    "no_slower": checklist.no_slower,
    "trends": checklist.trends,
    "staged": checklist.staged,
    "independent": checklist.independent,
    "own_growth": checklist.own_growth,
}


def run_check(context: CheckContext) -> CheckResult:
    """Run the check of a step at one time; the result's words are on one line."""
    found = CHECKS[context.step.check](context)
    return found._replace(words=formatting.single_line(found.words, 300))
