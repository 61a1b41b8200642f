"""Text into and out of the terminal: lines, generated text, a conversation.

What it leaves out: the other commands (see `main`), and all work.
"""

import io
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from tinygpt.cli.arguments import Chat, Generate
from tinygpt.errors import UserError, require
from tinygpt.files import MAX_FILE
from tinygpt.runtime.display import columns

Message = dict[str, str]
CHAT_COMMANDS = "/reset forgets, /system TEXT instructs, /quit leaves"


# --- Streams and signals -------------------------------------------------------------


def check_streams() -> None:
    """Make sure that every text can be printed, as far as the terminal can show it.

    Files and pipes hold UTF-8, as everywhere else, where Windows has its code page.

    Raises:
        UserError: standard output is closed.
    """
    if sys.stderr is None:  # print would use standard output instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    require(
        sys.stdout is not None, "standard output is closed: send it to a file instead"
    )
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # others take any text
            if sys.platform == "win32" and not stream.isatty():
                stream.reconfigure(encoding="utf-8", errors=stream.errors)
            if stream is sys.stdout:
                stream.reconfigure(errors="replace")


def write(text: str) -> None:
    """Print at once, also into a pipe.

    Raises:
        BrokenPipeError: the reader of a pipe has gone away.
        UserError: standard output takes no more, for instance because a disk is full.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        raise
    except OSError as error:
        _discard_output()
        raise UserError(f"cannot write to standard output: {error.strerror}") from error


def say(*words: object) -> None:
    """Print one line at once; raises what `write` raises."""
    write(" ".join(map(str, words)) + "\n")


def tell(line: object) -> None:
    """`say` a line of a report; a narrow terminal breaks it between words."""
    width = columns(sys.stdout)
    rows = [str(line)]
    if len(rows[0]) > width:
        rows = textwrap.wrap(rows[0], max(20, width), subsequent_indent="  ")
    say("\n".join(rows))


def complain(error: object) -> None:
    """Print the sentence of a mistake to standard error, on one line."""
    sentence = " ".join(str(error).split())
    with suppress(OSError):
        print(f"tinygpt: {sentence}", file=sys.stderr, flush=True)


def _discard_output() -> None:
    """Drop what is left to print: Python would complain once more when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_all() -> str:
    """All of standard input.

    Raises:
        UserError: it is closed, no text, or has no end.
    """
    with _reading():
        text = sys.stdin.read(MAX_FILE + 1)
    require(
        len(text) <= MAX_FILE,
        f"standard input has more than {MAX_FILE:,} characters: use a shorter text",
    )
    return text


@contextmanager
def _reading() -> Iterator[None]:
    require(sys.stdin is not None, "standard input is closed: give it a text")
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not {error.encoding.upper()} text: save it as UTF-8"
        ) from error
    except BrokenPipeError:
        _discard_output()
        raise
    except OSError as error:
        _discard_output()
        raise UserError(f"the terminal cannot be used: {error.strerror}") from error


@contextmanager
def stoppable() -> Iterator[None]:
    """Let the first Ctrl-C raise KeyboardInterrupt, so that files can be cleared away.

    The next one acts as it did before: a second must not be lost if something in
    between swallows the first, as imports from C do.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with _handler(interrupt):
        yield


@contextmanager
def _handler(handler: Any) -> Iterator[None]:
    """Handle Ctrl-C by `handler` meanwhile; signals only reach the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- Generated text ----------------------------------------------------------------


def print_text(llm: Any, args: Generate) -> None:
    """Print the prompt and what the model writes after it, piece by piece.

    Several samples are written at once, and printed when all are done.

    Raises:
        UserError: the prompt is empty or too long.
    """
    how = {"use_cache": args.cache, "stop_at_end": args.stop_at_end}
    options = args.options() | how
    if args.samples == 1:
        for piece in llm.stream(args.prompt, **options):
            write(piece)
        say()
    else:
        texts = llm.samples(args.prompt, args.samples, **options)
        say(f"\n{20 * '-'}\n".join(texts))


# --- Conversations -------------------------------------------------------------------


def one_answer(llm: Any, prompt: str, seed: int) -> str:
    """A short answer on one line.

    Raises:
        UserError: the prompt is too long.
    """
    return " ".join(llm.reply(prompt, max_new_tokens=60, seed=seed).split())


def converse(llm: Any, args: Chat) -> None:
    """One conversation, until /quit or the end of input.

    Raises:
        UserError: standard input cannot be read, or standard output not written.
    """
    history: list[Message] = []
    with _handler(signal.default_int_handler):  # every Ctrl-C stops one thing only
        while (asked := _asked()) is not None:
            word, _, rest = asked.partition(" ")
            if word == "/quit":
                return
            if word == "/reset":
                history.clear()
                say("(forgotten)")
            elif word == "/system" and rest:
                history = [_message("system", rest)]
                say("(a new conversation)")
            elif word.startswith("/"):
                say(f"({CHAT_COMMANDS})")
            elif asked:
                history += _turn(llm, [*history, _message("user", asked)], args)
    say()


def _asked() -> str | None:
    """The next line, or None at the end of input."""
    while True:
        try:
            with _reading():
                return input("You: ").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            say("\n(/quit leaves)")


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _turn(llm: Any, messages: list[Message], args: Chat) -> list[Message]:
    """Print the answer to the last message; both, or nothing if it was too long."""
    from tinygpt.finetuning.chat import answer

    pieces: list[str] = []
    try:
        write("Assistant: ")
        for piece in answer(llm.model, llm.tokenizer, messages, **args.options()):
            write(piece)
            pieces.append(piece)
    except KeyboardInterrupt:
        write(" (stopped)")
    except UserError as error:
        say(f"({error})")
        return []
    say()
    return [messages[-1], _message("assistant", "".join(pieces))]


# --- Tables --------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines with the columns of `rows` aligned; the first row holds their names.

    The last cell of a shorter row may reach over the columns that it lacks.
    """
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        yield "  ".join(cells).rstrip()
