"""Spoilt files: cut, overwritten, or with values that nobody expects in their place.

What it leaves out: what is done with them (see `fuzz`).
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

# Values that break what did not expect them.
NUMBERS = [0, -1, 1, 2, 3, 7, 255, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308]
NASTY: list[Any] = [
    *NUMBERS,
    *(float("nan"), float("inf"), -float("inf"), None, True, False),
    *("", " ", "x", "x" * 5000, "..", "../x", "/", "\0", "\ud800", "🙂", "\u2028"),
    *("(a+)+$", "(?:", r"\p{L}*", ".*|", "auto", "nan", "1e5", "<|endoftext|>"),
    *([], {}, [[]], [0], [None], {"": 0}, {"x": {"y": []}}, [1, 2], ["x"]),
]


def spoilt_bytes(data: st.DataObject, raw: bytes) -> bytes:
    """Cut, overwritten, doubled, or something else altogether."""
    at, n = data.draw(st.integers(0, len(raw))), data.draw(st.integers(1, 40))
    new = data.draw(st.one_of(st.binary(max_size=20), st.just(b"\0" * n)))
    return data.draw(
        st.sampled_from([
            raw[:at],
            raw[:at] + new + raw[at + n :],
            raw[:at] + new + raw[at:],
            raw[:at] + raw[at + n :],
            raw + raw[at:],
            new,
        ])
    )  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value within a JSON value."""
    yield path
    if isinstance(value, dict | list) and len(path) < 6:
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, below in list(inner)[:40]:
            yield from places(below, (*path, key))


def spoilt_json(data: st.DataObject, value: Any) -> Any:
    """One to three values of a JSON value changed, removed or added."""
    value = json.loads(json.dumps(value))
    for _ in range(data.draw(st.integers(1, 3))):
        way = data.draw(st.sampled_from(list(places(value))))
        new = copy.deepcopy(data.draw(st.sampled_from(NASTY)))
        if not way:
            value = data.draw(st.sampled_from([value, new]))
            continue
        holder = value
        for key in way[:-1]:
            holder = holder[key]
        act = data.draw(st.sampled_from(["change", "remove", "add", "nest"]))
        if act == "change":
            holder[way[-1]] = new
        elif act == "nest":
            for _ in range(data.draw(st.sampled_from([1, 50, 250]))):
                holder[way[-1]] = [holder[way[-1]]]
        elif act == "remove":
            del holder[way[-1]]
        elif isinstance(holder, dict):
            holder[data.draw(st.sampled_from(["", "x", "format", "lora"]))] = new
        else:
            holder.append(new)
    return value


def nested(depth: int) -> bytes:
    """Brackets within brackets: what a reader that calls itself cannot stand."""
    return b"[" * depth + b"]" * depth


def spoil(data: st.DataObject, path: Path) -> None:
    """Spoil one file, knowing its format or not."""
    raw = path.read_bytes()
    how = data.draw(st.sampled_from(["bytes", "json", "json", "json", "deep", "gone"]))
    if how == "gone":
        path.unlink()
        data.draw(st.sampled_from(["gone", "folder"])) == "folder" and path.mkdir()
    elif how == "deep":
        path.write_bytes(nested(data.draw(st.sampled_from([500, 100_000]))))
    elif how == "bytes":
        path.write_bytes(spoilt_bytes(data, raw))
    elif path.suffix == ".safetensors":
        n = int.from_bytes(raw[:8], "little")
        header = json.dumps(spoilt_json(data, json.loads(raw[8 : 8 + n]))).encode()
        length = data.draw(st.sampled_from([len(header), n, 2**40, 2**63]))
        path.write_bytes(length.to_bytes(8, "little") + header + raw[8 + n :])
    elif path.suffix == ".jsonl":
        lines = [json.loads(line) for line in raw.decode().splitlines()]
        lines = spoilt_json(data, lines)
        rows = lines if isinstance(lines, list) else [lines]
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(spoilt_json(data, json.loads(raw))), "utf-8")
    else:
        lines = raw.splitlines(keepends=True)
        at = data.draw(st.integers(0, len(lines) - 1))
        new = data.draw(st.sampled_from(NUMBERS))
        lines[at] = lines[at].split(b" ")[0] + f" {new}\n".encode()
        path.write_bytes(b"".join(lines))
