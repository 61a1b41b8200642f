"""What can be typed after `tinygpt`: one dataclass for each command.

Class docstrings and the lines below the fields are the --help. Loads neither torch nor
any module that does, so `--help` answers at once. What it leaves out: reading the words
(see `parsing`) and doing anything (see `main`).
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from tinygpt.cli.paths import FileOption, OptionalFile, OptionalPath, PathOption
from tinygpt.config import FinetuneConfig, GPTConfig, TrainConfig
from tinygpt.errors import require
from tinygpt.presets import PRESETS
from tinygpt.reward_config import RewardConfig
from tinygpt.settings import check_sampling

if TYPE_CHECKING:
    PresetName = str
else:
    PresetName = tyro.extras.literal_type_from_choices(PRESETS)


@dataclass(frozen=True)
class TrainOptions(TrainConfig):
    """`TrainConfig` with the text as the first word."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT]")] = (
        "handbook"
    )
    """handbook, stories or another text that `tinygpt data` lists, a text file, folder
    or glob, several of these with commas between them, or token files of `tinygpt data
    prepare`: a.tokens, a.tokens,b.tokens or a folder or glob of them. nanoGPT's
    train.bin needs --tokenizer."""


@dataclass(frozen=True)
class FinetuneOptions(FinetuneConfig):
    """`FinetuneConfig` with the text as the first word."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT]")] = (
        "shop-chats"
    )
    """shop-chats, support-chats, a .jsonl file of chats, or any text."""
    tokenizer: Annotated[str, tyro.conf.Suppress] = field(  # type: ignore[assignment]
        default="",  # mypy: the base class has a Literal
        init=False,  # tyro would offer it
    )


@dataclass(frozen=True)
class RewardOptions(RewardConfig):
    """`RewardConfig` with the conversations as the first word."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[CHATS]")] = (
        "shop-chats"
    )
    """shop-chats, or a .jsonl file of chats: the prompts come from its users."""
    tokenizer: Annotated[str, tyro.conf.Suppress] = field(  # type: ignore[assignment]
        default="",  # mypy: the base class has a Literal
        init=False,  # tyro would offer it
    )


@dataclass
class RunOptions:
    """Where a run is kept, and what is told of it."""

    name: str | None = None
    """Name of the run; without one, the next free name."""
    out: PathOption = Path("runs")
    """Folder that holds the runs."""
    resume: bool = False
    """Continue the run NAME, or the latest one, from its last checkpoint."""
    config: OptionalFile = None
    """JSON file of settings, such as any run's run.json; options override it."""
    tensorboard: bool = False
    """Also log the losses for TensorBoard (needs the package tensorboard)."""
    plot: bool = False
    """At the end show losses.png, the picture in the run's folder."""
    quiet: bool = False
    """Print nothing but what goes wrong."""
    json: bool = False
    """Print one JSON object for each report, as in log.jsonl, and nothing else."""
    plain: bool = False
    """Lines in place of a bar, as in a log; suits a screen reader."""

    def __post_init__(self) -> None:
        require(not (self.quiet and self.json), "--quiet prints no --json: choose one")

    @property
    def is_silent(self) -> bool:
        """Whether nothing is told to a person."""
        return self.quiet or self.json


@dataclass
class Train(RunOptions):
    """Train a GPT on a text, save the run in a folder, and print a sample.

    The preset sets the defaults of all settings of model and training.
    """

    preset: PresetName = "tiny"
    """Settings to start from; --config and options override them."""
    # Not an option: the settings that were typed, which a plan keeps (see `parsing`).
    given: tuple[str, ...] | None = field(default=None, init=False)
    prompt: str | None = None
    """Start of the sample at the end; empty for no sample. If not given: the first
    words of the validation part, of the handbook "The salesperson"."""
    train: tyro.conf.OmitArgPrefixes[TrainOptions] = field(
        default_factory=lambda: TrainOptions(**asdict(PRESETS["tiny"].train))
    )
    model: tyro.conf.OmitArgPrefixes[GPTConfig] = field(
        default_factory=lambda: PRESETS["tiny"].model
    )


@dataclass
class Finetune(RunOptions):
    """Fine-tune a model on conversations or text, in full or with LoRA.

    At the end the model before and the model after answer the same questions, with
    the same seed.
    """

    train: tyro.conf.OmitArgPrefixes[FinetuneOptions] = field(
        default_factory=FinetuneOptions
    )


@dataclass
class Reward(RunOptions):
    """Let a fine-tuned model learn from a reward for its own answers.

    Each step draws groups of answers and makes those likelier that did better than
    the rest of their group. At the end the model before and the model after answer the
    same prompts, with the same seed.
    """

    train: tyro.conf.OmitArgPrefixes[RewardOptions] = field(
        default_factory=RewardOptions
    )


@dataclass
class ModelChoice:
    """Which model to use."""

    model: str | None = None
    """A run's name or folder, story, tiny, pocket-gpt2, pocket-chat, gpt2, gpt2-medium,
    gpt2-large, gpt2-xl, distilgpt2, or a folder in GPT-2's format; the latest run in
    ./runs if not given."""


@dataclass
class Sampling:
    """How the next token is chosen, and with which weights."""

    max_new_tokens: int = 100
    """Most tokens to generate."""
    temperature: float = 0.8
    """Below 1 is safer, above 1 is wilder; 0 always takes the most likely token."""
    top_k: int | None = 50
    """Sample from this many of the most likely tokens only."""
    top_p: float | None = None
    """Sample from the most likely tokens that together have this probability only."""
    seed: int | None = None
    """The same seed gives the same text again."""
    weights: Literal["float32", "bfloat16", "int8"] = "float32"
    """How a weight is stored: in four bytes, in two, or in one."""

    def __post_init__(self) -> None:
        check_sampling(**self.options())

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `LLM.stream` and `chat.answer`."""
        names = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")
        return {name: getattr(self, name) for name in names}


@dataclass
class Generate(Sampling, ModelChoice):
    """Continue a text, printing each word as soon as it is generated."""

    prompt: str = "The salesperson"
    """The text to continue."""
    samples: int = 1
    """Write so many texts at once, with the seeds SEED, SEED + 1 and so on; a line of
    dashes stands between two of them."""
    stop_at_end: bool = True
    """Stop where the model ends a document; with --no-stop-at-end it begins another
    one, after a mark <|endoftext|>."""
    cache: bool = True
    """Keep keys and values of past tokens: the same text, sooner."""

    def __post_init__(self) -> None:
        check_sampling(**self.options(), samples=self.samples)


@dataclass
class Chat(Sampling, ModelChoice):
    """Talk to a fine-tuned model in the terminal.

    /reset forgets the conversation, /system TEXT starts a new one with instructions,
    /quit leaves, Ctrl-C stops an answer.
    """

    temperature: float = 0.7
    """Below 1 is safer, above 1 is wilder; 0 always takes the most likely token."""


@dataclass
class Export(ModelChoice):
    """Write a model for other programs: transformers, or a web page."""

    out: PathOption = field(kw_only=True)
    """Folder to write."""
    format: Literal["hf", "web"] = "hf"
    """hf: config.json, model.safetensors and tokenizer.json, as on the Hub, of a model
    of the shape of tiny (a NanoChat there) or GPT-2. web: one script file for the
    playground, of any model."""
    dtype: Literal["float32", "float16"] = "float32"
    """How hf stores a number; float16 halves the file. web always uses float16."""
    push: str | None = None
    """Also upload the folder to this repository USER/NAME of the Hugging Face hub, a
    new one as a private one (needs the package huggingface_hub and a token)."""


@dataclass
class Open:
    """Put a model into a page of its own, and open it in the browser.

    The page needs no server and no network; copy the whole folder to show it around.
    """

    model: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RUN]")
    ] = None
    """A run's name or folder, or any model that --model of `tinygpt generate` takes;
    the latest run in ./runs if not given."""
    out: OptionalPath = None
    """Folder to write; if not given, `page` in the run's folder, or pages/MODEL."""
    browser: bool = True
    """With --no-browser the page is written and not opened."""


@dataclass
class Eval(ModelChoice):
    """Evaluate a model on a text: bits per byte, baselines, memorisation."""

    text: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT]")
    ] = None
    """A text by name, file, folder or glob, of which the last 10 % are used (at most a
    million tokens); the run's own if not given. For shop-chats, answers to its test
    part are checked, too: order numbers, facts, whether they are to the point."""
    seeds: int | None = None
    """Answers to each prompt of shop-chats; 3 if not given."""

    def __post_init__(self) -> None:
        good = self.seeds is None or 1 <= self.seeds <= 100
        require(good, f"--seeds {self.seeds} is out of range: choose 1 to 100")


@dataclass
class Runs:
    """List the runs in a folder: text, size, steps, bits per byte, date."""

    out: PathOption = Path("runs")
    """Folder that holds the runs."""


@dataclass
class Tokenize:
    """Show the tokens of a text, or train a new vocabulary."""

    text: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT]")
    ] = None
    """The text itself; standard input if not given."""
    tokenizer: str = "handbook-4k"
    """handbook-4k, course-4k, gpt2, cl100k_base, o200k_base, or a .tiktoken file."""
    train_on: str | None = None
    """Train a vocabulary on the first 90 % of this text (by name or file) instead."""
    vocab_size: int = 4096
    """Entries of the new vocabulary."""
    save: OptionalFile = None
    """File to write the new vocabulary to."""


@dataclass
class Prepare:
    """Tokenize a text of any size to disk, for `tinygpt train NAME.tokens`.

    After an interruption, the same command goes on where it stopped.
    """

    text: Annotated[str, tyro.conf.Positional]
    """A text by name, file, folder or glob."""
    out: FileOption
    """The token file to write, NAME.tokens; or FOLDER/train.bin, which writes that and
    val.bin as nanoGPT reads them."""
    tokenizer: str = "handbook-4k"
    """handbook-4k, course-4k, gpt2, cl100k_base, o200k_base, or a .tiktoken file."""
    workers: int | None = None
    """Processes that tokenize; one for each core if not given."""

    def __post_init__(self) -> None:
        good = self.workers is None or 1 <= self.workers <= 1024
        require(good, f"--workers {self.workers} is out of range: see the --help")


@dataclass
class Data:
    """List the texts that have a name, download one, or prepare a big text."""

    fetch: str | None = None
    """Download and verify this text now, and print where it is."""
    prepare: Annotated[
        Annotated[None, tyro.conf.subcommand("list", description="List the texts.")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")],
        tyro.conf.OmitArgPrefixes,
        tyro.conf.OmitSubcommandPrefixes,
    ] = None


@dataclass
class Info:
    """Show versions, devices and the presets with their sizes."""
