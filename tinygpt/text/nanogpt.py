"""A text as nanoGPT's token files: train.bin and val.bin, ids of two bytes and no more.

They have no header, so whoever reads them must know the vocabulary (nanoGPT takes
GPT-2's for granted). What it leaves out: reading them (see `token_file`,
`joined_tokens`).

Source: data/openwebtext/prepare.py and `get_batch` in train.py of
https://github.com/karpathy/nanoGPT.
"""

from pathlib import Path

from tinygpt.errors import UserError, require
from tinygpt.files import exists, why, write_atomically
from tinygpt.text.dataset import split_at_document
from tinygpt.text.joined_tokens import TRAIN, VAL
from tinygpt.text.token_file import SUFFIX, open_tokens, prepare_tokens
from tinygpt.text.tokenizer import Tokenizer


def prepare_bins(
    name: str,
    out: Path,
    tokenizer: Tokenizer,
    workers: int = 1,
    show_progress: bool = False,
) -> tuple[int, int]:
    """Write a text (see `load_documents`) to `out`, a train.bin, and val.bin beside it.

    They hold the ids of `prepare_tokens`, cut as `split_at_document` cuts them, and
    like that a killed call is continued. The numbers of tokens come back.

    Raises:
        UserError: as `prepare_tokens`; an id may not fit into two bytes.
    """
    require(out.name == TRAIN, f"nanoGPT's file is called {TRAIN}, not {out.name!r}")
    require(
        tokenizer.vocab_size <= 1 << 16,
        f"nanoGPT's ids have two bytes, and {tokenizer.name} has "
        f"{tokenizer.vocab_size:,} entries: choose a --tokenizer with 65,536 at most",
    )
    val = out.with_name(VAL)
    for path in (out, val):
        require(not exists(path), f"{path} is there already: choose another folder")
    whole = out.with_name(f".nanogpt{SUFFIX}")
    try:
        out.parent.mkdir(exist_ok=True)
        whole.unlink(missing_ok=True)  # a killed call may have come so far
    except OSError as error:
        raise UserError(f"cannot write {out} ({why(error)})") from error
    told = prepare_tokens(name, whole, tokenizer, workers, show_progress)
    try:
        ids = open_tokens(whole, tokenizer)
        cut = split_at_document(ids, 1, tokenizer.end_of_text)
        write_atomically(val, ids[cut:].tofile)
        write_atomically(out, ids[:cut].tofile)
        del ids  # Windows removes no file that is mapped
    finally:
        whole.unlink(missing_ok=True)
    return cut, told.tokens - cut
