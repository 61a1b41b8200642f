"""Token ids to text while they come, never half a character.

What it leaves out: choosing the ids (see `generate`).
"""

import codecs
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable


@runtime_checkable
class Decoder(Protocol):
    """What `stream_text` needs of a tokenizer."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token."""


def stream_text(tokens: Iterable[int], tokenizer: Decoder) -> Iterator[str]:
    """Text of `tokens` piece by piece, never half a character.

    Bytes of a character that is not complete wait for the next token; bytes that can
    never be a character come out as the replacement mark U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if piece := decoder.decode(tokenizer.token_bytes(token)):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest
