"""Learning a vocabulary: merge the most frequent pair of neighbours, again and again.

`naive_train_bpe` is the algorithm as published; `train_bpe` learns the same merges many
times faster. What it leaves out: text normalisation, special tokens in a training text,
texts that do not fit in memory.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

from tinygpt.errors import UserError
from tinygpt.text.bpe import END_OF_TEXT, GPT2_PATTERN, Pair, count_words, merge_pair
from tinygpt.text.tokenizer import Tokenizer


def naive_train_bpe(
    text: str,
    vocab_size: int,
    pattern: str = GPT2_PATTERN,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
) -> Tokenizer:
    """`train_bpe` in its simplest form: count all pairs again before each merge.

    Source: Sennrich et al. 2016, algorithm 1 (https://arxiv.org/abs/1508.07909).

    Raises:
        UserError: as `train_bpe`.
    """
    words = count_words(text, pattern)
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
    text: str,
    vocab_size: int,
    pattern: str = GPT2_PATTERN,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
) -> Tokenizer:
    """Learn a vocabulary of exactly `vocab_size` entries from the text.

    Ids 0 to 255 are the bytes, then come the merges in the order in which they were
    learned, then the special tokens. Each step merges the most frequent adjacent pair
    within words; of equally frequent pairs the one with the lowest ids wins, so the
    result depends on the text alone. `naive_train_bpe` learns the same; here a merge
    recounts only the words that contain the pair, and a heap finds the next pair.

    Raises:
        UserError: `vocab_size` has no room for the bytes and special tokens, every word
            has become one token before it is reached, or the pattern cannot be used.

    >>> train_bpe("hi hi hi", 259).merges()
    [(b'h', b'i'), (b' ', b'hi')]
    """
    counted = count_words(text, pattern)
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

    while heap and len(vocab) + len(special_tokens) < vocab_size:
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
    return _trained(vocab, vocab_size, pattern, special_tokens)


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
