"""How byte-pair encoding splits a text: into words, and a word into tokens.

BPE as in Sennrich et al. 2016, section 3.2 (https://arxiv.org/abs/1508.07909), on bytes
as in GPT-2 (Radford et al. 2019, section 2.2): the text is split into words, and each
word starts as its UTF-8 bytes, of which learned pairs are merged. What it leaves out:
learning the merges (see `bpe_training`), ids for a whole text (see `tokenizer`).
"""

from collections import Counter
from heapq import heappop, heappush
from itertools import pairwise

import regex

from tinygpt.errors import UserError

# GPT-2's words: contractions, then letters, digits or other signs with at most one
# space in front. Of several spaces the last goes to the word behind them.
GPT2_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
END_OF_TEXT = "<|endoftext|>"

Pair = tuple[int, int]
Word = tuple[int, ...]


# --- Training ---------------------------------------------------------------------


def count_words(text: str, pattern: str = GPT2_PATTERN) -> Counter[Word]:
    """How often each word of the text occurs, the word as its bytes.

    Raises UserError for a `pattern` that is no regular expression.

    >>> count_words("hi hi hi")
    Counter({(32, 104, 105): 2, (104, 105): 1})
    """
    words = Counter(compile_pattern(pattern).findall(without_surrogates(text)))
    return Counter({tuple(word.encode("utf-8")): n for word, n in words.items()})


def merge_pair(word: Word, pair: Pair, new_id: int) -> Word:
    """Replace the pair by the new id, from left to right.

    >>> merge_pair((97, 97, 97, 98), (97, 97), 256)
    (256, 97, 98)
    """
    merged, i = [], 0
    while i < len(word):
        found = word[i : i + 2] == pair
        merged.append(new_id if found else word[i])
        i += 2 if found else 1
    return tuple(merged)


# --- Encoding one word ------------------------------------------------------------


def merge_steps(word: bytes, ranks: dict[bytes, int]) -> list[list[bytes]]:
    """All states of a word on its way from bytes to tokens, one merge at a time.

    Each step merges the pair of neighbours that was learned first (the lowest rank),
    the leftmost of several. Quadratic in the length of the word.

    >>> merge_steps(b"hi", {b"h": 104, b"i": 105, b"hi": 256})
    [[b'h', b'i'], [b'hi']]
    """
    states = [[bytes([b]) for b in word]]
    while True:
        parts = states[-1]
        pairs = [(ranks.get(a + b), i) for i, (a, b) in enumerate(pairwise(parts))]
        known = [(rank, i) for rank, i in pairs if rank is not None]
        if not known:
            return states
        _, i = min(known)
        states.append([*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]])


def merge_word(word: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """The last state of `merge_steps`, with merges of a rank under `below` only.

    A heap and a linked list keep a word of n bytes at O(n log n): a text without a
    space, or in bad faith, is one long word.
    """
    n = len(word)
    end = list(range(1, n + 1))  # the part that begins at i ends at end[i]; 0: gone
    left = list(range(-1, n))  # where the part left of the one at i begins
    fresh = list(range(n))  # the parts whose pair with the right neighbour is new
    heap: list[tuple[int, int, int]] = []  # pairs: rank, begin, end
    while fresh or heap:
        if fresh:
            i = fresh.pop()
            if i >= 0 and end[i] < n:
                stop = end[end[i]]
                if (rank := ranks.get(word[i:stop], below)) < below:
                    heappush(heap, (rank, i, stop))
            continue
        _, i, stop = heappop(heap)
        middle = end[i]
        if middle in (0, n) or end[middle] != stop:
            continue  # one of the two has been merged with another in the meantime
        end[i], end[middle], left[stop] = stop, 0, i
        fresh = [i, left[i]]
    return [word[i:stop] for i, stop in enumerate(end) if stop]


def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """The compiled pattern; raises UserError if it is no pattern, or has groups."""
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise UserError(f"Cannot use the pattern {pattern!r}: {error}.") from error
    if compiled.groups:  # findall would return the groups in place of the words
        raise UserError(f"Write the groups in the pattern {pattern!r} as (?:...).")
    return compiled


def without_surrogates(text: str) -> str:
    """The text without surrogates, by tiktoken's rule (`Encoding.encode_ordinary`)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
