"""
This module knows the checks by which steps that look are judged, and nothing else: each answers one question about a
moment, with what it rests on, and says unknown where nobody has looked.

A check reads what is in the store as of the moment of its scene; so asked later as of then it says the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opslib import text
from opslib.outcome import OUTCOMES
from opslib.samples import Sample
from opslib.steps import Step
from opslib.walk import Seen

if TYPE_CHECKING:
    from opslib.desk import Desk
    from opslib.incident import Incident
    from opslib.panels import View

LAST = 12  # So many looks go into the record with what a check saw.


@dataclass(frozen=True)
class Scene:
    """
    What a check is asked about.

    Attributes:
        view: Everything as of the moment.
        desk: For what a view does not hold: chains, fills, costs.
        step: The step; `of` says what it is about.
        incident: As its record stands.
    """

    view: "View"
    desk: "Desk"
    step: Step
    incident: "Incident"

    @property
    def at_us(self) -> int:
        """The moment, microseconds since 1970."""
        return self.view.window.end_us


def told(sample: Sample) -> dict[str, Any]:
    """One look, for the record."""
    return {"at_us": sample.ts_us, "probe": sample.probe, "subject": sample.subject, "outcome": sample.outcome, "seconds": sample.seconds, "value": sample.value, "detail": sample.told()}


def answers(scene: Scene) -> Seen:
    """Does a provider answer what it is asked, as of now?"""
    of, probed = scene.step.of, scene.view.probed
    stands = {probe: probed.now(probe, of, scene.at_us) for probe in ("liveness", "data")} if probed else {}
    known = {probe: s for probe, s in stands.items() if s is not None}
    query = f"the last looks at {of}: market clock, option data"
    if not known or probed is None:
        return Seen(None, f"nobody has looked at {of} lately", None, "probe", query)
    worst = next((s for s in known.values() if not OUTCOMES[s.outcome].usable), None)
    seconds = [s.seconds for s in known.values() if s.seconds is not None]
    content = {"now": {probe: told(s) for probe, s in known.items()}, "before": [told(s) for s in probed.within("liveness", of, scene.view.window)[-LAST:]]}
    if worst is None:
        return Seen(True, f"{of} answers{f' (slowest {max(seconds):.2f} s)' if seconds else ''}", content, "probe", query)
    return Seen(False, f"{of} {OUTCOMES[worst.outcome].words} ({worst.probe}); it is {OUTCOMES[worst.outcome].fault}", content, "probe", query)


CHECKS: dict[str, Callable[[Scene], Seen]] = {"answers": answers}


def seen(scene: Scene) -> Seen:
    """What does the check of a step see?"""
    found = CHECKS[scene.step.check](scene)
    return found._replace(words=text.one_line(found.words, 300))
