"""Say what ``schedule.toml`` may hold."""

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
_ALERT_CHANNELS = ("pagerduty", "alertmanager")  # They take alerts and no words.


def _runs(given: str, info: ValidationInfo) -> str:
    known = info.context or {}
    kind, _, what = given.partition(" ")
    if kind not in known["kinds"] or not what or (kind == "report" and what not in known["reports"]):
        raise validation.unexpected(
            f"is {given!r}; report {', '.join(known['reports'])}, checklist NAME or notebook PATH was expected."
        )
    return given


def _when(given: str) -> str:
    if triggers.parse(given) is None:
        raise ValueError
    return given


def _timeout(given: str) -> str:
    if time_parsing.parse_span(given) > _LONGEST_TIMEOUT:
        raise validation.unexpected(f"is {given}; up to a day was expected.")
    return given


def _takes_words(given: list[str], info: ValidationInfo) -> list[str]:
    kinds = info.context["channels"] if info.context else {}
    if wordless := [name for name in given if kinds[name] in _ALERT_CHANNELS]:
        raise validation.unexpected(f"names {wordless[0]!r}, which takes alerts and no words. Name another channel.")
    return given


class JobForm(Table):
    """Something that is made again and again."""

    runs: Annotated[str, expected("a text such as report daily"), AfterValidator(_runs)]
    when: Annotated[
        str,
        AfterValidator(_when),
        expected(
            "such as 15 minutes after the close, 08:00, every day, or 09:00, first trading day of the month (see the "
            "shipped file's head)"
        ),
    ]
    parameters: Annotated[dict[str, Any], expected("a table", secret=True)] = Field(default_factory=dict)
    wait: Span | None = None
    grace: Span | None = None
    timeout: Annotated[Span, AfterValidator(_timeout)] | None = None
    owner: Annotated[str, one_of(known="roles")] | None = None
    severity: Annotated[str, one_of(known="severities")] | None = None
    catch_up: Flag | None = None
    deliver: Annotated[list[str], some_of(known="channels"), AfterValidator(_takes_words)] | None = None

    def conflicts(self) -> Iterator[str]:
        """Only a notebook has parameters."""
        if self.parameters and not self.runs.startswith("notebook "):
            yield "parameters are only of a notebook. Take them out, or run a notebook."


def problems(shipped: dict[str, Any], own: dict[str, Any], place: str, known: dict[str, Any]) -> list[str]:
    """Every problem of one's own schedule, each job as it is with the shipped one of its name below it."""
    found = [
        f"{place}, [{name}]: a job's name is lower-case letters, digits and -. Rename it."
        for name in own
        if not _NAME.fullmatch(name)
    ]
    for name, told in own.items():
        whole = shipped.get(name, {}) | told if isinstance(told, dict) else told
        found += validation.problems(JobForm, whole, place, known, name)
    return found
