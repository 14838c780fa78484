"""Export the alert rules for Prometheus."""

from datetime import timedelta
from typing import Any

from opslib.alerting import evaluation
from opslib.alerting.verdicts import named
from opslib.foundation.config.rules import Rule, Rules


def prometheus_rules(rules: Rules) -> str:
    """
    Return the rules as Prometheus alerting rules (2.42 or newer) on the gauges of our ``/metrics``, one per severity.

    Burn rates are left out, because their windows are up to a day. Inhibition is left out, because Alertmanager does
    it.
    """
    import yaml

    rows = [
        _prometheus_rule(rule, subject, severity, limit)
        for rule in rules.rules.values()
        if not rule.burn and evaluation.PAGE in rule.sources
        for subject in rule.subjects
        for severity, limit in (
            rule.thresholds[-1:] if evaluation.is_no_provider_rule(rule, subject) else rule.thresholds
        )
    ]
    head = (
        f"# Rules {rules.hash}, written by ops rules export prometheus. Evaluated only by opslib: "
        f"{', '.join(n for n, r in rules.rules.items() if r.burn) or 'none'}.\n"
    )
    return head + yaml.safe_dump(
        {"groups": [{"name": "opslib", "interval": "15s", "rules": rows}]},
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )


def _prometheus_rule(rule: Rule, subject: str, severity: str, limit: float | str) -> dict[str, Any]:
    source = evaluation.PAGE
    which = f'{{rule="{rule.name}",source="{source}",subject="{subject}"}}'
    if evaluation.is_no_provider_rule(rule, subject):
        # No provider is available when the better one crosses the critical limit.
        limit = dict(rule.thresholds)["critical"]
    if isinstance(limit, str):
        worse, past = "=", f"trading_rule_value{which} == 0"
    else:
        worse = "<" if rule.better == "higher" else ">"
        past = f"trading_rule_bound{which} {worse} {limit!r}"

    def seconds(span: timedelta) -> str:
        return f"{round(span.total_seconds())}s"

    return {
        "alert": f"{rule.name}_{severity}",
        "expr": past,
        "for": seconds(rule.holds[severity]),
        "keep_firing_for": seconds(rule.keep_firing_for),
        "labels": {
            "severity": severity,
            "rule": rule.name,
            "subject": subject,
            "source": source,
            "runbook": rule.runbooks[subject],
        },
        "annotations": {
            "summary": f"{named(rule, subject)} {worse} {rule.format_limit(limit)}",
            "action": rule.action,
        },
    }
