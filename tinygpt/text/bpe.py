"""Byte-pair encoding: how a text becomes words, and a word tokens.

BPE as in Sennrich et al. 2016, section 3.2 (https://arxiv.org/abs/1508.07909), on bytes
as in GPT-2 (Radford et al. 2019, section 2.2): a regular expression splits the text
into words, and each word starts as its UTF-8 bytes, which learned merges join. What it
leaves out: learning the merges (see `bpe_training`), ids of a whole text (see
`tokenizer`).
"""

from collections import Counter
from heapq import heappop, heappush
from itertools import pairwise
from math import prod

import regex

from tinygpt.errors import UserError, require

# GPT-2's words: contractions, then letters, digits or other signs with at most one
# space in front. Of several spaces the last belongs to the word after them.
GPT2_PATTERN = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
# The same, but a digit is a word of its own, and the space before it another: a number
# has the same ids wherever it stands, and can be copied digit by digit.
DIGITS_PATTERN = GPT2_PATTERN.replace(r" ?\p{N}+", r"\p{N}")
OUR_PATTERNS = (GPT2_PATTERN, DIGITS_PATTERN)  # those that other formats can express
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
# Patterns known to run in linear time and to match every character: our two, and those
# of gpt2, cl100k_base and o200k_base as tiktoken writes them.
KNOWN_PATTERNS = (
    *OUR_PATTERNS,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
    r"|\s++$|\s+(?!\S)|\s",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTED}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTED}|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
# Limits for other patterns: compiling nested repeats takes memory without end, and the
# time limit of `split_words` does not stop recursion soon enough.
_LONGEST_PATTERN = 2000  # characters; o200k_base's has 274
_MOST_REPEATS = 10_000  # the product of all numbers in braces
_PLAIN_GROUPS = r"\(\?(?!:|=|!|<=|<!|>|[ims]+:|[ims]+\))"  # what else follows "(?"
_FUZZY = r"\{[^}]*[a-z<][^}]*\}"  # regex's approximate matching
END_OF_TEXT = "<|endoftext|>"

Pair = tuple[int, int]
Word = tuple[int, ...]


# --- Words ------------------------------------------------------------------------


def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """The compiled pattern.

    Raises:
        UserError: it is not a plain regular expression (no recursion, conditions or
            approximate matching), is too long, or has capturing groups.
    """
    if pattern not in KNOWN_PATTERNS:
        _require_plain(pattern)
    try:
        compiled = regex.compile(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"Cannot use the pattern {pattern!r}: {error}.") from error
    if compiled.groups:  # findall would return the groups in place of the words
        raise UserError(f"Write the groups in the pattern {pattern!r} as (?:...).")
    return compiled


def _require_plain(pattern: str) -> None:
    require(
        len(pattern) <= _LONGEST_PATTERN,
        f"The pattern {pattern[:40]!r}... has {len(pattern):,} characters: use one of "
        f"at most {_LONGEST_PATTERN:,}.",
    )
    bare = regex.sub(r"\\[pPNx]\{[^}]*\}|(?s:\\.)", "", pattern)  # without escapes
    counts = regex.findall(r"\{(\d*),?(\d*)\}", bare)
    repeats = prod(max(1, *(int(n[:9] or 1) for n in count)) for count in counts)
    require(
        repeats <= _MOST_REPEATS
        and not regex.search(f"{_PLAIN_GROUPS}|{_FUZZY}", bare),
        f"Cannot use the pattern {pattern!r}: it must be a plain regular expression, "
        f"and its repeats may make {_MOST_REPEATS:,} at most.",
    )


def split_words(text: str, compiled: regex.Pattern[str]) -> list[str]:
    """The words of a text, in order; joined they are the text.

    A pattern from outside may need time exponential in the length of the text: one that
    is not among `KNOWN_PATTERNS` gets half a second and 2 microseconds per character.

    Raises:
        UserError: the pattern takes longer, or does not match every character.

    >>> split_words("It's 2 words", compile_pattern(GPT2_PATTERN))
    ['It', "'s", ' 2', ' words']
    """
    if compiled.pattern in KNOWN_PATTERNS:
        return compiled.findall(text)
    try:
        words = compiled.findall(text, timeout=0.5 + 2e-6 * len(text))
    except (TimeoutError, MemoryError) as error:
        raise UserError(
            f"The pattern {compiled.pattern!r} takes too long to split a text of "
            f"{len(text):,} characters: use a simpler one."
        ) from error
    if sum(map(len, words)) != len(text):
        raise UserError(
            f"The pattern {compiled.pattern!r} leaves out part of the text: it must "
            "match every character."
        )
    return words


def without_surrogates(text: str) -> str:
    """The text without surrogates, by tiktoken's rule (`Encoding.encode_ordinary`)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


# --- Training ---------------------------------------------------------------------


def count_words(text: str, pattern: str = GPT2_PATTERN) -> Counter[Word]:
    """How often each word occurs in the text, the word as its bytes.

    Raises:
        UserError: the pattern cannot be used (see `compile_pattern`, `split_words`).

    >>> count_words("hi hi hi")
    Counter({(32, 104, 105): 2, (104, 105): 1})
    """
    words = split_words(without_surrogates(text), compile_pattern(pattern))
    return Counter({tuple(w.encode("utf-8")): n for w, n in Counter(words).items()})


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
    """Every state of a word on its way from bytes to tokens, one merge at a time.

    Each step merges the adjacent pair that was learned first (the lowest rank), the
    leftmost if it occurs more than once. Quadratic in the length of the word.

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
    """The last state of `merge_steps`, using only merges of a rank below `below`.

    A heap and a linked list make this O(n log n) in the length of the word: a text
    without a space is a single long word.
    """
    n = len(word)
    end = list(range(1, n + 1))  # the part that begins at i ends at end[i]; 0: merged
    left = list(range(-1, n))  # where the part to the left of the one at i begins
    fresh = list(range(n))  # parts whose pair with the right neighbour is not in heap
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
            continue  # one of the two has been merged with another part since
        end[i], end[middle], left[stop] = stop, 0, i
        fresh = [i, left[i]]
    return [word[i:stop] for i, stop in enumerate(end) if stop]
