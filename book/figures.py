"""A Sphinx extension: heat maps for dark pages, wide figures for phones.

In the dark, `course.css` turns the lightness of every figure round and keeps its hues:
paper becomes dark, ink light. A map in viridis must not be turned: bright is much, and
the text says so. It gets a second picture, in which only what stands around the map is
turned; the theme shows the one or the other.

A figure of several panels would be too small on a phone: it is marked as wide, and
`course.css` lets it scroll there.

What it leaves out: figures of the benchmarks (SVG), which have one panel and
no map.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from docutils import nodes
from PIL import Image, ImageFilter
from sphinx.transforms import SphinxTransform

LUMA = np.array([0.213, 0.715, 0.072])  # of the filter hue-rotate, in CSS
INVERT = 0.93  # as in course.css
WIDE = 1200  # pixels: a figure of one panel has 1063
GAP = 4  # pixels to each side: strokes of numbers that stand on a map are narrower


def packed(colours: np.ndarray) -> np.ndarray:
    """Each colour as one number."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


BLEND = np.indices((5, 5, 5)).reshape(3, 1, -1).T - 2  # colour bars are two off
COLOURS = (mpl.colormaps["viridis"](range(256), bytes=True)[:, :3] + BLEND).clip(0, 255)
VIRIDIS = np.zeros(1 << 24, dtype=bool)  # of each colour, whether the map has it
VIRIDIS[packed(COLOURS)] = True


def night(day: Image.Image) -> Image.Image | None:
    """The picture for a dark page, or None where there is no map in viridis."""
    day = day.convert("RGB")
    rgb = np.asarray(day)
    in_map = VIRIDIS[packed(rgb)]
    if in_map.mean() < 0.01:
        return None
    turned = INVERT + (1 - 2 * INVERT) / 255 * rgb
    turned = 2 * (turned @ LUMA)[..., None] - turned  # half a turn of the hues
    around = Image.fromarray((turned.clip(0, 1) * 255).round().astype(np.uint8))
    whole = Image.fromarray(in_map.astype(np.uint8) * 255)
    for close in (ImageFilter.MaxFilter(3), ImageFilter.MinFilter(3)):
        for _ in range(GAP):  # much quicker than one wide filter
            whole = whole.filter(close)  # with the numbers on it
    return Image.composite(day, around, whole)


class Figures(SphinxTransform):
    """Mark the wide; behind each map, put its picture for the dark."""

    default_priority = 402

    def apply(self, **_: Any) -> None:
        """Write the second picture beside the first."""
        for image in list(self.document.findall(nodes.image)):
            file = Path(self.env.srcdir) / image["uri"].removeprefix("/")
            if file.suffix != ".png" or not file.is_file():
                continue
            with Image.open(file) as day:
                if day.width > WIDE:
                    image["classes"].append("wide")
                dark = night(day)
            if dark:
                dark.save(file.with_stem(f"{file.stem}-night"), optimize=True)
                twin = image.copy()
                twin["uri"] = image["uri"].removesuffix(".png") + "-night.png"
                twin["classes"] = [*image["classes"], "only-dark"]
                image["classes"] = [*image["classes"], "only-light"]
                image.parent.insert(image.parent.index(image) + 1, twin)


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_transform(Figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
