"""A model with its tokenizer, and the three ways to get one: train, finetune, load.

The front door of the package for scripts and notebooks; the command line uses it, too.
What it leaves out: all work. Each method calls the module of the course that does it.
"""

import shutil
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tinygpt.config import FinetuneConfig, GPTConfig
from tinygpt.errors import require
from tinygpt.fast.quantized import WEIGHTS, convert_weights
from tinygpt.finetuning import run as finetuning
from tinygpt.finetuning.chat import Message, answer
from tinygpt.finetuning.lora import merge, remove_lora
from tinygpt.finetuning.run import find_run, load_model
from tinygpt.generation.continuation import continue_samples, continue_text
from tinygpt.model.gpt import GPT
from tinygpt.runtime.memory import n_parameters
from tinygpt.settings import check_sampling, find_preset, override, run_path
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training import figure
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.evaluation import Evaluation
from tinygpt.training.run import Run, pretrain
from tinygpt.training.text_data import TextData


class LLM:
    """A trained model that writes, answers and can be measured.

    Attributes:
        model: the `GPT`.
        tokenizer: its `Tokenizer`.
        folder: where its run is kept; None if it has none.
        weights: how a weight is stored: float32, bfloat16 or int8 (see `load`).
    """

    weights: str = "float32"

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, folder: Path | None = None
    ) -> None:
        self.model, self.tokenizer, self.folder = model.eval(), tokenizer, folder

    @property
    def config(self) -> GPTConfig:
        """The shape of the model."""
        return self.model.config

    def __repr__(self) -> str:
        return f"LLM({n_parameters(self.config):,} parameters, {self.tokenizer.name})"

    def generate(self, prompt: str, max_new_tokens: int = 100, **options: Any) -> str:
        """The prompt and what the model writes after it.

        Args:
            prompt: at least one token, at most as many as the context holds.
            max_new_tokens: the most tokens to generate; the end mark stops sooner.
            options: those of `stream`.

        Raises:
            UserError: the prompt is empty or too long, or an option is out of range.
        """
        return "".join(self.stream(prompt, max_new_tokens, **options))

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 100,
        *,
        temperature: float = 0.8,
        top_k: int | None = 50,
        top_p: float | None = None,
        seed: int | None = None,
        stop_at_end: bool = True,
        use_cache: bool = True,
    ) -> Iterator[str]:
        """The text of `generate` piece by piece, the prompt first.

        Args:
            prompt: as in `generate`.
            max_new_tokens: as in `generate`.
            temperature: below 1 is safer, above 1 is wilder, 0 takes the likeliest.
            top_k: sample from this many of the most likely tokens only.
            top_p: sample from the most likely tokens that together have this
                probability only.
            seed: the same seed gives the same text again.
            stop_at_end: stop where the model ends a document; or write <|endoftext|>
                there and go on with another.
            use_cache: keep keys and values of past tokens; the text is the same.

        Raises:
            UserError: as `generate`, at once and not at the first piece.
        """
        pieces = continue_text(
            self.model,
            self.tokenizer,
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop_at_end=stop_at_end,
            use_cache=use_cache,
        )
        return chain([prompt], pieces)

    def samples(
        self, prompt: str, n: int, max_new_tokens: int = 100, **options: Any
    ) -> list[str]:
        """`n` texts for one prompt, written together: sooner than one after another.

        The first is that of `generate`, the next has `seed` + 1, and so on; arguments
        and errors are those of `generate`.
        """
        defaults = {"temperature": 0.8, "top_k": 50, "top_p": None, "seed": None}
        options = defaults | options | {"max_new_tokens": max_new_tokens}
        texts = continue_samples(self.model, self.tokenizer, prompt, n, **options)
        return [prompt + text for text in texts]

    def reply(
        self,
        message: str | Sequence[Message],
        max_new_tokens: int = 120,
        *,
        temperature: float = 0.7,
        top_k: int | None = 50,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """The answer of a fine-tuned model to a message or a whole conversation.

        Args:
            message: the user's words, or all messages so far, the user's last:
                [{"role": "user", "content": "Hello"}, ...], also "assistant", "system".
            max_new_tokens: the most tokens to generate; the end mark stops sooner.
            temperature: as in `stream`, like the options after it.
            top_k: as in `stream`.
            top_p: as in `stream`.
            seed: as in `stream`.

        Raises:
            UserError: the message is too long, a role is unknown, or an option is out
                of range.
        """
        check_sampling(max_new_tokens, temperature, top_k, top_p, seed)
        if isinstance(message, str):
            message = [{"role": "user", "content": message}]
        pieces = answer(
            self.model,
            self.tokenizer,
            message,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
        )
        return "".join(pieces).strip()

    def evaluate(self, text: str | Path) -> Evaluation:
        """Loss, perplexity and bits per byte on the last 10 % of a text.

        Training on the text holds just that part out, so the numbers are honest for a
        text that the model was trained on, too.

        Args:
            text: a file, folder or glob, a token file, or one of the names that
                `tinygpt data` lists.

        Raises:
            UserError: the text cannot be read or is too short.
        """
        data = TextData(str(text), self.tokenizer, self.config.context_length)
        return data.evaluate(self.model)

    def save(self, folder: str | Path) -> None:
        """Write model and tokenizer into `folder`, for `load`.

        Raises:
            UserError: the folder cannot be written, or holds a run; the weights are
                not float32.
        """
        path = Path(folder)
        self._require_float32()
        require(str(folder) != "", "the name of the folder is empty")
        require(
            not (path / "last.safetensors").exists() and not path.is_file(),
            f"{path} holds a run or is a file: give another folder",
        )
        RunFolder(path).save_model(self.model, self.tokenizer)

    def _require_float32(self) -> None:
        require(
            self.weights == "float32",
            f"a model with weights in {self.weights} can neither be saved nor trained: "
            "load it without them",
        )

    @classmethod
    def load(cls, name: str | Path, weights: str = "float32") -> "LLM":
        """As `tinygpt.load`."""
        return load(name, weights)


def load(name: str | Path, weights: str = "float32") -> LLM:
    """A model by name or from a folder.

    Args:
        name: the name of a run in ./runs; story, tiny, pocket-gpt2 or pocket-chat,
            which ship with the course; gpt2 and its larger sizes or distilgpt2,
            downloaded from Hugging Face once; or a folder that `LLM.save`, a run or
            transformers' GPT-2 wrote.
        weights: float32, bfloat16 (half the memory) or int8 (a quarter), for writing
            and evaluation only.

    Raises:
        UserError: there is no such model, a file of it cannot be used, or there are no
            such weights.
    """
    require(weights in WEIGHTS, f"weights are {', '.join(WEIGHTS)}, not {weights!r}")
    source = find_run(name)
    folder = Path(source) if RunFolder(source).exists else None
    llm = LLM(*load_model(source), folder=folder)
    convert_weights(llm.model, weights)
    llm.weights = weights
    return llm


def train(
    text: str | Path = "handbook",
    *,
    preset: str | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
    name: str | None = None,
    out: str | Path = "runs",
    progress: bool = True,
    **settings: Any,
) -> LLM:
    """Train a GPT on a text, and return the weights that did best on its last 10 %.

    Args:
        text: a file, folder or glob, a token file, or one of the names that
            `tinygpt data` lists.
        preset: the settings to start from, a name in `PRESETS`: "tiny" if not given.
            Without one, `minutes` chooses all settings that are not given.
        tokenizer: a `Tokenizer`, the name of one, or a .tiktoken file; the preset's
            if not given. It decides the vocabulary size.
        name: keep the run in the folder `out/name`. Without a name it is kept in a
            temporary folder that lives as long as the LLM.
        out: the folder that holds the runs.
        progress: show a bar in the terminal or notebook.
        settings: any setting of `TrainConfig` or `GPTConfig`, such as minutes=2,
            steps=500, d_model=192.

    Raises:
        UserError: a setting or its value is unknown, the text cannot be read or is too
            short, or there is a run of that name.
    """
    given = {"data": str(text)} | settings
    kept = tuple(given) if preset is None else None
    chosen = find_preset(preset or "tiny")
    require(
        "vocab_size" not in settings,
        "the tokenizer decides the vocab_size: choose another tokenizer instead",
    )
    own = tokenizer if isinstance(tokenizer, Tokenizer) else None
    if tokenizer is not None:
        given["tokenizer"] = own.name if own else str(tokenizer)
    model_config, train_config = override(given, chosen.model, chosen.train)

    def run(path: Path) -> Run:
        return pretrain(path, model_config, train_config, tokenizer=own, given=kept)

    return _run(run, name, out, progress)


def finetune(
    model: str | Path | LLM = "pocket-gpt2",
    data: str | Path = "shop-chats",
    *,
    name: str | None = None,
    out: str | Path = "runs",
    progress: bool = True,
    **settings: Any,
) -> LLM:
    """Fine-tune a model on conversations or text, and return the best weights.

    Args:
        model: an LLM, which stays as it is, or what `load` takes.
        data: "shop-chats", a .jsonl file of conversations, or any text.
        name: as in `train`, like `out` and `progress`.
        out: as in `train`.
        progress: as in `train`.
        settings: any setting of `FinetuneConfig`, such as lora=True, epochs=2.

    Raises:
        UserError: a setting or its value is unknown, model or data cannot be used, or
            there is a run of that name.
    """
    base = None
    if isinstance(model, LLM):
        model._require_float32()
        base, source = (model.model, model.tokenizer), str(model.folder or "")
    else:
        source = str(find_run(model))
    (config,) = override(
        {"model": source, "data": str(data)} | settings, FinetuneConfig()
    )

    def run(path: Path) -> Run:
        return finetuning.finetune(path, config, base=base)

    return _run(run, name, out, progress)


def _run(
    start: Callable[[Path], Run], name: str | None, out: str | Path, progress: bool
) -> LLM:
    """Train the run that `start` makes, in a folder with a name or a temporary one."""
    if name is not None:
        run = start(run_path(Path(out), name))
        llm = _trained(run, progress)
        if failed := figure.draw_losses(run):
            warnings.warn(failed, stacklevel=3)
        return llm
    temporary = mkdtemp(prefix="tinygpt-")
    try:
        llm = _trained(start(Path(temporary, "run")), progress)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    weakref.finalize(llm, shutil.rmtree, temporary, ignore_errors=True)
    return llm


def _trained(run: Run, progress: bool) -> LLM:
    for _ in run.reports(show_progress=progress):
        pass
    merge(run.model)  # adapters become part of the weights, if there are any
    remove_lora(run.model)
    return LLM(run.model, run.tokenizer, run.path)
