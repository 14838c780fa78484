"""
Read the parameters that a notebook declares, and check what is given against them.

papermill only warns about a name that no cell declares, and takes any value for any type; a misspelt ``day`` would
silently report on another one. Here both are refused, naming the nearest name.
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
    Which parameters does a notebook declare, each with its type's name (None: any)?

    Read from the cell tagged ``parameters``: an annotation says the type, else the default does.
    """
    cells = [c for c in notebook.cells if c.cell_type == "code" and "parameters" in c.metadata.get("tags", [])]
    found: dict[str, str | None] = {}
    try:
        body = ast.parse(re.sub(r"(?m)^[%!].*$", "", cells[0].source)).body if cells else []
    except (SyntaxError, ValueError) as problem:
        raise UsageError(f"the cell tagged parameters cannot be read as Python ({problem}).") from None
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
    """A parameter's value in its declared type, from a shell's text or from Python."""
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
        raise UnknownParameter(f"parameter {name!r} is declared {kind}; found {given!r}.")
    if isinstance(given, str) and kind is not None and kind.split("[")[0] in ("list", "dict", "tuple"):
        try:
            found = json.loads(given)
            if type(found).__name__ != {"tuple": "list"}.get(kind.split("[")[0], kind.split("[")[0]):
                raise ValueError
            return found
        except ValueError:
            raise UnknownParameter(
                f"parameter {name!r} is declared {kind}; found {given!r}, which is not JSON of that kind."
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
    The given parameters in their declared types.

    Raises:
        UnknownParameter: A name the notebook does not have (with the nearest it has), a value not of the declared type,
            or a secret: parameters are written into the notebook for everybody to read.
    """
    has = declared(notebook)
    for key, value in given.items():
        if key not in has:
            told = f"it has: {', '.join(has)}" if has else "it has none"
            raise UnknownParameter(f"{name} has no parameter {key!r}; {told}.{formatting.nearest(key, has)}")
        if any(secret in str(value) for secret in secrets.values()):
            raise UnknownParameter(
                f"parameter {key!r} holds a secret, which would be written into the notebook. Leave it in the "
                f"environment."
            )
    return {key: _typed(key, has[key], value) for key, value in given.items()}
