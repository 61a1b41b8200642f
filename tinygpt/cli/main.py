"""The command line: call and print. The package does all the work.

Torch is loaded only by the commands that need it, so `--help` answers at once. Exit
codes: 0 done; 2 bad input, after one sentence that says what to do; 130 stopped by
Ctrl-C, a training run after saving; 1 a fault of ours, with its traceback, or a reader
of the output that went away. Each `run_...` may raise a UserError; `main` prints it.
What it leaves out: the options (see `arguments`), reading them (see `parsing`).
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from tinygpt.cli import console
from tinygpt.cli.arguments import (
    Chat,
    Data,
    Eval,
    Export,
    Finetune,
    Generate,
    Info,
    ModelChoice,
    Open,
    Prepare,
    Reward,
    Runs,
    Tokenize,
    Train,
)
from tinygpt.cli.console import say, write
from tinygpt.cli.parsing import EXAMPLES, latest_run, parse
from tinygpt.cli.publish import run_export, run_open
from tinygpt.cli.runs import run_finetune, run_reward, run_runs, run_train
from tinygpt.errors import UserError, require
from tinygpt.presets import PRESETS
from tinygpt.runtime.device import calm_threads


def _load(args: ModelChoice | Open, weights: Any = "float32") -> Any:
    """The model that the user means: by name, or the latest run."""
    calm_threads()
    name = args.model if args.model is not None else latest_run()
    from tinygpt.llm import load

    return load(name, weights)


def run_generate(args: Generate) -> None:
    """Stream a text from a trained model."""
    console.print_text(_load(args, args.weights), args)


def run_chat(args: Chat) -> None:
    """One conversation in the terminal, until /quit or the end of input."""
    require(sys.stdin is not None, "standard input is closed: nothing can be said")
    llm = _load(args, args.weights)
    say(f"This is {llm.folder or args.model}. {console.CHAT_COMMANDS},")
    say("Ctrl-C stops an answer.")
    console.converse(llm, args)


def run_eval(args: Eval) -> None:
    """Print the model's losses beside the baselines, and its longest recitation."""
    require(args.text != "", "the name of the text is empty")
    llm = _load(args)
    from tinygpt.finetuning.answers import measure_answers
    from tinygpt.text.corpora import holds_chats
    from tinygpt.training.checkpoint import RunFolder
    from tinygpt.training.tensor_file import read_header
    from tinygpt.training.text_data import measure

    source, data, seed = str(llm.folder or args.model), args.text, 1337
    if llm.folder is not None:
        folder = RunFolder(llm.folder)
        _, train = folder.configs()
        own = data or train.data
        if data is None and own != "shop-chats" and holds_chats(own):
            raise UserError(
                f"{source} learned from conversations, and its log.jsonl holds the "
                "loss on them: give a text to measure it on, as in `tinygpt eval "
                f"my.txt --model {source}`"
            )
        data, seed = own, train.seed
        _, metadata = read_header(folder.best)
        source = f"{source}, weights of step {metadata.get('step')}"
    if data is None:
        raise UserError(
            f"{source} is not a run, so there is no text of its own to measure it on: "
            f"give one, as in `tinygpt eval my.txt --model {source}`"
        )
    if data == "shop-chats":
        lines = measure_answers(source, llm.model, llm.tokenizer, args.seeds or 3)
    else:
        require(args.seeds is None, "--seeds is for shop-chats only: leave it out")
        lines = measure(source, llm.model, llm.tokenizer, data, seed)
    for line in lines:
        say(line)


def run_tokenize(args: Tokenize) -> None:
    """Print ids and pieces of a text, or train and save a vocabulary."""
    from tinygpt.text.bpe_training import train_bpe
    from tinygpt.text.tokenizer import get_tokenizer

    if args.train_on is not None:
        from tinygpt.text import documents

        if args.save is None:
            raise UserError("say where the new vocabulary goes: --save NAME.tiktoken")
        require(not args.save.is_dir(), f"{args.save} is a folder: name a file")
        texts, _ = documents.split_text(args.train_on)
        trained = train_bpe(texts, args.vocab_size)
        trained.save(args.save)
        ids = documents.encode_documents(texts, trained, separate=False)
        per_token = len("".join(texts).encode("utf-8")) / max(1, len(ids))
        say(
            f"{args.save}: {trained.vocab_size} entries, "
            f"{per_token:.2f} bytes per token"
        )
        return
    tokenizer = get_tokenizer(args.tokenizer)
    text = console.read_all() if args.text is None else args.text
    ids = tokenizer.encode(text)
    for i in ids:
        say(f"{i:7d}  {tokenizer.token_bytes(i).decode('utf-8', 'backslashreplace')!r}")
    say(f"{len(ids)} tokens for {len(text.encode('utf-8', 'replace'))} bytes")


def run_data(args: Data) -> None:
    """List the texts that have a name, download one, or prepare a token file."""
    from tinygpt.text.corpora import CORPORA, find

    if args.prepare is not None:
        return run_prepare(args.prepare)
    if args.fetch is not None:
        if args.fetch not in CORPORA:
            raise UserError(
                f"there is no text '{args.fetch}': choose {', '.join(CORPORA)}"
            )
        with console.stoppable():
            return say(*find(args.fetch))
    for corpus in CORPORA.values():
        where = "ships with the course" if corpus.url is None else corpus.url
        say(f"{corpus.name:<17} {corpus.bytes:>9,} bytes  {corpus.what} ({where})")


def run_prepare(args: Prepare) -> None:
    """Write a token file; say what it holds."""
    from tinygpt.text.joined_tokens import TRAIN
    from tinygpt.text.token_file import prepare_tokens
    from tinygpt.text.tokenizer import get_tokenizer

    workers = args.workers or os.cpu_count() or 1
    tokenizer = get_tokenizer(args.tokenizer)
    if args.out.name == TRAIN:
        from tinygpt.text.nanogpt import prepare_bins

        with console.stoppable():
            n_train, n_val = prepare_bins(
                args.text, args.out, tokenizer, workers, show_progress=True
            )
        say(
            f"{args.out}: {n_train:,} tokens of {tokenizer.name}, and {n_val:,} in "
            "val.bin beside it"
        )
        return
    with console.stoppable():
        told = prepare_tokens(
            args.text, args.out, tokenizer, workers, show_progress=True
        )
    say(
        f"{args.out}: {told.tokens:,} tokens of {told.tokenizer} as {told.dtype}, "
        f"{told.text_bytes / told.tokens:.2f} bytes per token"
    )


def run_info(args: Info) -> None:
    """Print what a bug report should contain."""
    calm_threads()
    import platform

    import torch

    import tinygpt
    from tinygpt.runtime.device import pick_device
    from tinygpt.runtime.memory import n_parameters

    say(
        f"tinygpt {tinygpt.__version__}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {platform.platform()}"
    )
    say(f"device {pick_device()}, {torch.get_num_threads()} threads")
    for name, preset in PRESETS.items():
        m = preset.model
        say(
            f"  {name:<12} {n_parameters(m):>13,} parameters  "
            f"context {m.context_length:>4}  d_model {m.d_model:>4}  "
            f"{m.n_layers:>2} blocks of {m.n_heads} heads"
        )


RUN: dict[type, Callable[[Any], None]] = {
    Train: run_train,
    Generate: run_generate,
    Finetune: run_finetune,
    Reward: run_reward,
    Chat: run_chat,
    Export: lambda args: run_export(args, _load(args)),
    Open: lambda args: run_open(args, _load(args)),
    Eval: run_eval,
    Runs: run_runs,
    Tokenize: run_tokenize,
    Data: run_data,
    Info: run_info,
}


def _run(words: list[str]) -> None:
    """Run one command, and make sure that all it printed has arrived."""
    console.check_streams()
    try:
        if not words:
            return say(EXAMPLES)
        args = parse(words)
        RUN[type(args)](args)
    finally:
        write("")


def main(argv: list[str] | None = None) -> None:
    """Run one command; what is wrong with the input becomes one sentence and code 2."""
    try:
        _run(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        console.complain(error)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # of a path that the user gave; others are our faults
        if error.filename is None:
            raise
        console.complain(UserError(f"cannot use {error.filename}: {error.strerror}"))
        sys.exit(2)


if __name__ == "__main__":
    main()
