"""Write the title of a postmortem from the diagnosis and the times, such as "Massive returned server errors …"."""

import re
from typing import NamedTuple

from opslib.alerting import causes
from opslib.foundation import clock, formatting
from opslib.incidents import durations
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident

# What was broken, by cause, as the beginning of "… for 12 min on 2026-03-10".
PAST = {
    "provider_5xx": "{} returned server errors",
    "provider_timeout": "{} did not respond in time",
    "provider_refused": "{} refused connections",
    "provider_dns": "The host name of {} could not be resolved",
    "provider_tls": "The TLS certificate of {} was not trusted",
    "provider_auth": "{} rejected our API key",
    "provider_plan": "Our plan with {} did not include the data",
    "provider_ip_blocked": "{} blocked our IP address",
    "provider_rate_limited": "{} rate-limited our requests",
    "provider_wrong_content": "{} did not return the expected data",
    "provider_empty": "{} returned responses without data",
    "provider_partial": "{} returned incomplete option chains",
    "provider_stale": "{} returned old data",
    "provider_intermittent": "{} responded to some requests only",
    "both_providers_down": "Neither provider was available",
    "our_network": "Our network was down",
    "our_timeout_too_short": "The app's timeout for {} was too short",
    "app_down": "The app's server did not respond",
    "app_restarted": "A restart of the app's server closed its WebSocket connections",
    "app_slow": "The app's server responded slowly",
    "socket_closed": "The app's WebSocket was closed",
    "socket_silent": "The app's WebSocket sent no data",
    "socket_auth": "The app's WebSocket rejected our token",
    "socket_blocked": "The connection to the app's WebSocket was blocked",
    "greeks_gamma_zero": "Gamma was zero where it cannot be zero",
    "greeks_missing": "Greeks were missing in {}'s data",
    "greeks_out_of_bounds": "Deltas were outside their valid range",
    "greeks_units": "{}'s Greeks had other units",
    "market_stress": "The market was under stress",
    "expiry": "Gamma was zero in the wings of expiring contracts",
    "costs_commission": "Commissions were higher than the backtest assumes",
    "costs_spread": "Spreads were wider than the backtest assumes",
    "costs_fill_quality": "Fills were worse than the backtest assumes",
    "costs_size": "Positions were smaller than in the backtest",
    "too_few_trades": "There were too few trades to compare with the backtest",
    "memory_leak": "The memory of the app's server or page kept growing",
    "error_storm": "The app logged far more errors than usual",
    "clock_skew": "A system clock was wrong",
    "dashboard_slow": "The dashboard showed old data",
    "monitor_down": "The collector did not run",
    "market_closed": "The market was closed",
}
_BREACH = re.compile(r"^(?P<figure>.+?) \(.*?\) (?P<sign>[<>≤≥=])")


class Cause(NamedTuple):
    """
    The cause of an incident by its record.

    Attributes:
        cause: One of `causes.CAUSES`; undetermined if nothing in the record names one.
        confidence: Between 0 and 1; None if no diagnosis found it.
        entry: The entry that names it; None if it follows from the alert's rule.
    """

    cause: str
    subject: str
    confidence: float | None = None
    entry: Entry | None = None

    @property
    def whose(self) -> str:
        """Whose fault it is, such as ``Massive``."""
        return causes.whose(self.cause, self.subject)


def cause_of(incident: Incident) -> Cause:
    """Return the cause that the last diagnosis before the end of an incident found, else the one of its rule."""
    ended = durations.span(incident)[1] or incident.last_entry.at_us
    for entry in reversed(incident.of_kind("diagnosis", "runbook")):
        cause = str(entry.body.get("cause", ""))
        if entry.at_us <= ended and cause in PAST and cause != "market_closed":
            subject = str(entry.body.get("subject") or incident.subject)
            return Cause(cause, subject, entry.body.get("confidence"), entry)
    return Cause(causes.OF_RULE.get(incident.rule, causes.UNDETERMINED), incident.subject)


def title(incident: Incident) -> str:
    """
    Return what was broken, for how long and on which day (New York), as one sentence without a period.

    How long is the shortest of the durations of the incident: the time below its critical threshold if it was measured,
    else the time until its alert was over.
    """
    found = cause_of(incident)
    if found.cause in PAST:
        what = past(found)
    elif breach := _BREACH.match(incident.title):
        side = "above" if breach["sign"] in ">≥" else "below"
        what = f"{breach['figure'][:1].upper()}{breach['figure'][1:]} was {side} its threshold"
    else:
        what = f"{incident.title[:1].upper()}{incident.title[1:]}".rstrip(".")
    began, ended = durations.span(incident)
    first = clock.instant(began if began is not None else incident.entries[0].at_us).astimezone(formatting.NEW_YORK)
    if began is None or ended is None:
        return f"{what} since {first:%H:%M} New York on {first:%Y-%m-%d}"
    shortest = durations.measure(incident)[0].seconds
    return f"{what} for {durations.rounded(shortest or (ended - began) / 1e6)} on {first:%Y-%m-%d}"


def past(found: Cause) -> str:
    """Return what was broken, with its provider or subject, as the beginning of a sentence."""
    name = causes.provider_name(found.cause, found.subject)
    if name == causes.PROVIDER and not found.cause.startswith(causes.GREEKS):
        name = subject_name(found.subject)
    what = PAST[found.cause].format(name)
    return what[:1].upper() + what[1:]


def subject_name(subject: str) -> str:
    """Return a subject as it begins a sentence: ``Massive``, ``The app``."""
    return subject.title() if subject in ("massive", "tradier") else f"The {subject}" if subject == "app" else subject
