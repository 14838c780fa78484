"""Validate ``schedule.toml``."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo

from opslib.foundation import time_parsing
from opslib.foundation.config import validation
from opslib.foundation.config.validation import Flag, Span, Table, expected, one_of, some_of
from opslib.jobs import triggers

_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_LONGEST_TIMEOUT = timedelta(days=1)
_ALERT_CHANNELS = ("pagerduty", "alertmanager")  # They accept alerts, but no text.


def _runs(given: str, info: ValidationInfo) -> str:
    known = info.context or {}
    kind, _, what = given.partition(" ")
    if kind not in known["kinds"] or not what or (kind == "report" and what not in known["reports"]):
        raise validation.unexpected(
            f"is {given!r}; expected report {', '.join(known['reports'])}, checklist NAME or notebook PATH."
        )
    return given


def _when(given: str) -> str:
    if triggers.parse(given) is None:
        raise ValueError
    return given


def _timeout(given: str) -> str:
    if time_parsing.parse_span(given) > _LONGEST_TIMEOUT:
        raise validation.unexpected(f"is {given}; expected at most one day.")
    return given


def _accepts_text(given: list[str], info: ValidationInfo) -> list[str]:
    kinds = info.context["channels"] if info.context else {}
    if alert_only := [name for name in given if kinds[name] in _ALERT_CHANNELS]:
        raise validation.unexpected(f"names {alert_only[0]!r}, which accepts only alerts. Name a channel for text.")
    return given


class JobForm(Table):
    """A job of the schedule."""

    runs: Annotated[str, expected("a text such as report daily"), AfterValidator(_runs)]
    when: Annotated[
        str,
        AfterValidator(_when),
        expected(
            "such as 15 minutes after the close, 08:00, every day, or 09:00, first trading day of the month (see the "
            "comment at the top of the shipped file)"
        ),
    ]
    parameters: Annotated[dict[str, Any], expected("a table", secret=True)] = Field(default_factory=dict)
    wait: Span | None = None
    grace: Span | None = None
    timeout: Annotated[Span, AfterValidator(_timeout)] | None = None
    owner: Annotated[str, one_of(known="roles")] | None = None
    severity: Annotated[str, one_of(known="severities")] | None = None
    catch_up: Flag | None = None
    deliver: Annotated[list[str], some_of(known="channels"), AfterValidator(_accepts_text)] | None = None

    def conflicts(self) -> Iterator[str]:
        """Yield an error if a job other than a notebook has parameters."""
        if self.parameters and not self.runs.startswith("notebook "):
            yield "only a notebook can have parameters. Remove them, or run a notebook."


def problems(shipped: dict[str, Any], own: dict[str, Any], place: str, known: dict[str, Any]) -> list[str]:
    """Return every problem of the user's schedule; each job is validated merged with the shipped job of its name."""
    found = [
        f"{place}, [{name}]: a job's name may contain lower-case letters, digits and -. Rename it."
        for name in own
        if not _NAME.fullmatch(name)
    ]
    for name, table in own.items():
        whole = shipped.get(name, {}) | table if isinstance(table, dict) else table
        found += validation.problems(JobForm, whole, place, known, name)
    return found
