"""console: closed and full streams, narrow terminals, poor encodings, Ctrl-C."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COUNTED, ROOT, posix
from tiny_run import exit_code

from tinygpt.cli import console
from tinygpt.errors import UserError

ENVIRONMENT = {**os.environ, **COUNTED, "PYTHONPATH": str(ROOT)}
FULL = Path("/dev/full")
needs_dev_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


def shell(words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`tinygpt WORDS` in a shell."""
    return subprocess.run(
        f"{sys.executable} -m tinygpt {words}",
        shell=True,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        timeout=200,
        check=False,
    )


# --- Streams -------------------------------------------------------------------------


@needs_dev_full
@pytest.mark.parametrize("words", ["data", "--help", "", "train --help"])
def test_a_full_disk_behind_standard_output(words: str) -> None:
    ended = shell(f"{words} > /dev/full")
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        b"tinygpt: cannot write to standard output: No space"
    )
    assert ended.stderr.count(b"\n") == 1


@needs_dev_full
def test_a_full_disk_behind_standard_error_keeps_the_exit_code() -> None:
    assert shell("fly 2> /dev/full").returncode == 2


@pytest.mark.slow
@posix
def test_closed_streams() -> None:
    ended = shell("data >&-")
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"tinygpt: standard output is closed")
    assert ended.stderr.count(b"\n") == 1
    assert shell("data >&- 2>&-").returncode == 2
    for words in ("tokenize", "chat --model pocket-gpt2"):
        ended = shell(f"{words} <&-")
        assert ended.returncode == 2
        assert ended.stderr.startswith(b"tinygpt: standard input is closed")
        assert ended.stderr.count(b"\n") == 1
    ended = shell("fly 2>&-")
    assert (ended.returncode, ended.stdout) == (2, b"")  # no sentence among the output
    assert shell("tokenize the <&-").returncode == 0


@posix
@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_without_emoji(encoding: str) -> None:
    ended = shell("generate --model pocket-gpt2 --prompt 'é🙂' --max-new-tokens 3",
                  PYTHONIOENCODING=encoding)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith({"ascii": b"??", "latin-1": b"\xe9?"}[encoding])
    ended = shell("fly🙂", PYTHONIOENCODING=encoding)
    assert ended.returncode == 2
    assert ended.stderr.startswith(rb"tinygpt: there is no command 'fly\U0001f642'")
    assert shell("train --steps x", PYTHONIOENCODING=encoding).stderr.startswith(
        b"tinygpt: Error parsing --steps: no type matching {None}|INT could be"
    )


@pytest.mark.slow
def test_input_of_another_encoding() -> None:
    for words in ("tokenize", "chat --model pocket-gpt2"):
        ended = subprocess.run(
            [sys.executable, "-X", "utf8", "-m", "tinygpt", *words.split()],
            env={**ENVIRONMENT, "PYTHONIOENCODING": "utf-8:strict"},
            input=b"\xff\n",
            capture_output=True,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 2
        assert ended.stderr.startswith(b"tinygpt: standard input is not UTF-8 text")


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 20])
def test_help_in_a_narrow_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert exit_code(["train", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines if "---" in line) <= 40
    assert sum("--steps" in line for line in lines) == 1
    assert os.environ["COLUMNS"] == str(columns)


def test_an_error_that_is_no_stream_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Input whose terminal has gone, as after a lost connection."""

    def gone(prompt: str) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("builtins.input", gone)
    with pytest.raises(UserError, match="the terminal cannot be used: Input/output"):
        console._asked()


def test_pipes_hold_utf8_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, Python would use the code page, which lacks most characters."""
    text = "naïve → 東京"
    pipes = {"stdin": io.BytesIO(text.encode()), "stdout": io.BytesIO()}
    for name, raw in pipes.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding="cp1252"))
    with monkeypatch.context() as windows:
        windows.setattr(sys, "platform", "win32")
        console.check_streams()
    assert console.read_all() == text
    console.write(text)
    assert pipes["stdout"].getvalue().decode() == text


# --- Ctrl-C --------------------------------------------------------------------------


# A thread sends the signals, counted from the moment in which `main` begins.
INTERRUPTED = """
import os, signal, sys, threading
from tinygpt.__main__ import main

def interrupt():
    for _ in range({times}):
        os.kill(os.getpid(), signal.SIGINT)

timer = threading.Timer({after}, interrupt)
timer.daemon = True
timer.start()
main()
"""
ENDLESS = {
    "generate": ["--model=pocket-gpt2", "--max-new-tokens=1000000", "--no-stop-at-end"],
    "train": ["--steps", "1000000", "--eval-windows", "1", "--eval-interval", "1"],
    "chat": ["--model", "pocket-gpt2", "--max-new-tokens", "1000000"],
}


@posix
@pytest.mark.slow
@pytest.mark.parametrize("after", [0.02, 0.1, 0.4, 2.0, 4.0])
@pytest.mark.parametrize("command", ENDLESS)
def test_five_times_ctrl_c_ends_without_a_traceback(
    command: str, after: float, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            INTERRUPTED.format(times=5, after=after),
            command,
            *ENDLESS[command],
        ],
        cwd=tmp_path,
        env=ENVIRONMENT,
        input="Hello\n",
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.stderr == ""
    # A conversation takes the signals as one that stops an answer, and then ends.
    assert ended.returncode in ({0, 130} if command == "chat" else {130})
