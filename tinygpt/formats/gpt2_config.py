"""GPT-2's settings, config.json, as our `GPTConfig`, and back.

What our `GPT` cannot express is refused. What it leaves out: the weights (see
`huggingface`).
"""

import json
from pathlib import Path
from typing import Any

from tinygpt.config import GPTConfig
from tinygpt.errors import require
from tinygpt.files import read_json
from tinygpt.text.tokenizer import Tokenizer

_SIZES = {
    "vocab_size": "vocab_size", "n_positions": "context_length", "n_embd": "d_model",
    "n_head": "n_heads", "n_layer": "n_layers",
}  # fmt: skip
_LARGEST = 1 << 24  # far above any GPT-2: a larger size means a damaged file
_MOST_LAYERS = 512  # GPT-2 has 48 at most; building many takes time even without memory
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


def read_config(path: Path) -> GPTConfig:
    """Our settings from the config.json at `path`.

    Raises:
        UserError: it cannot be read, or describes what our `GPT` cannot express.
    """
    raw = read_json(path)

    def need(condition: bool, field: str, wanted: object) -> None:
        value = json.dumps(raw.get(field))[:200]
        require(condition, f"{path} has {field} = {value}, but it must be {wanted}.")

    what = "gpt2: choose another model, or the run that this one was exported from"
    need(raw.get("model_type") == "gpt2", "model_type", what)
    need(raw.get("quantization_config") is None, "quantization_config", "left out")
    for field, wanted in _FIXED.items():
        need(raw.get(field, wanted) == wanted, field, json.dumps(wanted))
    activation = raw.get("activation_function", "gelu_new")
    known = isinstance(activation, str) and activation in _ACTIVATIONS
    need(known, "activation_function", f"one of {', '.join(_ACTIVATIONS)}")
    inner = ["n_inner"] if raw.get("n_inner") is not None else []
    for field in [*_SIZES, *inner]:
        most = _MOST_LAYERS if field == "n_layer" else _LARGEST
        whole = type(raw.get(field)) is int and 1 <= raw[field] <= most
        need(whole, field, f"a whole number from 1 to {most}")
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


def require_fitting(config: GPTConfig, tokenizer: Tokenizer) -> None:
    """Check that the model has a row for every id.

    Raises:
        UserError: it has fewer.
    """
    require(
        tokenizer.vocab_size <= config.vocab_size,
        f"The tokenizer {tokenizer.name!r} has {tokenizer.vocab_size} ids, the model "
        f"only {config.vocab_size}: they do not belong together.",
    )


def config_json(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        UserError: GPT-2 has no such settings, or the tokenizer has more ids.
    """
    activations = {ours: name for name, ours in reversed(_ACTIVATIONS.items())}
    found = {switch: getattr(config, switch) for switch in _SWITCHES}
    wrong = [f"{k} = {v}" for k, v in found.items() if v != _SWITCHES[k]]
    if config.activation not in activations:
        wrong.append(f"activation = {config.activation}")
    require(
        not wrong,
        f"GPT-2 has no {', '.join(wrong)}, and this is no NanoChat either, so that "
        "transformers has no such model: train one with --preset tiny, story or "
        "pocket, or export this one with --format web.",
    )
    require_fitting(config, tokenizer)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "n_inner": config.d_ff,
        "activation_function": activations[config.activation],
        **dict.fromkeys(_DROPOUTS, config.dropout),
        **_FIXED,
        "tie_word_embeddings": config.tie_head,
        **ends(tokenizer),
        "dtype": "float32",
    }


def ends(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ids with which a text begins, and with which it and an answer end."""
    end = tokenizer.end_of_text
    known = [i for i in (tokenizer.special_tokens.get("<|end|>"), end) if i is not None]
    return {"bos_token_id": end, "eos_token_id": known if len(known) > 1 else end}
