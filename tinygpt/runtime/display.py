"""What can be shown here: progress, as a bar or in lines, and a file in the browser.

A bar is drawn over itself again and again, which suits a terminal and a notebook. A
log, a pipe and a screen reader get whole lines instead, one when nothing has been said
for a while. What it leaves out: what is said (see `cli`).
"""

import os
import sys
import time
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

Progress = bool | Literal["lines"]

SILENCE = 30.0  # seconds after which a line says that work goes on
NARROW = 60  # columns of a terminal that has no room for a whole bar
_SHORT = "{n_fmt}/{total_fmt} {remaining} {postfix}"


class Lines:
    """Progress in whole lines on standard error, as far as a `tqdm` is used here."""

    def __init__(
        self,
        total: int | None,
        *,
        unit: str,
        initial: int = 0,
        unit_scale: bool = False,
        **others: object,
    ) -> None:
        self.total, self.unit, self.n, self.initial = total, unit, initial, initial
        self.scaled, self.said = unit_scale, ""
        self.begun = self.told = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, n: int = 1) -> None:
        """Count `n` more; say so if nothing has been said for `SILENCE` seconds."""
        self.n += n
        if time.monotonic() - self.told >= SILENCE and sys.stderr is not None:
            self.told = time.monotonic()
            with suppress(OSError):  # a full disk behind it ends no work
                sys.stderr.write(f"{self}\n")
                sys.stderr.flush()

    def set_postfix_str(self, said: str) -> None:
        """Remember what to say beside the numbers; somebody has said it just now."""
        self.said, self.told = said, time.monotonic()

    def __str__(self) -> str:
        parts = [self._count(self.n)]
        if self.total is not None:
            parts[0] = f"{self._count(self.n, False)} of {self._count(self.total)}"
        if self.said:
            parts.append(self.said)
        if self.total is not None and self.n > self.initial:
            rate = (time.monotonic() - self.begun) / (self.n - self.initial)
            left = tqdm.format_interval(rate * max(0, self.total - self.n))
            parts.append(f"{left} left")
        return ", ".join(parts)

    def _count(self, n: int, named: bool = True) -> str:
        if self.scaled:
            return tqdm.format_sizeof(n) + self.unit * named
        return f"{n:,}" + f" {self.unit}s" * named


def progress(wanted: Progress, **options: Any) -> Any:
    """A `tqdm` that shows itself where a bar can be seen, or `Lines` elsewhere.

    Args:
        wanted: False shows nothing, "lines" never a bar.
        options: total, unit, and the other arguments of `tqdm`.
    """
    if wanted and (wanted == "lines" or not shows_bar()):
        return Lines(**options)
    if columns(sys.stderr) < NARROW:
        options["bar_format"] = _SHORT
    return tqdm(disable=not wanted, leave=False, **options)


def shows_bar() -> bool:
    """Whether standard error can draw a line over itself, and a person sees it.

    A terminal can, unless it says that it is "dumb" or that a service runs the program
    (CI); so can a notebook.
    """
    ipython = sys.modules.get("IPython")
    if hasattr(ipython and ipython.get_ipython(), "kernel"):
        return True
    plain = os.environ.get("TERM") == "dumb" or os.environ.get("CI", "") != ""
    return not plain and _is_terminal(sys.stderr)


def columns(stream: Any) -> int:
    """Columns of the terminal behind a stream; 10,000 if there is none."""
    if _is_terminal(stream):
        with suppress(OSError, ValueError):
            return os.get_terminal_size(stream.fileno()).columns or 80
    return 10_000


def _is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:  # it is closed
        return False


def show_file(path: Path) -> bool:
    """Open a file in the browser or viewer; whether there is one.

    Without a screen, as in a session over ssh, Python would offer a browser that takes
    the whole terminal.
    """
    screens = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    if sys.platform not in ("win32", "darwin") and not any(
        map(os.environ.get, screens)
    ):
        return False
    try:
        return webbrowser.open(path.resolve().as_uri())
    except (webbrowser.Error, OSError):
        return False
