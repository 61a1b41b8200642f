"""The GPT: token ids in, logits out, and nothing else.

What it leaves out: tokenizers (see `tinygpt.text`), the loss and training (see
`tinygpt.training`), choosing the next token (see `tinygpt.generation`), files.
"""

import math
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinygpt.config import GPTConfig
from tinygpt.model.block import NORMS, TransformerBlock
from tinygpt.model.embeddings import TokenEmbedding
from tinygpt.model.kv_cache import KVCache
from tinygpt.model.masking import causal_mask, require_mask
from tinygpt.model.positional import (
    LearnedPositions,
    RotaryPositions,
    SinusoidalPositions,
)


class GPT(nn.Module):
    """A decoder-only Transformer.

    ids [B, T] -> embeddings [B, T, C] -> n_layers blocks -> norm -> logits [B, T, V].
    `embed`, `blocks` and `logits` are these steps, to stop between them; `features` is
    all of them up to the norm.

    Source: Radford et al. (2019), section 2.3; every switch of `GPTConfig` names its
    own source where it acts.

    >>> model = GPT(GPTConfig(vocab_size=7, context_length=5, d_model=6, n_heads=2))
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 7])
    """

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
        # It makes the logits, and optimizers treat it so. torch says Tensor of any
        # attribute.
        self.head.is_head = True  # type: ignore[assignment]
        self.init_weights()
        if c.tie_head:  # Press and Wolf (2017), "Using the Output Embedding"
            self.head.weight = self.token_embedding.weight

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw the weights; what is added to the residual stream starts smaller.

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
        """The device of the weights."""
        return next(self.parameters()).device

    def n_parameters(self) -> int:
        """The number of learned parameters; a tied head counts once."""
        return sum(p.numel() for p in self.parameters())

    def new_cache(self, batch_size: int = 1) -> KVCache:
        """An empty cache with room for `context_length` tokens of each text."""
        c = self.config
        return KVCache(
            c.n_layers,
            batch_size,
            c.n_heads,
            c.context_length,
            c.head_dim,
            like=next(self.parameters()),
        )

    def embed(
        self, ids: Int[Tensor, "B T"], positions: Int[Tensor, "*B T"]
    ) -> Float[Tensor, "B T C"]:
        """The activations that enter the first block.

        Raises:
            ValueError: an id is outside the vocabulary, or a position outside the
                context (on a GPU, a device-side assertion of PyTorch instead).
        """
        try:
            x = self.token_embedding(ids)
        except IndexError as error:
            last, wrong = self.config.vocab_size - 1, [int(i) for i in ids.aminmax()]
            raise ValueError(
                f"token ids must be in 0..{last}, not {wrong[0]}..{wrong[1]}"
            ) from error
        if self.positions is not None:
            x = x + self.positions(positions)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        return self.dropout(x)

    def logits(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T V"]:
        """What the residual stream `x` predicts: norm, head and softcap."""
        return self.softcap(self.head(self.norm(x)))

    def softcap(self, logits: Float[Tensor, "B T V"]) -> Float[Tensor, "B T V"]:
        """Squash logits smoothly into plus or minus `logit_softcap`, if there is one.

        Source: Gemma Team (2024), "Gemma 2", section 2.
        """
        cap = self.config.logit_softcap
        return cap * torch.tanh(logits / cap) if cap else logits

    def features(
        self,
        ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T C"]:
        """The activations after the final norm, which the head reads.

        Same arguments and errors as `forward`.
        """
        past, n_new = (0 if cache is None else cache.length), ids.size(1)
        self._check_arguments(ids, mask, positions, cache)
        if positions is None:
            positions = torch.arange(past, past + n_new, device=ids.device)
        is_causal = mask is None and not past
        if mask is None and past and n_new > 1:
            mask = causal_mask(n_new, past + n_new).to(ids.device)
        rotate = self.rotary and partial(self.rotary, positions=positions)
        recompute = self.recompute and self.training
        x = self.embed(ids, positions)
        for layer, block in enumerate(self.blocks):
            extend = cache and partial(cache.extend, layer)
            run = (
                partial(checkpoint, block, use_reentrant=False) if recompute else block
            )
            x = run(x, mask=mask, is_causal=is_causal, rotate=rotate, extend=extend)
        if cache is not None:
            cache.advance(n_new)
        return self.norm(x)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits for the token after each of `ids`.

        With S tokens in all, those in `cache` and then the T of `ids`:

        Args:
            ids: token ids.
            mask: True where a query may look, [T, S] or [B or 1, H or 1, T or 1, S];
                instead of the causal mask, also with a filled cache.
            positions: places in the text from 0, [T] or [B, T]; those after the cache
                if not given.
            cache: keys and values of the same texts' earlier tokens; those of `ids` are
                added. Not for backward passes: it is written in place.

        Raises:
            ValueError: more tokens than context_length; an id or a position out of
                range (on a GPU, a device-side assertion of PyTorch instead); mask or
                positions of another shape; a cache made for another number of texts or
                another model.
        """
        return self.softcap(self.head(self.features(ids, mask, positions, cache)))

    def _check_arguments(
        self,
        ids: Tensor,
        mask: Tensor | None,
        positions: Tensor | None,
        cache: KVCache | None,
    ) -> None:
        """Raise ValueError for what broadcasting would take for something else."""
        c, (n_texts, n_new) = self.config, ids.shape
        n_all = n_new + (0 if cache is None else cache.length)
        if n_all > c.context_length:
            raise ValueError(
                f"{n_all} tokens, but the context holds {c.context_length}"
            )
        if positions is not None and positions.shape not in (
            (n_new,),
            (1, n_new),
            (n_texts, n_new),
        ):
            raise ValueError(
                f"positions must be [{n_new}] or [{n_texts}, {n_new}], "
                f"not {list(positions.shape)}"
            )
        if mask is not None:
            require_mask(mask, (n_texts, c.n_heads, n_new, n_all))
        if cache is not None:
            cache.require_model(c.n_layers, c.n_heads, c.head_dim)
            cache.require_room(n_texts, n_new)
