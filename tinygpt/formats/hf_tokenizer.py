"""A byte-pair tokenizer as Hugging Face's tokenizer.json, and back.

`tokenizer_json` describes our `Tokenizer` so that the library tokenizers gives the same
ids; `read_tokenizer` reads such a file if it works as GPT-2's does, or splits words by
another of `bpe.OUR_PATTERNS`, and the older pair of vocab.json and merges.txt where
there is none. One exception: the libraries have Unicode tables
of their own, and split characters that one of them does not know yet into other words
(tokenizers 0.23 knows Unicode 16, regex 2026.11 a later version, with the letter
U+088F, for instance). What it leaves out: every other kind of tokenizer, which it
refuses.
"""

import json
from pathlib import Path
from typing import Any

from tinygpt.errors import UserError, require
from tinygpt.files import read_file, read_json
from tinygpt.formats.model_files import (
    MERGES,
    TOKENIZER,
    VOCABULARY,
    AbsentError,
    Fetch,
)
from tinygpt.text.bpe import END_OF_TEXT, GPT2_PATTERN, OUR_PATTERNS
from tinygpt.text.tokenizer import Tokenizer

# The settings that affect the ids of a text, as GPT-2 has them; None: may be absent.
_SCHEME: dict[tuple[str, str], tuple[Any, ...]] = {
    ("normalizer", "type"): (None,),
    ("pre_tokenizer", "type"): ("ByteLevel",),
    ("pre_tokenizer", "add_prefix_space"): (False,),
    ("pre_tokenizer", "use_regex"): (True, None),
    ("post_processor", "type"): ("ByteLevel", None),
    ("decoder", "type"): ("ByteLevel",),
    ("model", "type"): ("BPE", None),
    ("model", "dropout"): (None, 0),
    ("model", "continuing_subword_prefix"): ("", None),
    ("model", "end_of_word_suffix"): ("", None),
    ("model", "byte_fallback"): (False, None),
    ("model", "ignore_merges"): (False, None),
}

# The form of finetuning/chat.py in transformers' words (Jinja). There, a special token
# that is typed would count as one, so "<|" is taken apart in whatever was said.
SPEAKERS = ("<|user|>", "<|assistant|>", "<|end|>")
_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- set said = message['content'].strip().replace('<|', '< |') -%}"
    "{%- if message['role'] == 'system' -%}{{ said + '\n' }}"
    "{%- else -%}{{ '<|' + message['role'] + '|>' + said + '<|end|>' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def byte_letters() -> dict[int, str]:
    """GPT-2's visible letter for every byte, since JSON has no bytes.

    Visible characters of Latin-1 represent themselves, the other bytes are letters from
    U+0100 on: a space is "Ġ", a line break "Ċ".

    Source: `bytes_to_unicode` in the code of Radford et al. (2019).
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def _spell(token: bytes, letters: dict[int, str]) -> str:
    return token.decode("latin-1").translate(letters)


def _byte_level(use_regex: bool = True) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """What splits a text into words: GPT-2's pattern is built in, others are given."""
    if pattern == GPT2_PATTERN:
        return _byte_level()
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    steps = [split | {"invert": False}, _byte_level(use_regex=False)]
    return {"type": "Sequence", "pretokenizers": steps}


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    letters = byte_letters()
    return [(_spell(a, letters), _spell(b, letters)) for a, b in tokenizer.merges()]


def read_tokenizer(fetch: Fetch, name: str) -> Tokenizer:
    """Our `Tokenizer`, called `name`, from tokenizer.json or vocab.json and merges.txt.

    Raises:
        UserError: there are neither, a file is damaged, or they describe another kind
            of tokenizer.
    """
    try:
        path = fetch(TOKENIZER)
    except AbsentError as neither:
        try:
            path = fetch(VOCABULARY)
        except AbsentError:
            raise neither from None
        return _tokenizer(_older_files(path, fetch), path, name)
    return _tokenizer(read_json(path), path, name)


def _older_files(vocabulary: Path, fetch: Fetch) -> dict[str, Any]:
    """What a tokenizer.json would say in place of vocab.json and the files beside it.

    In vocab.json nothing tells special tokens from others: `<|endoftext|>` is one, and
    what added_tokens.json or tokenizer_config.json add.
    """

    def beside(name: str) -> dict[str, Any]:
        try:
            return read_json(fetch(name))
        except AbsentError:
            return {}

    vocab, options = read_json(vocabulary), beside("tokenizer_config.json")
    special = {END_OF_TEXT: vocab[END_OF_TEXT]} if END_OF_TEXT in vocab else {}
    added = [
        {"content": token, "id": i}
        for token, i in (special | beside("added_tokens.json")).items()
    ]
    path = fetch(MERGES)
    try:
        lines = read_file(path).decode("utf-8").replace("\r\n", "\n").split("\n")
        for i, token in options.get("added_tokens_decoder", {}).items():
            added.append({**token, "id": int(i)})
    except (AttributeError, TypeError, ValueError) as error:
        place = path if isinstance(error, UnicodeDecodeError) else vocabulary.parent
        raise UserError(
            f"{place} holds no tokenizer of GPT-2's kind ({type(error).__name__} "
            f"{error})."
        ) from error
    start = lines[:1] if lines[0].startswith("#version") else []
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": options.get("add_prefix_space", False),
    }
    return {
        "added_tokens": added,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "vocab": vocab,
            "merges": [line for line in lines[len(start) :] if line],
        },
    }


def _tokenizer(raw: dict[str, Any], path: Path, name: str) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes; `path` is for the messages."""
    words = raw.get("pre_tokenizer")
    pattern = next((p for p in OUR_PATTERNS if words == _pre_tokenizer(p)), None)
    other = f"{path} is not a byte-pair tokenizer of GPT-2's kind"
    for (part, key), allowed in _SCHEME.items():
        section = raw.get(part)
        found = section.get(key) if isinstance(section, dict) else section
        if found not in allowed and not (pattern and part == "pre_tokenizer"):
            value = json.dumps(found)[:200]
            raise UserError(f"{other}: its {part} has {key} = {value}.")
    byte_of = {letter: byte for byte, letter in byte_letters().items()}
    greedy = ("lstrip", "rstrip", "single_word")
    try:
        added = raw.get("added_tokens") or []
        special = {token["content"]: token["id"] for token in added}
        takes_more = [t["content"] for t in added if any(map(t.get, greedy))]
        ranks = {
            bytes(byte_of[letter] for letter in token): id
            for token, id in raw["model"]["vocab"].items()
            if token not in special
        }
        listed = [  # "a b" in files from before 2024
            tuple(merge.split(" ") if isinstance(merge, str) else merge)
            for merge in raw["model"]["merges"]
        ]
        if not all(isinstance(token, str) for token in special):
            raise TypeError("the content of an added token is not a string")
        if not all(type(id) is int for id in [*ranks.values(), *special.values()]):
            raise TypeError("an id is not a whole number")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{other}: {type(error).__name__} {error}.") from error
    if takes_more:
        raise UserError(f"{other}: {takes_more[0]} takes more than its own letters.")
    tokenizer = Tokenizer(name, ranks, pattern or GPT2_PATTERN, special)
    if listed != _merges(tokenizer):
        raise UserError(f"{other}: its merges are not in the order of their ids.")
    return tokenizer


def tokenizer_config_json(tokenizer: Tokenizer, context_length: int) -> dict[str, Any]:
    """The content of tokenizer_config.json, which transformers reads beside the other.

    A vocabulary with tokens for the speakers brings the template of a conversation.
    """
    special = tokenizer.special_tokens
    end = END_OF_TEXT if END_OF_TEXT in special else None
    content: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as is
        "model_max_length": context_length,
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,  # as GPT-2's: never needed, but ctranslate2 wants one
        "clean_up_tokenization_spaces": False,
    }
    if all(token in special for token in SPEAKERS):
        content["chat_template"] = _CHAT_TEMPLATE
    return content


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a tokenizer.json with the same ids for every text.

    Special tokens written in a text become their ids there, as with our
    `encode(text, allow_special=True)`.

    Raises:
        UserError: the pattern is not among `bpe.OUR_PATTERNS`, or a special token is
            spelled like an entry.
    """
    require(
        tokenizer.pattern in OUR_PATTERNS,
        f"Tokenizer {tokenizer.name!r} splits words neither as handbook-4k nor as "
        "course-4k does: use one with such a pattern for a model that is to be "
        "exported.",
    )
    letters, special = byte_letters(), tokenizer.special_tokens
    vocab = {_spell(token, letters): id for token, id in tokenizer.ranks.items()}
    if clash := sorted(vocab.keys() & special):
        raise UserError(
            f"The special token {clash[0]!r} is spelled like an entry of the tokenizer "
            f"{tokenizer.name!r}: give it another name."
        )
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": token, **plain, "special": True}
            for token, id in sorted(special.items(), key=lambda entry: entry[1])
        ],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.pattern),
        "post_processor": _byte_level() | {"trim_offsets": False},
        "decoder": _byte_level(),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab | special,
            "merges": _merges(tokenizer),
        },
    }
