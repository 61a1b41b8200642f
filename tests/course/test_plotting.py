"""Figures as objects: what is drawn, with which labels and colours. No pixels."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.patches import FancyBboxPatch

mpl.use("Agg")

from tinygpt.course import plotting
from tinygpt.course.model_map import _MAP, PARTS, model_map
from tinygpt.course.plotting import (
    DIVERGING,
    MASKED,
    ORANGE,
    PAPER,
    SEQUENTIAL,
    attention_map,
    bars,
    heatmap,
    lines,
    loss_curves,
    new_axes,
    new_row,
    positional_encoding,
    token_strip,
    visible,
)
from tinygpt.model.positional import sinusoidal_positions


@pytest.fixture(autouse=True)
def _close():
    with mpl.rc_context():
        yield
    plotting.plt.close("all")


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def ticks(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_one_style_card_and_letters_for_a_phone() -> None:
    ax = new_axes()
    figure = ax.figure
    assert mpl.colors.to_hex(figure.get_facecolor()) == PAPER
    width_on_phone = 328  # px, of a screen of 360
    for label in (ax.xaxis.label, ax.title, *ax.get_xticklabels()):
        px = label.get_fontsize() / 72 * width_on_phone / figure.get_figwidth()
        assert px >= 9
    left, right = new_row(2)
    assert left.figure is right.figure


@pytest.mark.parametrize("colours", [plotting.CYCLE])
def test_lines_can_be_told_apart_without_colour(colours: tuple[str, ...]) -> None:
    ax = lines([0, 1], {str(i): [i, i + 1] for i in range(6)}, x_label="x", y_label="y")
    styles = {
        line._dash_pattern[1] and tuple(line._dash_pattern[1]) for line in ax.lines
    }
    assert len(styles) == len(colours) == 6
    assert len(ax.get_legend().get_texts()) == 6


def test_no_series_is_dropped() -> None:
    ax = lines([0, 1], {str(i): [i, i + 1] for i in range(15)})
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == [str(i) for i in range(15)]
    looks = {(line.get_color(), str(line._dash_pattern)) for line in ax.lines}
    assert len(looks) == 15


def test_magnitudes_are_sequential_and_signed_values_centred() -> None:
    matrix = torch.tensor([[-1.0, 0.0, 3.0], [0.5, 2.0, 1.0]])
    plain = heatmap(matrix, x_label="x", y_label="y").images[0]
    assert plain.get_cmap().name == SEQUENTIAL
    assert plain.get_clim() == (-1.0, 3.0)
    signed = heatmap(matrix, signed=True).images[0]
    assert signed.get_cmap().name == DIVERGING
    assert signed.get_clim() == (-3.0, 3.0)
    assert heatmap(matrix, limits=(0.0, 9.0)).images[0].get_clim() == (0.0, 9.0)


def test_infinite_cells_are_grey_and_say_so() -> None:
    inf = torch.inf
    ax = heatmap(torch.tensor([[1.0, -inf], [inf, torch.nan], [0.0, 2.0]]))
    assert words(ax) == ["1.00", "−∞", "∞", "–", "0.00", "2.00"]
    image = ax.images[0]
    grey = image.get_cmap()(np.ma.masked_all(1))[0]
    assert mpl.colors.to_hex(grey) == MASKED
    assert image.get_clim() == (0.0, 2.0)
    everything = heatmap(torch.full((2, 3), -inf))
    assert everything.images[0].get_clim()[0] < everything.images[0].get_clim()[1]


def test_numbers_are_dark_on_light_and_light_on_dark() -> None:
    ax = heatmap(torch.tensor([[0.0, 1.0]]))
    dark_cell, light_cell = ax.texts
    assert dark_cell.get_color() == "white"
    assert light_cell.get_color() == plotting.INK


def test_numbers_only_where_they_can_be_read() -> None:
    assert words(heatmap(torch.zeros(3, 9))) == []
    assert words(heatmap(torch.zeros(11, 2))) == []
    assert len(words(heatmap(torch.zeros(3, 9), annotate=True))) == 27


def test_tokens_are_tick_labels_with_visible_spaces() -> None:
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8]])
    ax = attention_map(weights, ["a", " b", "\n"], ["k1", "k2"], title="T")
    assert ticks(ax.yaxis) == ["a", "␣b", "⏎"]
    assert ticks(ax.xaxis) == ["k1", "k2"]
    assert ax.get_xlabel().startswith("key")
    assert ax.get_ylabel().startswith("query")
    assert ax.get_title(loc="left") == "T"
    assert ax.images[0].get_clim() == (0.0, 1.0)
    long = attention_map(torch.ones(2, 2), ["a long token" * 2, "another one"])
    assert long.get_xticklabels()[0].get_rotation() == 90


@pytest.mark.parametrize(
    ("token", "label"), [(" x", "␣x"), (b"\xc3\xa9\t", "é⇥"), (b"\xff", "\ufffd")]
)
def test_visible(token: str | bytes, label: str) -> None:
    assert visible(token) == label


def test_positional_encoding_shows_the_table() -> None:
    table = sinusoidal_positions(7, 4)
    ax = positional_encoding(table)
    np.testing.assert_array_equal(ax.images[0].get_array(), table.numpy())
    assert "dimension" in ax.get_xlabel()
    assert "position" in ax.get_ylabel()


def test_loss_curves_draw_baselines_as_named_lines() -> None:
    losses = {"training": torch.tensor([3.0, 2.0]), "validation": [3.1, 2.4]}
    ax = loss_curves([0, 50], losses, {"unigram": 2.75})
    assert [line.get_label() for line in ax.lines[:2]] == ["training", "validation"]
    assert set(ax.lines[2].get_ydata()) == {2.75}
    assert words(ax) == ["unigram 2.75"]
    close = loss_curves([0, 50], losses, {"xz": 2.51, "gzip": 2.5, "bigram": 2.1})
    assert [t.xy[0] for t in close.texts] == pytest.approx([1.0, 1.0, 0.67])


def test_bars_run_from_the_top_and_light_one_up() -> None:
    ax = bars([" a", "b", "c"], torch.tensor([0.5, 0.3, 0.2]), highlight=1)
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([0.5, 0.3, 0.2])
    assert ax.yaxis.get_inverted()
    assert mpl.colors.to_hex(ax.patches[1].get_facecolor()) == ORANGE
    assert ticks(ax.yaxis)[0] == "␣a"


def test_token_strip_breaks_lines_and_writes_ids() -> None:
    tokens = [b"Trust", " grows", " slowly"] * 5
    ax = token_strip(tokens, list(range(900, 915)))
    assert len(ax.patches) == 15
    assert {"Trust", "␣grows", "900", "914"} <= set(words(ax))
    rows = {round(patch.get_y(), 3) for patch in ax.patches}
    assert len(rows) > 1
    assert all(p.get_x() + p.get_width() <= 44 for p in ax.patches)
    assert words(token_strip(["a"])) == ["a"]


def test_an_axes_can_be_handed_in() -> None:
    ax = new_axes()
    assert heatmap(torch.eye(2), ax=ax) is ax
    assert len(ax.figure.axes) == 2  # with its colour bar
    assert bars(["a"], [1.0], ax=new_axes()).figure is not ax.figure


@pytest.mark.parametrize("part", [None, *PARTS])
def test_the_map_lights_up_the_part_of_a_chapter(part: str | None) -> None:
    ax = model_map(part)
    boxes = [p for p in ax.patches if isinstance(p, FancyBboxPatch)]
    lit = [p for p in boxes if mpl.colors.to_hex(p.get_edgecolor()) == ORANGE]
    assert len(lit) == len(set(PARTS[part]) if part else ())
    assert {name for names in PARTS.values() for name in names} <= set(_MAP)


def test_the_map_knows_its_parts() -> None:
    with pytest.raises(KeyError):
        model_map("nothing")
