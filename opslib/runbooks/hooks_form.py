"""Validate ``[hooks]`` of settings.toml."""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model

from opslib.foundation import time_parsing
from opslib.foundation.config import validation
from opslib.foundation.config.validation import SpanText, Table, expected

_LONGEST = timedelta(hours=24)


def _within_a_day(given: str) -> str:
    if time_parsing.parse_span(given) > _LONGEST:
        raise ValueError
    return given


def _not_built_in(given: object) -> object:
    if given == "built-in":
        raise validation.unexpected("is 'built-in', which only tell_channel and silence accept. Set a command.")
    return given


Command = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Hook = Annotated[
    Literal["rehearsal"] | Command,
    expected("a command as a list, or 'rehearsal',", secret=True),
    BeforeValidator(_not_built_in),
]
HookOrBuiltIn = Annotated[
    Literal["rehearsal", "built-in"] | Command,
    expected("a command as a list, 'rehearsal' or 'built-in'", secret=True),
]
Timeout = Annotated[SpanText, AfterValidator(_within_a_day), expected("a span of time such as 30m, of at most 24h,")]


def problems(found: object, place: str, known: dict[str, Any]) -> list[str]:
    """Return every problem of the hooks in a settings file."""
    spans: dict[str, Any] = dict.fromkeys(known["hooks"], (Timeout, ""))
    timeouts: Any = create_model("Timeouts", __base__=Table, **spans)
    hooks: dict[str, Any] = {
        name: (HookOrBuiltIn if name in known["built-in"] else Hook, "rehearsal") for name in known["hooks"]
    }
    form = create_model("Hooks", __base__=Table, **hooks, timeouts=(timeouts | None, None))
    return validation.problems(form, found, place, known, "hooks")
