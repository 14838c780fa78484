"""
Read the parameters that a notebook declares, and check given values against them.

papermill only warns about an undeclared name and accepts any type, so a misspelled ``day`` would produce the report of
another day. Here both are errors, and the message names the nearest parameter.
"""

import ast
import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opslib.foundation import formatting
from opslib.foundation.errors import UnknownParameter, UsageError

if TYPE_CHECKING:
    from nbformat import NotebookNode


def declared(notebook: "NotebookNode") -> dict[str, str | None]:
    """
    Return the parameters that a notebook declares, each with the name of its type (None is any type).

    They are read from the cell tagged ``parameters``; the type comes from the annotation, else from the default value.
    """
    cells = [c for c in notebook.cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    found: dict[str, str | None] = {}
    try:
        body = ast.parse(re.sub(r"(?m)^[%!].*$", "", cells[0].source)).body if cells else []
    except (SyntaxError, ValueError) as problem:
        raise UsageError(f"the cell tagged parameters is not valid Python ({problem}). Correct the cell.") from None
    for statement in body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found[statement.target.id] = _kind(statement.annotation)
        elif isinstance(statement, ast.Assign) and (kind := _default(statement.value)):
            found |= {t.id: None if kind == "NoneType" else kind for t in statement.targets if isinstance(t, ast.Name)}
        elif isinstance(statement, ast.Assign):
            found |= {t.id: None for t in statement.targets if isinstance(t, ast.Name)}
    return found


def _default(value: ast.expr) -> str | None:
    try:
        return type(ast.literal_eval(value)).__name__
    except ValueError:
        return None


def _kind(annotation: ast.expr) -> str:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return _kind(ast.parse(annotation.value, mode="eval").body)
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).removeprefix("typing.") in (
        "Optional",
        "Union",
    ):
        members = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        kinds = [_kind(member) for member in members]
        if ast.unparse(annotation.value).endswith("Optional"):
            kinds.append("None")
        return " | ".join(kinds)
    return ast.unparse(annotation)


def _typed(name: str, kind: str | None, given: Any) -> Any:
    """Convert a value from the command line or from Python to the declared type of its parameter."""
    kinds = [k.strip() for k in (kind or "").split("|")]
    is_none = given is None or (isinstance(given, str) and given in ("None", "null") and "None" in kinds)
    if is_none and (kind is None or "None" in kinds):
        return None
    converters = {"bool": _as_bool, "int": _as_int, "float": _as_float, "str": _as_str}
    tried = [k for k in kinds if k in converters]
    for k in tried:
        try:
            return converters[k](given)
        except ValueError:
            continue
    if tried:
        raise UnknownParameter(
            f"parameter {name!r} has the type {kind}; {given!r} does not fit. Give a value of this type."
        )
    if isinstance(given, str) and kind is not None and kind.split("[")[0] in ("list", "dict", "tuple"):
        try:
            found = json.loads(given)
            if type(found).__name__ != {"tuple": "list"}.get(kind.split("[")[0], kind.split("[")[0]):
                raise ValueError
            return found
        except ValueError:
            raise UnknownParameter(
                f"parameter {name!r} has the type {kind}; {given!r} is not JSON of this type."
            ) from None
    return given


def _as_bool(given: Any) -> bool:
    if isinstance(given, bool):
        return given
    if isinstance(given, str) and given.lower() in ("true", "false"):
        return given.lower() == "true"
    raise ValueError


def _as_int(given: Any) -> int:
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    if isinstance(given, str) and re.fullmatch(r"[+-]?\d{1,18}", given):
        return int(given)
    raise ValueError


def _as_float(given: Any) -> float:
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return float(given)
    if isinstance(given, str) and re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", given):
        if math.isinf(float(given)):
            raise ValueError
        return float(given)
    raise ValueError


def _as_str(given: Any) -> str:
    if isinstance(given, str):
        return given
    raise ValueError


def checked(
    notebook: "NotebookNode", name: str, given: Mapping[str, Any], secrets: Mapping[str, str]
) -> dict[str, Any]:
    """
    Return the given parameters in their declared types.

    Raises:
        UnknownParameter: The notebook has no such parameter, the value does not fit the type, or the value contains a
            secret, which would be readable in the executed notebook.
    """
    has = declared(notebook)
    for key, value in given.items():
        if key not in has:
            known = f"its parameters: {', '.join(has)}" if has else "it has no parameters"
            raise UnknownParameter(f"{name} has no parameter {key!r}; {known}.{formatting.nearest(key, has)}")
        if any(secret in str(value) for secret in secrets.values()):
            raise UnknownParameter(
                f"parameter {key!r} contains a secret, which would be written into the notebook. Set it in the "
                f"environment instead."
            )
    return {key: _typed(key, has[key], value) for key, value in given.items()}
