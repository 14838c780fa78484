"""Evaluate rules, keep alerts and notify people."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.alerting import history
    from opslib.alerting.alerts import Alerts
    from opslib.alerting.evaluation import evaluate_rules
    from opslib.alerting.evaluator import Evaluator
    from opslib.alerting.store import AlertStore
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "AlertStore": "store:AlertStore",
            "Alerts": "alerts:Alerts",
            "Evaluator": "evaluator:Evaluator",
            "evaluate_rules": "evaluation:evaluate_rules",
            "history": "history",
        },
    )

__all__ = ["AlertStore", "Alerts", "Evaluator", "evaluate_rules", "history"]
