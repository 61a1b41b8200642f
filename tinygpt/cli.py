"""The command line: parse, call, print. All work is done on the floors below.

Torch is loaded only by the commands that need it, so `--help` answers at once. Bad
input ends with one sentence and exit code 2; a fault of ours keeps its traceback.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tinygpt.config import PRESETS, GPTConfig, TrainConfig
from tinygpt.distributed import World, calm_threads
from tinygpt.errors import UserError

PresetName = Literal["tiny", "seed", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
Flat = tyro.conf.OmitArgPrefixes


@dataclass
class Train:
    """Train a GPT on a text, keep the run in a folder, and let the model speak.

    Every setting of model and training below starts from the preset.
    """

    preset: PresetName = "tiny"
    """Where all other settings start."""
    name: str | None = None
    """The run's name; the preset's name, numbered if it is taken."""
    out: Path = Path("runs")
    """The folder that holds the runs."""
    resume: bool = False
    """Go on with the run `name` (or the latest); start it if there is none."""
    prompt: str = "The salesperson"
    """What the sample at the end starts with; empty for no sample."""
    tensorboard: bool = False
    """Write the losses for TensorBoard, too (needs the package tensorboard)."""
    train: Flat[TrainConfig] = field(default_factory=lambda: PRESETS["tiny"].train)
    model: Flat[GPTConfig] = field(default_factory=lambda: PRESETS["tiny"].model)


@dataclass
class RunChoice:
    """Which trained model to use."""

    run: Path | None = None
    """A run's folder; the latest in ./runs if not given."""


@dataclass
class Generate(RunChoice):
    """Let a trained model go on with a text; the words come as they are made."""

    prompt: str = "The salesperson"
    """The text to go on with."""
    max_new_tokens: int = 100
    """How many tokens to write at most."""
    temperature: float = 0.8
    """Below 1 is safer, above 1 is wilder; 0 always takes the likeliest token."""
    top_k: int | None = 50
    """Choose among this many likeliest tokens only."""
    top_p: float | None = None
    """Choose among the likeliest tokens that share this probability only."""
    seed: int | None = None
    """The same seed writes the same text again."""
    cache: bool = True
    """Remember keys and values of past tokens: the same text, sooner."""


@dataclass
class Eval(RunChoice):
    """Measure a trained model: bits per byte, baselines, memorisation."""

    dataset: str | None = None
    """A corpus or file, of which the last 10 % are used; the run's own if not given."""


@dataclass
class Tokenize:
    """Show how a text is cut into tokens, or train a new vocabulary."""

    text: Annotated[str | None, tyro.conf.Positional] = None
    """The text to cut; standard input if not given."""
    tokenizer: str = "handbook-4k"
    """handbook-4k, gpt2, cl100k_base, o200k_base, or a .tiktoken file."""
    train_on: str | None = None
    """Train a vocabulary on the first 90 % of this corpus or file instead."""
    vocab_size: int = 4096
    """Entries of the new vocabulary."""
    save: Path | None = None
    """Where to write the new vocabulary."""


@dataclass
class Data:
    """List the texts that come by name, or fetch one of them."""

    fetch: str | None = None
    """Download and verify this corpus now, and say where it lies."""


@dataclass
class Info:
    """Show versions, devices and the presets with their sizes."""


def say(*words: object) -> None:
    """Print at once, also into a pipe."""
    print(*words, flush=True)


def runs_in(folder: Path) -> list[Path]:
    """Run folders below `folder`, the oldest first."""
    return [p.parent for p in sorted(folder.glob("*/run.json"), key=_changed)]


def _changed(path: Path) -> float:
    return path.stat().st_mtime


def choose_run(given: Path | None, out: Path = Path("runs")) -> Path:
    """The run that the user means."""
    if given is not None:
        return given
    known = runs_in(out)
    if not known:
        raise UserError(
            f"there is no run in {out}/ yet: train one with `tinygpt train`"
        )
    return known[-1]


def run_train(args: Train) -> None:
    """Train, printing every look; then print a sample."""
    calm_threads()
    from tinygpt.checkpoint import RunFolder
    from tinygpt.pretrain import prepare, train_in
    from tinygpt.trainer import pick_device

    tell: Callable[..., None] = say
    world = World.from_environment()
    if not world.is_main:
        tell = lambda *words: None  # noqa: E731
    folder = RunFolder(
        args.out / args.name if args.name else _free(args.out, args.preset)
    )
    if folder.exists and not args.resume and world.is_main:
        raise UserError(
            f"the run {folder.path} exists: go on with it by --resume, or choose "
            "another --name"
        )
    if folder.exists and args.resume:
        shape, _ = folder.configs()
        changed = [
            f.name
            for f in fields(shape)
            if getattr(shape, f.name) != getattr(args.model, f.name)
        ]
        if changed:
            raise UserError(
                f"a resumed run keeps its model: {', '.join(changed)} cannot change"
            )
    elif args.model.vocab_size != PRESETS[args.preset].model.vocab_size:
        raise UserError(
            "the tokenizer decides how many tokens there are: choose another "
            "--tokenizer instead of a --vocab-size"
        )
    world.start(pick_device(args.train.device).type)
    try:
        run = prepare(args.model, args.train, world)
        c, m, trainer = args.train, run.model, run.trainer
        tell(
            f"{args.preset}: {m.n_parameters():,} parameters, "
            f"{len(run.corpus.train):,} training and {len(run.corpus.val):,} validation "
            f"tokens of {c.dataset}, {trainer.device.type}, "
            f"{str(trainer.dtype).removeprefix('torch.')}"
        )
        if args.resume and folder.can_resume and world.is_main:
            folder.change(c)
        board = _board(folder.path) if args.tensorboard and world.is_main else None
        for look in train_in(folder, run, args.resume, show_progress=True):
            _above_bar(tell, look)
            if board:
                _draw(board, look)
        if trainer.step and not trainer.interrupted:
            _report(tell, folder, run, args)
        elif trainer.interrupted:
            tell(
                f"Stopped after step {trainer.step}. Go on with: tinygpt train --resume "
                f"--name {folder.path.name} --out {args.out}"
            )
    finally:
        world.stop()


def _free(out: Path, preset: str) -> Path:
    """The first folder name of this preset that is not taken."""
    path, n = out / preset, 1
    while (path / "run.json").exists():
        n += 1
        path = out / f"{preset}-{n}"
    return path


def _above_bar(tell: Callable[..., None], look: object) -> None:
    from tqdm.auto import tqdm

    with tqdm.external_write_mode(file=sys.stdout):
        tell(look)


def _board(path: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard needs one more package: pip install tensorboard"
        ) from error
    return SummaryWriter(path)


def _draw(board: Any, look: Any) -> None:
    for name, value in look.record().items():
        if name != "step":
            board.add_scalar(name, value, look.step)
    board.flush()


def _report(tell: Callable[..., None], folder: Any, run: Any, args: Train) -> None:
    """Which weights were kept, how good they are, and what they write."""
    if not run.trainer.world.is_main:
        return
    model, tokenizer, facts = folder.load_model()
    kept = run.corpus.evaluate(model)
    tell(
        f"Kept step {facts['step']}: {kept.bits_per_byte:.4f} bits per byte, "
        f"perplexity {kept.perplexity:.1f} on the whole validation split, "
        f"in {run.trainer.seconds:.0f} s"
    )
    if args.prompt:
        tell("\nA sample:\n")
        choice = Generate(prompt=args.prompt, seed=args.train.seed)
        _speak(tell, model, tokenizer, choice)
    tell(f"\nSaved in {folder.path}. More: tinygpt generate --run {folder.path}")


def _speak(tell: Callable[..., None], model: Any, tokenizer: Any, c: Generate) -> None:
    """Print the prompt and, piece by piece, what the model adds."""
    import torch

    from tinygpt.generation import generate, stream_text

    for name, value, good in (
        ("max-new-tokens", c.max_new_tokens, c.max_new_tokens >= 0),
        ("temperature", c.temperature, 0 <= c.temperature < float("inf")),
        ("top-k", c.top_k, c.top_k is None or c.top_k >= 1),
        ("top-p", c.top_p, c.top_p is None or 0 < c.top_p <= 1),
        ("seed", c.seed, c.seed is None or 0 <= c.seed < 2**63),
    ):
        if not good:
            raise UserError(f"--{name} {value} is out of range: see `generate --help`")
    ids = tokenizer.encode(c.prompt)
    length = model.config.context_length
    if not ids:
        raise UserError("the prompt is empty: give the model a word to go on with")
    if len(ids) > length:
        raise UserError(
            f"the prompt has {len(ids)} tokens, but the model's context holds {length}: "
            "shorten the prompt"
        )
    tokens = generate(
        model,
        torch.tensor([ids], device=model.device),
        c.max_new_tokens,
        temperature=c.temperature,
        top_k=c.top_k,
        top_p=c.top_p,
        seed=c.seed,
        stop_token=tokenizer.end_of_text,
        use_cache=c.cache,
    )
    stop = tokenizer.end_of_text
    ids_out = (t.item() for t in tokens)
    print(c.prompt, end="", flush=True)
    for piece in stream_text((i for i in ids_out if i != stop), tokenizer):
        print(piece, end="", flush=True)
    tell()


def run_generate(args: Generate) -> None:
    """Stream a text from a trained model."""
    calm_threads()
    from tinygpt.checkpoint import load_run

    model, tokenizer, _ = load_run(choose_run(args.run))
    _speak(say, model, tokenizer, args)


def run_eval(args: Eval) -> None:
    """Print the model's losses beside the baselines, and its longest recitation."""
    calm_threads()
    from tinygpt.checkpoint import RunFolder, load_run
    from tinygpt.evaluation import longest_copy
    from tinygpt.generation import generate
    from tinygpt.pretrain import Corpus

    path = choose_run(args.run)
    model, tokenizer, facts = load_run(path)
    _, train = RunFolder(path).configs()
    name = args.dataset or train.dataset
    corpus = Corpus(name, tokenizer, model.config.context_length)
    result = corpus.evaluate(model)
    say(f"{path}, weights of step {facts.get('step', '?')}, validation part of {name}:")
    say(f"  nats per token  {result.nats_per_token:8.4f}  ({result.tokens:,} tokens)")
    say(f"  perplexity      {result.perplexity:8.2f}")
    say(f"  bits per byte   {result.bits_per_byte:8.4f}  ({result.bytes:,} bytes)")
    say("Bits per byte of predictors without a network:")
    for kind, bits in corpus.baselines().items():
        say(f"  {kind:<15} {bits:8.4f}")
    start = corpus.val[: min(8, model.config.context_length)].unsqueeze(0)
    tokens = generate(model, start.to(model.device), 200, temperature=0.8, seed=1337)
    sample = tokenizer.decode([t.item() for t in tokens])
    copied = longest_copy(sample, corpus.train_text)
    say(
        f"Longest run of a 200-token sample that stands word for word in the training "
        f"text: {len(copied.split())} words\n  {copied!r}"
    )


def run_tokenize(args: Tokenize) -> None:
    """Print ids and pieces of a text, or train and save a vocabulary."""
    from tinygpt.tokenizer import get_tokenizer, train_bpe

    if args.train_on is not None:
        from tinygpt.dataset import load_text

        if args.save is None:
            raise UserError("say where the new vocabulary goes: --save NAME.tiktoken")
        text = load_text(args.train_on)
        text = text[: int(0.9 * len(text))]
        trained = train_bpe(text, args.vocab_size)
        trained.save(args.save)
        ids = trained.encode(text)
        per_token = len(text.encode("utf-8")) / len(ids)
        say(
            f"{args.save}: {trained.vocab_size} entries, {per_token:.2f} bytes per token"
        )
        return
    text = sys.stdin.read() if args.text is None else args.text
    tokenizer = get_tokenizer(args.tokenizer)
    ids = tokenizer.encode(text)
    for i in ids:
        say(f"{i:7d}  {tokenizer.token_bytes(i).decode('utf-8', 'backslashreplace')!r}")
    say(f"{len(ids)} tokens for {len(text.encode('utf-8', 'replace'))} bytes")


def run_data(args: Data) -> None:
    """List the corpora, or fetch one."""
    from tinygpt.dataset import CORPORA, fetch

    if args.fetch is not None:
        if args.fetch not in CORPORA:
            raise UserError(
                f"there is no corpus '{args.fetch}': choose {', '.join(CORPORA)}"
            )
        say(fetch(CORPORA[args.fetch]))
        return
    for corpus in CORPORA.values():
        where = "ships with the course" if corpus.url is None else corpus.url
        say(f"{corpus.name:<17} {corpus.bytes:>9,} bytes  {corpus.what} ({where})")


def run_info(args: Info) -> None:
    """Print what a bug report should contain."""
    calm_threads()
    import platform

    import torch

    import tinygpt
    from tinygpt.gpt import GPT
    from tinygpt.trainer import pick_device

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
            f"  {name:<12} {n_parameters:>13,} parameters  context {m.context_length:>4}"
            f"  d_model {m.d_model:>4}  {m.n_layers:>2} blocks of {m.n_heads} heads"
        )


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "train": (Train, run_train),
    "generate": (Generate, run_generate),
    "eval": (Eval, run_eval),
    "tokenize": (Tokenize, run_tokenize),
    "data": (Data, run_data),
    "info": (Info, run_info),
}


def _first_look(words: Iterable[str]) -> Train:
    """The defaults of `train`: the preset's, or those of the run to be resumed."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--preset", default="tiny")
    peek.add_argument("--resume", action="store_true")
    peek.add_argument("--name")
    peek.add_argument("--out", type=Path, default=Path("runs"))
    seen, _ = peek.parse_known_args(list(words))
    if seen.preset not in PRESETS:
        raise UserError(
            f"there is no preset '{seen.preset}': choose {', '.join(PRESETS)}"
        )
    preset = PRESETS[seen.preset]
    defaults = Train(preset=seen.preset, train=preset.train, model=preset.model)
    if seen.resume:
        known = runs_in(seen.out)
        name = seen.name or (known[-1].name if known else None)
        if name and (seen.out / name / "run.json").exists():
            calm_threads()
            from tinygpt.checkpoint import RunFolder

            model, train = RunFolder(seen.out / name).configs()
            defaults.name, defaults.model, defaults.train = name, model, train
    return defaults


def main(argv: list[str] | None = None) -> None:
    """Run one command; what is wrong with the input becomes one sentence and code 2."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if words[:1] == ["train"]:
            args: Any = tyro.cli(
                Train, args=words[1:], default=_first_look(words), prog="tinygpt train"
            )
        else:
            args = tyro.extras.subcommand_cli_from_dict(
                {name: kind for name, (kind, _) in COMMANDS.items()},
                args=words,
                prog="tinygpt",
                description="Train a small GPT on a CPU, and let it speak.",
            )
        dict(COMMANDS.values())[type(args)](args)
    except UserError as error:
        print(f"tinygpt: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away: nothing more to say
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
