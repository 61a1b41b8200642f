"""The file of a vocabulary: tiktoken's format, with a JSON file beside it if need be.

A .tiktoken file holds one line per entry, the token in base64 and its rank. It has no
room for name, pattern and special tokens. Where they differ from what `read_vocabulary`
assumes (the file's stem, GPT-2's pattern, `<|endoftext|>` after the last rank) they are
in a JSON file of the same stem. What it leaves out: what a usable vocabulary is, which
`Tokenizer` checks.
"""

import base64
import json
from pathlib import Path

from tinygpt.errors import UserError
from tinygpt.files import read_file, read_json, why, write_atomically
from tinygpt.text.bpe import END_OF_TEXT, GPT2_PATTERN

_SIDECAR = ("name", "pattern", "special_tokens")
_LARGEST_FILE = 1 << 25  # bytes; that of o200k_base has 3.6 million

Ranks = dict[bytes, int]
Special = dict[str, int]


def write_vocabulary(
    path: Path, name: str, ranks: Ranks, pattern: str, special_tokens: Special
) -> None:
    """Write the file, and the JSON file if needed; each is replaced atomically.

    Raises:
        UserError: the folder cannot be written, or a JSON file of that name is there
            and does not belong to a vocabulary.
    """
    beside = path.with_suffix(".json")
    by_rank = sorted(ranks.items(), key=lambda entry: entry[1])
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in by_rank]
    extra = (name, pattern, special_tokens)
    text = json.dumps(dict(zip(_SIDECAR, extra, strict=True)), indent=2)
    try:
        _read_sidecar(beside)  # raises if it is somebody else's file
        if extra == (path.stem, GPT2_PATTERN, {END_OF_TEXT: len(ranks)}):
            beside.unlink(missing_ok=True)
        else:
            write_atomically(beside, lambda part: part.write_bytes(text.encode()))
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise UserError(f"cannot write {beside} ({why(error)})") from error
    write_atomically(path, lambda part: part.write_bytes(b"".join(lines)))


def read_vocabulary(path: Path) -> tuple[str, Ranks, str, Special]:
    """Name, ranks, pattern and special tokens of a file and the JSON file beside it.

    OpenAI's own files come without pattern and special tokens: load those by name.

    Raises:
        UserError: a file cannot be read or is damaged; the sentence names the first
            bad line.
    """
    raw = read_file(path, _LARGEST_FILE)
    try:
        sidecar = _read_sidecar(path.with_suffix(".json"))
    except OSError as error:
        raise UserError(f"cannot read what is beside {path} ({why(error)})") from error
    ranks: Ranks = {}
    for rank, line in enumerate(raw.splitlines()):
        encoded, _, number = line.partition(b" ")
        try:
            token = base64.b64decode(encoded, validate=True)
        except ValueError:
            token = b""
        if not token or token in ranks or number != b"%d" % rank:
            raise UserError(
                f"Line {rank + 1} of the tokenizer file {path} should hold a new token "
                f"in base64, a space and {rank}, not {line[:40]!r}: it is damaged, or "
                "no .tiktoken file."
            )
        ranks[token] = rank
    default = (path.stem, GPT2_PATTERN, {END_OF_TEXT: len(ranks)})
    name, pattern, special_tokens = sidecar or default
    return name, ranks, pattern, special_tokens


def _read_sidecar(path: Path) -> tuple[str, str, Special] | None:
    """Name, pattern and special tokens; None if there is no such file.

    Raises:
        UserError: the file is there and `write_vocabulary` did not write it.
    """
    if not path.exists():
        return None
    content = read_json(path)
    name, pattern, special = (content.get(key) for key in _SIDECAR)
    if not (
        isinstance(name, str)
        and isinstance(pattern, str)
        and isinstance(special, dict)
        and all(type(i) is int for i in special.values())
    ):
        raise UserError(
            f"{path} should hold {', '.join(_SIDECAR)} of the tokenizer file beside "
            "it: move it away or choose another file name."
        )
    return name, pattern, special
