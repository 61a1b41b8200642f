"""The GPT: token ids in, logits out, and nothing else.

It knows no tokenizer, no loss, no file. What it leaves out: training (see `trainer`),
choosing the next token (see `generation`).
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinygpt.config import GPTConfig
from tinygpt.fast import decode_numpy as numpy_step
from tinygpt.fast.decode_torch import QuickStep
from tinygpt.fast.linear_cross_entropy import head_loss
from tinygpt.model.block import NORMS, TransformerBlock
from tinygpt.model.embeddings import TokenEmbedding
from tinygpt.model.kv_cache import KVCache
from tinygpt.model.masking import causal_mask
from tinygpt.model.positional import (
    LearnedPositions,
    RotaryPositions,
    SinusoidalPositions,
)


class GPT(nn.Module):
    """A decoder-only Transformer.

    ids [B, T] -> vectors [B, T, C] -> n_layers blocks -> norm -> logits [B, T, V].
    `embed`, `blocks`, `logits` are these steps, so that a reader can stop between them.

    Source: Radford et al. (2019), section 2.3; every switch of `GPTConfig` names its
    own source where it acts.

    >>> model = GPT(GPTConfig(vocab_size=7, context_length=5, d_model=6, n_heads=2))
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 7])
    """

    gives_loss = True  # called with targets, it returns the loss

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = c = config
        self.recompute = False  # Chen et al. (2016), "Training Deep Nets", section 4
        self.token_embedding = TokenEmbedding(c.vocab_size, c.d_model)
        self.positions: nn.Module | None = None
        self.rotary: RotaryPositions | None = None
        if c.positions == "rotary":
            self.rotary = RotaryPositions(c.context_length, c.head_dim)
        elif c.positions == "sinusoidal":
            self.positions = SinusoidalPositions(c.context_length, c.d_model)
        else:
            self.positions = LearnedPositions(c.context_length, c.d_model)
        self.embedding_norm = NORMS[c.norm](c.d_model) if c.embedding_norm else None
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                c.d_model,
                c.n_heads,
                c.ff_width,
                dropout=c.dropout,
                activation=c.activation,
                norm=c.norm,
                norm_placement=c.norm_placement,
                bias=c.bias,
                qkv_bias=c.bias and c.qkv_bias,
                qk_norm=c.qk_norm,
            )
            for _ in range(c.n_layers)
        )
        self.norm = NORMS[c.norm](c.d_model)
        self.head = nn.Linear(c.d_model, c.vocab_size, bias=c.head_bias)
        self.init_weights()
        if c.tie_head:  # Press and Wolf (2017), "Using the Output Embedding"
            self.head.weight = self.token_embedding.weight

    @torch.no_grad()
    def init_weights(self) -> None:
        """Small normal numbers; what is added to the residual stream starts smaller.

        "gpt2": standard deviation 0.02, output projections divided by
        sqrt(2 n_layers), biases zero (Radford et al., 2019, section 2.3).
        "zero": output projections and an untied head start at zero, so that each
        block begins as the identity (Zhang et al., 2019, "Fixup"); the other linear
        layers keep the size of their input (uniform with deviation 1/sqrt(inputs)).
        """
        c = self.config
        zero = c.init == "zero"
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            if zero and name.endswith(("output", "head")):
                nn.init.zeros_(module.weight)
            elif zero:
                bound = math.sqrt(3 / module.in_features)
                nn.init.uniform_(module.weight, -bound, bound)
            else:
                shrink = math.sqrt(2 * c.n_layers) if name.endswith("output") else 1.0
                nn.init.normal_(module.weight, std=0.02 / shrink)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_embedding.weight.device

    def n_parameters(self) -> int:
        """How many numbers are learned; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    def new_cache(self, batch_size: int = 1) -> KVCache:
        """An empty cache with room for the whole context."""
        c = self.config
        cache = KVCache(
            c.n_layers,
            batch_size,
            c.n_heads,
            c.context_length,
            c.head_dim,
            like=self.token_embedding.weight,
        )
        if c.norm_placement == "pre":
            cache.quick_step = QuickStep(self)
        if batch_size == 1 and numpy_step.fits(self):
            cache.numpy_step = numpy_step.NumpyStep(self)
        return cache

    def embed(
        self, ids: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"]
    ) -> Float[Tensor, "B T C"]:
        """The vectors that enter the first block."""
        x = self.token_embedding(ids)
        if self.positions is not None:
            x = x + self.positions(positions)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return self.dropout(x)

    def logits(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T V"]:
        """What the vectors `x` say about the next token."""
        return self.softcap(self.head(self.norm(x)))

    def softcap(self, logits: Float[Tensor, "B T V"]) -> Float[Tensor, "B T V"]:
        """Squash logits smoothly into plus or minus `logit_softcap`, if there is one.

        Source: Gemma Team (2024), "Gemma 2", section 2.
        """
        cap = self.config.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    def loss(
        self, x: Float[Tensor, "B T C"], targets: Int[Tensor, "B T"]
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of `logits(x)` at `targets`, in nats per token."""
        head, targets, cap = self.head, targets.flatten(), self.config.logit_softcap
        if type(head) is not nn.Linear:  # an adapter, say: it has its own way
            return F.cross_entropy(self.logits(x).flatten(0, 1).float(), targets)
        vectors = self.norm(x).flatten(0, 1)
        return head_loss(vectors, head.weight, head.bias, targets, cap)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        cache: KVCache | None = None,
        mask: Bool[Tensor, "B 1 T T"] | None = None,
        positions: Int[Tensor, "*B T"] | None = None,
        targets: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"] | Float[Tensor, ""]:
        """Logits for the token after each of `ids`; with `targets`, their loss.

        Args:
            ids: token ids, at most context_length (with those in `cache`).
            cache: keys and values of earlier tokens; `ids` are added to it.
            mask: who sees whom; causal if not given. Not together with `cache`.
            positions: place of each token, from 0; counted on if not given.
            targets: the tokens that came; -100 does not count.

        Raises:
            ValueError: more tokens than context_length.
        """
        past, n_new = (cache.length if cache else 0), ids.size(1)
        if past + n_new > self.config.context_length:
            raise ValueError(
                f"{past + n_new} tokens, but the context holds "
                f"{self.config.context_length}"
            )
        usual = positions is None and not self.training
        if cache and cache.quick_step and past and n_new == 1 and usual:
            if cache.numpy_step and not torch.is_grad_enabled():
                return cache.numpy_step(int(ids), cache)
            return cache.quick_step(ids, cache)
        if positions is None:
            positions = torch.arange(past, past + n_new, device=ids.device)
        is_causal = mask is None and not past
        if past and n_new > 1:
            mask = causal_mask(n_new, past + n_new).to(ids.device)
        rotate = self.rotary and partial(self.rotary, positions=positions)
        recompute = self.recompute and self.training
        x = self.embed(ids, positions)
        for layer, block in enumerate(self.blocks):
            extend = cache and partial(cache.extend, layer)
            go = partial(checkpoint, block, use_reentrant=False) if recompute else block
            x = go(x, mask=mask, is_causal=is_causal, rotate=rotate, extend=extend)
        if cache:
            cache.advance(n_new)
        return self.logits(x) if targets is None else self.loss(x, targets)
