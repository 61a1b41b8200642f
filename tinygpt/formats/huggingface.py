"""GPT-2 in our own `GPT`: read Hugging Face's files, and write ours as such.

A folder in that format contains config.json, tokenizer.json (or vocab.json and
merges.txt) and model.safetensors (or pytorch_model.bin, or several files of either kind
and an index). `load_gpt2` reads one, or fetches one of GPT-2's sizes by name;
`export_hf` writes one that transformers can load, of a model that is a GPT-2 or a
NanoChat. What it leaves out: settings (see `gpt2_config`, `nanochat`), finding files
(see `model_files`) and what is in them (`weight_files`, `hf_tokenizer`); other
architectures; uploading.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError, require
from tinygpt.files import read_json, shipped
from tinygpt.formats.gpt2_config import config_json, read_config, require_fitting
from tinygpt.formats.hf_tokenizer import (
    read_tokenizer,
    tokenizer_config_json,
    tokenizer_json,
)
from tinygpt.formats.model_files import (
    CONFIG,
    REPOSITORIES,
    SHIPPED,
    TOKENIZER,
    WEIGHTS,
    folder_files,
    hub_files,
)
from tinygpt.formats.nanochat import (
    MODEL_TYPE,
    is_nanochat,
    nanochat_json,
    nanochat_tensors,
)
from tinygpt.formats.weight_files import FLOATS, PREFIX, Place, places
from tinygpt.model.gpt import GPT
from tinygpt.text.tokenizer import Tokenizer

# Parts of our names and what GPT-2 calls them; the longer ones come first.
_THEIRS = {
    "token_embedding": "wte", "positions": "wpe", "blocks": "h",
    "norm1": "ln_1", "norm2": "ln_2", "norm": "ln_f", "head": "lm_head",
    "attention.qkv": "attn.c_attn", "attention.output": "attn.c_proj",
    "feed_forward.input": "mlp.c_fc", "feed_forward.output": "mlp.c_proj",
}  # fmt: skip
_OURS = re.compile("|".join(map(re.escape, _THEIRS)))


# --- Loading ----------------------------------------------------------------------


def load_gpt2(name_or_folder: str | Path) -> tuple[GPT, Tokenizer]:
    """A model with GPT-2's architecture and its tokenizer, in float32, on the CPU.

    Those in `SHIPPED` come with the course. The other names in `PRETRAINED_NAMES` are
    fetched by huggingface_hub and kept in its cache; HF_HUB_OFFLINE, HF_ENDPOINT and
    HF_HUB_CACHE act as that library says. Anything else is a folder in the same
    format (write ./gpt2 for a folder that bears one of the names). Weights in half
    precision become float32. Of safetensors one tensor is read at a time, so the memory
    in use stays below the size of the weights and of the largest among them.

    Source: Radford et al. (2019), "Language Models are Unsupervised Multitask
    Learners", section 2.3; names and layout as in transformers' GPT2LMHeadModel.

    Raises:
        UserError: no network and not in the cache, a file is missing or damaged, or
            the folder holds a model that `GPT` cannot express.
    """
    name = str(name_or_folder)
    if name_or_folder in REPOSITORIES:
        fetch = hub_files(REPOSITORIES[name])
    else:
        ours = name_or_folder in SHIPPED
        path = shipped(f"{name}/{CONFIG}").parent if ours else Path(name)
        fetch, name = folder_files(path), path.absolute().name
    described = fetch(CONFIG)
    config = read_config(described)
    tokenizer = read_tokenizer(fetch, name)
    require_fitting(config, tokenizer)
    return _read_model(config, places(fetch), described.parent), tokenizer


class _Unfilled(TorchFunctionMode):
    """Skips the initialization, which a file's weights replace.

    Even on the meta device it would import torch's compiler, which takes seconds.
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


def _read_model(config: GPTConfig, found: dict[str, Place], source: Path) -> GPT:
    """Build without memory, check every shape, then put tensor by tensor in place."""
    require(  # before a damaged number builds a tower
        config.n_layers <= len(found),
        f"{source} has n_layer = {config.n_layers}, but only {len(found)} tensors.",
    )
    model = _shape_only(config)
    weights = _weights(model)
    head = found.pop("lm_head.weight", None) if config.tie_head else None
    missing = [name for name in weights if name not in found]
    unknown = [name for name in found if name not in weights]
    for word, names in ("lacks the", missing), ("has the unknown", unknown):
        if names:
            raise UserError(
                f"{source} {word} tensor {names[0]} ({len(names)} in all): it is not "
                f"the GPT-2 that its {CONFIG} describes."
            )
    for name, (_, ours) in weights.items():
        place, shape = found[name], list(ours.shape)
        wanted = shape[::-1] if _turned(name) else shape
        require(
            place.shape == wanted,
            f"{source} holds {name} as {place.shape}, but {CONFIG} means {wanted}.",
        )
        require(
            place.dtype in FLOATS,
            f"{source} holds {name} as {place.dtype}, not {', '.join(FLOATS)}.",
        )
    require(
        head is None or torch.equal(head.read(), found["wte.weight"].read()),
        f"{source} holds a head unlike its embedding: set tie_word_embeddings to false "
        f"in {CONFIG}.",
    )
    state = {
        ours: found[name].read(_turned(name)) for name, (ours, _) in weights.items()
    }
    model.load_state_dict(state, strict=False, assign=True)
    if config.tie_head:
        model.head.weight = model.token_embedding.weight
    return model.eval()


# --- Exporting --------------------------------------------------------------------


def hf_type(config: GPTConfig) -> str:
    """What transformers calls the shape in which `export_hf` writes a model."""
    return MODEL_TYPE if is_nanochat(config) else "gpt2"


def export_hf(
    model: GPT,
    tokenizer: Tokenizer,
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
) -> list[str]:
    """Write a folder that transformers' Auto classes load; the names of its files.

    A model of GPT-2's shape becomes a GPT-2, which `load_gpt2` loads as well, one of
    the default preset's a NanoChat (see `nanochat`).

    The files are written to a folder beside it, .NAME.part, and moved in when all are
    complete, config.json last, without which no program takes the folder for a model.
    Other files in it stay. `torch.float16` halves the size and rounds the weights;
    config.json still says float32, so that transformers computes as we do.

    Raises:
        UserError: the model has another shape or adapters, the tokenizer does not fit,
            a weight does not fit into `dtype`, or the folder cannot be written or
            contains a config.json of something else.
    """
    folder, config = Path(folder), model.config
    other = is_nanochat(config)
    texts = {
        TOKENIZER: tokenizer_json(tokenizer),
        "tokenizer_config.json": tokenizer_config_json(
            tokenizer, config.context_length
        ),
        CONFIG: (nanochat_json if other else config_json)(config, tokenizer),
    }
    tensors = _stored(nanochat_tensors(model) if other else _renamed(model), dtype)
    # Not `write_atomically` for each: a full disk must leave the old model complete.
    try:
        whole = folder.resolve()
        part = whole.with_name(f".{whole.name}.part")
        old = read_json(whole / CONFIG) if (whole / CONFIG).exists() else {}
    except (OSError, ValueError, RuntimeError) as error:
        # ValueError: no name, or a NUL byte in it; RuntimeError: links in a circle
        raise _unwritable(folder, error) from error
    require(
        not old or old.get("model_type") in ("gpt2", MODEL_TYPE),
        f"{folder} has a {CONFIG} of another model: choose another folder.",
    )
    try:
        shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
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
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return [WEIGHTS, *texts]


def _unwritable(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"Cannot write {folder} ({error}): choose another folder or make room."
    )


def _renamed(model: GPT) -> Iterator[tuple[str, str, Tensor]]:
    """Our name, GPT-2's name, and the weight in its layout."""
    plain = _weights(_shape_only(model.config))
    for name, (ours, weight) in _weights(model).items():
        require(name in plain, f"GPT-2 has no {ours}: merge and remove adapters first.")
        full = name if name == "lm_head.weight" else PREFIX + name
        yield ours, full, weight.t() if _turned(name) else weight


@torch.no_grad()
def _stored(
    weights: Iterable[tuple[str, str, Tensor]], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The weights under their new names, as the file holds them."""
    tensors = {}
    for ours, theirs, weight in weights:
        stored = weight.detach().to("cpu", dtype).contiguous()
        require(
            bool(stored.isfinite().all()),
            f"{ours} does not fit into {dtype}: nothing was written.",
        )
        tensors[theirs] = stored
    return tensors
