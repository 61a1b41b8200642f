"""A model of the default preset's kind as transformers' NanoChat: settings and weights.

That architecture is ours with rotary positions, RMSNorm without gains, queries and keys
normalised, no bias, embeddings normalised and logits squashed, so the two compute the
same. Three things are written in another way. There a point is rotated clockwise, which
is our rotation with the two halves of a head exchanged. There queries and keys are
normalised after the rotation, which leaves their length alone. And one epsilon serves
all norms; ours for queries and keys is smaller, as if they were larger. What it leaves
out: writing files (see `huggingface`), and reading them back: a run is for that.

Source: nanochat by Karpathy (2025), https://github.com/karpathy/nanochat, in the form
of transformers' NanoChatForCausalLM (5.0 or newer).
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tinygpt.config import GPTConfig
from tinygpt.errors import require
from tinygpt.formats.gpt2_config import ends, require_fitting
from tinygpt.model.gpt import GPT
from tinygpt.text.tokenizer import Tokenizer

MODEL_TYPE = "nanochat"
# Ours that make a GPT a NanoChat, whatever its sizes.
SWITCHES = {
    "positions": "rotary", "norm": "rmsnorm", "norm_placement": "pre", "bias": False,
    "head_bias": False, "qk_norm": True, "embedding_norm": True,
}  # fmt: skip
_ACTIVATIONS = {"relu": "relu", "relu2": "relu2", "gelu": "gelu_pytorch_tanh"}
_THEIRS = {
    "token_embedding": "model.embed_tokens", "head": "lm_head",
    "attention.output": "self_attn.o_proj",
    "feed_forward.input": "mlp.fc1", "feed_forward.output": "mlp.fc2",
}  # fmt: skip
_NAMES = re.compile(rf"(blocks\.\d+\.)?({'|'.join(map(re.escape, _THEIRS))})\.weight")
_EPS = 1e-5
# `F.rms_norm` without an eps takes float32's own. x / sqrt(mean(x^2) + eps) is the same
# for a larger eps and x larger by the root of their ratio.
_LARGER = math.sqrt(_EPS / torch.finfo(torch.float32).eps)


def is_nanochat(config: GPTConfig) -> bool:
    """Whether a model has this shape."""
    same = all(getattr(config, name) == value for name, value in SWITCHES.items())
    return same and config.activation in _ACTIVATIONS


def nanochat_json(config: GPTConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of config.json for a model that `is_nanochat`.

    Raises:
        UserError: the tokenizer has more ids than the model.
    """
    require_fitting(config, tokenizer)
    return {
        "architectures": ["NanoChatForCausalLM"],
        "model_type": MODEL_TYPE,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_heads,
        "hidden_act": _ACTIVATIONS[config.activation],
        "attention_dropout": config.dropout,
        "attention_bias": False,
        "rms_norm_eps": _EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "final_logit_softcapping": config.logit_softcap or None,
        "tie_word_embeddings": config.tie_head,
        **ends(tokenizer),
        "pad_token_id": None,
        "dtype": "float32",
    }


def nanochat_tensors(model: GPT) -> Iterator[tuple[str, str, Tensor]]:
    """Our name, NanoChat's name, and the weight in its layout.

    Raises:
        UserError: the model has adapters.
    """
    for ours, weight in model.named_parameters():
        block, _, part = ours.removesuffix(".weight").rpartition(".attention.qkv")
        if block and not part:
            q, k, v = weight.chunk(3)
            q, k = (_LARGER * _exchanged(w, model.config.n_heads) for w in (q, k))
            for letter, rows in ("q", q), ("k", k), ("v", v):
                theirs = f"model.{block}.self_attn.{letter}_proj.weight"
                yield ours, theirs.replace("blocks", "layers"), rows
            continue
        known = _NAMES.fullmatch(ours)
        require(
            bool(known), f"NanoChat has no {ours}: merge and remove adapters first."
        )
        assert known is not None
        before, name = known.groups()
        theirs = f"{before or ''}{_THEIRS[name]}.weight"
        yield ours, theirs.replace("blocks", "model.layers"), weight


def _exchanged(weight: Float[Tensor, "C C"], n_heads: int) -> Float[Tensor, "C C"]:
    """The rows of each head with its second half before the first."""
    return weight.unflatten(0, (n_heads, 2, -1)).flip(1).flatten(0, 2)
