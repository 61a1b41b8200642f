"""Tensors in files: written atomically, read without trust.

Files are safetensors files with metadata in JSON. The sizes that a file claims are
compared with the file, and with the model, before memory is taken for them; no code
from a file is ever run. What it leaves out: which files a run has (see `checkpoint`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError, require
from tinygpt.files import require_readable, why, write_atomically
from tinygpt.model.gpt import GPT
from tinygpt.runtime.fsdp import full_tensor, shard_like

METADATA = "facts"  # the key in a file's header
MAX_HEADER = 1 << 20  # bytes; GPT-2 XL with its optimizer's state takes a fifth
MAX_TABLE = 1 << 28  # context_length x d_model, the largest table besides the weights
FLOATS = {"F64", "F32", "F16", "BF16"}

Shapes = dict[str, tuple[int, ...]]


def save_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]
) -> None:
    """Write `tensors` of any shape and `metadata` (JSON, in the header) as one file.

    Raises:
        UserError: the file cannot be written.
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    header = {"format": "pt", METADATA: json.dumps(metadata)}

    def write(part: Path) -> None:
        try:
            save_file(plain, part, header)
        except SafetensorError as error:  # a full disk, for example
            raise OSError(None, str(error)) from error

    write_atomically(path, write)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file whose header is of a sane size and holds floats only."""
    size = require_readable(path)
    try:
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
        if not length <= min(size, MAX_HEADER):
            raise ValueError(f"its header would have {length:,} bytes")
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is not a dictionary
                kind = file.get_slice(name).get_dtype()
                if kind not in FLOATS:
                    raise ValueError(f"{name} is of type {kind}")
            yield file
    except (SafetensorError, OSError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({why(error)}): it may be cut off "
            "or come from another program"
        ) from error


def read_header(path: Path) -> tuple[Shapes, dict[str, Any]]:
    """Shapes and metadata of what `save_tensors` wrote, without the tensors.

    Raises:
        UserError: the file cannot be read, is truncated or not a safetensors file.
    """
    with _opened(path) as file:
        metadata = json.loads((file.metadata() or {}).get(METADATA, "{}"))
        if not isinstance(metadata, dict):
            raise ValueError(f"its metadata is a {type(metadata).__name__}")
        names = file.keys()
        return {n: tuple(file.get_slice(n).get_shape()) for n in names}, metadata


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote.

    The tensors are copies: safetensors would give views of the file, and Windows does
    not let a file be replaced that something still looks at.

    Raises:
        UserError: as `read_header`.
    """
    _, metadata = read_header(path)
    with _opened(path) as file:
        names = file.keys()
        return {name: file.get_tensor(name).clone() for name in names}, metadata


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """A plain state dict such as model-ckpt.pt, without running code from the file.

    Raises:
        UserError: the file cannot be read, is truncated or holds something else.
    """
    require_readable(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of another kind make torch fail in any way
        raise UserError(
            f"{path} is not a state dict that can be read safely: "
            "it may be cut off or come from another program"
        ) from error
    if not isinstance(state, dict) or not all(
        torch.is_tensor(t) for t in state.values()
    ):
        raise UserError(f"{path} holds no state dict: names with tensors were expected")
    return state


def require_fit(model: nn.Module, shapes: Shapes, source: str) -> None:
    """Check that tensors of these shapes can become the model's trained parameters.

    A tied weight may stand under either or both of its names; parameters that are not
    trained (the base of adapters) may be absent. The model may be on the meta device.

    Raises:
        UserError: a tensor is missing, left over or of another shape.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    held = {id(own[name]) for name in shapes if name in own}
    missing = [n for n, p in own.items() if p.requires_grad and id(p) not in held]
    extra = [name for name in shapes if name not in own]
    if missing or extra:
        word, names = ("lacks", missing) if missing else ("has the unknown", extra)
        raise UserError(
            f"{source} {word} tensor {names[0]} ({len(names)} in all): "
            "it belongs to a model of another shape"
        )
    for name, shape in shapes.items():
        if tuple(shape) != tuple(own[name].shape):
            raise UserError(
                f"{source} holds {name} as {list(shape)}, "
                f"but the model wants {list(own[name].shape)}"
            )


@torch.no_grad()
def fill(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy `tensors` into the model's parameters by name.

    Raises:
        UserError: as `require_fit`; the model is as it was then.
    """
    require_fit(model, {n: tuple(t.shape) for n, t in tensors.items()}, source)
    own = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in tensors.items():
        own[name].copy_(shard_like(own[name], tensor))


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The trained weights by name, gathered from all ranks; of LoRA, the adapters."""
    named: dict[str, Tensor] = dict(model.named_parameters())
    return {n: full_tensor(p.detach()) for n, p in named.items() if p.requires_grad}


def sketch(config: GPTConfig, shapes: Shapes, source: str) -> GPT:
    """The model on the meta device: its shapes, without memory for its weights.

    Raises:
        UserError: the sizes of `config` are far from those of the tensors, so that
            even this would take long, or tables that no file holds would be too large.
    """
    require(
        config.n_layers <= len(shapes),
        f"{source} describes {config.n_layers} layers, but holds {len(shapes)} tensors",
    )
    require(
        config.context_length * config.d_model <= MAX_TABLE,
        f"{source} describes a context of {config.context_length:,} tokens with "
        f"{config.d_model:,} numbers each: no machine can attend to so many",
    )
    try:
        with torch.device("meta"):
            return GPT(config)
    except (RuntimeError, OverflowError, TypeError) as error:  # sizes over 2**63
        raise UserError(f"{source} describes sizes that no file can hold") from error
