"""The shape ledger checks what it lists; glued numbers reach the prose."""

import pytest
import torch

from tinygpt.course.notebook import Progress, Table, Watched, glue, shape_ledger

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


def test_glue_stores_what_myst_nb_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(
        "IPython.display.display", lambda *args, **kwargs: shown.append((args, kwargs))
    )
    glue("loss", 3.14159, ".2f")
    ((record,), options) = shown[0]
    prefix = "application/papermill.record/"
    assert record == {f"{prefix}text/plain": "3.14"}
    assert options["metadata"]["scrapbook"] == {"name": "loss", "mime_prefix": prefix}


@pytest.mark.parametrize(
    ("value", "form", "stored"),
    [
        (98550, ",", "'98,550'"),  # else the page shows (98, 550)
        (3.8, ".2f", "'3.80'"),  # else 3.8
        (4096, ",", "4,096"),
        ("a word", "", "a word"),
        (7, "", "7"),
    ],
)
def test_glue_quotes_what_would_be_changed(
    value, form: str, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(
        "IPython.display.display", lambda record, **kwargs: shown.append(record)
    )
    glue("number", value, form)
    assert list(shown[0].values()) == [stored]


class CountingBatches:
    def at(self, *place: int) -> tuple[torch.Tensor]:
        return (torch.tensor(place),)


def test_watched_batches_move_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    class Handle:
        update = staticmethod(shown.append)

    def display(bar: Progress, display_id: bool) -> Handle:
        shown.append(bar)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    watched = Watched(CountingBatches(), steps=250)
    for step in range(250):
        (place,) = watched.at(step, 1, 2)
        assert place.tolist() == [step, 1, 2]
    assert list(map(repr, shown[:2])) == ["step 0 of 250", "step 2 of 250"]
    assert len(shown) == 126
    assert 'max="250" value="250"' in shown[-1]._repr_html_()


def test_watched_batches_need_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: None)
    (place,) = Watched(CountingBatches(), steps=1).at(0)
    assert place.tolist() == [0, 0, 1]
