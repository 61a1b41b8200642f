"""The error for bad input, which every other module may raise.

A `UserError` carries a single sentence that says what was wrong and what to do.
The command line prints that sentence and exits with 2. Every other exception is a
fault of ours and keeps its traceback. `require` and `check_types` raise it. What it
leaves out: which values are allowed, which every caller knows best.
"""

import math
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

KINDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "a text",
}


class UserError(Exception):
    """Bad input, told in one sentence: what was wrong and what to do about it."""


def require(condition: bool, sentence: str) -> None:
    """Raise a UserError with `sentence` unless `condition` holds."""
    if not condition:
        raise UserError(sentence)


def check_types(config: Any) -> None:
    """Every value is what its field's type says; numbers fit into 64 bits.

    Raises:
        UserError: one is not.
    """
    for setting in fields(config):
        name, value, kind = setting.name, getattr(config, setting.name), setting.type
        options = get_args(kind) or (kind,)  # int | None -> (int, NoneType)
        if get_origin(kind) is Literal:
            known = ", ".join(options)
            require(value in options, f"{name} must be one of {known}, not '{value}'")
            continue
        wanted = options[0]
        if get_origin(kind) is tuple:
            fits = type(value) is tuple and all(type(item) is wanted for item in value)
            require(fits, f"{name} must be a list of texts, not {value!r}")
            continue
        fits = type(value) in ((int, float) if wanted is float else (wanted,))
        if fits and wanted is float:
            fits = abs(value) < math.inf  # false for nan too
        require(
            fits or (value is None and type(None) in options),
            f"{name} must be {KINDS[wanted]}, not {value!r}",
        )
        require(type(value) is not int or value < 2**63, f"{name} must be below 2**63")
