"""Export the alert rules for Prometheus."""

from datetime import timedelta
from typing import Any

from opslib.alerting import evaluation
from opslib.alerting.verdicts import named
from opslib.foundation.config.rules import Rule, Rules


def prometheus_rules(rules: Rules) -> str:
    """
    The limits as Prometheus rules (2.42 or newer) over the gauges of our own ``/metrics``, one alert for each rung.

    Budgets are not among them: a scrape does not reach back a day. Nor is what one alert explains away of another,
    which is the receiver's inhibition there.
    """
    import yaml

    rows = [
        _prometheus_rule(rule, subject, rung, limit)
        for rule in rules.rules.values()
        if not rule.burn and evaluation.PAGE in rule.sources
        for subject in rule.subjects
        for rung, limit in (rule.ladder[-1:] if evaluation.of_every_provider(rule, subject) else rule.ladder)
    ]
    head = (
        f"# The limits of {rules.hash}, by ops rules export prometheus. Judged by opslib alone: "
        f"{', '.join(n for n, r in rules.rules.items() if r.burn) or 'nothing'}.\n"
    )
    return head + yaml.safe_dump(
        {"groups": [{"name": "opslib", "interval": "15s", "rules": rows}]},
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )


def _prometheus_rule(rule: Rule, subject: str, rung: str, limit: float | str) -> dict[str, Any]:
    source = evaluation.PAGE
    which = f'{{rule="{rule.name}",source="{source}",subject="{subject}"}}'
    if evaluation.of_every_provider(rule, subject):
        # No provider is left when the better of them is past what is critical of one.
        limit = dict(rule.ladder)["critical"]
    past = (
        f"trading_rule_value{which} == 0"
        if isinstance(limit, str)
        else f"trading_rule_bound{which} {'<' if rule.better == 'higher' else '>'} {limit!r}"
    )

    def seconds(span: timedelta) -> str:
        return f"{round(span.total_seconds())}s"

    return {
        "alert": f"{rule.name}_{rung}",
        "expr": past,
        "for": seconds(rule.holds[rung]),
        "keep_firing_for": seconds(rule.keep_firing_for),
        "labels": {
            "severity": rung,
            "rule": rule.name,
            "subject": subject,
            "source": source,
            "runbook": rule.runbooks[subject],
        },
        "annotations": {"summary": f"{named(rule, subject)} past {rule.limit_told(limit)}", "action": rule.action},
    }
