"""A provider without usable responses is notified within two minutes; a short failure is not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opslib.alerting import evaluator, replay
from opslib.alerting.history import severity_changes
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.storage.database import Database
from opslib.telemetry.probes.runner import CONFIRM_S, CONFIRMED, SLOW_S
from opslib.telemetry.probes.store import Sample, SampleStore

OPEN = datetime(2026, 3, 10, 13, 31, tzinfo=UTC)  # A minute after the market has opened.
RULES = rules.load()
FAULT_S, UNTIL_S = 600.1, 1500.0
# The longest time from an alert to its notification: evaluation 2 s after the evaluation time, the group wait, and two
# sending steps that run once a second each.
TO_NOTIFY_S = evaluator.SETTLE_US / 1e6 + Contacts.__dataclass_fields__["group_wait"].default.total_seconds() + 2


def us(seconds: float) -> int:
    return clock.micros(OPEN + timedelta(seconds=seconds))


def probes(
    outcome: str, which: tuple[str, ...], phase_s: float, until_s: float = UNTIL_S, pace_s: float = 5.0
) -> list[Sample]:
    """
    Return the samples of the probes of Massive from the open on, each at its own interval; the named probes fail from
    the fault until it ends.
    """
    found = list[Sample]()
    for name, every_s in (("liveness", pace_s), ("data", SLOW_S)):
        second, failures = phase_s, 0
        while second < UNTIL_S:
            fails = name in which and FAULT_S <= second < until_s
            found.append(
                Sample(
                    us(second),
                    name,
                    "massive",
                    outcome if fails else "ok",
                    0.1,
                    None,
                    1,
                    True,
                    '{"market": "open"}' if name == "liveness" and not fails else "{}",
                )
            )
            failures = failures + 1 if fails else 0
            second += CONFIRM_S if every_s == SLOW_S and 0 < failures < CONFIRMED else every_s
    return [
        *found,
        *(
            Sample(us(5.0 * i + 1), "liveness", "tradier", "ok", 0.1, None, 1, True, '{"market": "open"}')
            for i in range(int(UNTIL_S / 5))
        ),
    ]


def sent_of(home: Path, samples: list[Sample]) -> list[tuple[str, str, float]]:
    """Return what is notified for these samples: rule, severity and second."""
    kept = Database(f"sqlite:///{home / 'store.sqlite'}")
    beats = [
        Sample(us(5.0 * i), "beat", "collector", "ok", None, 50.0, detail='{"every_s": 5}')
        for i in range(int(UNTIL_S / 5))
    ]
    SampleStore(kept, "desk").keep([*samples, *beats], known_at_ts=True)
    found, standing = replay.replay_session(kept, settings.load(home, None, {}), RULES, us(0), us(UNTIL_S))
    return [
        (r.rule, r.severity, r.fired_us / 1e6 - us(0) / 1e6) for r in severity_changes(found, RULES, standing) if r.sent
    ]


@pytest.mark.parametrize("phase_s", [0.0, 0.2, 2.5, 4.9])
@pytest.mark.parametrize(
    ("outcome", "which", "pace_s", "rule"),
    [
        ("server_5xx", ("liveness", "data"), 5.0, "availability"),
        ("rate_limited_429", ("liveness", "data"), 5.0, "answers"),
        ("rate_limited_429", ("liveness", "data"), 10.0, "answers"),  # As with a quota of twelve requests a minute.
        ("entitlement_403", ("data",), 5.0, "answers"),
        ("ok_empty", ("data",), 5.0, "answers"),
    ],
)
def test_a_fault_is_notified_within_two_minutes_at_any_phase(
    tmp_path: Path, outcome: str, which: tuple[str, ...], pace_s: float, rule: str, phase_s: float
) -> None:
    """
    The first notification names the expected rule and is sent within 120 s, wherever the fault falls between two
    probes.
    """
    first = min(sent_of(tmp_path, probes(outcome, which, phase_s, pace_s=pace_s)), key=lambda r: r[2])
    assert first[0] == rule and first[1] in ("notify", "critical") and first[2] - FAULT_S <= 120 - TO_NOTIFY_S, first


@pytest.mark.parametrize("phase_s", [0.0, 2.5, 4.9, 42.0])
@pytest.mark.parametrize("outcome", ["server_5xx", "rate_limited_429", "ok_empty"])
def test_a_short_failure_notifies_no_one(tmp_path: Path, outcome: str, phase_s: float) -> None:
    """A provider that fails once, for twelve seconds, notifies no one."""
    assert sent_of(tmp_path, probes(outcome, ("liveness", "data"), phase_s, until_s=FAULT_S + 12)) == []
