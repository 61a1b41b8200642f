"""Learning a vocabulary: merge the most frequent pair of neighbours, again and again.

`naive_train_bpe` is the algorithm as published; `train_bpe` learns the same merges many
times faster. What it leaves out: text normalisation, special tokens in a training text,
texts that do not fit in memory.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

from tinygpt.errors import UserError
from tinygpt.text.bpe import (
    END_OF_TEXT,
    GPT2_PATTERN,
    Pair,
    Word,
    count_words,
    merge_pair,
)
from tinygpt.text.tokenizer import Tokenizer

MOST_TO_LEARN_FROM = 20_000_000  # characters


def naive_train_bpe(
    text: str | Sequence[str],
    vocab_size: int,
    pattern: str = GPT2_PATTERN,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
) -> Tokenizer:
    """`train_bpe` in its simplest form: count all pairs again before each merge.

    Source: Sennrich et al. 2016, algorithm 1 (https://arxiv.org/abs/1508.07909).

    Raises:
        UserError: as `train_bpe`.
    """
    words = _count(text, pattern)
    vocab = [bytes([b]) for b in range(256)]
    while len(vocab) + len(special_tokens) < vocab_size:
        counts: Counter[Pair] = Counter()
        for word, n in words.items():
            for pair in pairwise(word):
                counts[pair] += n
        if not counts:
            break
        a, b = min(counts, key=lambda pair: (-counts[pair], pair))
        words = Counter({merge_pair(w, (a, b), len(vocab)): words[w] for w in words})
        vocab.append(vocab[a] + vocab[b])
    return _trained(vocab, vocab_size, pattern, special_tokens)


def train_bpe(
    text: str | Sequence[str],
    vocab_size: int,
    pattern: str = GPT2_PATTERN,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
) -> Tokenizer:
    """Learn a vocabulary of exactly `vocab_size` entries from a text or documents.

    Ids 0 to 255 are the bytes, then come the merges in the order in which they were
    learned, then the special tokens. Each step merges the most frequent adjacent pair
    within words, and so within documents; of equally frequent pairs the one with the
    lowest ids wins, so the result depends on the text alone. `naive_train_bpe` learns
    the same; here a merge recounts only the words that contain the pair, and a heap
    finds the next pair.

    Raises:
        UserError: `vocab_size` has no room for the bytes and special tokens, every word
            has become one token before it is reached, or the pattern cannot be used.

    >>> train_bpe("hi hi hi", 259).merges()
    [(b'h', b'i'), (b' ', b'hi')]
    """
    size = vocab_size - len(special_tokens)
    vocab = _merge(_count(text, pattern), size)
    return _trained(vocab, vocab_size, pattern, special_tokens)


def auto_vocab_size(n_bytes: int) -> int:
    """How many entries suit a training part of `n_bytes` bytes.

    The power of two nearest to a hundredth of them, from 512 to 4,096: a token then
    occurs about 25 times on average, enough to learn what it means. From ten megabytes
    on, 8,192.

    >>> auto_vocab_size(435_000), auto_vocab_size(20_000), auto_vocab_size(20_000_000)
    (4096, 512, 8192)
    """
    if n_bytes >= 10_000_000:
        return 8192
    nearest: int = 2 ** round(math.log2(max(1, n_bytes / 100)))
    return min(4096, max(512, nearest))


def learn_vocabulary(documents: Sequence[str]) -> Tokenizer:
    """The vocabulary that `--tokenizer auto` learns from the training part of a text.

    It is `train_bpe`'s of `auto_vocab_size` entries, called "auto"; a text that has no
    pair left to merge before gives a smaller one. Of a large text only the first 20
    million characters count.
    """
    kept, left = list[str](), MOST_TO_LEARN_FROM
    for document in documents:
        kept.append(document[:left])
        left -= len(kept[-1])
        if not left:
            break
    size = auto_vocab_size(sum(len(document.encode("utf-8")) for document in documents))
    vocab = _merge(_count(kept, GPT2_PATTERN), size - 1)
    tokenizer = _trained(vocab, len(vocab) + 1, GPT2_PATTERN, (END_OF_TEXT,))
    tokenizer.name = "auto"
    return tokenizer


def _count(text: str | Sequence[str], pattern: str) -> Counter[Word]:
    """How often each word occurs in a text or in all documents together."""
    words: Counter[Word] = Counter()
    for document in [text] if isinstance(text, str) else text:
        words.update(count_words(document, pattern))
    return words


def _merge(counted: Counter[Word], size: int) -> list[bytes]:
    """The tokens learned from counted words: `size`, or fewer if no pair is left."""
    words, times = list(counted), list(counted.values())
    vocab = [bytes([b]) for b in range(256)]
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)  # words that have a pair
    for w, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += times[w]
            where[pair].add(w)
    heap = [(-n, pair) for pair, n in counts.items()]
    heapify(heap)

    while heap and len(vocab) < size:
        n, best = heappop(heap)
        if -n != counts[best]:
            continue  # counted again since; the new count has an entry of its own
        changed: set[Pair] = set()
        for w in where.pop(best):
            before, words[w] = words[w], merge_pair(words[w], best, len(vocab))
            for pair in pairwise(before):
                counts[pair] -= times[w]
                changed.add(pair)
            for pair in pairwise(words[w]):
                counts[pair] += times[w]
                where[pair].add(w)
                changed.add(pair)
        for pair in changed:
            if counts[pair]:
                heappush(heap, (-counts[pair], pair))
        vocab.append(vocab[best[0]] + vocab[best[1]])
    return vocab


def _trained(
    vocab: list[bytes], vocab_size: int, pattern: str, special_tokens: Sequence[str]
) -> Tokenizer:
    size = len(vocab) + len(special_tokens)
    if size != vocab_size:
        raise UserError(
            f"A vocab_size of {vocab_size} is out of reach: "
            + (
                f"the text has no pair left to merge at {size}, so take more text."
                if size < vocab_size
                else f"the 256 bytes and the special tokens alone make {size}."
            )
        )
    ranks = {token: rank for rank, token in enumerate(vocab)}
    special = {token: i for i, token in enumerate(special_tokens, len(vocab))}
    return Tokenizer(f"bpe-{size}", ranks, pattern, special)
