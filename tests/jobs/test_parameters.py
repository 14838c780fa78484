"""Test parameters: a value arrives in its declared type, or is rejected with a reason."""

import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opslib.foundation.errors import UnknownParameter, UsageError
from opslib.jobs import notebook_file as runner
from opslib.jobs import parameters

if TYPE_CHECKING:
    from nbformat import NotebookNode

DECLARED = """
import datetime
day: str = "2026-03-10"  # the day, a = b, # 5 = 6
limit: int = 5
ratio: float = 0.5
loud: bool = False
until: str | None = None
most: int | None = None
first = last = 7
plain = "text"  # kind: int = 3
some = [1, 2]
nothing = None
"""
SECRETS = {"OPS_MASSIVE_TOKEN": "open-sesame"}
TEXTS = st.text(
    st.characters(exclude_categories=("Cs",)) | st.sampled_from("'\"\\\n\r\t\x00{}%$#=é\u2028😀"), max_size=40
)


def notebook(source: str | None = DECLARED, *tags: str) -> "NotebookNode":
    """Return a notebook with that parameters cell, not run."""
    runner.without_slow_import()
    from nbformat.v4 import new_code_cell, new_notebook

    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    cells = [] if source is None else [new_code_cell(source, metadata={"tags": list(tags) or ["parameters"]})]
    return new_notebook(cells=[*cells, new_code_cell("1")], metadata={"kernelspec": kernel})


def checked(given: dict[str, Any], source: str | None = DECLARED) -> dict[str, Any]:
    return parameters.checked(notebook(source), "book", given, SECRETS)


def injected(given: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that a notebook's cells see; the injected cell is executed here, without a kernel."""
    book = notebook()
    fitting = parameters.checked(book, "book", given, SECRETS)
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    found = parameterize_notebook(load_notebook_node(book), fitting, kernel_name="python3", language="python")
    (cell,) = [c for c in found.cells if "injected-parameters" in c.metadata.get("tags", [])]
    seen: dict[str, Any] = {}
    exec(cell.source, {}, seen)  # The injected cell is what is tested.
    return seen


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


def test_declared_types() -> None:
    """The type comes from the annotation, else from the default; without either, any type is accepted."""
    found = parameters.declared(notebook())
    assert list(found) == [
        "day",
        "limit",
        "ratio",
        "loud",
        "until",
        "most",
        "first",
        "last",
        "plain",
        "some",
        "nothing",
    ]
    assert [found[n] for n in ("day", "limit", "ratio", "loud", "until", "first", "last", "plain", "nothing")] == [
        "str",
        "int",
        "float",
        "bool",
        "str | None",
        "int",
        "int",
        "str",
        None,
    ]


@pytest.mark.parametrize("source", [None, "", "# n: int = 1", "n[0] = 1\nself.n = 2\ndef f(a: int = 1): b = 2"])
def test_no_declared_parameters(source: str | None) -> None:
    """Without assignments in the parameters cell there are no parameters, and the message says so."""
    assert parameters.declared(notebook(source)) == {}
    with pytest.raises(UnknownParameter, match="it has no parameters"):
        checked({"n": "1"}, source)


def test_another_cell_declares_nothing() -> None:
    """Only the tagged code cell declares parameters."""
    from nbformat.v4 import new_markdown_cell, new_notebook

    assert parameters.declared(notebook("n: int = 1", "parameter", "injected-parameters")) == {}
    assert (
        parameters.declared(new_notebook(cells=[new_markdown_cell("n: int = 1", metadata={"tags": ["parameters"]})]))
        == {}
    )


@settings(max_examples=150, deadline=None)
@given(
    day=TEXTS,
    until=TEXTS.filter(lambda t: t not in ("None", "null")),
    limit=st.integers(-(10**18) + 1, 10**18 - 1),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    loud=st.booleans(),
)
@example(day="'\"\\\n'''\"\"\"", until="\\", limit=-1, ratio=-0.0, loud=True)
@example(day="None", until="x=1;import os #", limit=0, ratio=5e-324, loud=False)
def test_text_arrives_as_its_value(day: str, until: str, limit: int, ratio: float, loud: bool) -> None:
    """A value given as text arrives in the notebook as that value, in its declared type."""
    values = {"day": day, "until": until, "limit": limit, "ratio": ratio, "loud": loud}
    seen = injected({name: value if isinstance(value, str) else str(value) for name, value in values.items()})
    assert {n: (type(v), v) for n, v in seen.items()} == {n: (type(v), v) for n, v in values.items()}


@settings(max_examples=60, deadline=None)
@given(
    day=TEXTS,
    most=st.none() | st.integers(-(10**30), 10**30),
    ratio=st.floats(allow_nan=False),
    loud=st.booleans(),
    nothing=st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
)
def test_python_values_arrive_unchanged(day: str, most: int | None, ratio: float, loud: bool, nothing: Any) -> None:
    """Values given by a Python caller arrive unchanged."""
    values = {"day": day, "most": most, "ratio": ratio, "loud": loud, "nothing": nothing}
    seen = injected(values)
    assert all(same(seen[n], v) for n, v in values.items()), (seen, values)


def test_values_arrive_in_the_kernel(home: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The kernel sees exactly the values of the command line."""
    import json

    from opslib.cli import main

    text = "a'b\"c\\d\ne\tf{g}%s$HOME #=é😀\u2028\x01"
    book = notebook("s: str = ''\nn: int = 0\nx: float = 0.0\nb: bool = True\no: str | None = 'set'")
    book.cells[1]["source"] = "import json, pathlib; pathlib.Path('seen.json').write_text(json.dumps([s, n, x, b, o]))"
    path = tmp_path / "n.ipynb"
    path.write_bytes(runner.written(book))
    assert (
        main.main(["run", str(path), "-p", f"s={text}", "-p", "n=007", "-p", "x=1e-3", "-p", "b=false", "-p", "o=None"])
        == 0
    )
    assert json.loads((tmp_path / "seen.json").read_text()) == [text, 7, 0.001, False, None]
    assert str(tmp_path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("limit", "007", 7),
        ("day", "007", "007"),
        ("limit", "-3", -3),
        ("limit", "+3", 3),
        ("ratio", "3", 3.0),
        ("ratio", ".5", 0.5),
        ("ratio", "-1E3", -1000.0),
        ("loud", "True", True),
        ("loud", "FALSE", False),
        ("until", "None", None),
        ("until", "null", None),
        ("until", "", ""),
        ("until", "none", "none"),
        ("most", "None", None),
        ("most", "4", 4),
        ("day", "None", "None"),
        ("day", "true", "true"),
        ("day", "", ""),
        ("day", " 5 ", " 5 "),
        ("day", "a=b", "a=b"),
        ("first", "8", 8),
        ("plain", "9", "9"),
        ("nothing", "9", "9"),
    ],
)
def test_text_that_fits(name: str, text: str, value: Any) -> None:
    """Text becomes a value of the declared type only."""
    assert same(checked({name: text})[name], value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(
            (name, text)
            for name in ("limit", "ratio", "most", "first")
            for text in (
                "abc",
                "",
                " 5",
                "5 ",
                "5\n",
                "1_000",
                "0x10",
                "1,5",
                "nan",
                "NaN",
                "inf",
                "-inf",
                "Infinity",
                "None5",
                "True",
                "5; import os",
            )
        ),
        ("limit", "5.0"),
        ("limit", "1e3"),
        ("limit", "None"),
        ("limit", "null"),
        ("ratio", "None"),
        ("ratio", "1e999"),
        ("ratio", "-1e400"),
        ("loud", "1"),
        ("loud", "yes"),
        ("loud", ""),
        ("loud", "None"),
    ],
)
def test_text_that_does_not_fit(name: str, text: str) -> None:
    """Text that is no finite value of the declared type is rejected; the message has name, type and text."""
    with pytest.raises(UnknownParameter) as refused:
        checked({name: text})
    assert repr(name) in str(refused.value) and repr(text) in str(refused.value)
    assert str(parameters.declared(notebook())[name]) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", True),
        ("limit", 1.0),
        ("limit", None),
        ("ratio", True),
        ("ratio", None),
        ("loud", 1),
        ("loud", 0),
        ("loud", None),
        ("day", 5),
        ("day", None),
        ("day", b"x"),
        ("until", 5),
        ("limit", [1]),
    ],
)
def test_python_values_that_do_not_fit(name: str, value: Any) -> None:
    """A Python value of another type is rejected, also if Python would accept it."""
    with pytest.raises(UnknownParameter, match=name):
        checked({name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_rejected(value: float) -> None:
    """Not-a-number and infinity are rejected for a float."""
    with pytest.raises(UnknownParameter, match="ratio"):
        checked({"ratio": str(value)})


@pytest.mark.parametrize(
    "annotation", ["Optional[int]", "typing.Optional[int]", "Union[int, None]", "'int'", "'int | None'", "None | int"]
)
def test_other_spellings_of_types(annotation: str) -> None:
    """Every spelling of the type int accepts the same texts."""
    source = f"n: {annotation} = 1"
    with pytest.raises(UnknownParameter, match="n"):
        checked({"n": "abc"}, source)
    assert same(checked({"n": "7"}, source)["n"], 7)


@pytest.mark.parametrize(
    ("default", "bad", "good", "value"), [("-5", "abc", "7", 7), ("+5", "abc", "-7", -7), ("-0.5", "abc", "2", 2.0)]
)
def test_the_type_of_a_default_with_a_sign(default: str, bad: str, good: str, value: Any) -> None:
    """A default with a sign has the type of its number; text is rejected."""
    with pytest.raises(UnknownParameter, match="n"):
        checked({"n": bad}, f"n = {default}")
    assert same(checked({"n": good}, f"n = {default}")["n"], value)


@pytest.mark.parametrize("source", ["n: list = []", "n: list[int] = []", "n = [1]"])
def test_lists_and_dicts_are_json(source: str) -> None:
    """For a declared list or a list as default, JSON is read, and other values are rejected."""
    assert checked({"n": "[1, 2]"}, source)["n"] == [1, 2]
    for text in ("[1", "abc", '{"a": 1}', "5"):
        with pytest.raises(UnknownParameter, match="n"):
            checked({"n": text}, source)


@pytest.mark.parametrize(
    ("given", "nearest"), [("dya", "day"), ("lmit", "limit"), ("Limit", "limit"), ("untill", "until")]
)
def test_an_unknown_name_gets_the_nearest(given: str, nearest: str) -> None:
    """An unknown name is rejected with all parameters and the nearest one."""
    with pytest.raises(UnknownParameter, match=f"Did you mean '{nearest}'") as refused:
        checked({given: "1"})
    assert "book has no parameter" in str(refused.value) and "day, limit, ratio" in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "x=1;import os",
        "",
        " day",
        "day ",
        "day.x",
        "day\n",
        "1",
        "import",
        "dа y",
        "limit: int",
        "{limit}",
        "__class__",
        "datetime",
    ],
)
def test_a_name_that_is_not_a_parameter(name: str) -> None:
    """A name that is no identifier, or is another name of the cell, is unknown."""
    with pytest.raises(UnknownParameter, match="has no parameter"):
        checked({name: "1"})


@pytest.mark.parametrize("value", ["open-sesame", "x open-sesame y", "Bearer open-sesame\n"])
@pytest.mark.parametrize("name", ["day", "nothing", "limit"])
def test_a_secret_is_rejected(name: str, value: str) -> None:
    """A value with a secret is rejected, and the message does not contain it."""
    with pytest.raises(UnknownParameter, match=f"{name}.*secret") as refused:
        checked({name: value})
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize("value", [["open-sesame"], {"key": "open-sesame"}, ("a", ["open-sesame"])])
def test_a_secret_inside_a_value_is_rejected(value: Any) -> None:
    """A secret deep in a list or dict is rejected too."""
    with pytest.raises(UnknownParameter, match="secret"):
        checked({"nothing": value})


@pytest.mark.parametrize(
    "source", ["n: int = = 1", "n = (", "%matplotlib inline\nn: int = 1", "!date\nn: int = 1", "n: int = 1\x00"]
)
def test_a_cell_that_is_not_plain_python(source: str) -> None:
    """An invalid parameters cell is wrong usage, or is read without its magics."""
    try:
        assert same(checked({"n": "2"}, source)["n"], 2)
    except UsageError as refused:
        assert "parameters" in str(refused)


def test_without_given_parameters_nothing_is_injected() -> None:
    """Without given parameters nothing is injected."""
    assert checked({}) == {} == checked({}, None)
