"""Validate steps.toml, checklist_items.toml and checklists.toml."""

from collections.abc import Mapping
from typing import Annotated, Any

from opslib.foundation.config import validation
from opslib.foundation.config.validation import Flag, Span, Table, Text, by_kind, one_of, some_of


class StepForm(Table):
    """The fields that every step has."""

    kind: str
    box: Annotated[str, one_of(known="boxes")]
    do: Text
    expect: Text


class AskForm(StepForm):
    """A question to a person."""

    symptom: Flag = False


class CheckForm(StepForm):
    """A check."""

    check: Text
    of: Text | None = None
    fresh: Span
    symptom: Flag = False
    after: Annotated[str, one_of(known="steps")] | None = None


class ActionForm(StepForm):
    """An action."""

    hook: Annotated[str, one_of(known="hooks")]
    mitigates: Flag = False
    says: Text | None = None


class ChecklistForm(Table):
    """One checklist."""

    title: Text
    each: Annotated[str, one_of(known="each")]
    boxes: dict[str, Annotated[list[str], some_of(known="steps", least=1)]]
    after: Span | None = None


_BY_KIND: dict[str, type[Table]] = {"check": CheckForm, "ask": AskForm, "action": ActionForm}


def step_problems(steps: Mapping[str, Any], file: str, known: dict[str, Any]) -> list[str]:
    """Return every problem of the steps in a file."""
    return validation.problems(dict[str, Annotated[Any, by_kind(_BY_KIND)]], steps, file, known)


def checklist_problems(checklists: Mapping[str, Any], known: dict[str, Any]) -> list[str]:
    """Return every problem of the checklists."""
    return validation.problems(dict[str, ChecklistForm], checklists, "checklists.toml", known)
