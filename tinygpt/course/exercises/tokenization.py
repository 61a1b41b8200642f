"""The exercises of chapter 01, tokenization: solutions, cases, and likely mistakes."""

from collections import Counter

from tinygpt.course.exercises import Exercise, Mistake, instead


def count_pairs(ids: list[int]) -> dict[tuple[int, int], int]:
    """How often each pair of neighbours occurs."""
    counts = Counter()  # type: ignore[var-annotated]
    for i in range(len(ids) - 1):
        counts[ids[i], ids[i + 1]] += 1
    return dict(counts)


def merge(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    """Replace the pair by the new id, from left to right."""
    merged, i = [], 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1
    return merged


def _merge_first_only(ids: list[int], pair: tuple[int, int], new_id: int) -> list[int]:
    for i in range(len(ids) - 1):
        if tuple(ids[i : i + 2]) == pair:
            return [*ids[:i], new_id, *ids[i + 2 :]]
    return list(ids)


def bytes_per_token(text: str, ids: list[int]) -> float:
    """UTF-8 bytes of the text that one token carries on average."""
    return len(text.encode("utf-8")) / len(ids)


Merges = list[tuple[str, str]]


def encode_word(word: str, merges: Merges) -> list[str]:
    """The parts of a word after all merges, done in the order of learning."""
    parts = list(word)
    for pair in merges:
        parts = _merge_parts(parts, pair)
    return parts


def _merge_parts(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged, i = [], 0
    while i < len(parts):
        found = tuple(parts[i : i + 2]) == pair
        merged.append("".join(pair) if found else parts[i])
        i += 2 if found else 1
    return merged


def _encode_longest(word: str, merges: Merges) -> list[str]:
    known = {*word, *("".join(pair) for pair in merges)}
    parts = []
    while word:
        part = max((k for k in known if word.startswith(k)), key=len)
        parts.append(part)
        word = word[len(part) :]
    return parts


def _encode_backwards(word: str, merges: Merges) -> list[str]:
    return encode_word(word, merges[::-1])


def _encode_each_once(word: str, merges: Merges) -> list[str]:
    parts = list(word)
    for pair in merges:
        for i in range(len(parts) - 1):
            if tuple(parts[i : i + 2]) == pair:
                parts[i : i + 2] = ["".join(pair)]
                break
    return parts


def window(ids: list[int], start: int, length: int) -> tuple[list[int], list[int]]:
    """Inputs and targets: each target is the id that follows its input."""
    x = ids[start : start + length]
    y = ids[start + 1 : start + length + 1]
    return x, y


EXERCISES = [
    Exercise(
        name="tokenization.count_pairs",
        solution=count_pairs,
        cases=(([1, 2, 3, 1, 2],), ([7, 7, 7, 7],), ([5],)),
        mistakes=(
            Mistake(
                instead(count_pairs, "for i in range(0, len(ids) - 1, 2):"),
                "your pairs do not overlap: in [1, 2, 3] both (1, 2) and (2, 3) count.",
            ),
            Mistake(
                instead(count_pairs, "for i in range(-1, len(ids) - 1):"),
                "you also pair the last id with the first, but a text does not wrap "
                "around.",
            ),
            Mistake(
                instead(count_pairs, "    counts[ids[i], ids[i + 1]] = 1"),
                "you note each pair once; count how often it occurs.",
            ),
        ),
    ),
    Exercise(
        name="tokenization.merge",
        solution=merge,
        cases=(
            ([1, 2, 3, 1, 2], (1, 2), 9),
            ([7, 7, 7], (7, 7), 8),
            ([4, 5, 6], (1, 2), 9),
        ),
        mistakes=(
            Mistake(
                instead(merge, "    i += 1"),
                "after a merge you must step over both ids: the second half of the "
                "pair is still in your result.",
            ),
            Mistake(
                _merge_first_only,
                "you stop after the first merge; the pair may occur again.",
            ),
            Mistake(
                instead(merge, "while i < len(ids) - 1:"),
                "the last id gets lost when it is not part of a pair.",
            ),
        ),
    ),
    Exercise(
        name="tokenization.encode_word",
        solution=encode_word,
        cases=(
            ("teller", [("e", "l"), ("el", "l")]),
            ("ell", [("l", "l"), ("e", "l"), ("el", "l")]),
            ("banana", [("a", "n")]),
        ),
        mistakes=(
            Mistake(
                _encode_longest,
                "you take the longest token that fits from the left; BPE does the "
                "merges in the order of learning, which may end elsewhere.",
            ),
            Mistake(
                _encode_backwards,
                "you begin with the merge that was learned last; it needs the parts "
                "that the earlier ones make.",
            ),
            Mistake(
                _encode_each_once,
                "you do each merge once, but its pair may occur several times in a "
                "word.",
            ),
        ),
    ),
    Exercise(
        name="tokenization.bytes_per_token",
        solution=bytes_per_token,
        cases=(("déjà vu", [1, 2]), ("sell", [4])),
        mistakes=(
            Mistake(
                lambda text, ids: len(text) / len(ids),
                "you count characters; é and à take two bytes each in UTF-8.",
            ),
            Mistake(
                lambda text, ids: len(ids) / len(text.encode("utf-8")),
                "that is tokens per byte: it is upside down.",
            ),
            Mistake(
                lambda text, ids: len(text.encode("utf-8")) // len(ids),
                "// throws the fraction away: divide with /.",
            ),
        ),
    ),
    Exercise(
        name="tokenization.window",
        solution=window,
        cases=(([5, 6, 7, 8, 9], 1, 3), ([3, 1, 4, 1, 5, 9, 2], 0, 5)),
        mistakes=(
            Mistake(
                instead(window, "y = ids[start : start + length]"),
                "your targets are the inputs themselves: a model could copy them. "
                "Begin the targets one id later.",
            ),
            Mistake(
                instead(window, "return y, x"),
                "your inputs come after their targets: x begins at start, y at "
                "start + 1.",
            ),
            Mistake(
                instead(window, "y = x[1:]"),
                "you have one target too few: the last input needs a next id too, so "
                "read length + 1 ids.",
            ),
        ),
    ),
]
