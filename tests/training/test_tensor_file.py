"""tensor_file: tensors come back, and no file is trusted."""

import io
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_run import assert_same_tensors

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError
from tinygpt.model.gpt import GPT
from tinygpt.training import tensor_file
from tinygpt.training.tensor_file import (
    fill,
    load_state_dict,
    load_tensors,
    read_header,
    save_tensors,
    sketch,
)

TENSORS = {"a.weight": torch.arange(15.0).view(3, 5), "b": torch.tensor(7.0)}


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path, metadata = tmp_path / "x.safetensors", {"step": 3, "best": float("inf")}
    tensors = TENSORS | {"turned": TENSORS["a.weight"].T}
    save_tensors(path, tensors, metadata)
    again, noted = load_tensors(path)
    assert_same_tensors(again, tensors)
    assert noted == metadata
    shapes = {"a.weight": (3, 5), "b": (), "turned": (5, 3)}
    assert read_header(path) == (shapes, metadata)


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_nothing_looks_at_a_file_that_was_loaded(tmp_path: Path) -> None:
    """Windows would not let it be replaced, and a run replaces what it resumed from."""
    save_tensors(tmp_path / "x.safetensors", TENSORS, {})
    tensors, _ = load_tensors(tmp_path / "x.safetensors")
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert "x.safetensors" not in maps
    assert tensors.keys() == TENSORS.keys()


def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {})
    before = path.read_bytes()

    def full(tensors: object, part: Path, header: object) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file, "save_file", full)
    with pytest.raises(UserError, match=r"No space left on device.*or make room"):
        save_tensors(path, TENSORS, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Evil:
    """What a harmful checkpoint holds: loading it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Told to the one who unpickles."""
        return (Path.touch, (self.path,))


def saved(what: object, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(what, stream, **how)
    return stream.getvalue()


GOOD = saved(TENSORS)
OLD = saved(TENSORS, _use_new_zipfile_serialization=False)
FOREIGN = {
    "empty": b"",
    "text": b"This is a text.\n",
    "cut early": GOOD[:40],
    "cut in the middle": GOOD[: len(GOOD) // 2],
    "cut late": GOOD[:-1],
    "old format, cut": OLD[: len(OLD) // 2],
    "old format, cut late": OLD[:-3],
    "a number": saved(7),
    "no names": saved([torch.ones(2)]),
    "no tensors": saved({"a": "text"}),
    "a plain pickle": pickle.dumps({"a": 1}),
    "nearly a pickle": b"\x80\x02R\xd5\x06",
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_state_dict_that_is_none(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model-ckpt.pt"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(
        UserError, match=r"model-ckpt\.pt (is not a|holds no) state dict"
    ):
        load_state_dict(path)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_checkpoint_is_never_run(new: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "model-ckpt.pt", tmp_path / "was-run"
    harmful = {"a": torch.ones(2), "b": Evil(mark)}
    path.write_bytes(saved(harmful, _use_new_zipfile_serialization=new))
    for load in (load_state_dict, load_tensors):
        with pytest.raises(UserError, match="come from another program"):
            load(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # it would have been
    assert mark.exists()


@pytest.mark.parametrize("load", [load_state_dict, load_tensors])
def test_what_is_no_file_is_called_what_it_is(
    load: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"there is no file .*gone"):
        load(tmp_path / "gone")
    with pytest.raises(UserError, match="is a folder"):
        load(tmp_path)


def test_safetensors_that_are_none(tmp_path: Path) -> None:
    path, header = tmp_path / "x.safetensors", {"facts": "[1, 2"}
    save_tensors(path, TENSORS, {})
    whole = path.read_bytes()
    contents = [b"", b"text", GOOD, *(whole[:n] for n in (4, 30, 90, len(whole) - 1))]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not a whole safetensors file"):
            load_tensors(path)
    for facts in ("[1, 2", "[1, 2]", "7"):
        save_file(TENSORS, path, header | {"facts": facts})
        with pytest.raises(UserError, match="is not a whole safetensors file"):
            load_tensors(path)
    save_file(TENSORS, path)  # another program's: tensors without metadata
    assert load_tensors(path)[1] == {}


def header(path: Path, entries: dict[str, Any], size: int = 0) -> None:
    """A safetensors file made by hand, with `size` bytes of zeros for its tensors."""
    raw = json.dumps(entries).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(size))


def entry(dtype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}


@pytest.mark.parametrize(
    "entries",
    [
        {"a": entry("F32", [2**31, 2**31], 8)},
        {"a": entry("F32", [2**70], 8)},
        {"a": entry("F32", [-2], 8)},
        {"a": entry("F32", [2], 2**40)},
        {"a": entry("I64", [1], 8)},
        {"a": entry("F8_E4M3", [8], 8)},
        {"a": [1, 2]},
        {"a": {}},
        {"__metadata__": {"facts": 7}},
        {"__metadata__": {"facts": "[" * 90_000}},
        {"__metadata__": {"filler": "x" * 2**20}},
    ],
)
def test_headers_made_by_hand(entries: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header(path, entries, 8)
    for load in (read_header, load_tensors):
        with pytest.raises(UserError, match="is not a whole safetensors file"):
            load(path)


def test_a_header_that_claims_to_be_huge(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + bytes(99))
    with pytest.raises(UserError, match="its header would have"):
        load_tensors(path)
    header(path, {"__metadata__": {"filler": "x" * 2**20}})
    with pytest.raises(UserError, match="its header would have 1,048,6"):
        load_tensors(path)


def test_a_header_nested_deep(tmp_path: Path) -> None:
    path, raw = tmp_path / "x.safetensors", b'{"a":' * 100_000
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        load_tensors(path)


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_layers": 2**31},
        {"vocab_size": 2**62},
        {"context_length": 2**40},
        {"context_length": 2**31, "positions": "rotary"},
        {"d_ff": 2**62},
        {"d_model": 2**40, "n_heads": 2**20},
    ],
)
def test_sizes_are_compared_before_memory_is_taken(sizes: dict[str, Any]) -> None:
    given = {"vocab_size": 13, "context_length": 5, "d_model": 8, "n_heads": 2}
    small = GPT(GPTConfig(**given, n_layers=1))
    shapes = {n: tuple(p.shape) for n, p in small.named_parameters()}
    config = GPTConfig(**(given | {"n_layers": 1} | sizes))
    with pytest.raises(UserError):
        tensor_file.require_fit(sketch(config, shapes, "run"), shapes, "file")


def test_a_sketch_has_the_shapes_and_takes_no_memory() -> None:
    model = small_gpt()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    outline = sketch(model.config, shapes, "run")
    assert {n: tuple(p.shape) for n, p in outline.named_parameters()} == shapes
    assert all(p.is_meta for p in outline.parameters())


def test_the_largest_table_is_the_limit() -> None:
    shapes = {"a": (1,)}
    sketch(GPTConfig(13, 2**14, 2**14, n_layers=1), shapes, "run")
    with pytest.raises(UserError, match="a context of 16,385 tokens with 16,384 numb"):
        sketch(GPTConfig(13, 2**14 + 1, 2**14, n_layers=1), shapes, "run")


def small_gpt(**other: Any) -> GPT:
    sizes = {"vocab_size": 13, "context_length": 5, "d_model": 8, "n_heads": 2}
    return GPT(GPTConfig(**sizes, n_layers=1, **other))


def test_a_tied_weight_may_stand_under_either_name() -> None:
    model, other = small_gpt(), small_gpt()
    tensors = {n: p.detach().clone() for n, p in model.named_parameters()}
    moved = tensors.pop("token_embedding.weight")
    fill(other, tensors | {"head.weight": moved}, "the file")
    assert_same_tensors(other.state_dict(), model.state_dict())
    fill(other, dict(model.state_dict()), "the file")  # both
    assert other.head.weight is other.token_embedding.weight


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.pop("norm.bias"),
            r"the file lacks tensor norm\.bias \(1 in all\)",
        ),
        (lambda t: t.clear(), r"lacks tensor token_embedding.weight \(1\d in all\)"),
        (lambda t: t.update(more=torch.ones(2)), "has the unknown tensor more"),
        (lambda t: t.update({"norm.bias": torch.ones(3)}), r"as \[3\], but .* \[8\]"),
    ],
)
def test_tensors_that_do_not_fit_change_nothing(
    change: Callable[[dict[str, Any]], object], words: str
) -> None:
    model, tensors = small_gpt(), dict(small_gpt().named_parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    change(tensors)
    with pytest.raises(UserError, match=words):
        fill(model, tensors, "the file")
    assert_same_tensors(before, dict(model.named_parameters()))
