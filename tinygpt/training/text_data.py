"""A text to train on: its tokens, split, and how well a model predicts them.

`measure` compares the model with predictors that need no network. What it leaves out:
reading texts (see `text.corpora`), batches (see `text.dataset`).
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from tinygpt.errors import require
from tinygpt.generation.generate import generate
from tinygpt.model.gpt import GPT
from tinygpt.text.bpe import END_OF_TEXT
from tinygpt.text.bpe_training import learn_vocabulary
from tinygpt.text.dataset import (
    MOST_VALIDATION,
    Tokens,
    require_long_enough,
    split_at_document,
    whole_split,
)
from tinygpt.text.documents import encode_documents, split_text
from tinygpt.text.joined_tokens import find_tokens, open_joined, val_beside
from tinygpt.text.token_file import HEADERLESS, open_tokens, read_head
from tinygpt.text.tokenizer import TOKENIZER_NAMES, Tokenizer, get_tokenizer
from tinygpt.training.evaluation import Evaluation, baselines, evaluate, longest_copy

MOST_KNOWN = 1_000_000  # tokens that the baselines and the memorisation report take


class TextData:
    """A text as token ids, the first 90 % to train on, the rest to validate.

    A text is split between two documents, a text in one piece between two characters
    (see `split_text`, and `split_at_document` for token files). nanoGPT's val.bin
    validates what its train.bin trains.
    """

    def __init__(self, name: str, tokenizer: Tokenizer, context_length: int) -> None:
        """Read the text `name` (see `corpora.load_text`) and split its tokens.

        The training part of token files stays on disk.

        Raises:
            UserError: the text cannot be read, or is too short.
        """
        self.name, self.tokenizer = name, tokenizer
        self.context_length = context_length
        self.train: Tokens
        if paths := find_tokens(name):
            ids = open_joined(paths, tokenizer)
            if val_path := val_beside(paths):
                held_out = open_tokens(val_path, tokenizer)[:MOST_VALIDATION]
                self.train, self.val = ids, _in_memory(held_out)
                require_long_enough(len(self.train), len(self.val), context_length)
            else:
                cut = split_at_document(ids, context_length, tokenizer.end_of_text)
                self.train, self.val = ids[:cut], _in_memory(ids[cut:])
        else:
            train, val = split_text(name)
            # A text in one piece has no ends to mark.
            separate = len(train) > 1 or len(val) > 1
            self.train = torch.tensor(encode_documents(train, tokenizer, separate))
            self.val = torch.tensor(encode_documents(val, tokenizer, separate))
            require_long_enough(len(self.train), len(self.val), context_length)

    def __str__(self) -> str:
        n_train, n_val = len(self.train), len(self.val)
        return f"{n_train:,} training and {n_val:,} validation tokens of {self.name}"

    @property
    def n_tokens(self) -> int:
        """Tokens of the training part."""
        return len(self.train)

    @cached_property
    def known(self) -> Int[Tensor, " N"]:
        """The training part; of a large text, the last million tokens."""
        return _in_memory(self.train[-MOST_KNOWN:])

    @cached_property
    def train_text(self) -> str:
        """The text of the tokens that are `known`."""
        return self.tokenizer.decode(self.known.tolist())

    def evaluate(
        self, model: nn.Module, windows: int | None = None, batch_size: int = 16
    ) -> Evaluation:
        """The model's loss on the whole validation split, or on `windows` of it.

        The sample's windows are spread evenly, and are the same every time.
        """
        device = next(model.parameters()).device
        n_windows = len(self.val) // self.context_length
        whole = windows is None or windows >= n_windows
        if whole:
            batches = whole_split(self.val, self.context_length, batch_size)
        else:
            last = len(self.val) - self.context_length - 1
            starts = torch.linspace(0, last, windows or 1).long()
            index = starts.unsqueeze(1) + torch.arange(self.context_length + 1)
            taken = self.val[index]  # [windows, T + 1]
            batches = ((t[:, :-1], t[:, 1:]) for t in taken.split(batch_size))
        on_device = ((x.to(device), y.to(device)) for x, y in batches)
        result = evaluate(model, on_device, self.tokenizer.byte_lengths)
        return replace(result, whole_split=whole)

    def opening(self, words: str = "") -> str:
        """Words to go on from, as much of them as 16 tokens and the context hold.

        The first two words of a document, a line or a sentence, as early as possible in
        the validation part; or `words`, if they are given.
        """
        if not words:
            text = self.tokenizer.decode(self.val[:500].tolist())
            text = text.partition(END_OF_TEXT)[0].lstrip("\N{REPLACEMENT CHARACTER}")
            last = _in_memory(self.train[-1:]).tolist()
            whole = last == [self.tokenizer.end_of_text]  # of a document
            begins = None if whole else re.search(r"(?:\n|[.!?] )\s*(?=\S)", text)
            found = re.search(r"\S+(?: \S+)?", text[begins.end() if begins else 0 :])
            words = found[0][:40] if found else ""
        while len(self.tokenizer.encode(words)) > min(16, self.context_length):
            words = words[:-1]
        return words

    def baselines(self) -> dict[str, float]:
        """Bits per byte of predictors without a network on the validation split."""
        t = self.tokenizer
        return baselines(self.known, self.val, t.vocab_size, t.decode_bytes)


def tokenizer_for(name: str, data: str) -> Tokenizer:
    """The tokenizer `name` for the text `data`.

    "auto" learns one from the training part; for token files it is the one that made
    the first.

    Raises:
        UserError: the tokenizer is unknown, or the text cannot be read.
    """
    if name != "auto":
        return get_tokenizer(name)
    if paths := find_tokens(data):
        require(
            paths[0].suffix != HEADERLESS,
            f"{paths[0]} does not say which vocabulary its ids are of: name it with "
            "--tokenizer (nanoGPT's own files are of gpt2)",
        )
        used = read_head(paths[0]).tokenizer
        require(
            used in TOKENIZER_NAMES,
            f"{paths[0]} holds tokens of {used}: name its file with --tokenizer",
        )
        return get_tokenizer(used)
    return learn_vocabulary(split_text(data)[0])


def _in_memory(ids: Tokens) -> Int[Tensor, " N"]:
    """The ids as a tensor of int64."""
    return torch.from_numpy(np.asarray(ids).astype(np.int64))


def measure(
    source: str, model: GPT, tokenizer: Tokenizer, data: str, seed: int
) -> Iterator[str]:
    """Lines on how good the model `source` is: losses, baselines, memorisation.

    The losses are those on the validation part of the text `data`; `seed` draws the
    sample that is searched for copies of the training part.

    Raises:
        UserError: the text cannot be used.
    """
    text = TextData(data, tokenizer, model.config.context_length)
    loss = text.evaluate(model)
    yield f"{source}, validation part of {data}:"
    yield f"  nats per token  {loss.nats_per_token:8.4f}  ({loss.tokens:,} tokens)"
    yield f"  perplexity      {loss.perplexity:8.2f}"
    yield f"  bits per byte   {loss.bits_per_byte:8.4f}  ({loss.bytes:,} bytes)"
    less = len(text.known) < len(text.train)
    of = f", which know {MOST_KNOWN:,} tokens of the training text" if less else ""
    yield f"Bits per byte of predictors without a network{of}:"
    for kind, bits in text.baselines().items():
        yield f"  {kind:<15} {bits:8.4f}"
    start = text.val[:8].unsqueeze(0)[:, : model.config.context_length]
    tokens = generate(model, start, 200, temperature=0.8, seed=seed)
    sample = tokenizer.decode([int(token) for token in tokens])
    copied = longest_copy(sample, text.train_text)
    yield "Longest run of a 200-token sample that stands word for word in the training"
    yield f"text: {len(copied.split())} words\n  {copied!r}"
