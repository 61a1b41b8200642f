"""Settings by name: keywords or a JSON file become configs.

The Python functions and the command line share this, so that both know the same names
and refuse the same values. Loads no torch. What it leaves out: the settings themselves,
and which values each may take (see `config`).
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tinygpt.config import without_lists
from tinygpt.errors import require
from tinygpt.files import read_json
from tinygpt.presets import PRESETS, Preset

SECTIONS = (
    "model",
    "train",
    "finetune",
    "reward",
)  # the objects of settings in a run.json
DERIVED = ("vocab_size",)  # decided by the tokenizer


def closest(name: str, known: Iterable[str]) -> str:
    """The most similar of the `known` names as a question, or nothing.

    >>> closest("step", ["steps", "seed"])
    " (did you mean 'steps'?)"
    """
    match = get_close_matches(name, known, n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""


def override(settings: Mapping[str, Any], *configs: Any) -> tuple[Any, ...]:
    """The `configs` with each of the `settings` put into the one that has its name.

    Raises:
        UserError: none has the name, or the value is not allowed.
    """
    names = [{f.name for f in fields(config) if f.init} for config in configs]
    known = set().union(*names)
    for name in settings:
        require(
            name in known, f"there is no setting '{name}'{closest(name, sorted(known))}"
        )
    return tuple(
        replace(config, **without_lists({n: settings[n] for n in own & set(settings)}))
        for config, own in zip(configs, names, strict=True)
    )


def convert(kind: Any, config: Any) -> Any:
    """The settings of `config` as an instance of `kind`, which has the same fields."""
    return kind(**{f.name: getattr(config, f.name) for f in fields(kind) if f.init})


def read_settings(path: Path, *sections: str) -> dict[str, Any]:
    """The settings in a JSON file: one flat object, or the `sections` of a run.json.

    Raises:
        UserError: the file cannot be read, is no JSON object, or has other sections.
    """
    content = read_json(path)
    nested = {n: v for n, v in content.items() if n in SECTIONS and isinstance(v, dict)}
    if nested:
        require(
            set(sections[-1:]) <= nested.keys(),
            f"{path} holds settings of another kind of run: {', '.join(nested)}",
        )
        content = {k: v for name in sections for k, v in nested.get(name, {}).items()}
    return {name: value for name, value in content.items() if name not in DERIVED}


def find_preset(name: str) -> Preset:
    """The preset `name`.

    Raises:
        UserError: there is none.
    """
    hint = closest(name, PRESETS) or f": choose {', '.join(PRESETS)}"
    require(name in PRESETS, f"there is no preset '{name}'{hint}")
    return PRESETS[name]


def run_path(out: Path, name: str) -> Path:
    """The folder of the run `name` in `out`.

    Raises:
        UserError: `name` is empty, "." or "..", holds a separator or an unprintable
            character, or takes more than 255 bytes.
    """
    shown = name if name.isprintable() else repr(name)
    plain = name.strip() not in {"", ".", ".."} and not set(name) & set("/\\:")
    require(
        plain, f"'{shown}' is not a name: give one word or more, without / and \\ and :"
    )
    require(name.isprintable(), f"the name {shown} holds an unprintable character")
    size = len(os.fsencode(name))
    require(size <= 255, f"a name may have 255 bytes, but this one has {size}")
    return out / name


def check_sampling(
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    samples: int = 1,
) -> None:
    """Refuse, before a model is loaded, what cannot choose a next token.

    Raises:
        UserError: a value is out of range.
    """
    for name, value, good, bounds in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 0, "at least 0"),
        ("temperature", temperature, 0 <= temperature < math.inf, "at least 0"),
        ("top_k", top_k, top_k is None or top_k >= 1, "at least 1"),
        ("top_p", top_p, top_p is None or 0 < top_p <= 1, "above 0 and at most 1"),
        ("seed", seed, seed is None or 0 <= seed < 2**63, "from 0 to 2**63 - 1"),
        ("samples", samples, 1 <= samples <= 256, "from 1 to 256"),
    ):
        require(good, f"{name} must be {bounds}, not {value}")
