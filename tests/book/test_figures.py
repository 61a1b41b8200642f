"""Figures on a dark page: what is turned, what stays, where a second picture stands.

What it leaves out: how they look (looked at), and words beside them (`test_contrast`).
"""

import re

import numpy as np
from conftest import ROOT, load_tool
from PIL import Image, ImageDraw

figures = load_tool("figures")
PAPER, INK, PURPLE, YELLOW = (251, 250, 246), (38, 38, 46), (68, 1, 84), (253, 231, 37)


def drawn(*, with_map: bool) -> Image.Image:
    image = Image.new("RGB", (200, 100), PAPER)
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 10, 40, 14), fill=INK)
    if with_map:
        draw.rectangle((60, 20, 179, 79), fill=PURPLE)
        draw.rectangle((60, 20, 99, 79), fill=YELLOW)
        draw.rectangle((75, 40, 78, 60), fill=INK)  # a stroke of a number
    return image


def test_paper_and_ink_change_places_and_a_map_stays() -> None:
    night = np.asarray(figures.night(drawn(with_map=True)))
    assert night[5, 5].max() < 40  # paper
    assert night[12, 20].min() > 190  # ink
    assert tuple(night[50, 150]) == PURPLE
    assert tuple(night[50, 65]) == YELLOW
    assert tuple(night[50, 76]) == INK  # else a light number on bright yellow


def test_without_a_map_css_does_it_by_the_same_number() -> None:
    assert figures.night(drawn(with_map=False)) is None
    style = (ROOT / "book" / "_static" / "course.css").read_text(encoding="utf-8")
    turned = rf"invert\({figures.INVERT}\) hue-rotate\(180deg\)"
    assert len(re.findall(turned, style)) == 1
