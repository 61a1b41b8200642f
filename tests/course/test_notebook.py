"""The shape ledger checks what it lists; glued numbers reach the prose."""

import sys
from typing import Any

import nbformat
import pytest
import torch

from tinygpt.course.notebook import Table, glue, shape_ledger

SIZES = {"B": 2, "T": 5, "C": 12, "H": 3, "D": 4}


def test_the_ledger_lists_names_shapes_axes_and_meaning() -> None:
    qkv = torch.zeros(2, 5, 36)
    scores = torch.zeros(2, 3, 5, 5)
    ledger = shape_ledger(
        SIZES,
        [
            ("qkv", qkv, "B T 3*C", "queries, keys, values"),
            ("scores", scores, "B H T T", "a < b"),
            ("heads", torch.zeros(2, 5, 12), "B T H*D", "side by side"),
            ("two", torch.zeros(2, 7), "B 7", "a plain number"),
        ],
    )
    assert ledger.rows[0] == ("qkv", "[2, 5, 36]", "B T 3*C", "queries, keys, values")
    assert repr(ledger).splitlines()[2].split() == [
        *("scores", "[2,", "3,", "5,", "5]", "B", "H", "T", "T", "a", "<", "b")
    ]
    html = ledger._repr_html_()
    assert "a &lt; b" in html
    assert html.count('scope="row"') == 4
    assert "<th></th>" not in html


@pytest.mark.parametrize(
    ("sizes", "axes", "error"),
    [
        (SIZES, "T B C", ValueError),
        (SIZES, "B T", ValueError),
        (SIZES, "B T D", ValueError),
        (SIZES, "B T X", KeyError),
        (SIZES | {"X": 5}, "B T C", ValueError),
    ],
)
def test_a_wrong_row_is_refused(sizes, axes: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        shape_ledger(sizes, [("x", torch.zeros(2, 5, 12), axes, "vectors")])


def test_a_table_in_a_terminal() -> None:
    table = Table(("name", "value"), (("loss", "3.1"), ("perplexity", "22")))
    assert repr(table) == "name        value\nloss        3.1\nperplexity  22"


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [
        (98550, ",", "98,550"),  # as a number the page would show (98, 550)
        (3.8, ".2f", "3.80"),
        ("a word", "", "a word"),
        (7, "", "7"),
    ],
)
def test_glue_stores_what_the_page_shows(
    value: object, form: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    myst = pytest.importorskip("myst_nb.ext.glue", reason="builds the pages")
    stored: list[Any] = []
    monkeypatch.setattr(
        "IPython.display.display",
        lambda data, **options: stored.append((data, options)),
    )
    glue("number", value, form)
    ((data, options),) = stored
    output = nbformat.v4.new_output("display_data", data, metadata=options["metadata"])
    cell = nbformat.v4.new_code_cell(outputs=[output])
    ((name, found),) = myst.extract_glue_data_cell(cell)
    assert (name, found["data"]) == ("number", {"text/plain": shown})
    assert cell.outputs == []  # the cell itself shows nothing


def test_glue_does_nothing_outside_a_notebook(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    glue("number", 7)
    assert capsys.readouterr().out == ""
