"""Text into and out of the terminal: lines, generated text, a conversation.

What it leaves out: the other commands (see `main`), and all work.
"""

import io
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from tinygpt.cli.arguments import Chat, Generate
from tinygpt.errors import UserError, require

Message = dict[str, str]
CHAT_COMMANDS = "/reset forgets, /system TEXT instructs, /quit leaves"


# --- Streams and signals -------------------------------------------------------------


def check_streams() -> None:
    """Make sure that every text can be printed, as far as the terminal can show it.

    Raises:
        UserError: standard output is closed.
    """
    if sys.stderr is None:  # print would use standard output instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    require(
        sys.stdout is not None, "standard output is closed: send it to a file instead"
    )
    if isinstance(sys.stdout, io.TextIOWrapper):  # others take any text
        sys.stdout.reconfigure(errors="replace")


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


def complain(error: Exception) -> None:
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
        UserError: it is closed, or no text.
    """
    with _reading():
        return sys.stdin.read()


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
def one_interrupt() -> Iterator[None]:
    """Let the first Ctrl-C raise KeyboardInterrupt, and no other on the way out."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, interrupt)
    except ValueError:  # not in the main thread, which signals do not reach
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- Generated text ----------------------------------------------------------------


def print_text(llm: Any, args: Generate) -> None:
    """Print the prompt and what the model writes after it, piece by piece.

    Raises:
        UserError: the prompt is empty or too long.
    """
    for piece in llm.stream(args.prompt, **args.options(), use_cache=args.cache):
        write(piece)
    say()


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
    signal.signal(signal.SIGINT, signal.default_int_handler)  # each Ctrl-C counts
    history: list[Message] = []
    while True:
        try:
            with _reading():
                asked = input("You: ").strip()
        except EOFError:
            return say()
        except KeyboardInterrupt:
            say("\n(/quit leaves)")
            continue
        word, _, rest = asked.partition(" ")
        if word == "/quit":
            return None
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


def table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Lines with the columns of `rows` aligned; the first row holds their names."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
