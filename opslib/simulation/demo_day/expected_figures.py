"""
Compute the expected figures of a scripted day from its events and posting times alone.

It does not use the page's arithmetic, so an equal figure of ops was recovered from the posts, not copied. Windows
are (from, to], in UTC.
"""

import itertools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from opslib.simulation.world.script import Event, PageLife, Script


def compute(script: Script) -> dict[str, Any]:
    """
    Return the expected figures of the day, ready for JSON; instants are ISO 8601 in UTC.

    `hours` and `session` have what the posts can show in each window; `lost` counts the events between the first page
    load and the close that no post shows.
    """
    shown, lost = _shown(script)
    bounds = _bounds(script.opens, script.closes)
    return {
        "seed": script.seed,
        "day": script.day.isoformat(),
        "opens": _iso(script.opens),
        "closes": _iso(script.closes),
        "hours": [_window(script, shown, a, b) for a, b in itertools.pairwise(bounds)],
        "session": _window(script, shown, script.opens, script.closes),
        "lost": _counts(lost),
        "faults": [
            {"name": t.name, "begins": _iso(t.begins), "ends": _iso(t.ends), "words": t.words} for t in script.faults
        ],
        "restarts": len(_restarts(script)),
        "pages": len({life.page_id for life in script.pages}),
        "page_loads": len(script.pages),
        "posting_before_open": [
            {"page": life.key, "first_post": _iso(life.first_post_at)}
            for life in script.pages
            if life.first_post_at <= script.opens
        ],
    }


def naive(script: Script) -> dict[str, Any]:
    """
    Return the day's figures as end minus start of the trader page's fields: wrong on purpose.

    They ignore the refresh (counts can even be negative) and the other page, and their P&L means are those since the
    last page load.
    """
    traders = [life for life in script.pages if life.page_id is None]
    first, last = traders[0], traders[-1]
    start = _counts(_held(script, first, script.opens))
    end = _counts(_held(script, last, script.closes))
    pnl = dict(end["pnl"])
    for field in ("trades", "commission_usd", "slippage_usd"):
        pnl[field] -= start["pnl"][field]
    groups = {
        group: {name: end[group][name] - start[group][name] for name in end[group]}
        for group in ("massive", "tradier", "greeks")
    }
    return {**groups, "errors": end["errors"] - start["errors"], "pnl": pnl}


def _shown(script: Script) -> tuple[list[tuple[datetime, Event]], list[Event]]:
    """Return each event with the time of the first post that shows it, and the events that no post shows."""
    instants = {life.key: life.post_instants() for life in script.pages}
    shown, lost = [], []
    for event in script.events:
        posted = instants[event.page]
        index = bisect_left(posted, event.at)
        if index < len(posted):
            shown.append((posted[index], event))
        else:
            lost.append(event)
    return shown, lost


def _held(script: Script, life: PageLife, at: datetime) -> list[Event]:
    """Return the events that the page's last post at or before `at` contains."""
    posted = max(p for p in life.post_instants() if p <= at)
    return [e for e in script.events if e.page == life.key and e.at <= posted]


def _bounds(opens: datetime, closes: datetime) -> list[datetime]:
    """Return the open, every full UTC hour inside the session, and the close."""
    hour = opens.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    bounds = [opens]
    while hour < closes:
        bounds.append(hour)
        hour += timedelta(hours=1)
    return [*bounds, closes]


def _window(script: Script, shown: list[tuple[datetime, Event]], begins: datetime, ends: datetime) -> dict[str, Any]:
    """Return what a reader of the posts can know about (begins, ends]."""
    # The first post of a page that was loaded before the window contains counts of before, so it is only the baseline.
    baseline = {life.key: life.first_post_at for life in script.pages if life.loaded_at <= begins < life.first_post_at}
    visible = [event for posted, event in shown if begins < posted <= ends and posted != baseline.get(event.page)]
    down_s = sum(max(0.0, (min(b, ends) - max(a, begins)).total_seconds()) for a, b in _socket_down(script))
    posting = {life.page_id for life in script.pages if life.first_post_at <= ends and life.last_post_at > begins}
    return {
        "from": _iso(begins),
        "to": _iso(ends),
        "visible": _counts(visible),
        "websocket_down_s": down_s,
        "restarts": sum(begins < at <= ends for at in _restarts(script)),
        "pages": len(posting),
    }


def _counts(events: Iterable[Event]) -> dict[str, Any]:
    """Count the events by group; means are None without trades, sums are in dollars."""
    by_kind: dict[str, list[Any]] = defaultdict(list[Any])
    for event in events:
        by_kind[event.kind].append(event.data)
    causes = [data["cause"] for data in by_kind["greeks"]]
    trades = by_kind["trade"]
    return {
        "massive": _provider(by_kind, "massive"),
        "tradier": _provider(by_kind, "tradier"),
        "greeks": {
            "validations": len(causes),
            "valid": causes.count("clean"),
            "gamma_zero": causes.count("gamma_zero"),
            "delta_out_of_bounds": causes.count("delta_out_of_bounds"),
            "iv_anomalies": len(by_kind["iv_anomaly"]),
        },
        "errors": len(by_kind["error"]),
        "pnl": {
            "trades": len(trades),
            "gross_pct": _mean([trade["gross_pct"] for trade in trades]),
            "net_pct": _mean([trade["net_pct"] for trade in trades]),
            "commission_usd": sum(trade["commission_usd"] for trade in trades),
            "slippage_usd": sum(trade["slippage_usd"] for trade in trades),
        },
    }


def _provider(by_kind: dict[str, list[Any]], name: str) -> dict[str, int]:
    outcomes = [data["ok"] for data in by_kind["request"] if data["provider"] == name]
    return {
        "requests": len(outcomes),
        "ok": sum(outcomes),
        "failed": len(outcomes) - sum(outcomes),
        "fallbacks": sum(data["provider"] == name for data in by_kind["fallback"]),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _restarts(script: Script) -> list[datetime]:
    """Return the first posts after a refresh: page loads that follow another with the same page id."""
    seen: set[str | None] = set()
    found = []
    for life in sorted(script.pages, key=lambda life: life.loaded_at):
        if life.page_id in seen:
            found.append(life.first_post_at)
        seen.add(life.page_id)
    return found


def _socket_down(script: Script) -> list[tuple[datetime, datetime]]:
    """Return the periods in which any page had lost its WebSocket, without overlap."""
    lost_at: dict[str, datetime] = {}
    spans = []
    for event in script.events:
        if event.kind != "ws":
            continue
        if not event.data["connected"]:
            lost_at[event.page] = event.at
        elif event.page in lost_at:
            spans.append((lost_at.pop(event.page), event.at))
    merged: list[tuple[datetime, datetime]] = []
    for begins, ends in sorted(spans):
        if merged and begins <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(ends, merged[-1][1]))
        else:
            merged.append((begins, ends))
    return merged


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
