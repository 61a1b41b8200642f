"""A model in a page of its own: the site's playground in a folder, opened from a file.

The folder holds index.html, the playground's scripts (see book/_static/playground.js),
the model as `web` writes it, and the picture of its losses. The page asks no server for
anything. What it leaves out: opening it (see `cli`).
"""

import html
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tinygpt.errors import UserError, require
from tinygpt.files import exists, read_file, shipped, why, write_atomically
from tinygpt.formats.hf_tokenizer import SPEAKERS
from tinygpt.formats.web import export_web
from tinygpt.model.gpt import GPT
from tinygpt.text.tokenizer import Tokenizer

PAGE, STYLE, PICTURE = "index.html", "page.css", "losses.png"
# What pyproject.toml puts into the wheel for `shipped`.
PARTS = (
    "playground.css", "playground.js", "playground_inside.js", "playground_parts.js",
    "playground_worker.js", "tinygpt.js", "tinygpt_simd.js", "tinygpt_wasm.js",
    "tinygpt_web.js",
)  # fmt: skip
_MARK = '<meta name="generator" content="tinygpt open">'
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{name} · TinyGPT</title>
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
{mark}
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
  script-src 'self' file: blob: 'wasm-unsafe-eval'; style-src 'self' file:;
  img-src 'self' file:; worker-src blob:">
<link rel="stylesheet" href="{style}">
<main>
<h1>{name}</h1>
<p>{about}</p>
{boxes}
{picture}
<p><small>This folder is the whole page: the model runs here, and nothing leaves your
machine. Copy the folder to show it to others.</small></p>
</main>
<script src="playground.js" defer></script>
</html>
"""
_BOX = """<div class="tinygpt-playground" data-model="{folder}"{more}>
Here the page runs the model, as soon as scripts are allowed.</div>"""
_FIGURE = """<h2>How it learned</h2>
<img src="{source}" width="960" height="600"
  alt="The losses of the run, step by step, beside simple baselines.">"""
_STYLE = """body { font: 1.05rem/1.6 system-ui, sans-serif; margin: 0; }
body { background: #fbfaf6; color: #26262e; }
@media (prefers-color-scheme: dark) { body { background: #16161a; color: #e8e6e0; } }
main { max-width: 46rem; margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.25; overflow-wrap: anywhere; }
p { overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; border-radius: 8px; }
"""


def write_page(
    model: GPT,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    name: str,
    about: str,
    opening: str = "",
    is_chat: bool = False,
    questions: Sequence[str] | None = None,
    picture: Path | None = None,
) -> Path:
    """Write the page of a model; the path of index.html comes back.

    Args:
        model: what the page runs (see `web.script` for what it cannot).
        tokenizer: the model's own.
        folder: made if need be; an older page in it is replaced.
        name: the heading.
        about: a few sentences below it.
        opening: where the first text begins.
        is_chat: whether it has learned from conversations; a vocabulary with tokens
            for the speakers says so, too.
        questions: first messages to choose from; those of the shop if not given.
        picture: a PNG to show, if it is there.

    Raises:
        UserError: the page cannot run this model, the folder cannot be written, or it
            has an index.html of something else.
    """
    page = folder / PAGE
    if exists(page):
        ours = _MARK.encode() in read_file(page)
        require(ours, f"{page} is another page: choose another folder with --out")
    short = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "model"
    export_web(model, tokenizer, folder / "models" / short)
    start, boxes = ' data-start=""', []
    if is_chat or SPEAKERS[0] in tokenizer.special_tokens:
        asked = ""
        if questions is not None:
            asked = _attribute("questions", "\n".join(questions))
        boxes.append(_BOX.format(folder=short, more=f' data-part="chat"{asked}{start}'))
        start = ""
    if opening:
        start = _attribute("prompt", opening) + start
    boxes.append(_BOX.format(folder=short, more=start))
    has_picture = picture is not None and exists(picture)
    text = _PAGE.format(
        name=html.escape(name),
        mark=_MARK,
        style=STYLE,
        about=html.escape(about),
        boxes="\n".join(boxes),
        picture=_FIGURE.format(source=PICTURE) if has_picture else "",
    )
    try:
        for part in PARTS:
            shutil.copyfile(shipped(part, "page"), folder / part)
        if picture is not None and has_picture:
            shutil.copyfile(picture, folder / PICTURE)
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({why(error)}): choose another folder with --out, "
            "or make room"
        ) from error
    _write(folder / STYLE, _STYLE)
    _write(page, text)
    return page


def _write(path: Path, text: str) -> None:
    write_atomically(
        path, lambda part: part.write_bytes(text.encode("utf-8", "replace"))
    )


def _attribute(name: str, value: str) -> str:
    return f' data-{name}="{html.escape(value)}"'
