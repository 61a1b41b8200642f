"""The command line: call and print. All work is done on the floors below.

Torch is loaded only by the commands that need it, so `--help` answers at once. Exit
codes: 0 done; 2 bad input, after one sentence that says what to do; 130 stopped by
Ctrl-C, a training run after saving; 1 a fault of ours, with its traceback, or a reader
of the output that went away. Each `run_...` may raise a UserError; `main` prints it.
What it leaves out: the options (see `options`).
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tinygpt.cli.arguments import (
    Chat,
    Data,
    Eval,
    Export,
    Finetune,
    Generate,
    Info,
    Prepare,
    Tokenize,
    Train,
    choose_run,
    parse,
    run_path,
)
from tinygpt.cli.console import converse, one_answer, say, speak
from tinygpt.errors import UserError
from tinygpt.presets import PRESETS
from tinygpt.runtime.device import calm_threads
from tinygpt.runtime.distributed import World


def run_train(args: Train) -> None:
    """Train, printing every look; then print a sample."""
    calm_threads()
    from tinygpt.training.run import open_run, prepare, prompt_ids, train_in

    world = World.from_environment()
    tell: Callable[..., None] = say if world.is_main else lambda *words: None
    path = run_path(args.out, args.name, args.preset)
    folder, tokenizer = open_run(path, args.model, args.train, args.resume)
    world.start(world.pick_device(args.train.device).type)
    try:
        run = prepare(args.model, args.train, world, tokenizer)
        c, m, trainer = args.train, run.model, run.trainer
        if args.prompt:
            prompt_ids(args.prompt, m, run.corpus.tokenizer)  # before, not after
        tell(
            f"{folder.path}: {m.n_parameters():,} parameters, "
            f"{len(run.corpus.train):,} training and {len(run.corpus.val):,} "
            f"validation tokens of {c.data}, {trainer.device.type}, "
            f"{str(trainer.dtype).removeprefix('torch.')}"
        )
        looks = train_in(folder, run, args.resume, show_progress=True)
        _watch(looks, tell, path, args, trainer)
        if world.is_main:
            _report(folder, run, args)
    finally:
        world.stop()


def _watch(
    looks: Iterator[Any],
    tell: Callable[..., None],
    path: Path,
    args: Train | Finetune,
    trainer: Any,
) -> None:
    """Print every look, and how to go on if Ctrl-C was pressed."""
    from tqdm import tqdm

    from tinygpt.training.run import draw_in

    if args.tensorboard and trainer.world.is_main:
        looks = draw_in(path, looks)
    for look in looks:
        with tqdm.external_write_mode(file=sys.stdout):
            tell(look)
    if trainer.interrupted:
        tell(
            f"Stopped after step {trainer.step}. Go on with: tinygpt "
            f"{type(args).__name__.lower()} --resume --name {path.name} "
            f"--out {args.out}"
        )
        sys.exit(130)


def _report(folder: Any, run: Any, args: Train) -> None:
    """Which weights were kept, how good they are, and what they write."""
    model, tokenizer, facts = folder.load_model()
    kept = run.corpus.evaluate(model)
    say(
        f"Kept step {facts['step']}: {kept.bits_per_byte:.4f} bits per byte, "
        f"perplexity {kept.perplexity:.1f} on the whole validation split, "
        f"in {run.trainer.seconds:.0f} s"
    )
    if args.prompt:
        say("\nA sample:\n")
        speak(model, tokenizer, Generate(prompt=args.prompt, seed=args.train.seed))
    say(f"\nSaved in {folder.path}. More: tinygpt generate --run {folder.path}")


def run_generate(args: Generate) -> None:
    """Stream a text from a trained model."""
    calm_threads()
    from tinygpt.finetuning.run import load_run

    model, tokenizer, _ = load_run(choose_run(args.run))
    speak(model, tokenizer, args)


def run_finetune(args: Finetune) -> None:
    """Fine-tune, printing every look; then answer the same questions twice."""
    calm_threads()
    from tinygpt.finetuning.run import (
        PROMPTS,
        finetune_in,
        load_model,
        open_run,
        prepare,
    )

    world = World.from_environment()
    tell: Callable[..., None] = say if world.is_main else lambda *words: None
    path = run_path(args.out, args.name, "finetune")
    folder, config = open_run(path, args.config, args.resume)
    world.start(world.pick_device(config.device).type)
    try:
        run = prepare(config, world)
        trainer = run.trainer
        trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        tell(
            f"{path}: {config.model} on {config.data}, {run.n_train} training and "
            f"{run.n_val} validation windows, {trainer.config.steps} steps; "
            f"{trained:,} of {run.model.n_parameters():,} parameters train"
        )
        looks = finetune_in(folder, run, args.resume, show_progress=True)
        _watch(looks, tell, path, args, trainer)
    finally:
        world.stop()
    if world.is_main:
        size = (path / "best.safetensors").stat().st_size
        what = "adapters" if config.lora else "weights"
        say(f"Saved in {path}: {size / 1e6:.2f} MB of {what}.")
        before, after = load_model(config.model), load_model(path)
        for prompt in PROMPTS if run.is_chat else ():
            say(f"\nUser:   {prompt}")
            for when, chatter in (("before", before), ("after", after)):
                say(f"{when + ':':<7} {one_answer(*chatter, prompt, config.seed)}")
        say(f"\nTalk to it: tinygpt chat --model {path}")


def run_chat(args: Chat) -> None:
    """One conversation in the terminal, until /quit or the end of input."""
    calm_threads()
    from tinygpt.finetuning.run import load_model

    source = args.model or str(choose_run(None))
    model, tokenizer = load_model(source)
    say(f"This is {source}. /reset forgets, /quit leaves, Ctrl-C stops an answer.")
    converse(model, tokenizer, args)


def run_export(args: Export) -> None:
    """Write a model for other programs."""
    calm_threads()
    import torch

    from tinygpt.finetuning.run import load_model
    from tinygpt.formats.huggingface import export_gpt2
    from tinygpt.formats.web import export_web

    model, tokenizer = load_model(args.model)
    if args.format == "web":
        export_web(model, tokenizer, args.out)
    else:
        export_gpt2(model, tokenizer, args.out, dtype=getattr(torch, args.dtype))
    size = sum(file.stat().st_size for file in args.out.iterdir())
    say(f"{args.out}: {model.n_parameters():,} parameters, {size / 1e6:.1f} MB")


def run_eval(args: Eval) -> None:
    """Print the model's losses beside the baselines, and its longest recitation."""
    calm_threads()
    from tinygpt.finetuning.run import load_run
    from tinygpt.training.run import measure

    path = choose_run(args.run)
    for line in measure(path, *load_run(path), args.data):
        say(line)


def run_tokenize(args: Tokenize) -> None:
    """Print ids and pieces of a text, or train and save a vocabulary."""
    from tinygpt.text.bpe_training import train_bpe
    from tinygpt.text.tokenizer import get_tokenizer

    if args.train_on is not None:
        from tinygpt.text.corpora import load_text

        if args.save is None:
            raise UserError("say where the new vocabulary goes: --save NAME.tiktoken")
        text = load_text(args.train_on)
        text = text[: int(0.9 * len(text))]
        trained = train_bpe(text, args.vocab_size)
        trained.save(args.save)
        ids = trained.encode(text)
        per_token = len(text.encode("utf-8")) / len(ids)
        say(
            f"{args.save}: {trained.vocab_size} entries, "
            f"{per_token:.2f} bytes per token"
        )
        return
    try:
        text = sys.stdin.read() if args.text is None else args.text
    except UnicodeDecodeError as error:
        raise UserError("standard input is not UTF-8 text: save it as UTF-8") from error
    tokenizer = get_tokenizer(args.tokenizer)
    ids = tokenizer.encode(text)
    for i in ids:
        say(f"{i:7d}  {tokenizer.token_bytes(i).decode('utf-8', 'backslashreplace')!r}")
    say(f"{len(ids)} tokens for {len(text.encode('utf-8', 'replace'))} bytes")


def run_data(args: Data) -> None:
    """List the corpora, fetch one, or prepare a token file."""
    from tinygpt.text.corpora import CORPORA, find

    if args.prepare is not None:
        return run_prepare(args.prepare)
    if args.fetch is not None:
        if args.fetch not in CORPORA:
            raise UserError(
                f"there is no corpus '{args.fetch}': choose {', '.join(CORPORA)}"
            )
        return say(*find(args.fetch))
    for corpus in CORPORA.values():
        where = "ships with the course" if corpus.url is None else corpus.url
        say(f"{corpus.name:<17} {corpus.bytes:>9,} bytes  {corpus.what} ({where})")


def run_prepare(args: Prepare) -> None:
    """Make a token file; say what it holds."""
    from tinygpt.text.token_file import prepare
    from tinygpt.text.tokenizer import get_tokenizer

    workers = args.workers or os.cpu_count() or 1
    tokenizer = get_tokenizer(args.tokenizer)
    told = prepare(args.text, args.out, tokenizer, workers, show_progress=True)
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
    from tinygpt.model.gpt import GPT
    from tinygpt.runtime.device import pick_device

    say(
        f"tinygpt {tinygpt.__version__}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {platform.platform()}"
    )
    say(f"device {pick_device()}, {torch.get_num_threads()} threads")
    for name, preset in PRESETS.items():
        m = preset.model
        with torch.device("meta"):
            n_parameters = GPT(m).n_parameters()
        say(
            f"  {name:<12} {n_parameters:>13,} parameters  "
            f"context {m.context_length:>4}  d_model {m.d_model:>4}  "
            f"{m.n_layers:>2} blocks of {m.n_heads} heads"
        )


RUN: dict[type, Callable[[Any], None]] = {
    Train: run_train,
    Generate: run_generate,
    Finetune: run_finetune,
    Chat: run_chat,
    Export: run_export,
    Eval: run_eval,
    Tokenize: run_tokenize,
    Data: run_data,
    Info: run_info,
}


def main(argv: list[str] | None = None) -> None:
    """Run one command; what is wrong with the input becomes one sentence and code 2."""
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
        RUN[type(args)](args)
    except UserError as error:
        print(f"tinygpt: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # Python would complain again when it flushes at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
