"""display: a bar where one can be seen, lines elsewhere, and what opens a file."""

import io
import os
import select
import struct
import sys
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest

from tinygpt.runtime import display

Terminal = Callable[[int], Callable[[], str]]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Puts standard error on a terminal of so many columns; gives what it showed."""
    pty = pytest.importorskip("pty", reason="no terminals of this kind here")
    fcntl, termios = map(pytest.importorskip, ("fcntl", "termios"))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    streams: list[TextIO] = []

    def connect(columns: int) -> Callable[[], str]:
        ours, theirs = pty.openpty()
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        stream = os.fdopen(theirs, "w", encoding="utf-8")
        streams.extend((stream, os.fdopen(ours, encoding="utf-8")))
        monkeypatch.setattr(sys, "stderr", stream)

        def shown() -> str:
            stream.flush()
            said = b""
            while select.select([ours], [], [], 0.3)[0]:
                said += os.read(ours, 1 << 16)
            return said.decode()

        return shown

    yield connect
    for stream in streams:
        stream.close()


def count(wanted: display.Progress = True, n: int = 3) -> None:
    with display.progress(wanted, total=n, unit="step", mininterval=0) as bar:
        for _ in range(n):
            bar.update()
            bar.set_postfix_str("loss 4.921")


def test_a_terminal_shows_a_bar_on_one_line(terminal: Terminal) -> None:
    shown = terminal(100)
    count()
    said = shown()
    assert "\r" in said
    assert "\n" not in said
    assert "3/3" in said
    assert "loss 4.921" in said


@pytest.mark.parametrize("columns", [20, 40, 59])
def test_a_narrow_terminal_shows_numbers_that_fit(
    terminal: Terminal, columns: int
) -> None:
    shown = terminal(columns)
    count()
    said = shown()
    assert "3/3" in said
    assert max(map(len, said.split("\r"))) <= columns
    assert "\n" not in said


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("CI", "true")])
def test_a_dumb_terminal_and_a_service_get_no_bar(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(display, "SILENCE", 0.0)
    shown = terminal(100)
    count()
    assert shown().replace("\r\n", "\n").count("\r") == 0


def test_nothing_is_shown_unasked(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    count(wanted=False)
    assert capsys.readouterr().err == ""


def test_lines_come_after_a_silence_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    with display.progress("lines", total=5000, unit="step", initial=1000) as lines:
        for second in range(100):
            clock[0] = float(second)
            if second == 40:
                lines.set_postfix_str("loss 4.921")  # a report has been printed
            lines.update()
    # Silent for 30 s; then 30 s after the report; then 30 s after that line.
    assert capsys.readouterr().err.splitlines() == [
        "1,031 of 5,000 steps, 1:04:00 left",
        "1,071 of 5,000 steps, loss 4.921, 1:04:33 left",
    ]


def test_lines_without_an_end_and_of_bytes() -> None:
    lines = display.Lines(None, unit="step")
    lines.update(1234)
    lines.set_postfix_str("loss 2.000")
    assert str(lines) == "1,234 steps, loss 2.000"
    lines = display.Lines(5_000_000, unit="B", unit_scale=True)
    assert str(lines) == "0.00 of 5.00MB"


def test_lines_survive_a_stream_that_takes_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(display, "SILENCE", 0.0)
    for stream in (Full(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        count()


def test_a_notebook_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for shell, shown in ((None, False), (object(), False), (Kernel(), True)):
        module = SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", module)
        assert display.shows_bar() is shown


class Kernel:
    """A shell as Jupyter's."""

    kernel = "a kernel"


def test_a_closed_stream_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    assert not display.shows_bar()
    assert display.columns(stream) == display.columns(None) == 10_000


def test_a_file_is_shown_where_a_screen_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert not display.show_file(tmp_path / "a b.png")
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert display.show_file(tmp_path / "a b.png")
    assert opened == [(tmp_path / "a b.png").as_uri()]

    def none(url: str) -> bool:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "open", none)
    assert not display.show_file(tmp_path / "a b.png")
