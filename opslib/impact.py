"""
This module knows what still works at a moment, and how bad that is; and nothing else. Both are looked up, never assumed:
"medium, there is a fallback" holds only while the fallback serves.
"""

from typing import TYPE_CHECKING, NamedTuple

from opslib import clock, text
from opslib.outcome import OUTCOMES

if TYPE_CHECKING:
    from opslib.panels import View

LEVELS = ("low", "medium", "high", "critical", "unknown")


class Severity(NamedTuple):
    """
    How bad it is for who trades.

    Attributes:
        level: low, medium (a fallback serves), high (something that trades rest on is wrong), critical (nothing serves), unknown.
        why: One sentence.
    """

    level: str
    why: str


def standing(view: "View") -> list[tuple[str, str]]:
    """
    What works, what does not, and what is not known, at the end of a view?

    Returns:
        works, fails or unknown, each with its words: who can serve, the WebSocket, the Greeks, the app's server.
    """
    found = [*_served(view)]
    connected = view.figures["system"]["websocket_connected"]
    found.append(("unknown" if connected is None else "works" if connected else "fails", "live prices over the page's WebSocket"))
    valid = view.figures["greeks"]["valid_rate"]
    sound = next((f.verdict for f in view.findings if f.rule.name == "greeks_valid" and f.source == "page"), "unknown")
    found.append(("unknown" if valid is None else "works" if sound == "ok" else "fails", f"Greeks ({text.ratio(valid, 1)} valid)" if valid is not None else "Greeks"))
    if view.probed and (health := view.probed.now("health", "app", view.window.end_us)):
        found.append(("works" if OUTCOMES[health.outcome].usable else "fails", "the app's server"))
    return found


def _served(view: "View") -> list[tuple[str, str]]:
    """Who can serve option data: by our own looks where there are any, else by what the page counted."""
    serving = view.probed.serving(view.window.end_us) if view.probed else None
    if serving == "massive":
        return [("works", "option data from Massive")]
    if serving == "tradier":
        return [("works", "option data from Tradier, in Massive's place"), ("fails", "option data from Massive")]
    if serving == "nobody":
        ours = [("fails", "our own network: neither provider can even be connected to")] if view.probed and view.probed.network_gone(view.window.end_us) else []
        return [*ours, ("fails", "option data: nobody can serve")]
    found = []
    for name, figures in view.figures["providers"].items():
        judged = next((f for f in view.findings if f.rule.name == "availability" and f.subject == name and f.source == "page"), None)
        if not figures["requests"] or judged is None or judged.verdict == "unknown":
            found.append(("unknown", f"option data from {name.title()}"))
        else:
            told = f"option data from {name.title()} ({text.ratio(figures['availability'], 1)} of {text.number(figures['requests'])} requests)"
            found.append(("works" if judged.verdict in ("ok", "warning") else "fails", told))
    return found


def severity(view: "View") -> Severity:
    """
    How bad is it at the end of a view?

    The guide calls an outage of Massive medium because Tradier stands in; here it is medium only while Tradier does. What
    is critical is its list of what escalates at once: no provider at all, most Greeks wrong, the socket down for long.
    """
    stands = standing(view)
    fails, unknown = ([words for state, words in stands if state == wanted] for wanted in ("fails", "unknown"))
    works = [words for state, words in stands if state == "works"]
    told = f"{'Works: ' + ', '.join(works) + '. ' if works else ''}{'Does not work: ' + ', '.join(fails) + '. ' if fails else ''}{'Not known: ' + ', '.join(unknown) + '.' if unknown else ''}".strip()
    if not clock.open_since(view.window.end):
        return Severity("low", f"The market is closed: nothing is expected now. {told}".strip())
    escalating = [f for f in view.findings if f.severity == "escalate" and f.counted and not (f.rule.name == "availability" and f.subject != "app")]
    data = [words for words in fails if words.startswith(("option data: nobody", "our own network", "the app's server"))]
    if data or escalating:
        why = "; ".join([*data, *(f.sentence for f in escalating[:1] if not data)])
        return Severity("critical", f"Nothing stands in for it ({why}). {told}")
    served = [words for words in works if words.startswith("option data")]
    other = [words for words in fails if not words.startswith("option data")]
    if not served:
        if [words for words in unknown if words.startswith("option data")]:
            return Severity("unknown", f"Nobody knows who serves option data. {told}")
        return Severity("critical", f"No provider serves. {told}")
    if other:
        return Severity("high", f"Data is served, but what is traded by is wrong. {told}")
    if fails:
        return Severity("medium", f"A fallback serves. {told}")
    wrong = [f for f in view.findings if f.counted and f.verdict == "critical"]
    if wrong:
        return Severity("medium", f"Everything works, but {wrong[0].sentence}. {told}")
    return Severity("unknown" if unknown and not works else "low", f"Nothing that trading rests on fails. {told}")
