"""
Define the valid content of configuration files with pydantic, and report every problem of a file at once.

pydantic takes 0.1 s to import, so this module and the forms built on it are imported only to read a file that has
changed; see `documents`. No message shows the value of an unknown key, or of a key that may hold a secret.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from opslib.foundation import formatting, time_parsing
from opslib.foundation.errors import UsageError

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
    date: "a date",
    time: "a time",
    datetime: "a date and time",
}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Problem(NamedTuple):
    """
    One problem of a file.

    Attributes:
        table: The table that contains it, from the top of the file.
        words: What is wrong, what was expected, and what to do.
    """

    table: tuple[str, ...]
    words: str


def several(problems: Iterable[Problem]) -> PydanticCustomError:
    """Create an error that carries any number of problems, with tables relative to where it is raised."""
    return PydanticCustomError("several", "Several problems.", {"problems": list(problems)})


def unexpected(words: str) -> PydanticCustomError:
    """Create an error for one key; `words` are read after its name."""
    return PydanticCustomError("unexpected", "An unexpected value.", {"words": words})


class Table(BaseModel):
    """A table of a file: unknown keys are rejected, and no value is converted to another type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)
    hint: ClassVar[str] = ""  # Added to the message about an unknown key.

    def conflicts(self) -> Iterator[str]:
        """Yield the problems between its keys, once each key is valid by itself."""
        return iter(())

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, given: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(given, dict):
            raise unexpected(f"is {_shown(given)}; a table was expected.")
        try:
            found = handler(given)
        except ValidationError as refused:
            raise several(_problems(refused, cls)) from None
        if conflicts := [Problem((), words) for words in found.conflicts()]:
            raise several(conflicts)
        return found


def problems(form: Any, given: object, place: str, known: Mapping[str, Any], within: str = "") -> list[str]:
    """
    Return every problem of a file's content, each with its place; empty if there is none.

    Args:
        form: A `Table`, or a type made of tables.
        place: The file.
        known: The values that the file is checked against: lists of names, by their kind.
        within: The table of the file that `given` is.
    """
    form, given = (dict[str, form], {within: given}) if within else (form, given)
    try:
        TypeAdapter(form).validate_python(given, context=known)
    except ValidationError as refused:
        return [f"{place}{_heading(p.table)}: {p.words}" for p in _problems(refused)]
    return []


def _problems(refused: ValidationError, table: type[Table] | None = None) -> Iterator[Problem]:
    """Yield the problems that a pydantic error stands for, with tables relative to `table`."""
    for error in refused.errors(include_url=False):
        *outer, key = error["loc"] or ("",)
        at = tuple(str(part) for part in outer)
        match error["type"]:
            case "several":
                here = (*at, str(key)) if error["loc"] else ()
                yield from (Problem((*here, *p.table), p.words) for p in error["ctx"]["problems"])
            case "unexpected" if key == "[key]":
                yield Problem(at, f"the name {error['ctx']['words']}")
            case "unexpected":
                yield Problem(at, f"{key} {error['ctx']['words']}")
            case "missing":
                yield Problem(at, f"the key {key} is missing. Add it.")
            case "extra_forbidden" if table is not None:
                keys = [field.alias or name for name, field in table.model_fields.items()]
                near = formatting.nearest(str(key), keys)
                yield Problem(at, f"there is no key {_shown(key)}.{near} Valid keys: {', '.join(keys)}.{table.hint}")
            case "dict_type":
                yield Problem(at, f"{key} is {_kind(error['input'])}; a table was expected.")
            case _:
                yield Problem(at, f"{key} is {_kind(error['input'])}. {error['msg']}.")


def _heading(table: tuple[str, ...]) -> str:
    """Return the heading of a table as it is written in a file: `` [roles."Tech Lead"]``, after a comma."""
    parts = [part if _BARE_KEY.fullmatch(part) else f'"{formatting.single_line(part, 40)}"' for part in table]
    return f", [{'.'.join(parts)}]" if parts else ""


def _shown(given: object) -> str:
    return formatting.single_line(repr(given), 80)


def _hidden(given: object) -> str:
    if given in ("", []):
        return "is empty"
    return "is invalid (its value is not shown, because it may hold a secret)"


def _kind(given: object) -> str:
    return _KINDS.get(type(given), "something else")


def expected(words: str, secret: bool = False) -> WrapValidator:
    """
    Replace pydantic's message by a description of the expected value.

    Args:
        secret: Whether the value may hold a secret; then it is not shown.
    """

    def check(given: object, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(given)
        except ValidationError:
            raise unexpected(f"{_hidden(given) if secret else f'is {_shown(given)}'}; {words} was expected.") from None

    return WrapValidator(check)


def _any_of(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def one_of(*names: str, known: str = "") -> WrapValidator:
    """
    Accept one of some names.

    Args:
        known: The key of the names in the `known` argument of `problems`, in place of `names`.
    """

    def check(given: object, _: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        choices = tuple(info.context[known]) if info.context and known else names
        if not isinstance(given, str) or given not in choices:
            near = formatting.nearest(given, choices) if isinstance(given, str) else ""
            raise unexpected(f"is {_shown(given)}; {_any_of(choices)} was expected.{near}")
        return given

    return WrapValidator(check)


def some_of(*names: str, known: str = "", least: int = 0) -> WrapValidator:
    """Accept a list of some names; see `one_of`."""

    def check(given: object, _: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        choices = tuple(info.context[known]) if info.context and known else names
        valid = f"a list of {'at least one' if least else 'any'} of {', '.join(choices)} was expected"
        if not isinstance(given, list) or len(given) < least:
            raise unexpected(f"is {_shown(given)}; {valid}.")
        if unknown := [name for name in given if name not in choices]:
            raise unexpected(f"names {_shown(unknown[0])}; {valid}.{formatting.nearest(str(unknown[0]), choices)}")
        return given

    return WrapValidator(check)


def by_kind(forms: Mapping[str, type[Table]]) -> WrapValidator:
    """Validate a table by the form that its key ``kind`` selects."""

    def check(given: object, _: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        if not isinstance(given, dict):
            raise unexpected(f"is {_kind(given)}; a table was expected.")
        kind = given.get("kind")
        if not isinstance(kind, str) or kind not in forms:
            near = formatting.nearest(kind, forms) if isinstance(kind, str) else ""
            raise several([Problem((), f"kind is {_shown(kind)}; {_any_of(forms)} was expected.{near}")])
        try:
            return forms[kind].model_validate(given, context=info.context)
        except ValidationError as refused:
            raise several(_problems(refused, forms[kind])) from None

    return WrapValidator(check)


def _as_span(text: str) -> str:
    try:
        time_parsing.parse_span(text)
    except UsageError as problem:
        raise ValueError(str(problem)) from None
    return text


def _as_span_or_none(text: str) -> str:
    return text if text == "0s" else _as_span(text)


Text = Annotated[str, Field(min_length=1), expected("a text")]
Texts = Annotated[list[str], expected("a list of texts")]
Flag = Annotated[bool, expected("true or false")]
Bounded = Annotated[float, Field(gt=-1e15, lt=1e15, allow_inf_nan=False)]
Number = Annotated[Bounded, expected("a number")]
Positive = Annotated[Bounded, Field(gt=0), expected("a number above 0")]
SpanText = Annotated[str, AfterValidator(_as_span)]
SpanOrNoneText = Annotated[str, AfterValidator(_as_span_or_none)]
Span = Annotated[SpanText, expected("a span of time such as 5m or 1h30m")]
SpanOrNone = Annotated[SpanOrNoneText, expected("a span of time such as 5m, or 0s")]
