"""The tensors in a pretrained model's files: where they lie, and one of them in memory.

The files are safetensors, of which only the header is read until a tensor is asked for,
or PyTorch's own, which are pickles: those are opened with torch's weights-only reader,
which knows tensors and refuses whatever else a pickle could call for. What it leaves
out: whose tensors they are (see `huggingface`), finding the files (see `model_files`).
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinygpt.errors import UserError, require
from tinygpt.files import read_json, require_readable, why
from tinygpt.formats.model_files import PICKLED, WEIGHTS, AbsentError, Fetch

PREFIX = "transformer."  # before all names but the head's; OpenAI's own files lack it
FLOATS = ("F32", "F16", "BF16")
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # constants in files before 2023
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Place(NamedTuple):
    """Where a tensor lies, and what its file says about it."""

    path: Path
    name: str
    shape: list[int]
    dtype: str
    """One of `FLOATS`, or the file's own word for another type."""
    tensor: Tensor | None = None
    """The tensor itself, of a pickled file."""

    def read(self, turned: bool = False) -> Tensor:
        """The tensor in memory of its own, as float32, with its axes turned if asked.

        A safetensors file is opened for this tensor alone: the pages of a mapped file
        count as the process's memory until it is closed.

        Raises:
            UserError: the file cannot be read.
        """
        if self.tensor is not None:
            return _copied(self.tensor, turned)
        with _opened(self.path) as file:
            return _copied(file.get_tensor(self.name), turned)


def places(fetch: Fetch) -> dict[str, Place]:
    """Every weight in the files by its name without `PREFIX`; causal masks are none.

    The first that is there is read: model.safetensors, its shards by the index beside
    them, pytorch_model.bin, its shards.

    Raises:
        UserError: there are none, a file is damaged or asks for code to be run, or two
            hold the same tensor.
    """
    found: dict[str, Place] = {}
    for path in _files(fetch):
        for place in _pickled(path) if path.suffix == ".bin" else _headers(path):
            short = place.name.removeprefix(PREFIX)
            if _MASK.fullmatch(short):
                continue
            require(short not in found, f"{path} holds the tensor {short} again.")
            found[short] = place
    return found


def _files(fetch: Fetch) -> list[Path]:
    absent: AbsentError | None = None
    for whole in (WEIGHTS, PICKLED):
        try:
            return [fetch(whole)]
        except AbsentError as error:
            absent = absent or error
        try:
            index = fetch(f"{whole}.index.json")
        except AbsentError:
            continue
        named = read_json(index).get("weight_map")
        names = list(named.values()) if isinstance(named, dict) else []
        suffix = Path(whole).suffix
        require(
            bool(names)
            and all(str(n) == n and Path(n).name == n for n in names)
            and all(Path(n).suffix == suffix for n in names),
            f"{index} has no weight_map of plain file names NAME{suffix}.",
        )
        return [fetch(name) for name in sorted(set(names))]
    assert absent is not None
    raise absent


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path} ({why(error)})") from error
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}): fetch it again."
        ) from error


def _headers(path: Path) -> Iterator[Place]:
    with _opened(path) as file:
        for name in file.keys():  # noqa: SIM118 - it is no dictionary
            header = file.get_slice(name)
            shape, dtype = list(header.get_shape()), str(header.get_dtype())
            yield Place(path, name, shape, dtype)


def _pickled(path: Path) -> Iterator[Place]:
    """The tensors of a file that torch.save wrote, mapped if it is a zip archive."""
    require_readable(path)
    try:
        tensors = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # of a damaged pickle: any that Python knows
        if asked := re.search(r"Unsupported \w+: GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path} is more than weights: it calls for {asked[1]}, and no code "
                f"from a file is run. Take {WEIGHTS} of the same model."
            ) from error
        raise UserError(
            f"{path} is not a whole file of torch.save ({type(error).__name__}): fetch "
            "it again."
        ) from error
    require(isinstance(tensors, dict), f"{path} holds no dictionary of tensors.")
    for name, tensor in tensors.items():
        plain = (
            isinstance(name, str)
            and isinstance(tensor, Tensor)
            and tensor.layout == torch.strided
            and tensor.device.type == "cpu"
        )
        require(plain, f"{path} holds {str(name)[:80]!r}, which is no plain tensor.")
        dtype = _DTYPES.get(tensor.dtype, str(tensor.dtype))
        yield Place(path, name, list(tensor.shape), dtype, tensor)


def _copied(tensor: Tensor, turned: bool) -> Tensor:
    return (tensor.detach().t() if turned else tensor.detach()).to(
        torch.float32, copy=True, memory_format=torch.contiguous_format
    )
