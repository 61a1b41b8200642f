"""The tokenizer: text to token ids and back, by byte-pair encoding.

Encode, decode, save and load in tiktoken's file format, and fetch OpenAI's vocabularies
by name. No text is ever unknown, since every byte is a token. What it leaves out: how
merges act on a word (see `bpe`) and how they are learned (see `bpe_training`).
`Tokenizer.to_tiktoken` is the fast twin in Rust.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import regex
import tiktoken

from tinygpt.errors import UserError
from tinygpt.files import shipped
from tinygpt.text.bpe import (
    END_OF_TEXT,
    GPT2_PATTERN,
    compile_pattern,
    merge_word,
    without_surrogates,
)

# Trained on the first 90 % of the characters of data/sales_handbook.txt. It has not
# seen the validation split: that one begins after 90 % of the tokens, which lies
# later in the text, as unseen text takes more tokens for each character.
DEFAULT_TOKENIZER = "handbook-4k"

# OpenAI's vocabularies, and the files that tiktoken downloads for each.
_BLOB = "https://openaipublic.blob.core.windows.net/"
_GPT2 = f"{_BLOB}gpt-2/encodings/main/"
OPENAI_FILES = {
    "gpt2": (f"{_GPT2}vocab.bpe", f"{_GPT2}encoder.json"),
    "cl100k_base": (f"{_BLOB}encodings/cl100k_base.tiktoken",),
    "o200k_base": (f"{_BLOB}encodings/o200k_base.tiktoken",),
}
TOKENIZER_NAMES = (DEFAULT_TOKENIZER, *OPENAI_FILES)

_CACHED_WORDS = 1 << 18  # English repeats its words; random text must not fill memory


# --- The tokenizer ----------------------------------------------------------------


@dataclass
class Tokenizer:
    """A vocabulary: text -> ids and back.

    `ranks` maps the bytes of a token to its id, which is also its place in the order
    of merges; `pattern` is the regular expression that splits a text into words (it
    must match every character); `special_tokens` stand outside the merges.
    `vocab_size` is the highest id + 1, the rows that an embedding needs, for OpenAI's
    ids have gaps.

    Raises UserError for a byte without entry, an id given twice, or a bad pattern.
    """

    name: str
    ranks: dict[bytes, int]
    pattern: str = GPT2_PATTERN
    special_tokens: dict[str, int] = field(default_factory=dict)
    vocab_size: int = field(init=False)

    def __post_init__(self) -> None:
        for b in range(256):
            if bytes([b]) not in self.ranks:
                raise UserError(
                    f"Tokenizer {self.name!r} has no entry for the single byte "
                    f"0x{b:02x}, so it cannot write every text: use a whole vocabulary."
                )
        self._token_bytes = {i: token for token, i in self.ranks.items()}
        self._token_bytes |= {i: s.encode() for s, i in self.special_tokens.items()}
        if len(self._token_bytes) < len(self.ranks) + len(self.special_tokens):
            raise UserError(f"Tokenizer {self.name!r} gives one id to two tokens.")
        self.vocab_size = max(self._token_bytes) + 1
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
        end a document. Surrogates, which UTF-8 cannot carry, follow tiktoken's rule: a
        pair becomes its character, a lone one U+FFFD.

        With GPT-2's vocabulary, "Chapter 1: Building" is [14126, 352, 25, 11819].
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
            for word in self._words.findall(piece):
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

        Raises UserError for an id outside the vocabulary.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids: `decode_bytes(encode(text)) == text.encode()`."""
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one id; U+FFFD for an id in a gap of OpenAI's vocabularies.

        A model has a row for such an id, and an untrained one may choose it.
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
        """The pairs in the order in which they were merged, recovered from the ranks.

        The ranks hold only what each merge made. Encoding those bytes with the earlier
        merges alone leaves the two parts. Raises UserError if it leaves more.
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
        """The same tokenizer in Rust: equal ids, many times faster on new text."""
        return tiktoken.Encoding(
            self.name,
            pat_str=self.pattern,
            mergeable_ranks=self.ranks,
            special_tokens=self.special_tokens,
        )

    def save(self, path: str | Path) -> None:
        """Write tiktoken's format: one line per entry, the token in base64, its rank.

        The format has no room for name, pattern and special tokens. Where they are not
        what `load` would assume (the file's stem, GPT-2's pattern, `<|endoftext|>`
        behind the last rank) they go into a JSON file of the same stem beside it.
        Each file is put in place whole or not at all. Raises UserError if the folder
        cannot be written, or if that JSON file is there and something else.
        """
        path = Path(path)
        beside = path.with_suffix(".json")
        _read_sidecar(beside)  # never replace a stranger's file
        by_rank = sorted(self.ranks.items(), key=lambda entry: entry[1])
        lines = [base64.b64encode(t) + b" %d\n" % rank for t, rank in by_rank]
        extra = (self.name, self.pattern, self.special_tokens)
        try:
            if extra == (path.stem, GPT2_PATTERN, {END_OF_TEXT: len(self.ranks)}):
                beside.unlink(missing_ok=True)
            else:
                text = json.dumps(dict(zip(_SIDECAR, extra, strict=True)), indent=2)
                _write(beside, text.encode("utf-8"))
            _write(path, b"".join(lines))
        except OSError as error:
            raise UserError(f"Cannot write the tokenizer {path}: {error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read tiktoken's format, and the JSON file beside it if `save` wrote one.

        Without one the name is the file's stem, words are GPT-2's, and
        `<|endoftext|>` comes behind the last rank: OpenAI's files hold no more
        either, so call those by name. A file cut off between two lines is a whole
        file of fewer entries; compare `vocab_size` with the model's.

        Raises UserError for a file that cannot be read, naming the first bad line.
        """
        path = Path(path)
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise UserError(f"Cannot read the tokenizer {path}: {error}.") from error
        ranks: dict[bytes, int] = {}
        for rank, line in enumerate(lines):
            encoded, _, number = line.partition(b" ")
            try:
                token = base64.b64decode(encoded, validate=True)
            except ValueError:
                token = b""
            if not token or token in ranks or number != b"%d" % rank:
                raise UserError(
                    f"Line {rank + 1} of the tokenizer file {path} should hold a new "
                    f"token in base64, a space and {rank}, not {line[:40]!r}: it is "
                    "damaged, or no .tiktoken file."
                )
            ranks[token] = rank
        default = (path.stem, GPT2_PATTERN, {END_OF_TEXT: len(ranks)})
        name, pattern, special = _read_sidecar(path.with_suffix(".json")) or default
        return cls(name, ranks, pattern, special)


# --- Files and names --------------------------------------------------------------

_SIDECAR = ("name", "pattern", "special_tokens")


def _read_sidecar(path: Path) -> tuple[str, str, dict[str, int]] | None:
    """Name, pattern and special tokens beside a tokenizer file; None if there are none.

    Raises UserError if the file is there and `Tokenizer.save` did not write it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, pattern, special = (content[key] for key in _SIDECAR)
        return str(name), str(pattern), {str(s): int(i) for s, i in special.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} should hold {', '.join(_SIDECAR)} of the tokenizer file beside it "
            f"({error!r}): move it away or choose another file name."
        ) from error


def _write(path: Path, content: bytes) -> None:
    """Replace the file in one step, so that nobody ever sees half of it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def get_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """A tokenizer by name (`TOKENIZER_NAMES`) or from a .tiktoken file.

    `handbook-4k` is shipped. tiktoken downloads the others on first use and keeps
    them in TIKTOKEN_CACHE_DIR (or the system's temporary folder).

    Raises UserError for an unknown name, a bad file, or a download that failed.
    """
    name = str(name_or_path)
    if name == DEFAULT_TOKENIZER:
        return Tokenizer.load(shipped(f"{name}.tiktoken"))
    if name in OPENAI_FILES:
        return _from_tiktoken(name)
    if Path(name).suffix == ".tiktoken" or Path(name).is_file():
        return Tokenizer.load(name)
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
    # Private names, since tiktoken has no public way to its tables; they are the
    # constructor's arguments and have not changed since its first release.
    return Tokenizer(
        name, encoding._mergeable_ranks, encoding._pat_str, encoding._special_tokens
    )
