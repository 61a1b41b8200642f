"""GPT-2 in our own `GPT`: read Hugging Face's files, and write them.

A folder in that format holds config.json, tokenizer.json and model.safetensors (or
several files and model.safetensors.index.json). `load_gpt2` reads one, or fetches one
of GPT-2's sizes by name; `export_gpt2` writes one that transformers can load. GPT-2's
own names of weights and settings appear here only. What it leaves out: pickled
weights, which can run code; other architectures; uploading.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError, require
from tinygpt.files import read_json, shipped
from tinygpt.formats.hf_tokenizer import read_tokenizer_json, tokenizer_json
from tinygpt.model.gpt import GPT
from tinygpt.text.bpe import END_OF_TEXT
from tinygpt.text.tokenizer import Tokenizer

POCKET = "pocket-gpt2"
REPOSITORIES = {
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distilgpt2": "distilbert/distilgpt2",
}
PRETRAINED_NAMES = (POCKET, *REPOSITORIES)

CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

# Parts of our names and what GPT-2 calls them; the longer ones come first.
_THEIRS = {
    "token_embedding": "wte", "positions": "wpe", "blocks": "h",
    "norm1": "ln_1", "norm2": "ln_2", "norm": "ln_f", "head": "lm_head",
    "attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj",
    "feed_forward.input": "mlp.c_fc", "feed_forward.output": "mlp.c_proj",
}  # fmt: skip
_OURS = re.compile("|".join(map(re.escape, _THEIRS)))
_PREFIX = "transformer."  # before all names but the head's; OpenAI's own files lack it
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # constants in files before 2023
_FLOATS = ("F32", "F16", "BF16")

_SIZES = {
    "vocab_size": "vocab_size", "n_positions": "context_length", "n_embd": "d_model",
    "n_head": "n_heads", "n_layer": "n_layers",
}  # fmt: skip
_LARGEST = 1 << 24  # far above any GPT-2; a larger size stands in a damaged file
_ACTIVATIONS: dict[str, Any] = {
    "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu", "relu2": "relu2",
}  # fmt: skip
_DROPOUTS = ("embd_pdrop", "attn_pdrop", "resid_pdrop")  # ours is one for all
# Settings for which our GPT has one answer, which is also what leaving them out means.
_FIXED = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
# Ours that make a GPT a GPT-2, whatever its sizes.
_SWITCHES = {
    "positions": "learned", "norm": "layernorm", "norm_placement": "pre", "bias": True,
    "qkv_bias": True, "head_bias": False, "qk_norm": False, "logit_softcap": 0.0,
    "embedding_norm": False,
}  # fmt: skip


class _AbsentError(UserError):
    """A folder or repository has no file of that name."""


Fetch = Callable[[str], Path]


class _Place(NamedTuple):
    """Where a tensor lies, and what the file's header says about it."""

    path: Path
    name: str
    shape: list[int]
    dtype: str


# --- Loading ----------------------------------------------------------------------


def load_gpt2(name_or_folder: str | Path) -> tuple[GPT, Tokenizer]:
    """A model with GPT-2's architecture and its tokenizer, in float32, on the CPU.

    `pocket-gpt2` comes with the course. The other names in `PRETRAINED_NAMES` are
    fetched by huggingface_hub and kept in its cache; HF_HUB_OFFLINE, HF_ENDPOINT and
    HF_HUB_CACHE act as that library says. Anything else is a folder in the same
    format (write ./gpt2 for a folder that bears one of the names). Weights in half
    precision become float32. One tensor is read at a time, so the memory in use stays
    below the size of the weights and of the largest among them.

    Source: Radford et al. (2019), "Language Models are Unsupervised Multitask
    Learners", section 2.3; names and layout as in transformers' GPT2LMHeadModel.

    Raises:
        UserError: no network and not in the cache, a file is missing or damaged, or
            the folder holds a model that `GPT` cannot express.
    """
    name = str(name_or_folder)
    if name_or_folder in REPOSITORIES:
        fetch = _hub(REPOSITORIES[name])
    else:
        pocket = name_or_folder == POCKET
        path = shipped(f"{POCKET}/{CONFIG}").parent if pocket else Path(name_or_folder)
        fetch, name = _folder(path), path.resolve().name
    described = fetch(CONFIG)
    config = _read_config(described)
    tokenizer = read_tokenizer_json(fetch(TOKENIZER), name)
    _check_ids(config, tokenizer)
    return _read_model(config, _places(fetch), described.parent), tokenizer


def _folder(folder: Path) -> Fetch:
    """Files of a folder on this machine."""

    def fetch(name: str) -> Path:
        require(
            folder.is_dir(),
            f"There is no folder {folder}: give {', '.join(PRETRAINED_NAMES)} or a "
            "folder in GPT-2's format.",
        )
        if not (folder / name).is_file():
            raise _AbsentError(
                f"{folder} has no {name}: a GPT-2 folder holds {CONFIG}, {TOKENIZER} "
                f"and {WEIGHTS} (pickled weights are never read)."
            )
        return folder / name

    return fetch


def _hub(repository: str) -> Fetch:
    """Files of a repository on the Hugging Face hub, through its library's cache."""
    by_hand = (
        f"put {CONFIG}, {TOKENIZER} and {WEIGHTS} from "
        f"https://huggingface.co/{repository} into a folder and give its path"
    )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            EntryNotFoundError,
            HTTPError,  # that of requests or of httpx, by its version
        )
    except ImportError as error:
        raise UserError(
            "huggingface_hub, which fetches GPT-2, is not installed: pip install "
            f"tinygpt[hub], or {by_hand}."
        ) from error

    def fetch(name: str) -> Path:
        try:
            return Path(hf_hub_download(repository, name))
        except (OSError, HTTPError, RuntimeError) as error:  # RuntimeError: hf_xet's
            absent = isinstance(error, EntryNotFoundError)
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise (_AbsentError if absent else UserError)(
                f"Cannot fetch {name} of {repository} ({reason}): check the network "
                f"and try again, or {by_hand}."
            ) from error

    return fetch


def _read_config(path: Path) -> GPTConfig:
    """Our settings from GPT-2's; whatever our GPT cannot express is an error."""
    raw = read_json(path)

    def need(condition: bool, field: str, wanted: object) -> None:
        value = json.dumps(raw.get(field))
        require(condition, f"{path} has {field} = {value}, but it must be {wanted}.")

    need(raw.get("model_type") == "gpt2", "model_type", "gpt2: choose another model")
    need(raw.get("quantization_config") is None, "quantization_config", "left out")
    for field, wanted in _FIXED.items():
        need(raw.get(field, wanted) == wanted, field, json.dumps(wanted))
    activation = raw.get("activation_function", "gelu_new")
    known = isinstance(activation, str) and activation in _ACTIVATIONS
    need(known, "activation_function", f"one of {', '.join(_ACTIVATIONS)}")
    inner = ["n_inner"] if raw.get("n_inner") is not None else []
    for field in [*_SIZES, *inner]:
        whole = type(raw.get(field)) is int and 1 <= raw[field] <= _LARGEST
        need(whole, field, f"a whole number from 1 to {_LARGEST}")
    dropout = raw.get(_DROPOUTS[0], 0.1)
    need(type(dropout) in (int, float), _DROPOUTS[0], "a number")
    for field in _DROPOUTS:
        need(raw.get(field, 0.1) == dropout, field, f"{dropout} like {_DROPOUTS[0]}")
    tied = raw.get("tie_word_embeddings", True)
    need(isinstance(tied, bool), "tie_word_embeddings", "true or false")
    return GPTConfig(
        **{ours: raw[theirs] for theirs, ours in _SIZES.items()},
        d_ff=raw.get("n_inner"),
        dropout=dropout,
        activation=_ACTIVATIONS[activation],
        tie_head=tied,
    )


def _check_ids(config: GPTConfig, tokenizer: Tokenizer) -> None:
    require(
        tokenizer.vocab_size <= config.vocab_size,
        f"The tokenizer {tokenizer.name!r} has {tokenizer.vocab_size} ids, the model "
        f"only {config.vocab_size}: they do not belong together.",
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}): fetch it again."
        ) from error


def _places(fetch: Fetch) -> dict[str, _Place]:
    """Every weight in the files by its name without prefix; only headers are read."""
    try:
        paths = [fetch(WEIGHTS)]
    except _AbsentError as neither:
        try:
            index = fetch(INDEX)
        except _AbsentError:
            raise neither from None
        named = read_json(index).get("weight_map")
        files = list(named.values()) if isinstance(named, dict) else []
        require(
            bool(files) and all(str(f) == f and Path(f).name == f for f in files),
            f"{index} has no weight_map of plain file names.",
        )
        paths = [fetch(file) for file in sorted(set(files))]
    places: dict[str, _Place] = {}
    for path in paths:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                short = name.removeprefix(_PREFIX)
                if _MASK.fullmatch(short):
                    continue
                require(short not in places, f"{path} holds the tensor {short} again.")
                header = file.get_slice(name)
                shape, dtype = list(header.get_shape()), str(header.get_dtype())
                places[short] = _Place(path, name, shape, dtype)
    return places


class _Unfilled(TorchFunctionMode):
    """Leaves out the first random numbers, which a file's weights replace.

    Without memory to fill they would still load torch's compiler, for seconds.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Do nothing in place of `torch.nn.init`'s functions."""
        if getattr(func, "__module__", "") == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))


def _shape_only(config: GPTConfig) -> GPT:
    """The model without memory; with learned positions it has no buffer to fill."""
    with torch.device("meta"), _Unfilled():
        return GPT(config)


def _weights(model: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """GPT-2's name of each weight -> our name and tensor; a tied head has none."""
    return {
        _OURS.sub(lambda part: _THEIRS[part[0]], name): (name, parameter)
        for name, parameter in model.named_parameters()
    }


def _turned(theirs: str) -> bool:
    """Whether GPT-2 stores the matrix as [in, out], its Conv1D; ours are [out, in]."""
    return ".c_" in theirs and theirs.endswith(".weight")


def _read_model(config: GPTConfig, places: dict[str, _Place], source: Path) -> GPT:
    """Build without memory, check every shape, then put tensor by tensor in place."""
    require(  # before a damaged number builds a tower
        config.n_layers <= len(places),
        f"{source} has n_layer = {config.n_layers}, but only {len(places)} tensors.",
    )
    model = _shape_only(config)
    weights = _weights(model)
    head = places.pop("lm_head.weight", None) if config.tie_head else None
    missing = [name for name in weights if name not in places]
    unknown = [name for name in places if name not in weights]
    for word, names in ("lacks the", missing), ("has the unknown", unknown):
        if names:
            raise UserError(
                f"{source} {word} tensor {names[0]} ({len(names)} in all): it is not "
                f"the GPT-2 that its {CONFIG} describes."
            )
    for name, (_, ours) in weights.items():
        found, shape = places[name], list(ours.shape)
        wanted = shape[::-1] if _turned(name) else shape
        require(
            found.shape == wanted,
            f"{source} holds {name} as {found.shape}, but {CONFIG} means {wanted}.",
        )
        require(
            found.dtype in _FLOATS,
            f"{source} holds {name} as {found.dtype}, not {', '.join(_FLOATS)}.",
        )
    require(
        head is None or torch.equal(_read(head), _read(places["wte.weight"])),
        f"{source} holds a head unlike its embedding: set tie_word_embeddings to false "
        f"in {CONFIG}.",
    )
    state = {
        ours: _read(places[name], _turned(name)) for name, (ours, _) in weights.items()
    }
    model.load_state_dict(state, strict=False, assign=True)
    if config.tie_head:
        model.head.weight = model.token_embedding.weight
    return model.eval()


def _read(place: _Place, turned: bool = False) -> Tensor:
    """One tensor in memory of its own, as float32, turned to [out, in] if need be.

    The file is opened for this tensor alone: the pages of a mapped file count as the
    process's memory until it is closed.
    """
    with _opened(place.path) as file:
        tensor = file.get_tensor(place.name)
        return (tensor.t() if turned else tensor).to(
            torch.float32, copy=True, memory_format=torch.contiguous_format
        )


# --- Exporting --------------------------------------------------------------------


def export_gpt2(
    model: GPT,
    tokenizer: Tokenizer,
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a folder that `load_gpt2` and transformers' Auto classes load.

    The files are made in a folder beside it and moved in when all are whole,
    config.json last, without which nobody takes the folder for a model. Other files
    in it stay. `torch.float16` halves the size and rounds the weights; config.json
    still says float32, so that transformers computes as we do.

    Raises:
        UserError: the model is not GPT-2-shaped or has adapters, the tokenizer does
            not fit, a weight does not fit into `dtype`, or the folder cannot be
            written.
    """
    folder = Path(folder)
    end = END_OF_TEXT if END_OF_TEXT in tokenizer.special_tokens else None
    texts = {
        TOKENIZER: tokenizer_json(tokenizer),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as is
            "model_max_length": model.config.context_length,
            "bos_token": end,
            "eos_token": end,
            "clean_up_tokenization_spaces": False,
        },
        CONFIG: _config_json(model.config, tokenizer),
    }
    tensors = _stored(model, dtype)
    part = folder.resolve().with_name(f".{folder.resolve().name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        save_file(tensors, part / WEIGHTS, {"format": "pt"})
        for name, content in texts.items():
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            (part / name).write_text(text, encoding="utf-8", newline="\n")
        folder.mkdir(exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        for name in (WEIGHTS, *texts):
            (part / name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"Cannot write {folder} ({error}): choose another folder or make room."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _config_json(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """GPT-2's settings from ours, if it has them."""
    activations = {ours: name for name, ours in reversed(_ACTIVATIONS.items())}
    found = {switch: getattr(config, switch) for switch in _SWITCHES}
    wrong = [f"{k} = {v}" for k, v in found.items() if v != _SWITCHES[k]]
    if config.activation not in activations:
        wrong.append(f"activation = {config.activation}")
    require(
        not wrong,
        f"GPT-2 has no {', '.join(wrong)}: only a GPT-2-shaped model can be exported.",
    )
    _check_ids(config, tokenizer)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "n_inner": config.d_ff,
        "activation_function": activations[config.activation],
        **dict.fromkeys(_DROPOUTS, config.dropout),
        **_FIXED,
        "tie_word_embeddings": config.tie_head,
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "dtype": "float32",
    }


@torch.no_grad()
def _stored(model: GPT, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights under GPT-2's names, in its layout."""
    plain = _weights(_shape_only(model.config))
    tensors = {}
    for name, (ours, weight) in _weights(model).items():
        require(name in plain, f"GPT-2 has no {ours}: merge and remove adapters first.")
        stored = (weight.t() if _turned(name) else weight).to("cpu", dtype).contiguous()
        require(
            bool(stored.isfinite().all()),
            f"{ours} does not fit into {dtype}: nothing was written.",
        )
        tensors[name if name == "lm_head.weight" else _PREFIX + name] = stored
    return tensors
