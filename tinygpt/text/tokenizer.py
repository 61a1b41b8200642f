"""The tokenizer: text to token ids and back, by byte-pair encoding.

Encodes, decodes, saves and loads in tiktoken's file format, and fetches OpenAI's
vocabularies by name. No text is out of vocabulary, since every byte is a token. What it
leaves out: how merges apply to a word (see `bpe`) and how they are learned (see
`bpe_training`). `Tokenizer.fast_encoder` encodes many times faster, in Rust.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import regex
import tiktoken

from tinygpt.errors import UserError, require
from tinygpt.files import shipped, why
from tinygpt.text.bpe import (
    END_OF_TEXT,
    GPT2_PATTERN,
    KNOWN_PATTERNS,
    compile_pattern,
    merge_word,
    split_words,
    without_surrogates,
)
from tinygpt.text.vocabulary_file import read_vocabulary, write_vocabulary

# Trained on the first 90 % of the characters of data/sales_handbook.txt. It has not
# seen the validation split, which begins after 90 % of the tokens: that is later in the
# text, because unseen text takes more tokens per character.
DEFAULT_TOKENIZER = "handbook-4k"
# What the shipped models of the course read: see resources/vocabulary.py.
COURSE_TOKENIZER = "course-4k"
SHIPPED_TOKENIZERS = (DEFAULT_TOKENIZER, COURSE_TOKENIZER)

# OpenAI's vocabularies, and the files that tiktoken downloads for each.
_BLOB = "https://openaipublic.blob.core.windows.net/"
_GPT2 = f"{_BLOB}gpt-2/encodings/main/"
OPENAI_FILES = {
    "gpt2": (f"{_GPT2}vocab.bpe", f"{_GPT2}encoder.json"),
    "cl100k_base": (f"{_BLOB}encodings/cl100k_base.tiktoken",),
    "o200k_base": (f"{_BLOB}encodings/o200k_base.tiktoken",),
}
TOKENIZER_NAMES = (*SHIPPED_TOKENIZERS, *OPENAI_FILES)

_CACHED_WORDS = 1 << 18  # English repeats its words; random text must not fill memory
_MOST_IDS = 1 << 22  # far above any vocabulary in use; o200k_base has 200,019 ids
# tiktoken's stack overflows on white space from some 10^6 characters on. A run of twice
# this length contains a whole block.
_BLOCK = 50_000


# --- The tokenizer ----------------------------------------------------------------


@dataclass
class Tokenizer:
    """A vocabulary: text -> ids and back.

    `ranks` maps the bytes of a token to its id, which is also its place in the order
    of merges; `pattern` is the regular expression that splits a text into words (it
    must match every character); `special_tokens` take no part in merges. `vocab_size`
    is the highest id + 1, the number of rows an embedding needs: OpenAI's ids have
    gaps.

    Raises:
        UserError: a single byte has no entry, an id is given twice or is not a whole
            number from 0 to 4,194,303, or the pattern cannot be used.
    """

    name: str
    ranks: dict[bytes, int]
    pattern: str = GPT2_PATTERN
    special_tokens: dict[str, int] = field(default_factory=dict)
    vocab_size: int = field(init=False)

    def __post_init__(self) -> None:
        for b in range(256):
            require(
                bytes([b]) in self.ranks,
                f"Tokenizer {self.name!r} has no entry for the single byte 0x{b:02x}, "
                "so it cannot encode every text: use a complete vocabulary.",
            )
        ids = [*self.ranks.values(), *self.special_tokens.values()]
        for i in ids:
            require(
                type(i) is int and 0 <= i < _MOST_IDS,
                f"Tokenizer {self.name!r} has the id {i!r}: ids are whole numbers from "
                f"0 to {_MOST_IDS - 1:,}.",
            )
        require(
            len(set(ids)) == len(ids),
            f"Tokenizer {self.name!r} gives one id to two tokens.",
        )
        for token in self.special_tokens:
            require(
                bool(token) and without_surrogates(token) == token,
                f"Tokenizer {self.name!r} has the special token {token!r}, which is "
                "not text.",
            )
        self._token_bytes = {i: token for token, i in self.ranks.items()}
        self._token_bytes |= {i: s.encode() for s, i in self.special_tokens.items()}
        self.vocab_size = max(ids) + 1
        self._words = compile_pattern(self.pattern)
        self._cache: dict[str, list[int]] = {}

    @property
    def end_of_text(self) -> int | None:
        """The id of `<|endoftext|>`, or None."""
        return self.special_tokens.get(END_OF_TEXT)

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """The ids of a text.

        With `allow_special`, special tokens written in the text become their ids;
        without, they are text like any other, so that no text read from outside can
        end a document. Surrogates, which UTF-8 cannot represent, follow tiktoken's
        rule: a pair becomes its character, a lone one U+FFFD.

        With GPT-2's vocabulary, "Chapter 1: Building" is [14126, 352, 25, 11819].

        Raises:
            UserError: a pattern of one's own takes too long, or leaves out text.
        """
        pieces = [without_surrogates(text)]
        if allow_special and self.special_tokens:
            longest_first = sorted(self.special_tokens, key=len, reverse=True)
            special = "|".join(map(regex.escape, longest_first))
            pieces = regex.split(f"({special})", pieces[0])
        ids: list[int] = []
        for piece in pieces:
            if allow_special and piece in self.special_tokens:
                ids.append(self.special_tokens[piece])
                continue
            for word in split_words(piece, self._words):
                ids += self._cache.get(word) or self._encode_word(word)
        return ids

    def _encode_word(self, word: str) -> list[int]:
        raw = word.encode("utf-8")
        if raw in self.ranks:  # tiktoken's rule, even if the merges lead elsewhere
            ids = [self.ranks[raw]]
        else:
            ids = [self.ranks[t] for t in merge_word(raw, self.ranks, self.vocab_size)]
        if len(self._cache) < _CACHED_WORDS:
            self._cache[word] = ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids; bytes that are not UTF-8 become U+FFFD.

        Raises:
            UserError: an id is outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids: `decode_bytes(encode(text)) == text.encode()`.

        Raises:
            UserError: an id is outside the vocabulary.
        """
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one id; those of U+FFFD for an id in a gap of the vocabulary.

        A model has a row for such an id, and an untrained one may choose it.

        Raises:
            UserError: the id is outside the vocabulary.
        """
        if not 0 <= id < self.vocab_size:
            raise UserError(
                f"Token id {id} is outside the vocabulary of {self.name!r}, which has "
                f"the ids 0 to {self.vocab_size - 1}: is this the model's tokenizer?"
            )
        return self._token_bytes.get(id, "\N{REPLACEMENT CHARACTER}".encode())

    @cached_property
    def byte_lengths(self) -> list[int]:
        """UTF-8 bytes of text that each id stands for: `vocab_size` numbers.

        0 for special tokens, which are no part of the text, and for ids in a gap: bits
        per byte divides by the bytes of the text alone.
        """
        lengths = [0] * self.vocab_size
        for token, i in self.ranks.items():
            lengths[i] = len(token)
        return lengths

    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merged pairs in the order in which they were learned.

        The ranks hold only the result of each merge. Encoding it with the earlier
        merges alone leaves the two parts.

        Raises:
            UserError: it leaves more than two, so the vocabulary is no list of merges.
        """
        pairs = []
        for token, rank in sorted(self.ranks.items(), key=lambda entry: entry[1]):
            parts = merge_word(token, self.ranks, below=rank)
            if len(parts) == 2:
                pairs.append((parts[0], parts[1]))
            elif len(token) > 1:
                raise UserError(
                    f"Entry {rank} of the tokenizer {self.name!r} is no merge of two "
                    f"earlier ones, but of {parts}: this vocabulary has no merge list."
                )
        return pairs

    def to_tiktoken(self) -> tiktoken.Encoding:
        """The same tokenizer in Rust.

        `encode_ordinary` there gives the ids of `encode`, with three exceptions. The
        two libraries have Unicode tables of their own: characters that one of them
        does not know yet, or classifies differently, may be split into other words
        (tiktoken 0.14 knows Unicode 16, regex 2026.11 a later version, with the letter
        U+088F, for instance). A million white-space characters in a row make tiktoken
        panic. A pattern not among `bpe.KNOWN_PATTERNS` may mean something else in
        Rust. `fast_encoder` avoids all three.
        """
        return self._in_rust(self.pattern)

    def _in_rust(self, pattern: str) -> tiktoken.Encoding:
        return tiktoken.Encoding(
            self.name,
            pat_str=pattern,
            mergeable_ranks=self.ranks,
            special_tokens=self.special_tokens,
        )

    def fast_encoder(self) -> Callable[[str], list[int]]:
        """A function that returns the ids of `encode`, many times faster on new text.

        tiktoken does all the work, except where it would split the text into other
        words or panic (see `to_tiktoken`): there it gets word by word. Python's own
        Unicode table tells which characters are new: up to Python 3.14 it is no newer
        than tiktoken's.
        """
        merge = self._in_rust(r"(?s:.+)").encode_ordinary  # all of a text is one word
        known = self.pattern in KNOWN_PATTERNS
        encode_known = self.to_tiktoken().encode_ordinary if known else merge

        def encode(text: str) -> list[int]:
            blocks = (text[i : i + _BLOCK] for i in range(0, len(text), _BLOCK))
            if (
                known
                and all(unicodedata.category(c) != "Cn" for c in set(text))
                and not any(map(str.isspace, blocks))
            ):
                return encode_known(text)
            words = split_words(without_surrogates(text), self._words)
            return [i for word in words for i in merge(word)]

        return encode

    def save(self, path: str | Path) -> None:
        """Write a .tiktoken file, and a JSON file beside it where that has no room.

        Raises:
            UserError: see `vocabulary_file.write_vocabulary`.
        """
        write_vocabulary(
            Path(path), self.name, self.ranks, self.pattern, self.special_tokens
        )

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a .tiktoken file, and the JSON file beside it if there is one.

        A file cut off between two lines is a valid file with fewer entries; compare
        `vocab_size` with the model's.

        Raises:
            UserError: see `vocabulary_file.read_vocabulary`.
        """
        return cls(*read_vocabulary(Path(path)))


# --- Names ------------------------------------------------------------------------


def get_tokenizer(tokenizer: str | Path | Tokenizer) -> Tokenizer:
    """A tokenizer by name (`TOKENIZER_NAMES`) or from a .tiktoken file.

    A `Tokenizer` is returned as it is. `handbook-4k` and `course-4k` are shipped.
    tiktoken downloads the others on first use and keeps them in TIKTOKEN_CACHE_DIR (or
    the system's temporary folder).

    Raises:
        UserError: the name is unknown, the file bad, or the download failed.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    name = str(tokenizer)
    if name in SHIPPED_TOKENIZERS:
        return Tokenizer.load(shipped(f"{name}.tiktoken"))
    if name in OPENAI_FILES:
        return _from_tiktoken(name)
    try:
        if Path(name).suffix == ".tiktoken" or Path(name).is_file():
            return Tokenizer.load(name)
    except OSError as error:
        raise UserError(f"cannot read {name!r} ({why(error)})") from error
    raise UserError(
        f"There is no tokenizer {name!r}: choose {', '.join(TOKENIZER_NAMES)}, or give "
        "the path of a .tiktoken file."
    )


def _from_tiktoken(name: str) -> Tokenizer:
    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:
        # OSError: requests' errors (no network, 404) or a cache folder that cannot be
        # written. ValueError: the checksum is not what tiktoken expects.
        keys = {u: hashlib.sha1(u.encode()).hexdigest() for u in OPENAI_FILES[name]}
        files = " and ".join(f"{url} as {key}" for url, key in keys.items())
        raise UserError(
            f"Cannot fetch the tokenizer {name!r} ({error}): save {files} in a folder "
            "and name the folder in TIKTOKEN_CACHE_DIR, or use --tokenizer "
            f"{DEFAULT_TOKENIZER}, which needs no network."
        ) from error
    # Private names, since tiktoken has no public access to its tables; they are the
    # constructor's arguments and have not changed since its first release.
    return Tokenizer(
        name, encoding._mergeable_ranks, encoding._pat_str, encoding._special_tokens
    )
