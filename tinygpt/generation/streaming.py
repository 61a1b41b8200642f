"""Token ids to text as they are made, in whole characters.

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
    """The text of `tokens` piece by piece, in whole characters.

    Bytes of an incomplete character wait for the next token; bytes that cannot be part
    of a character become the replacement character U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if piece := decoder.decode(tokenizer.token_bytes(token)):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest
